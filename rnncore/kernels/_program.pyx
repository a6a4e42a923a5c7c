# cython: language_level=3, cdivision=True, freethreading_compatible=True
"""Bound programs: a network for inputs of fixed shapes, as instructions over numbered slots of memory.

A slot is the memory of one array: an input's, an output's, a constant's, or a part of the arena, which holds what is
computed on the way. An Instruction is a kernel with its Operands, arrays in slots; views are operands of the slot that
they look at and need no instruction. A Binding is the list of instructions with all sizes settled: a call sets the
addresses of inputs and outputs and runs the list, with the GIL released once if it is long. Bindings of one network
are found by the shapes of the inputs: Signatures.

runtime/program.py compiles them.
"""

import numpy as np

from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_GetItem
from cpython.object cimport PyObject

from rnncore.kernels._checks cimport MAX_RANK, plus, refuse, times
from rnncore.kernels._costs cimport WORK_BETWEEN_SIGNALS, WORK_WITH_GIL
from rnncore.kernels._runtime cimport handler_raised, raise_handled, scratch_memory

cnp.import_array()
cnp.import_ufunc()


cdef class Mismatch(Exception):
    """A step gave an array of another shape, or of another dtype, than when the program was bound."""


cdef class Operand:

    def __cinit__(self, Py_ssize_t slot, Py_ssize_t offset, tuple shape not None, tuple strides not None, dtype):
        cdef Py_ssize_t dense = np.dtype(dtype).itemsize, size, stride
        self.slot, self.offset, self.shape, self.strides = slot, offset, shape, strides
        self.dtype = np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        if len(shape) != len(strides) or len(shape) > MAX_RANK or slot < 0:
            refuse(f"shape {shape} and strides {strides} of slot {slot}, expected one for each dimension")
        self.size, self.dense = 1, True
        for size, stride in zip(reversed(shape), reversed(strides)):
            if size != 1 and stride != dense:
                self.dense = False
            self.size = times(self.size, size)
            dense *= size
        if self.size == 0:
            self.dense = True

    def __repr__(self):
        return f"<Operand {self.dtype} {self.shape} of slot {self.slot} + {self.offset}, strides {self.strides}>"

    @property
    def begin(self):
        """Bytes from the slot's beginning to the first byte."""
        return self.offset + sum([stride * (size - 1) for size, stride in zip(self.shape, self.strides) if stride < 0])

    @property
    def end(self):
        """Bytes from the slot's beginning to the end of the last element; 0 where there is none."""
        if self.size == 0:
            return 0
        last = sum([stride * (size - 1) for size, stride in zip(self.shape, self.strides) if stride > 0])
        return self.offset + last + self.itemsize


cdef int place_of(Operand operand, int type_number, str name, Place* place) except -1:
    if operand.dtype.num != type_number or not operand.dense:
        refuse(f"{name}: {operand}, expected {cnp.PyArray_DescrFromType(type_number)}, C-contiguous")
    place.slot, place.offset = operand.slot, operand.offset
    return 0


cdef class Instruction:

    cdef int run(self, char** slots) except -1 nogil:
        return 0


# --- loops over elements --------------------------------------------------------------------------------------------

# Elements of a register: few enough that all registers stay in the first cache.
cdef enum:
    BLOCK = 512
    MOST_REGISTERS = 24
    MOST_OPERANDS = 64
    MOST_ARGUMENTS = 4
    REGISTER_BYTES = BLOCK * 8 + 64
    LOOP_RANK = 8
    ELEMENTS_BETWEEN_SIGNALS = 1 << 20

MOST_TEMPORARIES = MOST_REGISTERS
MOST_EXTERNALS = MOST_OPERANDS

ctypedef void (*ElementLoop)(char** arguments, const cnp.npy_intp* count, const cnp.npy_intp* steps,
                             void* data) noexcept nogil


cdef struct External:
    Place place
    Py_ssize_t step             # of the innermost dimension
    Py_ssize_t strides[LOOP_RANK]


cdef struct Micro:
    ElementLoop loop
    void* data
    int count
    int arguments[MOST_ARGUMENTS]   # 0 to externals - 1, then registers, then constants
    int itemsizes[MOST_ARGUMENTS]   # of registers


cdef void where_loop(char** arguments, const cnp.npy_intp* count, const cnp.npy_intp* steps,
                     void* data) noexcept nogil:
    """condition ? a : b, of elements of as many bytes as ``data`` says."""
    cdef Py_ssize_t i, size = <Py_ssize_t> data
    cdef char* condition = arguments[0]
    cdef char* a = arguments[1]
    cdef char* b = arguments[2]
    cdef char* y = arguments[3]
    if size == 4:
        for i in range(count[0]):
            (<int*> (y + i * steps[3]))[0] = ((<int*> (a + i * steps[1]))[0] if condition[i * steps[0]]
                                              else (<int*> (b + i * steps[2]))[0])
    elif size == 8:
        for i in range(count[0]):
            (<long long*> (y + i * steps[3]))[0] = ((<long long*> (a + i * steps[1]))[0] if condition[i * steps[0]]
                                                    else (<long long*> (b + i * steps[2]))[0])
    else:
        for i in range(count[0]):
            memcpy(y + i * steps[3], a + i * steps[1] if condition[i * steps[0]] else b + i * steps[2], size)


ctypedef fused source_type:
    cnp.npy_bool
    cnp.npy_int32
    cnp.npy_int64
    cnp.npy_float32
    cnp.npy_float64

ctypedef fused target_type:
    cnp.npy_int32
    cnp.npy_int64
    cnp.npy_float32
    cnp.npy_float64


cdef void cast_elements(const char* x, char* y, Py_ssize_t n, Py_ssize_t x_step, Py_ssize_t y_step,
                        source_type* of, target_type* into) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        (<target_type*> (y + i * y_step))[0] = <target_type> (<const source_type*> (x + i * x_step))[0]


cdef void cast_from(const char* x, char* y, Py_ssize_t n, Py_ssize_t x_step, Py_ssize_t y_step, source_type* of,
                    int into) noexcept nogil:
    cdef Py_ssize_t i
    if into == cnp.NPY_INT32:
        cast_elements(x, y, n, x_step, y_step, of, <cnp.npy_int32*> NULL)
    elif into == cnp.NPY_INT64:
        cast_elements(x, y, n, x_step, y_step, of, <cnp.npy_int64*> NULL)
    elif into == cnp.NPY_FLOAT32:
        cast_elements(x, y, n, x_step, y_step, of, <cnp.npy_float32*> NULL)
    elif into == cnp.NPY_FLOAT64:
        cast_elements(x, y, n, x_step, y_step, of, <cnp.npy_float64*> NULL)
    else:
        for i in range(n):
            y[i * y_step] = (<const source_type*> (x + i * x_step))[0] != 0


