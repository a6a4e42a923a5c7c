"""From live Keras 3 models, on any of its backends, to a Spec and Weights."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnncore.errors import InputError, MissingPackageError, UnsupportedError
from rnncore.export.exported import Exported, example_for
from rnncore.formats.keras.config import Network, Version, network_of
from rnncore.formats.keras.layers import ACCEPTED, KerasLayer, Lowered, lower, lower_network, settle_classes
from rnncore.formats.keras.use import MIXED
from rnncore.formats.keras.variables import bind_arrays
from rnncore.graph.nodes import Input
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair
from rnncore.graph.weights import Weights

__all__ = ["from_keras"]

VERSION = Version(3, 0)


def from_keras(model: Any, example: Any = None, *, seed: int = 0) -> Exported:
    """Spec, Weights and a test pair of a Keras 3 model.

    model is a Sequential, a functional model (nested models, shared layers, several inputs and outputs included), or
    a single layer that has been built, of the layers that a .keras file may have: see rnncore.load. Masks of Masking
    and of Embedding(mask_zero=True) are computed in the graph and reach the layers that Keras hands them to. Node
    names are layer names, "NAME/LAYER" in a nested model, "NAME#2" for a layer called again; an activation of Dense is
    a node of its own, "NAME.relu".

    example is a batch (B, T, I), or of ids (B, T), and a list of them for several inputs; without it one is drawn with
    the seed. A stateful model is run from zero state and gets its own back. Weights are copied and keep their dtype.

    Raises UnsupportedError naming the layer and option, InputError for the example or a model not yet built, and
    MissingPackageError without Keras or its backend.
    """
    try:
        import keras
    except ImportError as error:
        how = "pip install keras, and the backend that KERAS_BACKEND names"
        raise MissingPackageError(f"from_keras needs Keras 3: {how} ({error})") from None
    if not isinstance(model, keras.layers.Layer):
        raise InputError(f"model: {type(model).__name__}, expected a keras.Sequential, Model or Layer")
    given = _arrays(keras, model, example)
    layers = list(_layers(keras, model))
    if not (layers or getattr(model, "operations", None)) or not all(layer.built for layer in layers):
        if given is None:
            raise InputError("model: not built yet, expected an example, or model.build(input_shape)")
        model(_structured(keras, model, given), training=False)
        layers = list(_layers(keras, model))
    for inner in _models(keras, model):
        _check_model(keras, inner)
    for layer in layers:
        _check_live(keras, layer)
    lowered = _lowered(keras, model, given)
    weights = Weights(lowered.spec, lowered.arrays)
    stateful = [part for layer in layers for part in _parts(layer) if getattr(part, "stateful", False)]
    with _from_zero_state(keras, stateful), _in_float32(model):
        pair = _test_pair(keras, model, lowered, given, seed)
    notes = lowered.notes
    if _dtype(lowered) != _accuracy(keras, lowered):
        notes = (
            *notes,
            "Keras on this backend multiplies in float32 even where weights are float64: so is the test pair",
        )
    source = f"keras {keras.__version__} ({keras.backend.backend()})"
    return Exported(lowered.spec, weights, pair, source, notes)


def _arrays(keras, model: Any, example: Any) -> list[np.ndarray] | None:
    """The example as a list of arrays, one for each input, in the order of the model's inputs."""
    if example is None:
        return None
    if isinstance(example, Mapping):
        structure = getattr(model, "_inputs_struct", None)
        names = (
            structure if isinstance(structure, Mapping) else [one.name for one in getattr(model, "inputs", None) or ()]
        )
        if set(names) != set(example):
            expected = ", ".join(names) or "an array"
            raise InputError(f"example: arrays for {', '.join(map(str, example))}, expected {expected}")
        example = [example[name] for name in (sorted(names) if isinstance(structure, Mapping) else names)]
    parts = list(example) if isinstance(example, (list, tuple)) else [example]
    return [np.asarray(keras.ops.convert_to_numpy(part)) for part in parts]


