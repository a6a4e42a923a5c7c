"""Element-by-element ops under their ONNX names: functions, arithmetic, activations, dtypes, bits.

Inputs of one node have one dtype and broadcast against each other. Integers wrap around; NaN and infinities are
results, not errors. Softmax and others that look along an axis are in ops/along_axis.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, reduce
from typing import Any

import numpy as np

from rnncore.errors import SpecError
from rnncore.kernels import _activations
from rnncore.ops import sizes
from rnncore.ops.base import DTYPES, UNKNOWN, Op, Value, broadcast, has, known, numpy_dtype
from rnncore.ops.checks import (
    FLOATS,
    INTEGERS,
    NUMBERS,
    SIGNED,
    follow,
    need,
    need_scalar,
    on_numbers,
    one_dtype,
    single,
)
from rnncore.ops.dimensions import of_first, spreading
from rnncore.ops.schema import Choice, Flag, Integer, Number, Real

__all__ = ["OPS"]

SIGNED_NUMBERS = (*FLOATS, *SIGNED)
FEW = 1024  # elements; up to here NumPy makes a new array sooner than it looks whether it may write over the old one
ONES = {char: np.ones((), char) for char in "fd"}
WIDE = (*FLOATS, "int32", "int64", "uint32", "uint64")


# --- functions of one value ----------------------------------------------------------------------------------------


def _unary(name: str, function: Callable[..., Any], dtypes=FLOATS, data: Callable[[Any], Any] | None = None) -> Op:
    def infer(attributes, values):
        need(values[0], dtypes)
        x = values[0]
        return [Value(x.dtype, x.shape, follow(x.dtype, data, x)) if data and x.data is not None else x.without_data]

    return Op(name, infer, lambda a, w, x: function(x), bound=lambda a, values, floating: function)


def _relu_bound(attributes, values, floating):
    return _relu_of(numpy_dtype(values[0].dtype, floating))


@cache
def _relu_of(dtype: np.dtype) -> Callable[..., Any]:
    zero = np.zeros((), dtype)  # which takes NumPy less than a number of Python
    return lambda x: np.maximum(x, zero)


def _erf(x):
    from scipy import special  # 100 ms to import

    return special.erf(x).astype(x.dtype, copy=False)


# --- activations ---------------------------------------------------------------------------------------------------


def _activation(name: str, function: Callable[..., Any], **numbers: float) -> Op:
    """function(x, *numbers): the op's attributes, which are finite numbers, in their order; float16 in float32."""

    def infer(attributes, values):
        need(values[0], FLOATS)
        return [values[0].without_data]

    def run(attributes, weights, x):
        if not numbers and x.dtype.itemsize > 2:
            return function(x)
        wide = x.astype(np.float32) if x.dtype.itemsize == 2 else x
        y = function(wide, *[wide.dtype.type(attributes[key]) for key in numbers])
        return y.astype(x.dtype, copy=False)

    def bound(attributes, values, floating):
        dtype = numpy_dtype(values[0].dtype, floating)
        if dtype.itemsize == 2:
            return None
        given = [dtype.type(attributes[key]) for key in numbers]
        return (lambda x: function(x, *given)) if given else function

    return Op(name, infer, run, schema={key: Real(default) for key, default in numbers.items()}, bound=bound)


def _approximated(op: Op) -> Op:
    """The op with an attribute "approximate".

    "none"      within a few ulp
    "rational"  float32 by the quotient of polynomials that ONNX Runtime computes, for what integers are rounded from
                (passes/quantized.py); other dtypes as with "none"
    """
    kind = op.name.lower()

    def infer(attributes, values):
        inferred = op.infer(attributes, values)
        if attributes["approximate"] == "rational" and attributes.get("alpha", 1) != 1:
            raise SpecError(f"approximate='rational' with alpha={attributes['alpha']!r}, expected alpha=1")
        return inferred

    def run(attributes, weights, x):
        if attributes["approximate"] == "rational" and x.dtype == np.float32:
            return _activations.rational(kind, x)
        return op.run(attributes, weights, x)

    def bound(attributes, values, floating):
        if attributes["approximate"] == "rational" or op.bound is None:
            return None
        return op.bound(attributes, values, floating)

    schema = {**op.schema, "approximate": Choice("none", among=("none", "rational"))}
    return Op(op.name, infer, run, schema=schema, bound=bound)


