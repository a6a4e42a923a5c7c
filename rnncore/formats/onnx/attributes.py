"""Attributes of ONNX's nodes as rnncore's ops have them: flags as bool, dtypes by name, lists as tuples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rnncore.errors import FormatError
from rnncore.files.cursor import shown
from rnncore.formats.onnx.file import OnnxGraph, OnnxNode
from rnncore.ops import OPS

if TYPE_CHECKING:
    from rnncore.formats.onnx.graph import GraphLowering

__all__ = ["attributes_of", "constant_of"]

# Attributes that say nothing at inference: dropped where the op has none of that name.
INERT = {"momentum": None, "stash_type": 1, "seed": None, "training_mode": 0}
# Ops whose further outputs an attribute asks for: they take time, and are seldom used.
FURTHER_OUTPUTS = {"MaxPool": "indices", "LayerNormalization": "statistics"}
DTYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}
FILE_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "float32",
}  # fmt: skip


def attributes_of(lowering: GraphLowering, node: OnnxNode) -> dict[str, Any]:
    """The attributes of a node for the op of the same name. UnsupportedError for one that the op does not have."""
    op = OPS[node.op]
    attributes: dict[str, Any] = {}
    for key, value in node.attributes.items():
        if key not in op.attributes and key in INERT and INERT[key] in (None, value):
            continue
        if key == "auto_pad" and value == "":
            continue  # as absent
        if node.op == "ConstantOfShape" and key == "value" and isinstance(value, np.ndarray):
            value = _element(lowering, node, value)
            attributes["dtype"], value = lowering.shared.dtype_of(value), value.item()
        else:
            value = _converted(lowering, node, key, value)
        if key not in op.attributes or isinstance(value, (np.ndarray, OnnxGraph)):
            accepted = ", ".join(op.attributes) or "none"
            raise lowering.error(node, f"attribute {shown(key)!r} is not supported, expected one of: {accepted}")
        attributes[key] = value
    if node.op in FURTHER_OUTPUTS and any(output and lowering.uses[output] for output in node.outputs[1:]):
        attributes[FURTHER_OUTPUTS[node.op]] = True
    return attributes


def _element(lowering: GraphLowering, node: OnnxNode, array: np.ndarray) -> np.ndarray:
    if array.size != 1:
        raise lowering.error(node, f"attribute 'value' of shape {array.shape}, expected one element", FormatError)
    return array


def _converted(lowering: GraphLowering, node: OnnxNode, key: str, value: Any) -> Any:
    default = OPS[node.op].attributes.get(key)
    if key in DTYPE_ATTRIBUTES and isinstance(value, int):
        if value not in FILE_DTYPES:
            expected = ", ".join(dict.fromkeys(FILE_DTYPES.values()))
            raise lowering.error(node, f"attribute {key!r}: element type {value}, expected one of {expected}")
        return lowering.shared.dtype(FILE_DTYPES[value])
    if isinstance(default, bool) and value in (0, 1):
        return bool(value)
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def constant_of(lowering: GraphLowering, node: OnnxNode) -> np.ndarray:
    """The array of a Constant node."""
    if len(node.attributes) != 1 or node.inputs or len(node.outputs) != 1:
        raise lowering.error(
            node, f"attributes {', '.join(node.attributes) or 'none'}, expected one value", FormatError
        )
    ((key, value),) = node.attributes.items()
    if key == "value" and isinstance(value, np.ndarray):
        return value
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if key not in dtypes:
        raise lowering.error(node, f"attribute {shown(key)!r}, expected value, {', '.join(dtypes)}")
    return np.array(value, dtypes[key])
