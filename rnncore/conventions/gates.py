"""Frameworks' packing of gates and biases, as named verbs on arrays: each turns one convention into the canonical one.

Canonical (rnncore.cells): gates in rows, i f g o / r z n, one summed bias, and separate from it bias_hn of a GRU
with reset after. H is the hidden size, G the number of gates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.errors import SpecError, WeightError

__all__ = [
    "GATE_LAYOUTS",
    "GATE_LETTERS",
    "GATE_ORDERS",
    "gate_order",
    "halve_bias",
    "reorder_gates",
    "split_cudnn_kernel",
    "split_gru_bias",
    "split_kernel",
    "squeeze_batch",
    "sum_biases",
    "swap_rz",
    "transpose_gates",
]

# The order of gates in each framework's packed arrays, in the canonical letters.
GATE_ORDERS: dict[str, dict[str, str]] = {
    "torch": {"RNN": "n", "LSTM": "ifgo", "GRU": "rzn"},
    "keras": {"RNN": "n", "LSTM": "ifgo", "GRU": "zrn"},  # i f c o; z r h
    "onnx": {"RNN": "n", "LSTM": "iofg", "GRU": "zrn"},  # i o f c; z r h
    "openvino": {"RNN": "n", "LSTM": "figo", "GRU": "zrn"},  # f i c o; z r h
    "onednn": {"RNN": "n", "LSTM": "ifgo", "GRU": "zrn"},  # i f c o; u r o
    "coreml": {"RNN": "n", "LSTM": "ifog", "GRU": "rnz"},  # i f o z; r o z
    "tf1": {"RNN": "n", "LSTM": "igfo", "GRU": "rzn"},  # i j f o, CIFG: j f o; r u and a separate candidate
}

# Whether each of them has gates in rows (G*H, I), "gates_in", or in columns (I, G*H), "in_gates".
GATE_LAYOUTS = {
    "torch": "gates_in",
    "keras": "in_gates",
    "onnx": "gates_in",
    "openvino": "gates_in",
    "onednn": "in_gates",
    "coreml": "gates_in",
    "tf1": "in_gates",
}

# What people call the gates: the canonical letter first.
GATE_LETTERS = {"LSTM": {"g": "gcjz"}, "GRU": {"z": "zu", "n": "nhcgo"}, "RNN": {"n": "hn"}}


def gate_order(kind: str, order: str) -> str:
    """The canonical letters, in the order that a name of GATE_ORDERS or letters such as "ifco" stand for.

    Letters may leave out the gate that coupling derives. Raises SpecError for anything else.
    """
    every = GATE_ORDERS["torch"][kind]
    if isinstance(order, str) and order.lower() in GATE_ORDERS:
        return GATE_ORDERS[order.lower()][kind]
    names = {name: letter for letter in every for name in GATE_LETTERS[kind].get(letter, letter)}
    letters = "".join(names.get(name, "?") for name in order.lower()) if isinstance(order, str) else ""
    lacks = set(every) - set(letters)
    if len(set(letters)) < len(letters) or "?" in letters or not (lacks <= {"i"} or lacks <= {"f"}):
        example = {"RNN": "'h'", "LSTM": "'ifgo', 'ifco' or, with coupled gates, 'jfo'", "GRU": "'rzn' or 'urc'"}[kind]
        accepted = ", ".join(map(repr, GATE_ORDERS))
        raise SpecError(f"{kind}: order={order!r} is unknown, expected {accepted}, or the gates' letters: {example}")
    return letters


def sum_biases(*biases: np.ndarray) -> np.ndarray:
    """The sum of biases of one shape, added in float64 and rounded once, in the widest dtype given. A new array."""
    total = np.add.reduce([np.asarray(bias, np.float64) for bias in biases])
    return total.astype(np.result_type(*biases))


def split_gru_bias(bias_ih: np.ndarray, bias_hh: np.ndarray, reset_after: bool = True) -> dict[str, np.ndarray]:
    """A GRU's two biases (3H), gates r z n, as "bias" (3H) and, with reset after, "bias_hn" (H). New arrays.

    With reset after the recurrent bias of n is multiplied by r and cannot be added to the other one; with reset
    before all three gates are sums.
    """
    bias = sum_biases(bias_ih, bias_hh)
    if not reset_after:
        return {"bias": bias}
    hidden = len(bias) // 3
    bias[2 * hidden :] = bias_ih[2 * hidden :]
    return {"bias": bias, "bias_hn": np.array(bias_hh[2 * hidden :], bias.dtype)}


def halve_bias(bias: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray] | None:
    """A bias that holds the input's and the recurrent one, (2 * G*H) (CuDNN, ONNX) or (2, G*H) (Keras), as those two.

    rows is G*H; None if the shape is another one. Views.
    """
    if bias.shape not in ((2 * rows,), (2, rows)):
        return None
    first, second = bias.reshape(2, rows)
    return first, second


def split_kernel(kernel: np.ndarray, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """TF1's kernel on concat[x, h], (I+P, G*H), as those of x, (I, G*H), and of h, (P, G*H). Views."""
    return kernel[: len(kernel) - outputs], kernel[len(kernel) - outputs :]


def split_cudnn_kernel(kernel: np.ndarray, recurrent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kernels (I, G*H) and (H, G*H) of Keras 2's CuDNNLSTM or CuDNNGRU as those of its LSTM or GRU. New arrays.

    CuDNN keeps each gate's matrix transposed: the file's kernel holds those numbers in an array of the untransposed
    shape, the recurrent kernel, which is square, is simply transposed.
    """
    gates = recurrent.shape[1] // len(recurrent)
    turned = [gate.T.reshape(gate.shape, order="F") for gate in np.split(kernel, gates, axis=1)]
    return np.hstack(turned), np.hstack([gate.T for gate in np.split(recurrent, gates, axis=1)])


def squeeze_batch(state: np.ndarray) -> np.ndarray:
    """A trained initial state (L*D, 1, H), with a batch dimension of one, as (L*D, H). A view."""
    return state[:, 0] if state.ndim == 3 and state.shape[1] == 1 else state


def transpose_gates(kernel: np.ndarray) -> np.ndarray:
    """A kernel with gates in columns, (I, G*H), as one with gates in rows, (G*H, I). A view."""
    return kernel.T


def reorder_gates(array: np.ndarray, order: str, wanted: str) -> np.ndarray:
    """Rows (G*H, ...) in the order of the letters in ``order``, put into that of ``wanted``. A new array.

    Raises WeightError if the rows are no multiple of the gates; the letters of both must be the same.
    """
    if sorted(order) != sorted(wanted):
        raise ValueError(f"gates {order!r} and {wanted!r} are not the same letters")
    if len(array) % len(order):
        raise WeightError(f"{len(array)} rows, expected a multiple of {len(order)} gates ({order})")
    return stack_gates(np.split(array, len(order)), order, wanted)


def stack_gates(blocks: Sequence[np.ndarray], order: str, wanted: str) -> np.ndarray:
    """One block (H, ...) for each letter of ``order``, stacked (G*H, ...) in the order of ``wanted``. A new array."""
    return np.concatenate([blocks[order.index(letter)] for letter in wanted])


def swap_rz(array: np.ndarray) -> np.ndarray:
    """Rows z r n (Keras and ONNX, where n is called h) as r z n, and back. A new array."""
    return reorder_gates(array, GATE_ORDERS["keras"]["GRU"], "rzn")
