"""The compiled activations against their float64 definitions in rnncore.cells.activations: alone, and inside cells."""

from typing import NamedTuple

import numpy as np
import pytest
from random_networks import PARAMETERS, activation, stack

from rnncore.cells import ACTIVATIONS, GRU, LSTM, RNN, Activation, Cell
from rnncore.errors import SpecError
from rnncore.kernels import _activations
from rnncore.runtime.model import Model

DTYPES = [np.float32, np.float64]

# Every STEP-th float32. A prime, so that all low bits come up; 61 takes some ten seconds.
STEP = 61
BLOCK = 1 << 24


def compiled(function, x):
    """f over the last axis of x, by the kernel."""
    y = np.array(x, order="C").reshape(-1, x.shape[-1])
    _activations.activate(function.name, function.alpha, function.beta, y)
    return y.reshape(x.shape)


def float32_ulps(found, exact):
    """|found - exact| in units of the last place that a float32 of exact's size has; subnormals share one unit."""
    _, exponent = np.frexp(exact)
    return np.abs(found.astype(np.float64) - exact) * np.exp2(24.0 - np.maximum(exponent, -125))


def patterns(first, last, step=1):
    """The finite float32 whose bits are first, first + step, ... below last."""
    x = np.arange(first, last, step, dtype=np.int64).astype(np.uint32).view(np.float32)
    return x[np.isfinite(x)]


def bits(value):
    return int(np.float32(value).view(np.uint32))


def sweep():
    """Blocks of float32: every STEP-th of all, and all near the places where the formulas change."""
    for first in range(0, 1 << 32, BLOCK):
        yield patterns(first + -first % STEP, first + BLOCK, STEP)
    around = [(0.0, 1.2e-38), (1e-4, 1.01e-4), (0.62, 0.63), (3.4, 3.5), (8.0, 8.2), (15.9, 16.7), (87.0, 104.5)]
    for low, high in around:
        magnitudes = patterns(bits(low), bits(high))
        yield magnitudes
        yield -magnitudes


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_float32_sigmoid_and_tanh_within_2_ulp(name):
    """kernels/activations.h promises it for all values; the exact value is that of the definition in float64."""
    function, worst, at, checked = Activation(name), 0.0, None, 0
    for x in sweep():
        if not x.size:
            continue
        found = compiled(function, x)
        with np.errstate(under="ignore"):
            ulps = float32_ulps(found, function(x))
        checked += x.size
        index = int(np.argmax(ulps))  # NaN, if there is one
        if not ulps[index] <= worst:
            worst, at = ulps[index], x[index]
        assert not np.isnan(ulps[index]), f"{name}({at!r}) is NaN"
        assert np.abs(found).max() <= 1.0
    assert checked > (1 << 32) // STEP
    assert worst <= 2.0, f"{name}({at!r}): {worst:.3f} ulp"


# Every such float32 goes through cells; a prime, as above.
STEP_OF_CELLS = 211
UNITS = 16


class Gate(NamedTuple):
    """A cell held so that one of its values is one function of one gate's pre-activation.

    biases: of the other gates, by letter; 300 opens a gate or drives tanh to 1, -300 shuts it. h0, c0: initial states.
    """

    function: str
    cell: Cell
    biases: dict[str, float]
    output: str
    h0: float = 0.0
    c0: float = 0.0
    bias_hn: float = 0.0
    scale: float = 1.0

    def model(self, values=None):
        """One where the gate's unit u sees input u; or values[u], whatever the input."""
        spec = stack(self.cell)
        weights = {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes().items()}
        for place, letter in enumerate(self.cell.gates):
            rows = slice(place * UNITS, (place + 1) * UNITS)
            if letter in self.biases:
                weights["rnn.bias_l0"][rows] = self.biases[letter]
            elif values is None:
                weights["rnn.weight_ih_l0"][rows] = np.eye(UNITS)
            else:
                weights["rnn.bias_l0"][rows] = values
        if "rnn.bias_hn_l0" in weights:
            weights["rnn.bias_hn_l0"][:] = self.bias_hn
        return Model(spec, weights, num_threads=1)

    def run(self, model, x):
        """What the gate makes of x (rows, UNITS)."""
        first = {"h": self.h0, "c": self.c0}
        state = {f"rnn.{key}": np.full((1, len(x), UNITS), first[key], np.float32) for key in self.cell.states}
        return model.run({"x": x[:, None]}, state)[1][f"rnn.{self.output}"][0] * np.float32(self.scale)


OF_LSTM, OF_GRU = LSTM(UNITS, UNITS), GRU(UNITS, UNITS)
GATES = {
    "rnn h": Gate("tanh", RNN(UNITS, UNITS), {}, "h"),
    "lstm i": Gate("sigmoid", OF_LSTM, {"f": -300, "g": 300, "o": 300}, "c"),
    "lstm f": Gate("sigmoid", OF_LSTM, {"i": -300, "g": 0, "o": 300}, "c", c0=1),
    "lstm g": Gate("tanh", OF_LSTM, {"i": 300, "f": -300, "o": 300}, "c"),
    "lstm o": Gate("sigmoid", OF_LSTM, {"i": -300, "f": 300, "g": 0}, "h", c0=30),
    "gru r": Gate("sigmoid", OF_GRU, {"z": -300, "n": 0}, "h", bias_hn=2.0**-40, scale=2.0**40),  # tanh(y) is y there
    "gru z": Gate("sigmoid", OF_GRU, {"r": -300, "n": 0}, "h", h0=1),
    "gru n": Gate("tanh", OF_GRU, {"r": -300, "z": -300}, "h"),
}


