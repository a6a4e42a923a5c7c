"""Reductions of torch, sorting, and running sums."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from rnncore.export.torch.functions.arithmetic import binary
from rnncore.export.torch.functions.common import ValuesAndIndices, as_bool, dims_of, sliced, values_and_indices
from rnncore.export.torch.functions.registry import FUNCTIONS, called, entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor


def _reduce(
    op: str,
    g: TraceLowering,
    input: Any,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
    axis: Any = None,
) -> TracedTensor:
    x = g.tensor(input)
    axes = dims_of(g, axis if dim is None else dim, x)
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
    axes = dims_of(g, dim, x)
    less = (1 if unbiased is None else int(unbiased)) if correction is None else correction
    variance = _spread(g, x, axes, less, keepdim)
    return g.out(g.emit("Sqrt", [variance]) if called(g) == "std" else variance)


def _spread(g: TraceLowering, x: TracedTensor, axes: tuple[int, ...], less: Any, keepdim: bool) -> str:
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
    axes = dims_of(g, dim, x)
    less = (1 if unbiased is None else int(unbiased)) if correction is None else correction
    mean = g.emit("ReduceMean", [x], {"axes": axes, "keepdims": bool(keepdim)})
    variance = _spread(g, x, axes, less, keepdim)
    variance = g.emit("Sqrt", [variance]) if called(g) == "std_mean" else variance
    return g.named(variance, g.a[0], g.b[0]), g.named(mean, g.a[1], g.b[1])


@entry("diff")
def diff(g, input, n=1, dim=-1):
    x = g.tensor(input)
    if n != 1:
        raise refuse(g, f"n={n}", "1")
    later = sliced(g, g.name_of(x), [(x.axis(dim), slice(1, None))])
    return g.out(g.emit("Sub", [later, sliced(g, g.name_of(x), [(x.axis(dim), slice(0, -1))])]))


@entry("count_nonzero")
def count_nonzero(g, input, dim=None):
    x = g.tensor(input)
    ints = g.emit("Cast", [as_bool(g, x)], {"to": "int64"})
    return g.out(g.emit("ReduceSum", [ints], {"axes": dims_of(g, dim, x), "keepdims": False}))


@entry("norm", "vector_norm", "linalg_norm", "linalg_vector_norm")
def norm(g, input, p="fro", dim=None, keepdim=False, *, ord=None, dtype=None):
    x = g.tensor(input)
    p = ord if ord is not None else 2 if p is None else p
    if p not in ("fro", 2, 1):
        raise refuse(g, f"p={p!r}", "1 or 2")
    if called(g) == "linalg_norm" and isinstance(dim, (tuple, list)) and len(dim) > 1:
        raise refuse(g, "the norm of a matrix", "one dim")
    return g.out(
        g.emit("ReduceL1" if p == 1 else "ReduceL2", [x], {"axes": dims_of(g, dim, x), "keepdims": bool(keepdim)})
    )


def _extreme(
    reduce: str,
    pairwise: str,
    arg: str,
    g: TraceLowering,
    input: Any,
    dim: Any = None,
    keepdim: bool = False,
    **kwargs: Any,
) -> Any:
    """max(x), max(x, dim) with indices, or max(x, y)."""
    dim = kwargs.pop("other", dim)
    if not isinstance(input, TracedTensor):
        return g.compute(pairwise.lower(), input, dim) if dim is not None else g.compute(pairwise.lower(), *input)
    if isinstance(dim, TracedTensor):
        return binary(pairwise, pairwise.lower(), g, input, dim)
    if dim is None:
        return _reduce(reduce, g, input)
    axis = input.axis(dim)
    name = g.emit(reduce, [input], {"axes": (axis,), "keepdims": bool(keepdim)})
    return values_and_indices(g, name, lambda: g.emit(arg, [input], {"axis": axis, "keepdims": bool(keepdim)}))


FUNCTIONS["max"] = partial(_extreme, "ReduceMax", "Max", "ArgMax")
FUNCTIONS["min"] = partial(_extreme, "ReduceMin", "Min", "ArgMin")


@entry("aminmax")
def aminmax(g, input, *, dim=None, keepdim=False):
    x = g.tensor(input)
    attributes = {"axes": dims_of(g, dim, x), "keepdims": bool(keepdim)}
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
    ints = g.emit("Cast", [as_bool(g, x)], {"to": "int64"})
    reduced = g.emit(op, [ints], {"axes": dims_of(g, dim, x), "keepdims": bool(keepdim)})
    return g.out(g.emit("Cast", [reduced], {"to": "bool"}))


@entry("topk")
def topk(g, input, k, dim=-1, largest=True, sorted=True):
    x = g.tensor(input)
    return _top(g, x, k, x.axis(dim), largest)


@entry("sort", "argsort")
def sort(g, input, dim=-1, descending=False, stable=False):
    x = g.tensor(input)
    axis = x.axis(dim)
    values_and_indices = _top(g, x, g.dim(x, axis), axis, descending)
    return values_and_indices[1] if called(g) == "argsort" else values_and_indices


def _top(
    g: TraceLowering, x: TracedTensor, k: Any, axis: int, largest: bool
) -> tuple[TracedTensor | None, TracedTensor]:
    """Values and indices; of argsort the indices alone."""
    inputs: list[Any] = [x]
    attributes = {"axis": axis, "largest": bool(largest), "sorted": True, **g.parameter(inputs, "k", [k], 1)}
    if "k" in attributes:
        attributes["k"] = attributes["k"][0]
    g.emit("TopK", inputs, attributes)
    values, indices = g.graph.nodes[-1].names
    if isinstance(g.a, torch.Tensor):
        return None, g.named(indices, g.a, g.b)
    return ValuesAndIndices((g.named(values, g.a[0], g.b[0]), g.named(indices, g.a[1], g.b[1])))


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
    """A reduction of each step and those before: over a square of steps, those after it hidden."""
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
    reduced = g.emit(op, [square], {"axes": (axis + 1,), "keepdims": False})
    return g.out(reduced) if name == "logcumsumexp" else ValuesAndIndices((g.named(reduced, g.a[0], g.b[0]), None))
