"""Every convolution, pad and quantized op of published models, on the values that ONNX Runtime passes to it there.

A quantized op must give what exact integers give, any other what ONNX Runtime gives.
"""

import numpy as np
import onnx
import onnxruntime
import pytest
from agreement import assert_close
from exact_integers import EXACT
from onnx import helper, numpy_helper
from onnx_ops import OneNode, onnx_node, onnxruntime_has_the_bits, run_onnxruntime
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
        if op in EXACT:
            for ours, exact in zip(outputs, EXACT[op](attributes, *arrays), strict=True):
                np.testing.assert_array_equal(ours, exact, err_msg=node.name)
            continue
        for ours, theirs in zip(outputs, expected, strict=False):
            if theirs is not None:
                assert_close(ours, theirs, 1e-5, node.name)
    assert found == counts


@pytest.mark.parametrize("bits", [7, 8])
def test_the_steps_of_a_quantized_lstm(bits):
    """From a state to the next, over the whole sequence; and ONNX Runtime's where its sums of 7 bits are exact."""
    requirement, member, make, _ = MODELS["captcha, quantized"]
    nodes = nodes_with_values(requirement, member, make(np.random.default_rng(0)))
    ((node, arrays, _),) = [found for found in nodes if found[0].op_type == "DynamicQuantizeLSTM"]
    op, attributes = onnx_node(node)
    arrays[1:3] = (array // 2 ** (8 - bits) for array in arrays[1:3])
    found = OneNode(op, attributes, arrays).run()
    for ours, exact in zip(found, EXACT[op](attributes, *arrays), strict=True):
        np.testing.assert_array_equal(ours, exact)
    if bits == 7 and onnxruntime_has_the_bits():
        for ours, theirs in zip(found, run_onnxruntime(op, attributes, arrays, 3, domain="com.microsoft"), strict=True):
            np.testing.assert_array_equal(ours, theirs)
