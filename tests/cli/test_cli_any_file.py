"""inspect, convert and verify of whatever is in a file: a table, a file, a verdict, or a line that says what is wrong.

Never a traceback: files of every format, of every kind of node, hostile ones, ones whose shapes contradict each other,
and damaged ones; and peers that do not take what the model takes.
"""

from __future__ import annotations

import json
import os
import random
import zlib

import hostile_files
import hostile_keras
import hostile_onnx
import numpy as np
import onnx
import pytest
from batch_kills import child, outcome, tagger
from click.testing import CliRunner
from onnx import TensorProto, helper
from paths import GOLDEN

import rnncore
from rnncore import Control, Input, Model, Node, Recurrent, Spec, zoo
from rnncore.cells import GRU
from rnncore.cli import references
from rnncore.cli.application import application
from rnncore.errors import FormatError, InputError, SpecError, UnsupportedError, VerificationError, WeightError
from rnncore.formats.verification import compare

SCALE = float(os.environ.get("RNNCORE_TEST_SCALE", "1"))
FILES = sorted(path for path in GOLDEN.rglob("*") if path.suffix in (".h5", ".keras", ".npz", ".safetensors"))
X = Input("x", "float", ("B", "T", 3))


def invoke(*words):
    """The result of a command that ended in an exit code and, where it failed, one line."""
    result = CliRunner().invoke(application, [str(word) for word in words], prog_name="rnncore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1), result.output
    if result.exit_code == 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 or "DIFFERENT" in result.stdout, result.output
        assert "Traceback" not in result.output
    return result


def looked_at(path, tmp_path):
    """Everything that a user may do with a file, and whether it is one that rnncore runs."""
    table = invoke("inspect", path)
    everything = invoke("inspect", "--json", path)
    assert table.exit_code == everything.exit_code
    if everything.exit_code == 0:
        json.loads(everything.stdout)
    spec = invoke("inspect", "--spec", path)
    if spec.exit_code == 0:
        Spec.from_json(spec.stdout)
    target = tmp_path / "converted.safetensors"
    target.unlink(missing_ok=True)
    converted = invoke("convert", path, target)
    assert (converted.exit_code == 0) == target.exists()
    if converted.exit_code == 0:
        assert table.exit_code == spec.exit_code == 0
        assert invoke("inspect", target).exit_code == 0
    return converted.exit_code == 0


def graph(nodes, inputs, outputs):
    made = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tensor(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def onnx_if():
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["a"])], "then", [], [tensor("a")])
    other = helper.make_graph([helper.make_node("Tanh", ["x"], ["b"])], "else", [], [tensor("b")])
    node = helper.make_node("If", ["c"], ["y"], "choose", then_branch=then, else_branch=other)
    return graph([node], [tensor("c", [], TensorProto.BOOL), tensor("x", ["B", 3])], [tensor("y", ["B", 3])])


def onnx_loop():
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "x"], ["t"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("s", ["B", 3])],
        [tensor("on", [], TensorProto.BOOL), tensor("t", ["B", 3])],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], "again", body=body)
    return graph([node], [tensor("n", [], TensorProto.INT64), tensor("x", ["B", 3])], [tensor("y", ["B", 3])])


def onnx_scan():
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["u"])],
        "body",
        [tensor("s", [3]), tensor("e", [3])],
        [tensor("t", [3]), tensor("u", [3])],
    )
    node = helper.make_node("Scan", ["s0", "x"], ["s1", "y"], "along", body=body, num_scan_inputs=1)
    return graph([node], [tensor("s0", [3]), tensor("x", ["T", 3])], [tensor("s1", [3]), tensor("y", ["T", 3])])


