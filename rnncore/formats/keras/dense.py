"""Keras's Dense, Embedding and Masking, and its layers of activations."""

from __future__ import annotations

from typing import cast

import numpy as np

from rnncore.errors import UnsupportedError, WeightError
from rnncore.formats.keras.use import Tensor, Use, apply_activation, check_shape, flag, layer, number, option

__all__ = ["kernel_of"]


@layer("Dense", "TimeDistributedDense", options="units output_dim activation use_bias bias")
def dense(use: Use) -> str:
    """Any rank: over the last axis."""
    config = use.config
    units = option(use, config, "output_dim" if use.version.major < 2 and "output_dim" in config else "units")
    use_bias = flag(use, config, "bias" if "bias" in config else "use_bias", True)
    kernel = kernel_of(use, 1 + use_bias)
    check_shape(kernel, (*kernel.shape[:1], units), "kernel", use.where)
    sizes_ = {"input_size": kernel.shape[0], "output_size": units, "bias": use_bias}
    node = use.graph.emit("Linear", use.floats, use.name, **sizes_)
    arrays = {"weight": kernel.T}
    if use_bias:
        check_shape(use.layer.own[1], (units,), "bias", use.where)
        arrays["bias"] = use.layer.own[1]
    use.graph.own(node, arrays)
    return apply_activation(use, node, config.get("activation"))


def kernel_of(use: Use, count: int, rank: int = 2) -> np.ndarray:
    """The first of a layer's ``count`` arrays."""
    names = ("kernel", "bias")[:count]
    if len(use.layer.own) != count:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected {count} ({', '.join(names)})")
    if use.layer.own[0].ndim != rank:
        words = {2: "two", 3: "three", 4: "four"}[rank]
        raise WeightError(f"{use.where}: kernel: shape {use.layer.own[0].shape}, expected {words} dimensions")
    return use.layer.own[0]


@layer("Embedding", options="input_dim output_dim mask_zero", mask="own", dropout=0.0, weights=None)
def embedding(use: Use) -> Tensor:
    graph, config = use.graph, use.config
    rows, size = option(use, config, "input_dim"), option(use, config, "output_dim")
    if len(use.layer.own) != 1:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected 1 (embeddings)")
    check_shape(use.layer.own[0], (rows, size), "embeddings", use.where)
    ids = graph.cast(f"{use.name}.ids", use.x, "int64")
    mask = None
    if flag(use, config, "mask_zero"):
        mask = graph.emit("Not", graph.scalar(f"{use.name}.padding", "Equal", use.x, 0), f"{use.name}.mask")
    node = graph.emit("Embedding", ids, use.name, input_size=rows, output_size=size)
    graph.own(node, {"weight": use.layer.own[0]})
    return Tensor(node, mask)


@layer("Masking", options="mask_value", mask="own")
def masking(use: Use) -> Tensor:
    """A step is masked if all its features equal mask_value; those are zeroed."""
    graph, name, x = use.graph, use.name, use.floats
    equal = graph.scalar(f"{name}.equal", "Equal", x, float(number(use, "mask_value", 0.0)))
    last = graph.rank(x) - 1
    whole = graph.cast(f"{name}.as_numbers", equal, "float")
    masked = graph.cast(f"{name}.masked", graph.reduce(f"{name}.all", "ReduceMin", whole, (last,), True), "bool")
    mask = graph.squeeze(f"{name}.mask", graph.emit("Not", masked, f"{name}.kept"), last)
    return Tensor(graph.emit("Where", (masked, graph.number(f"{name}.zero", 0.0), x), name), mask)


# --- activations ---------------------------------------------------------------------------------------------------


@layer("Activation", options="activation")
def activation_layer(use: Use) -> str:
    y = apply_activation(use, use.floats, option(use, use.config, "activation"), use.name)
    if y == use.inputs[0].name:
        use.note(f"{use.layer.name} (Activation): left out, it is linear")
    return y


@layer("ReLU", options="max_value negative_slope threshold")
def relu(use: Use) -> str:
    """x above the threshold, at most max_value; slope (x - threshold) elsewhere, so 0 at the threshold itself."""
    graph, x, name = use.graph, use.floats, use.name
    slope, threshold = _or_zero(use, "negative_slope"), _or_zero(use, "threshold")
    most = use.config.get("max_value")
    top = None if most is None else number(use, "max_value")
    for key, value in (("negative_slope", slope), ("threshold", threshold), ("max_value", top or 0.0)):
        if value < 0:
            raise UnsupportedError(f"{use.where}: {key}={value}, expected at least 0")
    plain = slope == 0 and threshold == 0
    if plain and top is None:
        return graph.emit("Relu", x, name)
    if plain:
        return graph.emit("Clip", x, name, min=0.0, max=float(cast(float, top)))
    kept = x if top is None else graph.emit("Clip", x, f"{name}.top", max=float(top))
    above = graph.scalar(f"{name}.above", "Greater", x, float(threshold))
    if slope == 0:
        return graph.emit("Where", (above, kept, graph.number(f"{name}.zero", 0.0)), name)
    low = graph.scalar(f"{name}.low", "Mul", graph.scalar(f"{name}.shifted", "Sub", x, float(threshold)), float(slope))
    return graph.emit("Where", (above, kept, low), name)


def _or_zero(use: Use, key: str) -> float:
    return 0.0 if use.config.get(key) is None else number(use, key)


@layer("LeakyReLU", options="negative_slope alpha")
def leaky_relu(use: Use) -> str:
    key = "negative_slope" if "negative_slope" in use.config else "alpha"
    return use.graph.emit("LeakyRelu", use.floats, use.name, alpha=float(number(use, key, 0.3)))


@layer("ELU", options="alpha")
def elu(use: Use) -> str:
    return use.graph.emit("Elu", use.floats, use.name, alpha=float(number(use, "alpha", 1.0)))


@layer("ThresholdedReLU", options="theta")
def thresholded_relu(use: Use) -> str:
    return use.graph.emit("ThresholdedRelu", use.floats, use.name, alpha=float(number(use, "theta", 1.0)))


@layer("PReLU", options="shared_axes")
def prelu(use: Use) -> str:
    """x where it is positive, alpha x elsewhere; alpha has the input's shape without the batch, shared axes 1."""
    graph, x = use.graph, use.floats
    if len(use.layer.own) != 1 or use.layer.own[0].ndim != graph.rank(x) - 1:
        raise WeightError(f"{use.where}: expected one array (alpha) of {graph.rank(x) - 1} dimensions")
    slope = use.layer.own[0]
    for axis, size in enumerate(slope.shape, start=1):
        if size != 1:
            graph.size(x, axis, use.where)
    return graph.emit("PRelu", (x, graph.add_constant(slope, "float", f"{use.name}.alpha")), use.name)


@layer("Softmax", options="axis")
def softmax(use: Use) -> str:
    if use.masked(use.inputs[0]).mask is not None:
        raise UnsupportedError(f"{use.where}: under a mask, which Keras fits to the features: expected an Activation")
    axis = use.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise UnsupportedError(f"{use.where}: axis={axis!r}, expected an integer")
    use.graph.axis(use.x, axis, use.where)
    return use.graph.emit("Softmax", use.floats, use.name, axis=axis)
