"""The node tests that the onnx package carries for convolutions, pooling, normalization, resizing and quantized ops.

Each runs with its parameters as inputs and as attributes, and with a name for every size of its first input. What is
refused is listed, with the word that the refusal must say.
"""

import warnings

import numpy as np
import pytest
from onnx_ops import OneNode, onnx_node

from rnncore.errors import SpecError
from rnncore.ops import OPS, convolution, normalization, pooling, quantized, resize, spectral

FAMILIES = (convolution, pooling, normalization, resize, spectral, quantized)
NAMES = {op.name for family in FAMILIES for op in family.OPS}
SMALL_DTYPES = ("e4m3fn", "e5m2", "int4", "int2", "float4")
REFUSED = {
    **{f"test_batchnorm_{kind}_training_mode": "training_mode" for kind in ("example", "epsilon")},
    "test_maxpool_with_argmax_2d_precomputed_strides": "storage_order",
    "test_dequantizelinear_blocked": "block_size",
    "test_quantizelinear_blocked_asymmetric": "block_size",
    "test_quantizelinear_blocked_symmetric": "block_size",
    **{
        f"test_resize_downsample_{given}_{mode}_antialias": "antialias"
        for given in ("scales", "sizes")
        for mode in ("linear", "cubic")
    },
}
# With align_corners and a scale that is no ratio of sizes, these two place the last output beside the last input;
# the specification's words, and ONNX Runtime, put it upon it.
DIFFERENT = ("test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners")


def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = [case for case in collect_testcases(None) if len(case.model.graph.node) == 1]
    return [case for case in found if case.model.graph.node[0].op_type in NAMES and case.name not in DIFFERENT]


CASES = {case.name: case for case in cases()}


def test_there_are_as_many_as_there_were():
    assert len(CASES) >= 200
    assert set(REFUSED) <= set(CASES)


def of_small_dtype(name):
    return name.startswith(("test_quantizelinear", "test_dequantizelinear")) and any(
        word in name for word in SMALL_DTYPES
    )


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    node = case.model.graph.node[0]
    op, attributes = onnx_node(node)
    for inputs, outputs in case.data_sets:
        given = iter(inputs)
        arrays = [np.asarray(next(given)) if entry else None for entry in node.input]
        if name in REFUSED or of_small_dtype(name):
            with pytest.raises(SpecError, match=REFUSED.get(name, "dtype")):
                OneNode(op, attributes, arrays)
            continue
        if op == "DFT" and case.model.opset_import[0].version < 20:
            attributes.setdefault("axis", 1)  # the default was another one
        axes = range(arrays[0].ndim - (op in ("DFT", "STFT")))  # their last size says what the numbers are
        for constants, named in ((), ()), ((), axes), (tuple(OPS[op].parameters), ()):
            found = OneNode(op, attributes, arrays, constants, named).run()
            for array, expected in zip(found, outputs, strict=True):
                expected = np.asarray(expected)
                assert array.dtype == expected.dtype
                slack = 2e-3 if array.dtype == np.float16 else 1e-6
                wide = [one.astype(np.float64) for one in (array, expected)]
                np.testing.assert_allclose(*wide, rtol=max(case.rtol, slack), atol=max(case.atol, slack))
