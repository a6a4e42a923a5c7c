"""Keras's ConvLSTM1D, 2D and 3D -> a Scan over the steps, whose body has two convolutions.

    i f c o = split(conv(x_t, W) + b + conv(h, U))      conv of x: strides, padding and dilation; of h: "same"
    c' = f c + i activation(c~)      h' = o activation(c')      i f o through recurrent_activation

Channels come first inside. Under a mask a step keeps the states and repeats the last output, which is 0 before the
first valid step, or gives 0 with zero_output_for_mask, as in Keras's other recurrent layers.

Source: Keras 3.15 src/layers/rnn/conv_lstm.py; tf-keras 2.21 src/layers/rnn/base_conv_lstm.py.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.errors import FormatError, SpecError, UnsupportedError, WeightError
from rnncore.formats.keras.config import Layer
from rnncore.formats.keras.graph import Graph
from rnncore.formats.keras.recurrent import MERGES, inputs_and_states, merged
from rnncore.formats.keras.use import (
    Tensor,
    Use,
    apply_activation,
    check_options,
    check_policy,
    check_shape,
    flag,
    numbers_of,
    option,
)
from rnncore.graph.nodes import Control, Input

__all__ = ["CONV_LSTMS", "both_ways", "conv_lstm"]

CONV_LSTMS = {"ConvLSTM1D": 1, "ConvLSTM2D": 2, "ConvLSTM3D": 3}
OPTIONS = {
    "filters", "kernel_size", "strides", "padding", "data_format", "dilation_rate", "activation",
    "recurrent_activation", "use_bias", "return_sequences", "return_state", "go_backwards", "zero_output_for_mask",
    "stateful",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One layer's options and weights, ONNX's: kernel (4F, C, k...), recurrent (4F, F, k...), bias (4F,) or None."""

    layer: Layer
    dims: int
    filters: int
    kernel: np.ndarray
    recurrent: np.ndarray
    bias: np.ndarray | None
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    channels: int  # the axis of the channels in (B, T, ...)
    sequences: bool
    states: bool
    backwards: bool
    zero: bool

    def perm(self, rank: int, first: bool) -> tuple[int, ...]:
        """The permutation of a value whose last axes are an image's and its channels' to channels first, or back."""
        image = rank - self.dims - 1
        lead, axes = tuple(range(image)), tuple(range(image, rank))
        if self.channels == 2:
            return (*lead, *axes)
        return (*lead, axes[-1], *axes[:-1]) if first else (*lead, *axes[1:], axes[0])


def conv_lstm(use: Use) -> list[Tensor]:
    """Its output and, with return_state, its states h and c."""
    cell = _cell(use, use.layer)
    x, initial = _inputs(use, cell, 2)
    output, states = _scan(use, use.name, cell, x, initial, cell.zero, time_order=False)
    mask = x.mask if cell.sequences else None
    return [Tensor(output, mask), *([Tensor(state) for state in states] if cell.states else [])]


def both_ways(use: Use, merge: Any) -> list[Tensor]:
    """A Bidirectional's two layers, and their merge."""
    halves = [use.layer.parts[name] for name in ("forward_layer", "backward_layer")]
    for half in halves:
        check_policy(use, half.config)
        if half.class_name not in CONV_LSTMS:
            raise UnsupportedError(f"{use.where}: around a {half.class_name}, expected two of {', '.join(CONV_LSTMS)}")
    forward, backward = (_cell(use, half) for half in halves)
    if forward.backwards or not backward.backwards:
        ways = [forward.backwards, backward.backwards]
        raise UnsupportedError(f"{use.where}: go_backwards={ways}, expected [False, True] (layer, backward_layer)")
    if forward.sequences != backward.sequences or forward.channels != backward.channels:
        raise FormatError(f"{use.where}: return_sequences or data_format differs between layer and backward_layer")
    x, initial = _inputs(use, forward, 4)
    zero = forward.sequences
    outputs: list[str] = []
    states: list[str] = []
    for place, (side, cell) in enumerate((("forward", forward), ("backward", backward))):
        given = initial[2 * place : 2 * place + 2]
        output, last = _scan(use, f"{use.name}.{side}", cell, x, given, zero, time_order=True)
        outputs.append(output)
        states += last
    mask = x.mask if forward.sequences else None
    made = [Tensor(output, mask) for output in merged(use, outputs, MERGES[merge])]
    return made + ([Tensor(state) for state in states] if forward.states else [])


