#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* About 50 microseconds of pauses before a waiting thread gives its core away. */
enum { SPINS = 1000 };

/* Looks at a meeting before the first pause, as who is nearly there should not be kept waiting; and before it counts as
 * a slow one. */
enum { EAGER = 50, SLOW = 250 };

/* Threads that meet after every step need a core each. Where somebody else wants the cores, a meeting takes as long as
 * the scheduler's turn, or the threads share one core and wait for each other. After so many late meetings in one call,
 * or a quarter of all its threads' time in slow ones, calls are made by one thread for a while, and each time that this
 * happens again for twice as long. The first meeting is never late: a thread may have to wake up. */
enum { LATE_MEETINGS = 4, LATE = 300000, ALONE_LEAST = 1000000, ALONE_MOST = 500000000 }; /* nanoseconds */

static struct {
    pthread_mutex_t busy;  /* held by the call that has the pool */
    pthread_mutex_t sleep; /* guards the condition, and a worker's decision to sleep */
    pthread_cond_t wake;
    int started;           /* workers that exist: indices 1..started */
    int forks_watched;
    rnncore_task *task;
    void *argument;
    atomic_uint generation; /* tasks so far, times 256, plus the threads of the last: a worker starts when it changes */
    atomic_uint done;       /* workers of the current task that have finished */
    atomic_uint late;       /* meetings that took a scheduler's turn, in the current task */
    atomic_llong waited;    /* nanoseconds of its threads in meetings that were not soon over */
    atomic_llong alone;     /* until then calls use one thread; 0 for now */
    long long alone_for;    /* how long that was the last time; guarded by busy */
} pool = {.busy = PTHREAD_MUTEX_INITIALIZER, .sleep = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static long long nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* Waits until *value is not ``old``; returns the new value. */
static unsigned await_change(atomic_uint *value, unsigned old) {
    for (int i = 0; i < SPINS; i++) {
        const unsigned now = atomic_load_explicit(value, memory_order_acquire);
        if (now != old) return now;
        PAUSE();
    }
    pthread_mutex_lock(&pool.sleep);
    unsigned now;
    while ((now = atomic_load_explicit(value, memory_order_acquire)) == old) pthread_cond_wait(&pool.wake, &pool.sleep);
    pthread_mutex_unlock(&pool.sleep);
    return now;
}

typedef struct {
    int index;
    unsigned seen;
} worker_start;

static void *worker(void *given) {
    const worker_start start = *(worker_start *)given;
    free(given);
    unsigned seen = start.seen;
    for (;;) {
        seen = await_change(&pool.generation, seen);
        /* task and argument stay as they are until this worker has counted itself done; one that the task does not
         * need is not waited for, and so may look at nothing but the word it read */
        const int threads = (int)(seen & 255);
        if (start.index < threads) {
            pool.task(start.index, threads, pool.argument);
            atomic_fetch_add_explicit(&pool.done, 1, memory_order_release);
        }
    }
    return NULL;
}

/* The child of a fork has no workers, and nobody holds its locks. */
static void after_fork_in_child(void) {
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.sleep, NULL);
    pthread_cond_init(&pool.wake, NULL);
    pool.started = 0;
    atomic_store(&pool.generation, 0);
}

static int start_workers(int wanted) {
    if (!pool.forks_watched) {
        pthread_atfork(NULL, NULL, after_fork_in_child);
        pool.forks_watched = 1;
    }
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes)) return pool.started;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.started < wanted) {
        worker_start *start = malloc(sizeof *start);
        pthread_t thread;
        if (start == NULL) break;
        *start = (worker_start){pool.started + 1, atomic_load(&pool.generation)};
        if (pthread_create(&thread, &attributes, worker, start)) {
            free(start);
            break;
        }
        pool.started++;
    }
    pthread_attr_destroy(&attributes);
    return pool.started;
}

/* Whether the cores are wanted elsewhere, by what the last calls met with. */
static int crowded(void) {
    const long long until = atomic_load_explicit(&pool.alone, memory_order_relaxed);
    if (until == 0) return 0;
    if (nanoseconds() < until) return 1;
    atomic_store_explicit(&pool.alone, 0, memory_order_relaxed);
    return 0;
}

