"""Weights: named, frozen arrays in canonical order, checked against a Spec."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from rnncore.errors import WeightError, shown
from rnncore.graph.spec import Spec

__all__ = ["Weights", "memory_of"]


class Weights(Mapping[str, np.ndarray]):
    """The arrays of a Spec: exactly the names and shapes of ``spec.weight_shapes()``, in that order.

    Arrays are read-only and C-contiguous, in native byte order. float16, float32 and float64 keep their dtype;
    integers and booleans are refused, but for the weights that ``spec.weight_dtypes()`` says hold them. The arrays
    given are copied unless they are already in that form, they cannot be written to, and they are not a part of
    something larger, which they would keep in memory. Arrays given of one memory and layout are one array here.

    Those of a Model are partly packed for its kernels and not held here a second time: reading such a weight unpacks
    a copy, with the bits and the dtype that were given.

    Raises WeightError naming the weight: missing, unexpected, wrong shape or dtype.
    """

    def __init__(self, spec: Spec, arrays: Mapping[str, np.ndarray]):
        if not isinstance(arrays, Mapping):
            raise WeightError(f"weights: {type(arrays).__name__}, expected a mapping of names to arrays")
        shapes = spec.weight_shapes()
        missing = [name for name in shapes if name not in arrays]
        unexpected = [name for name in arrays if name not in shapes]
        if missing or unexpected:
            absent = f"{len(missing)} missing: {_some(missing)}" if missing else ""
            extra = f"{len(unexpected)} that the Spec does not have: {_some(unexpected)}" if unexpected else ""
            raise WeightError(f"weights: {'; '.join(filter(None, (absent, extra)))}")
        dtypes = spec.weight_dtypes()
        self._arrays: dict[str, np.ndarray | _Packed] = {}
        made: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}  # what was given stays alive, and its memory its own
        same: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # the same by the object's identity, which is sooner known
        for name, shape in shapes.items():
            array = _array(name, arrays[name])
            _check(name, array, shape, dtypes.get(name, "float"))
            kept = same.get(id(array))
            if kept is None:
                key = memory_of(array)
                if key not in made:
                    made[key] = array, _frozen(array)
                kept = same[id(array)] = array, made[key][1]
            self._arrays[name] = kept[1]

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        return array.unpacked() if isinstance(array, _Packed) else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<Weights: {len(self)} arrays, {self.count:,} parameters>"

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(math.prod(array.shape) for array in self._arrays.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, packed ones counted as what reading them gives."""
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in self._arrays.values())

    @property
    def packed(self) -> tuple[str, ...]:
        """Names of the weights that are not held here."""
        return tuple(name for name, array in self._arrays.items() if isinstance(array, _Packed))

    def release_packed(self, packed: Mapping[str, Callable[[], np.ndarray]]) -> Weights:
        """The same without the arrays of these names, which from now on come from what is given: a fresh float32 copy.

        An array that a float32 copy does not hold to the bit stays.
        """
        copied = copy.copy(self)
        copied._arrays = dict(self._arrays)
        for name, read in packed.items():
            array = self._arrays[name]
            if _held_by_float32(array):
                copied._arrays[name] = _Packed(array.shape, array.dtype, read)
        return copied


def memory_of(array: np.ndarray) -> tuple:
    """A key that two arrays that are alive have in common if they are the same numbers in the same memory."""
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str


class _Packed(NamedTuple):
    """A placeholder for an array that is kept elsewhere."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    def unpacked(self) -> np.ndarray:
        array = self.read().astype(self.dtype, copy=False)
        array.flags.writeable = False
        return array


def _array(name: str, given: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise WeightError(f"{name}: {type(given).__name__} that is not an array: {error}") from None


def _check(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: str) -> None:
    if dtype != "float":
        if array.dtype != np.dtype(dtype):
            raise WeightError(f"{name}: dtype {array.dtype}, expected {dtype}")
    elif array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise WeightError(f"{name}: dtype {array.dtype}, expected float16, float32 or float64")
    if array.shape != shape:
        raise WeightError(f"{name}: shape {array.shape}, expected {shape}")


def _frozen(array: np.ndarray) -> np.ndarray:
    """The array as Weights keep it."""
    frozen = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    if np.may_share_memory(frozen, array):
        frozen = frozen.copy() if _writable(frozen) or _is_part(frozen) else frozen
    frozen.flags.writeable = False
    return frozen


def _writable(array: np.ndarray) -> bool:
    """Whether the memory may be written to: through this array or one it is a view of."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return owner is not None and not isinstance(owner, bytes)


def _held_by_float32(array: Any) -> bool:
    """Whether the array comes back from float32 to the bit."""
    if array.dtype == np.float32:
        return True
    with np.errstate(all="ignore"):
        return array.astype(np.float32).astype(array.dtype).tobytes() == array.tobytes()


def _is_part(array: np.ndarray) -> bool:
    """Whether the array, which is not written to, is a view of memory that is larger."""
    owner = array
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return (owner.nbytes if isinstance(owner, np.ndarray) else len(owner)) > array.nbytes


def _some(names: list[str]) -> str:
    written = [name if isinstance(name, str) and name.isprintable() else shown(name) for name in names[:4]]
    return ", ".join(written) + (", ..." if len(names) > 4 else "")
