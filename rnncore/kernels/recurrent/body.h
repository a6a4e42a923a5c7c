/* The one body of the packed kernels. A header of isa/, included before, defines W (lanes of a vector), VECTORS (registers:
 * 16 or 32), MAX, MIN and FMA, ISA and ISA_NAME. FEW_CHAINS (where it may be true): whether four
 * chains of multiply-adds hide their latency, which lets a single row take fewer panels at once and turn round sooner.
 *
 * Everything is always_inline with constant tile sizes, so that the arrays of vectors live in registers. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../rational_body.h"
#include "../vectors.h"
#include "recurrent.h"

#ifndef FEW_CHAINS
#define FEW_CHAINS 0
#endif

#include "units_body.h"

/* acc[r][p*V + v] += sum over k = first..last-1 of a[r][k] * panel p's vector v;
 * panels are ``panel_stride`` floats apart. */
INLINE void chain(const int R, const int P, const int V, const float *w, ptrdiff_t panel_stride, ptrdiff_t first,
                  ptrdiff_t last, const float *const *a, vf acc[][32]) {
    for (ptrdiff_t k = first; k < last; k++) {
        vf x[8];
        UNROLL for (int r = 0; r < R; r++) x[r] = splat(a[r][k]);
        UNROLL for (int p = 0; p < P; p++) {
            UNROLL for (int v = 0; v < V; v++) {
                vf weights = *(const vf *)(w + p * panel_stride + (k * V + v) * W);
                if (R == 2 || R == 3) IN_REGISTER(weights); /* of more rows gcc does so itself */
                UNROLL for (int r = 0; r < R; r++) acc[r][p * V + v] += x[r] * weights;
            }
        }
    }
}

/* The same over all k. Beyond LINK steps the sum is made of several chains, each begun at zero and added when it is
 * done: the rounding error of one chain would grow with K. Where chains begin depends on k alone. */
enum { LINK = 256 };

INLINE void accumulate(const int R, const int P, const int V, const float *w, ptrdiff_t panel_stride, ptrdiff_t K,
                       const float *const *a, vf acc[][32]) {
    vf sum[8][32]; /* of the chains that are done; in memory, the registers belong to the one that runs */
    for (ptrdiff_t k = 0;; k += LINK) {
        const ptrdiff_t end = K < k + LINK ? K : k + LINK;
        chain(R, P, V, w, panel_stride, k, end, a, acc);
        if (k > 0) {
            UNROLL for (int r = 0; r < R; r++) {
                UNROLL for (int v = 0; v < P * V; v++) acc[r][v] += sum[r][v];
            }
        }
        if (end == K) break;
        UNROLL for (int r = 0; r < R; r++) {
            UNROLL for (int v = 0; v < P * V; v++) {
                sum[r][v] = acc[r][v];
                acc[r][v] = (vf){};
            }
        }
    }
}

/* ---- products ------------------------------------------------------------------------------------------------ */

INLINE void product_tile(const int R, const int P, const int V, const rnncore_panels *w, ptrdiff_t panel,
                         const float *const *a, const float *start, float *z, ptrdiff_t z_stride) {
    vf acc[8][32];
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < P * V; v++) {
            const ptrdiff_t at = (panel * V + v) * W;
            acc[r][v] = load(start ? start + at : z + r * z_stride + at);
        }
    }
    accumulate(R, P, V, w->data + panel * w->K * V * W, w->K * V * W, w->K, a, acc);
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int v = 0; v < P * V; v++) store(z + r * z_stride + (panel * V + v) * W, acc[r][v]);
    }
}

INLINE const float *row_of(const rnncore_rows *rows, ptrdiff_t row) {
    return rows->base + (rows->offset ? rows->offset[row] : row * rows->stride);
}

/* Every size of tile is a function of its own, so that the loop over k has all registers to itself. */
#define NOINLINE static __attribute__((noinline))

