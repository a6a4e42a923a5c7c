"""safetensors, read strictly: every rule of its specification, the ones that its reference does not check included.

    u64 N | N bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {}} | data

Source: https://github.com/huggingface/safetensors (README, "Format"), version 0.6.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from rnncore.errors import FormatError, UnsupportedError
from rnncore.files.cursor import Cursor, low_level_errors, open_cursor, shown
from rnncore.files.strict_json import read_json
from rnncore.formats._arrays import ITEM_SIZES, MAX_TENSORS, check_name, element_count, from_bytes
from rnncore.formats.checkpoint import Checkpoint

__all__ = ["read", "read_open"]

MAX_HEADER = 100_000_000
MAX_NUMBERS = 10 * MAX_TENSORS  # commas in the header, which is what its JSON can cost
METADATA = "__metadata__"
FIELDS = {"dtype", "shape", "data_offsets"}

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
UNREAD = ("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4", "C64")


class Entry(NamedTuple):
    """One tensor of the header; begin and end count bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The tensors of a safetensors file, in the order of their data. Raises FormatError, UnsupportedError."""
    with open_cursor(path) as cursor:
        return read_open(cursor)


def looks_like(head: bytes) -> bool:
    """Whether these first bytes are a header size below 4 GiB and the beginning of JSON."""
    return head[4:9] == b"\0\0\0\0{"


def read_open(cursor: Cursor) -> Checkpoint:
    """``read`` on an open file."""
    place = cursor.place
    cursor.seek(0)
    size = cursor.u64()
    if size > MAX_HEADER:
        raise FormatError(f"{place}: header of {size} bytes, expected at most {MAX_HEADER}")
    entries, metadata = _header(cursor.bytes(size), f"{place}: header")
    end = 0
    for entry in entries:
        if entry.begin != end:
            what = "a hole" if entry.begin > end else "an overlap"
            raise FormatError(f"{place}: {shown(entry.name)}: {what}: begins at {entry.begin}, expected {end}")
        end = entry.end
    if end != cursor.remaining:
        raise FormatError(f"{place}: {cursor.remaining} bytes of data, expected {end}, where the last tensor ends")
    tensors = {}
    for entry in entries:
        where = f"{place}: {shown(entry.name)}"
        flat = from_bytes(cursor.bytes(entry.end - entry.begin), DTYPES[entry.dtype], where)
        tensors[entry.name] = flat.reshape(entry.shape)
    source_dtypes = {entry.name: DTYPES[entry.dtype] for entry in entries}
    return Checkpoint(place, "safetensors", tensors, source_dtypes, [], metadata)


def _header(data: bytes, place: str) -> tuple[list[Entry], dict[str, str]]:
    """The entries in the order of their data, each of which fits itself, and the metadata."""
    if not data.startswith(b"{"):
        raise FormatError(f"{place}: begins with {data[:1]!r}, expected b'{{'")
    brackets = data.count(b"{") + data.count(b"[")
    if brackets > 2 * MAX_TENSORS + MAX_TENSORS or data.count(b",") > MAX_NUMBERS:
        raise FormatError(f"{place}: more than {MAX_TENSORS} tensors")
    fields = read_json(data, place)
    metadata = fields.pop(METADATA, {})
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()):
        raise FormatError(f"{place}: {METADATA} is no object of strings")
    entries = [_entry(name, value, f"{place}: {shown(name)}") for name, value in fields.items()]
    return sorted(entries, key=lambda entry: (entry.begin, entry.end)), metadata


def _entry(name: str, fields: Any, place: str) -> Entry:
    check_name(name, place)
    if type(fields) is not dict or set(fields) != FIELDS:
        raise FormatError(f"{place}: expected an object of dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if type(dtype) is str and dtype in UNREAD:
        raise UnsupportedError(f"{place}: dtype {dtype}, expected one of {', '.join(DTYPES)}")
    if type(dtype) is not str or dtype not in DTYPES:
        raise FormatError(f"{place}: dtype {shown(repr(dtype)[:200])} is unknown")
    if type(shape) is not list:
        raise FormatError(f"{place}: shape is {type(shape).__name__}, expected a list")
    if type(offsets) is not list or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise FormatError(f"{place}: data_offsets are no two integers >= 0")
    begin, end = offsets
    item_size = ITEM_SIZES[DTYPES[dtype]]
    with low_level_errors(place):
        expected = element_count(shape, item_size) * item_size
    if end - begin != expected:
        raise FormatError(f"{place}: {end - begin} bytes, expected {expected} for {dtype} {tuple(shape)}")
    return Entry(name, dtype, tuple(shape), begin, end)