cdef void cast_loop(char** arguments, const cnp.npy_intp* count, const cnp.npy_intp* steps, void* data) noexcept nogil:
    """From one dtype to another: ``data`` holds both numbers of NumPy's types."""
    cdef int of = <int> (<Py_ssize_t> data & 0xff), into = <int> (<Py_ssize_t> data >> 8)
    cdef char* x = arguments[0]
    cdef char* y = arguments[1]
    if of == cnp.NPY_BOOL:
        cast_from(x, y, count[0], steps[0], steps[1], <cnp.npy_bool*> NULL, into)
    elif of == cnp.NPY_INT32:
        cast_from(x, y, count[0], steps[0], steps[1], <cnp.npy_int32*> NULL, into)
    elif of == cnp.NPY_INT64:
        cast_from(x, y, count[0], steps[0], steps[1], <cnp.npy_int64*> NULL, into)
    elif of == cnp.NPY_FLOAT32:
        cast_from(x, y, count[0], steps[0], steps[1], <cnp.npy_float32*> NULL, into)
    else:
        cast_from(x, y, count[0], steps[0], steps[1], <cnp.npy_float64*> NULL, into)


CASTABLE = {np.dtype(name).num for name in ("bool", "int32", "int64", "float32", "float64")}


cdef ElementLoop loop_of(cnp.ufunc function, list dtypes, void** data) except NULL:
    """NumPy's own loop over elements of these dtypes, of the inputs and the output; InputError where it has none."""
    cdef int i, k
    for i in range(function.ntypes):
        for k in range(function.nargs):
            if function.types[i * function.nargs + k] != <int> dtypes[k].num:
                break
        else:
            data[0] = function.data[i] if function.data != NULL else NULL
            return <ElementLoop> function.functions[i]
    refuse(f"{function}: no loop over {dtypes}")
    return NULL


