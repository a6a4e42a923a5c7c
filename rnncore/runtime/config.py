"""The configuration of this process: instruction set, threads, versions."""

from __future__ import annotations

import os
import platform

from rnncore._version import __version__
from rnncore.kernels import _runtime, runs_native
from rnncore.runtime.threads import default_threads

__all__ = ["config", "show_config"]


def config() -> dict[str, str | int]:
    """The configuration of this process, by name.

    float32       the instruction set of the packed kernels, or "blas" (RNNCORE_ISA chooses)
    float64       always "blas": SciPy's
    usable        every instruction set that this build has and this machine can run, best first, and "blas"
    num_threads   what a Model uses unless told otherwise (RNNCORE_NUM_THREADS, OMP_NUM_THREADS, affinity, cgroup)
    """
    from importlib.metadata import version  # reads mail headers; a quarter of what importing rnncore would take

    return {
        "rnncore": __version__,
        "float32": _runtime.current_isa() if runs_native("float32") else "blas",
        "float64": "blas",
        "usable": ", ".join([*_runtime.usable_isas(), "blas"]),
        "num_threads": default_threads(),
        "cpus": os.cpu_count() or 1,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
    }


def show_config() -> None:
    """Print what this process runs, one line each."""
    entries = config()
    width = max(map(len, entries))
    for name, value in entries.items():
        print(f"{name:{width}}  {value}")
