"""What onnx.reference runs for rnncore: equal to ONNX Runtime, or to the formula, at each version that is claimed."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from rare_ops import CALLS, CONSTANT, FORMULAS

import rnncore
from rnncore.ops.reference import RARE

# Versions that are read as another one, which says the same in other words.
OLDER = {"GridSample": (16,), "NonMaxSuppression": (10,), "RoiAlign": (10,)}
# Versions that differ in dtypes alone, and that ONNX Runtime has no kernel for: it is asked for the one before.
AS_BEFORE = {("RoiAlign", 22): 16}


def model_of(op, arrays, attributes, opset):
    """A file of one node, and the arrays of its inputs."""
    constant = CONSTANT.get(op, ())
    names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
    while not names[-1]:
        names.pop()
    inputs, constants, given = [], [], {}
    for place, name in enumerate(names):
        if not name:
            continue
        array = np.asarray(arrays[place])
        if place in constant:
            constants.append(numpy_helper.from_array(array, name))
        else:
            inputs.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            )
            given[name] = array
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [helper.make_empty_tensor_value_info("y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), given


def expected(op, arrays, attributes, opset):
    if op in FORMULAS:
        return FORMULAS[op](*arrays, **attributes)
    model, given = model_of(op, arrays, attributes, AS_BEFORE.get((op, opset), opset))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]


CLAIMED = [(op, opset) for op in RARE for opset in (*OLDER.get(op, ()), *RARE[op])]


def test_each_op_is_drawn():
    assert set(CALLS) == set(RARE)
    for op, versions in RARE.items():
        history = {schema.since_version for schema in onnx.defs.get_all_schemas_with_history() if schema.name == op}
        assert set(versions) <= history and list(versions) == sorted(versions)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("op", "opset"), CLAIMED)
def test_equal(op, opset, tmp_path):
    compared = 0
    for seed in range(12):
        arrays, attributes = CALLS[op](np.random.default_rng(seed), opset)
        model, given = model_of(op, arrays, attributes, opset)
        onnx.save(model, tmp_path / "model.onnx")
        if op == "GridSample" and "cubic" in attributes["mode"] and attributes["padding_mode"] == "border":
            with pytest.raises(rnncore.UnsupportedError, match="mode='cubic' and padding_mode='border'"):
                rnncore.load(tmp_path / "model.onnx")
            continue
        wanted = expected(op, arrays, attributes, opset)
        found = rnncore.load(tmp_path / "model.onnx").run(given)["y"]
        assert found.shape == wanted.shape and found.dtype == wanted.dtype, (seed, attributes)
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-5, err_msg=f"{seed}: {attributes}")
        compared += 1
    assert compared > 6


@pytest.mark.parametrize(
    ("op", "opset", "says"),
    [("MaxRoiPool", 22, "op 'MaxRoiPool' of opset 22 is not supported"), ("Det", 10, "expected that of 11, 22")],
)
def test_other_versions_are_refused_by_name(op, opset, says, tmp_path):
    arrays = [np.ones((1, 1, 4, 4), np.float32), np.ones((1, 5), np.float32)][: 1 + (op == "MaxRoiPool")]
    model, _ = model_of(op, arrays, {"pooled_shape": [1, 1]} if op == "MaxRoiPool" else {}, opset)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(rnncore.UnsupportedError, match=says):
        rnncore.load(tmp_path / "model.onnx")
