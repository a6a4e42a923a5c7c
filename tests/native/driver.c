/* Every usable table of recurrent/ against the equations in double, without Python: for machines under emulation.
 *
 * Prints a line for each table and exits with 1 if a result is wrong, or if a row's bits depend on its company. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recurrent/recurrent.h"
#include "isa/isas.h"

static unsigned long long seed = 20261121;

static float drawn(float range) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return range * ((float)(seed >> 40) / (float)(1 << 23) - 1.0f);
}

static float *allocate(size_t floats) {
    float *p = aligned_alloc(64, (floats * 4 + 63) / 64 * 64 + 64);
    if (p == NULL) exit(2);
    memset(p, 0, (floats * 4 + 63) / 64 * 64 + 64);
    return p;
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static int failures = 0;

static void expect(const rnncore_isa *isa, const char *what, double result, double wanted, double tolerance) {
    if (fabs(result - wanted) <= tolerance) return;
    if (failures++ < 10) printf("%s %s: %.9g, expected %.9g\n", isa->name, what, result, wanted);
}

typedef enum { LSTM_STEP, COUPLED_STEP, GRU_STEP, RESET_STEP, RNN_STEP, STEPS } kind;

/* One step of one kind, both halves of it; h, c and next as in recurrent.h, r * h goes to reset; in its plain form where
 * it has one. */
static void take_step(const rnncore_isa *isa, kind k, int plain, const rnncore_panels *w, const rnncore_panels *w_n, const rnncore_point *point,
                      int down, ptrdiff_t n, float *z, ptrdiff_t z_stride, const float *h, float *next, float *c, float *reset) {
    const ptrdiff_t wide = w->panels * isa->width;
    if (k == RESET_STEP) {
        isa->reset_step(w, point, 0, w->panels, down, n, z, z_stride, h, wide, reset, wide, c, wide);
        isa->candidate_step(w_n, point, 0, w->panels, down, n, z, z_stride, reset, wide, next, wide, (float *)h, wide);
        return;
    }
    rnncore_step *const step = k == LSTM_STEP      ? (plain ? isa->lstm_plain_step : isa->lstm_step)
                               : k == COUPLED_STEP ? isa->coupled_step
                               : k == GRU_STEP     ? (plain ? isa->gru_plain_step : isa->gru_step)
                                                   : isa->rnn_step;
    step(w, point, 0, w->panels, down, n, z, z_stride, h, wide, next, wide, c, wide);
}

