"""A model over the rows of a shard: batches by length inside, results in the order of the rows.

A row's result is the same whatever stands beside it: rows are padded only where the graph proves that padding is
never read (see plan.py); elsewhere only rows of the same shape run together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from rnncore.batch.plan import Plan
from rnncore.batch.rows import Column, shapes, sizes, take
from rnncore.batch.workers import Workers
from rnncore.errors import InputError
from rnncore.kernels import runs_native
from rnncore.model import Model
from rnncore.ops import UNKNOWN, numpy_dtype

__all__ = ["Found", "Runner"]

WORKING_BYTES = 96 << 20  # what the values of a batch may need together: long rows run in smaller batches
Found = tuple[dict[str, Column], dict[int, str]]
KINDS = {"f": "fiub", "i": "iu", "u": "iu", "b": "b"}


class Runner:
    """Runs rows through a model; keeps nothing between calls.

    batch_size  at most so many rows together
    """

    def __init__(self, model: Model, plan: Plan, batch_size: int):
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
        if nothing or not self.plan.apart:
            whole = self._whole(columns, shared, bad)
            return lambda: (whole, {})
        gathered = Gathered(self.plan, count)

        def work(positions: list[int], threads: int | None = None) -> None:
            self._run(columns, shared, positions, gathered, bad, threads)

        batches = self._batches(columns, [i for i in range(count) if i not in bad])
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
            name: array if axes[name] is None else np.moveaxis(array, axes[name], 0)
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
        sizes: list[dict[str, int]] = [{} for _ in range(len(next(iter(columns.values()))))]
        for name, column in columns.items():
            self._check_column(name, column, sizes, bad)
        for name in self.plan.lengths & set(columns):
            self._check_lengths(name, columns[name], sizes, bad)
        return bad

    def _check_column(self, name: str, column: Column, sizes: list[dict[str, int]], bad: dict[int, str]) -> None:
        wanted, dtype = self.plan.shapes[name], self._dtype(name)
        if isinstance(column, np.ndarray) and column.dtype.kind not in KINDS[dtype.kind]:
            raise InputError(f"{name}: dtype {column.dtype}, expected {dtype}")
        for i, shape in enumerate(shapes(column)):
            if i in bad:
                continue
            known = sizes[i]
            fits = len(shape) == len(wanted)
            for size, found in zip(wanted, shape, strict=False):
                named = isinstance(size, str) and size != UNKNOWN
                expected = known.setdefault(size, found) if named else found if size == UNKNOWN else size
                fits = fits and found == expected
            if not fits:
                same_rank = len(shape) == len(wanted)
                resolved = tuple(known.get(size, size) for size in wanted) if same_rank else wanted
                bad[i] = f"{name}: shape {shape}, expected {_written(resolved)}"
            elif column[i].dtype.kind not in KINDS[dtype.kind]:
                bad[i] = f"{name}: dtype {column[i].dtype}, expected {dtype}"
            elif dtype.kind in "iu" and not np.can_cast(column[i].dtype, dtype) and column[i].size:
                limits = np.iinfo(dtype)
                if column[i].min() < limits.min or column[i].max() > limits.max:
                    bad[i] = f"{name}: a number that does not fit into {dtype}"

    def _check_lengths(self, name: str, column: Column, sizes: list[dict[str, int]], bad: dict[int, str]) -> None:
        times = {
            self.plan.spec.values[node.input].shape[1 if node.layout == "batch_first" else 0]
            for node in self.plan.spec.recurrent
            if node.lengths == name
        }
        for i in range(len(column)):
            for time in times:
                steps = sizes[i].get(time, time if isinstance(time, int) else None)
                if i not in bad and steps is not None and not 0 <= column[i] <= steps:
                    bad[i] = f"{name}: {int(column[i])}, expected 0 to {steps}"

    def _dtype(self, name: str) -> np.dtype:
        return numpy_dtype(self._entries[name].dtype, self.model.dtype)

    def _batches(self, columns: dict[str, Column], positions: Sequence[int]) -> list[list[int]]:
        """Positions of rows that run together: of one shape but for what may be filled up, long ones first."""
        if not len(positions):
            return []
        fixed, free = [], []
        known: dict[str, np.ndarray] = {}
        for name, column in columns.items():
            known[name] = sizes(column, positions)
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
                widest = self.plan.sizes({name: tuple(found[order[at]].tolist()) for name, found in known.items()})
                most = max(1, min(self.batch_size, WORKING_BYTES // max(self.plan.working_bytes(widest), 1)))
                batches.append([positions[i] for i in order[at : min(at + most, end)]])
                at += len(batches[-1])
        return batches

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
            gathered.add(name, np.moveaxis(array, self.plan.axes[name], 0), positions, sizes)

    def _inputs(
        self, columns: dict[str, Column], positions: list[int]
    ) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
        """The arrays of a batch, and for sizes that are padded here each row's own."""
        plan, inputs = self.plan, {}
        own: dict[str, list[int]] = {}
        for name, column in columns.items():
            axis, dtype = plan.axes[name], self._dtype(name)
            rows = take(column, positions)
            if isinstance(rows, np.ndarray):
                array = rows.astype(dtype, copy=False)
            else:
                array = _stacked(rows, dtype)
                for k, size in enumerate(plan.shapes[name]):
                    if size in plan.padded:
                        own[size] = [row.shape[k] for row in rows]
            inputs[name] = np.moveaxis(array, 0, axis)
        ragged = {size: steps for size, steps in own.items() if len(set(steps)) > 1}
        for size, steps in ragged.items():
            for name in plan.padded[size]:
                inputs.setdefault(name, np.array(steps, np.int64))
        return inputs, ragged


