"""Pad, Resize and Upsample under their ONNX names.

Resizing is separable: one axis after the other is made of one (nearest), two (linear) or four (cubic) numbers of the
input for each of the output, whose places and weights depend on the sizes alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.ops.base import UNKNOWN, Op, Value, given, has, known
from rnncore.ops.checks import axes_of
from rnncore.ops.dimensions import Dimension, Reach, carried
from rnncore.ops.ends import PAD
from rnncore.ops.schema import MAX_RANK, MAX_SIZE, Axes, Choice, Flag, Integers, Number, Numbers, Real, is_number
from rnncore.ops.sizes import add, multiply

__all__ = ["OPS"]


def _chosen_axes(axes, rank):
    """An axes parameter as indices; None for all of them."""
    return tuple(range(rank)) if axes is None else axes_of(axes, rank)


# ---- Pad ---------------------------------------------------------------------------------------------------------

LARGEST_SCALE = float(np.finfo(np.float32).max)
PAD_MODES = ("constant", "reflect", "edge", "wrap")


def _pad_widths(pads, axes, rank):
    """(before, after) for each axis."""
    axes = _chosen_axes(axes, rank)
    plain = isinstance(pads, tuple) and all(type(pad) is int and abs(pad) < 1 << 31 for pad in pads)
    if not plain or len(pads) != 2 * len(axes):
        raise SpecError(f"pads={pads!r}, expected {2 * len(axes)} integers: at the beginning of each axis, at the end")
    widths = [(0, 0)] * rank
    for place, axis in enumerate(axes):
        widths[axis] = (pads[place], pads[place + len(axes)])
    return widths


def _pad_infer(attributes, values):
    x, _, fill, _ = values
    rank = len(x.shape)
    if not has(attributes, "pads", values, 1):
        raise SpecError("pads missing, expected them as an attribute or as input 1")
    if fill is not None and fill.dtype != x.dtype:
        raise SpecError(f"constant_value is {fill}, expected {x.dtype}")
    has(attributes, "constant_value", values, 2)
    pads, axes = known(attributes, "pads", values, 1), known(attributes, "axes", values, 3)
    if has(attributes, "axes", values, 3) and axes is None:
        return [Value(x.dtype, (UNKNOWN,) * rank)]
    if pads is None or (isinstance(pads, tuple) and any(isinstance(pad, str) for pad in pads)):
        touched = _chosen_axes(axes, rank)
        return [Value(x.dtype, tuple(UNKNOWN if axis in touched else size for axis, size in enumerate(x.shape)))]
    sizes = []
    for size, (before, after) in zip(x.shape, _pad_widths(pads, axes, rank), strict=True):
        sizes.append(whole := add(size, before + after))
        if (
            isinstance(size, int)
            and isinstance(whole, int)
            and (whole < 0 or size + min(before, 0) + min(after, 0) < 0)
        ):
            raise SpecError(f"pads={list(pads)} take more than there is from {x}")
    return [Value(x.dtype, tuple(sizes))]


@lru_cache(maxsize=256)
def _cuts_and_widths(pads, axes, rank):
    """The widths that are taken away at both ends of each axis, None if there are none; those that are added."""
    widths = _pad_widths(pads, axes, rank)
    cuts = [(max(0, -before), max(0, -after)) for before, after in widths]
    added = tuple((max(0, before), max(0, after)) for before, after in widths)
    return (tuple(cuts) if any(map(any, cuts)) else None), added


@lru_cache(maxsize=256)
def _pad_places(mode, size, before, after):
    """The numbers along an axis that the padded axis is made of."""
    places = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places % period
    return np.where(places < size, places, period - places) if size > 1 else places * 0


def _pad_run(attributes, weights, x, pads=None, fill=None, axes=None):
    """Negative pads take numbers away, before the others are added."""
    arrays = (x, pads, fill, axes)
    axes = given("axes", attributes, arrays, 3)
    cuts, widths = _cuts_and_widths(given("pads", attributes, arrays, 1), axes, x.ndim)
    if cuts is not None:
        x = x[tuple(slice(b, max(b, size - a)) for size, (b, a) in zip(x.shape, cuts, strict=True))]
    if attributes["mode"] == "constant":
        value = given("constant_value", attributes, arrays, 2)
        value = value[0] if isinstance(value, tuple) else 0 if value is None else value
        y = np.full([size + b + a for size, (b, a) in zip(x.shape, widths, strict=True)], value, x.dtype)
        y[tuple(slice(b, b + size) for size, (b, _) in zip(x.shape, widths, strict=True))] = x
        return y
    for axis, (before, after) in enumerate(widths):
        if before or after:
            if x.shape[axis] == 0:
                raise InputError(f"mode {attributes['mode']!r} pads axis {axis} of size 0, expected at least 1")
            x = x.take(_pad_places(attributes["mode"], x.shape[axis], before, after), axis=axis)
    return np.ascontiguousarray(x)


def _pads_along(attributes, rank, axis):
    """(before, after) along an axis, None where that is only known when the model runs."""
    if attributes["pads"] is None:
        return None
    return _pad_widths(attributes["pads"], attributes["axes"], rank)[axis]


def _pad_dimensions(attributes, inputs, outputs):
    """A constant pad at the beginning alone shifts: each number is one from that number of places before."""
    dimensions, rank = [], len(inputs[0].shape)
    for axis in range(rank):
        pads = _pads_along(attributes, rank, axis)
        if pads == (0, 0):
            dimensions.append(Dimension({0: axis}, {0: axis}))
        elif pads is not None and pads[0] >= 0 and pads[1] == 0 and attributes["mode"] == "constant":
            dimensions.append(Dimension({0: axis}, {0: axis}, Reach(pads[0], 0)))
    return dimensions


# ---- Resize ------------------------------------------------------------------------------------------------------

MODES = ("nearest", "linear", "cubic")
NEAREST_MODES: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
TRANSFORMS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
POLICIES = ("stretch", "not_larger", "not_smaller")


def _check_resize(attributes, x):
    if attributes["mode"] != "nearest" and x.dtype not in ("float", "float64"):
        raise SpecError(f"input is {x} with mode={attributes['mode']!r}, expected float or float64")


def _absent(parameter):
    """Whether a parameter says nothing: ONNX has empty tensors for that, too."""
    return parameter is None or parameter == ()


def _targets(attributes, sizes, scales, wanted):
    """For each axis, its size in the output and the scale; None for both where it stays as it is.

    sizes are those of the input, names or numbers; scales and wanted the parameters, one of them not absent.
    """
    axes = _chosen_axes(attributes["axes"], len(sizes))
    name, given_ones = ("sizes", wanted) if _absent(scales) else ("scales", scales)
    fits = isinstance(given_ones, tuple) and len(given_ones) == len(axes)
    if not fits or not all(is_number(one) or (name == "sizes" and isinstance(one, str)) for one in given_ones):
        raise SpecError(f"{name}={given_ones!r}, expected {len(axes)} numbers")
    targets: list[tuple[Any, float | None] | None] = [None] * len(sizes)
    if not _absent(scales):
        for axis, scale in zip(axes, scales, strict=True):
            if not 0 < scale <= LARGEST_SCALE:
                raise SpecError(f"scales={list(scales)}, expected positive numbers of float32")
            if scale != 1 or attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
                targets[axis] = (_scaled(sizes[axis], scale), float(scale))
        return targets
    unknown = [
        axis for axis, size in zip(axes, wanted, strict=True) if isinstance(sizes[axis], str) or type(size) is str
    ]
    if attributes["keep_aspect_ratio_policy"] == "stretch":
        for axis, size in zip(axes, wanted, strict=True):
            if axis in unknown:
                targets[axis] = (size, None)
            elif size != sizes[axis] or attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
                targets[axis] = (size, size / sizes[axis] if sizes[axis] else 1.0)
        return targets
    if unknown:
        return [(UNKNOWN, None) if axis in axes else None for axis in range(len(sizes))]
    if any(sizes[axis] == 0 for axis in axes):
        policy = attributes["keep_aspect_ratio_policy"]
        raise SpecError(
            f"an input of shape {tuple(sizes)}, expected no size of 0 with keep_aspect_ratio_policy={policy!r}"
        )
    choose = min if attributes["keep_aspect_ratio_policy"] == "not_larger" else max
    scale = choose(size / sizes[axis] for axis, size in zip(axes, wanted, strict=True))
    for axis in axes:
        targets[axis] = (math.floor(scale * sizes[axis] + 0.5), scale)
    return targets


def _scaled(size, scale):
    if not isinstance(size, str):
        return math.floor(size * np.float32(scale))
    return multiply(size, int(scale)) if scale == int(scale) else UNKNOWN


def _resize_infer(attributes, values):
    x, roi = values[0], values[1]
    _check_resize(attributes, x)
    given_scales, given_sizes = (has(attributes, name, values, at) for name, at in (("scales", 2), ("sizes", 3)))
    crops = attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
    if crops and roi is None and attributes["roi"] is None:
        raise SpecError("roi missing, expected it with coordinate_transformation_mode='tf_crop_and_resize'")
    scales, sizes = known(attributes, "scales", values, 2), known(attributes, "sizes", values, 3)
    if scales is None and sizes is None and (given_scales or given_sizes):
        axes = _chosen_axes(attributes["axes"], len(x.shape))
        return [Value(x.dtype, tuple(UNKNOWN if i in axes else size for i, size in enumerate(x.shape)))]
    if _absent(scales) == _absent(sizes):
        raise SpecError("expected one of scales and sizes")
    targets = _targets(attributes, x.shape, scales, sizes)
    return [Value(x.dtype, tuple(t[0] if t else size for t, size in zip(targets, x.shape, strict=True)))]


def _coordinates(mode, size, output, scale, roi):
    """The place in the input, in its numbers, of each number of the output.

    Rounding decides which number is nearest, so the precision of each step is ONNX Runtime's.
    """
    if mode == "asymmetric":
        return (np.arange(output) / scale).astype(np.float32)
    if mode == "half_pixel_symmetric":
        scale = np.float32(scale)
        offset = np.float32(size / 2) * (1 - np.float32(output) / (scale * np.float32(size)))
        return (offset + (np.arange(output) + 0.5) / np.float64(scale) - 0.5).astype(np.float32)
    x = np.arange(output, dtype=np.float32)
    scale, half = np.float32(scale), np.float32(0.5)
    if mode == "align_corners":
        return x * np.float32(size - 1) / np.float32(output - 1) if output > 1 else x * 0
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / scale
    if mode == "tf_crop_and_resize":
        start, end = np.float32(roi[0]), np.float32(roi[1])
        if output > 1:
            return start * np.float32(size - 1) + x * (end - start) * np.float32(size - 1) / np.float32(output - 1)
        return x + half * (start + end) * np.float32(size - 1)
    if mode == "pytorch_half_pixel" and output == 1:
        return x * 0
    return (x + half) / scale - half


def _taps(attributes, size, at):
    """Places (taps, outputs) in the input and their weights, for outputs at these coordinates."""
    if attributes["mode"] == "nearest":
        return np.clip(NEAREST_MODES[attributes["nearest_mode"]](at).astype(np.intp), 0, size - 1)[None], None
    if attributes["mode"] == "linear":
        at = np.clip(at, 0, size - 1)
        low = np.floor(at).astype(np.intp)
        share = at - low
        return np.stack([low, np.minimum(low + 1, size - 1)]), np.stack([1 - share, share])
    low = np.floor(at)
    share = (at - low).astype(np.float64)
    a = attributes["cubic_coeff_a"]
    distances = np.stack([share + 1, share, 1 - share, 2 - share])
    near = ((a + 2) * distances - (a + 3)) * distances * distances + 1
    far = ((a * distances - 5 * a) * distances + 8 * a) * distances - 4 * a
    weights = np.where(distances <= 1, near, far)
    places = low.astype(np.intp) + np.arange(-1, 3)[:, None]
    if attributes["exclude_outside"]:
        weights = np.where((places >= 0) & (places < size), weights, 0)
        weights /= weights.sum(axis=0)
    return np.clip(places, 0, size - 1), weights


def _resize_axis(attributes, x, axis, output, scale, roi):
    size = x.shape[axis]
    at = _coordinates(attributes["coordinate_transformation_mode"], size, output, scale, roi)
    places, weights = _taps(attributes, size, at)
    if weights is None:
        return x.take(places[0], axis=axis)
    weights = weights.astype(x.dtype).reshape(len(weights), -1, *[1] * (x.ndim - 1 - axis))
    y = x.take(places[0], axis=axis) * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        y += x.take(place, axis=axis) * weight
    return y


def _outside(x, axis, at):
    """The numbers of the output that are outside the input along one axis."""
    return ((at < 0) | (at > x.shape[axis] - 1)).reshape(-1, *[1] * (x.ndim - 1 - axis))


def _resize_run(attributes, weights, x, roi=None, scales=None, sizes=None):
    arrays = (x, roi, scales, sizes)
    roi, scales, sizes = (given(name, attributes, arrays, at) for at, name in enumerate(("roi", "scales", "sizes"), 1))
    if _absent(scales) == _absent(sizes):
        raise InputError("expected one of scales and sizes")
    targets = _targets(attributes, x.shape, scales, sizes)
    if 0 in x.shape:
        raise InputError(f"input of shape {x.shape}, expected no size 0")
    crops = attributes["coordinate_transformation_mode"] == "tf_crop_and_resize"
    axes = _chosen_axes(attributes["axes"], x.ndim)
    y, outside = x, np.zeros((), bool)
    for axis, target in enumerate(targets):
        if target is None:
            continue
        part = (roi[axes.index(axis)], roi[axes.index(axis) + len(axes)]) if crops else None
        if crops:
            at = _coordinates("tf_crop_and_resize", x.shape[axis], target[0], target[1], part)
            outside = outside | _outside(x, axis, at)
        y = _resize_axis(attributes, y, axis, target[0], target[1], part)
    if outside.any():
        y = np.where(outside, y.dtype.type(attributes["extrapolation_value"]), y)
    return y


def _resize_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    return carried(axis if _stays(attributes, rank, axis) else None for axis in range(rank))


def _stays(attributes, rank, axis):
    """Whether an axis is resized to its own size, whatever that is."""
    if attributes["axes"] is not None and axis not in _chosen_axes(attributes["axes"], rank):
        return True
    scales = attributes["scales"]
    if scales is None or attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        return False
    return scales[_chosen_axes(attributes["axes"], rank).index(axis)] == 1


RESIZE_SCHEMA = {
    "roi": Numbers(None, position=1, longest=2 * MAX_RANK),
    "scales": Numbers(None, position=2, longest=MAX_RANK),
    "sizes": Integers(None, position=3, least=0, most=MAX_SIZE, longest=MAX_RANK),
    "mode": Choice("nearest", among=MODES),
    "coordinate_transformation_mode": Choice("half_pixel", among=TRANSFORMS),
    "nearest_mode": Choice("round_prefer_floor", among=tuple(NEAREST_MODES)),
    "cubic_coeff_a": Real(-0.75),
    "exclude_outside": Flag(0),
    "extrapolation_value": Real(0.0),
    "keep_aspect_ratio_policy": Choice("stretch", among=POLICIES),
    "antialias": Choice(0, among=(0,)),
    "axes": Axes(None),
}


# ---- Upsample ----------------------------------------------------------------------------------------------------


def _upsampling(attributes):
    """An Upsample's attributes as those of the Resize that took its place."""
    defaults = {name: kind.default for name, kind in RESIZE_SCHEMA.items()}
    asymmetric = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return {**defaults, **asymmetric, **attributes}


