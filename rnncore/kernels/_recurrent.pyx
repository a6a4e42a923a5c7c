# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Calls of recurrent layers over packed kernels, float32: arguments checked, then run with the GIL released."""

import numpy as np

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cimport numpy as cnp
from cpython.dict cimport PyDict_Size
from cpython.object cimport PyObject, PyTypeObject, ternaryfunc
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.type cimport PyType_Modified

from rnncore.kernels._cell cimport rnncore_cell
from rnncore.kernels._checks cimport (
    as_dense, check_arrays, check_dense, check_rows, check_shape3, check_type, check_writable, refuse,
)
from rnncore.kernels._costs cimport CALL_WORTH_SHARING, WORK_BETWEEN_SIGNALS, WORK_WITH_GIL, cost_of_row, work_of_row
from rnncore.kernels._sequences cimport MERGE_SET, Merge
from rnncore.kernels._loop cimport input_product, unit_panels
from rnncore.kernels._packing cimport CellPlan, PackedCell, aligned_copy, rnncore_rows
from rnncore.kernels._program cimport Instruction, Operand, Place, address, place_of
from rnncore.kernels._runtime cimport (
    raise_handled, rnncore_flush_subnormals, rnncore_restore_subnormals, threads_of,
)
from rnncore.kernels._schedule cimport Call, execute

from rnncore.errors import InputError
from rnncore.kernels._blas_loop import MERGES
from rnncore.kernels._program import Mismatch

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX

cnp.import_array()


cdef inline void* optional_data(cnp.ndarray array) noexcept:
    return NULL if array is None else cnp.PyArray_DATA(array)


# Of a stack: more than any network has, and few enough for what is computed of them.
MOST_LAYERS = 1 << 20


