"""Graph: the builder of a Spec into which the layers of a Keras model are lowered.

Nodes that nothing reads are dropped at the end (Keras computes masks and states that are not used); ``lengths`` is
kept only where it means the same as in Keras, which has none: where no op but the recurrent ones looks along the time
axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rnncore.errors import UnsupportedError
from rnncore.files.cursor import Budget
from rnncore.formats._arrays import Copies
from rnncore.graph.axes import reach_of
from rnncore.graph.builder import GraphBuilder
from rnncore.graph.nodes import Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import Value

__all__ = ["Graph", "NeedsSize"]

TIME = "T"
MAX_CALLS = 50_000


class NeedsSize(UnsupportedError):
    """A size is only known if the time axis keeps the size that the model gave it."""


class Graph(GraphBuilder):
    """The builder of a Keras model's Spec. Nodes of a layer that is called again are NAME#2, NAME#3, ..."""

    def __init__(self, declared: int = 0):
        """declared: bytes of the arrays that the layers own."""
        super().__init__("#", count=Copies(declared, "model").add)
        self.calls = Budget(MAX_CALLS, "calls of layers, those in models inside it among them", "model")
        self.values["lengths"] = Value("int64", ("B",))
        self.notes: list[str] = []

    # --- values ---

    def rank(self, name: str) -> int:
        return len(self.values[name].shape)

    def axis(self, name: str, axis: Any, where: str) -> int:
        """An axis of a value as a non-negative number."""
        rank = self.rank(name)
        if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
            raise UnsupportedError(f"{where}: axis={str(axis)[:60]}, expected an integer from {-rank} to {rank - 1}")
        return axis % rank

    def size(self, name: str, axis: int, where: str) -> int:
        """A size that has to be a number."""
        size = self.values[name].shape[axis]
        if not isinstance(size, int):
            raise NeedsSize(f"{where}: the size of dimension {axis} of {self.values[name]} is not known")
        return size

    # --- nodes ---

    def number(self, name: str, value: float | int | bool, dtype: str = "float") -> str:
        """A constant without dimensions."""
        value = {"float": float, "bool": bool}.get(dtype, int)(value)
        return self.add_constant(np.array(value), dtype, name, value)

    def cast(self, name: str, x: str, dtype: str) -> str:
        return x if self.values[x].dtype == dtype else self.emit("Cast", x, name, to=dtype)

    def floating(self, x: str) -> str:
        """The value as float."""
        return self.cast(f"{x}.float", x, "float")

    def transpose(self, name: str, x: str, perm: Sequence[int]) -> str:
        return x if list(perm) == list(range(len(perm))) else self.emit("Transpose", x, name, perm=tuple(perm))

    def squeeze(self, name: str, x: str, axis: int) -> str:
        return self.emit("Squeeze", x, name, axes=(axis,))

    def unsqueeze(self, name: str, x: str, axis: int) -> str:
        return self.emit("Unsqueeze", x, name, axes=(axis,))

    def reduce(self, name: str, op: str, x: str, axes: Iterable[int], keepdims: bool) -> str:
        return self.emit(op, x, name, axes=tuple(axes), keepdims=keepdims)

    def reshape(self, name: str, x: str, shape: Sequence[int]) -> str:
        return self.emit("Reshape", x, name, shape=tuple(shape))

    def take(self, name: str, x: str, axis: int, index: int) -> str:
        """One index of an axis, without it."""
        return self.emit("Gather", x, name, axis=axis, indices=index)

    def slice(self, name: str, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        return self.emit("Slice", x, name, starts=(start,), ends=(stop,), axes=(axis,), steps=(step,))

    def scalar(self, name: str, op: str, x: str, value: float | int) -> str:
        """x op value, with a constant of x's dtype."""
        return self.emit(op, (x, self.number(f"{name}.by", value, self.values[x].dtype)), name)

    # --- the end ---

    def finish(self, outputs: Sequence[str]) -> Spec:
        """The Spec of what the outputs need. SpecError where they need nothing."""
        kept = self._needed(outputs)
        nodes: list[Any] = [node for node in self.nodes if node.name in kept]
        lengths = self._lengths(nodes)
        nodes = [
            dataclasses.replace(node, lengths="lengths" if node.name in lengths else None)
            if isinstance(node, Recurrent)
            else node
            for node in nodes
        ]
        names = {name for node in nodes for name in node.weight_shapes()}
        self.weights = {name: array for name, array in self.weights.items() if name in names}
        return Spec(self.inputs, nodes, tuple(outputs))

    def _needed(self, outputs: Sequence[str]) -> set[str]:
        """Names of the nodes that the outputs need."""
        makers = {name: node for node in self.nodes for name in node.infer(self.values)}
        needed: set[str] = set()
        stack = list(outputs)
        while stack:
            node = makers.get(stack.pop())
            if node is not None and node.name not in needed:
                needed.add(node.name)
                stack.extend(node.reads)
        return needed

    def _lengths(self, nodes: Sequence[Node | Recurrent]) -> set[str]:
        """The recurrent nodes whose sequences are cut by lengths; none where another op looks along time."""
        if sum(TIME in entry.shape for entry in self.inputs) != 1:
            return set()
        for node in nodes:
            if isinstance(node, Recurrent):
                continue
            timed = any(TIME in self.values[name].shape for name in node.reads)
            if timed and (node.subgraphs or not reach_of(node, self.values, TIME).independent):
                return set()
        return {node.name for node in nodes if isinstance(node, Recurrent) and self.values[node.input].shape[1] == TIME}
