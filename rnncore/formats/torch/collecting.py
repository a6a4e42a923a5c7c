"""From the objects of a pickle to named tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np

from rnncore.errors import FormatError, UnsupportedError
from rnncore.files.cursor import Budget, shown
from rnncore.formats._arrays import (
    COPIES_AT_LEAST,
    COPIES_RATIO,
    ITEM_SIZES,
    MAX_NAME,
    MAX_TENSORS,
    check_name,
    from_bytes,
)
from rnncore.formats.checkpoint import Checkpoint, Skipped, SkippedList
from rnncore.formats.torch.objects import Quantized, Storage, StoredTensor, Unread, is_dtype, item_size, text_of
from rnncore.formats.torch.pickle_reader import Foreign, Name, Pairs
from rnncore.formats.torch.quantized import STORED, dequantize, packed

__all__ = ["LARGEST_LISTED", "WIDE", "Arrays", "Collector"]

MAX_DEPTH = 64
MAX_VISITS = 500_000
MAX_METADATA = 1000
LONGEST_METADATA = 1000
WIDE = 4  # bytes of the float32 that a quantized number becomes
PLAIN = frozenset((str, int, float, bool, type(None)))
QUICK = 16  # values of a vocabulary that are passed over in the time of a visit
LARGEST_LISTED = 100  # plain values of larger containers are data (a vocabulary), not settings


class Arrays:
    """Arrays of tensors, read when first asked for; tensors on one storage share one buffer.

    ``load`` gives the bytes of a storage; their number is what the storage needs.
    """

    def __init__(self, place: str, load, little: bool = True):
        self.place, self.load, self.little = place, load, little
        self.bytes: dict[str, bytes] = {}
        self.flat: dict[tuple[str, str], np.ndarray] = {}
        self.views: set[tuple] = set()
        self.declared = self.viewed = 0

    def of(self, tensor: StoredTensor) -> np.ndarray:
        """The tensor's array, with its strides, read-only."""
        storage = tensor.storage
        item = item_size(tensor.dtype)
        if 0 in tensor.shape:
            array = np.empty(tensor.shape, from_bytes(b"", tensor.dtype, self.place).dtype)
            array.flags.writeable = False
            return array
        flat = self._flat(storage, tensor.dtype)
        self._count(tensor, flat.itemsize)
        first = storage.first * item_size(storage.dtype) // item + tensor.offset
        strides = tuple(stride * flat.itemsize for stride in tensor.strides)
        return np.ndarray(tensor.shape, flat.dtype, flat, first * flat.itemsize, strides)

    def dequantized(self, quantized: Quantized) -> np.ndarray:
        """The numbers of a quantized tensor, an array of its own, read-only."""
        size = math.prod(quantized.stored.shape)
        self._spend(size * WIDE)
        scale, zero_point = self._number(quantized.scale), self._number(quantized.zero_point)
        array = dequantize(self.of(quantized.stored), scale, zero_point, quantized.axis)
        array.flags.writeable = False
        return array

    def _number(self, value: Any) -> np.ndarray:
        return self.of(value) if type(value) is StoredTensor else cast(np.ndarray, np.float64(value))

    def _count(self, tensor: StoredTensor, item: int) -> None:
        """Bytes that the tensors have once each view is an array of its own; the same view is one."""
        storage = tensor.storage
        key = (storage.key, storage.first, tensor.dtype, tensor.offset, tensor.shape, tensor.strides)
        if key not in self.views:
            self.views.add(key)
            self._spend(math.prod(tensor.shape) * item)

    def _spend(self, size: int) -> None:
        self.viewed += size
        if self.viewed > max(COPIES_AT_LEAST, COPIES_RATIO * self.declared):
            raise FormatError(f"{self.place}: tensors of {self.viewed} bytes on storages of {self.declared}, "
                              f"expected at most {COPIES_RATIO} times as many")  # fmt: skip

    def _flat(self, storage: Storage, dtype: str) -> np.ndarray:
        """All whole elements of a storage. An untyped storage may be asked for in several dtypes, and is kept."""
        key = storage.key
        if (key, dtype) not in self.flat:
            data = self.bytes[key] if key in self.bytes else self.load(key)
            wider = WIDE // item_size(storage.dtype) if storage.dtype in STORED else 1
            self.declared += len(data) * wider if key not in self.bytes else 0
            if dtype != storage.dtype:
                self.bytes[key] = data
                data = data[: len(data) - len(data) % item_size(dtype)]
            self.flat[key, dtype] = from_bytes(data, dtype, f"{self.place}: storage {shown(key)!r}", self.little)
        return self.flat[key, dtype]


