"""Passes: a Spec and its arrays -> an equal network with less work. One file per idea, one function per pass.

    graph.py       Graph: nodes, arrays and notes while passes work on them
    constants.py   fold_constants, fold_parameters: what does not depend on any input
    branches.py    take_branches: an If that always goes one way
    identities.py  remove_identities: what changes nothing
    axes.py        cancel_axes: Squeeze and Unsqueeze, reductions of one number; square: x ** 2
    transposes.py  cancel_transposes: pairs of Transpose, and those around recurrent layers
    layers.py      merge_layers, join_slices: recurrent layers in nodes of their own become stacks
    affine.py      fold_affine: BatchNormalization, Mul, Add ... into the product before it
    activations.py fuse_activations, join_swish: Relu into the Conv before it; x * sigmoid(x)
    quantized.py   follow_quantizer: activations before a quantization, as ONNX Runtime rounds them
    dead.py        remove_dead: what nothing reads

Every pass keeps the names of inputs and outputs. A new pass is one function and one line of PASSES.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnncore.passes.activations import fuse_activations, join_swish
from rnncore.passes.affine import fold_affine
from rnncore.passes.axes import cancel_axes, square
from rnncore.passes.branches import take_branches
from rnncore.passes.constants import Folding, fold_constants, fold_parameters
from rnncore.passes.dead import remove_dead
from rnncore.passes.graph import Graph
from rnncore.passes.identities import remove_identities
from rnncore.passes.layers import join_slices, merge_layers
from rnncore.passes.quantized import follow_quantizer
from rnncore.passes.transposes import cancel_transposes
from rnncore.spec import Spec

__all__ = ["PASSES", "Folding", "simplify"]

PASSES = (
    fold_constants,
    fold_parameters,
    take_branches,
    remove_identities,
    cancel_axes,
    square,
    cancel_transposes,
    merge_layers,
    join_slices,
    fold_affine,
    fuse_activations,
    join_swish,
    follow_quantizer,
    remove_dead,
)

MAX_ROUNDS = 4
"""One pass makes work for another; real models are done after two rounds."""


def simplify(
    spec: Spec, weights: Mapping[str, np.ndarray], folding: Folding | None = None
) -> tuple[Spec, dict[str, np.ndarray], tuple[str, ...]]:
    """An equal network: Spec, arrays, and one note for each kind of change, such as "folded 3 BatchNormalization".

    Outputs may differ from those of the given network by rounding, where a scale was multiplied into weights.
    folding is what computing constants may take, shared by the graphs of a file; a constant beyond it stays a node.
    """
    graph = Graph(spec, weights, folding or Folding())
    for _ in range(MAX_ROUNDS):
        before = graph.changes
        for change in PASSES:
            change(graph)
        if graph.changes == before:
            break
    return graph.spec, graph.weights, graph.notes
