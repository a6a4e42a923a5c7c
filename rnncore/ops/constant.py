"""Constant: an array that is part of the model."""

from __future__ import annotations

import math

import numpy as np

from rnncore.errors import SpecError, shown
from rnncore.ops.base import DTYPES, MAX_DATA, Op, Value, numpy_dtype
from rnncore.ops.checks import FLOATS
from rnncore.ops.schema import MAX_RANK, MAX_SIZE, Choice, Integers, Numbers, is_number

__all__ = ["OPS"]


def _infer(attributes, values):
    dtype, shape, value = (attributes[name] for name in ("dtype", "shape", "value"))
    if value is None:
        return [Value(dtype, shape)]
    flat = value if isinstance(value, tuple) else (value,)
    if not all(_fits(dtype, item) for item in flat) or len(flat) != math.prod(shape):
        raise SpecError(f"value={shown(value)}, expected {math.prod(shape)} numbers of dtype {dtype}, flat")
    if dtype.startswith(("int", "uint")):
        limits = np.iinfo(dtype)
        if any(not limits.min <= item <= limits.max for item in flat):
            raise SpecError(f"value={shown(value)}, expected numbers from {limits.min} to {limits.max}")
    small = len(shape) <= 1 and len(flat) <= MAX_DATA
    return [Value(dtype, shape, tuple(flat) if small else None)]


def _fits(dtype, item) -> bool:
    if dtype == "bool" or isinstance(item, bool):
        return dtype == "bool" and isinstance(item, bool)
    return is_number(item) if dtype in FLOATS else isinstance(item, int)


def _run(attributes, weights):
    """The array; a "float" one given as numbers in float64, which a model casts to its own."""
    if attributes["value"] is None:
        return weights["value"]
    return np.array(attributes["value"], numpy_dtype(attributes["dtype"], np.float64)).reshape(attributes["shape"])


OPS = [
    Op(
        "Constant",
        _infer,
        _run,
        arity=(0, 0),
        schema={
            "dtype": Choice(among=DTYPES),
            "shape": Integers((), least=0, most=MAX_SIZE, longest=MAX_RANK),
            "value": Numbers(None, single=True),
        },
        weight_shapes=lambda a: {} if a["value"] is not None else {"value": a["shape"]},
        weight_dtypes=lambda a: {} if a["value"] is not None else {"value": a["dtype"]},
    ),
]
