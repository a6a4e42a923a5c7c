/* The time loop of DynamicQuantizeLSTM, included by body.h. Every operation is rounded by itself, in the order of the
 * equations: with z = x W + h R, each of the two made of integers and then scaled,
 *   i = sigmoid(z_i + p_i c + b_i)      f = sigmoid(z_f + p_f c + b_f), or 1 - i      g = tanh(z_c + b_c)
 *   c' = f c + i g                      o = sigmoid(z_o + p_o c' + b_o)               h' = o tanh(c') */

enum { CHUNK = 48 }; /* rows whose input product is made at once, where a step has no more */

/* The parts of the scratch memory. */
typedef struct {
    float *h, *c;         /* (B, Hp) */
    int32_t *zx, *zh;     /* (rows of a chunk, 4 Hp), (B, 4 Hp) */
    const uint8_t **rows; /* of a chunk: their bytes, */
    uint8_t *zeros;       /* and zero points */
    int32_t *prepared;
    uint8_t *bytes; /* (B, H) */
    size_t size;
} lstm_parts;

INLINE size_t taken(size_t *size, size_t bytes) {
    const size_t at = *size;
    *size = rnncore_plus(at, rnncore_plus(bytes, 63) / 64 * 64);
    return at;
}

static ptrdiff_t chunk_steps(ptrdiff_t T, ptrdiff_t B) {
    const ptrdiff_t steps = B < CHUNK ? CHUNK / B : 1;
    return steps < T ? steps : T;
}

static lstm_parts parts_of(const rnncore_quantized_lstm *cell, ptrdiff_t T, ptrdiff_t B, char *base) {
    const size_t Hp = column_size(cell->hidden_size), rows = rnncore_times((size_t)chunk_steps(T, B), (size_t)B);
    const ptrdiff_t wide = cell->input_size > cell->hidden_size ? cell->input_size : cell->hidden_size;
    size_t size = 0;
    lstm_parts parts;
    parts.h = (float *)(base + taken(&size, rnncore_times((size_t)B, Hp * sizeof(float))));
    parts.c = (float *)(base + taken(&size, rnncore_times((size_t)B, Hp * sizeof(float))));
    parts.zx = (int32_t *)(base + taken(&size, rnncore_times(rows, 4 * Hp * sizeof(int32_t))));
    parts.zh = (int32_t *)(base + taken(&size, rnncore_times((size_t)B, 4 * Hp * sizeof(int32_t))));
    parts.rows = (const uint8_t **)(base + taken(&size, rnncore_times(rows, sizeof(uint8_t *))));
    parts.zeros = (uint8_t *)(base + taken(&size, rows));
    const size_t prepared = rnncore_times(prepared_size(wide, (ptrdiff_t)rows), sizeof(int32_t));
    parts.prepared = (int32_t *)(base + taken(&size, prepared));
    parts.bytes = (uint8_t *)(base + taken(&size, rnncore_times((size_t)B, (size_t)cell->hidden_size)));
    parts.size = size;
    return parts;
}

static size_t lstm_scratch(const rnncore_quantized_lstm *cell, ptrdiff_t T, ptrdiff_t B) {
    return parts_of(cell, T, B, NULL).size;
}

INLINE vf clipped(float top, vf z) { return top < INFINITY ? limit(z, -top, top) : z; }

/* Pre-activation of gate ``gate``, without peephole and bias, for the units at j. */
INLINE vf gate_sum(const rnncore_quantized_lstm *cell, ptrdiff_t at, const int32_t *zx, const int32_t *zh, vf x_scale,
                   vf h_scale) {
    return to_float(load_i(zx + at)) * (x_scale * load(cell->w_scale + at)) +
           to_float(load_i(zh + at)) * (h_scale * load(cell->r_scale + at));
}

/* The units of one row: new h (Hp) and c (Hp), in place, and the range of h. */
INLINE extent units(const rnncore_quantized_lstm *cell, ptrdiff_t Hp, const int32_t *zx, const int32_t *zh,
                    float x_scale, float h_scale, float *h, float *c, extent e) {
    const vf sx = splat(x_scale), sh = splat(h_scale);
    const float *p = cell->peephole, *b = cell->bias, top = cell->clip;
    for (ptrdiff_t j = 0; j < Hp; j += W) {
        const vf zi = gate_sum(cell, j, zx, zh, sx, sh), zo = gate_sum(cell, Hp + j, zx, zh, sx, sh);
        const vf zf = gate_sum(cell, 2 * Hp + j, zx, zh, sx, sh), zc = gate_sum(cell, 3 * Hp + j, zx, zh, sx, sh);
        const vf old = load(c + j);
        const vf i = rational_sigmoid(clipped(top, (zi + load(p + j) * old) + load(b + j)));
        vf f = splat(1.0f) - i;
        if (!cell->input_forget) {
            f = rational_sigmoid(clipped(top, (zf + load(p + 2 * Hp + j) * old) + load(b + 2 * Hp + j)));
        }
        const vf next = f * old + i * rational_tanh(clipped(top, zc + load(b + 3 * Hp + j)));
        const vf o = rational_sigmoid(clipped(top, (zo + load(p + Hp + j) * next) + load(b + Hp + j)));
        const vf out = o * rational_tanh(next);
        store(c + j, next);
        store(h + j, out);
        e = with(e, out);
    }
    return e;
}

