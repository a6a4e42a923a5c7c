"""Is the exported model equal to torch at other sizes? Both are run, on both sides of every branch that was recorded.

A size may decide more than the trace shows: a branch goes the example's way, a size that becomes a number of Python's
own is not followed. So torch is run again at sizes chosen for that: each free dimension alone and all together, a batch
of 1 among them, the nearest sizes at which a recorded branch goes the other way, and sizes next to the numbers that
code compares with. Where results differ, both traces say at which line.
"""

from __future__ import annotations

import dis
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import CodeType
from typing import Any

import numpy as np
import torch

from rnncore.errors import RnncoreError, UnsupportedError, VerificationError
from rnncore.export.torch.axes import Axes, shapes_of
from rnncore.export.torch.bounds import FAR, turning
from rnncore.export.torch.records import Decision, Formula, Traced, is_users, without_folders
from rnncore.formats.verification import compare
from rnncore.runtime.model import Model

__all__ = ["BranchError", "Proof"]

MAX_ELEMENTS = 1 << 18
"""Numbers in the inputs of one call; a branch that turns beyond is followed without its sizes."""
NEAR = 64
AT_ONE_PLACE = 6
"""Decisions of one line that are looked at: a loop takes one for each step."""
MAX_PATHS = 12
MAX_DEPTH = 2
"""The most ways through the code that are tried, and the most turns that lead there."""
SHUFFLES = 4
"""Orders of the example's numbers at sizes where a branch goes the other way."""
MAX_CONSTANTS = 64
"""Calls of torch for numbers that are compared with."""

Sizes = dict[int, int]


class BranchError(UnsupportedError):
    """A branch on a size whose sides differ; ``place`` is its line."""

    place = ""

    @classmethod
    def at(cls, place: str, text: str) -> BranchError:
        made = cls(f"{place}: {text}")
        made.place = place
        return made


