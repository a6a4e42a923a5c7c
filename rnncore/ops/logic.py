"""Comparisons, conditions and the little around them that masks are made of, under their ONNX names.

An operand that ONNX passes as a constant second (Equal, Gather) or third (Where) input may be a number here: the
attribute "value" or "index".
"""

from __future__ import annotations

import math

import numpy as np

from rnncore.errors import SpecError
from rnncore.ops.base import Op, Value, axis_of, broadcast, whole_over_axis

__all__ = ["OPS"]


def _number(attributes, dtype):
    """The attribute "value", a finite number that the dtype can hold."""
    value = attributes["value"]
    kinds = (int, float) if dtype == "float" else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise SpecError(f"value={value!r}, expected a finite number of dtype {dtype}")


def _equal_infer(attributes, values):
    if len(values) == 1:
        _number(attributes, values[0].dtype)
    elif attributes["value"] is not None:
        raise SpecError(f"value={attributes['value']!r} and a second input, expected one of them")
    if len({value.dtype for value in values}) > 1:
        raise SpecError(f"inputs are {' and '.join(map(str, values))}, expected one dtype")
    return [Value("bool", broadcast(values))]


def _equal(attributes, weights, x, y=None):
    """x == y, or x == value."""
    return x == (x.dtype.type(attributes["value"]) if y is None else y)


def _not_infer(attributes, values):
    _need_bool(values[0], "input")
    return [values[0]]


def _where_infer(attributes, values):
    _need_bool(values[0], "condition")
    if len(values) == 2:
        _number(attributes, values[1].dtype)
    elif attributes["value"] is not None or values[1].dtype != values[2].dtype:
        raise SpecError(f"inputs are {' and '.join(map(str, values))}, expected two of one dtype, or one and a value")
    return [Value(values[1].dtype, broadcast(values))]


def _where(attributes, weights, condition, x, y=None):
    """x where the condition holds, elsewhere y or value; what is not taken may be NaN."""
    return np.where(condition, x, x.dtype.type(attributes["value"]) if y is None else y)


def _reduce_infer(attributes, values):
    axis = axis_of(attributes["axis"], len(values[0].shape))
    if not isinstance(attributes["keepdims"], bool):
        raise SpecError(f"keepdims={attributes['keepdims']!r}, expected true or false")
    kept = (1,) if attributes["keepdims"] else ()
    return [Value(values[0].dtype, (*values[0].shape[:axis], *kept, *values[0].shape[axis + 1 :]))]


def _squeeze_infer(attributes, values):
    axis = axis_of(attributes["axis"], len(values[0].shape))
    if values[0].shape[axis] != 1:
        raise SpecError(f"input is {values[0]}, expected size 1 at axis {axis}")
    return [Value(values[0].dtype, (*values[0].shape[:axis], *values[0].shape[axis + 1 :]))]


def _gather_infer(attributes, values):
    axis = axis_of(attributes["axis"], len(values[0].shape))
    index, size = attributes["index"], values[0].shape[axis]
    limit = size if isinstance(size, int) else 1 << 31
    if isinstance(index, bool) or not isinstance(index, int) or not -limit <= index < limit:
        raise SpecError(f"index={index!r}, expected an integer from {-limit} to {limit - 1}")
    return [Value(values[0].dtype, (*values[0].shape[:axis], *values[0].shape[axis + 1 :]))]


def _gather(attributes, weights, x):
    """The slice of x at one index of an axis, without that axis."""
    try:
        return np.take(x, attributes["index"], axis=attributes["axis"])
    except IndexError as error:
        raise ValueError(str(error)) from None


def _need_bool(value, what):
    if value.dtype != "bool":
        raise SpecError(f"{what} is {value}, expected bool")


OPS = [
    Op("Equal", _equal_infer, _equal, arity=(1, 2), attributes={"value": None}),
    Op("Not", _not_infer, lambda a, w, x: ~x),
    Op("Where", _where_infer, _where, arity=(2, 3), attributes={"value": None}),
    Op(
        "ReduceMin",
        _reduce_infer,
        lambda a, w, x: x.min(axis=a["axis"], keepdims=a["keepdims"]),
        time=whole_over_axis,
        attributes={"axis": ..., "keepdims": True},
    ),
    Op("Squeeze", _squeeze_infer, lambda a, w, x: x.squeeze(a["axis"]), attributes={"axis": ...}),
    Op("Gather", _gather_infer, _gather, time=whole_over_axis, attributes={"axis": 0, "index": ...}),
]
