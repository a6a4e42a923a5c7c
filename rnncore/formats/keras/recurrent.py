"""Keras's recurrent layers -> Recurrent nodes: LSTM, GRU, SimpleRNN, RNN around cells, CuDNN's, Bidirectional.

Conventions of Keras: gates in columns, LSTM i f c o, GRU z r h; a GRU bias (2, 3H) for reset after, (3H,) for reset
before; go_backwards returns outputs in processing order, in a Bidirectional in time order. Keras 1 has separate
arrays for each gate. CuDNNLSTM and CuDNNGRU keep CuDNN's layout, and so does an LSTM or GRU with their bias.

Source: Keras 3.15 and tf-keras 2.21, layers/rnn/*.py; Keras 1.2.2 layers/recurrent.py; Keras 2.2.4
layers/cudnn_recurrent.py and engine/saving.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.cells import GRU, LSTM, RNN, Activation, Cell
from rnncore.conventions.gates import halve_bias, split_cudnn_kernel, split_gru_bias, swap_rz, transpose_gates
from rnncore.errors import FormatError, UnsupportedError, WeightError
from rnncore.formats.keras.config import Layer, leaves
from rnncore.formats.keras.use import Tensor, Use, activation, check_options, check_policy, check_shape, flag, option
from rnncore.formats.keras.variables import CELLS, CUDNN, SEPARATE_GATES
from rnncore.graph.nodes import Recurrent

__all__ = [
    "MERGES",
    "RECURRENT",
    "bidirectional",
    "canonical",
    "inputs_and_states",
    "merge_mode",
    "merged",
    "recurrent",
]

RECURRENT = (*CELLS, *CUDNN, "RNN")
MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "average", None: "separate"}
WRAPPER = {"return_sequences", "return_state", "go_backwards", "zero_output_for_mask", "stateful"}


@dataclass(frozen=True)
class Direction:
    """One recurrent layer: its cells from the input up, with their canonical arrays, and its options."""

    layer: Layer
    cells: tuple[Cell, ...]
    arrays: tuple[dict[str, np.ndarray], ...]
    sequences: bool
    states: bool
    backwards: bool
    zero: bool

    @property
    def state_count(self) -> int:
        return sum(len(cell.states) for cell in self.cells)


def recurrent(use: Use) -> list[Tensor]:
    """One layer, forwards or backwards: its output and, with return_state, its states."""
    layer = _direction(use, use.layer)
    x, initial = inputs_and_states(use, layer.state_count)
    if use.layer.class_name in CUDNN and x.mask is not None:
        raise UnsupportedError(f"{use.where}: under a mask, which CuDNN's layers do not have")
    order = "processing" if layer.backwards else "time"
    output, states = _chain(use, use.name, layer, x, x.mask, initial, layer.zero, order)
    _note(use, layer)
    outputs = [Tensor(output, x.mask if layer.sequences else None)]
    return outputs + ([Tensor(state) for state in states] if layer.states else [])


def merge_mode(use: Use) -> Any:
    """The merge of a Bidirectional, a key of MERGES, after its options have been checked."""
    check_options(use, use.config, {"layer", "backward_layer", "merge_mode", "return_sequences", "return_state"})
    merge = option(use, use.config, "merge_mode", "concat")
    if not (merge is None or isinstance(merge, str)) or merge not in MERGES:
        raise UnsupportedError(f"{use.where}: merge_mode={merge!r}, expected one of {', '.join(map(repr, MERGES))}")
    return merge


def bidirectional(use: Use) -> list[Tensor]:
    """Both directions of a layer, and their merge."""
    merge = merge_mode(use)
    halves = [_half(use, use.layer.parts[name]) for name in ("forward_layer", "backward_layer")]
    forward, backward = halves
    if [forward.backwards, backward.backwards] != [False, True]:
        backwards = [forward.backwards, backward.backwards]
        raise UnsupportedError(f"{use.where}: go_backwards={backwards}, expected [False, True] (layer, backward_layer)")
    if forward.sequences != backward.sequences:
        raise FormatError(f"{use.where}: return_sequences differs between layer and backward_layer")
    x, initial = inputs_and_states(use, forward.state_count + backward.state_count)
    zero = forward.sequences if _forces_zero(use) else False
    alike = (
        len(forward.cells) == len(backward.cells) == 1
        and type(forward.cells[0]) is type(backward.cells[0])
        and forward.cells[0].hidden_size == backward.cells[0].hidden_size
        and (merge is not None or forward.sequences)
        and (forward.sequences or x.mask is None or not initial)  # see _chain
    )
    together = _one_node if alike else _two_chains
    outputs, states = together(use, forward, backward, x, initial, MERGES[merge], zero)
    for half in halves:
        _note(use, half)
    mask = x.mask if forward.sequences else None
    return [Tensor(output, mask) for output in outputs] + (
        [Tensor(state) for state in states] if forward.states else []
    )


def _forces_zero(use: Use) -> bool:
    """Whether a Bidirectional zeroes masked outputs of sequences: tf.keras does, the Keras of that time did not."""
    return use.version.modern or use.version.tf


def _half(use: Use, layer: Layer) -> Direction:
    if layer.class_name not in RECURRENT:
        raise UnsupportedError(f"{use.where}: around a {layer.class_name}, expected {', '.join(RECURRENT)}")
    check_policy(use, layer.config)
    return _direction(use, layer)


def _direction(use: Use, layer: Layer) -> Direction:
    """A recurrent layer's cells, arrays and options."""
    config, where = layer.config, use.where
    check_policy(use, config)
    if layer.class_name == "RNN":
        check_options(use, config, {"cell", *WRAPPER}, {"time_major": False})
        levels = _levels(use, layer.parts["cell"])
    else:
        levels = [(layer.class_name, layer)]
    cells: list[Any] = []
    arrays: list[Any] = []
    for kind, level in levels:
        cell, own = _cell(use, kind, level, WRAPPER if level is layer else set())
        if cells and cell.input_size != cells[-1].hidden_size:
            raise WeightError(f"{where}: a cell for {cell.input_size} inputs above one of {cells[-1].hidden_size}")
        cells.append(cell)
        arrays.append(own)
    return Direction(
        layer,
        tuple(cells),
        tuple(arrays),
        flag(use, config, "return_sequences"),
        flag(use, config, "return_state"),
        flag(use, config, "go_backwards"),
        flag(use, config, "zero_output_for_mask"),
    )


