# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The largest number or the sum of windows, float32, one axis after the other, without padding: see slide.h.

Nothing is checked here; rnncore.ops.pooling checks before it calls.
"""

import numpy as np

cimport numpy as cnp

cnp.import_array()


cdef extern from "slide.h":
    ctypedef struct rnncore_windows:
        Py_ssize_t outer, n, count, inner, kernel, stride, dilation, begin
        int largest

    void rnncore_slide(const rnncore_windows* windows, const float* x, float* y) noexcept nogil


# Below so many numbers a call keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000


def slide(cnp.ndarray x not None, outputs, kernel, strides, dilations, begins, bint largest):
    """x (N, C, *spatial), float32, any layout -> (N, C, *outputs), C-contiguous.

    One number for each spatial axis: windows, their size, how far they are apart, how far their numbers are, and how
    many lie before the input. Numbers outside of the input count as -inf, or as 0 in sums (``largest`` False).
    """
    cdef rnncore_windows windows
    cdef cnp.ndarray y
    cdef cnp.npy_intp[32] dims
    cdef int D = cnp.PyArray_NDIM(x), axis, i
    x = np.ascontiguousarray(x)
    windows.largest = largest
    for i in range(D):
        dims[i] = cnp.PyArray_DIM(x, i)
    for axis in range(2, D):
        windows.outer = windows.inner = 1
        for i in range(axis):
            windows.outer *= dims[i]
        for i in range(axis + 1, D):
            windows.inner *= dims[i]
        windows.n = dims[axis]
        windows.count = dims[axis] = outputs[axis - 2]
        windows.kernel, windows.stride = kernel[axis - 2], strides[axis - 2]
        windows.dilation, windows.begin = dilations[axis - 2], begins[axis - 2]
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        if cnp.PyArray_SIZE(x) < NUMBERS_WITH_GIL:
            rnncore_slide(&windows, <const float*> cnp.PyArray_DATA(x), <float*> cnp.PyArray_DATA(y))
        else:
            with nogil:
                rnncore_slide(&windows, <const float*> cnp.PyArray_DATA(x), <float*> cnp.PyArray_DATA(y))
        x = y
    return x
