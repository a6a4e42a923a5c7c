"""Dimensions of a module's inputs that may have any size, learned by calling it with other sizes.

    axes = Axes(call, leaves, sizes)
    axes.groups                 # dimensions that change together, with two sizes that no other group is near
    axes.resized({0: 5, 1: 1})  # the inputs with sizes for some groups; lengths follow

Dimensions of one size in the example belong together only where torch refuses to change a part of them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from rnncore.errors import InputError, UnsupportedError

__all__ = ["Axes", "AxisGroup", "shapes_of"]

MAX_TOGETHER = 6
"""Dimensions of one size that are tried in all combinations."""
GOLDEN = 0.618
"""Repeated rows are multiplied by 0.85 to 1.15, larger and smaller by turns, so that no two are equal."""

Places = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class AxisGroup:
    """Places (input, axis) that change together: their size in the example, another one, and one further away."""

    places: Places
    size: int
    other: int
    further: int | None = None

    @property
    def steps(self) -> tuple[int, ...]:
        """The differences of the other sizes from the group's own."""
        return tuple(dict.fromkeys(one - self.size for one in (self.other, self.further or self.other)))


def shapes_of(leaves: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in leaves.items())


class Axes:
    """The free dimensions of a module's inputs.

    call    runs the module on inputs by name
    groups  dimensions that change together
    loose   whether lengths may be shorter than the sequence that they belong to
    """

    def __init__(
        self,
        call: Callable[[Mapping[str, torch.Tensor]], Any],
        leaves: Mapping[str, torch.Tensor],
        sizes: Mapping[str, Sequence[str | None]],
    ):
        self._call, self.leaves = call, dict(leaves)
        self.groups: list[AxisGroup] = []
        self.loose = True
        self._bounded: dict[str, int | None] = {}
        self.named = {
            (name, axis): size for name, given in sizes.items() for axis, size in enumerate(given) if size is not None
        }
        self._check_named(sizes)
        try:
            call(self.leaves)
        except Exception as error:
            raise InputError(
                f"example ({shapes_of(leaves)}): torch itself fails: {type(error).__name__}: {error}"
            ) from error
        self._find(sizes)
        self._spread()

    @property
    def counted(self) -> bool:
        """Whether any input holds lengths."""
        return any(i is not None for i in self._bounded.values())

    def _check_named(self, sizes: Mapping[str, Sequence[str | None]]) -> None:
        for name, given in sizes.items():
            if name not in self.leaves or len(given) != self.leaves[name].ndim:
                known = ", ".join(f"{key} with {tensor.ndim}" for key, tensor in self.leaves.items())
                raise InputError(
                    f"sizes: {name!r} with {len(given)} dimensions, expected inputs and dimensions of: {known}"
                )

    def run(self, leaves: Mapping[str, torch.Tensor]) -> Any:
        """The result of torch for other inputs; None where it fails."""
        try:
            return self._call(leaves)
        except Exception:  # whatever the user's code raises for sizes that it does not take
            return None

    # --- finding them --------------------------------------------------------------------------------------------

    def _find(self, sizes: Mapping[str, Sequence[str | None]]) -> None:
        places: dict[int, list[tuple[str, int]]] = {}
        for name, tensor in self.leaves.items():
            for axis, size in enumerate(tensor.shape):
                if name not in sizes or (name, axis) in self.named:
                    places.setdefault(size, []).append((name, axis))
        for size, candidates in places.items():
            while candidates:
                group = self._largest(candidates, size)
                if group is None:
                    break
                self.groups += self._apart(group)
                candidates = [place for place in candidates if place not in group.places]

    def _largest(self, candidates: Sequence[tuple[str, int]], size: int) -> AxisGroup | None:
        """Of the dimensions of one size, the largest set that torch lets have another one together."""
        candidates = candidates[:MAX_TOGETHER]
        chosen = [places for count in range(len(candidates), 0, -1) for places in combinations(candidates, count)]
        # dimensions of different inputs belong together sooner than two of one input
        chosen.sort(key=lambda places: len(places) > len({name for name, _ in places}))
        for places in chosen:
            for other in self._other_sizes(size):
                if self._accepts([AxisGroup(places, size, other)]):
                    return AxisGroup(places, size, other)
        return None

    def _other_sizes(self, size: int) -> Iterator[int]:
        """Sizes to try in the place of one: larger, smaller."""
        used = {size for tensor in self.leaves.values() for size in tensor.shape}
        larger = next(other for other in range(size + max(3, size // 2), 1 << 31) if other not in used)
        smaller = [other for other in range(size - 1, size // 2, -1) if other not in used][-1:]
        yield from (larger, *smaller)

    def _accepts(self, groups: Sequence[AxisGroup]) -> bool:
        """Whether torch takes the sizes, with lengths as they were or in proportion."""
        return any(self.run(self._changed(groups, follow)) is not None for follow in (True, False))

    def _apart(self, group: AxisGroup) -> list[AxisGroup]:
        """A group in the parts that torch takes alone, at sizes where nothing is broadcast."""
        rest, parted = list(group.places), []
        while len(rest) > 1:
            first, *others = rest
            parts = ((first, *more) for count in range(len(others)) for more in combinations(others, count))
            part = next((part for part in parts if self._changes_alone(part, group)), None)
            if part is None:
                break
            parted.append(AxisGroup(part, group.size, group.other))
            rest = [place for place in rest if place not in part]
        return [*parted, AxisGroup(tuple(rest), group.size, group.other)]

    def _changes_alone(self, part: Places, group: AxisGroup) -> bool:
        """Whether a part takes another size than the rest, and the rest than it."""
        rest = tuple(place for place in group.places if place not in part)
        around = group.other if group.other > 1 else group.size
        if around == 1:
            return False
        pairs = ((around, 2 * around), (2 * around, around))
        return all(
            self._accepts([AxisGroup(part, group.size, one), AxisGroup(rest, group.size, two)]) for one, two in pairs
        )

    # --- two sizes for each that distinguish them -----------------------------------------------------------------

    def _spread(self) -> None:
        """Other sizes whose distances and ratios to the example's all differ, and lengths that follow their axis."""
        for i, group in enumerate(self.groups):
            if group.other > group.size:
                kept = self.groups[:i]
                wanted = next(
                    other
                    for other in range(group.size + max(3, group.size // 2), 1 << 31)
                    if all(self._differs(group.size, other, known) for known in kept)
                )
                for other in (wanted, group.other):
                    if self._accepts([AxisGroup(group.places, group.size, other)]):
                        self.groups[i] = AxisGroup(group.places, group.size, other)
                        break
        self._assign_lengths()
        changed = {i: group.other for i, group in enumerate(self.groups)}
        for self.loose in (True, False):
            if self.run(self.resized(changed)) is not None:
                return
        self._bounded = dict.fromkeys(self._bounded)
        if self.groups and self.run(self.resized(changed)) is None:
            listed = "; ".join(f"{group.places} from {group.size} to {group.other}" for group in self.groups)
            raise UnsupportedError(
                f"module: torch accepts other sizes of single dimensions, but not of all ({listed}): name those that "
                "are free by sizes="
            )

    def nearer(self, i: int) -> Iterator[int]:
        """Sizes of a group, nearer to the example's, that torch takes and that cannot be taken for another group's."""
        group = self.groups[i]
        for step in (3, 2, -2, -3, 1, -1):
            other = group.size + step
            known = (one for j, one in enumerate(self.groups) if j != i)
            distinct = other > 0 and all(self._differs(group.size, other, one) for one in known)
            if distinct and self._accepts([AxisGroup(group.places, group.size, other)]):
                yield other

    @staticmethod
    def _differs(size: int, other: int, known: AxisGroup) -> bool:
        """Whether two sizes cannot be taken for the known ones with a number added, or multiplied."""
        step, wide = other - size, known.other - known.size
        distinct = abs(step - wide) > 1 and step != 2 * wide and wide != 2 * step
        parts = [(size, other, known.size, known.other), (known.size, known.other, size, other)]
        parted = all(
            (a // k, b // k) != (c, d) and ((a + k - 1) // k, (b + k - 1) // k) != (c, d)
            for a, b, c, d in parts
            for k in (2, 3, 4)
        )
        return (
            distinct and parted and size * known.other != known.size * other and other not in (known.size, known.other)
        )

    def _assign_lengths(self) -> None:
        """For integers that may count steps: the group whose size they follow, or None where torch takes no others."""
        for name, tensor in self.leaves.items():
            if not _may_count(tensor):
                continue
            longest = int(tensor.max())
            fits = [
                i
                for i, group in enumerate(self.groups)
                if longest <= group.size and all(place[0] != name for place in group.places)
            ]
            for i in sorted(fits, key=lambda i: self.groups[i].size):
                self._bounded[name] = i
                changed = {j: group.other for j, group in enumerate(self.groups)}
                if self.run(self.resized(changed)) is not None:
                    break
                self.loose, before = False, self.loose
                accepted = self.run(self.resized(changed)) is not None
                self.loose = before
                if accepted:
                    break
                self._bounded[name] = None

    # --- inputs of other sizes -----------------------------------------------------------------------------------

    def resized(self, sizes: Mapping[int, int], full: bool = False) -> dict[str, torch.Tensor]:
        """The inputs with sizes for groups by their number; the others as in the example.

        Lengths follow their axis: the longest row is one step shorter than the sequence where torch takes that, and
        as long with ``full``.
        """
        groups = [AxisGroup(self.groups[i].places, self.groups[i].size, size) for i, size in sizes.items()]
        lengths = {name: i for name, i in self._bounded.items() if i is not None and i in sizes}
        changed = self._changed(groups, False)
        for name, i in lengths.items():
            changed[name] = _in_proportion(changed[name], self.groups[i].size, sizes[i])
            if self.loose and not full and sizes[i] > 2 and int(changed[name].max()) == sizes[i]:
                changed[name] = torch.where(changed[name] > 1, changed[name] - 1, changed[name])
        return changed

    def _changed(self, groups: Sequence[AxisGroup], follow: bool) -> dict[str, torch.Tensor]:
        """Inputs with other sizes: rows and steps repeated or left out. follow: integers that may be lengths too."""
        changed = dict(self.leaves)
        for group in groups:
            for name, axis in group.places:
                changed[name] = _stretched(changed[name], axis, group.other)
            if follow:
                for name, tensor in self.leaves.items():
                    own = any(place[0] == name for place in group.places)
                    if _may_count(tensor) and not own and int(tensor.max()) <= group.size:
                        changed[name] = _in_proportion(changed[name], group.size, group.other)
        return changed


def _may_count(tensor: torch.Tensor) -> bool:
    """Whether a tensor may hold the lengths of rows, or of all of them."""
    counts = not tensor.dtype.is_floating_point and tensor.dtype != torch.bool
    return counts and tensor.ndim < 2 and int(tensor.min()) >= 0


def _in_proportion(lengths: torch.Tensor, size: int, other: int) -> torch.Tensor:
    return (lengths * other + size - 1) // size


def _stretched(tensor: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """A tensor with another size along an axis.

    Integers and masks are repeated in place, which keeps their order; floats as a whole, a little smaller or
    larger each time unless they are whole numbers, so that neighbours and rows differ.
    """
    own = tensor.shape[axis]
    places = torch.arange(size, device=tensor.device)
    if not tensor.dtype.is_floating_point or bool((tensor == tensor.round()).all()):
        return tensor.index_select(axis, places * own // size)
    shape = [1] * tensor.ndim
    shape[axis] = size
    times = (places // own).to(tensor.dtype)
    scale = torch.where(times > 0, 0.85 + 0.3 * (times * GOLDEN % 1), 1.0).reshape(shape)
    return tensor.index_select(axis, places % own) * scale
