"""Specs: to JSON and back, equality, pickling, and every refusal by type and place."""

import contextlib
import copy
import json
import pickle

import numpy as np
import pytest
from random_networks import random_cell, random_network, seeds

from rnncore.cells import CELLS, GRU, LSTM, RNN, Activation
from rnncore.errors import SpecError, WeightError
from rnncore.graph.nodes import Control, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights
from rnncore.ops import OPS

X = Input("x", "float", ("B", "T", 4))


def with_node(node, *inputs, outputs=None):
    return Spec([X, *inputs], [node], outputs or [node.name])


# --- what must come back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(100))
def test_json_round_trip(seed):
    spec = random_network(seed).spec
    text = json.dumps(spec.to_json())
    for again in (Spec.from_json(text), Spec.from_json(text.encode()), Spec.from_json(json.loads(text))):
        assert again == spec
        assert hash(again) == hash(spec)
        assert json.dumps(again.to_json()) == text
        assert again.values == spec.values
        assert list(again.weight_shapes().items()) == list(spec.weight_shapes().items())


@pytest.mark.parametrize("seed", seeds(100))
def test_pickle_and_copy(seed):
    spec = random_network(seed).spec
    for again in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), copy.copy(spec)):
        assert again == spec and hash(again) == hash(spec)
        assert again.values == spec.values


def test_different_seeds_are_different_specs():
    specs = [random_network(seed).spec for seed in range(50)]
    assert len(set(specs)) == 50
    assert all((a == b) == (i == j) for i, a in enumerate(specs) for j, b in enumerate(specs))


@pytest.mark.parametrize("kind", CELLS)
def test_every_option_of_a_cell_tells_two_specs_apart(kind):
    """An option that equality, hash or JSON forgot would load another network than was saved."""
    rng = np.random.default_rng(2)
    for _ in range(60):
        a, b = random_cell(rng, kind, 6, 8), random_cell(rng, kind, 6, 8)
        one, other = (
            with_node(Recurrent("r", cell, "x")) for cell in (a.replace(input_size=4), b.replace(input_size=4))
        )
        assert (one == other) == (vars(a) == vars(b)) == (one.to_json() == other.to_json())


def test_defaults_are_left_out_of_the_json():
    spec = with_node(Recurrent("r", LSTM(4, 3), "x"))
    assert spec.to_json()["nodes"] == [
        {"name": "r", "op": "Recurrent", "cell": {"kind": "LSTM", "input_size": 4, "hidden_size": 3}, "input": "x"}
    ]


def test_numpy_sizes_are_plain_numbers_in_json():
    spec = with_node(Recurrent("r", LSTM(np.int64(4), np.int32(3), clip=np.float32(0.5)), "x", layers=np.int64(2)))
    assert Spec.from_json(json.dumps(spec.to_json())) == spec


def test_specs_are_frozen():
    spec = random_network(3).spec
    node = Node("l", "Linear", "x", {"input_size": 4, "output_size": 2})
    for change in (
        lambda: setattr(spec, "outputs", ()),
        lambda: setattr(spec.nodes[0], "name", "b"),
        lambda: setattr(spec.inputs[0], "name", "b"),
        lambda: setattr(LSTM(4, 3), "hidden_size", 5),
        lambda: node.attributes.__setitem__("bias", False),
        lambda: spec.values.__setitem__("x", None),
    ):
        with pytest.raises((AttributeError, TypeError)):
            change()


def test_attributes_are_not_the_callers_dict():
    given = {"input_size": 4, "output_size": 2}
    node = Node("l", "Linear", "x", given)
    given["output_size"] = 3
    assert node.attributes["output_size"] == 2


def test_values_of_a_recurrent_node():
    spec = with_node(Recurrent("r", LSTM(4, 3, projection=2), "x", layers=2, direction="bidirectional"))
    assert {name: str(value) for name, value in spec.values.items()} == {
        "x": "float (B, T, 4)",
        "lengths": "int64 (B)",
        "r": "float (B, T, 4)",
        "r.last": "float (B, 4)",
        "r.h": "float (4, B, 2)",
        "r.c": "float (4, B, 3)",
    }
    node = Recurrent("r", LSTM(4, 3), "x", direction="bidirectional", merge="separate")
    assert list(Spec([X], [node], ["r.h"]).values) == ["x", "lengths", "r.forward", "r.reverse", "r.h", "r.c"]


