/* What a step does with the pre-activations of a panel's units: activations, and the cells' new states. Included by body.h.
 *
 * The units of several rows or panels go abreast: operation by operation, M vectors each. One vector alone would wait for
 * each result, and what comes after it is too far away for the CPU to begin with it meanwhile. */

#define EACH(i) UNROLL for (int i = 0; i < M; i++)
enum { MOST = 4 };

INLINE vf clip(vf x, float top) { return limit(x, -top, top); }

/* e^(u x) = s (1 + u p), s a power of two, for |u x| <= 88 and a power of two u: u x = n ln 2 + u r, p = (e^(u r) - 1) / u
 * from a polynomial (minimax fit, 0.2 units of 2^-24). Adding shift rounds n to an integer and leaves n + 127 in the low
 * bits, which become the exponent of s. */
INLINE void exp_parts(const int M, const vf *x, const float u, vf *s, vf *p) {
    const vf shift = splat(12582912.0f + 127.0f);
    vf t[MOST], n[MOST], r[MOST], q[MOST];
    EACH(i) t[i] = x[i] * splat(u * 1.44269504088896341f) + shift;
    EACH(i) n[i] = t[i] - shift;
    EACH(i) r[i] = (x[i] - n[i] * splat(0.693359375f / u)) - n[i] * splat(-2.12194440054690583e-4f / u);
    EACH(i) q[i] = splat(1.38499122e-3f * (u * u * u * u * u)) * r[i] + splat(8.36767722e-3f * (u * u * u * u));
    EACH(i) q[i] = q[i] * r[i] + splat(4.16679457e-2f * (u * u * u));
    EACH(i) q[i] = q[i] * r[i] + splat(1.66665316e-1f * (u * u));
    EACH(i) q[i] = q[i] * r[i] + splat(4.9999994e-1f * u);
    EACH(i) p[i] = (q[i] * r[i]) * r[i] + r[i];
    EACH(i) s[i] = (vf)((vi)t[i] << 23);
}

/* What the gates are made of, in forms that leave the division to the caller so that products share one. Alone both are
 * within 2 ulp wherever the exact result is a normal number; sigmoid results below those are flushed to zero.
 *   sigmoid(x) = 1 / d      d is 1 + e^-x, and infinite from x = -89 on
 *   tanh(x)    = N / D      N = (1 - e^-2|x|) / 2 with the sign of x, D = (1 + e^-2|x|) / 2
 * The order of the sums matters: each is rounded where it does least harm. */
INLINE void sigmoid_divisors(const int M, const vf *x, vf *d) {
    vf p[MOST], s[MOST], low[MOST], inside[MOST], one[MOST];
    EACH(i) low[i] = MIN(splat(87.0f), x[i]);
    EACH(i) inside[i] = MAX(splat(-88.0f), low[i]);
    EACH(i) one[i] = (inside[i] - low[i]) * splat(3e38f) + splat(1.0f);
    exp_parts(M, inside, -1.0f, s, p);
    EACH(i) d[i] = s[i] + (one[i] - s[i] * p[i]);
}

INLINE void tanh_parts(const int M, const vf *x, vf *N, vf *D) {
    vf p[MOST], s[MOST], size[MOST];
    EACH(i) size[i] = MIN(splat(40.0f), (vf)((vi)x[i] & INT32_MAX));
    exp_parts(M, size, -2.0f, s, p);
    EACH(i) N[i] = s[i] * p[i] + (splat(0.5f) - s[i] * splat(0.5f));
    EACH(i) D[i] = (splat(0.5f) + s[i] * splat(0.5f)) - s[i] * p[i];
    EACH(i) N[i] = (vf)((vi)N[i] | ((vi)x[i] & INT32_MIN));
}

/* (1 - u) n + u old with u = 1 / d and n = N / D, over one division; d stays finite: u >= 2^-127 */
INLINE vf mix(vf d, vf N, vf D, vf old) {
    d = MIN(splat(0x1p127f), d);
    return ((d - splat(1.0f)) * N + old * D) / (d * D);
}

INLINE vf clipped(const rnncore_point *point, vf z) { return point->clip < INFINITY ? clip(z, point->clip) : z; }

/* One panel's units of one row. */
typedef struct {
    ptrdiff_t panel;
    const vf *sums;     /* (V): pre-activations, gate by gate */
    const float *z, *h; /* of the row: input product and old output */
    float *next, *c;    /* of the row: new output and cell state */
} rnncore_units;

/* UNITS of ALL places, two abreast, or all three. */
#define ABREAST(ALL, UNITS, POINT, AT)                                                                                \
    if ((ALL) == 3) {                                                                                                 \
        UNITS(3, POINT, AT);                                                                                          \
    } else {                                                                                                          \
        UNROLL for (int at_ = 0; at_ + 1 < (ALL); at_ += 2) UNITS(2, POINT, (AT) + at_);                              \
        if ((ALL) % 2) UNITS(1, POINT, (AT) + (ALL) - 1);                                                             \
    }

/* What the V sums of a panel begin with: the row's input product, and for a GRU's candidate the bias of R_n h. */
INLINE void gates_start(const int V, const rnncore_point *point, ptrdiff_t panel, const float *z, vf *sums) {
    UNROLL for (int v = 0; v < V; v++) sums[v] = load(z + (panel * V + v) * W);
}

