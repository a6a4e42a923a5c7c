"""Recurrent modules of torch: stacks of layers and single cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rnncore.cells import GRU, LSTM, RNN, Cell
from rnncore.conventions.gates import squeeze_batch
from rnncore.export.torch.layers.registry import CELLS, STACKS, kind_of, layer
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import Packed, TracedTensor, array_of
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec

__all__ = ["recurrent_node"]


def cell_of(module: nn.Module) -> Cell:
    kind = kind_of(module)
    sizes = (module.input_size, module.hidden_size, bool(module.bias))
    if kind in ("RNN", "RNNCell"):
        return RNN(*sizes, activations=(module.nonlinearity,))
    if kind in ("LSTM", "LSTMCell"):
        return LSTM(*sizes, projection=getattr(module, "proj_size", 0))
    return GRU(*sizes, reset_after=True)


def _own_tensors(module: nn.Module) -> dict[str, np.ndarray]:
    """The weights that torch's forward reads, by name: of a stack its flat list, which weight norm renews."""
    if kind_of(module) in STACKS:
        names = [name for name in module._flat_weights_names if name is not None]
        return {name: array_of(tensor) for name, tensor in zip(names, module._flat_weights, strict=True)}
    names = ["weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ())]
    return {name: array_of(getattr(module, name)) for name in names}


def recurrent_node(
    g: TraceLowering, module: nn.Module, source: str, name: str, layout: str, lengths: str | None, hx: Any
) -> Recurrent:
    """Appends the node of a stack or cell; hx: initial states in torch's shapes (layers * directions, B, size)."""
    cell = cell_of(module)
    options: dict[str, Any] = {"layout": layout, "lengths": lengths}
    if kind_of(module) in STACKS:
        direction = "bidirectional" if module.bidirectional else "forward"
        options |= {"layers": module.num_layers, "direction": direction}
    name = g.fresh(name)
    states = [g.tensor(state) for state in hx]
    trained = _trained(states)
    weights: dict[str, np.ndarray] = {}
    sources = {} if g.module is None else {name: g.module}
    if trained and all(_is_held(g, *pair) for pair in zip(states, trained, strict=True)):
        options["trained_state"] = True
        weights = {f"initial_{key}": array for key, array in zip(cell.states, trained, strict=True)}
        parameters: list[Any] = [g.source_of(state) for state in states]
        sources |= {f"{name}.initial_{key}": one for key, one in zip(cell.states, parameters, strict=True)}
    elif trained is None or any(array.any() or state.trained for array, state in zip(trained, states, strict=True)):
        options["initial"] = tuple(g.name_of(state) for state in states)
    node = Recurrent(name, cell, source, **options)
    x = Input(f"{name}.input", "float", ("B", "T", cell.input_size))
    alone = Recurrent(name, cell, x.name, **{**options, "initial": (), "trained_state": False, "lengths": None})
    spec = Spec([x], [alone], [name])
    bound = bind(spec, {f"{name}.{key}": array for key, array in _own_tensors(module).items()})
    own = {key.removeprefix(f"{name}."): array for key, array in bound.weights.items()}
    return g.add(node, {**own, **weights}, sources)


def _is_held(g: TraceLowering, state: TracedTensor, array: np.ndarray) -> bool:
    """Whether a parameter holds an initial state (rows, size) as a checkpoint is read."""
    source = g.source_of(state)
    if source is None:
        return False
    parameter = squeeze_batch(array_of(_parameter(g, source)))
    return parameter.shape == array.shape and np.array_equal(parameter, array)


def _parameter(g: TraceLowering, name: str) -> torch.Tensor:
    attribute: Any = g.first.tracer.root
    for part in name.split("."):
        attribute = getattr(attribute, part)
    return attribute


def _trained(states: Sequence[TracedTensor]) -> list[np.ndarray] | None:
    """(rows, size) of initial states that are the same for every row of the batch and come from parameters alone."""
    rows = []
    for state in states:
        if not state.static:
            return None
        array = array_of(state.a)
        if (
            not array.shape[1]
            or not (array == array[:, :1]).all()
            or not np.array_equal(array[:, 0], array_of(state.b)[:, 0])
        ):
            return None
        rows.append(array[:, 0])
    return rows


@layer(*STACKS)
def stack(g, module, input, hx=None):
    packed = input if isinstance(input, Packed) else None
    x = packed.tensor if packed is not None else g.tensor(input)
    layout = "batch_first" if module.batch_first else "time_first"
    source = g.name_of(x)
    if packed is not None:
        layout = "time_first" if packed.time_first else "batch_first"
    alone = x.ndim == 2
    batch_axis = 0 if layout == "batch_first" else 1
    if alone:
        source = g.emit("Unsqueeze", [source], {"axes": (batch_axis,)}, name=f"{g.wanted}_rows")
    lengths = None if packed is None else g.name_of(packed.lengths)
    hx = [] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]
    if alone:
        hx = [_with_axis(g, g.tensor(state), 1) for state in hx]
    node = recurrent_node(g, module, source, g.wanted, layout, lengths, hx)
    a, b = g.a[1], g.b[1]
    states_a, states_b = (a, b) if isinstance(a, tuple) else ((a,), (b,))
    if alone:
        named = [g.emit("Squeeze", [f"{node.name}.{key}"], {"axes": (1,)}) for key in node.cell.states]
        y = g.named(g.emit("Squeeze", [node.name], {"axes": (batch_axis,)}), g.a[0], g.b[0])
        states = [g.named(*named_state) for named_state in zip(named, states_a, states_b, strict=True)]
    else:
        states = [
            g.named(f"{node.name}.{key}", one, two, ("h", node) if key == "h" else None)
            for key, one, two in zip(node.cell.states, states_a, states_b, strict=True)
        ]
        y = None
    if packed is not None:
        output = Packed(TracedTensor(node.name, x.a, x.b, ("sequence", node)), packed.lengths, packed.time_first)
        a, b = (_widened(one, node.output_size) for one in (x.a, x.b))
        output.tensor = TracedTensor(node.name, a, b, ("sequence", node))
    else:
        output = y if y is not None else g.named(node.name, g.a[0], g.b[0], ("sequence", node))
    return output, tuple(states) if len(states) > 1 else states[0]


