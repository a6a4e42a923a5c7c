"""The recurrent conformance cases that onnx 1.22.0 ships (newer wheels have none), through the test-only loader.

Each case is a model of one node, its inputs and the outputs that it must give. The three "batchwise" cases have
layout 1, which ONNX Runtime refuses.
"""

import numpy as np
import onnx
import pytest
from agreement import assert_close
from onnx import numpy_helper
from onnx_recurrent import INPUTS, load_node
from real_models import real_folders

from rnncore.model import Model

CASES = [
    *("gru_batchwise", "gru_defaults", "gru_seq_length", "gru_with_initial_bias"),
    *("lstm_batchwise", "lstm_defaults", "lstm_with_initial_bias", "lstm_with_peepholes"),
    *("rnn_seq_length", "simple_rnn_batchwise", "simple_rnn_defaults", "simple_rnn_with_initial_bias"),
]
OUTPUTS = ("Y", "Y_h", "Y_c")


@pytest.fixture(scope="module")
def folders():
    node = "onnx/backend/test/data/node"
    return dict(zip(CASES, real_folders("onnx==1.22.0", [f"{node}/test_{case}" for case in CASES]), strict=True))


def read_case(folder):
    """The node, its input arrays by ONNX's names, and the outputs that are checked."""
    model = onnx.load(folder / "model.onnx")
    (node,) = model.graph.node
    values = {}
    for side, entries in (("input", model.graph.input), ("output", model.graph.output)):
        for index, entry in enumerate(entries):
            content = (folder / "test_data_set_0" / f"{side}_{index}.pb").read_bytes()
            values[entry.name] = numpy_helper.to_array(onnx.TensorProto.FromString(content))
    inputs = {name: values[own] for name, own in zip(INPUTS[node.op_type], node.input, strict=False) if own}
    outputs = {name: values[own] for name, own in zip(OUTPUTS, node.output, strict=False) if own}
    return node, inputs, outputs


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_case(folders, case, dtype):
    node, arrays, expected = read_case(folders[case])
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    assert attributes.get("layout", 0) == ("batchwise" in case)
    wide = {name: array.astype(np.float64) if array.dtype == "f4" else array for name, array in arrays.items()}
    loaded = load_node(node.op_type, attributes, wide)
    given = {name: array.astype(dtype) if array.dtype == "f8" else array for name, array in loaded.inputs.items()}
    state = None if loaded.state is None else {name: array.astype(dtype) for name, array in loaded.state.items()}
    values, _ = Model(loaded.spec, loaded.weights, dtype).run(given, state)
    found = loaded.outputs(values)
    assert expected and set(expected) <= set(found)
    for name, array in expected.items():
        assert_close(found[name], array, 1e-6, f"{case}: {name}")
