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

import dataclasses
import itertools
from dataclasses import dataclass

import numpy as np
import onnxruntime
import pytest
from agreement import assert_agrees, assert_close, assert_no_worse
from onnx import TensorProto, helper, numpy_helper
from onnx_recurrent import ACTIVATIONS, DEFAULT_ACTIVATIONS, DIRECTIONS, INPUTS, PLACES, load_node
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from oracle import run_oracle
from random_networks import chance, draw, seeds

from rnncore.errors import SpecError
from rnncore.runtime.model import Model

NAMES = [
    *("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid"),
    *("Elu", "Softsign", "Softplus"),
]
THRESHOLD = 0.125
# Values for alpha and beta that are no defaults. The products of a recurrence through them do not grow.
PARAMETERS = {
    "Affine": (0.75, 0.125),
    "LeakyRelu": (0.125,),
    "ThresholdedRelu": (THRESHOLD,),
    "ScaledTanh": (0.875, 1.25),
    "HardSigmoid": (0.25, 0.375),
    "Elu": (0.75,),
}
# What may be left out: of these, ONNX Runtime and the specification have the same defaults.
SAME_DEFAULTS = ("LeakyRelu", "HardSigmoid", "Elu")
# Functions that stay within [0, 1], and within [-1, 1]. A state that is kept by a gate beyond grows from step to step:
# such gates are clipped, and the sequences short. With input_forget the gate that keeps is 1 - i.
UNIT = ("Sigmoid", "HardSigmoid")
BOUNDED = (*UNIT, "Tanh", "ScaledTanh", "Softsign")


@dataclass(frozen=True)
class Drawn:
    """A random node: its type, attributes, and float64 input arrays by name, in layout 0.

    constant: ONNX Runtime has the weights as constants, which it packs, not as inputs. batch_first: we have layout 1.
    """

    kind: str
    attributes: dict
    arrays: dict
    opset: int
    constant: bool
    batch_first: bool

    @property
    def loaded(self):
        """The node as we read it, in the layout that was drawn."""
        attributes, arrays = self.attributes, dict(self.arrays)
        if self.batch_first:
            attributes = {**attributes, "layout": 1}
            arrays |= {
                name: np.ascontiguousarray(array.swapaxes(0, 1))
                for name, array in arrays.items()
                if name in ("X", "initial_h", "initial_c")
            }
        return load_node(self.kind, attributes, arrays)


def random_activations(rng, kind, directions):
    """Attributes for the activations; no lists where every value is that of ONNX, and lists that end early."""
    if chance(rng, 0.3):
        return {}
    names, alphas, betas = [], [], []
    for place in list(range(len(DEFAULT_ACTIVATIONS[kind]))) * directions:
        gate = kind != "RNN" and place == 0
        names.append(str(rng.choice(BOUNDED if gate and chance(rng, 0.5) else NAMES)))
    takers = [name for name in names if name in PARAMETERS]
    for name in takers:
        alpha, *beta = PARAMETERS[name]
        alphas.append(alpha)
        betas += beta
    cut = 0
    while cut < len(takers) and takers[-1 - cut] in SAME_DEFAULTS:
        cut += 1
    if cut and chance(rng, 0.5):
        cut = int(rng.integers(1, cut + 1))
        alphas = alphas[: len(alphas) - cut]
        dropped = sum(len(PARAMETERS[name]) == 2 for name in takers[-cut:])
        betas = betas[: len(betas) - dropped]
    if kind != "RNN" and chance(rng, 0.2):
        names = [name.upper() if chance(rng, 0.5) else name.lower() for name in names]
    found = {"activations": names}
    return found | {key: values for key, values in (("activation_alpha", alphas), ("activation_beta", betas)) if values}


def all_within(names, group):
    """Whether all of these functions, in any case, are of the group."""
    return {name.lower() for name in names} <= {name.lower() for name in group}


