"""What ops infer of sizes that are names and of small data, what they need of time, what they refuse, and in Models."""

import itertools
import re

import every_op
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_nodes import GENERIC

import rnncore
from rnncore.errors import InputError, SpecError
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, UNKNOWN, Value, schema, sizes
from rnncore.ops.dimensions import WHOLE, spreading
from rnncore.runtime.model import Model

F, I = np.float32, np.int64  # noqa: E741


def infer(op, attributes, *values):
    """The Values of an op; a value may be given as a shape of float, or as a list of int64 whose data is known."""
    op = OPS[op]
    found = [
        value if isinstance(value, Value) or value is None
        else Value("int64", (len(value),), tuple(value)) if isinstance(value, list)
        else Value("float", value)
        for value in values
    ]  # fmt: skip
    found += [None] * (op.arity[1] - len(found)) if op.optional else []
    attributes = schema.complete(op.schema, op.attributes, op.required, attributes)  # as a Node does
    return op.infer(attributes, found)


def shape(op, attributes, *values):
    return infer(op, attributes, *values)[0].shape


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (sizes.add("T", 1, "T"), "2*T+1"),
        (sizes.subtract("T", "T"), 0),
        (sizes.add("B*T", 0), "B*T"),
        (sizes.multiply("T+1", "B", 2), "2*B+2*B*T"),
        (sizes.multiply("T", 0, UNKNOWN), 0),
        (sizes.divide("2*B*T", "T"), "2*B"),
        (sizes.divide("2*T+4", 2), "T+2"),
        (sizes.divide(sizes.add("T", -1), 2), "((T-1)//2)"),
        (sizes.add(sizes.multiply(2, sizes.divide("T", 2)), 1), "2*(T//2)+1"),
        (sizes.add("past + 1", 1), "past+2"),
        (sizes.add("any (text", 1), "any (text+1"),
        (sizes.add(UNKNOWN, 1), UNKNOWN),
        (sizes.divide(7, 2), 3),
    ],
)
def test_sizes(found, expected):
    assert found == expected


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_sizes_are_what_they_say(data):
    """Any expression in names, written and read again at each step, is its value once the names are known."""
    values = {"T": data.draw(st.integers(1, 9)), "B": data.draw(st.integers(1, 9))}
    written, number = "T", values["T"]
    for _ in range(data.draw(st.integers(1, 6))):
        other = data.draw(st.sampled_from(["T", "B", 1, 2, 3]))
        value = values.get(other, other)
        operation = data.draw(st.sampled_from(["add", "subtract", "multiply", "divide"]))
        written = getattr(sizes, operation)(written, other)
        number = {
            "add": number + value,
            "subtract": number - value,
            "multiply": number * value,
            "divide": number // value,
        }[operation]
    assert written == UNKNOWN or eval(str(written), {}, values) == number
    assert not sizes.is_natural(written) or number >= 0


@pytest.mark.timeout(20)
def test_sizes_and_data_that_would_grow_without_end():
    """A few hundred bytes of a Spec that ask for a sum of 2**60 terms, a list of 2**63 numbers."""
    many = tuple(f"{a}{b}+1" for a in "abcdefgh" for b in "abcdefgh")
    assert sizes.multiply(*many) == UNKNOWN
    assert shape("Flatten", {"axis": 0}, many) == (1, UNKNOWN)
    assert sizes.multiply(*["B"] * 100_000) == UNKNOWN
    assert sizes.add("9" * 100_000, 1) == UNKNOWN
    ends = [Value("int64", (), (n,)) for n in (-(1 << 63), (1 << 63) - 1, 1)]
    assert infer("Range", {}, *ends) == [Value("int64", ((1 << 64) - 1,))]
    assert infer("ConstantOfShape", {"dtype": "int64", "shape": (1 << 62,)}) == [Value("int64", (1 << 62,))]


# --- shapes that the graph computes --------------------------------------------------------------------------------


def run_spec(nodes, outputs, dtype="float32", **inputs):
    """Nodes on inputs given as (shape with names, array)."""
    kinds = {"f": "float", "i": "int64", "b": "bool"}
    entries = [Input(name, kinds[array.dtype.kind], sizes) for name, (sizes, array) in inputs.items()]
    spec = Spec(entries, nodes, outputs)
    return spec, Model(spec, {}, dtype).run({name: array for name, (_, array) in inputs.items()})


def constant(name, value):
    value = np.asarray(value)
    dtype = {"f": "float", "i": "int64", "b": "bool"}[value.dtype.kind]
    return Node(name, "Constant", (), {"dtype": dtype, "shape": value.shape, "value": tuple(value.ravel().tolist())})


