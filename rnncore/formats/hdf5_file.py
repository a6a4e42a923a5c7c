"""HDF5 as untrusted data: groups, attributes and arrays through pyfive, each looked at before pyfive reads it.

pyfive finds its way through superblocks, object headers, links, attributes and chunk indexes. It trusts them, so:

- every byte it reads comes from a Watched file: nothing past the end, nothing twice as much as there is;
- every object header is walked here first (Header): external storage, virtual datasets, shared messages and links
  that are not hard ones are refused, and so are headers of endless continuations;
- attributes and arrays are measured before anything is allocated, and array data is read and decompressed here.

Source: The HDF Group, HDF5 File Format Specification 3.0, sections III and IV; pyfive 1.3.0.
"""

from __future__ import annotations

import contextlib
import math
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rnncore.errors import FormatError, MissingPackageError, UnsupportedError
from rnncore.files.cursor import Budget, Cursor, low_level_errors, shown
from rnncore.formats._arrays import CODES, ITEM_SIZES, MAX_DIMENSIONS, WIDENED, from_bytes

__all__ = ["Dataset", "Group", "open_hdf5"]

BYTES_AT_LEAST = 64 << 20  # bytes that the arrays of any file may decompress to
BYTES_RATIO = 16  # and times the size of the file, if that is more
READS_AT_LEAST = 4_000  # reads of metadata in any file, and one for every 16 bytes of it
MAX_HEADER = 4 << 20
MAX_CONTINUATIONS = 256
MAX_ATTRIBUTE = 64 << 20
MAX_LINKS = 100_000
MAX_DEPTH = 64
MAX_BTREE_DEPTH = 16

DATASPACE, DATATYPE, LAYOUT, FILTERS = 0x01, 0x03, 0x08, 0x0B
LINK, EXTERNAL_FILES, CONTINUATION = 0x06, 0x07, 0x10
SHARED = 2
CONTIGUOUS, COMPACT, CHUNKED, VIRTUAL = 1, 0, 2, 3
DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
NUMBERS = {np.dtype(code).str[1:]: name for name, code in CODES.items() if name != "bool"}
UNDEFINED = (1 << 64) - 1


def open_hdf5(cursor: Cursor) -> Group:
    """The root group of an HDF5 file. Needs pyfive: ``pip install "rnncore[keras]"``.

    The cursor stays the caller's. Raises FormatError for a damaged or malicious file, UnsupportedError for what
    pyfive or this reader does not understand.
    """
    try:
        import pyfive.dataobjects
        import pyfive.high_level
    except ImportError:
        raise MissingPackageError(
            f'{cursor.place}: an HDF5 file needs pyfive, expected it after pip install "rnncore[keras]"'
        ) from None

    class Objects(pyfive.dataobjects.DataObjects):
        """pyfive's object, whose attributes are measured before they are read."""

        def _parse_attribute_msg(self, buffer, offset):
            _check_attribute(buffer, offset)
            return super()._parse_attribute_msg(buffer, offset)

        @staticmethod
        def _decode_link_msg(data, offset):
            _check_link(data, offset)
            return pyfive.dataobjects.DataObjects._decode_link_msg(data, offset)

    class File(pyfive.high_level.File):
        """pyfive's file, which looks at an object header before it parses it."""

        def _get_dataobjects(self, obj_addr):
            if obj_addr not in self._dataobjects_cache:
                check_header(watched, obj_addr)
                self._dataobjects_cache[obj_addr] = Objects(self._fh, obj_addr, global_heaps=self._global_heaps)
            return self._dataobjects_cache[obj_addr]

    watched = Watched(cursor)
    with pyfive_errors(cursor.place):
        file = File(watched)
        if file.userblock_size:
            raise UnsupportedError(f"{cursor.place}: a user block of {file.userblock_size} bytes, expected none")
        return Group(_File(file, watched, cursor.place), file._superblock.offset_to_dataobjects, ())


