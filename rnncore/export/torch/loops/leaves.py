"""Loop, and what the arguments of its calls are over all steps: Leafs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import fx

from rnncore.errors import UnsupportedError
from rnncore.export.torch.layers.registry import kind_of
from rnncore.export.torch.records import Traced

__all__ = [
    "IDENTITIES",
    "IDENTITY_LAYERS",
    "ArgumentReader",
    "Leaf",
    "Loop",
    "behind_identities",
    "is_whole",
    "leaves_of",
    "read_arguments",
    "readers_of",
    "replaced",
]

IDENTITY_LAYERS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout", "Identity")
IDENTITIES = ("contiguous", "clone", "detach", "dropout")


@dataclass(frozen=True)
class Leaf:
    """One place of a call's arguments, over all steps.

    kind  "same": the same value outside the loop; "now": position's result of this step; "before": position's result
          of the step before, and in the first step ``start``, a node, a number or None; "index": slope * step + offset;
          "constant"
    """

    kind: str
    value: Any = None
    start: Any = None
    slope: int = 0


@dataclass
class Loop:
    """A loop: steps x positions of nodes, and for each position its arguments as Leafs.

    aliases  positions that only read what a step has stored in a tensor, and what they stand for
    """

    steps: list[list[fx.Node]]
    args: list[Any] = field(default_factory=list)
    kwargs: list[Any] = field(default_factory=list)
    aliases: dict[int, Leaf] = field(default_factory=dict)

    def cut(self, parts: int) -> list[Loop]:
        """Its steps in a number of loops, one after the other."""
        size = self.count // parts
        return [Loop(list(self.steps[i * size : (i + 1) * size])) for i in range(parts)]

    @property
    def count(self) -> int:
        return len(self.steps)

    @property
    def body(self) -> list[fx.Node]:
        """The calls of the second step, which stand for those of all."""
        return self.steps[1]


def read_arguments(traced: Traced, loop: Loop) -> None:
    where = {node: (k, j) for k, step in enumerate(loop.steps) for j, node in enumerate(step)}
    for j, node in enumerate(loop.body):
        column = [step[j] for step in loop.steps]
        reader = ArgumentReader(traced, where, node)
        loop.args.append(reader.read([call.args for call in column]))
        loop.kwargs.append(reader.read([call.kwargs for call in column]))


def replaced(argument: Any, aliases: dict[int, Leaf]) -> Any:
    if isinstance(argument, Leaf):
        return aliases.get(argument.value, argument) if argument.kind == "now" else argument
    if isinstance(argument, slice):
        return slice(*(replaced(part, aliases) for part in (argument.start, argument.stop, argument.step)))
    if isinstance(argument, (tuple, list)):
        return type(argument)(replaced(item, aliases) for item in argument)
    return {key: replaced(item, aliases) for key, item in argument.items()}


class ArgumentReader:
    def __init__(self, traced: Traced, where: dict[fx.Node, tuple[int, int]], node: fx.Node):
        self.traced, self.where, self.node = traced, where, node

    def read(self, arguments: list[Any]) -> Any:
        """The arguments of all steps at one place as one structure of Leafs."""
        later = arguments[1]
        if isinstance(later, slice):
            return slice(*(self.read([getattr(item, key) for item in arguments]) for key in ("start", "stop", "step")))
        if isinstance(later, (tuple, list)):
            if arguments[0] is None:
                arguments = [[None] * len(later), *arguments[1:]]
            if any(not isinstance(item, (tuple, list)) or len(item) != len(later) for item in arguments):
                raise self._refusal("takes a list that grows")
            items = [self.read([item[i] for item in arguments]) for i in range(len(later))]
            return items if isinstance(later, list) else tuple(items)
        if isinstance(later, dict):
            return {key: self.read([item[key] for item in arguments]) for key in later}
        return self._leaf(arguments)

    def _leaf(self, arguments: list[Any]) -> Leaf:
        arguments = [behind_identities(self.traced, item) for item in arguments]
        inside = [self.where.get(item) if isinstance(item, fx.Node) else None for item in arguments]
        if (
            all(place is not None and place == (k, inside[0][1]) for k, place in enumerate(inside) if inside[0])
            and inside[0]
        ):
            return Leaf("now", inside[0][1])
        later = inside[1:]
        if (
            all(place is not None and place == (k, later[0][1]) for k, place in enumerate(later) if later[0])
            and later[0]
        ):
            if inside[0] is not None:
                raise self._refusal("reads a result of another step than its own or the one before")
            return Leaf("before", later[0][1], arguments[0])
        if any(place is not None for place in inside):
            raise self._refusal("reads a result of another step than its own or the one before")
        if all(item is arguments[0] or item == arguments[0] for item in arguments):
            return Leaf("same" if isinstance(arguments[0], fx.Node) else "constant", arguments[0])
        if all(type(item) is int for item in arguments):
            slope = arguments[1] - arguments[0]
            if all(item == arguments[0] + slope * k for k, item in enumerate(arguments)):
                return Leaf("index", arguments[0], slope=slope)
        raise self._refusal("has arguments that change from step to step in no known way")

    def _refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.traced.places[self.node]}: {self.node.name} in a loop over a size {what}, expected x[:, t], "
            "results of this step and of the one before"
        )


def behind_identities(traced: Traced, item: Any) -> Any:
    """The input of a dropout or the like, through all of them."""
    while isinstance(item, fx.Node):
        if item.op == "call_module":
            same = kind_of(traced.tracer.root.get_submodule(item.target)) in IDENTITY_LAYERS
        else:
            same = item.op.startswith("call") and getattr(item.target, "__name__", item.target) in IDENTITIES
        if not same:
            return item
        item = item.args[0]
    return item


def leaves_of(arguments: Any) -> list[Leaf]:
    """Every Leaf in the arguments of a call."""
    if isinstance(arguments, Leaf):
        return [arguments]
    if isinstance(arguments, (tuple, list)):
        return [leaf for item in arguments for leaf in leaves_of(item)]
    if isinstance(arguments, dict):
        return leaves_of(list(arguments.values()))
    return [leaf for part in (arguments.start, arguments.stop, arguments.step) for leaf in leaves_of(part)]


def is_whole(part: Any) -> bool:
    return isinstance(part, slice) and all(leaf.value is None for leaf in leaves_of(part))


def readers_of(loop: Loop) -> dict[fx.Node, list[fx.Node]]:
    """Nodes after the loop that use its results, and which results."""
    inside = {node for step in loop.steps for node in step}
    readers: dict[fx.Node, list[fx.Node]] = {}
    for node in inside:
        for user in node.users:
            if user not in inside:
                readers.setdefault(user, []).append(node)
    return readers
