# cython: language_level=3
"""Shared by all compiled modules: threads, scratch memory, signals, the choice of an instruction set.

Each exists once in a process, in _runtime, and others reach it by cimport. C code of theirs is handed what it needs of
it as an argument, a pointer to a function or to memory, so that no two extensions link the same object.
"""

cdef extern from "runtime/threads.h":
    enum:
        RNNCORE_MAX_THREADS
    ctypedef void rnncore_task(int index, int threads, void* argument) noexcept nogil
    ctypedef struct rnncore_barrier:
        long long patience
    void rnncore_put(Py_ssize_t* word, Py_ssize_t value) noexcept nogil
    Py_ssize_t rnncore_get(const Py_ssize_t* word) noexcept nogil
    void rnncore_publish(Py_ssize_t* count, Py_ssize_t value) noexcept nogil

cdef extern from "runtime/watch.h":
    ctypedef struct rnncore_watch:
        int (*look)() noexcept nogil
        double between, left
        int stopped

cdef extern from "runtime/floating.h":
    unsigned rnncore_flush_subnormals() noexcept nogil
    void rnncore_restore_subnormals(unsigned before) noexcept nogil

# Threads: see runtime/threads.h. threads_of says how many a call may use, 1 to RNNCORE_MAX_THREADS, where its model was
# made with ``of_model``.
cdef void run_threads(int threads, rnncore_task* task, void* argument) noexcept nogil
cdef int threads_of(int of_model) noexcept nogil
cdef void barrier_arrive(rnncore_barrier* barrier, int index) noexcept nogil
cdef void barrier_wait(rnncore_barrier* barrier, int index, int threads) noexcept nogil
cdef void barrier_end(const rnncore_barrier* barrier, int index) noexcept nogil
cdef Py_ssize_t await_count(const Py_ssize_t* count, Py_ssize_t least, const Py_ssize_t* stop) noexcept nogil

# Memory that the calling thread keeps: see runtime/scratch.h.
cdef void* scratch_memory(size_t size) noexcept nogil

# Run the handlers of signals that came; they may call models, so this thread's scratch is set aside meanwhile. In work
# that cannot raise, handler_raised says whether one did, and raise_handled raises that exception once the work is over.
cdef int check_signals() except -1
cdef int handler_raised() noexcept nogil
cdef int raise_handled() except -1

# The number of the instruction set in use, in the order of isa/isas.h.
cdef int isa_number() noexcept nogil
