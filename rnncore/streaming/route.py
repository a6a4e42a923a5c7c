"""The way of a group of rows through the graph: each node as its NodePlan says, for a known number of steps.

What is kept, joined, cut and given follows from the steps that the rows have seen and the new ones, never from the
data. So a Route is made once for each pair of them, and whatever rows come with these numbers take it: only the stages
are left to run, one for each node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rnncore.graph.nodes import Node, Recurrent
from rnncore.kernels._graph import walk
from rnncore.ops import OPS, numpy_dtype
from rnncore.runtime.control_flow import ControlStep
from rnncore.runtime.model import nothing
from rnncore.runtime.state import State
from rnncore.streaming.flow import NodePlan, ValuePlan
from rnncore.streaming.lookahead import BEGAN, LookaheadRecurrent
from rnncore.streaming.timing import INPUT, Timing

if TYPE_CHECKING:
    from rnncore.streaming.program import StreamProgram

__all__ = ["Kept", "Route", "Stage", "padding_of", "rows_first", "scan_states", "steps_back", "steps_first"]

Values = dict[str, Any]
Updates = dict[str, np.ndarray]


class Kept:
    """The states of a group of rows before a step. It returns copies: updates are stored one after the other.

    arrays  those of Rows;  rows: which of them, an index, or None for all in order;  count: how many
    """

    __slots__ = ("arrays", "count", "rows")

    def __init__(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray | None, count: int):
        self.arrays, self.rows, self.count = arrays, rows, count

    def of(self, name: str) -> np.ndarray:
        array = self.arrays[name]
        return array.copy() if self.rows is None else array[self.rows]

    def states(self, name: str) -> np.ndarray:
        """Of a recurrent layer, whose rows are the second axis."""
        array = self.arrays[name]
        return array.copy() if self.rows is None else np.ascontiguousarray(array[:, self.rows])

    def extended(self, name: str, count: int, new: np.ndarray) -> np.ndarray:
        """The first ``count`` steps and new ones after them: a copy, or the new ones as they are."""
        if not count:
            return new
        array = self.arrays[name]
        earlier = array[:, :count] if self.rows is None else array[self.rows, :count]
        return np.concatenate((earlier, new), axis=1)


Stage = Callable[[Values, Kept, Updates], None]


def _labelled(stage: Stage, node: Any) -> Stage:
    """The stage, which errors name by its node: one made here has no label yet."""
    if isinstance(stage, FunctionType):
        stage.__dict__["label"] = f"node {node.name!r}"
    return stage


class Route:
    """The stages of all nodes that depend on the sequence.

    counts  for each timing the steps known before and after;  ended: whether the sequence ends after them
    """

    def __init__(self, program: StreamProgram, counts: Mapping[Timing, tuple[int, int]], ended: bool):
        self.program, self.plan = program, program.plan
        self.counts, self.ended = counts, ended
        self.known = {timing: after - before for timing, (before, after) in counts.items()}
        stages = [(part, getattr(self, f"_{part.how}")(part, step)) for part, step in program.moving]
        self.stages: list[Stage] = [_labelled(stage, part.node) for part, stage in stages if stage is not nothing]

    def take(self, values: Values, kept: Kept) -> Updates:
        """Add what the nodes give to ``values``; returns what is to be kept, which shares no memory with ``kept``."""
        updates: Updates = {}
        walk(self.stages, None, values, kept, updates)
        return updates

    def _new(self, timing: Timing | None) -> int:
        return self.known[timing or INPUT]

    # --- no steps -----------------------------------------------------------------------------------------------

    def empty(self, flow: ValuePlan, count: int, values: Values) -> np.ndarray:
        """No steps of a value, in ``count`` rows; free sizes are those of the values that are given once."""
        shape = [size if isinstance(size, int) else 1 for size in flow.value.shape]
        for axis, name, place in self._free_sizes(flow):
            shape[axis] = values[name].shape[place]
        shape[flow.time] = 0
        if flow.batch is not None:
            shape[flow.batch] = count
        return np.zeros(shape, numpy_dtype(flow.value.dtype, self.program.model.dtype))

    def _free_sizes(self, flow: ValuePlan) -> list[tuple[int, str, int]]:
        """(axis, input, its axis) of sizes that a value has in common with an input that is given once."""
        free = [
            (axis, size)
            for axis, size in enumerate(flow.value.shape)
            if isinstance(size, str) and axis not in (flow.time, flow.batch)
        ]
        entries = [entry for entry in self.program.static if entry.name in self.program.read and not entry.optional]
        given = [(entry.name, self.plan.flows[entry.name]) for entry in entries] if free else []
        return [
            (axis, name, other.value.shape.index(size))
            for axis, size in free
            for name, other in given[::-1]
            if size in other.value.shape
        ]

    def full(self, flow: ValuePlan, count: int) -> np.ndarray:
        """The new steps of a mask that is not given: all of them count."""
        shape = list(self.empty(flow, count, {}).shape)
        shape[flow.time] = self._new(flow.timing)
        return np.ones(shape, np.bool_)

    def _empties(self, names: Sequence[str], first: Stage | None = None) -> Stage:
        """Gives no steps of those names that have any, after another stage."""
        flows = {name: self.plan.flows[name] for name in names if name in self.plan.flows}

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            if first is not None:
                first(values, kept, updates)
            steps = {name: flow for name, flow in flows.items() if flow.kind == "steps"}
            values.update({name: self.empty(flow, kept.count, values) for name, flow in steps.items()})

        return stage

    # --- kept steps, (rows, steps, ...) whatever the layout of the value ------------------------------------------

    def _append(self, key: str, flow: ValuePlan, count: int) -> Callable[[Any, Kept], Any]:
        """A function that appends new steps to the first ``count`` that were kept as ``key``; None without a value."""

        def append(array: Any, kept: Kept) -> Any:
            if array is None:
                return None
            return kept.extended(key, count, self.first(array, flow, kept))

        return append

    def first(self, array: np.ndarray, flow: ValuePlan, kept: Kept) -> np.ndarray:
        """A value of several rows as (rows, steps, ...)."""
        return steps_first(array, flow)

    def over_window(self, part: NodePlan, step: Any, steps: np.ndarray, values: Values) -> None:
        """Add what a window's op gives for steps (rows, steps, ...) that have their context."""
        source = part.node.inputs[0]
        values[source] = steps_back(steps, self.plan.flows[source])
        step(values, None, {})

    def _in_time(self, part: NodePlan) -> Callable[[Values, Kept, Updates], Values] | None:
        """A function for the values as the node sees them, where earlier inputs wait for later ones; else None."""
        if not part.waiting:
            return None
        moves = []
        for name in part.waiting:
            flow, key = self.plan.flows[name], f"{part.node.name}.waiting.{name}"
            earlier = self.counts[flow.timing][0] - self.counts[part.timing][0]
            moves.append((name, key, flow, self._append(key, flow, earlier)))
        count = self._new(part.timing)

        def own(values: Values, kept: Kept, updates: Updates) -> Values:
            current = dict(values)
            for name, key, flow, append in moves:
                steps = append(values[name], kept)
                if steps is not None:
                    current[name] = steps_back(steps[:, :count], flow)
                    if not self.ended:
                        updates[key] = steps[:, count:]
            return current

        return own

    def _waited(self, part: NodePlan, step: Any, made: Sequence[str]) -> Any:
        """The step over values that have waited; its results are for all readers."""
        own = self._in_time(part)
        if own is None:
            return step

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            current = own(values, kept, updates)
            step(current, kept, updates)
            values.update({name: current[name] for name in made if name in current})

        return stage

    # --- a stage for each way of NodePlan.how -----------------------------------------------------------------------

    def _steps(self, part: NodePlan, step: Any) -> Stage:
        names = part.node.names
        if self._new(part.timing) == 0 and all(self.plan.flows[name].kind == "steps" for name in names):
            return self._empties(names, cast(Stage, self._in_time(part)))
        return self._waited(part, step, names)

    def _running(self, part: NodePlan, step: Any) -> Stage:
        return step

    def _recurrent(self, part: NodePlan, step: Any) -> Stage:
        node = part.node
        names = [f"{node.name}.{key}" for key in node.state_shapes(1)]
        made = [node.name, *(f"{node.name}.{end}" for end in ("context", "weights", "last", *node.state_shapes(1)))]
        if self._new(part.timing) == 0:
            return self._empties(made, self._unchanged(part, names))
        repeats = node.name in self.program.repeats

        def run(values: Values, kept: Kept, updates: Updates) -> None:
            before = {name: kept.states(name) for name in names}
            step(values, State.of(before), updates)
            if repeats:
                self._repeat(node, before[names[0]][-1], values, kept, updates)

        return self._waited(part, run, made)

    def _unchanged(self, part: NodePlan, names: list[str]) -> Stage:
        """A recurrent node's states without a step."""
        own, last = self._in_time(part), f"{part.node.name}.last"

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            if own is not None:
                own(values, kept, updates)
            states = {name: kept.states(name) for name in names}
            values.update({**states, last: states[names[0]][-1]})

        return stage

    def _repeat(self, node: Recurrent, h: np.ndarray, values: Values, kept: Kept, updates: Updates) -> None:
        """Masked steps before a chunk's first valid one repeat what was given out last: h, or 0 before the first."""
        name = f"{node.name}.began"
        began = kept.of(name)
        y, mask = values.get(node.name), values[str(node.mask)]
        if mask is None:
            lengths = values[node.lengths] if node.lengths else None
            updates[name] = began | (True if lengths is None else lengths > 0)
            return
        mask = mask.T if node.layout == "time_first" else mask
        if y is not None:
            y = steps_first(y, self.plan.flows[node.name])
            leading = ~np.logical_or.accumulate(mask, axis=1)
            y[...] = np.where(leading[:, :, None], np.where(began[:, None], h, h.dtype.type(0))[:, None], y)
        updates[name] = began | mask.any(axis=1)

    def _scan(self, part: NodePlan, step: ControlStep) -> Stage:
        node, count = part.node, self._new(part.timing)
        states = list(zip(scan_states(node), (self.plan.flows[start].batch for start in node.inputs), strict=False))
        carried, names, others, captures = node.carried, node.names, node.inputs[node.carried : node.own], node.captures

        def run(values: Values, kept: Kept, updates: Updates) -> None:
            given = [_row_at(kept.of(key), batch) for key, batch in states]
            if count:
                given += [values[name] for name in others]
                given = step.run(given, {name: values[name] for name in captures})
            values.update(zip(names, given, strict=False))
            for (key, batch), array in zip(states, given, strict=False):
                updates[key] = rows_first(array, batch)

        return self._waited(part, run, names) if count else self._empties(names[carried:], run)

    def _window(self, part: NodePlan, step: Any) -> Stage:
        node, window = part.node, part.window
        source, name = node.inputs[0], f"{node.name}.context"
        flow = self.plan.flows[source]
        (known, known_after), (given, given_after) = self.counts[window.of], self.counts[window]
        start, received = given * window.stride, window.left + known
        append = self._append(name, flow, max(0, received - start))
        origin, count = min(start, received), given_after - given
        first = start - origin
        last = first + (count - 1) * window.stride + window.left + window.right + 1
        rest = min(given_after * window.stride, window.left + known_after) - origin
        padding = window.end if self.ended else 0

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            given = values[source]
            steps = append(given, kept)
            if not self.ended:
                updates[name] = steps[:, rest:]
            elif padding:
                shape = (len(steps), padding, *steps.shape[2:])
                steps = np.concatenate((steps, np.full(shape, padding_of(part, steps.dtype), steps.dtype)), axis=1)
            if count:
                self.over_window(part, step, steps[:, first:last], values)
                values[source] = given

        return stage if count else self._empties(node.names, stage)

    def _around(self, part: NodePlan, steps: Mapping[tuple[int, int], Any]) -> Stage:
        """Steps of the source that are among those of the node, and others before the first and after the last."""
        node, timing, name = part.node, part.timing, f"{part.node.name}.held"
        source = self.plan.flows[part.moving]
        (known, known_after), (given, given_after) = self.counts[timing.of], self.counts[timing]
        first = timing.skipped + timing.inner(known)
        kept = max(0, known - first)
        origin = known - kept
        last = timing.skipped + timing.inner(known_after, self.ended)
        used, rest = slice(max(0, first - origin), max(0, last - origin)), slice(max(0, last - origin), None)
        append = self._append(name, source, kept)
        begin = max(0, timing.begin) if given == 0 and given_after else 0
        end = max(0, timing.end) if self.ended else 0
        step, axis, place = steps[begin, end], self.plan.flows[node.name].time, node.inputs.index(part.moving)

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            array = values[part.moving]
            if timing.held or timing.skipped:
                extended = append(array, kept)
                if timing.held and not self.ended:
                    updates[name] = extended[:, rest]
                array = steps_back(extended[:, used], source)
            if step is not None:
                before, values[part.moving] = values[part.moving], array
                step(values, kept, updates)
                values[part.moving] = before
            elif OPS[node.op].ends.joins:
                added = [values[other] for other in node.inputs[: place if begin else 0]]
                after_it = [values[other] for other in node.inputs[place + 1 :]] if end else []
                values[node.name] = np.concatenate((*added, array, *after_it), axis=axis)
            else:
                values[node.name] = array

        return stage

    def _first(self, part: NodePlan, step: Any) -> Stage:
        before, after = self.counts[part.timing]
        return step if before == 0 < after else self._empties(())

    def _sum(self, part: NodePlan, step: Any) -> Stage:
        """A sum of all steps so far: the same operations, one after the other, from the last one that was kept.

        Two steps are kept: what the next one gives where it is exclusive, and the sum.
        """
        node, name = part.node, f"{part.node.name}.sum"
        flow, source = self.plan.flows[node.name], node.inputs[0]
        if self._new(part.timing) == 0:
            return self._empties(node.names)
        exclusive = node.attributes["exclusive"]
        run = OPS[node.op].run
        attributes = {**node.attributes, "exclusive": False, "reverse": False, "axis": flow.time}

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            before = kept.of(name)
            x = np.concatenate((before[:, 1:], self.first(values[source], flow, kept)), axis=1)
            sums = self.first(run(attributes, {}, steps_back(x, flow)), flow, kept)
            updates[name] = np.repeat(sums[:, -1:], 2, axis=1)
            sums = np.concatenate((before[:, :1], sums[:, 1:-1]), axis=1) if exclusive else sums[:, 1:]
            values[node.name] = steps_back(sums, flow)

        return stage

    def _blocks(self, part: NodePlan, step: LookaheadRecurrent) -> Stage:
        node, plan = part.node, self.plan
        flow, keys = plan.flows[node.input], {name: f"{node.name}.waiting.{name}" for name in part.waiting}
        given, began = self.counts[part.timing][0], f"{node.name}.began"
        append = {
            name: self._append(key, plan.flows[name], self.counts[plan.flows[name].timing][0] - given)
            for name, key in keys.items()
        }
        names = [made for made in (f"{node.name}.forward", f"{node.name}.reverse", node.name) if made in plan.flows]
        directions, new = len(node.directions), self._new(part.timing)
        repeats = node.name in self.program.repeats

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            waited = {name: join(values[name], kept) for name, join in append.items()}
            updates.update({keys[name]: array[:, new:] for name, array in waited.items()})
            steps, mask = waited[node.input], None if node.mask is None else waited[node.mask]
            states = {key: kept.states(f"{node.name}.{key}") for key in node.cell.states}
            initial = {
                key: values[start][1 if directions == 2 else 0 :: directions]
                for key, start in zip(node.cell.states, node.initial, strict=False)
            }
            if repeats:
                states[BEGAN] = kept.of(began)
            blocks = []
            for first in range(0, new, plan.block):
                last = min(new, first + plan.block)
                window = slice(first, last + plan.lookahead)
                own = None if mask is None else mask[:, window]
                blocks.append(step.block(steps[:, window], last - first, states, initial, own))
            if repeats:
                updates[began] = states.pop(BEGAN)
            updates.update({f"{node.name}.{key}": array for key, array in states.items()})
            if blocks:
                parts = np.split(np.concatenate(blocks, axis=1), len(names), axis=2)
                back = ValuePlan("steps", flow.value, flow.time, 1 - flow.time)
                values.update({made: steps_back(array, back) for made, array in zip(names, parts, strict=True)})

        return stage if new else self._empties(names, stage)

    def _history(self, part: NodePlan, step: Any) -> Stage:
        """Each step's attention for itself: the same sums, however the sequence is cut."""
        node, history, new = part.node, self.plan.history, self._new(part.timing)
        if new == 0:
            return self._empties(node.names)
        before = min(self.counts[part.timing][0], history - 1)
        append = {
            name: self._append(f"{node.name}.history.{name}", self.plan.flows[name], before)
            for name in dict.fromkeys(node.inputs)
        }

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            steps = {name: join(values[name], kept) for name, join in append.items()}
            for name, array in steps.items():
                updates[f"{node.name}.history.{name}"] = array[:, max(0, array.shape[1] - (history - 1)) :]
            outputs = []
            for t in range(before, before + new):
                first = max(0, t + 1 - history)
                parts = {name: np.ascontiguousarray(array[:, first : t + 1]) for name, array in steps.items()}
                outputs.append(_attend(node, step, parts))
            values[node.name] = np.concatenate(outputs, axis=1)

        return stage

    def _last(self, part: NodePlan, step: Any) -> Stage:
        node = part.node
        source, name = node.inputs[0], f"{node.name}.last"
        flow = self.plan.flows[source]
        append = self._append(name, flow, 1)

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            given = values[source]
            updates[name] = steps = append(given, kept)[:, -1:]
            values[source] = steps_back(steps, flow)
            step(values, kept, updates)
            values[source] = given

        return stage


