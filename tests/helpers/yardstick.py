"""How much slower this machine is, now, than the one whose seconds the limits in tests are.

    model = within(2.0, lambda: load(path))

The yardstick is a fixed piece of work like that of the readers and the graph passes: Python objects, bytes, and NumPy
on small and on large arrays. Limits are in seconds of a machine that takes NORMAL for it; here they are multiplied by
what the yardstick takes here. It is CPU time of the calling thread, so that neither other programs nor the threads of a
BLAS count; where a limit must be on the clock of the wall (``slowness(wall=True)``), the yardstick is too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["slowness", "within"]

NORMAL = 0.016
"""Seconds of the yardstick on the machine that limits are for: about a core of a server of 2023, one program on it."""


def work() -> int:
    """The fixed piece of work."""
    names, total = {}, 0
    for i in range(20_000):
        names[f"node_{i}"] = (i, [i], i.to_bytes(8, "little"))
        total += len(names[f"node_{i // 2}"][2])
    array = np.arange(250_000, dtype=np.float32)
    for _ in range(4):
        total += int((array * 2 + 1).astype(np.float64).sum() > 0)
    for i in range(1_500):
        total += int(np.multiply(array[i : i + 16], 2).sum() > 0)
    return total


def slowness(wall: bool = False) -> float:
    """At least 1: how many times NORMAL the yardstick takes at the moment, the quickest of three times."""
    clock = time.perf_counter if wall else time.thread_time
    best = float("inf")
    for _ in range(3):
        start = clock()
        work()
        best = min(best, clock() - start)
    return max(1.0, best / NORMAL)


def within(seconds: float, call: Callable[[], Any], tries: int = 3) -> Any:
    """The result of call(), which takes at most ``seconds`` of a normal machine; AssertionError otherwise.

    One that is late is called again, ``tries`` times in all, and so is the yardstick: what else a machine does may
    slow down either.
    """
    for _ in range(tries):
        start = time.thread_time()
        result = call()
        taken = time.thread_time() - start
        if taken < seconds:  # as on a normal machine: no need to measure
            return result
        limit = seconds * slowness()
        if taken < limit:
            return result
    raise AssertionError(f"{taken:.2f} s, expected less than {limit:.2f}: {seconds} of a normal machine")
