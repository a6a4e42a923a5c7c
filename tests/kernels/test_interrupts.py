"""Ctrl-C in the middle of one op: handlers of signals run all through a long call.

Counted, not timed: a timer of the process's own CPU time sends signals, and the longest that the process works without
running the handler is compared with the whole call's work, measured beside it. An op that looks at no signals has it in
one piece.
"""

import itertools
import math
import signal
import time

import numpy as np
import pytest
from agreement import assert_same_bits
from onnx_ops import OneNode
from random_networks import seeds
from yardstick import slowness

from rnncore.ops import OPS, blocks

F = np.float32
SHARE = 0.4  # of the whole call's CPU time; a part is some hundredth
PROMPT = 0.1  # seconds of a normal machine: half of what is promised
EVERY = 0.002  # seconds of CPU time


def floats(*shape, dtype=F):
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(dtype)


# op -> attributes and arrays of a call that takes a few tenths of a second
LONG = {
    "MaxPool": ({"kernel_shape": (150, 150)}, [floats(1, 8, 700, 700)]),
    "AveragePool": ({"kernel_shape": (200, 200)}, [floats(1, 8, 700, 700)]),
    "AveragePool of one line": ({"kernel_shape": (3000,)}, [floats(1, 1, 300_000)]),
    "AveragePool, strides": ({"kernel_shape": (3000,), "strides": (7,)}, [floats(1, 1, 900_000)]),
    "MaxPool in float64": ({"kernel_shape": (90, 90)}, [floats(1, 24, 500, 500, dtype=np.float64)]),
    "MaxPool with indices": ({"kernel_shape": (12, 12), "indices": True}, [floats(1, 2, 300, 300)]),
    "LpPool": ({"kernel_shape": (90, 90)}, [floats(1, 48, 500, 500)]),
    "Conv": ({}, [floats(4, 128, 200, 200), floats(128, 128, 3, 3)]),
    "Conv of one output": ({}, [floats(1, 1, 2000, 2000), floats(1, 1, 40, 40)]),
    "Conv of many positions": ({}, [floats(1, 1, 3_000_000), floats(16, 1, 150)]),
    "Conv of few positions": ({}, [floats(1, 20_000, 8), floats(1000, 20_000, 3)]),
    "Conv in float64": ({}, [floats(16, 32, 64, 64, dtype=np.float64), floats(32, 32, 5, 5, dtype=np.float64)]),
    "ConvTranspose": ({}, [floats(2, 256, 100, 100), floats(256, 64, 5, 5)]),
    "MatMulInteger": ({}, [np.ones((6000, 2000), np.uint8), np.ones((2000, 2000), np.int8)]),
    "DynamicQuantizeLSTM": (
        {"hidden_size": 400},
        [
            *(floats(300, 24, 400), np.ones((1, 400, 1600), np.int8), np.ones((1, 400, 1600), np.int8)),
            *[None] * 5,
            *[np.full(1, 1e-3, F), np.zeros(1, np.int8)] * 2,
        ],
    ),
    "ConvInteger": ({}, [np.ones((1, 64, 500, 500), np.uint8), np.ones((64, 64, 3, 3), np.int8)]),
    "LayerNormalization": ({}, [floats(60_000, 1000), floats(1000)]),
    "InstanceNormalization": ({}, [floats(60, 1000, 1000), floats(1000), floats(1000)]),
    "MatMul": ({}, [floats(2500, 2500), floats(2500, 2500)]),
    "MatMul in float64": ({}, [floats(1600, 1600, dtype=np.float64), floats(1600, 1600, dtype=np.float64)]),
    "MatMul of integers": ({}, [np.ones((600, 800), np.int64), np.ones((800, 600), np.int64)]),
    "Gemm": ({}, [floats(2500, 2500), floats(2500, 2500)]),
    "Einsum": ({"equation": "bij,bjk,bk->bi"}, [floats(40, 200, 300), floats(40, 300, 200), floats(40, 200)]),
    "Einsum, all at once": ({"equation": "ij,ik->ijk"}, [floats(1000, 200), floats(1000, 200)]),
    "Softmax": ({}, [floats(40_000, 1000)]),
    "CumSum": ({"axis": 1}, [floats(300, 300_000)]),
    "TopK": ({"k": 900}, [floats(5000, 1000)]),
    "DFT": ({"axis": -2}, [floats(4000, 1024, 2)]),
    "Erf": ({}, [floats(30_000_000)]),
    "Pow": ({}, [np.abs(floats(20_000_000)), floats(1)]),
    "Tanh": ({"approximate": "rational"}, [floats(100_000_000)]),
    "Mod": ({}, [np.arange(1, 60_000_001, dtype=np.int32), np.full(1, 7, np.int32)]),
    "LRN": ({"size": 60}, [floats(1, 80, 300, 300)]),
    "Resize": ({"sizes": (1, 8, 1500, 1500), "mode": "cubic"}, [floats(1, 8, 300, 300)]),
}


def longest_without_a_look(call):
    """The most CPU time of a call between two runs of a handler: in seconds, and as a part of it all."""
    times = []
    before = signal.signal(signal.SIGPROF, lambda *_: times.append(time.process_time()))
    try:
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
        call()
        end = time.process_time()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    times = [start, *(moment for moment in times if moment < end), end]
    longest = max(b - a for a, b in itertools.pairwise(times))
    return longest, longest / (end - start)


