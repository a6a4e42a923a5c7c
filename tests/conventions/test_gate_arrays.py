"""from_gate_arrays against hand-written loops, as tutorials have them."""

import numpy as np
import pytest
from oracle import run_oracle

from rnncore.errors import SpecError, UnsupportedError, WeightError
from rnncore.export import from_gate_arrays

I, H, Q, B, T = 3, 4, 2, 5, 6  # noqa: E741
RNG = np.random.default_rng(2)
X = RNG.standard_normal((B, T, I))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate_arrays(letters, inputs=I):
    found = {}
    for letter in letters:
        found[f"W_x{letter}"] = RNG.standard_normal((inputs, H))
        found[f"W_h{letter}"] = RNG.standard_normal((H, H))
        found[f"b_{letter}"] = RNG.standard_normal(H)
    return found


def lstm(p, x, g="c"):
    """The tutorial's loop: x (B, T, I) to every h, (B, T, H), and the last c."""
    h, c, ys = np.zeros((len(x), H)), np.zeros((len(x), H)), []
    for t in range(x.shape[1]):
        i, f, o = (sigmoid(x[:, t] @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b_{k}"]) for k in "ifo")
        c = f * c + i * np.tanh(x[:, t] @ p[f"W_x{g}"] + h @ p[f"W_h{g}"] + p[f"b_{g}"])
        h = o * np.tanh(c)
        ys.append(h)
    return np.stack(ys, axis=1), c


def gru(p, x, reset_after):
    h, ys = np.zeros((len(x), H)), []
    for t in range(x.shape[1]):
        r, z = (sigmoid(x[:, t] @ p[f"W_x{k}"] + h @ p[f"W_h{k}"] + p[f"b_{k}"]) for k in "rz")
        recurrent = r * (h @ p["W_hh"]) if reset_after else (r * h) @ p["W_hh"]
        n = np.tanh(x[:, t] @ p["W_xh"] + recurrent + p["b_h"])
        h = z * h + (1 - z) * n
        ys.append(h)
    return np.stack(ys, axis=1)


@pytest.mark.parametrize("candidate", ["c", "g"])
def test_lstm_of_separate_arrays(candidate):
    arrays = gate_arrays(f"if{candidate}o")
    spec, weights = from_gate_arrays(arrays)
    found = run_oracle(spec, weights, {"x": X})
    y, c = lstm(arrays, X, candidate)
    np.testing.assert_allclose(found["lstm"], y, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["lstm.c"][0], c, rtol=0, atol=1e-12)


@pytest.mark.parametrize("take", ["sequence", "last"])
def test_lstm_with_output_layer_and_time_first(take):
    arrays = {**gate_arrays("ifoc"), "W_hq": RNG.standard_normal((H, Q)), "b_q": RNG.standard_normal(Q)}
    exported = from_gate_arrays(arrays, take=take, time_first=True)
    found = run_oracle(*exported, {"x": X.swapaxes(0, 1)})
    y = lstm(arrays, X)[0] @ arrays["W_hq"] + arrays["b_q"]
    expected = y[:, -1] if take == "last" else y.swapaxes(0, 1)
    np.testing.assert_allclose(found["output"], expected, rtol=0, atol=1e-12)
    assert exported.test_pair is None


def test_hidden_in_and_other_names():
    arrays = gate_arrays("ifoc")
    turned = {}
    for letter, name in {"i": "input", "f": "forget", "o": "output", "c": "cell"}.items():
        turned[f"W_{name[0]}"] = arrays[f"W_x{letter}"].T
        turned[f"U_{name[0]}"] = arrays[f"W_h{letter}"].T
        turned[f"b_{name[0]}"] = arrays[f"b_{letter}"].reshape(H, 1)
    exported = from_gate_arrays(turned, layout="hidden_in", names="W_{gate}", recurrent_names="U_{gate}")
    np.testing.assert_allclose(run_oracle(*exported, {"x": X})["lstm"], lstm(arrays, X)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("reset_after", [False, True])
def test_gru(reset_after):
    arrays = gate_arrays("rzh")
    exported = from_gate_arrays(arrays, kind="GRU", reset_after=reset_after)
    np.testing.assert_allclose(run_oracle(*exported, {"x": X})["gru"], gru(arrays, X, reset_after), rtol=0, atol=1e-12)


def test_gru_with_two_biases():
    arrays = gate_arrays("rzn")
    second = {f"b_h{letter}": RNG.standard_normal(H) for letter in "rzn"}
    options = {"kind": "GRU", "bias_names": ("b_{gate}", "b_h{gate}")}
    weights = from_gate_arrays(arrays | second, reset_after=True, **options).weights
    np.testing.assert_array_equal(weights["gru.bias_hn_l0"], second["b_hn"])
    np.testing.assert_array_equal(weights["gru.bias_l0"][2 * H :], arrays["b_n"])
    weights = from_gate_arrays(arrays | second, reset_after=False, **options).weights
    np.testing.assert_allclose(weights["gru.bias_l0"][2 * H :], arrays["b_n"] + second["b_hn"])


def test_rnn_without_bias_and_with_relu():
    arrays = gate_arrays("h")
    del arrays["b_h"]
    exported = from_gate_arrays(arrays, kind="RNN", bias_names=None, activations=("relu",), node_name="cell")
    h = np.zeros((B, H))
    for t in range(T):
        h = np.maximum(X[:, t] @ arrays["W_xh"] + h @ arrays["W_hh"], 0)
    np.testing.assert_allclose(run_oracle(*exported, {"x": X})["cell"][:, -1], h, rtol=1e-12)


def test_peepholes_and_coupled_gates():
    arrays = gate_arrays("ifoc") | {f"w_c{letter}": np.full(H, float(k)) for k, letter in enumerate("ifo")}
    weights = from_gate_arrays(arrays, peephole=True).weights
    np.testing.assert_array_equal(weights["lstm.peephole_l0"], np.repeat([0.0, 1.0, 2.0], H))
    weights = from_gate_arrays(gate_arrays("foc"), coupled="input").weights
    assert weights["lstm.weight_ih_l0"].shape == (3 * H, I)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        ({"W_hf": (H, H + 1)}, {}, r"W_hf: shape \(4, 5\), expected \(4, 4\)"),
        ({"W_xf": (H, I)}, {}, r"W_xf: shape \(4, 3\), expected \(3, 4\) with layout='in_hidden'"),
        ({"b_o": (H + 1,)}, {}, r"b_o: shape \(5,\), expected \(4,\)"),
        ({"W_xi": (H,)}, {}, "W_xi: .* two dimensions"),
        ({"b_o": None}, {}, "b_o: missing, expected an array for gate o"),
        ({"W_xc": None}, {}, "W_xg or W_xc or W_xj or W_xz: missing"),
        ({"W_xg": (I, H)}, {}, "W_xg and W_xc: both stand for gate g"),
        ({"W_extra": (I, H)}, {}, r"W_extra: shape \(3, 4\), but nothing uses it"),
        ({}, {"bias_names": None}, "b_i: .* nothing uses it"),
        ({"W_hq": (Q, H + 1)}, {}, "W_hq: shape"),
        ({"W_hq": (H, Q), "b_q": (Q + 1,)}, {}, r"b_q: shape \(3,\), expected \(2,\)"),
        ({"W_hq": (H,)}, {}, "W_hq: .* two dimensions"),
    ],
)
def test_wrong_arrays_are_named(change, options, says):
    arrays = gate_arrays("ifoc")
    for name, shape in change.items():
        arrays.pop(name, None)
        if shape is not None:
            arrays[name] = np.zeros(shape)
    with pytest.raises(WeightError, match=says):
        from_gate_arrays(arrays, **options)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"kind": "MGU"}, SpecError, "kind='MGU'"),
        ({"kind": "GRU"}, SpecError, "reset_after is missing"),
        ({"layout": "columns"}, SpecError, "layout='columns'"),
        ({"take": "first"}, SpecError, "take='first'"),
        ({"names": "W_x"}, SpecError, "expected a pattern"),
        ({"projection": 2}, UnsupportedError, "projection"),
    ],
)
def test_wrong_options(options, error, says):
    with pytest.raises(error, match=says):
        from_gate_arrays(gate_arrays("ifoc"), **options)
