"""Weights in files next to a model (ONNX's external data, sharded files), opened only beneath its own directory.

The location is walked part by part with openat and O_NOFOLLOW, so no symbolic link leads outside; the file must be a
regular one with one hard link, and the range asked for inside it. What was opened is what is checked and read: it is
never mapped, and a file that changes afterwards does not matter.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping

from rnncore.errors import FormatError

__all__ = ["ExternalData"]

KEYS = ("location", "offset", "length", "checksum")
MAX_PARTS = 16
MOST_AT_ONCE = 1 << 30
TAKEN_AT_LEAST = 64 << 20  # bytes that the tensors of any model may have in external data
TAKEN_RATIO = 2  # and times the size of the files that they are in


class ExternalData:
    """The directory of one model, from which ranges of bytes are read; each once, however many tensors name it.

    None: a model in memory, which has none.
    """

    def __init__(self, model_path: str | None):
        self.directory = None if model_path is None else os.path.dirname(os.path.abspath(model_path))
        self._read: dict[tuple[str, int, int], bytes] = {}
        self._sizes: dict[str, int] = {}  # of the files opened so far, _there in all
        self._there = self._taken = 0

    def read(self, entries: Mapping[str, str], expected: int, place: str) -> bytes:
        """The bytes that a tensor's external_data names; ``expected`` of them. FormatError for anything else."""
        unknown = sorted(set(entries) - set(KEYS))
        if unknown or "location" not in entries:
            raise FormatError(f"{place}: external data with {', '.join(entries) or 'nothing'}, expected location, "
                              "offset and length")  # fmt: skip
        location = entries["location"]
        offset = _number(entries.get("offset", "0"), "offset", place)
        length = _number(entries.get("length", str(expected)), "length", place)
        if length != expected:
            raise FormatError(f"{place}: {length} bytes of external data, expected {expected} for its shape and type")
        key = (location, offset, length)
        if key in self._read:
            return self._read[key]
        with self.open(location, place) as file:
            size = os.fstat(file).st_size
            self._there += size - self._sizes.get(location, 0)
            self._sizes[location] = size
            self._taken += length
            if self._taken > max(TAKEN_AT_LEAST, TAKEN_RATIO * self._there):
                raise FormatError(f"{place}: {self._taken} bytes of external data, of files of {self._there} bytes: "
                                  "parts of them are named again and again")  # fmt: skip
            if offset + length > size:
                raise FormatError(f"{place}: bytes {offset} to {offset + length} of {location!r}, but there are {size}")
            parts, at = [], 0
            while at < length:
                parts.append(os.pread(file, min(length - at, MOST_AT_ONCE), offset + at))
                at += len(parts[-1])
                if not parts[-1]:
                    raise FormatError(f"{place}: {location!r} became shorter while it was read")
        self._read[key] = b"".join(parts)  # of one part: that part itself
        return self._read[key]

    @contextlib.contextmanager
    def open(self, location: str, place: str) -> Iterator[int]:
        """A descriptor of the file at a relative path below the directory."""
        if self.directory is None:
            raise FormatError(f"{place}: external data at {location[:120]!r} of a model in memory, expected a file, "
                              "which has a directory")  # fmt: skip
        parts = location.replace("\\", "/").split("/")
        plain = all(part not in ("", ".", "..") and "\0" not in part for part in parts)
        if not plain or len(parts) > MAX_PARTS or ":" in parts[0]:
            raise FormatError(f"{place}: external data at {location[:120]!r}, expected a name beneath the model's "
                              "directory")  # fmt: skip
        with contextlib.ExitStack() as stack:
            try:
                at = self._descriptor(stack, self.directory, os.O_RDONLY | os.O_DIRECTORY)
                for part in parts[:-1]:
                    at = self._descriptor(stack, part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, at)
                file = self._descriptor(stack, parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, at)
            except OSError as error:
                raise FormatError(f"{place}: external data {location[:120]!r}: {error.strerror}, expected a regular "
                                  "file beneath the model's directory, without symbolic links") from None  # fmt: skip
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                what = "a file of several hard links" if stat.S_ISREG(status.st_mode) else "no regular file"
                raise FormatError(f"{place}: external data {location[:120]!r} is {what}, expected a regular file of "
                                  "its own")  # fmt: skip
            yield file

    @staticmethod
    def _descriptor(stack: contextlib.ExitStack, name: str, flags: int, beneath: int | None = None) -> int:
        descriptor = os.open(name, flags | os.O_CLOEXEC, dir_fd=beneath)
        stack.callback(os.close, descriptor)
        return descriptor


def _number(text: str, what: str, place: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise FormatError(f"{place}: external data with {what} {text[:40]!r}, expected a number of bytes")
    return int(text)
