"""Graphs as exporters write them: shapes computed from shapes, zero states made of the batch, ops of every family."""

import numpy as np
import pytest
from stream_models import I, X, cuts, draw, equal, linear, make

from rnncore import AttentionDecoder, Input, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM
from rnncore.errors import RnncoreError, UnsupportedError


def list_of(name, *values):
    return Node(name, "Constant", (), {"value": list(values), "dtype": "int64", "shape": (len(values),)})


def check(spec, model=None):
    model = model or make(spec)
    rng = np.random.default_rng(0)
    x = draw(spec, rng, 3, 14)
    whole = model(x)
    for _ in range(3):
        stream = model.stream(3)
        found = np.concatenate([stream.feed(x[:, part]) for part in cuts(rng, 14)], axis=1)
        assert equal(found, whole)
    pool = model.pool(4)
    handles = [pool.open() for _ in range(3)]
    first = pool.step({handle: x[row, : 4 + row] for row, handle in enumerate(handles)})
    last = pool.step({handle: x[row, 4 + row :] for row, handle in enumerate(handles)})
    for row, handle in enumerate(handles):
        assert equal(np.concatenate((first[handle], last[handle])), whole[row])


def test_zero_states_made_of_the_batch():
    """PyTorch's exporter: Shape, Gather, Concat, ConstantOfShape (Expand) in front of the layer."""
    nodes = [
        Node("shape", "Shape", "x"),
        Node("batch", "Gather", "shape", {"indices": 0, "axis": 0}),
        Node("one", "Unsqueeze", "batch", {"axes": (0,)}),
        list_of("layers", 2),
        list_of("hidden", 6),
        Node("sizes", "Concat", ("layers", "one", "hidden"), {"axis": 0}),
        Node("zeros", "ConstantOfShape", "sizes"),
        Recurrent("r", LSTM(I, 6), "x", layers=2, initial=("zeros", "zeros"), lengths=None),
    ]
    check(Spec([X], nodes, ["r"]))


def test_reshape_by_computed_sizes():
    """(B, T, C) -> (B, T, 2, C / 2) -> ... by sizes that the graph takes from its input."""
    nodes = [
        linear("front", "x", I, 6),
        Node("shape", "Shape", "front"),
        Node("batch", "Gather", "shape", {"indices": [0], "axis": 0}),
        Node("steps", "Gather", "shape", {"indices": [1], "axis": 0}),
        list_of("heads", 2),
        list_of("width", 3),
        Node("sizes", "Concat", ("batch", "steps", "heads", "width"), {"axis": 0}),
        Node("apart", "Reshape", ("front", "sizes")),
        Node("turned", "Transpose", "apart", {"perm": (0, 1, 3, 2)}),
        list_of("rest", -1),
        Node("flat_sizes", "Concat", ("batch", "steps", "rest"), {"axis": 0}),
        Node("flat", "Reshape", ("turned", "flat_sizes")),
        Recurrent("r", LSTM(6, 6), "flat"),
    ]
    check(Spec([X], nodes, ["r"]))


def test_pointwise_ops_of_every_family():
    nodes = [
        Node("scale", "Constant", (), {"dtype": "float", "shape": (I,)}),
        Node("scaled", "Mul", ("x", "scale")),
        Node("bent", "Gelu", "scaled"),
        Node("part", "Slice", "bent", {"starts": (1,), "ends": (4,), "axes": (2,), "steps": (1,)}),
        Node("mean", "ReduceMean", "x", {"axes": (2,), "keepdims": True}),
        Node("clipped", "Clip", "mean", {"min": -1.0, "max": 1.0}),
        Node("both", "Concat", ("part", "clipped"), {"axis": -1}),
        Recurrent("r", LSTM(4, 6), "both"),
        Node("tops", "LeakyRelu", "r", {"alpha": 0.1}),
    ]
    check(Spec([X], nodes, ["tops"]))


