"""Files of torch.save (.pt, .pth, .bin), read without torch and without pickle: the zip and the older stream.

    zip     NAME/data.pkl, NAME/byteorder, NAME/data/KEY for every storage; TorchScript's has NAME/code/ as well
    stream  five pickles (magic number, protocol, system, the object, storage keys), then for each key
            the number of elements (u64) and the elements, little endian

The pickle is interpreted by pickle_reader with the table of objects; a tensor is (storage, offset, shape, strides),
checked against its storage before an array is made of it. Objects of other classes are not built; tensors in their
state are collected, so that a whole pickled module gives the names of its state_dict.

Source of the layouts: torch/serialization.py and torch/_utils.py of PyTorch 2.13.
"""

from __future__ import annotations

import os
from typing import Any

from rnncore.errors import FormatError, UnsupportedError
from rnncore.files.cursor import Cursor, low_level_errors, open_cursor, shown
from rnncore.files.zip_reader import Archive
from rnncore.formats._arrays import HALVES
from rnncore.formats._foreign import TORCH_MAGIC, is_torch_stream
from rnncore.formats.checkpoint import Checkpoint
from rnncore.formats.torch.collecting import LARGEST_LISTED, WIDE, Arrays, Collector
from rnncore.formats.torch.objects import (
    EMPTY_TABLE,
    TABLE,
    Storage,
    StorageTable,
    item_size,
    no_persistent_id,
    readable,
)
from rnncore.formats.torch.pickle_reader import LONGEST_STRING, Pairs, PickleBudget, read_pickle
from rnncore.formats.torch.quantized import STORED

STREAM_VERSION = 1001
MAX_PICKLE = 64 << 20


def read(path: str | os.PathLike[str]) -> Checkpoint:
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
        storages = StorageTable()
        root = read_pickle(data, TABLE, storages.persistent_id, PickleBudget(data.place, len(data)))
        if data.remaining:
            raise FormatError(f"{data.place}: {data.remaining} bytes after the end of the pickle")
        for storage in storages.known.values():
            name = f"{prefix}data/{storage.key}"
            size, expected = archive.size(name), storage.numel * item_size(storage.dtype)
            if size != expected:
                what = f"{storage.numel} elements of {storage.dtype}"
                raise FormatError(f"{place}: {shown(name)}: {size} bytes, expected {expected} for {what}")
        arrays = Arrays(place, lambda key: _storage_of(archive, f"{prefix}data/{key}", storages.known[key]), little)
        kind = "TorchScript" if _is_script(archive) else "torch zip"
        return Collector(place, arrays).checkpoint(root, kind)


def _storage_of(archive: Archive, name: str, storage: Storage) -> bytes:
    """The bytes of a storage. Half floats and quantized numbers are counted as what they become: a file of few bytes
    may hold many."""
    if storage.dtype in HALVES:
        archive.spend(archive.size(name))
    elif storage.dtype in STORED:
        archive.spend(storage.numel * (WIDE - item_size(storage.dtype)))
    return archive.read(name)


def read_stream(cursor: Cursor) -> Checkpoint:
    """A Checkpoint from the stream that torch.save wrote before 1.6, and still writes on request."""
    place = cursor.place
    with low_level_errors(place):
        pickles = cursor.slice(0, len(cursor), longest=LONGEST_STRING)
        budget, storages = PickleBudget(place, min(len(cursor), MAX_PICKLE)), StorageTable()

        def next_pickle(what, table=EMPTY_TABLE, persistent=no_persistent_id):
            begin = pickles.tell()
            value = read_pickle(pickles, table, persistent, budget)
            if pickles.tell() - begin > MAX_PICKLE:
                raise FormatError(f"{place}: {what}: more than {MAX_PICKLE} bytes")
            return value

        if next_pickle("magic number") != TORCH_MAGIC:
            raise FormatError(f"{place}: no magic number of torch.save at offset 0")
        version = next_pickle("protocol version")
        if version != STREAM_VERSION:
            raise UnsupportedError(f"{place}: stream version {readable(version)}, expected {STREAM_VERSION}")
        system = _mapping(next_pickle("system"))
        if system.get("little_endian") is not True:
            raise UnsupportedError(f"{place}: written on a big-endian machine, as a stream: expected little endian")
        root = next_pickle("object", TABLE, storages.persistent_id)
        keys = next_pickle("storage keys")
        places = _storage_places(cursor.slice(0, len(cursor)), pickles.tell(), keys, storages)
        arrays = Arrays(place, lambda key: cursor.slice(*places[key], f"{place}: storage {key}").bytes(places[key][1]))
        return Collector(place, arrays).checkpoint(root, "torch stream")


def _storage_places(cursor: Cursor, begin: int, keys: Any, storages: StorageTable) -> dict[str, tuple[int, int]]:
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
        numel = cursor.i64()
        if numel != storage.numel:
            raise FormatError(f"{where}: {numel} elements, expected {storage.numel}")
        size = numel * item_size(storage.dtype)
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
    pickles = [name for name in names if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        some = ", ".join(shown(name) for name in pickles[:3])
        raise FormatError(f"{place}: {len(pickles)} members are called data.pkl ({some}), expected one")
    if pickles[0].count("/") != 1:
        raise FormatError(f"{place}: {shown(pickles[0])}: expected NAME/data.pkl")
    return pickles[0]


def _byte_order(archive: Archive, prefix: str, place: str) -> bool:
    """Whether the archive is little endian: what its byteorder member says, and without one it is."""
    name = f"{prefix}byteorder"
    if name not in archive:
        return True
    order = archive.read(name)[:100]
    if order not in (b"little", b"big"):
        raise FormatError(f"{place}: {shown(name)}: {order!r}, expected b'little' or b'big'")
    return order == b"little"


def _mapping(value: Any) -> dict[str, Any]:
    """The text keys of a small dict."""
    items = value if type(value) is Pairs and len(value) <= 2 * LARGEST_LISTED else ()
    return {items[at]: items[at + 1] for at in range(0, len(items), 2) if type(items[at]) is str}
