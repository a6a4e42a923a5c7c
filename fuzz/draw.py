"""Choices read from bytes, so that whatever makes and shrinks bytes makes and shrinks what is drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["ODD_NUMBERS", "ODD_VALUES", "Draw"]

ODD_NUMBERS = (
    *(0, 1, -1, 2, 7, 8, 9, 16, 17, 33, 63, 64, 65, 127, 128, 255, 256, 1 << 15, 1 << 16, -(1 << 16)),
    *((1 << 31) - 1, 1 << 31, -(1 << 31), 1 << 32, (1 << 32) + 1, 1 << 62, (1 << 63) - 1, 1 << 63, -(1 << 63), 1 << 64),
    10**30,
)
"""Integers on both sides of what some type, table or vector holds."""

ODD_VALUES = (
    *(None, True, False, "", "x", "B", "\ud800", "\0", "x" * 2000, [], {}, [None], [[1]], [[]], {"a": 1}, [{}], ["w"]),
    *(1.5, -0.0, float("nan"), float("inf"), float("-inf"), 1e308, [1.5], ["a", 1], [True], [1] * 70, [0], [-1]),
    *([1 << 31], [1 << 63], [0, 0], [1, -1], {"0": 0}, [[["w"]]]),
)
"""Values of JSON where others belong."""


class Draw:
    """Choices from bytes; behind their end every choice is the first one."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    @property
    def ended(self) -> bool:
        """Whether all bytes are used up."""
        return self._at >= len(self._data)

    def bytes(self, count: int) -> bytes:
        """The next bytes, with zeros behind the end."""
        found = self._data[self._at : self._at + count]
        self._at += count
        return found + bytes(count - len(found))

    def below(self, count: int) -> int:
        """An integer from 0 to count - 1."""
        size = 1 if count <= 256 else (count.bit_length() + 7) // 8
        return int.from_bytes(self.bytes(size), "little") % count

    def between(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return low + self.below(high - low + 1)

    def chance(self, one_in: int) -> bool:
        """True once in so many times; False behind the end."""
        return self.below(one_in) == one_in - 1

    def pick(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]

    def integer(self) -> int:
        """Most often a small one, else one of ODD_NUMBERS."""
        return self.pick(ODD_NUMBERS) if self.chance(8) else self.between(-2, 9)

    def rng(self) -> np.random.Generator:
        """A generator with a seed of two bytes: for what need not be shrunk."""
        return np.random.Generator(np.random.PCG64(self.below(1 << 16)))
