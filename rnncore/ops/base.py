"""What every op around the recurrent layers is, and how shapes are written.

A shape is a tuple of sizes; a size that is only known when the model runs is a name ("B", "T").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rnncore.errors import SpecError

__all__ = ["Op", "Value", "join_sizes", "plain_size", "whole_over_axis"]


@dataclass(frozen=True)
class Value:
    """What is known of a value before the model runs: dtype ("float", "int64", "bool") and shape.

    "float" is the dtype the model is compiled for.
    """

    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True)
class Op:
    """One kind of node.

    attributes    name -> default, ``...`` where it must be given
    arity         the smallest and largest number of inputs
    time          "pointwise" (a step of the output needs only that step of the input), "causal", or "whole";
                  where that depends on an axis, a function like over_time
    infer         (attributes, values) -> the outputs' values; raises SpecError
    run           (attributes, weights, arrays) -> one array, or a tuple for several outputs
    weight_shapes (attributes) -> shapes of the weights the node owns, by name
    optional      positions of the inputs that may be absent: not given at the end, named "" (as in ONNX), or an
                  optional input of the Spec. infer gets None for the first two, run for all three
    outputs       endings of the outputs' names: NODE for "", NODE.ending for others
    packed        (attributes, weights, threads) -> what is called with the arrays instead of run, for weights that are
                  packed once; None where that does not pay
    """

    name: str
    infer: Callable[[Mapping[str, Any], list[Value]], list[Value]]
    run: Callable[..., Any]
    time: str | Callable[[Mapping[str, Any], int, int], str] = "pointwise"
    arity: tuple[int, int] = (1, 1)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    weight_shapes: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]] = lambda attributes: {}
    optional: tuple[int, ...] = ()
    outputs: tuple[str, ...] = ("",)
    packed: Callable[[Mapping[str, Any], Mapping[str, Any], int], Callable[..., Any] | None] | None = None

    def compiled(self, attributes: Mapping[str, Any], weights: Mapping[str, Any], threads: int) -> Callable[..., Any]:
        """What a model calls with the arrays."""
        packed = self.packed(attributes, weights, threads) if self.packed is not None else None
        return packed or partial(self.run, attributes, weights)

    def named(self, node: str, found: Any) -> dict[str, Any]:
        """What infer or run gave, one or several, under the names of a node's values."""
        several = found if isinstance(found, (tuple, list)) else (found,)
        names = [f"{node}.{ending}" if ending else node for ending in self.outputs]
        return dict(zip(names, several, strict=True))

    def over_time(self, attributes: Mapping[str, Any], rank: int, time_axis: int = 1) -> str:
        """What the op needs of a first input of this rank whose steps stand on time_axis: see time."""
        return self.time(attributes, rank, time_axis) if callable(self.time) else self.time


def whole_over_axis(attributes: Mapping[str, Any], rank: int, time_axis: int) -> str:
    """Op.time of what works along one axis: "whole" if that is time's."""
    return "whole" if axis_of(attributes["axis"], rank) == time_axis else "pointwise"


def plain_size(name: str, value: Any) -> int:
    """A positive integer attribute."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 31:
        raise SpecError(f"{name}={value!r}, expected a positive integer")
    return value


def axis_of(value: Any, rank: int) -> int:
    """An axis attribute as a non-negative index."""
    if isinstance(value, bool) or not isinstance(value, int) or not -rank <= value < rank:
        raise SpecError(f"axis={value!r}, expected an integer from {-rank} to {rank - 1}")
    return value % rank


def need_float(value: Value) -> None:
    if value.dtype != "float":
        raise SpecError(f"input is {value}, expected float")


def join_sizes(a: int | str, b: int | str) -> int | str:
    """The size of two dimensions that broadcast against each other (NumPy's rule)."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise SpecError(f"sizes {a} and {b} do not broadcast")
    return a if isinstance(a, int) else b


def broadcast(values: list[Value]) -> tuple[int | str, ...]:
    """The shape of several values that broadcast against each other."""
    shape: tuple[int | str, ...] = ()
    for value in values:
        rank = max(len(shape), len(value.shape))
        a = (1,) * (rank - len(shape)) + shape
        b = (1,) * (rank - len(value.shape)) + value.shape
        shape = tuple(join_sizes(p, q) for p, q in zip(a, b, strict=True))
    return shape
