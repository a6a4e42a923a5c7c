"""Files of lines, read forwards.

.jsonl  an object for each row: {"id": "a", "tokens": [1, 2, 3]}, {"mels": [[0.1, ...], ...]}
.csv    a line for each time step; a column says which sequence it belongs to, or the file is one sequence
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

import numpy as np

from rnncore.batch.readers.base import (
    CHUNK_BYTES,
    CHUNK_ROWS,
    FileRows,
    ReadOptions,
    bind_columns,
    kept_columns,
    only_input,
)
from rnncore.batch.rows import empty_row
from rnncore.errors import InputError
from rnncore.files.strict_json import read_json
from rnncore.graph.nodes import Input

__all__ = ["CsvReader", "JsonlReader"]

NUMBER = re.compile(
    r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf|infinity)\s*", re.IGNORECASE | re.ASCII
)
WHOLE = re.compile(r"\s*[+-]?\d{1,18}\s*", re.ASCII)
LONGEST_LINE = 256 << 20
MOST_DEEP = 64  # lists in a value that is kept
GATHERED_BYTES = 64 << 20  # files up to this size may have the lines of sequences mixed


class Lines:
    """The lines of a file and how much of it has been read."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._size = os.fstat(file.fileno()).st_size if file.seekable() else 0
        self._read = 0

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        while line := self._file.readline(LONGEST_LINE):
            number += 1
            if len(line) >= LONGEST_LINE:
                raise InputError(f"line {number}: longer than {LONGEST_LINE >> 20} MiB, expected a shorter row")
            self._read += len(line)
            yield line

    @property
    def is_small(self) -> bool:
        return 0 < self._size <= GATHERED_BYTES

    def share(self) -> float:
        return min(self._read / self._size, 1.0) if self._size else 0.0


class LinesReader:
    shared: ClassVar[dict[str, Any]] = {}
    types: ClassVar[dict[str, Any]] = {}
    rows = None

    def __init__(self, path: str, file: BinaryIO, options: ReadOptions):
        if options.lengths is not None:
            raise InputError("--lengths belongs to arrays (.npy, .npz), expected lengths in the rows themselves")
        self._file, self._request = file, options
        self._lines = Lines(file)

    def share(self) -> float:
        return self._lines.share()

    def close(self) -> None:
        self._file.close()


class JsonlReader(LinesReader):
    """Rows as JSON objects. What is wrong with a line is wrong with its row only."""

    def parts(self, skip: int) -> Iterator[FileRows]:
        self._bound: dict[str, str] | None = None
        pending: list[tuple[int, bytes]] = []
        size, row = 0, -1
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            row += 1
            if row < skip:
                if self._bound is None:
                    self._bind(_object(line, number))
                continue
            pending.append((number, line))
            size += len(line)
            if size >= CHUNK_BYTES or len(pending) >= CHUNK_ROWS:
                yield self._part(row + 1 - len(pending), pending)
                pending, size = [], 0
        if pending or row < 0:
            yield self._part(row + 1 - len(pending), pending)

    def _bind(self, first: dict[str, Any] | str) -> None:
        """The keys of the inputs, as the first row that is an object has them."""
        if isinstance(first, dict):
            lists = [name for name, value in first.items() if isinstance(value, list)]
            self._bound = bind_columns(self._request, list(first), lists)
            self._kept = kept_columns(self._request, list(first), self._bound)

    def _part(self, start: int, lines: list[tuple[int, bytes]]) -> FileRows:
        part = FileRows(start, len(lines), np.zeros(0, np.int64), {})
        good, rows, kept = [], [], []
        for position, (number, line) in enumerate(lines):
            record = _object(line, number)
            if self._bound is None:
                self._bind(record)
            if isinstance(record, str):
                part.bad[position] = record
                continue
            try:
                row = self._row(record)
                labels = [_label(name, record.get(name)) for name in self._kept]
            except InputError as error:
                part.bad[position] = f"line {number}: {error}"
                continue
            good.append(position)
            rows.append(row)
            kept.append(labels)
        part.good = np.array(good, np.int64)
        names = list(self._bound or {entry.name: "" for entry in self._request.plan.spec.inputs if not entry.optional})
        part.columns = {name: [row[name] for row in rows] for name in names}
        if self._bound is not None:
            part.kept = {name: [row[k] for row in kept] for k, name in enumerate(self._kept)}
        return part

    def _row(self, record: dict[str, Any]) -> dict[str, np.ndarray]:
        shapes = self._request.plan.shapes
        return {
            name: _array(column, record.get(column, ...), shapes[name]) for name, column in (self._bound or {}).items()
        }


