"""Rare ops that rnncore has no kernel for become Reference nodes, which onnx.reference runs one by one.

The dtypes and shapes of their outputs are those of onnx.shape_inference. Recurrent and control nodes, and what draws
random numbers or reads strings, sequences or pictures, never go this way.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from rnncore.files.cursor import shown
from rnncore.formats.onnx.file import ELEMENTS, OnnxGraph, OnnxNode
from rnncore.graph.nodes import Node
from rnncore.ops import UNKNOWN, Value
from rnncore.ops.reference import RARE

if TYPE_CHECKING:
    from rnncore.formats.onnx.graph import GraphLowering

__all__ = ["is_rare", "lower"]


# Attributes that onnx.reference takes, but computes otherwise than the specification, ONNX Runtime and PyTorch.
WRONG = {"GridSample": {"mode": "cubic", "padding_mode": "border"}}


LARGEST_READ = 4096  # elements of constants that shapes may depend on


def is_rare(node: OnnxNode) -> bool:
    return not node.domain and node.op in RARE


def lower(lowering: GraphLowering, node: OnnxNode) -> None:
    """The node as a Reference one. UnsupportedError where its version is not among RARE's, or a rank is not known."""
    _check_version(lowering, node)
    for key, value in node.attributes.items():
        if isinstance(value, (np.ndarray, OnnxGraph)):
            raise lowering.error(node, f"attribute {shown(key)!r} is a {type(value).__name__}, expected plain values")
    outputs = [name for name in node.outputs if name]
    if len(outputs) < len(node.outputs):
        raise lowering.error(node, "an output without a name, expected a name for each")
    read = [lowering.value(name) if name else "" for name in node.inputs]
    values = _inferred(lowering, node)
    name = lowering.node_name(node, len(values))
    attributes = {
        "type": node.op,
        "opset": node.version,
        "attributes": json.dumps(dict(node.attributes), sort_keys=True),
        "outputs": json.dumps([[value.dtype, list(value.shape)] for value in values]),
    }
    made = Node(name, "Reference", tuple(read), attributes)
    lowering.add(made)
    lowering.entries.update(zip(outputs, made.names, strict=True))


def _check_version(lowering: GraphLowering, node: OnnxNode) -> None:
    """UnsupportedError unless this version of the op, with these attributes, is proven."""
    from onnx import defs

    try:
        version = defs.get_schema(node.op, node.version, "").since_version
    except defs.SchemaError:
        version = 0
    if version not in RARE[node.op]:
        proven = ", ".join(map(str, RARE[node.op]))
        raise lowering.error(node, f"the op as of opset {version or node.version}, expected that of {proven}")
    wrong = WRONG.get(node.op)
    if wrong and all(node.attributes.get(key) == value for key, value in wrong.items()):
        options = " and ".join(f"{key}={value!r}" for key, value in wrong.items())
        raise lowering.error(node, f"{options} together are not supported, expected one of them")


def _inferred(lowering: GraphLowering, node: OnnxNode) -> list[Value]:
    """Dtype and shape of each output."""
    from onnx import helper, numpy_helper, shape_inference

    inputs, constants = [], []
    for place, name in enumerate(node.inputs):
        if not name:
            continue
        array = lowering.known(name)
        if array is not None and array.size <= LARGEST_READ:
            constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), f"x{place}"))
        value = lowering.inferred(name)
        kind = helper.np_dtype_to_tensor_dtype(lowering.dtype(name))
        shape = [None if size == UNKNOWN else size for size in value.shape]
        inputs.append(helper.make_tensor_value_info(f"x{place}", kind, shape))
    names = [f"x{place}" if name else "" for place, name in enumerate(node.inputs)]
    results = [f"y{place}" for place in range(len(node.outputs))]
    bare = helper.make_node(node.op, names, results, **dict(node.attributes))
    graph = helper.make_graph(
        [bare], node.op, inputs, [helper.make_empty_tensor_value_info(n) for n in results], constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.version)])
    try:
        inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError) as error:
        raise lowering.error(node, f"its shapes are not known: {shown(str(error), 300)}") from None
    return [_value(lowering, node, entry) for entry in inferred.graph.output]


def _value(lowering: GraphLowering, node: OnnxNode, entry) -> Value:
    tensor = entry.type.tensor_type
    if tensor.elem_type not in ELEMENTS or not tensor.HasField("shape"):
        raise lowering.error(node, "the type or rank of an output is not known before it runs")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or UNKNOWN for dim in tensor.shape.dim)
    return Value(lowering.shared.dtype(ELEMENTS[tensor.elem_type]), shape)
