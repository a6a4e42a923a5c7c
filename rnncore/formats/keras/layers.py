"""Keras layers lowered to a Spec and canonical arrays: what each class computes at inference. Keras is not needed.

Shared by what reads Keras files and by what takes a live model. A layer is one entry of LAYERS: the options that it
handles, what it does with the mask of its input, and a function from one call of it (Use) to tensors. Its family has
a file of its own: keras_recurrent.py, keras_dense.py, keras_convolution.py and so on.

Masks follow Keras: made by Embedding(mask_zero=True), "NAME.mask", and by Masking, and passed on by the layers that
do so in Keras; others destroy them. A layer after go_backwards=True with return_sequences=True gets the mask in time
order next to outputs in processing order, as Keras gives it.

A layer that is called twice becomes two nodes, NAME and NAME#2, each with the weights: a node's weights are its own.

Source: Keras 3.15 src/layers; tf-keras 2.21 src/layers; Keras 1.2.2 layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rnncore.errors import FormatError, SpecError, UnsupportedError
from rnncore.files.cursor import shown
from rnncore.formats.keras import convolution as keras_convolution
from rnncore.formats.keras import dense as keras_dense
from rnncore.formats.keras import merging as keras_merging
from rnncore.formats.keras import normalization as keras_normalization
from rnncore.formats.keras import shapes as keras_shapes
from rnncore.formats.keras.config import Call, Layer, Network, Ref, Version, layer_of, leaves, tensors
from rnncore.formats.keras.conv_lstm import CONV_LSTMS, both_ways, conv_lstm
from rnncore.formats.keras.graph import Graph, NeedsSize
from rnncore.formats.keras.merging import MERGE_OPS
from rnncore.formats.keras.operations import OPERATIONS
from rnncore.formats.keras.recurrent import RECURRENT, bidirectional, merge_mode, recurrent
from rnncore.formats.keras.use import (
    LAYERS,
    Kind,
    Tensor,
    Use,
    activation,
    check_options,
    check_policy,
    check_shape,
    layer,
)
from rnncore.formats.keras.variables import CELLS, bind_arrays
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.graph.weights import memory_of

__all__ = ["ACCEPTED", "KerasLayer", "Lowered", "activation", "lower", "lower_network", "settle_classes"]

FAMILIES = (keras_dense, keras_convolution, keras_normalization, keras_shapes, keras_merging)
"""The modules whose layers are in LAYERS once they are imported."""


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


def lower(layers: Iterable[KerasLayer], input_shape: Sequence[int | None], version: int = 3) -> Lowered:
    """The Spec of layers that follow one another, and their arrays in canonical order.

    input_shape is Keras's, with the batch first: (None, None, 40), or (None, None) for ids. Batch and time become
    "B" and "T" even where Keras fixed them, unless a layer needs the size.

    Raises UnsupportedError naming the layer and option, WeightError for arrays that do not fit their layer.
    """
    written = Version(version, 0 if version >= 3 else 4)
    by_name = {"": Layer("", "InputLayer", {"batch_input_shape": list(input_shape)})}
    before, calls = Ref("", 0, 0), []
    for one in layers:
        if one.class_name == "InputLayer":
            continue
        made = layer_of({"name": one.name, "class_name": one.class_name, "config": one.config}, one.name)
        if made.name in by_name:
            raise UnsupportedError(f"{made.where}: is twice in the model, expected each layer once")
        _check_class(made)
        bind_arrays(made, one.arrays, written)
        by_name[made.name] = made
        calls.append(Call(made.name, 0, (before,), {}))
        before = Ref(made.name, 0, 0)
    return lower_network(Network("model", True, by_name, calls, [Ref("", 0, 0)], [before]), written)


def lower_network(network: Network, version: Version) -> Lowered:
    """The Spec of a model, and canonical arrays; the layers have their own arrays already."""
    try:
        return _lowered(network, version, fixed_time=False)
    except NeedsSize:
        return _lowered(network, version, fixed_time=True)


def _lowered(network: Network, version: Version, fixed_time: bool) -> Lowered:
    layers = [part for one in network.layers.values() for part in one.tree()]
    owned = {memory_of(array): array.nbytes for one in layers for array in one.own}
    graph = Graph(sum(owned.values()))
    entries = _entries(network, graph, fixed_time)
    outputs = [tensor.name for tensor in _run(network, graph, version, entries, "")]
    if not graph.nodes:
        raise UnsupportedError("no layer does anything at inference, expected at least one")
    spec = graph.finish(outputs)
    _check_dtypes(graph.weights)
    return Lowered(spec, graph.weights, tuple(graph.notes))


def _entries(network: Network, graph: Graph, fixed_time: bool) -> list[Tensor]:
    """The inputs of the Spec: "x" or "tokens" for one, the names of the layers for several."""
    taken, readers = set(network.layers), _readers(network)
    entries = []
    for place, ref in enumerate(network.inputs):
        config = network.layers[ref.layer].config
        where = f"input {shown(ref.layer or network.name, 80)!r}"
        shape = config.get("batch_shape", config.get("batch_input_shape"))
        if config.get("sparse") or config.get("ragged"):
            raise UnsupportedError(f"{where}: sparse or ragged, expected dense")
        ids = _only_embedded(readers.get(ref, []))
        dtype = _input_dtype(config.get("dtype"), ids, where)
        name = ("tokens" if ids else "x") if len(network.inputs) == 1 else ref.layer
        if len(network.inputs) == 1 and name in taken - {ref.layer}:
            name = f"{name}_in"
        sequences = sum("T" in entry.shape for entry in graph.inputs)
        axes = _axes(shape, dtype, f"T_{place + 1}" if sequences else "T", fixed_time, where)
        entries.append(Tensor(graph.add_input(Input(graph.fresh(name), dtype, axes))))
    return entries


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


def _readers(network: Network) -> dict[Ref, list[Layer]]:
    """The layers that read each tensor."""
    readers: dict[Ref, list[Layer]] = {}
    for call in network.calls:
        for ref in tensors([call.args, dict(call.kwargs)]):
            readers.setdefault(ref, []).append(network.layers[call.layer])
    return readers


def _only_embedded(readers: Sequence[Layer]) -> bool:
    """Whether what these layers read holds ids: each is an Embedding, or asks where it is not 0."""
    readers = list({id(one): one for one in readers}.values())
    asking = [one.is_operation and one.class_name in ("NotEqual", "Equal") for one in readers]
    return not all(asking) and all(asks or _embeds(one) for asks, one in zip(asking, readers, strict=True))


def _embeds(one: Layer) -> bool:
    if one.class_name == "Embedding":
        return True
    if one.class_name == "TimeDistributed":
        return all(_embeds(part) for part in one.parts.values())
    if one.network is not None:
        inner = one.network
        return len(inner.inputs) == 1 and _only_embedded(_readers(inner).get(inner.inputs[0], []))
    return False


def _run(network: Network, graph: Graph, version: Version, entries: Sequence[Tensor], prefix: str) -> list[Tensor]:
    """All calls of a network in order; its outputs."""
    values: dict[tuple[str, int], list[Tensor]] = {}
    for ref, entry in zip(network.inputs, entries, strict=True):
        values[ref.layer, ref.node] = [entry]
    for call in network.calls:
        graph.calls.spend()
        made = _called(network.layers[call.layer], call, graph, version, prefix, values)
        values[call.layer, call.node] = made
    if network.sequential:
        return values[network.outputs[0].layer, network.outputs[0].node]
    return [_resolved(ref, values) for ref in network.outputs]


def _resolved(ref: Ref, values: Mapping[tuple[str, int], list[Tensor]]) -> Tensor:
    outputs = values.get((ref.layer, ref.node))
    if outputs is None or ref.tensor >= len(outputs):
        raise FormatError(f"layer {shown(ref.layer)!r}: output {ref.tensor} of call {ref.node} is read, there is none")
    return outputs[ref.tensor]


def _called(one: Layer, call: Call, graph: Graph, version: Version, prefix: str, values) -> list[Tensor]:
    """One call: what the layer gives."""

    def resolved(item: Any) -> Any:
        if isinstance(item, Ref):
            return _resolved(item, values)
        if isinstance(item, list):
            return [resolved(inner) for inner in item]
        return {key: resolved(inner) for key, inner in item.items()} if isinstance(item, dict) else item

    args, kwargs = _by_signature(
        one,
        [resolved(item) for item in call.args],
        {key: resolved(item) for key, item in call.kwargs.items()},
    )
    base = prefix + (one.name if call.node == 0 else f"{one.name}#{call.node + 1}")
    flat = [item for item in leaves(args[0]) if isinstance(item, Tensor)] if args else []
    return run_layer(Use(graph, one, version, base, flat, args, kwargs))


def _by_signature(one: Layer, args: list[Any], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a layer's call with the first by its place and the others by their names.

    Operations, whose arguments have an order of their own, keep theirs.
    """
    if one.is_operation:
        return tuple(args), kwargs
    names = SIGNATURES.get(one.class_name, ONLY_INPUTS)
    if len(args) > len(names):
        raise UnsupportedError(f"{one.where}: {len(args)} arguments, expected {', '.join(names)}")
    for name, item in zip(names[: len(args)], args, strict=True):
        if kwargs.get(name) is not None:
            raise FormatError(f"{one.where}: argument {name!r} twice")
        kwargs[name] = item
    first = next((name for name in (names[0], "inputs") if kwargs.get(name) is not None), None)
    return ((), kwargs) if first is None else ((kwargs.pop(first),), kwargs)


