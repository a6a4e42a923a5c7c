# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Products of 8-bit integers with exact sums, and DynamicQuantizeLSTM in float32, GIL released: see quantized/."""

import numpy as np

from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memset

cimport numpy as cnp

from rnncore.kernels._checks cimport (
    MAX_RANK, as_dense, check_range, check_shape1, check_shape3, checked_size, plus, refuse,
    times,
)
from rnncore.kernels._costs cimport CALL_WORTH_SHARING, WORK_BETWEEN_SIGNALS
from rnncore.kernels._loop cimport share
from rnncore.kernels._runtime cimport (
    check_signals, handler_raised, isa_number, raise_handled, rnncore_watch, run_threads, scratch_memory, threads_of,
)

cnp.import_array()


cdef extern from "quantized/quantized.h":
    enum:
        RNNCORE_LARGEST_DEPTH

    ctypedef struct rnncore_bytes:
        const uint8_t* data
        const int32_t* zeros
        const int32_t* sums
        Py_ssize_t K, N
        int limit

    ctypedef struct rnncore_quantized_lstm:
        rnncore_bytes w, r
        const float* w_scale
        const float* r_scale
        const float* bias
        const float* peephole
        Py_ssize_t input_size, hidden_size
        float clip
        int input_forget, backward

    ctypedef struct rnncore_quantized_run:
        Py_ssize_t T, B
        const uint8_t* x
        float x_scale
        int32_t x_zero
        const int64_t* order
        const int64_t* lengths
        const float* h0
        const float* c0
        float* y
        Py_ssize_t y_step
        float* h
        float* c
        Py_ssize_t* stop

    ctypedef struct rnncore_quantized_isa:
        const char* name
        int width
        size_t (*data_size)(Py_ssize_t K, Py_ssize_t N) noexcept nogil
        size_t (*column_size)(Py_ssize_t N) noexcept nogil
        int (*pack)(Py_ssize_t K, Py_ssize_t N, const uint8_t* b, int is_unsigned, const int32_t* b0, uint8_t* data,
                    int32_t* zeros, int32_t* sums) noexcept nogil
        size_t (*prepared_size)(Py_ssize_t K, Py_ssize_t M) noexcept nogil
        void (*prepare)(const rnncore_bytes* b, Py_ssize_t M, const uint8_t** rows, const uint8_t* zeros, int flip,
                        int32_t* prepared) noexcept nogil
        void (*product)(const rnncore_bytes* b, Py_ssize_t first, Py_ssize_t last, Py_ssize_t M,
                        const int32_t* prepared, int32_t* y, Py_ssize_t y_stride) noexcept nogil
        void (*range)(Py_ssize_t n, const float* x, float* low, float* high) noexcept nogil
        void (*quantize)(Py_ssize_t n, const float* x, float scale, int32_t zero, uint8_t* y) noexcept nogil
        size_t (*lstm_scratch)(const rnncore_quantized_lstm* cell, Py_ssize_t T, Py_ssize_t B) noexcept nogil
        void (*lstm)(const rnncore_quantized_lstm* cell, const rnncore_quantized_run* run, void* scratch,
                     rnncore_watch* watch) noexcept nogil

    const rnncore_quantized_isa** rnncore_quantized_isas
    void rnncore_quantization(float low, float high, float* scale, int32_t* zero) noexcept nogil


# The largest K of a product whose sums fit int32, whatever the bytes.
LARGEST_DEPTH = RNNCORE_LARGEST_DEPTH

# Vectors of columns in a group (quantized/body.h), which threads share a product by.
cdef Py_ssize_t GROUP = 4

# Multiply-adds of 8-bit integers in the time of one of float32.
cdef double FASTER = 4.0

# Rows that are prepared at once.
cdef Py_ssize_t PRODUCT_ROWS = 48

# Numbers whose range is taken, or that are quantized, between two looks at pending signals.
cdef Py_ssize_t NUMBERS_AT_ONCE = 1 << 23

# Below so much work a call keeps the GIL: giving it away and getting it back costs more.
cdef double WORK_WITH_GIL = 20000.0


cdef aligned(size, dtype):
    """A new array of ``size`` numbers of a dtype, aligned to 64 bytes."""
    dtype = np.dtype(dtype)
    raw = np.empty(size * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * dtype.itemsize].view(dtype)


