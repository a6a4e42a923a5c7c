# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Row-major products over SciPy's BLAS: the one place that knows about column-major order and BLAS integers.

A module of its own because importing it imports scipy.linalg, which takes 100 ms: rnncore does so at the first
use of this path only. ``products()`` hands the two functions over as a capsule.
"""

from cpython.pycapsule cimport PyCapsule_New
from scipy.linalg.cython_blas cimport dgemm, dgemv, sgemm, sgemv

include "_blas_int.pxi"


cdef void matmul_nt_float(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float* x, Py_ssize_t ldx,
                          const float* w, float beta, float* y, Py_ssize_t ldy) noexcept nogil:
    """y[m,n] = x[m,k] @ w[n,k].T + beta * y   row-major; rows of x and y are ldx and ldy apart, w is dense.

    Every size is at least 1 and below 2**31; nothing overlaps. y is not read where beta is 0.
    """
    cdef blas_int bm = <blas_int> m, bn = <blas_int> n, bk = <blas_int> k, one = 1
    cdef blas_int bldx = <blas_int> ldx, bldy = <blas_int> ldy
    cdef float alpha = 1.0
    if m == 1:
        sgemv(b"T", &bk, &bn, &alpha, <float*> w, &bk, <float*> x, &one, &beta, y, &one)
    else:
        sgemm(b"T", b"N", &bn, &bm, &bk, &alpha, <float*> w, &bk, <float*> x, &bldx, &beta, y, &bldy)


cdef void matmul_nt_double(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const double* x, Py_ssize_t ldx,
                           const double* w, double beta, double* y, Py_ssize_t ldy) noexcept nogil:
    """The same in double."""
    cdef blas_int bm = <blas_int> m, bn = <blas_int> n, bk = <blas_int> k, one = 1
    cdef blas_int bldx = <blas_int> ldx, bldy = <blas_int> ldy
    cdef double alpha = 1.0
    if m == 1:
        dgemv(b"T", &bk, &bn, &alpha, <double*> w, &bk, <double*> x, &one, &beta, y, &one)
    else:
        dgemm(b"T", b"N", &bn, &bm, &bk, &alpha, <double*> w, &bk, <double*> x, &bldx, &beta, y, &bldy)


cdef Products _products
_products.f32 = matmul_nt_float
_products.f64 = matmul_nt_double


def products():
    """A capsule with the address of the Products table."""
    return PyCapsule_New(&_products, b"rnncore.kernels.Products", NULL)
