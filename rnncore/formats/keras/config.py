"""Keras configs as data: JSON -> layers, the calls between them, and the variables that each owns. Keras is not needed.

A config names classes; here a class is a key of a fixed table (LAYERS in use.py and OPERATIONS in
operations.py), whatever module the file claims it comes from, and modules that are not Keras's own are refused.
Three notations are read: Keras 1 and 2 (lists of [layer, node, tensor, arguments]), tf.keras's extension of it with
tensors inside the arguments, and Keras 3 (arguments with __keras_tensor__ in them).

Source: Keras 3.15 src/models/functional.py, src/saving/serialization_lib.py; tf-keras 2.21 src/engine/functional.py,
src/engine/node.py; Keras 1.2.2 and 2.2.4 engine/topology.py.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import numpy as np

from rnncore.errors import FormatError, RnncoreError, SpecError, UnsupportedError
from rnncore.files.cursor import Budget, low_level_errors, shown
from rnncore.files.strict_json import read_json
from rnncore.graph.nodes import Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS

__all__ = [
    "Call",
    "Layer",
    "Layers",
    "Network",
    "Ref",
    "Version",
    "class_of",
    "layer_of",
    "leaves",
    "network_of",
    "parse_json",
    "tensors",
]

Layers = Mapping[str, Callable[[dict[str, Any]], Any]]
"""Class names of layers that Keras does not have -> what a config of the class means: see rnncore.load."""

MAX_LAYERS = 10_000
MAX_CALLS = 50_000
MAX_JSON = 64 << 20
MAX_NESTING = 16
GRAPHS = "expected Sequential or a functional model (a subclassed one is code: layers= says what computes it)"
NETWORKS = ("Sequential", "Functional", "Model")
OWN_MODULES = re.compile(r"(tf_keras|keras|tensorflow\.(python\.)?keras)(\.[A-Za-z_0-9.]+)?")


class Version(NamedTuple):
    """The version of Keras that wrote a file; ``tf`` says whether it was TensorFlow's own of before 2.4."""

    major: int
    minor: int
    tf: bool = False

    @classmethod
    def of(cls, text: str | None) -> Version:
        """From "2.2.4-tf"; a file that says nothing is Keras 1's."""
        if text is None:
            return cls(1, 2)
        match = re.match(r"(\d{1,3})\.(\d{1,3})", text)
        if match is None:
            raise FormatError(f"keras_version {shown(text, 40)!r}, expected a number such as '2.15.0'")
        return cls(int(match[1]), int(match[2]), "tf" in text)

    @property
    def modern(self) -> bool:
        """Whether LSTM and GRU default to sigmoid and reset_after as TensorFlow 2 has them."""
        return (self.major, self.minor) >= (2, 3)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}{'-tf' if self.tf else ''}"


class Ref(NamedTuple):
    """A tensor: output ``tensor`` of call ``node`` of a layer."""

    layer: str
    node: int
    tensor: int


