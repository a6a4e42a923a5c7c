"""Passes: the network that comes out computes what went in, with less work, under the same names."""

import numpy as np
import pytest
from large_graphs import GRAPHS, weights_of
from random_networks import random_network

from rnncore import Control, Input, Model, Node, Recurrent, Spec, passes
from rnncore.cells import LSTM
from rnncore.passes import simplify

RNG = np.random.default_rng(7)


def constant(name, array):
    array = np.asarray(array)
    dtype = "float" if array.dtype.kind == "f" else array.dtype.name
    return Node(name, "Constant", (), {"dtype": dtype, "shape": array.shape}), {f"{name}.value": array}


def network(inputs, nodes, outputs):
    """A Spec and its arrays; members of nodes are Nodes or what ``constant`` gives."""
    arrays, plain = {}, []
    for node in nodes:
        if isinstance(node, tuple):
            node, given = node
            arrays.update(given)
        plain.append(node)
    spec = Spec(inputs, plain, outputs)
    for name, shape in spec.weight_shapes().items():
        arrays.setdefault(name, RNG.standard_normal(shape).astype(np.float32) * 0.3)
    return spec, arrays


def ops(spec):
    return [getattr(node, "op", node.kind if hasattr(node, "kind") else "") for node in spec.nodes]


def check_equal(spec, arrays, given, tolerance=1e-6):
    """The simplified network: same inputs, outputs and numbers. Returns it."""
    simple, left, notes = simplify(spec, arrays)
    assert simple.inputs == spec.inputs and simple.outputs == spec.outputs
    expected, found = Model(spec, arrays).run(given), Model(simple, left).run(given)
    for name in spec.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance)
    return simple, left, notes


def test_affine_ops_go_into_the_linear_layer_before_them():
    spec, arrays = network(
        [Input("x", "float", ("B", "T", 4))],
        [
            Node("linear", "Linear", "x", {"input_size": 4, "output_size": 3, "bias": False}),
            constant("scale", RNG.standard_normal(3).astype(np.float32)),
            Node("scaled", "Mul", ("scale", "linear")),
            constant("shift", RNG.standard_normal((1, 1, 3)).astype(np.float32)),
            Node("shifted", "Add", ("scaled", "shift")),
            Node("y", "Relu", "shifted"),
        ],
        ["y"],
    )
    x = RNG.standard_normal((2, 5, 4)).astype(np.float32)
    simple, left, notes = check_equal(spec, arrays, {"x": x})
    assert ops(simple) == ["Linear", "Relu"]
    assert simple.nodes[0].attributes["bias"] and set(left) == {"linear.weight", "linear.bias"}
    assert any("folded Mul" in note for note in notes)


@pytest.mark.parametrize("shape", [(2, 1), (5, 3), (2, 5, 3)])
def test_what_differs_from_step_to_step_is_not_folded(shape):
    spec, arrays = network(
        [Input("x", "float", ("B", 5, 4))],
        [
            Node("linear", "Linear", "x", {"input_size": 4, "output_size": 3}),
            constant("scale", RNG.standard_normal(shape if shape != (2, 1) else (5, 1)).astype(np.float32)),
            Node("y", "Mul", ("linear", "scale")),
            Node("z", "Relu", "y"),
        ],
        ["z"],
    )
    x = RNG.standard_normal((2, 5, 4)).astype(np.float32)
    simple, _, _ = check_equal(spec, arrays, {"x": x})
    assert "Mul" in ops(simple)


def test_a_product_that_something_else_reads_stays():
    spec, arrays = network(
        [Input("x", "float", ("B", 4))],
        [
            Node("linear", "Linear", "x", {"input_size": 4, "output_size": 3}),
            constant("scale", np.float32(2.0)),
            Node("y", "Mul", ("linear", "scale")),
            Node("z", "Add", ("y", "linear")),
        ],
        ["z"],
    )
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    assert "Mul" in ops(check_equal(spec, arrays, {"x": x})[0])


