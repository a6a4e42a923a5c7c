"""What parameters alone decide, in the form that runs quickest: weights of the node that reads it."""

from __future__ import annotations

import dataclasses

import numpy as np

from rnncore.passes.graph import Graph
from rnncore.spec import Node, Recurrent

__all__ = ["own_products", "trained_states"]

SPREADING = ("Expand", "Tile")


def own_products(graph: Graph) -> None:
    """Make a Linear of each MatMul by a matrix that is a Constant; of one Constant they share one weight."""
    constants = graph.constants()
    matrices = {name: array for name, array in constants.items() if array.ndim == 2 and array.dtype.kind == "f"}
    nodes, arrays, turned, done = [], {}, {}, 0
    for node in graph.spec.nodes:
        if isinstance(node, Node) and node.op == "MatMul" and node.inputs[1] in matrices:
            name = node.inputs[1]
            if len(graph.values[node.inputs[0]].shape) > 1 and node.inputs[0] not in constants:
                if name not in turned:
                    turned[name] = np.ascontiguousarray(matrices[name].T)
                outputs, inputs = turned[name].shape
                sizes = {"input_size": inputs, "output_size": outputs, "bias": False}
                node = Node(node.name, "Linear", (node.inputs[0],), sizes)
                arrays[f"{node.name}.weight"] = turned[name]
                done += 1
        nodes.append(node)
    graph.update(nodes, {"products by constants": done}, arrays)


def trained_states(graph: Graph) -> None:
    """Initial states that repeat a Constant for each row of the batch become weights of their node."""
    constants, makers = graph.constants(), {node.name: node for node in graph.spec.nodes if isinstance(node, Node)}
    nodes, arrays, done = [], {}, 0
    for node in graph.spec.nodes:
        if isinstance(node, Recurrent) and node.initial:
            batch = graph.values[node.input].shape[0 if node.layout == "batch_first" else 1]
            found = [_repeated(graph, makers.get(name), constants, batch) for name in node.initial]
            if all(array is not None for array in found):
                node = dataclasses.replace(node, initial=(), trained_state=True)
                states = zip(node.cell.states, found, strict=True)
                arrays.update({f"{node.name}.initial_{key}": array for key, array in states})
                done += 1
        nodes.append(node)
    graph.update(nodes, {"initial states from constants": done}, arrays)


def _repeated(
    graph: Graph, maker: Node | None, constants: dict[str, np.ndarray], batch: int | str
) -> np.ndarray | None:
    """(rows, size) of an initial state (rows, B, size) that is one row's for all rows."""
    if maker is None or maker.op not in SPREADING or maker.inputs[0] not in constants:
        return None
    array, shape = constants[maker.inputs[0]], graph.values[maker.name].shape
    if array.ndim != 3 or array.shape[1] != 1 or shape != (array.shape[0], batch, array.shape[2]) or batch == "?":
        return None
    return np.ascontiguousarray(array[:, 0])
