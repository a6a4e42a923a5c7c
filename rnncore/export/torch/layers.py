"""Modules of torch.nn as nodes of a Spec, by their class."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from rnncore.cells import GRU, LSTM, RNN, Cell
from rnncore.conventions.gates import squeeze_batch
from rnncore.errors import UnsupportedError
from rnncore.export.torch.functions.activations import clamp, prelu
from rnncore.export.torch.functions.common import move_axes
from rnncore.export.torch.functions.products import embedding_node, linear_node
from rnncore.export.torch.functions.registry import FUNCTIONS, entry, refuse
from rnncore.export.torch.functions.shapes import pad, unflatten
from rnncore.export.torch.lowering import Lowering
from rnncore.export.torch.values import HIDING, Packed, Size, Tensor, array_of
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec

__all__ = ["CELLS", "LAYERS", "STACKS", "call_module", "cell_of", "kind_of", "recurrent_node"]

STACKS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
LAYERS: dict[str, Callable[..., Any]] = {}
FOLDED_HOOKS = ("WeightNorm", "SpectralNorm")


def layer(*names: str) -> Callable[[Callable], Callable]:
    def remember(function: Callable) -> Callable:
        LAYERS.update(dict.fromkeys(names, function))
        return function

    return remember


def kind_of(module: nn.Module) -> str:
    """The class in torch.nn whose forward the module has."""
    for parent in type(module).__mro__:
        if parent.__module__.startswith("torch.nn.modules."):
            return parent.__name__
    return type(module).__name__


def call_module(g: Lowering, module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The value of a module of torch.nn. Raises UnsupportedError for classes that no entry has, and for hooks."""
    kind = kind_of(module)
    if kind not in LAYERS:
        listed = ", ".join(sorted(LAYERS))
        raise UnsupportedError(f"{g.place}: module {g.wanted!r} ({kind}) is not supported, expected one of {listed}")
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    foreign = [hook for hook in hooks if type(hook).__name__ not in FOLDED_HOOKS]
    if foreign:
        raise UnsupportedError(
            f"{g.place}: module {g.wanted!r} ({kind}): has forward hooks, which a Spec cannot hold: remove them"
        )
    if hooks:
        g.notes.append(f"{g.wanted} ({kind}): {type(hooks[0]).__name__} folded into its weights")
    for parametrized in getattr(module, "parametrizations", {}):
        used = " and ".join(type(step).__name__.lstrip("_") for step in module.parametrizations[parametrized])
        g.notes.append(f"{g.wanted}.{parametrized} ({kind}): {used} folded")
    return LAYERS[kind](g, module, *args, **kwargs)


# --- recurrent -------------------------------------------------------------------------------------------------------


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
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
    return {name: array_of(getattr(module, name)) for name in names}


