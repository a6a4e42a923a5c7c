"""How frameworks pack gates and biases, as named verbs on arrays: each turns one convention into the canonical one.

Canonical (rnncore.cells): gates in rows, i f g o / r z n, one summed bias, and apart from it bias_hn of a GRU
with reset after. H is the hidden size, G the number of gates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rnncore.errors import WeightError

__all__ = ["reorder_gates", "split_gru_bias", "squeeze_batch", "sum_biases", "swap_rz", "transpose_gates"]


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


def squeeze_batch(state: np.ndarray) -> np.ndarray:
    """A trained initial state (L*D, 1, H), with a batch dimension of one, as (L*D, H). A view."""
    return state[:, 0] if state.ndim == 3 and state.shape[1] == 1 else state


def transpose_gates(kernel: np.ndarray) -> np.ndarray:
    """A kernel with gates in columns, (I, G*H), as one with gates in rows, (G*H, I). A view."""
    return kernel.T


def reorder_gates(array: np.ndarray, found: str, wanted: str) -> np.ndarray:
    """Rows (G*H, ...) that stand in the order of the letters in ``found``, put into that of ``wanted``. A new array.

    Raises WeightError if the rows are no multiple of the gates; the letters of both must be the same.
    """
    if sorted(found) != sorted(wanted):
        raise ValueError(f"gates {found!r} and {wanted!r} are not the same letters")
    if len(array) % len(found):
        raise WeightError(f"{len(array)} rows, expected a multiple of {len(found)} gates ({found})")
    return stack_gates(np.split(array, len(found)), found, wanted)


def stack_gates(blocks: Sequence[np.ndarray], found: str, wanted: str) -> np.ndarray:
    """One block (H, ...) for each letter of ``found``, stacked (G*H, ...) in the order of ``wanted``. A new array."""
    return np.concatenate([blocks[found.index(letter)] for letter in wanted])


def swap_rz(array: np.ndarray) -> np.ndarray:
    """Rows z r n (Keras and ONNX, where n is called h) as r z n, and back. A new array."""
    return reorder_gates(array, "zrn", "rzn")
