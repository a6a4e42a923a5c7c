"""Writes tests/golden/v1.safetensors: one small model that uses what format 1 can say, with its test pair.

    PYTHONPATH=. python tests/golden/make_v1.py

The file stays as it is for ever: rnncore has to load it, and to compute its outputs, in every later version. Run this
only to see how it was made; a new format gets a generator and a file of its own. The test pair is computed by the
float64 oracle of the tests, not by the engine.
"""

import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "helpers"))

from oracle import run_oracle  # noqa: E402

from rnncore.cells import GRU, LSTM, RNN, Activation  # noqa: E402
from rnncore.formats.native import ModelFile, write  # noqa: E402
from rnncore.graph.nodes import Input, Node, Recurrent  # noqa: E402
from rnncore.graph.spec import Spec  # noqa: E402
from rnncore.graph.test_pair import TestPair  # noqa: E402
from rnncore.graph.weights import Weights  # noqa: E402


def spec() -> Spec:
    """Three cells with most of their options, two kinds of input, both layouts of initial states, several outputs."""
    lstm = LSTM(
        6, 8, activations=("hard_sigmoid_fifth", "sigmoid", "tanh", "sigmoid", "softsign"), peephole=True, projection=4,
        projection_bias=True, clip=3.0, cell_clip=2.0, proj_clip=1.5, forget_bias=1.0,
    )  # fmt: skip
    normalised = LSTM(8, 5, coupled="input", layer_norm="tf1", layer_norm_epsilon=1e-3)
    gru = GRU(8, 4, reset_after=False, clip=2.5)
    reverse = gru.replace(bias=False, activations=("sigmoid", "sigmoid", Activation("leaky_relu", 0.2)))
    return Spec(
        inputs=[
            Input("tokens", "int64", ("B", "T")),
            Input("features", "float", ("B", "T", 2)),
            Input("h0", "float", (1, "B", 3)),
        ],
        nodes=[
            Node("embed", "Embedding", "tokens", {"input_size": 9, "output_size": 4}),
            Node("joined", "Concat", ("embed", "features"), {"axis": 2}),
            Recurrent("lstm", lstm, "joined", layers=2, direction="bidirectional", trained_state=True),
            Recurrent("gru", gru, "lstm", direction="bidirectional", merge="average", reverse_cell=reverse),
            Recurrent("normalised", normalised, "lstm", direction="reverse", lengths=None),
            Recurrent("rnn", RNN(4, 3, activations=("relu",)), "gru", initial=("h0",)),
            Node("scores", "Linear", "rnn", {"input_size": 3, "output_size": 2}),
            Node("tags", "LogSoftmax", "scores"),
            Node("unit", "LpNormalization", "normalised.last"),
        ],
        outputs=["tags", "unit", "lstm.c", "gru.last"],
    )


def golden() -> ModelFile:
    """The model with seeded weights, some of each float dtype, and its test pair."""
    rng = np.random.default_rng(1)
    network = spec()
    dtypes = {"embed.weight": np.float16, "scores.weight": np.float64}
    arrays = {
        name: rng.uniform(-0.6, 0.6, shape).astype(dtypes.get(name, np.float32))
        for name, shape in network.weight_shapes().items()
    }
    weights = Weights(network, arrays)
    inputs = {
        "tokens": rng.integers(0, 9, (3, 5)),
        "features": rng.standard_normal((3, 5, 2)).astype(np.float32),
        "h0": rng.standard_normal((1, 3, 3)).astype(np.float32),
        "lengths": np.array([5, 0, 3]),
    }
    pair = TestPair(inputs, run_oracle(network, weights, inputs))
    notes = ("made by tests/golden/make_v1.py",)
    return ModelFile(network, weights, pair, source="golden", sha256="0" * 64, notes=notes, producer="rnncore 0.1.0")


if __name__ == "__main__":
    print(write(HERE / "v1.safetensors", golden()))
