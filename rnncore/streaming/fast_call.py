"""One fast call of a stream through a graph that keeps no steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from rnncore.graph.nodes import Recurrent
from rnncore.kernels import _recurrent
from rnncore.kernels._graph import walk
from rnncore.kernels._pool import DirectStream, Owner
from rnncore.ops import numpy_dtype
from rnncore.runtime.model import nothing
from rnncore.runtime.recurrent import RecurrentStep
from rnncore.streaming.states import StreamStates

__all__ = ["FastCall"]

Values = dict[str, Any]


class FastCall:
    """One fast call of a stream's rows through a plain graph: one piece of its only input, states changed in place.

    Made by ``of``, which returns None for graphs that do not have one. Calling it returns the outputs by name, or None
    for a piece that needs StreamStates.advance, which also raises the errors.
    """

    @classmethod
    def of(cls, rows: StreamStates) -> FastCall | None:
        program = rows.program
        fits = program.plain and len(program.given) == 1 and not (program.static or rows.static or program.plan.fixed)
        fits = fits and (program.affordable is not None or not program.model._limited)
        layers = [part.node for part in program.plan.parts if part.how == "recurrent"]
        for node in layers:
            step = program.model._steps[program.plan.spec.nodes.index(node)]
            packed = isinstance(step, RecurrentStep) and isinstance(step.stack, _recurrent.Stack) and step.table is None
            fits = fits and packed and node.layout == "batch_first" and node.mask is None
        return cls(rows) if fits and layers else None

    def __init__(self, rows: StreamStates):
        self.rows, program = rows, rows.program
        plan, model = program.plan, program.model
        (self.entry,) = program.given
        self.name, self.dtype = self.entry.name, numpy_dtype(self.entry.dtype, model.dtype)
        self.seen: tuple[int, ...] | None = None  # a shape that fits
        batch = plan.flows[self.entry.name].batch
        self.batch_first = batch == 0
        self.time, self.affordable = plan.flows[self.entry.name].time, program.affordable
        self.sizes = [
            (axis, rows.capacity if axis == batch else size)
            for axis, size in enumerate(self.entry.shape)
            if axis == batch or isinstance(size, int)
        ]
        self.base = {**program.counts_of(rows.capacity), **model._constants, **program.absent}
        wanted = set(plan.outputs).union(*(node.reads for node in plan.spec.nodes))
        self.steps = []
        for part, step in zip(plan.parts, program.uncounted, strict=True):
            if part.how == "recurrent":
                self.steps.append(_Layer(part.node, model._steps[part.place], rows.arrays, wanted))
            elif part.how != "static" and step is not nothing:
                self.steps.append(step)
        self.bindings, self.kept = program.bindings, {name: rows.arrays[name] for name in rows.recurrent}
        self.states = [rows.arrays[name] for name in rows.recurrent]

    def lacks_batch(self, x: Any) -> bool:
        """Whether x is a piece without its first axis, the batch."""
        return self.batch_first and type(x) is np.ndarray and x.ndim == len(self.entry.shape) - 1

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the input may have this shape, which is then remembered: pieces often have one."""
        fits = len(shape) == len(self.entry.shape) and 0 not in shape
        if fits and all(shape[axis] == size for axis, size in self.sizes):
            self.seen = shape
            return True
        return False

    def __call__(self, x: Any) -> Values | None:
        if type(x) is not np.ndarray or x.dtype != self.dtype:
            return None
        shape, flags = x.shape, x.flags
        if not (flags.c_contiguous and flags.aligned) or (shape != self.seen and not self._fits(shape)):
            return None
        if self.affordable is not None and (self.rows.capacity, shape[self.time]) not in self.affordable:
            return None  # StreamStates counts
        if self.bindings is not None:
            results = self.bindings.call({self.name: x}, self.kept, True) or self.bindings.run(
                {self.name: x}, self.base, self.kept, True
            )
            if results is not None:
                for name, array in results[1].items():
                    self.kept[name][...] = array
                return results[0]
        values = {**self.base, self.name: x}
        before = [array.copy() for array in self.states]
        try:
            with np.errstate(all="ignore"):
                walk(self.steps, None, values, None, None)
            return self.rows._own_outputs(values, [x])
        except BaseException as error:
            for array, earlier in zip(self.states, before, strict=True):
                array[...] = earlier
            if isinstance(error, _NotPlain):
                return None
            raise


class _NotPlain(Exception):
    """A value that the kernels' fast call does not accept."""


class _Layer:
    """A recurrent layer whose states are changed in place."""

    def __init__(self, node: Recurrent, step: RecurrentStep, arrays: Mapping[str, np.ndarray], wanted: set[str]):
        self.name, self.input = node.name, node.input
        h, c = arrays[f"{node.name}.h"], arrays.get(f"{node.name}.c")
        self.direct = DirectStream(
            cast(_recurrent.Stack, step.stack), h, c, None, Owner(), node.cell.input_size, step.threads
        )
        self.states: list[tuple[str, Any]] = [(f"{node.name}.{key}", array) for key, array in (("h", h), ("c", c))]
        self.states.append((f"{node.name}.last", h[-1]))
        self.states = [(name, array) for name, array in self.states if name in wanted]

    def __call__(self, values: Values, before: None, after: None) -> None:
        y = self.direct.feed(values[self.input], None)
        if y is None:
            raise _NotPlain
        values[self.name] = y
        for name, array in self.states:
            values[name] = array.copy()
