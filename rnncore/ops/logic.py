"""Comparisons, conditions and choices under their ONNX names."""

from __future__ import annotations

import numpy as np

from rnncore.errors import SpecError
from rnncore.ops import sizes
from rnncore.ops.base import DTYPES, UNKNOWN, Op, Value, broadcast
from rnncore.ops.checks import NUMBERS, follow, need, one_dtype

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


def _comparison(name, function, dtypes=NUMBERS, data=None):
    def infer(attributes, values):
        one_dtype(values)
        need(values[0], dtypes)
        return [Value("bool", broadcast(values), follow("bool", data, *values) if data else None)]

    return Op(name, infer, lambda a, w, x, y: function(x, y), arity=(2, 2))


def _not_infer(attributes, values):
    need(values[0], ("bool",))
    return [Value("bool", values[0].shape)]


def _where_infer(attributes, values):
    condition, *others = values
    need(condition, ("bool",), "condition")
    if others[0].dtype != others[1].dtype:
        raise SpecError(f"inputs are {' and '.join(map(str, others))}, expected one dtype")
    data = follow(others[0].dtype, lambda c, x, y: x if c else y, *values)
    return [Value(others[0].dtype, broadcast(values), data)]


OPS = [
    _comparison("Equal", np.equal, DTYPES, _same_size),
    _comparison("Greater", np.greater),
    _comparison("GreaterOrEqual", np.greater_equal),
    _comparison("Less", np.less),
    _comparison("LessOrEqual", np.less_equal),
    _comparison("And", np.logical_and, ("bool",)),
    _comparison("Or", np.logical_or, ("bool",)),
    _comparison("Xor", np.logical_xor, ("bool",)),
    Op("Not", _not_infer, lambda a, w, x: np.logical_not(x)),
    # What is not taken may be NaN.
    Op("Where", _where_infer, lambda a, w, condition, x, y: np.where(condition, x, y), arity=(3, 3)),
]
