"""How fast a call could be at best: its flops at the ceiling of multiply-adds, its weights out of the nearest caches.

Calls, meetings of threads and all latencies cost nothing here, so nobody reaches a floor; what is well above it has
room.
"""

from __future__ import annotations

from ceilings import reading
from shapes import GATES, Shape

__all__ = ["floor"]

ROWS_OF_A_PRODUCT = 192  # that share one reading of the input weights

# Multiply-adds of a unit's activations: 12 for each e^x of a tanh or a sigmoid; quotients are not counted.
ACTIVATIONS = {"RNN": 12, "GRU": 36, "LSTM": 60}


def floor(shape: Shape, core: dict, threads: int) -> float | None:
    """Microseconds of one call; None where the ceilings could not be measured. core: see ceilings.measure.

    A layer is bound by its flops, or by reading its weights: the input weights once in ROWS_OF_A_PRODUCT rows, the
    recurrent weights in every step, as fast as a core reads so many bytes again and again. The input products may be
    made while the steps' weights come in. Threads share all of it evenly.
    """
    if not core:
        return None
    steps, rows = int(shape.lengths.max()), int(shape.lengths.sum())
    seconds = 0.0
    for layer in range(shape.layers):
        width = shape.I if layer == 0 else shape.H * shape.directions
        work, waiting = rows * ACTIVATIONS[shape.cell] * shape.H / threads, 0.0
        for size, readings in ((width, max(1, rows // ROWS_OF_A_PRODUCT)), (shape.H, steps)):
            weights = GATES[shape.cell] * shape.H * size / threads
            work += rows * weights
            waiting += readings * 4 * weights / (reading(core, 4 * weights) * 1e9)
        seconds += shape.directions * max(2 * work / (core["gflops"] * 1e9), waiting)
    return round(seconds * 1e6, 3)
