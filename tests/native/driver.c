/* Every usable table of native/ against the equations in double, without Python: for machines under emulation.
 *
 * Prints a line for each table and exits with 1 if a result is wrong, or if a row's bits depend on its company. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "native.h"

static unsigned long long seed = 20261121;

static float drawn(float range) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return range * ((float)(seed >> 40) / (float)(1 << 23) - 1.0f);
}

static float *room(size_t floats) {
    float *p = aligned_alloc(64, (floats * 4 + 63) / 64 * 64 + 64);
    if (p == NULL) exit(2);
    memset(p, 0, (floats * 4 + 63) / 64 * 64 + 64);
    return p;
}

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static int failures = 0;

static void expect(const rnncore_isa *isa, const char *what, double found, double wanted, double tolerance) {
    if (fabs(found - wanted) <= tolerance) return;
    if (failures++ < 10) printf("%s %s: %.9g, expected %.9g\n", isa->name, what, found, wanted);
}

/* One step of ``n`` rows of H units: V = 4 LSTM, 3 GRU, 1 RNN. */
static void check_step(const rnncore_isa *isa, int V, ptrdiff_t H, ptrdiff_t n) {
    const ptrdiff_t W = isa->width, panels = (H + W - 1) / W, wide = panels * W;
    float *w = room((size_t)(panels * H * V * W)), *z = room((size_t)(n * panels * V * W));
    float *h = room((size_t)(n * wide)), *c = room((size_t)(n * wide)), *next = room((size_t)(n * wide));
    float *c_before = room((size_t)(n * wide)), *bias = room((size_t)wide), *alone = room((size_t)wide), *c_alone = room((size_t)wide);
    for (ptrdiff_t u = 0; u < H; u++) {
        bias[u] = drawn(0.5f);
        for (ptrdiff_t k = 0; k < H; k++) {
            for (int v = 0; v < V; v++) w[((u / W * H + k) * V + v) * W + u % W] = drawn(1.0f / sqrtf((float)H));
        }
        for (ptrdiff_t r = 0; r < n; r++) {
            h[r * wide + u] = drawn(1.0f);
            c[r * wide + u] = c_before[r * wide + u] = drawn(1.0f);
            for (int v = 0; v < V; v++) z[r * panels * V * W + (u / W * V + v) * W + u % W] = drawn(1.0f);
        }
    }
    const rnncore_panels matrix = {w, panels, H, V};
    const rnncore_point point = {.bias_hn = bias, .clip = INFINITY, .cell_clip = INFINITY, .forget_bias = 0.25f};
    rnncore_step *const step = V == 4 ? isa->lstm_step : V == 3 ? isa->gru_step : isa->rnn_step;
    step(&matrix, &point, 0, panels, n & 1, n, z, panels * V * W, h, wide, next, wide, c, wide);
    for (ptrdiff_t r = 0; r < n; r++) {
        for (ptrdiff_t u = 0; u < H; u++) {
            double a[4] = {0};
            for (int v = 0; v < V; v++) {
                const double start = z[r * panels * V * W + (u / W * V + v) * W + u % W];
                a[v] = V == 3 && v == 2 ? bias[u] : start;
                for (ptrdiff_t k = 0; k < H; k++) a[v] += (double)h[r * wide + k] * w[((u / W * H + k) * V + v) * W + u % W];
            }
            double wanted;
            if (V == 4) {
                const double cell = sigmoid(a[1] + 0.25) * c_before[r * wide + u] + sigmoid(a[0]) * tanh(a[2]);
                expect(isa, "lstm c", c[r * wide + u], cell, 2e-6);
                wanted = sigmoid(a[3]) * tanh(cell);
            } else if (V == 3) {
                const double xn = z[r * panels * 3 * W + (u / W * 3 + 2) * W + u % W];
                const double update = sigmoid(a[1]), candidate = tanh(xn + sigmoid(a[0]) * a[2]);
                wanted = (1 - update) * candidate + update * h[r * wide + u];
            } else {
                wanted = tanh(a[0]);
            }
            expect(isa, V == 4 ? "lstm h" : V == 3 ? "gru h" : "rnn h", next[r * wide + u], wanted, 2e-6);
        }
        memcpy(c_alone, c_before + r * wide, (size_t)wide * 4);
        step(&matrix, &point, 0, panels, 0, 1, z + r * panels * V * W, panels * V * W, h + r * wide, wide, alone, wide, c_alone, wide);
        if (memcmp(alone, next + r * wide, (size_t)wide * 4) || (V == 4 && memcmp(c_alone, c + r * wide, (size_t)wide * 4))) {
            if (failures++ < 10) printf("%s V=%d H=%td n=%td row %td: other bits alone\n", isa->name, V, H, n, r);
        }
    }
    free(w), free(z), free(h), free(c), free(next), free(c_before), free(bias), free(alone), free(c_alone);
}

/* z = start + a . panels for N units and V vectors a panel, K deep. */
static void check_product(const rnncore_isa *isa, int V, ptrdiff_t N, ptrdiff_t K, ptrdiff_t n) {
    const ptrdiff_t W = isa->width, panels = (N + W - 1) / W, stride = panels * V * W;
    float *w = room((size_t)(panels * K * V * W)), *a = room((size_t)(n * K)), *start = room((size_t)stride), *z = room((size_t)(n * stride));
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

/* Units in the last place between found and exact; a subnormal exact result may be zero or the least normal number. */
static double ulps(float found, double exact) {
    int exponent;
    if (fabs(exact) < 0x1p-126) return fabs(found) <= 0x1p-126f ? 0.0 : INFINITY;
    frexp(exact, &exponent);
    return fabs(found - exact) * ldexp(1.0, 24 - exponent);
}

/* tanh through the RNN's step, sigmoid through the LSTM's forget gate, over every 211th float: within 2 ulp. */
static void check_gates(const rnncore_isa *isa) {
    const ptrdiff_t W = isa->width;
    float *w = room((size_t)(4 * W)), *z = room((size_t)(4 * W)), *h = room((size_t)W), *c = room((size_t)W), *next = room((size_t)W);
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
    static const int vectors[] = {1, 3, 4};
    for (int i = 0; rnncore_isas[i] != NULL; i++) {
        if (!rnncore_isa_usable(rnncore_isas[i])) continue;
        int checks = 0;
        check_gates(rnncore_isas[i]);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
                for (int v = 0; v < 3; v++, checks++) {
                    check_step(rnncore_isas[i], vectors[v], sizes[s], rows[r]);
                    check_product(rnncore_isas[i], vectors[v], sizes[s], sizes[(s * 5 + 1) % 12], rows[r]);
                }
            }
        }
        printf("%s: %d sizes, %d failures so far\n", rnncore_isas[i]->name, checks, failures);
    }
    return failures != 0;
}
