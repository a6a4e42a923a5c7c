"""Requests that take long: a body that does not come, a client that does not stay.

Most requests are over before the first look, and cost an entry in a set: no timer and no task of their own.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any, cast

from rnncore.serve.service_errors import ServiceError

__all__ = ["ClientGone", "RequestGuard", "Watch"]

EVERY = 0.05  # seconds between two looks
GRACE, RATE = 5.0, 16 << 10  # seconds that a body may take, and one more for each RATE bytes that came
LEAST = 1.0  # seconds that every body has, also at the end


class ClientGone(Exception):
    """The client closed the connection before its answer."""


class RequestGuard:
    """A context manager around reading a request's body and working on it.

    Inside it raises ClientGone when the client closes the connection, and ServiceError where the body is not complete
    in time; ``read`` says that it is. received: bytes of the body so far.
    """

    __slots__ = ("_receive", "_round", "_task", "_watching", "_why", "reading", "received", "since")

    def __init__(self, watch: Watch, receive: Any):
        self._receive, self._round = receive, watch._round()
        self._task = cast(asyncio.Task, asyncio.current_task())
        self._watching: asyncio.Task | None = None
        self._why: Exception | None = None
        self.reading, self.received, self.since = True, 0, time.monotonic()

    def __enter__(self) -> RequestGuard:
        self._round.enter(self)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._round.guards.discard(self)
        if self._watching is not None:
            self._watching.cancel()
        if self._why is not None and kind is asyncio.CancelledError:
            self._task.uncancel()
            raise self._why from None

    def read(self) -> None:
        """The body is there."""
        self.reading = False

    def end(self, why: Exception) -> None:
        """From outside: it is not worked for any more."""
        if self._why is None:
            self._why = why
            self._task.cancel()

    def watch(self) -> None:
        """End it when the client closes the connection."""
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGone())


class Watch:
    """Looks at the guards of each event loop. read_timeout: seconds that a body may take, however large it is.

    ending: whether bodies that are incomplete are not waited for any more.
    """

    def __init__(self, read_timeout: float):
        self.read_timeout, self.ending = read_timeout, False
        self._rounds: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Round] = weakref.WeakKeyDictionary()
        self._latest: _Round | None = None  # of the loop that asked last, nearly always the only one

    def _round(self) -> _Round:
        loop = asyncio.get_running_loop()
        current = self._latest
        if current is None or current.loop() is not loop:
            current = self._rounds.get(loop)
            if current is None:
                current = self._rounds[loop] = _Round(loop, self)
            self._latest = current
        return current


class _Round:
    """One event loop's guards, and a timer while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, watch: Watch):
        self.loop, self._watch = weakref.ref(loop), watch
        self._timer: asyncio.TimerHandle | None = None
        self.guards: set[RequestGuard] = set()

    def enter(self, guard: RequestGuard) -> None:
        self.guards.add(guard)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for guard in self.guards:
            spent = now - guard.since
            if guard.reading:
                refusal = self._late(guard, spent)
                if refusal is not None:
                    guard.end(refusal)
            elif spent > EVERY:
                guard.watch()
        again = bool(self.guards)
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look) if again else None

    def _late(self, guard: RequestGuard, spent: float) -> ServiceError | None:
        """Why a body is not waited for any more."""
        if self._watch.ending and spent > LEAST:
            return ServiceError(503, "the server is shutting down", retry_after=5)
        if spent > self._watch.read_timeout:
            return ServiceError(408, f"the body did not arrive within {self._watch.read_timeout:g} s")
        if spent > GRACE + guard.received / RATE:
            expected = f"expected at least {RATE} in a second after the first {GRACE:g} s"
            return ServiceError(
                408, f"the body arrives too slowly: {guard.received} bytes in {spent:.1f} s, {expected}"
            )
        return None
