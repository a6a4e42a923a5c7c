"""Loops over the steps of a sequence, which tracing has written out, rolled up again.

Calls that happen more often for a longer input were made in a loop. Where the loop calls cells, each fed with its own
last state, and does nothing else from step to step, it is the same as running each cell over the whole sequence and
everything else over all steps at once: torch.fx nodes that do so take the loop's place, and cells become recurrent
nodes. Any other loop becomes one node that holds its body: a Scan.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import zip_longest
from typing import Any

import torch
from torch import fx

from rnncore.errors import UnsupportedError
from rnncore.export.torch.chains import OverSteps
from rnncore.export.torch.layers.registry import CELLS, STACKS, kind_of
from rnncore.export.torch.trace import Traced

__all__ = ["Leaf", "Loop", "ScanCall", "leaves_of", "roll"]

POINTWISE_LAYERS = frozenset((
    "Linear", "Embedding", "LayerNorm", "ReLU", "Tanh", "Sigmoid", "SiLU", "Mish", "SELU", "Hardswish", "Hardsigmoid",
    "Softsign", "LogSigmoid", "Tanhshrink", "LeakyReLU", "ELU", "CELU", "GELU", "Softplus", "Hardtanh", "ReLU6",
))  # fmt: skip
POINTWISE = frozenset((
    "relu", "tanh", "sigmoid", "exp", "log", "sqrt", "abs", "neg", "add", "sub", "mul", "truediv", "div", "pow", "eq",
    "gt", "ge", "lt", "le", "ne", "where", "masked_fill", "gelu", "silu", "leaky_relu", "elu", "softplus", "clamp",
    "float", "to", "type_as",
))  # fmt: skip
LAST_AXIS = frozenset(("softmax", "log_softmax"))
IDENTITY_LAYERS = ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout", "Identity")
SPLITTING = ("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_split", "unsafe_chunk")
IDENTITIES = ("contiguous", "clone", "detach", "dropout")


@dataclass(frozen=True)
class Leaf:
    """What stands at one place of a call's arguments, over all steps.

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


class ScanCall:
    """What a torch.fx node calls that stands for a loop. Its arguments: starts, sequences and captured values.

    carried    positions whose result goes from step to step
    sequences  Leafs of getitem on an outer value: position -> (outer node, axis, offset, slope, keep the axis)
    collected  positions whose results of all steps are read behind the loop
    inner      positions that the body computes
    """

    def __init__(
        self,
        loop: Loop,
        carried: Sequence[int],
        sequences: dict[int, Any],
        collected: Sequence[int],
        captured: Sequence[fx.Node],
        inner: Sequence[int],
    ):
        self.loop, self.carried, self.sequences = loop, list(carried), sequences
        self.collected, self.captured, self.inner = list(collected), list(captured), list(inner)
        self.__name__ = self.__qualname__ = "scan"
        self.__module__ = __name__

    def __repr__(self) -> str:
        return f"ScanCall({[str(node.target) for node in self.loop.body]})"

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("its value is known from the trace")


def roll(first: Traced, second: Traced) -> None:
    """Puts nodes that do not depend on the number of steps in the place of both traces' loops.

    Raises UnsupportedError with the line of a loop that cannot be rolled up.
    """
    counts = [Counter(_signature(traced, node) for node in _calls(traced)) for traced in (first, second)]
    looped = {found for found in counts[0] | counts[1] if counts[0][found] != counts[1][found]}
    if not looped:
        return
    for traced in (first, second):
        _drop_unread(traced, looped)
    loops = [_loops(traced, looped) for traced in (first, second)]
    _check_alike(first, second, loops, looped)
    waiting = list(zip(*loops, strict=True))
    while waiting:
        (one, two), *rest = _read_first(first, second, *waiting.pop(0))
        waiting = rest + waiting
        later = {node for pair in waiting for loop in pair for step in loop.steps for node in step}
        for traced, loop in ((first, one), (second, two)):
            _follow_stored(traced, loop)
        plans = [_Vectorized(traced, loop, later) for traced, loop in ((first, one), (second, two))]
        rolled = [plan.possible() for plan in plans]
        if all(rolled):
            to_the_end = plans[0].to_the_end() & plans[1].to_the_end()
            for plan in plans:
                plan.open = to_the_end
                plan.replace()
        else:
            for traced, loop in ((first, one), (second, two)):
                _Scanned(traced, loop, later).replace()


def _read_first(first: Traced, second: Traced, one: Loop, two: Loop) -> list[tuple[Loop, Loop]]:
    """A loop in both traces with its arguments read; cut in parts where it is several of the same code, one by one.

    Raises UnsupportedError for arguments that go from step to step in no known way.
    """
    refused = None
    for parts in range(1, math.gcd(one.count, two.count) + 1):
        if one.count % parts or two.count % parts or min(one.count, two.count) // parts < 2:
            continue
        cut = list(zip(one.cut(parts), two.cut(parts), strict=True))
        try:
            for traced, loop in zip((first, second), cut[0], strict=True):
                _pull_in(traced, loop)
                _read_arguments(traced, loop)
        except UnsupportedError as error:
            refused = refused or error
        else:
            return cut
    raise refused


def _drop_unread(traced: Traced, looped: set) -> None:
    """Erases calls that nothing reads in any step, such as sizes that only a condition asked for."""
    calls = [node for node in _calls(traced) if _signature(traced, node) in looped]
    unread: set[fx.Node] = set()
    for node in reversed(calls):
        if unread.issuperset(node.users):
            unread.add(node)
    read = {_signature(traced, node) for node in calls if node not in unread}
    for node in reversed(calls):
        if _signature(traced, node) not in read:
            traced.graph.erase_node(node)


