"""Rows: some consecutive rows of the data, as columns of arrays.

A row is what one sequence is to the model: an array for each input, without the batch dimension. A column holds one
input or output of many rows: one array (rows, ...) where all have the same shape, else a Ragged or a list of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = [
    "Bad",
    "Column",
    "Place",
    "Ragged",
    "RowBlock",
    "empty_row",
    "filled",
    "joined",
    "ranks",
    "shapes",
    "sizes",
    "take",
]

SHORT = 64  # numbers in a row: to copy fewer one row at a time takes longer than to copy them number by number


class Ragged(Sequence):
    """Rows of one flat array, seen as a list of arrays; none of them is made before it is asked for.

    flat    (numbers,)
    starts  (rows,) where each begins
    shapes  (rows, dimensions)
    """

    def __init__(self, flat: np.ndarray, starts: np.ndarray, shapes: np.ndarray):
        self.flat, self.starts, self.shapes = flat, starts, shapes
        self.counts = shapes.prod(axis=1)

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, at: Any) -> Any:
        """A row as a view; for a slice or an array of positions, those rows."""
        if not isinstance(at, (int, np.integer)):
            return Ragged(self.flat, self.starts[at], self.shapes[at])
        start = self.starts[at]
        return self.flat[start : start + self.counts[at]].reshape(self.shapes[at])

    @property
    def is_short(self) -> bool:
        return self.counts.sum() < SHORT * len(self)

    def packed(self) -> np.ndarray:
        """The numbers of all rows, concatenated; a view where they are stored so."""
        first = int(self.starts[0]) if len(self) else 0
        ends = np.cumsum(self.counts)
        if np.array_equal(self.starts[1:] - first, ends[:-1]):
            return self.flat[first : first + int(ends[-1]) if len(self) else first]
        return self.flat[spread(self.starts, self.counts)]

    def put(self, positions: Sequence[int], rows: np.ndarray) -> None:
        """Writes rows, (rows, ...), to these positions: of each the part that fits."""
        some = self[positions]
        if some.is_short and (some.shapes[:, 1:] == rows.shape[2:]).all():
            begin = np.arange(len(some)) * math.prod(rows.shape[1:])
            self.flat[spread(some.starts, some.counts)] = rows.reshape(-1)[spread(begin, some.counts)]
            return
        for place, row in zip(some, rows, strict=True):
            place[...] = row[tuple(slice(size) for size in place.shape)]


def spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The positions starts[0], starts[0] + 1, ... starts[0] + counts[0] - 1, starts[1], ... and so on."""
    return np.repeat(starts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())


Column = np.ndarray | Ragged | list[np.ndarray]
Place = tuple[int, int]  # number of the file among the sources, row in that file


@dataclass(frozen=True)
class Bad:
    """A row that cannot be run: its number among all rows, the file and its number there, and why."""

    row: int
    file: str
    place: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return {"row": self.row, "file": self.file, "place": self.place, "reason": self.reason}


@dataclass
class RowBlock:
    """Rows ``first`` to ``stop`` of all the data: of one file, from its row ``place[1]`` on.

    index    the numbers of the rows that can be run, rising
    columns  inputs of those rows, by name
    kept     other columns of those rows, by name: what tells them apart
    bad      the others
    """

    first: int
    stop: int
    place: Place
    file: str
    index: np.ndarray
    columns: dict[str, Column]
    kept: dict[str, list] = field(default_factory=dict)
    bad: list[Bad] = field(default_factory=list)

    def split(self, at: int) -> tuple[RowBlock, RowBlock]:
        """The rows before number ``at`` of all the data, and those from it on."""
        cut = int(np.searchsorted(self.index, at))
        parts = []
        for first, stop, some in ((self.first, at, slice(0, cut)), (at, self.stop, slice(cut, None))):
            parts.append(
                RowBlock(
                    first,
                    stop,
                    (self.place[0], self.place[1] + first - self.first),
                    self.file,
                    self.index[some],
                    {name: column[some] for name, column in self.columns.items()},
                    {name: values[some] for name, values in self.kept.items()},
                    [bad for bad in self.bad if first <= bad.row < stop],
                )
            )
        return parts[0], parts[1]

    def refuse(self, reasons: dict[int, str]) -> RowBlock:
        """The same, without the rows at these positions of index, which are bad."""
        if not reasons:
            return self
        positions = [i for i in range(len(self.index)) if i not in reasons]
        bad = [self.describe(int(self.index[i]), reason) for i, reason in reasons.items()]
        return RowBlock(
            self.first,
            self.stop,
            self.place,
            self.file,
            self.index[positions],
            {name: take(column, positions) for name, column in self.columns.items()},
            {name: take(values, positions) for name, values in self.kept.items()},
            sorted([*self.bad, *bad], key=lambda entry: entry.row),
        )

    def describe(self, row: int, reason: str) -> Bad:
        return Bad(row, self.file, self.place[1] + row - self.first, reason)


