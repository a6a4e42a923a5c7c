"""Engine: requests from many threads or coroutines, answered in batches.

    with rnncore.Engine(model) as engine:
        future = engine.submit(x, timeout=0.1)      # from any thread: a concurrent.futures.Future
        y = future.result()
        y = await engine.infer(x, priority=1)       # from asyncio

It knows nothing of transports. Results are those of the model alone, bit for bit where the model's own results do not
depend on the batch (float32 on the native kernels).
"""

from __future__ import annotations

import asyncio
import atexit
import heapq
import itertools
import os
import threading
import time
import weakref
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Any

from rnncore.batching import Batcher, Job
from rnncore.errors import DeadlineError, EngineClosedError, InputError, QueueFullError
from rnncore.metrics import Metrics
from rnncore.model import Model

__all__ = ["Engine"]

_NO_STATE: Any = type("NoState", (), {"__repr__": lambda self: "<no state>"})()


class _Request(Future):
    """A future with what it asks for. ``taken`` says that it left the queue; only who sets it may finish it."""

    def __init__(self, engine: Engine, job: Job, priority: int, deadline: float | None):
        super().__init__()
        self.engine, self.job, self.priority, self.deadline = engine, job, priority, deadline
        self.submitted = time.monotonic()
        self.taken = False

    def cancel(self) -> bool:
        """As Future.cancel; a request that waits leaves the queue at once."""
        done = super().cancel()
        if done:
            self.engine._forget(self)
        return done


