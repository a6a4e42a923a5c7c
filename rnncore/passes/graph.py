"""The nodes and arrays of a Spec while passes work on them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rnncore.graph.nodes import AttentionDecoder, Control, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import Value

__all__ = ["Graph", "value_names", "with_reads", "without"]

Any_Node = Node | Recurrent | AttentionDecoder | Control


class Graph:
    """What a pass changes: it reads ``spec`` and ``weights``, and gives new nodes to ``update``."""

    def __init__(self, spec: Spec, weights: Mapping[str, np.ndarray], folding: Any = None, floating: str = "float32"):
        self.spec = spec
        self.floating = floating  # what a Constant of "float" is that stands in the Spec
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
        """How much was changed so far."""
        return sum(self._done.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed, in words: "folded 2 BatchNormalization"."""
        return tuple(f"{what} ({count})" for what, count in self._done.items())

    def uses(self) -> Counter[str]:
        """How often each value is read, by nodes and as an output."""
        if self._uses[0] is not self.spec:
            found = Counter({name: len(places) for name, places in self.spec.readers.items()})
            found.update(self.spec.outputs)
            self._uses = self.spec, found
        return self._uses[1].copy()

    def constants(self) -> dict[str, np.ndarray]:
        """The arrays of Constant nodes, by name."""
        made = (node for node in self.spec.nodes if is_constant(node))
        return {node.name: constant(node, self.weights, self.floating) for node in made}

    def update(
        self,
        nodes: Iterable[Any_Node],
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


def is_constant(node: Any_Node) -> bool:
    return isinstance(node, Node) and node.op == "Constant"


def constant(node: Node, weights: Mapping[str, np.ndarray], floating: str = "float32") -> np.ndarray:
    """The array of a Constant node; "float" ones keep the dtype that they are stored in, in the Spec ``floating``."""
    value = node.attributes["value"]
    if value is None:
        return weights[f"{node.name}.value"]
    dtype = node.attributes["dtype"]
    return np.array(value, floating if dtype == "float" else dtype).reshape(node.attributes["shape"])


def with_reads(node: Any_Node, renamed: Mapping[str, str]) -> Any_Node:
    """The node with other values in place of those it reads."""
    if not renamed or renamed.keys().isdisjoint(node.reads):
        return node
    if isinstance(node, (Node, Control)):
        return dataclasses.replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
    fields: dict[str, Any] = {}
    for field in ("input", "memory", "keys", "memory_mask", "lengths", "mask"):
        found = getattr(node, field, None)
        if found in renamed:
            fields[field] = renamed[found]
    fields["initial"] = tuple(renamed.get(name, name) for name in node.initial)
    return dataclasses.replace(node, **fields)


def without(node: Any_Node, absent: set[str]) -> Any_Node:
    """The node without the optional inputs that are not there."""
    fields = [field for field in ("lengths", "mask", "memory_mask") if getattr(node, field, None) in absent]
    return dataclasses.replace(node, **dict.fromkeys(fields)) if fields else node


def value_names(node: Any_Node) -> list[str]:
    """The names of all values that a node gives."""
    if isinstance(node, (Node, Control)):
        return list(node.names)
    endings = ("", ".last", ".forward", ".reverse", ".context", ".weights")
    return [f"{node.name}{ending}" for ending in (*endings, *(f".{key}" for key in node.state_shapes("B")))]
