"""Weights: named, frozen arrays in canonical order, checked against a Spec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from rnncore.errors import WeightError
from rnncore.spec import Spec

__all__ = ["Weights"]


class Weights(Mapping[str, np.ndarray]):
    """The arrays of a Spec: exactly the names and shapes of ``spec.weight_shapes()``, in that order.

    Arrays are read-only and C-contiguous, in native byte order. float16, float32 and float64 keep their dtype;
    integers and booleans are refused, but for the weights that ``spec.weight_dtypes()`` says hold them. The arrays
    given are copied unless they are already in that form and nobody can write to them.

    Raises WeightError naming the weight: missing, unexpected, wrong shape or dtype.
    """

    def __init__(self, spec: Spec, arrays: Mapping[str, np.ndarray]):
        shapes = spec.weight_shapes()
        missing = [name for name in shapes if name not in arrays]
        unexpected = [name for name in arrays if name not in shapes]
        if missing or unexpected:
            found = f"{len(missing)} missing: {_some(missing)}" if missing else ""
            extra = f"{len(unexpected)} that the Spec does not have: {_some(unexpected)}" if unexpected else ""
            raise WeightError(f"weights: {'; '.join(filter(None, (found, extra)))}")
        dtypes = spec.weight_dtypes()
        self._arrays = {
            name: _frozen(name, arrays[name], shape, dtypes.get(name, "float")) for name, shape in shapes.items()
        }

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        return f"<Weights: {len(self)} arrays, {self.count:,} parameters>"

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(array.size for array in self._arrays.values())

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())


def _frozen(name: str, given: np.ndarray, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    array = np.asarray(given)
    if dtype != "float":
        if array.dtype != np.dtype(dtype):
            raise WeightError(f"{name}: dtype {array.dtype}, expected {dtype}")
    elif array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise WeightError(f"{name}: dtype {array.dtype}, expected float16, float32 or float64")
    if array.shape != shape:
        raise WeightError(f"{name}: shape {array.shape}, expected {shape}")
    frozen = np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")
    if frozen is given or np.may_share_memory(frozen, array):
        frozen = frozen.copy() if _writable(frozen) else frozen
    frozen.flags.writeable = False
    return frozen


def _writable(array: np.ndarray) -> bool:
    """Whether somebody may write to the memory: through this array or one it is a view of."""
    owner = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return owner is not None and not isinstance(owner, bytes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
