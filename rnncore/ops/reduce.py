"""Sums, means, norms and extremes over axes, under their ONNX names.

``axes`` absent or empty means all of them, with noop_with_empty_axes none. Nothing at all gives a sum of 0, a
product of 1, and the lowest or highest that the dtype has as maximum or minimum. Integers keep their dtype.
"""

from __future__ import annotations

from itertools import count

import numpy as np

from rnncore.errors import SpecError
from rnncore.ops import sizes
from rnncore.ops.base import UNKNOWN, Op, Value, given, has, known, numpy_dtype
from rnncore.ops.checks import FLOATS, INTEGERS, NUMBERS, axes_of, fitting, need
from rnncore.ops.dimensions import carried
from rnncore.ops.schema import Axes, Flag

__all__ = ["OPS"]

SUMMED = (*FLOATS, "int32", "int64", "uint32", "uint64")


def _reduction(name, function, dtypes=SUMMED, data=None):
    """function(x, axes, keepdims), axes counted from 0; data(*elements) of a small list while inferring."""

    def infer(attributes, values):
        x = values[0]
        need(x, dtypes)
        shape = _shape(attributes, values)
        listed = data is not None and x.data is not None and len(x.shape) == 1 and shape in ((), (1,))
        return [Value(x.dtype, shape, fitting(x.dtype, (data(*x.data),)) if listed and x.dtype in INTEGERS else None)]

    def run(attributes, weights, *arrays):
        x = arrays[0]
        axes = given("axes", attributes, arrays, 1)
        if not axes:
            axes = () if attributes["noop_with_empty_axes"] else None
        return np.asarray(function(x, axes, bool(attributes["keepdims"])), x.dtype)

    def bound(attributes, values, floating):
        axes, keepdims = attributes["axes"], bool(attributes["keepdims"])
        if not axes or len(values) > 1:
            return None
        dtype = numpy_dtype(values[0].dtype, floating)
        return lambda x: np.asarray(function(x, axes, keepdims), dtype)

    schema = {"axes": Axes(None, position=1), "keepdims": Flag(True), "noop_with_empty_axes": Flag(False)}
    return Op(name, infer, run, _dimensions, arity=(1, 2), schema=schema, bound=bound)


def _shape(attributes, values):
    x, keepdims, noop = values[0], attributes["keepdims"], attributes["noop_with_empty_axes"]
    rank = len(x.shape)
    axes = known(attributes, "axes", values, 1)
    if axes is None and has(attributes, "axes", values, 1):
        need(values[1], ("int64",), "axes", rank=1)
        if not keepdims:
            raise SpecError(f"axes are {values[1]} without keepdims, expected constants: they decide the rank")
        return (UNKNOWN,) * rank
    every = () if noop else range(rank)
    axes = every if axes is None or axes == () else axes_of(axes, rank)
    if keepdims:
        return tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    return tuple(size for axis, size in enumerate(x.shape) if axis not in axes)


def _dimensions(attributes, inputs, outputs):
    axes, rank = attributes["axes"], len(inputs[0].shape)
    if axes is None and has(attributes, "axes", inputs, 1):
        return []
    every = () if attributes["noop_with_empty_axes"] else range(rank)
    reduced = axes_of(axes, rank) if axes else every
    return carried(_places_left(rank, reduced, attributes["keepdims"]))


def _places_left(rank, removed, keepdims):
    """The place of each axis of the input in the output; None for those that are reduced."""
    left = count()
    return [None if axis in removed else axis if keepdims else next(left) for axis in range(rank)]


def _sum(x, axes, keepdims):
    return np.add.reduce(x, axis=axes, dtype=x.dtype, keepdims=keepdims)


def _prod(x, axes, keepdims):
    return np.multiply.reduce(x, axis=axes, dtype=x.dtype, keepdims=keepdims)


def _extreme(function, lowest):
    def run(x, axes, keepdims):
        return function.reduce(x, axis=axes, keepdims=keepdims, initial=_limit(x.dtype, lowest))

    return run


def _limit(dtype, lowest):
    if dtype.kind == "b":
        return not lowest
    if dtype.kind == "f":
        return dtype.type(-np.inf if lowest else np.inf)
    return getattr(np.iinfo(dtype), "min" if lowest else "max")


def _mean(x, axes, keepdims):
    """Integers are divided with truncation."""
    total = _sum(x, axes, keepdims)
    count = x.size // max(total.size, 1)
    if x.dtype.kind == "f":
        return total if count == 1 else total / x.dtype.type(count)
    return np.trunc(total / count) if count else total


def _l2(x, axes, keepdims):
    """Of integers by way of float64."""
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    return np.sqrt(_sum(np.square(x), axes, keepdims))


def _log_sum_exp(x, axes, keepdims):
    """log(sum(e^x)), taken from the largest x, without overflow."""
    top = np.maximum.reduce(x, axis=axes, keepdims=True, initial=x.dtype.type(-np.inf))
    top = np.where(np.isfinite(top), top, x.dtype.type(0))
    y = np.log(_sum(np.exp(x - top), axes, True)) + top
    return y if keepdims else y.squeeze(tuple(range(x.ndim)) if axes is None else axes)


OPS = [
    _reduction("ReduceSum", _sum, data=sizes.add),
    _reduction("ReduceMean", _mean),
    _reduction("ReduceProd", _prod, data=sizes.multiply),
    _reduction("ReduceMax", _extreme(np.maximum, True), (*NUMBERS, "bool")),
    _reduction("ReduceMin", _extreme(np.minimum, False), (*NUMBERS, "bool")),
    _reduction("ReduceL1", lambda x, axes, keepdims: _sum(np.abs(x), axes, keepdims)),
    _reduction("ReduceL2", _l2),
    _reduction("ReduceSumSquare", lambda x, axes, keepdims: _sum(np.square(x), axes, keepdims)),
    _reduction("ReduceLogSum", lambda x, axes, keepdims: np.log(_sum(x, axes, keepdims)), FLOATS),
    _reduction("ReduceLogSumExp", _log_sum_exp, FLOATS),
]
