"""Tensors and numbers of two traces while these become one graph, and what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = [
    "DTYPES",
    "HIDING",
    "Complex",
    "Packed",
    "Size",
    "TracedTensor",
    "all_static",
    "any_trained",
    "array_of",
    "equal_tensors",
    "has_size",
    "is_plain",
    "mark_values",
    "reads_data",
    "same_size",
    "size_key",
]

DTYPES = {
    torch.float32: "float",
    torch.float64: "float",
    torch.bool: "bool",
    torch.uint8: "uint8",
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
}
HIDING = ("0 or -inf",)
"""The origin of masks that are added to scores and hold nothing but 0 and -infinity."""


@dataclass(eq=False)
class TracedTensor:
    """A value of the graph: its name, and what it is in both traces. A constant has no name until a node reads it.

    origin   where it comes from, for what is better said in one node: ("sequence", "h" or "row", a Recurrent, index),
             HIDING, or ("filled", number)
    label    what a constant is called
    static   whether parameters and sizes alone decide it, not what the model is given
    trained  whether parameters decide it, so that other weights make it another one; None: not known yet
    computed a constant that nodes of the graph compute from parameters
    source   the parameter that it holds once or several times, in the same order
    """

    name: str | None
    a: torch.Tensor
    b: torch.Tensor
    origin: tuple[Any, ...] | None = None
    label: str = "constant"
    constant: bool = False
    static: bool = False
    trained: bool | None = None
    computed: bool = False
    source: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        return self.a.dtype

    @property
    def ndim(self) -> int:
        return self.a.ndim

    def axis(self, dim: int, extra: int = 0) -> int:
        """A dimension counted from the front."""
        return dim % (self.ndim + extra) if self.ndim + extra else 0


@dataclass(eq=False)
class Size:
    """A number that depends on sizes: what it is in both traces, and how it is made.

    recipe  ("dim", tensor, axis), ("item", tensor) or (an operator's name, x, y)
    """

    a: int | float
    b: int | float
    recipe: tuple[Any, ...]


@dataclass(eq=False)
class Complex:
    """Complex numbers: the tensor (..., 2) of their real and imaginary parts."""

    pair: TracedTensor


@dataclass(eq=False)
class Packed:
    """A PackedSequence: the padded tensor it was made of, and its lengths."""

    tensor: TracedTensor
    lengths: TracedTensor
    time_first: bool


def array_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy().copy()


def has_size(arguments: Any) -> bool:
    """Whether a number among the arguments depends on sizes."""
    if isinstance(arguments, (tuple, list)):
        return any(map(has_size, arguments))
    return isinstance(arguments, Size) or (isinstance(arguments, dict) and any(map(has_size, arguments.values())))


def is_plain(*arguments: Any) -> bool:
    """Whether nothing in the arguments is a value of the graph or a size."""
    for item in arguments:
        if isinstance(item, (Size, Packed, Complex)) or (isinstance(item, TracedTensor) and not item.constant):
            return False
        if isinstance(item, (tuple, list)) and not is_plain(*item):
            return False
        if isinstance(item, dict) and not is_plain(*item.values()):
            return False
        if isinstance(item, slice) and not is_plain(item.start, item.stop, item.step):
            return False
    return True


def all_static(arguments: Sequence[Any]) -> bool:
    """Whether no argument is a value that the model's inputs decide."""
    for item in arguments:
        if isinstance(item, (Packed, Complex)) or (isinstance(item, TracedTensor) and not item.static):
            return False
        if isinstance(item, (tuple, list)) and not all_static(item):
            return False
        if isinstance(item, Size) and reads_data(item):
            return False
    return True


def reads_data(size: Size) -> bool:
    """Whether a number comes out of a tensor, and not out of shapes alone."""
    kind, *parts = size.recipe
    return kind == "item" or any(isinstance(part, Size) and reads_data(part) for part in parts)


def any_trained(arguments: Any) -> bool:
    """Whether a parameter decides an argument."""
    if isinstance(arguments, (tuple, list)):
        return any(map(any_trained, arguments))
    if isinstance(arguments, dict):
        return any(map(any_trained, arguments.values()))
    return isinstance(arguments, TracedTensor) and bool(arguments.trained)


def mark_values(result: Any, static: bool, trained: bool) -> None:
    if isinstance(result, TracedTensor):
        result.static = result.static or static
        result.trained = trained if result.trained is None else result.trained
    elif isinstance(result, (tuple, list)):
        for item in result:
            mark_values(item, static, trained)


def equal_tensors(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def size_key(size: Any) -> Any:
    if not isinstance(size, Size):
        return size
    kind, *parts = size.recipe
    if kind in ("dim", "item"):
        return (kind, id(parts[0]), *parts[1:])
    return (kind, *map(size_key, parts))


def same_size(a: Size, b: Size) -> bool:
    return a is b or (size_key(a) == size_key(b)) or ((a.a, a.b) == (b.a, b.b) and a.recipe[0] == b.recipe[0] == "dim")
