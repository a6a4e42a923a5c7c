"""Axes of size 1 that are taken away and put back, or that one number is taken with; reductions of one number."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rnncore.graph.nodes import Node
from rnncore.ops import Value
from rnncore.passes.graph import Graph

__all__ = ["OF_ONE", "cancel_axes", "square"]

# Of one number they are that number.
OF_ONE = ("ReduceMean", "ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin")


def cancel_axes(graph: Graph) -> None:
    """Leave out a Squeeze and an Unsqueeze that undo each other, and take a Slice for a Gather whose axis comes back.

    A reduction over axes of size 1 is a Squeeze. Only where the sizes are known, since Squeeze also checks them.
    """
    made: dict[str, Node] = {}
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    done: Counter[str] = Counter()
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        node = node.with_reads(renamed)
        if len(node.slots) == 1:
            node = _without_reduction(node, graph.values[node.inputs[0]], done)
            before: Any = made.get(node.inputs[0]) if node.op in ("Squeeze", "Unsqueeze") else None
            undone = before is not None and _undo(before, node, graph)
            if undone and node.name not in graph.outputs:
                renamed[node.name] = before.inputs[0]
                done["cancelled Squeeze and Unsqueeze"] += 1
                continue
            if before is not None and _brings_back(before, node, graph):
                node = _slice(node.name, before)
                done["took Slice for Gather and Unsqueeze"] += 1
            made[node.name] = node
        nodes.append(node)
    graph.update(nodes, done)


def _without_reduction(node: Node, value: Value, done: Counter[str]) -> Node:
    axes = node.attributes.get("axes") if node.op in OF_ONE else None
    if not axes or node.attributes["keepdims"] or any(value.shape[axis] != 1 for axis in axes):
        return node
    done["made Squeeze of a reduction of one"] += 1
    return Node(node.name, "Squeeze", node.inputs, {"axes": axes})


def _axes(node: Node, rank: int) -> set[int] | None:
    """The axes of a Squeeze or an Unsqueeze, counted from 0 in the larger rank; None where they are not attributes."""
    axes = node.attributes["axes"]
    return None if axes is None else {axis % rank for axis in axes}


def _undo(first: Node, second: Node, graph: Graph) -> bool:
    """Whether one takes away the axes that the other made."""
    if {first.op, second.op} != {"Squeeze", "Unsqueeze"}:
        return False
    value = graph.values[first.inputs[0]]
    more = len(first.attributes["axes"] or ()) if first.op == "Unsqueeze" else 0
    rank = len(value.shape) + more
    axes = _axes(first, rank)
    known = first.op == "Unsqueeze" or all(value.shape[axis] == 1 for axis in axes or ())
    return axes is not None and axes == _axes(second, rank) and known


def _brings_back(first: Node, second: Node, graph: Graph) -> bool:
    """Whether a Gather takes one number of an axis, which an Unsqueeze then puts back."""
    if first.op != "Gather" or second.op != "Unsqueeze" or not isinstance(first.attributes["indices"], int):
        return False
    shape = graph.values[first.inputs[0]].shape
    axis = first.attributes["axis"] % len(shape)
    return isinstance(shape[axis], int) and _axes(second, len(shape)) == {axis}


def _slice(name: str, gather: Node) -> Node:
    index, axis = gather.attributes["indices"], gather.attributes["axis"]
    end = index + 1 if index != -1 else np.iinfo(np.int64).max
    bounds: dict[str, Any] = {"starts": (index,), "ends": (int(end),), "axes": (axis,), "steps": (1,)}
    return Node(name, "Slice", gather.inputs, bounds)


def square(graph: Graph) -> None:
    """x to the power of 2 is x * x."""
    constants = graph.constants()
    nodes, done = [], 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        if node.op == "Pow":
            x, exponent = (graph.values[name] for name in node.inputs)
            power = constants.get(node.inputs[1])
            fits = power is not None and power.size == 1 and power.reshape(()) == 2 and x.dtype.startswith("float")
            if fits and len(exponent.shape) <= len(x.shape):
                node = Node(node.name, "Mul", (node.inputs[0], node.inputs[0]))
                done += 1
        nodes.append(node)
    graph.update(nodes, {"made products of squares": done})
