"""The compiled kernels over 8-bit integers: sums against int64, the LSTM against its form in NumPy, to the bit."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_same_bits
from exact_integers import product
from paths import ROOT
from random_networks import seeds

from rnncore.errors import InputError
from rnncore.kernels import _quantized, _runtime
from rnncore.ops.quantized import NumpyLSTM, dynamically_quantized

BYTES = ("int8", "uint8")


def integers(rng, dtype, *shape):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def activations(rng, dtype, zero, *shape):
    """Spread about the zero point as activations are, or evenly, or at the ends of the range, or at most 0."""
    limits = np.iinfo(dtype)
    draws = {
        "bell": lambda: zero + rng.standard_normal(shape) * rng.integers(1, 60),
        "even": lambda: rng.uniform(limits.min, limits.max, shape),
        "ends": lambda: rng.choice([limits.min, limits.min + 1, limits.max], shape),
        "zero": lambda: zero + (rng.random(shape) < 0.1) * rng.integers(-255, 256, shape),
    }
    return np.clip(np.rint(draws[str(rng.choice(list(draws)))]()), limits.min, limits.max).astype(dtype)


def draw_weights(rng, dtype, *shape):
    """Of any width: with narrow ones the kernels sum larger activations at once."""
    b = integers(rng, dtype, *shape)
    width = int(rng.integers(1, 256))
    return (b.astype(np.int64) % width + np.iinfo(dtype).min + rng.integers(0, 256 - width + 1)).astype(dtype)


# ---- products ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(25))
def test_products(seed, isa):
    rng = np.random.default_rng(seed)
    a_dtype, b_dtype = rng.choice(BYTES, 2)
    rows, depth, columns = int(rng.integers(0, 10)), int(rng.integers(1, 150)), int(rng.integers(1, 150))
    b = draw_weights(rng, b_dtype, depth, columns)
    b_zero = integers(rng, b_dtype, *[(), (1,), (columns,)][int(rng.integers(3))])
    a_zero = [None, integers(rng, a_dtype), integers(rng, a_dtype, rows, 1)][int(rng.integers(3))]
    a = activations(rng, a_dtype, 0 if a_zero is None or not a_zero.size else a_zero.flat[0], rows, depth)
    expected = product(a, b, a_zero, b_zero).astype(np.int32)
    matrix = _quantized.ByteMatrix(b, b_zero, 1)
    assert_same_bits(matrix(a, a_zero), expected)
    assert_same_bits(matrix(np.asfortranarray(a), a_zero), expected)
    if rows and a_zero is not None and a_zero.ndim == 0:
        assert_same_bits(matrix(a[0], a_zero), expected[0])
        assert_same_bits(matrix(a[:, None], a_zero), expected[:, None])


@pytest.mark.parametrize("a_value", [0, 255])
@pytest.mark.parametrize("b_value", [0, 255])
def test_the_largest_sums(a_value, b_value, isa):
    """No part of a sum passes int32 where K is the largest that is taken."""
    depth = _quantized.LARGEST_DEPTH
    b = np.full((depth, 3), b_value, np.uint8)
    b[0, 0] = 255 - b_value
    b_zero = np.array([255, 0, 255 - b_value], np.uint8)
    a = np.full((3, depth), a_value, np.uint8)
    a_zero = np.array([[255], [0], [128]], np.uint8)
    expected = product(a, b, a_zero, b_zero)
    assert np.abs(expected).max() > 1.05e9
    assert_same_bits(_quantized.ByteMatrix(b, b_zero, 1)(a, a_zero), expected.astype(np.int32))
    with pytest.raises(InputError, match=rf"K from 1 to {depth}"):
        _quantized.ByteMatrix(np.zeros((depth + 1, 1), np.uint8), np.uint8(0), 1)


@pytest.mark.parametrize(("rows", "columns"), [(400, 96), (3, 5000)])
def test_products_by_threads(rows, columns, isa):
    rng = np.random.default_rng(rows)
    a, b = integers(rng, "uint8", rows, 700), integers(rng, "int8", 700, columns)
    zero = np.array(117, np.uint8)
    expected = product(a, b, zero).astype(np.int32)
    for threads in (1, 2, 3):
        assert_same_bits(_quantized.ByteMatrix(b, np.int8(0), threads)(a, zero), expected)


# ---- quantization ------------------------------------------------------------------------------------------------


def formula(x):
    """Quantization by x's own range, in NumPy; NaN gives 0."""
    low, high = (np.float32(0), np.float32(0)) if np.isnan(x).any() else (x.min(initial=0), x.max(initial=0))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = (high - low) / np.float32(255) if high != low else np.float32(1)
        zero = np.nan_to_num(np.rint(np.clip(-low / scale, 0, 255)), nan=0)
        integers = np.clip(np.rint(x / scale) + zero, 0, 255)
    return np.nan_to_num(integers, nan=0).astype(np.uint8), scale, np.uint8(zero)


