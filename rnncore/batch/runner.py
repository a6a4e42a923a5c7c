"""A model over the rows of a shard: batches by length inside, results in the order of the rows.

A row's result is the same whatever other rows run with it: rows are padded only where the graph proves that padding is
never read (see plan.py); elsewhere only rows of the same shape run together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from rnncore.batch.plan import RowPlan
from rnncore.batch.rows import Column, Ragged, filled, ranks, shapes, sizes, take
from rnncore.batch.workers import Workers
from rnncore.errors import InputError
from rnncore.kernels import runs_native
from rnncore.ops import UNKNOWN, numpy_dtype
from rnncore.runtime.model import Model

__all__ = ["Found", "Runner"]

WORKING_BYTES = 96 << 20  # what the values of a batch may need together: long rows run in smaller batches
Found = tuple[dict[str, Column], dict[int, str]]
KINDS = {"f": "fiub", "i": "iu", "u": "iu", "b": "b"}


class Runner:
    """Runs rows through a model; keeps nothing between calls.

    batch_size  the rows that run together at most
    """

    def __init__(self, model: Model, plan: RowPlan, batch_size: int):
        self.model = model
        self.plan = plan
        self.batch_size = batch_size
        self._entries = {entry.name: entry for entry in model.inputs}

    def __call__(self, columns: dict[str, Column], shared: dict[str, np.ndarray]) -> Found:
        """Outputs by name of the rows that can be run, in their order, and why others cannot, by position."""
        return self.begin(columns, shared)()

    def begin(
        self, columns: dict[str, Column], shared: dict[str, np.ndarray], workers: Workers | None = None
    ) -> Callable[[], Found]:
        """Hands the rows to workers, batch by batch; the function that it returns waits for what a call gives.

        Without workers the batches run one after the other, here. So they do on BLAS, which has threads of its own.
        """
        bad = self.check(columns, shared)
        count = len(next(iter(columns.values())))
        nothing = not count and all(isinstance(column, np.ndarray) for column in columns.values())
        if nothing or not self.plan.independent:
            whole = self._whole(columns, shared, bad)
            return lambda: (whole, {})
        good = [i for i in range(count) if i not in bad]
        batches = self._batches(columns, good)
        gathered = Gathered(self.plan, count, self._sizes(columns, good, count))

        def work(positions: list[int], threads: int | None = None) -> None:
            self._run(columns, shared, positions, gathered, bad, threads)

        if workers is None or not runs_native(self.model.dtype):
            for positions in batches:
                work(positions)
            return lambda: (gathered.columns(bad), bad)
        wait = workers.each(work, batches)

        def finish() -> Found:
            wait()
            return gathered.columns(bad), bad

        return finish

    def _whole(
        self, columns: dict[str, Column], shared: dict[str, np.ndarray], bad: dict[int, str]
    ) -> dict[str, Column]:
        """Outputs of all rows in one call, for a model that mixes rows; those without rows are as they are."""
        axes = self.plan.axes
        return {
            name: array if (axis := axes[name]) is None else np.moveaxis(array, axis, 0)
            for name, array in self.model.run(self.together(columns, shared, bad)).items()
        }

    def together(
        self, columns: dict[str, Column], shared: dict[str, np.ndarray], bad: dict[int, str]
    ) -> dict[str, np.ndarray]:
        """All rows as the inputs of one call. InputError for bad rows, and for shapes that cannot be filled up."""
        if bad:
            position, reason = next(iter(bad.items()))
            raise InputError(f"row {position}: {reason} (rows run together: none can be left out)")
        for name, column in columns.items():
            if len({*shapes(column)}) > 1 and not set(self.plan.shapes[name]) & set(self.plan.padded):
                raise InputError(f"{name}: rows of several shapes, expected one: this model takes all rows together")
        inputs, _ = self._inputs(columns, list(range(len(next(iter(columns.values()))))))
        return {**shared, **inputs}

    def check(self, columns: dict[str, Column], shared: dict[str, np.ndarray]) -> dict[int, str]:
        """Why rows do not fit the model's inputs, by position; InputError for what is wrong with all of them."""
        given = {*columns, *shared}
        for name in given:
            if name not in self._entries:
                raise InputError(f"input {name!r} is unknown, expected {', '.join(self._entries)}")
        for entry in self._entries.values():
            if entry.name not in given and not entry.optional:
                raise InputError(f"input {entry.name!r} missing, expected {entry.value}")
        bad: dict[int, str] = {}
        known: dict[str, np.ndarray] = {}  # the value of each named size, by row
        for name, column in columns.items():
            self._check_shapes(name, column, known, bad)
            self._check_dtypes(name, column, bad)
        for name in self.plan.lengths & set(columns):
            column = columns[name]
            lengths = column if isinstance(column, np.ndarray) else [0 if i in bad else n for i, n in enumerate(column)]
            self._check_lengths(name, np.array(lengths, np.int64), known, bad)
        return bad

    def _check_shapes(self, name: str, column: Column, known: dict[str, np.ndarray], bad: dict[int, str]) -> None:
        wanted, count = self.plan.shapes[name], len(column)
        fits = ranks(column) == len(wanted)
        actual = np.zeros((count, len(wanted)), np.int64)
        actual[fits] = sizes(column, np.flatnonzero(fits), len(wanted))
        for size, steps in zip(wanted, actual.T, strict=True):
            if size != UNKNOWN:
                fits &= steps == (known.setdefault(size, steps) if isinstance(size, str) else size)
        for i in np.flatnonzero(~fits).tolist():
            shape = column[i].shape
            if len(shape) == len(wanted):
                wanted_here = tuple(int(known[size][i]) if size in known else size for size in wanted)
            else:
                wanted_here = wanted
            bad.setdefault(i, f"{name}: shape {shape}, expected {_written(wanted_here)}")

    def _check_dtypes(self, name: str, column: Column, bad: dict[int, str]) -> None:
        dtype = self._dtype(name)
        if isinstance(column, np.ndarray) and column.dtype.kind not in KINDS[dtype.kind]:
            raise InputError(f"{name}: dtype {column.dtype}, expected {dtype}")
        dtypes = {row.dtype for row in column} if isinstance(column, list) else {column.dtype}
        limits = np.iinfo(dtype) if dtype.kind in "iu" else None
        odd = {kind for kind in dtypes if kind.kind not in KINDS[dtype.kind]}
        wide = {kind for kind in dtypes - odd if limits and not np.can_cast(kind, dtype)}
        if not odd and not wide:
            return
        for i, row in enumerate(column):
            if row.dtype in odd:
                bad.setdefault(i, f"{name}: dtype {row.dtype}, expected {dtype}")
            elif limits and row.dtype in wide and row.size and (row.min() < limits.min or row.max() > limits.max):
                bad.setdefault(i, f"{name}: a number that does not fit into {dtype}")

    def _check_lengths(self, name: str, lengths: np.ndarray, known: dict[str, np.ndarray], bad: dict[int, str]) -> None:
        times = {
            self.plan.spec.values[node.input].shape[1 if node.layout == "batch_first" else 0]
            for node in self.plan.spec.recurrent
            if node.lengths == name
        }
        for time in times:
            if isinstance(time, str) and time not in known:
                continue
            steps = np.broadcast_to(known[time] if isinstance(time, str) else time, len(lengths))
            for i in np.flatnonzero((lengths < 0) | (lengths > steps)).tolist():
                bad.setdefault(i, f"{name}: {int(lengths[i])}, expected 0 to {steps[i]}")

    def _dtype(self, name: str) -> np.dtype:
        return numpy_dtype(self._entries[name].dtype, self.model.dtype)

    def _batches(self, columns: dict[str, Column], positions: Sequence[int]) -> list[list[int]]:
        """Positions of rows that run together: of one shape but for what may be filled up, long ones first."""
        if not len(positions):
            return []
        fixed: list[np.ndarray] = []
        free: list[np.ndarray] = []
        known: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            known[name] = sizes(column, positions, len(self.plan.shapes[name]))
            for size, steps in zip(self.plan.shapes[name], known[name].T, strict=True):
                (free if size in self.plan.padded else fixed).append(steps)
        order = np.lexsort((positions, *(-steps for steps in reversed(free)), *fixed))
        changes = np.zeros(len(order), bool)
        for steps in fixed:
            changes[1:] |= np.diff(steps[order]) != 0
        ends = [*np.flatnonzero(changes).tolist(), len(order)]
        batches, at = [], 0
        for end in ends:
            while at < end:
                widest = self.plan.sizes({name: tuple(steps[order[at]].tolist()) for name, steps in known.items()})
                most = max(1, min(self.batch_size, WORKING_BYTES // max(self.plan.working_bytes(widest), 1)))
                batches.append([positions[i] for i in order[at : min(at + most, end)]])
                at += len(batches[-1])
        return batches

    def _sizes(self, columns: dict[str, Column], good: Sequence[int], count: int) -> dict[str, np.ndarray]:
        """The value of each named size, by row; 0 in bad ones."""
        known: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            shape = self.plan.shapes[name]
            for size, steps in zip(shape, sizes(column, good, len(shape)).T, strict=True):
                if isinstance(size, str) and size != UNKNOWN:
                    known.setdefault(size, np.zeros(count, np.int64))[good] = steps
        return known

    def _run(self, columns, shared, positions: list[int], gathered: Gathered, bad: dict[int, str], threads) -> None:
        """Runs a batch; one that the model refuses is halved until the rows that it refuses are alone."""
        inputs, sizes = self._inputs(columns, positions)
        try:
            outputs = self.model.run({**shared, **inputs}, num_threads=threads)
        except InputError as error:
            if len(positions) == 1:
                bad[positions[0]] = str(error)
            else:
                half = len(positions) // 2
                for part in (positions[:half], positions[half:]):
                    self._run(columns, shared, part, gathered, bad, threads)
            return
        for name, array in outputs.items():
            gathered.add(name, np.moveaxis(array, cast(int, self.plan.axes[name]), 0), positions, sizes)

    def _inputs(
        self, columns: dict[str, Column], positions: list[int]
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """The arrays of a batch, and for sizes that are padded here each row's own."""
        plan, inputs = self.plan, {}
        own: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            axis, dtype = plan.axes[name], self._dtype(name)
            rows = take(column, positions)
            if isinstance(rows, np.ndarray):
                array = rows.astype(dtype, copy=False)
            else:
                lengths = sizes(rows, range(len(rows)), len(plan.shapes[name]))
                array = filled(rows, lengths.max(axis=0, initial=0).tolist(), dtype)
                for size, steps in zip(plan.shapes[name], lengths.T, strict=True):
                    if isinstance(size, str) and size in plan.padded:
                        own[size] = steps
            inputs[name] = np.moveaxis(array, 0, cast(int, axis))
        ragged = {size: steps for size, steps in own.items() if (steps != steps[:1]).any()}
        for size, steps in ragged.items():
            for name in plan.padded[size]:
                inputs.setdefault(name, steps)
        return inputs, ragged


class Gathered:
    """Outputs of batches on their way into the order of the rows; each row is put in by one thread.

    known  the value of each named size, by row, (rows,)
    """

    def __init__(self, plan: RowPlan, count: int, known: dict[str, np.ndarray]):
        self._plan, self._count = plan, count
        self._columns = {name: self._place_for(name, known) for name in plan.spec.outputs}

    def _place_for(self, name: str, known: dict[str, np.ndarray]) -> Column | list[None]:
        """A place for every row of an output; a list where only the rows themselves tell their shape."""
        shape, count = self._plan.shapes[name], self._count
        if not any(isinstance(size, str) for size in shape):
            return np.empty(cast("tuple[int, ...]", (count, *shape)), self._dtype(name))
        if not all(isinstance(size, int) or size in known for size in shape):
            return [None] * count
        axes = [np.broadcast_to(known[size] if isinstance(size, str) else size, count) for size in shape]
        counts: Any = math.prod(axes)
        return Ragged(np.empty(counts.sum(), self._dtype(name)), np.cumsum(counts) - counts, np.stack(axes, axis=1))

    def _dtype(self, name: str) -> np.dtype:
        return numpy_dtype(self._plan.spec.values[name].dtype, self._plan.dtype)

    def add(self, name: str, rows: np.ndarray, positions: list[int], sizes: dict[str, np.ndarray]) -> None:
        """Rows of a batch, (rows, ...); sizes: what each has of a size that was filled up."""
        column: Any = self._columns[name]
        if isinstance(column, np.ndarray):
            column[positions] = rows
        elif isinstance(column, Ragged):
            column.put(positions, rows)
        else:
            cut = [(k, sizes[size]) for k, size in enumerate(self._plan.shapes[name]) if size in sizes]
            for row, i in enumerate(positions):
                column[i] = rows[row]
                for k, steps in cut:
                    column[i] = column[i][(slice(None),) * k + (slice(steps[row]),)]

    def columns(self, bad: dict[int, str]) -> dict[str, Column]:
        """All rows but the bad ones."""
        good = [i for i in range(self._count) if i not in bad] if bad else None
        return {name: self._column(name, good) for name in self._columns}

    def _column(self, name: str, good: list[int] | None) -> Column:
        column: Any = self._columns[name]
        rows: Any = column if good is None else take(column, good)
        if not len(rows):
            shape = (size if isinstance(size, int) else 0 for size in self._plan.shapes[name])
            return np.zeros((0, *shape), self._dtype(name))
        if isinstance(rows, np.ndarray) or len({*shapes(rows)}) > 1:
            return rows
        return rows.packed().reshape(len(rows), *rows.shapes[0]) if isinstance(rows, Ragged) else np.stack(rows)


def _written(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def row_bytes(plan: RowPlan, columns: dict[str, Column]) -> np.ndarray:
    """About what each row and its outputs need in memory, (rows,)."""
    own: Any = 0
    fits = np.ones(len(next(iter(columns.values()))), bool)
    for name, column in columns.items():
        own = own + _numbers(column) * 8
        fits &= ranks(column) == len(plan.shapes.get(name, ()))
    some = np.flatnonzero(fits)
    known = {}
    for name, column in columns.items():
        if name in plan.shapes:
            for size, steps in zip(plan.shapes[name], sizes(column, some, len(plan.shapes[name])).T, strict=True):
                if isinstance(size, str):
                    known[size] = steps
    own[some] += plan.output_bytes(known)
    return own


def _numbers(column: Column) -> np.ndarray:
    """The count of numbers of each row, (rows,)."""
    if isinstance(column, np.ndarray):
        return np.full(len(column), math.prod(column.shape[1:]), np.int64)
    if isinstance(column, Ragged):
        return column.counts
    return np.array([row.size for row in column], np.int64)
