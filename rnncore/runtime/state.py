"""State: what a recurrent network carries from one call to the next. It belongs to the caller."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rnncore import errors
from rnncore.errors import FormatError, StateError
from rnncore.files.cursor import Cursor, shown

__all__ = ["State", "arrays_from_bytes", "arrays_to_bytes", "fingerprint"]

MAGIC = b"RNNSTATE"
VERSION = 1
DTYPES = (
    "float32",
    "float64",
    "float16",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
)
MAX_ARRAYS, MAX_NAME, MAX_RANK = 100_000, 1100, 16
MAX_ELEMENTS = 1 << 48  # except sizes of 0, whose product NumPy would count too


class State(Mapping[str, np.ndarray]):
    """Recurrent states by name: "NODE.h" and, for an LSTM, "NODE.c".

    Each array is (layers * directions, B, size) in PyTorch's h_n order: layer 0 forward, layer 0 reverse, layer 1
    forward, ... The arrays belong to the State; the model never keeps or changes them, so a State can be copied,
    compared, pickled, and given to several calls. In a model with one recurrent node ``state.h`` and ``state.c``
    need no name.
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        try:
            if isinstance(arrays, np.ndarray):  # which has no names
                raise TypeError
            self._arrays = dict(arrays)
        except (TypeError, ValueError):
            raise StateError(f"state: {type(arrays).__name__}, expected a mapping of names to arrays") from None

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> State:
        """A State that takes the dict itself: for arrays that have no other owner."""
        state = cls.__new__(cls)
        state._arrays = arrays
        return state

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name; not a copy."""
        return self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        """Same names, shapes, dtypes and numbers (NaN equals NaN)."""
        if not isinstance(other, State):
            return NotImplemented
        return self._arrays.keys() == other._arrays.keys() and all(
            a.dtype == other[name].dtype and np.array_equal(a, other[name], equal_nan=True) for name, a in self.items()
        )

    __hash__ = None  # type: ignore[assignment]  # what Python itself does for a class with __eq__

    def __reduce__(self):
        return State, (self._arrays,)

    def __repr__(self) -> str:
        return f"<State: {', '.join(f'{name} {array.shape}' for name, array in self.items()) or 'empty'}>"

    @property
    def h(self) -> np.ndarray:
        """The only node's h. StateError where there are several nodes."""
        return self._only("h")

    @property
    def c(self) -> np.ndarray:
        """The only node's c. StateError where there are several nodes, or none with a c."""
        return self._only("c")

    @property
    def batch(self) -> int:
        """Number of rows; 0 for a model without recurrent nodes."""
        return next((array.shape[1] for array in self.values()), 0)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.values())

    def copy(self) -> State:
        """An independent copy."""
        return State({name: array.copy() for name, array in self.items()})

    def to_bytes(self, fingerprint: str | None = None) -> bytes:
        """The State as bytes that any machine and later version can read: a service keeps its users' states so.

        fingerprint  model.fingerprint, so that only this model's states are accepted where it is asked for

        All numbers little endian:

            offset  bytes
            0       8       magic "RNNSTATE"
            8       2       version, 1
            10      2       0
            12      4       number of arrays
            16      32      fingerprint (SHA-256) of the model; zeros for none
            48      ...     each array: length of its name (2 bytes), name (UTF-8), dtype (1 byte: place in float32,
                            float64, float16, bool, int8, int16, int32, int64, uint8, uint16, uint32, uint64), rank
                            (1 byte), sizes (8 bytes each), data (C order)
            end-4   4       CRC-32 of everything before

        The checksum finds damage, not forgery: a writer of the bytes can write any state.
        """
        return arrays_to_bytes(self._arrays, fingerprint)

    @classmethod
    def from_bytes(cls, data: bytes, fingerprint: str | None = None) -> State:
        """The State that to_bytes wrote.

        Raises FormatError for bytes that are damaged or something else, and StateError where they are of another
        model than the one with this fingerprint.
        """
        arrays = arrays_from_bytes(data, fingerprint)
        for name, array in arrays.items():
            if array.ndim != 3:
                raise FormatError(f"state: {shown(name)}: shape {array.shape}, expected (layers * directions, B, size)")
        return cls.of(arrays)

    def rows(self, index) -> State:
        """A copy of some rows of the batch: a slice, an integer array or a boolean mask."""
        return State({name: np.array(array[:, index]) for name, array in self.items()})

    def _only(self, letter: str) -> np.ndarray:
        names = [name for name in self if name.endswith("." + letter)]
        if len(names) != 1:
            raise StateError(
                f"state.{letter}: {len(names)} states of that letter, expected one; there are {list(self)}"
            )
        return self[names[0]]


