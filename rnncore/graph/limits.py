"""Limits of a Spec: sizes, names, layers, and the number of nodes, which a reader of files lowers for its thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

__all__ = [
    "FILE_NODES",
    "LARGEST",
    "MAX_LAYERS",
    "MAX_NAME",
    "MAX_NESTING",
    "MAX_NODES",
    "limited_nodes",
    "more_nodes",
    "most_nodes",
]

MAX_NODES = 100_000  # those inside branches among them, and each layer of a stack
FILE_NODES = 20_000
"""The default for a file, Constants not counted: more take longer to load than they should."""

MAX_LAYERS = 1024
MAX_NESTING = 4
MAX_NAME = 1000
LARGEST = (1 << 63) - 1

_HERE = threading.local()  # .nodes: the most that a Spec made by this thread may have


@contextlib.contextmanager
def limited_nodes(most: int) -> Iterator[None]:
    """A Spec that this thread makes inside has at most ``most`` nodes and layers, or it is a SpecError."""
    before = most_nodes()
    _HERE.nodes = most
    try:
        yield
    finally:
        _HERE.nodes = before


def most_nodes() -> int:
    """The number of nodes and layers that a Spec may have in this thread now."""
    return getattr(_HERE, "nodes", MAX_NODES)


def more_nodes() -> str:
    """The end of a message about too many nodes: how more are allowed."""
    if most_nodes() == MAX_NODES:
        return ""
    return f" of a file; load(..., budget=Budget(nodes=...)), or RNNCORE_MAX_NODES, allows up to {MAX_NODES}"