/* One step of ``n`` rows of H units. Weights by gate: all of them in w, or the candidate's in w_n. */
static void check_step(const rnncore_isa *isa, kind k, ptrdiff_t H, ptrdiff_t n) {
    static const char *const names[] = {"lstm h", "coupled h", "gru h", "reset h", "rnn h"};
    static const int gates_of[] = {4, 3, 3, 3, 1};
    const int G = gates_of[k], V = k == RESET_STEP ? 2 : G, has_c = k <= COUPLED_STEP;
    const ptrdiff_t W = isa->width, panels = (H + W - 1) / W, wide = panels * W, z_stride = panels * G * W;
    float *w = allocate((size_t)(wide * H * V)), *w_n = allocate((size_t)(wide * H)), *z = allocate((size_t)(n * z_stride));
    float *z_before = allocate((size_t)(n * z_stride)), *h = allocate((size_t)(n * wide)), *c = allocate((size_t)(n * wide));
    float *next = allocate((size_t)(n * wide)), *c_before = allocate((size_t)(n * wide)), *bias = allocate((size_t)wide);
    float *alone = allocate((size_t)wide), *c_alone = allocate((size_t)wide), *reset = allocate((size_t)(n * wide));
    for (ptrdiff_t u = 0; u < H; u++) {
        bias[u] = drawn(0.5f);
        for (ptrdiff_t j = 0; j < H; j++) {
            for (int v = 0; v < V; v++) w[((u / W * H + j) * V + v) * W + u % W] = drawn(1.0f / sqrtf((float)H));
            w_n[(u / W * H + j) * W + u % W] = drawn(1.0f / sqrtf((float)H));
        }
        for (ptrdiff_t r = 0; r < n; r++) {
            h[r * wide + u] = drawn(1.0f);
            c[r * wide + u] = c_before[r * wide + u] = drawn(1.0f);
            for (int v = 0; v < G; v++) z[r * z_stride + (u / W * G + v) * W + u % W] = drawn(1.0f);
        }
    }
    memcpy(z_before, z, (size_t)(n * z_stride) * 4);
    const rnncore_panels matrix = {w, panels, H, V}, candidate = {w_n, panels, H, 1};
    const rnncore_point point = {.bias_hn = bias, .clip = INFINITY, .cell_clip = INFINITY, .coupled = n & 1 ? COUPLED_INPUT : COUPLED_FORGET};
    take_step(isa, k, 1, &matrix, &candidate, &point, n & 1, n, z, z_stride, h, next, c, reset);
    for (ptrdiff_t r = 0; r < n; r++) {
        double *r_h = malloc((size_t)H * sizeof *r_h), *sums = malloc((size_t)(4 * H) * sizeof *sums);
        for (ptrdiff_t u = 0; u < H; u++) {
            for (int v = 0; v < G; v++) {
                double *a = &sums[4 * u + v];
                *a = k == GRU_STEP && v == 2 ? bias[u] : z_before[r * z_stride + (u / W * G + v) * W + u % W];
                for (ptrdiff_t j = 0; j < H && v < V; j++) *a += (double)h[r * wide + j] * w[((u / W * H + j) * V + v) * W + u % W];
            }
            r_h[u] = sigmoid(sums[4 * u]) * h[r * wide + u];
        }
        for (ptrdiff_t u = 0; u < H; u++) {
            const double *a = &sums[4 * u], old = c_before[r * wide + u];
            double cell = 0, wanted;
            if (k == LSTM_STEP) {
                cell = sigmoid(a[1]) * old + sigmoid(a[0]) * tanh(a[2]);
                wanted = sigmoid(a[3]) * tanh(cell);
            } else if (k == COUPLED_STEP) {
                const double kept = point.coupled == COUPLED_INPUT ? sigmoid(a[0]) : 1 - sigmoid(a[0]);
                cell = kept * old + (1 - kept) * tanh(a[1]);
                wanted = sigmoid(a[2]) * tanh(cell);
            } else if (k == RNN_STEP) {
                wanted = tanh(a[0]);
            } else {
                double n_sum = k == GRU_STEP ? z_before[r * z_stride + (u / W * 3 + 2) * W + u % W] + sigmoid(a[0]) * a[2] : a[2];
                for (ptrdiff_t j = 0; j < H && k == RESET_STEP; j++) n_sum += r_h[j] * w_n[(u / W * H + j) * W + u % W];
                wanted = (1 - sigmoid(a[1])) * tanh(n_sum) + sigmoid(a[1]) * h[r * wide + u];
            }
            if (has_c) expect(isa, "c", c[r * wide + u], cell, 2e-6);
            expect(isa, names[k], next[r * wide + u], wanted, 2e-6);
        }
        free(r_h), free(sums);
        memcpy(c_alone, c_before + r * wide, (size_t)wide * 4);
        take_step(isa, k, 0, &matrix, &candidate, &point, 0, 1, z_before + r * z_stride, z_stride, h + r * wide, alone, c_alone, reset);
        if (memcmp(alone, next + r * wide, (size_t)wide * 4) || (has_c && memcmp(c_alone, c + r * wide, (size_t)wide * 4))) {
            if (failures++ < 10) printf("%s %s H=%td n=%td row %td: other bits alone\n", isa->name, names[k], H, n, r);
        }
    }
    free(w), free(w_n), free(z), free(z_before), free(h), free(c), free(next), free(c_before), free(bias), free(alone), free(c_alone);
    free(reset);
}

/* PIPELINED_ROWS steps of one row of H units that make the product of rows of I inputs beside them, the panels in two shares:
 * the bits are those of product() and of the steps alone. separate: the input weights are packed vector by vector. */