def _check_alike(first: Traced, second: Traced, loops: Sequence[Sequence[Loop]], looped: set) -> None:
    """Raises where two traces repeat other calls."""
    for one, two in zip_longest(*loops):
        bodies = [
            [_signature(traced, node) for node in loop.body] if loop else None
            for traced, loop in ((first, one), (second, two))
        ]
        if bodies[0] != bodies[1]:
            node = (one or two).steps[0][0]
            missing = one is None or two is None
            expected = "an example of at least two steps" if missing else "the same calls in each step"
            raise UnsupportedError(
                f"{_place(first, second, node)}: {node.name}: a loop over a size that does not repeat the same calls, "
                f"expected {expected}"
            )
    counts = [Counter(_signature(traced, node) for node in _calls(traced)) for traced in (first, second)]
    inside = [
        Counter(_signature(traced, node) for loop in found for step in loop.steps for node in step)
        for traced, found in zip((first, second), loops, strict=True)
    ]
    for name in looped:
        if counts[0][name] - inside[0][name] != counts[1][name] - inside[1][name]:
            node = next(
                node for traced in (first, second) for node in _calls(traced) if _signature(traced, node) == name
            )
            raise UnsupportedError(
                f"{_place(first, second, node)}: {node.name}: a loop over a size that does not repeat the same calls, "
                "expected an example of at least two steps, each with the same calls"
            )


def _place(first: Traced, second: Traced, node: fx.Node) -> str:
    return first.places.get(node) or second.places.get(node, "the module")


def _calls(traced: Traced) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node.op in ("call_module", "call_function", "call_method")]


def _signature(traced: Traced, node: fx.Node) -> tuple:
    return node.op, str(node.target), traced.stacks.get(node, ())


def _loops(traced: Traced, looped: set) -> list[Loop]:
    """The calls made in loops, as steps of equal calls; the longest repetition first found is the loop.

    Calls before and behind it that do not repeat, as those of a first step that does something else, stay as they are.
    """
    nodes = [node for node in _calls(traced) if _signature(traced, node) in looped]
    names = [_signature(traced, node) for node in nodes]
    found, start = [], 0
    while start < len(nodes):
        period, count = _repetition(names, start)
        if count > 1 and 2 * period * count < len(names) - start:  # what repeats here may belong to a first step
            for place in range(start + 1, start + period * count + 1):
                longer = _repetition(names, place)
                body = names[place : place + longer[0]]
                if longer[0] * longer[1] > period * count and set(names[start:place]) <= set(body):
                    start, (period, count) = place, longer
                    break
        if count > 1:
            found.append(Loop([nodes[start + k * period : start + (k + 1) * period] for k in range(count)]))
        start += period * count
    return found


