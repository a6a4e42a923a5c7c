"""Nodes of opset 7 and later in the vocabulary of the newest opset.

What became an input is made one (axes of Squeeze, starts of Slice, min of Clip ...), what was renamed has its new name,
what changed its meaning is said in other nodes. Everything else is the same in all of these versions.

Source: onnx/docs/Changelog.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from rnncore.errors import UnsupportedError
from rnncore.formats.onnx.file import OnnxNode

__all__ = ["Tools", "newest"]


class Tools(Protocol):
    """The methods of the graph that a conversion may use."""

    def constant(self, array: np.ndarray) -> str:
        """The name of a new constant."""

    def fresh(self, name: str) -> str:
        """A name that nothing has."""

    def known(self, name: str) -> np.ndarray | None:
        """The array that a name stands for, where it is constant."""

    def rank(self, name: str) -> int: ...

    def dtype(self, name: str) -> np.dtype:
        """NumPy's dtype of a value, as the file has it."""


# Attributes that became inputs: op -> the last opset that has them as attributes, and the positions of the inputs.
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
MOVED: dict[str, tuple[int, dict[str, int]]] = {
    "Squeeze": (12, {"axes": 1}),
    "Unsqueeze": (12, {"axes": 1}),
    "ReduceSum": (12, {"axes": 1}),
    **{f"Reduce{name}": (17, {"axes": 1}) for name in _REDUCTIONS},
    "Split": (12, {"split": 1}),
    "Slice": (9, {"starts": 1, "ends": 2, "axes": 3}),
    "Clip": (10, {"min": 1, "max": 2}),
    "Pad": (10, {"pads": 1, "value": 2}),
    "TopK": (9, {"k": 1}),
    "Dropout": (11, {"ratio": 1}),
}


