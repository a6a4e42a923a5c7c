"""Control nodes (If, Loop, Scan), constants and values known before a run."""

import json
import pickle

import numpy as np
import pytest

from rnncore import Control, Input, InputError, Model, Node, Recurrent, Spec, SpecError, WeightError
from rnncore.cells import GRU
from rnncore.ops import UNKNOWN


def constant(name, value, dtype="float", shape=()):
    return Node(name, "Constant", (), {"dtype": dtype, "shape": shape, "value": value})


def number(name, dtype="float", shape=()):
    return Input(name, dtype, shape)


def scaled(factor):
    """x * factor"""
    return Spec([number("x", shape=("B", 3))], [constant("k", factor), Node("y", "Mul", ("x", "k"))], ["y"])


def test_if_takes_the_branch_of_its_condition():
    node = Control("if", "If", ("c", "x"), (scaled(2.0), scaled(-1.0)), ("x",))
    spec = Spec([number("c", "bool"), number("x", shape=("B", 3))], [node], ["if"])
    model = Model(spec, {})
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert np.array_equal(model.run({"c": np.array(True), "x": x})["if"], 2 * x)
    assert np.array_equal(model.run({"c": np.array(False), "x": x})["if"], -x)
    assert spec.values["if"].shape == ("B", 3)


def test_an_if_with_weights_and_a_recurrent_layer_survives_json_and_pickle():
    inner = Spec([Input("x", "float", ("B", "T", 3))], [Recurrent("gru", GRU(3, 4), "x")], ["gru.last"])
    other = Spec([Input("x", "float", ("B", "T", 3))], [Recurrent("gru", GRU(3, 4), "x")], ["gru.last"])
    node = Control("if", "If", ("c", "x"), (inner, other), ("x",))
    spec = Spec([number("c", "bool"), Input("x", "float", ("B", "T", 3))], [node], ["if"])
    assert Spec.from_json(json.dumps(spec.to_json())) == spec
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}
    assert {name.split(".")[1] for name in weights} == {"then", "else"}
    model = Model(spec, weights)
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    for truth, label in ((True, "then"), (False, "else")):
        alone = {name.split(".", 2)[2]: array for name, array in weights.items() if name.split(".")[1] == label}
        expected = Model(inner, alone)(x)
        found = pickle.loads(pickle.dumps(model)).run({"c": np.array(truth), "x": x})["if"]
        assert np.array_equal(found, expected)


def body_of_sums():
    """s += i; collects s"""
    return Spec(
        [number("i", "int64"), number("go", "bool"), number("s", "int64"), number("limit", "int64")],
        [Node("t", "Add", ("s", "i")), Node("reached", "Equal", ("t", "limit")), Node("on", "Not", ("reached",))],
        ["on", "t", "t"],
    )


@pytest.mark.parametrize(("trips", "limit", "expected"), [(5, 99, [0, 1, 3, 6, 10]), (9, 3, [0, 1, 3]), (0, 1, [])])
def test_loop_stops_at_the_trip_count_or_the_condition(trips, limit, expected):
    node = Control("loop", "Loop", ("m", "", "s", "limit"), (body_of_sums(),), ("limit",))
    spec = Spec([number("m", "int64"), number("s", "int64"), number("limit", "int64")], [node], ["loop", "loop.1"])
    found = Model(spec, {}).run({"m": np.array(trips), "s": np.array(0), "limit": np.array(limit)})
    assert found["loop.1"].tolist() == expected and found["loop.1"].dtype == np.int64
    assert found["loop"] == (expected[-1] if expected else 0)
    assert spec.values["loop.1"].shape == ("?",)


