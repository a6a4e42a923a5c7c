# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Streams of a model that is one forward stack, float32: states stay where they are, and a step is one compiled call.

DirectStream is one stream; DirectSlots many, each in a slot of one state matrix, any of them stepped together. Slots
says which slots are whose. In steady state nothing is allocated but outputs, and those only where no ``out`` is given.
"""

import numpy as np

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

cimport numpy as cnp

from rnncore.kernels._checks cimport MAX_RANK, check_dense, check_shape1, check_writable, plus, refuse, times
from rnncore.kernels._recurrent cimport StateCall, check_stack_states, run_states, steps_between_signals

from rnncore.errors import InputError, StreamError, shown

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cnp.import_array()

cdef extern from *:
    """
    static int rnncore_take(int *flag) { return !__atomic_exchange_n(flag, 1, __ATOMIC_ACQUIRE); }
    static void rnncore_release(int *flag) { __atomic_store_n(flag, 0, __ATOMIC_RELEASE); }
    static int64_t rnncore_read(const int64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
    static void rnncore_write(int64_t *word, int64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
    """
    bint rnncore_take(int* flag) noexcept nogil
    void rnncore_release(int* flag) noexcept nogil
    int64_t rnncore_read(const int64_t* word) noexcept nogil
    void rnncore_write(int64_t* word, int64_t value) noexcept nogil


cdef class Owner:
    """A flag that one thread at a time can take."""

    cdef int flag

    def take(self):
        """Whether it was free, and is ours now."""
        return rnncore_take(&self.flag)

    def release(self):
        rnncore_release(&self.flag)


cdef inline bint is_plain(array, int ndim):
    """An aligned, C-contiguous float32 array of that rank."""
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
            and cnp.PyArray_NDIM(array) == ndim and cnp.PyArray_ISCARRAY_RO(array))


cdef int check_states(stack, cnp.ndarray h, cnp.ndarray c, cnp.ndarray began, Py_ssize_t batch,
                      Py_ssize_t input_size) except -1:
    """h, c and began of DirectStream and DirectSlots."""
    check_dense(h, cnp.NPY_FLOAT32, 3, "h")
    check_writable(h, "h")
    if c is not None:
        check_dense(c, cnp.NPY_FLOAT32, 3, "c")
        check_writable(c, "c")
    if began is not None:
        check_dense(began, cnp.NPY_BOOL, 1, "began")
        check_shape1(began, batch, "began")
        check_writable(began, "began")
    return check_stack_states(stack, input_size, batch, (<object> h).shape, None if c is None else (<object> c).shape)


cdef class DirectStream:
    """The states of ``batch`` rows that go through a forward stack together.

    h, c    (layers, batch, size) float32, C-contiguous; c is None where the cell has none. Changed in place: whoever
            holds them must hold the owner too
    began   (batch) bool, or None: set where a row has had a step
    most    rows times steps of a piece that is answered; the long way knows what to say of more
    """

    cdef object stack
    cdef readonly cnp.ndarray h, c, began
    cdef readonly Owner owner
    cdef Py_ssize_t batch, input_size, width, most
    cdef double long_steps
    cdef int threads

    def __cinit__(self, stack, cnp.ndarray h not None, cnp.ndarray c, cnp.ndarray began, Owner owner not None,
                  Py_ssize_t input_size, int threads, Py_ssize_t most=PY_SSIZE_T_MAX):
        if cnp.PyArray_NDIM(h) != 3:
            refuse(f"h: shape {(<object> h).shape}, expected (layers, batch, size)")
        check_states(stack, h, c, began, cnp.PyArray_DIM(h, 1), input_size)
        self.stack = stack
        self.h, self.c, self.began = h, c, began
        self.owner = owner
        self.most = most
        self.batch = cnp.PyArray_DIM(h, 1)
        self.width = cnp.PyArray_DIM(h, 2)
        self.input_size = input_size
        self.threads = threads
        self.long_steps = steps_between_signals(stack)

    def feed(self, x, out, bint states=False):
        """y for x (B, T, I), or (T, I) or (I,) for a batch of one; None for what is not plain: see Direct.

        out, where given, receives y: plain, of y's shape, and not sharing memory with x. With ``states``, y and
        copies of h and c.
        """
        cdef StateCall call
        cdef cnp.npy_intp[3] shape
        cdef int ndim
        if not cnp.PyArray_CheckExact(x):
            return None
        ndim = cnp.PyArray_NDIM(x)
        if not is_plain(x, ndim) or not (ndim == 3 or (self.batch == 1 and 0 < ndim < 3)):
            return None
        if cnp.PyArray_DIM(x, ndim - 1) != self.input_size or (ndim == 3 and cnp.PyArray_DIM(x, 0) != self.batch):
            return None
        memset(&call, 0, sizeof(StateCall))
        call.B = self.batch
        call.T = 1 if ndim == 1 else cnp.PyArray_DIM(x, ndim - 2)
        if call.T == 0 or call.B == 0 or call.T > self.most // call.B:
            return None
        shape[0], shape[1], shape[2] = call.B, call.T, self.width
        if out is None:
            out = new_output(ndim, &shape[3 - ndim])
        elif not fits(out, ndim, &shape[3 - ndim]) or overlap(out, x):
            return None
        call.x_time, call.x_batch = self.input_size, call.T * self.input_size
        call.y_time, call.y_batch = self.width, call.T * self.width
        call.x = <const float*> cnp.PyArray_DATA(x)
        call.y = <float*> cnp.PyArray_DATA(out)
        call.h = <float*> cnp.PyArray_DATA(self.h)
        call.c = <float*> cnp.PyArray_DATA(self.c) if self.c is not None else NULL
        if not rnncore_take(&self.owner.flag):
            raise StreamError("this stream is in use by another thread; a stream has one user at a time")
        try:
            if <double> call.B * call.T < self.long_steps:
                run_states(self.stack, &call, self.threads)
            else:
                self.run_long(&call)
            if self.began is not None:
                memset(cnp.PyArray_DATA(self.began), 1, self.batch)
            if states:
                return out, self.h.copy(), None if self.c is None else self.c.copy()
        except MemoryError as error:
            raise InputError(f"a piece of {call.B} rows and {call.T} steps: {error}") from None
        finally:
            rnncore_release(&self.owner.flag)
        return out

    cdef int run_long(self, StateCall* call) except -1:
        """The same where a signal may end it: the states are then what they were."""
        h, c = self.h.copy(), None if self.c is None else self.c.copy()
        try:
            run_states(self.stack, call, self.threads)
        except BaseException:
            self.h[...] = h
            if c is not None:
                self.c[...] = c
            raise
        return 0


cdef new_output(int ndim, cnp.npy_intp* shape):
    """A float32 array that nothing was written to. InputError where there is no memory for it."""
    cdef int axis
    try:
        return cnp.PyArray_EMPTY(ndim, shape, cnp.NPY_FLOAT32, 0)
    except MemoryError:
        need = sizeof(float)
        for axis in range(ndim):
            need = need * <object> shape[axis]
        sizes = tuple([shape[axis] for axis in range(ndim)])
        raise InputError(f"outputs of shape {sizes} are {need:,} bytes, more than there is memory for") from None


cdef bint fits(array, int ndim, const cnp.npy_intp* shape):
    """A plain, writeable array of that shape."""
    cdef int i
    if not is_plain(array, ndim) or not cnp.PyArray_ISWRITEABLE(array):
        return False
    for i in range(ndim):
        if cnp.PyArray_DIM(array, i) != shape[i]:
            return False
    return True


cdef bint overlap(a, b):
    """Whether two C-contiguous arrays share bytes."""
    cdef char* first = <char*> cnp.PyArray_DATA(a)
    cdef char* second = <char*> cnp.PyArray_DATA(b)
    return first < second + cnp.PyArray_NBYTES(b) and second < first + cnp.PyArray_NBYTES(a)


cdef int64_t LOWER_HALF = 0xFFFFFFFF
cdef Py_ssize_t MOST_NUMBERS = PY_SSIZE_T_MAX // <Py_ssize_t> sizeof(float)


cdef class Slots:
    """Which of ``capacity`` slots are open, and by which handle.

    A handle is the slot's number and, in the upper half, how often the slot was opened: one that outlived its stream
    fits nothing any more. It is a positive integer of 63 bits.
    """

    cdef readonly Py_ssize_t capacity, used
    cdef int64_t* generation    # (capacity), odd where open; read by threads that do not have the pool, too
    cdef int64_t* stamp         # (capacity): the last look_up that named the slot
    cdef int64_t now            # number of look_ups
    cdef int64_t* found         # (capacity): the slots of the last look_up
    cdef readonly cnp.ndarray last_used     # (capacity) float64
    cdef list free_slots

    def __cinit__(self, Py_ssize_t capacity):
        if not 0 <= capacity <= LOWER_HALF:
            refuse(f"{capacity} slots, expected 0 to {LOWER_HALF}")
        self.generation = <int64_t*> malloc(times(3 * capacity, sizeof(int64_t)))
        if self.generation == NULL:
            raise MemoryError(f"no memory for {capacity} slots")
        self.capacity = capacity
        memset(self.generation, 0, 3 * capacity * sizeof(int64_t))
        self.stamp = self.generation + capacity
        self.found = self.stamp + capacity
        self.last_used = np.zeros(capacity)
        self.free_slots = list(range(capacity - 1, -1, -1))

    def __dealloc__(self):
        free(self.generation)

    def open(self):
        """A new handle; StreamError where all slots are open."""
        cdef Py_ssize_t slot
        if not self.free_slots:
            raise StreamError(f"the pool's {self.capacity} streams are all open, close or evict some")
        slot = self.free_slots.pop()
        rnncore_write(&self.generation[slot], (self.generation[slot] + 1) & 0x7FFFFFFF)
        self.used += 1
        return <int64_t> (self.generation[slot] << 32 | slot)

    def close(self, handle):
        """Free the slot of an open handle."""
        cdef Py_ssize_t slot = self.slot(handle)
        rnncore_write(&self.generation[slot], self.generation[slot] + 1)
        self.used -= 1
        self.free_slots.append(slot)

    def slot(self, handle):
        """The slot of an open handle; StreamError for any other number."""
        cdef Py_ssize_t slot
        if isinstance(handle, int) and 0 <= handle < (1 << 63):
            slot = self.place(handle)
            if slot >= 0:
                return slot
        raise StreamError(f"stream {shown(handle)} is not open in this pool")

    cdef inline Py_ssize_t place(self, int64_t handle) noexcept nogil:
        """The slot of a handle; -1 where it is not open."""
        cdef Py_ssize_t slot = <Py_ssize_t> (handle & LOWER_HALF)
        if slot >= self.capacity or not handle >> 32 & 1 or rnncore_read(&self.generation[slot]) != handle >> 32:
            return -1
        return slot

    cdef const int64_t* look_up(self, const int64_t* handles, Py_ssize_t count) except NULL:
        """Slots of so many handles, valid until the next look_up; StreamError where one is closed or twice there."""
        cdef Py_ssize_t i, slot
        if count > self.capacity:
            raise StreamError(f"{count} streams in one step of a pool of {self.capacity}")
        self.now += 1
        for i in range(count):
            slot = self.place(handles[i])
            if slot < 0:
                raise StreamError(f"stream {handles[i]} at row {i} is not open in this pool")
            if self.stamp[slot] == self.now:
                raise StreamError(f"stream {handles[i]} at row {i} stands twice in one step")
            self.stamp[slot] = self.now
            self.found[i] = slot
        return self.found

    def slots_of(self, cnp.ndarray handles not None):
        """The slots of handles, int64 (n,) and dense, as a new array; StreamError as for a step."""
        cdef cnp.ndarray found
        check_dense(handles, cnp.NPY_INT64, 1, "handles")
        found = np.empty(len(handles), np.int64)
        self.look_up(<const int64_t*> cnp.PyArray_DATA(handles), len(handles))
        memcpy(cnp.PyArray_DATA(found), self.found, len(handles) * sizeof(int64_t))
        return found


cdef class DirectSlots:
    """The states of many streams through a forward stack, each in its slot.

    h, c    (layers, capacity, size) float32, C-contiguous; c is None where the cell has none. Changed in place
    began   (capacity) bool, or None: set where a stream has had a step
    most    rows times steps of a step that is answered; the long way knows what to say of more
    """

    cdef object stack
    cdef readonly cnp.ndarray h, c, began
    cdef readonly Slots slots
    cdef Py_ssize_t input_size, width, most
    cdef double long_steps
    cdef int threads
    cdef int64_t* room      # (3 * capacity): order, lengths and slots of the sorted rows
    cdef int64_t* counts    # (counts_size): rows of each length, while they are sorted
    cdef Py_ssize_t counts_size
    cdef int64_t* handles_room
    cdef int64_t* lengths_room
    cdef cnp.ndarray x_room

    def __cinit__(self, stack, cnp.ndarray h not None, cnp.ndarray c, cnp.ndarray began, Slots slots not None,
                  Py_ssize_t input_size, int threads, Py_ssize_t most=PY_SSIZE_T_MAX):
        check_states(stack, h, c, began, slots.capacity, input_size)
        self.stack = stack
        self.h, self.c, self.began = h, c, began
        self.slots, self.most = slots, most
        self.width = cnp.PyArray_DIM(h, 2)
        self.input_size = input_size
        self.threads = threads
        self.long_steps = steps_between_signals(stack)
        self.room = <int64_t*> malloc(times(3 * slots.capacity, sizeof(int64_t)))
        if self.room == NULL:
            raise MemoryError(f"no memory for {slots.capacity} slots")

    def __dealloc__(self):
        free(self.room)
        free(self.counts)
        free(self.handles_room)

    def step_arrays(self, x, cnp.ndarray handles not None, cnp.ndarray lengths, out, double now):
        """Step the streams of n different handles by one chunk each.

        x (n, T, I) and out (n, T, width) or None for a new array; handles (n) and lengths (n) or None int64 and
        C-contiguous. Returns the outputs, those behind a length 0; None for what is not plain: see Direct. Handles
        and lengths are checked before anything is touched.
        """
        cdef cnp.npy_intp[3] shape
        if not is_plain(x, 3) or cnp.PyArray_DIM(x, 2) != self.input_size:
            return None
        check_dense(handles, cnp.NPY_INT64, 1, "handles")
        if lengths is not None:
            check_dense(lengths, cnp.NPY_INT64, 1, "lengths")
            check_shape1(lengths, cnp.PyArray_DIM(handles, 0), "lengths")
        shape[0], shape[1], shape[2] = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), self.width
        if shape[0] != cnp.PyArray_DIM(handles, 0) or (shape[0] > 0 and shape[1] > self.most // shape[0]):
            return None
        if out is None:
            out = new_output(3, shape)
        elif not fits(out, 3, shape) or overlap(out, x):
            return None
        self.step(x, <const int64_t*> cnp.PyArray_DATA(handles),
                  NULL if lengths is None else <const int64_t*> cnp.PyArray_DATA(lengths), out, now)
        return out

    def step_by_id(self, dict chunks not None, dict handles not None, double now):
        """The same for chunks (T, I) or (I,) by id; handles are those of the ids. None for what is not plain."""
        cdef Py_ssize_t n = len(chunks), longest = 0, steps, row
        cdef cnp.npy_intp[3] shape
        cdef int ndim
        cdef bint equal = True
        cdef char* target
        if n > self.slots.capacity:
            return None
        self.by_id_room()
        row = 0
        for id, chunk in chunks.items():
            handle = handles.get(id)
            if handle is None or not cnp.PyArray_CheckExact(chunk):
                return None
            ndim = cnp.PyArray_NDIM(chunk)
            if not 0 < ndim < 3 or not is_plain(chunk, ndim) or cnp.PyArray_DIM(chunk, ndim - 1) != self.input_size:
                return None
            steps = 1 if ndim == 1 else cnp.PyArray_DIM(chunk, 0)
            equal = equal and (row == 0 or steps == longest)
            longest = max(longest, steps)
            self.handles_room[row] = handle
            self.lengths_room[row] = steps
            row += 1
        if longest == 0 or longest > min(self.most, MOST_NUMBERS // self.input_size) // n:
            return None
        if self.x_room is None or self.x_room.size < n * longest * self.input_size:
            shape[0] = n * longest * self.input_size
            self.x_room = new_output(1, shape)
        x = self.x_room[: n * longest * self.input_size].reshape(n, longest, self.input_size)
        target = <char*> cnp.PyArray_DATA(x)
        for chunk in chunks.values():
            memcpy(target, cnp.PyArray_DATA(chunk), cnp.PyArray_NBYTES(chunk))
            target += longest * self.input_size * sizeof(float)
        shape[0], shape[1], shape[2] = n, longest, self.width
        y = new_output(3, shape)
        self.step(x, self.handles_room, NULL if equal else self.lengths_room, y, now)
        found = {}
        row = 0
        target = <char*> cnp.PyArray_DATA(y)
        for id, chunk in chunks.items():
            shape[0], shape[1] = self.lengths_room[row], self.width
            one = cnp.PyArray_SimpleNewFromData(2, shape, cnp.NPY_FLOAT32, target) if cnp.PyArray_NDIM(chunk) == 2 \
                else cnp.PyArray_SimpleNewFromData(1, &shape[1], cnp.NPY_FLOAT32, target)
            cnp.set_array_base(one, y)
            found[id] = one
            target += longest * self.width * sizeof(float)
            row += 1
        return found

    cdef int by_id_room(self) except -1:
        """Room for handles and lengths of a step by id, made when the first one comes."""
        if self.handles_room == NULL:
            self.handles_room = <int64_t*> malloc(times(2 * self.slots.capacity, sizeof(int64_t)))
            if self.handles_room == NULL:
                raise MemoryError(f"no memory for {self.slots.capacity} slots")
            self.lengths_room = self.handles_room + self.slots.capacity
        return 0

    cdef int step(self, cnp.ndarray x, const int64_t* handles, const int64_t* lengths, cnp.ndarray y,
                  double now) except -1:
        cdef StateCall call
        cdef Py_ssize_t i, n = cnp.PyArray_DIM(x, 0)
        cdef const int64_t* slots = self.slots.look_up(handles, n)
        cdef double* last_used = <double*> cnp.PyArray_DATA(self.slots.last_used)
        memset(&call, 0, sizeof(StateCall))
        call.B, call.T = n, cnp.PyArray_DIM(x, 1)
        call.slots = slots
        call.x_time, call.x_batch = self.input_size, call.T * self.input_size
        call.y_time, call.y_batch = self.width, call.T * self.width
        call.state_batch = self.slots.capacity
        call.x = <const float*> cnp.PyArray_DATA(x)
        call.y = <float*> cnp.PyArray_DATA(y)
        call.h = <float*> cnp.PyArray_DATA(self.h)
        call.c = <float*> cnp.PyArray_DATA(self.c) if self.c is not None else NULL
        if lengths != NULL:
            self.sort(lengths, slots, &call)
        if call.T > 0 and n > 0:
            if <double> n * call.T < self.long_steps:
                run_states(self.stack, &call, self.threads)
            else:
                self.run_long(&call)
        for i in range(n):
            last_used[call.slots[i]] = now
        if self.began is not None and call.T > 0:
            for i in range(n):
                if lengths == NULL or call.lengths[i] > 0:
                    (<char*> cnp.PyArray_DATA(self.began))[call.slots[i]] = 1
        return 0

    cdef int sort(self, const int64_t* lengths, const int64_t* slots, StateCall* call) except -1:
        """Rows in order of falling length, those of one length as they came; zeros behind each length in y."""
        cdef Py_ssize_t i, at, T = call.T
        cdef int64_t* order = self.room
        cdef int64_t* sorted_lengths = order + self.slots.capacity
        cdef int64_t* sorted_slots = sorted_lengths + self.slots.capacity
        cdef int64_t* grown
        if self.counts_size < T + 2:
            grown = <int64_t*> realloc(self.counts, times(plus(T, 2), sizeof(int64_t)))
            if grown == NULL:
                raise MemoryError(f"no memory for chunks of {T} steps")
            self.counts, self.counts_size = grown, T + 2
        memset(self.counts, 0, (T + 2) * sizeof(int64_t))
        for i in range(call.B):
            if not 0 <= lengths[i] <= T:
                raise InputError(f"lengths: {lengths[i]} at row {i}, expected 0 to {T}")
            self.counts[lengths[i]] += 1
        # counts[L] becomes the place of the first row of length L: behind all longer ones
        at = 0
        for i in range(T, -1, -1):
            at += self.counts[i]
            self.counts[i] = at - self.counts[i]
        for i in range(call.B):
            at = self.counts[lengths[i]]
            self.counts[lengths[i]] += 1
            order[at], sorted_lengths[at], sorted_slots[at] = i, lengths[i], slots[i]
            memset(call.y + i * call.y_batch + lengths[i] * call.y_time, 0,
                   (T - lengths[i]) * call.y_time * sizeof(float))
        call.order, call.lengths, call.slots = order, sorted_lengths, sorted_slots
        return 0

    cdef int run_long(self, StateCall* call) except -1:
        """A step where a signal may end it: the states are then what they were."""
        rows = np.array([call.slots[i] for i in range(call.B)])
        h, c = self.h[:, rows], None if self.c is None else self.c[:, rows]
        try:
            run_states(self.stack, call, self.threads)
        except BaseException:
            self.h[:, rows] = h
            if c is not None:
                self.c[:, rows] = c
            raise
        return 0


def pad_batch(dict pieces not None, dtype, tuple sizes not None, bint single):
    """(x (n, longest, *sizes), lengths (n)) of pieces (T, *sizes), which are plain arrays of that dtype: zeros behind
    the shorter ones.

    sizes   of what stands behind the time; -1 for one that is free, and then has to be the same in all
    single  whether a piece may be one step, (*sizes)

    None where a piece is something else, or there are no steps at all.
    """
    cdef Py_ssize_t n = len(pieces), row = 0, longest = 0, bytes_of_step = 0, i
    cdef int rank = <int> len(sizes), ndim
    cdef cnp.ndarray piece, x, first = None, lengths = np.empty(n, np.int64)
    cdef int64_t* counts = <int64_t*> cnp.PyArray_DATA(lengths)
    cdef char* target
    cdef tuple rest = None
    for given in pieces.values():
        if not cnp.PyArray_CheckExact(given):
            return None
        piece = given
        ndim = cnp.PyArray_NDIM(piece)
        if not cnp.PyArray_ISCARRAY_RO(piece) or (ndim != rank + 1 and not (single and ndim == rank)):
            return None
        counts[row] = 1 if ndim == rank else cnp.PyArray_DIM(piece, 0)
        longest = max(longest, counts[row])
        if row == 0:
            rest = (<object> piece).shape[ndim - rank:]
            if piece.dtype != dtype or piece.dtype.hasobject:
                return None
            if any([size not in (-1, found) for size, found in zip(sizes, rest)]):
                return None
        elif (cnp.PyArray_TYPE(piece) != cnp.PyArray_TYPE(first)
              or cnp.PyArray_ITEMSIZE(piece) != cnp.PyArray_ITEMSIZE(first)):
            return None
        else:
            for i in range(rank):
                if cnp.PyArray_DIM(piece, ndim - rank + i) != <Py_ssize_t> rest[i]:
                    return None
        first = piece
        row += 1
    if longest == 0:
        return None
    x = (np.empty if (lengths == longest).all() else np.zeros)((n, longest, *rest), dtype)
    bytes_of_step = cnp.PyArray_NBYTES(x) // (n * longest)
    target = <char*> cnp.PyArray_DATA(x)
    for given in pieces.values():
        memcpy(target, cnp.PyArray_DATA(given), cnp.PyArray_NBYTES(given))
        target += longest * bytes_of_step
    return x, lengths


cdef int check_counts(cnp.ndarray counts, list single, Py_ssize_t n, Py_ssize_t T) except -1:
    """counts and single of rows_of."""
    cdef Py_ssize_t row
    check_dense(counts, cnp.NPY_INT64, 1, "counts")
    check_shape1(counts, n, "counts")
    if len(single) != n:
        refuse(f"single: {len(single)} entries, expected {n}")
    for row in range(n):
        if not (1 if single[row] else 0) <= (<const int64_t*> cnp.PyArray_DATA(counts))[row] <= T:
            refuse(f"counts: {counts[row]} at {row}, expected 0 to {T}, or from 1 on where one step is wanted")
    return 0


def rows_of(cnp.ndarray y not None, counts, list single not None):
    """The rows of y (n, T, ...) as arrays of their own: counts[row] steps, or where single[row] the first without T.

    counts  int64 (n), or None where y, (n, ...), has no steps
    """
    cdef cnp.ndarray dense = np.ascontiguousarray(y), one
    cdef Py_ssize_t n, row, size
    cdef int ndim = cnp.PyArray_NDIM(dense), first
    cdef cnp.npy_intp[MAX_RANK] shape
    cdef int i
    cdef char* source = <char*> cnp.PyArray_DATA(dense)
    cdef list found = []
    if ndim < (1 if counts is None else 2) or ndim > MAX_RANK or dense.dtype.hasobject:
        refuse(f"y: {dense.dtype} of shape {(<object> dense).shape}, expected numbers, (n, T, ...) or (n, ...)")
    n = cnp.PyArray_DIM(dense, 0)
    if counts is not None:
        check_counts(counts, single, n, cnp.PyArray_DIM(dense, 1))
    size = cnp.PyArray_NBYTES(dense) // max(n, 1)
    for row in range(n):
        for i in range(1, ndim):
            shape[i] = cnp.PyArray_DIM(dense, i)
        first = 1
        if counts is not None:
            shape[1] = <Py_ssize_t> counts[row]
            first = 2 if single[row] else 1
        one = cnp.PyArray_EMPTY(ndim - first, &shape[first], cnp.PyArray_TYPE(dense), 0)
        memcpy(cnp.PyArray_DATA(one), source, cnp.PyArray_NBYTES(one))
        source += size
        found.append(one)
    return found
