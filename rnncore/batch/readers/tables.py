"""Parquet and Arrow tables: a row for each sequence, in columns of lists. Needs the extra "arrow" (pyarrow).

A column of an input is a list of numbers (T,), a list of lists (T, I), fixed in size or not, or a number for an input
without time, such as lengths.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar

import numpy as np

from rnncore.batch.readers.base import CHUNK_BYTES, CHUNK_ROWS, FileRows, ReadOptions, bind_columns, kept_columns
from rnncore.batch.rows import Column, Ragged, take
from rnncore.errors import FormatError, InputError, MissingPackageError
from rnncore.files.cursor import low_level_errors, shown

__all__ = ["ArrowReader", "ParquetReader", "pyarrow"]

BUFFER_BYTES = 1 << 20


def pyarrow(module: str = "pyarrow") -> Any:
    """A module of pyarrow; MissingPackageError that says how to install it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingPackageError(
            'Parquet and Arrow files need pyarrow, install it with: pip install "rnncore[arrow]"'
        ) from None


class TableReader:
    """Rows out of record batches."""

    shared: ClassVar[dict[str, Any]] = {}
    rows: int | None
    _batches: Callable[[int], Iterator[Any]]

    def __init__(self, file: BinaryIO, options: ReadOptions, schema: Any, names: list[str]):
        if options.lengths is not None:
            raise InputError("--lengths belongs to arrays (.npy, .npz), expected a column of lengths")
        self._file, self._request = file, options
        pa = pyarrow()
        lists = [field.name for field in schema if _is_list(pa, field.type)]
        self._bound = bind_columns(options, names, lists)
        self._kept = kept_columns(options, names, self._bound)
        self._columns = list(dict.fromkeys([*self._bound.values(), *self._kept]))
        for name in self._columns:
            if names.count(name) > 1:
                raise InputError(f"column {name!r} is there twice")
        self.types = {name: schema.field(name).type for name in self._kept}
        for column in self._bound.values():
            _check_type(pa, column, schema.field(column).type)
        self._at = 0

    def parts(self, skip: int) -> Iterator[FileRows]:
        self._at = skip
        empty = True
        batches = self._batches(skip)
        while True:
            with damaged(f"after row {self._at}"):
                batch = next(batches, None)
                if batch is None:
                    break
                part = self._part(batch)
            empty = False
            self._at += batch.num_rows
            yield part
        if empty and skip == 0:
            yield FileRows.whole(0, 0, {name: [] for name in self._bound}, {name: [] for name in self._kept})

    def _part(self, batch: Any) -> FileRows:
        columns: dict[str, Column] = {}
        bad: dict[int, str] = {}
        for name, column in self._bound.items():
            entry = self._request.plan.shapes[name]
            columns[name], reasons = rows_of(batch.column(column), column, entry)
            bad = {**reasons, **bad}
        good = np.array([i for i in range(batch.num_rows) if i not in bad], np.int64)
        if bad:
            columns = {name: take(column, good) for name, column in columns.items()}
        kept = {name: batch.column(name).take(pyarrow().array(good)).to_pylist() for name in self._kept}
        return FileRows(self._at, batch.num_rows, good, columns, kept, bad)

    def share(self) -> float:
        return self._at / self.rows if self.rows else 1.0

    def close(self) -> None:
        self._file.close()


class ParquetReader(TableReader):
    def __init__(self, path: str, file: BinaryIO, options: ReadOptions):
        parquet = pyarrow("pyarrow.parquet")
        with damaged("no Parquet file"):
            self._table = parquet.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
            schema = self._table.schema_arrow
            self.rows = self._table.metadata.num_rows
            names = schema.names
        super().__init__(file, options, schema, names)

    def _batches(self, skip: int) -> Iterator[Any]:
        for group in range(self._table.num_row_groups):
            metadata = self._table.metadata.row_group(group)
            if skip >= metadata.num_rows:
                skip -= metadata.num_rows
                continue
            each = metadata.total_byte_size / max(metadata.num_rows, 1)
            size = int(max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(each, 1))))
            for batch in self._table.iter_batches(size, [group], self._columns, use_threads=False):
                batch.validate(full=True)
                if skip >= batch.num_rows:
                    skip -= batch.num_rows
                else:
                    yield batch.slice(skip)
                    skip = 0


