"""Ops on random shapes, dtypes and attributes against ONNX Runtime, where ONNX's own tests have one or two cases.

What ONNX Runtime does not implement (some ops for small integers, float16 and float64) runs in ONNX's reference.
"""

import itertools
import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_nodes import DTYPES, WAYS, run_model
from onnxruntime.capi import onnxruntime_pybind11_state as missing

from rnncore.ops import OPS

OPSET = 21
FLOATS = ("float32", "float64", "float16")
INTS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
NUMPY = {np.dtype("float32" if name == "float" else name): code for code, name in DTYPES.items()}
SHAPES = ((), (1,), (7,), (3, 5), (2, 3, 4), (0, 3), (2, 1, 3, 2))


def model_of(op, inputs, attributes, outputs=1, opset=OPSET):
    names = [f"x{place}" if array is not None else "" for place, array in enumerate(inputs)]
    node = helper.make_node(op, names, [f"y{place}" for place in range(outputs)], **attributes)
    entries = [
        helper.make_tensor_value_info(name, NUMPY[array.dtype], array.shape)
        for name, array in zip(names, inputs, strict=True)
        if array is not None
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    graph = helper.make_graph([node], op, entries, ends)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def oracle(model, feeds):
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except (missing.NotImplemented, missing.InvalidGraph):
        from onnx.reference import ReferenceEvaluator

        with np.errstate(all="ignore"):
            return ReferenceEvaluator(model).run(None, feeds)
    return session.run(None, feeds)


def agrees(op, inputs, attributes=None, outputs=1, ways=WAYS, opset=OPSET):
    """The op in every way of giving parameters against the oracle."""
    model = model_of(op, inputs, attributes or {}, outputs, opset)
    given = [array for array in inputs if array is not None]
    feeds = {entry.name: array for entry, array in zip(model.graph.input, given, strict=True)}
    expected = [np.asarray(array) for array in oracle(model, feeds)]
    what = f"{op} {attributes} on {[(str(array.dtype), array.shape) for array in given]}"
    for way in ways:
        try:
            refusal = run_model(model, given, expected, way)
        except Exception as error:
            error.add_note(f"{what}, parameters as {way}")
            raise
        assert refusal is None or way in ("names", "inputs"), f"{what}: {refusal}"


def rng_of(*what):
    return np.random.default_rng(zlib.crc32(repr(what).encode()))


def numbers(rng, dtype, shape, low=-4, high=4):
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "f":
        return np.asarray(rng.uniform(low, high, shape)).astype(dtype)
    return np.asarray(rng.integers(max(low, 0) if dtype.kind == "u" else low, high + 1, shape)).astype(dtype)


# --- functions and activations -------------------------------------------------------------------------------------

# Where a function is defined; a parameter that is not ONNX's default.
FUNCTIONS = {
    **dict.fromkeys(("Abs", "Neg", "Exp", "Reciprocal", "Floor", "Ceil", "Round", "Sign", "Erf"), (-4, 4)),
    **dict.fromkeys(("Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Tanh"), (-4, 4)),
    **dict.fromkeys(("Asin", "Acos", "Atanh"), (-0.95, 0.95)),
    **dict.fromkeys(("Log", "Sqrt"), (0.01, 9)),
    "Acosh": (1, 9),
}
ACTIVATIONS = {
    "Sigmoid": {}, "Relu": {}, "Softplus": {}, "Softsign": {}, "HardSwish": {}, "Mish": {},
    "LeakyRelu": {"alpha": 0.3}, "Elu": {"alpha": 0.7}, "Selu": {"alpha": 1.5, "gamma": 0.9}, "Celu": {"alpha": 0.6},
    "HardSigmoid": {"alpha": 0.3, "beta": 0.4}, "ThresholdedRelu": {"alpha": 0.5},
    "Shrink": {"lambd": 0.7, "bias": 0.2}, "Gelu": {"approximate": "tanh"},
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions(op, dtype):
    for shape in SHAPES:
        agrees(op, [numbers(rng_of(op, shape), dtype, shape, *FUNCTIONS[op])])


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations(op):
    for attributes in ({}, ACTIVATIONS[op]):
        for shape in SHAPES:
            x = numbers(rng_of(op, shape), "float32", shape)
            agrees(op, [x], attributes)
            agrees(op, [np.asarray(x * np.float32(20))], attributes)  # where e^x leaves what float holds


@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activations_of_other_floats(op):
    """float32 is float64 rounded, and float16 is float32 rounded."""
    attributes = {**OPS[op].attributes, **ACTIVATIONS[op]}
    x = numbers(rng_of(op), "float64", (200,), -9, 9)
    run = OPS[op].run
    wide, single, half = (run(attributes, {}, x.astype(dtype)) for dtype in ("float64", "float32", "float16"))
    assert (wide.dtype, single.dtype, half.dtype) == ("float64", "float32", "float16")
    np.testing.assert_allclose(single, wide, 2e-6, 3e-7)
    np.testing.assert_allclose(half, run(attributes, {}, x.astype("float16").astype("float32")).astype("float16"))


def test_rounding_is_to_even():
    agrees("Round", [np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4999, 1e9])])


