"""Every convolution, pad and quantized op of published models, on the values that ONNX Runtime passes to it there."""

import numpy as np
import onnx
import onnxruntime
import pytest
from agreement import assert_close
from onnx import helper, numpy_helper
from onnx_ops import OneNode, onnx_node
from real_models import real_file

from rnncore.ops import convolution, normalization, pooling, quantized, resize

NAMES = {op.name for family in (convolution, normalization, pooling, quantized, resize) for op in family.OPS}


def image(rng):
    return {"input1": rng.random((1, 1, 64, 170)).astype(np.float32) - np.float32(0.5)}


def speech(rng):
    state = rng.standard_normal((2, 1, 1, 128)).astype(np.float32) / 2
    return {"input": rng.standard_normal((3, 576)).astype(np.float32) / 10, "h": state[0], "c": state[1]}


MODELS = {
    "captcha": ("ddddocr==1.6.1", "ddddocr/common.onnx", image, {"Conv": 21}),
    "captcha, quantized": (
        *("ddddocr==1.6.1", "ddddocr/common_old.onnx", image),
        {"ConvInteger": 21, "DynamicQuantizeLinear": 22, "MatMulInteger": 1, "DynamicQuantizeLSTM": 1},
    ),
    "voice": ("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx", speech, {"Conv": 6, "Pad": 1}),
}


def nodes_with_values(requirement, member, inputs):
    """Each node of ours, its inputs' and outputs' arrays."""
    model = onnx.load(real_file(requirement, member))
    graph = model.graph
    values = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
    values.update(inputs)
    nodes = [node for node in graph.node if node.op_type in NAMES]
    wanted = {name for node in nodes for name in (*node.input, *node.output) if name} - set(values)
    del graph.output[:]
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in sorted(wanted))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    values.update(zip(sorted(wanted), session.run(sorted(wanted), inputs), strict=True))
    for node in nodes:
        yield (
            node,
            [np.asarray(values[name]) if name else None for name in node.input],
            [np.asarray(values[name]) if name else None for name in node.output],
        )


@pytest.mark.parametrize("name", MODELS)
def test_every_node(name):
    requirement, member, make, counts = MODELS[name]
    inputs = make(np.random.default_rng(0))
    found = {}
    for node, arrays, expected in nodes_with_values(requirement, member, inputs):
        op, attributes = onnx_node(node)
        found[op] = found.get(op, 0) + 1
        outputs = OneNode(op, attributes, arrays).run()
        for ours, theirs in zip(outputs, expected, strict=False):
            if theirs is None:
                continue
            if theirs.dtype.kind in "iu":
                np.testing.assert_array_equal(ours, theirs, err_msg=node.name)
            else:
                assert_close(ours, theirs, 2e-3 if op == "DynamicQuantizeLSTM" else 1e-5, node.name)
    assert found == counts