static void check_pipelined(const rnncore_isa *isa, int V, ptrdiff_t H, ptrdiff_t I, int separate) {
    const ptrdiff_t W = isa->width, panels = (H + W - 1) / W, wide = panels * W, stride = panels * V * W, R = PIPELINED_ROWS(V);
    float *w = allocate((size_t)(stride * H)), *w_ih = allocate((size_t)(stride * I)), *x = allocate((size_t)(R * I)), *packed = allocate((size_t)(R * I));
    float *start = allocate((size_t)stride), *z = allocate((size_t)(R * stride)), *wanted = allocate((size_t)(R * stride));
    float *result = allocate((size_t)(R * stride)), *chain = allocate((size_t)(R * stride)), *h = allocate((size_t)(2 * (R + 1) * wide));
    float *c = allocate((size_t)wide), *c_alone = allocate((size_t)wide), *alone = h + (R + 1) * wide;
    for (ptrdiff_t i = 0; i < stride * H; i++) w[i] = drawn(1.0f / sqrtf((float)H));
    for (ptrdiff_t i = 0; i < stride * I; i++) w_ih[i] = drawn(1.0f);
    for (ptrdiff_t i = 0; i < R * I; i++) x[i] = drawn(1.0f);
    for (ptrdiff_t there = 1; there <= R; there++) { /* the last time whole */
        isa->pack_pipelined(I, (int)there, x, I, packed, (int)R);
        for (ptrdiff_t i = 0; i < R * I; i++) {
            expect(isa, "packed input", packed[i % I * R + i / I], i / I < there ? x[i] : 0, 0);
        }
    }
    for (ptrdiff_t i = 0; i < stride; i++) start[i] = drawn(1.0f);
    for (ptrdiff_t i = 0; i < R * stride; i++) z[i] = drawn(1.0f);
    const rnncore_panels matrix = {w, panels, H, V}, inputs = {w_ih, separate ? panels * V : panels, I, separate ? 1 : V};
    const rnncore_point point = {.bias_hn = start, .clip = INFINITY, .cell_clip = INFINITY};
    const rnncore_rows rows = {x, NULL, I};
    rnncore_pipelined pipelined = {&inputs, packed, start, result, chain, stride, 0};
    rnncore_step *const step = V == 4 ? isa->lstm_step : V == 3 ? isa->gru_step : isa->rnn_step;
    rnncore_pipelined_step *const pipelined_step =
        V == 4 ? isa->lstm_pipelined : V == 3 ? isa->gru_pipelined : isa->rnn_pipelined;
    isa->product(&inputs, 0, inputs.panels, R, &rows, start, wanted, stride);
    for (; pipelined.visit < R; pipelined.visit++) {
        const ptrdiff_t t = pipelined.visit, shared = panels / 3;
        step(&matrix, &point, 0, panels, 0, 1, z + t * stride, stride, alone + t * wide, wide, alone + (t + 1) * wide, wide, c_alone, wide);
        pipelined_step(&matrix, &point, shared, panels, t & 1, z + t * stride, h + t * wide, h + (t + 1) * wide, c, &pipelined);
        pipelined_step(&matrix, &point, 0, shared, t & 1, z + t * stride, h + t * wide, h + (t + 1) * wide, c, &pipelined);
    }
    if (memcmp(result, wanted, (size_t)(R * stride) * 4) && failures++ < 10) {
        printf("%s V=%d H=%td I=%td separate=%d: other bits of the product beside the steps\n", isa->name, V, H, I, separate);
    }
    if (memcmp(h, alone, (size_t)((R + 1) * wide) * 4) && failures++ < 10) {
        printf("%s V=%d H=%td I=%td separate=%d: other bits of the steps beside the product\n", isa->name, V, H, I, separate);
    }
    free(w), free(w_ih), free(x), free(packed), free(start), free(z), free(wanted), free(result), free(chain), free(h), free(c), free(c_alone);
}

/* z = start + a . panels for N units and V vectors a panel, K deep. */
static void check_product(const rnncore_isa *isa, int V, ptrdiff_t N, ptrdiff_t K, ptrdiff_t n) {
    const ptrdiff_t W = isa->width, panels = (N + W - 1) / W, stride = panels * V * W;
    float *w = allocate((size_t)(panels * K * V * W)), *a = allocate((size_t)(n * K)), *start = allocate((size_t)stride), *z = allocate((size_t)(n * stride));
    for (ptrdiff_t i = 0; i < panels * K * V * W; i++) w[i] = drawn(1.0f);
    for (ptrdiff_t i = 0; i < n * K; i++) a[i] = drawn(1.0f);
    for (ptrdiff_t i = 0; i < stride; i++) start[i] = drawn(1.0f);
    const rnncore_panels matrix = {w, panels, K, V};
    const rnncore_rows rows = {a, NULL, K};
    isa->product(&matrix, 0, panels, n, &rows, start, z, stride);
    for (ptrdiff_t r = 0; r < n; r++) {
        for (ptrdiff_t column = 0; column < stride; column++) {
            const ptrdiff_t panel = column / (V * W), within = column % (V * W);
            double wanted = start[column];
            for (ptrdiff_t k = 0; k < K; k++) wanted += (double)a[r * K + k] * w[(panel * K + k) * V * W + within];
            expect(isa, "product", z[r * stride + column], wanted, 1e-5 * (double)(K + 1));
        }
    }
    free(w), free(a), free(start), free(z);
}

