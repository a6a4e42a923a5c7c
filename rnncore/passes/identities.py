"""Nodes that change nothing are left out."""

from __future__ import annotations

from typing import Any

from rnncore.graph.nodes import Node
from rnncore.passes.graph import Graph

__all__ = ["IDENTITIES", "remove_identities"]

ALWAYS = frozenset({"Identity", "Dropout"})
IDENTITIES = ALWAYS | {"Cast", "CastLike", "Transpose", "Reshape", "Expand", "Slice"}


def remove_identities(graph: Graph) -> None:
    """Leave out Identity, Dropout, casts to the same dtype, and moves to the same shape or order."""
    uses = graph.uses()
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    done = 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        node = node.with_reads(renamed)
        alone = _is_identity(node, graph) and not any(uses[name] for name in node.names[1:])
        if alone and node.name not in graph.outputs:
            renamed[node.name] = node.inputs[0]
            done += 1
            continue
        nodes.append(node)
    graph.update(nodes, {"left out identities": done})


def _is_identity(node, graph: Graph) -> bool:
    if node.op not in IDENTITIES:
        return False
    if node.op in ALWAYS:
        return True
    if node.op == "Slice" and not _from_the_beginning(node):
        return False
    before, after = graph.values[node.inputs[0]], graph.values[node.name]
    if node.op in ("Cast", "CastLike"):
        return before.dtype == after.dtype
    if node.op == "Transpose":
        perm = node.attributes["perm"]
        return perm is not None and tuple(perm) == tuple(range(len(perm)))
    names = [size for size in before.shape if isinstance(size, str)]
    return before.shape == after.shape and "?" not in names and len(set(names)) == len(names)


def _from_the_beginning(node: Node) -> bool:
    """Whether a Slice leaves nothing out before its end: what has the same sizes then is the same."""
    starts, steps = node.attributes["starts"], node.attributes["steps"]
    return starts is not None and not any(starts) and (steps is None or set(steps) == {1}) and len(node.inputs) == 1
