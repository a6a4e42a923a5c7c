"""TestPair: an input with the output that the source framework gave for it, stored with the weights as proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from rnncore.errors import InputError, shown
from rnncore.graph.spec import Spec
from rnncore.ops import Value, numpy_dtype

__all__ = ["TestPair", "check_array"]

KINDS = {"f": "f", "i": "iu", "u": "iu", "b": "b"}  # of a value -> of an array that may be given for it


@dataclass(frozen=True, eq=False)
class TestPair:
    """Named inputs and the outputs they gave in the source framework.

    Arrays are copied, C-contiguous, in native byte order and read-only; integers become int64.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    def __post_init__(self):
        for field in ("inputs", "outputs"):
            given = getattr(self, field)
            if not isinstance(given, Mapping):
                raise InputError(f"test pair: {field}: {type(given).__name__}, expected a mapping of names to arrays")
            arrays = {name: _frozen(name, array) for name, array in given.items()}
            object.__setattr__(self, field, MappingProxyType(arrays))

    def __reduce__(self):
        return TestPair, (dict(self.inputs), dict(self.outputs))

    def check(self, spec: Spec) -> None:
        """Raises InputError where the names, dtypes or shapes are not those of the Spec's inputs and outputs.

        Optional inputs may be absent; sizes known only at run time are free.
        """
        given = {entry.name: entry.value for entry in spec.inputs if not entry.optional or entry.name in self.inputs}
        returned = {name: spec.values[name] for name in spec.outputs}
        for what, arrays, values in (("input", self.inputs, given), ("output", self.outputs, returned)):
            if set(arrays) != set(values):
                raise InputError(f"test pair: {what}s {', '.join(arrays)}, expected {', '.join(values)}")
            for name, value in values.items():
                check_array(f"test pair: {what} {name!r}", arrays[name], value)


def check_array(what: str, array: np.ndarray, value: Value) -> None:
    """Raises InputError, beginning with ``what``, if an array has not the dtype and shape of a value of a Spec."""
    fits = array.dtype.kind in KINDS[numpy_dtype(value.dtype).kind] and array.ndim == len(value.shape)
    for size, expected in zip(array.shape, value.shape, strict=False):
        fits = fits and (isinstance(expected, str) or size == expected)
    if not fits:
        raise InputError(f"{what}: {array.dtype} {array.shape}, expected {value}")


def _frozen(name: str, given: np.ndarray) -> np.ndarray:
    try:
        array = np.asarray(given)
        if array.dtype.kind not in "fiub":
            raise InputError(f"test pair: {shown(name)} has dtype {array.dtype}, expected float, integer or bool")
        wanted = np.dtype(np.int64) if array.dtype.kind in "iu" else array.dtype.newbyteorder("=")
        frozen = np.array(array, dtype=wanted, order="C")
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"test pair: {shown(name)}: {error}") from None
    frozen.flags.writeable = False
    return frozen
