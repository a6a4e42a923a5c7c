# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The time loop over packed SIMD kernels (native/), float32: GIL released, nothing allocated inside.

Weights are packed once into panels (native/native.h). For a chunk of time steps the input product of all its rows
is made at once, straight from the rows of x; then each step adds the recurrent product, panel by panel, and finishes
the units of that panel while its pre-activations are still in registers. The walk over the panels turns round at
every step, so that it begins with what the cache still holds. For a single row the next chunk's input product is made
beside the steps (native/ahead_body.h).

Threads share a direction by panels, each keeping the same ones for the whole sequence and meeting the others after
every step; or by rows, without meeting at all. Either way each output is the same chain of operations, so its bits
do not depend on how the work was shared.

What the fused steps do not cover (layer norm, other activations) takes plain panels of one vector and finishes rows
with cell.h.
"""

import os

import numpy as np

from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, memset

cimport numpy as cnp
from cpython.dict cimport PyDict_Size
from cpython.object cimport PyObject, PyTypeObject, ternaryfunc
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.type cimport PyType_Modified

from rnncore.kernels._checks cimport (
    MAX_RANK, as_dense, check_dense, check_rows, check_shape3, check_type, check_writable, plus, refuse, times,
)
from rnncore.kernels._job cimport MERGE_SET, Job, Merge, steps_of, store, time_of
from rnncore.kernels._signals cimport check_signals, handler_raised

from rnncore.errors import UnsupportedError
from rnncore.kernels._engine import MERGES, check_cell

cnp.import_array()


cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "native/native.h":
    ctypedef struct rnncore_act:
        int id
        double alpha
        double beta

    ctypedef struct rnncore_cell:
        int kind, coupled, layer_norm, reset_after
        Py_ssize_t input_size, hidden_size, output_size, gates
        double clip, cell_clip, proj_clip, forget_bias, epsilon
        rnncore_act act[5]
        const void* bias
        const void* bias_hn
        const void* peephole
        const void* ln_weight
        const void* ln_cell_weight
        const void* ln_cell_bias

    int KIND_RNN, KIND_LSTM, KIND_GRU
    int COUPLED_NONE, COUPLED_INPUT, COUPLED_FORGET
    int LN_NONE, LN_TF1, LN_TFLITE
    int ACT_tanh, ACT_relu

    ctypedef struct rnncore_panels:
        const float* data
        Py_ssize_t panels, K
        int V

    ctypedef struct rnncore_rows:
        const float* base
        const Py_ssize_t* offset
        Py_ssize_t stride

    ctypedef struct rnncore_point:
        const float* bias_hn
        const float* peephole
        float clip, cell_clip, forget_bias
        int relu, coupled

    enum rnncore_rational:
        RATIONAL_SIGMOID, RATIONAL_TANH, RATIONAL_SWISH

    ctypedef void rnncore_step(const rnncore_panels* w, const rnncore_point* point, Py_ssize_t first, Py_ssize_t last,
                               int down, Py_ssize_t n, float* z, Py_ssize_t z_stride, const float* h,
                               Py_ssize_t h_stride, float* next, Py_ssize_t next_stride, float* c,
                               Py_ssize_t c_stride) noexcept nogil

    ctypedef struct rnncore_ahead:
        const rnncore_panels* w
        const float* x
        const float* start
        float* z
        float* chain
        Py_ssize_t z_stride
        int visit

    int AHEAD_ROWS(int V) nogil

    ctypedef void rnncore_ahead_step(const rnncore_panels* w, const rnncore_point* point, Py_ssize_t first,
                                     Py_ssize_t last, int down, const float* z, const float* h, float* next, float* c,
                                     const rnncore_ahead* ahead) noexcept nogil

    ctypedef struct rnncore_isa:
        const char* name
        int width
        void (*product)(const rnncore_panels* w, Py_ssize_t first, Py_ssize_t last, Py_ssize_t n,
                        const rnncore_rows* a, const float* start, float* z, Py_ssize_t z_stride) noexcept nogil
        rnncore_step* lstm_step
        rnncore_step* lstm_plain_step
        rnncore_step* coupled_step
        rnncore_step* gru_step
        rnncore_step* gru_plain_step
        rnncore_step* reset_step
        rnncore_step* candidate_step
        rnncore_step* rnn_step
        rnncore_ahead_step* lstm_ahead
        rnncore_ahead_step* lstm_plain_ahead
        rnncore_ahead_step* coupled_ahead
        rnncore_ahead_step* gru_ahead
        rnncore_ahead_step* gru_plain_ahead
        rnncore_ahead_step* rnn_ahead
        void (*pack_ahead)(Py_ssize_t n, int there, const float* source, Py_ssize_t stride, float* to,
                           int R) noexcept nogil
        void (*rnn_point)(const rnncore_cell* cell, float* z, float* h) noexcept nogil
        void (*lstm_point)(const rnncore_cell* cell, float* z, float* c, float* out) noexcept nogil
        void (*gru_gates)(const rnncore_cell* cell, float* z, const float* h, float* rh) noexcept nogil
        void (*gru_point)(const rnncore_cell* cell, float* z, const float* hn, float* h) noexcept nogil
        void (*clip)(Py_ssize_t n, float* x, double limit) noexcept nogil
        void (*rational)(rnncore_rational f, Py_ssize_t n, const float* x, float* y) noexcept nogil

    const rnncore_isa** rnncore_isas
    int rnncore_isa_usable(const rnncore_isa* isa)

cdef extern from "native/pool.h":
    enum:
        RNNCORE_MAX_THREADS
    ctypedef void rnncore_task(int index, int threads, void* argument) noexcept nogil
    void rnncore_pool_run(int threads, rnncore_task* task, void* argument) nogil
    int rnncore_ask_threads(int threads) noexcept nogil
    int rnncore_asked_threads(int of_model) noexcept nogil
    void rnncore_put(Py_ssize_t* word, Py_ssize_t value) noexcept nogil
    Py_ssize_t rnncore_get(const Py_ssize_t* word) noexcept nogil
    ctypedef struct rnncore_barrier:
        long long patience
    void rnncore_barrier_arrive(rnncore_barrier* barrier, int index) noexcept nogil
    void rnncore_barrier_wait(rnncore_barrier* barrier, int index, int threads) noexcept nogil
    void rnncore_barrier_end(const rnncore_barrier* barrier, int index) noexcept nogil
    void rnncore_publish(Py_ssize_t* count, Py_ssize_t value) noexcept nogil
    Py_ssize_t rnncore_await(const Py_ssize_t* count, Py_ssize_t least, const Py_ssize_t* stop) noexcept nogil

cdef extern from "native/scratch.h":
    void* rnncore_scratch(size_t size) nogil
    int rnncore_turn() noexcept nogil
    unsigned rnncore_flush_subnormals() noexcept nogil
    void rnncore_restore_subnormals(unsigned before) noexcept nogil


# Weights of so many bytes come in quickly again and again; what is larger lies far away.
cdef Py_ssize_t LARGEST_NEAR = 6 << 20

# Rows of input that one product takes at least, where the sequences have as many: enough to reuse the weights from
# cache, few enough that the chunk's pre-activations stay there too. More where the weights come from far away; of a
# single row not quite as many.
cdef Py_ssize_t CHUNK_ROWS = 48
cdef Py_ssize_t FAR_CHUNK_ROWS = 192
cdef Py_ssize_t FAR_CHUNK_OF_ONE = 96

# Multiply-adds between two looks at pending signals: a few milliseconds' work. What a step of a row, and where no fused
# kernel finishes it each of its pre-activations, costs beside its own counts as so many of them.
cdef double WORK_BETWEEN_SIGNALS = 2e8
cdef double WORK_OF_A_STEP = 1e3
cdef double WORK_OF_AN_ACTIVATION = 500

# A step is shared by panels where every thread gets at least this many multiply-adds out of it: meeting costs about
# 0.2 microseconds, in which one thread makes some 15,000.
cdef double STEP_WORTH_SHARING = 12e3

# The next rows' input product is made beside the steps of a single row where a thread's recurrent weights are more than
# the first cache keeps of them from one step to the next, and all threads' together are near: what comes in from far
# away is held up by another stream of weights.
cdef Py_ssize_t LEAST_AHEAD = 56 << 10

# A product made ahead takes one vector of a panel at a visit. Input weights of more bytes than this come out of the
# last cache, which is quick only where those of a vector stand one behind the other. A call of one step takes all
# vectors, and is a little quicker where they are one stream.
cdef Py_ssize_t LARGEST_TOGETHER = 1 << 20

# Layers run side by side where a layer's recurrent weights fit the cache of one core; a layer then waits for so many
# steps of the one before, which are enough to make one product of.
cdef Py_ssize_t LARGEST_SIDE_BY_SIDE = 1 << 20
cdef Py_ssize_t STEPS_AHEAD = 8

# Bytes of the outputs of all their layers, which are kept where two layers' would do otherwise.
cdef size_t LARGEST_BETWEEN = 64 << 20

# What a meeting costs, in multiply-adds.
cdef double WORK_OF_A_MEETING = 15e3

# Nanoseconds of a multiply-add at most: where its weight comes out of main memory.
cdef double SLOWEST_MULTIPLY_ADD = 0.1

# Rows are shared where every thread gets at least this many: as many as a register tile holds.
cdef Py_ssize_t ROWS_WORTH_SHARING = 6

# Rows that run together at most: their pre-activations stay in cache, and memory does not grow with the batch.
cdef Py_ssize_t BLOCK_ROWS = 96

# Below so many multiply-adds, a few microseconds, a call keeps the GIL: giving it away and getting it back costs more.
cdef double WORK_WITH_GIL = 200e3

# A call is shared where it has at least this many multiply-adds: waking a thread costs some microseconds.
cdef double CALL_WORTH_SHARING = 400e3

cdef enum:
    WORDS_OF_A_LINE = 8

cdef const rnncore_isa* isa = NULL


def usable_isas():
    """Names of the instruction sets that this build has and this machine can run, best first."""
    names = []
    i = 0
    while rnncore_isas[i] != NULL:
        if rnncore_isa_usable(rnncore_isas[i]):
            names.append(rnncore_isas[i].name.decode())
        i += 1
    return names


def choose_isa(str name):
    """Use the table of that name, or the best one; cells packed before must not be run any more.

    UnsupportedError where the machine cannot run it.
    """
    global isa
    names = usable_isas()
    if name is not None and name not in names:
        raise UnsupportedError(f"instruction set {name!r}: this machine and build run {', '.join(names)} and blas")
    i = 0
    while isa_name(i) != (names[0] if name is None else name):
        i += 1
    isa = rnncore_isas[i]


cdef isa_name(int i):
    return rnncore_isas[i].name.decode()


def current_isa():
    """Name of the instruction set in use."""
    return isa.name.decode()


def ask_threads(int threads):
    """The calling thread's calls use so many threads from now on, 0 for what models say. Returns the number before."""
    if threads < 0:
        refuse(f"threads={threads}, expected 0 or more")
    return rnncore_ask_threads(threads)


