"""Sources of data: files, folders, globs, or standard input; and how they are cut into shards."""

from __future__ import annotations

import glob
import os
import stat
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rnncore.batch.changes import InputChanged, Stamp, settle
from rnncore.batch.plan import RowPlan
from rnncore.batch.readers import READERS, FileRows, Reader, ReadOptions
from rnncore.batch.rows import Place, RowBlock, joined
from rnncore.batch.runner import Runner, row_bytes
from rnncore.errors import InputError, RnncoreError
from rnncore.runtime.model import Model

__all__ = ["Source", "merged", "read_inputs", "shards"]

STDIN = "-"
FORWARD = frozenset({"jsonl", "csv"})  # what can be read from a pipe; the rest is copied to a temporary file first


class Source:
    """The files of ``-i``: rows of all of them, one file after the other in the order of their names.

    given   a file, a folder, a pattern with * or ?, or "-" for standard input
    format  one of READERS; None: what the files' names end in

    Raises InputError; InputChanged where a file is not what it was when this was made.
    """

    def __init__(self, given: str, format: str | None, options: ReadOptions):
        self.given = given
        self.options = options
        self.files = _files(given, format)
        self.format = format or _format(self.files)
        self.is_stream = given == STDIN
        self._asked = format
        self._stamps = [self._stamp(path) for path in self.files]
        settle(stamp for stamp in self._stamps if stamp is not None)
        self._now = 0
        self._reader: Reader | None = None
        self._first: Reader | None = self._open(0)
        self.types = dict(self._first.types)
        self.shared = self._first.shared
        self.one_sequence = len(self.files) == 1 and _is_one(self._first)
        if len(self.files) > 1 and _is_one(self._first):
            self.types["file"] = None

    def rows(self, place: Place = (0, 0), first: int = 0) -> Generator[RowBlock, None, None]:
        """The rows from a place on; ``first`` is the number of the row there.

        What is given is certain to be of the files as they were: each part is followed by a look at the stamp.
        """
        for number in range(place[0], len(self.files)):
            self._now = number
            name = self.files[number]
            if number == 0 and self._first is not None:
                reader, self._first = self._first, None
            else:
                reader = self._open(number)
            self._reader = reader
            try:
                skip = place[1] if number == place[0] else 0
                parts = reader.parts(skip)
                while True:
                    with self._reading(number):
                        part = next(parts, None)
                    if part is None:
                        break
                    rows = _numbered(part, number, name, first)
                    if "file" in self.types and _is_one(reader):
                        rows.kept = {"file": [_label(name)] * len(rows.index)}
                    yield rows
                    first += part.count
            finally:
                reader.close()

    def would_read(self, path: Path) -> bool:
        """Whether a file of that name would be one of the data, if it were there."""
        place = path.absolute()
        folder = Path(self.given).absolute()
        if self.is_stream or str(path) in self.files:
            return not self.is_stream
        if folder.is_dir():
            return place.is_relative_to(folder) and _is_data(place, folder, self._asked)
        return not folder.exists() and glob.has_magic(self.given) and place.match(str(folder))

    def check(self) -> None:
        """InputChanged where a file has changed, has gone, or has come."""
        for number in range(len(self.files)):
            self._check(number)
        if self.is_stream:
            return
        try:
            now = _files(self.given, self._asked)
        except InputError:  # none is left
            now = []
        for path in sorted({*now} ^ {*self.files}):
            raise InputChanged(
                f"{path}: {'is new' if path in now else 'is not there any more'}, "
                f"expected the files that {self.given} had when the run began"
            )

    def share(self) -> float:
        """About how much has been read, from 0 to 1; 0 where that is unknown."""
        sizes = [0 if stamp is None else stamp.bytes for stamp in self._stamps]
        total = sum(sizes)
        if not total or self.is_stream:
            return 0.0
        here = self._reader.share() if self._reader is not None else 0.0
        return min((sum(sizes[: self._now]) + here * sizes[self._now]) / total, 1.0)

    def fingerprint(self) -> list[dict[str, Any]]:
        """The files and their stamps, as a manifest has them."""
        return [
            {"file": _text(path), **stamp.to_json()}
            for path, stamp in zip(self.files, self._stamps, strict=True)
            if not self.is_stream and stamp is not None
        ]

    def _stamp(self, path: str) -> Stamp | None:
        """None for a pipe, which has none."""
        if self.is_stream:
            status = os.fstat(sys.stdin.fileno())
            return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None
        return Stamp.of(os.stat(path))

    def _check(self, number: int) -> None:
        stamp, path = self._stamps[number], self.files[number]
        if stamp is None:
            return
        try:
            now = os.fstat(sys.stdin.fileno()) if self.is_stream else os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise InputChanged(f"{path}: is not there any more, expected it as when the run began") from None
        stamp.check(_shown(path), now)

    @contextmanager
    def _reading(self, number: int) -> Iterator[None]:
        """Read a file as it was; errors name the file, and a change before what came of it."""
        try:
            with _naming(self.files[number]):
                yield
        except Exception:
            self._check(number)
            raise
        self._check(number)

    def _open(self, number: int) -> Reader:
        path, stamp = self.files[number], self._stamps[number]
        with self._reading(number):
            file = _stdin(self.format) if self.is_stream else _regular(path)
            try:
                if stamp is not None and not self.is_stream:
                    stamp.check(path, os.fstat(file.fileno()))
                reader: Reader = READERS[self.format](path, file, self.options)
            except BaseException:
                file.close()
                raise
            if number and not _same_arrays(reader.shared, self.shared):
                reader.close()
                raise InputError(
                    f"{', '.join(sorted({*reader.shared, *self.shared}))}: shared by all rows, "
                    f"expected the numbers that {self.files[0]} has"
                )
        return reader