def test_transposes_around_time_first_layers_disappear():
    spec, arrays = network(
        [Input("x", "float", ("B", "T", 4))],
        [
            Node("swap", "Transpose", "x", {"perm": (1, 0, 2)}),
            Recurrent("one", LSTM(4, 5), "swap", layout="time_first", lengths=None),
            Recurrent("two", LSTM(5, 6), "one", layout="time_first", lengths=None),
            Node("back", "Transpose", "two", {"perm": (1, 0, 2)}),
            Node("y", "Tanh", "back"),
        ],
        ["y", "two.last"],
    )
    x = RNG.standard_normal((3, 7, 4)).astype(np.float32)
    simple, _, notes = check_equal(spec, arrays, {"x": x}, 0)
    assert ops(simple) == ["Recurrent", "Recurrent", "Tanh"]
    assert [node.layout for node in simple.recurrent] == ["batch_first", "batch_first"]
    assert any("turned recurrent layers" in note for note in notes)


def test_a_layer_whose_sequence_is_an_output_keeps_its_layout():
    spec, arrays = network(
        [Input("x", "float", ("B", "T", 4))],
        [
            Node("swap", "Transpose", "x", {"perm": (1, 0, 2)}),
            Recurrent("one", LSTM(4, 5), "swap", layout="time_first", lengths=None),
        ],
        ["one"],
    )
    x = RNG.standard_normal((3, 7, 4)).astype(np.float32)
    assert ops(check_equal(spec, arrays, {"x": x}, 0)[0]) == ["Transpose", "Recurrent"]


def test_constants_are_computed_once_and_parameters_become_attributes():
    spec, arrays = network(
        [Input("x", "float", ("B", 6))],
        [
            constant("a", np.float32([1, 2, 3, 4, 5, 6])),
            constant("b", np.float32(0.5)),
            Node("product", "Mul", ("a", "b")),
            Node("y", "Add", ("x", "product")),
            Node("unused", "Relu", "product"),
        ],
        ["y"],
    )
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    simple, left, notes = check_equal(spec, arrays, {"x": x}, 0)
    assert ops(simple) == ["Constant", "Add"]
    assert left["product.value"].tolist() == [0.5, 1, 1.5, 2, 2.5, 3]
    assert any("folded constants" in note for note in notes) and any("nothing reads" in note for note in notes)


def test_a_network_without_anything_to_do_comes_back_as_it_is():
    spec, arrays = network([Input("x", "float", ("B", "T", 4))], [Recurrent("lstm", LSTM(4, 5), "x")], ["lstm"])
    simple, left, notes = simplify(spec, arrays)
    assert simple == spec and set(left) == set(arrays) and notes == ()


def conv(name, source, channels=(2, 3), **attributes):
    sizes = {"input_size": channels[0], "output_size": channels[1], "kernel_shape": (3,), "bias": True}
    return Node(name, "Conv", source, {**sizes, **attributes})


def test_relu_becomes_the_activation_of_a_convolution():
    """Behind what is folded into it first; in both dtypes."""
    spec, arrays = network(
        [Input("x", "float", ("B", 2, "T"))],
        [
            conv("c", "x"),
            constant("scale", RNG.standard_normal((3, 1)).astype(np.float32)),
            Node("scaled", "Mul", ("c", "scale")),
            Node("r", "Relu", "scaled"),
            conv("d", "r", (3, 2)),
            Node("r2", "Relu", "d"),
            Node("y", "Neg", "r2"),
        ],
        ["y"],
    )
    x = RNG.standard_normal((2, 2, 9)).astype(np.float32)
    simple, left, notes = check_equal(spec, arrays, {"x": x})
    assert ops(simple) == ["Conv", "Conv", "Neg"]
    assert [node.attributes["activation"] for node in simple.nodes[:2]] == ["Relu", "Relu"]
    assert "made Relu the activation of a Conv (2)" in notes
    wide = {"x": x.astype(np.float64)}
    expected, found = Model(spec, arrays, "float64").run(wide), Model(simple, left, "float64").run(wide)
    np.testing.assert_allclose(found["y"], expected["y"], rtol=1e-6, atol=1e-6)  # scales are stored in float32


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([conv("c", "x"), Node("r", "Relu", "c"), Node("y", "Add", ("c", "r"))], ["y"]),
        ([conv("c", "x"), Node("r", "Relu", "c"), Node("y", "Neg", "r")], ["y", "c"]),
        ([conv("c", "x"), Node("y", "Relu", "c")], ["y"]),
    ],
)
def test_relu_stays_where_something_else_is_read(nodes, outputs):
    spec, arrays = network([Input("x", "float", ("B", 2, "T"))], nodes, outputs)
    simple, _, _ = check_equal(spec, arrays, {"x": RNG.standard_normal((2, 2, 9)).astype(np.float32)})
    assert ops(simple) == ops(spec)


