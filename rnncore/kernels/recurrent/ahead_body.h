/* A step of one row with, beside it, a part of the input product of the rows that come next. Included by body.h.
 *
 * A step of one row uses each weight once: it waits for the cache they come from, and its multiply-adds take half of
 * that time or less. The input product uses each weight for many rows: it waits for its multiply-adds. So the two share
 * one loop. While a chunk of R rows is stepped through, the product of the next R rows is made: at each visit of a panel
 * a part of one of its vectors, R rows at once, as many multiply-adds as the step has itself where input and output are
 * of one size. Every sum is the same chain over k as in product(). */

/* Vectors of the input weights stand beside those of the other gates, or APART: one behind the other. From the last cache
 * only the latter come in quickly, and quicker when they are asked for so many inputs before. */
enum { SOON = 8 };

/* For n inputs: side[r] += x[.][r] * w, and for E times as many outputs from k on what chain() does with one row. */
INLINE void chain_beside(const int P, const int V, const int E, const int R, const int APART, const float *w,
                         ptrdiff_t apart, ptrdiff_t k, ptrdiff_t n, const float *h, vf acc[][32], const float *w_ih,
                         const float *x, vf *side) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const vf weights = *(const vf *)(w_ih + i * (APART ? W : V * W));
        if (APART) __builtin_prefetch(w_ih + (i + SOON) * W);
        UNROLL for (int e = 0; e < E; e++) {
            const vf old = splat(h[k + i * E + e]);
            UNROLL for (int p = 0; p < P; p++) {
                UNROLL for (int v = 0; v < V; v++) {
                    acc[0][p * V + v] += old * *(const vf *)(w + p * apart + ((k + i * E + e) * V + v) * W);
                }
            }
            UNROLL for (int r = e * (R / E); r < (e + 1) * (R / E); r++) side[r] += splat(x[i * R + r]) * weights;
        }
    }
}

INLINE void chain_aside(const int R, ptrdiff_t n, const float *w_ih, ptrdiff_t step, const float *x, vf *side) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const vf weights = *(const vf *)(w_ih + i * step);
        UNROLL for (int r = 0; r < R; r++) side[r] += splat(x[i * R + r]) * weights;
    }
}

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t places __attribute__((vector_size(16)));

/* to[k * apart + r] = from[r * stride + k] for 4 rows and 4 k. */
INLINE void turn_square(const float *from, ptrdiff_t stride, float *to, ptrdiff_t apart) {
    quad row[4], pairs[4];
    UNROLL for (int r = 0; r < 4; r++) row[r] = *(const quad *)(from + r * stride);
    UNROLL for (int r = 0; r < 4; r += 2) {
        pairs[r] = __builtin_shuffle(row[r], row[r + 1], (places){0, 4, 1, 5});
        pairs[r + 1] = __builtin_shuffle(row[r], row[r + 1], (places){2, 6, 3, 7});
    }
    UNROLL for (int k = 0; k < 4; k += 2) {
        *(quad *)(to + k * apart) = __builtin_shuffle(pairs[k / 2], pairs[k / 2 + 2], (places){0, 1, 4, 5});
        *(quad *)(to + (k + 1) * apart) = __builtin_shuffle(pairs[k / 2], pairs[k / 2 + 2], (places){2, 3, 6, 7});
    }
}

static void pack_ahead(ptrdiff_t n, int there, const float *from, ptrdiff_t stride, float *to, int R) {
    int row = 0;
    for (; row + 4 <= there; row += 4) {
        ptrdiff_t k = 0;
        for (; k + 4 <= n; k += 4) turn_square(from + row * stride + k, stride, to + k * R + row, R);
        for (; k < n; k++) {
            for (int r = row; r < row + 4; r++) to[k * R + r] = from[r * stride + k];
        }
    }
    for (; row < R; row++) {
        for (ptrdiff_t k = 0; k < n; k++) to[k * R + row] = row < there ? from[row * stride + k] : 0;
    }
}

INLINE ptrdiff_t least(ptrdiff_t a, ptrdiff_t b) { return a < b ? a : b; }

/* acc is what accumulate() makes of it. Of P panels' input product the vector and the part of its sums that belong to
 * this visit: sums that are done stand in ahead->z, a chain that the visit before left in ahead->chain. */