def test_weight_shapes_of_a_recurrent_node():
    node = Recurrent("r", LSTM(4, 3, projection=2, peephole=True), "x", layers=2, trained_state=True)
    assert with_node(node).weight_shapes() == {
        "r.weight_ih_l0": (12, 4), "r.weight_hh_l0": (12, 2), "r.bias_l0": (12,), "r.peephole_l0": (9,),
        "r.weight_hr_l0": (2, 3),
        "r.weight_ih_l1": (12, 2), "r.weight_hh_l1": (12, 2), "r.bias_l1": (12,), "r.peephole_l1": (9,),
        "r.weight_hr_l1": (2, 3),
        "r.initial_h": (2, 2), "r.initial_c": (2, 3),
    }  # fmt: skip


def test_lengths_are_declared_once():
    cell = GRU(4, 4)
    spec = Spec([X], [Recurrent("a", cell, "x"), Recurrent("b", cell, "a")], ["b"])
    assert spec.inputs == (X, Input("lengths", "int64", ("B",), optional=True))
    assert Spec(spec.inputs, spec.nodes, spec.outputs) == spec
    assert with_node(Recurrent("a", cell, "x", lengths=None)).inputs == (X,)


# --- what is refused, from Python ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RNN(0, 3), "RNN: input_size=0, expected an integer from 1"),
        (lambda: RNN(3, -1), "RNN: hidden_size=-1"),
        (lambda: RNN(3, True), "RNN: hidden_size=True"),
        (lambda: RNN(3, 2.0), "RNN: hidden_size=2.0"),
        (lambda: RNN(3, 1 << 21), "RNN: hidden_size=2097152, expected an integer from 1 to 1048576"),
        (lambda: RNN(3, 2, bias=1), "RNN: bias=1, expected true or false"),
        (lambda: RNN(3, 2, clip=0.0), "RNN: clip=0.0, expected a finite number above 0"),
        (lambda: RNN(3, 2, clip=float("nan")), "RNN: clip=nan"),
        (lambda: RNN(3, 2, clip=10**400), "RNN: clip=1"),
        (lambda: RNN(3, 2, clip="1"), "RNN: clip='1'"),
        (lambda: RNN(3, 2, activations=("tanh", "tanh")), r"RNN: 2 activations, expected 1 \(h\)"),
        (lambda: RNN(3, 2, activations=5), "RNN: activations"),
        (lambda: GRU(3, 2, activations=("tanh",)), r"GRU: 1 activations, expected 3 \(r, z, n\)"),
        (lambda: GRU(3, 2, reset_after=None), "GRU: reset_after=None"),
        (lambda: LSTM(3, 2, activations=("hard_sigmoid",) * 5), "hard_sigmoid_fifth"),
        (lambda: LSTM(3, 2, coupled="output"), "LSTM: coupled='output', expected one of None, 'input', 'forget'"),
        (lambda: LSTM(3, 2, projection=3), "LSTM: projection=3, expected at most hidden_size=2"),
        (lambda: LSTM(3, 2, projection=-1), "LSTM: projection=-1"),
        (lambda: LSTM(3, 2, projection_bias=True), "LSTM: projection_bias and proj_clip need projection > 0"),
        (lambda: LSTM(3, 2, proj_clip=1.0), "LSTM: projection_bias and proj_clip need projection > 0"),
        (lambda: LSTM(3, 2, cell_clip=-1.0), "LSTM: cell_clip=-1.0"),
        (lambda: LSTM(3, 2, coupled="forget", forget_bias=1.0), "LSTM: forget_bias with coupled='forget'"),
        (lambda: LSTM(3, 2, layer_norm="keras"), "LSTM: layer_norm='keras', expected one of None, 'tf1', 'tflite'"),
        (lambda: LSTM(3, 2, layer_norm="tf1", peephole=True), "LSTM: peephole with layer_norm='tf1'"),
        (lambda: LSTM(3, 2, layer_norm="tflite", bias=False), "LSTM: layer_norm without bias"),
        (lambda: LSTM(3, 2, layer_norm_epsilon=0), "LSTM: layer_norm_epsilon=0, expected a finite number above 0"),
        (lambda: LSTM(3, 2, forget_bias=float("inf")), "LSTM: forget_bias=inf"),
        (lambda: Input("", "float", ("B",)), "input name ''"),
        (lambda: Input("a\nb", "float", ("B",)), r"input name 'a.nb'"),
        (lambda: Input(5, "float", ("B",)), "input name 5"),
        (lambda: Input("mels", "float32", ("B",)), "'mels'.*dtype='float32', expected one of 'float', 'float16'"),
        (lambda: Input("mels", "float", ("B", 0)), "input 'mels': size 0"),
        (lambda: Input("mels", "float", ("B", 2.0)), "input 'mels': size 2.0"),
        (lambda: Input("mels", "float", ("B", True)), "input 'mels': size True"),
        (lambda: Input("mels", "float", ("B",), optional="no"), "'mels'.*optional='no'"),
        (lambda: Node("n", "Lineal", "x"), "node 'n': op 'Lineal' is unknown, expected one of Abs, "),
        (lambda: Node("n", None, "x"), "node 'n': op None is unknown"),
        (lambda: Node("n", "Relu", ("x", "y")), r"node 'n' \(Relu\): 2 inputs, expected 1"),
        (lambda: Node("n", "Add", "x"), r"node 'n' \(Add\): 1 inputs, expected 2"),
        (lambda: Node("n", "Relu", "x", {"alpha": 1}), r"node 'n' \(Relu\): unknown attribute 'alpha', expected none"),
        (lambda: Node("n", "Linear", "x", {"units": 1}), r"node 'n' \(Linear\): unknown attribute 'units'"),
        (lambda: Node("n", "Linear", "x", {"input_size": 1}), r"node 'n' \(Linear\): attribute 'output_size' missing"),
        (lambda: Recurrent("r", "LSTM", "x"), "node 'r': cell='LSTM', expected a Cell"),
        (lambda: Recurrent("r", RNN(4, 3), "x", layers=0), "node 'r': .*layers=0"),
        (
            lambda: Recurrent("r", RNN(4, 3), "x", direction="both"),
            "node 'r': .*direction='both', expected one of 'forward'",
        ),
        (
            lambda: Recurrent("r", RNN(4, 3), "x", merge="concat ", direction="bidirectional"),
            "node 'r': .*merge='concat '",
        ),
        (lambda: Recurrent("r", RNN(4, 3), "x", merge="sum"), "node 'r': merge='sum' with direction='forward'"),
        (lambda: Recurrent("r", RNN(4, 3), "x", merge="sum", direction="reverse"), "with direction='reverse'"),
        (
            lambda: Recurrent("r", RNN(4, 3), "x", 2, "bidirectional", "separate"),
            "node 'r': merge='separate' with 2 layers",
        ),
        (lambda: Recurrent("r", RNN(4, 3), "x", layout="batch"), "node 'r': .*layout='batch'"),
        (lambda: Recurrent("r", RNN(4, 3), "x", trained_state=1), "node 'r': .*trained_state=1"),
        (lambda: Recurrent("r", RNN(4, 3), "x", initial=("a", "b")), "node 'r': 2 initial states, expected 1"),
        (lambda: Recurrent("r", LSTM(4, 3), "x", initial=("a",)), "node 'r': 1 initial states, expected 2"),
        (
            lambda: Recurrent("r", RNN(4, 3), "x", initial=("a",), trained_state=True),
            "node 'r': initial and trained_state",
        ),
    ],
)
def test_refused_by_place(make, says):
    with pytest.raises(SpecError, match=says):
        make()


