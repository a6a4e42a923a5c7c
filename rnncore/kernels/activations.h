/* Activation functions over a run of n values in place, float and double, and the exponential they use.
 *
 * One list names them all: the enum, the table of names that Python reads, and the switch in activations_body.h
 * follow its order. float: sigmoid and tanh within 1 ulp over all values; double: the C library's functions.
 * None of this may be compiled with -ffast-math: NaN, infinities and rounding are part of the contract. */
#ifndef RNNCORE_ACTIVATIONS_H
#define RNNCORE_ACTIVATIONS_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define RNNCORE_ACTIVATIONS(X)                                                                                        \
    X(linear) X(sigmoid) X(tanh) X(relu) X(affine) X(leaky_relu) X(thresholded_relu) X(scaled_tanh) X(hard_sigmoid)   \
    X(elu) X(softsign) X(softplus) X(celu) X(selu) X(relu6) X(silu) X(mish) X(gelu_erf) X(gelu_tanh) X(exponential)   \
    X(hard_tanh) X(hard_silu) X(hard_shrink) X(soft_shrink) X(tanh_shrink) X(threshold) X(log_sigmoid) X(squareplus)  \
    X(sparse_plus) X(sparse_sigmoid) X(softmax) X(log_softmax)

#define RNNCORE_AS_ENUM(name) ACT_##name,
enum rnncore_activation { RNNCORE_ACTIVATIONS(RNNCORE_AS_ENUM) ACT_COUNT };
#undef RNNCORE_AS_ENUM

#define RNNCORE_AS_NAME(name) #name,
static const char *const rnncore_activation_names[] = {RNNCORE_ACTIVATIONS(RNNCORE_AS_NAME)};
#undef RNNCORE_AS_NAME

typedef struct {
    int id;
    double alpha, beta;
} rnncore_act;

/* e^x for |x| <= 300 as *scale * (1 + p), scale a power of two; returns p = e^r - 1 for x = n ln 2 + r, from a
 * polynomial (Chebyshev fit on |r| <= 0.35). Relative error 2e-10: what is rounded to float afterwards is rounded right
 * but for one value in a thousand. Adding shift rounds n to an integer and leaves n + 1023 in the low bits. */
static inline double exp_parts_f64(double x, double *scale) {
    const double shift = 6755399441055744.0 + 1023.0; /* 1.5 * 2^52 */
    union {
        double f;
        int64_t i;
    } t;
    t.f = x * 1.44269504088896340736 + shift;
    const double n = t.f - shift;
    const double r = x - n * 0.693147180559945309417;
    double q = 0.00019900430514393507;
    q = q * r + 0.0013934534245766232;
    q = q * r + 0.0083332970801216488;
    q = q * r + 0.041666456872328776;
    q = q * r + 0.16666666722192652;
    q = q * r + 0.50000000142814505;
    t.i = (int64_t)((uint64_t)t.i << 52);
    *scale = t.f;
    return q * r * r + r;
}

static inline double limit_f64(double x, double top) { return x < -top ? -top : (x > top ? top : x); }

/* float: computed in double and rounded once, so that results are right to half a unit, subnormal ones included. */
static inline float sigmoid_f32(float x) {
    double scale;
    const double p = exp_parts_f64(limit_f64(-(double)x, 120.0), &scale);
    return (float)(1.0 / (1.0 + (scale + scale * p)));
}

/* m / (m + 2) with m = e^2x - 1, which is exact near 0. */
static inline float tanh_f32(float x) {
    double scale;
    const double p = exp_parts_f64(limit_f64(2.0 * (double)x, 40.0), &scale);
    const double m = scale * p + (scale - 1.0);
    return copysignf((float)(m / (m + 2.0)), x); /* the sign matters for -0 alone */
}

static inline double sigmoid_f64(double x) {
    const double e = exp(-fabs(x));
    return (x < 0.0 ? e : 1.0) / (1.0 + e);
}

#define REAL float
#define NAME(name) name##_f32
#define C(function) function##f
#define TANH tanh_f32
#include "activations_body.h"
#undef REAL
#undef NAME
#undef C
#undef TANH

#define REAL double
#define NAME(name) name##_f64
#define C(function) function
#define TANH tanh
#include "activations_body.h"
#undef REAL
#undef NAME
#undef C
#undef TANH

#endif
