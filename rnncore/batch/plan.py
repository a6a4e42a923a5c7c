"""The ways in which a model's rows may run: independently, padded; and how much memory they need.

Everything here errs on the safe side: what the graph does not prove is not assumed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rnncore.graph.axes import padded_steps, rows_meet
from rnncore.graph.spec import Spec
from rnncore.ops import numpy_dtype

__all__ = ["BATCH", "RowPlan", "rows_are_independent"]

BATCH = "B"


def rows_are_independent(spec: Spec) -> bool:
    """Whether the graph proves that every output of a row depends on that row alone.

    Every output has the dimension "B" once, and on the way to it no node mixes along it, or counts it.
    """
    return not rows_meet(spec, BATCH)


@dataclass(frozen=True)
class RowPlan:
    """A model seen from its rows.

    axes     input or output -> the axis of its batch; None for an input that all rows share
    shapes   input or output -> its shape without the batch
    padded   names of sizes that may be filled up with zeros -> the inputs of lengths that say so
    """

    spec: Spec
    dtype: np.dtype
    independent: bool
    axes: Mapping[str, int | None]
    shapes: Mapping[str, tuple[int | str, ...]]
    padded: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, spec: Spec, dtype: np.dtype) -> RowPlan:
        independent = rows_are_independent(spec)
        entries = {entry.name: entry.shape for entry in spec.inputs}
        entries.update({name: spec.values[name].shape for name in spec.outputs})
        axes = {name: shape.index(BATCH) if BATCH in shape else None for name, shape in entries.items()}
        shapes = {
            name: tuple(size for i, size in enumerate(shape) if i != axes[name]) for name, shape in entries.items()
        }
        return cls(spec, np.dtype(dtype), independent, axes, shapes, _padded(spec) if independent else {})

    @property
    def lengths(self) -> frozenset[str]:
        """The inputs that hold lengths."""
        given = {entry.name for entry in self.spec.inputs}
        return frozenset(node.lengths for node in self.spec.recurrent if node.lengths in given)

    def item_size(self, name: str) -> int:
        return numpy_dtype(self.spec.values[name].dtype, self.dtype).itemsize

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """The values of named sizes in a row whose inputs have these shapes."""
        return {
            size: actual
            for name, shape in shapes.items()
            for size, actual in zip(self.shapes[name], shape, strict=True)
            if isinstance(size, str)
        }

    def output_bytes(self, sizes: Mapping[str, int | np.ndarray]) -> int | np.ndarray:
        """About what the outputs of a row need; of many rows where sizes are arrays."""
        return sum(self.item_size(name) * _elements(self.shapes[name], sizes) for name in self.spec.outputs)

    def working_bytes(self, sizes: Mapping[str, int]) -> int:
        """About what running a row needs: every value of the graph at once."""

        known: Mapping[str, int | np.ndarray] = {**sizes, BATCH: 1}
        return sum(self.item_size(name) * _elements(value.shape, known) for name, value in self.spec.values.items())


def _elements(shape: tuple[int | str, ...], sizes: Mapping[str, int | np.ndarray]) -> Any:
    """The product of a shape; a size that is not known counts as the largest that is."""
    largest: Any = functools.reduce(cast(Any, np.maximum), sizes.values(), 1)
    return math.prod(size if isinstance(size, int) else sizes.get(size, largest) for size in shape)


def _padded(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Sizes that are those of time and nothing else: recurrent nodes stop at a length, for other nodes steps are
    independent.

    Steps of an output after a row's own end mean nothing then, and no other value has read them.
    """
    return padded_steps(spec, BATCH, lambda node: node.mask is None)
