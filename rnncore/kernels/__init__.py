"""All compiled code.

_native.pyx        the time loop over packed SIMD kernels, float32
native/            those kernels: one body, a shim for each instruction set, the threads' pool
_convolution.pyx   convolutions over packed SIMD kernels, float32
convolution/       those kernels: one body, a shim for each instruction set
_normalization.pyx  rows to mean 0 and variance 1, float32 (normalize.h)
_pooling.pyx       largest numbers and means of windows, float32
pooling/           those kernels: one body, a shim for each instruction set
_graph.pyx         walking a graph, step by step
_engine.pyx        the time loop over BLAS: float64, and float32 with RNNCORE_ISA=blas
_blas.pyx          row-major products over SciPy's cython_blas, imported at first use
_job.pxd           what both loops work on
_checks.pxd        what entries ask of their arguments; sizes that cannot wrap (native/sizes.h)
_signals.pxd       looking for signals inside a call (native/watch.h)
cell.h             what a cell does after the products
activations.h      activation functions
vectors.h          vectors of float32, for the bodies of kernels
"""

import os

import numpy as np

from rnncore.errors import InputError

__all__ = ["check_room", "runs_native"]

ROOM = 1 << 30
ROOM_BESIDE = 64


def check_room(what: str, needed: int, *beside: int) -> None:
    """InputError where a copy of ``needed`` bytes is out of all proportion to the arrays of the call, ``beside``.

    Pads, strides and dilations are numbers in a file: a few bytes of them may ask for more than any machine has.
    """
    most = max(ROOM, ROOM_BESIDE * sum(beside))
    if needed > most:
        raise InputError(f"{what} takes {needed} bytes, expected at most {most} beside arrays of {sum(beside)}")


def runs_native(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype go to the packed kernels: float32, unless RNNCORE_ISA=blas was chosen."""
    return np.dtype(dtype) == np.float32 and os.environ.get("RNNCORE_ISA") != "blas"