typedef struct {
    const rnncore_panels *w;
    const rnncore_rows *rows;
    const float *start;
    float *z;
    ptrdiff_t z_stride;
} product_call;

#define PRODUCT_TILE(R, P, V)                                                                                         \
    NOINLINE void product_##R##_##P##_##V(const product_call *call, ptrdiff_t panel, ptrdiff_t row) {                 \
        const float *a[R];                                                                                            \
        UNROLL for (int r = 0; r < R; r++) a[r] = row_of(call->rows, row + r);                                        \
        product_tile(R, P, V, call->w, panel, a, call->start, call->z + row * call->z_stride, call->z_stride);        \
    }

/* Whether the next R rows make a tile, of the sizes in falling order. One row alone has too few chains to hide the latency
 * of its multiply-adds and two wait for the weights, so 7 are 4 and 3, and 8 are twice 4. */
#define TILE_FITS(R)                                                                                                  \
    (n - row >= R && (R <= 2 || n - row != R + 1) && !(R == 6 && n - row == 8) && !(R == 5 && n - row != 5))

/* The next rows against P panels at ``panel``, R at a time. */
#define PRODUCT_ROWS(R, P, V)                                                                                         \
    for (; TILE_FITS(R); row += R) product_##R##_##P##_##V(&call, panel, row);

/* Tiles of 6 x 4 vectors with AVX-512 or NEON's 32 registers, 3 x 4 with 16. */
#if VECTORS == 32
#define TILES_OF(MAKE, ...)                                                                                           \
    MAKE(6, __VA_ARGS__)                                                                                              \
    MAKE(5, __VA_ARGS__)                                                                                              \
    MAKE(4, __VA_ARGS__)                                                                                              \
    MAKE(3, __VA_ARGS__)                                                                                              \
    MAKE(2, __VA_ARGS__)                                                                                              \
    MAKE(1, __VA_ARGS__)
#else
#define TILES_OF(MAKE, ...)                                                                                           \
    MAKE(3, __VA_ARGS__)                                                                                              \
    MAKE(2, __VA_ARGS__)                                                                                              \
    MAKE(1, __VA_ARGS__)
#endif

TILES_OF(PRODUCT_TILE, 1, 4)
TILES_OF(PRODUCT_TILE, 1, 3)
TILES_OF(PRODUCT_TILE, 4, 1)
TILES_OF(PRODUCT_TILE, 1, 1)
PRODUCT_TILE(1, 2, 4)
PRODUCT_TILE(1, 3, 3)
PRODUCT_TILE(1, 8, 1)

/* Panels P at a time while there are that many. */
#define PRODUCT_PANELS(P, ROWS)                                                                                       \
    for (; panel + P <= last; panel += P) {                                                                           \
        ptrdiff_t row = 0;                                                                                            \
        ROWS                                                                                                          \
    }

static void product(const rnncore_panels *w, ptrdiff_t first, ptrdiff_t last, ptrdiff_t n, const rnncore_rows *rows,
                    const float *start, float *z, ptrdiff_t z_stride) {
    const product_call call = {w, rows, start, z, z_stride};
    const int wide = n == 1 && !FEW_CHAINS;
    ptrdiff_t panel = first;
    if (w->V == 4) {
        if (wide) PRODUCT_PANELS(2, PRODUCT_ROWS(1, 2, 4))
        PRODUCT_PANELS(1, TILES_OF(PRODUCT_ROWS, 1, 4))
    } else if (w->V == 3) {
        if (wide) PRODUCT_PANELS(3, PRODUCT_ROWS(1, 3, 3))
        PRODUCT_PANELS(1, TILES_OF(PRODUCT_ROWS, 1, 3))
    } else {
        if (wide) PRODUCT_PANELS(8, PRODUCT_ROWS(1, 8, 1))
        PRODUCT_PANELS(4, TILES_OF(PRODUCT_ROWS, 4, 1))
        PRODUCT_PANELS(1, TILES_OF(PRODUCT_ROWS, 1, 1))
    }
}