@dataclass
class Proof:
    """The means to compare a model with torch.

    retrace  traces the module again, with inputs by name and the number of a decision to turn round, or None
    outputs  the arrays of a result of torch, by the names of the model's outputs
    bounded  lines of branches for whose other side the model refuses sizes
    """

    model: Model
    axes: Axes
    first: Traced
    second: Traced
    retrace: Callable[[Mapping[str, torch.Tensor], int | None], Traced]
    outputs: Callable[[Any], dict[str, np.ndarray]]
    arrays: Callable[[Mapping[str, torch.Tensor]], dict[str, np.ndarray]]
    bounded: Collection[str] = ()

    def __post_init__(self):
        self.notes: list[str] = []
        self._tried: set[tuple[tuple[int, int], ...]] = set()
        self._shuffled: set[tuple[tuple[int, int], ...]] = set()
        self._explored: set[frozenset[tuple[str, bool]]] = set()
        self._left = MAX_CONSTANTS

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
        counted: list[Any] = [*self.first.decisions, *self.first.escapes]
        if any(one.formula.leaves for one in counted):
            self._explore({}, self.first, 0)

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
            for size in (1, 2, group.other + 2, (group.further or group.other) + 2):
                if size != group.size:
                    yield {i: size}

    def _elements(self, sizes: Sizes) -> int:
        total = 0
        places = {place: sizes[i] for i in sizes for place in self.axes.groups[i].places}
        for name, tensor in self.axes.leaves.items():
            count = 1
            for axis, size in enumerate(tensor.shape):
                count *= places.get((name, axis), size)
            total += count
        return total

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
            outputs = self.model.run(self.arrays(leaves))
        except RnncoreError:
            if refusals:
                return  # by name, when it is run
            raise
        try:
            wanted = self.outputs(expected)
        except ValueError:
            raise self._explained(leaves) or UnsupportedError(
                f"module: another number of tensors in its result with {shapes_of(leaves)} than with the example"
            ) from None
        try:
            compare(outputs, wanted, f"the exported model with {shapes_of(leaves)}").require()
        except VerificationError as error:
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
        decided = _turned(one, two)
        place = decided or _parted(one, two)
        if place is None and one.escapes:
            return UnsupportedError(
                f"{one.escapes[0].place}: a size becomes a number here, and what is done with it gives another result "
                f"with {shapes_of(leaves)} than the exported model, expected tensor code alike for all sizes"
            )
        if place is None:
            return None
        text = (
            f"a branch that depends on the size of an input goes another way with {shapes_of(leaves)} than "
            f"with the example's {shapes_of(self.axes.leaves)}, expected one path for all sizes, or sizes= with None "
            "for a dimension that stays"
        )
        return BranchError.at(place, text) if decided else UnsupportedError(f"{place}: {text}")

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _explore(self, sizes: Sizes, traced: Traced, depth: int) -> None:
        """Runs torch where branches of a trace go the other way, and looks at the branches that are met there."""
        path = frozenset((decision.place, decision.taken) for decision in traced.decisions)
        if path in self._explored or len(self._explored) == MAX_PATHS:
            return
        self._explored.add(path)
        turned: list[Sizes] = []
        for i, group in enumerate(self.axes.groups):
            size = sizes.get(i, group.size)
            for step in group.steps:
                step = step if size + step > 0 else -step
                moved = self._traced({**sizes, i: size + step})
                if moved is not None:
                    turned += self._try_decisions(sizes, traced, moved, i, size, step)
                    self._try_constants(sizes, traced, moved, i, size, step)
        for other in turned if depth < MAX_DEPTH else ():
            there = self._traced(other)
            if there is not None:
                self._explore(other, there, depth + 1)

    def _traced(self, sizes: Sizes) -> Traced | None:
        """The trace with other sizes; None where torch or tracing fails."""
        leaves = self.axes.resized(sizes, full=True)
        try:
            return None if self.axes.run(leaves) is None else self.retrace(leaves, None)
        except UnsupportedError:
            return None

    def _try_decisions(self, sizes: Sizes, traced: Traced, moved: Traced, i: int, size: int, step: int) -> list[Sizes]:
        """Compares where decisions would go the other way with another size of group i. Returns these sizes."""
        decisions, after, turned = _by_place(traced.decisions), _by_place(moved.decisions), []
        for key, decision in decisions.items():
            few = key[1] < AT_ONE_PLACE or (key[0], key[1] + AT_ONE_PLACE) not in decisions
            expected = _expected(decision.formula, after[key].formula, size, step) if few and key in after else None
            if expected is None:
                continue
            around = 0 if expected.exact else 3
            for at in _turns(decision, expected, size):
                if self._elements({**sizes, i: at + around}) > MAX_ELEMENTS:
                    if decision.place in self.bounded:
                        break
                    self._follow(sizes, traced, decision, i, at)
                    break
                for near in (*range(at - around, at + around + 1), at + around + 1, 2 * at + 1):
                    if near > 0 and not self._compare({**sizes, i: near}):
                        self._compare({**dict.fromkeys(range(len(self.axes.groups)), 1), i: near})
                for j, group in enumerate(self.axes.groups):
                    if j != i:
                        self._compare({**sizes, i: at + around, j: group.other})
                turned.append({**sizes, i: at + around})
                self._compare_shuffled(turned[-1])
                others = {j: group.other for j, group in enumerate(self.axes.groups)}
                self._compare_shuffled({**others, i: at + around})
        return turned

    def _compare_shuffled(self, sizes: Sizes) -> None:
        """Compares with the example's numbers in other orders, where both sides of a branch may agree by chance."""
        key = tuple(sorted(sizes.items()))
        resized = self.axes.resized(sizes, full=True)
        mixed = {name: tensor for name, tensor in resized.items() if _is_measured(tensor)}
        if key in self._shuffled or not mixed or self._elements(sizes) > MAX_ELEMENTS:
            return
        self._shuffled.add(key)
        for seed in range(SHUFFLES):
            generator = torch.Generator().manual_seed(seed)
            leaves = dict(resized)
            for name, tensor in mixed.items():
                order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
                leaves[name] = tensor.reshape(-1)[order].reshape(tensor.shape)
            expected = self.axes.run(leaves)
            if expected is not None:
                self._require_equal(leaves, expected, refusals=True)

    def _try_constants(self, sizes: Sizes, traced: Traced, moved: Traced, i: int, size: int, step: int) -> None:
        """Compares where sizes that are not followed pass the numbers that the code around them compares with."""
        after = _by_place(moved.escapes)
        for key, escape in _by_place(traced.escapes).items():
            expected = _expected(escape.formula, after[key].formula, size, step) if key in after else None
            if expected is None or key[1] >= AT_ONE_PLACE:
                continue
            for near in _passing(expected, {number for code in escape.code for number in _compared_numbers(code)}):
                if self._left > 0:
                    self._left -= self._compare({**sizes, i: near})

    def _follow(self, sizes: Sizes, traced: Traced, decision: Decision, i: int, at: int) -> None:
        """Cases whose other side of a decision is beyond what can be run: it may raise, or do the same."""
        leaves = self.axes.resized(sizes, full=True)
        try:
            other = self.retrace(leaves, traced.decisions.index(decision))
        except UnsupportedError as error:
            if _raised_by_users(error.__cause__):
                place = without_folders(decision.place)
                self.notes.append(f"{place}: torch refuses other sizes here, which the model does not")
                return
            other = None
        if other is not None and _parted(self.retrace(leaves, None), other) is None:
            return
        raise BranchError.at(
            decision.place,
            f"a branch that depends on the size of an input goes another way from "
            f"{self.axes.groups[i].places[0][0]} of size {at} on, expected one path for all sizes, or sizes= with "
            "None for a dimension that stays",
        )


