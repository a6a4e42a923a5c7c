"""A bounded queue of requests with priorities and deadlines, and the threads that serve it.

What requests are and how they are run is the business of a Runner (runners.py), which the queue is given.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from rnncore.engine.backlog import Backlog
from rnncore.engine.metrics import Metrics
from rnncore.engine.requests import Answer, InlineRequest, Request, Work, resolve
from rnncore.errors import DeadlineError, EngineClosedError, InputError, QueueFullError

__all__ = ["RequestQueue", "Runner", "check_positive"]


class Runner(Protocol):
    """Runs the requests of a RequestQueue. Only ``fits`` is called under the queue's lock.

    name    of the engine, as errors have it
    closed  what errors say of an engine that was shut down
    """

    name: str
    closed: str

    def fits(self, rows: int, steps: int) -> bool:
        """Whether one call may hold requests of n rows in all, the longest of n steps. Short."""

    def is_short(self, work: Any) -> bool:
        """Whether a request is known to be answered sooner than a thread could be woken for it."""

    def run(self, requests: list[Request], metrics: Metrics) -> list[Answer]:
        """Run requests together: the answers of those that are done. The others come again, before any new ones."""

    def forked(self) -> bool:
        """In the child of a fork, where nothing waits: whether requests may be asked for there."""


class RequestQueue:
    """Requests wait here until a thread has the runner run them, several together.

    max_batch  rows with which a batch waits no longer for more
    max_wait   seconds that the first request of a batch waits for others
    max_queue  the requests that may wait
    workers    the threads, started by the first requests

    Thread-safe. What is done under the lock is short; requests are resolved outside of it, since their callbacks may
    call the engine again.
    """

    def __init__(self, runner: Runner, *, max_batch: int, max_wait: float, max_queue: int, workers: int):
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue), ("workers", workers)):
            check_positive(name, value)
        if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not 0 <= max_wait < 3600:
            raise InputError(f"max_wait={max_wait!r}, expected seconds from 0, less than an hour")
        self.runner = runner
        self.max_batch, self.max_queue, self.max_wait, self.workers = max_batch, max_queue, float(max_wait), workers
        self.closed = False
        self._start_empty()
        _QUEUES.add(self)

    def _start_empty(self) -> None:
        """Locks, backlog and threads as if nothing had happened: at first, and in the child of a fork."""
        self.metrics = Metrics()
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._left = threading.Condition(self._lock)
        self._backlog = Backlog()
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads that wait for a batch
        self._inline = False  # whether a caller runs its own request; no thread begins a batch meanwhile

    def after_fork(self) -> None:
        """In the child of a fork: nothing waits, and no thread runs."""
        self._start_empty()
        self.closed = not self.runner.forked() or self.closed

    @property
    def depth(self) -> int:
        """The number of requests that wait."""
        return self._backlog.depth

    @property
    def is_idle(self) -> bool:
        """Whether no thread runs requests."""
        return self._idle == len(self._threads)

    def __repr__(self) -> str:
        closed = ", closed" if self.closed else ""
        return f"<{self.runner.name}: {self.depth} of {self.max_queue} waiting{closed}>"

    # --- callers ----------------------------------------------------------------------------------------------------

    def submit(
        self,
        kind: type[Request],
        work_of: Callable[..., Work],
        x: Any,
        *,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
        at_once: bool = False,
        **options: Any,
    ) -> Any:
        """Put ``work_of(x, **options)`` into the queue, or run it in this thread: a request of that kind.

        at_once  run it here, if nothing waits or runs and the runner says that it is short: an InlineRequest

        Raises InputError, DeadlineError, EngineClosedError, QueueFullError, and what ``work_of`` raises.
        """
        check_priority(priority)
        deadline = as_deadline(timeout, deadline)
        self.check_open()
        work = work_of(x, **options)
        if at_once and self.runner.is_short(work):
            inline = InlineRequest(self, work, priority, deadline)
            if self._begin_inline(inline):
                return self._run_inline(inline)
        request = kind(self, work, priority, deadline)
        with self._lock:
            self._await_place(request, block)
            self._backlog.add(request)
            self.metrics.add(accepted=1)
            if len(self._threads) < self.workers:
                self._start_thread()
            self._arrived.notify()
        return request

    def check_open(self) -> None:
        """EngineClosedError after a shutdown."""
        if self.closed:
            raise EngineClosedError(self.runner.closed)

    def forget(self, request: Request) -> bool:
        """A request was cancelled: whether it still waited."""
        with self._lock:
            if request.taken:
                return False
            self._backlog.remove(request)
            self._left.notify()
            self.metrics.add(cancelled=1)
            return True

    def fail_line(self, line: Hashable, error: BaseException) -> None:
        """Answer the requests of a line that wait with an error."""
        with self._lock:
            dropped = self._backlog.waiting_in(line)
            for request in dropped:
                self._backlog.remove(request)
            self._left.notify(len(dropped))
        self._settle([(request, None, error) for request in self._wanted(dropped)])

    def shutdown(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests, and wait for the threads to end: whether all have. May be called again."""
        dropped = []
        with self._lock:
            self.closed = True
            if not drain:
                dropped = self._backlog.clear()
            self._arrived.notify_all()
            self._left.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        error = EngineClosedError("this Engine was shut down before the request ran")
        wanted = self._wanted(dropped)
        self.metrics.add(dropped=len(wanted))
        resolve([(request, None, error) for request in wanted])
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _await_place(self, request: Request, block: bool) -> None:
        """Return when one more request may wait. Under the lock."""
        while not self.closed and self._backlog.depth >= self.max_queue:
            left = None if request.deadline is None else request.deadline - time.monotonic()
            if not block:
                self.metrics.add(rejected=1)
                raise QueueFullError(f"{self.depth} requests wait, expected fewer than max_queue={self.max_queue}")
            if left is not None and left <= 0:
                self.metrics.add(rejected=1)
                raise DeadlineError("the deadline passed before there was a place in the queue")
            self._left.wait(left)
        self.check_open()

    def _begin_inline(self, request: InlineRequest) -> bool:
        """Whether nothing waits and nothing runs, so that the caller may. If so, _run_inline must follow."""
        with self._lock:
            if self._backlog.depth or self._inline or self.closed or self._idle < len(self._threads):
                return False
            self._inline = True
            self._backlog.add_running(request)
            self.metrics.add(accepted=1)
            return True

    def _run_inline(self, request: InlineRequest) -> InlineRequest:
        try:
            unfinished = self._run([], [request])
            while unfinished:
                unfinished = self._run(unfinished, [])
        finally:
            with self._lock:
                self._inline = False
                if self.depth or self.closed:
                    self._arrived.notify_all()
        return request

    # --- the threads ------------------------------------------------------------------------------------------------

    def _start_thread(self) -> None:
        name = f"rnncore-engine-{len(self._threads)}"
        thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        """Run requests until the queue is closed and empty."""
        unfinished: list[Request] = []
        while (batches := self._next_batch(unfinished)) is not None:
            batch, expired = batches
            self._tell_late(expired)
            unfinished = self._run(unfinished, batch)
            del batches, batch, expired  # results belong to their callers now

    def _next_batch(self, unfinished: list[Request]) -> tuple[list[Request], list[Request]] | None:
        """Wait for requests to run together, and those to be told that they are late; None when all is done."""
        with self._lock:
            while self._inline:
                self._arrived.wait()
            self._idle += 1
            try:
                return self._await_batch(unfinished)
            finally:
                self._idle -= 1

    def _await_batch(self, unfinished: list[Request]) -> tuple[list[Request], list[Request]] | None:
        """As _next_batch, under the lock."""
        expired: list[Request] = []
        backlog = self._backlog
        while True:
            now, depth = time.monotonic(), backlog.depth
            key = backlog.next_key(now, expired)
            left = None if key is None else self._time_left(key, now)
            due = left is not None and left <= 0
            batch = backlog.collect(key, now, self.runner.fits, unfinished, expired) if due else []
            if batch or expired or unfinished:
                self._left.notify(depth - backlog.depth)
                if batch and backlog:  # for another thread
                    self._arrived.notify()
                return batch, expired
            if key is None and self.closed:
                return None
            self._sleep(left)

    def _time_left(self, key: Hashable, now: float) -> float:
        """Seconds that the first request of a key still waits for others; 0 or less if it does not."""
        left = self._backlog.head(key).submitted + self.max_wait - now
        if left > 0 and (self.closed or self._backlog.rows(key) >= self.max_batch):
            return 0.0
        return left

    def _sleep(self, seconds: float | None) -> None:
        """Wait until something comes, and no caller runs its own request."""
        self._arrived.wait(seconds)
        while self._inline:
            self._arrived.wait()

    # --- the work, outside of the lock ------------------------------------------------------------------------------

    def _run(self, unfinished: list[Request], batch: list[Request]) -> list[Request]:
        """Run requests, and resolve those that are done: the others."""
        begun = self._begin(batch)
        if len(begun) < len(batch):
            self._finish([request for request in batch if request not in begun])
        running = unfinished + begun
        if not running:
            return running
        answers = self.runner.run(running, self.metrics)
        if self._backlog.lines:
            self._finish([request for request, _, _ in answers])
        self._settle(answers)
        if len(answers) == len(running):
            return []
        ended = {id(request) for request, _, _ in answers}
        return [request for request in running if id(request) not in ended]

    def _finish(self, requests: list[Request]) -> None:
        """Let the next ones of their lines wait for their turn."""
        with self._lock:
            for request in requests:
                self._backlog.finish(request)

    def _wanted(self, requests: list[Request]) -> list[Request]:
        """Those of the requests that were taken which were not cancelled meanwhile."""
        wanted = [request for request in requests if request.begin()]
        if len(wanted) < len(requests):
            self.metrics.add(cancelled=len(requests) - len(wanted))
        return wanted

    def _begin(self, requests: list[Request]) -> list[Request]:
        """As _wanted, of requests that are run now."""
        now, running = time.monotonic(), self._wanted(requests)
        self.metrics.queued.observe(*(now - request.submitted for request in running))
        return running

    def _settle(self, answers: list[Answer]) -> None:
        """Resolve requests, and count them."""
        now = time.monotonic()
        completed = [request for request, _, error in answers if error is None]
        self.metrics.latency.observe(*(now - request.submitted for request in completed))
        self.metrics.add(completed=len(completed), failed=len(answers) - len(completed))
        resolve(answers)

    def _tell_late(self, requests: list[Request]) -> None:
        late, now = self._wanted(requests), time.monotonic()
        self.metrics.add(expired=len(late))
        waited = ((request, now - request.submitted) for request in late)
        resolve([(one, None, DeadlineError(f"the deadline passed after {s:.3f} s in the queue")) for one, s in waited])


def check_positive(name: str, value: Any) -> None:
    """InputError for all but positive integers."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}, expected a positive integer")


def check_priority(priority: Any) -> None:
    """InputError for all but integers."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InputError(f"priority={priority!r}, expected an integer")


def as_deadline(timeout: float | None, deadline: float | None) -> float | None:
    """The deadline of a request in the time of time.monotonic()."""
    if timeout is not None and deadline is not None:
        raise InputError("timeout and deadline exclude each other")
    given = timeout if timeout is not None else deadline
    if given is None:
        return None
    name = "timeout" if timeout is not None else "deadline"
    if isinstance(given, bool) or not isinstance(given, (int, float)) or given != given:
        raise InputError(f"{name}={given!r}, expected seconds")
    now = time.monotonic()
    end = now + given if timeout is not None else given
    if end <= now:
        raise DeadlineError(f"{name}={given!r} has passed already, expected a time to come")
    return end


_QUEUES: weakref.WeakSet[RequestQueue] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has the queues but not their threads, and their locks as they happened to be."""
    for queue in list(_QUEUES):
        queue.after_fork()


def _at_exit() -> None:
    for queue in list(_QUEUES):
        queue.shutdown()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