cdef class Elements(Instruction):
    """Functions of single elements, one after the other on blocks of them that stay in the first cache.

    operands   the arrays read and written, all of which spread over the last one's shape (NumPy's rule)
    constants  arrays of one element
    registers  the number of temporaries
    steps      (function, dtypes, arguments): a ufunc of NumPy's kind, "where" or "cast"; the dtypes of all its
               arguments; their places, the output last: operands first, then registers, then constants
    """

    cdef External* externals
    cdef Micro* micros
    cdef char* constant_bytes
    cdef int external_count, micro_count, register_count, constant_count, rank
    cdef Py_ssize_t sizes[LOOP_RANK]
    cdef Py_ssize_t inner
    cdef list kept

    def __cinit__(self, list operands not None, list constants not None, int registers, list steps not None):
        cdef Operand last = operands[len(operands) - 1]
        cdef Micro* micro
        cdef int i, k
        if len(operands) > MOST_OPERANDS or registers > MOST_REGISTERS or registers < 0:
            refuse(f"{len(operands)} operands and {registers} temporaries, expected up to {MOST_OPERANDS} and "
                   f"{MOST_REGISTERS}")
        self.kept = [step[0] for step in steps]
        self.external_count, self.register_count = len(operands), registers
        self.constant_count, self.micro_count = len(constants), len(steps)
        self.externals = <External*> malloc(max(1, len(operands)) * sizeof(External))
        self.micros = <Micro*> malloc(max(1, len(steps)) * sizeof(Micro))
        self.constant_bytes = <char*> malloc(16 * max(1, len(constants)))
        if self.externals == NULL or self.micros == NULL or self.constant_bytes == NULL:
            raise MemoryError()
        for i, constant in enumerate(constants):
            value = np.asarray(constant).reshape(1).tobytes()
            if len(value) > 16:
                refuse(f"{constant!r}, expected a number of up to 16 bytes")
            memcpy(self.constant_bytes + 16 * i, <const char*> <bytes> value, len(value))
        self.lay_out_operands(operands)
        for i, (function, dtypes, arguments) in enumerate(steps):
            micro = &self.micros[i]
            dtypes = [np.dtype(dtype) for dtype in dtypes]
            micro.count = len(arguments)
            if not 2 <= micro.count <= MOST_ARGUMENTS or len(dtypes) != micro.count:
                refuse(f"{function}: {len(arguments)} arguments, expected 2 to {MOST_ARGUMENTS}")
            for k in range(micro.count):
                self.check_argument(arguments[k], k == micro.count - 1, dtypes[k], operands)
                micro.arguments[k] = arguments[k]
                micro.itemsizes[k] = dtypes[k].itemsize
            self.choose(micro, function, dtypes)
        self.work = <double> last.size * len(steps) * 4

    cdef int check_argument(self, int place, bint written, dtype, list operands) except -1:
        cdef int end = self.external_count + self.register_count + self.constant_count
        if not 0 <= place < end or (written and place >= self.external_count + self.register_count):
            refuse(f"argument {place}, expected 0 to {end - 1}, an operand or a register where it is written")
        if place < self.external_count and operands[place].dtype != dtype:
            refuse(f"{operands[place]}, expected {dtype}")
        if dtype.itemsize > 8:
            refuse(f"{dtype}, expected elements of up to 8 bytes")
        return 0

    cdef int choose(self, Micro* micro, function, list dtypes) except -1:
        """The loop of a step."""
        if isinstance(function, np.ufunc):
            if function.nargs != micro.count or function.signature is not None:
                refuse(f"{function}: of {function.nargs} arguments, expected {micro.count} of single elements")
            micro.loop = loop_of(function, dtypes, &micro.data)
        elif function == "where":
            if micro.count != 4 or dtypes[0] != np.bool_ or not dtypes[1] == dtypes[2] == dtypes[3]:
                refuse(f"where: {dtypes}, expected bool and three of one dtype")
            micro.loop, micro.data = where_loop, <void*> <Py_ssize_t> dtypes[3].itemsize
        else:
            if function != "cast" or micro.count != 2 or not {dtypes[0].num, dtypes[1].num} <= CASTABLE:
                refuse(f"{function} of {dtypes}")
            micro.loop = cast_loop
            micro.data = <void*> <Py_ssize_t> (<int> dtypes[0].num | <int> dtypes[1].num << 8)
        return 0

    cdef int lay_out_operands(self, list operands) except -1:
        """Dimensions along which all operands go on evenly become one; the last is the inner loop's."""
        cdef int i, axis
        shape = operands[len(operands) - 1].shape
        D = len(shape)
        rows = []
        for operand in operands:
            lead = D - len(operand.shape)
            if lead < 0 or any([a not in (1, b) for a, b in zip(operand.shape, shape[lead:])]):
                refuse(f"{operand}, expected what spreads over {shape}")
            rows.append([0] * lead + [0 if a == 1 else stride for a, stride in zip(operand.shape, operand.strides)])
        dims = []   # (size, strides of all operands), innermost first
        for axis in range(D - 1, -1, -1):
            if shape[axis] == 1:
                continue
            strides = [row[axis] for row in rows]
            if dims and all([stride == inner * dims[-1][0] for stride, inner in zip(strides, dims[-1][1])]):
                dims[-1] = (dims[-1][0] * shape[axis], dims[-1][1])
            else:
                dims.append((shape[axis], strides))
        dims = dims or [(1, [0] * len(operands))]
        if len(dims) - 1 > LOOP_RANK:
            refuse(f"{len(dims)} dimensions that do not go on evenly, expected up to {LOOP_RANK + 1}")
        self.inner, self.rank = dims[0][0], <int> len(dims) - 1
        for i, operand in enumerate(operands):
            self.externals[i].place.slot, self.externals[i].place.offset = operand.slot, operand.offset
            self.externals[i].step = dims[0][1][i]
            for axis in range(self.rank):
                self.externals[i].strides[axis] = dims[axis + 1][1][i]
        for axis in range(self.rank):
            self.sizes[axis] = dims[axis + 1][0]
        return 0

    def __dealloc__(self):
        free(self.externals)
        free(self.micros)
        free(self.constant_bytes)

    cdef int run(self, char** slots) except -1 nogil:
        cdef char registers[MOST_REGISTERS * REGISTER_BYTES]
        cdef char* rows[MOST_OPERANDS]
        cdef Py_ssize_t index[LOOP_RANK]
        cdef Py_ssize_t n, first, since = 0
        cdef int i, axis
        for i in range(self.external_count):
            rows[i] = address(slots, self.externals[i].place)
        memset(index, 0, sizeof(index))
        for axis in range(self.rank):
            if self.sizes[axis] == 0:
                return 0
        while True:
            first = 0
            while first < self.inner:
                n = min(<Py_ssize_t> BLOCK, self.inner - first)
                self.block(rows, first, n, registers)
                first += n
                since += n * self.micro_count
                if since > ELEMENTS_BETWEEN_SIGNALS:
                    since = 0
                    if handler_raised():
                        with gil:
                            raise_handled()
            axis = 0
            while axis < self.rank:
                index[axis] += 1
                for i in range(self.external_count):
                    rows[i] += self.externals[i].strides[axis]
                if index[axis] < self.sizes[axis]:
                    break
                for i in range(self.external_count):
                    rows[i] -= self.externals[i].strides[axis] * self.sizes[axis]
                index[axis] = 0
                axis += 1
            if axis == self.rank:
                return 0

    cdef void block(self, char** rows, Py_ssize_t first, Py_ssize_t n, char* registers) noexcept nogil:
        """All steps for n elements from the first on."""
        cdef char* arguments[MOST_ARGUMENTS]
        cdef cnp.npy_intp steps[MOST_ARGUMENTS]
        cdef cnp.npy_intp count = n
        cdef Micro* micro
        cdef int i, k, place, registers_end = self.external_count + self.register_count
        for i in range(self.micro_count):
            micro = &self.micros[i]
            for k in range(micro.count):
                place = micro.arguments[k]
                if place < self.external_count:
                    steps[k] = self.externals[place].step
                    arguments[k] = rows[place] + first * steps[k]
                elif place < registers_end:
                    arguments[k] = registers + (place - self.external_count) * REGISTER_BYTES
                    steps[k] = micro.itemsizes[k]
                else:
                    arguments[k] = self.constant_bytes + 16 * (place - registers_end)
                    steps[k] = 0
            micro.loop(arguments, &count, steps, micro.data)


# --- moving -----------------------------------------------------------------------------------------------------------


cdef class Copy(Instruction):
    """The elements of one operand to another of the same shape and dtype."""

    cdef Place source, target
    cdef int rank
    cdef Py_ssize_t sizes[MAX_RANK]
    cdef Py_ssize_t source_strides[MAX_RANK]
    cdef Py_ssize_t target_strides[MAX_RANK]
    cdef Py_ssize_t run_bytes       # that are next to each other in both
    cdef Py_ssize_t count           # runs of the innermost loop
    cdef Py_ssize_t source_step, target_step

    def __cinit__(self, Operand source not None, Operand target not None):
        cdef Py_ssize_t size
        cdef int axis
        if source.shape != target.shape or source.dtype != target.dtype:
            refuse(f"{source} to {target}, expected one shape and dtype")
        self.source.slot, self.source.offset = source.slot, source.offset
        self.target.slot, self.target.offset = target.slot, target.offset
        self.work = source.size * 2
        dims = []
        for size, a, b in zip(reversed(source.shape), reversed(source.strides), reversed(target.strides)):
            if size == 1:
                continue
            if dims and a == dims[-1][0] * dims[-1][1] and b == dims[-1][0] * dims[-1][2]:
                dims[-1] = (dims[-1][0] * size, dims[-1][1], dims[-1][2])
            else:
                dims.append((size, a, b))
        self.run_bytes = source.itemsize
        if dims and dims[0][1] == dims[0][2] == source.itemsize:
            self.run_bytes = dims[0][0] * source.itemsize
            dims.pop(0)
        if source.size == 0:
            self.run_bytes, dims = 0, []
        self.count, self.source_step, self.target_step = dims.pop(0) if dims else (1, 0, 0)
        self.rank = <int> len(dims)
        for axis in range(self.rank):
            self.sizes[axis], self.source_strides[axis], self.target_strides[axis] = dims[axis]

    cdef int run(self, char** slots) except -1 nogil:
        cdef const char* x = address(slots, self.source)
        cdef char* y = address(slots, self.target)
        cdef Py_ssize_t index[MAX_RANK]
        cdef int axis
        if self.run_bytes == 0:
            return 0
        memset(index, 0, sizeof(index[0]) * self.rank)
        while True:
            self.innermost(x, y)
            axis = 0
            while axis < self.rank:
                index[axis] += 1
                x += self.source_strides[axis]
                y += self.target_strides[axis]
                if index[axis] < self.sizes[axis]:
                    break
                x -= self.source_strides[axis] * self.sizes[axis]
                y -= self.target_strides[axis] * self.sizes[axis]
                index[axis] = 0
                axis += 1
            if axis == self.rank:
                return 0

    cdef void innermost(self, const char* x, char* y) noexcept nogil:
        cdef Py_ssize_t i
        if self.run_bytes == 4:
            for i in range(self.count):
                memcpy(y + i * self.target_step, x + i * self.source_step, 4)
        elif self.run_bytes == 8:
            for i in range(self.count):
                memcpy(y + i * self.target_step, x + i * self.source_step, 8)
        else:
            for i in range(self.count):
                memcpy(y + i * self.target_step, x + i * self.source_step, self.run_bytes)


