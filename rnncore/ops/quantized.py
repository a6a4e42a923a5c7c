"""Quantized ops under their names in ONNX and, as far as ONNX Runtime adds them, in com.microsoft.

Integer sums are exact. They are made in floating point: in float32, on the packed kernels, where no sum of the
products can reach 2^24, else in float64. Scales, quotients and quantized values are rounded as ONNX Runtime rounds:
float32 at each step, to even.

DynamicQuantizeLSTM has what ONNX Runtime's has: the whole input is quantized by its own range once for each direction,
the hidden state of all rows together before every step (with one thread; with more, ONNX Runtime may quantize blocks of
rows by themselves). Its sigmoid and tanh are ONNX Runtime's quotients of polynomials, in float32: see
passes/quantized.py for why.
"""

from __future__ import annotations

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.kernels import _activations, _linear, runs_native
from rnncore.ops import blocks
from rnncore.ops.base import Op, Value, axis_of, broadcast
from rnncore.ops.checks import need, need_scalar
from rnncore.ops.convolution import Kept, check_given, convolve, pack_convolution
from rnncore.ops.dimensions import Dimension, along_rows, factors
from rnncore.ops.schema import Axis, Choice, Flag, Real, Size, Texts
from rnncore.ops.windows import KERNEL, WINDOW_SCHEMA, Window, check_sizes, need_images

__all__ = ["OPS"]

BYTES = ("int8", "uint8")
QUANTIZED = ("int8", "uint8", "int16", "uint16")
EXACT = 1 << 24  # integers below this are exact in float32, and so is every sum of them that stays below


def _need_vector(what, value, size, dtypes):
    """SpecError unless a value holds one number, or a vector of ``size``."""
    need(value, dtypes, what)
    if value.shape in ((), (1,)):
        return
    length = value.shape[0] if len(value.shape) == 1 else None
    if length is None or (isinstance(length, int) and isinstance(size, int) and length != size):
        raise SpecError(f"{what} is {value}, expected a single number or {size} of them")


def _rounded(x, zero, dtype):
    """Integers of a dtype: x rounded to even, moved by the zero point, within the dtype's range."""
    limits = np.iinfo(dtype)
    return np.clip(np.rint(x) + zero.astype(x.dtype), limits.min, limits.max).astype(dtype)


# ---- to integers and back ----------------------------------------------------------------------------------------


def _along(vector, attributes, x):
    """A scale or zero point so that it broadcasts along the axis it belongs to."""
    if vector is None or vector.ndim == 0 or vector.shape == (1,):
        return vector if vector is None else vector.reshape(())
    axis = axis_of(attributes["axis"], x.ndim)
    if len(vector) != x.shape[axis]:
        raise InputError(f"{len(vector)} scales or zero points for axis {axis} of {x.shape}, expected one for each")
    return vector.reshape(-1, *[1] * (x.ndim - 1 - axis))


def _check_scales(attributes, x, scale, zero):
    for what, value in (("scale", scale), ("zero point", zero)):
        if value is None or value.shape in ((), (1,)):
            continue
        if len(value.shape) != 1:
            raise SpecError(f"{what} is {value}, expected a single number or a vector (blocked quantization is not in)")
        size = x.shape[axis_of(attributes["axis"], len(x.shape))]
        if isinstance(size, int) and isinstance(value.shape[0], int) and size != value.shape[0]:
            raise SpecError(f"{what} is {value}, expected {size} numbers")
    if zero is not None and len(zero.shape) == 1 and len(scale.shape) == 1 and zero.shape != scale.shape:
        raise SpecError(f"scale is {scale} and zero point {zero}, expected one shape")


def _quantize_dtype(attributes, zero):
    wanted = attributes["output_dtype"]
    if wanted is None:
        return "uint8" if zero is None else zero.dtype
    if zero is not None and zero.dtype != wanted:
        raise SpecError(f"output_dtype={wanted!r}, expected that of the zero point, {' or '.join(QUANTIZED)}")
    return wanted


