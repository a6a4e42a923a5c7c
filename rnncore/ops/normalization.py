"""Normalization under its ONNX names: scales, offsets and trained statistics are inputs, as in ONNX.

Statistics are made in the dtype of the input, of float16 in float32 (stash_type 1), after the mean is taken away.
float32 rows run on kernels/_normalization.pyx.
"""

from __future__ import annotations

import math

import numpy as np

from rnncore.errors import SpecError
from rnncore.kernels import _normalization, runs_native
from rnncore.ops import blocks
from rnncore.ops.base import Op, Value, axis_of, mean
from rnncore.ops.checks import FLOATS, axes_of, need
from rnncore.ops.dimensions import Dimension, along_rows, carried, kept, spread_over
from rnncore.ops.schema import Axes, Axis, Choice, Flag, Real, Size
from rnncore.ops.windows import need_images

__all__ = ["OPS"]


def _need_vector(what, value, size, x):
    """SpecError unless a value is a vector of one number for each channel."""
    fits = value.dtype in FLOATS and len(value.shape) == 1
    if not fits or (isinstance(value.shape[0], int) and isinstance(size, int) and value.shape[0] != size):
        raise SpecError(f"{what} is {value}, expected {Value(x.dtype, (size,))}")


def _per_channel(vector, x):
    return vector.astype(x.dtype, copy=False).reshape(-1, *[1] * (x.ndim - 2))


def _compiled(x, *vectors):
    """Whether the compiled kernel takes these: numbers in float32, one after the other."""
    plain = all(array is None or (array.dtype == np.float32 and array.flags.c_contiguous) for array in (x, *vectors))
    return plain and x.size > 0 and runs_native(x.dtype)


def _check_channels(x, *vectors):
    if any(len(vector) != x.shape[1] for vector in vectors):
        raise ValueError(f"expected {x.shape[1]} channels")


def _moments(x, axes):
    """Mean, and x - mean, and the mean of its squares."""
    average = mean(x, axes)
    centred = x - average
    return average, centred, mean(np.square(centred), axes)


# ---- with trained statistics -------------------------------------------------------------------------------------


def _batch_infer(attributes, values):
    x = values[0]
    need(x, FLOATS)
    if len(x.shape) < 2:
        raise SpecError(f"input is {x}, expected (N, C, ...)")
    for what, value in zip(("scale", "B", "mean", "var"), values[1:], strict=True):
        _need_vector(what, value, x.shape[1], x)
    return [x.without_data]


def _batch_run(attributes, weights, x, scale, offset, mean, variance):
    """(x - mean) / sqrt(var + epsilon) * scale + B for each channel, as one product and one sum."""
    _check_channels(x, scale, offset, mean, variance)
    factor = scale / np.sqrt(variance + variance.dtype.type(attributes["epsilon"]))
    y = x * _per_channel(factor, x)
    y += _per_channel(offset - mean * factor, x)
    return y


# ---- over spatial axes -------------------------------------------------------------------------------------------


def _instance_infer(attributes, values):
    x, scale, offset = values
    need(x, FLOATS)
    need_images(x)
    _need_vector("scale", scale, x.shape[1], x)
    _need_vector("B", offset, x.shape[1], x)
    return [x.without_data]


def _instance_run(attributes, weights, x, scale, offset):
    _check_channels(x, scale, offset)
    if _compiled(x, scale, offset):
        n = math.prod(x.shape[2:])
        return _normalization.normalize(x, n, n, x.shape[1], True, attributes["epsilon"], scale, offset, False)
    _, centred, variance = _moments(x, tuple(range(2, x.ndim)))
    centred /= np.sqrt(variance + x.dtype.type(attributes["epsilon"]))
    return centred * _per_channel(scale, x) + _per_channel(offset, x)


def _group_infer(attributes, values):
    x, scale, offset = values
    need(x, FLOATS)
    groups = attributes["num_groups"]
    if len(x.shape) < 2 or (isinstance(x.shape[1], int) and x.shape[1] % groups):
        raise SpecError(f"input is {x}, expected (N, C, ...) with C a multiple of num_groups={groups}")
    _need_vector("scale", scale, x.shape[1], x)
    _need_vector("bias", offset, x.shape[1], x)
    return [x.without_data]


def _group_run(attributes, weights, x, scale, offset):
    _check_channels(x, scale, offset)
    if x.shape[1] % attributes["num_groups"]:
        raise ValueError(f"expected channels in {attributes['num_groups']} groups")
    if _compiled(x, scale, offset):
        inner, groups = math.prod(x.shape[2:]), attributes["num_groups"]
        n = x.shape[1] // groups * inner
        return _normalization.normalize(x, n, inner, groups, True, attributes["epsilon"], scale, offset, False)
    grouped = _stashed(x).reshape(x.shape[0], attributes["num_groups"], -1)
    _, centred, variance = _moments(grouped, 2)
    centred /= np.sqrt(variance + grouped.dtype.type(attributes["epsilon"]))
    y = centred.reshape(x.shape).astype(x.dtype, copy=False)
    return y * _per_channel(scale, x) + _per_channel(offset, x)


