"""An HTTP connection whose answers are written by one call each, their head together with their body.

A write to a socket is what costs most of all that is done for an answer, and wakes the client.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection"]

FINAL = tuple(b"HTTP/1.1 %d" % kind for kind in (2, 3, 4, 5))  # how the head of an answer begins, but of "100 Continue"


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, on a transport that joins what it writes."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(Joining(transport, self.loop))


class Joining:
    """A transport that holds the head of an answer until its body is written, or until the event loop goes on."""

    __slots__ = ("_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport, self._loop = transport, loop
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        head, self._head = self._head, None
        if head is not None:
            self._transport.writelines((head, data))
        elif data.startswith(FINAL):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head is not None:
            self._transport.write(self._head)
            self._head = None
