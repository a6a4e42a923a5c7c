"""ONNX files of whole networks with random weights, of the sizes that people train: for bench/models.py."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["NETWORKS", "Network"]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
GATES = {"LSTM": 4, "GRU": 3}


class Network:
    """A graph under construction: each method adds nodes and returns the name of their value."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.name()
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int) -> str:
        bound = 1 / np.sqrt(shape[-1])
        return self.constant(self.rng.uniform(-bound, bound, shape).astype(np.float32))

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def input(self, name: str, shape: Sequence[int | str], kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, rank: int = 3) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, FLOAT, [None] * rank))

    def op(self, kind: str, *inputs: str, count: int = 1, **attributes) -> list[str]:
        names = [self.name() for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def one(self, kind: str, *inputs: str, **attributes) -> str:
        return self.op(kind, *inputs, **attributes)[0]

    def linear(self, x: str, inputs: int, outputs: int) -> str:
        return self.one("Add", self.one("MatMul", x, self.weight(inputs, outputs)), self.weight(outputs))

    def recurrent(self, kind: str, x: str, inputs: int, hidden: int, states: Sequence[str] = (), both: bool = False):
        """(sequence (T, B, directions * hidden), final states) of x (T, B, inputs)."""
        rows, directions = GATES[kind] * hidden, 1 + both
        weights = [self.weight(directions, rows, width) for width in (inputs, hidden)]
        options = {"hidden_size": hidden, "direction": "bidirectional" if both else "forward"}
        if kind == "GRU":
            options["linear_before_reset"] = 1
        bias = self.weight(directions, 2 * rows)
        given = (x, *weights, bias, *(("", *states) if states else ()))
        y, *final = self.op(kind, *given, count=3 if kind == "LSTM" else 2, **options)
        if both:
            y = self.one("Reshape", self.one("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, 0, -1))
        else:
            y = self.one("Squeeze", y, self.ints(1))
        return y, final

    def layer_norm(self, x: str, size: int) -> str:
        return self.one("LayerNormalization", x, self.weight(size), self.weight(size), axis=-1)

    def gelu(self, x: str) -> str:
        """As exporters write it for opsets before 20."""
        half, one, root = (self.constant(np.array(number, np.float32)) for number in (0.5, 1, np.sqrt(2)))
        inner = self.one("Add", self.one("Erf", self.one("Div", x, root)), one)
        return self.one("Mul", self.one("Mul", x, inner), half)

    def convolution(self, x: str, inputs: int, outputs: int, *kernel: int, **attributes) -> str:
        return self.one("Conv", x, self.weight(outputs, inputs, *kernel), self.weight(outputs), **attributes)

    def save(self, path: Path) -> Path:
        graph = helper.make_graph(self.nodes, "network", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        return path


def word_model() -> Network:
    """One step of a word language model: embedding, LSTM 128, Linear, log-softmax."""
    net = Network(1)
    ids, states = net.input("ids", ["T", "B"], INT64), [net.input(f"{key}0", [1, "B", 128]) for key in "hc"]
    x = net.one("Gather", net.weight(2000, 128), ids)
    y, final = net.recurrent("LSTM", x, 128, 128, states)
    net.output(net.one("LogSoftmax", net.linear(y, 128, 2000), axis=-1), "scores")
    for key, value in zip("hc", final, strict=True):
        net.output(value, f"{key}n")
    return net


def voice_activity() -> Network:
    """One frame of a voice activity detector: Linear, two GRUs of 64, Linear, sigmoid."""
    net = Network(2)
    x, states = net.input("x", ["T", "B", 64]), [net.input(f"h{i}", [1, "B", 64]) for i in range(2)]
    y = net.one("Relu", net.linear(x, 64, 64))
    for i, state in enumerate(states):
        y, final = net.recurrent("GRU", y, 64, 64, [state])
        net.output(final[0], f"h{i}n")
    net.output(net.one("Sigmoid", net.linear(y, 64, 1)), "speech")
    return net


def denoiser() -> Network:
    """One frame of a denoiser, with the two frames before it: Conv1d, LayerNorm, GELU, GRU 128, two Linear, a skip."""
    net = Network(3)
    x, state = net.input("x", [1, 64, 3]), net.input("h", [1, 1, 128])
    y = net.one("Transpose", net.convolution(x, 64, 128, 3), perm=[2, 0, 1])
    y = net.gelu(net.layer_norm(y, 128))
    z, final = net.recurrent("GRU", y, 128, 128, [state])
    z = net.one("Add", net.one("Relu", net.linear(z, 128, 128)), y)
    net.output(net.one("Sigmoid", net.linear(z, 128, 64)), "mask")
    net.output(final[0], "hn")
    return net


def spelling_encoder() -> Network:
    """Letters of a word: embedding, GRU 256."""
    net = Network(4)
    x = net.one("Gather", net.weight(29, 256), net.input("ids", ["T", "B"], INT64))
    _, final = net.recurrent("GRU", x, 256, 256)
    net.output(final[0], "hn")
    return net


def spelling_decoder() -> Network:
    """One phoneme: embedding, GRU 256, Linear."""
    net = Network(5)
    ids, state = net.input("ids", ["T", "B"], INT64), net.input("h", [1, "B", 256])
    y, final = net.recurrent("GRU", net.one("Gather", net.weight(74, 256), ids), 256, 256, [state])
    net.output(net.linear(y, 256, 74), "scores")
    net.output(final[0], "hn")
    return net


def beats() -> Network:
    """One frame of a beat tracker: Conv1d and max-pooling over its bands, Linear, two LSTMs of 150, Linear."""
    net = Network(6)
    x = net.input("x", [1, 1, 272])
    states = [net.input(f"{key}{i}", [1, 1, 150]) for i in range(2) for key in "hc"]
    y = net.one("MaxPool", net.one("Relu", net.convolution(x, 1, 2, 10)), kernel_shape=[2], strides=[2])
    y = net.linear(net.one("Reshape", y, net.ints(1, 1, 262)), 262, 150)
    for i in range(2):
        y, final = net.recurrent("LSTM", y, 150, 150, states[2 * i : 2 * i + 2])
        for key, value in zip("hc", final, strict=True):
            net.output(value, f"{key}{i}n")
    net.output(net.linear(y, 150, 3), "scores")
    return net


def letters() -> Network:
    """A picture of 32 x 128 as text: five convolutions, a bidirectional LSTM 128, Linear, log-softmax."""
    net = Network(7)
    x = net.input("x", [1, 1, 32, 128])
    channels = (1, 32, 64, 128, 128, 128)
    for i, (a, b) in enumerate(pairwise(channels)):
        x = net.one("Relu", net.convolution(x, a, b, 3, 3, pads=[1] * 4))
        if i < 4:
            size = [2, 2] if i < 2 else [4, 1] if i == 2 else [2, 1]
            x = net.one("MaxPool", x, kernel_shape=size, strides=size)
    x = net.one("Transpose", net.one("Squeeze", x, net.ints(2)), perm=[2, 0, 1])
    y, _ = net.recurrent("LSTM", x, 128, 128, both=True)
    net.output(net.one("LogSoftmax", net.linear(y, 256, 80), axis=-1), "scores")
    return net


def tagger(attention: bool = True) -> Network:
    """Tags of 50 words: embedding, a bidirectional LSTM of 128, attention of every word to every other, Linear."""
    net = Network(8)
    x = net.one("Gather", net.weight(5000, 100), net.input("ids", [50, "B"], INT64))
    y, _ = net.recurrent("LSTM", x, 100, 128, both=True)
    if attention:
        rows = net.one("Transpose", y, perm=[1, 0, 2])
        scores = net.one("MatMul", net.linear(rows, 256, 256), net.one("Transpose", rows, perm=[0, 2, 1]))
        seen = net.one("MatMul", net.one("Softmax", scores, axis=-1), rows)
        y = net.one("Concat", rows, seen, axis=-1)
    net.output(net.linear(y, 512 if attention else 256, 20), "scores")
    return net


def scanned() -> Network:
    """A cell of one's own over 100 steps, as a Scan: h = (1 - z) h + z tanh(W x + U h), z a gate; 32 units."""
    net, body = Network(9), Network(10)
    h, x = body.input("h", [1, 32]), body.input("x", [1, 32])
    both = body.one("Concat", x, h, axis=1)
    z = body.one("Sigmoid", body.linear(both, 64, 32))
    new = body.one("Tanh", body.linear(both, 64, 32))
    kept = body.one("Mul", body.one("Sub", body.constant(np.array(1, np.float32)), z), h)
    after = body.one("Add", kept, body.one("Mul", z, new))
    for name in ("hn", "y"):
        body.nodes.append(helper.make_node("Identity", [after], [name]))
    outputs = [helper.make_tensor_value_info(name, FLOAT, [1, 32]) for name in ("hn", "y")]
    graph = helper.make_graph(body.nodes, "body", body.inputs, outputs, body.constants)
    states = net.input("h0", [1, 32]), net.input("x", ["T", 1, 32])
    final, y = net.op("Scan", *states, count=2, body=graph, num_scan_inputs=1)
    net.output(y, "y")
    net.output(final, "hn", rank=2)
    return net


NETWORKS = {
    "word model": word_model,
    "voice activity": voice_activity,
    "denoiser": denoiser,
    "spelling encoder": spelling_encoder,
    "spelling decoder": spelling_decoder,
    "beats": beats,
    "letters": letters,
    "tagger": tagger,
    "tagger, no attention": lambda: tagger(attention=False),
    "scanned cell": scanned,
}
