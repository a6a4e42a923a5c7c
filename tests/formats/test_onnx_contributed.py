"""com.microsoft's ops beside ONNX Runtime, with every attribute; integers beside exact ones where it may saturate."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from random_networks import seeds

import rnncore
from rnncore.formats.onnx.contributed import CONTRIBUTED

MICROSOFT = "com.microsoft"


def floats(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def small(rng, dtype, *shape):
    """Integers of 7 bits, whose sums of two products no CPU saturates."""
    return rng.integers(*((0, 128) if dtype == "uint8" else (-64, 64)), shape).astype(dtype)


def pick(rng, *choices):
    return choices[int(rng.integers(len(choices)))]


def maybe(rng, **attributes):
    return {name: value for name, value in attributes.items() if rng.integers(2)}


def scale(rng):
    return np.float32(rng.uniform(0.01, 0.1))


def fused_matmul(rng):
    rank = int(rng.integers(2, 5))
    a, b = floats(rng, *(2, 3)[: rank - 2], 4, 5), floats(rng, *(2, 3)[: rank - 2], 5, 6)
    found = maybe(rng, alpha=0.3)
    for key, name in (("A", "a"), ("B", "b")):
        array = a if name == "a" else b
        if rng.integers(2):
            found[f"trans{key}"] = 1
            array = array.swapaxes(-1, -2)
        if rank > 2 and rng.integers(2):
            found[f"transBatch{key}"] = 1
            array = np.moveaxis(array, -2, 0)
        a, b = (array, b) if name == "a" else (a, array)
    return [a, b], found


def fused_gemm(rng):
    a, b = (5, 4) if rng.integers(2) else (4, 5), (6, 5) if rng.integers(2) else (5, 6)
    found = {"transA": int(a == (5, 4)), "transB": int(b == (6, 5)), **maybe(rng, alpha=0.3, beta=2.0)}
    kind = pick(rng, "Relu", "Tanh", "Sigmoid", "LeakyRelu")
    found["activation"] = kind
    if kind == "LeakyRelu":
        found["activation_alpha"] = 0.2
    return [floats(rng, *a), floats(rng, *b), floats(rng, *pick(rng, (6,), (4, 6), (1,)))], found


def fused_conv(rng):
    kind, values = pick(rng, ("Relu", []), ("Tanh", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.5]))
    found = {"activation": kind, "pads": [1, 1], "group": 2, **({"activation_params": values} if values else {})}
    w, bias = floats(rng, 4, 1, 3), floats(rng, 4)
    return [floats(rng, 2, 2, 6), w, bias, *([floats(rng, 2, 4, 6)] if kind == "Relu" else [])], found


def with_bias(rng):
    return [floats(rng, 2, 3, 4), floats(rng, 4)], {}


def skip_layer_normalization(rng):
    x, skip = floats(rng, 2, 3, 8), floats(rng, 2, 3, 8)
    beta, bias = (floats(rng, 8) if rng.integers(2) else None for _ in range(2))
    return [x, skip, floats(rng, 8), beta, bias], maybe(rng, epsilon=1e-3)


def integer_sides(rng):
    a_dtype, b_dtype = pick(rng, ("uint8", "uint8"), ("uint8", "int8"))
    return small(rng, a_dtype, 4, 7), small(rng, b_dtype, 7, 5), small(rng, a_dtype), small(rng, b_dtype)


def matmul_integer_to_float(rng):
    a, b, a_zero, b_zero = integer_sides(rng)
    return [a, b, scale(rng), scale(rng), a_zero, b_zero, floats(rng, 5) if rng.integers(2) else None], {}


def dynamic_quantize_matmul(rng):
    """A's quantized range is what 7 bits of B leave room for."""
    _, b, _, b_zero = integer_sides(rng)
    return [floats(rng, 4, 7), b, scale(rng), b_zero, floats(rng, 5) if rng.integers(2) else None], {}


def q_gemm(rng):
    a, b, a_zero, b_zero = integer_sides(rng)
    turn = {"transB": int(rng.integers(2)), **maybe(rng, alpha=0.5)}
    b = np.ascontiguousarray(b.T) if turn["transB"] else b
    bias = rng.integers(-500, 500, 5).astype(np.int32) if rng.integers(2) else None
    end = [np.float32(4), small(rng, a.dtype.name)] if rng.integers(2) else [None, None]
    return [a, scale(rng), a_zero, b, scale(rng), b_zero, bias, *end], turn


def quantized(rng, dtype, *shape):
    return [small(rng, dtype, *shape), scale(rng), small(rng, dtype)]


def q_binary(rng):
    dtype = pick(rng, "uint8", "int8")
    second = pick(rng, (2, 3, 4), (4,), (3, 1))
    return [*quantized(rng, dtype, 2, 3, 4), *quantized(rng, dtype, *second), scale(rng), small(rng, dtype)], {}


