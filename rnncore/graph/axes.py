"""Follows one dimension of the inputs through a graph: where it is in each value, and which of its positions meet.

Everything that is asked about rows and steps is read off one walk. Each op says how its outputs' dimensions come from
its inputs' (rnncore/ops/dimensions.py); here they are put together. A value is one of

    free     does not depend on the dimension
    along    has it, as one of its axes
    running  is of all positions so far, and known after the last: the final states of a recurrent layer
    size     is computed from its size alone; only what shapes are made of may read it
    met      is of several positions at once, so that nothing more is known

Whatever the graph does not prove is not assumed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rnncore.errors import SpecError
from rnncore.graph.nodes import Control, GraphNode
from rnncore.graph.spec import Spec
from rnncore.ops import UNKNOWN, Value
from rnncore.ops.dimensions import CAUSAL, INDEPENDENT, WHOLE, Dimension, Reach

__all__ = [
    "Followed",
    "Place",
    "alike_axes",
    "describe",
    "dimension_along",
    "follow",
    "freed",
    "mentions",
    "padded_steps",
    "reach_along",
    "reach_of",
    "rows_meet",
    "steps_meet",
]

MOST_TRIALS = 32

NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Place:
    """The place of the dimension in one value: its kind, its axis where it is "along", and why where it is "met"."""

    kind: str
    axis: Any = None  # an integer, where it is "along"
    reason: str = ""


FREE = Place("free")
RUNNING = Place("running")
SIZE = Place("size")


@dataclass(frozen=True)
class Followed:
    """A dimension on its way through a Spec.

    places   of every value, by name
    reaches  of every node that has the dimension, by name: how far a position of its outputs looks
    met      the first input or node at which positions meet in a value that is read, in words; "" if none
    """

    places: Mapping[str, Place]
    reaches: Mapping[str, Reach]
    met: str

    @property
    def meets(self) -> str:
        """The first node whose positions are not independent, in words; "" if all are."""
        beyond = next((name for name, reach in self.reaches.items() if not reach.independent), None)
        return self.met or (f"node {beyond!r}" if beyond is not None else "")

    def has(self, name: str) -> bool:
        """Whether a value has the dimension as an axis."""
        return self.places[name].kind == "along"


def mentions(size: Any, name: str) -> bool:
    """Whether a size is made of this name: "2*B+1" of "B"."""
    return isinstance(size, str) and name in NAME.findall(size)


def describe(node: Any) -> str:
    """A node, as messages name it."""
    return f"node {node.name!r} ({node.op})"


def follow(spec: Spec, name: str, lengths: Collection[str] = (), among: Collection[str] | None = None) -> Followed:
    """The dimension whose size has this name, wherever inputs have it.

    lengths  inputs that say how many steps of a row count: recurrent layers that read one of them are asked about
             those steps alone, and keep them separate from what comes after
    among    the inputs that are looked at; None for all
    """
    start = {}
    for entry in spec.inputs:
        if among is not None and entry.name not in among:
            continue
        axes = [axis for axis, size in enumerate(entry.shape) if size == name]
        if len(axes) > 1 or any(size != name and mentions(size, name) for size in entry.shape):
            start[entry.name] = Place("met", reason=f"input {entry.name!r}")
        elif axes:
            start[entry.name] = Place("along", axes[0])
    for node in spec.stateful:
        start.update(_of_roles(spec, node, name, start))
    return _Walk(spec, name, start, frozenset(lengths)).followed()


def _of_roles(spec: Spec, node: Any, name: str, start: Mapping[str, Place]) -> dict[str, Place]:
    """Lengths and masks that a Spec declares by itself: their sizes have names of their own."""
    optional = {entry.name for entry in spec.inputs if entry.optional and entry.name not in start}
    shape = spec.values[node.input].shape
    rows, steps = (1, 0) if getattr(node, "layout", "") == "time_first" else (0, 1)
    places = {}
    if node.lengths in optional and shape[rows] == name:
        places[node.lengths] = Place("along", 0)
    mask = getattr(node, "mask", None)
    axes = [axis for axis in (rows, steps) if shape[axis] == name]
    if mask in optional and axes:
        places[mask] = Place("along", axes[0])
    return places


class _Walk:
    """One walk through a Spec, from what is known of its inputs."""

    def __init__(
        self,
        spec: Spec,
        name: str,
        start: Mapping[str, Place],
        lengths: frozenset[str] = frozenset(),
        absent: frozenset[str] = frozenset(),
    ):
        self.spec, self.name, self.lengths = spec, name, lengths
        self.values = spec.values
        self.places: dict[str, Place] = {entry.name: start.get(entry.name, FREE) for entry in spec.inputs}
        self.absent = absent
        self.reaches: dict[str, Reach] = {}
        self.met = next((place.reason for place in self.places.values() if place.kind == "met"), "")

    def followed(self) -> Followed:
        for node in self.spec.nodes:
            self._node(node)
        self._read(self.places[name] for name in self.spec.outputs)
        return Followed(self.places, self.reaches, self.met)

    def _read(self, places: Iterable[Place]) -> None:
        self.met = self.met or next((place.reason for place in places if place.kind == "met"), "")

    def _node(self, node: Any) -> None:
        slots = [self.places[slot] if slot else FREE for slot in node.slots]
        self._read(slots)
        kinds = {place.kind for place in slots}
        if kinds == {"free"} or not slots:
            reach, places = None, [FREE] * len(node.names)
        elif kinds <= {"free", "running"}:
            reach, places = None, [RUNNING] * len(node.names)
        elif kinds & {"met", "running"}:
            reach, places = WHOLE if "along" in kinds else None, self._all_met(node)
        else:
            reach, places = self._control(node, slots) if node.subgraphs else self._plain(node, slots)
        if reach is not None:
            self.reaches[node.name] = reach
        self.places.update(zip(node.names, places, strict=True))

    def _plain(self, node: Any, slots: list[Place]) -> tuple[Reach | None, list[Place]]:
        """The places after a node without subgraphs: along one of its Dimensions, or everything meets."""
        of_sizes, shaping = node.of_sizes, set(node.shaped_by)
        content = {slot: place for slot, place in enumerate(slots) if place.kind != "free" and slot not in of_sizes}
        sized = [slot for slot, place in content.items() if place.kind == "size"]
        along = {slot: place.axis for slot, place in content.items() if place.kind == "along"}
        if not along and not set(sized) & shaping:
            return None, self._of_sizes(node, bool(sized))
        if not set(sized) <= shaping:
            return WHOLE, self._all_met(node, "it counts them")
        names = node.names
        if not along:
            return INDEPENDENT, [self._made(node, name) for name in names]
        dimension = dimension_along(node, self.values, along, self.absent)
        if dimension is None:
            return WHOLE, self._all_met(node)
        if self._is_valid_steps(node, dimension):
            return INDEPENDENT, self._within_lengths(node, dimension)
        placed = [self._kept(node, name, dimension.outputs.get(place), sized) for place, name in enumerate(names)]
        if dimension.reach == CAUSAL:
            placed = [place if number in dimension.outputs else RUNNING for number, place in enumerate(placed)]
        return dimension.reach, placed

    def _all_met(self, node: Any, why: str = "") -> list[Place]:
        reason = describe(node) + (f": {why}" if why else "")
        return [Place("met", reason=reason)] * len(node.names)

    def _of_sizes(self, node: Any, sized: bool) -> list[Place]:
        """Made of sizes, of some that are values (``sized``) or of inputs: numbers that shapes are made of, or free."""
        places = []
        for name in node.names:
            value = self.values[name]
            if any(self._is_made_of(size) for size in value.shape):
                places.append(Place("met", reason=f"value {name!r}"))
            else:
                data = value.data if value.data is not None else (UNKNOWN,) * sized
                places.append(SIZE if any(self._is_made_of(item) for item in data) else FREE)
        return places

    def _made(self, node: GraphNode, name: str) -> Place:
        """A value whose shape is made of the size: along it, where all of its positions are alike."""
        axes = [axis for axis, size in enumerate(self.values[name].shape) if self._is_made_of(size)]
        whole = len(axes) == 1 and self.values[name].shape[axes[0]] == self.name
        if whole and axes[0] in alike_axes(node, self.values, name):
            return Place("along", axes[0])
        return SIZE if not axes else Place("met", reason=describe(node))

    def _kept(self, node: Any, name: str, axis: int | None, sized: Sequence[int]) -> Place:
        """The place of an output that has the dimension as this axis, which its other sizes may not be made of."""
        value = self.values[name]
        if axis is None or not self._is_made_of(value.shape[axis]):
            return Place("met", reason=describe(node))
        others = [size for place, size in enumerate(value.shape) if place != axis]
        unclear = bool(sized) and UNKNOWN in others
        if unclear or any(mentions(size, self.name) for size in (*others, *(value.data or ()))):
            return Place("met", reason=f"value {name!r}")
        return Place("along", axis)

    def _is_made_of(self, size: Any) -> bool:
        return size == UNKNOWN or mentions(size, self.name)

    def _is_valid_steps(self, node: Any, dimension: Any) -> bool:
        """Whether it is the steps of a recurrent layer, of which those within its lengths are asked about."""
        if not self.lengths or getattr(node, "lengths", None) not in self.lengths:
            return False
        return node.is_time(dimension)

    def _within_lengths(self, node: Any, dimension: Any) -> list[Place]:
        """Steps before a length do not depend on those after it, nor does what is known at the end of them."""
        axes = dimension.outputs
        return [Place("along", axes[place]) if place in axes else FREE for place in range(len(node.names))]

    # --- If, Loop, Scan --------------------------------------------------------------------------------------------

    def _control(self, node: Control, slots: list[Place]) -> tuple[Reach, list[Place]]:
        if any(place == SIZE for place in slots):
            return WHOLE, self._all_met(node)
        walk = {"If": self._if, "Loop": self._loop, "Scan": self._scan}[node.op]
        reach_and_places = walk(node, slots)
        if reach_and_places is None:
            return WHOLE, self._all_met(node)
        reach, places = reach_and_places
        return reach, [self._kept(node, name, place.axis, ()) if place.kind == "along" else place
                       for name, place in zip(node.names, places, strict=True)]  # fmt: skip

    def _inside(self, branch: Any, given: Mapping[str, Place]) -> list[Place] | None:
        """The places of a branch's outputs, where nothing inside meets."""
        shapes = {}
        for entry in branch.inputs:
            place = given.get(entry.name, FREE)
            if place.kind == "along":
                shapes[entry.name] = (*entry.shape[: place.axis], self.name, *entry.shape[place.axis + 1 :])
        try:
            absent = frozenset(entry.name for entry in branch.inputs if entry.name not in given)
            walk = _Walk(branch.reshaped(shapes), self.name, given, absent=absent)
        except SpecError:
            return None
        inside = walk.followed()
        return None if inside.meets else [inside.places[name] for name in branch.outputs]

    def _if(self, node: Control, slots: list[Place]) -> tuple[Reach, list[Place]] | None:
        given = dict(zip(node.captures, slots[node.own :], strict=True))
        sides = [self._inside(branch, given) for branch in node.branches]
        if slots[0] != FREE or None in sides or sides[0] != sides[1]:
            return None
        return INDEPENDENT, cast("list[Place]", sides[0])

    def _loop(self, node: Control, slots: list[Place]) -> tuple[Reach, list[Place]] | None:
        (body,) = node.branches
        inner = [entry.name for entry in body.inputs[: node.own]]
        ends = self._inside(body, dict(zip((*inner, *node.captures), slots, strict=True)))
        carried = slots[2 : node.own]
        if ends is None or slots[:2] != [FREE, FREE] or ends[0] != FREE or ends[1 : 1 + len(carried)] != carried:
            return None
        return INDEPENDENT, [*carried, *(_stacked(place, 0) for place in ends[1 + len(carried) :])]

    def _scan(self, node: Control, slots: list[Place]) -> tuple[Reach, list[Place]] | None:
        (body,) = node.branches
        ranks = [len(self.values[name].shape) for name in node.inputs]
        axes = [(node.axes[n] if node.axes else 0) % ranks[node.carried + n] for n in range(node.sequences)]
        sequences = slots[node.carried : node.own]
        along = [Place("along", axis) for axis in axes]
        others = [*slots[: node.carried], *slots[node.own :]]
        if sequences == along:
            return self._steps_of_scan(node) if all(place == FREE for place in others) else None
        if any(place == here for place, here in zip(sequences, along, strict=True)):
            return None
        elements = [_unstacked(place, axis) for place, axis in zip(sequences, axes, strict=True)]
        inner = [entry.name for entry in body.inputs[: node.own]]
        given = [*slots[: node.carried], *elements, *slots[node.own :]]
        results = self._inside(body, dict(zip((*inner, *node.captures), given, strict=True)))
        if results is None or results[: node.carried] != slots[: node.carried]:
            return None
        ends = results[node.carried :]
        targets = node.output_axes or (0,) * len(ends)
        ranks = [len(self.values[name].shape) for name in node.names[node.carried :]]
        stacked = [_stacked(place, axis % rank) for place, axis, rank in zip(ends, targets, ranks, strict=True)]
        return INDEPENDENT, [*slots[: node.carried], *stacked]

    def _steps_of_scan(self, node: Control) -> tuple[Reach, list[Place]] | None:
        """Along its own axis: states go from step to step, and are known at the end."""
        if any((*node.backward, *node.output_backward)):
            return None
        names = node.names[node.carried :]
        targets = node.output_axes or (0,) * len(names)
        ends = [Place("along", axis % len(self.values[name].shape)) for name, axis in zip(names, targets, strict=True)]
        return CAUSAL if node.carried else INDEPENDENT, [*[RUNNING] * node.carried, *ends]


