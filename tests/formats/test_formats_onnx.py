"""What ONNX files become: opsets, constants, dtypes, errors that say where, listings; load and export."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from agreement import assert_close
from click.testing import CliRunner
from hostile_onnx import FLOAT, HOSTILE, INT64, constant, graph_of, model_of, node, value, write  # fmt: skip
from onnx import TensorProto, helper

import rnncore
from rnncore.cli.application import application
from rnncore.errors import FormatError, InputError, SpecError, UnsupportedError, VerificationError
from rnncore.formats import read_checkpoint, read_listing


def saved(tmp_path, model, name="model.onnx"):
    onnx.save(model, tmp_path / name)
    return tmp_path / name


def same_as_onnxruntime(path, given, tolerance=1e-6):
    """Runs both, compares every output, and returns the Model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    model = rnncore.load(path)
    found = model.run(given)
    for name, array in zip(names, session.run(names, given), strict=True):
        assert found[name].shape == array.shape
        assert_close(found[name], array, tolerance, name)
    return model


RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3)).astype(np.float32)
CUBE = RNG.normal(size=(2, 3, 4)).astype(np.float32)
FOURS = RNG.normal(size=(2, 4, 3, 2)).astype(np.float32)

# Nodes as opset 7 to 12 wrote them: opset, nodes, the input's array.
OLD = {
    "squeeze_axes": (11, [node("Unsqueeze", "x", "u", axes=[1]), node("Squeeze", "u", axes=[1])], X),
    "reduce_axes": (11, [node("ReduceMean", "x", axes=[-1], keepdims=0)], CUBE),
    "reduce_sum_axes": (12, [node("ReduceSum", "x", axes=[0, 2])], CUBE),
    "slice_attributes": (9, [node("Slice", "x", starts=[1], ends=[3], axes=[1])], CUBE),
    "split_attributes": (11, [node("Split", "x", "y z", axis=1, split=[1, 2])], CUBE),
    "split_equal": (11, [node("Split", "x", "y z", axis=2)], CUBE),
    "clip_attributes": (7, [node("Clip", "x", min=-0.5, max=0.25)], X),
    "softmax_flattens": (11, [node("Softmax", "x", axis=1)], CUBE),
    "softmax_default_axis": (7, [node("LogSoftmax", "x")], CUBE),
    "softmax_last": (11, [node("Softmax", "x", axis=2)], CUBE),
    "dropout": (7, [node("Dropout", "x", ratio=0.5)], X),
    "topk_attribute": (9, [node("TopK", "x", "y z", k=2)], X),
    "transpose_reversed": (7, [node("Transpose", "x")], CUBE),
    "group_normalization": (18, [node("GroupNormalization", "x scale shift", num_groups=2, epsilon=1e-2)], FOURS),
    "scatter": (10, [node("Scatter", "x at with", axis=1)], X),
}
EXTRA = {
    "scatter": [constant("at", np.array([[0, 2]])), constant("with", np.array([[5, 6]], np.float32))],
    "group_normalization": [
        constant(name, np.array(numbers, np.float32)) for name, numbers in (("scale", [2, -1]), ("shift", [0.5, 3]))
    ],
}


@pytest.mark.parametrize("name", OLD)
def test_old_opsets(name, tmp_path):
    opset, nodes, array = OLD[name]
    outputs = [value(output, None, INT64 if name.startswith("topk") and output == "z" else FLOAT)
               for output in nodes[-1].output]  # fmt: skip
    shape = tuple("BCDE"[: array.ndim]) if not name.startswith("split") else array.shape
    model = model_of(*nodes, opset=opset, inputs=[value("x", shape)], outputs=outputs, constants=EXTRA.get(name, ()))
    model.ir_version = 7
    same_as_onnxruntime(saved(tmp_path, model), {"x": array})


