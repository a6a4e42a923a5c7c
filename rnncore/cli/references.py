"""References of `rnncore verify --against FILE`: arrays in a .npz, a model that its own framework runs, or ours.

A Reference gives the outputs for a model's inputs, and where it can every value on the way. Frameworks are imported
here only, and only for files of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from rnncore.errors import (
    InputError,
    MissingPackageError,
    RnncoreError,
    UnsupportedError,
    VerificationError,
    WeightError,
)
from rnncore.formats import loading, read_checkpoint
from rnncore.formats.verification import all_values
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model

__all__ = ["Reference", "open_reference"]

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """The other side of a comparison.

    what     how it was computed, such as "onnxruntime 1.30"
    run      inputs under the model's names -> outputs under the model's names
    inputs   the inputs that it was computed for, where that is settled
    values   inputs -> values on the way, under the model's names; nothing where they are not known
    live     whether a framework of its own runs it
    """

    what: str
    run: Callable[[Mapping[str, np.ndarray]], Arrays]
    inputs: Mapping[str, np.ndarray] | None = None
    values: Callable[[Mapping[str, np.ndarray]], Arrays] = field(default=lambda inputs: {})
    live: bool = False


def open_reference(path: str, model: Model, threads: int | None = None) -> Reference:
    """The reference that a file holds, by its name: .npz, .onnx, .keras and .h5, or any file that rnncore loads.

    threads: what its framework may use; None leaves that to the framework.

    Raises InputError where its inputs and outputs are not the model's, UnsupportedError where its framework is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz" and _are_values(path, model.spec):
        return _from_arrays(path, model.spec)
    if suffix == ".onnx":
        return _from_onnx(path, model.spec, threads)
    if suffix in (".keras", ".h5", ".hdf5"):
        return _from_keras(path, model.spec, threads)
    return _from_model(path, model)


def _are_values(path: str, spec: Spec) -> bool:
    """Whether a .npz holds values of the graph, and not weights."""
    return any(name in spec.values for name in read_checkpoint(path).tensors)


def _from_arrays(path: str, spec: Spec) -> Reference:
    """Inputs, outputs and, if they are there, values on the way, each under its name in the model."""
    tensors = dict(read_checkpoint(path).tensors)
    inputs = {entry.name: tensors.pop(entry.name) for entry in spec.inputs if entry.name in tensors}
    missing = [entry.name for entry in spec.inputs if not entry.optional and entry.name not in inputs]
    if missing:
        raise InputError(f"{path}: no array {missing[0]!r}, expected the model's inputs {', '.join(missing)}")
    unknown = [name for name in tensors if name not in spec.values]
    if unknown:
        raise InputError(f"{path}: {unknown[0]!r} is no value of the model, expected {', '.join(spec.outputs)}")
    outputs = {name: tensors[name] for name in spec.outputs if name in tensors}
    if not outputs:
        raise InputError(f"{path}: no output of the model, expected at least one of {', '.join(spec.outputs)}")
    return Reference(f"the arrays in {path}", lambda given: outputs, inputs, lambda given: tensors)


def _from_model(path: str, model: Model) -> Reference:
    """Another file that rnncore loads; bare weights with the Spec of the model they are compared with."""
    try:
        opened = loading.open_file(path)
    except (UnsupportedError, WeightError):
        try:
            opened = loading.open_file(path, spec=model.spec)
        except RnncoreError as error:
            raise type(error)(f"{error} (read with the Spec of the model that it is compared with)") from None
    other = Model(opened.spec, opened.weights, model.dtype)
    takes = _matched(path, "input", [e.name for e in opened.spec.inputs if not e.optional], _required(model.spec))
    gives = _matched(path, "output", opened.spec.outputs, model.spec.outputs)
    optional = {entry.name for entry in opened.spec.inputs if entry.optional}

    def given(inputs: Mapping[str, np.ndarray]) -> Arrays:
        return {takes.get(name, name): array for name, array in inputs.items() if name in takes or name in optional}

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        outputs = other.run(given(inputs))
        return {ours: outputs[theirs] for ours, theirs in gives.items()}

    return Reference(f"{path}, run by rnncore", run, values=lambda inputs: all_values(other, given(inputs)))