def _cell(use: Use, layer: Layer) -> Cell:
    config, where, dims = layer.config, use.where, CONV_LSTMS[layer.class_name]
    check_options(use, config, OPTIONS, {"time_major": False, "unroll": config.get("unroll"), "data_format": None})
    if flag(use, config, "stateful"):
        raise UnsupportedError(f"{where}: stateful=True, expected False: its state would be lost between calls")
    order, padding = config.get("data_format") or "channels_last", config.get("padding", "valid")
    if order not in ("channels_last", "channels_first"):
        raise UnsupportedError(f"{where}: data_format={str(order)[:40]!r}, expected channels_last or channels_first")
    if padding not in ("valid", "same"):
        raise UnsupportedError(f"{where}: padding={str(padding)[:40]!r}, expected valid or same")
    filters = option(use, config, "filters")
    if type(filters) is not int or not 1 <= filters <= 1 << 20:
        raise FormatError(f"{where}: filters={str(filters)[:60]}, expected a positive integer")
    size = numbers_of(use, "kernel_size", option(use, config, "kernel_size"), dims, 1)
    strides, dilations = (
        numbers_of(use, key, option(use, config, key, 1), dims, 1) for key in ("strides", "dilation_rate")
    )
    bias = flag(use, config, "use_bias", True)
    arrays = [np.asarray(array) for array in layer.own]
    names = ("kernel", "recurrent_kernel", "bias")[: 2 + bias]
    if len(arrays) != len(names):
        raise WeightError(f"{where}: {len(arrays)} arrays, expected {len(names)} ({', '.join(names)})")
    if arrays[0].ndim != dims + 2:
        raise WeightError(f"{where}: kernel: shape {arrays[0].shape}, expected {dims + 2} dimensions")
    check_shape(arrays[0], (*size, arrays[0].shape[dims], 4 * filters), "kernel", where)
    check_shape(arrays[1], (*size, filters, 4 * filters), "recurrent_kernel", where)
    if bias:
        check_shape(arrays[2], (4 * filters,), "bias", where)
    kernel, recurrent = (array.transpose(dims + 1, dims, *range(dims)) for array in arrays[:2])
    sequences, gives_states, backwards = (
        flag(use, config, key) for key in ("return_sequences", "return_state", "go_backwards")
    )
    return Cell(
        layer, dims, filters, kernel, recurrent, arrays[2] if bias else None, strides, dilations, padding,
        2 if order == "channels_first" else dims + 2, sequences, gives_states, backwards,
        flag(use, config, "zero_output_for_mask"),
    )  # fmt: skip


def _inputs(use: Use, cell: Cell, states: int) -> tuple[Tensor, list[str]]:
    """The sequence of images, with the mask that it is read under, and initial states, all as Keras has them."""
    x, initial = inputs_and_states(use, states)
    if use.graph.rank(x.name) != cell.dims + 3:
        raise UnsupportedError(f"{use.where}: input {use.graph.values[x.name]}, expected {cell.dims + 3} dimensions")
    return x, initial


def _scan(
    use: Use, name: str, cell: Cell, x: Tensor, initial: list[str], zero: bool, time_order: bool
) -> tuple[str, list[str]]:
    """One direction: its output and its last states, as Keras has them.

    zero: masked outputs are 0. time_order: so is a sequence that goes backwards, else in the order of processing.
    """
    graph = use.graph
    image = graph.transpose(f"{name}.channels_first", x.name, cell.perm(cell.dims + 3, True))
    sizes = [graph.size(image, axis, use.where) for axis in range(2, cell.dims + 3)]
    if sizes[0] != cell.kernel.shape[1]:
        raise WeightError(f"{use.where}: {sizes[0]} channels, expected {cell.kernel.shape[1]} (kernel)")
    masked = x.mask is not None
    body = Graph(cell.kernel.nbytes + cell.recurrent.nbytes)
    spec, state_shape = _body(dataclasses.replace(use, graph=body), cell, sizes, masked, zero)
    if initial:
        starts = [
            graph.transpose(f"{name}.{state}0", given, cell.perm(cell.dims + 2, True))
            for state, given in zip("hc", initial, strict=True)
        ]
        for start in starts:
            shape = tuple(graph.size(start, axis, use.where) for axis in range(1, graph.rank(start)))
            if shape != state_shape:
                raise UnsupportedError(f"{use.where}: initial state {shape} of a row, expected {state_shape}")
    else:
        starts = [_zeros(graph, name, image, state_shape)] * 2
    if masked:
        starts.append(_zeros(graph, f"{name}.output", image, state_shape) if initial else starts[0])
    collected = 1 if cell.sequences else 0
    sources = (image, x.mask) if masked else (image,)
    node = Control(
        graph.fresh(name), "Scan", (*starts, *sources), (spec,), sequences=len(sources), axes=(1,) * len(sources),
        output_axes=(1,) * collected, backward=(cell.backwards,) * len(sources),
        output_backward=(cell.backwards and time_order,) * collected,
    )  # fmt: skip
    graph.add(node)
    graph.own(node.name, {f"body.{key}": array for key, array in body.weights.items()})
    names = node.names
    last = names[-1] if cell.sequences else names[2 if masked else 0]
    output = graph.transpose(f"{name}.channels_back", last, cell.perm(graph.rank(last), False))
    states = [
        graph.transpose(f"{name}.state_{state}", last, cell.perm(cell.dims + 2, False))
        for state, last in zip("hc", names[:2], strict=True)
    ]
    if output in states:  # a value of its own, since outputs of a model have names of their own
        output = graph.emit("Identity", output, f"{name}.last")
    return output, states


