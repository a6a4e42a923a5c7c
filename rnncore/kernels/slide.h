/* Windows along one axis of x [outer][n][inner]: the largest number, or the sum, of each.
 *
 * Window j covers x[o][j * stride - begin + t * dilation][i] for t = 0..kernel-1, as far as that is inside. */
#ifndef RNNCORE_SLIDE_H
#define RNNCORE_SLIDE_H

#include <math.h>
#include <stddef.h>

typedef struct {
    ptrdiff_t outer, n, count, inner; /* count: windows */
    ptrdiff_t kernel, stride, dilation, begin;
    int largest;
} rnncore_windows;

#define SLIDE static inline __attribute__((always_inline))

/* y[i] = the larger of y[i] and x[i * step], NaN where one of them is; or their sum. */
SLIDE void slide_line(const int largest, const ptrdiff_t step, ptrdiff_t n, const float *restrict x,
                      float *restrict y) {
    if (largest) {
        for (ptrdiff_t i = 0; i < n; i++) {
            const float a = x[i * step], b = y[i];
            y[i] = (a > b) | (a != a) ? a : b;
        }
    } else {
        for (ptrdiff_t i = 0; i < n; i++) y[i] += x[i * step];
    }
}

/* The same with the usual steps as constants, for which gcc makes vectors. */
SLIDE void slide_steps(const int largest, ptrdiff_t step, ptrdiff_t n, const float *x, float *y) {
    if (step == 1) {
        slide_line(largest, 1, n, x, y);
    } else if (step == 2) {
        slide_line(largest, 2, n, x, y);
    } else {
        slide_line(largest, step, n, x, y);
    }
}

SLIDE void slide_outer(const int largest, const rnncore_windows *w, const float *x, float *y) {
    const ptrdiff_t inner = w->inner, size = w->count * inner;
    for (ptrdiff_t i = 0; i < size; i++) y[i] = largest ? -INFINITY : 0;
    for (ptrdiff_t t = 0; t < w->kernel; t++) {
        const ptrdiff_t at = t * w->dilation - w->begin;
        ptrdiff_t first = at < 0 ? (-at + w->stride - 1) / w->stride : 0; /* windows whose tap t is inside */
        ptrdiff_t last = at < w->n ? (w->n - 1 - at) / w->stride + 1 : 0;
        if (last > w->count) last = w->count;
        if (first >= last) continue;
        if (inner == 1) {
            slide_steps(largest, w->stride, last - first, x + at + first * w->stride, y + first);
        } else {
            for (ptrdiff_t j = first; j < last; j++) {
                slide_line(largest, 1, inner, x + (at + j * w->stride) * inner, y + j * inner);
            }
        }
    }
}

/* y [outer][count][inner] overwritten; sums are made in rising t. No overlap, cannot fail. */
static void rnncore_slide(const rnncore_windows *w, const float *x, float *y) {
    for (ptrdiff_t o = 0; o < w->outer; o++, x += w->n * w->inner, y += w->count * w->inner) {
        if (w->largest) {
            slide_outer(1, w, x, y);
        } else {
            slide_outer(0, w, x, y);
        }
    }
}

#endif