@pytest.mark.parametrize(
    ("cell", "reverse", "says"),
    [
        (RNN(4, 3), GRU(4, 3), "expected a RNN cell"),
        (RNN(4, 3), "RNN", "reverse_cell='RNN', expected a RNN cell"),
        (RNN(4, 3), RNN(5, 3), "reverse_cell: input_size=5, expected the forward cell's 4"),
        (RNN(4, 3), RNN(4, 2), "reverse_cell: hidden_size=2, expected the forward cell's 3"),
        (LSTM(4, 3), LSTM(4, 3, projection=2), "reverse_cell: output_size=2, expected the forward cell's 3"),
        (
            LSTM(4, 3, projection=1),
            LSTM(4, 3, projection=2),
            "reverse_cell: output_size=2, expected the forward cell's 1",
        ),
    ],
)
def test_reverse_cells_that_do_not_fit(cell, reverse, says):
    with pytest.raises(SpecError, match=f"node 'r': .*{says}"):
        Recurrent("r", cell, "x", direction="bidirectional", reverse_cell=reverse)


def test_a_reverse_cell_needs_two_directions():
    for direction in ("forward", "reverse"):
        with pytest.raises(
            SpecError, match=f"node 'r': reverse_cell with direction='{direction}', expected bidirectional"
        ):
            Recurrent("r", RNN(4, 3), "x", direction=direction, reverse_cell=RNN(4, 3))


