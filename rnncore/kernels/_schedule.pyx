# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Sharing one call of a stack among threads: by blocks of rows, by directions, by layers, or by panels of weights.

Without Python and without the GIL. Each output is the same chain of operations however the work was shared.
"""

from libc.string cimport memset

from rnncore.kernels._checks cimport plus, times
from rnncore.kernels._costs cimport (
    BLOCK_ROWS, LARGEST_BETWEEN, LARGEST_WAVEFRONT, ROWS_WORTH_SHARING, SLOWEST_MULTIPLY_ADD,
    STEP_WORTH_SHARING, WAVEFRONT_STEPS, WORK_BETWEEN_SIGNALS, WORK_OF_A_MEETING, chunk_rows, cost_of_row, weight_bytes,
    work_of_row,
)
from rnncore.kernels._sequences cimport MERGE_SET, Sequences, Merge
from rnncore.kernels._loop cimport Run, assign_scratch, line, scratch_size, time_loop
from rnncore.kernels._packing cimport CellPlan
from rnncore.kernels._runtime cimport (
    barrier_end, rnncore_barrier, rnncore_flush_subnormals, rnncore_get, rnncore_restore_subnormals, run_threads,
    scratch_memory,
)

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    WORDS_OF_A_LINE = 8


cdef void by_panels(int index, int threads, void* argument) noexcept nogil:
    """Task: all threads share the panels of one run."""
    cdef unsigned before = rnncore_flush_subnormals()
    time_loop(<Run*> argument, index, threads)
    if threads > 1:
        barrier_end((<Run*> argument).barrier, index)
    rnncore_restore_subnormals(before)


cdef void prepare_run(Call* call, Run* run, Sequences* batch, int layer, int direction, Py_ssize_t first,
                      Py_ssize_t last, float* before, float* after) noexcept nogil:
    """One layer and direction over sorted rows first..last-1.

    before and after hold the outputs of the layer before and of this one, (T, rows, width); the first layer reads
    x and the last writes y.
    """
    cdef const CellPlan* plan = call.plans[layer * call.directions + direction]
    cdef Py_ssize_t P = plan.cell.output_size, H = plan.cell.hidden_size, B = last - first
    cdef Py_ssize_t state = (layer * call.directions + direction) * call.state_batch
    cdef bint moved = call.batch.order == NULL and first > 0
    cdef Merge merge = call.last_merge if layer == call.layers - 1 else call.merge
    memset(run, 0, sizeof(Run))
    batch[0] = call.batch
    batch.B = B
    batch.reverse = call.reverse or direction == 1
    batch.merge = merge if direction == 1 else MERGE_SET
    if batch.order != NULL:
        batch.order = batch.order + first
        batch.lengths = batch.lengths + first
        if batch.steps != NULL:
            batch.steps = batch.steps + first * batch.T
    run.plan = plan
    run.batch = batch
    run.interrupted = &call.interrupted
    run.stop = PY_SSIZE_T_MAX
    if layer == 0:
        if call.tables != NULL:
            run.ids = call.ids + (first * batch.x_batch if moved else 0)
            run.table = call.tables[direction]
        else:
            run.x = call.x + (first * batch.x_batch if moved else 0)
        run.x_order = batch.order
    else:
        run.x = before
        run.x_order = NULL
        batch.x_batch, batch.x_time = call.width, B * call.width
    if layer == call.layers - 1:
        run.y = call.y
        run.y_order = batch.order
        if moved and run.y != NULL:
            run.y += first * batch.y_batch
    else:
        run.y = after
        run.y_order = NULL
        batch.y_batch, batch.y_time, batch.flip = call.width, B * call.width, False
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
    cdef float* after = <float*> (scratch + between)
    cdef Run run
    cdef Sequences batch
    cdef int layer, direction
    for layer in range(call.layers):
        for direction in range(call.directions):
            prepare_run(call, &run, &batch, layer, direction, first, last, before, after)
            run.signals = signals
            run.work = work[0]
            assign_scratch(&run, B, call.has_c, scratch + 2 * between)
            time_loop(&run, 0, 1)
            work[0] = run.work
            if rnncore_get(&call.interrupted):
                return
        before, after = after, before


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
    Sequences batches[2]


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


# Layers in a wavefront: each a few steps after the one before.
cdef struct Front:
    Call* call
    char* between           # (layers - 1) outputs between two layers
    size_t between_size
    char* scratch           # (threads)
    size_t scratch_size
    Py_ssize_t* done        # (layers), each in a cache line of its own: steps whose outputs are done


cdef void by_layers(int index, int threads, void* argument) noexcept nogil:
    """Task: each thread runs the index-th layer, and every threads-th after it."""
    cdef Front* front = <Front*> argument
    cdef Call* call = front.call
    cdef unsigned mode = rnncore_flush_subnormals()
    cdef int layer = index
    cdef Run run
    cdef Sequences batch
    cdef float* after
    while layer < call.layers and not rnncore_get(&call.interrupted):
        after = <float*> (front.between + layer * front.between_size)  # of the last layer: never read
        prepare_run(call, &run, &batch, layer, 0, 0, call.batch.B,
                    <float*> (front.between + (layer - 1) * front.between_size) if layer > 0 else NULL, after)
        run.signals = call.signals and index == 0
        run.ready = front.done + (layer - 1) * WORDS_OF_A_LINE if layer > 0 else NULL
        run.done = front.done + layer * WORDS_OF_A_LINE
        assign_scratch(&run, call.batch.B, call.has_c, front.scratch + index * front.scratch_size)
        time_loop(&run, 0, 1)
        layer += threads
    rnncore_restore_subnormals(mode)


cdef bint execute(Call* call) noexcept nogil:
    """Share the call among threads and do it. False where there is no memory."""
    cdef const Sequences* batch = &call.batch
    cdef Py_ssize_t B = batch.B, first = 0, first_next, row, blocks
    cdef double work = 0, done = 0
    cdef int threads = call.threads
    cdef size_t table
    cdef char* memory
    cdef Py_ssize_t rows = 0
    call.signals = call.row_cost * B * batch.T > WORK_BETWEEN_SIGNALS
    blocks = (B + BLOCK_ROWS - 1) // BLOCK_ROWS
    if threads > 1:
        if blocks > 1:
            blocks = (blocks + threads - 1) // threads * threads
        elif B // ROWS_WORTH_SHARING >= threads:
            blocks = threads
    if blocks == 1:
        return execute_together(call, threads)
    # By rows, in blocks of nearly equal work. Rows are in order of falling length, so later blocks have more.
    table = line(times(2, blocks + 1))
    call.blocks = blocks
    if batch.lengths != NULL:
        for row in range(B):
            work += <double> batch.lengths[row]
    for row in range(blocks):  # the largest block decides how much scratch there is
        first_next = block_end(batch, row, blocks, first, work, &done)
        rows = max(rows, first_next - first)
        first = first_next
    call.scratch_size = block_scratch(call, rows)
    memory = <char*> scratch_memory(plus(table, times(threads, call.scratch_size)))
    if memory == NULL:
        return False
    call.bounds = <Py_ssize_t*> memory
    call.scratch = memory + table
    first = 0
    done = 0
    for row in range(blocks):
        call.bounds[row] = first
        first = block_end(batch, row, blocks, first, work, &done)
    call.bounds[blocks] = batch.B
    run_threads(threads, by_blocks, call)
    return True


cdef bint execute_together(Call* call, int threads) noexcept nogil:
    """All rows at once: layers in a wavefront, or one by one and shared by directions or panels where that pays."""
    cdef Py_ssize_t B = call.batch.B
    cdef size_t between = between_size(call, B), each
    cdef char* scratch
    cdef float* before
    cdef float* after
    cdef unsigned mode
    cdef double work = 0
    cdef Pair pair
    cdef rnncore_barrier barrier
    cdef int layer, direction, sharing
    cdef Merge merge
    cdef const CellPlan* plan
    if threads > 1 and wavefront_pays(call, threads):
        return execute_wavefront(call, threads)
    scratch = <char*> scratch_memory(times(block_scratch(call, B), 2 if threads > 1 else 1))
    if scratch == NULL:
        return False
    if threads == 1:
        mode = rnncore_flush_subnormals()
        run_block(call, 0, B, scratch, call.signals, &work)
        rnncore_restore_subnormals(mode)
        return True
    before = <float*> scratch
    after = <float*> (scratch + between)
    scratch += 2 * between
    for layer in range(call.layers):
        each = 0
        for direction in range(call.directions):
            plan = call.plans[layer * call.directions + direction]
            prepare_run(call, &pair.runs[direction], &pair.batches[direction], layer, direction, 0, B, before, after)
            pair.runs[direction].signals = call.signals
            assign_scratch(&pair.runs[direction], B, call.has_c, scratch + direction * each)
            each = scratch_size(plan, B, chunk_rows(plan, B, call.batch.T), call.has_c)
        merge = call.last_merge if layer == call.layers - 1 else call.merge
        if call.directions == 2 and merge == MERGE_SET:
            run_threads(2, by_directions, &pair)
        else:
            for direction in range(call.directions):
                plan = call.plans[layer * call.directions + direction]
                sharing = panel_threads(plan, B, threads)
                if sharing > 1:
                    memset(&barrier, 0, sizeof(barrier))
                    barrier.patience = <long long> (work_of_row(plan) * B / sharing * SLOWEST_MULTIPLY_ADD)
                    pair.runs[direction].barrier = &barrier
                run_threads(sharing, by_panels, &pair.runs[direction])
        if call.interrupted:
            return True
        before, after = after, before
    return True


cdef bint wavefront_pays(const Call* call, int threads) noexcept nogil:
    """Whether layers in a wavefront are sooner done than each layer shared by panels."""
    cdef Py_ssize_t B = call.batch.B
    cdef double work, one_by_one = 0, together = 0
    cdef int layer, sharing
    cdef const CellPlan* plan
    if call.directions != 1 or call.layers == 1 or call.batch.T < 2 * WAVEFRONT_STEPS:
        return False
    if call.layers > 3 and times(call.layers - 1, between_size(call, B)) > LARGEST_BETWEEN:
        return False
    for layer in range(call.layers):
        plan = call.plans[layer]
        if weight_bytes(plan, &plan.w_hh) > LARGEST_WAVEFRONT:
            return False
        work = cost_of_row(plan) * B
        sharing = panel_threads(plan, B, threads)
        one_by_one += work / sharing + (WORK_OF_A_MEETING if sharing > 1 else 0)
        if layer % threads == 0:  # nearly equal layers: what the first thread does takes longest
            together += work
    # The last layer begins when the one before has made its first chunk, and ends as much later.
    return together * (1 + 2.0 * WAVEFRONT_STEPS / call.batch.T) < one_by_one


cdef bint execute_wavefront(Call* call, int threads) noexcept nogil:
    """All rows at once, layers in a wavefront."""
    cdef Py_ssize_t B = call.batch.B
    cdef Front front
    cdef size_t words = call.layers * WORDS_OF_A_LINE * sizeof(Py_ssize_t)
    cdef char* memory
    front.call = call
    front.between_size = between_size(call, B)
    front.scratch_size = layer_scratch(call, B)
    memory = <char*> scratch_memory(
        plus(plus(words, times(call.layers - 1, front.between_size)), times(threads, front.scratch_size)))
    if memory == NULL:
        return False
    memset(memory, 0, words)
    front.done = <Py_ssize_t*> memory
    front.between = memory + words
    front.scratch = front.between + (call.layers - 1) * front.between_size
    run_threads(threads, by_layers, &front)
    return True


cdef inline int panel_threads(const CellPlan* plan, Py_ssize_t B, int threads) noexcept nogil:
    """The number of ``threads`` that share a layer's panels."""
    if plan.step == NULL or work_of_row(plan) * B < STEP_WORTH_SHARING * threads:
        return 1
    return min(threads, <int> plan.w_hh.panels)