def _stacked(place: Place, axis: int) -> Place:
    """The place of what is put together along a new axis."""
    return Place("along", place.axis + (place.axis >= axis)) if place.kind == "along" else place


def _unstacked(place: Place, axis: int) -> Place:
    """The place of one element along an axis that is another than the place's."""
    return Place("along", place.axis - (place.axis > axis)) if place.kind == "along" else place


def alike_axes(node: GraphNode, values: Mapping[str, Value], name: str) -> set[int]:
    """The axes of one of a node's values along which all positions are alike: every input has size 1 there."""
    place = node.names.index(name)
    return {
        dimension.outputs[place]
        for dimension in node.dimensions(values)
        if place in dimension.outputs
        and all(values[node.slots[slot]].shape[axis] == 1 for slot, axis in dimension.inputs.items())
    }


def dimension_along(
    node: GraphNode, values: Mapping[str, Value], along: Mapping[int, int], absent: Collection[str] = ()
) -> Dimension | None:
    """The Dimension of a node that its slots at these places have at these axes; None where positions meet.

    absent  values that are not there when the node runs

    Slots of which only the sizes count are not asked. Other inputs that have the dimension must be spread over it.
    """
    content = {place: axis for place, axis in along.items() if place not in node.of_sizes}
    slots = {place: values[name] for place, name in enumerate(node.slots) if name in values and name not in absent}
    for dimension in node.dimensions(values) if content else ():
        if all(dimension.inputs.get(place) == axis for place, axis in content.items()):
            others = [place for place in dimension.inputs if place in slots and place not in content]
            spread = all(slots[place].shape[dimension.inputs[place]] == 1 for place in others)
            return dimension if spread else None
    return None