def run_layer(use: Use) -> list[Tensor]:
    """The results of one call of a layer, with masks."""
    one = use.layer
    _check_class(one)
    # what a config written by hand names is a layer: it differs from the operation of that name under a mask
    named = one.bare and one.class_name in ("Softmax", "Concatenate") and any(tensor.mask for tensor in use.inputs)
    if one.is_operation and not named:
        return OPERATIONS[one.class_name](use)
    check_policy(use, use.config)
    if not use.inputs:
        raise UnsupportedError(f"{use.where}: called without a tensor")
    if one.network is not None:
        return _nested(use)
    if one.meaning is not None:
        return _given(use, one.meaning)
    kind = LAYERS[one.class_name]
    _check_arguments(use, kind)
    if kind.options is not None:
        check_options(use, use.config, set(kind.options), kind.neutral)
    lowered = kind.lower(use)
    if isinstance(lowered, list):
        return lowered
    name, own = lowered if isinstance(lowered, Tensor) else (lowered, None)
    mask = {"pass": use.masked(use.inputs[0]).mask, "drop": None, "own": own}[kind.mask]
    return [Tensor(name, mask)]


# The names of a call's arguments in their order, where a layer takes more than one or calls it otherwise.
ONLY_INPUTS = ("inputs",)
SIGNATURES = {
    **dict.fromkeys((*RECURRENT, *CONV_LSTMS, "Bidirectional"), ("sequences", "initial_state", "mask", "training")),
    **dict.fromkeys(
        ("Attention", "AdditiveAttention"),
        ("inputs", "mask", "training", "return_attention_scores", "use_causal_mask"),
    ),
    **dict.fromkeys(("Softmax", "GlobalAveragePooling1D"), ("inputs", "mask")),
    **dict.fromkeys(
        ("Dense", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "AlphaDropout", "GaussianDropout",
         "GaussianNoise"),
        ("inputs", "training"),
    ),
    **dict.fromkeys(
        ("BatchNormalization", "TimeDistributed", "Functional", "Model", "Sequential"), ("inputs", "training", "mask")
    ),
    "RMSNormalization": ("x",),
    "MultiHeadAttention": (
        "query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask", "return_attention_scores",
        "training", "use_causal_mask",
    ),
}  # fmt: skip
ARGUMENTS = {
    "Attention": {"return_attention_scores", "use_causal_mask", "mask"},
    "AdditiveAttention": {"return_attention_scores", "use_causal_mask", "mask"},
    "MultiHeadAttention": {
        "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask", "return_attention_scores",
        "use_causal_mask", "mask",
    },
    "Bidirectional": {"initial_state", "mask"},
    **{kind: {"initial_state", "mask", "constants"} for kind in (*RECURRENT, *CONV_LSTMS)},
}  # fmt: skip


