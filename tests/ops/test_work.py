"""What a call costs, for every op: never less than what it reads and writes, and growing with what it is asked for."""

import json

import numpy as np
import pytest

from rnncore.errors import SpecError
from rnncore.ops import FAMILIES, OPS
from rnncore.ops.work import Cost, cost, value_of
from rnncore.passes import Folding

UNARY = [
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Sqrt",
    "Reciprocal",
    "Floor",
    "Ceil",
    "Round",
    "Sign",
    "Erf",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Acosh",
    "Atanh",
    "Relu",
    "Tanh",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "HardSwish",
    "Mish",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "HardSigmoid",
    "ThresholdedRelu",
    "Swish",
    "Shrink",
    "Gelu",
    "Identity",
    "Dropout",
    "IsNaN",
    "IsInf",
    "Clip",
    "Softmax",
    "LogSoftmax",
    "Hardmax",
    "LpNormalization",
    "ReduceSum",
    "ReduceMean",
    "ReduceProd",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "Flatten",
    "Transpose",
    "Shape",
    "Size",
    "NonZero",
    "ArgMax",
    "ArgMin",
    "Unique",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "GlobalLpPool",
    "MeanVarianceNormalization",
    "DynamicQuantizeLinear",
]
BINARY = [
    "PRelu",
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Pow",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
]
SEVERAL = ["Min", "Max", "Sum", "Mean", "Concat"]
WHOLE = ["BitwiseNot", "BitwiseAnd", "BitwiseOr", "BitwiseXor"]
TRUTHS = ["And", "Or", "Xor", "Not"]


def floats(rng, *shape):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def image(rng):
    return floats(rng, rng.integers(1, 3), 4, *rng.integers(6, 12, 2))


def sizes(*numbers):
    return np.array(numbers, np.int64)


def sequence(rng, width=6):
    return floats(rng, 2, rng.integers(2, 9), width)


def quantized(rng, *shape):
    return rng.integers(0, 99, shape).astype(np.uint8)


def quantized_lstm(rng):
    hidden, width = 3, 4
    one, zero = np.full((1, 4 * hidden), 0.01, np.float32), np.zeros((1, 4 * hidden), np.int8)
    w, r = (rng.integers(-9, 9, (1, size, 4 * hidden)).astype(np.int8) for size in (width, hidden))
    return {"hidden_size": hidden}, [
        floats(rng, rng.integers(2, 9), 2, width), w, r, None, None, None, None, None, one, zero, one, zero,
    ]  # fmt: skip


def convolution(rng, **more):
    kernel = tuple(int(size) for size in rng.integers(1, 4, 2))
    return {"kernel_shape": kernel, **more}, kernel


def case(name, rng):
    """Attributes and inputs of a call of an op, drawn at random."""
    x = image(rng)
    if name in UNARY:
        more = {"axis": 1, "axes": (2, 3), "p": 2}
        attributes = {key: value for key, value in more.items() if OPS[name].attributes.get(key, 0) is ...}
        return attributes, [x]
    if name in BINARY:
        return {}, [x, image(rng)[:1, :, :1, :1]]
    if name in SEVERAL:
        return ({"axis": 1} if name == "Concat" else {}), [x, x, x]
    if name in WHOLE:
        return {}, [rng.integers(0, 9, (3, 5))] * OPS[name].arity[0]
    if name in TRUTHS:
        return {}, [rng.random((3, 5)) < 0.5] * OPS[name].arity[0]
    return OTHERS[name](rng, x)


def pooled(rng, x):
    kernel = tuple(int(size) for size in rng.integers(1, 6, 2))
    return {"kernel_shape": kernel, "strides": (1, 2)}, [x]


def resized(rng, x):
    scales = (1.0, 1.0, *(float(scale) for scale in rng.uniform(0.5, 3, 2)))
    return {"scales": scales, "mode": "linear"}, [x]


