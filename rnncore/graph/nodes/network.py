"""Network: the base class of Spec, so that nodes can hold Specs without importing the module that imports them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnncore.graph.nodes import GraphNode, Input
    from rnncore.ops import Value

__all__ = ["Network"]


class Network(ABC):
    """Inputs, nodes and outputs with inferred values: the part of a Spec that a node may hold and ask."""

    inputs: tuple[Input, ...]
    nodes: tuple[GraphNode, ...]
    outputs: tuple[str, ...]
    names: Mapping[str, str]

    @property
    @abstractmethod
    def values(self) -> Mapping[str, Value]:
        """Every value by name, with dtype and shape."""

    @abstractmethod
    def weight_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape of every weight."""

    @abstractmethod
    def weight_dtypes(self) -> Mapping[str, str]:
        """Canonical name -> dtype of the weights that are not "float"."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The object that JSON holds for it."""