def test_what_follows_a_fused_relu_is_not_folded_before_it():
    """relu(c) * -1 is not relu(-c); and a second Relu is left alone."""
    spec, arrays = network(
        [Input("x", "float", ("B", 2, "T"))],
        [
            conv("c", "x"),
            Node("r", "Relu", "c"),
            constant("scale", np.float32(-1)),
            Node("s", "Mul", ("r", "scale")),
            Node("r2", "Relu", "s"),
            Node("y", "Add", ("r2", "s")),
        ],
        ["y"],
    )
    simple, _, _ = check_equal(spec, arrays, {"x": RNG.standard_normal((2, 2, 9)).astype(np.float32)})
    assert ops(simple) == ["Conv", "Constant", "Mul", "Relu", "Add"]


def test_swish_in_parts_is_joined():
    """In both orders, but not where the sigmoid is of something else or is read once more."""
    spec, arrays = network(
        [Input("x", "float", ("B", 3)), Input("z", "float", ("B", 3))],
        [
            *(Node(f"s{place}", "Sigmoid", "x") for place in range(4)),
            Node("first", "Mul", ("x", "s0")),
            Node("second", "Mul", ("s1", "x")),
            Node("other", "Mul", ("z", "s2")),
            Node("twice", "Mul", ("x", "s3")),
            Node("again", "Add", ("s3", "x")),
        ],
        ["first", "second", "other", "twice", "again"],
    )
    x = np.array([[-200, -1, 0], [0.5, 3, 90]], np.float32)
    simple, _, notes = check_equal(spec, arrays, {"x": x, "z": x[::-1].copy()})
    assert ops(simple) == ["Sigmoid", "Sigmoid", "Swish", "Swish", "Mul", "Mul", "Add"]
    assert "joined x * sigmoid(x) (2)" in notes


def quantizing(nodes, outputs, more=()):
    inputs = [Input("x", "float", ("B", 6)), *more]
    return simplify(Spec(inputs, nodes, outputs), {})


def approximations(spec):
    return {node.name: node.attributes["approximate"] for node in spec.nodes if node.op in ("Sigmoid", "Tanh", "Swish")}


def test_activations_before_a_quantization_are_rounded_as_onnxruntime_does():
    nodes = [
        Node("s", "Sigmoid", "x"),
        Node("t", "Tanh", "x"),
        Node("e", "Exp", "t"),
        Node("a", "Sigmoid", "x"),
        Node("w", "Mul", ("x", "a")),
        Node("sum", "Sum", ("s", "e", "w")),
        Node("q", "DynamicQuantizeLinear", "sum"),
        Node("back", "DequantizeLinear", ("q", "q.scale", "q.zero_point")),
        Node("after", "Sigmoid", "back"),
        Node("beside", "Tanh", "sum"),
    ]
    spec, _, notes = quantizing(nodes, ["after", "beside"])
    expected = {"s": "rational", "t": "rational", "w": "rational", "after": "none", "beside": "none"}
    assert approximations(spec) == expected
    assert sum("before a quantization" in note for note in notes) == 3
    again, _, notes = simplify(spec, {})
    assert again == spec and not notes
    assert Spec.from_json(spec.to_json()) == spec


def test_activations_in_branches_before_a_quantization():
    """Of an If whose output is quantized behind it; of a Loop that quantizes what its last step gave."""
    entry = Input("x", "float", ("B", 6))
    branches = [Spec([entry], [Node("y", op, "x")], ["y"]) for op in ("Tanh", "Sigmoid")]
    choice = Control("if", "If", ("c", "x"), branches, captures=("x",))
    condition = Input("c", "bool", ())
    spec, _, _ = quantizing([choice, Node("q", "DynamicQuantizeLinear", "if")], ["q"], [condition])
    assert [approximations(branch) for branch in spec.nodes[0].branches] == [{"y": "rational"}] * 2
    spec, _, _ = quantizing([choice, Node("y", "Neg", "if")], ["y"], [condition])
    assert [approximations(branch) for branch in spec.nodes[0].branches] == [{"y": "none"}] * 2

    body = Spec(
        [Input("i", "int64", ()), Input("go", "bool", ()), entry],
        [
            Node("q", "DynamicQuantizeLinear", "x"),
            Node("back", "DequantizeLinear", ("q", "q.scale", "q.zero_point")),
            Node("y", "Tanh", "back"),
            Node("on", "Identity", "go"),
        ],
        ["on", "y"],
    )
    loop = Control("loop", "Loop", ("n", "", "s"), [body])
    nodes = [Node("s", "Sigmoid", "x"), loop, Node("end", "Sigmoid", "loop")]
    spec, _, _ = quantizing(nodes, ["end"], [Input("n", "int64", ())])
    (loop,) = [node for node in spec.nodes if isinstance(node, Control)]
    assert approximations(loop.branches[0]) == {"y": "rational"}
    assert {node.name: node.attributes["approximate"] for node in spec.nodes if node.op == "Sigmoid"} == {
        "s": "rational",
        "end": "none",
    }


