"""Dimensions that an op's outputs take over from its inputs.

Each op says so once, by ``Op.dimensions``: a list of Dimensions, one for each dimension along which positions stay
independent, or meet only within a known reach. What is not listed is taken to meet: a sum over an axis, a softmax along
it. Whether rows are independent, whether steps are, what may be padded, streamed or decoded step by step are all read
off this list (rnncore/graph/axes.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from rnncore.ops import sizes
from rnncore.ops.base import UNKNOWN, Value

__all__ = [
    "CAUSAL",
    "INDEPENDENT",
    "WHOLE",
    "Dimension",
    "Reach",
    "Values",
    "alike",
    "along_rows",
    "carried",
    "factors",
    "kept",
    "of_first",
    "reshaped",
    "spread_over",
    "spreading",
]


class Reach(NamedTuple):
    """The positions of an input that position j of an output is made of, along one dimension.

    j * stride - before ... j * stride + after; None without a bound on that side.
    """

    before: int | None = 0
    after: int | None = 0
    stride: int = 1

    @property
    def independent(self) -> bool:
        """Whether a position of the output is made of the same position of the input alone."""
        return self == INDEPENDENT

    @property
    def causal(self) -> bool:
        """Whether a position of the output needs nothing that comes after it."""
        return self.after is not None and self.after <= 0

    @property
    def name(self) -> str:
        """ "pointwise", "causal", "window" (a bounded number of later positions) or "whole"."""
        if self.independent:
            return "pointwise"
        return "causal" if self.causal else "whole" if self.after is None or self.before is None else "window"


INDEPENDENT = Reach()
CAUSAL = Reach(None, 0)
WHOLE = Reach(None, None)


class Dimension(NamedTuple):
    """A dimension along which an op keeps positions independent, or within a reach of each other.

    inputs   place of an input -> its axis. Where an input has size 1 there, it is spread over all positions
    outputs  place of an output -> its axis. An output that is not named meets all positions
    reach    how far a position of the outputs looks; the same for all inputs

    Without inputs: all positions of the outputs along this axis are alike.
    """

    inputs: Mapping[int, int]
    outputs: Mapping[int, int]
    reach: Reach = INDEPENDENT


Values = Sequence[Value | None]
Rule = Callable[[Mapping[str, Any], Values, Sequence[Value]], list[Dimension]]
"""(attributes, the inputs' values, the outputs') -> Dimensions; an input that is absent is None."""


def spreading(attributes: Mapping[str, Any], inputs: Values, outputs: Sequence[Value]) -> list[Dimension]:
    """The Rule of an op on elements, whose inputs spread over each other by NumPy's rule."""
    return spread_over(range(len(outputs[0].shape)), dict(enumerate(inputs)), outputs)


def spread_over(axes: Iterable[int], inputs: Mapping[int, Value | None], outputs: Sequence[Value]) -> list[Dimension]:
    """For each of these axes of the outputs, the inputs that have it when their last axes are aligned."""
    rank = len(outputs[0].shape)
    dimensions = []
    for axis in axes:
        here = {
            place: len(value.shape) - rank + axis
            for place, value in inputs.items()
            if value is not None and len(value.shape) - rank + axis >= 0
        }
        dimensions.append(Dimension(here, dict.fromkeys(range(len(outputs)), axis)))
    return dimensions


def carried(axes: Iterable[int | None], outputs: int = 1, place: int = 0) -> list[Dimension]:
    """One input's axes, in their order, go to these axes of every output; None: they meet."""
    return [
        Dimension({place: axis}, dict.fromkeys(range(outputs), target))
        for axis, target in enumerate(axes)
        if target is not None
    ]


