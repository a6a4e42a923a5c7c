"""POST .../infer, which most requests are: plain ASGI, from the body to the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from rnncore.serve.gzipped import Gunzip
from rnncore.serve.middleware import GZIP
from rnncore.serve.openapi import JSON_LENGTH
from rnncore.serve.protocol import parse_infer, write_infer
from rnncore.serve.service import VERSION, ServedModel, Service, Share
from rnncore.serve.service_errors import ServiceError
from rnncore.serve.watch import ClientGone, RequestGuard, Watch

__all__ = ["Inference", "Shortcut"]

JSON_LENGTH_FIELD = JSON_LENGTH.lower().encode()
ENOUGH = 8  # requests of one connection in a row, until it counts as the only one
JSON, BINARY = (b"content-type", b"application/json"), (b"content-type", b"application/octet-stream")


class SoleClient:
    """Whether one connection asks, and has for a while been the only one: then a short call of the model in the event
    loop's thread keeps no other client waiting."""

    def __init__(self):
        self._client: Any = None
        self._count = 0

    def comes_again(self, scope: Any) -> bool:
        """Count a request; whether enough of them came one by one from its connection."""
        client = scope.get("client")
        if client != self._client or client is None or scope["http_version"] == "2":  # that has many at a time
            self._client, self._count = client, 0
        self._count += 1
        return self._count > ENOUGH


class Inference:
    """The answers of a service's models. As an ASGI app, the endpoint of a route with {model} and perhaps {version}.

    Both ways in need what RequestMiddleware puts into scope["state"].
    """

    def __init__(self, service: Service):
        self._service, self._watch = service, Watch(service.limits.read_timeout)
        self._sole_client = SoleClient()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        params = scope["path_params"]
        scope["state"]["route"] = "infer"
        if scope["state"]["owner"] is None:
            raise scope["state"]["refused"]
        await self.answer(self._service.model(params["model"], params.get("version", "")), scope, receive, send)

    async def answer(self, served: ServedModel, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request for this model. Raises ServiceError and what the engines raise, before anything is sent."""
        state = scope["state"]
        state["route"], state["model"] = "infer", served.name
        if state["owner"] is None:
            raise state["refused"]
        with Share(self._service.budget) as share:
            with RequestGuard(self._watch, receive) as guard:
                body = await self._body(state["fields"], receive, share, guard)
                guard.read()
                size = state["fields"].get(JSON_LENGTH_FIELD)
                asked = parse_infer(body, None if size is None else size.decode("latin-1"), served.expected)
                outputs = await served.infer(asked, state["owner"], self._sole_client.comes_again(scope))
            content, json_length = write_infer(served.name, VERSION, asked, outputs)
        headers = [(b"content-length", b"%d" % len(content)), JSON if json_length is None else BINARY]
        if json_length is not None:
            headers.append((JSON_LENGTH_FIELD, b"%d" % json_length))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def end_reading(self) -> None:
        """Refuse bodies that are not complete within a second: the server ends."""
        self._watch.ending = True

    async def _body(self, fields: dict[bytes, bytes], receive: Any, share: Share, guard: RequestGuard) -> bytes:
        """The body, unpacked. What is here is counted against the limits, not what is announced."""
        most = self._service.limits.max_body_size
        announced = fields.get(b"content-length", b"0")
        size = int(announced) if announced.isdigit() else 0
        if size > most:
            raise ServiceError(413, f"a body of {size} bytes, expected at most {most}")
        share.check(size)
        gunzip = Gunzip() if fields.get(b"content-encoding", b"").strip().lower() == GZIP else None
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part, more = message.get("body", b""), message.get("more_body", False)
            guard.received += len(part)
            for piece in (part,) if gunzip is None else gunzip.feed(part):
                size += len(piece)
                if size > most:
                    raise ServiceError(413, f"a body of more than {most} bytes")
                share.reserve(size)
                parts.append(piece)
                if gunzip is not None:
                    await asyncio.sleep(0)  # unpacking keeps the event loop busy
        if gunzip is not None:
            gunzip.end()
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Shortcut:
    """An ASGI app around one: what asks a model that is there goes to it, past the table of routes."""

    def __init__(self, app: Any, service: Service, inference: Inference):
        self._app, self._inference = app, inference
        self._served = {
            f"/v2/models/{name}{version}/infer": served
            for name, served in service.models.items()
            for version in ("", f"/versions/{VERSION}")
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            served = self._served.get(scope["path"].removeprefix(scope.get("root_path", "")))
            if served is not None:
                await self._inference.answer(served, scope, receive, send)
                return
        await self._app(scope, receive, send)
