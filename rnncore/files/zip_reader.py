"""Zip archives as untrusted data: a directory parser of our own, members read into memory, nothing ever extracted.

Refused: duplicate, absolute or ".." names, symlinks, encryption, several disks, overlapping members, a local header
that contradicts the directory, false sizes, checksums that do not fit, and more output than the budget.
Source: PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5.
"""

from __future__ import annotations

import stat
import zlib
from typing import NamedTuple

from rnncore.errors import FormatError, UnsupportedError
from rnncore.files.cursor import Budget, Cursor, low_level_errors, shown

__all__ = ["Archive", "Member"]

MAX_MEMBERS = 65_536
MAX_NAME = 1024
OUTPUT_AT_LEAST = 64 << 20  # bytes that the members of any archive may decompress to
OUTPUT_RATIO = 16  # and times the size of the file, if that is more

LOCAL, ENTRY, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END64, LOCATOR64 = b"PK\x06\x06", b"PK\x06\x07"
STORED, DEFLATED = 0, 8
ENCRYPTED = 1 | 1 << 6 | 1 << 13
UTF8 = 1 << 11


class Member(NamedTuple):
    """One entry of the directory. ``limit`` is where the next member begins, or the directory."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    limit: int


class Archive:
    """The members of a zip file, by name, in the directory's order.

    The cursor stays the caller's. Raises FormatError for a damaged or malicious archive, UnsupportedError for
    encryption, several disks, and methods other than stored and deflated.
    """

    def __init__(self, cursor: Cursor):
        self._cursor = cursor.slice(0, len(cursor))
        self.place = cursor.place
        self._output = Budget(max(OUTPUT_AT_LEAST, OUTPUT_RATIO * len(cursor)), "bytes of output", self.place)
        self.members = self._directory()

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def size(self, name: str) -> int:
        return self._member(name).size

    def spend(self, count: int) -> None:
        """Count bytes that what was read becomes on top of its own."""
        self._output.spend(count)

    def read(self, name: str) -> bytes:
        """All bytes of a member, after its size and checksum have been checked.

        A checksum of 0 in the directory is not compared: torch.serialization.set_crc32_options(False) writes it.
        """
        member, place = self._member(name), f"{self.place}: {shown(name)}"
        with low_level_errors(place):
            self._output.spend(member.size)
            self._cursor.seek(self._data(member))
            data = self._cursor.bytes(member.packed)
            if member.method == DEFLATED:
                data = _inflate(data, member.size, place)
            if member.crc and zlib.crc32(data) != member.crc:
                raise FormatError(f"{place}: checksum {zlib.crc32(data):08x}, expected {member.crc:08x}")
            return data

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise FormatError(f"{self.place}: no member {shown(name)!r}")
        return self.members[name]

    def _data(self, member: Member) -> int:
        """Offset of a member's data, after its local header has been compared with the directory."""
        cursor, place = self._cursor, f"{self.place}: {shown(member.name)}"
        cursor.seek(member.header)
        cursor.expect(LOCAL, f"local header of {shown(member.name)!r}")
        cursor.skip(2)
        flags, method = cursor.u16(), cursor.u16()
        cursor.skip(16)
        name_size, extra_size = cursor.u16(), cursor.u16()
        if (cursor.bytes(name_size), flags & ENCRYPTED, method) != (member.raw_name, 0, member.method):
            raise FormatError(f"{place}: the local header contradicts the directory")
        begin = cursor.tell() + extra_size
        if begin + member.packed > member.limit:
            described = f"{member.packed} bytes at offset {begin}"
            raise FormatError(f"{place}: {described} reach past {member.limit}, where something else begins")
        return begin

    def _directory(self) -> dict[str, Member]:
        count, size, begin = self._end()
        if count > MAX_MEMBERS:
            raise FormatError(f"{self.place}: {count} members, expected at most {MAX_MEMBERS}")
        cursor = self._cursor.slice(begin, size, f"{self.place}: zip directory")
        members: dict[str, Member] = {}
        for _ in range(count):
            member = _entry(cursor, begin)
            if member.name in members:
                raise FormatError(f"{self.place}: two members are named {shown(member.name)!r}")
            members[member.name] = member
        if cursor.remaining:
            raise FormatError(f"{cursor.place}: {cursor.remaining} bytes after the last of {count} entries")
        limit = begin
        for member in sorted(members.values(), key=lambda member: member.header, reverse=True):
            if member.header + 30 + len(member.raw_name) + member.packed > limit:
                raise FormatError(f"{self.place}: member {shown(member.name)!r} overlaps what follows at {limit}")
            members[member.name] = member._replace(limit=limit)
            limit = member.header
        return members

    def _end(self) -> tuple[int, int, int]:
        """(number of members, size and offset of the directory), which has to be right before the end record."""
        cursor = self._cursor
        tail = min(len(cursor), 65535 + 22)
        cursor.seek(len(cursor) - tail)
        data = cursor.bytes(tail)
        at = data.rfind(END)
        while at >= 0 and not _ends_here(data, at):
            at = data.rfind(END, 0, at)
        if at < 0:
            raise FormatError(f"{self.place}: no end record of a zip archive: truncated?")
        end = len(cursor) - tail + at
        cursor.seek(end + 4)
        disks = (cursor.u16(), cursor.u16())
        here, count, size, begin = cursor.u16(), cursor.u16(), cursor.u32(), cursor.u32()
        if end >= 20:
            cursor.seek(end - 20)
            if cursor.bytes(4) == LOCATOR64:
                cursor.skip(4)
                end64 = cursor.u64()
                cursor.seek(end64)
                cursor.expect(END64, "zip64 end record")
                if end64 + 12 + cursor.u64() != end - 20:
                    raise FormatError(f"{self.place}: the zip64 end record does not end where its locator begins")
                cursor.skip(4)
                disks = (cursor.u32(), cursor.u32())
                here, count, size, begin = cursor.u64(), cursor.u64(), cursor.u64(), cursor.u64()
                end = end64
        if disks != (0, 0) or here != count:
            raise UnsupportedError(f"{self.place}: a zip archive in several parts")
        if begin + size != end:
            expected = f"expected it to end at {end}"
            raise FormatError(f"{self.place}: zip directory of {size} bytes at offset {begin}, {expected}")
        return count, size, begin


