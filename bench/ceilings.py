"""The machine's ceilings, measured in the same run as the race they stand beside."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import tempfile
from pathlib import Path

__all__ = ["LEVELS", "ceiling_of", "levels", "measure", "reading"]


def _caches() -> tuple[tuple[str, int], ...]:
    """("L1", bytes), ("L2", bytes), ("L3", bytes) of this machine's data caches, as Linux names them."""
    found = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size.endswith("K"):
            found[f"L{level}"] = int(size[:-1]) << 10
    return tuple(found.items())


LEVELS = _caches()


def measure(cores: int) -> dict:
    """What each core can do while so many are busy; empty where there is no compiler.

    "gflops": GFLOP/s; "reading": [[bytes, GB/s], ...] of reading so many bytes, a core's own, again and again.
    """
    source = Path(__file__).with_suffix(".c")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "ceilings"
        command = ["gcc", "-O3", "-march=native", "-std=gnu11", "-Wall", str(source), "-o", str(program), "-lpthread"]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError):
            return {}
        return json.loads(subprocess.run([program, str(cores)], check=True, capture_output=True, text=True).stdout)


def reading(measured: dict, size: float) -> float:
    """GB/s of reading ``size`` bytes again and again."""
    points = measured["reading"]
    for (before, slow), (after, fast) in itertools.pairwise(points):
        if size <= after:
            part = max(0.0, math.log(size / before) / math.log(after / before))
            return slow * (fast / slow) ** part
    return points[-1][1]


def levels(measured: dict) -> dict[str, float]:
    """GB/s out of each cache level: of reading half of what it holds; "DRAM": of the most that was read."""
    found = {name: round(reading(measured, size / 2), 1) for name, size in LEVELS}
    return found | {"DRAM": measured["reading"][-1][1]}


def ceiling_of(weight_bytes: int) -> str:
    """The level that holds weights of this size."""
    return next((name for name, size in LEVELS if weight_bytes <= size), "DRAM")