def arrays_to_bytes(arrays: Mapping[str, np.ndarray], fingerprint: str | None) -> bytes:
    """Named arrays in the layout of State.to_bytes."""
    parts = [MAGIC, VERSION.to_bytes(2, "little"), bytes(2), len(arrays).to_bytes(4, "little"), _digest(fingerprint)]
    for name, array in arrays.items():
        encoded = name.encode()
        parts.append(len(encoded).to_bytes(2, "little") + encoded)
        parts.append(bytes((DTYPES.index(array.dtype.name), array.ndim)))
        parts += [size.to_bytes(8, "little") for size in array.shape]
        parts.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    body = b"".join(parts)
    return body + zlib.crc32(body).to_bytes(4, "little")


def arrays_from_bytes(data: bytes, fingerprint: str | None) -> dict[str, np.ndarray]:
    """Copies of the arrays that arrays_to_bytes wrote. FormatError and StateError as State.from_bytes."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise StateError(f"state: {type(data).__name__}, expected bytes")
    data = bytes(data)
    cursor = Cursor(data, "state", 0, max(0, len(data) - 4))
    cursor.expect(MAGIC, "magic")
    version = cursor.u16()
    if version != VERSION or cursor.u16():
        raise FormatError(f"state: version {version}, this version of rnncore reads {VERSION}")
    if zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise FormatError("state: damaged: its checksum does not fit")
    count = cursor.u32()
    if count > MAX_ARRAYS:
        raise FormatError(f"state: {count} arrays, expected at most {MAX_ARRAYS}")
    digest = cursor.bytes(32)
    if fingerprint is not None and digest != _digest(fingerprint):
        raise StateError(f"state: of the model {_short(digest.hex())}, expected {_short(fingerprint)}")
    arrays: dict[str, np.ndarray] = {}
    for _ in range(count):
        name, array = _read_array(cursor)
        if name in arrays:
            raise FormatError(f"state: two arrays are named {name!r}")
        arrays[name] = array
    if cursor.remaining:
        raise FormatError(f"state: {cursor.remaining} bytes after the last array, expected none")
    return arrays


def _read_array(cursor: Cursor) -> tuple[str, np.ndarray]:
    length = cursor.u16()
    if not 0 < length <= MAX_NAME:
        raise FormatError(f"state: a name of {length} bytes, expected 1 to {MAX_NAME}")
    try:
        name = cursor.bytes(length).decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"state: a name is not UTF-8: {error}") from None
    code, rank = cursor.u8(), cursor.u8()
    if code >= len(DTYPES) or rank > MAX_RANK:
        expected = f"a dtype below {len(DTYPES)} and a rank of at most {MAX_RANK}"
        raise FormatError(f"state: {shown(name)}: dtype {code} and rank {rank}, expected {expected}")
    shape = tuple(cursor.u64() for _ in range(rank))
    dtype = np.dtype(DTYPES[code]).newbyteorder("<")
    size = math.prod(shape) * dtype.itemsize  # of Python's integers, which do not wrap
    if math.prod(max(side, 1) for side in shape) > MAX_ELEMENTS or size > cursor.remaining:
        raise FormatError(f"state: {shown(name)}: shape {shape}, but {cursor.remaining} bytes remain")
    raw = cursor.bytes(size)
    if dtype.kind == "b" and raw.strip(b"\0\1"):
        raise FormatError(f"state: {shown(name)}: a bool that is neither 0 nor 1")
    return name, np.frombuffer(raw, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def fingerprint(spec: Any, weights: Mapping[str, np.ndarray], dtype: np.dtype) -> str:
    """SHA-256, in hexadecimal digits, of what a network is: its Spec, its weights and the dtype it runs in."""
    import hashlib  # OpenSSL, which loading a model has no use for

    digest = hashlib.sha256(json.dumps(spec.to_json(), sort_keys=True).encode())
    digest.update(dtype.name.encode())
    for name in sorted(weights):
        array = weights[name]
        array = array.astype(dtype, copy=False) if array.dtype.kind == "f" else array
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _digest(fingerprint: str | None) -> bytes:
    if fingerprint is None:
        return bytes(32)
    try:
        digest = bytes.fromhex(fingerprint)
    except (TypeError, ValueError):
        digest = b""
    if len(digest) != 32:
        raise StateError(
            f"fingerprint {errors.shown(fingerprint)}, expected the 64 hexadecimal digits of model.fingerprint"
        )
    return digest


def _short(fingerprint: str) -> str:
    return "that none is named for" if not fingerprint.strip("0") else f"{fingerprint[:12]}..."