/* ---- fused steps --------------------------------------------------------------------------------------------- */

/* Arguments of a tile: R rows and P panels of a step. */
#define TILE_ARGUMENTS                                                                                                \
    const int R, const int P, const rnncore_panels *w, const rnncore_point *point, ptrdiff_t panel, float *z,         \
        ptrdiff_t z_stride, const float *h, ptrdiff_t h_stride, float *next, ptrdiff_t next_stride, float *c,         \
        ptrdiff_t c_stride

/* A tile of panels of V gates: sums that START begins, and UNITS that finish them. (Where the units are is only asked for
 * after the sums: before, it would take registers from them.) */
#define FUSED_TILE(NAME, V, START, UNITS)                                                                             \
    INLINE void NAME(TILE_ARGUMENTS) {                                                                                \
        vf acc[8][32];                                                                                                \
        const float *a[8];                                                                                            \
        rnncore_units at[32];                                                                                         \
        UNROLL for (int r = 0; r < R; r++) {                                                                          \
            a[r] = h + r * h_stride;                                                                                  \
            UNROLL for (int p = 0; p < P; p++) START(V, point, panel + p, z + r * z_stride, &acc[r][V * p]);          \
        }                                                                                                             \
        accumulate(R, P, V, w->data + panel * w->K * V * W, w->K * V * W, w->K, a, acc);                              \
        UNROLL for (int r = 0; r < R; r++) {                                                                          \
            UNROLL for (int p = 0; p < P; p++) {                                                                      \
                at[r * P + p] = (rnncore_units){panel + p, &acc[r][V * p], z + r * z_stride, h + r * h_stride,        \
                                                next + r * next_stride, c + r * c_stride};                            \
            }                                                                                                         \
        }                                                                                                             \
        ABREAST(R * P, UNITS, point, at)                                                                              \
    }

FUSED_TILE(lstm_tile, 4, gates_start, lstm_units)
FUSED_TILE(coupled_tile, 3, gates_start, coupled_units)
FUSED_TILE(gru_tile, 3, gru_start, gru_units)
FUSED_TILE(rnn_tile, 1, gates_start, rnn_units)

/* Reset before the product, first half: next receives r * h, and in z the divisor of u takes its pre-activation's place. */
INLINE void reset_tile(TILE_ARGUMENTS) {
    vf acc[8][32];
    const float *a[8];
    UNROLL for (int r = 0; r < R; r++) {
        a[r] = h + r * h_stride;
        UNROLL for (int p = 0; p < P; p++) {
            acc[r][2 * p] = load(z + r * z_stride + (panel + p) * 3 * W);
            acc[r][2 * p + 1] = load(z + r * z_stride + ((panel + p) * 3 + 1) * W);
        }
    }
    accumulate(R, P, 2, w->data + panel * w->K * 2 * W, w->K * 2 * W, w->K, a, acc);
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int p = 0; p < P; p++) {
            const vf old = load(h + r * h_stride + (panel + p) * W);
            vf d[2];
            sigmoid_divisors(2, (vf[]){clipped(point, acc[r][2 * p]), clipped(point, acc[r][2 * p + 1])}, d);
            store(next + r * next_stride + (panel + p) * W, old / d[0]);
            store(z + r * z_stride + ((panel + p) * 3 + 1) * W, d[1]);
        }
    }
}

