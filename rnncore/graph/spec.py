"""Spec: a network without its weights. A graph of named nodes, as frozen dataclasses and as JSON.

    spec = Spec(
        inputs=[Input("mels", "float", ("B", "T", 40))],
        nodes=[
            Recurrent("lstm", LSTM(40, 256), "mels", layers=3),
            Node("linear", "Linear", "lstm.last", {"input_size": 256, "output_size": 256}),
        ],
        outputs=["linear"],
    )

A node's value carries its name. A Recurrent node has more than one: "lstm" (the sequence), "lstm.last" (the
output after the last valid step, directions merged), "lstm.h" and "lstm.c" (every layer's and direction's final
state, in PyTorch's h_n order), and with merge="separate" "lstm.forward" and "lstm.reverse" instead of "lstm".
Ops with several outputs and the AttentionDecoder name them the same way: "attention" and "attention.weights".
A Control node (If, Loop, Scan) holds Specs of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from rnncore.errors import SpecError, shown
from rnncore.graph.json import read_spec, write_spec
from rnncore.graph.limits import MAX_NODES, more_nodes, most_nodes
from rnncore.graph.nodes import KINDS, AttentionDecoder, GraphNode, Input, Network, Node, Recurrent, check_sizes
from rnncore.graph.nodes.fields import as_tuple, check_sizes_fit, is_text, near
from rnncore.ops import Value

__all__ = ["Spec", "paths_of"]


@dataclass(frozen=True)
class Spec(Network):
    """A network: inputs, nodes in an order in which each reads only what is before it, and outputs by name.

    names  what a checkpoint of the network calls weights, and the modules of nodes, where it has other names than the
           Spec: {"linear.weight": "w", "fc_1": "fc"}; nodes in branches by their path, "loop.body.cell"

    Raises SpecError where names clash, a value is unknown, or a size contradicts another.
    """

    inputs: tuple[Input, ...]
    nodes: tuple[GraphNode, ...]
    outputs: tuple[str, ...]
    names: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    if TYPE_CHECKING:

        def __init__(
            self,
            inputs: Iterable[Input],
            nodes: Iterable[GraphNode],
            outputs: str | Iterable[str],
            names: Mapping[str, str] | None = None,
        ): ...

    def __post_init__(self):
        for field, accepted in (("inputs", Input), ("nodes", (Node, *KINDS.values()))):
            members = as_tuple(field, getattr(self, field))
            for member in members:
                if not isinstance(member, accepted):
                    raise SpecError(f"{field}: {shown(member)}, expected {field[:-1].capitalize()} objects")
            object.__setattr__(self, field, members)
        outputs = (self.outputs,) if isinstance(self.outputs, str) else as_tuple("outputs", self.outputs)
        object.__setattr__(self, "outputs", outputs)
        if self.size > MAX_NODES:
            raise SpecError(f"{self.size} nodes and layers, expected at most {MAX_NODES}")
        if self._working > most_nodes():
            counted = f"{self._working} nodes and layers besides constants"
            raise SpecError(f"{counted}, expected at most {most_nodes()}{more_nodes()}")
        names = {entry.name for entry in self.inputs}
        names.update(node.name for node in self.nodes)
        if "lengths" not in names and any("lengths" in node.reads for node in self.nodes):
            lengths = Input("lengths", "int64", ("B",), optional=True)
            object.__setattr__(self, "inputs", (*self.inputs, lengths))
        masked = [node for node in self.recurrent if node.mask == "mask"]
        if "mask" not in names and masked:
            mask = Input("mask", "bool", ("B", "T") if masked[0].layout == "batch_first" else ("T", "B"), optional=True)
            object.__setattr__(self, "inputs", (*self.inputs, mask))
        object.__setattr__(self, "_values", MappingProxyType(self._infer()))
        self._check_names()
        object.__setattr__(self, "names", MappingProxyType(dict(self.names)))

    def _check_names(self) -> None:
        if not isinstance(self.names, Mapping):
            raise SpecError(f"names: {type(self.names).__name__}, expected an object")
        paths = {name for name, _ in paths_of(self)} if self.names else set()
        for name, wanted in self.names.items():
            ends = [end for end, letter in enumerate(name) if letter == "."] if isinstance(name, str) else []
            if name not in paths and not any(name[:end] in paths for end in ends):
                raise SpecError(f"names: {shown(name)} is no node of the network, and no weight of one")
            if not isinstance(wanted, str) or not is_text(wanted):
                raise SpecError(f"names: {name!r} leads to {shown(wanted)}, expected the name of a tensor or module")

    def __getstate__(self):
        state = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**state, "names": dict(self.names)}

    def __setstate__(self, state):
        for name, value in state.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "names", MappingProxyType(state["names"]))
        object.__setattr__(self, "_values", MappingProxyType(self._infer()))

    def _infer(self) -> dict[str, Value]:
        values: dict[str, Value] = {}

        for entry in self.inputs:
            if entry.name in values:
                raise SpecError(f"the name {entry.name!r} stands for two values")
            values[entry.name] = entry.value
        optional = {entry.name for entry in self.inputs if entry.optional}
        node_names: set[str] = set()
        for node in self.nodes:
            if node.name in node_names:
                raise SpecError(f"two nodes are named {node.name!r}")
            node_names.add(node.name)
            for name in node.reads:
                if not isinstance(name, str) or name not in values:
                    hint = near(name, values)
                    raise SpecError(
                        f"node {node.name!r} reads {shown(name)}, which no input or earlier node gives{hint}"
                    )
                if optional and name in optional and name not in node.optional_reads:
                    raise SpecError(
                        f"node {node.name!r} reads the optional input {name!r}, which only lengths and masks may be"
                    )
            for name, value in node.infer(values).items():
                if name in values:
                    raise SpecError(f"the name {name!r} stands for two values")
                check_sizes_fit(node, name, value)
                values[name] = value
        if not self.outputs:
            raise SpecError("no outputs, expected at least one")
        for name in self.outputs:
            if not isinstance(name, str) or name not in values:
                raise SpecError(f"output {shown(name)} is given by no input or node{near(name, values)}")
            if name in optional:
                raise SpecError(f"output {name!r} is an optional input, expected one that is always there")
        return values

    @property
    def values(self) -> Mapping[str, Value]:
        """Every value by name, with dtype and shape."""
        return self._values  # type: ignore[attr-defined]  # __post_init__ sets it, and it is no field

    @cached_property
    def size(self) -> int:
        """The number of nodes, those inside branches among them; a stack counts as its layers and directions."""
        return sum(node.layer_count for node in self.nodes) + sum(branch.size for branch in self._branches)

    @cached_property
    def _working(self) -> int:
        """The same without Constants."""
        inside = sum(branch.size - branch._working for branch in self._branches)
        return self.size - inside - sum(node.op == "Constant" for node in self.nodes)

    @property
    def _branches(self) -> Iterator[Any]:
        return (branch for node in self.nodes for _, branch in node.subgraphs)

    @cached_property
    def readers(self) -> Mapping[str, tuple[int, ...]]:
        """For each value that nodes read: their places in ``nodes``, in order, one for each time it is read."""
        places_of: dict[str, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for name in node.reads:
                places_of.setdefault(name, []).append(place)
        return MappingProxyType({name: tuple(places) for name, places in places_of.items()})

    @property
    def recurrent(self) -> tuple[Recurrent, ...]:
        """The Recurrent nodes, in order."""
        return tuple(node for node in self.nodes if isinstance(node, Recurrent))

    @property
    def stateful(self) -> tuple[Recurrent | AttentionDecoder, ...]:
        """The nodes that carry state, in order."""
        return cast("tuple[Recurrent | AttentionDecoder, ...]", tuple(node for node in self.nodes if node.stateful))

    def weight_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Canonical name -> shape of every weight; exactly these must be given."""
        return self._weight_shapes

    @cached_property
    def _weight_shapes(self) -> Mapping[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for node in self.nodes:
            shapes.update(node.weight_shapes())
        return MappingProxyType(shapes)

    def weight_dtypes(self) -> Mapping[str, str]:
        """Canonical name -> dtype of the weights that are not "float"."""
        return self._weight_dtypes

    @cached_property
    def _weight_dtypes(self) -> Mapping[str, str]:
        dtypes: dict[str, str] = {}
        for node in self.nodes:
            dtypes.update(node.weight_dtypes())
        return MappingProxyType(dtypes)

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The ops of its nodes, "Recurrent" and "AttentionDecoder" among them; of those in branches not."""
        return frozenset(node.op for node in self.nodes)

    def reshaped(self, shapes: Mapping[str, tuple[int | str, ...]]) -> Spec:
        """The same network for inputs of other shapes, by name. SpecError where a size contradicts another."""
        inputs = (dataclasses.replace(entry, shape=shapes.get(entry.name, entry.shape)) for entry in self.inputs)
        return Spec(tuple(inputs), self.nodes, self.outputs, self.names)

    def sized(self, sizes: Mapping[str, int]) -> Spec:
        """The same network with a number for some of the names of its inputs' sizes: {"B": 1}.

        SpecError for a name that no input has, for what is no positive integer, and where the graph contradicts one.
        """
        check_sizes(sizes, [size for entry in self.inputs for size in entry.shape])
        shapes = {entry.name: tuple(cast(Any, sizes).get(size, size) for size in entry.shape) for entry in self.inputs}
        return self.reshaped(shapes)

    def to_json(self) -> dict[str, Any]:
        """The object that JSON holds for it."""
        return write_spec(self)

    @classmethod
    def from_json(cls, given: str | bytes | Mapping[str, Any]) -> Spec:
        """From a JSON text or the object it holds. Unknown keys are an error, never ignored."""
        return read_spec(cls, given)


def paths_of(spec: Network, within: str = "") -> Iterator[tuple[str, GraphNode]]:
    """Every node, those in branches among them, with the name before those of its weights: "loop.body.cell"."""
    for node in spec.nodes:
        path = f"{within}{node.name}"
        yield path, node
        for label, branch in node.subgraphs:
            yield from paths_of(branch, f"{path}.{label}.")
