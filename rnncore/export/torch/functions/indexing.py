"""Indexing of torch's tensors: reading, gathering, scattering and storing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rnncore.export.torch.functions.common import expanded, hides, move_axes, sliced
from rnncore.export.torch.functions.registry import called, entry, refuse
from rnncore.export.torch.functions.shapes import t, transpose
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import HIDING, Packed, Size, TracedTensor


@entry("narrow")
def narrow(g, input, dim, start, length):
    x = g.tensor(input)
    index: list[Any] = [slice(None)] * x.ndim
    index[x.axis(dim)] = slice(start, g.compute("add", start, length))
    return getitem(g, x, tuple(index))


@entry("select")
def select(g, input, dim, index):
    x = g.tensor(input)
    return getitem(g, x, (*[slice(None)] * x.axis(dim), index))


@entry("getattr")
def getattribute(g, input, name):
    if name in ("T", "mT", "values", "indices", "real", "lengths", "weight", "bias") and not isinstance(input, Packed):
        if name in ("values", "indices"):
            return getattr(input, name)
        if name == "real":
            return input
        if name in ("T", "mT") and isinstance(input, TracedTensor):
            return t(g, input) if name == "T" else transpose(g, input, -2, -1)
    kind = "PackedSequence" if isinstance(input, Packed) else "tensor"
    raise refuse(g, f"the attribute {name!r} of a {kind}", "tensor code")


@entry("getitem")
def getitem(g, input, index):
    """x[index]: numbers, slices, None, ..., and tensors of indices."""
    if isinstance(input, dict) or (isinstance(input, (tuple, list)) and not isinstance(index, Size)):
        return input[index]
    x = g.tensor(input)
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    if isinstance(index, list):
        parts = [TracedTensor(None, torch.tensor(index), torch.tensor(index), constant=True)]
    parts = [_tensor_index(g, part) for part in parts]
    used = sum(1 for part in parts if part is not None and part is not ...)
    place = next((i for i, part in enumerate(parts) if part is ...), None)
    if place is not None:
        parts[place : place + 1] = [slice(None)] * (x.ndim - used)
    else:
        parts += [slice(None)] * (x.ndim - used)
    shortcut = _known_step(g, x, parts)
    if shortcut is not None:
        return shortcut
    found = _indexed(g, x, parts)
    if hides(g, x):
        found.origin = HIDING
    return found


def _tensor_index(g: TraceLowering, part: Any) -> Any:
    if isinstance(part, list):
        part = TracedTensor(None, torch.tensor(part), torch.tensor(part), constant=True)
    if isinstance(part, TracedTensor) and part.dtype in (torch.bool, torch.uint8):
        raise refuse(g, "a mask as index, whose result has no fixed size", "torch.where or masked_fill")
    return part


def _known_step(g: TraceLowering, x: TracedTensor, parts: Sequence[Any]) -> TracedTensor | None:
    """h_n[-1] and out[:, -1] of a recurrent module, which its node gives as values of their own."""
    rest = [part for part in parts if part != slice(None)]
    if (
        x.origin is None
        or x.origin[0] not in ("h", "sequence")
        or len(rest) != 1
        or isinstance(rest[0], (slice, TracedTensor, Size))
        or rest[0] is None
    ):
        return None
    kind, node = x.origin
    axis, index = parts.index(rest[0]), rest[0]
    if kind == "h" and axis == 0:
        rows = node.layers * len(node.directions)
        row = index % rows
        if len(node.directions) == 1 and row == rows - 1:
            return g.named(f"{node.name}.last", g.a, g.b)
        name = g.emit("Gather", [x], {"axis": 0, "indices": row})
        return g.named(name, g.a, g.b, ("row", node, row))
    time = 1 if node.layout == "batch_first" else 0
    if kind == "sequence" and axis == time and index == -1 and node.direction == "forward":
        return g.named(f"{node.name}.last", g.a, g.b)
    return None


def _indexed(g: TraceLowering, x: TracedTensor, parts: list[Any]) -> TracedTensor:
    name = g.name_of(x)
    slices, axis = [], 0
    for part in parts:
        if isinstance(part, slice) and part != slice(None):
            slices.append((axis, part))
        axis += part is not None
    if slices:
        name = sliced(g, name, slices)
    tensors: list[tuple[int, TracedTensor]] = []
    axis = 0
    new: list[int] = []
    for part in parts:
        if part is None:
            new.append(axis + len(new))
        elif isinstance(part, TracedTensor) and part.ndim > 0:
            tensors.append((axis, part))
            axis += 1
        elif isinstance(part, slice):
            axis += 1
        else:
            name = _taken(g, name, axis, part)
    if tensors and new:
        raise refuse(g, "None next to tensors as indices", "unsqueeze")
    if tensors:
        name = _gathered(g, name, axis, tensors)
    if new:
        # a dimension of size 1 in the place of None, counted in the result
        places, at = [], 0
        for part in parts:
            if part is None or isinstance(part, slice):
                places += [at] if part is None else []
                at += 1
        name = g.emit("Unsqueeze", [name], {"axes": tuple(places)})
    return g.out(name)


def _taken(g: TraceLowering, name: str, axis: int, index: Any) -> str:
    """One slice along an axis, without it."""
    if isinstance(index, int) and not isinstance(index, bool):
        return g.emit("Gather", [name], {"axis": axis, "indices": index})
    where = g.cast(index, torch.int64)
    return g.emit("Gather", [name, where], {"axis": axis})


def _gathered(g: TraceLowering, name: str, rank: int, tensors: Sequence[tuple[int, TracedTensor]]) -> str:
    """x[..., i, j, ...] for tensors of indices, whose dimensions take the first one's place, or in front."""
    axes = [axis for axis, _ in tensors]
    if len(tensors) == 1:
        return g.emit("Gather", [name, g.cast(tensors[0][1], torch.int64)], {"axis": axes[0]})
    a = torch.broadcast_tensors(*(item.a for _, item in tensors))[0]
    b = torch.broadcast_tensors(*(item.b for _, item in tensors))[0]
    rest = [axis for axis in range(rank) if axis not in axes]
    name = move_axes(g, name, (*axes, *rest))
    columns = []
    for _, item in tensors:
        ids = TracedTensor(g.cast(item, torch.int64), item.a, item.b)
        if item.a.shape != a.shape or item.b.shape != b.shape:
            widest = next(other for _, other in tensors if other.a.shape == a.shape and other.b.shape == b.shape)
            ids = TracedTensor(expanded(g, ids, g.shape(widest)), a, b)
        columns.append(g.emit("Unsqueeze", [ids], {"axes": (a.ndim,)}))
    name = g.emit("GatherND", [name, g.emit("Concat", columns, {"axis": a.ndim})])
    if axes == list(range(axes[0], axes[0] + len(axes))) and axes[0] > 0:
        front = axes[0]
        name = move_axes(
            g, name, (*range(a.ndim, a.ndim + front), *range(a.ndim), *range(a.ndim + front, a.ndim + len(rest)))
        )
    return name


