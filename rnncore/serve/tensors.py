"""Tensors of the Open Inference Protocol: names of dtypes, JSON data and raw bytes, to arrays and back.

Everything a client says about a tensor is checked here before anything of that size is made.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rnncore.serve.service_errors import ServiceError

__all__ = [
    "FLOATS",
    "array_of_bytes",
    "array_of_json",
    "array_of_numbers",
    "as_integer",
    "cast",
    "check_shape",
    "datatype",
    "json_of_array",
]

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
FLOATS = {code: np.dtype(name) for name, code in DATATYPES.items() if code.startswith("FP")}
_BY_DTYPE = {np.dtype(name): code for name, code in DATATYPES.items()}
MOST_DIMENSIONS = 8
ALLOWED: dict[str, set[type]] = {"f": {int, float}, "i": {int}, "u": {int}, "b": {bool}}


def datatype(dtype: np.dtype) -> str:
    """The protocol's name of a dtype."""
    return _BY_DTYPE[dtype]


def check_shape(name: str, shape: Any, itemsize: int, most_bytes: int) -> tuple[int, ...]:
    """A shape as integers, whose array has at most ``most`` bytes even if its zeros were ones."""
    if not isinstance(shape, (list, tuple)) or len(shape) > MOST_DIMENSIONS:
        raise ServiceError(400, f"input {name!r}: shape is not a list of at most {MOST_DIMENSIONS} integers")
    sizes, most = [], itemsize
    for given in shape:
        size = as_integer(given)
        if size is None or size < 0:
            raise ServiceError(400, f"input {name!r}: shape has {_short(given)}, expected integers from 0")
        sizes.append(size)
        most *= size or 1
    if most > most_bytes:
        raise ServiceError(413, f"input {name!r}: shape {_short(sizes)} needs more than {most_bytes} bytes")
    return tuple(sizes)


def as_integer(value: Any) -> int | None:
    """An integer of JSON, where 2.0 is one too; None for anything else."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def array_of_bytes(name: str, data: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array over row-major little-endian bytes, of which there must be exactly enough."""
    expected = math.prod(shape) * dtype.itemsize
    if len(data) != expected:
        raise ServiceError(400, f"input {name!r}: {len(data)} bytes, expected {expected} for {dtype} {list(shape)}")
    if dtype.kind == "b" and len(data) and np.frombuffer(data, np.uint8).max() > 1:
        raise ServiceError(400, f"input {name!r}: a BOOL that is neither 0 nor 1")
    array = np.frombuffer(data, dtype.newbyteorder("<"))
    if not array.flags.aligned:  # a copy of bytes keeps the interpreter's lock, which numpy's would hand to a batch
        array = np.frombuffer(bytes(data), array.dtype)
    return array.reshape(shape)


def array_of_json(name: str, data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array from JSON: a flat list in row-major order, or lists nested as the shape says."""
    flat = _flat(name, data, shape)
    strange = set(map(type, flat)) - ALLOWED[dtype.kind]
    if strange:
        raise ServiceError(400, f"input {name!r}: {_json_name(strange.pop())} in data, expected {datatype(dtype)}")
    array = array_of_numbers(name, flat, shape, dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ServiceError(400, f"input {name!r}: a number does not fit into {datatype(dtype)}")
    return array


def array_of_numbers(name: str, numbers: Sequence[Any], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array from the same number of numbers of its kind."""
    if dtype.kind in "iu" and numbers:
        limits = np.iinfo(dtype)
        if min(numbers) < limits.min or max(numbers) > limits.max:
            raise ServiceError(400, f"input {name!r}: a number does not fit into {datatype(dtype)}")
    try:
        with np.errstate(over="ignore"):
            return np.array(numbers, dtype).reshape(shape)
    except OverflowError:  # an integer beyond all floats
        raise ServiceError(400, f"input {name!r}: a number does not fit into {datatype(dtype)}") from None


def cast(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """An array of floats as the model computes with. ServiceError where a finite number becomes infinite."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if converted.itemsize < array.itemsize and (np.isinf(converted) & ~np.isinf(array)).any():
        raise ServiceError(400, f"input {name!r}: a number does not fit into {datatype(dtype)}")
    return converted


def json_of_array(name: str, array: np.ndarray) -> list[Any]:
    """Row-major data for JSON, which has no NaN and no infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ServiceError(422, f"output {name!r} holds NaN or infinity, which JSON cannot: ask for binary_data")
    return array.ravel().tolist()


def _flat(name: str, data: Any, shape: Sequence[int]) -> list[Any]:
    if type(data) is not list:
        raise ServiceError(400, f"input {name!r}: data is {_json_name(type(data))}, expected an array")
    count = math.prod(shape)
    if not (data and type(data[0]) is list):
        if len(data) != count:
            raise ServiceError(400, f"input {name!r}: {len(data)} numbers in data, expected {count} for {list(shape)}")
        return data
    level = [data]
    for axis, size in enumerate(shape):
        for part in level:
            if type(part) is not list or len(part) != size:
                part_has = f"{len(part)} elements" if type(part) is list else _json_name(type(part))
                raise ServiceError(400, f"input {name!r}: {part_has} along axis {axis} of data, expected {size}")
        level = list(itertools.chain.from_iterable(level))
    return level


def _json_name(kind: type) -> str:
    names = {str: "a string", list: "an array", dict: "an object", bool: "a boolean", type(None): "null"}
    return names.get(kind, "a number" if kind is int else "a number with a fraction")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
