"""From a file to a Model: load, save and convert."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

import numpy as np

from rnncore.errors import FormatError, MissingFileError, RnncoreError, SpecError, UnsupportedError
from rnncore.files.cursor import InMemory
from rnncore.formats import Checkpoint, native, read_file, sharded
from rnncore.formats.checkpoint import KERAS_WEIGHTS, QUANTIZED
from rnncore.formats.native import ModelFile
from rnncore.graph.limits import limited_nodes
from rnncore.graph.spec import Spec
from rnncore.runtime.budget import Budget, file_nodes
from rnncore.runtime.model import Model

if TYPE_CHECKING:
    from rnncore.export.exported import Exported
    from rnncore.formats.verification import Verification
    from rnncore.graph.test_pair import TestPair

__all__ = ["convert", "load", "open_file", "read_spec", "save"]

SpecSource: TypeAlias = "Spec | Mapping[str, Any] | str | os.PathLike[str]"
Architecture: TypeAlias = "Mapping[str, Any] | str | os.PathLike[str]"
Meanings: TypeAlias = "Mapping[str, Callable[[dict[str, Any]], Any]]"

ZOO = "zoo:"
FOREIGN_DIRECTORIES = {
    "saved_model.pb": "a TensorFlow SavedModel: save the model as .keras, or convert it by tf2onnx",
    "Manifest.json": "a Core ML package: expected the model that it was converted from",
}
NOT_USED = "tensors that the spec does not use: "


def load(
    path: str | os.PathLike[str],
    *,
    spec: SpecSource | None = None,
    names: Mapping[str, str] | None = None,
    architecture: Architecture | None = None,
    layers: Meanings | None = None,
    sizes: Mapping[str, int] | None = None,
    dtype: str | None = None,
    check: bool = False,
    budget: Budget | None = None,
) -> Model:
    """A Model from a file.

    path   rnncore's own file or its directory; a model with its network: .onnx, or Keras's .keras or .h5; PyTorch
           weights as .pt, .pth, .bin, .safetensors or .npz, or in several files by their .index.json; or "zoo:NAME" for
           a model that comes with the package. Also the bytes of such a file, or a binary file that is open, of which
           all that remains is read. What a file is, its content says, not its name
    spec   what the network is, for a file of bare weights: a Spec, its JSON as an object, or the name of a JSON
           file. Weights that are one recurrent stack and nothing else need none
    names  weight or node names of the Spec -> names in the file, where they differ
    architecture  the network for a file of Keras's that holds weights alone (.weights.h5, .h5): what model.to_json()
           gives, as an object, a text, or the name of a file
    layers  for a file of Keras's with layers of one's own: the name of a class -> a function of a layer's config (a
           dict) that says what computes it. That is (op, attributes), one of rnncore's ops on the layer's inputs,
           whose weights are the layer's arrays in the order of get_weights; the config of one of Keras's layers or
           models, {"class_name": "Dense", "config": {...}}, with the arrays of such a one; or a Spec on the layer's
           inputs, whose weights are its arrays in the order of the Spec's. For a functional model's subclass that
           changes how it is trained and no more: lambda config: {"class_name": "Functional", "config": config}
    sizes  a number for some of the sizes of inputs that have a name, {"batch_size": 1}: where a graph's shapes depend
           on them, or to run as the file's author did
    dtype  "float32" or "float64"; None: what the file computes in, float64 for an ONNX file of float64 and for a
           file of ours made of such a one or saved from a float64 Model, else float32
    check  replay the file's test pair, and raise VerificationError if the outputs differ or there is none
    budget  the most that one call of the model may do, Budget(work=1e9, memory=1 << 30), see Model; and how many nodes
           the file may have, Budget(nodes=50_000)

    Weights of modules that the Spec does not have are left out with a warning that names them (an optimiser's without),
    and quantized weights of PyTorch's, read as float32, come with one that says so.

    Raises MissingFileError (also a FileNotFoundError) for a missing file, FormatError for a damaged or malicious
    file, UnsupportedError for one that rnncore cannot read (MissingPackageError where that takes an extra), SpecError
    and WeightError where the file and the Spec contradict each other.
    """
    file = open_file(path, spec=spec, names=names, architecture=architecture, layers=layers, sizes=sizes, budget=budget)
    model = Model(file.spec, file.weights, dtype or file.dtype, vocabulary=file.vocabulary, budget=budget)
    for note in file.notes:
        if note.startswith((NOT_USED, QUANTIZED)):
            warnings.warn(f"{name_of(path)}: {note}", UserWarning, stacklevel=2)
    if check:
        from rnncore.formats.verification import check_pair  # not for a model that is only run

        check_pair(model, file.test_pair, name_of(path)).require()
    return model


def open_file(
    path: str | os.PathLike[str],
    *,
    spec: SpecSource | None = None,
    names: Mapping[str, str] | None = None,
    architecture: Architecture | None = None,
    layers: Meanings | None = None,
    sizes: Mapping[str, int] | None = None,
    budget: Budget | None = None,
) -> ModelFile:
    """Spec, weights, test pair and origin from any file that ``load`` takes; options as there."""
    source = resolve(path)
    name = str(source) if isinstance(source, InMemory) else str(path)
    with limited_nodes(file_nodes(budget)):
        if architecture is None:
            checkpoint = read_file(source, sizes, layers)
        else:
            checkpoint = _with_architecture(source, architecture, layers)
        file = _opened(name, source, checkpoint, spec, names)
        # The reader of a graph format took the sizes itself.
        return file if isinstance(checkpoint, ModelFile) and architecture is None else _sized(name, file, sizes)


def _sized(name: str, file: ModelFile, sizes: Mapping[str, int] | None) -> ModelFile:
    try:
        return dataclasses.replace(file, spec=file.spec.sized(sizes)) if sizes else file
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None


def _opened(
    path: str,
    source: Path | InMemory,
    checkpoint: Checkpoint | ModelFile,
    spec: SpecSource | None,
    names: Mapping[str, str] | None,
) -> ModelFile:
    """A file that was read, as a Spec with its weights."""
    own = isinstance(checkpoint, ModelFile) or native.is_native(checkpoint)
    if own and (spec is not None or names is not None):
        raise SpecError(f"{path}: this file holds its own network, expected no spec or names")
    if isinstance(checkpoint, ModelFile):
        return dataclasses.replace(checkpoint, source=_base(source), sha256=_sha256(source))
    if own:
        return native.from_checkpoint(checkpoint)
    from rnncore.formats.plain_weights import plain_weights
    from rnncore.formats.torch.names import bind, is_optimizer, only_stack  # not for files that hold their network

    wanted = None if spec is None else read_spec(spec)
    try:
        plain = plain_weights(checkpoint, wanted)
        tensors, notes = plain.tensors, plain.notes
        if wanted is None:
            if checkpoint.format == "TorchScript":
                raise UnsupportedError("a TorchScript archive, whose program is not read: give a spec for its weights")
            if checkpoint.format == KERAS_WEIGHTS:
                raise UnsupportedError(
                    "weights without a network, expected architecture=... with what model.to_json() gives"
                    " (rnncore convert --architecture FILE.json), or a spec"
                )
            stack = only_stack(tensors)
            wanted = stack.spec()
            bound = bind(wanted, tensors, names if names is not None else stack.names)
            notes = (*notes, *stack.notes)
        else:
            bound = bind(wanted, tensors, names)
    except RnncoreError as error:
        raise type(error)(f"{path}: {error}{_not_read(checkpoint)}") from None
    left = [name for name in bound.unused if not is_optimizer(name)]
    unused = (f"{NOT_USED}{', '.join(left)}",) if left else ()
    return ModelFile(wanted, bound.weights, None, source=_base(source), sha256=_sha256(source), notes=(*notes, *unused))


def _not_read(checkpoint: Checkpoint) -> str:
    """Of a file without the tensors that were wanted: those it has in a form that is not read."""
    quantised = [entry for entry in checkpoint.skipped if "quantised" in entry.reason]
    if not quantised:
        return ""
    what = f"{len(quantised)} quantised tensors are not read ({quantised[0].path})"
    return f"; {what}: expected the float module's state_dict"


def _base(source: Path | InMemory) -> str:
    return source.name if isinstance(source, Path) else ""


def _sha256(source: Path | InMemory) -> str:
    import hashlib  # OpenSSL, which loading a model has no use for

    return file_sha256(source) if isinstance(source, Path) else hashlib.sha256(source.data).hexdigest()


def _with_architecture(
    source: Path | InMemory,
    architecture: Architecture,
    layers: Meanings | None,
) -> ModelFile:
    from rnncore.formats.keras.file import read_weights

    return read_weights(cast(Path, source), architecture, layers or {})


def save(
    path: str | os.PathLike[str],
    model: Model | ModelFile | Exported,
    *,
    test_pair: TestPair | None = None,
    vocabulary: Mapping[str, Iterable[str]] | None = None,
) -> Path:
    """Write rnncore's own file: a Model, a ModelFile, or what an exporter returned (with its test pair).

    A directory, or a name without a suffix, gets a model.safetensors inside. Returns the path of the file. A Model
    does not carry the test pair and origin of the file it came from: to keep them, use convert, or give test_pair.

    vocabulary  name of an input or output -> the tokens its ids stand for; None: what the model carries
    """
    if not isinstance(model, ModelFile):
        pair = test_pair if test_pair is not None else getattr(model, "test_pair", None)
        model = ModelFile(
            model.spec,
            model.weights,
            pair,
            source=getattr(model, "source", ""),
            notes=tuple(getattr(model, "notes", ())),
            vocabulary=getattr(model, "vocabulary", {}),
            dtype=np.dtype(getattr(model, "dtype", "float32")).name,
        )
    if vocabulary is not None:
        model = dataclasses.replace(model, vocabulary=cast(Any, vocabulary))
    if model.test_pair is not None:
        model.test_pair.check(model.spec)
    return native.write(path, model)


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    spec: SpecSource | None = None,
    names: Mapping[str, str] | None = None,
    architecture: Architecture | None = None,
    layers: Meanings | None = None,
    sizes: Mapping[str, int] | None = None,
    verify: bool = False,
    vocabulary: Mapping[str, Iterable[str]] | None = None,
    budget: Budget | None = None,
) -> tuple[Path, ModelFile, Verification | None]:
    """Write a file's weights and Spec as rnncore's own file.

    With verify the file's test pair is replayed first, and nothing is written if it fails. vocabulary as for save, the
    other options as for load; of the budget its nodes.
    Returns the path written, what it holds, and the verification.
    """
    file = open_file(
        source, spec=spec, names=names, architecture=architecture, layers=layers, sizes=sizes, budget=budget
    )
    if vocabulary is not None:
        file = dataclasses.replace(file, vocabulary=cast(Any, vocabulary))
    report = None
    if verify:
        from rnncore.formats.verification import check_pair

        report = check_pair(Model(file.spec, file.weights, file.dtype), file.test_pair, name_of(source))
        report.require()
    return native.write(target, file), file, report


def read_spec(given: SpecSource) -> Spec:
    """A Spec as it is, from the object its JSON holds, or from a JSON file."""
    if isinstance(given, Spec):
        return given
    if isinstance(given, Mapping):
        return Spec.from_json(given)
    try:
        text = Path(given).read_bytes()
    except OSError as error:
        raise SpecError(f"{given}: {error.strerror}, expected a JSON file with a Spec") from None
    try:
        return Spec.from_json(text)
    except RnncoreError as error:
        raise type(error)(f"{given}: {error}") from None


def name_of(path: Any) -> str:
    """The name in messages of a file that ``load`` is given: never its content."""
    if isinstance(path, (bytes, bytearray, memoryview)):
        return f"<{memoryview(path).nbytes:,} bytes>"
    if hasattr(path, "read"):
        name = getattr(path, "name", None)
        return name if isinstance(name, str) else f"<{type(path).__name__}>"
    return str(path) if isinstance(path, (str, os.PathLike)) else f"<{type(path).__name__}>"


def resolve(path: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO) -> Path | InMemory:
    """The file of a path or a "zoo:NAME", of a directory the one that is the model; or bytes as they are."""
    if isinstance(path, (bytes, bytearray, memoryview)):
        return InMemory(bytes(path), name_of(path))
    if hasattr(path, "read"):
        data = path.read()
        if not isinstance(data, (bytes, bytearray)):
            raise FormatError(f"{name_of(path)}: reads {type(data).__name__}, expected a file opened in binary mode")
        return InMemory(bytes(data), name_of(path))
    if not isinstance(path, (str, os.PathLike)):
        raise FormatError(f"{name_of(path)}: expected a path, bytes or a binary file")
    if isinstance(path, str) and path.startswith(ZOO):
        name = path.removeprefix(ZOO)
        shipped = {file.stem: file for file in (Path(__file__).parents[1] / "zoo").glob("*.safetensors")}
        if name not in shipped:
            raise MissingFileError(
                f"{path}: no such model, expected one of {', '.join(ZOO + known for known in sorted(shipped))}"
            )
        return shipped[name]
    return _in_directory(Path(path))


def _in_directory(path: Path) -> Path:
    """Of a directory the file that is the model: rnncore's own, or the index of several."""
    if not path.is_dir():
        return path
    for name, what in FOREIGN_DIRECTORIES.items():
        if (path / name).exists():
            raise UnsupportedError(f"{path}: a directory of {what}, expected a file, or one with {native.FILE_NAME}")
    index = next((path / name for name in sharded.INDEX_NAMES if (path / name).exists()), None)
    return index if index is not None and not (path / native.FILE_NAME).exists() else path / native.FILE_NAME


def file_sha256(path: Path) -> str:
    import hashlib  # OpenSSL, which loading a model has no use for

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
