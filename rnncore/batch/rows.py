"""Rows: some consecutive rows of the data, as columns of arrays.

A row is what one sequence is to the model: an array for each input, without the batch dimension. A column holds one
input or output of many rows: one array (rows, ...) where all have the same shape, else a list of arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Bad", "Column", "Place", "Rows", "empty_row", "joined", "shapes", "sizes", "take"]

Column = np.ndarray | list[np.ndarray]
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
class Rows:
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

    def split(self, at: int) -> tuple[Rows, Rows]:
        """The rows before number ``at`` of all the data, and those from it on."""
        cut = int(np.searchsorted(self.index, at))
        parts = []
        for first, stop, some in ((self.first, at, slice(0, cut)), (at, self.stop, slice(cut, None))):
            parts.append(
                Rows(
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

    def refuse(self, reasons: dict[int, str]) -> Rows:
        """The same, without the rows at these positions of index, which are bad."""
        if not reasons:
            return self
        positions = [i for i in range(len(self.index)) if i not in reasons]
        bad = [self.describe(int(self.index[i]), reason) for i, reason in reasons.items()]
        return Rows(
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


def take(column: Column | list, positions: Sequence[int]) -> Any:
    """Some rows of a column, in the order given."""
    return column[positions] if isinstance(column, np.ndarray) else [column[i] for i in positions]


def joined(parts: Sequence[Column]) -> Column:
    """Columns one behind the other: an array where every row has the same shape and dtype."""
    if len(parts) == 1:
        return parts[0]
    arrays = all(isinstance(part, np.ndarray) for part in parts)
    if arrays and len({(part.shape[1:], part.dtype) for part in parts}) == 1:
        return np.concatenate(parts)
    return [row for part in parts for row in part]


def shapes(column: Column) -> Iterator[tuple[int, ...]]:
    """The shape of each row."""
    if isinstance(column, np.ndarray):
        return iter([column.shape[1:]] * len(column))
    return (row.shape for row in column)


def sizes(column: Column, positions: Sequence[int]) -> np.ndarray:
    """The shapes of some rows that have as many dimensions each, (rows, dimensions)."""
    if isinstance(column, np.ndarray):
        return np.broadcast_to(np.array(column.shape[1:], np.int64), (len(positions), column.ndim - 1))
    return np.array([column[i].shape for i in positions], np.int64)
