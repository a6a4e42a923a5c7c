"""Models that stream, small, with weights from a seed; and cuts of a sequence into pieces."""

import os

import numpy as np

from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM, RNN

I, H = 5, 9  # noqa: E741 - the letters used everywhere
X = Input("x", "float", ("B", "T", I))


def linear(name, read, i, o):
    return Node(name, "Linear", read, {"input_size": i, "output_size": o})


SPECS = {
    "lstm": Spec([X], [Recurrent("r", LSTM(I, H), "x")], ["r"]),
    "gru": Spec([X], [Recurrent("r", GRU(I, 17), "x", layers=2, trained_state=True)], ["r"]),
    "rnn": Spec([X], [Recurrent("r", RNN(I, 8), "x", layers=3)], ["r"]),
    "large": Spec([X], [Recurrent("r", LSTM(I, 64), "x", layers=2)], ["r"]),
    "projection": Spec([X], [Recurrent("r", LSTM(I, H, projection=4, peephole=True), "x", layers=2)], ["r"]),
    "options": Spec([X], [Recurrent("r", LSTM(I, H, layer_norm="tf1", coupled="input"), "x", layers=2)], ["r"]),
    "graph": Spec(
        [X],
        [
            linear("front", "x", I, 7),
            Node("relu", "Relu", "front"),
            Recurrent("r", LSTM(7, H), "relu", layers=2),
            Recurrent("q", GRU(H, 6, reset_after=False), "r"),
            Node("both", "Concat", ("q", "r"), {"axis": 2}),
            linear("head", "both", 6 + H, 3),
            Node("p", "Softmax", "head"),
        ],
        ["p"],
    ),
    "embedding": Spec(
        [Input("x", "int64", ("B", "T"))],
        [
            Node("e", "Embedding", "x", {"input_size": 11, "output_size": I}),
            Recurrent("r", GRU(I, H), "e"),
            linear("head", "r", H, 3),
        ],
        ["head"],
    ),
    "time_first": Spec(
        [Input("x", "float", ("T", "B", I))],
        [Recurrent("r", LSTM(I, H), "x", layout="time_first"), linear("head", "r", H, 3)],
        ["head"],
    ),
    "states": Spec([X], [Recurrent("r", LSTM(I, H), "x", layers=2)], ["r.c", "r", "r.h"]),
    "several": Spec(
        [X],
        [Recurrent("r", LSTM(I, H), "x", layers=2), linear("head", "r.last", H, 3), Node("t", "Tanh", "head")],
        ["r", "t", "r.h", "r.c"],
    ),
}


def make(spec, seed=0, **options):
    """A model with uniform weights whose values float32 can hold."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.uniform(-0.5, 0.5, shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}
    return Model(spec, weights, **options)


def equal(actual, expected):
    """Equal bits with the native kernels; within 1e-5 of the largest over BLAS, whose sums depend on the batch."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    if os.environ.get("RNNCORE_ISA") == "blas" and actual.shape == expected.shape:
        return np.allclose(actual, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max(initial=0)))
    return actual.shape == expected.shape and actual.tobytes() == expected.tobytes()


def draw(spec, rng, batch, steps, name="x"):
    """An input of ``batch`` rows and ``steps`` steps."""
    entry = next(entry for entry in spec.inputs if entry.name == name)
    shape = [{"B": batch, "T": steps}.get(size, size) for size in entry.shape]
    if entry.dtype == "int64":
        return rng.integers(0, 11, shape)
    return rng.standard_normal(shape).astype(np.float32)


def cuts(rng, steps, longest=5):
    """Slices that make up range(steps), some of them empty."""
    slices, at = [], 0
    while at < steps:
        end = min(steps, at + int(rng.integers(0, longest)))
        slices.append(slice(at, end))
        at = end
    return slices