def _widened(x: torch.Tensor, size: int) -> torch.Tensor:
    return x.new_zeros((1,)).expand(*x.shape[:-1], size)


@layer(*CELLS)
def cell(g, module, input, hx=None):
    """One step of a cell: a sequence of one."""
    x = g.tensor(input)
    alone = x.ndim == 1
    one = g.emit("Unsqueeze", [x], {"axes": (0, 1) if alone else (1,)}, name=f"{g.wanted}_input")
    hx = [] if hx is None else list(hx) if isinstance(hx, (tuple, list)) else [hx]
    for _ in range(2 if alone else 1):
        hx = [_with_axis(g, g.tensor(state), 0) for state in hx]
    node = recurrent_node(g, module, one, g.wanted, "batch_first", None, hx)
    several = isinstance(g.a, tuple)
    names = []
    for key in node.cell.states:
        name = f"{node.name}.last" if key == "h" else f"{node.name}.{key}"
        axes = (0,) * (key != "h") + (1 if key != "h" else 0,) * alone
        names.append(g.emit("Squeeze", [name], {"axes": axes}) if axes else name)
    states = [g.named(name, g.a[i] if several else g.a, g.b[i] if several else g.b) for i, name in enumerate(names)]
    return tuple(states) if several else states[0]


def _with_axis(g: TraceLowering, state: TracedTensor, axis: int) -> TracedTensor:
    """A state with a dimension of one layer or row more."""
    a, b = state.a.unsqueeze(axis), state.b.unsqueeze(axis)
    if state.constant and not state.trained:
        return TracedTensor(None, a, b, label=state.label, static=True, constant=True, trained=False)
    widened = g.named(g.emit("Unsqueeze", [state], {"axes": (axis,)}, name=f"{g.wanted}_state"), a, b)
    widened.static, widened.trained, widened.source = state.static, state.trained, g.source_of(state)
    return widened