def _check_arguments(use: Use, kind: Kind) -> None:
    """Refuses what a call gives besides its inputs, unless the layer takes it."""
    accepted = {"mask"} | ARGUMENTS.get(use.layer.class_name, set())
    for key, value in use.kwargs.items():
        if key == "training" and value in (None, False):
            continue
        if value is not None and key not in accepted:
            raise UnsupportedError(f"{use.where}: argument {shown(key, 60)}={shown(str(value), 60)}, expected none")


def settle_classes(network: Network) -> None:
    """Every layer is of a class that is accepted, or UnsupportedError says which is not; before arrays are read.

    Layers of a config without modules, and without "trainable", are told from operations by what they are.
    """
    lists = {call.layer for call in network.calls if call.args and isinstance(call.args[0], list)}
    masked = {call.layer for call in network.calls if len(call.args) > 1 or "mask" in call.kwargs}
    by_hand = not any("trainable" in one.config for one in network.layers.values())
    for one in network.layers.values():
        if one.bare and one.is_operation and one.class_name in LAYERS:
            is_layer = one.name in (lists if one.class_name in MERGE_OPS else masked)
            one.is_operation = one.class_name in OPERATIONS and not is_layer
        one.bare = one.bare and by_hand
        _settle(one)


def _settle(one: Layer) -> None:
    if one.class_name not in CELL_CLASSES:
        _check_class(one)
    if one.network is not None:
        settle_classes(one.network)
    for part in one.parts.values():
        _settle(part)


