/* The threads that kernels share their work among, one pool of them in a process, and the barrier they meet at.
 *
 * Lazy: threads start at the first call that wants them. A worker that has nothing to do spins briefly, then sleeps.
 * One call has the pool at a time; another that comes meanwhile does its work alone, with the same result. After a
 * fork the child begins with an empty pool. */
#ifndef RNNCORE_THREADS_H
#define RNNCORE_THREADS_H

#include <stddef.h>

#define RNNCORE_MAX_THREADS 64

typedef void rnncore_task(int index, int threads, void *argument);

/* Runs task(0..threads-1, threads, argument), the caller as 0, and returns when all are done. With the pool busy, or
 * threads <= 1, or no thread to be had: task(0, 1, argument). */
void rnncore_run_threads(int threads, rnncore_task *task, void *argument);

/* How many threads the calls of the calling thread ask for from now on: 0 for what their models say. Returns the number
 * before. And what that makes of a model's own number. */
int rnncore_ask_threads(int threads);
int rnncore_asked_threads(int of_model);

/* A word that one thread writes while others read it. */
static inline void rnncore_put(ptrdiff_t *word, ptrdiff_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }
static inline ptrdiff_t rnncore_get(const ptrdiff_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

/* Meeting point of the threads of one task; all but patience is set to zero before the task starts. */
typedef struct {
    long long patience; /* nanoseconds by which a thread's part of a step may take longer than another's */
    struct {
        _Alignas(64) unsigned step;
        int core;        /* where the thread arrived, from 1 on; 0 before it did, or where it is unknown */
        unsigned moves;  /* how often it left a core that it shared */
        unsigned shared; /* its waits for a thread on its own core, which it could not leave */
    } at[RNNCORE_MAX_THREADS];
} rnncore_barrier;

/* A meeting has two halves, between which a thread may do what concerns no other thread: it arrives, and then waits until all
 * ``threads`` have arrived as often as this one. What was written before an arrival is seen after the wait. */
void rnncore_barrier_arrive(rnncore_barrier *barrier, int index);
void rnncore_barrier_wait(rnncore_barrier *barrier, int index, int threads);

/* Called by each thread after its last meeting: notes whether it had a core of its own. */
void rnncore_barrier_end(const rnncore_barrier *barrier, int index);

/* A count of steps that one thread raises while another waits for them. What was written before is seen after. */
static inline void rnncore_publish(ptrdiff_t *count, ptrdiff_t value) { __atomic_store_n(count, value, __ATOMIC_RELEASE); }

/* Returns the count once it is at least ``least``, or as it is once *stop is not zero. */
ptrdiff_t rnncore_await(const ptrdiff_t *count, ptrdiff_t least, const ptrdiff_t *stop);

#endif