def test_a_reshape_to_sizes_of_the_input_is_known():
    """What exporters write for x.view(x.size(0), x.size(1), 2, -1) and back."""
    nodes = [
        Node("shape", "Shape", "x"),
        Node("b", "Gather", "shape", {"indices": 0}),
        Node("t", "Gather", "shape", {"indices": 1}),
        Node("b1", "Unsqueeze", "b", {"axes": [0]}),
        Node("t1", "Unsqueeze", "t", {"axes": [0]}),
        constant("rest", [2, -1]),
        Node("to", "Concat", ("b1", "t1", "rest"), {"axis": 0}),
        Node("split", "Reshape", ("x", "to")),
        Node("moved", "Transpose", "split", {"perm": [0, 2, 1, 3]}),
        Node("half", "Slice", "to", {"starts": [0], "ends": [2]}),
        Node("rows", "ReduceProd", "half", {"keepdims": False}),
        Node("rows1", "Unsqueeze", "rows", {"axes": [0]}),
        constant("minus", [-1]),
        Node("flat", "Concat", ("rows1", "minus"), {"axis": 0}),
        Node("y", "Reshape", ("x", "flat")),
    ]
    x = np.arange(24, dtype=F).reshape(2, 3, 4)
    spec, found = run_spec(nodes, ["moved", "y"], x=(("B", "T", 4), x))
    assert spec.values["moved"] == Value("float", ("B", 2, "T", 2))
    assert spec.values["y"] == Value("float", ("B*T", 4))
    np.testing.assert_array_equal(found["moved"], x.reshape(2, 3, 2, 2).swapaxes(1, 2))
    np.testing.assert_array_equal(found["y"], x.reshape(6, 4))


def test_an_expand_with_ones_for_minus_one_is_known():
    """What torch writes for x.expand(x.size(0), -1, 5): Where(sizes == -1, 1, sizes)."""
    nodes = [
        Node("shape", "Shape", "x", {"end": 1}),
        constant("rest", [-1, 5]),
        Node("wanted", "Concat", ("shape", "rest"), {"axis": 0}),
        constant("three", [3]),
        Node("ones", "ConstantOfShape", "three", {"dtype": "int64", "value": 1}),
        constant("minus", -1),
        Node("negative", "Mul", ("ones", "minus")),
        Node("free", "Equal", ("wanted", "negative")),
        Node("sizes", "Where", ("free", "ones", "wanted")),
        Node("y", "Expand", ("x", "sizes")),
    ]
    x = np.arange(6, dtype=F).reshape(2, 3, 1)
    spec, found = run_spec(nodes, ["y"], x=(("B", "T", 1), x))
    assert spec.values["y"].shape == ("B", "T", 5)
    np.testing.assert_array_equal(found["y"], np.broadcast_to(x, (2, 3, 5)))


def test_a_range_over_time_is_known():
    nodes = [
        Node("t", "Shape", "x", {"start": 1, "end": 2}),
        Node("steps", "Squeeze", "t", {"axes": [0]}),
        constant("zero", 0),
        constant("one", 1),
        Node("range", "Range", ("zero", "steps", "one")),
        Node("half", "Div", ("steps", "two")),
        Node("halves", "Range", ("zero", "half", "one")),
    ]
    nodes.insert(0, constant("two", 2))
    spec, found = run_spec(nodes, ["range", "halves"], x=(("B", "T"), np.zeros((2, 7), F)))
    assert spec.values["range"].shape == ("T",) and spec.values["halves"].shape == ("(T//2)",)
    assert found["range"].tolist() == list(range(7)) and found["halves"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("op", "attributes", "values", "expected"),
    [
        ("Reshape", {"shape": (0, -1)}, [("B", "T", 3)], ("B", "3*T")),
        ("Reshape", {"shape": (-1, 3)}, [("B", "T", 3)], ("B*T", 3)),
        ("Reshape", {"shape": (-1, 4)}, [("B", 6)], ("((6*B)//4)", 4)),
        ("Reshape", {}, [("B", 6), ["B", 2, 3]], ("B", 2, 3)),
        ("Reshape", {}, [("B", 6), [UNKNOWN, 6]], (UNKNOWN, 6)),
        ("Flatten", {}, [("B", "T", 3)], ("B", "3*T")),
        ("Flatten", {"axis": 0}, [("B", 3)], (1, "3*B")),
        ("Concat", {"axis": 1}, [("B", "T"), ("B", 2), ("B", "T")], ("B", "2*T+2")),
        ("Concat", {"axis": 1}, [(UNKNOWN, 1), ("B", 2)], ("B", 3)),
        ("Split", {"num_outputs": 2, "axis": 1}, [("B", "2*T")], ("B", "T")),
        ("Split", {"num_outputs": 2, "axis": 1}, [("B", "T")], ("B", UNKNOWN)),
        ("Slice", {"starts": (0,), "ends": (1 << 40,), "axes": (1,)}, [("B", "T")], ("B", "T")),
        ("Slice", {"starts": (-1,), "ends": (-(1 << 60),), "axes": (1,), "steps": (-1,)}, [("B", "T")], ("B", "T")),
        ("Slice", {"starts": (1,), "ends": (9,), "axes": (1,)}, [("B", "T")], ("B", UNKNOWN)),
        ("Slice", {"starts": (1,), "ends": (9,), "axes": (1,)}, [("B", 6)], ("B", 5)),
        ("Expand", {"shape": (3, 1, 1)}, [("B", 1)], (3, "B", 1)),
        ("Tile", {"repeats": (1, 2)}, [("B", "T")], ("B", "2*T")),
        ("Add", {}, [("B", 1, 3), ("T", 1)], ("B", "T", 3)),
        ("Add", {}, [("B",), ("T",)], (UNKNOWN,)),
        ("MatMul", {}, [("B", "T", 3), (3, 5)], ("B", "T", 5)),
        ("MatMul", {}, [("B", "T", 3), ("B", 3, "K")], ("B", "T", "K")),
        ("Einsum", {"equation": "bid,bjd->bij"}, [("B", "T", 3), ("B", "K", 3)], ("B", "T", "K")),
        ("Gather", {"axis": 1}, [("B", "T", 3), Value("int64", ("N", 2))], ("B", "N", 2, 3)),
        ("ReduceMean", {"axes": (-1,), "keepdims": False}, [("B", "T", 3)], ("B", "T")),
        ("ReduceMean", {}, [("B", 3), Value("int64", (1,))], (UNKNOWN, UNKNOWN)),
        ("TopK", {"k": 2}, [("B", "T")], ("B", 2)),
        ("ConstantOfShape", {}, [["B", 3]], ("B", 3)),
        ("OneHot", {"depth": 4, "axis": 0}, [Value("int64", ("B",)), None, (2,)], (4, "B")),
        ("SpaceToDepth", {"blocksize": 2}, [("B", 3, "H", 4)], ("B", 12, "(H//2)", 2)),
        ("Unique", {}, [("B", "T")], (UNKNOWN,)),
    ],
)
def test_inferred_sizes(op, attributes, values, expected):
    assert shape(op, attributes, *values) == expected


