/* Products of 8-bit integers with exact int32 sums, and the time loop of DynamicQuantizeLSTM. One body (body.h), one
 * shim file per instruction set, one table of functions each.
 *
 * Letters: M rows, K depth and N columns of a product; W lanes of a vector of int32. A quad is 4 values of k that
 * follow each other: K is padded with zeros to whole quads, N to whole vectors.
 *
 * A packed matrix has its columns in groups of up to 4 vectors, and within a group, quad by quad, for each vector the
 * 4 W bytes of its columns: [group][quad][vector][W][4]. They are unsigned, u = b + offset.
 *
 * Prepared rows of the left operand are blocks of 2 rows, the last one perhaps of 1. A block is a list of entries: a
 * quad and for each row the words that every lane multiplies with it, made of a' = a - shift. Then
 *   sum of (a - a0) (b - b0) = sum of a' u - (offset + b0) (sum of a') + (shift - a0) (sum of (b - b0)).
 * With K <= RNNCORE_LARGEST_DEPTH no part of it passes int32. */
#ifndef RNNCORE_QUANTIZED_H
#define RNNCORE_QUANTIZED_H

#include <stddef.h>
#include <stdint.h>

#include "../runtime/sizes.h"
#include "../runtime/threads.h"
#include "../runtime/watch.h"

enum { RNNCORE_LARGEST_DEPTH = 33025 }; /* 255 * 255 * 33025 < 2^31 */

/* The right operand; it owns nothing. */
typedef struct {
    const uint8_t *data;
    const int32_t *zeros; /* offset + b0 of each column, padded to whole vectors */
    const int32_t *sums;  /* sum of (b - b0) of each column, padded */
    ptrdiff_t K, N;
    int limit; /* |p| + |q| of two numbers that follow each other, whose products with any two u add up within int16 */
} rnncore_bytes;

/* One direction of a DynamicQuantizeLSTM. Gates are in ONNX's order, i o f c, each padded to Hp units: whole vectors. */
typedef struct {
    rnncore_bytes w, r;             /* (I, 4 Hp), (H, 4 Hp) */
    const float *w_scale, *r_scale; /* (4, Hp) */
    const float *bias;              /* (4, Hp) */
    const float *peephole;          /* (3, Hp): i o f */
    ptrdiff_t input_size, hidden_size;
    float clip; /* INFINITY where there is none */
    int input_forget, backward;
} rnncore_quantized_lstm;

/* One call of one direction. Rows are in the order of falling lengths. */
typedef struct {
    ptrdiff_t T, B;
    const uint8_t *x; /* (T, B, I) */
    float x_scale;
    int32_t x_zero;
    const int64_t *order, *lengths; /* (B): each row's place in the batch, and its valid steps */
    const float *h0, *c0;           /* (B, H), or NULL for zeros */
    float *y; /* step t of row b at y + t * y_step + b * H; steps beyond a row's end are not written */
    ptrdiff_t y_step;
    float *h, *c;    /* (B, H) */
    ptrdiff_t *stop; /* set by the direction whose watch stops it, which ends the others too */
} rnncore_quantized_run;

typedef struct {
    const char *name;
    int width; /* W */

    /* Bytes and int32s of a matrix (K, N): of data, and of each of zeros and sums. */
    size_t (*data_size)(ptrdiff_t K, ptrdiff_t N);
    size_t (*column_size)(ptrdiff_t N);

    /* Packs b (K, N), C-contiguous int8 or ``is_unsigned``; b0: one zero point for each column. data is aligned to 64
     * bytes. Returns the limit. */
    int (*pack)(ptrdiff_t K, ptrdiff_t N, const uint8_t *b, int is_unsigned, const int32_t *b0, uint8_t *data,
                int32_t *zeros, int32_t *sums);

    /* int32s of M prepared rows of K. */
    size_t (*prepared_size)(ptrdiff_t K, ptrdiff_t M);

    /* Prepares M rows for products with b: numbers a ^ flip, zero points a0 ^ flip (flip: 0, or 128 for int8). */
    void (*prepare)(const rnncore_bytes *b, ptrdiff_t M, const uint8_t *const *rows, const uint8_t *zeros, int flip,
                    int32_t *prepared);

    /* y (M, N), rows y_stride apart, for groups first..last-1 of columns, from M prepared rows. */
    void (*product)(const rnncore_bytes *b, ptrdiff_t first, ptrdiff_t last, ptrdiff_t M, const int32_t *prepared,
                    int32_t *y, ptrdiff_t y_stride);

    /* Smallest and largest of n numbers and 0; *low is NaN where one of them is. */
    void (*range)(ptrdiff_t n, const float *x, float *low, float *high);

    /* y = x / scale, rounded to even, plus zero, within 0 to 255; 0 for NaN. */
    void (*quantize)(ptrdiff_t n, const float *x, float scale, int32_t zero, uint8_t *y);

    /* Bytes of scratch memory that lstm needs. */
    size_t (*lstm_scratch)(const rnncore_quantized_lstm *cell, ptrdiff_t T, ptrdiff_t B);

    /* The time loop. Work is counted in multiply-adds; where it is stopped, results are unfinished. */
    void (*lstm)(const rnncore_quantized_lstm *cell, const rnncore_quantized_run *run, void *scratch,
                 rnncore_watch *watch);
} rnncore_quantized_isa;

/* The tables of this build, in the order of isa/isas.h, ended by NULL. */
extern const rnncore_quantized_isa *const rnncore_quantized_isas[];

/* Scale and zero point that put low..high, which include 0, on 0 to 255; 1 and 0 where low is NaN. */
static inline void rnncore_quantization(float low, float high, float *scale, int32_t *zero) {
    if (low != low) low = high = 0.0f;
    *scale = high != low ? (high - low) / 255.0f : 1.0f;
    const float at = -low / *scale; /* NaN where the scale is infinite, or too small for float32 */
    *zero = at > 0.0f ? (int32_t)((at < 255.0f ? at : 255.0f) + 12582912.0f - 12582912.0f) : 0;
}

#endif
