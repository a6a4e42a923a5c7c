"""ONNX's RNN, LSTM and GRU -> Recurrent nodes of one layer.

Names and shapes are those of the specification, D directions, layout 0 (with layout 1 the batch goes first):

    X (T, B, I)   W (D, G*H, I)   R (D, G*H, H)   B (D, 2*G*H)   P (D, 3*H)   sequence_lens (B)
    initial_h, initial_c, Y_h, Y_c (D, B, H)   Y (T, D, B, H), with layout 1 (B, T, D, H)

Rules that are easy to miss:

- activation_alpha and activation_beta hold one value for each activation that takes one, in order, over both
  directions; what the lists do not reach has the default of the operator of that name.
- The default activations of an RNN are two, also where it has one direction.
- clip comes before every activation of a gate, after bias and peephole.
- input_forget: f = 1 - i, and the rows of f are not used.
- A row of length 0 has zeros for Y_h and Y_c whatever its initial state: so ONNX Runtime; the specification is silent.

Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, and RNN and GRU next to it, version 7, 14 and 22.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from rnncore.cells import CELLS, Activation, Cell
from rnncore.conventions.gates import GATE_ORDERS, halve_bias, split_gru_bias, stack_gates, sum_biases
from rnncore.errors import FormatError, SpecError
from rnncore.files.cursor import shown
from rnncore.formats.onnx.entries import Layers
from rnncore.formats.onnx.file import OnnxNode
from rnncore.formats.onnx.graph import GraphLowering
from rnncore.graph.nodes import Recurrent
from rnncore.graph.weights import memory_of
from rnncore.ops import Value

__all__ = ["ACTIVATIONS", "DEFAULT_ACTIVATIONS", "DIRECTIONS", "INPUTS", "PLACES", "lower"]

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
INPUTS: dict[str, tuple[str, ...]] = dict.fromkeys(("RNN", "GRU"), ("X", "W", "R", "B", "sequence_lens", "initial_h"))
INPUTS["LSTM"] = (*INPUTS["RNN"], "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")

_COMMON = {"activation_alpha", "activation_beta", "activations", "clip", "direction", "hidden_size", "layout"}
ATTRIBUTES = {"RNN": _COMMON, "GRU": _COMMON | {"linear_before_reset"}, "LSTM": _COMMON | {"input_forget"}}
FLAGS = ("layout", "input_forget", "linear_before_reset")


def lower(lowering: GraphLowering, node: OnnxNode) -> None:
    """The node as a Recurrent one; its outputs by their names."""
    inputs = _inputs(lowering, node)
    _check_attributes(lowering, node)
    directions = DIRECTIONS[node.attributes.get("direction", "forward").lower()]
    batch_first = node.attributes.get("layout", 0) == 1
    arrays = _arrays(lowering, node, inputs, len(directions))
    cells = _cells(lowering, node, arrays, len(directions))
    x, lengths = lowering.value(inputs["X"]), _lengths(lowering, node, inputs)
    name = lowering.fresh(node.name or next(filter(None, node.outputs), node.op.lower()))
    initial = _initial(lowering, node, inputs, name, cells[0], len(directions), x, batch_first)
    made = Recurrent(
        name,
        cells[0],
        x,
        direction=node.attributes.get("direction", "forward").lower(),
        layout="batch_first" if batch_first else "time_first",
        reverse_cell=cells[1] if cells[1:] and cells[1] != cells[0] else None,
        lengths=lengths,
        initial=initial,
    )
    lowering.add(made)
    for d, (direction, cell) in enumerate(zip(directions, cells, strict=True)):
        for key, array in _own_weights(lowering, cell, arrays, d).items():
            lowering.own(name, {f"{key}{made.suffix(0, direction)}": array})
    outputs = dict(zip(OUTPUTS[: 1 + len(made.cell.states)], node.outputs, strict=False))
    order = "BT" if batch_first else "TB"
    if outputs.get("Y"):
        axes = "BTDH" if batch_first else "TDBH"
        lowering.entries[outputs["Y"]] = Layers(name, axes, order, len(directions), cells[0].hidden_size)
    for key in made.cell.states:
        if outputs.get(f"Y_{key}"):
            state = _final(lowering, f"{name}.{key}", lengths, bool(initial))
            if batch_first:
                state = lowering.emit("Transpose", (state,), f"{state}.batch_first", perm=(1, 0, 2))
            lowering.entries[outputs[f"Y_{key}"]] = state


def _own_weights(lowering: GraphLowering, cell: Cell, arrays: dict[str, np.ndarray], d: int) -> dict[str, np.ndarray]:
    """The canonical weights of one direction; nodes of the same arrays share them."""
    key = (cell, d, *map(memory_of, arrays.values()))
    if key not in lowering.shared.turned:
        own = _weights(cell, {key: array[d] for key, array in arrays.items()})
        lowering.shared.turned[key] = arrays, {name: np.ascontiguousarray(array) for name, array in own.items()}
    return lowering.shared.turned[key][1]


def _inputs(lowering: GraphLowering, node: OnnxNode) -> dict[str, str]:
    names = INPUTS[node.op]
    if len(node.inputs) > len(names) or len(node.outputs) > 1 + len(CELLS[node.op].states):
        raise lowering.error(
            node,
            f"{len(node.inputs)} inputs and {len(node.outputs)} outputs, expected {', '.join(names)} and "
            f"{', '.join(OUTPUTS[: 1 + len(CELLS[node.op].states)])}",
            FormatError,
        )
    by_key = {key: name for key, name in zip(names, node.inputs, strict=False) if name}
    for key in ("X", "W", "R"):
        if key not in by_key:
            raise lowering.error(node, f"input {key} is missing", FormatError)
    return by_key


def _check_attributes(lowering: GraphLowering, node: OnnxNode) -> None:
    for key, value in node.attributes.items():
        if key not in ATTRIBUTES[node.op]:
            accepted = ", ".join(sorted(ATTRIBUTES[node.op]))
            raise lowering.error(node, f"attribute {shown(key)!r} is not supported, expected one of: {accepted}")
        if key in FLAGS and value not in (0, 1):
            raise lowering.error(node, f"attribute {key!r}={value!r}, expected 0 or 1", FormatError)
        if key == "direction" and (not isinstance(value, str) or value.lower() not in DIRECTIONS):
            raise lowering.error(node, f"attribute {key!r}={value!r}, expected {', '.join(DIRECTIONS)}", FormatError)
        if key == "clip" and (not isinstance(value, float) or not value > 0):
            raise lowering.error(node, f"attribute {key!r}={value!r}, expected a number above 0")
        if key.startswith("activation") and not isinstance(value, list):
            raise lowering.error(node, f"attribute {key!r}={value!r}, expected a list", FormatError)


def _arrays(
    lowering: GraphLowering, node: OnnxNode, inputs: Mapping[str, str], directions: int
) -> dict[str, np.ndarray]:
    """W, R, B and P, which have to be constant, checked against each other and hidden_size."""
    arrays: dict[str, Any] = {}
    for key in ("W", "R", "B", "P"):
        if key in inputs:
            arrays[key] = lowering.known(inputs[key])
            if arrays[key] is None:
                raise lowering.error(
                    node,
                    f"input {key} ({shown(inputs[key])!r}) is computed or given by the caller, expected a constant",
                )
            if lowering.shared.dtype(arrays[key].dtype.name) != "float":
                raise lowering.error(
                    node, f"input {key} of {arrays[key].dtype} with others of float32, expected float32"
                )
    w, r = arrays["W"], arrays["R"]
    if w.ndim != 3 or r.ndim != 3 or 0 in w.shape or 0 in r.shape:
        raise lowering.error(node, f"W of shape {w.shape} and R of {r.shape}, expected three dimensions", FormatError)
    hidden, rows = r.shape[2], len(GATE_ORDERS["onnx"][node.op]) * r.shape[2]
    shapes: dict[str, tuple[int, ...]] = {"W": (directions, rows, w.shape[2]), "R": (directions, rows, hidden)}
    shapes |= {"B": (directions, 2 * rows), "P": (directions, 3 * hidden)}
    for key, array in arrays.items():
        if array.shape != shapes[key]:
            raise lowering.error(node, f"input {key} has shape {array.shape}, expected {shapes[key]}", FormatError)
    if node.attributes.get("hidden_size", hidden) != hidden:
        raise lowering.error(
            node, f"attribute 'hidden_size'={node.attributes['hidden_size']!r}, but R has shape {r.shape}", FormatError
        )
    return arrays


def _cells(lowering: GraphLowering, node: OnnxNode, arrays: Mapping[str, np.ndarray], directions: int) -> list[Cell]:
    """The cell of each direction."""
    options: dict[str, Any] = {"clip": node.attributes.get("clip"), "bias": "B" in arrays}
    if node.op == "GRU":
        options["reset_after"] = node.attributes.get("linear_before_reset", 0) == 1
    elif node.op == "LSTM":
        options["coupled"] = "forget" if node.attributes.get("input_forget", 0) else None
        options["peephole"] = "P" in arrays
    sizes = arrays["W"].shape[2], arrays["R"].shape[2]
    return [
        CELLS[node.op](*sizes, activations=tuple(functions[place] for place in PLACES[node.op]), **options)
        for functions in _activations(lowering, node, directions)
    ]


def _activations(lowering: GraphLowering, node: OnnxNode, directions: int) -> list[list[Activation]]:
    """For each direction its Activations, in ONNX's order: f, g and h as far as the type has them."""
    count = len(DEFAULT_ACTIVATIONS[node.op])
    names = list(node.attributes.get("activations") or DEFAULT_ACTIVATIONS[node.op] * directions)
    if node.op == "RNN" and directions == 1 and len(names) == 2:
        names = names[:1]
    if len(names) != count * directions:
        raise lowering.error(node, f"{len(names)} activations, expected {count * directions}", FormatError)
    given = [list(node.attributes.get(key) or ()) for key in ("activation_alpha", "activation_beta")]
    chosen = []
    for name in names:
        if not isinstance(name, str) or name.lower() not in ACTIVATIONS:
            accepted = ", ".join(ACTIVATIONS)
            raise lowering.error(node, f"activation {shown(str(name))!r} is not supported, expected one of: {accepted}")
        spelled: tuple[Any, ...] = ACTIVATIONS[name.lower()]
        ours, *defaults = spelled
        values: list[Any] = [rest.pop(0) if rest else default for rest, default in zip(given, defaults, strict=False)]
        if ... in values:
            raise lowering.error(node, f"activation {name!r} without alpha or beta, and it has no default")
        chosen.append(Activation(ours, *map(float, values)))
    for key, rest in zip(("activation_alpha", "activation_beta"), given, strict=True):
        if rest:
            raise lowering.error(
                node, f"attribute {key!r} has {len(rest)} more values than its activations take", FormatError
            )
    return [chosen[d * count : (d + 1) * count] for d in range(directions)]


