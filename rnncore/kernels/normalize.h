/* Rows brought to mean 0 and variance 1, or to mean square 1, then scaled and moved.
 *
 * Sums are made in 16 lanes whatever the CPU has, so their bits depend on the row alone. */
#ifndef RNNCORE_NORMALIZE_H
#define RNNCORE_NORMALIZE_H

#include <math.h>
#include <stddef.h>
#include <string.h>

typedef float rnncore_lanes __attribute__((vector_size(64), may_alias));
typedef float rnncore_unaligned_lanes __attribute__((vector_size(64), may_alias, aligned(4)));

static inline float rnncore_added(rnncore_lanes sum, float rest) {
    for (int half = 8; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) sum[i] += sum[i + half];
    }
    return sum[0] + rest;
}

/* The sum of x - mean, or of its squares. */
static inline float rnncore_sum(const float *x, ptrdiff_t n, float mean, int squares) {
    rnncore_lanes sum = {0}, other = {0};
    float rest = 0;
    ptrdiff_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const rnncore_lanes a = (rnncore_lanes) * (const rnncore_unaligned_lanes *)(x + i) - mean;
        const rnncore_lanes b = (rnncore_lanes) * (const rnncore_unaligned_lanes *)(x + i + 16) - mean;
        if (squares) {
            sum += a * a;
            other += b * b;
        } else {
            sum += a;
            other += b;
        }
    }
    for (; i < n; i++) rest += squares ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
    return rnncore_added(sum + other, rest);
}

/* y = (x - mean) / sqrt(variance + epsilon) * scale + offset for ``rows`` rows of n numbers; with centred = 0 the mean
 * counts as 0. Each ``inner`` numbers of a row share a scale and an offset, and ``period`` rows have all of them: number
 * i of row r has those at r % period * (n / inner) + i / inner. offset may be NULL; so may means and inverses (rows),
 * which receive the mean and 1 / sqrt(variance + epsilon). n >= 1, inner divides n. */
static void rnncore_normalize(ptrdiff_t rows, ptrdiff_t n, ptrdiff_t inner, ptrdiff_t period, int centred,
                              float epsilon, const float *x, const float *scale, const float *offset, float *y,
                              float *means, float *inverses) {
    for (ptrdiff_t row = 0; row < rows; row++, x += n, y += n) {
        const float mean = centred ? rnncore_sum(x, n, 0, 0) / (float)n : 0;
        const float inverse = 1 / sqrtf(rnncore_sum(x, n, mean, 1) / (float)n + epsilon);
        const float *scales = scale + row % period * (n / inner);
        const float *offsets = offset ? offset + row % period * (n / inner) : NULL;
        if (inner == 1) {
            if (offsets) {
                for (ptrdiff_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse * scales[i] + offsets[i];
            } else {
                for (ptrdiff_t i = 0; i < n; i++) y[i] = (x[i] - mean) * inverse * scales[i];
            }
        } else {
            for (ptrdiff_t part = 0; part < n / inner; part++) {
                const float s = scales[part], o = offsets ? offsets[part] : 0;
                const float *from = x + part * inner;
                float *to = y + part * inner;
                for (ptrdiff_t i = 0; i < inner; i++) to[i] = (from[i] - mean) * inverse * s + o;
            }
        }
        if (means) means[row] = mean;
        if (inverses) inverses[row] = inverse;
    }
}

#endif
