"""One recurrent layer as a Model, from raw arrays in any framework's gate order and layout.

    model = rnncore.LSTM(weight_ih=w, weight_hh=r, bias_ih=b, bias_hh=c)                  # PyTorch's arrays
    model = rnncore.LSTM(weight_ih=k, weight_hh=r, bias=b, order="keras")                 # gates i f c o in columns
    model = rnncore.LSTM(kernel=k, bias=b, order="tf1", forget_bias=1.0, coupled="input") # BasicLSTMCell and kin
    model = rnncore.GRU(weight_ih=w, weight_hh=r, bias=b, order="urc", layout="in_gates", reset_after=False)
    model = rnncore.GRU(weight_ih=w, weight_hh=r, reverse={"weight_ih": v, "weight_hh": s})  # both directions
    y = model(x)                                                                          # (B, T, I) to (B, T, H)

Arguments that all three share:

    weight_ih    (G*H, I), or (I, G*H) with layout="in_gates"
    weight_hh    (G*H, P), or (P, G*H); P is H without a projection
    bias         (G*H); or the input's and the recurrent one together, (2*G*H) or (2, G*H)
    bias_ih, bias_hh   (G*H) each, instead of bias
    kernel       (I+P, G*H), instead of weight_ih and weight_hh: TF1's, on concat[x, h]
    order        "torch", "keras", "onnx", "openvino", "oneDNN", "coreml", "tf1", or the gates' letters ("ifgo", "urc")
    layout       "gates_in" (gates in rows), "in_gates" (in columns), or "cudnn": in columns, each gate as Keras 2's
                 CuDNN layers keep it. Without it, that of the order's framework; for letters "gates_in"
    reverse      a mapping of the arrays (and options that differ) of the reverse direction: makes it bidirectional
    direction    "forward" or "reverse", for one direction
    merge, masked_output, output_order   as in rnncore.Recurrent; merge is for two directions
    time_first   x is (T, B, I) and so is y
    take         "sequence", or "last": the output after the last valid step
    name         of the node, by which state and weights are called
    dtype        "float32" or "float64"
    activations, clip, ...   options of the cell: see rnncore.cells

The model takes lengths and masks. A stack is one layer after the other, y = two(one(x)), or one Spec of their nodes:

    first, second = one.spec.nodes[0], dataclasses.replace(two.spec.nodes[0], input="first")   # named so with name=
    spec = rnncore.Spec(one.spec.inputs, [first, second], ["second"])
    model = rnncore.Model(spec, {**one.weights, **two.weights})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.cells import CELLS, Cell
from rnncore.cells import GRU as GRUCell
from rnncore.conventions.gates import (
    GATE_LAYOUTS,
    gate_order,
    halve_bias,
    split_cudnn_kernel,
    split_gru_bias,
    split_kernel,
    stack_gates,
    sum_biases,
)
from rnncore.errors import SpecError, WeightError
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model

__all__ = ["GRU", "LSTM", "RNN"]

Arrays = dict[str, np.ndarray]

LAYOUTS = ("gates_in", "in_gates", "cudnn")
ARRAYS = {
    "RNN": ("weight_ih", "weight_hh", "bias", "bias_ih", "bias_hh", "kernel"),
    "LSTM": (
        *("weight_ih", "weight_hh", "bias", "bias_ih", "bias_hh", "kernel", "peephole", "projection"),
        *("projection_bias", "ln_weight", "ln_cell_weight", "ln_cell_bias"),
    ),
    "GRU": ("weight_ih", "weight_hh", "bias", "bias_ih", "bias_hh", "kernel", "candidate_kernel", "candidate_bias"),
}
# Options of the layer around the cell, and their defaults.
LAYER = {
    "direction": None,
    "merge": "concat",
    "masked_output": "repeat",
    "output_order": "time",
    "time_first": False,
    "take": "sequence",
    "name": None,
    "dtype": "float32",
}
# Gate functions with f(-x) = 1 - f(x), for which 1 - z is the gate of negated weights.
ODD_GATES = ("sigmoid", "sparse_sigmoid")


def RNN(
    *, order: str = "torch", layout: str | None = None, reverse: Mapping[str, Any] | None = None, **given: Any
) -> Model:
    """An Elman RNN; order says only how biases and layouts are meant. See rnncore.conventions.layers for the arguments.

    Raises SpecError for an argument that does not exist or fit, WeightError for an array of the wrong shape.
    """
    return _build("RNN", order, layout, given, reverse)


def LSTM(
    *, order: str = "torch", layout: str | None = None, reverse: Mapping[str, Any] | None = None, **given: Any
) -> Model:
    """An LSTM. This module has the arguments that all cells share; further arrays, G as above without g:

    peephole         (G*H) in the order of the gates, g left out: i o f for "onnx", i f o for "tf1"
    projection       W_hr (P, H), or (H, P) with layout="in_gates"; projection_bias (P)
    ln_weight        (G*H) for layer_norm="tf1" or "tflite"; ln_cell_weight and ln_cell_bias (H) for "tf1"

    coupled="input" is i = 1 - f, "forget" is f = 1 - i; the arrays may hold the gate that is computed, which is then
    ignored (ONNX's input_forget), or not (TF1's j f o). forget_bias is added at run time, as TF1's cells (1.0) and
    DyNet do; it is in no file, so it is 0 unless given, with order="tf1" too.

    With order="keras", a bias of (8H) means that the arrays come from a CuDNNLSTM, and layout is "cudnn".

    Raises SpecError for an argument that does not exist or fit, WeightError for an array of the wrong shape.
    """
    return _build("LSTM", order, layout, given, reverse)


def GRU(
    *, order: str = "torch", layout: str | None = None, reverse: Mapping[str, Any] | None = None, **given: Any
) -> Model:
    """A GRU. See rnncore.conventions.layers for the arguments that all cells share, and:

    reset_after      True: n = g(W x + b + r * (R h + b_hn)), False: n = g(W x + R (r * h) + b). Without it: True for
                     "torch", False for "tf1", and for "keras" what the bias tells: (3H) is before, (2, 3H) and (6H)
                     are after. Others must say
    update           "old": h' = (1 - z) n + z h, the usual one; "new": h' = z n + (1 - z) h
    kernel           with order="tf1", (I+H, 2H) for r u; candidate_kernel (I+H, H), candidate_bias (H)

    With two biases, that of n's recurrent product stays inside the reset (reset_after), all others are summed. With
    order="keras", a bias of (6H) means that the arrays come from a CuDNNGRU, and layout is "cudnn".

    Raises SpecError for an argument that does not exist or fit, WeightError for an array of the wrong shape.
    """
    return _build("GRU", order, layout, given, reverse)


def _build(
    kind: str, order: str, layout: str | None, given: Mapping[str, Any], reverse: Mapping[str, Any] | None
) -> Model:
    layer = {key: given.get(key, default) for key, default in LAYER.items()}
    arrays, options = _sort(kind, {key: value for key, value in given.items() if key not in LAYER}, "")
    cell, own = _convert(kind, arrays, order, layout, options)
    direction, reverse_cell = layer["direction"], None
    if reverse is not None:
        if direction not in (None, "bidirectional"):
            raise SpecError(f"{kind}: reverse with direction={direction!r}, expected bidirectional or none")
        if not isinstance(reverse, Mapping):
            raise SpecError(f"{kind}: reverse is {type(reverse).__name__}, expected a mapping of names to arrays")
        others, changes = _sort(kind, reverse, "reverse: ")
        try:
            reverse_cell, back = _convert(kind, others, order, layout, {**options, **changes})
        except (SpecError, WeightError) as error:
            raise type(error)(f"reverse: {error}") from None
        direction = "bidirectional"
    elif direction == "bidirectional":
        raise SpecError(f"{kind}: direction='bidirectional' without reverse, expected the arrays of both directions")
    for key, accepted in (("take", ("sequence", "last")), ("time_first", (False, True))):
        if layer[key] not in accepted:
            raise SpecError(f"{kind}: {key}={layer[key]!r}, expected {' or '.join(map(repr, accepted))}")
    name = kind.lower() if layer["name"] is None else layer["name"]
    node = Recurrent(
        name,
        cell,
        "x",
        direction=direction or "forward",
        merge=layer["merge"],
        layout="time_first" if layer["time_first"] else "batch_first",
        reverse_cell=None if reverse_cell == cell else reverse_cell,
        mask="mask",
        masked_output=layer["masked_output"],
        output_order=layer["output_order"],
    )
    weights = {f"{name}.{key}{node.suffix(0, node.directions[0])}": array for key, array in own.items()}
    if reverse is not None:
        weights |= {f"{name}.{key}{node.suffix(0, 'reverse')}": array for key, array in back.items()}
    outputs = [f"{name}.last"] if layer["take"] == "last" else [name]
    if layer["merge"] == "separate":
        if layer["take"] == "last":
            raise SpecError(f"{kind}: take='last' with merge='separate', expected take='sequence'")
        outputs = [f"{name}.forward", f"{name}.reverse"]
    axes = ("T", "B") if layer["time_first"] else ("B", "T")
    spec = Spec([Input("x", "float", (*axes, cell.input_size))], [node], outputs)
    return Model(spec, weights, dtype=layer["dtype"])


def _sort(kind: str, given: Mapping[str, Any], where: str) -> tuple[Arrays, dict[str, Any]]:
    """The arrays and the cell's options among what was given."""
    owned = ("input_size", "hidden_size", "bias", *ARRAYS[kind])
    accepted = [field.name for field in dataclasses.fields(CELLS[kind]) if field.name not in owned]
    accepted += ["update"] if kind == "GRU" else []
    for key in given:
        if key not in accepted and key not in ARRAYS[kind]:
            known = ", ".join((*ARRAYS[kind], *accepted, *(() if where else ("reverse", *LAYER))))
            raise SpecError(f"{where}{kind}: argument {key!r} is unknown, expected one of order, layout, {known}")
    arrays = {key: np.asarray(given[key]) for key in ARRAYS[kind] if given.get(key) is not None}
    return arrays, {key: value for key, value in given.items() if key in accepted}


