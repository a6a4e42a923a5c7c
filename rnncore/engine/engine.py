"""Engines: requests from many threads or coroutines, answered in batches.

    with rnncore.Engine(model) as engine:
        future = engine.submit(x, timeout=0.1)      # from any thread: a concurrent.futures.Future
        y = future.result()
        y = await engine.infer(x, priority=1)       # from asyncio

    with rnncore.StreamEngine(model.pool(1000)) as engine:
        engine.open("ann")
        y = await engine.infer(chunk, stream="ann")  # each stream's chunks in their order, all streams step together

They know nothing of transports. Results are those of the model alone, bit for bit where the model's own results do not
depend on the batch (float32 on the native kernels).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnncore.engine.batching import Batcher, Job
from rnncore.engine.queue import Answer, Promise, Request, Requests, check_positive
from rnncore.errors import EngineClosedError, InputError, StreamError
from rnncore.ops import numpy_dtype
from rnncore.runtime.model import Model
from rnncore.streaming.pool import StreamPool

__all__ = ["Engine", "StreamEngine"]

AT_ONCE = 5e-4  # seconds of a call that may hold up an event loop
MOST_KINDS = 256  # of requests whose time is known
FORGET = 0.95  # of the longest time, with each chunk

_NO_STATE: Any = type("NoState", (), {"__repr__": lambda self: "<no state>"})()


class Engine(Requests):
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
    from before the fork are the parent's. Shut it down, or use it as a context manager: both wait for what was
    accepted.

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
        check_positive("max_steps", max_steps)
        self.model, self.max_steps = model, max_steps
        self._batcher = Batcher(model)
        self._seconds: dict[Hashable, float] = {}  # what a call for one request took, by its key and rows
        super().__init__(max_batch=max_batch, max_wait=max_wait, max_queue=max_queue, workers=workers)

    def submit(
        self,
        x: Any,
        *,
        lengths: Any = None,
        mask: Any = None,
        state: Any = _NO_STATE,
        copy: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
    ) -> Future:
        """Ask for ``model(x, state, lengths=..., mask=...)``, or with a mapping for ``model.run(x, state)``.

        x, lengths, mask, state   as the model takes them, of any number of rows
        copy       before submit returns. False: nobody writes to these arrays until the future is done
        priority   an integer; higher ones go first
        timeout    seconds from now until the work must have begun; deadline  the same as a time of time.monotonic().
                   A request that still waits then is answered with DeadlineError
        block      with a full queue: wait for room, at most until the deadline

        Returns a Future of exactly what the model returns. Its cancel() works until the work begins. Raises at once
        InputError and StateError, QueueFullError, DeadlineError for a deadline that has passed, EngineClosedError.
        """
        order = {"priority": priority, "timeout": timeout, "deadline": deadline, "block": block}
        return self._ask(Promise, x, lengths=lengths, mask=mask, state=state, copy=copy, **order)

    def _job(self, x: Any, *, lengths: Any = None, mask: Any = None, state: Any = _NO_STATE, copy: bool = True) -> Job:
        wants_state = state is not _NO_STATE
        return self._batcher.job(x, lengths, mask, state if wants_state else None, wants_state, copy)

    def _fits(self, rows: int, steps: int) -> bool:
        return rows <= self.max_batch and rows * steps <= self.max_steps

    def _is_short(self, job: Job) -> bool:
        return self._seconds.get((job.key, job.rows), AT_ONCE) < AT_ONCE

    def _learn(self, job: Job, seconds: float) -> None:
        """What a call for this job alone took."""
        if len(self._seconds) >= MOST_KINDS:
            self._seconds.clear()
        self._seconds[job.key, job.rows] = seconds

    def _answer(self, requests: list[Request]) -> None:
        running = self._begin(requests)
        if not running:
            return
        try:
            results = self._call(running)
        except BaseException as error:
            alone = len(running) == 1
            self._settle([(running[0], None, error)] if alone else [self._answer_alone(one) for one in running])
        else:
            self._settle([(request, result, None) for request, result in zip(running, results, strict=True)])

    def _answer_alone(self, request: Request) -> Answer:
        """Of a batch that failed one request is to blame: each by itself."""
        try:
            (result,) = self._call([request])
        except BaseException as error:
            return request, None, error
        return request, result, None

    def _call(self, requests: list[Request]) -> list[Any]:
        jobs = [request.job for request in requests]
        start = time.monotonic()
        results = self._batcher.run(jobs)
        rows, seconds = sum(job.rows for job in jobs), time.monotonic() - start
        if len(jobs) == 1 and self._batcher.mergeable:  # others have a key of their own
            self._learn(jobs[0], seconds)
        self.metrics.running.observe(seconds)
        self.metrics.batch_rows.observe(rows)
        self.metrics.add(batches=1, rows=rows, steps=sum(job.rows * job.steps for job in jobs))
        return results


@dataclass(eq=False)
class _Chunk:
    """A stream's next piece, and how far it was fed. pieces: (T, ...) by input; outputs: those of each slice."""

    stream: Hashable
    pieces: dict[str, np.ndarray]
    named: bool
    steps: int
    finish: bool
    at: int = 0
    outputs: list[dict[str, np.ndarray]] = field(default_factory=list)

    key, rows = "streams", 1

    def slice(self, most: int) -> Any:
        """The next piece of at most so many steps; all at once where time is not the first axis."""
        end = min(self.steps, self.at + most)
        part = {name: array[self.at : end] for name, array in self.pieces.items()}
        return part if self.named else next(iter(part.values()))


