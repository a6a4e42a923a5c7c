"""Recurrent layers in nodes of their own that only read each other are one stack, run by one call of the time loop."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rnncore.graph.nodes import Node, Recurrent
from rnncore.passes.graph import Graph

__all__ = ["join_slices", "merge_layers"]


def merge_layers(graph: Graph) -> None:
    """Make one Recurrent node of each chain of layers that differ in nothing but their input size.

    Their initial states are concatenated, and their final ones are slices of the stack's, which join_slices takes
    away again where the file did the opposite.
    """
    uses = graph.uses()
    recurrent = {node.name: node for node in graph.spec.recurrent}
    after = {
        node.name: reader
        for reader in recurrent.values()
        if (node := recurrent.get(reader.input)) is not None and _continues(node, reader, uses)
    }
    inner = {reader.name for reader in after.values()}
    nodes, arrays, merged = {node.name: node for node in graph.spec.nodes}, dict(graph.weights), 0
    renamed: dict[str, str] = {}
    slices: list[Node] = []
    taken = set(nodes) | set(graph.values)
    for first in recurrent.values():
        if first.name in inner or first.name not in after:
            continue
        chain = [first]
        while chain[-1].name in after:
            chain.append(after[chain[-1].name])
        made, parts = _stack(chain, taken, uses, arrays, renamed, graph.outputs)
        for node in chain:
            del nodes[node.name]
        nodes.update((node.name, node) for node in made)
        slices += parts
        merged += len(chain)
    if merged:
        ordered = in_order([*(node.with_reads(renamed) for node in nodes.values()), *slices])
        graph.update(ordered, {"recurrent layers joined into stacks": merged}, arrays)


def _continues(node: Recurrent, after: Recurrent, uses: Mapping[str, int]) -> bool:
    """Whether ``after`` is the next layer of the stack that ``node`` begins or goes on with."""
    if uses[node.name] != 1 or node.layers != 1 or after.layers != 1 or node.directions != after.directions:
        return False
    if node.trained_state or after.trained_state or node.output_order != "time" or node.merge == "separate":
        return False
    if any(uses[f"{other.name}.last"] for other in (node, after)):
        return False
    same: dict[str, Any] = {"name": node.name, "cell": node.cell, "input": node.input, "initial": node.initial}
    same["reverse_cell"] = node.reverse_cell
    cells = [
        after.layer_cell(0, direction) == node.layer_cell(0, direction).replace(input_size=node.output_size)
        for direction in node.directions
    ]
    return all(cells) and dataclasses.replace(after, **same) == node and bool(node.initial) == bool(after.initial)


def _stack(
    chain: list[Recurrent],
    taken: set[str],
    uses: Mapping[str, int],
    arrays: dict[str, Any],
    renamed: dict[str, str],
    outputs: Collection[str],
) -> tuple[list[Any], list[Node]]:
    """The nodes in place of the chain, and those after it: slices of its states, and outputs under their names.

    Its weights are put into ``arrays``, and what its values are called now into ``renamed``.
    """

    def free(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    first, rows = chain[0], len(chain[0].directions)
    kept = [value for node in chain for value in node.names if value in outputs]
    name = free(f"{first.name}.stack") if kept else first.name
    initial, after = [], []
    for place, key in enumerate(first.cell.states if first.initial else ()):
        parts = tuple(node.initial[place] for node in chain)
        initial.append(Node(free(f"{name}.initial_{key}"), "Concat", parts, {"axis": 0}))
    stack = dataclasses.replace(first, name=name, layers=len(chain), initial=tuple(node.name for node in initial))
    for layer, node in enumerate(chain):
        for direction in node.directions:
            for key in node.layer_cell(0, direction).weight_shapes():
                array = arrays.pop(f"{node.name}.{key}{node.suffix(0, direction)}")
                arrays[f"{name}.{key}{stack.suffix(layer, direction)}"] = array
        for key in first.cell.states:
            if uses[f"{node.name}.{key}"]:
                bounds = {"starts": (layer * rows,), "ends": ((layer + 1) * rows,), "axes": (0,)}
                part = Node(free(f"{name}.{key}_l{layer}"), "Slice", (f"{name}.{key}",), bounds)
                after.append(part)
                renamed[f"{node.name}.{key}"] = part.name
    renamed[chain[-1].name] = name
    after += [Node(value, "Identity", (renamed[value],)) for value in kept]
    return [*initial, stack], after


def join_slices(graph: Graph) -> None:
    """Leave out the Concat of all slices of a value, in their order, along axis 0, and the slice that is all of it."""
    givers = {node.name: node for node in graph.spec.nodes}
    nodes: list[Any] = []
    renamed: dict[str, str] = {}
    joined = 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        node = node.with_reads(renamed)
        source = _sliced(node, givers, graph)
        if source is None:
            nodes.append(node)
            continue
        joined += 1
        if node.name in graph.outputs:
            nodes.append(Node(node.name, "Identity", (source,)))
        else:
            renamed[node.name] = source
    graph.update(nodes, {"concatenations of slices": joined})


def _sliced(node: Any, givers: Mapping[str, Any], graph: Graph) -> str | None:
    """The value whose rows a Concat puts together again, or a Slice all takes."""
    if node.op == "Slice":
        rows = _rows(node)
        size = graph.values[node.inputs[0]].shape[0] if rows else None
        return node.inputs[0] if rows and rows[1] == 0 and isinstance(size, int) and size <= rows[2] else None
    if node.op != "Concat":
        return None
    rank = len(graph.values[node.inputs[0]].shape)
    parts = [rows for rows in (_rows(givers.get(name)) for name in node.inputs) if rows is not None]
    whole = len(parts) == len(node.inputs) and len({source for source, _, _ in parts}) == 1
    if node.attributes["axis"] not in (0, -rank) or not whole:
        return None
    ends = [0, *(end for _, _, end in parts)]
    starts = [start for _, start, _ in parts]
    source = parts[0][0]
    return source if ends == [*starts, graph.values[source].shape[0]] else None


def _rows(node: Any) -> tuple[str, int, int] | None:
    """(value, first, end) of a Slice of rows."""
    if node is None or node.op != "Slice" or len(node.inputs) != 1:
        return None
    starts, ends, axes, steps = (node.attributes[key] for key in ("starts", "ends", "axes", "steps"))
    plain = all(isinstance(value, tuple) and len(value) == 1 for value in (starts, ends, axes))
    if not plain or axes != (0,) or steps not in (None, (1,)) or not 0 <= starts[0] < ends[0]:
        return None
    return node.inputs[0], starts[0], ends[0]


def in_order(nodes: Iterable[Any]) -> list[Any]:
    """Each node after those whose values it reads; otherwise in the order that they have."""
    nodes = list(nodes)
    maker = {name: place for place, node in enumerate(nodes) for name in node.names}
    before = [{maker[name] for name in node.reads if name in maker} for node in nodes]
    after: list[list[int]] = [[] for _ in nodes]
    for place, others in enumerate(before):
        for other in others:
            after[other].append(place)
    ready = [place for place, others in enumerate(before) if not others]
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(nodes[place])
        for other in after[place]:
            before[other].discard(place)
            if not before[other]:
                heapq.heappush(ready, other)
    return order
