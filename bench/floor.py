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
    recurrent weights in every step. The first reading is as fast as a core reads the weights of the whole model again
    and again, one call after the other; the further ones are as fast as it so reads these weights alone. The input
    products may be made while the steps' weights come in. Threads share all of it evenly.
    """
    if not core:
        return None
    steps, rows = int(shape.lengths.max()), int(shape.lengths.sum())
    widths = [shape.I if layer == 0 else shape.H * shape.directions for layer in range(shape.layers)]
    of_unit = 4 * GATES[shape.cell] * shape.H / threads  # bytes of the weights of one input
    everything = shape.directions * of_unit * sum(width + shape.H for width in widths)
    nanoseconds = 0.0
    for width in widths:
        work, waiting = rows * ACTIVATIONS[shape.cell] * shape.H / threads, 0.0
        for size, readings in ((width, max(1, rows // ROWS_OF_A_PRODUCT)), (shape.H, steps)):
            weights = of_unit * size
            work += rows * weights / 4
            waiting += weights / reading(core, everything) + (readings - 1) * weights / reading(core, weights)
        nanoseconds += shape.directions * max(2 * work / core["gflops"], waiting)
    return round(nanoseconds * 1e-3, 3)
