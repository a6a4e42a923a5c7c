"""The oracle itself against PyTorch: lengths, directions, layers, layouts and initial states."""

import numpy as np
import pytest
import torch
from oracle import run_oracle
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnncore.cells import LSTM
from rnncore.export import from_torch
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec

RNG = np.random.default_rng(4)
CLOSE = {"rtol": 0, "atol": 1e-12}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_lengths_are_those_of_packed_sequences(kind, layers, both, batch_first):
    module = getattr(nn, kind)(3, 4, layers, bidirectional=both, batch_first=batch_first, dtype=torch.float64)
    spec, weights = from_torch(module)
    name = spec.nodes[0].name
    x, lengths = RNG.standard_normal((4, 6, 3)), np.array([3, 6, 1, 5])
    x = x if batch_first else x.swapaxes(0, 1)
    shape = (layers * (1 + both), 4, 4)
    states = {f"{name}.{key}": RNG.standard_normal(shape) for key in spec.nodes[0].cell.states}
    initial = tuple(map(torch.from_numpy, states.values()))
    packed = pack_padded_sequence(torch.from_numpy(x), lengths, batch_first, enforce_sorted=False)
    y, final = module(packed, initial if kind == "LSTM" else initial[0])
    y, _ = pad_packed_sequence(y, batch_first)
    found = run_oracle(spec, weights, {"x": x, "lengths": lengths}, states)
    for array, expected in zip(found.values(), (y, *(final if kind == "LSTM" else (final,))), strict=True):
        np.testing.assert_allclose(array, expected.detach().numpy(), **CLOSE)


def spec_of(outputs, **options):
    node = Recurrent("lstm", LSTM(3, 4), "x", **options)
    return Spec([Input("x", "float", ("B", "T", 3))], [node], outputs)


def weights_of(spec):
    return {name: RNG.standard_normal(shape) for name, shape in spec.weight_shapes().items()}


def test_an_empty_row_keeps_its_state():
    spec = spec_of(["lstm", "lstm.last", "lstm.h", "lstm.c"], direction="bidirectional")
    states = {f"lstm.{key}": RNG.standard_normal((2, 2, 4)) for key in "hc"}
    inputs = {"x": RNG.standard_normal((2, 5, 3)), "lengths": [0, 5]}
    found = run_oracle(spec, weights_of(spec), inputs, states)
    assert not found["lstm"][0].any()
    for key in "hc":
        np.testing.assert_array_equal(found[f"lstm.{key}"][:, 0], states[f"lstm.{key}"][:, 0])
    np.testing.assert_array_equal(found["lstm.last"][0], states["lstm.h"][:, 0].reshape(-1))


@pytest.mark.parametrize(
    ("merge", "formula"),
    [
        ("concat", lambda f, r: np.concatenate([f, r], axis=-1)),
        ("sum", lambda f, r: f + r),
        ("mul", lambda f, r: f * r),
        ("average", lambda f, r: (f + r) / 2),
    ],
)
def test_merges(merge, formula):
    apart = spec_of(["lstm.forward", "lstm.reverse", "lstm.h"], direction="bidirectional", merge="separate")
    merged = spec_of(["lstm", "lstm.last"], direction="bidirectional", merge=merge)
    weights, x = weights_of(apart), {"x": RNG.standard_normal((2, 5, 3)), "lengths": [5, 2]}
    one, two = run_oracle(apart, weights, x), run_oracle(merged, weights, x)
    np.testing.assert_array_equal(two["lstm"], formula(one["lstm.forward"], one["lstm.reverse"]))
    np.testing.assert_array_equal(two["lstm.last"], formula(*one["lstm.h"]))


def test_reverse_alone_is_forward_on_the_turned_input():
    forward, reverse = (spec_of(["lstm", "lstm.last"], direction=name) for name in ("forward", "reverse"))
    weights, x = weights_of(forward), RNG.standard_normal((2, 5, 3))
    a, b = run_oracle(forward, weights, {"x": x[:, ::-1]}), run_oracle(reverse, weights, {"x": x})
    np.testing.assert_array_equal(a["lstm"][:, ::-1], b["lstm"])
    np.testing.assert_array_equal(a["lstm.last"], b["lstm.last"])


def test_trained_and_given_initial_states():
    spec = spec_of(["lstm"], trained_state=True)
    weights, x = weights_of(spec), RNG.standard_normal((2, 5, 3))
    states = {f"lstm.{key}": np.tile(weights[f"lstm.initial_{key}"][:, None], (1, 2, 1)) for key in "hc"}
    expected = run_oracle(spec_of(["lstm"]), weights, {"x": x}, states)["lstm"]
    np.testing.assert_array_equal(run_oracle(spec, weights, {"x": x})["lstm"], expected)
    node = Recurrent("lstm", LSTM(3, 4), "x", initial=("h0", "c0"))
    shape = (1, "B", 4)
    inputs = [Input("x", "float", ("B", "T", 3)), Input("h0", "float", shape), Input("c0", "float", shape)]
    given = {"x": x, "h0": states["lstm.h"], "c0": states["lstm.c"]}
    np.testing.assert_array_equal(run_oracle(Spec(inputs, [node], "lstm"), weights, given)["lstm"], expected)
