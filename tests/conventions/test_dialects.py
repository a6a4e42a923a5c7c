"""rnncore.detect: weights from live frameworks and from formulas written by hand must be named rightly, and alone."""

import keras
import numpy as np
import pytest
import torch
from agreement import assert_close
from onnx_layer import onnx_run
from random_networks import draw
from scipy.special import expit as sigmoid
from yardstick import within

import rnncore
from rnncore import InputError, SpecError, WeightError, detect
from rnncore.conventions.gates import GATE_ORDERS, reorder_gates

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")

I, H, B, T = 3, 5, 4, 6  # noqa: E741
X = draw(np.random.default_rng(21), (B, T, I)).astype(np.float32)


@pytest.fixture
def rng():
    return np.random.default_rng(22)


def only(dialects):
    """The one dialect that was found."""
    assert len(dialects) == 1, [str(dialect) for dialect in dialects]
    return dialects[0]


def torch_pair(rng, kind, x=X, **options):
    module = getattr(torch.nn, kind)(x.shape[-1], H, batch_first=True, **options)
    for parameter in module.parameters():
        parameter.data = torch.from_numpy(draw(rng, parameter.shape).astype(np.float32))
    weights = {name.removesuffix("_l0"): one.detach().numpy() for name, one in module.named_parameters()}
    return weights, module(torch.from_numpy(x))[0].detach().numpy()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torch(rng, kind, bias):
    weights, y = torch_pair(rng, kind, bias=bias)
    found = only(detect(weights, X, y))
    assert (found.kind, found.order, found.layout) == (kind, GATE_ORDERS["torch"][kind], "gates_in")
    assert "torch" in found.frameworks
    assert found.error < 1e-5
    assert found.bias == ("none" if not bias else "halves" if kind == "GRU" else "sum")
    assert_close(found.model()(X), y, 1e-5)
    assert found.options.get("reset_after", True) and not found.options.get("forget_bias")


def test_torch_relu(rng):
    weights, y = torch_pair(rng, "RNN", nonlinearity="relu")
    assert only(detect(weights, X, y)).options["activations"] == ("relu",)


