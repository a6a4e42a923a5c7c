"""The states of many rows of a stream, and one step of some of them through the graph.

A Program is a Plan compiled for a model; Rows are the arrays of as many rows as there may be. Every array but those
of recurrent layers has its row first and then the steps that are kept, oldest first; how many of them count follows
from the steps that the row has seen, so nothing else needs to be kept. What recurrent layers carry stands as in State:
(layers, rows, size).

Rows whose kept steps are of different numbers run in groups; a graph that keeps none runs all rows in one batch.
A step changes nothing before everything is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from rnncore.arguments import accept_array, without_padding
from rnncore.errors import InputError, StateError, UnsupportedError
from rnncore.formats._cursor import shown
from rnncore.model import Model, nothing, op_step
from rnncore.ops import numpy_dtype
from rnncore.spec import Input, Node, Recurrent
from rnncore.stacks import pack_direction
from rnncore.state import State
from rnncore.streaming.flow import BATCH, Flow, Part, Plan
from rnncore.streaming.timing import INPUT, Timing
from rnncore.threads import check_threads

__all__ = ["Program", "Rows"]

Values = dict[str, Any]

# Steps that a row can have seen: far more than any has, and far from where integers end.
MOST_STEPS = 1 << 60


class Program:
    """A plan compiled for a model. Immutable; any number of Rows use it."""

    def __init__(self, model: Model, plan: Plan):
        self.model, self.plan = model, plan
        spec = plan.spec
        self.given = [entry for entry in spec.inputs if plan.flows[entry.name].kind == "steps"]
        self.static = [entry for entry in spec.inputs if plan.flows[entry.name].kind == "static"]
        self.lengths = [entry.name for entry in spec.inputs if plan.flows[entry.name].kind == "lengths"]
        stateful = [part.node for part in plan.parts if part.how == "recurrent"]
        self.ragged = plan.together and all(node.lengths is not None for node in stateful)
        self.timings = plan.timings
        self.repeats = [
            part.node.name
            for part in plan.parts
            if part.how == "recurrent" and getattr(part.node, "mask", None) and part.node.masked_output == "repeat"
        ]
        threads = check_threads(model._num_threads)
        self.steps = [self._compile(part, threads) for part in plan.parts]
        plain = plan.together and not self.repeats and all(part.how != "last" for part in plan.parts)
        self.plain = [
            step
            for part, step in zip(plan.parts, self.steps, strict=True)
            if plain and part.how != "static" and step is not nothing
        ]
        self.absent = {entry.name: None for entry in spec.inputs if plan.flows[entry.name].kind == "lengths"}
        self.canonical = plan.settled + plan.period
        self.counts = lru_cache(maxsize=256)(self._counts)

    @cached_property
    def fingerprint(self) -> str:
        """What a saved stream is bound to: the model, and what the plan was made with."""
        plan = self.plan
        options = f"{self.model.fingerprint} {plan.lookahead} {plan.block} {plan.history}"
        return hashlib.sha256(options.encode()).hexdigest()

    def _compile(self, part: Part, threads: int) -> Any:
        model, node = self.model, part.node
        if part.how == "window":
            return op_step(node, model.weights, model.dtype, threads)
        if part.how == "history":
            inputs = ("query", *(name and f"memory.{name}" for name in node.inputs[1:]))
            alone = Node(node.name, node.op, inputs, {**node.attributes, "causal": False})
            return op_step(alone, model.weights, model.dtype, threads)
        if part.how == "blocks":
            return _BothWays(part, model, self.plan, threads)
        if isinstance(node, Node) and node.op == "Embedding":
            readers = [other for other in self.plan.parts if node.name in other.node.reads]
            if any(other.how == "blocks" for other in readers):
                return op_step(node, model.weights, model.dtype, threads)  # the model may have folded it away
        return model._steps[part.place]

    def phase(self, steps: int) -> int:
        """A number of steps after which the same steps are kept, and small."""
        if steps < self.canonical:
            return steps
        return self.plan.settled + (steps - self.plan.settled) % self.plan.period

    def _counts(self, before: int, new: int, ended: bool) -> dict[Timing, tuple[int, int]]:
        """For each timing the steps known before and after."""
        return {timing: (timing.count(before), timing.count(before + new, ended)) for timing in self.timings}

    def accept(self, given: Mapping[str, Any], batch: int, entries: Sequence[Input], what: str) -> Values:
        """Those inputs by name, checked, with ``batch`` rows; None for an optional one that is not there."""
        names = [entry.name for entry in entries]
        for name in given:
            if name not in names:
                raise InputError(f"{what}: input {name!r} is unknown, expected {', '.join(names) or 'none'}")
        sizes: dict[str, int] = {}
        found: Values = {}
        for entry in entries:
            flow, value = self.plan.flows[entry.name], given.get(entry.name)
            if value is None:
                if not entry.optional:
                    raise InputError(f"{what}: input {entry.name!r} missing, expected {entry.value}")
                found[entry.name] = None
                continue
            shape = entry.shape
            if self.plan.fixed and flow.batch is not None:  # rows side by side, each of which runs alone
                shape = (*shape[: flow.batch], "B", *shape[flow.batch + 1 :])
            array = accept_array(entry.name, value, numpy_dtype(entry.dtype, self.model.dtype), shape, sizes)
            if flow.batch is not None and array.shape[flow.batch] != batch:
                raise InputError(f"{entry.name}: shape {array.shape}, expected a batch of {batch}")
            found[entry.name] = array
        return found


class Rows:
    """The states of ``capacity`` rows. Not safe to use by two threads at once."""

    def __init__(self, program: Program, capacity: int):
        self.program, self.capacity = program, capacity
        self.arrays: dict[str, np.ndarray] = {"ended": np.zeros(capacity, np.bool_)}
        if not program.plan.together:
            self.arrays["steps"] = np.zeros(capacity, np.int64)
        self.recurrent: set[str] = set()
        self.static: dict[str, np.ndarray] = {}
        for part in program.plan.parts:
            self._allocate(part)

    # --- arrays -------------------------------------------------------------------------------------------------

    def _allocate(self, part: Part) -> None:
        node, flows = part.node, self.program.plan.flows
        dtype = self.program.model.dtype
        for name, most in part.waiting.items():
            self._keep(f"{node.name}.waiting.{name}", flows[name], most)
        if part.how in ("recurrent", "blocks"):
            shapes = node.state_shapes(self.capacity)
            for key, shape in shapes.items():
                layers = shape[0] // len(node.directions) if part.how == "blocks" else shape[0]
                self.arrays[f"{node.name}.{key}"] = np.zeros((layers, *shape[1:]), dtype)
                self.recurrent.add(f"{node.name}.{key}")
        if node.name in self.program.repeats:
            self.arrays[f"{node.name}.began"] = np.zeros(self.capacity, np.bool_)
        if part.how == "window":
            window, source = part.window, node.inputs[0]
            self._keep(f"{node.name}.context", flows[source], window.left + window.right + window.stride)
        elif part.how == "blocks":
            plan = self.program.plan
            self._keep(f"{node.name}.context", flows[node.input], plan.block + plan.lookahead)
        elif part.how == "history":
            for name in dict.fromkeys(node.inputs):
                self._keep(f"{node.name}.history.{name}", flows[name], self.program.plan.history - 1)
        elif part.how == "last":
            self._keep(f"{node.name}.last", flows[node.inputs[0]], 1)

    def _keep(self, name: str, flow: Flow, most: int) -> None:
        """Room for at most so many steps of a value in each row."""
        rest = [size for axis, size in enumerate(flow.value.shape) if axis not in (flow.time, flow.batch)]
        free = [size for size in rest if not isinstance(size, int)]
        if free:
            raise UnsupportedError(
                f"{name}: values are {flow.value}, expected no free sizes but the batch and the time"
            )
        dtype = numpy_dtype(flow.value.dtype, self.program.model.dtype)
        self.arrays[name] = np.zeros((self.capacity, most, *rest), dtype)

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
                array[rows] = _padding(part, array.dtype)
            if part.how not in ("recurrent", "blocks"):
                continue
            for place, key in enumerate(node.state_shapes(1)):
                array, each = self.arrays[f"{node.name}.{key}"], len(node.directions)
                if node.trained_state:
                    array[:, rows] = model.weights[f"{node.name}.initial_{key}"][::each, None]
                elif place < len(node.initial):
                    array[:, rows] = self._of_static(node.initial[place], rows)[::each]

    def _of_static(self, name: str, rows: Any) -> np.ndarray:
        flow, array = self.program.plan.flows[name], self.static[name]
        return array if flow.batch is None else array[(slice(None),) * flow.batch + (rows,)]

    def _set_static(self, rows: Any, static: Values) -> None:
        """Compute what does not depend on the sequence, for some rows."""
        plan, count = self.program.plan, len(np.arange(self.capacity)[rows])
        values: Values = dict(static)
        values.update(self.program.model._constants)
        wanted = set(plan.spec.outputs).union(*(part.node.reads for part in plan.parts if part.how != "static"))
        with np.errstate(all="ignore"):
            for part, step in zip(plan.parts, self.program.steps, strict=True):
                if part.how != "static":
                    continue
                if part.data is not None and part.node.names[0] not in values:
                    value = plan.flows[part.node.names[0]].value
                    data = [count if item == BATCH else item for item in part.data]
                    dtype = numpy_dtype(value.dtype, self.program.model.dtype)
                    values[part.node.names[0]] = np.array(data, dtype).reshape(value.shape)
                elif part.data is None:
                    step(values, None, {})
        wanted -= set(self.program.model._constants)
        kept = {name: values[name] for name in wanted if name in plan.flows and plan.flows[name].kind == "static"}
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
                sizes = [(*found.shape[:axis], *found.shape[axis + 1 :]) for found in (array, there)]
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
        found = {
            name: np.array(array[:, rows] if name in self.recurrent else array[rows])
            for name, array in self.arrays.items()
        }
        for entry in self.program.static:
            array = self.static.get(entry.name)
            if array is not None:
                found[f"static.{entry.name}"] = np.array(self._of_static(entry.name, rows))
        return found

    def check_saved(self, found: Mapping[str, np.ndarray], count: int) -> None:
        """StateError unless ``found`` is what save gives for so many rows of this program."""
        expected = {}
        for name, array in self.arrays.items():
            shape = (array.shape[0], count, *array.shape[2:]) if name in self.recurrent else (count, *array.shape[1:])
            expected[name] = (shape, array.dtype)
        for entry in self.program.static:
            array = found.get(f"static.{entry.name}")
            try:
                accepted = self.program.accept({entry.name: array}, count, [entry], "state")[entry.name]
            except InputError as error:
                raise StateError(f"state: static.{error}") from None
            if array is not None:
                expected[f"static.{entry.name}"] = (array.shape, accepted.dtype)
        unknown = [name for name in found if name not in expected]
        missing = [name for name in expected if name not in found]
        if unknown or missing:
            what = f"unknown array {shown(unknown[0])!r}" if unknown else f"array {missing[0]!r} missing"
            raise StateError(f"state: {what}, expected {', '.join(expected)}")
        for name, (shape, dtype) in expected.items():
            if found[name].shape != shape or found[name].dtype != dtype:
                raise StateError(
                    f"state {name}: {found[name].dtype} {found[name].shape}, expected {dtype} {shape} "
                    f"for {count} row{'s' * (count != 1)}"
                )
        steps = found.get("steps", np.zeros(1, np.int64))
        if count and not (steps.min() >= 0 and steps.max() <= MOST_STEPS):
            raise StateError(f"state steps: {steps.min()} to {steps.max()}, expected 0 to {MOST_STEPS}")

    def load(self, rows: Any, found: Mapping[str, np.ndarray]) -> None:
        """Make rows what save gave, which was checked."""
        static = {name.removeprefix("static."): array for name, array in found.items() if name.startswith("static.")}
        if static:
            self._set_static(rows, {entry.name: static.get(entry.name) for entry in self.program.static})
        for name, array in self.arrays.items():
            if name in self.recurrent:
                array[:, rows] = found[name]
            else:
                array[rows] = found[name]

    # --- a step -------------------------------------------------------------------------------------------------

    def advance(
        self,
        rows: np.ndarray,
        given: Values,
        new: int,
        lengths: np.ndarray | None,
        ended: bool = False,
        check: Callable[[Values], None] | None = None,
    ) -> tuple[Values, dict[str, np.ndarray]]:
        """Outputs of these rows (different ones) for their next ``new`` steps, and how many steps each row has of each.

        given    the inputs by name, of len(rows) rows; none where the rows end
        lengths  int64 (len(rows),): steps of each row that count; None for all
        ended    the sequence ends here: what still waits is given out
        check    is called with the outputs before anything is changed, and may raise

        Outputs behind a row's own steps are 0.
        """
        if self.program.plain and new and lengths is None and not ended:
            return self._advance_plain(rows, given, new, check)
        updates: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
        results = []
        with np.errstate(all="ignore"):
            for members, count, ragged in self._groups(rows, new, lengths):
                whole = len(members) == len(rows)
                part = given if whole and count == new else self._part(given, members, count)
                results.append(self._run(rows[members], part, count, ragged, ended, updates))
                results[-1] = (members, *results[-1])
        outputs, counts = self._gathered(rows, results)
        if check is not None:
            check(outputs)
        for members, found in updates:
            for name, array in found.items():
                if name in self.recurrent:
                    self.arrays[name][:, members] = array
                elif array.ndim == 1:
                    self.arrays[name][members] = array
                else:
                    self.arrays[name][members, : array.shape[1]] = array
        if "steps" in self.arrays:
            self.arrays["steps"][rows] += new if lengths is None else lengths
        if ended:
            self.arrays["ended"][rows] = True
        return outputs, counts

    def _advance_plain(
        self, rows: np.ndarray, given: Values, new: int, check: Callable[[Values], None] | None
    ) -> tuple[Values, dict[str, np.ndarray]]:
        """The same for a graph whose nodes all run as they do in a model: the model's own steps, states in and out."""
        program = self.program
        every = len(rows) == self.capacity and bool((rows[1:] > rows[:-1]).all())
        before = {
            name: self.arrays[name] if every else np.ascontiguousarray(self.arrays[name][:, rows])
            for name in self.recurrent
        }
        after: dict[str, np.ndarray] = {}
        values: Values = {**program.model._constants, **program.absent, **given}
        for name in self.static:
            values[name] = None if self.static[name] is None else self._of_static(name, rows)
        state = State.of(before)
        with np.errstate(all="ignore"):
            for step in program.plain:
                step(values, state, after)
        outputs = self._own_outputs(values, [*given.values(), *after.values()])
        if check is not None:
            check(outputs)
        for name, array in after.items():
            self.arrays[name][:, slice(None) if every else rows] = array
        return outputs, {name: np.full(len(rows), new) for name in outputs}

    def _own_outputs(self, values: Values, others: list[np.ndarray | None]) -> Values:
        """The outputs, none of which shares memory with another, with these arrays or with what is kept."""
        held = [*others, *self.program.model._constants.values(), *self.static.values()]
        held = [array for array in held if array is not None]
        outputs: Values = {}
        for name in self.program.plan.spec.outputs:
            array = values[name]
            outputs[name] = array.copy() if any(np.may_share_memory(array, other) for other in held) else array
            held.append(outputs[name])
        return outputs

    def _groups(self, rows, new, lengths):
        """(places in ``rows``, number of steps, lengths or None): what can run in one batch."""
        program, everyone = self.program, np.arange(len(rows))
        if lengths is not None and (lengths == new).all():
            lengths = None
        if program.plan.together and (lengths is None or program.ragged):
            return [(everyone, new, lengths)]
        keys: dict[tuple[int, int], list[int]] = {}
        for place, row in enumerate(rows):
            count = new if lengths is None else int(lengths[place])
            phase = 0 if program.plan.together else program.phase(int(self.arrays["steps"][row]))
            keys.setdefault((count, phase, place if program.plan.fixed else 0), []).append(place)
        return [(np.array(places), count, None) for (count, _, _), places in keys.items()]

    def _part(self, given: Values, members: np.ndarray, count: int) -> Values:
        found = {}
        for name, array in given.items():
            flow = self.program.plan.flows[name]
            if array is not None and flow.kind == "steps":
                array = array if flow.batch is None else np.take(array, members, axis=flow.batch)
                array = np.ascontiguousarray(array[(slice(None),) * flow.time + (slice(count),)])
            found[name] = array
        return found

    def _gathered(self, rows, results):
        """The groups' outputs in the order of rows."""
        plan = self.program.plan
        counts = {name: np.zeros(len(rows), np.int64) for name in plan.spec.outputs}
        for members, found, known, lengths in results:
            for name in plan.spec.outputs:
                flow = plan.flows[name]
                if flow.kind == "steps":
                    counts[name][members] = known[flow.timing] if lengths is None else lengths
                    if lengths is not None:
                        found[name] = _zeros_behind(found[name], flow, lengths)
        if len(results) == 1:
            return results[0][1], counts
        outputs = {}
        for name in plan.spec.outputs:
            flow = plan.flows[name]
            if flow.batch is None:
                outputs[name] = results[0][1][name]
                continue
            first = max((found[name] for _, found, _, _ in results), key=lambda array: array.size)
            shape = list(first.shape)
            shape[flow.batch] = len(rows)
            if flow.kind == "steps":
                shape[flow.time] = int(counts[name].max())
            outputs[name] = np.zeros(shape, first.dtype)
            for members, found, _, _ in results:
                index: list[Any] = [slice(None)] * len(shape)
                index[flow.batch] = members
                if flow.kind == "steps":
                    index[flow.time] = slice(found[name].shape[flow.time])
                outputs[name][tuple(index)] = found[name]
        return outputs, counts

    def _run(self, rows, given, new, lengths, ended, updates):
        """One group: outputs by name, the steps known of each timing, and lengths."""
        program, plan = self.program, self.program.plan
        before = 0 if plan.together else program.phase(int(self.arrays["steps"][rows[0]]))
        counts = program.counts(before, new, ended)
        run = _Run(self, rows, counts, ended)
        values = run.values
        values.update(program.model._constants)
        for name in self.static:
            values[name] = None if self.static[name] is None else self._of_static(name, rows)
        for entry in program.given:
            values[entry.name] = given.get(entry.name)
            if values[entry.name] is None and not entry.optional:
                values[entry.name] = run.empty(plan.flows[entry.name])
        for name in program.lengths:
            values[name] = lengths
        for name, (of, axis) in program.model._padded.items():
            if values.get(of) is not None:
                values[name] = without_padding(values[name], values[of], axis)
        for part, step in zip(plan.parts, program.steps, strict=True):
            run.part(part, step)
        updates.append((rows, run.updates))
        outputs = self._own_outputs(values, [*given.values(), *run.updates.values()])
        return outputs, {timing: after - earlier for timing, (earlier, after) in counts.items()}, lengths


