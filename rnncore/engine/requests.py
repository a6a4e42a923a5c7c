"""Requests and how they are answered: each is its own future.

Whoever takes a request out of the queue, under the queue's lock, resolves it, outside of the lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Generator, Hashable
from concurrent.futures import Future
from typing import Any, Protocol

__all__ = ["Answer", "Awaited", "InlineRequest", "Promise", "Request", "Work", "resolve"]


class Work(Protocol):
    """The checked inputs of a request.

    key   which requests may share a call
    line  requests of one line run one after another, in the order of their submission; None: in no line
    rows steps  how much of a call it takes
    """

    @property
    def key(self) -> Hashable: ...
    @property
    def line(self) -> Hashable | None: ...
    @property
    def rows(self) -> int: ...
    @property
    def steps(self) -> int: ...


class Owner(Protocol):
    """The queue that a request waits in."""

    def forget(self, request: Request) -> bool:
        """Take a cancelled request out: whether it still waited."""


class Request:
    """A request in its queue. ``taken``: it left the queue; only the thread that set it may resolve it."""

    def __init__(self, queue: Owner, work: Work, priority: int, deadline: float | None):
        self.queue, self.priority, self.deadline = queue, priority, deadline
        self.work: Any = work  # what the queue's runner takes
        self.submitted = time.monotonic()
        self.taken = False

    def begin(self) -> bool:
        """Whether it is still wanted; if so, it cannot be cancelled any more."""
        raise NotImplementedError


class Promise(Request, Future):
    """A request that any thread may wait for."""

    def __init__(self, queue: Owner, work: Work, priority: int, deadline: float | None):
        Request.__init__(self, queue, work, priority, deadline)
        Future.__init__(self)

    begin = Future.set_running_or_notify_cancel

    def cancel(self) -> bool:
        """As Future.cancel; a request that waits leaves the queue at once."""
        done = super().cancel()
        if done and self.queue.forget(self):
            self.set_running_or_notify_cancel()  # tells callers that wait for several futures
        return done


class Awaited(Request):
    """A request of the running event loop, to be awaited there once. Cancelling its task cancels it."""

    def __init__(self, queue: Owner, work: Work, priority: int, deadline: float | None):
        super().__init__(queue, work, priority, deadline)
        self.loop = asyncio.get_running_loop()
        self.future = self.loop.create_future()

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            return (yield from self.future)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def begin(self) -> bool:
        return not self.future.cancelled()

    def cancel(self) -> None:
        """Take it out of the queue, if it still waits."""
        self.future.cancel()
        self.queue.forget(self)


class InlineRequest(Request):
    """A request that the calling thread runs itself, before it is awaited."""

    def begin(self) -> bool:
        return True

    _error: BaseException | None

    def set_result(self, result: Any) -> None:
        self._result, self._error = result, None

    def set_exception(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        if self._error is not None:
            raise self._error
        return self._result
        yield  # never: what makes this a generator


Answer = tuple[Any, Any, BaseException | None]  # a request, and its result or error


def resolve(answers: list[Answer]) -> None:
    """Resolve requests: in this thread, or with one call for all of an event loop. Without the queue's lock."""
    loops: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        request, result, error = answer
        if isinstance(request, Awaited):
            loops.setdefault(request.loop, []).append(answer)
        elif error is None:
            request.set_result(result)
        else:
            request.set_exception(error)
    for loop, own in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks are gone
            loop.call_soon_threadsafe(_resolve_in_loop, own)


def _resolve_in_loop(answers: list[Answer]) -> None:
    """In the event loop of these requests."""
    for request, result, error in answers:
        if request.future.done():
            continue  # cancelled while it ran
        if error is None:
            request.future.set_result(result)
        else:
            request.future.set_exception(error)
