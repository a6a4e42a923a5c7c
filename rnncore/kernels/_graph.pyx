# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Walking a graph: one step after the other takes values by name and puts its own beside them.

A step is called with (values, before, after): the dict of values, the recurrent layers' states before, and a dict
that receives those after. OpStep is the step of an op; what other nodes are is called as it is.
"""

from cpython.dict cimport PyDict_DelItem, PyDict_Contains

from rnncore.errors import InputError, RnncoreError


cdef class OpStep:
    """run, called with the values of ``inputs`` (None for ""), gives those of ``names``.

    label   how errors name the node
    packed  weights that are kept packed: name -> what unpacks a copy
    """

    cdef object run
    cdef tuple inputs, names
    cdef str label, first, second, only
    cdef readonly dict packed

    def __cinit__(self, run, tuple inputs not None, tuple names not None, str label not None, dict packed not None):
        self.run, self.inputs, self.names, self.label, self.packed = run, inputs, names, label, packed
        self.first = inputs[0] if len(inputs) in (1, 2) and "" not in inputs else None
        self.second = inputs[1] if len(inputs) == 2 else None
        self.only = names[0] if len(names) == 1 else None

    def __call__(self, dict values not None, before, after):
        self.walk(values)

    cdef int walk(self, dict values) except -1:
        try:
            if self.first is None:
                found = self.run(*[values[name] if name else None for name in self.inputs])
            elif self.second is None:
                found = self.run(values[self.first])
            else:
                found = self.run(values[self.first], values[self.second])
        except (ValueError, IndexError, OverflowError) as error:
            raise self.refused(error, values) from None
        if self.only is None:
            values.update(zip(self.names, found, strict=True))
        elif isinstance(found, (tuple, list)):
            values[self.only] = found[0]
        else:
            values[self.only] = found
        return 0

    cdef refused(self, error, dict values):
        """What is raised for an error of ``run``."""
        if isinstance(error, InputError):
            return InputError(f"{self.label}: {error}")
        if isinstance(error, RnncoreError):
            return error
        shapes = ", ".join([str(values[name].shape) for name in self.inputs if values.get(name) is not None])
        return InputError(f"{self.label}: inputs of shape {shapes}: {error}")


def walk(list steps not None, list unread not None, dict values not None, before, after):
    """Take every step; behind each the values that it lists in ``unread`` are dropped where they are."""
    cdef Py_ssize_t place
    cdef tuple names
    for place in range(len(steps)):
        step = steps[place]
        if type(step) is OpStep:
            (<OpStep> step).walk(values)
        else:
            step(values, before, after)
        names = <tuple> unread[place]
        for name in names:
            if PyDict_Contains(values, name):
                PyDict_DelItem(values, name)
