"""Bodies with Content-Encoding: gzip, unpacked in steps, so that what they become is counted before there is more."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from rnncore.serve.service_errors import ServiceError

__all__ = ["Gunzip"]

STEP = 256 << 10  # bytes that are unpacked at a time
MOST_MEMBERS = 4096  # of one body, by RFC 1952 one after the other
GZIP_WINDOW = 31  # what zlib calls a gzip member with a window of any size


class Gunzip:
    """Unpacks what it is fed. ServiceError where it is not gzip, has too many members or ends too early."""

    def __init__(self):
        self._member = None
        self._members = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bytes that these become, at most 256 KiB at a time; the caller may stop at any piece."""
        while data:
            if self._member is None:
                self._members += 1
                if self._members > MOST_MEMBERS:
                    raise ServiceError(400, f"the body has more than {MOST_MEMBERS} gzip members")
                self._member = zlib.decompressobj(GZIP_WINDOW)
            try:
                piece = self._member.decompress(data, STEP)
            except zlib.error as error:
                raise ServiceError(400, f"the body is not gzip: {error}") from None
            yield piece
            if self._member.eof:
                data, self._member = self._member.unused_data, None
            else:
                data = self._member.unconsumed_tail

    def end(self) -> None:
        """Nothing more comes."""
        if self._member is not None:
            raise ServiceError(400, "the body ends inside of its gzip data")