class _Run:
    """One group's way through the graph."""

    def __init__(self, rows: Rows, members: np.ndarray, counts: Mapping[Timing, tuple[int, int]], ended: bool):
        self.rows, self.members, self.counts, self.ended = rows, members, counts, ended
        self.plan = rows.program.plan
        self.values: Values = {}
        self.updates: dict[str, np.ndarray] = {}

    def new(self, timing: Timing | None) -> int:
        before, after = self.counts[timing or INPUT]
        return after - before

    def part(self, part: Part, step: Any) -> None:
        if part.how != "static":
            getattr(self, f"_{part.how}")(part, step)

    def empty(self, flow: Flow) -> np.ndarray:
        """No steps of a value."""
        shape = [size if isinstance(size, int) else 1 for size in flow.value.shape]
        shape[flow.time] = 0
        if flow.batch is not None:
            shape[flow.batch] = len(self.members)
        return np.zeros(shape, numpy_dtype(flow.value.dtype, self.rows.program.model.dtype))

    def _empty_names(self, names: Sequence[str]) -> None:
        for name in names:
            if self.plan.flows[name].kind == "steps":
                self.values[name] = self.empty(self.plan.flows[name])

    def _steps(self, part: Part, step: Any) -> None:
        node = part.node
        own = self._in_time(part)
        if self.new(part.timing) == 0 and all(self.plan.flows[name].kind == "steps" for name in node.names):
            self._empty_names(node.names)
            return
        step(own, None, {})
        for name in node.names:
            if name in own:  # an Embedding that was folded gives nothing
                self.values[name] = own[name]

    def _running(self, part: Part, step: Any) -> None:
        step(self.values, None, {})

    def _in_time(self, part: Part) -> Values:
        """The values as the node sees them: inputs that are ahead of others wait."""
        if not part.waiting:
            return self.values
        own = dict(self.values)
        for name in part.waiting:
            flow = self.plan.flows[name]
            earlier = self.counts[flow.timing][0] - self.counts[part.timing][0]
            steps = self._behind(f"{part.node.name}.waiting.{name}", flow, self.values[name], earlier)
            if steps is None:
                continue
            count = self.new(part.timing)
            own[name] = self._back(steps[:, :count], flow)
            self._store(f"{part.node.name}.waiting.{name}", steps[:, count:])
        return own

    # Kept steps stand as (rows, steps, ...), whatever the layout of the value.

    def _rows_first(self, array: np.ndarray, flow: Flow) -> np.ndarray:
        if flow.batch is None:
            return np.moveaxis(array, flow.time, 0)[None]
        return np.moveaxis(array, (flow.batch, flow.time), (0, 1))

    def _back(self, steps: np.ndarray, flow: Flow) -> np.ndarray:
        if flow.batch is None:
            return np.ascontiguousarray(np.moveaxis(steps[0], 0, flow.time))
        return np.ascontiguousarray(np.moveaxis(steps, (0, 1), (flow.batch, flow.time)))

    def _behind(self, name: str, flow: Flow, array: np.ndarray | None, kept: int) -> np.ndarray | None:
        """The steps that were kept under a name, and the new ones behind them; None where the value is absent."""
        if array is None:
            return None
        earlier = self.rows.arrays[name][self.members, :kept]
        new = self._rows_first(array, flow)
        if not new.shape[1]:
            return earlier
        return np.concatenate((earlier, new), axis=1) if kept else new

    def _store(self, name: str, steps: np.ndarray) -> None:
        self.updates[name] = steps

    def _recurrent(self, part: Part, step: Any) -> None:
        node, arrays = part.node, self.rows.arrays
        names = [f"{node.name}.{key}" for key in node.state_shapes(1)]
        before = {name: np.ascontiguousarray(arrays[name][:, self.members]) for name in names}
        own = self._in_time(part)
        if self.new(part.timing) == 0:
            found = {**before, f"{node.name}.last": before[names[0]][-1]}
            self.values.update({name: array for name, array in found.items() if name in self.plan.flows})
            self._empty_names([name for name in self._made(node) if name in self.plan.flows])
            return
        after: dict[str, np.ndarray] = {}
        step(own, State.of(before), after)
        self.values.update(
            {name: own[name] for name in self._made(node, ("last", *node.state_shapes(1))) if name in own}
        )
        self.updates.update(after)
        if node.name in self.rows.program.repeats:
            self._repeat(node, before[names[0]][-1])

    def _made(self, node: Any, endings: Sequence[str] = ()) -> list[str]:
        """Names that a recurrent node may give to sequences, and those with these endings."""
        return [node.name, *(f"{node.name}.{ending}" for ending in ("context", "weights", *endings))]

    def _repeat(self, node: Recurrent, h: np.ndarray) -> None:
        """Masked steps before a chunk's first valid one repeat what was given out last: h, or 0 before the first."""
        name = f"{node.name}.began"
        began = self.rows.arrays[name][self.members]
        y, mask = self.values.get(node.name), self.values[node.mask]
        if mask is None:
            lengths = self.values[node.lengths] if node.lengths else None
            self._store(name, began | (True if lengths is None else lengths > 0))
            return
        mask = mask.T if node.layout == "time_first" else mask
        if y is not None:
            y = self._rows_first(y, self.plan.flows[node.name])
            leading = ~np.logical_or.accumulate(mask, axis=1)
            y[...] = np.where(leading[:, :, None], np.where(began[:, None], h, h.dtype.type(0))[:, None], y)
        self._store(name, began | mask.any(axis=1))

    def _window(self, part: Part, step: Any) -> None:
        node, window = part.node, part.window
        source = node.inputs[0]
        flow = self.plan.flows[source]
        (known, known_after), (given, given_after) = self.counts[window.of], self.counts[window]
        start, received = given * window.stride, window.left + known
        kept = max(0, received - start)
        name = f"{node.name}.context"
        steps = self._behind(name, flow, self.values[source], kept)
        received_after = window.left + known_after
        if self.ended and window.end:
            shape = (len(steps), window.end, *steps.shape[2:])
            padding = np.full(shape, _padding(part, steps.dtype), steps.dtype)
            steps = np.concatenate((steps, padding), axis=1)
        origin, count = min(start, received), given_after - given
        if count:
            first = start - origin
            last = first + (count - 1) * window.stride + window.left + window.right + 1
            own = {**self.values, source: self._back(steps[:, first:last], flow)}
            step(own, None, {})
            self.values.update({made: own[made] for made in node.names})
        else:
            self._empty_names(node.names)
        if not self.ended:
            self._store(name, steps[:, min(given_after * window.stride, received_after) - origin :])

    def _blocks(self, part: Part, step: _BothWays) -> None:
        node = part.node
        flow = self.plan.flows[node.input]
        name = f"{node.name}.context"
        kept = self.counts[flow.timing][0] - self.counts[part.timing][0]
        steps = self._behind(name, flow, self.values[node.input], kept)
        states = {key: self.rows.arrays[f"{node.name}.{key}"][:, self.members] for key in node.cell.states}
        initial = {
            key: self.values[given][1 if len(node.directions) == 2 else 0 :: len(node.directions)]
            for key, given in zip(node.cell.states, node.initial, strict=False)
        }
        given, count = [], self.new(part.timing)
        while count:
            size = min(self.plan.block, count)
            given.append(step.block(steps[:, : size + self.plan.lookahead], size, states, initial))
            steps, count = steps[:, size:], count - size
        self._store(name, steps)
        self.updates.update({f"{node.name}.{key}": array for key, array in states.items()})
        names = [
            made for made in (f"{node.name}.forward", f"{node.name}.reverse", node.name) if made in self.plan.flows
        ]
        if not given:
            self._empty_names(names)
            return
        found = np.concatenate(given, axis=1)
        for made, array in zip(names, np.split(found, len(names), axis=2), strict=True):
            self.values[made] = self._back(array, Flow("steps", flow.value, flow.time, 1 - flow.time))

    def _history(self, part: Part, step: Any) -> None:
        """Each step's attention for itself: the same sums, however the sequence is cut."""
        node, history = part.node, self.plan.history
        if self.new(part.timing) == 0:
            self._empty_names(node.names)
            return
        kept = min(self.counts[part.timing][0], history - 1)
        names = dict.fromkeys(node.inputs)
        steps = {
            name: self._behind(f"{node.name}.history.{name}", self.plan.flows[name], self.values[name], kept)
            for name in names
        }
        for name, array in steps.items():
            self._store(f"{node.name}.history.{name}", array[:, max(0, array.shape[1] - (history - 1)) :])
        found = []
        for t in range(kept, kept + self.new(part.timing)):
            first = max(0, t + 1 - history)
            parts = {name: np.ascontiguousarray(array[:, first : t + 1]) for name, array in steps.items()}
            found.append(self._attend(node, step, parts, steps))
        self.values[node.name] = np.concatenate(found, axis=1)

    def _attend(self, node: Node, step: Any, parts: Values, steps: Values) -> np.ndarray:
        """One query, the last step of the first input, over the parts of the others."""
        own = {f"memory.{name}": array for name, array in parts.items()}
        own["query"] = np.ascontiguousarray(parts[node.inputs[0]][:, -1:])
        step(own, None, {})
        return own[node.name]

    def _last(self, part: Part, step: Any) -> None:
        node = part.node
        source = node.inputs[0]
        flow, name = self.plan.flows[source], f"{node.name}.last"
        steps = self._behind(name, flow, self.values[source], 1)[:, -1:]
        self._store(name, steps)
        own = {**self.values, source: self._back(steps, flow)}
        step(own, None, {})
        self.values[node.name] = own[node.name]