def _sigmoid(x):
    """1 / (1 + e^-x): where e^-x overflows the result is below the smallest normal number, and 0."""
    if x.size <= FEW:
        return np.reciprocal(np.add(np.exp(np.negative(x)), ONES[x.dtype.char]))
    y = np.empty_like(x)
    np.negative(x, out=y)
    np.exp(y, out=y)
    y += x.dtype.type(1)
    return np.reciprocal(y, out=y)


def _swish(x, alpha):
    """x / (1 + e^(-alpha x)): where the sum overflows the result is 0 with the sign of x."""
    y = np.empty_like(x)
    np.multiply(x, -alpha, out=y)
    np.exp(y, out=y)
    y += x.dtype.type(1)
    return np.divide(x, y, out=y)


def _leaky_relu(x, alpha):
    return np.where(x >= 0, x, alpha * x)


def _elu(x, alpha):
    return np.where(x >= 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _selu(x, alpha, gamma):
    return gamma * _elu(x, alpha)


def _celu(x, alpha):
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(np.minimum(x, 0) / alpha), 0)


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _hard_sigmoid(x, alpha, beta):
    return np.minimum(np.maximum(alpha * x + beta, 0), 1)


def _shrink(x, lambd, bias):
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, x - x))  # NaN stays


def _shrink_infer(attributes, values):
    need(values[0], NUMBERS)
    return [values[0].without_data]


def _shrink_run(attributes, weights, x):
    """Of integers in float64, as lambd may be between them."""
    wide = x.astype(np.float64) if x.dtype.kind in "iu" else x.astype(np.float32) if x.dtype.itemsize == 2 else x
    shrunk = _shrink(wide, wide.dtype.type(attributes["lambd"]), wide.dtype.type(attributes["bias"]))
    return shrunk.astype(x.dtype, copy=False)


def _gelu(x):
    """x Phi(x) with the normal distribution's Phi."""
    from scipy import special

    return x * special.ndtr(x)


def _gelu_tanh(x):
    half, cubed, scale = x.dtype.type(0.5), x.dtype.type(0.044715), x.dtype.type(np.sqrt(2 / np.pi))
    return half * x * (1 + np.tanh(scale * (x + cubed * x * x * x)))


GELU = {"none": _activation("Gelu", _gelu), "tanh": _activation("Gelu", _gelu_tanh)}


def _prelu_infer(attributes, values):
    x, slope = values
    need(x, WIDE)
    one_dtype(values)
    shape = broadcast(values)
    if len(shape) > len(x.shape) or any(a == 1 and b not in (1, UNKNOWN) for a, b in zip(x.shape, shape, strict=True)):
        raise SpecError(f"slope is {slope}, expected what spreads over the input, {x}")
    return [x.without_data]


# --- arithmetic ----------------------------------------------------------------------------------------------------


def _spread(dtypes=NUMBERS, data: Callable[..., Any] | None = None) -> Callable[..., list[Value]]:
    """infer of inputs of one dtype that broadcast against each other."""

    def infer(attributes, values):
        dtype = one_dtype(values)
        need(values[0], dtypes)
        return [Value(dtype, broadcast(values), follow(dtype, data, *values) if data else None)]

    return infer


def _binary(
    name: str, function: Callable[..., Any], dtypes=NUMBERS, data: Callable[[Any, Any], Any] | None = None
) -> Op:
    infer = _spread(dtypes, data)
    return Op(name, infer, lambda a, w, x, y: function(x, y), arity=(2, 2), bound=lambda a, values, floating: function)


