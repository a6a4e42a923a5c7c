"""New nodes in the place of a loop, and the new arguments of the nodes that read its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from rnncore.errors import UnsupportedError
from rnncore.export.torch.layers.registry import CELLS, STACKS, kind_of
from rnncore.export.torch.loops.items import stored_step
from rnncore.export.torch.loops.leaves import Loop, behind_identities, leaves_of, readers_of
from rnncore.export.torch.records import Traced

__all__ = ["POINTWISE", "Replacing", "getitem", "loop_anchor", "rejoin"]

POINTWISE = frozenset((
    "relu", "tanh", "sigmoid", "exp", "log", "sqrt", "abs", "neg", "add", "sub", "mul", "truediv", "div", "pow", "eq",
    "gt", "ge", "lt", "le", "ne", "where", "masked_fill", "gelu", "silu", "leaky_relu", "elu", "softplus", "clamp",
    "float", "to", "type_as",
))  # fmt: skip


class Replacing:
    """Base of both ways of rolling a loop up: new nodes after it, and its readers' new arguments."""

    anchor: Any  # the node that marks the place after the loop, while it is rolled up

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
        for user in readers_of(self.loop):
            user.args = self._changed(user, user.args)
            user.kwargs = self._changed(user, user.kwargs)
        for step in reversed(self.loop.steps):
            for node in reversed(step):
                self.traced.graph.erase_node(node)

    def _changed(self, user: fx.Node, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self._single(user, argument)
        if isinstance(argument, (tuple, list)):
            changed = [
                item if isinstance(item, StepResults) else self._changed(user, item) for item in self._grouped(argument)
            ]
            return changed if isinstance(argument, list) else tuple(changed)
        if isinstance(argument, dict):
            return {key: self._changed(user, item) for key, item in argument.items()}
        if isinstance(argument, slice):
            return slice(*(self._changed(user, part) for part in (argument.start, argument.stop, argument.step)))
        return argument

    def _grouped(self, items: Sequence[Any]) -> list[Any]:
        """The items of a list, results of one position in steps that follow on each other as one."""
        places: list[Any] = [
            self.where.get(behind_identities(self.traced, item)) if isinstance(item, fx.Node) else None
            for item in items
        ]
        grouped: list[Any] = []
        i = 0
        while i < len(items):
            end = i + 1
            step = places[end][0] - places[i][0] if places[i] and end < len(items) and places[end] else 0
            while abs(step) == 1 and end < len(items) and places[end] == (places[end - 1][0] + step, places[i][1]):
                end += 1
            if end - i > 1:
                low, high = sorted((places[i][0], places[end - 1][0]))
                grouped.append(StepResults(places[i][1], low, high + 1, step < 0))
            else:
                grouped.append(items[i])
            i = end
        return grouped

    def _single(self, user: fx.Node, node: fx.Node) -> Any:
        source = behind_identities(self.traced, node)
        if source not in self.where:
            return node
        k, j = self.where[source]
        last = k == self.loop.count - 1 and not (user in self.later and j in self.by_steps)
        return self.final(j) if last else self.step(j, k)

    def _read_by_steps(self) -> set[int]:
        """Positions of which later loops read every step, and not only the last."""
        read = [
            self.where.get(behind_identities(self.traced, node), self.where[node])
            for user, nodes in readers_of(self.loop).items()
            if user in self.later
            for node in nodes
        ]
        return {j for k, j in read if k != self.loop.count - 1}

    def step(self, j: int, k: int) -> fx.Node:
        """A result of one step before the last."""
        with self.traced.graph.inserting_before(self.anchor):
            return self.make("call_method", "select", self.all(j), 1, k)

    def all(self, j: int) -> fx.Node:
        """The results of all steps, stacked on axis 1."""
        raise NotImplementedError

    def start(self, j: int, start: Any) -> fx.Node:
        """The value of a position before the first step as a node; numbers and no state at all become tensors."""
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
        axis, offset, slope = cast(Any, stored_step(self.traced, self.loop, j))
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
class StepResults:
    """Stands in a list for the results of a position in steps that follow on each other."""

    position: int
    first: int
    end: int
    backwards: bool


def _joined(plan: Replacing, user: fx.Node, items: Sequence[Any]) -> fx.Node:
    """The value of stack or cat over results of steps, and others before and after them."""
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
        if isinstance(item, StepResults):
            parts.append(_joined_steps(plan, item, axis, name == "stack"))
        else:
            parts.append(plan.make("call_method", "unsqueeze", item, axis) if name == "stack" else item)
    return parts[0] if len(parts) == 1 else plan.make("call_function", torch.cat, parts, axis)


def _joined_steps(plan: Replacing, steps: StepResults, axis: int, stacked: bool) -> fx.Node:
    joined = plan.all(steps.position)
    if (steps.first, steps.end) != (0, plan.loop.count):
        end = None if steps.end == plan.loop.count else steps.end
        joined = plan.make("call_function", getitem, joined, (slice(None), slice(steps.first, end)))
    if steps.backwards:
        joined = plan.make("call_method", "flip", joined, 1)
    if axis != 1:
        joined = plan.make("call_method", "movedim", joined, 1, axis)
    return joined if stacked else plan.make("call_method", "flatten", joined, axis, axis + 1)


def rejoin(plan: Replacing) -> None:
    """The users' stack and cat of steps become the sequences that are there already."""
    for user in list(readers_of(plan.loop)):
        changed = plan._changed(user, user.args)
        several = [
            item for item in changed if isinstance(item, list) and any(isinstance(one, StepResults) for one in item)
        ]
        if user.op == "output" or not several:
            _check_output(plan, changed)
        if several:
            with plan.traced.graph.inserting_before(user):
                joined = _joined(plan, user, several[0])
            user.replace_all_uses_with(joined)
            plan.traced.graph.erase_node(user)


def _check_output(plan: Replacing, output: Any) -> None:
    if isinstance(output, StepResults):
        raise UnsupportedError(f"{plan.place}: a list with one tensor for each step is returned, expected torch.stack")
    if isinstance(output, (tuple, list)):
        for item in output:
            _check_output(plan, item)


def getitem(x: Any, index: Any) -> Any:
    return x[index]


getitem.__name__ = "getitem"


def _setitem(x: torch.Tensor, index: Any, item: Any) -> torch.Tensor:
    x = x.clone()
    x[index] = item
    return x


_setitem.__name__ = "setitem"


def loop_anchor() -> None:
    """Marks the place after a loop while it is rolled up."""
