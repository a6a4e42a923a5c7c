"""The variables that each Keras layer owns, and where the containers keep them.

- Keras 3 and tf.keras's .keras and .weights.h5 (``bind_store``): a tree of attributes, layers/lstm/cell/vars/0, in
  which the layers of a model are listed under their class in snake case with a counter, in the model's order.
- Legacy .h5 (``bind_groups``): a group for each layer of the model, whose attribute weight_names lists its arrays:
  all trainable ones first, then the others, those of nested layers included.
- Arrays as get_weights gives them (``bind_arrays``).

Source: Keras 3.15 src/saving/saving_lib.py, src/saving/keras_saveable.py, src/legacy/saving/legacy_h5_format.py;
tf-keras 2.21 src/saving/legacy/hdf5_format.py; Keras 1.2.2 layers/recurrent.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rnncore.errors import FormatError, UnsupportedError, WeightError
from rnncore.files.cursor import shown
from rnncore.formats.hdf5_file import Dataset, Group
from rnncore.formats.keras.config import Layer, Network, Version

__all__ = ["Variable", "bind_arrays", "bind_groups", "bind_store", "group_datasets", "variables"]

CELLS = ("SimpleRNN", "LSTM", "GRU")
CUDNN = ("CuDNNLSTM", "CuDNNGRU")
SEPARATE_GATES = {"LSTM": "icfo", "GRU": "zrh", "SimpleRNN": "h"}  # Keras 1


class Variable(NamedTuple):
    """One array of a layer: the attribute that holds it ("" for the layer itself), its name, whether it is trained."""

    holder: str
    name: str
    trained: bool = True


def _dense(config: Mapping[str, Any], version: Version) -> list[Variable]:
    return _named("kernel", *_if(config.get("use_bias", config.get("bias", True)), "bias"))


def _recurrent(kind: str, holder: str) -> Callable[[Mapping[str, Any], Version], list[Variable]]:
    def variables_of(config: Mapping[str, Any], version: Version) -> list[Variable]:
        if version.major < 2:
            gates = SEPARATE_GATES[kind] if config.get("consume_less") != "gpu" or kind == "SimpleRNN" else " "
            return [
                Variable("", f"{letter}_{gate}" if len(gates) > 1 else letter) for gate in gates for letter in "WUb"
            ]
        names = ("kernel", "recurrent_kernel", *_if(config.get("use_bias", True), "bias"))
        return [Variable(holder, name) for name in names]

    return variables_of


def _conv_lstm(config: Mapping[str, Any], version: Version) -> list[Variable]:
    names = ("kernel", "recurrent_kernel", *_if(config.get("use_bias", True), "bias"))
    return [Variable("cell", name) for name in names]


def _cudnn(config: Mapping[str, Any], version: Version) -> list[Variable]:
    return _named("kernel", "recurrent_kernel", "bias")


def _separable(config: Mapping[str, Any], version: Version) -> list[Variable]:
    return _named("depthwise_kernel", "pointwise_kernel", *_if(config.get("use_bias", True), "bias"))


def _depthwise(config: Mapping[str, Any], version: Version) -> list[Variable]:
    name = "kernel" if version.major >= 3 else "depthwise_kernel"
    return _named(name, *_if(config.get("use_bias", True), "bias"))


def _scaled(*, moments: bool = False, rms: bool = False) -> Callable[[Mapping[str, Any], Version], list[Variable]]:
    def variables_of(config: Mapping[str, Any], version: Version) -> list[Variable]:
        names = [*_if(config.get("scale", True), "gamma"), *_if(config.get("center", not rms) and not rms, "beta")]
        if config.get("rms_scaling"):
            names = ["gamma"]
        last = [Variable("", name, False) for name in ("moving_mean", "moving_variance")] if moments else []
        return [*_named(*names), *last]

    return variables_of


def _normalization(config: Mapping[str, Any], version: Version) -> list[Variable]:
    """mean, variance and count where they were adapted; none where the config gives them."""
    if config.get("mean") is not None:
        return []
    return [Variable("", name, False) for name in ("mean", "variance", "count")]


def _multi_head(config: Mapping[str, Any], version: Version) -> list[Variable]:
    names = ("kernel", *_if(config.get("use_bias", True), "bias"))
    parts = ("query", "key", "value", *_if(config.get("use_gate"), "gate"), "output")  # a gate is refused by its option
    return [Variable(f"{part}_dense", name) for part in parts for name in names]


def _attention(config: Mapping[str, Any], version: Version) -> list[Variable]:
    concat = config.get("score_mode", "dot") == "concat"
    return _named(*_if(config.get("use_scale"), "scale"), *_if(concat, "concat_score_weight"))


def _named(*names: str) -> list[Variable]:
    return [Variable("", name) for name in names]


def _if(condition: Any, *names: str) -> tuple[str, ...]:
    return names if condition else ()


# fmt: off
OWNED: dict[str, Callable[[Mapping[str, Any], Version], list[Variable]]] = {
    "Dense": _dense,
    "TimeDistributedDense": _dense,
    "Embedding": lambda c, v: _named("embeddings"),
    **{kind: _recurrent(kind, "cell") for kind in CELLS},
    **{f"ConvLSTM{dims}D": _conv_lstm for dims in (1, 2, 3)},
    **{f"{kind}Cell": _recurrent(kind, "") for kind in CELLS},
    **dict.fromkeys(CUDNN, _cudnn),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv1DTranspose", "Conv2DTranspose", "Convolution1D", "Convolution2D"),
                    _dense),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    "BatchNormalization": _scaled(moments=True),
    "LayerNormalization": _scaled(),
    "GroupNormalization": _scaled(),
    "RMSNormalization": lambda c, v: _named("scale"),
    "Normalization": _normalization,
    "PReLU": lambda c, v: _named("alpha"),
    "MultiHeadAttention": _multi_head,
    "Attention": _attention,
    "AdditiveAttention": lambda c, v: _named(*_if(c.get("use_scale", True), "scale")),
}
# fmt: on


def variables(layer: Layer, version: Version) -> list[Variable]:
    """The layer's own arrays, without those of layers inside it, in the order of get_weights."""
    if layer.meaning is not None:
        return [Variable("", name) for name in layer.meaning.weight_shapes()]
    listed = OWNED.get(layer.class_name)
    return listed(layer.config, version) if listed is not None and not layer.is_operation else []


