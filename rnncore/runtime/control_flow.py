"""Running Control nodes: If, Loop and Scan around compiled branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore.errors import InputError
from rnncore.graph.nodes import Control
from rnncore.ops import numpy_dtype

__all__ = ["ControlStep"]

MAX_STEPS = 1_000_000
"""A Loop that has not ended after this number of steps is an error."""

Branch = Callable[[dict[str, Any]], list[np.ndarray]]


class ControlStep:
    """A step of a model. ``branches`` are compiled already: values of a branch's inputs -> its outputs, in order.

    packed: weights that the branches keep packed, by their names in the model -> what unpacks a copy.
    """

    def __init__(
        self, node: Control, branches: Sequence[Branch], dtype: np.dtype, packed: dict[str, Callable[[], np.ndarray]]
    ):
        self.packed = packed
        self.node = node
        self.label = f"node {node.name!r} ({node.op})"
        self.branches = branches
        self.dtype = dtype
        self.names, self.own, self.carried = node.names, node.own, node.carried
        self.entries = [tuple(entry.name for entry in branch.inputs) for branch in node.branches]
        self.run = {"If": self._if, "Loop": self._loop, "Scan": self._scan}[node.op]

    def __call__(self, values: dict[str, Any], before: Any, after: dict[str, np.ndarray]) -> None:
        given = [values[name] if name else None for name in self.node.inputs]
        captured: dict[str, Any] = dict(zip(self.node.captures, given[self.own :], strict=True))
        values.update(zip(self.names, self.run(given, captured), strict=True))

    def _captured(self, place: int, own: int, captured: dict[str, np.ndarray]) -> dict[str, Any]:
        """The inputs of a branch that are the same in every step: those after its ``own``."""
        return {name: captured.get(name) for name in self.entries[place][own:]}

    def _if(self, given: list[Any], captured: dict[str, np.ndarray]) -> list[np.ndarray]:
        place = 0 if self._truth(given[0]) else 1
        return self.branches[place](self._captured(place, 0, captured))

    def _truth(self, array: np.ndarray) -> bool:
        if array.size != 1:
            raise InputError(f"node {self.node.name!r} ({self.node.op}): a condition of shape {array.shape}")
        return bool(array.reshape(()))

    def _loop(self, given: list[Any], captured: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Runs while the condition holds and the trip count, if there is one, is not reached."""
        trips = None if given[0] is None else int(np.asarray(given[0]).reshape(()))
        going = given[1] is None or self._truth(given[1])
        carried = given[2 : self.own]
        branch, entries, same = self.branches[0], self.entries[0], self._captured(0, self.own, captured)
        rows: list[list[np.ndarray]] = []
        step = 0
        while going and (trips is None or step < trips):
            if step == MAX_STEPS:
                raise InputError(f"node {self.node.name!r} (Loop): no end after {MAX_STEPS:,} steps")
            own = (np.array(step, np.int64), np.array(True), *carried)
            results = branch(dict(zip(entries, own, strict=False)) | same)
            going = self._truth(results[0])
            carried = results[1 : 1 + len(carried)]
            rows.append(results[1 + len(carried) :])
            step += 1
        outputs = self.node.branches[0].outputs[1 + len(carried) :]
        return [*carried, *(self._stack([row[i] for row in rows], name, 0, {}) for i, name in enumerate(outputs))]

    def _scan(self, given: list[Any], captured: dict[str, np.ndarray]) -> list[np.ndarray]:
        """given: states, then sequences, then captured values."""
        node, count = self.node, self.carried
        carried = given[:count]
        sequences = self._moved(given[count : self.own])
        branch, entries, same = self.branches[0], self.entries[0], self._captured(0, self.own, captured)
        rows = []
        for step in range(len(sequences[0])):
            own = (*carried, *[array[step] for array in sequences])
            results = branch(dict(zip(entries, own, strict=False)) | same)
            rows.append(results[count:])
            carried = results[:count]
        outputs = node.branches[0].outputs[count:]
        places = node.output_axes or (0,) * len(outputs)
        if len(rows) == 1:
            return [*carried, *map(_as_step, rows[0], places)]
        shapes = [*(array.shape for array in carried), *(array.shape[1:] for array in sequences)]
        sizes = {} if rows else self._sizes(shapes, same)
        turned = node.output_backward or (False,) * len(outputs)
        return [
            *carried,
            *(
                self._stack([row[i] for row in (rows[::-1] if turned[i] else rows)], name, places[i], sizes)
                for i, name in enumerate(outputs)
            ),
        ]

    def _sizes(self, shapes: list[tuple[int, ...]], captured: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The sizes for the names in the shapes of the body's first inputs, and of what it reads outside."""
        inputs = self.node.branches[0].inputs
        pairs = [(entry, captured[entry.name].shape) for entry in inputs if entry.name in captured]
        pairs += zip(inputs, shapes, strict=False)
        return {name: size for entry, shape in pairs for name, size in zip(map(str, entry.shape), shape, strict=True)}

    def _moved(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """A Scan's sequences with their steps in front, in the order in which it goes."""
        node = self.node
        if node.axes:
            sequences = [_from_front(array, axis) for array, axis in zip(sequences, node.axes, strict=True)]
        if any(len(array) != len(sequences[0]) for array in sequences):
            lengths = sorted({len(array) for array in sequences})
            raise InputError(f"node {node.name!r} (Scan): sequences of {lengths} steps, expected one length")
        if not any(node.backward):
            return sequences
        return [array[::-1] if back else array for array, back in zip(sequences, node.backward, strict=True)]

    def _stack(self, rows: list[np.ndarray], name: str, axis: int, sizes: Mapping[str, int]) -> np.ndarray:
        """The collected values; of no steps with these sizes, as far as they are known."""
        if len(rows) == 1:
            return _as_step(rows[0], axis)
        if rows:
            if len({row.shape for row in rows}) > 1:
                raise InputError(f"node {self.node.name!r} ({self.node.op}): steps of different shapes in {name!r}")
            return np.stack(rows, axis=axis)
        value = self.node.branches[0].values[name]
        shape = [size if isinstance(size, int) else sizes.get(size, 0) for size in value.shape]
        shape.insert(axis % (len(shape) + 1), 0)
        return np.zeros(shape, numpy_dtype(value.dtype, self.dtype))


def _as_step(array: np.ndarray, axis: int) -> np.ndarray:
    """The outputs of the only step, with an axis of steps."""
    return array[(slice(None),) * (axis % (array.ndim + 1)) + (None,)]


def _from_front(array: np.ndarray, axis: int) -> np.ndarray:
    """The array with this axis in front."""
    axis %= array.ndim
    if axis < 2:
        return array.swapaxes(0, 1) if axis else array
    return array.transpose(axis, *range(axis), *range(axis + 1, array.ndim))


def branch_weights(node: Control, weights: Any, place: int, label: str) -> dict[str, np.ndarray]:
    """The weights of one branch under its own names."""
    spec = node.branches[place]
    return {key: weights[f"{node.name}.{label}.{key}"] for key in spec.weight_shapes()}
