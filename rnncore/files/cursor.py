"""The only reader of untrusted bytes: bounded reads, budgets, and one door for every low-level error.

Every format file reads through a Cursor. A read past the end, or longer than allowed, is a FormatError which says
where, what was found and what was expected; nothing is allocated before the size is known to be there.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from rnncore.errors import FormatError, MissingFileError, RnncoreError

__all__ = ["Budget", "Cursor", "InMemory", "file_name", "low_level_errors", "open_cursor", "shown"]

WINDOW = 1 << 16
LONGEST_LINE = 1 << 16


class Cursor:
    """Reads forwards through untrusted bytes, and never past their end.

    source   bytes, or a binary file that can seek; several cursors may share one file
    place    what is being read, as messages name it
    start, stop  the part that may be read; offsets are counted from start
    longest  the most bytes that one read may ask for; None for all that remain

    What ``bytes`` returns is the caller's. Raises FormatError, and nothing else, for whatever the bytes say.
    Integers are little endian.
    """

    def __init__(
        self,
        source: bytes | BinaryIO,
        place: str,
        start: int = 0,
        stop: int | None = None,
        longest: int | None = None,
    ):
        size = len(source) if isinstance(source, bytes) else source.seek(0, os.SEEK_END)
        stop = size if stop is None else stop
        if not 0 <= start <= stop <= size:
            raise FormatError(f"{place}: bytes {start} to {stop}, but there are {size}")
        self.place = place
        self.on_disk = not isinstance(source, bytes)
        self._source = source
        self._start, self._stop, self._at = start, stop, start
        self._longest = longest
        self._window, self._window_at = (source, 0) if isinstance(source, bytes) else (b"", start)

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def remaining(self) -> int:
        return self._stop - self._at

    def tell(self) -> int:
        return self._at - self._start

    def seek(self, offset: int) -> None:
        """To an offset from the start; the end itself is allowed."""
        if not 0 <= offset <= len(self):
            raise FormatError(f"{self.place}: offset {offset}, but there are {len(self)} bytes")
        self._at = self._start + offset

    def skip(self, count: int) -> None:
        self.seek(self.tell() + count)

    def bytes(self, count: int) -> bytes:
        """The next ``count`` bytes, exactly."""
        if not 0 <= count <= self._stop - self._at:
            remaining = f"{self.remaining} bytes remain at offset {self.tell()}"
            raise FormatError(f"{self.place}: truncated: {remaining}, expected {count}")
        if self._longest is not None and count > self._longest:
            raise FormatError(f"{self.place}: {count} bytes in one piece, expected at most {self._longest}")
        begin = self._at - self._window_at
        if not 0 <= begin <= begin + count <= len(self._window):
            if count > WINDOW:
                piece = self._fetch(self._at, count)
                self._at += count
                return piece
            self._fill()
            begin = 0
        self._at += count
        return self._window[begin : begin + count]

    read = bytes

    def line(self) -> builtins.bytes:
        """Up to and with the next newline, which has to come within 64 KiB."""
        if not 0 <= self._at - self._window_at <= len(self._window) - min(self.remaining, LONGEST_LINE):
            self._fill()
        begin = self._at - self._window_at
        end = self._window.find(b"\n", begin, begin + min(self.remaining, LONGEST_LINE))
        if end < 0:
            raise FormatError(f"{self.place}: no end of line within {LONGEST_LINE} bytes of offset {self.tell()}")
        return self.bytes(end + 1 - begin)

    readline = line

    def slice(self, offset: int, count: int, place: str | None = None, longest: int | None = None) -> Cursor:
        """A cursor of its own over ``count`` bytes from ``offset``."""
        if offset < 0 or count < 0 or offset + count > len(self):
            raise FormatError(
                f"{place or self.place}: bytes {offset} to {offset + count}, but there are {len(self)} in {self.place}"
            )
        start = self._start + offset
        return Cursor(self._source, place or self.place, start, start + count, longest)

    def expect(self, wanted: builtins.bytes, what: str) -> None:
        """The next bytes are ``wanted``, or it is a FormatError."""
        at = self.tell()
        data = self.bytes(len(wanted))
        if data != wanted:
            raise FormatError(f"{self.place}: {what} at offset {at} is {data!r}, expected {wanted!r}")

    def u8(self) -> int:
        return self.bytes(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.bytes(2), "little")

    def u32(self) -> int:
        return int.from_bytes(self.bytes(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.bytes(8), "little")

    def i32(self) -> int:
        return int.from_bytes(self.bytes(4), "little", signed=True)

    def i64(self) -> int:
        return int.from_bytes(self.bytes(8), "little", signed=True)

    def _fill(self) -> None:
        """Makes the window begin here."""
        self._window, self._window_at = self._fetch(self._at, min(WINDOW, self.remaining)), self._at

    def _fetch(self, at: int, count: int) -> builtins.bytes:
        if isinstance(self._source, bytes):
            return self._source[at : at + count]
        self._source.seek(at)
        data = self._source.read(count)
        if len(data) != count:
            raise FormatError(f"{self.place}: the file became shorter while it was read")
        return data


class Budget:
    """The most of something that one file may use up; ``spend`` raises FormatError when it is gone.

    hint  how more is allowed, which the message ends with
    """

    __slots__ = ("hint", "left", "limit", "place", "what")

    def __init__(self, limit: int, what: str, place: str, hint: str = ""):
        self.limit = self.left = limit
        self.what, self.place, self.hint = what, place, hint

    def spend(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise FormatError(f"{self.place}: too many {self.what}, expected at most {self.limit}{self.hint}")


class InMemory:
    """The bytes of a file that is none, or none any more, and what messages call it."""

    __slots__ = ("data", "name")

    def __init__(self, data: bytes, name: str):
        self.data, self.name = data, name

    def __str__(self) -> str:
        return self.name


@contextlib.contextmanager
def open_cursor(path: str | os.PathLike[str] | InMemory) -> Iterator[Cursor]:
    """A cursor over a regular file, closed at the end; FormatError for anything that is not one.

    The kind is looked at before opening, since to open a fifo is to wait for its writer, and again on what was opened.
    """
    if isinstance(path, InMemory):
        with low_level_errors(path.name):
            yield Cursor(path.data, path.name)
        return
    name = file_name(path)
    with low_level_errors(name):
        _check_regular(name, os.stat(name))
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(name, flags), "rb") as file:
            _check_regular(name, os.fstat(file.fileno()))
            yield Cursor(file, name)


def file_name(path: str | os.PathLike[str]) -> str:
    """The path as text."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise FormatError(f"path is {type(path).__name__}, expected str or os.PathLike") from None


def _check_regular(name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise FormatError(f"{name}: {kind}, expected a regular file")


@contextlib.contextmanager
def low_level_errors(place: str) -> Iterator[None]:
    """Turns what Python and zlib raise on damaged bytes into a FormatError at ``place``; ours pass unchanged."""
    try:
        yield
    except RnncoreError:
        raise
    except FileNotFoundError as error:
        raise MissingFileError(f"{place}: {error.strerror or error}", place) from None
    except OSError as error:
        raise FormatError(f"{place}: {error.strerror or error}") from None
    except MemoryError:
        raise FormatError(f"{place}: asks for more memory than there is") from None
    except RecursionError:
        raise FormatError(f"{place}: nested too deeply") from None
    except (ValueError, OverflowError, EOFError, struct.error, zlib.error) as error:
        raise FormatError(f"{place}: damaged: {shown(str(error))}") from None


def shown(text: str, most: int = 120) -> str:
    """Text from a file as a message may show it: one line, printable, not long."""
    short = text if len(text) <= most else text[:most] + "..."
    return short if short.isprintable() else repr(short)[1:-1]
