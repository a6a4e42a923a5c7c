"""Packing the layers and directions of a recurrent node for the kernels: native for float32, BLAS for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rnncore.cells import Cell
from rnncore.kernels import _activations, _blas_loop, _packing, _recurrent, runs_native
from rnncore.weights import Weights, memory_of

__all__ = ["BlasStack", "pack", "pack_direction", "packed_weights"]


def pack(
    node: Any, weights: Weights, dtype: np.dtype, packs: dict[tuple, Any] | None = None
) -> _recurrent.Stack | BlasStack:
    """The stack of a Recurrent node (or of another with layers, directions, layer_cell and suffix).

    packs: what other nodes of the model packed, by the memory of the arrays, and these arrays; it is added to.
    """
    layers = [
        [_cell(node, weights, dtype, layer, direction, packs) for direction in node.directions]
        for layer in range(node.layers)
    ]
    return _stack(layers, node.directions == ("reverse",), node, dtype)


def pack_direction(
    node: Any, weights: Weights, dtype: np.dtype, layer: int, direction: str
) -> _recurrent.Stack | BlasStack:
    """One layer and direction of such a node, as a stack of its own."""
    return _stack([[_cell(node, weights, dtype, layer, direction)]], direction == "reverse", node, dtype)


def _cell(
    node: Any, weights: Weights, dtype: np.dtype, layer: int, direction: str, packs: dict[tuple, Any] | None = None
) -> Any:
    cell, suffix = node.layer_cell(layer, direction), node.suffix(layer, direction)
    given = {key: weights[f"{node.name}.{key}{suffix}"] for key in cell.weight_shapes()}
    packs = {} if packs is None else packs
    name = (cell, *map(memory_of, given.values()))
    if name not in packs:
        arrays = {key: array.astype(dtype, copy=False) for key, array in given.items()}
        if runs_native(dtype):
            made = _packing.PackedCell(cell.kind, _options(cell), arrays)
        else:
            made = _blas_loop.BlasCell(cell.kind, _options(cell), arrays, dtype.itemsize == 8)
        packs[name] = made, given  # which keeps their memory theirs
    return packs[name][0]


def _stack(layers: list[list[Any]], reverse: bool, node: Any, dtype: np.dtype) -> _recurrent.Stack | BlasStack:
    if runs_native(dtype):
        return _recurrent.Stack(layers, reverse)
    return BlasStack(layers, reverse, node.cell.output_size, dtype)


def packed_weights(node: Any, stack: _recurrent.Stack | BlasStack) -> dict[str, Callable[[], np.ndarray]]:
    """For each weight of the node that the stack can give back: its name, and what unpacks a copy of it."""
    if isinstance(stack, BlasStack):
        return {}
    places = [node.suffix(layer, direction) for layer in range(node.layers) for direction in node.directions]
    return {
        f"{node.name}.{key}{suffix}": partial(cell.unpack, key)
        for suffix, cell in zip(places, stack.cells, strict=True)
        for key in cell.packed
    }


class BlasStack:
    """As _recurrent.Stack, layer by layer and direction by direction over BLAS, which has threads of its own."""

    def __init__(self, layers: list[list[_blas_loop.BlasCell]], reverse: bool, size: int, dtype: np.dtype):
        self.layers = layers
        self.reverse = reverse
        self.size = size
        self.dtype = dtype

    def run(
        self, x, y, merge, last_merge, time_first, flip, order, lengths, steps, h0, c0, hn, cn, threads, table=None
    ) -> None:
        """See _recurrent.Stack.run; threads is not used, and there are no tables."""
        row = 0
        for cells in self.layers:
            last = cells is self.layers[-1]
            how = last_merge if last else merge
            beside = how == "set"
            out = y
            if not last:
                out = np.empty((*x.shape[:2], self.size * (len(cells) if beside else 1)), self.dtype)
            for d, cell in enumerate(cells):
                column = d * self.size if beside and out is not None else 0
                states = [None if array is None else array[row] for array in (h0, c0, hn, cn)]
                reverse = self.reverse or d == 1
                cell.run(x, out, column, how if d else "set", time_first, reverse, flip, order, lengths, steps, *states)
                row += 1
            x = out


def _options(cell: Cell) -> dict[str, Any]:
    """The cell's fields as the kernels take them."""
    found = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    found["activations"] = [(_activations.ACTIVATION_IDS[a.name], a.alpha, a.beta) for a in cell.activations]
    found["activation_names"] = [a.name for a in cell.activations]
    found["output_size"] = cell.output_size
    found["gates"] = len(cell.gates)
    return found