def _quantize_infer(attributes, values):
    x, scale, zero = values
    need(x, ("float", "int32"), "input")
    need(scale, ("float",), "scale")
    if zero is not None:
        need(zero, QUANTIZED, "zero point")
    _check_scales(attributes, x, scale, zero)
    return [Value(_quantize_dtype(attributes, zero), x.shape)]


def _quantize_run(attributes, weights, x, scale, zero=None):
    dtype = np.dtype(attributes["output_dtype"] or "uint8") if zero is None else zero.dtype
    scale = _along(scale, attributes, x)
    zero = np.zeros((), dtype) if zero is None else _along(zero, attributes, x)
    return _rounded(x.astype(scale.dtype, copy=False) / scale, zero, dtype)


def _dequantize_infer(attributes, values):
    x, scale, zero = values
    need(x, (*QUANTIZED, "int32"), "input")
    need(scale, ("float",), "scale")
    if zero is not None and zero.dtype != x.dtype:
        raise SpecError(f"zero point is {zero}, expected {x.dtype}")
    _check_scales(attributes, x, scale, zero)
    return [Value("float", x.shape)]


def _dequantize_run(attributes, weights, x, scale, zero=None):
    scale = _along(scale, attributes, x)
    difference = x if zero is None else x.astype(np.int32) - _along(zero, attributes, x).astype(np.int32)
    return difference.astype(scale.dtype) * scale


def _dynamic_infer(attributes, values):
    need(values[0], ("float",))
    return [Value("uint8", values[0].shape), Value("float", ()), Value("uint8", ())]


def quantization(x):
    """Scale and zero point that put the range of x, zero included, on 0 to 255."""
    floating = x.dtype.type
    low = min(floating(0), x.min(initial=0))
    high = max(floating(0), x.max(initial=0))
    scale = (high - low) / floating(255) if high != low else floating(1)
    return scale, np.uint8(np.rint(np.clip(-low / scale, 0, 255)))


def _dynamic_run(attributes, weights, x):
    scale, zero = quantization(x)
    return _rounded(x / scale, zero, np.uint8), np.asarray(scale), np.asarray(zero)


# ---- products ----------------------------------------------------------------------------------------------------


def _need_spread(x, *others):
    """InputError where one of the others, which may be None, would make x larger than it is."""
    for other in others:
        if other is not None:
            pairs = zip(reversed(other.shape), reversed(x.shape), strict=False)
            if other.ndim > x.ndim or any(n not in (1, size) for n, size in pairs):
                raise InputError(
                    f"scale, zero point or bias of shape {other.shape} for {x.shape}, expected one for each"
                )


def _minus(x, zero):
    """x - zero point, in float32, where each is exact."""
    _need_spread(x, zero)
    x = x.astype(np.float32)
    return x if zero is None or not zero.any() else x - zero.astype(np.float32)


class IntegerMatrix:
    """a B for integers a of at most 255, exact; B (K, N), integers in float32, prepared once."""

    def __init__(self, matrix, threads):
        exact = 255 * float(np.abs(matrix).sum(axis=0).max(initial=0)) < EXACT
        self.packed = None
        self.matrix = matrix if exact else matrix.astype(np.float64)
        if exact and matrix.size and runs_native(np.float32):
            self.packed = _linear.Matrix(np.ascontiguousarray(matrix.T), None, threads)

    def __call__(self, a):
        """a (..., K), integers in float32; returns float32 or float64."""
        if a.shape[-1:] != self.matrix.shape[:1]:
            raise InputError(f"matrices {a.shape} and {self.matrix.shape}, expected one inner size")
        if self.packed is not None and a.size:
            return self.packed(a)
        return blocks.matmul(a.astype(self.matrix.dtype, copy=False), self.matrix)


def _column(zero):
    """A zero point of the left side, one for all or one for each row."""
    return zero if zero is None or zero.ndim == 0 or zero.shape == (1,) else zero[..., None]


