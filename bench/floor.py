"""How fast a call could be at best: its flops at the ceiling of multiply-adds, its weights out of the nearest caches.

Activations, calls and meetings of threads cost nothing here, so nobody reaches a floor; what is well above it has room.
"""

from __future__ import annotations

from ceilings import LEVELS
from shapes import GATES, Shape

__all__ = ["floor"]

ROWS_OF_A_PRODUCT = 48  # that share one reading of the input weights


def floor(shape: Shape, ceilings: dict[str, float], threads: int) -> float | None:
    """Microseconds of one call; None where the ceilings could not be measured.

    A layer is bound by its flops, or by reading its weights: the input weights once in ROWS_OF_A_PRODUCT rows, the
    recurrent weights in every step, of which each core keeps the part that fits in each of its caches and reads the
    rest from the next one. The input products may be made while the steps' weights come in. Threads share all of it
    evenly.
    """
    if not ceilings:
        return None
    steps, rows = int(shape.lengths.max()), int(shape.lengths.sum())
    seconds = 0.0
    for layer in range(shape.layers):
        width = shape.I if layer == 0 else shape.H * shape.directions
        flops = reading = 0.0
        for size, readings in ((width, max(1, rows // ROWS_OF_A_PRODUCT)), (shape.H, steps)):
            weights = GATES[shape.cell] * shape.H * size / threads
            flops += 2 * weights * rows / (ceilings["gflops"] * 1e9)
            reading += readings * _reading(4 * weights, ceilings)
        seconds += shape.directions * max(flops, reading)
    return round(seconds * 1e6, 3)


def _reading(size: float, ceilings: dict[str, float]) -> float:
    """Seconds to read so many bytes again and again, back and forth: each cache holds what it can."""
    seconds, nearer = 0.0, 0.0
    for level, capacity in (*LEVELS, ("DRAM", float("inf"))):
        part = min(size, capacity) - nearer
        if part <= 0:
            break
        seconds += part / (ceilings[level] * 1e9)
        nearer = capacity
    return seconds
