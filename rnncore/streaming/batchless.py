"""Rows of a graph that has no batch, or one of 1 that it cannot do without, concatenated along the time.

A node that is neither a window nor recurrent gives each step what concerns that step alone. So the steps of all rows
may be one sequence there; windows and recurrent layers get the rows one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnncore.runtime.recurrent import RecurrentStep
from rnncore.runtime.state import State
from rnncore.streaming.flow import NodePlan, StreamPlan, ValuePlan
from rnncore.streaming.route import Kept, Route, Stage, Updates, Values, steps_back, steps_first

if TYPE_CHECKING:
    from rnncore.streaming.program import StreamProgram

__all__ = ["BatchlessStep", "is_batchless", "join_rows", "split_rows"]


def is_batchless(program: StreamProgram) -> bool:
    """Whether the rows can run like that: nothing but steps, and nothing that was given for a row once."""
    plan = program.plan
    steps = all(plan.flows[name].kind == "steps" for name in (*plan.outputs, *(e.name for e in program.given)))
    fit = all(_fits(*pair) and not _counts(plan, pair[0].node) for pair in program.moving)
    return plan.fixed and steps and not program.static and fit


def _counts(plan: StreamPlan, node: Any) -> bool:
    """Whether a node computes with sizes, which are those of all rows together."""
    flows = [plan.flows[name] for name in node.names if plan.flows[name].kind == "sizes"]
    return any(flow.value.data is None or not all(map(_is_plain, flow.value.data)) for flow in flows)


def _is_plain(size: float | str) -> bool:
    """Whether it is a number, or a size as a value has it, of which nothing was computed."""
    return not isinstance(size, str) or size.isidentifier()


def _fits(part: NodePlan, step: Any) -> bool:
    if part.how == "recurrent":
        plain = isinstance(step, RecurrentStep) and step.table is None
        return plain and not part.waiting and part.node.mask is None and part.node.merge != "separate"
    return part.how in ("steps", "window") and not part.waiting


def join_rows(array: np.ndarray, axes: tuple[int, int], flow: ValuePlan) -> np.ndarray:
    """An input with rows and steps on these axes, as one sequence."""
    rows = np.moveaxis(array, axes, (0, 1))
    return steps_back(rows.reshape(1, -1, *rows.shape[2:]), flow)


def split_rows(array: np.ndarray, axes: tuple[int, int], flow: ValuePlan, count: int) -> np.ndarray:
    """An output of ``count`` rows, with rows and steps on these axes."""
    return np.moveaxis(_by_row(array, flow, count), (0, 1), axes)


def _by_row(array: np.ndarray, flow: ValuePlan, count: int) -> np.ndarray:
    """One sequence as (rows, steps, ...)."""
    steps = steps_first(array, flow)
    return steps.reshape(count, steps.shape[1] // count, *steps.shape[2:])


class BatchlessStep(Route):
    """The stages of such rows, which all have the same numbers of steps."""

    def empty(self, flow: ValuePlan, count: int, values: Values) -> np.ndarray:
        return super().empty(flow, 1, values)

    def first(self, array: np.ndarray, flow: ValuePlan, kept: Kept) -> np.ndarray:
        return _by_row(array, flow, kept.count)

    def over_window(self, part: NodePlan, step: Any, steps: np.ndarray, values: Values) -> None:
        node, flows = part.node, self.plan.flows
        source = node.inputs[0]
        outputs: dict[str, list[np.ndarray]] = {name: [] for name in node.names}
        for row in range(len(steps)):
            values[source] = steps_back(steps[row : row + 1], flows[source])
            step(values, None, {})
            for name, arrays in outputs.items():
                arrays.append(values[name])
        values.update({name: np.concatenate(arrays, axis=flows[name].time) for name, arrays in outputs.items()})

    def _recurrent(self, part: NodePlan, step: Any) -> Stage:
        node, flows = part.node, self.plan.flows
        names = [f"{node.name}.{key}" for key in node.state_shapes(1)]
        sequence, given = node.name, flows[node.input]
        axis = 1 if node.layout == "time_first" else 0
        rows = ValuePlan("steps", given.value, 1 - axis, axis)
        if self._new(part.timing) == 0:
            return self._empties([sequence])

        def stage(values: Values, kept: Kept, updates: Updates) -> None:
            own = {**values, node.input: steps_back(_by_row(values[node.input], given, kept.count), rows)}
            step(own, State.of({name: kept.states(name) for name in names}), updates)
            if own[sequence] is not None:
                y = steps_first(own[sequence], rows)
                values[sequence] = steps_back(y.reshape(1, -1, y.shape[2]), flows[sequence])

        return stage