KERAS = [
    ("SimpleRNN", {}),
    ("LSTM", {}),
    ("LSTM", {"recurrent_activation": "hard_sigmoid"}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
    ("GRU", {"reset_after": False, "recurrent_activation": "hard_sigmoid"}),
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize(("kind", "options"), KERAS)
def test_keras(rng, kind, options, sequences, backwards):
    layer = getattr(keras.layers, kind)(H, return_sequences=sequences, go_backwards=backwards, **options)
    layer.build((None, None, I))
    layer.set_weights([draw(rng, weight.shape) for weight in layer.weights])
    y = keras.ops.convert_to_numpy(layer(X))
    weights = dict(zip(("weight_ih", "weight_hh", "bias"), layer.get_weights(), strict=True))
    found = only(detect(weights, X, y))
    assert found.layout == "in_gates" and "keras" in found.frameworks
    assert found.direction == ("reverse" if backwards else "forward")
    assert found.take == ("sequence" if sequences else "last")
    if sequences and backwards:
        assert found.output_order == "processing"
    if kind == "GRU":
        assert found.options["reset_after"] == options.get("reset_after", True)
    if kind != "SimpleRNN":
        expected = "hard_sigmoid_sixth" if options.get("recurrent_activation") else "sigmoid"
        assert found.options["activations"][0] == expected
    assert_close(found.model()(X), y, 1e-5)


@pytest.mark.parametrize("attributes", [{}, {"input_forget": 1}, {"direction": "reverse"}, {"clip": 50.0}])
def test_onnx_lstm(rng, attributes):
    w, r, b = draw(rng, (4 * H, I)), draw(rng, (4 * H, H)), draw(rng, (8 * H,))
    y = onnx_run("LSTM", X, w, r, b, **attributes)
    found = only(detect({"weight_ih": w, "weight_hh": r, "bias": b}, X, y))
    assert found.order == "iofg" and found.frameworks == ("onnx",)
    assert found.options["coupled"] == ("forget" if "input_forget" in attributes else None)
    assert (found.direction, found.output_order) == (attributes.get("direction", "forward"), "time")
    assert_close(found.model()(X), y, 1e-5)


def test_onnx_gru_and_hard_sigmoid(rng):
    w, r, b = draw(rng, (3 * H, I)), draw(rng, (3 * H, H)), draw(rng, (6 * H,))
    for after in (0, 1):
        y = onnx_run("GRU", X, w, r, b, linear_before_reset=after, activations=["HardSigmoid", "Tanh"])
        found = only(detect({"weight_ih": w, "weight_hh": r, "bias": b}, X, y))
        assert "onnx" in found.frameworks and found.options["reset_after"] == bool(after)
        assert found.options["activations"] == ("hard_sigmoid_fifth", "hard_sigmoid_fifth", "tanh")
        assert found.bias == ("halves" if after else "sum")


def lstm_loop(kernel, bias, order, forget_bias, coupled=None):
    """TF1's loop over concat[x, h], with the gates' letters in the given order."""
    h, c, outputs = np.zeros((B, H)), np.zeros((B, H)), []
    for t in range(T):
        parts = np.split(np.hstack([X[:, t], h]) @ kernel + bias, len(order), axis=1)
        gates = dict(zip(order, parts, strict=True))
        f = sigmoid(gates["f"] + forget_bias)
        i = 1 - f if coupled else sigmoid(gates["i"])
        c = c * f + i * np.tanh(gates["g"])
        h = np.tanh(c) * sigmoid(gates["o"])
        outputs.append(h)
    return np.stack(outputs, axis=1)


@pytest.mark.parametrize("forget_bias", [0.0, 1.0])
def test_tf1_lstm(rng, forget_bias):
    kernel, bias = draw(rng, (I + H, 4 * H)), draw(rng, (4 * H,))
    y = lstm_loop(kernel, bias, "igfo", forget_bias)
    found = only(detect({"kernel": kernel, "bias": bias}, X, y))
    assert found.order == "igfo" and found.frameworks == ("tf1",)
    assert found.options["forget_bias"] == forget_bias
    assert ("forget bias 1 added" in found.name) == bool(forget_bias)


def test_tf1_coupled(rng):
    kernel, bias = draw(rng, (I + H, 3 * H)), draw(rng, (3 * H,))
    y = lstm_loop(kernel, bias, "gfo", 1.0, coupled="input")
    found = only(detect({"weight_ih": kernel[:I], "weight_hh": kernel[I:], "bias": bias}, X, y))
    assert (found.kind, found.order, found.options["coupled"]) == ("LSTM", "gfo", "input")
    assert "tf1" in found.frameworks and "i = 1 - f" in str(found)
    assert_close(found.model("float64")(X.astype(np.float64)), y, 1e-12)


def test_an_order_that_nobody_has(rng):
    weights, y = torch_pair(rng, "LSTM")
    odd = {name: reorder_gates(array, "ifgo", "gofi") for name, array in weights.items()}
    found = only(detect(odd, X, y))
    assert (found.order, found.frameworks) == ("gofi", ())
    assert str(found).startswith("LSTM, gates g o f i in rows: error ")


def test_update_gate_the_other_way_and_biases_summed(rng):
    weights, _ = torch_pair(rng, "GRU")
    y = rnncore.GRU(**weights, update="new")(X)
    found = only(detect(weights, X, y))
    assert found.options["update"] == "new" and "z takes the new state" in found.name
    summed = {**weights, "bias": weights["bias_ih"] + weights["bias_hh"], "bias_ih": None, "bias_hh": None}
    found = only(detect(weights, X, rnncore.GRU(**summed)(X)))
    assert found.bias == "sum" and "both biases summed" in found.name
    assert_close(found.model()(X), rnncore.GRU(**summed)(X), 1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cudnn_kernels(rng, kind):
    gates = len(GATE_ORDERS["keras"][kind])
    arrays = {"weight_ih": draw(rng, (I, gates * H)), "weight_hh": draw(rng, (H, gates * H))}
    arrays["bias"] = draw(rng, (2 * gates * H,))
    y = getattr(rnncore, kind)(**arrays, order="keras")(X)
    found = only(detect(arrays, X, y))
    assert found.layout == "cudnn" and "CuDNN" in found.name and "keras" in found.frameworks


@pytest.mark.parametrize("batch", [B, T])
def test_layouts_of_x_and_y(rng, batch):
    """Told by the numbers where B = T; x and y may differ."""
    x = draw(rng, (batch, T, I)).astype(np.float32)
    weights, y = torch_pair(rng, "GRU", x)
    for turn_x in (False, True):
        for turn_y in (False, True):
            found = only(detect(weights, x.swapaxes(0, 1) if turn_x else x, y.swapaxes(0, 1) if turn_y else y))
            assert found.x_layout == ("time_first" if turn_x else "batch_first")
            assert found.y_layout == ("time_first" if turn_y else "batch_first")
    found = only(detect(weights, x.swapaxes(0, 1), y[:, -1]))
    assert (found.take, found.x_layout) == ("last", "time_first")
    assert "x is time first, y is the last output" in found.name
    assert_close(found.model()(x.swapaxes(0, 1)), y[:, -1], 1e-5)
    assert only(detect(weights, x[0], y[0])).take == "sequence"


def test_what_cannot_be_told_apart_is_all_returned(rng):
    """One step from zero state never shows the forget gate; without recurrent bias there is nothing to split."""
    weights, y = torch_pair(rng, "LSTM", X[:, :1])
    found = detect(weights, X[:, :1], y)
    assert len(found) > 1 and found[0].order == "ifgo" and found[0].frameworks == ("torch",)
    assert {dialect.options["forget_bias"] for dialect in found} == {0.0, 1.0}
    weights, y = torch_pair(rng, "GRU")
    weights["bias_hh"][:] = 0
    y = rnncore.GRU(**weights)(X)
    assert [dialect.bias for dialect in detect(weights, X, y)] == ["halves", "sum"]


def test_nothing_fits(rng):
    weights, y = torch_pair(rng, "LSTM")
    assert detect(weights, X, y + 1e-2) == []
    assert detect(weights, X, y + 1e-2, tolerance=0.1)[0].order == "ifgo"


def test_small_outputs_are_compared_by_their_size(rng):
    weights, _ = torch_pair(rng, "LSTM")
    weights = {name: array * np.float32(1e-3) for name, array in weights.items()}
    y = rnncore.LSTM(**weights)(X)
    assert only(detect(weights, X, y)).order == "ifgo"


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_it_is_quick(rng, kind):
    module = getattr(torch.nn, kind)(64, 64, batch_first=True)
    weights = {name.removesuffix("_l0"): one.detach().numpy() for name, one in module.named_parameters()}
    x = rng.standard_normal((8, 20, 64)).astype(np.float32)
    y = module(torch.from_numpy(x))[0].detach().numpy()
    detect(weights, x, y)
    assert within(2, lambda: detect(weights, x, y[:, ::-1] + 1)) == []


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"kind": "MGU"}, SpecError, "kind='MGU', expected one of 'RNN', 'LSTM', 'GRU'"),
        ({"kind": "GRU"}, WeightError, r"weight_hh: shape \(20, 5\) holds 4 gates, expected those of GRU"),
        ({"x": np.zeros((2, 3, 4, 5))}, InputError, r"x: shape \(2, 3, 4, 5\), expected \(B, T, I\)"),
        ({"x": np.full((B, T, I), np.nan)}, InputError, "x: .* expected finite numbers"),
        ({"y": "none"}, InputError, "y: str, expected an array of numbers"),
        ({"y": np.zeros((B, T, H + 1))}, InputError, r"y: shape \(4, 6, 6\), expected \(B, T, 5\)"),
        ({"x": np.zeros((T, I)), "y": np.zeros((B, H))}, InputError, r"y: shape \(4, 5\), expected \(6, 5\)"),
        ({"x": np.zeros((B, T, I + 1))}, WeightError, r"x of 4 features: expected \(G\*H, 4\) and \(G\*H, H\)"),
        ({"weight_xh": np.zeros(3)}, WeightError, "'weight_xh' is unknown, expected some of weight_ih"),
        ({"weight_hh": None}, WeightError, "weight_hh: missing, expected a matrix"),
        ({"weight_hh": np.zeros(3)}, WeightError, r"weight_hh: \(3,\), expected a matrix"),
        ({"bias_hh": None}, WeightError, "expected bias, or both bias_ih and bias_hh, or neither"),
        ({"bias_hh": np.zeros(3)}, WeightError, r"bias_hh: shape \(3,\), expected \(20,\)"),
        (
            {"bias_hh": None, "bias_ih": None, "bias": np.zeros(3)},
            WeightError,
            r"bias: shape \(3,\), expected \(20,\),",
        ),
        ({"kernel": np.zeros((8, 20))}, WeightError, r"kernel: shape \(8, 20\), expected \(3\+H, G\*H\) and no other"),
    ],
)
def test_bad_input(rng, changes, error, says):
    weights, y = torch_pair(rng, "LSTM")
    given = {"x": X, "y": y, "kind": None, **changes}
    weights |= {key: value for key, value in changes.items() if key not in ("x", "y", "kind")}
    with pytest.raises(error, match=says):
        detect(weights, given["x"], given["y"], kind=given["kind"])
