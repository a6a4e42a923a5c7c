# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The time loop over packed kernels, float32: nothing allocated inside, no Python.

For a chunk of time steps the input product of all its rows is made at once, straight from the rows of x; then each
step adds the recurrent product, panel by panel, and finishes the units of that panel while its pre-activations are
still in registers. The walk over the panels turns round at every step, so that it begins with what the cache still
holds. For a single row the next chunk's input product is pipelined with the steps (recurrent/pipelined_body.h).

Threads that share a direction by panels keep the same ones for the whole sequence and meet after every step. Each
output is the same chain of operations however the work was shared, and so are its bits.

What the fused steps do not cover takes plain panels of one vector and finishes rows with cell.h.
"""

from libc.math cimport INFINITY
from libc.string cimport memcpy, memmove, memset

from rnncore.kernels._cell cimport KIND_GRU, KIND_RNN, rnncore_cell
from rnncore.kernels._costs cimport (
    LARGEST_NEAR, LEAST_PIPELINED, WAVEFRONT_STEPS, WORK_BETWEEN_SIGNALS, cost_of_row, weight_bytes,
)
from rnncore.kernels._sequences cimport Sequences, steps_of, store, time_of
from rnncore.kernels._packing cimport PIPELINED_ROWS, CellPlan, rnncore_pipelined, rnncore_isa, rnncore_rows
from rnncore.kernels._runtime cimport (
    await_count, barrier_arrive, barrier_wait, handler_raised, rnncore_get, rnncore_publish, rnncore_put,
)


cdef extern from *:
    """
    /* 0 and 1 in turn, for this thread: which way to walk over weights that the last call has just read. */
    static int rnncore_next_turn(void) {
        static _Thread_local int turn;
        return turn ^= 1;
    }
    """
    int rnncore_next_turn() noexcept nogil


cdef inline Py_ssize_t state_row(const Run* run, Py_ssize_t row) noexcept nogil:
    """Row of the states that belongs to a sorted row."""
    if run.slots != NULL:
        return run.slots[row]
    return run.batch.order[row] if run.batch.order != NULL else row


cdef void load_states(const Run* run, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Initial states of sorted rows first..last-1, padded; zeros where none were given."""
    cdef const CellPlan* plan = run.plan
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
    cdef const CellPlan* plan = run.plan
    cdef Py_ssize_t row, target, P = plan.cell.output_size, H = plan.cell.hidden_size
    for row in range(first, last):
        target = state_row(run, row)
        if run.hn != NULL:
            memcpy(run.hn + target * P, h + row * plan.h_stride, P * sizeof(float))
        if run.cn != NULL:
            memcpy(run.cn + target * H, run.c + row * plan.c_stride, H * sizeof(float))


cdef inline void meet(const Run* run, int index, int threads) noexcept nogil:
    if threads > 1:
        barrier_arrive(run.barrier, index)
        barrier_wait(run.barrier, index, threads)


cdef void store_outputs(const Run* run, Py_ssize_t step, Py_ssize_t n, const float* h, Py_ssize_t first,
                        Py_ssize_t last) noexcept nogil:
    """Columns first..last-1 of the outputs of n rows, to y."""
    cdef const Sequences* batch = run.batch
    cdef Py_ssize_t row, source, at
    if run.y == NULL or first >= last:
        return
    for row in range(n):
        source = run.y_order[row] if run.y_order != NULL else row
        at = time_of(batch, row, step)
        if batch.flip:
            at = batch.T - 1 - at
        store[float](batch, last - first, h + row * run.plan.h_stride + first,
                     run.y + source * batch.y_batch + at * batch.y_time + first)


cdef void input_product(const CellPlan* plan, const rnncore_rows* x, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                        float* z) noexcept nogil:
    """W x + b of n rows, units' panels first..last-1 (all of them where the cell is not fused), in the order of z."""
    plan.isa.product(&plan.w_ih, first * plan.separate, last * plan.separate, n, x, plan.bias, z, plan.z_stride)
    if plan.w_in.data != NULL:
        plan.isa.product(&plan.w_in, 0, plan.w_in.panels, n, x, plan.bias + plan.z_n, z + plan.z_n, plan.z_stride)