# What one thread needs to know: the whole direction, its share of panels, and where all meet.
cdef struct Run:
    const Plan* plan
    const Job* job
    const float* x
    float* y
    const int64_t* ids      # in place of x: rows of the table; the job's x strides are theirs
    const float* table      # (ids, z_stride): the input product of each id, bias included
    const int64_t* x_order  # (B): row of x of each sorted row, or NULL where they are the same
    const int64_t* y_order  # the same for y
    const int64_t* slots    # the same for h0, c0, hn and cn, where they have more rows than x; NULL: as the job's order
    const float* h0
    const float* c0
    float* hn
    float* cn
    float* h            # (2, B, P padded): the outputs of two steps in turn
    float* c            # (B, H padded)
    float* out          # (B, H padded): before the projection, or r * h
    float* z            # (rows_max, z_stride), or where products are made ahead three times AHEAD_ROWS
    float* x_ahead      # (2, input size, AHEAD_ROWS): inputs of two chunks in turn
    Py_ssize_t* offsets  # (rows_max): rows of x in the chunk
    Py_ssize_t rows_max
    rnncore_barrier* barrier
    Py_ssize_t* interrupted  # set where a signal handler raised: the call's remaining runs are left out
    # The step after which all threads of this run leave: written before they meet, so that a thread that is still
    # behind goes on to that meeting.
    Py_ssize_t stop
    bint signals        # whether to look for signals at all: only where a call may be long
    void* pending       # the list for what a handler raised
    double work         # since the last look
    # Where layers run side by side: steps of x that stand, and of y; each NULL where nobody waits.
    const Py_ssize_t* ready
    Py_ssize_t* done


# A packed cell: what the loop needs, without Python.
cdef struct Plan:
    rnncore_cell cell
    int V                   # vectors of a panel's units in z: the gates, or 1 where the cell is not fused
    rnncore_panels w_ih     # of V vectors, or where these stand apart of 1
    int apart               # panels of w_ih to a panel of units
    rnncore_panels w_hh
    rnncore_panels w_in     # GRU, generic: W_n, whose part of z stands apart
    rnncore_panels w_n      # GRU, generic or with reset before the product: R_n
    rnncore_panels w_hr     # projection
    rnncore_point point
    rnncore_step* step      # fused, or NULL
    rnncore_step* second    # GRU with reset before the product: what comes after r * h
    rnncore_ahead_step* ahead  # step of one row that makes the next rows' input product beside it, or NULL
    const float* bias       # in the order of z, padded
    const float* bias_hr    # padded
    Py_ssize_t z_stride, h_stride, c_stride
    Py_ssize_t z_n          # GRU, generic: where the n part of a row of z begins
    const rnncore_isa* isa


cdef inline void share(Py_ssize_t count, int index, int threads, Py_ssize_t* first, Py_ssize_t* last) noexcept nogil:
    """The index-th of ``threads`` nearly equal parts of range(count)."""
    first[0] = count * index // threads
    last[0] = count * (index + 1) // threads


cdef inline Py_ssize_t state_row(const Run* run, Py_ssize_t row) noexcept nogil:
    """Row of the states that belongs to a sorted row."""
    if run.slots != NULL:
        return run.slots[row]
    return run.job.order[row] if run.job.order != NULL else row