def _mean_variance_axes(attributes, rank):
    return axes_of(attributes["axes"], rank)


def _mean_variance_infer(attributes, values):
    (x,) = values
    need(x, FLOATS)
    _mean_variance_axes(attributes, len(x.shape))
    return [x.without_data]


def _mean_variance_run(attributes, weights, x):
    """(x - mean) / (standard deviation + 1e-9)."""
    _, centred, variance = _moments(x, _mean_variance_axes(attributes, x.ndim))
    return centred / (np.sqrt(variance) + x.dtype.type(1e-9))


def _lrn_infer(attributes, values):
    (x,) = values
    need(x, FLOATS)
    if len(x.shape) < 2:
        raise SpecError(f"input is {x}, expected (N, C, ...)")
    return [x.without_data]


def _lrn_run(attributes, weights, x):
    """x / (bias + alpha / size * the sum of squares of the channels around)^beta."""
    size, channels = attributes["size"], x.shape[1]
    before = (size - 1) // 2
    sides = [min(side, max(channels - 1, 0)) for side in (before, size - 1 - before)]  # beyond there are zeros
    squares = np.pad(np.square(x), [(0, 0), tuple(sides), *[(0, 0)] * (x.ndim - 2)])
    sums = np.zeros_like(x)
    for first in range(sum(sides) + 1):
        sums += squares[:, first : first + channels]
    floating = x.dtype.type
    return x / (floating(attributes["bias"]) + floating(attributes["alpha"] / size) * sums) ** floating(
        attributes["beta"]
    )


# ---- over the last axes ------------------------------------------------------------------------------------------


def _stashed(x):
    """x in the precision that statistics are made in."""
    return x.astype(np.float32) if x.dtype == np.float16 else x


def _broadcasts(value, shape):
    """Whether a value broadcasts to the last of these sizes, one way."""
    if len(value.shape) > len(shape):
        return False
    pairs = zip(reversed(value.shape), reversed(shape), strict=False)
    return all(isinstance(a, str) or isinstance(b, str) or a in (1, b) for a, b in pairs)


def _layer_infer(attributes, values):
    x, *scales = values
    need(x, FLOATS)
    axis = axis_of(attributes["axis"], len(x.shape))
    for what, value in zip(("Scale", "B"), scales, strict=False):
        if value is not None and (value.dtype not in FLOATS or not _broadcasts(value, x.shape)):
            raise SpecError(f"{what} is {value}, expected what broadcasts to {x}")
    if not attributes.get("statistics"):
        return [x.without_data]
    if x.dtype == "float16":
        raise SpecError(f"statistics of {x}, expected float or float64")
    statistics = Value(x.dtype, (*x.shape[:axis], *[1] * (len(x.shape) - axis)))
    return [x.without_data, statistics, statistics]


def _over_rows(x, axis, scale, offset):
    """Whether the compiled kernel takes them: a scale, and an offset or none, for each number of a row."""
    shape = x.shape[axis:]
    return scale.shape == shape and (offset is None or offset.shape == shape) and _compiled(x, scale, offset)


def _layer_run(attributes, weights, x, scale, offset=None):
    """(x - mean) / sqrt(variance + epsilon) * Scale + B over the axes from ``axis`` on."""
    axis = axis_of(attributes["axis"], x.ndim)
    if _over_rows(x, axis, scale, offset):
        n, statistics = scale.size, attributes["statistics"]
        y = _normalization.normalize(x, n, 1, 1, True, attributes["epsilon"], scale, offset, statistics)
        if not statistics:
            return y
        shape = (*x.shape[:axis], *[1] * (x.ndim - axis))
        return y[0], y[1].reshape(shape), y[2].reshape(shape)
    axes = tuple(range(axis, x.ndim))

    def normalized(x):
        average, centred, variance = _moments(_stashed(x), axes)
        variance += centred.dtype.type(attributes["epsilon"])
        inverse = 1 / np.sqrt(variance, out=variance)
        centred *= inverse
        y = centred.astype(x.dtype, copy=False)
        y *= scale
        if offset is not None:
            y += offset
        return y, average, inverse

    alike = scale.ndim <= len(axes) and (offset is None or offset.ndim <= len(axes))  # for all rows
    y = blocks.along(normalized, x, axes) if alike else normalized(x)
    return y if attributes["statistics"] else y[0]


def _rms_run(attributes, weights, x, scale):
    """x / sqrt(mean of squares + epsilon) * scale over the axes from ``axis`` on."""
    axis = axis_of(attributes["axis"], x.ndim)
    if _over_rows(x, axis, scale, None):
        return _normalization.normalize(x, scale.size, 1, 1, False, attributes["epsilon"], scale, None, False)
    axes = tuple(range(axis, x.ndim))
    wide = _stashed(x)
    squares = mean(np.square(wide), axes)
    y = (wide / np.sqrt(squares + wide.dtype.type(attributes["epsilon"]))).astype(x.dtype, copy=False)
    y *= scale
    return y


