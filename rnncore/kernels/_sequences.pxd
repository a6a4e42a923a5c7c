# cython: language_level=3
"""The sequences of one call of a time loop, for the loops over BLAS (_blas_loop) and over packed kernels (_loop)."""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

ctypedef fused real:
    float
    double

cdef enum Merge:
    MERGE_SET
    MERGE_ADD
    MERGE_MUL
    MERGE_AVERAGE


# One call's sequences. Strides count elements; the last dimension of x and y is dense.
cdef struct Sequences:
    Py_ssize_t B
    Py_ssize_t T
    Py_ssize_t x_batch, x_time
    Py_ssize_t y_batch, y_time
    Merge merge
    bint reverse            # walk each row from its last valid step to its first
    bint flip               # store outputs in processing order of the whole sequence: at T - 1 - t
    const int64_t* order    # (B) row of x and y of each sorted row, or NULL where they are the same
    const int64_t* lengths  # (B) valid steps of each sorted row, falling, or NULL where all are T
    const int64_t* steps    # (B, T) time index of each sorted row's k-th valid step, or NULL where it is k


cdef inline Py_ssize_t steps_of(const Sequences* batch) noexcept nogil:
    """Steps of the longest row."""
    return batch.T if batch.lengths == NULL else batch.lengths[0]


cdef inline Py_ssize_t time_of(const Sequences* batch, Py_ssize_t row, Py_ssize_t step) noexcept nogil:
    """Time index that sorted row ``row`` reads at processing step ``step``."""
    if batch.reverse:
        step = (batch.lengths[row] if batch.lengths != NULL else batch.T) - 1 - step
    return batch.steps[row * batch.T + step] if batch.steps != NULL else step


cdef inline void store(const Sequences* batch, Py_ssize_t n, const real* h, real* y) noexcept nogil:
    """n outputs of one row to their place, as the batch's merge says."""
    cdef Py_ssize_t i
    if batch.merge == MERGE_SET:
        memcpy(y, h, n * sizeof(real))
    elif batch.merge == MERGE_ADD:
        for i in range(n):
            y[i] += h[i]
    elif batch.merge == MERGE_MUL:
        for i in range(n):
            y[i] *= h[i]
    else:
        for i in range(n):
            y[i] = (y[i] + h[i]) * <real> 0.5