cdef class Rows(Instruction):
    """Rows of a table, by ids: y[i] = table[ids[i]]. InputError for an id that is no row; see Embedding.

    table  (N, ...), C-contiguous;  ids  int64, C-contiguous;  y  (*ids, ...), C-contiguous
    """

    cdef Place table, ids, y
    cdef Py_ssize_t rows, count, nbytes

    def __cinit__(self, Operand table not None, Operand ids not None, Operand y not None):
        if not table.shape or y.shape != ids.shape + table.shape[1:] or y.dtype != table.dtype:
            refuse(f"{table} by {ids} to {y}")
        place_of(table, table.dtype.num, "table", &self.table)
        place_of(ids, cnp.NPY_INT64, "ids", &self.ids)
        place_of(y, y.dtype.num, "y", &self.y)
        self.rows, self.count = table.shape[0], ids.size
        self.nbytes = table.size // max(1, table.shape[0]) * table.itemsize
        self.work = y.size * 2

    cdef int run(self, char** slots) except -1 nogil:
        cdef const char* table = address(slots, self.table)
        cdef const cnp.npy_int64* ids = <const cnp.npy_int64*> address(slots, self.ids)
        cdef char* y = address(slots, self.y)
        cdef Py_ssize_t i
        for i in range(self.count):
            if not 0 <= ids[i] < self.rows:
                with gil:
                    raise Mismatch(f"id {ids[i]}")
            memcpy(y + i * self.nbytes, table + ids[i] * self.nbytes, self.nbytes)
        return 0


# --- along the last axis ----------------------------------------------------------------------------------------------


cdef class Softmax(Instruction):
    """Softmax over the last axis, float32 or float64, C-contiguous; its logarithm with ``logarithm``.

    NumPy's own loops in the order in which ops/along_axis.py calls them: the same bits.
    """

    cdef Place x, y
    cdef Py_ssize_t rows, n
    cdef int itemsize
    cdef bint logarithm
    cdef ElementLoop largest, subtract, exponential, add, divide, log
    cdef void* data[6]

    def __cinit__(self, Operand x not None, Operand y not None, bint logarithm):
        if x.shape != y.shape or x.dtype != y.dtype or x.dtype.char not in "fd" or not x.shape or x.size == 0:
            refuse(f"softmax of {x} to {y}")
        place_of(x, x.dtype.num, "x", &self.x)
        place_of(y, x.dtype.num, "y", &self.y)
        self.n, self.logarithm, self.itemsize = x.shape[len(x.shape) - 1], logarithm, x.itemsize
        self.rows = x.size // self.n
        self.largest = loop_of(np.maximum, [x.dtype] * 3, &self.data[0])
        self.subtract = loop_of(np.subtract, [x.dtype] * 3, &self.data[1])
        self.exponential = loop_of(np.exp, [x.dtype] * 2, &self.data[2])
        self.add = loop_of(np.add, [x.dtype] * 3, &self.data[3])
        self.divide = loop_of(np.divide, [x.dtype] * 3, &self.data[4])
        self.log = loop_of(np.log, [x.dtype] * 2, &self.data[5])
        self.work = x.size * 16

    cdef int run(self, char** slots) except -1 nogil:
        cdef char* x = address(slots, self.x)
        cdef char* y = address(slots, self.y)
        cdef Py_ssize_t row, size = self.n * self.itemsize
        if not self.logarithm:
            for row in range(self.rows):
                self.one(x + row * size, y + row * size, y + row * size)
            return 0
        return self.logarithms(x, y)

    cdef int logarithms(self, char* x, char* y) except -1 nogil:
        cdef Py_ssize_t row, size = self.n * self.itemsize
        cdef char* powers = <char*> scratch_memory(times(self.n, self.itemsize))
        if powers == NULL:
            with gil:
                raise MemoryError(f"no memory for a softmax of {self.n} numbers")
        for row in range(self.rows):
            self.one(x + row * size, y + row * size, powers)
        return 0

    cdef void one(self, char* x, char* y, char* powers) noexcept nogil:
        """One row; powers may be y where the softmax itself is wanted."""
        cdef double scalar = 0
        cdef char* total = <char*> &scalar
        cdef cnp.npy_intp n = self.n, single = 1
        self.first(total, True)
        self.call(self.largest, self.data[0], total, 0, x, self.itemsize, total, 0, n)
        self.call(self.subtract, self.data[1], x, self.itemsize, total, 0, y, self.itemsize, n)
        self.call(self.exponential, self.data[2], y, self.itemsize, powers, self.itemsize, NULL, 0, n)
        self.first(total, False)
        self.call(self.add, self.data[3], total, 0, powers, self.itemsize, total, 0, n)
        if self.logarithm:
            self.call(self.log, self.data[5], total, 0, total, 0, NULL, 0, single)
            self.call(self.subtract, self.data[1], y, self.itemsize, total, 0, y, self.itemsize, n)
        else:
            self.call(self.divide, self.data[4], y, self.itemsize, total, 0, y, self.itemsize, n)

    cdef void first(self, char* total, bint smallest) noexcept nogil:
        """What a total begins with: nothing, or what is below all numbers."""
        cdef double value = 0
        if smallest:
            value = -INFINITY
        if self.itemsize == 4:
            (<float*> total)[0] = <float> value
        else:
            (<double*> total)[0] = value

    cdef void call(self, ElementLoop loop, void* data, char* a, Py_ssize_t a_step, char* b, Py_ssize_t b_step, char* c,
                   Py_ssize_t c_step, cnp.npy_intp n) noexcept nogil:
        cdef char* arguments[3]
        cdef cnp.npy_intp steps[3]
        arguments[0], arguments[1], arguments[2] = a, b, c
        steps[0], steps[1], steps[2] = a_step, b_step, c_step
        loop(arguments, &n, steps, data)


