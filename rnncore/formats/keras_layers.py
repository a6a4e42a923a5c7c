"""Keras layers, as class name, config and arrays, lowered to a Spec and canonical arrays. Keras is not needed.

Shared by what reads Keras files and by what takes a live model. Conventions of Keras: gates in columns, LSTM
i f c o, GRU z r h; a GRU bias (2, 3H) for reset after, (3H,) for reset before; go_backwards returns outputs in
processing order.

Masks: made by Embedding(mask_zero=True), "NAME.mask", and by Masking; every layer below passes them on, except
recurrent ones that return only their last output. A layer behind go_backwards=True with return_sequences=True gets
the mask in time order beside outputs in processing order, as Keras gives it.

Source: Keras 3.15, layers/rnn/*.py, layers/core/{dense,embedding,masking}.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.cells import GRU, LSTM, RNN, Activation, Cell
from rnncore.errors import FormatError, UnsupportedError, WeightError
from rnncore.formats.gates import split_gru_bias, swap_rz, transpose_gates
from rnncore.ops import OPS
from rnncore.spec import Input, Node, Recurrent, Spec

__all__ = ["KerasLayer", "Lowered", "activation", "lower"]

CELLS = {"SimpleRNN": RNN, "LSTM": LSTM, "GRU": GRU}
MERGES = {"concat": "concat", "sum": "sum", "mul": "mul", "ave": "average", None: "separate"}
DROPPED = ("Dropout", "SpatialDropout1D", "GaussianDropout", "GaussianNoise", "ActivityRegularization")
POINTWISE = ("Activation", "ReLU", "Softmax")
WITH_WEIGHTS = ("Dense", "Embedding", "TimeDistributed")
ACCEPTED = (*CELLS, "RNN", "Bidirectional", *WITH_WEIGHTS, *POINTWISE, "Masking", *DROPPED, "InputLayer")

# Activations under Keras's name where rnncore's differs or needs a parameter.
ACTIVATIONS = {
    "leaky_relu": Activation("leaky_relu", 0.2),
    "gelu": Activation("gelu_erf"),
    "swish": Activation("silu"),
    "hard_swish": Activation("hard_silu"),
}
# fmt: off
SAME_ACTIVATIONS = (
    "linear", "sigmoid", "tanh", "relu", "relu6", "elu", "celu", "selu", "softplus", "softsign", "squareplus",
    "soft_shrink", "hard_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "silu", "exponential",
    "hard_silu", "hard_tanh", "mish", "log_sigmoid", "softmax", "log_softmax",
)
# fmt: on
OPS_BY_ACTIVATION = {
    "relu": "Relu",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "log_softmax": "LogSoftmax",
}

# What a layer's config may hold without a meaning at inference, or in another place.
# fmt: off
TRAINING = (
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_length", "seed",
    "dropout", "recurrent_dropout", "unit_forget_bias", "implementation", "use_cudnn", "unroll", "stateful",
)
# fmt: on
TRAINING_ENDINGS = ("_initializer", "_regularizer", "_constraint")
NEUTRAL = {"return_state": False, "lora_rank": None, "lora_alpha": None, "quantization_config": None}
NEUTRAL |= {"time_major": False}


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


def activation(name: Any, where: str, version: int = 3) -> Activation:
    """The Activation that a Keras config names; version is the major one of the Keras that wrote it.

    Raises UnsupportedError, naming ``where``, for custom functions and for those that rnncore does not have.
    """
    if name is None:
        return Activation("linear")
    if name == "hard_sigmoid":
        return Activation("hard_sigmoid_sixth" if version >= 3 else "hard_sigmoid_fifth")
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if isinstance(name, str) and name in SAME_ACTIVATIONS:
        return Activation(name)
    accepted = ", ".join(sorted([*SAME_ACTIVATIONS, *ACTIVATIONS, "hard_sigmoid"]))
    found = name.get("class_name", "an object") if isinstance(name, Mapping) else name
    raise UnsupportedError(f"{where}: activation {str(found)[:60]!r}, expected one of {accepted}")


def lower(layers: Iterable[KerasLayer], input_shape: Sequence[int | None], version: int = 3) -> Lowered:
    """The Spec of layers that follow one another, and their arrays in canonical order.

    input_shape is Keras's, with the batch first: (None, None, 40), or (None, None) for ids. Batch and time become
    "B" and "T" even where Keras fixed them.

    Raises UnsupportedError naming the layer and option, WeightError for arrays that do not fit their layer.
    """
    lowering = _Lowering(version)
    layers = [layer for layer in layers if layer.class_name != "InputLayer"]
    ids = bool(layers) and layers[0].class_name == "Embedding"
    names = {layer.name for layer in layers}
    entry = _input("tokens" if ids else "x", names, input_shape, ids)
    lowering.values = (entry.name,)
    for layer in layers:
        lowering.add(layer)
    if not lowering.nodes:
        raise UnsupportedError("no layer does anything at inference, expected at least one")
    _check_dtypes(lowering.arrays)
    return Lowered(Spec([entry], lowering.nodes, lowering.values), lowering.arrays, tuple(lowering.notes))


def _input(name: str, taken: set[str], shape: Sequence[int | None], ids: bool) -> Input:
    sizes: list[int | str] = ["B"]
    for axis, size in enumerate(shape[1:], start=1):
        is_time = axis == 1 and (ids or len(shape) > 2)
        if size is None and not is_time and axis == len(shape) - 1:
            raise UnsupportedError(f"input shape {tuple(shape)}: the last dimension is unknown, expected a size")
        sizes.append("T" if is_time else size if size is not None else f"D{axis}")
    return Input(f"{name}_in" if name in taken else name, "int64" if ids else "float", tuple(sizes))


class _Lowering:
    """Nodes, arrays and notes of the layers so far; ``values`` are the names of the last layer's outputs.

    ``mask`` is the name of the mask that Keras keeps beside them, and ``mask_nodes`` what has to be added to the
    graph to compute it, as soon as somebody reads it.
    """

    def __init__(self, version: int):
        self.version = version
        self.values: tuple[str, ...] = ()
        self.nodes: list[Node | Recurrent] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.notes: list[str] = []
        self.mask: str | None = None
        self.mask_nodes: list[Node] = []

    def add(self, layer: KerasLayer) -> None:
        where = f"layer {layer.name!r} ({layer.class_name})"
        if layer.class_name not in ACCEPTED:
            raise UnsupportedError(f"{where}: not accepted, expected {', '.join(ACCEPTED)}")
        if any(layer.name == node.name for node in self.nodes):
            raise UnsupportedError(f"{where}: stands twice in the model, expected each layer once")
        if len(self.values) > 1:
            raise UnsupportedError(f"{where}: reads the two outputs of merge_mode=None, expected them at the end only")
        _check_policy(layer.config, where)
        if layer.class_name in DROPPED:
            self.notes.append(f"{layer.name} ({layer.class_name}): left out, it does nothing at inference")
        elif layer.class_name in CELLS or layer.class_name in ("RNN", "Bidirectional"):
            self._recurrent(layer, where)
        elif layer.class_name in POINTWISE:
            self._pointwise(layer, where)
        elif layer.class_name == "Embedding":
            self._embedding(layer, where)
        elif layer.class_name == "Masking":
            self._masking(layer, where)
        elif layer.class_name == "TimeDistributed":
            self._time_distributed(layer, where)
        else:
            self._dense(layer, where)

    def node(self, name: str, op: str, attributes: Mapping[str, Any]) -> None:
        self.nodes.append(Node(name, op, self.values, attributes))
        self.values = (name,)

    def _recurrent(self, layer: KerasLayer, where: str) -> None:
        merge, halves = "concat", [(layer.class_name, layer.config)]
        if layer.class_name == "Bidirectional":
            halves, merge = _halves(layer, where)
        count = len(layer.arrays) // len(halves)
        cells, weights = [], []
        for index, (class_name, config) in enumerate(halves):
            arrays = layer.arrays[index * count : (index + 1) * count]
            cell, found = _cell(class_name, config, arrays, where, self.version)
            cells.append(cell)
            weights.append(found)
        sequences = bool(_get(halves[0][1], "return_sequences", where))
        backwards = [bool(_get(config, "go_backwards", where)) for _, config in halves]
        options: dict[str, Any] = {"reverse_cell": cells[-1] if cells[-1] != cells[0] else None}
        if len(halves) == 2:
            direction = "bidirectional"
            self._check_halves(halves, cells, backwards, sequences, merge, where)
            zero = sequences  # whatever the halves say
        else:
            direction = "reverse" if backwards[0] else "forward"
            zero = bool(halves[0][1].get("zero_output_for_mask", False))
            if backwards[0] and sequences:
                options["output_order"] = "processing"
        if self.mask is not None:
            self.nodes += self.mask_nodes
            self.mask_nodes = []
            options |= {"mask": self.mask, "masked_output": "zero" if zero else "repeat"}
        # Keras takes the output at the last step processed, which is 0 if that step is masked.
        last_step = zero and not sequences and self.mask is not None
        if last_step and backwards[0]:
            options["output_order"] = "processing"
        node = Recurrent(layer.name, cells[0], self.values[0], 1, direction, merge, **options)
        for half, found in zip(node.directions, weights, strict=True):
            self.arrays.update({f"{node.name}.{key}{node.suffix(0, half)}": array for key, array in found.items()})
        self.nodes.append(node)
        if merge == "separate":
            self.values = (f"{node.name}.forward", f"{node.name}.reverse")
        else:
            self.values = (node.name if sequences or last_step else f"{node.name}.last",)
        if last_step:
            self.node(f"{node.name}.last_step", "Gather", {"axis": 1, "indices": -1})
        if not sequences:
            self.mask = None
        if any(config.get("stateful") for _, config in halves):
            self.notes.append(f"{layer.name}: stateful, here state is kept by the caller and starts at zero")
        if any(config.get("unroll") for _, config in halves):
            self.notes.append(f"{layer.name}: unroll has no effect here")

    @staticmethod
    def _check_halves(halves, cells, backwards, sequences, merge, where) -> None:
        if backwards != [False, True]:
            raise UnsupportedError(f"{where}: go_backwards={backwards}, expected [False, True] (layer, backward_layer)")
        if bool(_get(halves[1][1], "return_sequences", where)) != sequences:
            raise FormatError(f"{where}: return_sequences differs between layer and backward_layer")
        if type(cells[0]) is not type(cells[1]) or cells[0].hidden_size != cells[1].hidden_size:
            kinds = " and ".join(f"{cell.kind}({cell.hidden_size})" for cell in cells)
            raise UnsupportedError(f"{where}: {kinds}, expected one kind of layer and one size in both directions")
        if merge == "separate" and not sequences:
            raise UnsupportedError(
                f"{where}: merge_mode=None with return_sequences=False, expected return_sequences=True"
            )

    def _dense(self, layer: KerasLayer, where: str) -> None:
        config = layer.config
        _check_options(config, {"units", "activation", "use_bias"}, where)
        units, use_bias = _get(config, "units", where), bool(_get(config, "use_bias", where))
        kernel = _arrays(layer.arrays, ("kernel", "bias")[: 1 + use_bias], where)[0]
        _check_shape(kernel, (*kernel.shape[:1], units), "kernel", where)
        self.node(layer.name, "Linear", {"input_size": kernel.shape[0], "output_size": units, "bias": use_bias})
        self.arrays[f"{layer.name}.weight"] = kernel.T
        if use_bias:
            _check_shape(layer.arrays[1], (units,), "bias", where)
            self.arrays[f"{layer.name}.bias"] = layer.arrays[1]
        self._activation(layer.name, _get(config, "activation", where), where)

    def _activation(self, name: str, found: Any, where: str, node: str | None = None) -> None:
        """A node for an activation, called "NAME.relu" beside a layer NAME; none for linear."""
        function = activation(found, where, self.version)
        if function.name == "linear":
            return
        if OPS_BY_ACTIVATION.get(function.name) not in OPS:
            accepted = ", ".join(["linear", *OPS_BY_ACTIVATION])
            raise UnsupportedError(
                f"{where}: activation {function.name!r} outside a recurrent layer, expected {accepted}"
            )
        self.node(node or f"{name}.{function.name}", OPS_BY_ACTIVATION[function.name], {})

    def _masking(self, layer: KerasLayer, where: str) -> None:
        """A step is masked if all its features equal mask_value; those are zeroed."""
        config, name = layer.config, layer.name
        _check_options(config, {"mask_value"}, where)
        value = _get(config, "mask_value", where)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UnsupportedError(f"{where}: mask_value={str(value)[:60]}, expected a number")
        (x,) = self.values
        self.nodes.append(Node(f"{name}.value", "Constant", (), {"dtype": "float", "value": float(value)}))
        self.nodes.append(Node(f"{name}.zero", "Constant", (), {"dtype": "float", "value": 0.0}))
        self.values = (x, f"{name}.value")
        self.node(f"{name}.equal", "Equal", {})
        self.node(f"{name}.masked", "ReduceMin", {"axes": (-1,)})
        self.node(f"{name}.kept", "Not", {})
        self.mask = f"{name}.mask"
        self.mask_nodes = [Node(self.mask, "Squeeze", self.values, {"axes": (-1,)})]
        self.nodes.append(Node(name, "Where", (*self.values, x, f"{name}.zero")))
        self.values = (name,)

    def _pointwise(self, layer: KerasLayer, where: str) -> None:
        config = layer.config
        if layer.class_name == "Activation":
            _check_options(config, {"activation"}, where)
            before = len(self.nodes)
            self._activation(layer.name, _get(config, "activation", where), where, node=layer.name)
            if len(self.nodes) == before:
                self.notes.append(f"{layer.name} (Activation): left out, it is linear")
            return
        if layer.class_name == "ReLU":
            _check_options(config, {"max_value", "negative_slope", "threshold"}, where)
            for key, expected in (("max_value", None), ("negative_slope", 0.0), ("threshold", 0.0)):
                if config.get(key, expected) != expected:
                    raise UnsupportedError(f"{where}: {key}={config[key]!r}, expected {expected}")
            self.node(layer.name, "Relu", {})
            return
        _check_options(config, {"axis"}, where)
        if self.mask is not None:
            raise UnsupportedError(f"{where}: under a mask, which Keras fits to the features: expected an Activation")
        axis = _get(config, "axis", where)
        if isinstance(axis, bool) or not isinstance(axis, int):
            raise UnsupportedError(f"{where}: axis={axis!r}, expected an integer")
        self.node(layer.name, "Softmax", {"axis": axis})

    def _embedding(self, layer: KerasLayer, where: str) -> None:
        config = layer.config
        _check_options(config, {"input_dim", "output_dim", "mask_zero"}, where)
        rows, size = _get(config, "input_dim", where), _get(config, "output_dim", where)
        (table,) = _arrays(layer.arrays, ("embeddings",), where)
        _check_shape(table, (rows, size), "embeddings", where)
        if config.get("mask_zero"):
            zero, padding = f"{layer.name}.zero", f"{layer.name}.padding"
            self.mask = f"{layer.name}.mask"
            self.mask_nodes = [
                Node(zero, "Constant", (), {"dtype": "int64", "value": 0}),
                Node(padding, "Equal", (*self.values, zero)),
                Node(self.mask, "Not", padding),
            ]
        else:
            self.mask, self.mask_nodes = None, []
        self.node(layer.name, "Embedding", {"input_size": rows, "output_size": size})
        self.arrays[f"{layer.name}.weight"] = table

    def _time_distributed(self, layer: KerasLayer, where: str) -> None:
        """TimeDistributed(Dense) is Dense, which works on the last axis of whatever it is given."""
        _check_options(layer.config, {"layer"}, where)
        class_name, config = _nested(_get(layer.config, "layer", where), where)
        if class_name != "Dense":
            raise UnsupportedError(f"{where}: around a {class_name}, expected a Dense")
        _check_policy(config, where)
        self._dense(KerasLayer(layer.name, "Dense", config, layer.arrays), where)


def _halves(layer: KerasLayer, where: str) -> tuple[list[tuple[str, Mapping[str, Any]]], str]:
    """(class name, config) of the forward and the backward layer, and the merge."""
    config = layer.config
    _check_options(config, {"layer", "backward_layer", "merge_mode"}, where)
    merge = _get(config, "merge_mode", where)
    if merge not in MERGES:
        raise UnsupportedError(f"{where}: merge_mode={merge!r}, expected one of {', '.join(map(repr, MERGES))}")
    forward = _nested(_get(config, "layer", where), where)
    given = config.get("backward_layer")
    backward = _nested(given, where) if given else (forward[0], {**forward[1], "go_backwards": True})
    for class_name, half in (forward, backward):
        if class_name not in CELLS and class_name != "RNN":
            raise UnsupportedError(f"{where}: around a {class_name}, expected {', '.join((*CELLS, 'RNN'))}")
        _check_policy(half, where)
    if len(layer.arrays) % 2:
        raise WeightError(f"{where}: {len(layer.arrays)} arrays, expected as many in both directions")
    return [forward, backward], MERGES[merge]


def _cell(class_name: str, config: Mapping[str, Any], arrays, where: str, version: int) -> tuple[Cell, dict]:
    """The cell of one recurrent layer or of an RNN around a cell, and its canonical arrays."""
    wrapper = {"return_sequences", "go_backwards", "zero_output_for_mask"}
    if class_name == "RNN":
        _check_options(config, {"cell", *wrapper}, where)
        class_name, config = _nested(_get(config, "cell", where), where)
        if not class_name.endswith("Cell") or class_name.removesuffix("Cell") not in CELLS:
            expected = ", ".join(f"{name}Cell" for name in CELLS)
            raise UnsupportedError(f"{where}: around a {class_name}, expected {expected}")
        class_name = class_name.removesuffix("Cell")
        _check_policy(config, where)
    options = {"units", "activation", "use_bias"} | ({"recurrent_activation"} if class_name != "SimpleRNN" else set())
    _check_options(config, options | wrapper | ({"reset_after"} if class_name == "GRU" else set()), where)
    units, bias = _get(config, "units", where), bool(_get(config, "use_bias", where))
    found = _arrays(arrays, ("kernel", "recurrent_kernel", "bias")[: 2 + bias], where)
    reset_after = class_name == "GRU" and bool(_get(config, "reset_after", where))
    columns = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}[class_name] * units
    _check_shape(found[0], (*found[0].shape[:1], columns), "kernel", where)
    _check_shape(found[1], (units, columns), "recurrent_kernel", where)
    if bias:
        _check_shape(found[2], (2, columns) if reset_after else (columns,), "bias", where)

    act = activation(_get(config, "activation", where), where, version)
    if class_name == "SimpleRNN":
        return RNN(found[0].shape[0], units, bias, (act,)), _rnn_arrays(found)
    gate = activation(_get(config, "recurrent_activation", where), where, version)
    if class_name == "LSTM":
        return LSTM(found[0].shape[0], units, bias, (gate, gate, act, gate, act)), _rnn_arrays(found)
    return GRU(found[0].shape[0], units, bias, (gate, gate, act), reset_after), _gru_arrays(found)


def _rnn_arrays(found: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Of SimpleRNN and LSTM, whose columns i f c o are the canonical rows i f g o."""
    return dict(zip(("weight_ih", "weight_hh", "bias"), (*map(transpose_gates, found[:2]), *found[2:]), strict=False))


