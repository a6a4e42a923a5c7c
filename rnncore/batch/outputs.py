"""Results of a shard -> bytes, and shards -> one file.

    .npy              one output, (rows, ...)
    .npz              outputs by name, "lengths" where rows differ in length, the columns that were kept
    .csv              one output, a line for each step: kept columns or "row", "step", NAME.0, NAME.1, ...
    .jsonl            an object for each row; a number that is not finite is null, which is all that JSON has
    .parquet .arrow   a row for each row, in columns of lists

Ragged rows are lists of their own length; in .npy and .npz they are padded, and the padding means nothing.
The same rows give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from rnncore.batch.plan import RowPlan
from rnncore.batch.readers.tables import pyarrow
from rnncore.batch.rows import Column, Ragged, filled, shapes
from rnncore.errors import InputError
from rnncore.ops import numpy_dtype

__all__ = ["FORMATS", "Results", "Writer"]

EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member of a .npz: the same numbers give the same bytes
LENGTHS, ROW, STEP = "lengths", "row", "step"
COPY_BYTES = 1 << 20


@dataclass
class Results:
    """The results of a shard, of the rows that could be run.

    index    their numbers among all rows
    kept     the columns that tell them apart
    outputs  by name
    lengths  how many steps of each row count; None where all do
    """

    index: np.ndarray
    kept: dict[str, list]
    outputs: dict[str, Column]
    lengths: np.ndarray | None


class Writer:
    """One format of results. Raises InputError where the model's outputs do not fit into it.

    target   where they go, for messages
    types    Arrow types of the kept columns, where the source knows them
    numbered whether rows are told apart by their number where no column is kept
    """

    suffix = ""
    can_skip = True  # whether a reader can see which rows are missing

    def __init__(self, target: str, plan: RowPlan, types: dict[str, Any], numbered: bool = True):
        self.target, self.plan, self.types, self.numbered = target, plan, types, numbered
        self.names = plan.spec.outputs
        self._check()

    def encode(self, results: Results) -> bytes:
        """A shard's file."""
        raise NotImplementedError

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        """One file out of all shards' files and what was noted of them."""
        raise NotImplementedError

    def note(self, results: Results) -> dict[str, Any]:
        """The sizes of a shard that ``combine`` needs: the largest shape of a row, by output."""
        return {"shapes": {name: _largest(results.outputs[name]) for name in self.names}}

    def _check(self) -> None:
        for name in self.names:
            if self.plan.axes[name] is None:
                value = self.plan.spec.values[name]
                raise InputError(f"{self.target}: output {name!r} is {value}, without rows: expected .npz")
        for name in (*self.types, ROW):
            if name in self.names:
                raise InputError(f"{self.target}: output {name!r} has the name of a column that is kept")

    def _kept(self, results: Results) -> dict[str, list]:
        if results.kept or not self.numbered:
            return results.kept
        return {ROW: results.index.tolist()}

    def _cut(self, results: Results, name: str) -> Column:
        """An output whose rows end where their lengths do."""
        column, shape = results.outputs[name], self.plan.shapes[name]
        if results.lengths is None or not shape or shape[0] not in _times(self.plan):
            return column
        if isinstance(column, Ragged):
            cut = column.shapes.copy()
            cut[:, 0] = np.minimum(cut[:, 0], results.lengths)
            return Ragged(column.flat, column.starts, cut)
        return [row[:count] for row, count in zip(column, results.lengths, strict=True)]


class NpyWriter(Writer):
    suffix = "npy"
    can_skip = False

    def _check(self) -> None:
        _check_single(self)

    def encode(self, results: Results) -> bytes:
        (name,) = self.names
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, self._array(results, name), allow_pickle=False)
        return buffer.getvalue()

    def _array(self, results: Results, name: str) -> np.ndarray:
        column, axis = results.outputs[name], self.plan.axes[name]
        return cast(np.ndarray, column) if axis is None else np.moveaxis(_filled(column, _largest(column)), 0, axis)

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        (name,) = self.names
        _combine_arrays(file, self.plan, name, notes, (np.load(path, allow_pickle=False) for path in parts))


class NpzWriter(NpyWriter):
    suffix = "npz"
    can_skip = True

    def _check(self) -> None:
        for name in (*self.types, LENGTHS, ROW):
            if name in self.names:
                raise InputError(f"{self.target}: output {name!r} has the name of something else that is written")

    def encode(self, results: Results) -> bytes:
        arrays = {name: self._array(results, name) for name in self.names}
        arrays.update(self._columns(results))
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, array in arrays.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
        return buffer.getvalue()

    def _columns(self, results: Results) -> dict[str, np.ndarray]:
        labels = {} if results.lengths is None else {LENGTHS: np.asarray(results.lengths, np.int64)}
        if self.numbered:
            labels[ROW] = results.index
        for name, values in results.kept.items():
            labels[name] = _labels(values)
        return labels

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name in self.names:
                with _member(archive, name) as member:
                    _combine_arrays(member, self.plan, name, notes, (_load(path, name) for path in parts))
            with np.load(parts[0], allow_pickle=False) as first:
                others = [name for name in first.files if name not in self.names]
            for name in others:
                arrays = [array for array in (_load(path, name) for path in parts) if len(array)]
                with _member(archive, name) as member:
                    joined = np.concatenate(arrays) if arrays else _load(parts[0], name)
                    np.lib.format.write_array(member, joined, allow_pickle=False)