class _Products:
    """The integer products of one node, whose right side is usually a constant and then prepared once."""

    def __init__(self, threads):
        self.prepared = Kept(lambda b, zero: IntegerMatrix(_minus(b, zero), threads))

    def __call__(self, a, b, a_zero=None, b_zero=None):
        """(a - a_zero) (b - b_zero), integers in floating point."""
        a = _minus(a, _column(a_zero) if a_zero is not None and a_zero.ndim <= 1 else a_zero)
        if b.ndim == 2:
            return self.prepared(b, b_zero)(a)
        return blocks.matmul(a.astype(np.float64), _minus(b, b_zero).astype(np.float64))


def _wrapped(sums):
    """Sums as int32, which run over as those of int32 do."""
    return sums.astype(np.int64).astype(np.int32) if sums.dtype == np.float64 else sums.astype(np.int32)


def _product_shape(a, b):
    """The shape of a matrix product."""
    if not a.shape or not b.shape:
        raise SpecError(f"inputs are {a} and {b}, expected matrices")
    left = a.shape if len(a.shape) > 1 else (1, *a.shape)
    right = b.shape if len(b.shape) > 1 else (*b.shape, 1)
    inner, other = left[-1], right[-2]
    if isinstance(inner, int) and isinstance(other, int) and inner != other:
        raise SpecError(f"inputs are {a} and {b}, whose inner sizes differ")
    batch = broadcast([Value("float", left[:-2]), Value("float", right[:-2])])
    rows = left[-2:-1] if len(a.shape) > 1 else ()
    columns = right[-1:] if len(b.shape) > 1 else ()
    return (*batch, *rows, *columns)


def _need_zero(what, zero, like, size):
    """SpecError unless a zero point, which may be absent, has a side's dtype and one number, or one for each row."""
    if zero is None:
        return
    need(zero, (like.dtype,), what)
    if len(zero.shape) <= 1:
        _need_vector(what, zero, size, (like.dtype,))
    elif len(zero.shape) != len(like.shape):
        raise SpecError(f"{what} is {zero}, expected a single number, a vector, or rank {len(like.shape)}")


def _sizes(a, b):
    return (a.shape[-2] if len(a.shape) > 1 else 1), (b.shape[-1] if len(b.shape) > 1 else 1)


def _matmul_integer_infer(attributes, values):
    a, b, a_zero, b_zero = values
    need(a, BYTES, "A")
    need(b, BYTES, "B")
    rows, columns = _sizes(a, b)
    _need_zero("a_zero_point", a_zero, a, rows)
    _need_zero("b_zero_point", b_zero, b, columns)
    return [Value("int32", _product_shape(a, b))]


def _matmul_integer_packed(attributes, weights, threads):
    product = _Products(threads)
    return lambda a, b, a_zero=None, b_zero=None: _wrapped(product(a, b, a_zero, b_zero))


def _qlinear_matmul_infer(attributes, values):
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = values
    need(a, BYTES, "a")
    need(b, BYTES, "b")
    rows, columns = _sizes(a, b)
    for what, scale, size in (("a_scale", a_scale, rows), ("b_scale", b_scale, columns)):
        _need_vector(what, scale, size, ("float", "float16"))
    _need_zero("a_zero_point", a_zero, a, rows)
    _need_zero("b_zero_point", b_zero, b, columns)
    need_scalar(y_scale, ("float", "float16"), "y_scale")
    need_scalar(y_zero, BYTES, "y_zero_point")
    return [Value(y_zero.dtype, _product_shape(a, b))]


def _single(scale):
    """A scale in float32, or float64 in a model of that."""
    return scale.astype(np.float32) if scale.dtype == np.float16 else scale


