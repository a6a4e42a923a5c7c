"""The runners of the engines' queues: calls of a model, and steps of a pool's streams."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnncore.engine.batching import Batcher, ModelCall
from rnncore.engine.metrics import Metrics
from rnncore.engine.requests import Answer, Request
from rnncore.errors import InputError, StreamError
from rnncore.ops import numpy_dtype
from rnncore.runtime.model import Model
from rnncore.streaming.pool import StreamPool

__all__ = ["ModelRunner", "StreamRunner"]

AT_ONCE = 5e-4  # seconds of a call that may hold up an event loop
MOST_KINDS = 256  # of requests whose time is known
FORGET = 0.95  # of the longest time, with each chunk


class ModelRunner:
    """Calls a model once for all requests of a batch.

    max_batch max_steps  the rows, and rows times steps, of a call with several requests
    """

    name, closed = "Engine", "this Engine was shut down, expected requests before that"

    def __init__(self, model: Model, max_batch: int, max_steps: int):
        self.model, self.max_batch, self.max_steps = model, max_batch, max_steps
        self.batcher = Batcher(model)
        self._seconds: dict[Hashable, float] = {}  # what a call for one request took, by its key and rows

    def forked(self) -> bool:
        """The model works in the child too."""
        return True

    def fits(self, rows: int, steps: int) -> bool:
        return rows <= self.max_batch and rows * steps <= self.max_steps

    def is_short(self, call: ModelCall) -> bool:
        return self._seconds.get((call.key, call.rows), AT_ONCE) < AT_ONCE

    def run(self, requests: list[Request], metrics: Metrics) -> list[Answer]:
        try:
            results = self._call(requests, metrics)
        except BaseException as error:
            if len(requests) == 1:
                return [(requests[0], None, error)]
            return [self._run_alone(request, metrics) for request in requests]
        return [(request, result, None) for request, result in zip(requests, results, strict=True)]

    def _run_alone(self, request: Request, metrics: Metrics) -> Answer:
        """One request of a batch that failed: one of them is to blame, and fails alone."""
        try:
            (result,) = self._call([request], metrics)
        except BaseException as error:
            return request, None, error
        return request, result, None

    def _call(self, requests: list[Request], metrics: Metrics) -> list[Any]:
        calls: list[Any] = [request.work for request in requests]
        start = time.monotonic()
        results = self.batcher.run(calls)
        rows, seconds = sum(call.rows for call in calls), time.monotonic() - start
        if len(calls) == 1 and self.batcher.mergeable:  # others have a key of their own
            self._learn(calls[0], seconds)
        metrics.running.observe(seconds)
        metrics.batch_rows.observe(rows)
        metrics.add(batches=1, rows=rows, steps=sum(call.rows * call.steps for call in calls))
        return results

    def _learn(self, call: ModelCall, seconds: float) -> None:
        """Remember what a call for this request alone took."""
        if len(self._seconds) >= MOST_KINDS:
            self._seconds.clear()
        self._seconds[call.key, call.rows] = seconds


@dataclass(eq=False)
class StreamChunk:
    """A stream's next piece, and how far it was fed.

    line     the pool's id of the stream
    pieces   (T, ...) by input
    outputs  of the slices that were fed
    """

    line: Hashable
    pieces: dict[str, np.ndarray]
    named: bool
    steps: int
    finish: bool
    at: int = 0
    outputs: list[dict[str, np.ndarray]] = field(default_factory=list)

    key, rows = "streams", 1

    def slice(self, most: int) -> Any:
        """The next piece of up to ``most`` steps; all at once where time is not the first axis."""
        end = min(self.steps, self.at + most)
        part = {name: array[self.at : end] for name, array in self.pieces.items()}
        return part if self.named else next(iter(part.values()))


class StreamRunner:
    """The open streams of a pool; feeds one slice of every chunk with each run.

    max_batch  streams in one step of the pool
    slice_steps  the steps of a slice
    """

    name, closed = "StreamEngine", "this StreamEngine is closed: it was shut down, or made before a fork"

    def __init__(self, pool: StreamPool, max_batch: int, slice_steps: int):
        self.pool, self.max_batch, self.slice_steps = pool, max_batch, slice_steps
        self.pool_lock = threading.Lock()
        self.streams: dict[Hashable, Hashable] = {}  # caller's id -> the pool's, which never comes back
        self._plans = pool._program.plan.flows
        self._sliceable = all(_time_axis(self._plans[entry.name]) == 0 for entry in pool._program.given)
        self._serials = itertools.count()
        self._seconds: dict[int, float] = {}  # the longest that a chunk took alone, by its steps

    def forked(self) -> bool:
        """The streams are the parent's."""
        self.pool_lock = threading.Lock()
        self.streams = {}
        return False

    def open(self, id: Hashable, inputs: Mapping[str, Any] | None) -> None:
        """Begin a stream. StreamError if the id is taken or the pool full."""
        inside = (id, next(self._serials))
        with self.pool_lock:
            if id in self.streams:
                raise StreamError(f"stream {id!r} is open already")
            self.pool.open(inside, inputs=inputs)
            self.streams[id] = inside

    def close(self, id: Hashable) -> Hashable:
        """End a stream: its line."""
        with self.pool_lock:
            line = self._line(id)
            self.pool.close(line)
            del self.streams[id]
        return line

    def chunk(self, x: Any, *, stream: Hashable, finish: bool = False) -> StreamChunk:
        """A piece for a stream, checked and copied."""
        line = self._line(stream)  # without the pool's lock, which a step may hold for long
        program = self.pool._program
        entries = {entry.name: entry for entry in program.given}
        given = x if isinstance(x, Mapping) else {self.pool._only_input().name: x}
        for name in given:
            if name not in entries:
                raise InputError(f"stream {stream!r}: input {name!r} is unknown, expected {', '.join(entries)}")
        pieces: dict[str, np.ndarray] = {}
        steps: Any = None
        for name, entry in entries.items():
            if given.get(name) is None:
                if not entry.optional:
                    raise InputError(f"stream {stream!r}: input {name!r} missing, expected {entry.value}")
                continue
            piece = self.pool._piece(stream, name, given[name])
            dtype = numpy_dtype(entry.dtype, program.model.dtype)
            pieces[name] = np.array(piece if self._sliceable else given[name], dtype, order="C")
            if steps not in (None, len(piece)):
                what = f"{name} has {len(piece)} steps, expected {steps} as the others have"
                raise InputError(f"stream {stream!r}: {what}")
            steps = len(piece)
        return StreamChunk(line, pieces, isinstance(x, Mapping), steps, finish)

    def _line(self, id: Hashable) -> Hashable:
        line = self.streams.get(id)
        if line is None:
            raise StreamError(f"stream {id!r} is not open in this engine")
        return line

    def fits(self, rows: int, steps: int) -> bool:
        return rows <= self.max_batch

    def is_short(self, chunk: StreamChunk) -> bool:
        in_one = not chunk.finish and (chunk.steps <= self.slice_steps or not self._sliceable)
        return in_one and self._seconds.get(chunk.steps, AT_ONCE) < AT_ONCE

    def run(self, requests: list[Request], metrics: Metrics) -> list[Answer]:
        """Feed one slice of every chunk."""
        slices = {request.work.line: request.work.slice(self._most(request.work)) for request in requests}
        answers: list[Answer] = []
        start = time.monotonic()
        try:
            with self.pool_lock:
                outputs = self.pool.step(slices)
            self._count(requests, time.monotonic() - start, metrics)
        except BaseException as error:
            if len(requests) == 1:
                return [(requests[0], None, error)]
            outputs, answers = self._feed_alone(requests, slices)
        for request in requests:
            if request.work.line in outputs:
                answers += self._went_on(request, outputs[request.work.line])
        return answers

    def _most(self, chunk: Any) -> int:
        return self.slice_steps if self._sliceable else max(1, chunk.steps)

    def _feed_alone(
        self, requests: list[Request], slices: dict[Hashable, Any]
    ) -> tuple[dict[Hashable, Any], list[Answer]]:
        """Of chunks that failed together each by itself: outputs by line, and those that failed again."""
        outputs: dict[Hashable, Any] = {}
        failed: list[Answer] = []
        for request in requests:
            try:
                with self.pool_lock:
                    outputs |= self.pool.step({request.work.line: slices[request.work.line]})
            except BaseException as error:
                failed.append((request, None, error))
        return outputs, failed

    def _went_on(self, request: Request, outputs: Any) -> list[Answer]:
        """A slice was fed: the answer after the last one."""
        chunk = request.work
        chunk.outputs.append(outputs)
        chunk.at += self._most(chunk)
        if chunk.at < chunk.steps:
            return []
        try:
            if chunk.finish:
                with self.pool_lock:
                    chunk.outputs.append(self.pool.finish(chunk.line))
            return [(request, self._joined(chunk.outputs), None)]
        except BaseException as error:
            return [(request, None, error)]

    def _count(self, requests: list[Request], seconds: float, metrics: Metrics) -> None:
        steps = sum(min(request.work.steps - request.work.at, self._most(request.work)) for request in requests)
        if len(requests) == 1:
            self._learn(steps, seconds)
        metrics.running.observe(seconds)
        metrics.batch_rows.observe(len(requests))
        metrics.add(batches=1, rows=len(requests), steps=steps)

    def _learn(self, steps: int, seconds: float) -> None:
        """Remember what a slice of one stream took. Equal ones differ (a stride, a block): the longest counts."""
        if len(self._seconds) >= MOST_KINDS:
            self._seconds.clear()
        self._seconds[steps] = max(seconds, FORGET * self._seconds.get(steps, 0.0))

    def _joined(self, outputs: list[Any]) -> Any:
        """The outputs of all slices as those of one chunk: along time, or the last without one."""
        if len(outputs) == 1:
            return outputs[0]
        if isinstance(outputs[0], dict):
            return {name: self._join(name, [one[name] for one in outputs]) for name in outputs[0]}
        return self._join(self.pool._program.model.spec.outputs[0], outputs)

    def _join(self, name: str, arrays: list[np.ndarray]) -> np.ndarray:
        axis = _time_axis(self._plans[name])
        return arrays[-1] if axis is None else np.concatenate(arrays, axis=axis)


def _time_axis(plan: Any) -> int | None:
    """The axis of time in one stream's array, which has no batch; None without time."""
    return None if plan.time is None else plan.time - (plan.batch is not None and plan.batch < plan.time)
