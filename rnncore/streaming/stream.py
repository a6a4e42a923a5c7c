"""Stream: a model that keeps its state between calls, for one caller's sequence as it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rnncore.errors import InputError, StateError, StreamError, shown
from rnncore.graph.nodes import Recurrent
from rnncore.kernels import _recurrent
from rnncore.kernels._pool import DirectStream, Owner
from rnncore.ops import numpy_dtype
from rnncore.runtime.arguments import accept_state, as_array
from rnncore.runtime.budget import most_steps
from rnncore.runtime.model import Model
from rnncore.runtime.state import State, arrays_from_bytes, arrays_to_bytes
from rnncore.streaming.fast_call import FastCall
from rnncore.streaming.program import StreamProgram, stream_program
from rnncore.streaming.states import StreamStates

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnncore.runtime.types import Inputs, Output

# The number of shapes of pieces that are accepted without looking at them again.
KNOWN_SHAPES = 64

__all__ = ["Stream", "accept_chunk_lengths", "bare_stack", "batch_of_chunk", "check_out", "stream"]


class Stream:
    """A sequence, or ``batch`` of them, that arrives in pieces: made by ``model.stream()``.

    The outputs of all pieces together are those of the whole sequence, however it is cut; with float32 and the native
    kernels bit for bit. Where a layer looks ahead (a convolution that is not causal, a bidirectional layer with
    ``lookahead``), outputs come later, and ``finish`` gives those that still wait: see ``latency``.

    A stream has one user at a time: a second thread's call gets a StreamError. An error changes nothing.
    """

    def __init__(self, program: StreamProgram, batch: int = 1, inputs: Inputs | None = None):
        if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1:
            raise InputError(f"batch={shown(batch)}, expected a positive integer")
        if program.plan.single and batch != 1:
            raise InputError(f"batch={batch!r}, expected 1, which this model's batch is fixed to")
        self._program, self._batch = program, int(batch)
        self._owner = Owner()
        try:
            self._states: Any = StreamStates(program, self._batch)  # None once it is closed
        except (MemoryError, ValueError, OverflowError) as error:
            raise InputError(f"batch={shown(batch)}: {error}") from None
        self._states.reset(slice(None), program.accept(inputs, self._batch, program.static, "stream"))
        self._states_wanted = len(program.plan.outputs) > 1
        self._lacking = False  # whether the last piece had no batch
        self._plain: dict[tuple[int, ...], tuple[tuple[int, ...], int, int]] = {}
        dtypes = [numpy_dtype(entry.dtype, program.model.dtype) for entry in program.given]
        self._only_dtype = dtypes[0] if len(dtypes) == 1 else None
        self._find_short_ways()

    def _find_short_ways(self) -> None:
        self._direct = self._find_direct()
        self._ended = bool(self._states.arrays["ended"].any())
        self._fast_call = FastCall.of(self._states) if self._direct is None and not self._ended else None

    def _find_direct(self) -> DirectStream | None:
        """The kernels' stream of a model that is one forward stack; None for others."""
        node = bare_stack(self._program)
        if node is None or self._states.arrays["ended"].any():
            return None
        arrays, stack = self._states.arrays, self._program.model._steps[0].stack
        h, c, began = (arrays.get(f"{node.name}.{key}") for key in ("h", "c", "began"))
        model = self._program.model
        threads, most = model._steps[0].threads, most_steps(model.budget, node, model.dtype)
        return DirectStream(stack, h, c, began, self._owner, node.cell.input_size, threads, most)

    def feed(
        self,
        x: ArrayLike | Inputs,
        *,
        lengths: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        out: np.ndarray | None = None,
    ) -> Output:
        """The outputs for the next piece.

        x        what the model takes, any number of steps: (B, T, I), or (B, T) for ids; a stream of one row may leave
                 the batch out and then gets outputs without it, and a model that answers each step at once takes one
                 as (I,). A dict by name where the model has several inputs with a time axis
        lengths  (B,) steps of each row that count, for pieces of different lengths; outputs after them are 0
        mask     (B, T) bool, for models with an input "mask"
        out      array of the only output's shape and dtype that receives it; a model that is one recurrent stack then
                 allocates nothing

        Returns what ``model(x)`` would: steps as far as they are known, and values without a time axis (last outputs,
        final states) as they are after this piece. A dict of outputs lacks those that only the end of the sequence
        decides: the final states of layers that look ahead. Raises InputError and StreamError.
        """
        direct = self._direct  # read once: another thread may close the stream now
        y: Any
        if direct is not None and lengths is None and mask is None:
            if not self._states_wanted:
                y = direct.feed(x, out)
            else:
                y = None if out is not None else self._feed_with_states(direct, x)
            if y is not None:
                self._lacking = cast(np.ndarray, x).ndim < 3
                return y
        self._take()
        try:
            if self._fast_call is not None and lengths is None and mask is None and out is None:
                bare = self._batch == 1 and self._fast_call.lacks_batch(x)
                outputs = self._fast_call(cast(np.ndarray, x)[None] if bare else x)
                if outputs is not None:
                    self._lacking = bare
                    return self._returned(outputs, int(bare))
            return self._feed(x, lengths, mask, out)
        finally:
            self._owner.release()

    def _feed_with_states(self, direct: DirectStream, x: Any) -> dict[str, np.ndarray] | None:
        """The fast call for a model that returns final states with its sequence."""
        results = direct.feed(x, None, True)
        if results is None:
            return None
        y, h, c = results
        if y.ndim < 3:
            h, c = h[:, 0], None if c is None else c[:, 0]
        name = self._program.plan.spec.nodes[0].name
        values: dict[str, Any] = {name: y, f"{name}.h": h, f"{name}.c": c}
        return {output: values[output] for output in self._program.plan.outputs}

    def _feed(self, x: Any, lengths: Any, mask: Any, out: np.ndarray | None) -> Any:
        rows = self._open_states()
        if self._ended:
            raise StreamError("this stream is finished, reset it before feeding more")
        accepted, new, lacking = self._accept(x, mask)
        lengths = None if lengths is None else accept_chunk_lengths(lengths, self._batch, new)
        check = None if out is None else lambda outputs: check_out(out, self._returned(outputs, lacking))
        outputs, _ = rows.advance(rows.all, accepted, new, lengths, check=check, counted=False)
        self._lacking = lacking > 0
        y = self._returned(outputs, lacking)
        if out is None:
            return y
        out[...] = y
        return out

    def _accept(self, x: Any, mask: Any) -> tuple[dict[str, Any], int, int]:
        """The inputs by name, the number of steps, and what x lacked: see _named."""
        program, plain = self._program, mask is None and self._only_dtype is not None and type(x) is np.ndarray
        plain = plain and x.dtype == self._only_dtype and x.flags.carray
        known = self._plain.get(x.shape) if plain else None
        if known is not None:  # a shape that was accepted before
            shape, new, lacking = known
            return {program.given[0].name: x.reshape(shape)}, new, lacking
        given, lacking = _named(program, x, mask, self._batch)
        new, accepted = batch_of_chunk(program, given, self._batch)
        if plain and len(self._plain) < KNOWN_SHAPES:
            self._plain[x.shape] = (accepted[program.given[0].name].shape, new, lacking)
        return accepted, new, lacking

    def finish(self) -> Output:
        """The outputs that still wait for steps to come: the sequence ends here.

        As the last piece came: without a batch where that had none. Values without a time axis are as they were. Then
        the stream can only be reset, copied, saved or loaded.
        """
        self._take()
        try:
            rows = self._open_states()
            if self._ended:
                raise StreamError("this stream is finished already")
            outputs, _ = rows.advance(rows.all, {}, 0, None, ended=True)
            self._ended = True
            self._direct = self._fast_call = None  # which do not know that a stream may have ended
            return self._returned(outputs, self._lacking)
        finally:
            self._owner.release()

    def reset(self, rows: Any = None) -> None:
        """Back to the beginning: all rows, or those that an index, a slice or a boolean mask names."""
        self._take()
        try:
            states = self._open_states()
            try:
                states.reset(slice(None) if rows is None else np.arange(self._batch)[rows].reshape(-1))
            except (IndexError, TypeError, ValueError, OverflowError, MemoryError) as error:
                raise InputError(f"rows: {error}") from None
            self._find_short_ways()
        finally:
            self._owner.release()

    def copy(self) -> Stream:
        """A stream of its own that goes on from here."""
        self._take()
        try:
            other = Stream.__new__(Stream)
            rows = self._open_states()
            other._program, other._batch = self._program, self._batch
            other._plain, other._only_dtype = {}, self._only_dtype
            other._owner, other._states_wanted, other._lacking = Owner(), self._states_wanted, self._lacking
            other._states = StreamStates(self._program, self._batch)
            other._states.static = {name: None if a is None else a.copy() for name, a in rows.static.items()}
            for name, array in rows.arrays.items():
                other._states.arrays[name][...] = array
            other._find_short_ways()
            return other
        finally:
            self._owner.release()

    def save(self) -> bytes:
        """Everything the stream carries, as bytes in the layout of State.to_bytes, bound to this model."""
        self._take()
        try:
            return arrays_to_bytes(self._open_states().save(slice(None)), self._fingerprint())
        finally:
            self._owner.release()

    def load(self, data: bytes) -> None:
        """Go on where the stream was that wrote these bytes: of this model, the same batch and options.

        Raises FormatError for damaged bytes and StateError for those of another model; the stream is then unchanged.
        """
        saved = arrays_from_bytes(data, self._fingerprint())
        self._take()
        try:
            rows = self._open_states()
            rows.check_saved(saved, self._batch)
            rows.load(slice(None), saved)
            self._find_short_ways()
        finally:
            self._owner.release()

    @property
    def state(self) -> State:
        """A copy of what the recurrent layers carry: what ``model(x, state)`` returns and takes.

        May be set where the stream carries nothing else.
        """
        self._take()
        try:
            rows = self._open_states()
            return State({name: rows.arrays[name].copy() for name in rows.arrays if name in rows.recurrent})
        finally:
            self._owner.release()

    @state.setter
    def state(self, state: Mapping[str, np.ndarray]) -> None:
        self._take()
        try:
            rows = self._open_states()
            more = [name for name in rows.arrays if name not in (*rows.recurrent, "steps", "ended")]
            if more:
                raise StateError(f"state: this stream also carries {', '.join(more)}; use save and load")
            accepted = accept_state(self._program.plan.spec.stateful, state, self._batch, self._program.model.dtype)
            for name, array in accepted.items():
                rows.arrays[name][...] = array
        finally:
            self._owner.release()

    @property
    def batch(self) -> int:
        return self._batch

    @property
    def latency(self) -> int:
        """The most steps of the input by which outputs are late."""
        return self._program.plan.latency

    @property
    def nbytes(self) -> int:
        """Bytes of what the stream carries."""
        return self._open_states().nbytes

    def close(self) -> None:
        """Forget the state; any further use is a StreamError."""
        self._take()
        self._states = self._direct = self._fast_call = None
        self._owner.release()

    @property
    def closed(self) -> bool:
        return self._states is None

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        rows = self._states
        what = "closed" if rows is None else f"batch {self._batch}, {rows.nbytes} bytes"
        return f"<Stream of {self._program.model!r}: {what}>"

    def _fingerprint(self) -> str:
        return self._program.fingerprint

    def _open_states(self) -> StreamStates:
        if self._states is None:
            raise StreamError("this stream is closed")
        return self._states

    def _take(self) -> None:
        if not self._owner.take():
            raise StreamError("this stream is in use by another thread; a stream has one user at a time")

    def _returned(self, outputs: dict[str, np.ndarray], lacking: int) -> Any:
        """The outputs without what the piece lacked: 0 nothing, 1 the batch, 2 the batch and the time."""
        if lacking:
            outputs = {name: self._without(name, array, lacking) for name, array in outputs.items()}
        return self._program.returned(outputs)

    def _without(self, name: str, array: np.ndarray, lacking: int) -> np.ndarray:
        flow = self._program.plan.flows[name]
        if lacking == 1:
            return array if flow.batch is None else array[(slice(None),) * flow.batch + (0,)]
        index: list[Any] = [slice(None)] * array.ndim
        if flow.batch is not None:
            index[flow.batch] = 0
        if flow.time is not None:
            index[flow.time] = 0
        return array[tuple(index)]