cdef class Stack:
    """The layers and directions of one recurrent node, ready to run. Immutable; any number of threads may call it.

    layers  for each layer the PackedCells of its directions, forward first
    reverse whether the only direction is the reverse one
    """

    cdef readonly list cells  # PackedCells, layer by layer
    cdef const CellPlan** plans
    cdef int layers, directions
    cdef bint reverse, has_c

    def __cinit__(self, list layers not None, bint reverse):
        cdef PackedCell cell
        cdef const CellPlan* first
        self.cells = [cell for cells in layers for cell in cells]
        if not 1 <= len(layers) <= MOST_LAYERS or not 1 <= len(layers[0]) <= 2 or (reverse and len(layers[0]) > 1):
            refuse(f"{len(layers)} layers, expected 1 to {MOST_LAYERS}, each of one direction or two, forward first")
        self.layers = len(layers)
        self.directions = len(layers[0])
        self.reverse = reverse
        self.plans = <const CellPlan**> malloc(len(self.cells) * sizeof(CellPlan*))
        if self.plans == NULL:
            raise MemoryError()
        self.has_c = (<PackedCell> self.cells[0]).has_c
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

    cdef void* state(self, tuple states, Py_ssize_t place, Py_ssize_t B, str name, bint written) except? NULL:
        """The state at that place, NULL where there are none or the cell has not so many."""
        cdef const rnncore_cell* cell = &self.plans[0].cell
        cdef cnp.ndarray array
        check_arrays(states, 2 if self.has_c else 1, name)
        if place >= len(states):
            return NULL
        array = states[place]
        check_dense(array, cnp.NPY_FLOAT32, 3, name)
        check_shape3(array, self.layers * self.directions, B, cell.hidden_size if place else cell.output_size, name)
        if written:
            check_writable(array, name)
        return cnp.PyArray_DATA(array)

    def __dealloc__(self):
        free(self.plans)

    @property
    def nbytes(self):
        """Bytes of the packed weights."""
        return sum(cell.nbytes for cell in self.cells)

    def run(self, cnp.ndarray x not None, cnp.ndarray y, str merge not None, str last_merge not None, bint time_first,
            bint flip, cnp.ndarray order, cnp.ndarray lengths, cnp.ndarray steps, tuple before not None,
            tuple after not None, int threads, Table table=None):
        """Run the stack over x (B, T, I), or (T, B, I) with time_first.

        x is aligned float32, its last dimension dense. y (same first two dimensions) receives the last layer's
        outputs, or is None; what is past a row's length is left as it is. merge says how the directions' outputs go
        to the next layer, last_merge how to y: "set" side by side, "sum", "mul", "average". order, lengths (B) and
        steps (B, T), int64 and dense: see Sequences; None if absent. before and after: the states to begin with
        and an array for each final one, in the cell's order, dense (layers * directions, B, size); () for zeros and
        where none is wanted. With a table of this stack, x holds int64 ids (B, T), each a row of it.
        """
        cdef Call call
        cdef int batch_axis = 1 if time_first else 0, time_axis = 0 if time_first else 1
        memset(&call, 0, sizeof(Call))
        self.check_merges(merge, last_merge)
        self.check_sequences(x, y, MERGES[last_merge], batch_axis, time_axis, table)
        call.batch.B = cnp.PyArray_DIM(x, batch_axis)
        call.batch.T = cnp.PyArray_DIM(x, time_axis)
        check_rows(order, lengths, steps, call.batch.B, call.batch.T)
        call.h0 = <const float*> self.state(before, 0, call.batch.B, "before", False)
        call.c0 = <const float*> self.state(before, 1, call.batch.B, "before", False)
        call.hn = <float*> self.state(after, 0, call.batch.B, "after", True)
        call.cn = <float*> self.state(after, 1, call.batch.B, "after", True)
        if call.batch.B == 0:
            return
        call.batch.x_batch = cnp.PyArray_STRIDE(x, batch_axis) // cnp.PyArray_ITEMSIZE(x)
        call.batch.x_time = cnp.PyArray_STRIDE(x, time_axis) // cnp.PyArray_ITEMSIZE(x)
        if table is None:
            call.x = <const float*> cnp.PyArray_DATA(x)
        else:
            call.ids = <const int64_t*> cnp.PyArray_DATA(x)
            call.tables = table.tables
        if y is not None:
            call.batch.y_batch = cnp.PyArray_STRIDE(y, batch_axis) // <Py_ssize_t> sizeof(float)
            call.batch.y_time = cnp.PyArray_STRIDE(y, time_axis) // <Py_ssize_t> sizeof(float)
            call.y = <float*> cnp.PyArray_DATA(y)
        call.batch.flip = flip
        call.batch.order = <const int64_t*> optional_data(order)
        call.batch.lengths = <const int64_t*> optional_data(lengths)
        call.batch.steps = <const int64_t*> optional_data(steps)
        call.merge = MERGES[merge]
        call.last_merge = MERGES[last_merge]
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
        self.prepare(call)
        if call.work < WORK_WITH_GIL:
            return self.execute_prepared(call, threads)
        with nogil:
            self.execute_prepared(call, threads)
        return 0

    cdef void prepare(self, Call* call) noexcept nogil:
        """Fill in what the stack knows of a call."""
        cdef int i
        call.plans = self.plans
        call.layers = self.layers
        call.directions = self.directions
        call.reverse = self.reverse
        call.has_c = self.has_c
        if call.state_batch == 0:
            call.state_batch = call.batch.B
        call.width = self.plans[0].cell.output_size
        if call.merge == MERGE_SET:
            call.width *= self.directions
        for i in range(self.layers * self.directions):
            call.row_work += work_of_row(self.plans[i])
            call.row_cost += cost_of_row(self.plans[i])
        call.work = call.row_work * call.batch.B * call.batch.T

    cdef int execute_prepared(self, Call* call, int threads) except -1 nogil:
        cdef bint done
        call.threads = threads_of(threads) if call.work >= CALL_WORTH_SHARING else 1
        done = execute(call)
        if not done:
            with gil:
                raise MemoryError(f"no memory for a batch of {call.batch.B} and {call.batch.T} steps")
        if call.interrupted:
            with gil:
                raise_handled()
        return 0


