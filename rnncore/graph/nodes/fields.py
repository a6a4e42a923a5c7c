"""Checks of what a node's fields hold, and of the keys and lists that JSON gives for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rnncore.errors import SpecError, close_names, shown
from rnncore.graph.limits import LARGEST, MAX_NAME
from rnncore.ops import Value, schema


def check_value(what: str, name: str, value: Value, shape: tuple[int | str, ...], dtype: str = "float") -> None:
    """SpecError where a value has not the dtype or rank, or a known size is another."""
    fits = value.dtype == dtype and len(value.shape) == len(shape)
    for size, expected in zip(value.shape, shape, strict=False):
        fits = fits and (isinstance(size, str) or isinstance(expected, str) or size == expected)
    if not fits:
        raise SpecError(f"{what} {name!r} is {value}, expected {Value(dtype, shape)}")


def check_sizes_fit(node: Any, name: str, value: Value) -> None:
    """SpecError where a value has more dimensions than NumPy's arrays, or a size that int64 does not hold."""
    fits = len(value.shape) <= schema.MAX_RANK
    for size in value.shape:
        if type(size) is int and size > LARGEST:
            fits = False
    if not fits:
        expected = f"at most {schema.MAX_RANK} dimensions, of sizes that int64 holds"
        raise SpecError(f"node {node.name!r}: {name!r} is {value.dtype} {shown(value.shape)}, expected {expected}")


def list_of(fields: Mapping[str, Any], key: str, what: str) -> list:
    value = fields[key]
    if not isinstance(value, (list, tuple)):
        raise SpecError(f"{what}: {key} is {type(value).__name__}, expected a list")
    return list(value)


def check_keys(fields: Any, what: str, required: set[str], optional: set[str]) -> None:
    if not isinstance(fields, Mapping):
        raise SpecError(f"{what}: {type(fields).__name__}, expected an object with {', '.join(sorted(required))}")
    unknown = [key for key in fields if key not in required and key not in optional]
    if unknown:
        raise SpecError(f"{what}: unknown key {shown(unknown[0])}, expected {', '.join(sorted(required | optional))}")
    missing = sorted(required - set(fields))
    if missing:
        raise SpecError(f"{what}: key {missing[0]!r} missing")


def check_name(name: Any, what: str) -> None:
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or not name.isprintable():
        raise SpecError(f"{what} name {shown(name)}, expected a printable string of at most 1000 characters")


def name_tuple(what: str, given: Any) -> tuple[str, ...]:
    named = isinstance(given, (list, tuple))
    for name in given if named else ():
        named = named and isinstance(name, str)
    if not named:
        raise SpecError(f"{what}={shown(given)}, expected a list of names")
    return tuple(given)


def as_tuple(what: str, given: Any) -> tuple[Any, ...]:
    if type(given) is tuple:
        return given
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise SpecError(f"{what}={shown(given)}, expected a list")
    return tuple(given)


def check_reads(node: Any, names: Iterable[Any], optional: Iterable[Any]) -> None:
    """SpecError unless these are names of values; optional ones may be None."""
    for name in (*names, *(name for name in optional if name is not None)):
        if not isinstance(name, str):
            raise SpecError(f"node {node.name!r} reads {shown(name)}, expected the name of a value")


def is_text(name: str) -> bool:
    """Whether a text, which may have been anything in the file it comes from, is one that can be written and shown."""
    return len(name) <= MAX_NAME and not any("\ud800" <= letter <= "\udfff" for letter in name)


def near(name: Any, known: Iterable[str]) -> str:
    """A hint for a misspelled name."""
    close = close_names(name, known, count=1) if isinstance(name, str) else []
    return f" (did you mean {close[0]!r}?)" if close else ""


class naming:
    """Puts the node's (or input's) name before the message of a SpecError raised inside.

    A size that no number of the machine holds, made of sizes and options that are right one by one, is a SpecError too.
    """

    def __init__(self, node, what="node"):
        self.node, self.what = node, what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, (SpecError, OverflowError)):
            renamed = named(error, self.node, self.what)
            if renamed is not error:
                raise renamed from None
        return False


def named(error: Exception, node: Any, what: str = "node") -> Exception:
    """A SpecError, or an OverflowError, with the node's (or input's) name before its message."""
    prefix = f"{what} {node.name!r}"
    op = getattr(node, "op", None)
    where = f"{prefix} ({op})" if op and op != getattr(node, "kind", None) else prefix
    if isinstance(error, OverflowError):
        return SpecError(f"{where}: a number is too large: {error}")
    return error if str(error).startswith(prefix) else SpecError(f"{where}: {error}")
