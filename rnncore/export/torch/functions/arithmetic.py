"""Arithmetic and comparisons of torch, element by element."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from rnncore.export.torch.functions.common import as_bool, filled_with, plain_number
from rnncore.export.torch.functions.registry import FUNCTIONS, called, entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.records import without_folders
from rnncore.export.torch.values import HIDING, Size, TracedTensor

__all__ = ["binary", "to"]


def _plain(item: Any) -> Any:
    """A number for torch.result_type, which wants tensors or numbers."""
    if isinstance(item, TracedTensor):
        return item.a
    return item.a if isinstance(item, Size) else item


UNARY = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "neg": "Neg", "negative": "Neg", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "erf": "Erf",
    "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos", "tan": "Tan", "sinh": "Sinh", "cosh": "Cosh",
    "asin": "Asin", "acos": "Acos", "atan": "Atan", "softsign": "Softsign", "hardswish": "HardSwish",
    "absolute": "Abs", "sgn": "Sign", "arctan": "Atan", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip


def _unary(op: str, g: TraceLowering, input: Any, *, decimals: int = 0) -> Any:
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


def binary(op: str, python: str, g: TraceLowering, input: Any, other: Any, *, alpha: Any = 1) -> Any:
    if not isinstance(input, TracedTensor) and not isinstance(other, TracedTensor):
        return g.compute(python, input, other)
    names = [g.cast(item, g.a.dtype) for item in (input, other)]
    if alpha != 1:
        names[1] = g.emit("Mul", [names[1], g.cast(plain_number(g, "alpha", alpha), g.a.dtype)])
    return g.out(g.emit(op, names))


for _name, _op in BINARY.items():
    _python = {"subtract": "sub", "multiply": "mul", "maximum": "max", "minimum": "min"}.get(_name, _name)
    FUNCTIONS[_name] = partial(binary, _op, _python)


@entry("rsub")
def _rsub(g, input, other, *, alpha=1):
    if alpha != 1:
        raise refuse(g, f"alpha={alpha}", "1")
    return binary("Sub", "sub", g, other, input)


@entry("div", "divide", "true_divide")
def _div(g, input, other, *, rounding_mode=None):
    if rounding_mode is None:
        return binary("Div", "truediv", g, input, other)
    if rounding_mode == "floor":
        return _floordiv(g, input, other)
    raise refuse(g, f"rounding_mode={rounding_mode!r}", "None or 'floor'")


@entry("floordiv", "floor_divide")
def _floordiv(g, input, other):
    if not isinstance(input, TracedTensor) and not isinstance(other, TracedTensor):
        return g.compute("floordiv", input, other)
    x, y = (g.cast(item, g.a.dtype) for item in (input, other))
    if g.a.dtype.is_floating_point:
        return g.out(g.emit("Floor", [g.emit("Div", [x, y])]))
    return g.out(g.emit("Div", [g.emit("Sub", [x, g.emit("Mod", [x, y])]), y]))


@entry("mod", "remainder")
def _remainder(g, input, other):
    if not isinstance(input, TracedTensor) and not isinstance(other, TracedTensor):
        return g.compute("mod", input, other)
    x, y = (g.cast(item, g.a.dtype) for item in (input, other))
    if not g.a.dtype.is_floating_point:
        return g.out(g.emit("Mod", [x, y]))
    whole = g.emit("Floor", [g.emit("Div", [x, y])])
    return g.out(g.emit("Sub", [x, g.emit("Mul", [whole, y])]))


COMPARED = {"eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual"}


def _compare(op: str, g: TraceLowering, input: Any, other: Any) -> TracedTensor:
    if not isinstance(input, TracedTensor) and not isinstance(other, TracedTensor):
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


def _logic(op: str, bits: bool, g: TraceLowering, input: Any, other: Any) -> TracedTensor:
    if bits and g.a.dtype != torch.bool:
        raise refuse(g, f"bits of {g.a.dtype}", "torch.bool")
    return g.out(g.emit(op, [as_bool(g, input), as_bool(g, other)]))


for _name, _op in (("and", "And"), ("or", "Or"), ("xor", "Xor")):
    FUNCTIONS[f"logical_{_name}"] = partial(_logic, _op, False)
    FUNCTIONS[f"bitwise_{_name}"] = FUNCTIONS[_name] = partial(_logic, _op, True)


@entry("invert", "logical_not", "bitwise_not")
def _not(g, input):
    x = g.tensor(input)
    if x.dtype != torch.bool and g.a.dtype != torch.bool:
        raise refuse(g, f"bits of {x.dtype}", "torch.bool")
    return g.out(g.emit("Not", [as_bool(g, x)]))


@entry("trunc", "fix", "frac")
def _trunc(g, input):
    """The whole part; of frac the rest."""
    if not isinstance(input, TracedTensor):
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
        infinite = g.emit("IsInf", [x], {"detect_positive": positive, "detect_negative": not positive})
        name = g.emit("Where", [infinite, g.cast(float(plain_number(g, "a limit", limit)), x.dtype), name])
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


@entry("where")
def where(g, condition, input=None, other=None):
    """torch.where(condition, x, y); as a method x.where(condition, y)."""
    if g.node.op == "call_method":
        condition, input = input, condition
    if input is None:
        raise refuse(g, "one argument, whose result has no fixed size", "where(condition, x, y)")
    return g.out(g.emit("Where", [as_bool(g, condition), g.cast(input, g.a.dtype), g.cast(other, g.a.dtype)]))


@entry("masked_fill")
def masked_fill(g, input, mask, value):
    filled = g.out(g.emit("Where", [as_bool(g, mask), g.cast(value, g.a.dtype), g.cast(input, g.a.dtype)]))
    hides = isinstance(input, TracedTensor) and filled_with(input) in (0, -math.inf) and value in (0, -math.inf)
    filled.origin = HIDING if hides else None
    return filled


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
    g.notes.append(f"{g.wanted} ({without_folders(g.place)}): left out, it does nothing at inference")
    return input


@entry("to", "type", "float", "double", "long", "int", "bool", "short", "char", "byte", "half", "bfloat16", "type_as")
def to(g, input, *args, **kwargs):
    if isinstance(input, Size):
        return input
    x = g.tensor(input)
    if g.a.dtype == torch.bool and x.dtype != torch.bool:
        return g.out(as_bool(g, x))
    return x if g.spec_dtype(g.a.dtype) == g.spec_dtype(x.dtype) else g.out(g.cast(x, g.a.dtype))


@entry("item")
def item(g, input):
    return Size(g.a, g.b, ("item", g.tensor(input)))