/* Second half: h is r * h, c the old output, which stays as it is. */
INLINE void candidate_tile(TILE_ARGUMENTS) {
    vf acc[8][32];
    const float *a[8];
    UNROLL for (int r = 0; r < R; r++) {
        a[r] = h + r * h_stride;
        UNROLL for (int p = 0; p < P; p++) acc[r][p] = load(z + r * z_stride + ((panel + p) * 3 + 2) * W);
    }
    accumulate(R, P, 1, w->data + panel * w->K * W, w->K * W, w->K, a, acc);
    UNROLL for (int r = 0; r < R; r++) {
        UNROLL for (int p = 0; p < P; p++) {
            vf N, D;
            const vf x = clipped(point, acc[r][p]);
            tanh_parts(1, &x, &N, &D);
            const vf d = load(z + r * z_stride + ((panel + p) * 3 + 1) * W);
            store(next + r * next_stride + (panel + p) * W, mix(d, N, D, load(c + r * c_stride + (panel + p) * W)));
        }
    }
}

/* The arguments of a step. */
typedef struct {
    const rnncore_panels *w;
    const rnncore_point *point;
    ptrdiff_t n;
    float *z;
    ptrdiff_t z_stride;
    const float *h;
    ptrdiff_t h_stride;
    float *next;
    ptrdiff_t next_stride;
    float *c;
    ptrdiff_t c_stride;
} step_call;

/* POINT is what the tile sees of the cell's options: where they are constants, what is not asked for costs nothing. */
#define STEP_TILE(R, P, NAME, TILE, POINT)                                                                            \
    NOINLINE void NAME##_##R##_##P(const step_call *call, ptrdiff_t panel, ptrdiff_t row) {                           \
        TILE(R, P, call->w, POINT, panel, call->z + row * call->z_stride, call->z_stride,                             \
             call->h + row * call->h_stride, call->h_stride, call->next + row * call->next_stride, call->next_stride, \
             call->c + row * call->c_stride, call->c_stride);                                                         \
    }

#define STEP_ROWS(R, P, NAME)                                                                                         \
    for (; TILE_FITS(R); row += R) NAME##_##R##_##P(&call, panel, row);

/* Walks groups of panels upwards or downwards; downwards begins where upwards ends. Groups of MANY for a single row that
 * needs more chains than one panel has, then of SOME, then one by one. */
#define WALK(NAME, MANY, SOME, REST)                                                                                  \
    static void NAME(const rnncore_panels *w, const rnncore_point *point, ptrdiff_t first, ptrdiff_t last, int down,  \
                     ptrdiff_t n, float *z, ptrdiff_t z_stride, const float *h, ptrdiff_t h_stride, float *next,      \
                     ptrdiff_t next_stride, float *c, ptrdiff_t c_stride) {                                           \
        const step_call call = {w, point, n, z, z_stride, h, h_stride, next, next_stride, c, c_stride};               \
        const ptrdiff_t many = n == 1 && !FEW_CHAINS ? (last - first) / MANY : 0;                                     \
        const ptrdiff_t some = (last - first - many * MANY) / SOME;                                                   \
        const ptrdiff_t groups = last - first - many * (MANY - 1) - some * (SOME - 1);                                \
        for (ptrdiff_t i = 0; i < groups; i++) {                                                                      \
            const ptrdiff_t j = down ? groups - 1 - i : i;                                                            \
            ptrdiff_t row = 0, panel = first + j * MANY;                                                              \
            if (j < many) {                                                                                           \
                NAME##_1_##MANY(&call, panel, row);                                                                   \
                continue;                                                                                             \
            }                                                                                                         \
            panel = first + many * MANY + (j - many) * SOME;                                                          \
            if (j < many + some) {                                                                                    \
                TILES_OF(STEP_ROWS, SOME, NAME)                                                                       \
                continue;                                                                                             \
            }                                                                                                         \
            panel = last - (groups - j);                                                                              \
            REST                                                                                                      \
        }                                                                                                             \
    }

/* A step whose tiles have one panel, or MANY for a single row where that needs more chains. */
#define STEP_BY_ONE(NAME, TILE, MANY, POINT)                                                                          \
    TILES_OF(STEP_TILE, 1, NAME, TILE, POINT)                                                                         \
    STEP_TILE(1, MANY, NAME, TILE, POINT)                                                                             \
    WALK(NAME, MANY, 1, )

