"""Running Control nodes: If, Loop and Scan around compiled branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rnncore.errors import InputError, RnncoreError
from rnncore.graph.nodes import Control
from rnncore.kernels._program import Body, Choice, Operand, Repeat
from rnncore.ops import numpy_dtype
from rnncore.runtime.program import Compiler, Trace, Unbindable

if TYPE_CHECKING:
    from rnncore.runtime.model import Model

__all__ = ["ControlStep"]

MAX_STEPS = 1_000_000
"""A Loop that has not ended after this number of steps is an error."""

Branch = Callable[[dict[str, Any]], list[np.ndarray]]


class ControlStep:
    """A step of a model. ``branches`` are compiled already: values of a branch's inputs -> its outputs, in order.

    packed: weights that the branches keep packed, by their names in the model -> what unpacks a copy.
    models: the models of the branches, where nothing counts their work.
    """

    def __init__(
        self,
        node: Control,
        branches: Sequence[Branch],
        dtype: np.dtype,
        packed: dict[str, Callable[[], np.ndarray]],
        models: Sequence[Model] | None,
    ):
        self.packed, self.models = packed, models
        self.node = node
        self.label = f"node {node.name!r} ({node.op})"
        self.branches = branches
        self.dtype = dtype
        self.names, self.own, self.carried = node.names, node.own, node.carried
        self.entries = [tuple(entry.name for entry in branch.inputs) for branch in node.branches]
        self.run = {"If": self._if, "Loop": self._loop, "Scan": self._scan}[node.op]

    def __call__(self, values: dict[str, Any], before: Any, after: dict[str, np.ndarray]) -> None:
        given = [values[name] if name else None for name in self.node.inputs]
        captured: dict[str, Any] = dict(zip(self.node.captures, given[self.own :], strict=True))
        values.update(zip(self.names, self.run(given, captured), strict=True))

    def _captured(self, place: int, own: int, captured: dict[str, np.ndarray]) -> dict[str, Any]:
        """The inputs of a branch that are the same in every step: those after its ``own``."""
        return {name: captured.get(name) for name in self.entries[place][own:]}

    def _if(self, given: list[Any], captured: dict[str, np.ndarray]) -> list[np.ndarray]:
        place = 0 if self._truth(given[0]) else 1
        return self.branches[place](self._captured(place, 0, captured))

    def _truth(self, array: np.ndarray) -> bool:
        if array.size != 1:
            raise InputError(f"node {self.node.name!r} ({self.node.op}): a condition of shape {array.shape}")
        return bool(array.reshape(()))

    def _loop(self, given: list[Any], captured: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Runs while the condition holds and the trip count, if there is one, is not reached."""
        trips = None if given[0] is None else int(np.asarray(given[0]).reshape(()))
        going = given[1] is None or self._truth(given[1])
        carried = given[2 : self.own]
        branch, entries, same = self.branches[0], self.entries[0], self._captured(0, self.own, captured)
        rows: list[list[np.ndarray]] = []
        step = 0
        while going and (trips is None or step < trips):
            if step == MAX_STEPS:
                raise InputError(f"node {self.node.name!r} (Loop): no end after {MAX_STEPS:,} steps")
            own = (np.array(step, np.int64), np.array(True), *carried)
            results = branch(dict(zip(entries, own, strict=False)) | same)
            going = self._truth(results[0])
            carried = results[1 : 1 + len(carried)]
            rows.append(results[1 + len(carried) :])
            step += 1
        outputs = self.node.branches[0].outputs[1 + len(carried) :]
        return [*carried, *(self._stack([row[i] for row in rows], name, 0, {}) for i, name in enumerate(outputs))]

    def _scan(self, given: list[Any], captured: dict[str, np.ndarray]) -> list[np.ndarray]:
        """given: states, then sequences, then captured values."""
        node, count = self.node, self.carried
        carried = given[:count]
        sequences = self._moved(given[count : self.own])
        branch, entries, same = self.branches[0], self.entries[0], self._captured(0, self.own, captured)
        rows = []
        for step in range(len(sequences[0])):
            own = (*carried, *[array[step] for array in sequences])
            results = branch(dict(zip(entries, own, strict=False)) | same)
            rows.append(results[count:])
            carried = results[:count]
        outputs = node.branches[0].outputs[count:]
        places = node.output_axes or (0,) * len(outputs)
        if len(rows) == 1:
            return [*carried, *map(_as_step, rows[0], places)]
        shapes = [*(array.shape for array in carried), *(array.shape[1:] for array in sequences)]
        sizes = {} if rows else self._sizes(shapes, same)
        turned = node.output_backward or (False,) * len(outputs)
        return [
            *carried,
            *(
                self._stack([row[i] for row in (rows[::-1] if turned[i] else rows)], name, places[i], sizes)
                for i, name in enumerate(outputs)
            ),
        ]

    def _sizes(self, shapes: list[tuple[int, ...]], captured: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The sizes for the names in the shapes of the body's first inputs, and of what it reads outside."""
        inputs = self.node.branches[0].inputs
        pairs = [(entry, captured[entry.name].shape) for entry in inputs if entry.name in captured]
        pairs += zip(inputs, shapes, strict=False)
        return {name: size for entry, shape in pairs for name, size in zip(map(str, entry.shape), shape, strict=True)}

    def _moved(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """A Scan's sequences with their steps in front, in the order in which it goes."""
        node = self.node
        if node.axes:
            sequences = [_from_front(array, axis) for array, axis in zip(sequences, node.axes, strict=True)]
        if any(len(array) != len(sequences[0]) for array in sequences):
            lengths = sorted({len(array) for array in sequences})
            raise InputError(f"node {node.name!r} (Scan): sequences of {lengths} steps, expected one length")
        if not any(node.backward):
            return sequences
        return [array[::-1] if back else array for array, back in zip(sequences, node.backward, strict=True)]

    def _stack(self, rows: list[np.ndarray], name: str, axis: int, sizes: Mapping[str, int]) -> np.ndarray:
        """The collected values; of no steps with these sizes, as far as they are known."""
        if len(rows) == 1:
            return _as_step(rows[0], axis)
        if rows:
            if len({row.shape for row in rows}) > 1:
                raise InputError(f"node {self.node.name!r} ({self.node.op}): steps of different shapes in {name!r}")
            return np.stack(rows, axis=axis)
        value = self.node.branches[0].values[name]
        shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in value.shape]
        shape.insert(axis % (len(shape) + 1), 0)
        return np.zeros(shape, numpy_dtype(value.dtype, self.dtype))

    # --- as instructions of a bound program --------------------------------------------------------------------------

    def bind(self, compiler: Compiler) -> bool:
        """Add the instructions for the compiler's sizes; False where it needs this step as it is."""
        if self.models is None:
            return False
        try:
            return {"If": self._bind_if, "Loop": self._bind_loop, "Scan": self._bind_scan}[self.node.op](compiler)
        except (Unbindable, RnncoreError):
            return False

    def _body(
        self, compiler: Compiler, place: int, own: Sequence[tuple[tuple[int, ...], np.dtype]]
    ) -> tuple[Body, list[Operand], list[Operand]]:
        """A branch for its own inputs of these shapes and dtypes; operands of what it reads outside; its memory.

        What it reads outside and is settled there is settled inside.
        """
        model = self.models[place]  # type: ignore[index]
        names = dict(zip(self.node.captures, self.node.inputs[self.own :], strict=True))
        given: dict[str, Any] = {}
        constants: dict[str, Any] = dict(model._constants)
        captured: list[Operand] = []
        for entry, kind in zip_longest(self.entries[place], own):
            if kind is not None:
                given[entry] = np.zeros(*kind)
                continue
            operand = compiler.operand(names[entry]) if names.get(entry) else None
            value = compiler.trace.values[names[entry]] if operand is not None else None
            if value is None or value.data is not None:
                constants[entry] = None if value is None else value.data
            else:
                operand = compiler.dense(cast(Operand, operand))
                given[entry] = np.zeros(value.shape, value.dtype)
                captured.append(operand)
        if model._program is None:
            raise Unbindable(place)
        binding = Compiler(Trace(model._program, given, constants, None), False).binding()
        table = compiler.new((max(1, binding.slot_count),), np.int64)
        memory = compiler.new((binding.arena_bytes + 64,), np.uint8)
        return Body(binding, table, memory), captured, [table, memory]

    def _bind_if(self, compiler: Compiler) -> bool:
        condition = compiler.operand(self.node.inputs[0])
        if condition is None or condition.size != 1:
            return False
        sides = [self._body(compiler, place, ()) for place in range(2)]
        outputs = self._outputs(compiler, self.names)
        bodies, feeds, memory = zip(*sides, strict=True)
        choice = Choice(condition, list(bodies), list(feeds), outputs)
        compiler.emit(choice, [condition, *feeds[0], *feeds[1]], [*outputs, *memory[0], *memory[1]])
        return self._name(compiler, outputs)

    def _bind_scan(self, compiler: Compiler) -> bool:
        node, count = self.node, self.carried
        given = [cast(Operand, compiler.operand(name)) for name in node.inputs[: self.own]]
        axes, turned = node.axes or (0,) * (self.own - count), node.backward or (False,) * (self.own - count)
        sequences = [compiler.dense(_front(x, axis)) for x, axis in zip(given[count:], axes, strict=True)]
        steps = sequences[0].shape[0] if sequences else 0
        if steps < 1 or any(x.shape[0] != steps for x in sequences):
            return False
        feeds = [_sequence(x, back) for x, back in zip(sequences, turned, strict=True)]
        shapes = [(x.shape[1:], x.dtype) for x in sequences]
        places = node.output_axes or (0,) * (len(self.names) - count)
        back = node.output_backward or (False,) * (len(self.names) - count)
        return self._repeat(compiler, steps, given[:count], [], feeds, shapes, list(zip(places, back, strict=True)))

    def _bind_loop(self, compiler: Compiler) -> bool:
        trips, going = self.node.inputs[:2]
        known = compiler.trace.values[trips] if trips else None
        holds = compiler.trace.values[going] if going else None
        if known is None or known.data is None or (going and (holds is None or holds.data is None or not holds.data)):
            return False
        steps = int(known.data.reshape(()))
        carried = [cast(Operand, compiler.operand(name)) for name in self.node.inputs[2 : self.own]]
        true = compiler.constant(np.array(True))
        counter = compiler.new((), np.int64)
        first = [(None, counter, 0), (None, true, 0)]
        collected = len(self.names) - len(carried)
        return steps > 0 and self._repeat(compiler, steps, carried, first, [], [], [(0, False)] * collected, counter)

    def _repeat(
        self,
        compiler: Compiler,
        steps: int,
        states: Sequence[Operand],
        first: Sequence[tuple[int | None, Operand | None, int]],
        sequences: Sequence[tuple[int | None, Operand | None, int]],
        shapes: list[tuple[tuple[int, ...], np.dtype]],
        places: list[tuple[int, bool]],
        counter: Operand | None = None,
    ) -> bool:
        """A body run a number of times. first: what it is given before the states; places: axis and direction of what
        is collected."""
        states = [compiler.dense(state) for state in states]
        kinds = [(operand.shape, operand.dtype) for _, operand, _ in first if operand is not None]
        kinds += [(state.shape, state.dtype) for state in states] + shapes
        body, captured, memory = self._body(compiler, 0, kinds)
        given = body.results
        going = 0 if first else None
        results = given[len(given) - len(states) - len(places) :]
        carried, collected = results[: len(states)], results[len(states) :]
        if any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in zip(states, carried, strict=True)):
            return False
        last = [compiler.new(state.shape, state.dtype) for state in states]
        buffers = [[compiler.new(state.shape, state.dtype) for state in states] for _ in range(2)]
        stacked = [compiler.new((steps, *result.shape), result.dtype) for result in collected]
        feeds: list[tuple[int | None, Operand | None, int]] = [*first]
        feeds += [(i, None, 0) for i in range(len(states))]
        feeds += sequences
        feeds += [(None, operand, 0) for operand in captured]
        collects: list[tuple[int | None, Operand | None, int]] = []
        if going is not None:
            flag = compiler.new((), np.bool_)
            memory.append(flag)
            collects.append((None, flag, 0))
        collects += [(i, None, 0) for i in range(len(states))]
        collects += [_sequence(x, back) for x, (_, back) in zip(stacked, places, strict=True)]
        pairs = list(zip(states, last, *buffers, strict=True))
        repeat = Repeat(body, steps, pairs, feeds, collects, counter, going)
        reads = [operand for _, operand, _ in feeds if operand is not None and operand is not counter]
        writes = [*last, *buffers[0], *buffers[1], *stacked, *memory, *([] if counter is None else [counter])]
        compiler.emit(repeat, [*states, *reads], writes)
        return self._name(compiler, [*last, *map(partial(_placed, compiler), stacked, [axis for axis, _ in places])])

    def _outputs(self, compiler: Compiler, names: Sequence[str]) -> list[Operand]:
        """New operands for values as the steps made them."""
        values = [compiler.trace.values[name] for name in names]
        if any(value is None for value in values):
            raise Unbindable(names)
        return [compiler.new(value.shape, value.dtype) for value in values if value is not None]

    def _name(self, compiler: Compiler, outputs: Sequence[Operand]) -> bool:
        """Whether the outputs are of the shapes that the steps made; they have their names then."""
        for name, operand in zip(self.names, outputs, strict=True):
            value = compiler.trace.values[name]
            if value is None or (value.shape, value.dtype) != (operand.shape, operand.dtype):
                return False
            compiler.name(name, operand)
        return True


