"""References for published Keras models: their arrays, read by h5py, in ONNX graphs made here for ONNX Runtime."""

from __future__ import annotations

import h5py
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

__all__ = ["chars2vec", "dgaintel"]


def arrays_of(path) -> dict[str, np.ndarray]:
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, one: arrays.update({name: one[()]} if isinstance(one, h5py.Dataset) else {}))
    return arrays


def to_onnx(kernel: np.ndarray) -> np.ndarray:
    """Columns i f c o as ONNX's rows i o f c."""
    i, f, c, o = np.split(kernel.T if kernel.ndim == 2 else kernel, 4)
    return np.concatenate([i, o, f, c])


def lstm(name: str, x: str, arrays: dict, prefix: str, hidden: int, **attributes):
    """Nodes and initializers of an LSTM on time-first values; its last h is "NAME.h" (1, B, H)."""
    kernel, recurrent, bias = (arrays[f"{prefix}/{key}:0"] for key in ("kernel", "recurrent_kernel", "bias"))
    weights = {
        f"{name}.W": to_onnx(kernel)[None],
        f"{name}.R": to_onnx(recurrent)[None],
        f"{name}.B": np.concatenate([to_onnx(bias), np.zeros_like(bias)])[None],
    }
    node = helper.make_node("LSTM", [x, *weights], [f"{name}.y", f"{name}.h"], name, hidden_size=hidden, **attributes)
    return node, weights


def run(nodes, weights: dict[str, np.ndarray], x: np.ndarray, size: int) -> np.ndarray:
    """The value "out" (B, size) of a graph of x."""
    kind = TensorProto.INT64 if x.dtype == np.int64 else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "reference",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["B", size])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["out"], {"x": x})[0]


def chars2vec(path, x: np.ndarray) -> np.ndarray:
    arrays = arrays_of(path)
    hard = {
        "activations": ["HardSigmoid", "Tanh", "Tanh"],
        "activation_alpha": [0.2],
        "activation_beta": [0.5],
    }
    first, one = lstm("a", "turned", arrays, "lstm_1/lstm_1", 50, **hard)
    second, two = lstm("b", "sequence", arrays, "lstm_2/lstm_2", 50, **hard)
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[1, 0, 2]),
        first,
        helper.make_node("Squeeze", ["a.y", "axis"], ["sequence"]),
        second,
        helper.make_node("Squeeze", ["b.h", "zero"], ["out"]),
    ]
    return run(nodes, {**one, **two, "axis": np.array([1]), "zero": np.array([0])}, x, 50)


def dgaintel(path, ids: np.ndarray) -> np.ndarray:
    arrays = {
        name.removeprefix("model_weights/"): array
        for name, array in arrays_of(path).items()
        if name.startswith("model_weights/")
    }
    node, weights = lstm("l", "turned", arrays, "lstm_4/lstm_4", 64)
    weights |= {
        "table": arrays["embedding_4/embedding_4/embeddings:0"],
        "kernel": np.ascontiguousarray(arrays["conv1d_4/conv1d_4/kernel:0"].transpose(2, 1, 0)),
        "kernel.bias": arrays["conv1d_4/conv1d_4/bias:0"],
        "dense": arrays["dense_4/dense_4/kernel:0"],
        "dense.bias": arrays["dense_4/dense_4/bias:0"],
        "zero": np.array([0]),
    }
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["embedded"]),
        helper.make_node("Transpose", ["embedded"], ["channels"], perm=[0, 2, 1]),
        helper.make_node("Conv", ["channels", "kernel", "kernel.bias"], ["conv"], auto_pad="SAME_UPPER"),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[2], strides=[2], auto_pad="SAME_UPPER"),
        helper.make_node("Transpose", ["pool"], ["turned"], perm=[2, 0, 1]),
        node,
        helper.make_node("Squeeze", ["l.h", "zero"], ["h"]),
        helper.make_node("MatMul", ["h", "dense"], ["product"]),
        helper.make_node("Add", ["product", "dense.bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["out"]),
    ]
    return run(nodes, weights, ids.astype(np.int64), 1)
