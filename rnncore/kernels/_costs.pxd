# cython: language_level=3, cdivision=True
"""The costs of recurrent layers, in work and memory: the numbers are in recurrent/costs.h."""

from rnncore.kernels._packing cimport CellPlan, rnncore_panels

cdef extern from "recurrent/costs.h":
    const Py_ssize_t LARGEST_NEAR
    const Py_ssize_t CHUNK_ROWS
    const Py_ssize_t FAR_CHUNK_ROWS
    const Py_ssize_t FAR_CHUNK_OF_ONE
    const Py_ssize_t LEAST_PIPELINED
    const Py_ssize_t LARGEST_TOGETHER
    const Py_ssize_t LARGEST_WAVEFRONT
    const Py_ssize_t WAVEFRONT_STEPS
    const Py_ssize_t ROWS_WORTH_SHARING
    const Py_ssize_t BLOCK_ROWS
    const double WORK_BETWEEN_SIGNALS
    const double WORK_OF_A_STEP
    const double WORK_OF_AN_ACTIVATION
    const double STEP_WORTH_SHARING
    const double WORK_OF_A_MEETING
    const double SLOWEST_MULTIPLY_ADD
    const double WORK_WITH_GIL
    const double CALL_WORTH_SHARING
    const size_t LARGEST_BETWEEN


cdef inline double work_of_row(const CellPlan* plan) noexcept nogil:
    """Multiply-adds of one step of one row."""
    return <double> plan.w_ih.panels * plan.w_ih.V * plan.isa.width * (plan.w_ih.K + plan.w_hh.K)


cdef inline double cost_of_row(const CellPlan* plan) noexcept nogil:
    """The same, and its costs besides them."""
    cdef double cost = work_of_row(plan) + WORK_OF_A_STEP
    if plan.w_n.data != NULL:
        cost += <double> plan.w_n.panels * plan.isa.width * plan.w_n.K
    if plan.step == NULL:
        cost += WORK_OF_AN_ACTIVATION * plan.cell.gates * plan.cell.hidden_size
    return cost


cdef inline Py_ssize_t weight_bytes(const CellPlan* plan, const rnncore_panels* w) noexcept nogil:
    return w.panels * w.V * plan.isa.width * w.K * <Py_ssize_t> sizeof(float)


cdef inline Py_ssize_t chunk_rows(const CellPlan* plan, Py_ssize_t B, Py_ssize_t T) noexcept nogil:
    """Rows of a chunk: whole steps, CHUNK_ROWS or the batch if that is more, and never more than there are."""
    cdef Py_ssize_t most = CHUNK_ROWS
    if weight_bytes(plan, &plan.w_ih) > LARGEST_NEAR:
        most = FAR_CHUNK_ROWS if B > 1 else FAR_CHUNK_OF_ONE
    return max(B, most) if B > 0 and T > most // B else B * T  # no product that may not fit
