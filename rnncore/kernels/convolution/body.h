/* The one body of the convolution kernels. A header of isa/, included before, defines W (lanes of a vector), VECTORS
 * (registers: 16 or 32), MAX (b where one of the two is NaN), ISA and ISA_NAME.
 *
 * Everything marked INLINE has constant tile sizes, so that the arrays of vectors live in registers. */

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "../vectors.h"
#include "convolution.h"

/* Sums of more terms are made of several chains, each begun at zero: the error of one chain would grow with K. */
enum { LINK = 256 };

/* Outputs and vectors of positions of the tile that planes are made of: 24 accumulators of 32 registers, 12 of 16. */
#if W == 16
#define TILE_LANES 3
enum { TILE_M = 8 };
#elif VECTORS == 32
#define TILE_LANES 6
enum { TILE_M = 4 };
#else
#define TILE_LANES 3
enum { TILE_M = 4 };
#endif
enum { TILE_V = TILE_LANES };

/* ---- positions in the lanes ---------------------------------------------------------------------------------- */

/* acc[r][v] += the terms 0..n-1 of outputs 0..R-1, whose weights are ``stride`` apart from term to term. Without
 * offsets, the terms are one after the other in x, V vectors each. */
INLINE void plane_chain(const int R, const int V, const float *w, const ptrdiff_t stride, ptrdiff_t n, const float *x,
                        const ptrdiff_t *offset, vf acc[][8]) {
    for (ptrdiff_t j = 0; j < n; j++) {
        const float *from = x + (offset ? offset[j] : j * V * W);
        vf a[8];
        UNROLL for (int v = 0; v < V; v++) a[v] = load(from + v * W);
        UNROLL for (int r = 0; r < R; r++) {
            const vf weight = splat(w[j * stride + r]);
            UNROLL for (int v = 0; v < V; v++) acc[r][v] += weight * a[v];
        }
    }
}

/* One chain of R outputs at V * W positions: begun with the bias, or added to the sum of those before. z: that sum and
 * the new one, rows V * W apart; the last chain's goes to y. */
INLINE void plane_tile(const int R, const int V, const float *w, const float *bias, ptrdiff_t n, const float *x,
                       const float *z, float *y, ptrdiff_t y_stride, int relu) {
    vf acc[16][8];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < V; v++) acc[r][v] = z ? (vf){} : splat(bias[r]);
    }
    plane_chain(R, V, w, W, n, x, NULL, acc);
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < V; v++) {
            vf sum = acc[r][v];
            if (z) sum += load(z + (r * V + v) * W);
            store(y + r * y_stride + v * W, relu ? MAX((vf){}, sum) : sum);
        }
    }
}

/* A stretch of neighbouring positions in a tile: the number at tile + at comes from x + from. */
typedef struct {
    ptrdiff_t at, from, count;
} stretch;

/* All outputs p..p+V*W-1, of which the first is in ``run``. The terms of one chain are gathered in tile first:
 * there they are read once for every R outputs, and the image's rows are far apart. Whole vectors are moved; what is
 * too much of one is overwritten by what follows, and the tile has space for the last. */
INLINE void plane_positions(const int R, const int V, const float *w, const float *bias, ptrdiff_t M, ptrdiff_t K,
                            const float *x, const ptrdiff_t *offset, ptrdiff_t p, const rnncore_run *run, float *y,
                            ptrdiff_t y_stride, int relu, float *tile) {
    float *z = tile + (LINK + 1) * TILE_V * W;
    stretch stretches[TILE_V * W];
    int count = 0;
    for (ptrdiff_t at = 0; at < V * W; run++) {
        const ptrdiff_t skip = p + at - run->place, left = run->count - skip;
        stretches[count] = (stretch){at, run->first + skip, left < V * W - at ? left : V * W - at};
        at += stretches[count++].count;
    }
    for (ptrdiff_t k = 0; k < K; k += LINK) {
        const ptrdiff_t n = K - k < LINK ? K - k : LINK;
        const int last = k + n == K;
        if (count == 1) {
            const float *from = x + stretches[0].from;
            for (ptrdiff_t j = 0; j < n; j++) {
                UNROLL for (int v = 0; v < V; v++) store(tile + (j * V + v) * W, load(from + offset[k + j] + v * W));
            }
        } else {
            for (ptrdiff_t j = 0; j < n; j++) {
                for (int i = 0; i < count; i++) {
                    const float *from = x + offset[k + j] + stretches[i].from;
                    float *to = tile + j * V * W + stretches[i].at;
                    for (ptrdiff_t v = 0; v < stretches[i].count; v += W) store(to + v, load(from + v));
                }
            }
        }
        for (ptrdiff_t m = 0; m < M; m += R) {
            const float *weights = w + (m / W * K + k) * W + m % W;
            float *partial = z + m * V * W;
            if (last && m + R <= M) {
                plane_tile(R, V, weights, bias + m, n, tile, k ? partial : NULL, y + m * y_stride + p, y_stride, relu);
                continue;
            }
            plane_tile(R, V, weights, bias + m, n, tile, k ? partial : NULL, partial, V * W, last && relu);
            for (ptrdiff_t r = m; last && r < M; r++) memcpy(y + r * y_stride + p, z + r * V * W, 4 * V * W);
        }
    }
}

