"""What torch.save wrote (.pt, .pth, .bin), read without torch and without pickle: the zip and the older stream.

    zip     NAME/data.pkl, NAME/byteorder, NAME/data/KEY for every storage; TorchScript's has NAME/code/ beside them
    stream  five pickles (magic number, protocol, system, the object, storage keys), then for each key
            the number of elements (u64) and the elements, little endian

The pickle is interpreted by ``_pickle`` with the table below; a tensor is (storage, offset, shape, strides), checked
against its storage before an array is made of it. Objects of other classes are not built; tensors in their state are
found, so that a whole pickled module gives the names of its state_dict.

Source of the layouts: torch/serialization.py and torch/_utils.py of PyTorch 2.13.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from rnncore.errors import FormatError, UnsupportedError
from rnncore.files.cursor import Budget, Cursor, low_level_errors, open_cursor, shown
from rnncore.files.zip_reader import Archive
from rnncore.formats._arrays import (
    COPIES_AT_LEAST,
    COPIES_RATIO,
    HALVES,
    ITEM_SIZES,
    MAX_DIMENSIONS,
    MAX_NAME,
    MAX_TENSORS,
    check_name,
    element_count,
    from_bytes,
)
from rnncore.formats._foreign import TORCH_MAGIC, is_torch_stream
from rnncore.formats.checkpoint import Checkpoint, Skipped, SkippedList
from rnncore.formats.torch.pickle_reader import (
    LONGEST_STRING,
    NOTHING,
    Foreign,
    Inert,
    Name,
    Pairs,
    PickleBudget,
    read_pickle,
)
from rnncore.formats.torch.quantized import SCHEMES, STORED, dequantize, packed

__all__ = ["read", "read_stream", "read_zip"]

STREAM_VERSION = 1001

MAX_PICKLE = 64 << 20
MAX_DEPTH = 64
MAX_VISITS = 500_000
MAX_METADATA = 1000
LONGEST_METADATA = 1000
WIDE = 4  # bytes of the float32 that a quantized number becomes
PLAIN = frozenset((str, int, float, bool, type(None)))
QUICK = 16  # values of a vocabulary that are passed over in the time of a visit
LARGEST_LISTED = 100  # plain values of larger containers are data (a vocabulary), not settings

STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "qint8",
    "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}
STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
DTYPE_ALIASES = {"double": "float64", "float": "float32", "half": "float16", "long": "int64", "int": "int32"}
UNREAD_SIZES = {
    "complex32": 4,
    "complex64": 8,
    "complex128": 16,
    "qint8": 1,
    "quint8": 1,
    "qint32": 4,
    "quint4x2": 1,
    "quint2x4": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
}


class Storage(Inert):
    """``numel`` elements of a dtype, kept in the file under ``key``; a part of it from ``first`` on if it is a view."""

    __slots__ = ("dtype", "first", "key", "numel")

    def __init__(self, key: str, dtype: str, numel: int, first: int = 0):
        self.key, self.dtype, self.numel, self.first = key, dtype, numel, first


class Tensor(Inert):
    """A view of a storage; offset and strides count elements of ``dtype``. It lies inside: ``_tensor`` checked that."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.dtype, self.offset, self.shape, self.strides = storage, dtype, offset, shape, strides


class Quantized(Inert):
    """A view of integers with what makes them numbers: scale and zero point, numbers or Tensors along an axis."""

    __slots__ = ("axis", "dtype", "scale", "stored", "zero_point")

    def __init__(self, stored: Tensor, dtype: str, scale: Any, zero_point: Any, axis: int | None):
        self.stored, self.dtype, self.scale, self.zero_point, self.axis = stored, dtype, scale, zero_point, axis


class Unread(Inert):
    """A tensor of a kind that is not read, and why."""

    __slots__ = ("reason",)

    def __init__(self, reason: str):
        self.reason = reason


def read(path: str | os.PathLike) -> Checkpoint:
    """The tensors of a torch file, zip or stream. See Checkpoint; raises FormatError, UnsupportedError."""
    with open_cursor(path) as cursor:
        if is_torch_stream(cursor.slice(0, min(len(cursor), 64)).bytes(min(len(cursor), 64))):
            return read_stream(cursor)
        return read_zip(cursor, Archive(cursor))