@pytest.mark.parametrize("size", [*range(18), 33, 1000])
def test_quantize(size, isa):
    rng = np.random.default_rng(size)
    for scale in (1e-45, 1e-43, 1e-39, 1e-3, 1, 1e30, 3e38):
        x = (rng.standard_normal(size) * scale).clip(-3e38, 3e38).astype(np.float32)
        for case in (x, np.abs(x), -np.abs(x), np.rint(x)):
            for ours, expected in zip(_quantized.quantize(case), formula(case), strict=True):
                assert_same_bits(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 19, 36])
def test_quantize_what_is_no_number(special, place, isa):
    x = np.random.default_rng(place).standard_normal(37).astype(np.float32)
    x[place] = special
    for ours, expected in zip(_quantized.quantize(x), formula(x), strict=True):
        assert_same_bits(np.asarray(ours), np.asarray(expected))


def test_quantize_in_parts():
    """More numbers than are quantized between two looks for signals."""
    x = np.random.default_rng(0).standard_normal((1 << 23) + 1000).astype(np.float32)
    x[5], x[-3] = -9, 11
    integers, scale, zero = _quantized.quantize(x)
    assert (scale, zero) == (np.float32(20) / np.float32(255), 115)
    np.testing.assert_array_equal(integers, np.clip(np.rint(x / scale) + 115, 0, 255))
    x[-1] = np.nan
    assert _quantized.quantize(x)[1:] == (1, 0)


# ---- DynamicQuantizeLSTM -----------------------------------------------------------------------------------------


def random_lstm(rng, width=None, hidden=None):
    """Arguments of DynamicLSTM but for the threads, and how many directions there are."""
    backwards = [(False,), (True,), (False, True)][int(rng.integers(3))]
    directions = len(backwards)
    width, hidden = width or int(rng.integers(1, 71)), hidden or int(rng.integers(1, 71))
    arguments = []
    for depth in (width, hidden):
        dtype = str(rng.choice(BYTES))
        columns = [1, 4 * hidden][int(rng.integers(2))]
        scale = (rng.random((directions, columns)) + 0.1).astype(np.float32) * np.float32(0.03 / np.sqrt(depth))
        arguments += [
            draw_weights(rng, dtype, directions, depth, 4 * hidden),
            scale,
            integers(rng, dtype, directions, 1),
        ]
    bias = rng.standard_normal((directions, 4 * hidden)).astype(np.float32)
    peephole = rng.standard_normal((directions, 3 * hidden)).astype(np.float32) * np.float32(rng.integers(2))
    clip = [None, 0.4, 2.0][int(rng.integers(3))]
    return [*arguments, bias, peephole, clip, bool(rng.integers(2)), backwards], (directions, width, hidden)


def random_call(rng, directions, width, hidden, batch=None, steps=None):
    batch = int(rng.integers(0, 10)) if batch is None else batch
    steps = int(rng.integers(0, 10)) if steps is None else steps
    state = (directions, batch, hidden)
    lengths = rng.integers(0, steps + 1, batch).astype(rng.choice(["int32", "int64"]))
    states = (rng.standard_normal(state).astype(np.float32) * np.float32(rng.choice([0.1, 1, 20])) for _ in range(2))
    maybe = [array if rng.integers(2) else None for array in (lengths, *states)]
    return [rng.standard_normal((steps, batch, width)).astype(np.float32), *maybe]


