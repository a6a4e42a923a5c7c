"""The kinds of an op's attributes, declared once with the op; every Node, whatever it comes from, is checked by it.

    schema={"axis": Axis(-1), "kernel_shape": Integers(least=1), "mode": Choice("DCR", among=("DCR", "CRD"))}

What depends on the inputs (whether an axis is one of theirs, how many sizes there are) is checked while shapes are
inferred.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

from rnncore.cells.activations import is_finite
from rnncore.errors import SpecError, shown

__all__ = [
    "Attribute",
    "Axes",
    "Axis",
    "Choice",
    "Flag",
    "Integer",
    "Integers",
    "Number",
    "Numbers",
    "Real",
    "Size",
    "Text",
    "Texts",
    "complete",
    "is_number",
]

MAX_RANK = 64
"""Dimensions of a value, as NumPy has them."""

MAX_SIZE = 1 << 31
MAX_INTEGER = (1 << 63) - 1
MAX_TEXT = 1 << 20
MAX_COUNT = 1 << 20
"""Characters of a text, and elements of a list: what is larger belongs into a weight."""

NONE: Mapping[str, Any] = MappingProxyType({})
"""The attributes of a node without any."""


class Attribute:
    """A kind of attribute: a default, and by name the limits of its class that are other ones.

    default   ``...`` where it must be given; with None it may be absent
    position  of the input that ONNX passes it as (axes, shape, starts ...): it may be given as an attribute or as that
              input, which is then a value of the graph; a single number may come as a list of one
    """

    position: int | None = None

    def __init__(self, default: Any = ..., **limits: Any):
        self.default = default
        for name, limit in limits.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no limit {name!r}")
            setattr(self, name, limit)

    def replace(self, **changes: Any) -> Self:
        """The same kind with another default or other limits."""
        return type(self)(**{**vars(self), **changes})

    @property
    def expected(self) -> str:
        """The end of a message: the values that were expected."""
        raise NotImplementedError

    def accepts(self, value: Any) -> bool:
        """Whether a value, which is not None, is of this kind; lists are tuples."""
        raise NotImplementedError

    def check(self, name: str, value: Any) -> None:
        """SpecError unless the value is of this kind, or absent where it may be."""
        if (value is None and self.default is None) or self.accepts(value):
            return
        one = self.position is not None and type(value) is tuple and len(value) == 1 and type(value[0]) is not tuple
        if not (one and self.accepts(value[0])):
            raise SpecError(f"{name}={shown(list(value) if type(value) is tuple else value)}, expected {self.expected}")


class Flag(Attribute):
    """True or false, which ONNX writes as 1 and 0."""

    expected = "true or false"

    def accepts(self, value):
        return type(value) is bool or (type(value) is int and value in (0, 1))


class Integer(Attribute):
    """An integer in a range."""

    least: int = -MAX_INTEGER - 1
    most: int = MAX_INTEGER

    @property
    def expected(self):
        return f"an integer{_range(self.least, self.most)}"

    def accepts(self, value):
        return type(value) is int and self.least <= value <= self.most


class Size(Integer):
    """A number of things, at least one."""

    least: int = 1
    most: int = MAX_SIZE

    @property
    def expected(self):
        return "a positive integer" + (f" of at most {self.most}" if self.most < MAX_SIZE else "")


class Axis(Integer):
    """A place among dimensions, or after the last one; from the end where it is negative."""

    least: int = -MAX_RANK
    most: int = MAX_RANK


class Real(Attribute):
    """A finite number, not less than ``least`` and above ``above``."""

    least: float = -math.inf
    above: float = -math.inf

    @property
    def expected(self):
        if self.above > -math.inf:
            return f"a finite number above {self.above:g}"
        return "a finite number" + (f" of at least {self.least:g}" if self.least > -math.inf else "")

    def accepts(self, value):
        return is_number(value) and is_finite(value) and value >= self.least and value > self.above


class Choice(Attribute):
    """One of several texts or integers."""

    among: tuple[Any, ...] = ()

    @property
    def expected(self):
        return " or ".join(map(repr, self.among))

    def accepts(self, value):
        return type(value) in (str, int) and value in self.among


class Text(Attribute):
    """Text that UTF-8 can hold."""

    expected = f"a text of at most {MAX_TEXT:,} characters"

    def accepts(self, value):
        return _is_text(value)


class Texts(Attribute):
    """A list of texts."""

    expected = "a list of texts"

    def accepts(self, value):
        return type(value) is tuple and len(value) <= MAX_COUNT and all(_is_text(item) for item in value)


class Integers(Attribute):
    """A list of integers in a range; with ``single``, or one of them."""

    least: int = -MAX_INTEGER - 1
    most: int = MAX_INTEGER
    longest: int = MAX_COUNT
    single: bool = False

    @property
    def expected(self):
        limit = "" if self.longest == MAX_COUNT else f" (up to {self.longest})"
        return f"a list of integers{_range(self.least, self.most)}{limit}"

    def accepts(self, value):
        if type(value) is not tuple:
            return self.single and self.accepts((value,))
        if len(value) > self.longest:
            return False
        for number in value:  # noqa: SIM110 (a generator costs more than the loop, and lists are short and many)
            if type(number) is not int or not self.least <= number <= self.most:
                return False
        return True


class Axes(Integers):
    """A list of axes, or of something for each of them."""

    least: int = -MAX_RANK
    most: int = MAX_RANK
    longest: int = MAX_RANK


class Number(Attribute):
    """A number of any dtype: infinities, NaN, and truth values among them."""

    expected = "a number"

    def accepts(self, value):
        return _is_any_number(value)


class Numbers(Attribute):
    """A list of such numbers; with ``single``, or one of them."""

    longest: int = MAX_COUNT
    single: bool = False
    expected = "numbers"

    def accepts(self, value):
        if type(value) is not tuple:
            return self.single and _is_any_number(value)
        return len(value) <= self.longest and all(map(_is_any_number, value))


def complete(
    schema: Mapping[str, Attribute], defaults: Mapping[str, Any], required: Sequence[str], given: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The attributes of a node, read-only: those given, lists as tuples, and defaults for the others.

    SpecError, naming the attribute, for one that the schema does not have, that is missing or not what it says.
    """
    if type(given) not in (dict, MappingProxyType) and not isinstance(given, Mapping):
        raise SpecError(f"attributes are {type(given).__name__}, expected a mapping")
    if not given and not schema:
        return NONE
    values = dict(defaults)
    for name, value in given.items():
        kind = schema.get(name)
        if kind is None:
            accepted = ", ".join(schema) or "none"
            raise SpecError(f"unknown attribute {shown(name)}, expected {accepted}")
        values[name] = tuple(value) if isinstance(value, list) else value
    for name in required:
        if values[name] is ...:
            raise SpecError(f"attribute {name!r} missing")
    for name in given:
        schema[name].check(name, values[name])
    return MappingProxyType(values)


def _is_text(value: Any) -> bool:
    """Whether it is a text that UTF-8 can hold, of at most MAX_TEXT characters."""
    if type(value) is not str or len(value) > MAX_TEXT:
        return False
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_any_number(value: Any) -> bool:
    """Whether it is a number or a truth value."""
    return type(value) is bool or is_number(value)


def is_number(value: Any) -> bool:
    """Whether a value is a number, infinities and NaN among them, that float64 holds: an integer may be too large."""
    return isinstance(value, float) or (type(value) is int and is_finite(value))


def _range(least: int, most: int) -> str:
    if -least > MAX_INTEGER:
        return "" if most == MAX_INTEGER else f" of at most {most}"
    return f" of at least {least}" if most in (MAX_INTEGER, MAX_SIZE) else f" from {least} to {most}"