def _levels(use: Use, cell: Layer) -> list[tuple[str, Layer]]:
    """(LSTM, ...) of the cell or the stacked cells of an RNN."""
    parts = [cell]
    if cell.class_name == "StackedRNNCells":
        check_options(use, cell.config, {"cells"}, {"reverse_state_order": False})
        check_policy(use, cell.config)
        parts = list(cell.parts.values())
    for part in parts:
        if part.class_name not in [f"{kind}Cell" for kind in CELLS]:
            expected = ", ".join([*(f"{kind}Cell" for kind in CELLS), "StackedRNNCells of them"])
            raise UnsupportedError(f"{use.where}: around a {part.class_name}, expected {expected}")
        check_policy(use, part.config)
    return [(part.class_name.removesuffix("Cell"), part) for part in parts]


def _cell(use: Use, kind: str, layer: Layer, wrapper: set[str]) -> tuple[Cell, dict[str, np.ndarray]]:
    """The cell of one recurrent layer, and its canonical arrays."""
    config, where = layer.config, use.where
    cudnn = kind in CUDNN
    kind = kind.removeprefix("CuDNN")
    config = _of_keras_1(config) if use.version.major < 2 else config
    handled = {"units", "activation", "use_bias", *wrapper}
    handled |= {"recurrent_activation"} if kind != "SimpleRNN" else set()
    handled |= {"reset_after"} if kind == "GRU" else set()
    check_options(use, config, handled, {"time_major": False})
    units = option(use, config, "units")
    if type(units) is not int or not 1 <= units <= 1 << 20:
        raise FormatError(f"{where}: units={str(units)[:60]}, expected a positive integer")
    bias = cudnn or flag(use, config, "use_bias", True)
    arrays = [np.asarray(array) for array in layer.own]
    if use.version.major < 2 and len(arrays) > 3:
        arrays = _joined(arrays, kind)
    names = ("kernel", "recurrent_kernel", "bias")[: 2 + bias]
    if len(arrays) != len(names):
        raise WeightError(f"{where}: {len(arrays)} arrays, expected {len(names)} ({', '.join(names)})")
    columns = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[kind] * units
    if arrays[0].ndim != 2:
        raise WeightError(f"{where}: kernel: shape {arrays[0].shape}, expected two dimensions")
    check_shape(arrays[0], (arrays[0].shape[0], columns), "kernel", where)
    check_shape(arrays[1], (units, columns), "recurrent_kernel", where)
    after = kind == "GRU" and (cudnn or flag(use, config, "reset_after", use.version.modern))
    if bias and kind != "SimpleRNN" and (cudnn or arrays[2].shape == (2 * columns,)):
        arrays = _from_cudnn(arrays, kind, columns, where)
        after = kind == "GRU"
    if bias:
        check_shape(arrays[2], (2, columns) if after else (columns,), "bias", where)
    act = _activation(use, config, "activation", "tanh")
    size = arrays[0].shape[0]
    if kind == "SimpleRNN":
        return RNN(size, units, bias, (act,)), _rnn_arrays(arrays)
    default = "sigmoid" if use.version.modern or cudnn else "hard_sigmoid"
    gate = _activation(use, config, "recurrent_activation", default)
    if kind == "LSTM":
        return LSTM(size, units, bias, (gate, gate, act, gate, act)), _rnn_arrays(arrays)
    return GRU(size, units, bias, (gate, gate, act), after), _gru_arrays(arrays)


