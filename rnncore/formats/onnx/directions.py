"""Ops that exporters put after a recurrent node to take its axis of directions out: followed, not computed.

Each function lowers one op applied to the sequence of a recurrent node, and returns False where it is anything else,
which then stays the op that it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rnncore.formats.onnx.entries import Layers, OpCall
from rnncore.formats.onnx.file import OnnxNode
from rnncore.ops import UNKNOWN

if TYPE_CHECKING:
    from rnncore.formats.onnx.graph import GraphLowering

__all__ = ["reshape", "squeeze", "transpose", "write_out"]


def write_out(lowering: GraphLowering, layers: Layers) -> str:
    """The sequence with its axis of directions as a value of the Spec."""
    return lowering.once(("layers", layers.base, layers.axes), lambda: _written(lowering, layers))


def _written(lowering: GraphLowering, layers: Layers) -> str:
    if "D" not in layers.axes:
        name, letters = layers.base, layers.order + "H"
    elif layers.directions == 1:
        letters = layers.order + "DH"
        name = lowering.emit("Unsqueeze", layers.base, f"{layers.base}.directions", axes=(letters.index("D"),))
    else:
        letters = layers.order + "DH"
        shape = (0, 0, layers.directions, layers.hidden)
        name = lowering.emit("Reshape", layers.base, f"{layers.base}.directions", shape=shape)
    perm = tuple(letters.index(axis) for axis in layers.axes)
    if perm == tuple(range(len(perm))):
        return name
    return lowering.emit("Transpose", name, f"{layers.base}.turned", perm=perm)


def transpose(lowering: GraphLowering, call: OpCall) -> bool:
    layers = call.entries[0]
    if not isinstance(layers, Layers):
        return False
    places = range(len(layers.axes))
    perm = call.attributes.get("perm")
    perm = tuple(places)[::-1] if perm is None else perm
    if sorted(perm) != list(places):
        return False
    lowering.entries[call.output] = layers.with_axes("".join(layers.axes[axis] for axis in perm))
    return True


def squeeze(lowering: GraphLowering, call: OpCall) -> bool:
    """The axis of directions away, where there is one direction."""
    layers = call.entries[0]
    axes = lowering.known(call.inputs[1]) if len(call.inputs) > 1 and call.inputs[1] else None
    if not isinstance(layers, Layers):
        return axes is None and not call.inputs[1:] and _squeeze_as_declared(lowering, call.node, call.inputs[0])
    if "D" not in layers.axes or layers.directions != 1 or axes is None:
        return False
    if axes.reshape(-1).tolist() not in ([layers.axes.index("D")], [layers.axes.index("D") - len(layers.axes)]):
        return False
    lowering.entries[call.output] = layers.with_axes(layers.axes.replace("D", ""))
    return True


def _squeeze_as_declared(lowering: GraphLowering, node: OnnxNode, name: str) -> bool:
    """Without axes every axis of size 1 goes: the declared rank tells which of those with a named size do."""
    shape = lowering.inferred(name).shape
    declared = (value for value in lowering.graph.outputs if value.name == node.outputs[0] and value.shape is not None)
    rank = next((len(value.shape or ()) for value in declared), None)
    named = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    if rank is None or not named:
        return False
    if rank == len(shape) - len(ones) - len(named):
        lowering.place(node, "Squeeze", (lowering.value(name),), {"axes": tuple(sorted(ones + named))})
        return True
    if rank != len(shape) - len(ones):
        raise lowering.error(
            node,
            f"no axes for {lowering.inferred(name)}, of which {rank} are declared to stay: expected to know which; "
            "load(..., sizes={name: size}) fixes a size",
        )
    return False


def reshape(lowering: GraphLowering, call: OpCall) -> bool:
    """The directions next to each other: (..., D, H) to (..., D*H)."""
    layers = call.entries[0]
    if not isinstance(layers, Layers) or not layers.axes.endswith("DH"):
        return False
    shape = lowering.known(call.inputs[1])
    wanted: Any = lowering.inferred(call.inputs[1]).data if shape is None else tuple(shape.reshape(-1).tolist())
    if wanted is None or len(wanted) != 3 or not _is_flat(lowering, layers, wanted):
        return False
    if call.attributes.get("allowzero") and 0 in wanted:
        return False
    joined = layers.with_axes(layers.axes[:2] + "H")
    lowering.entries[call.output] = joined if isinstance(joined, str) else write_out(lowering, joined)
    return True


def _is_flat(lowering: GraphLowering, layers: Layers, wanted: tuple[int | str, ...]) -> bool:
    """Whether these sizes are the sequence's own with its directions joined."""
    base = lowering.shape(layers.base)
    sizes = dict(zip(layers.order, base, strict=False)) | {"D": layers.directions, "H": layers.hidden}
    flat = (*(sizes[axis] for axis in layers.axes[:2]), layers.directions * layers.hidden)
    same = [size in (0, own) or size == -1 for size, own in zip(wanted, flat, strict=True)]
    return all(same) and wanted.count(-1) <= 1 and UNKNOWN not in wanted