def _zeros(graph: Graph, name: str, like: str, shape: tuple[int, ...]) -> str:
    """(B, *shape) of zeros, with the rows of another value."""
    rows = graph.emit("Gather", graph.emit("Shape", like, f"{name}.sizes"), f"{name}.rows", axis=0, indices=(0,))
    sizes = graph.emit("Constant", (), f"{name}.image", dtype="int64", shape=(len(shape),), value=shape)
    whole = graph.emit("Concat", (rows, sizes), f"{name}.shape", axis=0)
    return graph.emit("Expand", (graph.number(f"{name}.zero", 0.0), whole), f"{name}.start")


def _body(use: Use, cell: Cell, sizes: list[int], masked: bool, zero: bool) -> tuple[Any, tuple[int, ...]]:
    """The Spec of one step, on use.graph, and the shape of a state without its rows."""
    graph, config = use.graph, cell.layer.config
    image: tuple[int | str, ...] = ("B", *sizes)
    probe = Graph()
    probe.add_input(Input("x", "float", image))
    shape = probe.shape(_conv(probe, "conv", "x", cell, cell.kernel, None, False))
    state: tuple[Any, ...] = ("B", cell.filters, *shape[2:])
    if any(size == 0 for size in state):
        raise UnsupportedError(f"{use.where}: an image of {sizes[1:]} is less than a window")
    names = ["h", "c", *(["output"] if masked else []), "x"]
    for name in names:
        graph.add_input(Input(name, "float", image if name == "x" else state))
    if masked:
        graph.add_input(Input("mask", "bool", ("B",)))
    gates = graph.emit(
        "Add",
        (
            _conv(graph, "from_x", "x", cell, cell.kernel, cell.bias, False),
            _conv(graph, "from_h", "h", cell, cell.recurrent, None, True),
        ),
        "gates",
    )
    parts = {
        gate: graph.slice(f"gate_{gate}", gates, 1, place * cell.filters, (place + 1) * cell.filters)
        for place, gate in enumerate("ifgo")
    }
    sigmoid = config.get("recurrent_activation", "sigmoid" if use.version.modern else "hard_sigmoid")
    tanh = config.get("activation", "tanh")
    gate = {key: apply_activation(use, parts[key], sigmoid, f"{key}.activated") for key in "ifo"}
    new = apply_activation(use, parts["g"], tanh, "g.activated")
    carried = graph.emit("Mul", (gate["f"], "c"), "carried")
    c = graph.emit("Add", (carried, graph.emit("Mul", (gate["i"], new), "added")), "c.new")
    h = graph.emit("Mul", (gate["o"], apply_activation(use, c, tanh, "c.activated")), "h.new")
    results = [h, c]
    if masked:
        kept = graph.reshape("kept", "mask", (-1, *(1,) * (len(state) - 1)))
        other = graph.number("zero", 0.0) if zero else "output"
        results = [graph.emit("Where", (kept, new, key), f"{key}.kept") for key, new in (("h", h), ("c", c))]
        results.append(graph.emit("Where", (kept, h, other), "output.kept"))
    if cell.sequences:
        results.append(graph.emit("Identity", results[-1] if masked else h, "collected"))
    try:
        return graph.finish(results), state[1:]
    except SpecError as error:
        raise UnsupportedError(f"{use.where}: {error}") from None


def _conv(
    graph: Graph, name: str, x: str, cell: Cell, weight: np.ndarray, bias: np.ndarray | None, recurrent: bool
) -> str:
    """The convolution of the input, or of the state, which is always "same" and by steps of 1."""
    plain = (1,) * cell.dims
    same = recurrent or cell.padding == "same"
    node = graph.emit(
        "Conv", x, name, input_size=weight.shape[1], output_size=weight.shape[0], kernel_shape=weight.shape[2:],
        strides=plain if recurrent else cell.strides, dilations=plain if recurrent else cell.dilations,
        bias=bias is not None, **({"auto_pad": "SAME_UPPER"} if same else {"pads": (0,) * (2 * cell.dims)}),
    )  # fmt: skip
    graph.own(node, {"weight": weight, **({} if bias is None else {"bias": bias})})
    return node
