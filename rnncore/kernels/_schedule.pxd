# cython: language_level=3
"""One call of a stack, and how its work is shared among threads."""

from libc.stdint cimport int64_t

from rnncore.kernels._sequences cimport Sequences, Merge
from rnncore.kernels._packing cimport CellPlan


# One call of a stack: every layer and direction over the same rows.
cdef struct Call:
    const CellPlan** plans      # (layers * directions)
    int layers, directions
    bint reverse            # the only direction is the reverse one
    Merge merge             # of the second direction's outputs between layers; MERGE_SET: after the first's
    Merge last_merge        # and in y
    Py_ssize_t width        # of a layer's output
    Sequences batch         # strides of x and y, lengths and order of all rows
    const float* x
    const int64_t* ids      # in place of x, with a table for each direction of the first layer
    const float* const* tables
    float* y                # NULL where the sequence is not asked for
    const float* h0         # each (layers * directions, B, size), or NULL
    const float* c0
    float* hn
    float* cn
    const int64_t* slots    # (B) row of the states of each sorted row, or NULL where they are those of x
    Py_ssize_t state_batch  # rows of the states in each layer and direction; 0 for those of x
    bint has_c
    double row_work, work   # multiply-adds of one step of one row, and of the call
    double row_cost         # the same with its costs besides them
    bint signals            # whether the call may be long enough to be interrupted
    Py_ssize_t interrupted  # set by the calling thread
    int threads
    # Rows in blocks, which threads take in turn, each with scratch of its own.
    Py_ssize_t* bounds      # (blocks + 1)
    Py_ssize_t blocks
    char* scratch
    size_t scratch_size


# Share the call among threads and do it. False where there is no memory.
cdef bint execute(Call* call) noexcept nogil