def reach_along(node: GraphNode, values: Mapping[str, Value], along: Mapping[int, int]) -> Reach:
    """The reach of a node along the dimension that its slots at these places have at these axes."""
    dimension = dimension_along(node, values, along)
    return WHOLE if dimension is None else dimension.reach


def reach_of(node: GraphNode, values: Mapping[str, Value], name: str) -> Reach:
    """The reach of one node along the dimension that has this name in what it reads; INDEPENDENT without such."""
    shapes = {place: values[slot].shape for place, slot in enumerate(node.slots) if slot in values}
    along = {place: shape.index(name) for place, shape in shapes.items() if name in shape}
    return reach_along(node, values, along) if along else INDEPENDENT


# --- what is asked -------------------------------------------------------------------------------------------------


def rows_meet(spec: Spec, name: str) -> str:
    """The place where rows of the batch of this name may meet, in words; "" where each output of a row is its own."""
    following = follow(spec, name)
    lost = next((f"output {output!r}" for output in spec.outputs if not following.has(output)), "")
    return following.meets or lost


def steps_meet(spec: Spec, name: str, lengths: Collection[str]) -> str:
    """The place where steps of this dimension may meet others, but for recurrent layers that stop at these lengths.

    In words; "" where every step of an output before its row's length is independent of what comes after it.
    """
    return follow(spec, name, lengths).meets