def canonical(kind: str, arrays: Sequence[np.ndarray], where: str) -> dict[str, np.ndarray]:
    """The canonical arrays of a SimpleRNN, LSTM or GRU from kernel, recurrent kernel and, if it has one, bias.

    A bias in CuDNN's layout is one of a CuDNN layer; a GRU's says by its shape when the reset is. Raises WeightError.
    """
    parts, columns = list(arrays), arrays[1].shape[1]
    check_shape(parts[0], (parts[0].shape[0], columns), "kernel", where)
    if len(parts) == 3 and kind != "SimpleRNN" and parts[2].shape == (2 * columns,):
        parts = _from_cudnn(parts, kind, columns, where)
    if len(parts) == 3:
        two = kind == "GRU" and parts[2].ndim == 2
        check_shape(parts[2], (2, columns) if two else (columns,), "bias", where)
    return _gru_arrays(parts) if kind == "GRU" else _rnn_arrays(parts)


def _activation(use: Use, config: Mapping[str, Any], key: str, default: str) -> Activation:
    return activation(config.get(key, default), use.where, use.version.major)


KERAS_1 = {"output_dim": "units", "inner_activation": "recurrent_activation"}


def _of_keras_1(config: Mapping[str, Any]) -> dict[str, Any]:
    return {KERAS_1.get(key, key): value for key, value in config.items()}


def _joined(arrays: Sequence[np.ndarray], kind: str) -> list[np.ndarray]:
    """Keras 1's W, U and b of each gate, as one kernel, recurrent kernel and bias in the order of Keras 2."""
    gates = SEPARATE_GATES[kind]
    wanted = {"LSTM": "ifco", "GRU": "zrh"}[kind]
    return [np.concatenate([arrays[3 * gates.index(gate) + part] for gate in wanted], axis=-1) for part in range(3)]


def _from_cudnn(arrays: list[np.ndarray], kind: str, columns: int, where: str) -> list[np.ndarray]:
    """CuDNN's arrays as those of the LSTM, or of the GRU with reset after."""
    halves = halve_bias(arrays[2], columns)
    if halves is None:
        raise WeightError(f"{where}: bias: shape {arrays[2].shape}, expected ({2 * columns},)")
    bias = np.stack(halves) if kind == "GRU" else np.add(*halves)
    return [*split_cudnn_kernel(arrays[0], arrays[1]), bias]