class Gathered:
    """Outputs of batches on their way into the order of the rows; each row is put in by one thread."""

    def __init__(self, plan: Plan, count: int):
        self._plan, self._count = plan, count
        self._columns = {name: self._empty(name, count) for name in plan.spec.outputs}

    def _empty(self, name: str, count: int) -> Column | list[None]:
        """An array for an output all of whose rows have one shape, else a list."""
        shape = self._plan.shapes[name]
        return [None] * count if any(isinstance(size, str) for size in shape) else self._array(name, count)

    def _array(self, name: str, count: int) -> np.ndarray:
        shape = (size if isinstance(size, int) else 0 for size in self._plan.shapes[name])
        return np.empty((count, *shape), numpy_dtype(self._plan.spec.values[name].dtype, self._plan.dtype))

    def add(self, name: str, rows: np.ndarray, positions: list[int], sizes: dict[str, list[int]]) -> None:
        """Rows of a batch, (rows, ...); sizes: what each has of a size that was filled up."""
        column = self._columns[name]
        if isinstance(column, np.ndarray):
            column[positions] = rows
            return
        cut = [(k, sizes[size]) for k, size in enumerate(self._plan.shapes[name]) if size in sizes]
        for row, i in enumerate(positions):
            one = rows[row]
            for k, steps in cut:
                one = one[(slice(None),) * k + (slice(steps[row]),)]
            column[i] = one

    def columns(self, bad: dict[int, str]) -> dict[str, Column]:
        """All rows but the bad ones."""
        good = [i for i in range(self._count) if i not in bad] if bad else None
        return {name: self._column(name, good) for name in self._columns}

    def _column(self, name: str, good: list[int] | None) -> Column:
        column = self._columns[name]
        rows = column if good is None else take(column, good)
        if isinstance(rows, np.ndarray):
            return rows
        if not rows:
            return self._array(name, 0)
        return np.stack(rows) if len({row.shape for row in rows}) == 1 else rows


def _stacked(rows: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Rows side by side, (rows, ...), filled up with zeros to the longest."""
    if not rows:
        return np.zeros((0,), dtype)
    shape = tuple(max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True))
    if not shape:
        return np.array(rows, dtype)
    array = np.zeros((len(rows), *shape), dtype)
    if len(shape) == 1:
        for place, row in zip(array, rows, strict=True):
            place[: len(row)] = row
    else:
        for place, row in zip(array, rows, strict=True):
            place[tuple(slice(size) for size in row.shape)] = row
    return array


def _written(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def row_bytes(plan: Plan, columns: dict[str, Column]) -> np.ndarray:
    """About what each row and its outputs need in memory, (rows,)."""
    names = list(columns)
    costs: dict[tuple, int] = {}
    found = []
    for row in zip(*(shapes(columns[name]) for name in names), strict=True):
        if row not in costs:
            own = sum(math.prod(shape) * 8 for shape in row)
            known = dict(zip(names, row, strict=True))
            fits = all(len(shape) == len(plan.shapes.get(name, ())) for name, shape in known.items())
            costs[row] = own + (plan.output_bytes(plan.sizes(known)) if fits else 0)
        found.append(costs[row])
    return np.array(found, np.int64)
