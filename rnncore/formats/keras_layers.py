"""Keras layers lowered to a Spec and canonical arrays: what each class computes at inference. Keras is not needed.

Shared by what reads Keras files and by what takes a live model. A layer is one entry of LAYERS: the options that it
handles, what it does with the mask of its input, and a function from one call of it (Use) to tensors.

Masks follow Keras: made by Embedding(mask_zero=True), "NAME.mask", and by Masking, and passed on by the layers that
do so in Keras; others destroy them. A layer behind go_backwards=True with return_sequences=True gets the mask in time
order beside outputs in processing order, as Keras gives it.

A layer that is called twice becomes two nodes, NAME and NAME#2, each with the weights: a node's weights are its own.

Source: Keras 3.15 src/layers; tf-keras 2.21 src/layers; Keras 1.2.2 layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rnncore.errors import FormatError, UnsupportedError, WeightError
from rnncore.formats._cursor import shown
from rnncore.formats.keras_config import Call, Layer, Network, Ref, Version, layer_of, tensors
from rnncore.formats.keras_graph import Graph, NeedsSize
from rnncore.formats.keras_operations import OPERATIONS
from rnncore.formats.keras_recurrent import RECURRENT, bidirectional, recurrent
from rnncore.formats.keras_use import (
    Tensor,
    Use,
    activation,
    apply_activation,
    check_options,
    check_policy,
    check_shape,
    flag,
    number,
    option,
    sizes,
)
from rnncore.formats.keras_variables import bind_arrays
from rnncore.spec import Input, Spec

__all__ = ["ACCEPTED", "KerasLayer", "Lowered", "activation", "lower", "lower_network"]

KERAS_3 = Version(3, 0)
FARTHEST = (1 << 63) - 1


@dataclass(frozen=True)
class KerasLayer:
    """One layer: its name, class name, config and arrays in Keras's order (get_weights); Bidirectional: both halves."""

    name: str
    class_name: str
    config: Mapping[str, Any]
    arrays: Sequence[np.ndarray] = ()


