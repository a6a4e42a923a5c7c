# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Products of rows with a packed matrix, float32, the GIL released."""

import numpy as np

from libc.string cimport memcpy

cimport numpy as cnp

from rnncore.kernels._checks cimport MAX_RANK, as_dense, refuse, times
from rnncore.kernels._costs cimport CALL_WORTH_SHARING, ROWS_WORTH_SHARING, WORK_BETWEEN_SIGNALS
from rnncore.kernels._loop cimport share
from rnncore.kernels._packing cimport (
    aligned_copy, kernels_in_use, pack_panels, padded, rnncore_isa, rnncore_panels, rnncore_rows, units, unpack_panels,
)
from rnncore.kernels._program cimport Instruction, Operand, Place, address, place_of
from rnncore.kernels._runtime cimport (
    check_signals, rnncore_flush_subnormals, rnncore_restore_subnormals, run_threads, scratch_memory, threads_of,
)

cnp.import_array()


cdef struct Rows:
    const Product* product
    const float* x
    float* y
    Py_ssize_t n
    float* padded_rows      # (threads, PRODUCT_ROWS, panels * W), or NULL where rows of y are whole panels


cdef struct Product:
    rnncore_panels w
    const float* bias
    Py_ssize_t size, stride
    const rnncore_isa* isa


# Rows whose padded outputs are made before they are copied to y.
cdef Py_ssize_t PRODUCT_ROWS = 48


cdef void product_rows(int index, int threads, void* argument) noexcept nogil:
    """Task: the index-th part of the rows."""
    cdef Rows* rows = <Rows*> argument
    cdef const Product* product = rows.product
    cdef rnncore_rows a
    cdef Py_ssize_t first, last, n, i, K = product.w.K
    cdef float* z
    cdef unsigned mode = rnncore_flush_subnormals()
    share(rows.n, index, threads, &first, &last)
    a.offset = NULL
    a.stride = K
    while first < last:
        n = min(last - first, PRODUCT_ROWS)
        a.base = rows.x + first * K
        if rows.padded_rows == NULL:
            product.isa.product(&product.w, 0, product.w.panels, n, &a, product.bias, rows.y + first * product.size,
                                product.size)
        else:
            z = rows.padded_rows + index * PRODUCT_ROWS * product.stride
            product.isa.product(&product.w, 0, product.w.panels, n, &a, product.bias, z, product.stride)
            for i in range(n):
                memcpy(rows.y + (first + i) * product.size, z + i * product.stride, product.size * sizeof(float))
        first += n
    rnncore_restore_subnormals(mode)


cdef class Matrix:
    """y = x W^T + b over the last axis, W (N, K) and b (N) or None packed once. Float32.

    A row's result does not depend on the other rows, nor on the number of threads.
    """

    cdef Product product
    cdef list owned
    cdef int threads

    def __cinit__(self, cnp.ndarray weight not None, bias, int threads):
        cdef const rnncore_isa* isa = kernels_in_use()
        if cnp.PyArray_NDIM(weight) != 2 or cnp.PyArray_SIZE(weight) == 0 or weight.dtype.kind not in "fiu":
            refuse(f"weight: {weight.dtype} of shape {(<object> weight).shape}, expected (N, K) of sizes from 1 on")
        if bias is not None and np.shape(bias) != (len(weight),):
            refuse(f"bias: shape {np.shape(bias)}, expected {(len(weight),)}")
        self.owned = []
        self.threads = threads
        self.product.isa = isa
        self.product.size = len(weight)
        self.product.stride = padded(len(weight), isa.width)
        pack_panels(&self.product.w, weight, 1, self.owned)
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        self.product.bias = aligned_copy(units(bias, 1, isa.width), self.owned)

    def unpack(self):
        """A copy of W, to the bit what was packed."""
        return unpack_panels(&self.product.w, self.product.size, self.product.isa.width)

    def __call__(self, cnp.ndarray x not None):
        """x (..., K), float32; copied if it is not C-contiguous."""
        cdef cnp.ndarray rows_in = as_dense(x, cnp.NPY_FLOAT32, "x")
        cdef int D = cnp.PyArray_NDIM(x), axis
        cdef cnp.npy_intp[MAX_RANK] dims
        cdef cnp.ndarray y
        cdef const float* x_data
        cdef float* y_data
        cdef Py_ssize_t n
        if not 1 <= D <= MAX_RANK or cnp.PyArray_DIM(x, D - 1) != self.product.w.K:
            refuse(f"x: shape {(<object> x).shape}, expected a last dimension of {self.product.w.K}")
        for axis in range(D - 1):
            dims[axis] = cnp.PyArray_DIM(x, axis)
        dims[D - 1] = self.product.size
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        x_data, y_data = <const float*> cnp.PyArray_DATA(rows_in), <float*> cnp.PyArray_DATA(y)
        n = cnp.PyArray_SIZE(rows_in) // self.product.w.K
        with nogil:
            self.multiply(x_data, n, y_data)
        return y

    def bind(self, compiler, list inputs not None, list outputs not None):
        """Add the Instruction for Operands x (..., K) and y (..., N) to a bound program: see Op.bind."""
        x = compiler.dense(inputs[0])
        compiler.emit(MatrixCall(self, x, outputs[0]), [x], outputs)
        return True

    cdef int multiply(self, const float* x, Py_ssize_t n, float* y) except -1 nogil:
        """n rows of x to as many of y."""
        cdef Rows rows
        cdef Py_ssize_t first, part
        cdef double work = <double> n * self.product.w.K * self.product.stride
        cdef int threads = threads_of(self.threads)
        if n == 0:
            return 0
        if work < CALL_WORTH_SHARING or n < threads * ROWS_WORTH_SHARING:
            threads = 1
        rows.product, rows.padded_rows = &self.product, NULL
        if self.product.stride != self.product.size:
            rows.padded_rows = <float*> scratch_memory(
                times(times(threads * PRODUCT_ROWS, self.product.stride), sizeof(float)))
            if rows.padded_rows == NULL:
                with gil:
                    raise MemoryError(f"no memory for the product of {n} rows")
        part = <Py_ssize_t> (WORK_BETWEEN_SIGNALS * threads * n / work) + PRODUCT_ROWS
        first = 0
        while first < n:
            rows.x = x + first * self.product.w.K
            rows.y = y + first * self.product.size
            rows.n = min(part, n - first)
            run_threads(threads, product_rows, &rows)
            first += part
            if part < n:
                with gil:
                    check_signals()
        return 0


cdef class MatrixCall(Instruction):
    """A Matrix with its operands."""

    cdef Matrix matrix
    cdef Place x, y
    cdef Py_ssize_t n

    def __cinit__(self, Matrix matrix not None, Operand x not None, Operand y not None):
        cdef Py_ssize_t last = len(x.shape) - 1
        if last < 0 or x.shape[last] != matrix.product.w.K or y.shape != x.shape[:last] + (matrix.product.size,):
            refuse(f"{x} to {y}, expected last dimensions of {matrix.product.w.K} and {matrix.product.size}")
        place_of(x, cnp.NPY_FLOAT32, "x", &self.x)
        place_of(y, cnp.NPY_FLOAT32, "y", &self.y)
        self.matrix = matrix
        self.n = x.size // matrix.product.w.K
        self.work = <double> self.n * matrix.product.w.K * matrix.product.stride

    cdef int run(self, char** slots) except -1 nogil:
        return self.matrix.multiply(<const float*> address(slots, self.x), self.n, <float*> address(slots, self.y))
