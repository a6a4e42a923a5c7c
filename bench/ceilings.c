/* What one core of this machine can do: multiply-adds per second, and bytes per second out of each cache level.
 * Compiled with -march=native by ceilings.py; prints one JSON object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

/* GFLOP/s of independent fused multiply-adds in registers. */
static double peak(void) {
    double best = 0;
    for (int round = 0; round < 7; round++) {
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
        const double rate = 2.0 * W * CHAINS * count / seconds * 1e-9;
        if (rate > best) best = rate;
    }
    return best;
}

/* GB/s of reading ``bytes`` again and again. */
static double bandwidth(size_t bytes) {
    vf *data = aligned_alloc(64, bytes);
    if (data == NULL) exit(2);
    memset(data, 1, bytes);
    const size_t count = bytes / sizeof(vf) / 8 * 8;
    double best = 0;
    for (int round = 0; round < 7; round++) {
        const long repeats = (long)(1e9 / bytes / 3) + 1;
        vf sum[8] = {{0}};
        const double start = now();
        for (long n = 0; n < repeats; n++) {
            for (size_t i = 0; i < count; i += 8) {
#pragma GCC unroll 8
                for (int k = 0; k < 8; k++) sum[k] += data[i + k];
            }
            __asm__ volatile("" ::: "memory");
        }
        const double seconds = now() - start;
        float total = 0;
        for (int k = 0; k < 8; k++) total += sum[k][0];
        sink = total;
        const double rate = (double)repeats * bytes / seconds * 1e-9;
        if (rate > best) best = rate;
    }
    free(data);
    return best;
}

int main(void) {
    printf("{\"gflops\": %.1f, \"L1\": %.1f, \"L2\": %.1f, \"L3\": %.1f, \"DRAM\": %.1f}\n", peak(), bandwidth(24 << 10),
           bandwidth(512 << 10), bandwidth(8 << 20), bandwidth(256 << 20));
    return 0;
}