def q_unary(**attributes):
    def draw(rng):
        dtype = pick(rng, "uint8", "int8")
        end = [np.float32(1 / 256), np.array(0 if dtype == "uint8" else -128, dtype)]
        return [*quantized(rng, dtype, 2, 3, 4), *end], maybe(rng, **attributes)

    return draw


def q_pool(rng, **own):
    return [*quantized(rng, "uint8", 1, 3, 6, 6), scale(rng), small(rng, "uint8")], own


def q_concat(rng):
    dtype = pick(rng, "uint8", "int8")
    parts = [entry for _ in range(3) for entry in quantized(rng, dtype, 2, 3)]
    return [scale(rng), small(rng, dtype), *parts], {"axis": pick(rng, 0, 1, -1)}


def quantize(rng):
    return [floats(rng, 2, 3), scale(rng), small(rng, "uint8")], {}


CALLS = {
    "BiasGelu": with_bias,
    "DequantizeLinear": lambda rng: (quantized(rng, "uint8", 2, 3), {}),
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "FastGelu": with_bias,
    "FusedConv": fused_conv,
    "FusedGemm": fused_gemm,
    "FusedMatMul": fused_matmul,
    "Gelu": lambda rng: ([floats(rng, 2, 3)], {}),
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "QGemm": q_gemm,
    "QLinearAdd": q_binary,
    "QLinearAveragePool": lambda rng: q_pool(rng, kernel_shape=[2, 3], strides=[2, 1], pads=[1, 0, 0, 1]),
    "QLinearConcat": q_concat,
    "QLinearGlobalAveragePool": q_pool,
    "QLinearLeakyRelu": q_unary(alpha=0.3),
    "QLinearMul": q_binary,
    "QLinearSigmoid": q_unary(),
    "QuantizeLinear": quantize,
    "QuickGelu": lambda rng: ([floats(rng, 2, 3)], maybe(rng, alpha=1.3)),
    "SkipLayerNormalization": skip_layer_normalization,
}


def model_of(op, arrays, attributes):
    names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
    while not names[-1]:
        names.pop()
    given = {name: np.asarray(array) for name, array in zip(names, arrays, strict=False) if array is not None}
    # Scales and zero points are constants, as in every file; ONNX Runtime asks for it.
    constants = {name for name, array in given.items() if array.size == 1 and name != "i0"} if op[0] == "Q" else set()
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
        if name not in constants
    ]
    node = helper.make_node(op, names, ["y"], domain=MICROSOFT, **attributes)
    kept = [numpy_helper.from_array(given[name], name) for name in sorted(constants)]
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")], kept)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    feeds = {name: array for name, array in given.items() if name not in constants}
    return helper.make_model(graph, opset_imports=imports, ir_version=10), feeds


def test_each_op_is_drawn():
    assert set(CALLS) == set(CONTRIBUTED)


@pytest.mark.parametrize("op", CALLS)
def test_equal(op, tmp_path):
    for seed in seeds(12):
        arrays, attributes = CALLS[op](np.random.default_rng(seed))
        model, given = model_of(op, arrays, attributes)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, given)
        onnx.save(model, tmp_path / "model.onnx")
        found = rnncore.load(tmp_path / "model.onnx").run(given)["y"]
        assert found.shape == expected.shape and found.dtype == expected.dtype, (seed, attributes)
        if found.dtype.kind == "f":
            np.testing.assert_allclose(found, expected, 2e-5, 2e-5, err_msg=f"{seed}: {attributes}")
        else:  # a quotient in the middle of two integers may be rounded to either
            difference = np.abs(found.astype(int) - expected.astype(int))
            assert difference.max(initial=0) <= 1 and (difference > 0).mean() < 0.05, (seed, attributes)


@pytest.mark.parametrize(
    ("op", "attributes", "says"),
    [
        ("FusedMatMul", {"beta": 2.0}, "attribute 'beta'=2.0 is not supported"),
        ("FusedGemm", {"activation": "Cosine"}, "attribute 'activation'='Cosine'"),
        ("QLinearAveragePool", {"channels_last": 1, "kernel_shape": [2, 2]}, "attribute 'channels_last'=1"),
        ("SkipGroupNorm", {}, "op 'SkipGroupNorm' of opset 1 is not supported, expected one of BiasGelu"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(op, attributes, says, tmp_path):
    arrays = q_pool(np.random.default_rng(0))[0] if op.startswith("QLinear") else [np.ones((2, 2), np.float32)] * 2
    model, _ = model_of(op, arrays, attributes)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(rnncore.UnsupportedError, match=says):
        rnncore.load(tmp_path / "model.onnx")
