"""Random numbers in a forward that is recorded: a draw is allowed where it cannot change what is computed.

if random.random() < teacher_forcing_ratio: ...      # goes one way for a ratio of 0 or 1
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["REMEDY", "Draw", "recorded_draws"]

REMEDY = "expected the same result in every call: draw nothing in evaluation mode, or give a teacher forcing ratio of 0"

ONE = ((random, ("random",)), (np.random, ("rand", "random", "random_sample", "ranf", "sample")))
"""Functions that give one number from 0 to 1 when they are called without arguments."""
OTHERS = (
    (random, ("uniform", "randint", "randrange", "choice", "choices", "sample", "shuffle", "gauss", "normalvariate")),
    (np.random, ("uniform", "randint", "choice", "shuffle", "permutation", "randn", "normal", "binomial")),
)


class Draw:
    """A number from 0 to 1, less than 1, that is not known; it may only be compared with one outside that range."""

    def __init__(self, what: str, refusal: Callable[[str], Exception]):
        self._what, self._refusal = what, refusal

    def _less(self, other: Any) -> bool:
        if isinstance(other, (int, float)) and (other <= 0 or other >= 1):
            return other >= 1
        raise self._refused()

    def _refused(self) -> Exception:
        return self._refusal(f"{self._what}, which is random, {REMEDY}")

    def __lt__(self, other: Any) -> bool:
        return self._less(other)

    def __ge__(self, other: Any) -> bool:
        return not self._less(other)

    def __le__(self, other: Any) -> bool:
        if isinstance(other, (int, float)) and (other < 0 or other >= 1):
            return other >= 1
        raise self._refused()

    def __gt__(self, other: Any) -> bool:
        return not self <= other

    def item(self) -> Draw:
        return self

    def __getitem__(self, index: Any) -> Draw:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._refused()

    def _any(self, *args: Any) -> Any:
        raise self._refused()

    __bool__ = __float__ = __int__ = __index__ = __eq__ = __ne__ = __len__ = __iter__ = __array__ = _any
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __neg__ = _any
    __hash__ = object.__hash__


@contextmanager
def recorded_draws(
    recording: Callable[[], bool], refusal: Callable[[str], Exception], tables: Iterable[dict[str, Any]]
) -> Iterator[None]:
    """While a module is recorded, functions of random and numpy.random that users' code calls give a Draw.

    recording  whether calls are recorded just now, and not only made
    refusal    the error for a draw that may change the result, with the user's line
    tables     the globals of the user's code, where a function may have any name
    """

    def replaced(function: Callable, name: str, one: bool) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not recording():
                return function(*args, **kwargs)
            draw = Draw(name, refusal)
            if one and not args and not kwargs:
                return draw
            raise draw._refused()

        return call

    replacements: dict[int, tuple[Callable, Callable]] = {}
    for one, table in ((True, ONE), (False, OTHERS)):
        for home, names in table:
            for name in names:
                function = getattr(home, name)
                replacements[id(function)] = function, replaced(function, f"{home.__name__}.{name}", one)
    wanted = {name for _, table in (*ONE, *OTHERS) for name in table}
    places = [
        (table, name)
        for table in [getattr(module, "__dict__", {}) for module in list(sys.modules.values())]
        for name in wanted & table.keys()
        if id(table[name]) in replacements
    ]
    places += [(table, name) for table in tables for name in list(table) if id(table[name]) in replacements]
    kept = [(table, name, table[name]) for table, name in places]
    try:
        for own, name, function in kept:
            own[name] = replacements[id(function)][1]
        yield
    finally:
        for own, name, function in kept:
            own[name] = function