CELL_CLASSES = (*(f"{kind}Cell" for kind in CELLS), "StackedRNNCells")


def _check_class(one: Layer) -> None:
    if one.meaning is not None:
        return
    if one.refused:
        raise UnsupportedError(one.refused)
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
    network = cast(Network, use.layer.network)
    for key, value in use.kwargs.items():
        if value is not None and not (key == "mask" or (key == "training" and value is False)):
            raise UnsupportedError(f"{use.where}: argument {shown(key, 60)}={shown(str(value), 60)}, expected none")
    entries = _in_order(use, network, use.args[0])
    given = use.kwargs.get("mask")
    masks: list[Any] = [None] * len(entries) if given is None else _in_order(use, network, given)
    if any(not isinstance(entry, Tensor) for entry in entries):
        raise UnsupportedError(f"{use.where}: called with other things than tensors, expected {len(entries)} tensors")
    if any(not (mask is None or isinstance(mask, Tensor)) for mask in masks):
        raise UnsupportedError(f"{use.where}: mask={shown(str(given), 60)}, expected a tensor for each input")
    masked = any(mask is not None for mask in masks) or any(entry.mask is not None for entry in entries)
    if masked and isinstance(use.args[0], Mapping) and list(network.keys) != sorted(network.keys):
        # Keras sorts the masks by name and takes the inputs in the order of the list: one gets the mask of another.
        expected = shown(", ".join(network.keys), 120)
        raise UnsupportedError(f"{use.where}: called by name under a mask, expected a list ({expected})")
    entries = [
        _as_declared(use, ref, Tensor(entry.name, entry.mask if mask is None else mask.name))
        for ref, entry, mask in zip(network.inputs, entries, masks, strict=True)
    ]
    return _run(network, use.graph, use.version, entries, f"{use.name}/")