def _ends_here(data: bytes, at: int) -> bool:
    """Whether the end record at ``at``, with its comment, reaches exactly to the end of the data."""
    return at + 22 <= len(data) and at + 22 + int.from_bytes(data[at + 20 : at + 22], "little") == len(data)


def _entry(cursor: Cursor, directory: int) -> Member:
    """The next entry of the directory, which begins at offset ``directory`` of the file."""
    cursor.expect(ENTRY, "entry")
    cursor.skip(4)
    flags, method = cursor.u16(), cursor.u16()
    cursor.skip(4)
    crc, packed, size = cursor.u32(), cursor.u32(), cursor.u32()
    name_size, extra_size, comment_size = cursor.u16(), cursor.u16(), cursor.u16()
    disk = cursor.u16()
    cursor.skip(2)
    mode, header = cursor.u32() >> 16, cursor.u32()
    raw_name = cursor.bytes(name_size)
    extra = Cursor(cursor.bytes(extra_size), f"{cursor.place}: extra field")
    cursor.skip(comment_size)
    name = _checked_name(raw_name, flags, cursor.place)
    place = f"{cursor.place}: {shown(name)}"
    packed, size, header = _zip64(extra, packed, size, header)
    if flags & ENCRYPTED:
        raise UnsupportedError(f"{place}: encrypted")
    if disk:
        raise UnsupportedError(f"{place}: in part {disk} of an archive in several parts")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise FormatError(f"{place}: a link or special file (mode {mode:o}), expected a regular file")
    if method not in (STORED, DEFLATED):
        raise UnsupportedError(f"{place}: compression method {method}, expected 0 (stored) or 8 (deflated)")
    if method == STORED and packed != size:
        raise FormatError(f"{place}: stored in {packed} bytes, but has a size of {size}")
    if header + packed > directory:
        raise FormatError(f"{place}: {packed} bytes at offset {header}, but the directory begins at {directory}")
    return Member(name, raw_name, flags, method, crc, packed, size, header, directory)


def _zip64(extra: Cursor, packed: int, size: int, header: int) -> tuple[int, int, int]:
    """The sizes and the offset, with those of the zip64 field (4.5.3) in place of 0xFFFFFFFF."""
    full = 0xFFFFFFFF
    while extra.remaining >= 4:
        kind, count = extra.u16(), extra.u16()
        if kind != 1:
            extra.skip(count)
            continue
        field = Cursor(extra.bytes(count), extra.place)
        size = field.u64() if size == full else size
        packed = field.u64() if packed == full else packed
        header = field.u64() if header == full else header
    return packed, size, header


def _checked_name(raw: bytes, flags: int, place: str) -> str:
    with low_level_errors(f"{place}: member name"):
        name = raw.decode("utf-8" if flags & UTF8 else "cp437")
    parts = name.split("/")
    bad = not name or len(name) > MAX_NAME or "\\" in name or "\0" in name or ":" in parts[0] or name.startswith("/")
    if bad or ".." in parts:
        raise FormatError(f"{place}: member name {shown(name)!r}, expected a plain relative name")
    return name


def _inflate(data: bytes, size: int, place: str) -> bytes:
    """Exactly ``size`` bytes; never produces more than one byte beyond that."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data, size + 1)
    if len(inflated) > size:
        raise FormatError(f"{place}: decompresses to more than its size of {size} bytes")
    if len(inflated) < size or not stream.eof or stream.unused_data:
        raise FormatError(f"{place}: decompresses to {len(inflated)} bytes, expected {size} and the end of the stream")
    return inflated