def _rnn_arrays(given: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Of SimpleRNN and LSTM, whose columns i f c o are the canonical rows i f g o."""
    return dict(zip(("weight_ih", "weight_hh", "bias"), (*map(transpose_gates, given[:2]), *given[2:]), strict=False))


def _gru_arrays(given: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {
        key: swap_rz(transpose_gates(array)) for key, array in zip(("weight_ih", "weight_hh"), given, strict=False)
    }
    if len(given) < 3:
        return arrays
    if given[2].ndim == 1:
        return {**arrays, "bias": swap_rz(given[2])}
    first, second = map(swap_rz, given[2])
    return {**arrays, **split_gru_bias(first, second)}


def inputs_and_states(use: Use, states: int) -> tuple[Tensor, list[str]]:
    """The sequence with the mask it is read under, and the initial states: given as initial_state or after it."""
    given = list(use.inputs)
    initial = list(leaves(use.keyword("initial_state", [])))  # stacked cells have a list for each
    if use.keyword("constants", None):
        raise UnsupportedError(f"{use.where}: constants, expected none")
    if len(given) > 1 and initial:
        raise FormatError(f"{use.where}: initial states twice")
    initial = [state for state in (given[1:] or initial) if state is not None]
    if initial and (len(initial) != states or not all(isinstance(state, Tensor) for state in initial)):
        raise UnsupportedError(f"{use.where}: {len(initial)} initial states, expected none or {states}")
    x = use.masked(given[0])
    return Tensor(use.graph.floating(x.name), x.mask), [use.graph.floating(state.name) for state in initial]


def _chain(
    use: Use, name: str, half: Direction, x: Tensor, mask: str | None, initial: list[str], zero: bool, order: str
) -> tuple[str, list[str]]:
    """The nodes of one direction, a node for each cell, and the names of its output and states.

    order is that of a sequence that goes backwards: "time" or "processing".
    """
    graph = use.graph
    value, states, at = x.name, [], 0
    direction = "reverse" if half.backwards else "forward"
    for level, (cell, arrays) in enumerate(zip(half.cells, half.arrays, strict=True)):
        top = level == len(half.cells) - 1
        own = name if len(half.cells) == 1 else f"{name}.{level}"
        # Keras takes the output at the last step processed, which is 0 if that step is masked, or repeats zeros if
        # all of them are: it is not the initial state.
        last_step = top and (zero or bool(initial)) and not half.sequences and mask is not None
        options: dict[str, Any] = {}
        if half.backwards and top and (last_step or (half.sequences and order == "processing")):
            options["output_order"] = "processing"
        if mask is not None:
            options |= {"mask": mask, "masked_output": "zero" if zero and top else "repeat"}
        options["initial"] = _initial(use, own, cell, [initial[at : at + len(cell.states)]] if initial else [])
        at += len(cell.states)
        value = graph.add(Recurrent(graph.fresh(own), cell, value, 1, direction, **options)).name
        graph.own(value, {f"{key}_l0": array for key, array in arrays.items()})
        states += [graph.take(f"{value}.state_{state}", f"{value}.{state}", 0, 0) for state in cell.states]
        if top and last_step:
            value = graph.take(f"{value}.last_step", value, 1, -1)
        elif top and not half.sequences:
            value = f"{value}.last"
    return value, states


def _initial(use: Use, name: str, cell: Cell, given: list[list[str]]) -> tuple[str, ...]:
    """Initial states (B, H) of one or two directions as Recurrent takes them, (directions, B, H)."""
    graph, joined = use.graph, []
    for place, state in enumerate(cell.states if given else ()):
        parts = [
            graph.unsqueeze(f"{name}.{state}0" + (f".{side}" if len(given) > 1 else ""), states[place], 0)
            for side, states in enumerate(given)
        ]
        joined.append(parts[0] if len(parts) == 1 else graph.emit("Concat", parts, f"{name}.{state}0", axis=0))
    return tuple(joined)


def _one_node(use: Use, forward, backward, x: Tensor, initial: list[str], merge: str, zero: bool):
    """Both directions in one node: outputs and states."""
    graph = use.graph
    cells = forward.cells[0], backward.cells[0]
    if cells[0].input_size != cells[1].input_size:
        sizes = f"{cells[0].input_size} and {cells[1].input_size}"
        raise WeightError(f"{use.where}: kernels for {sizes} inputs, expected one size")
    options: dict[str, Any] = {"reverse_cell": cells[1] if cells[1] != cells[0] else None}
    if x.mask is not None:
        options |= {"mask": x.mask, "masked_output": "zero" if zero else "repeat"}
    half = len(initial) // 2
    options["initial"] = _initial(use, use.name, cells[0], [initial[:half], initial[half:]] if initial else [])
    node = Recurrent(graph.fresh(use.name), cells[0], x.name, 1, "bidirectional", merge, **options)
    graph.add(node)
    for arrays, suffix in ((forward.arrays[0], "_l0"), (backward.arrays[0], "_l0_reverse")):
        graph.own(node.name, {f"{key}{suffix}": array for key, array in arrays.items()})
    states = [
        graph.take(f"{node.name}.{side}_{state}", f"{node.name}.{state}", 0, place)
        for place, side in enumerate(("forward", "backward"))
        for state in cells[0].states
    ]
    if merge == "separate":
        return [f"{node.name}.forward", f"{node.name}.reverse"], states
    return [node.name if forward.sequences else f"{node.name}.last"], states


def _two_chains(use: Use, forward, backward, x: Tensor, initial: list[str], merge: str, zero: bool):
    """Directions of different cells, or of stacked ones: a chain each, and the merge."""
    outputs, states, at = [], [], 0
    for side, half in (("forward", forward), ("backward", backward)):
        given = initial[at : at + half.state_count] if initial else []
        at += half.state_count
        output, last = _chain(use, f"{use.name}.{side}", half, x, x.mask, given, zero, "time")
        outputs.append(output)
        states += last
    return merged(use, outputs, merge), states


def merged(use: Use, outputs: list[str], merge: str) -> list[str]:
    """The outputs of two directions as one, or both of them."""
    graph = use.graph
    if merge == "separate":
        return outputs
    if merge == "concat":
        return [graph.emit("Concat", outputs, use.name, axis=-1)]
    if merge == "average":
        total = graph.emit("Add", outputs, f"{use.name}.sum")
        return [graph.scalar(use.name, "Mul", total, 0.5)]
    return [graph.emit({"sum": "Add", "mul": "Mul"}[merge], outputs, use.name)]


def _note(use: Use, half: Direction) -> None:
    name = use.layer.name
    if half.layer.config.get("stateful"):
        use.note(f"{name}: stateful, here state is kept by the caller and starts at zero")
    if half.layer.config.get("unroll"):
        use.note(f"{name}: unroll has no effect here")
