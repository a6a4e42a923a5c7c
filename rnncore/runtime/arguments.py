"""Checks at the boundary: what a caller passes becomes exactly what the kernels expect, or one clear InputError."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np

from rnncore.errors import InputError, StateError, shown
from rnncore.graph.nodes import AttentionDecoder, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import UNKNOWN, numpy_dtype
from rnncore.runtime.state import State

__all__ = [
    "accept_array",
    "accept_inputs",
    "accept_lengths",
    "accept_mask",
    "accept_state",
    "as_array",
    "as_items",
    "check_mask_is_lengths",
    "empty_array",
    "without_padding",
]


# Kinds of dtypes that are taken for a kind, where every number fits.
KINDS = {"f": "fiub", "i": "iu", "u": "iu", "b": "b"}


def accept_array(
    name: str, given: object, dtype: np.dtype, shape: tuple[int | str, ...], sizes: dict[str, int]
) -> np.ndarray:
    """``given`` as an aligned, native array of ``dtype`` whose last dimension is dense; copied only where needed.

    Names in ``shape`` are looked up in ``sizes`` and added to it where they are new. float64 given to a float32
    model is cast with a warning; any other loss of kind (complex, object, float to integer) is an InputError.
    """
    array = as_array(name, given)
    kind, wanted = array.dtype.kind, dtype.kind
    if kind not in KINDS[wanted]:
        raise InputError(f"{name}: dtype {array.dtype}, expected {dtype}")
    if array.ndim != len(shape):
        raise InputError(f"{name}: shape {array.shape}, expected {_written(shape)} with {len(shape)} dimensions")
    for axis, size in enumerate(shape):
        own = array.shape[axis]
        expected = own if size == UNKNOWN else sizes.setdefault(size, own) if isinstance(size, str) else size
        if own != expected:
            why = f"{size} = {expected}" if isinstance(size, str) else expected
            raise InputError(
                f"{name}: shape {array.shape}, expected {_written(shape)}: dimension {axis} is {own}, not {why}"
            )
    if array.dtype == dtype and array.flags.carray:
        return array
    if kind == "f" and array.dtype.itemsize > dtype.itemsize and isinstance(given, np.ndarray):
        warnings.warn(f"{name}: {array.dtype} given to a {dtype} model is cast", UserWarning, stacklevel=5)
    if kind in "iu" and wanted in "iu" and array.size and not np.can_cast(array.dtype, dtype):
        limits = np.iinfo(dtype)
        for extreme in (array.min(), array.max()):
            if not limits.min <= extreme <= limits.max:
                raise InputError(f"{name}: {extreme} does not fit into {dtype}")
    try:
        array = array.astype(dtype, copy=False)
        strides_fit = array.ndim == 0 or array.strides[-1] == array.itemsize or array.shape[-1] <= 1
        if not (strides_fit and array.flags.aligned and all(stride % array.itemsize == 0 for stride in array.strides)):
            array = np.array(array, order="C")
    except (MemoryError, ValueError) as error:  # of a view that is larger than what it shows
        raise InputError(f"{name}: shape {array.shape} of {dtype}: {error}") from None
    return array


def accept_inputs(spec: Spec, given: Mapping[str, object], dtype: np.dtype) -> dict[str, np.ndarray | None]:
    """Every input of the Spec by name, checked; None for an optional one that was not given."""
    if not isinstance(given, Mapping):
        raise InputError(f"inputs: {type(given).__name__}, expected a mapping of names to arrays")
    known = [entry.name for entry in spec.inputs]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise InputError(f"input {shown(unknown[0])} is unknown, expected {', '.join(known)}")
    sizes: dict[str, int] = {}
    arrays: dict[str, np.ndarray | None] = {}
    for entry in spec.inputs:
        value = given.get(entry.name)
        if value is None:
            if not entry.optional:
                raise InputError(f"input {entry.name!r} missing, expected {entry.value}")
            arrays[entry.name] = None
        else:
            arrays[entry.name] = accept_array(entry.name, value, numpy_dtype(entry.dtype, dtype), entry.shape, sizes)
    return arrays


def without_padding(ids: np.ndarray, lengths: np.ndarray, batch_axis: int) -> np.ndarray:
    """ids with 0 after each row's length, where anything may be, such as the -1 of an embedding's padding."""
    if len(lengths) != ids.shape[batch_axis] or not len(lengths) or lengths.min() >= ids.shape[1 - batch_axis]:
        return ids
    counts = np.arange(ids.shape[1 - batch_axis]) < lengths[:, None]
    counts = counts.T if batch_axis == 1 else counts
    return np.where(counts.reshape(counts.shape + (1,) * (ids.ndim - 2)), ids, 0)


def accept_lengths(name: str, lengths: np.ndarray, batch: int, steps: int) -> None:
    """lengths (B,) int64, each from 0 to the number of steps."""
    if lengths.shape != (batch,):
        raise InputError(f"{name}: shape {lengths.shape}, expected ({batch},), one for each row")
    if batch and (lengths.min() < 0 or lengths.max() > steps):
        row = int(np.flatnonzero((lengths < 0) | (lengths > steps))[0])
        raise InputError(f"{name}: {lengths[row]} at row {row}, expected 0 to {steps}")


def accept_mask(name: str, mask: np.ndarray, shape: tuple[int, int]) -> None:
    """mask, already bool, has one entry for each step of each row."""
    if mask.shape != shape:
        raise InputError(f"{name}: shape {mask.shape}, expected {shape}, one for each step")


def check_mask_is_lengths(name: str, mask: np.ndarray, lengths_name: str, lengths: np.ndarray) -> None:
    """mask (B, T) is True exactly before each row's length."""
    differs = (mask != (np.arange(mask.shape[1]) < lengths[:, None])).any(axis=1)
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        bits = "".join("1" if valid else "0" for valid in mask[row, :40])
        raise InputError(
            f"{name} and {lengths_name} contradict at row {row}: mask {bits}{'...' * (mask.shape[1] > 40)}, "
            f"expected {lengths[row]} times True and then False, or only one of the two"
        )


