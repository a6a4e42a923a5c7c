"""HTTP requests to the service's ASGI app, in this process."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from malformed_requests import Attack, as_pairs
from mutate import change_bytes, change_text_inside
from outcome import WrongResult
from served import models

from rnncore.serve import create_app
from targets._files import stored
from targets._service import errors_logged

__all__ = ["mutate", "run", "seeds"]

LIMIT = 1 << 20
APP = create_app(models(), max_body_size=LIMIT, max_json_size=LIMIT, max_steps=4096, max_sequences=8)
LOOP = asyncio.new_event_loop()
ROUTES = (
    *("GET /", "GET /v2", "GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/tagger", "GET /metrics"),
    *("GET /v2/models/tagger/config", "GET /v2/models/stats", "POST /v2/repository/index", "GET /openapi.json"),
    *("GET /status", "GET /page/page.js", "GET /page/..%2f", "POST /v2/repository/models/tagger/load", "PUT /v2"),
)


def run(data: bytes) -> int:
    """A head as lines, an empty line, a body. An answer below 500, or a 503 or 504; as JSON where it is a refusal."""
    head, _, body = data.partition(b"\n\n")
    lines = head.split(b"\n")
    method, _, path = lines[0].partition(b" ")
    headers = [tuple(line.split(b": ", 1)) for line in lines[1:] if b": " in line]
    path, _, query = path.partition(b"?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method.decode("latin-1"),
        "scheme": "http", "path": path.decode("utf-8", "replace"), "raw_path": path, "query_string": query,
        "root_path": "", "headers": [(name.lower(), value) for name, value in headers],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
    }  # fmt: skip
    pieces = [body[:17], body[17:]] if len(body) % 2 else [body]
    sent: list[dict] = []

    async def receive():
        if pieces:
            piece = pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    with errors_logged() as errors:
        LOOP.run_until_complete(APP(scope, receive, send))
    if errors:
        raise errors[0]
    status = sent[0]["status"]
    answer = b"".join(message.get("body", b"") for message in sent[1:])
    if status >= 500 and status not in (503, 504):
        raise WrongResult(f"status {status}: {answer[:300]!r}")
    if 400 <= status < 500 and set(json.loads(answer)) != {"error", "request_id"}:
        raise WrongResult(f"status {status}: {answer[:300]!r}")
    return 64 * len(data)


def seeds() -> list[bytes]:
    attack = Attack(0)
    found = [f"{line}\nHost: localhost\n\n".encode() for line in ROUTES]
    for _ in range(200):
        path, headers, body, _ = attack.draw()[1]
        if len(body) < 20_000:
            found.append(as_bytes(path, headers, body))
    for binary in (False, True):
        for _ in range(10):
            path, headers, body, _ = attack.packed(*attack.any(binary))
            found.append(as_bytes(path, headers, body))
    return [*found, *stored("http")]


def as_bytes(path: str, headers: Any, body: bytes) -> bytes:
    lines = [f"POST {path}", *(f"{name}: {value}" for name, value in as_pairs(headers))]
    return "\n".join(lines).encode() + b"\n\n" + body


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Most often the body's JSON, with its announced length."""
    head, _, body = data.partition(b"\n\n")
    if rng.random() < 0.15:
        head = change_bytes(head, rng)
    end = body.rfind(b"}") + 1
    mark = b"Inference-Header-Content-Length: "
    for line in head.split(b"\n"):
        if line.startswith(mark) and line[len(mark) :].isdigit():
            end = int(line[len(mark) :])
            text = change_text_inside(body[:end], rng)
            return head.replace(line, mark + str(len(text)).encode()) + b"\n\n" + text + body[end:]
    return head + b"\n\n" + change_text_inside(body[:end], rng) + body[end:]
