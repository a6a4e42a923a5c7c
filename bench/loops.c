/* Where a step's time goes: the packed kernels bare, without a call around them. Compiled by loops.py together with
 * rnncore/kernels/recurrent; prints a line of JSON for each cell and size.
 *
 * Microseconds of one step of one row: "step" alone; "beside" with a visit to the next rows' input product; "activations"
 * of a step that has no product; and of a thread of two that have half of the panels each and do as in "beside": "halves"
 * without meeting, "meeting" after every step but with outputs of its own, "shared" with those of both. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "recurrent/costs.h"
#include "recurrent/recurrent.h"
#include "isa/isas.h"

enum { ROUNDS = 40 };
typedef enum { STEP, BESIDE, ACTIVATIONS, HALVES, MEETING, SHARED, MODES } mode;

static const char *const cells[] = {"LSTM", "GRU", "RNN"};
static const char *const names[] = {"step", "beside", "activations", "halves", "meeting", "shared"};
static const int gates[] = {4, 3, 1};

static const rnncore_isa *isa;
static int V;
static ptrdiff_t H, steps;
static float *w, *w_ih, *z, *x, *h, *c, *zeros;
static double seconds[2];
static struct {
    _Alignas(128) atomic_uint steps;
} arrived[2];
static pthread_barrier_t start_line;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

static float *drawn(size_t floats) {
    float *p = aligned_alloc(64, (floats * 4 + 63) / 64 * 64);
    if (p == NULL) exit(2);
    for (size_t i = 0; i < floats; i++) p[i] = (float)(rand() % 1000 - 500) * 1e-4f;
    return p;
}

static void run(mode m, int thread) {
    const ptrdiff_t panels = (H + isa->width - 1) / isa->width, stride = panels * V * isa->width, wide = panels * isa->width;
    const ptrdiff_t R = PIPELINED_ROWS(V), middle = m >= HALVES ? panels / 2 : panels;
    const ptrdiff_t first = thread ? middle : 0, last = thread ? panels : middle;
    const int vectors = 4 * stride * H > LARGEST_TOGETHER ? V : 1;
    const rnncore_panels recurrent = {w, panels, m == ACTIVATIONS ? 0 : H, V};
    const rnncore_panels inputs = {w_ih, panels * vectors, H, V / vectors};
    const rnncore_point point = {.bias_hn = zeros, .clip = 1.0f / 0.0f, .cell_clip = 1.0f / 0.0f};
    rnncore_step *const step = V == 4 ? isa->lstm_plain_step : V == 3 ? isa->gru_plain_step : isa->rnn_step;
    rnncore_pipelined_step *const pipelined_step =
        V == 4 ? isa->lstm_plain_pipelined : V == 3 ? isa->gru_plain_pipelined : isa->rnn_pipelined;
    rnncore_pipelined pipelined = {&inputs, x, zeros, z, z + 2 * R * stride, stride, 0};
    float *const own = m >= HALVES && m != SHARED ? h + 2 * wide * thread : h;
    if (m >= HALVES) pthread_barrier_wait(&start_line);
    const double start = now();
    for (ptrdiff_t t = 0; t < steps; t++) {
        const float *old = own + t % 2 * wide, *product = z + (t / R % 2 * R + t % R) * stride;
        float *next = own + (t + 1) % 2 * wide;
        pipelined.visit = (int)(t % R);
        pipelined.z = z + (t / R + 1) % 2 * R * stride;
        if (m == STEP || m == ACTIVATIONS) {
            step(&recurrent, &point, first, last, t & 1, 1, (float *)product, stride, old, wide, next, wide, c, wide);
        } else {
            pipelined_step(&recurrent, &point, first, last, t & 1, product, old, next, c, &pipelined);
        }
        if (m == MEETING || m == SHARED) {
            const unsigned done = (unsigned)t + 1;
            atomic_store_explicit(&arrived[thread].steps, done, memory_order_release);
            while (atomic_load_explicit(&arrived[1 - thread].steps, memory_order_acquire) < done) {
            }
        }
    }
    seconds[thread] = (now() - start) / (double)steps;
}

static mode of_other;
static void *other(void *nothing) {
    run(of_other, 1);
    return nothing;
}

/* Seconds of a step of the slower thread, at best. The modes take turns, so that a slow moment hits them all. */
static void race(double best[MODES]) {
    for (mode m = 0; m < MODES; m++) best[m] = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        for (mode m = 0; m < MODES; m++) {
            pthread_t thread;
            atomic_store(&arrived[0].steps, 0), atomic_store(&arrived[1].steps, 0);
            if (m >= HALVES) {
                of_other = m;
                if (pthread_create(&thread, NULL, other, NULL)) exit(2);
            }
            run(m, 0);
            if (m >= HALVES) pthread_join(thread, NULL);
            const double slower = m >= HALVES && seconds[1] > seconds[0] ? seconds[1] : seconds[0];
            best[m] = slower < best[m] ? slower : best[m];
        }
    }
}

int main(void) {
    static const ptrdiff_t sizes[] = {32, 64, 128, 256, 512};
    int table = 0;
    while (!rnncore_isa_usable(rnncore_isas[table]->name)) table++;
    isa = rnncore_isas[table];
    pthread_barrier_init(&start_line, NULL, 2);
    for (int cell = 0; cell < 3; cell++) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            V = gates[cell], H = sizes[s];
            const ptrdiff_t panels = (H + isa->width - 1) / isa->width, stride = panels * V * isa->width, R = PIPELINED_ROWS(V);
            w = drawn((size_t)(stride * H)), w_ih = drawn((size_t)(stride * H)), z = drawn((size_t)(3 * R * stride));
            x = drawn((size_t)(R * H)), h = drawn((size_t)(4 * panels * isa->width)), c = drawn((size_t)(panels * isa->width));
            zeros = drawn((size_t)stride);
            memset(zeros, 0, (size_t)stride * 4);
            steps = (ptrdiff_t)(2e6 / ((double)(V * H * H) / 16 + 2000)) / R * R + R;
            printf("{\"isa\": \"%s\", \"cell\": \"%s\", \"H\": %td", isa->name, cells[cell], H);
            double best[MODES];
            race(best);
            for (mode m = 0; m < MODES; m++) printf(", \"%s\": %.3f", names[m], best[m] * 1e6);
            printf("}\n");
            fflush(stdout);
            free(w), free(w_ih), free(z), free(x), free(h), free(c), free(zeros);
        }
    }
    return 0;
}