def accept_state(nodes: tuple[Recurrent | AttentionDecoder, ...], given: object, batch: int, dtype: np.dtype) -> State:
    """A State from a State, a mapping, or for one recurrent node an array h or a tuple (h, c)."""
    names = [f"{node.name}.{key}" for node in nodes for key in node.state_shapes(batch)]
    if not isinstance(given, Mapping):
        arrays = given if isinstance(given, (tuple, list)) else (given,)
        if len(nodes) != 1 or len(arrays) != len(names):
            raise StateError(f"state: {type(given).__name__}, expected a State with {', '.join(names)}")
        given = dict(zip(names, arrays, strict=True))
    missing = [name for name in names if name not in given]
    unexpected = [name for name in given if name not in names]
    if missing or unexpected:
        raise StateError(f"state: {', '.join(map(_name, given)) or 'nothing'} given, expected {', '.join(names)}")
    accepted = {}
    for node in nodes:
        for key, shape in node.state_shapes(batch).items():
            name = f"{node.name}.{key}"
            try:
                accepted[name] = np.ascontiguousarray(accept_array(f"state {name}", given[name], dtype, shape, {}))
            except StateError:
                raise
            except InputError as error:
                raise StateError(str(error)) from None
    return State(accepted)


def as_array(name: str, given: object) -> np.ndarray:
    """``given`` as an array of numbers, or an InputError that begins with ``name``."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise InputError(f"{name}: {type(given).__name__} that is not an array: {error}") from None
    if type(given) is not np.ndarray and hasattr(given, "mask") and np.ma.is_masked(given):
        raise InputError(f"{name}: a masked array with masked elements, expected them filled, or lengths or a mask")
    if array.dtype.kind not in "fiub":
        hint = (
            " (rows of different lengths? use model.predict, or pad and give lengths)"
            if array.dtype.kind == "O"
            else ""
        )
        raise InputError(f"{name}: dtype {array.dtype}, expected numbers{hint}")
    return array


def as_items(name: str, given: object) -> Iterator[Any]:
    """The elements of an iterable, or an InputError that begins with ``name``; its own errors are its own."""
    try:
        return iter(cast(Iterable[Any], given))
    except TypeError:
        raise InputError(f"{name}: {type(given).__name__}, expected a list") from None


def empty_array(what: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros, or an InputError that begins with ``what`` without memory for them."""
    try:
        return np.zeros(shape, dtype)
    except (MemoryError, ValueError, OverflowError) as error:
        raise InputError(f"{what}: {error}") from None


def _name(given: object) -> str:
    return given if isinstance(given, str) and given.isprintable() else shown(given)


def _written(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