def bare_stack(program: StreamProgram) -> Recurrent | None:
    """The node of a model that is one forward stack of native kernels; None for others.

    It returns its sequence, and may return its final states too.
    """
    plan, spec = program.plan, program.plan.spec
    node = spec.nodes[0] if len(spec.nodes) == 1 else None
    plain = (
        isinstance(node, Recurrent)
        and plan.parts[0].how == "recurrent"
        and node.layout == "batch_first"
        and node.name in spec.outputs
        and set(spec.outputs) <= {node.name, *(f"{node.name}.{key}" for key in node.cell.states)}
        and len(set(spec.outputs)) == len(spec.outputs)
        and not plan.fixed
        and isinstance(program.model._steps[0].stack, _recurrent.Stack)
    )
    return cast(Recurrent, node) if plain else None


def _named(program: StreamProgram, x: Any, mask: Any, batch: int) -> tuple[dict[str, Any], int]:
    """Inputs by name with all axes, and what x lacked of them: 0 nothing, 1 the batch, 2 the batch and the time."""
    required = [entry for entry in program.given if not entry.optional]
    if isinstance(x, Mapping):
        given = dict(x)
        if mask is not None:
            given["mask"] = mask
        return given, 0
    if len(required) != 1:
        names = ", ".join(entry.name for entry in required)
        raise InputError(f"a stream of this model has {len(required)} inputs ({names}): feed {{name: array}}")
    entry, array = required[0], as_array(required[0].name, x)
    flow = program.plan.flows[entry.name]
    lacking = len(entry.shape) - array.ndim if batch == 1 and flow.batch is not None else 0
    if lacking == 2 and entry.dtype == "float" and len(entry.shape) == 3 and program.plan.together and mask is None:
        return {entry.name: array.reshape(1, 1, -1)}, 2
    if lacking != 1:
        return _with_mask({entry.name: array}, mask, None), 0
    return _with_mask({entry.name: np.expand_dims(array, flow.batch)}, mask, flow.batch), 1


