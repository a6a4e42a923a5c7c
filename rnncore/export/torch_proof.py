"""Is the exported model equal to torch at other sizes? Both are run, on both sides of every branch that was recorded.

A size may decide more than the trace shows: a branch goes the example's way, a size that becomes a number of Python's
own is not followed. So torch is run again at sizes chosen for that: each free dimension alone and all together, a batch
of 1 among them, the nearest sizes at which a recorded branch goes the other way, and sizes beside the numbers that
code compares with. Where results differ, both traces say at which line.
"""

from __future__ import annotations

import dis
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import CodeType
from typing import Any

import numpy as np
import torch

from rnncore.errors import RnncoreError, UnsupportedError, VerificationError
from rnncore.export.torch_axes import Axes, shapes_of
from rnncore.export.torch_trace import Decision, Traced
from rnncore.model import Model
from rnncore.verification import compare

__all__ = ["Proof"]

MAX_ELEMENTS = 1 << 18
"""Numbers in the inputs of one call; a branch that turns beyond is followed without its sizes."""
NEAR = 64
FAR = 1 << 62
AT_ONE_PLACE = 6
"""Decisions of one line that are looked at: a loop takes one for each step."""
MAX_CONSTANTS = 24

Sizes = dict[int, int]


@dataclass
class Proof:
    """What it takes to compare a model with torch.

    retrace  traces the module again, with inputs by name and the number of a decision to turn round, or None
    outputs  the arrays of a result of torch, by the names of the model's outputs
    """

    model: Model
    axes: Axes
    first: Traced
    second: Traced
    retrace: Callable[[Mapping[str, torch.Tensor], int | None], Traced]
    outputs: Callable[[Any], dict[str, np.ndarray]]
    arrays: Callable[[Mapping[str, torch.Tensor]], dict[str, np.ndarray]]

    def __post_init__(self):
        self.notes: list[str] = []
        self._tried: set[tuple[tuple[int, int], ...]] = set()

    def require(self) -> None:
        """Raises UnsupportedError with the line of what holds for some sizes only, else VerificationError."""
        groups = self.axes.groups
        self._compare({}, full=True)
        if not groups:
            return
        self._compare({i: group.other for i, group in enumerate(groups)}, refusals=False)
        together = 0
        for sizes in self._together():
            together += self._compare(sizes)
            if together == 4:
                break
        for sizes in self._alone():
            self._compare(sizes)
        self._try_decisions()
        for sizes in self._beside_constants():
            self._compare(sizes)

    # --- sizes -----------------------------------------------------------------------------------------------------

    def _together(self) -> Iterator[Sizes]:
        """Sizes for every group, no two of them equal."""
        groups = list(enumerate(self.axes.groups))
        yield {i: 1 if i == 0 else 4 + 3 * i for i, _ in groups}
        yield {i: len(groups) + 2 - i for i, _ in groups}
        yield {i: 3 + 2 * i for i, _ in groups}
        yield {i: group.other + 1 + i * i for i, group in groups}
        yield {i: 1 if i == 0 else group.size * (1 + i) for i, group in groups}
        yield {i: group.size * (3 + i) for i, group in groups}
        yield {i: group.size + 2 + 3 * i for i, group in groups}
        yield {i: group.size * (5 - i % 4) for i, group in groups}

    def _alone(self) -> Iterator[Sizes]:
        """Sizes for each group, the others as in the example."""
        for i, group in enumerate(self.axes.groups):
            for size in (1, 2, group.other + 2):
                if size != group.size:
                    yield {i: size}

    def _elements(self, sizes: Sizes) -> int:
        found = 0
        places = {place: sizes[i] for i in sizes for place in self.axes.groups[i].places}
        for name, tensor in self.axes.leaves.items():
            count = 1
            for axis, size in enumerate(tensor.shape):
                count *= places.get((name, axis), size)
            found += count
        return found

    # --- comparing ---------------------------------------------------------------------------------------------------

    def _compare(self, sizes: Sizes, full: bool | None = None, refusals: bool = True) -> bool:
        """Compares at sizes, once; with lengths both as long as they may be and shorter. Whether torch takes them."""
        key = tuple(sorted(sizes.items()))
        if key in self._tried or self._elements(sizes) > MAX_ELEMENTS:
            return False
        self._tried.add(key)
        taken = False
        for whole in (False, True) if full is None and self.axes.loose and self.axes.counted else (bool(full),):
            leaves = self.axes.resized(sizes, whole)
            expected = self.axes.run(leaves)
            if expected is not None:
                taken = True
                self._require_equal(leaves, expected, refusals)
        return taken

    def _require_equal(self, leaves: Mapping[str, torch.Tensor], expected: Any, refusals: bool) -> None:
        try:
            found = self.model.run(self.arrays(leaves))
        except RnncoreError:
            if refusals:
                return  # by name, when it is run
            raise
        try:
            wanted = self.outputs(expected)
            compare(found, wanted, f"the exported model with {shapes_of(leaves)}").require()
        except (VerificationError, ValueError) as error:
            raise self._explained(leaves) or VerificationError(
                f"{error}: something was recorded for the sizes of the example, expected tensor code alike for all"
            ) from None

    def _explained(self, leaves: Mapping[str, torch.Tensor]) -> UnsupportedError | None:
        """The first line at which the module does something else with these inputs than with the example."""
        one = self.retrace(self.axes.leaves, None)
        try:
            two = self.retrace(leaves, None)
        except UnsupportedError as error:
            return error
        place = _turned(one, two) or _parted(one, two)
        if place is None and one.escapes:
            return UnsupportedError(
                f"{one.escapes[0].place}: a size becomes a number here, and what is done with it gives another result "
                f"with {shapes_of(leaves)} than the exported model, expected tensor code alike for all sizes"
            )
        if place is None:
            return None
        return UnsupportedError(
            f"{place}: a branch that depends on the size of an input goes another way with {shapes_of(leaves)} than "
            f"with the example's {shapes_of(self.axes.leaves)}, expected one path for all sizes, or sizes= with None "
            "for a dimension that stays"
        )

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _try_decisions(self) -> None:
        """Runs torch where each recorded branch would go the other way."""
        decisions = _by_place(self.first)
        if not any(decision.formula.leaves for decision in self.first.decisions):
            return
        moved = []
        for i, group in enumerate(self.axes.groups):
            leaves = self.axes.resized({i: group.other}, full=True)
            try:
                moved.append(_by_place(self.retrace(leaves, None)) if self.axes.run(leaves) is not None else {})
            except UnsupportedError:
                moved.append({})
        for key, decision in decisions.items():
            if key[1] < AT_ONE_PLACE or (key[0], key[1] + AT_ONE_PLACE) not in decisions:
                for i, found in enumerate(moved):
                    if key in found:
                        self._try_decision(decision, found[key], i)

    def _try_decision(self, decision: Decision, other: Decision, i: int) -> None:
        group = self.axes.groups[i]
        before, after = decision.formula.leaves, other.formula.leaves
        if len(before) != len(after) or before == after:
            return
        slopes = [Fraction(b - a, group.other - group.size) for a, b in zip(before, after, strict=True)]

        def turned(size: int) -> bool:
            """Whether it is expected to go the other way with this size."""
            found = [int(a + slope * (size - group.size)) for a, slope in zip(before, slopes, strict=True)]
            try:
                return bool(decision.formula.value(found)) != decision.taken
            except (ArithmeticError, IndexError, TypeError, ValueError):
                return True

        around = 0 if all(slope.denominator == 1 for slope in slopes) else 3
        for size in _turning(turned, group.size):
            if self._elements({i: size + around}) > MAX_ELEMENTS:
                self._follow(decision, {i: size})
                return
            for near in range(size - around, size + around + 1):
                if near > 0:
                    self._compare({i: near})
            self._compare({i: 2 * size + 1})

    def _follow(self, decision: Decision, sizes: Sizes) -> None:
        """Where the other side is beyond what can be run: it may raise, or do the same."""
        number = self.first.decisions.index(decision)
        try:
            turned = self.retrace(self.axes.leaves, number)
        except UnsupportedError as error:
            if isinstance(error.__cause__, Exception) and not isinstance(error.__cause__, RnncoreError):
                self.notes.append(f"{decision.place}: torch refuses larger inputs here, which the model does not")
                return
            turned = None
        if turned is not None and _parted(self.retrace(self.axes.leaves, None), turned) is None:
            return
        (i, size), *_ = sizes.items()
        raise UnsupportedError(
            f"{decision.place}: a branch that depends on the size of an input goes another way from "
            f"{self.axes.groups[i].places[0][0]} of size {size} on, expected one path for all sizes, or sizes= with "
            "None for a dimension that stays"
        )

    def _beside_constants(self) -> list[Sizes]:
        """Sizes beside the numbers of the code in which sizes became numbers that are not followed."""
        wanted: set[int] = set()
        for code in {code for escape in self.first.escapes for code in escape.code}:
            wanted.update(_compared_numbers(code))
        sizes = sorted({size for number in wanted for size in (number - 1, number, number + 1) if size > 0})
        return [{i: size} for i in range(len(self.axes.groups)) for size in sizes[:MAX_CONSTANTS]]


