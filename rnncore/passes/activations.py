"""Activations that other nodes can take over, or that exporters write in parts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from rnncore.graph.nodes import Node
from rnncore.passes.graph import Graph

__all__ = ["fuse_activations", "join_swish"]


def fuse_activations(graph: Graph) -> None:
    """Make Relu the activation of the Conv before it, where nothing else reads that; its sums are in registers."""
    uses = graph.uses()
    convolutions: dict[str, int] = {}  # name -> place in nodes
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    done: Counter[str] = Counter()
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        node = node.with_reads(renamed)
        op = node.op
        place = convolutions.get(node.inputs[0]) if op == "Relu" and node.name not in graph.outputs else None
        if place is not None and uses[node.inputs[0]] == 1:
            before = nodes[place]
            nodes[place] = dataclasses.replace(before, attributes={**before.attributes, "activation": "Relu"})
            renamed[node.name] = before.name
            del convolutions[before.name]
            done["made Relu the activation of a Conv"] += 1
            continue
        if op == "Conv" and node.attributes["activation"] is None:
            convolutions[node.name] = len(nodes)
        nodes.append(node)
    graph.update(nodes, done)


def join_swish(graph: Graph) -> None:
    """x * sigmoid(x) is Swish, where nothing else reads the sigmoid."""
    uses = graph.uses()
    sigmoids: dict[str, Node] = {}
    nodes: list[Any] = []
    done: Counter[str] = Counter()
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        op = node.op
        if op == "Sigmoid":
            sigmoids[node.name] = node
        elif op == "Mul":
            for x, factor in (node.inputs, node.inputs[::-1]):
                sigmoid = sigmoids.get(factor)
                if sigmoid is not None and sigmoid.inputs[0] == x and uses[factor] == 1:
                    node = Node(node.name, "Swish", x, {"alpha": 1.0, **sigmoid.attributes})
                    done["joined x * sigmoid(x)"] += 1
                    break
        nodes.append(node)
    graph.update(nodes, done)
