"""Graph: the nodes and arrays of a Spec while the layers of a Keras model are lowered into it.

Every value's dtype and shape is known as soon as its node stands there. Nodes that nothing reads are dropped at the
end (Keras computes masks and states that nobody asks for); ``lengths`` is kept only where it means the same as in
Keras, which has none: where no op but the recurrent ones looks along the time axis.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore.errors import UnsupportedError
from rnncore.files.cursor import Budget
from rnncore.formats._arrays import Copies
from rnncore.graph.axes import reach_of
from rnncore.graph.nodes import Control, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, Value

__all__ = ["Graph", "NeedsSize"]

TIME = "T"
MAX_CALLS = 50_000


class NeedsSize(UnsupportedError):
    """A size is only known if the time axis keeps the size that the model gave it."""


class Graph:
    """Nodes in order, arrays by name, and what is known of every value."""

    def __init__(self, declared: int = 0):
        """declared: bytes of the arrays that the layers own."""
        self.copies = Copies(declared, "model")
        self.calls = Budget(MAX_CALLS, "calls of layers, those in models inside it among them", "model")
        self.inputs: list[Input] = []
        self.nodes: list[Node | Recurrent | Control] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.values: dict[str, Value] = {"lengths": Value("int64", ("B",))}
        self.notes: list[str] = []
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}  # a name -> the last number that fresh put behind it

    # --- names and values ---

    def fresh(self, name: str) -> str:
        """The name itself, or for a layer that is called again NAME#2, NAME#3, ..."""
        found, count = name, self._counts.get(name, 1)
        while found in self._names:
            count += 1
            found = f"{name}#{count}"
        self._names.add(found)
        self._counts[name] = count
        return found

    def shape(self, name: str) -> tuple[int | str, ...]:
        return self.values[name].shape

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
        found = self.values[name].shape[axis]
        if not isinstance(found, int):
            raise NeedsSize(f"{where}: the size of dimension {axis} of {self.values[name]} is not known")
        return found

    # --- nodes ---

    def input(self, entry: Input) -> str:
        self.inputs.append(entry)
        self.values[entry.name] = entry.value
        return entry.name

    def add(self, node: Node | Recurrent | Control) -> str:
        self.nodes.append(node)
        self.values.update(node.infer(self.values))
        return node.name

    def node(self, name: str, op: str, inputs: str | Sequence[str], **attributes: Any) -> str:
        """An op. UnsupportedError where this version of rnncore does not have it."""
        if op not in OPS:
            raise UnsupportedError(f"node {name!r}: op {op} is not there yet")
        inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        return self.add(Node(self.fresh(name), op, inputs, attributes))

    def weights(self, node: str, arrays: Mapping[str, np.ndarray]) -> None:
        """The arrays of a node, by their names in it."""
        for key, array in arrays.items():
            self.copies.add(array)
            self.arrays[f"{node}.{key}"] = array

    def number(self, name: str, value: float | int | bool, dtype: str = "float") -> str:
        """A constant without dimensions."""
        kind = {"float": float, "bool": bool}.get(dtype, int)
        return self.node(name, "Constant", (), dtype=dtype, value=kind(value))

    def constant(self, name: str, array: np.ndarray, dtype: str = "float") -> str:
        """A constant array, which is a weight."""
        node = self.node(name, "Constant", (), dtype=dtype, shape=tuple(array.shape))
        self.weights(node, {"value": array})
        return node

    def cast(self, name: str, x: str, dtype: str) -> str:
        return x if self.values[x].dtype == dtype else self.node(name, "Cast", x, to=dtype)

    def floating(self, x: str) -> str:
        """The value as float."""
        return self.cast(f"{x}.float", x, "float")

    def transpose(self, name: str, x: str, perm: Sequence[int]) -> str:
        return x if list(perm) == list(range(len(perm))) else self.node(name, "Transpose", x, perm=tuple(perm))

    def squeeze(self, name: str, x: str, axis: int) -> str:
        return self.node(name, "Squeeze", x, axes=(axis,))

    def unsqueeze(self, name: str, x: str, axis: int) -> str:
        return self.node(name, "Unsqueeze", x, axes=(axis,))

    def reduce(self, name: str, op: str, x: str, axes: Iterable[int], keepdims: bool) -> str:
        return self.node(name, op, x, axes=tuple(axes), keepdims=keepdims)

    def reshape(self, name: str, x: str, shape: Sequence[int]) -> str:
        return self.node(name, "Reshape", x, shape=tuple(shape))

    def take(self, name: str, x: str, axis: int, index: int) -> str:
        """One index of an axis, without it."""
        return self.node(name, "Gather", x, axis=axis, indices=index)

    def slice(self, name: str, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        return self.node(name, "Slice", x, starts=(start,), ends=(stop,), axes=(axis,), steps=(step,))

    def scalar(self, name: str, op: str, x: str, value: float | int) -> str:
        """x op value, with a constant of x's dtype."""
        return self.node(name, op, (x, self.number(f"{name}.by", value, self.values[x].dtype)))

    # --- the end ---

    def finish(self, outputs: Sequence[str]) -> Spec:
        """The Spec of what the outputs need. SpecError where they need nothing."""
        kept = self._needed(outputs)
        nodes = [node for node in self.nodes if node.name in kept]
        lengths = self._lengths(nodes)
        nodes = [
            dataclasses.replace(node, lengths="lengths" if node.name in lengths else None)
            if isinstance(node, Recurrent)
            else node
            for node in nodes
        ]
        names = {name for node in nodes for name in node.weight_shapes()}
        self.arrays = {name: array for name, array in self.arrays.items() if name in names}
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
            if timed and (node.subgraphs or not reach_of(node, self.values, TIME).apart):
                return set()
        return {node.name for node in nodes if isinstance(node, Recurrent) and self.values[node.input].shape[1] == TIME}
