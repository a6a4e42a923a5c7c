/* The one body of the pooling kernels. A header of isa/, included before, defines W (lanes of a vector), LARGER (NaN
 * where one of the two is, b of equals), ISA and ISA_NAME. */

#include <assert.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../vectors.h"
#include "pooling.h"

/* Lines of the last axis that are made before their windows are: what stays in the first cache. */
enum { LINES = 4096 };

INLINE vf reduced(const int largest, vf a, vf so_far) {
    if (largest) return LARGER(a, so_far);
    return so_far + a;
}

INLINE void fill(float *p, ptrdiff_t n, float value) {
    for (ptrdiff_t i = 0; i < n; i++) p[i] = value;
}

/* Of n numbers, how many to make between two looks of the watch where each is made of ``taps``: whole lines of 4 W. */
INLINE ptrdiff_t at_once(const rnncore_watch *watch, ptrdiff_t n, ptrdiff_t taps) {
    if ((double)n * (double)taps <= watch->between) return n;
    const ptrdiff_t part = (ptrdiff_t)(watch->between / (double)taps) / (4 * W) * (4 * W);
    return part < 4 * W ? 4 * W : part;
}

/* ---- all axes but the last ----------------------------------------------------------------------------------- */

/* V vectors of a line: taps are ``step`` apart. */
INLINE void line_part(const int largest, const int V, ptrdiff_t taps, ptrdiff_t step, const float *x, float *y) {
    vf reduced_to[4];
    UNROLL for (int v = 0; v < V; v++) reduced_to[v] = load(x + v * W);
    for (ptrdiff_t t = 1; t < taps; t++) {
        UNROLL for (int v = 0; v < V; v++) reduced_to[v] = reduced(largest, load(x + t * step + v * W), reduced_to[v]);
    }
    UNROLL for (int v = 0; v < V; v++) store(y + v * W, reduced_to[v]);
}

/* Windows first..last-1 of x [n][length], each a line of y, ``pitch`` apart. */
INLINE void lines(const int largest, const rnncore_window *w, ptrdiff_t first, ptrdiff_t last, ptrdiff_t length,
                  const float *x, float *y, ptrdiff_t pitch, rnncore_watch *watch) {
    const ptrdiff_t step = w->dilation * length;
    for (ptrdiff_t j = first; j < last; j++, y += pitch) {
        const ptrdiff_t at = j * w->stride - w->begin;
        ptrdiff_t from = 0, to = w->kernel; /* the taps that are inside; the usual case needs no division */
        if (at < 0) from = (-at + w->dilation - 1) / w->dilation;
        if (at + (to - 1) * w->dilation >= w->n) to = at < w->n ? (w->n - 1 - at) / w->dilation + 1 : 0;
        if (from >= to) {
            fill(y, length, largest ? -INFINITY : 0);
            continue;
        }
        const float *source = x + at * length + from * step;
        const ptrdiff_t part = at_once(watch, length, to - from);
        for (ptrdiff_t i = 0, end; i < length; i = end) {
            end = length - i < part ? length : i + part;
            if (rnncore_worked(watch, (double)(end - i) * (double)(to - from))) return;
            for (; i + 4 * W <= end; i += 4 * W) line_part(largest, 4, to - from, step, source + i, y + i);
            for (; i < end; i += W) line_part(largest, 1, to - from, step, source + i, y + i);
        }
    }
}

/* ---- the last axis ------------------------------------------------------------------------------------------- */

/* Steps up to which numbers are taken out of step * W neighbours, all of which are read. */
enum { SHUFFLED = 4 };

/* Every second number of 2 W. */
INLINE vf evens(vf a, vf b) {
    vi even;
    UNROLL for (int l = 0; l < W; l++) even[l] = 2 * l;
    return __builtin_shuffle(a, b, even);
}

/* Every third number of 3 W: those of the first two vectors, then those of the third. */
INLINE vf thirds(vf a, vf b, vf c) {
    vi first, second;
    UNROLL for (int l = 0; l < W; l++) {
        first[l] = 3 * l < 2 * W ? 3 * l : 0;
        second[l] = 3 * l < 2 * W ? l : 3 * l - W;
    }
    return __builtin_shuffle(__builtin_shuffle(a, b, first), c, second);
}

