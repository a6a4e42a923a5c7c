"""Joining requests for a model into one batch, and splitting its outputs."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.errors import InputError
from rnncore.graph.axes import padded_steps, rows_meet
from rnncore.graph.spec import Spec
from rnncore.ops import UNKNOWN
from rnncore.runtime.arguments import accept_inputs, accept_lengths, accept_state
from rnncore.runtime.state import State

__all__ = ["Batcher", "ModelCall", "pad_batch"]


@dataclass(frozen=True)
class ModelCall:
    """One request's part of a batch: checked arrays that are its own.

    key         which requests may share a call of the model
    rows steps  how large it is
    line        None: requests for a model have no order among them
    """

    values: Mapping[str, np.ndarray]
    state: State | None
    wants_state: bool
    wants_dict: bool
    key: Hashable
    rows: int
    steps: int

    line = None


class Batcher:
    """How requests for one model become batches.

    Requests share a call where every input and output has the batch as a dimension, and no node works across it (or
    may, for all that is known: a Loop). Sequences of different length do where the model has lengths and nothing in it
    looks across time without them; they are padded, and grouped so that none is longer than twice another.
    """

    def __init__(self, model: Any):
        self.model, self.spec = model, model.spec
        batch: Any = _batch_name(self.spec)  # None without one
        self.batch: Any = batch
        outputs = [self.spec.values[name].shape for name in self.spec.outputs]
        shapes = [entry.shape for entry in self.spec.inputs if not entry.optional] + outputs
        every = self.batch is not None and all(shape.count(self.batch) == 1 for shape in shapes)
        self.mergeable = every and not rows_meet(self.spec, batch)
        self.lengths: Any
        self.lengths, self.time = _ragged(self.spec, batch) if self.mergeable else (None, None)
        self._required = [entry.name for entry in self.spec.inputs if not entry.optional]
        self._axes = {entry.name: self._axes_of(entry.shape) for entry in self.spec.inputs}

    def call(self, x: Any, lengths: Any, mask: Any, state: Any, wants_state: bool, copy: bool) -> ModelCall:
        """A request, checked: x is the argument of the model's call, or a mapping for its run. Raises as these do.

        Without copy the given arrays must not be written to until the call is done.
        """
        required = self._required
        by_name = isinstance(x, (dict, Mapping))  # dict first: it is found at once
        if not by_name and len(required) != 1:
            raise InputError(f"this model has {len(required)} required inputs ({', '.join(required)}): give a mapping")
        given = dict(x) if by_name else {required[0]: x}
        for name, value in (("lengths", lengths), ("mask", mask)):
            if value is not None:
                given[name] = value
        accepted = accept_inputs(self.spec, given, self.model.dtype)
        own = np.array if copy else np.asarray
        values = {name: own(value, order="C") for name, value in accepted.items() if value is not None}
        rows, steps = self._size(values)
        if self.lengths is not None and self.lengths in values:
            accept_lengths(self.lengths, values[self.lengths], rows, steps)
        before = None
        if state is not None:
            before = accept_state(self.spec.stateful, state, rows, self.model.dtype)
            before = before.copy() if copy else before
        key = self._key(values, steps, before is not None)
        return ModelCall(values, before, wants_state, by_name, key, rows, steps)

    def run(self, calls: Sequence[ModelCall]) -> list[Any]:
        """One call of the model for all of one key: the result of each, with the bits that it has alone."""
        if len(calls) == 1:
            return [self._alone(calls[0])]
        steps = max(call.steps for call in calls)
        ragged = self.lengths is not None and any(call.steps < steps or self.lengths in call.values for call in calls)
        values = {}
        for name in (name for name in calls[0].values if not (ragged and name == self.lengths)):
            shape = self._shape(name)
            parts = [call.values[name] for call in calls]
            values[name] = pad_batch(parts, shape.index(self.batch), self._time_axis(shape), steps)
        if ragged:
            values[self.lengths] = np.concatenate([self._lengths_of(call) for call in calls])
        before = None
        if calls[0].state is not None:
            states: list[Any] = [call.state for call in calls]
            before = {name: np.concatenate([state[name] for state in states], axis=1) for name in states[0]}
        outputs, after = self.model.run(values, before)
        results, first = [], 0
        for call in calls:
            rows = slice(first, first + call.rows)
            own = {name: self._cut(name, array, rows, call.steps) for name, array in outputs.items()}
            state = after.rows(rows) if call.wants_state else None
            results.append(self._result(call, own, state))
            first += call.rows
        return results

    def _alone(self, call: ModelCall) -> Any:
        if call.wants_state:
            return self._result(call, *self.model.run(call.values, call.state))
        if len(self._required) == len(call.values) == 1:  # the kernels' own call, where the model has one
            outputs = self.model(next(iter(call.values.values())))
            outputs = outputs if isinstance(outputs, dict) else {self.spec.outputs[0]: outputs}
        else:
            outputs = self.model.run(call.values)
        return self._result(call, outputs, None)

    def _result(self, call: ModelCall, outputs: dict[str, np.ndarray], after: State | None) -> Any:
        single = not call.wants_dict and len(outputs) == 1
        y = next(iter(outputs.values())) if single else outputs
        return (y, after) if call.wants_state else y

    def _cut(self, name: str, array: np.ndarray, rows: slice, steps: int) -> np.ndarray:
        """A request's own part of an output."""
        shape = self._shape(name)
        index: list[Any] = [slice(None)] * array.ndim
        index[shape.index(self.batch)] = rows
        axis = self._time_axis(shape)
        if axis is not None:
            index[axis] = slice(steps)
        return np.array(array[tuple(index)], order="C")

    def _lengths_of(self, call: ModelCall) -> np.ndarray:
        return call.values.get(self.lengths, np.full(call.rows, call.steps, np.int64))

    def _shape(self, name: str) -> tuple[int | str, ...]:
        return self.spec.values[name].shape

    def _time_axis(self, shape: tuple[int | str, ...]) -> int | None:
        return shape.index(self.time) if self.time in shape else None

    def _axes_of(self, shape: tuple[int | str, ...]) -> tuple[list[int], list[int], list[int]]:
        """The axes of an input's rows, of its steps (without a time: the free ones), and all that are neither."""
        names = list(enumerate(shape))
        rows = [axis for axis, size in names if size == self.batch]
        own = [axis for axis, size in names if size not in (self.batch, self.time)]
        if self.time is None:
            return rows, [axis for axis in own if isinstance(shape[axis], str)], own
        return rows, [axis for axis, size in names if size == self.time], own

    def _size(self, values: Mapping[str, np.ndarray]) -> tuple[int, int]:
        """Rows, and steps (1 without a time axis), of a request."""
        rows, steps = 1, None if self.time else 1
        for name, array in values.items():
            of_rows, of_steps, _ = self._axes[name]
            for axis in of_rows:
                rows = array.shape[axis]
            for axis in of_steps:
                steps = array.shape[axis] if steps is None else max(steps, array.shape[axis])
        return rows, 1 if steps is None else steps

    def _key(self, values: Mapping[str, np.ndarray], steps: int, has_state: bool) -> Hashable:
        if not self.mergeable:
            return object()
        sizes: list[Any] = []
        for name, array in values.items():
            if name != self.lengths:
                sizes += (name, *[array.shape[axis] for axis in self._axes[name][2]])
        if self.time is None or "mask" in values:
            return (*sizes, steps, self.lengths in values, has_state)
        return (*sizes, math.frexp(max(steps - 1, 0))[1] if steps else -1, has_state)