@pytest.mark.parametrize(
    ("op", "attributes", "values", "expected"),
    [
        ("Shape", {"start": -2}, [("B", "T", 3)], ("T", 3)),
        ("Size", {}, [("B", 3)], ("3*B",)),
        ("Add", {}, [["T", 3], [2]], ("T+2", 5)),
        ("Sub", {}, [["T", 3], ["T", 5]], (0, -2)),
        ("Mul", {}, [["T", 3], [2, 2]], ("2*T", 6)),
        ("Div", {}, [["2*T", -7], [2, 2]], ("T", -3)),
        ("Mod", {}, [["T", -7], [2, 2]], (UNKNOWN, 1)),
        ("Neg", {}, [["T", 3]], ("-T", -3)),
        ("Max", {}, [[4, 3], [2, 9]], (4, 9)),
        ("Min", {}, [["T", 3], [2, 9]], (UNKNOWN, 3)),
        ("Add", {}, [Value("int32", (1,), ((1 << 31) - 1,)), Value("int32", (1,), (1,))], None),
        ("Cast", {"to": "int32"}, [["T", 3]], ("T", 3)),
        ("Cast", {"to": "uint8"}, [[256]], None),
        ("Cast", {"to": "float"}, [[2]], None),
        ("Equal", {}, [["T", "T", 3], ["T", -1, 3]], (True, False, True)),
        ("Equal", {}, [["T"], [1]], None),
        ("Equal", {}, [["T-1"], [-1]], None),
        ("Less", {}, [[1, 2, 3], [2]], (True, False, False)),
        ("GreaterOrEqual", {}, [[1, 2, 3], [2]], (False, True, True)),
        ("Less", {}, [["T"], [2]], None),
        ("Equal", {}, [Value("float", (), (0.1,)), Value("float", (), (0.1 + 1e-15,))], None),
        ("Not", {}, [Value("bool", (2,), (True, False))], (False, True)),
        ("Xor", {}, [Value("bool", (2,), (True, False)), Value("bool", (), (True,))], (False, True)),
        ("Gather", {"indices": (1, -1)}, [["B", "T", 3]], ("T", 3)),
        ("Slice", {"starts": (-1,), "ends": (-9,), "steps": (-2,)}, [["B", "T", 3]], (3, "B")),
        ("Concat", {"axis": 0}, [["B"], [2, "T"]], ("B", 2, "T")),
        ("Concat", {"axis": 0}, [[1] * 40, [1] * 40], None),
        ("ReduceSum", {"keepdims": False}, [["B", 3]], ("B+3",)),
        ("ReduceProd", {}, [["B", 3]], ("3*B",)),
        ("Range", {}, [Value("int64", (), (n,)) for n in (1, 6, 2)], (1, 3, 5)),
        ("ConstantOfShape", {"dtype": "bool", "value": True}, [[2]], (True, True)),
        ("Unsqueeze", {"axes": (0,)}, [Value("int64", (), ("T",))], ("T",)),
        ("Unsqueeze", {"axes": (0,)}, [["T", 2]], None),
        ("Identity", {}, [["T"]], ("T",)),
    ],
)
def test_followed_data(op, attributes, values, expected):
    assert infer(op, attributes, *values)[0].data == expected


# --- time ----------------------------------------------------------------------------------------------------------


POINTWISE = [
        ("Softmax", {"axis": -1}), ("CumSum", {"axis": 2}), ("CumSum", {"axis": 1}), ("ReduceMax", {"axes": (2,)}),
        ("Gather", {"axis": 2, "indices": (0, 2, 0)}), ("ArgMin", {"axis": 2}), ("Reshape", {"shape": (0, 0, 2, -1)}),
        ("Slice", {"starts": (-1,), "ends": (-9,), "axes": (2,), "steps": (-1,)}),
        ("Unsqueeze", {"axes": (3,)}), ("Tile", {"repeats": (1, 1, 2)}), ("TopK", {"k": 2, "axis": -1}), ("Gelu", {}),
        ("Transpose", {"perm": (0, 1, 2)}), ("IsNaN", {}), ("Clip", {"min": 0.0}), ("LpNormalization", {}),
]  # fmt: skip


