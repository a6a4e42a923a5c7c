"""Quantized ops and what is computed for them: exact integers, and floats rounded as exact_integers.py writes it out.

ONNX Runtime is a second witness, whose sums may differ by what its kernels saturate: nowhere with weights of 7 bits.
"""

import numpy as np
import pytest
from agreement import assert_close, assert_same_bits
from exact_integers import (
    convolution,
    convolution_saturation,
    dynamic_quantize_lstm,
    dynamically_quantized,
    product,
    quantized,
    rational_sigmoid,
    rational_swish,
    rational_tanh,
    requantized,
    saturation,
)
from onnx_ops import OneNode, onnxruntime_has_the_bits, run_onnxruntime
from random_networks import seeds

from rnncore import Model
from rnncore.errors import InputError, SpecError

MICROSOFT = "com.microsoft"


def floats(rng, *shape):
    return np.asarray(rng.standard_normal(shape)).astype(np.float32)


def integers(rng, dtype, *shape):
    limits = np.iinfo(dtype)
    return np.asarray(rng.integers(limits.min, int(limits.max) + 1, shape)).astype(dtype)


def weights(rng, dtype, *shape):
    """Integers of 8 bits or of 7, where no kernel of ONNX Runtime saturates."""
    return integers(rng, dtype, *shape) // np.array(rng.integers(1, 3), dtype)


def assert_witness(theirs, exact, lost):
    """ONNX Runtime's integers are the exact ones, but for what its sums may lose."""
    assert (theirs.dtype, theirs.shape) == (exact.dtype, exact.shape)
    assert (np.abs(theirs.astype(np.int64) - exact) <= lost).all()


def assert_witness_nearly(theirs, exact, lost):
    """The same of integers that are rounded from sums times a scale; a few stand a rounding error from a middle."""
    assert_witness(theirs, exact, np.ceil(lost) + 1)
    if not np.any(lost):
        assert (theirs != exact).mean() <= 0.01


# --- to integers and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize("seed", seeds(15))
def test_quantize(dtype, seed):
    rng = np.random.default_rng(seed)
    x = 40 * floats(rng, 3, 4, 5)
    axis = int(rng.integers(-3, 3))
    count = () if rng.integers(2) else (x.shape[axis],)
    scale = np.asarray(np.abs(floats(rng, *count)) + np.float32(0.1), np.float32)
    zero = np.asarray(integers(rng, dtype, *count))
    attributes = {"axis": axis}
    arrays = [x, scale, zero]
    (expected,) = run_onnxruntime("QuantizeLinear", attributes, arrays, opset=21)
    (found,) = OneNode("QuantizeLinear", attributes, arrays, named=range(3)).run()
    np.testing.assert_array_equal(found, expected)
    along = [array.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim)) if array.ndim else array for array in arrays[1:]]
    np.testing.assert_array_equal(found, quantized(x, *along))
    (back,) = run_onnxruntime("DequantizeLinear", attributes, [expected, scale, zero], opset=21)
    (ours,) = OneNode("DequantizeLinear", attributes, [expected, scale, zero], named=range(3)).run()
    assert_same_bits(ours, back)


def test_quantize_without_a_zero_point_and_with_ties():
    x = np.array([-3, -2.5, -0.5, 0.5, 1.5, 2.5, 254.5, 1000], np.float32)
    one = np.array(1, np.float32)
    (found,) = OneNode("QuantizeLinear", {}, [x, one]).run()
    np.testing.assert_array_equal(found, np.array([0, 0, 0, 0, 2, 2, 254, 255], np.uint8))
    (found,) = OneNode("QuantizeLinear", {"output_dtype": "int8"}, [x, one]).run()
    np.testing.assert_array_equal(found, np.array([-3, -2, 0, 0, 2, 2, 127, 127], np.int8))


def test_dequantize_int32():
    x, scale = integers(np.random.default_rng(0), "int16", 3, 4).astype(np.int32), np.array(0.02, np.float32)
    (expected,) = run_onnxruntime("DequantizeLinear", {}, [x, scale], opset=21)
    assert_same_bits(OneNode("DequantizeLinear", {}, [x, scale]).run()[0], expected)