class Watched:
    """The file as pyfive reads it: never past its end, and not endlessly. Raises FormatError."""

    def __init__(self, cursor: Cursor):
        self._cursor = cursor.slice(0, len(cursor))
        self.place = cursor.place
        self.reads = Budget(READS_AT_LEAST + len(cursor) // 16, "reads of metadata", self.place)
        self.bytes = Budget((8 << 20) + 8 * len(cursor), "bytes of metadata", self.place)

    def read(self, count: int = -1) -> bytes:
        count = self._cursor.remaining if count < 0 else count
        self.reads.spend()
        self.bytes.spend(count)
        data = self._cursor.bytes(count)
        if data[:4] == b"BTHD" and len(data) >= 14 and int.from_bytes(data[12:14], "little") > MAX_BTREE_DEPTH:
            raise FormatError(f"{self.place}: a B-tree of more than {MAX_BTREE_DEPTH} levels")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._cursor.tell(), os.SEEK_END: len(self._cursor)}[whence]
        self._cursor.seek(start + offset)
        return self._cursor.tell()

    def tell(self) -> int:
        return self._cursor.tell()

    def at(self, offset: int, count: int) -> bytes:
        """Bytes of metadata from an offset."""
        self.seek(offset)
        return self.read(count)


class _File:
    """State that the groups and datasets of one file share."""

    def __init__(self, file: Any, watched: Watched, place: str):
        self.file, self.watched, self.place = file, watched, place
        self.output = Budget(max(BYTES_AT_LEAST, BYTES_RATIO * len(watched._cursor)), "bytes of arrays", place)


class _Object:
    """A group or dataset: where it is, and its attributes."""

    def __init__(self, file: _File, address: int, path: tuple[str, ...]):
        self._file, self.address, self.path = file, address, path
        with pyfive_errors(self.place):
            self._objects = file.file._get_dataobjects(address)
            self._attributes: dict[str, Any] | None = None

    @property
    def place(self) -> str:
        """The file, and the path in it, as messages name them."""
        return f"{self._file.place}: /{shown('/'.join(self.path))}" if self.path else self._file.place

    @property
    def attributes(self) -> dict[str, Any]:
        """Text as str (arrays of it as lists), numbers as NumPy gives them, None for types that are not read."""
        if self._attributes is None:
            with pyfive_errors(f"{self.place}: attributes"):
                read = dict(self._objects.get_attributes())
                self._attributes = {name: _plain(value) for name, value in read.items()}
        return self._attributes

    def chunked_attribute(self, name: str) -> Any:
        """An attribute, or the lists NAME0, NAME1, ... that Keras makes of a long one, as one list; None if absent."""
        if name in self.attributes:
            return self.attributes[name]
        parts: list[Any] = []
        while f"{name}{len(parts)}" in self.attributes:
            parts.append(self.attributes[f"{name}{len(parts)}"])
        if not parts:
            return None
        if not all(isinstance(part, list) for part in parts):
            raise FormatError(f"{self.place}: attribute {name!r} in parts that are not lists")
        return [item for part in parts for item in part]


