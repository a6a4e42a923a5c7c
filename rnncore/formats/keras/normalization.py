"""Keras's layers of normalisation, and Rescaling."""

from __future__ import annotations

import math

import numpy as np

from rnncore.errors import UnsupportedError, WeightError
from rnncore.files.cursor import shown
from rnncore.formats.keras.convolution import channels_back, channels_first
from rnncore.formats.keras.use import Use, check_shape, flag, layer, number, option

__all__: list[str] = []


def _only_axis(use: Use, x: str, default: int = -1) -> int:
    """The one axis of a normalisation."""
    axis = use.config.get("axis", default)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    return use.graph.axis(x, axis, use.where)


def _along(use: Use, x: str, axis: int, array: np.ndarray, name: str) -> str:
    """A constant of one number for each index of an axis, shaped to broadcast against x."""
    size = use.graph.size(x, axis, use.where)
    check_shape(array, (size,), name, use.where)
    shape = [1] * (use.graph.rank(x) - axis)
    shape[0] = size
    return use.graph.add_constant(array.reshape(shape), "float", f"{use.name}.{name}")


@layer(
    "BatchNormalization",
    options="axis epsilon center scale momentum renorm_momentum renorm_clipping synchronized fused virtual_batch_size",
    renorm=False,
    mode=0,
    adjustment=None,
)
def batch_normalization(use: Use) -> str:
    """(x - mean) gamma / sqrt(variance + epsilon) + beta, with the moments of training: one factor and one offset."""
    graph, x = use.graph, use.floats
    axis, arrays = _only_axis(use, x), list(use.layer.own)
    scale, center = flag(use, use.config, "scale", True), flag(use, use.config, "center", True)
    size = graph.size(x, axis, use.where)
    for array in arrays:
        check_shape(array, (size,), "an array", use.where)
    mean, variance = (np.asarray(array, np.float64) for array in arrays[-2:])
    gamma = np.asarray(arrays[0], np.float64) if scale else np.ones(size)
    beta = np.asarray(arrays[int(scale)], np.float64) if center else np.zeros(size)
    factor = gamma / np.sqrt(variance + number(use, "epsilon", 1e-3))
    offset = beta - mean * factor
    dtype = arrays[-1].dtype
    scaled = graph.emit("Mul", (x, _along(use, x, axis, factor.astype(dtype), "factor")), f"{use.name}.scaled")
    return graph.emit("Add", (scaled, _along(use, x, axis, offset.astype(dtype), "offset")), use.name)


def _last_axes(use: Use, x: str) -> int:
    """The first of the axes that a normalisation takes together, which have to be the last ones."""
    axes = use.config.get("axis", -1)
    axes = sorted(use.graph.axis(x, axis, use.where) for axis in (axes if isinstance(axes, list) else [axes]))
    rank = use.graph.rank(x)
    if not axes or axes != list(range(axes[0], rank)) or axes[0] == 0:
        raise UnsupportedError(f"{use.where}: axis={axes}, expected the last axes")
    return axes[0]


@layer("LayerNormalization", options="axis epsilon center scale rms_scaling")
def layer_normalization(use: Use) -> str:
    graph, x = use.graph, use.floats
    first = _last_axes(use, x)
    shape = tuple(graph.size(x, axis, use.where) for axis in range(first, graph.rank(x)))
    arrays = [array.reshape(shape) if array.size == math.prod(shape) else array for array in use.layer.own]
    for array in arrays:
        check_shape(array, shape, "an array", use.where)
    if flag(use, use.config, "rms_scaling"):
        # Keras divides by the root of the variance here, not of the mean square.
        raise UnsupportedError(f"{use.where}: rms_scaling=True, expected an RMSNormalization")
    scale, center = flag(use, use.config, "scale", True), flag(use, use.config, "center", True)
    gamma = graph.add_constant(arrays[0] if scale else _filled(use, shape, 1), "float", f"{use.name}.gamma")
    inputs = [x, gamma]
    if center:
        inputs.append(graph.add_constant(arrays[int(scale)], "float", f"{use.name}.beta"))
    return graph.emit("LayerNormalization", inputs, use.name, axis=first, epsilon=float(number(use, "epsilon", 1e-3)))


