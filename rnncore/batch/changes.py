"""Whether data still are what they were: a file by its stamp, without reading it; rows by a hash of their content.

While a run reads, a file must keep its stamp: its size, the times of the last change of its content and of its inode,
and the inode. (The second time cannot be set, so a change whose time was put back is noticed too.) Rows that are done
have their content hashed: a resumed run whose files have other stamps reads them once more and compares, so a file
that was put back as it was goes on and another one does not.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.batch.rows import Bad, Column, Ragged, ranks, shapes, sizes
from rnncore.errors import InputError

__all__ = ["InputChanged", "Stamp", "content", "settle"]

TICK_SECONDS = 0.05  # longer than the clock of a file system stays the same between two changes
COARSE_SECONDS = 2.0  # where times are whole seconds


class InputChanged(InputError):
    """A file is not what it was when the run began: nothing was written of what changed."""


@dataclass(frozen=True)
class Stamp:
    """A file's state: ``modified`` is the time of its content, ``changed`` of its inode, in nanoseconds."""

    bytes: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)

    def to_json(self) -> dict[str, int]:
        return {"bytes": self.bytes, "modified": self.modified, "changed": self.changed, "inode": self.inode}

    def check(self, path: str, now: os.stat_result) -> None:
        """InputChanged, naming the file, where it has another stamp by now."""
        stamp = Stamp.of(now)
        if stamp == self:
            return
        if stamp.bytes != self.bytes:
            what = f"{stamp.bytes:,} bytes, expected {self.bytes:,}"
        elif stamp.inode != self.inode:
            what = "another file in its place, expected the one"
        elif stamp.modified != self.modified:
            what = f"modified at {_written(stamp.modified)}, expected {_written(self.modified)}"
        else:
            what = f"its inode changed at {_written(stamp.changed)}, expected {_written(self.changed)}"
        raise InputChanged(f"{path}: {what}, as when the run began")


def settle(stamps: Iterable[Stamp]) -> None:
    """Waits until a change from here on gives another stamp: the clock of a file system has ticks."""
    now = time.time_ns()
    waits = [0.0]
    for stamp in stamps:
        for moment in (stamp.modified, stamp.changed):
            tick = TICK_SECONDS if moment % 1_000_000_000 else COARSE_SECONDS
            age = (now - moment) / 1e9
            if 0 <= age < tick:
                waits.append(tick - age)
    time.sleep(max(waits))


def content(index: np.ndarray, columns: Mapping[str, Column], kept: Mapping[str, list], bad: Iterable[Bad]) -> str:
    """A hash of rows, 32 hexadecimal digits: of what they are, however they were read."""
    digest = hashlib.blake2b(digest_size=16)
    _add(digest, np.ascontiguousarray(index, "<i8"))
    for name in sorted(columns):
        _add_text(digest, name)
        _add_column(digest, columns[name])
    _add_text(digest, {name: kept[name] for name in sorted(kept)})
    _add_text(digest, [[entry.row, entry.reason] for entry in bad])
    return digest.hexdigest()


def _add_column(digest: Any, column: Column) -> None:
    if not len(column):
        return
    dtypes = [row.dtype.str for row in column] if isinstance(column, list) else [column.dtype.str]
    alike = len({*dtypes}) == 1
    _add_text(digest, dtypes[:1] if alike else dtypes)
    rank = ranks(column)
    _add(digest, np.ascontiguousarray(rank, "<i8"))
    if (rank == rank[0]).all():
        numbers = sizes(column, range(len(column)), int(rank[0]))
    else:
        numbers = np.array([*itertools.chain.from_iterable(shapes(column))])
    _add(digest, np.ascontiguousarray(numbers, "<i8"))
    if isinstance(column, np.ndarray):
        _add(digest, column)
    elif isinstance(column, Ragged):
        _add(digest, column.packed())
    elif alike:
        _add(digest, np.concatenate([row.reshape(-1) for row in column]))
    else:
        for row in column:
            _add(digest, row)


def _add(digest: Any, array: np.ndarray) -> None:
    digest.update(array.size.to_bytes(8, "little"))
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _add_text(digest: Any, value: Any) -> None:
    data = json.dumps(value, default=str).encode()
    digest.update(len(data).to_bytes(8, "little") + data)


def _written(moment: int) -> str:
    seconds, rest = divmod(moment, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}.{rest:09d}"
