"""Comparisons, conditions and choices under their ONNX names."""

from __future__ import annotations

import operator
from dataclasses import replace

import numpy as np

from rnncore.errors import SpecError
from rnncore.ops import sizes
from rnncore.ops.base import DTYPES, UNKNOWN, Op, Value, broadcast
from rnncore.ops.checks import FLOATS, NUMBERS, follow, need, on_numbers, one_dtype
from rnncore.ops.dimensions import spreading

__all__ = ["OPS"]


def _same_size(a, b):
    """Whether two elements are equal, where that is known: a size is never negative."""
    if UNKNOWN not in (a, b):
        if a == b or (not isinstance(a, str) and not isinstance(b, str)):
            return a == b
        for size, other in ((a, b), (b, a)):
            if isinstance(size, str) and sizes.is_natural(size) and not isinstance(other, str) and other < 0:
                return False
    return UNKNOWN


def _comparison(name, function, dtypes, data):
    def infer(attributes, values):
        rounded = one_dtype(values) in FLOATS  # when it is run, so that what differs here may not differ then
        need(values[0], dtypes)
        return [Value("bool", broadcast(values), None if rounded else follow("bool", data, *values))]

    def bound(attributes, values, floating):
        return function

    return Op(name, infer, lambda a, w, x, y: function(x, y), arity=(2, 2), bound=bound)


def _not_infer(attributes, values):
    need(values[0], ("bool",))
    return [Value("bool", values[0].shape, follow("bool", lambda item: not item, values[0]))]


def _where_infer(attributes, values):
    condition, *others = values
    need(condition, ("bool",), "condition")
    if others[0].dtype != others[1].dtype:
        raise SpecError(f"inputs are {' and '.join(map(str, others))}, expected one dtype")
    data = follow(others[0].dtype, lambda c, x, y: x if c else y, *values)
    return [Value(others[0].dtype, broadcast(values), data)]


OPS = [
    _comparison("Equal", np.equal, DTYPES, _same_size),
    _comparison("Greater", np.greater, NUMBERS, on_numbers(operator.gt)),
    _comparison("GreaterOrEqual", np.greater_equal, NUMBERS, on_numbers(operator.ge)),
    _comparison("Less", np.less, NUMBERS, on_numbers(operator.lt)),
    _comparison("LessOrEqual", np.less_equal, NUMBERS, on_numbers(operator.le)),
    _comparison("And", np.logical_and, ("bool",), operator.and_),
    _comparison("Or", np.logical_or, ("bool",), operator.or_),
    _comparison("Xor", np.logical_xor, ("bool",), operator.xor),
    Op("Not", _not_infer, lambda a, w, x: np.logical_not(x)),
    # What is not taken may be NaN.
    Op("Where", _where_infer, lambda a, w, condition, x, y: np.where(condition, x, y), arity=(3, 3)),
]
OPS = [replace(op, spreads=True, dimensions=spreading) for op in OPS]