cdef class StackCall(Instruction):
    """A call of a stack over operands of fixed shapes, where every step counts; see Stack.run.

    x       (B, T, I), or (T, B, I) with time_first, its last dimension dense; ids (B, T) with a table
    y       of the same first two dimensions, C-contiguous; or None
    before, after   states, C-contiguous; () for zeros and where none is wanted
    """

    cdef Stack stack
    cdef Table table
    cdef Call template
    cdef Place x, y
    cdef Place before[2]
    cdef Place after[2]
    cdef bint has_y
    cdef int before_count, after_count, threads

    def __cinit__(self, Stack stack not None, Operand x not None, Operand y, str merge not None, bint time_first,
                  bint flip, tuple before not None, tuple after not None, int threads, Table table=None):
        cdef int batch_axis = 1 if time_first else 0, time_axis = 0 if time_first else 1
        cdef Py_ssize_t B, T
        cdef int i
        stack.check_merges(merge, merge)
        memset(&self.template, 0, sizeof(Call))
        self.stack, self.table, self.threads = stack, table, threads
        self.check_x(x, 2 if table is not None else 3)
        B, T = x.shape[batch_axis], x.shape[time_axis]
        if B < 1 or T < 1:
            refuse(f"{x}, expected at least one row and one step")
        self.template.batch.B, self.template.batch.T = B, T
        self.template.batch.x_batch = x.strides[batch_axis] // x.itemsize
        self.template.batch.x_time = x.strides[time_axis] // x.itemsize
        self.x.slot, self.x.offset = x.slot, x.offset
        self.has_y = y is not None
        if y is not None:
            place_of(y, cnp.NPY_FLOAT32, "y", &self.y)
            if y.shape != x.shape[:2] + (stack.width_of(MERGES[merge]),):
                refuse(f"y: {y}, expected {x.shape[:2] + (stack.width_of(MERGES[merge]),)}")
            self.template.batch.y_batch = y.strides[batch_axis] // sizeof(float)
            self.template.batch.y_time = y.strides[time_axis] // sizeof(float)
        self.before_count, self.after_count = len(before), len(after)
        for i in range(self.before_count):
            self.check_state(before[i], i, B, &self.before[i])
        for i in range(self.after_count):
            self.check_state(after[i], i, B, &self.after[i])
        self.template.batch.flip = flip
        self.template.merge = self.template.last_merge = MERGES[merge]
        if table is not None:
            self.template.tables = table.tables
        stack.prepare(&self.template)
        self.work = self.template.work

    cdef int check_x(self, Operand x, Py_ssize_t rank) except -1:
        """Its type, and strides that are whole elements."""
        cdef Py_ssize_t K = self.stack.plans[0].cell.input_size
        if self.table is not None and self.table.stack is not self.stack:
            refuse("table: of another stack")
        if x.dtype.num != (cnp.NPY_FLOAT32 if rank == 3 else cnp.NPY_INT64) or len(x.shape) != rank:
            refuse(f"x: {x}, expected float32 of 3 dimensions, or int64 of 2 with a table")
        if rank == 3 and (x.shape[2] != K or (K > 1 and x.strides[2] != sizeof(float))):
            refuse(f"x: {x}, expected a dense last dimension of {K}")
        if any([stride % x.itemsize for stride in x.strides]) or x.offset % x.itemsize:
            refuse(f"x: {x}, expected whole elements between rows")
        return 0

    cdef int check_state(self, Operand state, int which, Py_ssize_t B, Place* place) except -1:
        cdef const rnncore_cell* cell = &self.stack.plans[0].cell
        expected = (self.stack.layers * self.stack.directions, B, cell.hidden_size if which else cell.output_size)
        if which > (1 if self.stack.has_c else 0) or state.shape != expected:
            refuse(f"state {which}: {state}, expected {expected}")
        return place_of(state, cnp.NPY_FLOAT32, "state", place)

    cdef int run(self, char** slots) except -1 nogil:
        cdef Call call = self.template
        call.x = <const float*> address(slots, self.x)
        if self.table is not None:
            call.ids = <const int64_t*> call.x
            call.x = NULL
            self.check_ids(&call)
        if self.has_y:
            call.y = <float*> address(slots, self.y)
        if self.before_count > 0:
            call.h0 = <const float*> address(slots, self.before[0])
        if self.before_count > 1:
            call.c0 = <const float*> address(slots, self.before[1])
        if self.after_count > 0:
            call.hn = <float*> address(slots, self.after[0])
        if self.after_count > 1:
            call.cn = <float*> address(slots, self.after[1])
        return self.stack.execute_prepared(&call, self.threads)

    cdef int check_ids(self, const Call* call) except -1 nogil:
        """That each is a row of the table."""
        cdef Py_ssize_t b, t
        cdef int64_t id
        for b in range(call.batch.B):
            for t in range(call.batch.T):
                id = call.ids[b * call.batch.x_batch + t * call.batch.x_time]
                if not 0 <= id < self.table.rows:
                    with gil:
                        raise Mismatch(f"id {id}")
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
        cdef const CellPlan* plan
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
    most    rows times steps of a call that is answered; the long way knows what to say of more
    """

    cdef Stack stack
    cdef Py_ssize_t input_size, width, state_rows, h_size, c_size, most
    cdef str h_name, c_name
    cdef Merge merge
    cdef int threads

    def __cinit__(self, Stack stack not None, str merge not None, Py_ssize_t input_size, Py_ssize_t width,
                  tuple names not None, int threads, Py_ssize_t most=PY_SSIZE_T_MAX):
        stack.check_merges(merge, merge)
        if (input_size, width) != (stack.plans[0].cell.input_size, stack.width_of(MERGES[merge])):
            refuse(f"sizes {(input_size, width)}, expected those of the stack")
        if len(names) != (2 if stack.has_c else 1):
            refuse(f"states {names}, expected h, and c where the cells have one")
        self.stack = stack
        self.merge = MERGES[merge]
        self.input_size = input_size
        self.width = width
        self.most = most
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
        try:
            y = self.output(&call)
            self.stack.start(&call, self.threads)
        except MemoryError:
            self.refuse_memory(&call)
        return y

    cdef refuse_memory(self, const Call* call):
        """InputError for a call that there is no memory for. (The product fits: that many numbers stand in x.)"""
        need = call.batch.B * call.batch.T * <object> self.width * sizeof(float)
        shape = call.batch.B, call.batch.T, self.input_size
        raise InputError(f"x: shape {shape} gives {need:,} bytes, more than there is memory for") from None

    def step(self, x, dict state not None):
        """(y, new states by name) for x and the states given by name; None where one of them is not plain."""
        cdef Call call
        cdef dict after = {}
        if not self.is_plain(x, &call):
            return None
        h0 = state.get(self.h_name)
        if not is_plain_state(h0, self.state_rows, call.batch.B, self.h_size):
            return None
        call.h0 = <const float*> cnp.PyArray_DATA(h0)
        if self.c_name is not None:
            c0 = state.get(self.c_name)
            if not is_plain_state(c0, self.state_rows, call.batch.B, self.c_size):
                return None
            call.c0 = <const float*> cnp.PyArray_DATA(c0)
        if len(state) != (1 if self.c_name is None else 2):
            return None
        try:
            y = self.output(&call)
            hn = new_state(self.state_rows, call.batch.B, self.h_size)
            call.hn = <float*> cnp.PyArray_DATA(hn)
            after[self.h_name] = hn
            if self.c_name is not None:
                cn = new_state(self.state_rows, call.batch.B, self.c_size)
                call.cn = <float*> cnp.PyArray_DATA(cn)
                after[self.c_name] = cn
            self.stack.start(&call, self.threads)
        except MemoryError:
            self.refuse_memory(&call)
        return y, after

    cdef bint is_plain(self, x, Call* call):
        if not cnp.PyArray_CheckExact(x) or cnp.PyArray_TYPE(x) != cnp.NPY_FLOAT32 or cnp.PyArray_NDIM(x) != 3:
            return False
        if not cnp.PyArray_ISCARRAY_RO(x) or cnp.PyArray_DIM(x, 2) != self.input_size:
            return False
        memset(call, 0, sizeof(Call))
        call.batch.B, call.batch.T = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
        if call.batch.B == 0 or call.batch.T == 0 or call.batch.T > self.most // call.batch.B:
            return False
        call.batch.x_time = self.input_size
        call.batch.x_batch = call.batch.T * self.input_size
        call.x = <const float*> cnp.PyArray_DATA(x)
        call.merge = call.last_merge = self.merge
        return True

    cdef output(self, Call* call):
        cdef cnp.npy_intp[3] shape
        shape[0], shape[1], shape[2] = call.batch.B, call.batch.T, self.width
        y = cnp.PyArray_EMPTY(3, shape, cnp.NPY_FLOAT32, 0)
        call.batch.y_time = self.width
        call.batch.y_batch = call.batch.T * self.width
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
    """A forward stack over float sequences whose states stand in slots, in place: see _recurrent.pxd."""
    cdef Call call
    memset(&call, 0, sizeof(Call))
    call.batch.B, call.batch.T = given.B, given.T
    call.batch.x_batch, call.batch.x_time = given.x_batch, given.x_time
    call.batch.y_batch, call.batch.y_time = given.y_batch, given.y_time
    call.batch.order, call.batch.lengths = given.order, given.lengths
    call.x, call.y = given.x, given.y
    call.h0 = call.hn = given.h
    call.c0 = call.cn = given.c
    call.slots, call.state_batch = given.slots, given.state_batch
    call.merge = call.last_merge = MERGE_SET
    return (<Stack> stack).start(&call, threads)


cdef int check_stack_states(object stack, Py_ssize_t input_size, Py_ssize_t batch, h, c) except -1:
    """See _recurrent.pxd."""
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


cdef bint is_plain_state(array, Py_ssize_t rows, Py_ssize_t B, Py_ssize_t size):
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32
            and cnp.PyArray_NDIM(array) == 3 and cnp.PyArray_ISCARRAY_RO(array) and cnp.PyArray_DIM(array, 0) == rows
            and cnp.PyArray_DIM(array, 1) == B and cnp.PyArray_DIM(array, 2) == size)


cdef new_state(Py_ssize_t rows, Py_ssize_t B, Py_ssize_t size):
    cdef cnp.npy_intp[3] shape
    shape[0], shape[1], shape[2] = rows, B, size
    return cnp.PyArray_EMPTY(3, shape, cnp.NPY_FLOAT32, 0)
