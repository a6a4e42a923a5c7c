"""Running one Recurrent node: rows sorted by length, states in and out, outputs merged and masked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from rnncore.errors import InputError
from rnncore.graph.nodes import Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights
from rnncore.kernels import _recurrent
from rnncore.kernels._program import Copy, Elements, Operand
from rnncore.ops.linear import check_ids
from rnncore.runtime.arguments import accept_lengths, accept_mask, check_mask_is_lengths
from rnncore.runtime.packing import pack, packed_weights
from rnncore.runtime.state import State

if TYPE_CHECKING:
    from rnncore.runtime.program import Compiler

__all__ = ["ALL_ROWS", "RecurrentStep", "repeat_masked", "rows_of_mask"]

Values = dict[str, Any]


class _Rows(NamedTuple):
    """The steps of each row that count, as the time loop takes them: see Job in kernels/_blas_loop.pyx.

    All None where every step counts; steps and mask (B, T) None where only lengths say what does.
    """

    order: np.ndarray | None = None
    lengths: np.ndarray | None = None
    steps: np.ndarray | None = None
    mask: np.ndarray | None = None


ALL_ROWS = _Rows()


class RecurrentStep:
    """Runs one Recurrent node, all its layers and directions by one call of the time loop.

    needed: names of the values that are read; given: those of the Spec's inputs; packs: see stacks.pack.
    """

    def __init__(
        self,
        node: Recurrent,
        weights: Weights,
        dtype: np.dtype,
        needed: set[str],
        given: set[str],
        threads: int,
        packs: dict[tuple, Any] | None = None,
    ):
        self.node = node
        self.label = f"node {node.name!r}"
        self.mask_given = node.mask in given
        self.flip = node.output_order == "processing"
        self.dtype = dtype
        self.time_first = node.layout == "time_first"
        self.sequence_needed = any(f"{node.name}{end}" in needed for end in ("", ".forward", ".reverse"))
        self.last_needed = f"{node.name}.last" in needed
        self.ragged = node.lengths is not None or node.mask is not None
        self.trained = {}
        if node.trained_state:
            self.trained = {
                key: weights[f"{node.name}.initial_{key}"].astype(dtype, copy=False) for key in node.cell.states
            }
        self.stack = pack(node, weights, dtype, packs)
        self.packed = packed_weights(node, self.stack)
        self.merged = node.merge if node.merge in ("sum", "mul", "average") else "set"
        self.threads = threads
        self.states = {key: f"{node.name}.{key}" for key in node.cell.states}
        self.width = node.cell.output_size * 2 if node.merge == "separate" else node.output_size
        self.embedding: Node | None = None
        self.table: _recurrent.Table | None = None

    def table_bytes(self, rows: int) -> int:
        """Bytes of the table that fold would make for an embedding of ``rows`` rows; 0 if it makes none."""
        return _recurrent.table_bytes(self.stack, rows) if isinstance(self.stack, _recurrent.Stack) else 0

    def fold(self, embedding: Node, weight: np.ndarray) -> None:
        """From now on read the ids that the Embedding node would have read."""
        self.embedding, self.table = embedding, _recurrent.Table(cast(_recurrent.Stack, self.stack), weight)

    def direct(self, spec: Spec, most: int) -> _recurrent.Direct | None:
        """The short way for a Spec that is this node and returns its sequence, where there is one.

        most: rows times steps that it answers; more go the long way.
        """
        node = self.node
        plain = (
            isinstance(self.stack, _recurrent.Stack)
            and spec.outputs == (node.name,)
            and [entry.name for entry in spec.inputs if not entry.optional] == [node.input]
            and not (self.time_first or self.flip or node.trained_state or node.initial)
        )
        if not plain:
            return None
        names = tuple(f"{node.name}.{key}" for key in node.cell.states)
        size = node.cell.input_size
        return _recurrent.Direct(
            cast(_recurrent.Stack, self.stack), self.merged, size, node.output_size, names, self.threads, most
        )

    def __call__(self, values: Values, before: State | None, after: dict[str, np.ndarray]) -> None:
        node = self.node
        x = self._ids(values) if self.table is not None else values[node.input]
        if x.strides[-1] != x.itemsize and x.shape[-1] > 1:
            x = np.ascontiguousarray(x)
        batch_axis, time_axis = (1, 0) if self.time_first else (0, 1)
        batch, steps = x.shape[batch_axis], x.shape[time_axis]
        rows = self._rows(values, batch, steps) if self.ragged else ALL_ROWS
        shapes = node.state_shapes(batch)
        initial = self._initial(values, before, shapes)
        final = tuple(np.empty(shape, self.dtype) for shape in shapes.values())

        y: Any = self._output(batch, steps, ragged=rows.order is not None)
        # Masked steps repeat each direction's own outputs, which therefore are kept side by side until they are filled.
        repeat = rows.mask is not None and node.masked_output == "repeat" and y is not None
        apart = repeat and self.merged != "set"
        out = np.zeros((*y.shape[:2], 2 * y.shape[2]), self.dtype) if apart else y
        self.stack.run(
            x, out, self.merged, "set" if apart else self.merged, self.time_first, self.flip,
            rows.order, rows.lengths, rows.steps,
            initial, final, self.threads, self.table,
        )  # fmt: skip
        if repeat:
            size = node.cell.output_size
            for d, direction in enumerate(node.directions):
                self._repeat(out[..., d * size : (d + 1) * size], cast(np.ndarray, rows.mask), direction == "reverse")
        if apart:
            y = merge_directions(node.merge, np.stack(np.split(out, 2, axis=2)))
        self._store(values, after, y, final)

    @property
    def reads(self) -> tuple[str, ...]:
        """The values that it reads: the ids of an Embedding that is a table of it, in place of that."""
        if self.embedding is None:
            return self.node.reads
        return (self.embedding.inputs[0], *(name for name in self.node.reads if name != self.embedding.name))

    def bind(self, compiler: Compiler) -> bool:
        """Add the instructions of a call for the compiler's sizes; False where it needs this step as it is."""
        node = self.node
        x = compiler.operand(self.embedding.inputs[0] if self.embedding is not None else node.input)
        given = [compiler.operand(name) for name in (node.lengths, node.mask) if name]
        if x is None or x.size == 0 or not isinstance(self.stack, _recurrent.Stack) or any(given):
            return False
        batch = x.shape[1 if self.time_first else 0]
        shapes = node.state_shapes(batch)
        initial = self._bound_initial(compiler, shapes)
        if initial is None:
            return False
        if self.table is None and (x.strides[2] != x.itemsize or any(stride % x.itemsize for stride in x.strides)):
            x = compiler.dense(x)
        y = compiler.new((*x.shape[:2], self.width), self.dtype) if self.sequence_needed else None
        final: tuple[Operand, ...] = ()
        if compiler.needs(*self.states.values(), f"{node.name}.last"):
            final = tuple(compiler.new(shape, self.dtype) for shape in shapes.values())
        call = _recurrent.StackCall(
            self.stack, x, y, self.merged, self.time_first, self.flip, initial, final, self.threads, self.table
        )
        compiler.emit(call, [x, *initial], [*final, *([] if y is None else [y])])
        self._store_bound(compiler, y, final)
        return True

    def _bound_initial(self, compiler: Compiler, shapes: dict[str, tuple[int, ...]]) -> tuple[Operand, ...] | None:
        """The states to begin with, as for _initial; None where one has another shape than the node wants."""
        if compiler.before:
            states = [compiler.before[name] for name in self.states.values()]
        elif self.node.initial:
            states = [cast("Operand", compiler.operand(name)) for name in self.node.initial]
        else:
            states = [
                compiler.constant(np.ascontiguousarray(np.broadcast_to(array[:, None, :], shapes[key])))
                for key, array in self.trained.items()
            ]
        if any(state.shape != shape for state, shape in zip(states, shapes.values(), strict=False)):
            return None
        return tuple(compiler.dense(state) for state in states)

    def _store_bound(self, compiler: Compiler, y: Operand | None, final: tuple[Operand, ...]) -> None:
        """Name what a bound call makes, as _store does."""
        node = self.node
        if y is not None and node.merge == "separate":
            for name, part in zip(("forward", "reverse"), (0, self.width // 2), strict=True):
                shape = (*y.shape[:2], self.width // 2)
                compiler.name(f"{node.name}.{name}", y, part * y.itemsize, shape)
        elif y is not None:
            compiler.name(node.name, y)
        for name, state in zip(self.states.values(), final, strict=False):
            compiler.name(name, state)
        if self.last_needed and final:
            self._bind_last(compiler, final[0])

    def _bind_last(self, compiler: Compiler, h: Operand) -> None:
        """The final outputs of the last layer's directions, as merge_directions has them."""
        _, batch, size = h.shape
        name, rows = f"{self.node.name}.last", batch * h.strides[1]
        first = (h.shape[0] - len(self.node.directions)) * rows
        if len(self.node.directions) == 1:
            compiler.name(name, h, first, (batch, size), h.strides[1:])
            return
        halves = [Operand(h.slot, first + i * rows, (batch, size), h.strides[1:], h.dtype) for i in range(2)]
        if self.node.merge == "concat":
            last = compiler.new((batch, 2 * size), h.dtype)
            for i, half in enumerate(halves):
                part = Operand(last.slot, i * size * h.itemsize, (batch, size), last.strides, h.dtype)
                compiler.emit(Copy(half, part), [half], [part])
        else:
            last = compiler.new((batch, size), h.dtype)
            joined = np.multiply if self.node.merge == "mul" else np.add
            steps: list[Any] = [(joined, [h.dtype] * 3, [0, 1, 2])]
            if self.node.merge == "average":
                steps.append((np.multiply, [h.dtype] * 3, [2, 3, 2]))
            half = h.dtype.type(0.5)
            compiler.emit(Elements([*halves, last], [half], 0, steps), halves, [last])
        compiler.name(name, last)

    def _ids(self, values: Values) -> np.ndarray:
        embedding = cast(Node, self.embedding)
        ids = values[embedding.inputs[0]]
        try:
            check_ids(embedding.attributes, ids)
        except InputError as error:
            raise InputError(f"node {embedding.name!r} (Embedding): {error}") from None
        return ids

    def _rows(self, values: Values, batch: int, steps: int) -> _Rows:
        """Rows in order of falling number of valid steps, and where those are."""
        node = self.node
        lengths = values[node.lengths] if node.lengths else None
        mask = values[node.mask] if node.mask else None
        if lengths is not None:
            accept_lengths(str(node.lengths), lengths, batch, steps)
        if mask is not None:
            accept_mask(str(node.mask), mask, (steps, batch) if self.time_first else (batch, steps))
            mask = mask.swapaxes(0, 1) if self.time_first else mask
            if lengths is not None and self.mask_given:
                check_mask_is_lengths(str(node.mask), mask, str(node.lengths), lengths)
            elif lengths is not None:
                mask = mask & (np.arange(steps) < lengths[:, None])
            return rows_of_mask(mask)
        if lengths is None or (lengths == steps).all():
            return ALL_ROWS
        order = np.argsort(-lengths, kind="stable")
        return _Rows(order, lengths[order])

    def _repeat(self, y: np.ndarray, mask: np.ndarray, reverse: bool) -> None:
        """Fill the masked steps of one direction's outputs (zeros so far) with what was stored before each."""
        y = y.swapaxes(0, 1) if self.time_first else y
        y = y[:, ::-1] if self.flip else y
        if reverse:
            y, mask = y[:, ::-1], mask[:, ::-1]
        repeat_masked(y, mask)

    def _initial(
        self, values: Values, before: State | None, shapes: dict[str, tuple[int, ...]]
    ) -> tuple[np.ndarray, ...]:
        """The states to begin with, in the cell's order; () means zeros."""
        if before is not None:
            return tuple(before[name] for name in self.states.values())
        if self.node.initial:
            given = zip(shapes.items(), self.node.initial, strict=True)
            return tuple(self._given(values[name], key, shape) for (key, shape), name in given)
        return tuple(
            np.ascontiguousarray(np.broadcast_to(array[:, None, :], shapes[key])) for key, array in self.trained.items()
        )

    def _given(self, array: np.ndarray, key: str, expected: tuple[int, ...]) -> np.ndarray:
        """An initial state that is a value of the graph."""
        if array.shape != expected:
            raise InputError(f"node {self.node.name!r}: initial {key} has shape {array.shape}, expected {expected}")
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def _output(self, batch: int, steps: int, ragged: bool) -> np.ndarray | None:
        """The array for the sequence; None where it is unused. Zeros after the steps of short rows."""
        if not self.sequence_needed:
            return None
        shape = (steps, batch, self.width) if self.time_first else (batch, steps, self.width)
        return (np.zeros if ragged else np.empty)(shape, self.dtype)

    def _store(
        self, values: Values, after: dict[str, np.ndarray], y: np.ndarray | None, final: tuple[np.ndarray, ...]
    ) -> None:
        node = self.node
        if node.merge == "separate":
            if y is not None:
                values[f"{node.name}.forward"], values[f"{node.name}.reverse"] = np.split(y, 2, axis=2)
        else:
            values[node.name] = y
            if self.last_needed:
                values[f"{node.name}.last"] = merge_directions(node.merge, final[0][-len(node.directions) :])
        for name, array in zip(self.states.values(), final, strict=True):
            values[name] = after[name] = array


def rows_of_mask(mask: np.ndarray) -> _Rows:
    """Rows in order of falling number of steps that count, for a mask (B, T)."""
    lengths = mask.sum(axis=1, dtype=np.int64)
    if (lengths == mask.shape[1]).all():
        return ALL_ROWS
    order = np.argsort(-lengths, kind="stable")
    return _Rows(order, lengths[order], np.argsort(~mask[order], axis=1, kind="stable"), mask)


def repeat_masked(y: np.ndarray, mask: np.ndarray) -> None:
    """Fill the steps of y (B, T, size) that a mask (B, T) leaves out with the latest one before that it does not."""
    latest = np.maximum.accumulate(np.where(mask, np.arange(mask.shape[1]), -1), axis=1)
    row, step = np.nonzero(~mask & (latest >= 0))
    y[row, step] = y[row, latest[row, step]]


def merge_directions(merge: str, h: np.ndarray) -> np.ndarray:
    """Final outputs of the directions, (D, B, P), as one (B, ...)."""
    if len(h) == 1:
        return h[0]
    if merge == "concat":
        return np.concatenate(tuple(h), axis=1)
    return {"sum": h[0] + h[1], "mul": h[0] * h[1], "average": (h[0] + h[1]) * h.dtype.type(0.5)}[merge]
