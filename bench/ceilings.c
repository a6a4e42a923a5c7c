/* What a core of this machine can do while N cores do the same: multiply-adds per second, and bytes per second of reading
 * so many bytes again and again, each core its own. Compiled with -march=native by ceilings.py; the argument is N, 1 if
 * there is none; prints one JSON object. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX__)
#define W 8
#else
#define W 4
#endif
#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 24
#else
#define CHAINS 12
#endif

typedef float vf __attribute__((vector_size(4 * W), may_alias));

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static volatile float sink;

enum { ROUNDS = 9, MOST_CORES = 64 };
static int cores = 1;
static pthread_barrier_t barrier;
static double rates[MOST_CORES];

/* GFLOP/s of independent fused multiply-adds in registers. */
static double peak(void) {
    vf acc[CHAINS], a = {0}, b = {0};
    for (int i = 0; i < CHAINS; i++) acc[i] = a;
    a += 1.0f, b += 1e-9f;
    __asm__ volatile("" : "+x"(a), "+x"(b));
    const long count = 2000000;
    const double start = now();
    for (long n = 0; n < count; n++) {
#pragma GCC unroll 32
        for (int i = 0; i < CHAINS; i++) acc[i] += a * b;
        __asm__ volatile("" : "+x"(a), "+x"(b));
    }
    const double seconds = now() - start;
    float total = 0;
    for (int i = 0; i < CHAINS; i++) total += acc[i][0];
    sink = total;
    return 2.0 * W * CHAINS * count / seconds * 1e-9;
}

/* GB/s of reading: blocks of at most 64 KB, up and down in turn, so that what is still near is read first. */
static double bandwidth(const vf *data, size_t bytes) {
    const size_t block = (bytes / 4 < 64 << 10 ? bytes / 4 : 64 << 10) / sizeof(vf), blocks = bytes / sizeof(vf) / block;
    const long repeats = (long)(1.5e8 / (double)bytes) + 2;
    vf sum[8] = {{0}};
    const double start = now();
    for (long n = 0; n < repeats; n++) {
        for (size_t i = 0; i < blocks; i++) {
            const vf *part = data + (n % 2 ? blocks - 1 - i : i) * block;
            for (size_t k = 0; k < block; k += 8) {
#pragma GCC unroll 8
                for (int v = 0; v < 8; v++) sum[v] += part[k + v];
            }
        }
        __asm__ volatile("" ::: "memory");
    }
    const double seconds = now() - start;
    float total = 0;
    for (int v = 0; v < 8; v++) total += sum[v][0];
    sink = total;
    return (double)repeats * blocks * block * sizeof(vf) / seconds * 1e-9;
}

/* The best round's rate of the slowest core; bytes 0: of multiply-adds. Every core calls it. */
static double rate_of(int core, size_t bytes) {
    double best = 0;
    vf *data = NULL;
    if (bytes) {
        const size_t page = 2 << 20, aligned = bytes < page ? 64 : page;
        data = aligned_alloc(aligned, bytes);
        if (data == NULL) exit(2);
        if (aligned == page) madvise(data, bytes, MADV_HUGEPAGE); /* as NumPy asks for its large arrays */
        memset(data, 1, bytes);
    }
    for (int round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&barrier);
        rates[core] = bytes ? bandwidth(data, bytes) : peak();
        pthread_barrier_wait(&barrier);
        double slowest = rates[0];
        for (int i = 1; i < cores; i++) slowest = rates[i] < slowest ? rates[i] : slowest;
        best = slowest > best ? slowest : best;
    }
    free(data);
    return best;
}

/* To the core-th of those that this process may use: what was woken beside another thread may stay there for long. */
static void stay_on(int core) {
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof all, &all)) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && core-- == 0) CPU_SET(cpu, &one);
    }
    if (CPU_COUNT(&one) == 1) pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

static void *run(void *argument) {
    const int core = (int)(intptr_t)argument;
    if (cores > 1) stay_on(core);
    const double flops = rate_of(core, 0);
    if (core == 0) printf("{\"gflops\": %.1f, \"reading\": [", flops);
    for (size_t bytes = 16 << 10; bytes <= 128 << 20; bytes *= 2) {
        const double rate = rate_of(core, bytes);
        if (core == 0) printf("%s[%zu, %.1f]", bytes > 16 << 10 ? ", " : "", bytes, rate);
    }
    if (core == 0) printf("]}\n");
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t others[MOST_CORES];
    if (count > 1) cores = atoi(arguments[1]);
    if (cores < 1 || cores > MOST_CORES) return 2;
    pthread_barrier_init(&barrier, NULL, (unsigned)cores);
    for (int i = 1; i < cores; i++) {
        if (pthread_create(&others[i], NULL, run, (void *)(intptr_t)i)) return 2;
    }
    run(NULL);
    for (int i = 1; i < cores; i++) pthread_join(others[i], NULL);
    return 0;
}
