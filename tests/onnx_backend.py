"""rnncore as a backend of onnx.backend.base, for the test suites that onnx ships.

Those suites have everything as inputs: also the weights of recurrent nodes, and what decides the rank or the shape of
a result (axes, shape ...), which are constants in real models. Such a model is loaded when it is run.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep

import rnncore
from rnncore.ops import OPS

RECURRENT = {"RNN", "LSTM", "GRU"}
WEIGHTS = (1, 2, 3, 7)  # positions of W, R, B and P


def load(model):
    """The Model of a ModelProto, by way of a file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return rnncore.load(path)


def constant_inputs(model):
    """Graph inputs that are weights of recurrent nodes or parameters of ops."""
    names = set()
    for node in model.graph.node:
        op = OPS.get(node.op_type)
        places = WEIGHTS if node.op_type in RECURRENT else op.parameters.values() if op else ()
        names.update(node.input[place] for place in places if place < len(node.input))
    return [entry.name for entry in model.graph.input if entry.name in names]


def with_constants(model, arrays):
    """The model with some of its inputs as constants."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    kept = [entry for entry in found.graph.input if entry.name not in arrays]
    del found.graph.input[:]
    found.graph.input.extend(kept)
    found.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return found


def as_typed(x, entry):
    """An input as NumPy's array; bfloat16, which NumPy has not, as float32."""
    kind = entry.type.tensor_type.elem_type
    array = numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x)
    return array.astype(np.float32) if kind == TensorProto.BFLOAT16 else array


class Prepared(BackendRep):
    def __init__(self, model):
        self.proto = model
        self.weights = constant_inputs(model)
        self.model = None if self.weights else load(model)

    def run(self, inputs, **kwargs):
        given = {entry.name: as_typed(x, entry) for entry, x in zip(self.proto.graph.input, inputs, strict=True)}
        model = self.model
        if model is None:
            model = load(with_constants(self.proto, {name: given.pop(name) for name in self.weights}))
        found = model.run(given)
        outputs = [found[entry.name] for entry in self.proto.graph.output]
        kinds = [entry.type.tensor_type.elem_type for entry in self.proto.graph.output]
        return [
            array.astype(helper.tensor_dtype_to_np_dtype(kind)) if array.dtype.kind == "f" else array
            for array, kind in zip(outputs, kinds, strict=True)
        ]


class RnncoreBackend(Backend):
    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        return Prepared(model)

    @classmethod
    def supports_device(cls, device):
        return device == "CPU"