cdef cnp.ndarray as_bytes(cnp.ndarray array, str name):
    """The array of int8 or uint8, C-contiguous."""
    cdef int kind = cnp.PyArray_TYPE(array)
    if kind != cnp.NPY_INT8 and kind != cnp.NPY_UINT8:
        refuse(f"{name}: {array.dtype}, expected int8 or uint8")
    return as_dense(array, kind, name)


cdef int pack_bytes(const rnncore_quantized_isa* isa, rnncore_bytes* target, cnp.ndarray b, zero, list owned) except -1:
    """Pack b (K, N), int8 or uint8, with zero points of its dtype: one number, or one for each column."""
    cdef cnp.ndarray dense, zeros, data, padded_zeros, sums
    if cnp.PyArray_NDIM(b) != 2 or cnp.PyArray_SIZE(b) == 0 or len(b) > RNNCORE_LARGEST_DEPTH:
        refuse(f"weight: shape {(<object> b).shape}, expected (K, N), K from 1 to {RNNCORE_LARGEST_DEPTH}, N from 1")
    K, N = (<object> b).shape
    checked_size(N, "N")
    dense = as_bytes(b, "weight")
    zero = np.asarray(zero)
    if zero.dtype != b.dtype or zero.shape not in ((), (1,), (N,)):
        refuse(f"zero point: {zero.dtype} of shape {zero.shape}, expected {b.dtype}, one number or {N}")
    zeros = np.ascontiguousarray(np.broadcast_to(zero, (N,)).astype(np.int32))
    data = aligned(isa.data_size(K, N), np.uint8)
    padded_zeros, sums = aligned(isa.column_size(N), np.int32), aligned(isa.column_size(N), np.int32)
    target.limit = isa.pack(
        K, N, <const uint8_t*> cnp.PyArray_DATA(dense), cnp.PyArray_TYPE(dense) == cnp.NPY_UINT8,
        <const int32_t*> cnp.PyArray_DATA(zeros), <uint8_t*> cnp.PyArray_DATA(data),
        <int32_t*> cnp.PyArray_DATA(padded_zeros), <int32_t*> cnp.PyArray_DATA(sums))
    owned.extend((data, padded_zeros, sums))
    target.data = <const uint8_t*> cnp.PyArray_DATA(data)
    target.zeros = <const int32_t*> cnp.PyArray_DATA(padded_zeros)
    target.sums = <const int32_t*> cnp.PyArray_DATA(sums)
    target.K, target.N = K, N
    return 0


# ---- products --------------------------------------------------------------------------------------------------------


cdef struct Rows:
    const rnncore_quantized_isa* isa
    const rnncore_bytes* b
    const uint8_t* a
    const uint8_t* zeros
    int flip
    Py_ssize_t M
    int32_t* y
    char* scratch           # of one thread after the other
    size_t scratch_size


cdef size_t product_scratch(const rnncore_quantized_isa* isa, Py_ssize_t K) noexcept nogil:
    """Bytes of one thread: PRODUCT_ROWS rows and where they are."""
    cdef size_t size = times(isa.prepared_size(K, PRODUCT_ROWS), sizeof(int32_t)) + PRODUCT_ROWS * sizeof(uint8_t*)
    return (size + 63) // 64 * 64


cdef void product_rows(int index, int threads, void* argument) noexcept nogil:
    """Task: the index-th part of the rows, or of the groups of columns where these are more."""
    cdef Rows* rows = <Rows*> argument
    cdef Py_ssize_t K = rows.b.K, N = rows.b.N, M = rows.M
    cdef Py_ssize_t groups = (N + GROUP * rows.isa.width - 1) // (GROUP * rows.isa.width)
    cdef Py_ssize_t row = 0, last = M, first_group = 0, last_group = groups, n, i
    cdef const uint8_t** places = <const uint8_t**> (rows.scratch + index * rows.scratch_size)
    cdef int32_t* prepared = <int32_t*> (places + PRODUCT_ROWS)
    if groups > M:
        share(groups, index, threads, &first_group, &last_group)
    else:
        share(M, index, threads, &row, &last)
    while row < last and first_group < last_group:
        n = min(last - row, PRODUCT_ROWS)
        for i in range(n):
            places[i] = rows.a + (row + i) * K
        rows.isa.prepare(rows.b, n, places, rows.zeros + row, rows.flip, prepared)
        rows.isa.product(rows.b, first_group, last_group, n, prepared, rows.y + row * N, N)
        row += n


