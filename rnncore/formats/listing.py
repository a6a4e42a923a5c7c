"""Listing: the content of a graph file, whether or not rnncore can run it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ListedNode", "Listing"]


@dataclass(frozen=True)
class ListedNode:
    """One node (or layer) of a file as the file has it.

    place    its place in the file: "graph.node[17]", "config.layers[3]"
    name     its own name; may be empty
    kind     its type: "LSTM", "Bidirectional"
    reads    what it reads, by the file's names
    options  its attributes, as text
    problem  why rnncore does not run it; None where it does
    """

    place: str
    name: str
    kind: str
    reads: tuple[str, ...] = ()
    options: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a graph file, whether or not rnncore can run it: for ``rnncore inspect``.

    facts    what the file says of itself, in order: "opset" -> "17"
    inputs   name -> dtype and shape as text;  outputs  likewise
    problem  what keeps the file from being loaded, where it is no single node's
    """

    path: str
    format: str
    nodes: tuple[ListedNode, ...]
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    problem: str | None = None