class _BothWays:
    """The layers and directions of a node that reads ahead, one by one.

    A block is some steps and those ahead of them: each layer's reverse direction begins with the last of these, the
    forward direction goes on from the block before, and carries to the next what it has after the block's own steps.
    Source: Zhang et al. 2016, latency-controlled bidirectional LSTM.
    """

    def __init__(self, part: Part, model: Model, plan: Plan, threads: int):
        self.node, self.dtype, self.threads = part.node, model.dtype, threads
        node = part.node
        self.stacks = [
            {
                direction: pack_direction(node, model.weights, model.dtype, layer, direction)
                for direction in node.directions
            }
            for layer in range(node.layers)
        ]
        self.trained = {}
        if node.trained_state:
            first = len(node.directions) - 1
            self.trained = {
                key: model.weights[f"{node.name}.initial_{key}"][first :: len(node.directions)].astype(model.dtype)
                for key in node.cell.states
            }

    def block(self, x: np.ndarray, size: int, states: Values, initial: Values) -> np.ndarray:
        """Outputs (B, size, width) for x (B, size and what is ahead, I); changes the forward ``states``."""
        for layer, stacks in enumerate(self.stacks):
            found = []
            for direction, stack in stacks.items():
                if direction == "forward":
                    own = {key: array[layer] for key, array in states.items()}
                    now, after = self._run(stack, x[:, :size], own)
                    for key, array in after.items():
                        states[key][layer] = array
                    found.append(np.concatenate((now, self._run(stack, x[:, size:], after)[0]), axis=1))
                else:
                    found.append(self._run(stack, x, self._start(layer, len(x), initial))[0])
            x = _merged("concat" if self.node.merge == "separate" else self.node.merge, found)
        return x[:, :size]

    def _start(self, layer: int, batch: int, initial: Values) -> Values:
        """Where the reverse direction begins."""
        sizes = self.node.cell.state_sizes
        if initial:
            return {key: initial[key][layer] for key in sizes}
        if self.trained:
            return {key: np.broadcast_to(self.trained[key][layer], (batch, sizes[key])) for key in sizes}
        return {key: np.zeros((batch, size), self.dtype) for key, size in sizes.items()}

    def _run(self, stack: Any, x: np.ndarray, states: Values) -> tuple[np.ndarray, Values]:
        batch, steps = x.shape[:2]
        y = np.empty((batch, steps, self.node.cell.output_size), self.dtype)
        if steps == 0:
            return y, states
        before = {key: np.ascontiguousarray(array[None]) for key, array in states.items()}
        after = {key: np.empty_like(array) for key, array in before.items()}
        stack.run(
            np.ascontiguousarray(x), y, "set", "set", False, False, None, None, None,
            before["h"], before.get("c"), after["h"], after.get("c"), self.threads,
        )  # fmt: skip
        return y, {key: array[0] for key, array in after.items()}


def _padding(part: Part, dtype: np.dtype) -> float | int:
    """What stands around the sequence, as a number of that dtype."""
    return np.iinfo(dtype).min if dtype.kind in "iu" and part.padding < 0 else part.padding


def _merged(merge: str, found: list[np.ndarray]) -> np.ndarray:
    if len(found) == 1:
        return found[0]
    if merge == "concat":
        return np.concatenate(found, axis=2)
    a, b = found
    return {"sum": a + b, "mul": a * b, "average": (a + b) * a.dtype.type(0.5)}[merge]


def _zeros_behind(array: np.ndarray, flow: Flow, lengths: np.ndarray) -> np.ndarray:
    """The array with 0 behind each row's length."""
    moved = np.moveaxis(array, (flow.batch, flow.time), (0, 1))
    counts = np.arange(moved.shape[1]) < lengths[:, None]
    if counts.all():
        return array
    found = np.where(counts.reshape(counts.shape + (1,) * (moved.ndim - 2)), moved, moved.dtype.type(0))
    return np.ascontiguousarray(np.moveaxis(found, (0, 1), (flow.batch, flow.time)))