def branch(inputs, scale):
    """A branch with a weight and a recurrent layer of its own."""
    nodes = [
        Node("scaled", "Linear", "outer.x", {"input_size": 4, "output_size": 4}),
        Recurrent("lstm", LSTM(4, 3), "scaled"),
        Node("more", "Mul", ("lstm", "lstm")) if scale else Node("more", "Neg", "lstm"),
    ]
    return Spec(inputs, nodes, ["more", "lstm.h"])


@pytest.mark.parametrize("condition", [True, False])
def test_an_if_that_always_goes_one_way_is_its_branch(condition):
    inner = [Input("outer.x", "float", ("B", "T", 4))]
    spec, arrays = network(
        [Input("x", "float", ("B", "T", 4))],
        [
            constant("condition", np.array(condition)),
            Control("if", "If", ("condition", "x"), (branch(inner, True), branch(inner, False)), ("outer.x",)),
            Node("y", "Relu", "if"),
        ],
        ["y", "if.1"],
    )
    x = RNG.standard_normal((2, 5, 4)).astype(np.float32)
    simple, left, notes = check_equal(spec, arrays, {"x": x}, 0)
    assert not any(isinstance(node, Control) for node in simple.nodes) and len(simple.recurrent) == 1
    assert "took the only branch of If (1)" in notes
    label, other = ("then", "else") if condition else ("else", "then")
    assert f"if.{label}.lstm.weight_ih_l0" in left and not any(name.startswith(f"if.{other}.") for name in left)


def test_an_if_that_depends_on_an_input_stays():
    inner = [Input("outer.x", "float", ("B", "T", 4))]
    spec, arrays = network(
        [Input("x", "float", ("B", "T", 4)), Input("condition", "bool", ())],
        [Control("if", "If", ("condition", "x"), (branch(inner, True), branch(inner, False)), ("outer.x",))],
        ["if"],
    )
    assert ops(simplify(spec, arrays)[0]) == ["If"]


@pytest.mark.parametrize(
    ("attributes", "left_out"),
    [
        ({"starts": (0,), "ends": (1 << 62,), "axes": (1,)}, True),
        ({"starts": (0, 0), "ends": (1 << 62, 4), "axes": (0, 2)}, True),
        ({"starts": (0,), "ends": (3,), "axes": (2,)}, False),
        ({"starts": (1,), "ends": (1 << 62,), "axes": (1,)}, False),
        ({"starts": (0,), "ends": (7,), "axes": (1,)}, False),
        ({"starts": (-1,), "ends": (-(1 << 62),), "axes": (2,), "steps": (-1,)}, False),
    ],
)
def test_a_slice_of_everything_is_left_out(attributes, left_out):
    spec, arrays = network(
        [Input("x", "float", ("B", "T", 4))], [Node("s", "Slice", "x", attributes), Node("y", "Neg", "s")], ["y"]
    )
    x = RNG.standard_normal((2, 9, 4)).astype(np.float32)
    simple, _, _ = check_equal(spec, arrays, {"x": x}, 0)
    assert ("Slice" not in ops(simple)) == left_out


