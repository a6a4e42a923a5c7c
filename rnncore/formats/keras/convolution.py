"""Keras's convolutions and poolings: ONNX's between transposes, since Keras has the channels last."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.errors import UnsupportedError, WeightError
from rnncore.files.cursor import shown
from rnncore.formats.keras.dense import kernel_of
from rnncore.formats.keras.use import Use, apply_activation, check_shape, flag, layer, option, sizes

__all__ = ["channels_axis", "channels_back", "channels_first"]


def channels_axis(use: Use, x: str, dims: int) -> int:
    """The axis of the channels of an image or sequence."""
    if use.graph.rank(x) != dims + 2:
        raise UnsupportedError(f"{use.where}: input {use.graph.values[x]}, expected {dims + 2} dimensions")
    order = use.config.get("data_format", "channels_last")
    if order not in ("channels_last", "channels_first", None):
        raise UnsupportedError(f"{use.where}: data_format={shown(str(order), 40)!r}")
    return 1 if order == "channels_first" else dims + 1


def channels_first(use: Use, x: str, axis: int) -> str:
    rank = use.graph.rank(x)
    perm = [0, axis, *(place for place in range(1, rank) if place != axis)]
    return use.graph.transpose(f"{use.name}.channels_first", x, perm)


def channels_back(use: Use, x: str, axis: int) -> str:
    rank = use.graph.rank(x)
    perm = list(range(2, rank))
    perm = [0, *perm[: axis - 1], 1, *perm[axis - 1 :]]
    return use.graph.transpose(f"{use.name}.channels_back", x, perm)


CONVOLUTION = "filters kernel_size strides padding data_format dilation_rate groups activation use_bias"


@layer("Conv1D", "Convolution1D", options=CONVOLUTION, mask="drop")
def conv1d(use: Use) -> str:
    return _convolution(use, 1)


@layer("Conv2D", "Convolution2D", options=CONVOLUTION, mask="drop")
def conv2d(use: Use) -> str:
    return _convolution(use, 2)


def _window(use: Use, x: str, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> dict:
    """pads or auto_pad for Keras's padding: "valid", "same" (more at the end), "causal" (all before)."""
    padding, dims = use.config.get("padding", "valid"), len(kernel)
    if padding == "same":
        return {"auto_pad": "SAME_UPPER"}
    if padding == "causal" and dims == 1:
        return {"pads": (dilations[0] * (kernel[0] - 1), 0)}
    if padding != "valid":
        raise UnsupportedError(f"{use.where}: padding={shown(str(padding), 40)!r}, expected valid, same or causal")
    return {"pads": (0,) * (2 * dims)}


