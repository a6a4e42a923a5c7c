"""Each op alone: random ranks from 0 to 64, attributes and run-time shapes, in both precisions."""

from __future__ import annotations

import random

import numpy as np
from draw import Draw
from mutate import change_bytes
from outcome import WrongResult

from rnncore.errors import RnncoreError
from rnncore.runtime.model import Model
from targets._graphs import OPS_BY_NAME, Graph
from targets._runs import check_declared, inputs_of, same, weights_of

__all__ = ["mutate", "run", "seeds"]

# The compiled float32 ops whose results are continuous, which float64 computes in another way.
COMPARED = (
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Linear"),
    *("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization"),
    *("MatMul", "Gemm", "Softmax", "LogSoftmax", "Tanh", "Sigmoid"),
)
HEAVY = COMPARED[:9]


def run(data: bytes) -> int:
    """One node; half the time one with loops of its own in the kernels. Returns the bytes that it declares."""
    draw = Draw(data)
    name = draw.pick(HEAVY) if draw.chance(3) else draw.pick(OPS_BY_NAME)
    graph = Graph(draw)
    graph.add_input()
    for _ in range(4):
        if graph.add(name):
            break
    spec = graph.spec()
    if spec is None:
        return 0
    weights = weights_of(spec, draw.rng())
    if weights is None:
        return 0
    model = Model(spec, weights, num_threads=1)
    given = inputs_of(spec, draw, graph.sizes, "float32")
    outputs = model.run(given)
    check_declared(model, given, outputs)
    same(outputs, model.run(given), "a second run")
    if name in COMPARED:
        compare(spec, weights, given, outputs)
    known = sum(map(graph.elements, graph.values.values()))
    return 64 * (8 * known + sum(array.nbytes for array in outputs.values()))


def compare(spec, weights, given, outputs) -> None:
    """WrongResult where float64 gives something else, beyond what rounding explains."""
    if not all(
        np.isfinite(array).all() and np.abs(array).max(initial=0) < 1e3
        for array in given.values()
        if array.dtype.kind == "f"
    ):
        return
    wide = {key: array.astype("f8") if array.dtype == np.float32 else array for key, array in given.items()}
    try:
        expected = Model(spec, weights, "float64", num_threads=1).run(wide)
    except RnncoreError as error:
        raise WrongResult(f"float32 gives a result, float64 says: {error}") from None
    for name, array in outputs.items():
        other = expected[name]
        if array.shape != other.shape or array.dtype.kind != "f":
            if array.shape != other.shape:
                raise WrongResult(f"{name}: {array.shape} in float32, {other.shape} in float64")
            continue
        tolerance = 1e-2 + 1e-2 * np.abs(other).max(initial=0, where=np.isfinite(other))
        with np.errstate(all="ignore"):
            wrong = np.isfinite(other) & ~(np.abs(array - other) <= tolerance)
        if wrong.any():
            raise WrongResult(f"{name}: {array[wrong][:3]} in float32, {other[wrong][:3]} in float64")


def seeds() -> list[bytes]:
    return [random.Random(seed).randbytes(200) for seed in range(64)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(30, 400)) if rng.random() < 0.6 else change_bytes(data, rng)
