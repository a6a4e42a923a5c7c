"""Every convolution, pad and quantized op of published models, on the values that ONNX Runtime passes to it there."""

import numpy as np
import onnx
import onnxruntime
import pytest
from agreement import assert_close
from onnx import helper, numpy_helper
from onnx_ops import OneNode, onnx_node, run_onnxruntime
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
                assert_close(ours, theirs, 1e-5, node.name)
    assert found == counts


def test_every_step_of_a_quantized_lstm():
    """Each step from ONNX Runtime's own state, so that no rounding of a state is carried on: 1e-5 always.

    A second row that holds the input's extremes makes a step's quantization that of the whole sequence. The steps of
    ONNX Runtime together are its run of the whole, to the bit: nothing else is in there.
    """
    requirement, member, make, _ = MODELS["captcha, quantized"]
    nodes = nodes_with_values(requirement, member, make(np.random.default_rng(0)))
    ((node, arrays, (whole, *_)),) = [found for found in nodes if found[0].op_type == "DynamicQuantizeLSTM"]
    op, attributes = onnx_node(node)
    x, w, r, bias, _, _, _, _, *scales = arrays
    extremes = np.zeros_like(x[0, 0])
    extremes[:2] = x.min(), x.max()
    attributes["direction"] = "forward"
    for d, order in enumerate((range(len(x)), range(len(x))[::-1])):
        own = [array[d : d + 1] for array in (w, r, bias)]
        h = c = np.zeros((1, 2, attributes["hidden_size"]), np.float32)
        for step in order:
            given = [np.stack([x[step, 0], extremes])[None], *own, None, h, c, None]
            given += [array[d : d + 1] for array in scales]
            expected = run_onnxruntime(op, attributes, given, 3, domain="com.microsoft")
            for ours, theirs in zip(OneNode(op, attributes, given).run(), expected, strict=True):
                assert_close(ours, theirs, 1e-5, f"{d} {step}")
            np.testing.assert_array_equal(expected[0][0, 0, 0], whole[step, d, 0])
            h, c = (np.stack([state[:, 0], np.zeros_like(state[:, 0])], axis=1) for state in expected[1:])