def _from_onnx(path: str, spec: Spec, threads: int | None) -> Reference:
    try:
        import onnxruntime
    except ImportError:
        return _from_onnx_reference(path, spec)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UnsupportedError(f"{path}: onnxruntime does not load it: {error}") from None
    takes = _matched(path, "input", [entry.name for entry in session.get_inputs()], _required(spec))
    gives = _matched(path, "output", [entry.name for entry in session.get_outputs()], spec.outputs)
    dtypes = {entry.name: ONNX_DTYPES.get(entry.type) for entry in session.get_inputs()}

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        feed = {theirs: inputs[ours].astype(dtypes[theirs] or inputs[ours].dtype) for ours, theirs in takes.items()}
        with _running(path, "onnxruntime"):
            outputs = session.run(list(gives.values()), feed)
        return _arrays(path, dict(zip(gives, outputs, strict=True)))

    return Reference(f"{path}, run by onnxruntime {onnxruntime.__version__}", run, live=True)


def _from_onnx_reference(path: str, spec: Spec) -> Reference:
    """onnx's own evaluator, where onnxruntime is missing."""
    try:
        import onnx
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise MissingPackageError(
            f"{path}: needs onnxruntime to run it, install it with: pip install onnxruntime"
        ) from None
    try:
        session = ReferenceEvaluator(path)
    except Exception as error:
        raise UnsupportedError(f"{path}: onnx.reference does not load it: {error}") from None
    takes = _matched(path, "input", session.input_names, _required(spec))
    gives = _matched(path, "output", session.output_names, spec.outputs)

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        with _running(path, "onnx.reference"):
            outputs = session.run(list(gives.values()), {theirs: inputs[ours] for ours, theirs in takes.items()})
        return _arrays(path, dict(zip(gives, outputs, strict=True)))

    return Reference(f"{path}, run by onnx.reference {onnx.__version__}", run, live=True)


ONNX_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def _from_keras(path: str, spec: Spec, threads: int | None) -> Reference:
    try:
        import keras
    except ImportError:
        raise MissingPackageError(f"{path}: needs keras to run it, install it with: pip install keras") from None
    if threads is not None and keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(threads)
    try:
        loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        raise UnsupportedError(f"{path}: keras does not load it: {type(error).__name__}: {error}") from None
    takes = _matched(path, "input", [tensor.name for tensor in loaded.inputs], _required(spec))
    order = {theirs: ours for ours, theirs in takes.items()}

    def run(inputs: Mapping[str, np.ndarray]) -> Arrays:
        given = [inputs[order[tensor.name]] for tensor in loaded.inputs]
        with _running(path, "keras"):
            outputs = loaded(given[0] if len(given) == 1 else given, training=False)
            several = list(outputs.values()) if isinstance(outputs, dict) else outputs
            several = list(several) if isinstance(several, (tuple, list)) else [several]
            arrays = [np.asarray(keras.ops.convert_to_numpy(array)) for array in several]
        gives = _matched(path, "output", [str(i) for i in range(len(arrays))], spec.outputs)
        return {ours: arrays[int(theirs)] for ours, theirs in gives.items()}

    return Reference(f"{path}, run by keras {keras.__version__} ({keras.backend.backend()})", run, live=True)


@contextmanager
def _running(path: str, what: str) -> Iterator[None]:
    """VerificationError where a framework does not run its own file with inputs that the model takes."""
    try:
        yield
    except Exception as error:
        raise VerificationError(
            f"{path}: {what} does not run it with these inputs: {type(error).__name__}: {error}"
        ) from None


def _arrays(path: str, outputs: Mapping[str, object]) -> Arrays:
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
            kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
            raise VerificationError(f"{path}: output {name!r} is {kind}, expected an array of numbers")
    return cast(Arrays, dict(outputs))


def _required(spec: Spec) -> list[str]:
    return [entry.name for entry in spec.inputs if not entry.optional]


def _matched(path: str, what: str, theirs: Sequence[str], ours: Sequence[str]) -> dict[str, str]:
    """Our name -> theirs: the same names, or the same number in the same order."""
    if set(theirs) >= set(ours):
        return {name: name for name in ours}
    if len(theirs) != len(ours):
        raise InputError(f"{path}: {what}s {', '.join(theirs)}, expected those of the model: {', '.join(ours)}")
    return dict(zip(ours, theirs, strict=True))