# --- arithmetic ----------------------------------------------------------------------------------------------------

PAIRS = (((), (3,)), ((2, 3), (3,)), ((2, 1, 4), (3, 1)), ((5,), (1,)), ((0, 3), (1, 3)), ((2, 2), ()))


@pytest.mark.parametrize("dtype", (*FLOATS, *INTS))
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max"])
def test_arithmetic(op, dtype):
    if op in ("Mod", "Pow") and dtype == "float16":
        dtype = "float32"  # neither oracle has these in float16
    rng = rng_of(op, dtype)
    for left, right in PAIRS:
        x, y = numbers(rng, dtype, left, -40, 40), numbers(rng, dtype, right, -5, 5)
        if op in ("Div", "Mod"):
            y[y == 0] = 3 if y.ndim else y
            y = np.where(y == 0, y.dtype.type(3), y)
        if op == "Pow":
            x, y = np.asarray(abs(x) % 4 + 1, dtype), np.asarray(abs(y))
        agrees(op, [x, y], {"fmod": 1} if op == "Mod" and dtype.startswith("float") else {})
        if op == "Mod" and not dtype.startswith("float"):
            agrees(op, [x, y], {"fmod": 1})


@pytest.mark.parametrize(("base", "exponent"), itertools.product(("float32", "float64", "int32", "int64"), repeat=2))
def test_powers_of_two_dtypes(base, exponent):
    rng = rng_of(base, exponent)
    x = np.abs(numbers(rng, base, (3, 4))) + np.dtype(base).type(1)
    for y in (numbers(rng, exponent, (3, 4), 0, 3), np.array(2, exponent), np.array([3], exponent)):
        agrees("Pow", [x.astype(base), y])


@pytest.mark.parametrize("op", ["Sum", "Mean", "Min", "Max"])
def test_any_number_of_inputs(op):
    rng = rng_of(op)
    for count in (1, 2, 3, 5):
        agrees(op, [numbers(rng, "float32", shape) for shape in ((2, 3), (3,), (), (4, 1, 1), (2, 1))[:count]])


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int32", "int64"])
def test_clip(dtype):
    x = numbers(rng_of(dtype), dtype, (3, 5), -9, 9)
    low, high = (np.array(value, dtype) for value in (2, 5))
    for given in ([x], [x, low], [x, None, high], [x, low, high], [x, high, low]):
        agrees("Clip", given)


def test_clip_without_an_end():
    x = np.float32([-1, 0.5, 3, np.inf, -np.inf])
    agrees("Clip", [x, np.array(0, np.float32), np.array(np.inf, np.float32)])


def test_prelu():
    x = numbers(rng_of("PRelu"), "float32", (2, 3, 4))
    for shape in ((), (1,), (4,), (3, 1), (2, 3, 4)):
        agrees("PRelu", [x, numbers(rng_of(shape), "float32", shape)])


@pytest.mark.parametrize(("before", "after"), itertools.product((*FLOATS, *INTS, "bool"), repeat=2))
def test_casts(before, after):
    """Numbers that both dtypes hold, with a fraction where there may be one."""
    x = np.array([0, 1, 2.75, 3.5, 100.25, 0.5, -0.0] + [-1.5, -100.75] * (before[0] in "fi" and after[0] in "fib"))
    agrees("Cast", [x.astype(before)], {"to": NUMPY[np.dtype(after)]})
    agrees("CastLike", [x.astype(before), np.zeros((2, 1), after)])


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_shifts(dtype):
    rng = rng_of(dtype)
    for direction in ("LEFT", "RIGHT"):
        x, bits = numbers(rng, dtype, (3, 4), 0, 200), numbers(rng, dtype, (4,), 0, 7)
        agrees("BitShift", [x, bits], {"direction": direction})


