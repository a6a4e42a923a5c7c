"""From an ONNX file to a Spec, Weights and a test pair that ONNX Runtime, or onnx's reference, computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rnncore.errors import InputError, MissingPackageError, UnsupportedError
from rnncore.export.exported import Exported
from rnncore.formats import read_file
from rnncore.formats.native import ModelFile
from rnncore.graph.nodes import Input
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair
from rnncore.ops import numpy_dtype

__all__ = ["from_onnx"]

STEPS = {"T": 7, "B": 2}
# What onnx's reference evaluator computes otherwise than the specification says, or not at all.
NOT_BY_REFERENCE = frozenset({"RNN", "LSTM", "GRU", "DynamicQuantizeLSTM"})


def from_onnx(
    path: str | os.PathLike[str], example: Mapping[str, np.ndarray] | None = None, *, seed: int = 0
) -> Exported:
    """Spec, Weights and a test pair of an ONNX file.

    example  every input by name; without it one is drawn with the seed: sizes that are only named become small ones

    The outputs of the test pair are ONNX Runtime's, where that is installed, else those of onnx.reference, which
    runs no recurrent nodes. Floats of the example are in the file's own dtype. Raises what rnncore.load raises,
    InputError for the example, and MissingPackageError where neither is installed that can run the file.
    """
    file = read_file(path)
    if not isinstance(file, ModelFile):
        raise UnsupportedError(f"{path}: tensors without a network, expected an ONNX file")
    inputs = _drawn(file.spec, seed, np.dtype(file.dtype)) if example is None else _given(file.spec, example)
    outputs, source = _computed(Path(path), file.spec, inputs)
    pair = TestPair(inputs, {name: outputs[name] for name in file.spec.outputs})
    return Exported(file.spec, file.weights, pair, source, file.notes, file.dtype)


def _given(spec: Spec, example: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [entry.name for entry in spec.inputs]
    if not isinstance(example, Mapping) or sorted(example) != sorted(names):
        described = ", ".join(map(str, example)) if isinstance(example, Mapping) else type(example).__name__
        raise InputError(f"example: {described}, expected arrays by name for {', '.join(names)}")
    return {name: np.asarray(example[name]) for name in names}


def _drawn(spec: Spec, seed: int, floating: np.dtype) -> dict[str, np.ndarray]:
    """Normal floats, ids of 0 and 1, lengths that fit, and nothing masked."""
    rng, sizes = np.random.default_rng(seed), dict(STEPS)

    def array(entry: Input) -> np.ndarray:
        shape = [sizes.setdefault(size, 2 + len(sizes) % 5) if isinstance(size, str) else size for size in entry.shape]
        dtype = numpy_dtype(entry.dtype, floating)
        if dtype.kind == "f":
            return rng.standard_normal(shape).astype(dtype)
        return np.ones(shape, dtype) if dtype.kind == "b" else rng.integers(0, 2, shape).astype(dtype)

    drawn = {entry.name: array(entry) for entry in spec.inputs}
    for node in spec.recurrent:  # at least one step of each row
        if node.lengths in drawn:
            drawn[node.lengths] = np.ones_like(drawn[node.lengths])
    return drawn


def _computed(path: Path, spec: Spec, inputs: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The outputs by name, and the program that computed them."""
    names = list(spec.outputs)
    try:
        import onnxruntime
    except ImportError:
        onnxruntime = None
    if onnxruntime is not None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        results = session.run(names, _fitted(session.get_inputs(), inputs))
        return dict(zip(names, results, strict=True)), f"onnxruntime {onnxruntime.__version__}"
    import onnx
    import onnx.reference

    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node} & NOT_BY_REFERENCE
    if kinds:
        raise MissingPackageError(
            f"{path}: {', '.join(sorted(kinds))} needs onnxruntime for a test pair: pip install it"
        )
    results = onnx.reference.ReferenceEvaluator(model).run(names, dict(inputs))
    return dict(zip(names, results, strict=True)), f"onnx.reference {onnx.__version__}"


def _fitted(entries, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs in the floating type of the file."""
    dtypes = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
    return {
        entry.name: inputs[entry.name].astype(dtypes.get(entry.type, inputs[entry.name].dtype)) for entry in entries
    }
