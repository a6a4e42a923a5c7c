/* Convolutions over float32 planes: one body (body.h), one shim file per instruction set, one table of functions each.
 *
 * Letters: M outputs (channels of one group), K terms of each (input channels times taps), W lanes of a vector.
 *
 * The weights are panels of W outputs, [panels][K][W], the last one padded with zeros. There is no array of patches:
 * term k of the output at position p is x[offset[k] + p], where x holds one image's channels with zeros around them,
 * parted by phase where a stride is not 1, so that neighbouring outputs read neighbouring numbers (see the plan in
 * _convolution.pyx).
 *
 * Exactness: every output is begun with its bias and is the same chains of multiply-adds over k in rising order in
 * all three kernels, so its bits do not depend on which of them made it, nor on the batch, the tile or the thread. */
#ifndef RNNCORE_CONVOLUTION_H
#define RNNCORE_CONVOLUTION_H

#include <stddef.h>

/* A stretch of positions that are outputs: ``count`` positions from ``first`` on are the outputs from ``place`` on.
 * Positions in between belong to no output (the ends of padded rows). Sorted. */
typedef struct {
    ptrdiff_t first, place, count;
} rnncore_run;

/* One row of a channel, on its way to the padded copy: ``lead`` zeros, ``count`` numbers ``step`` apart from source
 * on, zeros up to ``total``. */
typedef struct {
    ptrdiff_t target, source, lead, count, total, step;
} rnncore_row;

typedef struct {
    const char *name;
    int width; /* W */
    int chain, tile, stretch; /* terms of one chain; positions that planes and single make together */

    /* y[m * y_stride + place] = the outputs m = 0..M-1 at places first..last-1 of 0..P-1 (at least W); first is a
     * multiple of tile, and so is last, or P. w and bias are whole panels. Positions in the lanes. relu: negative
     * results become 0. Up to W numbers after a run are read, where there are several.
     * scratch: (chain + 1 + whole panels' outputs) * tile floats. */
    void (*planes)(const float *w, const float *bias, ptrdiff_t M, ptrdiff_t K, const float *x, const ptrdiff_t *offset,
                   ptrdiff_t first, ptrdiff_t last, ptrdiff_t P, const rnncore_run *runs, float *y, ptrdiff_t y_stride,
                   int relu, float *scratch);

    /* y[r][m * y_stride] for n rows (positions anywhere: term k of row r is x[r][offset[k]]) and outputs m = 0..M-1.
     * Outputs in the lanes. */
    void (*rows)(const float *w, const float *bias, ptrdiff_t M, ptrdiff_t K, const float *const *x, ptrdiff_t n,
                 const ptrdiff_t *offset, float *const *y, ptrdiff_t y_stride, int relu);

    /* One output whose K weights are contiguous, at positions first..last-1 of any number; first is a
     * multiple of stretch, and so is last, or ``positions``. */
    void (*single)(const float *w, float bias, ptrdiff_t K, const float *x, const ptrdiff_t *offset, ptrdiff_t first,
                   ptrdiff_t last, ptrdiff_t positions, const rnncore_run *runs, ptrdiff_t run_count, float *y,
                   int relu);
} rnncore_convolution_isa;

/* The tables of this build, in the order of isa/isas.h, ended by NULL. */
extern const rnncore_convolution_isa *const rnncore_convolution_isas[];

/* One channel's rows to their padded places. */
static inline void rnncore_copy_rows(const rnncore_row *rows, ptrdiff_t n, const float *from, float *to) {
    for (ptrdiff_t i = 0; i < n; i++) {
        const rnncore_row row = rows[i];
        float *target = to + row.target;
        const float *source = from + row.source;
        ptrdiff_t at = 0;
        for (; at < row.lead; at++) target[at] = 0;
        if (row.step == 1) {
            for (ptrdiff_t j = 0; j < row.count; j++) target[at + j] = source[j];
        } else {
            for (ptrdiff_t j = 0; j < row.count; j++) target[at + j] = source[j * row.step];
        }
        for (at += row.count; at < row.total; at++) target[at] = 0;
    }
}

#endif