class JsonlWriter(Writer):
    suffix = "jsonl"

    def encode(self, results: Results) -> bytes:
        kept = self._kept(results)
        columns = [self._cut(results, name) for name in self.names]
        lines = []
        for i in range(len(results.index)):
            record = {name: _finite(values[i]) for name, values in kept.items()}
            record.update({name: _plain(column[i]) for name, column in zip(self.names, columns, strict=True)})
            lines.append(json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str))
        return "".join(f"{line}\n" for line in lines).encode()

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        for path in parts:
            _copy(path, file)


class CsvWriter(Writer):
    suffix = "csv"

    def _check(self) -> None:
        _check_single(self)
        super()._check()
        (name,) = self.names
        shape = self.plan.shapes[name]
        steps = bool(shape) and isinstance(shape[0], str)
        if len(shape) > 1 + steps or any(isinstance(size, str) for size in shape[steps:]):
            raise InputError(
                f"{self.target}: output {name!r} is {self.plan.spec.values[name]}, no table: "
                "expected .npy, .npz, .jsonl or .parquet"
            )
        self._steps = steps
        width = shape[steps:] or (1,)
        self._columns = [name] if width[0] == 1 else [f"{name}.{i}" for i in range(cast(int, width[0]))]

    def encode(self, results: Results) -> bytes:
        (name,) = self.names
        kept = self._kept(results)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self._header(kept))
        for *labels, values in zip(*kept.values(), self._cut(results, name), strict=True):
            rows = values.reshape(len(values) if self._steps else 1, len(self._columns))
            for step, numbers in enumerate(rows):
                writer.writerow([*labels, *([step] if self._steps else []), *map(str, numbers)])
        return text.getvalue().encode()

    def _header(self, kept: dict[str, list]) -> list[str]:
        return [*kept, *([STEP] if self._steps else []), *self._columns]

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        for place, path in enumerate(parts):
            _copy(path, file, skip_line=place > 0)


class ArrowWriter(Writer):
    suffix = "arrow"

    def encode(self, results: Results) -> bytes:
        pa, ipc = pyarrow(), pyarrow("pyarrow.ipc")
        table = self._table(results)
        sink = pa.BufferOutputStream()
        with ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue().to_pybytes()

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        ipc = pyarrow("pyarrow.ipc")
        writer: Any = None
        for path in parts:
            with open(path, "rb") as part, ipc.open_file(part) as reader:
                writer = writer or ipc.new_file(file, reader.schema)
                for i in range(reader.num_record_batches):
                    writer.write_batch(reader.get_batch(i))
        writer.close()

    def _table(self, results: Results) -> Any:
        pa = pyarrow()
        arrays, fields = [], []
        for name, values in self._kept(results).items():
            kind = pa.int64() if name == ROW and not results.kept else self.types.get(name) or pa.string()
            if name not in self.types or self.types[name] is None:
                values = values if kind == pa.int64() else [_text(value) for value in values]
            arrays.append(pa.array(values, kind))
            fields.append(pa.field(name, kind))
        for name in self.names:
            leaf = pa.from_numpy_dtype(numpy_dtype(self.plan.spec.values[name].dtype, self.plan.dtype))
            arrays.append(_nested(pa, self._cut(results, name), len(self.plan.shapes[name]), leaf))
            fields.append(pa.field(name, arrays[-1].type))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


class ParquetWriter(ArrowWriter):
    suffix = "parquet"

    def encode(self, results: Results) -> bytes:
        sink = pyarrow().BufferOutputStream()
        pyarrow("pyarrow.parquet").write_table(self._table(results), sink, **self._options())
        return sink.getvalue().to_pybytes()

    def _options(self) -> dict[str, Any]:
        """No dictionaries for numbers of a network, which hardly ever come twice."""
        return {"compression": "zstd", "use_dictionary": list(self.types) or False}

    def combine(self, file: BinaryIO, parts: Sequence[Path], notes: Sequence[dict[str, Any]]) -> None:
        parquet = pyarrow("pyarrow.parquet")
        writer: Any = None
        for path in parts:
            with open(path, "rb") as part:
                table = parquet.read_table(part, use_threads=False)
            writer = writer or parquet.ParquetWriter(file, table.schema, **self._options())
            writer.write_table(table)
        writer.close()


FORMATS = {
    writer.suffix: writer for writer in (NpyWriter, NpzWriter, CsvWriter, JsonlWriter, ParquetWriter, ArrowWriter)
}


def _check_single(writer: Writer) -> None:
    if len(writer.names) > 1:
        raise InputError(
            f"{writer.target}: holds one output, but there are {', '.join(writer.names)}: "
            "choose with --only, or write .npz, .jsonl or .parquet"
        )


