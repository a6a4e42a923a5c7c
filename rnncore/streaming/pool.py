"""StreamPool: many streams of one model, any of them stepped together."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np

from rnncore.errors import FormatError, InputError, StateError, StreamError, shown
from rnncore.files.strict_json import read_json
from rnncore.graph.nodes import Input
from rnncore.kernels._pool import DirectSlots, Owner, Slots, pad_batch, rows_of
from rnncore.ops import numpy_dtype
from rnncore.runtime.arguments import as_array, as_items, empty_array
from rnncore.runtime.budget import most_steps
from rnncore.runtime.model import Model
from rnncore.runtime.state import State, arrays_from_bytes, arrays_to_bytes
from rnncore.streaming.program import StreamProgram, stream_program
from rnncore.streaming.states import StreamStates
from rnncore.streaming.stream import accept_chunk_lengths, bare_stack, batch_of_chunk, check_out

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rnncore.runtime.types import Inputs, Output

    Id = TypeVar("Id", bound=Hashable)

__all__ = ["StreamPool", "pool"]

MOST_STREAMS = 1 << 31
SLOT_BYTES = (
    160  # that a pool keeps for each stream in addition to its states: numbers of slots and handles, names, times
)
IDS = "pool.ids"


class StreamPool:
    """Up to ``capacity`` streams, made by ``model.pool(capacity)``: each is what ``model.stream()`` would be.

        pool.open("ann"), pool.open("bob")
        outputs = pool.step({"ann": chunk, "bob": longer})       # any of them, chunks of any lengths
        handles = pool.handles(["ann", "bob"])
        y = pool.step(x, handles)                                # the same as arrays: x (n, T, I), y (n, T, O)

    A step is one batched product for all of its streams. What a stream gives does not depend on the others.
    An error changes nothing. The pool has one user at a time: a second thread's call gets a StreamError.

    A stream is named by the id it was opened with, or by its handle: an integer that, unlike its slot, never comes
    back once the stream is closed.
    """

    def __init__(self, program: StreamProgram, capacity: int, clock: Callable[[], float]):
        plain = isinstance(capacity, (int, np.integer)) and not isinstance(capacity, bool)
        if not plain or not 1 <= capacity <= MOST_STREAMS:
            raise InputError(f"capacity={capacity!r}, expected an integer from 1 to {MOST_STREAMS}")
        self._program, self._clock = program, clock
        self._owned = _Owned(Owner())
        try:
            self._states = StreamStates(program, int(capacity), add_rows=True, more=SLOT_BYTES)
            self._slots = Slots(int(capacity))
        except (MemoryError, InputError) as error:
            raise InputError(f"capacity={capacity!r}: {error}") from None
        self._handles: dict[Hashable, int] = {}
        self._finished: set[int] = set()
        # Whether a piece may be one step without its time axis: (I,) where each step is answered at once.
        required = [entry for entry in program.given if not entry.optional]
        self._takes_single = program.plan.together and len(required) == 1
        self._takes_single = self._takes_single and required[0].dtype == "float" and len(required[0].shape) == 3
        self._only = self._find_only()
        node = bare_stack(program)
        self._direct = None
        if node is not None and len(program.plan.spec.outputs) == 1:
            arrays, step = self._states.arrays, program.model._steps[0]
            h, c, began = (cast(Any, arrays.get(f"{node.name}.{key}")) for key in ("h", "c", "began"))
            most = most_steps(program.model.budget, node, program.model.dtype)
            size = node.cell.input_size
            self._direct = DirectSlots(step.stack, h, c, began, self._slots, size, step.threads, most)

    # --- membership ---------------------------------------------------------------------------------------------

    def open(self, id: Hashable = None, *, inputs: Inputs | None = None) -> int:
        """A new stream at its beginning; returns its handle, which is its id too where none is given.

        inputs  the model's inputs without a time axis, by name, with a batch of 1. Streams of one pool share their
                sizes. Raises StreamError where the pool is full or the id is taken.
        """
        with self._owned:
            static = self._program.accept(inputs, 1, self._program.static, "pool")
            return self._open(id, lambda slot: self._states.reset(np.array([slot]), static))

    def _open(self, id: Hashable, fill: Callable[[int], None]) -> int:
        try:
            taken = id is not None and id in self._handles
        except TypeError:
            raise InputError(f"id: {type(id).__name__}, expected something that a dict takes as a key") from None
        if taken:
            raise StreamError(f"stream {shown(id)} is open already")
        handle = self._slots.open()
        slot = self._slots.slot(handle)
        try:
            fill(slot)
        except BaseException:
            self._slots.close(handle)
            raise
        self._slots.last_used[slot] = self._clock()
        self._handles[handle if id is None else id] = handle
        return handle

    def close(self, id: Hashable) -> None:
        """End a stream; its slot is free."""
        with self._owned:
            self._close(id)

    def _close(self, id: Hashable) -> None:
        handle = self._handle(id)
        self._slots.close(handle)
        self._finished.discard(handle)
        if self._handles.pop(id, None) is None:  # named by its handle, opened with an id
            del self._handles[next(name for name, other in self._handles.items() if other == handle)]

    def _handle(self, id: Hashable) -> int:
        try:
            handle = self._handles.get(id)
        except TypeError:
            raise StreamError(f"stream {shown(id)} is not open in this pool") from None
        if handle is None:
            self._slots.slot(cast(int, id))  # a handle, or a StreamError
            return int(cast(int, id))
        return handle

    def handles(self, ids: Iterable[Hashable]) -> np.ndarray:
        """The handles of streams, int64 (n,), as ``step`` takes them with arrays."""
        wanted = list(as_items("ids", ids))  # which may use the pool while it is made
        with self._owned:
            return np.array([self._handle(id) for id in wanted], np.int64)

    @property
    def ids(self) -> tuple[Hashable, ...]:
        """The ids of the open streams, in the order of their opening."""
        with self._owned:
            return tuple(self._handles)

    @property
    def capacity(self) -> int:
        return self._slots.capacity

    def __len__(self) -> int:
        return len(self._handles)

    def __contains__(self, id: Hashable) -> bool:
        try:
            self._handle(id)
        except StreamError:
            return False
        return True

    def idle(self, seconds: float) -> list[Hashable]:
        """Ids of the streams that were not opened or stepped for ``seconds``, the oldest first."""
        with self._owned:
            return self._idle(seconds)

    def _idle(self, seconds: float) -> list[Hashable]:
        plain = isinstance(seconds, (int, float, np.integer, np.floating)) and not isinstance(seconds, bool)
        if not plain or seconds != seconds:
            raise InputError(f"seconds={shown(seconds)}, expected a number")
        now, used = self._clock(), self._slots.last_used
        ages = {id: float(now - used[self._slots.slot(handle)]) for id, handle in self._handles.items()}
        return sorted((id for id, age in ages.items() if age >= seconds), key=ages.__getitem__, reverse=True)

    def evict(self, seconds: float, keep: Callable[[Hashable, bytes], None] | None = None) -> list[Hashable]:
        """Close the streams that were idle for ``seconds``; returns their ids.

        keep  is called with id and saved bytes of each before it is closed, so that it can be loaded when it comes back
        """
        with self._owned:
            idle = self._idle(seconds)
            for id in idle:
                if keep is not None:
                    keep(id, self._save(id))
                self._close(id)
        return idle

    # --- a step -------------------------------------------------------------------------------------------------

    @overload
    def step(self, chunks: Mapping[Id, ArrayLike | Inputs]) -> dict[Id, Output]: ...
    @overload
    def step(
        self,
        chunks: ArrayLike | Inputs,
        handles: ArrayLike,
        *,
        lengths: ArrayLike | None = None,
        out: np.ndarray | None = None,
    ) -> Output: ...
    def step(self, chunks: Any, handles: Any = None, *, lengths: Any = None, out: np.ndarray | None = None) -> Any:
        """The outputs of some streams for their next pieces.

        By id: ``chunks`` is a dict of ids to pieces without a batch dimension, (T, I), (T,) for ids, (I,) for one step
        of a model that answers each at once, or a dict by name where the model has several inputs with a time axis; T
        may differ. Returns a dict of ids to outputs.

        As arrays: ``chunks`` (n, T, I), or a dict by name, is for the streams of ``handles`` (n,); lengths (n,) says
        how many steps count where they differ, outputs after them are 0. ``out`` receives the outputs of a model that
        has one; a model that is one recurrent stack then allocates nothing.

        Raises StreamError (a stream that is not open, finished, or twice in one step) and InputError.
        """
        with self._owned:
            if handles is None:
                if lengths is not None or out is not None:
                    raise InputError("lengths and out belong to a step with handles")
                return self._step_by_id(chunks)
            return self._step_arrays(chunks, handles, lengths, out)

    def _step_arrays(self, x: Any, handles: Any, lengths: Any, out: Any) -> Any:
        handles = self._accept_handles(handles)
        count = len(handles)
        if self._direct is not None and not self._finished and isinstance(x, np.ndarray):
            ready = (
                lengths if lengths is None else accept_chunk_lengths(lengths, count, x.shape[1] if x.ndim > 1 else 0)
            )
            y = self._direct.step_arrays(x, handles, ready, out, self._clock())
            if y is not None:
                return y
        given = x if isinstance(x, Mapping) else {self._only_input().name: x}
        new, accepted = batch_of_chunk(self._program, given, count, add_rows=True)
        lengths = None if lengths is None else accept_chunk_lengths(lengths, count, new)
        check = None if out is None else lambda outputs: check_out(out, self._program.returned(outputs))
        outputs, _ = self._advance(handles, accepted, new, lengths, check=check)
        if out is None:
            return self._program.returned(outputs)
        out[...] = self._program.returned(outputs)
        return out

    def _accept_handles(self, handles: Any) -> np.ndarray:
        if type(handles) is np.ndarray and handles.dtype == np.int64 and handles.ndim == 1 and handles.flags.carray:
            return handles
        array = as_array("handles", handles)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(f"handles: {array.dtype} {array.shape}, expected int64 (n,)")
        if len(array) > self.capacity:
            raise InputError(f"handles: {len(array)} of them, expected at most the pool's {self.capacity}")
        return np.ascontiguousarray(array, np.int64)

    def _only_input(self) -> Input:
        required = [entry for entry in self._program.given if not entry.optional]
        if len(required) != 1:
            names = ", ".join(entry.name for entry in required)
            raise InputError(f"a stream of this model has {len(required)} inputs ({names}): give {{name: array}}")
        return required[0]

    def _advance(self, handles, accepted, new, lengths, ended=False, check=None):
        slots = self._slots.slots_of(handles)
        done = np.flatnonzero(self._states.arrays["ended"][slots])
        if len(done):
            raise StreamError(f"stream {handles[done[0]]} is finished, reset it before feeding more")
        outputs = self._states.advance(slots, accepted, new, lengths, ended, check)
        self._slots.last_used[slots] = self._clock()
        return outputs

    def _step_by_id(self, chunks: Any) -> dict[Hashable, Any]:
        if not isinstance(chunks, Mapping):
            raise InputError(
                f"chunks: {type(chunks).__name__}, expected a dict of ids to chunks, or arrays with handles"
            )
        if not chunks:
            return {}
        if self._direct is not None and not self._finished:
            outputs = self._direct.step_by_id(dict(chunks), self._handles, self._clock())
            if outputs is not None:
                return outputs
        handles = list(map(self._handles.get, chunks))
        if None in handles:
            handles = [self._handle(id) for id in chunks]
        given, lengths = self._plain(chunks) or self._padded(chunks)
        new = int(lengths.max())
        accepted = self._program.accept(given, len(handles), self._program.given, "pool", add_rows=True)
        outputs, counts = self._advance(np.array(handles, np.int64), accepted, new, lengths)
        single = [False] * len(handles)
        if self._takes_single:
            single = [_is_list(chunk) for chunk in chunks.values()]
        parts = [self._rows_of(name, array, counts[name], single) for name, array in outputs.items()]
        if self._program.one_output:
            return dict(zip(chunks, parts[0], strict=True))
        names = tuple(outputs)
        return {id: dict(zip(names, arrays, strict=True)) for id, *arrays in zip(chunks, *parts, strict=True)}

    def _plain(self, chunks: Mapping[Hashable, Any]) -> tuple[dict[str, np.ndarray], np.ndarray] | None:
        """The result of _padded, by one fast call: for arrays of the model's only input, as they have to be."""
        if self._only is None or type(chunks) is not dict:
            return None
        name, dtype, sizes, single = self._only
        padded = pad_batch(chunks, dtype, sizes, single)
        return padded and ({name: padded[0]}, padded[1])

    def _find_only(self) -> tuple[str, np.dtype, tuple[int, ...], bool] | None:
        """The model's only input, which has its rows first and then its steps: name, dtype, other sizes, or -1; and
        whether a piece may be one step."""
        if len(self._program.given) != 1:
            return None
        (entry,) = self._program.given
        flow = self._program.plan.flows[entry.name]
        if self._program.axes(flow, True) != (0, 1):
            return None
        others = [size for axis, size in enumerate(entry.shape) if axis not in (flow.batch, flow.time)]
        sizes = tuple(-1 if isinstance(size, str) else size for size in others)
        return entry.name, numpy_dtype(entry.dtype, self._program.model.dtype), sizes, self._takes_single

    def _rows_of(self, name: str, array: np.ndarray, counts: np.ndarray, single: list[bool]) -> list[np.ndarray]:
        """Each row's part of one output, in arrays of their own: steps as far as they count."""
        batch, time = self._program.axes(self._program.plan.flows[name], True)
        if batch is None:
            return [array.copy() for _ in single]
        if (batch, time) in ((0, 1), (0, None)):
            return rows_of(array, None if time is None else counts, single)
        return [self._of_row({name: array}, {name: counts}, row, one)[name] for row, one in enumerate(single)]

    def _of_row(
        self, outputs: dict[str, np.ndarray], counts: dict[str, np.ndarray], row: int, single: bool = False
    ) -> dict[str, np.ndarray]:
        """One row's part of the outputs, in arrays of its own: its steps without the batch; a single one alone."""
        own, flows = {}, self._program.plan.flows
        for name, array in outputs.items():
            batch, time = self._program.axes(flows[name], True)
            one = array
            if batch is not None:
                one = np.take(array, row, axis=batch)
                time = None if time is None else time - (time > batch)
            if time is not None:
                one = one[(slice(None),) * time + (0 if single else slice(counts[name][row]),)]
            own[name] = np.array(one)
        return own

    def _padded(self, chunks: Mapping[Hashable, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """The streams' pieces as one batch, by input, and how many steps each has."""
        program = self._program
        named: list[dict[str, np.ndarray]] = []
        for id, chunk in chunks.items():
            given = chunk if isinstance(chunk, Mapping) else {self._only_input().name: chunk}
            unknown = [name for name in given if name not in [entry.name for entry in program.given]]
            if unknown:
                expected = ", ".join(entry.name for entry in program.given)
                raise InputError(f"stream {id!r}: input {unknown[0]!r} is unknown, expected {expected}")
            named.append({name: self._piece(id, name, array) for name, array in given.items() if array is not None})
        lengths = np.zeros(len(named), np.int64)
        padded: dict[str, np.ndarray] = {}
        for entry in program.given:
            there = [entry.name in piece for piece in named]
            if not any(there):
                continue
            if not all(there):
                missing = list(chunks)[there.index(False)]
                raise InputError(f"stream {missing!r}: input {entry.name!r} missing, which other streams have")
            padded[entry.name] = self._pad_batch(entry, list(chunks), [f[entry.name] for f in named], lengths)
        return padded, lengths

    def _piece(self, id: Hashable, name: str, given: Any) -> np.ndarray:
        """One stream's piece, with its time first."""
        entry = next(entry for entry in self._program.given if entry.name == name)
        flow, array = self._program.plan.flows[name], as_array(f"stream {id!r}: {name}", given)
        shape = [size for axis, size in enumerate(entry.shape) if axis != flow.batch]
        time = flow.time - (flow.batch is not None and flow.batch < flow.time)
        if array.ndim == 1 and self._takes_single:
            array = np.expand_dims(array, time)
        fits = array.ndim == len(shape) and all(
            isinstance(size, str) or size == actual for size, actual in zip(shape, array.shape, strict=True)
        )
        wanted = numpy_dtype(entry.dtype, self._program.model.dtype)
        if not fits:
            expected = f"({', '.join(map(str, shape))})"
            raise InputError(f"stream {id!r}: {name}: shape {array.shape}, expected {expected}")
        if array.dtype.kind not in {"f": "fiub", "b": "b"}.get(wanted.kind, "iu"):
            raise InputError(f"stream {id!r}: {name}: dtype {array.dtype}, expected {wanted}")
        return np.moveaxis(array, time, 0)

    def _pad_batch(self, entry: Input, ids: list, pieces: list[np.ndarray], lengths: np.ndarray) -> np.ndarray:
        flow = self._program.plan.flows[entry.name]
        counts = np.array([len(piece) for piece in pieces])
        if lengths.any() and (counts != lengths).any():
            row = int(np.flatnonzero(counts != lengths)[0])
            raise InputError(f"stream {ids[row]!r}: {entry.name}: {counts[row]} steps, expected {lengths[row]}")
        lengths[:] = counts
        rest = {piece.shape[1:] for piece in pieces}
        if len(rest) > 1:
            raise InputError(f"{entry.name}: pieces of sizes {' and '.join(map(str, rest))} in one step, expected one")
        wanted = numpy_dtype(entry.dtype, self._program.model.dtype)
        padded = empty_array(entry.name, (len(pieces), int(counts.max()), *rest.pop()), wanted)
        for row, piece in enumerate(pieces):
            padded[row, : len(piece)] = piece
        places = cast("tuple[int, int]", self._program.axes(flow, True))
        return np.moveaxis(padded, (0, 1), places)

    def finish(self, id: Hashable) -> Output:
        """A stream's outputs that still wait for steps to come; see Stream.finish. It stays open."""
        with self._owned:
            handle = self._handle(id)
            outputs, counts = self._advance(np.array([handle]), {}, 0, None, ended=True)
            self._finished.add(handle)
            return self._program.returned(self._of_row(outputs, counts, 0))

    # --- one stream, all streams --------------------------------------------------------------------------------

    def reset(self, id: Hashable) -> None:
        """A stream back to its beginning."""
        with self._owned:
            handle = self._handle(id)
            self._states.reset(np.array([self._slots.slot(handle)]))
            self._finished.discard(handle)

    def fork(self, id: Hashable, new: Hashable = None) -> int:
        """A new stream that goes on from where one is; returns its handle."""
        with self._owned:
            handle = self._handle(id)
            source = self._slots.slot(handle)
            copied = self._open(new, lambda slot: self._states.copy_rows(source, slot))
            if handle in self._finished:
                self._finished.add(copied)
            return copied

    def state(self, id: Hashable) -> State:
        """A copy of what a stream's recurrent layers carry, with a batch of 1."""
        with self._owned:
            slot = self._slots.slot(self._handle(id))
            arrays = self._states.arrays
            return State({name: np.array(arrays[name][:, [slot]]) for name in arrays if name in self._states.recurrent})

    def save(self, id: Hashable) -> bytes:
        """One stream as bytes: what Stream.save gives, and ``load`` here or there takes."""
        with self._owned:
            return self._save(id)

    def _save(self, id: Hashable) -> bytes:
        slot = self._slots.slot(self._handle(id))
        return arrays_to_bytes(self._states.save(np.array([slot])), self._program.fingerprint)

    def load(self, data: bytes, id: Hashable = None) -> int:
        """Open a stream where a saved one was; returns its handle.

        Raises FormatError for damaged bytes, StateError for those of another model and StreamError as ``open``.
        """
        with self._owned:
            saved = arrays_from_bytes(data, self._program.fingerprint)
            self._states.check_saved(saved, 1)
            handle = self._open(id, lambda slot: self._states.load(np.array([slot]), saved))
            if saved["ended"].any():
                self._finished.add(handle)
            return handle

    def save_all(self) -> bytes:
        """All streams as bytes, with their ids, which must be strings or integers."""
        with self._owned:
            ids = list(self._handles)
            for id in ids:
                if type(id) not in (str, int):
                    raise StateError(f"stream {id!r}: an id of type {type(id).__name__}, expected str or int to save")
            slots = np.array([self._slots.slot(handle) for handle in self._handles.values()], np.int64)
            arrays = {IDS: np.frombuffer(json.dumps(ids).encode(), np.uint8), **self._states.save(slots)}
            return arrays_to_bytes(arrays, self._program.fingerprint)

    def load_all(self, data: bytes) -> None:
        """Open the streams that another pool saved, under their ids, and keep those that are open: all or none."""
        with self._owned:
            saved = arrays_from_bytes(data, self._program.fingerprint)
            ids = _ids(saved.pop(IDS, None))
            self._states.check_saved(saved, len(ids))
            taken = [id for id in ids if id in self._handles]
            if taken:
                raise StreamError(f"stream {taken[0]!r} is open already")
            if len(self) + len(ids) > self.capacity:
                raise StreamError(
                    f"{len(ids)} more streams, but {self.capacity - len(self)} of {self.capacity} are free"
                )
            if ids:
                handles = [self._slots.open() for _ in ids]
                slots = np.array([self._slots.slot(handle) for handle in handles])
                try:
                    self._states.load(slots, saved)
                except BaseException:
                    for handle in handles:
                        self._slots.close(handle)
                    raise
                self._slots.last_used[slots] = self._clock()
                self._handles.update(zip(ids, handles, strict=True))
                self._finished.update(np.array(handles)[saved["ended"]].tolist())

    @property
    def nbytes(self) -> int:
        """Bytes of all streams' states, open or not: they are allocated once."""
        return self._states.nbytes

    def __repr__(self) -> str:
        return f"<StreamPool of {self._program.model!r}: {len(self)} of {self.capacity} open>"


class _Owned:
    """Holds an owner's flag while a block runs, or is a StreamError."""

    __slots__ = ("owner",)

    def __init__(self, owner: Owner):
        self.owner = owner

    def __enter__(self) -> None:
        if not self.owner.take():
            raise StreamError("this pool is in use by another thread; a pool has one user at a time")

    def __exit__(self, *error: object) -> None:
        self.owner.release()


def _is_list(chunk: Any) -> bool:
    """Whether a piece has one dimension."""
    if type(chunk) is np.ndarray:
        return chunk.ndim == 1
    return not isinstance(chunk, Mapping) and np.ndim(chunk) == 1


def _ids(array: np.ndarray | None) -> list[str | int]:
    """The ids of a saved pool."""
    if array is None:
        raise StateError(f"state: no array {IDS!r}: one stream, expected a pool")
    ids = read_json(array.tobytes(), f"state: {IDS}")
    plain = isinstance(ids, list) and all(type(id) in (str, int) for id in ids)
    if not plain or len(set(ids)) != len(ids):
        raise FormatError(f"state: {IDS}: expected a list of different strings and integers")
    return ids


def pool(
    model: Model,
    capacity: int,
    lookahead: int | None,
    block: int | None,
    history: int | None,
    clock: Callable[[], float],
) -> StreamPool:
    """Model.pool."""
    return StreamPool(stream_program(model, lookahead, block, history), capacity, clock)
