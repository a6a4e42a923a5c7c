"""Input: a named input of a Spec."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rnncore.cells.base import check_choice, check_flag
from rnncore.errors import SpecError, shown
from rnncore.graph.limits import LARGEST
from rnncore.graph.nodes.fields import as_tuple, check_keys, check_name, is_text, list_of, naming, near
from rnncore.ops import DTYPES, Value, schema

__all__ = ["Input", "check_sizes"]


@dataclass(frozen=True)
class Input:
    """A named input: a dtype of DTYPES ("float" is the model's); shape with names for sizes known at run time."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    optional: bool = False

    kind = "Input"

    if TYPE_CHECKING:

        def __init__(self, name: str, dtype: str, shape: Iterable[int | str], optional: bool = False): ...

    def __post_init__(self):
        check_name(self.name, "input")
        with naming(self, "input"):
            check_choice(self, "dtype", DTYPES)
            check_flag(self, "optional")
            object.__setattr__(self, "shape", as_tuple("shape", self.shape))
            if len(self.shape) > schema.MAX_RANK:
                raise SpecError(f"{len(self.shape)} sizes, expected at most {schema.MAX_RANK}")
        for size in self.shape:
            if not (type(size) is int and 1 <= size <= LARGEST) and not (type(size) is str and is_text(size)):
                raise SpecError(f"input {self.name!r}: size {shown(size)}, expected a positive integer or a name")

    @cached_property
    def value(self) -> Value:
        """Its dtype and shape, as those of any value."""
        return Value(self.dtype, self.shape)

    def to_json(self) -> dict[str, Any]:
        """Its object in JSON."""
        fields = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        return {**fields, "optional": True} if self.optional else fields

    @classmethod
    def from_json(cls, given: Any) -> Input:
        """From its object in JSON; SpecError for keys that are missing or unknown."""
        check_keys(given, "input", {"name", "dtype", "shape"}, {"optional"})
        shape = tuple(list_of(given, "shape", "input"))
        return cls(given["name"], given["dtype"], shape, given.get("optional", False))


def check_sizes(sizes: Mapping[str, int], shapes: Iterable[int | str]) -> None:
    """SpecError unless ``sizes`` gives positive integers for names that are among ``shapes``."""
    names = sorted({size for size in shapes if isinstance(size, str)})
    if not isinstance(sizes, Mapping):
        raise SpecError(f"sizes={sizes!r}, expected a mapping of names to sizes")
    for name, size in sizes.items():
        if name not in names:
            raise SpecError(f"sizes: {name!r}, expected one of {', '.join(names) or 'none'}{near(name, names)}")
        if type(size) is not int or size < 1:
            raise SpecError(f"sizes: {name}={size!r}, expected a positive integer")