def kept(without: Callable[[Mapping[str, Any], int], Iterable[int]]) -> Rule:
    """The Rule of an op whose outputs have the first input's axes, and which looks along those that ``without`` gives.

    without  (attributes, rank) -> axes, counted from 0
    """

    def rule(attributes: Mapping[str, Any], inputs: Values, outputs: Sequence[Value]) -> list[Dimension]:
        rank = len(cast(Value, inputs[0]).shape)
        met = set(without(attributes, rank))
        return carried((None if axis in met else axis for axis in range(rank)), len(outputs))

    return rule


of_first = kept(lambda attributes, rank: ())
"""The Rule of an op on the elements of its first input."""


def along_rows(count: int = 1) -> Rule:
    """The Rule of an op that keeps the first ``count`` axes of the first input, and works on what is left as one."""

    def rule(attributes: Mapping[str, Any], inputs: Values, outputs: Sequence[Value]) -> list[Dimension]:
        return carried(range(count), len(outputs))

    return rule


def alike(attributes: Mapping[str, Any], inputs: Values, outputs: Sequence[Value]) -> list[Dimension]:
    """The Rule of an op whose outputs are the same number everywhere."""
    return [Dimension({}, {0: axis}) for axis in range(len(outputs[0].shape))]


def factors(a: Value, b: Value, output: Value, places: tuple[int, int] = (0, 1)) -> list[Dimension]:
    """A product of matrices by NumPy's rule: the rows of a, the columns of b, and what comes before the matrices.

    places  which inputs a and b are
    """
    rank_a, rank_b, rank = len(a.shape), len(b.shape), len(output.shape)
    tail = (rank_a > 1) + (rank_b > 1)
    dimensions = []
    for axis in range(rank - tail):
        here = {}
        for place, value_rank in zip(places, (rank_a, rank_b), strict=True):
            own = value_rank - 2 - (rank - tail) + axis
            if value_rank > 2 and own >= 0:
                here[place] = own
        dimensions.append(Dimension(here, {0: axis}))
    if rank_a > 1:
        dimensions.append(Dimension({places[0]: rank_a - 2}, {0: rank - tail}))
    if rank_b > 1:
        dimensions.append(Dimension({places[1]: rank_b - 1}, {0: rank - 1}))
    return dimensions


def reshaped(before: Sequence[int | str], after: Sequence[int | str]) -> list[Dimension]:
    """The axes that a reshape leaves alone: those with the same size, and the same product of sizes, before them.

    After the first axes that are joined or parted in a way which sizes do not tell, the last ones are looked at from
    the end.
    """
    if 0 in before or 0 in after:
        return []
    ones = [[axis for axis, size in enumerate(shape) if size != 1] for shape in (before, after)]
    left, right = ([shape[axis] for axis in axes] for shape, axes in zip((before, after), ones, strict=True))
    return [Dimension({0: ones[0][a]}, {0: ones[1][b]}) for a, b in _matched(left, right)]


def _matched(left: Sequence[int | str], right: Sequence[int | str]) -> list[tuple[int, int]]:
    """Pairs of places that hold the same size after equal products of sizes, from both ends."""
    pairs, a, b = [], 0, 0
    while a < len(left) and b < len(right):
        taken = _smallest_equal(left[a:], right[b:])
        if taken is None:
            break
        if taken == (1, 1):
            pairs.append((a, b))
        a, b = a + taken[0], b + taken[1]
    back = 1
    while back <= len(left) - a and back <= len(right) - b and left[-back] == right[-back] != UNKNOWN:
        pairs.append((len(left) - back, len(right) - back))
        back += 1
    return pairs


def _smallest_equal(left: Sequence[int | str], right: Sequence[int | str]) -> tuple[int, int] | None:
    """The smallest numbers of sizes of each that have the same product; None if none have."""
    for total in range(2, len(left) + len(right) + 1):
        for count in range(max(1, total - len(right)), min(len(left), total - 1) + 1):
            product = sizes.multiply(1, *left[:count])
            if product != UNKNOWN and product == sizes.multiply(1, *right[: total - count]):
                return count, total - count
    return None
