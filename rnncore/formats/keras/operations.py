"""keras.ops between the layers of a functional model of Keras 3: those that are an ONNX op or two.

The results of operations have no mask, as in Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rnncore.cells import Activation
from rnncore.errors import UnsupportedError
from rnncore.files.cursor import shown
from rnncore.formats.keras.use import Tensor, Use, activation, apply_function, check_options

__all__ = ["OPERATIONS"]

OPERANDS = ("condition", "x", "xs", "x1", "x2", "key")
FARTHEST = (1 << 63) - 1
OPERATIONS: dict[str, Callable[[Use], list[Tensor]]] = {}


def operation(*names: str, options: str = ""):
    """Registers a function as the meaning of operations of these names."""

    def register(function):
        def run(use: Use) -> list[Tensor]:
            check_options(use, use.config, set(options.split()), {"dtype": None})
            return [Tensor(function(use))]

        OPERATIONS.update(dict.fromkeys(names, run))
        return function

    return register


def _operands(use: Use, count: int) -> list[Any]:
    """The arguments, by place and then by name, in the order in which Keras's operations take them."""
    named = [key for key in use.kwargs if key not in use.config]
    if len(named) > 1 and not set(named) <= set(OPERANDS):
        raise UnsupportedError(f"{use.where}: arguments {shown(', '.join(named), 80)}, expected {', '.join(OPERANDS)}")
    named.sort(key=OPERANDS.index if len(named) > 1 else None)
    operands = [*use.args, *(use.kwargs[key] for key in named)]
    if len(operands) != count:
        raise UnsupportedError(f"{use.where}: {len(operands)} arguments, expected {count}")
    return operands


def _value(use: Use, item: Any, place: int, like: str | None = None) -> str:
    """A tensor, or a number as a constant of the dtype of the other operand."""
    graph = use.graph
    if isinstance(item, Tensor):
        return item.name
    if isinstance(item, np.ndarray):
        return graph.add_constant(item, "float", f"{use.name}.constant.{place}")
    if isinstance(item, (int, float)):
        dtype = graph.values[like].dtype if like is not None else "float"
        fits = dtype == "float" or (dtype == "bool") == isinstance(item, bool)
        if fits and (dtype in ("float", "bool") or float(item).is_integer()):
            return graph.number(f"{use.name}.number.{place}", item, dtype)
    raise UnsupportedError(f"{use.where}: argument {shown(str(item), 60)}, expected a tensor or a number")


def _pair(use: Use) -> tuple[str, str]:
    """Two operands of one dtype."""
    a, b = _operands(use, 2)
    graph = use.graph
    x = _value(use, a, 0, b.name if isinstance(b, Tensor) else None)
    y = _value(use, b, 1, x)
    if graph.values[x].dtype != graph.values[y].dtype:
        x, y = graph.floating(x), graph.floating(y)
    return x, y


# fmt: off
BINARY = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Divide": "Div", "TrueDivide": "Div", "Maximum": "Max",
    "Minimum": "Min", "Power": "Pow", "Matmul": "MatMul",
}
COMPARISONS = {"Equal": "Equal", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less",
               "LessEqual": "LessOrEqual"}
LOGICAL = {"LogicalAnd": "And", "LogicalOr": "Or", "LogicalXor": "Xor"}
UNARY = {"Exp": "Exp", "Log": "Log", "Sqrt": "Sqrt", "Abs": "Abs", "Absolute": "Abs", "Negative": "Neg",
         "Tanh": "Tanh", "Sin": "Sin", "Cos": "Cos", "Floor": "Floor", "Ceil": "Ceil", "Reciprocal": "Reciprocal",
         "Sign": "Sign", "Erf": "Erf"}
ACTIVATIONS = {
    "Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus", "Softsign": "softsign", "Silu": "silu",
    "Swish": "silu", "Relu6": "relu6", "Selu": "selu", "HardSigmoid": "hard_sigmoid", "HardSilu": "hard_silu",
    "HardTanh": "hard_tanh", "LogSigmoid": "log_sigmoid", "Mish": "mish", "TanhShrink": "tanh_shrink",
}
REDUCTIONS = {"Mean": "ReduceMean", "Sum": "ReduceSum", "Max": "ReduceMax", "Min": "ReduceMin", "Prod": "ReduceProd"}
# fmt: on


@operation(*BINARY)
def binary(use: Use) -> str:
    x, y = _pair(use)
    x, y = use.graph.floating(x), use.graph.floating(y)
    return use.graph.emit(BINARY[use.layer.class_name], (x, y), use.name)


@operation(*COMPARISONS)
def comparison(use: Use) -> str:
    return use.graph.emit(COMPARISONS[use.layer.class_name], _pair(use), use.name)


