/* Windows over the spatial axes of float32 images: the largest number, the sum or the mean of each. One body (body.h),
 * one shim file per instruction set, one table of functions each. W: lanes of a vector.
 *
 * Windows are separable: the axes are reduced one after the other, image by image, so that what is between them stays in
 * cache. All axes but the last are reduced a line at a time, lanes along the line; the last one in lines with space
 * around them for the values that replace numbers outside of the image. Loads and stores may run up to W numbers over
 * the end of a line: what they write there is written again, and the last images are worked on in copies. */
#ifndef RNNCORE_POOLING_H
#define RNNCORE_POOLING_H

#include <stddef.h>

#include "../runtime/watch.h"

enum { RNNCORE_POOLING_AXES = 64 }; /* the most that NumPy's arrays have */

/* Window j covers the numbers j * stride - begin + t * dilation, t = 0..kernel-1, as far as they are within 0..n-1. All
 * are positive but begin, which may be 0; the caller checks that sums and products of them fit ptrdiff_t. */
typedef struct {
    ptrdiff_t n, count, kernel, stride, dilation, begin; /* count: windows */
} rnncore_window;

typedef struct {
    int axes; /* from 2 on */
    int largest;
    rnncore_window axis[RNNCORE_POOLING_AXES];
    const float *divisors; /* one for each window, and W more; or NULL */
} rnncore_pooling;

typedef struct {
    const char *name;
    int width; /* W */

    /* Floats of scratch memory that pool needs. */
    ptrdiff_t (*scratch_size)(const rnncore_pooling *pooling);

    /* y [images][windows] from x [images][numbers], both dense; sums are made in rising t. No window, number or image
     * count is 0. Work is counted in numbers that windows cover; where the watch stops it, y is unfinished. */
    void (*pool)(const rnncore_pooling *pooling, ptrdiff_t images, const float *x, float *y, float *scratch,
                 rnncore_watch *watch);
} rnncore_pooling_isa;

/* The tables of this build, in the order of isa/isas.h, ended by NULL. */
extern const rnncore_pooling_isa *const rnncore_pooling_isas[];

#endif