def _convert(
    kind: str, arrays: Arrays, order: str, layout: str | None, options: Mapping[str, Any]
) -> tuple[Cell, Arrays]:
    """The cell of one direction, and its canonical weights without suffix."""
    options = dict(options)
    update = options.pop("update", "old")
    letters = gate_order(kind, order)
    layout = _layout(kind, arrays, order, layout)
    arrays = _with_kernels(kind, arrays, letters, layout, options)
    w, r, hidden = _matrices(kind, arrays, layout)
    letters = _given_letters(kind, letters, len(r) // hidden, options.get("coupled"), arrays["weight_hh"].shape)
    rows = len(letters) * hidden
    biases = _biases(arrays, rows)
    if kind == "GRU" and options.get("reset_after") is None:
        options["reset_after"] = _reset_after(order, layout, arrays.get("bias"))
    if "projection" in arrays:
        options["projection"] = len(arrays["projection"] if layout == "gates_in" else arrays["projection"].T)
        options["projection_bias"] = "projection_bias" in arrays
    elif "projection_bias" in arrays:
        raise WeightError("projection_bias: without projection, expected both or none")
    if "peephole" in arrays:
        options["peephole"] = True
    cell = CELLS[kind](w.shape[1], hidden, bool(biases), **options)

    def canonical(array: np.ndarray, own: str = letters, wanted: str = cell.gates) -> np.ndarray:
        return stack_gates(np.split(array, len(own)), own, wanted)

    weights = {"weight_ih": canonical(w), "weight_hh": canonical(r)}
    if biases and isinstance(cell, GRUCell) and cell.reset_after:
        second = biases[1] if len(biases) > 1 else np.zeros_like(biases[0])
        weights |= split_gru_bias(canonical(biases[0]), canonical(second))
    elif biases:
        weights["bias"] = canonical(sum_biases(*biases))
    if "projection" in arrays:
        p = arrays["projection"] if layout == "gates_in" else arrays["projection"].T
        weights["weight_hr"] = _shaped("projection", p, (r.shape[1], hidden), layout)
    if "projection_bias" in arrays:
        weights["bias_hr"] = arrays["projection_bias"]
    if "peephole" in arrays:
        without = letters.replace("g", "")
        peephole = _shaped("peephole", arrays["peephole"], (len(without) * hidden,), f"gates {' '.join(without)}")
        weights["peephole"] = canonical(peephole, without, cell.gates.replace("g", ""))
    if "ln_weight" in arrays:
        weights["ln_weight"] = canonical(
            _shaped("ln_weight", arrays["ln_weight"], (rows,), f"gates {' '.join(letters)}")
        )
    weights |= {key: arrays[key] for key in ("ln_cell_weight", "ln_cell_bias") if key in arrays}
    if update != "old":
        _negate_update(cell, update, weights)
    _check_arrays(cell, weights)
    return cell, weights


def _layout(kind: str, arrays: Arrays, order: str, layout: str | None) -> str:
    """The layout that was given, that the bias of CuDNN tells, or that is the order's."""
    if layout is None:
        layout = GATE_LAYOUTS.get(order.lower(), "gates_in")
        recurrent, bias = arrays.get("weight_hh"), arrays.get("bias")
        if order.lower() == "keras" and kind != "RNN" and recurrent is not None and bias is not None:
            layout = "cudnn" if recurrent.ndim == 2 and bias.shape == (2 * recurrent.shape[1],) else layout
    if layout not in LAYOUTS:
        raise SpecError(f"{kind}: layout={layout!r}, expected one of {', '.join(map(repr, LAYOUTS))}")
    if layout == "cudnn" and (kind == "RNN" or "projection" in arrays or "kernel" in arrays):
        raise SpecError(f"{kind}: layout='cudnn', expected an LSTM or GRU of weight_ih, weight_hh and bias")
    return layout


def _with_kernels(kind: str, arrays: Arrays, letters: str, layout: str, options: Mapping[str, Any]) -> Arrays:
    """The arrays with weight_ih and weight_hh in place of TF1's kernels; both must be there afterwards."""
    arrays = dict(arrays)
    if "kernel" in arrays:
        arrays |= _split_tf1(kind, arrays, letters, layout, options)
    elif "candidate_kernel" in arrays or "candidate_bias" in arrays:
        raise SpecError(f"{kind}: candidate_kernel or candidate_bias without kernel, expected all of TF1's arrays")
    for key in ("weight_ih", "weight_hh"):
        if key not in arrays:
            raise WeightError(f"{key}: missing, expected weight_ih and weight_hh, or kernel with order='tf1'")
        if arrays[key].ndim != 2 or 0 in arrays[key].shape:
            raise WeightError(f"{key}: shape {arrays[key].shape}, expected two dimensions")
    return arrays


def _split_tf1(kind: str, arrays: Arrays, letters: str, layout: str, options: Mapping[str, Any]) -> Arrays:
    if layout != "in_gates" or "weight_ih" in arrays or "weight_hh" in arrays:
        raise SpecError(f"{kind}: kernel, expected layout='in_gates' (order='tf1') and no weight_ih or weight_hh")
    kernel = arrays["kernel"]
    if kind != "GRU":
        gates = len(letters) - (kind == "LSTM" and options.get("coupled") is not None and len(letters) == 4)
        outputs = arrays["projection"].shape[-1] if "projection" in arrays else kernel.shape[-1] // gates
        if kernel.ndim != 2 or kernel.shape[1] % gates or len(kernel) <= outputs:
            raise WeightError(f"kernel: shape {kernel.shape}, expected (I+H, {gates}*H)")
        return dict(zip(("weight_ih", "weight_hh"), split_kernel(kernel, outputs), strict=True))
    candidate = arrays.get("candidate_kernel")
    hidden = kernel.shape[-1] // 2
    if letters != "rzn":
        raise SpecError(f"GRU: kernel with gates {' '.join(letters)}, expected order='tf1' (r u, and a candidate)")
    if candidate is None or kernel.ndim != 2 or candidate.shape != (len(kernel), hidden) or len(kernel) <= hidden:
        given = None if candidate is None else candidate.shape
        raise WeightError(f"kernel: shape {kernel.shape}, candidate_kernel: {given}, expected (I+H, 2*H) and (I+H, H)")
    if ("bias" in arrays) != ("candidate_bias" in arrays):
        raise WeightError("bias: without candidate_bias or the other way round, expected both or none")
    split = dict(zip(("weight_ih", "weight_hh"), split_kernel(np.hstack((kernel, candidate)), hidden), strict=True))
    return {**split, "bias": np.concatenate((arrays["bias"], arrays["candidate_bias"]))} if "bias" in arrays else split


def _matrices(kind: str, arrays: Arrays, layout: str) -> tuple[np.ndarray, np.ndarray, int]:
    """weight_ih (G*H, I), weight_hh (G*H, P), and H."""
    w, r = arrays["weight_ih"], arrays["weight_hh"]
    if layout == "cudnn":
        if r.shape[1] % len(r) or w.shape[1] != r.shape[1]:
            raise WeightError(f"weight_hh: shape {r.shape}, weight_ih: {w.shape}, expected (H, G*H) and (I, G*H)")
        w, r = split_cudnn_kernel(w, r)
    if layout != "gates_in":
        w, r = w.T, r.T
    hidden = r.shape[1]
    if "projection" in arrays:
        projection = arrays["projection"]
        if projection.ndim != 2 or 0 in projection.shape:
            raise WeightError(f"projection: shape {projection.shape}, expected two dimensions")
        hidden = projection.shape[1 if layout == "gates_in" else 0]
    if len(r) % hidden or len(r) // hidden not in {"RNN": (1,), "LSTM": (3, 4), "GRU": (3,)}[kind]:
        gates = {"RNN": "H", "LSTM": "4*H", "GRU": "3*H"}[kind]
        expected = f"({gates}, H)" if layout == "gates_in" else f"(H, {gates})"
        other = "in_gates" if layout == "gates_in" else "gates_in"
        raise WeightError(
            f"weight_hh: shape {arrays['weight_hh'].shape}, expected {expected} with layout={layout!r}, or another "
            f"layout such as {other!r}"
        )
    if len(w) != len(r):
        expected = f"({len(r)}, I)" if layout == "gates_in" else f"(I, {len(r)})"
        raise WeightError(
            f"weight_ih: shape {arrays['weight_ih'].shape}, expected {expected} with layout={layout!r}, "
            f"as weight_hh is {arrays['weight_hh'].shape}"
        )
    return w, r, hidden


def _given_letters(kind: str, letters: str, blocks: int, coupled: Any, shape: tuple[int, ...]) -> str:
    """The letters of the blocks that are there: without the gate that coupling derives, or with it."""
    derived = {"input": "i", "forget": "f"}.get(coupled, "") if isinstance(coupled, str) else ""
    if len(letters) == blocks + 1 and derived:
        letters = letters.replace(derived, "")
    lacks = set("ifgo") - set(letters) if kind == "LSTM" else set()
    if len(letters) != blocks or lacks - set(derived):
        raise WeightError(
            f"weight_hh: shape {shape} holds {blocks} gates, order names {' '.join(letters)}: expected the same "
            "number, or coupled='input' or 'forget' for the gate that is not there"
        )
    return letters


def _biases(arrays: Arrays, rows: int) -> list[np.ndarray]:
    """No bias, one, or that of the input and the recurrent one, each (G*H)."""
    given = [key for key in ("bias_ih", "bias_hh") if key in arrays]
    if given:
        if len(given) == 1 or "bias" in arrays:
            listed = " and ".join([*(("bias",) if "bias" in arrays else ()), *given])
            raise WeightError(f"{listed}: given together, expected bias, or both bias_ih and bias_hh")
        return [_shaped(key, arrays[key], (rows,), "one for each gate and unit") for key in given]
    if "bias" not in arrays:
        return []
    bias = arrays["bias"]
    halves = halve_bias(bias, rows)
    if halves is not None:
        return list(halves)
    if bias.shape != (rows,):
        raise WeightError(f"bias: shape {bias.shape}, expected ({rows},), ({2 * rows},) or (2, {rows})")
    return [bias]


def _reset_after(order: str, layout: str, bias: np.ndarray | None) -> bool:
    """Whether the reset comes after the product, by the order's framework or the shape of a Keras bias."""
    name = order.lower()
    if name in ("torch", "tf1"):
        return name == "torch"
    if layout == "cudnn":
        return True
    if name == "keras" and bias is not None:
        return bias.ndim == 2
    raise SpecError(
        f"GRU: reset_after is missing with order={order!r}, expected False for R (r * h) or True for r * (R h + b)"
    )


def _negate_update(cell: Cell, update: Any, weights: Arrays) -> None:
    """h' = z n + (1 - z) h as the canonical one: 1 - z is the gate of negated rows."""
    gate = cell.activations[1]
    if update != "new":
        raise SpecError(f"GRU: update={update!r}, expected 'old' or 'new'")
    if gate.name not in ODD_GATES and not (gate.name == "hard_sigmoid" and gate.beta == 0.5):
        accepted = ", ".join((*ODD_GATES, "hard_sigmoid_fifth", "hard_sigmoid_sixth"))
        raise SpecError(f"GRU: update='new' with {gate.name} for z, expected one of {accepted}")
    rows = slice(cell.hidden_size, 2 * cell.hidden_size)
    for key in ("weight_ih", "weight_hh", "bias"):
        if key in weights:
            weights[key][rows] *= -1


def _shaped(name: str, array: np.ndarray, shape: tuple[int, ...], why: str) -> np.ndarray:
    if array.shape != shape:
        raise WeightError(f"{name}: shape {array.shape}, expected {shape} ({why})")
    return array


def _check_arrays(cell: Cell, weights: Arrays) -> None:
    """Every array that the cell's options need is there, and no other; names are those of the arguments."""
    names = {"weight_hr": "projection", "bias_hr": "projection_bias"}
    shapes = cell.weight_shapes()
    for key in [*shapes, *weights]:
        name = names.get(key, key)
        if key not in weights:
            raise WeightError(f"{name}: missing, expected {shapes[key]} for this {cell.kind}")
        if key not in shapes:
            raise WeightError(
                f"{name}: nothing in this {cell.kind} uses it (layer_norm={getattr(cell, 'layer_norm', None)!r})"
            )
        _shaped(name, weights[key], shapes[key], "the size of the other arrays")