R = Recurrent("r", LSTM(4, 3), "x")
LINEAR = {"input_size": 4, "output_size": 2}


@pytest.mark.parametrize(
    ("inputs", "nodes", "outputs", "says"),
    [
        ([X], [], [], "no outputs"),
        ([X], [R], ["q"], "output 'q' is given by no input or node"),
        ([X], [R], ["r", "lengths"], "output 'lengths' is an optional input"),
        ([X], [R], ["r.hh"], r"output 'r.hh' .*\(did you mean 'r.h'\?\)"),
        ([X], [Recurrent("r", RNN(4, 3), "x")], ["r.c"], "output 'r.c' is given by no"),
        (
            [Input("mels", "float", ("B", "T", 4))],
            [Recurrent("r", RNN(4, 3), "mel")],
            ["r"],
            r"node 'r' reads 'mel', .*mean 'mels'",
        ),
        (
            [X],
            [Node("a", "Relu", "b"), Node("b", "Relu", "x")],
            ["a"],
            "node 'a' reads 'b', which no input or earlier node gives",
        ),
        ([X], [Node("a", "Relu", "a")], ["a"], "node 'a' reads 'a'"),
        ([X, X], [R], ["r"], "the name 'x' stands for two values"),
        ([X], [R, R], ["r"], "two nodes are named 'r'"),
        ([X], [Node("x", "Relu", "x")], ["x"], "the name 'x' stands for two values"),
        ([X], [R, Node("r.h", "Relu", "x")], ["r"], "the name 'r.h' stands for two values"),
        ([X], [Node("r.last", "Relu", "x"), R], ["r"], "the name 'r.last' stands for two values"),
        (
            [Input("x", "float", ("B", "T", 5))],
            [R],
            ["r"],
            r"node 'r': input 'x' is float \(B, T, 5\), expected a last dimension of 4",
        ),
        (
            [Input("x", "float", ("B", 4))],
            [R],
            ["r"],
            r"node 'r': input 'x' is float \(B, 4\), expected float with three dimensions",
        ),
        ([Input("x", "int64", ("B", "T", 4))], [R], ["r"], "node 'r': input 'x' is int64"),
        (
            [X, Input("lengths", "float", ("B",))],
            [R],
            ["r"],
            r"node 'r': lengths 'lengths' is float \(B\), expected int64 \(B,\)",
        ),
        ([X, Input("lengths", "int64", ("B", 1))], [R], ["r"], "node 'r': lengths 'lengths' is"),
        ([X], [Recurrent("r", RNN(4, 3), "x", lengths="n")], ["r"], "node 'r' reads 'n'"),
        ([X], [Recurrent("r", RNN(4, 3), "x", initial=("h0",))], ["r"], "node 'r' reads 'h0'"),
        (
            [X, Input("h0", "float", (1, "B", 4))],
            [Recurrent("r", RNN(4, 3), "x", initial=("h0",))],
            ["r"],
            r"node 'r': initial h 'h0' is float \(1, B, 4\), expected float \(1, B, 3\)",
        ),
        (
            [X, Input("h0", "float", ("B", 3))],
            [Recurrent("r", RNN(4, 3), "x", initial=("h0",))],
            ["r"],
            "node 'r': initial h",
        ),
        (
            [X, Input("h0", "float", (2, "B", 3))],
            [Recurrent("r", RNN(4, 3), "x", initial=("h0",))],
            ["r"],
            "node 'r': initial h",
        ),
        ([Input("x", "float", ("B", "T", 4), True)], [R], ["r"], "node 'r' reads the optional input 'x'"),
        (
            [X],
            [R, Node("l", "Linear", "r", LINEAR)],
            ["l"],
            r"node 'l' \(Linear\): input is float \(B, T, 3\), expected a last dimension of 4",
        ),
        (
            [X],
            lambda: [Node("l", "Linear", "x", {"input_size": 4, "output_size": 0})],
            ["l"],
            r"node 'l' \(Linear\): output_size=0",
        ),
        ([X], lambda: [Node("l", "Linear", "x", {**LINEAR, "bias": "no"})], ["l"], r"node 'l' \(Linear\): bias='no'"),
        (
            [X],
            [Node("e", "Embedding", "x", LINEAR)],
            ["e"],
            r"node 'e' \(Embedding\): input is float \(B, T, 4\), expected int64",
        ),
        (
            [X],
            [Node("s", "Softmax", "x", {"axis": 3})],
            ["s"],
            r"node 's' \(Softmax\): axis=3, expected an integer from -3 to 2",
        ),
        ([X], lambda: [Node("s", "Softmax", "x", {"axis": "T"})], ["s"], r"node 's' \(Softmax\): axis='T'"),
        (
            [X],
            lambda: [Node("n", "LpNormalization", "x", {"p": 3})],
            ["n"],
            r"node 'n' \(LpNormalization\): p=3, expected 1 or 2",
        ),
        (
            [X, Input("y", "float", ("B", "T", 5))],
            [Node("a", "Add", ("x", "y"))],
            ["a"],
            r"node 'a' \(Add\): sizes 4 and 5",
        ),
        (
            [X, Input("y", "int64", ("B", "T", 4))],
            [Node("a", "Mul", ("x", "y"))],
            ["a"],
            r"node 'a' \(Mul\): inputs are float \(B, T, 4\) and int64 \(B, T, 4\), expected one dtype",
        ),
        (
            [X, Input("y", "float", ("B", 4))],
            [Node("c", "Concat", ("x", "y"), {"axis": 1})],
            ["c"],
            r"node 'c' \(Concat\): inputs are",
        ),
        (
            [X, Input("y", "float", ("B", "T", 5))],
            [Node("c", "Concat", ("x", "y"), {"axis": 1})],
            ["c"],
            "differ outside axis 1",
        ),
        ([X], [Node("c", "Concat", ("x", "x"), {"axis": 5})], ["c"], r"node 'c' \(Concat\): axis=5"),
        ([Input("i", "int64", ("B", "T"))], [Node("a", "Tanh", "i")], ["a"], r"node 'a' \(Tanh\): input is int64"),
        (["x"], [R], ["r"], "inputs: 'x', expected Input objects"),
        ([X], ["r"], ["r"], "nodes: 'r', expected Node objects"),
    ],
)
def test_graphs_that_contradict_themselves(inputs, nodes, outputs, says):
    with pytest.raises(SpecError, match=says):
        Spec(inputs, nodes() if callable(nodes) else nodes, outputs)


