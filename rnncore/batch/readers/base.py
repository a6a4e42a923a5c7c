"""The common part of the readers of data files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from rnncore.batch.plan import RowPlan
from rnncore.batch.rows import Column
from rnncore.errors import InputError
from rnncore.graph.nodes import Input

__all__ = ["FileRows", "ReadOptions", "Reader", "bind_columns", "only_input"]

CHUNK_BYTES = 4 << 20
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class ReadOptions:
    """The options of reading a file.

    columns   of a table of steps: the features, in this order; of a table of rows: INPUT=COLUMN, or COLUMN for the
              only required input
    sequence  column of a table of steps that says which sequence a step belongs to
    keep      columns that are copied to the results
    lengths   how many steps of each row count, for arrays that do not say so themselves
    """

    plan: RowPlan
    columns: tuple[str, ...] = ()
    sequence: str | None = None
    keep: tuple[str, ...] = ()
    lengths: np.ndarray | None = None


@dataclass
class FileRows:
    """Rows of one file from ``start`` on: ``good`` are the positions that can be run, bad says why others cannot."""

    start: int
    count: int
    good: np.ndarray
    columns: dict[str, Column]
    kept: dict[str, list] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)

    @classmethod
    def whole(
        cls, start: int, count: int, columns: Mapping[str, Column], kept: dict[str, list] | None = None
    ) -> FileRows:
        return cls(start, count, np.arange(count), dict(columns), kept or {})


class Reader(Protocol):
    """An open data file.

    rows    how many it holds, or None where only reading to the end tells
    shared  inputs that all rows have in common
    types   Arrow types of the kept columns, where the file knows them
    """

    rows: int | None
    shared: dict[str, np.ndarray]
    types: dict[str, Any]

    def parts(self, skip: int) -> Iterator[FileRows]:
        """The rows from number ``skip`` on, some at a time."""

    def share(self) -> float:
        """The part of the file that has been read, from 0 to 1."""

    def close(self) -> None: ...


def only_input(plan: RowPlan, what: str) -> Input:
    """The one required input. InputError that begins with ``what`` where there are several."""
    required = [entry for entry in plan.spec.inputs if not entry.optional]
    if len(required) != 1:
        names = ", ".join(entry.name for entry in required)
        raise InputError(f"{what} holds one input, but the model needs {names}: expected a .npz, .jsonl or .parquet")
    return required[0]


def bind_columns(options: ReadOptions, names: list[str], lists: list[str]) -> dict[str, str]:
    """Input -> column of a table whose rows are sequences.

    names are its columns, and lists those that may be a sequence. Without columns in the options: the inputs' own
    names, or for a model with one required input the only list.
    """
    inputs = [entry.name for entry in options.plan.spec.inputs]
    bound: dict[str, str] = {}
    for asked in options.columns:
        name, equals, column = asked.partition("=")
        if not equals:
            name, column = only_input(options.plan, f"--columns {asked}").name, asked
        if name not in inputs:
            raise InputError(f"--columns {asked}: input {name!r} is unknown, expected {', '.join(inputs)}")
        if name in bound:
            raise InputError(f"--columns {asked}: input {name!r} is given twice")
        if column not in names:
            raise InputError(f"column {column!r} is not there, expected one of {', '.join(names)}")
        bound[name] = column
    for name in inputs:
        if name not in bound and name in names and name not in bound.values():
            bound[name] = name
    required = [entry.name for entry in options.plan.spec.inputs if not entry.optional and entry.name not in bound]
    free = [name for name in lists if name not in bound.values() and name not in options.keep]
    if len(required) == 1 and len(free) == 1:
        bound[required.pop()] = free[0]
    if required:
        raise InputError(
            f"no column for input {required[0]!r} among {', '.join(names)}: expected --columns {required[0]}=COLUMN"
        )
    return bound


def kept_columns(options: ReadOptions, names: list[str], used: dict[str, str]) -> list[str]:
    """The columns to keep: those asked for, or one named "id"."""
    missing = [name for name in options.keep if name not in names]
    if missing:
        raise InputError(f"column {missing[0]!r} is not there, expected one of {', '.join(names)}")
    return list(options.keep) or (["id"] if "id" in names and "id" not in used.values() else [])