@entry("index_select")
def index_select(g, input, dim, index):
    x = g.tensor(input)
    return g.out(g.emit("Gather", [x, g.cast(g.tensor(index), torch.int64)], {"axis": x.axis(dim)}))


@entry("take_along_dim")
def take_along_dim(g, input, indices, dim=None):
    if dim is None:
        raise refuse(g, "no dim", "a dim")
    return gather(g, input, dim, indices)


@entry("gather")
def gather(g, input, dim, index, *, sparse_grad=False):
    x, ids = g.tensor(input), g.tensor(index)
    return g.out(g.emit("GatherElements", [_cut_to(g, x, ids, x.axis(dim)), ids], {"axis": x.axis(dim)}))


def _cut_to(g: TraceLowering, x: TracedTensor, ids: TracedTensor, axis: int) -> TracedTensor:
    """torch lets the indices be shorter than x in the other dimensions, ONNX does not."""
    shorter = [
        i for i in range(x.ndim) if i != axis and (x.a.shape[i], x.b.shape[i]) != (ids.a.shape[i], ids.b.shape[i])
    ]
    if not shorter:
        return x
    slices = [(i, slice(0, g.dim(ids, i))) for i in shorter]
    index = tuple(slice(0, ids.a.shape[i]) if i in shorter else slice(None) for i in range(x.ndim))
    other = tuple(slice(0, ids.b.shape[i]) if i in shorter else slice(None) for i in range(x.ndim))
    return g.named(sliced(g, g.name_of(x), slices), x.a[index], x.b[other])


