"""The way of one group of rows through the graph: each node as its Part says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rnncore.ops import numpy_dtype
from rnncore.spec import Node, Recurrent
from rnncore.state import State
from rnncore.streaming.both_ways import BothWays
from rnncore.streaming.flow import Flow, Part
from rnncore.streaming.program import padding_of, scan_states
from rnncore.streaming.timing import INPUT, Timing

if TYPE_CHECKING:
    from rnncore.streaming.rows import Rows

__all__ = ["Run", "rows_first"]

Values = dict[str, Any]


class Run:
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
        own = self._in_time(part)
        before, after = self.counts[part.timing]
        if after == before and all(self.plan.flows[name].kind == "steps" for name in part.node.names):
            self._empty_names(part.node.names)
            return
        step(own, None, {})
        if own is not self.values:
            for name in part.node.names:
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
        if (flow.batch, flow.time) == (0, 1):
            return array
        if flow.batch is None:
            return np.moveaxis(array, flow.time, 0)[None]
        return np.moveaxis(array, (flow.batch, flow.time), (0, 1))

    def _back(self, steps: np.ndarray, flow: Flow) -> np.ndarray:
        if flow.batch is None:
            return np.ascontiguousarray(np.moveaxis(steps[0], 0, flow.time))
        if (flow.batch, flow.time) != (0, 1):
            steps = np.moveaxis(steps, (0, 1), (flow.batch, flow.time))
        return np.ascontiguousarray(steps)

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

    def _scan(self, part: Part, step: Any) -> None:
        node, own = part.node, dict(self._in_time(part))
        states = list(zip(scan_states(node), node.inputs, node.names, strict=False))
        for key, start, name in states:
            own[key] = self.values[name] = _row_at(self.rows.arrays[key][self.members], self.plan.flows[start].batch)
        if self.new(part.timing) == 0:
            self._empty_names(node.names)
            return
        step(own, None, {})
        self.values.update({name: own[name] for name in node.names})
        for key, start, name in states:
            self._store(key, rows_first(own[name], self.plan.flows[start].batch))

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
            padding = np.full(shape, padding_of(part, steps.dtype), steps.dtype)
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

    def _blocks(self, part: Part, step: BothWays) -> None:
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


def rows_first(array: np.ndarray, batch: int | None) -> np.ndarray:
    """A value without a time, its rows in the first place; with a row of its own where it has none."""
    return array[None] if batch is None else np.swapaxes(array, batch, 0)


def _row_at(array: np.ndarray, batch: int | None) -> np.ndarray:
    """The same back."""
    return array[0] if batch is None else np.ascontiguousarray(np.swapaxes(array, 0, batch))
