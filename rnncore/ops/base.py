"""Op and Value: the description of an op around the recurrent layers, and of what is known of a value.

A shape is a tuple of sizes; a size that is only known when the model runs is a name ("B", "T"), or "?" where
nothing at all is known of it. The rank is always known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.ops.schema import Attribute

__all__ = [
    "DTYPES",
    "UNKNOWN",
    "Op",
    "Value",
    "given",
    "has",
    "join_sizes",
    "known",
    "mean",
    "numpy_dtype",
]

# fmt: off
DTYPES = (
    "float", "float16", "float64", "bool",
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)
# fmt: on
"""The dtypes of values; "float" is the dtype the model is compiled for."""

UNKNOWN = "?"
"""A size of which nothing is known before the model runs."""

MAX_DATA = 64
"""Values of at most this number of elements are followed while shapes are inferred."""


def numpy_dtype(dtype: str, floating: Any = np.float32) -> np.dtype:
    """NumPy's dtype for one of DTYPES, in a model compiled for ``floating``."""
    return np.dtype(floating if dtype == "float" else dtype)


@dataclass(frozen=True)
class Value:
    """A value before the model runs, as far as it is known.

    dtype  one of DTYPES
    shape  a size or the name of one for each dimension
    data   the content, flat, of a small value of rank 0 or 1 where it is known: numbers, and names of sizes as Shape
           gives them; else None
    """

    dtype: str
    shape: tuple[int | str, ...]
    data: tuple[int | float | bool | str, ...] | None = None

    @property
    def without_data(self) -> Value:
        """A value of this dtype and shape whose content is not known: the same object where it is not."""
        return self if self.data is None else Value(self.dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} ({', '.join(map(str, self.shape))})"


