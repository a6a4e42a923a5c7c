"""Reference: one node that rnncore has no kernel for, run by onnx.reference, where the extra "onnx" is installed."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np

from rnncore.errors import InputError, MissingPackageError, SpecError, shown
from rnncore.files.strict_json import read_json
from rnncore.ops.base import DTYPES, Op, Value, numpy_dtype
from rnncore.ops.schema import MAX_RANK, MAX_SIZE, Choice, Integer, Text

__all__ = ["OPS", "RARE"]

# fmt: off
RARE = {
    "AffineGrid": (20,), "Attention": (23, 24, 25), "BlackmanWindow": (17,), "CenterCropPad": (18,), "Col2Im": (18,),
    "DeformConv": (19, 22), "Det": (11, 22), "GridSample": (20, 22), "HammingWindow": (17,), "HannWindow": (17,),
    "MaxUnpool": (9, 11, 22), "MelWeightMatrix": (17,), "NegativeLogLikelihoodLoss": (12, 13, 22),
    "NonMaxSuppression": (11,), "RoiAlign": (16, 22), "RotaryEmbedding": (23,),
    "SoftmaxCrossEntropyLoss": (12, 13), "TensorScatter": (24,),
}
# fmt: on
"""Ops of ai.onnx that may be run this way, whose results depend on nothing but their inputs: op -> the versions, by the
opset that brought each, that tests prove equal to ONNX Runtime or to the specification's formula."""

NEWEST = 1000


def _outputs(attributes: Any) -> list[Value]:
    """The outputs' values, which were inferred when the file was read, from their JSON."""
    listed = read_json(attributes["outputs"], "outputs", SpecError)
    if not isinstance(listed, list) or not all(map(_is_value, listed)):
        raise SpecError(f"outputs={shown(attributes['outputs'])}, expected JSON: [[dtype, [size, ...]], ...]")
    return [Value(dtype, tuple(shape)) for dtype, shape in listed]


def _is_value(given: Any) -> bool:
    if not isinstance(given, list) or len(given) != 2 or not isinstance(given[1], list) or len(given[1]) > MAX_RANK:
        return False
    plain = (isinstance(size, str) or (type(size) is int and 0 <= size <= MAX_SIZE) for size in given[1])
    return isinstance(given[0], str) and given[0] in DTYPES and all(plain)


def _infer(attributes, values):
    opset, oldest = attributes["opset"], RARE[attributes["type"]][0]
    if opset < oldest:
        raise SpecError(f"opset={opset!r}, expected an opset from {oldest}")
    options = read_json(attributes["attributes"], "attributes", SpecError, constants=True)
    if not isinstance(options, dict):
        raise SpecError(f"attributes={shown(attributes['attributes'])}, expected JSON: an object")
    return _outputs(attributes)


def _run(attributes, weights, *arrays):
    values = _outputs(attributes)
    arrays_out = _evaluator(
        attributes["type"],
        attributes["opset"],
        attributes["attributes"],
        tuple(None if array is None else array.dtype.name for array in arrays),
        len(values),
    ).run(None, {f"x{place}": array for place, array in enumerate(arrays) if array is not None})
    floating = attributes.get("floating", np.float32)
    return tuple(_accepted(np.asarray(array), value, floating) for array, value in zip(arrays_out, values, strict=True))


def _accepted(array, value, floating):
    """An output as it was announced: nodes after it rely on its rank and known sizes."""
    fits = array.ndim == len(value.shape)
    if not fits or any(type(size) is int and size != n for size, n in zip(value.shape, array.shape, strict=True)):
        raise InputError(f"an output of shape {array.shape}, expected {value}")
    return array.astype(numpy_dtype(value.dtype, floating), copy=False)


@functools.lru_cache(maxsize=64)
def _evaluator(kind: str, opset: int, attributes: str, dtypes: tuple[str | None, ...], outputs: int) -> Any:
    """onnx's evaluator of a model of this one node."""
    try:
        import onnx
        from onnx import helper
        from onnx.reference import ReferenceEvaluator
    except ImportError:
        raise MissingPackageError(f'{kind} is run by onnx.reference: pip install "rnncore[onnx]"') from None
    names = ["" if dtype is None else f"x{place}" for place, dtype in enumerate(dtypes)]
    results = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(kind, names, results, **json.loads(attributes))
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)
        for name, dtype in zip(names, dtypes, strict=True)
        if dtype is not None
    ]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph([node], kind, inputs, ends)
    return ReferenceEvaluator(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def _names(attributes):
    return tuple(str(place) if place else "" for place in range(len(_outputs(attributes))))


OPS = [
    Op(
        "Reference",
        _infer,
        _run,
        arity=(0, 16),
        by_content=True,
        schema={
            "type": Choice(among=tuple(RARE)),
            "opset": Integer(least=1, most=NEWEST),
            "attributes": Text("{}"),
            "outputs": Text(),
        },
        optional=tuple(range(16)),
        outputs=_names,
    )
]
