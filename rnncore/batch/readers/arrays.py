"""Arrays of numpy's files, some rows at a time.

    .npy   the array of the one required input, (B, T, I); with a dimension less it is one sequence
    .npz   arrays by the names of inputs, "lengths" among them; an array without a name is the one input.
           With lengths and a dimension less, the sequences are concatenated: (sum of lengths, I)

Files are read forwards, not mapped: a mapped file that is shortened meanwhile kills the process.
"""

from __future__ import annotations

import contextlib
import itertools
import lzma
import math
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from rnncore.batch.plan import RowPlan
from rnncore.batch.readers.base import CHUNK_BYTES, CHUNK_ROWS, FileRows, ReadOptions, only_input
from rnncore.errors import FormatError, InputError, RnncoreError
from rnncore.files.cursor import low_level_errors, shown
from rnncore.formats.npz_file import read_header
from rnncore.ops import UNKNOWN, numpy_dtype

__all__ = ["NpyReader", "NpzReader"]

UNNAMED = "arr_0"  # what np.savez calls an array that was given no name


class Stream:
    """An array in a file that is read forwards, along its first dimension."""

    def __init__(self, file: BinaryIO, place: str):
        self.place = place
        with damaged(place):
            header = read_header(file, place)
        self._file, self._header = file, header
        self.shape = header.shape
        self.dtype = np.dtype(header.dtype).newbyteorder("<" if header.little else ">")
        self._row = self.dtype.itemsize * math.prod(self.shape[1:])
        self._rest = self.dtype.itemsize * math.prod(self.shape)
        self._whole: np.ndarray | None = None
        self._at = 0
        if header.fortran and len(self.shape) > 1:
            self._take_whole(np.frombuffer(self._bytes(self._rest), self.dtype).reshape(self.shape, order="F"))

    def transposed(self, axis: int) -> None:
        """Reads along another dimension from here on, which is first then; the array is in memory for that."""
        if axis:
            self._take_whole(np.moveaxis(self.read(self.shape[0]), axis, 0))

    def _take_whole(self, array: np.ndarray) -> None:
        self._whole, self.shape, self._at = array, array.shape, 0

    def read(self, rows: int) -> np.ndarray:
        """The next rows, in the machine's byte order."""
        if self._whole is not None:
            block = self._whole[self._at : self._at + rows]
        else:
            data = self._bytes(rows * self._row)
            block = np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
        self._at += rows
        return block.astype(self.dtype.newbyteorder("="), copy=False)

    def skip(self, rows: int) -> None:
        if self._whole is not None:
            self._at += rows
            return
        left = rows * self._row
        if self._file.seekable():
            with damaged(self.place):
                self._file.seek(left, 1)
            self._rest -= left
            return
        while left > 0:
            left -= len(self._bytes(min(left, CHUNK_BYTES)))

    def _bytes(self, count: int) -> bytes:
        pieces, left = [], count
        while left:
            with damaged(self.place):
                piece = self._file.read(min(left, CHUNK_BYTES))
            if not piece:
                raise FormatError(f"{self.place}: ends early: {count - left} bytes of data, expected {count}")
            pieces.append(piece)
            left -= len(piece)
        self._rest -= count
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check_end(self) -> None:
        """FormatError where data are left after the array."""
        with damaged(self.place):
            more = self._whole is None and self._rest == 0 and self._file.read(1)
        if more:
            raise FormatError(f"{self.place}: bytes after the array of shape {self.shape}")