def _convolution(use: Use, dims: int) -> str:
    graph, x, config = use.graph, use.floats, use.config
    axis = channels_axis(use, x, dims)
    bias = flag(use, config, "use_bias", True)
    kernel = kernel_of(use, 1 + bias, dims + 2)
    filters, groups = option(use, config, "filters"), option(use, config, "groups", 1)
    shape = sizes(use, "kernel_size", dims)
    channels = graph.size(x, axis, use.where)
    if type(groups) is not int or groups < 1 or channels % groups:
        raise UnsupportedError(f"{use.where}: groups={shown(str(groups), 40)}, expected a divisor of {channels}")
    check_shape(kernel, (*shape, channels // groups, filters), "kernel", use.where)
    weight = kernel.transpose(dims + 1, dims, *range(dims))
    y = _conv_node(use, f"{use.name}", channels_first(use, x, axis), weight, groups, bias)
    return apply_activation(use, channels_back(use, y, axis), config.get("activation"))


def _conv_node(use: Use, name: str, x: str, weight: np.ndarray, groups: int, bias: bool, plain: bool = False) -> str:
    """A Conv on channels-first values with ONNX's weight; ``plain``: a window of 1."""
    graph, dims = use.graph, weight.ndim - 2
    strides = (1,) * dims if plain else sizes(use, "strides", dims, 1)
    dilations = (1,) * dims if plain else sizes(use, "dilation_rate", dims, 1)
    window = {} if plain else _window(use, x, weight.shape[2:], strides, dilations)
    node = graph.emit(
        "Conv",
        x,
        name,
        input_size=weight.shape[1] * groups,
        output_size=weight.shape[0],
        kernel_shape=weight.shape[2:],
        strides=strides,
        dilations=dilations,
        group=groups,
        bias=bias,
        **window,
    )
    arrays = {"weight": weight}
    if bias:
        check_shape(use.layer.own[-1], (weight.shape[0],), "bias", use.where)
        arrays["bias"] = use.layer.own[-1]
    graph.own(node, arrays)
    return node


def _depthwise_weight(use: Use, kernel: np.ndarray, dims: int, channels: int) -> np.ndarray:
    """(k..., C, M) as ONNX's (C*M, 1, k...)."""
    multiplier = option(use, use.config, "depth_multiplier", 1)
    check_shape(kernel, (*sizes(use, "kernel_size", dims), channels, multiplier), "depthwise_kernel", use.where)
    return kernel.transpose(dims, dims + 1, *range(dims)).reshape(channels * multiplier, 1, *kernel.shape[:dims])


DEPTHWISE = "kernel_size strides padding data_format dilation_rate depth_multiplier activation use_bias"


@layer("DepthwiseConv1D", options=DEPTHWISE, mask="drop", groups=1)
def depthwise1d(use: Use) -> str:
    return _depthwise(use, 1)


@layer("DepthwiseConv2D", options=DEPTHWISE, mask="drop", groups=1)
def depthwise2d(use: Use) -> str:
    return _depthwise(use, 2)


def _depthwise(use: Use, dims: int) -> str:
    x = use.floats
    axis = channels_axis(use, x, dims)
    bias = flag(use, use.config, "use_bias", True)
    channels = use.graph.size(x, axis, use.where)
    weight = _depthwise_weight(use, kernel_of(use, 1 + bias, dims + 2), dims, channels)
    y = _conv_node(use, use.name, channels_first(use, x, axis), weight, channels, bias)
    return apply_activation(use, channels_back(use, y, axis), use.config.get("activation"))


@layer("SeparableConv1D", options=f"filters {DEPTHWISE}", mask="drop", groups=1)
def separable1d(use: Use) -> str:
    return _separable(use, 1)


@layer("SeparableConv2D", options=f"filters {DEPTHWISE}", mask="drop", groups=1)
def separable2d(use: Use) -> str:
    return _separable(use, 2)


def _separable(use: Use, dims: int) -> str:
    x = use.floats
    axis = channels_axis(use, x, dims)
    bias = flag(use, use.config, "use_bias", True)
    if len(use.layer.own) != 2 + bias:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected {2 + bias}")
    channels = use.graph.size(x, axis, use.where)
    depthwise = _depthwise_weight(use, use.layer.own[0], dims, channels)
    pointwise, filters = use.layer.own[1], option(use, use.config, "filters")
    check_shape(pointwise, (*(1,) * dims, len(depthwise), filters), "pointwise_kernel", use.where)
    y = _conv_node(use, f"{use.name}.depthwise", channels_first(use, x, axis), depthwise, channels, False)
    weight = pointwise.transpose(dims + 1, dims, *range(dims))
    y = _conv_node(use, use.name, y, weight, 1, bias, plain=True)
    return apply_activation(use, channels_back(use, y, axis), use.config.get("activation"))


@layer(
    "Conv1DTranspose",
    options="filters kernel_size strides padding data_format dilation_rate activation use_bias",
    mask="drop",
    output_padding=None,
    groups=1,
)
def conv1d_transpose(use: Use) -> str:
    """valid: T*s + max(k - s, 0) steps; same: T*s."""
    graph, x, config = use.graph, use.floats, use.config
    axis = channels_axis(use, x, 1)
    bias = flag(use, config, "use_bias", True)
    kernel = kernel_of(use, 1 + bias, 3)
    channels, filters = graph.size(x, axis, use.where), option(use, config, "filters")
    (width,), (stride,) = sizes(use, "kernel_size", 1), sizes(use, "strides", 1, 1)
    (dilation,) = sizes(use, "dilation_rate", 1, 1)
    check_shape(kernel, (width, filters, channels), "kernel", use.where)
    span, padding = (width - 1) * dilation + 1, config.get("padding", "valid")
    if padding not in ("valid", "same"):
        raise UnsupportedError(f"{use.where}: padding={shown(str(padding), 40)!r}, expected valid or same")
    cut = max(span - stride, 0) if padding == "same" else 0
    node = graph.emit(
        "ConvTranspose",
        channels_first(use, x, axis),
        use.name,
        input_size=channels,
        output_size=filters,
        kernel_shape=(width,),
        strides=(stride,),
        dilations=(dilation,),
        pads=(cut // 2, cut - cut // 2),
        output_padding=(max(stride - span, 0),),
        bias=bias,
    )
    arrays = {"weight": kernel.transpose(2, 1, 0)}
    if bias:
        check_shape(use.layer.own[1], (filters,), "bias", use.where)
        arrays["bias"] = use.layer.own[1]
    graph.own(node, arrays)
    return apply_activation(use, channels_back(use, node, axis), config.get("activation"))


POOLING = "pool_size strides padding data_format"


@layer("MaxPooling1D", "AveragePooling1D", options=POOLING, mask="drop")
def pooling1d(use: Use) -> str:
    return _pooling(use, 1)


@layer("MaxPooling2D", "AveragePooling2D", options=POOLING, mask="drop")
def pooling2d(use: Use) -> str:
    return _pooling(use, 2)


def _pooling(use: Use, dims: int) -> str:
    graph, x = use.graph, use.floats
    axis = channels_axis(use, x, dims)
    window = sizes(use, "pool_size", dims, 2)
    strides = window if use.config.get("strides") is None else sizes(use, "strides", dims)
    pads = _window(use, x, window, strides, (1,) * dims)
    op = "MaxPool" if use.layer.class_name.startswith("Max") else "AveragePool"
    y = graph.emit(op, channels_first(use, x, axis), use.name, kernel_shape=window, strides=strides, **pads)
    return channels_back(use, y, axis)


@layer(
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalAveragePooling2D", options="data_format keepdims", mask="drop"
)
def global_pooling(use: Use) -> str:
    x, dims = use.floats, int(use.layer.class_name[-2])
    axis = channels_axis(use, x, dims)
    op = "ReduceMax" if "Max" in use.layer.class_name else "ReduceMean"
    axes = [place for place in range(1, dims + 2) if place != axis]
    return use.graph.reduce(use.name, op, x, axes, flag(use, use.config, "keepdims"))


@layer("GlobalAveragePooling1D", options="data_format keepdims", mask="drop")
def global_average(use: Use) -> str:
    """The mean over time, of the steps that count under a mask."""
    graph, x, name = use.graph, use.floats, use.name
    keep = flag(use, use.config, "keepdims")
    axis = channels_axis(use, x, 1)
    steps = 3 - axis
    mask = use.masked(use.inputs[0]).mask
    if mask is None:
        return graph.reduce(name, "ReduceMean", x, (steps,), keep)
    valid = graph.unsqueeze(f"{name}.valid", mask, axis)
    kept = graph.emit("Where", (valid, x, graph.number(f"{name}.zero", 0.0)), f"{name}.kept")
    total = graph.reduce(f"{name}.sum", "ReduceSum", kept, (steps,), keep)
    count = graph.reduce(f"{name}.count", "ReduceSum", graph.cast(f"{name}.ones", valid, "float"), (steps,), keep)
    return graph.emit("Div", (total, count), name)