/* The input product of steps first..last-1, of the rows that still run at each. */
static void input_product(const rnncore_quantized_lstm *cell, const rnncore_quantized_run *run, const lstm_parts *parts,
                          ptrdiff_t Hp, ptrdiff_t first, ptrdiff_t last) {
    ptrdiff_t n = 0;
    for (ptrdiff_t t = first; t < last; t++) {
        for (ptrdiff_t row = 0; row < run->B && t < run->lengths[row]; row++, n++) {
            const ptrdiff_t at = cell->backward ? run->lengths[row] - 1 - t : t;
            parts->rows[n] = run->x + (at * run->B + run->order[row]) * cell->input_size;
        }
    }
    memset(parts->zeros, run->x_zero, (size_t)n);
    prepare(&cell->w, n, parts->rows, parts->zeros, 0, parts->prepared);
    product(&cell->w, 0, groups_of(4 * Hp), n, parts->prepared, parts->zx, 4 * Hp);
}

/* The recurrent product of n rows, whose h are quantized together; returns their scale. */
static float recurrent_product(const rnncore_quantized_lstm *cell, const lstm_parts *parts, ptrdiff_t Hp, ptrdiff_t n,
                               extent e) {
    const ptrdiff_t H = cell->hidden_size;
    float low, high, scale;
    int32_t zero;
    ends(e, &low, &high);
    rnncore_quantization(low, high, &scale, &zero);
    for (ptrdiff_t row = 0; row < n; row++) {
        parts->rows[row] = parts->bytes + row * H;
        quantize(H, parts->h + row * Hp, scale, zero, parts->bytes + row * H);
    }
    memset(parts->zeros, zero, (size_t)n);
    prepare(&cell->r, n, parts->rows, parts->zeros, 0, parts->prepared);
    product(&cell->r, 0, groups_of(4 * Hp), n, parts->prepared, parts->zh, 4 * Hp);
    return scale;
}

/* States as the call gives them, and the range of all h. */
static extent first_states(const rnncore_quantized_lstm *cell, const rnncore_quantized_run *run,
                           const lstm_parts *parts, ptrdiff_t Hp) {
    const size_t size = (size_t)cell->hidden_size * sizeof(float);
    extent e = {};
    memset(parts->h, 0, (size_t)(run->B * Hp) * sizeof(float));
    memset(parts->c, 0, (size_t)(run->B * Hp) * sizeof(float));
    for (ptrdiff_t row = 0; row < run->B; row++) {
        const ptrdiff_t from = run->order[row] * cell->hidden_size;
        if (run->h0) memcpy(parts->h + row * Hp, run->h0 + from, size);
        if (run->c0) memcpy(parts->c + row * Hp, run->c0 + from, size);
        for (ptrdiff_t j = 0; j < Hp; j += W) e = with(e, load(parts->h + row * Hp + j));
    }
    return e;
}

static void last_states(const rnncore_quantized_lstm *cell, const rnncore_quantized_run *run, const lstm_parts *parts,
                        ptrdiff_t Hp) {
    const size_t size = (size_t)cell->hidden_size * sizeof(float);
    for (ptrdiff_t row = 0; row < run->B; row++) {
        float *h = run->h + run->order[row] * cell->hidden_size, *c = run->c + run->order[row] * cell->hidden_size;
        if (run->lengths[row] > 0) {
            memcpy(h, parts->h + row * Hp, size);
            memcpy(c, parts->c + row * Hp, size);
        } else {
            memset(h, 0, size);
            memset(c, 0, size);
        }
    }
}

static void lstm(const rnncore_quantized_lstm *cell, const rnncore_quantized_run *run, void *scratch,
                 rnncore_watch *watch) {
    const ptrdiff_t Hp = (ptrdiff_t)column_size(cell->hidden_size), H = cell->hidden_size;
    const ptrdiff_t longest = run->B ? run->lengths[0] : 0;
    const double row_work = 4.0 * (double)Hp * (double)(cell->input_size + H);
    const ptrdiff_t chunk = longest ? chunk_steps(run->T, run->B) : 1;
    const lstm_parts parts = parts_of(cell, run->T, run->B, scratch);
    extent e = first_states(cell, run, &parts, Hp);
    ptrdiff_t running = run->B;
    for (ptrdiff_t first = 0; first < longest; first += chunk) {
        const ptrdiff_t last = longest - first < chunk ? longest : first + chunk;
        const int32_t *zx = parts.zx;
        input_product(cell, run, &parts, Hp, first, last);
        for (ptrdiff_t t = first; t < last; t++) {
            while (run->lengths[running - 1] <= t) running--;
            const float h_scale = recurrent_product(cell, &parts, Hp, running, e);
            e = (extent){};
            for (ptrdiff_t row = 0; row < running; row++, zx += 4 * Hp) {
                const ptrdiff_t at = cell->backward ? run->lengths[row] - 1 - t : t;
                float *h = parts.h + row * Hp;
                e = units(cell, Hp, zx, parts.zh + row * 4 * Hp, run->x_scale, h_scale, h, parts.c + row * Hp, e);
                memcpy(run->y + at * run->y_step + run->order[row] * H, h, (size_t)H * sizeof(float));
            }
            if (rnncore_worked(watch, (double)running * row_work)) rnncore_put(run->stop, 1);
            if (rnncore_get(run->stop)) return;
        }
    }
    last_states(cell, run, &parts, Hp);
}
