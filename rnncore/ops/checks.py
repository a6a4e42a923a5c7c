"""Checks of attributes and inputs that ops share, with one wording; and the data of small values while inferring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rnncore.errors import SpecError
from rnncore.ops.base import DTYPES, MAX_DATA, UNKNOWN, Value, axis_of, join_sizes

__all__ = [
    "FLOATS",
    "INTEGERS",
    "NUMBERS",
    "SIGNED",
    "axes_of",
    "fitting",
    "follow",
    "integers",
    "merge",
    "need",
    "need_scalar",
    "on_numbers",
    "one_dtype",
    "single",
    "spread",
]

FLOATS = ("float", "float16", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
INTEGERS = (*SIGNED, "uint8", "uint16", "uint32", "uint64")
NUMBERS = (*FLOATS, *INTEGERS)


def need(value: Value, dtypes: Sequence[str], what: str = "input", rank: int | None = None) -> None:
    """SpecError unless the value has one of these dtypes, and this rank if one is asked for."""
    if value.dtype not in dtypes:
        raise SpecError(f"{what} is {value}, expected {_either(dtypes)}")
    if rank is not None and len(value.shape) != rank:
        raise SpecError(f"{what} is {value}, expected {rank} dimension{'s' * (rank != 1)}")


def need_scalar(value: Value, dtypes: Sequence[str], what: str) -> None:
    """SpecError unless the value is one number: of rank 0, or of one element, as some exporters write it."""
    need(value, dtypes, what)
    if value.shape not in ((), (1,)):
        raise SpecError(f"{what} is {value}, expected one number")


def single(value: Any) -> Any:
    """A parameter that is one number, which may come as a list of one."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _either(dtypes: Sequence[str]) -> str:
    named = {FLOATS: "float", INTEGERS: "integers", NUMBERS: "numbers", DTYPES: "any dtype"}
    return named.get(tuple(dtypes), " or ".join(dtypes))


def one_dtype(values: Sequence[Value]) -> str:
    """The dtype that all values have."""
    dtypes = {value.dtype for value in values}
    if len(dtypes) > 1:
        raise SpecError(f"inputs are {' and '.join(map(str, values))}, expected one dtype")
    return values[0].dtype


def integers(name: str, value: Any, names: bool = False) -> tuple[int | str, ...]:
    """A parameter that is a list of integers; with names, of sizes that may have one."""
    accepted = (int, str) if names else (int,)
    if not isinstance(value, tuple) or any(isinstance(i, bool) or not isinstance(i, accepted) for i in value):
        raise SpecError(f"{name}={list(value) if isinstance(value, tuple) else value!r}, expected a list of integers")
    return value


def axes_of(given: Any, rank: int, name: str = "axes") -> tuple[int, ...]:
    """A list of axes, counted from 0, each once and in its order."""
    axes = tuple(axis_of(axis, rank) for axis in integers(name, given))
    if len(set(axes)) < len(axes):
        raise SpecError(f"{name}={list(given)}, expected each axis once")
    return axes


def spread(shape: Sequence[int | str], onto: Sequence[int | str]) -> tuple[int | str, ...]:
    """The shape of two values that broadcast against each other."""
    rank = max(len(shape), len(onto))
    pairs = zip((1,) * (rank - len(shape)) + tuple(shape), (1,) * (rank - len(onto)) + tuple(onto), strict=True)
    return tuple(join_sizes(a, b) for a, b in pairs)


def merge(a: int | str, b: int | str, what: str) -> int | str:
    """The one size that two dimensions have: a number before a name, a name before UNKNOWN."""
    if isinstance(a, int) and isinstance(b, int) and a != b:
        raise SpecError(f"{what} of size {a} and {b}, expected one size")
    if isinstance(a, int) or b == UNKNOWN:
        return a
    return b if isinstance(b, int) or a == UNKNOWN else a


def follow(dtype: str, function: Callable[..., Any], *values: Value) -> tuple[Any, ...] | None:
    """The data of a function of small values, element by element; None where it is not known or does not fit."""
    if any(value.data is None or len(value.shape) > 1 for value in values) or dtype in FLOATS:
        return None
    known = [value.data or () for value in values]
    count = max((len(data) for data in known if len(data) != 1), default=1)
    if 0 in map(len, known):
        return ()
    if any(len(data) not in (1, count) for data in known) or count > MAX_DATA:
        return None
    columns = (data * count if len(data) == 1 else data for data in known)
    return fitting(dtype, tuple(function(*row) for row in zip(*columns, strict=True)))


def on_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function for follow that knows nothing of sizes that are names."""
    return lambda *items: UNKNOWN if any(isinstance(item, str) for item in items) else function(*items)


def fitting(dtype: str, data: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Data, or None where the dtype does not hold all of it."""
    return data if all(_holds(dtype, item) for item in data) else None


def _holds(dtype: str, item: Any) -> bool:
    """Whether an element is of the dtype; a name is a size, which int32 and int64 hold."""
    if dtype == "bool":
        return isinstance(item, bool)
    if isinstance(item, str):
        return dtype in ("int32", "int64")
    limits = np.iinfo(dtype)
    return isinstance(item, int) and not isinstance(item, bool) and limits.min <= item <= limits.max
