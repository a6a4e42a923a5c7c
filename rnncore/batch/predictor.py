"""BatchPredictor: a model as other engines of batch work take it, from a dict of arrays to a dict of arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.batch.plan import RowPlan
from rnncore.batch.rows import Column, empty_row
from rnncore.batch.runner import Runner
from rnncore.errors import InputError
from rnncore.formats import loading
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model

__all__ = ["BatchPredictor"]


class BatchPredictor:
    """A model over batches of named columns; picklable, and loaded once in each process.

    path         what rnncore.load takes
    columns      input -> column, where their names differ
    only         these outputs instead of the model's own
    keep         columns that are passed on; None: all that are no inputs
    batch_size   the rows that run together at most
    num_threads  of one process. Engines that start a process for each core want 1, which is the default
    spec, names, dtype   as in rnncore.load

    Called with {column: array of rows, or of arrays of different lengths (dtype object), or list of arrays}, it
    returns the columns that are kept and the outputs, in the same order of rows: an array where all rows have one
    shape, else an array of dtype object that holds an array for each row. A row's result does not depend on the
    batch. Raises InputError, naming the row, for a row that does not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Mapping[str, str] | None = None,
        only: str | tuple[str, ...] = (),
        keep: tuple[str, ...] | None = None,
        batch_size: int = 256,
        num_threads: int | None = 1,
        spec: Any = None,
        names: Mapping[str, str] | None = None,
        dtype: str | None = None,
    ):
        self._given = {
            "path": os.fspath(path),
            "columns": dict(columns or {}),
            "only": (only,) if isinstance(only, str) else tuple(only),
            "keep": None if keep is None else tuple(keep),
            "batch_size": batch_size,
            "num_threads": num_threads,
            "spec": spec,
            "names": None if names is None else dict(names),
            "dtype": dtype,
        }
        self._made: Runner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_given": self._given, "_made": None}

    @property
    def model(self) -> Model:
        return self._runner.model

    @property
    def _runner(self) -> Runner:
        """Made at first use, so that what is sent to a worker is the path and not the weights."""
        if self._made is None:
            given = self._given
            opened = loading.open_file(given["path"], spec=given["spec"], names=given["names"])
            graph = Spec(opened.spec.inputs, opened.spec.nodes, given["only"] or opened.spec.outputs)
            dtype = given["dtype"] or opened.dtype
            plan = RowPlan.of(graph, np.dtype(dtype))
            if not plan.independent:
                raise InputError(f"{given['path']}: its rows are not independent, so batches would give other numbers")
            model = Model(graph, opened.weights, dtype, given["num_threads"])
            self._made = Runner(model, plan, given["batch_size"])
        return self._made

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray]:
        runner, given = self._runner, self._given
        sources = {entry.name: given["columns"].get(entry.name, entry.name) for entry in runner.model.inputs}
        unknown = [name for name in given["columns"] if name not in sources]
        if unknown:
            raise InputError(f"columns: input {unknown[0]!r} is unknown, expected {', '.join(sources)}")
        inputs = {
            name: _column(batch[column], runner.plan.shapes[name])
            for name, column in sources.items()
            if column in batch
        }
        if not inputs:
            raise InputError(f"no column for an input among {', '.join(batch)}, expected {', '.join(sources.values())}")
        outputs, bad = runner(inputs, {})
        if bad:
            position, reason = min(bad.items())
            raise InputError(f"row {position} of the batch: {reason}")
        keep = given["keep"]
        kept = [name for name in batch if name not in sources.values()] if keep is None else keep
        clash = [name for name in kept if name in outputs]
        if clash:
            raise InputError(f"output {clash[0]!r} has the name of a column that is kept: expected keep without it")
        return {**{name: batch[name] for name in kept}, **{name: _result(array) for name, array in outputs.items()}}


def _column(given: Any, shape: tuple[int | str, ...]) -> Column:
    """Rows as an array or a list of arrays; lists in a row become arrays, nested ones too."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        return given
    rows = [row if isinstance(row, np.ndarray) and row.dtype != object else _row(row) for row in given]
    return [empty_row(shape) if row.shape == (0,) else row for row in rows]


def _row(given: Any) -> np.ndarray:
    if given is None:
        raise InputError("a row is None, expected numbers")
    nested = isinstance(given, (np.ndarray, list, tuple)) and len(given) and not np.isscalar(given[0])
    return np.stack([_row(item) for item in given]) if nested else np.asarray(given)


def _result(column: Column) -> np.ndarray:
    if isinstance(column, np.ndarray):
        return column
    objects = np.empty(len(column), object)
    objects[:] = list(column)
    return objects
