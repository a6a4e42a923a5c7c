"""New tensors of torch, whose sizes may depend on those of the input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rnncore.export.torch.functions.arithmetic import to
from rnncore.export.torch.functions.common import listed
from rnncore.export.torch.functions.registry import called, entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor, all_static, any_trained


def filled(g: TraceLowering, sizes: Sequence[Any], value: Any) -> TracedTensor:
    """A tensor of traced sizes with one value."""
    one = g.cast(value, g.a.dtype)
    inputs: list[Any] = [one]
    tensor = g.out(g.emit("Expand", inputs, g.parameter(inputs, "shape", sizes, 1)) if len(sizes) else one)
    tensor.static = all_static([value, *sizes])  # whatever tensor lent its dtype or shape
    tensor.trained = any_trained(value)
    if isinstance(value, (bool, int, float)):
        tensor.origin = ("filled", float(value))
    return tensor


@entry("zeros", "empty", "new", "new_zeros", "new_empty", "zeros_like", "empty_like")
def zeros(g, *args, dtype=None, **kwargs):
    return filled(g, _wanted_sizes(g, args, kwargs), 0)


@entry("ones", "new_ones", "ones_like")
def ones(g, *args, dtype=None, **kwargs):
    return filled(g, _wanted_sizes(g, args, kwargs), 1)


@entry("full", "new_full", "full_like")
def full(g, *args, fill_value=None, dtype=None, **kwargs):
    if fill_value is None:
        *rest, fill_value = args
        args = tuple(rest)
    if isinstance(fill_value, TracedTensor) and fill_value.ndim:
        raise refuse(g, "a fill_value with dimensions", "one number")
    return filled(g, _wanted_sizes(g, args, kwargs), fill_value)


def _wanted_sizes(g: TraceLowering, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The sizes of a new tensor: those of another, or as they were given, without the tensor of a new_ method."""
    name = called(g)
    if name.endswith("_like"):
        return list(g.shape(g.tensor(args[0])))
    given = [*args[1 if name.startswith("new") else 0 :], *(kwargs[key] for key in ("size",) if key in kwargs)]
    return listed(given)


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
    from_end = g.emit(
        "Cast", [g.emit("Sub", [g.scalar(g.compute("sub", steps, 1)), places])], {"to": g.spec_dtype(dtype)}
    )
    from_start = g.emit("Cast", [places], {"to": g.spec_dtype(dtype)})
    first = g.emit("Add", [g.cast(start, dtype), g.emit("Mul", [width, from_start])])
    second = g.emit("Sub", [g.cast(end, dtype), g.emit("Mul", [width, from_end])])
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
    if isinstance(data, TracedTensor):
        return to(g, data)
    if not isinstance(data, (tuple, list)):
        return g.out(g.cast(data, g.a.dtype))
    if any(isinstance(item, (tuple, list)) for item in data):
        raise refuse(g, "nested lists of sizes", "one list")
    parts = [g.emit("Reshape", [g.cast(item, g.a.dtype)], {"shape": (1,)}) for item in data]
    return g.out(parts[0] if len(parts) == 1 else g.emit("Concat", parts, {"axis": 0}))