@dataclass(frozen=True)
class Lowered:
    """The Spec, canonical arrays for it, and notes on what was left out."""

    spec: Spec
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One class of layers. ``mask``: "pass" (the input's goes on), "drop", or "own" (the function says)."""

    lower: Callable[[Use], Tensor | str | list[Tensor]]
    options: frozenset[str] | None
    mask: str = "pass"
    neutral: Mapping[str, Any] = field(default_factory=dict)


LAYERS: dict[str, Kind] = {}


def layer(*names: str, options: str | None = "", mask: str = "pass", **neutral: Any):
    """Registers a function as the meaning of classes of these names; options=None where it checks them itself."""

    def register(function):
        handled = None if options is None else frozenset(options.split())
        for name in names:
            LAYERS[name] = Kind(function, handled, mask, neutral)
        return function

    return register


# --- whole models --------------------------------------------------------------------------------------------------


def lower(layers: Iterable[KerasLayer], input_shape: Sequence[int | None], version: int = 3) -> Lowered:
    """The Spec of layers that follow one another, and their arrays in canonical order.

    input_shape is Keras's, with the batch first: (None, None, 40), or (None, None) for ids. Batch and time become
    "B" and "T" even where Keras fixed them, unless a layer needs the size.

    Raises UnsupportedError naming the layer and option, WeightError for arrays that do not fit their layer.
    """
    written = Version(version, 0 if version >= 3 else 4)
    found = {"": Layer("", "InputLayer", {"batch_input_shape": list(input_shape)})}
    before, calls = Ref("", 0, 0), []
    for one in layers:
        if one.class_name == "InputLayer":
            continue
        made = layer_of({"name": one.name, "class_name": one.class_name, "config": one.config}, one.name)
        if made.name in found:
            raise UnsupportedError(f"{made.where}: stands twice in the model, expected each layer once")
        _check_class(made)
        bind_arrays(made, one.arrays, written)
        found[made.name] = made
        calls.append(Call(made.name, 0, (before,), {}))
        before = Ref(made.name, 0, 0)
    return lower_network(Network("model", True, found, calls, [Ref("", 0, 0)], [before]), written)


def lower_network(network: Network, version: Version) -> Lowered:
    """The Spec of a model, and canonical arrays; the layers have their own arrays already."""
    try:
        return _lowered(network, version, fixed_time=False)
    except NeedsSize:
        return _lowered(network, version, fixed_time=True)


def _lowered(network: Network, version: Version, fixed_time: bool) -> Lowered:
    graph = Graph()
    entries = _entries(network, graph, fixed_time)
    outputs = [tensor.name for tensor in _run(network, graph, version, entries, "")]
    if not graph.nodes:
        raise UnsupportedError("no layer does anything at inference, expected at least one")
    spec = graph.finish(outputs)
    _check_dtypes(graph.arrays)
    return Lowered(spec, graph.arrays, tuple(graph.notes))


def _entries(network: Network, graph: Graph, fixed_time: bool) -> list[Tensor]:
    """The inputs of the Spec: "x" or "tokens" for one, the names of the layers for several."""
    taken = set(network.layers)
    found = []
    for place, ref in enumerate(network.inputs):
        config = network.layers[ref.layer].config
        where = f"input {shown(ref.layer or network.name, 80)!r}"
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if config.get("sparse") or config.get("ragged"):
            raise UnsupportedError(f"{where}: sparse or ragged, expected dense")
        ids = _only_embedded(network, ref)
        dtype = _input_dtype(config.get("dtype"), ids, where)
        name = ("tokens" if ids else "x") if len(network.inputs) == 1 else ref.layer
        if len(network.inputs) == 1 and name in taken - {ref.layer}:
            name = f"{name}_in"
        time = "T" if len(network.inputs) == 1 or place == 0 else f"T_{place + 1}"
        axes = _axes(shape, dtype, time, fixed_time, where)
        found.append(Tensor(graph.input(Input(graph.fresh(name), dtype, axes))))
    return found


def _input_dtype(given: Any, ids: bool, where: str) -> str:
    if isinstance(given, Mapping):
        inner = given.get("config")
        given = inner.get("name") if isinstance(inner, Mapping) else None
    if ids or (isinstance(given, str) and given.startswith(("int", "uint"))):
        return "int64"
    if given == "bool":
        return "bool"
    if given is None or (isinstance(given, str) and given in ("float32", "float64", "float16", "bfloat16", "float")):
        return "float"
    raise UnsupportedError(f"{where}: dtype {shown(str(given), 60)}, expected numbers")


def _axes(shape: Any, dtype: str, time: str, fixed_time: bool, where: str) -> tuple[int | str, ...]:
    """Sizes of an input: the batch "B"; the second of three or more, or of ids, "T" unless its size is needed."""
    if not isinstance(shape, (list, tuple)) or not shape or len(shape) > 8:
        raise FormatError(f"{where}: shape {shown(str(shape), 80)}, expected one with the batch first")
    if any(size is not None and (type(size) is not int or not 1 <= size <= 1 << 31) for size in shape):
        raise FormatError(f"{where}: shape {shown(str(list(shape)), 80)}, expected positive sizes or null")
    sizes_: list[int | str] = ["B"]
    for axis, size in enumerate(shape[1:], start=1):
        is_time = axis == 1 and (dtype != "float" or len(shape) > 2)
        if size is None and not is_time and axis == len(shape) - 1:
            raise UnsupportedError(f"{where}: shape {tuple(shape)}: the last dimension is unknown, expected a size")
        free = time if is_time else f"D{axis}"
        sizes_.append(free if size is None or (is_time and not fixed_time) else size)
    return tuple(sizes_)


def _only_embedded(network: Network, ref: Ref) -> bool:
    """Whether an input holds ids: every layer that reads it is an Embedding, or asks where it is not 0."""
    users = [call for call in network.calls if ref in tensors([call.args, dict(call.kwargs)])]
    found = False
    for call in users:
        one = network.layers[call.layer]
        if one.is_operation and one.class_name in ("NotEqual", "Equal"):
            continue
        if not _embeds(one):
            return False
        found = True
    return found


def _embeds(one: Layer) -> bool:
    if one.class_name == "Embedding":
        return True
    if one.class_name == "TimeDistributed":
        return all(_embeds(part) for part in one.parts.values())
    if one.network is not None:
        return len(one.network.inputs) == 1 and _only_embedded(one.network, one.network.inputs[0])
    return False


def _run(network: Network, graph: Graph, version: Version, entries: Sequence[Tensor], prefix: str) -> list[Tensor]:
    """All calls of a network in order; its outputs."""
    values: dict[tuple[str, int], list[Tensor]] = {}
    for ref, entry in zip(network.inputs, entries, strict=True):
        values[ref.layer, ref.node] = [entry]
    for call in network.calls:
        made = _called(network.layers[call.layer], call, graph, version, prefix, values)
        values[call.layer, call.node] = made
    if network.sequential:
        return values[network.outputs[0].layer, network.outputs[0].node]
    return [_resolved(ref, values) for ref in network.outputs]


def _resolved(ref: Ref, values: Mapping[tuple[str, int], list[Tensor]]) -> Tensor:
    found = values.get((ref.layer, ref.node))
    if found is None or ref.tensor >= len(found):
        raise FormatError(f"layer {shown(ref.layer)!r}: output {ref.tensor} of call {ref.node} is read, there is none")
    return found[ref.tensor]


def _called(one: Layer, call: Call, graph: Graph, version: Version, prefix: str, values) -> list[Tensor]:
    """One call: what the layer gives."""

    def resolved(item: Any) -> Any:
        if isinstance(item, Ref):
            return _resolved(item, values)
        if isinstance(item, list):
            return [resolved(inner) for inner in item]
        return {key: resolved(inner) for key, inner in item.items()} if isinstance(item, dict) else item

    args = tuple(resolved(item) for item in call.args)
    kwargs = {key: resolved(item) for key, item in call.kwargs.items()}
    base = prefix + (one.name if call.node == 0 else f"{one.name}#{call.node + 1}")
    first = args[0] if args else next((item for item in kwargs.values() if isinstance(item, Tensor)), None)
    flat = [item for item in (first if isinstance(first, list) else [first]) if isinstance(item, Tensor)]
    use = Use(graph, one, version, base, flat, args, kwargs)
    return run_layer(use)


def run_layer(use: Use) -> list[Tensor]:
    """What one call of a layer gives, with masks."""
    one = use.layer
    _check_class(one)
    if one.is_operation:
        return OPERATIONS[one.class_name](use)
    check_policy(use.config, use.where)
    if not use.inputs:
        raise UnsupportedError(f"{use.where}: called without a tensor")
    if one.network is not None:
        return _nested(use)
    kind = LAYERS[one.class_name]
    _check_arguments(use, kind)
    if kind.options is not None:
        check_options(use, use.config, set(kind.options), kind.neutral)
    found = kind.lower(use)
    if isinstance(found, list):
        return found
    name, own = found if isinstance(found, Tensor) else (found, None)
    mask = {"pass": use.masked(use.inputs[0]).mask, "drop": None, "own": own}[kind.mask]
    return [Tensor(name, mask)]


ARGUMENTS = {
    "Attention": {"return_attention_scores", "use_causal_mask", "mask"},
    "AdditiveAttention": {"return_attention_scores", "use_causal_mask", "mask"},
    "MultiHeadAttention": {
        "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask", "return_attention_scores",
        "use_causal_mask", "mask",
    },
    "Bidirectional": {"initial_state", "mask"},
    **{kind: {"initial_state", "mask", "constants"} for kind in RECURRENT},
}  # fmt: skip


def _check_arguments(use: Use, kind: Kind) -> None:
    """Refuses what a call gives besides its inputs, unless the layer takes it."""
    accepted = {"mask"} | ARGUMENTS.get(use.layer.class_name, set())
    for key, value in use.kwargs.items():
        if key == "training" and value in (None, False):
            continue
        if value is not None and key not in accepted and not (key == "inputs" and not use.args):
            raise UnsupportedError(f"{use.where}: argument {shown(key, 60)}={shown(str(value), 60)}, expected none")
    if len(use.args) > 1 and use.layer.class_name not in (*RECURRENT, "Bidirectional", "MultiHeadAttention"):
        raise UnsupportedError(f"{use.where}: {len(use.args)} arguments, expected one")


def _check_class(one: Layer) -> None:
    table = OPERATIONS if one.is_operation else LAYERS
    if one.class_name in table or (one.network is not None and not one.is_operation):
        return
    if one.class_name == "Lambda":
        raise UnsupportedError(f"{one.where}: a Lambda is code, expected layers of Keras's own")
    if one.class_name in ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod"):
        raise UnsupportedError(f"{one.where}: a call of TensorFlow itself, expected layers of Keras's own")
    raise UnsupportedError(f"{one.where}: not accepted, expected {', '.join(sorted(table))}")


def _nested(use: Use) -> list[Tensor]:
    """A model inside a model: its layers are called NAME/LAYER."""
    network = use.layer.network
    if use.kwargs.get("mask") is not None and not isinstance(use.kwargs["mask"], Tensor):
        raise UnsupportedError(f"{use.where}: several masks for a nested model, expected the inputs' own")
    entries = [use.masked(entry) if len(use.inputs) == 1 else entry for entry in use.inputs]
    if len(entries) != len(network.inputs):
        raise FormatError(f"{use.where}: called with {len(entries)} tensors, expected {len(network.inputs)}")
    return _run(network, use.graph, use.version, entries, f"{use.name}/")


def _check_dtypes(arrays: Mapping[str, np.ndarray]) -> None:
    found = sorted({str(array.dtype) for array in arrays.values() if array.dtype.kind == "f"})
    if len(found) > 1:
        raise UnsupportedError(f"weights of dtype {' and '.join(found)}, expected one dtype in all layers")


# --- recurrent, and around other layers ----------------------------------------------------------------------------

layer(*RECURRENT, options=None, mask="own")(recurrent)
layer("Bidirectional", options=None, mask="own")(bidirectional)


@layer(
    "InputLayer",
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "ActivityRegularization",
    "Identity",
    options=None,
)
def dropped(use: Use) -> str:
    """Nothing at inference."""
    if use.layer.class_name != "InputLayer":
        use.note(f"{use.layer.name} ({use.layer.class_name}): left out, it does nothing at inference")
    return use.x


EVERYWHERE = ("Dense", "Activation", "Embedding", "ReLU", "LeakyReLU", "ELU", "Rescaling", "Dropout", "Identity")


@layer("TimeDistributed", options="layer")
def time_distributed(use: Use) -> str | list[Tensor]:
    """The inner layer on every step: as it is where steps do not matter to it, else on (B*T, ...)."""
    inner = use.layer.parts["layer"]
    check_policy(inner.config, use.where)
    _check_class(inner)
    if inner.class_name in EVERYWHERE:
        part = Layer(use.layer.name, inner.class_name, inner.config, inner.place, own=inner.own)
        return run_layer(Use(use.graph, part, use.version, use.name, [Tensor(use.x)]))[0].name
    graph, x = use.graph, use.floats
    if use.masked(use.inputs[0]).mask is not None and (inner.network is not None or inner.class_name in TAKES_MASK):
        raise UnsupportedError(f"{use.where}: around a {inner.class_name} under a mask, expected no mask")
    rest = [graph.size(x, axis, use.where) if axis > 2 or graph.rank(x) == 3 else 0 for axis in range(2, graph.rank(x))]
    merged = _merge_steps(graph, use, x, rest)
    found = run_layer(Use(graph, inner, use.version, f"{use.name}/{inner.name}", [Tensor(merged)]))
    if len(found) != 1:
        raise UnsupportedError(f"{use.where}: around a layer with {len(found)} outputs, expected one")
    return _split_steps(graph, use, x, found[0].name)


TAKES_MASK = (*RECURRENT, "Bidirectional", "GlobalAveragePooling1D", "Softmax", "Attention", "AdditiveAttention")


def _merge_steps(graph: Graph, use: Use, x: str, rest: Sequence[int]) -> str:
    """(B, T, ...) as (B*T, ...)."""
    shape = graph.shape(x)
    known = [size if isinstance(size, int) else None for size in shape[2:]]
    if None not in known:
        return graph.reshape(f"{use.name}.steps", x, (-1, *known))
    sizes_ = graph.node(f"{use.name}.shape", "Shape", x)
    tail = graph.slice(f"{use.name}.rest", sizes_, 0, 2, len(shape))
    first = graph.node(f"{use.name}.all", "Constant", (), dtype="int64", shape=(1,), value=(-1,))
    return graph.node(
        f"{use.name}.steps", "Reshape", (x, graph.node(f"{use.name}.to", "Concat", (first, tail), axis=0))
    )


def _split_steps(graph: Graph, use: Use, x: str, y: str) -> str:
    """(B*T, ...) as (B, T, ...), with the T of x."""
    steps, rest = graph.shape(x)[1], graph.shape(y)[1:]
    if isinstance(steps, int) and all(isinstance(size, int) for size in rest):
        return graph.reshape(use.name, y, (-1, steps, *rest))
    lead = graph.slice(f"{use.name}.lead", graph.node(f"{use.name}.whole", "Shape", x), 0, 0, 2)
    tail = graph.slice(f"{use.name}.tail", graph.node(f"{use.name}.part", "Shape", y), 0, 1, len(rest) + 1)
    return graph.node(use.name, "Reshape", (y, graph.node(f"{use.name}.back", "Concat", (lead, tail), axis=0)))


# --- products and embeddings ---------------------------------------------------------------------------------------


@layer("Dense", "TimeDistributedDense", options="units output_dim activation use_bias bias")
def dense(use: Use) -> str:
    """Any rank: over the last axis."""
    config = use.config
    units = option(use, config, "output_dim" if use.version.major < 2 and "output_dim" in config else "units")
    use_bias = flag(use, config, "bias") if "bias" in config else _bias(use)
    kernel = _kernel(use, 1 + use_bias)
    check_shape(kernel, (*kernel.shape[:1], units), "kernel", use.where)
    sizes_ = {"input_size": kernel.shape[0], "output_size": units, "bias": use_bias}
    node = use.graph.node(use.name, "Linear", use.floats, **sizes_)
    arrays = {"weight": kernel.T}
    if use_bias:
        check_shape(use.layer.own[1], (units,), "bias", use.where)
        arrays["bias"] = use.layer.own[1]
    use.graph.weights(node, arrays)
    default = ... if use.version.major >= 2 else "linear"
    return apply_activation(use, node, option(use, config, "activation", default))


def _bias(use: Use) -> bool:
    if "use_bias" not in use.config and use.version.major >= 2:
        raise FormatError(f"{use.where}: config has no 'use_bias'")
    return flag(use, use.config, "use_bias", True)


def _kernel(use: Use, count: int, rank: int = 2) -> np.ndarray:
    """The first of a layer's ``count`` arrays."""
    names = ("kernel", "bias")[:count]
    if len(use.layer.own) != count:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected {count} ({', '.join(names)})")
    if use.layer.own[0].ndim != rank:
        words = {2: "two", 3: "three", 4: "four"}[rank]
        raise WeightError(f"{use.where}: kernel: shape {use.layer.own[0].shape}, expected {words} dimensions")
    return use.layer.own[0]


@layer("Embedding", options="input_dim output_dim mask_zero", mask="own", dropout=0.0, weights=None)
def embedding(use: Use) -> Tensor:
    graph, config = use.graph, use.config
    rows, size = option(use, config, "input_dim"), option(use, config, "output_dim")
    if len(use.layer.own) != 1:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected 1 (embeddings)")
    check_shape(use.layer.own[0], (rows, size), "embeddings", use.where)
    ids = graph.cast(f"{use.name}.ids", use.x, "int64")
    mask = None
    if flag(use, config, "mask_zero"):
        mask = graph.node(f"{use.name}.mask", "Not", graph.scalar(f"{use.name}.padding", "Equal", use.x, 0))
    node = graph.node(use.name, "Embedding", ids, input_size=rows, output_size=size)
    graph.weights(node, {"weight": use.layer.own[0]})
    return Tensor(node, mask)


@layer("Masking", options="mask_value", mask="own")
def masking(use: Use) -> Tensor:
    """A step is masked if all its features equal mask_value; those are zeroed."""
    graph, name, x = use.graph, use.name, use.floats
    equal = graph.scalar(f"{name}.equal", "Equal", x, float(number(use, "mask_value", 0.0)))
    last = graph.rank(x) - 1
    whole = graph.cast(f"{name}.as_numbers", equal, "float")
    masked = graph.cast(f"{name}.masked", graph.reduce(f"{name}.all", "ReduceMin", whole, (last,), True), "bool")
    mask = graph.squeeze(f"{name}.mask", graph.node(f"{name}.kept", "Not", masked), last)
    return Tensor(graph.node(name, "Where", (masked, graph.number(f"{name}.zero", 0.0), x)), mask)


# --- activations ---------------------------------------------------------------------------------------------------


@layer("Activation", options="activation")
def activation_layer(use: Use) -> str:
    found = apply_activation(use, use.floats, option(use, use.config, "activation"), use.name)
    if found == use.inputs[0].name:
        use.note(f"{use.layer.name} (Activation): left out, it is linear")
    return found


@layer("ReLU", options="max_value negative_slope threshold")
def relu(use: Use) -> str:
    """max(x, 0); slope (x - threshold) below the threshold, 0 from 0 to it, at most max_value."""
    graph, x, name = use.graph, use.floats, use.name
    slope, threshold = _or_zero(use, "negative_slope"), _or_zero(use, "threshold")
    most = use.config.get("max_value")
    top = None if most is None else number(use, "max_value")
    plain = slope == 0 and threshold == 0
    if plain and top is None:
        return graph.node(name, "Relu", x)
    if plain:
        return graph.node(name, "Clip", x, min=0.0, max=float(top))
    kept = x if top is None else graph.node(f"{name}.top", "Clip", x, max=float(top))
    above = graph.node(f"{name}.above", "Not", graph.scalar(f"{name}.below", "Less", x, float(threshold)))
    low = graph.scalar(f"{name}.low", "Mul", graph.scalar(f"{name}.shifted", "Sub", x, float(threshold)), float(slope))
    return graph.node(name, "Where", (above, kept, low))


def _or_zero(use: Use, key: str) -> float:
    return 0.0 if use.config.get(key) is None else number(use, key)


@layer("LeakyReLU", options="negative_slope alpha")
def leaky_relu(use: Use) -> str:
    key = "negative_slope" if "negative_slope" in use.config else "alpha"
    return use.graph.node(use.name, "LeakyRelu", use.floats, alpha=float(number(use, key, 0.3)))


@layer("ELU", options="alpha")
def elu(use: Use) -> str:
    return use.graph.node(use.name, "Elu", use.floats, alpha=float(number(use, "alpha", 1.0)))


@layer("ThresholdedReLU", options="theta")
def thresholded_relu(use: Use) -> str:
    return use.graph.node(use.name, "ThresholdedRelu", use.floats, alpha=float(number(use, "theta", 1.0)))


@layer("PReLU", options="shared_axes")
def prelu(use: Use) -> str:
    """x where it is positive, alpha x elsewhere; alpha has the input's shape without the batch, shared axes 1."""
    graph, x = use.graph, use.floats
    if len(use.layer.own) != 1 or use.layer.own[0].ndim != graph.rank(x) - 1:
        raise WeightError(f"{use.where}: expected one array (alpha) of {graph.rank(x) - 1} dimensions")
    slope = use.layer.own[0]
    for axis, size in enumerate(slope.shape, start=1):
        if size != 1:
            graph.size(x, axis, use.where)
    return graph.node(use.name, "PRelu", (x, graph.constant(f"{use.name}.alpha", slope)))


@layer("Softmax", options="axis")
def softmax(use: Use) -> str:
    if use.masked(use.inputs[0]).mask is not None:
        raise UnsupportedError(f"{use.where}: under a mask, which Keras fits to the features: expected an Activation")
    axis = use.config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise UnsupportedError(f"{use.where}: axis={axis!r}, expected an integer")
    use.graph.axis(use.x, axis, use.where)
    return use.graph.node(use.name, "Softmax", use.floats, axis=axis)


# --- normalisation -------------------------------------------------------------------------------------------------


def _only_axis(use: Use, x: str, default: int = -1) -> int:
    """The one axis of a normalisation."""
    axis = use.config.get("axis", default)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    return use.graph.axis(x, axis, use.where)


def _along(use: Use, x: str, axis: int, array: np.ndarray, name: str) -> str:
    """A constant of one number for each index of an axis, shaped to broadcast against x."""
    size = use.graph.size(x, axis, use.where)
    check_shape(array, (size,), name, use.where)
    shape = [1] * (use.graph.rank(x) - axis)
    shape[0] = size
    return use.graph.constant(f"{use.name}.{name}", array.reshape(shape))


@layer(
    "BatchNormalization",
    options="axis epsilon center scale momentum renorm_momentum renorm_clipping synchronized fused virtual_batch_size",
    renorm=False,
    mode=0,
    adjustment=None,
)
def batch_normalization(use: Use) -> str:
    """(x - mean) gamma / sqrt(variance + epsilon) + beta, with the moments of training: one factor and one offset."""
    graph, x = use.graph, use.floats
    axis, arrays = _only_axis(use, x), list(use.layer.own)
    scale, center = flag(use, use.config, "scale", True), flag(use, use.config, "center", True)
    size = graph.size(x, axis, use.where)
    for array in arrays:
        check_shape(array, (size,), "an array", use.where)
    mean, variance = (np.asarray(array, np.float64) for array in arrays[-2:])
    gamma = np.asarray(arrays[0], np.float64) if scale else np.ones(size)
    beta = np.asarray(arrays[int(scale)], np.float64) if center else np.zeros(size)
    factor = gamma / np.sqrt(variance + number(use, "epsilon", 1e-3))
    offset = beta - mean * factor
    dtype = arrays[-1].dtype
    scaled = graph.node(f"{use.name}.scaled", "Mul", (x, _along(use, x, axis, factor.astype(dtype), "factor")))
    return graph.node(use.name, "Add", (scaled, _along(use, x, axis, offset.astype(dtype), "offset")))


def _last_axes(use: Use, x: str) -> int:
    """The first of the axes that a normalisation takes together, which have to be the last ones."""
    axes = use.config.get("axis", -1)
    axes = sorted(use.graph.axis(x, axis, use.where) for axis in (axes if isinstance(axes, list) else [axes]))
    rank = use.graph.rank(x)
    if not axes or axes != list(range(axes[0], rank)) or axes[0] == 0:
        raise UnsupportedError(f"{use.where}: axis={axes}, expected the last axes")
    return axes[0]


@layer("LayerNormalization", options="axis epsilon center scale rms_scaling")
def layer_normalization(use: Use) -> str:
    graph, x = use.graph, use.floats
    first = _last_axes(use, x)
    shape = tuple(graph.size(x, axis, use.where) for axis in range(first, graph.rank(x)))
    arrays = [array.reshape(shape) if array.size == math.prod(shape) else array for array in use.layer.own]
    for array in arrays:
        check_shape(array, shape, "an array", use.where)
    if flag(use, use.config, "rms_scaling"):
        # Keras divides by the root of the variance here, not of the mean square.
        raise UnsupportedError(f"{use.where}: rms_scaling=True, expected an RMSNormalization")
    scale, center = flag(use, use.config, "scale", True), flag(use, use.config, "center", True)
    gamma = graph.constant(f"{use.name}.gamma", arrays[0] if scale else _filled(use, shape, 1))
    inputs = [x, gamma]
    if center:
        inputs.append(graph.constant(f"{use.name}.beta", arrays[int(scale)]))
    return graph.node(use.name, "LayerNormalization", inputs, axis=first, epsilon=float(number(use, "epsilon", 1e-3)))


def _filled(use: Use, shape: tuple[int, ...], value: float) -> np.ndarray:
    dtype = use.layer.own[0].dtype if use.layer.own else use.config.get("dtype")
    return np.full(shape, value, "float64" if str(dtype) == "float64" else "float32")


@layer("RMSNormalization", options="axis epsilon")
def rms_normalization(use: Use) -> str:
    graph, x = use.graph, use.floats
    first = _last_axes(use, x)
    if len(use.layer.own) != 1:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected 1 (scale)")
    scale = graph.constant(f"{use.name}.scale", use.layer.own[0])
    epsilon = float(number(use, "epsilon", 1e-6))
    return graph.node(use.name, "RMSNormalization", (x, scale), axis=first, epsilon=epsilon)


@layer("GroupNormalization", options="groups axis epsilon center scale")
def group_normalization(use: Use) -> str:
    """Groups of channels, each normalised over all other axes but the batch."""
    graph, x = use.graph, use.floats
    axis, groups = _only_axis(use, x), option(use, use.config, "groups")
    size = graph.size(x, axis, use.where)
    groups = size if groups == -1 else groups
    if type(groups) is not int or not 1 <= groups <= size or size % groups:
        raise UnsupportedError(f"{use.where}: groups={shown(str(groups), 60)}, expected a divisor of {size}")
    scale, center = flag(use, use.config, "scale", True), flag(use, use.config, "center", True)
    for array in use.layer.own:
        check_shape(array, (size,), "an array", use.where)
    gamma = use.layer.own[0] if scale else _filled(use, (size,), 1)
    beta = use.layer.own[int(scale)] if center else _filled(use, (size,), 0)
    inputs = (
        _channels_first(use, x, axis),
        graph.constant(f"{use.name}.gamma", gamma),
        graph.constant(f"{use.name}.beta", beta),
    )
    epsilon = float(number(use, "epsilon", 1e-3))
    found = graph.node(f"{use.name}.groups", "GroupNormalization", inputs, num_groups=groups, epsilon=epsilon)
    return _channels_back(use, found, axis)


@layer("UnitNormalization", options="axis")
def unit_normalization(use: Use) -> str:
    x = use.floats
    return use.graph.node(use.name, "LpNormalization", x, axis=_only_axis(use, x), p=2)


@layer("Normalization", options="axis mean variance invert")
def normalization(use: Use) -> str:
    """(x - mean) / max(sqrt(variance), 1e-7); with invert mean + x max(sqrt(variance), 1e-7)."""
    graph, x = use.graph, use.floats
    axes = use.config.get("axis", -1)
    axes = [] if axes is None else axes if isinstance(axes, list) else [axes]
    axes = sorted(graph.axis(x, axis, use.where) for axis in axes)
    shape = [graph.size(x, axis, use.where) if axis in axes else 1 for axis in range(graph.rank(x))]
    if use.layer.own:
        mean, variance = use.layer.own[:2]
    else:
        mean, variance = (np.asarray(option(use, use.config, key), np.float32) for key in ("mean", "variance"))
    if mean.ndim < len(axes) and mean.ndim:
        raise UnsupportedError(f"{use.where}: a mean of {mean.ndim} dimensions for {len(axes)} axes")
    if mean.size not in (1, math.prod(shape)) or mean.shape != variance.shape:
        raise WeightError(f"{use.where}: mean {mean.shape} and variance {variance.shape}, expected {tuple(shape)}")
    shape = shape if mean.size > 1 else [1] * graph.rank(x)
    mean = graph.constant(f"{use.name}.mean", mean.reshape(shape))
    deviation = np.maximum(np.sqrt(variance), np.asarray(1e-7, variance.dtype)).reshape(shape)
    deviation = graph.constant(f"{use.name}.deviation", deviation)
    if flag(use, use.config, "invert"):
        return graph.node(use.name, "Add", (graph.node(f"{use.name}.scaled", "Mul", (x, deviation)), mean))
    return graph.node(use.name, "Div", (graph.node(f"{use.name}.centred", "Sub", (x, mean)), deviation))


@layer("Rescaling", options="scale offset")
def rescaling(use: Use) -> str:
    scaled = use.graph.scalar(f"{use.name}.scaled", "Mul", use.floats, float(number(use, "scale")))
    return use.graph.scalar(use.name, "Add", scaled, float(number(use, "offset", 0.0)))


# --- convolution and pooling ---------------------------------------------------------------------------------------


def _channels_axis(use: Use, x: str, dims: int) -> int:
    """Where the channels of an image or sequence stand."""
    if use.graph.rank(x) != dims + 2:
        raise UnsupportedError(f"{use.where}: input {use.graph.values[x]}, expected {dims + 2} dimensions")
    order = use.config.get("data_format", "channels_last")
    if order not in ("channels_last", "channels_first", None):
        raise UnsupportedError(f"{use.where}: data_format={shown(str(order), 40)!r}")
    return 1 if order == "channels_first" else dims + 1


def _channels_first(use: Use, x: str, axis: int) -> str:
    rank = use.graph.rank(x)
    perm = [0, axis, *(place for place in range(1, rank) if place != axis)]
    return use.graph.transpose(f"{use.name}.channels_first", x, perm)


def _channels_back(use: Use, x: str, axis: int) -> str:
    rank = use.graph.rank(x)
    perm = list(range(2, rank))
    perm = [0, *perm[: axis - 1], 1, *perm[axis - 1 :]]
    return use.graph.transpose(f"{use.name}.channels_back", x, perm)


CONVOLUTION = "filters kernel_size strides padding data_format dilation_rate groups activation use_bias"


@layer("Conv1D", "Convolution1D", options=CONVOLUTION, mask="drop")
def conv1d(use: Use) -> str:
    return _convolution(use, 1)


@layer("Conv2D", "Convolution2D", options=CONVOLUTION, mask="drop")
def conv2d(use: Use) -> str:
    return _convolution(use, 2)


def _window(use: Use, x: str, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> dict:
    """pads or auto_pad for Keras's padding: "valid", "same" (more at the end), "causal" (all before)."""
    padding, dims = use.config.get("padding", "valid"), len(kernel)
    if padding == "same":
        return {"auto_pad": "SAME_UPPER"}
    if padding == "causal" and dims == 1:
        return {"pads": (dilations[0] * (kernel[0] - 1), 0)}
    if padding != "valid":
        raise UnsupportedError(f"{use.where}: padding={shown(str(padding), 40)!r}, expected valid, same or causal")
    return {"pads": (0,) * (2 * dims)}


def _convolution(use: Use, dims: int) -> str:
    graph, x, config = use.graph, use.floats, use.config
    axis = _channels_axis(use, x, dims)
    bias = flag(use, config, "use_bias", True)
    kernel = _kernel(use, 1 + bias, dims + 2)
    filters, groups = option(use, config, "filters"), option(use, config, "groups", 1)
    shape = sizes(use, "kernel_size", dims)
    channels = graph.size(x, axis, use.where)
    if type(groups) is not int or groups < 1 or channels % groups:
        raise UnsupportedError(f"{use.where}: groups={shown(str(groups), 40)}, expected a divisor of {channels}")
    check_shape(kernel, (*shape, channels // groups, filters), "kernel", use.where)
    weight = kernel.transpose(dims + 1, dims, *range(dims))
    found = _conv_node(use, f"{use.name}", _channels_first(use, x, axis), weight, groups, bias)
    return apply_activation(use, _channels_back(use, found, axis), config.get("activation"))


def _conv_node(use: Use, name: str, x: str, weight: np.ndarray, groups: int, bias: bool, plain: bool = False) -> str:
    """A Conv on channels-first values with ONNX's weight; ``plain``: a window of 1."""
    graph, dims = use.graph, weight.ndim - 2
    strides = (1,) * dims if plain else sizes(use, "strides", dims, 1)
    dilations = (1,) * dims if plain else sizes(use, "dilation_rate", dims, 1)
    window = {} if plain else _window(use, x, weight.shape[2:], strides, dilations)
    node = graph.node(
        name,
        "Conv",
        x,
        input_size=weight.shape[1] * groups,
        output_size=weight.shape[0],
        kernel_shape=weight.shape[2:],
        strides=strides,
        dilations=dilations,
        group=groups,
        bias=bias,
        **window,
    )
    arrays = {"weight": weight}
    if bias:
        check_shape(use.layer.own[-1], (weight.shape[0],), "bias", use.where)
        arrays["bias"] = use.layer.own[-1]
    graph.weights(node, arrays)
    return node


def _depthwise_weight(use: Use, kernel: np.ndarray, dims: int, channels: int) -> np.ndarray:
    """(k..., C, M) as ONNX's (C*M, 1, k...)."""
    multiplier = option(use, use.config, "depth_multiplier", 1)
    check_shape(kernel, (*sizes(use, "kernel_size", dims), channels, multiplier), "depthwise_kernel", use.where)
    return kernel.transpose(dims, dims + 1, *range(dims)).reshape(channels * multiplier, 1, *kernel.shape[:dims])


DEPTHWISE = "kernel_size strides padding data_format dilation_rate depth_multiplier activation use_bias"


@layer("DepthwiseConv1D", options=DEPTHWISE, mask="drop", groups=1)
def depthwise1d(use: Use) -> str:
    return _depthwise(use, 1)


@layer("DepthwiseConv2D", options=DEPTHWISE, mask="drop", groups=1)
def depthwise2d(use: Use) -> str:
    return _depthwise(use, 2)


def _depthwise(use: Use, dims: int) -> str:
    x = use.floats
    axis = _channels_axis(use, x, dims)
    bias = flag(use, use.config, "use_bias", True)
    channels = use.graph.size(x, axis, use.where)
    weight = _depthwise_weight(use, _kernel(use, 1 + bias, dims + 2), dims, channels)
    found = _conv_node(use, use.name, _channels_first(use, x, axis), weight, channels, bias)
    return apply_activation(use, _channels_back(use, found, axis), use.config.get("activation"))


@layer("SeparableConv1D", options=f"filters {DEPTHWISE}", mask="drop", groups=1)
def separable1d(use: Use) -> str:
    return _separable(use, 1)


@layer("SeparableConv2D", options=f"filters {DEPTHWISE}", mask="drop", groups=1)
def separable2d(use: Use) -> str:
    return _separable(use, 2)


def _separable(use: Use, dims: int) -> str:
    x = use.floats
    axis = _channels_axis(use, x, dims)
    bias = flag(use, use.config, "use_bias", True)
    if len(use.layer.own) != 2 + bias:
        raise WeightError(f"{use.where}: {len(use.layer.own)} arrays, expected {2 + bias}")
    channels = use.graph.size(x, axis, use.where)
    depthwise = _depthwise_weight(use, use.layer.own[0], dims, channels)
    pointwise, filters = use.layer.own[1], option(use, use.config, "filters")
    check_shape(pointwise, (*(1,) * dims, len(depthwise), filters), "pointwise_kernel", use.where)
    found = _conv_node(use, f"{use.name}.depthwise", _channels_first(use, x, axis), depthwise, channels, False)
    weight = pointwise.transpose(dims + 1, dims, *range(dims))
    found = _conv_node(use, use.name, found, weight, 1, bias, plain=True)
    return apply_activation(use, _channels_back(use, found, axis), use.config.get("activation"))


@layer(
    "Conv1DTranspose",
    options="filters kernel_size strides padding data_format dilation_rate activation use_bias",
    mask="drop",
    output_padding=None,
    groups=1,
)
def conv1d_transpose(use: Use) -> str:
    """valid: T*s + max(k - s, 0) steps; same: T*s."""
    graph, x, config = use.graph, use.floats, use.config
    axis = _channels_axis(use, x, 1)
    bias = flag(use, config, "use_bias", True)
    kernel = _kernel(use, 1 + bias, 3)
    channels, filters = graph.size(x, axis, use.where), option(use, config, "filters")
    (width,), (stride,) = sizes(use, "kernel_size", 1), sizes(use, "strides", 1, 1)
    (dilation,) = sizes(use, "dilation_rate", 1, 1)
    check_shape(kernel, (width, filters, channels), "kernel", use.where)
    span, padding = (width - 1) * dilation + 1, config.get("padding", "valid")
    if padding not in ("valid", "same"):
        raise UnsupportedError(f"{use.where}: padding={shown(str(padding), 40)!r}, expected valid or same")
    cut = max(span - stride, 0) if padding == "same" else 0
    node = graph.node(
        use.name,
        "ConvTranspose",
        _channels_first(use, x, axis),
        input_size=channels,
        output_size=filters,
        kernel_shape=(width,),
        strides=(stride,),
        dilations=(dilation,),
        pads=(cut // 2, cut - cut // 2),
        output_padding=(max(stride - span, 0),),
        bias=bias,
    )
    arrays = {"weight": kernel.transpose(2, 1, 0)}
    if bias:
        check_shape(use.layer.own[1], (filters,), "bias", use.where)
        arrays["bias"] = use.layer.own[1]
    graph.weights(node, arrays)
    return apply_activation(use, _channels_back(use, node, axis), config.get("activation"))


POOLING = "pool_size strides padding data_format"


@layer("MaxPooling1D", "AveragePooling1D", options=POOLING, mask="drop")
def pooling1d(use: Use) -> str:
    return _pooling(use, 1)


@layer("MaxPooling2D", "AveragePooling2D", options=POOLING, mask="drop")
def pooling2d(use: Use) -> str:
    return _pooling(use, 2)


def _pooling(use: Use, dims: int) -> str:
    graph, x = use.graph, use.floats
    axis = _channels_axis(use, x, dims)
    window = sizes(use, "pool_size", dims, 2)
    strides = window if use.config.get("strides") is None else sizes(use, "strides", dims)
    pads = _window(use, x, window, strides, (1,) * dims)
    op = "MaxPool" if use.layer.class_name.startswith("Max") else "AveragePool"
    found = graph.node(use.name, op, _channels_first(use, x, axis), kernel_shape=window, strides=strides, **pads)
    return _channels_back(use, found, axis)


@layer(
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalAveragePooling2D", options="data_format keepdims", mask="drop"
)
def global_pooling(use: Use) -> str:
    x, dims = use.floats, int(use.layer.class_name[-2])
    axis = _channels_axis(use, x, dims)
    op = "ReduceMax" if "Max" in use.layer.class_name else "ReduceMean"
    axes = [place for place in range(1, dims + 2) if place != axis]
    return use.graph.reduce(use.name, op, x, axes, flag(use, use.config, "keepdims"))


@layer("GlobalAveragePooling1D", options="data_format keepdims", mask="drop")
def global_average(use: Use) -> str:
    """The mean over time, of the steps that count under a mask."""
    graph, x, name = use.graph, use.floats, use.name
    keep = flag(use, use.config, "keepdims")
    axis = _channels_axis(use, x, 1)
    steps = 3 - axis
    mask = use.masked(use.inputs[0]).mask
    if mask is None:
        return graph.reduce(name, "ReduceMean", x, (steps,), keep)
    valid = graph.unsqueeze(f"{name}.valid", mask, axis)
    kept = graph.node(f"{name}.kept", "Where", (valid, x, graph.number(f"{name}.zero", 0.0)))
    total = graph.reduce(f"{name}.sum", "ReduceSum", kept, (steps,), keep)
    count = graph.reduce(f"{name}.count", "ReduceSum", graph.cast(f"{name}.ones", valid, "float"), (steps,), keep)
    return graph.node(name, "Div", (total, count))


# --- shapes --------------------------------------------------------------------------------------------------------


@layer("Flatten", options="data_format", mask="drop")
def flatten(use: Use) -> str:
    graph, x = use.graph, use.x
    rank = graph.rank(x)
    if use.config.get("data_format") == "channels_first" and rank > 2:
        x = graph.transpose(f"{use.name}.channels_last", x, (0, *range(2, rank), 1))
    if rank == 1:
        return graph.unsqueeze(use.name, x, 1)
    size = math.prod(graph.size(x, axis, use.where) for axis in range(1, rank))
    return graph.reshape(use.name, x, (-1, size))


@layer("Reshape", options="target_shape", mask="drop")
def reshape(use: Use) -> str:
    target = option(use, use.config, "target_shape")
    plain = isinstance(target, (list, tuple)) and all(type(size) is int and (size == -1 or size > 0) for size in target)
    if not plain or list(target).count(-1) > 1:
        raise UnsupportedError(f"{use.where}: target_shape={shown(str(target), 80)}, expected sizes and at most one -1")
    if -1 not in target:
        for axis in range(1, use.graph.rank(use.x)):
            use.graph.size(use.x, axis, use.where)
    return use.graph.reshape(use.name, use.x, (0, *target))


@layer("Permute", options="dims", mask="drop")
def permute(use: Use) -> str:
    dims = option(use, use.config, "dims")
    expected = list(range(1, use.graph.rank(use.x)))
    if not isinstance(dims, (list, tuple)) or sorted(map(str, dims)) != sorted(map(str, expected)):
        raise UnsupportedError(f"{use.where}: dims={shown(str(dims), 80)}, expected an order of {expected}")
    return use.graph.transpose(use.name, use.x, (0, *dims))


@layer("RepeatVector", options="n", mask="drop")
def repeat_vector(use: Use) -> str:
    if use.graph.rank(use.x) != 2:
        raise UnsupportedError(f"{use.where}: input {use.graph.values[use.x]}, expected two dimensions")
    (count,) = sizes(use, "n", 1)
    one = use.graph.unsqueeze(f"{use.name}.step", use.x, 1)
    return use.graph.node(use.name, "Expand", one, shape=(1, count, 1))


@layer("Cropping1D", options="cropping", mask="drop")
def cropping(use: Use) -> str:
    before, after = sizes(use, "cropping", 2, least=0)
    return use.graph.slice(use.name, use.x, 1, before, -after if after else FARTHEST)


@layer("ZeroPadding1D", options="padding", mask="drop", data_format="channels_last")
def zero_padding(use: Use) -> str:
    before, after = sizes(use, "padding", 2, least=0)
    return use.graph.node(use.name, "Pad", use.floats, pads=(0, before, 0, 0, after, 0))


@layer("UpSampling1D", options="size", mask="drop")
def up_sampling(use: Use) -> str:
    graph, x = use.graph, use.x
    (size,) = sizes(use, "size", 1)
    channels = graph.size(x, 2, use.where)
    repeated = graph.node(
        f"{use.name}.repeated", "Expand", graph.unsqueeze(f"{use.name}.step", x, 2), shape=(1, 1, size, 1)
    )
    return graph.reshape(use.name, repeated, (0, -1, channels))


# --- merging -------------------------------------------------------------------------------------------------------


def _merged_mask(use: Use, masks: Sequence[str | None], op: str) -> str | None:
    """The masks joined two by two."""
    found: str | None = None
    for place, mask in enumerate(mask for mask in masks if mask is not None):
        found = mask if found is None else use.graph.node(f"{use.name}.mask.{place}", op, (found, mask))
    return found


def _aligned(use: Use) -> list[str]:
    """The inputs as floats of one rank: Keras puts axes of size 1 behind the batch of those of a lower one."""
    graph, found = use.graph, []
    rank = max(graph.rank(one.name) for one in use.inputs)
    for place, one in enumerate(use.inputs):
        x = graph.floating(one.name)
        while graph.rank(x) < rank:
            x = graph.unsqueeze(f"{use.name}.{place}.{graph.rank(x)}", x, 1)
        found.append(x)
    return found


MERGE_OPS = {"Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Average": "Add", "Maximum": "Max", "Minimum": "Min"}


@layer(*MERGE_OPS, mask="own")
def merge(use: Use) -> Tensor:
    """Element by element. Keras 3 has a mask where all inputs have one: their union; before it, the intersection."""
    graph, inputs, kind = use.graph, _aligned(use), use.layer.class_name
    if (len(inputs) < 2 and kind == "Subtract") or not inputs:
        raise UnsupportedError(f"{use.where}: {len(inputs)} inputs, expected two")
    masks = [one.mask for one in use.inputs]
    if use.version.major >= 3:
        mask = None if None in masks else _merged_mask(use, masks, "Or")
    else:
        mask = _merged_mask(use, masks, "And")
    found = inputs[0]
    for place, other in enumerate(inputs[1:], start=1):
        last = place == len(inputs) - 1 and kind != "Average"
        found = graph.node(use.name if last else f"{use.name}.{place}", MERGE_OPS[kind], (found, other))
    if kind == "Average":
        found = graph.scalar(use.name, "Mul", found, 1.0 / len(inputs))
    return Tensor(found, mask)


@layer("Concatenate", options="axis", mask="own")
def concatenate(use: Use) -> Tensor:
    graph = use.graph
    names = [graph.floating(one.name) for one in use.inputs]
    axis = graph.axis(names[0], use.config.get("axis", -1), use.where)
    if axis == 0:
        raise UnsupportedError(f"{use.where}: axis=0, the batch, expected another one")
    found = graph.node(use.name, "Concat", names, axis=axis) if len(names) > 1 else names[0]
    masks = [one.mask for one in use.inputs]
    if all(mask is None for mask in masks):
        return Tensor(found)
    rank = graph.rank(names[0])
    if axis == rank - 1 and rank > 2:
        if use.version.major < 3:
            return Tensor(found, _merged_mask(use, masks, "And"))
        return Tensor(found, None if None in masks else _merged_mask(use, masks, "Or"))
    if axis != 1 or rank != 3 or (use.version.major < 3 and None in masks):
        raise UnsupportedError(f"{use.where}: axis={axis} under a mask, expected time or features of (B, T, F)")
    masks = [mask or _all_valid(use, x, place) for place, (x, mask) in enumerate(zip(names, masks, strict=True))]
    return Tensor(found, graph.node(f"{use.name}.mask", "Concat", masks, axis=1))


def _all_valid(use: Use, x: str, place: int) -> str:
    """A mask of x (B, T, F) in which every step counts."""
    graph, name = use.graph, f"{use.name}.valid.{place}"
    feature = graph.take(f"{name}.feature", x, 2, 0)
    equal = graph.node(f"{name}.equal", "Equal", (feature, feature))
    return graph.node(name, "Or", (equal, graph.node(f"{name}.unequal", "Not", equal)))


@layer("Dot", options="axes normalize", mask="drop")
def dot(use: Use) -> str:
    """The product over one axis of each of two inputs of two or three dimensions, row by row of the batch."""
    graph = use.graph
    if len(use.inputs) != 2:
        raise UnsupportedError(f"{use.where}: {len(use.inputs)} inputs, expected two")
    x, y = (graph.floating(one.name) for one in use.inputs)
    ranks = graph.rank(x), graph.rank(y)
    if not set(ranks) <= {2, 3}:
        raise UnsupportedError(f"{use.where}: inputs of {ranks[0]} and {ranks[1]} dimensions, expected two or three")
    axes = option(use, use.config, "axes")
    axes = axes if isinstance(axes, (list, tuple)) and len(axes) == 2 else [axes, axes]
    axes = [graph.axis(name, axis, use.where) for name, axis in zip((x, y), axes, strict=True)]
    if 0 in axes:
        raise UnsupportedError(f"{use.where}: axes={axes}, expected none of the batch")
    if flag(use, use.config, "normalize"):
        x, y = (
            graph.node(f"{use.name}.unit.{place}", "LpNormalization", name, axis=axis, p=2)
            for place, (name, axis) in enumerate(zip((x, y), axes, strict=True))
        )
    x = (
        graph.unsqueeze(f"{use.name}.row", x, 1)
        if ranks[0] == 2
        else (x if axes[0] == 2 else graph.transpose(f"{use.name}.left", x, (0, 2, 1)))
    )
    y = (
        graph.unsqueeze(f"{use.name}.column", y, 2)
        if ranks[1] == 2
        else (y if axes[1] == 1 else graph.transpose(f"{use.name}.right", y, (0, 2, 1)))
    )
    found = graph.node(f"{use.name}.product", "MatMul", (x, y))
    if ranks == (2, 2):
        return graph.squeeze(use.name, found, 1)
    if ranks == (3, 3):
        return found
    return graph.squeeze(use.name, found, 1 if ranks[0] == 2 else 2)


# --- attention -----------------------------------------------------------------------------------------------------


def _attention_inputs(use: Use) -> tuple[list[str], list[str | None]]:
    """query, value and key, and their masks."""
    if not 2 <= len(use.inputs) <= 3:
        raise UnsupportedError(f"{use.where}: {len(use.inputs)} inputs, expected query and value, or these and key")
    masks = [one.mask for one in use.inputs]
    given = use.kwargs.get("mask")
    if given is not None:
        if not isinstance(given, list):
            raise UnsupportedError(f"{use.where}: mask={shown(str(given), 60)}, expected a list")
        masks = [mask.name if isinstance(mask, Tensor) else None for mask in given]
    return [use.graph.floating(one.name) for one in use.inputs], masks


def _keras_attention(use: Use, op: str, weights: dict[str, np.ndarray], **attributes: Any) -> list[Tensor]:
    graph = use.graph
    names, masks = _attention_inputs(use)
    causal = use.keyword("use_causal_mask", False) or flag(use, use.config, "causal")
    inputs = [*names, *[""] * (3 - len(names)), masks[0] or "", (masks[1] if len(masks) > 1 else None) or ""]
    while inputs[-1] == "":
        inputs.pop()
    node = graph.node(use.name, op, inputs, causal=bool(causal), **attributes)
    graph.weights(node, weights)
    found = [Tensor(node, masks[0])]
    return found + ([Tensor(f"{node}.weights")] if use.keyword("return_attention_scores", False) else [])


@layer("Attention", options="use_scale score_mode causal", mask="own")
def attention(use: Use) -> list[Tensor]:
    scaled, mode = flag(use, use.config, "use_scale"), use.config.get("score_mode", "dot")
    if mode not in ("dot", "concat"):
        raise UnsupportedError(f"{use.where}: score_mode={shown(str(mode), 40)!r}, expected 'dot' or 'concat'")
    names = [*["scale"][:scaled], *["concat_score_weight"][: mode == "concat"]]
    weights = {name: array.reshape(1) for name, array in zip(names, use.layer.own, strict=True)}
    return _keras_attention(use, "KerasAttention", weights, use_scale=scaled, score_mode=mode)


@layer("AdditiveAttention", options="use_scale causal", mask="own", score_mode="dot")
def additive_attention(use: Use) -> list[Tensor]:
    scaled = flag(use, use.config, "use_scale", True)
    size = use.graph.size(use.inputs[-1].name, 2, use.where)
    weights = {"scale": use.layer.own[0]} if scaled else {}
    return _keras_attention(use, "KerasAdditiveAttention", weights, use_scale=scaled, size=size)


@layer(
    "MultiHeadAttention",
    options="num_heads key_dim value_dim use_bias output_shape attention_axes query_shape key_shape value_shape",
    mask="own",
    use_gate=False,
    sliding_window=None,
    flash_attention=None,
    softmax_robust_masking=False,
)
def multi_head_attention(use: Use) -> list[Tensor]:
    """The query is the first argument; value and key may come by name."""
    graph, config = use.graph, use.config
    query, value, key = _query_value_key(use)
    masks = {name: use.kwargs.get(f"{name}_mask") for name in ("query", "value", "key", "attention")}
    tensors_ = {"query": query, "value": value, "key": key}
    for name, tensor in tensors_.items():
        if masks[name] is None and tensor is not None and tensor.mask is not None:
            masks[name] = Tensor(tensor.mask)
    _check_multi_head(use, query)
    heads, dim = option(use, config, "num_heads"), option(use, config, "key_dim")
    bias = flag(use, config, "use_bias", True)
    attributes, weights = _multi_head_weights(use, heads, dim, bias)
    names = [graph.floating(query.name), graph.floating(value.name), graph.floating(key.name) if key else ""]
    names += [masks[name].name if masks[name] is not None else "" for name in ("query", "value", "key", "attention")]
    while names[-1] == "":
        names.pop()
    scores = bool(use.keyword("return_attention_scores", False))
    empty = "zero" if scores or config.get("dropout") or use.version.major < 3 else "uniform"
    causal = bool(use.keyword("use_causal_mask", False))
    node = graph.node(use.name, "MultiHeadAttention", names, causal=causal, empty_rows=empty, **attributes)
    graph.weights(node, weights)
    return [Tensor(node, query.mask)] + ([Tensor(f"{node}.weights")] if scores else [])


def _query_value_key(use: Use) -> tuple[Tensor, Tensor, Tensor | None]:
    flat = list(use.args)
    if len(flat) == 1 and isinstance(flat[0], list):
        flat = flat[0]
    names = dict(zip(("query", "value", "key"), flat, strict=False)) | {
        key: use.kwargs[key] for key in ("query", "value", "key") if use.kwargs.get(key) is not None
    }
    for key in ("query", "value"):
        if not isinstance(names.get(key), Tensor):
            raise UnsupportedError(f"{use.where}: no {key}, expected query and value")
    return names["query"], names["value"], names.get("key")


def _check_multi_head(use: Use, query: Tensor) -> None:
    axes = use.config.get("attention_axes")
    if axes not in (None, [1], (1,), 1) or use.graph.rank(query.name) != 3:
        raise UnsupportedError(f"{use.where}: attention_axes={shown(str(axes), 40)}, expected time of (B, T, F)")
    shape = use.config.get("output_shape")
    if not (shape is None or type(shape) is int or (isinstance(shape, list) and len(shape) == 1)):
        raise UnsupportedError(f"{use.where}: output_shape={shown(str(shape), 40)}, expected one size")


def _multi_head_weights(use: Use, heads: int, dim: int, bias: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Attributes and weights: kernels (F, N, D) as (N*D, F), that of the output (N, D, F) as (F, N*D)."""
    own, step = use.layer.own, 1 + bias
    kernels = dict(zip(("query", "key", "value", "output"), own[::step], strict=True))
    if any(kernel.ndim != 3 for kernel in kernels.values()):
        raise WeightError(f"{use.where}: kernels of {[kernel.shape for kernel in kernels.values()]}, expected three")
    value_dim = kernels["value"].shape[2]
    for name, kernel in kernels.items():
        inner = (heads, dim if name in ("query", "key") else value_dim)
        found = kernel.shape[:2] if name == "output" else kernel.shape[1:]
        if found != inner:
            raise WeightError(f"{use.where}: {name}: shape {kernel.shape}, expected heads and size {inner}")
    attributes = {
        "query_size": kernels["query"].shape[0],
        "key_size": kernels["key"].shape[0],
        "value_size": kernels["value"].shape[0],
        "output_size": kernels["output"].shape[2],
        "num_heads": heads,
        "key_dim": dim,
        "value_dim": value_dim,
        "bias": bias,
    }
    weights = {
        f"{name}.weight": (
            kernel.reshape(-1, kernel.shape[2]) if name == "output" else kernel.reshape(len(kernel), -1)
        ).T
        for name, kernel in kernels.items()
    }
    if bias:
        weights |= {f"{name}.bias": array.reshape(-1) for name, array in zip(kernels, own[1::2], strict=True)}
    return attributes, weights


ACCEPTED = tuple(LAYERS)