def _filled(use: Use, shape: tuple[int, ...], value: float) -> np.ndarray:
    dtype = use.layer.own[0].dtype if use.layer.own else use.config.get("dtype")
    return np.full(shape, value, "float64" if str(dtype) == "float64" else "float32")


@layer("RMSNormalization", options="axis epsilon")
def rms_normalization(use: Use) -> str:
    graph, x = use.graph, use.floats
    first = _last_axes(use, x)
    if len(use.layer.own) != 1:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected 1 (scale)")
    scale = graph.add_constant(use.layer.own[0], "float", f"{use.name}.scale")
    epsilon = float(number(use, "epsilon", 1e-6))
    return graph.emit("RMSNormalization", (x, scale), use.name, axis=first, epsilon=epsilon)


@layer("GroupNormalization", options="groups axis epsilon center scale")
def group_normalization(use: Use) -> str:
    """Groups of channels, each normalised over all other axes but the batch."""
    graph, x = use.graph, use.floats
    axis, groups = _only_axis(use, x), option(use, use.config, "groups", 32)
    size = graph.size(x, axis, use.where)
    groups = size if groups == -1 else groups
    if type(groups) is not int or not 1 <= groups <= size or size % groups:
        raise UnsupportedError(f"{use.where}: groups={shown(str(groups), 60)}, expected a divisor of {size}")
    scale, center = flag(use, use.config, "scale", True), flag(use, use.config, "center", True)
    for array in use.layer.own:
        check_shape(array, (size,), "an array", use.where)
    gamma = use.layer.own[0] if scale else _filled(use, (size,), 1)
    beta = use.layer.own[int(scale)] if center else _filled(use, (size,), 0)
    inputs = (
        channels_first(use, x, axis),
        graph.add_constant(gamma, "float", f"{use.name}.gamma"),
        graph.add_constant(beta, "float", f"{use.name}.beta"),
    )
    epsilon = float(number(use, "epsilon", 1e-3))
    y = graph.emit("GroupNormalization", inputs, f"{use.name}.groups", num_groups=groups, epsilon=epsilon)
    return channels_back(use, y, axis)


@layer("UnitNormalization", options="axis")
def unit_normalization(use: Use) -> str:
    x = use.floats
    return use.graph.emit("LpNormalization", x, use.name, axis=_only_axis(use, x), p=2)


@layer("Normalization", options="axis mean variance invert")
def normalization(use: Use) -> str:
    """(x - mean) / max(sqrt(variance), 1e-7); with invert mean + x max(sqrt(variance), 1e-7)."""
    graph, x = use.graph, use.floats
    axes = use.config.get("axis", -1)
    axes = [] if axes is None else axes if isinstance(axes, list) else [axes]
    axes = sorted(graph.axis(x, axis, use.where) for axis in axes)
    shape = [graph.size(x, axis, use.where) if axis in axes else 1 for axis in range(graph.rank(x))]
    if use.layer.own:
        mean, variance = use.layer.own[:2]
    else:
        mean, variance = (np.asarray(option(use, use.config, key), np.float32) for key in ("mean", "variance"))
    if mean.ndim < len(axes) and mean.ndim:
        raise UnsupportedError(f"{use.where}: a mean of {mean.ndim} dimensions for {len(axes)} axes")
    if mean.size not in (1, math.prod(shape)) or mean.shape != variance.shape:
        raise WeightError(f"{use.where}: mean {mean.shape} and variance {variance.shape}, expected {tuple(shape)}")
    shape = shape if mean.size > 1 else [1] * graph.rank(x)
    centre = graph.add_constant(mean.reshape(shape), "float", f"{use.name}.mean")
    deviation = np.maximum(np.sqrt(variance), np.asarray(1e-7, variance.dtype)).reshape(shape)
    deviation = graph.add_constant(deviation, "float", f"{use.name}.deviation")
    if flag(use, use.config, "invert"):
        return graph.emit("Add", (graph.emit("Mul", (x, deviation), f"{use.name}.scaled"), centre), use.name)
    return graph.emit("Div", (graph.emit("Sub", (x, centre), f"{use.name}.centred"), deviation), use.name)


@layer("Rescaling", options="scale offset")
def rescaling(use: Use) -> str:
    scaled = use.graph.scalar(f"{use.name}.scaled", "Mul", use.floats, float(number(use, "scale")))
    return use.graph.scalar(use.name, "Add", scaled, float(number(use, "offset", 0.0)))
