/* Packed SIMD kernels, float32: one body (body.h), one shim file per instruction set, one table of functions each.
 *
 * Letters: K depth of a product, V vectors a panel holds for each k, W lanes of a vector (the ISA's width).
 *
 * A *panel* holds W output units: for each k in order, V vectors of W weights, gate by gate; a matrix of N units is
 * ceil(N / W) panels one after the other, the last one padded with zeros: [panels][K][V][W]. One pass over a panel
 * leaves every gate of the same W units in registers.
 *
 * *Panel order* of a row of pre-activations is [panels][V][W]. Rows of h and c are [panels][W], padded to W.
 *
 * Exactness: every output is the same chains of multiply-adds over k in rising order, whatever the number of rows or
 * panels worked on together, so a row's bits never depend on the batch. */
#ifndef RNNCORE_RECURRENT_H
#define RNNCORE_RECURRENT_H

#include <stddef.h>

#include "../cell.h"

/* A packed matrix; weights are aligned to 64 bytes. */
typedef struct {
    const float *data; /* [panels][K][V][W] */
    ptrdiff_t panels, K;
    int V;
} rnncore_panels;

/* Rows of the left operand: row r begins at base + offset[r] (elements), or at base + r * stride without offsets. */
typedef struct {
    const float *base;
    const ptrdiff_t *offset;
    ptrdiff_t stride;
} rnncore_rows;

/* What a fused step needs of its cell. Gate letters as in rnncore/cells; vectors are padded to whole panels. */
typedef struct {
    const float *bias_hn;  /* [panels][W], GRU with reset_after */
    const float *peephole; /* [panels][3][W] i f o, without the coupled one, or NULL */
    float clip, cell_clip, forget_bias;
    int relu;              /* RNN: 1 for relu, 0 for tanh */
    int coupled;           /* LSTM: COUPLED_INPUT or COUPLED_FORGET, for coupled_step */
} rnncore_point;

/* Functions that exist as quotients of polynomials too: see rational in body.h. */
enum rnncore_rational { RATIONAL_SIGMOID, RATIONAL_TANH, RATIONAL_SWISH };

/* One time step; see rnncore_isa. */
typedef void rnncore_step(const rnncore_panels *w, const rnncore_point *point, ptrdiff_t first, ptrdiff_t last, int down,
                          ptrdiff_t n, float *z, ptrdiff_t z_stride, const float *h, ptrdiff_t h_stride,
                          float *next, ptrdiff_t next_stride, float *c, ptrdiff_t c_stride);

/* The input product of the PIPELINED_ROWS rows that come after those which are stepped through. */
typedef struct {
    const rnncore_panels *w; /* of the cell's V vectors; or of one, V times as many panels */
    const float *x;     /* (w->K, PIPELINED_ROWS) */
    const float *start; /* bias in panel order */
    float *z;           /* (PIPELINED_ROWS, z_stride), panel order */
    float *chain;       /* [panels][V][PIPELINED_ROWS][W]: what a visit leaves to the next one */
    ptrdiff_t z_stride;
    int visit;          /* 0 to PIPELINED_ROWS - 1, in order: after the last one z is done */
} rnncore_pipelined;

/* Rows for V vectors a panel: a multiple of V, so that each visit has an equal part of the product. */
#define PIPELINED_ROWS(V) ((V) == 3 ? 9 : 8)

/* One time step of one row; see rnncore_isa. */
typedef void rnncore_pipelined_step(const rnncore_panels *w, const rnncore_point *point, ptrdiff_t first,
                                    ptrdiff_t last, int down, const float *z, const float *h, float *next, float *c,
                                    const rnncore_pipelined *pipelined);

typedef struct {
    const char *name;
    int width; /* W */

    /* z[r] (panel order, rows z_stride apart) = start + a[r] . panels, for panels first..last-1.
     * start: bias in panel order, the same for all rows, or NULL for what z holds. n >= 1. */
    void (*product)(const rnncore_panels *w, ptrdiff_t first, ptrdiff_t last, ptrdiff_t n, const rnncore_rows *a,
                    const float *start, float *z, ptrdiff_t z_stride);

    /* One time step of n rows for panels first..last-1, downwards if ``down``: z (n, panel order) holds the input
     * product; h (n, h_stride) the old output, next (n, next_stride) receives the new one; c (n, c_stride) in and out,
     * LSTM only. gru_step resets after the product. Where the reset comes before it, every panel of reset_step (panels of
     * two gates; next receives r * h, and z changes) comes before candidate_step (panels of one gate, h is r * h and c the
     * old output); elsewhere z stays as it is. The plain steps give the same bits, for cells without clips, peepholes and
     * forget_bias. */
    rnncore_step *lstm_step, *lstm_plain_step, *coupled_step, *gru_step, *gru_plain_step, *reset_step, *candidate_step,
        *rnn_step;

    /* The same bits for one row, together with a visit to the panels first..last-1 of the rows that come next. */
    rnncore_pipelined_step *lstm_pipelined, *lstm_plain_pipelined, *coupled_pipelined, *gru_pipelined,
        *gru_plain_pipelined, *rnn_pipelined;

    /* n inputs of R rows, those of a k next to each other: to[k * R + r] = from[r * stride + k], and 0 from row
     * ``there`` on. */
    void (*pack_pipelined)(ptrdiff_t n, int there, const float *from, ptrdiff_t stride, float *to, int R);

    /* cell.h, compiled for this ISA: what the fused steps do not cover. */
    void (*rnn_point)(const rnncore_cell *cell, float *z, float *h);
    void (*lstm_point)(const rnncore_cell *cell, float *z, float *c, float *out);
    void (*gru_gates)(const rnncore_cell *cell, float *z, const float *h, float *rh);
    void (*gru_point)(const rnncore_cell *cell, float *z, const float *hn, float *h);
    void (*clip)(ptrdiff_t n, float *x, double limit);

    /* y[i] = f(x[i]) for i < n, by a quotient of polynomials; y may be x. What is not a number stays so. */
    void (*rational)(enum rnncore_rational f, ptrdiff_t n, const float *x, float *y);
} rnncore_isa;

/* The tables of this build, in the order of isa/isas.h, ended by NULL. */
extern const rnncore_isa *const rnncore_isas[];

#endif