def shards(rows: Iterator[RowBlock], plan: RowPlan, most_rows: int, most_bytes: int) -> Iterator[list[RowBlock]]:
    """Rows cut where a shard is full: by their number, or by about what they and their outputs need in memory.

    The cuts depend on the rows alone, not on how they were read. A model that mixes rows gets one shard. There is
    always at least one, if only of no rows.
    """
    pending: list[RowBlock] = []
    used, any_yet = 0, False
    for part in rows:
        rest: RowBlock | None = part
        while rest is not None:
            cut = None
            if plan.independent:
                start = pending[0].first if pending else rest.first
                costs = np.cumsum(row_bytes(plan, rest.columns)) + used
                over = int(np.searchsorted(costs, most_bytes))
                if over < len(rest.index):
                    cut = int(rest.index[over]) + 1
                if start + most_rows <= rest.stop:
                    cut = min(start + most_rows, cut or rest.stop)
                used = int(costs[-1]) if len(costs) else used
            if cut is None:
                pending.append(rest)
                rest = None
            else:
                head, rest = rest.split(cut)
                yield [*pending, head]
                any_yet, pending, used = True, [], 0
                rest = rest if rest.first < rest.stop else None
    if pending or not any_yet:
        yield pending


def merged(parts: list[RowBlock]) -> tuple[np.ndarray, dict[str, Any], dict[str, list]]:
    """(index, columns, kept) of consecutive rows."""
    names, kept = set(parts[0].columns), set(parts[0].kept)
    for part in parts[1:]:
        if set(part.columns) != names or set(part.kept) != kept:
            has = ", ".join(sorted({*part.columns, *part.kept}))
            raise InputError(f"{part.file}: has {has}, expected {', '.join(sorted(names | kept))} as before")
    return (
        np.concatenate([part.index for part in parts]),
        {name: joined([part.columns[name] for part in parts]) for name in parts[0].columns},
        {name: [value for part in parts for value in part.kept[name]] for name in parts[0].kept},
    )