# --- what is refused, from JSON -----------------------------------------------------------------------------------


def document():
    """A JSON Spec with something at every level."""
    return {
        "format": 1,
        "inputs": [{"name": "ids", "dtype": "int64", "shape": ["B", "T"]}],
        "nodes": [
            {"name": "e", "op": "Embedding", "inputs": ["ids"], "attributes": {"input_size": 9, "output_size": 4}},
            {
                "name": "r",
                "op": "Recurrent",
                "cell": {"kind": "GRU", "input_size": 4, "hidden_size": 3},
                "reverse_cell": {
                    "kind": "GRU",
                    "input_size": 4,
                    "hidden_size": 3,
                    "activations": ["relu", "relu", "relu"],
                },
                "direction": "bidirectional",
                "input": "e",
            },
        ],
        "outputs": ["r"],
    }


def changed(path, value):
    """The document with the entry at a path replaced, added, or with ``...`` removed."""
    found = document()
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return found


CELL = ("nodes", 1, "cell")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("version",), 2, "Spec: unknown key 'version', expected format, inputs, names, nodes, outputs"),
        (("format",), 2, "Spec: format 2, this version of rnncore reads 1"),
        (("format",), "1", "Spec: format '1'"),
        (("inputs",), ..., "Spec: key 'inputs' missing"),
        (("nodes",), ..., "Spec: key 'nodes' missing"),
        (("outputs",), ..., "Spec: key 'outputs' missing"),
        (("outputs",), "r", "Spec: outputs is str, expected a list"),
        (("nodes",), {}, "Spec: nodes is dict, expected a list"),
        (("outputs", 0), "rr", "output 'rr' .*did you mean 'r'"),
        (("outputs", 0), ["r"], "output .*'r'"),
        (("outputs", 0), 5, "output 5"),
        (("outputs", 0), None, "output None"),
        (("inputs", 0), "ids", "input: str, expected an object with dtype, name, shape"),
        (("inputs", 0, "typ"), "x", "input.*: unknown key 'typ'"),
        (("inputs", 0, "dtype"), ..., "input.*: key 'dtype' missing"),
        (("inputs", 0, "shape"), "BT", "input.*: shape is str, expected a list"),
        (("inputs", 0, "shape"), ["B", [2]], "input 'ids': size"),
        (("inputs", 0, "shape"), ["B", None], "input 'ids': size None"),
        (("inputs", 0, "name"), ["a"], "input name"),
        (("inputs", 0, "dtype"), "complex64", "'ids'.*dtype='complex64'"),
        (("inputs", 0, "dtype"), ["float"], "'ids'.*dtype="),
        (("nodes", 0), None, "node: NoneType, expected an object"),
        (("nodes", 0, "input"), "ids", "node.*: unknown key 'input'"),
        (("nodes", 0, "op"), ..., "node.*: key 'op' missing"),
        (("nodes", 0, "op"), "Embeding", "node 'e': op 'Embeding' is unknown, expected one of .*Embedding"),
        (("nodes", 0, "op"), ["Relu"], "node 'e': op"),
        (("nodes", 0, "inputs"), "ids", "node.*: inputs is str, expected a list"),
        (("nodes", 0, "inputs"), ["idz"], "node 'e' reads 'idz', .*did you mean 'ids'"),
        (("nodes", 0, "inputs"), [["ids"]], "node 'e'"),
        (("nodes", 0, "inputs"), [5], "node 'e'"),
        (("nodes", 0, "attributes"), [], "node 'e': attributes are list, expected an object"),
        (("nodes", 0, "attributes", "mask"), 0, r"node 'e' \(Embedding\): unknown attribute 'mask'"),
        (("nodes", 0, "attributes", "input_size"), ..., r"node 'e' \(Embedding\): attribute 'input_size' missing"),
        (
            ("nodes", 0, "attributes", "input_size"),
            "9",
            r"node 'e' \(Embedding\): input_size='9', expected a positive integer",
        ),
        (("nodes", 0, "attributes", "input_size"), [9], r"node 'e' \(Embedding\): input_size="),
        (("nodes", 0, "attributes", "input_size"), 10**30, r"node 'e' \(Embedding\): input_size="),
        (("nodes", 1, "size"), 3, "node 'r': unknown key 'size'"),
        (("nodes", 1, "cell"), ..., "node 'r': key 'cell' missing"),
        (("nodes", 1, "input"), ..., "node 'r': key 'input' missing"),
        (("nodes", 1, "input"), 5, "node 'r'"),
        (("nodes", 1, "input"), ["e"], "node 'r'"),
        (("nodes", 1, "lengths"), ["lengths"], "node 'r'"),
        (("nodes", 1, "lengths"), 5, "node 'r'"),
        (("nodes", 1, "lengths"), "", "node 'r' reads ''"),
        (("nodes", 1, "lengths"), 0, "node 'r' reads 0"),
        (("nodes", 1, "initial"), "h0", "node 'r': initial is str, expected a list"),
        (("nodes", 1, "initial"), [["h0"]], "node 'r'"),
        (("nodes", 1, "layers"), "2", "node 'r': .*layers='2'"),
        (("nodes", 1, "layers"), 1e3, "node 'r': .*layers=1000.0"),
        (("nodes", 1, "direction"), [], "node 'r': .*direction="),
        (("nodes", 1, "trained_state"), 0, "node 'r': .*trained_state=0"),
        ((*CELL, "kind"), ..., "node 'r': cell kind None is unknown, expected one of GRU, LSTM, RNN"),
        ((*CELL, "kind"), "gru", "node 'r': cell kind 'gru' is unknown"),
        ((*CELL, "kind"), ["GRU"], "node 'r': cell kind"),
        (CELL, "GRU", "node 'r': cell kind 'GRU' is unknown"),
        ((*CELL, "peephole"), True, "'r'.*GRU: unknown option 'peephole', expected one of"),
        ((*CELL, "hidden_size"), ..., "'r'.*GRU: option 'hidden_size' missing"),
        ((*CELL, "hidden_size"), None, "'r'.*GRU: hidden_size=None"),
        ((*CELL, "bias"), "true", "'r'.*GRU: bias='true'"),
        ((*CELL, "clip"), 10**400, "'r'.*GRU: clip="),
        ((*CELL, "activations"), ["tanh"], "'r'.*GRU: 1 activations, expected 3"),
        ((*CELL, "activations"), 7, "'r'.*GRU: activations=7"),
        ((*CELL, "activations"), 0, "'r'.*GRU: activations=0"),
        ((*CELL, "activations"), "", "'r'.*GRU: 1 activations"),
        ((*CELL, "activations"), {}, "'r'.*GRU: 1 activations"),
        ((*CELL, "activations"), ["tanh", "tanh", "tanch"], "'r'.*activation 'tanch' is unknown"),
        ((*CELL, "activations"), ["tanh", "tanh", "hard_sigmoid"], "'r'.*hard_sigmoid_fifth"),
        ((*CELL, "activations"), ["tanh", "tanh", "leaky_relu"], "'r'.*leaky_relu.*alpha"),
        ((*CELL, "activations"), ["tanh", "tanh", "gelu"], "'r'.*gelu_tanh"),
        ((*CELL, "activations"), ["tanh", "tanh", {"name": "tanh", "alpha": 1}], "'r'.*takes no alpha"),
        ((*CELL, "activations"), ["tanh", "tanh", {"name": "elu", "alpha": "1"}], "'r'.*alpha='1'"),
        ((*CELL, "activations"), ["tanh", "tanh", {"name": "elu", "slope": 1}], "'r'.*activation: keys"),
        ((*CELL, "activations"), ["tanh", "tanh", {"name": ["elu"]}], "'r'.*activation"),
        ((*CELL, "activations"), ["tanh", "tanh", [["elu"]]], "'r'.*activation"),
        ((*CELL, "activations"), ["tanh", "tanh", None], "'r'.*activation"),
        (("nodes", 1, "reverse_cell", "hidden_size"), 4, "node 'r': .*reverse_cell: hidden_size=4"),
        (("nodes", 1, "reverse_cell", "kind"), "RNN", "node 'r'"),
        (("nodes", 1, "direction"), "forward", "node 'r': reverse_cell with direction='forward'"),
    ],
)
def test_documents_that_are_refused(path, value, says):
    found = changed(path, value)
    with pytest.raises(SpecError, match=says):
        Spec.from_json(found)
    with pytest.raises(SpecError, match=says):
        Spec.from_json(json.dumps(found))


