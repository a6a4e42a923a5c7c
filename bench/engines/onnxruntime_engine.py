"""ONNX Runtime on its own RNN, LSTM and GRU operators, one node a layer, time first as the operators want it."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# PyTorch's gates in ONNX's order: i f g o -> i o f c, r z n -> z r h.
ORDER = {"RNN": [0], "LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}


def version() -> str:
    return onnxruntime.__version__


def graph(shape, use_lengths=True) -> bytes:
    """The shape as an ONNX model from "x" (T, B, I) to a sequence (T, B, H * directions)."""
    weights, _ = shape.arrays()
    nodes, initializers, value = [], [], "x"

    def reorder(array):
        gates = np.split(array, len(ORDER[shape.cell]))
        return np.concatenate([gates[gate] for gate in ORDER[shape.cell]])

    def constant(name, array):
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    if shape.directions == 2:
        constant("flat", np.array([0, 0, -1], np.int64))
    else:
        constant("direction", np.array([1], np.int64))
    lengths = constant("lengths", shape.lengths.astype(np.int32)) if shape.ragged and use_lengths else ""
    for layer in range(shape.layers):
        suffixes = [f"_l{layer}" + end for end in ("", "_reverse")[: shape.directions]]
        w = constant(f"w{layer}", np.stack([reorder(weights["weight_ih" + s]) for s in suffixes]))
        r = constant(f"r{layer}", np.stack([reorder(weights["weight_hh" + s]) for s in suffixes]))
        biases = [np.concatenate([reorder(weights[b + s]) for b in ("bias_ih", "bias_hh")]) for s in suffixes]
        options = {"linear_before_reset": 1} if shape.cell == "GRU" else {}
        direction = "bidirectional" if shape.bidirectional else "forward"
        nodes.append(
            helper.make_node(
                shape.cell, [value, w, r, constant(f"b{layer}", np.stack(biases)), lengths], [f"y{layer}"],
                hidden_size=shape.H, direction=direction, **options,
            )
        )  # fmt: skip
        if shape.directions == 1:
            nodes.append(helper.make_node("Squeeze", [f"y{layer}", "direction"], [f"f{layer}"]))
        else:
            nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"t{layer}", "flat"], [f"f{layer}"]))
        value = f"f{layer}"
    width = shape.H * shape.directions
    made = helper.make_graph(
        nodes, "race",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [shape.T, shape.B, shape.I])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, [shape.T, shape.B, width])],
        initializers,
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model.SerializeToString()


def session_options(threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return options


def prepare(shape, threads):
    session = onnxruntime.InferenceSession(graph(shape), session_options(threads), providers=["CPUExecutionProvider"])
    feed = {"x": np.ascontiguousarray(shape.arrays()[1].transpose(1, 0, 2))}
    return lambda: session.run(None, feed)[0].transpose(1, 0, 2)
