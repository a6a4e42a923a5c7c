"""Outputs of a convolution that are cut off are not computed: the padding that causes them goes.

PyTorch's Conv1d pads both sides alike, so a causal one is written as padding=k - 1 and y[:, :, :-(k - 1)] after it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rnncore.graph.nodes import Node
from rnncore.ops import sizes
from rnncore.ops.base import known
from rnncore.ops.windows import Window
from rnncore.passes.graph import Graph

__all__ = ["cut_padding"]


def cut_padding(graph: Graph) -> None:
    """A Slice that leaves out outputs at the ends of a Conv's axis becomes smaller pads, which may be causal then."""
    nodes = {node.name: node for node in graph.spec.nodes}
    uses = graph.uses()
    changed: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        convolution = _cut(node, nodes, uses, graph)
        if convolution is not None:
            nodes[convolution.name] = changed[convolution.name] = convolution
            renamed[node.name] = convolution.name
    kept = (changed.get(node.name, node) for node in graph.spec.nodes if node.name not in renamed)
    graph.update([node.with_reads(renamed) for node in kept], {"cut padding": len(renamed)})


def _cut(node, nodes, uses, graph: Graph) -> Node | None:
    """The Conv in front of a Slice, without what the Slice leaves out; None where it is not that."""
    if node.op != "Slice" or node.name in graph.outputs:
        return None
    conv = nodes.get(node.inputs[0])
    if conv is None or conv.op != "Conv" or uses[conv.name] != 1 or conv.attributes["kernel_shape"] is None:
        return None
    window = Window.of(conv.attributes, conv.attributes["kernel_shape"])
    given = [graph.values.get(name) for name in node.inputs]
    names = ("starts", "ends", "axes", "steps")
    parameters = [known(node.attributes, name, given, place) for place, name in enumerate(names, 1)]
    if any(value is not None and one is None for value, one in zip(given[1:], parameters, strict=False)):
        return None
    starts, ends, axes, steps = parameters
    if window.auto_pad != "NOTSET" or None in (starts, ends) or len(starts) != 1:
        return None
    shape = graph.values[conv.name].shape
    axis = (0 if axes is None else axes[0]) % len(shape) - 2
    if axis < 0 or steps not in (None, (1,)) or window.strides[axis] != 1 or not isinstance(starts[0], int):
        return None
    first, last = starts[0], _left_out(ends[0], shape[axis + 2])
    begins, finishes = list(window.begins), list(window.ends)
    if last is None or not 0 <= first <= begins[axis] or last > finishes[axis]:
        return None
    begins[axis] -= first
    finishes[axis] -= last
    # Every sequence of one step or more has outputs left, as it had: a shorter one would be an error now.
    if begins[axis] + finishes[axis] < window.extent(axis) - 1:
        return None
    return dataclasses.replace(conv, attributes={**conv.attributes, "pads": (*begins, *finishes)})


def _left_out(end: int | str, size: int | str) -> int | None:
    """The number of elements before the end of an axis that a Slice leaves out; an end below 0 counts from there."""
    if isinstance(end, str):
        rest = sizes.subtract(size, end)
        return max(0, rest) if isinstance(rest, int) and sizes.is_natural(end) else None
    if end < 0:
        return -end
    return max(0, size - end) if isinstance(size, int) else (0 if end >= 1 << 31 else None)
