"""Joining tensors of torch, and splitting them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from rnncore.export.torch.functions.registry import called, entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor


@entry("cat", "concat", "concatenate")
def cat(g, tensors, dim=0):
    items = [g.tensor(item) for item in tensors]
    items = [item for item in items if not (item.ndim == 1 and item.a.numel() == 0 and g.a.ndim > 1)]
    axis = items[0].axis(dim)
    if axis == items[0].ndim - 1:
        last = _both_directions(items)
        if last is not None:
            return g.named(last, g.a, g.b)
    names = [g.cast(item, g.a.dtype) for item in items]
    return g.out(names[0] if len(names) == 1 else g.emit("Concat", names, {"axis": axis}))


def _both_directions(items: Sequence[TracedTensor]) -> str | None:
    """The value NAME.last that torch.cat([h_n[-2], h_n[-1]], 1) is."""
    origins = [item.origin for item in items]
    if len(items) != 2 or any(origin is None or origin[0] != "row" for origin in origins):
        return None
    (_, node, first), (_, other, second) = cast("list[tuple[Any, ...]]", origins)
    rows = node.layers * 2
    if node is other and node.direction == "bidirectional" and (first, second) == (rows - 2, rows - 1):
        return f"{node.name}.last"
    return None


@entry("stack")
def stack(g, tensors, dim=0):
    axis = dim % g.a.ndim
    names = [g.emit("Unsqueeze", [g.cast(g.tensor(item), g.a.dtype)], {"axes": (axis,)}) for item in tensors]
    return g.out(names[0] if len(names) == 1 else g.emit("Concat", names, {"axis": axis}))


@entry("hstack", "vstack", "dstack", "column_stack", "row_stack")
def stacked(g, tensors):
    """Joined along the axis that the name says, with axes of size 1 where one is missing."""
    name = called(g)
    least = {"hstack": 1, "dstack": 3}.get(name, 2)
    names = []
    for item in map(g.tensor, tensors):
        missing = least - item.ndim
        known: dict[str, tuple[int, ...]] = {
            "dstack": (0, 2) if item.ndim == 1 else (2,),
            "column_stack": (1,) if item.ndim == 1 else (0, 1),
        }
        axes = known.get(name, tuple(range(max(missing, 0))))
        part = g.cast(item, g.a.dtype)
        names.append(g.emit("Unsqueeze", [part], {"axes": axes}) if missing > 0 else part)
    axis = {"hstack": 0 if tensors[0].ndim < 2 else 1, "dstack": 2, "column_stack": 1}.get(name, 0)
    return g.out(names[0] if len(names) == 1 else g.emit("Concat", names, {"axis": axis}))


def _parts(g: TraceLowering, x: TracedTensor, axis: int) -> list[TracedTensor]:
    """Slices of x of the lengths of torch's results."""
    bounds, slices = [0], []
    for i, (a, b) in enumerate(zip(g.a, g.b, strict=True)):
        if a.shape[axis] != b.shape[axis]:
            raise refuse(g, "parts whose size depends on that of the input", "parts of a fixed size")
        bounds.append(bounds[-1] + a.shape[axis])
        name = g.emit("Slice", [x], {"starts": (bounds[i],), "ends": (bounds[i + 1],), "axes": (axis,)})
        slices.append(g.out(name, i))
    return slices


@entry("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")
def split(g, tensor, split_size_or_sections=None, dim=0, *, chunks=None, split_size=None):
    """Into the parts that torch made; a number of parts that depends on sizes is refused before."""
    if len(g.a) != len(g.b):
        raise refuse(g, f"{len(g.a)} parts for one size of the input, {len(g.b)} for another", "a fixed number")
    x = g.tensor(tensor)
    axis = x.axis(dim)
    if any(a.shape[axis] != b.shape[axis] for a, b in zip(g.a, g.b, strict=True)) and "chunk" in called(g):
        return _equal_parts(g, x, axis)
    return _parts(g, x, axis)


def _equal_parts(g: TraceLowering, x: TracedTensor, axis: int) -> list[TracedTensor]:
    """chunk of a dimension of unknown size, as torch has it: ceil(size / parts) each."""
    count = len(g.a)
    each = g.compute("floordiv", g.compute("add", g.dim(x, axis), count - 1), count)
    slices = []
    for i in range(count):
        inputs = [x]
        attributes = g.parameter(inputs, "starts", [g.compute("mul", each, i)], 1)
        attributes |= g.parameter(inputs, "ends", [g.compute("mul", each, i + 1)], 2)
        slices.append(g.out(g.emit("Slice", inputs, {**attributes, "axes": (axis,)}), i))
    return slices


@entry("unbind")
def unbind(g, input, dim=0):
    if len(g.a) != len(g.b):
        raise refuse(g, "a number of tensors that a size says", "a fixed number")
    x = g.tensor(input)
    axis = x.axis(dim)
    return [g.out(g.emit("Gather", [x], {"axis": axis, "indices": i}), i) for i in range(len(g.a))]