def _variadic(name: str, function: Callable[..., Any], dtypes=FLOATS, data: Callable[..., Any] | None = None) -> Op:
    def run(attributes, weights, *arrays):
        return reduce(function, arrays)

    def bound(attributes, values, floating):
        return function if len(values) == 2 else None

    return Op(name, _spread(dtypes, data), run, arity=(1, 1024), bound=bound)


def _mean(attributes, weights, *arrays):
    total = reduce(np.add, arrays)
    return total / total.dtype.type(len(arrays))


def _divide(x, y):
    """Integers are divided with truncation, as in C."""
    if x.dtype.kind == "f":
        return x / y
    return x // y if x.dtype.kind == "u" else (x - np.fmod(x, y)) // y


def _divide_bound(attributes, values, floating):
    return np.divide if values[0].dtype in FLOATS else _divide


def _divide_data(a, b):
    if isinstance(a, int) and isinstance(b, int):
        return UNKNOWN if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return sizes.divide(a, b) if sizes.is_natural(a) and sizes.is_natural(b) and b != 0 else UNKNOWN


def _mod_infer(attributes, values):
    dtype = one_dtype(values)
    need(values[0], NUMBERS)
    data = None if attributes["fmod"] else follow(dtype, on_numbers(lambda a, b: a % b if b else UNKNOWN), *values)
    return [Value(dtype, broadcast(values), data)]


def _mod(attributes, weights, x, y):
    """The remainder with the sign of the divisor, or with fmod of the dividend."""
    return np.fmod(x, y) if attributes["fmod"] else np.mod(x, y)


def _pow_infer(attributes, values):
    need(values[0], NUMBERS, "base")
    need(values[1], NUMBERS, "exponent")
    return [Value(values[0].dtype, broadcast(values))]


def _pow(attributes, weights, x, y):
    """x to the y in the dtype of x; of integers with a float or negative exponent by way of float64."""
    if x.dtype.kind == "f":
        if y.size == 1 and y.ndim <= x.ndim:
            return np.square(x) if y.item() == 2 else (x ** y.item()).astype(x.dtype, copy=False)
        return np.power(x, y.astype(x.dtype, copy=False))
    if y.dtype.kind == "f" or (y.dtype.kind == "i" and (y < 0).any()):
        return np.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)
    return np.power(x, y.astype(x.dtype, copy=False))


def _clip_infer(attributes, values):
    x = values[0]
    need(x, NUMBERS)
    for position, name in ((1, "min"), (2, "max")):
        if not has(attributes, name, values, position):
            continue
        if attributes[name] is None:
            need_scalar(values[position], (x.dtype,), name)
        else:
            _check_bound(name, single(attributes[name]), x.dtype)
    return [x.without_data]


def _check_bound(name, bound, dtype):
    """A number of the dtype; exporters write a bound that is none as infinite."""
    kinds = (int, float) if dtype in FLOATS else (int,)
    fits = isinstance(bound, kinds) and not isinstance(bound, bool) and bound == bound
    if fits and dtype not in FLOATS:
        fits = np.iinfo(dtype).min <= bound <= np.iinfo(dtype).max
    if not fits:
        raise SpecError(f"{name}={bound!r}, expected a number of dtype {dtype}")


def _clip(attributes, weights, x, low=None, high=None):
    """max, where min is above it."""
    for bound, name, limit in ((low, "min", np.maximum), (high, "max", np.minimum)):
        if bound is not None:
            x = limit(x, bound.reshape(()))
        elif attributes[name] is not None:
            x = limit(x, x.dtype.type(single(attributes[name])))
    return x


# --- dtypes --------------------------------------------------------------------------------------------------------


def _cast_data(dtype, value):
    """The data of a value cast to another dtype; what does not fit it is not followed."""
    if value.data is None or (dtype == "bool") != (value.dtype == "bool"):
        return None
    return follow(dtype, lambda item: item, value)


