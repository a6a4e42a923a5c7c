"""Dtypes by name, and bytes -> arrays: native byte order, read-only, those that NumPy does not have as float32.

The checks that every format needs of a shape and of a name are here too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rnncore.errors import FormatError
from rnncore.files.cursor import Budget, shown
from rnncore.graph.weights import memory_of

__all__ = [
    "COPIES_AT_LEAST",
    "COPIES_RATIO",
    "HALVES",
    "ITEM_SIZES",
    "WIDENED",
    "Copies",
    "check_name",
    "element_count",
    "from_bytes",
]

MAX_DIMENSIONS = 8
MAX_NAME = 1000
MAX_TENSORS = 100_000

# name -> numpy's code
CODES = {
    "float64": "f8",
    "float32": "f4",
    "float16": "f2",
    "int64": "i8",
    "int32": "i4",
    "int16": "i2",
    "int8": "i1",
    "uint64": "u8",
    "uint32": "u4",
    "uint16": "u2",
    "uint8": "u1",
    "bool": "?",
}


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """The upper halves of float32's bits."""
    wide = bits.astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


# name -> the code of its bits, and what makes a new float32 array of those
WIDENED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {"bfloat16": ("u2", _from_bfloat16)}
HALVES = ("float16", *WIDENED)  # which a model widens
ITEM_SIZES = {name: np.dtype(code).itemsize for name, code in CODES.items()}
ITEM_SIZES |= {name: np.dtype(code).itemsize for name, (code, _) in WIDENED.items()}


def from_bytes(data: bytes, dtype: str, place: str, little: bool = True) -> np.ndarray:
    """(numel,) the numbers in ``data``, whose length is a multiple of the item size.

    A view of ``data`` where that is possible; a copy for WIDENED dtypes (float32) and foreign byte order. Read-only,
    and nothing else can write to the memory. Raises FormatError for a bool that is neither 0 nor 1.
    """
    order = "<" if little else ">"
    if not data:
        array = np.empty(0, CODES.get(dtype, "f4"))
    elif dtype in WIDENED:
        code, widen = WIDENED[dtype]
        array = widen(np.frombuffer(data, order + code))
    elif dtype == "bool":
        bits = np.frombuffer(data, np.uint8)
        if bits.max() > 1:
            raise FormatError(f"{place}: a bool is {bits.max()}, expected 0 or 1")
        array = bits.view(np.bool_)
    else:
        array = np.frombuffer(data, order + CODES[dtype])
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
    array.flags.writeable = False
    return array


COPIES_AT_LEAST = 64 << 20  # bytes that the weights of any file may have
COPIES_RATIO = 2  # and times the bytes that the file declares, if that is more


class Copies:
    """The memory that the weights of a file take: arrays of one memory and layout count once, copies of it again.

    declared  bytes that the file says it has
    """

    def __init__(self, declared: int, place: str):
        limit = max(COPIES_AT_LEAST, COPIES_RATIO * declared)
        self._budget = Budget(limit, "bytes of weights, made of fewer by naming them again", place)
        self._seen: dict[tuple, np.ndarray] = {}
        self._dense: dict[tuple, np.ndarray] = {}

    def add(self, array: np.ndarray) -> None:
        """Count an array, which from now on is kept. FormatError where that is too much."""
        key = memory_of(array)
        if key not in self._seen:
            self._budget.spend(array.nbytes)
            self._seen[key] = array

    def contiguous(self, array: np.ndarray) -> np.ndarray:
        """The array in C order: one copy for each memory and layout."""
        if array.flags.c_contiguous:
            return array
        key = memory_of(array)
        if key not in self._dense:
            self._budget.spend(array.nbytes)
            self._seen[key] = array  # so that its memory stays its own
            self._dense[key] = np.ascontiguousarray(array)
            self._seen[memory_of(self._dense[key])] = self._dense[key]
        return self._dense[key]


def element_count(shape: Sequence[int], item_size: int) -> int:
    """Number of elements of a shape that numpy can hold, in Python integers; ValueError for any other."""
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{len(shape)} dimensions, expected at most {MAX_DIMENSIONS}")
    count = span = 1
    for size in shape:
        if type(size) is not int or size < 0:
            raise ValueError(f"a size is {shown(repr(size)[:200])}, expected an integer >= 0")
        count *= size
        span *= max(size, 1)
        if span * item_size >= 1 << 63:
            raise ValueError("a shape of more elements than memory has addresses")
    return count


def check_name(name: str, place: str) -> None:
    """A tensor's name is text of at most 1000 characters."""
    if len(name) > MAX_NAME:
        raise FormatError(f"{place}: a tensor's name has {len(name)} characters, expected at most {MAX_NAME}")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise FormatError(f"{place}: a tensor's name {shown(name)!r} is not valid Unicode")