class ArrowReader(TableReader):
    """Arrow's file or stream (.arrow, .feather of version 2)."""

    def __init__(self, path: str, file: BinaryIO, options: ReadOptions):
        pa, ipc = pyarrow(), pyarrow("pyarrow.ipc")
        with damaged("no Arrow file"):
            try:
                self._table = ipc.open_file(file)
                self._count = self._table.num_record_batches
            except pa.ArrowInvalid:
                file.seek(0)
                self._table, self._count = ipc.open_stream(file), None
            names = self._table.schema.names
        self.rows = None
        super().__init__(file, options, self._table.schema, names)

    def _batches(self, skip: int) -> Iterator[Any]:
        whole = self._count is None
        for batch in self._table if whole else map(self._table.get_batch, range(self._count)):
            batch = batch.select(self._columns)
            batch.validate(full=True)  # lists begin and end inside their values, text is UTF-8
            for first in range(0, batch.num_rows, CHUNK_ROWS):
                part = batch.slice(first, CHUNK_ROWS)
                if skip >= part.num_rows:
                    skip -= part.num_rows
                else:
                    yield part.slice(skip)
                    skip = 0

    def share(self) -> float:
        return 0.0


@contextlib.contextmanager
def damaged(place: str) -> Iterator[None]:
    """FormatError for whatever pyarrow makes of damaged bytes."""
    with low_level_errors(place):
        try:
            yield
        except pyarrow().ArrowException as error:
            raise FormatError(f"{place}: damaged: {shown(str(error))}") from None


def _is_list(pa: Any, kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _check_type(pa: Any, column: str, kind: Any) -> None:
    """InputError for a column that holds no numbers."""
    leaf = kind
    while _is_list(pa, leaf):
        leaf = leaf.value_type
    if not (pa.types.is_integer(leaf) or pa.types.is_floating(leaf) or pa.types.is_boolean(leaf)):
        raise InputError(f"column {column!r} is {kind}, expected numbers or lists of numbers")


def rows_of(array: Any, column: str, shape: tuple[int | str, ...]) -> tuple[np.ndarray | Ragged, dict[int, str]]:
    """The rows of an Arrow array without a copy where that can be, and why others are none.

    Rows that are none have a place in the column all the same. shape: the input's, for the width of empty rows.
    """
    pa = pyarrow()
    bad = {}
    if array.null_count:
        bad = {int(i): f"column {column!r} is null" for i in np.flatnonzero(array.is_null().to_numpy(False))}
    levels: list[Any] = []
    leaf = array
    while _is_list(pa, leaf.type):
        inner_nulls = leaf.is_null().to_numpy(False) if levels and leaf.null_count else None
        offsets, values = _offsets(pa, leaf)
        levels.append((offsets, inner_nulls))
        leaf = values
    leaf_nulls = leaf.is_null().to_numpy(False) if leaf.null_count else None
    numbers = (
        leaf.fill_null(False if pa.types.is_boolean(leaf.type) else 0) if leaf_nulls is not None else leaf
    ).to_numpy(zero_copy_only=False)
    if not levels:
        return numbers, bad
    starts, ends = levels[0][0][:-1], levels[0][0][1:]
    dimensions = [ends - starts]
    for offsets, nulls in levels[1:]:
        if nulls is not None:
            _mark(bad, _any(nulls, starts, ends), f"column {column!r}: a null inside")
        widths = np.diff(offsets)
        first = np.zeros(len(starts), np.int64)
        some = ends > starts
        first[some] = widths[starts[some]]
        uneven = np.zeros(len(widths), bool)
        counts = (ends - starts)[some]
        at = np.repeat(starts[some] - np.concatenate([[0], np.cumsum(counts)[:-1]]), counts) + np.arange(counts.sum())
        uneven[at] = widths[at] != np.repeat(first[some], counts)
        _mark(bad, _any(uneven, starts, ends), f"column {column!r}: lists of different lengths in one row")
        dimensions.append(first)
        starts, ends = offsets[starts], offsets[ends]
    if leaf_nulls is not None:
        _mark(bad, _any(leaf_nulls, starts, ends), f"column {column!r}: a null inside")
    shapes = np.stack(dimensions, axis=1)
    if len(shape) == len(levels):
        width = [size if isinstance(size, int) else 0 for size in shape]
        shapes[shapes[:, 0] == 0, 1:] = width[1:]
    shapes[list(bad)] = 0
    return Ragged(numbers, starts, shapes), bad


def _offsets(pa: Any, array: Any) -> tuple[np.ndarray, Any]:
    """The places where each list begins and ends in the values of all."""
    if pa.types.is_fixed_size_list(array.type):
        size = array.type.list_size
        return (np.arange(len(array) + 1) + array.offset) * size, array.values
    return array.offsets.to_numpy().astype(np.int64), array.values


def _any(flags: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether a flag is set between each start and end."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return total[ends] > total[starts]


def _mark(bad: dict[int, str], rows: np.ndarray, reason: str) -> None:
    for i in np.flatnonzero(rows):
        bad.setdefault(int(i), reason)