# --- steps that are called in Python ----------------------------------------------------------------------------------


cdef class Call(Instruction):
    """A step of Python, called with arrays over the slots: (values, before, after), as kernels/_graph.pyx has it.

    What it gives is copied to its operands; Mismatch where that does not fit them.
    """

    cdef readonly object step
    cdef list inputs    # (name, Operand, or an array that is the same in each call, or None)
    cdef readonly list outputs   # (name, Operand or None)

    def __cinit__(self, step, list inputs not None, list outputs not None, double work):
        """step(values, before, after); inputs and outputs: names and operands; work: see Instruction."""
        self.step, self.inputs, self.outputs, self.work = step, inputs, outputs, work

    cdef int run(self, char** slots) except -1 nogil:
        with gil:
            self.call(slots)
        return 0

    cdef int call(self, char** slots) except -1:
        cdef dict values = {}
        cdef cnp.ndarray target
        for name, given in self.inputs:
            values[name] = array_of(given, slots, False) if type(given) is Operand else given
        with np.errstate(all="ignore"):  # NaN and overflow are results
            self.step(values, None, {})
        for name, operand in self.outputs:
            array = values.get(name)
            if operand is None:
                if array is not None:
                    raise Mismatch(name)
                continue
            if array is None:
                raise Mismatch(name)
            array = np.asarray(array)
            if array.shape != (<Operand> operand).shape or array.dtype != (<Operand> operand).dtype:
                raise Mismatch(name)
            target = array_of(operand, slots, True)
            cnp.PyArray_CopyInto(target, array)
        return 0


cdef cnp.ndarray array_of(Operand operand, char** slots, bint written):
    """An array over the operand's memory, valid as long as the call."""
    cdef cnp.npy_intp[MAX_RANK] dims, strides
    cdef int axis, D = <int> len(operand.shape)
    for axis in range(D):
        dims[axis], strides[axis] = operand.shape[axis], operand.strides[axis]
    return cnp.PyArray_New(cnp.ndarray, D, dims, <int> operand.dtype.num, strides,
                           slots[operand.slot] + operand.offset, 0,
                           (cnp.NPY_ARRAY_WRITEABLE if written else 0) | cnp.NPY_ARRAY_ALIGNED, <object> NULL)


# --- bindings ---------------------------------------------------------------------------------------------------------

# An arena of at most so many bytes is kept from one call to the next.
cdef size_t KEPT_BYTES = 4 << 20


cdef class Arena:
    """The memory of one call: addresses of all slots, and what is computed on the way."""

    cdef char** slots
    cdef char* memory

    def __cinit__(self, Binding binding not None):
        self.slots = <char**> malloc(times(max(1, binding.slot_count), sizeof(char*)))
        self.memory = <char*> malloc(plus(binding.arena_bytes, 64))
        if self.slots == NULL or self.memory == NULL:
            raise MemoryError(f"no memory for {binding.arena_bytes:,} bytes of values")
        binding.place(self.slots, self.memory)

    def __dealloc__(self):
        free(self.slots)
        free(self.memory)


