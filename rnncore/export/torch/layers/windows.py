"""Parts that convolutions and pools share."""

from __future__ import annotations

from typing import Any

from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import TracedTensor

__all__ = ["one_each", "with_batch", "without_batch"]


def with_batch(g: TraceLowering, x: TracedTensor, rank: int) -> tuple[str, bool]:
    """The name of x with a batch, and whether one had to be added."""
    if x.ndim == rank:
        return g.name_of(x), False
    return g.emit("Unsqueeze", [x], {"axes": (0,)}, name=f"{g.wanted}_rows"), True


def without_batch(g: TraceLowering, name: str, added: bool) -> TracedTensor:
    return g.out(g.emit("Squeeze", [name], {"axes": (0,)}) if added else name)


def one_each(value: Any, count: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
