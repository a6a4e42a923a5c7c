"""The manifest of a run: a line for each finished shard, appended when the shard is safe on disk.

    _manifest.jsonl   first line: what the run is; then a line for each shard; last: that it is done
    .lock             held while a run writes here
    part-00000.*      the shards

Each line ends in a checksum of itself and of the line before, so one that was edited, moved or taken out is refused.
A crash may leave half a line at the end: it is cut off, and its shard is made again. Nothing in a manifest depends on
when or how often a run was stopped, so the finished folder is the same, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rnncore.errors import InputError
from rnncore.files import atomic
from rnncore.files.strict_json import read_json

try:
    import fcntl
except ImportError:  # no lock without it
    fcntl = None  # type: ignore[assignment]  # stands for a module

__all__ = ["ERRORS", "MANIFEST", "Journal"]

MANIFEST = "_manifest.jsonl"
ERRORS = "_errors.jsonl"
LOCK = ".lock"
CHECK = b',"check":"'
DIGITS = 32  # of a checksum
MOST_DEEP = 16
MOST_SIZE = 1 << 63
STAMP = ("bytes", "modified", "changed", "inode")
OR_OVERWRITE = ": expected it as the run left it, or --overwrite"


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
        self._last = ""  # the checksum of the last line
        self._lock = _locked(folder)

    @staticmethod
    def is_there(folder: Path) -> bool:
        return (folder / MANIFEST).exists()

    def start(self, job: Mapping[str, Any]) -> None:
        """A new manifest; what an earlier run left is removed, its manifest last."""
        self.notes, self.done = [], None
        names = [path.name for path in self.folder.iterdir()]
        left = ("part-", ".part-", f".{MANIFEST}", f".{ERRORS}")
        for name in names:
            if name == ERRORS or name.startswith(left):
                (self.folder / name).unlink()
        self._rewrite(job)

    def resume(self, job: Mapping[str, Any]) -> list[int]:
        """Goes on with a manifest. InputError if it is of another run: other data, model or options.

        Returns the numbers of the files whose stamps are other ones by now. Whether their rows are, the caller has to
        find out, and then to note the new stamps by ``renew``.
        """
        for path in self.folder.iterdir():
            if path.name.startswith(".") and path.name.endswith(".part"):
                path.unlink()  # a temporary file of a run that was killed
        path = self.folder / MANIFEST
        entries = list(_entries(path, path.read_bytes()))
        if not entries or not isinstance(entries[0], dict) or entries[0].keys() != {"job"}:
            raise InputError(f"{path}: line 1: not what a run is, expected the manifest of a run, or --overwrite")
        moved = _check_same(path, entries[0]["job"], json.loads(_body(job)))
        self.notes, self.done = [], None
        notes, done = _shards(path, entries[1:], self, job)
        for note in notes:
            if not self._is_whole(note):
                break
            self.notes.append(note)
        else:
            self.done = done
        self._rewrite(entries[0]["job"])
        return moved

    def renew(self, job: Mapping[str, Any]) -> None:
        """Puts what the run is by now into the first line."""
        self._rewrite(job)

    def _rewrite(self, job: Mapping[str, Any]) -> None:
        """The manifest anew, whole or not at all: with what is known, and nothing of what a crash left."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
        entries = [{"job": job}, *self.notes, *([] if self.done is None else [{"done": self.done}])]
        last, lines = "", []
        for entry in entries:
            line, last = _line(entry, last)
            lines.append(line)
        atomic.write(self.folder / MANIFEST, b"".join(lines))
        handle = os.open(self.folder / MANIFEST, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
        self._file, self._last = os.fdopen(handle, "ab", buffering=0), last

    def _is_whole(self, note: Mapping[str, Any]) -> bool:
        """Whether a shard is there, with the bytes that were noted."""
        try:
            with open(self.folder / note["file"], "rb") as file:
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
        done = _sums(self.notes)
        self._append({"done": done})
        self.done = done

    def _append(self, entry: Mapping[str, Any]) -> None:
        """A line that is on disk when this returns; where it raises, a part of it may be, which resuming cuts off."""
        line, last = _line(entry, self._last)
        if self._file.write(line) != len(line):  # a disk that is full takes a part
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / MANIFEST))
        os.fsync(self._file.fileno())
        self._last = last

    def remove(self) -> None:
        """Removes the folder: shards first, then the manifest, so that what is left can always be resumed."""
        for number in reversed(range(len(self.notes))):
            self.part(number).unlink(missing_ok=True)
        for name in (ERRORS, MANIFEST, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # all of it is on disk already
                self._file.close()
        os.close(self._lock)


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder's lock. InputError where another run has it."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            atomic.flush_directory(folder.parent)
        try:
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
        except FileNotFoundError:
            if folder.is_dir():
                raise
            continue  # a run that ended has just removed it
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(folder / LOCK)):
                return lock
        except FileNotFoundError:
            pass  # a run that ended has removed the file that is locked here
        except OSError as error:
            os.close(lock)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise InputError(f"{folder}: another run is writing here") from None
        os.close(lock)