/* Numbers ``step`` apart: W of them, or ``lanes`` where the step is larger than SHUFFLED. */
INLINE vf load_strided(const float *p, ptrdiff_t step, ptrdiff_t lanes) {
    if (step == 1) return load(p);
    if (step == 2) return evens(load(p), load(p + W));
    if (step == 3) return thirds(load(p), load(p + W), load(p + 2 * W));
    if (step == 4) return evens(evens(load(p), load(p + W)), evens(load(p + 2 * W), load(p + 3 * W)));
    vf taken = {0};
    if (lanes >= W) {
        UNROLL for (int l = 0; l < W; l++) taken[l] = p[l * step];
    } else {
        for (int l = 0; l < lanes; l++) taken[l] = p[l * step];
    }
    return taken;
}

INLINE void along_line(const int largest, const ptrdiff_t stride, const rnncore_window *w, const float *x,
                       const float *divisors, float *y, rnncore_watch *watch) {
    const ptrdiff_t part = at_once(watch, w->count, w->kernel);
    for (ptrdiff_t i = 0, end; i < w->count; i = end) {
        end = w->count - i < part ? w->count : i + part;
        if (rnncore_worked(watch, (double)(end - i) * (double)w->kernel)) return;
        for (; i < end; i += W) {
            const float *from = x + i * stride;
            vf value = load_strided(from, stride, w->count - i);
            for (ptrdiff_t t = 1; t < w->kernel; t++) {
                value = reduced(largest, load_strided(from + t * w->dilation, stride, w->count - i), value);
            }
            if (divisors) value /= load(divisors + i);
            store(y + i, value);
        }
    }
}

INLINE void along_lines(const int largest, const rnncore_window *w, ptrdiff_t n, const float *x, ptrdiff_t pitch,
                        const float *divisors, float *y, rnncore_watch *watch) {
    for (ptrdiff_t j = 0; j < n && !watch->stopped; j++, x += pitch, y += w->count) {
        const float *own = divisors ? divisors + j * w->count : NULL;
        switch (w->stride) {
        case 1: along_line(largest, 1, w, x, own, y, watch); break;
        case 2: along_line(largest, 2, w, x, own, y, watch); break;
        case 3: along_line(largest, 3, w, x, own, y, watch); break;
        case 4: along_line(largest, 4, w, x, own, y, watch); break;
        default: along_line(largest, w->stride, w, x, own, y, watch);
        }
    }
}

/* ---- whole images -------------------------------------------------------------------------------------------- */

static ptrdiff_t numbers(const rnncore_pooling *p, int axis) { /* of an image whose axes before ``axis`` are reduced */
    ptrdiff_t product = 1;
    for (int i = 0; i < p->axes; i++) product *= i < axis ? p->axis[i].count : p->axis[i].n;
    return product;
}

/* How far padded lines of the last axis are apart: all that is read of one, or written after its numbers. */
static ptrdiff_t pitch_of(const rnncore_window *w) {
    const ptrdiff_t windows = w->stride > SHUFFLED ? w->count : (w->count + W - 1) / W * W;
    const ptrdiff_t read = windows * w->stride + (w->kernel - 1) * w->dilation;
    const ptrdiff_t written = w->begin + w->n;
    return (read > written ? read : written) + 2 * W;
}

static ptrdiff_t lines_at_once(const rnncore_pooling *p) {
    const ptrdiff_t pitch = pitch_of(&p->axis[p->axes - 1]), count = p->axis[p->axes - 2].count;
    const ptrdiff_t fit = LINES / pitch;
    return fit < 1 ? 1 : fit < count ? fit : count;
}

/* Floats of a stage between two axes. */
static ptrdiff_t stage_size(const rnncore_pooling *p) {
    ptrdiff_t largest = 0;
    for (int axis = 1; axis < p->axes - 1; axis++) {
        const ptrdiff_t size = numbers(p, axis) + W;
        if (size > largest) largest = size;
    }
    return largest;
}

/* Floats of two stages between axes, of the lines, and of the last image and its windows. */
static ptrdiff_t scratch_size(const rnncore_pooling *p) {
    return 2 * stage_size(p) + lines_at_once(p) * pitch_of(&p->axis[p->axes - 1]) + numbers(p, 0) + W +
           numbers(p, p->axes) + W;
}

