# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Normalization of rows, float32, with the GIL released where it pays: see normalize.h."""

import numpy as np

cimport numpy as cnp

from rnncore.kernels._checks cimport check_dense, refuse
from rnncore.kernels._program cimport Instruction, Operand, Place, address, place_of
from rnncore.kernels._runtime cimport check_signals

cnp.import_array()


cdef extern from "normalize.h":
    void rnncore_normalize(Py_ssize_t rows, Py_ssize_t n, Py_ssize_t inner, Py_ssize_t period, int centred,
                           float epsilon, const float* x, const float* scale, const float* offset, float* y,
                           float* means, float* inverses) noexcept nogil


# Below this many numbers a call keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000

# Numbers between two looks at pending signals, as far as rows allow: some 10 milliseconds' work.
cdef Py_ssize_t NUMBERS_AT_ONCE = 1 << 23


cdef int check_vector(cnp.ndarray vector, Py_ssize_t size, str name) except -1:
    check_dense(vector, cnp.NPY_FLOAT32, cnp.PyArray_NDIM(vector), name)
    if cnp.PyArray_SIZE(vector) != size:
        refuse(f"{name}: shape {(<object> vector).shape}, expected {size} numbers")
    return 0


def normalize(cnp.ndarray x not None, Py_ssize_t n, Py_ssize_t inner, Py_ssize_t period, bint centred, float epsilon,
              cnp.ndarray scale not None, cnp.ndarray offset, bint statistics):
    """Rows of n numbers of x, which is C-contiguous like scale and offset (or None); all float32.

    period rows have all period * (n / inner) scales and offsets: see normalize.h. Returns an array of x's shape; with
    ``statistics`` also the means and inverse standard deviations, (rows). InputError where the sizes do not agree.
    """
    cdef cnp.ndarray y
    cdef Py_ssize_t rows, first = 0, many, start
    cdef const float* x_data = <const float*> cnp.PyArray_DATA(x)
    cdef const float* scales = <const float*> cnp.PyArray_DATA(scale)
    cdef const float* offsets = NULL
    cdef float* y_data
    cdef float* means = NULL
    cdef float* inverses = NULL
    cdef cnp.ndarray mean_array = None, inverse_array = None
    check_dense(x, cnp.NPY_FLOAT32, cnp.PyArray_NDIM(x), "x")
    if n < 1 or inner < 1 or period < 1 or n % inner or cnp.PyArray_SIZE(x) % n or period > cnp.PyArray_SIZE(x) // n:
        refuse(f"rows of {n} numbers, {inner} of them alike, {period} rows with numbers of their own: "
               f"x is {(<object> x).shape}")
    check_vector(scale, period * (n // inner), "scale")
    if offset is not None:
        check_vector(offset, period * (n // inner), "offset")
        offsets = <const float*> cnp.PyArray_DATA(offset)
    rows = cnp.PyArray_SIZE(x) // n
    y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.NPY_FLOAT32, 0)
    y_data = <float*> cnp.PyArray_DATA(y)
    if statistics:
        mean_array, inverse_array = np.empty(rows, np.float32), np.empty(rows, np.float32)
        means, inverses = <float*> cnp.PyArray_DATA(mean_array), <float*> cnp.PyArray_DATA(inverse_array)
    if rows * n < NUMBERS_WITH_GIL:
        rnncore_normalize(rows, n, inner, period, centred, epsilon, x_data, scales, offsets, y_data, means, inverses)
        first = rows
    while first < rows:
        # whole periods, or where one is too large a part of it
        if period <= NUMBERS_AT_ONCE // n:
            start, many = 0, NUMBERS_AT_ONCE // n // period * period
        else:
            start = first % period
            many = min(max(1, NUMBERS_AT_ONCE // n), period - start)
        many = min(many, rows - first)
        start *= n // inner
        with nogil:
            rnncore_normalize(many, n, inner, period, centred, epsilon, x_data + first * n, scales + start,
                              NULL if offsets == NULL else offsets + start, y_data + first * n,
                              NULL if means == NULL else means + first, NULL if inverses == NULL else inverses + first)
        first += many
        if first < rows:
            check_signals()
    return (y, mean_array, inverse_array) if statistics else y


cdef class Normalize(Instruction):
    """normalize without statistics, of operands: see there. scale and offset (or None) are C-contiguous, as x and y."""

    cdef Place x, y, scale, offset
    cdef Py_ssize_t rows, n, inner, period
    cdef bint centred, has_offset
    cdef float epsilon

    def __cinit__(self, Operand x not None, Operand y not None, Py_ssize_t n, Py_ssize_t inner, Py_ssize_t period,
                  bint centred, float epsilon, Operand scale not None, Operand offset=None):
        if (n < 1 or inner < 1 or period < 1 or n % inner or x.size % n or x.size == 0 or period > x.size // n
                or x.shape != y.shape or scale.size != period * (n // inner)
                or (offset is not None and offset.size != scale.size)):
            refuse(f"rows of {n} numbers, {inner} of them alike, {period} rows with numbers of their own: {x} to {y}")
        place_of(x, cnp.NPY_FLOAT32, "x", &self.x)
        place_of(y, cnp.NPY_FLOAT32, "y", &self.y)
        place_of(scale, cnp.NPY_FLOAT32, "scale", &self.scale)
        self.has_offset = offset is not None
        if offset is not None:
            place_of(offset, cnp.NPY_FLOAT32, "offset", &self.offset)
        self.rows, self.n, self.inner, self.period = x.size // n, n, inner, period
        self.centred, self.epsilon = centred, epsilon
        self.work = <double> x.size * 4

    cdef int run(self, char** slots) except -1 nogil:
        rnncore_normalize(self.rows, self.n, self.inner, self.period, self.centred, self.epsilon,
                          <const float*> address(slots, self.x), <const float*> address(slots, self.scale),
                          <const float*> address(slots, self.offset) if self.has_offset else NULL,
                          <float*> address(slots, self.y), NULL, NULL)
        return 0
