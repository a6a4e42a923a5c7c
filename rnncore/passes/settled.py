"""Values that parameters alone decide, in the form that runs quickest: weights of the node that reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from rnncore.passes.graph import Graph

__all__ = ["trained_states"]

SPREADING = ("Expand", "Tile")


def trained_states(graph: Graph) -> None:
    """Initial states that repeat a Constant for each row of the batch become weights of their node."""
    constants, makers = graph.constants(), {node.name: node for node in graph.spec.nodes}
    nodes: list[Any] = []
    arrays: dict[str, Any] = {}
    done = 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        if node.op == "Recurrent" and node.initial:
            batch = graph.values[node.input].shape[0 if node.layout == "batch_first" else 1]
            repeated = [_repeated(graph, makers.get(name), constants, batch) for name in node.initial]
            if all(array is not None for array in repeated):
                node = dataclasses.replace(node, initial=(), trained_state=True)
                states = zip(node.cell.states, repeated, strict=True)
                arrays.update({f"{node.name}.initial_{key}": array for key, array in states})
                done += 1
        nodes.append(node)
    graph.update(nodes, {"initial states from constants": done}, arrays)


def _repeated(graph: Graph, maker: Any, constants: dict[str, np.ndarray], batch: int | str) -> np.ndarray | None:
    """(rows, size) of an initial state (rows, B, size) that is one row's for all rows."""
    if maker is None or maker.op not in SPREADING or maker.inputs[0] not in constants:
        return None
    array, shape = constants[maker.inputs[0]], graph.values[maker.name].shape
    if array.ndim != 3 or array.shape[1] != 1 or shape != (array.shape[0], batch, array.shape[2]) or batch == "?":
        return None
    return np.ascontiguousarray(array[:, 0])
