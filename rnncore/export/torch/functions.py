"""Functions, methods and operators of torch as nodes of a Spec, by their name.

A function of torch, a method of a tensor and an operator of Python that do the same have one entry: its name without
what marks it as in-place. Each entry is called with the graph under construction and torch's own arguments.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from rnncore.errors import UnsupportedError
from rnncore.export.torch.lowering import Lowering
from rnncore.export.torch.values import HIDING, Packed, Size, Tensor, all_static, any_trained, array_of

__all__ = ["FUNCTIONS", "call_function", "move_axes"]

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def entry(*names: str) -> Callable[[Callable], Callable]:
    def remember(function: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return remember


def call_function(g: Lowering, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The value of a function or method. Raises UnsupportedError for names that no entry has."""
    known = name.strip("_") if not name.startswith("_") else name
    if known not in FUNCTIONS:
        raise UnsupportedError(f"{g.place}: {name} is not supported, expected one of {', '.join(sorted(FUNCTIONS))}")
    if kwargs.pop("out", None) is not None:
        raise UnsupportedError(f"{g.place}: {name} with out=, expected its result")
    for ignored in ("inplace", "device", "pin_memory", "requires_grad", "layout", "non_blocking", "memory_format"):
        kwargs.pop(ignored, None)
    return FUNCTIONS[known](g, *args, **kwargs)


def refuse(g: Lowering, what: str, expected: str) -> UnsupportedError:
    return UnsupportedError(f"{g.place}: {g.wanted}: {what}, expected {expected}")


def called(g: Lowering) -> str:
    """The name of the function or method of the current node, without what marks it as in-place."""
    return str(getattr(g.node.target, "__name__", g.node.target)).strip("_")


def _plain(item: Any) -> Any:
    """A number for torch.result_type, which wants tensors or numbers."""
    if isinstance(item, Tensor):
        return item.a
    return item.a if isinstance(item, Size) else item


def _number(g: Lowering, what: str, item: Any) -> Any:
    if isinstance(item, (Tensor, Size)):
        raise refuse(g, f"{what} that is computed", "a number")
    return item


def _dims(g: Lowering, dim: Any, x: Tensor) -> tuple[int, ...]:
    """Dimensions counted from the front; all of them for None."""
    if dim is None or dim == () or dim == []:
        return tuple(range(x.ndim))
    return tuple(x.axis(one) for one in (dim if isinstance(dim, (tuple, list)) else (dim,)))


# --- element by element ----------------------------------------------------------------------------------------------

UNARY = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "neg": "Neg", "negative": "Neg", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "erf": "Erf",
    "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos", "tan": "Tan", "sinh": "Sinh", "cosh": "Cosh",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "softsign": "Softsign", "hardswish": "HardSwish",
    "absolute": "Abs", "sgn": "Sign", "arctan": "Atan", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip


def _unary(op: str, g: Lowering, input: Any, *, decimals: int = 0) -> Any:
    if isinstance(input, (Size, int, float)) and op == "Neg":
        return g.compute("neg", input)
    if isinstance(input, (Size, int, float)) and op == "Sqrt":
        return g.compute("pow", input, 0.5)
    if isinstance(input, (Size, int, float)) and op.lower() in ("log", "exp", "floor", "ceil", "round"):
        return g.compute(op.lower(), input)
    if decimals:
        raise refuse(g, f"decimals={decimals}", "0")
    x = g.tensor(input)
    name = g.cast(x, g.a.dtype)
    if op in ("Floor", "Ceil", "Round") and not g.a.dtype.is_floating_point:
        return x
    return g.out(g.emit(op, [name]))


for _name, _op in UNARY.items():
    FUNCTIONS[_name] = partial(_unary, _op)

BINARY = {
    "add": "Add", "sub": "Sub", "subtract": "Sub", "mul": "Mul", "multiply": "Mul", "truediv": "Div", "maximum": "Max",
    "minimum": "Min", "pow": "Pow",
}  # fmt: skip


