"""rnncore.RNN, LSTM and GRU from raw arrays in every framework's convention."""

import dataclasses

import keras
import numpy as np
import pytest
import torch
from agreement import assert_close, assert_same_bits
from onnx_layer import onnx_run
from oracle import run_oracle
from random_networks import draw
from scipy.special import expit as sigmoid

import rnncore
from rnncore import SpecError, WeightError
from rnncore.conventions.gates import GATE_LAYOUTS, GATE_ORDERS, gate_order, reorder_gates, split_cudnn_kernel

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")

I, H, P, B, T = 3, 5, 2, 4, 6  # noqa: E741
RNG = np.random.default_rng(12)
X = draw(RNG, (B, T, I)).astype(np.float32)
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def random_arrays(kind, gates=None, outputs=H):
    """weight_ih and weight_hh with gates in rows, and two biases."""
    rows = (gates or GATES[kind]) * H
    return {
        "weight_ih": draw(RNG, (rows, I)),
        "weight_hh": draw(RNG, (rows, outputs)),
        "bias_ih": draw(RNG, (rows,)),
        "bias_hh": draw(RNG, (rows,)),
    }


def turned(arrays, layout):
    """Matrices in the layout asked for; the arrays have gates in rows."""
    return {key: a.T if a.ndim == 2 and layout == "in_gates" else a for key, a in arrays.items()}


def torch_module(kind, arrays, **options):
    """A torch module of these arrays, in float64; with two directions the second mapping is the reverse one."""
    both = isinstance(arrays, tuple)
    module = getattr(torch.nn, kind)(I, H, batch_first=True, bidirectional=both, **options).double()
    for suffix, one in zip(("_l0", "_l0_reverse"), arrays if both else (arrays,), strict=False):
        for key, array in one.items():
            name = {"projection": "weight_hr"}.get(key, key)
            getattr(module, name + suffix).data = torch.from_numpy(array)
    return module


def torch_run(kind, arrays, **options):
    y, state = torch_module(kind, arrays, **options)(torch.from_numpy(X.astype(np.float64)))
    return y.detach().numpy(), [one.detach().numpy() for one in (state if kind == "LSTM" else (state,))]


