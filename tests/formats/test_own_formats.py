"""A file format is one file and one line of the registry: it is then read in every place where a file is."""

import io
import json
import sys

import numpy as np
import own_graph
import own_weights
import pytest
from click.testing import CliRunner

import rnncore
from rnncore.cli.application import application
from rnncore.errors import FormatError, UnsupportedError
from rnncore.formats import read_checkpoint, registry
from rnncore.formats.registry import Format, GraphFormat


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """The files where those of the package are, and a line of each table."""
    for module in (own_weights, own_graph):
        monkeypatch.setitem(sys.modules, f"rnncore.formats.{module.__name__}", module)
    weights = Format("own weights", "own_weights", "read_open", by_head=own_weights.looks_like)
    graph = GraphFormat("own graph", "own_graph", by_head=own_graph.looks_like)
    monkeypatch.setattr(registry, "FORMATS", (*registry.FORMATS, weights))
    monkeypatch.setattr(registry, "GRAPH_FORMATS", (*registry.GRAPH_FORMATS, graph))


@pytest.fixture
def arrays():
    """Under PyTorch's names; one of the biases is 0, as raw arrays have one alone."""
    rng = np.random.default_rng(0)
    shapes = {"weight_ih_l0": (20, 3), "weight_hh_l0": (20, 5), "bias_ih_l0": (20,)}
    drawn = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    return {**drawn, "bias_hh_l0": np.zeros(20, "float32")}


@pytest.fixture
def model(arrays):
    w, r, b, _ = arrays.values()
    return rnncore.LSTM(weight_ih=w, weight_hh=r, bias=b, order="torch")


def cli(*arguments):
    done = CliRunner().invoke(application, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def output(model):
    """The bytes of the first output."""
    x = np.random.default_rng(1).standard_normal((2, 4, 3)).astype("float32")
    found = model.run({model.spec.inputs[0].name: x})
    return found[model.spec.outputs[0]].tobytes()


def ways(path):
    """What ``load`` takes a file as."""
    return (path, path.read_bytes(), io.BytesIO(path.read_bytes()))


@pytest.mark.parametrize("kind", ["own_weights", "own_graph"])
def test_a_file_is_read_everywhere(kind, model, arrays, tmp_path):
    """load from a path, bytes and an open file, convert and inspect, under a name that says nothing."""
    path = tmp_path / "file"
    if kind == "own_weights":
        own_weights.write(path, arrays)
    else:
        own_graph.write(path, model.spec, model.weights)
    expected = output(model)
    for way in ways(path):
        assert output(rnncore.load(way)) == expected
    target, _, _ = rnncore.convert(path, tmp_path / "out.safetensors")
    assert output(rnncore.load(target)) == expected
    assert kind.replace("_", " ") in cli("inspect", path)
    assert json.loads(cli("inspect", "--json", path))["format"] == kind.replace("_", " ")
    cli("convert", path, tmp_path / "by-command.safetensors")
    assert (tmp_path / "by-command.safetensors").read_bytes() == target.read_bytes()


def test_one_of_several_files(tmp_path):
    """A composite format has files of any format in it."""
    a, b = (np.full(4, value, "float32") for value in (1, 2))
    own_weights.write(tmp_path / "one", {"a": a})
    own_weights.write(tmp_path / "two", {"b": b})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "one", "b": "two"}}))
    found = read_checkpoint(index).tensors
    assert [(name, array.tolist()) for name, array in found.items()] == [("a", [1] * 4), ("b", [2] * 4)]


def test_messages_name_it(model, arrays, tmp_path):
    path = tmp_path / "file"
    own_weights.write(path, arrays)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"file: truncated: \d+ bytes remain"):
        rnncore.load(path)
    own_graph.write(path, model.spec, model.weights)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FormatError, match="file: truncated"):
        rnncore.load(path)
    with pytest.raises(UnsupportedError, match=r"own graph, which holds a network; expected .*own weights"):
        read_checkpoint(path)
    path.write_bytes(b"something else")
    with pytest.raises((FormatError, UnsupportedError), match=r"own weights.*own graph"):
        rnncore.load(path)