def _gru_arrays(found: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    arrays = {
        key: swap_rz(transpose_gates(array)) for key, array in zip(("weight_ih", "weight_hh"), found, strict=False)
    }
    if len(found) < 3:
        return arrays
    if found[2].ndim == 1:
        return {**arrays, "bias": swap_rz(found[2])}
    return {**arrays, **split_gru_bias(*map(swap_rz, found[2]))}


def _nested(found: Any, where: str) -> tuple[str, Mapping[str, Any]]:
    """Class name and config of a layer serialised inside another one's config."""
    if not isinstance(found, Mapping) or not isinstance(found.get("config"), Mapping):
        raise FormatError(f"{where}: the inner layer has no config")
    return str(found.get("class_name")), found["config"]


def _get(config: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in config:
        raise FormatError(f"{where}: config has no {key!r}")
    return config[key]


def _check_options(config: Mapping[str, Any], handled: set[str], where: str) -> None:
    """Raises UnsupportedError for an option that is neither handled nor without meaning at inference."""
    for key, value in config.items():
        if key in handled or key in TRAINING or key.endswith(TRAINING_ENDINGS):
            continue
        if key not in NEUTRAL:
            raise UnsupportedError(
                f"{where}: option {key}={str(value)[:60]} is unknown, expected {', '.join(sorted(handled))}"
            )
        if value != NEUTRAL[key]:
            raise UnsupportedError(f"{where}: {key}={str(value)[:60]}, expected {NEUTRAL[key]}")


def _check_policy(config: Mapping[str, Any], where: str) -> None:
    """Raises UnsupportedError unless the layer computes in float32 or float64."""
    policy = config.get("dtype", "float32")
    if isinstance(policy, Mapping):
        inner = policy.get("config")
        policy = inner.get("name") if isinstance(inner, Mapping) else None
    if policy not in ("float32", "float64", None):
        raise UnsupportedError(f"{where}: dtype policy {str(policy)[:60]!r}, expected float32 or float64")


def _check_dtypes(arrays: Mapping[str, np.ndarray]) -> None:
    found = sorted({str(array.dtype) for array in arrays.values()})
    if len(found) > 1:
        raise UnsupportedError(f"weights of dtype {' and '.join(found)}, expected one dtype in all layers")


def _arrays(arrays: Sequence[np.ndarray], names: Sequence[str], where: str) -> list[np.ndarray]:
    if len(arrays) != len(names):
        raise WeightError(f"{where}: {len(arrays)} arrays, expected {len(names)} ({', '.join(names)})")
    found = [np.asarray(array) for array in arrays]
    if found[0].ndim != 2:
        raise WeightError(f"{where}: {names[0]}: shape {found[0].shape}, expected two dimensions")
    return found


def _check_shape(array: np.ndarray, expected: tuple[int, ...], name: str, where: str) -> None:
    if array.shape != expected:
        raise WeightError(f"{where}: {name}: shape {array.shape}, expected {expected}")