def reach_along(op, attributes, shape, axis):
    """How far the outputs of an op of one input look along an axis of it."""
    inputs = [Value("float", shape), *[None] * (OPS[op].arity[1] - 1)]
    dimensions = OPS[op].dimensions(attributes, inputs, OPS[op].infer(attributes, inputs))
    return next((found.reach for found in dimensions if found.inputs == {0: axis}), WHOLE)


@pytest.mark.parametrize(("op", "attributes"), POINTWISE)
def test_what_is_pointwise_or_causal_over_time(op, attributes):
    """The steps so far give the output's steps so far; one step alone, if pointwise, its own."""
    found = OPS[op]
    attributes = {**found.attributes, **attributes}
    reach = reach_along(op, attributes, ("B", "T", 4), 1)
    x = np.random.default_rng(3).standard_normal((2, 5, 4)).astype(F)

    def first(given):
        y = found.run(attributes, {}, given)
        return np.asarray(y[0] if op == "TopK" else y)

    y = first(x)
    for t in range(1, 6):
        np.testing.assert_array_equal(first(x[:, :t]), y[:, :t])
        if reach.independent:
            np.testing.assert_array_equal(first(x[:, t - 1 : t]), y[:, t - 1 : t])
    assert reach.independent or reach.causal


# --- what is refused -----------------------------------------------------------------------------------------------

INTS, BOOLS = Value("int64", ("B", 3)), Value("bool", ("B", 3))


