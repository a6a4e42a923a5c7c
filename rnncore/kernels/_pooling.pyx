# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Pooling over windows, float32, GIL released: see pooling/pooling.h."""

import math

import numpy as np

cimport numpy as cnp

from rnncore.kernels._checks cimport MAX_RANK, as_dense, checked_sizes, refuse, times
from rnncore.kernels._runtime cimport handler_raised, isa_number, raise_handled, rnncore_watch, scratch_memory

from rnncore.kernels import check_memory

cnp.import_array()


cdef extern from "pooling/pooling.h":
    ctypedef struct rnncore_window:
        Py_ssize_t n, count, kernel, stride, dilation, begin

    enum:
        RNNCORE_POOLING_AXES

    ctypedef struct rnncore_pooling:
        int axes, largest
        rnncore_window axis[RNNCORE_POOLING_AXES]
        const float* divisors

    ctypedef struct rnncore_pooling_isa:
        const char* name
        int width
        Py_ssize_t (*scratch_size)(const rnncore_pooling* pooling) noexcept nogil
        void (*pool)(const rnncore_pooling* pooling, Py_ssize_t images, const float* x, float* y, float* scratch,
                     rnncore_watch* watch) noexcept nogil

    const rnncore_pooling_isa** rnncore_pooling_isas


# Below this many numbers a call keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000

# Numbers that windows cover between two looks at pending signals: some 10 milliseconds' work.
cdef double WORK_BETWEEN_SIGNALS = 2e7

# Numbers of one image, of its windows, or of what windows reach: beyond any memory, and few enough for all that is
# computed of them.
LARGEST = 1 << 48


cdef class Pooling:
    """The largest number, the sum or the mean of windows over images of one size, (N, C, *sizes), float32.

    sizes, outputs ...  one number, not 0, for each spatial axis: numbers, windows, their size, how far they are apart,
                        how far their numbers are, and how many (or none) are before the image. Those outside of it
                        count as -inf, or as 0 in sums
    largest   the largest number, else the sum
    divisors  what sums are divided by, one for each window, in an array of their shape; or None

    InputError where one of them is something else, or together they take more than memory can hold. Immutable: any
    number of threads may call it.
    """

    cdef const rnncore_pooling_isa* isa
    cdef rnncore_pooling pooling
    cdef object divisors
    cdef tuple sizes, outputs
    cdef Py_ssize_t scratch_size

    def __cinit__(self, sizes, outputs, kernel, strides, dilations, begins, bint largest, divisors):
        cdef rnncore_window* window
        cdef Py_ssize_t axes = len(sizes)
        if not 1 <= axes <= MAX_RANK - 2:
            refuse(f"images of {axes} axes, expected 1 to {MAX_RANK - 2}")
        self.isa = rnncore_pooling_isas[isa_number()]
        self.sizes = checked_sizes(sizes, "sizes", axes)
        self.outputs = checked_sizes(outputs, "outputs", axes)
        windows = list(zip(
            self.sizes, self.outputs, checked_sizes(kernel, "kernel_shape", axes),
            checked_sizes(strides, "strides", axes), checked_sizes(dilations, "dilations", axes),
            checked_sizes(begins, "pads", axes, 0)))
        self.check_reach(windows)
        if len(windows) == 1:
            windows.insert(0, (1, 1, 1, 1, 1, 0))
        self.pooling.largest = largest
        self.pooling.axes = <int> len(windows)
        for axis, sizes_of_axis in enumerate(windows):
            window = &self.pooling.axis[<int> axis]
            window.n, window.count, window.kernel, window.stride, window.dilation, window.begin = sizes_of_axis
            if window.count == 1:
                window.stride = 1
            if window.kernel == 1:
                window.dilation = 1
        self.pooling.divisors = NULL
        if divisors is not None:
            if np.shape(divisors) != self.outputs:
                refuse(f"divisors: shape {np.shape(divisors)}, expected {self.outputs}")
            self.divisors = np.ones(math.prod(self.outputs) + self.isa.width, np.float32)
            self.divisors[:math.prod(self.outputs)] = np.reshape(divisors, -1)
            self.pooling.divisors = <const float*> cnp.PyArray_DATA(self.divisors)
        self.scratch_size = self.isa.scratch_size(&self.pooling)
        check_memory(f"scratch between the axes of images {self.sizes} and windows {self.outputs}",
                     4 * self.scratch_size, 4 * math.prod(self.sizes), 4 * math.prod(self.outputs))

    cdef int check_reach(self, windows) except -1:
        """Check that all sums and products of these sizes fit: the kernel makes them without a look."""
        most = math.prod([max(n, count) for n, count, *_ in windows])
        length = 1  # of what follows an axis
        for n, count, kernel, stride, dilation, begin in reversed(windows):
            most = max(most, (count * stride + kernel * dilation + begin + n) * length)
            length *= n
        if most > LARGEST:
            refuse(f"windows {self.outputs} of images {self.sizes} reach over {most} numbers, more than memory holds")
        return 0

    def __call__(self, cnp.ndarray x not None):
        """x, copied if it is not C-contiguous -> (N, C, *outputs)."""
        cdef cnp.ndarray dense = as_dense(x, cnp.NPY_FLOAT32, "images")
        cdef cnp.npy_intp[MAX_RANK] dims
        cdef int D = 2 + <int> len(self.sizes), axis
        cdef cnp.ndarray y
        cdef Py_ssize_t images
        cdef float* scratch
        cdef rnncore_watch watch
        if cnp.PyArray_NDIM(x) != D:
            refuse(f"images of shape {(<object> x).shape}, expected {D} dimensions")
        dims[0], dims[1] = cnp.PyArray_DIM(dense, 0), cnp.PyArray_DIM(dense, 1)
        for axis in range(2, D):
            if cnp.PyArray_DIM(dense, axis) != <Py_ssize_t> self.sizes[axis - 2]:
                refuse(f"images of shape {(<object> x).shape}, expected (N, C, *{self.sizes})")
            dims[axis] = self.outputs[axis - 2]
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        images = dims[0] * dims[1]
        if cnp.PyArray_SIZE(y) == 0:
            return y
        scratch = <float*> scratch_memory(times(self.scratch_size, sizeof(float)))
        if scratch == NULL:
            raise MemoryError(f"no memory for pooling images {(<object> x).shape}: {4 * self.scratch_size} bytes")
        watch.look = handler_raised
        watch.between = watch.left = WORK_BETWEEN_SIGNALS
        watch.stopped = False
        if cnp.PyArray_SIZE(x) < NUMBERS_WITH_GIL:
            self.isa.pool(&self.pooling, images, <const float*> cnp.PyArray_DATA(dense),
                          <float*> cnp.PyArray_DATA(y), scratch, &watch)
        else:
            with nogil:
                self.isa.pool(&self.pooling, images, <const float*> cnp.PyArray_DATA(dense),
                              <float*> cnp.PyArray_DATA(y), scratch, &watch)
        if watch.stopped:
            raise_handled()
        return y
