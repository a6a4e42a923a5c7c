"""Models of one step and of one chunk of a signal, which over_time loops over a sequence."""

import numpy as np

from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import GRU

PAIRS = {"h": "h_next", "seen": "seen_next"}


def weights_of(spec, seed=5):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) * 0.4 for name, shape in spec.weight_shapes().items()}


def step_model(batch="N", seed=5, **options):
    """h' = tanh(W [x; h]) + gain, seen' = seen + 1 (int64), y = V h' * seen': a cell that is written out."""
    nodes = [
        Node("both", "Concat", ("x", "h"), {"axis": 1}),
        Node("product", "Linear", "both", {"input_size": 7, "output_size": 4}),
        Node("tanh", "Tanh", "product"),
        Node("h_next", "Add", ("tanh", "gain")),
        Node("one", "Constant", (), {"dtype": "int64", "value": 1}),
        Node("seen_next", "Add", ("seen", "one")),
        Node("times", "Cast", "seen_next", {"to": "float"}),
        Node("out", "Linear", "h_next", {"input_size": 4, "output_size": 2}),
        Node("y", "Mul", ("out", "times")),
    ]
    inputs = [
        Input("h", "float", (batch, 4)),
        Input("x", "float", (batch, 3)),
        Input("seen", "int64", (batch, 1)),
        Input("gain", "float", ()),
    ]
    spec = Spec(inputs, nodes, ["seen_next", "y", "h_next"])
    return Model(spec, weights_of(spec, seed), **options)


def signal_model(batch="N"):
    """A step of 6 numbers of a signal: y = mean and state of a GRU over them, one state of two layers in one array."""
    nodes = [
        Node("one", "Unsqueeze", "x", {"axes": (1,)}),
        Recurrent("gru", GRU(6, 3), "one", layers=2, initial=("state",), lengths=None),
        Node("kept", "Identity", "gru.h"),
        Node("state_next", "Tanh", "kept"),
        Node("y", "ReduceMean", "gru", {"axes": (1, 2), "keepdims": False}),
    ]
    spec = Spec([Input("x", "float", (batch, "S")), Input("state", "float", (2, batch, 3))], nodes, ["y", "state_next"])
    return Model(spec, weights_of(spec))