@pytest.mark.parametrize(
    ("op", "attributes", "values", "message"),
    [
        ("Exp", {}, [INTS], r"input is int64 \(B, 3\), expected float"),
        ("Neg", {}, [Value("uint8", ())], "input is uint8 .*, expected float or float16 or float64 or int8"),
        ("Add", {}, [BOOLS, BOOLS], r"input is bool \(B, 3\), expected numbers"),
        ("Add", {}, [INTS, ("B", 3)], "inputs are int64 .* and float .*, expected one dtype"),
        ("Add", {}, [("B", 3), ("B", 2)], "sizes 3 and 2 do not broadcast"),
        ("Elu", {"alpha": "1"}, [("B",)], "alpha='1', expected a finite number"),
        ("Elu", {"alpha": float("nan")}, [("B",)], "alpha=nan, expected a finite number"),
        ("Gelu", {"approximate": "erf"}, [("B",)], "approximate='erf', expected 'none' or 'tanh'"),
        ("PRelu", {}, [("B", 3), ("B", 4)], "sizes 3 and 4 do not broadcast"),
        ("PRelu", {}, [(3,), (2, 3)], "slope is float .*, expected what spreads over the input"),
        ("Mod", {"fmod": 2}, [INTS, INTS], "fmod=2, expected true or false"),
        ("Clip", {"min": 0.5}, [INTS], "min=0.5, expected a number of dtype int64"),
        ("Clip", {"min": float("nan")}, [("B",)], "min=nan, expected a number of dtype float"),
        ("Clip", {"max": 300}, [Value("uint8", ())], "max=300, expected a number of dtype uint8"),
        ("Clip", {}, [("B",), (2,)], r"min is float \(2\), expected one number"),
        ("Clip", {"min": 0.0}, [("B",), ()], "min=0.0 and an input 1 for it, expected one of them"),
        ("Cast", {"to": "float32"}, [("B",)], "to='float32', expected 'float' or"),
        ("Cast", {"to": "int64", "round_mode": "even"}, [("B",)], "round_mode='even', expected 'up'"),
        ("Dropout", {"training_mode": True}, [("B",)], "training_mode=True, expected false"),
        ("Dropout", {}, [("B",), None, Value("bool", ())], "training_mode=bool .*, expected false"),
        ("BitShift", {"direction": "UP"}, [INTS, INTS], "direction='UP', expected 'LEFT' or 'RIGHT'"),
        ("BitwiseAnd", {}, [BOOLS, BOOLS], "input is bool .*, expected integers"),
        ("And", {}, [INTS, INTS], "input is int64 .*, expected bool"),
        ("Less", {}, [BOOLS, BOOLS], "input is bool .*, expected numbers"),
        ("Where", {}, [INTS, INTS, INTS], "condition is int64 .*, expected bool"),
        ("Softmax", {"axis": 2}, [("B", 3)], "axis=2, expected an integer from -2 to 1"),
        ("LpNormalization", {"p": 3}, [("B", 3)], "p=3, expected 1 or 2"),
        ("CumSum", {}, [("B",)], "axis missing"),
        ("CumSum", {"axis": 1}, [("B",)], "axis=1, expected an integer from -1 to 0"),
        ("CumSum", {}, [("B",), Value("int64", (2,))], r"axis is int64 \(2\), expected one number"),
        ("ReduceSum", {"axes": (1, -1)}, [("B", 3)], r"axes=\[1, -1\], expected each axis once"),
        ("ReduceSum", {"axes": (0.0,)}, [("B", 3)], r"axes=\[0.0\], expected a list of integers"),
        ("ReduceSum", {"keepdims": False}, [("B",), Value("int64", (1,))], "they decide the rank"),
        ("ReduceL1", {}, [Value("int8", (3,))], "input is int8"),
        ("ReduceLogSum", {}, [INTS], "expected float"),
        ("Reshape", {}, [("B",)], "shape missing"),
        ("Reshape", {"shape": (-2,)}, [("B",)], r"shape=\[-2\], expected a list of integers of at least -1"),
        ("Reshape", {"shape": (0, -1), "allowzero": True}, [("B",)], "expected 0 or -1 but not both"),
        ("Reshape", {}, [("B",), Value("int64", ("N",))], r"shape is int64 \(N\), expected a known length"),
        ("Reshape", {}, [("B",), ("N",)], "shape is float .*, expected int32 or int64"),
        ("Reshape", {"shape": (4, -1)}, [(6,)], r"shape=\[4, -1\] does not fit float \(6\)"),
        ("Flatten", {"axis": 3}, [("B", 3)], "axis=3"),
        ("Unsqueeze", {}, [("B",)], "axes missing"),
        ("Unsqueeze", {}, [("B",), Value("int64", (1,))], "axes are int64 .*, expected constants"),
        ("Squeeze", {"axes": (1,)}, [("B", 3)], "expected size 1 at axis 1"),
        ("Transpose", {"perm": (0,)}, [("B", 3)], "expected the axes 0 to 1, each once"),
        ("Expand", {"shape": (-1, 3)}, [("B", 3)], r"shape=\[-1, 3\], expected a list of integers of at least 0"),
        ("Tile", {"repeats": (2,)}, [("B", 3)], r"repeats=\[2\] for .*, expected one for each dimension"),
        ("Shape", {"start": "0"}, [("B",)], "start='0', expected an integer"),
        ("Concat", {"axis": 0}, [("B", 3), ("B", 4)], "differ outside axis 0"),
        ("Split", {}, [("B", 4)], "num_outputs and split missing"),
        ("Split", {"split": (1, 2), "axis": 1}, [("B", 4)], "expected sizes that add up to 4"),
        ("Split", {"split": (1, 3), "num_outputs": 3, "axis": 1}, [("B", 4)], "expected one of them"),
        (
            "Split",
            {"num_outputs": 1 << 30},
            [("B", 4)],
            "num_outputs=1073741824, expected a .* at most 1024",
        ),
        ("Split", {"split": ()}, [("B", 4)], "split has 0 sizes, expected 1 to 1024"),
        ("Slice", {"starts": (0,)}, [("B",)], "ends missing"),
        ("Slice", {"starts": (0,), "ends": (1,), "steps": (0,)}, [("B",)], r"steps=\[0\], expected none of 0"),
        ("Slice", {"starts": (0,), "ends": (1, 2)}, [("B", 3)], "expected the same number of each"),
        ("Slice", {"starts": (0,), "ends": (1,), "axes": (2,)}, [("B", 3)], "axis=2"),
        ("Range", {}, [Value("int64", (), (n,)) for n in (0, 4, 0)], "delta=0, expected a step"),
        ("Range", {}, [Value("int64", ()), (), ()], r"limit is float \(\), expected int64 like start"),
        ("ConstantOfShape", {"dtype": "int8", "value": 200}, [[2]], "value=200, expected a number of dtype int8"),
        ("ConstantOfShape", {"shape": (-1,)}, [], "expected a list of integers of at least 0"),
        ("EyeLike", {}, [("B",)], r"input is float \(B\), expected 2 dimensions"),
        ("Trilu", {}, [("B",)], "expected at least 2 dimensions"),
        ("DepthToSpace", {"blocksize": 2}, [("B", 6, 2, 2)], "expected a multiple of 4 at axis 1"),
        ("DepthToSpace", {"blocksize": 2, "mode": "X"}, [("B", 4, 2, 2)], "mode='X', expected 'DCR' or 'CRD'"),
        ("ReverseSequence", {"batch_axis": 0}, [("B", 3), Value("int64", (3,))], "expected 0 and 1, each once"),
        ("Gather", {}, [("B",)], "indices missing"),
        ("Gather", {"indices": (0, 5), "axis": 1}, [("B", 3)], "indices=5, expected integers from -3 to 2"),
        ("Gather", {}, [("B",), ("N",)], "indices is float .*, expected int32 or int64"),
        ("GatherElements", {}, [("B", 3), Value("int64", ("N",))], "expected the same number of dimensions"),
        ("GatherElements", {}, [("B", 3), Value("int64", ("N", 4))], "expected at most 3 at axis 1"),
        ("GatherND", {}, [("B", 3), Value("int64", ("N", 3))], "expected a last dimension from 1 to 2"),
        ("GatherND", {"batch_dims": 2}, [("B", 3), INTS], "batch_dims=2 .*, expected 0 to 1"),
        (
            "ScatterND",
            {"reduction": "mean"},
            [("B", 3), Value("int64", (2, 1)), (2, 3)],
            "reduction='mean', expected 'none'",
        ),
        ("ScatterND", {}, [("B", 3), Value("int64", (2, 1)), (2, 4)], r"updates are float \(2, 4\), expected \(2, 3\)"),
        ("ScatterElements", {}, [("B", 3), INTS, INTS], "updates is int64 .*, expected float"),
        ("OneHot", {"depth": 0}, [INTS, None, (2,)], "depth=0, expected a positive integer"),
        ("OneHot", {"depth": 3}, [INTS, None, (3,)], "expected 2: off and on"),
        ("TopK", {"k": 4}, [("B", 3)], "k=4 for .*, expected at most 3"),
        ("TopK", {"k": 1, "largest": 2}, [("B", 3)], "largest=2, expected true or false"),
        ("ArgMax", {"axis": 2}, [("B", 3)], "axis=2"),
        ("Compress", {}, [("B", 3), ("N",)], "condition is float .*, expected bool"),
        ("MatMul", {}, [("B", 3), (4, 5)], "differ in the size they share: 3 and 4"),
        ("MatMul", {}, [("B", 3), ()], "expected at least 1 dimension"),
        ("Gemm", {"transB": 3}, [("B", 3), (3, 5)], "transB=3, expected true or false"),
        ("Gemm", {}, [("B", 3), (3, 5), (4,)], r"C is float \(4\), expected what spreads over \(B, 5\)"),
        ("Gemm", {}, [("B", 2, 3), (3, 5)], r"A is float \(B, 2, 3\), expected 2 dimensions"),
        ("Einsum", {"equation": "ij->k"}, [("B", 3)], "output 'k', expected letters of the inputs"),
        ("Einsum", {"equation": "ij,jk"}, [("B", 3)], "expected a term for each of 1 inputs"),
        ("Einsum", {"equation": "ijk"}, [("B", 3)], "'ijk' for float .*, expected the same number of dimensions"),
        ("Einsum", {"equation": "ij,jk"}, [("B", 3), (4, 5)], "'j' of size 3 and 4, expected one size"),
        ("Einsum", {"equation": "i1"}, [("B", 3)], "expected letters"),
    ],
)
def test_refused(op, attributes, values, message):
    with pytest.raises(SpecError, match=message):
        infer(op, attributes, *values)