cdef class ByteMatrix:
    """y = (a - a0) (b - b0), exact in int32, with b (K, N), int8 or uint8, packed once.

    zero     b0, of b's dtype: one number, or one for each column
    threads  how many share a call, where it is worth it

    InputError where they are something else, or K is more than LARGEST_DEPTH. Immutable: any number of threads may
    call it.
    """

    cdef const rnncore_quantized_isa* isa
    cdef rnncore_bytes b
    cdef list owned
    cdef int threads

    def __cinit__(self, cnp.ndarray b not None, zero, int threads):
        self.isa = rnncore_quantized_isas[isa_number()]
        self.owned = []
        self.threads = threads
        pack_bytes(self.isa, &self.b, b, zero, self.owned)

    def __call__(self, cnp.ndarray a not None, zero=None):
        """a (..., K), int8 or uint8, and a0 of the same dtype: one number, or one that spreads over (..., 1)."""
        cdef cnp.ndarray dense = as_bytes(a, "a")
        cdef int D = cnp.PyArray_NDIM(a), axis, threads = threads_of(self.threads)
        cdef cnp.npy_intp[MAX_RANK] dims
        cdef cnp.ndarray y, zeros
        cdef Rows rows
        cdef double work
        cdef Py_ssize_t M, first, part
        if not 1 <= D <= MAX_RANK or cnp.PyArray_DIM(a, D - 1) != self.b.K:
            refuse(f"a: shape {(<object> a).shape}, expected a last dimension of {self.b.K}")
        for axis in range(D - 1):
            dims[axis] = cnp.PyArray_DIM(a, axis)
        dims[D - 1] = self.b.N
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_INT32, 0)
        M = cnp.PyArray_SIZE(dense) // self.b.K
        zeros = row_zeros(zero, a, M)
        if M == 0:
            return y
        rows.flip = 128 * (cnp.PyArray_TYPE(dense) == cnp.NPY_INT8)
        rows.isa, rows.b = self.isa, &self.b
        work = <double> M * self.b.K * self.b.N / FASTER
        if work < CALL_WORTH_SHARING:
            threads = 1
        rows.scratch_size = product_scratch(self.isa, self.b.K)
        rows.scratch = <char*> scratch_memory(times(threads, rows.scratch_size))
        if rows.scratch == NULL:
            raise MemoryError(f"no memory for the product of {M} rows")
        part = <Py_ssize_t> (WORK_BETWEEN_SIGNALS * threads * M / work) + PRODUCT_ROWS
        for first in range(0, M, part):
            rows.a = <const uint8_t*> cnp.PyArray_DATA(dense) + first * self.b.K
            rows.zeros = <const uint8_t*> cnp.PyArray_DATA(zeros) + first
            rows.y = <int32_t*> cnp.PyArray_DATA(y) + first * self.b.N
            rows.M = min(part, M - first)
            if work < WORK_WITH_GIL:
                product_rows(0, 1, &rows)
            else:
                with nogil:
                    run_threads(threads, product_rows, &rows)
            if part < M:
                check_signals()
        return y


cdef cnp.ndarray row_zeros(zero, cnp.ndarray a, Py_ssize_t M):
    """The zero point of each row of a, of its dtype."""
    cdef cnp.ndarray zeros
    if zero is not None and (not isinstance(zero, (np.ndarray, np.generic)) or zero.dtype != a.dtype):
        refuse(f"zero point: {getattr(zero, 'dtype', type(zero).__name__)}, expected {a.dtype}")
    if zero is None or zero.size == 1:
        zeros = cnp.PyArray_EMPTY(1, [M], cnp.PyArray_TYPE(a), 0)
        memset(cnp.PyArray_DATA(zeros), 0 if zero is None else zero.item() & 255, M)
        return zeros
    try:
        spread = np.broadcast_to(zero, (*(<object> a).shape[:cnp.PyArray_NDIM(a) - 1], 1))
    except ValueError:
        refuse(f"zero point of shape {zero.shape} for {(<object> a).shape}, expected one for all or for each row")
    return np.ascontiguousarray(spread.reshape(-1))


