"""What exporters write around recurrent nodes, taken out of a Spec again, where it says exactly the same.

- A Transpose to time first before a recurrent node, and one back behind it: the node has layout="batch_first".
- One node for each layer, whose final states are concatenated and whose initial ones are slices of one value: a stack.
- What nothing reads any more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore.ops import OPS
from rnncore.spec import Control, Node, Recurrent

__all__ = ["simplify"]

SWAPPED = (1, 0, 2)


def simplify(
    nodes: Sequence[Any], outputs: Sequence[str], weights: Mapping[str, np.ndarray]
) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes and weights of the same network, in an order in which each node reads what stands before it."""
    graph = _Graph(nodes, outputs, weights)
    graph.drop_dead()
    for node in [node for node in graph.nodes.values() if isinstance(node, Recurrent)]:
        _put_batch_first(graph, node)
    _cancel_transposes(graph)
    for node in [node for node in graph.nodes.values() if isinstance(node, Recurrent)]:
        if node.name in graph.nodes:
            _merge_stack(graph, node)
    _join_slices(graph)
    graph.drop_dead()
    return graph.ordered(), graph.weights


class _Graph:
    """Nodes by name, and who gives and reads what."""

    def __init__(self, nodes: Sequence[Any], outputs: Sequence[str], weights: Mapping[str, np.ndarray]):
        self.nodes: dict[str, Any] = {node.name: node for node in nodes}
        self.outputs = tuple(outputs)
        self.weights = dict(weights)

    def giver(self) -> dict[str, str]:
        """Value -> the name of the node that gives it."""
        return {value: name for name, node in self.nodes.items() for value in names_of(node)}

    def readers(self, value: str) -> list[Any]:
        return [node for node in self.nodes.values() if value in node.reads]

    def rename(self, old: str, new: str) -> None:
        """Let every reader of a value read another one. An output keeps its name, by an Identity."""
        for name, node in self.nodes.items():
            if old in node.reads:
                self.nodes[name] = reading(node, {old: new})
        if old in self.outputs:
            self.nodes[old] = Node(old, "Identity", (new,))

    def fresh(self, wanted: str) -> str:
        taken = set(self.nodes) | set(self.giver())
        name, count = wanted, 1
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        return name

    def drop_dead(self) -> None:
        """Take out what no output needs, with its weights."""
        giver, alive, pending = self.giver(), set(), list(self.outputs)
        while pending:
            name = giver.get(pending.pop())
            if name is not None and name not in alive:
                alive.add(name)
                pending.extend(self.nodes[name].reads)
        self.nodes = {name: node for name, node in self.nodes.items() if name in alive}
        needed = {key for node in self.nodes.values() for key in node.weight_shapes()}
        self.weights = {key: array for key, array in self.weights.items() if key in needed}

    def ordered(self) -> list[Any]:
        """Each node after what it reads; otherwise in the order they had."""
        giver, done, order = self.giver(), set(), []
        for start in self.nodes:
            pending = [start]
            while pending:
                name = pending[-1]
                before = [giver[value] for value in self.nodes[name].reads if value in giver]
                missing = [other for other in before if other not in done]
                if missing and name not in done:
                    pending.extend(missing)
                    continue
                pending.pop()
                if name not in done:
                    done.add(name)
                    order.append(self.nodes[name])
        return order


def names_of(node: Any) -> tuple[str, ...]:
    """The names of a node's values."""
    if isinstance(node, (Node, Control)):
        return node.names
    return (node.name, f"{node.name}.last", *(f"{node.name}.{key}" for key in node.cell.states))


def reading(node: Any, names: Mapping[str, str]) -> Any:
    """The node with other names for what it reads."""
    if isinstance(node, (Node, Control)):
        return dataclasses.replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))
    return dataclasses.replace(
        node,
        input=names.get(node.input, node.input),
        lengths=names.get(node.lengths, node.lengths),
        initial=tuple(names.get(name, name) for name in node.initial),
    )


def _is_swap(node: Any) -> bool:
    return isinstance(node, Node) and node.op == "Transpose" and tuple(node.attributes["perm"] or ()) == SWAPPED


def _put_batch_first(graph: _Graph, node: Recurrent) -> None:
    """Read what a Transpose turns as it was before, and turn the sequence behind the node instead."""
    node = graph.nodes[node.name]
    before = graph.nodes.get(node.input)
    if node.layout != "time_first" or not _is_swap(before):
        return
    turned = graph.fresh(f"{node.name}.time_first")
    read = bool(graph.readers(node.name)) or node.name in graph.outputs
    graph.nodes[node.name] = dataclasses.replace(node, layout="batch_first", input=before.inputs[0])
    if read:
        assert node.name not in graph.outputs  # an output of the file is four-dimensional, or has a node of its own
        graph.rename(node.name, turned)
        graph.nodes[turned] = Node(turned, "Transpose", (node.name,), {"perm": SWAPPED})


