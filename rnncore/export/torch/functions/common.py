"""Parts that functions of several subjects are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rnncore.export.torch.functions.registry import refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import HIDING, Size, TracedTensor

__all__ = [
    "ValuesAndIndices",
    "as_bool",
    "dims_of",
    "expanded",
    "filled_with",
    "hides",
    "is_trained",
    "listed",
    "move_axes",
    "plain_number",
    "sliced",
    "values_and_indices",
]


def plain_number(g: TraceLowering, what: str, item: Any) -> Any:
    if isinstance(item, (TracedTensor, Size)):
        raise refuse(g, f"{what} that is computed", "a number")
    return item


def dims_of(g: TraceLowering, dim: Any, x: TracedTensor) -> tuple[int, ...]:
    """Dimensions counted from the front; all of them for None."""
    if dim is None or dim == () or dim == []:
        return tuple(range(x.ndim))
    return tuple(x.axis(one) for one in (dim if isinstance(dim, (tuple, list)) else (dim,)))


def as_bool(g: TraceLowering, item: Any) -> str:
    if isinstance(item, TracedTensor) and item.dtype != torch.bool:
        zero = g.cast(0, item.dtype)
        return g.emit("Not", [g.emit("Equal", [g.name_of(item), zero])])
    return g.cast(item, torch.bool)


def filled_with(x: TracedTensor) -> float | None:
    """The number that a tensor has everywhere; None where that is not known."""
    if x.constant:
        first = x.a.reshape(-1)[:1]
        return float(first) if len(first) and bool((x.a == first).all()) else None
    return x.origin[1] if x.origin is not None and x.origin[0] == "filled" else None


def listed(sizes: Sequence[Any]) -> list[Any]:
    return list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else list(sizes)


def move_axes(g: TraceLowering, x: Any, perm: Sequence[int]) -> str:
    """A Transpose, or the value itself where nothing moves."""
    if tuple(perm) == tuple(range(len(perm))):
        return x if isinstance(x, str) else g.name_of(x)
    return g.emit("Transpose", [x], {"perm": tuple(perm)})


def expanded(g: TraceLowering, x: TracedTensor, sizes: Sequence[Any]) -> str:
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


def values_and_indices(
    g: TraceLowering, values: str, indices: Callable[[], str]
) -> tuple[TracedTensor, TracedTensor | None]:
    """Both results of torch; the indices are made only if something may read them."""
    values_only = bool(g.node.users) and all(user.args[1:2] in ((0,), ("values",)) for user in g.node.users)
    first = g.named(values, g.a[0], g.b[0])
    return ValuesAndIndices((first, None if values_only else g.named(indices(), g.a[1], g.b[1])))


class ValuesAndIndices(tuple):
    """(values, indices), also by these names."""

    @property
    def values(self) -> TracedTensor:
        return self[0]

    @property
    def indices(self) -> TracedTensor:
        return self[1]


def sliced(g: TraceLowering, name: str, slices: Sequence[tuple[int, slice]]) -> str:
    starts = [0 if part.start is None else _index(g, part.start) for _, part in slices]
    ends = [1 << 62 if part.stop is None else _index(g, part.stop) for _, part in slices]
    steps = [1 if part.step is None else plain_number(g, "a step", part.step) for _, part in slices]
    inputs: list[Any] = [name]
    attributes = {"axes": tuple(axis for axis, _ in slices), "steps": tuple(steps)}
    attributes |= g.parameter(inputs, "starts", starts, 1)
    attributes |= g.parameter(inputs, "ends", ends, 2)
    return g.emit("Slice", inputs, attributes)


def _index(g: TraceLowering, item: Any) -> Any:
    """A bound of a slice: a number, a size, or a tensor of one integer."""
    return Size(int(item.a), int(item.b), ("item", item)) if isinstance(item, TracedTensor) else item


def hides(g: TraceLowering, x: Any) -> bool:
    """Whether a tensor holds nothing but 0 and -infinity whatever the model and its parameters are: it hides steps."""
    if not isinstance(x, TracedTensor) or not x.dtype.is_floating_point:
        return False
    if x.origin == HIDING:
        return True
    return x.constant and bool(((x.a == 0) | (x.a == -math.inf)).all()) and not is_trained(g, x)


def is_trained(g: TraceLowering, tensor: TracedTensor) -> bool:
    """Whether parameters decide a constant, and not buffers alone."""
    if not tensor.trained:
        return False
    parameters = dict(g.first.tracer.root.named_parameters(remove_duplicate=False))
    waiting = [node for node, value in g.env.items() if value is tensor]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.op == "call_module" or (node.op == "get_attr" and node.target in parameters):
            return True
        waiting += [one for one in node.all_input_nodes if one not in seen]
        seen.update(node.all_input_nodes)
    return not seen