def test_axes_that_come_back_are_left_out():
    spec, arrays = network(
        [Input("x", "float", ("B", 1, 4)), Input("s", "float", (3, "B", 4)), Input("z", "float", ("B", 2))],
        [
            Node("flat", "Squeeze", "x", {"axes": (1,)}),
            Node("again", "Unsqueeze", "flat", {"axes": (-2,)}),
            Node("y", "Relu", "again"),
            Node("elsewhere", "Unsqueeze", "flat", {"axes": (0,)}),
            Node("other", "Relu", "elsewhere"),
            Node("last", "Gather", "s", {"indices": -1, "axis": 0}),
            Node("row", "Unsqueeze", "last", {"axes": (0,)}),
            Node("second", "Relu", "row"),
            Node("wide", "Unsqueeze", "z", {"axes": (0, -1)}),
            Node("narrow", "Squeeze", "wide", {"axes": (3, 0)}),
            Node("half", "Relu", "narrow"),
            Node("kept", "Squeeze", "wide", {"axes": (0,)}),
            Node("mean", "ReduceMean", "x", {"axes": (1,), "keepdims": False}),
            Node("sum", "ReduceSum", "x", {"axes": (2,), "keepdims": False}),
        ],
        ["y", "other", "second", "half", "kept", "mean", "sum"],
    )
    given = {"x": RNG.standard_normal((2, 1, 4)), "s": RNG.standard_normal((3, 2, 4)), "z": RNG.standard_normal((2, 2))}
    given = {name: array.astype(np.float32) for name, array in given.items()}
    simple, _, notes = check_equal(spec, arrays, given, tolerance=0)
    left = {node.name: (node.op, node.inputs) for node in simple.nodes}
    assert left["y"] == ("Relu", ("x",)) and left["half"] == ("Relu", ("z",))
    assert left["other"] == ("Relu", ("elsewhere",)) and left["kept"] == ("Squeeze", ("wide",))
    assert left["row"][0] == "Slice" and left["mean"][0] == "Squeeze" and left["sum"][0] == "ReduceSum"
    assert not {"again", "narrow", "last"} & set(left)
    assert "cancelled Squeeze and Unsqueeze (2)" in notes


def test_axes_whose_size_only_the_run_knows_stay():
    """Squeeze refuses what is not 1."""
    nodes = [Node("flat", "Squeeze", "x", {"axes": (1,)}), Node("y", "Unsqueeze", "flat", {"axes": (1,)})]
    spec, arrays = network([Input("x", "float", ("B", "T"))], [*nodes, Node("z", "Relu", "y")], ["z"])
    assert ops(simplify(spec, arrays)[0]) == ["Squeeze", "Unsqueeze", "Relu"]


def test_squares():
    spec, arrays = network(
        [Input("x", "float", ("B", 3)), Input("n", "int64", ("B",))],
        [
            constant("two", np.float32(2)),
            constant("whole", np.int64(2)),
            constant("three", np.float32(3)),
            constant("wide", np.full((1, 1, 1), 2, np.float32)),
            Node("a", "Pow", ("x", "two")),
            Node("b", "Pow", ("x", "three")),
            Node("c", "Pow", ("x", "wide")),
            Node("d", "Pow", ("n", "whole")),
        ],
        ["a", "b", "c", "d"],
    )
    given = {"x": RNG.standard_normal((2, 3)).astype(np.float32), "n": np.array([3, -4])}
    simple, _, _ = check_equal(spec, arrays, given, tolerance=0)
    assert [node.op for node in simple.nodes if node.name in "abcd"] == ["Mul", "Pow", "Pow", "Pow"]


@pytest.fixture(autouse=True)
def left_out(monkeypatch):
    """A pass that would be left out of a graph is tried all the same, and must change nothing. Gives their names."""
    changed, found = passes._changed, set()

    def tried(change):
        def apply(graph):
            needed, before = passes._has_work(change, graph.spec.kinds), graph.changes
            change(graph)
            if not needed:
                assert graph.changes == before, f"{change.__name__} has work among {sorted(graph.spec.kinds)}"
                found.add(change.__name__)

        return apply

    monkeypatch.setattr(passes, "_changed", lambda graph, wanted: changed(graph, list(map(tried, wanted))))
    return found


def test_passes_are_left_out_only_where_they_have_nothing_to_do(left_out):
    """Chains of every family of ops, and random recurrent networks."""
    for build in GRAPHS.values():
        spec = build(12)
        simplify(spec, weights_of(spec))
    for seed in range(20):
        network = random_network(seed)
        simplify(network.spec, network.weights)
    assert left_out == {change.__name__ for change in passes.NEEDS}
