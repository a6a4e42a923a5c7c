# cython: language_level=3
"""Weights packed for the kernels of one instruction set (recurrent/), and how they are packed."""

from rnncore.kernels._cell cimport rnncore_cell

cdef extern from "recurrent/recurrent.h":
    ctypedef struct rnncore_panels:
        const float* data
        Py_ssize_t panels, K
        int V

    ctypedef struct rnncore_rows:
        const float* base
        const Py_ssize_t* offset
        Py_ssize_t stride

    ctypedef struct rnncore_point:
        const float* bias_hn
        const float* peephole
        float clip, cell_clip, forget_bias
        int relu, coupled

    enum rnncore_rational:
        RATIONAL_SIGMOID, RATIONAL_TANH, RATIONAL_SWISH

    ctypedef void rnncore_step(const rnncore_panels* w, const rnncore_point* point, Py_ssize_t first, Py_ssize_t last,
                               int down, Py_ssize_t n, float* z, Py_ssize_t z_stride, const float* h,
                               Py_ssize_t h_stride, float* next, Py_ssize_t next_stride, float* c,
                               Py_ssize_t c_stride) noexcept nogil

    ctypedef struct rnncore_pipelined:
        const rnncore_panels* w
        const float* x
        const float* start
        float* z
        float* chain
        Py_ssize_t z_stride
        int visit

    int PIPELINED_ROWS(int V) nogil

    ctypedef void rnncore_pipelined_step(const rnncore_panels* w, const rnncore_point* point, Py_ssize_t first,
                                         Py_ssize_t last, int down, const float* z, const float* h, float* next,
                                         float* c, const rnncore_pipelined* pipelined) noexcept nogil

    ctypedef struct rnncore_isa:
        const char* name
        int width
        void (*product)(const rnncore_panels* w, Py_ssize_t first, Py_ssize_t last, Py_ssize_t n,
                        const rnncore_rows* a, const float* start, float* z, Py_ssize_t z_stride) noexcept nogil
        rnncore_step* lstm_step
        rnncore_step* lstm_plain_step
        rnncore_step* coupled_step
        rnncore_step* gru_step
        rnncore_step* gru_plain_step
        rnncore_step* reset_step
        rnncore_step* candidate_step
        rnncore_step* rnn_step
        rnncore_pipelined_step* lstm_pipelined
        rnncore_pipelined_step* lstm_plain_pipelined
        rnncore_pipelined_step* coupled_pipelined
        rnncore_pipelined_step* gru_pipelined
        rnncore_pipelined_step* gru_plain_pipelined
        rnncore_pipelined_step* rnn_pipelined
        void (*pack_pipelined)(Py_ssize_t n, int there, const float* source, Py_ssize_t stride, float* to,
                               int R) noexcept nogil
        void (*rnn_point)(const rnncore_cell* cell, float* z, float* h) noexcept nogil
        void (*lstm_point)(const rnncore_cell* cell, float* z, float* c, float* out) noexcept nogil
        void (*gru_gates)(const rnncore_cell* cell, float* z, const float* h, float* rh) noexcept nogil
        void (*gru_point)(const rnncore_cell* cell, float* z, const float* hn, float* h) noexcept nogil
        void (*clip)(Py_ssize_t n, float* x, double limit) noexcept nogil
        void (*rational)(rnncore_rational f, Py_ssize_t n, const float* x, float* y) noexcept nogil


# A packed cell: what the loop needs, without Python.
cdef struct CellPlan:
    rnncore_cell cell
    int V                   # vectors of a panel's units in z: the gates, or 1 where the cell is not fused
    rnncore_panels w_ih     # of V vectors; or of 1, V times as many panels
    int separate               # panels of w_ih to a panel of units
    rnncore_panels w_hh
    rnncore_panels w_in     # GRU, generic: W_n, whose part of z is separate
    rnncore_panels w_n      # GRU, generic or with reset before the product: R_n
    rnncore_panels w_hr     # projection
    rnncore_point point
    rnncore_step* step      # fused, or NULL
    rnncore_step* second    # GRU with reset before the product: what comes after r * h
    rnncore_pipelined_step* pipelined_step  # step of one row together with the next rows' input product, or NULL
    const float* bias       # in the order of z, padded
    const float* bias_hr    # padded
    Py_ssize_t z_stride, h_stride, c_stride
    Py_ssize_t z_n          # GRU, generic: where the n part of a row of z begins
    const rnncore_isa* isa


cdef class PackedCell:
    cdef CellPlan plan
    cdef list owned
    cdef bint has_c
    cdef pack(self, str kind, dict options, dict weights)
    cdef panels(self, rnncore_panels* target, matrix, int V)
    cdef const float* vector(self, array) except NULL
    cdef const void* optional(self, array) except? NULL
    cdef joined(self, const rnncore_panels* gates, const rnncore_panels* candidate, Py_ssize_t rows, bint separate)


# The kernels of the instruction set in use.
cdef const rnncore_isa* kernels_in_use() noexcept nogil

# n rounded up to whole panels.
cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t W)

# Matrices to panels and back, vectors to their order: see _packing.pyx.
cdef pack_panels(rnncore_panels* target, matrix, int V, list owned, bint separate=*)
cdef unpack_panels(const rnncore_panels* panels, Py_ssize_t rows, Py_ssize_t W, int separate=*)
cdef const float* aligned_copy(array, list owned) except NULL
cdef units(vector, int V, int W)