def padded_steps(spec: Spec, batch: str, usable: Callable[[Any], bool]) -> dict[str, tuple[str, ...]]:
    """Sizes that count steps and may be filled up -> the inputs of lengths that say how many count.

    usable  whether a recurrent node obeys its lengths alone
    """
    given = {entry.name for entry in spec.inputs}
    users: dict[str, set[Any]] = {}  # None for a node that does not obey lengths alone
    for node in spec.recurrent:
        time = spec.values[node.input].shape[0 if node.layout == "time_first" else 1]
        if isinstance(time, str) and time != batch:
            users.setdefault(time, set()).add(node.lengths if usable(node) else None)
    lengths_of = {
        time: tuple(sorted(lengths))
        for time, lengths in users.items()
        if lengths <= given and not steps_meet(spec, time, lengths)
    }
    owners = [name for lengths in lengths_of.values() for name in lengths]
    return {time: lengths for time, lengths in lengths_of.items() if all(owners.count(name) == 1 for name in lengths)}


def freed(spec: Spec, names: Sequence[str]) -> Spec | None:
    """The network for any batch in place of one of 1, which these inputs have as the first or second size, and optional
    ones may have.

    None unless the graph keeps the rows of a larger batch independent, and every output has them.
    """
    inputs = {entry.name: entry for entry in spec.inputs}
    names = [*names, *(e.name for e in spec.inputs if e.optional and 1 in e.shape[:2] and e.name not in names)]
    taken = {size for entry in spec.inputs for size in entry.shape}
    batch = next(name for name in ("B", "N", *(f"B{n}" for n in range(len(taken)))) if name not in taken)
    layers = {name for node in spec.stateful for name in node.initial}  # whose first axis those of a state are
    places = [
        [axis for axis, size in enumerate(inputs[name].shape[:2]) if size == 1 and (axis or name not in layers)]
        for name in names
    ]
    for axes in itertools.islice(itertools.product(*places), MOST_TRIALS):
        shapes = {}
        for name, axis in zip(names, axes, strict=True):
            shape = inputs[name].shape
            shapes[name] = (*shape[:axis], batch, *shape[axis + 1 :])
        try:
            free = spec.reshaped(shapes)
        except SpecError:
            continue
        if not rows_meet(free, batch) and _ranks(free) == _ranks(spec):
            return free
    return None


def _ranks(spec: Spec) -> dict[str, int]:
    """The rank of each value: a Squeeze may leave out a batch of 1, and keeps another."""
    return {name: len(value.shape) for name, value in spec.values.items()}
