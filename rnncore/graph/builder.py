"""GraphBuilder: a Spec under construction, as importers of other formats fill it node by node."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore.errors import SpecError
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import Value

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Inputs, nodes and weights in order. Dtype and shape of every value are known as soon as its node is added.

    values   the name of a value -> its dtype and shape
    nodes    every node that was added; None in the place of one that was dropped
    weights  "NODE.weight" -> array
    """

    def __init__(
        self,
        separator: str = "_",
        first: int = 2,
        owned: Collection[str] = (),
        count: Callable[[np.ndarray], None] | None = None,
    ):
        """separator, first: names that are taken already become NAME_2, NAME_3, ... owned: names that each are given
        only to their owner (see fresh). count: called with every array that becomes a weight.
        """
        self.inputs: list[Input] = []
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values: dict[str, Value] = {}
        self.taken: set[str] = set()
        self._separator, self._first, self._owned, self._count = separator, first, owned, count
        self._numbers: dict[str, int] = {}  # a name -> how many of its numbered forms are known to be taken
        self._made: dict[Hashable, tuple[str, Any]] = {}

    # --- names -------------------------------------------------------------------------------------------------------

    def fresh(self, wanted: str, owner: str | None = None) -> str:
        """The wanted name, or the first numbered form of it, that nothing has; taken from now on.

        owner: the one of the owned names that may be given.
        """
        in_order = True
        for number in itertools.count(self._numbers.get(wanted, 0)):
            name = f"{wanted}{self._separator}{number - 1 + self._first}" if number else wanted
            if self.is_taken(name):
                if in_order:
                    self._numbers[wanted] = number + 1
            elif name in self._owned and name != owner:
                in_order = False
            else:
                self.taken.add(name)
                return name
        raise AssertionError

    def is_taken(self, name: str) -> bool:
        return name in self.taken or name in self.values

    # --- inputs and nodes --------------------------------------------------------------------------------------------

    def add_input(self, entry: Input) -> str:
        """Append an input; returns its name."""
        self._define({entry.name: entry.value})
        self.inputs.append(entry)
        return entry.name

    def add(self, node: Any) -> Any:
        """Append a node of any kind and infer its values; returns it. SpecError where its inputs do not fit."""
        self._define(node.infer(self.values))
        self.nodes.append(node)
        return node

    def emit(self, op: str, inputs: str | Sequence[str], name: str, /, **attributes: Any) -> str:
        """Append an op under a fresh name; returns that name, which is that of its first value."""
        inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        return self.add(Node(self.fresh(name), op, inputs, attributes)).name

    def drop(self, index: int) -> None:
        """Take back the node at this index of ``nodes``, whose values nothing reads. Its name stays taken."""
        for name in self.nodes[index].names:
            del self.values[name]
        self.nodes[index] = None

    def own(self, node: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Give a node its weights, by their names in it."""
        for key, array in arrays.items():
            if self._count is not None:
                self._count(array)
            self.weights[f"{node}.{key}"] = array

    def _define(self, values: Mapping[str, Value]) -> None:
        for name in values:
            if name in self.values:
                raise SpecError(f"the name {name!r} stands for two values")
        self.values.update(values)
        self.taken.update(values)

    # --- constants ---------------------------------------------------------------------------------------------------

    def add_constant(
        self, array: np.ndarray, dtype: str, name: str, value: Any = None, owner: str | None = None
    ) -> str:
        """Append a Constant node under a fresh name; returns that name.

        value: the content, as an attribute of the node; None: the array is its weight. owner: see fresh.
        """
        name = self.fresh(name, owner)
        content = {} if value is None else {"value": value}
        self.add(Node(name, "Constant", (), {"dtype": dtype, "shape": array.shape, **content}))
        if value is None:
            self.own(name, {"value": array})
        return name

    def once(self, key: Hashable, make: Callable[[], str], keep: Any = None) -> str:
        """The value that ``make`` gave when it was first called for this key.

        keep: an object that has to outlive the key, which holds its id.
        """
        if key not in self._made:
            self._made[key] = make(), keep
        return self._made[key][0]

    # --- the Spec ----------------------------------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int | str, ...]:
        return self.values[name].shape

    def build(self, outputs: Iterable[str]) -> Spec:
        """The Spec of everything that was added."""
        return Spec(tuple(self.inputs), tuple(node for node in self.nodes if node is not None), tuple(outputs))
