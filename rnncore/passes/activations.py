"""An activation goes into the product that gives its input, where the kernel makes it while a sum is in registers."""

from __future__ import annotations

import dataclasses
from collections import Counter

from rnncore.passes.graph import Graph, with_reads
from rnncore.spec import Node

__all__ = ["fuse_activations"]


def fuse_activations(graph: Graph) -> None:
    """Make Relu the activation of the Conv before it, where nothing else reads that."""
    uses = graph.uses()
    convolutions: dict[str, int] = {}  # name -> place in nodes
    nodes, renamed, done = [], {}, Counter()
    for node in graph.spec.nodes:
        node = with_reads(node, renamed)
        op = node.op if isinstance(node, Node) else None
        place = convolutions.get(node.inputs[0]) if op == "Relu" and node.name not in graph.spec.outputs else None
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