def onnx_contradiction():
    """Refused while shapes are inferred, where no node alone is to blame."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("MatMul", ["a", "a"], ["y"], "product")]
    return graph(nodes, [tensor("x", [2, 3])], [tensor("y")])


GRAPHS = {"if": onnx_if, "loop": onnx_loop, "scan": onnx_scan}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_with_control(name, tmp_path):
    onnx.save(GRAPHS[name](), tmp_path / "m.onnx")
    assert looked_at(tmp_path / "m.onnx", tmp_path)
    op = name.capitalize()
    table = invoke("inspect", tmp_path / "converted.safetensors").stdout
    assert op in table and ("then of 1 node, else of 1 node" if name == "if" else "body of ") in table
    nodes = json.loads(invoke("inspect", "--json", tmp_path / "converted.safetensors").stdout)["nodes"]
    assert op in [node["kind"] for node in nodes]
    if name != "loop":  # drawn inputs ask for at most one step, of a trip count that has a row
        result = invoke("verify", tmp_path / "converted.safetensors", "--against", tmp_path / "m.onnx")
        assert result.exit_code == 0, result.output


def test_control_with_weights_inside(tmp_path):
    inner = Spec([X], [Recurrent("gru", GRU(3, 4), "x")], ["gru.last"])
    node = Control("if", "If", ("c", "x"), (inner, inner), ("x",))
    spec = Spec([Input("c", "bool", ()), X], [node, Node("y", "Relu", "if")], ["y"])
    weights = {name: np.ones(shape, np.float32) for name, shape in spec.weight_shapes().items()}
    rnncore.save(tmp_path / "m.safetensors", Model(spec, weights))
    assert looked_at(tmp_path / "m.safetensors", tmp_path)
    (first, _) = json.loads(invoke("inspect", "--json", tmp_path / "m.safetensors").stdout)["nodes"]
    assert first["parameters"] == sum(array.size for array in weights.values()) > 0


def test_a_graph_refused_while_shapes_are_inferred(tmp_path):
    """README: inspect lists every node and what is wrong."""
    onnx.save(onnx_contradiction(), tmp_path / "m.onnx")
    assert not looked_at(tmp_path / "m.onnx", tmp_path)
    table = invoke("inspect", tmp_path / "m.onnx")
    assert table.exit_code == 0
    assert "Relu" in table.stdout and "MatMul" in table.stdout
    assert "differ in the size they share: 3 and 2" in table.stdout.split("not supported")[1]
    found = json.loads(invoke("inspect", "--json", tmp_path / "m.onnx").stdout)
    assert "differ in the size" in found["file_nodes"][1]["problem"] and found["model"] is None
    assert invoke("inspect", "--spec", tmp_path / "m.onnx").exit_code == 1


@pytest.mark.parametrize("error", [SpecError, FormatError, UnsupportedError, WeightError, InputError])
def test_a_graph_refused_as_a_whole(tmp_path, monkeypatch, error):
    """Whatever keeps a graph from being loaded, its nodes are shown, and why."""
    onnx.save(onnx_if(), tmp_path / "m.onnx")

    def refuse(*arguments, **options):
        raise error("somewhere: found, expected")

    monkeypatch.setattr(rnncore.formats.loading, "open_file", refuse)
    table = invoke("inspect", tmp_path / "m.onnx")
    assert table.exit_code == 0 and "choose" in table.stdout
    assert "problem: somewhere: found, expected" in table.stdout
    assert json.loads(invoke("inspect", "--json", tmp_path / "m.onnx").stdout)["problem"].startswith("somewhere")
    assert invoke("inspect", "--spec", tmp_path / "m.onnx").exit_code == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(GOLDEN)))
def test_golden_files(path, tmp_path):
    looked_at(path, tmp_path)
    invoke("verify", path)


@pytest.mark.parametrize("name", zoo.models())
def test_zoo(name, tmp_path):
    assert looked_at(f"zoo:{name}", tmp_path)


HOSTILE = [
    (module.HOSTILE[name], write)
    for module, write in (
        (hostile_files, hostile_files.write),
        (hostile_onnx, hostile_onnx.write),
        (hostile_keras, hostile_files.write),
    )
    for name in sorted(module.HOSTILE)
]


def test_hostile_files(tmp_path):
    for case, write in HOSTILE[:: max(1, round(12 / SCALE))]:
        path = write(case, tmp_path)
        assert invoke("inspect", path).exit_code in (0, 1)
        assert invoke("convert", path, tmp_path / "x.safetensors").exit_code in (0, 1)


def damaged(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"))
        elif kind == 2:
            del data[at : at + chance.randrange(1, 20)]
        else:
            data[at:at] = data[chance.randrange(len(data)) :][:8]
    return bytes(data)


def seeds(tmp_path):
    tagger(tmp_path / "seed.safetensors")
    onnx.save(onnx_if(), tmp_path / "seed.onnx")
    by_kind = {path.suffix: path for path in sorted(FILES, key=lambda path: -path.stat().st_size)}
    return [
        tmp_path / "seed.safetensors",
        tmp_path / "seed.onnx",
        *(by_kind[kind] for kind in (".h5", ".keras", ".npz")),
    ]


def test_damaged_files(tmp_path):
    """Also run, in a process of its own, which a crash would end."""
    for seed in seeds(tmp_path):
        data = seed.read_bytes()
        for number in range(round(8 * SCALE)):
            chance = random.Random(zlib.crc32(f"{seed.name} {number}".encode()))
            path = tmp_path / f"damaged{seed.suffix}"
            path.write_bytes(damaged(data, chance))
            invoke("inspect", path)
            invoke("inspect", "--json", path)
            code = outcome(child(["verify", str(path)]))  # 70: an exception
            assert code in (0, 1), f"{seed.name}, {number}: exit code {code}"


def test_a_peer_that_refuses_the_inputs(tmp_path):
    """Its graph has fixed sizes, ours has not."""
    model = Model(Spec([Input("x", "float", ("B", "T"))], [Node("y", "Relu", "x")], ["y"]), {})
    rnncore.save(tmp_path / "m.safetensors", model)
    fixed = graph([helper.make_node("Relu", ["x"], ["y"])], [tensor("x", [4, 4])], [tensor("y", [4, 4])])
    onnx.save(fixed, tmp_path / "fixed.onnx")
    result = invoke("verify", tmp_path / "m.safetensors", "--against", tmp_path / "fixed.onnx")
    assert result.exit_code == 1
    assert "fixed.onnx: onnxruntime does not run it with these inputs: " in result.stderr


@pytest.mark.parametrize(
    "broken",
    [
        RuntimeError("no"),
        ValueError("no"),
        KeyError("x"),
        TypeError("no"),
        MemoryError(),
        AssertionError(),
        OSError("no"),
    ],
)
def test_whatever_a_peer_raises(broken):
    with (
        pytest.raises(VerificationError, match="f: peer does not run it with these inputs"),
        references._running("f", "peer"),
    ):
        raise broken


@pytest.mark.parametrize("value", [["a"], {"a": 1}, np.array(["a"]), np.array([None]), None])
def test_outputs_that_are_no_numbers(value):
    with pytest.raises(VerificationError, match="output 'y' is"):
        references._arrays("f", {"y": value})


@pytest.mark.parametrize("ours", [np.float32, np.float64, np.int64, bool])
@pytest.mark.parametrize("theirs", [np.float32, np.float16, np.int32, np.uint8, bool])
def test_dtypes_that_are_compared(ours, theirs):
    """Numbers with numbers of their kind; others are refused by name."""
    found, expected = {"y": np.ones(3, ours)}, {"y": np.ones(3, theirs)}
    floats = [np.dtype(dtype).kind == "f" for dtype in (ours, theirs)]
    if floats[0] != floats[1]:
        with pytest.raises(VerificationError, match="y: dtype "):
            compare(found, expected, "m")
    else:
        assert compare(found, expected, "m").passed
