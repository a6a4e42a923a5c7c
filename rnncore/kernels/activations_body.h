/* act(f, n, x): x[i] = f(x[i]) for i < n, in place; softmax and log_softmax over the run as a whole.
 * Included once per REAL by activations.h, with NAME(name), C(libm function) and TANH(x). n >= 0, cannot fail.
 * Comparisons are written so that NaN comes out as NaN. */

static inline REAL NAME(softplus)(REAL x) { return (x > 0 ? x : 0) + C(log1p)(C(exp)(-C(fabs)(x))) + (x != x ? x : 0); }

static inline REAL NAME(clamp)(REAL x, REAL low, REAL high) { return x < low ? low : (x > high ? high : x); }

/* (x + sqrt(x^2 + a)) / 2 without the square, which overflows, and for x < 0 without the difference, which cancels. */
static inline REAL NAME(squareplus)(REAL x, REAL a) {
    const REAL root = a > 0 ? C(hypot)(x, C(sqrt)(a)) : C(sqrt)(x * x + a);
    return x < 0 ? (REAL)0.5 * a / (root - x) : (REAL)0.5 * x + (REAL)0.5 * root;
}

#define EACH(expression)                                                                                              \
    for (ptrdiff_t i = 0; i < n; i++) {                                                                               \
        const REAL v = x[i];                                                                                          \
        x[i] = (expression);                                                                                          \
    }                                                                                                                 \
    break

static void NAME(act)(const rnncore_act *f, ptrdiff_t n, REAL *restrict x) {
    const REAL a = (REAL)f->alpha, b = (REAL)f->beta;
    switch (f->id) {
    case ACT_linear: break;
    case ACT_sigmoid: EACH(NAME(sigmoid)(v));
    case ACT_tanh: EACH(TANH(v));
    case ACT_relu: EACH(v < 0 ? 0 : v);
    case ACT_affine: EACH(a * v + b);
    case ACT_leaky_relu: EACH(v < 0 ? a * v : v);
    case ACT_thresholded_relu: EACH(v <= a ? 0 : v);
    case ACT_scaled_tanh: EACH(a * TANH(b * v));
    case ACT_hard_sigmoid: EACH(NAME(clamp)(a * v + b, 0, 1));
    case ACT_elu: EACH(v < 0 ? a * C(expm1)(v) : v);
    case ACT_softsign: EACH(isinf(v) ? C(copysign)(1, v) : v / (1 + C(fabs)(v)));
    case ACT_softplus: EACH(NAME(softplus)(v));
    case ACT_celu: EACH(v < 0 ? a * C(expm1)(v / a) : v);
    case ACT_selu:
        EACH((REAL)1.0507009873554804934 * (v < 0 ? (REAL)1.6732632423543772848 * C(expm1)(v) : v));
    case ACT_relu6: EACH(NAME(clamp)(v, 0, 6));
    case ACT_silu: EACH(v * NAME(sigmoid)(v));
    case ACT_mish: EACH(v * TANH(NAME(softplus)(v)));
    case ACT_gelu_erf: EACH((REAL)0.5 * v * (1 + C(erf)(v * (REAL)0.70710678118654752440)));
    case ACT_gelu_tanh:
        EACH((REAL)0.5 * v * (1 + TANH((REAL)0.79788456080286535588 * (v + (REAL)0.044715 * v * v * v))));
    case ACT_exponential: EACH(C(exp)(v));
    case ACT_hard_tanh: EACH(NAME(clamp)(v, -1, 1));
    case ACT_hard_silu: EACH(v * NAME(clamp)(v / 6 + (REAL)0.5, 0, 1));
    case ACT_hard_shrink: EACH(C(fabs)(v) <= a ? 0 : v);
    case ACT_soft_shrink: EACH(v > a ? v - a : (v < -a ? v + a : 0 * v));
    case ACT_tanh_shrink: EACH(v - TANH(v));
    case ACT_threshold: EACH(v <= a ? b : v);
    case ACT_log_sigmoid: EACH(-NAME(softplus)(-v));
    case ACT_squareplus: EACH(NAME(squareplus)(v, a));
    case ACT_sparse_plus: EACH(v <= -1 ? 0 * v : (v >= 1 ? v : (REAL)0.25 * (v + 1) * (v + 1)));
    case ACT_sparse_sigmoid: EACH(NAME(clamp)((REAL)0.5 * (v + 1), 0, 1));
    case ACT_softmax:
    case ACT_log_softmax: {
        if (n == 0) break;
        REAL top = x[0], sum = 0;
        for (ptrdiff_t i = 1; i < n; i++) top = x[i] > top ? x[i] : top;
        for (ptrdiff_t i = 0; i < n; i++) sum += C(exp)(x[i] - top);
        const REAL log_sum = C(log)(sum);
        for (ptrdiff_t i = 0; i < n; i++) {
            x[i] = f->id == ACT_softmax ? C(exp)(x[i] - top) / sum : x[i] - top - log_sum;
        }
        break;
    }
    }
}

#undef EACH
