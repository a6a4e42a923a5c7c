"""The manifest of a run: a line for each finished shard, appended when the shard is safe on disk.

    _manifest.jsonl   first line: what the run is; then a line for each shard; last: that it is done
    .lock             held while a run writes here
    part-00000.*      the shards

A crash may leave half a line at the end: it is cut off, and its shard is made again. Nothing in a manifest depends on
when or how often a run was stopped, so the finished folder is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rnncore import atomic
from rnncore.errors import InputError

try:
    import fcntl
except ImportError:  # no lock where there is none
    fcntl = None

__all__ = ["ERRORS", "MANIFEST", "Journal"]

MANIFEST = "_manifest.jsonl"
ERRORS = "_errors.jsonl"
LOCK = ".lock"


class Journal:
    """The folder of a run, locked while this is open.

    folder  made if it is not there
    suffix  of the shards' names

    notes   what was noted of each finished shard
    done    what was noted when the run was finished, or None
    """

    def __init__(self, folder: Path, suffix: str):
        self.folder, self.suffix = folder, suffix
        self.notes: list[dict[str, Any]] = []
        self.done: dict[str, Any] | None = None
        self._file: Any = None
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            atomic.flush_directory(folder.parent)
        self._lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InputError(f"{folder}: another run is writing here") from None

    @staticmethod
    def is_there(folder: Path) -> bool:
        return (folder / MANIFEST).exists()

    def start(self, job: Mapping[str, Any]) -> None:
        """A new manifest; what an earlier run left behind is removed."""
        for path in self.folder.iterdir():
            if path.name in (MANIFEST, ERRORS) or path.name.startswith(
                ("part-", ".part-", f".{MANIFEST}", f".{ERRORS}")
            ):
                path.unlink()
        atomic.write(self.folder / MANIFEST, _line({"job": job}))
        self._open()

    def resume(self, job: Mapping[str, Any]) -> None:
        """Goes on with a manifest. InputError if it is of another run: other data, model or options."""
        for path in self.folder.iterdir():
            if path.name.startswith(".") and path.name.endswith(".part"):
                path.unlink()  # a temporary file of a run that was killed
        path = self.folder / MANIFEST
        data = path.read_bytes()
        keep, entries = 0, []
        for line in data.splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except ValueError:
                break
            if not line.endswith(b"\n") or not isinstance(entry, dict):
                break
            entries.append((keep + len(line), entry))
            keep += len(line)
        if not entries or "job" not in entries[0][1]:
            raise InputError(f"{path}: no manifest of a run, expected one, or --overwrite")
        _check_same(path, entries[0][1]["job"], json.loads(_line(job)))
        keep = entries[0][0]
        for end, entry in entries[1:]:
            if "done" in entry:
                self.done = entry["done"]
            elif self._is_whole(entry):
                self.notes.append(entry)
            else:
                break
            keep = end
        self._open()
        os.ftruncate(self._file.fileno(), keep)
        os.fsync(self._file.fileno())

    def _is_whole(self, note: Mapping[str, Any]) -> bool:
        """Whether a shard is there, with the bytes that were noted."""
        if note.get("shard") != len(self.notes):
            return False
        try:
            with open(self.part(len(self.notes)), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == note["sha256"]
        except FileNotFoundError:
            return False

    def part(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.{self.suffix}"

    def add(self, data: bytes, note: Mapping[str, Any]) -> None:
        """A shard's file, and only then its line."""
        number = len(self.notes)
        path = self.part(number)
        atomic.write(path, data)
        noted = {"shard": number, "file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        noted.update(note)
        self._append(noted)
        self.notes.append(noted)

    def finish(self) -> None:
        """Notes that there are no more shards."""
        self.done = {
            "shards": len(self.notes),
            "rows": sum(note["rows"] for note in self.notes),
            "bad": sum(len(note["bad"]) for note in self.notes),
        }
        self._append({"done": self.done})

    def _append(self, entry: Mapping[str, Any]) -> None:
        """A line that is on disk when this returns, or not there at all."""
        end = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(_line(entry))
            os.fsync(self._file.fileno())
        except OSError:
            os.ftruncate(self._file.fileno(), end)
            raise

    def _open(self) -> None:
        handle = os.open(self.folder / MANIFEST, os.O_WRONLY | os.O_APPEND)
        self._file = os.fdopen(handle, "ab", buffering=0)

    def remove(self) -> None:
        """Removes the folder: shards first, then the manifest, so that what is left can always be resumed."""
        for note in reversed(self.notes):
            (self.folder / note["file"]).unlink(missing_ok=True)
        for name in (ERRORS, MANIFEST, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        os.close(self._lock)


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _check_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            raise InputError(
                f"{path}: is of a run with another {key} ({_short(found.get(key))}, now {_short(expected.get(key))}): "
                "expected the same, or --overwrite"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