def _weights(cell: Cell, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The canonical weights of one direction from W (G*H, I), R (G*H, H), B (2*G*H) and P (3*H)."""
    letters = GATE_ORDERS["onnx"][cell.kind]

    def canonical(array: np.ndarray, order: str = letters, wanted: str = cell.gates) -> np.ndarray:
        return stack_gates(np.split(array, len(order)), order, wanted)

    weights = {"weight_ih": canonical(arrays["W"]), "weight_hh": canonical(arrays["R"])}
    if "B" in arrays:
        halves = cast("tuple[np.ndarray, np.ndarray]", halve_bias(arrays["B"], len(arrays["W"])))
        first, second = map(canonical, halves)
        if cell.kind == "GRU":
            weights |= split_gru_bias(first, second, cast(Any, cell).reset_after)
        else:
            weights["bias"] = sum_biases(first, second)
    if "P" in arrays:
        weights["peephole"] = canonical(arrays["P"], letters.replace("g", ""), cell.gates.replace("g", ""))
    return weights


def _lengths(lowering: GraphLowering, node: OnnxNode, inputs: Mapping[str, str]) -> str | None:
    """sequence_lens as the int64 that it was before exporters cast it."""
    if "sequence_lens" not in inputs:
        return None
    name = lowering.value(inputs["sequence_lens"])
    dtype = lowering.values[name].dtype
    if dtype == "int64":
        return name
    if dtype != "int32":
        raise SpecError(f"sequence_lens is {lowering.values[name]}, expected int32 (B)")
    before = lowering.sources.get(name)
    if before is not None and lowering.values[before].dtype == "int64":
        return before
    return lowering.emit("Cast", (name,), f"{name}.int64", to="int64")


def _initial(
    lowering: GraphLowering,
    node: OnnxNode,
    inputs: Mapping[str, str],
    name: str,
    cell: Cell,
    directions: int,
    x: str,
    batch_first: bool,
) -> tuple[str, ...]:
    """The values of the initial states, (D, B, H); none where all are zero."""
    given = {key: lowering.value(inputs[f"initial_{key}"]) for key in cell.states if f"initial_{key}" in inputs}
    batch = lowering.values[x].shape[0 if batch_first else 1]
    for key, value in given.items():
        rows = (batch, directions) if batch_first else (directions, batch)
        _check_state(lowering, node, f"initial_{key}", lowering.values[value], (*rows, cell.state_sizes[key]))
    given = {key: value for key, value in given.items() if value not in lowering.zeros}
    if not given:
        return ()
    if batch_first:
        given = {
            key: lowering.emit("Transpose", (value,), f"{name}.initial_{key}", perm=(1, 0, 2))
            for key, value in given.items()
        }
    for key in cell.states:
        if key not in given:  # zeros, of the shape of the state that is given
            (other,) = given.values()
            shape = lowering.emit("Shape", (other,), f"{name}.initial_{key}.shape")
            given[key] = lowering.emit("ConstantOfShape", (shape,), f"{name}.initial_{key}", dtype="float", value=0)
    return tuple(given[key] for key in cell.states)


def _check_state(
    lowering: GraphLowering, node: OnnxNode, what: str, value: Value, expected: tuple[int | str, ...]
) -> None:
    """Of every state, also of one that is zero everywhere and so will not be used."""
    sizes = zip(value.shape, expected, strict=False)
    differ = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
    if value.dtype != "float" or len(value.shape) != 3 or differ:
        raise lowering.error(node, f"{what} is {value}, expected {Value('float', expected)}", SpecError)


def _final(lowering: GraphLowering, state: str, lengths: str | None, started: bool) -> str:
    """A final state: where there is an initial one, zeros for rows without a step."""
    if lengths is None or not started:
        return state
    zero = lowering.constant_node(np.array(0, np.int64), f"{state}.no_steps")
    some = lowering.emit("Greater", (lengths, zero), f"{state}.some_steps")
    rows = lowering.emit("Unsqueeze", (some,), f"{state}.rows", axes=(0, 2))
    nothing = lowering.constant_node(np.array(0, lowering.shared.floating), f"{state}.zero")
    return lowering.emit("Where", (rows, state, nothing), f"{state}.final")
