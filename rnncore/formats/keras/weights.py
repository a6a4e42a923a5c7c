"""Keras's files of weights alone, of any generation, as a checkpoint: their arrays, and the weights of a Spec's nodes.

    .weights.h5 of Keras 3   layers/lstm/cell/vars/0, by class and counter; vars has the layer's name as an attribute
    weights as .h5           lstm_1/lstm_1/kernel:0, listed by the attributes layer_names and weight_names

A checkpoint has the arrays under those paths. ``keras_plain`` turns those of Dense, Embedding, SimpleRNN, LSTM, GRU
and their cells (CuDNN's too) and Bidirectional of them into the weights of Linear, Embedding and Recurrent nodes that
have the layer's name: what the Spec of a Keras model calls them. Arrays of other layers stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from rnncore.errors import FormatError, WeightError
from rnncore.files.cursor import shown
from rnncore.formats._arrays import MAX_TENSORS, check_name
from rnncore.formats.checkpoint import KERAS_WEIGHTS, Checkpoint
from rnncore.formats.hdf5_file import Dataset, Group
from rnncore.formats.keras.recurrent import canonical
from rnncore.formats.keras.variables import group_datasets

__all__ = ["keras_checkpoint", "keras_plain"]

MAX_DEPTH = 16
_LAYER = "layer of "


def keras_checkpoint(group: Group, version: str) -> Checkpoint:
    """The arrays below a group, by their paths. FormatError for a damaged file.

    metadata holds "layer of PATH" -> the name of the layer whose group that is.
    """
    metadata = {"keras": version}
    if group.chunked_attribute("layer_names") is not None:
        datasets = _listed(group, metadata)
    else:
        datasets = _walked(group, (), metadata)
    tensors: dict[str, np.ndarray] = {}
    for name, dataset in datasets:
        check_name(name, group.place)
        if name in tensors:
            raise FormatError(f"{group.place}: two arrays are named {shown(name)!r}")
        if len(tensors) >= MAX_TENSORS:
            raise FormatError(f"{group.place}: more than {MAX_TENSORS} arrays")
        tensors[name] = dataset.read()
        tensors[name].flags.writeable = False
    if not tensors:
        raise FormatError(f"{group.place}: no arrays, expected Keras's weights")
    dtypes = {name: array.dtype.name for name, array in tensors.items()}
    return Checkpoint(group.place, KERAS_WEIGHTS, tensors, dtypes, metadata=metadata)


def _listed(group: Group, metadata: dict[str, str]) -> Iterator[tuple[str, Dataset]]:
    for layer, names, datasets in group_datasets(group):
        metadata[f"{_LAYER}{layer}"] = layer
        yield from ((f"{layer}/{name}", dataset) for name, dataset in zip(names, datasets, strict=True))


def _walked(group: Group, path: tuple[str, ...], metadata: dict[str, str]) -> Iterator[tuple[str, Dataset]]:
    if len(path) > MAX_DEPTH:
        raise FormatError(f"{group.place}: groups within groups, expected at most {MAX_DEPTH}")
    if path[-1:] == ("vars",):
        name = group.attributes.get("name")
        if isinstance(name, str):
            metadata[_LAYER + "/".join(path[:-1])] = name
    for name in group.names:
        child = group.child(name)
        if isinstance(child, Dataset):
            yield "/".join((*path, name)), child
        else:
            yield from _walked(child, (*path, name), metadata)


# --- as a Spec has them -------------------------------------------------------------------------------------------

_CELLS = ("simple_rnn", "lstm", "gru", "cu_dnnlstm", "cu_dnngru")
_CLASSES = (*_CELLS, "dense", "embedding")
_ROLES = ("kernel", "recurrent_kernel", "bias")
_HALVES = {"forward_layer": "", "backward_layer": "_reverse"}


def keras_plain(checkpoint: Checkpoint) -> tuple[dict[str, np.ndarray], dict[str, tuple[str, ...]]]:
    """The tensors with those of known layers under the names of a Spec's weights; such a name -> the arrays' paths.

    Raises WeightError for arrays whose shapes contradict their layer.
    """
    layers: dict[str, dict[str, dict[str, str]]] = {}
    for path in checkpoint.tensors:
        layer, part, role = _placed(path, checkpoint.metadata)
        layers.setdefault(layer, {}).setdefault(part, {})[role] = path
    plain: dict[str, np.ndarray] = {}
    made: dict[str, tuple[str, ...]] = {}
    for layer, parts in layers.items():
        paths = tuple(path for roles in parts.values() for path in roles.values())
        weights = _layer(layer, parts, checkpoint.tensors)
        if len(paths) == 1 and not _is_certain(paths[0], checkpoint.metadata):
            # One square matrix may be a Dense layer's or an Embedding's: either way it would fit.
            weights = None if len(set(checkpoint.tensors[paths[0]].shape)) == 1 else weights
        if weights is None:
            plain.update({path: checkpoint.tensors[path] for path in paths})
            continue
        for name, (array, path) in weights.items():
            key = f"{layer}.{name}"
            if key in plain:
                raise WeightError(f"{layer}: two layers have {key!r}")
            plain[key], made[key] = array, (path,)
    return plain, made


def _placed(path: str, metadata: Mapping[str, str]) -> tuple[str, str, str]:
    """The layer that an array is of, the part of it ("", "forward" or "backward"), and the array's role there."""
    words = path.split("/")
    if "vars" in words[:-1]:
        at = len(words) - 2
        below = words[:at]
        classes = _classes_of(below, metadata)
        if below[-1:] == ["cell"] and len(below) > 1:
            below = below[:-1]
            classes += _classes_of(below, metadata)
        part = below.pop() if below[-1:] and below[-1] in _HALVES else ""
        place = "/".join(below)
        name = metadata.get(f"{_LAYER}{place}", place.removeprefix("layers/"))
        outside = "/".join(below[:-1]).removesuffix("layers").strip("/")
        named = [metadata.get(f"{_LAYER}{outside}", outside)] if outside else []
        return "/".join((*named, name)), part, f"{classes[0] if classes else ''}/{words[-1]}"
    layer = next(
        ("/".join(words[:end]) for end in range(1, len(words)) if f"{_LAYER}{'/'.join(words[:end])}" in metadata), ""
    )
    inner = words[layer.count("/") + 1 : -1]  # model/layer/cell, of which the writers leave out some
    inner = inner[inner.index(layer) + 1 :] if layer in inner else inner
    half = next((word for word in inner if word.startswith(("forward_", "backward_"))), "")
    inner = [word for word in inner if word != half and not re.fullmatch(r"(simple_rnn|lstm|gru)_cell(_\d+)?", word)]
    part = f"{half.partition('_')[0]}_layer" if half else ""
    return "/".join((layer, *inner)), part, re.sub(r"(_\d+)?(:\d+)?$", "", words[-1])