OTHERS = {
    "Constant": lambda rng, x: ({"dtype": "int64", "value": (1, 2), "shape": (2,)}, []),
    "Linear": lambda rng, x: ({"input_size": x.shape[-1], "output_size": 5}, [x]),
    "Embedding": lambda rng, x: ({"input_size": 9, "output_size": 5}, [rng.integers(0, 9, (2, 7))]),
    "MatMul": lambda rng, x: ({}, [x, floats(rng, x.shape[-1], 5)]),
    "Gemm": lambda rng, x: ({}, [x[0, 0], floats(rng, x.shape[-1], 5)]),
    "Einsum": lambda rng, x: ({"equation": "...ij,jk->...ik"}, [x, floats(rng, x.shape[-1], 5)]),
    "Bounded": lambda rng, x: ({"axis": 0}, [x]),
    "Cast": lambda rng, x: ({"to": "float64"}, [x]),
    "CastLike": lambda rng, x: ({}, [x, sizes(1)]),
    "BitShift": lambda rng, x: ({"direction": "LEFT"}, [rng.integers(0, 9, (3, 5)).astype(np.uint8)] * 2),
    "CumSum": lambda rng, x: ({"axis": 1}, [x]),
    "CumProd": lambda rng, x: ({"axis": 1}, [x]),
    "Where": lambda rng, x: ({}, [x > 1, x, x]),
    "Reshape": lambda rng, x: ({}, [x, sizes(0, -1)]),
    "Unsqueeze": lambda rng, x: ({"axes": (0,)}, [x]),
    "Squeeze": lambda rng, x: ({"axes": (0,)}, [x[:1]]),
    "Expand": lambda rng, x: ({}, [x[:1], sizes(int(rng.integers(2, 9)), *x.shape[1:])]),
    "Tile": lambda rng, x: ({}, [x, sizes(1, 2, 1, int(rng.integers(1, 5)))]),
    "Split": lambda rng, x: ({"num_outputs": 2, "axis": 1}, [x]),
    "Slice": lambda rng, x: ({"starts": (1,), "ends": (3,), "axes": (1,)}, [x]),
    "Range": lambda rng, x: ({}, [np.float32(0), np.float32(rng.integers(1, 99)), np.float32(0.5)]),
    "ConstantOfShape": lambda rng, x: ({}, [sizes(3, int(rng.integers(1, 9)))]),
    "EyeLike": lambda rng, x: ({}, [x[0, 0]]),
    "Trilu": lambda rng, x: ({}, [x]),
    "DepthToSpace": lambda rng, x: ({"blocksize": 2}, [x]),
    "SpaceToDepth": lambda rng, x: ({"blocksize": 2}, [floats(rng, 1, 2, 4, 6)]),
    "ReverseSequence": lambda rng, x: ({"batch_axis": 1, "time_axis": 0}, [x, np.full(4, len(x))]),
    "Gather": lambda rng, x: ({"axis": 1}, [x, rng.integers(0, 4, (3, 5))]),
    "GatherElements": lambda rng, x: ({"axis": 1}, [x, np.zeros(x.shape, np.int64)]),
    "GatherND": lambda rng, x: ({}, [x, np.zeros((7, 2), np.int64)]),
    "ScatterElements": lambda rng, x: ({"axis": 1}, [x, np.zeros(x.shape, np.int64), x]),
    "ScatterND": lambda rng, x: ({}, [x, np.zeros((1, 1), np.int64), x[:1]]),
    "OneHot": lambda rng, x: ({"depth": int(rng.integers(2, 9))}, [rng.integers(0, 9, 7), None, floats(rng, 2)]),
    "Compress": lambda rng, x: ({"axis": 1}, [x, np.array([True, False, True])]),
    "TopK": lambda rng, x: ({}, [x, sizes(int(rng.integers(1, 5)))]),
    "WordAttention": lambda rng, x: ({"input_size": 6, "attention_size": 4}, [sequence(rng)]),
    "BahdanauAttention": lambda rng, x: (
        {"query_size": 6, "memory_size": 6, "attention_size": 4}, [sequence(rng), sequence(rng)]),
    "LuongAttention": lambda rng, x: (
        {"query_size": 6, "memory_size": 6, "score": "general"}, [sequence(rng), sequence(rng)]),
    "KerasAttention": lambda rng, x: ({}, [sequence(rng), sequence(rng)]),
    "KerasAdditiveAttention": lambda rng, x: ({"size": 6}, [sequence(rng), sequence(rng)]),
    "MultiHeadAttention": lambda rng, x: (
        {"query_size": 6, "value_size": 6, "num_heads": 2, "key_dim": 3}, [sequence(rng), sequence(rng)]),
    "Conv": lambda rng, x: (
        {"kernel_shape": tuple(map(int, rng.integers(1, 4, 2))), "input_size": 4, "output_size": 6}, [x]),
    "ConvTranspose": lambda rng, x: (
        {"kernel_shape": tuple(map(int, rng.integers(1, 4, 2))), "input_size": 4, "output_size": 6}, [x]),
    "MaxPool": pooled,
    "AveragePool": pooled,
    "LpPool": pooled,
    "BatchNormalization": lambda rng, x: ({}, [x, *[floats(rng, 4)] * 4]),
    "InstanceNormalization": lambda rng, x: ({}, [x, *[floats(rng, 4)] * 2]),
    "GroupNormalization": lambda rng, x: ({"num_groups": 2}, [x, *[floats(rng, 4)] * 2]),
    "LayerNormalization": lambda rng, x: ({}, [x, floats(rng, x.shape[-1])]),
    "RMSNormalization": lambda rng, x: ({}, [x, floats(rng, x.shape[-1])]),
    "LRN": lambda rng, x: ({"size": int(rng.integers(1, 9))}, [x]),
    "Pad": lambda rng, x: ({}, [x, sizes(0, 0, 1, 2, 0, 0, int(rng.integers(0, 9)), 4)]),
    "Resize": resized,
    "Upsample": lambda rng, x: ({"scales": (1.0, 1.0, 2.0, float(rng.integers(1, 4)))}, [x]),
    "Frames": lambda rng, x: ({"axis": 1, "size": 3, "step": 2}, [floats(rng, 2, rng.integers(4, 20))]),
    "DFT": lambda rng, x: ({"axis": 1}, [floats(rng, 2, rng.integers(4, 20), 1)]),
    "STFT": lambda rng, x: ({"frame_step": 2, "frame_length": 4}, [floats(rng, 2, rng.integers(8, 20), 1)]),
    "QuantizeLinear": lambda rng, x: ({}, [x, np.float32(0.1), np.uint8(0)]),
    "DequantizeLinear": lambda rng, x: ({}, [quantized(rng, 3, 5), np.float32(0.1), np.uint8(0)]),
    "MatMulInteger": lambda rng, x: ({}, [quantized(rng, 3, 5), quantized(rng, 5, 7)]),
    "QLinearMatMul": lambda rng, x: (
        {}, [quantized(rng, 3, 5), np.float32(0.1), np.uint8(0), quantized(rng, 5, 7), np.float32(0.1), np.uint8(0),
             np.float32(0.1), np.uint8(0)]),
    "MatMulIntegerToFloat": lambda rng, x: (
        {}, [quantized(rng, 3, 5), quantized(rng, 5, 7), np.float32(0.1), np.float32(0.1)]),
    "DynamicQuantizeMatMul": lambda rng, x: ({}, [floats(rng, 3, 5), quantized(rng, 5, 7), np.float32(0.1)]),
    "ConvInteger": lambda rng, x: ({}, [quantized(rng, 1, 2, 7, 7), quantized(rng, 3, 2, 2, 2)]),
    "QLinearConv": lambda rng, x: (
        {}, [quantized(rng, 1, 2, 7, 7), np.float32(0.1), np.uint8(0), quantized(rng, 3, 2, 2, 2), np.float32(0.1),
             np.uint8(0), np.float32(0.1), np.uint8(0)]),
    "DynamicQuantizeLSTM": lambda rng, x: quantized_lstm(rng),
    "Reference": lambda rng, x: (
        {"type": "Det", "opset": 22, "outputs": json.dumps([["float", ["B"]]])}, [floats(rng, 7, 3, 3)]),
}  # fmt: skip