class StreamEngine(Requests):
    """Feeds the streams of a pool: whatever streams have a chunk are stepped together, joining and leaving at any step.

    pool       a StreamPool, empty, which the engine has for itself from now on
    max_batch  streams in one step of the pool
    slice_steps  a longer chunk is fed in slices of so many steps, so that others join before its end
    max_queue  chunks that may wait

    A stream's chunks are answered in the order of their submission; priorities and deadlines order the streams. A
    chunk that was cancelled or came too late was not fed. After a fork the child's engine is closed: the streams are
    the parent's. Otherwise as Engine.
    """

    def __init__(self, pool: StreamPool, *, max_batch: int = 256, slice_steps: int = 16, max_queue: int = 1024):
        if not isinstance(pool, StreamPool) or len(pool):
            found = f"a pool with {len(pool)} streams" if isinstance(pool, StreamPool) else type(pool).__name__
            raise InputError(f"StreamEngine of {found}, expected an empty StreamPool: model.pool(capacity)")
        check_positive("slice_steps", slice_steps)
        self._pool, self._pool_lock = pool, threading.Lock()
        self._flows = pool._program.plan.flows
        entries = [self._flows[entry.name] for entry in pool._program.given]
        self._sliceable = all(_time_axis(flow) == 0 for flow in entries)
        self.slice_steps = slice_steps
        self._serials = itertools.count()
        self._seconds: dict[int, float] = {}  # what a chunk of so many steps may take alone
        super().__init__(max_batch=max_batch, max_wait=0.0, max_queue=max_queue, workers=1)

    def _start_empty(self) -> None:
        super()._start_empty()
        self._streams: dict[Hashable, Hashable] = {}  # caller's id -> the pool's, which never comes back
        self._lines: dict[Hashable, deque[Request]] = {}  # chunks by stream; the first waits in the queue or is fed
        self._fed: list[Request] = []  # begun, with more to feed; the thread's own

    def _forked(self) -> None:
        super()._forked()
        self._closed = True

    def open(self, id: Hashable, *, inputs: Mapping[str, Any] | None = None) -> None:
        """A new stream at its beginning. StreamError where the id is taken or the pool full; inputs as for the pool."""
        self._check_open()
        inside = (id, next(self._serials))
        with self._pool_lock:
            if id in self._streams:
                raise StreamError(f"stream {id!r} is open already")
            self._pool.open(inside, inputs=inputs)
            self._streams[id] = inside

    def close(self, id: Hashable) -> None:
        """End a stream. Chunks of it that wait, or are not fed to their end, are answered with StreamError."""
        with self._pool_lock:
            inside = self._inside(id)
            self._pool.close(inside)
            del self._streams[id]
        with self._lock:
            left = [request for request in self._lines.get(inside, ()) if not request.taken]
            for request in left:
                self._take(request)
                self._withdraw(request)
        error = StreamError(f"stream {id!r} was closed before this chunk was fed")
        self._settle([(request, None, error) for request in self._wanted(left)])

    def __len__(self) -> int:
        """The number of open streams."""
        return len(self._streams)

    def __contains__(self, id: Hashable) -> bool:
        return id in self._streams

    def submit(
        self,
        x: Any,
        *,
        stream: Hashable,
        finish: bool = False,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
    ) -> Future:
        """Feed a stream its next piece, without a batch dimension: (T, I), (T,) for ids, or a dict by name.

        finish     the sequence ends here: the outputs that still waited for later steps come too
        others     as for Engine.submit. The chunk is copied

        Returns a Future of its outputs, as pool.step gives them. Raises at once InputError, StreamError for a stream
        that is not open, QueueFullError, DeadlineError, EngineClosedError.
        """
        order = {"priority": priority, "timeout": timeout, "deadline": deadline, "block": block}
        return self._ask(Promise, x, stream=stream, finish=finish, **order)

    def _job(self, x: Any, *, stream: Hashable, finish: bool = False) -> _Chunk:
        inside = self._inside(stream)  # without the pool's lock, which a step may hold for long
        return self._chunk(inside, stream, x, finish)

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosedError("this StreamEngine is closed: it was shut down, or made before a fork")

    def _inside(self, id: Hashable) -> Hashable:
        inside = self._streams.get(id)
        if inside is None:
            raise StreamError(f"stream {id!r} is not open in this engine")
        return inside

    def _chunk(self, inside: Hashable, id: Hashable, x: Any, finish: bool) -> _Chunk:
        """A piece, checked and copied."""
        program = self._pool._program
        entries = {entry.name: entry for entry in program.given}
        given = x if isinstance(x, Mapping) else {self._pool._only_input().name: x}
        for name in given:
            if name not in entries:
                raise InputError(f"stream {id!r}: input {name!r} is unknown, expected {', '.join(entries)}")
        pieces, steps = {}, None
        for name, entry in entries.items():
            if given.get(name) is None:
                if not entry.optional:
                    raise InputError(f"stream {id!r}: input {name!r} missing, expected {entry.value}")
                continue
            piece = self._pool._piece(id, name, given[name])
            dtype = numpy_dtype(entry.dtype, program.model.dtype)
            pieces[name] = np.array(piece if self._sliceable else given[name], dtype, order="C")
            if steps not in (None, len(piece)):
                raise InputError(f"stream {id!r}: {name} has {len(piece)} steps, expected {steps} as the others have")
            steps = len(piece)
        return _Chunk(inside, pieces, isinstance(x, Mapping), steps, finish)

    # --- the queue, under the lock: the first chunk of each stream waits in it, the others behind ---

    def _enqueue(self, request: Request) -> None:
        line = self._lines.setdefault(request.job.stream, deque())
        line.append(request)
        if len(line) == 1:
            super()._enqueue(request)

    def _withdraw(self, request: Request) -> None:
        if self._lines[request.job.stream][0] is request:
            super()._withdraw(request)
            self._next_in_line(request)

    def _expire(self, request: Request, expired: list[Request]) -> None:
        super()._expire(request, expired)
        self._next_in_line(request)

    def _place(self, request: Request) -> None:
        self._lines[request.job.stream] = deque([request])

    def _next_in_line(self, request: Request) -> None:
        """A stream's first chunk is done with, one way or another."""
        line = self._lines[request.job.stream]
        line.popleft()
        while line and line[0].taken:  # cancelled while it stood behind
            line.popleft()
        if line:
            super()._enqueue(line[0])
        else:
            del self._lines[request.job.stream]

    def _fits(self, rows: int, steps: int) -> bool:
        return rows + len(self._fed) <= self.max_batch

    def _is_short(self, job: _Chunk) -> bool:
        in_one = not job.finish and (job.steps <= self.slice_steps or not self._sliceable)
        return in_one and self._seconds.get(job.steps, AT_ONCE) < AT_ONCE

    def _learn(self, steps: int, seconds: float) -> None:
        """What a slice of one stream took. Equal ones differ (a stride, a block), so the longest is remembered."""
        if len(self._seconds) >= MOST_KINDS:
            self._seconds.clear()
        self._seconds[steps] = max(seconds, FORGET * self._seconds.get(steps, 0.0))

    def _empty(self) -> list[Request]:
        waiting = [request for line in self._lines.values() for request in line if not request.taken]
        self._lines = {id: deque([line[0]]) for id, line in self._lines.items() if line[0].taken}
        return waiting

    def _await_batch(self) -> tuple[list[Request], list[Request]] | None:
        expired: list[Request] = []
        while True:
            now = time.monotonic()
            key = self._head(now, expired)
            batch = self._collect(key, now, expired) if key is not None else []
            if batch or expired or self._fed:
                return batch, expired
            if self._closed:
                return None
            self._sleep()

    # --- the work, outside of it ---

    def _answer(self, requests: list[Request]) -> None:
        """One slice of every chunk that is fed."""
        running = self._fed + self._begin_or_leave(requests)
        if not running:
            return
        self._fed = []
        slices = {request.job.stream: request.job.slice(self._most(request)) for request in running}
        ended: list[Answer] = []
        start = time.monotonic()
        try:
            with self._pool_lock:
                found = self._pool.step(slices)
            self._count(running, slices, time.monotonic() - start)
        except BaseException as error:
            if len(running) == 1:
                found, ended = {}, [(running[0], None, error)]
            else:
                found, ended = self._feed_alone(running, slices)
        for request in running:
            if request.job.stream in found:
                ended += self._went_on(request, found[request.job.stream])
        with self._lock:
            for request, _, _ in ended:
                self._next_in_line(request)
        self._settle(ended)

    def _begin_or_leave(self, requests: list[Request]) -> list[Request]:
        running = self._begin(requests)
        with self._lock:
            for request in requests:
                if request not in running:
                    self._next_in_line(request)
        return running

    def _most(self, request: Request) -> int:
        return self.slice_steps if self._sliceable else max(1, request.job.steps)

    def _feed_alone(
        self, requests: list[Request], slices: dict[Hashable, Any]
    ) -> tuple[dict[Hashable, Any], list[Answer]]:
        """Of chunks that failed together each by itself: outputs by stream, and those that failed again."""
        found, failed = {}, []
        for request in requests:
            try:
                with self._pool_lock:
                    found |= self._pool.step({request.job.stream: slices[request.job.stream]})
            except BaseException as error:
                failed.append((request, None, error))
        return found, failed

    def _went_on(self, request: Request, outputs: Any) -> list[Answer]:
        """A slice was fed: to be continued, or the end with this answer."""
        job = request.job
        job.outputs.append(outputs)
        job.at += self._most(request)
        if job.at < job.steps:
            self._fed.append(request)
            return []
        try:
            if job.finish:
                with self._pool_lock:
                    job.outputs.append(self._pool.finish(job.stream))
            return [(request, self._joined(job.outputs), None)]
        except BaseException as error:
            return [(request, None, error)]

    def _count(self, running: list[Request], slices: dict[Hashable, Any], seconds: float) -> None:
        steps = sum(min(request.job.steps - request.job.at, self._most(request)) for request in running)
        if len(running) == 1:
            self._learn(steps, seconds)
        self.metrics.running.observe(seconds)
        self.metrics.batch_rows.observe(len(slices))
        self.metrics.add(batches=1, rows=len(slices), steps=steps)

    def _joined(self, outputs: list[Any]) -> Any:
        """The outputs of all slices as those of one chunk: along time, or the last where there is none."""
        if len(outputs) == 1:
            return outputs[0]
        if isinstance(outputs[0], dict):
            return {name: self._join(name, [one[name] for one in outputs]) for name in outputs[0]}
        return self._join(self._pool._program.model.spec.outputs[0], outputs)

    def _join(self, name: str, arrays: list[np.ndarray]) -> np.ndarray:
        axis = _time_axis(self._flows[name])
        return arrays[-1] if axis is None else np.concatenate(arrays, axis=axis)


def _time_axis(flow: Any) -> int | None:
    """Where the steps of one stream's array stand, which has no batch."""
    return None if flow.time is None else flow.time - (flow.batch is not None and flow.batch < flow.time)