cdef class Binding:
    """Instructions with all sizes settled.

    instructions  in order
    slots         for each slot: an array (a constant), an int (its offset in the arena), or None (set by each call)
    arena_bytes   of the arena
    inputs        slots of the arrays that a call is given, in the order of the Signatures; None for one that is absent
    outputs       Operands that are all of their slots, C-contiguous: each call makes an array for each, in this order
    """

    cdef readonly list instructions
    cdef list arenas, kept
    cdef PyObject** steps
    cdef Py_ssize_t step_count, input_count, output_count
    cdef Py_ssize_t* input_slots
    cdef Py_ssize_t* output_slots
    cdef Py_ssize_t* offsets
    cdef char** fixed
    cdef readonly list outputs
    cdef readonly Py_ssize_t slot_count
    cdef readonly size_t arena_bytes
    cdef readonly double work

    def __cinit__(self, list instructions not None, list slots not None, size_t arena_bytes, list inputs not None,
                  list outputs not None):
        cdef Py_ssize_t i
        cdef Instruction step
        cdef cnp.ndarray constant
        self.instructions, self.arenas, self.kept = list(instructions), [], []
        self.arena_bytes, self.outputs = arena_bytes, outputs
        self.step_count, self.slot_count, self.input_count = len(instructions), len(slots), len(inputs)
        self.output_count = len(outputs)
        self.steps = <PyObject**> malloc(max(1, self.step_count) * sizeof(PyObject*))
        self.input_slots = <Py_ssize_t*> malloc(max(1, self.input_count) * sizeof(Py_ssize_t))
        self.output_slots = <Py_ssize_t*> malloc(max(1, self.output_count) * sizeof(Py_ssize_t))
        self.offsets = <Py_ssize_t*> malloc(max(1, self.slot_count) * sizeof(Py_ssize_t))
        self.fixed = <char**> malloc(max(1, self.slot_count) * sizeof(char*))
        if (self.steps == NULL or self.input_slots == NULL or self.output_slots == NULL or self.offsets == NULL
                or self.fixed == NULL):
            raise MemoryError()
        for i in range(self.step_count):
            step = <Instruction?> self.instructions[i]
            self.steps[i] = <PyObject*> step
            self.work += step.work
        for i in range(self.input_count):
            self.input_slots[i] = -1 if inputs[i] is None else self.slot(inputs[i])
        for i, slot in enumerate(slots):
            self.fixed[i], self.offsets[i] = NULL, -1
            if isinstance(slot, np.ndarray):
                constant = slot
                self.kept.append(constant)
                self.fixed[i] = <char*> cnp.PyArray_DATA(constant)
            elif slot is not None:
                self.offsets[i] = slot
                if not 0 <= self.offsets[i] <= <Py_ssize_t> arena_bytes:
                    refuse(f"slot {i}: offset {slot} in an arena of {arena_bytes}")
        for i in range(self.output_count):
            self.output_slots[i] = self.slot((<Operand?> outputs[i]).slot)

    cdef Py_ssize_t slot(self, number) except -1:
        if not 0 <= number < self.slot_count:
            refuse(f"slot {number}, expected 0 to {self.slot_count - 1}")
        return number

    def __dealloc__(self):
        free(self.steps)
        free(self.input_slots)
        free(self.output_slots)
        free(self.offsets)
        free(self.fixed)

    cdef void place(self, char** slots, char* memory) noexcept nogil:
        """The addresses of slots, of which some are in the arena: arena_bytes from the first multiple of 64 on."""
        cdef char* base = <char*> ((<size_t> memory + 63) & ~<size_t> 63)
        cdef Py_ssize_t i
        for i in range(self.slot_count):
            slots[i] = self.fixed[i]
            if slots[i] == NULL and self.offsets[i] >= 0:
                slots[i] = base + self.offsets[i]

    cdef list call(self, PyObject** inputs):
        """The outputs for these arrays, which have the shapes and dtypes that it was bound for, C-contiguous."""
        cdef Arena arena
        cdef Py_ssize_t i
        cdef list results = []
        cdef cnp.ndarray array
        cdef Operand operand
        try:
            arena = self.arenas.pop()
        except IndexError:
            arena = Arena(self)
        for i in range(self.input_count):
            if self.input_slots[i] >= 0:
                arena.slots[self.input_slots[i]] = <char*> cnp.PyArray_DATA(<cnp.ndarray> inputs[i])
        for operand in self.outputs:
            array = empty_of(operand)
            arena.slots[operand.slot] = <char*> cnp.PyArray_DATA(array)
            results.append(array)
        self.execute(arena.slots)
        if self.arena_bytes <= KEPT_BYTES:
            self.arenas.append(arena)
        return results

    cdef int execute(self, char** slots) except -1:
        cdef Py_ssize_t i
        cdef double since = 0
        cdef bint signals = self.work > WORK_BETWEEN_SIGNALS
        if self.work < WORK_WITH_GIL:
            for i in range(self.step_count):
                (<Instruction> self.steps[i]).run(slots)
            return 0
        with nogil:
            for i in range(self.step_count):
                (<Instruction> self.steps[i]).run(slots)
                since += (<Instruction> self.steps[i]).work
                if signals and since > WORK_BETWEEN_SIGNALS:
                    since = 0
                    if handler_raised():
                        with gil:
                            raise_handled()
        return 0


# --- programs inside programs -----------------------------------------------------------------------------------------


cdef class Body:
    """A Binding that runs inside another one's call, in memory of that one.

    table   an operand of the outer binding for the addresses of its slots: int64, one for each
    memory  one for its arena: bytes, 64 more than it has
    """

    cdef Binding binding
    cdef Place table, memory

    def __cinit__(self, Binding binding not None, Operand table not None, Operand memory not None):
        if table.size < binding.slot_count or memory.size < <Py_ssize_t> binding.arena_bytes + 64:
            refuse(f"{table} and {memory}, expected {binding.slot_count} and {binding.arena_bytes + 64} elements")
        place_of(table, cnp.NPY_INT64, "table", &self.table)
        place_of(memory, cnp.NPY_UINT8, "memory", &self.memory)
        self.binding = binding

    @property
    def results(self):
        """The operands of its outputs, in the binding's own slots."""
        return self.binding.outputs

    cdef char** prepare(self, char** slots) noexcept nogil:
        """The addresses of its slots, those that are set by each call apart."""
        cdef char** own = <char**> address(slots, self.table)
        self.binding.place(own, address(slots, self.memory))
        return own

    cdef int execute(self, char** own) except -1 nogil:
        cdef Py_ssize_t i
        for i in range(self.binding.step_count):
            (<Instruction> self.binding.steps[i]).run(own)
        return 0


# What an input of a body is given in each step.
cdef struct Feed:
    Py_ssize_t slot     # of the body
    int state           # the state whose value before the step it is, or -1
    Place place         # else where it is in the first step
    Py_ssize_t stride   # and how far the next step's is from there


# What becomes of an output of a body.
cdef struct Collect:
    Py_ssize_t slot
    int state           # the state whose value after the step it is, or -1
    Place place
    Py_ssize_t stride


cdef struct Carried:
    Place first, last
    Place buffers[2]
    Py_ssize_t nbytes