cdef void gather(const Run* run, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """The same out of the table, columns first..last-1."""
    cdef Py_ssize_t row, stride = run.plan.z_stride
    for row in range(n):
        memcpy(run.z + row * stride + first, run.table + run.ids[run.offsets[row]] * stride + first,
               (last - first) * sizeof(float))


cdef rnncore_rows rows_of_one(const Run* run, Py_ssize_t step) noexcept nogil:
    """Rows of x from ``step`` on, where the batch is one row whose steps are all taken."""
    cdef const Sequences* batch = run.batch
    cdef rnncore_rows rows
    cdef Py_ssize_t source = run.x_order[0] if run.x_order != NULL else 0
    rows.base = run.x + source * batch.x_batch + time_of(batch, 0, step) * batch.x_time
    rows.stride = -batch.x_time if batch.reverse else batch.x_time
    rows.offset = NULL
    return rows


cdef bint pipelining_pays(const Run* run, int threads) noexcept nogil:
    """Whether steps of one row wait for a thread's weights long enough to fit products in; the same for all."""
    cdef const CellPlan* plan = run.plan
    cdef Py_ssize_t size = weight_bytes(plan, &plan.w_hh)
    if plan.pipelined_step == NULL or run.ready != NULL or run.done != NULL:
        return False
    if steps_of(run.batch) < 2 * PIPELINED_ROWS(plan.V):
        return False
    if 2 * plan.w_ih.K < plan.w_hh.K or plan.w_ih.K > 2 * plan.w_hh.K:  # too little to make, or to pipeline it with
        return False
    return size <= LARGEST_NEAR and size // plan.w_hh.panels * (plan.w_hh.panels // threads) >= LEAST_PIPELINED


cdef void start_pipelined(const Run* run, rnncore_pipelined* pipelined) noexcept nogil:
    cdef const CellPlan* plan = run.plan
    pipelined.w = &plan.w_ih
    pipelined.start = plan.bias
    pipelined.z_stride = plan.z_stride
    pipelined.chain = run.z + 2 * PIPELINED_ROWS(plan.V) * plan.z_stride


cdef void next_pipelined(const Run* run, rnncore_pipelined* pipelined, Py_ssize_t chunk) noexcept nogil:
    """While a chunk is stepped through, the next one's product is made, in place of that of the one before."""
    cdef const CellPlan* plan = run.plan
    cdef Py_ssize_t rows = PIPELINED_ROWS(plan.V), turn = (chunk + 1) % 2
    pipelined.visit = 0
    pipelined.x = run.x_pipelined + turn * rows * plan.w_ih.K
    pipelined.z = run.z + turn * rows * plan.z_stride


cdef void pack_pipelined(const Run* run, Py_ssize_t start, int index, int threads) noexcept nogil:
    """Inputs of the chunk from step ``start`` on, this thread's part of them; zeros after the last one.

    Others read them one chunk later, so that a meeting of the steps in between is enough.
    """
    cdef const CellPlan* plan = run.plan
    cdef Py_ssize_t rows = PIPELINED_ROWS(plan.V), there = min(rows, steps_of(run.batch) - start), first, last
    cdef float* x = run.x_pipelined + start // rows % 2 * rows * plan.w_ih.K
    cdef rnncore_rows source
    if there <= 0:
        return
    share(plan.w_ih.K, index, threads, &first, &last)
    source = rows_of_one(run, start)
    plan.isa.pack_pipelined(last - first, there, source.base + first, source.stride, x + first * rows, rows)


cdef void single_step(const Run* run, const rnncore_rows* x, Py_ssize_t n, Py_ssize_t first, Py_ssize_t last,
                      const float* h, float* next) noexcept nogil:
    """Input product and step of a call that has one step, for panels first..last-1, a few at a time.

    Such calls come one after the other, and each reads all weights: so each walks the other way than the last one,
    and begins with what the cache still holds.
    """
    cdef const CellPlan* plan = run.plan
    cdef Py_ssize_t group = 8 if plan.V == 1 else (3 if plan.V == 3 else 2)
    cdef Py_ssize_t groups = (last - first + group - 1) // group, i, j, end
    cdef bint back = rnncore_next_turn()
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
    cdef const CellPlan* plan = run.plan
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


cdef void all_steps(Run* run, int index, int threads) noexcept nogil:
    """All steps of one direction, by one of ``threads`` threads that share its panels."""
    cdef const CellPlan* plan = run.plan
    cdef const Sequences* batch = run.batch
    cdef const rnncore_isa* kernels = plan.isa
    cdef Py_ssize_t step = 0, start, t, row, rows, n, n_next, source, available
    cdef Py_ssize_t W = kernels.width, longest = steps_of(batch)
    cdef Py_ssize_t first, last, z_first, z_last, p_first = 0, p_last = 0, column, column_end
    cdef float* h = run.h
    cdef float* other = run.h + batch.B * plan.h_stride
    cdef float* target
    cdef rnncore_rows x_rows, out_rows
    cdef bint plain = run.table == NULL and batch.order == NULL and batch.lengths == NULL and batch.steps == NULL
    cdef bint lone = run.table == NULL and batch.B == 1 and batch.steps == NULL  # rows of x are evenly apart
    cdef bint single = batch.T == 1 and plan.step != NULL and plan.second == NULL and run.table == NULL
    cdef bint aside = plan.w_hr.data != NULL or plan.second != NULL  # whether a step's result is not yet the output
    cdef double work = run.work, row_cost = cost_of_row(plan)
    cdef Py_ssize_t rows_max = run.rows_max
    cdef float* z
    cdef bint pipelining, pipelined_steps
    cdef rnncore_pipelined pipelined
    share(plan.w_hh.panels, index, threads, &first, &last)
    share(unit_panels(plan), index, threads, &z_first, &z_last)
    if plan.w_hr.data != NULL:
        share(plan.w_hr.panels, index, threads, &p_first, &p_last)
        column, column_end = p_first * W, min(p_last * W, plan.cell.output_size)
    elif plan.step != NULL:
        column, column_end = first * W, min(last * W, plan.cell.hidden_size)
    else:
        column, column_end = 0, plan.cell.output_size

    pipelining = lone and pipelining_pays(run, threads)
    if pipelining:
        rows_max = PIPELINED_ROWS(plan.V)
        start_pipelined(run, &pipelined)
        pack_pipelined(run, rows_max, index, threads)
    if index == 0:
        load_states(run, 0, batch.B)
    meet(run, index, threads)
    n = batch.B
    while step < longest:
        # The chunk: whole steps until rows_max rows are named.
        start = step
        rows = 0
        n_next = n
        available = longest
        if run.done != NULL:  # the next layer waits
            available = min(available, step + 2 * WAVEFRONT_STEPS)
        if run.ready != NULL:
            available = min(available, await_count(run.ready, min(step + WAVEFRONT_STEPS, longest), run.interrupted))
            if available <= step:
                return
        while step < available:
            if batch.lengths != NULL:
                while n_next > 0 and batch.lengths[n_next - 1] <= step:
                    n_next -= 1
            if rows + n_next > rows_max:
                break
            rows += n_next
            step += 1
        if lone:
            x_rows = rows_of_one(run, start)
        elif plain and step == start + 1:
            x_rows.base = run.x + (start if not batch.reverse else batch.T - 1 - start) * batch.x_time
            x_rows.stride = batch.x_batch
            x_rows.offset = NULL
        else:
            x_rows.base = run.x
            x_rows.stride = 0
            x_rows.offset = run.offsets
            if index == 0:
                rows = 0
                n_next = n
                for t in range(start, step):
                    if batch.lengths != NULL:
                        while n_next > 0 and batch.lengths[n_next - 1] <= t:
                            n_next -= 1
                    for row in range(n_next):
                        source = run.x_order[row] if run.x_order != NULL else row
                        run.offsets[rows + row] = source * batch.x_batch + time_of(batch, row, t) * batch.x_time
                    rows += n_next
            meet(run, index, threads)
        z = run.z
        pipelined_steps = pipelining and step < longest
        if pipelining:
            z += start // rows_max % 2 * rows_max * plan.z_stride
            next_pipelined(run, &pipelined, start // rows_max)
            if pipelined_steps:
                pack_pipelined(run, step + rows_max, index, threads)
        if single:
            single_step(run, &x_rows, rows, first, last, h, other)
        elif pipelining and start > 0:
            pass  # made during the chunk before
        elif run.table != NULL:
            gather(run, rows, z_first * plan.V * W, z_last * plan.V * W if index + 1 < threads else plan.z_stride)
        else:
            input_product(plan, &x_rows, rows, z_first, z_last, run.z)

        rows = 0
        for t in range(start, step):
            if batch.lengths != NULL:
                n_next = n
                while n_next > 0 and batch.lengths[n_next - 1] <= t:
                    n_next -= 1
                if n_next < n and index == 0:
                    save_states(run, n_next, n, h)
                n = n_next
            target = run.out if aside else other
            if single:
                pass
            elif pipelined_steps:
                plan.pipelined_step(&plan.w_hh, &plan.point, first, last, t & 1, z + rows * plan.z_stride, h, other,
                                    run.c, &pipelined)
                pipelined.visit += 1
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
                    if handler_raised():
                        rnncore_put(run.interrupted, 1)
                        rnncore_put(&run.stop, t)
                elif threads == 1 and rnncore_get(run.interrupted):
                    return
            if threads > 1:
                barrier_arrive(run.barrier, index)
            store_outputs(run, t, n, other, column, column_end)  # ``other`` is not written to before the next arrival
            if run.done != NULL:
                rnncore_publish(run.done, t + 1)
            rows += n
            h, other = other, h
            if threads > 1:
                barrier_wait(run.barrier, index, threads)
            if t >= rnncore_get(&run.stop):
                return
    if index == 0:
        save_states(run, 0, n, h)
        run.work = work


cdef void time_loop(Run* run, int index, int threads) noexcept nogil:
    if threads == 1:  # compiled once more, without meetings
        all_steps(run, 0, 1)
    else:
        all_steps(run, index, threads)
