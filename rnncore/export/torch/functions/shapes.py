"""Shapes of torch's tensors: sizes, views, permutations, repetition and padding."""

from __future__ import annotations

import math
from typing import Any

import torch

from rnncore.export.torch.functions.common import dims_of, expanded, filled_with, listed, move_axes
from rnncore.export.torch.functions.registry import called, entry, refuse
from rnncore.export.torch.records import without_folders
from rnncore.export.torch.values import HIDING, Size, TracedTensor

__all__ = ["pad", "t", "transpose", "unflatten"]


@entry("size")
def size(g, input, dim=None):
    return g.dim(g.tensor(input), dim)


@entry("numel", "nelement")
def numel(g, input):
    count: Any = 1
    for one in g.shape(g.tensor(input)):
        count = g.compute("mul", count, one)
    return count


@entry("view", "reshape", "view_as", "reshape_as", "_unsafe_view")
def view(g, input, *shape, **kwargs):
    x = g.tensor(input)
    given = [*shape, *kwargs.values()]
    if isinstance(given[0], TracedTensor):
        given = list(g.shape(given[0]))
    if isinstance(given[0], torch.dtype):
        raise refuse(g, "view(dtype)", "sizes")
    return g.out(g.reshaped(x, listed(given), of=x))


@entry("ravel")
def ravel(g, input):
    return g.out(g.reshaped(g.tensor(input), (-1,)))


@entry("flatten")
def flatten(g, input, start_dim=0, end_dim=-1):
    x = g.tensor(input)
    first, last = x.axis(start_dim), x.axis(end_dim)
    sizes = list(g.shape(x))
    return g.out(g.reshaped(x, [*sizes[:first], -1, *sizes[last + 1 :]], of=x))


@entry("unflatten")
def unflatten(g, input, dim, sizes):
    x = g.tensor(input)
    axis, shape = x.axis(dim), list(g.shape(x))
    return g.out(g.reshaped(x, [*shape[:axis], *sizes, *shape[axis + 1 :]], of=x))


@entry("permute")
def permute(g, input, *dims, **kwargs):
    x = g.tensor(input)
    perm = tuple(x.axis(dim) for dim in listed([*dims, *kwargs.values()]))
    return g.out(move_axes(g, x, perm))


@entry("transpose", "swapaxes", "swapdims")
def transpose(g, input, dim0, dim1):
    x = g.tensor(input)
    perm = list(range(x.ndim))
    one, two = x.axis(dim0), x.axis(dim1)
    perm[one], perm[two] = perm[two], perm[one]
    return g.out(move_axes(g, x, perm))


@entry("t")
def t(g, input):
    x = g.tensor(input)
    return g.out(move_axes(g, x, tuple(range(x.ndim))[::-1]))


@entry("movedim", "moveaxis")
def movedim(g, input, source, destination):
    x = g.tensor(input)
    order = torch.empty((1,) * 0).new_zeros(tuple(range(1, x.ndim + 1)), device="meta").movedim(source, destination)
    return g.out(move_axes(g, x, [size - 1 for size in order.shape]))


@entry("squeeze")
def squeeze(g, input, dim=None):
    x = g.tensor(input)
    wanted = dims_of(g, dim, x)
    if dim is None and any(isinstance(one, Size) for one in g.shape(x)):
        shape = tuple(x.a.shape)
        g.notes.append(
            f"{without_folders(g.place)}: squeeze() without a dimension is taken as for the example, of shape {shape}"
        )
    axes = tuple(axis for axis in wanted if x.a.shape[axis] == 1 == x.b.shape[axis])
    return g.out(g.emit("Squeeze", [x], {"axes": axes})) if axes else x


@entry("unsqueeze")
def unsqueeze(g, input, dim):
    x = g.tensor(input)
    return g.out(g.emit("Unsqueeze", [x], {"axes": (x.axis(dim, 1),)}))


@entry("expand", "broadcast_to")
def expand(g, input, *sizes, **kwargs):
    return g.out(expanded(g, g.tensor(input), listed([*sizes, *kwargs.values()])))


