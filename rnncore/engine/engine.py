"""Engines: requests from many threads or coroutines, answered in batches.

    with rnncore.Engine(model) as engine:
        future = engine.submit(x, timeout=0.1)      # from any thread: a concurrent.futures.Future
        y = future.result()
        y = await engine.infer(x, priority=1)       # from asyncio

    with rnncore.StreamEngine(model.pool(1000)) as engine:
        engine.open("ann")
        y = await engine.infer(chunk, stream="ann")  # each stream's chunks in their order, all streams step together

They know nothing of transports. Results are those of the model alone, bit for bit where the model's own results do not
depend on the batch (float32 on the packed kernels).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Hashable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Self, overload

from rnncore.engine.batching import ModelCall
from rnncore.engine.metrics import Metrics
from rnncore.engine.queue import RequestQueue, check_positive
from rnncore.engine.requests import Awaited, Promise
from rnncore.engine.runners import ModelRunner, StreamRunner
from rnncore.errors import InputError, StreamError
from rnncore.runtime.model import Model
from rnncore.streaming.pool import StreamPool

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnncore.runtime.state import State
    from rnncore.runtime.types import Inputs, Output, StateLike

__all__ = ["Engine", "StreamEngine"]

_NO_STATE: Any = type("NoState", (), {"__repr__": lambda self: "<no state>"})()


class _QueueOwner:
    """The calls that are the same for every engine: they are handed on to the queue that it owns.

    queue    a RequestQueue
    work_of  from what is asked for and its options to the Work that the queue's runner takes
    """

    def __init__(self, queue: RequestQueue, work_of: Callable[..., Any]):
        self._queue, self._work_of = queue, work_of
        self.max_batch, self.max_wait = queue.max_batch, queue.max_wait
        self.max_queue, self.workers = queue.max_queue, queue.workers

    @property
    def metrics(self) -> Metrics:
        """Counts, and histograms of times and batch sizes."""
        return self._queue.metrics

    @property
    def queue_depth(self) -> int:
        """The number of requests that wait."""
        return self._queue.depth

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.shutdown()

    def __repr__(self) -> str:
        return repr(self._queue)

    def ask(self, x: Any, *, at_once: bool = False, **options: Any) -> Awaitable:
        """As submit, but what it returns is awaited in the running event loop, whose tasks wake once for a batch.

        at_once  where nothing waits and nothing runs, and the last request like this one took less than half a
                 millisecond, the model runs in this thread, now: sooner than another thread would wake up
        """
        return self._queue.submit(Awaited, self._work_of, x, at_once=at_once, **options)

    async def infer(self, x: Any, *, block: bool = False, at_once: bool = False, **options: Any) -> Any:
        """The result of submit's future, awaited. Cancelling the task cancels the request.

        block    with a full queue: wait for a place, at most until the deadline; other tasks run meanwhile
        at_once  as for ask
        """
        if not block:
            return await self.ask(x, at_once=at_once, **options)
        submit = functools.partial(self._queue.submit, Promise, self._work_of, x, block=True, **options)
        submitting = asyncio.get_running_loop().run_in_executor(None, submit)
        try:
            request = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            submitting.add_done_callback(_cancel_result)
            raise
        return await asyncio.wrap_future(request)

    def shutdown(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests, and wait for the threads to end. May be called again.

        drain    answer what was accepted; else what waits is answered with EngineClosedError
        timeout  seconds to wait at most

        Returns whether all threads have ended.
        """
        return self._queue.shutdown(drain, timeout)