@operation(*LOGICAL)
def logical(use: Use) -> str:
    """Numbers count as true where they are not 0."""
    pair = [_value(use, item, place) for place, item in enumerate(_operands(use, 2))]
    pair = [use.graph.cast(f"{use.name}.{place}", x, "bool") for place, x in enumerate(pair)]
    return use.graph.emit(LOGICAL[use.layer.class_name], pair, use.name)


@operation("NotEqual")
def not_equal(use: Use) -> str:
    return use.graph.emit("Not", use.graph.emit("Equal", _pair(use), f"{use.name}.equal"), use.name)


@operation("LogicalNot")
def logical_not(use: Use) -> str:
    (operand,) = _operands(use, 1)
    return use.graph.emit("Not", _value(use, operand, 0), use.name)


@operation(*UNARY)
def unary(use: Use) -> str:
    (x,) = _operands(use, 1)
    return use.graph.emit(UNARY[use.layer.class_name], use.graph.floating(_value(use, x, 0)), use.name)


@operation("Square")
def square(use: Use) -> str:
    (item,) = _operands(use, 1)
    x = use.graph.floating(_value(use, item, 0))
    return use.graph.emit("Mul", (x, x), use.name)


@operation("Rsqrt")
def rsqrt(use: Use) -> str:
    (item,) = _operands(use, 1)
    root = use.graph.emit("Sqrt", use.graph.floating(_value(use, item, 0)), f"{use.name}.root")
    return use.graph.emit("Reciprocal", root, use.name)


@operation(*ACTIVATIONS)
def plain_activation(use: Use) -> str:
    (item,) = _operands(use, 1)
    function = activation(ACTIVATIONS[use.layer.class_name], use.where)
    return apply_function(use, use.graph.floating(_value(use, item, 0)), function, use.name)


@operation("Gelu", options="approximate")
def gelu(use: Use) -> str:
    (item,) = _operands(use, 1)
    kind = "gelu_tanh" if use.config.get("approximate", use.kwargs.get("approximate", True)) else "gelu_erf"
    return apply_function(use, use.graph.floating(_value(use, item, 0)), Activation(kind), use.name)


@operation("Softmax", "LogSoftmax", options="axis")
def softmax(use: Use) -> str:
    (item,) = _operands(use, 1)
    x = use.graph.floating(_value(use, item, 0))
    axis = use.config.get("axis", -1)
    use.graph.axis(x, axis, use.where)
    return use.graph.emit(use.layer.class_name, x, use.name, axis=axis)


def _reduced(use: Use, x: str) -> tuple[list[int], bool]:
    """axis (all for None) and keepdims of a reduction."""
    axes = use.config.get("axis")
    axes = list(range(use.graph.rank(x))) if axes is None else axes if isinstance(axes, list) else [axes]
    return [use.graph.axis(x, axis, use.where) for axis in axes], bool(use.config.get("keepdims", False))


@operation(*REDUCTIONS, options="axis keepdims initial")
def reduction(use: Use) -> str:
    (item,) = _operands(use, 1)
    if use.config.get("initial") is not None:
        raise UnsupportedError(f"{use.where}: initial={shown(str(use.config['initial']), 40)}, expected none")
    x = use.graph.floating(_value(use, item, 0))
    axes, keep = _reduced(use, x)
    if 0 in axes:
        raise UnsupportedError(f"{use.where}: over the batch, expected other axes")
    return use.graph.reduce(use.name, REDUCTIONS[use.layer.class_name], x, axes, keep)


@operation("Any", "All", options="axis keepdims")
def any_all(use: Use) -> str:
    (item,) = _operands(use, 1)
    graph = use.graph
    x = graph.cast(f"{use.name}.truth", _value(use, item, 0), "bool")
    axes, keep = _reduced(use, x)
    op = "ReduceMax" if use.layer.class_name == "Any" else "ReduceMin"
    numbers = graph.cast(f"{use.name}.numbers", x, "float")
    return graph.cast(use.name, graph.reduce(f"{use.name}.reduced", op, numbers, axes, keep), "bool")


@operation("Concatenate", options="axis")
def concatenate(use: Use) -> str:
    (items,) = _operands(use, 1)
    names = [_value(use, item, place) for place, item in enumerate(items)]
    if len({use.graph.values[name].dtype for name in names}) > 1:
        names = [use.graph.floating(name) for name in names]
    axis = use.graph.axis(names[0], use.config.get("axis", -1), use.where)
    return use.graph.emit("Concat", names, use.name, axis=axis)


@operation("Stack", options="axis")
def stack(use: Use) -> str:
    (items,) = _operands(use, 1)
    graph = use.graph
    names = [graph.floating(_value(use, item, place)) for place, item in enumerate(items)]
    axis, rank = use.config.get("axis", 0), graph.rank(names[0]) + 1
    if type(axis) is not int or not -rank <= axis < rank:
        raise UnsupportedError(f"{use.where}: axis={shown(str(axis), 40)}")
    parts = [graph.unsqueeze(f"{use.name}.{place}", name, axis % rank) for place, name in enumerate(names)]
    return graph.emit("Concat", parts, use.name, axis=axis % rank)


