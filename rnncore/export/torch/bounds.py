"""Sizes that a module's branches leave: from the decisions of a trace to Bounded nodes after the inputs of a Spec.

A branch such as T > 20 or B == 1 goes the example's way for a range of one size. Where that can be told exactly, the
Spec holds for this range and says so; any other branch on a size stays refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.records import Decision, Formula, without_folders
from rnncore.export.torch.values import TracedTensor
from rnncore.graph.nodes import Node, Recurrent
from rnncore.graph.spec import Spec

__all__ = ["bounded", "turning"]

FAR = 1 << 62
SHIFTED = re.compile(r"([^\W\d]\w*)([+-]\d+)?")
"""A size as shapes have it: a name, and a number added to it."""


def bounded(spec: Spec, g: TraceLowering, decisions: Sequence[Decision]) -> Spec | None:
    """The Spec with the sizes bounded for which decisions are as in the trace; None where that cannot be told."""
    for decision in decisions:
        size = _size(g, decision.formula)
        if isinstance(size, int):
            continue  # which no input changes
        bound = None if size is None else _bound(spec, size, decision)
        if bound is None:
            return None
        spec = _with_bound(spec, *bound, decision.place)
    return spec


def _size(g: TraceLowering, formula: Formula) -> int | str | None:
    """The only size that a condition asks for, as the Spec has it."""
    if formula.gap is None or len(formula.leaves) != 1 or formula.sources[0] is None:
        return None
    tensor, dim = formula.sources[0]
    value = g.env.get(tensor)
    known = isinstance(value, TracedTensor) and value.name is not None
    return g.values[str(value.name)].shape[dim] if known and value is not None else None


def _bound(spec: Spec, size: str, decision: Decision) -> tuple[str, int, int, int | None] | None:
    """(input, axis, least, most) of the sizes for which a decision is as in the trace."""
    formula, match = decision.formula, SHIFTED.fullmatch(size)
    if match is None:
        return None
    places = ((e.name, axis) for e in spec.inputs for axis, one in enumerate(e.shape) if one == match[1])
    place = next(places, None)
    if place is None:
        return None
    least, most = _range(formula, formula.leaves[0], decision.taken)
    shift = int(match[2] or 0)
    return *place, max(least - shift, 0), None if most is None else most - shift


def _range(formula: Formula, size: int, taken: bool) -> tuple[int, int | None]:
    """The sizes around one for which a condition is as for it; no upper bound as None."""
    turns = turning(formula)
    below = [one for one in turns if one < size]
    least = next((one + 1 for one in reversed(below) if bool(formula.value([one])) != taken), 0)
    above = [one for one in turns if one > size]
    most = next((one - 1 for one in above if bool(formula.value([one])) != taken), None)
    return least, most


def turning(formula: Formula) -> list[int]:
    """Sizes at which what a condition compares begins to be, or just was, less, equal or more than for the next sizes.

    The condition compares something that only grows, or only falls, with the size: between these sizes it stays.
    """
    gap = cast("Callable[[int], int]", formula.gap)
    rising = gap(FAR) >= gap(0)
    turns = set()
    for reached in (lambda one: one >= 0, lambda one: one > 0) if rising else (lambda o: o <= 0, lambda o: o < 0):
        low, high = -1, FAR
        if not reached(gap(high)):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(gap(middle)) else (middle, high)
        turns |= {high - 1, high}
    return sorted(one for one in turns if one >= 0)


def _with_bound(spec: Spec, name: str, axis: int, least: int, most: int | None, place: str) -> Spec:
    """Every reader of an input reads it through a Bounded node."""
    taken = {*spec.values, *(node.name for node in spec.nodes)}
    made = next(one for one in (f"{name}_bounded{i or ''}" for i in range(len(taken) + 1)) if one not in taken)
    reason = f"{without_folders(place)}: a branch goes another way"
    node = Node(made, "Bounded", (name,), {"axis": axis, "least": least, "most": most, "reason": reason})
    size = next(entry.shape[axis] for entry in spec.inputs if entry.name == name)
    others = [other.with_reads({name: made}) for other in spec.nodes]
    if any(_batch(spec, other) != size for other in spec.recurrent):
        others = [_of_one_length(spec, other) for other in others]
    inputs = [entry for entry in spec.inputs if not entry.optional or any(entry.name in one.reads for one in others)]
    return replace(spec, inputs=tuple(inputs), nodes=(node, *others))


def _batch(spec: Spec, node: Recurrent) -> int | str:
    return spec.values[node.input].shape[0 if node.layout == "batch_first" else 1]


def _of_one_length(spec: Spec, node: Any) -> Any:
    """A recurrent node without the lengths that only the caller gives: of rows they would decide the branch."""
    optional = {entry.name for entry in spec.inputs if entry.optional}
    return replace(node, lengths=None) if getattr(node, "lengths", None) in optional else node