REFUSED = {
    "steps counted": (
        [
            Node("shape", "Shape", "x"), Node("steps", "Gather", "shape", {"indices": 1, "axis": 0}),
            Node("number", "Cast", "steps", {"to": "float"}), Node("share", "Div", ("x", "number")),
        ], "node 'share' (Div)",
    ),
    "positions": (
        [
            Node("shape", "Shape", "x"), Node("steps", "Gather", "shape", {"indices": 1, "axis": 0}),
            Node("zero", "Constant", (), {"value": 0, "dtype": "int64"}),
            Node("one", "Constant", (), {"value": 1, "dtype": "int64"}),
            Node("share", "Range", ("zero", "steps", "one")),
        ], "node 'share' (Range)",
    ),
    "a sum over time": ([Node("share", "ReduceSum", "x", {"axes": (1,)})], "node 'share' (ReduceSum)"),
    "a sum over everything": ([Node("share", "ReduceSum", "x")], "node 'share' (ReduceSum)"),
    "a running sum from the end": (
        [Node("share", "CumSum", "x", {"axis": 1, "reverse": True})],
        "node 'share' (CumSum)",
    ),
    "steps against steps": (
        [Node("turned", "Transpose", "x", {"perm": (0, 2, 1)}), Node("share", "MatMul", ("x", "turned"))],
        "node 'share' (MatMul)",
    ),
    "sequences turned round": (
        [Node("share", "Slice", "x", {"starts": (-1,), "ends": (-(1 << 31),), "axes": (1,), "steps": (-1,)})],
        "node 'share' (Slice)",
    ),
    "the first step": ([Node("share", "Gather", "x", {"indices": 0, "axis": 1})], "node 'share' (Gather)"),
    "a mean over the batch": ([Node("share", "ReduceMean", "x", {"axes": (0,), "keepdims": True})], "'share'"),
    "a softmax of last outputs over the batch": (
        [Recurrent("r", LSTM(I, 3), "x"), Node("share", "Softmax", "r.last", {"axis": 0})], "node 'share' (Softmax)"
    ),
    "a mean of last outputs over the batch": (
        [Recurrent("r", LSTM(I, 3), "x"), Node("share", "ReduceMean", "r.last", {"axes": (0,)})],
        "node 'share' (ReduceMean)",
    ),
    "a softmax over the batch": ([Node("share", "Softmax", "x", {"axis": 0})], "node 'share' (Softmax)"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name(what):
    nodes, words = REFUSED[what]
    model = make(Spec([X], nodes, ["share"]))
    assert words in str(model.unstreamable), what


@pytest.mark.parametrize("op", ["Gather", "Slice"])
def test_the_last_step(op):
    attributes = {"indices": -1, "axis": 1}
    if op == "Slice":
        attributes = {"starts": (-1,), "ends": ((1 << 63) - 1,), "axes": (1,)}
    nodes = [Recurrent("r", LSTM(I, 6), "x"), Node("last", op, "r", attributes), linear("head", "last", 6, 2)]
    spec = Spec([X], nodes, ["head"])
    model = make(spec)
    x = draw(spec, np.random.default_rng(1), 2, 9)
    stream = model.stream(2)
    for part in (slice(4), slice(4, 4), slice(4, 9), slice(9, 9)):
        found = stream.feed(x[:, part])
        assert equal(found, model(x[:, : part.stop]))


@pytest.mark.parametrize("like", ["r", "x", "one"])
def test_a_dtype_is_taken_from_steps(like):
    """CastLike asks of its second input nothing but the dtype, whatever its axes."""
    one = Node("one", "Constant", (), {"value": [1.0], "dtype": "float", "shape": ()})
    check(Spec([X], [one, Recurrent("r", LSTM(I, 6), "x"), Node("out", "CastLike", ("r", like))], ["out"]))


UNARY = [("Identity", {}), ("Neg", {}), ("Abs", {}), ("Cast", {"to": "int32"}), ("Squeeze", {"axes": (0,)})]
BINARY = ["Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "Pow", "Equal"]
READERS = {
    "Reshape": [Node("sizes", "Concat", ("zero", "n", "rest"), {"axis": 0}), Node("out", "Reshape", ("x", "sizes"))],
    "Expand": [
        Node("sizes", "Concat", ("batch", "n", "one"), {"axis": 0}),
        Node("bias", "Linear", "ones", {"input_size": 1, "output_size": I}),
        Node("spread", "Expand", ("bias", "sizes")),
        Node("out", "Add", ("x", "spread")),
    ],
    "ConstantOfShape": [
        Node("sizes", "Concat", ("batch", "n", "one"), {"axis": 0}),
        Node("zeros", "ConstantOfShape", "sizes", {"value": 2.0}),
        Node("out", "Mul", ("x", "zeros")),
    ],
    "Slice": [Node("rows", "Slice", ("table", "zero", "n", "zero")), Node("out", "Add", ("x", "rows"))],
    "Slice of numbers": [
        Node("some", "Slice", ("x", "zero", "n", "two")),
        Node("out", "ReduceSum", "some", {"axes": (2,)}),
    ],
    "Tile": [Node("rows", "Tile", ("first", "n")), Node("out", "Mul", ("x", "rows"))],
    "Range": [
        Node("scalar", "Squeeze", "n"),
        Node("counts", "Range", ("nothing", "scalar", "step")),
        Node("numbers", "Cast", "counts", {"to": "float"}),
        Node("column", "Unsqueeze", "numbers", {"axes": (1,)}),
        Node("out", "Add", ("x", "column")),
    ],
    "Mul": [Node("number", "Cast", "n", {"to": "float"}), Node("out", "Mul", ("x", "number"))],
    "Gather": [Node("row", "Gather", ("table", "n"), {"axis": 0}), Node("out", "Add", ("x", "row"))],
}


@pytest.mark.parametrize("reader", READERS)
def test_numbers_made_of_the_length(reader):
    """Whatever is computed of the number of steps and whoever uses it: as the whole sequence has it, or refused."""
    streamed = 0
    forms = [(op, ("n0",), attributes) for op, attributes in UNARY]
    forms += [(op, names, {}) for op in BINARY for names in (("n0", "one"), ("n0", "two"), ("n0", "n0"), ("two", "n0"))]
    constants = {"zero": 0, "one": 1, "two": 2, "rest": -1}
    for op, names, attributes in forms:
        nodes = [*(list_of(name, value) for name, value in constants.items())]
        nodes += [
            Node(n, "Constant", (), {"value": [v], "dtype": "int64", "shape": ()})
            for n, v in (("nothing", 0), ("step", 1))
        ]
        nodes += [
            Node("ones", "Constant", (), {"value": [1.0], "dtype": "float", "shape": (1, 1, 1)}),
            Node("first", "Constant", (), {"value": [3.0], "dtype": "float", "shape": (1,)}),
            Node("table", "Constant", (), {"value": np.arange(40.0 * I).tolist(), "dtype": "float", "shape": (40, I)}),
            Node("shape", "Shape", "x"),
            Node("batch", "Gather", "shape", {"indices": [0], "axis": 0}),
            Node("n0", "Gather", "shape", {"indices": [1], "axis": 0}),
            Node("n", op, names, attributes),
            *READERS[reader],
        ]
        try:
            model = make(Spec([X], nodes, ["out"]))
            x = np.random.default_rng(1).standard_normal((1, 14, I)).astype(np.float32)
            whole = model(x)
            stream = model.stream(1)
        except RnncoreError:
            continue
        streamed += 1
        for parts in ((14,), (1,) * 14, (5, 9), (2, 3, 9)):
            ends = np.cumsum(parts)
            pieces = [stream.feed(x[:, end - part : end]) for part, end in zip(parts, ends, strict=True)]
            assert equal(np.concatenate(pieces, axis=1), whole), (op, names, parts)
            stream.reset()
    assert streamed >= (3 if reader in ("Reshape", "Expand", "ConstantOfShape") else 1)


def test_a_squeeze_of_all_axes_of_one_keeps_the_time():
    """A piece of one step, and a batch of one row, have an axis of size 1 more than the whole."""
    spec = Spec([Input("x", "float", ("B", "T", 1, I))], [Node("s", "Squeeze", "x"), Node("y", "Relu", "s")], ["y"])
    model = make(spec)
    x = np.random.default_rng(1).standard_normal((2, 6, 1, I)).astype(np.float32)
    stream = model.stream(2)
    parts = [stream.feed(x[:, part]) for part in (slice(0, 1), slice(1, 2), slice(2, 6))]
    assert equal(np.concatenate(parts, axis=1), model(x))
    assert equal(model.stream().feed(x[:1, :1]), model(x)[:1, :1])


def test_a_batch_of_one_that_a_squeeze_leaves_out():
    """The graph of any batch would keep it, so that each stream has one row."""
    spec = Spec([Input("x", "float", (1, "T", I))], [Node("r", "Relu", "x"), Node("y", "Squeeze", "r")], ["y"])
    model = make(spec)
    x = np.random.default_rng(1).standard_normal((1, 6, I)).astype(np.float32)
    stream = model.stream()
    assert equal(np.concatenate([stream.feed(x[:, :1]), stream.feed(x[:, 1:])]), model(x))


@pytest.mark.parametrize("op", ["Sinh", "Add"])
def test_a_number_that_does_not_depend_on_the_sequence(op):
    inputs = [Input("x", "float", ("B", "T", I)), Input("s", "float", ())]
    number = Node("number", op, ("s",) if op == "Sinh" else ("s", "s"))
    model = make(Spec(inputs, [Node("y", "Relu", "x"), number], ["y", "number"]))
    x = np.ones((2, 3, I), np.float32)
    found = model.stream(2, inputs={"s": np.float32(2)}).feed(x)
    for name, array in model.run({"x": x, "s": np.float32(2)}).items():
        assert equal(found[name], array)


def test_no_steps_have_the_sizes_of_what_is_given_once():
    """The weights of attention are as wide as the memory, when nothing waits at the end too."""
    node = AttentionDecoder(
        "d", GRU(I + 4, 6), "x", "memory", 4, "bahdanau", attention_size=3, order="before", layers=1
    )
    inputs = [Input("x", "float", ("B", "T", I)), Input("memory", "float", ("B", "S", 4))]
    model = make(Spec(inputs, [node], ["d", "d.weights"]))
    rng = np.random.default_rng(1)
    x, memory = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 5, I), (2, 7, 4)))
    whole, stream = model.run({"x": x, "memory": memory}), model.stream(2, inputs={"memory": memory})
    parts = [stream.feed(x[:, :2]), stream.feed(x[:, 2:2]), stream.feed(x[:, 2:]), stream.finish()]
    for name, array in whole.items():
        np.testing.assert_allclose(np.concatenate([part[name] for part in parts], axis=1), array, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "node, inputs, words",
    [
        (Node("n", "PRelu", ("x", "slope")), [Input("slope", "float", (4, 1))], "it needs the whole sequence"),
        (
            Node("n", "MaxPool", "x", {"kernel_shape": (2, 2), "indices": True}), [],
            "output 'n.indices' cannot be streamed: node 'n' (MaxPool) makes 'n.indices' of all rows of a batch",
        ),
        (
            Node("n", "Conv", "x", {"input_size": 2, "output_size": 2, "kernel_shape": (2, 1), "pads": (1, 0, 0, 0)}),
            [Input("z", "float", ("B", "T", I))],
            "node 'n' (Conv) cannot be streamed: it keeps steps of 'x', float (B, 2, T, N)",
        ),
        (
            Node("n", "Reshape", "x", {"shape": (-1, I)}), [Input("z", "float", ("B", "T", I))],
            "node 'n' (Reshape) cannot be streamed: it joins rows and steps into one axis",
        ),
    ],
    ids=["a slope for each step", "indices among all rows", "a third free size", "rows and steps together"],
)  # fmt: skip
def test_what_only_a_whole_sequence_has_is_refused_by_name(node, inputs, words):
    shapes = {"PRelu": ("B", "T", I), "MaxPool": ("B", "T", I, I), "Conv": ("B", 2, "T", "N"), "Reshape": ("B", "T", I)}
    layers = [
        Recurrent("r", GRU(I, 2), entry.name) for entry in inputs if "T" in entry.shape
    ]  # which says what time is
    spec = Spec(
        [Input("x", "float", shapes[node.op]), *inputs], [node, *layers], [*node.names, *(r.name for r in layers)]
    )
    model = make(spec)
    assert words in model.unstreamable
    with pytest.raises(UnsupportedError) as error:
        model.stream()
    assert str(error.value) == model.unstreamable