@pytest.mark.parametrize("op", ["IsNaN", "IsInf"])
def test_questions(op):
    for dtype in ("float32", "float64"):
        x = np.array([0, np.nan, np.inf, -np.inf, 1], dtype)
        options = itertools.product((0, 1), repeat=2) if op == "IsInf" else [None]
        for found in options:
            agrees(op, [x], {"detect_negative": found[0], "detect_positive": found[1]} if found else {})


# --- logic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
def test_comparisons(op):
    for dtype in (*FLOATS, *INTS, *(["bool"] if op == "Equal" else [])):
        rng = rng_of(op, dtype)
        for left, right in PAIRS:
            agrees(op, [numbers(rng, dtype, left, 0, 2), numbers(rng, dtype, right, 0, 2)])


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_connectives(op):
    for left, right in PAIRS:
        agrees(op, [numbers(rng_of(op), "bool", left), numbers(rng_of(right), "bool", right)])


def test_where():
    for dtype in (*FLOATS, *INTS):
        rng = rng_of(dtype)
        agrees("Where", [numbers(rng, "bool", (3, 1)), numbers(rng, dtype, (2, 1, 4)), numbers(rng, dtype, ())])


# --- along axes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax", "LpNormalization"])
def test_over_an_axis(op):
    for dtype in ("float32", "float64"):
        for shape in ((4,), (3, 5), (2, 3, 4)):
            for axis in range(-len(shape), len(shape)):
                x = numbers(rng_of(op, shape, axis), dtype, shape)
                for attributes in ({}, {"p": 1}) if op == "LpNormalization" else ({},):
                    agrees(op, [x], {"axis": axis, **attributes})


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
def test_running_sums(dtype):
    x = numbers(rng_of(dtype), dtype, (3, 4, 2))
    for axis, exclusive, reverse in itertools.product((-1, 0, 1), (0, 1), (0, 1)):
        agrees("CumSum", [x, np.array(axis)], {"exclusive": exclusive, "reverse": reverse})


REDUCTIONS = ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"]


@pytest.mark.parametrize(
    ("op", "dtype"),
    [
        (op, dtype)
        for op in REDUCTIONS
        for dtype in ("float32", "float64", "int32", "int64")
        if dtype[0] == "f" or not op.startswith("Log")
    ],
)
def test_reductions(op, dtype):
    x = numbers(rng_of(op, dtype), dtype, (3, 4, 2), 1, 4)
    for axes in ([], [0], [-1], [1, 0], [0, 1, 2], [-3, 2], None):
        for keepdims in (0, 1):
            given = [x] if axes is None else [x, np.array(axes, np.int64)]
            agrees(f"Reduce{op}", given, {"keepdims": keepdims})


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min", "L1", "L2", "LogSumExp", "SumSquare"])
def test_reductions_of_large_and_negative_numbers(op):
    agrees(f"Reduce{op}", [numbers(rng_of(op), "float32", (4, 9), -90, 90), np.array([1])], {"keepdims": 0})


@pytest.mark.parametrize("op", ["Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare"])
def test_reductions_of_negative_integers(op):
    for dtype in ("int32", "int64"):
        agrees(f"Reduce{op}", [numbers(rng_of(op, dtype), dtype, (4, 3), -9, 9), np.array([1])])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_places_of_extremes(op):
    for dtype in ("float32", "float64", "int32", "uint8"):
        x = numbers(rng_of(op, dtype), dtype, (4, 6, 3), 0, 2)  # with many equals
        for axis, keepdims, last in itertools.product((0, 1, -1), (0, 1), (0, 1)):
            agrees(op, [x], {"axis": axis, "keepdims": keepdims, "select_last_index": last})


