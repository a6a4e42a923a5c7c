"""The cells that Specs and files may name."""

from __future__ import annotations

from typing import Any, TypeVar

from rnncore.cells.base import Cell
from rnncore.errors import SpecError, shown

__all__ = ["CELLS", "check_cell", "register"]

CELLS: dict[str, type[Cell]] = {}
"""kind -> class."""

C = TypeVar("C", bound=type[Cell])

_TAKEN = ("last", "forward", "reverse", "feed", "context", "weights")
"""Endings of the values of a node that are no states."""


def register(cell: C) -> C:
    """Make a class of cells known, so that Specs and files may name its kind. Returns it: a decorator.

    Raises SpecError where it lacks what a Cell says of itself, or another class has its kind.
    """
    if not (isinstance(cell, type) and issubclass(cell, Cell)):
        raise SpecError(f"{shown(cell)}, expected a subclass of Cell")
    kind = getattr(cell, "kind", None)
    states: Any = getattr(cell, "states", None)
    if not isinstance(kind, str) or not kind.isidentifier():
        raise SpecError(f"{cell.__name__}: kind={shown(kind)}, expected a name")
    if CELLS.get(kind, cell) is not cell:
        raise SpecError(f"{cell.__name__}: kind {kind!r} is that of {CELLS[kind].__module__}.{CELLS[kind].__name__}")
    names = isinstance(states, tuple) and all(isinstance(name, str) and name.isidentifier() for name in states)
    if not names or states[:1] != ("h",) or len(set(states)) < len(states) or set(states) & set(_TAKEN):
        raise SpecError(f"{kind}: states={shown(states)}, expected names, the output 'h' first, none of {_TAKEN}")
    for name in ("activation_places", "default_activations"):
        if not isinstance(getattr(cell, name, None), tuple):
            raise SpecError(f"{kind}: {name}={shown(getattr(cell, name, None))}, expected a tuple of names")
    CELLS[kind] = cell
    return cell


def check_cell(cell: object) -> None:
    """SpecError unless this is a cell of a class that is known by its kind, whose states have sizes."""
    if not isinstance(cell, Cell):
        raise SpecError(f"cell={shown(cell)}, expected a Cell ({', '.join(CELLS)})")
    if CELLS.get(cell.kind) is not type(cell):
        raise SpecError(f"cell of class {type(cell).__name__}, expected one of CELLS: see rnncore.cells.register")
    sizes = cell.state_sizes
    if tuple(sizes) != cell.states or sizes["h"] != cell.output_size:
        expected = f"one for each of {', '.join(cell.states)}, h of {cell.output_size}"
        raise SpecError(f"{cell.kind}: state_sizes={shown(sizes)}, expected {expected}")
