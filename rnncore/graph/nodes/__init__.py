"""The kinds of nodes a Spec is made of.

nodes/op.py                 Node: one op of rnncore.ops
nodes/recurrent.py          Recurrent: a stack of recurrent layers
nodes/attention_decoder.py  AttentionDecoder: a stack with attention inside its loop
nodes/control.py            Control: If, Loop, Scan
nodes/input.py              Input: a named input of a Spec
nodes/network.py            Network: the part of a Spec that a Control node needs of its branches
nodes/fields.py, stack.py   checks and JSON that several kinds share

Each kind implements GraphNode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rnncore.graph.nodes.attention_decoder import AttentionDecoder
from rnncore.graph.nodes.control import BRANCHES, Control
from rnncore.graph.nodes.input import Input, check_sizes
from rnncore.graph.nodes.network import Network
from rnncore.graph.nodes.op import Node
from rnncore.graph.nodes.recurrent import Recurrent
from rnncore.ops import Value
from rnncore.ops.dimensions import Dimension

__all__ = [
    "BRANCHES",
    "KINDS",
    "AttentionDecoder",
    "Control",
    "GraphNode",
    "Input",
    "Network",
    "Node",
    "Recurrent",
    "check_sizes",
]


class GraphNode(Protocol):
    """A node of a Spec: a frozen dataclass that reads values by name and gives others."""

    stateful: bool
    """Whether it carries state from call to call: a stack of recurrent layers."""

    @property
    def name(self) -> str:
        """Its name, which no other node or value of the Spec has."""

    @property
    def op(self) -> str:
        """The op, as JSON and messages have it."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the node's values."""

    @property
    def sequence_names(self) -> tuple[str, ...]:
        """The names of those values that have a step for each step of a stack's input; () for what is no stack."""

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the inputs by their places; "" for one that is absent."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of every value that the node needs."""

    @property
    def optional_reads(self) -> tuple[str, ...]:
        """The names of those that may be optional inputs."""

    def with_reads(self, renamed: Mapping[str, str]) -> GraphNode:
        """The node with other values in place of those it reads; "" for an optional one that becomes absent.

        The same object where it reads none of them. One that is needed may not become absent: the node or the Spec
        around it raises SpecError.
        """

    @property
    def of_sizes(self) -> tuple[int, ...]:
        """Places of the slots of which only the sizes count."""

    @property
    def shaped_by(self) -> tuple[int, ...]:
        """Places of the slots whose numbers become sizes of the node's values, and decide about nothing else."""

    def dimensions(self, values: Mapping[str, Value]) -> list[Dimension]:
        """The Dimensions that its values take over from its slots; along any other, positions meet.

        [] for a Control node, whose branches graph/axes.py walks through.
        """

    @property
    def subgraphs(self) -> tuple[tuple[str, Network], ...]:
        """The networks inside with their labels, "then", "else" or "body"; () for any but a Control node."""

    @property
    def layer_count(self) -> int:
        """The number of layers, each direction on its own; 1 for what is not a stack."""

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that the node owns: "NODE.weight" -> shape."""

    def weight_dtypes(self) -> dict[str, str]:
        """The dtypes of those weights that are not "float"."""

    def infer(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The Values of ``names`` from those that it reads. SpecError where they do not fit."""

    def to_json(self) -> dict[str, Any]:
        """Its object in JSON."""

    @classmethod
    def from_json(cls, given: Any, read_branch: Callable[[Any], Any] | None = None) -> GraphNode:
        """From its object in JSON. ``read_branch`` makes a network of the object of one inside."""


KINDS = {"Recurrent": Recurrent, "AttentionDecoder": AttentionDecoder, **dict.fromkeys(BRANCHES, Control)}
"""The kind of node by its op; every other op is that of a Node."""