@pytest.mark.parametrize("seed", seeds(20))
def test_dynamic_quantize(seed):
    rng = np.random.default_rng(seed)
    x = floats(rng, 4, 5) * np.float32(10.0 ** rng.integers(-3, 4)) + np.float32(rng.integers(-3, 4))
    theirs = run_onnxruntime("DynamicQuantizeLinear", {}, [x], 3)
    found = OneNode("DynamicQuantizeLinear", {}, [x]).run()
    for array, reference, witness in zip(found, dynamically_quantized(x), theirs, strict=True):
        assert_same_bits(array, reference)
        assert_same_bits(witness, reference)


def test_dynamic_quantize_zeros():
    y, scale, zero = OneNode("DynamicQuantizeLinear", {}, [np.zeros((2, 3), np.float32)]).run()
    assert (scale, zero, y.any()) == (1, 0, False)


# --- activations before a quantization ----------------------------------------------------------------------------


def every_float(step):
    """Every step-th float32, by its bits: both signs, subnormal numbers, infinities and NaN."""
    return np.arange(0, 1 << 32, step, dtype=np.int64).astype(np.uint32).view(np.float32)


RATIONAL = {"Sigmoid": rational_sigmoid, "Tanh": rational_tanh, "Swish": rational_swish}


def onnxruntime_activation(op, x):
    """ONNX Runtime joins x sigmoid(x) too."""
    if op == "Swish":
        return run_onnxruntime("QuickGelu", {"alpha": 1.0}, [x], domain=MICROSOFT)[0]
    return run_onnxruntime(op, {}, [x])[0]


@pytest.mark.parametrize("op", RATIONAL)
def test_rational_activations(op):
    """To the bit what the formula gives; ONNX Runtime is within 4 roundings of 1, times x for Swish, on any CPU."""
    x = np.concatenate([every_float(7919), np.linspace(-20, 20, 100_001, dtype=np.float32)])
    number = x[~np.isnan(x)]
    with np.errstate(invalid="ignore"):
        expected = RATIONAL[op](number)
    (found,) = OneNode(op, {"approximate": "rational"}, [x], named=(0,)).run()
    assert_same_bits(found[~np.isnan(x)], expected)
    assert np.isnan(found[np.isnan(x)]).all()
    assert (OneNode(op, {}, [number]).run()[0] != expected).sum() > len(x) / 50  # what is not asked for is exact
    finite = np.isfinite(number)
    theirs, scale = onnxruntime_activation(op, number[finite]), np.maximum(1, np.abs(number[finite]))
    allowed = 4 * np.finfo(np.float32).eps * (scale if op == "Swish" else 1)
    assert (np.abs(theirs.astype(np.float64) - expected[finite]) <= allowed).all()


@pytest.mark.parametrize("op", RATIONAL)
def test_rational_activations_of_every_length(op):
    """Every length of a rest, and more numbers than a call with the GIL."""
    for length in (*range(1, 40), 30_001):
        x = np.linspace(-20, 20, length, dtype=np.float32)
        assert_same_bits(OneNode(op, {"approximate": "rational"}, [x]).run()[0], RATIONAL[op](x))


def test_rational_activations_of_other_layouts_and_dtypes():
    x = np.linspace(-4, 4, 24, dtype=np.float32).reshape(2, 3, 4)
    attributes = {"approximate": "rational"}
    whole = OneNode("Tanh", attributes, [x]).run()[0]
    assert_same_bits(OneNode("Tanh", attributes, [x.transpose(2, 0, 1)]).run()[0], whole.transpose(2, 0, 1))
    assert OneNode("Tanh", attributes, [x[:, :0]], named=(1,)).run()[0].shape == (2, 0, 4)
    assert OneNode("Tanh", attributes, [np.float32(0.5).reshape(())]).run()[0].shape == ()
    found = Model(OneNode("Sigmoid", attributes, [x]).spec, {}, dtype="float64")(x)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x.astype(np.float64))), 1e-14)
    with pytest.raises(SpecError, match="approximate='rational' with alpha"):
        OneNode("Swish", {"alpha": 1.7, **attributes}, [x])