INLINE void image(const int largest, const rnncore_pooling *p, const float *x, float *y, float *stages, float *padded,
                  rnncore_watch *watch) {
    const int last = p->axes - 1;
    const rnncore_window *along = &p->axis[last], *down = &p->axis[last - 1];
    const ptrdiff_t pitch = pitch_of(along), many = lines_at_once(p), half = stage_size(p);
    ptrdiff_t outer = 1;
    for (int axis = 0; axis < last - 1; axis++) {
        const rnncore_window *w = &p->axis[axis];
        float *to = stages + axis % 2 * half;
        const ptrdiff_t length = numbers(p, axis) / outer / w->n;
        for (ptrdiff_t o = 0; o < outer; o++) {
            lines(largest, w, 0, w->count, length, x + o * w->n * length, to + o * w->count * length, length, watch);
            if (watch->stopped) return;
        }
        outer *= w->count;
        x = to;
    }
    const ptrdiff_t reach = (along->count - 1) * along->stride + (along->kernel - 1) * along->dilation + 1;
    const ptrdiff_t end = along->begin + along->n;
    const float *divisors = p->divisors;
    for (ptrdiff_t o = 0; o < outer; o++, x += down->n * along->n) {
        for (ptrdiff_t first = 0; first < down->count; first += many) {
            const ptrdiff_t n = first + many < down->count ? many : down->count - first;
            lines(largest, down, first, first + n, along->n, x, padded + along->begin, pitch, watch);
            if (watch->stopped) return;
            if (reach > end) {
                for (ptrdiff_t j = 0; j < n; j++) fill(padded + j * pitch + end, reach - end, largest ? -INFINITY : 0);
            }
            along_lines(largest, along, n, padded, pitch, divisors, y, watch);
            y += n * along->count;
            if (divisors) divisors += n * along->count;
        }
    }
}

INLINE void images_of(const int largest, const rnncore_pooling *p, ptrdiff_t images, const float *x, float *y,
                      float *free, rnncore_watch *watch) {
    const ptrdiff_t given = numbers(p, 0), windows = numbers(p, p->axes);
    const rnncore_window *along = &p->axis[p->axes - 1];
    const ptrdiff_t pitch = pitch_of(along), many = lines_at_once(p);
    float *stages = free, *padded = stages + 2 * stage_size(p), *copy = padded + many * pitch, *made = copy + given + W;
    fill(padded, many * pitch, 0); /* lanes after a line's end count with it */
    for (ptrdiff_t j = 0; j < many; j++) fill(padded + j * pitch, along->begin, largest ? -INFINITY : 0);
    ptrdiff_t i = 0;
    for (; (images - 1 - i) * given >= W && (images - 1 - i) * windows >= W; i++) {
        image(largest, p, x + i * given, y + i * windows, stages, padded, watch);
        if (watch->stopped) return;
    }
    fill(copy + given, W, 0);
    for (; i < images; i++) {
        memcpy(copy, x + i * given, (size_t)given * sizeof(float));
        image(largest, p, copy, made, stages, padded, watch);
        if (watch->stopped) return;
        memcpy(y + i * windows, made, (size_t)windows * sizeof(float));
    }
}

static void pool(const rnncore_pooling *p, ptrdiff_t images, const float *x, float *y, float *free,
                 rnncore_watch *watch) {
    assert(2 <= p->axes && p->axes <= RNNCORE_POOLING_AXES && images > 0);
    for (int axis = 0; axis < p->axes; axis++) {
        const rnncore_window *w = &p->axis[axis];
        assert(w->n > 0 && w->count > 0 && w->kernel > 0 && w->stride > 0 && w->dilation > 0 && w->begin >= 0);
        (void)w;
    }
    if (p->largest) {
        images_of(1, p, images, x, y, free, watch);
    } else {
        images_of(0, p, images, x, y, free, watch);
    }
}

const rnncore_pooling_isa ISA(rnncore_pooling_) = {
    .name = ISA_NAME, .width = W, .scratch_size = scratch_size, .pool = pool};
