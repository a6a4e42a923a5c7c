"""y * scale + shift, one of each for every channel, goes into the weights of the product that gives y."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.graph.nodes import Node
from rnncore.ops import Value
from rnncore.passes.graph import Graph

__all__ = ["AFFINE", "PRODUCTS", "fold_affine"]

PRODUCTS = ("Linear", "Conv", "ConvTranspose")
AFFINE = ("BatchNormalization", "Mul", "Div", "Add", "Sub")


def fold_affine(graph: Graph) -> None:
    """Fold BatchNormalization, Mul, Div, Add and Sub by constants into the Linear or Conv before them.

    Only where nothing else reads the product. s (W x + b) + t has the weights s W and the bias s b + t; they are
    computed in float64 and stored in the dtype of the weights.
    """
    uses, constants = graph.uses(), graph.constants()
    products: dict[str, tuple[int, int]] = {}  # name -> its place in nodes, the axis of its channels
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    done: Counter[str] = Counter()
    arrays = dict(graph.weights)
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        node = node.with_reads(renamed)
        name = next((name for name in node.reads if name in products), None)
        if name is not None and uses[name] == 1 and node.name not in graph.outputs:
            place, axis = products[name]
            scale_and_offset = _affine(node, name, axis, constants, graph.values[name])
            if scale_and_offset is not None:
                nodes[place] = _scaled(nodes[place], *scale_and_offset, arrays)
                renamed[node.name] = name
                uses[name] = uses[node.name]
                done[f"folded {node.op} into the product before it"] += 1
                continue
        if _is_product(node):
            rank = len(graph.values[node.name].shape)
            products[node.name] = (len(nodes), rank - 1 if node.op == "Linear" else 1)
        nodes.append(node)
    graph.update(nodes, done, arrays)


def _is_product(node) -> bool:
    """A node with weights of its own; not a grouped ConvTranspose, whose output channels are in two axes."""
    if node.op not in PRODUCTS or len(node.inputs) != 1:
        return False
    grouped = node.op == "ConvTranspose" and node.attributes["group"] != 1
    return not grouped and node.attributes.get("activation") is None


def _affine(
    node: Node, name: str, axis: int, constants: Mapping[str, np.ndarray], product: Value
) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, shift) if the node is product * scale + shift with scalars or one number for each channel."""
    if node.op == "BatchNormalization":
        others = node.inputs[1:]
        if node.inputs[0] != name or axis != 1 or not all(other in constants for other in others):
            return None
        gamma, beta, mean, variance = (constants[other].astype(np.float64) for other in others)
        scale = gamma / np.sqrt(variance + node.attributes["epsilon"])
        return scale, beta - mean * scale
    if node.op not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    turned = node.inputs[1] == name
    other = constants.get(node.inputs[0 if turned else 1])
    number = None if other is None else _per_channel(other, product, axis)
    if number is None:
        return None
    one, zero = np.ones(()), np.zeros(())
    if node.op == "Add":
        return one, number
    if node.op == "Sub":
        return (-one, number) if turned else (one, -number)
    if node.op == "Mul":
        return number, zero
    return None if turned or not np.all(number) else (1 / number, zero)


def _per_channel(array: np.ndarray, product: Value, axis: int) -> np.ndarray | None:
    """The constant as a scalar or (channels,), if it broadcasts against the product along the channels only."""
    rank = len(product.shape)
    if array.dtype.kind != "f" or array.ndim > rank:
        return None
    sizes = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for place, size in enumerate(sizes) if place != axis):
        return None
    flat = array.astype(np.float64).reshape(-1)
    return flat if sizes[axis] == product.shape[axis] else flat[0] if sizes[axis] == 1 else None


def _scaled(product: Node, scale: np.ndarray, shift: np.ndarray, arrays: dict[str, np.ndarray]) -> Node:
    """The product with new weights, which are put into ``arrays``, and with a bias where the shift asks for one."""
    weight = arrays[f"{product.name}.weight"]
    outputs = product.attributes["output_size"]
    across = [1] * weight.ndim
    across[1 if product.op == "ConvTranspose" else 0] = -1
    scale, shift = np.broadcast_to(scale, outputs), np.broadcast_to(shift, outputs)
    arrays[f"{product.name}.weight"] = (weight * scale.reshape(across)).astype(weight.dtype)
    old = arrays[f"{product.name}.bias"] if product.attributes["bias"] else np.zeros(outputs)
    bias = (old * scale + shift).astype(weight.dtype)
    if not product.attributes["bias"] and not np.any(bias):
        return product
    arrays[f"{product.name}.bias"] = bias
    return Node(product.name, product.op, product.inputs, {**product.attributes, "bias": True})
