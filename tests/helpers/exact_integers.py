"""What quantized ops give, written out a second time: integer sums in int64, floats in float32 step by step.

ONNX Runtime is no oracle of an integer op. On a CPU without VNNI its kernel for uint8 x int8 adds two products in
int16, which saturates, so its sums depend on the CPU. ``saturation`` bounds how far they may be from the exact ones:
nowhere, where weights have 7 bits.
"""

import numpy as np

__all__ = [
    "EXACT",
    "convolution",
    "convolution_saturation",
    "dynamic_quantize_lstm",
    "dynamically_quantized",
    "exact_evaluator",
    "product",
    "quantized",
    "rational_sigmoid",
    "rational_swish",
    "rational_tanh",
    "requantized",
    "saturation",
]

F = np.float32

# ---- quotients of polynomials: those of rnncore/kernels/rational_body.h, from the highest power on ---------------

SIGMOID = (
    (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01),
    (
        *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06),
        *(1.70198817374094e-03, 1.16817656904453e-01, 9.93151921023180e-01),
    ),
)
TANH = (
    (
        *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
        *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
    ),
    (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03),
)


def fused(a, b, c):
    """a * b + c in float32, rounded once.

    The product is exact in float64. The sum there is rounded to odd, by the error that its rounding made, and what is
    rounded to odd with more than two bits to spare is rounded again without harm.
    """
    exact = a.astype(np.float64) * b
    total = exact + c
    of_c = total - exact
    error = (exact - (total - of_c)) + (c - of_c)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(F)


def quotient(x, top, coefficients):
    """x P(x^2) / Q(x^2) within +-top, by Horner's rule."""
    x = np.clip(x, F(-top), F(top))
    square = x * x
    p, q = (np.full_like(x, F(numbers[0])) for numbers in coefficients)
    for number in coefficients[0][1:]:
        p = fused(p, square, F(number))
    for number in coefficients[1][1:]:
        q = fused(q, square, F(number))
    return x * p / q


def rational_sigmoid(x):
    """It may pass 1 by an ulp."""
    return np.maximum(F(0), quotient(x, 18, SIGMOID) + F(0.5))


def rational_tanh(x):
    return quotient(x, 9, TANH)


def rational_swish(x):
    return x * np.minimum(F(1), rational_sigmoid(x))


# ---- to integers -------------------------------------------------------------------------------------------------


def quantized(x, scale, zero):
    """x / scale rounded to even, plus the zero point, within its dtype; scale and zero point broadcast against x."""
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(x / scale).astype(np.float64) + zero, limits.min, limits.max).astype(zero.dtype)


def requantized(sums, scale, zero):
    """Integer sums times a float32 scale, rounded to integers of the zero point's dtype."""
    limits = np.iinfo(zero.dtype)
    return np.clip(np.rint(sums.astype(F) * scale).astype(np.float64) + zero, limits.min, limits.max).astype(zero.dtype)


def dynamically_quantized(x):
    """DynamicQuantizeLinear: (uint8 array, scale, zero point)."""
    low, high = min(F(0), x.min(initial=0)), max(F(0), x.max(initial=0))
    scale = (high - low) / F(255) if high != low else F(1)
    zero = np.uint8(np.rint(np.clip(-low / scale, 0, 255)))
    return quantized(x, scale, zero), scale, zero


# ---- sums of products --------------------------------------------------------------------------------------------

PAIR = 16383  # two products of at most this size fit int16


def wide(integers):
    return np.zeros((), np.int64) if integers is None else integers.astype(np.int64)


def unsigned(a):
    """Activations as ONNX Runtime's kernels take them: int8 is moved up by 128."""
    return wide(a) + 128 * (a.dtype == np.int8)


def product(a, b, a_zero=None, b_zero=None):
    """(a - a_zero) @ (b - b_zero) in int64; a zero point of a is one number, one for each row, or broadcasts."""
    a_zero = wide(a_zero)
    return (wide(a) - (a_zero[:, None] if a_zero.ndim == 1 and a_zero.size > 1 else a_zero)) @ (wide(b) - wide(b_zero))


def saturation(a, b):
    """For each sum of a @ b, how much sums of pairs in int16 may lose, whichever products make a pair."""
    if b.dtype == np.uint8:  # its kernels widen first
        return np.zeros((), np.int64)
    each = np.abs(unsigned(a)[..., None] * wide(b)[..., None, :, :])
    return np.maximum(each - PAIR, 0).sum(axis=-2)


