"""The engine against ONNX Runtime's RNN, LSTM and GRU, over random nodes, through the test-only loader.

Where ONNX Runtime (1.31.1, its CPU kernels) is not what the specification says, or says less:

- Rows of length 0 get zeros for Y_h and Y_c, whatever their initial states; here they keep their initial states.
  (Its kernels fill those rows with zeros; the specification does not speak of length 0.)
- ThresholdedRelu, Affine and ScaledTanh without alpha or beta have 0 for both; the specification says the defaults of
  the operators, 1 for ThresholdedRelu and (1, 0) for Affine, and has none for ScaledTanh, which is refused here.
  (NameToArgDefaultsMap in rnn_helpers.cc lists LeakyRelu, HardSigmoid and Elu only.)
- layout 1 is refused. It is compared here with the same node in layout 0.
- An RNN takes activation names only as they are written in the specification, LSTM and GRU in any case.
- Values of activation_alpha and activation_beta that no activation takes are ignored; here they are refused.
- A clip of 0 or less is "no clip" or "all zero" for an RNN and refused for LSTM and GRU; here it is refused.

Each is shown by a test below: one that fails says that ONNX Runtime has changed.
"""

import itertools

import numpy as np
import pytest
from agreement import assert_agrees, assert_close, assert_no_worse
from onnx_random_nodes import SAME_DEFAULTS, drawn_node, random_node, run_onnxruntime, to_layout_1
from onnx_recurrent import ACTIVATIONS, DEFAULT_ACTIVATIONS, DIRECTIONS, INPUTS, PLACES, load_node
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from oracle import run_oracle
from random_networks import draw, seeds

from rnncore.errors import SpecError
from rnncore.runtime.model import Model


def run_ours(loaded, dtype="float32"):
    """The same outputs from rnncore, in either dtype."""
    inputs, state = dict(loaded.inputs), loaded.state
    inputs["x"] = inputs["x"].astype(dtype)
    state = None if state is None else {name: array.astype(dtype) for name, array in state.items()}
    return loaded.outputs(Model(loaded.spec, loaded.weights, dtype).run(inputs, state)[0])


def run_exact(loaded):
    """The same outputs from the float64 oracle."""
    return loaded.outputs(run_oracle(loaded.spec, loaded.weights, loaded.inputs, loaded.state))


@pytest.mark.parametrize("seed", seeds(100))
def test_random_configurations(seed):
    drawn = drawn_node(seed)
    what = f"seed {seed}: {drawn.kind} {drawn.attributes}, {', '.join(drawn.arrays)}, layout {int(drawn.batch_first)}"
    loaded = drawn.loaded
    found, exact = run_ours(loaded), run_exact(loaded)
    assert_agrees(found, exact, "float32", f"{what}: oracle")
    assert_agrees(run_ours(loaded, "float64"), exact, "float64", f"{what}: oracle")

    theirs = run_onnxruntime(drawn.kind, drawn.attributes, drawn.arrays, drawn.opset, drawn.constant)
    empty = drawn.arrays.get("sequence_lens", np.ones(1)) == 0
    for key in ("h", "c"):
        if f"Y_{key}" in theirs and empty.any():
            initial = drawn.arrays.get(f"initial_{key}", np.zeros_like(theirs[f"Y_{key}"]))
            assert not theirs[f"Y_{key}"][:, empty].any(), f"{what}: ONNX Runtime gives final states to empty rows"
            theirs[f"Y_{key}"][:, empty] = initial[:, empty]
    theirs = to_layout_1(theirs) if drawn.batch_first else theirs
    for name, array in theirs.items():
        assert_close(found[name], array, 1e-5, f"{what}: ONNX Runtime, {name}")
    assert_no_worse(found, theirs, exact, what)


# --- where ONNX Runtime is not the specification ------------------------------------------------------------------


def one_unit(kind, x=0.75, direction="forward", **attributes):
    """A node of one unit, one row and one step, whose candidate's pre-activation is x and whose gates are 1."""
    directions, gates = len(DIRECTIONS[direction]), len(PLACES[kind][:4])
    bias = np.zeros((directions, 2 * gates, 1))
    if kind == "GRU":
        bias[:, 0] = -1000.0  # z is 0
    elif kind == "LSTM":
        bias[:, :2] = 1000.0  # i and o are 1
    w = np.zeros((directions, gates, 1))
    w[:, -1] = 1.0
    arrays = {"X": np.full((1, 1, 1), x), "W": w, "R": np.zeros((directions, gates, 1)), "B": bias[..., 0]}
    return kind, {"hidden_size": 1, "direction": direction, **attributes}, arrays