@pytest.mark.parametrize(
    ("op", "attributes", "arrays", "message"),
    [
        ("Reshape", {"shape": (4, -1)}, [np.zeros((3, 2), F)], "does not fit"),
        ("Reshape", {}, [np.zeros((3, 2), F), np.array([1, 6, 0])], "0 beyond its dimensions"),
        ("CumSum", {}, [np.zeros(3, F), np.array(1)], "axis=1, expected an integer from -1 to 0"),
        ("Split", {"num_outputs": 2}, [np.zeros(3, F), np.array([1, 1])], "expected 3 in all"),
        ("Split", {"num_outputs": 3}, [np.zeros(3, F), np.array([1, 2])], "expected 3 in all"),
        (
            "Slice",
            {},
            [np.zeros(3, F), np.array([0]), np.array([2]), np.array([0]), np.array([0])],
            "the same number of each",
        ),
        ("Range", {}, [np.array(0), np.array(1), np.array(0)], "delta is 0"),
        ("ReverseSequence", {}, [np.zeros((2, 1), F), np.array([3])], "expected 1 lengths from 0 to 2"),
        ("GatherElements", {}, [np.zeros((2, 3), F), np.zeros((1, 4), I)], "reach beyond"),
        ("GatherND", {"batch_dims": 1}, [np.zeros((2, 3), F), np.zeros((3, 1), I)], "the same first 1 sizes"),
        ("ScatterElements", {}, [np.zeros(3, F), np.zeros(2, I), np.zeros(1, F)], "expected that of the indices"),
        ("ScatterND", {}, [np.zeros((3, 2), F), np.zeros((1, 1), I), np.zeros((1, 1), F)], "updates of shape"),
        ("TopK", {}, [np.zeros(3, F), np.array([4])], "expected 0 to 3"),
    ],
)
def test_refused_when_run(op, attributes, arrays, message):
    found = OPS[op]
    with pytest.raises(InputError, match=message):
        found.run({**found.attributes, **attributes}, {}, *arrays)


@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND", "ScatterND"])
def test_indices_beyond_their_axis(op):
    spec = [Node("y", op, ("x", "i", "u")[: 3 if op == "ScatterND" else 2])]
    arrays = {"x": np.zeros((2, 3), F), "i": np.array([[5]]), "u": np.zeros((1, 3), F)}
    entries = {"x": ("B", 3), "i": ("N", 1), "u": ("N", 3)}
    given = {name: (entries[name], arrays[name]) for name in spec[0].inputs}
    with pytest.raises(InputError, match=rf"node 'y' \({op}\).*5 is out of bounds"):
        run_spec(spec, ["y"], **given)


# --- in a Model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_is_the_dtype_of_the_model(dtype):
    """Where an op makes floats of something else."""
    nodes = [
        Node("cast", "Cast", "i", {"to": "float"}),
        Node("half", "Cast", "i", {"to": "float16"}),
        Node("zeros", "ConstantOfShape", (), {"shape": (2,), "value": 0.1}),
        Node("eye", "EyeLike", "i", {"dtype": "float"}),
        Node("like", "CastLike", ("i", "cast")),
        Node("sum", "Add", ("cast", "zeros")),
    ]
    i = np.array([[1, 2], [3, 4]])
    _, found = run_spec(nodes, [node.name for node in nodes], dtype, i=(("B", 2), i))
    assert {name: array.dtype for name, array in found.items()} == {
        **dict.fromkeys(("cast", "zeros", "eye", "like", "sum"), np.dtype(dtype)), "half": np.float16,
    }  # fmt: skip
    np.testing.assert_array_equal(found["sum"], i.astype(dtype) + np.array(0.1, dtype))


