# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Pooling over windows, float32, GIL released: see pooling/pooling.h.

Nothing is checked here; rnncore.ops.pooling checks before it calls.
"""

import numpy as np

cimport numpy as cnp

from rnncore.kernels import _native

cnp.import_array()


cdef extern from "pooling/pooling.h":
    ctypedef struct rnncore_window:
        Py_ssize_t n, count, kernel, stride, dilation, begin

    ctypedef struct rnncore_pooling:
        int axes, largest
        rnncore_window axis[32]
        const float* divisors

    ctypedef struct rnncore_pooling_isa:
        const char* name
        int width
        Py_ssize_t (*room)(const rnncore_pooling* pooling) noexcept nogil
        void (*pool)(const rnncore_pooling* pooling, Py_ssize_t images, const float* x, float* y,
                     float* room) noexcept nogil

    const rnncore_pooling_isa** rnncore_pooling_isas

cdef extern from "native/scratch.h":
    void* rnncore_scratch(size_t size) nogil


# Below so many numbers a call keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000


cdef const rnncore_pooling_isa* current_isa() except NULL:
    """The table for the instruction set that _native uses."""
    cdef int i = 0
    name = _native.current_isa().encode()
    while rnncore_pooling_isas[i] != NULL:
        if <bytes> rnncore_pooling_isas[i].name == name:
            return rnncore_pooling_isas[i]
        i += 1
    raise RuntimeError(f"no pooling kernels for {name.decode()}")


cdef class Pooling:
    """The largest number, the sum or the mean of windows over images of one size, (N, C, *sizes), float32.

    sizes, outputs ...  one number, not 0, for each spatial axis: numbers, windows, their size, how far they are apart,
                        how far their numbers are, and how many lie before the image. Those outside of it count as
                        -inf, or as 0 in sums
    largest   the largest number, else the sum
    divisors  what sums are divided by, one for each window, in an array of their shape; or None

    Immutable: any number of threads may call it.
    """

    cdef const rnncore_pooling_isa* isa
    cdef rnncore_pooling pooling
    cdef object divisors
    cdef tuple outputs
    cdef Py_ssize_t room

    def __cinit__(self, sizes, outputs, kernel, strides, dilations, begins, bint largest, divisors):
        cdef rnncore_window* window
        self.isa = current_isa()
        self.outputs = tuple(outputs)
        self.pooling.largest = largest
        windows = list(zip(sizes, outputs, kernel, strides, dilations, begins))
        if len(windows) == 1:
            windows.insert(0, (1, 1, 1, 1, 1, 0))
        self.pooling.axes = len(windows)
        for axis, found in enumerate(windows):
            window = &self.pooling.axis[<int> axis]
            window.n, window.count, window.kernel, window.stride, window.dilation, window.begin = found
            if window.count == 1:
                window.stride = 1
        self.pooling.divisors = NULL
        if divisors is not None:
            self.divisors = np.ones(divisors.size + self.isa.width, np.float32)
            self.divisors[:divisors.size] = divisors.reshape(-1)
            self.pooling.divisors = <const float*> cnp.PyArray_DATA(self.divisors)
        self.room = self.isa.room(&self.pooling)

    def __call__(self, cnp.ndarray x not None):
        """x, copied if it is not C-contiguous -> (N, C, *outputs)."""
        cdef cnp.ndarray dense = np.ascontiguousarray(x) if not cnp.PyArray_ISCARRAY_RO(x) else x
        cdef cnp.npy_intp[32] dims
        cdef int D = cnp.PyArray_NDIM(x), axis
        cdef cnp.ndarray y
        cdef Py_ssize_t images
        cdef float* room
        dims[0], dims[1] = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
        for axis in range(2, D):
            dims[axis] = self.outputs[axis - 2]
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        images = dims[0] * dims[1]
        if cnp.PyArray_SIZE(y) == 0:
            return y
        room = <float*> rnncore_scratch(self.room * sizeof(float))
        if room == NULL:
            raise MemoryError(f"no memory for pooling images {(<object> x).shape}")
        if cnp.PyArray_SIZE(x) < NUMBERS_WITH_GIL:
            self.isa.pool(&self.pooling, images, <const float*> cnp.PyArray_DATA(dense),
                          <float*> cnp.PyArray_DATA(y), room)
        else:
            with nogil:
                self.isa.pool(&self.pooling, images, <const float*> cnp.PyArray_DATA(dense),
                              <float*> cnp.PyArray_DATA(y), room)
        return y