def _times(plan: RowPlan) -> set[int | str]:
    return {
        plan.spec.values[node.input].shape[1 if node.layout == "batch_first" else 0] for node in plan.spec.recurrent
    }


def _largest(column: Column) -> list[int]:
    if isinstance(column, np.ndarray):
        return list(column.shape[1:])
    if isinstance(column, Ragged):
        return column.shapes.max(axis=0).tolist()
    return [max(sizes) for sizes in zip(*shapes(column), strict=True)]


def _filled(column: Column, shape: Sequence[int]) -> np.ndarray:
    return filled(column, shape, column[0].dtype if isinstance(column, list) else column.dtype)


def _member(archive: zipfile.ZipFile, name: str):
    return archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True)


def _load(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        return file[name]


def _combine_arrays(
    file: Any, plan: RowPlan, name: str, notes: Sequence[dict[str, Any]], arrays: Iterator[np.ndarray]
) -> None:
    """An array of all shards' rows; it is in memory only where its rows are not the first axis."""
    axis = plan.axes[name]
    arrays = _as_noted(name, axis, notes, arrays)
    dtype = numpy_dtype(plan.spec.values[name].dtype, plan.dtype)
    some = [note["shapes"][name] for note in notes if note["rows"]] or [notes[0]["shapes"][name]]
    shape = tuple(max(sizes) for sizes in zip(*some, strict=True))
    rows = sum(note["rows"] for note in notes)
    if axis:
        whole = np.concatenate([_filled(np.moveaxis(array, axis, 0), shape) for array in arrays if array.shape[axis]])
        np.lib.format.write_array(file, np.moveaxis(whole, 0, axis), allow_pickle=False)
        return
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, *shape)}
    np.lib.format.write_array_header_1_0(file, header)
    for array in arrays:
        if len(array):
            file.write(np.ascontiguousarray(_filled(array, shape)).data.cast("B"))


def _as_noted(
    name: str, axis: int | None, notes: Sequence[dict[str, Any]], arrays: Iterator[np.ndarray]
) -> Iterator[np.ndarray]:
    """The shards' arrays. InputError where one has not the shape that was noted of it."""
    for number, (note, array) in enumerate(zip(notes, arrays, strict=True)):
        shape = list(array.shape) if axis is None else [array.shape[axis], *np.delete(array.shape, axis).tolist()]
        expected = [note["rows"], *note["shapes"][name]]
        if axis is not None and shape != expected:
            raise InputError(f"shard {number}: {name} with rows first is {shape}, expected {expected} as noted")
        yield array


def _copy(path: Path, file: BinaryIO, skip_line: bool = False) -> None:
    with open(path, "rb") as part:
        if skip_line:
            part.readline()
        while piece := part.read(COPY_BYTES):
            file.write(piece)


def _plain(array: np.ndarray) -> Any:
    """Lists of numbers, with None where JSON has none."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return np.where(np.isfinite(array), array, np.array(None)).tolist()
    return array.tolist()


def _finite(value: Any) -> Any:
    """A kept value with None in the place of numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return {name: _finite(item) for name, item in value.items()} if isinstance(value, dict) else value


def _labels(values: list) -> np.ndarray:
    """Kept values as an array, (rows,): of JSON where one has no type that fits them all, or ends in zeros."""
    plain = all(not isinstance(value, (list, dict, bytes)) and not str(value).endswith("\0") for value in values)
    array = np.array(values) if values and plain else np.zeros(0, np.int64)
    if array.dtype.kind not in "biufUM" or len(array) < len(values):
        array = np.array([json.dumps(value, default=str) for value in values])
    return array


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _nested(pa: Any, column: Column, rank: int, leaf: Any) -> Any:
    """Rows of any shapes as an Arrow array of lists in lists."""
    if isinstance(column, np.ndarray):
        sizes: Any = [np.full(len(column), size, np.int64) for size in column.shape[1:]]
        flat = np.ascontiguousarray(column).reshape(-1)
    elif isinstance(column, Ragged):
        sizes, flat = column.shapes.T, column.packed()
    else:
        sizes = [np.array(axis, np.int64) for axis in zip(*shapes(column), strict=True)] or [
            np.zeros(0, np.int64)
        ] * rank
        flat = np.concatenate([row.reshape(-1) for row in column]) if len(column) else np.zeros(0, np.float32)
    array = pa.array(flat, leaf)
    counts = [np.ones(len(column), np.int64)]  # how many lists of each level a row has
    for size in sizes:
        counts.append(counts[-1] * size)
    for level in range(rank - 1, -1, -1):
        widths = np.repeat(sizes[level], counts[level])
        offsets = np.concatenate([[0], np.cumsum(widths)])
        if offsets[-1] > np.iinfo(np.int32).max:
            raise InputError(f"a shard with {offsets[-1]:,} numbers in a column, expected fewer: lower --shard-bytes")
        array = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), array)
    return array