def test_outputs_of_rank_0_are_arrays():
    nodes = [
        Node("sum", "ReduceSum", "x", {"keepdims": False}),
        Node("exp", "Exp", "sum"),
        Node("y", "Sigmoid", "exp"),
        Node("size", "Size", "x"),
    ]
    _, found = run_spec(nodes, ["sum", "exp", "y", "size"], x=(("B", 2), np.ones((3, 2), F)))
    assert all(type(array) is np.ndarray and array.shape == () for array in found.values())


def test_several_outputs_have_names():
    nodes = [
        Node("split", "Split", "x", {"split": (1, 2), "axis": 1}),
        Node("top", "TopK", "x", {"k": 2}),
        Node("unique", "Unique", "x"),
        Node("drop", "Dropout", "x"),
    ]
    names = ["split", "split.1", "top", "top.indices", "unique", "unique.counts", "drop", "drop.mask"]
    x = np.array([[3, 1, 3]], F)
    spec, found = run_spec(nodes, names, x=(("B", 3), x))
    assert [array.tolist() for array in found.values()] == [
        [[3]], [[1, 3]], [[3, 3]], [[0, 2]], [1, 3], [1, 2], x.tolist(), [[True] * 3],
    ]  # fmt: skip
    assert spec.values["split.1"] == Value("float", ("B", 2))
    assert Spec.from_json(spec.to_json()) == spec


def test_what_ops_give_can_be_written_to_without_changing_what_they_read():
    """Views of inputs and constants are not handed out."""
    nodes = [
        constant("c", [[1.0, 2.0]]),
        *(Node(op.lower(), op, "x", attributes) for op, attributes in (
            ("Identity", {}), ("Expand", {"shape": (3, 1, 1)}), ("Transpose", {}), ("Squeeze", {"axes": (0,)}),
            ("Slice", {"starts": (0,), "ends": (1,)}),
            ("Flatten", {}), ("Dropout", {}), ("Clip", {}), ("Gather", {"indices": 0}),
        )),
        Node("constant", "Identity", "c"),
    ]  # fmt: skip
    x = np.ones((1, 2), F)
    _, found = run_spec(nodes, [node.name for node in nodes], x=((1, 2), x))
    for name, array in found.items():
        array[...] = 7
        assert (x == 1).all(), name
    _, again = run_spec(nodes, ["constant", "c"], x=((1, 2), x))
    assert again["c"].tolist() == again["constant"].tolist() == [[1, 2]]


def test_every_generic_op_says_what_it_is():
    for name, op in GENERIC.items():
        assert op.name == name and op.arity[0] <= op.arity[1]
        assert set(op.parameters) <= set(op.attributes)
        assert all(position < op.arity[1] for position in op.parameters.values()), name


def test_sigmoid_where_the_exponential_overflows():
    for dtype, limit in (("float32", 2e-38), ("float64", 1e-307)):
        x = np.array([-1000, -100, -20, -1, 0, 1, 20, 100, 1000, np.inf, -np.inf, np.nan], dtype)
        with np.errstate(all="ignore"):
            found = OPS["Sigmoid"].run({"approximate": "none"}, {}, x)
            expected = 1 / (1 + np.exp(-x.astype(np.longdouble)))
        np.testing.assert_allclose(found, expected.astype(dtype), 3e-7, limit)


def test_nan_stays_where_it_is():
    """In the element it came in, in every function and activation."""
    x = np.array([1.5, np.nan, 0.25], F)
    for name in GENERIC:
        op = GENERIC[name]
        missing = ... in op.attributes.values()
        if op.arity == (1, 1) and not missing and op.dimensions is spreading and name not in ("IsNaN", "IsInf"):
            try:
                (value,) = op.infer(op.attributes, [Value("float", (3,))])
            except SpecError:
                continue
            with np.errstate(all="ignore"):
                found = op.run(op.attributes, {}, x)
            assert value.shape == (3,) and np.isnan(found[1]), name
            assert not np.isnan(found[2]) or name == "Acosh", name


def test_the_package_lists_its_ops_by_name():
    assert list(rnncore.ops.OPS) == [op.name for family in rnncore.ops.FAMILIES for op in family.OPS]
    assert len(set(itertools.chain(OPS))) == len(OPS)


# --- what a Model settles before it runs ---------------------------------------------------------------------------

