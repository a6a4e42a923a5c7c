/* What a cell does with one row after the products. Included once per REAL by cell.h.
 * z (G*H): pre-activations without recurrent bias of n (GRU) or any bias (layer norm); destroyed.
 * Nothing overlaps; nothing can fail. */

static inline void NAME(clip)(ptrdiff_t n, REAL *restrict x, double limit) {
    if (!(limit < INFINITY)) return;
    const REAL top = (REAL)limit;
    for (ptrdiff_t i = 0; i < n; i++) x[i] = x[i] < -top ? -top : (x[i] > top ? top : x[i]);
}

/* x = (x - mean) / sqrt(var + epsilon) * weight + bias */
static void NAME(layer_norm)(ptrdiff_t n, REAL *restrict x, double epsilon, const REAL *weight, const REAL *bias) {
    double sum = 0, square = 0;
    for (ptrdiff_t i = 0; i < n; i++) sum += x[i];
    const double mean = sum / (double)n;
    for (ptrdiff_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    const double scale = 1.0 / sqrt(square / (double)n + epsilon);
    for (ptrdiff_t i = 0; i < n; i++) x[i] = (REAL)((x[i] - mean) * scale) * weight[i] + bias[i];
}

/* h (H): new output, overwritten; it may not be read before: the old h is in z already. */
static void NAME(rnn_point)(const rnncore_cell *cell, REAL *restrict z, REAL *restrict h) {
    NAME(clip)(cell->hidden_size, z, cell->clip);
    NAME(act)(&cell->act[0], cell->hidden_size, z);
    for (ptrdiff_t i = 0; i < cell->hidden_size; i++) h[i] = z[i];
}

/* One LSTM gate: peephole against c, layer norm, clip, forget bias, activation; z (H) in place. */
static void NAME(lstm_gate)(const rnncore_cell *cell, int place, ptrdiff_t row, const REAL *peephole, const REAL *c,
                            REAL *restrict z) {
    const ptrdiff_t n = cell->hidden_size;
    if (peephole) {
        for (ptrdiff_t i = 0; i < n; i++) z[i] += peephole[i] * c[i];
    }
    if (cell->layer_norm != LN_NONE) {
        NAME(layer_norm)(n, z, cell->epsilon, (const REAL *)cell->ln_weight + row * n, (const REAL *)cell->bias + row * n);
    }
    NAME(clip)(n, z, cell->clip);
    if (place == 1 && cell->forget_bias != 0) {
        for (ptrdiff_t i = 0; i < n; i++) z[i] += (REAL)cell->forget_bias;
    }
    NAME(act)(&cell->act[place], n, z);
}

/* c (H): cell state, in and out. out (H): o * act_h(c), the output before any projection.
 * Rows of z: i f g o, without i or f where the coupling derives it. */
static void NAME(lstm_point)(const rnncore_cell *cell, REAL *restrict z, REAL *restrict c, REAL *restrict out) {
    const ptrdiff_t n = cell->hidden_size;
    const REAL *p = (const REAL *)cell->peephole;
    const ptrdiff_t row_g = cell->gates - 2, row_o = cell->gates - 1;
    REAL *g = z + row_g * n, *o = z + row_o * n;
    REAL *i = z, *f = z + (cell->coupled == COUPLED_NONE ? n : 0);

    if (cell->coupled != COUPLED_INPUT) NAME(lstm_gate)(cell, 0, 0, p, c, i);
    if (cell->coupled != COUPLED_FORGET) NAME(lstm_gate)(cell, 1, row_g - 1, p ? p + (row_g - 1) * n : NULL, c, f);
    NAME(lstm_gate)(cell, 2, row_g, NULL, c, g);
    if (cell->coupled == COUPLED_INPUT) {
        for (ptrdiff_t k = 0; k < n; k++) c[k] = f[k] * c[k] + (1 - f[k]) * g[k];
    } else if (cell->coupled == COUPLED_FORGET) {
        for (ptrdiff_t k = 0; k < n; k++) c[k] = (1 - i[k]) * c[k] + i[k] * g[k];
    } else {
        for (ptrdiff_t k = 0; k < n; k++) c[k] = f[k] * c[k] + i[k] * g[k];
    }
    if (cell->layer_norm == LN_TF1) {
        NAME(layer_norm)(n, c, cell->epsilon, (const REAL *)cell->ln_cell_weight, (const REAL *)cell->ln_cell_bias);
    }
    NAME(clip)(n, c, cell->cell_clip);
    NAME(lstm_gate)(cell, 3, row_o, p ? p + row_g * n : NULL, c, o);
    for (ptrdiff_t k = 0; k < n; k++) out[k] = c[k];
    NAME(act)(&cell->act[4], n, out);
    for (ptrdiff_t k = 0; k < n; k++) out[k] *= o[k];
}

/* First half of a GRU step: r and z activated in place; reset before the product also needs r * h. rh (H) or NULL. */
static void NAME(gru_gates)(const rnncore_cell *cell, REAL *restrict z, const REAL *restrict h, REAL *restrict rh) {
    const ptrdiff_t n = cell->hidden_size;
    NAME(clip)(2 * n, z, cell->clip);
    NAME(act)(&cell->act[0], n, z);
    NAME(act)(&cell->act[1], n, z + n);
    if (rh) {
        for (ptrdiff_t k = 0; k < n; k++) rh[k] = z[k] * h[k];
    }
}

/* Second half: hn (H) is R_n h + b_hn with reset_after, and NULL where z already holds R_n (r * h).
 * h (H): in and out. */
static void NAME(gru_point)(const rnncore_cell *cell, REAL *restrict z, const REAL *restrict hn, REAL *restrict h) {
    const ptrdiff_t n = cell->hidden_size;
    REAL *r = z, *u = z + n, *g = z + 2 * n;
    if (hn) {
        for (ptrdiff_t k = 0; k < n; k++) g[k] += r[k] * hn[k];
    }
    NAME(clip)(n, g, cell->clip);
    NAME(act)(&cell->act[2], n, g);
    for (ptrdiff_t k = 0; k < n; k++) h[k] = (1 - u[k]) * g[k] + u[k] * h[k];
}
