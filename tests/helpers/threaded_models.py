"""Models of one op each, for every kernel that may share its work among threads."""

import numpy as np
from random_networks import draw_weights, stack

from rnncore.cells import GRU, LSTM, RNN
from rnncore.graph.nodes import AttentionDecoder, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model


def network(size=8, **options):
    spec = stack(LSTM(size, size))
    return Model(
        Spec(spec.inputs, spec.nodes, ["rnn"]), draw_weights(spec, np.random.default_rng(0)), num_threads=1, **options
    )


def every_kernel(threads):
    """Models of one float32 op each that is large enough to be shared, and one of several, with their inputs."""
    rng = np.random.default_rng(0)
    image = Input("x", "float", ("B", 64, "T"))
    rows = Input("x", "float", ("B", "T", 64))
    convolution = {"input_size": 64, "output_size": 64, "kernel_shape": [3], "pads": [1, 1]}
    wide = {"kernel_shape": [63], "pads": [31, 31]}
    graphs = {
        "Conv": [Node("y", "Conv", "x", convolution)],
        "Conv, one by one": [Node("y", "Conv", "x", {**convolution, **wide, "group": 64})],
        "Conv, few positions": [Node("y", "Conv", "x", {**convolution, "kernel_shape": [99], "pads": [0, 0]})],
        "ConvTranspose": [Node("y", "ConvTranspose", "x", {**convolution, "pads": [1, 1]})],
        "MaxPool": [Node("y", "MaxPool", "x", {"kernel_shape": [9]})],
        "Linear": [Node("y", "Linear", "x", {"input_size": 64, "output_size": 64})],
        "LayerNormalization": [Node("y", "LayerNormalization", ("x", "x"), {"axis": 1})],
        "Recurrent": [Recurrent("y", LSTM(64, 64), "x", lengths=None)],
        "GRU": [Recurrent("y", GRU(64, 64), "x", lengths=None)],
        "GRU that resets before": [Recurrent("y", GRU(64, 64, reset_after=False), "x", lengths=None)],
        "RNN, both ways": [Recurrent("y", RNN(64, 64), "x", direction="bidirectional", lengths=None)],
        "LSTM with layer norm": [Recurrent("y", LSTM(64, 64, layer_norm="tf1"), "x", lengths=None)],
        "AttentionDecoder": [
            AttentionDecoder("y", GRU(128, 64), "x", "x", 64, "bahdanau", attention_size=32, order="before", layers=1)
        ],
        "AveragePool": [Node("y", "AveragePool", "x", {"kernel_shape": [9]})],
        "MultiHeadAttention": [
            Node(
                "y",
                "MultiHeadAttention",
                ("x", "x"),
                {"query_size": 64, "value_size": 64, "num_heads": 4, "key_dim": 16},
            )
        ],
        "all": [
            Node("c", "Conv", "t", convolution),
            Node("p", "MaxPool", "c", {"kernel_shape": [2], "strides": [2]}),
            Node("s", "Transpose", "p", {"perm": [0, 2, 1]}),
            Recurrent("r", LSTM(64, 64), "s", layers=2, direction="bidirectional", lengths=None),
            Node("y", "Linear", "r", {"input_size": 128, "output_size": 64}),
        ],
    }
    graphs["all"].insert(0, Node("t", "Transpose", "x", {"perm": [0, 2, 1]}))
    for name, nodes in graphs.items():
        channels = "Conv" in name or "Pool" in name
        spec = Spec([image if channels else rows], nodes, ["y"])
        x = np.ones((16, 64, 100) if channels else (64, 50, 64), np.float32)
        yield name, Model(spec, draw_weights(spec, rng), num_threads=threads), x


SHARED = {
    *("Conv", "Conv, one by one", "Conv, few positions", "ConvTranspose", "Linear", "Recurrent", "all"),
    *("GRU", "GRU that resets before", "RNN, both ways", "LSTM with layer norm", "AttentionDecoder"),
}
"""Names of the models whose work is shared among threads."""
