"""A model over many rows, some at a time: what it needs in between does not grow with their number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np

from rnncore.arguments import accept_inputs, accept_lengths
from rnncore.model import Model
from rnncore.ops import OPS, attention
from rnncore.spec import Control, Node, Spec

__all__ = ["accept", "check_lengths", "run_batches"]

BATCH = "B"
ATTENTION = frozenset(op.name for op in attention.OPS)  # whole over time, but each row apart


def accept(spec: Spec, given: Mapping[str, np.ndarray], dtype: np.dtype) -> tuple[dict[str, np.ndarray], list[str]]:
    """Every given input checked and in the model's dtype, and what there is to say about casts.

    Raises InputError; lengths are checked apart, by check_lengths.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accepted = accept_inputs(spec, given, dtype)
    arrays = {name: array for name, array in accepted.items() if array is not None}
    return arrays, [str(warning.message) for warning in caught]


def check_lengths(spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """InputError for a length that is negative or too large, with its row counted from the beginning of the file."""
    sizes: dict[int | str, int] = {}
    for entry in spec.inputs:
        if entry.name in arrays:
            sizes.update(zip(entry.shape, arrays[entry.name].shape, strict=True))
    for node in spec.recurrent:
        if node.lengths in arrays:
            axes = spec.values[node.input].shape[:2]
            batch, steps = (sizes.get(axis) for axis in (axes if node.layout == "batch_first" else axes[::-1]))
            if batch is not None and steps is not None:
                accept_lengths(node.lengths, arrays[node.lengths], batch, steps)


def run_batches(
    model: Model, arrays: Mapping[str, np.ndarray], batch_size: int, progress: Callable[[int, int], None]
) -> dict[str, np.ndarray]:
    """Outputs by name for accepted inputs; ``progress`` is called with (rows done, all).

    A model that mixes rows, or has an input or output without a batch dimension "B", is run in one call.
    """
    spec = model.spec
    axes = {entry.name: entry.shape.index(BATCH) for entry in spec.inputs if BATCH in entry.shape}
    rows = next((arrays[name].shape[axis] for name, axis in axes.items() if name in arrays), 0)
    if rows <= batch_size or not _rows_are_apart(spec):
        outputs = model.run(arrays)
        progress(rows, rows)
        return outputs
    results: dict[str, np.ndarray] = {}
    for first in range(0, rows, batch_size):
        here = slice(first, min(first + batch_size, rows))
        part = {name: _rows(array, axes.get(name), here) for name, array in arrays.items()}
        for name, array in model.run(part).items():
            axis = spec.values[name].shape.index(BATCH)
            if name not in results:
                results[name] = np.empty((*array.shape[:axis], rows, *array.shape[axis + 1 :]), array.dtype)
            _rows(results[name], axis, here)[...] = array
        progress(here.stop, rows)
    return results


def _rows(array: np.ndarray, axis: int | None, rows: slice) -> np.ndarray:
    """A view of some rows; of everything where there is no batch axis."""
    return array if axis is None else array[(slice(None),) * axis + (rows,)]


def _rows_are_apart(spec: Spec) -> bool:
    """Whether every output of a row depends on that row alone, as far as the graph shows."""
    values = spec.values
    for node in spec.nodes:
        if isinstance(node, Control):
            return False
        if isinstance(node, Node) and node.inputs and node.op not in ATTENTION:
            shape = values[node.inputs[0]].shape
            if BATCH in shape:
                needs = OPS[node.op].over_time(node.attributes, len(shape), shape.index(BATCH))  # as of time's axis
                if needs != "pointwise":
                    return False
    return all(values[name].shape.count(BATCH) == 1 for name in spec.outputs)