def no_weights(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The weights, and their dtypes, of an op that owns none."""
    return {}


Unpadded = Callable[[Mapping[str, Any], int, "int | None", int, Any], tuple[Mapping[str, Any], int] | str]


@dataclass(eq=False)
class Op:
    """One kind of node; never changed once it is made.

    schema        what each attribute may be: name -> Attribute of ops/schema.py. From it come
    attributes    name -> default, ``...`` where it must be given
    required      those that must be given
    parameters    attributes that ONNX passes as inputs (axes, shape, starts ...): name -> position of that input. Each
                  may be given as an attribute or as an input, which is then a value of the graph; see known and given
    arity         the smallest and largest number of inputs
    infer         (attributes, values) -> the outputs' values; raises SpecError
    dimensions    (attributes, the inputs' values, the outputs' values) -> the Dimensions along which positions stay
                  independent, or within a reach of each other: a Rule of ops/dimensions.py
    of_sizes      positions of the inputs of which only the sizes count, not what they hold
    shaped_by     positions of the inputs whose numbers become sizes of the outputs, and decide about nothing else
    run           (attributes, weights, arrays) -> one array, or a tuple for several outputs; in a model the
                  attributes also hold "floating", the dtype of "float"
    weight_shapes (attributes) -> shapes of the weights the node owns, by name
    weight_dtypes (attributes) -> dtypes of those that are not "float", by name
    optional      positions of the inputs that may be absent: not given at the end, named "" (as in ONNX), or an
                  optional input of the Spec. infer gets None for the first two, run for all three
    outputs       endings of the outputs' names: NODE for "", NODE.ending for others; or (attributes) -> endings
    packed        (attributes, weights, threads) -> what is called with the arrays instead of run, for weights that are
                  packed once; None where that does not pay
    bound         (attributes, values, floating) -> the same for what else can be settled before there are arrays: from
                  the inputs' Values, of which the rank and the dtype hold for every call, but sizes need not; None
                  where there is nothing to settle
    bind          (compiler, attributes, inputs, outputs) -> whether it added instructions that make the outputs, which
                  are C-contiguous: for a bound program, of Operands and a Compiler of runtime/program.py. What
                  packed or bound gave has an attribute of that name instead, without the attributes
    by_content    whether the outputs' sizes depend on the contents of inputs that are no parameters
    ends          of an op that moves positions along an axis: which it adds or leaves out at the ends; ops/ends.py
    neutral       of an op that makes running totals along its axis: the total of nothing, and what changes no bit of
                  the first element; None for all others
    padding       of an op with windows: what they see before the first position and after the last; the least number of
                  the dtype where that is -inf
    unpadded      of an op with windows: (attributes, axis, batch axis, rank, reach) -> the attributes without padding
                  along the axis, and the positions of padding at its end; or why that cannot be, in words
    explicit      (attributes, values) -> the attributes, with those written out that the sizes of inputs with these
                  Values say otherwise
    spreads       whether every element of the outputs is made of one of each input, which spread over each other
                  (NumPy's rule): then long inputs may be run in parts
    """

    name: str
    infer: Callable[[Mapping[str, Any], list[Any]], list[Value]]
    run: Callable[..., Any]
    dimensions: Callable[[Mapping[str, Any], Sequence[Value | None], Sequence[Value]], list[Any]] = (
        lambda attributes, inputs, outputs: []
    )
    arity: tuple[int, int] = (1, 1)
    schema: Mapping[str, Attribute] = field(default_factory=dict)
    weight_shapes: Callable[[Mapping[str, Any]], dict[str, tuple[int, ...]]] = no_weights
    weight_dtypes: Callable[[Mapping[str, Any]], dict[str, str]] = no_weights
    optional: tuple[int, ...] = ()
    of_sizes: tuple[int, ...] = ()
    shaped_by: tuple[int, ...] = ()
    outputs: tuple[str, ...] | Callable[[Mapping[str, Any]], tuple[str, ...]] = ("",)
    packed: Callable[[Mapping[str, Any], Mapping[str, Any], int], Callable[..., Any] | None] | None = None
    bound: Callable[[Mapping[str, Any], Sequence[Value | None], Any], Callable[..., Any] | None] | None = None
    bind: Callable[[Any, Mapping[str, Any], Sequence[Any], Sequence[Any]], bool] | None = None
    by_content: bool = False
    ends: Any = None
    neutral: tuple[float, float] | None = None
    padding: float = 0.0
    unpadded: Callable[[Mapping[str, Any], int, int | None, int, Any], tuple[Mapping[str, Any], int] | str] | None = (
        None
    )
    explicit: Callable[[Mapping[str, Any], Sequence[Value | None]], Mapping[str, Any]] | None = None
    spreads: bool = False
    attributes: Mapping[str, Any] = field(init=False)
    parameters: Mapping[str, int] = field(init=False)
    required: tuple[str, ...] = field(init=False)

    def __post_init__(self):
        self.attributes = {name: kind.default for name, kind in self.schema.items()}
        self.parameters = {name: kind.position for name, kind in self.schema.items() if kind.position is not None}
        self.required = tuple(name for name, kind in self.schema.items() if kind.default is ...)
        self.optional = tuple(sorted({*self.optional, *self.parameters.values()}))

    def check_present(self, given: Sequence[Any]) -> None:
        """SpecError where an input is absent that may not be."""
        for place, value in enumerate(given):
            if value is None and place not in self.optional:
                raise SpecError(f"input {place} is absent, expected it")

    def compiled(
        self,
        attributes: Mapping[str, Any],
        weights: Mapping[str, Any],
        threads: int,
        floating: Any = np.float32,
        values: Sequence[Value | None] | None = None,
    ) -> Callable[..., Any]:
        """The function that a model compiled for the dtype ``floating`` calls with arrays whose Values are ``values``.

        Its attribute ``packed``, if it has one, gives back weights that it keeps in a form of its own: key -> what
        returns a copy.
        """
        attributes = {**attributes, "floating": floating}
        function = self.packed(attributes, weights, threads) if self.packed is not None else None
        if function is None and self.bound is not None and values is not None:
            function = self.bound(attributes, values, floating)
        return function or partial(self.run, attributes, weights)

    def names(self, node: str, attributes: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of a node's values."""
        endings = self.outputs(attributes) if callable(self.outputs) else self.outputs
        if endings == ("",):
            return (node,)
        return tuple(f"{node}.{ending}" if ending else node for ending in endings)


def has(attributes: Mapping[str, Any], name: str, inputs: Sequence[Any], position: int) -> bool:
    """Whether a parameter was given, as an attribute or as an input. SpecError where it was given twice."""
    as_input = position < len(inputs) and inputs[position] is not None
    if as_input and attributes[name] is not None:
        raise SpecError(f"{name}={attributes[name]!r} and an input {position} for it, expected one of them")
    return as_input or attributes[name] is not None


def known(attributes: Mapping[str, Any], name: str, values: Sequence[Value | None], position: int) -> Any:
    """A parameter while shapes are inferred: a number or a tuple; None where it is absent or only known when run."""
    if not has(attributes, name, values, position):
        return None
    if attributes[name] is not None:
        return attributes[name]
    value = cast(Value, values[position])
    if len(value.shape) > 1:
        raise SpecError(f"{name} is {value}, expected a number or a list")
    return value.data if value.shape or value.data is None else value.data[0]


def given(name: str, attributes: Mapping[str, Any], arrays: Sequence[Any], position: int) -> Any:
    """A parameter while the model runs: a number or a tuple, or None where it is absent."""
    if attributes[name] is not None or position >= len(arrays) or arrays[position] is None:
        return attributes[name]
    if arrays[position].ndim > 1:
        raise InputError(f"{name}: shape {arrays[position].shape}, expected a number or a list")
    value = arrays[position].tolist()
    return tuple(value) if isinstance(value, list) else value


def axis_of(value: Any, rank: int) -> int:
    """An axis attribute as a non-negative index."""
    if isinstance(value, bool) or not isinstance(value, int) or not -rank <= value < rank:
        raise SpecError(f"axis={value!r}, expected an integer from {-rank} to {rank - 1}")
    return value % rank


def mean(x: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    """The mean over some axes, which stay with size 1; of nothing at all NaN, without NumPy's warning."""
    if x.size:
        return x.mean(axis=axes, keepdims=True)
    return np.add.reduce(x, axis=axes, keepdims=True) * x.dtype.type(np.nan)


def need_float(value: Value) -> None:
    if value.dtype != "float":
        raise SpecError(f"input is {value}, expected float")


def join_sizes(a: int | str, b: int | str) -> int | str:
    """The size of two dimensions that broadcast against each other (NumPy's rule); of two names each may be 1."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        raise SpecError(f"sizes {a} and {b} do not broadcast")
    if isinstance(a, int):
        return a
    return b if isinstance(b, int) else UNKNOWN


def broadcast(values: list[Value]) -> tuple[int | str, ...]:
    """The shape of several values that broadcast against each other."""
    shape: tuple[int | str, ...] = ()
    for value in values:
        rank = max(len(shape), len(value.shape))
        a = (1,) * (rank - len(shape)) + shape
        b = (1,) * (rank - len(value.shape)) + value.shape
        shape = tuple(join_sizes(p, q) for p, q in zip(a, b, strict=True))
    return shape
