"""Ops that move steps: a Slice that leaves out some at the ends, a Pad or a Concat that adds some there.

A stream counts such steps (Around in timing.py) and lets the op do what it does along other axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rnncore.graph.nodes import Node
from rnncore.ops import UNKNOWN, Value, sizes
from rnncore.ops.base import known

__all__ = ["LATER", "First", "along_others", "moved"]

Values = Sequence[Value | None]

# An end of a Slice that is behind any sequence.
LATER = (1 << 31) - 1

SLICE = {"starts": 1, "ends": 2, "axes": 3, "steps": 4}
PAD = {"pads": 1, "constant_value": 2, "axes": 3}


@dataclass(frozen=True)
class First:
    """So many steps at the beginning of the sequence, and no others."""

    count: int


Found = tuple[int, int, bool] | First | str | None


def moved(node: Node, values: Values, moving: Sequence[str], time: int) -> Found:
    """(begin, end, wraps) of an Around, a First, why there is neither, or None for a node that moves no steps.

    values  of the inputs, with sizes that say which of them are the time's
    moving  the inputs that have steps, the first of them on axis ``time``
    """
    rule = RULES.get(node.op) if moving[:1] == [node.inputs[0]] or node.op == "Concat" else None
    return None if rule is None else rule(node, values, moving, time)


def _slice(node: Node, values: Values, moving: Sequence[str], time: int) -> Found:
    found = _bounds(node, values)
    if found is None:
        return "its axes are only known when it runs"
    if time not in found:
        return None
    start, end, step = found[time]
    size = values[0].shape[time]
    if step != 1:
        return f"it takes each {step!r}th step, counted from the whole sequence"
    if start is None or end is None or size == UNKNOWN:
        return "which steps it takes depends on values"
    cut = _left_out(end, size)
    if isinstance(start, str) or start < 0:
        return "its start is counted from the end of the sequence"
    if cut is None and start == 0 and isinstance(end, int) and end > 0:
        return First(end)
    if cut is None:
        return "its end is counted from the beginning of the sequence"
    return -start, -cut, isinstance(end, str)


def _left_out(end: int | str, size: int | str) -> int | None:
    """How many steps at the end of a sequence a Slice leaves out."""
    if isinstance(end, str):
        cut = sizes.subtract(size, end)
        return max(0, cut) if isinstance(cut, int) else None
    return -end if end < 0 else 0 if end >= LATER else None


def _bounds(node: Node, values: Values) -> dict[int, tuple[Any, Any, Any]] | None:
    """axis -> (start, end, step), each None where it is only known when the node runs; None for unknown axes."""
    rank = len(values[0].shape)
    starts, ends, axes, steps = (known(node.attributes, name, values, place) for name, place in SLICE.items())
    if axes is None:
        if len(values) > SLICE["axes"] and values[SLICE["axes"]] is not None:
            return None
        count = next((len(bound) for bound in (starts, ends) if bound is not None), rank)
        axes = range(count)
    if any(isinstance(axis, str) for axis in axes):
        return None
    if steps is None:
        absent = len(values) <= SLICE["steps"] or values[SLICE["steps"]] is None
        steps = (1 if absent else None,) * len(axes)
    starts, ends = (bound or (None,) * len(axes) for bound in (starts, ends))
    bounds = zip(axes, starts, ends, steps, strict=True)
    return {axis % rank: (start, end, step) for axis, start, end, step in bounds}


def _pad(node: Node, values: Values, moving: Sequence[str], time: int) -> Found:
    widths = _widths(node, values)
    if widths is None:
        return "its pads are only known when it runs"
    begin, end = widths[time]
    if begin == end == 0:
        return None
    mode = node.attributes["mode"]
    if mode != "constant" and (begin > 0 or end > 0):
        return f"mode={mode!r} pads with other steps of the sequence, expected 'constant'"
    if any(name in moving for name in node.inputs[1:]):
        return "what it pads with depends on the sequence"
    return begin, end, False


def _widths(node: Node, values: Values) -> list[tuple[int, int]] | None:
    """(before, after) for each axis; None where they are only known when the node runs."""
    rank = len(values[0].shape)
    pads, axes = (known(node.attributes, name, values, PAD[name]) for name in ("pads", "axes"))
    absent = len(values) <= PAD["axes"] or values[PAD["axes"]] is None
    if pads is None or (axes is None and not absent and node.attributes["axes"] is None):
        return None
    axes = range(rank) if axes is None else axes
    if any(isinstance(item, str) for item in (*pads, *axes)):
        return None
    widths = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        widths[axis % rank] = pads[place], pads[place + len(axes)]
    return widths


def _concat(node: Node, values: Values, moving: Sequence[str], time: int) -> Found:
    rank = len(values[0].shape)
    if node.attributes["axis"] % rank != time:
        return None
    if len(moving) != 1 or node.inputs.count(moving[0]) != 1:
        return "it puts one sequence behind another"
    place = node.inputs.index(moving[0])
    counts = [0 if name == moving[0] else value.shape[time] for name, value in zip(node.inputs, values, strict=True)]
    if not all(isinstance(count, int) for count in counts):
        return "how many steps it adds is only known when it runs"
    return sum(counts[:place]), sum(counts[place:]), False


RULES = {"Slice": _slice, "Pad": _pad, "Concat": _concat}


def along_others(node: Node, values: Values, time: int, begin: int = 0, end: int = 0) -> Node | str | None:
    """What a Slice or a Pad does along other axes than the time's, as a node; None where that is nothing.

    begin, end  steps that a Pad still adds. Why there is no such node, where its parameters are not known
    """
    attributes: Mapping[str, Any] = node.attributes
    if node.op == "Slice":
        bounds = {axis: bound for axis, bound in (_bounds(node, values) or {}).items() if axis != time}
        if not bounds:
            return None
        if any(type(item) is not int for bound in bounds.values() for item in bound):
            return "what it takes along other axes is only known when it runs"
        starts, ends, steps = zip(*bounds.values(), strict=True)
        attributes = {"starts": starts, "ends": ends, "axes": tuple(bounds), "steps": steps}
        return Node(node.name, "Slice", node.inputs[:1], attributes)
    widths = _widths(node, values)
    widths[time] = begin, end
    if not any(map(any, widths)):
        return None
    pads = (*(before for before, _ in widths), *(after for _, after in widths))
    inputs = node.inputs[:1]
    if len(node.inputs) > PAD["constant_value"] and node.inputs[PAD["constant_value"]]:
        inputs = (node.inputs[0], "", node.inputs[PAD["constant_value"]])
    return Node(node.name, "Pad", inputs, {**attributes, "pads": pads, "axes": None})
