"""The states of many rows of a stream, and one step of some of them through the graph.

Every array but those of recurrent layers has its row first and then the steps that are kept, oldest first; how many
of them count follows from the steps that the row has seen, so nothing else needs to be kept. What recurrent layers
carry is as in State: (layers, rows, size).

Rows whose kept steps are of different numbers run in groups; a graph that keeps none runs all rows in one batch.
A step changes nothing before everything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from rnncore.errors import InputError, StateError, StreamError
from rnncore.files.cursor import shown
from rnncore.kernels._graph import unalias, walk
from rnncore.ops import OPS, numpy_dtype
from rnncore.runtime.arguments import without_padding
from rnncore.runtime.budget import check_memory, is_metered
from rnncore.runtime.state import State
from rnncore.streaming.batchless import join_rows, split_rows
from rnncore.streaming.flow import NodePlan, ValuePlan
from rnncore.streaming.program import UNMOVED, StreamProgram
from rnncore.streaming.route import Kept, Route, padding_of, rows_first, scan_states

__all__ = ["StreamStates"]

Values = dict[str, Any]

# Steps that a row can have seen: far more than any has, and far from where integers end.
MOST_STEPS = 1 << 60


class _Group(NamedTuple):
    """The rows that run in one batch.

    rows     their numbers in StreamStates; None for all of them in order
    places   their places among those of the step; None if they are these, in order
    count    steps;  lengths: those of each row that count, None for all
    """

    rows: Any  # an array, or None for all
    places: Any
    size: int
    count: int  # type: ignore[assignment]  # a tuple's method of that name is of no use here
    lengths: Any


class _Result(NamedTuple):
    """The results of a group: outputs by name, and the states to store."""

    group: _Group
    route: Route
    outputs: Values
    updates: dict[str, np.ndarray]


class StreamStates:
    """The states of ``capacity`` rows. Not safe to use by two threads at once.

    add_rows: inputs and outputs that have no batch get rows in front, as a pool has them.
    more: bytes that the caller keeps for each row.

    InputError, before anything is made, where the states are larger than the model's budget or than there is memory.
    """

    def __init__(self, program: StreamProgram, capacity: int, add_rows: bool = False, more: int = 0):
        self.program, self.capacity = program, capacity
        self.add_rows = add_rows and program.bare
        self.batchless = program.batchless and (self.add_rows or not program.bare)
        self.recurrent: set[str] = set()
        self.static: dict[str, Any] = {}
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {"ended": ((capacity,), np.dtype(np.bool_))}
        if not program.plan.together:
            shapes["steps"] = ((capacity,), np.dtype(np.int64))
        for part in program.plan.parts:
            shapes.update(self._array_shapes(part))
        need = sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()) + more * capacity
        check_memory(f"{capacity} rows of states", need, program.model.budget)
        self.all = np.arange(capacity)
        self.arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
        self.steps: Any = self.arrays.get("steps")

    # --- arrays -------------------------------------------------------------------------------------------------

    def _array_shapes(self, part: NodePlan) -> Iterator[tuple[str, tuple[tuple[int, ...], np.dtype]]]:
        """The arrays that a part keeps: name, shape and dtype."""
        node, flows = part.node, self.program.plan.flows
        dtype = self.program.model.dtype
        for name, most in part.waiting.items():
            yield self._steps_of(f"{node.name}.waiting.{name}", flows[name], most)
        if part.how in ("recurrent", "blocks"):
            shapes = node.state_shapes(self.capacity)
            for key, shape in shapes.items():
                layers = shape[0] // len(node.directions) if part.how == "blocks" else shape[0]
                yield f"{node.name}.{key}", ((layers, *shape[1:]), dtype)
                self.recurrent.add(f"{node.name}.{key}")
        if node.name in self.program.repeats:
            yield f"{node.name}.began", ((self.capacity,), np.dtype(np.bool_))
        if part.how == "window":
            window, source = part.window, node.inputs[0]
            yield self._steps_of(f"{node.name}.context", flows[source], window.left + window.right + window.stride)
        elif part.how == "history":
            for name in dict.fromkeys(node.inputs):
                yield self._steps_of(f"{node.name}.history.{name}", flows[name], self.program.plan.history - 1)
        elif part.how == "scan":
            for key, start in zip(scan_states(node), node.inputs, strict=False):
                value, batch = flows[start].value, flows[start].batch
                rest: list[Any] = list(value.shape)
                if batch is not None:  # the batch and the first axis change places
                    rest[batch], rest[0] = rest[0], rest[batch]
                    del rest[0]
                yield key, ((self.capacity, *rest), numpy_dtype(value.dtype, dtype))
        elif part.how == "last":
            yield self._steps_of(f"{node.name}.last", flows[node.inputs[0]], 1)
        elif part.how == "around" and part.timing.held:
            yield self._steps_of(f"{node.name}.held", flows[part.moving], part.timing.held)
        elif part.how == "sum":
            yield self._steps_of(f"{node.name}.sum", flows[node.name], 2)

    def _steps_of(self, name: str, flow: ValuePlan, most: int) -> tuple[str, tuple[tuple[int, ...], np.dtype]]:
        """The array for up to ``most`` steps of a value in each row: name, shape and dtype."""
        rest: list[Any] = [size for axis, size in enumerate(flow.value.shape) if axis not in (flow.time, flow.batch)]
        return name, ((self.capacity, most, *rest), numpy_dtype(flow.value.dtype, self.program.model.dtype))

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (*self.arrays.values(), *self.static.values()))

    def reset(self, rows: Any, static: Values | None = None) -> None:
        """Rows to the beginning; with ``static``, the values that do not depend on the sequence are theirs."""
        if static is not None:
            self._set_static(rows, static)
        plan, model = self.program.plan, self.program.model
        for name, array in self.arrays.items():
            if name in self.recurrent:
                array[:, rows] = 0
            else:
                array[rows] = 0
        for part in plan.parts:
            node = part.node
            if part.how == "window":
                array = self.arrays[f"{node.name}.context"]
                array[rows] = padding_of(part, array.dtype)
            elif part.how == "sum":
                array = self.arrays[f"{node.name}.sum"]
                array[rows, 0], array[rows, 1] = cast(Any, OPS[node.op].neutral)
            elif part.how == "scan":
                for key, start in zip(scan_states(node), node.inputs, strict=False):
                    self.arrays[key][rows] = rows_first(self._of_static(start, rows), plan.flows[start].batch)
            if part.how not in ("recurrent", "blocks"):
                continue
            for place, key in enumerate(node.state_shapes(1)):
                array, each = self.arrays[f"{node.name}.{key}"], len(node.directions)
                if node.trained_state:
                    array[:, rows] = model.weights[f"{node.name}.initial_{key}"][::each, None]
                elif place < len(node.initial):
                    array[:, rows] = self._of_static(node.initial[place], rows)[::each]

    def _of_static(self, name: str, rows: Any) -> np.ndarray:
        if name not in self.static:  # a constant, which is the same for each
            return self.program.model._constants[name]
        flow, array = self.program.plan.flows[name], self.static[name]
        return array if flow.batch is None else array[(slice(None),) * flow.batch + (rows,)]

    def _set_static(self, rows: Any, static: Values) -> None:
        """Compute what does not depend on the sequence, for some rows."""
        plan, count = self.program.plan, len(np.arange(self.capacity)[rows])
        values: Values = {**static, **self.program.counts_of(count), **self.program.model._constants}
        wanted = set(plan.outputs).union(*(part.node.reads for part in plan.parts if part.how not in UNMOVED))
        with np.errstate(all="ignore"):
            for part, step in zip(plan.parts, self.program.steps, strict=True):
                if part.how != "static":
                    continue
                if part.data is None:
                    step(values, None, {})
        wanted -= {*self.program.model._constants, *self.program.counts_of(count)}
        names = [name for name in wanted if name in plan.flows and plan.flows[name].kind == "static"]
        # Some functions of NumPy give a number for an array of rank 0.
        kept = {name: None if values[name] is None else np.asarray(values[name]) for name in names}
        kept.update({entry.name: values[entry.name] for entry in self.program.static})
        if isinstance(rows, slice):  # all of them
            self.static = {}
        self._check_static(kept)
        for name, array in kept.items():
            axis = plan.flows[name].batch
            if axis is None or array is None:
                self.static.setdefault(name, array)
                continue
            if name not in self.static:
                self.static[name] = np.zeros(
                    (*array.shape[:axis], self.capacity, *array.shape[axis + 1 :]), array.dtype
                )
            self.static[name][(slice(None),) * axis + (rows,)] = array

    def _check_static(self, given: Values) -> None:
        """Values without a batch are one for all rows, and those with one have the sizes that other rows' have."""
        for name, array in given.items():
            axis, there = self.program.plan.flows[name].batch, self.static.get(name)
            if name not in self.static or (array is None and there is None):
                continue
            if axis is None or array is None or there is None:
                same = array is not None and there is not None and np.array_equal(array, there, equal_nan=True)
                if not same:
                    raise InputError(f"{name}: differs from what the other rows were opened with, expected the same")
            else:
                sizes = [(*one.shape[:axis], *one.shape[axis + 1 :]) for one in (array, there)]
                if sizes[0] != sizes[1]:
                    raise InputError(
                        f"{name}: sizes {sizes[0]} without the batch, expected {sizes[1]}, the other rows'"
                    )

    def copy_rows(self, source: Any, target: Any) -> None:
        """Make the target rows what the source rows are."""
        for name, array in self.arrays.items():
            if name in self.recurrent:
                array[:, target] = array[:, source]
            else:
                array[target] = array[source]
        for name, array in self.static.items():
            axis = self.program.plan.flows[name].batch
            if axis is not None and array is not None:
                before = (slice(None),) * axis
                array[(*before, target)] = array[(*before, source)]

    def save(self, rows: Any) -> dict[str, np.ndarray]:
        """Copies of what some rows carry; "static.NAME" for what they were opened with."""
        saved = {
            name: np.array(array[:, rows] if name in self.recurrent else array[rows])
            for name, array in self.arrays.items()
        }
        for entry in self.program.static:
            array = self.static.get(entry.name)
            if array is not None:
                saved[f"static.{entry.name}"] = np.array(self._of_static(entry.name, rows))
        return saved

    def check_saved(self, saved: Mapping[str, np.ndarray], count: int) -> None:
        """StateError unless ``saved`` is what save returns for ``count`` rows of this program."""
        expected = {}
        for name, array in self.arrays.items():
            shape = (array.shape[0], count, *array.shape[2:]) if name in self.recurrent else (count, *array.shape[1:])
            expected[name] = (shape, array.dtype)
        for entry in self.program.static:
            given = saved.get(f"static.{entry.name}")
            try:
                accepted = self.program.accept({entry.name: given}, count, [entry], "state")[entry.name]
            except InputError as error:
                raise StateError(f"state: static.{error}") from None
            if given is not None:
                expected[f"static.{entry.name}"] = (given.shape, accepted.dtype)
        unknown = [name for name in saved if name not in expected]
        missing = [name for name in expected if name not in saved]
        if unknown or missing:
            what = f"unknown array {shown(unknown[0])!r}" if unknown else f"array {missing[0]!r} missing"
            raise StateError(f"state: {what}, expected {', '.join(expected)}")
        for name, (shape, dtype) in expected.items():
            if saved[name].shape != shape or saved[name].dtype != dtype:
                raise StateError(
                    f"state {name}: {saved[name].dtype} {saved[name].shape}, expected {dtype} {shape} "
                    f"for {count} row{'s' * (count != 1)}"
                )
        steps = saved.get("steps", np.zeros(1, np.int64))
        if count and not (steps.min() >= 0 and steps.max() <= MOST_STEPS):
            raise StateError(f"state steps: {steps.min()} to {steps.max()}, expected 0 to {MOST_STEPS}")

    def load(self, rows: Any, saved: Mapping[str, np.ndarray]) -> None:
        """Make rows what save gave, which was checked."""
        static = {name.removeprefix("static."): array for name, array in saved.items() if name.startswith("static.")}
        self._set_static(rows, {entry.name: static.get(entry.name) for entry in self.program.static})
        for name, array in self.arrays.items():
            if name in self.recurrent:
                array[:, rows] = saved[name]
            else:
                array[rows] = saved[name]

    # --- a step -------------------------------------------------------------------------------------------------

    def advance(
        self,
        rows: np.ndarray,
        given: Values,
        new: int,
        lengths: np.ndarray | None,
        ended: bool = False,
        check: Callable[[Values], None] | None = None,
        counted: bool = True,
    ) -> tuple[Values, dict[str, np.ndarray]]:
        """Outputs of these rows (different ones) for their next ``new`` steps, and how many steps each row has of each.

        given    the inputs by name, of len(rows) rows; none where the rows end
        lengths  int64 (len(rows),): steps of each row that count; None for all
        ended    the sequence ends here: what still waits is given out
        check    is called with the outputs before anything is changed, and may raise
        counted  whether the numbers of steps are wanted

        Outputs after a row's own steps are 0.
        """
        if ended and self.program.plan.least:
            self._check_least(rows)
        if not self.program.model._limited:
            return self._advance(rows, given, new, lengths, ended, check, counted)
        with self.program.metering(len(rows), new):
            return self._advance(rows, given, new, lengths, ended, check, counted)

    def _advance(
        self,
        rows: np.ndarray,
        given: Values,
        new: int,
        lengths: np.ndarray | None,
        ended: bool,
        check: Callable[[Values], None] | None,
        counted: bool,
    ) -> tuple[Values, dict[str, np.ndarray]]:
        if self.program.plain and new and lengths is None and not ended:
            outputs = self._advance_plain(rows, given, new, check)
            return outputs, {name: np.full(len(rows), new) for name in outputs} if counted else {}
        with np.errstate(all="ignore"):
            results = [self._run(group, given, new, ended) for group in self._groups(rows, new, lengths)]
        outputs = self._gathered(len(rows), results)
        if check is not None:
            check(outputs)
        for result in results:
            self._store(result.group.rows, result.updates)
        if self.steps is not None:
            index = slice(None) if rows is self.all else rows
            self.steps[index] += new if lengths is None else lengths
        if ended:
            self.arrays["ended"][rows] = True
        return outputs, self._counts(len(rows), results) if counted else {}

    def _check_least(self, rows: np.ndarray) -> None:
        least, steps = self.program.plan.least, self.steps[rows]
        if len(steps) and steps.min() < least:
            raise StreamError(f"the sequence ends after {steps.min()} steps, expected at least {least}")

    def _is_all(self, rows: np.ndarray) -> bool:
        """Whether these, different ones, are all rows in order."""
        return rows is self.all or (len(rows) == self.capacity and bool((rows[1:] > rows[:-1]).all()))

    def _store(self, rows: np.ndarray | None, updates: dict[str, np.ndarray]) -> None:
        index = slice(None) if rows is None else rows
        for name, array in updates.items():
            if name in self.recurrent:
                self.arrays[name][:, index] = array
            elif array.ndim == 1:
                self.arrays[name][index] = array
            else:
                self.arrays[name][index, : array.shape[1]] = array

    def _advance_plain(
        self, rows: np.ndarray, given: Values, new: int, check: Callable[[Values], None] | None
    ) -> Values:
        """The same for a graph whose nodes all run as they do in a model: the model's own steps, states in and out."""
        program = self.program
        index = None if self._is_all(rows) else rows
        before = {
            name: self.arrays[name] if index is None else np.ascontiguousarray(self.arrays[name][:, rows])
            for name in self.recurrent
        }
        values, results = self._values(index, len(rows)), None
        if program.bindings is not None and not is_metered():
            results = program.bindings.run(given, values, before, True)
        outputs, after = results or self._by_steps(given, values, before)
        if check is not None:
            check(outputs)
        self._store(index, after)
        return outputs

    def _by_steps(
        self, given: Values, values: Values, before: dict[str, np.ndarray]
    ) -> tuple[Values, dict[str, np.ndarray]]:
        """Outputs, and the states after them, by the model's steps; values: what _values gives, which grows."""
        program = self.program
        after: dict[str, np.ndarray] = {}
        values.update(given)
        with np.errstate(all="ignore"):
            walk(program.plain if is_metered() else program.plain_uncounted, None, values, State.of(before), after)
        return self._own_outputs(values, [*given.values(), *after.values()]), after

    def _values(self, rows: np.ndarray | None, count: int) -> Values:
        """The values that do not depend on the sequence, of some rows. rows: None for all of them."""
        values: Values = dict(self.program.base(count))
        for name, array in self.static.items():
            if name in self.program.read:
                values[name] = array if array is None or rows is None else self._of_static(name, rows)
        return values

    def _own_outputs(self, values: Values, others: list[np.ndarray | None]) -> Values:
        """The outputs, none of which shares memory with another, with these arrays or with what is kept."""
        program = self.program
        held = [*others, *program.constants, *self.static.values(), *[values[name] for name in program.counted]]
        return unalias(program.plan.outputs, values, held)

    def _groups(self, rows: np.ndarray, new: int, lengths: np.ndarray | None) -> list[_Group]:
        """The groups of rows that can run in one batch."""
        program, size = self.program, len(rows)
        slots = None if self._is_all(rows) else rows
        if lengths is not None and (lengths == new).all():
            lengths = None
        if program.plan.together and (lengths is None or program.ragged):
            return [_Group(slots, None, size, new, lengths)]
        if size == 1:
            return [_Group(slots, None, 1, new if lengths is None else int(lengths[0]), None)]
        counts = np.full(size, new) if lengths is None else lengths
        if program.plan.fixed and not self.batchless:
            return [_Group(rows[[place]], np.array([place]), 1, int(count), None) for place, count in enumerate(counts)]
        phases = 0 * counts if program.plan.together else program.phases_of(self.steps[rows])
        if (phases == phases[:1]).all() and (counts == counts[:1]).all():
            return [_Group(slots, None, size, int(counts[0]), None)] if size else []
        keys: dict[tuple[int, int], list[int]] = {}
        for place, key in enumerate(zip(counts.tolist(), phases.tolist(), strict=True)):
            keys.setdefault(key, []).append(place)
        return [_Group(rows[places], np.array(places), len(places), count, None) for (count, _), places in keys.items()]

    def _part(self, given: Values, group: _Group) -> Values:
        """The group's part of the inputs."""
        own, places = {}, group.places
        for name, array in given.items():
            flow = self.program.plan.flows[name]
            if array is not None and flow.kind == "steps":
                if flow.batch is not None:
                    array = array if places is None else np.take(array, places, axis=flow.batch)
                elif self.add_rows:
                    array = array[0 if places is None else places[0]]
                array = np.ascontiguousarray(array[(slice(None),) * flow.time + (slice(group.count),)])
            own[name] = array
        return own

    def _gathered(self, size: int, results: list[_Result]) -> Values:
        """The groups' outputs in the order of rows."""
        plan = self.program.plan
        for group, _, outputs, _ in results:
            for name in plan.outputs if group.lengths is not None else ():
                if plan.flows[name].kind == "steps":
                    outputs[name] = _zeros_after(outputs[name], plan.flows[name], group.lengths)
        if len(results) == 1:
            group, _, outputs, _ = results[0]
            return self._with_rows(group, outputs) if self.add_rows else outputs
        parts = [(group.places, self._with_rows(group, outputs)) for group, _, outputs, _ in results]
        return {name: self._joined(name, size, parts) for name in plan.outputs}

    def _counts(self, size: int, results: list[_Result]) -> dict[str, np.ndarray]:
        """The number of steps that each row has of each output."""
        flows = self.program.plan.flows
        counts = {name: np.zeros(size, np.int64) for name in self.program.plan.outputs}
        for group, route, _, _ in results:
            for name, array in counts.items():
                if flows[name].kind == "steps":
                    places = slice(None) if group.places is None else group.places
                    array[places] = route.known[flows[name].timing] if group.lengths is None else group.lengths
        return counts

    def _with_rows(self, group: _Group, outputs: Values) -> Values:
        """Outputs of one row with an axis for it, where they have none of a batch."""
        if group.size > 1:
            return outputs
        bare = [name for name in outputs if self.program.axes(self.program.plan.flows[name], self.add_rows)[0] == 0]
        bare = [name for name in bare if self.program.plan.flows[name].batch is None]
        return {**outputs, **{name: outputs[name][None] for name in bare}}

    def _joined(self, name: str, size: int, parts: list[tuple[np.ndarray, Values]]) -> np.ndarray:
        """One output of several groups."""
        batch, time = self.program.axes(self.program.plan.flows[name], self.add_rows)
        if batch is None:
            return parts[0][1][name]
        first = max((outputs[name] for _, outputs in parts), key=lambda array: array.size)
        shape = list(first.shape)
        shape[batch] = size
        if time is not None:
            shape[time] = max(outputs[name].shape[time] for _, outputs in parts)
        joined = np.zeros(shape, first.dtype)
        for places, outputs in parts:
            index: list[Any] = [slice(None)] * len(shape)
            index[batch] = places
            if time is not None:
                index[time] = slice(outputs[name].shape[time])
            joined[tuple(index)] = outputs[name]
        return joined

    def _run(self, group: _Group, given: Values, new: int, ended: bool) -> _Result:
        program, plan, rows, lengths = self.program, self.program.plan, group.rows, group.lengths
        batchless = plan.fixed and group.size > 1
        if batchless:
            given = self._one_sequence(given, group)
        elif group.places is not None or group.count != new or self.add_rows:
            given = self._part(given, group)
        first = 0 if rows is None else rows[0]
        before = 0 if plan.together else program.phase_of(int(self.steps[first]))
        route = program.route(before, group.count, ended, batchless)
        slots = (self.all if rows is None else rows)[:1] if batchless else rows
        values = self._values(slots, 1 if batchless else group.size)
        for entry in program.given:
            values[entry.name] = given.get(entry.name)
            if values[entry.name] is None and not entry.optional:
                values[entry.name] = route.empty(plan.flows[entry.name], group.size, values)
            elif values[entry.name] is None and entry.name in program.filled:
                values[entry.name] = route.full(plan.flows[entry.name], group.size)
        for name in program.lengths:
            values[name] = lengths
        for name, (of, axis) in program.model._padded.items():
            if values.get(of) is not None:
                values[name] = without_padding(values[name], values[of], axis)
        updates = route.take(values, Kept(self.arrays, rows, group.size))
        outputs = self._own_outputs(values, [*given.values(), *updates.values()])
        if batchless:
            outputs = {name: split_rows(array, *self._place(name), group.size) for name, array in outputs.items()}
        return _Result(group, route, outputs, updates)

    def _place(self, name: str) -> tuple[Any, ValuePlan]:
        """The axes of rows and time in an input or output, and its plan."""
        flow = self.program.plan.flows[name]
        return self.program.axes(flow, self.add_rows), flow

    def _one_sequence(self, given: Values, group: _Group) -> Values:
        """The group's part of the inputs, its rows concatenated along the time."""
        joined = {}
        for name, array in given.items():
            (rows, time), flow = self._place(name)
            if array is not None:
                array = array if group.places is None else np.take(array, group.places, axis=rows)
                array = join_rows(array[(slice(None),) * time + (slice(group.count),)], (rows, time), flow)
            joined[name] = array
        return joined


def _zeros_after(array: np.ndarray, flow: ValuePlan, lengths: np.ndarray) -> np.ndarray:
    """The array with 0 after each row's length."""
    moved = np.moveaxis(array, (flow.batch, flow.time), (0, 1))
    counts = np.arange(moved.shape[1]) < lengths[:, None]
    if counts.all():
        return array
    kept = np.where(counts.reshape(counts.shape + (1,) * (moved.ndim - 2)), moved, moved.dtype.type(0))
    return np.ascontiguousarray(np.moveaxis(kept, (0, 1), (flow.batch, flow.time)))