def _object(line: bytes, number: int) -> dict[str, Any] | str:
    """The object in a line, or what is wrong with it."""
    place = f"line {number}"
    try:
        value = read_json(line.removeprefix(codecs.BOM_UTF8), place, InputError, constants=True)
    except InputError as error:
        return str(error)
    return value if isinstance(value, dict) else f"{place}: a JSON {type(value).__name__}, expected an object"


def _label(column: str, value: Any) -> Any:
    """A value that is kept, as it is. InputError where no file of results could hold it."""
    if isinstance(value, (float, list, dict)):
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except RecursionError:
            raise InputError(f"column {column!r}: nested too deep") from None
        except ValueError as error:
            raise InputError(f"column {column!r}: {error}") from None
        read_json(text, f"column {column!r}", InputError, deepest=MOST_DEEP)
    return value


def _array(column: str, value: Any, shape: tuple[int | str, ...]) -> np.ndarray:
    """A value as an array; an empty list has the sizes of the steps that it does not have."""
    if value is ... or value is None:
        raise InputError(f"column {column!r} is {'not there' if value is ... else 'null'}")
    try:
        array = np.array(value)
    except (ValueError, OverflowError, RecursionError):
        raise InputError(f"column {column!r}: lists of different lengths in one row") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"column {column!r}: something that is not a number")
    if array.shape == (0,):
        return empty_row(shape)
    return array


