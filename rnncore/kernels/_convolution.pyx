# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Convolutions over packed kernels (convolution/), float32: GIL released, no array of patches.

For each shape of the input there is a Plan: where in one image the first output's terms stand (offsets), how an image
is copied so that this holds (zeros around it, parted by phase where a stride is not 1; no copy where there is neither),
and which positions are outputs. The last plans are kept, so that calls of one shape pay for it once.

Three kernels, chosen by how many vectors of multiply-adds each would make; the bits are the same:

    planes  positions in the lanes: images
    rows    outputs in the lanes, one position of one image after the other: short sequences
    single  one output at a time: depthwise

Nothing is checked here; rnncore.ops.convolution checks before it calls.
"""

import itertools
import math

import numpy as np

cimport cython
cimport numpy as cnp

from rnncore.kernels._signals cimport check_signals

from rnncore.kernels import _native

cnp.import_array()


cdef extern from "convolution/convolution.h":
    ctypedef struct rnncore_run:
        Py_ssize_t first, place, count

    ctypedef struct rnncore_row:
        Py_ssize_t target, source, lead, count, total, step

    ctypedef struct rnncore_convolution_isa:
        const char* name
        int width, chain, tile
        void (*planes)(const float* w, const float* bias, Py_ssize_t M, Py_ssize_t K, const float* x,
                       const Py_ssize_t* offset, Py_ssize_t P, const rnncore_run* runs, float* y, Py_ssize_t y_stride,
                       int relu, float* room) noexcept nogil
        void (*rows)(const float* w, const float* bias, Py_ssize_t M, Py_ssize_t K, const float* const* x,
                     Py_ssize_t n, const Py_ssize_t* offset, float* const* y, Py_ssize_t y_stride,
                     int relu) noexcept nogil
        void (*single)(const float* w, float bias, Py_ssize_t K, const float* x, const Py_ssize_t* offset,
                       Py_ssize_t positions, const rnncore_run* runs, Py_ssize_t run_count, float* y,
                       int relu) noexcept nogil

    const rnncore_convolution_isa** rnncore_convolution_isas
    void rnncore_copy_rows(const rnncore_row* rows, Py_ssize_t n, const float* source, float* target) noexcept nogil

cdef extern from "native/pool.h":
    ctypedef void rnncore_task(int index, int threads, void* argument) noexcept nogil
    void rnncore_pool_run(int threads, rnncore_task* task, void* argument) nogil
    void rnncore_put(Py_ssize_t* word, Py_ssize_t value) noexcept nogil
    Py_ssize_t rnncore_get(const Py_ssize_t* word) noexcept nogil

cdef extern from "native/scratch.h":
    void* rnncore_scratch(size_t size) nogil
    unsigned rnncore_flush_subnormals() noexcept nogil
    void rnncore_restore_subnormals(unsigned before) noexcept nogil


cdef enum Kernel:
    PLANES
    ROWS
    SINGLE

# Multiply-adds between two looks at pending signals: a few milliseconds' work.
cdef double WORK_BETWEEN_SIGNALS = 2e8

# Below so many multiply-adds, a few microseconds, a call keeps the GIL: giving it away and getting it back costs more.
cdef double WORK_WITH_GIL = 200e3

# A call is shared where every thread gets at least this many multiply-adds: waking a thread costs some microseconds.
cdef double WORK_WORTH_SHARING = 400e3

# Rows that the weights in cache are used for before the next ones are fetched, where the batch has as many.
cdef Py_ssize_t CHUNK_ROWS = 48

# Outputs of a group up to which the kernel for single outputs beats a panel that is mostly padding.
cdef Py_ssize_t SINGLE_OUTPUTS = 3

# What rows cost more than planes for each vector: their results are stored one number at a time.
cdef double ROWS_COST = 1.2


# Plans that are kept, of images of several sizes in turn.
cdef Py_ssize_t KEPT_PLANS = 16


cdef const rnncore_convolution_isa* current_isa() except NULL:
    """The table for the instruction set that _native uses."""
    cdef int i = 0
    name = _native.current_isa().encode()
    while rnncore_convolution_isas[i] != NULL:
        if <bytes> rnncore_convolution_isas[i].name == name:
            return rnncore_convolution_isas[i]
        i += 1
    raise RuntimeError(f"no convolution kernels for {name.decode()}")


cdef class Plan:
    """How images of one shape are convolved; see the module."""

    cdef tuple sizes          # of the input: (channels, *spatial)
    cdef tuple outputs        # spatial sizes of the output
    cdef Kernel kernel
    cdef Py_ssize_t P         # outputs of one channel
    cdef Py_ssize_t positions
    cdef Py_ssize_t image     # numbers of one channel of the input
    cdef Py_ssize_t padded    # the same of its copy; 0 where the input is used as it is
    cdef Py_ssize_t images    # of a chunk of rows
    cdef object offset_array, run_array, row_array, start_array
    cdef const Py_ssize_t* offsets     # (K)
    cdef const rnncore_run* runs
    cdef Py_ssize_t run_count
    cdef const rnncore_row* rows
    cdef Py_ssize_t row_count
    cdef const Py_ssize_t* starts      # (P), rows: where each output's terms begin


cdef object as_indices(values):
    return np.ascontiguousarray(values, np.intp)


cdef row_major(sizes):
    """Strides of a dense array, in elements."""
    return [math.prod(sizes[axis + 1:]) for axis in range(len(sizes))]


@cython.wraparound(True)
cdef lay_out(Plan plan, inputs, outputs, pads, kernel, strides, dilations, bint parted):
    """Fill the plan's tables for a copy of the input that is parted by phase, or one that only has zeros around it."""
    cdef Py_ssize_t D = len(inputs)
    taps = [[j * dilations[axis] for j in range(kernel[axis])] for axis in range(D)]
    steps = list(strides) if parted else [1] * D
    phases = [sorted({tap % steps[axis] for tap in taps[axis]}) for axis in range(D)]
    apart = [1] * D if parted else list(strides)
    sizes = [(outputs[axis] - 1) * apart[axis] + taps[axis][-1] // steps[axis] + 1 for axis in range(D)]
    pitch = row_major(sizes)
    plane = math.prod(sizes)
    grid = np.indices(outputs).reshape(D, -1)
    starts = sum(grid[axis] * (apart[axis] * pitch[axis]) for axis in range(D))
    plan.start_array = as_indices(starts)
    plan.positions = int(starts[-1]) + 1
    breaks = np.flatnonzero(np.diff(starts) != 1) + 1
    first = np.concatenate([[0], breaks])
    plan.run_array = as_indices(np.stack([starts[first], first, np.diff(np.append(first, len(starts)))], 1))
    run_count = len(plan.run_array)
    plan.image = math.prod(inputs)
    places = {phase: number * plane for number, phase in enumerate(itertools.product(*phases))}
    plan.padded = plane * len(places)
    whole = all(step == 1 for step in steps) and not any(pads) and list(inputs[1:]) == sizes[1:]
    if whole and sizes[0] <= inputs[0] and (run_count == 1 or not parted):
        plan.padded = 0
    channel = plan.padded or plan.image
    terms = [
        places[tuple(tap % step for tap, step in zip(tap_at, steps))]
        + sum(tap // step * along for tap, step, along in zip(tap_at, steps, pitch))
        for tap_at in itertools.product(*taps)
    ]
    plan.offset_array = as_indices(
        (np.arange(plan.sizes[0])[:, None] * channel + np.array(terms, np.intp)[None, :]).reshape(-1))
    copies = []
    if plan.padded:
        from_pitch = row_major(inputs)
        for phase, place in places.items():
            step, end = steps[-1], phase[-1] - pads[-1]
            lead = min(max(0, -(end // step)), sizes[-1])
            count = min(max(0, -((end - inputs[-1]) // step) - lead), sizes[-1] - lead)
            for outer in itertools.product(*map(range, sizes[:-1])):
                at = [q * steps[axis] + phase[axis] - pads[axis] for axis, q in enumerate(outer)]
                inside = all(0 <= i < inputs[axis] for axis, i in enumerate(at)) and count > 0
                target = place + sum(q * along for q, along in zip(outer, pitch))
                if inside:
                    source = sum(i * along for i, along in zip(at, from_pitch)) + end + lead * step
                    copies.append((target, source, lead, count, sizes[-1], step))
                else:
                    copies.append((target, 0, sizes[-1], 0, sizes[-1], 1))
    plan.row_array = as_indices(copies).reshape(-1, 6)
    plan.offsets = <const Py_ssize_t*> cnp.PyArray_DATA(plan.offset_array)
    plan.runs = <const rnncore_run*> cnp.PyArray_DATA(plan.run_array)
    plan.run_count = run_count
    plan.rows = <const rnncore_row*> cnp.PyArray_DATA(plan.row_array)
    plan.row_count = len(plan.row_array)
    plan.starts = <const Py_ssize_t*> cnp.PyArray_DATA(plan.start_array)


# One call.
cdef struct Work:
    const rnncore_convolution_isa* isa
    const float* w          # [G][panels][K][W]
    const float* bias       # [G][panels][W]
    const float* plain      # [G * M][K], single
    const float* plain_bias  # [G * M]
    Py_ssize_t G, M, K, panels, C  # of one group: outputs, terms, panels, input channels
    Kernel kernel
    Py_ssize_t P, positions, image, padded, images
    const Py_ssize_t* offsets
    const rnncore_run* runs
    Py_ssize_t run_count
    const rnncore_row* rows
    Py_ssize_t row_count
    const Py_ssize_t* starts
    const float* x
    float* y
    Py_ssize_t N, blocks    # parts that the outputs of a group are shared in
    size_t scratch
    int relu
    Py_ssize_t stop         # set where memory was lacking (1) or a signal handler raised (2)
    bint signals


cdef const float* copied(const Work* work, Py_ssize_t n, Py_ssize_t g, float* room) noexcept nogil:
    """One image's channels of one group, as the plan wants them."""
    cdef const float* source = work.x + (n * work.G + g) * work.C * work.image
    cdef Py_ssize_t c
    if work.padded == 0:
        return source
    for c in range(work.C):
        rnncore_copy_rows(work.rows, work.row_count, source + c * work.image, room + c * work.padded)
    return room


cdef void convolve_image(const Work* work, Py_ssize_t n, Py_ssize_t g, Py_ssize_t block, const float* x,
                         float* room) noexcept nogil:
    """Part ``block`` of the outputs of one image and group, by planes or single."""
    cdef Py_ssize_t first, last, m
    cdef Py_ssize_t W = work.isa.width
    cdef float* y = work.y + (n * work.G + g) * work.M * work.P
    if work.kernel == SINGLE:
        first, last = work.M * block // work.blocks, work.M * (block + 1) // work.blocks
        for m in range(first, last):
            work.isa.single(work.plain + (g * work.M + m) * work.K, work.plain_bias[g * work.M + m], work.K, x,
                            work.offsets, work.positions, work.runs, work.run_count, y + m * work.P, work.relu)
        return
    first, last = work.panels * block // work.blocks, work.panels * (block + 1) // work.blocks
    if first < last:
        work.isa.planes(work.w + (g * work.panels + first) * work.K * W, work.bias + (g * work.panels + first) * W,
                        min(last * W, work.M) - first * W, work.K, x, work.offsets, work.P, work.runs,
                        y + first * W * work.P, work.P, work.relu, room)


cdef void convolve_rows(const Work* work, Py_ssize_t chunk, Py_ssize_t g, Py_ssize_t block, char* room,
                        bint fresh) noexcept nogil:
    """Part ``block`` of the outputs of one group, for every position of a chunk of images."""
    cdef Py_ssize_t first = chunk * work.images, last = min(first + work.images, work.N)
    cdef Py_ssize_t rows = work.images * work.P, n, p, at = 0, W = work.isa.width, panel, end
    cdef const float** xs = <const float**> room
    cdef float** ys = <float**> (room + rows * sizeof(float*))
    cdef float* copies = <float*> (room + 2 * rows * sizeof(float*))
    cdef const float* x
    panel, end = work.panels * block // work.blocks, work.panels * (block + 1) // work.blocks
    if panel == end:
        return
    for n in range(first, last):
        if fresh:
            x = copied(work, n, g, copies + (n - first) * work.C * work.padded)
            for p in range(work.P):
                xs[at + p] = x + work.starts[p]
        for p in range(work.P):
            ys[at + p] = work.y + ((n * work.G + g) * work.M + panel * W) * work.P + p
        at += work.P
    work.isa.rows(work.w + (g * work.panels + panel) * work.K * W, work.bias + (g * work.panels + panel) * W,
                  min(end * W, work.M) - panel * W, work.K, xs, at, work.offsets, ys, work.P, work.relu)


cdef bint pending_signal() noexcept nogil:
    """Whether a signal handler raised; the exception then waits in the thread that called."""
    with gil:
        try:
            check_signals()
        except BaseException as error:
            pending.append(error)
            return True
    return False


# Exceptions of signal handlers, on their way from the task to the call that started it.
cdef list pending = []


cdef void convolve(int index, int threads, void* argument) noexcept nogil:
    """Task: a share of the images (or chunks of them), groups and parts of the outputs, in this order."""
    cdef Work* work = <Work*> argument
    cdef Py_ssize_t images = work.N if work.kernel != ROWS else (work.N + work.images - 1) // work.images
    cdef Py_ssize_t units = images * work.G * work.blocks, unit, rest, n, g
    cdef Py_ssize_t last_n = -1, last_g = -1
    cdef char* room = <char*> rnncore_scratch(work.scratch)
    cdef const float* x = NULL
    cdef double done = 0, each
    cdef unsigned before
    if room == NULL:
        rnncore_put(&work.stop, 1)
        return
    each = <double> work.N * work.P * work.M * work.K / (images * work.blocks)
    before = rnncore_flush_subnormals()
    for unit in range(units * index // threads, units * (index + 1) // threads):
        n, rest = unit // (work.G * work.blocks), unit % (work.G * work.blocks)
        g = rest // work.blocks
        if work.kernel == ROWS:
            convolve_rows(work, n, g, rest % work.blocks, room, n != last_n or g != last_g)
        else:
            if n != last_n or g != last_g:
                x = copied(work, n, g, <float*> room)
            convolve_image(work, n, g, rest % work.blocks, x, <float*> room + work.C * work.padded)
        last_n, last_g = n, g
        done += each
        if done > WORK_BETWEEN_SIGNALS:
            done = 0
            if work.signals and index == 0 and pending_signal():
                rnncore_put(&work.stop, 2)
            if rnncore_get(&work.stop):
                break
    rnncore_restore_subnormals(before)


cdef class Convolution:
    """y = x convolved with weight, and bias, for images (N, C, *spatial) of any size, float32.

    weight    (M, C / groups, *kernel), packed once;  bias (M) or None
    geometry  (shape of x) -> (pads at the beginning of each axis, spatial sizes of y); raises where x does not fit
    relu      whether negative results become 0

    Immutable but for the plans that it keeps; any number of threads may call it. An output's bits do not depend on the
    batch, the size of the images or the number of threads.
    """

    cdef const rnncore_convolution_isa* isa
    cdef object w, bias, plain, plain_bias, geometry
    cdef tuple kernel, strides, dilations
    cdef Py_ssize_t G, M, K, panels, C
    cdef int relu, threads
    cdef dict plans  # (channels, *spatial) -> Plan

    def __cinit__(self, cnp.ndarray weight not None, bias, groups, strides, dilations, geometry, bint relu,
                  int threads):
        cdef Py_ssize_t W
        shape = (<object> weight).shape
        self.isa = current_isa()
        W = self.isa.width
        self.kernel, self.strides, self.dilations = shape[2:], tuple(strides), tuple(dilations)
        self.plans = {}
        self.geometry, self.relu, self.threads = geometry, relu, min(threads, 64)
        self.G, self.M, self.C = groups, shape[0] // groups, shape[1]
        self.K = math.prod(shape[1:])
        self.panels = (self.M + W - 1) // W
        self.plain = np.ascontiguousarray(weight, np.float32).reshape(self.G, self.M, self.K)
        self.plain_bias = np.zeros((self.G, self.M), np.float32)
        if bias is not None:
            self.plain_bias += bias.reshape(self.G, self.M)
        self.w = self.bias = None
        if self.M > 1 or self.G == 1:
            wide = np.zeros((self.G, self.panels * W, self.K), np.float32)
            wide[:, :self.M] = self.plain
            panels = aligned((self.G, self.panels, self.K, W))
            panels[...] = wide.reshape(self.G, self.panels, W, self.K).swapaxes(2, 3)
            self.w = panels
            padded = np.zeros((self.G, self.panels * W), np.float32)
            padded[:, :self.M] = self.plain_bias
            self.bias = padded
        if self.M > SINGLE_OUTPUTS:
            self.plain = None

    def unpack(self):
        """A copy of the weight, to the bit what was packed."""
        plain = self.plain
        if plain is None:
            plain = self.w.swapaxes(2, 3).reshape(self.G, -1, self.K)[:, :self.M]
        return np.array(plain).reshape((self.G * self.M, self.C) + self.kernel)

    @property
    def packed(self):
        """What reads the weights that are kept here: see Op.compiled."""
        return {"weight": self.unpack}

    cdef Plan make_plan(self, cnp.ndarray x):
        cdef Py_ssize_t W = self.isa.width
        cdef Plan plan = Plan()
        cdef double as_planes, as_rows
        shape = (<object> x).shape
        pads, outputs = self.geometry(shape)
        plan.sizes = shape[1:]
        inputs = shape[2:]
        plan.outputs = tuple(outputs)
        plan.P = math.prod(outputs)
        plan.images = 1
        if plan.P == 0:
            return plan
        lay_out(plan, inputs, outputs, pads, self.kernel, self.strides, self.dilations, True)
        if self.w is None or (self.M <= SINGLE_OUTPUTS and plan.positions >= W):
            plan.kernel = SINGLE
            return plan
        plan.kernel = PLANES
        as_planes = <double> ((plan.P + W - 1) // W) * ((self.M + W // 2 - 1) // (W // 2) * (W // 2))
        as_rows = <double> plan.P * self.panels * ROWS_COST
        if plan.P < W or as_rows < as_planes:
            plan.kernel = ROWS
            lay_out(plan, inputs, outputs, pads, self.kernel, self.strides, self.dilations, False)
            plan.images = max(1, CHUNK_ROWS // plan.P)
        return plan

    def __call__(self, cnp.ndarray x not None):
        """x (N, C, *spatial), float32; copied if it is not C-contiguous."""
        cdef Plan plan
        cdef Work work
        cdef cnp.ndarray dense = np.ascontiguousarray(x) if not cnp.PyArray_ISCARRAY_RO(x) else x
        cdef cnp.ndarray y
        cdef cnp.npy_intp[32] dims
        cdef Py_ssize_t axis
        cdef int D = cnp.PyArray_NDIM(x)
        cdef int threads
        cdef double multiply_adds
        sizes = (<object> dense).shape[1:]
        plan = self.plans.get(sizes)
        if plan is None:
            plan = self.make_plan(dense)
            if len(self.plans) >= KEPT_PLANS:
                self.plans.clear()
            self.plans[sizes] = plan
        dims[0], dims[1] = cnp.PyArray_DIM(dense, 0), self.G * self.M
        for axis in range(2, D):
            dims[axis] = plan.outputs[axis - 2]
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        work.N = dims[0]
        if cnp.PyArray_SIZE(y) == 0:
            return y
        work.isa = self.isa
        work.w = work.bias = work.plain = work.plain_bias = NULL
        if self.w is not None:
            work.w = <const float*> cnp.PyArray_DATA(self.w)
            work.bias = <const float*> cnp.PyArray_DATA(self.bias)
        if self.plain is not None:
            work.plain = <const float*> cnp.PyArray_DATA(self.plain)
            work.plain_bias = <const float*> cnp.PyArray_DATA(self.plain_bias)
        work.G, work.M, work.K, work.panels, work.C = self.G, self.M, self.K, self.panels, self.C
        work.kernel, work.P, work.positions = plan.kernel, plan.P, plan.positions
        work.image, work.padded, work.images = plan.image, plan.padded, min(plan.images, work.N)
        work.offsets, work.runs, work.run_count = plan.offsets, plan.runs, plan.run_count
        work.rows, work.row_count, work.starts = plan.rows, plan.row_count, plan.starts
        work.x = <const float*> cnp.PyArray_DATA(dense)
        work.y = <float*> cnp.PyArray_DATA(y)
        work.relu = self.relu
        work.stop = 0
        multiply_adds = <double> work.N * work.P * work.G * work.M * work.K
        threads = <int> max(1, min(self.threads, multiply_adds / WORK_WORTH_SHARING))
        work.blocks = threads if work.N * work.G < 4 * threads else 1
        work.blocks = max(work.blocks, <Py_ssize_t> (multiply_adds / work.N / work.G / WORK_BETWEEN_SIGNALS))
        work.blocks = max(1, min(work.blocks, work.M if plan.kernel == SINGLE else work.panels))
        work.signals = multiply_adds > WORK_BETWEEN_SIGNALS
        work.scratch = work.images * work.C * work.padded * sizeof(float) + 64
        if plan.kernel == PLANES:
            work.scratch += (self.isa.chain + 1 + self.panels * self.isa.width) * self.isa.tile * sizeof(float)
        elif plan.kernel == ROWS:
            work.scratch += 2 * work.images * work.P * sizeof(float*)
        if multiply_adds < WORK_WITH_GIL:
            convolve(0, 1, &work)
        else:
            with nogil:
                rnncore_pool_run(threads, convolve, &work)
        if work.stop == 1:
            raise MemoryError(f"no memory for a convolution of images {(<object> dense).shape}")
        if work.stop == 2:
            raise pending.pop()
        return y


cdef aligned(shape):
    """An uninitialised float32 array that begins at a multiple of 64 bytes."""
    count = math.prod(shape)
    room = np.empty(count + 16, np.float32)
    start = -room.ctypes.data % 64 // 4
    return room[start:start + count].reshape(shape)