class ArraysReader:
    """Arrays by the name of the input, row by row together."""

    types: ClassVar[dict[str, Any]] = {}

    def __init__(self, place: str, streams: dict[str, Stream], options: ReadOptions):
        plan = options.plan
        known = [entry.name for entry in plan.spec.inputs]
        for name in streams:
            if name not in known:
                raise InputError(f"input {name!r} is unknown, expected {', '.join(known)}")
        if all(plan.axes[name] is None for name in streams):
            raise InputError(f"no array with rows, expected one for {' or '.join(known)}")
        self._request, self._streams = options, streams
        self._flat = _flat(plan, streams)
        self.one_sequence = not self._flat and _is_sequence(plan, streams)
        self.shared = {
            name: streams.pop(name).read(_first(stream))
            for name, stream in list(streams.items())
            if plan.axes[name] is None
        }
        if not self._flat and not self.one_sequence:
            _check_shapes(plan, streams, self.shared)
            for name, stream in streams.items():
                stream.transposed(cast(int, plan.axes[name]))
        counts = {name: stream.shape[0] for name, stream in streams.items() if not self._flat or name in self._flat}
        self.rows = 1 if self.one_sequence else next(iter(counts.values()), 1)
        self._lengths = None
        if options.lengths is not None:
            (self._length_name,) = plan.lengths
            if self._length_name in streams:
                raise InputError(f"the data file has {self._length_name!r} too, expected lengths in one place")
            if options.lengths.shape != (self.rows,):
                raise InputError(
                    f"{self._length_name}: shape {options.lengths.shape}, expected ({self.rows},), one for each row"
                )
            self._lengths = options.lengths
        for name, count in counts.items():
            if count != self.rows and not self.one_sequence:
                raise InputError(f"{name}: {count} rows, expected {self.rows}, the number of the first array")
        self._at = 0

    def parts(self, skip: int) -> Iterator[FileRows]:
        if self.one_sequence:
            if skip == 0:
                yield FileRows.whole(0, 1, {name: [_all(stream)] for name, stream in self._streams.items()})
            return
        if self._flat:
            yield from self._flat_parts(skip)
            return
        for stream in self._streams.values():
            stream.skip(skip)
        bytes_each = sum(stream.dtype.itemsize * math.prod(stream.shape[1:]) for stream in self._streams.values())
        step = max(1, min(CHUNK_ROWS, CHUNK_BYTES // max(bytes_each, 1)))
        for first in range(skip, self.rows, step):
            count = min(step, self.rows - first)
            columns = {name: stream.read(count) for name, stream in self._streams.items()}
            if self._lengths is not None:
                columns[self._length_name] = self._lengths[first : first + count]
            self._at = first + count
            yield FileRows.whole(first, count, columns)
        if not self.rows:
            yield FileRows.whole(0, 0, {name: stream.read(0) for name, stream in self._streams.items()})
        for stream in self._streams.values():
            stream.check_end()

    def _flat_parts(self, skip: int) -> Iterator[FileRows]:
        """Rows out of arrays in which they are concatenated."""
        ((name, _),) = self._flat.items()
        lengths = self._streams[name].read(self.rows)
        bad = np.flatnonzero(lengths < 0)
        if len(bad):
            raise InputError(f"{name}: {lengths[bad[0]]} at row {bad[0]}, expected no negative length")
        total = int(lengths.sum())
        data = {key: stream for key, stream in self._streams.items() if key != name}
        for key, stream in data.items():
            if stream.shape[0] != total:
                raise InputError(f"{key}: {stream.shape[0]} steps, expected {total}, the sum of {name}")
            stream.skip(int(lengths[:skip].sum()))
        ends = np.cumsum(lengths)
        at = skip
        while at < self.rows:
            width = sum(stream.dtype.itemsize * math.prod(stream.shape[1:]) for stream in data.values())
            begin = int(ends[at] - lengths[at])
            stop = int(np.searchsorted(ends, begin + max(CHUNK_BYTES // max(width, 1), 1), "right"))
            stop = min(max(stop, at + 1), at + CHUNK_ROWS, self.rows)
            offsets = [0, *(ends[at:stop] - begin).tolist()]
            columns = {}
            for key, stream in data.items():
                flat = stream.read(offsets[-1])
                columns[key] = [flat[a:b] for a, b in itertools.pairwise(offsets)]
            self._at = stop
            yield FileRows.whole(at, stop - at, columns)
            at = stop

    def share(self) -> float:
        return self._at / self.rows if self.rows else 1.0


class NpyReader(ArraysReader):
    def __init__(self, path: str, file: BinaryIO, options: ReadOptions):
        self._file = file
        name = only_input(options.plan, f"{path}, which names no input,").name
        super().__init__(path, {name: Stream(file, path)}, options)

    def close(self) -> None:
        self._file.close()


class NpzReader(ArraysReader):
    def __init__(self, path: str, file: BinaryIO, options: ReadOptions):
        self._files = contextlib.ExitStack()
        self._files.callback(file.close)
        with damaged(f"{path}: no .npz file"):
            archive = self._files.enter_context(zipfile.ZipFile(file))
            members = archive.namelist()
        names = [member.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names) or not all(member.endswith(".npy") for member in members):
            raise FormatError(f"{path}: expected members NAME.npy, each once")
        streams = {}
        for name, member in zip(names, members, strict=True):
            place = f"{path}: {shown(member)}"
            with damaged(place):
                opened = self._files.enter_context(archive.open(member))
            streams[name] = Stream(cast(BinaryIO, opened), place)
        if names == [UNNAMED]:
            streams = {only_input(options.plan, f"{path}, which names no input,").name: streams[UNNAMED]}
        super().__init__(path, streams, options)

    def close(self) -> None:
        self._files.close()


@contextlib.contextmanager
def damaged(place: str) -> Iterator[None]:
    """FormatError for whatever zipfile and its decompressors make of damaged bytes."""
    with low_level_errors(place):
        try:
            yield
        except RnncoreError:
            raise
        except (zipfile.BadZipFile, lzma.LZMAError, RuntimeError, KeyError, IndexError) as error:
            raise FormatError(f"{place}: {shown(str(error))}") from None


def _first(stream: Stream) -> int:
    return stream.shape[0] if stream.shape else 1


def _all(stream: Stream) -> np.ndarray:
    return stream.read(stream.shape[0])


def _flat(plan: RowPlan, streams: dict[str, Stream]) -> dict[str, str]:
    """The input of lengths where sequences are concatenated, and their time's name; else nothing."""
    for time, (name, *_) in plan.padded.items():
        others = [key for key in streams if key != name]
        if name in streams and others and all(_has_a_dimension_less(plan, key, streams[key], time) for key in others):
            return {name: time}
    return {}


def _has_a_dimension_less(plan: RowPlan, name: str, stream: Stream, time: str) -> bool:
    return len(stream.shape) == len(plan.shapes[name]) > 0 and plan.shapes[name][0] == time


def _is_sequence(plan: RowPlan, streams: dict[str, Stream]) -> bool:
    """Whether every array is one row of its input."""
    return all(
        plan.axes[name] is not None and len(stream.shape) == len(plan.shapes[name]) and stream.shape
        for name, stream in streams.items()
    )


def _check_shapes(plan: RowPlan, streams: dict[str, Stream], shared: dict[str, np.ndarray]) -> None:
    """InputError where arrays do not fit the inputs' shapes or dtypes, as a whole."""
    entries = {entry.name: entry for entry in plan.spec.inputs}
    sizes: dict[str, int] = {}
    for name, array in cast("dict[str, Any]", {**shared, **streams}).items():
        entry = entries[name]
        wanted = numpy_dtype(entry.dtype, plan.dtype)
        allowed = {"f": "fiub", "i": "iu", "u": "iu", "b": "b"}[wanted.kind]
        if array.dtype.kind not in allowed:
            raise InputError(f"{name}: dtype {array.dtype}, expected {wanted}")
        fits = len(array.shape) == len(entry.shape)
        for size, actual in zip(entry.shape, array.shape, strict=False):
            named = isinstance(size, str) and size != UNKNOWN
            expected = sizes.setdefault(str(size), actual) if named else actual if size == UNKNOWN else size
            fits = fits and actual == expected
        if not fits:
            raise InputError(f"{name}: shape {array.shape}, expected {str(entry.value).partition(' ')[2]}")
