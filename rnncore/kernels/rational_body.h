/* Sigmoid and tanh as quotients of polynomials, for the bodies of kernels, whose shim defines W, MAX, MIN and FMA. The same
 * bits whether or not the compiler may fuse a product and a sum. */
#ifndef RNNCORE_RATIONAL_BODY_H
#define RNNCORE_RATIONAL_BODY_H

#include <math.h>

#include "vectors.h"

/* MAX(a, b) and MIN(a, b) come from the shim and return b where one of them is NaN. */
INLINE vf limit(vf x, float low, float high) { return MIN(splat(high), MAX(splat(low), x)); }

/* a * b + c rounded once, for shims of CPUs that may have no instruction for it. */
INLINE vf fused(vf a, vf b, vf c) {
    UNROLL for (int i = 0; i < W; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}

/* x P(x^2) / Q(x^2) for x within +-top, coefficients from the highest power on. */
INLINE vf quotient(vf x, const float top, const int np, const float *p, const int nq, const float *q) {
    x = limit(x, -top, top);
    const vf square = x * x;
    vf P = splat(p[0]), Q = splat(q[0]);
    UNROLL for (int i = 1; i < np; i++) P = FMA(P, square, splat(p[i]));
    UNROLL for (int i = 1; i < nq; i++) Q = FMA(Q, square, splat(q[i]));
    return x * P / Q;
}

/* The minimax quotients that Eigen published and ONNX Runtime computes its Sigmoid and Tanh by, in its order of
 * operations, fused on every instruction set: the bits are those of ONNX Runtime on a CPU with FMA. ONNX Runtime's
 * Sigmoid may pass 1 by an ulp, but not where it is a factor of Swish. */
INLINE vf rational_sigmoid(vf x) {
    static const float p[] = {4.37031012579801e-11f, 1.15627324459942e-07f, 6.08574864600143e-05f, 8.51377133304701e-03f,
                              2.48287947061529e-01f};
    static const float q[] = {6.10247389755681e-13f, 5.76102136993427e-09f, 6.29106785017040e-06f, 1.70198817374094e-03f,
                              1.16817656904453e-01f, 9.93151921023180e-01f};
    return MAX(splat(0.0f), quotient(x, 18.0f, 5, p, 6, q) + splat(0.5f));
}

INLINE vf rational_tanh(vf x) {
    static const float p[] = {-2.76076847742355e-16f, 2.00018790482477e-13f, -8.60467152213735e-11f,
                              5.12229709037114e-08f,  1.48572235717979e-05f, 6.37261928875436e-04f,
                              4.89352455891786e-03f};
    static const float q[] = {1.19825839466702e-06f, 1.18534705686654e-04f, 2.26843463243900e-03f,
                              4.89352518554385e-03f};
    return quotient(x, 9.0f, 7, p, 4, q);
}

#endif
