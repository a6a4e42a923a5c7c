/* Activation functions over a run of n values in place, float and double, and the exponential they stand on.
 *
 * One list names them all: the enum, the table of names that Python reads, and the switch in activations_body.h
 * follow its order. float: sigmoid and tanh within 2 ulp over all values; double: the C library's functions.
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

/* e^x for x <= 0, within 1 ulp, subnormal results included; NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2: e^r from a polynomial (Chebyshev fit, 0.14 ulp), 2^n in two factors so that n may reach -150. */
static inline float exp_nonpositive_f32(float x) {
    x = x < -104.0f ? -104.0f : x; /* e^-104 rounds to 0; also keeps n small. NaN passes through the comparison */
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding and subtracting it rounds to an integer */
    union {
        float f;
        int32_t i;
    } t, low, high;
    t.f = x * 1.44269504088896341f + shift;
    const float n = t.f - shift;
    const int32_t k = t.i - 0x4B400000;
    const float r = (x - n * 0.693359375f) - n * -2.12194440054690583e-4f;
    float p = 1.39345342e-3f;
    p = p * r + 8.36376961e-3f;
    p = p * r + 4.16664569e-2f;
    p = p * r + 1.66665734e-1f;
    p = p * r + 5.00000001e-1f;
    p = (p * r) * r + r;
    low.i = ((k >> 1) + 127) << 23;
    high.i = ((k - (k >> 1)) + 127) << 23;
    return ((1.0f + p) * low.f) * high.f;
}

static inline float sigmoid_f32(float x) {
    const float e = exp_nonpositive_f32(-fabsf(x));
    return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

/* Near 0 an odd polynomial (Chebyshev fit, 0.01 ulp), elsewhere (1 - e) / (1 + e) with e = exp(-2|x|). */
static inline float tanh_f32(float x) {
    const float a = fabsf(x), s = x * x;
    float p = 2.29584126e-3f;
    p = p * s - 8.34698049e-3f;
    p = p * s + 2.17699609e-2f;
    p = p * s - 5.39594059e-2f;
    p = p * s + 1.33333043e-1f;
    p = p * s - 3.33333332e-1f;
    const float small = x + (x * s) * p;
    const float e = exp_nonpositive_f32(-2.0f * a);
    const float large = copysignf(1.0f - (e + e) / (1.0f + e), x);
    return a < 0.625f ? small : (x != x ? x : large);
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
