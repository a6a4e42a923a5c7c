"""onnx's own node tests, through rnncore as a backend: right, or refused by name where a list says so."""

import re
import warnings

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx_backend import RnncoreBackend

from rnncore.errors import SpecError, UnsupportedError

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


def is_bfloat16(case):
    """bfloat16 is computed in float32 here, which rounds less."""
    values = (*case.model.graph.input, *case.model.graph.output)
    return any(value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in values)


def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in collect_testcases(None) if not is_bfloat16(case)}


CASES = cases()


def reason(name):
    return next((why for why, pattern in REFUSED.items() if re.search(pattern, name)), None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in CASES if name not in AS_ONNX_RUNTIME])
def test_case(name):
    case = CASES[name]
    try:
        for inputs, outputs in case.data_sets:
            found = RnncoreBackend.prepare(case.model).run(inputs)
            for array, expected in zip(found, outputs, strict=True):
                expected = (
                    numpy_helper.to_array(expected) if isinstance(expected, TensorProto) else np.asarray(expected)
                )
                assert array.shape == expected.shape and array.dtype == expected.dtype
                np.testing.assert_allclose(array, expected, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-7))
    except (UnsupportedError, SpecError) as error:
        assert reason(name) is not None, str(error)
        assert re.search(r"graph\.|opset_import|training_info|functions\[", str(error))


def test_most_cases_pass():
    """So that the list of what is refused cannot grow unseen."""
    assert sum(reason(name) is None for name in CASES) > 1250
