"""Transposes that undo each other, and those by which exporters turn a time-first layer into a batch-first one."""

from __future__ import annotations

import dataclasses
from typing import Any

from rnncore.graph.nodes import Node
from rnncore.passes.graph import Graph

__all__ = ["cancel_transposes"]

SWAP = (1, 0, 2)


def cancel_transposes(graph: Graph) -> None:
    """Join Transpose of Transpose, and give recurrent layers the layout that saves the Transpose before them.

    A time-first layer that reads a Transpose of batch-first data becomes batch-first, with a Transpose after its
    sequence, which the next one there cancels.
    """
    taken = {*graph.values, *(node.name for node in graph.spec.nodes)}
    made: dict[str, Node] = {}
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    joined, turned = 0, 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        node = node.with_reads(renamed)
        before = made.get(_first(node))
        if before is not None and _is_transpose(node):
            node = _joined(before, node)
            joined += 1
            if node.attributes["perm"] == tuple(range(len(before.attributes["perm"]))) and (
                node.name not in graph.outputs
            ):
                renamed[node.name] = node.inputs[0]
                continue
        elif before is not None and _can_turn(node, before, graph):
            layout = "batch_first" if node.layout == "time_first" else "time_first"
            node = dataclasses.replace(node, input=before.inputs[0], layout=layout)
            back = Node(_free(f"{node.name}.swapped", taken), "Transpose", node.name, {"perm": SWAP})
            renamed[node.name] = back.name
            made[back.name] = back
            nodes += [node, back]
            turned += 1
            continue
        if _is_transpose(node):
            made[node.name] = node
        nodes.append(node)
    graph.update(nodes, {"joined transposes": joined, "turned recurrent layers to the layout of their input": turned})


def _first(node) -> str:
    """The value that the node moves or reads step by step."""
    return node.reads[0] if node.reads else ""


def _is_transpose(node) -> bool:
    return node.op == "Transpose" and node.attributes["perm"] is not None


def _joined(before: Node, node: Node) -> Node:
    """transpose(transpose(x, p), q) = transpose(x, [p[i] for i in q])"""
    perm = tuple(before.attributes["perm"][axis] for axis in node.attributes["perm"])
    return Node(node.name, "Transpose", before.inputs, {"perm": perm})


def _can_turn(node, before: Node, graph: Graph) -> bool:
    """Whether the layer reads a swap of batch and time, and has no mask, which would have to be swapped too."""
    return (
        node.op == "Recurrent"
        and tuple(before.attributes["perm"]) == SWAP
        and node.mask is None
        and node.merge != "separate"
        and node.name not in graph.outputs
    )


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
