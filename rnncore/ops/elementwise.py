"""Element-by-element ops under their ONNX names, and the softmax and norm families over one axis."""

from __future__ import annotations

import numpy as np

from rnncore.errors import SpecError
from rnncore.ops.base import Op, Value, axis_of, broadcast, need_float, whole_over_axis

__all__ = ["OPS"]


def _same(attributes, values):
    need_float(values[0])
    return [values[0]]


def _same_over_axis(attributes, values):
    need_float(values[0])
    axis_of(attributes["axis"], len(values[0].shape))
    return [values[0]]


def _binary(attributes, values):
    dtypes = {value.dtype for value in values}
    if len(dtypes) > 1:
        raise SpecError(f"inputs of dtype {' and '.join(sorted(dtypes))}, expected one dtype")
    return [Value(values[0].dtype, broadcast(values))]


def _sigmoid(attributes, weights, x):
    with np.errstate(under="ignore"):
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, x.dtype.type(1), e) / (1 + e)


def _softmax(attributes, weights, x):
    axis = attributes["axis"]
    e = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax(attributes, weights, x):
    axis = attributes["axis"]
    d = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return d - np.log(np.exp(d).sum(axis=axis, keepdims=True))


def _lp_infer(attributes, values):
    if attributes["p"] not in (1, 2):
        raise SpecError(f"p={attributes['p']!r}, expected 1 or 2")
    return _same_over_axis(attributes, values)


def _lp_normalization(attributes, weights, x):
    """x / norm over one axis; 0 where the norm is 0, as ONNX Runtime does."""
    axis = attributes["axis"]
    if attributes["p"] == 1:
        norm = np.abs(x).sum(axis=axis, keepdims=True)
    else:
        norm = np.sqrt(np.square(x).sum(axis=axis, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)


def _concat_infer(attributes, values):
    rank = len(values[0].shape)
    axis = axis_of(attributes["axis"], rank)
    shape = list(values[0].shape)
    for value in values[1:]:
        others = [i for i in range(rank) if i != axis]
        if value.dtype != values[0].dtype or len(value.shape) != rank:
            raise SpecError(f"inputs are {values[0]} and {value}, expected one dtype and rank")
        for i in others:
            if isinstance(shape[i], int) and isinstance(value.shape[i], int) and shape[i] != value.shape[i]:
                raise SpecError(f"inputs are {values[0]} and {value}, which differ outside axis {axis}")
        both = isinstance(shape[axis], int) and isinstance(value.shape[axis], int)
        shape[axis] = shape[axis] + value.shape[axis] if both else f"{shape[axis]}+{value.shape[axis]}"
    return [Value(values[0].dtype, tuple(shape))]


OPS = [
    Op("Relu", _same, lambda a, w, x: np.maximum(x, 0)),
    Op("Tanh", _same, lambda a, w, x: np.tanh(x)),
    Op("Sigmoid", _same, _sigmoid),
    Op("Softmax", _same_over_axis, _softmax, time=whole_over_axis, attributes={"axis": -1}),
    Op("LogSoftmax", _same_over_axis, _log_softmax, time=whole_over_axis, attributes={"axis": -1}),
    Op("LpNormalization", _lp_infer, _lp_normalization, time=whole_over_axis, attributes={"axis": -1, "p": 2}),
    Op("Add", _binary, lambda a, w, x, y: x + y, arity=(2, 2)),
    Op("Mul", _binary, lambda a, w, x, y: x * y, arity=(2, 2)),
    Op(
        "Concat",
        _concat_infer,
        lambda a, w, *arrays: np.concatenate(arrays, axis=a["axis"]),
        time=whole_over_axis,
        arity=(1, 64),
        attributes={"axis": ...},
    ),
]