/* The same for panels of few gates: SOME at once where there are that many. */
#define STEP_BY_SOME(NAME, TILE, MANY, SOME, POINT)                                                                   \
    TILES_OF(STEP_TILE, 1, NAME, TILE, POINT)                                                                         \
    TILES_OF(STEP_TILE, SOME, NAME, TILE, POINT)                                                                      \
    STEP_TILE(1, MANY, NAME, TILE, POINT)                                                                             \
    WALK(NAME, MANY, SOME, TILES_OF(STEP_ROWS, 1, NAME))

#define PLAIN (&(rnncore_point){.clip = INFINITY, .cell_clip = INFINITY})
#define PLAIN_GRU (&(rnncore_point){.clip = INFINITY, .bias_hn = call->point->bias_hn})

STEP_BY_ONE(lstm_step, lstm_tile, 2, call->point)
STEP_BY_ONE(lstm_plain_step, lstm_tile, 2, PLAIN)
STEP_BY_ONE(coupled_step, coupled_tile, 3, call->point)
STEP_BY_ONE(gru_step, gru_tile, 3, call->point)
STEP_BY_ONE(gru_plain_step, gru_tile, 3, PLAIN_GRU)
STEP_BY_SOME(reset_step, reset_tile, 4, 2, call->point)
STEP_BY_SOME(candidate_step, candidate_tile, 8, 4, call->point)
STEP_BY_SOME(rnn_step, rnn_tile, 8, 4, call->point)

#include "pipelined_body.h"

/* ---- quotients of polynomials -------------------------------------------------------------------------------- */

INLINE vf rational_of(enum rnncore_rational f, vf x) {
    if (f == RATIONAL_TANH) return rational_tanh(x);
    if (f == RATIONAL_SWISH) return x * MIN(splat(1.0f), rational_sigmoid(x));
    return rational_sigmoid(x);
}

INLINE void rational_all(const enum rnncore_rational f, ptrdiff_t n, const float *x, float *y) {
    ptrdiff_t i = 0;
    for (; i + W <= n; i += W) store(y + i, rational_of(f, load(x + i)));
    if (i < n) {
        float rest[W] = {0};
        memcpy(rest, x + i, (size_t)(n - i) * sizeof(float));
        store(rest, rational_of(f, load(rest)));
        memcpy(y + i, rest, (size_t)(n - i) * sizeof(float));
    }
}

static void rational(enum rnncore_rational f, ptrdiff_t n, const float *x, float *y) {
    switch (f) {
    case RATIONAL_SIGMOID: rational_all(RATIONAL_SIGMOID, n, x, y); break;
    case RATIONAL_TANH: rational_all(RATIONAL_TANH, n, x, y); break;
    case RATIONAL_SWISH: rational_all(RATIONAL_SWISH, n, x, y); break;
    }
}

const rnncore_isa ISA(rnncore_) = {
    .name = ISA_NAME,
    .width = W,
    .product = product,
    .lstm_step = lstm_step,
    .lstm_plain_step = lstm_plain_step,
    .coupled_step = coupled_step,
    .gru_step = gru_step,
    .gru_plain_step = gru_plain_step,
    .reset_step = reset_step,
    .candidate_step = candidate_step,
    .rnn_step = rnn_step,
    .lstm_pipelined = lstm_pipelined,
    .lstm_plain_pipelined = lstm_plain_pipelined,
    .coupled_pipelined = coupled_pipelined,
    .gru_pipelined = gru_pipelined,
    .gru_plain_pipelined = gru_plain_pipelined,
    .rnn_pipelined = rnn_pipelined,
    .pack_pipelined = pack_pipelined,
    .rnn_point = rnn_point_f32,
    .lstm_point = lstm_point_f32,
    .gru_gates = gru_gates_f32,
    .gru_point = gru_point_f32,
    .clip = clip_f32,
    .rational = rational,
};