static _Thread_local int asked;

int rnncore_ask_threads(int threads) {
    const int before = asked;
    asked = threads;
    return before;
}

int rnncore_asked_threads(int of_model) { return asked ? asked : of_model; }

void rnncore_pool_run(int threads, rnncore_task *task, void *argument) {
    if (threads > RNNCORE_MAX_THREADS) threads = RNNCORE_MAX_THREADS;
    if (threads <= 1 || crowded() || pthread_mutex_trylock(&pool.busy)) {
        task(0, 1, argument);
        return;
    }
    if (pool.started < threads - 1 && start_workers(threads - 1) < threads - 1) threads = pool.started + 1;
    if (threads == 1) {
        pthread_mutex_unlock(&pool.busy);
        task(0, 1, argument);
        return;
    }
    const long long start = nanoseconds();
    pool.task = task;
    pool.argument = argument;
    atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.late, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.waited, 0, memory_order_relaxed);
    pthread_mutex_lock(&pool.sleep);
    const unsigned before = atomic_load_explicit(&pool.generation, memory_order_relaxed);
    atomic_store_explicit(&pool.generation, ((before & ~255u) + 256) | (unsigned)threads, memory_order_release);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.sleep);
    task(0, threads, argument);
    for (int spins = 0; atomic_load_explicit(&pool.done, memory_order_acquire) != (unsigned)(threads - 1); spins++) {
        if (spins < SPINS) {
            PAUSE();
        } else {
            sched_yield();
        }
    }
    if (atomic_load_explicit(&pool.late, memory_order_relaxed) >= LATE_MEETINGS ||
        4 * atomic_load_explicit(&pool.waited, memory_order_relaxed) > threads * (nanoseconds() - start)) {
        pool.alone_for = pool.alone_for ? 2 * pool.alone_for : ALONE_LEAST;
        if (pool.alone_for > ALONE_MOST) pool.alone_for = ALONE_MOST;
        atomic_store_explicit(&pool.alone, nanoseconds() + pool.alone_for, memory_order_relaxed);
    } else {
        pool.alone_for = 0;
    }
    pthread_mutex_unlock(&pool.busy);
}

void rnncore_barrier_arrive(rnncore_barrier *barrier, int index) {
    __atomic_store_n(&barrier->at[index].step, barrier->at[index].step + 1, __ATOMIC_RELEASE);
}

/* Counts looks at something that another thread will write, and gives the core away after many. */
typedef struct {
    int looks;
    long long since; /* of a slow wait */
} patience;

static inline void look_again(patience *of) {
    if (of->looks >= SPINS) {
        sched_yield();
        return;
    }
    if (of->looks == SLOW) of->since = nanoseconds();
    if (of->looks++ >= EAGER) PAUSE();
}

static void count_wait(const patience *of, int first) {
    if (!of->since) return;
    const long long waited = nanoseconds() - of->since;
    atomic_fetch_add_explicit(&pool.waited, waited, memory_order_relaxed);
    if (waited > LATE && !first) atomic_fetch_add_explicit(&pool.late, 1, memory_order_relaxed);
}

void rnncore_barrier_wait(rnncore_barrier *barrier, int index, int threads) {
    const unsigned mine = barrier->at[index].step;
    for (int other = 0; other < threads; other++) {
        patience patient = {0, 0};
        while ((int)(__atomic_load_n(&barrier->at[other].step, __ATOMIC_ACQUIRE) - mine) < 0) look_again(&patient);
        count_wait(&patient, mine == 1);
    }
}

ptrdiff_t rnncore_await(const ptrdiff_t *count, ptrdiff_t least, const ptrdiff_t *stop) {
    patience of = {0, 0};
    ptrdiff_t found;
    while ((found = __atomic_load_n(count, __ATOMIC_ACQUIRE)) < least && !rnncore_get(stop)) look_again(&of);
    return found;
}