def pad_batch(parts: list[np.ndarray], batch_axis: int, time_axis: int | None, steps: int) -> np.ndarray:
    """Arrays joined along the batch, padded with zeros to ``steps`` steps."""
    if time_axis is None or all(part.shape[time_axis] == steps for part in parts):
        return np.concatenate(parts, axis=batch_axis)
    shape = list(parts[0].shape)
    shape[batch_axis], shape[time_axis] = sum(part.shape[batch_axis] for part in parts), steps
    joined = np.zeros(shape, parts[0].dtype)
    index: list[Any] = [slice(None)] * len(shape)
    first = 0
    for part in parts:
        index[batch_axis] = slice(first, first + part.shape[batch_axis])
        index[time_axis] = slice(part.shape[time_axis])
        joined[tuple(index)] = part
        first += part.shape[batch_axis]
    return joined


def _batch_name(spec: Spec) -> str | None:
    """The name of the batch's size: that of the states, else of the first input's first dimension."""
    for node in spec.stateful:
        size = spec.values[f"{node.name}.{node.cell.states[0]}"].shape[1]
        return size if isinstance(size, str) else None
    shape = spec.inputs[0].shape
    return shape[0] if shape and isinstance(shape[0], str) else None


def _ragged(spec: Spec, batch: str) -> tuple[str | None, str | None]:
    """The lengths input and the name of time, where rows of any length may share a batch; else None and None."""
    names = {node.lengths for node in spec.stateful}
    free = {
        size
        for entry in spec.inputs
        if not entry.optional
        for size in entry.shape
        if isinstance(size, str) and size != batch
    }
    if len(names) != 1 or len(free) != 1:
        return None, None
    (lengths,), (time,) = names, free
    if lengths not in {entry.name for entry in spec.inputs} or time == UNKNOWN:
        return None, None
    masks = {entry.name for entry in spec.inputs}
    if padded_steps(spec, batch, lambda node: node.mask is None or node.mask in masks).get(time) != (lengths,):
        return None, None
    sizes = {size for name in spec.outputs for size in spec.values[name].shape if isinstance(size, str)}
    return (lengths, time) if sizes <= {batch, time} else (None, None)