def _with_mask(given: dict[str, Any], mask: Any, axis: int | None) -> dict[str, Any]:
    if mask is not None:
        given["mask"] = mask if axis is None else np.expand_dims(np.asarray(mask), axis)
    return given


def batch_of_chunk(
    program: StreamProgram, given: Mapping[str, Any], batch: int, add_rows: bool = False
) -> tuple[int, dict[str, Any]]:
    """Number of new steps, and the inputs checked; add_rows as for StreamProgram.accept."""
    accepted = program.accept(given, batch, program.given, "pool" if add_rows else "stream", add_rows)
    axes = {name: program.axes(program.plan.flows[name], add_rows) for name in accepted}
    counts = {name: array.shape[axes[name][1]] for name, array in accepted.items() if array is not None}
    if len(set(counts.values())) > 1:
        raise InputError(f"inputs of different numbers of steps: {counts}")
    return next(iter(counts.values())), accepted


def check_out(out: Any, y: Any) -> None:
    """InputError where out cannot receive y."""
    fits = isinstance(y, np.ndarray) and isinstance(out, np.ndarray) and out.flags.writeable
    if not fits or (out.shape, out.dtype) != (y.shape, y.dtype):
        given = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        expected = f"{y.dtype} {y.shape}, writeable" if isinstance(y, np.ndarray) else "none: there are several outputs"
        raise InputError(f"out: {given}, expected {expected}")


def accept_chunk_lengths(lengths: Any, batch: int, steps: int) -> np.ndarray:
    """lengths (B,) int64, each from 0 to the number of steps."""
    counts = as_array("lengths", lengths)
    if counts.dtype.kind not in "iu" or counts.shape != (batch,):
        raise InputError(f"lengths: {counts.dtype} {counts.shape}, expected integers ({batch},), one for each row")
    counts = counts.astype(np.int64)
    wrong = np.flatnonzero((counts < 0) | (counts > steps))
    if len(wrong):
        raise InputError(f"lengths: {counts[wrong[0]]} at row {wrong[0]}, expected 0 to {steps}")
    return counts


def stream(
    model: Model,
    batch: int,
    lookahead: int | None,
    block: int | None,
    history: int | None,
    inputs: Mapping[str, Any] | None,
) -> Stream:
    """Model.stream."""
    return Stream(stream_program(model, lookahead, block, history), batch, inputs)