class Collector:
    """Walks what the pickle held, and gives every tensor its dotted name.

    In the state of a Foreign object, a pickled module in most cases, "_parameters", "_buffers" and "_modules" are
    left out of the name. A container in which no tensor was found is not walked again. Dicts and lists that contain
    themselves are refused; objects that refer back to where they are kept (omegaconf's do) are cut there.
    """

    def __init__(self, place: str, arrays: Arrays):
        self.place, self.arrays = place, arrays
        self.visits = Budget(MAX_VISITS, "values, each counted as often as it is referred to", place)
        self.tensors: dict[str, np.ndarray] = {}
        self.source_dtypes: dict[str, str] = {}
        self.skipped = SkippedList()
        self.metadata: dict[str, str] = {}
        self.sources: dict[str, StoredTensor | Quantized] = {}
        self.path: list[str] = []
        self.open: list[Any] = []  # containers and objects from the root to here
        self.open_ids: set[int] = set()
        self.objects = 0  # how many of them are Foreign
        self.barren: set[int] = set()
        self.unread: Skipped | None = None  # the first tensor that was skipped
        self.notes = 0

    def checkpoint(self, root: Any, kind: str) -> Checkpoint:
        self.visit(root)
        if not self.tensors:
            if self.unread:
                raise UnsupportedError(f"{self.place}: no tensor that can be read: {': '.join(self.unread)}")
            raise FormatError(f"{self.place}: a pickle without tensors")
        return Checkpoint(self.place, kind, self.tensors, self.source_dtypes, self.skipped.entries, self.metadata)

    def visit(self, value: Any) -> bool:
        """Whether tensors that can be read were found in the value."""
        self.visits.spend()
        if isinstance(value, (list, tuple)) or type(value) is Foreign:
            return self.container(value)
        if type(value) in (StoredTensor, Quantized):
            return self.tensor(value)
        if type(value) is Unread:
            self.skip_tensor(value.reason)
        elif type(value) is Storage:
            self.skip(f"a bare storage of {value.numel} elements of {value.dtype}, expected a tensor")
        elif type(value) is Name and not self.objects and not is_dtype(value):
            self.skip(f"the class or function {value}")
        elif isinstance(value, (str, int, float)) or type(value) is Name:
            self.note(value)
        return False

    def container(self, value: Any) -> bool:
        if id(value) in self.barren:
            return False
        if id(value) in self.open_ids:
            return self.close_cycle(value)
        if len(self.open) >= MAX_DEPTH:
            if self.objects:
                self.skip(f"nested more than {MAX_DEPTH} deep in an object")
                return False
            raise FormatError(f"{self.place}: {self.name()}: nested more than {MAX_DEPTH} deep")
        parts = self.packed(value) if type(value) is Foreign else None
        if type(value) is Foreign and parts is None:
            if not self.objects:
                self.skip(f"an object of {value.kind}, of which only tensors are read")
            self.note(value.kind, "__class__")
        self.objects += type(value) is Foreign
        self.open.append(value)
        self.open_ids.add(id(value))
        has_tensors = False
        for key, child in _children(value if parts is None else parts, self.visits):
            if key is not None:
                self.path.append(key)
            has_tensors = self.visit(child) or has_tensors
            if key is not None:
                self.path.pop()
        self.open.pop()
        self.objects -= type(value) is Foreign
        self.open_ids.discard(id(value))
        if not has_tensors:
            self.barren.add(id(value))
        return has_tensors

    def packed(self, value: Foreign) -> Pairs | None:
        """The parts of an object of packed weights."""
        try:
            return packed(value)
        except ValueError as error:
            raise UnsupportedError(f"{self.place}: {shown(self.name())}: {error}") from None

    def close_cycle(self, value: Any) -> bool:
        begin = next(index for index, outer in enumerate(self.open) if outer is value)
        if not any(type(outer) is Foreign for outer in self.open[begin:]):
            raise FormatError(f"{self.place}: {self.name()}: a container that contains itself")
        return False

    def tensor(self, tensor: StoredTensor | Quantized) -> bool:
        if type(tensor) is StoredTensor and tensor.dtype not in ITEM_SIZES:
            self.skip_tensor(f"a tensor of {tensor.dtype}, expected one of {', '.join(ITEM_SIZES)}")
            return False
        name = self.name()
        if name in self.tensors:
            if self.sources[name] is tensor:
                return True
            raise FormatError(f"{self.place}: two tensors are named {shown(name)!r}")
        if len(self.tensors) >= MAX_TENSORS:
            raise FormatError(f"{self.place}: more than {MAX_TENSORS} tensors")
        check_name(name, self.place)
        self.tensors[name] = (
            self.arrays.dequantized(tensor) if isinstance(tensor, Quantized) else self.arrays.of(tensor)
        )
        self.sources[name] = tensor
        self.source_dtypes[name] = tensor.dtype
        return True

    def skip(self, reason: str) -> None:
        self.skipped.add(self.name, reason)

    def skip_tensor(self, reason: str) -> None:
        self.unread = self.unread or Skipped(shown(self.name()), reason)
        self.skip(reason)

    def note(self, value: Any, key: str | None = None) -> None:
        """Keeps a plain value as metadata, where it looks like a setting."""
        if self.notes >= MAX_METADATA or (self.open and len(_listed(self.open[-1])) > LARGEST_LISTED):
            return
        self.notes += 1
        name = self.name() if key is None else ".".join((*self.path, key))
        text = text_of(value)
        if text is not None and len(text) <= LONGEST_METADATA and len(name) <= LONGEST_METADATA:
            self.metadata[name] = text

    def name(self) -> str:
        return ".".join(self.path) if self.path else "tensor"