def patches(x, kernel, attributes):
    """(N, C, taps, *outputs) of x (N, C, *sizes), integers that 0 is padded to."""
    axes = len(kernel)
    strides, dilations = (attributes.get(key) or [1] * axes for key in ("strides", "dilations"))
    pads = attributes.get("pads") or [0] * 2 * axes
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)])
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    counts = [(size - extent) // s + 1 for size, extent, s in zip(x.shape[2:], extents, strides, strict=True)]
    taps = []
    for tap in np.ndindex(*kernel):
        steps = zip(tap, dilations, strides, counts, strict=True)
        taps.append(x[(..., *(slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in steps))])
    return np.stack(taps, axis=2)


def grouped(x, w, attributes):
    """(patches (N, G, 1, K, P), weights (G, M, K, 1), the outputs' shape) of a convolution in int64."""
    group = attributes.get("group", 1)
    columns = patches(x, w.shape[2:], attributes)
    shape = (len(x), len(w), *columns.shape[3:])
    depth = w[0].size
    return columns.reshape(len(x), group, 1, depth, -1), w.reshape(group, len(w) // group, depth, 1), shape


def by_output(zero, w):
    """A zero point of weights, one number or one for each output, so that it broadcasts against them."""
    return zero if zero.ndim == 0 or zero.size == 1 else zero.reshape(-1, *[1] * (w.ndim - 1))


def convolution(x, w, attributes, x_zero=None, w_zero=None):
    """Integer convolution in int64: x (N, C, *sizes), w (M, C / group, *kernel)."""
    x, w = wide(x) - wide(x_zero), wide(w) - by_output(wide(w_zero), w)
    x, w, shape = grouped(x, w, attributes)
    return (w[..., 0] @ x[:, :, 0]).reshape(shape)


def convolution_saturation(x, w, attributes, x_zero=None):
    """As saturation; what is padded is the zero point."""
    if w.dtype == np.uint8:
        return np.zeros((), np.int64)
    padded = unsigned(np.zeros((), x.dtype) if x_zero is None else x_zero)
    x, w, shape = grouped(unsigned(x) - padded, wide(w), attributes)
    return np.maximum(np.abs((x + padded) * w) - PAIR, 0).sum(axis=3).reshape(shape)


# ---- DynamicQuantizeLSTM -----------------------------------------------------------------------------------------


DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


def dynamic_quantize_lstm(attributes, *arrays):
    """Y (T, D, B, H), Y_h and Y_c (D, B, H); arrays X, W, R, B, sequence_lens, initial_h, initial_c, P, W_scale, ..."""
    directions = [_direction(attributes, arrays, *each) for each in enumerate(DIRECTIONS[attributes["direction"]])]
    y, h, c = zip(*directions, strict=True)
    return np.stack(y, axis=1), np.stack(h), np.stack(c)


def _direction(attributes, arrays, d, backward):
    """y (T, B, H) and the last h and c (B, H) of direction d."""
    x, w, r, bias, lengths, h, c, peephole, *scales = arrays
    steps, batch, hidden = len(x), x.shape[1], attributes["hidden_size"]
    w, r, w_scale, w_zero, r_scale, r_zero = (array[d] for array in (w, r, *scales))
    zeros = np.zeros((batch, hidden), F)
    lengths = [steps] * batch if lengths is None else lengths.tolist()
    h, c = (zeros if state is None else state[d] for state in (h, c))
    bias = np.zeros(4 * hidden, F) if bias is None else bias[d, : 4 * hidden] + bias[d, 4 * hidden :]
    peephole = np.zeros(3 * hidden, F) if peephole is None else peephole[d]
    # The input's range is that of all steps which any row takes.
    longest = max(lengths)
    z = _by_quantized(x[:longest], w, w_scale, w_zero)
    y, last_h, last_c = np.zeros((steps, batch, hidden), F), zeros.copy(), zeros.copy()
    for step in range(longest):
        running = [(row, n - 1 - step if backward else step) for row, n in enumerate(lengths) if step < n]
        rows, places = map(list, zip(*running, strict=True))
        recurrent = _by_quantized(h, r, r_scale, r_zero)  # the range is that of all rows, the ended ones with zeros
        h = zeros.copy()
        h[rows], last_c[rows] = _step(attributes, z[places, rows] + recurrent[rows], c[rows], bias, peephole)
        y[places, rows] = last_h[rows] = h[rows]
        c = last_c
    return y, last_h, last_c


def _by_quantized(x, weight, scale, zero):
    """x times a quantized weight, by way of x quantized."""
    integers, x_scale, x_zero = dynamically_quantized(x)
    return product(integers, weight, x_zero, zero.reshape(-1)[0]).astype(F) * (x_scale * scale)


def _step(attributes, z, c, bias, peephole):
    """The new h and c (rows, H), from the products z (rows, 4 H) in ONNX's order of gates, i o f c."""
    clip = attributes.get("clip")
    zi, zo, zf, zc = np.split(z, 4, axis=1)
    bi, bo, bf, bc = np.split(bias, 4)
    pi, po, pf = np.split(peephole, 3)

    def limit(z):
        return np.clip(z, F(-clip), F(clip)) if clip else z

    i = rational_sigmoid(limit(zi + pi * c + bi))
    f = F(1) - i if attributes.get("input_forget") else rational_sigmoid(limit(zf + pf * c + bf))
    c = f * c + i * rational_tanh(limit(zc + bc))
    return rational_sigmoid(limit(zo + po * c + bo)) * rational_tanh(c), c


# ---- graphs ------------------------------------------------------------------------------------------------------


def _integer(function):
    return lambda attributes, a, b, *zeros: (function(attributes, a, b, *zeros).astype(np.int32),)


EXACT = {
    "DynamicQuantizeLinear": lambda attributes, x: tuple(map(np.asarray, dynamically_quantized(x))),
    "MatMulInteger": _integer(lambda attributes, *arrays: product(*arrays)),
    "ConvInteger": _integer(lambda attributes, x, w, *zeros: convolution(x, w, attributes, *zeros)),
    "DynamicQuantizeLSTM": dynamic_quantize_lstm,
}
"""Ops of ONNX, each from its attributes and arrays to its outputs."""


def exact_evaluator(model):
    """onnx's evaluator of an onnx model whose quantized ops, and Sigmoid before them, are the exact ones."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun

    def op(name, function):
        fields = {"_run": lambda self, *arrays, **attributes: function(attributes, *arrays)}
        if name == "DynamicQuantizeLSTM":
            fields["op_domain"] = "com.microsoft"
        return type(name, (OpRun,), fields)

    ops = {**EXACT, "Sigmoid": lambda attributes, x: (rational_sigmoid(x),)}
    return ReferenceEvaluator(model, new_ops=[op(*each) for each in ops.items()])