FURTHER = {
    "indices": ([node("MaxPool", "x", "y z", kernel_shape=[2, 2], pads=[1, 0, 0, 1])], INT64, "bhij"),
    "indices_alone": ([node("MaxPool", "x", "w z", kernel_shape=[3, 1]), node("Relu", "x")], INT64, "bhij"),
    "unpooled": (
        [
            node("MaxPool", "x", "p at", kernel_shape=[3, 1], strides=[3, 1]),
            node("MaxUnpool", "p at", "z", kernel_shape=[3, 1], strides=[3, 1]),
            node("Neg", "p", "y"),
        ],
        FLOAT,
        "bhij",
    ),
    "mean": ([node("LayerNormalization", "x ones", "y z", axis=-1)], FLOAT, "bhij"),
    "deviation": ([helper.make_node("LayerNormalization", ["x", "ones"], ["y", "", "z"], axis=-1)], FLOAT, "bhij"),
}


@pytest.mark.parametrize("name", FURTHER)
def test_further_outputs(name, tmp_path):
    nodes, dtype, sizes = FURTHER[name]
    outputs = [value("y", [f"y{size}" for size in sizes]), value("z", [f"z{size}" for size in sizes], dtype)]
    constants = [constant("ones", np.array([1, 2], np.float32))] if "Layer" in nodes[0].op_type else []
    model = model_of(*nodes, inputs=[value("x", ("B", 4, "H", 2))], outputs=outputs, constants=constants)
    same_as_onnxruntime(saved(tmp_path, model), {"x": FOURS})


def test_outputs_that_nobody_reads_are_not_made(tmp_path):
    pool, norm = node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("LayerNormalization", "p ones", "y m d")
    ones = constant("ones", np.ones(1, np.float32))
    model = model_of(pool, norm, inputs=[value("x", ("B", 4, "H", 2))], outputs=[value("y", None)], constants=[ones])
    found = {node.op: node for node in rnncore.load(saved(tmp_path, model)).spec.nodes}
    assert not found["MaxPool"].attributes["indices"]
    assert not found["LayerNormalization"].attributes["statistics"]