@pytest.mark.parametrize("order", ["torch", "keras", "onnx", "openvino", "oneDNN", "coreml", "tf1"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_named_orders(kind, order):
    """The same network in every order and layout is the same model, to the bit."""
    arrays = random_arrays(kind)
    expected = getattr(rnncore, kind)(**arrays, dtype="float64")
    found, canonical = GATE_ORDERS[order.lower()][kind], GATE_ORDERS["torch"][kind]
    packed = {key: reorder_gates(array, canonical, found) for key, array in arrays.items()}
    options = {"reset_after": True} if kind == "GRU" else {}
    for letters, layout in ((order, None), (found, GATE_LAYOUTS[order.lower()])):
        given = turned(packed, GATE_LAYOUTS[order.lower()])
        model = getattr(rnncore, kind)(**given, order=letters, layout=layout, **options, dtype="float64")
        for name, array in expected.weights.items():
            assert_same_bits(model.weights[name], array, name)
    y, _ = torch_run(kind, arrays)
    assert_close(expected(X), y, 1e-12)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_two_directions_and_state(kind):
    arrays = random_arrays(kind), random_arrays(kind)
    model = getattr(rnncore, kind)(**arrays[0], reverse=arrays[1], name="two", dtype="float64")
    y, state = model(X, None)
    expected, states = torch_run(kind, arrays)
    assert_close(y, expected, 1e-12)
    for key, array in zip("hc", states, strict=False):
        assert_close(state[f"two.{key}"], array, 1e-12)
    separate = getattr(rnncore, kind)(**arrays[0], reverse=arrays[1], merge="separate", dtype="float64")(X)
    assert_close(separate[f"{kind.lower()}.reverse"], expected[..., H:], 1e-12)
    last = getattr(rnncore, kind)(**arrays[0], reverse=arrays[1], take="last", dtype="float64")(X)
    assert_close(last, np.concatenate(list(states[0]), axis=1), 1e-12)
    alone = getattr(rnncore, kind)(**arrays[1], direction="reverse", time_first=True, dtype="float64")
    assert_close(alone(X.swapaxes(0, 1)), expected[..., H:].swapaxes(0, 1), 1e-12)


@pytest.mark.parametrize("layout", ["gates_in", "in_gates"])
def test_projection(layout):
    arrays = {**random_arrays("LSTM", outputs=P), "projection": draw(RNG, (P, H))}
    model = rnncore.LSTM(**turned(arrays, layout), order="ifco", layout=layout, dtype="float64")
    assert_close(model(X), torch_run("LSTM", arrays, proj_size=P)[0], 1e-12)
    biased = rnncore.LSTM(**arrays, projection_bias=np.ones(P), proj_clip=0.5, dtype="float64")
    assert np.abs(biased(X)).max() == 0.5
    assert_close(biased(X), run_oracle(biased.spec, biased.weights, {"x": X})["lstm"], 1e-12)


def test_two_layers_are_one_spec():
    arrays = random_arrays("LSTM"), {**random_arrays("LSTM"), "weight_ih": draw(RNG, (4 * H, H))}
    one, two = (rnncore.LSTM(**a, name=n, dtype="float64") for a, n in zip(arrays, ("first", "second"), strict=True))
    nodes = [one.spec.nodes[0], dataclasses.replace(two.spec.nodes[0], input="first")]
    both = rnncore.Model(rnncore.Spec(one.spec.inputs, nodes, ["second"]), {**one.weights, **two.weights}, "float64")
    assert_same_bits(both(X), two(one(X)))


@pytest.mark.parametrize(("kind", "after"), [("SimpleRNN", None), ("LSTM", None), ("GRU", False), ("GRU", True)])
def test_keras_arrays_as_they_are(kind, after):
    layer = getattr(keras.layers, kind)(H, return_sequences=True, **({} if after is None else {"reset_after": after}))
    layer.build((None, None, I))
    layer.set_weights([draw(RNG, weight.shape) for weight in layer.weights])
    arrays = dict(zip(("weight_ih", "weight_hh", "bias"), layer.get_weights(), strict=True))
    model = getattr(rnncore, kind.removeprefix("Simple"))(**arrays, order="keras")
    assert_close(model(X), keras.ops.convert_to_numpy(layer(X)), 1e-5)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_keras_cudnn_arrays(kind):
    """What CuDNN's layers of Keras 2 keep: each gate's matrix transposed, two biases in one row."""
    plain = random_arrays(kind)
    plain = {k: reorder_gates(a, GATE_ORDERS["torch"][kind], GATE_ORDERS["keras"][kind]) for k, a in plain.items()}
    kernels = [plain[name].T for name in ("weight_ih", "weight_hh")]
    parts = [np.split(kernel, GATES[kind], axis=1) for kernel in kernels]
    kept = [np.hstack([gate.T.reshape(gate.shape) for gate in parts[0]]), np.hstack([gate.T for gate in parts[1]])]
    for found, expected in zip(split_cudnn_kernel(*kept), kernels, strict=True):
        np.testing.assert_array_equal(found, expected)
    both = np.concatenate([plain["bias_ih"], plain["bias_hh"]])
    model = getattr(rnncore, kind)(weight_ih=kept[0], weight_hh=kept[1], bias=both, order="keras", dtype="float64")
    options = {"reset_after": True} if kind == "GRU" else {}
    expected = getattr(rnncore, kind)(**turned(plain, "in_gates"), order="keras", **options, dtype="float64")
    for name, array in expected.weights.items():
        np.testing.assert_array_equal(model.weights[name], array, err_msg=name)


@pytest.mark.parametrize("input_forget", [0, 1])
@pytest.mark.parametrize("peephole", [False, True])
def test_onnx_lstm(peephole, input_forget):
    a = random_arrays("LSTM")
    bias, p = np.concatenate([a["bias_ih"], a["bias_hh"]]), draw(RNG, (3 * H,)) if peephole else None
    expected = onnx_run("LSTM", X, a["weight_ih"], a["weight_hh"], bias, p, input_forget=input_forget)
    coupled = "forget" if input_forget else None
    arrays = {"weight_ih": a["weight_ih"], "weight_hh": a["weight_hh"], "bias": bias, "peephole": p}
    assert_close(rnncore.LSTM(**arrays, order="onnx", coupled=coupled)(X), expected, 1e-5)


@pytest.mark.parametrize("after", [0, 1])
def test_onnx_gru(after):
    a = random_arrays("GRU")
    bias = np.concatenate([a["bias_ih"], a["bias_hh"]])
    expected = onnx_run("GRU", X, a["weight_ih"], a["weight_hh"], bias, linear_before_reset=after)
    arrays = {"weight_ih": a["weight_ih"], "weight_hh": a["weight_hh"], "bias": bias}
    assert_close(rnncore.GRU(**arrays, order="onnx", reset_after=bool(after))(X), expected, 1e-5)


def test_tf1_lstm():
    """BasicLSTMCell's formula: i j f o of concat[x, h], forget bias at run time only when asked for."""
    kernel, bias = draw(RNG, (I + H, 4 * H)), draw(RNG, (4 * H,))
    for forget_bias in (0.0, 1.0):
        h, c, outputs = np.zeros((B, H)), np.zeros((B, H)), []
        for t in range(T):
            i, j, f, o = np.split(np.hstack([X[:, t], h]) @ kernel + bias, 4, axis=1)
            c = c * sigmoid(f + forget_bias) + sigmoid(i) * np.tanh(j)
            h = np.tanh(c) * sigmoid(o)
            outputs.append(h)
        options = {"forget_bias": forget_bias} if forget_bias else {}
        model = rnncore.LSTM(kernel=kernel, bias=bias, order="tf1", **options, dtype="float64")
        assert_close(model(X), np.stack(outputs, axis=1), 1e-12)


def test_tf1_coupled_lstm_with_peepholes_and_projection():
    """CoupledInputForgetGateLSTMCell's formula: j f o, i = 1 - f, h projected."""
    kernel, bias, projection = draw(RNG, (I + P, 3 * H)), draw(RNG, (3 * H,)), draw(RNG, (H, P))
    w_f, w_o = draw(RNG, (2, H))
    m, c, outputs = np.zeros((B, P)), np.zeros((B, H)), []
    for t in range(T):
        j, f, o = np.split(np.hstack([X[:, t], m]) @ kernel + bias, 3, axis=1)
        gate = sigmoid(f + 1.0 + w_f * c)
        c = gate * c + (1 - gate) * np.tanh(j)
        m = (sigmoid(o + w_o * c) * np.tanh(c)) @ projection
        outputs.append(m)
    arrays = {"kernel": kernel, "bias": bias, "projection": projection, "peephole": np.concatenate([w_f, w_o])}
    for order in ("tf1", "jfo"):
        model = rnncore.LSTM(
            **arrays, order=order, layout="in_gates", coupled="input", forget_bias=1.0, dtype="float64"
        )
        assert_close(model(X), np.stack(outputs, axis=1), 1e-12)


@pytest.mark.parametrize("update", ["old", "new"])
def test_tf1_gru(update):
    """GRUCell's formula: r u of concat[x, h], a candidate of concat[x, r h]."""
    arrays = {"kernel": draw(RNG, (I + H, 2 * H)), "bias": draw(RNG, (2 * H,))}
    arrays |= {"candidate_kernel": draw(RNG, (I + H, H)), "candidate_bias": draw(RNG, (H,))}
    h, outputs = np.zeros((B, H)), []
    for t in range(T):
        r, u = np.split(sigmoid(np.hstack([X[:, t], h]) @ arrays["kernel"] + arrays["bias"]), 2, axis=1)
        c = np.tanh(np.hstack([X[:, t], r * h]) @ arrays["candidate_kernel"] + arrays["candidate_bias"])
        u = u if update == "old" else 1 - u
        h = u * h + (1 - u) * c
        outputs.append(h)
    assert_close(rnncore.GRU(**arrays, order="tf1", update=update, dtype="float64")(X), np.stack(outputs, 1), 1e-12)


def test_cell_options():
    arrays = random_arrays("LSTM")
    norm = {"ln_weight": draw(RNG, (4 * H,)), "ln_cell_weight": draw(RNG, (H,)), "ln_cell_bias": draw(RNG, (H,))}
    model = rnncore.LSTM(**arrays, **norm, layer_norm="tf1", cell_clip=0.5, clip=2.0, dtype="float64")
    assert_close(model(X), run_oracle(model.spec, model.weights, {"x": X})["lstm"], 1e-12)
    assert model.spec.nodes[0].cell.cell_clip == 0.5
    back = {**random_arrays("LSTM"), **norm, "activations": ("hard_sigmoid_fifth",) * 5, "clip": None}
    both = rnncore.LSTM(**arrays, **norm, layer_norm="tf1", reverse=back, clip=2.0)
    assert both.spec.nodes[0].reverse_cell.clip is None


def test_gate_letters():
    assert gate_order("LSTM", "IJFO") == gate_order("LSTM", "tf1") == "igfo"
    assert gate_order("LSTM", "jfo") == "gfo"
    assert gate_order("GRU", "urc") == gate_order("GRU", "keras") == "zrn"
    assert gate_order("GRU", "roz") == gate_order("GRU", "coreml") == "rnz"
    assert gate_order("RNN", "onnx") == gate_order("RNN", "h") == "n"


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["pytorch", "", "ifg", "iifgo", "ifgx", "ifgo ", None, 3, "fo"])
def test_unknown_orders(order):
    with pytest.raises(SpecError, match=r"order=.* is unknown, expected 'torch', 'keras', .* or the gates' letters"):
        rnncore.LSTM(**random_arrays("LSTM"), order=order)


@pytest.mark.parametrize(
    ("kind", "changes", "error", "says"),
    [
        ("GRU", {"peephole": np.zeros(2 * H)}, SpecError, "GRU: argument 'peephole' is unknown, expected one of order"),
        ("GRU", {"coupled": "input"}, SpecError, "GRU: argument 'coupled' is unknown"),
        ("RNN", {"forget_bias": 1.0}, SpecError, "RNN: argument 'forget_bias' is unknown, expected .* clip"),
        ("LSTM", {"reset_after": True}, SpecError, "LSTM: argument 'reset_after' is unknown"),
        ("LSTM", {"hidden_size": H}, SpecError, "LSTM: argument 'hidden_size' is unknown"),
        ("LSTM", {"reverse": {"take": "last"}}, SpecError, "reverse: LSTM: argument 'take' is unknown"),
        ("LSTM", {"reverse": 3}, SpecError, "reverse is int, expected a mapping"),
        ("LSTM", {"reverse": {}}, WeightError, "reverse: weight_ih: missing"),
        ("LSTM", {"reverse": {}, "direction": "reverse"}, SpecError, "reverse with direction='reverse'"),
        ("LSTM", {"direction": "bidirectional"}, SpecError, "without reverse"),
        ("LSTM", {"direction": "back"}, SpecError, "direction='back'"),
        ("LSTM", {"take": "first"}, SpecError, "take='first', expected 'sequence' or 'last'"),
        ("LSTM", {"layout": "rows"}, SpecError, "layout='rows', expected one of 'gates_in', 'in_gates', 'cudnn'"),
        ("RNN", {"layout": "cudnn"}, SpecError, "layout='cudnn', expected an LSTM or GRU"),
        ("LSTM", {"dtype": "float16"}, SpecError, "dtype 'float16'"),
        ("LSTM", {"coupled": "output"}, SpecError, "coupled='output', expected one of None, 'input', 'forget'"),
        ("LSTM", {"activations": ("tanh",) * 4}, SpecError, r"4 activations, expected 5 \(i, f, g, o, h\)"),
        ("LSTM", {"activations": ("relu2",) * 5}, SpecError, "activation 'relu2' is unknown"),
        ("LSTM", {"layout": "in_gates"}, WeightError, r"weight_hh: shape \(20, 5\), expected \(H, 4\*H\) with layout"),
        ("LSTM", {"weight_ih": np.zeros((19, I))}, WeightError, r"weight_ih: shape \(19, 3\), expected \(20, I\)"),
        ("LSTM", {"weight_ih": np.zeros(20)}, WeightError, r"weight_ih: shape \(20,\), expected two dimensions"),
        ("LSTM", {"weight_hh": None}, WeightError, "weight_hh: missing, expected weight_ih and weight_hh, or kernel"),
        ("LSTM", {"order": "ifg", "coupled": "input"}, SpecError, "order='ifg' is unknown"),
        ("LSTM", {"order": "fgo", "coupled": "input"}, WeightError, "holds 4 gates, order names f g o"),
        ("LSTM", {"bias": np.zeros(20)}, WeightError, "bias and bias_ih and bias_hh: given together"),
        ("LSTM", {"bias_hh": None}, WeightError, "bias_ih: given together, expected bias, or both"),
        ("LSTM", {"bias_hh": np.zeros(19)}, WeightError, r"bias_hh: shape \(19,\), expected \(20,\)"),
        (
            "LSTM",
            {"bias_ih": None, "bias_hh": None, "bias": np.zeros(21)},
            WeightError,
            r"\(20,\), \(40,\) or \(2, 20\)",
        ),
        ("LSTM", {"peephole": np.zeros(H)}, WeightError, r"peephole: shape \(5,\), expected \(15,\) \(gates i f o\)"),
        ("LSTM", {"projection": np.zeros((6, H))}, SpecError, "projection=6, expected at most hidden_size=5"),
        ("LSTM", {"projection": np.zeros((P, H))}, WeightError, r"projection: shape \(2, 5\), expected \(5, 5\)"),
        ("LSTM", {"projection_bias": np.zeros(P)}, WeightError, "projection_bias: without projection"),
        ("LSTM", {"ln_weight": np.zeros(20)}, WeightError, "ln_weight: nothing in this LSTM uses it"),
        ("LSTM", {"layer_norm": "tflite"}, WeightError, r"ln_weight: missing, expected \(20,\) for this LSTM"),
        ("LSTM", {"kernel": np.zeros((I + H, 20))}, SpecError, "kernel, expected layout='in_gates'"),
        ("GRU", {"order": "onnx"}, SpecError, "reset_after is missing with order='onnx'"),
        ("GRU", {"update": "both"}, SpecError, "update='both', expected 'old' or 'new'"),
        ("GRU", {"update": "new", "activations": ("tanh",) * 3}, SpecError, "update='new' with tanh for z, expected"),
        ("GRU", {"candidate_bias": np.zeros(H)}, SpecError, "without kernel"),
        ("GRU", {"output_order": "processing"}, SpecError, "output_order='processing' with direction='forward'"),
    ],
)
def test_refused_by_name(kind, changes, error, says):
    with pytest.raises(error, match=says):
        getattr(rnncore, kind)(**{**random_arrays(kind), **changes})


@pytest.mark.parametrize(
    ("kind", "given", "error", "says"),
    [
        ("LSTM", {"kernel": np.zeros((I + H, 21))}, WeightError, r"kernel: shape \(8, 21\), expected \(I\+H, 4\*H\)"),
        ("LSTM", {"kernel": np.zeros((H, 20))}, WeightError, r"kernel: shape \(5, 20\)"),
        ("GRU", {"kernel": np.zeros((8, 10))}, WeightError, r"candidate_kernel: None, expected \(I\+H, 2\*H\)"),
        (
            "GRU",
            {"kernel": np.zeros((8, 10)), "candidate_kernel": np.zeros((8, 5)), "bias": np.zeros(10)},
            WeightError,
            "bias: without candidate_bias",
        ),
        ("GRU", {"kernel": np.zeros((8, 10)), "order": "keras"}, SpecError, "GRU: kernel with gates z r n"),
    ],
)
def test_tf1_kernels_that_do_not_fit(kind, given, error, says):
    with pytest.raises(error, match=says):
        getattr(rnncore, kind)(**{"order": "tf1", **given})