def quantize(cnp.ndarray x not None):
    """x, float32, by its own range with 0: (uint8 of its shape, scale float32, zero point uint8)."""
    cdef const rnncore_quantized_isa* isa = rnncore_quantized_isas[isa_number()]
    cdef cnp.ndarray dense = as_dense(x, cnp.NPY_FLOAT32, "x")
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(dense), cnp.PyArray_DIMS(dense), cnp.NPY_UINT8, 0)
    cdef float scale
    cdef int32_t zero
    quantize_all(isa, cnp.PyArray_SIZE(dense), <const float*> cnp.PyArray_DATA(dense), &scale, &zero,
                 <uint8_t*> cnp.PyArray_DATA(y))
    return y, np.float32(scale), np.uint8(zero)


cdef int quantize_all(const rnncore_quantized_isa* isa, Py_ssize_t n, const float* x, float* scale, int32_t* zero,
                      uint8_t* y) except -1:
    """Quantize n numbers by their own range; of many, signals are looked for between the parts."""
    cdef float low = 0, high = 0, least, most
    cdef Py_ssize_t first
    if n <= NUMBERS_AT_ONCE:
        with nogil:
            isa.range(n, x, &low, &high)
            rnncore_quantization(low, high, scale, zero)
            isa.quantize(n, x, scale[0], zero[0], y)
        return 0
    for first in range(0, n, NUMBERS_AT_ONCE):
        with nogil:
            isa.range(min(NUMBERS_AT_ONCE, n - first), x + first, &least, &most)
        low = least if least != least or least < low else low  # NaN stays
        high = max(high, most)
        check_signals()
    rnncore_quantization(low, high, scale, zero)
    for first in range(0, n, NUMBERS_AT_ONCE):
        with nogil:
            isa.quantize(min(NUMBERS_AT_ONCE, n - first), x + first, scale[0], zero[0], y + first)
        check_signals()
    return 0


# ---- DynamicQuantizeLSTM ---------------------------------------------------------------------------------------------


cdef struct Directions:
    const rnncore_quantized_isa* isa
    int D
    const rnncore_quantized_lstm* cells     # (D)
    rnncore_quantized_run* runs             # (D)
    char* scratch                           # of one direction after the other
    size_t scratch_size


cdef int no_look() noexcept nogil:
    return False


cdef void run_directions(int index, int threads, void* argument) noexcept nogil:
    """Task: the directions of one thread. The first thread looks for signals."""
    cdef Directions* call = <Directions*> argument
    cdef rnncore_watch watch
    cdef int d = index
    watch.look = handler_raised if index == 0 else no_look
    watch.between = watch.left = WORK_BETWEEN_SIGNALS
    watch.stopped = False
    while d < call.D and not watch.stopped:
        call.isa.lstm(&call.cells[d], &call.runs[d], call.scratch + d * call.scratch_size, &watch)
        d += threads


