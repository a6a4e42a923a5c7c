"""Products with constants, whose nodes own them: Linear, Embedding, convolutions.

Each function lowers one op and returns False where nothing is constant in it, so that it stays the op that it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from rnncore.errors import FormatError
from rnncore.formats.onnx.entries import OpCall
from rnncore.formats.onnx.file import OnnxNode

if TYPE_CHECKING:
    from rnncore.formats.onnx.graph import GraphLowering

__all__ = ["add", "conv", "conv_transpose", "gather", "gemm", "matmul"]


def matmul(lowering: GraphLowering, call: OpCall) -> bool:
    weight = _matrix(lowering, call.array(1))
    x = lowering.inferred(call.inputs[0])
    if weight is None or x.dtype != "float" or len(x.shape) < 2:
        return False
    _linear(lowering, call.node, lowering.value(call.inputs[0]), weight.T, None)
    return True


def gemm(lowering: GraphLowering, call: OpCall) -> bool:
    weight = _matrix(lowering, call.array(1))
    x = lowering.inferred(call.inputs[0])
    if weight is None or x.dtype != "float" or len(x.shape) != 2 or call.attributes.get("transA"):
        return False
    weight = weight if call.attributes.get("transB") else weight.T
    bias = None
    if len(call.entries) > 2:
        bias = _row(call.array(2), len(weight))
        if bias is None:
            return False
        bias = _scaled(bias, call.attributes.get("beta", 1.0))
    weight = _scaled(weight, call.attributes.get("alpha", 1.0))
    _linear(lowering, call.node, lowering.value(call.inputs[0]), weight, bias)
    return True


def _linear(lowering: GraphLowering, node: OnnxNode, x: str, weight: np.ndarray, bias: np.ndarray | None) -> None:
    sizes = {"input_size": weight.shape[1], "output_size": weight.shape[0], "bias": bias is not None}
    name = lowering.place(node, "Linear", (x,), sizes)
    lowering.own(name, {"weight": lowering.shared.copies.contiguous(weight)})
    if bias is not None:
        lowering.own(name, {"bias": bias})
    else:
        lowering.products[name] = len(lowering.nodes) - 1


def add(lowering: GraphLowering, call: OpCall) -> bool:
    """A bias after a product that nothing else uses is the product's, which takes the name of the sum."""
    for place in (0, 1):
        entry, other = call.entries[place], call.array(1 - place)
        product = entry if isinstance(entry, str) else ""
        index = lowering.products.get(product)
        if index is None or other is None or lowering.uses[call.inputs[place]] != 1:
            continue
        linear = lowering.nodes[index]
        bias = _row(other, linear.attributes["output_size"], len(lowering.shape(product)))
        if bias is None or lowering.shared.dtype_of(bias) != "float":
            continue
        weight = lowering.weights.pop(f"{product}.weight")
        lowering.drop(index)
        del lowering.products[product]
        _linear(lowering, call.node, linear.inputs[0], weight, bias)
        return True
    return False


def gather(lowering: GraphLowering, call: OpCall) -> bool:
    """Rows of a constant table: an Embedding, whose ids do not count from the end as Gather's do."""
    table = _matrix(lowering, call.array(0))
    ids = lowering.inferred(call.inputs[1])
    if table is None or call.attributes.get("axis", 0) not in (0, -2) or call.array(1) is not None:
        return False
    name, output = lowering.value(call.inputs[1]), call.output
    if ids.dtype != "int64":
        name = lowering.emit("Cast", name, f"{output}.ids", to="int64")
    zero = lowering.constant_node(np.array(0, np.int64), f"{output}.first")
    rows = lowering.constant_node(np.array(len(table), np.int64), f"{output}.rows")
    negative = lowering.emit("Less", (name, zero), f"{output}.negative")
    counted = lowering.emit("Add", (name, rows), f"{output}.from_end")
    row = lowering.emit("Where", (negative, counted, name), f"{output}.row")
    sizes = {"input_size": len(table), "output_size": table.shape[1]}
    lowering.own(lowering.place(call.node, "Embedding", (row,), sizes), {"weight": table})
    return True


def conv(lowering: GraphLowering, call: OpCall) -> bool:
    weight = call.array(1)
    if weight is None or weight.ndim < 3:
        return False
    return _own_kernel(lowering, call, weight.shape[1] * call.attributes.get("group", 1), weight.shape[0])


def conv_transpose(lowering: GraphLowering, call: OpCall) -> bool:
    weight = call.array(1)
    if weight is None or weight.ndim < 3:
        return False
    return _own_kernel(lowering, call, weight.shape[0], weight.shape[1] * call.attributes.get("group", 1))


def _own_kernel(lowering: GraphLowering, call: OpCall, channels: int, filters: int) -> bool:
    """A convolution that owns its weights."""
    weight, bias = cast(np.ndarray, call.array(1)), call.array(2)
    if lowering.shared.dtype_of(weight) != "float" or 0 in weight.shape:
        return False
    biased = len(call.entries) > 2 and call.entries[2] is not None
    if biased and (bias is None or bias.shape != (filters,)):
        return False
    kernel = tuple(call.attributes.get("kernel_shape", weight.shape[2:]))
    if kernel != weight.shape[2:]:
        raise lowering.error(call.node, f"attribute 'kernel_shape'={list(kernel)}, expected that of its weights, "
                             f"{list(weight.shape[2:])}", FormatError)  # fmt: skip
    own = {"input_size": channels, "output_size": filters, "kernel_shape": weight.shape[2:], "bias": biased}
    x = lowering.value(call.inputs[0])
    name = lowering.place(call.node, call.node.op, (x,), {**call.attributes, **own})
    lowering.own(name, {"weight": weight, "bias": cast(np.ndarray, bias)} if biased else {"weight": weight})
    return True


def _matrix(lowering: GraphLowering, array: np.ndarray | None) -> np.ndarray | None:
    """A constant (rows, columns) of floats that Linear may own."""
    if array is None or array.ndim != 2 or 0 in array.shape or lowering.shared.dtype_of(array) != "float":
        return None
    return array


def _row(array: np.ndarray | None, size: int, rank: int = 2) -> np.ndarray | None:
    """A bias (size,) from what broadcasts over rows as one; None for anything else."""
    if array is None or array.ndim > rank or (array.size != 1 and array.shape != (1,) * (array.ndim - 1) + (size,)):
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (size,)))


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return array if factor == 1.0 else (array * array.dtype.type(factor)).astype(array.dtype, copy=False)
