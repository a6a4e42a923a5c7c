"""Bytes -> arrays, for every dtype that files hold."""

import ml_dtypes
import numpy as np
import pytest

from rnncore.formats._arrays import CODES, ITEM_SIZES, WIDENED, from_bytes


@pytest.mark.parametrize("dtype", WIDENED)
@pytest.mark.parametrize("little", [True, False])
def test_every_value_of_a_dtype_that_numpy_does_not_have(dtype, little):
    """As float32, to the bit but for the payload of NaN."""
    size = ITEM_SIZES[dtype]
    bits = np.arange(1 << 8 * size, dtype=f"u{size}")
    expected = bits.view(getattr(ml_dtypes, dtype)).astype(np.float32)
    found = from_bytes(bits.astype(("<" if little else ">") + f"u{size}").tobytes(), dtype, "here", little)
    assert found.dtype == np.float32 and not found.flags.writeable
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    numbers = ~np.isnan(expected)
    assert np.array_equal(found[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@pytest.mark.parametrize("dtype", [*CODES, *WIDENED])
def test_no_bytes(dtype):
    found = from_bytes(b"", dtype, "here")
    assert found.shape == (0,) and found.dtype == (np.float32 if dtype in WIDENED else np.dtype(dtype))
