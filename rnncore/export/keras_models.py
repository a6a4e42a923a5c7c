"""From live Keras 3 models, on any of its backends, to a Spec and Weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rnncore.errors import InputError, UnsupportedError
from rnncore.export.exported import Exported, example_for
from rnncore.formats.keras_layers import ACCEPTED, KerasLayer, Lowered, lower
from rnncore.test_pair import TestPair
from rnncore.weights import Weights

__all__ = ["from_keras"]


def from_keras(model: Any, example: Any = None, *, seed: int = 0) -> Exported:
    """Spec, Weights and a test pair of a Keras 3 model whose layers follow one another.

    model is a Sequential (others inside it are opened), a functional model that is one chain, or a single layer
    that has been built. Layers: SimpleRNN, LSTM, GRU, RNN around one of their cells, Bidirectional, Dense,
    Embedding, TimeDistributed(Dense), Activation, ReLU, Softmax, Masking, dropout. Masks of Masking and of
    Embedding(mask_zero=True) are computed in the graph and reach the layers that Keras hands them to. Node names
    are layer names; an activation of Dense is a node of its own, "NAME.relu".

    example is a batch (B, T, I), or of ids (B, T); without it one is drawn with the seed. A stateful model is run
    from zero state and gets its own back. Weights are copied and keep their dtype.

    Raises UnsupportedError naming the layer and option, and InputError for the example or a model not yet built.
    """
    import keras

    layers = list(_layers(keras, model))
    x = None if example is None else np.asarray(keras.ops.convert_to_numpy(example))
    if not layers or not all(layer.built for _, layer in layers):
        if x is None:
            raise InputError("model: not built yet, expected an example, or model.build(input_shape)")
        model(x, training=False)
        layers = list(_layers(keras, model))
    for name, layer in layers:
        _check_live(keras, name, layer)
    shape = _input_shape(model, x)
    read = [
        KerasLayer(name, type(layer).__name__, layer.get_config(), [_copied(keras, weight) for weight in layer.weights])
        for name, layer in layers
    ]
    lowered = lower(read, shape)
    weights = Weights(lowered.spec, lowered.arrays)
    stateful = [part for _, layer in layers for part in _parts(layer) if getattr(part, "stateful", False)]
    with _from_zero_state(keras, stateful):
        pair = _test_pair(keras, model, lowered, shape, x, seed)
    notes = lowered.notes
    if _dtype(lowered) != _accuracy(keras, lowered):
        notes = (
            *notes,
            "Keras on this backend multiplies in float32 even where weights are float64: so is the test pair",
        )
    source = f"keras {keras.__version__} ({keras.backend.backend()})"
    return Exported(lowered.spec, weights, pair, source, notes)


def _layers(keras, model) -> Iterator[tuple[str, Any]]:
    """(name, layer) in order, without InputLayers; those of an inner Sequential are called "inner/layer"."""
    if isinstance(model, keras.Sequential):
        chain = model.layers
    elif isinstance(model, keras.Model):
        chain = _functional_chain(keras, model)
    elif isinstance(model, keras.layers.Layer):
        chain = [model]
    else:
        raise InputError(f"model: {type(model).__name__}, expected a keras.Sequential, Model or Layer")
    for layer in chain:
        if isinstance(layer, keras.Sequential):
            yield from ((f"{layer.name}/{name}", inner) for name, inner in _layers(keras, layer))
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer.name, layer


def _functional_chain(keras, model) -> list[Any]:
    """The layers of a functional model from input to output, if they are one chain."""
    where = f"model {model.name!r} ({type(model).__name__})"
    if not hasattr(model, "operations"):
        raise UnsupportedError(
            f"{where}: not accepted, expected a Sequential or a functional model of layers in a chain"
        )
    if len(model.inputs) != 1:
        raise UnsupportedError(f"{where}: {len(model.inputs)} inputs, expected one")
    histories = {tensor._keras_history[:2] for tensor in model.outputs}
    chain: list[Any] = []
    nodes: list[Any] = []
    while True:
        if len(histories) != 1:
            raise UnsupportedError(f"{where}: its layers are no chain (after {[layer.name for layer in chain][-1:]})")
        layer, index = histories.pop()
        chain.append(layer)
        nodes.append(layer._inbound_nodes[index])
        mask = nodes[-1].arguments.kwargs.get("mask")
        sources = [tensor for tensor in nodes[-1].input_tensors if tensor is not mask]
        if not sources:
            _check_masks(keras, chain[::-1], nodes[::-1])
            return chain[::-1]
        if len(sources) > 1:
            raise UnsupportedError(
                f"layer {layer.name!r} ({type(layer).__name__}): {len(sources)} inputs, expected one"
            )
        histories = {sources[0]._keras_history[:2]}


def _check_masks(keras, chain: list[Any], nodes: list[Any]) -> None:
    """Raises unless every mask that a layer was called with is the one that Keras itself hands on.

    That is input != 0 of an Embedding, or any(input != mask_value) over the features of a Masking.
    """
    expected: tuple[list[str], Any, Any] = ([], None, None)
    for layer, node in zip(chain, nodes, strict=True):
        mask = node.arguments.kwargs.get("mask")
        if mask is not None:
            kinds, source, value = _made_by(mask)
            if kinds != expected[0] or source is not expected[1] or value != expected[2]:
                raise UnsupportedError(
                    f"layer {layer.name!r} ({type(layer).__name__}): called with a mask of its own, expected that of a "
                    "Masking or Embedding layer before it"
                )
        if isinstance(layer, keras.layers.Masking):
            expected = ["Any", "NotEqual"], node.input_tensors[0], layer.mask_value
        elif isinstance(layer, keras.layers.Embedding) and layer.mask_zero:
            expected = ["NotEqual"], node.input_tensors[0], 0


def _made_by(mask) -> tuple[list[str], Any, Any]:
    """The kinds of the operations that made a mask, last first, what they read, and what it is compared with."""
    kinds = []
    while True:
        operation, index = mask._keras_history[:2]
        kinds.append(type(operation).__name__)
        arguments = operation._inbound_nodes[index].arguments.args
        if kinds[-1] != "Any" or len(kinds) > 1 or getattr(operation, "axis", None) not in (-1, [-1], (-1,)):
            return kinds, arguments[0] if arguments else None, arguments[1] if len(arguments) == 2 else None
        mask = arguments[0]


def _check_live(keras, name: str, layer: Any) -> None:
    """Raises for subclasses, which may compute anything, and for activation functions that are not Keras's own."""
    kind = type(layer).__name__
    where = f"layer {name!r} ({kind})"
    if kind not in ACCEPTED or type(layer) is not getattr(keras.layers, kind, None):
        raise UnsupportedError(f"{where}: not accepted, expected {', '.join(ACCEPTED)}")
    for part in _parts(layer):
        inner = type(part)
        if inner is not getattr(keras.layers, inner.__name__, None):
            raise UnsupportedError(
                f"{where}: holds a {inner.__name__} of {inner.__module__}, expected Keras's own layers"
            )
        if getattr(part, "lora_enabled", False) or getattr(part, "quantization_mode", None):
            raise UnsupportedError(f"{where}: has LoRA or quantised weights, expected plain ones")
        for option in ("activation", "recurrent_activation"):
            function = getattr(part, option, None)
            found = getattr(function, "__name__", type(function).__name__)
            if function is not None and getattr(keras.activations, found, None) is not function:
                raise UnsupportedError(
                    f"{where}: {option} {found!r} is not one of keras.activations, expected its name"
                )


