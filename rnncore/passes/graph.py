"""The nodes and arrays of a Spec while passes work on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rnncore.graph.nodes import GraphNode, Node
from rnncore.graph.spec import Spec
from rnncore.ops import Value

__all__ = ["Graph", "constant", "is_constant"]


class Graph:
    """The network that passes change: a pass reads ``spec`` and ``weights``, and gives new nodes to ``update``."""

    def __init__(self, spec: Spec, weights: Mapping[str, np.ndarray], folding: Any = None, floating: str = "float32"):
        self.spec = spec
        self.floating = floating  # the dtype of a "float" Constant whose numbers are in the Spec
        self.folding = folding  # a Folding, for the pass that computes constants
        self.weights = dict(weights)
        self.outputs = frozenset(spec.outputs)  # which no pass changes
        self._done: Counter[str] = Counter()
        self._uses: tuple[Spec | None, Counter[str]] = None, Counter()  # of which Spec, and what uses gives

    @property
    def values(self) -> Mapping[str, Value]:
        return self.spec.values

    @property
    def changes(self) -> int:
        """The number of changes so far."""
        return sum(self._done.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """The changes so far, in words: "folded 2 BatchNormalization"."""
        return tuple(f"{what} ({count})" for what, count in self._done.items())

    def uses(self) -> Counter[str]:
        """The number of times each value is read, by nodes and as an output."""
        if self._uses[0] is not self.spec:
            counts = Counter({name: len(places) for name, places in self.spec.readers.items()})
            counts.update(self.spec.outputs)
            self._uses = self.spec, counts
        return self._uses[1].copy()

    def constants(self) -> dict[str, np.ndarray]:
        """The arrays of Constant nodes, by name."""
        made: list[Any] = [node for node in self.spec.nodes if is_constant(node)]
        return {node.name: constant(node, self.weights, self.floating) for node in made}

    def update(
        self,
        nodes: Iterable[GraphNode],
        done: Mapping[str, int],
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Take new nodes if ``done`` (what was changed -> how often) says that something was changed.

        weights: arrays that are new or replace others; arrays of nodes that are no more are dropped.
        """
        if not sum(done.values()):
            return
        self.spec = Spec(self.spec.inputs, tuple(nodes), self.spec.outputs)
        arrays = {**self.weights, **(weights or {})}
        self.weights = {name: arrays[name] for name in self.spec.weight_shapes()}
        self._done.update({what: count for what, count in done.items() if count})


def is_constant(node: GraphNode) -> bool:
    """Whether a node is a Constant."""
    return node.op == "Constant"


def constant(node: Node, weights: Mapping[str, np.ndarray], floating: str = "float32") -> np.ndarray:
    """The array of a Constant node; "float" ones keep the dtype that they are stored in, in the Spec ``floating``."""
    value = node.attributes["value"]
    if value is None:
        return weights[f"{node.name}.value"]
    dtype = node.attributes["dtype"]
    return np.array(value, floating if dtype == "float" else dtype).reshape(node.attributes["shape"])
