"""Storages and tensors in a pickle of torch.save, and the constructors that are read."""

from __future__ import annotations

from typing import Any, cast

from rnncore.files.cursor import shown
from rnncore.formats._arrays import ITEM_SIZES, MAX_DIMENSIONS, element_count
from rnncore.formats.torch.pickle_reader import NOTHING, Foreign, Inert, Name, Pairs
from rnncore.formats.torch.quantized import SCHEMES, STORED

__all__ = [
    "EMPTY_TABLE",
    "TABLE",
    "Quantized",
    "Storage",
    "StorageTable",
    "StoredTensor",
    "Unread",
    "is_dtype",
    "item_size",
    "no_persistent_id",
    "readable",
    "text_of",
]

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


class StoredTensor(Inert):
    """A view of a storage; offset and strides count elements of ``dtype``. It is inside: ``_tensor`` checked that."""

    __slots__ = ("dtype", "offset", "shape", "storage", "strides")

    def __init__(self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]):
        self.storage, self.dtype, self.offset, self.shape, self.strides = storage, dtype, offset, shape, strides


class Quantized(Inert):
    """A view of integers with what makes them numbers: scale and zero point, numbers or Tensors along an axis."""

    __slots__ = ("axis", "dtype", "scale", "stored", "zero_point")

    def __init__(self, stored: StoredTensor, dtype: str, scale: Any, zero_point: Any, axis: int | None):
        self.stored, self.dtype, self.scale, self.zero_point, self.axis = stored, dtype, scale, zero_point, axis


class Unread(Inert):
    """A tensor of a kind that is not read, and why."""

    __slots__ = ("reason",)

    def __init__(self, reason: str):
        self.reason = reason


def item_size(dtype: str) -> int:
    return ITEM_SIZES.get(dtype) or UNREAD_SIZES[dtype]


class StorageTable:
    """The storages that an object's persistent ids name, by key; the same key has to mean the same every time."""

    def __init__(self):
        self.known: dict[str, Storage] = {}

    def persistent_id(self, fields: Any) -> Any:
        """The object of ('storage', class, key, location, numel[, view]) or ('module', class, ...)."""
        if type(fields) is not tuple or not fields:
            raise ValueError(f"persistent id {readable(fields)}, expected a tuple")
        if fields[0] == "module" and len(fields) == 4 and type(fields[1]) is Name:
            return fields[1]
        if fields[0] != "storage" or len(fields) not in (5, 6):
            raise ValueError(
                f"persistent id of kind {readable(fields[0])} with {len(fields)} fields, expected 'storage'"
            )
        _, kind, key, _, numel, view = (*fields, None)[:6]
        if type(kind) is not Name or kind.module not in STORAGE_MODULES or kind.name not in STORAGES:
            raise ValueError(f"storage class {readable(kind)}, expected one of torch's")
        if type(key) is not str or not 0 < len(key) <= 100:
            raise ValueError(f"storage key {readable(key)}, expected a short string")
        if type(numel) is not int or not 0 <= numel < 1 << 60:
            raise ValueError(f"storage {key!r}: {readable(numel)} elements, expected an integer >= 0")
        dtype = STORAGES[kind.name]
        storage = self.known.setdefault(key, Storage(key, dtype, numel))
        if (storage.dtype, storage.numel) != (dtype, numel):
            before = f"{storage.numel} elements of {storage.dtype}"
            raise ValueError(f"storage {key!r}: {numel} elements of {dtype}, but before it was {before}")
        return storage if view is None else _storage_view(storage, view)


