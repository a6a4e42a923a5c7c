"""For tests: one ONNX RNN, LSTM or GRU node as a Spec, its Weights and what to run it on.

    node = load_node("LSTM", {"hidden_size": 4, "clip": 2.0}, {"X": x, "W": w, "R": r, "B": b})
    node.outputs(Model(node.spec, node.weights).run(node.inputs, node.state)[0])["Y_h"]

Names and shapes are those of the specification, D directions, layout 0 (with layout 1 the batch goes first):

    X (T, B, I)   W (D, G*H, I)   R (D, G*H, H)   B (D, 2*G*H)   P (D, 3*H)   sequence_lens (B)
    initial_h, initial_c, Y_h, Y_c (D, B, H)   Y (T, D, B, H), with layout 1 (B, T, D, H)

Rules of the specification that are easy to miss:

- activation_alpha and activation_beta hold one value for each activation that takes one, in order, over both
  directions; what the lists do not reach has the default of the operator of that name.
- The default activations of an RNN are two, also where it has one direction.
- clip stands before every activation of a gate, after bias and peephole.
- input_forget: f = 1 - i, and the rows of f are not used.

What is not known is refused: ValueError, or the SpecError or WeightError of rnncore.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, and RNN and GRU beside it, version 14 and 22.
"""

from dataclasses import dataclass

import numpy as np

from rnncore.cells import CELLS, Activation
from rnncore.conventions.gates import GATE_ORDERS, halve_bias, split_gru_bias, stack_gates, sum_biases
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights

__all__ = ["ACTIVATIONS", "OnnxNode", "load_node"]

# ONNX's name in lower case: ours, and the operator's default alpha and beta; ... where it has none.
ACTIVATIONS = {
    "relu": ("relu",),
    "tanh": ("tanh",),
    "sigmoid": ("sigmoid",),
    "affine": ("affine", 1.0, 0.0),
    "leakyrelu": ("leaky_relu", 0.01),
    "thresholdedrelu": ("thresholded_relu", 1.0),
    "scaledtanh": ("scaled_tanh", ..., ...),
    "hardsigmoid": ("hard_sigmoid", 0.2, 0.5),
    "elu": ("elu", 1.0),
    "softsign": ("softsign",),
    "softplus": ("softplus",),
}
DEFAULT_ACTIVATIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
# Which of them each of our places has: RNN h, GRU r z n, LSTM i f g o h.
PLACES = {"RNN": (0,), "GRU": (0, 0, 1), "LSTM": (0, 0, 1, 0, 2)}
DIRECTIONS = {"forward": ("forward",), "reverse": ("reverse",), "bidirectional": ("forward", "reverse")}

COMMON = ("activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout")
ATTRIBUTES = {"RNN": COMMON, "GRU": (*COMMON, "linear_before_reset"), "LSTM": (*COMMON, "input_forget")}
INPUTS = dict.fromkeys(("RNN", "GRU"), ("X", "W", "R", "B", "sequence_lens", "initial_h"))
INPUTS["LSTM"] = (*INPUTS["RNN"], "initial_c", "P")


@dataclass(frozen=True)
class OnnxNode:
    """A node "rnn" that gives all of its values, what to run it on, and how its values make ONNX's outputs."""

    spec: Spec
    weights: Weights
    inputs: dict[str, np.ndarray]
    state: dict[str, np.ndarray] | None
    batch_first: bool

    def outputs(self, values):
        """Y, Y_h and, for an LSTM, Y_c from the values of the node."""
        node = self.spec.nodes[0]
        sequences = ["rnn"] if node.merge == "concat" else ["rnn.forward", "rnn.reverse"]
        outputs = {"Y": np.stack([values[name] for name in sequences], axis=2 if self.batch_first else 1)}
        for key in node.cell.states:
            array = values[f"rnn.{key}"]
            outputs[f"Y_{key}"] = array.swapaxes(0, 1) if self.batch_first else array
        return outputs


def load_node(kind, attributes, arrays):
    """The node of type ``kind`` with attributes and input arrays by name, absent ones left out. See the module."""
    _refuse_unknown(kind, "type", [kind], CELLS)
    _refuse_unknown(kind, "attribute", attributes, ATTRIBUTES[kind])
    _refuse_unknown(kind, "input", arrays, INPUTS[kind])
    _check_integers(kind, attributes)
    direction = _text(attributes.get("direction", "forward"))
    _refuse_unknown(kind, "direction", [direction], DIRECTIONS)
    directions = DIRECTIONS[direction]
    batch_first = attributes.get("layout", 0) == 1
    _check_shapes(kind, arrays, len(directions), attributes.get("hidden_size"))
    width, hidden = arrays["W"].shape[2], arrays["R"].shape[2]
    options = {"clip": attributes.get("clip"), "bias": "B" in arrays}
    if kind == "GRU":
        options["reset_after"] = attributes.get("linear_before_reset", 0) != 0
    elif kind == "LSTM":
        options["coupled"] = "forget" if attributes.get("input_forget", 0) != 0 else None
        options["peephole"] = "P" in arrays
    cells = [
        CELLS[kind](width, hidden, activations=tuple(functions[place] for place in PLACES[kind]), **options)
        for functions in _activations(kind, attributes, len(directions))
    ]
    node = Recurrent(
        "rnn",
        cells[0],
        "x",
        direction=direction,
        merge="separate" if len(cells) == 2 else "concat",
        layout="batch_first" if batch_first else "time_first",
        reverse_cell=cells[1] if cells[1:] and cells[1] != cells[0] else None,
    )
    x_input = Input("x", "float", (*(("B", "T") if batch_first else ("T", "B")), width))
    names = [name for name in Spec([x_input], [node], ["rnn.h"]).values if name.startswith("rnn")]
    spec = Spec([x_input], [node], names)
    weights = {}
    for d, (name, cell) in enumerate(zip(directions, cells, strict=True)):
        own = _weights(cell, {key: arrays[key][d] for key in ("W", "R", "B", "P") if key in arrays})
        weights |= {f"rnn.{key}{node.suffix(0, name)}": array for key, array in own.items()}
    inputs = {"x": arrays["X"]}
    if "sequence_lens" in arrays:
        inputs["lengths"] = arrays["sequence_lens"]
    batch = arrays["X"].shape[0 if batch_first else 1]
    return OnnxNode(spec, Weights(spec, weights), inputs, _state(node, arrays, batch, batch_first), batch_first)


