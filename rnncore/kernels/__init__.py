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
_quantized.pyx     products of 8-bit integers, and DynamicQuantizeLSTM;  quantized/: their kernels
_normalization.pyx  rows to mean 0 and variance 1, float32 (normalize.h)
_graph.pyx         walking a graph, step by step
_program.pyx       bound programs: instructions over slots of memory, without Python
_blas_loop.pyx     the time loop over BLAS: float64, and float32 with RNNCORE_ISA=blas
_blas.pyx          row-major products over SciPy's cython_blas, imported at first use
_cell.pxd          cell.h: what a cell does after the products
_sequences.pxd     what both loops work on
_checks.pxd        what entries ask of their arguments
activations.h      activation functions
rational_body.h    sigmoid and tanh as quotients of polynomials, for the bodies of kernels
vectors.h          vectors of float32, for the bodies of kernels

Decisions

- Rows are sorted by length inside the engine, so that rows still running are always the first n: work is the sum of
  the lengths, padding is never read, and a reverse direction starts at each row's own end.
- Two paths. float32 runs on packed kernels of our own; float64, and float32 with `RNNCORE_ISA=blas`, on SciPy's
  BLAS. Both are the same loop over the same rows; tests run on both and on every instruction set.
- Exact by construction. In the packed kernels each output is the same chains of multiply-adds over k in rising
  order, whatever the batch, the tile, the panels worked on together or the number of threads, so a row's bits depend on
  nothing but the row. Sums beyond 256 terms are made of several chains, which keeps the error of large layers
  small.
- Fused where it is common, generic where it is rare. LSTM (with peepholes, coupled gates, clips, projection), GRU
  and RNN finish a panel's units while their pre-activations are in registers, with one division for each product of
  a sigmoid and a tanh; a GRU that resets before the product walks over its panels twice. Other options (layer norm,
  other activations) take plain panels and cell.h, in the same compiled loop.
- Convolutions have no array of patches. An image gets zeros around it, parted by phase where a stride is not 1, and
  then every term of the sums is a shift of it. Many positions go into the lanes, tile by tile; where there are few
  (short sequences) the outputs do. Each sum is the same chains in both, so the bits do not tell which it was.
- A tile is a function of its own, for each number of rows and panels: in one large function the compiler kept loop
  bounds and constants on the stack, which cost 3 to 15 %. Steps of cells without rare options have a form that does
  not ask for them. On CPUs whose 512-bit units are half as wide (Zen 4) a single row takes one panel at a time:
  four chains hide the latency there, and turning round in smaller groups finds more of the weights in the first
  cache.
- The input product of a single row is pipelined with its steps. Such a step waits for the cache its weights come
  from while its multiply-adds have little to do; the input product is the other way round. One loop does both:
  while 8 rows are stepped through, the product of the next 8 is made, a part at each visit of a panel
  (`recurrent/pipelined_body.h`). 9 to 17 % less time from 64 to 512 units of LSTM or GRU; more time where the recurrent
  weights of all threads together are more than the near part of the last cache gives quickly, where it is switched
  off.
- Input weights larger than a core's own cache are stored vector by vector where input products are pipelined: a
  visit takes one vector of a panel, and of lines interleaved with those of the other gates the last cache sends all
  four. With a prefetch 8 inputs ahead, steps of 384 to 600 units take 5 to 16 % less time (medians, on a host whose
  other guests use that cache too), and pipelined input products pay up to 6 MiB of recurrent weights, not 4.5.
  Smaller weights stay one stream a panel: from the second cache it makes no difference, and calls of one step are 2
  to 5 % quicker.
- Sums of 8-bit integers are exact on every CPU. Without VNNI the quick instruction, which multiplies bytes and adds two
  products in int16, saturates. It cannot where the two activations are small: their zero point is taken off first, and
  the weights are made unsigned by an offset, which a sum over the row takes off again. A quad of larger activations is
  the sum of several such quads, one in 20 of bell-shaped ones: three instructions for 32 products, as ONNX Runtime has
  them, whose sums are wrong there. Weights of 7 bits allow for activations twice as large. Splitting each activation
  into nibbles, to add 8 quads in int16, took 4.5 instructions and 1.3 times the time; taking small quads two by two
  made sums out of order of the weights, and steps of 512 units slower.