def bind_arrays(layer: Layer, arrays: Sequence[np.ndarray], version: Version, names: Sequence[str] = ()) -> None:
    """Hands a layer's arrays to the layers inside it: all in the tree's order.

    names are those of the file, compared where they are Keras's own. Raises WeightError.
    """
    _hand_out(layer, arrays, version, names, lambda variable, frozen: True)


def bind_legacy_arrays(layer: Layer, arrays: Sequence[np.ndarray], version: Version, names: Sequence[str] = ()) -> None:
    """The same for arrays in the order of Keras 2: those that are trained before those that are not."""
    _hand_out(layer, arrays, version, names, lambda variable, frozen: variable.trained and not frozen)


def _hand_out(layer, arrays, version, names, first) -> None:
    for part in layer.tree():
        if part is not layer and part.meaning is not None and variables(part, version):
            raise UnsupportedError(
                f"{part.where}: its arrays are among those of {layer.where}, in an order that is not known: "
                "expected a .keras file"
            )
    slots = [(part, variable) for part in layer.tree() for variable in variables(part, version)]
    order = [slot for slot in slots if first(slot[1], slot[0].frozen)]
    order += [slot for slot in slots if not first(slot[1], slot[0].frozen)]
    if len(order) != len(arrays):
        some = ", ".join(f"{shown(part.name, 40)}/{variable.name}" for part, variable in order[:9])
        raise WeightError(f"{layer.where}: {len(arrays)} arrays, expected {len(order)} ({some or 'none'})")
    by_layer: dict[int, dict[str, np.ndarray]] = {}
    for number, ((part, variable), array) in enumerate(zip(order, arrays, strict=True)):
        if names and version.major >= 2:
            _check_name(names[number], variable, part)
        by_layer.setdefault(id(part), {})[f"{variable.holder}/{variable.name}"] = array
    for part in layer.tree():
        own = by_layer.get(id(part), {})
        part.own = [own[f"{variable.holder}/{variable.name}"] for variable in variables(part, version)]