def test_products_own_their_constants(tmp_path):
    """MatMul and Add, and Gemm with its factors, are one Linear each."""
    w, b = RNG.normal(size=(3, 5)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
    nodes = [
        node("MatMul", "x w", "m"),
        node("Add", "b m", "a"),
        node("Gemm", "a w b3", "y", alpha=0.5, beta=2.0, transB=1),
    ]
    constants = [constant("w", w), constant("b", b), constant("b3", b[:3])]
    model = same_as_onnxruntime(saved(tmp_path, model_of(*nodes, constants=constants)), {"x": X})
    assert [entry.op for entry in model.spec.nodes] == ["Linear", "Linear"]


def test_what_looks_like_a_bias_and_is_none(tmp_path):
    """A column, a product that is read twice, and a bias of another rank are added as they stand."""
    w = RNG.normal(size=(3, 3)).astype(np.float32)
    for bias in (RNG.normal(size=(3, 1)), RNG.normal(size=(1, 1, 3)), RNG.normal(size=(3, 3))):
        nodes = [node("MatMul", "x w", "m"), node("Add", "m b")]
        constants = [constant("w", w), constant("b", bias.astype(np.float32))]
        same_as_onnxruntime(
            saved(tmp_path, model_of(*nodes, constants=constants, inputs=[value("x", (3, 3))])), {"x": X[:3]}
        )
    nodes = [node("MatMul", "x w", "m"), node("Add", "m b", "a"), node("Mul", "a m")]
    constants = [constant("w", w), constant("b", np.ones(3, np.float32))]
    same_as_onnxruntime(saved(tmp_path, model_of(*nodes, constants=constants)), {"x": X})


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_embeddings_count_from_the_end(dtype, tmp_path):
    table = RNG.normal(size=(7, 5)).astype(np.float32)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of(node("Gather", "t x"), inputs=[value("x", ("B", "T"), kind)], constants=[constant("t", table)])
    path = saved(tmp_path, model)
    found = same_as_onnxruntime(path, {"x": np.array([[0, -1, 3], [-7, 6, 2]], dtype)})
    assert "Embedding" in [entry.op for entry in found.spec.nodes]
    with pytest.raises(rnncore.InputError):
        found.run({"x": np.array([[7]], dtype)})


def test_shapes_that_are_computed_are_folded(tmp_path):
    """Shape, Gather, Concat, Reshape: the last dimension is known, and nothing is left but the Reshape."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s zero", "b"),
        node("Unsqueeze", "b axes", "u"),
        node("Concat", "u rest", "target", axis=0),
        node("Reshape", "x target", "r"),
        node("MatMul", "r w"),
    ]
    constants = [
        constant("zero", np.array(0)),
        constant("axes", np.array([0])),
        constant("rest", np.array([12])),
        constant("w", RNG.normal(size=(12, 2)).astype(np.float32)),
    ]
    path = saved(tmp_path, model_of(*nodes, constants=constants, inputs=[value("x", ("B", 3, 4))]))
    model = same_as_onnxruntime(path, {"x": CUBE})
    assert model.spec.values[model.spec.outputs[0]].shape == ("B", 2)


def product_of(dtype):
    """A file that multiplies with one matrix, of one floating type throughout, and the matrix."""
    w = RNG.normal(size=(3, 2)).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs, outputs = [value("x", ("B", 3), kind)], [value("y", None, kind)]
    return model_of(node("MatMul", "x w"), inputs=inputs, outputs=outputs, constants=[constant("w", w)]), w


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_file_of_one_floating_type_is_float(dtype, tmp_path):
    model, w = product_of(dtype)
    found = rnncore.formats.loading.open_file(saved(tmp_path, model))
    assert found.spec.inputs[0].dtype == "float"
    assert any("float16" in note for note in found.notes) == (dtype == "float16")
    y = rnncore.load(tmp_path / "model.onnx", dtype="float64").run({"x": X.astype(np.float64)})["y"]
    assert_close(y, X.astype(np.float64) @ w.astype(np.float64), 1e-12)


def test_a_file_of_float64_runs_as_float64(tmp_path):
    """Here, converted, saved again and from the command line, where no dtype is asked for."""
    path = saved(tmp_path, product_of("float64")[0])
    x = X.astype(np.float64)
    model = same_as_onnxruntime(path, {"x": x}, 1e-15)
    assert model.dtype == np.float64 and rnncore.load(path, dtype="float32").dtype == np.float32
    y = model.run({"x": x})["y"]
    rnncore.convert(path, tmp_path / "converted.safetensors")
    rnncore.save(tmp_path / "saved.safetensors", model)
    np.save(tmp_path / "x.npy", x)
    for again in (path, tmp_path / "converted.safetensors", tmp_path / "saved.safetensors"):
        assert rnncore.load(again).dtype == np.float64
        np.testing.assert_array_equal(rnncore.load(again).run({"x": x})["y"], y)
        arguments = ["run", str(again), "-i", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npy"), "--overwrite"]
        done = CliRunner().invoke(application, arguments)
        assert done.exit_code == 0, done.output
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), y)
    exported = rnncore.export.from_onnx(path)
    assert {array.dtype for array in exported.test_pair.inputs.values()} == {np.dtype("float64")}
    proven = rnncore.load(rnncore.save(tmp_path / "exported.safetensors", exported), check=True)
    assert proven.dtype == np.float64 and (proven.run({"x": x})["y"] == y).all()
    one = rnncore.load(saved(tmp_path, product_of("float32")[0]))
    assert one.dtype == np.float32
    rnncore.save(tmp_path / "one.safetensors", one)
    assert rnncore.load(tmp_path / "one.safetensors").dtype == np.float32


def test_sizes_given_at_load(tmp_path):
    """Names, and what stands for a size without one, in files of every kind; the graph follows."""
    nodes = [node("Squeeze", "x", "y")]
    path = saved(tmp_path, model_of(*nodes, inputs=[value("x", ("batch", None, 3))]))
    open_ones = rnncore.load(path)
    assert open_ones.inputs[0].shape == ("batch", "x.1", 3) and open_ones.outputs[0].shape == ("batch", "x.1", 3)
    model = rnncore.load(path, sizes={"batch": 1})
    assert model.inputs[0].shape == (1, "x.1", 3) and model.outputs[0].shape == ("x.1", 3)
    x = RNG.normal(size=(1, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(model.run({"x": x})["y"], x[0])
    assert rnncore.load(path, sizes={"batch": 1, "x.1": 1}).outputs[0].shape == (3,)
    with pytest.raises(InputError, match="shape"):
        model.run({"x": np.concatenate([x, x])})
    target, _, _ = rnncore.convert(path, tmp_path / "one.safetensors", sizes={"batch": 1})
    np.testing.assert_array_equal(rnncore.load(target).run({"x": x})["y"], x[0])
    own = rnncore.load("zoo:sunspots", sizes={"B": 1})
    assert own.inputs[0].shape[0] == 1
    for sizes, says in (
        ({"batc": 1}, r"sizes: 'batc', expected one of batch, x.1 \(did you mean 'batch'\?\)"),
        ({"batch": 0}, "sizes: batch=0, expected a positive integer"),
        ({"batch": True}, "sizes: batch=True"),
        ({"batch": 1.0}, "sizes: batch=1.0"),
        ([1], r"sizes=\[1\], expected a mapping"),
    ):
        with pytest.raises(SpecError, match=says):
            rnncore.load(path, sizes=sizes)
    with pytest.raises(SpecError, match="zoo:sunspots: sizes: 'batch', expected one of B"):
        rnncore.load("zoo:sunspots", sizes={"batch": 1})


@pytest.mark.parametrize("declared", [None, (), ("n",), ("n", "m"), ("n", "m", "k")])
@pytest.mark.parametrize("shape", [("a", 1), ("a", 1, 2), ("a", "b", 1), (1, 1), ("a", 2)])
def test_squeeze_without_axes(shape, declared, tmp_path):
    """As ONNX Runtime at every size where the rank is the declared one, or else where no named size is 1."""
    output = value("y", declared)
    path = saved(tmp_path, model_of(node("Squeeze", "x"), inputs=[value("x", shape)], outputs=[output]))
    named = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
    ones = sum(size == 1 for size in shape)
    ranks = {len(shape) - ones: "not 1", len(shape) - ones - len(named): "1"}
    if named and declared is not None and len(declared) not in ranks:
        with pytest.raises(UnsupportedError, match=r"\(Squeeze\): no axes for float"):
            rnncore.load(path)
        return
    model = rnncore.load(path)
    all_ones = bool(named) and declared is not None and ranks[len(declared)] == "1"
    for size in (1, 3):
        x = np.ones([size if isinstance(found, str) else found for found in shape], np.float32)
        if named and (size == 1) != all_ones:
            with pytest.raises(InputError, match="Squeeze"):
                model.run({"x": x})
        else:
            assert model.run({"x": x})["y"].shape == x.squeeze().shape


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"])
def test_an_empty_auto_pad_is_none(op, tmp_path):
    w = RNG.normal(size=(3, 3, 2)).astype(np.float32)
    own = {"kernel_shape": [2]} if op.endswith("Pool") else {}
    made = node(op, "x" if op.endswith("Pool") else "x w", auto_pad="", strides=[2], **own)
    path = saved(tmp_path, model_of(made, inputs=[value("x", ("B", 3, "T"))], constants=[constant("w", w)]))
    same_as_onnxruntime(path, {"x": RNG.normal(size=(2, 3, 5)).astype(np.float32)})


@pytest.mark.parametrize("window", [True, False])
def test_a_signal_without_an_axis_of_parts(window, tmp_path):
    constants = [constant("step", np.array(4)), constant("length", np.array(8))]
    constants.append(constant("window", RNG.normal(size=8).astype(np.float32)))
    made = helper.make_node("STFT", ["x", "step", "window" if window else "", "length"], ["y"])
    path = saved(tmp_path, model_of(made, inputs=[value("x", ("B", "L"))], constants=constants, opset=17))
    same_as_onnxruntime(path, {"x": RNG.normal(size=(2, 20)).astype(np.float32)}, 1e-5)


@pytest.mark.parametrize("given", ["constant", "input"])
@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_convolutions_of_no_rows(op, batch, given, tmp_path):
    w = RNG.normal(size=(4, 2, 3)).astype(np.float32)
    x = RNG.normal(size=(batch, 4, 6)).astype(np.float32)
    constants = [constant("w", w)] if given == "constant" else []
    inputs = [value("x", ("B", 4, "T"))] + ([] if constants else [value("w", w.shape)])
    path = saved(tmp_path, model_of(node(op, "x w", group=2), inputs=inputs, constants=constants))
    same_as_onnxruntime(path, {"x": x} if constants else {"x": x, "w": w})


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("state", ["initial_h", "initial_c"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("wrong", ["directions", "hidden", "batch", "rank"])
def test_initial_states_of_wrong_sizes(wrong, layout, state, zero, tmp_path):
    """Refused by name whatever they hold: zeros are not used, but ONNX Runtime and PyTorch would refuse them."""
    shape = {"directions": (2, 5, 4), "hidden": (1, 5, 3), "batch": (1, 6, 4), "rank": (5, 4)}[wrong]
    shape = (shape[1], shape[0], *shape[2:]) if layout and wrong != "rank" else shape
    array = np.zeros(shape, np.float32) if zero else np.ones(shape, np.float32)
    constants = [constant(name, np.ones((1, 16, size), np.float32)) for name, size in (("w", 3), ("r", 4))]
    names = ["x", "w", "r", "", "", "s"] if state == "initial_h" else ["x", "w", "r", "", "", "", "s"]
    made = helper.make_node("LSTM", names, ["y"], hidden_size=4, layout=layout)
    inputs = [value("x", (5, 7, 3) if layout else (7, 5, 3))]
    path = saved(tmp_path, model_of(made, inputs=inputs, constants=[*constants, constant("s", array)]))
    with pytest.raises(SpecError, match=rf"\(LSTM\): {state} is float"):
        rnncore.load(path)


def test_mixed_floating_types_keep_their_own(tmp_path):
    nodes = [node("Cast", "x", "d", to=TensorProto.DOUBLE), node("Mul", "d third", "m"), node("Cast", "m", to=FLOAT)]
    path = saved(tmp_path, model_of(*nodes, constants=[constant("third", np.array(1 / 3))]))
    model = same_as_onnxruntime(path, {"x": X})
    assert "float64" in {entry.dtype for entry in model.spec.values.values()}


def test_errors_name_node_place_type_and_attribute(tmp_path):
    nodes = [node("Relu", "x", "z"), helper.make_node("LRN", ["z"], ["y"], name="norm", size=3, surprise=2)]
    path = saved(tmp_path, model_of(*nodes, inputs=[value("x", ("B", 3, 4, 4))]))
    with pytest.raises(UnsupportedError) as caught:
        rnncore.load(path)
    for part in (str(path), "graph.node[1]", "'norm'", "LRN"):
        assert part in str(caught.value)
    nodes[1] = helper.make_node("Softmax", ["z"], ["y"], name="soft", axis=1, surprise=2)
    with pytest.raises(UnsupportedError, match=r"graph.node\[1\] 'soft' \(Softmax\): attribute 'surprise' is not"):
        rnncore.load(saved(tmp_path, model_of(*nodes)))


def test_inspect_lists_what_cannot_run(tmp_path):
    nodes = [
        node("Relu", "x", "a"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="odd", domain="com.example", strength=3),
        node("Tanh", "b", "c"),
        node("Softmax", "c", surprise=1),
        helper.make_node("Grunt", ["x"], ["unused"]),
    ]
    path = saved(tmp_path, model_of(*nodes))
    listing = read_listing(path)
    assert [entry.kind for entry in listing.nodes] == ["Relu", "com.example.Frobnicate", "Tanh", "Softmax", "Grunt"]
    assert [bool(entry.problem) for entry in listing.nodes] == [False, True, False, False, True]
    assert listing.nodes[1].place == "graph.node[1]" and listing.nodes[1].options == "strength=3"
    shown = CliRunner().invoke(application, ["inspect", str(path)], prog_name="rnncore")
    assert shown.exit_code == 0
    for text in ("graph.node[1]", "odd", "com.example.Frobnicate", "not supported", "opset", "float32 (B, 3)"):
        assert text in shown.output
    found = json.loads(CliRunner().invoke(application, ["inspect", str(path), "--json"], prog_name="rnncore").output)
    assert found["model"] is None and found["file_nodes"][4]["problem"]


def test_inspect_lists_a_graph_that_contradicts_itself(tmp_path):
    """The nodes were read: they are shown, with what is wrong."""
    arrays = {"W": (1, 24, 3), "R": (1, 24, 6)}
    constants = [helper.make_tensor(name, FLOAT, shape, np.ones(shape).ravel()) for name, shape in arrays.items()]
    lstm = helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=7)
    graph = helper.make_graph([lstm], "g", [value("x", ["T", "B", 3])], [value("y", None)], constants)
    path = saved(tmp_path, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    with pytest.raises(FormatError, match="'hidden_size'=7"):
        rnncore.load(path)
    shown = CliRunner().invoke(application, ["inspect", str(path)], prog_name="rnncore")
    assert shown.exit_code == 0 and "nodes of the file" in shown.output
    assert "problem: graph.node[0] '' (LSTM): attribute 'hidden_size'=7, but R has shape (1, 24, 6)" in shown.output


def test_inspect_shows_the_network_of_what_can_run(tmp_path):
    path = saved(tmp_path, model_of(node("Relu", "x")))
    shown = CliRunner().invoke(application, ["inspect", str(path)], prog_name="rnncore")
    assert shown.exit_code == 0 and "as rnncore runs it" in shown.output and "graph.node[0]" in shown.output
    spec = CliRunner().invoke(application, ["inspect", str(path), "--spec"], prog_name="rnncore")
    assert rnncore.Spec.from_json(spec.output) == rnncore.load(path).spec


def test_a_graph_needs_no_spec_and_is_no_checkpoint(tmp_path):
    path = saved(tmp_path, model_of(node("Relu", "x")), "model.safetensors")  # the name does not matter
    with pytest.raises(SpecError, match="holds its own network, expected no spec or names"):
        rnncore.load(path, names={"a": "b"})
    with pytest.raises(UnsupportedError, match="ONNX, which holds a network; expected torch zip"):
        read_checkpoint(path)
    with pytest.raises(VerificationError, match="no test pair"):
        rnncore.load(path, check=True)


def test_convert_and_load_again(tmp_path):
    path = saved(tmp_path, model_of(node("MatMul", "x w"), constants=[constant("w", X.T)]))
    written, native, _ = rnncore.convert(path, tmp_path / "out")
    assert native.source == "model.onnx" and len(native.sha256) == 64
    np.testing.assert_array_equal(rnncore.load(written).run({"x": X})["y"], rnncore.load(path).run({"x": X})["y"])


def test_from_onnx_has_a_test_pair_of_onnxruntime(tmp_path):
    path = saved(tmp_path, model_of(node("MatMul", "x w"), constants=[constant("w", X.T)]))
    exported = rnncore.export.from_onnx(path)
    assert exported.source.startswith("onnxruntime")
    rnncore.load(rnncore.save(tmp_path / "out", exported), check=True)
    exported = rnncore.export.from_onnx(path, {"x": X})
    np.testing.assert_array_equal(exported.test_pair.inputs["x"], X)
    assert_close(exported.test_pair.outputs["y"], X @ X.T, 1e-6)
    with pytest.raises(rnncore.InputError, match="expected arrays by name for x"):
        rnncore.export.from_onnx(path, {"z": X})


def test_from_onnx_without_onnxruntime(tmp_path, monkeypatch):
    """onnx's reference computes it, but for recurrent nodes."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = saved(tmp_path, model_of(node("Tanh", "x")))
    assert rnncore.export.from_onnx(path).source.startswith("onnx.reference")
    arrays = [constant("w", np.ones((1, 2, 4), np.float32)), constant("r", np.ones((1, 2, 2), np.float32))]
    model = model_of(node("RNN", "x w r"), inputs=[value("x", ("T", "B", 4))], constants=arrays)
    with pytest.raises(UnsupportedError, match="RNN needs onnxruntime for a test pair"):
        rnncore.export.from_onnx(saved(tmp_path, model))


def test_reading_does_not_import_onnx_before_it_is_needed():
    script = "import sys, rnncore; print('onnx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280)
    assert done.stdout.strip() == "False", done.stderr


def test_rare_ops_run_by_reference(tmp_path):
    squares = RNG.normal(size=(2, 3, 3)).astype(np.float32)
    path = saved(tmp_path, model_of(node("Det", "x", "d"), node("Tanh", "d"), inputs=[value("x", ("B", 3, 3))]))
    model = same_as_onnxruntime(path, {"x": squares}, 1e-5)
    assert [entry.op for entry in model.spec.nodes] == ["Reference", "Tanh"]
    assert model.spec.values[model.spec.outputs[0]].shape == ("B",)
    again = rnncore.Model(rnncore.Spec.from_json(json.dumps(model.spec.to_json())), model.weights)
    np.testing.assert_array_equal(again.run({"x": squares})["y"], model.run({"x": squares})["y"])


def test_a_loop_whose_value_grows(tmp_path):
    """A carried value that is concatenated in each step: its size is not known, and its rank is."""
    body = graph_of(
        node("Concat", "v x", "w", axis=0),
        node("Identity", "go", "on"),
        inputs=[value("i", (), INT64), value("go", (), TensorProto.BOOL), value("v", None)],
        outputs=[value("on", (), TensorProto.BOOL), value("w", None)],
    )
    loop = helper.make_node("Loop", ["n", ""], ["y"], body=body)
    loop.input.append("x")
    model = model_of(loop, inputs=[value("x", ("B", 3)), value("n", (), INT64)])
    found = rnncore.load(saved(tmp_path, model))
    for steps in (0, 1, 4):
        assert found.run({"x": X, "n": np.array(steps)})["y"].shape == (4 * (steps + 1), 3)


def test_scan(tmp_path):
    """Cumulative sums from behind, along the second axis."""
    body = graph_of(
        node("Add", "s e", "t"), node("Identity", "t", "out"),
        inputs=[value("s", ("B",)), value("e", ("B",))], outputs=[value("t", ("B",)), value("out", ("B",))],
    )  # fmt: skip
    scan = helper.make_node(
        "Scan", ["zero", "x"], ["last", "y"], body=body, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[1], scan_output_axes=[1], scan_output_directions=[1],
    )  # fmt: skip
    model = model_of(
        scan, inputs=[value("x", (4, 3))], outputs=[value("y", None), value("last", None)],
        constants=[constant("zero", np.zeros(4, np.float32))],
    )  # fmt: skip
    same_as_onnxruntime(saved(tmp_path, model), {"x": X})


def test_damaged_has_no_listing(tmp_path):
    with pytest.raises(FormatError):
        read_listing(write(HOSTILE["wire_truncated"], tmp_path))