- DynamicQuantizeLSTM's time loop has the bits of its form in NumPy (`ops/quantized.py`), which is what float64 runs on:
  one bit could become a whole step of 1/255 in the next state. So it is built without contraction of a * b + c.
- Activations are computed for two rows at a time, operation by operation (`recurrent/units_body.h`): alone, each
  vector waits for its own result, and the next row's operations begin too late for out-of-order execution to reach
  them. 2 to 15 % of a step of several rows; nothing for one row, whose activations overlap with loading the next
  panel's weights.
- Layers run in parallel where their recurrent weights fit a core's cache and sharing panels would mean a barrier
  for too little work: each thread takes a layer and runs a few steps after the previous one. No barrier, only a
  count of steps.
- Threads share a call by blocks of rows, by directions, by layers or by panels, as the work says; a pool of our own
  spins briefly and sleeps, one in a process. A call that finds the pool busy, or the cores crowded, does its work
  alone: the bits are the same. C code that several modules link would bring a pool along with each; so only
  `_runtime` links it, and C kernels get what they need of it as arguments.
- Subnormal numbers count as zero inside a float32 call; the mode is the caller's again afterwards. Sigmoid and tanh
  of the fused cells are within 2 ulp over all float32 whose result is a normal number.
- Compiled code checks at its entries, and nowhere else. An entry (a function, or the constructor of what is called
  later) asks for types, ranks, sizes, orders and indices with `_checks.pxd`, which costs nanoseconds, and hands
  numbers on; what a Pooling, a Plan, a Stack or a Direct holds was checked when it was made. Sizes of memory are
  products that cannot wrap (`runtime/sizes.h`): of more than fits there is no allocation. A table of all entries is
  a test.
- What a file's numbers ask for is counted before it is made. A convolution's plan knows its padded image from a few
  integers for each axis (`Layout`), and refuses one out of all proportion to the arrays; pooling leaves out the
  places of a window that meet nothing but padding (`Window.met`), of which there may be 2^31.
- Signals are looked for every few milliseconds of work, which kernels count. Long calls of NumPy are made in parts,
  along axes that an op does not look along (`ops/blocks.py`), with the same bits. One sort, transform or
  decomposition of a single long row stays one call.
- gcc's -fwrapv, which CPython's build flags bring along, is switched off: it halves the speed of the kernels.
- The input product is made in chunks of time steps that stay in cache; there is no (B, T, G*H) array. Chunks are of
  48 rows; of 192, or 96 of a single row, where the input weights come from far away: 3 to 10 % less time from 1,024
  units on.
- A plain call is answered before Python's method is (`call_direct_first`): the class's slot for calls asks the
  compiled short way first, and calls `Model.__call__` for everything else. A step of 32 units takes 0.7 us, not
  0.94.
- BLAS is loaded at first use: importing `scipy.linalg` takes 100 ms.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from rnncore.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["check_memory", "runs_native"]

MEMORY = 1 << 30
MEMORY_PER_BYTE = 64


def check_memory(what: str, needed: int, *sizes: int) -> None:
    """Raise InputError if ``needed`` bytes are out of all proportion to the call's arrays, of ``sizes`` bytes.

    Pads, strides and dilations are numbers in a file: a few bytes of them may ask for more than any machine has.
    """
    most = max(MEMORY, MEMORY_PER_BYTE * sum(sizes))
    if needed > most:
        raise InputError(f"{what} takes {needed} bytes, expected at most {most} with arrays of {sum(sizes)}")


def runs_native(dtype: DTypeLike) -> bool:
    """Whether arrays of this dtype go to the packed kernels: float32, unless RNNCORE_ISA=blas was chosen."""
    return np.dtype(dtype) == np.float32 and os.environ.get("RNNCORE_ISA") != "blas"