def _storage_view(storage: Storage, view: Any) -> Storage:
    """A part of a storage, as streams written before torch 1.0 name it: (key, offset, size)."""
    if type(view) is not tuple or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise ValueError(f"storage {storage.key!r}: view {readable(view)}, expected (key, offset, size)")
    _, first, numel = view
    if first + numel > storage.numel:
        raise ValueError(f"storage {storage.key!r}: view of {first} to {first + numel}, but it has {storage.numel}")
    return Storage(storage.key, storage.dtype, numel, first)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> Inert:
    """A view inside its storage and does not have more elements, or ValueError."""
    if type(storage) is Foreign:
        return Unread(f"a tensor whose storage is an object of {storage.kind}")
    if type(storage) is not Storage:
        raise ValueError(f"a tensor on {readable(storage)}, expected a storage")
    dtype = dtype or storage.dtype
    available = storage.numel * item_size(storage.dtype) // item_size(dtype)
    for what, numbers in (("shape", shape), ("strides", strides)):
        if type(numbers) is not tuple or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"a tensor with {what} {readable(numbers)}, expected a tuple of integers >= 0")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        described = f"{len(shape)} sizes and {len(strides)} strides"
        raise ValueError(f"a tensor with {described}, expected the same number of both, at most {MAX_DIMENSIONS}")
    if type(offset) is not int or offset < 0:
        raise ValueError(f"a tensor with storage offset {readable(offset)}, expected an integer >= 0")
    count = element_count(shape, item_size(dtype))
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count > available:
        raise ValueError(f"a tensor of {count} elements {readable(shape)} on a storage of {available}")
    if count and last >= available:
        raise ValueError(f"a tensor that reaches element {last} of a storage of {available}")
    return StoredTensor(storage, dtype, offset, shape, strides)


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
        return Unread(f"a quantised tensor of {dtype or 'no storage'} by {readable(scheme)}")
    stored = cast(StoredTensor, _tensor(storage, offset, shape, strides, STORED[dtype]))
    if scheme.name.startswith("per_tensor"):
        if len(quantizer) != 2 or not all(type(number) in (int, float) for number in quantizer):
            raise ValueError(f"a quantized tensor with {readable(tuple(quantizer))}, expected its scale and zero point")
        return Quantized(stored, dtype, quantizer[0], quantizer[1], None)
    if len(quantizer) != 3 or not all(type(tensor) is StoredTensor for tensor in quantizer[:2]):
        raise ValueError("a quantized tensor without scales, zero points and their axis")
    scales, zero_points, axis = quantizer
    if type(axis) is not int or not 0 <= axis < len(shape) or not scales.shape == zero_points.shape == (shape[axis],):
        parameters = (
            f"{readable(scales.shape)} scales and {readable(zero_points.shape)} zero points along axis {readable(axis)}"
        )
        raise ValueError(f"a quantized tensor of shape {readable(shape)} with {parameters}")
    for tensor in (scales, zero_points):
        if tensor.dtype not in ITEM_SIZES:
            raise ValueError(f"scales or zero points of {tensor.dtype}")
    return Quantized(stored, dtype, scales, zero_points, axis)


def _rebuild_tensor_v3(arguments: tuple) -> Inert:
    """torch._utils._rebuild_tensor_v3: v2 on an untyped storage, with the dtype as the seventh argument."""
    if not 7 <= len(arguments) <= 8:
        raise ValueError(f"a tensor of {len(arguments)} arguments, expected 7 or 8")
    name = arguments[6]
    dtype = DTYPE_ALIASES.get(name.name, name.name) if type(name) is Name and name.module == "torch" else None
    if dtype not in ITEM_SIZES and dtype not in UNREAD_SIZES:
        return Unread(f"a tensor of dtype {readable(name)}")
    storage, offset, shape, strides = arguments[:4]
    return _tensor(storage, offset, shape, strides, dtype)


def _first_argument(arguments: tuple) -> Any:
    """torch._utils._rebuild_parameter and others of which only the data counts."""
    if not arguments or type(arguments[0]) not in (StoredTensor, Quantized, Unread, Foreign):
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


def no_persistent_id(_: Any) -> Any:
    raise ValueError("a persistent id before the object")


def text_of(value: Any) -> str | None:
    """A plain value as text; None for integers of more than 64 bits and what is not plain."""
    if type(value) is str:
        return value
    if type(value) is int:
        return str(value) if abs(value) < 1 << 64 else None
    return str(value) if type(value) in (bool, float, Name) else None


def is_dtype(name: Name) -> bool:
    known = name.name in ITEM_SIZES or name.name in UNREAD_SIZES or name.name in DTYPE_ALIASES
    return name.module == "torch" and known


def readable(value: Any) -> str:
    """A value as a message may show it."""
    if isinstance(value, Name):
        return str(value)
    if type(value) is tuple and len(value) <= 2 * MAX_DIMENSIONS:
        return f"({', '.join(readable(part) if type(part) is not tuple else '(...)' for part in value)})"
    text = text_of(value)
    if text is None:
        return type(value).__name__
    return shown(repr(text) if type(value) is str else text)