def read_zip(cursor: Cursor, archive: Archive) -> Checkpoint:
    """A Checkpoint from torch's zip archive."""
    place = cursor.place
    with low_level_errors(place):
        pickled = _data_pickle(archive, place)
        prefix = pickled.removesuffix("data.pkl")
        little = _byte_order(archive, prefix, place)
        if archive.size(pickled) > MAX_PICKLE:
            raise FormatError(f"{place}: {pickled}: {archive.size(pickled)} bytes, expected at most {MAX_PICKLE}")
        data = Cursor(archive.read(pickled), f"{place}: {pickled}", longest=LONGEST_STRING)
        storages = _Storages()
        root = read_pickle(data, TABLE, storages.persistent_id, PickleBudget(data.place, len(data)))
        if data.remaining:
            raise FormatError(f"{data.place}: {data.remaining} bytes after the end of the pickle")
        for storage in storages.known.values():
            name = f"{prefix}data/{storage.key}"
            found, expected = archive.size(name), storage.numel * _item_size(storage.dtype)
            if found != expected:
                what = f"{storage.numel} elements of {storage.dtype}"
                raise FormatError(f"{place}: {shown(name)}: {found} bytes, expected {expected} for {what}")
        arrays = _Arrays(place, lambda key: _storage_of(archive, f"{prefix}data/{key}", storages.known[key]), little)
        kind = "TorchScript" if _is_script(archive) else "torch zip"
        return _Collector(place, arrays).checkpoint(root, kind)


def _storage_of(archive: Archive, name: str, storage: Storage) -> bytes:
    """The bytes of a storage. Half floats and quantized numbers are counted as what they become: a file of few bytes
    may hold many."""
    if storage.dtype in HALVES:
        archive.spend(archive.size(name))
    elif storage.dtype in STORED:
        archive.spend(storage.numel * (WIDE - _item_size(storage.dtype)))
    return archive.read(name)


def read_stream(cursor: Cursor) -> Checkpoint:
    """A Checkpoint from the stream that torch.save wrote before 1.6, and still writes on request."""
    place = cursor.place
    with low_level_errors(place):
        pickles = cursor.slice(0, len(cursor), longest=LONGEST_STRING)
        budget, storages = PickleBudget(place, min(len(cursor), MAX_PICKLE)), _Storages()

        def next_pickle(what, table=EMPTY_TABLE, persistent=_no_persistent_id):
            begin = pickles.tell()
            value = read_pickle(pickles, table, persistent, budget)
            if pickles.tell() - begin > MAX_PICKLE:
                raise FormatError(f"{place}: {what}: more than {MAX_PICKLE} bytes")
            return value

        if next_pickle("magic number") != TORCH_MAGIC:
            raise FormatError(f"{place}: no magic number of torch.save at offset 0")
        version = next_pickle("protocol version")
        if version != STREAM_VERSION:
            raise UnsupportedError(f"{place}: stream version {_plain(version)}, expected {STREAM_VERSION}")
        system = _mapping(next_pickle("system"))
        if system.get("little_endian") is not True:
            raise UnsupportedError(f"{place}: written on a big-endian machine, as a stream: expected little endian")
        root = next_pickle("object", TABLE, storages.persistent_id)
        keys = next_pickle("storage keys")
        places = _storage_places(cursor.slice(0, len(cursor)), pickles.tell(), keys, storages)
        arrays = _Arrays(place, lambda key: cursor.slice(*places[key], f"{place}: storage {key}").bytes(places[key][1]))
        return _Collector(place, arrays).checkpoint(root, "torch stream")


def _storage_places(cursor: Cursor, begin: int, keys: Any, storages: _Storages) -> dict[str, tuple[int, int]]:
    """Key -> (offset, bytes) of every storage; they have to be exactly those that the object names."""
    place = cursor.place
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise FormatError(f"{place}: the storage keys are no list of strings")
    if len(set(keys)) != len(keys) or set(keys) != set(storages.known):
        raise FormatError(f"{place}: {len(keys)} storage keys, which are not the {len(storages.known)} of the object")
    cursor.seek(begin)
    places = {}
    for key in keys:
        storage = storages.known[key]
        where = f"{place}: storage {shown(key)!r} at offset {cursor.tell()}"
        found = cursor.i64()
        if found != storage.numel:
            raise FormatError(f"{where}: {found} elements, expected {storage.numel}")
        size = found * _item_size(storage.dtype)
        if size > cursor.remaining:
            raise FormatError(f"{where}: truncated: {cursor.remaining} bytes remain, expected {size}")
        places[key] = (cursor.tell(), size)
        cursor.skip(size)
    if cursor.remaining:
        raise FormatError(f"{place}: {cursor.remaining} bytes after the last storage")
    return places


