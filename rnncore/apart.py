"""Whether a graph keeps positions along one dimension apart: rows of a batch, or steps of a sequence.

Everything here errs on the safe side: what the graph does not prove is not assumed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from rnncore.errors import SpecError
from rnncore.ops import OPS, UNKNOWN, attention, elementwise, logic
from rnncore.spec import AttentionDecoder, Control, Node, Recurrent, Spec

__all__ = ["ATTENTION", "freed", "mentions", "mixing"]

MOST_TRIALS = 32

NAME = re.compile(r"[A-Za-z_]\w*")
ATTENTION = frozenset(op.name for op in attention.OPS)  # whole over time, but each row apart
SPREADING = frozenset(op.name for op in (*elementwise.OPS, *logic.OPS))  # inputs are aligned at their last dimensions


def mentions(size: int | str, name: str) -> bool:
    """Whether a size is made of this name: "2*B+1" of "B"."""
    return isinstance(size, str) and name in NAME.findall(size)


def mixing(spec: Spec, name: str, rows: bool, recurrent: bool = True) -> str:
    """The first value or node where positions along the dimension ``name`` may meet, in words; "" where none may.

    rows       the dimension is the batch, which recurrent nodes and attention keep apart; else they are steps
    recurrent  whether recurrent nodes count
    """
    for key, value in spec.values.items():
        others = [size for size in value.shape if size != name]
        unclear = UNKNOWN in others or any(mentions(size, name) for size in others) or value.shape.count(name) > 1
        if unclear or (value.data is not None and any(mentions(size, name) for size in value.data)):
            return f"value {key!r}"
    for node in spec.nodes:
        if (recurrent or not isinstance(node, Recurrent)) and not _keeps_apart(spec, node, name, rows):
            return f"node {node.name!r} ({getattr(node, 'op', None) or node.kind})"
    return ""


def freed(spec: Spec, names: Sequence[str]) -> Spec | None:
    """The network for any batch in place of one of 1, which these inputs have as the first or second size, and optional
    ones may have.

    None unless the graph keeps the rows of a larger batch apart, and every output has them.
    """
    inputs = {entry.name: entry for entry in spec.inputs}
    names = [*names, *(e.name for e in spec.inputs if e.optional and 1 in e.shape[:2] and e.name not in names)]
    taken = {size for entry in spec.inputs for size in entry.shape}
    batch = next(name for name in ("B", "N", *(f"B{n}" for n in range(len(taken)))) if name not in taken)
    layers = {name for node in spec.stateful for name in node.initial}  # whose first axis those of a state are
    places = [
        [axis for axis, size in enumerate(inputs[name].shape[:2]) if size == 1 and (axis or name not in layers)]
        for name in names
    ]
    for axes in itertools.islice(itertools.product(*places), MOST_TRIALS):
        shapes = {}
        for name, axis in zip(names, axes, strict=True):
            shape = inputs[name].shape
            shapes[name] = (*shape[:axis], batch, *shape[axis + 1 :])
        try:
            found = spec.reshaped(shapes)
        except SpecError:
            continue
        rows = all(batch in found.values[name].shape for name in found.outputs)
        if rows and not mixing(found, batch, rows=True):
            return found
    return None


def _keeps_apart(spec: Spec, node: object, name: str, rows: bool) -> bool:
    values = spec.values
    if isinstance(node, Control):
        return False
    if isinstance(node, (Recurrent, AttentionDecoder)):
        axis = 1 if getattr(node, "layout", "") == "time_first" else 0
        return rows and values[node.input].shape[axis] == name
    if node.op in ATTENTION:
        return rows
    shapes = [values[entry].shape if entry else () for entry in node.inputs]
    outputs = [values[entry].shape for entry in node.names]
    if not any(name in shape for shape in shapes):
        return True
    if any(name not in shape for shape in outputs):
        return False
    op = OPS[node.op]
    if name in shapes[0]:
        axis = shapes[0].index(name)
        if op.over_time(node.attributes, len(shapes[0]), axis) != "pointwise":
            return False
    if name not in shapes[0] or any(name in shape for shape in shapes[1:]):
        return _others_are_aligned(node, shapes, outputs[0], name)
    return True


def _others_are_aligned(node: Node, shapes: list[tuple[int | str, ...]], output: tuple[int | str, ...], name: str):
    """Whether an op whose later inputs have the dimension meets it only with itself."""
    from_end = len(output) - output.index(name)
    here = [len(shape) - shape.index(name) for shape in shapes if name in shape]
    if node.op in SPREADING:
        return all(place == from_end for place in here) and all(
            len(shape) < from_end or shape[-from_end] in (name, 1) for shape in shapes
        )
    if node.op == "Concat":
        return all(name in shape and len(shape) - shape.index(name) == from_end for shape in shapes)
    if node.op == "MatMul":
        return from_end > 2 and all(place == from_end for place in here)
    return False
