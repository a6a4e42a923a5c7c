"""The number of steps of a value that are known after n steps of the input: delays, strides, blocks.

A Timing belongs to a value with a time axis. Values of equal timings always have the same number of steps; where a
node reads values of different ones, those ahead wait for the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["INPUT", "Around", "Blocks", "Joined", "Timing", "Window", "joined"]


@dataclass(frozen=True)
class Timing:
    """Of the input itself: a step is known when it arrives."""

    def count(self, steps: int, ended: bool = False) -> int:
        """Steps that are known after this number of steps of the input; ``ended``: and no more are to come."""
        return steps

    @property
    def period(self) -> int:
        """count(n + period) - count(n) is the same for all n from ``settled`` on."""
        return 1

    @property
    def settled(self) -> int:
        """Steps of the input after which the value comes at a constant rate."""
        return 0

    @property
    def rate(self) -> tuple[int, int]:
        """Steps of the value for this number of steps of the input."""
        return 1, 1

    @property
    def prompt(self) -> bool:
        """Whether each step of the input is answered by one of the value, at once."""
        return all(self.count(n) == n for n in range(self.settled + self.period + 1))


INPUT = Timing()


@dataclass(frozen=True)
class Window(Timing):
    """Step j needs the steps j * stride - left ... j * stride + right of ``of``; the steps before them all are padding.

    After the last step there are ``end`` steps of padding.
    """

    of: Timing
    left: int
    right: int
    stride: int
    end: int

    def count(self, steps: int, ended: bool = False) -> int:
        known = self.of.count(steps, ended) - self.right + (self.end if ended else 0)
        return max(0, -(-known // self.stride))

    @property
    def period(self) -> int:
        return self.of.period * self.stride

    @property
    def settled(self) -> int:
        per, steps = self.of.rate
        return self.of.settled + (self.right // per + 1) * steps + self.of.period

    @property
    def rate(self) -> tuple[int, int]:
        per, steps = self.of.rate
        return _lowest(per, steps * self.stride)


@dataclass(frozen=True)
class Around(Timing):
    """The steps of ``of`` without some at its ends, and then with others before and after them.

    begin, end  steps that are added there; negative: that are left out
    wraps       the end is a number of steps that is computed, size + end, which below 0 counts from the end again
    """

    of: Timing
    begin: int
    end: int
    wraps: bool = False

    @property
    def skipped(self) -> int:
        """Steps of ``of`` that are left out at its beginning."""
        return max(0, -self.begin)

    @property
    def held(self) -> int:
        """Steps of ``of`` that are left out at its end: until it ends, the last ones may be these."""
        return max(0, -self.end)

    def inner(self, known: int, ended: bool = False) -> int:
        """The number of the first steps of ``of`` that are among those of the value."""
        stop = known - self.held
        if stop < 0 and self.wraps and ended:
            stop += known
        return max(0, stop - self.skipped)

    def count(self, steps: int, ended: bool = False) -> int:
        if steps == 0 and not ended:
            return 0  # what is added before the first step comes with it
        count = self.inner(self.of.count(steps, ended), ended) + max(0, self.begin)
        return count + max(0, self.end) if ended else count

    @property
    def period(self) -> int:
        return self.of.period

    @property
    def settled(self) -> int:
        per, steps = self.of.rate
        return self.of.settled + ((self.skipped + self.held) // per + 1) * steps + self.of.period

    @property
    def rate(self) -> tuple[int, int]:
        return self.of.rate


@dataclass(frozen=True)
class Blocks(Timing):
    """Comes in blocks of ``size`` steps, when ``lookahead`` more steps of ``of`` are known."""

    of: Timing
    size: int
    lookahead: int

    def count(self, steps: int, ended: bool = False) -> int:
        known = self.of.count(steps, ended)
        return known if ended else max(0, (known - self.lookahead) // self.size * self.size)

    @property
    def period(self) -> int:
        return self.of.period * self.size

    @property
    def settled(self) -> int:
        per, steps = self.of.rate
        return self.of.settled + ((self.lookahead + self.size) // per + 1) * steps + self.of.period

    @property
    def rate(self) -> tuple[int, int]:
        return self.of.rate


@dataclass(frozen=True)
class Joined(Timing):
    """Waits for the last of several."""

    parts: tuple[Timing, ...]

    def count(self, steps: int, ended: bool = False) -> int:
        return min(part.count(steps, ended) for part in self.parts)

    @property
    def period(self) -> int:
        return math.lcm(*(part.period for part in self.parts))

    @property
    def settled(self) -> int:
        return max(part.settled for part in self.parts)

    @property
    def rate(self) -> tuple[int, int]:
        return self.parts[0].rate


def joined(parts: list[Timing]) -> Timing:
    """The timing of what needs all of these."""
    different = tuple(dict.fromkeys(parts))
    return different[0] if len(different) == 1 else Joined(different)


def _lowest(a: int, b: int) -> tuple[int, int]:
    divisor = math.gcd(a, b)
    return a // divisor, b // divisor