class Engine:
    """Answers requests for a model in batches.

    model      a Model
    max_batch  rows that one call of the model gets at most, though never less than one request
    max_steps  rows times steps of a call at most, likewise: what bounds memory
    max_wait   seconds that the first request of a batch waits for company. 0: a batch is what came while the one
               before ran
    max_queue  requests that may wait; beyond it submit raises QueueFullError, or waits with block=True
    workers    threads that call the model

    Higher priorities go first, equal ones in their order. Requests of one call have sequences of similar length and
    are otherwise alike; a request that makes a batch fail fails alone. Threads start with the first request.
    May be used from any number of threads and event loops. After a fork the child's Engine is empty and works; futures
    from before the fork are the parent's. Shut it down, or use it as a context manager: both wait for what was accepted.

    metrics    Metrics: counts, and histograms of times and batch sizes;  queue_depth  requests that wait
    """

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int = 256,
        max_steps: int = 1 << 18,
        max_wait: float = 0.0,
        max_queue: int = 1024,
        workers: int = 1,
    ):
        if not isinstance(model, Model):
            raise InputError(f"Engine of {type(model).__name__}, expected a Model")
        counts = {"max_batch": max_batch, "max_steps": max_steps, "max_queue": max_queue, "workers": workers}
        for name, value in counts.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}={value!r}, expected a positive integer")
        if isinstance(max_wait, bool) or not isinstance(max_wait, (int, float)) or not 0 <= max_wait < 3600:
            raise InputError(f"max_wait={max_wait!r}, expected seconds from 0, less than an hour")
        self.model, self.max_wait, self.max_queue = model, float(max_wait), max_queue
        self.max_batch, self.max_steps, self.workers = max_batch, max_steps, workers
        self.metrics = Metrics()
        self._batcher = Batcher(model)
        self._start_empty()
        _ENGINES.add(self)

    def _start_empty(self) -> None:
        """Locks, queue and threads as if nothing had happened: at first, and in the child of a fork."""
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._left = threading.Condition(self._lock)
        self._queues: dict[Hashable, list[tuple[int, int, _Request]]] = {}
        self._order = itertools.count()
        self._depth = self._dead = 0
        self._closed = False
        self._threads: list[threading.Thread] = []

    @property
    def queue_depth(self) -> int:
        """Requests that wait."""
        return self._depth

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return f"<Engine: {self._depth} of {self.max_queue} waiting{', closed' if self._closed else ''}>"

    def submit(
        self,
        x: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        state: Any = _NO_STATE,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
    ) -> Future:
        """Ask for ``model(x, state, lengths=..., mask=...)``, or with a mapping for ``model.run(x, state)``.

        x, lengths, mask, state   as the model takes them, copied before submit returns; any number of rows
        priority   an integer; higher ones go first
        timeout    seconds from now until the work must have begun; deadline  the same as a time of time.monotonic().
                   A request that still waits then is answered with DeadlineError
        block      with a full queue: wait for room, at most until the deadline

        Returns a Future of exactly what the model returns. Its cancel() works until the work begins. Raises at once
        InputError and StateError, QueueFullError, DeadlineError for a deadline that has passed, EngineClosedError.
        """
        if isinstance(priority, bool) or not isinstance(priority, int):
            raise InputError(f"priority={priority!r}, expected an integer")
        deadline = _deadline(timeout, deadline)
        if self._closed:
            raise EngineClosedError("this Engine was shut down, expected requests before that")
        wants_state = state is not _NO_STATE
        job = self._batcher.job(x, lengths, mask, state if wants_state else None, wants_state)
        request = _Request(self, job, priority, deadline)
        with self._lock:
            self._await_room(request, block)
            self._queues.setdefault(job.key, [])
            heapq.heappush(self._queues[job.key], (-priority, next(self._order), request))
            self._depth += 1
            self.metrics.add(accepted=1)
            if len(self._threads) < self.workers:
                self._start_thread()
            self._arrived.notify()
        return request

    async def infer(self, x: Any, **options: Any) -> Any:
        """The result that submit's future will have, awaited. Cancelling the task cancels the request."""
        return await asyncio.wrap_future(self.submit(x, **options))

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
                dropped = [request for queue in self._queues.values() for _, _, request in queue if not request.taken]
                for request in dropped:
                    request.taken = True
                self._queues.clear()
                self._depth = self._dead = 0
            self._arrived.notify_all()
            self._left.notify_all()
            threads = [thread for thread in self._threads if thread is not threading.current_thread()]
        for request in dropped:
            if request.set_running_or_notify_cancel():
                self.metrics.add(dropped=1)
                request.set_exception(EngineClosedError("this Engine was shut down before the request ran"))
            else:
                self.metrics.add(cancelled=1)
        end = None if timeout is None else time.monotonic() + timeout
        for thread in threads:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    # --- the queue, under the lock ---

    def _await_room(self, request: _Request, block: bool) -> None:
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
        if self._closed:
            raise EngineClosedError("this Engine was shut down, expected requests before that")

    def _start_thread(self) -> None:
        name = f"rnncore-engine-{len(self._threads)}"
        thread = threading.Thread(target=_work, args=(self,), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _forget(self, request: _Request) -> None:
        """A request that waits was cancelled."""
        with self._lock:
            if request.taken:
                return
            request.taken = True
            self._depth -= 1
            self._dead += 1
            if self._dead > 64 + self._depth:
                self._drop_dead()
            self.metrics.add(cancelled=1)
            self._left.notify()

    def _drop_dead(self) -> None:
        for key in list(self._queues):
            left = [entry for entry in self._queues[key] if not entry[2].taken]
            heapq.heapify(left)
            self._queues[key] = left
            if not left:
                del self._queues[key]
        self._dead = 0

    def _head(self, now: float, expired: list[_Request]) -> Hashable | None:
        """The key of the request whose turn it is; requests whose deadline passed before it are taken out."""
        best, found = None, None
        for key in list(self._queues):
            queue = self._queues[key]
            while queue and (queue[0][2].taken or self._is_late(queue[0][2], now)):
                request = heapq.heappop(queue)[2]
                if request.taken:
                    self._dead -= 1
                else:
                    self._take(request)
                    expired.append(request)
            if not queue:
                del self._queues[key]
            elif best is None or queue[0][:2] < best:
                best, found = queue[0][:2], key
        return found

    def _take(self, request: _Request) -> None:
        request.taken = True
        self._depth -= 1
        self._left.notify()

    @staticmethod
    def _is_late(request: _Request, now: float) -> bool:
        return request.deadline is not None and request.deadline < now

    def _collect(self, key: Hashable, now: float, expired: list[_Request]) -> list[_Request]:
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
                self._take(request)
                expired.append(request)
                continue
            more_rows, more_steps = rows + request.job.rows, max(steps, request.job.steps)
            if batch and (more_rows > self.max_batch or more_rows * more_steps > self.max_steps):
                break
            heapq.heappop(queue)
            self._take(request)
            batch.append(request)
            rows, steps = more_rows, more_steps
        if not queue:
            del self._queues[key]
        return batch

    def _next_batch(self) -> tuple[list[_Request], list[_Request]] | None:
        """Requests to run together, and those to be told that they are late; None when all is done."""
        expired: list[_Request] = []
        with self._lock:
            while True:
                now = time.monotonic()
                key = self._head(now, expired)
                if key is not None:
                    head = self._queues[key][0][2]
                    left = head.submitted + self.max_wait - now
                    rows = sum(entry[2].job.rows for entry in self._queues[key]) if left > 0 else 0
                    if left <= 0 or rows >= self.max_batch or self._closed:
                        return self._collect(key, now, expired), expired
                    if expired:
                        return [], expired
                    self._arrived.wait(left)
                elif expired:
                    return [], expired
                elif self._closed:
                    return None
                else:
                    self._arrived.wait()

    # --- the work, outside of it ---

    def _run(self, requests: list[_Request]) -> None:
        """Answer requests that were taken."""
        start = time.monotonic()
        running = []
        for request in requests:
            if request.set_running_or_notify_cancel():
                self.metrics.queued.observe(start - request.submitted)
                running.append(request)
            else:
                self.metrics.add(cancelled=1)
        if not running:
            return
        try:
            results = self._call(running)
        except BaseException as error:
            if len(running) == 1:
                self._fail(running[0], error)
                return
            results = None
        if results is None:  # one of them is to blame: each alone
            for request in running:
                try:
                    (result,) = self._call([request])
                except BaseException as error:
                    self._fail(request, error)
                else:
                    self._succeed(request, result)
            return
        for request, result in zip(running, results, strict=True):
            self._succeed(request, result)

    def _call(self, requests: list[_Request]) -> list[Any]:
        jobs = [request.job for request in requests]
        start = time.monotonic()
        results = self._batcher.run(jobs)
        rows = sum(job.rows for job in jobs)
        self.metrics.running.observe(time.monotonic() - start)
        self.metrics.batch_rows.observe(rows)
        self.metrics.add(batches=1, rows=rows, steps=sum(job.rows * job.steps for job in jobs))
        return results

    def _succeed(self, request: _Request, result: Any) -> None:
        self.metrics.latency.observe(time.monotonic() - request.submitted)
        self.metrics.add(completed=1)
        request.set_result(result)

    def _fail(self, request: _Request, error: BaseException) -> None:
        self.metrics.add(failed=1)
        request.set_exception(error)

    def _expire(self, requests: list[_Request]) -> None:
        for request in requests:
            if request.set_running_or_notify_cancel():
                self.metrics.add(expired=1)
                waited = time.monotonic() - request.submitted
                request.set_exception(DeadlineError(f"the deadline passed after {waited:.3f} s in the queue"))
            else:
                self.metrics.add(cancelled=1)


def _deadline(timeout: float | None, deadline: float | None) -> float | None:
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


def _work(engine: Engine) -> None:
    """A thread's life."""
    while (found := engine._next_batch()) is not None:
        batch, expired = found
        engine._expire(expired)
        engine._run(batch)
        del found, batch, expired  # results belong to their callers now


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork() -> None:
    """A child has the engines but not their threads, and their locks as they happened to be."""
    for engine in list(_ENGINES):
        closed = engine._closed
        engine._start_empty()
        engine._closed = closed
        engine.metrics = Metrics()


def _at_exit() -> None:
    for engine in list(_ENGINES):
        engine.shutdown()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