INLINE void gru_start(const int V, const rnncore_point *point, ptrdiff_t panel, const float *z, vf *sums) {
    gates_start(V, point, panel, z, sums);
    sums[2] = load(point->bias_hn + panel * W);
}

/* The new h and c, from a c that is done but for its clip. peephole: (W) of the output gate, or NULL. */
INLINE void lstm_output(const int M, const rnncore_point *point, const rnncore_units *at, const float *const *peephole,
                        vf *zo, vf *cell) {
    vf N[MOST], D[MOST], d[MOST];
    EACH(i) {
        if (point->cell_clip < INFINITY) cell[i] = clip(cell[i], point->cell_clip);
        if (peephole[i]) zo[i] += load(peephole[i]) * cell[i];
        zo[i] = clipped(point, zo[i]);
        store(at[i].c + at[i].panel * W, cell[i]);
    }
    sigmoid_divisors(M, zo, d);
    tanh_parts(M, cell, N, D);
    EACH(i) store(at[i].next + at[i].panel * W, N[i] / (d[i] * D[i]));
}

/* Gates i f g o. */
INLINE void lstm_units(const int M, const rnncore_point *point, const rnncore_units *at) {
    vf cell[MOST], zi[MOST], zf[MOST], zg[MOST], zo[MOST], N[MOST], D[MOST], di[MOST], df[MOST];
    const float *peephole[MOST];
    EACH(i) {
        const float *p = point->peephole ? point->peephole + at[i].panel * 3 * W : NULL;
        cell[i] = load(at[i].c + at[i].panel * W);
        zi[i] = at[i].sums[0];
        zf[i] = at[i].sums[1];
        zo[i] = at[i].sums[3];
        if (p) {
            zi[i] += load(p) * cell[i];
            zf[i] += load(p + W) * cell[i];
        }
        zi[i] = clipped(point, zi[i]);
        zf[i] = clipped(point, zf[i]) + splat(point->forget_bias);
        zg[i] = clipped(point, at[i].sums[2]);
        peephole[i] = p ? p + 2 * W : NULL;
    }
    tanh_parts(M, zg, N, D);
    sigmoid_divisors(M, zf, df);
    sigmoid_divisors(M, zi, di);
    EACH(i) cell[i] = cell[i] / df[i] + N[i] / (di[i] * D[i]);
    lstm_output(M, point, at, peephole, zo, cell);
}

/* Gates f g o or i g o: the other one of i and f is derived. */
INLINE void coupled_units(const int M, const rnncore_point *point, const rnncore_units *at) {
    vf cell[MOST], gate[MOST], zg[MOST], zo[MOST], N[MOST], D[MOST], d[MOST];
    const float *peephole[MOST];
    EACH(i) {
        const float *p = point->peephole ? point->peephole + at[i].panel * 2 * W : NULL;
        cell[i] = load(at[i].c + at[i].panel * W);
        gate[i] = at[i].sums[0];
        zo[i] = at[i].sums[2];
        if (p) gate[i] += load(p) * cell[i];
        gate[i] = clipped(point, gate[i]) + splat(point->forget_bias);
        zg[i] = clipped(point, at[i].sums[1]);
        peephole[i] = p ? p + W : NULL;
    }
    tanh_parts(M, zg, N, D);
    sigmoid_divisors(M, gate, d);
    EACH(i) {
        if (point->coupled == COUPLED_INPUT) {
            cell[i] = mix(d[i], N[i], D[i], cell[i]);
        } else {
            cell[i] += (N[i] / D[i] - cell[i]) / d[i]; /* a small i counts in full, which mix would round away with 1 - f */
        }
    }
    lstm_output(M, point, at, peephole, zo, cell);
}

/* Sums of r and u, and R_n h + b_hn; the candidate's input product is in z. */
INLINE void gru_units(const int M, const rnncore_point *point, const rnncore_units *at) {
    vf zr[MOST], zu[MOST], zn[MOST], dr[MOST], du[MOST], N[MOST], D[MOST];
    EACH(i) {
        zr[i] = clipped(point, at[i].sums[0]);
        zu[i] = clipped(point, at[i].sums[1]);
    }
    sigmoid_divisors(M, zr, dr);
    EACH(i) zn[i] = clipped(point, load(at[i].z + (at[i].panel * 3 + 2) * W) + at[i].sums[2] / dr[i]);
    sigmoid_divisors(M, zu, du);
    tanh_parts(M, zn, N, D);
    EACH(i) store(at[i].next + at[i].panel * W, mix(du[i], N[i], D[i], load(at[i].h + at[i].panel * W)));
}

INLINE void rnn_units(const int M, const rnncore_point *point, const rnncore_units *at) {
    vf x[MOST], N[MOST], D[MOST];
    EACH(i) x[i] = clipped(point, at[i].sums[0]);
    if (point->relu) {
        EACH(i) x[i] = MAX(splat(0.0f), x[i]);
    } else {
        tanh_parts(M, x, N, D);
        EACH(i) x[i] = N[i] / D[i];
    }
    EACH(i) store(at[i].next + at[i].panel * W, x[i]);
}