def test_names_of_a_checkpoint():
    body = Spec(
        [Input("x", "float", ("B", 4))], [Node("fc", "Linear", "x", {"input_size": 4, "output_size": 4})], ["fc"]
    )
    state, steps = Input("h", "float", ("B", 4)), Input("x", "float", ("T", "B", 4))
    loop = Control("loop", "Scan", ("h", "x"), (Spec([state, *body.inputs], body.nodes, ["fc"]),), sequences=1)
    names = {"loop.body.fc": "module.fc", "loop.body.fc.bias": "shift", "loop": "a"}
    spec = Spec([state, steps], [loop], ["loop"], names)
    assert Spec.from_json(json.dumps(spec.to_json())) == pickle.loads(pickle.dumps(spec)) == spec
    assert spec.reshaped({"x": (3, "B", 4)}).names == names
    assert spec != Spec(spec.inputs, spec.nodes, spec.outputs) and hash(spec)
    with pytest.raises(TypeError):
        spec.names["loop"] = "b"
    for wrong, says in (
        ({"other.weight": "a"}, "names: 'other.weight' is no node"),
        ({1: "a"}, "names: 1 is no node"),
        ({"loop": 1}, "names: 'loop' leads to 1, expected the name"),
        ([], "names: list, expected an object"),
    ):
        with pytest.raises(SpecError, match=says):
            Spec(spec.inputs, spec.nodes, spec.outputs, wrong)
    named = Spec([state, *body.inputs], body.nodes, ["fc"], {"fc": "module.fc"})
    with pytest.raises(SpecError, match="names in a branch"):
        Control("loop", "Scan", ("h", "x"), (named,), sequences=1)