class Engine(_QueueOwner):
    """Answers requests for a model in batches.

    model      a Model
    max_batch  rows that one call of the model gets at most, though never less than one request
    max_steps  rows times steps of a call at most, likewise: what bounds memory
    max_wait   seconds that the first request of a batch waits for others. 0: a batch is what came while the one
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
        self._runner = ModelRunner(model, max_batch, max_steps)
        queue = RequestQueue(
            self._runner, max_batch=max_batch, max_wait=max_wait, max_queue=max_queue, workers=workers
        )  # fmt: skip
        super().__init__(queue, self._call)

    @overload
    def submit(
        self,
        x: ArrayLike | Inputs,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        copy: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
    ) -> Future[Output]: ...
    @overload
    def submit(
        self,
        x: ArrayLike | Inputs,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        state: StateLike,
        copy: bool = True,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
    ) -> Future[tuple[Output, State]]: ...
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
    ) -> Future[Any]:
        """Ask for ``model(x, state, lengths=..., mask=...)``, or with a mapping for ``model.run(x, state)``.

        x, lengths, mask, state   as the model takes them, of any number of rows
        copy       before submit returns. False: these arrays are not written to until the future is done
        priority   an integer; higher ones go first
        timeout    seconds from now until the work must have begun; deadline  the same as a time of time.monotonic().
                   A request that still waits then is answered with DeadlineError
        block      with a full queue: wait for a place, at most until the deadline

        Returns a Future of exactly what the model returns. Its cancel() works until the work begins. Raises at once
        InputError and StateError, QueueFullError, DeadlineError for a deadline that has passed, EngineClosedError.
        """
        return self._queue.submit(
            Promise, self._call, x, lengths=lengths, mask=mask, state=state, copy=copy,
            priority=priority, timeout=timeout, deadline=deadline, block=block,
        )  # fmt: skip

    def _call(
        self, x: Any, *, lengths: Any = None, mask: Any = None, state: Any = _NO_STATE, copy: bool = True
    ) -> ModelCall:
        wants_state = state is not _NO_STATE
        return self._runner.batcher.call(x, lengths, mask, state if wants_state else None, wants_state, copy)


class StreamEngine(_QueueOwner):
    """Feeds the streams of a pool: whatever streams have a chunk are stepped together, joining and leaving at any step.

    pool       a StreamPool, empty, which the engine has for itself from now on
    max_batch  streams in one step of the pool
    slice_steps  a longer chunk is fed in slices of that number of steps, so that others join before its end
    max_queue  chunks that may wait

    A stream's chunks are answered in the order of their submission; priorities and deadlines order the streams. A
    chunk that was cancelled or came too late was not fed. After a fork the child's engine is closed: the streams are
    the parent's. Otherwise as Engine.
    """

    def __init__(self, pool: StreamPool, *, max_batch: int = 256, slice_steps: int = 16, max_queue: int = 1024):
        if not isinstance(pool, StreamPool) or len(pool):
            given = f"a pool with {len(pool)} streams" if isinstance(pool, StreamPool) else type(pool).__name__
            raise InputError(f"StreamEngine of {given}, expected an empty StreamPool: model.pool(capacity)")
        check_positive("slice_steps", slice_steps)
        self.slice_steps = slice_steps
        self._runner = StreamRunner(pool, max_batch, slice_steps)
        queue = RequestQueue(self._runner, max_batch=max_batch, max_wait=0.0, max_queue=max_queue, workers=1)
        super().__init__(queue, self._runner.chunk)

    def open(self, id: Hashable, *, inputs: Inputs | None = None) -> None:
        """A new stream at its beginning. StreamError where the id is taken or the pool full; inputs as for the pool."""
        self._queue.check_open()
        self._runner.open(id, inputs)

    def close(self, id: Hashable) -> None:
        """End a stream. Chunks of it that wait, or are not fed to their end, are answered with StreamError."""
        line = self._runner.close(id)
        self._queue.fail_line(line, StreamError(f"stream {id!r} was closed before this chunk was fed"))

    def __len__(self) -> int:
        """The number of open streams."""
        return len(self._runner.streams)

    def __contains__(self, id: Hashable) -> bool:
        return id in self._runner.streams

    def submit(
        self,
        x: ArrayLike | Inputs,
        *,
        stream: Hashable,
        finish: bool = False,
        priority: int = 0,
        timeout: float | None = None,
        deadline: float | None = None,
        block: bool = False,
    ) -> Future[Output]:
        """Feed a stream its next piece, without a batch dimension: (T, I), (T,) for ids, or a dict by name.

        finish     the sequence ends here: the outputs that still waited for later steps come too
        others     as for Engine.submit. The chunk is copied

        Returns a Future of its outputs, as pool.step gives them. Raises at once InputError, StreamError for a stream
        that is not open, QueueFullError, DeadlineError, EngineClosedError.
        """
        return self._queue.submit(
            Promise, self._runner.chunk, x, stream=stream, finish=finish,
            priority=priority, timeout=timeout, deadline=deadline, block=block,
        )  # fmt: skip


def _cancel_result(submitting: asyncio.Future) -> None:
    """Cancel the request that a thread has submitted for a task which was cancelled meanwhile."""
    if not submitting.cancelled() and submitting.exception() is None:
        submitting.result().cancel()
