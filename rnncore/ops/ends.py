"""Ops that move steps: a Slice that leaves out some at the ends of an axis, a Pad or a Concat that adds some there.

A stream counts such steps and lets the op do its work along the other axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from rnncore.ops import sizes
from rnncore.ops.base import UNKNOWN, Value, known

__all__ = ["CONCAT", "GATHER", "PAD", "SLICE", "SLICE_POSITIONS", "Ends", "First", "Last", "Moved"]

Attributes = Mapping[str, Any]
Values = Sequence[Value | None]

LATER = (1 << 31) - 1
"""An end of a Slice that is after any sequence."""

SLICE_POSITIONS = {"starts": 1, "ends": 2, "axes": 3, "steps": 4}
PAD_POSITIONS = {"pads": 1, "constant_value": 2, "axes": 3}


class Moved(NamedTuple):
    """Steps that are added before the first one and after the last one; below 0: left out.

    wraps  whether a sequence that is too short for it wraps round, as a Slice's end does
    """

    begin: int
    end: int
    wraps: bool


class First(NamedTuple):
    """The first ``steps`` steps of a sequence, and no others."""

    steps: int


class Last(NamedTuple):
    """The last step of a sequence alone."""


Change = Moved | First | Last | str | None


class Ends(NamedTuple):
    """The change that an op makes at the ends of one axis.

    along   (attributes, values, places, axis) -> the change; why there is none that can be counted; None where the op
            moves no steps. values: of the inputs, with the size of the axis by name; places: of those that have it
    others  (attributes, values, axis, begin, end) -> attributes, and places of the inputs (None: absent), of the same
            op along the other axes alone, with ``begin`` and ``end`` steps still added on this one; why there is none;
            None where nothing is left. The field is None for an op that does nothing along other axes
    joins   whether the op puts its inputs one after another along its attribute "axis", and does nothing else
    """

    along: Callable[[Attributes, Values, Sequence[int], int], Change]
    others: Callable[..., tuple[dict[str, Any], tuple[int | None, ...]] | str | None] | None = None
    joins: bool = False


def _slice(attributes: Attributes, values: Values, places: Sequence[int], axis: int) -> Change:
    if places[0] != 0:
        return None
    bounds = _bounds(attributes, values)
    if bounds is None:
        return "its axes are only known when it runs"
    if axis not in bounds:
        return None
    start, end, step = bounds[axis]
    size = cast(Value, values[0]).shape[axis]
    if step != 1:
        return f"it takes each {step!r}th step, counted from the whole sequence"
    if start is None or end is None or size == UNKNOWN:
        return "which steps it takes depends on values"
    if start == -1 and isinstance(end, int) and end >= LATER and len(bounds) == 1:
        return Last()
    cut = _left_out(end, size)
    if isinstance(start, str) or start < 0:
        return "its start is counted from the end of the sequence"
    if cut is None and start == 0 and isinstance(end, int) and end > 0:
        return First(end)
    if cut is None:
        return "its end is counted from the beginning of the sequence"
    return Moved(-start, -cut, isinstance(end, str))


def _left_out(end: int | str, size: int | str) -> int | None:
    """The number of steps at the end of a sequence that a Slice leaves out."""
    if isinstance(end, str):
        cut = sizes.subtract(size, end)
        return max(0, cut) if isinstance(cut, int) else None
    return -end if end < 0 else 0 if end >= LATER else None


def _bounds(attributes: Attributes, values: Values) -> dict[int, tuple[Any, Any, Any]] | None:
    """axis -> (start, end, step), each None where it is only known when the node runs; None for unknown axes."""
    rank = len(cast(Value, values[0]).shape)
    starts, ends, axes, steps = (known(attributes, name, values, place) for name, place in SLICE_POSITIONS.items())
    if axes is None:
        if len(values) > SLICE_POSITIONS["axes"] and values[SLICE_POSITIONS["axes"]] is not None:
            return None
        count = next((len(bound) for bound in (starts, ends) if bound is not None), rank)
        axes = range(count)
    if any(isinstance(axis, str) for axis in axes):
        return None
    if steps is None:
        absent = len(values) <= SLICE_POSITIONS["steps"] or values[SLICE_POSITIONS["steps"]] is None
        steps = (1 if absent else None,) * len(axes)
    starts, ends = (bound or (None,) * len(axes) for bound in (starts, ends))
    bounds = zip(axes, starts, ends, steps, strict=True)
    return {axis % rank: (start, end, step) for axis, start, end, step in bounds}


def _slice_others(attributes: Attributes, values: Values, axis: int, begin: int, end: int):
    bounds = {other: bound for other, bound in (_bounds(attributes, values) or {}).items() if other != axis}
    if not bounds:
        return None
    if any(type(item) is not int for bound in bounds.values() for item in bound):
        return "what it takes along other axes is only known when it runs"
    starts, ends, steps = zip(*bounds.values(), strict=True)
    return {"starts": starts, "ends": ends, "axes": tuple(bounds), "steps": steps}, (0,)


def _pad(attributes: Attributes, values: Values, places: Sequence[int], axis: int) -> Change:
    if places[0] != 0:
        return None
    widths = _widths(attributes, values)
    if widths is None:
        return "its pads are only known when it runs"
    begin, end = widths[axis]
    if begin == end == 0:
        return None
    mode = attributes["mode"]
    if mode != "constant" and (begin > 0 or end > 0):
        return f"mode={mode!r} pads with other steps of the sequence, expected 'constant'"
    if len(places) > 1:
        return "what it pads with depends on the sequence"
    return Moved(begin, end, False)


def _widths(attributes: Attributes, values: Values) -> list[tuple[int, int]] | None:
    """(before, after) for each axis; None where they are only known when the node runs."""
    rank = len(cast(Value, values[0]).shape)
    pads, axes = (known(attributes, name, values, PAD_POSITIONS[name]) for name in ("pads", "axes"))
    absent = len(values) <= PAD_POSITIONS["axes"] or values[PAD_POSITIONS["axes"]] is None
    if pads is None or (axes is None and not absent and attributes["axes"] is None):
        return None
    axes = range(rank) if axes is None else axes
    if any(isinstance(item, str) for item in (*pads, *axes)):
        return None
    widths = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        widths[axis % rank] = pads[place], pads[place + len(axes)]
    return widths


def _pad_others(attributes: Attributes, values: Values, axis: int, begin: int, end: int):
    widths = _widths(attributes, values) or []
    widths[axis] = begin, end
    if not any(map(any, widths)):
        return None
    pads = (*(before for before, _ in widths), *(after for _, after in widths))
    constant = PAD_POSITIONS["constant_value"]
    given = len(values) > constant and values[constant] is not None
    return {**attributes, "pads": pads, "axes": None}, (0, None, constant) if given else (0,)


def _concat(attributes: Attributes, values: Values, places: Sequence[int], axis: int) -> Change:
    rank = len(cast(Value, values[0]).shape)
    if attributes["axis"] % rank != axis:
        return None
    if len(places) != 1:
        return "it puts one sequence after another"
    (place,) = places
    counts: list[Any] = [0 if other == place else cast(Value, one).shape[axis] for other, one in enumerate(values)]
    if not all(isinstance(count, int) for count in counts):
        return "how many steps it adds is only known when it runs"
    return Moved(sum(counts[:place]), sum(counts[place:]), False)


def _gather(attributes: Attributes, values: Values, places: Sequence[int], axis: int) -> Change:
    along = places[0] == 0 and attributes["axis"] % len(cast(Value, values[0]).shape) == axis
    return Last() if along and attributes["indices"] in (-1, (-1,)) else None


SLICE, PAD, GATHER = Ends(_slice, _slice_others), Ends(_pad, _pad_others), Ends(_gather)
CONCAT = Ends(_concat, joins=True)
