"""Pooling over windows and over all of the spatial axes, (N, C, *spatial), under its ONNX names.

Windows are separable: one axis is reduced after the other, so the work grows with the sum of the kernel's sizes.
MaxPool and AveragePool of float32 are compiled: kernels/_pooling.pyx.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from rnncore.errors import SpecError
from rnncore.kernels import _pooling, runs_native
from rnncore.ops import blocks
from rnncore.ops.base import Op, Value, mean
from rnncore.ops.checks import need
from rnncore.ops.dimensions import carried
from rnncore.ops.schema import Choice, Flag, Size
from rnncore.ops.windows import (
    KERNEL,
    WINDOW_SCHEMA,
    Window,
    check_sizes,
    need_images,
    unpadded,
    window_dimensions,
)

__all__ = ["OPS"]

FLOATS = ("float", "float64")


def _window(attributes, axes):
    kernel = check_sizes(attributes, "kernel_shape", axes, 1, 1)
    window = Window.of(attributes, kernel, bool(attributes["ceil_mode"]))
    for axis in range(axes):
        if max(window.begins[axis], window.ends[axis]) >= window.extent(axis):
            described = f"pads={list(attributes['pads'])} with kernel_shape={list(kernel)}"
            raise SpecError(f"{described}, expected pads smaller than the window")
    return window


def _infer(dtypes):
    def infer(attributes, values):
        (x,) = values
        axes = need_images(x)
        need(x, dtypes)
        sizes = _window(attributes, axes).outputs(x.shape[2:])
        return [Value(x.dtype, (*x.shape[:2], *sizes))]

    return infer


def _met(attributes, x):
    """The part of x that windows meet, and the window over it: see Window.met."""
    parts, window = _window(attributes, x.ndim - 2).met(x.shape[2:])
    return x[(slice(None), slice(None), *parts)], window


def _slide(window, padded, outputs, reduce):
    """reduce(a, b) over every window, one axis after the other."""
    reduced = padded
    for axis, count in enumerate(outputs):
        before = (slice(None),) * (axis + 2)
        for place, tap in enumerate(window.taps(axis, count)):
            if place == 0:
                so_far = reduced[(*before, tap)]
                so_far = so_far.copy() if window.kernel[axis] > 1 else so_far
            else:
                blocks.apply(reduce, so_far, reduced[(*before, tap)], out=so_far)
        reduced = so_far
    return np.ascontiguousarray(reduced)


KEPT_SIZES = 16
"""Sizes of images whose compiled pooling a node keeps."""


def _packed(run, divisors=None):
    """Op.packed: ``run``, and for float32 the compiled largest number of each window, or its sum by ``divisors``."""

    def packed(attributes, weights, threads):
        if attributes.get("indices"):
            return None
        kept: dict[tuple[int, ...], Callable[..., Any]] = {}

        def compiled(sizes):
            whole = _window(attributes, len(sizes))
            by = divisors(attributes, whole, sizes) if divisors else None
            parts, window = whole.met(sizes)
            left = [len(range(size)[part]) for size, part in zip(sizes, parts, strict=True)]
            steps = (window.kernel, window.strides, window.dilations, window.begins)
            run = _pooling.Pooling(left, whole.outputs(sizes), *steps, divisors is None, by)
            return run if list(sizes) == left else lambda x: run(x[(slice(None), slice(None), *parts)])

        def pool(x):
            if not runs_native(x.dtype) or x.size == 0:
                return run(attributes, {}, x)
            sizes = x.shape[2:]
            run_compiled = kept.get(sizes)
            if run_compiled is None:
                if len(kept) >= KEPT_SIZES:
                    kept.clear()
                run_compiled = kept[sizes] = compiled(sizes)
            return run_compiled(x)

        return pool

    return packed


# ---- MaxPool -----------------------------------------------------------------------------------------------------


def _max_infer(attributes, values):
    inferred = _infer((*FLOATS, "int8", "uint8"))(attributes, values)
    return [*inferred, Value("int64", inferred[0].shape)] if attributes["indices"] else inferred


def _lowest(dtype):
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _max_run(attributes, weights, x):
    """The largest number of every window; with ``indices`` also its place in x, the first of equals."""
    whole, (x, window) = x, _met(attributes, x)
    padded, outputs = window.padded(x, _lowest(x.dtype))
    if not attributes["indices"]:
        return _slide(window, padded, outputs, np.maximum)
    inside, places = np.ones((), bool), np.zeros((), np.int64)
    shapes = (array.shape[2:] for array in (padded, x, whole))
    for space, part, size, begin in zip(*shapes, window.begins, strict=True):
        numbers = np.arange(space) - begin + size - part
        inside = inside[..., None] & (numbers >= size - part) & (numbers < size)
        places = places[..., None] * size + numbers
    y: Any = None
    place: Any = None
    for tap in window.all_taps(outputs):
        values = padded[(slice(None), slice(None), *tap)]
        valid, here = inside[tap], places[tap]
        if y is None:
            y, place = values.copy(), np.broadcast_to(np.where(valid, here, -1), values.shape).copy()
            continue
        better = valid & ((values > y) | (place < 0))
        y[better] = values[better]
        place[better] = np.broadcast_to(here, values.shape)[better]
    images = np.arange(x.shape[0] * x.shape[1]).reshape(x.shape[0], x.shape[1], *[1] * len(outputs))
    return y, place + images * math.prod(whole.shape[2:])


# ---- AveragePool, LpPool -----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _counts(window, sizes, with_pads):
    """The count that each window averages over: of the input, or of the padded input. float64."""
    begins, ends = window.pads(sizes)
    counts = np.ones(())
    for axis, (size, count) in enumerate(zip(sizes, window.outputs(sizes), strict=True)):
        first, last = (-begins[axis], size + ends[axis]) if with_pads else (0, size)
        at = np.arange(count) * window.strides[axis] - begins[axis]
        taps = [-((at - place) // window.dilations[axis]) for place in (first, last)]  # that are before these places
        before_first, before_last = (np.clip(number, 0, window.kernel[axis]) for number in taps)
        counts = counts[..., None] * (before_last - before_first)
    counts.flags.writeable = False
    return counts


def _divisors(attributes, window, sizes):
    return _counts(window, sizes, bool(attributes["count_include_pad"]))


def _average_run(attributes, weights, x):
    divisors = _divisors(attributes, _window(attributes, x.ndim - 2), x.shape[2:]).astype(x.dtype)
    x, window = _met(attributes, x)
    padded, outputs = window.padded(x, 0)
    sums = _slide(window, padded, outputs, np.add)
    return sums / divisors  # the sums of windows of one number may be x itself


def _lp_run(attributes, weights, x):
    """(sum |x|^p)^(1/p) of every window."""
    p = attributes["p"]
    x, window = _met(attributes, x)
    padded, outputs = window.padded(x, 0)
    powers = np.abs(padded) if p == 1 else np.square(padded) if p == 2 else np.abs(padded) ** p
    sums = _slide(window, powers, outputs, np.add)
    return sums if p == 1 else np.sqrt(sums) if p == 2 else sums ** x.dtype.type(1 / p)


# ---- over all spatial axes ---------------------------------------------------------------------------------------


def _global_infer(attributes, values):
    (x,) = values
    axes = need_images(x)
    need(x, FLOATS)
    return [Value(x.dtype, (*x.shape[:2], *[1] * axes))]


def _global(reduce):
    return lambda attributes, weights, x: reduce(attributes, x, tuple(range(2, x.ndim)))


def _global_lp(attributes, x, axes):
    p = attributes["p"]
    powers = np.abs(x) if p == 1 else np.abs(x) ** p
    return powers.sum(axis=axes, keepdims=True) ** x.dtype.type(1 / p)


def _dimensions(attributes, inputs, outputs):
    """Of the maxima; their places count from the beginning of everything."""
    window = _window(attributes, len(inputs[0].shape) - 2)
    return [*carried((0, 1)), *window_dimensions(window, inputs, outputs)]


def _global_dimensions(attributes, inputs, outputs):
    return carried((0, 1))


def _average_unpadded(attributes, axis, batch, rank, reach):
    """Op.unpadded; at the ends windows average over fewer positions, unless pads count."""
    result = unpadded(attributes, axis, batch, rank, reach)
    if not isinstance(result, str) and (reach.before or result[1]) and not attributes["count_include_pad"]:
        return "count_include_pad=0 with padding in time counts fewer steps at both ends"
    return result


def _pool(name, infer, run, outputs=("",), packed=None, padding=0.0, unpadded=unpadded, **schema):
    schema = {"kernel_shape": KERNEL.replace(default=...), **WINDOW_SCHEMA, "ceil_mode": Flag(0), **schema}
    return Op(
        name, infer, run, _dimensions, schema=schema, outputs=outputs, packed=packed, padding=padding, unpadded=unpadded
    )


OPS = [
    _pool(
        "MaxPool",
        _max_infer,
        _max_run,
        outputs=lambda attributes: ("", "indices") if attributes["indices"] else ("",),
        packed=_packed(_max_run),
        padding=-np.inf,
        storage_order=Choice(0, among=(0,)),
        indices=Flag(False),
    ),
    _pool(
        "AveragePool",
        _infer(FLOATS),
        _average_run,
        packed=_packed(_average_run, _divisors),
        unpadded=_average_unpadded,
        count_include_pad=Flag(0),
    ),
    _pool("LpPool", _infer(FLOATS), _lp_run, p=Size(2)),
    Op("GlobalAveragePool", _global_infer, _global(lambda a, x, axes: mean(x, axes)), _global_dimensions),
    Op(
        "GlobalMaxPool",
        _global_infer,
        _global(lambda a, x, axes: x.max(axis=axes, keepdims=True)),
        _global_dimensions,
    ),
    Op("GlobalLpPool", _global_infer, _global(_global_lp), _global_dimensions, schema={"p": Size(2)}),
]
