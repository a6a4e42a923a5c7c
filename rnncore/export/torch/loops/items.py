"""Items of outer sequences that a loop reads step by step, and tensors that it stores items to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from rnncore.errors import UnsupportedError
from rnncore.export.torch.loops.leaves import ArgumentReader, Leaf, Loop, is_whole, leaves_of, replaced
from rnncore.export.torch.records import Traced

__all__ = ["follow_stored", "outer_sequence", "pull_in", "stored_step"]

SPLITTING = ("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_split", "unsafe_chunk")


def pull_in(traced: Traced, loop: Loop) -> None:
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


def _columns(arguments: Sequence[Any]) -> Iterator[list[fx.Node]]:
    """The nodes at one place of the arguments of all steps, where that is a node in each."""
    if all(isinstance(item, fx.Node) for item in arguments):
        yield list(arguments)
    elif all(isinstance(item, (tuple, list)) for item in arguments) and len({len(item) for item in arguments}) == 1:
        for items in zip(*arguments, strict=True):
            yield from _columns(items)
    elif all(isinstance(item, dict) for item in arguments):
        for key in arguments[0]:
            yield from _columns([item.get(key) for item in arguments])


def _are_items(traced: Traced, column: Sequence[fx.Node]) -> bool:
    """Whether nodes are x[0], x[1], ... of one value, in this order or another with equal distances."""
    names = {getattr(node.target, "__name__", node.target) for node in column}
    if len(set(column)) < len(column) or len(names) > 1 or not names <= {"getitem", "select"}:
        return False
    reader = ArgumentReader(traced, {}, column[0])
    try:
        args = reader.read([node.args for node in column])
    except UnsupportedError:
        return False
    item = Loop([[node] for node in column], [args], [{}])
    return not column[0].kwargs and outer_sequence(traced, item, 0) is not None


def stored_step(traced: Traced, loop: Loop, j: int) -> tuple[int, int, int] | None:
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
    moving = _moving_part(index)
    if moving is None or start.dtype != value.dtype:
        return None
    axis, offset, slope, turned = moving
    if value.shape != (*start.shape[:axis], *start.shape[axis + 1 :]) or turned:
        return None
    return axis, offset + start.shape[axis] if offset < 0 else offset, slope


def _moving_part(index: Any) -> tuple[int, int, int, bool] | None:
    """(axis, offset, slope, keep the axis) of an index that is whole but for one axis, where it goes by steps."""
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    if any(isinstance(part, Leaf) and part.value is ... for part in parts):
        return None
    moving = [axis for axis, part in enumerate(parts) if any(leaf.kind == "index" for leaf in leaves_of(part))]
    if len(moving) != 1 or not all(is_whole(part) for axis, part in enumerate(parts) if axis != moving[0]):
        return None
    part = parts[moving[0]]
    if isinstance(part, Leaf):
        return moving[0], part.value, part.slope, False
    start, stop = part.start, part.stop
    one = isinstance(start, Leaf) and isinstance(stop, Leaf) and stop.kind == start.kind == "index"
    if not one or stop.slope != start.slope or stop.value - start.value != 1 or part.step.value is not None:
        return None
    return moving[0], start.value, start.slope, True


def follow_stored(traced: Traced, loop: Loop) -> None:
    """x[:, t - 1] of a tensor whose x[:, t] each step sets is what the step before has set."""
    for j, node in enumerate(loop.body):
        if getattr(node.target, "__name__", "") != "getitem" or not isinstance(loop.args[j][0], Leaf):
            continue
        source, index = loop.args[j]
        if source.kind not in ("before", "now"):
            continue
        stored, read = stored_step(traced, loop, source.value), _moving_part(index)
        if stored is None or read is None or read[3] or (read[0], read[2]) != (stored[0], stored[2]):
            continue
        store, size = loop.args[source.value], traced.values[loop.steps[0][j].args[0]].shape[read[0]]
        offset = read[1] + size if read[1] < 0 else read[1]
        item = store[2].value
        distance = Fraction(offset - stored[1], stored[2])  # steps until what is read here is stored
        if source.kind == "now" and distance == 0:
            loop.aliases[j] = Leaf("now", item)
        elif distance == -1:
            loop.aliases[j] = Leaf("before", item, _copied_out(traced, loop.steps[0][j], store[0].start))
        elif distance >= 0 or distance.denominator > 1:
            loop.args[j] = (Leaf("same", store[0].start), index)
    if loop.aliases:
        loop.args = [replaced(argument, loop.aliases) for argument in loop.args]
        loop.kwargs = [replaced(argument, loop.aliases) for argument in loop.kwargs]


def _copied_out(traced: Traced, node: fx.Node, source: fx.Node) -> fx.Node:
    """The call of a first step made once more, of the value before the loop."""
    with traced.graph.inserting_after(source):
        copy = traced.graph.create_node(node.op, node.target, (source, *node.args[1:]), {})
    traced.places[copy], traced.stacks[copy] = traced.places[node], ()
    traced.values[copy] = traced.tracer._evaluate(copy)
    return copy


def outer_sequence(traced: Traced, loop: Loop, j: int) -> tuple[fx.Node, int, int, int, bool] | None:
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
    moving = _moving_part(index[0])
    return None if moving is None else (source.value, *moving)


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
