"""onnx's own node tests, through rnncore as a backend: right, or refused by name where a list says so."""

import re

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx_backend import AS_ONNX_RUNTIME, RnncoreBackend, cases, is_bfloat16, refusal

from rnncore.errors import SpecError, UnsupportedError

CASES = {name: case for name, case in cases().items() if not is_bfloat16(case)}


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
        assert refusal(name) is not None, str(error)
        assert re.search(r"graph\.|opset_import|training_info|functions\[", str(error))


def test_most_cases_pass():
    """So that the list of what is refused cannot grow unseen."""
    assert sum(refusal(name) is None for name in CASES) > 1250
