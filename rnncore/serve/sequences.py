"""Sequences of requests, each a stream of the model: the protocol's sequence_id, sequence_start and sequence_end.

A sequence belongs to the client that began it: another owner's sequence of the same id is another one. Its slot in
the pool is freed once, by ``_release``, which only the event loop's thread calls; a slot's number never comes back
(StreamEngine counts streams), so what comes late for a sequence that is over finds nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from rnncore.engine.engine import StreamEngine
from rnncore.errors import EngineClosedError, InputError
from rnncore.runtime.model import Model
from rnncore.serve.protocol import InferRequest, SequenceStep
from rnncore.serve.service_errors import ServiceError
from rnncore.streaming.program import stream_program

__all__ = ["Sequences"]


@dataclass(eq=False)
class _Sequence:
    """One sequence. stream: its name in the engine; pending: requests that are not answered; entry: their order."""

    key: tuple[str, int | str]
    stream: int
    used: float
    pending: int = 0
    released: bool = False
    entry: asyncio.Lock = field(default_factory=asyncio.Lock)


class Sequences:
    """The open sequences of one model. Everything but ``shutdown`` belongs to one event loop."""

    def __init__(self, name: str, model: Model, limits: Any):
        self._name, self._model, self._limits = name, model, limits
        self._engine: StreamEngine | None = None
        self._closed = False
        self._found: dict[tuple[str, int | str], _Sequence] = {}
        self._held = 0  # slots that are taken: of open sequences, and of those whose last request runs
        self._serials = itertools.count()
        self._sweeping: asyncio.Task | None = None
        # opening and closing wait for a step of the pool, which the event loop must not
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="rnncore-sequences")

    @property
    def available(self) -> bool:
        """Whether the model can stream at all."""
        return self._model.unstreamable is None

    @property
    def engine(self) -> StreamEngine | None:
        """The engine, once a sequence was begun."""
        return self._engine

    def __len__(self) -> int:
        return len(self._found)

    async def infer(
        self, request: InferRequest, owner: str, timeout: float, at_once: bool = False
    ) -> dict[str, np.ndarray]:
        """The outputs for a sequence's next piece. Where this raises, the piece was not fed. at_once: as for engines.

        A sequence whose first request fails is not open; one that is begun again begins anew.
        """
        if self._closed:
            raise EngineClosedError("the sequences were shut down")
        if not self.available:
            raise ServiceError(400, f"model {self._name!r} has no sequences: {self._model.unstreamable}")
        pieces, static = self._parts(request)
        step = cast(SequenceStep, request.sequence)
        if step.start:
            sequence = self._begin((owner, step.id))
        else:
            known = self._found.get((owner, step.id))
            if known is None:
                raise ServiceError(400, f"sequence {step.id!r} is not open: its first request needs sequence_start")
            sequence = known
        sequence.pending += 1
        try:
            async with sequence.entry:
                if step.start:
                    await self._open(sequence, static)
                asked = self._ask(sequence, pieces, request, timeout, at_once)
            if step.end:
                self._forget(sequence)
            outputs = await asked
        except BaseException:
            if step.start:
                self._release(sequence)
            raise
        finally:
            sequence.pending -= 1
            sequence.used = time.monotonic()
            if step.end and self._found.get(sequence.key) is not sequence:
                self._release(sequence)
        return self._with_batch(outputs)

    def _ask(self, sequence: _Sequence, pieces: Any, request: InferRequest, timeout: float, at_once: bool) -> Awaitable:
        if sequence.released:
            raise ServiceError(400, f"sequence {sequence.key[1]!r} is over")
        step = cast(SequenceStep, request.sequence)
        options = {"priority": -request.priority, "timeout": timeout, "finish": step.end}
        return cast(StreamEngine, self._engine).ask(pieces, stream=sequence.stream, at_once=at_once, **options)

    # --- the slots ---

    def _begin(self, key: tuple[str, int | str]) -> _Sequence:
        """A place for a sequence; the one of that key, if there is one, is over."""
        before = self._found.get(key)
        if before is not None:
            self._release(before)
        if self._held >= self._limits.max_sequences:
            self._release_idle()
        if self._held >= self._limits.max_sequences:
            raise ServiceError(503, f"{self._held} sequences are open, the most this server has", retry_after=5)
        self._held += 1
        sequence = self._found[key] = _Sequence(key, next(self._serials), time.monotonic())
        return sequence

    async def _open(self, sequence: _Sequence, static: dict[str, np.ndarray]) -> None:
        loop = asyncio.get_running_loop()
        if self._sweeping is None or self._sweeping.done() or self._sweeping.get_loop() is not loop:
            self._sweeping = loop.create_task(self._sweep())
        opening = loop.run_in_executor(self._opener, self._open_stream, sequence.stream, static)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.wait([opening])  # so that it is there, or not, when it is released
            raise

    def _open_stream(self, stream: int, static: dict[str, np.ndarray]) -> None:
        """On the opener's thread."""
        if self._engine is None:
            limits = self._limits
            pool = self._model.pool(limits.max_sequences)
            self._engine = StreamEngine(pool, max_batch=limits.max_batch_size, max_queue=limits.max_queue_size)
        self._engine.open(stream, inputs=static)

    def _close_stream(self, stream: int) -> None:
        """On the opener's thread, after the opening. A stream that could not be opened is not there."""
        if self._engine is not None and stream in self._engine:
            self._engine.close(stream)

    def _forget(self, sequence: _Sequence) -> None:
        """From now on a request of this key needs sequence_start."""
        if self._found.get(sequence.key) is sequence:
            del self._found[sequence.key]

    def _release(self, sequence: _Sequence) -> None:
        """End a sequence and free its slot, once."""
        if sequence.released:
            return
        sequence.released = True
        self._held -= 1  # what is begun from now on is opened after the closing
        self._forget(sequence)
        if not self._closed:
            self._opener.submit(self._close_stream, sequence.stream)

    def _release_idle(self) -> None:
        limit = time.monotonic() - self._limits.sequence_idle
        for sequence in list(self._found.values()):
            if not sequence.pending and sequence.used <= limit:
                self._release(sequence)

    async def _sweep(self) -> None:
        while self._found:
            await asyncio.sleep(max(0.05, self._limits.sequence_idle / 8))
            self._release_idle()

    def shutdown(self) -> None:
        """Answer what was accepted and end the threads; from any thread."""
        self._closed = True
        self._opener.shutdown(wait=True)
        if self._engine is not None:
            self._engine.shutdown()

    # --- the arrays: a request has a batch of 1, a stream has none ---

    def _parts(self, request: InferRequest) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The piece without its batch, and what has no time and is given once, with the first request."""
        pieces, static = {}, {}
        for name, array in request.inputs.items():
            flow, shape = self._flows[name], self._shapes[name]
            if array.ndim != len(shape) or (flow.batch is not None and array.shape[flow.batch] != 1):
                expected = [1 if axis == flow.batch else size for axis, size in enumerate(shape)]
                raise InputError(f"input {name!r}: shape {list(array.shape)}, expected {expected} in a sequence")
            if flow.kind == "lengths":
                raise InputError(f"input {name!r} is not part of a sequence's request, whose steps all count")
            if flow.kind == "steps":
                pieces[name] = array if flow.batch is None else array.squeeze(flow.batch)
            elif cast(SequenceStep, request.sequence).start:
                static[name] = array
            else:
                raise InputError(f"input {name!r} has no time: it is part of a sequence's first request only")
        return pieces, static

    @property
    def _flows(self) -> Any:
        return stream_program(self._model).plan.flows

    @property
    def _shapes(self) -> dict[str, tuple]:
        return {entry.name: entry.shape for entry in self._model.inputs}

    def _with_batch(self, outputs: Any) -> dict[str, np.ndarray]:
        by_name = outputs if isinstance(outputs, dict) else {self._model.spec.outputs[0]: outputs}
        flows = self._flows
        return {
            name: array if flows[name].batch is None else np.expand_dims(array, flows[name].batch)
            for name, array in by_name.items()
        }