def _structured(keras, model: Any, arrays: Sequence[np.ndarray]) -> Any:
    """One array for each input, in the structure that the model is called with."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None and len(keras.tree.flatten(structure)) == len(arrays):
        return keras.tree.pack_sequence_as(structure, list(arrays))
    return arrays[0] if len(arrays) == 1 else list(arrays)


def _layers(keras, model) -> Iterator[Any]:
    """All layers of a model and of models inside it, without InputLayers."""
    if not isinstance(model, keras.Model):
        yield model
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(keras, layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer
            inner = getattr(layer, "layer", None)
            if isinstance(inner, keras.Model):
                yield from _layers(keras, inner)


def _models(keras, layer: Any) -> Iterator[Any]:
    """The models in a layer, itself among them."""
    if isinstance(layer, keras.Model):
        yield layer
        for part in layer.layers:
            yield from _models(keras, part)
    elif hasattr(layer, "layer"):
        yield from _models(keras, layer.layer)


def _check_model(keras, model: Any) -> None:
    """Raises for a model that is no graph of layers, or whose class has code of its own for its calls."""
    where = f"model {model.name!r} ({type(model).__name__})"
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise UnsupportedError(f"{where}: not accepted, expected a Sequential or a functional model")
    for method in ("call", "__call__"):
        owner = next(one for one in type(model).__mro__ if method in vars(one))
        if not owner.__module__.startswith("keras."):
            raise UnsupportedError(f"{where}: not accepted, it has a {method} of its own: expected that of its graph")


def _graph_class(keras, model: Any) -> str:
    return "Sequential" if isinstance(model, keras.Sequential) else "Functional"


def _lowered(keras, model, given: Sequence[np.ndarray] | None) -> Lowered:
    """The model's config with its arrays, lowered."""
    if not isinstance(model, keras.Model):
        arrays = [_copied(keras, weight) for weight in model.weights]
        layer = KerasLayer(model.name, type(model).__name__, _plain(model.get_config()), arrays)
        return lower([layer], _input_shape(model, given))
    config = _config_of(keras, model)
    if isinstance(model, keras.Sequential):
        config = {**config, "build_input_shape": list(_input_shape(model, given))}
    network = network_of({"class_name": _graph_class(keras, model), "config": config}, "")
    settle_classes(network)
    _bind(keras, network, model)
    return lower_network(network, VERSION)


def _config_of(keras, model: Any) -> dict[str, Any]:
    """A model's config, in which models of other classes inside it are what they are called as: graphs."""
    config = _plain(model.get_config())
    entries = config.get("layers")
    if not isinstance(entries, list):
        raise UnsupportedError(
            f"model {model.name!r} ({type(model).__name__}): its get_config has no layers, expected that of its graph"
        )
    live = {part.name: part for part in model.layers}
    for place, entry in enumerate(entries):
        part = live.get(entry.get("name") or entry["config"].get("name"))
        if isinstance(part, keras.Model):
            kept = {key: entry[key] for key in ("name", "inbound_nodes") if key in entry}
            entries[place] = {
                **kept,
                "class_name": _graph_class(keras, part),
                "build_config": entry.get("build_config"),
                "config": {**_config_of(keras, part), "name": part.name},
            }
    return config


def _plain(config: Any) -> Any:
    """A config as a file would have it: lists in the place of tuples."""
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items()}
    return [_plain(value) for value in config] if isinstance(config, (list, tuple)) else config


def _bind(keras, network: Network, model: Any) -> None:
    """The live layers' arrays, to the layers of their config."""
    live = {layer.name: layer for layer in model.layers}
    for name, layer in network.layers.items():
        if layer.network is not None:
            _bind(keras, layer.network, live[name])
        elif name in live and not layer.is_operation:
            bind_arrays(layer, [_copied(keras, weight) for weight in live[name].weights], VERSION)


def _check_live(keras, layer: Any) -> None:
    """Raises for subclasses, which may compute anything, and for activation functions that are not Keras's own."""
    kind = type(layer).__name__
    where = f"layer {layer.name!r} ({kind})"
    if kind not in ACCEPTED or type(layer) is not getattr(keras.layers, kind, None):
        raise UnsupportedError(f"{where}: not accepted, expected {', '.join(ACCEPTED)}")
    for part in _parts(layer):
        inner = type(part)
        if isinstance(part, keras.Model):
            continue
        if not _is_own(keras, inner):
            raise UnsupportedError(
                f"{where}: holds a {inner.__name__} of {inner.__module__}, which is not accepted, "
                "expected Keras's own layers"
            )
        if getattr(part, "lora_enabled", False) or getattr(part, "quantization_mode", None):
            raise UnsupportedError(f"{where}: has LoRA or quantised weights, expected plain ones")
        for option in ("activation", "recurrent_activation"):
            function = getattr(part, option, None)
            name = getattr(function, "__name__", type(function).__name__)
            if function is not None and getattr(keras.activations, name, None) is not function:
                raise UnsupportedError(f"{where}: {option} {name!r} is not one of keras.activations, expected its name")


