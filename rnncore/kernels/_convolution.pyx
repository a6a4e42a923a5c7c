# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Convolutions over packed kernels (convolution/), float32: GIL released, no array of patches.

For each shape of the input there is a ConvolutionPlan: where in one image the first output's terms are (offsets), how
an image is copied so that this holds (zeros around it, parted by phase where a stride is not 1; no copy where neither
is needed), and which positions are outputs. The last plans are kept, so that calls of one shape pay for it once.

Three kernels, chosen by how many vectors of multiply-adds each would make; the bits are the same:

    planes  positions in the lanes: images
    rows    outputs in the lanes, one position of one image after the other: short sequences
    single  one output at a time: depthwise
"""

import math

import numpy as np

cimport numpy as cnp

from rnncore.kernels._checks cimport MAX_RANK, as_dense, checked_size, checked_sizes, plus, refuse, times
from rnncore.kernels._program cimport Instruction, Operand, Place, address, place_of
from rnncore.kernels._runtime cimport (
    check_signals, handler_raised, isa_number, raise_handled, rnncore_flush_subnormals, rnncore_get, rnncore_put,
    rnncore_restore_subnormals, run_threads, scratch_memory, threads_of,
)

from rnncore.kernels import check_memory

cnp.import_array()


cdef extern from "convolution/convolution.h":
    ctypedef struct rnncore_run:
        Py_ssize_t first, place, count

    ctypedef struct rnncore_row:
        Py_ssize_t target, source, lead, count, total, step

    ctypedef struct rnncore_convolution_isa:
        const char* name
        int width, chain, tile, stretch
        void (*planes)(const float* w, const float* bias, Py_ssize_t M, Py_ssize_t K, const float* x,
                       const Py_ssize_t* offset, Py_ssize_t first, Py_ssize_t last, Py_ssize_t P,
                       const rnncore_run* runs, float* y, Py_ssize_t y_stride, int relu, float* scratch) noexcept nogil
        void (*rows)(const float* w, const float* bias, Py_ssize_t M, Py_ssize_t K, const float* const* x,
                     Py_ssize_t n, const Py_ssize_t* offset, float* const* y, Py_ssize_t y_stride,
                     int relu) noexcept nogil
        void (*single)(const float* w, float bias, Py_ssize_t K, const float* x, const Py_ssize_t* offset,
                       Py_ssize_t first, Py_ssize_t last, Py_ssize_t positions, const rnncore_run* runs,
                       Py_ssize_t run_count, float* y, int relu) noexcept nogil

    const rnncore_convolution_isa** rnncore_convolution_isas
    void rnncore_copy_rows(const rnncore_row* rows, Py_ssize_t n, const float* source, float* target) noexcept nogil


cdef enum Kernel:
    PLANES
    ROWS
    SINGLE

# Multiply-adds between two looks at pending signals: a few milliseconds' work. A copied number counts as this many.
cdef double WORK_BETWEEN_SIGNALS = 2e8
cdef double WORK_OF_A_COPY = 10

# Below this many multiply-adds, some microseconds, a call keeps the GIL: giving it away and getting it back costs more.
cdef double WORK_WITH_GIL = 200e3

# A call is shared where every thread gets at least this many multiply-adds: waking a thread costs some microseconds.
cdef double WORK_WORTH_SHARING = 400e3

# Rows that the weights in cache are used for before the next ones are fetched, where the batch has them.
cdef Py_ssize_t CHUNK_ROWS = 48

# Numbers of the copies of a chunk, if it is of several images.
LARGEST_CHUNK = 1 << 26

# Weights that are packed between two looks at pending signals.
PACKED_AT_ONCE = 1 << 21

# Outputs of a group up to which the kernel for single outputs beats a panel that is mostly padding.
cdef Py_ssize_t SINGLE_OUTPUTS = 3

# What rows cost more than planes for each vector: their results are stored one number at a time.
cdef double ROWS_COST = 1.2


# A copy parted by phase takes the place of one that is not unless it would be this many times as large: rows of many
# strides, of which each output needs a few numbers.
LARGEST_WHOLE = 16

# Plans that are kept, of images of several sizes in turn.
cdef Py_ssize_t KEPT_PLANS = 16


cdef class ConvolutionPlan:
    """The convolution of images of one shape; see the module."""

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


cdef sums_of(parts):
    """a + b + ... of every choice of one number of each part, the last one fastest."""
    sums = np.zeros(1, np.intp)
    for part in parts:
        sums = (sums[:, None] + part).reshape(-1)
    return sums


cdef class Layout:
    """Places of one channel's numbers in its copy, parted by phase or with nothing but zeros around them.

    All that depends on the file's numbers alone: made of a few integers for each axis, before anything of that size.
    """

    cdef list inputs, outputs, pads, kernel, dilations, steps, strides, phases, sizes, pitch
    cdef object plane, padded, rows   # numbers of one phase, and of all; rows of them

    def __init__(self, axes, bint parted):
        """axes: input, output, pad at the beginning, kernel, stride, dilation of each."""
        self.inputs, self.outputs, self.pads, self.kernel, strides, self.dilations = map(list, zip(*axes))
        self.steps = strides if parted else [1] * len(strides)
        self.strides = [1] * len(strides) if parted else strides
        self.phases = [
            np.unique(np.arange(taps, dtype=np.intp) * dilation % step)
            for taps, dilation, step in zip(self.kernel, self.dilations, self.steps)
        ]
        self.sizes = [
            (output - 1) * stride + (taps - 1) * dilation // step + 1
            for output, stride, taps, dilation, step
            in zip(self.outputs, self.strides, self.kernel, self.dilations, self.steps)
        ]
        self.pitch = row_major(self.sizes)
        self.plane = math.prod(self.sizes)
        count = math.prod([len(phases) for phases in self.phases])
        self.padded = count * self.plane
        self.rows = count * (self.plane // self.sizes[len(self.sizes) - 1])

    cdef places(self):
        """Distances between the phases of each axis, in the order of all choices of them."""
        return [along * self.plane for along in row_major([len(phases) for phases in self.phases])]

    cdef terms(self):
        """Places of the first output's terms, in the order of the weights."""
        parts = []
        for axis, along in enumerate(self.places()):
            taps = np.arange(self.kernel[axis], dtype=np.intp) * self.dilations[axis]
            phase = np.searchsorted(self.phases[axis], taps % self.steps[axis])
            parts.append(phase * along + taps // self.steps[axis] * self.pitch[axis])
        return sums_of(parts)

    cdef starts(self, axes):
        """Places where the outputs' terms begin, of ``axes`` axes."""
        return sums_of([
            np.arange(self.outputs[axis], dtype=np.intp) * (self.strides[axis] * self.pitch[axis])
            for axis in range(axes)
        ])

    cdef last_start(self):
        return sum([
            (output - 1) * stride * along for output, stride, along in zip(self.outputs, self.strides, self.pitch)
        ])

    cdef copies(self):
        """The rows (target, source, lead, count, total, step) of rnncore_copy_rows."""
        last = len(self.sizes) - 1
        places, from_pitch = self.places(), row_major(self.inputs)
        targets, sources, inside = [], [], np.ones(1, bool)
        for axis in range(last):
            quotients = np.arange(self.sizes[axis], dtype=np.intp)
            phases = self.phases[axis]
            at = (phases[:, None] + quotients * self.steps[axis] - self.pads[axis]).reshape(-1)
            target = np.arange(len(phases))[:, None] * places[axis] + quotients * self.pitch[axis]
            targets.append(target.reshape(-1))
            sources.append(at * from_pitch[axis])
            inside = (inside[:, None] & ((at >= 0) & (at < self.inputs[axis]))).reshape(-1)
        total, step, phases = self.sizes[last], self.steps[last], self.phases[last]
        end = phases - self.pads[last]
        lead = np.minimum(np.maximum(0, -(end // step)), total)
        count = np.minimum(np.maximum(0, -((end - self.inputs[last]) // step) - lead), total - lead)
        inside = (inside[:, None] & (count > 0)).reshape(-1)
        rows = np.empty((len(inside), 6), np.intp)
        rows[:, 0] = sums_of([*targets, np.arange(len(phases)) * places[last]])
        rows[:, 1] = np.where(inside, sums_of([*sources, end + lead * step]), 0)
        rows[:, 2] = np.where(inside, np.tile(lead, len(inside) // len(lead)), total)
        rows[:, 3] = np.where(inside, np.tile(count, len(inside) // len(count)), 0)
        rows[:, 4] = total
        rows[:, 5] = np.where(inside, step, 1)
        return rows if self.padded == self.plane else rows[np.argsort(rows[:, 0])]


cdef int fill_tables(ConvolutionPlan plan, Layout layout, Py_ssize_t channels, bint parted) except -1:
    """Fill the plan's tables."""
    cdef Py_ssize_t D = len(layout.sizes)
    plan.positions = layout.last_start() + 1
    plan.run_count = 1
    if plan.kernel == ROWS:
        plan.start_array = as_indices(layout.starts(D))
        plan.starts = <const Py_ssize_t*> cnp.PyArray_DATA(plan.start_array)
    else:
        starts, length = layout.starts(D - 1), layout.outputs[D - 1]
        first = np.concatenate([[0], np.flatnonzero(np.diff(starts) != length) + 1])
        counts = np.diff(np.append(first, len(starts))) * length
        plan.run_array = as_indices(np.stack([starts[first], first * length, counts], 1))
        plan.run_count = len(plan.run_array)
        plan.runs = <const rnncore_run*> cnp.PyArray_DATA(plan.run_array)
    plan.image = math.prod(layout.inputs)
    plan.padded = layout.padded
    whole = all([step == 1 for step in layout.steps]) and not any(layout.pads)
    whole = whole and layout.inputs[1:] == layout.sizes[1:] and layout.sizes[0] <= layout.inputs[0]
    if whole and (plan.run_count == 1 or not parted):
        plan.padded = 0
    channel = plan.padded or plan.image
    plan.offset_array = as_indices((np.arange(channels)[:, None] * channel + layout.terms()).reshape(-1))
    plan.offsets = <const Py_ssize_t*> cnp.PyArray_DATA(plan.offset_array)
    plan.row_array = as_indices(layout.copies() if plan.padded else ()).reshape(-1, 6)
    plan.rows = <const rnncore_row*> cnp.PyArray_DATA(plan.row_array)
    plan.row_count = len(plan.row_array)
    return 0


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


cdef bint worked(Work* work, double* since, double done, int index) noexcept nogil:
    """Called after some work of one thread, which counts it in ``since``: whether to stop."""
    since[0] += done
    if since[0] > WORK_BETWEEN_SIGNALS:
        since[0] = 0
        if work.signals and index == 0 and not rnncore_get(&work.stop) and handler_raised():
            rnncore_put(&work.stop, 2)
    return rnncore_get(&work.stop) != 0


cdef Py_ssize_t at_once(double cost, Py_ssize_t tile) noexcept nogil:
    """Positions between two looks, whole tiles, of which each takes that much work."""
    return tile * <Py_ssize_t> max(1.0, WORK_BETWEEN_SIGNALS / (cost * tile))


cdef const float* copied(Work* work, Py_ssize_t n, Py_ssize_t g, float* scratch, double* since,
                         int index) noexcept nogil:
    """One image's channels of one group, as the plan wants them."""
    cdef const float* source = work.x + (n * work.G + g) * work.C * work.image
    cdef Py_ssize_t c
    if work.padded == 0:
        return source
    for c in range(work.C):
        if worked(work, since, WORK_OF_A_COPY * work.padded, index):
            break
        rnncore_copy_rows(work.rows, work.row_count, source + c * work.image, scratch + c * work.padded)
    return scratch


cdef void convolve_image(Work* work, Py_ssize_t n, Py_ssize_t g, Py_ssize_t block, const float* x, float* scratch,
                         double* since, int index) noexcept nogil:
    """Part ``block`` of the outputs of one image and group, by planes or single."""
    cdef Py_ssize_t first, last, m, at, end = 0, part, count
    cdef Py_ssize_t W = work.isa.width
    cdef float* y = work.y + (n * work.G + g) * work.M * work.P
    if work.kernel == SINGLE:
        first, last = work.M * block // work.blocks, work.M * (block + 1) // work.blocks
        part = at_once(work.K, work.isa.stretch)
        for m in range(first, last):
            end = 0
            while end < work.positions:
                at, end = end, min(end + part, work.positions)
                if worked(work, since, <double> (end - at) * work.K, index):
                    return
                work.isa.single(work.plain + (g * work.M + m) * work.K, work.plain_bias[g * work.M + m], work.K, x,
                                work.offsets, at, end, work.positions, work.runs, work.run_count, y + m * work.P,
                                work.relu)
        return
    first, last = work.panels * block // work.blocks, work.panels * (block + 1) // work.blocks
    if first == last:
        return
    count = min(last * W, work.M) - first * W
    part = at_once(<double> work.K * count, work.isa.tile)
    while end < work.P:
        at, end = end, min(end + part, work.P)
        if worked(work, since, <double> (end - at) * count * work.K, index):
            return
        work.isa.planes(work.w + (g * work.panels + first) * work.K * W, work.bias + (g * work.panels + first) * W,
                        count, work.K, x, work.offsets, at, end, work.P, work.runs, y + first * W * work.P, work.P,
                        work.relu, scratch)


cdef void convolve_rows(Work* work, Py_ssize_t chunk, Py_ssize_t g, Py_ssize_t block, char* scratch, bint fresh,
                        double* since, int index) noexcept nogil:
    """Part ``block`` of the outputs of one group, for every position of a chunk of images."""
    cdef Py_ssize_t first = chunk * work.images, last = min(first + work.images, work.N)
    cdef Py_ssize_t rows = work.images * work.P, n, p, at = 0, W = work.isa.width, panel, end
    cdef const float** xs = <const float**> scratch
    cdef float** ys = <float**> (scratch + rows * sizeof(float*))
    cdef float* copies = <float*> (scratch + 2 * rows * sizeof(float*))
    cdef const float* x
    panel, end = work.panels * block // work.blocks, work.panels * (block + 1) // work.blocks
    if panel == end:
        return
    for n in range(first, last):
        if fresh:
            x = copied(work, n, g, copies + (n - first) * work.C * work.padded, since, index)
            for p in range(work.P):
                xs[at + p] = x + work.starts[p]
        for p in range(work.P):
            ys[at + p] = work.y + ((n * work.G + g) * work.M + panel * W) * work.P + p
        at += work.P
    if worked(work, since, <double> at * work.K * (end - panel) * W, index):
        return
    work.isa.rows(work.w + (g * work.panels + panel) * work.K * W, work.bias + (g * work.panels + panel) * W,
                  min(end * W, work.M) - panel * W, work.K, xs, at, work.offsets, ys, work.P, work.relu)


cdef void convolve(int index, int threads, void* argument) noexcept nogil:
    """Task: a share of the images (or chunks of them), groups and parts of the outputs, in this order."""
    cdef Work* work = <Work*> argument
    cdef Py_ssize_t images = work.N if work.kernel != ROWS else (work.N + work.images - 1) // work.images
    cdef Py_ssize_t units = images * work.G * work.blocks, unit, rest, n, g
    cdef Py_ssize_t last_n = -1, last_g = -1
    cdef char* scratch = <char*> scratch_memory(work.scratch)
    cdef const float* x = NULL
    cdef double since = 0
    cdef unsigned before
    if scratch == NULL:
        rnncore_put(&work.stop, 1)
        return
    before = rnncore_flush_subnormals()
    for unit in range(units * index // threads, units * (index + 1) // threads):
        n, rest = unit // (work.G * work.blocks), unit % (work.G * work.blocks)
        g = rest // work.blocks
        if work.kernel == ROWS:
            convolve_rows(work, n, g, rest % work.blocks, scratch, n != last_n or g != last_g, &since, index)
        else:
            if n != last_n or g != last_g:
                x = copied(work, n, g, <float*> scratch, &since, index)
            convolve_image(work, n, g, rest % work.blocks, x, <float*> scratch + work.C * work.padded, &since, index)
        last_n, last_g = n, g
        if rnncore_get(&work.stop):
            break
    rnncore_restore_subnormals(before)


cdef class Convolution:
    """y = x convolved with weight, and bias, for images (N, C, *spatial) of any size, float32.

    weight    (M, C / groups, *kernel), packed once;  bias (M) or None
    geometry  (shape of x) -> (pads at the beginning of each axis, spatial sizes of y); raises where x does not fit
    relu      whether negative results become 0

    InputError where one of them is something else, or images and weights do not fit each other, or what is around
    an image takes more than memory can hold. Immutable but for the plans that it keeps; any number of threads may call
    it. An output's bits do not depend on the batch, the size of the images or the number of threads.
    """

    cdef const rnncore_convolution_isa* isa
    cdef object w, bias, plain, plain_bias, geometry
    cdef tuple kernel, strides, dilations
    cdef Py_ssize_t G, M, K, panels, C
    cdef int relu, threads
    cdef dict plans  # (channels, *spatial) -> ConvolutionPlan

    def __cinit__(self, cnp.ndarray weight not None, bias, groups, strides, dilations, geometry, bint relu,
                  int threads):
        cdef Py_ssize_t W, axes = cnp.PyArray_NDIM(weight) - 2
        shape = (<object> weight).shape
        if axes < 1 or 0 in shape or weight.dtype.kind not in "fiu":
            refuse(f"weight: {weight.dtype} of shape {shape}, expected (M, C / groups, *kernel) of sizes from 1 on")
        if shape[0] % checked_size(groups, "group"):
            refuse(f"group={groups}, expected a divisor of {shape[0]} outputs")
        if bias is not None and np.shape(bias) != shape[:1]:
            refuse(f"bias: shape {np.shape(bias)}, expected {shape[:1]}")
        self.isa = rnncore_convolution_isas[isa_number()]
        W = self.isa.width
        self.kernel, self.threads = shape[2:], threads
        self.strides = checked_sizes(strides, "strides", axes)
        self.dilations = checked_sizes(dilations, "dilations", axes)
        self.plans = {}
        self.geometry, self.relu = geometry, relu
        self.G, self.M, self.C = groups, shape[0] // groups, shape[1]
        self.K = math.prod(shape[1:])
        self.panels = (self.M + W - 1) // W
        self.plain = np.require(weight, np.float32, "CA").reshape(self.G, self.M, self.K)
        self.plain_bias = np.zeros((self.G, self.M), np.float32)
        if bias is not None:
            self.plain_bias += bias.reshape(self.G, self.M)
        self.w = self.bias = None
        if self.M > 1 or self.G == 1:
            self.w = pack_panels(self.plain, self.panels, W)
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
        """Readers of the weights that are kept here: see Op.compiled."""
        return {"weight": self.unpack}

    cdef ConvolutionPlan make_plan(self, tuple shape):
        cdef Py_ssize_t W = self.isa.width, axes = len(self.kernel)
        cdef ConvolutionPlan plan = ConvolutionPlan()
        cdef double as_planes, as_rows
        cdef bint parted = True
        if len(shape) != axes + 2 or shape[1] != self.G * self.C:
            refuse(f"images of shape {shape}, expected (N, {self.G * self.C}) and {axes} spatial sizes")
        pads, outputs = self.geometry(shape)
        pads, plan.outputs = checked_sizes(pads, "pads", axes, 0), checked_sizes(outputs, "outputs", axes, 0)
        plan.sizes = shape[1:]
        P = math.prod(plan.outputs)
        plan.images = 1
        if P == 0:
            return plan
        geometry = list(zip(shape[2:], plan.outputs, pads, self.kernel, self.strides, self.dilations))
        geometry = [axis for axis in geometry if axis[:4] != (1, 1, 0, 1)] or geometry[:1]
        layout = Layout(geometry, True)
        if self.w is None or (self.M <= SINGLE_OUTPUTS and layout.last_start() >= W - 1):
            plan.kernel = SINGLE
        else:
            as_planes = <double> ((P + W - 1) // W) * ((self.M + W // 2 - 1) // (W // 2) * (W // 2))
            as_rows = <double> P * self.panels * ROWS_COST
            plan.kernel = ROWS if P < W or as_rows < as_planes else PLANES
        if plan.kernel == ROWS:
            whole = Layout(geometry, False)
            if whole.padded <= LARGEST_WHOLE * (layout.padded + math.prod(shape[2:])):
                layout, parted = whole, False
        needed = self.C * layout.padded * sizeof(float) + layout.rows * sizeof(rnncore_row)
        check_memory(f"an image of shape {shape[1:]} with its padding", needed, math.prod(shape[1:]) * sizeof(float),
                     self.G * self.M * (P + self.K) * sizeof(float))
        plan.P = P
        if plan.kernel == ROWS:
            plan.images = max(1, min(CHUNK_ROWS // P, LARGEST_CHUNK // (self.C * layout.padded)))
        fill_tables(plan, layout, self.C, parted)
        return plan

    cdef ConvolutionPlan plan_of(self, tuple shape):
        """The plan for images of this shape (N, C, *spatial)."""
        cdef ConvolutionPlan plan = self.plans.get(shape[1:])
        if plan is None:
            plan = self.make_plan(shape)
            if len(self.plans) >= KEPT_PLANS:
                self.plans.clear()
            self.plans[shape[1:]] = plan
        return plan

    def __call__(self, cnp.ndarray x not None):
        """x (N, C, *spatial), float32; copied if it is not C-contiguous."""
        cdef ConvolutionPlan plan
        cdef Work work
        cdef cnp.ndarray dense = as_dense(x, cnp.NPY_FLOAT32, "images")
        cdef cnp.ndarray y
        cdef cnp.npy_intp[MAX_RANK] dims
        cdef Py_ssize_t axis
        cdef int D = <int> len(self.kernel) + 2
        if cnp.PyArray_NDIM(x) != D:
            refuse(f"images of shape {(<object> x).shape}, expected {D} dimensions")
        plan = self.plan_of((<object> dense).shape)
        dims[0], dims[1] = cnp.PyArray_DIM(dense, 0), self.G * self.M
        for axis in range(2, D):
            dims[axis] = plan.outputs[axis - 2]
        y = cnp.PyArray_EMPTY(D, dims, cnp.NPY_FLOAT32, 0)
        if cnp.PyArray_SIZE(y) == 0:
            return y
        self.prepare(&work, plan, dims[0])
        work.x = <const float*> cnp.PyArray_DATA(dense)
        work.y = <float*> cnp.PyArray_DATA(y)
        if multiply_adds(&work) < WORK_WITH_GIL:
            self.execute(&work)
        else:
            with nogil:
                self.execute(&work)
        return y

    def bind(self, compiler, list inputs not None, list outputs not None):
        """Add the Instruction for Operands x (N, C, *spatial) and y to a bound program: see Op.bind."""
        x = compiler.dense(inputs[0])
        if x.size == 0 or outputs[0].size == 0:
            return False
        compiler.emit(ConvolutionCall(self, x, outputs[0]), [x], outputs)
        return True

    cdef int prepare(self, Work* work, ConvolutionPlan plan, Py_ssize_t N) except -1:
        """All of a call but where x and y are."""
        work.N = N
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
        work.relu = self.relu
        work.scratch = plus(times(times(times(work.images, work.C), work.padded), sizeof(float)), 64)
        if plan.kernel == PLANES:
            work.scratch = plus(work.scratch, times(times(self.isa.chain + 1 + self.panels * self.isa.width,
                                                          self.isa.tile), sizeof(float)))
        elif plan.kernel == ROWS:
            work.scratch = plus(work.scratch, times(times(times(2, work.images), work.P), sizeof(float*)))
        return 0

    cdef int execute(self, Work* work) except -1 nogil:
        """Share a prepared call among threads and do it."""
        cdef double total = multiply_adds(work)
        cdef int threads = <int> max(1, min(threads_of(self.threads), total / WORK_WORTH_SHARING))
        work.stop = 0
        work.blocks = threads if work.N * work.G < 4 * threads else 1
        work.blocks = max(work.blocks, <Py_ssize_t> (total / work.N / work.G / WORK_BETWEEN_SIGNALS))
        work.blocks = max(1, min(work.blocks, work.M if work.kernel == SINGLE else work.panels))
        work.signals = total + WORK_OF_A_COPY * work.N * work.G * work.C * work.padded > WORK_BETWEEN_SIGNALS
        run_threads(threads, convolve, work)
        if work.stop == 1:
            with gil:
                raise MemoryError(f"no memory for a convolution of {work.N} images: {work.scratch} bytes")
        if work.stop == 2:
            with gil:
                raise_handled()
        return 0


cdef inline double multiply_adds(const Work* work) noexcept nogil:
    return <double> work.N * work.P * work.G * work.M * work.K


cdef class ConvolutionCall(Instruction):
    """A Convolution with its operands."""

    cdef Convolution convolution
    cdef ConvolutionPlan plan
    cdef Work template
    cdef Place x, y

    def __cinit__(self, Convolution convolution not None, Operand x not None, Operand y not None):
        if len(x.shape) != len(convolution.kernel) + 2 or x.size == 0 or y.size == 0:
            refuse(f"{x}, expected images of {len(convolution.kernel)} spatial sizes")
        self.convolution, self.plan = convolution, convolution.plan_of(x.shape)
        if y.shape != (x.shape[0], convolution.G * convolution.M) + self.plan.outputs:
            refuse(f"{y}, expected {(x.shape[0], convolution.G * convolution.M) + self.plan.outputs}")
        place_of(x, cnp.NPY_FLOAT32, "x", &self.x)
        place_of(y, cnp.NPY_FLOAT32, "y", &self.y)
        convolution.prepare(&self.template, self.plan, x.shape[0])
        self.work = multiply_adds(&self.template)

    cdef int run(self, char** slots) except -1 nogil:
        cdef Work work = self.template
        work.x = <const float*> address(slots, self.x)
        work.y = <float*> address(slots, self.y)
        return self.convolution.execute(&work)


cdef pack_panels(plain, Py_ssize_t count, Py_ssize_t W):
    """(G, M, K) as [G][panels][K][W]: in parts, between which Python looks for signals."""
    G, K = plain.shape[0], plain.shape[2]
    panels = aligned((G, count, K, W))
    step = max(1, PACKED_AT_ONCE // (G * K * W))
    for first in range(0, count, step):
        part = panels[:, first:first + step]
        rows = plain[:, first * W:(first + step) * W]
        if rows.shape[1] < part.shape[1] * W:
            whole = np.zeros((G, part.shape[1] * W, K), np.float32)
            whole[:, :rows.shape[1]] = rows
            rows = whole
        part[...] = rows.reshape(G, part.shape[1], W, K).swapaxes(2, 3)
        check_signals()
    return panels


cdef aligned(shape):
    """An uninitialised float32 array that begins at a multiple of 64 bytes."""
    count = math.prod(shape)
    scratch = np.empty(count + 16, np.float32)
    start = -scratch.ctypes.data % 64 // 4
    return scratch[start:start + count].reshape(shape)
