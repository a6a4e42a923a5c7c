"""Activations whose values become integers, computed as ONNX Runtime computes them.

A quantization turns a rounding error into a whole step of 1/255 where a value is in the middle of two integers, and
layers of integers carry that on. What quantized a network and measured it is ONNX Runtime, whose Sigmoid and Tanh are
quotients of polynomials, 1e-7 off: with the same quotients the integers, and then the scores, are those that were
measured. Everywhere else the functions stay exact.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from rnncore.graph.nodes import Control, GraphNode, Node
from rnncore.graph.spec import Spec
from rnncore.passes.graph import Graph

__all__ = ["QUANTIZING", "follow_quantizer"]

QUANTIZING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
ACTIVATIONS = frozenset({"Sigmoid", "Tanh", "Swish"})


def follow_quantizer(graph: Graph) -> None:
    """Give Sigmoid, Tanh and Swish approximate="rational" where their values reach a quantization."""
    done: Counter[str] = Counter()
    graph.update(_followed(graph.spec, (), done), done)


def _followed(spec: Spec, outputs: Iterable[str], done: Counter[str]) -> list[GraphNode]:
    """The nodes of a Spec of which ``outputs`` reach a quantization outside of it."""
    reaching, nodes = set(outputs), []
    node: Any  # which kind it is, its op says
    for node in reversed(spec.nodes):
        inside = _quantizes(node)
        reaches = not reaching.isdisjoint(node.names)
        if inside or reaches:
            reaching.update(node.reads)
        if node.subgraphs and (inside or reaches):
            node = _followed_branches(node, reaches or node.op != "If", done)
        elif reaches and node.op in ACTIVATIONS:
            node = _rational(node, done)
        nodes.append(node)
    return nodes[::-1]


def _quantizes(node: GraphNode) -> bool:
    """Whether a node, or one inside it, makes integers."""
    inner = (inner for _, branch in node.subgraphs for inner in branch.nodes)
    return node.op in QUANTIZING or any(map(_quantizes, inner))


def _followed_branches(node: Control, all_outputs: bool, done: Counter[str]) -> Control:
    """all_outputs: outputs of the branches reach a quantization, after the node or in the next step of a loop."""
    before = done.total()
    branches = []
    for branch in node.branches:
        nodes = _followed(cast(Spec, branch), branch.outputs if all_outputs else (), done)
        branches.append(Spec(branch.inputs, tuple(nodes), branch.outputs))
    return dataclasses.replace(node, branches=tuple(branches)) if done.total() > before else node


def _rational(node: Node, done: Counter[str]) -> Node:
    if node.attributes["approximate"] == "rational" or node.attributes.get("alpha", 1) != 1:
        return node
    done[f"{node.op} before a quantization, as ONNX Runtime rounds it"] += 1
    return dataclasses.replace(node, attributes={**node.attributes, "approximate": "rational"})