INLINE void accumulate_beside(const int P, const int V, const int R, const int APART, const rnncore_panels *w,
                              ptrdiff_t panel, const float *h, vf acc[][32], const rnncore_ahead *ahead) {
    const int E = R / (P * V), vector = ahead->visit / E, part = ahead->visit % E;
    const ptrdiff_t K = w->K, I = ahead->w->K, apart = K * V * W, stride = ahead->z_stride;
    const ptrdiff_t column = (panel * V + vector) * W, end = I * (part + 1) / E;
    const float *data = w->data + panel * apart;
    const ptrdiff_t step = APART ? W : V * W;
    const float *w_ih = ahead->w->data + (APART ? column * I : (panel + vector / V) * I * step + vector % V * W);
    float *z = ahead->z + column, *unfinished = ahead->chain + column * R; /* (R, W) for each vector */
    ptrdiff_t k = 0, s = I * part / E;
    vf sum[32], side[16];
    UNROLL for (int r = 0; r < R; r++) {
        side[r] = s == 0 ? load(ahead->start + column) : s % LINK == 0 ? (vf){} : load(unfinished + r * W);
    }
    while (k < K || s < end) {
        const ptrdiff_t k_before = k, s_before = s;
        const ptrdiff_t k_end = least(K, k / LINK * LINK + LINK), s_end = least(end, s / LINK * LINK + LINK);
        const ptrdiff_t n = least((k_end - k) / E, s_end - s);
        chain_beside(P, V, E, R, APART, data, apart, k, n, h, acc, w_ih + s * step, ahead->x + s * R, side);
        k += n * E;
        s += n;
        if (s == end || k_end - k < E) { /* nothing is left to be beside */
            chain(1, P, V, data, apart, k, k_end, &h, acc);
            k = k_end;
        }
        if (k == K) {
            chain_aside(R, s_end - s, w_ih + s * step, step, ahead->x + s * R, side);
            s = s_end;
        }
        if (k == k_end && k > k_before) {
            if (k > LINK) {
                UNROLL for (int v = 0; v < P * V; v++) acc[0][v] += sum[v];
            }
            if (k < K) {
                UNROLL for (int v = 0; v < P * V; v++) {
                    sum[v] = acc[0][v];
                    acc[0][v] = (vf){};
                }
            }
        }
        if (s > s_before && (s % LINK == 0 || s == I)) {
            UNROLL for (int r = 0; r < R; r++) {
                store(z + r * stride, s > LINK ? (vf)(side[r] + load(z + r * stride)) : side[r]);
                side[r] = (vf){};
            }
        }
    }
    if (end % LINK != 0 && end != I) {
        UNROLL for (int r = 0; r < R; r++) store(unfinished + r * W, side[r]);
    }
}

/* The arguments of a step of one row. */
typedef struct {
    const rnncore_panels *w;
    const rnncore_point *point;
    const float *z, *h;
    float *next, *c;
    const rnncore_ahead *ahead;
} ahead_call;

/* UNITS finish what sums of V gates START with. */
#define AHEAD_TILE(NAME, START, UNITS, P, V, APART, POINT)                                                            \
    NOINLINE void NAME##_##P##_##APART(const ahead_call *call, ptrdiff_t panel) {                                     \
        vf acc[1][32];                                                                                                \
        rnncore_units at[P];                                                                                          \
        UNROLL for (int p = 0; p < P; p++) {                                                                          \
            START(V, POINT, panel + p, call->z, &acc[0][p * V]);                                                      \
            at[p] = (rnncore_units){panel + p, &acc[0][p * V], call->z, call->h, call->next, call->c};                \
        }                                                                                                             \
        accumulate_beside(P, V, AHEAD_ROWS(V), APART, call->w, panel, call->h, acc, call->ahead);                     \
        ABREAST(P, UNITS, POINT, at)                                                                                  \
    }

/* SOME panels at once while there are so many, then one by one; downwards the other way round. */
#define AHEAD_WALK(NAME, SOME, APART)                                                                                 \
    const ptrdiff_t some = (last - first) / SOME, groups = some + (last - first) % SOME;                              \
    for (ptrdiff_t i = 0; i < groups; i++) {                                                                          \
        const ptrdiff_t j = down ? groups - 1 - i : i;                                                                \
        if (j < some) {                                                                                               \
            NAME##_##SOME##_##APART(&call, first + j * SOME);                                                         \
        } else {                                                                                                      \
            NAME##_1_##APART(&call, last - (groups - j));                                                             \
        }                                                                                                             \
    }

#define AHEAD_ARGUMENTS                                                                                               \
    const rnncore_panels *w, const rnncore_point *point, ptrdiff_t first, ptrdiff_t last, int down, const float *z,   \
        const float *h, float *next, float *c, const rnncore_ahead *ahead

INLINE int stands_apart(const rnncore_ahead *ahead) { return ahead->w->V == 1; }

/* Cells of several gates, whose vectors may stand apart. */
#define AHEAD(NAME, START, UNITS, V, POINT)                                                                           \
    AHEAD_TILE(NAME, START, UNITS, 1, V, 0, POINT)                                                                    \
    AHEAD_TILE(NAME, START, UNITS, 1, V, 1, POINT)                                                                    \
    static void NAME(AHEAD_ARGUMENTS) {                                                                               \
        const ahead_call call = {w, point, z, h, next, c, ahead};                                                     \
        if (stands_apart(ahead)) {                                                                                    \
            AHEAD_WALK(NAME, 1, 1)                                                                                    \
        } else {                                                                                                      \
            AHEAD_WALK(NAME, 1, 0)                                                                                    \
        }                                                                                                             \
    }

AHEAD(lstm_ahead, gates_start, lstm_units, 4, call->point)
AHEAD(lstm_plain_ahead, gates_start, lstm_units, 4, PLAIN)
AHEAD(coupled_ahead, gates_start, coupled_units, 3, call->point)
AHEAD(gru_ahead, gru_start, gru_units, 3, call->point)
AHEAD(gru_plain_ahead, gru_start, gru_units, 3, PLAIN_GRU)
AHEAD_TILE(rnn_ahead, gates_start, rnn_units, 4, 1, 0, call->point)
AHEAD_TILE(rnn_ahead, gates_start, rnn_units, 1, 1, 0, call->point)

static void rnn_ahead(AHEAD_ARGUMENTS) {
    const ahead_call call = {w, point, z, h, next, c, ahead};
    AHEAD_WALK(rnn_ahead, 4, 0)
}