def _cast_infer(attributes, values):
    return [Value(attributes["to"], values[0].shape, _cast_data(attributes["to"], values[0]))]


def _cast(attributes, weights, x):
    """Floats lose their fraction where they become integers; what an integer cannot hold is undefined, as in ONNX."""
    return x.astype(numpy_dtype(attributes["to"], attributes.get("floating", np.float32)), copy=False)


def _cast_like_infer(attributes, values):
    return [Value(values[1].dtype, values[0].shape, _cast_data(values[1].dtype, values[0]))]


def _identity_infer(attributes, values):
    return [values[0]]


def _dropout_infer(attributes, values):
    """At inference nothing is dropped: training_mode has to be absent or false."""
    x = values[0]
    need(x, FLOATS)
    training = single(known(attributes, "training_mode", values, 2))
    if has(attributes, "training_mode", values, 2) and training is not False:
        given = values[2] if training is None else training
        raise SpecError(f"training_mode={given}, expected false, as is known for inference")
    if values[1] is not None:
        need_scalar(values[1], FLOATS, "ratio")
    return [x.without_data, Value("bool", x.shape)]


# --- bits, and questions of one value ------------------------------------------------------------------------------


def _shift(attributes, weights, x, y):
    """Signed numbers keep their sign to the right; shifted by all bits or a negative number only the sign is left."""
    left = attributes["direction"] == "LEFT"
    bits = x.dtype.itemsize * 8
    outside = (y < 0) | (y >= bits)
    y = np.where(outside, 0 if left else bits - 1, y).astype(x.dtype)
    if left:
        return np.where(outside, x.dtype.type(0), np.left_shift(x, y))
    shifted = np.right_shift(x, y)
    return shifted if x.dtype.kind == "i" else np.where(outside, x.dtype.type(0), shifted)


def _is_infer(attributes, values):
    need(values[0], FLOATS)
    return [Value("bool", values[0].shape)]


def _isinf(attributes, weights, x):
    infinite = np.isinf(x)
    if not attributes["detect_negative"]:
        infinite &= x > 0
    if not attributes["detect_positive"]:
        infinite &= x < 0
    return infinite


UNCUT = ("CastLike", "Clip", "Dropout", "Identity")
"""Ops whose outputs or inputs are not numbers, not to be spread."""

ROUNDING = {"saturate": Flag(True), "round_mode": Choice("up", among=("up", "down", "nearest"))}
"""Of float8 values only, which no Value has."""

