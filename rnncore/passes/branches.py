"""An If whose condition is a constant is the branch that it takes."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from rnncore.graph.nodes import BRANCHES, Control, GraphNode, Node
from rnncore.passes.graph import Graph

__all__ = ["take_branches"]

MAX_NAME = 1000


def take_branches(graph: Graph) -> None:
    """Put the nodes of the branch in place of each If whose condition is a Constant."""
    constants, taken = graph.constants(), set(graph.values)
    nodes: list[GraphNode] = []
    done = 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        condition = constants.get(node.inputs[0]) if node.op == "If" else None
        known = condition is not None and condition.size == 1
        inner = _inlined(node, 0 if cast(Any, condition).all() else 1) if known else []
        if inner and _fits(inner, node, taken):
            nodes += inner
            done += 1
        else:
            nodes.append(node)
    graph.update(nodes, {"took the only branch of If": done})


def _fits(inner: list[GraphNode], node: Control, taken: set[str]) -> bool:
    names = {made.name for made in inner}
    return not (names & taken).difference(node.names) and max(map(len, names)) <= MAX_NAME


def _inlined(node: Control, place: int) -> list[GraphNode]:
    """The branch's nodes, whose weights then have the names that they have now."""
    branch, prefix = node.branches[place], f"{node.name}.{BRANCHES['If'][place]}."
    captured = dict(zip(node.captures, node.inputs[1:], strict=True))
    absent = {entry.name for entry in branch.inputs if entry.name not in captured}  # optional: lengths and masks
    renamed = {name: captured.get(name, "" if name in absent else prefix + name) for name in branch.values}
    nodes: list[Any] = [made.with_reads(renamed) for made in branch.nodes]
    inner = [dataclasses.replace(made, name=prefix + made.name) for made in nodes]
    ends = zip(node.names, branch.outputs, strict=True)
    return [*inner, *(Node(name, "Identity", (renamed[output],)) for name, output in ends)]