def both(node):
    """Y of rnncore and of ONNX Runtime, for one unit."""
    return [run_ours(load_node(*node))["Y"].item(), run_onnxruntime(*node)["Y"].item()]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_rows_of_length_zero(kind, direction):
    """ONNX Runtime forgets their initial states, rnncore keeps them; Y is zero for both, and so are no other rows."""
    rng = np.random.default_rng(1)
    directions, gates = len(DIRECTIONS[direction]), len(PLACES[kind][:4])
    arrays = {name: draw(rng, (directions, gates * 4, 4), 0.5) for name in ("W", "R")}
    arrays |= {"X": draw(rng, (3, 3, 4)), "initial_h": 2 + draw(rng, (directions, 3, 4))}
    if kind == "LSTM":
        arrays["initial_c"] = 2 + draw(rng, (directions, 3, 4))
    for lengths in ([3, 0, 1], [0, 0, 0]):
        arrays["sequence_lens"] = np.array(lengths, np.int32)
        node = (kind, {"hidden_size": 4, "direction": direction}, arrays)
        theirs, ours = run_onnxruntime(*node), run_ours(load_node(*node))
        empty = arrays["sequence_lens"] == 0
        assert not theirs["Y"][:, :, empty].any() and not ours["Y"][:, :, empty].any()
        for key in ("h", "c") if kind == "LSTM" else ("h",):
            np.testing.assert_array_equal(theirs[f"Y_{key}"][:, empty], 0.0)
            expected = arrays[f"initial_{key}"][:, empty].astype(np.float32)
            np.testing.assert_array_equal(ours[f"Y_{key}"][:, empty], expected)
            assert_close(ours[f"Y_{key}"][:, ~empty], theirs[f"Y_{key}"][:, ~empty], 1e-6)


# For each type what stands before the function in question: gates that are 1 or 0, and for an LSTM c = x, so that the
# function is that of h.
BEFORE = {"RNN": [], "GRU": ["Sigmoid"], "LSTM": ["Sigmoid", "Affine"]}


def with_function(kind, name, x=0.75):
    """A node whose Y is that function of x, with ONNX's defaults for its alpha and beta."""
    lists = {"activation_alpha": [1.0], "activation_beta": [0.0]} if kind == "LSTM" else {}
    return one_unit(kind, x, activations=[*BEFORE[kind], name], **lists)


@pytest.mark.parametrize("kind", BEFORE)
def test_defaults_of_alpha_and_beta(kind):
    """x is 0.75: below ThresholdedRelu's threshold of 1 and above 0."""
    assert both(with_function(kind, "ThresholdedRelu")) == ([0.0, 0.75])
    assert both(with_function(kind, "Affine")) == ([0.75, 0.0])
    assert run_onnxruntime(*with_function(kind, "ScaledTanh"))["Y"].item() == 0.0
    with pytest.raises(ValueError, match="'ScaledTanh' without alpha or beta"):
        load_node(*with_function(kind, "ScaledTanh"))
    for name, x in itertools.product(SAME_DEFAULTS, (0.75, -0.75)):
        ours, theirs = both(with_function(kind, name, x))
        assert ours == pytest.approx(theirs, rel=1e-6), name


@pytest.mark.parametrize("kind", BEFORE)
def test_layout_1_is_refused_by_onnxruntime(kind):
    with pytest.raises(Fail, match="layout == 1"):
        run_onnxruntime(*one_unit(kind, layout=1))
    assert run_ours(load_node(*one_unit(kind, layout=1)))["Y"].shape == (1, 1, 1, 1)


def test_names_of_activations_in_any_case():
    """The specification says so; ONNX Runtime's RNN does not know it."""
    for name in ("TANH", "tanh", "tAnH"):
        for kind in ("LSTM", "GRU"):
            assert both(with_function(kind, name)) == pytest.approx([np.tanh(0.75)] * 2, rel=1e-6)
        with pytest.raises(Fail, match=f"Invalid activation attribute - {name}"):
            run_onnxruntime(*with_function("RNN", name))
        assert run_ours(load_node(*with_function("RNN", name)))["Y"].item() == pytest.approx(np.tanh(0.75), rel=1e-6)


def test_values_that_no_activation_takes():
    node = one_unit("GRU", activations=["Sigmoid", "LeakyRelu"], activation_alpha=[0.5, 0.25])
    assert run_onnxruntime(*node)["Y"].item() == 0.75
    with pytest.raises(ValueError, match="activation_alpha has 1 more values than its activations take"):
        load_node(*node)


@pytest.mark.parametrize("clip", [0.0, -1.0])
def test_clip_of_zero_or_less(clip):
    """Zero, or no limit, for ONNX Runtime's RNN."""
    assert run_onnxruntime(*one_unit("RNN", activations=["Relu"], clip=clip))["Y"].item() == (0.75 if clip else 0.0)
    for kind in ("LSTM", "GRU"):
        with pytest.raises(Fail, match="clip_ > 0"):
            run_onnxruntime(*one_unit(kind, clip=clip))
    for kind in BEFORE:
        with pytest.raises(SpecError, match=f"{kind}: clip={clip}, expected a finite number above 0"):
            load_node(*one_unit(kind, clip=clip))