def _qlinear_matmul_packed(attributes, weights, threads):
    product = _Products(threads)

    def run(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero):
        sums = product(a, b, a_zero, b_zero)
        scale = _column(_single(a_scale)) * _single(b_scale) / _single(y_scale).reshape(())
        scale = scale.reshape(()) if scale.size == 1 else scale
        _need_spread(sums, scale)
        return _rounded(sums.astype(scale.dtype) * scale, y_zero.reshape(()), y_zero.dtype)

    return run


def _to_float_infer(attributes, values):
    a, b, a_scale, b_scale, a_zero, b_zero, bias = values
    need(a, BYTES, "A")
    need(b, BYTES, "B")
    _, columns = _sizes(a, b)
    need_scalar(a_scale, ("float",), "a_scale")
    _need_vector("b_scale", b_scale, columns, ("float",))
    if a_zero is not None:
        need_scalar(a_zero, (a.dtype,), "a_zero_point")
    _need_zero("b_zero_point", b_zero, b, columns)
    if bias is not None:
        _need_vector("bias", bias, columns, ("float",))
    return [Value("float", _product_shape(a, b))]


def _scaled(sums, a_scale, b_scale, bias):
    b_scale, bias = (v.reshape(()) if v is not None and v.size == 1 else v for v in (b_scale, bias))
    _need_spread(sums, b_scale, bias)
    y = sums.astype(b_scale.dtype, copy=False) * (a_scale.reshape(()) * b_scale)
    return y if bias is None else y + bias


def _to_float_packed(attributes, weights, threads):
    product = _Products(threads)

    def run(a, b, a_scale, b_scale, a_zero=None, b_zero=None, bias=None):
        return _scaled(product(a, b, a_zero, b_zero), a_scale, b_scale, bias)

    return run


def _dynamic_matmul_infer(attributes, values):
    a, b, b_scale, b_zero, bias = values
    need(a, ("float",), "A")
    need(b, BYTES, "B")
    _, columns = _sizes(a, b)
    _need_vector("b_scale", b_scale, columns, ("float",))
    _need_zero("b_zero_point", b_zero, b, columns)
    if bias is not None:
        _need_vector("bias", bias, columns, ("float",))
    return [Value("float", _product_shape(a, b))]


def _dynamic_matmul_packed(attributes, weights, threads):
    product = _Products(threads)

    def run(a, b, b_scale, b_zero=None, bias=None):
        scale, zero = quantization(a)
        return _scaled(product(_rounded(a / scale, zero, np.uint8), b, zero, b_zero), scale, b_scale, bias)

    return run


# ---- convolutions ------------------------------------------------------------------------------------------------


def _conv_value(attributes, x, w):
    """The outputs' shape of a convolution of integers."""
    axes = need_images(x)
    need(x, BYTES, "x")
    need(w, BYTES, "w")
    group = attributes["group"]
    if len(w.shape) != axes + 2 or 0 in w.shape:
        raise SpecError(f"w is {w}, expected rank {axes + 2} and sizes of at least 1")
    if isinstance(w.shape[0], int) and w.shape[0] % group:
        raise SpecError(f"w is {w}, expected a multiple of group={group} at first")
    kernel = w.shape[2:]
    if attributes["kernel_shape"] is not None:
        kernel = check_sizes(attributes, "kernel_shape", axes, 1, 1)
    if any(isinstance(size, str) for size in kernel):
        raise SpecError(f"w is {w}, expected known kernel sizes, or kernel_shape")
    if any(isinstance(size, int) and size != k for size, k in zip(w.shape[2:], kernel, strict=True)):
        raise SpecError(f"kernel_shape={list(kernel)}, expected that of w, which is {w}")
    channels = w.shape[1] * group if isinstance(w.shape[1], int) else w.shape[1]
    if isinstance(x.shape[1], int) and isinstance(channels, int) and x.shape[1] != channels:
        raise SpecError(f"x is {x}, expected {channels} channels")
    return (x.shape[0], w.shape[0], *Window.of(attributes, kernel).outputs(x.shape[2:]))