def _classes_of(below: list[str], metadata: Mapping[str, str]) -> list[str]:
    """The known classes in snake case that the layer of a group may have, the likeliest first.

    Among "layers" a group is named for the class, with a counter; else for the attribute of a model of one's own, and
    the layer's own name has the class, unless it was given one.
    """
    words = [below[-1] if below else "", metadata.get(f"{_LAYER}{'/'.join(below)}", "")]
    classes = [re.sub(r"(_cell)?(_\d+)?$", "", word) for word in words]
    if below[-2:-1] == ["layers"]:
        classes = classes[:1]
    return [name for name in reversed(classes) if name in _CLASSES]


def _is_certain(path: str, metadata: Mapping[str, str]) -> bool:
    """Whether an array's layer is of the class that names say: those of attributes and layers are chosen freely."""
    words = path.split("/")
    below = words[:-2]
    classes = _classes_of(below, metadata)
    return words[-2] != "vars" or below[-2:-1] == ["layers"] or (len(classes) == 2 and len(set(classes)) == 1)


Named = dict[str, tuple[np.ndarray, str]]
"""Name -> an array and its path in the file."""


def _layer(layer: str, parts: Mapping[str, Mapping[str, str]], tensors: Mapping[str, np.ndarray]) -> Named | None:
    """The weights of a layer's node by their names there; None where it is none of those that are known."""
    arrays = {
        part: {_role(role, part, roles): (tensors[path], path) for role, path in roles.items()}
        for part, roles in parts.items()
    }
    if set(arrays) == set(_HALVES):
        halves = {suffix: _recurrent(layer, arrays[part], suffix) for part, suffix in _HALVES.items()}
        return {**(halves[""] or {}), **(halves["_reverse"] or {})} if all(halves.values()) else None
    if set(arrays) != {""}:
        return None
    own = arrays[""]
    if "recurrent_kernel" in own:
        return _recurrent(layer, own, "")
    if set(own) == {"embeddings"}:
        return {"weight": own["embeddings"]}
    if set(own) <= {"kernel", "bias"} and "kernel" in own and own["kernel"][0].ndim == 2:
        kernel, path = own.pop("kernel")
        return {"weight": (kernel.T, path), **own}
    return None


def _role(role: str, part: str, roles: Mapping[str, str]) -> str:
    """kernel, recurrent_kernel, bias or embeddings, of what Keras 3 only numbers; others as they are."""
    kind, slash, number = role.partition("/")
    if not slash or not number.isdigit():
        return role
    names = {"dense": ("kernel", "bias"), "embedding": ("embeddings",)}.get(kind, ())
    names = _ROLES if kind in _CELLS or (part and 2 <= len(roles) <= 3) else names
    return names[int(number)] if int(number) < len(names) else role


def _recurrent(layer: str, own: Named, suffix: str) -> Named | None:
    """A recurrent layer's canonical weights; None where it is no SimpleRNN, LSTM or GRU."""
    if not {"kernel", "recurrent_kernel"} <= set(own) <= {"kernel", "recurrent_kernel", "bias"}:
        return None
    arrays = [own[name][0] for name in _ROLES if name in own]
    rows, columns = arrays[1].shape if arrays[1].ndim == 2 else (0, 0)
    kind = {1: "SimpleRNN", 3: "GRU", 4: "LSTM"}.get(columns // rows) if rows and columns % rows == 0 else None
    if kind is None or arrays[0].ndim != 2:
        return None
    source = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias": "bias", "bias_hn": "bias"}
    return {f"{key}_l0{suffix}": (array, own[source[key]][1]) for key, array in canonical(kind, arrays, layer).items()}