KNOWN = {"kernel", "recurrent_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "embeddings"}


def _check_name(name: str, variable: Variable, layer: Layer) -> None:
    """WeightError where the file's name of an array is a name of Keras's, but of another array."""
    base = re.sub(r"(_\d+)?(:\d+)?$", "", name.rsplit("/", 1)[-1])
    if base in KNOWN and variable.name in KNOWN and base != variable.name:
        raise WeightError(f"{layer.where}: array {shown(name)!r} in the place of {variable.name!r}")


def bind_groups(network: Network, group: Group, version: Version) -> tuple[str, ...]:
    """The arrays of a legacy file: ``group`` holds one group for each layer. Returns the names of groups not used.

    Raises FormatError, and WeightError where a layer lacks its arrays.
    """
    read = {name: (names, [dataset.read() for dataset in datasets]) for name, names, datasets in group_datasets(group)}
    for layer in network.layers.values():
        names, arrays = read.pop(layer.name, ([], []))
        bind_legacy_arrays(layer, arrays, version, names)
    left = tuple(name for name, (_, arrays) in read.items() if arrays)
    return left


def group_datasets(group: Group) -> Iterator[tuple[str, list[str], list[Dataset]]]:
    """Of each layer of a legacy file: its name, the names of its arrays, and the arrays. Raises FormatError."""
    listed = group.chunked_attribute("layer_names")
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise FormatError(f"{group.place}: attribute layer_names is missing, expected the names of the layers")
    seen: set[str] = set()
    for name in listed:
        if name in seen:
            raise FormatError(f"{group.place}: layer {shown(name)!r} is twice in layer_names")
        seen.add(name)
        names, datasets = _group_arrays(_legacy_group(group, name))
        yield name, names, datasets


def _legacy_group(group: Group, name: str) -> Group:
    """The group of one of layer_names; a slash in the name made groups in groups."""
    return group.group(name) if name in group or "/" not in name.strip("/") else _below(group, name)


def _below(group: Group, name: str) -> Group:
    parts = name.split("/")
    if parts[0] not in group:
        raise FormatError(f"{group.place}: no {shown(name)!r}, expected the group of a layer")
    return group.group(*parts)


def _group_arrays(group: Group) -> tuple[list[str], list[Dataset]]:
    names = group.chunked_attribute("weight_names")
    if names is None or isinstance(names, np.ndarray):
        names = []
    if not isinstance(names, list) or not all(isinstance(name, str) and len(name) < 2000 for name in names):
        raise FormatError(f"{group.place}: attribute weight_names, expected a list of names")
    return names, [_legacy_dataset(group, name) for name in names]


def _legacy_dataset(group: Group, name: str) -> Dataset:
    """The array of one of weight_names, in which h5py took slashes for groups."""
    return group.dataset(*[part for part in name.split("/") if part not in ("", ".")] or [name])


LAYER_LISTS = ("layers", "_layer_checkpoint_dependencies")


def bind_store(network: Network, group: Group, version: Version) -> None:
    """The arrays of a .weights.h5, whose tree of attributes begins at ``group``. FormatError, WeightError."""
    lists = [name for name in LAYER_LISTS if name in group]
    if not lists and "_functional" in group:
        return bind_store(network, group.group("_functional"), version)
    own = [layer for layer in network.layers.values() if layer.name and not layer.is_operation]
    if not lists:
        if any(variables(part, version) for layer in own for part in layer.tree()):
            raise FormatError(f"{group.place}: no 'layers', expected the layers of a model")
        return None
    below = group.group(lists[0])
    counted: dict[str, int] = {}
    for layer in own:
        kind = snake_case(layer.stored or layer.class_name)
        number = counted.get(kind, 0)
        counted[kind] = number + 1
        _bind_stored(layer, below, f"{kind}_{number}" if number else kind, version)
    return None


def _bind_stored(layer: Layer, parent: Group, name: str, version: Version) -> None:
    """The arrays of one layer and those inside it."""
    if not any(variables(part, version) for part in layer.tree()):
        return
    if name not in parent:
        raise WeightError(f"{layer.where}: no group {name!r} in {parent.place}, expected its arrays there")
    group = parent.group(name)
    _check_stored_name(layer, group)
    if layer.meaning is not None and set(group.names) - {"vars"}:
        inside = ", ".join(sorted(set(group.names) - {"vars"}))
        raise UnsupportedError(
            f"{layer.where}: holds {shown(inside, 80)} besides its arrays, expected its arrays alone"
        )
    layer.own = _stored(layer, group, version)
    if layer.network is not None:
        bind_store(layer.network, group, version)
    counted: dict[str, int] = {}
    for attribute, part in layer.parts.items():
        holder, _, number = attribute.partition("/")
        if not number:
            _bind_stored(part, group, holder, version)
            continue
        kind = snake_case(part.stored or part.class_name)
        index = counted.get(kind, 0)
        counted[kind] = index + 1
        _bind_stored(part, group.group(holder), f"{kind}_{index}" if index else kind, version)


def _check_stored_name(layer: Layer, group: Group) -> None:
    """Keras 3 writes a layer's name next to its arrays."""
    if "vars" in group:
        name = group.group("vars").attributes.get("name")
        inside = ".config." in layer.place.rsplit("]", 1)[-1]
        if isinstance(name, str) and name != layer.name and not inside:
            raise FormatError(f"{group.place}: the arrays of {shown(name)!r}, expected those of {layer.where}")


def _stored(layer: Layer, group: Group, version: Version) -> list[np.ndarray]:
    wanted = variables(layer, version)
    arrays: list[np.ndarray] = []
    for holder in dict.fromkeys(variable.holder for variable in wanted):
        names = [variable.name for variable in wanted if variable.holder == holder]
        place = group
        if holder:
            place = group.group(holder if holder in group else f"_{holder}")
        store = place.group("vars") if "vars" in place else None
        count = len(store.names) if store is not None else 0
        if count != len(names):
            raise WeightError(
                f"{layer.where}: {count} arrays in {place.place}, expected {len(names)} ({', '.join(names)})"
            )
        arrays += [store.dataset(str(number)).read() for number in range(count)] if store is not None else []
    return arrays


def snake_case(name: str) -> str:
    """Keras's own rule: MaxPooling1D -> max_pooling1d."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
