"""Keras's layers that only move what is there."""

from __future__ import annotations

import math

from rnncore.errors import UnsupportedError
from rnncore.files.cursor import shown
from rnncore.formats.keras.convolution import channels_axis
from rnncore.formats.keras.use import Use, layer, numbers_of, option, sizes

__all__: list[str] = []

FARTHEST = (1 << 63) - 1


@layer("Flatten", options="data_format", mask="drop")
def flatten(use: Use) -> str:
    graph, x = use.graph, use.x
    rank = graph.rank(x)
    if use.config.get("data_format") == "channels_first" and rank > 2:
        x = graph.transpose(f"{use.name}.channels_last", x, (0, *range(2, rank), 1))
    if rank == 1:
        return graph.unsqueeze(use.name, x, 1)
    size = math.prod(graph.size(x, axis, use.where) for axis in range(1, rank))
    return graph.reshape(use.name, x, (-1, size))


@layer("Reshape", options="target_shape", mask="drop")
def reshape(use: Use) -> str:
    target = option(use, use.config, "target_shape")
    plain = isinstance(target, (list, tuple)) and all(type(size) is int and (size == -1 or size > 0) for size in target)
    if not plain or list(target).count(-1) > 1:
        raise UnsupportedError(f"{use.where}: target_shape={shown(str(target), 80)}, expected sizes and at most one -1")
    if -1 not in target:
        for axis in range(1, use.graph.rank(use.x)):
            use.graph.size(use.x, axis, use.where)
    return use.graph.reshape(use.name, use.x, (0, *target))


@layer("Permute", options="dims", mask="drop")
def permute(use: Use) -> str:
    dims = option(use, use.config, "dims")
    expected = list(range(1, use.graph.rank(use.x)))
    if not isinstance(dims, (list, tuple)) or sorted(map(str, dims)) != sorted(map(str, expected)):
        raise UnsupportedError(f"{use.where}: dims={shown(str(dims), 80)}, expected an order of {expected}")
    return use.graph.transpose(use.name, use.x, (0, *dims))


@layer("RepeatVector", options="n", mask="drop")
def repeat_vector(use: Use) -> str:
    if use.graph.rank(use.x) != 2:
        raise UnsupportedError(f"{use.where}: input {use.graph.values[use.x]}, expected two dimensions")
    (count,) = sizes(use, "n", 1)
    one = use.graph.unsqueeze(f"{use.name}.step", use.x, 1)
    return use.graph.emit("Expand", one, use.name, shape=(1, count, 1))


@layer("Cropping1D", "Cropping2D", "Cropping3D", options="cropping data_format", mask="drop")
def cropping(use: Use) -> str:
    graph, x = use.graph, use.x
    axes, starts, afters = zip(*_edges(use, x, "cropping"), strict=True)
    for axis, before, after in zip(axes, starts, afters, strict=True):
        size = graph.shape(x)[axis]
        if isinstance(size, int) and before + after >= size:
            raise UnsupportedError(f"{use.where}: cropping={(before, after)} of {size}, expected something left")
    ends = tuple(-after if after else FARTHEST for after in afters)
    return graph.emit("Slice", x, use.name, starts=starts, ends=ends, axes=axes, steps=(1,) * len(axes))


@layer("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", options="padding data_format", mask="drop")
def zero_padding(use: Use) -> str:
    x = use.floats
    pads = [0] * (2 * use.graph.rank(x))
    for axis, before, after in _edges(use, x, "padding"):
        pads[axis], pads[axis + len(pads) // 2] = before, after
    return use.graph.emit("Pad", x, use.name, pads=tuple(pads))


def _edges(use: Use, x: str, key: str) -> list[tuple[int, int, int]]:
    """(axis, before, after) for each axis that a padding or cropping changes.

    One number is for all; for each of several axes there is a number, or a pair; one axis has a pair.
    """
    dims = int(use.layer.class_name[-2])
    first = channels_axis(use, x, dims) == 1
    amounts = use.config.get(key, 0 if use.layer.class_name == "Cropping2D" else 1)
    if type(amounts) is int:
        amounts = [amounts] * 2 if dims == 1 else [amounts] * dims
    pairs = [amounts] if dims == 1 else amounts
    if not isinstance(pairs, (list, tuple)) or len(pairs) != dims:
        raise UnsupportedError(f"{use.where}: {key}={shown(str(amounts), 60)}, expected {dims} sizes or pairs of them")
    edges = []
    for axis, pair in enumerate(pairs, start=1 + first):
        before, after = numbers_of(use, key, pair, 2, 0)
        edges.append((axis, before, after))
    return edges


@layer("UpSampling1D", options="size", mask="drop")
def up_sampling(use: Use) -> str:
    graph, x = use.graph, use.x
    (size,) = sizes(use, "size", 1, 2)
    channels = graph.size(x, 2, use.where)
    repeated = graph.emit(
        "Expand", graph.unsqueeze(f"{use.name}.step", x, 2), f"{use.name}.repeated", shape=(1, 1, size, 1)
    )
    return graph.reshape(use.name, repeated, (0, -1, channels))