def test_the_document_itself_is_accepted():
    spec = Spec.from_json(document())
    assert spec.nodes[1].reverse_cell.activations == (Activation("relu"),) * 3
    assert spec.nodes[0].weight_shapes() == {"e.weight": (9, 4)}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", '"Spec"', b"\xff\xfe", "[" * 100_000, '{"a": NaN}'])
def test_texts_that_are_no_spec(text):
    with pytest.raises(SpecError, match="Spec"):
        Spec.from_json(text)


# --- weights ------------------------------------------------------------------------------------------------------


def arrays_of(spec):
    return {name: np.ones(shape, np.float32) for name, shape in spec.weight_shapes().items()}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.pop("r.bias_l0"), "weights: 1 missing: r.bias_l0"),
        (lambda a: a.update(extra=np.ones(1)), "1 that the Spec does not have: extra"),
        (lambda a: a.update({"r.bias_l0": np.ones(11)}), r"r.bias_l0: shape \(11,\), expected \(12,\)"),
        (lambda a: a.update({"r.bias_l0": np.ones((1, 12))}), r"r.bias_l0: shape \(1, 12\)"),
        (lambda a: a.update({"r.bias_l0": np.ones(12, np.int64)}), "r.bias_l0: dtype int64, expected float16"),
        (lambda a: a.update({"r.bias_l0": np.ones(12, complex)}), "r.bias_l0: dtype complex128"),
        (lambda a: a.update({"r.bias_l0": np.ones(12, object)}), "r.bias_l0: dtype object"),
        (lambda a: a.update({"r.bias_l0": np.ones(12, np.longdouble)}), "r.bias_l0: dtype"),
    ],
)
def test_weights_that_do_not_fit(change, says):
    spec = with_node(R)
    arrays = arrays_of(spec)
    change(arrays)
    with pytest.raises(WeightError, match=says):
        Weights(spec, arrays)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_are_frozen_copies_in_canonical_order(dtype):
    spec = with_node(R)
    given = {name: array.astype(dtype) for name, array in reversed(arrays_of(spec).items())}
    given["r.weight_ih_l0"] = np.asfortranarray(given["r.weight_ih_l0"])
    given["r.bias_l0"] = given["r.bias_l0"].astype(given["r.bias_l0"].dtype.newbyteorder())
    weights = Weights(spec, given)
    assert list(weights) == list(spec.weight_shapes())
    assert weights.count == 4 * 3 * (4 + 3 + 1)
    for array in given.values():
        array[...] = 0
    for array in weights.values():
        assert array.dtype == dtype and array.flags.c_contiguous and array.dtype.isnative
        assert (array == 1).all()
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("op", sorted(OPS))
def test_numbers_that_no_machine_holds(op):
    """In every attribute of every op: accepted, where nobody counts with it, or a SpecError; never what Python says."""
    huge = 10**400
    rank, count = 4, max(OPS[op].arity[0], 1)
    for key in OPS[op].attributes:
        for value in (huge, -huge, (huge,), (huge,) * rank, 1e300, (1e300,) * rank):
            attributes = {name: 3 for name, default in OPS[op].attributes.items() if default is ...}
            if op == "Constant":
                attributes = {"dtype": "float", "shape": (len(value),) if isinstance(value, tuple) else ()}
            inputs = [Input(f"x{place}", "float", ("B", 3, 4, 5)) for place in range(count)]
            names = tuple(entry.name for entry in inputs)[: OPS[op].arity[1]]
            with contextlib.suppress(SpecError):
                spec = Spec(inputs, [Node("n", op, names, {**attributes, key: value})], ["n"])
                if op == "Constant":
                    assert abs(value if isinstance(value, float) else value[0]) == 1e300
                assert spec == Spec.from_json(spec.to_json())


def test_initial_states_are_a_list_of_names():
    for given in ("h", 3, (3,)):
        with pytest.raises(SpecError, match="expected a list of names"):
            Recurrent("gru", GRU(3, 4), "x", initial=given)
