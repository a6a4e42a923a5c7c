"""NumPy's .npz (a zip of .npy members) and .npy, without numpy's own reader and so without its pickles.

    \\x93NUMPY | u8 major, u8 minor | u16 or (major 2, 3) u32 N | N bytes: {'descr', 'fortran_order', 'shape'} | data

The header is a Python literal; it is matched against the three keys that it may have, never evaluated.
Source: numpy/lib/format.py of NumPy 2.4.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import BinaryIO, NamedTuple

import numpy as np

from rnncore.errors import FormatError, UnsupportedError
from rnncore.files.cursor import Cursor, low_level_errors, open_cursor, shown
from rnncore.files.zip_reader import Archive
from rnncore.formats._arrays import CODES, HALVES, ITEM_SIZES, check_name, element_count, from_bytes
from rnncore.formats._foreign import NPY_MAGIC as MAGIC
from rnncore.formats.checkpoint import Checkpoint, Skipped, SkippedList

__all__ = ["Header", "read", "read_header", "read_npy", "read_npz"]

MAX_HEADER = 10_000
DTYPES = {code: name for name, code in CODES.items()} | {"b1": "bool"}

FIELD = re.compile(
    r"\s*'(?:(?P<descr>descr)'\s*:\s*(?:'(?P<code>[^'\\]{1,32})'|(?P<structure>\[.*\]))"
    r"|(?P<order>fortran_order)'\s*:\s*(?P<fortran>True|False)"
    r"|(?P<shape>shape)'\s*:\s*\((?P<sizes>[0-9L,\s]*)\))\s*(?P<comma>,?)",
    re.DOTALL,
)


class Header(NamedTuple):
    """The header before the data; ``dtype`` is None, and ``why`` says why, for what is not read."""

    dtype: str | None
    little: bool
    fortran: bool
    shape: tuple[int, ...]
    why: str = ""


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """The arrays of a .npz or .npy file. Raises FormatError, UnsupportedError."""
    with open_cursor(path) as cursor:
        if len(cursor) >= len(MAGIC) and cursor.slice(0, len(MAGIC)).bytes(len(MAGIC)) == MAGIC:
            return read_npy(cursor)
        return read_npz(cursor, Archive(cursor))


def read_header(file: BinaryIO, place: str) -> Header:
    """The header of a .npy file or member that is read forwards; the data come next. FormatError, UnsupportedError."""
    head = file.read(len(MAGIC) + 2)
    count = 4 if head[len(MAGIC) : len(MAGIC) + 1] > b"\x01" else 2
    head += file.read(count)
    size = int.from_bytes(head[len(MAGIC) + 2 :], "little")
    header = _header(Cursor(head + file.read(min(size, MAX_HEADER + 1)), place))
    if header.dtype is None:
        raise UnsupportedError(f"{place}: {header.why}")
    return header


def read_npy(cursor: Cursor) -> Checkpoint:
    """A Checkpoint with the one array of a .npy file, named "array"."""
    place = cursor.place
    cursor.seek(0)
    header = _header(cursor)
    if header.dtype is None:
        raise UnsupportedError(f"{place}: {header.why}")
    return Checkpoint(place, "npy", {"array": _data(cursor, header)}, {"array": header.dtype})


def read_npz(cursor: Cursor, archive: Archive) -> Checkpoint:
    """A Checkpoint from a .npz file: member "NAME.npy" is tensor NAME. Arrays of other dtypes are skipped."""
    place = cursor.place
    tensors: dict[str, np.ndarray] = {}
    dtypes: dict[str, str] = {}
    skipped = SkippedList()
    unread: Skipped | None = None
    for member in archive.members:
        name = member.removesuffix(".npy")
        if name == member:
            skipped.add(partial(str, name), "not a .npy member")
            continue
        check_name(name, place)
        data = Cursor(archive.read(member), f"{place}: {shown(member)}")
        header = _header(data)
        if header.dtype is None:
            unread = unread or Skipped(name, header.why)
            skipped.add(partial(str, name), header.why)
            continue
        if header.dtype in HALVES:
            archive.spend(data.remaining)
        tensors[name] = _data(data, header)
        dtypes[name] = header.dtype
    if not tensors:
        if unread:
            raise UnsupportedError(f"{place}: no array that can be read: {shown(unread.path)}: {unread.reason}")
        raise FormatError(f"{place}: a zip archive without arrays")
    return Checkpoint(place, "npz", tensors, dtypes, skipped.entries)


def _header(cursor: Cursor) -> Header:
    """The header of a .npy file, and the cursor at its data."""
    cursor.expect(MAGIC, "magic")
    major, minor = cursor.u8(), cursor.u8()
    if (major, minor) not in ((1, 0), (2, 0), (3, 0)):
        raise UnsupportedError(f"{cursor.place}: .npy version {major}.{minor}, expected 1.0, 2.0 or 3.0")
    size = cursor.u16() if major == 1 else cursor.u32()
    if size > MAX_HEADER:
        raise FormatError(f"{cursor.place}: header of {size} bytes, expected at most {MAX_HEADER}")
    with low_level_errors(f"{cursor.place}: header"):
        fields = _fields(cursor.bytes(size).decode("utf-8" if major == 3 else "latin-1"))
        shape = tuple(int(part.strip().removesuffix("L")) for part in fields["shape"].split(",") if part.strip())
        element_count(shape, 16)
    fortran = fields["order"] == "True"
    if "structure" in fields:
        return Header(None, True, fortran, shape, "a structured array, expected numbers")
    code = fields["code"]
    dtype = DTYPES.get(code.lstrip("<>|"))
    if dtype is None or (code[0] not in "<>" and ITEM_SIZES[dtype] > 1):
        what = (
            "objects, which are a pickle (write numbers by numpy.savez),"
            if code.lstrip("|") == "O"
            else f"dtype {shown(code)!r}"
        )
        return Header(None, True, fortran, shape, f"an array of {what} expected one of {', '.join(ITEM_SIZES)}")
    return Header(dtype, code[0] != ">", fortran, shape)


def _fields(text: str) -> dict[str, str]:
    """The values of the header's three keys, each of which has to be there once; ValueError otherwise."""
    body = text.strip()
    if not (body.startswith("{") and body.endswith("}")):
        raise ValueError(f"{shown(body)!r} is no dict")
    body, at, comma = body[1:-1], 0, True
    fields: dict[str, str] = {}
    while at < len(body.rstrip()):
        match = FIELD.match(body, at)
        if match is None or not comma:
            raise ValueError(f"{shown(body[at:].strip())!r}, expected descr, fortran_order or shape")
        at, comma = match.end(), bool(match["comma"])
        values = {"code": match["code"], "structure": match["structure"], "order": match["fortran"]}
        values["shape"] = match["sizes"]
        for key, value in values.items():
            if value is not None:
                if key in fields:
                    raise ValueError(f"{key} occurs twice")
                fields[key] = value
    if len(fields) != 3 or not {"order", "shape"} <= set(fields):
        raise ValueError(f"has {', '.join(fields) or 'nothing'}, expected descr, fortran_order and shape")
    return fields


def _data(cursor: Cursor, header: Header) -> np.ndarray:
    """The array, read-only, after its size has been compared with the bytes that are there."""
    dtype = str(header.dtype)  # of a header that is read
    count = element_count(header.shape, ITEM_SIZES[dtype])
    expected = count * ITEM_SIZES[dtype]
    if cursor.remaining != expected:
        described = f"{cursor.remaining} bytes of data"
        raise FormatError(f"{cursor.place}: {described}, expected {expected} for {header.dtype} {header.shape}")
    flat = from_bytes(cursor.bytes(expected), dtype, cursor.place, header.little)
    return flat.reshape(header.shape, order="F" if header.fortran else "C")
