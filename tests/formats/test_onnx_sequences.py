"""Sequences of tensors, in graphs and in loops, beside ONNX Runtime; what is not followed is refused by name."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hostile_onnx import FLOAT, INT64, constant, graph_of, model_of, node, value
from onnx import TensorProto, helper

import rnncore
from rnncore.errors import FormatError, UnsupportedError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype(np.float32)
CUBE = RNG.normal(size=(2, 5, 3)).astype(np.float32)
NUMBERS = [constant(f"n{number}".replace("-", "m"), np.array(number)) for number in range(-4, 5)]
NUMBERS.append(constant("parts", np.array([1, 3, 1])))


def same_as_onnxruntime(tmp_path, model, *arrays):
    """Both with each of the arrays as x."""
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    loaded = rnncore.load(path)
    for x in arrays:
        found = loaded.run({"x": x})
        for name, expected in zip(names, session.run(names, {"x": x}), strict=True):
            assert found[name].shape == expected.shape and found[name].dtype == expected.dtype
            np.testing.assert_allclose(found[name], expected, 1e-6, 1e-6)


GRAPHS = {
    "construct, at": [node("Neg", "x", "z"), node("SequenceConstruct", "x z", "s"), node("SequenceAt", "s n1")],
    "at from the end": [node("Neg", "x", "z"), node("SequenceConstruct", "x z", "s"), node("SequenceAt", "s nm2")],
    "insert, length": [
        node("SequenceEmpty", "", "e", dtype=FLOAT),
        node("SequenceInsert", "e x", "s"),
        node("SequenceInsert", "s x", "t"),
        node("SequenceLength", "t", "c"),
        node("Cast", "c", "f", to=FLOAT),
        node("Mul", "f x"),
    ],
    "insert at a place": [
        node("Neg", "x", "z"),
        node("SequenceConstruct", "x x", "s"),
        node("SequenceInsert", "s z n1", "t"),
        node("ConcatFromSequence", "t", axis=1),
    ],
    "insert from the end": [
        node("Neg", "x", "z"),
        node("SequenceConstruct", "x x", "s"),
        node("SequenceInsert", "s z nm1", "t"),
        node("ConcatFromSequence", "t", axis=-1),
    ],
    "erase": [
        node("Neg", "x", "z"),
        node("SequenceConstruct", "x z", "s"),
        node("SequenceErase", "s n0", "t"),
        node("ConcatFromSequence", "t", axis=0),
    ],
    "erase the last": [
        node("Neg", "x", "z"),
        node("SequenceConstruct", "x z", "s"),
        node("SequenceErase", "s", "t"),
        node("ConcatFromSequence", "t", axis=0),
    ],
    "stack": [
        node("Neg", "x", "z"),
        node("SequenceConstruct", "x z", "s"),
        node("ConcatFromSequence", "s", axis=1, new_axis=1),
    ],
    "stack last": [
        node("SequenceConstruct", "x x", "s"),
        node("ConcatFromSequence", "s", axis=-1, new_axis=1),
    ],
}


@pytest.mark.parametrize("name", GRAPHS)
def test_items(name, tmp_path):
    same_as_onnxruntime(tmp_path, model_of(*GRAPHS[name], constants=NUMBERS), X, X[:1])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("named", [True, False])
def test_split_by_ones(axis, keepdims, named, tmp_path):
    """One item back, by a constant and from the end; how many there are; all of them again."""
    nodes = [
        node("SplitToSequence", "x", "s", axis=axis, keepdims=keepdims),
        node("SequenceAt", "s n1", "one"),
        node("SequenceAt", "s nm2", "last"),
        node("SequenceLength", "s", "count"),
        node("ConcatFromSequence", "s", "all", axis=axis, new_axis=1 - keepdims),
    ]
    outputs = [value("one", None), value("last", None), value("count", None, INT64), value("all", None)]
    inputs = [value("x", ("A", "B", "C") if named else CUBE.shape)]
    model = model_of(*nodes, constants=NUMBERS, inputs=inputs, outputs=outputs)
    same_as_onnxruntime(tmp_path, model, CUBE, *([CUBE[:, :, :2], np.tile(CUBE, (2, 1, 1))] if named else []))


@pytest.mark.parametrize("split", ["n1", "n2", "parts"])
def test_split_by_sizes(split, tmp_path):
    nodes = [
        node("SplitToSequence", f"x {split}", "s", axis=1, keepdims=1),
        node("SequenceAt", "s n1", "one"),
        node("ConcatFromSequence", "s", "all", axis=1),
    ]
    outputs = [value("one", None), value("all", None)]
    model = model_of(*nodes, constants=NUMBERS, inputs=[value("x", ("B", 5, 3))], outputs=outputs)
    same_as_onnxruntime(tmp_path, model, CUBE, CUBE[:1])


def sequence(name):
    return helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)


def loop_of(*nodes, appended="new", carry=("h",), after=("sum",), sequences=1):
    """A Loop over the steps of x, axis 1, that appends in each; h is what it carries."""
    names = [f"s{place}" for place in range(sequences)]
    inputs = [value("i", (), INT64), value("go", (), TensorProto.BOOL), *(value(name, None) for name in carry)]
    outputs = [value("go_on", (), TensorProto.BOOL), *(value(name, None) for name in after)]
    ends = [node("SequenceInsert", f"{name} {appended}", f"{name}_after") for name in names]
    body = graph_of(
        *nodes,
        *ends,
        node("Identity", "go", "go_on"),
        inputs=[*inputs, *map(sequence, names)],
        outputs=[*outputs, *(sequence(f"{name}_after") for name in names)],
        name="body",
    )
    results = [*(f"{name}_end" for name in carry), *(f"{name}_end" for name in names)]
    starts = [*(f"{name}_0" for name in carry), *("empty" for _ in names)]
    return helper.make_node("Loop", ["steps", "yes", *starts], results, body=body)


BEFORE = [
    node("Shape", "x", "shape"),
    node("Gather", "shape n1", "steps"),
    helper.make_node("SequenceEmpty", [], ["empty"], dtype=FLOAT),
    node("ReduceMax", "x one_axis", "h_0", keepdims=0),
]
AROUND = [*NUMBERS, constant("yes", np.array(True)), constant("one_axis", np.array([1]))]
STEP = [node("Gather", "x i", "x_t", axis=1), node("Mul", "h x_t", "product"), node("Tanh", "product", "sum")]


@pytest.mark.parametrize("new_axis", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_loop_that_appends(axis, new_axis, tmp_path):
    """What exporters make of ``outputs.append(h)``: the steps beside each other, at any number of them."""
    loop = loop_of(*STEP, node("Neg", "sum", "new"))
    end = node("ConcatFromSequence", "s0_end", axis=axis, new_axis=new_axis)
    model = model_of(*BEFORE, loop, end, constants=AROUND, inputs=[value("x", ("B", "T", 3))])
    same_as_onnxruntime(tmp_path, model, CUBE, CUBE[:1, :1], np.tile(CUBE, (2, 3, 1)))


def test_a_loop_that_appends_what_it_carries_to_two_sequences(tmp_path):
    loop = loop_of(*STEP, appended="sum", sequences=2)
    ends = [
        node("ConcatFromSequence", "s0_end", "all", axis=1, new_axis=1),
        node("SequenceAt", "s1_end nm1", "last"),
        node("Add", "h_end last", "twice"),
    ]
    outputs = [value("all", None), value("twice", None)]
    model = model_of(*BEFORE, loop, *ends, constants=AROUND, inputs=[value("x", ("B", "T", 3))], outputs=outputs)
    same_as_onnxruntime(tmp_path, model, CUBE, CUBE[:1, :2])


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_loop_over_the_items_of_a_split(keepdims, tmp_path):
    split = node("SplitToSequence", "x", "items", axis=1, keepdims=keepdims)
    step = [node("SequenceAt", "items i", "x_t"), node("Reshape", "x_t flat", "row"), node("Mul", "h row", "sum")]
    loop = loop_of(*step, appended="sum")
    end = node("ConcatFromSequence", "s0_end", axis=1, new_axis=1)
    constants = [*AROUND, constant("flat", np.array([-1, 3]))]
    model = model_of(*BEFORE, split, loop, end, constants=constants, inputs=[value("x", ("B", "T", 3))])
    same_as_onnxruntime(tmp_path, model, CUBE, CUBE[:1])


def load(tmp_path, *nodes, **parts):
    parts = {"constants": AROUND, "inputs": [value("x", ("B", "T", 3))], **parts}
    onnx.save(model_of(*nodes, **parts), tmp_path / "model.onnx")
    return rnncore.load(tmp_path / "model.onnx")


ITEM = node("SequenceConstruct", "x x", "s")
STEPS = node("SplitToSequence", "x", "s", axis=1, keepdims=0)
REFUSED = {
    "a sequence as an output": ([ITEM, node("Identity", "s", "y")], "graph.output 'y': a sequence, expected a tensor"),
    "a tensor's op on it": ([ITEM, node("Relu", "s", "y")], "'s' is a sequence, expected a tensor"),
    "a place beyond its end": ([ITEM, node("SequenceAt", "s n2", "y")], "position 2, expected an integer from -2 to 1"),
    "a place before it": ([ITEM, node("SequenceErase", "s nm3", "t"), node("SequenceAt", "t n0")], "position -3"),
    "nothing beside each other": (
        [node("SequenceEmpty", "", "e"), node("ConcatFromSequence", "e", axis=0)],
        "a sequence without items",
    ),
    "a tensor in its place": ([node("SequenceAt", "x n0")], "its first input is a tensor, expected a sequence"),
    "more after steps": (
        [STEPS, node("SequenceInsert", "s x", "t"), node("SequenceAt", "t n0")],
        "a sequence whose length is only known when it runs",
    ),
    "an axis it has not": ([STEPS, node("ConcatFromSequence", "s", axis=2)], "axis=2, expected one from -2 to 1"),
    "two answers to whether the axis stays": (
        [node("SplitToSequence", "x n1", "s", axis=1, keepdims=0), node("SequenceAt", "s n0")],
        "keepdims=0 with a size of the parts",
    ),
    "unknown attribute": ([ITEM, node("SequenceAt", "s n0", order=1)], "attribute 'order' is not supported"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_followed_is_refused(name, tmp_path):
    nodes, says = REFUSED[name]
    with pytest.raises((UnsupportedError, FormatError)) as caught:
        load(tmp_path, *nodes)
    assert says in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (
            [node("SequenceLength", "s0", "c"), node("Cast", "c", "f", to=FLOAT), node("Mul", "f sum", "new")],
            "does more",
        ),
        ([node("SequenceInsert", "s0 sum", "t"), node("SequenceAt", "t n0", "new")], "does more"),
    ],
)
def test_loops_that_read_what_they_append_to_are_refused(step, says, tmp_path):
    with pytest.raises(UnsupportedError, match=rf"\(Loop\): {says} with the sequence 's0'"):
        load(tmp_path, *BEFORE, loop_of(*STEP, *step), node("ConcatFromSequence", "s0_end", axis=0))


def test_a_loop_whose_sequence_has_items_is_refused(tmp_path):
    before = [BEFORE[0], BEFORE[1], node("SequenceConstruct", "x", "empty"), BEFORE[3]]
    with pytest.raises(UnsupportedError, match="expected one that is empty at first"):
        load(tmp_path, *before, loop_of(*STEP, appended="sum"), node("ConcatFromSequence", "s0_end", axis=0))
