"""Packing the layers and directions of a recurrent node: for kernels in float32, for BLAS, or for a cell's own step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from rnncore.cells import Cell
from rnncore.errors import SpecError
from rnncore.graph.weights import Weights, memory_of
from rnncore.kernels import _activations, _blas_loop, _packing, _recurrent, runs_native

__all__ = ["LayerStack", "StepCell", "pack", "pack_direction", "packed_weights"]


def pack(
    node: Any, weights: Weights, dtype: np.dtype, packs: dict[tuple, Any] | None = None
) -> _recurrent.Stack | LayerStack:
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
) -> _recurrent.Stack | LayerStack:
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
        made: Any
        if not _has_kernels(cell):
            made = StepCell(cell, given, dtype)
        elif runs_native(dtype):
            made = _packing.PackedCell(cell.kind, _options(cell), arrays)
        else:
            made = _blas_loop.BlasCell(cell.kind, _options(cell), arrays, dtype.itemsize == 8)
        packs[name] = made, given  # which keeps their memory theirs
    return packs[name][0]


def _has_kernels(cell: Cell) -> bool:
    return cell.kind in _blas_loop.KINDS


def _stack(layers: list[list[Any]], reverse: bool, node: Any, dtype: np.dtype) -> _recurrent.Stack | LayerStack:
    if _has_kernels(node.cell) and runs_native(dtype):
        return _recurrent.Stack(list(layers), reverse)
    return LayerStack(layers, reverse, node.cell.output_size, dtype)


def packed_weights(node: Any, stack: _recurrent.Stack | LayerStack) -> dict[str, Callable[[], np.ndarray]]:
    """For each weight of the node that the stack can give back: its name, and what unpacks a copy of it."""
    if isinstance(stack, LayerStack):
        return {}
    places = [node.suffix(layer, direction) for layer in range(node.layers) for direction in node.directions]
    return {
        f"{node.name}.{key}{suffix}": partial(cell.unpack, key)
        for suffix, cell in zip(places, stack.cells, strict=True)
        for key in cell.packed
    }


class LayerStack:
    """As _recurrent.Stack, layer by layer and direction by direction: over BLAS, with threads of its own, or steps.

    layers  for each layer the BlasCells or StepCells of its directions, forward first
    """

    def __init__(self, layers: list[list[Any]], reverse: bool, size: int, dtype: np.dtype):
        self.layers = layers
        self.reverse = reverse
        self.size = size
        self.dtype = dtype

    def run(
        self, x, y, merge, last_merge, time_first, flip, order, lengths, steps, before, after, threads, table=None
    ) -> None:
        """See _recurrent.Stack.run; threads is not used, and there are no tables."""
        row = 0
        for cells in self.layers:
            last = cells is self.layers[-1]
            how = last_merge if last else merge
            concatenated = how == "set"
            out = y
            if not last:
                out = np.empty((*x.shape[:2], self.size * (len(cells) if concatenated else 1)), self.dtype)
            for d, cell in enumerate(cells):
                column = d * self.size if concatenated and out is not None else 0
                own = [tuple(array[row] for array in states) for states in (before, after)]
                reverse = self.reverse or d == 1
                cell.run(x, out, column, how if d else "set", time_first, reverse, flip, order, lengths, steps, *own)
                row += 1
            x = out


MERGES = {
    "set": lambda there, h: h,
    "sum": lambda there, h: there + h,
    "mul": lambda there, h: there * h,
    "average": lambda there, h: (there + h) * h.dtype.type(0.5),
}


class StepCell:
    """One direction of one layer of a cell without kernels: each step is the cell's own, in float64.

    Between steps states have the model's dtype, so that a sequence in pieces gives what the whole of it does, as far as
    the products of NumPy that the step is made of do not depend on the number of rows.
    """

    def __init__(self, cell: Cell, weights: Mapping[str, np.ndarray], dtype: np.dtype):
        self.cell, self.dtype = cell, dtype
        self.weights = {key: array.astype(np.float64) for key, array in weights.items()}
        for array in self.weights.values():
            array.flags.writeable = False
        self.sizes = tuple(cell.state_sizes.values())

    def run(self, x, y, column, merge, time_first, reverse, flip, order, lengths, steps, before, after) -> None:
        """See _blas_loop.BlasCell.run."""
        x, y = (array if array is None or not time_first else array.swapaxes(0, 1) for array in (x, y))
        batch, longest = x.shape[:2]
        order = np.arange(batch) if order is None else order
        lengths = np.full(batch, longest) if lengths is None else lengths
        states = [np.zeros((batch, size), self.dtype) for size in self.sizes]
        for state, given in zip(states, before, strict=False):
            state[...] = given[order]
        for step in range(int(lengths.max(initial=0))):
            n = int(np.searchsorted(-lengths, -step))  # rows longer than that: lengths fall
            rows, at = order[:n], lengths[:n] - 1 - step if reverse else np.full(n, step)
            at = at if steps is None else steps[np.arange(n), at]
            new = self._step(x[rows, at], [state[:n] for state in states])
            for state, array in zip(states, new, strict=True):
                state[:n] = array
            if y is not None:
                place = rows, longest - 1 - at if flip else at, slice(column, column + self.sizes[0])
                y[place] = MERGES[merge](y[place], states[0][:n])
        for state, array in zip(states, after, strict=False):
            array[order] = state

    def _step(self, x: np.ndarray, states: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        with np.errstate(all="ignore"):
            given = tuple(state.astype(np.float64) for state in states)
            new = self.cell.step(self.weights, x.astype(np.float64), given)
        shapes = [np.shape(array) for array in new] if isinstance(new, tuple) else type(new).__name__
        expected = [(len(x), size) for size in self.sizes]
        if shapes != expected:
            names = ", ".join(self.cell.states)
            raise SpecError(f"{self.cell.kind}.step gave {shapes}, expected a tuple of {names} of shapes {expected}")
        return new


def _options(cell: Cell) -> dict[str, Any]:
    """The cell's fields as the kernels take them."""
    options = {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}
    options["activations"] = [(_activations.ACTIVATION_IDS[a.name], a.alpha, a.beta) for a in cell.activations]
    options["activation_names"] = [a.name for a in cell.activations]
    options["output_size"] = cell.output_size
    options["gates"] = len(cell.gates)
    return options