OPS = [
    _unary("Abs", np.abs, NUMBERS, on_numbers(abs)),
    _unary("Neg", np.negative, SIGNED_NUMBERS, lambda item: sizes.multiply(-1, item)),
    _unary("Exp", np.exp),
    _unary("Log", np.log),
    _unary("Sqrt", np.sqrt),
    _unary("Reciprocal", np.reciprocal),
    _unary("Floor", np.floor),
    _unary("Ceil", np.ceil),
    _unary("Round", np.rint),  # half to even
    _unary("Sign", np.sign, NUMBERS),
    _unary("Erf", _erf),
    _unary("Sin", np.sin),
    _unary("Cos", np.cos),
    _unary("Tan", np.tan),
    _unary("Asin", np.arcsin),
    _unary("Acos", np.arccos),
    _unary("Atan", np.arctan),
    _unary("Sinh", np.sinh),
    _unary("Cosh", np.cosh),
    _unary("Asinh", np.arcsinh),
    _unary("Acosh", np.arccosh),
    _unary("Atanh", np.arctanh),
    _unary("BitwiseNot", np.invert, INTEGERS),
    replace(_unary("Relu", lambda x: np.maximum(x, 0), SIGNED_NUMBERS), bound=_relu_bound),
    _approximated(_unary("Tanh", np.tanh)),
    _approximated(_activation("Sigmoid", _sigmoid)),
    _activation("Softplus", _softplus),
    _activation("Softsign", lambda x: x / (1 + np.abs(x))),
    _activation("HardSwish", lambda x: x * _hard_sigmoid(x, x.dtype.type(1 / 6), x.dtype.type(0.5))),
    _activation("Mish", lambda x: x * np.tanh(_softplus(x))),
    _activation("LeakyRelu", _leaky_relu, alpha=0.01),
    _activation("Elu", _elu, alpha=1.0),
    _activation("Selu", _selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    _activation("Celu", _celu, alpha=1.0),
    _activation("HardSigmoid", _hard_sigmoid, alpha=0.2, beta=0.5),
    _activation("ThresholdedRelu", lambda x, alpha: np.where((x > alpha) | np.isnan(x), x, x.dtype.type(0)), alpha=1.0),
    _approximated(_activation("Swish", _swish, alpha=1.0)),
    Op("Shrink", _shrink_infer, _shrink_run, schema={"lambd": Real(0.5), "bias": Real(0.0)}),
    Op(
        "Gelu",
        GELU["none"].infer,
        lambda a, w, x: GELU[a["approximate"]].run(a, w, x),
        schema={"approximate": Choice("none", among=tuple(GELU))},
    ),
    Op("PRelu", _prelu_infer, lambda a, w, x, slope: np.where(x >= 0, x, slope * x), arity=(2, 2)),
    _binary("Add", np.add, data=sizes.add),
    _binary("Sub", np.subtract, data=sizes.subtract),
    _binary("Mul", np.multiply, data=sizes.multiply),
    replace(_binary("Div", _divide, data=_divide_data), bound=_divide_bound),
    Op("Mod", _mod_infer, _mod, arity=(2, 2), schema={"fmod": Flag(False)}),
    Op("Pow", _pow_infer, _pow, arity=(2, 2)),
    _variadic("Min", np.minimum, NUMBERS, on_numbers(lambda *items: min(items))),
    _variadic("Max", np.maximum, NUMBERS, on_numbers(lambda *items: max(items))),
    _variadic("Sum", np.add),
    Op("Mean", _spread(FLOATS), _mean, arity=(1, 1024)),
    Op(
        "Clip",
        _clip_infer,
        _clip,
        arity=(1, 3),
        schema={"min": Number(None, position=1), "max": Number(None, position=2)},
    ),
    Op("Identity", _identity_infer, lambda a, w, x: x),
    Op(
        "Dropout",
        _dropout_infer,
        lambda a, w, x, *rest: (x, np.ones(x.shape, np.bool_)),
        arity=(1, 3),
        schema={"ratio": Real(None, position=1), "training_mode": Flag(None, position=2), "seed": Integer(None)},
        outputs=("", "mask"),
    ),
    Op("Cast", _cast_infer, _cast, schema={"to": Choice(among=DTYPES), **ROUNDING}),
    Op(
        "CastLike",
        _cast_like_infer,
        lambda a, w, x, like: x.astype(like.dtype, copy=False),
        arity=(2, 2),
        schema=ROUNDING,
        of_sizes=(1,),
    ),
    _binary("BitwiseAnd", np.bitwise_and, INTEGERS),
    _binary("BitwiseOr", np.bitwise_or, INTEGERS),
    _binary("BitwiseXor", np.bitwise_xor, INTEGERS),
    Op(
        "BitShift",
        _spread(INTEGERS),
        _shift,
        arity=(2, 2),
        schema={"direction": Choice(among=("LEFT", "RIGHT"))},
    ),
    Op("IsNaN", _is_infer, lambda a, w, x: np.isnan(x)),
    Op("IsInf", _is_infer, _isinf, schema={"detect_negative": Flag(True), "detect_positive": Flag(True)}),
]
OPS = [replace(op, spreads=op.name not in UNCUT, dimensions=of_first if op.of_sizes else spreading) for op in OPS]
