# cython: language_level=3
"""Looking for signals in the middle of a call."""

from cpython.exc cimport PyErr_CheckSignals


cdef extern from "native/scratch.h":
    void* rnncore_set_scratch_aside() nogil
    void rnncore_take_scratch_back(void* aside) nogil


cdef inline int check_signals() except -1:
    """Run the handlers of signals that came; they may call models, so this thread's scratch is set aside meanwhile."""
    cdef void* aside = rnncore_set_scratch_aside()
    try:
        PyErr_CheckSignals()
    finally:
        rnncore_take_scratch_back(aside)
    return 0


cdef inline int handler_raised(void* pending) noexcept nogil:
    """Whether a signal handler raised, in work that cannot; the exception then waits in the list ``pending``."""
    with gil:
        try:
            check_signals()
        except BaseException as error:
            (<list> <object> pending).append(error)
            return True
    return False