cdef class Repeat(Instruction):
    """A Scan or a Loop: a body run a number of times, states from one step to the next.

    states    (first, last, buffer, buffer): operands of a state's value before and after all steps, and of two others
              in turn
    feeds     for each input of the body (state, operand, stride): the number of a state or None; else the operand that
              it is in the first step, and the bytes from there to the next step's
    collects  the same for its outputs
    counter   an int64 operand that holds the number of the step, or None
    going     the number of the output that says whether there is another step, or None
    """

    cdef Body body
    cdef Py_ssize_t steps
    cdef Feed* feeds
    cdef Collect* collects
    cdef Carried* carried
    cdef int feed_count, collect_count, state_count, going
    cdef bint has_counter
    cdef Place counter

    def __cinit__(self, Body body not None, Py_ssize_t steps, list states not None, list feeds not None,
                  list collects not None, Operand counter=None, going=None):
        cdef int i
        self.body, self.steps = body, steps
        self.feed_count, self.collect_count, self.state_count = len(feeds), len(collects), len(states)
        if steps < 1 or len(feeds) != body.binding.input_count or len(collects) != body.binding.output_count:
            refuse(f"{steps} steps of {len(feeds)} inputs and {len(collects)} outputs, expected at least 1, "
                   f"{body.binding.input_count} and {body.binding.output_count}")
        self.feeds = <Feed*> malloc(max(1, self.feed_count) * sizeof(Feed))
        self.collects = <Collect*> malloc(max(1, self.collect_count) * sizeof(Collect))
        self.carried = <Carried*> malloc(max(1, self.state_count) * sizeof(Carried))
        if self.feeds == NULL or self.collects == NULL or self.carried == NULL:
            raise MemoryError()
        for i, (first, last, even, odd) in enumerate(states):
            place_of(first, first.dtype.num, "state", &self.carried[i].first)
            for other in (last, even, odd):
                if other.shape != first.shape:
                    refuse(f"{other}, expected the shape of {first}")
            place_of(last, first.dtype.num, "state", &self.carried[i].last)
            place_of(even, first.dtype.num, "state", &self.carried[i].buffers[0])
            place_of(odd, first.dtype.num, "state", &self.carried[i].buffers[1])
            self.carried[i].nbytes = first.size * first.itemsize
        for i, (state, operand, stride) in enumerate(feeds):
            self.feeds[i].slot, self.feeds[i].state = body.binding.input_slots[i], self.state_of(state)
            if operand is not None:
                self.feeds[i].place.slot, self.feeds[i].place.offset = operand.slot, operand.offset
            self.feeds[i].stride = stride
        for i, (state, operand, stride) in enumerate(collects):
            self.collects[i].slot = body.binding.output_slots[i]
            self.collects[i].state = self.state_of(state)
            if operand is not None:
                self.collects[i].place.slot, self.collects[i].place.offset = operand.slot, operand.offset
            self.collects[i].stride = stride
        self.has_counter, self.going = counter is not None, -1 if going is None else going
        if counter is not None:
            place_of(counter, cnp.NPY_INT64, "counter", &self.counter)
        self.work = body.binding.work * steps

    cdef int state_of(self, number) except -2:
        if number is None:
            return -1
        if not 0 <= number < self.state_count:
            refuse(f"state {number}, expected 0 to {self.state_count - 1}")
        return number

    def __dealloc__(self):
        free(self.feeds)
        free(self.collects)
        free(self.carried)

    cdef int run(self, char** slots) except -1 nogil:
        cdef char** own = self.body.prepare(slots)
        cdef double since = 0
        cdef Py_ssize_t step
        for step in range(self.steps):
            self.connect(slots, own, step)
            self.body.execute(own)
            since += self.body.binding.work
            if since > WORK_BETWEEN_SIGNALS:
                since = 0
                if handler_raised():
                    with gil:
                        raise_handled()
            if self.going >= 0 and own[self.collects[self.going].slot][0] == 0:
                return self.ended(slots, step)
        return 0

    cdef void connect(self, char** slots, char** own, Py_ssize_t step) noexcept nogil:
        """Set the addresses of the body's inputs and outputs for a step."""
        cdef int i
        cdef Feed* feed
        cdef Collect* collect
        if self.has_counter:
            (<cnp.npy_int64*> address(slots, self.counter))[0] = step
        for i in range(self.feed_count):
            feed = &self.feeds[i]
            if feed.slot < 0:
                continue
            if feed.state >= 0:
                own[feed.slot] = self.value(slots, feed.state, step)
            else:
                own[feed.slot] = address(slots, feed.place) + step * feed.stride
        for i in range(self.collect_count):
            collect = &self.collects[i]
            if collect.state >= 0:
                own[collect.slot] = self.value(slots, collect.state, step + 1)
            else:
                own[collect.slot] = address(slots, collect.place) + step * collect.stride

    cdef char* value(self, char** slots, int state, Py_ssize_t step) noexcept nogil:
        """Where a state's value before that step is."""
        if step == 0:
            return address(slots, self.carried[state].first)
        if step == self.steps:
            return address(slots, self.carried[state].last)
        return address(slots, self.carried[state].buffers[step & 1])

    cdef int ended(self, char** slots, Py_ssize_t step) except -1 nogil:
        """The step was the last, before all that there could be."""
        cdef int i
        if step + 1 == self.steps:
            return 0
        for i in range(self.collect_count):
            if self.collects[i].state < 0 and i != self.going:
                with gil:
                    raise Mismatch("steps")
        for i in range(self.state_count):
            memcpy(address(slots, self.carried[i].last), self.value(slots, i, step + 1), self.carried[i].nbytes)
        return 0


cdef class Choice(Instruction):
    """An If: one of two bodies.

    condition  a bool operand of one element
    feeds      for each body, an operand for each of its inputs
    outputs    operands of what either gives
    """

    cdef Place condition
    cdef list bodies
    cdef PyObject* sides[2]
    cdef Place* feeds[2]
    cdef Place* outputs
    cdef int output_count

    def __cinit__(self, Operand condition not None, list bodies not None, list feeds not None, list outputs not None):
        cdef int side, i
        cdef Body body
        if len(bodies) != 2 or len(feeds) != 2 or condition.size != 1:
            refuse(f"{len(bodies)} bodies and {condition}, expected two and one number")
        place_of(condition, cnp.NPY_BOOL, "condition", &self.condition)
        self.bodies, self.output_count = list(bodies), len(outputs)
        self.outputs = <Place*> malloc(max(1, len(outputs)) * sizeof(Place))
        for side in range(2):
            self.feeds[side] = <Place*> malloc(max(1, len(feeds[side])) * sizeof(Place))
        if self.outputs == NULL or self.feeds[0] == NULL or self.feeds[1] == NULL:
            raise MemoryError()
        for side in range(2):
            body = <Body?> bodies[side]
            self.sides[side] = <PyObject*> body
            if len(feeds[side]) != body.binding.input_count or len(outputs) != body.binding.output_count:
                refuse(f"{len(feeds[side])} inputs and {len(outputs)} outputs of a body")
            for i, operand in enumerate(feeds[side]):
                self.feeds[side][i].slot, self.feeds[side][i].offset = operand.slot, operand.offset
            for i, operand in enumerate(outputs):
                expected = <Operand> body.binding.outputs[i]
                if operand.shape != expected.shape or operand.dtype != expected.dtype:
                    refuse(f"{operand}, expected what the body gives, {expected}")
                place_of(operand, operand.dtype.num, "output", &self.outputs[i])
            self.work = max(self.work, body.binding.work)

    def __dealloc__(self):
        free(self.outputs)
        free(self.feeds[0])
        free(self.feeds[1])

    cdef int run(self, char** slots) except -1 nogil:
        cdef int side = 0 if address(slots, self.condition)[0] else 1
        return self.take(<Body> self.sides[side], self.feeds[side], slots)

    cdef int take(self, Body body, const Place* feeds, char** slots) except -1 nogil:
        cdef char** own = body.prepare(slots)
        cdef Py_ssize_t i
        for i in range(body.binding.input_count):
            if body.binding.input_slots[i] >= 0:
                own[body.binding.input_slots[i]] = address(slots, feeds[i])
        for i in range(self.output_count):
            own[body.binding.output_slots[i]] = address(slots, self.outputs[i])
        return body.execute(own)