class _Convolutions:
    """The integer convolutions of one node, whose weights are usually constant and then prepared once."""

    def __init__(self, attributes, threads):
        self.attributes = attributes

        def prepare(w, zero):
            window = Window.of(attributes, w.shape[2:])
            vector = zero is not None and zero.ndim == 1 and len(zero) > 1
            w = _minus(w, zero.reshape(-1, *[1] * (w.ndim - 1)) if vector else zero)
            largest = 255 * float(np.abs(w).reshape(len(w), -1).sum(axis=1).max(initial=0))
            if largest < EXACT and w.size and runs_native(np.float32):
                return pack_convolution(w, None, window, attributes["group"], threads)
            w = w if largest < EXACT else w.astype(np.float64)
            return lambda x: convolve(x.astype(w.dtype, copy=False), w, None, window, attributes["group"])

        self.prepared = Kept(prepare)

    def __call__(self, x, w, x_zero=None, w_zero=None):
        check_given(self.attributes, x, w)
        return self.prepared(w, w_zero)(_minus(x, x_zero))


def _conv_integer_infer(attributes, values):
    x, w, x_zero, w_zero = values
    shape = _conv_value(attributes, x, w)
    if x_zero is not None:
        need_scalar(x_zero, (x.dtype,), "x_zero_point")
    if w_zero is not None:
        _need_vector("w_zero_point", w_zero, w.shape[0], (w.dtype,))
    return [Value("int32", shape)]


def _conv_integer_packed(attributes, weights, threads):
    product = _Convolutions(attributes, threads)
    return lambda x, w, x_zero=None, w_zero=None: _wrapped(product(x, w, x_zero, w_zero))


def _qlinear_conv_infer(attributes, values):
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias = values
    shape = _conv_value(attributes, x, w)
    for what, value in (("x_scale", x_scale), ("y_scale", y_scale)):
        need_scalar(value, ("float",), what)
    need_scalar(x_zero, (x.dtype,), "x_zero_point")
    need_scalar(y_zero, BYTES, "y_zero_point")
    _need_vector("w_scale", w_scale, w.shape[0], ("float",))
    _need_vector("w_zero_point", w_zero, w.shape[0], (w.dtype,))
    if bias is not None and (bias.dtype != "int32" or len(bias.shape) != 1):
        raise SpecError(f"bias is {bias}, expected {Value('int32', (w.shape[0],))}")
    return [Value(y_zero.dtype, shape)]


def _qlinear_conv_packed(attributes, weights, threads):
    product = _Convolutions(attributes, threads)

    def run(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias=None):
        sums = _wrapped(product(x, w, x_zero, w_zero))
        after = [1] * (x.ndim - 2)
        if bias is not None:
            sums += bias.reshape(-1, *after)
        scale = (x_scale.reshape(()) * w_scale / y_scale.reshape(())).reshape(-1, *after)
        _need_spread(sums, scale)
        return _rounded(sums.astype(scale.dtype) * scale, y_zero.reshape(()), y_zero.dtype)

    return run


# ---- DynamicQuantizeLSTM -----------------------------------------------------------------------------------------

DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
LSTM_INPUTS = (
    *("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    *("W_scale", "W_zero_point", "R_scale", "R_zero_point"),
)


def _lstm_shapes(attributes, batch, width):
    """The shapes of the inputs that an input of these sizes asks for, by name."""
    directions, hidden = len(DIRECTIONS[attributes["direction"]]), attributes["hidden_size"]
    return {
        "W": (directions, width, 4 * hidden),
        "R": (directions, hidden, 4 * hidden),
        "B": (directions, 8 * hidden),
        "sequence_lens": (batch,),
        "initial_h": (directions, batch, hidden),
        "initial_c": (directions, batch, hidden),
        "P": (directions, 3 * hidden),
    }


def _lstm_infer(attributes, values):
    given = dict(zip(LSTM_INPUTS, values, strict=True))
    x, hidden = given["X"], attributes["hidden_size"]
    directions = len(DIRECTIONS[attributes["direction"]])
    usual = ("sigmoid", "tanh", "tanh") * directions
    names = attributes["activations"]
    if names is not None and tuple(name.lower() for name in names) != usual:
        raise SpecError(f"activations={names!r}, expected Sigmoid, Tanh, Tanh for each direction")
    need(x, ("float",), "X")
    if len(x.shape) != 3:
        raise SpecError(f"X is {x}, expected (T, B, I)")
    steps, batch, width = x.shape
    dtypes = {"W": BYTES, "R": BYTES, "sequence_lens": ("int32", "int64")}
    for name, shape in _lstm_shapes(attributes, batch, width).items():
        if given[name] is not None:
            _need_shape(name, given[name], dtypes.get(name, ("float",)), [shape])
    for name in ("W", "R"):
        each = [(directions,), (directions, 4 * hidden)]
        _need_shape(f"{name}_scale", given[f"{name}_scale"], ("float",), each)
        _need_shape(f"{name}_zero_point", given[f"{name}_zero_point"], (given[name].dtype,), each)
    state = Value("float", (directions, batch, hidden))
    return [Value("float", (steps, directions, batch, hidden)), state, state]


def _need_shape(what, value, dtypes, shapes):
    need(value, dtypes, what)
    for shape in shapes:
        pairs = zip(value.shape, shape, strict=False)
        fits = all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in pairs)
        if fits and len(value.shape) == len(shape):
            return
    raise SpecError(f"{what} is {value}, expected {' or '.join(str(Value(dtypes[0], shape)) for shape in shapes)}")


def _lstm_matrix(threads):
    """A function that makes an IntegerMatrix of one direction's weights, whose zero point is one number."""

    def make(weight, zero):
        return [IntegerMatrix(_minus(w, z.reshape(-1)[:1]), threads) for w, z in zip(weight, zero, strict=True)]

    return make


def _check_zero(name, weight, zero):
    """Zero points for each column must agree, and be 0 with int8."""
    if zero.ndim == 2 and ((zero != zero[:, :1]).any() or (weight.dtype == np.int8 and zero.any())):
        raise InputError(f"{name}: zero points differ from column to column, expected one number")


def _quantized_product(matrix, x, scale):
    """x B by way of x quantized: B's integers in ``matrix``, its scale one number or one for each column."""
    x_scale, zero = quantization(x)
    integers = _rounded(x / x_scale, zero, np.uint8)
    return matrix(integers.astype(np.float32) - np.float32(zero)).astype(x.dtype, copy=False) * (x_scale * scale)


def _sigmoid(x):
    return _activations.rational("sigmoid", x) if x.dtype == np.float32 else 1 / (1 + np.exp(-x))


def _tanh(x):
    return _activations.rational("tanh", x) if x.dtype == np.float32 else np.tanh(x)


def _reversed(x, lengths):
    """Each row's valid steps backwards, the rest as it is. x (T, B, ...)."""
    steps = np.arange(len(x))[:, None]
    places = np.where(steps < lengths, lengths - 1 - steps, steps)
    return np.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=0)


def _lstm_direction(attributes, x, lengths, w, w_scale, r, r_scale, bias, peephole, h, c):
    """One direction over x (T, B, I), forward: outputs (T, B, H) and the last h and c."""
    steps, batch = x.shape[:2]
    hidden = attributes["hidden_size"]
    longest = int(lengths.max(initial=0))
    clip = attributes["clip"]
    limit = (lambda z: np.clip(z, -clip, clip)) if clip else (lambda z: z)
    y = np.zeros((steps, batch, hidden), x.dtype)
    gates = _quantized_product(w, x[:longest], w_scale)
    final_h, c = np.zeros_like(h), c.copy()
    for step in range(longest):
        z = gates[step] + _quantized_product(r, h, r_scale)
        zi, zo, zf, zc = np.split(z, 4, axis=1)
        bi, bo, bf, bc = np.split(bias, 4)
        pi, po, pf = np.split(peephole, 3)
        i = _sigmoid(limit(zi + pi * c + bi))
        f = 1 - i if attributes["input_forget"] else _sigmoid(limit(zf + pf * c + bf))
        runs = (step < lengths)[:, None]
        c = np.where(runs, f * c + i * _tanh(limit(zc + bc)), c)
        y[step] = np.where(runs, _sigmoid(limit(zo + po * c + bo)) * _tanh(c), 0)
        h = y[step]
        final_h = np.where(runs, h, final_h)
    return y, final_h, np.where((lengths > 0)[:, None], c, 0)