def _upsample_infer(attributes, values):
    x, scales = values
    return _resize_infer(_upsampling(attributes), [x, None, scales, None])


def _upsample_run(attributes, weights, x, scales=None):
    return _resize_run(_upsampling(attributes), weights, x, None, scales)


OPS = [
    Op(
        "Pad",
        infer=_pad_infer,
        run=_pad_run,
        dimensions=_pad_dimensions,
        arity=(1, 4),
        schema={
            "pads": Integers(None, position=1, least=-MAX_SIZE, most=MAX_SIZE, longest=2 * MAX_RANK),
            "constant_value": Number(None, position=2),
            "axes": Axes(None, position=3),
            "mode": Choice("constant", among=PAD_MODES),
        },
        ends=PAD,
    ),
    Op(
        "Resize",
        infer=_resize_infer,
        run=_resize_run,
        dimensions=_resize_dimensions,
        arity=(1, 4),
        schema=RESIZE_SCHEMA,
    ),
    Op(
        "Upsample",
        infer=_upsample_infer,
        run=_upsample_run,
        dimensions=lambda attributes, inputs, outputs: _resize_dimensions(_upsampling(attributes), inputs, outputs),
        arity=(1, 2),
        schema={
            "scales": RESIZE_SCHEMA["scales"].replace(position=1),
            "mode": Choice("nearest", among=("nearest", "linear")),
        },
    ),
]
