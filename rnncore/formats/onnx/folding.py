"""Nodes of which every input is constant, computed while the file is read, within budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rnncore.errors import FormatError
from rnncore.files.cursor import shown
from rnncore.formats.onnx.entries import Known
from rnncore.formats.onnx.file import OnnxNode
from rnncore.ops import OPS, Value, numpy_dtype
from rnncore.ops.work import cost, value_of

if TYPE_CHECKING:
    from rnncore.formats.onnx.graph import GraphLowering

__all__ = ["MAX_CONSTANT", "fold"]

MAX_CONSTANT = 1 << 30  # bytes that a value may have whose shape the file alone determines
# What has a size that only contents decide, but not more elements than its input has, times the rank.
DATA_DEPENDENT = frozenset({"NonZero", "Compress", "Unique"})
NOT_FOLDED = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DFT", "STFT", "DynamicQuantizeLSTM"})


def fold(
    lowering: GraphLowering, node: OnnxNode, attributes: Mapping[str, Any], arrays: Sequence[np.ndarray | None]
) -> bool:
    """Compute a node of constants now; False where it stays in the graph. arrays: its inputs, None if absent."""
    op = OPS[node.op]
    if node.op in NOT_FOLDED or not op.arity[0] <= len(arrays) <= op.arity[1]:
        return False
    op.check_present(arrays)
    given = [None if array is None else value_of(array, lowering.shared.dtype_of(array)) for array in arrays]
    complete = {**op.attributes, **attributes}
    absent = [None] * (op.arity[1] - len(given)) if op.optional else []
    values = op.infer(complete, [*given, *absent])
    known = all(isinstance(size, int) for value in values for size in value.shape)
    if not known and node.op not in DATA_DEPENDENT:
        return False
    floating = lowering.shared.floating
    work = cost(op, complete, given, floating)
    size = _bytes(values, floating) if known else work.memory
    if size > MAX_CONSTANT:
        raise lowering.error(node, f"a constant of {size:,} bytes, expected at most {MAX_CONSTANT:,}", FormatError)
    if not lowering.shared.folding.affords(work):
        return False
    results = _results(lowering, node, complete, arrays)
    for output, array, value in zip(node.outputs, results, values, strict=False):
        if output:
            array = np.asarray(array).astype(floating if value.dtype == "float" else np.dtype(value.dtype), copy=True)
            array.flags.writeable = False
            lowering.entries[output] = Known(array)
    return True


def _bytes(values: Sequence[Value], floating: np.dtype) -> int:
    return sum(
        math.prod(cast("tuple[int, ...]", value.shape)) * numpy_dtype(value.dtype, floating).itemsize
        for value in values
    )


def _results(
    lowering: GraphLowering, node: OnnxNode, attributes: Mapping[str, Any], arrays: Sequence[np.ndarray | None]
) -> Sequence[Any]:
    """The outputs of an op, run as it is."""
    try:
        with np.errstate(all="ignore"):
            results = OPS[node.op].run({**attributes, "floating": lowering.shared.floating}, {}, *arrays)
    except (ValueError, IndexError, TypeError) as error:
        raise lowering.error(node, shown(str(error)), FormatError) from None
    return results if isinstance(results, (tuple, list)) else (results,)
