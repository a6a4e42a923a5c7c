"""Requests that take long: a body that does not come, a client that does not stay.

Most requests are over before anybody looks, and cost an entry in a set: no timer and no task of their own.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from typing import Any

from rnncore.serve.refusals import Refusal

__all__ = ["ClientGone", "Visit", "Watch"]

EVERY = 0.05  # seconds between two looks


class ClientGone(Exception):
    """The client closed the connection before its answer."""


class Visit:
    """A request that is here: a context manager around reading its body and working on it.

    Inside it raises ClientGone when the client closes the connection, and Refusal where the body is not there in time;
    ``read`` says that it is.
    """

    __slots__ = ("_receive", "_round", "_task", "_watching", "_why", "reading", "since")

    def __init__(self, watch: Watch, receive: Any):
        self._receive, self._round, self._task = receive, watch._round(), asyncio.current_task()
        self._watching: asyncio.Task | None = None
        self._why: Exception | None = None
        self.reading, self.since = True, time.monotonic()

    def __enter__(self) -> Visit:
        self._round.enter(self)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._round.visits.discard(self)
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
    """What looks at the visits of each event loop. read_timeout: seconds that a body may take."""

    def __init__(self, read_timeout: float):
        self._read_timeout = read_timeout
        self._rounds: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Round] = weakref.WeakKeyDictionary()
        self._latest: _Round | None = None  # of the loop that asked last, nearly always the only one

    def _round(self) -> _Round:
        loop = asyncio.get_running_loop()
        found = self._latest
        if found is None or found.loop() is not loop:
            found = self._rounds.get(loop)
            if found is None:
                found = self._rounds[loop] = _Round(loop, self._read_timeout)
            self._latest = found
        return found


class _Round:
    """One event loop's visits, and a timer while there are any."""

    def __init__(self, loop: asyncio.AbstractEventLoop, read_timeout: float):
        self.loop, self._read_timeout = weakref.ref(loop), read_timeout
        self._timer: asyncio.TimerHandle | None = None
        self.visits: set[Visit] = set()

    def enter(self, visit: Visit) -> None:
        self.visits.add(visit)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(EVERY, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        for visit in self.visits:
            spent = now - visit.since
            if not visit.reading and spent > EVERY:
                visit.watch()
            elif visit.reading and spent > self._read_timeout:
                visit.end(Refusal(408, f"the body did not arrive within {self._read_timeout:g} s"))
        again = bool(self.visits)
        self._timer = asyncio.get_running_loop().call_later(EVERY, self._look) if again else None