def _in_order(use: Use, network: Network, given: Any) -> list[Any]:
    """The argument of a call for each input of a model: by their names from an object, else one after the other."""
    if isinstance(given, Mapping):
        if set(given) != set(network.keys):
            expected = shown(", ".join(network.keys), 120)
            raise UnsupportedError(f"{use.where}: called with {shown(', '.join(given), 120)}, expected {expected}")
        given = [given[key] for key in network.keys]
    arguments = list(leaves(given))
    if len(arguments) != len(network.inputs):
        raise FormatError(f"{use.where}: called with {len(arguments)} tensors, expected {len(network.inputs)}")
    return arguments


def _as_declared(use: Use, ref: Ref, entry: Tensor) -> Tensor:
    """An input of a nested model as its InputLayer declares it: Keras adds or drops a last axis of 1, and casts."""
    graph, inner = use.graph, cast(Network, use.layer.network).layers[ref.layer]
    name, rank = entry.name, graph.rank(entry.name)
    shape = inner.config.get("batch_shape", inner.config.get("batch_input_shape"))
    declared = len(shape) if isinstance(shape, (list, tuple)) else rank
    if rank == declared - 1 and shape[-1] == 1:
        name = graph.unsqueeze(f"{use.name}/{ref.layer}.axis", name, rank)
    elif rank == declared + 1 and graph.shape(name)[-1] == 1:
        name = graph.squeeze(f"{use.name}/{ref.layer}.axis", name, rank - 1)
    elif rank != declared:
        raise UnsupportedError(
            f"{use.where}: input {shown(ref.layer, 80)!r} is {graph.values[name]}, expected {declared} dimensions"
        )
    dtype = _input_dtype(inner.config.get("dtype"), False, use.where)
    # Ids stay integers where an old file declares them as numbers.
    if dtype != "float":
        name = graph.cast(f"{use.name}/{ref.layer}.{dtype}", name, dtype)
    return Tensor(name, entry.mask)


def _given(use: Use, meaning: Spec | Node) -> list[Tensor]:
    """A layer of a class that the caller knows: a node, or a Spec's nodes under NAME/NODE, on the layer's inputs.

    Its arrays are the weights in their order. Its results have no mask, as those of a layer that does not know masks.
    """
    graph = use.graph
    for key, value in use.kwargs.items():
        if value is not None and key not in ("mask", "training"):
            raise UnsupportedError(f"{use.where}: argument {shown(key, 60)}={shown(str(value), 60)}, expected none")
    arrays = dict(zip(meaning.weight_shapes(), use.layer.own, strict=True))
    for name, shape in meaning.weight_shapes().items():
        check_shape(arrays[name], shape, name, use.where)
    if isinstance(meaning, Node):
        node = graph.emit(meaning.op, [one.name for one in use.inputs], use.name, **meaning.attributes)
        graph.own(node, {name.removeprefix(f"{meaning.name}."): array for name, array in arrays.items()})
        return [Tensor(name) for name in graph.nodes[-1].names]
    entries = [entry for entry in meaning.inputs if not entry.optional]
    if len(entries) != len(use.inputs):
        raise SpecError(f"{use.where}: called with {len(use.inputs)} tensors, expected the {len(entries)} of its Spec")
    prefix = f"{graph.fresh(use.name)}/"
    renamed = {name: f"{prefix}{name}" for name in meaning.values}
    for entry, one in zip(entries, use.inputs, strict=True):
        renamed[entry.name] = graph.cast(f"{prefix}{entry.name}", one.name, entry.dtype)
        known = graph.shape(one.name)
        fits = len(known) == len(entry.shape) and all(
            a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(known, entry.shape, strict=True)
        )
        if not fits:
            raise SpecError(f"{use.where}: input {graph.values[one.name]}, expected {entry.value} of its Spec")
    absent = {entry.name for entry in meaning.inputs if entry.optional}
    for inner in meaning.nodes:
        made = inner.with_reads(renamed | dict.fromkeys(absent, ""))
        graph.add(dataclasses.replace(cast(Any, made), name=f"{prefix}{inner.name}"))
        graph.own(
            f"{prefix}{inner.name}",
            {name.removeprefix(f"{inner.name}."): arrays[name] for name in inner.weight_shapes()},
        )
    return [Tensor(renamed[name]) for name in meaning.outputs]