# --- the loader and the generator ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "attributes", "arrays", "says"),
    [
        ("Gru", {}, {}, "type 'Gru' is unknown, expected one of GRU, LSTM, RNN"),
        ("GRU", {"output_sequence": 1}, {}, "GRU: attribute 'output_sequence' is unknown, expected one of activation"),
        ("GRU", {"input_forget": 1}, {}, "GRU: attribute 'input_forget' is unknown"),
        ("RNN", {"linear_before_reset": 1}, {}, "RNN: attribute 'linear_before_reset' is unknown"),
        ("GRU", {}, {"P": np.zeros((1, 3))}, "GRU: input 'P' is unknown, expected one of X, W, R, B, sequence_lens"),
        ("RNN", {"direction": "backward"}, {}, "RNN: direction 'backward' is unknown, expected one of forward"),
        ("RNN", {"layout": 2}, {}, "RNN: layout=2, expected 0 or 1"),
        ("RNN", {"hidden_size": 3}, {}, r"RNN: hidden_size=3, but R has shape \(1, 1, 1\)"),
        ("RNN", {"activations": ["Gelu"]}, {}, "RNN: activation 'gelu' is unknown, expected one of relu, tanh"),
        ("GRU", {"activations": ["Tanh"]}, {}, "GRU: 1 activations, expected 2"),
        ("RNN", {"activations": ["Tanh", "Relu", "Tanh"]}, {}, "RNN: 3 activations, expected 1"),
        ("RNN", {}, {"W": np.zeros((2, 1, 1))}, r"RNN: input W has shape \(2, 1, 1\), expected \(1, 1, 1\)"),
        ("LSTM", {}, {"B": np.zeros((1, 4))}, r"LSTM: input B has shape \(1, 4\), expected \(1, 8\)"),
        ("LSTM", {}, {"P": np.zeros((1, 4))}, r"LSTM: input P has shape \(1, 4\), expected \(1, 3\)"),
        ("LSTM", {}, {"initial_c": np.zeros((1, 2, 1))}, r"LSTM: input initial_c has shape \(1, 2, 1\), expected"),
        ("RNN", {}, {"R": np.zeros((1, 1))}, r"RNN: input R: \(1, 1\), expected three dimensions"),
    ],
)
def test_what_the_loader_refuses(kind, attributes, arrays, says):
    rows = {"RNN": 1, "LSTM": 4}.get(kind, 3)
    plain = {"X": np.zeros((1, 1, 1)), "W": np.zeros((1, rows, 1)), "R": np.zeros((1, rows, 1))}
    with pytest.raises(ValueError, match=says):
        load_node(kind, attributes, plain | arrays)


def test_an_rnn_has_two_default_activations():
    """Also with one direction, where only the first is used; some exporters write both."""
    assert (
        load_node(*one_unit("RNN", activations=["Relu", "Tanh"])).spec
        == load_node(*one_unit("RNN", activations=["Relu"])).spec
    )


def test_the_generator_covers_what_it_promises():
    """Random is worth nothing if a branch is never drawn."""
    drawn = [random_node(np.random.default_rng(seed)) for seed in range(500)]
    directions = [node.attributes.get("direction", "forward") for node in drawn]
    kinds = [node.kind for node in drawn]
    assert set(zip(kinds, directions, strict=True)) == set(itertools.product(DEFAULT_ACTIVATIONS, DIRECTIONS))
    for kind, names in INPUTS.items():
        for name in names[3:]:
            assert {name in node.arrays for node in drawn if node.kind == kind} == {True, False}, (kind, name)
    every = {value for node in drawn for value in node.attributes.items() if isinstance(value[1], int | float)}
    assert every >= {("clip", 0.25), ("clip", 2.0), ("linear_before_reset", 0), ("linear_before_reset", 1)}
    assert every >= {("input_forget", 0), ("input_forget", 1)}
    for kind, functions in DEFAULT_ACTIVATIONS.items():
        for place in range(len(functions)):
            lists = [
                node.attributes.get("activations", [])[place :: len(functions)] for node in drawn if node.kind == kind
            ]
            seen = {name.lower() for names in lists for name in names}
            assert seen == set(ACTIVATIONS), (kind, place)
    assert any(name.islower() for node in drawn for name in node.attributes.get("activations", []))
    lengths = [node.arrays["sequence_lens"] for node in drawn if "sequence_lens" in node.arrays]
    assert any((array == 0).any() for array in lengths) and any((array == 0).all() for array in lengths)
    assert {node.opset for node in drawn} == {14, 21, 22}
    assert {(node.constant, node.batch_first) for node in drawn} == set(itertools.product((True, False), repeat=2))
    loaded = [node.loaded for node in drawn]
    nodes = [each.spec.nodes[0] for each in loaded]
    assert any(node.reverse_cell is not None for node in nodes)
    assert any(node.direction == "bidirectional" and node.reverse_cell is None for node in nodes)
    assert {node.layout for node in nodes} == {"batch_first", "time_first"}