def complete(name, attributes):
    return {**OPS[name].attributes, **attributes}


def values_of(arrays):
    named = {np.dtype(np.float32): "float"}
    arrays = [None if array is None else np.asarray(array) for array in arrays]
    return [None if array is None else value_of(array, named.get(array.dtype, array.dtype.name)) for array in arrays]


def cost_of(name, attributes, arrays):
    return cost(OPS[name], complete(name, attributes), values_of(arrays))


def test_every_op_is_in_the_table():
    assert {*UNARY, *BINARY, *SEVERAL, *WHOLE, *TRUTHS, *OTHERS} == set(OPS)
    assert sum(len(family.OPS) for family in FAMILIES) == len(OPS)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_cost_covers_what_is_read_and_written(name):
    """Counted bytes are at least those of the real outputs, and the work at least their elements and the inputs'."""
    for seed in range(3):
        rng = np.random.default_rng([seed, len(name)])
        attributes, arrays = case(name, rng)
        found = cost_of(name, attributes, arrays)
        arrays = [None if array is None else np.asarray(array) for array in arrays]
        own = {key: floats(rng, *shape) for key, shape in OPS[name].weight_shapes(complete(name, attributes)).items()}
        try:
            made = OPS[name].run({**complete(name, attributes), "floating": np.float32}, own, *arrays)
        except ImportError:
            pytest.skip("onnx is not installed")
        made = [np.asarray(array) for array in (made if isinstance(made, (tuple, list)) else (made,))]
        read = sum(array.size for array in arrays if array is not None)
        assert found.work >= read + sum(array.size for array in made)
        assert found.memory >= sum(array.nbytes for array in made)
        weights = sum(array.size for array in own.values())
        assert not own or name == "Embedding" or found.work >= weights