# --- products -----------------------------------------------------------------------------------------------------

SIDES = [("uint8", "uint8"), ("uint8", "int8"), ("int8", "int8")]


def sides(rng, a_dtype, b_dtype):
    """Matrices, some with a batch, some deep enough for sums that float32 cannot hold."""
    depth = int(rng.choice([3, 20, 700]))
    batch = [[], [3], [2, 3]][int(rng.integers(3))]
    a = integers(rng, a_dtype, *batch, 4, depth)
    b = weights(rng, b_dtype, *(batch if rng.integers(2) else []), depth, 5)
    return a, b


@pytest.mark.parametrize("seed", seeds(20))
@pytest.mark.parametrize("dtypes", SIDES)
def test_matmul_integer(seed, dtypes):
    rng = np.random.default_rng(seed)
    a, b = sides(rng, *dtypes)
    arrays = [a, b]
    if rng.integers(2):
        columns = (5,) if b.ndim == 2 and rng.integers(2) else ()
        arrays += [integers(rng, dtypes[0]), integers(rng, dtypes[1], *columns)]
    (found,) = OneNode("MatMulInteger", {}, arrays, named=range(a.ndim - 1)).run()
    exact = product(*arrays).astype(np.int32)
    assert_same_bits(found, exact)
    assert_witness(run_onnxruntime("MatMulInteger", {}, arrays)[0], exact, saturation(a, b))


def large(rng, dtype, *shape):
    """Integers next to the largest of a dtype: sums that float32 cannot hold, odd as often as even."""
    return (np.iinfo(dtype).max - rng.integers(0, 2, shape)).astype(dtype)


@pytest.mark.parametrize("dtypes", SIDES)
@pytest.mark.parametrize("depth", [259, 600, 1100, 2100, 140_000])  # about 2^24 / 255^2, ... , and int32 runs over
def test_large_sums(depth, dtypes):
    rng = np.random.default_rng(depth)
    a, b = large(rng, dtypes[0], 3, depth), large(rng, dtypes[1], depth, 2)
    exact = product(a, b).astype(np.int32)
    assert_same_bits(OneNode("MatMulInteger", {}, [a, b]).run()[0], exact)
    x, w = a.reshape(3, depth, 1), b.T.reshape(2, depth, 1).copy()
    assert_same_bits(OneNode("ConvInteger", {}, [x, w]).run()[0], exact.reshape(3, 2, 1))


def test_matmul_integer_zero_point_for_each_row():
    rng = np.random.default_rng(0)
    a, b, zero = integers(rng, "uint8", 4, 6), integers(rng, "uint8", 6, 3), integers(rng, "uint8", 4)
    (found,) = OneNode("MatMulInteger", {}, [a, b, zero]).run()
    np.testing.assert_array_equal(found, (a.astype(int) - zero.astype(int)[:, None]) @ b.astype(int))


@pytest.mark.parametrize("seed", seeds(20))
@pytest.mark.parametrize("dtypes", SIDES)
def test_qlinear_matmul(seed, dtypes):
    rng = np.random.default_rng(seed)
    a, b = sides(rng, *dtypes)
    columns = (5,) if b.ndim == 2 and rng.integers(2) else ()
    depth = a.shape[-1]
    arrays = [
        *(a, np.float32(0.02), integers(rng, dtypes[0])),
        *(b, np.abs(floats(rng, *columns)) * np.float32(0.01), integers(rng, dtypes[1], *columns)),
        *(np.float32(0.01 * np.sqrt(depth)), integers(rng, dtypes[0])),
    ]
    arrays = [np.asarray(array) for array in arrays]
    _, a_scale, a_zero, _, b_scale, b_zero, y_scale, y_zero = arrays
    scale = a_scale * b_scale / y_scale
    exact = requantized(product(a, b, a_zero, b_zero), scale, y_zero)
    assert_same_bits(OneNode("QLinearMatMul", {}, arrays).run()[0], exact)
    assert_witness_nearly(run_onnxruntime("QLinearMatMul", {}, arrays)[0], exact, saturation(a, b) * scale)


