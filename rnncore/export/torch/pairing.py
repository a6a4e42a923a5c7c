"""Two traces of a module next to each other: which of their nodes the output needs, and which belong together."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from rnncore.export.torch.records import Traced

__all__ = ["escaped_in_both", "needed_nodes", "sizes_of"]


def needed_nodes(nodes: list[fx.Node], others: Sequence[fx.Node] = ()) -> list[fx.Node]:
    """The nodes that the output needs, and others, in order."""
    needed = {nodes[-1], *others}
    for node in reversed(nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    return [node for node in nodes if node in needed]


def escaped_in_both(first: Traced, second: Traced) -> list[tuple[fx.Node, fx.Node]]:
    """Sizes that became numbers of Python's own at the same line of both traces, as long as those do the same."""
    pairs = {}
    for one, two in zip(first.escapes, second.escapes, strict=False):
        if one.place != two.place:
            break
        pairs[one.node] = (one.node, two.node)
    return list(pairs.values())


def sizes_of(node: fx.Node, needed: list[fx.Node]) -> bool:
    """Whether a number is made of sizes of tensors that are needed anyway, and is still in the graph."""
    if node.graph is not needed[0].graph or node._erased:
        return False
    if node in needed:
        return True
    if node.op == "call_method" and node.target == "size":
        return node.args[0] in needed or node.args[0].op == "placeholder"
    inputs = node.all_input_nodes
    return bool(inputs) and not isinstance(node.target, str) and all(sizes_of(one, needed) for one in inputs)
