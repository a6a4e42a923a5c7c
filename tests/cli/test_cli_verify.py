"""rnncore verify --against, and what inspect says of time."""

import json
import re
import sys

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.cli.application import application
from rnncore.errors import VerificationError
from rnncore.formats.verification import all_values, drawn_inputs

SPEC = Spec(
    [Input("tokens", "int64", ("B", "T"))],
    [
        Node("embed", "Embedding", "tokens", {"input_size": 9, "output_size": 4}),
        Recurrent("gru", GRU(4, 5), "embed"),
        Node("fc", "Linear", "gru", {"input_size": 5, "output_size": 3}),
        Node("scores", "Softmax", "fc"),
    ],
    ["scores"],
)


@pytest.fixture
def cli(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(application, [str(word) for word in words], prog_name="rnncore")


@pytest.fixture
def model(cli):
    """A tagger, saved as model.safetensors without a test pair, and as weights.pt."""
    torch.manual_seed(1)
    parts = {"embed": nn.Embedding(9, 4), "gru": nn.GRU(4, 5), "fc": nn.Linear(5, 3)}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    torch.save(state, "weights.pt")
    found = rnncore.load("weights.pt", spec=SPEC)
    rnncore.save("model.safetensors", found)
    return found


def changed(model, name, by):
    """The model with one weight moved, as changed.safetensors."""
    weights = {**model.weights, name: model.weights[name] + np.float32(by)}
    rnncore.save("changed.safetensors", rnncore.Model(model.spec, weights))


def test_against_weights_under_the_same_network(cli, model):
    result = cli("verify", "model.safetensors", "--against", "weights.pt")
    assert result.exit_code == 0, result.output
    assert "inputs: drawn with seed 0" in result.stdout
    assert "equal to weights.pt, run by rnncore" in result.stdout
    assert re.search(r"scores +equal +0 +0 +1e-05", result.stdout)


@pytest.mark.parametrize(("weight", "node"), [("embed.weight", "embed"), ("gru.bias_l0", "gru"), ("fc.bias", "fc")])
def test_the_first_node_that_differs_is_named(cli, model, weight, node):
    changed(model, weight, np.linspace(0, 1, model.weights[weight].size).reshape(model.weights[weight].shape))
    result = cli("verify", "model.safetensors", "--against", "changed.safetensors")
    assert result.exit_code == 1
    assert re.search(r"scores +DIFFERENT", result.stdout)
    assert f"first node that differs: {node} ({node}" in result.stdout


def test_against_arrays(cli, model):
    inputs = drawn_inputs(SPEC, seed=4)
    values = all_values(model, inputs)
    np.savez("same.npz", **inputs, scores=values["scores"])
    result = cli("verify", "model.safetensors", "--against", "same.npz")
    assert result.exit_code == 0 and "equal to the arrays in same.npz" in result.stdout, result.output

    np.savez("other.npz", **inputs, scores=values["scores"] + np.float32(0.25), fc=values["fc"] - 1, gru=values["gru"])
    result = cli("verify", "model.safetensors", "--against", "other.npz")
    assert result.exit_code == 1
    assert re.search(r"scores +DIFFERENT +0\.25 +0\.25 +1e-05", result.stdout)
    assert "first node that differs: fc (fc: DIFFERENT, largest error 1 " in result.stdout

    np.savez("end.npz", **inputs, scores=values["scores"] + np.float32(0.25), fc=values["fc"])
    assert "first node that differs: scores" in cli("verify", "model.safetensors", "--against", "end.npz").stdout


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"scores": np.zeros((2, 7, 3))}, "no array 'tokens'"),
        ({"tokens": np.zeros((2, 7), np.int64)}, "no output of the model, expected at least one of scores"),
        ({"tokens": np.zeros((2, 7), np.int64), "y": np.zeros(3)}, "'y' is no value of the model"),
    ],
)
def test_arrays_that_do_not_fit(cli, model, arrays, says):
    np.savez("wrong.npz", **arrays)
    result = cli("verify", "model.safetensors", "--against", "wrong.npz")
    assert result.exit_code == 1 and says in result.stderr


def test_against_onnx_runtime(cli):
    weight = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    spec = Spec(
        [Input("x", "float", ("B", 4))],
        [Node("y", "Linear", "x", {"input_size": 4, "output_size": 3, "bias": False})],
        ["y"],
    )
    for name, scale in (("same", 1), ("twice", 2)):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["input", "w"], ["output"])],
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["B", 4])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["B", 3])],
            [numpy_helper.from_array(weight * np.float32(scale), "w")],
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), f"{name}.onnx")
    rnncore.save("model.safetensors", rnncore.Model(spec, {"y.weight": weight.T}))
    result = cli("verify", "model.safetensors", "--against", "same.onnx")
    assert result.exit_code == 0 and "run by onnxruntime" in result.stdout, result.output
    assert cli("verify", "model.safetensors", "--against", "twice.onnx").exit_code == 1

    np.save("x.npy", np.zeros((5, 4), np.float32))
    assert cli("verify", "model.safetensors", "--against", "twice.onnx", "-i", "x.npy").exit_code == 0


