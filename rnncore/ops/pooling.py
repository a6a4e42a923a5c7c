"""Pooling over windows and over all of the spatial axes, (N, C, *spatial), under its ONNX names.

Windows are separable: one axis is reduced after the other, so the work grows with the sum of the kernel's sizes.
MaxPool and AveragePool of float32 are compiled: kernels/_pooling.pyx.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np

from rnncore.errors import SpecError
from rnncore.kernels import _pooling, runs_native
from rnncore.ops.base import Op, Value, mean
from rnncore.ops.checks import need
from rnncore.ops.schema import Choice, Flag, Size
from rnncore.ops.windows import KERNEL, WINDOW_SCHEMA, Window, check_sizes, need_images, window_context, window_time

__all__ = ["OPS"]

FLOATS = ("float", "float64")


def _window(attributes, axes):
    kernel = check_sizes(attributes, "kernel_shape", axes, 1, 1)
    window = Window.of(attributes, kernel, bool(attributes["ceil_mode"]))
    for axis in range(axes):
        if max(window.begins[axis], window.ends[axis]) >= window.extent(axis):
            found = f"pads={list(attributes['pads'])} with kernel_shape={list(kernel)}"
            raise SpecError(f"{found}, expected pads smaller than the window")
    return window


def _infer(dtypes):
    def infer(attributes, values):
        (x,) = values
        axes = need_images(x)
        need(x, dtypes)
        sizes = _window(attributes, axes).outputs(x.shape[2:])
        return [Value(x.dtype, (*x.shape[:2], *sizes))]

    return infer


def _slide(window, padded, outputs, reduce):
    """reduce(a, b) over every window, one axis after the other."""
    found = padded
    for axis, count in enumerate(outputs):
        taps = [found[(slice(None),) * (axis + 2) + (tap,)] for tap in window.taps(axis, count)]
        found = taps[0].copy() if len(taps) > 1 else taps[0]
        for tap in taps[1:]:
            reduce(found, tap, out=found)
    return np.ascontiguousarray(found)


KEPT_SIZES = 16
"""Sizes of images whose compiled pooling a node keeps."""


def _packed(run, divisors=None):
    """Op.packed: ``run``, and for float32 the compiled largest number of each window, or its sum by ``divisors``."""

    def packed(attributes, weights, threads):
        if attributes.get("indices"):
            return None
        kept = {}

        def compiled(sizes):
            window = _window(attributes, len(sizes))
            outputs, (begins, _) = window.outputs(sizes), window.pads(sizes)
            by = divisors(attributes, window, sizes) if divisors else None
            steps = (window.kernel, window.strides, window.dilations)
            return _pooling.Pooling(sizes, outputs, *steps, begins, divisors is None, by)

        def pool(x):
            if not runs_native(x.dtype) or x.size == 0:
                return run(attributes, {}, x)
            sizes = x.shape[2:]
            found = kept.get(sizes)
            if found is None:
                if len(kept) >= KEPT_SIZES:
                    kept.clear()
                found = kept[sizes] = compiled(sizes)
            return found(x)

        return pool

    return packed


# ---- MaxPool -----------------------------------------------------------------------------------------------------


def _max_infer(attributes, values):
    found = _infer((*FLOATS, "int8", "uint8"))(attributes, values)
    return [*found, Value("int64", found[0].shape)] if attributes["indices"] else found


def _lowest(dtype):
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _max_run(attributes, weights, x):
    """The largest number of every window; with ``indices`` also where in x it stands, the first of equals."""
    window = _window(attributes, x.ndim - 2)
    if not attributes["indices"]:
        return _slide(window, *window.padded(x, _lowest(x.dtype)), np.maximum)
    padded, outputs = window.padded(x, _lowest(x.dtype))
    begins, _ = window.pads(x.shape[2:])
    inside, places = np.ones((), bool), np.zeros((), np.int64)
    for padded_size, size, begin in zip(padded.shape[2:], x.shape[2:], begins, strict=True):
        numbers = np.arange(padded_size) - begin
        inside = inside[..., None] & (numbers >= 0) & (numbers < size)
        places = places[..., None] * size + numbers
    y = place = None
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
    return y, place + images * math.prod(x.shape[2:])


# ---- AveragePool, LpPool -----------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _counts(window, sizes, with_pads):
    """How many numbers each window averages over: those of the input, or those of the padded input."""
    begins, ends = window.pads(sizes)
    outputs = window.outputs(sizes)
    found = np.ones((), np.int64)
    for axis, (size, count) in enumerate(zip(sizes, outputs, strict=True)):
        numbers = np.arange(count)[:, None] * window.strides[axis]
        numbers = numbers + np.arange(window.kernel[axis]) * window.dilations[axis] - begins[axis]
        first, last = (-begins[axis], size + ends[axis]) if with_pads else (0, size)
        found = found[..., None] * ((numbers >= first) & (numbers < last)).sum(axis=1)
    found.flags.writeable = False
    return found


def _divisors(attributes, window, sizes):
    return _counts(window, sizes, bool(attributes["count_include_pad"]))


def _average_run(attributes, weights, x):
    window = _window(attributes, x.ndim - 2)
    sums = _slide(window, *window.padded(x, 0), np.add)
    return np.divide(sums, _divisors(attributes, window, x.shape[2:]).astype(x.dtype), out=sums)


def _lp_run(attributes, weights, x):
    """(sum |x|^p)^(1/p) of every window."""
    window, p = _window(attributes, x.ndim - 2), attributes["p"]
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


def _global_time(attributes, rank, time_axis):
    return "whole" if time_axis >= 2 else "pointwise"


def _time(attributes, rank, time_axis):
    return window_time(_window(attributes, rank - 2), time_axis)


def _context(attributes, rank, time_axis):
    return window_context(_window(attributes, rank - 2), time_axis)


def _pool(name, infer, run, outputs=("",), packed=None, **schema):
    schema = {"kernel_shape": replace(KERNEL, default=...), **WINDOW_SCHEMA, "ceil_mode": Flag(0), **schema}
    return Op(name, infer, run, time=_time, context=_context, schema=schema, outputs=outputs, packed=packed)


OPS = [
    _pool(
        "MaxPool",
        _max_infer,
        _max_run,
        outputs=lambda attributes: ("", "indices") if attributes["indices"] else ("",),
        packed=_packed(_max_run),
        storage_order=Choice(0, among=(0,)),
        indices=Flag(False),
    ),
    _pool(
        "AveragePool",
        _infer(FLOATS),
        _average_run,
        packed=_packed(_average_run, _divisors),
        count_include_pad=Flag(0),
    ),
    _pool("LpPool", _infer(FLOATS), _lp_run, p=Size(2)),
    Op("GlobalAveragePool", _global_infer, _global(lambda a, x, axes: mean(x, axes)), _global_time),
    Op("GlobalMaxPool", _global_infer, _global(lambda a, x, axes: x.max(axis=axes, keepdims=True)), _global_time),
    Op("GlobalLpPool", _global_infer, _global(_global_lp), _global_time, schema={"p": Size(2)}),
]