def _is_own(keras, kind: type) -> bool:
    """Whether a class is Keras's own: one of keras.layers, or the cell of its ConvLSTMs, which is not among them."""
    if kind.__name__ == "ConvLSTMCell":
        return kind is getattr(sys.modules[keras.layers.ConvLSTM1D.__mro__[1].__module__], "ConvLSTMCell", None)
    return kind is getattr(keras.layers, kind.__name__, None)


def _parts(layer: Any) -> list[Any]:
    """The layer, what it is wrapped around, and their cells."""
    parts = [layer, *(getattr(layer, name, None) for name in ("forward_layer", "backward_layer", "layer"))]
    parts += [getattr(part, "cell", None) for part in parts]
    return [part for part in parts if part is not None]


def _copied(keras, weight) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(weight))


def _input_shape(model, given: Sequence[np.ndarray] | None) -> tuple[int | None, ...]:
    """Keras's input shape with the batch first: the model's own, else that of the example."""
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        shape = None
    if shape is None and given is not None:
        shape = (None, *given[0].shape[1:])
    if shape is None:
        raise InputError("model: its input shape is unknown, expected an example")
    return tuple(shape)


def _test_pair(keras, model, lowered: Lowered, given: Sequence[np.ndarray] | None, seed: int) -> TestPair:
    """Keras's own output for the example, in inference mode."""
    spec, dtype = lowered.spec, _dtype(lowered)
    entries = [entry for entry in spec.inputs if not entry.optional]
    declared = [str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()]
    if given is not None and len(given) != len(entries):
        raise InputError(f"example: {len(given)} arrays, expected {len(entries)}")
    if len(entries) > 1 and given is not None and len({len(part) for part in given}) > 1:
        raise InputError("example: arrays of different batches, expected one batch")
    inputs = []
    for place, entry in enumerate(entries):
        wanted = declared[place] if len(declared) == len(entries) else dtype
        wanted = wanted if wanted in ("float32", "float64") else dtype
        own = None if given is None else given[place]
        sizes = {name: 7 if str(name).startswith("T") else 5 for name in entry.shape if isinstance(name, str)}
        shape = _fixed(model, place, len(entries))
        fixed = {name: size for name, size in zip(entry.shape, shape, strict=False) if size and isinstance(name, str)}
        inputs.append(example_for(spec, own, wanted, {**sizes, "B": 2, **fixed}, _rows(spec, entry), seed, place))
    result = model(_structured(keras, model, inputs), training=False)
    outputs = keras.tree.flatten(result)
    arrays = [_copied(keras, output) for output in outputs]
    arrays = [array.astype(_accuracy(keras, lowered)) if array.dtype.kind == "f" else array for array in arrays]
    kept = {
        entry.name: x.astype(dtype) if entry.dtype == "float" else x for entry, x in zip(entries, inputs, strict=True)
    }
    return TestPair(kept, dict(zip(spec.outputs, arrays, strict=True)))


def _fixed(model: Any, place: int, count: int) -> tuple[int | None, ...]:
    """The sizes that the model fixes of one of its inputs."""
    inputs = getattr(model, "inputs", None)
    return tuple(inputs[place].shape) if inputs and len(inputs) == count else ()


def _rows(spec: Spec, entry: Input) -> int:
    """The number of ids that an input may hold: the fewest rows of the embeddings that read it."""
    nodes: list[Any] = [*spec.nodes]
    rows = [node.attributes["input_size"] for node in nodes if node.op == "Embedding" and entry.name in node.inputs]
    return min(rows, default=2)


def _dtype(lowered: Lowered) -> str:
    return str(next((array.dtype for array in lowered.arrays.values()), np.dtype(np.float32)))


def _accuracy(keras, lowered: Lowered) -> str:
    """The dtype in which Keras really computes: only on TensorFlow does a float64 product stay one."""
    return keras.backend.result_type(*[_dtype(lowered)] * 2)


@contextmanager
def _in_float32(model: Any) -> Iterator[None]:
    """Layers of a mixed policy compute in the dtype of their weights, and have their own policy again afterwards."""
    kept = [(part, part.dtype_policy) for part in model._flatten_layers() if part.dtype_policy.name in MIXED]
    try:
        for part, policy in kept:
            part.dtype_policy = policy.variable_dtype
        yield
    finally:
        for part, policy in kept:
            part.dtype_policy = policy


@contextmanager
def _from_zero_state(keras, stateful: list[Any]) -> Iterator[None]:
    """Stateful layers start at zero, and have their own state again afterwards."""
    states = [state for layer in stateful for state in (getattr(layer, "states", None) or ())]
    variables = list({id(variable): variable for variable in states}.values())
    kept = [_copied(keras, variable) for variable in variables]
    try:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(np.zeros_like(value))
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