def _cancel_transposes(graph: _Graph) -> None:
    """A Transpose of a Transpose is one, or nothing at all."""
    for name in list(graph.nodes):
        node = graph.nodes[name]
        before = graph.nodes.get(node.inputs[0]) if isinstance(node, Node) and node.op == "Transpose" else None
        if not isinstance(before, Node) or before.op != "Transpose" or None in (
            node.attributes["perm"], before.attributes["perm"],
        ):  # fmt: skip
            continue
        perm = tuple(before.attributes["perm"][axis] for axis in node.attributes["perm"])
        if perm == tuple(range(len(perm))):
            graph.nodes.pop(name)
            graph.rename(name, before.inputs[0])
        else:
            graph.nodes[name] = Node(name, "Transpose", before.inputs, {"perm": perm})


def _merge_stack(graph: _Graph, first: Recurrent) -> None:
    """One node from a chain of layers that only read each other."""
    first = graph.nodes[first.name]
    if any(isinstance(graph.nodes.get(first.input), Recurrent) for _ in (0,)) and _follows(
        graph, graph.nodes[first.input], first
    ):
        return  # its chain begins before it
    chain = [first]
    while True:
        readers = graph.readers(chain[-1].name)
        if len(readers) != 1 or not _follows(graph, chain[-1], readers[0]):
            break
        chain.append(readers[0])
    if len(chain) == 1:
        return
    last, rows = chain[-1], len(first.directions)
    stack = dataclasses.replace(first, layers=len(chain))
    initial = []
    for place, key in enumerate(first.cell.states if first.initial else ()):
        name = graph.fresh(f"{first.name}.initial_{key}")
        graph.nodes[name] = Node(name, "Concat", tuple(node.initial[place] for node in chain), {"axis": 0})
        initial.append(name)
    for layer, node in enumerate(chain):
        del graph.nodes[node.name]
        for key in node.weight_shapes():
            new = key.removeprefix(f"{node.name}.").replace("_l0", f"_l{layer}")
            graph.weights[f"{first.name}.{new}"] = graph.weights.pop(key)
    graph.nodes[first.name] = dataclasses.replace(stack, initial=tuple(initial))
    for layer, node in enumerate(chain):
        for key in first.cell.states:
            part = graph.fresh(f"{first.name}.{key}_l{layer}")
            graph.rename(f"{node.name}.{key}", part)
            bounds = {"starts": (layer * rows,), "ends": ((layer + 1) * rows,), "axes": (0,)}
            graph.nodes[part] = Node(part, "Slice", (f"{first.name}.{key}",), bounds)
    graph.rename(last.name, first.name)


def _follows(graph: _Graph, node: Recurrent, after: Any) -> bool:
    """Whether a node is the next layer of a stack."""
    if not isinstance(after, Recurrent) or after.input != node.name or node.name in graph.outputs:
        return False
    if len(graph.readers(node.name)) != 1 or node.layers != 1 or after.layers != 1:
        return False
    if any(graph.readers(f"{other.name}.last") for other in (node, after)):
        return False
    changes = {"name": node.name, "input": node.input, "initial": node.initial, "cell": node.cell}
    if after.reverse_cell is not None and node.reverse_cell is not None:
        changes["reverse_cell"] = node.reverse_cell
    same_cells = [
        after.layer_cell(0, direction) == node.layer_cell(0, direction).replace(input_size=node.output_size)
        for direction in node.directions
    ]
    alike = dataclasses.replace(after, **changes) == node if after.directions == node.directions else False
    return alike and all(same_cells) and bool(node.initial) == bool(after.initial)


def _join_slices(graph: _Graph) -> None:
    """A Concat of all slices of a value along one axis is the value."""
    sizes = {
        f"{node.name}.{key}": shape[0]
        for node in graph.nodes.values()
        if isinstance(node, Recurrent)
        for key, shape in node.state_shapes("B").items()
    }
    for name in list(graph.nodes):
        node = graph.nodes[name]
        if not isinstance(node, Node) or node.op != "Concat" or node.attributes["axis"] != 0 or len(node.inputs) < 2:
            continue
        parts = [_rows(graph.nodes.get(part)) for part in node.inputs]
        if None in parts or len({source for source, _, _ in parts}) > 1 or parts[0][1] != 0:
            continue
        joined = all(before[2] == after[1] for before, after in zip(parts, parts[1:], strict=False))
        source, end = parts[0][0], parts[-1][2]
        if not joined:
            continue
        graph.nodes[name] = Node(name, "Slice", (source,), {"starts": (0,), "ends": (end,), "axes": (0,)})
        reader = [other for other in graph.readers(name) if isinstance(other, Recurrent) and name in other.initial]
        whole = sizes.get(source) or next((other.state_shapes("B")["h"][0] for other in reader), None)
        if whole == end and (source in sizes or _is_initial_of_all(graph, name, reader)):
            graph.nodes.pop(name)
            graph.rename(name, source)


def _rows(node: Any) -> tuple[str, int, int] | None:
    """(value, first, end) of a Slice of rows."""
    if not isinstance(node, Node) or node.op != "Slice" or len(node.inputs) != 1:
        return None
    found = [node.attributes[key] for key in ("starts", "ends", "axes", "steps")]
    plain = all(isinstance(value, tuple) and len(value) == 1 for value in found[:3]) and found[3] in (None, (1,))
    if not plain or found[2] != (0,) or not 0 <= found[0][0] < found[1][0]:
        return None
    return node.inputs[0], found[0][0], found[1][0]