def test_top_k():
    for dtype in ("float32", "float64", "int32", "int64"):
        x = numbers(rng_of(dtype), dtype, (4, 6, 3), 0, 3)
        for axis, k, largest in itertools.product((0, 1, -1), (1, 2, 3), (0, 1)):
            agrees("TopK", [x, np.array([k])], {"axis": axis, "largest": largest}, outputs=2)
        long = numbers(rng_of(dtype), dtype, (3, 90, 2), 0, 30)
        for axis, k, largest in itertools.product((1, -2), (0, 1, 4, 11), (0, 1)):
            agrees("TopK", [long.round(), np.array([k])], {"axis": axis, "largest": largest}, outputs=2)


def test_unique():
    for dtype in ("float32", "int64"):
        x = numbers(rng_of(dtype), dtype, (4, 3), 0, 1)
        for axis, ordered in itertools.product((None, 0, 1), (0, 1)):
            agrees("Unique", [x], {"sorted": ordered, **({} if axis is None else {"axis": axis})}, outputs=4)


# --- shapes --------------------------------------------------------------------------------------------------------


def test_reshape():
    x = numbers(rng_of("reshape"), "float32", (2, 3, 4))
    for shape in ((6, 4), (-1,), (0, -1), (0, 0, 4), (2, -1, 2), (1, 0, 8), (24, 1, 1), (-1, 0, 2, 2)):
        agrees("Reshape", [x, np.array(shape)])
    agrees("Reshape", [np.zeros((0, 3), np.float32), np.array([3, 0])], {"allowzero": 1})
    agrees("Reshape", [np.array(5.0, np.float32), np.array([1, 1])])
    agrees("Reshape", [np.zeros((1, 1), np.float32), np.array([], np.int64)])


def test_axes_that_come_and_go():
    x = numbers(rng_of("axes"), "int64", (1, 3, 1, 2))
    for axes in ([0], [-2], [0, 2], [2, -4]):
        agrees("Squeeze", [x, np.array(axes)])
    agrees("Squeeze", [x], ways=("attributes", "constants", "inputs"))
    for axes in ([0], [-1], [4, 0], [1, -2], [2, 3, 4]):
        agrees("Unsqueeze", [x, np.array(axes)])
    for perm in itertools.permutations(range(4)):
        agrees("Transpose", [x], {"perm": perm})
    agrees("Transpose", [x])
    for axis in range(-4, 5):
        agrees("Flatten", [x], {"axis": axis})


def test_what_is_repeated():
    x = numbers(rng_of("expand"), "float32", (3, 1))
    for shape in ((3, 4), (2, 3, 1), (1, 1), (3,), (2, 1, 6)):
        agrees("Expand", [x, np.array(shape)])
    for repeats in ((1, 1), (2, 3), (0, 2)):
        agrees("Tile", [x, np.array(repeats)])


def test_shapes_of_shapes():
    x = np.zeros((2, 3, 4, 5), np.float32)
    for start, end in itertools.product((0, 1, -2, -9, 9), (None, 2, -1, 9, -9)):
        agrees("Shape", [x], {"start": start, **({} if end is None else {"end": end})})
    agrees("Size", [x])
    agrees("Size", [np.array(1.0, np.float32)])


def test_concat_and_split():
    rng = rng_of("concat")
    for axis in (0, 1, 2, -1):
        parts = []
        for size in (1, 3, 0, 2):
            shape = [2, 3, 4]
            shape[axis] = size
            parts.append(numbers(rng, "float32", shape))
        agrees("Concat", parts, {"axis": axis})
    x = numbers(rng, "int32", (6, 5))
    for sizes in ((1, 5), (6,), (2, 0, 4)):
        agrees("Split", [x, np.array(sizes)], {"axis": 0}, outputs=len(sizes))
    for axis, count in ((0, 2), (0, 3), (1, 2), (-1, 3), (0, 1)):
        agrees("Split", [x], {"axis": axis, "num_outputs": count}, outputs=count)


