"""Passes: a Spec and its arrays -> an equal network with less work. One file per idea, one function per pass.

    graph.py       Graph: nodes, arrays and notes while passes work on them
    constants.py   fold_constants, fold_parameters: what does not depend on any input
    branches.py    take_branches: an If that always goes one way
    identities.py  remove_identities: what changes nothing
    axes.py        cancel_axes: Squeeze and Unsqueeze, reductions of one number; square: x ** 2
    transposes.py  cancel_transposes: pairs of Transpose, and those around recurrent layers
    layers.py      merge_layers, join_slices: recurrent layers in nodes of their own become stacks
    products.py    linear_products: MatMul and Einsum by a constant
    affine.py      fold_affine: BatchNormalization, Mul, Add ... into the product before it
    activations.py fuse_activations, join_swish: Relu into the Conv before it; x * sigmoid(x)
    quantized.py   follow_quantizer: activations before a quantization, as ONNX Runtime rounds them
    settled.py     trained_states: initial states that parameters alone decide, as weights of their node
    windows.py     cut_padding: outputs of a convolution that are cut off are not computed
    dead.py        remove_dead: what nothing reads

Every pass keeps the names of inputs and outputs. A new pass is one function and one line of PASSES, and one of NEEDS
where it has nothing to do in a graph without certain ops.

Decisions

- A product by a constant is Linear, whichever side the constant is on (`passes/products.py`): its bits then depend
  on a row alone, so that a stream's are those of the whole. It becomes one when a Model is made, like folded
  scales.
- An Embedding that only feeds recurrent layers is folded into a table of their input products, within a budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import numpy as np

from rnncore.graph.nodes import BRANCHES, Input
from rnncore.graph.spec import Spec
from rnncore.ops import OPS
from rnncore.passes.activations import fuse_activations, join_swish
from rnncore.passes.affine import AFFINE, PRODUCTS, fold_affine
from rnncore.passes.axes import OF_ONE, cancel_axes, square
from rnncore.passes.branches import take_branches
from rnncore.passes.constants import Folding, fold_constants, fold_parameters
from rnncore.passes.dead import remove_dead
from rnncore.passes.graph import Graph, is_constant
from rnncore.passes.identities import IDENTITIES, remove_identities
from rnncore.passes.layers import join_slices, merge_layers
from rnncore.passes.products import PRODUCTS_OF_CONSTANTS, linear_products
from rnncore.passes.quantized import QUANTIZING, follow_quantizer
from rnncore.passes.settled import trained_states
from rnncore.passes.transposes import cancel_transposes
from rnncore.passes.windows import cut_padding

__all__ = ["PASSES", "Folding", "compiled", "simplify"]

PASSES = (
    fold_constants,
    fold_parameters,
    take_branches,
    remove_identities,
    cancel_axes,
    square,
    cancel_transposes,
    cut_padding,
    merge_layers,
    join_slices,
    linear_products,
    fold_affine,
    fuse_activations,
    join_swish,
    follow_quantizer,
    remove_dead,
)

KEEPING = tuple(change for change in PASSES if change not in (fold_affine, linear_products, merge_layers, join_slices))
"""Passes that leave every weight what the source says it is: for a Spec that other weights will be bound to."""

SETTLED = (fold_constants, linear_products, trained_states)
"""Passes for what parameters alone decide."""

COMPILED = (fold_affine, fuse_activations, remove_dead)

CONTROL = frozenset(BRANCHES)

NEEDS: dict[Any, tuple[Collection[str], ...]] = {
    fold_parameters: ({"Constant"},),
    take_branches: ({"If"}, {"Constant"}),
    remove_identities: (IDENTITIES,),
    cancel_axes: ({"Squeeze", "Unsqueeze", *OF_ONE},),
    square: ({"Pow"},),
    cancel_transposes: ({"Transpose"},),
    cut_padding: ({"Conv"}, {"Slice"}),
    linear_products: ({"Constant"}, set(PRODUCTS_OF_CONSTANTS)),
    merge_layers: ({"Recurrent"},),
    join_slices: ({"Slice"},),
    fold_affine: (set(PRODUCTS), set(AFFINE)),
    fuse_activations: ({"Conv"}, {"Relu"}),
    join_swish: ({"Sigmoid"}, {"Mul"}),
    follow_quantizer: (QUANTIZING | CONTROL,),
}
"""A graph has at least one op of each of these sets, or the pass changes nothing and is left out."""
COMPILED_WORK, COMPILED_MEMORY = 1 << 24, 16 << 20
"""The most work and bytes of computing constants when a model is made."""

MAX_ROUNDS = 4
"""One pass makes work for another; real models are done after two rounds."""


def simplify(
    spec: Spec,
    weights: Mapping[str, np.ndarray],
    folding: Folding | None = None,
    keep_weights: bool = False,
    floating: str = "float32",
) -> tuple[Spec, dict[str, np.ndarray], tuple[str, ...]]:
    """An equal network: Spec, arrays, and one note for each kind of change, such as "folded 3 BatchNormalization".

    Outputs may differ from those of the given network by rounding, where a scale was multiplied into weights; with
    keep_weights none is, and no array is looked at that a Constant has as a weight.
    floating is what the network computes in, and constants in the Spec have.
    folding is what computing constants may take, shared by the graphs of a file; a constant beyond it stays a node.
    """
    if keep_weights:
        return _with_weights_kept(spec, weights, floating)
    graph = _changed(Graph(spec, weights, folding or Folding()), PASSES)
    return graph.spec, graph.weights, graph.notes


def compiled(
    spec: Spec, weights: Mapping[str, np.ndarray], floating: str = "float32"
) -> tuple[Spec, Mapping[str, np.ndarray]]:
    """The network that a model runs: scales and shifts after a product in its weights, constant parts computed.

    Branches of Control nodes too. The same objects where there is nothing of the kind.
    """
    folding = Folding(COMPILED_WORK, COMPILED_MEMORY)
    return _compiled(spec, weights, floating, folding)


def _compiled(
    spec: Spec, weights: Mapping[str, np.ndarray], floating: str, folding: Folding
) -> tuple[Spec, Mapping[str, np.ndarray]]:
    spec, weights = _with_branches_compiled(spec, weights, floating, folding)
    graph = None
    if _is_to_settle(spec):
        graph = _changed(Graph(spec, weights, folding, floating), SETTLED)
        spec, weights = (graph.spec, graph.weights) if graph.changes else (spec, weights)
    if _is_to_scale(spec, weights):
        graph = graph or Graph(spec, weights, folding, floating)
        fold_affine(graph)
    if graph is None or not graph.changes:
        return spec, weights
    graph = _changed(graph, COMPILED if _is_to_scale(graph.spec, graph.weights) else COMPILED[1:])
    return graph.spec, graph.weights


def _with_branches_compiled(
    spec: Spec, weights: Mapping[str, np.ndarray], floating: str, folding: Folding
) -> tuple[Spec, Mapping[str, np.ndarray]]:
    if not any(node.subgraphs for node in spec.nodes):
        return spec, weights
    nodes, arrays = list(spec.nodes), None
    for place, node in enumerate(cast("tuple[Any, ...]", spec.nodes)):
        branches = []
        for label, branch in node.subgraphs:
            within = f"{node.name}.{label}."
            given = {name: weights[within + name] for name in branch.weight_shapes()}
            made, own = _compiled(branch, given, floating, folding)
            branches.append(made)
            if made is not branch:
                arrays = dict(weights) if arrays is None else arrays
                for name in given:
                    del arrays[within + name]
                arrays.update({within + name: array for name, array in own.items()})
        if any(made is not branch for made, (_, branch) in zip(branches, node.subgraphs, strict=True)):
            nodes[place] = dataclasses.replace(node, branches=tuple(branches))
    return (spec, weights) if arrays is None else (Spec(spec.inputs, tuple(nodes), spec.outputs), arrays)


def _is_to_settle(spec: Spec) -> bool:
    """Whether anything but scales and shifts may depend on Constants alone."""
    constants = {node.name for node in spec.nodes if is_constant(node)}
    for node in cast("tuple[Any, ...]", spec.nodes):
        if node.op == "Recurrent" and node.initial:
            return True
        if node.op in PRODUCTS_OF_CONSTANTS and constants & set(node.inputs):
            return True
        if node.op in OPS and node.reads and constants.issuperset(node.reads):
            return True
    return False


def _is_to_scale(spec: Spec, weights: Mapping[str, np.ndarray]) -> bool:
    """Whether scales may go into products; not where products share weights, of which each would need its own."""
    products = {node.name for node in spec.nodes if node.op in PRODUCTS and f"{node.name}.weight" in weights}
    if not any(node.op in AFFINE and products & set(node.reads) for node in spec.nodes):
        return False
    places = [np.asarray(weights[f"{name}.weight"]).__array_interface__["data"][0] for name in products]
    return len(set(places)) == len(places)


def _with_weights_kept(
    spec: Spec, weights: Mapping[str, np.ndarray], floating: str
) -> tuple[Spec, dict[str, np.ndarray], tuple[str, ...]]:
    """simplify, in which Constants with weights are inputs for a while, so that nothing depends on what they hold."""
    constants: list[Any] = [node for node in spec.nodes if is_constant(node)]
    kept = [node for node in constants if node.attributes["value"] is None]
    names = {node.name for node in kept}
    if names & set(spec.outputs):
        return spec, dict(weights), ()
    entries = [Input(node.name, node.attributes["dtype"], node.attributes["shape"]) for node in kept]
    rest = [node for node in spec.nodes if node.name not in names]
    open_spec = Spec((*spec.inputs, *entries), rest, spec.outputs)
    own = {name: weights[name] for name in open_spec.weight_shapes()}
    graph = _changed(Graph(open_spec, own, Folding(), floating), KEEPING)
    read = {name for node in graph.spec.nodes for name in node.reads}
    nodes = (*(node for node in kept if node.name in read), *graph.spec.nodes)
    closed = Spec(spec.inputs, nodes, graph.spec.outputs)
    arrays = {**weights, **graph.weights}
    return closed, {name: arrays[name] for name in closed.weight_shapes()}, graph.notes


def _changed(graph: Graph, passes: tuple) -> Graph:
    for _ in range(MAX_ROUNDS):
        before = graph.changes
        for change in passes:
            if _has_work(change, graph.spec.kinds):
                change(graph)
        if graph.changes == before:
            break
    return graph


def _has_work(change: Callable[[Graph], None], kinds: frozenset[str]) -> bool:
    """Whether a graph of these ops has all that a pass needs."""
    for wanted in NEEDS.get(change, ()):  # noqa: SIM110 (a generator costs more than the loop, and branches are many)
        if kinds.isdisjoint(wanted):
            return False
    return True
