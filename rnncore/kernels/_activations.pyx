# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Activation functions over arrays: those of cells (activations.h), quotients of polynomials (rational_body.h)."""

import numpy as np

cimport numpy as cnp

from rnncore.kernels._cell cimport ACT_COUNT, act_f32, act_f64, rnncore_act, rnncore_activation_names
from rnncore.kernels._checks cimport as_dense, check_dense, check_writable
from rnncore.kernels._packing cimport (
    RATIONAL_SIGMOID, RATIONAL_SWISH, RATIONAL_TANH, kernels_in_use, rnncore_isa, rnncore_rational,
)
from rnncore.kernels._runtime cimport check_signals

cnp.import_array()


# Below this many numbers a function of each keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000

# Numbers between two looks at pending signals: some 10 milliseconds' work, and whole vectors.
cdef Py_ssize_t NUMBERS_AT_ONCE = 1 << 23

ACTIVATION_IDS = {rnncore_activation_names[i].decode(): i for i in range(ACT_COUNT)}

RATIONALS = {"sigmoid": RATIONAL_SIGMOID, "tanh": RATIONAL_TANH, "swish": RATIONAL_SWISH}


def activate(str name not None, double alpha, double beta, cnp.ndarray x not None):
    """f(x) in place over each row of the dense float32 or float64 array x (rows, n): the compiled activation."""
    cdef rnncore_act f
    cdef Py_ssize_t rows, n, row
    cdef bint double_precision = cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64
    cdef char* data = <char*> cnp.PyArray_DATA(x)
    check_dense(x, cnp.NPY_FLOAT64 if double_precision else cnp.NPY_FLOAT32, 2, "x")
    check_writable(x, "x")
    rows, n = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
    f.id = ACTIVATION_IDS[name]
    f.alpha = alpha
    f.beta = beta
    with nogil:
        for row in range(rows):
            if double_precision:
                act_f64(&f, n, <double*> data + row * n)
            else:
                act_f32(&f, n, <float*> data + row * n)


def rational(str name not None, x):
    """A function of RATIONALS as a quotient of polynomials, of x, float32: an array of its shape."""
    cdef const rnncore_isa* kernels = kernels_in_use()
    cdef rnncore_rational f = <rnncore_rational> <int> RATIONALS[name]
    cdef cnp.ndarray given = as_dense(np.asarray(x, np.float32), cnp.NPY_FLOAT32, "x")
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(given), cnp.PyArray_DIMS(given), cnp.NPY_FLOAT32, 0)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(given), first = 0, part
    cdef const float* source = <const float*> cnp.PyArray_DATA(given)
    cdef float* target = <float*> cnp.PyArray_DATA(y)
    if n < NUMBERS_WITH_GIL:
        kernels.rational(f, n, source, target)
    while n >= NUMBERS_WITH_GIL and first < n:
        part = min(NUMBERS_AT_ONCE, n - first)
        with nogil:
            kernels.rational(f, part, source + first, target + first)
        first += part
        if first < n:
            check_signals()
    return y.reshape(np.shape(x))
