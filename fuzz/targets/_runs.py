"""Compiling a Spec with random weights, running it, and what a result must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from draw import Draw
from outcome import WrongResult

from rnncore.graph.spec import Spec
from rnncore.ops import numpy_dtype
from rnncore.runtime.model import Model
from targets._files import array_of

__all__ = ["check_declared", "inputs_of", "same", "weights_of"]

MOST_WEIGHTS = 1 << 20


def weights_of(spec: Spec, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """Random weights; None where the Spec declares many."""
    shapes, dtypes = spec.weight_shapes(), spec.weight_dtypes()
    if sum(map(math.prod, shapes.values())) > MOST_WEIGHTS:
        return None
    found = {}
    for name, shape in shapes.items():
        dtype = numpy_dtype(dtypes.get(name, "float"))
        if dtype.kind == "f":
            found[name] = rng.uniform(-0.5, 0.5, shape).astype(dtype)
        else:
            found[name] = rng.integers(0, 2, shape).astype(dtype)
    return found


def inputs_of(spec: Spec, draw: Draw, sizes: Mapping[str, int], dtype: str) -> dict[str, np.ndarray]:
    """An array for each input: with a size for each name, and one time in sixteen of another shape or dtype."""
    rng, found = draw.rng(), {}
    sizes = dict(sizes)
    for entry in spec.inputs:
        if entry.optional and not draw.chance(3):
            continue
        shape = [size if isinstance(size, int) else sizes.setdefault(size, draw.below(5)) for size in entry.shape]
        kind = entry.dtype
        if draw.chance(16):
            if shape and draw.chance(2):
                shape[draw.below(len(shape))] = draw.below(10)
            elif draw.chance(2):
                shape = [draw.below(3) for _ in range(draw.below(8))]
            else:
                kind = draw.pick(("float", "int64", "bool", "uint8"))
        shape = shape[:64]  # more are refused by NumPy
        if math.prod(shape) > 1 << 18 or math.prod(max(size, 1) for size in shape) > 1 << 40:  # NumPy refuses these
            shape = [min(size, 1) for size in shape]
        found[entry.name] = array_of(kind, tuple(shape), draw, rng, dtype)
    return found


def check_declared(model: Model, given: Mapping[str, Any], outputs: Mapping[str, np.ndarray]) -> None:
    """WrongResult unless every output is of the dtype, rank and sizes that its Spec says."""
    sizes: dict[str, int] = {}
    for entry in model.spec.inputs:
        shape = given[entry.name].shape if entry.name in given else ()
        for name, size in zip(entry.shape, shape, strict=False):
            if isinstance(name, str) and name.isidentifier():  # "2*T" is a name there, but a size elsewhere
                sizes.setdefault(name, size)
    for name, array in outputs.items():
        value = model.spec.values[name]
        if array.dtype != numpy_dtype(value.dtype, model.dtype) or array.ndim != len(value.shape):
            raise WrongResult(f"{name} is {array.dtype} {array.shape}, declared {value}")
        for size, found in zip(value.shape, array.shape, strict=True):
            if (isinstance(size, int) and size != found) or (size in sizes and sizes[size] != found):
                raise WrongResult(f"{name} has the shape {array.shape}, declared {value} with {sizes}")


def same(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], what: str) -> None:
    """WrongResult unless both have the same bits."""
    for name, array in first.items():
        other = second[name]
        if array.shape != other.shape or array.dtype != other.dtype or not _equal(array, other):
            raise WrongResult(f"{name}: {what} gives other bits: {array.ravel()[:4]} and {other.ravel()[:4]}")


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f"))
