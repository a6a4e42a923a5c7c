"""An HTTP connection: its answers are written by one call each, its request heads are bounded in size and time.

A write to a socket is what costs most of all that is done for an answer, and wakes the client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from rnncore.serve.logs import log_request
from rnncore.serve.metrics import AnswerMetrics
from rnncore.serve.middleware import CLOSE, NO_SNIFFING, error_response, new_id
from rnncore.serve.service_errors import ServiceError

__all__ = ["Connection", "answer_bytes"]

FINAL = tuple(b"HTTP/1.1 %d" % kind for kind in (2, 3, 4, 5))  # how the head of an answer begins, but of "100 Continue"
MOST_LINE, MOST_HEAD, MOST_FIELDS = 16 << 10, 64 << 10, 256  # bytes of one line and of all, and header fields
PIECE = 4 << 10  # bytes of a head that are parsed before its size is looked at again
DISCARD_SECONDS = 5.0  # for the rest of a body whose request is answered already
LINGER_SECONDS, LINGER_BYTES = 1.0, 256 << 10  # for reading on after a refused head, so that its client reads why
STALL_SECONDS = 10.0  # without a byte that the client takes, while bytes wait for it
LONG_LINE = f"the request's head has a line of more than {MOST_LINE} bytes, the most that is read"
LONG_HEAD = f"the request's head has more than {MOST_HEAD} bytes, the most that is read"
MANY_FIELDS = f"the request's head has more than {MOST_FIELDS} fields, the most that is read"


class TooLarge(Exception):
    """Raised inside the parser's callbacks."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with bounds on what a client can make it hold.

    config, server_state, app_state   as uvicorn gives them
    metrics        counts the requests that never reach the app
    head_timeout   seconds until the head of a request must be complete
    settled        called with the connection when a request with a valid token was answered
    lost           called with the connection when it is closed

    The head of a request has at most 64 KiB, 16 KiB in a line and 256 fields, or is answered with 431. Of requests sent
    before the answer to the last one, only those of one piece of 4 KiB are parsed, and reading pauses. ``look``
    enforces the deadlines and is called a few times a second, so that a request costs no timer.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        metrics: AnswerMetrics,
        head_timeout: float,
        settled: Callable[[Connection], None],
        lost: Callable[[Connection], None],
    ):
        super().__init__(config, server_state, app_state)
        self._metrics, self._head_timeout = metrics, head_timeout
        self._settled, self._lost = settled, lost
        self.url = b""
        self._in_head, self._begun = True, False  # a head is next; its first byte was parsed
        self._head = self._fields = 0  # bytes and fields of the complete lines of a head, or of a trailer
        self._pending = 0  # bytes parsed since the parser last reported anything: of a line that is incomplete
        self._reported = False
        self._too_large = ""
        self._refusing = False
        self._dropped = 0  # bytes that came after a refused head
        self._held = bytearray()  # received, but not parsed before an answer is complete
        self._due: float | None = None
        self._stalled: tuple[int, float] | None = (
            None  # bytes that wait to be sent, since when their number is the same
        )
        self.known = False  # whether a request with a valid token was answered
        self.unwanted = False  # set before it is made: it is to be closed then

    @property
    def busy(self) -> bool:
        """Whether a request with a valid token is being answered, or bytes of such an answer wait for the client."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and cycle.scope["state"].get("owner") is not None:
            return True
        return self.known and self.transport.get_write_buffer_size() > 0

    # --- the transport's calls ---

    def connection_made(self, transport: Any) -> None:
        if self.unwanted:
            transport.abort()
            return
        super().connection_made(Joining(transport, self.loop))
        self._due = time.monotonic() + self._head_timeout

    def connection_lost(self, error: Exception | None) -> None:
        if self.transport is not None:
            super().connection_lost(error)
        self._held.clear()
        self._lost(self)

    def data_received(self, data: bytes) -> None:
        if self._refusing:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES:
                self.flow.pause_reading()
            return
        if self.pipeline or self._held:
            self._held += data
            self.flow.pause_reading()
            return
        self._parse(data)
        if self._due is None and (self.cycle is None or self.cycle.response_complete):
            self._due = time.monotonic() + self._head_timeout

    def _parse(self, data: bytes) -> None:
        """Parse in pieces, as long as a head is incomplete; what follows a request that must wait is kept."""
        if len(data) <= PIECE:
            self._parse_piece(data)
            return
        rest = memoryview(data)
        while rest and not self._refusing and not self.transport.is_closing():
            if self.pipeline:
                self._held += rest
                self.flow.pause_reading()
                return
            size = PIECE if self._in_head else len(rest)
            self._parse_piece(rest[:size])
            rest = rest[size:]

    def _parse_piece(self, piece: bytes | memoryview) -> None:
        self._reported = False
        super().data_received(piece)
        if self._reported:
            self._pending = 0
            return
        self._pending += len(piece)
        if self._pending > MOST_LINE:
            self._too_large = LONG_LINE
        elif self._in_head and len(self.url) + self._head + self._pending > MOST_HEAD:
            self._too_large = LONG_HEAD
        if self._too_large:
            self.send_400_response(self._too_large)

    # --- the parser's calls ---

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._begun = True
        self._head = self._fields = 0

    def on_url(self, url: bytes) -> None:
        self._reported = True
        super().on_url(url)
        if len(self.url) > MOST_LINE:
            self._refuse_size(LONG_LINE)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reported = True
        size = len(name) + len(value) + 4
        self._head += size
        self._fields += 1
        if size > MOST_LINE:
            self._refuse_size(LONG_LINE)
        if len(self.url) + self._head > MOST_HEAD:
            self._refuse_size(LONG_HEAD)
        if self._fields > MOST_FIELDS:
            self._refuse_size(MANY_FIELDS)
        if self._in_head:  # the fields of a trailer come too late to mean anything
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reported, self._in_head, self._begun = True, False, False
        self._head = self._fields = 0
        self._due = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._reported = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._reported = self._in_head = True
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:
            self._due = None

    def _refuse_size(self, reason: str) -> None:
        self._too_large = reason
        raise TooLarge

    def on_response_complete(self) -> None:
        super().on_response_complete()
        cycle = self.cycle
        if not self.known and cycle.scope["state"].get("owner") is not None:
            self.known = True
            self._settled(self)
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.pause_reading()
        elif self._held:
            held = bytes(self._held)
            self._held.clear()
            self.data_received(held)
        elif cycle.response_complete and cycle.more_body:
            self._due = time.monotonic() + DISCARD_SECONDS

    # --- requests that do not reach the app ---

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn where the parser gives up."""
        if self._too_large:
            self._refuse(ServiceError(431, self._too_large), LINGER_SECONDS)
        else:
            self._refuse(ServiceError(400, "not a request of HTTP/1.1, or a damaged one"))

    def _refuse(self, refusal: ServiceError, linger: float = 0.0) -> None:
        """Answer what was asked before, then this, and close. linger: seconds to read on, and drop what comes."""
        if self._refusing:
            return
        self._refusing = True
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False  # the answer to a complete request comes first, and is the last
            return
        if cycle is None or cycle.response_complete or not cycle.response_started:
            request_id = new_id()
            self._metrics.began()
            self._metrics.ended("http", "other", "", str(refusal.status), 0.0)
            log_request(request_id=request_id, route="other", model="", status=refusal.status, seconds=0.0)
            self.transport.write(answer_bytes(refusal, request_id, self.server_state.default_headers))
        if cycle is not None and not cycle.response_complete:  # whose body is damaged
            cycle.disconnected = True
            cycle.message_event.set()
        if linger:
            self._due = time.monotonic() + linger
        else:
            self.transport.close()

    # --- deadlines ---

    def look(self, now: float, ending: bool) -> None:
        """Close it where it is late. ending: the server is about to end, and waits for no client that takes nothing."""
        if self.transport is None:
            return
        if self._due is not None and now >= self._due and not self.transport.is_closing():
            self._due = None
            if self._begun and not self._refusing:
                self._refuse(ServiceError(408, f"the request's head was not complete within {self._head_timeout:g} s"))
            else:
                self.transport.close()
        waiting = self.transport.get_write_buffer_size()
        if not waiting and not self.transport.is_closing():
            self._stalled = None
        elif self._stalled is None or self._stalled[0] != waiting:
            self._stalled = waiting, now
        elif now - self._stalled[1] > (LINGER_SECONDS if ending else STALL_SECONDS):
            self.transport.abort()


def answer_bytes(refusal: ServiceError, request_id: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The answer to a request that the app does not see; headers: more of them."""
    response = error_response(refusal, request_id)
    ours = [*headers, *response.raw_headers, (b"x-request-id", request_id.encode()), NO_SNIFFING]
    ours = [field for field in ours if field[0] != CLOSE[0]]
    lines = b"".join(b"%s: %s\r\n" % field for field in (*ours, CLOSE))
    return b"".join([STATUS_LINE[refusal.status], lines, b"\r\n", response.body])


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
