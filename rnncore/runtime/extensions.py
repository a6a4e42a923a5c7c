"""Functions that methods of Model call, whose code is in packages that use Model: registered here by name.

The front door (rnncore/__init__.py) registers where each is, so that no package imports one above it, and a program
that only runs models does not load what streams and decodes them.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

__all__ = ["extension", "register"]

_PLACES: dict[str, tuple[str, str]] = {}


def register(places: Mapping[str, tuple[str, str]]) -> None:
    """name -> (module, function). The module is imported at the first use."""
    _PLACES.update(places)


@cache
def extension(name: str) -> Callable[..., Any]:
    """The function registered under this name."""
    module, function = _PLACES[name]
    return getattr(import_module(module), function)
