# cython: language_level=3, cdivision=True
"""The time loop over packed kernels: what a run of one direction is, and the memory it takes."""

from libc.stdint cimport int64_t

from rnncore.kernels._checks cimport plus, times
from rnncore.kernels._costs cimport chunk_rows
from rnncore.kernels._sequences cimport Sequences
from rnncore.kernels._packing cimport PIPELINED_ROWS, CellPlan, rnncore_rows
from rnncore.kernels._runtime cimport rnncore_barrier


# One direction of one layer over a block of rows: what its threads need to know, and where they meet.
cdef struct Run:
    const CellPlan* plan
    const Sequences* batch
    const float* x
    float* y
    const int64_t* ids      # in place of x: rows of the table; the batch's x strides are theirs
    const float* table      # (ids, z_stride): the input product of each id, bias included
    const int64_t* x_order  # (B): row of x of each sorted row, or NULL where they are the same
    const int64_t* y_order  # the same for y
    const int64_t* slots    # the same for h0, c0, hn and cn, where they have more rows than x; NULL: the batch's order
    const float* h0
    const float* c0
    float* hn
    float* cn
    float* h            # (2, B, P padded): the outputs of two steps in turn
    float* c            # (B, H padded)
    float* out          # (B, H padded): before the projection, or r * h
    float* z            # (rows_max, z_stride), or where products are pipelined (3 * PIPELINED_ROWS, z_stride)
    float* x_pipelined      # (2, input size, PIPELINED_ROWS): inputs of two chunks in turn
    Py_ssize_t* offsets  # (rows_max): rows of x in the chunk
    Py_ssize_t rows_max
    rnncore_barrier* barrier
    Py_ssize_t* interrupted  # set where a signal handler raised: the call's remaining runs are left out
    # The step after which all threads of this run leave: written before they meet, so that a thread that is still
    # late goes on to that meeting.
    Py_ssize_t stop
    bint signals        # whether to look for signals at all: only where a call may be long
    double work         # since the last look
    # Where layers run in a wavefront: steps of x that are done, and of y; each NULL if nothing waits.
    const Py_ssize_t* ready
    Py_ssize_t* done


cdef inline void share(Py_ssize_t count, int index, int threads, Py_ssize_t* first, Py_ssize_t* last) noexcept nogil:
    """The index-th of ``threads`` nearly equal parts of range(count)."""
    first[0] = count * index // threads
    last[0] = count * (index + 1) // threads


cdef inline Py_ssize_t unit_panels(const CellPlan* plan) noexcept nogil:
    """Panels of units, whose vectors may have panels of their own in w_ih."""
    return plan.w_ih.panels // plan.separate


cdef inline size_t line(size_t floats) noexcept nogil:
    """Bytes of n floats, rounded up to whole cache lines; of more than fit, what no allocation gives."""
    return plus(times(floats, sizeof(float)), 63) & ~<size_t> 63


# All steps of a run, by one of ``threads`` threads that share its panels.
cdef void time_loop(Run* run, int index, int threads) noexcept nogil

# W x + b of n rows, units' panels first..last-1 (all of them where the cell is not fused), in the order of z.
cdef void input_product(const CellPlan* plan, const rnncore_rows* x, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                        float* z) noexcept nogil


cdef inline size_t scratch_size(const CellPlan* plan, Py_ssize_t B, Py_ssize_t rows, bint has_c) noexcept nogil:
    """Bytes of a run's scratch for B rows and chunks of ``rows``."""
    cdef Py_ssize_t pipelined = PIPELINED_ROWS(plan.V)
    cdef size_t size = plus(line(times(times(2, B), plan.h_stride)),
                            times(2 if has_c else 1, line(times(B, plan.c_stride))))
    size = plus(plus(size, line(times(rows, plan.z_stride))), line(times(2, rows)))
    if B == 1 and plan.pipelined_step != NULL:
        size = plus(plus(size, line(3 * pipelined * plan.z_stride)), line(2 * pipelined * plan.w_ih.K))
    return size


cdef inline void assign_scratch(Run* run, Py_ssize_t B, bint has_c, char* memory) noexcept nogil:
    """Give a run of B rows its places in scratch of scratch_size bytes."""
    cdef const CellPlan* plan = run.plan
    cdef Py_ssize_t rows = chunk_rows(plan, B, run.batch.T)
    run.rows_max = rows
    run.h = <float*> memory
    memory += line(2 * B * plan.h_stride)
    run.out = <float*> memory
    memory += line(B * plan.c_stride)
    run.c = NULL
    if has_c:
        run.c = <float*> memory
        memory += line(B * plan.c_stride)
    run.offsets = <Py_ssize_t*> memory
    memory += line(2 * rows)
    if B == 1 and plan.pipelined_step != NULL:
        run.x_pipelined = <float*> memory
        memory += line(2 * PIPELINED_ROWS(plan.V) * plan.w_ih.K)
    run.z = <float*> memory
