"""Recurrent ONNX models through rnncore.load, against ONNX Runtime and PyTorch: random nodes, and torch's exporters."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from agreement import assert_close
from onnx import TensorProto, helper, numpy_helper
from onnx_random_nodes import drawn_node, run_onnxruntime, to_layout_1
from onnx_recurrent import INPUTS
from random_networks import seeds

import rnncore
from rnncore.graph.nodes import Recurrent

WEIGHTS = ("W", "R", "B", "P")


def one_node(drawn, path, dtype=np.float32):
    """A file of a drawn node; its weights are constants. Returns what the other inputs are given."""
    given = {name: np.asarray(array, dtype if array.dtype == "f8" else None) for name, array in drawn.arrays.items()}
    attributes = dict(drawn.attributes)
    if drawn.batch_first:
        attributes["layout"] = 1
        for name in ("X", "initial_h", "initial_c"):
            if name in given:
                given[name] = np.ascontiguousarray(given[name].swapaxes(0, 1))
    outputs = ["Y", "Y_h", "Y_c"] if drawn.kind == "LSTM" else ["Y", "Y_h"]
    node = helper.make_node(
        drawn.kind, [name if name in given else "" for name in INPUTS[drawn.kind]], outputs, **attributes
    )
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
        if name not in WEIGHTS
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in given.items() if name in WEIGHTS]
    results = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    graph = helper.make_graph([node], "one node", inputs, results, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", drawn.opset)], ir_version=10), path)
    return {name: array for name, array in given.items() if name not in WEIGHTS}


@pytest.mark.parametrize("seed", seeds(60))
def test_random_nodes(seed, tmp_path):
    """Every attribute and input, rows of length 0 with their zeros included."""
    drawn = drawn_node(seed)
    given = one_node(drawn, tmp_path / "model.onnx")
    found = rnncore.load(tmp_path / "model.onnx").run(given)
    theirs = run_onnxruntime(drawn.kind, drawn.attributes, drawn.arrays, drawn.opset, drawn.constant)
    theirs = to_layout_1(theirs) if drawn.batch_first else theirs
    for name, array in theirs.items():
        assert_close(found[name], array, 1e-5, f"seed {seed}: {drawn.kind} {drawn.attributes}: {name}")


def test_rows_of_length_zero_have_no_state(tmp_path):
    drawn = next(d for d in map(drawn_node, itertools.count()) if (d.arrays.get("sequence_lens", np.ones(1)) == 0).any()
                 and "initial_h" in d.arrays and not d.batch_first)  # fmt: skip
    given = one_node(drawn, tmp_path / "model.onnx")
    found = rnncore.load(tmp_path / "model.onnx").run(given)
    assert not found["Y_h"][:, drawn.arrays["sequence_lens"] == 0].any()
    assert found["Y_h"].any() or not drawn.arrays["sequence_lens"].any()


class Net(torch.nn.Module):
    """A stack and a linear layer; with states in and out, or packed by lengths."""

    def __init__(self, kind, states=False, packed=False, **options):
        super().__init__()
        self.kind, self.states, self.packed = kind, states, packed
        self.rnn = getattr(torch.nn, kind)(5, 7, **options)
        self.fc = torch.nn.Linear(7 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x, *more):
        if self.packed:
            x = torch.nn.utils.rnn.pack_padded_sequence(x, more[0], self.rnn.batch_first)
            y, h = self.rnn(x)
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, self.rnn.batch_first)
        elif self.states:
            y, h = self.rnn(x, more if self.kind == "LSTM" else more[0])
        else:
            y, h = self.rnn(x)
        return (self.fc(y), *(h if self.kind == "LSTM" else (h,)))


def export(net, inputs, path, dynamo=False):
    """Names of the inputs and outputs of the file."""
    batch_first = net.rnn.batch_first
    names = ["x", *[f"in{place}" for place in range(len(inputs) - 1)]]
    outputs = ["y", "hn", *(["cn"] if net.kind == "LSTM" else [])]
    sequence = {0: "B", 1: "T"} if batch_first else {0: "T", 1: "B"}
    rest = [{0: "B"} if net.packed else {1: "B"}] * (len(inputs) - 1)
    common = {"input_names": names, "output_names": outputs, "verbose": False}
    if dynamo:
        dims = {name: torch.export.Dim(name) for name in ("B", "T")}
        shapes = [{axis: dims[name] for axis, name in entry.items()} for entry in (sequence, *rest)]
        dynamic = (shapes[0], *([tuple(shapes[1:])] if rest else [()]))
        torch.onnx.export(net, inputs, path, dynamo=True, dynamic_shapes=dynamic, **common)
    else:
        axes = dict(zip(names, (sequence, *rest), strict=True))
        torch.onnx.export(net, inputs, path, dynamo=False, dynamic_axes=axes, opset_version=17, **common)
    return names, outputs


def draw_inputs(net, batch=3, steps=6):
    rows = net.rnn.num_layers * (2 if net.rnn.bidirectional else 1)
    x = torch.randn(batch, steps, 5) if net.rnn.batch_first else torch.randn(steps, batch, 5)
    if net.packed:
        return x, torch.tensor([steps, steps - 2, 1])
    states = [torch.randn(rows, batch, 7) for _ in range(2 if net.kind == "LSTM" else 1)]
    return (x, *(states if net.states else []))


OPTIONS = list(itertools.product(["LSTM", "GRU", "RNN"], [False, True], [1, 2], [False, True], [False, True]))


@pytest.mark.parametrize(("kind", "both", "layers", "batch_first", "states"), OPTIONS)
@pytest.mark.filterwarnings("ignore")
def test_torch_export(kind, both, layers, batch_first, states, tmp_path):
    """One Recurrent node of all layers, a Linear one, and nothing superfluous."""
    torch.manual_seed(0)
    net = Net(kind, states, bidirectional=both, num_layers=layers, batch_first=batch_first).eval()
    inputs = draw_inputs(net)
    names, outputs = export(net, inputs, tmp_path / "model.onnx")
    model = rnncore.load(tmp_path / "model.onnx")
    stacks = [node for node in model.spec.nodes if isinstance(node, Recurrent)]
    assert [(node.layers, node.layout) for node in stacks] == [(layers, "batch_first" if batch_first else "time_first")]
    assert sorted(node.op for node in model.spec.nodes if node not in stacks) == [
        *["Identity"] * (len(outputs) - 1), "Linear"
    ]  # fmt: skip
    assert_same(net, model, names, outputs, draw_inputs(net, batch=2, steps=9))


@pytest.mark.parametrize(
    ("kind", "both", "batch_first"), itertools.product(["LSTM", "GRU"], [False, True], [False, True])
)
@pytest.mark.filterwarnings("ignore")
def test_torch_export_of_packed_sequences(kind, both, batch_first, tmp_path):
    torch.manual_seed(0)
    net = Net(kind, packed=True, bidirectional=both, num_layers=2, batch_first=batch_first).eval()
    names, outputs = export(net, draw_inputs(net), tmp_path / "model.onnx")
    model = rnncore.load(tmp_path / "model.onnx")
    (stack,) = [node for node in model.spec.nodes if isinstance(node, Recurrent)]
    assert stack.layers == 2 and stack.lengths is not None
    assert_same(net, model, names, outputs, draw_inputs(net, steps=6))


@pytest.mark.parametrize(("kind", "both", "layers"), [("LSTM", True, 2), ("LSTM", False, 1), ("RNN", False, 2)])
@pytest.mark.filterwarnings("ignore")
def test_torch_dynamo_export(kind, both, layers, tmp_path):
    """The newer exporter, which writes down the number of steps that it saw."""
    torch.manual_seed(0)
    net = Net(kind, True, bidirectional=both, num_layers=layers, batch_first=True).eval()
    inputs = draw_inputs(net)
    names, outputs = export(net, inputs, tmp_path / "model.onnx", dynamo=True)
    model = rnncore.load(tmp_path / "model.onnx")
    assert_same(net, model, names, outputs, inputs)


def assert_same(net, model, names, outputs, inputs):
    given = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
    with torch.no_grad():
        expected = net(*inputs)
    found = model.run(given)
    for name, array in zip(outputs, expected, strict=True):
        assert_close(found[name], array.numpy(), 1e-6, name)


def test_a_recurrent_node_in_a_branch(tmp_path):
    """A GRU in the branch of an If, reading the state that the graph around it has."""
    rng = np.random.default_rng(0)
    arrays = {"W": (1, 9, 4), "R": (1, 9, 3)}
    constants = [numpy_helper.from_array(rng.normal(size=s).astype(np.float32), n) for n, s in arrays.items()]
    lstm = helper.make_node("GRU", ["x", "W", "R", "", "", "h"], ["", "hn"], hidden_size=3)
    other = helper.make_node("Tanh", ["h"], ["th"])

    def branch(node, output):
        return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    choice = helper.make_node("If", ["flag"], ["y"], then_branch=branch(lstm, "hn"), else_branch=branch(other, "th"))
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("T", "B", 4)),
        helper.make_tensor_value_info("h", TensorProto.FLOAT, (1, "B", 3)),
        helper.make_tensor_value_info("flag", TensorProto.BOOL, ()),
    ]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, "B", 3))]
    graph = helper.make_graph([choice], "g", inputs, results, constants)
    path = str(tmp_path / "model.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    session, model = onnxruntime.InferenceSession(path), rnncore.load(path)
    for flag in (True, False):
        given = {
            "x": rng.normal(size=(5, 2, 4)).astype(np.float32),
            "h": rng.normal(size=(1, 2, 3)).astype(np.float32),
            "flag": np.array(flag),
        }
        assert_close(model.run(given)["y"], session.run(None, given)[0], 1e-6)