def read_inputs(path: str, model: Model) -> dict[str, np.ndarray]:
    """All rows of a file as the inputs of one call. Raises InputError and FormatError, naming the file."""
    plan = RowPlan.of(model.spec, model.dtype)
    source = Source(path, None, ReadOptions(plan))
    parts = list(source.rows())
    bad = [entry for part in parts for entry in part.bad]
    if bad:
        raise InputError(f"{bad[0].file}: row {bad[0].place}: {bad[0].reason}")
    _, columns, _ = merged(parts)
    runner = Runner(model, plan, 1)
    with _naming(path):
        return runner.together(columns, source.shared, runner.check(columns, source.shared))


class _naming:
    """Puts a file's name before the message of an error of rnncore, or of the system, raised inside."""

    def __init__(self, path: str):
        self.path = _shown(path)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, RnncoreError) and not str(error).startswith(self.path):
            raise type(error)(f"{self.path}: {error}") from None
        if isinstance(error, OSError) and error.filename is None:
            error.filename = self.path


def _shown(path: str) -> str:
    return "standard input" if path == STDIN else path


def _same_arrays(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(array, other[name], equal_nan=array.dtype.kind == "f") for name, array in one.items()
    )


def _text(path: str) -> str:
    """A file's name as text: bytes that are no UTF-8 are written as \\xff."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _label(path: str) -> str:
    """A file's name as a column of the results has it. InputError where it is no text."""
    stem = Path(path).stem
    if _text(stem) != stem:
        raise InputError(f"{_text(path)}: its name is no UTF-8, expected one that tells its row apart in the results")
    return stem


def _numbered(part: FileRows, number: int, name: str, first: int) -> RowBlock:
    rows = RowBlock(
        first, first + part.count, (number, part.start), _text(name), part.good + first, part.columns, part.kept
    )
    rows.bad = [rows.describe(first + i, reason) for i, reason in sorted(part.bad.items())]
    return rows


def _is_one(reader: Reader) -> bool:
    return getattr(reader, "one_sequence", False)


def _files(given: str, format: str | None) -> list[str]:
    if given == STDIN:
        if format is None:
            raise InputError(f"standard input: expected --from with one of {', '.join(READERS)}")
        return [STDIN]
    path = Path(given)
    if path.is_dir():
        files = sorted(str(entry) for entry in path.rglob("*") if entry.is_file() and _is_data(entry, path, format))
    elif not path.exists() and glob.has_magic(given):
        files = sorted(entry for entry in glob.glob(given, recursive=True) if os.path.isfile(entry))
    else:
        return [given]
    if not files:
        raise InputError(f"{given}: no files, expected some that end in {', '.join('.' + name for name in READERS)}")
    return files


def _is_data(entry: Path, folder: Path, format: str | None) -> bool:
    hidden = any(part.startswith((".", "_")) for part in entry.relative_to(folder).parts)
    return not hidden and (format is not None or entry.suffix.lower()[1:] in READERS)


def _format(files: list[str]) -> str:
    kinds = sorted({Path(path).suffix.lower() for path in files})
    if len(kinds) > 1:
        raise InputError(f"{files[0]} and {files[-1]}: files of several kinds ({', '.join(kinds)}), expected one")
    if kinds[0][1:] not in READERS:
        raise InputError(f"{files[0]}: expected a name that ends in {', '.join('.' + name for name in READERS)}")
    return kinds[0][1:]


def _regular(path: str) -> BinaryIO:
    if stat.S_ISFIFO(os.stat(path).st_mode):  # opening one waits for a writer
        raise InputError(f"{path}: no regular file")
    file = open(path, "rb")  # noqa: SIM115 - the reader closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"{path}: no regular file")
    return file


def _stdin(format: str) -> BinaryIO:
    # A reader of its own: a thread that waits in Python's would keep the interpreter from ending.
    piped = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    if format in FORWARD:
        return piped
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the reader closes it
    with piped:
        while piece := piped.read(1 << 20):
            copy.write(piece)
    copy.seek(0)
    return copy