def _repetition(names: Sequence[Any], start: int) -> tuple[int, int]:
    """(length of a step, number of steps) of the repetition from start that covers the most calls."""
    best = (1, 1)
    for period in range(1, (len(names) - start) // 2 + 1):
        if names[start] != names[start + period]:
            continue
        count = 1
        first = names[start : start + period]
        while names[start + count * period : start + (count + 1) * period] == first:
            count += 1
        if count > 1 and count * period > best[0] * best[1]:
            best = (period, count)
    return best


# --- what the arguments are over all steps ---------------------------------------------------------------------------


def _read_arguments(traced: Traced, loop: Loop) -> None:
    where = {node: (k, j) for k, step in enumerate(loop.steps) for j, node in enumerate(step)}
    for j, node in enumerate(loop.body):
        column = [step[j] for step in loop.steps]
        reader = _Reader(traced, where, node)
        loop.args.append(reader.read([call.args for call in column]))
        loop.kwargs.append(reader.read([call.kwargs for call in column]))


# --- items of other loops, and of tensors that were taken apart before -----------------------------------------------


def _pull_in(traced: Traced, loop: Loop) -> None:
    """Makes calls before the loop that take one item for each step out of a value a part of its steps."""
    inside = {node for step in loop.steps for node in step}
    columns: dict[fx.Node, list[fx.Node]] = {}
    for j in range(len(loop.body)):
        for column in _columns([[step[j].args, step[j].kwargs] for step in loop.steps]):
            if column[0] not in columns and not inside.intersection(column) and _are_items(traced, column):
                columns[column[0]] = column
    taken = [node for column in columns.values() for node in column]
    if len(set(taken)) == len(taken):
        loop.steps = [[*(column[k] for column in columns.values()), *step] for k, step in enumerate(loop.steps)]


def _columns(found: Sequence[Any]) -> Iterator[list[fx.Node]]:
    """What stands at one place of the arguments of all steps, where that is a node in each."""
    if all(isinstance(item, fx.Node) for item in found):
        yield list(found)
    elif all(isinstance(item, (tuple, list)) for item in found) and len({len(item) for item in found}) == 1:
        for items in zip(*found, strict=True):
            yield from _columns(items)
    elif all(isinstance(item, dict) for item in found):
        for key in found[0]:
            yield from _columns([item.get(key) for item in found])


def _are_items(traced: Traced, column: Sequence[fx.Node]) -> bool:
    """Whether nodes are x[0], x[1], ... of one value, in this order or another with equal distances."""
    names = {getattr(node.target, "__name__", node.target) for node in column}
    if len(set(column)) < len(column) or len(names) > 1 or not names <= {"getitem", "select"}:
        return False
    reader = _Reader(traced, {}, column[0])
    try:
        args = reader.read([node.args for node in column])
    except UnsupportedError:
        return False
    item = Loop([[node] for node in column], [args], [{}])
    return not column[0].kwargs and _sequence(traced, item, 0) is not None


# --- what steps read of the tensor that they store to ----------------------------------------------------------------


def _stored(traced: Traced, loop: Loop, j: int) -> tuple[int, int, int] | None:
    """(axis, offset, slope) of a call that sets x[:, t] of a tensor that the step before has left."""
    if getattr(loop.body[j].target, "__name__", "") != "setitem":
        return None
    target, index, item = loop.args[j]
    if not isinstance(target, Leaf) or target.kind != "before" or target.value != j or not isinstance(item, Leaf):
        return None
    start = traced.values[target.start] if isinstance(target.start, fx.Node) else None
    value = traced.values[loop.body[item.value]] if item.kind == "now" else None
    if not isinstance(start, torch.Tensor) or not isinstance(value, torch.Tensor):
        return None
    found = _moving_part(index)
    if found is None or start.dtype != value.dtype:
        return None
    axis, offset, slope, _ = found
    if value.shape != (*start.shape[:axis], *start.shape[axis + 1 :]) or _moving_part(index)[3]:
        return None
    return axis, offset + start.shape[axis] if offset < 0 else offset, slope


def _moving_part(index: Any) -> tuple[int, int, int, bool] | None:
    """(axis, offset, slope, keep the axis) of an index that is whole but for one axis, where it goes by steps."""
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    if any(isinstance(part, Leaf) and part.value is ... for part in parts):
        return None
    moving = [axis for axis, part in enumerate(parts) if any(leaf.kind == "index" for leaf in leaves_of(part))]
    if len(moving) != 1 or not all(_whole(part) for axis, part in enumerate(parts) if axis != moving[0]):
        return None
    part = parts[moving[0]]
    if isinstance(part, Leaf):
        return moving[0], part.value, part.slope, False
    start, stop = part.start, part.stop
    one = isinstance(start, Leaf) and isinstance(stop, Leaf) and stop.kind == start.kind == "index"
    if not one or stop.slope != start.slope or stop.value - start.value != 1 or part.step.value is not None:
        return None
    return moving[0], start.value, start.slope, True


def _follow_stored(traced: Traced, loop: Loop) -> None:
    """x[:, t - 1] of a tensor whose x[:, t] each step sets is what the step before has set."""
    for j, node in enumerate(loop.body):
        if getattr(node.target, "__name__", "") != "getitem" or not isinstance(loop.args[j][0], Leaf):
            continue
        source, index = loop.args[j]
        if source.kind not in ("before", "now"):
            continue
        stored, read = _stored(traced, loop, source.value), _moving_part(index)
        if stored is None or read is None or read[3] or (read[0], read[2]) != (stored[0], stored[2]):
            continue
        store, size = loop.args[source.value], traced.values[loop.steps[0][j].args[0]].shape[read[0]]
        offset = read[1] + size if read[1] < 0 else read[1]
        item = store[2].value
        ahead = Fraction(offset - stored[1], stored[2])  # steps until what is read here is stored
        if source.kind == "now" and ahead == 0:
            loop.aliases[j] = Leaf("now", item)
        elif ahead == -1:
            loop.aliases[j] = Leaf("before", item, _copied_out(traced, loop.steps[0][j], store[0].start))
        elif ahead >= 0 or ahead.denominator > 1:
            loop.args[j] = (Leaf("same", store[0].start), index)
    if loop.aliases:
        loop.args = [_replaced(found, loop.aliases) for found in loop.args]
        loop.kwargs = [_replaced(found, loop.aliases) for found in loop.kwargs]


def _copied_out(traced: Traced, node: fx.Node, source: fx.Node) -> fx.Node:
    """The call of a first step made once more, of the value before the loop."""
    with traced.graph.inserting_after(source):
        copy = traced.graph.create_node(node.op, node.target, (source, *node.args[1:]), {})
    traced.places[copy], traced.stacks[copy] = traced.places[node], ()
    traced.values[copy] = traced.tracer._evaluate(copy)
    return copy


def _replaced(found: Any, aliases: dict[int, Leaf]) -> Any:
    if isinstance(found, Leaf):
        return aliases.get(found.value, found) if found.kind == "now" else found
    if isinstance(found, slice):
        return slice(*(_replaced(part, aliases) for part in (found.start, found.stop, found.step)))
    if isinstance(found, (tuple, list)):
        return type(found)(_replaced(item, aliases) for item in found)
    return {key: _replaced(item, aliases) for key, item in found.items()}


class _Reader:
    def __init__(self, traced: Traced, where: dict[fx.Node, tuple[int, int]], node: fx.Node):
        self.traced, self.where, self.node = traced, where, node

    def read(self, found: list[Any]) -> Any:
        """The arguments of all steps at one place as one structure of Leafs."""
        later = found[1]
        if isinstance(later, slice):
            return slice(*(self.read([getattr(item, key) for item in found]) for key in ("start", "stop", "step")))
        if isinstance(later, (tuple, list)):
            if found[0] is None:
                found = [[None] * len(later), *found[1:]]
            if any(not isinstance(item, (tuple, list)) or len(item) != len(later) for item in found):
                raise self._refusal("takes a list that grows")
            items = [self.read([item[i] for item in found]) for i in range(len(later))]
            return items if isinstance(later, list) else tuple(items)
        if isinstance(later, dict):
            return {key: self.read([item[key] for item in found]) for key in later}
        return self._leaf(found)

    def _leaf(self, found: list[Any]) -> Leaf:
        found = [_behind_identities(self.traced, item) for item in found]
        inside = [self.where.get(item) if isinstance(item, fx.Node) else None for item in found]
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
            return Leaf("before", later[0][1], found[0])
        if any(place is not None for place in inside):
            raise self._refusal("reads a result of another step than its own or the one before")
        if all(item is found[0] or item == found[0] for item in found):
            return Leaf("same" if isinstance(found[0], fx.Node) else "constant", found[0])
        if all(type(item) is int for item in found):
            slope = found[1] - found[0]
            if all(item == found[0] + slope * k for k, item in enumerate(found)):
                return Leaf("index", found[0], slope=slope)
        raise self._refusal("has arguments that change from step to step in no known way")

    def _refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(
            f"{self.traced.places[self.node]}: {self.node.name} in a loop over a size {what}, expected x[:, t], "
            "results of this step and of the one before"
        )


def _behind_identities(traced: Traced, item: Any) -> Any:
    """What a dropout or the like was given."""
    while isinstance(item, fx.Node):
        if item.op == "call_module":
            same = kind_of(traced.tracer.root.get_submodule(item.target)) in IDENTITY_LAYERS
        else:
            same = item.op.startswith("call") and getattr(item.target, "__name__", item.target) in IDENTITIES
        if not same:
            return item
        item = item.args[0]
    return item


def leaves_of(found: Any) -> list[Leaf]:
    """Every Leaf in the arguments of a call."""
    if isinstance(found, Leaf):
        return [found]
    if isinstance(found, (tuple, list)):
        return [leaf for item in found for leaf in leaves_of(item)]
    if isinstance(found, dict):
        return leaves_of(list(found.values()))
    return [leaf for part in (found.start, found.stop, found.step) for leaf in leaves_of(part)]


def _sequence(traced: Traced, loop: Loop, j: int) -> tuple[fx.Node, int, int, int, bool] | None:
    """(outer value, axis, offset, slope, keep the axis) of a call that takes one step out of an outer value."""
    node = loop.body[j]
    name = getattr(node.target, "__name__", node.target)
    if name not in ("getitem", "select") or loop.kwargs[j] or len(loop.args[j]) != (2 if name == "getitem" else 3):
        return None
    source, *index = loop.args[j]
    if not isinstance(source, Leaf) or source.kind != "same":
        return None
    value = traced.values[source.value]
    if name == "select":
        axis, part = index
        known = axis.kind == "constant" and isinstance(part, Leaf) and part.kind == "index"
        return (source.value, axis.value % value.ndim, part.value, part.slope, False) if known else None
    if isinstance(value, (tuple, list)):
        outer = _taken_apart(traced, source.value)
        if outer is None or not isinstance(index[0], Leaf) or index[0].kind != "index":
            return None
        return outer[0], outer[1], index[0].value, index[0].slope, outer[2]
    if not isinstance(value, torch.Tensor):
        return None
    found = _moving_part(index[0])
    return None if found is None else (source.value, *found)


def _whole(part: Any) -> bool:
    return isinstance(part, slice) and all(leaf.value is None for leaf in leaves_of(part))


def _taken_apart(traced: Traced, node: fx.Node) -> tuple[fx.Node, int, bool] | None:
    """(what, axis, keep the axis) of a call that gives every step of a tensor: unbind, split(1), chunk(steps)."""
    name = str(getattr(node.target, "__name__", node.target)).strip("_")
    source = node.args[0] if node.args else node.kwargs.get("input", node.kwargs.get("tensor"))
    if name not in ("unbind", *SPLITTING) or not isinstance(source, fx.Node):
        return None
    value, place = traced.values[source], 1 if name == "unbind" else 2
    axis = node.kwargs.get("dim", node.args[place] if len(node.args) > place else 0) % value.ndim
    if name == "unbind":
        return source, axis, False
    parts = traced.values[node]
    every = len(parts) == value.shape[axis] and all(part.shape[axis] == 1 for part in parts)
    return (source, axis, True) if every else None


def _readers(loop: Loop) -> dict[fx.Node, list[fx.Node]]:
    """Nodes behind the loop that read its results, and which."""
    inside = {node for step in loop.steps for node in step}
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in inside:
        for user in node.users:
            if user not in inside:
                found.setdefault(user, []).append(node)
    return found


class _Replacing:
    """What both ways of rolling a loop up have in common: new nodes behind it, and its readers' new arguments."""

    def __init__(self, traced: Traced, loop: Loop, later: set[fx.Node]):
        """later: the calls of loops that are rolled up after this one, and read its results step by step."""
        self.traced, self.loop, self.tracer, self.later = traced, loop, traced.tracer, later
        self.where = {node: (k, j) for k, step in enumerate(loop.steps) for j, node in enumerate(step)}
        self.place = traced.places[loop.body[0]]
        self.by_steps = self._read_by_steps()

    def make(self, op: str, target: Any, *args: Any, value: Any = ..., **kwargs: Any) -> fx.Node:
        """A new node where the graph inserts; its value computed, unless it is given."""
        node = self.traced.graph.create_node(op, target, args, kwargs)
        self.traced.places[node], self.traced.stacks[node] = self.place, ()
        self.traced.values[node] = self.tracer._evaluate(node) if value is ... else value
        return node

    def rewire(self) -> None:
        """Readers of the loop's results read the new nodes; then the loop goes."""
        for user in _readers(self.loop):
            user.args = self._changed(user, user.args)
            user.kwargs = self._changed(user, user.kwargs)
        for step in reversed(self.loop.steps):
            for node in reversed(step):
                self.traced.graph.erase_node(node)

    def _changed(self, user: fx.Node, found: Any) -> Any:
        if isinstance(found, fx.Node):
            return self._single(user, found)
        if isinstance(found, (tuple, list)):
            changed = [item if isinstance(item, _Steps) else self._changed(user, item) for item in self._grouped(found)]
            return changed if isinstance(found, list) else tuple(changed)
        if isinstance(found, dict):
            return {key: self._changed(user, item) for key, item in found.items()}
        if isinstance(found, slice):
            return slice(*(self._changed(user, part) for part in (found.start, found.stop, found.step)))
        return found

    def _grouped(self, found: Sequence[Any]) -> list[Any]:
        """The items of a list, results of one position in steps that follow on each other as one."""
        places = [
            self.where.get(_behind_identities(self.traced, item)) if isinstance(item, fx.Node) else None
            for item in found
        ]
        grouped: list[Any] = []
        i = 0
        while i < len(found):
            end = i + 1
            step = places[end][0] - places[i][0] if places[i] and end < len(found) and places[end] else 0
            while abs(step) == 1 and end < len(found) and places[end] == (places[end - 1][0] + step, places[i][1]):
                end += 1
            if end - i > 1:
                low, high = sorted((places[i][0], places[end - 1][0]))
                grouped.append(_Steps(places[i][1], low, high + 1, step < 0))
            else:
                grouped.append(found[i])
            i = end
        return grouped

    def _single(self, user: fx.Node, found: fx.Node) -> Any:
        behind = _behind_identities(self.traced, found)
        if behind not in self.where:
            return found
        k, j = self.where[behind]
        last = k == self.loop.count - 1 and not (user in self.later and j in self.by_steps)
        return self.final(j) if last else self.step(j, k)

    def _read_by_steps(self) -> set[int]:
        """Positions of which later loops read every step, and not only the last."""
        read = [
            self.where.get(_behind_identities(self.traced, node), self.where[node])
            for user, nodes in _readers(self.loop).items()
            if user in self.later
            for node in nodes
        ]
        return {j for k, j in read if k != self.loop.count - 1}

    def step(self, j: int, k: int) -> fx.Node:
        """A result of one step before the last."""
        with self.traced.graph.inserting_before(self.anchor):
            return self.make("call_method", "select", self.all(j), 1, k)

    def all(self, j: int) -> fx.Node:
        """The results of all steps side by side on axis 1."""
        raise NotImplementedError

    def start(self, j: int, start: Any) -> fx.Node:
        """What a position has before the first step as a node; numbers and no state at all become tensors."""
        value = self.traced.values[self.loop.steps[0][j]]
        readers = [
            (i, leaf)
            for i in range(len(self.loop.body))
            for leaf in leaves_of([self.loop.args[i], self.loop.kwargs[i]])
            if leaf.kind == "before" and leaf.value == j
        ]
        if isinstance(start, fx.Node):
            return start
        names = {str(getattr(self.loop.body[i].target, "__name__", self.loop.body[i].target)) for i, _ in readers}
        kinds = {
            kind_of(self.tracer.root.get_submodule(self.loop.body[i].target))
            for i, _ in readers
            if self.loop.body[i].op == "call_module"
        }
        if isinstance(value, torch.Tensor) and isinstance(start, (int, float)) and names <= POINTWISE:
            return self.make("call_function", torch.full, tuple(value.shape), start, dtype=value.dtype)
        if isinstance(value, torch.Tensor) and start is None and len(kinds) == 1 and kinds <= {*CELLS, *STACKS}:
            return self.make("call_function", torch.zeros, tuple(value.shape), dtype=value.dtype)
        raise UnsupportedError(
            f"{self.traced.places[self.loop.body[j]]}: {self.loop.body[j].name} goes from step to step without a "
            "tensor to start from, expected one, such as zeros"
        )

    def filled(self, j: int, items: fx.Node) -> fx.Node:
        """The tensor that each step has stored an item to, after the last step."""
        axis, offset, slope = _stored(self.traced, self.loop, j)
        target, count = self.loop.args[j][0].start, self.loop.count
        size = self.traced.values[target].shape[axis]
        if abs(slope) != 1:
            raise UnsupportedError(f"{self.place}: stores every {abs(slope)}th step, expected every step")
        first = offset if slope == 1 else offset - count + 1
        if slope == -1:
            items = self.make("call_method", "flip", items, 1)
        items = items if axis == 1 else self.make("call_method", "movedim", items, 1, axis)
        if (first, count) == (0, size):
            return items
        index = [slice(None)] * axis + [slice(first, None if first + count == size else first + count)]
        return self.make("call_function", _setitem, target, tuple(index), items)

    def final(self, j: int) -> fx.Node:
        raise NotImplementedError


@dataclass(frozen=True)
class _Steps:
    """Stands in a list for the results of a position in steps that follow on each other."""

    position: int
    first: int
    end: int
    backwards: bool


def _joined(plan: _Replacing, user: fx.Node, items: Sequence[Any]) -> fx.Node:
    """The value of stack or cat over results of steps, and others before and behind them."""
    name = getattr(user.target, "__name__", str(user.target))
    dim = user.kwargs.get("dim", user.args[1] if len(user.args) > 1 else 0)
    if name not in ("stack", "cat", "concat", "concatenate") or not isinstance(dim, int):
        raise UnsupportedError(
            f"{plan.traced.places.get(user, 'the module')}: {name} of the results of a loop over a size, expected "
            "torch.stack or torch.cat"
        )
    axis = dim % plan.traced.values[user].ndim
    parts = []
    for item in items:
        if isinstance(item, _Steps):
            parts.append(_side_by_side(plan, item, axis, name == "stack"))
        else:
            parts.append(plan.make("call_method", "unsqueeze", item, axis) if name == "stack" else item)
    return parts[0] if len(parts) == 1 else plan.make("call_function", torch.cat, parts, axis)


def _side_by_side(plan: _Replacing, steps: _Steps, axis: int, stacked: bool) -> fx.Node:
    found = plan.all(steps.position)
    if (steps.first, steps.end) != (0, plan.loop.count):
        end = None if steps.end == plan.loop.count else steps.end
        found = plan.make("call_function", _getitem, found, (slice(None), slice(steps.first, end)))
    if steps.backwards:
        found = plan.make("call_method", "flip", found, 1)
    if axis != 1:
        found = plan.make("call_method", "movedim", found, 1, axis)
    return found if stacked else plan.make("call_method", "flatten", found, axis, axis + 1)


def _rejoin(plan: _Replacing) -> None:
    """The readers' stack and cat of steps become what stands side by side already."""
    for user in list(_readers(plan.loop)):
        changed = plan._changed(user, user.args)
        several = [item for item in changed if isinstance(item, list) and any(isinstance(one, _Steps) for one in item)]
        if user.op == "output" or not several:
            _check_output(plan, changed)
        if several:
            with plan.traced.graph.inserting_before(user):
                joined = _joined(plan, user, several[0])
            user.replace_all_uses_with(joined)
            plan.traced.graph.erase_node(user)


def _check_output(plan: _Replacing, found: Any) -> None:
    if isinstance(found, _Steps):
        raise UnsupportedError(f"{plan.place}: a list with one tensor for each step is returned, expected torch.stack")
    if isinstance(found, (tuple, list)):
        for item in found:
            _check_output(plan, item)


class _Vectorized(_Replacing):
    """A loop of cells as cells over sequences; all else over all steps at once, which stand on axis 1."""

    def possible(self) -> bool:
        """Whether nothing but cells and stored outputs goes from step to step."""
        self.kinds = ["alias" if j in self.loop.aliases else self._kind(j) for j in range(len(self.loop.body))]
        return all(kind is not None for kind in self.kinds) and self._reads_fit()

    def _kind(self, j: int) -> str | None:
        node, leaves = self.loop.body[j], leaves_of([self.loop.args[j], self.loop.kwargs[j]])
        name = getattr(node.target, "__name__", node.target)
        if _sequence(self.traced, self.loop, j) is not None:
            return "sequence"
        if name == "setitem":
            return "store" if _stored(self.traced, self.loop, j) is not None else None
        if node.op == "call_module":
            kind = kind_of(self.tracer.root.get_submodule(node.target))
            if kind in CELLS:
                return "cell" if self._fed_by_itself(j) and self.loop.args[j][0].kind == "now" else None
            if kind in STACKS:
                part = self.tracer.root.get_submodule(node.target)
                shape = self._value(self.loop.args[j][0]).shape if isinstance(self.loop.args[j][0], Leaf) else ()
                one_step = len(shape) == 3 and shape[1 if part.batch_first else 0] == 1
                one_step = one_step and self.loop.args[j][0].kind == "now"
                return "stack" if one_step and not part.bidirectional and self._fed_by_itself(j) else None
            if kind in IDENTITY_LAYERS:
                return "identity"
            fits = kind in POINTWISE_LAYERS
            return "pointwise" if fits and all(leaf.kind in ("now", "same", "constant") for leaf in leaves) else None
        if name == "getitem":
            source, index = self.loop.args[j]
            if not isinstance(source, Leaf) or source.kind != "now":
                return None
            if isinstance(self.traced.values[self.loop.body[source.value]], (tuple, list)):
                return "part" if isinstance(index, Leaf) and index.kind == "constant" else None
            return self._dropped(source, index)
        if name == "squeeze" and len(self.loop.args[j]) == 2 and self.loop.args[j][0].kind == "now":
            axis = self.loop.args[j][1].value
            return self._dropped(
                self.loop.args[j][0],
                (slice(*[Leaf("constant")] * 3), Leaf("constant", 0))[1 - axis :] if axis in (0, 1) else None,
            )
        if name in IDENTITIES:
            return "identity"
        if name == "unsqueeze" and self.loop.args[j][1] == Leaf("constant", 1) and self.loop.args[j][0].kind == "now":
            return "step axis"
        if name == "unsqueeze" and self.loop.args[j][1] == Leaf("constant", 0) and self.loop.args[j][0].kind == "now":
            return "front axis"
        if name in ("cat", "concat"):
            now = all(leaf.kind in ("now", "constant") for leaf in leaves)
            return "cat" if now and self._dim(j) in (-1, 1) and self._rank(j) == 2 else None
        if (
            name in LAST_AXIS
            and leaves[0].kind == "now"
            and self.loop.kwargs[j].get("dim", Leaf("constant", None)).value in (-1,)
        ):
            return "pointwise"
        ok = name in POINTWISE and all(leaf.kind in ("now", "same", "constant") for leaf in leaves)
        return "pointwise" if ok and any(leaf.kind == "now" for leaf in leaves) else None

    def _dropped(self, source: Leaf, index: Any) -> str | None:
        """x[0] and x[:, 0] where that axis has one entry: without it."""
        parts = list(index) if isinstance(index, (tuple, list)) else [index]
        shape = self._value(source).shape
        axis = next((axis for axis, part in enumerate(parts) if isinstance(part, Leaf)), None)
        if axis not in (0, 1) or parts[axis].kind != "constant" or parts[axis].value not in (0, -1) or shape[axis] != 1:
            return None
        whole = all(_whole(part) for place, part in enumerate(parts) if place != axis)
        return ("drop front", "drop step")[axis] if whole else None

    def _dim(self, j: int) -> Any:
        found = self.loop.kwargs[j].get(
            "dim", self.loop.args[j][1] if len(self.loop.args[j]) > 1 else Leaf("constant", 0)
        )
        return found.value

    def _rank(self, j: int) -> int:
        value = self.traced.values[self.loop.body[j]]
        return value.ndim if isinstance(value, torch.Tensor) else -1

    def _value(self, leaf: Leaf) -> Any:
        if leaf.kind in ("now", "before"):
            return self.traced.values[self.loop.body[leaf.value]]
        return self.traced.values[leaf.value] if isinstance(leaf.value, fx.Node) else leaf.value

    def _state(self, j: int) -> list[Leaf]:
        args, kwargs = self.loop.args[j], self.loop.kwargs[j]
        given = args[1] if len(args) > 1 else kwargs.get("hx", Leaf("constant", None))
        return leaves_of(given)

    def _fed_by_itself(self, j: int) -> bool:
        """Whether the state of a cell is its own last one."""
        state = self._state(j)
        several = isinstance(self.traced.values[self.loop.body[j]], tuple)
        stack = kind_of(self.tracer.root.get_submodule(self.loop.body[j].target)) in STACKS
        if len(state) == 1 and state[0].kind == "before" and several:
            return stack and self._path(state[0].value) == (j, (1,))
        paths = [self._path(leaf.value) if leaf.kind == "before" else None for leaf in state]
        if not several:
            return paths == [(j, ())]
        expected = [(j, (1, 0)), (j, (1, 1))] if stack else [(j, (0,)), (j, (1,))]
        return paths == expected or (stack and paths == [(j, (1,))])

    def _path(self, j: int) -> tuple[int, tuple[int, ...]]:
        """The call and the indices that a chain of getitem leads to."""
        indices: list[int] = []
        while getattr(self.loop.body[j].target, "__name__", "") == "getitem":
            source, index = self.loop.args[j]
            if not isinstance(source, Leaf) or source.kind != "now" or not isinstance(index, Leaf):
                break
            indices.insert(0, index.value)
            j = source.value
        return j, tuple(indices)

    def _reads_fit(self) -> bool:
        """Whether no step reads what only the last one has: states that are no outputs, tensors half stored."""
        for j, kind in enumerate(self.kinds):
            for leaf in leaves_of([self.loop.args[j], self.loop.kwargs[j]]):
                if leaf.kind == "now" and self._hidden(leaf.value) and kind != "part":
                    return False
                if leaf.kind == "before" and kind not in ("cell", "stack", "store", "alias"):
                    return False
                if leaf.kind != "constant" and self._is_stored_to(leaf) and (kind, leaf.value) != ("store", j):
                    return False
        for nodes in _readers(self.loop).values():
            for node in nodes:
                k, j = self.where.get(_behind_identities(self.traced, node), (0, 0))
                if k != self.loop.count - 1 and (self._hidden(j) or self.kinds[j] == "store"):
                    return False
                if self.kinds[j] == "alias":
                    return False
        return True

    def _is_stored_to(self, leaf: Leaf) -> bool:
        """Whether an argument is the tensor that steps store to."""
        return leaf.kind in ("now", "before") and self.kinds[leaf.value] == "store"

    def _hidden(self, j: int) -> bool:
        """Whether a position is a state that a recurrent node gives for the last step only."""
        root, path = self._path(j)
        if self.kinds[root] == "stack":
            return path[:1] == (1,)
        return self.kinds[root] == "cell" and path == (1,)

    def to_the_end(self) -> set[int]:
        """Positions that take steps out of a sequence up to its end."""
        found = set()
        for j, kind in enumerate(self.kinds):
            if kind == "sequence":
                source, axis, offset, slope, _ = _sequence(self.traced, self.loop, j)
                first, size = self._first(source, axis, offset, slope)
                if first + self.loop.count * abs(slope) >= size:
                    found.add(j)
        return found

    def _first(self, source: fx.Node, axis: int, offset: int, slope: int) -> tuple[int, int]:
        """The lowest step that is taken out of a sequence, and how many it has."""
        size = self.traced.values[source].shape[axis]
        offset = offset + size if offset < 0 else offset
        return offset if slope > 0 else offset + slope * (self.loop.count - 1), size

    def replace(self) -> None:
        self.sequences: dict[int, Any] = {}
        self.finals: dict[int, Any] = {}
        last = self.loop.steps[-1][-1]
        with self.traced.graph.inserting_after(last):
            self.anchor = self.traced.graph.create_node("call_function", _anchor)
        with self.traced.graph.inserting_before(self.anchor):
            for j, kind in enumerate(self.kinds):
                if kind != "alias":
                    self.place = self.traced.places[self.loop.body[j]]
                    getattr(self, f"_{kind.replace(' ', '_')}")(j)
        _rejoin(self)
        with self.traced.graph.inserting_before(self.anchor):
            self.rewire()
        self.traced.graph.erase_node(self.anchor)

    def final(self, j: int) -> fx.Node:
        if j in self.finals:
            return self.finals[j]
        with self.traced.graph.inserting_before(self.anchor):
            self.finals[j] = self.make("call_method", "select", self.sequences[j], 1, -1)
        return self.finals[j]

    def _sequence(self, j: int) -> None:
        """x[:, t] of all steps: x with its steps on axis 1, turned round and cut where the loop does so."""
        source, axis, offset, slope, keep = _sequence(self.traced, self.loop, j)
        found, count = source, self.loop.count
        first, size = self._first(source, axis, offset, slope)
        if (first, count) != (0, size):
            end = None if j in self.open else first + (count - 1) * abs(slope) + 1
            index = [slice(None)] * axis + [slice(first, end, None if abs(slope) == 1 else abs(slope))]
            found = self.make("call_function", _getitem, found, tuple(index))
        if slope < 0:
            found = self.make("call_method", "flip", found, axis)
        if axis != 1:
            found = self.make("call_method", "movedim", found, axis, 1)
        self.sequences[j] = self.make("call_method", "unsqueeze", found, axis + 1) if keep else found

    def _lifted(self, found: Any, rank: int) -> Any:
        """Arguments for all steps at once; an outer tensor of the same rank gets an axis for the steps."""
        if isinstance(found, Leaf):
            if found.kind == "now":
                return self.sequences[found.value]
            value = self._value(found)
            if found.kind == "same" and isinstance(value, torch.Tensor) and value.ndim >= rank > 0:
                return self.make("call_method", "unsqueeze", found.value, 1)
            return found.value
        if isinstance(found, (tuple, list)):
            return type(found)(self._lifted(item, rank) for item in found)
        return {key: self._lifted(item, rank) for key, item in found.items()}

    def _pointwise(self, j: int) -> None:
        node = self.loop.body[j]
        rank = 0 if node.op == "call_module" else self._rank(j)
        args, kwargs = self._lifted(self.loop.args[j], rank), self._lifted(self.loop.kwargs[j], rank)
        self.sequences[j] = self.make(node.op, node.target, *args, **kwargs)

    def _identity(self, j: int) -> None:
        self.sequences[j] = self._lifted(self.loop.args[j][0], 0)

    def _cat(self, j: int) -> None:
        self.sequences[j] = self.make("call_function", torch.cat, self._lifted(self.loop.args[j][0], 0), -1)

    def _step_axis(self, j: int) -> None:
        self.sequences[j] = self.make("call_method", "unsqueeze", self.sequences[self.loop.args[j][0].value], 2)

    def _front_axis(self, j: int) -> None:
        """(B, ...) as (1, B, ...), for cat over the first axis: with the steps on axis 1 that is (1, T, B, ...)."""
        found = self.make("call_method", "unsqueeze", self.sequences[self.loop.args[j][0].value], 0)
        self.sequences[j] = self.make("call_method", "transpose", found, 1, 2)

    def _drop_front(self, j: int) -> None:
        """(1, T, B, ...), the results (1, B, ...) of all steps, as (B, T, ...)."""
        found = self.make("call_method", "select", self.sequences[self.loop.args[j][0].value], 0, 0)
        self.sequences[j] = self.make("call_method", "transpose", found, 0, 1)

    def _drop_step(self, j: int) -> None:
        self.sequences[j] = self.make("call_method", "select", self.sequences[self.loop.args[j][0].value], 2, 0)

    def _starts(self, j: int) -> list[Any]:
        leaves = self._state(j)
        if all(leaf.kind == "constant" or leaf.start is None for leaf in leaves):
            return [None for _ in leaves]
        return [leaf.start for leaf in leaves]

    def _cell(self, j: int) -> None:
        node = self.loop.body[j]
        module = self.tracer.root.get_submodule(node.target)
        starts = self._starts(j)
        state = None
        if all(start is not None for start in starts):
            state = tuple(self.make("call_method", "unsqueeze", start, 0) for start in starts)
            state = state if len(state) > 1 else state[0]
        x = self._lifted(self.loop.args[j][0], 2)
        call = self.make("call_function", OverSteps(module, node.target, written_out=True), x, state)
        several = isinstance(self.traced.values[node], tuple)
        self.sequences[j] = self.make("call_function", _getitem, call, 0)
        states = self.make("call_function", _getitem, call, 1)
        states = [self.make("call_function", _getitem, states, i) for i in range(2)] if several else [states]
        self.states = {
            **getattr(self, "states", {}),
            j: [self.make("call_method", "select", one, 0, 0) for one in states],
        }
        if not several:
            self.finals[j] = self.states[j][0]

    def _stack(self, j: int) -> None:
        node = self.loop.body[j]
        one = 2 if self.tracer.root.get_submodule(node.target).batch_first else 0
        x = self.make("call_method", "select", self._lifted(self.loop.args[j][0], 3), one, 0)
        starts = self._starts(j)
        state = None
        if all(start is not None for start in starts):
            state = tuple(starts) if len(starts) > 1 else starts[0]
        call = (
            self.make("call_module", node.target, x, state)
            if state is not None
            else self.make("call_module", node.target, x)
        )
        self.sequences[j] = self.make("call_method", "unsqueeze", self.make("call_function", _getitem, call, 0), one)
        self.states = {**getattr(self, "states", {}), j: self.make("call_function", _getitem, call, 1)}

    def _part(self, j: int) -> None:
        root, path = self._path(j)
        if self.kinds[root] == "cell":
            if path == (0,):
                self.sequences[j] = self.sequences[root]
            self.finals[j] = self.states[root][path[0]]
        elif path == (0,):
            self.sequences[j] = self.sequences[root]
        else:
            found = self.states[root]
            for index in path[1:]:
                found = self.make("call_function", _getitem, found, index)
            self.finals[j] = found

    def all(self, j: int) -> fx.Node:
        return self.sequences[j]

    def _store(self, j: int) -> None:
        self.finals[j] = self.filled(j, self.sequences[self.loop.args[j][2].value])


def _getitem(x: Any, index: Any) -> Any:
    return x[index]


_getitem.__name__ = "getitem"


def _setitem(x: torch.Tensor, index: Any, item: Any) -> torch.Tensor:
    x = x.clone()
    x[index] = item
    return x


_setitem.__name__ = "setitem"


def _anchor() -> None:
    """Marks the place behind a loop while it is rolled up."""


class _Scanned(_Replacing):
    """A loop as one node with its body: what goes from step to step, what is read step by step, what stays."""

    def replace(self) -> None:
        loop = self.loop
        self._check()
        self.stores = {j: self._store_of(j) for j in range(len(loop.body)) if self._store_of(j) is not None}
        inner = [j for j in range(len(loop.body)) if j not in self.stores and j not in loop.aliases]
        sequences = {
            j: found for j in inner if (found := _sequence(self.traced, loop, j)) is not None and self._forward(found)
        }
        leaves = [leaf for j in inner if j not in sequences for leaf in leaves_of([loop.args[j], loop.kwargs[j]])]
        before = {leaf.value: leaf.start for leaf in leaves if leaf.kind == "before"}
        carried = list(before)
        captured = list(dict.fromkeys(leaf.value for leaf in leaves if leaf.kind == "same"))
        collected = list(dict.fromkeys([*self._collected(), *self.stores.values()]))
        call = ScanCall(loop, carried, sequences, collected, captured, [j for j in inner if j not in sequences])
        for j in (*carried, *collected):
            if not isinstance(self.traced.values[loop.body[j]], torch.Tensor):
                raise UnsupportedError(
                    f"{self.traced.places[loop.body[j]]}: {loop.body[j].name}, which is no tensor, goes from step to "
                    "step or behind the loop, expected tensors"
                )
        for j in collected:
            if self.traced.values[loop.body[j]].ndim == 0:
                raise UnsupportedError(
                    f"{self.traced.places[loop.body[j]]}: {loop.body[j].name} is one number for each step of a loop "
                    "over a size, expected tensors with a batch"
                )
        values = [self.traced.values[loop.steps[-1][j]] for j in carried]
        # all steps side by side along axis 1, where the other way of rolling up has them too
        values += [torch.stack([self.traced.values[step[j]] for step in loop.steps], 1) for j in collected]
        anchor = loop.steps[-1][-1]
        with self.traced.graph.inserting_after(anchor):
            self.anchor = self.traced.graph.create_node("call_function", _anchor)
        with self.traced.graph.inserting_before(self.anchor):
            node = self.make(
                "call_function",
                call,
                [self.start(j, start) for j, start in before.items()],
                [source for source, *_ in sequences.values()],
                captured,
                value=tuple(values),
            )
            parts = [self.make("call_function", _getitem, node, i) for i in range(len(values))]
            self.finals = dict(zip(carried, parts, strict=False))
            self.stacked = dict(zip(collected, parts[len(carried) :], strict=True))
            self.finals |= {j: self.filled(j, self.stacked[item]) for j, item in self.stores.items()}
        _rejoin(self)
        with self.traced.graph.inserting_before(self.anchor):
            self.rewire()
        self.traced.graph.erase_node(self.anchor)

    def _store_of(self, j: int) -> int | None:
        """The position of the item that a call stores, where nothing but the next step reads the tensor."""
        if _stored(self.traced, self.loop, j) is None:
            return None
        for i in range(len(self.loop.body)):
            for leaf in leaves_of([self.loop.args[i], self.loop.kwargs[i]]):
                if i != j and i not in self.loop.aliases and leaf.kind in ("now", "before") and leaf.value == j:
                    return None
        final = all(
            self.where.get(_behind_identities(self.traced, node), (0, 0)) != (k, j)
            for nodes in _readers(self.loop).values()
            for node in nodes
            for k in range(self.loop.count - 1)
        )
        return self.loop.args[j][2].value if final else None

    def all(self, j: int) -> fx.Node:
        return self.stacked[j]

    def _check(self) -> None:
        for j, node in enumerate(self.loop.body):
            if j in self.loop.aliases:
                continue
            value = self.traced.values[node]
            if not isinstance(value, (torch.Tensor, tuple, list, int, float)):
                raise UnsupportedError(
                    f"{self.traced.places[node]}: {node.name} in a loop over a size, expected tensor code"
                )

    def _forward(self, found: tuple) -> bool:
        source, axis, offset, slope, _ = found
        return (offset, slope) == (0, 1) and self.traced.values[source].shape[axis] == self.loop.count

    def _collected(self) -> list[int]:
        """Positions whose results of more than the last step are read behind the loop."""
        found = []
        for nodes in _readers(self.loop).values():
            for node in nodes:
                behind = _behind_identities(self.traced, node)
                k, j = self.where[behind] if behind in self.where else self.where[node]
                if j in self.stores:
                    continue
                final_only = k == self.loop.count - 1 and len(nodes) < self.loop.count
                if not final_only or not self._is_carried(j):
                    found.append(j)
        return found

    def _is_carried(self, j: int) -> bool:
        everything = [*self.loop.args, *self.loop.kwargs]
        return any(leaf.kind == "before" and leaf.value == j for leaf in leaves_of(everything))

    def final(self, j: int) -> fx.Node:
        if j not in self.finals:
            with self.traced.graph.inserting_before(self.anchor):
                self.finals[j] = self.make("call_method", "select", self.stacked[j], 1, -1)
        return self.finals[j]
