"""inspect and convert of graphs with If, Loop and Scan, drawn at random: nested, with captures and several outputs."""

import json
import random

import numpy as np
import onnx
import onnxruntime
import pytest
from agreement import assert_close, assert_same_bits
from click.testing import CliRunner
from draw import Draw
from onnx_control import control_model
from random_networks import seeds
from targets._graphs import Graph
from targets._runs import inputs_of, weights_of

import rnncore
from rnncore import Control, Model, Spec
from rnncore.cli.application import application
from rnncore.errors import RnncoreError


def invoke(*words):
    """The output of a command that ends well."""
    result = CliRunner().invoke(application, [str(word) for word in words], prog_name="rnncore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def controls(spec):
    """The control nodes of a Spec and of their branches."""
    for node in spec.nodes:
        if isinstance(node, Control):
            yield node
            for branch in node.branches:
                yield from controls(branch)


def converted(path, tmp_path):
    """Models of a file after each way of writing it, each inspected in each way; the last from a directory."""
    spec = Spec.from_json(invoke("inspect", "--spec", path))
    tables = [invoke("inspect", path)]
    folder = tmp_path / "folder"
    folder.mkdir()
    for target in (tmp_path / "converted.safetensors", folder):
        tables += [invoke("convert", path, target), invoke("inspect", target)]
        nodes = json.loads(invoke("inspect", "--json", target))["nodes"]
        assert [node["name"] for node in nodes] == [node.name for node in spec.nodes]
        assert Spec.from_json(invoke("inspect", "--spec", target)) == spec
        yield rnncore.load(target)
    for table in tables:
        assert all(node.name in table for node in spec.nodes)


@pytest.mark.parametrize("seed", seeds(6))
def test_onnx_graphs(seed, tmp_path):
    """The converted file computes what the ONNX file does, and what ONNX Runtime does."""
    made, given = control_model(seed)
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    model = rnncore.load(path)
    given = {entry.name: given[entry.name] for entry in model.inputs}
    expected = model.run(given)
    assert {"If", "Loop", "Scan"} & {node.op for node in controls(model.spec)}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    theirs = onnxruntime.InferenceSession(path, options).run(None, given)
    for (name, array), other in zip(expected.items(), theirs, strict=True):
        assert_close(array, other, 1e-5, name)
    for other in converted(path, tmp_path):
        for name, array in other.run(given).items():
            assert_same_bits(array, expected[name], name)


def drawn_model(seed):
    """A model around at least one control node, and inputs that it takes."""
    for attempt in range(100):
        draw = Draw(random.Random(1000 * seed + attempt).randbytes(600))
        graph = Graph(draw)
        graph.add_input("float", ("B", "T", 3))
        graph.add()
        if not graph._add_control():
            continue
        graph.add()
        spec = graph.spec()
        weights = weights_of(spec, draw.rng())
        given = inputs_of(spec, draw, graph.sizes, "float32")
        try:
            model = Model(spec, weights)
            return model, given, model.run(given)
        except RnncoreError:
            continue
    raise AssertionError(f"no model for seed {seed}")


@pytest.mark.parametrize("seed", seeds(5))
def test_graphs_of_all_ops(seed, tmp_path):
    """A model from Python, saved and converted: the same bits."""
    model, given, expected = drawn_model(seed)
    path = rnncore.save(tmp_path / "m.safetensors", model)
    assert list(controls(model.spec))
    for other in converted(path, tmp_path):
        found = other.run(given)
        for outputs in zip(*(x if isinstance(x, tuple) else (x,) for x in (found, expected)), strict=True):
            for name, array in outputs[0].items():
                assert_same_bits(np.asarray(array), np.asarray(outputs[1][name]), name)