def test_against_keras(cli):
    import keras

    layers = [keras.layers.Input((6, 3)), keras.layers.LSTM(4, return_sequences=True), keras.layers.Dense(2)]
    built = keras.Sequential(layers)
    built.save("model.keras")
    rnncore.save("model.safetensors", rnncore.export.from_keras(built))
    result = cli("verify", "model.safetensors", "--against", "model.keras")
    assert result.exit_code == 0 and "run by keras" in result.stdout, result.output
    built.layers[-1].bias.assign([1.0, 0.0])
    built.save("moved.keras")
    assert cli("verify", "model.safetensors", "--against", "moved.keras").exit_code == 1


def test_command_lines_that_are_wrong(cli, model):
    assert cli("verify", "model.safetensors", "-i", "x.npy").exit_code == 2
    np.savez("same.npz", tokens=np.zeros((1, 2), np.int64), scores=np.zeros((1, 2, 3)))
    assert cli("verify", "model.safetensors", "--against", "same.npz", "-i", "x.npy").exit_code == 2
    rnncore.save(
        "other.safetensors",
        rnncore.LSTM(weight_ih=np.ones((4, 2)), weight_hh=np.ones((4, 1)), bias=np.ones(4), order="ifgo"),
    )
    result = cli("verify", "model.safetensors", "--against", "other.safetensors")
    assert result.exit_code == 1 and "error: " in result.stderr


def test_inspect_says_what_a_step_needs(cli, model):
    found = json.loads(cli("inspect", "model.safetensors", "--json").stdout)
    assert [node["time"] for node in found["nodes"]] == ["pointwise", "causal", "pointwise", "pointwise"]
    text = cli("inspect", "model.safetensors").stdout
    assert "it can run step by step" in text and re.search(r"gru +GRU .* causal +1\d\d", text)

    reverse = Recurrent("gru", GRU(4, 5), "embed", direction="bidirectional")
    head = Node("fc", "Linear", "gru.last", {"input_size": 10, "output_size": 3})
    spec = Spec(SPEC.inputs[:1], [SPEC.nodes[0], reverse, head], ["fc"])
    weights = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes().items()}
    rnncore.save("both.safetensors", rnncore.Model(spec, weights))
    found = json.loads(cli("inspect", "both.safetensors", "--json").stdout)
    assert [node["time"] for node in found["nodes"]] == ["pointwise", "whole", ""]
    assert (
        "over time: node 'gru' (Recurrent) cannot be streamed: direction='bidirectional'"
        in cli("inspect", "both.safetensors").stdout
    )


def stack_spec(**options):
    cell = options.pop("cell", GRU)(3, 4, **{key: options.pop(key) for key in ("bias",) if key in options})
    return Spec([Input("x", "float", ("B", "T", 3))], [Recurrent("rnn", cell, "x", **options)], ["rnn"])


@pytest.mark.parametrize(
    ("module", "options", "says"),
    [
        (nn.GRU(3, 4), {"cell": rnncore.cells.LSTM}, r"3 x 4 rows: it looks like a GRU, the spec says LSTM"),
        (nn.LSTM(3, 4), {}, r"4 x 4 rows: it looks like an LSTM, the spec says GRU"),
        (nn.GRU(3, 4, bidirectional=True), {}, r"_reverse.*the stack looks like direction='bidirectional'"),
        (nn.GRU(3, 4), {"direction": "bidirectional"}, r"looks like direction='forward', not 'bidirectional'"),
        (nn.GRU(3, 4, 2), {}, r"of another layer, so the stack looks like layers=2"),
        (nn.GRU(3, 4), {"layers": 2}, r"the file's stack looks like layers=1, not 2"),
        (nn.GRU(3, 4, bias=False), {}, r"no biases there: it looks like bias=False"),
        (nn.GRU(3, 4), {"bias": False}, r"the stack looks like bias=True"),
        (nn.LSTM(3, 4, proj_size=2), {"cell": rnncore.cells.LSTM}, r"\(16, 2\), expected \(16, 4\)"),
    ],
)
def test_errors_say_what_the_file_looks_like(cli, module, options, says):
    torch.save({f"rnn.{key}": value for key, value in module.state_dict().items()}, "weights.pt")
    with open("spec.json", "w") as file:
        json.dump(stack_spec(**options).to_json(), file)
    result = cli("convert", "weights.pt", "out.safetensors", "--spec", "spec.json")
    assert result.exit_code == 1
    assert re.search(says, result.stderr), result.stderr


