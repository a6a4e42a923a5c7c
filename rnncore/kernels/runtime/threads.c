#define _GNU_SOURCE /* sched_getcpu */
#include "threads.h"

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

/* The core this thread is on, from 1 on; 0 where the system does not say. And leaving it for another one that the thread
 * may use: false if there is none. (A thread that wakes up is often put on the core of the one that woke it, and stays for
 * milliseconds although another core is idle.) */
#if defined(__linux__)
static int core_of_this(void) { return sched_getcpu() + 1; }

static int leave_core(int core) {
    cpu_set_t allowed, others;
    if (sched_getaffinity(0, sizeof allowed, &allowed) || CPU_COUNT(&allowed) < 2) return 0;
    others = allowed;
    CPU_CLR(core - 1, &others);
    if (sched_setaffinity(0, sizeof others, &others)) return 0; /* moves at once */
    sched_setaffinity(0, sizeof allowed, &allowed);
    return 1;
}
#else
static int core_of_this(void) { return 0; }
static int leave_core(int core) { return (void)core, 0; }
#endif

/* About 50 microseconds of pauses before a waiting thread gives its core away. */
enum { SPINS = 1000 };

/* Looks at a meeting before the first pause, as a thread that is nearly there should not be kept waiting. */
enum { EAGER = 50 };

/* How often a thread leaves a core that it shares, in one call. */
enum { MOVES = 2 };

/* Threads that meet after every step need a core each. Where other processes want the cores, a meeting takes as long as
 * the scheduler's turn, or two threads share one core and only one of them can run. After this many late meetings in one
 * call, or such company at a quarter of them, calls are made by one thread for a while, and each time that this happens
 * again for twice as long. The first meeting is never late: a thread may have to wake up. Nor is one late whose steps take
 * that long themselves: threads that share main memory do not get equal parts of it. */
enum { LATE_MEETINGS = 4, LATE = 300000, ALONE_LEAST = 1000000, ALONE_MOST = 500000000 }; /* nanoseconds */

static struct {
    pthread_mutex_t busy;  /* held by the call that has the pool */
    pthread_mutex_t sleep; /* guards the condition, and a worker's decision to sleep */
    pthread_cond_t wake;
    int started;           /* workers that exist: indices 1..started */
    int forks_watched;
    rnncore_task *task;
    void *argument;
    int core;              /* of the caller, see core_of_this */
    atomic_uint generation; /* tasks so far, times 256, plus the threads of the last: a worker starts when it changes */
    atomic_uint done;       /* workers of the current task that have finished */
    atomic_uint late;       /* meetings that took a scheduler's turn, in the current task */
    atomic_int shared;      /* whether its threads had to share a core */
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
            if (pool.core && core_of_this() == pool.core) leave_core(pool.core);
            pool.task(start.index, threads, pool.argument);
            atomic_fetch_add_explicit(&pool.done, 1, memory_order_release);
        }
    }
    return NULL;
}

/* The child of a fork has no workers, and its locks are free. */
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

void rnncore_run_threads(int threads, rnncore_task *task, void *argument) {
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
    pool.task = task;
    pool.argument = argument;
    pool.core = core_of_this();
    atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.late, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.shared, 0, memory_order_relaxed);
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
        atomic_load_explicit(&pool.shared, memory_order_relaxed)) {
        pool.alone_for = pool.alone_for ? 2 * pool.alone_for : ALONE_LEAST;
        if (pool.alone_for > ALONE_MOST) pool.alone_for = ALONE_MOST;
        atomic_store_explicit(&pool.alone, nanoseconds() + pool.alone_for, memory_order_relaxed);
    } else {
        pool.alone_for = 0;
    }
    pthread_mutex_unlock(&pool.busy);
}

void rnncore_barrier_arrive(rnncore_barrier *barrier, int index) {
    __atomic_store_n(&barrier->at[index].core, core_of_this(), __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->at[index].step, barrier->at[index].step + 1, __ATOMIC_RELEASE);
}

/* Between two looks at something that another thread will write: soon with a pause, and after many the core is given away. */
static inline void look_again(int looks) {
    if (looks >= SPINS) {
        sched_yield();
    } else if (looks >= EAGER) {
        PAUSE();
    }
}

static int shares_core(const rnncore_barrier *barrier, int index, int other) {
    const int core = __atomic_load_n(&barrier->at[other].core, __ATOMIC_RELAXED);
    return core != 0 && core == barrier->at[index].core;
}

void rnncore_barrier_wait(rnncore_barrier *barrier, int index, int threads) {
    const unsigned mine = barrier->at[index].step;
    for (int other = 0; other < threads; other++) {
        long long since = 0;
        int looks = 0;
        while ((int)(__atomic_load_n(&barrier->at[other].step, __ATOMIC_ACQUIRE) - mine) < 0) {
            if (looks == EAGER && shares_core(barrier, index, other)) {
                if (index > 0 && barrier->at[index].moves < MOVES && leave_core(barrier->at[index].core)) {
                    barrier->at[index].moves++;
                } else {
                    barrier->at[index].shared += index > 0;
                    looks = SPINS; /* the other cannot come before this thread lets it */
                }
            }
            if (looks == SPINS && mine > 1) since = nanoseconds();
            look_again(looks);
            if (looks <= SPINS) looks++;
        }
        if (since && nanoseconds() - since > LATE + barrier->patience) {
            atomic_fetch_add_explicit(&pool.late, 1, memory_order_relaxed);
        }
    }
}

void rnncore_barrier_end(const rnncore_barrier *barrier, int index) {
    if (4 * barrier->at[index].shared >= barrier->at[index].step) atomic_store_explicit(&pool.shared, 1, memory_order_relaxed);
}

ptrdiff_t rnncore_await(const ptrdiff_t *count, ptrdiff_t least, const ptrdiff_t *stop) {
    ptrdiff_t counted;
    int looks = 0;
    while ((counted = __atomic_load_n(count, __ATOMIC_ACQUIRE)) < least && !rnncore_get(stop)) {
        look_again(looks);
        if (looks < SPINS) looks++;
    }
    return counted;
}
