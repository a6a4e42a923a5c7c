"""How tests compare: error relative to the largest value (at least 1), NaN and infinities in the same places."""

import os

import numpy as np

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
# Errors of four roundings in float32 are luck.
NOISE = 4 * float(np.finfo(np.float32).eps)


def assert_agrees(actual, expected, dtype, what=""):
    """Every array of ``expected`` (by name) has its shape in ``actual``, the given dtype, and is within tolerance."""
    assert set(actual) >= set(expected), f"{what}: {sorted(actual)}, expected {sorted(expected)}"
    for name, reference in expected.items():
        assert actual[name].dtype == dtype, f"{what}: {name}: {actual[name].dtype}, expected {dtype}"
        assert_close(actual[name], reference, TOLERANCES[str(dtype)], f"{what}: {name}")


def assert_close(actual, reference, tolerance, what=""):
    """|actual - reference| <= tolerance * max(1, |reference|) everywhere."""
    actual, reference = np.asarray(actual, np.float64), np.asarray(reference, np.float64)
    assert actual.shape == reference.shape, f"{what}: shape {actual.shape}, expected {reference.shape}"
    finite = np.isfinite(reference)
    np.testing.assert_array_equal(actual[~finite], reference[~finite], err_msg=what)
    if not finite.any():
        return
    scale = max(1.0, np.abs(reference[finite]).max())
    error = np.abs(actual[finite] - reference[finite]).max() / scale
    assert error <= tolerance, f"{what}: relative error {error:.3g}, tolerance {tolerance:g}"


def largest_error(actual, exact):
    """The largest error of all arrays (by name), each relative to its largest value (at least 1)."""
    errors = [0.0]
    for name, reference in exact.items():
        assert np.isfinite(reference).all(), f"{name}: nothing to measure against"
        scale = max(1.0, np.abs(reference).max(initial=0.0))
        errors.append(np.abs(np.asarray(actual[name], np.float64) - reference).max(initial=0.0) / scale)
    return float(max(errors))


def assert_no_worse(actual, other, exact, what=""):
    """The largest error of ``actual`` is at most twice that of ``other``, both float32, and a few roundings."""
    ours, theirs = largest_error(actual, exact), largest_error(other, exact)
    assert ours <= 2 * theirs + NOISE, f"{what}: error {ours:.3g}, the other's {theirs:.3g}"


def assert_unchanged(actual, expected, dtype, what=""):
    """What the exactness contract says of two ways to compute the same numbers: equal bits with the native kernels.

    BLAS (float64, and float32 with RNNCORE_ISA=blas) sums in an order that depends on the batch: there, tolerance.
    """
    if str(dtype) != "float32" or os.environ.get("RNNCORE_ISA") == "blas":
        assert_agrees(actual, expected, dtype, what)
        return
    for name, reference in expected.items():
        assert_same_bits(actual[name], reference, f"{what}: {name}")


def assert_same_bits(actual, expected, what=""):
    """Equal dtype, shape and bytes."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
    assert actual.tobytes() == expected.tobytes(), f"{what}: {actual} is not, to the bit, {expected}"