def _check_integers(kind, attributes):
    """Flags and sizes are integers, flags and layout 0 or 1."""
    for key in ("hidden_size", "layout", "input_forget", "linear_before_reset"):
        value = attributes.get(key, 0)
        if not isinstance(value, int) or (key != "hidden_size" and value not in (0, 1)):
            raise ValueError(f"{kind}: {key}={value!r}, expected {'an integer' if key == 'hidden_size' else '0 or 1'}")


def _check_shapes(kind, arrays, directions, hidden_size):
    """Every weight has the shape that W, R and hidden_size say."""
    for key in ("X", "W", "R"):
        if key not in arrays or arrays[key].ndim != 3:
            shape = arrays[key].shape if key in arrays else "missing"
            raise ValueError(f"{kind}: input {key}: {shape}, expected three dimensions")
    w, r = arrays["W"], arrays["R"]
    hidden, rows = r.shape[2], len(GATE_ORDERS["onnx"][kind]) * r.shape[2]
    shapes = {"W": (directions, rows, w.shape[2]), "R": (directions, rows, hidden)}
    shapes |= {"B": (directions, 2 * rows), "P": (directions, 3 * hidden)}
    for key, shape in shapes.items():
        if key in arrays and arrays[key].shape != shape:
            raise ValueError(f"{kind}: input {key} has shape {arrays[key].shape}, expected {shape}")
    if hidden_size not in (None, hidden):
        raise ValueError(f"{kind}: hidden_size={hidden_size}, but R has shape {r.shape}")


def _weights(cell, arrays):
    """The canonical weights of one direction from W (G*H, I), R (G*H, H), B (2*G*H) and P (3*H)."""
    letters = GATE_ORDERS["onnx"][cell.kind]

    def canonical(array, order=letters, wanted=cell.gates):
        return stack_gates(np.split(array, len(order)), order, wanted)

    weights = {"weight_ih": canonical(arrays["W"]), "weight_hh": canonical(arrays["R"])}
    if "B" in arrays:
        first, second = map(canonical, halve_bias(arrays["B"], len(arrays["W"])))
        if cell.kind == "GRU":
            weights |= split_gru_bias(first, second, cell.reset_after)
        else:
            weights["bias"] = sum_biases(first, second)
    if "P" in arrays:
        weights["peephole"] = canonical(arrays["P"], letters.replace("g", ""), cell.gates.replace("g", ""))
    return weights


def _activations(kind, attributes, directions):
    """For each direction its Activations, in ONNX's order: f, g and h as far as the type has them."""
    count = len(DEFAULT_ACTIVATIONS[kind])
    names = [_text(name) for name in attributes.get("activations") or DEFAULT_ACTIVATIONS[kind] * directions]
    if kind == "RNN" and directions == 1 and len(names) == 2:
        names = names[:1]
    if len(names) != count * directions:
        raise ValueError(f"{kind}: {len(names)} activations, expected {count * directions}")
    given = [list(attributes.get(key) or ()) for key in ("activation_alpha", "activation_beta")]
    chosen = []
    for name in names:
        _refuse_unknown(kind, "activation", [name.lower()], ACTIVATIONS)
        ours, *defaults = ACTIVATIONS[name.lower()]
        values = [rest.pop(0) if rest else default for rest, default in zip(given, defaults, strict=False)]
        if ... in values:
            raise ValueError(f"{kind}: activation {name!r} without alpha or beta, and it has no default")
        chosen.append(Activation(ours, *map(float, values)))
    for key, rest in zip(("activation_alpha", "activation_beta"), given, strict=True):
        if rest:
            raise ValueError(f"{kind}: {key} has {len(rest)} more values than its activations take")
    return [chosen[d * count : (d + 1) * count] for d in range(directions)]


def _state(node, arrays, batch, batch_first):
    """The initial states by name, or None; one that is not given beside another is zero."""
    if not any(f"initial_{key}" in arrays for key in node.cell.states):
        return None
    states = {}
    for key, shape in node.state_shapes(batch).items():
        array = arrays.get(f"initial_{key}")
        if array is None:
            array = np.zeros(shape, arrays["X"].dtype)
        elif batch_first:
            array = np.ascontiguousarray(array.swapaxes(0, 1))
        if array.shape != shape:
            raise ValueError(f"{node.cell.kind}: input initial_{key} has shape {array.shape}, expected {shape}")
        states[f"rnn.{key}"] = array
    return states


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def _refuse_unknown(kind, what, names, known):
    for name in names:
        if name not in known:
            raise ValueError(f"{kind}: {what} {name!r} is unknown, expected one of {', '.join(map(str, known))}")
