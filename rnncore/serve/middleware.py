"""The middleware that every HTTP request goes through: its id, its token, the refusals, a line in the log, a count.

Pure ASGI around the routes, so that nothing is buffered and nothing runs twice.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import re
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.responses import JSONResponse

from rnncore.errors import InputError
from rnncore.serve.logs import LOG, log_request
from rnncore.serve.metrics import AnswerMetrics
from rnncore.serve.service import Service
from rnncore.serve.service_errors import ServiceError, service_error_of
from rnncore.serve.watch import ClientGone

__all__ = ["CLOSE", "GZIP", "LEAST_TOKEN", "NO_SNIFFING", "RequestMiddleware", "Tokens", "error_response", "new_id"]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:\-]{1,128}")
PORT = re.compile(r":[0-9]*\Z")
LEAST_TOKEN = 16
GZIP = b"gzip"
# Fields that say who asks, whom, and how the body is read: two of one kind would be read differently by a proxy.
ONCE = (b"authorization", b"content-encoding", b"host", b"inference-header-content-length")
NO_SNIFFING, CLOSE = (b"x-content-type-options", b"nosniff"), (b"connection", b"close")


class Tokens:
    """Clients that may ask. tokens: any number of secrets, of at least 16 characters each; none: all may.

    An owner is what sequences are bound to: the token, or without tokens the client's address.
    """

    def __init__(self, tokens: Iterable[str] = ()):
        listed = list(tokens)
        for number, token in enumerate(listed, 1):
            if len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
                raise InputError(f"token {number}: expected at least {LEAST_TOKEN} printable characters without spaces")
        self._digests = [_digest(token) for token in listed]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, authorization: str | None, address: str) -> str:
        """The owner of a request. ServiceError without a valid "Bearer TOKEN"."""
        if not self._digests:
            return f"address {address}"
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        matching = [digest for digest in self._digests if hmac.compare_digest(digest, given)]
        if scheme.lower() != "bearer" or not matching:
            raise ServiceError(401, "a token is needed: Authorization: Bearer TOKEN")
        return f"token {matching[0].hex()[:16]}"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


_OURS, _NUMBERS = uuid.uuid4().hex[:16], itertools.count()


def new_id() -> str:
    """An id for a request that has none: of this process, and numbered."""
    return f"{_OURS}{next(_NUMBERS):016x}"


class RequestMiddleware:
    """An ASGI app around one.

    hosts  what a request may call this server, without a port; None: anything. A web page whose name was bound to
           this machine's own address calls it by that name

    ``scope["state"]`` gets request_id, fields (the headers: the first of each name), and owner, or why there is
    none: refused. Every answer carries X-Request-Id;
    while the service drains, Connection: close.
    """

    def __init__(
        self, app: Any, service: Service, tokens: Tokens, metrics: AnswerMetrics, hosts: Iterable[str] | None = None
    ):
        self._app, self._service, self._tokens, self._metrics = app, service, tokens, metrics
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        fields = dict(reversed(list(scope["headers"])))  # of each name the first
        given = fields.get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else new_id()
        state = scope.setdefault("state", {})
        state["request_id"], state["fields"] = request_id, fields
        status = 0

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                ours = [(b"x-request-id", request_id.encode()), NO_SNIFFING]
                if self._service.draining:
                    ours.append(CLOSE)
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        self._metrics.began()
        try:
            self._check(scope, state)
            await self._app(scope, receive, answer)
        except ClientGone:
            status = 499
        except Exception as error:
            refusal = service_error_of(error)
            if refusal.status == 500:
                LOG.exception("internal error", extra={"fields": {"request_id": request_id}})
            if status:
                raise  # an answer has begun: the connection is cut
            await error_response(refusal, request_id)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - start
            model, route = state.get("model", ""), state.get("route", "other")
            self._metrics.ended("http", route, model, str(status), seconds)
            log_request(request_id=request_id, route=route, model=model, status=status, seconds=round(seconds, 6))

    def _check(self, scope: Any, state: dict[str, Any]) -> None:
        fields = state["fields"]
        if len(scope["headers"]) > len(fields):
            names = [name for name, _ in scope["headers"]]
            for name in ONCE:
                if names.count(name) > 1:
                    state["owner"] = None
                    raise ServiceError(
                        400, f"{names.count(name)} header fields {name.decode()!r}, expected at most one"
                    )
        address = scope["client"][0] if scope.get("client") else ""
        try:
            state["owner"] = self._tokens.owner(_text(fields.get(b"authorization", b"")), address)
        except ServiceError as error:
            state["owner"], state["refused"] = None, error
        if self._hosts is not None and PORT.sub("", _text(fields.get(b"host", b""))).lower() not in self._hosts:
            raise ServiceError(421, "this server has another name: see Host")
        encoding = fields.get(b"content-encoding")
        if encoding is not None and encoding.strip().lower() not in (b"identity", GZIP):
            raise ServiceError(415, "Content-Encoding is not supported, expected gzip or none")


def _text(field: bytes) -> str:
    return field.decode("latin-1")


def error_response(refusal: ServiceError, request_id: str, more: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as the protocol has it, with the request's id; more: headers."""
    headers = dict(more or {})
    if refusal.retry_after is not None:
        headers["Retry-After"] = str(refusal.retry_after)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if refusal.status == 408:
        headers["Connection"] = "close"  # the rest of the body may never come
    return JSONResponse({"error": str(refusal), "request_id": request_id}, refusal.status, headers)