def test_scan_is_a_loop_over_an_axis_in_either_direction():
    body = Spec(
        [Input("s", "float", ("B",)), Input("x", "float", ("B",))],
        [Node("t", "Add", ("s", "x"))],
        ["t", "t"],
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    inputs = [Input("s", "float", ("B",)), Input("x", "float", ("B", "T"))]
    for backward in (False, True):
        node = Control("scan", "Scan", ("s", "x"), (body,), (), 1, (1,), (1,), (backward,), (backward,))
        spec = Spec(inputs, [node], ["scan", "scan.1"])
        found = Model(spec, {}).run({"s": np.ones(2, np.float32), "x": x})
        expected = 1 + (np.cumsum(x[:, ::-1], 1)[:, ::-1] if backward else np.cumsum(x, 1))
        assert np.array_equal(found["scan.1"], expected)
        assert np.array_equal(found["scan"], 1 + x.sum(1))
        assert spec.values["scan.1"].shape == ("B", "T")


def test_a_loop_without_end_is_an_error(monkeypatch):
    from rnncore.runtime import control_flow as control

    monkeypatch.setattr(control, "MAX_STEPS", 50)
    body = Spec([number("i", "int64"), number("go", "bool"), number("s")], [Node("t", "Relu", ("s",))], ["go", "t"])
    spec = Spec([number("x")], [Control("loop", "Loop", ("", "", "x"), (body,))], ["loop"])
    with pytest.raises(InputError, match="no end after 50 steps"):
        Model(spec, {}).run({"x": np.array(1, np.float32)})


def test_what_does_not_fit_is_refused_by_name():
    x = number("x", shape=("B", 3))
    inputs = [number("c", "bool"), x]
    ints = Spec([x], [Node("z", "Equal", ("x", "x"))], ["z"])
    cases = {
        "one dtype and rank": Control("if", "If", ("c", "x"), (scaled(1.0), ints), ("x",)),
        "expected bool": Control("if", "If", ("x", "x"), (scaled(1.0), scaled(1.0)), ("x",)),
        "then's input": Control("if", "If", ("c", "c"), (scaled(1.0), scaled(1.0)), ("x",)),
    }
    for message, node in cases.items():
        with pytest.raises(SpecError, match=message):
            Spec(inputs, [node], ["if"])
    with pytest.raises(SpecError, match="branches"):
        Control("if", "If", ("c", "x"), (scaled(1.0),), ("x",))
    with pytest.raises(SpecError, match="captures"):
        Control("if", "If", ("c",), (scaled(1.0), scaled(1.0)))
    nested = scaled(1.0)
    with pytest.raises(SpecError, match="nested"):
        for _depth in range(6):
            node = Control("if", "If", ("c", "c", "x"), (nested, nested), ("c", "x"))
            nested = Spec(inputs[::-1], [node], ["if"])


def test_constants_keep_their_dtype_and_are_never_an_outputs_memory():
    spec = Spec(
        [Input("x", "float", ("B", 2))],
        [
            Node("c", "Constant", (), {"dtype": "int64", "shape": (2,)}),
            constant("f", (0.5, 1.5), shape=(2,)),
            Node("y", "Add", ("x", "f")),
        ],
        ["y", "c", "f"],
    )
    assert spec.weight_dtypes() == {"c.value": "int64"}
    model = Model(spec, {"c.value": np.array([3, 4])}, "float64")
    first = model.run({"x": np.zeros((1, 2))})
    assert first["c"].dtype == np.int64 and first["f"].dtype == np.float64
    first["c"][:] = 9
    first["f"][:] = 9
    assert model.run({"x": np.zeros((1, 2))})["c"].tolist() == [3, 4]
    assert model.run({"x": np.zeros((1, 2))})["y"].tolist() == [[0.5, 1.5]]
    with pytest.raises(WeightError, match="expected int64"):
        Model(spec, {"c.value": np.array([3.0, 4.0])})
    with pytest.raises(SpecError, match="expected numbers from -128 to 127"):
        Spec([], [constant("c", (1, 300), "int8", (2,))], ["c"])
    with pytest.raises(SpecError, match="expected 2 numbers"):
        Spec([], [constant("c", (1,), "int64", (2,))], ["c"])


def test_ids_that_a_node_made_stay_while_a_folded_embedding_needs_them():
    spec = Spec(
        [Input("a", "int64", ("B", "T")), Input("b", "int64", ("B", "T"))],
        [
            Node("ids", "Add", ("a", "b")),
            Node("embedding", "Embedding", ("ids",), {"input_size": 5, "output_size": 3}),
            Node("unrelated", "Add", ("a", "a")),
            Recurrent("gru", GRU(3, 4), "embedding"),
        ],
        ["gru", "unrelated"],
    )
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}
    given = {"a": np.array([[0, 1, 2]]), "b": np.array([[1, 1, 2]])}
    folded, plain = Model(spec, weights).run(given), Model(spec, weights, fold_bytes=0).run(given)
    assert np.array_equal(folded["gru"], plain["gru"])


# --- names of sizes --------------------------------------------------------------------------------------------------


def _branch(shape, nodes=(), outputs=("s",)):
    return Spec([Input("s", "float", shape)], nodes, outputs)


@pytest.mark.parametrize("shape", [("B", "T", 6), ("T", "B", 6), ("n", "m", 6), ("n", 2, 6), ("n", "n", 6)])
def test_a_branch_has_its_own_names_of_sizes(shape):
    """What If gives is declared by the sizes around it: ("B", 2, 6), whatever the branches call them."""
    side = _branch(shape)
    node = Control("y", "If", ["c", "x"], [side, side], captures=["s"])
    spec = Spec([Input("c", "bool", ()), Input("x", "float", ("B", 2, 6)), Input("z", "float", ("T",))], [node], ["y"])
    expected = (UNKNOWN, UNKNOWN, 6) if shape[0] == shape[1] else ("B", 2, 6)
    assert spec.values["y"].shape == expected
    x = np.zeros((2, 2, 6), np.float32)
    assert Model(spec, {}).run({"c": np.array(True), "x": x, "z": np.zeros(5, np.float32)})["y"].shape == x.shape


def test_a_carried_size_that_changes_has_no_name():
    """x grows in each turn of a Loop; y, of x's first size in a turn, then has another one than x had before."""
    grow = Node("longer", "Concat", ["s", "s"], {"axis": 0})
    inputs = [Input("i", "int64", ()), Input("c", "bool", ()), Input("s", "float", ("n",)), Input("t", "float", ("m",))]
    same = Node("same", "Abs", ["s"])
    body = Spec(inputs, [grow, same, Node("go", "Identity", ["c"])], ["go", "longer", "same"])
    node = Control("y", "Loop", ["count", "", "x", "x"], [body])
    spec = Spec([Input("count", "int64", ()), Input("x", "float", ("B",))], [node], list(node.names))
    assert [spec.values[name].shape for name in node.names] == [(UNKNOWN,), (UNKNOWN,)]
    found = Model(spec, {}).run({"count": np.array(3), "x": np.ones(2, np.float32)})
    assert [found[name].shape for name in node.names] == [(16,), (8,)]
