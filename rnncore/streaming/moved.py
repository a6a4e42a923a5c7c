"""The work of a node that moves steps along other axes than the time's."""

from __future__ import annotations

from collections.abc import Sequence

from rnncore.graph.nodes import Node
from rnncore.ops import OPS, Value

__all__ = ["along_others"]


def along_others(
    node: Node, values: Sequence[Value | None], time: int, begin: int = 0, end: int = 0
) -> Node | str | None:
    """The node without what it does to the ends of the time axis; None where nothing is left of it.

    values      of its inputs
    begin, end  steps that a Pad still adds

    Why there is no such node, in words, where its parameters are not known.
    """
    others = OPS[node.op].ends.others
    left = None if others is None else others(node.attributes, values, time, begin, end)
    if left is None or isinstance(left, str):
        return left
    attributes, places = left
    inputs = tuple("" if place is None else node.inputs[place] for place in places)
    return Node(node.name, node.op, inputs, attributes)