def _parts(layer: Any) -> list[Any]:
    """The layer, what it is wrapped around, and their cells."""
    parts = [layer, *(getattr(layer, name, None) for name in ("forward_layer", "backward_layer", "layer"))]
    parts += [getattr(part, "cell", None) for part in parts]
    return [part for part in parts if part is not None]


def _copied(keras, weight) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(weight))


def _input_shape(model, x: np.ndarray | None) -> tuple[int | None, ...]:
    """Keras's input shape with the batch first: the model's own, else that of the example."""
    try:
        shape = model.input_shape
    except (AttributeError, ValueError):
        shape = None
    if shape is None and x is not None:
        shape = (None, *x.shape[1:])
    if shape is None:
        raise InputError("model: its input shape is unknown, expected an example")
    return tuple(shape)


def _test_pair(keras, model, lowered: Lowered, shape, x: np.ndarray | None, seed: int) -> TestPair:
    """Keras's own output for the example, in inference mode."""
    fixed = {name: size for name, size in zip(("B", "T"), shape, strict=False) if size is not None}
    sizes = {"B": 2, "T": 7, **{f"D{axis}": 5 for axis in range(len(shape))}, **fixed}
    first = lowered.spec.nodes[0]
    ids = first.attributes["input_size"] if getattr(first, "op", None) == "Embedding" else 0
    dtype = _dtype(lowered)
    accepted = str(model.inputs[0].dtype) if getattr(model, "inputs", None) else dtype
    x = example_for(lowered.spec, x, accepted if accepted in ("float32", "float64") else dtype, sizes, ids, seed)
    found = model(x, training=False)
    outputs = found if isinstance(found, (tuple, list)) else [found]
    arrays = [_copied(keras, output).astype(_accuracy(keras, lowered)) for output in outputs]
    entry = lowered.spec.inputs[0]
    x = x.astype(dtype) if entry.dtype == "float" else x
    return TestPair({entry.name: x}, dict(zip(lowered.spec.outputs, arrays, strict=True)))


def _dtype(lowered: Lowered) -> str:
    return str(next((array.dtype for array in lowered.arrays.values()), np.dtype(np.float32)))


def _accuracy(keras, lowered: Lowered) -> str:
    """The dtype in which Keras really computes: only on TensorFlow does a float64 product stay one."""
    return keras.backend.result_type(*[_dtype(lowered)] * 2)


@contextmanager
def _from_zero_state(keras, stateful: list[Any]) -> Iterator[None]:
    """Stateful layers start at zero, and have their own state again afterwards."""
    found = [state for layer in stateful for state in (getattr(layer, "states", None) or ())]
    variables = list({id(variable): variable for variable in found}.values())
    kept = [_copied(keras, variable) for variable in variables]
    try:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(np.zeros_like(value))
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
