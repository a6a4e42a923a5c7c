"""Requests that wait for their turn: a bounded queue with priorities and deadlines, and the threads that serve it.

What a request asks for, which requests share a call and how they are answered is left to the engines: engine.py.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import heapq
import itertools
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Generator, Hashable
from concurrent.futures import Future
from typing import Any

from rnncore.engine.metrics import Metrics
from rnncore.errors import DeadlineError, EngineClosedError, InputError, QueueFullError

__all__ = ["Answer", "Promise", "Request", "Requests", "check_positive"]

Entry = tuple[int, int, "Request"]  # (-priority, order, request)


class Request:
    """What waits for its turn. ``taken`` says that it left the queue; only who sets it may answer it."""

    def __init__(self, engine: Requests, job: Any, priority: int, deadline: float | None):
        self.engine, self.job, self.priority, self.deadline = engine, job, priority, deadline
        self.submitted = time.monotonic()
        self.taken = False

    def begin(self) -> bool:
        """Whether it is still wanted; if so, it cannot be cancelled any more."""
        raise NotImplementedError


class Promise(Request, Future):
    """A request that any thread may wait for."""

    def __init__(self, engine: Requests, job: Any, priority: int, deadline: float | None):
        Request.__init__(self, engine, job, priority, deadline)
        Future.__init__(self)

    begin = Future.set_running_or_notify_cancel

    def cancel(self) -> bool:
        """As Future.cancel; a request that waits leaves the queue at once."""
        done = super().cancel()
        if done and self.engine._forget(self):
            self.set_running_or_notify_cancel()  # tells those who wait for several futures
        return done


class Awaited(Request):
    """A request of the running event loop, to be awaited there once. Cancelling who awaits it cancels it."""

    def __init__(self, engine: Requests, job: Any, priority: int, deadline: float | None):
        super().__init__(engine, job, priority, deadline)
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
        self.engine._forget(self)


class Here(Request):
    """A request that the thread which asks answers itself, before anybody awaits it."""

    def begin(self) -> bool:
        return True

    def set_result(self, result: Any) -> None:
        self._result, self._error = result, None

    def set_exception(self, error: BaseException) -> None:
        self._error = error

    def __await__(self) -> Generator[Any, None, Any]:
        if self._error is not None:
            raise self._error
        return self._result
        yield  # never: what makes this a generator


Answer = tuple[Request, Any, BaseException | None]  # a request, and its result or error


class Requests:
    """What the engines share. Subclasses say how requests of one key are chosen (_collect) and answered (_answer).

    Thread-safe. Everything under ``self._lock`` is short; futures are resolved outside of it, since their callbacks
    may call the engine again.
    """

    def __init__(self, *, max_batch: int, max_wait: float, max_queue: int, workers: int):
        for name, value in (("max_batch", max_batch), ("max_queue", max_queue), ("workers", workers)):
            check_positive(name, value)
        if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not 0 <= max_wait < 3600:
            raise InputError(f"max_wait={max_wait!r}, expected seconds from 0, less than an hour")
        self.max_batch, self.max_queue, self.max_wait = max_batch, max_queue, float(max_wait)
        self.workers = workers
        self.metrics = Metrics()
        self._start_empty()
        _ENGINES.add(self)

    def _start_empty(self) -> None:
        """Locks, queue and threads as if nothing had happened: at first, and in the child of a fork."""
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._left = threading.Condition(self._lock)
        self._queues: dict[Hashable, list[Entry]] = {}
        self._order = itertools.count()
        self._depth = self._dead = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._idle = 0  # threads that wait for a batch
        self._here = False  # whether a request is answered by who asked; no thread begins a batch meanwhile

    def _forked(self) -> None:
        """In the child of a fork: nothing waits, and no thread runs."""
        closed = self._closed
        self._start_empty()
        self._closed = closed
        self.metrics = Metrics()

    @property
    def queue_depth(self) -> int:
        """Requests that wait."""
        return self._depth

    def __enter__(self) -> Requests:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._depth} of {self.max_queue} waiting{', closed' if self._closed else ''}>"

    def submit(self, x: Any, **options: Any) -> Future:
        """Ask for something, answered by the future that is returned."""
        return self._ask(Promise, x, **options)

    def ask(self, x: Any, *, at_once: bool = False, **options: Any) -> Awaitable:
        """As submit, but what it returns is awaited in the running event loop, whose tasks wake once for a batch.

        at_once  where nothing waits and nothing runs, and the last request like this one took less than half a
                 millisecond, the model runs in this thread, now: sooner than another thread would wake up
        """
        return self._ask(Awaited, x, at_once=at_once, **options)

    async def infer(self, x: Any, *, block: bool = False, at_once: bool = False, **options: Any) -> Any:
        """What submit's future will have, awaited. Cancelling the task cancels the request.

        block    with a full queue: wait for room, at most until the deadline; other tasks run meanwhile
        at_once  as for ask
        """
        if not block:
            return await self.ask(x, at_once=at_once, **options)
        submit = functools.partial(self.submit, x, block=True, **options)
        submitting = asyncio.get_running_loop().run_in_executor(None, submit)
        try:
            request = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_result)
            raise
        return await asyncio.wrap_future(request)

    def _ask(
        self,
        kind: type[Request],
        x: Any,
        *,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
        at_once: bool = False,
        **what: Any,
    ) -> Any:
        """Check a request, and put it into the queue or answer it here."""
        check_priority(priority)
        deadline = as_deadline(timeout, deadline)
        self._check_open()
        job = self._job(x, **what)
        if at_once and self._is_short(job):
            request = Here(self, job, priority, deadline)
            if self._begin_here(request):
                try:
                    self._answer([request])
                finally:
                    self._end_here()
                return request
        request = kind(self, job, priority, deadline)
        with self._lock:
            self._await_room(request, block)
            self._enqueue(request)
            self._depth += 1
            self.metrics.add(accepted=1)
            if len(self._threads) < self.workers:
                self._start_thread()
            self._arrived.notify()
        return request

    def _job(self, x: Any, **what: Any) -> Any:
        """What is asked for, checked, in arrays that nobody else writes to."""
        raise NotImplementedError

    def _is_short(self, job: Any) -> bool:
        """Whether a job is known to be answered sooner than a thread could be woken for it."""
        return False

    def _begin_here(self, request: Request) -> bool:
        """Whether nothing waits and nothing runs, so that who asks may run the model. If so, _end_here must follow."""
        with self._lock:
            if self._depth or self._here or self._closed or self._idle < len(self._threads):
                return False
            self._here = request.taken = True
            self._place(request)
            self.metrics.add(accepted=1)
            return True

    def _place(self, request: Request) -> None:
        """Under the lock: a request begins without having waited."""

    def _end_here(self) -> None:
        with self._lock:
            self._here = False
            if self._depth or self._closed:
                self._arrived.notify_all()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError(f"this {type(self).__name__} was shut down, expected requests before that")

    def shutdown(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests, and wait for the threads to end. May be called again.

        drain    answer what was accepted; else what waits is answered with EngineClosedError
        timeout  seconds to wait at most

        Returns whether all threads have ended.
        """
        dropped = []
        with self._lock:
            self._closed = True
            if not drain:
                dropped = self._empty()
                for request in dropped:
                    request.taken = True
                self._queues.clear()
                self._depth = self._dead = 0
            self._arrived.notify_all()
            self._left.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        error = EngineClosedError("this Engine was shut down before the request ran")
        wanted = self._wanted(dropped)
        self.metrics.add(dropped=len(wanted))
        _tell([(request, None, error) for request in wanted])
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # --- the queue, under the lock ---

    def _await_room(self, request: Request, block: bool) -> None:
        """Return when there is room for one more request."""
        while not self._closed and self._depth >= self.max_queue:
            left = None if request.deadline is None else request.deadline - time.monotonic()
            if not block:
                self.metrics.add(rejected=1)
                raise QueueFullError(f"{self._depth} requests wait, expected fewer than max_queue={self.max_queue}")
            if left is not None and left <= 0:
                self.metrics.add(rejected=1)
                raise DeadlineError("the deadline passed before there was room in the queue")
            self._left.wait(left)
        self._check_open()

    def _enqueue(self, request: Request) -> None:
        """Give a request its place among those that wait."""
        queue = self._queues.setdefault(request.job.key, [])
        heapq.heappush(queue, (-request.priority, next(self._order), request))

    def _empty(self) -> list[Request]:
        """Every request that waits, which nobody will run now."""
        return [request for queue in self._queues.values() for _, _, request in queue if not request.taken]

    def _withdraw(self, request: Request) -> None:
        """A request that waited is no longer wanted; its place is found empty later."""
        self._dead += 1
        if self._dead > 64 + self._depth:
            self._drop_dead()

    def _start_thread(self) -> None:
        name = f"rnncore-engine-{len(self._threads)}"
        thread = threading.Thread(target=_work, args=(self,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _forget(self, request: Request) -> bool:
        """A request was cancelled: whether it still waited."""
        with self._lock:
            if request.taken:
                return False
            self._take(request)
            self._withdraw(request)
            self.metrics.add(cancelled=1)
            return True

    def _drop_dead(self) -> None:
        for key in list(self._queues):
            left = [entry for entry in self._queues[key] if not entry[2].taken]
            heapq.heapify(left)
            self._queues[key] = left
            if not left:
                del self._queues[key]
        self._dead = 0

    def _head(self, now: float, expired: list[Request]) -> Hashable | None:
        """The key of the request whose turn it is; requests whose deadline passed before it are taken out."""
        best, found = None, None
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and (queue[0][2].taken or self._is_late(queue[0][2], now)):
                request = heapq.heappop(queue)[2]
                if request.taken:
                    self._dead -= 1
                else:
                    self._expire(request, expired)
            if not queue:
                del self._queues[key]
            elif best is None or queue[0][:2] < best:
                best, found = queue[0][:2], key
        return found

    def _take(self, request: Request) -> None:
        request.taken = True
        self._depth -= 1
        self._left.notify()

    def _expire(self, request: Request, expired: list[Request]) -> None:
        self._take(request)
        expired.append(request)

    @staticmethod
    def _is_late(request: Request, now: float) -> bool:
        return request.deadline is not None and request.deadline < now

    def _fits(self, rows: int, steps: int) -> bool:
        """Whether one call may hold requests of so many rows, the longest of so many steps."""
        raise NotImplementedError

    def _collect(self, key: Hashable, now: float, expired: list[Request]) -> list[Request]:
        """As many requests of a key as one call may hold."""
        queue, batch, rows, steps = self._queues[key], [], 0, 0
        while queue:
            request = queue[0][2]
            if request.taken:
                heapq.heappop(queue)
                self._dead -= 1
                continue
            if self._is_late(request, now):
                heapq.heappop(queue)
                self._expire(request, expired)
                continue
            rows, steps = rows + request.job.rows, max(steps, request.job.steps)
            if batch and not self._fits(rows, steps):
                break
            heapq.heappop(queue)
            self._take(request)
            batch.append(request)
        if not queue:
            del self._queues[key]
        return batch

    def _next_batch(self) -> tuple[list[Request], list[Request]] | None:
        """Requests to run together, and those to be told that they are late; None when all is done."""
        with self._lock:
            while self._here:
                self._arrived.wait()
            self._idle += 1
            try:
                return self._await_batch()
            finally:
                self._idle -= 1

    def _await_batch(self) -> tuple[list[Request], list[Request]] | None:
        """As _next_batch, under the lock."""
        expired: list[Request] = []
        while True:
            now = time.monotonic()
            key = self._head(now, expired)
            if key is not None:
                head = self._queues[key][0][2]
                left = head.submitted + self.max_wait - now
                rows = sum(entry[2].job.rows for entry in self._queues[key]) if left > 0 else 0
                if left <= 0 or rows >= self.max_batch or self._closed:
                    batch = self._collect(key, now, expired)
                    if self._queues:  # for another thread
                        self._arrived.notify()
                    return batch, expired
                if expired:
                    return [], expired
                self._sleep(left)
            elif expired:
                return [], expired
            elif self._closed:
                return None
            else:
                self._sleep()

    def _sleep(self, seconds: float | None = None) -> None:
        """Until something comes, and nobody runs a request of their own."""
        self._arrived.wait(seconds)
        while self._here:
            self._arrived.wait()

    # --- the work, outside of it ---

    def _answer(self, requests: list[Request]) -> None:
        """Run requests and resolve them."""
        raise NotImplementedError

    def _wanted(self, requests: list[Request]) -> list[Request]:
        """Those of the requests that were taken which nobody cancelled meanwhile."""
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
        """Results and errors of what ran, to those who wait for them."""
        now = time.monotonic()
        completed = [request for request, _, error in answers if error is None]
        self.metrics.latency.observe(*(now - request.submitted for request in completed))
        self.metrics.add(completed=len(completed), failed=len(answers) - len(completed))
        _tell(answers)

    def _tell_late(self, requests: list[Request]) -> None:
        late, now = self._wanted(requests), time.monotonic()
        self.metrics.add(expired=len(late))
        waited = ((request, now - request.submitted) for request in late)
        _tell([(one, None, DeadlineError(f"the deadline passed after {s:.3f} s in the queue")) for one, s in waited])


def _tell(answers: list[Answer]) -> None:
    """Resolve requests: in the thread that runs, and with one call for all of an event loop."""
    loops: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        request, result, error = answer
        if isinstance(request, Awaited):
            loops.setdefault(request.loop, []).append(answer)
        elif error is None:
            request.set_result(result)
        else:
            request.set_exception(error)
    for loop, found in loops.items():
        with contextlib.suppress(RuntimeError):  # it is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, found)


def _resolve(answers: list[Answer]) -> None:
    """In the event loop of these requests."""
    for request, result, error in answers:
        if request.future.done():
            continue  # whoever waited was cancelled while it ran
        if error is None:
            request.future.set_result(result)
        else:
            request.future.set_exception(error)


def _cancel_result(submitting: asyncio.Future) -> None:
    """Nobody waits any more for a request that a thread has submitted now."""
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()


def check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}={value!r}, expected a positive integer")


def check_priority(priority: Any) -> None:
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
    found = now + given if timeout is not None else given
    if found <= now:
        raise DeadlineError(f"{name}={given!r} has passed already, expected a time to come")
    return found


def _work(engine: Requests) -> None:
    """A thread's life."""
    while (found := engine._next_batch()) is not None:
        batch, expired = found
        engine._tell_late(expired)
        engine._answer(batch)
        del found, batch, expired  # results belong to their callers now


_ENGINES: weakref.WeakSet[Requests] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has the engines but not their threads, and their locks as they happened to be."""
    for engine in list(_ENGINES):
        engine._forked()


def _at_exit() -> None:
    for engine in list(_ENGINES):
        engine.shutdown()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