@entry("scatter", "scatter_add")
def scatter(g, input, dim, index, src=None, *, value=None, reduce=None):
    x, ids = g.tensor(input), g.tensor(index)
    if reduce not in (None, "add", "sum"):
        raise refuse(g, f"reduce={reduce!r}", "none or 'add'")
    src = value if src is None else src
    if isinstance(src, TracedTensor) and src.ndim:
        updates = g.cast(_cut_to(g, src, ids, -1), x.dtype)
    else:
        updates = g.emit("Expand", [g.cast(src, x.dtype), g.emit("Shape", [ids])])
    added = reduce is not None or called(g) == "scatter_add"
    attributes = {"axis": x.axis(dim), "reduction": "add" if added else "none"}
    return g.out(g.emit("ScatterElements", [x, ids, updates], attributes))


@entry("setitem")
def setitem(g, input, index, item):
    """x with item at x[:, i], x[i] or x[:, i:j]: slices before, the item, slices after."""
    x = g.tensor(input)
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, TracedTensor) and part.dtype == torch.bool for part in parts):
        if len(parts) == 1 and not isinstance(item, TracedTensor):
            mask = parts[0]
            name = g.name_of(mask)
            if mask.ndim < x.ndim:
                name = g.emit("Unsqueeze", [name], {"axes": tuple(range(mask.ndim, x.ndim))})
            return g.out(g.emit("Where", [name, g.cast(item, x.dtype), g.name_of(x)]))
        raise refuse(g, "a mask as index of what is set", "torch.where")
    places = [i for i, part in enumerate(parts) if part is not ... and part != slice(None)]
    if ... in parts or len(places) != 1 or isinstance(parts[places[0]], (TracedTensor, Size)):
        raise refuse(g, "an item set at several dimensions or computed places", "one number or slice")
    axis, part = places[0], parts[places[0]]
    start, stop = (part.start or 0, part.stop) if isinstance(part, slice) else (part, part + 1 or None)
    if isinstance(part, slice) and part.step not in (None, 1):
        raise refuse(g, f"a step of {part.step}", "1")
    ours, theirs = ([_in_trace(one, trace) for one in parts] for trace in "ab")
    rank = x.a[tuple(ours)].ndim
    if x.b[tuple(theirs)].ndim != rank:
        raise refuse(g, "an item set to a place of other dimensions for inputs of another size", "the same dimensions")
    inside = sliced(g, g.name_of(x), [(axis, slice(start, stop))])
    value = g.cast(item, x.dtype)
    if isinstance(item, TracedTensor) and item.ndim == rank and not isinstance(part, slice):
        value = g.emit("Unsqueeze", [value], {"axes": (axis,)})
    like = g.emit("Shape", [inside])
    pieces = [g.emit("Expand", [value, like])]
    if isinstance(start, Size) or start != 0:
        pieces.insert(0, sliced(g, g.name_of(x), [(axis, slice(0, start))]))
    if stop is not None:
        pieces.append(sliced(g, g.name_of(x), [(axis, slice(stop, None))]))
    return g.out(pieces[0] if len(pieces) == 1 else g.emit("Concat", pieces, {"axis": axis}))


def _in_trace(part: Any, trace: str) -> Any:
    """A part of an index as it is in one of the traces."""
    if isinstance(part, slice):
        return slice(*(_in_trace(one, trace) for one in (part.start, part.stop, part.step)))
    return getattr(part, trace) if isinstance(part, (Size, TracedTensor)) else part