def _front(x: Operand, axis: int) -> Operand:
    """The operand with this axis in front."""
    axis %= len(x.shape)
    return _transposed(x, [axis, *range(axis), *range(axis + 1, len(x.shape))])


def _sequence(x: Operand, backward: bool) -> tuple[None, Operand, int]:
    """An operand whose first axis is the steps, as Repeat takes it."""
    shape, strides, stride = x.shape[1:], x.strides[1:], x.strides[0]
    if not backward:
        return None, Operand(x.slot, x.offset, shape, strides, x.dtype), stride
    return None, Operand(x.slot, x.offset + (x.shape[0] - 1) * stride, shape, strides, x.dtype), -stride


def _placed(compiler: Compiler, x: Operand, axis: int) -> Operand:
    """The operand with its first axis in this place."""
    axis %= len(x.shape)
    return compiler.dense(_transposed(x, [*range(1, axis + 1), 0, *range(axis + 1, len(x.shape))]))


def _transposed(x: Operand, order: Sequence[int]) -> Operand:
    """The operand with its axes in this order."""
    return Operand(x.slot, x.offset, tuple(x.shape[i] for i in order), tuple(x.strides[i] for i in order), x.dtype)


def _as_step(array: np.ndarray, axis: int) -> np.ndarray:
    """The outputs of the only step, with an axis of steps."""
    return array[(slice(None),) * (axis % (array.ndim + 1)) + (None,)]


def _from_front(array: np.ndarray, axis: int) -> np.ndarray:
    """The array with this axis in front."""
    axis %= array.ndim
    if axis < 2:
        return array.swapaxes(0, 1) if axis else array
    return array.transpose(axis, *range(axis), *range(axis + 1, array.ndim))


def branch_weights(node: Control, weights: Any, place: int, label: str) -> dict[str, np.ndarray]:
    """The weights of one branch under its own names."""
    spec = node.branches[place]
    return {key: weights[f"{node.name}.{label}.{key}"] for key in spec.weight_shapes()}