@pytest.mark.parametrize("seed", seeds(15))
@pytest.mark.parametrize("b_dtype", ["uint8", "int8"])
def test_microsoft_products(seed, b_dtype):
    rng = np.random.default_rng(seed)
    a, b = floats(rng, 3, 4, 20), weights(rng, b_dtype, 20, 5)
    columns = (5,) if rng.integers(2) else (1,)
    scale, zero = np.abs(floats(rng, *columns)) * np.float32(0.1), integers(rng, b_dtype, *columns)
    bias = floats(rng, 5) if rng.integers(2) else None
    integer, a_scale, a_zero = dynamically_quantized(a)
    exact = product(integer, b, a_zero, zero).astype(np.float32) * (a_scale * scale) + (0 if bias is None else bias)
    lost = saturation(integer, b) * (a_scale * scale)
    for op, arrays in (
        ("DynamicQuantizeMatMul", [a, b, scale, zero, bias]),
        ("MatMulIntegerToFloat", [integer, b, np.asarray(a_scale), scale, np.asarray(a_zero), zero, bias]),
    ):
        assert_same_bits(OneNode(op, {}, arrays).run()[0], exact)
        (theirs,) = run_onnxruntime(op, {}, arrays, domain=MICROSOFT)
        assert (np.abs(theirs - exact) <= lost + 1e-6 * max(1, np.abs(exact).max())).all()


# --- convolutions -------------------------------------------------------------------------------------------------