def newest(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """The node, or the nodes that say the same. UnsupportedError for what has no newer form."""
    if node.domain:
        yield node
        return
    if node.op in MOVED and node.version <= MOVED[node.op][0]:
        node = _moved(node, MOVED[node.op][1], tools)
    convert = CONVERSIONS.get(node.op)
    if convert is None:
        yield node
    else:
        yield from convert(node, tools)


def changed(node: OnnxNode, drop: tuple[str, ...] = (), **values: Any) -> OnnxNode:
    """The node with other attributes."""
    kept = {key: value for key, value in node.attributes.items() if key not in drop}
    return replace(node, attributes=MappingProxyType({**kept, **values}))


def another(node: OnnxNode, op: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> OnnxNode:
    """A node of another op in the place of this one."""
    return replace(node, op=op, inputs=inputs, outputs=(output,), attributes=MappingProxyType(attributes))


def _moved(node: OnnxNode, places: dict[str, int], tools: Tools) -> OnnxNode:
    inputs = list(node.inputs)
    for name, position in places.items():
        value = node.attributes.get(name)
        if value is None:
            continue
        if position < len(inputs):
            raise UnsupportedError(f"{node}: attribute {name!r} and {len(inputs)} inputs, expected one of them")
        floating = isinstance(value, float) or (isinstance(value, list) and value and isinstance(value[0], float))
        array = np.array(value, tools.dtype(node.inputs[0]) if floating else np.int64)
        if node.op == "TopK":
            array = array.reshape(1)
        inputs += [""] * (position - len(inputs)) + [tools.constant(array)]
    return replace(changed(node, tuple(places)), inputs=tuple(inputs))


def _flattening(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """Softmax and its like before opset 13: over all dimensions from axis (1) on, taken as one."""
    if node.version >= 13:
        yield node
        return
    rank = tools.rank(node.inputs[0])
    axis = node.attributes.get("axis", 1)
    if axis in (-1, rank - 1):
        yield changed(node, axis=-1)
        return
    flat, done, shape = (tools.fresh(f"{node.outputs[0]}.{part}") for part in ("flat", node.op.lower(), "shape"))
    yield another(node, "Flatten", node.inputs, flat, axis=axis)
    yield another(node, node.op, (flat,), done, axis=-1)
    yield another(node, "Shape", node.inputs, shape)
    yield another(node, "Reshape", (done, shape), node.outputs[0])


def _batch_normalization(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    if node.attributes.get("spatial", 1) != 1:
        raise UnsupportedError(f"{node}: attribute 'spatial'={node.attributes['spatial']}, expected 1")
    if node.attributes.get("training_mode", 0) or any(node.outputs[1:]):
        raise UnsupportedError(f"{node}: training_mode or more outputs than one, expected a model for inference")
    yield replace(changed(node, ("spatial", "training_mode", "momentum")), outputs=node.outputs[:1])


def _dropout(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """At inference Dropout is its input, and its mask True everywhere."""
    training = tools.known(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else np.array(False)
    if training is None or training.any():
        raise UnsupportedError(f"{node}: training_mode is true or not constant, expected false")
    yield another(node, "Identity", node.inputs[:1], node.outputs[0])
    if len(node.outputs) > 1 and node.outputs[1]:
        if node.version < 10:
            raise UnsupportedError(f"{node}: a mask of opset {node.version}, expected opset 10 or newer")
        shape = tools.fresh(f"{node.outputs[1]}.shape")
        yield another(node, "Shape", node.inputs[:1], shape)
        yield another(node, "ConstantOfShape", (shape,), node.outputs[1], value=np.array([True]))


def _upsample(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """Upsample is Resize as it was in opset 10."""
    scales = node.attributes.get("scales")
    name = node.inputs[1] if scales is None else tools.constant(np.array(scales, np.float32))
    resize = replace(node, op="Resize", version=10, inputs=(node.inputs[0], name))
    yield from _resize(changed(resize, ("scales",)), tools)


def _resize(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    if node.version >= 11:
        yield node
        return
    mode: dict[str, Any] = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    yield replace(changed(node, **mode), inputs=(node.inputs[0], "", node.inputs[1]))


def _split(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    given = len(node.inputs) > 1 and node.inputs[1]
    equal = not given and "num_outputs" not in node.attributes
    yield changed(node, num_outputs=len(node.outputs)) if equal else node


def _group_normalization(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """Scale and bias for each group, before opset 21: an InstanceNormalization whose channels are the groups."""
    if node.version >= 21:
        yield node
        return
    unknown = set(node.attributes) - {"epsilon", "num_groups"}
    if unknown or "num_groups" not in node.attributes:
        raise UnsupportedError(f"{node}: attributes {', '.join(node.attributes)}, expected num_groups and epsilon")
    x, *trained = node.inputs
    parts = ("grouped", "normalized", "shape")
    grouped, normalized, shape = (tools.fresh(f"{node.outputs[0]}.{part}") for part in parts)
    sizes = tools.constant(np.array([0, node.attributes["num_groups"], -1], np.int64))
    epsilon = node.attributes.get("epsilon", 1e-5)
    yield another(node, "Reshape", (x, sizes), grouped)
    yield another(node, "InstanceNormalization", (grouped, *trained), normalized, epsilon=epsilon)
    yield another(node, "Shape", (x,), shape)
    yield another(node, "Reshape", (normalized, shape), node.outputs[0])


def _grid_sample(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """Before opset 20 the modes had the names of two dimensions."""
    if node.version >= 20:
        yield node
        return
    modes = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    mode = node.attributes.get("mode", "bilinear")
    if mode not in modes:
        raise UnsupportedError(f"{node}: attribute 'mode'={mode!r}, expected {', '.join(modes)}")
    yield replace(changed(node, mode=modes[mode]), version=20)


def _roi_align(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """Before opset 16 a region's corners were not moved by half a pixel."""
    if node.version >= 16:
        yield node
    else:
        yield replace(changed(node, coordinate_transformation_mode="output_half_pixel"), version=16)


def _scan(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    if node.version < 9:
        raise UnsupportedError(f"{node}: Scan of opset {node.version}, which has a batch, expected opset 9 or newer")
    yield node


CONVERSIONS: dict[str, Callable[[OnnxNode, Tools], Iterator[OnnxNode]]] = {
    "Softmax": _flattening,
    "LogSoftmax": _flattening,
    "Hardmax": _flattening,
    "BatchNormalization": _batch_normalization,
    "Dropout": _dropout,
    "Upsample": _upsample,
    "Resize": _resize,
    "Split": _split,
    "GroupNormalization": _group_normalization,
    "GridSample": _grid_sample,
    "NonMaxSuppression": lambda node, tools: iter([replace(node, version=max(node.version, 11))]),
    "RoiAlign": _roi_align,
    "Scan": _scan,
    "Scatter": lambda node, tools: iter([replace(node, op="ScatterElements")]),
}