def empty_row(shape: tuple[int | str, ...]) -> np.ndarray:
    """A row of no steps for an input of this shape, where an empty list does not say how wide its steps are."""
    return np.zeros((0, *(size if isinstance(size, int) else 0 for size in shape[1:])), np.int64)


def take(column: Column | list, positions: Sequence[int] | np.ndarray) -> Any:
    """Some rows of a column, in the order given."""
    if isinstance(column, (np.ndarray, Ragged)):
        return column[np.asarray(positions, np.int64)]
    return [column[i] for i in positions]


def joined(parts: Sequence[Column]) -> Column:
    """Concatenated columns: an array where every row has the same shape and dtype."""
    if len(parts) == 1:
        return parts[0]
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({(part.shape[1:], part.dtype) for part in arrays}) == 1:
        return np.concatenate(arrays)
    ragged = [part for part in parts if isinstance(part, Ragged) and part.is_short]
    if len(ragged) == len(parts) and len({part.dtype for part in ragged}) == 1:
        counts = np.concatenate([part.counts for part in ragged])
        shapes = np.concatenate([part.shapes for part in ragged])
        return Ragged(np.concatenate([part.packed() for part in ragged]), np.cumsum(counts) - counts, shapes)
    return [row for part in parts for row in part]


def shapes(column: Column) -> Iterator[tuple[int, ...]]:
    """The shape of each row."""
    if isinstance(column, np.ndarray):
        return iter([column.shape[1:]] * len(column))
    if isinstance(column, Ragged):
        return map(tuple, column.shapes.tolist())
    return (row.shape for row in column)


def ranks(column: Column) -> np.ndarray:
    """The number of dimensions of each row, (rows,)."""
    if isinstance(column, list):
        return np.array([row.ndim for row in column], np.int64)
    return np.full(len(column), column.ndim - 1 if isinstance(column, np.ndarray) else column.shapes.shape[1])


def sizes(column: Column, positions: Sequence[int] | np.ndarray, rank: int) -> np.ndarray:
    """The shapes of some rows of the same rank, (rows, rank)."""
    if not len(positions):
        return np.zeros((0, rank), np.int64)
    if isinstance(column, np.ndarray):
        return np.broadcast_to(np.array(column.shape[1:], np.int64), (len(positions), rank))
    if isinstance(column, Ragged):
        return column.shapes[positions]
    return np.array([column[i].shape for i in positions], np.int64)


def filled(column: Column, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """(rows, ...): every row filled up with zeros to this shape."""
    shape = tuple(shape)
    if isinstance(column, np.ndarray) and column.shape[1:] == shape:
        return column.astype(dtype, copy=False)
    if isinstance(column, Ragged) and column.is_short and (column.shapes[:, 1:] == shape[1:]).all():
        array = np.zeros((len(column), *shape), dtype)
        begin = np.arange(len(column)) * math.prod(shape)
        array.reshape(-1)[spread(begin, column.counts)] = column.packed()
        return array
    if not shape:
        return np.array(column, dtype)
    array = np.empty((len(column), *shape), dtype)
    for place, row in zip(array, column, strict=True):
        if row.shape != shape:
            place[len(row) if row.shape[1:] == shape[1:] else 0 :] = 0
        place[tuple(slice(size) for size in row.shape)] = row
    return array
