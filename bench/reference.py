"""The float64 answer for a shape, from the cells' equations: what every engine's output is held against."""

from __future__ import annotations

import numpy as np
from shapes import Shape

from rnncore.cells import CELLS
from rnncore.conventions.gates import split_gru_bias, sum_biases


def reference(shape: Shape) -> np.ndarray:
    """(B, T, H * directions), float64."""
    weights, x = shape.arrays()
    weights = {name: array.astype(np.float64) for name, array in weights.items()}
    sequence = x.astype(np.float64)
    for layer in range(shape.layers):
        outputs = []
        for suffix in [f"_l{layer}" + end for end in ("", "_reverse")[: shape.directions]]:
            cell = CELLS[shape.cell](sequence.shape[2], shape.H)
            w = {name: weights[name + suffix] for name in ("weight_ih", "weight_hh")}
            pair = weights["bias_ih" + suffix], weights["bias_hh" + suffix]
            w.update(split_gru_bias(*pair, reset_after=True) if shape.cell == "GRU" else {"bias": sum_biases(*pair)})
            state = tuple(np.zeros((shape.B, size)) for size in cell.state_sizes.values())
            y = np.empty((shape.B, shape.T, shape.H))
            for t in range(shape.T)[:: -1 if suffix.endswith("_reverse") else 1]:
                state = cell.step(w, sequence[:, t], state)
                y[:, t] = state[0]
            outputs.append(y)
        sequence = np.concatenate(outputs, axis=2)
    return sequence
