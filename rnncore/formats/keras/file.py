"""Keras's files: .keras, whole models and weights as .h5 -> Spec and Weights, without Keras and without h5py.

    .keras            a zip of config.json, metadata.json and model.weights.h5 (Keras 3, tf.keras from 2.12 on)
    legacy .h5        HDF5 with the config in attribute model_config and the arrays in model_weights (Keras 1 and 2)
    .weights.h5       HDF5 with the tree of attributes of a .keras; the network comes from ``architecture``
    weights as .h5    HDF5 with attribute layer_names; likewise

The version of Keras that wrote the file decides what its config means: see config.Version.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rnncore.errors import FormatError, RnncoreError, UnsupportedError
from rnncore.files.cursor import Cursor, low_level_errors, open_cursor, shown
from rnncore.files.zip_reader import Archive
from rnncore.formats._foreign import is_hdf5
from rnncore.formats.checkpoint import Checkpoint
from rnncore.formats.hdf5_file import Group, open_hdf5
from rnncore.formats.keras.config import (
    NONE,
    Call,
    Layer,
    Layers,
    Network,
    Ref,
    Version,
    network_of,
    parse_json,
    tensors,
)
from rnncore.formats.keras.layers import LAYERS, lower_network, settle_classes
from rnncore.formats.keras.operations import OPERATIONS
from rnncore.formats.keras.variables import bind_groups, bind_store
from rnncore.formats.keras.weights import keras_checkpoint
from rnncore.formats.listing import ListedNode, Listing
from rnncore.formats.native import ModelFile
from rnncore.graph.weights import Weights

__all__ = ["checkpoint", "listing", "read", "read_weights"]

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


def read(cursor: Cursor, archive: Archive | None = None, *, layers: Layers = NONE) -> ModelFile | Checkpoint:
    """The network and weights of a file, or its arrays where it has weights alone.

    FormatError, UnsupportedError, WeightError, with the file's name.
    """
    with _named(cursor.place):
        config, version, group = _opened(cursor, archive)
        if config is None:
            return keras_checkpoint(group, str(version))
        return _network_file(network_of(config, "", layers=layers), version, group)


def checkpoint(cursor: Cursor, archive: Archive | None = None) -> Checkpoint | None:
    """The arrays of a file of weights alone; None for a file with its network."""
    with _named(cursor.place):
        config, version, group = (None, None, None) if archive is not None else _opened(cursor, archive)
        return None if group is None or config is not None else keras_checkpoint(group, str(version))


def read_weights(
    path: str | os.PathLike[str], architecture: Mapping[str, Any] | str | os.PathLike[str], layers: Layers = NONE
) -> ModelFile:
    """A file of weights with a network from elsewhere.

    architecture  what model.to_json() gives: the object, the text, or the name of a file of it; its keras_version is
                  used where the file of weights does not have its own
    """
    given = _architecture(architecture)
    with open_cursor(path) as cursor, low_level_errors(cursor.place), _named(cursor.place):
        size = min(8, len(cursor))
        if not is_hdf5(cursor.slice(0, size).bytes(size)):
            raise UnsupportedError(f"{cursor.place}: architecture is for HDF5 weights, expected a .h5 file")
        _, version, group = _opened(cursor, None)
        says = given.get("keras_version")
        if "layer_names" not in group.attributes or "keras_version" not in group.attributes:
            version = Version.of(says) if isinstance(says, str) else version
        if version.major < 2 and says is None and "layer_names" not in group.attributes:
            version = Version(3, 0)  # only Keras 3 and late tf.keras write trees of attributes
        return _network_file(network_of(given, "architecture", layers=layers), version, group)


def _architecture(given: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    if isinstance(given, str) and given.lstrip().startswith("{"):
        return parse_json(given, "architecture")
    place = os.fsdecode(given)
    with low_level_errors(place):
        return parse_json(Path(given).read_bytes(), place)


def listing(cursor: Cursor, archive: Archive | None = None) -> Listing | None:
    """The layers of a file, also of one that read refuses; None for a file of weights alone."""
    with _named(cursor.place):
        config, version, group = _opened(cursor, archive)
        kind = "Keras, .keras" if archive is not None else "Keras, .h5"
        facts = {"keras": str(version)}
        if config is None:
            return None
        network = network_of(config, "")
        problem = None
        try:
            _network_file(network, version, group)
        except RnncoreError as error:
            problem = str(error)
        nodes = tuple(_listed(layer, network) for layer in network.layers.values() if layer.name)
        inputs = {ref.layer or "input": _declared(network.layers[ref.layer]) for ref in network.inputs}
        outputs = {f"{ref.layer}:{ref.tensor}" if ref.tensor else ref.layer: "" for ref in network.outputs}
        return Listing(cursor.place, kind, nodes, inputs, outputs, facts, problem)


def _declared(layer: Layer) -> str:
    shape = layer.config.get("batch_shape", layer.config.get("batch_input_shape"))
    return f"{layer.config.get('dtype') or 'float32'} {shape}"


def _listed(layer: Layer, network: Network) -> ListedNode:
    reads = [ref.layer for call in network.calls if call.layer == layer.name for ref in _refs(call)]
    known = layer.network is not None or layer.class_name in (OPERATIONS if layer.is_operation else LAYERS)
    options = ", ".join(
        f"{key}={shown(str(value), 40)}"
        for key, value in layer.config.items()
        if isinstance(value, (int, float, str)) and key not in ("name", "trainable", "dtype")
    )
    problem = None if known and not layer.refused else f"{layer.class_name} is not accepted"
    return ListedNode(layer.place, layer.name, layer.class_name, tuple(dict.fromkeys(reads)), options, problem)


def _refs(call: Call) -> Iterator[Ref]:
    return tensors([call.args, dict(call.kwargs)])


def _opened(cursor: Cursor, archive: Archive | None) -> tuple[dict[str, Any] | None, Version, Group]:
    """The config, the version that wrote it, and the group of the weights."""
    if archive is not None:
        return _opened_zip(cursor, archive)
    group = open_hdf5(cursor)
    version = _version(group.attributes.get("keras_version"), cursor.place)
    if "model_config" not in group.attributes:
        if "model_weights" in group:
            group = group.group("model_weights")
            version = _version(group.attributes.get("keras_version"), cursor.place)
        return None, version, group
    text = group.attributes["model_config"]
    if not isinstance(text, str):
        raise FormatError(f"{cursor.place}: attribute model_config, expected text")
    config = parse_json(text, f"{cursor.place}: model_config")
    if "model_weights" in group:
        return config, version, group.group("model_weights")
    if "layer_names" in group.attributes:
        return config, version, group
    raise FormatError(f"{cursor.place}: no group 'model_weights', expected the weights next to the config")


def _opened_zip(cursor: Cursor, archive: Archive) -> tuple[dict[str, Any], Version, Group]:
    if WEIGHTS not in archive:
        weights = next((name for name in archive.members if name.startswith("model.weights.")), "none")
        why = ", which holds pickles" if weights.endswith(".npz") else ""
        raise UnsupportedError(f"{cursor.place}: weights in {shown(weights)!r}{why}, expected {WEIGHTS}")
    config = parse_json(archive.read(CONFIG), f"{cursor.place}: {CONFIG}")
    version = Version(3, 0)
    if METADATA in archive:
        metadata = parse_json(archive.read(METADATA), f"{cursor.place}: {METADATA}")
        version = _version(metadata.get("keras_version", "3.0.0"), f"{cursor.place}: {METADATA}")
    inner = Cursor(archive.read(WEIGHTS), f"{cursor.place}: {WEIGHTS}")
    return config, version, open_hdf5(inner)


def _version(text: Any, place: str) -> Version:
    if text is not None and not isinstance(text, str):
        raise FormatError(f"{place}: keras_version {shown(str(text), 40)}, expected text")
    return Version.of(text)


def _network_file(network: Network, version: Version, group: Group) -> ModelFile:
    """Spec and Weights of a network whose arrays are in a group."""
    settle_classes(network)
    left: tuple[str, ...] = ()
    if "layer_names" in group.attributes or "layer_names0" in group.attributes:
        left = bind_groups(network, group, version)
    else:
        bind_store(network, group, version)
    lowered = lower_network(network, version)
    notes = [f"Keras {version}", *lowered.notes]
    if left:
        notes.append(f"tensors that the spec does not use: {', '.join(left)}")
    return ModelFile(lowered.spec, Weights(lowered.spec, lowered.arrays), notes=tuple(notes))


class _named:
    """Puts the file's name before the message of an error raised inside.

    A config may hold anything in the place of anything: what Python says of a type that does not fit is FormatError.
    """

    def __init__(self, place: str):
        self.place = place

    def __enter__(self) -> _named:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> Literal[False]:
        if isinstance(error, RnncoreError) and not str(error).startswith(self.place):
            raise type(error)(f"{self.place}: {error}") from None
        if isinstance(error, (TypeError, AttributeError, LookupError, ArithmeticError)):
            raise FormatError(f"{self.place}: config: damaged: {shown(str(error))}") from None
        return False
