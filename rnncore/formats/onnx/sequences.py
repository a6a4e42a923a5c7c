"""ONNX's sequences of tensors, which the Spec has not: each is followed here until tensors are made of it again.

A sequence whose length the file tells is its Items. One that a split by ones or a loop gives has an item
for each step of the axis, and is Stacked: that array, with the axis.

A Loop that appends one tensor to a sequence in each step collects what it appends, as ONNX's scan outputs do:
``collected`` writes it so. Anything else that a loop might do with a sequence is refused by name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rnncore.errors import FormatError
from rnncore.files.cursor import shown
from rnncore.formats.onnx.entries import Items, Known, Stacked
from rnncore.formats.onnx.file import OnnxGraph, OnnxNode, OnnxValue

if TYPE_CHECKING:
    from rnncore.formats.onnx.graph import GraphLowering

__all__ = ["OPS", "collected", "lower"]

MAX_ITEMS = 4096


def lower(lowering: GraphLowering, node: OnnxNode) -> None:
    """One node of OPS."""
    OPS[node.op](lowering, node)


def _sequence(lowering: GraphLowering, node: OnnxNode, **defaults: int) -> Items | Stacked:
    """The sequence that a node reads first; defaults: the attributes that it may have."""
    _attributes(lowering, node, **defaults)
    entry = lowering.lookup(node.inputs[0]) if node.inputs and node.inputs[0] else None
    if not isinstance(entry, (Items, Stacked)):
        raise lowering.error(node, "its first input is a tensor, expected a sequence", FormatError)
    return entry


def _items(lowering: GraphLowering, node: OnnxNode) -> tuple[str, ...]:
    sequence = _sequence(lowering, node)
    if isinstance(sequence, Stacked):
        raise lowering.error(node, "a sequence whose length is only known when it runs, expected a fixed one")
    return sequence.names


def _give(lowering: GraphLowering, node: OnnxNode, names: tuple[str, ...]) -> None:
    if len(names) > MAX_ITEMS:
        raise lowering.error(node, f"a sequence of {len(names)}, expected at most {MAX_ITEMS}")
    lowering.entries[node.outputs[0]] = Items(names)


def _attributes(lowering: GraphLowering, node: OnnxNode, **defaults: int) -> list[int]:
    unknown = sorted(set(node.attributes) - set(defaults) - {"dtype"})
    if unknown:
        raise lowering.error(node, f"attribute {shown(unknown[0])!r} is not supported, expected one of: "
                             f"{', '.join(defaults) or 'none'}")  # fmt: skip
    values = [node.attributes.get(key, default) for key, default in defaults.items()]
    for key, value in zip(defaults, values, strict=True):
        if type(value) is not int:
            raise lowering.error(node, f"attribute {key!r}={value!r}, expected an integer", FormatError)
    return values


def _position(lowering: GraphLowering, node: OnnxNode, place: int, count: int, end: int) -> int | None:
    """A constant position from 0 to ``end``, counted from the end where negative; None where it is computed."""
    array = lowering.known(node.inputs[place])
    if array is None:
        return None
    position = int(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind == "i" else None
    if position is None or not -count <= position <= end:
        raise lowering.error(
            node, f"position {array.tolist()}, expected an integer from {-count} to {end}", FormatError
        )
    return position % count if position < 0 else position


def _empty(lowering: GraphLowering, node: OnnxNode) -> None:
    _attributes(lowering, node)
    _give(lowering, node, ())


def _construct(lowering: GraphLowering, node: OnnxNode) -> None:
    _attributes(lowering, node)
    _give(lowering, node, node.inputs)


def _insert(lowering: GraphLowering, node: OnnxNode) -> None:
    names = _items(lowering, node)
    place: int | None = len(names)
    if len(node.inputs) > 2 and node.inputs[2]:
        place = _position(lowering, node, 2, len(names), len(names))
        if place is None:
            raise lowering.error(node, "a position that is computed, expected a constant")
    _give(lowering, node, (*names[:place], node.inputs[1], *names[place:]))


def _erase(lowering: GraphLowering, node: OnnxNode) -> None:
    names = _items(lowering, node)
    place: int | None = len(names) - 1
    if len(node.inputs) > 1 and node.inputs[1]:
        place = _position(lowering, node, 1, len(names), len(names) - 1)
        if place is None:
            raise lowering.error(node, "a position that is computed, expected a constant")
    _give(lowering, node, (*names[:place], *names[cast(int, place) + 1 :]))


def _at(lowering: GraphLowering, node: OnnxNode) -> None:
    sequence, output = _sequence(lowering, node), node.outputs[0]
    if isinstance(sequence, Items):
        place = _position(lowering, node, 1, len(sequence.names), len(sequence.names) - 1)
        if place is None:
            raise lowering.error(node, "a position that is computed in a sequence of several tensors, "
                                 "expected a constant")  # fmt: skip
        lowering.entries[output] = lowering.lookup(sequence.names[place])
        return
    one = lowering.emit("Gather", (sequence.value, lowering.value(node.inputs[1])), output, axis=sequence.axis)
    lowering.entries[output] = _unsqueezed(lowering, one, sequence.axis, output) if sequence.kept else one


def _unsqueezed(lowering: GraphLowering, value: str, axis: int, name: str) -> str:
    return lowering.emit("Unsqueeze", (value,), f"{name}.item", axes=(axis,))


def _length(lowering: GraphLowering, node: OnnxNode) -> None:
    sequence, output = _sequence(lowering, node), node.outputs[0]
    if isinstance(sequence, Items):
        lowering.entries[output] = Known(np.array(len(sequence.names), np.int64))
        return
    shape = lowering.emit("Shape", (sequence.value,), f"{output}.shape")
    lowering.entries[output] = lowering.emit("Gather", (shape,), output, indices=sequence.axis, axis=0)


def _split(lowering: GraphLowering, node: OnnxNode) -> None:
    """Without sizes into single steps, which keep their axis by ``keepdims``; a size gives steps of that many.

    With a size the specification says that keepdims is ignored, and ONNX Runtime does not ignore it: refused.
    """
    axis, keepdims = _attributes(lowering, node, axis=0, keepdims=1)
    x = lowering.value(node.inputs[0])
    shape = lowering.values[x].shape
    if not -len(shape) <= axis < len(shape) or keepdims not in (0, 1):
        raise lowering.error(node, f"axis={axis} and keepdims={keepdims} for {lowering.values[x]}", FormatError)
    axis %= len(shape)
    given = len(node.inputs) > 1 and node.inputs[1]
    sizes = lowering.known(node.inputs[1]) if given else np.array(1)
    if sizes is None:
        raise lowering.error(node, "sizes that are computed, expected constants")
    if given and sizes.ndim == 0 and not keepdims:
        raise lowering.error(node, "keepdims=0 with a size of the parts, expected one of them")
    if sizes.ndim == 0 and sizes == 1:
        lowering.entries[node.outputs[0]] = Stacked(x, axis, bool(keepdims))
        return
    parts = sizes.reshape(-1).tolist()
    if sizes.ndim == 0:
        (step,), size = parts, shape[axis]
        if not isinstance(size, int) or step < 1 or size // step >= MAX_ITEMS:
            raise lowering.error(
                node, f"steps of {step} along axis {axis} of {lowering.values[x]}, expected a known size"
            )
        parts = [min(step, size - begin) for begin in range(0, size, step)]
    if not 1 <= len(parts) <= MAX_ITEMS:
        raise lowering.error(node, f"{len(parts)} parts, expected 1 to {MAX_ITEMS}")
    names = tuple(lowering.fresh(f"{node.outputs[0]}.{place}") for place in range(len(parts)))
    whole = dataclasses.replace(node, op="Split", outputs=names)
    lowering.place(whole, "Split", (x,), {"axis": axis, "split": tuple(parts)})
    _give(lowering, node, names)


def _concatenated(lowering: GraphLowering, node: OnnxNode) -> None:
    if "axis" not in node.attributes:
        raise lowering.error(node, "attribute 'axis' is missing, expected it", FormatError)
    options = {"axis": 0, "new_axis": 0}
    sequence, output = _sequence(lowering, node, **options), node.outputs[0]
    axis, new_axis = _attributes(lowering, node, **options)
    if isinstance(sequence, Stacked):
        lowering.entries[output] = _along(lowering, node, sequence, axis, new_axis, output)
        return
    if not sequence.names:
        raise lowering.error(node, "a sequence without items, expected one at least", FormatError)
    parts = [lowering.value(name) for name in sequence.names]
    if new_axis:
        parts = [lowering.emit("Unsqueeze", (part,), f"{output}.part", axes=(axis,)) for part in parts]
    lowering.entries[output] = lowering.emit("Concat", parts, output, axis=axis)


def _along(lowering: GraphLowering, node: OnnxNode, sequence: Stacked, axis: int, new_axis: int, output: str) -> str:
    """The items joined along an axis that they have, or along a new one."""
    rank = len(lowering.values[sequence.value].shape)
    if sequence.kept:  # an item has the rank of the whole
        if new_axis or axis % rank != sequence.axis or not -rank <= axis < rank:
            raise lowering.error(node, f"axis={axis} and new_axis={new_axis} for parts along axis {sequence.axis}, "
                                 "expected the same axis")  # fmt: skip
        return sequence.value
    least = rank if new_axis else rank - 1
    if not -least <= axis < least:
        raise lowering.error(node, f"axis={axis}, expected one from {-least} to {least - 1}", FormatError)
    axis %= least
    order = [place for place in range(rank) if place != sequence.axis]
    order.insert(axis, sequence.axis)
    moved = sequence.value
    if order != list(range(rank)):
        moved = lowering.emit("Transpose", (moved,), output, perm=tuple(order))
    if new_axis:
        return moved
    shape = lowering.emit("Shape", (moved,), f"{output}.shape")
    parts = [lowering.emit("Slice", (shape,), f"{output}.before", starts=(0,), ends=(axis,))] if axis else []
    parts.append(lowering.constant_node(np.array([-1], np.int64), f"{output}.joined"))
    if axis + 2 < rank:
        parts.append(lowering.emit("Slice", (shape,), f"{output}.after", starts=(axis + 2,), ends=(rank,)))
    wanted = lowering.emit("Concat", parts, f"{output}.sizes", axis=0)
    return lowering.emit("Reshape", (moved, wanted), output)


OPS: dict[str, Callable[[GraphLowering, OnnxNode], None]] = {
    "ConcatFromSequence": _concatenated,
    "SequenceAt": _at,
    "SequenceConstruct": _construct,
    "SequenceEmpty": _empty,
    "SequenceErase": _erase,
    "SequenceInsert": _insert,
    "SequenceLength": _length,
    "SplitToSequence": _split,
}


# --- loops --------------------------------------------------------------------------------------------------------


def collected(lowering: GraphLowering, node: OnnxNode) -> tuple[OnnxNode, dict[str, str]]:
    """A Loop whose sequences are scan outputs: the node, and which of its new outputs each sequence is stacked in."""
    places = [
        place
        for place, name in enumerate(node.inputs[2:])
        if name and isinstance(lowering.lookup(name), (Items, Stacked))
    ]
    if not places:
        return node, {}
    given, body = node.inputs, node.attributes["body"]
    count = len(given) - 2
    kept = [place for place in range(count) if place not in places]
    rewritten = _with_scan_outputs(lowering, node, places, kept)
    ends = rewritten.outputs[len(rewritten.outputs) - len(places) :]
    made = [lowering.fresh(f"{value.name}.stacked") for value in ends]
    finals = [node.outputs[place] if place < len(node.outputs) else "" for place in kept]
    outputs = [*finals, *node.outputs[count:]]
    outputs += [""] * (len(kept) + len(body.outputs) - 1 - count - len(outputs))
    stacked = {
        node.outputs[place]: name
        for place, name in zip(places, made, strict=True)
        if place < len(node.outputs) and node.outputs[place]
    }
    loop = dataclasses.replace(
        node,
        inputs=(*given[:2], *(given[2 + place] for place in kept)),
        outputs=(*outputs, *made),
        attributes={**node.attributes, "body": rewritten},
    )
    return loop, stacked


def _with_scan_outputs(
    lowering: GraphLowering, node: OnnxNode, places: Sequence[int], kept: Sequence[int]
) -> OnnxGraph:
    """The body of a Loop with what it appends to the carried sequences at ``places`` as its last outputs."""
    body, count = node.attributes["body"], len(node.inputs) - 2
    uses = _uses(body)
    appends = [_append(lowering, node, place, uses) for place in places]
    nodes = [inner for inner in body.nodes if all(inner is not append for append in appends)]
    ends = []
    for append in appends:  # an output of a graph has a name of its own: what is appended may be another output already
        item = append.inputs[1]
        copy = lowering.fresh(f"{item}.appended")
        identity: dict[str, Any] = {
            "op": "Identity",
            "domain": "",
            "inputs": (item,),
            "outputs": (copy,),
            "attributes": {},
        }
        nodes.append(dataclasses.replace(node, **identity))
        ends.append(OnnxValue(copy, "", None))
    return OnnxGraph(
        body.place,
        (*body.inputs[:2], *(body.inputs[2 + place] for place in kept)),
        (body.outputs[0], *(body.outputs[1 + place] for place in kept), *body.outputs[1 + count :], *ends),
        body.constants,
        tuple(nodes),
    )


def _uses(body: OnnxGraph) -> Counter[str]:
    """The number of times each name is used in a body and the graphs inside it."""
    uses = Counter(name for inner in body.nodes for name in inner.inputs)
    uses.update(name for inner in body.nodes for graph in inner.graphs for name in graph.free_names())
    uses.update(value.name for value in body.outputs)
    return uses


def _append(lowering: GraphLowering, node: OnnxNode, place: int, uses: Counter[str]) -> OnnxNode:
    """The SequenceInsert that appends to a carried sequence, the only use of it in the body of a Loop."""
    body = node.attributes["body"]
    name, end = body.inputs[2 + place].name, body.outputs[1 + place].name
    if lowering.lookup(node.inputs[2 + place]) != Items(()):
        raise lowering.error(node, f"carries the sequence {shown(name)!r}, expected one that is empty at first")
    if name == end:  # never appended to
        raise lowering.error(node, f"carries the sequence {shown(name)!r}, to which it appends nothing")
    inserts = [inner for inner in body.nodes if inner.op == "SequenceInsert" and end in inner.outputs]
    appends = inserts and inserts[0].inputs[0] == name and not any(inserts[0].inputs[2:])
    if not appends or uses[name] != 1 or uses[end] != 1:
        raise lowering.error(node, f"does more with the sequence {shown(name)!r} than to append to it once a step")
    return inserts[0]
