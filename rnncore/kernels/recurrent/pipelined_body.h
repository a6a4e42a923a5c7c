/* A step of one row, together with a part of the input product of the rows that come next. Included by body.h.
 *
 * A step of one row uses each weight once: it waits for the cache they come from, and its multiply-adds take half of
 * that time or less. The input product uses each weight for many rows: it waits for its multiply-adds. So the two share
 * one loop. While a chunk of R rows is stepped through, the product of the next R rows is made: at each visit of a panel
 * a part of one of its vectors, R rows at once, as many multiply-adds as the step has itself where input and output are
 * of one size. Every sum is the same chain over k as in product(). */

/* Vectors of the input weights alternate with those of the other gates, or SEPARATE: each is contiguous. From the last
 * cache only the latter come in quickly, and quicker when they are asked for this many inputs before. */
enum { SOON = 8 };

/* For n inputs: side[r] += x[.][r] * w, and for E times as many outputs from k on what chain() does with one row. */
INLINE void chain_pipelined(const int P, const int V, const int E, const int R, const int SEPARATE, const float *w,
                            ptrdiff_t panel_stride, ptrdiff_t k, ptrdiff_t n, const float *h, vf acc[][32],
                            const float *w_ih, const float *x, vf *side) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const vf weights = *(const vf *)(w_ih + i * (SEPARATE ? W : V * W));
        if (SEPARATE) __builtin_prefetch(w_ih + (i + SOON) * W);
        UNROLL for (int e = 0; e < E; e++) {
            const vf old = splat(h[k + i * E + e]);
            UNROLL for (int p = 0; p < P; p++) {
                UNROLL for (int v = 0; v < V; v++) {
                    acc[0][p * V + v] += old * *(const vf *)(w + p * panel_stride + ((k + i * E + e) * V + v) * W);
                }
            }
            UNROLL for (int r = e * (R / E); r < (e + 1) * (R / E); r++) side[r] += splat(x[i * R + r]) * weights;
        }
    }
}

INLINE void product_part(const int R, ptrdiff_t n, const float *w_ih, ptrdiff_t step, const float *x, vf *side) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const vf weights = *(const vf *)(w_ih + i * step);
        UNROLL for (int r = 0; r < R; r++) side[r] += splat(x[i * R + r]) * weights;
    }
}

typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t places __attribute__((vector_size(16)));

/* to[k * to_stride + r] = from[r * stride + k] for 4 rows and 4 k. */
INLINE void turn_square(const float *from, ptrdiff_t stride, float *to, ptrdiff_t to_stride) {
    quad row[4], pairs[4];
    UNROLL for (int r = 0; r < 4; r++) row[r] = *(const quad *)(from + r * stride);
    UNROLL for (int r = 0; r < 4; r += 2) {
        pairs[r] = __builtin_shuffle(row[r], row[r + 1], (places){0, 4, 1, 5});
        pairs[r + 1] = __builtin_shuffle(row[r], row[r + 1], (places){2, 6, 3, 7});
    }
    UNROLL for (int k = 0; k < 4; k += 2) {
        *(quad *)(to + k * to_stride) = __builtin_shuffle(pairs[k / 2], pairs[k / 2 + 2], (places){0, 1, 4, 5});
        *(quad *)(to + (k + 1) * to_stride) = __builtin_shuffle(pairs[k / 2], pairs[k / 2 + 2], (places){2, 3, 6, 7});
    }
}