cdef inline size_t between_size(const Call* call, Py_ssize_t B) noexcept nogil:
    """Bytes of the outputs between two layers."""
    return line(times(times(B, call.batch.T), call.width)) if call.layers > 1 else 0


cdef size_t layer_scratch(const Call* call, Py_ssize_t B) noexcept nogil:
    """Bytes that a run of any of the layers needs for B rows."""
    cdef size_t largest = 0
    cdef Py_ssize_t rows
    cdef int i
    for i in range(call.layers * call.directions):
        rows = chunk_rows(call.plans[i], B, call.batch.T)
        largest = max(largest, scratch_size(call.plans[i], B, rows, call.has_c))
    return largest


cdef inline size_t block_scratch(const Call* call, Py_ssize_t B) noexcept nogil:
    """Bytes that run_block needs for B rows."""
    return plus(layer_scratch(call, B), times(2, between_size(call, B)))


cdef Py_ssize_t block_end(const Sequences* batch, Py_ssize_t i, Py_ssize_t parts, Py_ssize_t first, double work,
                          double* done) noexcept nogil:
    """The end of the i-th block of rows, which begins at ``first``; done counts the steps of all rows before."""
    cdef Py_ssize_t last = first
    if batch.lengths == NULL:
        return batch.B * (i + 1) // parts
    if i == parts - 1:
        return batch.B
    while last < batch.B and done[0] < work * (i + 1) / parts:
        done[0] += <double> batch.lengths[last]
        last += 1
    return last
