"""A model over the rows of a shard: batches by length inside, results in the order of the rows.

A row's result is the same whatever stands beside it: rows are padded only where the graph proves that padding is
never read (see plan.py); elsewhere only rows of the same shape run together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rnncore.batch.plan import Plan
from rnncore.batch.rows import Column, shapes, take
from rnncore.errors import InputError
from rnncore.model import Model
from rnncore.ops import UNKNOWN, numpy_dtype

__all__ = ["Runner"]

WORKING_BYTES = 96 << 20  # what the values of a batch may need together: long rows run in smaller batches
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

    def __call__(
        self, columns: dict[str, Column], shared: dict[str, np.ndarray]
    ) -> tuple[dict[str, Column], dict[int, str]]:
        """Outputs by name of the rows that can be run, in their order, and why others cannot, by position."""
        bad = self.check(columns, shared)
        count = len(next(iter(columns.values())))
        if not self.plan.apart:
            return self._whole(columns, shared, bad), {}
        if not count and all(isinstance(column, np.ndarray) for column in columns.values()):
            return self._whole(columns, shared, bad), {}
        results: dict[str, list] = {name: [None] * count for name in self.plan.spec.outputs}
        for positions in self._batches(columns, [i for i in range(count) if i not in bad]):
            self._run(columns, shared, positions, results, bad)
        good = [i for i in range(count) if i not in bad]
        return {name: self._column(name, [found[i] for i in good]) for name, found in results.items()}, bad

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
        """Positions of rows that run together, long ones first."""
        plan = self.plan
        names = list(columns)
        found = {name: list(shapes(columns[name])) for name in names}
        groups: dict[tuple, list[tuple[int, ...]]] = {}
        for i in positions:
            fixed, free = [], []
            for name in names:
                for size, steps in zip(plan.shapes[name], found[name][i], strict=True):
                    (free if size in plan.padded else fixed).append(steps)
            groups.setdefault(tuple(fixed), []).append((*free, i))
        batches = []
        for rows in groups.values():
            rows.sort(key=lambda row: (*(-steps for steps in row[:-1]), row[-1]))
            at = 0
            while at < len(rows):
                widest = plan.sizes({name: found[name][rows[at][-1]] for name in names})
                most = max(1, min(self.batch_size, WORKING_BYTES // max(plan.working_bytes(widest), 1)))
                batches.append([row[-1] for row in rows[at : at + most]])
                at += most
        return batches

    def _run(self, columns, shared, positions: list[int], results: dict[str, list], bad: dict[int, str]) -> None:
        """Runs a batch; one that the model refuses is halved until the rows that it refuses are alone."""
        inputs, sizes = self._inputs(columns, positions)
        try:
            outputs = self.model.run({**shared, **inputs})
        except InputError as error:
            if len(positions) == 1:
                bad[positions[0]] = str(error)
            else:
                half = len(positions) // 2
                for part in (positions[:half], positions[half:]):
                    self._run(columns, shared, part, results, bad)
            return
        for name, array in outputs.items():
            axis, shape = self.plan.axes[name], self.plan.shapes[name]
            rows = np.moveaxis(array, axis, 0)
            cut = [(k, size) for k, size in enumerate(shape) if size in sizes]
            for row, i in enumerate(positions):
                one = rows[row]
                for k, size in cut:
                    one = one[(slice(None),) * k + (slice(sizes[size][row]),)]
                results[name][i] = one

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

    def _column(self, name: str, rows: list[np.ndarray]) -> Column:
        if rows and len({row.shape for row in rows}) == 1:
            return np.stack(rows)
        if rows:
            return rows
        shape = [size if isinstance(size, int) else 0 for size in self.plan.shapes[name]]
        return np.zeros((0, *shape), numpy_dtype(self.plan.spec.values[name].dtype, self.model.dtype))


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