class CsvReader(LinesReader):
    """Steps as lines; sequences come in the order in which they begin."""

    def __init__(self, path: str, file: BinaryIO, options: ReadOptions):
        super().__init__(path, file, options)
        self._entry = only_input(options.plan, "a .csv file")
        self._parse = _integer if self._entry.dtype == "int64" else _real
        self._records = self._records_of_file()
        first = next(self._records, None)
        if first is None:
            raise InputError("empty, expected rows of numbers")
        cells = first[1]
        numbers = [NUMBER.fullmatch(cell) is not None for cell in cells]
        named = bool(options.columns) or options.sequence is not None or not any(numbers)
        self._pushed = None if named else first
        self._names = [name.strip() for name in cells] if named else [str(i + 1) for i in range(len(cells))]
        self._label = None if options.sequence is None else _place(self._names, options.sequence)
        self.one_sequence = options.sequence is None
        chosen = [_place(self._names, name) for name in options.columns]
        self._chosen = chosen or [i for i in range(len(self._names)) if i != self._label]
        _check_features(self._entry, [self._names[i] for i in self._chosen])

    def parts(self, skip: int) -> Iterator[FileRows]:
        start, row, size = skip, -1, 0
        sequences: list[np.ndarray] = []
        labels: list[str] = []
        bad: dict[int, str] = {}
        good: list[int] = []
        for label, lines in self._sequences():
            row += 1
            if row < skip:
                continue
            array, reason = self._sequence(lines)
            if reason or array is None:
                bad[row - start] = reason
            else:
                good.append(row - start)
                sequences.append(array)
                labels.append(label)
                size += array.nbytes
            if size >= CHUNK_BYTES or row + 1 - start >= CHUNK_ROWS:
                yield self._part(start, row + 1 - start, good, sequences, labels, bad)
                start, size, sequences, labels, bad, good = row + 1, 0, [], [], {}, []
        if row < 0:
            raise InputError("no rows of numbers after the header")
        if row + 1 > start:
            yield self._part(start, row + 1 - start, good, sequences, labels, bad)

    def _part(self, start, count, good, sequences, labels, bad) -> FileRows:
        kept = {} if self._label is None else {self._names[self._label]: labels}
        return FileRows(start, count, np.array(good, np.int64), {self._entry.name: sequences}, kept, bad)

    def _records_of_file(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, cells) of every line that is not blank."""
        number = 0

        def texts():
            nonlocal number
            for line in self._lines:
                number += 1
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"not text in UTF-8 (byte {error.object[error.start]:#04x} in line {number})"
                    ) from None

        reader = csv.reader(texts(), strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(f"line {reader.line_num}: {error}") from None

    def _sequences(self) -> Iterator[tuple[str, list[tuple[int, list[str]]]]]:
        """(label, its lines) of each sequence."""
        if self._lines.is_small:
            gathered: dict[str, list[tuple[int, list[str]]]] = {}
            label = ""
            for number, cells in self._all_records():
                label = self._label_of(cells, label)
                gathered.setdefault(label, []).append((number, cells))
            yield from gathered.items()
            return
        seen: set[bytes] = set()
        label = ""
        lines: list[tuple[int, list[str]]] = []
        for number, cells in self._all_records():
            here = self._label_of(cells, label)
            if lines and here != label:
                yield label, lines
                lines = []
            if not lines:
                mark = hashlib.blake2b(here.encode(), digest_size=12).digest()
                if mark in seen:
                    raise InputError(
                        f"line {number}: sequence {here!r} goes on after another one, expected its lines together "
                        f"in a pipe or a file of more than {GATHERED_BYTES >> 20} MiB"
                    )
                seen.add(mark)
            label = here
            lines.append((number, cells))
        if lines:
            yield label, lines

    def _label_of(self, cells: list[str], before: str) -> str:
        """A line's sequence; a line that is too short to say belongs to the one before."""
        if self._label is None:
            return ""
        return cells[self._label] if self._label < len(cells) else before

    def _all_records(self) -> Iterator[tuple[int, list[str]]]:
        if self._pushed is not None:
            yield self._pushed
        yield from self._records

    def _sequence(self, lines: list[tuple[int, list[str]]]) -> tuple[np.ndarray | None, str]:
        try:
            steps = []
            for number, cells in lines:
                if len(cells) != len(self._names):
                    raise InputError(f"line {number}: {len(cells)} columns, expected {len(self._names)}")
                steps.append([self._parse(cells[i], number, self._names[i]) for i in self._chosen])
        except InputError as error:
            return None, str(error)
        array = np.array(steps, np.int64 if self._entry.dtype == "int64" else np.float64)
        return (array[:, 0] if self._entry.dtype == "int64" else array), ""


def _place(names: list[str], name: str) -> int:
    if names.count(name) != 1:
        what = "is there twice" if name in names else f"is not there, expected one of {', '.join(names)}"
        raise InputError(f"column {name!r} {what}")
    return names.index(name)


def _check_features(entry: Input, names: list[str]) -> None:
    """InputError where columns are not what one step of the input has."""
    rank = 3 if entry.dtype == "float" else 2
    if len(entry.shape) != rank or entry.dtype == "bool":
        raise InputError(
            f"input {entry.name!r} is {entry.value}, which no table of steps can hold: "
            "expected a .npy, .npz, .jsonl or .parquet file"
        )
    wanted = entry.shape[2] if rank == 3 else 1
    if isinstance(wanted, int) and len(names) != wanted:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = ": choose with --columns" if len(names) > wanted else ""
        raise InputError(f"{len(names)} columns ({shown}), expected {wanted} for input {entry.name!r}{hint}")


def _real(text: str, line: int, column: str) -> float:
    if NUMBER.fullmatch(text) is None:
        raise InputError(f"line {line}, column {column}: {text[:60]!r} is not a number")
    return float(text)


def _integer(text: str, line: int, column: str) -> int:
    if WHOLE.fullmatch(text) is None:
        raise InputError(f"line {line}, column {column}: {text[:60]!r} is not a whole number")
    return int(text)
