# cython: language_level=3
"""Checks of every compiled entry's arguments, before code without bounds checks sees them.

An entry checks types, ranks, sizes and the range of indices here, and hands them on as numbers and pointers. All raise
InputError, which says what was found and what was expected. Sizes of memory are made by times and plus alone.
"""

from libc.stdint cimport int64_t

cimport numpy as cnp


cdef extern from "runtime/sizes.h":
    size_t times "rnncore_times"(size_t a, size_t b) noexcept nogil
    size_t plus "rnncore_plus"(size_t a, size_t b) noexcept nogil


cdef enum:
    MAX_RANK = 64  # of NumPy's arrays


cdef inline int refuse(message) except -1:
    from rnncore.errors import InputError
    raise InputError(message)


cdef inline int check_type(cnp.ndarray array, int type_number, str name) except -1:
    """An aligned array of NumPy's type of that number, in the machine's byte order."""
    if cnp.PyArray_TYPE(array) != type_number or not cnp.PyArray_ISBEHAVED_RO(array):
        refuse(f"{name}: {'unaligned or byte-swapped ' * (cnp.PyArray_TYPE(array) == type_number)}"
               f"{array.dtype}, expected {cnp.PyArray_DescrFromType(type_number)}")
    return 0


cdef inline int check_dense(cnp.ndarray array, int type_number, int ndim, str name) except -1:
    """The same, C-contiguous and of that rank."""
    check_type(array, type_number, name)
    if cnp.PyArray_NDIM(array) != ndim or not cnp.PyArray_ISCARRAY_RO(array):
        refuse(f"{name}: {'' if cnp.PyArray_ISCARRAY_RO(array) else 'not contiguous, '}"
               f"shape {(<object> array).shape}, expected {ndim} dimensions, C-contiguous")
    return 0


cdef inline cnp.ndarray as_dense(cnp.ndarray array, int type_number, str name):
    """The array of that type, a copy if it is not aligned, C-contiguous and in the machine's byte order."""
    if cnp.PyArray_TYPE(array) != type_number:
        check_type(array, type_number, name)
    if cnp.PyArray_ISCARRAY_RO(array):
        return array
    return cnp.PyArray_FROMANY(array, type_number, 0, 0, cnp.NPY_ARRAY_CARRAY_RO)


cdef inline int check_writable(cnp.ndarray array, str name) except -1:
    if not cnp.PyArray_ISWRITEABLE(array):
        refuse(f"{name}: a read-only array, expected one that may be written to")
    return 0


cdef inline int check_arrays(tuple states, Py_ssize_t count, str name) except -1:
    """As many arrays as a cell has states, or none."""
    if len(states) > 0 and len(states) != count:
        refuse(f"{name}: {len(states)} states, expected {count} or none")
    for state in states:
        if not isinstance(state, cnp.ndarray):  # None would pass for an array where one is declared
            refuse(f"{name}: {type(state).__name__}, expected arrays")
    return 0


cdef inline int check_shape1(cnp.ndarray array, Py_ssize_t a, str name) except -1:
    if cnp.PyArray_NDIM(array) != 1 or cnp.PyArray_DIM(array, 0) != a:
        refuse(f"{name}: shape {(<object> array).shape}, expected {(a,)}")
    return 0


cdef inline int check_shape2(cnp.ndarray array, Py_ssize_t a, Py_ssize_t b, str name) except -1:
    if cnp.PyArray_NDIM(array) != 2 or cnp.PyArray_DIM(array, 0) != a or cnp.PyArray_DIM(array, 1) != b:
        refuse(f"{name}: shape {(<object> array).shape}, expected {(a, b)}")
    return 0


cdef inline int check_shape3(cnp.ndarray array, Py_ssize_t a, Py_ssize_t b, Py_ssize_t c, str name) except -1:
    if (cnp.PyArray_NDIM(array) != 3 or cnp.PyArray_DIM(array, 0) != a or cnp.PyArray_DIM(array, 1) != b
            or cnp.PyArray_DIM(array, 2) != c):
        refuse(f"{name}: shape {(<object> array).shape}, expected {(a, b, c)}")
    return 0


cdef inline int check_range(const int64_t* values, Py_ssize_t n, int64_t least, int64_t most, str name) except -1:
    """n integers from ``least`` to ``most``."""
    cdef Py_ssize_t i
    for i in range(n):
        if values[i] < least or values[i] > most:
            refuse(f"{name}: {values[i]} at {i}, expected {least} to {most}")
    return 0


cdef inline int check_rows(cnp.ndarray order, cnp.ndarray lengths, cnp.ndarray steps, Py_ssize_t B,
                           Py_ssize_t T) except -1:
    """order, lengths (B) and steps (B, T), or None, of Sequences: places of rows, valid steps of each in falling order,
    and their times. lengths come with an order, steps with lengths."""
    cdef const int64_t* counts
    cdef Py_ssize_t row
    if (order is None) != (lengths is None) or (lengths is None and steps is not None):
        refuse("order, lengths, steps: expected none, the first two, or all")
    if order is None:
        return 0
    check_dense(order, cnp.NPY_INT64, 1, "order")
    check_shape1(order, B, "order")
    check_range(<const int64_t*> cnp.PyArray_DATA(order), B, 0, B - 1, "order")
    check_dense(lengths, cnp.NPY_INT64, 1, "lengths")
    check_shape1(lengths, B, "lengths")
    counts = <const int64_t*> cnp.PyArray_DATA(lengths)
    check_range(counts, B, 0, T, "lengths")
    for row in range(1, B):
        if counts[row] > counts[row - 1]:
            refuse(f"lengths: {counts[row]} at {row} after {counts[row - 1]}, expected falling lengths")
    if steps is not None:
        check_dense(steps, cnp.NPY_INT64, 2, "steps")
        check_shape2(steps, B, T, "steps")
        check_range(<const int64_t*> cnp.PyArray_DATA(steps), B * T, 0, T - 1, "steps")
    return 0


cdef inline object checked_size(value, str name, least=1):
    """An integer of a descriptor, as a Python integer: from ``least`` on, and below 2^48, so that sums of a few of them
    and what they are multiplied by fit 63 bits."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        refuse(f"{name}: {value!r}, expected an integer")
    number = value.__index__()
    if not least <= number < 281474976710656:
        refuse(f"{name}: {number}, expected {least} to 2^48 - 1")
    return number


cdef inline tuple checked_sizes(values, str name, Py_ssize_t count, least=1):
    """So many of them."""
    sizes = tuple([checked_size(size, name, least) for size in values])
    if len(sizes) != count:
        refuse(f"{name}: {sizes}, expected {count} integers")
    return sizes
