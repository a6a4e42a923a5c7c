# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""Threads, scratch memory, signals and the choice of an instruction set: once in a process, for all compiled modules.

See _runtime.pxd for what they use of it.
"""

import os

from cpython.exc cimport PyErr_CheckSignals

from rnncore.kernels._checks cimport refuse

from rnncore.errors import UnsupportedError


cdef extern from "runtime/threads.h":
    void rnncore_run_threads(int threads, rnncore_task* task, void* argument) noexcept nogil
    int rnncore_ask_threads(int threads) noexcept nogil
    int rnncore_asked_threads(int of_model) noexcept nogil
    void rnncore_barrier_arrive(rnncore_barrier* barrier, int index) noexcept nogil
    void rnncore_barrier_wait(rnncore_barrier* barrier, int index, int threads) noexcept nogil
    void rnncore_barrier_end(const rnncore_barrier* barrier, int index) noexcept nogil
    Py_ssize_t rnncore_await(const Py_ssize_t* count, Py_ssize_t least, const Py_ssize_t* stop) noexcept nogil

cdef extern from "runtime/scratch.h":
    void* rnncore_scratch(size_t size) noexcept nogil
    void* rnncore_set_scratch_aside() noexcept nogil
    void rnncore_take_scratch_back(void* aside) noexcept nogil

cdef extern from "isa/isas.h":
    const char** rnncore_isa_names
    int rnncore_isa_usable(const char* name) noexcept nogil


cdef void run_threads(int threads, rnncore_task* task, void* argument) noexcept nogil:
    rnncore_run_threads(threads, task, argument)


cdef int threads_of(int of_model) noexcept nogil:
    return max(1, min(rnncore_asked_threads(of_model), <int> RNNCORE_MAX_THREADS))


cdef void barrier_arrive(rnncore_barrier* barrier, int index) noexcept nogil:
    rnncore_barrier_arrive(barrier, index)


cdef void barrier_wait(rnncore_barrier* barrier, int index, int threads) noexcept nogil:
    rnncore_barrier_wait(barrier, index, threads)


cdef void barrier_end(const rnncore_barrier* barrier, int index) noexcept nogil:
    rnncore_barrier_end(barrier, index)


cdef Py_ssize_t await_count(const Py_ssize_t* count, Py_ssize_t least, const Py_ssize_t* stop) noexcept nogil:
    return rnncore_await(count, least, stop)


def ask_threads(int threads):
    """The calling thread's calls use ``threads`` threads from now on; 0: as models say. Returns the number before."""
    if threads < 0:
        refuse(f"threads={threads}, expected 0 or more")
    return rnncore_ask_threads(threads)


cdef void* scratch_memory(size_t size) noexcept nogil:
    return rnncore_scratch(size)


# Exceptions of signal handlers, on their way to the call whose work they ended. Handlers run in one thread, and a call
# inside of a handler takes what it finds last.
cdef list handled = []


cdef int check_signals() except -1:
    cdef void* aside = rnncore_set_scratch_aside()
    try:
        PyErr_CheckSignals()
    finally:
        rnncore_take_scratch_back(aside)
    return 0


cdef int handler_raised() noexcept nogil:
    with gil:
        try:
            check_signals()
        except BaseException as error:
            handled.append(error)
            return True
    return False


cdef int raise_handled() except -1:
    raise handled.pop()


cdef int number = 0


cdef int isa_number() noexcept nogil:
    return number


cdef list built_isas():
    """Names of the instruction sets that this build has, best first."""
    names = []
    while rnncore_isa_names[len(names)] != NULL:
        names.append(rnncore_isa_names[len(names)].decode())
    return names


def usable_isas():
    """Names of the instruction sets that this build has and this machine can run, best first."""
    return [name for name in built_isas() if rnncore_isa_usable(name.encode())]


def choose_isa(str name):
    """Use the instruction set of that name, or the best one; what was packed before must not be run any more.

    UnsupportedError where the machine cannot run it.
    """
    global number
    names = usable_isas()
    if name is not None and name not in names:
        raise UnsupportedError(f"instruction set {name!r}: this machine and build run {', '.join(names)} and blas")
    number = built_isas().index(names[0] if name is None else name)


def current_isa():
    """Name of the instruction set in use."""
    return rnncore_isa_names[number].decode()


choose_isa(None if os.environ.get("RNNCORE_ISA", "") in ("", "blas") else os.environ["RNNCORE_ISA"])