@entry("meshgrid")
def meshgrid(g, *tensors, indexing="ij"):
    """Each vector along an axis of its own, spread over those of the others."""
    items = [g.tensor(item) for item in (tensors[0] if isinstance(tensors[0], (tuple, list)) else tensors)]
    if indexing != "ij":
        raise refuse(g, f"indexing={indexing!r}", "'ij'")
    grids = []
    for i, item in enumerate(items):
        wide = g.emit("Unsqueeze", [item], {"axes": tuple(j for j in range(len(items)) if j != i)})
        inputs = [wide]
        sizes = [1 if j == i else g.dim(other, 0) for j, other in enumerate(items)]
        grids.append(g.out(g.emit("Expand", inputs, g.parameter(inputs, "shape", sizes, 1)), i))
    return grids


@entry("expand_as")
def expand_as(g, input, other):
    return g.out(expanded(g, g.tensor(input), g.shape(g.tensor(other))))


@entry("repeat", "tile")
def repeat(g, input, *sizes, **kwargs):
    x = g.tensor(input)
    times = listed([*sizes, *kwargs.values()])
    times = [1] * (x.ndim - len(times)) + times
    name = g.name_of(x)
    if len(times) > x.ndim:
        name = g.emit("Unsqueeze", [name], {"axes": tuple(range(len(times) - x.ndim))})
    inputs = [name]
    return g.out(g.emit("Tile", inputs, g.parameter(inputs, "repeats", times, 1)))


@entry("repeat_interleave")
def repeat_interleave(g, input, repeats, dim=None, *, output_size=None):
    """Each slice a number of times in a row: a new axis, repeated, and flattened away."""
    x = g.tensor(input)
    if isinstance(repeats, TracedTensor) or dim is None:
        raise refuse(g, "repeats that are computed, or no dim", "a number and a dim")
    axis, shape = x.axis(dim), list(g.shape(x))
    wide = g.emit("Unsqueeze", [x], {"axes": (axis + 1,)})
    times: list[Any] = [1] * (x.ndim + 1)
    times[axis + 1] = repeats
    inputs = [wide]
    wide = g.emit("Tile", inputs, g.parameter(inputs, "repeats", times, 1))
    return g.out(g.reshaped(wide, [*shape[:axis], -1, *shape[axis + 1 :]]))


@entry("flip", "flipud", "fliplr")
def flip(g, input, *dims, **kwargs):
    x = g.tensor(input)
    axes = tuple(x.axis(dim) for dim in listed([*dims, *kwargs.values()]))
    count = len(axes)
    slices = {"starts": (-1,) * count, "ends": (-(1 << 62),) * count, "axes": axes, "steps": (-1,) * count}
    return g.out(g.emit("Slice", [x], slices))


@entry("roll")
def roll(g, input, shifts, dims=None):
    x = g.tensor(input)
    if isinstance(shifts, (tuple, list)) and len(shifts) == 1:
        (shifts,) = shifts
    if dims is None or isinstance(shifts, (tuple, list, Size)) or shifts == 0:
        raise refuse(g, "several shifts, or none", "one number and one dim")
    axis = x.axis(dims if not isinstance(dims, (tuple, list)) else dims[0])
    parts = [
        g.emit("Slice", [x], {"starts": (-shifts,), "ends": (1 << 62,), "axes": (axis,)}),
        g.emit("Slice", [x], {"starts": (0,), "ends": (-shifts,), "axes": (axis,)}),
    ]
    return g.out(g.emit("Concat", parts, {"axis": axis}))


@entry("pad", "constant_pad_nd")
def pad(g, input, pad, mode="constant", value=None):
    """torch lists pads from the last dimension, in pairs."""
    x = g.tensor(input)
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    before: list[Any] = [0] * x.ndim
    after: list[Any] = [0] * x.ndim
    for i in range(len(pad) // 2):
        before[-1 - i], after[-1 - i] = pad[2 * i], pad[2 * i + 1]
    inputs: list[Any] = [x]
    attributes = {"mode": modes[mode], **g.parameter(inputs, "pads", before + after, 1)}
    if value:
        while len(inputs) < 2:
            inputs.append("")
        inputs.append(g.cast(value, x.dtype))
    return g.out(g.emit("Pad", inputs, attributes))


@entry("tril", "triu")
def triangle(g, input, diagonal=0):
    x = g.tensor(input)
    upper = called(g) == "triu"
    inputs: list[Any] = [x] if diagonal == 0 else [x, g.scalar(diagonal)]
    kept = g.out(g.emit("Trilu", inputs, {"upper": upper}))
    kept.origin = HIDING if filled_with(x) == -math.inf else None
    return kept