cdef cnp.ndarray empty_of(Operand operand):
    cdef cnp.npy_intp[MAX_RANK] dims
    cdef int axis, D = <int> len(operand.shape)
    for axis in range(D):
        dims[axis] = operand.shape[axis]
    return cnp.PyArray_EMPTY(D, dims, <int> operand.dtype.num, 0)


# --- calls by shape ---------------------------------------------------------------------------------------------------


cdef enum:
    MOST_NUMBERS = 128  # of a signature


cdef class Signatures:
    """Bindings by the shapes of the arrays that a call is given.

    inputs   (name, dtype, rank, optional) of each
    states   (name, dtype, rank) of each state that a call may be given beside them: all or none
    outputs  names of what a binding returns: those of the outputs, then of the states after the call
    most     bindings that are kept; the one that was made first makes way for another

    A call is answered where its arrays are plain (exact arrays of the dtype, aligned and C-contiguous) and there is a
    binding for their shapes. Others get None, and the caller takes a way that knows what to do or what to say.
    """

    cdef tuple names, dtypes, ranks, optional, outputs, state_outputs
    cdef Py_ssize_t input_count, state_count
    cdef int* type_numbers
    cdef int* rank_numbers
    cdef readonly Py_ssize_t most
    cdef dict bindings

    def __cinit__(self, tuple inputs not None, tuple states not None, tuple outputs not None,
                  tuple state_outputs not None, Py_ssize_t most):
        cdef Py_ssize_t i
        self.names = tuple([entry[0] for entry in (*inputs, *states)])
        self.dtypes = tuple([np.dtype(entry[1]) for entry in (*inputs, *states)])
        self.ranks = tuple([int(entry[2]) for entry in (*inputs, *states)])
        self.optional = tuple([bool(entry[3]) for entry in inputs])
        self.input_count, self.state_count = len(inputs), len(states)
        self.outputs, self.state_outputs, self.most = outputs, state_outputs, most
        self.bindings = {}
        self.type_numbers = <int*> malloc(max(1, len(self.names)) * sizeof(int))
        self.rank_numbers = <int*> malloc(max(1, len(self.names)) * sizeof(int))
        if self.type_numbers == NULL or self.rank_numbers == NULL:
            raise MemoryError()
        for i in range(len(self.names)):
            self.type_numbers[i], self.rank_numbers[i] = self.dtypes[i].num, self.ranks[i]
        if sum(self.ranks) + len(self.names) + 1 > MOST_NUMBERS or len(self.names) > MOST_NUMBERS:
            refuse(f"{len(self.names)} arrays with {sum(self.ranks)} dimensions, expected fewer than {MOST_NUMBERS}")

    def __dealloc__(self):
        free(self.type_numbers)
        free(self.rank_numbers)

    def __len__(self):
        return len(self.bindings)

    def __contains__(self, bytes key not None):
        return key in self.bindings

    def key(self, list arrays not None, bint states_after):
        """The signature of these arrays, None for those that are absent."""
        cdef cnp.npy_intp numbers[MOST_NUMBERS]
        cdef Py_ssize_t n = 0
        if len(arrays) != len(self.names):
            refuse(f"{len(arrays)} arrays, expected {len(self.names)}")
        numbers[0] = states_after
        n = 1
        for rank, array in zip(self.ranks, arrays):
            if array is not None and array.ndim != rank:
                refuse(f"an array of shape {array.shape}, expected {rank} dimensions")
            numbers[n] = 0 if array is None else 1
            n += 1
            for size in () if array is None else array.shape:
                numbers[n] = size
                n += 1
        return PyBytes_FromStringAndSize(<char*> numbers, n * sizeof(cnp.npy_intp))

    @property
    def bound(self):
        """The bindings by signature."""
        return dict(self.bindings)

    def clear(self):
        """Keep none of them."""
        self.bindings.clear()

    def add(self, bytes key not None, Binding binding not None):
        """Keep a binding for a signature."""
        if len(self.bindings) >= self.most:
            self.bindings.pop(next(iter(self.bindings)), None)
        self.bindings[key] = binding

    def call(self, dict given not None, dict states, bint states_after):
        """(outputs by name, states after by name or None); None where the call is not plain or has no binding."""
        cdef cnp.npy_intp numbers[MOST_NUMBERS]
        cdef PyObject* arrays[MOST_NUMBERS]
        cdef PyObject* array
        cdef Py_ssize_t i, n = 1, taken = 0
        cdef int axis
        cdef Binding binding
        numbers[0] = states_after
        for i in range(self.input_count + self.state_count):
            if i < self.input_count:
                array = PyDict_GetItem(given, self.names[i])
            else:
                array = NULL if states is None else PyDict_GetItem(states, self.names[i])
            if array == NULL or array == <PyObject*> None:
                if (i < self.input_count and not self.optional[i]) or (i >= self.input_count and states is not None):
                    return None
                arrays[i] = NULL
                numbers[n] = 0
                n += 1
                continue
            if not is_plain(<object> array, self.type_numbers[i], self.rank_numbers[i]):
                return None
            taken += 1
            arrays[i] = array
            numbers[n] = 1
            n += 1
            for axis in range(self.rank_numbers[i]):
                numbers[n] = cnp.PyArray_DIM(<cnp.ndarray> array, axis)
                n += 1
        if taken != len(given) + (0 if states is None else len(states)):
            return None
        binding = self.bindings.get(PyBytes_FromStringAndSize(<const char*> numbers, n * sizeof(cnp.npy_intp)))
        if binding is None:
            return None
        return self.named(binding.call(arrays), states_after)

    cdef named(self, list arrays, bint states_after):
        cdef dict outputs = {}, after = None
        cdef Py_ssize_t i, n = len(self.outputs)
        for i in range(n):
            outputs[self.outputs[i]] = arrays[i]
        if states_after:
            after = {}
            for i in range(len(self.state_outputs)):
                after[self.state_outputs[i]] = arrays[n + i]
        return outputs, after


cdef bint is_plain(array, int type_number, int rank):
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(array) == type_number
            and cnp.PyArray_NDIM(array) == rank and cnp.PyArray_ISCARRAY_RO(array))
