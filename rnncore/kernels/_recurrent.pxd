# cython: language_level=3
"""Calls of a stack whose states are kept: what _recurrent gives to other compiled modules."""

from libc.stdint cimport int64_t


# A call of a forward stack whose states are kept, and changed in place. Strides count elements; the last
# dimension of x and y is dense. order and lengths are those of Sequences. Row b of the sorted batch has its states at
# row slots[b] of h and c, (layers, state_batch, size); with slots NULL at the row of x. A call of more than
# steps_between_signals steps of all its rows can be interrupted; the exception leaves h and c half changed.
cdef struct StateCall:
    Py_ssize_t B, T
    Py_ssize_t x_batch, x_time
    Py_ssize_t y_batch, y_time
    const int64_t* order
    const int64_t* lengths
    const int64_t* slots
    Py_ssize_t state_batch
    const float* x
    float* y
    float* h
    float* c


cdef int run_states(object stack, StateCall* given, int threads) except -1
cdef double steps_between_signals(object stack) except -1

# InputError unless a stack of one direction takes such inputs and has states of these shapes (c: None for none).
cdef int check_stack_states(object stack, Py_ssize_t input_size, Py_ssize_t batch, h, c) except -1