cdef class DynamicLSTM:
    """DynamicQuantizeLSTM of ONNX Runtime, float32, packed once. D directions, gates in ONNX's order, i o f c.

    w, r          (D, I, 4 H) and (D, H, 4 H), int8 or uint8, with scales (D, 1) or (D, 4 H) and zero points of the same
                  dtype, (D, 1) or (D, 4 H)
    bias          (D, 4 H);  peephole  (D, 3 H), i o f
    clip          what pre-activations are limited to, or None
    input_forget  whether f = 1 - i
    backwards     for each direction, whether it goes from each row's last valid step to its first
    threads       how many share a call: one for each direction

    InputError where they are something else. Immutable: any number of threads may call it.
    """

    cdef const rnncore_quantized_isa* isa
    cdef rnncore_quantized_lstm[2] cells
    cdef list owned
    cdef int D, threads

    def __cinit__(self, cnp.ndarray w not None, w_scale, w_zero, cnp.ndarray r not None, r_scale, r_zero, bias,
                  peephole, clip, bint input_forget, tuple backwards not None, int threads):
        cdef rnncore_quantized_lstm* cell
        self.isa = rnncore_quantized_isas[isa_number()]
        self.owned = []
        self.threads = threads
        if cnp.PyArray_NDIM(w) != 3 or cnp.PyArray_NDIM(r) != 3 or not 1 <= len(backwards) <= 2:
            refuse(f"w: shape {(<object> w).shape}, r: shape {(<object> r).shape}, {len(backwards)} directions, "
                   f"expected (D, I, 4 H) and (D, H, 4 H) of 1 or 2")
        self.D = <int> len(backwards)
        D, width, H = self.D, (<object> w).shape[1], (<object> r).shape[1]
        check_shape3(w, D, width, 4 * H, "w")
        check_shape3(r, D, H, 4 * H, "r")
        if clip is not None and not clip > 0:
            refuse(f"clip={clip!r}, expected a number above 0")
        vectors = []
        for name, value, sizes in (("w_scale", w_scale, (1, 4 * H)), ("r_scale", r_scale, (1, 4 * H)),
                                   ("bias", bias, (4 * H,)), ("peephole", peephole, (3 * H,))):
            value = np.asarray(value)
            if value.dtype != np.float32 or value.shape not in [(D, size) for size in sizes]:
                refuse(f"{name}: {value.dtype} of shape {value.shape}, expected float32, "
                       f"{' or '.join([str((D, size)) for size in sizes])}")
            vectors.append(np.broadcast_to(value, (D, max(sizes))))
        zeros = [np.asarray(w_zero), np.asarray(r_zero)]
        for name, value in zip(("w_zero", "r_zero"), zeros):
            if value.shape not in ((D, 1), (D, 4 * H)):
                refuse(f"{name}: shape {value.shape}, expected {(D, 1)} or {(D, 4 * H)}")
        for d in range(D):
            cell = &self.cells[<int> d]
            memset(cell, 0, sizeof(rnncore_quantized_lstm))
            self.pack(&cell.w, w[d], zeros[0][d], H)
            self.pack(&cell.r, r[d], zeros[1][d], H)
            cell.w_scale = self.units(vectors[0][d], H)
            cell.r_scale = self.units(vectors[1][d], H)
            cell.bias = self.units(vectors[2][d], H)
            cell.peephole = self.units(vectors[3][d], H)
            cell.input_size, cell.hidden_size = width, H
            cell.clip = INFINITY if clip is None else clip
            cell.input_forget, cell.backward = input_forget, bool(backwards[d])

    cdef int pack(self, rnncore_bytes* target, b, zero, H) except -1:
        """b (K, 4 H) with each gate padded to whole vectors; what is padded with is the zero point."""
        if zero.dtype != b.dtype:
            refuse(f"zero point: {zero.dtype}, expected {b.dtype}")
        Hp = self.isa.column_size(H)
        padded_zero = np.full((4, Hp), zero[0], b.dtype)
        padded_zero[:, :H] = np.broadcast_to(zero, (4 * H,)).reshape(4, H)
        padded = np.full((len(b), 4, Hp), zero[0], b.dtype)
        padded[:, :, :H] = b.reshape(len(b), 4, H)
        return pack_bytes(self.isa, target, padded.reshape(len(b), 4 * Hp), padded_zero.reshape(-1), self.owned)

    cdef const float* units(self, vector, H) except NULL:
        """A vector (gates * H) with each gate padded with zeros, kept alive."""
        cdef cnp.ndarray padded = aligned(len(vector) // H * self.isa.column_size(H), np.float32)
        (<object> padded)[:] = 0
        (<object> padded).reshape(len(vector) // H, -1)[:, :H] = vector.reshape(-1, H)
        self.owned.append(padded)
        return <const float*> cnp.PyArray_DATA(padded)

    def __call__(self, cnp.ndarray x not None, cnp.ndarray lengths, cnp.ndarray h0, cnp.ndarray c0):
        """x (T, B, I), lengths (B) int32 or int64 or None, h0 and c0 (D, B, H) or None: y (T, D, B, H), last h and c.

        y is 0 beyond a row's length, and so are the states of a row without steps.
        """
        cdef cnp.ndarray dense = as_dense(x, cnp.NPY_FLOAT32, "x")
        cdef Py_ssize_t width = self.cells[0].input_size, H = self.cells[0].hidden_size, D = self.D
        cdef Py_ssize_t T, B, longest, states
        cdef cnp.ndarray rows, y, h, c
        cdef rnncore_quantized_run[2] runs
        cdef Directions call
        cdef Py_ssize_t stop = 0
        cdef float scale
        cdef int32_t zero
        cdef int d, threads
        cdef size_t codes
        cdef uint8_t* bytes
        cdef double work
        if cnp.PyArray_NDIM(x) != 3 or cnp.PyArray_DIM(x, 2) != width:
            refuse(f"X: shape {(<object> x).shape}, expected (T, B, {width})")
        T, B = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
        rows = rows_by_length(lengths, T, B)
        h0, c0 = first_state(h0, D, B, H, "initial_h"), first_state(c0, D, B, H, "initial_c")
        longest = (<int64_t*> cnp.PyArray_DATA(rows))[B] if B else 0
        y = cnp.PyArray_EMPTY(4, [T, D, B, H], cnp.NPY_FLOAT32, 0)
        h = cnp.PyArray_EMPTY(3, [D, B, H], cnp.NPY_FLOAT32, 0)
        c = cnp.PyArray_EMPTY(3, [D, B, H], cnp.NPY_FLOAT32, 0)
        if lengths is not None:
            memset(cnp.PyArray_DATA(y), 0, cnp.PyArray_NBYTES(y))
        if B == 0:
            return y, h, c
        codes = (times(times(longest, B), width) + 63) // 64 * 64
        call.scratch_size = self.isa.lstm_scratch(self.cells, T, B)
        bytes = <uint8_t*> scratch_memory(plus(times(D, call.scratch_size), codes))
        if bytes == NULL:
            raise MemoryError(f"no memory for an LSTM over x {(<object> x).shape}")
        quantize_all(self.isa, longest * B * width, <const float*> cnp.PyArray_DATA(dense), &scale, &zero, bytes)
        states = B * H
        for d in range(D):
            runs[d].T, runs[d].B = T, B
            runs[d].x, runs[d].x_scale, runs[d].x_zero = bytes, scale, zero
            runs[d].order = <const int64_t*> cnp.PyArray_DATA(rows)
            runs[d].lengths = runs[d].order + B
            runs[d].h0 = <const float*> cnp.PyArray_DATA(h0) + d * states if h0 is not None else NULL
            runs[d].c0 = <const float*> cnp.PyArray_DATA(c0) + d * states if c0 is not None else NULL
            runs[d].y = <float*> cnp.PyArray_DATA(y) + d * states
            runs[d].y_step = D * states
            runs[d].h = <float*> cnp.PyArray_DATA(h) + d * states
            runs[d].c = <float*> cnp.PyArray_DATA(c) + d * states
            runs[d].stop = &stop
        call.isa, call.D, call.cells, call.runs = self.isa, self.D, self.cells, runs
        call.scratch = <char*> bytes + codes
        work = <double> longest * B * 4 * H * (width + H) / FASTER
        threads = min(threads_of(self.threads), self.D) if work > CALL_WORTH_SHARING else 1
        with nogil:
            run_threads(threads, run_directions, &call)
        if stop:
            raise_handled()
        return y, h, c


cdef cnp.ndarray rows_by_length(cnp.ndarray lengths, Py_ssize_t T, Py_ssize_t B):
    """(2, B) int64: the rows by falling length, and these lengths: all T where None is given."""
    cdef cnp.ndarray rows
    cdef int64_t* data
    cdef Py_ssize_t row
    if lengths is not None:
        if cnp.PyArray_TYPE(lengths) == cnp.NPY_INT32:
            lengths = lengths.astype(np.int64)
        lengths = as_dense(lengths, cnp.NPY_INT64, "sequence_lens")
        check_shape1(lengths, B, "sequence_lens")
        check_range(<const int64_t*> cnp.PyArray_DATA(lengths), B, 0, T, "sequence_lens")
        order = np.argsort(-lengths, kind="stable")
        return np.stack((order, lengths[order])).astype(np.int64, copy=False)
    rows = cnp.PyArray_EMPTY(2, [2, B], cnp.NPY_INT64, 0)
    data = <int64_t*> cnp.PyArray_DATA(rows)
    for row in range(B):
        data[row], data[B + row] = row, T
    return rows


cdef cnp.ndarray first_state(cnp.ndarray state, Py_ssize_t D, Py_ssize_t B, Py_ssize_t H, str name):
    if state is None:
        return None
    check_shape3(state, D, B, H, name)
    return as_dense(state, cnp.NPY_FLOAT32, name)