def _is_script(archive: Archive) -> bool:
    """Whether an archive is TorchScript's: its program is never looked at, its data.pkl has the module's tensors."""
    parts = [name.split("/") for name in archive.members]
    return any(name[1:2] == ["code"] or name[1:] == ["constants.pkl"] for name in parts)


def _data_pickle(archive: Archive, place: str) -> str:
    """The name of the one data.pkl; UnsupportedError for torch.package archives."""
    names = list(archive.members)
    if any(name.endswith(".data/extern_modules") for name in names):
        raise UnsupportedError(f"{place}: a torch.package archive, which is a program: expected a torch.save file")
    found = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if len(found) != 1:
        some = ", ".join(shown(name) for name in found[:3])
        raise FormatError(f"{place}: {len(found)} members are called data.pkl ({some}), expected one")
    if found[0].count("/") != 1:
        raise FormatError(f"{place}: {shown(found[0])}: expected NAME/data.pkl")
    return found[0]


def _byte_order(archive: Archive, prefix: str, place: str) -> bool:
    """Whether the archive is little endian: what its byteorder member says, and without one it is."""
    name = f"{prefix}byteorder"
    if name not in archive:
        return True
    found = archive.read(name)[:100]
    if found not in (b"little", b"big"):
        raise FormatError(f"{place}: {shown(name)}: {found!r}, expected b'little' or b'big'")
    return found == b"little"


def _item_size(dtype: str) -> int:
    return ITEM_SIZES.get(dtype) or UNREAD_SIZES[dtype]