def _lstm_packed(attributes, weights, threads):
    prepared = [Kept(_lstm_matrix(threads)) for _ in range(2)]

    def run(x, w, r, bias, lengths, h0, c0, peephole, w_scale, w_zero, r_scale, r_zero):
        hidden, (steps, batch, width) = attributes["hidden_size"], x.shape
        backwards = DIRECTIONS[attributes["direction"]]
        given = dict(zip(LSTM_INPUTS[1:], (w, r, bias, lengths, h0, c0, peephole), strict=False))
        for name, shape in _lstm_shapes(attributes, batch, width).items():
            if given[name] is not None and given[name].shape != shape:
                raise InputError(f"{name}: shape {given[name].shape}, expected {shape}")
        lengths = np.full(batch, steps) if lengths is None else lengths
        if (lengths < 0).any() or (lengths > steps).any():
            raise InputError(f"sequence_lens={lengths.tolist()}, expected lengths from 0 to {steps}")
        _check_zero("W_zero_point", w, w_zero)
        _check_zero("R_zero_point", r, r_zero)
        w_matrices, r_matrices = prepared[0](w, w_zero), prepared[1](r, r_zero)
        zeros = np.zeros((len(backwards), batch, hidden), x.dtype)
        h0, c0 = (zeros if state is None else state for state in (h0, c0))
        bias = np.zeros((len(backwards), 8 * hidden), x.dtype) if bias is None else bias
        bias = bias[:, : 4 * hidden] + bias[:, 4 * hidden :]
        peephole = np.zeros((len(backwards), 3 * hidden), x.dtype) if peephole is None else peephole
        directions = []
        for d, backward in enumerate(backwards):
            y, h, c = _lstm_direction(
                attributes,
                _reversed(x, lengths) if backward else x,
                lengths,
                *(w_matrices[d], w_scale[d], r_matrices[d], r_scale[d]),
                *(bias[d], peephole[d], h0[d], c0[d]),
            )
            directions.append((_reversed(y, lengths) if backward else y, h, c))
        y, h, c = zip(*directions, strict=True)
        return np.stack(y, axis=1), np.stack(h), np.stack(c)

    return run


def _packed_only(packed):
    """Op.run of an op that prepares something at load."""
    return lambda attributes, weights, *arrays: packed(attributes, weights, 1)(*arrays)


def _op(name, infer, packed, least, most, **fields):
    optional = tuple(range(least, most))
    return Op(name, infer, _packed_only(packed), arity=(least, most), optional=optional, packed=packed, **fields)


def _linear_dimensions(attributes, inputs, outputs):
    """Scales and zero points of a vector have a number for each index of an axis."""
    rank = len(inputs[0].shape)
    dimensions = [{0: axis} for axis in range(rank)]
    for place, value in enumerate(inputs[1:], 1):
        if value is not None and value.shape:
            dimensions[attributes["axis"] % rank][place] = 0
    return [Dimension(here, {0: axis}) for axis, here in enumerate(dimensions)]