def _bind_over_rows(centred):
    """LayerNormalization and RMSNormalization where the compiled kernel takes them, as _over_rows says."""

    def bind(compiler, attributes, inputs, outputs):
        x, scale, *offset = inputs
        axis = axis_of(attributes["axis"], len(x.shape))
        vectors = [scale, *(vector for vector in offset if vector is not None)]
        alike = all(vector.shape == x.shape[axis:] for vector in vectors)
        if len(outputs) > 1 or not alike or not _bindable(x, *vectors):
            return False
        _bind_rows(compiler, outputs, x, scale.size, 1, 1, centred, attributes, vectors)
        return True

    return bind


def _bindable(x, *vectors):
    """_compiled, of operands."""
    plain = all(operand.dense and operand.dtype == np.float32 for operand in (x, *vectors))
    return plain and 0 < x.size <= blocks.ELEMENTS and runs_native(x.dtype)


def _bind_rows(compiler, outputs, x, n, inner, period, centred, attributes, vectors):
    call = _normalization.Normalize(x, outputs[0], n, inner, period, centred, attributes["epsilon"], *vectors)
    compiler.emit(call, [x, *vectors], outputs)


def _bind_channels(groups_of):
    """InstanceNormalization and GroupNormalization; groups_of: (attributes, channels) -> groups."""

    def bind(compiler, attributes, inputs, outputs):
        x, *vectors = inputs
        groups = groups_of(attributes, x.shape[1])
        fits = x.shape[1] % groups == 0 and all(vector.shape == (x.shape[1],) for vector in vectors)
        if not fits or not _bindable(x, *vectors):
            return False
        inner = math.prod(x.shape[2:])
        _bind_rows(compiler, outputs, x, x.shape[1] // groups * inner, inner, groups, True, attributes, vectors)
        return True

    return bind


def _channel_dimensions(attributes, inputs, outputs):
    """Channels, with the vectors that have a number for each."""
    return Dimension({0: 1, **dict.fromkeys(range(1, len(inputs)), 0)}, {0: 1})


def _batch_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    others = carried(None if axis == 1 else axis for axis in range(rank))
    return [*others, _channel_dimensions(attributes, inputs, outputs)] if rank > 1 else others


def _instance_dimensions(attributes, inputs, outputs):
    return [*carried((0,)), _channel_dimensions(attributes, inputs, outputs)]


def _layer_dimensions(attributes, inputs, outputs):
    axes = range(axis_of(attributes["axis"], len(inputs[0].shape)))
    return spread_over(axes, dict(enumerate(inputs)), outputs)


EPSILON = Real(1e-5, least=0.0)
STASH = Choice(1, among=(1,))  # statistics in float32 or wider

OPS = [
    Op(
        "BatchNormalization",
        infer=_batch_infer,
        run=_batch_run,
        dimensions=_batch_dimensions,
        arity=(5, 5),
        schema={"epsilon": EPSILON, "momentum": Real(0.9), "training_mode": Choice(0, among=(0,))},
    ),
    Op(
        "InstanceNormalization",
        infer=_instance_infer,
        run=_instance_run,
        bind=_bind_channels(lambda attributes, channels: channels),
        dimensions=_instance_dimensions,
        arity=(3, 3),
        schema={"epsilon": EPSILON},
    ),
    Op(
        "GroupNormalization",
        infer=_group_infer,
        run=_group_run,
        bind=_bind_channels(lambda attributes, channels: attributes["num_groups"]),
        dimensions=along_rows(),
        arity=(3, 3),
        schema={"epsilon": EPSILON, "num_groups": Size(), "stash_type": STASH},
    ),
    Op(
        "LayerNormalization",
        infer=_layer_infer,
        run=_layer_run,
        bind=_bind_over_rows(centred=True),
        dimensions=_layer_dimensions,
        arity=(2, 3),
        schema={"axis": Axis(-1), "epsilon": EPSILON, "stash_type": STASH, "statistics": Flag(False)},
        optional=(2,),
        outputs=lambda attributes: ("", "mean", "inv_std_dev") if attributes["statistics"] else ("",),
    ),
    Op(
        "RMSNormalization",
        infer=_layer_infer,
        run=_rms_run,
        bind=_bind_over_rows(centred=False),
        dimensions=_layer_dimensions,
        arity=(2, 2),
        schema={"axis": Axis(-1), "epsilon": EPSILON, "stash_type": STASH},
    ),
    Op(
        "MeanVarianceNormalization",
        infer=_mean_variance_infer,
        run=_mean_variance_run,
        dimensions=kept(_mean_variance_axes),
        schema={"axes": Axes((0, 2, 3))},
    ),
    Op(
        "LRN",
        infer=_lrn_infer,
        run=_lrn_run,
        dimensions=kept(lambda attributes, rank: (1,)),
        schema={"size": Size(), "alpha": Real(1e-4), "beta": Real(0.75), "bias": Real(1.0)},
    ),
]