@pytest.mark.parametrize("seed", range(60))
def test_slices(seed):
    """Bounds far outside on both sides, steps of both signs."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 6, rng.integers(1, 4)))
    x = numbers(rng, "float32", shape)
    count = rng.integers(1, len(shape) + 1)
    axes = rng.permutation(len(shape))[:count]
    axes = np.where(rng.integers(0, 2, count), axes, axes - len(shape))
    starts, ends = rng.integers(-8, 9, (2, count))
    ends = np.where(rng.integers(0, 4, count) == 0, rng.choice([np.iinfo(np.int64).max, np.iinfo(np.int64).min]), ends)
    steps = rng.choice([-3, -2, -1, 1, 2, 3], count)
    agrees("Slice", [x, starts, ends, axes, steps])
    order = np.arange(count)
    agrees("Slice", [x, starts, ends])
    agrees("Slice", [x, starts, ends, None, steps])
    agrees("Slice", [x, starts.astype(np.int32), ends.clip(-9, 9).astype(np.int32), order.astype(np.int32)])


def test_range():
    for dtype in ("int32", "int64", "float32", "float64"):
        for start, limit, delta in ((0, 5, 1), (2, 9, 3), (9, 2, -2), (5, 5, 1), (0, 10, 4), (3, 0, 1)):
            agrees("Range", [np.array(value, dtype) for value in (start, limit, delta)])
    agrees("Range", [np.array(value, np.float32) for value in (0.5, 2.1, 0.3)])


def test_what_is_made_of_a_shape():
    for dtype, value in (("float32", 0.5), ("int64", -3), ("bool", True), ("uint8", 7)):
        tensor = helper.make_tensor("value", NUMPY[np.dtype(dtype)], [1], [value])
        for shape in ((2, 3), (), (0, 4), (5,)):
            agrees("ConstantOfShape", [np.array(shape, np.int64)], {"value": tensor})
    agrees("ConstantOfShape", [np.array([2], np.int64)])
    for k, dtype in itertools.product((-1, 0, 2), (None, TensorProto.INT64, TensorProto.FLOAT)):
        agrees("EyeLike", [np.zeros((3, 4), np.float32)], {"k": k, **({} if dtype is None else {"dtype": dtype})})
    for k, upper in itertools.product((-2, 0, 1, 9), (0, 1)):
        agrees("Trilu", [numbers(rng_of(k), "float32", (2, 3, 4)), np.array(k)], {"upper": upper})


def test_depth_and_space():
    x = numbers(rng_of("depth"), "float32", (2, 12, 2, 3))
    for mode in ("DCR", "CRD"):
        agrees("DepthToSpace", [x], {"blocksize": 2, "mode": mode})
    agrees("SpaceToDepth", [x.reshape(2, 3, 6, 4)], {"blocksize": 2})


def test_reversed_sequences():
    x, lengths = numbers(rng_of("reverse"), "float32", (4, 3, 2)), np.array([1, 4, 2])
    agrees("ReverseSequence", [x, lengths])
    agrees("ReverseSequence", [x.swapaxes(0, 1).copy(), lengths], {"batch_axis": 0, "time_axis": 1})


# --- indexing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "uint8"])
def test_gathers(dtype):
    rng = rng_of(dtype)
    x = numbers(rng, dtype, (4, 3, 5))
    for axis in (0, 1, -1):
        size = x.shape[axis]
        for shape in ((), (1,), (6,), (2, 3), (0,)):
            agrees("Gather", [x, np.asarray(rng.integers(-size, size, shape))], {"axis": axis})
            agrees("Gather", [x, np.asarray(rng.integers(0, size, shape), np.int32)], {"axis": axis})
        agrees("GatherElements", [x, rng.integers(-size, size, (2, 3, 4))], {"axis": axis})
    shapes = {0: ((2, 3), (6, 1), (2, 4, 2)), 1: ((4, 2), (4, 6, 1), (4, 1, 2)), 2: ((4, 3, 1),)}
    for batch, shape in [(batch, shape) for batch, found in shapes.items() for shape in found]:
        sizes = np.array(x.shape[batch : batch + shape[-1]])
        indices = rng.integers(-sizes, sizes, shape)
        agrees("GatherND", [x, indices], {"batch_dims": batch}, ways=("attributes", "inputs"))


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "min", "max"])
def test_scatters(reduction):
    for dtype in ("float32", "int64"):
        rng = rng_of(dtype, reduction)
        x = numbers(rng, dtype, (4, 3, 5))
        for axis in (0, 1, -1):
            size = x.shape[axis]
            # without repetitions, as what "none" then does is open
            indices = np.argsort(rng.random((3, 3, 3) if axis == 1 else (2, 2, 3)), axis=axis)
            indices = np.where(rng.integers(0, 2, indices.shape), indices, indices - size)
            agrees(
                "ScatterElements",
                [x, indices, numbers(rng, dtype, indices.shape)],
                {"axis": axis, "reduction": reduction},
            )
        for width in (1, 2, 3):
            places = rng.permutation(np.array(list(np.ndindex(x.shape[:width]))))[:3]
            updates = numbers(rng, dtype, (3, *x.shape[width:]))
            agrees("ScatterND", [x, places, updates], {"reduction": reduction}, ways=("attributes", "inputs"))


@pytest.mark.parametrize("op", ["add", "mul", "min", "max"])
def test_scatters_to_one_place(op):
    x = numbers(rng_of(op), "float32", (3, 2))
    indices, updates = np.array([[0, 1], [0, 1], [0, 0]]), numbers(rng_of(op, 2), "float32", (3, 2))
    agrees("ScatterElements", [x, indices, updates], {"reduction": op})
    agrees("ScatterND", [x, np.array([[1], [1], [-2]]), updates], {"reduction": op}, ways=("attributes", "inputs"))


def test_one_hot():
    for axis in (-1, 0, 1):
        for dtype in ("int64", "int32", "float32"):
            indices = np.trunc(numbers(rng_of(dtype, axis), dtype, (3, 4), -7, 7)).astype(dtype)
            agrees("OneHot", [indices, np.array([5], dtype), np.float32([0.25, 4])], {"axis": axis})
        agrees("OneHot", [np.array([[2, -1]]), np.array(3), np.array([7, 9])])


def test_what_is_found():
    for dtype in ("float32", "int64", "bool"):
        agrees("NonZero", [numbers(rng_of(dtype), dtype, (3, 4), 0, 1).astype(dtype)])
    x = numbers(rng_of("compress"), "float32", (3, 4))
    for axis, length in ((0, 3), (1, 2), (-1, 4), (None, 9)):
        condition = rng_of(axis).integers(0, 2, length).astype(bool)
        agrees("Compress", [x, condition], {} if axis is None else {"axis": axis})


# --- products ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "uint32"])
def test_matrices(dtype):
    shapes = (((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)))
    for left, right in (*shapes, ((4, 1, 2, 3), (5, 3, 4)), ((3,), (2, 3, 4)), ((2, 2, 3), (3,)), ((0, 3), (3, 2))):
        rng = rng_of(dtype, left, right)
        agrees("MatMul", [numbers(rng, dtype, left), numbers(rng, dtype, right)])


@pytest.mark.parametrize(("a", "b"), itertools.product((0, 1), repeat=2))
def test_gemm(a, b):
    rng = rng_of(a, b)
    for shape in (None, (), (1,), (4,), (2, 1), (2, 4)):
        x, y = numbers(rng, "float32", (2, 3)), numbers(rng, "float32", (3, 4))
        c = [] if shape is None else [numbers(rng, "float32", shape)]
        given = [x.T.copy() if a else x, y.T.copy() if b else y, *c]
        agrees("Gemm", given, {"transA": a, "transB": b})
        agrees("Gemm", given, {"transA": a, "transB": b, "alpha": 0.5, "beta": -2.0})


@pytest.mark.parametrize(
    "equation",
    ["ij,jk->ik", "ij,jk", "bij,bjk->bik", "b i j , b k j -> b i k", "ii->i", "ij->ji", "ij->", "...ij,...jk->...ik",
     "bhqd,bhkd->bhqk", "i,j->ij", "bij,j->bi", "ij,ij->", "abc->cab", "i...->...", "bi,bj,ij->b"],
)  # fmt: skip
def test_einsum(equation):
    sizes, given = {"i": 3, "j": 4, "k": 2, "b": 5, "h": 2, "q": 3, "d": 4, "a": 2, "c": 3}, []
    rng = rng_of(equation)
    for term in equation.replace(" ", "").split("->")[0].split(","):
        before, dots, after = term.partition("...")
        shape = [sizes[i] for i in before] + [2, 1][: 2 * bool(dots)] + [sizes[i] for i in after]
        given.append(numbers(rng, "float32", shape))
    agrees("Einsum", given, {"equation": equation})