def sweep_of_cells():
    """Blocks of float32: every STEP_OF_CELLS-th of all, and all near the places where the fused formulas are worst."""
    for first in range(0, 1 << 32, 1 << 28):
        yield patterns(first + -first % STEP_OF_CELLS, first + (1 << 28), STEP_OF_CELLS)
    for low, high in [(3.4e-4, 3.46e-4), (0.122, 0.126), (0.518, 0.521), (8.1, 8.15), (8.9, 9.1), (87.2, 87.5)]:
        yield patterns(bits(low), bits(high))
        yield patterns(bits(-low), bits(-high))


@pytest.mark.parametrize("name", GATES)
def test_gates_of_fused_cells_within_2_ulp(isa, name):
    """Wherever the exact result is a normal float32. What is smaller comes out as zero, or as the least normal one."""
    gate, least = GATES[name], np.finfo(np.float32).tiny
    function, model = activation(gate.function), gate.model()
    for x in sweep_of_cells():
        padded = np.zeros((-(-x.size // UNITS), UNITS), np.float32)
        padded.reshape(-1)[: x.size] = x
        found = gate.run(model, padded).reshape(-1)[: x.size]
        with np.errstate(under="ignore"):
            exact = function(x)
        normal = np.abs(exact) >= least * gate.scale
        ulps = np.where(normal, float32_ulps(found, exact), 0.0)
        worst = int(np.argmax(ulps))  # NaN, if there is one
        assert ulps[worst] <= 2.0, f"{isa}: {name}({x[worst]!r}): {ulps[worst]:.3f} ulp"
        assert (np.abs(found[~normal]) <= least * gate.scale).all(), f"{isa}: {name} where the result is subnormal"


@pytest.mark.parametrize("name", GATES)
def test_gates_of_fused_cells_at_the_ends(isa, name):
    """The limits are exact, NaN gives NaN, and none of it reaches the units beside it."""
    gate = GATES[name]
    low, middle = (-1.0, 0.0) if gate.function == "tanh" else (0.0, 0.5)
    limits = {np.inf: 1.0, -np.inf: low, np.nan: np.nan, 3.4e38: 1.0, -3.4e38: low, 0.0: middle, 100.0: 1.0}
    found = gate.run(gate.model(np.resize(list(limits), UNITS)), np.zeros((1, UNITS), np.float32))
    np.testing.assert_array_equal(found[0], np.resize(list(limits.values()), UNITS).astype(np.float32))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_float64_sigmoid_and_tanh_within_3_ulp(name):
    """Against the same in extended precision: NumPy's own float64 tanh is 2 ulp off itself."""
    x = np.concatenate([np.linspace(-750, 750, 300_001), np.linspace(-2, 2, 100_001)])
    wide = x.astype(np.longdouble)
    exact = np.tanh(wide) if name == "tanh" else 1 / (1 + np.exp(-wide))
    error = np.abs(compiled(Activation(name), x) - exact) / np.spacing(np.abs(exact.astype(np.float64)))
    assert error.max() <= 3.0, f"{name}({x[error.argmax()]!r}): {error.max():.3f} ulp"


def grid(name, dtype):
    """Values of every size: dense where functions bend."""
    if not ACTIVATIONS[name].per_element:
        rng = np.random.default_rng(0)
        return (rng.standard_normal((600, 9)) * rng.choice([0.1, 1.0, 10.0, 60.0], (600, 1))).astype(dtype)
    sizes = np.logspace(-45, 38, 4000)
    return np.concatenate([np.linspace(-20, 20, 40_001), np.linspace(-110, 80, 10_001), sizes, -sizes]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_on_a_grid(name, dtype):
    """Within 4 units in the last place of the larger of 1 and |f(x)|."""
    function = activation(name)
    x = grid(name, dtype)
    with np.errstate(over="ignore", under="ignore"):
        exact = function(x)
        expected = exact.astype(dtype)
    found = compiled(function, x)
    assert found.dtype == dtype
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    scale = np.maximum(1.0, np.abs(exact))
    error = np.abs(found.astype(np.float64) - exact)[finite] / (np.finfo(dtype).eps * scale[finite])
    assert error.max() <= 4.0, f"{name}({x[finite][error.argmax()]!r}): {error.max():.2f} ulp"


EXACT = ["linear", "relu", "thresholded_relu", "relu6", "hard_tanh", "hard_shrink", "threshold"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_activations_that_only_choose_are_exact(name, dtype):
    function = activation(name)
    x = np.concatenate([grid(name, dtype), np.array([0.25, -0.25, 0.125, 1.0, -1.0, 6.0, 0.0], dtype)])
    np.testing.assert_array_equal(compiled(function, x), function(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_infinities_and_nan(name, dtype):
    """As the definition says, NaN for NaN always; a neighbour in the row is not touched."""
    function = activation(name)
    if ACTIVATIONS[name].per_element:
        x = np.array([[np.inf, -np.inf, np.nan, 0.5, -np.nan, 3.0]], dtype)
        assert np.isnan(compiled(function, x)[0, [2, 4]]).all()
    else:
        inf, nan = np.inf, np.nan
        rows = [[inf, 0, 1], [0, inf, 1], [-inf, 0, 1], [0, 1, -inf], [nan, 0, 1], [0, 1, nan], [-inf] * 3, [inf] * 3]
        x = np.array([*rows, [0, 1, 2]], dtype)
    expected = function(x)
    found = compiled(function, x).astype(np.float64)
    special = ~np.isfinite(expected)
    np.testing.assert_array_equal(found[special], expected[special])
    np.testing.assert_allclose(found[~special], expected[~special], rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_the_place_in_a_row_does_not_matter(name, dtype):
    """Whatever vectors a kernel makes of a row, an element's bits are its own; a run of n leaves the rest alone."""
    if not ACTIVATIONS[name].per_element:
        return
    function = activation(name)
    x = np.random.default_rng(1).uniform(-4, 4, 67).astype(dtype)
    alone = np.array([compiled(function, x[i : i + 1])[0] for i in range(67)])
    for n in (1, 7, 8, 9, 15, 16, 17, 33, 67):
        assert compiled(function, x[:n]).tobytes() == alone[:n].tobytes()
    assert compiled(function, x[:66].reshape(6, 11)).tobytes() == alone[:66].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_nothing_to_do(name, dtype):
    """No rows, or rows of nothing: nothing happens."""
    function = activation(name)
    for shape in ((0, 3), (2, 0), (0, 0)):
        _activations.activate(function.name, function.alpha, function.beta, np.zeros(shape, dtype))


def test_both_sides_know_the_same_names():
    assert set(_activations.ACTIVATION_IDS) == set(ACTIVATIONS)
    assert sorted(_activations.ACTIVATION_IDS.values()) == list(range(len(ACTIVATIONS)))


def test_parameters_are_used():
    """The parameters of these tests are not the defaults, or nobody would notice if the kernel ignored them."""
    for name, given in PARAMETERS.items():
        function = ACTIVATIONS[name]
        for value, default in zip(given, (function.alpha, function.beta), strict=False):
            assert default is not None and value != default
    takes = {name for name, function in ACTIVATIONS.items() if function.alpha is not None}
    assert takes == set(PARAMETERS)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("tanhh",), "'tanhh' is unknown, expected one of"),
        ((None,), "None is unknown"),
        (("hard_sigmoid",), "hard_sigmoid_fifth' .Keras 2, ONNX, CoreML"),
        (("leaky_relu",), "0.01 in ONNX and PyTorch, 0.2 in Keras 3"),
        (("gelu",), "'gelu_tanh' .the approximation. or 'gelu_erf'"),
        (("scaled_tanh",), "alpha missing"),
        (("scaled_tanh", 1.0), "beta missing"),
        (("threshold", 1.0), "beta missing"),
        (("tanh", 1.0), "'tanh': alpha=1.0, but this function takes no alpha"),
        (("elu", 1.0, 2.0), "'elu': beta=2.0, but this function takes no beta"),
        (("hard_sigmoid_fifth", 0.3), "fixed under this name"),
        (("elu", "1"), "alpha='1', expected a finite number"),
        (("elu", True), "alpha=True, expected a finite number"),
        (("elu", float("nan")), "expected a finite number"),
        (("elu", float("inf")), "expected a finite number"),
        (("elu", 10**400), "expected a finite number"),
        (("celu", 0.0), "'celu': alpha 0"),
        (([],), "unknown"),
    ],
)
def test_refused(given, says):
    with pytest.raises(SpecError, match=says):
        Activation(*given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("tanh", Activation("tanh")),
        (("elu", 0.5), Activation("elu", 0.5)),
        (["elu", 0.5], Activation("elu", 0.5)),
        ({"name": "threshold", "alpha": 1, "beta": 2}, Activation("threshold", 1.0, 2.0)),
        ("hard_sigmoid_fifth", Activation("hard_sigmoid", 0.2, 0.5)),
        ("hard_sigmoid_sixth", Activation("hard_sigmoid", 1 / 6, 0.5)),
        ("elu", Activation("elu", 1.0)),
    ],
)
def test_ways_to_write_one(given, expected):
    assert Activation.of(given) == expected
    assert Activation.of(expected.to_json()) == expected


@pytest.mark.parametrize(
    "given", [5, None, [], ["a", 1, 2, 3], {"alpha": 1}, {"name": "elu", "gamma": 1}, {"name": []}]
)
def test_ways_that_are_none(given):
    with pytest.raises(SpecError, match="activation"):
        Activation.of(given)