static void planes(const float *w, const float *bias, ptrdiff_t M, ptrdiff_t K, const float *x, const ptrdiff_t *offset,
                   ptrdiff_t first, ptrdiff_t last, ptrdiff_t P, const rnncore_run *run, float *y, ptrdiff_t y_stride,
                   int relu, float *scratch) {
    assert(M > 0 && K > 0 && P >= W && 0 <= first && last <= P && first % (TILE_V * W) == 0);
#define AT_POSITIONS(R, V) plane_positions(R, V, w, bias, M, K, x, offset, p, run, y, y_stride, relu, scratch)
    for (ptrdiff_t at = first, vectors; at < last; at += vectors * W) {
        vectors = (P - at + W - 1) / W;
        if (vectors > TILE_V) vectors = TILE_V;
        if (vectors > P / W) vectors = P / W;
        /* the last tile ends where the outputs end, and makes some of those before once more */
        const ptrdiff_t p = at + vectors * W <= P ? at : P - vectors * W;
        while (run->place + run->count <= p) run++;
        if (vectors == TILE_V) {
            AT_POSITIONS(TILE_M, TILE_V);
#if TILE_LANES == 6
        } else if (vectors == 5) {
            AT_POSITIONS(4, 5);
        } else if (vectors == 4) {
            AT_POSITIONS(4, 4);
        } else if (vectors == 3) {
            AT_POSITIONS(4, 3);
#endif
        } else if (vectors == 2) {
            AT_POSITIONS(TILE_M, 2);
        } else {
            AT_POSITIONS(W, 1);
        }
    }
#undef AT_POSITIONS
}

/* ---- outputs in the lanes ------------------------------------------------------------------------------------ */

/* acc[r][p] += the terms first..last-1. */
INLINE void rows_chain(const int R, const int P, const float *w, ptrdiff_t K, ptrdiff_t first, ptrdiff_t last,
                       const float *const *a, const ptrdiff_t *offset, vf acc[][8]) {
    for (ptrdiff_t j = first; j < last; j++) {
        const ptrdiff_t at = offset[j];
        vf b[8];
        UNROLL for (int r = 0; r < R; r++) b[r] = splat(a[r][at]);
        UNROLL for (int p = 0; p < P; p++) {
            const vf weights = *(const vf *)(w + (p * K + j) * W);
            UNROLL for (int r = 0; r < R; r++) acc[r][p] += b[r] * weights;
        }
    }
}

INLINE void rows_tile(const int R, const int P, const float *w, const float *bias, ptrdiff_t M, ptrdiff_t K,
                      const float *const *x, const ptrdiff_t *offset, float *const *y, ptrdiff_t y_stride, int relu) {
    vf acc[8][8], sum[8][8];
    const float *a[8];
    UNROLL for (int r = 0; r < R; r++) {
        a[r] = x[r];
        UNROLL for (int p = 0; p < P; p++) acc[r][p] = load(bias + p * W);
    }
    rows_chain(R, P, w, K, 0, K < LINK ? K : LINK, a, offset, acc);
    for (ptrdiff_t k = LINK; k < K; k += LINK) {
        UNROLL for (int r = 0; r < R; r++) {
            UNROLL for (int p = 0; p < P; p++) {
                sum[r][p] = acc[r][p];
                acc[r][p] = (vf){};
            }
        }
        rows_chain(R, P, w, K, k, K < k + LINK ? K : k + LINK, a, offset, acc);
        UNROLL for (int r = 0; r < R; r++) {
            UNROLL for (int p = 0; p < P; p++) acc[r][p] += sum[r][p];
        }
    }
    _Alignas(64) float z[R][P * W];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int p = 0; p < P; p++) {
            const vf output = relu ? MAX((vf){}, acc[r][p]) : acc[r][p];
            if (y_stride == 1 && (p + 1) * W <= M) {
                store(y[r] + p * W, output);
            } else {
                store(z[r] + p * W, output);
            }
        }
    }
    const ptrdiff_t count = M < P * W ? M : P * W;
    for (ptrdiff_t m = y_stride == 1 ? count / W * W : 0; m < count; m++) {
        UNROLL for (int r = 0; r < R; r++) y[r][m * y_stride] = z[r][m];
    }
}

/* Whether the next R rows make a tile; one that would leave a single row over is passed over for a smaller one. */
#define TILE_FITS(R) (row + R <= n && (R <= 2 || row + R + 1 != n))

#define ROWS_AT(R, P)                                                                                                 \
    for (; TILE_FITS(R); row += R) {                                                                                  \
        float *ys[8];                                                                                                 \
        for (int r = 0; r < R; r++) ys[r] = y[row + r] + panel * W * y_stride;                                        \
        rows_tile(R, P, w + panel * K * W, bias + panel * W, M - panel * W, K, x + row, offset, ys, y_stride, relu);  \
    }