def random_convolution(rng, x_dtype, w_dtype):
    axes, group = int(rng.integers(1, 3)), int(rng.choice([1, 2]))
    channels = group * int(rng.choice([1, 4, 150]))  # 150 channels: sums that float32 cannot hold
    kernel = rng.integers(1, 4, axes).tolist()
    attributes = {
        "kernel_shape": kernel,
        "strides": rng.integers(1, 3, axes).tolist(),
        "pads": [int(rng.integers(0, k)) for k in kernel + kernel],
        "group": group,
    }
    x = integers(rng, x_dtype, 2, channels, *rng.integers(4, 9, axes))
    return attributes, x, weights(rng, w_dtype, 3 * group, channels // group, *kernel)


@pytest.mark.parametrize("seed", seeds(30))
@pytest.mark.parametrize("w_dtype", ["uint8", "int8"])
def test_conv_integer(seed, w_dtype):
    rng = np.random.default_rng(seed)
    attributes, x, w = random_convolution(rng, "uint8", w_dtype)
    arrays = [x, w, *([integers(rng, "uint8"), integers(rng, w_dtype)] if rng.integers(2) else [])]
    (found,) = OneNode("ConvInteger", attributes, arrays, named=(0, *range(2, x.ndim))).run()
    exact = convolution(x, w, attributes, *arrays[2:]).astype(np.int32)
    assert_same_bits(found, exact)
    lost = convolution_saturation(x, w, attributes, *arrays[2:3])
    assert_witness(run_onnxruntime("ConvInteger", attributes, arrays)[0], exact, lost)


@pytest.mark.parametrize("seed", seeds(30))
@pytest.mark.parametrize("dtypes", SIDES)
def test_qlinear_conv(seed, dtypes):
    rng = np.random.default_rng(seed)
    attributes, x, w = random_convolution(rng, *dtypes)
    each = (len(w),) if rng.integers(2) else ()
    w_zero = np.broadcast_to(integers(rng, dtypes[1]), each).copy()
    arrays = [
        *(x, np.float32(0.02), integers(rng, dtypes[0])),
        *(w, (np.abs(floats(rng, *each)) + 0.1) * np.float32(0.01), w_zero),
        *(np.float32(0.05 * np.sqrt(w[0].size)), integers(rng, dtypes[0])),
        *([integers(rng, "int16", len(w)).astype(np.int32)] if rng.integers(2) else []),
    ]
    arrays = [np.asarray(array) for array in arrays]
    _, x_scale, x_zero, _, w_scale, _, y_scale, y_zero, *bias = arrays
    after = [1] * (x.ndim - 2)
    scale = (x_scale * w_scale / y_scale).reshape(-1, *after)
    sums = convolution(x, w, attributes, x_zero, w_zero) + (bias[0].reshape(-1, *after) if bias else 0)
    exact = requantized(sums, scale, y_zero)
    assert_same_bits(OneNode("QLinearConv", attributes, arrays).run()[0], exact)
    lost = convolution_saturation(x, w, attributes, x_zero) * scale
    assert_witness_nearly(run_onnxruntime("QLinearConv", attributes, arrays)[0], exact, lost)


# --- DynamicQuantizeLSTM ------------------------------------------------------------------------------------------


def random_lstm(rng, hidden=None, batch=None, steps=None):
    """Attributes and the twelve inputs."""
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    directions = 1 + (direction == "bidirectional")
    steps, batch = steps or int(rng.integers(1, 9)), batch or int(rng.integers(1, 4))
    width, hidden = int(rng.integers(1, 12)), hidden or int(rng.integers(1, 12))
    dtype = str(rng.choice(["uint8", "int8"]))
    columns = bool(rng.integers(2))
    shape = (directions, 4 * hidden) if columns else (directions,)

    def zero():
        if columns and dtype == "int8":
            return np.zeros(shape, dtype)
        same = integers(rng, dtype, 1, 1) if columns else integers(rng, dtype, directions)
        return np.broadcast_to(same, shape).copy()

    def maybe(array):
        return array if rng.integers(2) else None

    attributes = {"hidden_size": hidden, "direction": direction}
    if rng.integers(3) == 0:
        attributes["clip"] = 0.7
    if rng.integers(4) == 0:
        attributes["input_forget"] = 1
    scale = np.float32(0.005)
    return attributes, [
        floats(rng, steps, batch, width),
        integers(rng, dtype, directions, width, 4 * hidden),
        integers(rng, dtype, directions, hidden, 4 * hidden),
        maybe(floats(rng, directions, 8 * hidden)),
        maybe(rng.integers(0, steps + 1, batch).astype(np.int32)),
        maybe(floats(rng, directions, batch, hidden)),
        maybe(floats(rng, directions, batch, hidden)),
        maybe(floats(rng, directions, 3 * hidden)),
        *((np.abs(floats(rng, *shape)) + 0.5) * scale, zero()),
        *((np.abs(floats(rng, *shape)) + 0.5) * scale, zero()),
    ]


@pytest.mark.parametrize("seed", seeds(100))
def test_dynamic_quantize_lstm(seed):
    """Every step's hidden state is quantized again: one bit of a sigmoid could become one of 255 steps."""
    attributes, arrays = random_lstm(np.random.default_rng(seed))
    found = OneNode("DynamicQuantizeLSTM", attributes, arrays, named=(0, 1)).run()
    for array, exact in zip(found, dynamic_quantize_lstm(attributes, *arrays), strict=True):
        np.testing.assert_array_equal(array, exact)
    arrays[1:3] = (array // 2 for array in arrays[1:3])  # 7 bits
    theirs = run_onnxruntime("DynamicQuantizeLSTM", attributes, arrays, 3, domain=MICROSOFT)
    for witness, exact in zip(theirs, dynamic_quantize_lstm(attributes, *arrays), strict=True):
        assert_close(witness, exact, 0 if onnxruntime_has_the_bits() else 0.02)


def test_dynamic_quantize_lstm_in_float64_has_the_exact_functions():
    """One step from zero states, where only the input is quantized: the equations in float64."""
    attributes, arrays = random_lstm(np.random.default_rng(2), hidden=5, batch=1, steps=1)
    x, w, scale, zero = arrays[0][0, 0].astype(np.float64), arrays[1][0].astype(int), arrays[8][0], arrays[9][0]
    arrays[3:8] = [None] * 5
    attributes = {"hidden_size": 5, "direction": "forward"}
    arrays = [array if array is None or place == 0 else array[:1] for place, array in enumerate(arrays)]
    step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    middle = np.rint(-min(x.min(), 0) / step)
    z = (np.clip(np.rint(x / step) + middle, 0, 255) - middle) @ (w - int(zero.flat[0])) * step * scale
    i, o, _, g = np.split(z, 4)
    expected = np.tanh(np.tanh(g) / (1 + np.exp(-i))) / (1 + np.exp(-o))
    node = OneNode("DynamicQuantizeLSTM", attributes, arrays)
    found = Model(node.spec, {}, dtype="float64").run(node.arrays)["n.h"]
    assert_close(found[0, 0], expected, 1e-12)


def test_it_is_quantized_by_the_rows_together():
    """The input's range is that of all rows: another row changes this one's numbers."""
    attributes, arrays = random_lstm(np.random.default_rng(6), hidden=6, batch=2, steps=1)
    (before, *_) = OneNode("DynamicQuantizeLSTM", attributes, arrays).run()
    arrays[0] = arrays[0] * np.array([1, 30], np.float32)[:, None]
    (expected, *_) = dynamic_quantize_lstm(attributes, *arrays)
    (after, *_) = OneNode("DynamicQuantizeLSTM", attributes, arrays).run()
    assert np.abs(before[:, :, 0] - after[:, :, 0]).max() > 1e-4
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a, i: a.update(activations=["Relu"] * 6), SpecError, "activations"),
        (lambda a, i: a.update(direction="both"), SpecError, "direction"),
        (lambda a, i: a.update(clip=-1.0), SpecError, "clip"),
        (lambda a, i: i.__setitem__(1, i[1][:, :-1]), SpecError, "W is"),
        (lambda a, i: i.__setitem__(2, i[2][:, :, :-1]), SpecError, "R is"),
        (lambda a, i: i.__setitem__(8, np.ones(5, np.float32)), SpecError, "W_scale"),
        (lambda a, i: i.__setitem__(9, i[9].astype(np.int32)), SpecError, "W_zero_point"),
    ],
)
def test_refused_lstms(change, error, message):
    attributes, arrays = random_lstm(np.random.default_rng(1))
    change(attributes, arrays)
    with pytest.raises(error, match=message):
        OneNode("DynamicQuantizeLSTM", attributes, arrays)