@dataclass
class Layer:
    """One layer of a config.

    place     its place in the file: "config.layers[3]"
    parts     layers inside it, by the attribute that Keras keeps them under: "forward_layer", "cells/0"
    network   the layers and calls of a model inside it
    own       its own arrays, in the order of get_weights; filled in by what reads the weights
    frozen    trainable=False
    meaning   a Spec, or a Node without its inputs, that the caller gave for its class
    stored    the class under which a file keeps its arrays
    refused   why a class that is not Keras's own is not accepted
    bare      the file does not say whether it is an operation: it has no module
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    place: str = ""
    is_operation: bool = False
    parts: dict[str, Layer] = field(default_factory=dict)
    network: Network | None = None
    own: list[np.ndarray] = field(default_factory=list)
    meaning: Spec | Node | None = None
    stored: str = ""
    refused: str = ""
    bare: bool = False

    @property
    def where(self) -> str:
        """The layer as messages name it."""
        return f"layer {shown(self.name, 80)!r} ({self.class_name})"

    @property
    def frozen(self) -> bool:
        return self.config.get("trainable") is False

    def tree(self) -> Iterator[Layer]:
        """The layer and all layers inside it, in the order in which Keras lists their weights."""
        yield self
        for part in self.parts.values():
            yield from part.tree()
        if self.network is not None:
            for layer in self.network.layers.values():
                yield from layer.tree()


@dataclass(frozen=True)
class Call:
    """One call of a layer: arguments with Refs in the place of tensors."""

    layer: str
    node: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass
class Network:
    """The layers of a model by name, its calls in an order in which they can be made, its inputs and outputs.

    keys  what a call that gives the inputs as an object names them by, in the order of ``inputs``
    """

    name: str
    sequential: bool
    layers: dict[str, Layer]
    calls: list[Call]
    inputs: list[Ref]
    outputs: list[Ref]
    keys: tuple[str, ...] = ()


def parse_json(text: str | bytes, place: str) -> dict[str, Any]:
    """The object that a JSON text holds. FormatError for duplicate keys, NaN, deep nesting and anything else."""
    if len(text) > MAX_JSON:
        raise FormatError(f"{place}: {len(text)} bytes of JSON, expected at most {MAX_JSON}")

    value = read_json(text, place)
    if not isinstance(value, dict):
        raise FormatError(f"{place}: {type(value).__name__}, expected an object")
    return value


def class_of(value: Any, place: str) -> tuple[str, Mapping[str, Any], bool]:
    """Class name and config of something serialised, and whether it is an operation of keras.ops.

    UnsupportedError for classes that are registered, or from modules other than Keras's own.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("class_name"), str):
        raise FormatError(f"{place}: expected an object with class_name and config")
    name, config, module = value["class_name"], value.get("config"), value.get("module")
    registered = value.get("registered_name")
    if ">" in name or (registered is not None and registered != name):
        label = registered if registered is not None else name
        raise UnsupportedError(
            f"{place}: registered class {shown(str(label), 80)!r} is not accepted, expected Keras's own layers, "
            "or layers= with what computes it"
        )
    if module is not None and not (isinstance(module, str) and OWN_MODULES.fullmatch(module)):
        raise UnsupportedError(
            f"{place}: class {shown(name, 60)!r} of module {shown(str(module), 60)!r} is not accepted, "
            "expected Keras's own layers, or layers= with what computes it"
        )
    if name in NETWORKS and isinstance(config, list):
        config = {"layers": config}
    if not isinstance(config, Mapping):
        raise FormatError(f"{place}: {shown(name, 60)} has no config")
    is_operation = ".ops." in f"{module}." if module is not None else _is_bare_operation(value, config)
    return name, config, is_operation


