"""Products by a constant matrix become Linear, whose weights are packed once, and whose bits depend on a row alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.errors import SpecError
from rnncore.graph.nodes import Node
from rnncore.ops.products import equation_terms
from rnncore.passes.graph import Graph

__all__ = ["PRODUCTS_OF_CONSTANTS", "linear_products"]

PRODUCTS_OF_CONSTANTS = ("MatMul", "Einsum")


def linear_products(graph: Graph) -> None:
    """MatMul, and Einsum of two, by a constant that has no axis in common with both the other factor and the result.

    x A is Linear with the weight A^T; A x is that of x^T, between two Transposes. In an Einsum the letters that are
    summed go after all others, as one axis.
    """
    constants = {
        name: array for name, array in graph.constants().items() if graph.values[name].dtype == "float" and array.size
    }
    if not constants:
        return
    taken = {*graph.values, *(node.name for node in graph.spec.nodes)}
    nodes: list = []
    arrays: dict[str, np.ndarray] = {}
    made_of: dict[tuple, np.ndarray] = {}  # so that products by one constant share one weight
    count = 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        product = node.op in PRODUCTS_OF_CONSTANTS
        chain = _chain(node, constants, graph, taken, made_of) if product else None
        if chain is None:
            nodes.append(node)
            continue
        made, weight = chain
        nodes += made
        arrays.update(weight)
        count += 1
    graph.update(nodes, {"products by constants": count}, arrays)


def _chain(
    node: Node,
    constants: Mapping[str, np.ndarray],
    graph: Graph,
    taken: set[str],
    made_of: dict[tuple, np.ndarray],
) -> tuple[list[Node], dict[str, np.ndarray]] | None:
    """The nodes in place of a product, the last of which has its name, and their weights; None where it stays."""
    places = [place for place, name in enumerate(node.inputs) if name in constants]
    if len(node.inputs) != 2 or len(places) != 1:
        return None
    (place,) = places
    other, array = node.inputs[1 - place], constants[node.inputs[place]]
    rank = len(graph.values[other].shape)
    terms = _terms(node, rank, array.ndim, place)
    if terms is None:
        return None
    x, matrix, result = terms
    summed = [letter for letter in matrix if letter in x and letter not in result]
    new = [letter for letter in matrix if letter not in x and letter in result]
    kept = [letter for letter in x if letter not in summed]
    distinct = all(len(set(term)) == len(term) for term in (x, matrix))
    if not summed or not distinct or len(summed) + len(new) < len(matrix) or set(result) != {*kept, *new}:
        return None
    sizes = dict(zip(matrix, array.shape, strict=True))
    known = zip(x, graph.values[other].shape, strict=True)
    if any(size != sizes[letter] for letter, size in known if letter in summed):
        return None  # a size of 1 that is spread, or one that is not known yet
    order = tuple(matrix.index(letter) for letter in (*new, *summed))
    rows, columns = math.prod(sizes[letter] for letter in new), math.prod(sizes[letter] for letter in summed)
    key = (node.inputs[place], order, rows)
    if key not in made_of:
        made_of[key] = np.ascontiguousarray(array.transpose(order).reshape(rows, columns))
    steps = _steps(x, result, summed, new, sizes, rows, columns)
    nodes, read, weights = [], other, {}
    for number, (ending, op, attributes) in enumerate(steps):
        name = node.name if number == len(steps) - 1 else _free(f"{node.name}.{ending}", taken)
        nodes.append(Node(name, op, (read,), attributes))
        read = name
        if op == "Linear":
            weights[f"{name}.weight"] = made_of[key]
    return nodes, weights


def _steps(
    x: str, result: str, summed: list[str], new: list[str], sizes: Mapping[str, int], rows: int, columns: int
) -> list[tuple[str, str, dict[str, Any]]]:
    """(ending of the name, op, attributes) of the nodes from a value of the letters x to ``result``."""
    kept = [letter for letter in x if letter not in summed]
    steps: list[tuple[str, str, dict[str, Any]]] = []
    if kept + summed != list(x):
        steps.append(("turned", "Transpose", {"perm": tuple(x.index(letter) for letter in (*kept, *summed))}))
    if len(summed) > 1:
        steps.append(("joined", "Reshape", {"shape": (*(0 for _ in kept), columns)}))
    steps.append(("product", "Linear", {"input_size": columns, "output_size": rows, "bias": False}))
    if len(new) != 1:
        steps.append(("parted", "Reshape", {"shape": (*(0 for _ in kept), *(sizes[letter] for letter in new))}))
    if kept + new != list(result):
        places = [(kept + new).index(letter) for letter in result]
        steps.append(("back", "Transpose", {"perm": tuple(places)}))
    return steps


def _terms(node: Node, rank: int, constant_rank: int, place: int) -> tuple[str, str, str] | None:
    """The letters of the factor, the constant and the result."""
    if node.op == "Einsum":
        try:
            terms, result = equation_terms(node.attributes, 2)
        except SpecError:
            return None
        fits = "..." not in "".join(terms) and (len(terms[1 - place]), len(terms[place])) == (rank, constant_rank)
        return (terms[1 - place], terms[place], result) if fits else None
    if constant_rank != 2 or rank < 2 or rank > 20:
        return None
    letters = "abcdefghijklmnopqrstuvwxyz"[:rank]
    if place == 1:
        return letters, letters[-1] + "z", letters[:-1] + "z"
    return letters, "z" + letters[-2], letters[:-2] + "z" + letters[-1]


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name
