"""Writing files so that a crash at any moment leaves the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["flush_directory", "replacing", "write"]


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` when the block ends, and vanishes if the block raises.

    Written in the same directory, flushed to disk, renamed; then the directory is flushed too.
    """
    import tempfile  # a third of what importing this package would read

    target = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, _mode(target))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    flush_directory(target.parent)


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` in the place of ``path``, whole or not at all."""
    with replacing(path) as file:
        file.write(data)


def _mode(target: Path) -> int:
    """The replaced file's permissions, or what a new file gets here (mkstemp's are private to the owner)."""
    try:
        return target.stat().st_mode & 0o7777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def flush_directory(directory: Path) -> None:
    """Makes names that were made or changed in a directory outlive a crash."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
