"""ONNX's If, Loop and Scan -> Control nodes, whose branches are Specs of their own.

A branch of an If whose condition is constant is put in the place of the node. What a branch reads of the graphs
around it becomes an input of it, and constants are its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from rnncore.errors import FormatError
from rnncore.formats.onnx.entries import Known, Stacked
from rnncore.formats.onnx.file import OnnxGraph, OnnxNode
from rnncore.formats.onnx.graph import GraphLowering
from rnncore.formats.onnx.sequences import collected
from rnncore.graph.nodes import Control, Input
from rnncore.ops import UNKNOWN, Value

__all__ = ["lower"]

MAX_ROUNDS = 4

ATTRIBUTES = {
    "If": {"then_branch", "else_branch"},
    "Loop": {"body"},
    "Scan": {
        "body", "num_scan_inputs", "scan_input_axes", "scan_input_directions", "scan_output_axes",
        "scan_output_directions",
    },
}  # fmt: skip


def lower(lowering: GraphLowering, node: OnnxNode) -> None:
    """The node's outputs, by a Control node or by the branch that is always taken."""
    unknown = sorted(set(node.attributes) - ATTRIBUTES[node.op])
    if unknown:
        raise lowering.error(node, f"attribute {unknown[0]!r} is not supported, expected {ATTRIBUTES[node.op]}")
    {"If": _if, "Loop": _loop, "Scan": _scan}[node.op](lowering, node)


def _body(lowering: GraphLowering, node: OnnxNode, key: str) -> OnnxGraph:
    graph = node.attributes.get(key)
    if not isinstance(graph, OnnxGraph):
        raise lowering.error(node, f"attribute {key!r} is missing, expected a graph", FormatError)
    return graph


def _if(lowering: GraphLowering, node: OnnxNode) -> None:
    branches = [_body(lowering, node, key) for key in ("then_branch", "else_branch")]
    if len(node.inputs) != 1 or any(graph.inputs for graph in branches):
        raise lowering.error(node, "branches with inputs, or no condition", FormatError)
    if any(len(graph.outputs) != len(node.outputs) for graph in branches):
        counts = " and ".join(str(len(graph.outputs)) for graph in branches)
        raise lowering.error(node, f"{len(node.outputs)} outputs of branches with {counts}", FormatError)
    taken = True if _is_squeeze_if_one(*branches) else _always(lowering, node.inputs[0])
    if taken is not None:
        _inline(lowering, node, branches[0 if taken else 1])
        return
    inner = []
    for graph in branches:
        inner.append(lowering.inside(graph))
        inner[-1].run()
    _control(lowering, node, "If", (lowering.value(node.inputs[0]),), inner)


def _is_squeeze_if_one(then: OnnxGraph, other: OnnxGraph) -> bool:
    """torch's squeeze(axis), which leaves a size that is not 1 as it is: the rank of what follows would depend on it.

    Squeeze alone is the same where the size is 1, and an error that says so where it is not.
    """
    squeezes = [node for node in then.nodes if node.op != "Constant"]
    if [node.op for node in squeezes] != ["Squeeze"] or [node.op for node in other.nodes] != ["Identity"]:
        return False
    ends = squeezes[0].outputs[0] == then.outputs[0].name and other.nodes[0].outputs[0] == other.outputs[0].name
    return ends and squeezes[0].inputs[0] == other.nodes[0].inputs[0]


def _always(lowering: GraphLowering, name: str) -> bool | None:
    """A condition that is the same in every run."""
    entry = lowering.lookup(name)
    if isinstance(entry, Known):
        return bool(entry.array.reshape(-1)[:1].any())
    data = lowering.inferred(name).data
    return data[0] if data and isinstance(data[0], bool) else None


def _inline(lowering: GraphLowering, node: OnnxNode, graph: OnnxGraph) -> None:
    """The nodes of a branch among those of the graph. Its names are gone afterwards."""
    own = {*graph.constants, *(name for inner in graph.nodes for name in inner.outputs)}
    before = {name: lowering.entries.pop(name) for name in own if name in lowering.entries}
    lowering.entries.update({name: Known(array) for name, array in graph.constants.items()})
    for inner in graph.nodes:
        lowering.lower(inner)
    results = [lowering.lookup(value.name) for value in graph.outputs]
    for name in own:
        lowering.entries.pop(name, None)
    lowering.entries.update(before)
    for name, entry in zip(node.outputs, results, strict=True):
        if name:
            lowering.entries[name] = entry


def _loop(lowering: GraphLowering, node: OnnxNode) -> None:
    body = _body(lowering, node, "body")
    given = [*node.inputs, "", ""][: max(2, len(node.inputs))]
    carried = given[2:]
    if len(body.inputs) != len(given) or len(body.outputs) < 1 + len(carried):
        raise lowering.error(
            node, f"a body of {len(body.inputs)} inputs and {len(body.outputs)} outputs for {len(carried)} carried "
            "values", FormatError,
        )  # fmt: skip
    node, stacked = collected(lowering, node)
    given, body = [*node.inputs, "", ""][: max(2, len(node.inputs))], node.attributes["body"]
    own = [lowering.value(name) if name else "" for name in given]
    values = [Value("int64", ()), Value("bool", ()), *(lowering.values[name] for name in own[2:])]
    inner = _settled(lowering, body, values, first=2, outputs=1)
    _control(lowering, node, "Loop", own, [inner])
    lowering.entries.update({name: Stacked(lowering.value(made), 0, False) for name, made in stacked.items()})