static void pack_pipelined(ptrdiff_t n, int there, const float *from, ptrdiff_t stride, float *to, int R) {
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
 * this visit: sums that are done are in pipelined->z, a chain that the visit before left in pipelined->chain. */
INLINE void accumulate_pipelined(const int P, const int V, const int R, const int SEPARATE, const rnncore_panels *w,
                                 ptrdiff_t panel, const float *h, vf acc[][32], const rnncore_pipelined *pipelined) {
    const int E = R / (P * V), vector = pipelined->visit / E, part = pipelined->visit % E;
    const ptrdiff_t K = w->K, I = pipelined->w->K, panel_stride = K * V * W, stride = pipelined->z_stride;
    const ptrdiff_t column = (panel * V + vector) * W, end = I * (part + 1) / E;
    const float *data = w->data + panel * panel_stride;
    const ptrdiff_t step = SEPARATE ? W : V * W;
    const float *w_ih = pipelined->w->data + (SEPARATE ? column * I : (panel + vector / V) * I * step + vector % V * W);
    float *z = pipelined->z + column, *unfinished = pipelined->chain + column * R; /* (R, W) for each vector */
    ptrdiff_t k = 0, s = I * part / E;
    vf sum[32], side[16];
    UNROLL for (int r = 0; r < R; r++) {
        side[r] = s == 0 ? load(pipelined->start + column) : s % LINK == 0 ? (vf){} : load(unfinished + r * W);
    }
    while (k < K || s < end) {
        const ptrdiff_t k_before = k, s_before = s;
        const ptrdiff_t k_end = least(K, k / LINK * LINK + LINK), s_end = least(end, s / LINK * LINK + LINK);
        const ptrdiff_t n = least((k_end - k) / E, s_end - s);
        chain_pipelined(P, V, E, R, SEPARATE, data, panel_stride, k, n, h, acc, w_ih + s * step, pipelined->x + s * R,
                        side);
        k += n * E;
        s += n;
        if (s == end || k_end - k < E) { /* nothing is left to go with */
            chain(1, P, V, data, panel_stride, k, k_end, &h, acc);
            k = k_end;
        }
        if (k == K) {
            product_part(R, s_end - s, w_ih + s * step, step, pipelined->x + s * R, side);
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
    const rnncore_pipelined *pipelined;
} pipelined_call;

/* UNITS finish what sums of V gates START with. */
#define PIPELINED_TILE(NAME, START, UNITS, P, V, SEPARATE, POINT)                                                     \
    NOINLINE void NAME##_##P##_##SEPARATE(const pipelined_call *call, ptrdiff_t panel) {                              \
        vf acc[1][32];                                                                                                \
        rnncore_units at[P];                                                                                          \
        UNROLL for (int p = 0; p < P; p++) {                                                                          \
            START(V, POINT, panel + p, call->z, &acc[0][p * V]);                                                      \
            at[p] = (rnncore_units){panel + p, &acc[0][p * V], call->z, call->h, call->next, call->c};                \
        }                                                                                                             \
        accumulate_pipelined(P, V, PIPELINED_ROWS(V), SEPARATE, call->w, panel, call->h, acc, call->pipelined);       \
        ABREAST(P, UNITS, POINT, at)                                                                                  \
    }

/* SOME panels at once while there are that many, then one by one; downwards the other way round. */
#define PIPELINED_WALK(NAME, SOME, SEPARATE)                                                                          \
    const ptrdiff_t some = (last - first) / SOME, groups = some + (last - first) % SOME;                              \
    for (ptrdiff_t i = 0; i < groups; i++) {                                                                          \
        const ptrdiff_t j = down ? groups - 1 - i : i;                                                                \
        if (j < some) {                                                                                               \
            NAME##_##SOME##_##SEPARATE(&call, first + j * SOME);                                                      \
        } else {                                                                                                      \
            NAME##_1_##SEPARATE(&call, last - (groups - j));                                                          \
        }                                                                                                             \
    }

#define PIPELINED_ARGUMENTS                                                                                           \
    const rnncore_panels *w, const rnncore_point *point, ptrdiff_t first, ptrdiff_t last, int down, const float *z,   \
        const float *h, float *next, float *c, const rnncore_pipelined *pipelined

INLINE int is_separate(const rnncore_pipelined *pipelined) { return pipelined->w->V == 1; }

/* Cells of several gates, whose input weights may be packed vector by vector. */
#define PIPELINED(NAME, START, UNITS, V, POINT)                                                                       \
    PIPELINED_TILE(NAME, START, UNITS, 1, V, 0, POINT)                                                                \
    PIPELINED_TILE(NAME, START, UNITS, 1, V, 1, POINT)                                                                \
    static void NAME(PIPELINED_ARGUMENTS) {                                                                           \
        const pipelined_call call = {w, point, z, h, next, c, pipelined};                                             \
        if (is_separate(pipelined)) {                                                                                 \
            PIPELINED_WALK(NAME, 1, 1)                                                                                \
        } else {                                                                                                      \
            PIPELINED_WALK(NAME, 1, 0)                                                                                \
        }                                                                                                             \
    }

PIPELINED(lstm_pipelined, gates_start, lstm_units, 4, call->point)
PIPELINED(lstm_plain_pipelined, gates_start, lstm_units, 4, PLAIN)
PIPELINED(coupled_pipelined, gates_start, coupled_units, 3, call->point)
PIPELINED(gru_pipelined, gru_start, gru_units, 3, call->point)
PIPELINED(gru_plain_pipelined, gru_start, gru_units, 3, PLAIN_GRU)
PIPELINED_TILE(rnn_pipelined, gates_start, rnn_units, 4, 1, 0, call->point)
PIPELINED_TILE(rnn_pipelined, gates_start, rnn_units, 1, 1, 0, call->point)

static void rnn_pipelined(PIPELINED_ARGUMENTS) {
    const pipelined_call call = {w, point, z, h, next, c, pipelined};
    PIPELINED_WALK(rnn_pipelined, 4, 0)
}