BOUND = [
    ("Unsqueeze", {"axes": (-1, 0)}, (3, 2)),
    ("Unsqueeze", {"axes": (-2,)}, ()),
    ("Squeeze", {"axes": (-1, 0)}, (1, 3, 1)),
    ("Transpose", {"perm": (2, 0, 1)}, (2, 3, 4)),
    ("Transpose", {"perm": None}, (2, 3)),
    ("Gather", {"indices": -2, "axis": -1}, (2, 3)),
    ("Gather", {"indices": (1, 0, 1), "axis": 1}, (2, 3, 2)),
    ("Slice", {"starts": (1,), "ends": (-1,), "axes": (-2,), "steps": (1,)}, (2, 5, 3)),
    ("Reshape", {"shape": (0, -1), "allowzero": False}, (2, 3, 4)),
    ("ReduceMean", {"axes": (-1,), "keepdims": False}, (2, 3, 1)),
    ("ReduceMean", {"axes": (0, 2), "keepdims": True}, (2, 3, 4)),
    ("ReduceMax", {"axes": (1,), "keepdims": False}, (2, 3)),
    ("Relu", {}, (2, 3)),
    ("Sigmoid", {}, (2, 3)),
    ("Sigmoid", {}, ()),
    ("Sigmoid", {}, (3, 700)),
    ("LeakyRelu", {"alpha": 0.3}, (4,)),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, (4,)),
]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("case", BOUND, ids=[f"{name} {given} {shape}" for name, given, shape in BOUND])
def test_what_is_settled_changes_nothing(case, dtype):
    name, given, shape = case
    op = OPS[name]
    attributes = {**op.attributes, **given}
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    x.flat[:1] = -0.0
    value = Value("float16" if dtype == "float16" else "float", tuple("ABCD"[: len(shape)]))
    run = op.compiled(attributes, {}, 1, np.dtype(dtype), [value])
    found, expected = np.asarray(run(x)), np.asarray(op.run(attributes, {}, x))
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", sorted(OPS))
def test_no_op_writes_to_its_inputs(op, dtype):
    """Packed, bound, and as it is."""
    attributes, arrays = every_op.example(op)
    spec, _ = every_op.spec_of(op, attributes, arrays)
    weights = {name: array.astype(dtype) if array.dtype.kind == "f" else array
               for name, array in every_op.weights_of(spec).items()}  # fmt: skip
    node = spec.nodes[-1]
    own = {name.removeprefix(f"{node.name}."): array for name, array in weights.items()}
    for array in own.values():
        array.flags.writeable = False
    given = [array.astype(dtype) if array is not None and array.dtype == np.float32 else array for array in arrays]
    given = [array if array is None else np.array(array) for array in given]
    before = [array if array is None else array.copy() for array in given]
    for array in given:
        if array is not None:
            array.flags.writeable = False
    values = [spec.values[name] if name else None for name in node.inputs]
    found = dict(node.attributes) | {"floating": np.dtype(dtype)}
    with np.errstate(all="ignore"):
        OPS[op].compiled(node.attributes, own, 1, np.dtype(dtype), values)(*given)
        OPS[op].run(found, own, *given)
    for array, kept in zip(given, before, strict=True):
        assert array is None or array.tobytes() == kept.tobytes()


def test_bounded():
    given = {"axis": -2, "least": 3, "most": 5, "reason": "net.py:7: a branch"}
    assert infer("Bounded", given, ("B", "T", 3))[0] == Value("float", ("B", "T", 3))
    for size, says in ((2, "size 2 of axis -2, expected 3 to 5 (net.py:7: a branch)"), (6, "size 6 of axis")):
        with pytest.raises(SpecError, match=re.escape(says)):
            infer("Bounded", given, ("B", size, 3))
        with pytest.raises(InputError, match=re.escape(says)):
            OPS["Bounded"].run({**OPS["Bounded"].attributes, **given}, {}, np.zeros((1, size, 3)))
    for wrong, says in (({"axis": 3}, "axis=3"), ({"axis": 0, "least": 4, "most": 3}, "most=3, expected at least")):
        with pytest.raises(SpecError, match=says):
            infer("Bounded", wrong, ("B", "T", 3))
    with pytest.raises(SpecError, match="least"):
        Node("n", "Bounded", ("x",), {"axis": 0, "least": -1})


def test_few_numbers_have_the_bits_of_many():
    x = np.random.default_rng(0).standard_normal(5000).astype(F) * 8
    for name in ("Sigmoid", "ReduceMean"):
        op = OPS[name]
        attributes = {**op.attributes, **({"axes": (1,)} if name == "ReduceMean" else {})}
        whole = op.run(attributes, {}, x[:, None])
        parts = [op.run(attributes, {}, x[at : at + 500, None]) for at in range(0, 5000, 500)]
        assert np.array_equal(np.concatenate(parts), whole)


def test_sizes_are_not_settled():
    """An axis that is 1 as it was declared may be larger in a Loop's body; what does not fit is refused as ever."""
    run = OPS["Squeeze"].compiled({"axes": (0,)}, {}, 1, F, [Value("float", (1, 3))])
    with pytest.raises(ValueError, match="size not equal to one"):
        run(np.zeros((2, 3), F))
    spec = Spec([Input("x", "float", ("B", "T"))], [Node("y", "Squeeze", "x", {"axes": (0,)})], ["y"])
    with pytest.raises(InputError, match=r"node 'y' \(Squeeze\): inputs of shape \(2, 3\)"):
        Model(spec, {}).run({"x": np.zeros((2, 3))})


@pytest.mark.parametrize("op", ["Min", "Max", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic_ops_of_any_count(op, count):
    """Of one value too, whether its content is followed (the sizes of a Shape) or not."""
    x = np.arange(6, dtype=F).reshape(2, 3)
    spec, found = run_spec([Node("y", op, ["x"] * count)], ["y"], x=(("B", 3), x))
    np.testing.assert_array_equal(found["y"], x * count if op == "Sum" else x)
    if op in ("Min", "Max"):
        nodes = [Node("shape", "Shape", "x"), Node("y", op, ["shape"] * count), Node("z", "Expand", ("x", "y"))]
        spec, found = run_spec(nodes, ["y", "z"], x=((2, 3), x))
        assert spec.values["z"].shape == (2, 3)
        np.testing.assert_array_equal(found["y"], [2, 3])