def _check_dtypes(arrays: Mapping[str, np.ndarray]) -> None:
    dtypes = sorted({str(array.dtype) for array in arrays.values() if array.dtype.kind == "f"})
    if len(dtypes) > 1:
        raise UnsupportedError(f"weights of dtype {' and '.join(dtypes)}, expected one dtype in all layers")


# --- recurrent, and around other layers ----------------------------------------------------------------------------

layer(*RECURRENT, options=None, mask="own")(recurrent)
layer(*CONV_LSTMS, options=None, mask="own")(conv_lstm)


@layer("Bidirectional", options=None, mask="own")
def both_directions(use: Use) -> list[Tensor]:
    """Of recurrent layers, or of convolutional ones."""
    if any(part.class_name in CONV_LSTMS for part in use.layer.parts.values()):
        return both_ways(use, merge_mode(use))
    return bidirectional(use)


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
    check_policy(use, inner.config)
    _check_class(inner)
    if inner.class_name in EVERYWHERE and inner.meaning is None:
        part = Layer(use.layer.name, inner.class_name, inner.config, inner.place, own=inner.own)
        return run_layer(Use(use.graph, part, use.version, use.name, [Tensor(use.x)], (Tensor(use.x),)))[0].name
    graph, x = use.graph, use.floats
    if use.masked(use.inputs[0]).mask is not None and (inner.network is not None or inner.class_name in TAKES_MASK):
        raise UnsupportedError(f"{use.where}: around a {inner.class_name} under a mask, expected no mask")
    rest = [graph.size(x, axis, use.where) if axis > 2 or graph.rank(x) == 3 else 0 for axis in range(2, graph.rank(x))]
    merged = _merge_steps(graph, use, x, rest)
    steps = Tensor(merged)
    outputs = run_layer(Use(graph, inner, use.version, f"{use.name}/{inner.name}", [steps], (steps,)))
    if len(outputs) != 1:
        raise UnsupportedError(f"{use.where}: around a layer with {len(outputs)} outputs, expected one")
    return _split_steps(graph, use, x, outputs[0].name)


TAKES_MASK = (
    *RECURRENT, *CONV_LSTMS, "Bidirectional", "GlobalAveragePooling1D", "Softmax", "Attention", "AdditiveAttention",
)  # fmt: skip


def _merge_steps(graph: Graph, use: Use, x: str, rest: Sequence[int]) -> str:
    """(B, T, ...) as (B*T, ...)."""
    shape = graph.shape(x)
    known = [size if isinstance(size, int) else None for size in shape[2:]]
    if None not in known:
        return graph.reshape(f"{use.name}.steps", x, cast("tuple[int, ...]", (-1, *known)))
    sizes_ = graph.emit("Shape", x, f"{use.name}.shape")
    tail = graph.slice(f"{use.name}.rest", sizes_, 0, 2, len(shape))
    first = graph.emit("Constant", (), f"{use.name}.all", dtype="int64", shape=(1,), value=(-1,))
    return graph.emit(
        "Reshape", (x, graph.emit("Concat", (first, tail), f"{use.name}.to", axis=0)), f"{use.name}.steps"
    )


def _split_steps(graph: Graph, use: Use, x: str, y: str) -> str:
    """(B*T, ...) as (B, T, ...), with the T of x."""
    steps, rest = graph.shape(x)[1], graph.shape(y)[1:]
    if isinstance(steps, int) and all(isinstance(size, int) for size in rest):
        return graph.reshape(use.name, y, cast("tuple[int, ...]", (-1, steps, *rest)))
    lead = graph.slice(f"{use.name}.lead", graph.emit("Shape", x, f"{use.name}.whole"), 0, 0, 2)
    tail = graph.slice(f"{use.name}.tail", graph.emit("Shape", y, f"{use.name}.part"), 0, 1, len(rest) + 1)
    return graph.emit("Reshape", (y, graph.emit("Concat", (lead, tail), f"{use.name}.back", axis=0)), use.name)


ACCEPTED = tuple(LAYERS)