def _product_dimensions(a, b, beside_a, beside_b):
    """The Rule of a product of the inputs a and b, each with the places of its scale and zero point.

    Those of b may have a number for each column. Where those of a have one for each row, rows are not followed.
    """

    def rule(attributes, inputs, outputs):
        many = {place for place, value in enumerate(inputs) if value is not None and value.shape not in ((), (1,))}
        dimensions = factors(inputs[a], inputs[b], outputs[0], (a, b))
        if len(inputs[b].shape) > 1:
            columns = {place: len(inputs[place].shape) - 1 for place in beside_b if place in many}
            dimensions[-1] = Dimension({**dimensions[-1].inputs, **columns}, dimensions[-1].outputs)
        rows = {a: len(inputs[a].shape) - 2}
        return [dimension for dimension in dimensions if many.isdisjoint(beside_a) or dimension.inputs != rows]

    return rule


def _dynamic_dimensions(attributes, inputs, outputs):
    """The columns: what is quantized by its range meets."""
    return _product_dimensions(0, 1, (), (2, 3, 4))(attributes, inputs, outputs)[-1:]


BLOCKS = Choice(0, among=(0,))  # one scale for all, or one for each index
CONV_SCHEMA = {**WINDOW_SCHEMA, "group": Size(1), "kernel_shape": KERNEL}
LSTM_SCHEMA = {
    "hidden_size": Size(),
    "direction": Choice("forward", among=tuple(DIRECTIONS)),
    "activations": Texts(None),
    "clip": Real(None, above=0.0),
    "input_forget": Flag(0),
}

OPS = [
    Op(
        "QuantizeLinear",
        infer=_quantize_infer,
        run=_quantize_run,
        dimensions=_linear_dimensions,
        arity=(2, 3),
        schema={
            "axis": Axis(1),
            "saturate": Choice(1, among=(1,)),  # about float8
            "block_size": BLOCKS,
            "output_dtype": Choice(None, among=QUANTIZED),
        },
        optional=(2,),
    ),
    Op(
        "DequantizeLinear",
        infer=_dequantize_infer,
        run=_dequantize_run,
        dimensions=_linear_dimensions,
        arity=(2, 3),
        schema={"axis": Axis(1), "block_size": BLOCKS, "output_dtype": Choice(None, among=("float",))},
        optional=(2,),
    ),
    Op(
        "DynamicQuantizeLinear",
        infer=_dynamic_infer,
        run=_dynamic_run,
        outputs=("", "scale", "zero_point"),
    ),
    _op(
        "MatMulInteger",
        _matmul_integer_infer,
        _matmul_integer_packed,
        2,
        4,
        dimensions=_product_dimensions(0, 1, (2,), (3,)),
    ),
    _op(
        "QLinearMatMul",
        _qlinear_matmul_infer,
        _qlinear_matmul_packed,
        8,
        8,
        dimensions=_product_dimensions(0, 3, (1, 2), (4, 5)),
    ),
    _op(
        "MatMulIntegerToFloat",
        _to_float_infer,
        _to_float_packed,
        4,
        7,
        dimensions=_product_dimensions(0, 1, (2, 4), (3, 5, 6)),
    ),
    _op(
        "DynamicQuantizeMatMul",
        _dynamic_matmul_infer,
        _dynamic_matmul_packed,
        3,
        5,
        dimensions=_dynamic_dimensions,
    ),
    _op(
        "ConvInteger",
        _conv_integer_infer,
        _conv_integer_packed,
        2,
        4,
        dimensions=along_rows(),
        schema=CONV_SCHEMA,
    ),
    _op(
        "QLinearConv",
        _qlinear_conv_infer,
        _qlinear_conv_packed,
        8,
        9,
        dimensions=along_rows(),
        schema=CONV_SCHEMA,
    ),
    Op(
        "DynamicQuantizeLSTM",
        infer=_lstm_infer,
        run=_packed_only(_lstm_packed),
        arity=(12, 12),
        schema=LSTM_SCHEMA,
        optional=(3, 4, 5, 6, 7),
        outputs=("", "h", "c"),
        packed=_lstm_packed,
    ),
]