def test_refused_when_run():
    attributes, arrays = random_lstm(np.random.default_rng(1), hidden=3)
    directions = len(arrays[1])
    arrays[4] = np.full(arrays[0].shape[1], 99, np.int32)
    with pytest.raises(InputError, match="sequence_lens"):
        OneNode("DynamicQuantizeLSTM", attributes, arrays).run()
    arrays[4] = None
    for at in (8, 9):
        arrays[at] = np.broadcast_to(arrays[at].reshape(directions, -1)[:, :1], (directions, 12)).copy()
    arrays[9][0, 0] += 1
    with pytest.raises(InputError, match="W_zero_point"):
        OneNode("DynamicQuantizeLSTM", attributes, arrays).run()


@pytest.mark.parametrize(
    ("op", "attributes", "arrays", "message"),
    [
        ("QuantizeLinear", {"block_size": 2}, [np.ones((2, 4), np.float32), np.float32(1)], "block_size"),
        ("QuantizeLinear", {"saturate": 0}, [np.ones((2, 4), np.float32), np.float32(1)], "saturate"),
        ("QuantizeLinear", {"output_dtype": "int4"}, [np.ones((2, 4), np.float32), np.float32(1)], "output_dtype"),
        ("QuantizeLinear", {}, [np.ones((2, 4), np.float32), np.ones(3, np.float32)], "scale"),
        ("QuantizeLinear", {}, [np.ones((2, 4), np.float32), np.ones((2, 2), np.float32)], "blocked"),
        ("DequantizeLinear", {}, [np.ones((2, 4), np.int8), np.float32(1), np.uint8(1)], "zero point"),
        ("MatMulInteger", {}, [np.ones((2, 4), np.int8), np.ones((5, 2), np.int8)], "inner sizes"),
        ("MatMulInteger", {}, [np.ones((2, 4), np.int16), np.ones((4, 2), np.int8)], "A is"),
        ("ConvInteger", {}, [np.ones((1, 2, 4), np.uint8), np.ones((3, 1, 2), np.uint8)], "channels"),
    ],
)
def test_refused(op, attributes, arrays, message):
    with pytest.raises(SpecError, match=message):
        OneNode(op, attributes, [np.asarray(array) for array in arrays])