def random_node(rng):
    """A node of any type with any attributes and inputs, its recurrence well conditioned."""
    kind = str(rng.choice(["RNN", "LSTM", "LSTM", "GRU", "GRU"]))
    direction = str(rng.choice(["forward", "reverse", "bidirectional", "bidirectional"]))
    directions, rows = len(DIRECTIONS[direction]), len(PLACES[kind][:4])
    inputs, hidden, batch = (int(rng.integers(1, high)) for high in (41, 41, 6))
    attributes = {"hidden_size": hidden, **random_activations(rng, kind, directions)}
    if direction != "forward" or chance(rng, 0.5):
        attributes["direction"] = direction
    if kind == "LSTM" and chance(rng, 0.5):
        attributes["input_forget"] = int(chance(rng, 0.7))
    functions = attributes.get("activations", DEFAULT_ACTIVATIONS[kind])
    gates_within = UNIT if attributes.get("input_forget") else BOUNDED
    tame = kind == "RNN" or all_within(functions[:: len(DEFAULT_ACTIVATIONS[kind])], gates_within)
    if not tame or chance(rng, 0.3):
        attributes["clip"] = float(rng.choice([0.25, 0.5, 2.0] if tame else [0.25, 0.5]))
    steps = int(rng.integers(1, 10))
    if tame and all_within(functions, BOUNDED) and chance(rng, 0.3):
        steps = int(rng.integers(20, 61))
    if kind == "GRU" and chance(rng, 0.7):
        attributes["linear_before_reset"] = int(chance(rng, 0.7))
    arrays = {
        "X": draw(rng, (steps, batch, inputs), 1.5),
        "W": draw(rng, (directions, rows * hidden, inputs), 1 / np.sqrt(inputs)),
        "R": draw(rng, (directions, rows * hidden, hidden), 1 / np.sqrt(hidden)),
    }
    if chance(rng, 0.7):
        arrays["B"] = draw(rng, (directions, 2 * rows * hidden), 0.5)
    if chance(rng, 0.5):
        lowest = int(chance(rng, 0.5))
        arrays["sequence_lens"] = rng.integers(lowest, steps + 1, batch).astype(np.int32)
    if chance(rng, 0.5):
        arrays["initial_h"] = draw(rng, (directions, batch, hidden))
    if kind == "LSTM":
        if chance(rng, 0.5):
            arrays["initial_c"] = draw(rng, (directions, batch, hidden))
        if chance(rng, 0.4):
            arrays["P"] = draw(rng, (directions, 3 * hidden), 0.5)
    opset = int(rng.choice([14, 21, 22]))
    return Drawn(kind, attributes, arrays, opset, constant=chance(rng, 0.7), batch_first=chance(rng, 0.3))


def has_one_answer(drawn):
    """Whether no unit stands on the step of a ThresholdedRelu, where rounding decides between 0 and the threshold."""
    loaded = drawn.loaded
    moved = [with_threshold(loaded.spec, THRESHOLD + by) for by in (-1e-4, 0.0, 1e-4)]
    if moved[0] == moved[1]:
        return True  # there is none
    first, *others = [run_oracle(spec, loaded.weights, loaded.inputs, loaded.state) for spec in moved]
    return all(np.array_equal(first[name], other[name]) for other in others for name in first)


def with_threshold(spec, threshold):
    """The same Spec with another alpha for every ThresholdedRelu."""
    (node,) = spec.nodes
    cells = {}
    for side in ("cell", "reverse_cell"):
        cell = getattr(node, side)
        if cell is not None:
            functions = [(a.name, threshold) if a.name == "thresholded_relu" else a for a in cell.activations]
            cells[side] = cell.replace(activations=tuple(functions))
    return dataclasses.replace(spec, nodes=(dataclasses.replace(node, **cells),))


def drawn_node(seed):
    """The first node from this seed that has one answer."""
    rng = np.random.default_rng(seed)
    while True:
        drawn = random_node(rng)
        if has_one_answer(drawn):
            return drawn


def run_onnxruntime(kind, attributes, arrays, opset=22, constant=True):
    """Y, Y_h and, for an LSTM, Y_c of a model of one node in float32; W, R, B and P are constants or inputs too."""
    given = {name: np.asarray(array, np.float32 if array.dtype == "f8" else None) for name, array in arrays.items()}
    weights = [name for name in given if name in ("W", "R", "B", "P")] if constant else []
    outputs = ["Y", "Y_h", "Y_c"] if kind == "LSTM" else ["Y", "Y_h"]
    node = helper.make_node(kind, [name if name in given else "" for name in INPUTS[kind]], outputs, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
        if name not in weights
    ]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(given[name], name) for name in weights]
    graph = helper.make_graph([node], "one node", inputs, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: array for name, array in given.items() if name not in weights}
    return dict(zip(outputs, session.run(None, feeds), strict=True))


def run_ours(loaded, dtype="float32"):
    """The same outputs from rnncore, in either dtype."""
    inputs, state = dict(loaded.inputs), loaded.state
    inputs["x"] = inputs["x"].astype(dtype)
    state = None if state is None else {name: array.astype(dtype) for name, array in state.items()}
    return loaded.outputs(Model(loaded.spec, loaded.weights, dtype).run(inputs, state)[0])


def run_exact(loaded):
    """The same outputs from the float64 oracle."""
    return loaded.outputs(run_oracle(loaded.spec, loaded.weights, loaded.inputs, loaded.state))


def to_layout_1(outputs):
    """Y (T, D, B, H) as (B, T, D, H), final states (D, B, H) as (B, D, H)."""
    return {name: np.moveaxis(y, 2, 0) if name == "Y" else y.swapaxes(0, 1) for name, y in outputs.items()}


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
        ("Gru", {}, {}, "type 'Gru' is unknown, expected one of RNN, LSTM, GRU"),
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