def _children(value: Any, visits: Budget) -> Iterable[tuple[str | None, Any]]:
    """(key, child) of a container or object; key None adds nothing to the name."""
    if type(value) is Foreign:
        return _of_object(value, visits)
    if len(value) > LARGEST_LISTED:
        return _of_vocabulary(value, visits)
    if type(value) is Pairs:
        return [(_key(value[at], at), value[at + 1]) for at in range(0, len(value), 2)]
    return [(str(at), child) for at, child in enumerate(value)]


def _of_object(value: Foreign, visits: Budget) -> Iterator[tuple[str | None, Any]]:
    for state in value.attributes or ():
        for part in state if type(state) is tuple and len(state) == 2 else (state,):
            if type(part) is Pairs:
                yield from _attributes(part)
            elif part is not None:
                yield "state", part
    if value.entries is not None:
        yield from _children(value.entries, visits)


def _of_vocabulary(value: Any, visits: Budget) -> list[tuple[str, Any]]:
    """Of a container with many values those that are not plain: the others are data, and are not looked at."""
    visits.spend(len(value) // QUICK)
    if type(value) is Pairs:
        pairs = enumerate(zip(value[::2], value[1::2], strict=True))
        return [(_key(key, 2 * at), child) for at, (key, child) in pairs if type(child) not in PLAIN]
    return [(str(at), child) for at, child in enumerate(value) if type(child) not in PLAIN]


def _attributes(state: Pairs) -> Iterator[tuple[str | None, Any]]:
    """The attributes of an object, in the state_dict's terms where it is a module.

    A recurrent module has all its parameters a second time, in the list _flat_weights.
    """
    keys = [_key(state[at], at) for at in range(0, len(state), 2)]
    module = "_parameters" in keys
    for at, key in enumerate(keys):
        child = state[2 * at + 1]
        if module and key in ("_parameters", "_buffers", "_modules"):
            yield None, child
        elif key != "_flat_weights":
            yield key, child


def _listed(value: Any) -> list | tuple:
    """The values directly in a container or object."""
    return (value.entries or ()) if type(value) is Foreign else value


def _key(key: Any, at: int) -> str:
    """A dict's key as a part of a name; "?N" for the Nth entry if its key is not plain, or longer than a name."""
    text = text_of(key)
    return f"?{at // 2}" if text is None or len(text) > MAX_NAME else text