def _scan(lowering: GraphLowering, node: OnnxNode) -> None:
    body = _body(lowering, node, "body")
    count = node.attributes.get("num_scan_inputs", 0)
    if not isinstance(count, int) or not 1 <= count <= len(node.inputs) == len(body.inputs):
        raise lowering.error(
            node, f"{len(node.inputs)} inputs, {count} of them scanned, for a body of {len(body.inputs)}", FormatError
        )
    own = [lowering.value(name) for name in node.inputs]
    states = len(own) - count
    collected = len(body.outputs) - states
    lists = {
        "axes": _list(lowering, node, "scan_input_axes", count),
        "output_axes": _list(lowering, node, "scan_output_axes", collected),
        "backward": _list(lowering, node, "scan_input_directions", count, flags=True),
        "output_backward": _list(lowering, node, "scan_output_directions", collected, flags=True),
    }
    values = [lowering.values[name] for name in own[:states]]
    for place, name in enumerate(own[states:]):
        value = lowering.values[name]
        axis = lists["axes"][place] if lists["axes"] else 0
        if not -len(value.shape) <= axis < len(value.shape):
            raise lowering.error(node, f"axis {axis} of {value}", FormatError)
        shape = list(value.shape)
        del shape[axis]
        values.append(Value(value.dtype, tuple(shape)))
    inner = _settled(lowering, body, values, first=0, outputs=0, carried=states)
    _control(lowering, node, "Scan", own, [inner], sequences=count, **lists)


def _list(lowering: GraphLowering, node: OnnxNode, key: str, count: int, flags: bool = False) -> tuple:
    values = node.attributes.get(key, [])
    good = isinstance(values, list) and len(values) in (0, count) and not (flags and set(values) - {0, 1})
    if not good:
        raise lowering.error(node, f"attribute {key!r}={values!r}, expected {count} values", FormatError)
    return tuple(bool(value) if flags else int(value) for value in values)


def _settled(  # type: ignore[return]  # from the round of MAX_ROUNDS on nothing changes any more
    lowering: GraphLowering,
    body: OnnxGraph,
    values: Sequence[Value],
    first: int,
    outputs: int,
    carried: int | None = None,
) -> GraphLowering:
    """The body, lowered for carried values of the shapes that they keep: sizes that change from step to step are
    unknown; all are where they do not settle, since each round may find one more."""
    carried = len(values) - first if carried is None else carried
    values = list(values)
    for round in itertools.count(1):
        if round > 1:
            lowering.shared.again.spend(body.count)
        inner = lowering.inside(body)
        for entry, value in zip(body.inputs, values, strict=True):
            name = inner.fresh_input(entry.name)
            inner.add_input(Input(name, value.dtype, tuple(size if size != 0 else UNKNOWN for size in value.shape)))
            inner.entries[entry.name] = name
        inner.run()
        changed = False
        for place in range(carried):
            before = values[first + place]
            after = inner.inferred(body.outputs[outputs + place].name)
            if after.dtype != before.dtype or len(after.shape) != len(before.shape):
                return inner  # Control says so
            shape = tuple(a if a == b else UNKNOWN for a, b in zip(before.shape, after.shape, strict=True))
            changed = changed or shape != before.shape
            values[first + place] = dataclasses.replace(before, shape=shape, data=None)
        if not changed:
            return inner
        if round == MAX_ROUNDS:
            values[first : first + carried] = map(_unsized, values[first : first + carried])


def _unsized(value: Value) -> Value:
    return dataclasses.replace(value, shape=(UNKNOWN,) * len(value.shape), data=None)


def _control(
    lowering: GraphLowering,
    node: OnnxNode,
    op: str,
    own: Sequence[str],
    inner: Sequence[GraphLowering],
    **fields: Any,
) -> None:
    """Append the Control node, with all that its branches read of this graph."""
    captured = {outer: name for branch in inner for outer, name in branch.captures.items()}
    simplified = [branch.spec() for branch in inner]
    specs = tuple(spec for spec, _, _ in simplified)
    name = lowering.fresh(node.name or next(filter(None, node.outputs), op))
    made = Control(name, op, (*own, *captured), specs, tuple(captured.values()), **fields)
    lowering.add(made)
    labels = ("then", "else") if op == "If" else ("body",)
    for label, (_, arrays, _) in zip(labels, simplified, strict=True):
        lowering.weights.update({f"{name}.{label}.{key}": array for key, array in arrays.items()})  # counted inside
    if len(node.outputs) > len(made.names):
        raise lowering.error(node, f"{len(node.outputs)} outputs, expected {len(made.names)}", FormatError)
    for output, value in zip(node.outputs, made.names, strict=False):
        if output:
            lowering.entries[output] = value