cdef void load_states(const Run* run, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Initial states of sorted rows first..last-1, padded; zeros where none were given."""
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t row, source, P = plan.cell.output_size, H = plan.cell.hidden_size
    for row in range(first, last):
        source = state_row(run, row)
        memset(run.h + row * plan.h_stride, 0, plan.h_stride * sizeof(float))
        if run.h0 != NULL:
            memcpy(run.h + row * plan.h_stride, run.h0 + source * P, P * sizeof(float))
        if run.c != NULL:
            memset(run.c + row * plan.c_stride, 0, plan.c_stride * sizeof(float))
            if run.c0 != NULL:
                memcpy(run.c + row * plan.c_stride, run.c0 + source * H, H * sizeof(float))


cdef void save_states(const Run* run, Py_ssize_t first, Py_ssize_t last, const float* h) noexcept nogil:
    """Final states of sorted rows first..last-1, whose last outputs are in ``h``."""
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t row, target, P = plan.cell.output_size, H = plan.cell.hidden_size
    for row in range(first, last):
        target = state_row(run, row)
        if run.hn != NULL:
            memcpy(run.hn + target * P, h + row * plan.h_stride, P * sizeof(float))
        if run.cn != NULL:
            memcpy(run.cn + target * H, run.c + row * plan.c_stride, H * sizeof(float))


cdef inline void meet(const Run* run, int index, int threads) noexcept nogil:
    if threads > 1:
        rnncore_barrier_arrive(run.barrier, index)
        rnncore_barrier_wait(run.barrier, index, threads)


cdef void store_outputs(const Run* run, Py_ssize_t step, Py_ssize_t n, const float* h, Py_ssize_t first,
                        Py_ssize_t last) noexcept nogil:
    """Columns first..last-1 of the outputs of n rows, to y."""
    cdef const Job* job = run.job
    cdef Py_ssize_t row, source, at
    if run.y == NULL or first >= last:
        return
    for row in range(n):
        source = run.y_order[row] if run.y_order != NULL else row
        at = time_of(job, row, step)
        if job.flip:
            at = job.T - 1 - at
        store[float](job, last - first, h + row * run.plan.h_stride + first,
                     run.y + source * job.y_batch + at * job.y_time + first)


cdef inline Py_ssize_t unit_panels(const Plan* plan) noexcept nogil:
    """Panels of units, whose vectors may stand apart in w_ih."""
    return plan.w_ih.panels // plan.apart


cdef void input_product(const Plan* plan, const rnncore_rows* x, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                        float* z) noexcept nogil:
    """W x + b of n rows, units' panels first..last-1 (all of them where the cell is not fused), in the order of z."""
    plan.isa.product(&plan.w_ih, first * plan.apart, last * plan.apart, n, x, plan.bias, z, plan.z_stride)
    if plan.w_in.data != NULL:
        plan.isa.product(&plan.w_in, 0, plan.w_in.panels, n, x, plan.bias + plan.z_n, z + plan.z_n, plan.z_stride)


cdef void gather(const Run* run, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The same out of the table, columns first..last-1."""
    cdef Py_ssize_t row, stride = run.plan.z_stride
    for row in range(n):
        memcpy(run.z + row * stride + first, run.table + run.ids[run.offsets[row]] * stride + first,
               (last - first) * sizeof(float))


cdef rnncore_rows rows_of_one(const Run* run, Py_ssize_t step) noexcept nogil:
    """Rows of x from ``step`` on, where the batch is one row whose steps nobody chose."""
    cdef const Job* job = run.job
    cdef rnncore_rows rows
    cdef Py_ssize_t source = run.x_order[0] if run.x_order != NULL else 0
    rows.base = run.x + source * job.x_batch + time_of(job, 0, step) * job.x_time
    rows.stride = -job.x_time if job.reverse else job.x_time
    rows.offset = NULL
    return rows


cdef bint ahead_pays(const Run* run, int threads) noexcept nogil:
    """Whether steps of one row wait so long for a thread's weights that products fit in between; the same for all."""
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t size = weight_bytes(plan, &plan.w_hh)
    if plan.ahead == NULL or run.ready != NULL or run.done != NULL or steps_of(run.job) < 2 * AHEAD_ROWS(plan.V):
        return False
    if 2 * plan.w_ih.K < plan.w_hh.K or plan.w_ih.K > 2 * plan.w_hh.K:  # too little to make, or to make it beside
        return False
    return size <= LARGEST_NEAR and size // plan.w_hh.panels * (plan.w_hh.panels // threads) >= LEAST_AHEAD


cdef void start_ahead(const Run* run, rnncore_ahead* ahead) noexcept nogil:
    cdef const Plan* plan = run.plan
    ahead.w = &plan.w_ih
    ahead.start = plan.bias
    ahead.z_stride = plan.z_stride
    ahead.chain = run.z + 2 * AHEAD_ROWS(plan.V) * plan.z_stride


cdef void next_ahead(const Run* run, rnncore_ahead* ahead, Py_ssize_t chunk) noexcept nogil:
    """While a chunk is stepped through, the next one's product is made, where that of the one before stood."""
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t rows = AHEAD_ROWS(plan.V), turn = (chunk + 1) % 2
    ahead.visit = 0
    ahead.x = run.x_ahead + turn * rows * plan.w_ih.K
    ahead.z = run.z + turn * rows * plan.z_stride


cdef void pack_ahead(const Run* run, Py_ssize_t start, int index, int threads) noexcept nogil:
    """Inputs of the chunk from step ``start`` on, this thread's part of them; zeros behind the last one.

    Others read them one chunk later, so that a meeting of the steps in between is enough.
    """
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t rows = AHEAD_ROWS(plan.V), there = min(rows, steps_of(run.job) - start), first, last
    cdef float* x = run.x_ahead + start // rows % 2 * rows * plan.w_ih.K
    cdef rnncore_rows source
    if there <= 0:
        return
    share(plan.w_ih.K, index, threads, &first, &last)
    source = rows_of_one(run, start)
    plan.isa.pack_ahead(last - first, there, source.base + first, source.stride, x + first * rows, rows)


cdef void single_step(const Run* run, const rnncore_rows* x, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                      const float* h, float* next) noexcept nogil:
    """Input product and step of a call that has one step, for panels first..last-1, a few at a time.

    Such calls come one after the other, and each reads all weights: so each walks the other way than the last one,
    and begins with what the cache still holds.
    """
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t group = 8 if plan.V == 1 else (3 if plan.V == 3 else 2)
    cdef Py_ssize_t groups = (last - first + group - 1) // group, i, j, end
    cdef bint back = rnncore_turn()
    cdef float* target = next
    cdef Py_ssize_t stride = plan.h_stride
    if plan.w_hr.data != NULL:
        target, stride = run.out, plan.c_stride
    for i in range(groups):
        j = first + (groups - 1 - i if back else i) * group
        end = min(j + group, last)
        input_product(plan, x, n, j, end, run.z)
        plan.step(&plan.w_hh, &plan.point, j, end, 0, n, run.z, plan.z_stride, h, plan.h_stride, target, stride,
                  run.c, plan.c_stride)


cdef void generic_step(const Run* run, Py_ssize_t n, float* z, const float* h, float* next) noexcept nogil:
    """One step of n rows that the fused kernels do not cover."""
    cdef const Plan* plan = run.plan
    cdef const rnncore_cell* cell = &plan.cell
    cdef const rnncore_isa* kernels = plan.isa
    cdef rnncore_rows rows
    cdef Py_ssize_t row, H = cell.hidden_size
    cdef float* hn
    rows.base = h
    rows.offset = NULL
    rows.stride = plan.h_stride
    if cell.kind == KIND_GRU:
        # z holds the input product of r and z, and from z_n on that of n; out receives R_n h + b_hn, or r * h.
        kernels.product(&plan.w_hh, 0, plan.w_hh.panels, n, &rows, NULL, z, plan.z_stride)
        if cell.reset_after:
            kernels.product(&plan.w_n, 0, plan.w_n.panels, n, &rows, plan.point.bias_hn, run.out, plan.c_stride)
        for row in range(n):
            hn = NULL if cell.reset_after else run.out + row * plan.c_stride
            kernels.gru_gates(cell, z + row * plan.z_stride, h + row * plan.h_stride, hn)
        if not cell.reset_after:
            rows.base = run.out
            rows.stride = plan.c_stride
            kernels.product(&plan.w_n, 0, plan.w_n.panels, n, &rows, NULL, z + plan.z_n, plan.z_stride)
        for row in range(n):
            memmove(z + row * plan.z_stride + 2 * H, z + row * plan.z_stride + plan.z_n, H * sizeof(float))
            memcpy(next + row * plan.h_stride, h + row * plan.h_stride, H * sizeof(float))
            hn = run.out + row * plan.c_stride if cell.reset_after else NULL
            kernels.gru_point(cell, z + row * plan.z_stride, hn, next + row * plan.h_stride)
        return
    kernels.product(&plan.w_hh, 0, plan.w_hh.panels, n, &rows, NULL, z, plan.z_stride)
    for row in range(n):
        if cell.kind == KIND_RNN:
            kernels.rnn_point(cell, z + row * plan.z_stride, next + row * plan.h_stride)
        else:
            kernels.lstm_point(cell, z + row * plan.z_stride, run.c + row * plan.c_stride,
                               run.out + row * plan.c_stride if plan.w_hr.data != NULL else next + row * plan.h_stride)


cdef void time_loop(Run* run, int index, int threads) noexcept nogil:
    """All steps of one direction, by one of ``threads`` threads that share its panels."""
    cdef const Plan* plan = run.plan
    cdef const Job* job = run.job
    cdef const rnncore_isa* kernels = plan.isa
    cdef Py_ssize_t step = 0, start, t, row, rows, n, n_next, source, available
    cdef Py_ssize_t W = kernels.width, longest = steps_of(job)
    cdef Py_ssize_t first, last, z_first, z_last, p_first = 0, p_last = 0, column, column_end
    cdef float* h = run.h
    cdef float* other = run.h + job.B * plan.h_stride
    cdef float* target
    cdef rnncore_rows x_rows, out_rows
    cdef bint plain = run.table == NULL and job.order == NULL and job.lengths == NULL and job.steps == NULL
    cdef bint lone = run.table == NULL and job.B == 1 and job.steps == NULL  # rows of x are evenly apart
    cdef bint single = job.T == 1 and plan.step != NULL and plan.second == NULL and run.table == NULL
    cdef bint aside = plan.w_hr.data != NULL or plan.second != NULL  # whether a step's result is not yet the output
    cdef double work = run.work, row_cost = cost_of_row(plan)
    cdef Py_ssize_t rows_max = run.rows_max
    cdef float* z
    cdef bint look_ahead, beside
    cdef rnncore_ahead ahead
    share(plan.w_hh.panels, index, threads, &first, &last)
    share(unit_panels(plan), index, threads, &z_first, &z_last)
    if plan.w_hr.data != NULL:
        share(plan.w_hr.panels, index, threads, &p_first, &p_last)
        column, column_end = p_first * W, min(p_last * W, plan.cell.output_size)
    elif plan.step != NULL:
        column, column_end = first * W, min(last * W, plan.cell.hidden_size)
    else:
        column, column_end = 0, plan.cell.output_size

    look_ahead = lone and ahead_pays(run, threads)
    if look_ahead:
        rows_max = AHEAD_ROWS(plan.V)
        start_ahead(run, &ahead)
        pack_ahead(run, rows_max, index, threads)
    if index == 0:
        load_states(run, 0, job.B)
    meet(run, index, threads)
    n = job.B
    while step < longest:
        # The chunk: whole steps until rows_max rows are named.
        start = step
        rows = 0
        n_next = n
        available = longest
        if run.done != NULL:  # the next layer waits
            available = min(available, step + 2 * STEPS_AHEAD)
        if run.ready != NULL:
            available = min(available, rnncore_await(run.ready, min(step + STEPS_AHEAD, longest), run.interrupted))
            if available <= step:
                return
        while step < available:
            if job.lengths != NULL:
                while n_next > 0 and job.lengths[n_next - 1] <= step:
                    n_next -= 1
            if rows + n_next > rows_max:
                break
            rows += n_next
            step += 1
        if lone:
            x_rows = rows_of_one(run, start)
        elif plain and step == start + 1:
            x_rows.base = run.x + (start if not job.reverse else job.T - 1 - start) * job.x_time
            x_rows.stride = job.x_batch
            x_rows.offset = NULL
        else:
            x_rows.base = run.x
            x_rows.stride = 0
            x_rows.offset = run.offsets
            if index == 0:
                rows = 0
                n_next = n
                for t in range(start, step):
                    if job.lengths != NULL:
                        while n_next > 0 and job.lengths[n_next - 1] <= t:
                            n_next -= 1
                    for row in range(n_next):
                        source = run.x_order[row] if run.x_order != NULL else row
                        run.offsets[rows + row] = source * job.x_batch + time_of(job, row, t) * job.x_time
                    rows += n_next
            meet(run, index, threads)
        z = run.z
        beside = look_ahead and step < longest
        if look_ahead:
            z += start // rows_max % 2 * rows_max * plan.z_stride
            next_ahead(run, &ahead, start // rows_max)
            if beside:
                pack_ahead(run, step + rows_max, index, threads)
        if single:
            single_step(run, &x_rows, rows, first, last, h, other)
        elif look_ahead and start > 0:
            pass  # made beside the chunk before
        elif run.table != NULL:
            gather(run, rows, z_first * plan.V * W, z_last * plan.V * W if index + 1 < threads else plan.z_stride)
        else:
            input_product(plan, &x_rows, rows, z_first, z_last, run.z)

        rows = 0
        for t in range(start, step):
            if job.lengths != NULL:
                n_next = n
                while n_next > 0 and job.lengths[n_next - 1] <= t:
                    n_next -= 1
                if n_next < n and index == 0:
                    save_states(run, n_next, n, h)
                n = n_next
            target = run.out if aside else other
            if single:
                pass
            elif beside:
                plan.ahead(&plan.w_hh, &plan.point, first, last, t & 1, z + rows * plan.z_stride, h, other, run.c,
                           &ahead)
                ahead.visit += 1
            elif plan.step != NULL:
                plan.step(&plan.w_hh, &plan.point, first, last, t & 1, n, z + rows * plan.z_stride, plan.z_stride,
                          h, plan.h_stride, target, plan.c_stride if aside else plan.h_stride, run.c, plan.c_stride)
            else:
                generic_step(run, n, z + rows * plan.z_stride, h, other)
            if plan.second != NULL:
                meet(run, index, threads)
                plan.second(&plan.w_n, &plan.point, first, last, t & 1, n, z + rows * plan.z_stride, plan.z_stride,
                            run.out, plan.c_stride, other, plan.h_stride, h, plan.h_stride)
            elif plan.w_hr.data != NULL:
                meet(run, index, threads)
                out_rows.base = run.out
                out_rows.offset = NULL
                out_rows.stride = plan.c_stride
                kernels.product(&plan.w_hr, p_first, p_last, n, &out_rows, plan.bias_hr, other, plan.h_stride)
                if plan.cell.proj_clip < INFINITY:
                    for row in range(n):
                        kernels.clip((p_last - p_first) * W, other + row * plan.h_stride + p_first * W,
                                     plan.cell.proj_clip)
            work += n * row_cost
            if work > WORK_BETWEEN_SIGNALS:
                work = 0
                if run.signals and index == 0:
                    if handler_raised(run.pending):
                        rnncore_put(run.interrupted, 1)
                        rnncore_put(&run.stop, t)
                elif threads == 1 and rnncore_get(run.interrupted):
                    return
            if threads > 1:
                rnncore_barrier_arrive(run.barrier, index)
            store_outputs(run, t, n, other, column, column_end)  # nobody writes to ``other`` before the next arrival
            if run.done != NULL:
                rnncore_publish(run.done, t + 1)
            rows += n
            h, other = other, h
            if threads > 1:
                rnncore_barrier_wait(run.barrier, index, threads)
            if t >= rnncore_get(&run.stop):
                return
    if index == 0:
        save_states(run, 0, n, h)
        run.work = work


# Exceptions of signal handlers, on their way from the loop to the call that started it.
cdef list pending = []


cdef void by_panels(int index, int threads, void* argument) noexcept nogil:
    """Task: all threads share the panels of one run."""
    cdef unsigned before = rnncore_flush_subnormals()
    time_loop(<Run*> argument, index, threads)
    if threads > 1:
        rnncore_barrier_end((<Run*> argument).barrier, index)
    rnncore_restore_subnormals(before)


# One call of a stack: every layer and direction over the same rows.
cdef struct Call:
    const Plan** plans      # (layers * directions)
    int layers, directions
    bint reverse            # the only direction is the reverse one
    Merge merge             # of the second direction's outputs between layers; MERGE_SET: beside the first's
    Merge last_merge        # and in y
    Py_ssize_t width        # of a layer's output
    Job job                 # strides of x and y, lengths and order of all rows
    const float* x
    const int64_t* ids      # in place of x, with a table for each direction of the first layer
    const float* const* tables
    float* y                # NULL where nobody wants the sequence
    const float* h0         # each (layers * directions, B, size), or NULL
    const float* c0
    float* hn
    float* cn
    const int64_t* slots    # (B) row of the states of each sorted row, or NULL where they are those of x
    Py_ssize_t state_batch  # rows of the states in each layer and direction; 0 for those of x
    bint has_c
    double row_work, work   # multiply-adds of one step of one row, and of the call
    double row_cost         # the same with what it costs beside them
    bint signals            # whether the call may be so long that somebody wants to interrupt it
    void* pending           # the list for what a handler raised
    Py_ssize_t interrupted  # set by the calling thread
    int threads
    # Rows in blocks, which threads take in turn, each with scratch of its own.
    Py_ssize_t* bounds      # (blocks + 1)
    Py_ssize_t blocks
    char* scratch
    size_t scratch_size


cdef void prepare_run(Call* call, Run* run, Job* job, int layer, int direction, Py_ssize_t first, Py_ssize_t last,
                      float* before, float* behind) noexcept nogil:
    """One layer and direction over sorted rows first..last-1.

    before and behind hold the outputs of the layer before and of this one, (T, rows, width); the first layer reads
    x and the last writes y.
    """
    cdef const Plan* plan = call.plans[layer * call.directions + direction]
    cdef Py_ssize_t P = plan.cell.output_size, H = plan.cell.hidden_size, B = last - first
    cdef Py_ssize_t state = (layer * call.directions + direction) * call.state_batch
    cdef bint moved = call.job.order == NULL and first > 0
    cdef Merge merge = call.last_merge if layer == call.layers - 1 else call.merge
    memset(run, 0, sizeof(Run))
    job[0] = call.job
    job.B = B
    job.reverse = call.reverse or direction == 1
    job.merge = merge if direction == 1 else MERGE_SET
    if job.order != NULL:
        job.order = job.order + first
        job.lengths = job.lengths + first
        if job.steps != NULL:
            job.steps = job.steps + first * job.T
    run.plan = plan
    run.job = job
    run.interrupted = &call.interrupted
    run.pending = call.pending
    run.stop = PY_SSIZE_T_MAX
    if layer == 0:
        if call.tables != NULL:
            run.ids = call.ids + (first * job.x_batch if moved else 0)
            run.table = call.tables[direction]
        else:
            run.x = call.x + (first * job.x_batch if moved else 0)
        run.x_order = job.order
    else:
        run.x = before
        run.x_order = NULL
        job.x_batch, job.x_time = call.width, B * call.width
    if layer == call.layers - 1:
        run.y = call.y
        run.y_order = job.order
        if moved and run.y != NULL:
            run.y += first * job.y_batch
    else:
        run.y = behind
        run.y_order = NULL
        job.y_batch, job.y_time, job.flip = call.width, B * call.width, False
    if run.y != NULL and direction == 1 and merge == MERGE_SET:
        run.y += P
    if call.slots != NULL:
        run.slots = call.slots + first
    elif moved:
        state += first
    if call.h0 != NULL:
        run.h0 = call.h0 + state * P
    if call.c0 != NULL:
        run.c0 = call.c0 + state * H
    if call.hn != NULL:
        run.hn = call.hn + state * P
    if call.cn != NULL:
        run.cn = call.cn + state * H


cdef void run_block(Call* call, Py_ssize_t first, Py_ssize_t last, char* scratch, bint signals,
                    double* work) noexcept nogil:
    """All layers and directions over sorted rows first..last-1, in this thread alone; work: since its last look."""
    cdef Py_ssize_t B = last - first
    cdef size_t between = between_size(call, B)
    cdef float* before = <float*> scratch
    cdef float* behind = <float*> (scratch + between)
    cdef Run run
    cdef Job job
    cdef int layer, direction
    for layer in range(call.layers):
        for direction in range(call.directions):
            prepare_run(call, &run, &job, layer, direction, first, last, before, behind)
            run.signals = signals
            run.work = work[0]
            lay_out(&run, B, call.has_c, scratch + 2 * between)
            time_loop(&run, 0, 1)
            work[0] = run.work
            if rnncore_get(&call.interrupted):
                return
        before, behind = behind, before


cdef void by_blocks(int index, int threads, void* argument) noexcept nogil:
    """Task: each thread runs the index-th block of rows, and every threads-th after it."""
    cdef Call* call = <Call*> argument
    cdef unsigned mode = rnncore_flush_subnormals()
    cdef Py_ssize_t i = index
    cdef double work = 0
    while i < call.blocks and not rnncore_get(&call.interrupted):
        run_block(call, call.bounds[i], call.bounds[i + 1], call.scratch + index * call.scratch_size,
                  call.signals and index == 0, &work)
        i += threads
    rnncore_restore_subnormals(mode)


# Both directions of one layer.
cdef struct Pair:
    Run runs[2]
    Job jobs[2]


cdef void by_directions(int index, int threads, void* argument) noexcept nogil:
    """Task: each thread runs one direction."""
    cdef Pair* pair = <Pair*> argument
    cdef unsigned mode = rnncore_flush_subnormals()
    cdef int i = index
    while i < 2:
        pair.runs[i].signals = pair.runs[i].signals and index == 0
        time_loop(&pair.runs[i], 0, 1)
        i += threads
    rnncore_restore_subnormals(mode)


# Layers side by side: each a few steps behind the one before.
cdef struct Front:
    Call* call
    char* between           # (layers - 1) outputs between two layers
    size_t between_size
    char* scratch           # (threads)
    size_t scratch_size
    Py_ssize_t* done        # (layers), each in a cache line of its own: steps whose outputs stand


cdef void by_layers(int index, int threads, void* argument) noexcept nogil:
    """Task: each thread runs the index-th layer, and every threads-th after it."""
    cdef Front* front = <Front*> argument
    cdef Call* call = front.call
    cdef unsigned mode = rnncore_flush_subnormals()
    cdef int layer = index
    cdef Run run
    cdef Job job
    cdef float* behind
    while layer < call.layers and not rnncore_get(&call.interrupted):
        behind = <float*> (front.between + layer * front.between_size)  # of the last layer: never read
        prepare_run(call, &run, &job, layer, 0, 0, call.job.B,
                    <float*> (front.between + (layer - 1) * front.between_size) if layer > 0 else NULL, behind)
        run.signals = call.signals and index == 0
        run.ready = front.done + (layer - 1) * WORDS_OF_A_LINE if layer > 0 else NULL
        run.done = front.done + layer * WORDS_OF_A_LINE
        lay_out(&run, call.job.B, call.has_c, front.scratch + index * front.scratch_size)
        time_loop(&run, 0, 1)
        layer += threads
    rnncore_restore_subnormals(mode)


cdef class NativeCell:
    """One direction of one layer, packed for the instruction set in use. Float32.

    kind, options and weights as for rnncore.kernels._engine.PackedCell; weights are copied into panels.
    """

    cdef Plan plan
    cdef list owned
    cdef bint has_c

    def __cinit__(self, str kind not None, dict options not None, dict weights not None):
        cdef Plan* plan = &self.plan
        cdef rnncore_cell* cell = &plan.cell
        memset(plan, 0, sizeof(Plan))
        check_cell(kind, options, weights, np.float32)
        self.owned = []
        plan.isa = isa
        cell.kind = {"RNN": KIND_RNN, "LSTM": KIND_LSTM, "GRU": KIND_GRU}[kind]
        cell.input_size = options["input_size"]
        cell.hidden_size = options["hidden_size"]
        cell.output_size = options["output_size"]
        cell.gates = options["gates"]
        cell.coupled = {None: COUPLED_NONE, "input": COUPLED_INPUT, "forget": COUPLED_FORGET}[options.get("coupled")]
        cell.layer_norm = {None: LN_NONE, "tf1": LN_TF1, "tflite": LN_TFLITE}[options.get("layer_norm")]
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
        self.has_c = kind == "LSTM"
        self.pack(kind, options, weights)

    cdef pack(self, str kind, dict options, dict weights):
        cdef Plan* plan = &self.plan
        cdef rnncore_cell* cell = &plan.cell
        H, G, W = options["hidden_size"], options["gates"], isa.width
        P = options["output_size"]
        fused = is_fused(kind, options)
        bias = weights.get("bias")
        if bias is None or options.get("layer_norm") is not None:
            bias = np.zeros(G * H, np.float32)
        plan.c_stride = padded(H, W)
        plan.h_stride = padded(P, W)
        plan.V, plan.apart = G if fused else 1, 1
        if fused:
            if kind == "GRU" and not cell.reset_after:
                plan.step, plan.second = isa.reset_step, isa.candidate_step
                self.panels(&plan.w_hh, weights["weight_hh"][: 2 * H], 2)
                self.panels(&plan.w_n, weights["weight_hh"][2 * H :], 1)
            else:
                plain = cell.clip == INFINITY and cell.cell_clip == INFINITY and cell.forget_bias == 0
                plain = plain and "peephole" not in weights
                if kind == "RNN":
                    plan.step, plan.ahead = isa.rnn_step, isa.rnn_ahead
                elif kind == "GRU" and plain:
                    plan.step, plan.ahead = isa.gru_plain_step, isa.gru_plain_ahead
                elif kind == "GRU":
                    plan.step, plan.ahead = isa.gru_step, isa.gru_ahead
                elif cell.coupled != COUPLED_NONE:
                    plan.step, plan.ahead = isa.coupled_step, isa.coupled_ahead
                elif plain:
                    plan.step, plan.ahead = isa.lstm_plain_step, isa.lstm_plain_ahead
                else:
                    plan.step, plan.ahead = isa.lstm_step, isa.lstm_ahead
                if "weight_hr" in weights:
                    plan.ahead = NULL
                self.panels(&plan.w_hh, weights["weight_hh"], G)
            if plan.ahead != NULL and weights["weight_ih"].size * sizeof(float) > LARGEST_TOGETHER:
                plan.apart = G
            pack_panels(&plan.w_ih, weights["weight_ih"], G, self.owned, plan.apart > 1)
            plan.bias = self.vector(units(bias, G, W))
            plan.z_stride = G * padded(H, W)
        else:
            rows = 2 * H if kind == "GRU" else G * H
            self.panels(&plan.w_ih, weights["weight_ih"][:rows], 1)
            self.panels(&plan.w_hh, weights["weight_hh"][:rows], 1)
            plan.bias = self.vector(units(bias[:rows], 1, W))
            plan.z_stride = padded(rows, W)
            if kind == "GRU":
                self.panels(&plan.w_in, weights["weight_ih"][rows:], 1)
                self.panels(&plan.w_n, weights["weight_hh"][rows:], 1)
                plan.bias = self.vector(np.concatenate((units(bias[:rows], 1, W), units(bias[rows:], 1, W))))
                plan.z_n = plan.z_stride
                plan.z_stride += padded(H, W)
            cell.bias = self.optional(weights.get("bias"))
            cell.peephole = self.optional(weights.get("peephole"))
            cell.ln_weight = self.optional(weights.get("ln_weight"))
            cell.ln_cell_weight = self.optional(weights.get("ln_cell_weight"))
            cell.ln_cell_bias = self.optional(weights.get("ln_cell_bias"))
        plan.point.clip = cell.clip
        plan.point.cell_clip = cell.cell_clip
        plan.point.forget_bias = cell.forget_bias
        plan.point.relu = cell.act[0].id == ACT_relu
        plan.point.coupled = cell.coupled
        if kind == "GRU":
            hn = weights.get("bias_hn")
            plan.point.bias_hn = self.vector(units(np.zeros(H, np.float32) if hn is None else hn, 1, W))
        if fused and "peephole" in weights:
            plan.point.peephole = self.vector(units(weights["peephole"], G - 1, W))
        if "weight_hr" in weights:
            self.panels(&plan.w_hr, weights["weight_hr"], 1)
            bias_hr = weights.get("bias_hr")
            plan.bias_hr = self.vector(units(np.zeros(P, np.float32) if bias_hr is None else bias_hr, 1, W))

    cdef panels(self, rnncore_panels* target, matrix, int V):
        pack_panels(target, matrix, V, self.owned)

    cdef const float* vector(self, array) except NULL:
        return aligned_copy(array, self.owned)

    cdef const void* optional(self, array) except? NULL:
        if array is None:
            return NULL
        return self.vector(array)

    def unpack(self, str key not None):
        """A copy of the matrix "weight_ih", "weight_hh" or "weight_hr", to the bit what was packed."""
        cdef Plan* plan = &self.plan
        cdef Py_ssize_t rows = plan.cell.gates * plan.cell.hidden_size
        cdef bint apart = plan.w_n.data != NULL  # the candidate's rows of R have panels of their own
        if key not in self.packed:
            refuse(f"{key!r}, expected one of {', '.join(self.packed)}")
        if key == "weight_hr":
            return unpack_panels(&plan.w_hr, plan.cell.output_size, plan.isa.width)
        if key == "weight_ih":
            if plan.apart > 1:
                return unpack_panels(&plan.w_ih, rows, plan.isa.width, plan.apart)
            return self.joined(&plan.w_ih, &plan.w_in, rows, plan.w_in.data != NULL)
        return self.joined(&plan.w_hh, &plan.w_n, rows, apart)

    cdef joined(self, const rnncore_panels* gates, const rnncore_panels* candidate, Py_ssize_t rows, bint apart):
        cdef Py_ssize_t H = self.plan.cell.hidden_size, W = self.plan.isa.width
        if not apart:
            return unpack_panels(gates, rows, W)
        return np.concatenate((unpack_panels(gates, rows - H, W), unpack_panels(candidate, H, W)))

    @property
    def packed(self):
        """Names of the matrices that unpack gives back."""
        return ("weight_ih", "weight_hh") if self.plan.w_hr.data == NULL else ("weight_ih", "weight_hh", "weight_hr")

    @property
    def nbytes(self):
        """Bytes of the packed weights."""
        return sum(array.nbytes for array in self.owned)


# Of a stack: more than any network has, and few enough for what is computed of them.
MOST_LAYERS = 1 << 20


cdef class Stack:
    """The layers and directions of one recurrent node, ready to run. Immutable; any number of threads may call it.

    layers  for each layer the NativeCells of its directions, forward first
    reverse whether the only direction is the reverse one
    """

    cdef readonly list cells  # NativeCells, layer by layer
    cdef const Plan** plans
    cdef int layers, directions
    cdef bint reverse, has_c

    def __cinit__(self, list layers not None, bint reverse):
        cdef NativeCell cell
        cdef const Plan* first
        self.cells = [cell for cells in layers for cell in cells]
        if not 1 <= len(layers) <= MOST_LAYERS or not 1 <= len(layers[0]) <= 2 or (reverse and len(layers[0]) > 1):
            refuse(f"{len(layers)} layers, expected 1 to {MOST_LAYERS}, each of one direction or two, forward first")
        self.layers = len(layers)
        self.directions = len(layers[0])
        self.reverse = reverse
        self.plans = <const Plan**> malloc(len(self.cells) * sizeof(Plan*))
        if self.plans == NULL:
            raise MemoryError()
        self.has_c = (<NativeCell> self.cells[0]).has_c
        for i, cell in enumerate(self.cells):
            self.plans[i] = &cell.plan
            first = self.plans[0]
            layer = i // self.directions
            sizes = cell.plan.cell.output_size, cell.plan.cell.hidden_size
            if len(layers[layer]) != self.directions or cell.has_c != self.has_c or cell.plan.isa != first.isa:
                refuse(f"layer {layer}: expected {self.directions} cells of one kind and instruction set")
            if sizes != (first.cell.output_size, first.cell.hidden_size):
                refuse(f"layer {layer}: sizes {sizes}, expected {(first.cell.output_size, first.cell.hidden_size)}")
            if cell.plan.cell.input_size != self.plans[layer * self.directions].cell.input_size:
                refuse(f"layer {layer}: directions of different input sizes")

    cdef int check_merges(self, merge, last_merge) except -1:
        """That both are known, and layers behind the first take what the one before gives."""
        cdef Py_ssize_t width, layer
        if merge not in MERGES or last_merge not in MERGES:
            refuse(f"merge {merge!r} and {last_merge!r}, expected {', '.join(MERGES)}")
        width = self.width_of(MERGES[merge])
        for layer in range(1, self.layers):
            if self.plans[layer * self.directions].cell.input_size != width:
                refuse(f"layer {layer}: input size {self.plans[layer * self.directions].cell.input_size}, expected "
                       f"{width} of the layer before")
        return 0

    cdef Py_ssize_t width_of(self, Merge merge):
        """Numbers of an output."""
        return self.plans[0].cell.output_size * (self.directions if merge == MERGE_SET else 1)

    cdef int check_state(self, cnp.ndarray state, Py_ssize_t B, Py_ssize_t size, str name, bint written) except -1:
        if state is not None:
            check_dense(state, cnp.NPY_FLOAT32, 3, name)
            check_shape3(state, self.layers * self.directions, B, size, name)
            if written:
                check_writable(state, name)
        return 0

    def __dealloc__(self):
        free(self.plans)

    @property
    def nbytes(self):
        """Bytes of the packed weights."""
        return sum(cell.nbytes for cell in self.cells)

    def run(self, cnp.ndarray x not None, cnp.ndarray y, str merge not None, str last_merge not None, bint time_first,
            bint flip,
            cnp.ndarray order, cnp.ndarray lengths, cnp.ndarray steps,
            cnp.ndarray h0, cnp.ndarray c0, cnp.ndarray hn, cnp.ndarray cn, int threads, Table table=None):
        """Run the stack over x (B, T, I), or (T, B, I) with time_first.

        x is aligned float32, its last dimension dense. y (same first two dimensions) receives the last layer's
        outputs, or is None; what is past a row's length is left as it is. merge says how the directions' outputs go
        to the next layer, last_merge how to y: "set" side by side, "sum", "mul", "average". order, lengths (B) and
        steps (B, T), int64 and dense: see Job; None where there are none. h0, c0, hn, cn: dense
        (layers * directions, B, size), or None for zeros and for not wanted; c only for the LSTM. With a table of
        this stack, x holds int64 ids (B, T), each a row of it.
        """
        cdef Call call
        cdef int batch_axis = 1 if time_first else 0, time_axis = 0 if time_first else 1
        memset(&call, 0, sizeof(Call))
        self.check_merges(merge, last_merge)
        self.check_sequences(x, y, MERGES[last_merge], batch_axis, time_axis, table)
        call.job.B = cnp.PyArray_DIM(x, batch_axis)
        call.job.T = cnp.PyArray_DIM(x, time_axis)
        check_rows(order, lengths, steps, call.job.B, call.job.T)
        self.check_state(h0, call.job.B, self.plans[0].cell.output_size, "h0", False)
        self.check_state(hn, call.job.B, self.plans[0].cell.output_size, "hn", True)
        if self.has_c:
            self.check_state(c0, call.job.B, self.plans[0].cell.hidden_size, "c0", False)
            self.check_state(cn, call.job.B, self.plans[0].cell.hidden_size, "cn", True)
        elif c0 is not None or cn is not None:
            refuse("c0 or cn of cells that have no c, expected None")
        if call.job.B == 0:
            return
        call.job.x_batch = cnp.PyArray_STRIDE(x, batch_axis) // cnp.PyArray_ITEMSIZE(x)
        call.job.x_time = cnp.PyArray_STRIDE(x, time_axis) // cnp.PyArray_ITEMSIZE(x)
        if table is None:
            call.x = <const float*> cnp.PyArray_DATA(x)
        else:
            call.ids = <const int64_t*> cnp.PyArray_DATA(x)
            call.tables = table.tables
        if y is not None:
            call.job.y_batch = cnp.PyArray_STRIDE(y, batch_axis) // <Py_ssize_t> sizeof(float)
            call.job.y_time = cnp.PyArray_STRIDE(y, time_axis) // <Py_ssize_t> sizeof(float)
            call.y = <float*> cnp.PyArray_DATA(y)
        call.job.flip = flip
        call.job.order = <const int64_t*> optional_data(order)
        call.job.lengths = <const int64_t*> optional_data(lengths)
        call.job.steps = <const int64_t*> optional_data(steps)
        call.merge = MERGES[merge]
        call.last_merge = MERGES[last_merge]
        call.h0 = <const float*> optional_data(h0)
        call.c0 = <const float*> optional_data(c0)
        call.hn = <float*> optional_data(hn)
        call.cn = <float*> optional_data(cn)
        self.start(&call, threads)

    cdef int check_sequences(self, cnp.ndarray x, cnp.ndarray y, Merge merge, int batch_axis, int time_axis,
                             Table table) except -1:
        """x and y of a run: see there."""
        cdef Py_ssize_t width = self.width_of(merge), K = self.plans[0].cell.input_size
        cdef Py_ssize_t b, t
        cdef const char* row
        cdef int64_t id
        if table is None:
            check_type(x, cnp.NPY_FLOAT32, "x")
            if cnp.PyArray_NDIM(x) != 3 or cnp.PyArray_DIM(x, 2) != K:
                refuse(f"x: shape {(<object> x).shape}, expected 3 dimensions, the last of {K}")
            if K > 1 and cnp.PyArray_SIZE(x) > 0 and cnp.PyArray_STRIDE(x, 2) != sizeof(float):
                refuse(f"x: strides {(<object> x).strides}, expected a dense last dimension")
        else:
            if table.stack is not self:
                refuse("table: of another stack")
            check_type(x, cnp.NPY_INT64, "ids")
            if cnp.PyArray_NDIM(x) != 2:
                refuse(f"ids: shape {(<object> x).shape}, expected 2 dimensions")
            for b in range(cnp.PyArray_DIM(x, 0)):
                row = <const char*> cnp.PyArray_DATA(x) + b * cnp.PyArray_STRIDE(x, 0)
                for t in range(cnp.PyArray_DIM(x, 1)):
                    id = (<const int64_t*> (row + t * cnp.PyArray_STRIDE(x, 1)))[0]
                    if not 0 <= id < table.rows:
                        refuse(f"ids: {id} at {(b, t)}, expected 0 to {table.rows - 1}")
        if y is not None:
            check_type(y, cnp.NPY_FLOAT32, "y")
            check_writable(y, "y")
            check_shape3(y, cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), width, "y")
            if width > 1 and cnp.PyArray_SIZE(y) > 0 and cnp.PyArray_STRIDE(y, 2) != sizeof(float):
                refuse(f"y: strides {(<object> y).strides}, expected a dense last dimension")
        return 0

    cdef int start(self, Call* call, int threads) except -1:
        """Fill in what the stack knows, and run."""
        cdef bint done
        cdef int i
        call.plans = self.plans
        call.layers = self.layers
        call.directions = self.directions
        call.reverse = self.reverse
        call.has_c = self.has_c
        if call.state_batch == 0:
            call.state_batch = call.job.B
        call.pending = <void*> pending
        call.width = self.plans[0].cell.output_size
        if call.merge == MERGE_SET:
            call.width *= self.directions
        call.threads = max(1, min(rnncore_asked_threads(threads), <int> RNNCORE_MAX_THREADS))
        for i in range(self.layers * self.directions):
            call.row_work += work_of_row(self.plans[i])
            call.row_cost += cost_of_row(self.plans[i])
        call.work = call.row_work * call.job.B * call.job.T
        if call.work < WORK_WITH_GIL:
            done = execute(call)
        else:
            with nogil:
                done = execute(call)
        if not done:
            raise MemoryError(f"no memory for a batch of {call.job.B} and {call.job.T} steps")
        if call.interrupted:
            raise pending.pop()
        return 0


cdef class Table:
    """The first layer's input products of every row of an embedding (N, I), so that running it is a row gather.

    The bits are those of the product it replaces. Belongs to the stack it was made for.
    """

    cdef const float* tables[2]
    cdef list owned
    cdef Stack stack
    cdef Py_ssize_t rows    # ids are below

    def __cinit__(self, Stack stack not None, cnp.ndarray weight not None):
        cdef rnncore_rows rows
        cdef const Plan* plan
        cdef cnp.ndarray table
        cdef cnp.ndarray dense = as_dense(np.asarray(weight, np.float32), cnp.NPY_FLOAT32, "weight")
        cdef Py_ssize_t N
        cdef unsigned mode
        check_dense(dense, cnp.NPY_FLOAT32, 2, "weight")
        N = cnp.PyArray_DIM(dense, 0)
        if N == 0 or cnp.PyArray_DIM(dense, 1) != stack.plans[0].cell.input_size:
            refuse(f"weight: shape {(<object> dense).shape}, expected rows of {stack.plans[0].cell.input_size}")
        self.owned = []
        self.stack, self.rows = stack, N
        rows.base = <const float*> cnp.PyArray_DATA(dense)
        rows.offset = NULL
        rows.stride = cnp.PyArray_DIM(dense, 1)
        for direction in range(stack.directions):
            plan = stack.plans[direction]
            aligned_copy(np.zeros((N, plan.z_stride), np.float32), self.owned)
            table = self.owned[direction]
            mode = rnncore_flush_subnormals()
            input_product(plan, &rows, N, 0, unit_panels(plan), <float*> cnp.PyArray_DATA(table))
            rnncore_restore_subnormals(mode)
            self.tables[direction] = <const float*> cnp.PyArray_DATA(table)

    @property
    def nbytes(self):
        """Bytes of the tables."""
        return sum(table.nbytes for table in self.owned)


def table_bytes(Stack stack not None, rows):
    """Bytes that a Table of so many rows would take."""
    return sum([stack.plans[i].z_stride for i in range(stack.directions)]) * rows * sizeof(float)


cdef class Direct:
    """The short way for a model that is one stack and returns its sequence: a plain array in, a plain array out.

    What is not plain (another dtype or rank, not C-contiguous, empty, of another width) gets None for an answer, and
    the caller takes the long way, which knows what to do or what to say.

    names   of the states, h and for an LSTM c
    """

    cdef Stack stack
    cdef Py_ssize_t input_size, width, state_rows, h_size, c_size
    cdef str h_name, c_name
    cdef Merge merge
    cdef int threads

    def __cinit__(self, Stack stack not None, str merge not None, Py_ssize_t input_size, Py_ssize_t width,
                  tuple names not None, int threads):
        stack.check_merges(merge, merge)
        if (input_size, width) != (stack.plans[0].cell.input_size, stack.width_of(MERGES[merge])):
            refuse(f"sizes {(input_size, width)}, expected those of the stack")
        if len(names) != (2 if stack.has_c else 1):
            refuse(f"states {names}, expected h, and c where the cells have one")
        self.stack = stack
        self.merge = MERGES[merge]
        self.input_size = input_size
        self.width = width
        self.state_rows = stack.layers * stack.directions
        self.h_size = stack.plans[0].cell.output_size
        self.c_size = stack.plans[0].cell.hidden_size
        self.h_name = names[0]
        self.c_name = names[1] if len(names) == 2 else None
        self.threads = threads

    def __call__(self, x):
        """y for x, from the beginning; None where x is not plain."""
        return self.run(x)

    cdef run(self, x):
        cdef Call call
        if not self.is_plain(x, &call):
            return None
        y = self.output(&call)
        self.stack.start(&call, self.threads)
        return y

    def step(self, x, dict state not None):
        """(y, new states by name) for x and the states given by name; None where one of them is not plain."""
        cdef Call call
        cdef dict after = {}
        if not self.is_plain(x, &call):
            return None
        h0 = state.get(self.h_name)
        if not is_plain_state(h0, self.state_rows, call.job.B, self.h_size):
            return None
        call.h0 = <const float*> cnp.PyArray_DATA(h0)
        if self.c_name is not None:
            c0 = state.get(self.c_name)
            if not is_plain_state(c0, self.state_rows, call.job.B, self.c_size):
                return None
            call.c0 = <const float*> cnp.PyArray_DATA(c0)
        if len(state) != (1 if self.c_name is None else 2):
            return None
        y = self.output(&call)
        hn = new_state(self.state_rows, call.job.B, self.h_size)
        call.hn = <float*> cnp.PyArray_DATA(hn)
        after[self.h_name] = hn
        if self.c_name is not None:
            cn = new_state(self.state_rows, call.job.B, self.c_size)
            call.cn = <float*> cnp.PyArray_DATA(cn)
            after[self.c_name] = cn
        self.stack.start(&call, self.threads)
        return y, after

    cdef bint is_plain(self, x, Call* call):
        if not cnp.PyArray_CheckExact(x) or cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT32 or cnp.PyArray_NDIM(x) != 3:
            return False
        if not cnp.PyArray_ISCARRAY_RO(x) or cnp.PyArray_DIM(x, 2) != self.input_size:
            return False
        memset(call, 0, sizeof(Call))
        call.job.B, call.job.T = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
        if call.job.B == 0 or call.job.T == 0:
            return False
        call.job.x_time = self.input_size
        call.job.x_batch = call.job.T * self.input_size
        call.x = <const float*> cnp.PyArray_DATA(x)
        call.merge = call.last_merge = self.merge
        return True

    cdef output(self, Call* call):
        cdef cnp.npy_intp[3] shape
        shape[0], shape[1], shape[2] = call.job.B, call.job.T, self.width
        y = cnp.PyArray_EMPTY(3, shape, cnp.NPY_FLOAT32, 0)
        call.job.y_time = self.width
        call.job.y_batch = call.job.T * self.width
        call.y = <float*> cnp.PyArray_DATA(y)
        return y


# What Python calls for an object whose class has a __call__ in Python.
ctypedef object (*Slot)(object called, object arguments, PyObject* named)
cdef Slot call_method = NULL


cdef object call_direct(object called, object arguments, PyObject* named):
    if PyTuple_GET_SIZE(arguments) == 1 and (named == NULL or PyDict_Size(<object> named) == 0):
        direct = called._direct
        if type(direct) is Direct:
            found = (<Direct> direct).run(<object> PyTuple_GET_ITEM(arguments, 0))
            if found is not None:
                return found
    return call_method(called, arguments, named)


def call_direct_first(type of not None):
    """From now on a call with one argument, of an instance that has a Direct as ``_direct``, asks that first.

    Calling a method written in Python, with names and defaults, costs as much as a small model's step; the method does
    all other calls, and stays what people read. A subclass calls its own.
    """
    global call_method
    if not isinstance(of, type):
        raise TypeError(f"{of!r}, expected a class")
    if <Slot> (<PyTypeObject*> of).tp_call != call_direct:
        call_method = <Slot> (<PyTypeObject*> of).tp_call
        (<PyTypeObject*> of).tp_call = <ternaryfunc> call_direct
        PyType_Modified(of)


cdef int run_states(object stack, StateCall* given, int threads) except -1:
    """A forward stack over float sequences whose states stand in slots, in place: see _native.pxd."""
    cdef Call call
    memset(&call, 0, sizeof(Call))
    call.job.B, call.job.T = given.B, given.T
    call.job.x_batch, call.job.x_time = given.x_batch, given.x_time
    call.job.y_batch, call.job.y_time = given.y_batch, given.y_time
    call.job.order, call.job.lengths = given.order, given.lengths
    call.x, call.y = given.x, given.y
    call.h0 = call.hn = given.h
    call.c0 = call.cn = given.c
    call.slots, call.state_batch = given.slots, given.state_batch
    call.merge = call.last_merge = MERGE_SET
    return (<Stack> stack).start(&call, threads)


cdef int check_stack_states(object stack, Py_ssize_t input_size, Py_ssize_t batch, h, c) except -1:
    """See _native.pxd."""
    cdef Stack given = stack
    cdef const rnncore_cell* cell
    if given is None or given.directions != 1 or given.reverse:
        refuse(f"{stack!r}, expected a stack of one direction, forward")
    given.check_merges("set", "set")
    cell = &given.plans[0].cell
    expected = (given.layers, batch, cell.output_size), (given.layers, batch, cell.hidden_size) if given.has_c else None
    if (h, c) != expected or input_size != cell.input_size:
        refuse(f"input size {input_size} and states {(h, c)}, expected {cell.input_size} and {expected}")
    return 0


cdef double steps_between_signals(object stack) except -1:
    """So many steps of one row can be interrupted."""
    cdef Stack given = stack
    cdef double work = 0
    cdef int i
    for i in range(given.layers * given.directions):
        work += work_of_row(given.plans[i])
    return WORK_BETWEEN_SIGNALS / work


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
        cdef Rows rows
        cdef const float* x_data
        cdef float* y_data
        cdef double work
        cdef Py_ssize_t n, first, part
        cdef int threads
        if not 1 <= D <= MAX_RANK or cnp.PyArray_DIM(x, D - 1) != self.product.w.K:
            refuse(f"x: shape {(<object> x).shape}, expected a last dimension of {self.product.w.K}")
        for axis in range(D - 1):
            dims[axis] = cnp.PyArray_DIM(x, axis)
        dims[D - 1] = self.product.size
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        rows.product = &self.product
        x_data = <const float*> cnp.PyArray_DATA(rows_in)
        y_data = <float*> cnp.PyArray_DATA(y)
        n = cnp.PyArray_SIZE(rows_in) // self.product.w.K
        rows.padded_rows = NULL
        work = <double> n * self.product.w.K * self.product.stride
        threads = max(1, min(rnncore_asked_threads(self.threads), <int> RNNCORE_MAX_THREADS))
        if work < CALL_WORTH_SHARING or n < threads * ROWS_WORTH_SHARING:
            threads = 1
        if self.product.stride != self.product.size:
            rows.padded_rows = <float*> rnncore_scratch(
                times(times(threads * PRODUCT_ROWS, self.product.stride), sizeof(float)))
            if rows.padded_rows == NULL:
                raise MemoryError(f"no memory for the product of {n} rows")
        part = <Py_ssize_t> (WORK_BETWEEN_SIGNALS * threads * n / work) + PRODUCT_ROWS if n else 1
        for first in range(0, n, part):
            rows.x = x_data + first * self.product.w.K
            rows.y = y_data + first * self.product.size
            rows.n = min(part, n - first)
            with nogil:
                rnncore_pool_run(threads, product_rows, &rows)
            if part < n:
                check_signals()
        return y


# Below so many numbers a function of each keeps the GIL: giving it away and getting it back costs more.
cdef Py_ssize_t NUMBERS_WITH_GIL = 20000

# Numbers between two looks at pending signals: some 10 milliseconds' work, and whole vectors.
cdef Py_ssize_t NUMBERS_AT_ONCE = 1 << 23

RATIONALS = {"sigmoid": RATIONAL_SIGMOID, "tanh": RATIONAL_TANH, "swish": RATIONAL_SWISH}


def rational(str name not None, x):
    """A function of RATIONALS as a quotient of polynomials, of x, float32: an array of its shape. See native/body.h."""
    cdef rnncore_rational f = <rnncore_rational> <int> RATIONALS[name]
    cdef cnp.ndarray given = as_dense(np.asarray(x, np.float32), cnp.NPY_FLOAT32, "x")
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(cnp.PyArray_NDIM(given), cnp.PyArray_DIMS(given), cnp.NPY_FLOAT32, 0)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(given), first = 0, part
    cdef const float* source = <const float*> cnp.PyArray_DATA(given)
    cdef float* target = <float*> cnp.PyArray_DATA(y)
    if n < NUMBERS_WITH_GIL:
        isa.rational(f, n, source, target)
    while n >= NUMBERS_WITH_GIL and first < n:
        part = min(NUMBERS_AT_ONCE, n - first)
        with nogil:
            isa.rational(f, part, source + first, target + first)
        first += part
        if first < n:
            check_signals()
    return y.reshape(np.shape(x))


cdef bint is_plain_state(array, Py_ssize_t rows, Py_ssize_t B, Py_ssize_t size):
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
            and cnp.PyArray_NDIM(array) == 3 and cnp.PyArray_ISCARRAY_RO(array) and cnp.PyArray_DIM(array, 0) == rows
            and cnp.PyArray_DIM(array, 1) == B and cnp.PyArray_DIM(array, 2) == size)


cdef new_state(Py_ssize_t rows, Py_ssize_t B, Py_ssize_t size):
    cdef cnp.npy_intp[3] shape
    shape[0], shape[1], shape[2] = rows, B, size
    return cnp.PyArray_EMPTY(3, shape, cnp.NPY_FLOAT32, 0)


cdef bint execute(Call* call) noexcept nogil:
    """Share the call among threads and do it. False where there is no memory."""
    cdef const Job* job = &call.job
    cdef Py_ssize_t B = job.B, first = 0, first_next, row, blocks
    cdef double work = 0, done = 0
    cdef int threads = call.threads
    cdef size_t table
    cdef char* room
    cdef Py_ssize_t rows = 0
    call.signals = call.row_cost * B * job.T > WORK_BETWEEN_SIGNALS
    if call.work < CALL_WORTH_SHARING:
        threads = 1
    blocks = (B + BLOCK_ROWS - 1) // BLOCK_ROWS
    if threads > 1:
        if blocks > 1:
            blocks = (blocks + threads - 1) // threads * threads
        elif B // ROWS_WORTH_SHARING >= threads:
            blocks = threads
    if blocks == 1:
        return execute_together(call, threads)
    # By rows, in blocks of nearly equal work. Rows stand in order of falling length, so later blocks have more.
    table = line(times(2, blocks + 1))
    call.blocks = blocks
    if job.lengths != NULL:
        for row in range(B):
            work += <double> job.lengths[row]
    for row in range(blocks):  # the largest block decides how much scratch there is
        first_next = block_end(job, row, blocks, first, work, &done)
        rows = max(rows, first_next - first)
        first = first_next
    call.scratch_size = block_scratch(call, rows)
    room = <char*> rnncore_scratch(plus(table, times(threads, call.scratch_size)))
    if room == NULL:
        return False
    call.bounds = <Py_ssize_t*> room
    call.scratch = room + table
    first = 0
    done = 0
    for row in range(blocks):
        call.bounds[row] = first
        first = block_end(job, row, blocks, first, work, &done)
    call.bounds[blocks] = job.B
    rnncore_pool_run(threads, by_blocks, call)
    return True


cdef bint execute_together(Call* call, int threads) noexcept nogil:
    """All rows at once: layers side by side, or one by one, each shared by directions or by panels where that pays."""
    cdef Py_ssize_t B = call.job.B
    cdef size_t between = between_size(call, B), each
    cdef char* scratch
    cdef float* before
    cdef float* behind
    cdef unsigned mode
    cdef double work = 0
    cdef Pair pair
    cdef rnncore_barrier barrier
    cdef int layer, direction, sharing
    cdef Merge merge
    cdef const Plan* plan
    if threads > 1 and side_by_side_pays(call, threads):
        return execute_side_by_side(call, threads)
    scratch = <char*> rnncore_scratch(times(block_scratch(call, B), 2 if threads > 1 else 1))
    if scratch == NULL:
        return False
    if threads == 1:
        mode = rnncore_flush_subnormals()
        run_block(call, 0, B, scratch, call.signals, &work)
        rnncore_restore_subnormals(mode)
        return True
    before = <float*> scratch
    behind = <float*> (scratch + between)
    scratch += 2 * between
    for layer in range(call.layers):
        each = 0
        for direction in range(call.directions):
            plan = call.plans[layer * call.directions + direction]
            prepare_run(call, &pair.runs[direction], &pair.jobs[direction], layer, direction, 0, B, before, behind)
            pair.runs[direction].signals = call.signals
            lay_out(&pair.runs[direction], B, call.has_c, scratch + direction * each)
            each = scratch_size(plan, B, chunk_rows(plan, B, call.job.T), call.has_c)
        merge = call.last_merge if layer == call.layers - 1 else call.merge
        if call.directions == 2 and merge == MERGE_SET:
            rnncore_pool_run(2, by_directions, &pair)
        else:
            for direction in range(call.directions):
                plan = call.plans[layer * call.directions + direction]
                sharing = panel_threads(plan, B, threads)
                if sharing > 1:
                    memset(&barrier, 0, sizeof(barrier))
                    barrier.patience = <long long> (work_of_row(plan) * B / sharing * SLOWEST_MULTIPLY_ADD)
                    pair.runs[direction].barrier = &barrier
                rnncore_pool_run(sharing, by_panels, &pair.runs[direction])
        if call.interrupted:
            return True
        before, behind = behind, before
    return True


cdef bint side_by_side_pays(const Call* call, int threads) noexcept nogil:
    """Whether layers side by side are sooner done than each layer shared by panels."""
    cdef Py_ssize_t B = call.job.B
    cdef double work, one_by_one = 0, together = 0
    cdef int layer, sharing
    cdef const Plan* plan
    if call.directions != 1 or call.layers == 1 or call.job.T < 2 * STEPS_AHEAD:
        return False
    if call.layers > 3 and times(call.layers - 1, between_size(call, B)) > LARGEST_BETWEEN:
        return False
    for layer in range(call.layers):
        plan = call.plans[layer]
        if weight_bytes(plan, &plan.w_hh) > LARGEST_SIDE_BY_SIDE:
            return False
        work = cost_of_row(plan) * B
        sharing = panel_threads(plan, B, threads)
        one_by_one += work / sharing + (WORK_OF_A_MEETING if sharing > 1 else 0)
        if layer % threads == 0:  # nearly equal layers: what the first thread does takes longest
            together += work
    # The last layer begins when the one before has made its first chunk, and ends so much later.
    return together * (1 + 2.0 * STEPS_AHEAD / call.job.T) < one_by_one


cdef bint execute_side_by_side(Call* call, int threads) noexcept nogil:
    """All rows at once, layers side by side."""
    cdef Py_ssize_t B = call.job.B
    cdef Front front
    cdef size_t words = call.layers * WORDS_OF_A_LINE * sizeof(Py_ssize_t)
    cdef char* room
    front.call = call
    front.between_size = between_size(call, B)
    front.scratch_size = layer_scratch(call, B)
    room = <char*> rnncore_scratch(plus(plus(words, times(call.layers - 1, front.between_size)),
                                        times(threads, front.scratch_size)))
    if room == NULL:
        return False
    memset(room, 0, words)
    front.done = <Py_ssize_t*> room
    front.between = room + words
    front.scratch = front.between + (call.layers - 1) * front.between_size
    rnncore_pool_run(threads, by_layers, &front)
    return True


cdef inline int panel_threads(const Plan* plan, Py_ssize_t B, int threads) noexcept nogil:
    """How many of ``threads`` share a layer's panels."""
    if plan.step == NULL or work_of_row(plan) * B < STEP_WORTH_SHARING * threads:
        return 1
    return min(threads, <int> plan.w_hh.panels)


cdef inline double work_of_row(const Plan* plan) noexcept nogil:
    """Multiply-adds of one step of one row."""
    return <double> plan.w_ih.panels * plan.w_ih.V * plan.isa.width * (plan.w_ih.K + plan.w_hh.K)


cdef inline double cost_of_row(const Plan* plan) noexcept nogil:
    """The same, with what it costs beside them."""
    cdef double cost = work_of_row(plan) + WORK_OF_A_STEP
    if plan.w_n.data != NULL:
        cost += <double> plan.w_n.panels * plan.isa.width * plan.w_n.K
    if plan.step == NULL:
        cost += WORK_OF_AN_ACTIVATION * plan.cell.gates * plan.cell.hidden_size
    return cost


cdef inline size_t between_size(const Call* call, Py_ssize_t B) noexcept nogil:
    """Bytes of the outputs between two layers."""
    return line(times(times(B, call.job.T), call.width)) if call.layers > 1 else 0


cdef size_t layer_scratch(const Call* call, Py_ssize_t B) noexcept nogil:
    """Bytes that a run of any of the layers needs for B rows."""
    cdef size_t largest = 0
    cdef Py_ssize_t rows
    cdef int i
    for i in range(call.layers * call.directions):
        rows = chunk_rows(call.plans[i], B, call.job.T)
        largest = max(largest, scratch_size(call.plans[i], B, rows, call.has_c))
    return largest


cdef inline size_t block_scratch(const Call* call, Py_ssize_t B) noexcept nogil:
    """Bytes that run_block needs for B rows."""
    return plus(layer_scratch(call, B), times(2, between_size(call, B)))


cdef Py_ssize_t block_end(const Job* job, Py_ssize_t i, Py_ssize_t parts, Py_ssize_t first, double work,
                          double* done) noexcept nogil:
    """Where the i-th block of rows, which begins at ``first``, ends; done counts the steps of all rows before."""
    cdef Py_ssize_t last = first
    if job.lengths == NULL:
        return job.B * (i + 1) // parts
    if i == parts - 1:
        return job.B
    while last < job.B and done[0] < work * (i + 1) / parts:
        done[0] += <double> job.lengths[last]
        last += 1
    return last


cdef inline Py_ssize_t chunk_rows(const Plan* plan, Py_ssize_t B, Py_ssize_t T) noexcept nogil:
    """Rows of a chunk: whole steps, CHUNK_ROWS or the batch if that is more, and never more than there are."""
    cdef Py_ssize_t most = CHUNK_ROWS
    if weight_bytes(plan, &plan.w_ih) > LARGEST_NEAR:
        most = FAR_CHUNK_ROWS if B > 1 else FAR_CHUNK_OF_ONE
    return max(B, most) if B > 0 and T > most // B else B * T  # no product that may not fit


cdef inline Py_ssize_t weight_bytes(const Plan* plan, const rnncore_panels* w) noexcept nogil:
    return w.panels * w.V * plan.isa.width * w.K * <Py_ssize_t> sizeof(float)


cdef inline size_t line(size_t floats) noexcept nogil:
    """Bytes of so many floats, rounded up to whole cache lines; of more than fit, what no allocation gives."""
    return plus(times(floats, sizeof(float)), 63) & ~<size_t> 63


cdef size_t scratch_size(const Plan* plan, Py_ssize_t B, Py_ssize_t rows, bint has_c) noexcept nogil:
    """Bytes of a run's scratch for B rows and chunks of ``rows``."""
    cdef Py_ssize_t ahead = AHEAD_ROWS(plan.V)
    cdef size_t size = plus(line(times(times(2, B), plan.h_stride)),
                            times(2 if has_c else 1, line(times(B, plan.c_stride))))
    size = plus(plus(size, line(times(rows, plan.z_stride))), line(times(2, rows)))
    if B == 1 and plan.ahead != NULL:
        size = plus(plus(size, line(3 * ahead * plan.z_stride)), line(2 * ahead * plan.w_ih.K))
    return size


cdef void lay_out(Run* run, Py_ssize_t B, bint has_c, char* room) noexcept nogil:
    """Give a run of B rows its places in scratch of scratch_size bytes."""
    cdef const Plan* plan = run.plan
    cdef Py_ssize_t rows = chunk_rows(plan, B, run.job.T)
    run.rows_max = rows
    run.h = <float*> room
    room += line(2 * B * plan.h_stride)
    run.out = <float*> room
    room += line(B * plan.c_stride)
    run.c = NULL
    if has_c:
        run.c = <float*> room
        room += line(B * plan.c_stride)
    run.offsets = <Py_ssize_t*> room
    room += line(2 * rows)
    if B == 1 and plan.ahead != NULL:
        run.x_ahead = <float*> room
        room += line(2 * AHEAD_ROWS(plan.V) * plan.w_ih.K)
    run.z = <float*> room


cdef double limit(value) except? -1:
    return INFINITY if value is None else value


cdef Py_ssize_t padded(Py_ssize_t n, Py_ssize_t W):
    """n rounded up to whole panels."""
    return (n + W - 1) // W * W


cdef pack_panels(rnncore_panels* target, matrix, int V, list owned, bint apart=False):
    """Pack (V * N, K) into [ceil(N / W)][K][V][W], for the instruction set in use.

    apart: into [ceil(N / W)][V][K][W], V times as many panels of one vector.
    """
    W = isa.width
    N, K = len(matrix) // V, matrix.shape[1]
    count = -(-N // W)
    wide = np.zeros((V, count * W, K), np.float32)
    wide[:, :N] = matrix.reshape(V, N, K)
    order = (1, 0, 3, 2) if apart else (1, 3, 0, 2)
    target.data = aligned_copy(wide.reshape(V, count, W, K).transpose(order), owned)
    target.panels = count * V if apart else count
    target.K = K
    target.V = 1 if apart else V


cdef unpack_panels(const rnncore_panels* panels, Py_ssize_t rows, Py_ssize_t W, int apart=1):
    """The (rows, K) matrix that pack_panels was given, a copy; apart: its V where vectors stand apart."""
    cdef cnp.npy_intp[5] shape
    cdef int V = panels.V * apart
    shape[0], shape[1], shape[2], shape[3], shape[4] = panels.panels // apart, apart, panels.K, panels.V, W
    packed = cnp.PyArray_SimpleNewFromData(5, shape, cnp.NPY_FLOAT32, <void*> panels.data)
    wide = packed.transpose(1, 3, 0, 4, 2).reshape(V, panels.panels // apart * W, panels.K)
    return np.array(wide[:, : rows // V].reshape(rows, panels.K))


cdef const float* aligned_copy(array, list owned) except NULL:
    """A copy aligned to 64 bytes, kept alive by the list."""
    cdef cnp.ndarray copy
    room = np.empty(array.size + 16, np.float32)
    skip = (-room.ctypes.data % 64) // 4
    copy = room[skip : skip + array.size]
    copy.reshape(array.shape)[...] = array
    owned.append(copy)
    return <const float*> cnp.PyArray_DATA(copy)


cdef units(vector, int V, int W):
    """A vector of V gates of N units in panel order: [ceil(N / W)][V][W], padded with zeros."""
    N = len(vector) // V
    count = -(-N // W)
    wide = np.zeros((V, count * W), np.float32)
    wide[:, :N] = vector.reshape(V, N)
    return wide.reshape(V, count, W).transpose(1, 0, 2)


cdef inline void* optional_data(cnp.ndarray array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(array)


def is_fused(str kind, dict options):
    """Whether the fused kernels cover these options; the others finish their rows with cell.h."""
    names = options["activation_names"]
    if kind == "RNN":
        return names[0] in ("tanh", "relu")
    if kind == "GRU":
        return names == ["sigmoid", "sigmoid", "tanh"]
    return names == ["sigmoid", "sigmoid", "tanh", "sigmoid", "tanh"] and options["layer_norm"] is None


choose_isa(None if os.environ.get("RNNCORE_ISA", "") in ("", "blas") else os.environ["RNNCORE_ISA"])