def padding_of(part: NodePlan, dtype: np.dtype) -> float | int:
    """The padding around the sequence, as a number of that dtype."""
    return np.iinfo(dtype).min if dtype.kind in "iu" and part.padding < 0 else part.padding


def scan_states(node: Any) -> tuple[str, ...]:
    """The names under which a stream keeps the states of a Scan, in their order."""
    return tuple(f"{node.name}.state.{place}" for place in range(node.carried))


def rows_first(array: np.ndarray, batch: int | None) -> np.ndarray:
    """A value without a time, its rows in the first place; with a row of its own where it has none."""
    return array[None] if batch is None else np.swapaxes(array, batch, 0)


def _row_at(array: np.ndarray, batch: int | None) -> np.ndarray:
    """The same back."""
    return array[0] if batch is None else np.ascontiguousarray(np.swapaxes(array, 0, batch))


def steps_first(array: np.ndarray, flow: ValuePlan) -> np.ndarray:
    """A value as (rows, steps, ...)."""
    if (flow.batch, flow.time) == (0, 1):
        return array
    if flow.batch is None:
        return np.moveaxis(array, flow.time, 0)[None]
    return np.moveaxis(array, (flow.batch, flow.time), (0, 1))


def steps_back(steps: np.ndarray, flow: ValuePlan) -> np.ndarray:
    """The same back."""
    if flow.batch is None:
        return np.ascontiguousarray(np.moveaxis(steps[0], 0, flow.time))
    if (flow.batch, flow.time) != (0, 1):
        steps = np.moveaxis(steps, (0, 1), (flow.batch, flow.time))
    return np.ascontiguousarray(steps)


def _attend(node: Node, step: Any, parts: Values) -> np.ndarray:
    """One query, the last step of the first input, over the parts of the others."""
    own = {f"memory.{name}": array for name, array in parts.items()}
    own["query"] = np.ascontiguousarray(parts[node.inputs[0]][:, -1:])
    step(own, None, {})
    return own[node.name]