def recurrent_node(
    g: Lowering, module: nn.Module, source: str, name: str, layout: str, lengths: str | None, hx: Any
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
        parameters = [g.source_of(state) for state in states]
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


def _is_held(g: Lowering, state: Tensor, array: np.ndarray) -> bool:
    """Whether a parameter holds an initial state (rows, size) as a checkpoint is read."""
    source = g.source_of(state)
    if source is None:
        return False
    parameter = squeeze_batch(array_of(_parameter(g, source)))
    return parameter.shape == array.shape and np.array_equal(parameter, array)


def _parameter(g: Lowering, name: str) -> torch.Tensor:
    found: Any = g.first.tracer.root
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _trained(states: Sequence[Tensor]) -> list[np.ndarray] | None:
    """(rows, size) of initial states that are the same for every row of the batch and come from parameters alone."""
    found = []
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
        found.append(array[:, 0])
    return found


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
        states = [g.named(*found) for found in zip(named, states_a, states_b, strict=True)]
    else:
        states = [
            g.named(f"{node.name}.{key}", one, two, ("h", node) if key == "h" else None)
            for key, one, two in zip(node.cell.states, states_a, states_b, strict=True)
        ]
        y = None
    if packed is not None:
        output = Packed(Tensor(node.name, x.a, x.b, ("sequence", node)), packed.lengths, packed.time_first)
        output.tensor = Tensor(node.name, *(_widened(one, node.output_size) for one in (x.a, x.b)), ("sequence", node))
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
    found = [g.named(name, g.a[i] if several else g.a, g.b[i] if several else g.b) for i, name in enumerate(names)]
    return tuple(found) if several else found[0]


def _with_axis(g: Lowering, state: Tensor, axis: int) -> Tensor:
    """A state with a dimension of one layer or row more."""
    a, b = state.a.unsqueeze(axis), state.b.unsqueeze(axis)
    if state.constant and not state.trained:
        return Tensor(None, a, b, label=state.label, static=True, constant=True, trained=False)
    found = g.named(g.emit("Unsqueeze", [state], {"axes": (axis,)}, name=f"{g.wanted}_state"), a, b)
    found.static, found.trained, found.source = state.static, state.trained, g.source_of(state)
    return found


# --- products --------------------------------------------------------------------------------------------------------


@layer("Linear", "NonDynamicallyQuantizableLinear")
def linear(g, module, input):
    return g.out(linear_node(g, g.tensor(input), module.weight, module.bias))


@layer("Bilinear")
def bilinear(g, module, input1, input2):
    x, y = g.tensor(input1), g.tensor(input2)
    weight = _constant(g, module.weight, "weight")
    name = g.emit("Einsum", [x, weight, y], {"equation": "...i,kij,...j->...k"})
    if module.bias is not None:
        name = g.emit("Add", [name, _constant(g, module.bias, "bias")])
    return g.out(name)


@layer("Embedding")
def embedding(g, module, input):
    if module.max_norm is not None:
        raise UnsupportedError(f"{g.place}: module {g.wanted!r} (Embedding): max_norm={module.max_norm}, expected none")
    return g.out(embedding_node(g, g.tensor(input), module.weight))


CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")
TRANSPOSED = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


def _batched(g: Lowering, x: Tensor, rank: int) -> tuple[str, bool]:
    """The name of x with a batch, and whether one had to be added."""
    if x.ndim == rank:
        return g.name_of(x), False
    return g.emit("Unsqueeze", [x], {"axes": (0,)}, name=f"{g.wanted}_rows"), True


def _unbatched(g: Lowering, name: str, added: bool) -> Tensor:
    return g.out(g.emit("Squeeze", [name], {"axes": (0,)}) if added else name)


@layer(*CONVOLUTIONS)
def convolution(g, module, input):
    axes = len(module.kernel_size)
    name, added = _batched(g, g.tensor(input), axes + 2)
    pads = _convolution_pads(module)
    if module.padding_mode != "zeros" and any(pads):
        modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        spread = (0, 0, *pads[:axes], 0, 0, *pads[axes:])
        name = g.emit("Pad", [name], {"pads": spread, "mode": modes[module.padding_mode]}, name=f"{g.wanted}_pad")
        pads = (0,) * (2 * axes)
    return _unbatched(g, _convolution_node(g, "Conv", module, name, pads, {}), added)


def _convolution_pads(module: nn.Module) -> tuple[int, ...]:
    """Before and after each axis; "same" as torch has it, the odd one behind."""
    if module.padding == "valid":
        return (0,) * (2 * len(module.kernel_size))
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return (*(one // 2 for one in total), *(one - one // 2 for one in total))
    return (*module.padding, *module.padding)


def _convolution_node(
    g: Lowering, op: str, module: nn.Module, x: str, pads: Sequence[int], more: dict[str, Any]
) -> str:
    weights = {"weight": array_of(module.weight)}
    if module.bias is not None:
        weights["bias"] = array_of(module.bias)
    attributes = {
        "input_size": module.in_channels,
        "output_size": module.out_channels,
        "kernel_shape": tuple(module.kernel_size),
        "strides": tuple(module.stride),
        "pads": tuple(pads),
        "dilations": tuple(module.dilation),
        "group": module.groups,
        "bias": module.bias is not None,
        **more,
    }
    return g.emit(op, [x], attributes, weights)


@layer(*TRANSPOSED)
def transposed(g, module, input, output_size=None):
    if output_size is not None:
        raise refuse(g, "output_size", "output_padding")
    name, added = _batched(g, g.tensor(input), len(module.kernel_size) + 2)
    more = {"output_padding": tuple(module.output_padding)}
    pads = (*module.padding, *module.padding)
    return _unbatched(g, _convolution_node(g, "ConvTranspose", module, name, pads, more), added)


# --- pools -----------------------------------------------------------------------------------------------------------


def _many(value: Any, count: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * count


def _pool(
    g: Lowering, op: str, x: Tensor, axes: int, kernel: Any, stride: Any, padding: Any, ceil: bool, more: dict[str, Any]
) -> Tensor:
    kernel = _many(kernel, axes)
    whole = tuple(x.ndim - axes + i for i in range(axes))
    if any(isinstance(one, Size) for one in kernel):
        return _pooled_whole(g, op, x, whole, kernel, padding)
    name, added = _batched(g, x, axes + 2)
    pads = _many(padding, axes) * 2
    attributes = {
        "kernel_shape": kernel,
        "strides": _many(stride if stride not in (None, ()) else kernel, axes),
        "pads": pads,
        "ceil_mode": bool(ceil),
        **more,
    }
    return _unbatched(g, g.emit(op, [name], attributes), added)


def _pooled_whole(
    g: Lowering, op: str, x: Tensor, axes: tuple[int, ...], kernel: Sequence[Any], padding: Any
) -> Tensor:
    """A pool whose windows are as large as the input, whatever its size."""
    same = all(
        one.shape[axis] == getattr(size, trace, size)
        for axis, size in zip(axes, kernel, strict=True)
        for one, trace in ((x.a, "a"), (x.b, "b"))
    )
    if not same or any(_many(padding, len(axes))):
        raise refuse(g, "windows of a computed size", "a number, or the input's own size")
    reduce = "ReduceMax" if op == "MaxPool" else "ReduceMean"
    return g.out(g.emit(reduce, [x], {"axes": axes, "keepdims": True}))


@layer("MaxPool1d", "MaxPool2d", "MaxPool3d")
def max_pool(g, module, input):
    axes = int(kind_of(module)[-2])
    return max_pooled(g, axes, input, module.kernel_size, module.stride, module.padding, module.dilation,
                      module.ceil_mode, module.return_indices)  # fmt: skip


def max_pooled(g, axes, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if return_indices:
        raise refuse(g, "return_indices", "the pooled values alone")
    more = {"dilations": _many(dilation, axes)}
    return _pool(g, "MaxPool", g.tensor(input), axes, kernel_size, stride, padding, ceil_mode, more)


@layer("AvgPool1d", "AvgPool2d", "AvgPool3d")
def average_pool(g, module, input):
    axes = int(kind_of(module)[-2])
    divisor = getattr(module, "divisor_override", None)
    return average_pooled(g, axes, input, module.kernel_size, module.stride, module.padding, module.ceil_mode,
                          module.count_include_pad, divisor)  # fmt: skip


def average_pooled(
    g, axes, input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    if divisor_override is not None:
        raise refuse(g, f"divisor_override={divisor_override}", "none")
    more = {"count_include_pad": bool(count_include_pad)}
    return _pool(g, "AveragePool", g.tensor(input), axes, kernel_size, stride, padding, ceil_mode, more)


@layer("AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveMaxPool1d", "AdaptiveMaxPool2d")
def adaptive_pool(g, module, input):
    kind = kind_of(module)
    indices = getattr(module, "return_indices", False)
    return adaptive_pooled(g, "Avg" in kind, int(kind[-2]), input, module.output_size, indices)


def adaptive_pooled(g, average, axes, input, output_size, return_indices=False):
    """To one: the mean or maximum; to as many as there are: nothing; else equal windows of a known size."""
    if return_indices:
        raise refuse(g, "return_indices", "the pooled values alone")
    x = g.tensor(input)
    wanted = _many(output_size, axes)
    gone = tuple(x.ndim - axes + i for i, size in enumerate(wanted) if size == 1)
    windows = {}
    for i, size in enumerate(wanted):
        axis = x.ndim - axes + i
        found = g.dim(x, axis)
        if size in (None, found) or size == 1:
            continue
        if isinstance(found, Size) or found % size:
            shown = "an unknown size" if isinstance(found, Size) else found
            raise refuse(g, f"{shown} made {size} by an adaptive pool", "1, or a size that divides a known one")
        windows[i] = found // size
    name = g.name_of(x)
    if gone:
        name = g.emit("ReduceMean" if average else "ReduceMax", [name], {"axes": gone, "keepdims": True})
    if not windows:
        return g.out(name) if gone else x
    kernel = tuple(windows.get(i, 1) for i in range(axes))
    if x.ndim == axes + 1:
        raise refuse(g, "an adaptive pool without a batch", "(B, C, ...)")
    attributes = {"kernel_shape": kernel, "strides": kernel}
    return g.out(g.emit("AveragePool" if average else "MaxPool", [name], attributes))


# --- norms -----------------------------------------------------------------------------------------------------------


def _constant(g: Lowering, tensor: torch.Tensor | None, key: str, size: int = 1, filled: float = 0) -> str:
    """A parameter as a value; a filled vector where there is none."""
    array = np.full(size, filled, np.float32) if tensor is None else array_of(tensor)
    return g.constant(array, "float", f"{g.wanted}.{key}", trained=tensor is not None)


@layer("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
def batch_norm(g, module, input):
    if module.running_mean is None:
        raise refuse(g, "track_running_stats=False, which uses the batch's own", "running statistics")
    size = module.num_features
    parts = [
        _constant(g, module.weight, "weight", size, 1),
        _constant(g, module.bias, "bias", size, 0),
        _constant(g, module.running_mean, "running_mean", size, 0),
        _constant(g, module.running_var, "running_var", size, 1),
    ]
    return g.out(g.emit("BatchNormalization", [g.tensor(input), *parts], {"epsilon": float(module.eps)}))


@layer("LayerNorm")
def layer_norm(g, module, input):
    return layer_normed(g, input, module.normalized_shape, module.weight, module.bias, module.eps)


def layer_normed(g, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    x = g.tensor(input)
    shape = tuple(normalized_shape)
    ones = g.constant(np.ones(shape, np.float32), "float", "ones") if weight is None else None
    names = [ones or _as_value(g, weight, "weight")]
    if bias is not None:
        names.append(_as_value(g, bias, "bias"))
    return g.out(g.emit("LayerNormalization", [x, *names], {"axis": -len(shape), "epsilon": float(eps)}))


def _as_value(g: Lowering, tensor: Any, key: str) -> str:
    """A tensor of the graph, or a parameter of the current module."""
    return g.name_of(tensor) if isinstance(tensor, Tensor) else _constant(g, tensor, key)


@layer("RMSNorm")
def rms_norm(g, module, input):
    """x / sqrt(mean(x^2) + eps), scaled."""
    x = g.tensor(input)
    axes = tuple(range(x.ndim - len(module.normalized_shape), x.ndim))
    eps = torch.finfo(x.dtype).eps if module.eps is None else module.eps
    mean = g.emit("ReduceMean", [g.emit("Mul", [x, x])], {"axes": axes, "keepdims": True})
    y = g.emit("Div", [x, g.emit("Sqrt", [g.emit("Add", [mean, g.cast(float(eps), x.dtype)])])])
    if module.weight is not None:
        y = g.emit("Mul", [y, _constant(g, module.weight, "weight")])
    return g.out(y)


@layer("GroupNorm")
def group_norm(g, module, input):
    size = module.num_channels
    parts = [_constant(g, module.weight, "weight", size, 1), _constant(g, module.bias, "bias", size, 0)]
    attributes = {"num_groups": module.num_groups, "epsilon": float(module.eps)}
    return g.out(g.emit("GroupNormalization", [g.tensor(input), *parts], attributes))


@layer("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d")
def instance_norm(g, module, input):
    if module.track_running_stats:
        raise refuse(g, "track_running_stats=True", "False")
    x = g.tensor(input)
    if x.ndim != int(kind_of(module)[-2]) + 2:
        raise refuse(g, f"{x.ndim} dimensions", "a batch")
    size = x.a.shape[1]
    parts = [_constant(g, module.weight, "weight", size, 1), _constant(g, module.bias, "bias", size, 0)]
    return g.out(g.emit("InstanceNormalization", [x, *parts], {"epsilon": float(module.eps)}))


# --- without weights -------------------------------------------------------------------------------------------------

POINTWISE = {
    "ReLU": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "SiLU": "silu", "Mish": "mish", "SELU": "selu",
    "Hardswish": "hardswish", "Hardsigmoid": "hardsigmoid", "Softsign": "softsign", "LogSigmoid": "logsigmoid",
    "Tanhshrink": "tanhshrink",
}  # fmt: skip
WITH_OPTIONS = {
    "LeakyReLU": ("leaky_relu", ("negative_slope",)),
    "ELU": ("elu", ("alpha",)),
    "CELU": ("celu", ("alpha",)),
    "GELU": ("gelu", ("approximate",)),
    "Softplus": ("softplus", ("beta", "threshold")),
    "GLU": ("glu", ("dim",)),
    "Softmax": ("softmax", ("dim",)),
    "LogSoftmax": ("log_softmax", ("dim",)),
    "Softmin": ("softmin", ("dim",)),
    "Flatten": ("flatten", ("start_dim", "end_dim")),
    "CosineSimilarity": ("cosine_similarity", ("dim", "eps")),
}


def _called(name: str, options: Sequence[str] = ()) -> Callable[..., Any]:
    def run(g: Lowering, module: nn.Module, *inputs: Any) -> Any:
        return FUNCTIONS[name](g, *inputs, **{option: getattr(module, option) for option in options})

    return run


LAYERS.update({kind: _called(name) for kind, name in POINTWISE.items()})
LAYERS.update({kind: _called(name, options) for kind, (name, options) in WITH_OPTIONS.items()})


@layer("Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout")
def nothing(g, module, input, *args, **kwargs):
    g.notes.append(f"{g.wanted} ({kind_of(module)}): left out, it does nothing at inference")
    return input


@layer("Unflatten")
def unflatten_layer(g, module, input):
    return unflatten(g, input, module.dim, module.unflattened_size)


@layer("Hardtanh", "ReLU6")
def hardtanh(g, module, input):
    return clamp(g, g.tensor(input), float(module.min_val), float(module.max_val))


@layer("PReLU")
def prelu_layer(g, module, input):
    slope, label = module.weight.detach(), f"{g.wanted}.weight"
    return prelu(g, input, Tensor(None, slope, slope, label=label, constant=True, trained=True))


@layer("ZeroPad1d", "ZeroPad2d", "ConstantPad1d", "ConstantPad2d", "ConstantPad3d", "ReflectionPad1d",
       "ReflectionPad2d", "ReplicationPad1d", "ReplicationPad2d", "CircularPad1d", "CircularPad2d")  # fmt: skip
def padding(g, module, input):
    kind = kind_of(module)
    names = (("Reflection", "reflect"), ("Replication", "replicate"), ("Circular", "circular"))
    mode = next((mode for start, mode in names if kind.startswith(start)), "constant")
    return pad(g, input, module.padding, mode, getattr(module, "value", 0.0))


@layer("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d")
def upsample(g, module, input):
    return interpolate(g, input, module.size, module.scale_factor, module.mode, module.align_corners)


def interpolate(
    g,
    input,
    size=None,
    scale_factor=None,
    mode="nearest",
    align_corners=None,
    recompute_scale_factor=None,
    antialias=False,
):
    x = g.tensor(input)
    modes = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "trilinear": "linear", "bicubic": "cubic"}
    if antialias or mode not in modes:
        raise refuse(g, f"mode={mode!r}, antialias={antialias}", ", ".join(modes))
    attributes: dict[str, Any] = {"mode": modes[mode]}
    if mode == "nearest":
        attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        attributes["coordinate_transformation_mode"] = "align_corners" if align_corners else "pytorch_half_pixel"
        if mode == "bicubic":
            attributes["cubic_coeff_a"] = -0.75
    axes = x.ndim - 2
    if size is None:
        attributes["scales"] = (1.0, 1.0, *(float(one) for one in _many(scale_factor, axes)))
        return g.out(g.emit("Resize", [x], attributes))
    inputs: list[Any] = [x]
    sizes = [g.dim(x, 0), g.dim(x, 1), *_many(size, axes)]
    return g.out(g.emit("Resize", inputs, {**attributes, **g.parameter(inputs, "sizes", sizes, 3)}))


# --- attention -------------------------------------------------------------------------------------------------------


@layer("MultiheadAttention")
def multi_head_attention(
    g, module, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
    average_attn_weights=True, is_causal=False,
):  # fmt: skip
    """The op MultiHeadAttention: torch's masks are True where a step does not count, ours where it does."""
    if module.bias_k is not None or module.add_zero_attn:
        raise refuse(g, "add_bias_kv or add_zero_attn", "neither")
    q, k, v = (g.tensor(item) for item in (query, key, value))
    alone = q.ndim == 2
    with g.named_with("_input"):
        if alone:
            names = [g.emit("Unsqueeze", [item], {"axes": (0,)}) for item in (q, v, k)]
        elif module.batch_first:
            names = [g.name_of(item) for item in (q, v, k)]
        else:
            names = [move_axes(g, item, (1, 0, 2)) for item in (q, v, k)]
    with g.named_with("_mask"):
        padding = _inverted(g, key_padding_mask, 1 if alone else 2)
        if alone and padding:
            padding = g.emit("Unsqueeze", [padding], {"axes": (0,)})
        masks = {"value_mask": padding, "attention_mask": _inverted(g, attn_mask, 2)}
    size, heads = module.embed_dim, module.num_heads
    attributes = {
        "query_size": size,
        "value_size": module.vdim,
        "key_size": module.kdim,
        "num_heads": heads,
        "key_dim": size // heads,
        "bias": module.in_proj_bias is not None,
    }
    if value is key:
        names[2] = names[1]
    inputs = [*names, "", masks["value_mask"], "", masks["attention_mask"]]
    while inputs and inputs[-1] == "":
        inputs.pop()
    name = g.emit("MultiHeadAttention", inputs, attributes, _attention_weights(module))
    if alone:
        context = g.emit("Squeeze", [name], {"axes": (0,)})
    else:
        context = move_axes(g, name, (1, 0, 2)) if not module.batch_first else name
    found = g.named(context, g.a[0], g.b[0])
    if not need_weights:
        return found, None
    weights = f"{name}.weights"
    if average_attn_weights:
        weights = g.emit("ReduceMean", [weights], {"axes": (1,), "keepdims": False}) if g.node.users else weights
    if alone:
        weights = g.emit("Squeeze", [weights], {"axes": (0,)})
    return found, g.named(weights, g.a[1], g.b[1])


def _inverted(g: Lowering, mask: Any, rank: int) -> str:
    if mask is None:
        return ""
    mask = g.tensor(mask)
    if mask.dtype.is_floating_point and mask.constant:
        content = mask.a
        if bool(((content == 0) | (content == -math.inf)).all()):
            if _is_trained(g, mask):
                raise refuse(g, "a mask that is trained", "a buffer of 0 and -inf, or bool")
            return g.emit("Equal", [mask, g.cast(0, mask.dtype)])
    if mask.dtype.is_floating_point and mask.ndim == rank and mask.origin == HIDING:
        return g.emit("Equal", [mask, g.cast(0.0, mask.dtype)])
    if mask.dtype != torch.bool or mask.ndim != rank:
        raise refuse(g, f"a mask {mask.dtype} with {mask.ndim} dimensions", f"bool with {rank}")
    return g.emit("Not", [mask])


def _is_trained(g: Lowering, tensor: Tensor) -> bool:
    """Whether parameters decide a constant, and not buffers alone."""
    if not tensor.trained:
        return False
    parameters = dict(g.first.tracer.root.named_parameters(remove_duplicate=False))
    behind = [node for node, value in g.env.items() if value is tensor]
    seen = set(behind)
    while behind:
        node = behind.pop()
        if node.op == "call_module" or (node.op == "get_attr" and node.target in parameters):
            return True
        behind += [one for one in node.all_input_nodes if one not in seen]
        seen.update(node.all_input_nodes)
    return not seen


def _attention_weights(module: nn.Module) -> dict[str, np.ndarray]:
    size = module.embed_dim
    if module.in_proj_weight is not None:
        parts = module.in_proj_weight.split(size)
    else:
        parts = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    found = {f"{key}.weight": array_of(part) for key, part in zip(("query", "key", "value"), parts, strict=True)}
    found["output.weight"] = array_of(module.out_proj.weight)
    if module.in_proj_bias is not None:
        biases = module.in_proj_bias.split(size)
        found |= {f"{key}.bias": array_of(part) for key, part in zip(("query", "key", "value"), biases, strict=True)}
        found["output.bias"] = array_of(module.out_proj.bias)
    return found


# --- functions that do what a module does ----------------------------------------------------------------------------


@entry("layer_norm")
def _layer_norm(g, input, normalized_shape, weight=None, bias=None, eps=1e-5, cudnn_enable=True):
    return layer_normed(g, input, normalized_shape, weight, bias, eps)


entry("interpolate", "upsample")(interpolate)


@entry("conv1d", "conv2d", "conv3d")
def _convolved(g, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    x, kernel = g.tensor(input), g.tensor(weight)
    axes = kernel.ndim - 2
    if not g.is_parameter(kernel) or not (bias is None or g.is_parameter(bias)):
        raise refuse(g, "a kernel that is computed", "a parameter")
    name, added = _batched(g, x, kernel.ndim)
    sizes, dilations = kernel.a.shape[2:], _many(dilation, axes)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, sizes, strict=True)]
        pads = (*(one // 2 for one in total), *(one - one // 2 for one in total))
    else:
        pads = _many(padding, axes) * 2
    attributes = {
        "input_size": kernel.a.shape[1] * groups,
        "output_size": kernel.a.shape[0],
        "kernel_shape": tuple(sizes),
        "strides": _many(stride, axes),
        "pads": pads,
        "dilations": dilations,
        "group": groups,
        "bias": bias is not None,
    }
    weights = {"weight": array_of(kernel.a)} | ({} if bias is None else {"bias": array_of(bias.a)})
    sources = {"weight": kernel.label} | ({} if bias is None else {"bias": bias.label})
    return _unbatched(g, g.emit("Conv", [name], attributes, weights, sources=sources), added)


@entry("batch_norm")
def _batch_normed(
    g, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5, *args
):
    if training or running_mean is None:
        raise refuse(g, "statistics of the batch", "training=False and running statistics")
    x, size = g.tensor(input), running_mean.a.shape[0]
    ones, zeros = (
        g.constant(np.full(size, number, np.float32), "float", label) for number, label in ((1, "ones"), (0, "zeros"))
    )
    parts = [ones if weight is None else weight, zeros if bias is None else bias, running_mean, running_var]
    return g.out(g.emit("BatchNormalization", [x, *parts], {"epsilon": float(eps)}))


@entry("group_norm")
def _group_normed(g, input, num_groups, weight=None, bias=None, eps=1e-5, cudnn_enabled=True):
    x = g.tensor(input)
    size = x.a.shape[1]
    ones, zeros = (
        g.constant(np.full(size, number, np.float32), "float", label) for number, label in ((1, "ones"), (0, "zeros"))
    )
    parts = [ones if weight is None else weight, zeros if bias is None else bias]
    return g.out(g.emit("GroupNormalization", [x, *parts], {"num_groups": num_groups, "epsilon": float(eps)}))


for _axes in (1, 2, 3):
    FUNCTIONS[f"avg_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: average_pooled(g, axes, *args, **kwargs)
    FUNCTIONS[f"max_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: max_pooled(g, axes, *args, **kwargs)
    FUNCTIONS[f"adaptive_avg_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: adaptive_pooled(
        g, True, axes, *args, **kwargs
    )
    FUNCTIONS[f"adaptive_max_pool{_axes}d"] = lambda g, *args, axes=_axes, **kwargs: adaptive_pooled(
        g, False, axes, *args, **kwargs
    )
