# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Walking a graph: one step after the other takes values by name and puts its own beside them.

A step is called with (values, before, after): the dict of values, the recurrent layers' states before, and a dict
that receives those after. OpStep is the step of an op; what other nodes are is called as it is.

Whatever a step raises that is not rnncore's own becomes an InputError which names the node: of a step that is no
OpStep, if it has a ``label``. Its cause stands behind it where it is not one that arrays of a wrong shape have. What
a signal's handler raises passes as it is.
"""

import math
import signal
from bisect import bisect_left

import numpy as np

cimport numpy as cnp
from cpython.dict cimport PyDict_Contains, PyDict_DelItem

from rnncore.errors import InputError, RnncoreError, SpecError

cnp.import_array()


cdef class OpStep:
    """run, called with the values of ``inputs`` (None for ""), gives those of ``names``.

    label   how errors name the node
    packed  weights that are kept packed: name -> what unpacks a copy
    parted  what calls run, parted(run, *values), where one of the values has more than ``elements``; or None
    """

    cdef readonly object run
    cdef object parted
    cdef Py_ssize_t elements
    cdef tuple inputs, names
    cdef str label, first, second, only
    cdef readonly dict packed

    def __cinit__(self, run, tuple inputs not None, tuple names not None, str label not None, dict packed not None,
                  parted=None, Py_ssize_t elements=0):
        self.run, self.inputs, self.names, self.label, self.packed = run, inputs, names, label, packed
        self.first = inputs[0] if len(inputs) in (1, 2) and "" not in inputs else None
        self.second = inputs[1] if len(inputs) == 2 else None
        self.only = names[0] if len(names) == 1 else None
        self.parted, self.elements = parted, elements

    def __call__(self, dict values not None, before, after):
        self.walk(values)

    cdef int walk(self, dict values) except -1:
        try:
            if self.parted is not None and self.is_long(values):
                found = self.parted(self.run, *[values[name] if name else None for name in self.inputs])
            elif self.first is None:
                found = self.run(*[values[name] if name else None for name in self.inputs])
            elif self.second is None:
                found = self.run(values[self.first])
            else:
                found = self.run(values[self.first], values[self.second])
        except Exception as error:
            refused(self.label, error, [values.get(name) for name in self.inputs])
        if self.only is None:
            values.update(zip(self.names, found, strict=True))
        elif isinstance(found, (tuple, list)):
            values[self.only] = found[0]
        else:
            values[self.only] = found
        return 0

    cdef bint is_long(self, dict values) except -1:
        """Whether one of the values has more than ``elements``."""
        for name in self.inputs:
            value = values[name] if name else None
            if cnp.PyArray_Check(value) and cnp.PyArray_SIZE(value) > self.elements:
                return True
        return False


cdef refused(str label, error, list arrays):
    """Raises what stands for an error of a step that was given these arrays."""
    if of_handler(error):
        raise error
    if isinstance(error, (InputError, SpecError)):  # a SpecError of what only these sizes contradict
        raise InputError(f"{label}: {error}") from None
    if isinstance(error, (RnncoreError, Warning)):
        raise error
    shapes = ", ".join([str(array.shape) for array in arrays if array is not None])
    given = f"{label}: inputs of shape {shapes}: " if shapes else f"{label}: "
    if isinstance(error, MemoryError):
        raise InputError(given + too_large(error)) from None
    if isinstance(error, (ValueError, IndexError, OverflowError)):
        raise InputError(given + str(error)) from None
    raise InputError(f"{given}{type(error).__name__}: {error}") from error


cdef bint of_handler(error):
    """Whether the error was raised by a handler of the caller's for a signal that came meanwhile."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = [getattr(function, "__code__", None) for function in handlers if callable(function)]
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


cdef str too_large(error):
    """What a message says of a MemoryError: NumPy's own knows the array that there is no room for."""
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    if shape is None or dtype is None:
        return str(error) or "not enough memory"
    return f"would need {math.prod(shape) * dtype.itemsize:,} bytes for {dtype} {tuple(shape)}, more than there is"


def walk(list steps not None, list unread, dict values not None, before, after):
    """Take every step; behind each the values that it lists in ``unread``, if there is one, are dropped."""
    cdef Py_ssize_t place
    cdef tuple names
    if unread is not None and len(unread) != len(steps):
        raise ValueError(f"unread: {len(unread)} entries, expected {len(steps)}")
    for place in range(len(steps)):
        step = steps[place]
        if type(step) is OpStep:
            (<OpStep> step).walk(values)
        else:
            try:
                step(values, before, after)
            except Exception as error:
                label = getattr(step, "label", None)
                if label is None or isinstance(error, RnncoreError):
                    raise
                refused(label, error, [])
        if unread is not None:
            names = <tuple?> unread[place]
            for name in names:
                if PyDict_Contains(values, name):
                    PyDict_DelItem(values, name)


def unalias(tuple names not None, dict values not None, list kept not None):
    """The values of these names; each that may share memory with another, or with an array of ``kept``, is a copy.

    None in ``kept`` stands for nothing. Takes n log n of time for n arrays.
    """
    cdef dict outputs = {}
    cdef Spans spans = Spans()
    for array in kept:
        if array is not None:
            spans.take(array, True)
    for name in names:
        array = values[name]
        if type(array) is not cnp.ndarray:
            array = np.asarray(array)  # some functions of NumPy give a number for an array of rank 0
        if not spans.take(array, False):
            array = array.copy()
            spans.take(array, True)
        outputs[name] = array
    return outputs


cdef class Spans:
    """The memory of some arrays, from each one's first byte to its last: spans that do not meet, in order."""

    cdef list begins, ends

    def __cinit__(self):
        self.begins, self.ends = [], []

    cdef int take(self, cnp.ndarray array, bint always) except -1:
        """Add an array's memory. False where it may have bytes in common with what is there, which stays as it is
        unless ``always`` says otherwise."""
        cdef size_t begin = <size_t> cnp.PyArray_DATA(array), end = begin + cnp.PyArray_ITEMSIZE(array)
        cdef Py_ssize_t stride, place
        cdef int axis
        cdef bint new = True
        if cnp.PyArray_SIZE(array) == 0:
            return True
        for axis in range(cnp.PyArray_NDIM(array)):
            stride = cnp.PyArray_STRIDE(array, axis) * (cnp.PyArray_DIM(array, axis) - 1)
            if stride < 0:
                begin += stride
            else:
                end += stride
        place = bisect_left(self.ends, begin + 1)  # the first span that ends behind the beginning
        while place < len(self.begins) and <size_t> self.begins[place] < end:
            new = False
            if not always:
                return False
            begin, end = min(begin, <size_t> self.begins[place]), max(end, <size_t> self.ends[place])
            del self.begins[place], self.ends[place]
        self.begins.insert(place, begin)
        self.ends.insert(place, end)
        return new