class Group(_Object):
    """An HDF5 group: its children by name, read when they are asked for."""

    def __init__(self, file: _File, address: int, path: tuple[str, ...]):
        super().__init__(file, address, path)
        if len(path) > MAX_DEPTH:
            raise FormatError(f"{self.place[:200]}: nested more than {MAX_DEPTH} deep")
        if self._objects.is_dataset:
            raise FormatError(f"{self.place}: a dataset, expected a group")
        self._links: dict[str, int] = {}
        with pyfive_errors(self.place):
            for name, target in self._objects.iter_links():
                if not isinstance(target, int):
                    raise FormatError(
                        f"{self.place}: {shown(name)!r} is a soft link to {shown(target)!r}, expected hard links only"
                    )
                if name in self._links:
                    raise FormatError(f"{self.place}: two links are named {shown(name)!r}")
                self._links[name] = target
                if len(self._links) > MAX_LINKS:
                    raise FormatError(f"{self.place}: more than {MAX_LINKS} links")

    @property
    def names(self) -> list[str]:
        return list(self._links)

    def __contains__(self, name: str) -> bool:
        return name in self._links

    def child(self, name: str) -> Group | Dataset:
        """A child by its name, which is a label here and never a path. FormatError if it is not there."""
        if name not in self._links:
            raise FormatError(f"{self.place}: no {shown(name)!r}, expected it (there is {_some(self._links)})")
        address, path = self._links[name], (*self.path, name)
        with pyfive_errors(f"{self.place}: {shown(name)!r}"):
            is_dataset = self._file.file._get_dataobjects(address).is_dataset
        return (Dataset if is_dataset else Group)(self._file, address, path)

    def group(self, *names: str) -> Group:
        """A group below this one. FormatError if it is not there or a dataset."""
        node: Group | Dataset = self
        for name in names:
            if not isinstance(node, Group):
                raise FormatError(f"{node.place}: a dataset, expected a group")
            node = node.child(name)
        if not isinstance(node, Group):
            raise FormatError(f"{node.place}: a dataset, expected a group")
        return node

    def dataset(self, *names: str) -> Dataset:
        """A dataset below this group. FormatError if it is not there or a group."""
        child = self.group(*names[:-1]).child(names[-1])
        if not isinstance(child, Dataset):
            raise FormatError(f"{child.place}: a group, expected a dataset")
        return child


