"""Values that are wrong almost everywhere, and the check that an error about them is one of rnncore's."""

import math

import numpy as np

NESTED = []

for _ in range(300):
    NESTED = [NESTED]

JSON_VALUES = [
    *(None, True, False, 0, 1, 2, 3, 5, -1, -2, 0.0, 1.5, -1.5, math.nan, math.inf, -math.inf, 1e300),
    *(-(2**31), 2**31, -(2**63), 2**63 - 1, 2**63, 2**64, 10**400),
    *("", "a", "x0", "T", "\x00", "x" * 100_000, {}, {"a": 1}, {"kind": "LSTM"}, [], [0], [1], [-1], [1, 1], [2, 2]),
    *([0, 1], [1, 0], [-1, -1], [1, 1, 1, 1], [1.5, 2.0], ["a"], ["x0"], ["T", "T"], [None], [True], [[1]], [[]], [{}]),
    *([1] * 10_000, [2**63], [10**400], [math.nan, 1], NESTED),
]
"""Values of JSON that are wrong almost everywhere."""

OBJECTS = [
    *(10**5000, "\ud800", ["\ud800"], b"bytes", object(), ..., type, {1}, 1j, (1, 2), lambda: 1),
    *(np.int64(1), np.float32(1.5), np.array(1), np.array([1, 2]), np.array(["a"]), {1: 2, "a": 3}),
]
"""Values that a caller of the API can pass and JSON cannot hold."""


def assert_ours(error, *begins):
    """Check that the error names its place, has no foreign cause, and has a text that can be shown."""
    text = str(error)
    assert text.startswith(begins), text
    assert error.__cause__ is None, text
    assert len(text) < 3000, text
    text.encode()
