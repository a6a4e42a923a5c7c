"""The recurrent conformance cases that onnx 1.22.0 ships (newer wheels have none), through rnncore.load.

Each case is a model of one node, its inputs and the outputs that it must give. The weights are inputs there and
constants here, as in every model that was trained. The three "batchwise" cases have layout 1, which ONNX Runtime
refuses.
"""

import onnx
import pytest
from agreement import assert_close
from onnx import numpy_helper
from real_models import real_folders

import rnncore

CASES = [
    *("gru_batchwise", "gru_defaults", "gru_seq_length", "gru_with_initial_bias"),
    *("lstm_batchwise", "lstm_defaults", "lstm_with_initial_bias", "lstm_with_peepholes"),
    *("rnn_seq_length", "simple_rnn_batchwise", "simple_rnn_defaults", "simple_rnn_with_initial_bias"),
]
WEIGHTS = ("W", "R", "B", "P")


@pytest.fixture(scope="module")
def folders():
    node = "onnx/backend/test/data/node"
    return dict(zip(CASES, real_folders("onnx==1.22.0", [f"{node}/test_{case}" for case in CASES]), strict=True))


def read_case(folder):
    """The model with its weights as constants, the arrays of its other inputs, and those of its outputs."""
    model = onnx.load(folder / "model.onnx")
    values = {}
    for side, entries in (("input", model.graph.input), ("output", model.graph.output)):
        for index, entry in enumerate(entries):
            content = (folder / "test_data_set_0" / f"{side}_{index}.pb").read_bytes()
            values[entry.name] = numpy_helper.to_array(onnx.TensorProto.FromString(content))
    inputs = {entry.name: values[entry.name] for entry in model.graph.input}
    for name in WEIGHTS:
        if name in inputs:
            model.graph.initializer.append(numpy_helper.from_array(inputs.pop(name), name))
    kept = [entry for entry in model.graph.input if entry.name in inputs]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model, inputs, {entry.name: values[entry.name] for entry in model.graph.output}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_case(folders, case, dtype, tmp_path):
    model, inputs, expected = read_case(folders[case])
    (node,) = model.graph.node
    assert {entry.name: entry.i for entry in node.attribute}.get("layout", 0) == ("batchwise" in case)
    onnx.save(model, tmp_path / "model.onnx")
    found = rnncore.load(tmp_path / "model.onnx", dtype=dtype).run(inputs)
    assert expected and found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == dtype
        assert_close(found[name], array, 1e-6, f"{case}: {name}")


def test_weights_that_are_inputs_are_refused_by_name(folders):
    with pytest.raises(rnncore.UnsupportedError, match=r"graph.node\[0\] '' \(LSTM\): input W \('W'\) is computed or"):
        rnncore.load(folders["lstm_defaults"] / "model.onnx")