def assert_same_call(arguments, call, threads=1):
    expected = NumpyLSTM(*arguments, 1)(*call)
    for ours, theirs in zip(_quantized.DynamicLSTM(*arguments, threads)(*call), expected, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.parametrize("seed", seeds(25))
def test_lstm(seed, isa):
    rng = np.random.default_rng(seed)
    arguments, sizes = random_lstm(rng)
    for _ in range(3):
        assert_same_call(arguments, random_call(rng, *sizes))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_lstm_of_what_is_no_number(special, place, isa):
    """In x, in a row's padding, and in the states; also of a row that has no steps."""
    rng = np.random.default_rng(place)
    arguments, sizes = random_lstm(rng, 9, 11)
    x, _, h, c = random_call(rng, *sizes, batch=3, steps=4)
    shape = (sizes[0], 3, 11)
    h, c = (np.zeros(shape, np.float32) if state is None else state for state in (h, c))
    [(x, (0, 1, 2)), (x, (3, 0, 2)), (h, (0, 2, 3)), (c, (0, 1, 3))][place][0][
        [(0, 1, 2), (3, 0, 2), (0, 2, 3), (0, 1, 3)][place]
    ] = special
    assert_same_call(arguments, [x, np.array([2, 4, 0]), h, c])


def test_lstm_by_threads(isa):
    """Two directions, each in a thread of its own."""
    rng = np.random.default_rng(1)
    while True:
        arguments, sizes = random_lstm(rng, 40, 150)
        if sizes[0] == 2:
            break
    assert_same_call(arguments, random_call(rng, *sizes, batch=9, steps=9), threads=2)


def test_lstm_of_a_batch_of_one_is_not_a_row_of_a_batch():
    """Why it is no recurrent layer whose rows may share a batch: states are quantized by the range of all rows."""
    rng = np.random.default_rng(3)
    arguments, _ = random_lstm(rng, 5, 7)
    lstm = _quantized.DynamicLSTM(*arguments, 1)
    x = rng.standard_normal((4, 2, 5)).astype(np.float32)
    x[:, 1] = -x[:, 0]  # both rows have one range with each other's, so that x is quantized alike
    x[0, :, 0], x[0, :, 1] = 3, -3
    together = lstm(x, None, None, None)[0][:, :, 0]
    assert (together != lstm(x[:, :1], None, None, None)[0][:, :, 0]).any()


# ---- every way of summing, in C -----------------------------------------------------------------------------------

EMULATED = """
#undef QUAD_SUMS
#undef HAS_QUAD_SUMS
#define HAS_QUAD_SUMS 1
#define QUAD_SUMS(sums, bytes, weights)                                                                               \\
    emulated((int *)&(sums), (const unsigned char *)&(bytes), (const signed char *)&(weights))
static inline void emulated(int *sums, const unsigned char *bytes, const signed char *weights) {
    for (int i = 0; i < 4 * W; i++) sums[i / 4] += bytes[i] * weights[i];
}
"""


def test_sums_of_four_on_every_instruction_set(tmp_path):
    """What CPUs with VNNI do, with their instruction emulated; what others do is tested above."""
    kernels, program = ROOT / "rnncore/kernels", tmp_path / "driver"
    isas = _runtime.usable_isas()
    sources = [str(kernels / "quantized/dispatch.c"), str(ROOT / "tests/native/quantized.c")]
    for name in isas:
        sources.append(str(tmp_path / f"{name}.c"))
        Path(sources[-1]).write_text(f'#include "isa/{name}.h"\n{EMULATED}#include "quantized/body.h"\n')
    flags = ["-std=gnu11", "-O0", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wno-unused-function"]
    listed = "-DRNNCORE_EACH_ISA(entry)=" + " ".join(f"entry({name})" for name in isas)
    subprocess.run(["gcc", *flags, listed, f"-I{kernels}", *sources, "-o", str(program), "-lm"], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines() == [f"{name}: 200 products, 0 wrong" for name in isas]


def test_dynamic_quantization_of_float64_is_the_formula():
    x = np.random.default_rng(0).standard_normal(50)
    integers, scale, zero = dynamically_quantized(x)
    assert scale == (x.max() - x.min()) / 255
    np.testing.assert_array_equal(integers, np.clip(np.rint(x / scale) + zero, 0, 255))