class Dataset(_Object):
    """An array of numbers: shape and dtype are known before it is read."""

    def __init__(self, file: _File, address: int, path: tuple[str, ...]):
        super().__init__(file, address, path)
        with pyfive_errors(self.place):
            shape = self._objects.shape
            if shape is None or len(shape) > MAX_DIMENSIONS:
                described = "no elements" if shape is None else f"{len(shape)} dimensions"
                raise FormatError(f"{self.place}: {described}, expected at most {MAX_DIMENSIONS} dimensions")
            self.shape: tuple[int, ...] = tuple(shape)
            self.dtype, self._little, self._size = self._number_type()
            self.nbytes = math.prod(self.shape) * self._size

    def _number_type(self) -> tuple[str, bool, int]:
        """Name, byte order and item size."""
        from pyfive.p5t import P5FloatType, P5IntegerType, P5OpaqueType

        stored = self._objects.ptype
        name = str(self.attributes.get("dtype"))
        if isinstance(stored, P5OpaqueType) and name in WIDENED and stored.size == ITEM_SIZES[name]:
            return name, True, stored.size
        if not isinstance(stored, (P5FloatType, P5IntegerType)) or stored.dtype.str[1:] not in NUMBERS:
            kind = type(stored).__name__.removeprefix("P5").removesuffix("Type").lower()
            raise UnsupportedError(f"{self.place}: an array of {kind}, expected numbers of 1, 2, 4 or 8 bytes")
        return NUMBERS[stored.dtype.str[1:]], stored.dtype.str[0] != ">", stored.dtype.itemsize

    def read(self) -> np.ndarray:
        """The array, read-only and in native byte order, as from_bytes has it."""
        self._file.output.spend(self.nbytes)
        with pyfive_errors(self.place):
            data = self._bytes()
        return from_bytes(data, self.dtype, self.place, self._little).reshape(self.shape)

    def _bytes(self) -> bytes:
        message = self._objects.find_msg_type(LAYOUT)[0]["offset_to_message"]
        version, _, kind, at = self._objects._get_data_message_properties(message)
        cursor = self._file.watched._cursor
        if kind == COMPACT:
            if version < 3:
                raise UnsupportedError(f"{self.place}: compact storage of layout version {version}, expected 3 or 4")
            (size,) = struct.unpack_from("<H", self._objects.msg_data, at)
            data = self._objects.msg_data[at + 2 : at + 2 + size]
            self._check_size(len(data))
            return data
        if kind == CONTIGUOUS:
            if version < 3:
                (address,) = struct.unpack_from("<Q", self._objects.msg_data, at)
                size = self.nbytes
            else:
                address, size = struct.unpack_from("<QQ", self._objects.msg_data, at)
            if address == UNDEFINED and self.nbytes:
                raise FormatError(f"{self.place}: its data was never written")
            self._check_size(size)
            if not size:
                return b""
            cursor.seek(address)
            return cursor.bytes(size)
        return self._chunks(cursor)

    def _check_size(self, size: int) -> None:
        if size != self.nbytes:
            raise FormatError(f"{self.place}: {size} bytes, expected {self.nbytes} for {self.dtype} {self.shape}")

    def _chunks(self, cursor: Cursor) -> bytes:
        """The chunks, each read, checked and put into its place; every one has to be there."""
        from pyfive.btree import BTreeV1RawDataChunks

        self._objects._get_chunk_params()
        chunk, filters = tuple(self._objects._chunks)[: len(self.shape)], self._objects.filter_pipeline or ()
        if len(chunk) != len(self.shape) or 0 in chunk or not self.shape:
            raise FormatError(f"{self.place}: chunks of {chunk} for shape {self.shape}")
        size = math.prod(chunk) * self._size
        expected = math.prod(-(-n // c) for n, c in zip(self.shape, chunk, strict=True))
        self._file.output.spend(expected * size)
        if not expected:
            return b""
        if self._objects._chunk_address == UNDEFINED:
            raise FormatError(f"{self.place}: none of its {expected} chunks was written")
        tree = BTreeV1RawDataChunks(self._file.watched, self._objects._chunk_address, self._objects._chunk_dims)
        chunks = [pair for node in tree.all_nodes[0] for pair in zip(node["keys"], node["addresses"], strict=True)]
        places = {key["chunk_offset"][:-1] for key, _ in chunks}
        if len(chunks) != expected or len(places) != expected:
            raise FormatError(f"{self.place}: {len(places)} chunks, expected {expected} for {self.shape}")
        out = np.zeros([-(-n // c) * c for n, c in zip(self.shape, chunk, strict=True)], f"V{self._size}")
        for key, address in chunks:
            start = key["chunk_offset"][:-1]
            if any(a % c or a >= n for a, c, n in zip(start, chunk, self.shape, strict=True)):
                raise FormatError(f"{self.place}: a chunk at {start}, expected multiples of {chunk} below {self.shape}")
            cursor.seek(address)
            data = self._filtered(cursor.bytes(key["chunk_size"]), filters, key["filter_mask"], size)
            where = tuple(slice(a, a + c) for a, c in zip(start, chunk, strict=True))
            out[where] = np.frombuffer(data, f"V{self._size}").reshape(chunk)
        return np.ascontiguousarray(out[tuple(slice(n) for n in self.shape)]).tobytes()

    def _filtered(self, data: bytes, filters: Any, mask: int, size: int) -> bytes:
        """A chunk's bytes after its filters, of which the last one was applied last."""
        for place in reversed(range(len(filters))):
            if mask >> place & 1:
                continue
            kind = filters[place]["filter_id"]
            if kind == DEFLATE:
                data = _inflate(data, size + 4, self.place)
            elif kind == SHUFFLE:
                data = _unshuffle(data, self._size)
            elif kind == LZF:
                data = _lzf(data, size + 4, self.place) if len(data) != size else data
            elif kind == FLETCHER32:
                if len(data) < 4 or _fletcher32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
                    raise FormatError(f"{self.place}: a chunk's checksum does not fit")
                data = data[:-4]
            else:
                raise UnsupportedError(f"{self.place}: filter {kind}, expected gzip, shuffle, fletcher32 or lzf")
        if len(data) != size:
            raise FormatError(f"{self.place}: a chunk of {len(data)} bytes, expected {size}")
        return data


# --- looked at before pyfive reads it ------------------------------------------------------------------------------


def check_header(file: Watched, address: int) -> None:
    """Walks an object header's messages. Raises FormatError or UnsupportedError for what pyfive should not see."""
    if not 0 <= address <= len(file._cursor) - 16:
        raise FormatError(f"{file.place}: an object at offset {address}, but there are {len(file._cursor)} bytes")
    head = file.at(address, 16)
    if head[:4] == b"OHDR":
        blocks, step, created = _header_v2(file, address)
    elif head[0] == 1:
        blocks, step, created = [(address + 16, int.from_bytes(head[8:12], "little"))], 8, 0
    else:
        raise FormatError(f"{file.place}: no object header at offset {address}")
    total, number = 0, 0
    while number < len(blocks):
        begin, size = blocks[number]
        number, total = number + 1, total + size
        if total > MAX_HEADER or number > MAX_CONTINUATIONS:
            described = f"an object header of {total} bytes in {number} pieces"
            raise FormatError(f"{file.place}: {described}, expected at most {MAX_HEADER} in {MAX_CONTINUATIONS}")
        if begin < 0 or begin + size > len(file._cursor):
            raise FormatError(f"{file.place}: object header: bytes {begin} to {begin + size}, past the end of the file")
        _check_block(file, file.at(begin, size), step, created, blocks)


def _header_v2(file: Watched, address: int) -> tuple[list[tuple[int, int]], int, int]:
    flags = file.at(address + 5, 1)[0]
    at = address + 6 + (16 if flags & 32 else 0)
    if flags & 16:
        raise UnsupportedError(f"{file.place}: an object header with attribute phase change, expected none")
    width = 1 << (flags & 3)
    size = int.from_bytes(file.at(at, width), "little")
    return [(at + width, size)], 4, 2 if flags & 4 else 0


def _check_block(file: Watched, data: bytes, step: int, created: int, blocks: list[tuple[int, int]]) -> None:
    """The messages of one piece of an object header; adds the pieces that it continues in."""
    v2 = step == 4
    at, end = (4 if v2 and data[:4] == b"OCHK" else 0), len(data)
    while at + step + created <= end:
        kind = data[at] if v2 else int.from_bytes(data[at : at + 2], "little")
        size = int.from_bytes(data[at + 1 : at + 3] if v2 else data[at + 2 : at + 4], "little")
        flags = data[at + 3] if v2 else data[at + 4]
        at += step + created
        if at + size > end:
            break  # the gap and checksum that end a version 2 piece, or what pyfive refuses
        body = data[at : at + size]
        if kind == CONTINUATION and size >= 16:
            blocks.append(struct.unpack_from("<QQ", body))
        elif kind == EXTERNAL_FILES:
            raise FormatError(f"{file.place}: an array stored in an external file, expected it inside")
        elif flags & SHARED and kind in (DATASPACE, DATATYPE, LAYOUT, FILTERS, LINK):
            raise UnsupportedError(f"{file.place}: a message (type {kind}) shared between objects, expected its own")
        elif kind == LAYOUT and size >= 3:
            layout = body[1] if body[0] >= 3 else body[2]
            if layout == VIRTUAL:
                raise FormatError(f"{file.place}: a virtual dataset, made of other files, expected an array inside")
            if layout == CHUNKED and body[0] not in (1, 2, 3):
                raise UnsupportedError(
                    f"{file.place}: chunks of layout version {body[0]} (libver='latest'), expected 1 to 3"
                )
        elif kind == LINK:
            with low_level_errors(file.place):
                _check_link(body, 0)
        at += size


def _check_link(data: bytes, offset: int) -> None:
    """Refuses links that are not hard ones."""
    kind = data[offset + 2] if data[offset + 1] & 8 else 0
    if kind:
        name = {1: "a soft link", 64: "an external link"}.get(kind, f"a link of type {kind}")
        raise FormatError(f"{name}, expected hard links only")


def _check_attribute(data: bytes, offset: int) -> None:
    """The elements of an attribute must be there, and few enough."""
    version = data[offset]
    if version not in (1, 3):
        raise UnsupportedError(f"an attribute of version {version}, expected 1 or 3")
    if data[offset + 1] and version == 3:
        raise UnsupportedError("an attribute whose type is shared between objects, expected its own")
    name, kind, space = struct.unpack_from("<HHH", data, offset + 2)
    pad = 8 if version == 1 else 1
    at = offset + (8 if version == 1 else 9) + -(-name // pad) * pad
    (size,) = struct.unpack_from("<I", data, at + 4)
    at += -(-kind // pad) * pad
    rank, skip = data[at + 1], (8 if data[at] == 1 else 4)
    if rank > MAX_DIMENSIONS:
        raise FormatError(f"an attribute of {rank} dimensions, expected at most {MAX_DIMENSIONS}")
    count = math.prod(struct.unpack_from(f"<{rank}Q", data, at + skip))
    at += -(-space // pad) * pad
    if count * size > min(len(data) - at, MAX_ATTRIBUTE):
        raise FormatError(f"an attribute of {count} elements of {size} bytes, but {max(len(data) - at, 0)} remain")


@contextlib.contextmanager
def pyfive_errors(place: str) -> Iterator[None]:
    """Ours pass, with the place in front; whatever pyfive raises on damaged bytes becomes a FormatError."""
    file = place.split(": ")[0]
    try:
        with low_level_errors(place), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (FormatError, UnsupportedError) as error:
        if str(error).startswith(file):
            raise
        raise type(error)(f"{place}: {error}") from None
    except NotImplementedError as error:
        raise UnsupportedError(f"{place}: {shown(str(error)) or 'a part of HDF5 that pyfive does not read'}") from None
    except (AssertionError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise FormatError(f"{place}: damaged: {type(error).__name__} {shown(str(error))}") from None
    except Exception as error:
        if type(error).__module__.startswith("pyfive"):
            raise FormatError(f"{place}: {shown(str(error))}") from None
        raise


def _plain(value: Any) -> Any:
    """An attribute as Python has it."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return [item.decode("utf-8") if isinstance(item, bytes) else None for item in value.reshape(-1).tolist()]
    if isinstance(value, np.ndarray) and value.dtype.kind == "f" and value.size == 0:
        return []  # h5py writes an empty list so
    return value if isinstance(value, (np.ndarray, np.generic)) else None


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(shown(name, 40) for name in listed[:6]) + (", ..." if len(listed) > 6 else "") or "nothing"


# --- filters -------------------------------------------------------------------------------------------------------


def _inflate(data: bytes, most: int, place: str) -> bytes:
    stream = zlib.decompressobj()
    inflated = stream.decompress(data, most + 1)
    if len(inflated) > most or not stream.eof:
        raise FormatError(f"{place}: a chunk decompresses to more than {most} bytes, or does not end")
    return inflated


def _unshuffle(data: bytes, size: int) -> bytes:
    """Bytes sorted by their significance, put back together; what does not fill an item stays as it is."""
    count = len(data) // size
    turned = np.frombuffer(data, np.uint8, count * size).reshape(size, count).T
    return turned.tobytes() + data[count * size :]


def _lzf(data: bytes, most: int, place: str) -> bytes:
    """LibLZF: a control byte below 32 is that many literals and one; others copy from 1 to 8192 bytes before."""
    out = bytearray()
    at = 0
    while at < len(data):
        control = data[at]
        at += 1
        if control < 32:
            out += data[at : at + control + 1]
            at += control + 1
        else:
            length = control >> 5
            if length == 7:
                length += data[at]
                at += 1
            start = len(out) - ((control & 31) << 8) - data[at] - 1
            at += 1
            if start < 0:
                raise FormatError(f"{place}: lzf copies from before the beginning")
            for k in range(length + 2):
                out.append(out[start + k])
        if len(out) > most:
            raise FormatError(f"{place}: a chunk decompresses to more than {most} bytes")
    return bytes(out)


def _fletcher32(data: bytes) -> int:
    """HDF5's checksum: sums of big-endian 16-bit words, of a last odd byte as a word's upper one, modulo 65535.

    Carries are added again, so a sum that is a multiple of 65535 stays 65535, and only that of zeros is 0.
    """
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(np.uint64)
    first = int(words.sum()) % 65535
    count = len(words)
    full = 65535 if words.any() else 0
    second = sum(int(word) * (count - k) for k, word in enumerate(words.tolist())) % 65535
    return (second or full) << 16 | (first or full)