def _is_measured(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds numbers, and not ids, masks or counts."""
    return tensor.dtype.is_floating_point and not bool((tensor == tensor.round()).all())


def _raised_by_users(error: BaseException | None) -> bool:
    """Whether an error comes from a raise or an assert of the user's code."""
    trace = None if error is None else error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return is_users(code.co_filename) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


@dataclass(frozen=True)
class _Expected:
    """A number made of sizes that grow in proportion to one size of the inputs."""

    formula: Formula
    slopes: list[Fraction]
    size: int

    @property
    def exact(self) -> bool:
        return all(slope.denominator == 1 for slope in self.slopes)

    def __call__(self, size: int) -> Any:
        pairs = zip(self.formula.leaves, self.slopes, strict=True)
        try:
            return self.formula.value([max(0, int(a + slope * (size - self.size))) for a, slope in pairs])
        except (ArithmeticError, IndexError, TypeError, ValueError):
            return math.nan


def _expected(one: Formula, two: Formula, size: int, step: int) -> _Expected | None:
    """The number expected for another size than ``size``, from what it was a step further.

    None where it does not depend on it.
    """
    if len(one.leaves) != len(two.leaves) or one.leaves == two.leaves:
        return None
    return _Expected(one, [Fraction(b - a, step) for a, b in zip(one.leaves, two.leaves, strict=True)], size)


def _passing(expected: _Expected, numbers: set[int]) -> list[int]:
    """Sizes at which a number reaches others, and those next to them."""
    sizes: set[Any] = set()
    for number in (one for base in numbers for one in (base, base + 1)):
        before = expected(expected.size) >= number

        def turned(size: int, number: int = number, before: bool = before) -> bool:
            return (expected(size) >= number) != before

        sizes.update(near for at in _turning(turned, expected.size) for near in (at - 1, at, at + 1))
    return sorted(size for size in sizes if size > 0)


def _turning(turned: Callable[[int], bool], size: int) -> list[int]:
    """The nearest sizes on either side at which something turns round."""
    sizes = []
    below = next((one for one in range(size - 1, 0, -1) if turned(one)), None) if size <= NEAR * NEAR else None
    if below is not None:
        sizes.append(below)
    last, one = size, size + 1
    while one <= FAR:
        if turned(one):
            while one - last > 1:
                middle = (one + last) // 2
                last, one = (last, middle) if turned(middle) else (middle, one)
            sizes.append(one)
            break
        last, one = one, one + 1 if one < size + NEAR else 2 * one
    return sizes


def _turns(decision: Decision, expected: _Expected, size: int) -> list[int]:
    """The nearest sizes on either side at which a decision goes the other way."""

    def turned(one: int) -> bool:
        return bool(expected(one)) != decision.taken

    sizes = _turning(turned, size)
    formula = decision.formula
    if formula.gap is not None and len(formula.leaves) == 1:
        moved = [(leaf - formula.leaves[0]) / expected.slopes[0] for leaf in turning(formula)]
        exact = sorted({size + one for step in moved for one in (math.floor(step), math.ceil(step))})
        exact = [one for one in exact if 0 < one <= FAR and turned(one)]
        sizes += [*[one for one in exact if one < size][-1:], *[one for one in exact if one > size][:1]]
    return list(dict.fromkeys(sizes))


def _by_place(reached: Sequence[Any]) -> dict[tuple[str, int], Any]:
    """Decisions or escapes by their line and how often it had been reached before."""
    counts: Counter[str] = Counter()
    placed = {}
    for one in reached:
        placed[one.place, counts[one.place]] = one
        counts[one.place] += 1
    return placed


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