class _Storages:
    """The storages that an object's persistent ids name, by key; the same key has to mean the same every time."""

    def __init__(self):
        self.known: dict[str, Storage] = {}

    def persistent_id(self, found: Any) -> Any:
        """What ('storage', class, key, location, numel[, view]) or ('module', class, ...) stands for."""
        if type(found) is not tuple or not found:
            raise ValueError(f"persistent id {_plain(found)}, expected a tuple")
        if found[0] == "module" and len(found) == 4 and type(found[1]) is Name:
            return found[1]
        if found[0] != "storage" or len(found) not in (5, 6):
            raise ValueError(f"persistent id of kind {_plain(found[0])} with {len(found)} fields, expected 'storage'")
        _, kind, key, _, numel, view = (*found, None)[:6]
        if type(kind) is not Name or kind.module not in STORAGE_MODULES or kind.name not in STORAGES:
            raise ValueError(f"storage class {_plain(kind)}, expected one of torch's")
        if type(key) is not str or not 0 < len(key) <= 100:
            raise ValueError(f"storage key {_plain(key)}, expected a short string")
        if type(numel) is not int or not 0 <= numel < 1 << 60:
            raise ValueError(f"storage {key!r}: {_plain(numel)} elements, expected an integer >= 0")
        dtype = STORAGES[kind.name]
        storage = self.known.setdefault(key, Storage(key, dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            before = f"{storage.numel} elements of {storage.dtype}"
            raise ValueError(f"storage {key!r}: {numel} elements of {dtype}, but before it was {before}")
        return storage if view is None else _storage_view(storage, view)


def _storage_view(storage: Storage, view: Any) -> Storage:
    """A part of a storage, as streams written before torch 1.0 name it: (key, offset, size)."""
    if type(view) is not tuple or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise ValueError(f"storage {storage.key!r}: view {_plain(view)}, expected (key, offset, size)")
    _, first, numel = view
    if first + numel > storage.numel:
        raise ValueError(f"storage {storage.key!r}: view of {first} to {first + numel}, but it has {storage.numel}")
    return Storage(storage.key, storage.dtype, numel, first)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> Inert:
    """A view that lies inside its storage and does not have more elements, or ValueError."""
    if type(storage) is Foreign:
        return Unread(f"a tensor whose storage is an object of {storage.kind}")
    if type(storage) is not Storage:
        raise ValueError(f"a tensor on {_plain(storage)}, expected a storage")
    dtype = dtype or storage.dtype
    available = storage.numel * _item_size(storage.dtype) // _item_size(dtype)
    for what, numbers in (("shape", shape), ("strides", strides)):
        if type(numbers) is not tuple or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"a tensor with {what} {_plain(numbers)}, expected a tuple of integers >= 0")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        found = f"{len(shape)} sizes and {len(strides)} strides"
        raise ValueError(f"a tensor with {found}, expected as many of both and at most {MAX_DIMENSIONS}")
    if type(offset) is not int or offset < 0:
        raise ValueError(f"a tensor with storage offset {_plain(offset)}, expected an integer >= 0")
    count = element_count(shape, _item_size(dtype))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count > available:
        raise ValueError(f"a tensor of {count} elements {_plain(shape)} on a storage of {available}")
    if count and last >= available:
        raise ValueError(f"a tensor that reaches element {last} of a storage of {available}")
    return Tensor(storage, dtype, offset, shape, strides)


def _rebuild_tensor(arguments: tuple) -> Inert:
    """torch._utils._rebuild_tensor and _v2: (storage, offset, size, stride, ...)."""
    if not 4 <= len(arguments) <= 7:
        raise ValueError(f"a tensor of {len(arguments)} arguments, expected 4 to 7")
    return _tensor(*arguments[:4])


def _rebuild_quantized(arguments: tuple) -> Inert:
    """torch._utils._rebuild_qtensor: (storage, offset, size, stride, (scheme, scale, zero point[, axis]), ...)."""
    if len(arguments) != 7 or type(arguments[4]) is not tuple:
        raise ValueError("a quantized tensor of other arguments than torch.save writes")
    storage, offset, shape, strides, (scheme, *quantizer) = (*arguments[:4], arguments[4] or (None,))
    dtype = storage.dtype if type(storage) is Storage else ""
    if type(scheme) is not Name or scheme.module != "torch" or scheme.name not in SCHEMES or dtype not in STORED:
        return Unread(f"a quantised tensor of {dtype or 'no storage'} by {_plain(scheme)}")
    stored = _tensor(storage, offset, shape, strides, STORED[dtype])
    if scheme.name.startswith("per_tensor"):
        if len(quantizer) != 2 or not all(type(number) in (int, float) for number in quantizer):
            raise ValueError(f"a quantized tensor with {_plain(tuple(quantizer))}, expected its scale and zero point")
        return Quantized(stored, dtype, *quantizer, None)
    if len(quantizer) != 3 or not all(type(found) is Tensor for found in quantizer[:2]):
        raise ValueError("a quantized tensor without scales, zero points and their axis")
    scales, zero_points, axis = quantizer
    if type(axis) is not int or not 0 <= axis < len(shape) or not scales.shape == zero_points.shape == (shape[axis],):
        found = f"{_plain(scales.shape)} scales and {_plain(zero_points.shape)} zero points along axis {_plain(axis)}"
        raise ValueError(f"a quantized tensor of shape {_plain(shape)} with {found}")
    for found in (scales, zero_points):
        if found.dtype not in ITEM_SIZES:
            raise ValueError(f"scales or zero points of {found.dtype}")
    return Quantized(stored, dtype, scales, zero_points, axis)


def _rebuild_tensor_v3(arguments: tuple) -> Inert:
    """torch._utils._rebuild_tensor_v3: v2 on an untyped storage, with the dtype as the seventh argument."""
    if not 7 <= len(arguments) <= 8:
        raise ValueError(f"a tensor of {len(arguments)} arguments, expected 7 or 8")
    name = arguments[6]
    dtype = DTYPE_ALIASES.get(name.name, name.name) if type(name) is Name and name.module == "torch" else None
    if dtype not in ITEM_SIZES and dtype not in UNREAD_SIZES:
        return Unread(f"a tensor of dtype {_plain(name)}")
    return _tensor(*arguments[:4], dtype)


def _first_argument(arguments: tuple) -> Any:
    """torch._utils._rebuild_parameter and others of which only the data counts."""
    if not arguments or type(arguments[0]) not in (Tensor, Quantized, Unread, Foreign):
        raise ValueError("a parameter without a tensor")
    return arguments[0]


def _rebuild_from_type(arguments: tuple) -> Any:
    """torch._tensor._rebuild_from_type(_v2): (function, class, its arguments, state), for subclasses of Tensor."""
    if len(arguments) != 4 or type(arguments[0]) is not Name or type(arguments[2]) is not tuple:
        raise ValueError("a tensor subclass of other arguments than (function, class, arguments, state)")
    known = TENSORS.get((arguments[0].module, arguments[0].name))
    if known is not None:
        return known(arguments[2])
    return Unread(f"a tensor subclass built by {arguments[0]}")


def _ordered_dict(arguments: tuple) -> Pairs:
    """collections.OrderedDict(), or of a list of pairs as Python 2 wrote it."""
    pairs = Pairs()
    for pair in arguments[0] if arguments and type(arguments[0]) is list else ():
        if type(pair) not in (tuple, list) or len(pair) != 2:
            raise ValueError("an OrderedDict of something that is not a pair")
        pairs.extend(pair)
    return pairs


def _size(arguments: tuple) -> tuple:
    """torch.Size(sizes)."""
    if len(arguments) != 1 or type(arguments[0]) is not tuple:
        raise ValueError("a torch.Size of something that is not a tuple")
    return arguments[0]


def _reconstructor(arguments: tuple) -> Foreign:
    """copyreg._reconstructor(class, base, state): how old protocols make an object."""
    if not arguments or type(arguments[0]) is not Name:
        raise ValueError("an object without a class")
    return Foreign(arguments[0])


def _tagged(arguments: tuple) -> Any:
    """torch.jit._pickle's build_tensorlist and others, (list,), and restore_type_tag, (value, type)."""
    if not 1 <= len(arguments) <= 2:
        raise ValueError(f"a value of TorchScript's with {len(arguments)} arguments, expected 1 or 2")
    return arguments[0]


def _nothing(_: tuple) -> Inert:
    return NOTHING


def _unread(kind: str):
    return lambda _: Unread(f"a {kind} tensor, expected a dense one")


TENSORS = {
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    ("torch._utils", "_rebuild_parameter"): _first_argument,
    ("torch._utils", "_rebuild_parameter_with_state"): _first_argument,
    ("torch.nn.parameter", "Parameter"): _first_argument,
    ("torch.nn.parameter", "Buffer"): _first_argument,
    ("torch._utils", "_rebuild_qtensor"): _rebuild_quantized,
    ("torch._utils", "_rebuild_sparse_tensor"): _unread("sparse"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _unread("sparse"),
    ("torch._utils", "_rebuild_nested_tensor"): _unread("nested"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _unread("meta"),
}
BUILTINS = ("set", "frozenset", "bytearray", "bytes", "complex", "slice", "range", "object")
SCRIPT_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")
TABLE = {
    **TENSORS,
    ("torch._tensor", "_rebuild_from_type"): _rebuild_from_type,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.tensor", "_rebuild_from_type"): _rebuild_from_type,
    ("torch", "Size"): _size,
    **{("torch.jit._pickle", name): _tagged for name in SCRIPT_LISTS},
    ("torch", "device"): _nothing,
    ("collections", "OrderedDict"): _ordered_dict,
    ("collections", "defaultdict"): lambda _: Pairs(),
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("_codecs", "encode"): _nothing,
    **{(module, name): _nothing for module in ("builtins", "__builtin__") for name in BUILTINS},
}
EMPTY_TABLE: dict = {}


def _no_persistent_id(_: Any) -> Any:
    raise ValueError("a persistent id before the object")


class _Arrays:
    """Arrays of tensors, read when first asked for; tensors on one storage share one buffer.

    ``load`` gives the bytes of a storage; they are as many as the storage needs.
    """

    def __init__(self, place: str, load, little: bool = True):
        self.place, self.load, self.little = place, load, little
        self.bytes: dict[str, bytes] = {}
        self.flat: dict[tuple[str, str], np.ndarray] = {}
        self.views: set[tuple] = set()
        self.declared = self.viewed = 0

    def of(self, tensor: Tensor) -> np.ndarray:
        """The tensor's array, with its strides, read-only."""
        storage = tensor.storage
        item = _item_size(tensor.dtype)
        if 0 in tensor.shape:
            array = np.empty(tensor.shape, from_bytes(b"", tensor.dtype, self.place).dtype)
            array.flags.writeable = False
            return array
        flat = self._flat(storage, tensor.dtype)
        self._count(tensor, flat.itemsize)
        first = storage.first * _item_size(storage.dtype) // item + tensor.offset
        strides = tuple(stride * flat.itemsize for stride in tensor.strides)
        return np.ndarray(tensor.shape, flat.dtype, flat, first * flat.itemsize, strides)

    def dequantized(self, found: Quantized) -> np.ndarray:
        """The numbers of a quantized tensor, an array of its own, read-only."""
        size = math.prod(found.stored.shape)
        self._spend(size * WIDE)
        array = dequantize(self.of(found.stored), *map(self._number, (found.scale, found.zero_point)), found.axis)
        array.flags.writeable = False
        return array

    def _number(self, found: Any) -> np.ndarray:
        return self.of(found) if type(found) is Tensor else np.float64(found)

    def _count(self, tensor: Tensor, item: int) -> None:
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
            wider = WIDE // _item_size(storage.dtype) if storage.dtype in STORED else 1
            self.declared += len(data) * wider if key not in self.bytes else 0
            if dtype != storage.dtype:
                self.bytes[key] = data
                data = data[: len(data) - len(data) % _item_size(dtype)]
            self.flat[key, dtype] = from_bytes(data, dtype, f"{self.place}: storage {shown(key)!r}", self.little)
        return self.flat[key, dtype]


class _Collector:
    """Walks what the pickle held, and gives every tensor its dotted name.

    In the state of a Foreign object, a pickled module in most cases, "_parameters", "_buffers" and "_modules" are
    left out of the name. A container in which no tensor was found is not walked again. Dicts and lists that contain
    themselves are refused; objects that refer back to where they are kept (omegaconf's do) are cut there.
    """

    def __init__(self, place: str, arrays: _Arrays):
        self.place, self.arrays = place, arrays
        self.visits = Budget(MAX_VISITS, "values, each counted as often as it is referred to", place)
        self.tensors: dict[str, np.ndarray] = {}
        self.source_dtypes: dict[str, str] = {}
        self.skipped = SkippedList()
        self.metadata: dict[str, str] = {}
        self.sources: dict[str, Tensor | Quantized] = {}
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
        if type(value) in (Tensor, Quantized):
            return self.tensor(value)
        if type(value) is Unread:
            self.skip_tensor(value.reason)
        elif type(value) is Storage:
            self.skip(f"a bare storage of {value.numel} elements of {value.dtype}, expected a tensor")
        elif type(value) is Name and not self.objects and not _is_dtype(value):
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
        found = False
        for key, child in _children(value if parts is None else parts, self.visits):
            if key is not None:
                self.path.append(key)
            found = self.visit(child) or found
            if key is not None:
                self.path.pop()
        self.open.pop()
        self.objects -= type(value) is Foreign
        self.open_ids.discard(id(value))
        if not found:
            self.barren.add(id(value))
        return found

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

    def tensor(self, tensor: Tensor | Quantized) -> bool:
        if type(tensor) is Tensor and tensor.dtype not in ITEM_SIZES:
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
        self.tensors[name] = self.arrays.of(tensor) if type(tensor) is Tensor else self.arrays.dequantized(tensor)
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
        text = _text(value)
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
    """The values that stand directly in a container or object."""
    return (value.entries or ()) if type(value) is Foreign else value


def _key(key: Any, at: int) -> str:
    """A dict's key as a part of a name; "?N" for the Nth entry if its key is not plain, or longer than a name."""
    text = _text(key)
    return f"?{at // 2}" if text is None or len(text) > MAX_NAME else text


def _text(value: Any) -> str | None:
    """A plain value as text; None for integers of more than 64 bits and what is not plain."""
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value) if abs(value) < 1 << 64 else None
    return str(value) if type(value) in (bool, float, Name) else None


def _is_dtype(name: Name) -> bool:
    known = name.name in ITEM_SIZES or name.name in UNREAD_SIZES or name.name in DTYPE_ALIASES
    return name.module == "torch" and known


def _mapping(value: Any) -> dict[str, Any]:
    """The text keys of a small dict."""
    items = value if type(value) is Pairs and len(value) <= 2 * LARGEST_LISTED else ()
    return {items[at]: items[at + 1] for at in range(0, len(items), 2) if type(items[at]) is str}


def _plain(value: Any) -> str:
    """A value as a message may show it."""
    if isinstance(value, Name):
        return str(value)
    if type(value) is tuple and len(value) <= 2 * MAX_DIMENSIONS:
        return f"({', '.join(_plain(part) if type(part) is not tuple else '(...)' for part in value)})"
    text = _text(value)
    if text is None:
        return type(value).__name__
    return shown(repr(text) if type(value) is str else text)
