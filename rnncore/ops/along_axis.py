"""Ops under their ONNX names that keep the shape and look along one axis: softmax, norms, running sums."""

from __future__ import annotations

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.kernels import _program
from rnncore.ops import blocks
from rnncore.ops.base import Op, axis_of, given, has, known
from rnncore.ops.checks import FLOATS, need, need_scalar, single
from rnncore.ops.dimensions import CAUSAL, Dimension, Reach, carried, kept
from rnncore.ops.schema import Axis, Choice, Flag

__all__ = ["OPS"]

SUMMED = (*FLOATS, "int32", "int64", "uint32", "uint64")


def _same_over_axis(attributes, values):
    need(values[0], FLOATS)
    axis_of(attributes["axis"], len(values[0].shape))
    return [values[0].without_data]


def _by_rows(run):
    """The run of an op that looks along its attribute ``axis``, of long inputs in parts."""
    return lambda attributes, weights, x: blocks.along(
        lambda part: run(attributes, weights, part), x, (attributes["axis"],)
    )


def _softmax(attributes, weights, x):
    axis = attributes["axis"]
    y = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    np.exp(y, out=y)
    y /= y.sum(axis=axis, keepdims=True)
    return y


def _log_softmax(attributes, weights, x):
    axis = attributes["axis"]
    d = x - x.max(axis=axis, keepdims=True, initial=-np.inf)
    return d - np.log(np.exp(d).sum(axis=axis, keepdims=True))


def _bind_softmax(logarithm):
    """Over the last axis of C-contiguous numbers; others run as they are."""

    def bind(compiler, attributes, inputs, outputs):
        x, y = inputs[0], outputs[0]
        last = attributes["axis"] in (-1, len(x.shape) - 1)
        if not (last and x.dense and x.dtype.char in "fd" and 0 < x.size <= blocks.ELEMENTS):
            return False
        compiler.emit(_program.Softmax(x, y, logarithm), [x], [y])
        return True

    return bind


def _hardmax(attributes, weights, x):
    """1 at the first of the largest, 0 elsewhere."""
    axis = attributes["axis"]
    y = np.zeros_like(x)
    if x.size:
        np.put_along_axis(y, np.expand_dims(x.argmax(axis=axis), axis), 1, axis)
    return y


def _lp_normalization(attributes, weights, x):
    """x / norm over one axis; 0 where the norm is 0, as ONNX Runtime does."""
    axis = attributes["axis"]
    if attributes["p"] == 1:
        norm = np.abs(x).sum(axis=axis, keepdims=True)
    else:
        norm = np.sqrt(np.square(x).sum(axis=axis, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm != 0)


# --- running sums and products -------------------------------------------------------------------------------------


def _running_infer(attributes, values):
    x, axis = values
    need(x, SUMMED)
    if not has(attributes, "axis", values, 1):
        raise SpecError("axis missing, expected it as an attribute or an input")
    if axis is not None:
        need_scalar(axis, ("int32", "int64"), "axis")
    known_axis = single(known(attributes, "axis", values, 1))
    if known_axis is not None:
        axis_of(known_axis, len(x.shape))
    return [x.without_data]


def _running_dimensions(attributes, inputs, outputs):
    rank, axis = len(inputs[0].shape), single(known(attributes, "axis", inputs, 1))
    if type(axis) is not int:
        return []
    axis %= rank
    reach = Reach(0, None) if attributes["reverse"] else CAUSAL
    return [*carried(None if i == axis else i for i in range(rank)), Dimension({0: axis}, {0: axis}, reach)]


def _running(function, neutral):
    def run(attributes, weights, *arrays):
        """Exclusive: the total before each element, beginning with the neutral one."""
        x = arrays[0]
        axis = single(given("axis", attributes, arrays, 1))
        if not -x.ndim <= axis < x.ndim:
            raise InputError(f"axis={axis}, expected an integer from {-x.ndim} to {x.ndim - 1}")
        axis %= x.ndim
        if attributes["reverse"]:
            x = np.flip(x, axis)

        def along(part):
            return function(part, axis, x.dtype)

        if attributes["exclusive"]:
            before = (slice(None),) * axis
            out = np.full(x.shape, neutral, x.dtype)
            so_far = x[(*before, slice(None, -1))]
            out[(*before, slice(1, None))] = blocks.along(along, so_far, (axis,))
        else:
            out = blocks.along(along, x, (axis,))
        return np.flip(out, axis) if attributes["reverse"] else out

    return run


def _running_op(name, function, neutral):
    return Op(
        name,
        _running_infer,
        _running(function, neutral[0]),
        _running_dimensions,
        arity=(1, 2),
        schema={"axis": Axis(None, position=1), "exclusive": Flag(False), "reverse": Flag(False)},
        neutral=neutral,
    )


ALONG = kept(lambda attributes, rank: (attributes["axis"] % rank,))

OPS = [
    Op(
        "Softmax",
        _same_over_axis,
        _by_rows(_softmax),
        ALONG,
        schema={"axis": Axis(-1)},
        bind=_bind_softmax(logarithm=False),
    ),
    Op(
        "LogSoftmax",
        _same_over_axis,
        _by_rows(_log_softmax),
        ALONG,
        schema={"axis": Axis(-1)},
        bind=_bind_softmax(logarithm=True),
    ),
    Op("Hardmax", _same_over_axis, _by_rows(_hardmax), ALONG, schema={"axis": Axis(-1)}),
    Op(
        "LpNormalization",
        _same_over_axis,
        _by_rows(_lp_normalization),
        ALONG,
        schema={"axis": Axis(-1), "p": Choice(2, among=(1, 2))},
    ),
    _running_op("CumSum", np.cumsum, (0, -0.0)),
    _running_op("CumProd", np.cumprod, (1, 1)),
]
