# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Normalization of rows, float32, with the GIL released where it pays: see normalize.h.

Nothing is checked here; rnncore.ops.normalization checks before it calls.
"""

import numpy as np

cimport numpy as cnp

cnp.import_array()


cdef extern from "normalize.h":
    void rnncore_normalize(Py_ssize_t rows, Py_ssize_t n, Py_ssize_t inner, Py_ssize_t period, int centred,
                           float epsilon, const float* x, const float* scale, const float* offset, float* y,
                           float* means, float* inverses) noexcept nogil


# Below so many numbers a call keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000


def normalize(cnp.ndarray x not None, Py_ssize_t n, Py_ssize_t inner, Py_ssize_t period, bint centred, float epsilon,
              cnp.ndarray scale not None, cnp.ndarray offset, bint statistics):
    """Rows of n numbers of x, which is C-contiguous like scale and offset (or None); all float32, n > 0.

    Returns an array of x's shape; with ``statistics`` also the means and inverse standard deviations, (rows).
    """
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.NPY_FLOAT32, 0)
    cdef Py_ssize_t rows = cnp.PyArray_SIZE(x) // n
    cdef const float* x_data = <const float*> cnp.PyArray_DATA(x)
    cdef const float* scales = <const float*> cnp.PyArray_DATA(scale)
    cdef const float* offsets = NULL
    cdef float* y_data = <float*> cnp.PyArray_DATA(y)
    cdef float* means = NULL
    cdef float* inverses = NULL
    cdef cnp.ndarray mean_array = None, inverse_array = None
    if offset is not None:
        offsets = <const float*> cnp.PyArray_DATA(offset)
    if statistics:
        mean_array, inverse_array = np.empty(rows, np.float32), np.empty(rows, np.float32)
        means, inverses = <float*> cnp.PyArray_DATA(mean_array), <float*> cnp.PyArray_DATA(inverse_array)
    if rows * n < NUMBERS_WITH_GIL:
        rnncore_normalize(rows, n, inner, period, centred, epsilon, x_data, scales, offsets, y_data, means, inverses)
    else:
        with nogil:
            rnncore_normalize(rows, n, inner, period, centred, epsilon, x_data, scales, offsets, y_data, means,
                              inverses)
    return (y, mean_array, inverse_array) if statistics else y
