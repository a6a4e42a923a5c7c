"""From a cell written by hand, with one array for each gate, to a Spec and Weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.cells import CELLS, GRU, Cell
from rnncore.conventions.gates import GATE_LETTERS, split_gru_bias, stack_gates, sum_biases
from rnncore.errors import SpecError, UnsupportedError, WeightError
from rnncore.export.exported import Exported
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights

__all__ = ["from_gate_arrays"]

LAYOUTS = ("in_hidden", "hidden_in")


def from_gate_arrays(
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str = "LSTM",
    layout: str = "in_hidden",
    names: str = "W_x{gate}",
    recurrent_names: str = "W_h{gate}",
    bias_names: str | tuple[str, str] | None = "b_{gate}",
    peephole_names: str = "w_c{gate}",
    output: str = "W_hq",
    output_bias: str = "b_q",
    take: str = "sequence",
    time_first: bool = False,
    node_name: str | None = None,
    **options: Any,
) -> Exported:
    """Spec and Weights of one recurrent layer, and of a linear one after it, from separate arrays of each gate.

    arrays     by name: W_xi (I, H), W_hi (H, H), b_i (H) or (1, H), ...; layout "hidden_in" for W (H, I), as in W @ x
    kind       "LSTM" (gates i f o and g, c, j or z), "GRU" (r, z or u, and n, h, c ...) or "RNN" (h or n)
    bias_names one pattern, or two whose arrays are both added (GRU: the second one's n stays inside the reset);
               None for a cell without bias
    output     a linear layer that reads the sequence (take="sequence") or the last h (take="last"), used if there
    options    of the cell: activations, reset_after (a GRU must say), forget_bias, coupled, peephole=True, ...

    Every array must be used. There is no framework, so the result has no test pair.

    Raises WeightError naming the array: missing, ambiguous, unused, of the wrong shape.
    """
    _check_options(kind, layout, take, options)
    reader = _GateReader(arrays, kind, layout)
    biases = (bias_names,) if isinstance(bias_names, str) else tuple(bias_names or ())
    cell = _cell(reader, names, kind, bool(biases), options)
    name = node_name or kind.lower()
    weights = {
        f"{name}.{key}_l0": array for key, array in _cell_arrays(reader, cell, names, recurrent_names, biases).items()
    }
    if getattr(cell, "peephole", False):
        letters = cell.gates.replace("g", "")
        weights[f"{name}.peephole_l0"] = reader.gates(peephole_names, letters, (cell.hidden_size,))
    axes = ("T", "B") if time_first else ("B", "T")
    nodes: list[Node | Recurrent] = [Recurrent(name, cell, "x", layout="time_first" if time_first else "batch_first")]
    value = f"{name}.last" if take == "last" else name
    if output in arrays:
        dense = "output" if name != "output" else "linear"
        weights.update(_dense_arrays(reader, dense, output, output_bias, cell.hidden_size))
        rows = len(weights[f"{dense}.weight"])
        sizes = {"input_size": cell.hidden_size, "output_size": rows, "bias": f"{dense}.bias" in weights}
        nodes.append(Node(dense, "Linear", (value,), sizes))
        value = dense
    reader.check_all_used()
    states = [f"{name}.{state}" for state in cell.states]
    spec = Spec([Input("x", "float", (*axes, cell.input_size))], nodes, [value, *states])
    notes = (
        () if kind != "GRU" or options["reset_after"] or len(biases) < 2 else ("both biases of each gate are summed",)
    )
    return Exported(spec, Weights(spec, weights), None, "arrays of each gate", notes)


def _check_options(kind: str, layout: str, take: str, options: Mapping[str, Any]) -> None:
    if kind not in CELLS:
        raise SpecError(f"kind={kind!r}, expected one of {', '.join(CELLS)}")
    if layout not in LAYOUTS:
        raise SpecError(f"layout={layout!r}, expected 'in_hidden' or 'hidden_in'")
    if take not in ("sequence", "last"):
        raise SpecError(f"take={take!r}, expected 'sequence' or 'last'")
    if kind == "GRU" and "reset_after" not in options:
        raise SpecError("GRU: reset_after is missing, expected False for W (r * h) or True for r * (W h)")
    for option in ("projection", "layer_norm"):
        if options.get(option):
            raise UnsupportedError(f"{kind}: {option} from arrays of each gate, expected rnncore.Weights in its place")


class _GateReader:
    """Looks arrays up by pattern and gate, turns them to (rows, columns) and remembers which were used."""

    def __init__(self, arrays: Mapping[str, np.ndarray], kind: str, layout: str):
        self.arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self.letters, self.layout = GATE_LETTERS[kind], layout
        self.used: set[str] = set()

    def name(self, pattern: str, gate: str) -> str:
        """The one name that the pattern and the gate's letters give."""
        if "{gate}" not in pattern:
            raise SpecError(f"names {pattern!r}, expected a pattern with {{gate}}, such as 'W_x{{gate}}'")
        tried = [pattern.replace("{gate}", letter) for letter in self.letters.get(gate, gate)]
        present = [name for name in tried if name in self.arrays]
        if len(present) > 1:
            raise WeightError(f"{' and '.join(present)}: both stand for gate {gate}, expected one")
        if not present:
            known = ", ".join(self.arrays) or "none"
            raise WeightError(f"{' or '.join(tried)}: missing, expected an array for gate {gate} (there are {known})")
        return present[0]

    def matrix(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        """(outputs, inputs), whichever way it was written; shape is the one wanted."""
        array = self.arrays[name]
        expected = shape if self.layout == "hidden_in" else shape[::-1]
        if array.shape != expected:
            raise WeightError(f"{name}: shape {array.shape}, expected {expected} with layout={self.layout!r}")
        self.used.add(name)
        return array if self.layout == "hidden_in" else array.T

    def vector(self, name: str, size: int) -> np.ndarray:
        array = self.arrays[name]
        if array.shape not in ((size,), (1, size), (size, 1)):
            raise WeightError(f"{name}: shape {array.shape}, expected ({size},)")
        self.used.add(name)
        return array.reshape(size)

    def gates(self, pattern: str, letters: str, shape: tuple[int, ...]) -> np.ndarray:
        """The gates' arrays stacked by rows in the order of letters."""
        names = [self.name(pattern, letter) for letter in letters]
        read = [
            self.vector(name, *shape) if len(shape) == 1 else self.matrix(name, (shape[0], shape[1])) for name in names
        ]
        return stack_gates(read, letters, letters)

    def check_all_used(self) -> None:
        unused = [name for name in self.arrays if name not in self.used]
        if unused:
            shape = self.arrays[unused[0]].shape
            raise WeightError(
                f"{unused[0]}: shape {shape}, but nothing uses it, expected only {', '.join(sorted(self.used))}"
            )


def _cell(reader: _GateReader, pattern: str, kind: str, bias: bool, options: Mapping[str, Any]) -> Cell:
    """The cell, with its sizes from the first gate's input weight."""
    letters = CELLS[kind](1, 1, **options).gates
    name = reader.name(pattern, letters[0])
    shape = reader.arrays[name].shape
    if len(shape) != 2 or 0 in shape:
        raise WeightError(f"{name}: shape {shape}, expected two dimensions")
    inputs, hidden = shape if reader.layout == "in_hidden" else shape[::-1]
    return CELLS[kind](inputs, hidden, bias, **options)


def _cell_arrays(reader: _GateReader, cell: Cell, names: str, recurrent: str, biases: tuple[str, ...]) -> dict:
    """Canonical arrays without suffix."""
    hidden = cell.hidden_size
    matrices = {
        "weight_ih": reader.gates(names, cell.gates, (hidden, cell.input_size)),
        "weight_hh": reader.gates(recurrent, cell.gates, (hidden, hidden)),
    }
    vectors = [reader.gates(pattern, cell.gates, (hidden,)) for pattern in biases]
    if not vectors:
        return matrices
    if isinstance(cell, GRU) and cell.reset_after:
        inside = vectors[1] if len(vectors) > 1 else np.zeros_like(vectors[0])
        return {**matrices, **split_gru_bias(vectors[0], inside)}
    return {**matrices, "bias": sum_biases(*vectors)}


def _dense_arrays(reader: _GateReader, node: str, name: str, bias: str, hidden: int) -> dict[str, np.ndarray]:
    shape = reader.arrays[name].shape
    if len(shape) != 2:
        raise WeightError(f"{name}: shape {shape}, expected two dimensions")
    size = shape[1] if reader.layout == "in_hidden" else shape[0]
    arrays = {f"{node}.weight": reader.matrix(name, (size, hidden))}
    return {**arrays, f"{node}.bias": reader.vector(bias, size)} if bias in reader.arrays else arrays
