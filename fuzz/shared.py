"""What a worker and whoever watches it have in common: a file in memory with the input at work and the counts."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

__all__ = ["DEADLY", "Shared"]

DEADLY = "deadly.txt"  # in the folder of what is found: digests of the inputs that ended a worker

ROOM = 1 << 22
HEAD = struct.Struct("<QQQdII")  # executions, refused, faults, slowest, length of the input, whether all is done


class Shared:
    """Counts and the input at work, written by the worker before each execution."""

    def __init__(self, path: Path, create: bool = False):
        if create:
            path.write_bytes(bytes(HEAD.size + ROOM))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def begin(self, data: bytes, executions: int, refused: int, faults: int, slowest: float) -> None:
        kept = data[:ROOM]
        self._map[HEAD.size : HEAD.size + len(kept)] = kept
        HEAD.pack_into(self._map, 0, executions, refused, faults, slowest, len(kept), 0)

    def finish(self) -> None:
        """The worker ends as it should, whatever its exit code will be."""
        HEAD.pack_into(self._map, 0, *self.counts, 0, 1)

    @property
    def finished(self) -> bool:
        return bool(HEAD.unpack_from(self._map)[5])

    @property
    def counts(self) -> tuple[int, int, int, float]:
        """Executions, refused, faults, slowest: of the worker that writes here now."""
        return HEAD.unpack_from(self._map)[:4]

    @property
    def input(self) -> bytes:
        size = HEAD.unpack_from(self._map)[4]
        return self._map[HEAD.size : HEAD.size + size]
