ctypedef void (*matmul_nt_f32)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const float* x, Py_ssize_t ldx,
                               const float* w, float beta, float* y, Py_ssize_t ldy) noexcept nogil
ctypedef void (*matmul_nt_f64)(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const double* x, Py_ssize_t ldx,
                               const double* w, double beta, double* y, Py_ssize_t ldy) noexcept nogil

cdef struct Products:
    matmul_nt_f32 f32
    matmul_nt_f64 f64