def _turning(turned: Callable[[int], bool], size: int) -> list[int]:
    """The nearest sizes on either side at which something turns round."""
    found = []
    below = next((one for one in range(size - 1, 0, -1) if turned(one)), None) if size <= NEAR * NEAR else None
    if below is not None:
        found.append(below)
    last, one = size, size + 1
    while one <= FAR:
        if turned(one):
            while one - last > 1:
                middle = (one + last) // 2
                last, one = (last, middle) if turned(middle) else (middle, one)
            found.append(one)
            break
        last, one = one, one + 1 if one < size + NEAR else 2 * one
    return found


def _by_place(traced: Traced) -> dict[tuple[str, int], Decision]:
    """Decisions by their line and how often it had decided before."""
    counts: Counter[str] = Counter()
    found = {}
    for decision in traced.decisions:
        found[decision.place, counts[decision.place]] = decision
        counts[decision.place] += 1
    return found


def _turned(one: Traced, two: Traced) -> str | None:
    """The first line that decides in another way."""
    theirs: dict[str, set[bool]] = {}
    for decision in two.decisions:
        theirs.setdefault(decision.place, set()).add(decision.taken)
    for decision in one.decisions:
        if decision.place in theirs and decision.taken not in theirs[decision.place]:
            return decision.place
    ours: dict[str, set[bool]] = {}
    for decision in one.decisions:
        ours.setdefault(decision.place, set()).add(decision.taken)
    return next((d.place for d in two.decisions if d.place in ours and d.taken not in ours[d.place]), None)


def _parted(one: Traced, two: Traced) -> str | None:
    """The first line whose calls only one of two traces has."""
    kept = [{_call(traced, node): node for node in traced.graph.nodes} for traced in (one, two)]
    for ours, theirs, traced in ((kept[0], kept[1], one), (kept[1], kept[0], two)):
        for call, node in ours.items():
            if call not in theirs and node.op.startswith("call"):
                return traced.places.get(node)
    return None


def _call(traced: Traced, node: Any) -> tuple[Any, ...]:
    return node.op, str(getattr(node.target, "__name__", node.target)), traced.stacks.get(node, ())


def _compared_numbers(code: CodeType) -> set[int]:
    """Integers of a function that compares, or asks for the smaller or larger."""
    names = {*code.co_names}
    compares = any(step.opname in ("COMPARE_OP", "CONTAINS_OP") for step in dis.get_instructions(code))
    if not compares and not names & {"min", "max"}:
        return set()
    return {item for item in code.co_consts if type(item) is int and 1 <= abs(item) < MAX_ELEMENTS} | {
        -item for item in code.co_consts if type(item) is int and -MAX_ELEMENTS < item < 0
    }