def _is_bare_operation(value: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether something without a module, as in Keras 3's .h5 files, is an operation: only layers are trainable."""
    nodes = value.get("inbound_nodes")
    return bool(nodes) and isinstance(nodes, list) and isinstance(nodes[0], Mapping) and "trainable" not in config


NONE: Layers = MappingProxyType({})


def layer_of(value: Any, place: str, depth: int = 0, count: Budget | None = None, layers: Layers = NONE) -> Layer:
    """A layer with what is inside it. count: what is left of the layers that a file may have."""
    count = count or Budget(MAX_LAYERS, "layers, those inside others among them", "model")
    count.spend()
    if depth > MAX_NESTING:
        raise FormatError(f"{place[:120]}: layers nested more than {MAX_NESTING} deep")
    made, written = _meaning(value, place, layers), value
    if isinstance(made, Mapping):
        value = _in_place_of(value, made)
    elif made is not None:
        config = value.get("config") if isinstance(value.get("config"), Mapping) else {}
        value = {**value, "module": None, "registered_name": None, "class_name": "Layer", "config": config}
    refused = ""
    try:
        class_name, config, is_operation = class_of(value, place)
    except UnsupportedError as error:
        refused = str(error)
        class_name, config, is_operation = value["class_name"], value.get("config"), False
        config = config if isinstance(config, Mapping) else {}
    name = value.get("name", config.get("name")) or class_name.lower()
    if not isinstance(name, str) or len(name) > 500 or not name.isprintable() or not name:
        raise FormatError(f"{place}: name {shown(str(name))!r}, expected printable text")
    layer = Layer(name, class_name, config, place, is_operation, refused=refused, bare=value.get("module") is None)
    if not refused and class_name not in NETWORKS and "input_layers" in config:
        layer.refused = refused = f"{layer.where}: not accepted, {GRAPHS}"
    layer.stored = class_name
    if made is not None:
        layer.stored = written["class_name"].rsplit(">", 1)[-1]
    if made is not None and not isinstance(made, Mapping):
        layer.class_name, layer.meaning, layer.is_operation = layer.stored, made, False
        return layer
    if refused:
        return layer
    if class_name in NETWORKS:
        layer.network = network_of(value, place, depth + 1, count, layers)
        return layer
    for attribute, part in _parts(layer):
        layer.parts[attribute] = layer_of(part, f"{place}.config.{attribute}", depth + 1, count, layers)
    return layer


def _meaning(value: Any, place: str, layers: Layers) -> Spec | Node | Mapping[str, Any] | None:
    """The meaning that the caller gave for layers of this class; None for a class without one."""
    if not isinstance(value, Mapping):
        return None
    names = [name for name in (value.get("registered_name"), value.get("class_name")) if isinstance(name, str)]
    names += [name.rsplit(">", 1)[-1] for name in names]
    name = next((name for name in names if name in layers), None)
    if name is None or not isinstance(value.get("class_name"), str):
        return None
    where, config = f"{place}: layers[{name!r}]", value.get("config")
    try:
        made = layers[name](dict(config) if isinstance(config, Mapping) else {"layers": config})
    except RnncoreError:
        raise
    except Exception as error:
        raise SpecError(f"{where}: {type(error).__name__}: {error}") from error
    if isinstance(made, Spec):
        return made
    if (
        isinstance(made, Mapping)
        and isinstance(made.get("class_name"), str)
        and isinstance(made.get("config"), Mapping)
    ):
        return made
    if isinstance(made, tuple) and len(made) == 2 and made[0] in OPS:
        return Node("layer", made[0], ("x",) * max(1, OPS[made[0]].arity[0]), made[1])
    raise SpecError(
        f"{where}: gives {shown(str(made), 80)}, expected (op, attributes), an object with class_name and config, "
        "or a Spec"
    )


def _in_place_of(written: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """The config that the caller gave, under the name and with the calls of the layer in the file."""
    kept = {key: written[key] for key in ("name", "inbound_nodes", "build_config") if key in written}
    config = written.get("config")
    own = {"name": config["name"]} if isinstance(config, Mapping) and "name" in config else {}
    config = {**made["config"], **own}
    return {**kept, "class_name": made["class_name"], "config": config, "module": "keras.layers"}


def _parts(layer: Layer) -> list[tuple[str, Any]]:
    """The serialised layers inside one, in the order of their weights."""
    config = layer.config
    if layer.class_name == "Bidirectional":
        forward, backward = config.get("layer"), config.get("backward_layer")
        if backward is None and isinstance(forward, Mapping) and isinstance(forward.get("config"), Mapping):
            inner = forward["config"]
            backward = {**forward, "config": {**inner, "go_backwards": not inner.get("go_backwards", False)}}
        return [("forward_layer", forward), ("backward_layer", backward)]
    if layer.class_name == "TimeDistributed":
        return [("layer", config.get("layer"))]
    if layer.class_name == "RNN":
        cell = config.get("cell")
        if isinstance(cell, list):  # Keras 2 before StackedRNNCells had a config of its own
            cell = {"class_name": "StackedRNNCells", "config": {"cells": cell}}
        return [("cell", cell)]
    if layer.class_name == "StackedRNNCells":
        cells = config.get("cells")
        if not isinstance(cells, list) or not cells:
            raise FormatError(f"{layer.place}: StackedRNNCells without cells")
        return [(f"cells/{number}", cell) for number, cell in enumerate(cells)]
    return []


def network_of(value: Any, place: str, depth: int = 0, count: Budget | None = None, layers: Layers = NONE) -> Network:
    """The layers and calls of a Sequential or functional model. count: as for layer_of."""
    count = count or Budget(MAX_LAYERS, "layers, those inside others among them", "model")
    inner = f"{place}.config.layers" if place else "config.layers"
    place = place or "model"
    made = _meaning(value, place, layers)
    if made is not None:
        value = _in_place_of(value, made if isinstance(made, Mapping) else {"class_name": "Layer", "config": {}})
    class_name, config, _ = class_of(value, place)
    if class_name not in NETWORKS:
        raise UnsupportedError(f"{place}: a {shown(class_name, 60)}, {GRAPHS}")
    entries = config.get("layers")
    if not isinstance(entries, list) or len(entries) > MAX_LAYERS:
        raise FormatError(f"{place}: expected a list of at most {MAX_LAYERS} layers")
    made_layers: dict[str, Layer] = {}
    for number, entry in enumerate(entries):
        layer = layer_of(entry, f"{inner}[{number}]", depth, count, layers)
        if layer.name in made_layers:
            raise FormatError(f"{layer.place}: two layers are named {shown(layer.name)!r}")
        made_layers[layer.name] = layer
    given = config.get("name")
    name = given if isinstance(given, str) else str(class_name).lower()
    if class_name == "Sequential":
        return _sequential(name, made_layers, config, value)
    calls = [
        call
        for entry, layer in zip(entries, made_layers.values(), strict=True)
        for call in _calls(entry, layer, made_layers)
    ]
    structure = _history(config.get("input_layers"), f"{place}: input_layers")
    inputs = list(tensors(structure))
    keys = tuple(sorted(structure)) if isinstance(structure, Mapping) else tuple(ref.layer for ref in inputs)
    outputs = list(tensors(_history(config.get("output_layers"), f"{place}: output_layers")))
    if any(isinstance(node, Mapping) for entry in entries for node in entry.get("inbound_nodes") or ()):
        outputs = _outputs_renumbered(calls, outputs, made_layers)
    else:
        calls = _renumbered(calls, outputs, made_layers)
    if len(calls) > MAX_CALLS:
        raise FormatError(f"{place}: {len(calls)} calls, expected at most {MAX_CALLS}")
    if not inputs or not outputs:
        raise FormatError(f"{place}: a functional model without input_layers or output_layers")
    for ref in inputs:
        if ref.layer not in made_layers or made_layers[ref.layer].class_name != "InputLayer":
            raise FormatError(f"{place}: input {shown(ref.layer)!r} is no InputLayer")
    return Network(name, False, made_layers, _ordered(calls, inputs, outputs, place), inputs, outputs, keys)


def _sequential(name: str, layers: dict[str, Layer], config: Mapping[str, Any], written: Mapping[str, Any]) -> Network:
    """A Sequential as a network: each layer called once, on what the layer before it gave."""
    if not any(layer.class_name == "InputLayer" for layer in layers.values()):
        layers = {"": Layer("", "InputLayer", _sequential_input(layers, config, written)), **layers}
    names = list(layers)
    if layers[names[0]].class_name != "InputLayer":
        raise FormatError(f"{layers[names[0]].place}: {layers[names[0]].where} before the InputLayer")
    before = Ref(names[0], 0, 0)
    calls = []
    for layer in names[1:]:
        calls.append(Call(layer, 0, (before,), {}))
        before = Ref(layer, 0, 0)
    return Network(name, True, layers, calls, [Ref(names[0], 0, 0)], [before])


def _sequential_input(layers: dict[str, Layer], config: Mapping, written: Mapping) -> dict[str, Any]:
    """The config of the input that a Sequential without an InputLayer was built with."""
    shape = config.get("build_input_shape")
    build = written.get("build_config")
    if shape is None and isinstance(build, Mapping):
        shape = build.get("input_shape")
    first = next(iter(layers.values()), None)
    if first is not None:
        given = _first_shape(first)
        shape = given if given is not None else shape
    return {"batch_input_shape": shape}


def _first_shape(layer: Layer) -> Any:
    """The input shape that the first layer of a Sequential was given."""
    config = layer.config
    for key in ("batch_input_shape", "batch_shape"):
        if config.get(key) is not None:
            return config[key]
    if config.get("input_shape") is not None:
        return [None, *config["input_shape"]]
    if layer.network is not None:
        entry = layer.network.layers[layer.network.inputs[0].layer].config
        return entry.get("batch_shape", entry.get("batch_input_shape"))
    if config.get("input_dim") is not None and layer.class_name != "Embedding":  # Keras 1
        time = [config.get("input_length")] if layer.class_name in ("LSTM", "GRU", "SimpleRNN") else []
        return [None, *time, config["input_dim"]]
    for part in layer.parts.values():
        return _first_shape(part)
    return [None, config.get("input_length")] if layer.class_name == "Embedding" else None


def tensors(nested: Any) -> Iterator[Ref]:
    """The Refs in nested arguments, in Keras's order."""
    return (item for item in leaves(nested) if isinstance(item, Ref))


def leaves(nested: Any) -> Iterator[Any]:
    """The items of nested lists and objects in Keras's order, which sorts an object's keys."""
    if isinstance(nested, (list, tuple)) and not hasattr(nested, "_fields"):
        for item in nested:
            yield from leaves(item)
    elif isinstance(nested, Mapping):
        for _, item in sorted(nested.items()):
            yield from leaves(item)
    else:
        yield nested


def _history(nested: Any, place: str) -> Any:
    """[layer, node, tensor], alone or in lists and objects, as Refs."""
    if isinstance(nested, (list, tuple)) and len(nested) >= 3 and isinstance(nested[0], str):
        return _ref(nested, place)
    if isinstance(nested, (list, tuple)):
        return [_history(item, place) for item in nested]
    if isinstance(nested, Mapping):
        return {key: _history(item, place) for key, item in nested.items()}
    raise FormatError(f"{place}: {shown(str(nested))!r}, expected [layer, node, tensor]")


def _ref(history: Sequence[Any], place: str) -> Ref:
    name, node, tensor = history[:3]
    if not isinstance(name, str) or any(type(n) is not int or not 0 <= n < MAX_CALLS for n in (node, tensor)):
        raise FormatError(f"{place}: {shown(str(list(history[:3])))}, expected [layer, node, tensor]")
    return Ref(name, node, tensor)


def _calls(entry: Mapping[str, Any], layer: Layer, layers: Mapping[str, Layer]) -> list[Call]:
    """The calls of one layer of a functional model."""
    nodes = entry.get("inbound_nodes", [])
    place = f"{layer.place}.inbound_nodes"
    if not isinstance(nodes, list):
        raise FormatError(f"{place}: expected a list")
    if nodes and not isinstance(nodes[0], (list, Mapping)):
        raise FormatError(f"{place}: {shown(str(nodes[0]))!r}, expected calls")
    if nodes and isinstance(nodes[0], list) and nodes[0] and isinstance(nodes[0][0], str):
        nodes = [nodes]  # TFOpLambda and the like write one call without a list around it
    calls = []
    for number, node in enumerate(nodes):
        here = f"{place}[{number}]"
        if isinstance(node, Mapping):
            args, kwargs = _arguments(node.get("args", []), here), _arguments(node.get("kwargs", {}), here)
        else:
            args, kwargs = _old_arguments(node, here, layers)
        calls.append(Call(layer.name, number, tuple(args), kwargs))
    return calls


def _arguments(nested: Any, place: str) -> Any:
    """Keras 3: arguments with Refs for __keras_tensor__."""
    if isinstance(nested, Mapping):
        if nested.get("class_name") == "__keras_tensor__":
            config = nested.get("config")
            history = config.get("keras_history") if isinstance(config, Mapping) else None
            if not isinstance(history, list) or len(history) != 3:
                raise FormatError(f"{place}: a tensor without keras_history")
            return _ref(history, place)
        if "class_name" in nested:
            return _value(nested, place)
        return {key: _arguments(item, place) for key, item in nested.items()}
    if isinstance(nested, list):
        return [_arguments(item, place) for item in nested]
    return nested


def _value(serialised: Mapping[str, Any], place: str) -> Any:
    """A serialised constant among the arguments; others are refused."""
    name, config = serialised.get("class_name"), serialised.get("config")
    if name in ("__tuple__",) and isinstance(serialised.get("value", config), list):
        return [_arguments(item, place) for item in serialised.get("value", config)]
    if name in ("__numpy__", "__tensor__") and isinstance(config, Mapping):
        dtype = config.get("dtype")
        if dtype not in ("float32", "float64", "int32", "int64", "bool"):
            raise UnsupportedError(f"{place}: a constant of dtype {shown(str(dtype))!r}")
        with low_level_errors(place):
            return np.array(config.get("value"), dtype)
    if name == "__ellipsis__":
        return ...
    if name == "__slice__" and isinstance(config, Mapping):
        parts = [config.get(key) for key in ("start", "stop", "step")]
        if all(part is None or type(part) is int for part in parts):
            return slice(*parts)
    raise UnsupportedError(f"{place}: an argument of class {shown(str(name), 60)!r}, expected tensors and numbers")


def _old_arguments(node: Any, place: str, layers: Mapping[str, Layer]) -> tuple[list[Any], dict[str, Any]]:
    """Keras 1 and 2: a list of [layer, node, tensor] or, with keyword arguments, [layer, node, tensor, arguments]."""
    if not isinstance(node, list) or not node:
        raise FormatError(f"{place}: expected a list of [layer, node, tensor, arguments]")
    kwargs: dict[str, Any] = {}
    refs = []
    for item in node:
        if not isinstance(item, list) or len(item) not in (3, 4):
            raise FormatError(f"{place}: {shown(str(item))!r}, expected [layer, node, tensor, arguments]")
        if item[0] == "_CONSTANT_VALUE":
            refs.append(item[2])
            continue
        refs.append(_ref(item, place))
        if len(item) == 4:
            if not isinstance(item[3], Mapping):
                raise FormatError(f"{place}: arguments {shown(str(item[3]))!r}, expected an object")
            kwargs |= {key: _old_tensors(value, place, layers) for key, value in item[3].items()}
    return [refs[0] if len(refs) == 1 else refs], kwargs


def _old_tensors(nested: Any, place: str, layers: Mapping[str, Layer]) -> Any:
    if isinstance(nested, list):
        if len(nested) == 3 and isinstance(nested[0], str) and nested[0] in layers and type(nested[1]) is int:
            return _ref(nested, place)
        return [_old_tensors(item, place, layers) for item in nested]
    return nested


def _outputs_renumbered(calls: list[Call], outputs: list[Ref], layers: Mapping[str, Layer]) -> list[Ref]:
    """Outputs under the numbers of calls: Keras 3 counts a functional model's own call first there, and there alone."""
    count = Counter(call.layer for call in calls)
    renumbered = []
    for ref in outputs:
        layer = layers.get(ref.layer)
        functional = layer is not None and layer.network is not None and not layer.network.sequential
        last = count[ref.layer] - 1
        if functional and ref.node == 0 and last > 0:
            raise FormatError(f"{cast(Layer, layer).place}: output of call 0 of {last + 1}, expected 1 to {last + 1}")
        if functional or (layer is not None and layer.refused and ref.node > last):
            ref = ref._replace(node=max(ref.node - 1, 0))
        renumbered.append(ref)
    return renumbered


def _renumbered(calls: list[Call], outputs: list[Ref], layers: Mapping[str, Layer]) -> list[Call]:
    """Calls under the numbers that Refs use: Keras 2 counts a nested model's own call first, and leaves it out."""
    used: dict[str, set[int]] = {}
    for ref in [*tensors([[call.args, dict(call.kwargs)] for call in calls]), *outputs]:
        used.setdefault(ref.layer, set()).add(ref.node)
    count: dict[str, int] = {}
    for call in calls:
        count[call.layer] = count.get(call.layer, 0) + 1
    shifted = {
        name
        for name, nodes in used.items()
        if name in layers and layers[name].network is not None and 0 not in nodes and max(nodes) == count.get(name)
    }
    return [dataclasses.replace(call, node=call.node + 1) if call.layer in shifted else call for call in calls]


def _ordered(calls: list[Call], inputs: list[Ref], outputs: list[Ref], place: str) -> list[Call]:
    """The calls that the outputs need, each after those it reads. FormatError for cycles and missing ones."""
    by_key = {(call.layer, call.node): call for call in calls}
    done: set[tuple[str, int]] = {(ref.layer, ref.node) for ref in inputs}
    ordered: list[Call] = []
    open_: set[tuple[str, int]] = set()
    stack = [(ref.layer, ref.node) for ref in reversed(outputs)]
    while stack:
        key = stack[-1]
        if key in done:
            stack.pop()
            continue
        if key not in by_key:
            raise FormatError(f"{place}: call {key[1]} of layer {shown(key[0])!r} is read, but there is none")
        call = by_key[key]
        missing = [
            (ref.layer, ref.node)
            for ref in tensors([call.args, dict(call.kwargs)])
            if (ref.layer, ref.node) not in done
        ]
        if not missing:
            ordered.append(call)
            done.add(key)
            stack.pop()
        elif key in open_:
            raise FormatError(f"{place}: layer {shown(key[0])!r} is in a cycle")
        else:
            open_.add(key)
            stack.extend(missing)
    return ordered