LARGER = [
    ("MaxPool", "kernel_shape", [(2,), (200,), (20_000,)], [(1, 1, 30_000)]),
    ("AveragePool", "kernel_shape", [(2,), (200,), (20_000,)], [(1, 1, 30_000)]),
    ("LpPool", "kernel_shape", [(2,), (200,), (20_000,)], [(1, 1, 30_000)]),
    ("LRN", "size", [1, 9, 99], [(1, 99, 3, 3)]),
    ("Conv", "kernel_shape", [(1,), (9,), (99,)], [(1, 2, 200)]),
    ("ConvTranspose", "kernel_shape", [(1,), (9,), (99,)], [(1, 2, 200)]),
    ("DFT", "dft_length", [8, 800, 80_000], [(1, 8, 1)]),
    ("STFT", "frame_length", [2, 20, 200], [(1, 400, 1)]),
    ("Linear", "output_size", [1, 10, 100], [(3, 4)]),
    ("Resize", "sizes", [(1, 1, 4), (1, 1, 40), (1, 1, 400)], [(1, 1, 4)]),
    ("Tile", "repeats", [(1, 1), (1, 10), (1, 100)], [(3, 4)]),
    ("MultiHeadAttention", "num_heads", [1, 8, 64], [(1, 5, 6), (1, 5, 6)]),
]
FIXED = {"Conv": {"input_size": 2, "output_size": 2}, "ConvTranspose": {"input_size": 2, "output_size": 2},
         "Linear": {"input_size": 4}, "DFT": {"axis": 1}, "STFT": {"frame_step": 2},
         "MultiHeadAttention": {"query_size": 6, "value_size": 6, "key_dim": 3}}  # fmt: skip


@pytest.mark.parametrize(("name", "attribute", "values", "shapes"), LARGER, ids=lambda v: v if type(v) is str else "")
def test_cost_grows_with_what_is_asked_for(name, attribute, values, shapes):
    given = [np.zeros(shape, np.float32) for shape in shapes]
    found = [cost_of(name, {**FIXED.get(name, {}), attribute: value}, given).work for value in values]
    assert found == sorted(set(found))
    assert found[-1] > 5 * found[0]


def test_cost_of_products_is_their_multiplications():
    x, w = np.zeros((7, 30), np.float32), np.zeros((30, 50), np.float32)
    for name, attributes in (("MatMul", {}), ("Gemm", {}), ("Einsum", {"equation": "ij,jk->ik"})):
        assert 7 * 30 * 50 <= cost_of(name, attributes, [x, w]).work <= 4 * 7 * 30 * 50
    with pytest.raises(SpecError):
        cost_of("MatMul", {}, [x, x])


def test_cost_of_references_is_that_of_an_interpreter():
    """Python takes a microsecond where a kernel takes a nanosecond, and a determinant the cube of its size."""
    det = {"type": "Det", "opset": 22, "outputs": json.dumps([["float", ["B"]]])}
    small, large = (cost_of("Reference", det, [np.zeros((2, n, n), np.float32)]).work for n in (8, 800))
    assert large > 1e6 * small / 10
    assert cost_of("Reference", det, [np.zeros((10_000, 1, 1), np.float32)]).work > 1e6
    image = {"type": "Col2Im", "opset": 22, "outputs": json.dumps([["float", ["B", "C", "H", "W"]]])}
    given = [np.zeros((1, 5, 5), np.float32), sizes(1 << 20, 1 << 20), sizes(1, 5)]
    found = cost_of("Reference", image, given)
    assert found.work > 1 << 40 and found.memory > 1 << 40


def test_folding_is_a_budget_for_all_constants_together():
    folding = Folding(work=100, memory=50)
    assert folding.affords(Cost(60, 10)) and not folding.affords(Cost(60, 10)) and not folding.affords(Cost(1, 41))
    assert folding.affords(Cost(40, 40)) and not folding.affords(Cost(1, 0))


def test_an_lrn_of_all_channels_takes_no_longer_than_they_do():
    """A window beyond the channels adds zeros: the same bits, and no work for them."""
    x = floats(np.random.default_rng(0), 2, 5, 3)
    attributes = complete("LRN", {"size": 9, "alpha": 0.5})
    wide = OPS["LRN"].run({**attributes, "size": 9}, {}, x)
    padded = np.pad(np.square(x), [(0, 0), (4, 4), (0, 0)])
    sums = sum(padded[:, first : first + 5] for first in range(9))
    np.testing.assert_allclose(wide, x / (1 + np.float32(0.5 / 9) * sums) ** np.float32(0.75), rtol=1e-6)
    huge = OPS["LRN"].run({**attributes, "size": (1 << 31) - 1}, {}, x)
    np.testing.assert_allclose(huge, x, rtol=1e-6)