#if VECTORS == 32
#define ALL_ROWS(P) ROWS_AT(6, P) ROWS_AT(4, P) ROWS_AT(3, P) ROWS_AT(2, P) ROWS_AT(1, P)
#else
#define ALL_ROWS(P) ROWS_AT(3, P) ROWS_AT(2, P) ROWS_AT(1, P)
#endif

static void rows(const float *w, const float *bias, ptrdiff_t M, ptrdiff_t K, const float *const *x, ptrdiff_t n,
                 const ptrdiff_t *offset, float *const *y, ptrdiff_t y_stride, int relu) {
    assert(M > 0 && K > 0 && n > 0);
    const ptrdiff_t last = (M + W - 1) / W;
    ptrdiff_t panel = 0;
    if (n == 1) {
        for (; panel + 8 <= last; panel += 8) {
            ptrdiff_t row = 0;
            ROWS_AT(1, 8)
        }
    }
    for (; panel + 4 <= last; panel += 4) {
        ptrdiff_t row = 0;
        ALL_ROWS(4)
    }
    for (; panel < last; panel++) {
        ptrdiff_t row = 0;
        ALL_ROWS(1)
    }
}

/* ---- one output: depthwise ----------------------------------------------------------------------------------- */

/* The parts of positions first..first+count-1 of one output, in z, that are outputs, to y. ``run`` is the first that
 * may have some. */
INLINE void place(const rnncore_run *run, const rnncore_run *end, ptrdiff_t first, ptrdiff_t count, const float *z,
                  float *y) {
    for (; run < end && run->first < first + count; run++) {
        const ptrdiff_t from = run->first > first ? run->first : first;
        const ptrdiff_t last = run->first + run->count < first + count ? run->first + run->count : first + count;
        float *target = y + run->place + (from - run->first);
        for (ptrdiff_t i = 0; i < last - from; i++) target[i] = z[from - first + i];
    }
}

INLINE void single_tile(const int V, const float *w, float bias, ptrdiff_t K, const float *x, const ptrdiff_t *offset,
                        float *z, int relu) {
    vf acc[1][8], sum[8];
    UNROLL for (int v = 0; v < V; v++) acc[0][v] = splat(bias);
    plane_chain(1, V, w, 1, K < LINK ? K : LINK, x, offset, acc);
    for (ptrdiff_t k = LINK; k < K; k += LINK) {
        UNROLL for (int v = 0; v < V; v++) {
            sum[v] = acc[0][v];
            acc[0][v] = (vf){};
        }
        plane_chain(1, V, w + k, 1, K - k < LINK ? K - k : LINK, x, offset + k, acc);
        UNROLL for (int v = 0; v < V; v++) acc[0][v] += sum[v];
    }
    UNROLL for (int v = 0; v < V; v++) store(z + v * W, relu ? MAX((vf){}, acc[0][v]) : acc[0][v]);
}

static void single(const float *w, float bias, ptrdiff_t K, const float *x, const ptrdiff_t *offset, ptrdiff_t first,
                   ptrdiff_t last, ptrdiff_t positions, const rnncore_run *runs, ptrdiff_t run_count, float *y,
                   int relu) {
    assert(K > 0 && run_count > 0 && 0 <= first && last <= positions && first % (8 * W) == 0);
    _Alignas(64) float z[8 * W];
    const rnncore_run *run = runs, *end = runs + run_count;
    ptrdiff_t at = first;
    for (; at + 8 * W <= last; at += 8 * W) {
        while (run + 1 < end && run->first + run->count <= at) run++;
        single_tile(8, w, bias, K, x + at, offset, z, relu);
        place(run, end, at, 8 * W, z, y);
    }
    if (positions < W) {
        /* too few for a vector: the same chains, one number at a time */
        for (; at < positions; at++) {
            float sum = 0;
            for (ptrdiff_t k = 0; k < K; k += LINK) {
                const ptrdiff_t link = K < k + LINK ? K : k + LINK;
                float acc = k > 0 ? 0 : bias;
                for (ptrdiff_t j = k; j < link; j++) acc += w[j] * x[offset[j] + at];
                sum = k > 0 ? acc + sum : acc;
            }
            z[at] = relu && sum < 0 ? 0 : sum;
        }
        place(run, end, 0, positions, z, y);
        return;
    }
    for (; at < last; at += W) {
        const ptrdiff_t p = at + W <= positions ? at : positions - W;
        while (run + 1 < end && run->first + run->count <= p) run++;
        single_tile(1, w, bias, K, x + p, offset, z, relu);
        place(run, end, p, W, z, y);
    }
}

const rnncore_convolution_isa ISA(rnncore_convolution_) = {
    .name = ISA_NAME,
    .width = W,
    .chain = LINK,
    .tile = TILE_V * W,
    .stretch = 8 * W,
    .planes = planes,
    .rows = rows,
    .single = single,
};
