"""All compiled code.

_runtime.pyx       threads, scratch memory, signals, choice of the instruction set: once in a process, for all others
runtime/           the same in C; sizes that cannot wrap, the floating-point mode, what lets a kernel be stopped
_packing.pyx       weights of a cell, float32, packed into panels
recurrent/         kernels over panels: one body, a shim for each instruction set; costs.h: what work costs
_loop.pyx          the time loop over them: one run of one direction
_schedule.pyx      sharing a call among threads
_recurrent.pyx     calls of recurrent layers: their arguments, and the short ways
_pool.pyx          streams of a stack, whose states are kept in place
_linear.pyx        products with a packed matrix
_activations.pyx   activation functions over arrays
_convolution.pyx   convolutions, float32;  convolution/: their kernels
_pooling.pyx       largest numbers and means of windows, float32;  pooling/: their kernels
_normalization.pyx  rows to mean 0 and variance 1, float32 (normalize.h)
_graph.pyx         walking a graph, step by step
_blas_loop.pyx     the time loop over BLAS: float64, and float32 with RNNCORE_ISA=blas
_blas.pyx          row-major products over SciPy's cython_blas, imported at first use
_cell.pxd          cell.h: what a cell does after the products
_job.pxd           what both loops work on
_checks.pxd        what entries ask of their arguments
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
