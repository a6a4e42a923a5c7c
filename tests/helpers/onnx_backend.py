"""rnncore as a backend of onnx.backend.base, for the test suites that onnx ships.

Those suites have everything as inputs: also the weights of recurrent nodes, and what decides the rank or the shape of
a result (axes, shape ...), which are constants in real models. Such a model is loaded when it is run.
"""

import re
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.case.node import collect_testcases

import rnncore
from rnncore.ops import OPS

# What is not supported, by the names of the cases, and why.
REFUSED = {
    "strings": "string|strnorm|regex|tfidf|label_encoder|image_decoder",
    "sequences and optionals": "sequence(?!_lens)|optional|_seq|_opt$|split_to_seq",
    "training and random numbers": "training|bernoulli|adagrad|adam|momentum|multinomial|random",
    "floats of 8 bits": "FLOAT8|E4M3|E5M2|e4m3|e5m2|e8m0",
    "numbers of 4 and 2 bits": "INT4|INT2|int4|int2_|int2$|FLOAT4|float4",
    "blocks of quantized numbers": "quantizelinear_blocked",
    "other domains": "ai_onnx_ml|flexattention|gradient",
    "ops that nobody has asked for": "linear_attention|causal_conv|bitcast|swiglu|tensorscatter|nonzero_example$",
    "mean and deviation as further outputs": r"layer_normalization_(?!.*expanded)|qk_matmul",
    "a rank that only the values decide": "center_crop|window|maxunpool|melweight|affine_grid_.*expanded|stft",
    "older than opset 7, and Scan with a batch": "not_[234]d|scan_sum",
    "indices of the largest, antialiasing": "maxpool_with_argmax|resize.*antialias",
}
# Where ONNX Runtime and the specification differ, rnncore is with ONNX Runtime.
AS_ONNX_RUNTIME = {
    "test_resize_downsample_scales_linear_align_corners": "the scale that was asked for, not that of the rounded size",
    "test_resize_downsample_scales_cubic_align_corners": "the same",
}

RECURRENT = {"RNN", "LSTM", "GRU"}
WEIGHTS = (1, 2, 3, 7)  # positions of W, R, B and P


def load(model):
    """The Model of a ModelProto, from its bytes."""
    return rnncore.load(model.SerializeToString())


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
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = [entry for entry in changed.graph.input if entry.name not in arrays]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.graph.initializer.extend(numpy_helper.from_array(np.asarray(x), name) for name, x in arrays.items())
    return changed


def as_typed(x, entry):
    """An input as NumPy's array; bfloat16, which NumPy has not, as float32."""
    kind = entry.type.tensor_type.elem_type
    array = numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x)
    return array.astype(np.float32) if kind == TensorProto.BFLOAT16 else array


def cases():
    """onnx's node tests, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None)}


def is_bfloat16(case):
    """bfloat16 is computed in float32 here, which rounds less."""
    values = (*case.model.graph.input, *case.model.graph.output)
    return any(value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in values)


def refusal(name):
    """Why a case of this name is refused, None where it is not to be."""
    return next((why for why, pattern in REFUSED.items() if re.search(pattern, name)), None)


def run(model, proto, given):
    """The outputs of a model, floats in the dtypes that its file declares."""
    entries = {entry.name: entry for entry in proto.graph.input}
    outputs = model.run({name: as_typed(x, entries[name]) for name, x in given.items()})
    kinds = [(entry.name, entry.type.tensor_type.elem_type) for entry in proto.graph.output]
    arrays = [(outputs[name], kind) for name, kind in kinds]
    return [
        array.astype(helper.tensor_dtype_to_np_dtype(kind)) if array.dtype.kind == "f" else array
        for array, kind in arrays
    ]


class Prepared(BackendRep):
    def __init__(self, model):
        self.proto = model
        self.weights = constant_inputs(model)
        self.model = None if self.weights else load(model)

    def run(self, inputs, **kwargs):
        given = {entry.name: x for entry, x in zip(self.proto.graph.input, inputs, strict=True)}
        model = self.model
        if model is None:
            model = load(with_constants(self.proto, {name: given.pop(name) for name in self.weights}))
        return run(model, self.proto, given)


class RnncoreBackend(Backend):
    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        return Prepared(model)

    @classmethod
    def supports_device(cls, device):
        return device == "CPU"