@operation("ExpandDims", options="axis")
def expand_dims(use: Use) -> str:
    (item,) = _operands(use, 1)
    x, axis = _value(use, item, 0), use.config.get("axis")
    rank = use.graph.rank(x) + 1
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if type(axis) is not int or not -rank <= axis < rank:
        raise UnsupportedError(f"{use.where}: axis={shown(str(axis), 40)}, expected one integer")
    return use.graph.unsqueeze(use.name, x, axis % rank)


@operation("Squeeze", options="axis")
def squeeze(use: Use) -> str:
    (item,) = _operands(use, 1)
    x, axis = _value(use, item, 0), use.config.get("axis")
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    return use.graph.squeeze(use.name, x, use.graph.axis(x, axis, use.where))


@operation("Transpose", options="axes")
def transpose(use: Use) -> str:
    (item,) = _operands(use, 1)
    x, axes = _value(use, item, 0), use.config.get("axes")
    rank = use.graph.rank(x)
    axes = list(range(rank))[::-1] if axes is None else [use.graph.axis(x, axis, use.where) for axis in axes]
    if sorted(axes) != list(range(rank)):
        raise UnsupportedError(f"{use.where}: axes={axes}, expected each of {rank} once")
    return use.graph.emit("Transpose", x, use.name, perm=tuple(axes))


@operation("Flip", options="axis")
def flip(use: Use) -> str:
    (item,) = _operands(use, 1)
    graph, x = use.graph, _value(use, item, 0)
    given = use.config.get("axis")
    axes = [graph.axis(x, axis, use.where) for axis in (given if isinstance(given, list) else [given or 0])]
    if 0 in axes or len(set(axes)) < len(axes):
        found = shown(str(given), 40)
        raise UnsupportedError(f"{use.where}: axis={found}, expected axes other than the batch, each once")
    for axis in axes:
        x = graph.slice(f"{use.name}.axis.{axis}", x, axis, -1, -FARTHEST, -1)
    return x


@operation("Cast", options="dtype")
def cast(use: Use) -> str:
    item = use.args[0]
    dtype = use.config.get("dtype", use.kwargs.get("dtype"))
    dtype = use.args[1] if len(use.args) == 2 and dtype is None else dtype
    to = {"float32": "float", "float64": "float", "int32": "int64", "int64": "int64", "bool": "bool"}
    if not isinstance(dtype, str) or dtype not in to:
        raise UnsupportedError(f"{use.where}: dtype={shown(str(dtype), 40)}, expected one of {', '.join(to)}")
    return use.graph.cast(use.name, _value(use, item, 0), to[dtype])


@operation("Where")
def where(use: Use) -> str:
    condition, a, b = _operands(use, 3)
    x = use.graph.floating(_value(use, a, 1))
    y = use.graph.floating(_value(use, b, 2))
    return use.graph.emit("Where", (_value(use, condition, 0), x, y), use.name)


@operation("ZerosLike", "OnesLike", options="dtype")
def filled(use: Use) -> str:
    """Zeros or ones of the shape of x: x < x, and its opposite."""
    graph, x = use.graph, _value(use, use.args[0], 0)
    dtype = use.config.get("dtype", use.kwargs.get("dtype"))
    mask = graph.emit("Less", (graph.floating(x),) * 2, f"{use.name}.false")
    if use.layer.class_name == "OnesLike":
        mask = graph.emit("Not", mask, f"{use.name}.true")
    return graph.cast(use.name, mask, "bool" if dtype == "bool" else "float")


@operation("GetItem")
def get_item(use: Use) -> str:
    """x[...] with integers, slices and an ellipsis, none of them on the batch."""
    graph, (item, key) = use.graph, _operands(use, 2)
    x = _value(use, item, 0)
    keys = list(key) if isinstance(key, list) else [key]
    rank = graph.rank(x)
    if keys.count(...) == 1:
        at = keys.index(...)
        keys[at : at + 1] = [slice(None)] * (rank - len(keys) + 1)
    keys += [slice(None)] * (rank - len(keys))
    if len(keys) != rank or keys[0] != slice(None) or not all(type(one) in (int, slice) for one in keys):
        raise UnsupportedError(f"{use.where}: key {shown(str(key), 80)}, expected integers and slices after the batch")
    for axis, one in reversed(list(enumerate(keys))):
        if type(one) is int:
            x = graph.take(f"{use.name}.at.{axis}", x, axis, one)
        elif one != slice(None):
            step = 1 if one.step is None else one.step
            if step < 1:
                raise UnsupportedError(f"{use.where}: step {step}, expected a positive one")
            start, stop = one.start or 0, FARTHEST if one.stop is None else one.stop
            x = graph.slice(f"{use.name}.part.{axis}", x, axis, start, stop, step)
    return x
