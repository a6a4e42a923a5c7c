"""Activations, softmax and distances of torch."""

from __future__ import annotations

from functools import partial
from typing import Any

from rnncore.export.torch.functions.common import plain_number, sliced
from rnncore.export.torch.functions.registry import FUNCTIONS, called, entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor

__all__ = ["clamp", "prelu"]


@entry("threshold", "_threshold")
def threshold(g, input, threshold, value):
    x = g.tensor(input)
    above = g.emit("Greater", [x, g.cast(plain_number(g, "threshold", threshold), x.dtype)])
    return g.out(g.emit("Where", [above, x, g.cast(value, x.dtype)]))


@entry("softshrink", "hardshrink")
def shrink(g, input, lambd=0.5):
    limit = float(plain_number(g, "lambd", lambd))
    bias = limit if called(g) == "softshrink" else 0.0
    return g.out(g.emit("Shrink", [g.tensor(input)], {"lambd": limit, "bias": bias}))


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


def clamp(g: TraceLowering, x: TracedTensor, low: Any, high: Any) -> TracedTensor:
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


def activation(kind: str, g: TraceLowering, input: Any, *args: Any, **kwargs: Any) -> TracedTensor:
    """An activation of ACTIVATIONS with torch's arguments."""
    op, options = ACTIVATIONS[kind]
    given = dict(zip((name for name, _, _ in options), args, strict=False)) | kwargs
    unknown = set(given) - {name for name, _, _ in options}
    if unknown:
        raise TypeError(f"unexpected {sorted(unknown)}")
    attributes = {ours: float(plain_number(g, name, given.get(name, default))) for name, ours, default in options}
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
    y = g.emit("Softplus", [scaled])
    y = y if beta == 1 else g.emit("Div", [y, scale])
    if beta > 0 and threshold >= 20:
        return g.out(y)  # there the two are equal but for rounding
    above = g.emit("Greater", [scaled, g.cast(float(threshold), g.a.dtype)])
    return g.out(g.emit("Where", [above, x, y]))


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
    first = sliced(g, g.name_of(x), [(axis, slice(0, half))])
    second = sliced(g, g.name_of(x), [(axis, slice(half, None))])
    return g.out(g.emit("Mul", [first, g.emit("Sigmoid", [second])]))


def softmax(
    op: str, g: TraceLowering, input: Any, dim: Any = None, _stacklevel: int = 3, dtype: Any = None
) -> TracedTensor:
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
