/* Sizes of memory that cannot wrap: a sum or product that does not fit is SIZE_MAX, for which no allocation succeeds.
 * Arguments that are negative as ptrdiff_t count as too large. */
#ifndef RNNCORE_SIZES_H
#define RNNCORE_SIZES_H

#include <stddef.h>
#include <stdint.h>

static inline size_t rnncore_times(size_t a, size_t b) {
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

static inline size_t rnncore_plus(size_t a, size_t b) {
    size_t sum;
    return __builtin_add_overflow(a, b, &sum) ? SIZE_MAX : sum;
}

#endif