/* Units in the last place between result and exact; a subnormal exact result may be zero or the least normal number. */
static double ulps(float result, double exact) {
    int exponent;
    if (fabs(exact) < 0x1p-126) return fabs(result) <= 0x1p-126f ? 0.0 : INFINITY;
    frexp(exact, &exponent);
    return fabs(result - exact) * ldexp(1.0, 24 - exponent);
}

/* tanh through the RNN's step, sigmoid through the LSTM's forget gate, over every 211th float: within 2 ulp. */
static void check_gates(const rnncore_isa *isa) {
    const ptrdiff_t W = isa->width;
    float *w = allocate((size_t)(4 * W)), *z = allocate((size_t)(4 * W)), *h = allocate((size_t)W), *c = allocate((size_t)W), *next = allocate((size_t)W);
    const rnncore_point point = {.clip = INFINITY, .cell_clip = INFINITY};
    const rnncore_panels rnn = {w, 1, 1, 1}, lstm = {w, 1, 1, 4};
    for (unsigned long long bits = 0; bits < 1ull << 32; bits += 211 * (unsigned long long)W) {
        float x[16];
        for (ptrdiff_t i = 0; i < W; i++) {
            const unsigned one = (unsigned)(bits + 211 * (unsigned long long)i);
            memcpy(&x[i], &one, 4);
            if (!isfinite(x[i])) x[i] = 0;
            z[i] = x[i];
        }
        isa->rnn_step(&rnn, &point, 0, 1, 0, 1, z, W, h, W, next, W, c, W);
        for (ptrdiff_t i = 0; i < W; i++) expect(isa, "tanh in ulp", ulps(next[i], tanh(x[i])), 0, 2);
        for (ptrdiff_t i = 0; i < W; i++) {
            c[i] = 1;
            z[i] = 0;
            z[W + i] = x[i];
            z[2 * W + i] = 0;
            z[3 * W + i] = 0;
        }
        isa->lstm_step(&lstm, &point, 0, 1, 0, 1, z, 4 * W, h, W, next, W, c, W);
        for (ptrdiff_t i = 0; i < W; i++) expect(isa, "sigmoid in ulp", ulps(c[i], sigmoid(x[i])), 0, 2);
    }
    free(w), free(z), free(h), free(c), free(next);
}

int main(void) {
    static const ptrdiff_t sizes[] = {1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33, 64}, rows[] = {1, 2, 3, 4, 5, 6, 7, 9, 13};
    static const ptrdiff_t depths[] = {1, 7, 40, 256, 300, 513};
    static const int vectors[] = {1, 3, 4}; /* of the products; reset_step alone has panels of 2 */
    for (int i = 0; rnncore_isas[i] != NULL; i++) {
        if (!rnncore_isa_usable(rnncore_isas[i]->name)) continue;
        int checks = 0;
        check_gates(rnncore_isas[i]);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                for (kind k = 0; k < STEPS; k++, checks++) check_step(rnncore_isas[i], k, sizes[s], rows[r]);
                for (int v = 0; v < 3; v++, checks++) {
                    check_product(rnncore_isas[i], vectors[v], sizes[s], sizes[(s * 5 + 1) % 12], rows[r]);
                }
            }
        }
        for (size_t s = 0; s < sizeof depths / sizeof *depths; s++) {
            for (size_t r = 0; r < sizeof depths / sizeof *depths; r++) {
                for (int v = 0; v < 3; v++, checks++) check_pipelined(rnncore_isas[i], vectors[v], depths[s], depths[r], 0);
                for (int v = 1; v < 3; v++, checks++) check_pipelined(rnncore_isas[i], vectors[v], depths[s], depths[r], 1);
            }
        }
        printf("%s: %d checks, %d failures so far\n", rnncore_isas[i]->name, checks, failures);
    }
    return failures != 0;
}
