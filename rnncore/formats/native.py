"""rnncore's own file: safetensors, with the Spec in its metadata and, if there is one, a test pair.

The metadata holds one key, "rnncore", a JSON object:

    format    version of this layout, 1
    spec      the Spec (Spec.to_json)
    producer  the program that wrote it: "rnncore 0.1.0"
    source    where the weights come from: "torch 2.13.0", a file's name; may be empty
    sha256    of the file they come from; may be empty
    notes     what the exporter or converter did to the model, in sentences
    vocabulary  name of an input or output -> the tokens that its ids stand for; absent without any
    dtype     "float64" where the source computes in it; absent for "float32"

Tensors are the weights under their canonical names, and "test_pair.inputs.NAME" and "test_pair.outputs.NAME".
One key and sorted JSON because the same model then gives the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rnncore._version import __version__
from rnncore.errors import FormatError, InputError, RnncoreError, SpecError
from rnncore.files import atomic
from rnncore.files.strict_json import read_json
from rnncore.formats import safetensors_file
from rnncore.formats.checkpoint import Checkpoint
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair
from rnncore.graph.vocabulary import Vocabulary, check_vocabularies
from rnncore.graph.weights import Weights

__all__ = ["ModelFile", "from_checkpoint", "is_native", "read", "write"]

FORMAT_VERSION = 1
KEY = "rnncore"
FIELDS = {"format", "spec", "producer", "source", "sha256", "notes", "vocabulary", "dtype"}
COMPUTED = ("float32", "float64")
FILE_NAME = "model.safetensors"
_PAIR = "test_pair."


@dataclass(frozen=True)
class ModelFile:
    """A model as a file holds it. test_pair: None where the converter had none; dtype: that of its source."""

    spec: Spec
    weights: Weights
    test_pair: TestPair | None = None
    source: str = ""
    sha256: str = ""
    notes: tuple[str, ...] = ()
    producer: str = f"rnncore {__version__}"
    vocabulary: Mapping[str, Vocabulary] = field(default_factory=dict)
    dtype: str = "float32"

    def __post_init__(self):
        if self.dtype not in COMPUTED:
            raise SpecError(f"dtype {self.dtype!r}, expected {' or '.join(COMPUTED)}")
        object.__setattr__(self, "vocabulary", check_vocabularies(self.spec, self.vocabulary))


def write(path: str | os.PathLike[str], model: ModelFile) -> Path:
    """Write the file, whole or not at all. A directory, or a name without suffix, gets a model.safetensors inside.

    Returns the path of the file written. SpecError for a node whose weights would be read as a test pair.
    """
    from safetensors.numpy import save

    for name in model.weights:
        if name.startswith(_PAIR):
            raise SpecError(f"{name}: the node's name begins with {_PAIR!r}, which this file keeps for its test pair")
    target = Path(path)
    if target.is_dir() or not target.suffix:
        target.mkdir(parents=True, exist_ok=True)
        target = target / FILE_NAME
    elif target.suffix != ".safetensors":
        raise InputError(f"{path}: expected a directory, or a name that ends in .safetensors")
    tensors = {name: np.asarray(array, order="C") for name, array in model.weights.items()}
    if model.test_pair is not None:
        for side in ("inputs", "outputs"):
            for name, array in getattr(model.test_pair, side).items():
                tensors[f"{_PAIR}{side}.{name}"] = np.asarray(array, order="C")
    description = {
        "format": FORMAT_VERSION,
        "spec": model.spec.to_json(),
        "producer": model.producer,
        "source": model.source,
        "sha256": model.sha256,
        "notes": list(model.notes),
    }
    if model.dtype != "float32":
        description["dtype"] = model.dtype
    if model.vocabulary:
        description["vocabulary"] = {name: list(tokens) for name, tokens in model.vocabulary.items()}
    atomic.write(target, save(tensors, {KEY: json.dumps(description, sort_keys=True, separators=(",", ":"))}))
    return target


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Read and check a native file. Raises FormatError, SpecError or WeightError, each naming the file."""
    file = Path(path)
    checkpoint = safetensors_file.read(file / FILE_NAME if file.is_dir() else file)
    if not is_native(checkpoint):
        raise FormatError(
            f"{path}: a safetensors file without a Spec, expected rnncore's metadata; load it with spec=..."
        )
    return from_checkpoint(checkpoint)


def is_native(checkpoint: Checkpoint) -> bool:
    return KEY in checkpoint.metadata


def from_checkpoint(checkpoint: Checkpoint) -> ModelFile:
    """The native file of a safetensors file that was read already."""
    try:
        return _parse(checkpoint.metadata[KEY], dict(checkpoint.tensors))
    except RnncoreError as error:
        raise type(error)(f"{checkpoint.path}: {error}") from None


def _parse(text: str, tensors: dict[str, np.ndarray]) -> ModelFile:
    fields = read_json(text, f"metadata {KEY!r}", constants=True)  # a Clip's bound may be infinite
    if not isinstance(fields, dict) or not {"format", "spec"} <= set(fields) <= FIELDS:
        keys = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise FormatError(f"metadata {KEY!r}: {keys}, expected an object with {', '.join(sorted(FIELDS))}")
    if fields["format"] != FORMAT_VERSION:
        raise FormatError(f"format {fields['format']!r}, this version of rnncore reads {FORMAT_VERSION}")
    spec = Spec.from_json(_object(fields, "spec"))
    sides: dict[str, dict[str, np.ndarray]] = {"inputs": {}, "outputs": {}}
    for name in [name for name in tensors if name.startswith(_PAIR)]:
        side, _, value = name.removeprefix(_PAIR).partition(".")
        if side not in sides:
            raise FormatError(f"tensor {name!r}, expected {_PAIR}inputs.NAME or {_PAIR}outputs.NAME")
        sides[side][value] = tensors.pop(name)
    pair = TestPair(**sides) if sides["inputs"] or sides["outputs"] else None
    if pair is not None:
        pair.check(spec)
    notes = fields.get("notes", [])
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise FormatError("notes: expected a list of strings")
    words = {key: fields.get(key, "") for key in ("source", "sha256", "producer")}
    words["dtype"] = fields.get("dtype", "float32")
    for key, value in words.items():
        if not isinstance(value, str):
            raise FormatError(f"{key}: {type(value).__name__}, expected a string")
    vocabulary = _object(fields, "vocabulary") if "vocabulary" in fields else {}
    return ModelFile(spec, Weights(spec, tensors), pair, notes=tuple(notes), vocabulary=vocabulary, **words)


def _object(fields: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    if not isinstance(fields[key], dict):
        raise FormatError(f"{key}: {type(fields[key]).__name__}, expected an object")
    return fields[key]