def test_inspect_of_an_exported_module_lists_what_was_folded(cli):
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    rnncore.save("model.safetensors", rnncore.export.from_torch(module))
    text = cli("convert", "model.safetensors", "again.safetensors", "--verify").stdout
    assert "note: 1 (Dropout): left out, it does nothing at inference" in text
    assert "note: 2.weight (Linear): WeightNorm folded" in text
    assert "equal to torch" in text


def scaled_by_rows(path, static=False):
    """y = x * the number of rows, as an ONNX file."""
    rows = [2, 4] if static else ["B", 4]
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Cast", ["rows"], ["scale"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "scale"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, rows)], [value("y", TensorProto.FLOAT, rows)],
                              [numpy_helper.from_array(np.array(0), "first")])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def twice(x):
    """A model that gives what scaled_by_rows gives for two rows only, with its test pair."""
    two = Node("two", "Constant", (), {"dtype": "float", "shape": (), "value": (2.0,)})
    spec = Spec([Input("x", "float", ("B", 4))], [two, Node("y", "Mul", ("x", "two"))], ["y"])
    return rnncore.Model(spec, {}), rnncore.TestPair({"x": x}, {"y": x * 2})


@pytest.mark.parametrize("missing", [(), ("onnxruntime",)])
def test_sizes_other_than_the_stored_one(cli, monkeypatch, missing):
    for package in missing:
        monkeypatch.setitem(sys.modules, package, None)
    scaled_by_rows("rows.onnx")
    peer = "onnx.reference" if missing else "onnxruntime"
    result = cli("verify", "rows.onnx")
    assert result.exit_code == 0, result.output
    sizes = re.search(rf"sizes replayed by rows.onnx, run by {peer} [\d.]+, equal: (.*)", result.stdout)[1].split(", ")
    assert len(sizes) >= 4 and "B=1" in sizes

    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    model, pair = twice(x)
    rnncore.save("twice.safetensors", model, test_pair=pair)
    assert cli("verify", "twice.safetensors").exit_code == 0
    result = cli("verify", "twice.safetensors", "--against", "rows.onnx")
    assert result.exit_code == 1
    assert "equal to rows.onnx" in result.stdout and "sizes B=1: y: DIFFERENT" in result.stdout
    assert "B=2" not in result.stdout
    np.save("x.npy", x)
    assert cli("verify", "twice.safetensors", "--against", "rows.onnx", "-i", "x.npy").exit_code == 0


def test_the_file_that_a_model_was_converted_from(cli):
    scaled_by_rows("rows.onnx")
    assert cli("convert", "rows.onnx", "model.safetensors").exit_code == 0
    result = cli("verify", "model.safetensors")
    assert result.exit_code == 0 and "sizes replayed by rows.onnx" in result.stdout, result.output
    scaled_by_rows("rows.onnx", static=True)  # another file under its name
    result = cli("verify", "model.safetensors")
    assert result.exit_code == 1 and "no test pair" in result.stderr
    result = cli("verify", "rows.onnx")
    assert result.exit_code == 0 and "all sizes of the inputs are numbers" in result.stdout, result.output


def test_what_the_peer_refuses_is_said(cli):
    scaled_by_rows("two.onnx", static=True)
    x = np.ones((2, 4), np.float32)
    model, pair = twice(x)
    rnncore.save("twice.safetensors", model, test_pair=pair)
    result = cli("verify", "twice.safetensors", "--against", "two.onnx")
    assert result.exit_code == 0 and "equal to two.onnx" in result.stdout, result.output
    assert "sizes B=1: not run, two.onnx: onnxruntime does not run it" in result.stdout
    assert "sizes replayed" not in result.stdout


def test_a_live_module_at_other_sizes():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(3, 4, batch_first=True)

        def forward(self, x, lengths):
            return self.gru(x)[0].sum(1) / lengths[:, None]

    module, example = Mean(), (torch.ones(2, 5, 3), torch.tensor([5, 3]))
    model = rnncore.Model(*rnncore.export.from_torch(module, example))
    found = rnncore.export.verify_torch(model, module, example)
    assert len(found) >= 4 and all(one.equal for one in found)
    assert {one.sizes["B"] for one in found} > {1} and module.training
    with torch.no_grad():
        module.gru.bias_hh_l0 += 1
    with pytest.raises(VerificationError, match=r"B=1 T=7: .*DIFFERENT"):
        rnncore.export.verify_torch(model, module, example)
    layer = nn.Linear(3, 4)
    model = rnncore.Model(*rnncore.export.from_torch(layer))
    assert all(one.equal for one in rnncore.export.verify_torch(model, layer))
