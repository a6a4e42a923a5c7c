"""One node of an ONNX file -> nodes of a Spec, by what kind of op it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from rnncore.errors import FormatError
from rnncore.files.cursor import shown
from rnncore.formats.onnx import control, directions, products, recurrent, reference, sequences
from rnncore.formats.onnx.attributes import attributes_of, constant_of
from rnncore.formats.onnx.contributed import CONTRIBUTED, standard
from rnncore.formats.onnx.entries import Known, OpCall
from rnncore.formats.onnx.file import OnnxNode
from rnncore.formats.onnx.folding import fold
from rnncore.formats.onnx.graph import GraphLowering
from rnncore.formats.onnx.support import CONTROL, MICROSOFT, RECURRENT, is_supported
from rnncore.formats.onnx.versions import newest
from rnncore.ops import OPS

__all__ = ["lower"]

MAX_LIST = 4096  # numbers in an attribute; more are a Constant


def lower(lowering: GraphLowering, node: OnnxNode) -> None:
    """Give each output of the node what it stands for."""
    if not is_supported(node):
        _lower_rare(lowering, node)
        return
    if node.version <= 0 and not node.domain:
        raise lowering.error(node, "its domain is not among opset_import", FormatError)
    if node.op == "Constant":
        lowering.entries[node.outputs[0]] = Known(constant_of(lowering, node))
    elif node.op in CONTROL:
        control.lower(lowering, next(newest(node, lowering)))
    elif not node.domain and node.op in sequences.OPS:
        sequences.lower(lowering, node)
    elif node.op in RECURRENT:
        recurrent.lower(lowering, node)
    else:
        contributed = node.domain and node.op in CONTRIBUTED
        for step in standard(node, lowering) if contributed else newest(node, lowering):
            _lower_op(lowering, step)


def _lower_rare(lowering: GraphLowering, node: OnnxNode) -> None:
    if not reference.is_rare(node):
        known = (
            "an op of rnncore.formats.onnx.support.SAME"
            if not node.domain
            else f"one of {', '.join(sorted(MICROSOFT))}"
        )
        message = f"op {shown(node.op)!r} of opset {node.version} is not supported, expected {known}"
        raise lowering.error(node, message)
    for step in newest(node, lowering):
        reference.lower(lowering, step)


def _lower_op(lowering: GraphLowering, node: OnnxNode) -> None:
    """A node of the newest opset: folded, lowered in a form of its own, or as the op of the same name."""
    if not any(node.outputs):
        raise lowering.error(node, "no outputs, expected at least one", FormatError)
    inputs = list(node.inputs)
    while inputs and not inputs[-1]:
        inputs.pop()
    entries: list[Any] = [lowering.lookup(name) if name else None for name in inputs]
    call = OpCall(node, inputs, entries, attributes_of(lowering, node))
    if node.op == "Identity" and entries:
        lowering.entries[call.output] = entries[0]
        return
    if all(entry is None or isinstance(entry, Known) for entry in entries):
        arrays = [None if entry is None else entry.array for entry in entries]
        if fold(lowering, node, call.attributes, arrays):
            return
    special = SPECIAL.get(node.op)
    if special is None or not special(lowering, call):
        _same(lowering, node, inputs, call.attributes)


def _same(lowering: GraphLowering, node: OnnxNode, inputs: Sequence[str], given: Any) -> None:
    """The op of the same name, its constant parameters as attributes."""
    names, attributes = list(inputs), dict(given)
    for key, position in OPS[node.op].parameters.items():
        array = _parameter(lowering, inputs[position]) if position < len(inputs) and inputs[position] else None
        if array is not None and array.ndim <= 1 and array.size <= MAX_LIST and attributes.get(key) is None:
            array = array.reshape(1) if key == "axes" and array.ndim == 0 else array
            attributes[key] = array.item() if array.ndim == 0 else tuple(array.tolist())
            names[position] = ""
    while names and not names[-1]:
        names.pop()
    lowering.place(node, node.op, tuple(lowering.value(name) if name else "" for name in names), attributes)


def _parameter(lowering: GraphLowering, name: str) -> np.ndarray | None:
    """A constant, or what is known of shapes alone."""
    array = lowering.known(name)
    if array is not None:
        return array
    value = lowering.inferred(name)
    if value.data is None or any(isinstance(item, str) for item in value.data):
        return None
    return np.array(value.data, value.dtype if value.dtype != "float" else None).reshape(cast(Any, value.shape))


def _cast(lowering: GraphLowering, call: OpCall) -> bool:
    """A cast to the dtype that a value has already is the value."""
    if call.array(0) is not None or lowering.inferred(call.inputs[0]).dtype != call.attributes["to"]:
        return False
    lowering.entries[call.output] = cast(Any, call.entries[0])
    return True


def _stft(lowering: GraphLowering, call: OpCall) -> bool:
    """A signal (B, L), which ONNX Runtime takes too, is one of real numbers, (B, L, 1)."""
    if lowering.rank(call.inputs[0]) != 2:
        return False
    signal = lowering.emit("Unsqueeze", lowering.value(call.inputs[0]), f"{call.output}.signal", axes=(2,))
    lowering.entries[signal] = signal
    _same(lowering, call.node, [signal, *call.inputs[1:]], call.attributes)
    return True


SPECIAL: dict[str, Callable[[GraphLowering, OpCall], bool]] = {
    "Add": products.add,
    "Cast": _cast,
    "Conv": products.conv,
    "ConvTranspose": products.conv_transpose,
    "Gather": products.gather,
    "Gemm": products.gemm,
    "MatMul": products.matmul,
    "Reshape": directions.reshape,
    "STFT": _stft,
    "Squeeze": directions.squeeze,
    "Transpose": directions.transpose,
}
"""Ops with a form of their own: each function says whether it applied."""