def _body(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode()


def _line(entry: Mapping[str, Any], before: str) -> tuple[bytes, str]:
    """A line and its checksum, which covers that of the line before."""
    body = _body(entry)
    check = _checksum(body, before)
    return body[:-1] + CHECK + check.encode() + b'"}\n', check


def _checksum(body: bytes, before: str) -> str:
    return hashlib.blake2b(before.encode() + body, digest_size=DIGITS // 2).hexdigest()


def _entries(path: Path, data: bytes) -> Iterator[dict[str, Any]]:
    """The content of the lines of a manifest. InputError for lines that no run has written.

    The last one is left out where a crash can have left it: without an end, or with zeros in the place of blocks that
    never reached the disk.
    """
    before = ""
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        place = f"{path}: line {number}"
        if number == len(lines) > 1 and (not line.endswith(b"\n") or b"\0" in line):
            return
        body, separator, check = line.rpartition(CHECK)
        if not separator or len(check) != DIGITS + 3 or not check.endswith(b'"}\n'):
            raise InputError(f"{place}: no checksum{OR_OVERWRITE}")
        body += b"}"
        if check[:DIGITS] != _checksum(body, before).encode():
            raise InputError(f"{place}: its checksum is {check[:DIGITS]!r}, but not that of the line{OR_OVERWRITE}")
        before = check[:DIGITS].decode()
        try:
            entry = read_json(body, place, InputError, deepest=MOST_DEEP)
        except InputError as error:
            raise InputError(f"{error}{OR_OVERWRITE}") from None
        yield entry


def _shards(
    path: Path, entries: Sequence[Any], journal: Journal, job: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The notes of the shards, and of the end. InputError for one that no run can have made."""
    notes: list[dict[str, Any]] = []
    done = None
    files = len(job["source"])
    for number, entry in enumerate(entries, 2):
        place = f"{path}: line {number}"
        if done is not None:
            raise InputError(f"{place}: after the end of the run{OR_OVERWRITE}")
        if isinstance(entry, dict) and entry.keys() == {"done"}:
            done = entry["done"]
            _check(place, "done", done, _sums(notes))
            continue
        _check_note(place, entry, len(notes), notes[-1] if notes else None, files, journal)
        notes.append(entry)
    return notes, done


def _check_note(
    place: str, note: Any, number: int, last: Mapping[str, Any] | None, files: int, journal: Journal
) -> None:
    """InputError where the note of a shard is none, or does not follow on the last one."""
    names = ("shard", "file", "sha256", "bytes", "first", "stop", "rows", "content", "next", "shapes", "bad")
    if not isinstance(note, dict) or note.keys() != {*names}:
        raise InputError(f"{place}: {_short(note)}, expected the note of a shard: {', '.join(names)}{OR_OVERWRITE}")
    first = 0 if last is None else last["stop"]
    for name, expected in (("shard", number), ("file", journal.part(number).name), ("first", first)):
        _check(place, name, note[name], expected)
    for name, digits in (("sha256", 64), ("content", 32)):
        value = note[name]
        if not isinstance(value, str) or len(value) != digits or value.strip("0123456789abcdef"):
            raise InputError(f"{place}: {name}={_short(value)}, expected {digits} hexadecimal digits{OR_OVERWRITE}")
    for name in ("bytes", "stop", "rows"):
        if not _is_size(note[name]):
            raise InputError(f"{place}: {name}={_short(note[name])}, expected an integer of at least 0{OR_OVERWRITE}")
    _check_next(place, note["next"], [0, 0] if last is None else last["next"], note["stop"] - first, files)
    _check_shapes(place, note["shapes"], None if last is None else last["shapes"])
    _check_bad(place, note["bad"], first, note["stop"])
    if first + note["rows"] + len(note["bad"]) != note["stop"]:
        raise InputError(
            f"{place}: {note['rows']} rows and {len(note['bad'])} bad ones from {first} to {note['stop']}, "
            f"expected {note['stop'] - first}{OR_OVERWRITE}"
        )


def _check_next(place: str, following: Any, begin: Sequence[int], rows: int, files: int) -> None:
    """The place after a shard of ``rows`` rows from ``begin`` on: [file, row]."""
    if not (
        isinstance(following, list)
        and len(following) == 2
        and all(map(_is_size, following))
        and begin[0] <= following[0] < max(files, 1)
        and (following[1] == begin[1] + rows if following[0] == begin[0] else following[1] <= rows)
    ):
        raise InputError(
            f"{place}: next={_short(following)}, expected [file, row], a file below {max(files, 1)}, "
            f"{rows} rows after {begin}{OR_OVERWRITE}"
        )


def _check_shapes(place: str, shapes: Any, before: Mapping[str, Any] | None) -> None:
    """Sizes for each output, the same outputs as in the line ``before``."""
    if not isinstance(shapes, dict) or not all(
        isinstance(shape, list) and all(map(_is_size, shape)) for shape in shapes.values()
    ):
        raise InputError(f"{place}: shapes={_short(shapes)}, expected a list of sizes for each output{OR_OVERWRITE}")
    if before is not None and {name: len(shape) for name, shape in shapes.items()} != {
        name: len(shape) for name, shape in before.items()
    }:
        raise InputError(f"{place}: shapes={_short(shapes)}, expected the outputs of the line before{OR_OVERWRITE}")


def _check_bad(place: str, bad: Any, first: int, stop: int) -> None:
    """The rows first..stop-1 that could not be run, in order."""
    at = first - 1
    for entry in bad if isinstance(bad, list) else [bad]:
        if (
            not isinstance(bad, list)
            or not isinstance(entry, dict)
            or entry.keys() != {"row", "file", "place", "reason"}
            or not all(_is_size(entry[name]) for name in ("row", "place"))
            or not all(isinstance(entry[name], str) for name in ("file", "reason"))
            or not at < entry["row"] < stop
        ):
            raise InputError(
                f"{place}: bad={_short(entry)}, expected row, file, place and reason, rows from {at + 1} "
                f"to {stop - 1}{OR_OVERWRITE}"
            )
        at = entry["row"]


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_SIZE


def _check(place: str, name: str, value: Any, expected: Any) -> None:
    if not _same(value, expected):
        raise InputError(f"{place}: {name}={_short(value)}, expected {_short(expected)}{OR_OVERWRITE}")


def _sums(notes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "shards": len(notes),
        "rows": sum(note["rows"] for note in notes),
        "bad": sum(len(note["bad"]) for note in notes),
    }


def _check_same(path: Path, job: Any, expected: Mapping[str, Any]) -> list[int]:
    """InputError where a run is another one. Returns the numbers of files whose stamps differ, but not in size."""
    if not isinstance(job, dict):
        raise InputError(f"{path}: line 1: job={_short(job)}, expected an object{OR_OVERWRITE}")
    for key in sorted({*job, *expected} - {"source"}):
        if not _same(job.get(key), expected.get(key)):
            raise InputError(
                f"{path}: is of a run with another {key} ({_short(job.get(key))}, now {_short(expected.get(key))}): "
                "expected the same, or --overwrite"
            )
    return _moved(path, job.get("source"), expected["source"])


def _moved(path: Path, source: Any, now: Sequence[Mapping[str, Any]]) -> list[int]:
    if not isinstance(source, list) or not all(
        isinstance(entry, dict)
        and entry.keys() == {"file", *STAMP}
        and isinstance(entry["file"], str)
        and all(type(entry[name]) is int and abs(entry[name]) < MOST_SIZE for name in STAMP)
        for entry in source
    ):
        raise InputError(
            f"{path}: line 1: source={_short(source)}, expected file, {', '.join(STAMP)} of each file{OR_OVERWRITE}"
        )
    before, files = [entry["file"] for entry in source], [entry["file"] for entry in now]
    if before != files:
        new = [name for name in files if name not in before]
        gone = [name for name in before if name not in files]
        what = "is new" if new else "is not there any more" if gone else "is at another place in the order"
        name = [*new, *gone, *files][0]
        raise InputError(
            f"{path}: is of a run with another source: {name} {what} ({len(before)} files, now {len(files)}): "
            "expected the same, or --overwrite"
        )
    for then, entry in zip(source, now, strict=True):
        if then["bytes"] != entry["bytes"]:
            raise InputError(
                f"{path}: is of a run with another source: {entry['file']} had {then['bytes']:,} bytes, now "
                f"{entry['bytes']:,}: expected the same, or --overwrite"
            )
    return [number for number, (then, entry) in enumerate(zip(source, now, strict=True)) if then != entry]


def _same(value: Any, expected: Any) -> bool:
    """Whether values are the same as JSON, where true is not 1."""
    return json.dumps(value, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