def _binary(op: str, python: str, g: Lowering, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        return g.compute(python, input, other)
    names = [g.cast(item, g.a.dtype) for item in (input, other)]
    if alpha != 1:
        names[1] = g.emit("Mul", [names[1], g.cast(_number(g, "alpha", alpha), g.a.dtype)])
    return g.out(g.emit(op, names))


for _name, _op in BINARY.items():
    _python = {"subtract": "sub", "multiply": "mul", "maximum": "max", "minimum": "min"}.get(_name, _name)
    FUNCTIONS[_name] = partial(_binary, _op, _python)


@entry("rsub")
def _rsub(g, input, other, *, alpha=1):
    return _binary("Sub", "sub", g, other, input) if alpha == 1 else _unsupported(g, f"alpha={alpha}", "1")


def _unsupported(g, what, expected):
    raise refuse(g, what, expected)


@entry("div", "divide", "true_divide")
def _div(g, input, other, *, rounding_mode=None):
    if rounding_mode is None:
        return _binary("Div", "truediv", g, input, other)
    if rounding_mode == "floor":
        return _floordiv(g, input, other)
    return _unsupported(g, f"rounding_mode={rounding_mode!r}", "None or 'floor'")


@entry("floordiv", "floor_divide")
def _floordiv(g, input, other):
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        return g.compute("floordiv", input, other)
    x, y = (g.cast(item, g.a.dtype) for item in (input, other))
    if g.a.dtype.is_floating_point:
        return g.out(g.emit("Floor", [g.emit("Div", [x, y])]))
    return g.out(g.emit("Div", [g.emit("Sub", [x, g.emit("Mod", [x, y])]), y]))


@entry("mod", "remainder")
def _remainder(g, input, other):
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        return g.compute("mod", input, other)
    x, y = (g.cast(item, g.a.dtype) for item in (input, other))
    if not g.a.dtype.is_floating_point:
        return g.out(g.emit("Mod", [x, y]))
    whole = g.emit("Floor", [g.emit("Div", [x, y])])
    return g.out(g.emit("Sub", [x, g.emit("Mul", [whole, y])]))


COMPARED = {"eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual"}


def _compare(op: str, g: Lowering, input: Any, other: Any) -> Tensor:
    if not isinstance(input, Tensor) and not isinstance(other, Tensor):
        raise refuse(g, "a comparison of sizes as a value", "one that decides a branch")
    dtype = torch.result_type(_plain(input), _plain(other))
    return g.out(g.emit(op, [g.cast(input, dtype), g.cast(other, dtype)]))


for _name, _op in COMPARED.items():
    FUNCTIONS[_name] = partial(_compare, _op)
for _name, _op in (("greater", "gt"), ("greater_equal", "ge"), ("less", "lt"), ("less_equal", "le")):
    FUNCTIONS[_name] = FUNCTIONS[_op]


@entry("ne", "not_equal")
def _ne(g, input, other):
    dtype = torch.result_type(_plain(input), _plain(other))
    return g.out(g.emit("Not", [g.emit("Equal", [g.cast(input, dtype), g.cast(other, dtype)])]))


def _logic(op: str, bits: bool, g: Lowering, input: Any, other: Any) -> Tensor:
    if bits and g.a.dtype != torch.bool:
        raise refuse(g, f"bits of {g.a.dtype}", "torch.bool")
    return g.out(g.emit(op, [_as_bool(g, input), _as_bool(g, other)]))


def _as_bool(g: Lowering, item: Any) -> str:
    if isinstance(item, Tensor) and item.dtype != torch.bool:
        zero = g.cast(0, item.dtype)
        return g.emit("Not", [g.emit("Equal", [g.name_of(item), zero])])
    return g.cast(item, torch.bool)


for _name, _op in (("and", "And"), ("or", "Or"), ("xor", "Xor")):
    FUNCTIONS[f"logical_{_name}"] = partial(_logic, _op, False)
    FUNCTIONS[f"bitwise_{_name}"] = FUNCTIONS[_name] = partial(_logic, _op, True)


@entry("invert", "logical_not", "bitwise_not")
def _not(g, input):
    x = g.tensor(input)
    if x.dtype != torch.bool and g.a.dtype != torch.bool:
        raise refuse(g, f"bits of {x.dtype}", "torch.bool")
    return g.out(g.emit("Not", [_as_bool(g, x)]))


@entry("trunc", "fix", "frac")
def _trunc(g, input):
    """Without what stands behind the point; frac what stands there."""
    if not isinstance(input, Tensor):
        return g.compute("trunc", input)
    x = g.tensor(input)
    if not x.dtype.is_floating_point:
        return x
    whole = g.emit("Mul", [g.emit("Sign", [x]), g.emit("Floor", [g.emit("Abs", [x])])])
    return g.out(whole if called(g) != "frac" else g.emit("Sub", [x, whole]))


@entry("fmod")
def _fmod(g, input, other):
    return g.out(g.emit("Mod", [g.cast(item, g.a.dtype) for item in (input, other)], {"fmod": True}))


@entry("isnan")
def _isnan(g, input):
    return g.out(g.emit("IsNaN", [g.tensor(input)]))


@entry("isinf", "isfinite")
def _isinf(g, input):
    x = g.tensor(input)
    if called(g) == "isinf":
        return g.out(g.emit("IsInf", [x]))
    return g.out(g.emit("Not", [g.emit("Or", [g.emit("IsInf", [x]), g.emit("IsNaN", [x])])]))


@entry("nan_to_num")
def _nan_to_num(g, input, nan=None, posinf=None, neginf=None):
    x = g.tensor(input)
    if not x.dtype.is_floating_point:
        return x
    most = torch.finfo(x.dtype).max
    name, limits = g.name_of(x), (most if posinf is None else posinf, -most if neginf is None else neginf)
    for positive, limit in zip((True, False), limits, strict=True):
        found = g.emit("IsInf", [x], {"detect_positive": positive, "detect_negative": not positive})
        name = g.emit("Where", [found, g.cast(float(_number(g, "a limit", limit)), x.dtype), name])
    return g.out(g.emit("Where", [g.emit("IsNaN", [x]), g.cast(float(nan or 0.0), x.dtype), name]))


@entry("logaddexp")
def _logaddexp(g, input, other):
    rank = g.a.ndim
    parts = []
    for item in (g.tensor(input), g.tensor(other)):
        axes = tuple(range(rank - item.ndim))
        name = g.emit("Unsqueeze", [item], {"axes": axes}) if axes else g.name_of(item)
        parts.append(name)
    wide = [
        g.emit("Add", [name, g.emit("Mul", [other, g.cast(0.0, g.a.dtype)])]) for name, other in (parts, parts[::-1])
    ]
    pair = g.emit("Concat", [g.emit("Unsqueeze", [name], {"axes": (rank,)}) for name in wide], {"axis": rank})
    return g.out(g.emit("ReduceLogSumExp", [pair], {"axes": (rank,), "keepdims": False}))


@entry("exp2")
def _exp2(g, input):
    return g.out(g.emit("Pow", [g.cast(2.0, g.a.dtype), g.cast(g.tensor(input), g.a.dtype)]))


@entry("erfc")
def _erfc(g, input):
    return g.out(g.emit("Sub", [g.cast(1.0, g.a.dtype), g.emit("Erf", [g.tensor(input)])]))


@entry("logit")
def _logit(g, input, eps=None):
    x = g.tensor(input)
    name = g.name_of(x)
    if eps is not None:
        name = g.emit("Max", [g.emit("Min", [name, g.cast(1.0 - eps, x.dtype)]), g.cast(float(eps), x.dtype)])
    return g.out(g.emit("Log", [g.emit("Div", [name, g.emit("Sub", [g.cast(1.0, x.dtype), name])])]))


@entry("threshold", "_threshold")
def threshold(g, input, threshold, value):
    x = g.tensor(input)
    above = g.emit("Greater", [x, g.cast(_number(g, "threshold", threshold), x.dtype)])
    return g.out(g.emit("Where", [above, x, g.cast(value, x.dtype)]))


@entry("softshrink", "hardshrink")
def shrink(g, input, lambd=0.5):
    limit = float(_number(g, "lambd", lambd))
    bias = limit if called(g) == "softshrink" else 0.0
    return g.out(g.emit("Shrink", [g.tensor(input)], {"lambd": limit, "bias": bias}))


@entry("square")
def _square(g, input):
    x = g.tensor(input)
    return g.out(g.emit("Mul", [x, x]))


@entry("rsqrt")
def _rsqrt(g, input):
    return g.out(g.emit("Reciprocal", [g.emit("Sqrt", [g.tensor(input)])]))


@entry("log2", "log10")
def _log_base(g, input):
    base = 2 if called(g) == "log2" else 10
    return g.out(g.emit("Mul", [g.emit("Log", [g.tensor(input)]), g.cast(1 / math.log(base), g.a.dtype)]))


@entry("log1p")
def _log1p(g, input):
    return g.out(g.emit("Log", [g.emit("Add", [g.tensor(input), g.cast(1, g.a.dtype)])]))


@entry("expm1")
def _expm1(g, input):
    return g.out(g.emit("Sub", [g.emit("Exp", [g.tensor(input)]), g.cast(1, g.a.dtype)]))


@entry("clamp", "clip")
def _clamp(g, input, min=None, max=None):
    return clamp(g, g.tensor(input), min, max)


@entry("clamp_min")
def _clamp_min(g, input, min):
    return clamp(g, g.tensor(input), min, None)


@entry("clamp_max")
def _clamp_max(g, input, max):
    return clamp(g, g.tensor(input), None, max)


@entry("hardtanh")
def _hardtanh(g, input, min_val=-1.0, max_val=1.0):
    return clamp(g, g.tensor(input), min_val, max_val)


@entry("relu6")
def _relu6(g, input):
    return clamp(g, g.tensor(input), 0.0, 6.0)


def clamp(g: Lowering, x: Tensor, low: Any, high: Any) -> Tensor:
    name = g.cast(x, g.a.dtype)
    for op, limit in (("Max", low), ("Min", high)):
        if limit is not None:
            name = g.emit(op, [name, g.cast(limit, g.a.dtype)])
    return g.out(name)


# activations with a number

ACTIVATIONS = {
    "leaky_relu": ("LeakyRelu", (("negative_slope", "alpha", 0.01),)),
    "elu": ("Elu", (("alpha", "alpha", 1.0),)),
    "celu": ("Celu", (("alpha", "alpha", 1.0),)),
    "selu": ("Selu", ()),
    "mish": ("Mish", ()),
}


def activation(kind: str, g: Lowering, input: Any, *args: Any, **kwargs: Any) -> Tensor:
    """An activation of ACTIVATIONS with torch's arguments."""
    op, options = ACTIVATIONS[kind]
    given = dict(zip((name for name, _, _ in options), args, strict=False)) | kwargs
    unknown = set(given) - {name for name, _, _ in options}
    if unknown:
        raise TypeError(f"unexpected {sorted(unknown)}")
    attributes = {ours: float(_number(g, name, given.get(name, default))) for name, ours, default in options}
    return g.out(g.emit(op, [g.tensor(input)], attributes))


for _name in ACTIVATIONS:
    FUNCTIONS[_name] = partial(activation, _name)


@entry("gelu")
def gelu(g, input, approximate="none"):
    return g.out(g.emit("Gelu", [g.tensor(input)], {"approximate": approximate}))


@entry("silu")
def silu(g, input):
    x = g.tensor(input)
    return g.out(g.emit("Mul", [x, g.emit("Sigmoid", [x])]))


@entry("hardsigmoid")
def hardsigmoid(g, input):
    return g.out(g.emit("HardSigmoid", [g.tensor(input)], {"alpha": 1 / 6, "beta": 0.5}))


@entry("softplus")
def softplus(g, input, beta=1.0, threshold=20.0):
    """log(1 + exp(beta x)) / beta, and x where beta x is above the threshold."""
    x = g.name_of(g.tensor(input))
    scale = g.cast(float(beta), g.a.dtype)
    scaled = x if beta == 1 else g.emit("Mul", [x, scale])
    found = g.emit("Softplus", [scaled])
    found = found if beta == 1 else g.emit("Div", [found, scale])
    if beta > 0 and threshold >= 20:
        return g.out(found)  # there the two are equal but for rounding
    above = g.emit("Greater", [scaled, g.cast(float(threshold), g.a.dtype)])
    return g.out(g.emit("Where", [above, x, found]))


@entry("logsigmoid", "log_sigmoid")
def logsigmoid(g, input):
    return g.out(g.emit("Neg", [g.emit("Softplus", [g.emit("Neg", [g.tensor(input)])])]))


@entry("tanhshrink")
def tanhshrink(g, input):
    x = g.tensor(input)
    return g.out(g.emit("Sub", [x, g.emit("Tanh", [x])]))


@entry("prelu")
def prelu(g, input, weight):
    x, slope = g.tensor(input), g.tensor(weight)
    name = g.name_of(slope)
    if slope.a.numel() > 1 and x.ndim > 1:
        name = g.reshaped(slope, (slope.a.numel(), *[1] * (x.ndim - 2)))
    return g.out(g.emit("PRelu", [x, name]))


@entry("glu")
def glu(g, input, dim=-1):
    x = g.tensor(input)
    axis = x.axis(dim)
    half = g.compute("floordiv", g.dim(x, axis), 2)
    first = _sliced(g, g.name_of(x), [(axis, slice(0, half))])
    second = _sliced(g, g.name_of(x), [(axis, slice(half, None))])
    return g.out(g.emit("Mul", [first, g.emit("Sigmoid", [second])]))


def softmax(op: str, g: Lowering, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
    if dim is None:
        raise refuse(g, "dim=None", "an integer")
    x = g.tensor(input)
    return g.out(g.emit(op, [g.cast(x, g.a.dtype)], {"axis": x.axis(dim)}))


FUNCTIONS["softmax"] = partial(softmax, "Softmax")
FUNCTIONS["log_softmax"] = partial(softmax, "LogSoftmax")


@entry("softmin")
def softmin(g, input, dim=None, _stacklevel=3, dtype=None):
    return softmax("Softmax", g, g.named(g.emit("Neg", [g.tensor(input)]), g.a, g.b), dim)


@entry("normalize")
def normalize(g, input, p=2.0, dim=1, eps=1e-12):
    x = g.tensor(input)
    if p != 2:
        raise refuse(g, f"p={p}", "2")
    norm = g.emit("ReduceL2", [x], {"axes": (x.axis(dim),), "keepdims": True})
    return g.out(g.emit("Div", [x, g.emit("Max", [norm, g.cast(float(eps), x.dtype)])]))


@entry("cosine_similarity")
def cosine_similarity(g, x1, x2, dim=1, eps=1e-8):
    x, y = g.tensor(x1), g.tensor(x2)
    axis = max(x.ndim, y.ndim) + dim if dim < 0 else dim
    product = g.emit("ReduceSum", [g.emit("Mul", [x, y])], {"axes": (axis,), "keepdims": False})
    small = g.cast(float(eps), x.dtype)
    norms = [
        g.emit("Max", [g.emit("ReduceL2", [item], {"axes": (axis,), "keepdims": False}), small]) for item in (x, y)
    ]
    return g.out(g.emit("Div", [product, g.emit("Mul", norms)]))


@entry("pairwise_distance")
def pairwise_distance(g, x1, x2, p=2.0, eps=1e-6, keepdim=False):
    if p not in (1, 2):
        raise refuse(g, f"p={p}", "1 or 2")
    off = g.emit("Add", [g.emit("Sub", [g.tensor(x1), g.tensor(x2)]), g.cast(float(eps), g.a.dtype)])
    axis = max(x1.ndim, x2.ndim) - 1
    return g.out(g.emit(f"ReduceL{int(p)}", [off], {"axes": (axis,), "keepdims": bool(keepdim)}))


@entry("where")
def where(g, condition, input=None, other=None):
    """torch.where(condition, x, y); as a method x.where(condition, y)."""
    if g.node.op == "call_method":
        condition, input = input, condition
    if input is None:
        raise refuse(g, "one argument, whose result has no fixed size", "where(condition, x, y)")
    return g.out(g.emit("Where", [_as_bool(g, condition), g.cast(input, g.a.dtype), g.cast(other, g.a.dtype)]))


@entry("masked_fill")
def masked_fill(g, input, mask, value):
    found = g.out(g.emit("Where", [_as_bool(g, mask), g.cast(value, g.a.dtype), g.cast(input, g.a.dtype)]))
    hides = isinstance(input, Tensor) and _filled_with(input) in (0, -math.inf) and value in (0, -math.inf)
    found.origin = HIDING if hides else None
    return found


def _filled_with(x: Tensor) -> float | None:
    """The number that a tensor has everywhere; None where that is not known."""
    if x.constant:
        first = x.a.reshape(-1)[:1]
        return float(first) if len(first) and bool((x.a == first).all()) else None
    return x.origin[1] if x.origin is not None and x.origin[0] == "filled" else None


@entry("addcmul")
def addcmul(g, input, tensor1, tensor2, *, value=1):
    product = g.emit("Mul", [g.tensor(tensor1), g.tensor(tensor2)])
    if value != 1:
        product = g.emit("Mul", [product, g.cast(value, g.a.dtype)])
    return g.out(g.emit("Add", [g.tensor(input), product]))


@entry("addcdiv")
def addcdiv(g, input, tensor1, tensor2, *, value=1):
    part = g.emit("Div", [g.tensor(tensor1), g.tensor(tensor2)])
    return g.out(g.emit("Add", [g.tensor(input), g.emit("Mul", [part, g.cast(value, g.a.dtype)])]))


@entry("lerp")
def lerp(g, input, end, weight):
    x = g.tensor(input)
    way = g.emit("Sub", [g.tensor(end), x])
    return g.out(g.emit("Add", [x, g.emit("Mul", [way, g.cast(weight, g.a.dtype)])]))


# --- what does nothing, and dtypes -----------------------------------------------------------------------------------


@entry(
    "contiguous",
    "positive",
    "detach",
    "clone",
    "cpu",
    "cuda",
    "requires_grad",
    "alias",
    "pin_memory",
    "flatten_parameters",
)
def same(g, input, *args, **kwargs):
    return input


@entry("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def dropout(g, input, p=0.5, training=None):
    if training is not False and p > 0:
        raise refuse(g, "dropout at inference", "training=self.training")
    g.notes.append(f"{g.wanted} ({g.place}): left out, it does nothing at inference")
    return input


@entry("to", "type", "float", "double", "long", "int", "bool", "short", "char", "byte", "half", "bfloat16", "type_as")
def to(g, input, *args, **kwargs):
    if isinstance(input, Size):
        return input
    x = g.tensor(input)
    if g.a.dtype == torch.bool and x.dtype != torch.bool:
        return g.out(_as_bool(g, x))
    return x if g.spec_dtype(g.a.dtype) == g.spec_dtype(x.dtype) else g.out(g.cast(x, g.a.dtype))


@entry("item")
def item(g, input):
    return Size(g.a, g.b, ("item", g.tensor(input)))


# --- products --------------------------------------------------------------------------------------------------------


@entry("linear")
def linear(g, input, weight, bias=None):
    """x W^T + b; a Linear where both are constants."""
    x, weight = g.tensor(input), g.tensor(weight)
    if weight.ndim == 2 and g.is_parameter(weight) and (bias is None or g.is_parameter(bias)):
        sources = {"weight": weight.label, **({} if bias is None else {"bias": bias.label})}
        return g.out(linear_node(g, x, weight.a, None if bias is None else bias.a, sources=sources))
    y = g.emit("MatMul", [x, g.emit("Transpose", [weight], {"perm": (1, 0)})])
    return g.out(y if bias is None else g.emit("Add", [y, g.tensor(bias)]))


def linear_node(
    g: Lowering,
    x: Any,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    name: str | None = None,
    sources: dict[str, str] | None = None,
) -> str:
    weights = {"weight": array_of(weight)}
    if bias is not None:
        weights["bias"] = array_of(bias)
    sizes = {"input_size": weight.shape[1], "output_size": weight.shape[0], "bias": bias is not None}
    return g.emit("Linear", [x], sizes, weights, name, sources)


@entry("matmul", "bmm", "mm", "mv", "dot")
def matmul(g, input, other):
    x, y = g.tensor(input), g.tensor(other)
    return g.out(g.emit("MatMul", [g.cast(x, g.a.dtype), g.cast(y, g.a.dtype)]))


@entry("baddbmm", "addmm")
def addmm(g, input, mat1, mat2, *, beta=1, alpha=1):
    product = g.emit("MatMul", [g.tensor(mat1), g.tensor(mat2)])
    if alpha != 1:
        product = g.emit("Mul", [product, g.cast(alpha, g.a.dtype)])
    added = g.name_of(g.tensor(input))
    if beta != 1:
        added = g.emit("Mul", [added, g.cast(beta, g.a.dtype)])
    return g.out(g.emit("Add", [added, product]))


@entry("outer")
def outer(g, input, vec2):
    x = g.emit("Unsqueeze", [g.tensor(input)], {"axes": (1,)})
    return g.out(g.emit("Mul", [x, g.tensor(vec2)]))


@entry("einsum")
def einsum(g, equation, *operands):
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = operands[0]
    return g.out(g.emit("Einsum", [g.cast(item, g.a.dtype) for item in operands], {"equation": equation}))


@entry("embedding")
def embedding(g, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None:
        raise refuse(g, f"max_norm={max_norm}", "none")
    ids, table = g.tensor(input), g.tensor(weight)
    if not g.is_parameter(table):
        return g.out(g.emit("Gather", [table, ids], {"axis": 0}))
    return g.out(embedding_node(g, ids, table.a, {"weight": table.label}))


def embedding_node(g: Lowering, ids: Tensor, table: torch.Tensor, sources: dict[str, str] | None = None) -> str:
    sizes = {"input_size": table.shape[0], "output_size": table.shape[1]}
    return g.emit("Embedding", [g.cast(ids, torch.int64)], sizes, {"weight": array_of(table)}, sources=sources)


@entry("one_hot")
def one_hot(g, tensor, num_classes=-1):
    if num_classes == -1:
        raise refuse(g, "num_classes=-1, which the data decides", "a number")
    values = g.constant(np.array([0, 1]), "int64", "off_on")
    return g.out(g.emit("OneHot", [g.tensor(tensor), g.scalar(num_classes), values], {"axis": -1}))


@entry("scaled_dot_product_attention")
def scaled_dot_product_attention(
    g, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(q k^T / sqrt(size) + mask) v, as torch writes it out."""
    if dropout_p or enable_gqa:
        raise refuse(g, f"dropout_p={dropout_p}, enable_gqa={enable_gqa}", "0 and False")
    q, k, v = g.tensor(query), g.tensor(key), g.tensor(value)
    perm = (*range(k.ndim - 2), k.ndim - 1, k.ndim - 2)
    factor = g.compute("pow", g.dim(q, -1), -0.5) if scale is None else scale
    scores = g.emit("MatMul", [q, g.emit("Transpose", [k], {"perm": perm})])
    scores = g.emit("Mul", [scores, g.cast(factor if isinstance(factor, Size) else float(factor), q.dtype)])
    lowest = g.constant(np.array(-np.inf), "float", "masked")
    if is_causal:
        steps = [g.size_value(g.dim(item, -2)) for item in (q, k)]
        ones = g.emit("ConstantOfShape", [g.emit("Concat", steps, {"axis": 0})], {"value": 1, "dtype": "int64"})
        lower = g.emit("Cast", [g.emit("Trilu", [ones], {"upper": False})], {"to": "bool"})
        scores = g.emit("Where", [lower, scores, lowest])
    if attn_mask is not None and g.tensor(attn_mask).dtype == torch.bool:
        scores = g.emit("Where", [g.tensor(attn_mask), scores, lowest])
    elif attn_mask is not None:
        scores = g.emit("Add", [scores, g.tensor(attn_mask)])
    return g.out(g.emit("MatMul", [g.emit("Softmax", [scores], {"axis": -1}), v]))


# --- joining and splitting -------------------------------------------------------------------------------------------


@entry("cat", "concat", "concatenate")
def cat(g, tensors, dim=0):
    items = [g.tensor(item) for item in tensors]
    items = [item for item in items if not (item.ndim == 1 and item.a.numel() == 0 and g.a.ndim > 1)]
    axis = items[0].axis(dim)
    if axis == items[0].ndim - 1:
        last = _both_directions(items)
        if last is not None:
            return g.named(last, g.a, g.b)
    names = [g.cast(item, g.a.dtype) for item in items]
    return g.out(names[0] if len(names) == 1 else g.emit("Concat", names, {"axis": axis}))


def _both_directions(items: Sequence[Tensor]) -> str | None:
    """The value NAME.last that torch.cat([h_n[-2], h_n[-1]], 1) is."""
    origins = [item.origin for item in items]
    if len(items) != 2 or any(origin is None or origin[0] != "row" for origin in origins):
        return None
    (_, node, first), (_, other, second) = origins
    rows = node.layers * 2
    if node is other and node.direction == "bidirectional" and (first, second) == (rows - 2, rows - 1):
        return f"{node.name}.last"
    return None


@entry("stack")
def stack(g, tensors, dim=0):
    axis = dim % g.a.ndim
    names = [g.emit("Unsqueeze", [g.cast(g.tensor(item), g.a.dtype)], {"axes": (axis,)}) for item in tensors]
    return g.out(names[0] if len(names) == 1 else g.emit("Concat", names, {"axis": axis}))


@entry("hstack", "vstack", "dstack", "column_stack", "row_stack")
def stacked(g, tensors):
    """Joined along the axis that the name says, with axes of size 1 where one is missing."""
    name = called(g)
    least = {"hstack": 1, "dstack": 3}.get(name, 2)
    names = []
    for item in map(g.tensor, tensors):
        missing = least - item.ndim
        axes = {"dstack": (0, 2) if item.ndim == 1 else (2,), "column_stack": (1,) if item.ndim == 1 else (0, 1)}
        axes = axes.get(name, tuple(range(max(missing, 0))))
        found = g.cast(item, g.a.dtype)
        names.append(g.emit("Unsqueeze", [found], {"axes": axes}) if missing > 0 else found)
    axis = {"hstack": 0 if tensors[0].ndim < 2 else 1, "dstack": 2, "column_stack": 1}.get(name, 0)
    return g.out(names[0] if len(names) == 1 else g.emit("Concat", names, {"axis": axis}))


def _parts(g: Lowering, x: Tensor, axis: int) -> list[Tensor]:
    """Slices of x that are as long as the results of torch."""
    bounds, found = [0], []
    for i, (a, b) in enumerate(zip(g.a, g.b, strict=True)):
        if a.shape[axis] != b.shape[axis]:
            raise refuse(g, "parts whose size depends on that of the input", "parts of a fixed size")
        bounds.append(bounds[-1] + a.shape[axis])
        name = g.emit("Slice", [x], {"starts": (bounds[i],), "ends": (bounds[i + 1],), "axes": (axis,)})
        found.append(g.out(name, i))
    return found


@entry("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")
def split(g, tensor, split_size_or_sections=None, dim=0, *, chunks=None, split_size=None):
    """Into as many parts as torch made; a number of parts that depends on sizes is refused before."""
    if len(g.a) != len(g.b):
        raise refuse(g, f"{len(g.a)} parts for one size of the input, {len(g.b)} for another", "a fixed number")
    x = g.tensor(tensor)
    axis = x.axis(dim)
    if any(a.shape[axis] != b.shape[axis] for a, b in zip(g.a, g.b, strict=True)) and "chunk" in called(g):
        return _equal_parts(g, x, axis)
    return _parts(g, x, axis)


def _equal_parts(g: Lowering, x: Tensor, axis: int) -> list[Tensor]:
    """chunk of a dimension of unknown size, as torch has it: ceil(size / parts) each."""
    count = len(g.a)
    each = g.compute("floordiv", g.compute("add", g.dim(x, axis), count - 1), count)
    found = []
    for i in range(count):
        inputs = [x]
        attributes = g.parameter(inputs, "starts", [g.compute("mul", each, i)], 1)
        attributes |= g.parameter(inputs, "ends", [g.compute("mul", each, i + 1)], 2)
        found.append(g.out(g.emit("Slice", inputs, {**attributes, "axes": (axis,)}), i))
    return found


@entry("unbind")
def unbind(g, input, dim=0):
    if len(g.a) != len(g.b):
        raise refuse(g, "as many tensors as a size says", "a fixed number")
    x = g.tensor(input)
    axis = x.axis(dim)
    return [g.out(g.emit("Gather", [x], {"axis": axis, "indices": i}), i) for i in range(len(g.a))]


# --- shape -----------------------------------------------------------------------------------------------------------


@entry("size")
def size(g, input, dim=None):
    return g.dim(g.tensor(input), dim)


@entry("numel", "nelement")
def numel(g, input):
    found: Any = 1
    for one in g.shape(g.tensor(input)):
        found = g.compute("mul", found, one)
    return found


def _listed(sizes: Sequence[Any]) -> list[Any]:
    return list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else list(sizes)


@entry("view", "reshape", "view_as", "reshape_as", "_unsafe_view")
def view(g, input, *shape, **kwargs):
    x = g.tensor(input)
    given = [*shape, *kwargs.values()]
    if isinstance(given[0], Tensor):
        given = list(g.shape(given[0]))
    if isinstance(given[0], torch.dtype):
        raise refuse(g, "view(dtype)", "sizes")
    return g.out(g.reshaped(x, _listed(given), of=x))


@entry("ravel")
def ravel(g, input):
    return g.out(g.reshaped(g.tensor(input), (-1,)))


@entry("flatten")
def flatten(g, input, start_dim=0, end_dim=-1):
    x = g.tensor(input)
    first, last = x.axis(start_dim), x.axis(end_dim)
    sizes = list(g.shape(x))
    return g.out(g.reshaped(x, [*sizes[:first], -1, *sizes[last + 1 :]], of=x))


@entry("unflatten")
def unflatten(g, input, dim, sizes):
    x = g.tensor(input)
    axis, shape = x.axis(dim), list(g.shape(x))
    return g.out(g.reshaped(x, [*shape[:axis], *sizes, *shape[axis + 1 :]], of=x))


@entry("permute")
def permute(g, input, *dims, **kwargs):
    x = g.tensor(input)
    perm = tuple(x.axis(dim) for dim in _listed([*dims, *kwargs.values()]))
    return g.out(move_axes(g, x, perm))


def move_axes(g: Lowering, x: Any, perm: Sequence[int]) -> str:
    """A Transpose, or the value itself where nothing moves."""
    if tuple(perm) == tuple(range(len(perm))):
        return x if isinstance(x, str) else g.name_of(x)
    return g.emit("Transpose", [x], {"perm": tuple(perm)})


@entry("transpose", "swapaxes", "swapdims")
def transpose(g, input, dim0, dim1):
    x = g.tensor(input)
    perm = list(range(x.ndim))
    one, two = x.axis(dim0), x.axis(dim1)
    perm[one], perm[two] = perm[two], perm[one]
    return g.out(move_axes(g, x, perm))


@entry("t")
def t(g, input):
    x = g.tensor(input)
    return g.out(move_axes(g, x, tuple(range(x.ndim))[::-1]))


@entry("movedim", "moveaxis")
def movedim(g, input, source, destination):
    x = g.tensor(input)
    order = torch.empty((1,) * 0).new_zeros(tuple(range(1, x.ndim + 1)), device="meta").movedim(source, destination)
    return g.out(move_axes(g, x, [size - 1 for size in order.shape]))


@entry("squeeze")
def squeeze(g, input, dim=None):
    x = g.tensor(input)
    wanted = _dims(g, dim, x)
    if dim is None and any(isinstance(one, Size) for one in g.shape(x)):
        g.notes.append(
            f"{g.place}: squeeze() without a dimension is taken as for the example, of shape {tuple(x.a.shape)}"
        )
    axes = tuple(axis for axis in wanted if x.a.shape[axis] == 1 == x.b.shape[axis])
    return g.out(g.emit("Squeeze", [x], {"axes": axes})) if axes else x


@entry("unsqueeze")
def unsqueeze(g, input, dim):
    x = g.tensor(input)
    return g.out(g.emit("Unsqueeze", [x], {"axes": (x.axis(dim, 1),)}))


def expanded(g: Lowering, x: Tensor, sizes: Sequence[Any]) -> str:
    """x spread over dimensions of size 1; -1 keeps a dimension."""
    own = g.shape(x)
    extra = len(sizes) - len(own)
    wanted = [
        own[place - extra] if not isinstance(size, Size) and size == -1 else size for place, size in enumerate(sizes)
    ]
    wanted = [
        1 if place >= extra and _kept(wanted[place], own[place - extra]) else wanted[place]
        for place in range(len(wanted))
    ]
    if all(not isinstance(size, Size) and size == 1 for size in wanted) and not extra:
        return g.name_of(x)
    inputs = [x]
    attributes = g.parameter(inputs, "shape", wanted, 1)
    return g.emit("Expand", inputs, attributes)


def _kept(wanted: Any, own: Any) -> bool:
    """Whether Expand may be told 1, which leaves a dimension as it is."""
    if isinstance(wanted, Size) or isinstance(own, Size):
        return wanted is own or (isinstance(own, Size) and isinstance(wanted, Size))
    return wanted == own


@entry("expand", "broadcast_to")
def expand(g, input, *sizes, **kwargs):
    return g.out(expanded(g, g.tensor(input), _listed([*sizes, *kwargs.values()])))


@entry("meshgrid")
def meshgrid(g, *tensors, indexing="ij"):
    """Each vector along an axis of its own, spread over those of the others."""
    items = [g.tensor(item) for item in (tensors[0] if isinstance(tensors[0], (tuple, list)) else tensors)]
    if indexing != "ij":
        raise refuse(g, f"indexing={indexing!r}", "'ij'")
    found = []
    for i, item in enumerate(items):
        wide = g.emit("Unsqueeze", [item], {"axes": tuple(j for j in range(len(items)) if j != i)})
        inputs = [wide]
        sizes = [1 if j == i else g.dim(other, 0) for j, other in enumerate(items)]
        found.append(g.out(g.emit("Expand", inputs, g.parameter(inputs, "shape", sizes, 1)), i))
    return found


@entry("expand_as")
def expand_as(g, input, other):
    return g.out(expanded(g, g.tensor(input), g.shape(g.tensor(other))))


@entry("repeat", "tile")
def repeat(g, input, *sizes, **kwargs):
    x = g.tensor(input)
    times = _listed([*sizes, *kwargs.values()])
    times = [1] * (x.ndim - len(times)) + times
    name = g.name_of(x)
    if len(times) > x.ndim:
        name = g.emit("Unsqueeze", [name], {"axes": tuple(range(len(times) - x.ndim))})
    inputs = [name]
    return g.out(g.emit("Tile", inputs, g.parameter(inputs, "repeats", times, 1)))


@entry("repeat_interleave")
def repeat_interleave(g, input, repeats, dim=None, *, output_size=None):
    """Each slice a number of times in a row: a new axis, repeated, and flattened away."""
    x = g.tensor(input)
    if isinstance(repeats, Tensor) or dim is None:
        raise refuse(g, "repeats that are computed, or no dim", "a number and a dim")
    axis, shape = x.axis(dim), list(g.shape(x))
    wide = g.emit("Unsqueeze", [x], {"axes": (axis + 1,)})
    times: list[Any] = [1] * (x.ndim + 1)
    times[axis + 1] = repeats
    inputs = [wide]
    wide = g.emit("Tile", inputs, g.parameter(inputs, "repeats", times, 1))
    return g.out(g.reshaped(wide, [*shape[:axis], -1, *shape[axis + 1 :]]))


@entry("flip", "flipud", "fliplr")
def flip(g, input, *dims, **kwargs):
    x = g.tensor(input)
    axes = tuple(x.axis(dim) for dim in _listed([*dims, *kwargs.values()]))
    count = len(axes)
    slices = {"starts": (-1,) * count, "ends": (-(1 << 62),) * count, "axes": axes, "steps": (-1,) * count}
    return g.out(g.emit("Slice", [x], slices))


@entry("roll")
def roll(g, input, shifts, dims=None):
    x = g.tensor(input)
    if isinstance(shifts, (tuple, list)) and len(shifts) == 1:
        (shifts,) = shifts
    if dims is None or isinstance(shifts, (tuple, list, Size)) or shifts == 0:
        raise refuse(g, "several shifts, or none", "one number and one dim")
    axis = x.axis(dims if not isinstance(dims, (tuple, list)) else dims[0])
    parts = [
        g.emit("Slice", [x], {"starts": (-shifts,), "ends": (1 << 62,), "axes": (axis,)}),
        g.emit("Slice", [x], {"starts": (0,), "ends": (-shifts,), "axes": (axis,)}),
    ]
    return g.out(g.emit("Concat", parts, {"axis": axis}))


@entry("narrow")
def narrow(g, input, dim, start, length):
    x = g.tensor(input)
    index: list[Any] = [slice(None)] * x.ndim
    index[x.axis(dim)] = slice(start, g.compute("add", start, length))
    return getitem(g, x, tuple(index))


@entry("select")
def select(g, input, dim, index):
    x = g.tensor(input)
    return getitem(g, x, (*[slice(None)] * x.axis(dim), index))


@entry("pad", "constant_pad_nd")
def pad(g, input, pad, mode="constant", value=None):
    """torch lists pads from the last dimension, in pairs."""
    x = g.tensor(input)
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    before: list[Any] = [0] * x.ndim
    after: list[Any] = [0] * x.ndim
    for i in range(len(pad) // 2):
        before[-1 - i], after[-1 - i] = pad[2 * i], pad[2 * i + 1]
    inputs: list[Any] = [x]
    attributes = {"mode": modes[mode], **g.parameter(inputs, "pads", before + after, 1)}
    if value:
        while len(inputs) < 2:
            inputs.append("")
        inputs.append(g.cast(value, x.dtype))
    return g.out(g.emit("Pad", inputs, attributes))


@entry("tril", "triu")
def triangle(g, input, diagonal=0):
    x = g.tensor(input)
    upper = called(g) == "triu"
    inputs: list[Any] = [x] if diagonal == 0 else [x, g.scalar(diagonal)]
    found = g.out(g.emit("Trilu", inputs, {"upper": upper}))
    found.origin = HIDING if _filled_with(x) == -math.inf else None
    return found


# --- reductions ------------------------------------------------------------------------------------------------------


def _reduce(
    op: str, g: Lowering, input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None, axis: Any = None
) -> Tensor:
    x = g.tensor(input)
    axes = _dims(g, axis if dim is None else dim, x)
    name = g.cast(x, g.a.dtype)
    return g.out(g.emit(op, [name], {"axes": axes, "keepdims": bool(keepdim)}) if axes else name)


for _name, _op in (("sum", "ReduceSum"), ("mean", "ReduceMean"), ("prod", "ReduceProd"), ("amax", "ReduceMax"),
                   ("amin", "ReduceMin"), ("logsumexp", "ReduceLogSumExp")):  # fmt: skip
    FUNCTIONS[_name] = partial(_reduce, _op)


@entry("std", "var")
def spread(g, input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    """The mean square difference from the mean, over n - correction."""
    x = g.tensor(input)
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    axes = _dims(g, dim, x)
    less = (1 if unbiased is None else int(unbiased)) if correction is None else correction
    found = _spread(g, x, axes, less, keepdim)
    return g.out(g.emit("Sqrt", [found]) if called(g) == "std" else found)


def _spread(g: Lowering, x: Tensor, axes: tuple[int, ...], less: Any, keepdim: bool) -> str:
    count: Any = 1
    for axis in axes:
        count = g.compute("mul", count, g.dim(x, axis))
    mean = g.emit("ReduceMean", [x], {"axes": axes, "keepdims": True})
    off = g.emit("Sub", [x, mean])
    total = g.emit("ReduceSum", [g.emit("Mul", [off, off])], {"axes": axes, "keepdims": bool(keepdim)})
    return g.emit("Div", [total, g.cast(g.compute("sub", count, less), x.dtype)])


@entry("var_mean", "std_mean")
def spread_and_mean(g, input, dim=None, unbiased=None, keepdim=False, *, correction=None):
    x = g.tensor(input)
    axes = _dims(g, dim, x)
    less = (1 if unbiased is None else int(unbiased)) if correction is None else correction
    mean = g.emit("ReduceMean", [x], {"axes": axes, "keepdims": bool(keepdim)})
    found = _spread(g, x, axes, less, keepdim)
    found = g.emit("Sqrt", [found]) if called(g) == "std_mean" else found
    return g.named(found, g.a[0], g.b[0]), g.named(mean, g.a[1], g.b[1])


@entry("diff")
def diff(g, input, n=1, dim=-1):
    x = g.tensor(input)
    if n != 1:
        raise refuse(g, f"n={n}", "1")
    later = _sliced(g, g.name_of(x), [(x.axis(dim), slice(1, None))])
    return g.out(g.emit("Sub", [later, _sliced(g, g.name_of(x), [(x.axis(dim), slice(0, -1))])]))


@entry("count_nonzero")
def count_nonzero(g, input, dim=None):
    x = g.tensor(input)
    ints = g.emit("Cast", [_as_bool(g, x)], {"to": "int64"})
    return g.out(g.emit("ReduceSum", [ints], {"axes": _dims(g, dim, x), "keepdims": False}))


@entry("norm", "vector_norm", "linalg_norm", "linalg_vector_norm")
def norm(g, input, p="fro", dim=None, keepdim=False, *, ord=None, dtype=None):
    x = g.tensor(input)
    p = ord if ord is not None else 2 if p is None else p
    if p not in ("fro", 2, 1):
        raise refuse(g, f"p={p!r}", "1 or 2")
    if called(g) == "linalg_norm" and isinstance(dim, (tuple, list)) and len(dim) > 1:
        raise refuse(g, "the norm of a matrix", "one dim")
    return g.out(
        g.emit("ReduceL1" if p == 1 else "ReduceL2", [x], {"axes": _dims(g, dim, x), "keepdims": bool(keepdim)})
    )


def _extreme(
    reduce: str, pairwise: str, arg: str, g: Lowering, input: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any
) -> Any:
    """max(x), max(x, dim) with indices, or max(x, y)."""
    dim = kwargs.pop("other", dim)
    if not isinstance(input, Tensor):
        return g.compute(pairwise.lower(), input, dim) if dim is not None else g.compute(pairwise.lower(), *input)
    if isinstance(dim, Tensor):
        return _binary(pairwise, pairwise.lower(), g, input, dim)
    if dim is None:
        return _reduce(reduce, g, input)
    axis = input.axis(dim)
    name = g.emit(reduce, [input], {"axes": (axis,), "keepdims": bool(keepdim)})
    return _values_and_indices(g, name, lambda: g.emit(arg, [input], {"axis": axis, "keepdims": bool(keepdim)}))


def _values_and_indices(g: Lowering, values: str, indices: Callable[[], str]) -> tuple[Tensor, Tensor | None]:
    """Both results of torch; the indices are made only if something may read them."""
    values_only = bool(g.node.users) and all(user.args[1:2] in ((0,), ("values",)) for user in g.node.users)
    first = g.named(values, g.a[0], g.b[0])
    return _Named((first, None if values_only else g.named(indices(), g.a[1], g.b[1])))


class _Named(tuple):
    """(values, indices), also by these names."""

    @property
    def values(self) -> Tensor:
        return self[0]

    @property
    def indices(self) -> Tensor:
        return self[1]


FUNCTIONS["max"] = partial(_extreme, "ReduceMax", "Max", "ArgMax")
FUNCTIONS["min"] = partial(_extreme, "ReduceMin", "Min", "ArgMin")


@entry("aminmax")
def aminmax(g, input, *, dim=None, keepdim=False):
    x = g.tensor(input)
    attributes = {"axes": _dims(g, dim, x), "keepdims": bool(keepdim)}
    return [g.out(g.emit(op, [x], attributes), i) for i, op in enumerate(("ReduceMin", "ReduceMax"))]


@entry("argmax", "argmin")
def argmax(g, input, dim=None, keepdim=False):
    x = g.tensor(input)
    op = "ArgMin" if called(g) == "argmin" else "ArgMax"
    if dim is None:
        x = g.named(g.reshaped(x, (-1,)), x.a.reshape(-1), x.b.reshape(-1))
        dim = 0
    return g.out(g.emit(op, [x], {"axis": x.axis(dim), "keepdims": bool(keepdim)}))


@entry("any", "all")
def any_all(g, input, dim=None, keepdim=False):
    x = g.tensor(input)
    op = "ReduceMax" if called(g) == "any" else "ReduceMin"
    ints = g.emit("Cast", [_as_bool(g, x)], {"to": "int64"})
    found = g.emit(op, [ints], {"axes": _dims(g, dim, x), "keepdims": bool(keepdim)})
    return g.out(g.emit("Cast", [found], {"to": "bool"}))


@entry("topk")
def topk(g, input, k, dim=-1, largest=True, sorted=True):
    x = g.tensor(input)
    return _top(g, x, k, x.axis(dim), largest)


@entry("sort", "argsort")
def sort(g, input, dim=-1, descending=False, stable=False):
    x = g.tensor(input)
    axis = x.axis(dim)
    found = _top(g, x, g.dim(x, axis), axis, descending)
    return found[1] if called(g) == "argsort" else found


def _top(g: Lowering, x: Tensor, k: Any, axis: int, largest: bool) -> tuple[Tensor | None, Tensor]:
    """Values and indices; of argsort the indices alone."""
    inputs: list[Any] = [x]
    attributes = {"axis": axis, "largest": bool(largest), "sorted": True, **g.parameter(inputs, "k", [k], 1)}
    if "k" in attributes:
        attributes["k"] = attributes["k"][0]
    g.emit("TopK", inputs, attributes)
    values, indices = g.graph.nodes[-1].names
    if isinstance(g.a, torch.Tensor):
        return None, g.named(indices, g.a, g.b)
    return _Named((g.named(values, g.a[0], g.b[0]), g.named(indices, g.a[1], g.b[1])))


@entry("cumsum")
def cumsum(g, input, dim, *, dtype=None):
    x = g.tensor(input)
    return g.out(g.emit("CumSum", [g.cast(x, g.a.dtype)], {"axis": x.axis(dim)}))


@entry("cumprod")
def cumprod(g, input, dim, *, dtype=None):
    x = g.tensor(input)
    return g.out(g.emit("CumProd", [g.cast(x, g.a.dtype)], {"axis": x.axis(dim)}))


@entry("logcumsumexp", "cummax", "cummin")
def running(g, input, dim):
    """A reduction of each step and those before: over a square of steps, those behind hidden."""
    x = g.tensor(input)
    axis, name = x.axis(dim), called(g)
    if name != "logcumsumexp" and not all(user.args[1:2] in ((0,), ("values",)) for user in g.node.users):
        raise refuse(g, "the indices", "the values alone")
    count = g.scalar(g.dim(x, axis))
    steps = g.emit("Range", [g.scalar(0), count, g.scalar(1)])
    rows = g.emit("Unsqueeze", [steps], {"axes": tuple(range(1, x.ndim - axis + 1))})
    columns = g.emit("Unsqueeze", [steps], {"axes": tuple(range(1, x.ndim - axis))}) if axis < x.ndim - 1 else steps
    hidden = g.cast(math.inf if name == "cummin" else -math.inf, x.dtype)
    wide = g.emit("Unsqueeze", [x], {"axes": (axis,)})
    square = g.emit("Where", [g.emit("LessOrEqual", [columns, rows]), wide, hidden])
    op = {"logcumsumexp": "ReduceLogSumExp", "cummax": "ReduceMax", "cummin": "ReduceMin"}[name]
    found = g.emit(op, [square], {"axes": (axis + 1,), "keepdims": False})
    return g.out(found) if name == "logcumsumexp" else _Named((g.named(found, g.a[0], g.b[0]), None))


# --- tensors of sizes ------------------------------------------------------------------------------------------------


def filled(g: Lowering, sizes: Sequence[Any], value: Any) -> Tensor:
    """A tensor of traced sizes with one value."""
    one = g.cast(value, g.a.dtype)
    inputs: list[Any] = [one]
    found = g.out(g.emit("Expand", inputs, g.parameter(inputs, "shape", sizes, 1)) if len(sizes) else one)
    found.static = all_static([value, *sizes])  # whatever tensor lent its dtype or shape
    found.trained = any_trained(value)
    if isinstance(value, (bool, int, float)):
        found.origin = ("filled", float(value))
    return found


@entry("zeros", "empty", "new", "new_zeros", "new_empty", "zeros_like", "empty_like")
def zeros(g, *args, dtype=None, **kwargs):
    return filled(g, _wanted_sizes(g, args, kwargs), 0)


@entry("ones", "new_ones", "ones_like")
def ones(g, *args, dtype=None, **kwargs):
    return filled(g, _wanted_sizes(g, args, kwargs), 1)


@entry("full", "new_full", "full_like")
def full(g, *args, fill_value=None, dtype=None, **kwargs):
    if fill_value is None:
        *args, fill_value = args
    if isinstance(fill_value, Tensor) and fill_value.ndim:
        raise refuse(g, "a fill_value with dimensions", "one number")
    return filled(g, _wanted_sizes(g, args, kwargs), fill_value)


def _wanted_sizes(g: Lowering, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The sizes of a new tensor: those of another, or as they were given, without the tensor of a new_ method."""
    name = called(g)
    if name.endswith("_like"):
        return list(g.shape(g.tensor(args[0])))
    given = [*args[1 if name.startswith("new") else 0 :], *(kwargs[key] for key in ("size",) if key in kwargs)]
    return _listed(given)


@entry("zero", "fill")
def fill(g, input, value=0):
    return filled(g, g.shape(g.tensor(input)), value)


@entry("arange")
def arange(g, *bounds, start=0, end=None, step=1, dtype=None):
    given = list(bounds)
    if len(given) == 1:
        end = given[0]
    elif given:
        start, end = given[:2]
        step = given[2] if len(given) > 2 else step
    names = [g.cast(item, g.a.dtype) for item in (start, end, step)]
    return g.out(g.emit("Range", names))


@entry("linspace")
def linspace(g, start, end, steps, *, dtype=None):
    """From both ends to the middle, as torch counts."""
    if not g.a.dtype.is_floating_point:
        raise refuse(g, f"dtype={g.a.dtype}", "floats")
    dtype = g.a.dtype
    last = g.compute("max", g.compute("sub", steps, 1), 1)
    half = g.compute("max", g.compute("floordiv", steps, 2), 1)
    width = g.cast(g.compute("truediv", g.compute("sub", end, start), last), dtype)
    places = g.emit("Range", [g.scalar(0), g.scalar(steps), g.scalar(1)])
    ahead = g.emit("Cast", [g.emit("Sub", [g.scalar(g.compute("sub", steps, 1)), places])], {"to": g.spec_dtype(dtype)})
    behind = g.emit("Cast", [places], {"to": g.spec_dtype(dtype)})
    first = g.emit("Add", [g.cast(start, dtype), g.emit("Mul", [width, behind])])
    second = g.emit("Sub", [g.cast(end, dtype), g.emit("Mul", [width, ahead])])
    return g.out(g.emit("Where", [g.emit("Less", [places, g.scalar(half)]), first, second]))


@entry("eye")
def eye(g, n, m=None, *, dtype=None):
    rows, columns = (g.emit("Range", [g.scalar(0), g.scalar(size), g.scalar(1)]) for size in (n, n if m is None else m))
    same = g.emit("Equal", [g.emit("Unsqueeze", [rows], {"axes": (1,)}), columns])
    return g.out(g.emit("Cast", [same], {"to": g.spec_dtype(g.a.dtype)}))


@entry("new_tensor")
def tensor_like(g, input, data, dtype=None):
    return new_tensor(g, data)


@entry("tensor", "as_tensor", "scalar_tensor")
def new_tensor(g, data, dtype=None):
    if isinstance(data, Tensor):
        return to(g, data)
    if not isinstance(data, (tuple, list)):
        return g.out(g.cast(data, g.a.dtype))
    if any(isinstance(item, (tuple, list)) for item in data):
        raise refuse(g, "nested lists of sizes", "one list")
    parts = [g.emit("Reshape", [g.cast(item, g.a.dtype)], {"shape": (1,)}) for item in data]
    return g.out(parts[0] if len(parts) == 1 else g.emit("Concat", parts, {"axis": 0}))


# --- indexing --------------------------------------------------------------------------------------------------------


@entry("getattr")
def getattribute(g, input, name):
    if name in ("T", "mT", "values", "indices", "real", "lengths", "weight", "bias") and not isinstance(input, Packed):
        if name in ("values", "indices"):
            return getattr(input, name)
        if name == "real":
            return input
        if name in ("T", "mT") and isinstance(input, Tensor):
            return t(g, input) if name == "T" else transpose(g, input, -2, -1)
    kind = "PackedSequence" if isinstance(input, Packed) else "tensor"
    raise refuse(g, f"the attribute {name!r} of a {kind}", "tensor code")


@entry("getitem")
def getitem(g, input, index):
    """x[index]: numbers, slices, None, ..., and tensors of indices."""
    if isinstance(input, dict) or (isinstance(input, (tuple, list)) and not isinstance(index, Size)):
        return input[index]
    x = g.tensor(input)
    parts = list(index) if isinstance(index, (tuple, list)) else [index]
    if isinstance(index, list):
        parts = [Tensor(None, torch.tensor(index), torch.tensor(index), constant=True)]
    parts = [_tensor_index(g, part) for part in parts]
    used = sum(1 for part in parts if part is not None and part is not ...)
    place = next((i for i, part in enumerate(parts) if part is ...), None)
    if place is not None:
        parts[place : place + 1] = [slice(None)] * (x.ndim - used)
    else:
        parts += [slice(None)] * (x.ndim - used)
    shortcut = _known_step(g, x, parts)
    return shortcut if shortcut is not None else _indexed(g, x, parts)


def _tensor_index(g: Lowering, part: Any) -> Any:
    if isinstance(part, list):
        part = Tensor(None, torch.tensor(part), torch.tensor(part), constant=True)
    if isinstance(part, Tensor) and part.dtype in (torch.bool, torch.uint8):
        raise refuse(g, "a mask as index, whose result has no fixed size", "torch.where or masked_fill")
    return part


def _known_step(g: Lowering, x: Tensor, parts: Sequence[Any]) -> Tensor | None:
    """h_n[-1] and out[:, -1] of a recurrent module, which its node gives as values of their own."""
    rest = [part for part in parts if part != slice(None)]
    if (
        x.origin is None
        or x.origin[0] not in ("h", "sequence")
        or len(rest) != 1
        or isinstance(rest[0], (slice, Tensor, Size))
        or rest[0] is None
    ):
        return None
    kind, node = x.origin
    axis, index = parts.index(rest[0]), rest[0]
    if kind == "h" and axis == 0:
        rows = node.layers * len(node.directions)
        row = index % rows
        if len(node.directions) == 1 and row == rows - 1:
            return g.named(f"{node.name}.last", g.a, g.b)
        name = g.emit("Gather", [x], {"axis": 0, "indices": row})
        return g.named(name, g.a, g.b, ("row", node, row))
    time = 1 if node.layout == "batch_first" else 0
    if kind == "sequence" and axis == time and index == -1 and node.direction == "forward":
        return g.named(f"{node.name}.last", g.a, g.b)
    return None


def _indexed(g: Lowering, x: Tensor, parts: list[Any]) -> Tensor:
    name = g.name_of(x)
    slices, axis = [], 0
    for part in parts:
        if isinstance(part, slice) and part != slice(None):
            slices.append((axis, part))
        axis += part is not None
    if slices:
        name = _sliced(g, name, slices)
    tensors: list[tuple[int, Tensor]] = []
    axis = 0
    new: list[int] = []
    for part in parts:
        if part is None:
            new.append(axis + len(new))
        elif isinstance(part, Tensor) and part.ndim > 0:
            tensors.append((axis, part))
            axis += 1
        elif isinstance(part, slice):
            axis += 1
        else:
            name = _taken(g, name, axis, part)
    if tensors and new:
        raise refuse(g, "None beside tensors as indices", "unsqueeze")
    if tensors:
        name = _gathered(g, name, axis, tensors)
    if new:
        # a dimension of size 1 stands where None stood, counted in the result
        places, at = [], 0
        for part in parts:
            if part is None or isinstance(part, slice):
                places += [at] if part is None else []
                at += 1
        name = g.emit("Unsqueeze", [name], {"axes": tuple(places)})
    return g.out(name)


def _taken(g: Lowering, name: str, axis: int, index: Any) -> str:
    """One slice along an axis, without it."""
    if isinstance(index, int) and not isinstance(index, bool):
        return g.emit("Gather", [name], {"axis": axis, "indices": index})
    where = g.cast(index, torch.int64)
    return g.emit("Gather", [name, where], {"axis": axis})


def _sliced(g: Lowering, name: str, slices: Sequence[tuple[int, slice]]) -> str:
    starts = [0 if part.start is None else _index(g, part.start) for _, part in slices]
    ends = [1 << 62 if part.stop is None else _index(g, part.stop) for _, part in slices]
    steps = [1 if part.step is None else _number(g, "a step", part.step) for _, part in slices]
    inputs: list[Any] = [name]
    attributes = {"axes": tuple(axis for axis, _ in slices), "steps": tuple(steps)}
    attributes |= g.parameter(inputs, "starts", starts, 1)
    attributes |= g.parameter(inputs, "ends", ends, 2)
    return g.emit("Slice", inputs, attributes)


def _index(g: Lowering, item: Any) -> Any:
    """A bound of a slice: a number, a size, or a tensor of one integer."""
    return Size(int(item.a), int(item.b), ("item", item)) if isinstance(item, Tensor) else item


def _gathered(g: Lowering, name: str, rank: int, tensors: Sequence[tuple[int, Tensor]]) -> str:
    """x[..., i, j, ...] for tensors of indices, whose dimensions stand in the first one's place, or in front."""
    axes = [axis for axis, _ in tensors]
    if len(tensors) == 1:
        return g.emit("Gather", [name, g.cast(tensors[0][1], torch.int64)], {"axis": axes[0]})
    a = torch.broadcast_tensors(*(item.a for _, item in tensors))[0]
    b = torch.broadcast_tensors(*(item.b for _, item in tensors))[0]
    rest = [axis for axis in range(rank) if axis not in axes]
    name = move_axes(g, name, (*axes, *rest))
    columns = []
    for _, item in tensors:
        ids = Tensor(g.cast(item, torch.int64), item.a, item.b)
        if item.a.shape != a.shape or item.b.shape != b.shape:
            widest = next(other for _, other in tensors if other.a.shape == a.shape and other.b.shape == b.shape)
            ids = Tensor(expanded(g, ids, g.shape(widest)), a, b)
        columns.append(g.emit("Unsqueeze", [ids], {"axes": (a.ndim,)}))
    name = g.emit("GatherND", [name, g.emit("Concat", columns, {"axis": a.ndim})])
    if axes == list(range(axes[0], axes[0] + len(axes))) and axes[0] > 0:
        front = axes[0]
        name = move_axes(
            g, name, (*range(a.ndim, a.ndim + front), *range(a.ndim), *range(a.ndim + front, a.ndim + len(rest)))
        )
    return name


@entry("index_select")
def index_select(g, input, dim, index):
    x = g.tensor(input)
    return g.out(g.emit("Gather", [x, g.cast(g.tensor(index), torch.int64)], {"axis": x.axis(dim)}))


@entry("take_along_dim")
def take_along_dim(g, input, indices, dim=None):
    if dim is None:
        raise refuse(g, "no dim", "a dim")
    return gather(g, input, dim, indices)


@entry("gather")
def gather(g, input, dim, index, *, sparse_grad=False):
    x, ids = g.tensor(input), g.tensor(index)
    return g.out(g.emit("GatherElements", [_cut_to(g, x, ids, x.axis(dim)), ids], {"axis": x.axis(dim)}))


def _cut_to(g: Lowering, x: Tensor, ids: Tensor, axis: int) -> Tensor:
    """torch lets the indices be shorter than x in the other dimensions, ONNX does not."""
    shorter = [
        i for i in range(x.ndim) if i != axis and (x.a.shape[i], x.b.shape[i]) != (ids.a.shape[i], ids.b.shape[i])
    ]
    if not shorter:
        return x
    slices = [(i, slice(0, g.dim(ids, i))) for i in shorter]
    index = tuple(slice(0, ids.a.shape[i]) if i in shorter else slice(None) for i in range(x.ndim))
    other = tuple(slice(0, ids.b.shape[i]) if i in shorter else slice(None) for i in range(x.ndim))
    return g.named(_sliced(g, g.name_of(x), slices), x.a[index], x.b[other])


@entry("scatter", "scatter_add")
def scatter(g, input, dim, index, src=None, *, value=None, reduce=None):
    x, ids = g.tensor(input), g.tensor(index)
    if reduce not in (None, "add", "sum"):
        raise refuse(g, f"reduce={reduce!r}", "none or 'add'")
    src = value if src is None else src
    if isinstance(src, Tensor) and src.ndim:
        updates = g.cast(_cut_to(g, src, ids, -1), x.dtype)
    else:
        updates = g.emit("Expand", [g.cast(src, x.dtype), g.emit("Shape", [ids])])
    added = reduce is not None or called(g) == "scatter_add"
    attributes = {"axis": x.axis(dim), "reduction": "add" if added else "none"}
    return g.out(g.emit("ScatterElements", [x, ids, updates], attributes))


@entry("setitem")
def setitem(g, input, index, item):
    """x with item at x[:, i], x[i] or x[:, i:j]: slices before, the item, slices behind."""
    x = g.tensor(input)
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, Tensor) and part.dtype == torch.bool for part in parts):
        if len(parts) == 1 and not isinstance(item, Tensor):
            mask = parts[0]
            name = g.name_of(mask)
            if mask.ndim < x.ndim:
                name = g.emit("Unsqueeze", [name], {"axes": tuple(range(mask.ndim, x.ndim))})
            return g.out(g.emit("Where", [name, g.cast(item, x.dtype), g.name_of(x)]))
        raise refuse(g, "a mask as index of what is set", "torch.where")
    places = [i for i, part in enumerate(parts) if part is not ... and part != slice(None)]
    if ... in parts or len(places) != 1 or isinstance(parts[places[0]], (Tensor, Size)):
        raise refuse(g, "an item set at several dimensions or computed places", "one number or slice")
    axis, part = places[0], parts[places[0]]
    start, stop = (part.start or 0, part.stop) if isinstance(part, slice) else (part, part + 1 or None)
    if isinstance(part, slice) and part.step not in (None, 1):
        raise refuse(g, f"a step of {part.step}", "1")
    ours, theirs = ([_in_trace(one, trace) for one in parts] for trace in "ab")
    rank = x.a[tuple(ours)].ndim
    if x.b[tuple(theirs)].ndim != rank:
        raise refuse(g, "an item set to a place of other dimensions for inputs of another size", "the same dimensions")
    inside = _sliced(g, g.name_of(x), [(axis, slice(start, stop))])
    value = g.cast(item, x.dtype)
    if isinstance(item, Tensor) and item.ndim == rank and not isinstance(part, slice):
        value = g.emit("Unsqueeze", [value], {"axes": (axis,)})
    like = g.emit("Shape", [inside])
    pieces = [g.emit("Expand", [value, like])]
    if isinstance(start, Size) or start != 0:
        pieces.insert(0, _sliced(g, g.name_of(x), [(axis, slice(0, start))]))
    if stop is not None:
        pieces.append(_sliced(g, g.name_of(x), [(axis, slice(stop, None))]))
    return g.out(pieces[0] if len(pieces) == 1 else g.emit("Concat", pieces, {"axis": axis}))


def _in_trace(part: Any, trace: str) -> Any:
    """A part of an index as it is in one of the traces."""
    if isinstance(part, slice):
        return slice(*(_in_trace(one, trace) for one in (part.start, part.stop, part.step)))
    return getattr(part, trace) if isinstance(part, (Size, Tensor)) else part


# --- packed sequences ------------------------------------------------------------------------------------------------


@entry("pack_padded_sequence")
def pack_padded_sequence(g, input, lengths, batch_first=False, enforce_sorted=True):
    x, given = g.tensor(input), lengths
    if isinstance(given, (tuple, list)):
        raise refuse(g, "lengths as a list", "a tensor")
    counts = g.tensor(given)
    return Packed(x, Tensor(g.cast(counts, torch.int64), counts.a, counts.b), not batch_first)


@entry("pad_packed_sequence")
def pad_packed_sequence(g, sequence, batch_first=False, padding_value=0.0, total_length=None):
    """The sequence cut to the longest row, or of total_length; rnncore's own keeps the input's steps."""
    if not isinstance(sequence, Packed):
        raise refuse(g, f"{type(sequence).__name__}", "a PackedSequence")
    x = sequence.tensor
    time = 0 if sequence.time_first else 1
    name = g.name_of(x)
    origin = x.origin
    steps = g.dim(x, time)
    if total_length is not None and not _same_size(total_length, steps):
        raise refuse(g, "a total_length that is not the input's", "x.size(1), or None")
    if total_length is None:
        longest = g.emit("ReduceMax", [sequence.lengths], {"axes": (0,), "keepdims": True})
        name = g.emit("Slice", [name, "", longest], {"starts": (0,), "axes": (time,)})
        origin = None
    if padding_value:
        name = _padded(g, name, sequence, time, padding_value)
        origin = None
    if sequence.time_first == batch_first:
        name = move_axes(g, name, (1, 0, *range(2, x.ndim)))
        origin = None
    lengths = sequence.lengths
    return g.named(name, g.a[0], g.b[0], origin), lengths


def _padded(g: Lowering, name: str, packed: Packed, time: int, value: float) -> str:
    """Another value than 0 behind each row's length."""
    size = g.emit("Shape", [name], {"start": time, "end": time + 1})
    steps = g.emit("Range", [g.scalar(0), g.emit("Squeeze", [size], {"axes": (0,)}), g.scalar(1)])
    ours, theirs = (steps, g.name_of(packed.lengths))
    rows = g.emit("Unsqueeze", [theirs], {"axes": (1 if time == 1 else 0,)})
    places = g.emit("Unsqueeze", [ours], {"axes": (0 if time == 1 else 1,)})
    valid = g.emit("Less", [places, rows])
    wide = g.emit("Unsqueeze", [valid], {"axes": tuple(range(2, packed.tensor.ndim))})
    return g.emit("Where", [wide, name, g.cast(float(value), packed.tensor.dtype)])


def _same_size(given: Any, steps: Any) -> bool:
    if isinstance(given, Size) and isinstance(steps, Size):
        return (given.a, given.b) == (steps.a, steps.b)
    return given == steps
