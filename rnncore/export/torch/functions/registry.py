"""Functions, methods and operators of torch by their name, and how each becomes nodes of a Spec.

A function of torch, a method of a tensor and an operator of Python that do the same have one entry: its name without
what marks it as in-place. Each entry is called with the graph under construction and torch's own arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rnncore.errors import UnsupportedError
from rnncore.export.torch.lowering import TraceLowering

__all__ = ["FUNCTIONS", "call_function", "called", "entry", "refuse"]

FUNCTIONS: dict[str, Callable[..., Any]] = {}


def entry(*names: str) -> Callable[[Callable], Callable]:
    def remember(function: Callable) -> Callable:
        FUNCTIONS.update(dict.fromkeys(names, function))
        return function

    return remember


def call_function(g: TraceLowering, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The value of a function or method. Raises UnsupportedError for names that no entry has."""
    known = name.strip("_") if not name.startswith("_") else name
    if known not in FUNCTIONS:
        raise UnsupportedError(f"{g.place}: {name} is not supported, expected one of {', '.join(sorted(FUNCTIONS))}")
    if kwargs.pop("out", None) is not None:
        raise UnsupportedError(f"{g.place}: {name} with out=, expected its result")
    for ignored in ("inplace", "device", "pin_memory", "requires_grad", "layout", "non_blocking", "memory_format"):
        kwargs.pop(ignored, None)
    return FUNCTIONS[known](g, *args, **kwargs)


def refuse(g: TraceLowering, what: str, expected: str) -> UnsupportedError:
    return UnsupportedError(f"{g.place}: {g.wanted}: {what}, expected {expected}")


def called(g: TraceLowering) -> str:
    """The name of the function or method of the current node, without what marks it as in-place."""
    return str(getattr(g.node.target, "__name__", g.node.target)).strip("_")
