# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The time loop: one direction of one recurrent layer over a batch, GIL released, nothing allocated inside.

For a chunk of time steps the input product of all its rows is made at once; then each step adds the recurrent
product of its rows and finishes them (cell.h). Rows are in order of falling length, so that the rows still
running are always the first n: the work is the sum of the lengths.
"""

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from rnncore.kernels._blas cimport Products
from rnncore.kernels._cell cimport (
    ACT_COUNT, COUPLED_FORGET, COUPLED_INPUT, COUPLED_NONE, KIND_COUNT, KIND_GRU, KIND_LSTM, KIND_RNN, LN_NONE, LN_TF1,
    LN_TFLITE,
    clip_f32, clip_f64, gru_gates_f32, gru_gates_f64, gru_point_f32, gru_point_f64, lstm_point_f32, lstm_point_f64,
    rnn_point_f32, rnn_point_f64, rnncore_cell, rnncore_cell_facts, rnncore_cells,
)
from rnncore.kernels._checks cimport (
    check_arrays, check_dense, check_rows, check_shape2, check_type, check_writable, checked_size, plus, refuse, times,
)
from rnncore.kernels._sequences cimport (
    MERGE_ADD, MERGE_AVERAGE, MERGE_MUL, MERGE_SET, Sequences, real, steps_of, store, time_of,
)
from rnncore.kernels._runtime cimport check_signals, scratch_memory

cnp.import_array()


cdef extern from *:
    """
    static const void *rnncore_pointer(const void *word) {
        return __atomic_load_n((void *const *)word, __ATOMIC_ACQUIRE);
    }
    static void rnncore_set_pointer(void *word, const void *to) {
        __atomic_store_n((const void **)word, to, __ATOMIC_RELEASE);
    }
    """
    const void* rnncore_pointer(const void* word) noexcept nogil
    void rnncore_set_pointer(void* word, const void* to) noexcept nogil


# Rows of input that one product takes at least, where the sequences have them: enough to reuse the weights
# from cache, small enough that the chunk's pre-activations stay there too.
cdef Py_ssize_t CHUNK_ROWS = 96

# Rows that run together: larger batches run in blocks of this many, which bounds the scratch.
cdef Py_ssize_t BLOCK_ROWS = 512

# Multiply-adds between two looks at pending signals: well below 200 ms even on the slow path of BLAS. What a step of a
# row, and each of its pre-activations, costs besides its own, as a number of them.
cdef double WORK_BETWEEN_SIGNALS = 2e8
cdef double WORK_OF_A_STEP = 1e3
cdef double WORK_OF_AN_ACTIVATION = 50

# Sizes of matrices are at most this: BLAS counts by int.
BLAS_MOST = (1 << 31) - 1

MERGES = {"set": MERGE_SET, "sum": MERGE_ADD, "mul": MERGE_MUL, "average": MERGE_AVERAGE}

KINDS = {rnncore_cells[i].name.decode(): i for i in range(KIND_COUNT)}
cdef dict COUPLED = {None: COUPLED_NONE, "input": COUPLED_INPUT, "forget": COUPLED_FORGET}
cdef dict LAYER_NORM = {None: LN_NONE, "tf1": LN_TF1, "tflite": LN_TFLITE}

cdef const Products* blas = NULL


cdef int load_blas() except -1:
    """Import the BLAS path at its first use. Threads may come here together while others run: all store the same."""
    if rnncore_pointer(&blas) == NULL:
        from rnncore.kernels import _blas
        rnncore_set_pointer(&blas, PyCapsule_GetPointer(_blas.products(), b"rnncore.kernels.Products"))
    return 0


cdef inline void matmul(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const real* x, Py_ssize_t ldx, const real* w,
                        real beta, real* y, Py_ssize_t ldy) noexcept nogil:
    """y[m,n] = x[m,k] @ w[n,k].T + beta * y"""
    cdef const Products* products = <const Products*> rnncore_pointer(&blas)
    if real is float:
        products.f32(m, n, k, x, ldx, w, beta, y, ldy)
    else:
        products.f64(m, n, k, x, ldx, w, beta, y, ldy)


cdef void one_step(const rnncore_cell* cell, Py_ssize_t n, real* z, real* h, real* c, real* extra) noexcept nogil:
    """One time step of n rows. z (n, G*H) holds the input product; h (n, P), c (n, H) in and out; extra (n, H)."""
    cdef Py_ssize_t row, H = cell.hidden_size, P = cell.output_size, GH = cell.gates * cell.hidden_size
    cdef const real* w = <const real*> cell.weight_hh
    cdef real* out
    if cell.kind == KIND_GRU:
        matmul[real](n, 2 * H, H, h, H, w, 1, z, GH)
        if cell.reset_after:
            for row in range(n):
                if cell.bias_hn != NULL:
                    memcpy(extra + row * H, cell.bias_hn, H * sizeof(real))
                else:
                    memset(extra + row * H, 0, H * sizeof(real))
            matmul[real](n, H, H, h, H, w + 2 * H * H, 1, extra, H)
        for row in range(n):
            if real is float:
                gru_gates_f32(cell, z + row * GH, h + row * H, NULL if cell.reset_after else extra + row * H)
            else:
                gru_gates_f64(cell, z + row * GH, h + row * H, NULL if cell.reset_after else extra + row * H)
        if not cell.reset_after:
            matmul[real](n, H, H, extra, H, w + 2 * H * H, 1, z + 2 * H, GH)
        for row in range(n):
            if real is float:
                gru_point_f32(cell, z + row * GH, extra + row * H if cell.reset_after else NULL, h + row * H)
            else:
                gru_point_f64(cell, z + row * GH, extra + row * H if cell.reset_after else NULL, h + row * H)
        return
    matmul[real](n, GH, P, h, P, w, 1, z, GH)
    if cell.kind == KIND_RNN:
        for row in range(n):
            if real is float:
                rnn_point_f32(cell, z + row * GH, h + row * H)
            else:
                rnn_point_f64(cell, z + row * GH, h + row * H)
        return
    out = h if cell.weight_hr == NULL else extra
    for row in range(n):
        if real is float:
            lstm_point_f32(cell, z + row * GH, c + row * H, out + row * H)
        else:
            lstm_point_f64(cell, z + row * GH, c + row * H, out + row * H)
    if cell.weight_hr != NULL:
        if cell.bias_hr != NULL:
            for row in range(n):
                memcpy(h + row * P, cell.bias_hr, P * sizeof(real))
        matmul[real](n, P, H, extra, H, <const real*> cell.weight_hr, 1 if cell.bias_hr != NULL else 0, h, P)
        if real is float:
            clip_f32(n * P, h, cell.proj_clip)
        else:
            clip_f64(n * P, h, cell.proj_clip)


cdef int time_loop(const rnncore_cell* cell, const Sequences* batch, const real* x, real* y, real* h, real* c,
                   real* extra, real* z, real* gathered, Py_ssize_t rows_max, double* work) except -1 nogil:
    """All steps. h (B, P) and c (B, H): states of the sorted rows, in and out; extra (B, H), z (rows_max, G*H) and
    gathered (rows_max, I) are scratch; rows_max >= B. y may be NULL. work: what was done since the last look at
    signals."""
    cdef Py_ssize_t step = 0, first, row, rows, n, source, at, t
    cdef Py_ssize_t P = cell.output_size, K = cell.input_size, GH = cell.gates * cell.hidden_size
    cdef Py_ssize_t longest = steps_of(batch)
    cdef bint preload = cell.bias != NULL and cell.layer_norm == LN_NONE
    cdef bint dense = (batch.B == 1 and not batch.reverse and batch.steps == NULL and batch.x_time == K)
    cdef const real* xs
    cdef double row_cost = <double> GH * (K + P + WORK_OF_AN_ACTIVATION) + WORK_OF_A_STEP
    n = batch.B
    while step < longest:
        # The chunk: whole steps until rows_max rows are gathered.
        first = step
        rows = 0
        while step < longest:
            if batch.lengths != NULL:
                while n > 0 and batch.lengths[n - 1] <= step:
                    n -= 1
            if rows + n > rows_max:
                break
            if not dense:
                for row in range(n):
                    source = batch.order[row] if batch.order != NULL else row
                    at = source * batch.x_batch + time_of(batch, row, step) * batch.x_time
                    memcpy(gathered + (rows + row) * K, x + at, K * sizeof(real))
            rows += n
            step += 1
        xs = x + first * batch.x_time if dense else gathered
        if preload:
            for row in range(rows):
                memcpy(z + row * GH, cell.bias, GH * sizeof(real))
        matmul[real](rows, GH, K, xs, K, <const real*> cell.weight_ih, 1 if preload else 0, z, GH)

        rows = 0
        n = batch.B
        for t in range(first, step):
            if batch.lengths != NULL:
                while n > 0 and batch.lengths[n - 1] <= t:
                    n -= 1
            one_step[real](cell, n, z + rows * GH, h, c, extra)
            if y != NULL:
                for row in range(n):
                    source = batch.order[row] if batch.order != NULL else row
                    at = time_of(batch, row, t)
                    if batch.flip:
                        at = batch.T - 1 - at
                    store[real](batch, P, h + row * P, y + source * batch.y_batch + at * batch.y_time)
            rows += n
            work[0] += n * row_cost
            if work[0] > WORK_BETWEEN_SIGNALS:
                work[0] = 0
                with gil:
                    check_signals()
    return 0


cdef inline void sorted_copy(const Sequences* batch, Py_ssize_t n, const real* given, real* sorted_rows) noexcept nogil:
    """Initial states in sorted order; zeros where none were given."""
    cdef Py_ssize_t row
    if given == NULL:
        memset(sorted_rows, 0, batch.B * n * sizeof(real))
        return
    for row in range(batch.B):
        memcpy(sorted_rows + row * n, given + (batch.order[row] if batch.order != NULL else row) * n, n * sizeof(real))


cdef inline void unsorted_copy(const Sequences* batch, Py_ssize_t n, const real* sorted_rows,
                               real* result) noexcept nogil:
    cdef Py_ssize_t row
    if result == NULL:
        return
    for row in range(batch.B):
        memcpy(result + (batch.order[row] if batch.order != NULL else row) * n, sorted_rows + row * n, n * sizeof(real))


cdef inline real* at_row(real* rows, Py_ssize_t row, Py_ssize_t stride) noexcept nogil:
    return NULL if rows == NULL else rows + row * stride


cdef int run_block(const rnncore_cell* cell, const Sequences* batch, Py_ssize_t first, Py_ssize_t rows, real* x,
                   real* y, real* h0, real* c0, real* hn, real* cn, real* memory, Py_ssize_t rows_max,
                   double* work) except -1 nogil:
    """``rows`` sorted rows from ``first`` on. memory: states, then what time_loop needs."""
    cdef Py_ssize_t H = cell.hidden_size, P = cell.output_size, GH = cell.gates * cell.hidden_size
    cdef Py_ssize_t cells = H if cell.kind == KIND_LSTM else 0
    cdef Py_ssize_t row = first if batch.order == NULL else 0
    cdef Sequences block = batch[0]
    cdef real* c = memory + rows * P
    cdef real* extra = c + rows * cells
    cdef real* z = extra + rows * H
    block.B = rows
    # With an order, its entries say where a row is; without one, rows are counted from the block's first.
    if batch.order != NULL:
        block.order = batch.order + first
    if batch.lengths != NULL:
        block.lengths = batch.lengths + first
    if batch.steps != NULL:
        block.steps = batch.steps + first * batch.T
    sorted_copy[real](&block, P, at_row[real](h0, row, P), memory)
    if cells:
        sorted_copy[real](&block, H, at_row[real](c0, row, H), c)
    time_loop[real](cell, &block, x + row * batch.x_batch, at_row[real](y, row, batch.y_batch), memory, c, extra, z,
                    z + rows_max * GH, rows_max, work)
    unsorted_copy[real](&block, P, memory, at_row[real](hn, row, P))
    if cells:
        unsorted_copy[real](&block, H, c, at_row[real](cn, row, H))
    return 0


cdef int run_direction(const rnncore_cell* cell, const Sequences* batch, real* x, real* y, real* h0, real* c0, real* hn,
                       real* cn) except -1:
    """The blocks of a call's rows, in the thread's scratch memory."""
    cdef Py_ssize_t H = cell.hidden_size, P = cell.output_size, GH = cell.gates * cell.hidden_size
    cdef Py_ssize_t B = min(batch.B, BLOCK_ROWS), rows_max = max(B, CHUNK_ROWS)
    cdef Py_ssize_t cells = H if cell.kind == KIND_LSTM else 0
    cdef Py_ssize_t first = 0
    cdef size_t size
    cdef real* memory
    cdef double work = 0
    if batch.T < rows_max // B:
        rows_max = B * max(batch.T, 1)
    size = times(plus(times(B, P + cells + H), times(rows_max, GH + cell.input_size)), sizeof(real))
    with nogil:
        memory = <real*> scratch_memory(size)
        if memory == NULL:
            with gil:
                raise MemoryError(f"no memory for a batch of {batch.B}: {size} bytes")
        while first < batch.B:
            run_block[real](cell, batch, first, min(B, batch.B - first), x, y, h0, c0, hn, cn, memory, rows_max, &work)
            first += B
    return 0


def check_cell(str kind not None, dict options not None, dict weights not None, dtype):
    """InputError unless these are the options and weights, of that dtype, of one cell: see BlasCell.

    Products of sizes fit the integers of BLAS.
    """
    cdef rnncore_cell_facts facts
    if kind not in KINDS:
        refuse(f"kind {kind!r}, expected {', '.join(KINDS)}")
    for name, known in (("coupled", COUPLED), ("layer_norm", LAYER_NORM)):
        if options.get(name) not in known or (kind != "LSTM" and options.get(name) is not None):
            refuse(f"{kind}: {name}={options.get(name)!r}, expected {', '.join(map(repr, known))}, or none of others")
    facts = rnncore_cells[<int> KINDS[kind]]
    K, H, P, G = [
        checked_size(options.get(name), name) for name in ("input_size", "hidden_size", "output_size", "gates")
    ]
    if G != facts.gates - (options.get("coupled") is not None):
        refuse(f"{kind}: gates={G}, expected {facts.gates}, or one less where two are coupled")
    if max(K, G * H, P) > BLAS_MOST or (P != H and "weight_hr" not in weights):
        refuse(f"{kind}: sizes {(K, H, P)}, expected at most {BLAS_MOST}, and P equal to H but for a projection")
    activations = options.get("activations", ())
    if len(activations) != facts.activations or any([not 0 <= number < ACT_COUNT for number, _, _ in activations]):
        refuse(f"{kind}: activations {activations!r}, expected {facts.activations} of those known")
    rows = G * H
    shapes = {
        "weight_ih": (rows, K), "weight_hh": (rows, P), "bias": (rows,), "bias_hn": (H,), "peephole": (rows - H,),
        "weight_hr": (P, H), "bias_hr": (P,), "ln_weight": (rows,), "ln_cell_weight": (H,), "ln_cell_bias": (H,),
    }
    needed = ["weight_ih", "weight_hh"]
    if options.get("layer_norm") is not None:
        needed += ["bias", "ln_weight"]
    if options.get("layer_norm") == "tf1":
        needed += ["ln_cell_weight", "ln_cell_bias"]
    for name in needed:
        if name not in weights:
            refuse(f"{kind}: {name} missing")
    for name, array in weights.items():
        if name not in shapes or not isinstance(array, np.ndarray):
            refuse(f"{kind}: {name}={array!r}, expected arrays named {', '.join(shapes)}")
        if array.dtype != dtype or array.shape != shapes[name]:
            refuse(f"{kind}.{name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shapes[name]}")


cdef int set_options(rnncore_cell* cell, str kind, dict options) except -1:
    """A cell of these options, which check_cell took, without weights."""
    memset(cell, 0, sizeof(rnncore_cell))
    cell.kind = KINDS[kind]
    cell.input_size = options["input_size"]
    cell.hidden_size = options["hidden_size"]
    cell.output_size = options["output_size"]
    cell.gates = options["gates"]
    cell.coupled = COUPLED[options.get("coupled")]
    cell.layer_norm = LAYER_NORM[options.get("layer_norm")]
    cell.reset_after = options.get("reset_after", False)
    cell.clip = limit(options.get("clip"))
    cell.cell_clip = limit(options.get("cell_clip"))
    cell.proj_clip = limit(options.get("proj_clip"))
    cell.forget_bias = options.get("forget_bias", 0.0)
    cell.epsilon = options.get("layer_norm_epsilon", 0.0)
    for i, (identity, alpha, beta) in enumerate(options["activations"]):
        cell.act[i].id = identity
        cell.act[i].alpha = alpha
        cell.act[i].beta = beta
    return 0


cdef class BlasCell:
    """One direction of one layer, ready to run: a cell's options and its weights in one dtype.

    options: the cell's fields by name, with activations as (id, alpha, beta); weights: canonical name to array of
    float32, or float64 with double_precision, kept alive and never written. InputError for others: see check_cell.
    """

    cdef rnncore_cell cell
    cdef bint double_precision
    cdef dict weights

    def __cinit__(self, str kind not None, dict options not None, dict weights not None, bint double_precision):
        cdef rnncore_cell* cell = &self.cell
        check_cell(kind, options, weights, np.float64 if double_precision else np.float32)
        set_options(cell, kind, options)
        self.weights = {name: np.require(array, None, "CA") for name, array in weights.items()}
        self.double_precision = double_precision
        cell.weight_ih = self.address("weight_ih")
        cell.weight_hh = self.address("weight_hh")
        cell.bias = self.address("bias")
        cell.bias_hn = self.address("bias_hn")
        cell.peephole = self.address("peephole")
        cell.weight_hr = self.address("weight_hr")
        cell.bias_hr = self.address("bias_hr")
        cell.ln_weight = self.address("ln_weight")
        cell.ln_cell_weight = self.address("ln_cell_weight")
        cell.ln_cell_bias = self.address("ln_cell_bias")
        load_blas()

    cdef const void* address(self, str name) except? NULL:
        array = self.weights.get(name)
        return NULL if array is None else cnp.PyArray_DATA(array)

    cdef int type_number(self):
        return cnp.NPY_FLOAT64 if self.double_precision else cnp.NPY_FLOAT32

    cdef int check_sequence(self, cnp.ndarray array, str name, Py_ssize_t size) except -1:
        check_type(array, self.type_number(), name)
        if cnp.PyArray_NDIM(array) != 3:
            refuse(f"{name}: shape {(<object> array).shape}, expected 3 dimensions")
        if cnp.PyArray_DIM(array, 2) > 1 and cnp.PyArray_SIZE(array) > 0 and cnp.PyArray_STRIDE(array, 2) != size:
            refuse(f"{name}: strides {(<object> array).strides}, expected a dense last dimension")
        return 0

    cdef void* state(self, tuple states, Py_ssize_t place, Py_ssize_t B, str name, bint written) except? NULL:
        """The state at that place, NULL if absent or if the cell has fewer states."""
        cdef cnp.ndarray array
        check_arrays(states, rnncore_cells[self.cell.kind].states, name)
        if place >= len(states):
            return NULL
        array = states[place]
        check_dense(array, self.type_number(), 2, name)
        check_shape2(array, B, self.cell.hidden_size if place else self.cell.output_size, name)
        if written:
            check_writable(array, name)
        return cnp.PyArray_DATA(array)

    def run(self, cnp.ndarray x not None, cnp.ndarray y, Py_ssize_t column, str merge not None, bint time_first,
            bint reverse, bint flip, cnp.ndarray order, cnp.ndarray lengths, cnp.ndarray steps,
            tuple before not None, tuple after not None):
        """Run the direction over x (B, T, I), or (T, B, I) with time_first.

        x is aligned, of this cell's dtype, its last dimension dense. y (same first two dimensions) receives the
        outputs at ``column`` of its last dimension, or is None; what is past a row's length is left as it is.
        order, lengths (B) and steps (B, T), int64 and dense: see Sequences; None if absent. before and after: as for
        rnncore.kernels._recurrent.Stack.run, dense (B, size).
        """
        cdef Sequences batch
        cdef Py_ssize_t size = sizeof(double) if self.double_precision else sizeof(float)
        cdef int batch_axis = 1 if time_first else 0, time_axis = 0 if time_first else 1
        cdef char* out = NULL
        cdef void* h0
        cdef void* c0
        cdef void* hn
        cdef void* cn
        cdef Py_ssize_t K = self.cell.input_size, P = self.cell.output_size
        self.check_sequence(x, "x", size)
        if cnp.PyArray_DIM(x, 2) != K:
            refuse(f"x: shape {(<object> x).shape}, expected a last dimension of {K}")
        batch.B = cnp.PyArray_DIM(x, batch_axis)
        batch.T = cnp.PyArray_DIM(x, time_axis)
        if merge not in MERGES:
            refuse(f"merge {merge!r}, expected {', '.join(MERGES)}")
        if y is not None:
            self.check_sequence(y, "y", size)
            check_writable(y, "y")
            if ((<object> y).shape[:2] != (<object> x).shape[:2] or column < 0
                    or column > cnp.PyArray_DIM(y, 2) - P):
                refuse(f"y: shape {(<object> y).shape} for {P} outputs at {column} of x {(<object> x).shape}")
        check_rows(order, lengths, steps, batch.B, batch.T)
        h0, c0 = self.state(before, 0, batch.B, "before", False), self.state(before, 1, batch.B, "before", False)
        hn, cn = self.state(after, 0, batch.B, "after", True), self.state(after, 1, batch.B, "after", True)
        if batch.B == 0:
            return
        batch.x_batch = cnp.PyArray_STRIDE(x, batch_axis) // size
        batch.x_time = cnp.PyArray_STRIDE(x, time_axis) // size
        batch.y_batch = batch.y_time = 0
        if y is not None:
            batch.y_batch = cnp.PyArray_STRIDE(y, batch_axis) // size
            batch.y_time = cnp.PyArray_STRIDE(y, time_axis) // size
            out = <char*> cnp.PyArray_DATA(y) + column * size
        batch.merge = MERGES[merge]
        batch.reverse = reverse
        batch.flip = flip
        batch.order = <const int64_t*> optional_data(order)
        batch.lengths = <const int64_t*> optional_data(lengths)
        batch.steps = <const int64_t*> optional_data(steps)
        if self.double_precision:
            run_direction[double](&self.cell, &batch, <double*> cnp.PyArray_DATA(x), <double*> out,
                                  <double*> h0, <double*> c0, <double*> hn, <double*> cn)
        else:
            run_direction[float](&self.cell, &batch, <float*> cnp.PyArray_DATA(x), <float*> out,
                                 <float*> h0, <float*> c0, <float*> hn, <float*> cn)


cdef double limit(value) except? -1:
    return INFINITY if value is None else value


cdef inline void* optional_data(cnp.ndarray array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(array)
