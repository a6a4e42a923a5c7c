# cython: language_level=3
"""Bound programs: what an instruction is, for the modules whose kernels become one."""


cdef class Operand:
    """An array of a bound program: in the memory of a slot, ``offset`` bytes from its beginning. Strides in bytes."""
    cdef readonly Py_ssize_t slot, offset, size, itemsize
    cdef readonly tuple shape, strides
    cdef readonly object dtype
    cdef readonly bint dense    # C-contiguous


# Where an operand is, for code without Python objects.
cdef struct Place:
    Py_ssize_t slot, offset


cdef inline char* address(char** slots, Place place) noexcept nogil:
    return slots[place.slot] + place.offset


# The place of a C-contiguous operand of NumPy's type of that number; InputError for another one.
cdef int place_of(Operand operand, int type_number, str name, Place* place) except -1


cdef class Instruction:
    """One step of a bound program: a kernel with its operands. Immutable, and called by several threads at once."""
    cdef public double work     # multiply-adds, or what takes as long

    # Reads and writes memory of the slots, all of which hold what the operands say.
    cdef int run(self, char** slots) except -1 nogil