@pytest.mark.parametrize("name", LONG)
def test_handlers_run_all_through_a_long_call(name):
    attributes, arrays = LONG[name]
    op = name.split(" ")[0].rstrip(",")
    node = OneNode(op, attributes, arrays)
    dtype = "float64" if arrays[0].dtype == np.float64 else "float32"
    # The best of three: what looks at no signals has its whole work in one piece each time.
    found = (longest_without_a_look(lambda: node.run(dtype=dtype, num_threads=1)) for _ in range(3))
    assert any(share < SHARE or seconds < PROMPT * slowness() for seconds, share in found)


@pytest.mark.parametrize("name", ["AveragePool", "Conv", "MatMul", "MatMulInteger", "Softmax", "DynamicQuantizeLSTM"])
def test_what_a_handler_raises_ends_the_call(name):
    """Sent in the middle of the call: most of its work is left out, and the next call is right."""
    attributes, arrays = LONG[name]
    node = OneNode(name, attributes, arrays)
    start = time.process_time()
    expected = node.run(num_threads=1)
    whole = time.process_time() - start

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, stop)
    try:
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 0.2 * whole)
        with pytest.raises(KeyboardInterrupt):
            node.run(num_threads=1)
        assert time.process_time() - start < 0.8 * whole
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    for array, same in zip(node.run(num_threads=1), expected, strict=True):
        assert_same_bits(array, same)


# --- parts ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(blocks, "ELEMENTS", 50)
    monkeypatch.setattr(blocks, "WORK", 1 << 12)
    monkeypatch.setattr(blocks, "ROWS", 8)


def random_shape(rng, rank):
    return tuple(rng.integers(1, 9, rank).tolist())


@pytest.mark.parametrize("seed", seeds(40))
def test_parts_make_the_same_numbers(seed, small_parts):
    rng = np.random.default_rng(seed)
    shape = random_shape(rng, int(rng.integers(1, 6)))
    x = rng.standard_normal(shape).astype(F)
    spread = [size if rng.integers(2) else 1 for size in shape][int(rng.integers(len(shape))) :]
    y = rng.standard_normal(spread).astype(F)
    seen = []

    def counted(*arrays):
        seen.append(max(array.size for array in arrays))
        return np.add(*arrays)

    assert_same_bits(blocks.apply(counted, x, y), x + y)
    assert max(seen) <= 50 and len(seen) >= x.size / 50
    assert_same_bits(blocks.apply(np.add, x, y, out=np.empty_like(x)), x + y)
    axis = int(rng.integers(-len(shape), len(shape)))
    assert_same_bits(blocks.along(lambda part: np.cumsum(part, axis=axis), x, (axis,)), np.cumsum(x, axis=axis))
    least, places = blocks.along(lambda part: (part.min(axis, keepdims=True), part.argsort(axis)), x, (axis,))
    assert_same_bits(least, x.min(axis, keepdims=True))
    np.testing.assert_array_equal(places, x.argsort(axis))
    a, b = rng.integers(-9, 9, (*shape, 40)), rng.integers(-9, 9, (*shape[:-1], 40, 30))
    np.testing.assert_array_equal(blocks.matmul(a, b), np.matmul(a, b))
    np.testing.assert_array_equal(blocks.matmul(a[..., :0], b[..., :0, :]), np.matmul(a[..., :0], b[..., :0, :]))
    with pytest.raises(ValueError, match="mismatch"):
        blocks.matmul(np.ones((100, 99)), np.ones((98, 100)))
    p, q = rng.integers(-9, 9, (20, 30)), rng.integers(-9, 9, (30, 1, 25))
    for equation, arrays in {"ij,jkl->lik": (p, q), "ij->ji": (p,), "ij,jkl": (p, q), "ij,jkl->": (p, q)}.items():
        np.testing.assert_array_equal(blocks.einsum(equation, *arrays), np.einsum(equation, *arrays))


@pytest.mark.parametrize("rows", [1, 191, 192, 193, 383, 384, 385, 1000])
def test_a_product_in_parts_has_every_row(rows, monkeypatch):
    """Of integers, whose sums are exact however they are made."""
    monkeypatch.setattr(blocks, "WORK", 1 << 12)
    a, b = np.arange(rows * 30.0).reshape(rows, 30) % 17, np.arange(30 * 20.0).reshape(30, 20) % 13
    np.testing.assert_array_equal(blocks.matmul(a, b), a @ b)
    np.testing.assert_array_equal(blocks.matmul(np.stack([a, -a]), b), np.stack([a, -a]) @ b)


def test_element_by_element_is_true(small_parts):
    """Ops that say so give the same numbers in parts."""
    rng = np.random.default_rng(0)
    for name, op in OPS.items():
        if not op.spreads:
            continue
        shape = (3, 5, 7)
        least = op.arity[0]
        attributes = {key: value for key, value in op.attributes.items() if value is not ...}
        attributes |= {"to": "float", "direction": "LEFT"} if name in ("Cast", "BitShift") else {}
        attributes["floating"] = F
        dtype = "bool" if name in ("And", "Or", "Xor", "Not") else "uint8" if name.startswith("Bit") else "float32"
        arrays = [(rng.random((shape, (7,), (5, 1))[place]) * 4).astype(dtype) for place in range(max(least, 1))]
        if name == "Where":
            arrays[0] = arrays[0] > 2
        with np.errstate(all="ignore"):
            expected = op.run(attributes, {}, *arrays)
            found = blocks.apply(lambda *given, op=op, attributes=attributes: op.run(attributes, {}, *given), *arrays)
        assert_same_bits(found, expected)
        assert math.prod(found.shape) == 105, name
