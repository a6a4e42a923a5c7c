"""Exported: what an exporter returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.errors import InputError
from rnncore.graph.nodes import Input
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair, check_array
from rnncore.graph.weights import Weights

__all__ = ["Exported", "example_for"]


@dataclass(frozen=True, eq=False)
class Exported:
    """A network taken out of its framework; unpacks as ``spec, weights = exported``.

    test_pair  an input with the framework's own output, in inference mode; None without a framework
    source     what it came from, such as "torch 2.13.0"
    notes      what was left out because it does nothing at inference, and what the caller should know
    dtype      "float32" or "float64": what its source computes in, and a file of it is loaded for
    """

    spec: Spec
    weights: Weights
    test_pair: TestPair | None
    source: str
    notes: tuple[str, ...] = ()
    dtype: str = "float32"

    def __post_init__(self):
        if self.test_pair is not None:
            self.test_pair.check(self.spec)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.spec, self.weights))


def example_for(
    spec: Spec, example: np.ndarray | None, dtype: str, sizes: Mapping[str, int], ids: int, seed: int, place: int = 0
) -> np.ndarray:
    """The example checked against one of the Spec's inputs, or one drawn with the seed.

    sizes gives "B", "T" and so on; ids is the number of an embedding's rows. Floats become ``dtype``, ids int64.

    Raises InputError if the example has another dtype or shape.
    """
    entry = spec.inputs[place]
    if example is None:
        rng = np.random.default_rng(seed if place == 0 else [seed, place])
        shape = [sizes[size] if isinstance(size, str) else size for size in entry.shape]
        drawn: np.ndarray = rng.integers(0, ids, shape) if entry.dtype == "int64" else rng.standard_normal(shape)
        drawn = drawn > 0 if entry.dtype == "bool" else drawn
        return drawn.astype(_dtype_of(entry, dtype))
    array = np.asarray(example)
    check_array(f"example (input {entry.name!r})", array, entry.value)
    if 0 in array.shape:
        raise InputError(f"example (input {entry.name!r}): shape {array.shape}, expected no empty dimension")
    return array.astype(_dtype_of(entry, dtype))


def _dtype_of(entry: Input, dtype: str) -> str:
    """The dtype of an input's arrays, where floats are ``dtype``."""
    return {"float": dtype, "bool": "bool"}.get(entry.dtype, "int64")
