"""The cost of a call of an op: its work in multiply-adds or element operations, and the bytes that it makes.

Counted from attributes and the inputs' sizes before anything runs, so that a small file or request that asks for much
is noticed. The count is an estimate from above, right to a small factor: every element read or written counts 1, and
on top comes what the op's entry in MORE says, for those that touch an element more than once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np

from rnncore.ops.attention import OPS as ATTENTION_OPS
from rnncore.ops.base import MAX_DATA, Op, Value, numpy_dtype
from rnncore.ops.products import equation_terms
from rnncore.ops.windows import Window

__all__ = ["Call", "Cost", "call_of", "cost", "value_of"]

Shape = tuple[int, ...]

INTERPRETED = 256
"""Element operations in the time of one step of Python's interpreter."""


class Cost(NamedTuple):
    """work: multiply-adds or element operations; memory: bytes of the outputs and of what is made on the way."""

    work: int
    memory: int


class Call(NamedTuple):
    """One call of an op.

    attributes  the op's, complete
    values      the inputs' Values with plain sizes, and data where they are small; None where one is absent
    inputs      their shapes, () for an absent one
    outputs     the shapes of what it gives; where only the contents decide, the largest they may be
    item        bytes of an element of the first input
    """

    attributes: Mapping[str, Any]
    values: Sequence[Value | None]
    inputs: Sequence[Shape]
    outputs: Sequence[Shape]
    item: int

    def input(self, place: int) -> Shape | None:
        """The shape of an input that may be absent."""
        return self.inputs[place] if place < len(self.values) and self.values[place] is not None else None


def value_of(array: np.ndarray, dtype: str) -> Value:
    """An array as a Value: its shape, and its content where that is small."""
    small = array.ndim <= 1 and array.size <= MAX_DATA
    return Value(dtype, array.shape, tuple(array.reshape(-1).tolist()) if small else None)


def cost(op: Op, attributes: Mapping[str, Any], values: Sequence[Value | None], floating: Any = np.float32) -> Cost:
    """The Cost of a call of an op with complete attributes on inputs of these Values.

    Raises SpecError where the inputs do not fit the op.
    """
    call, dtypes = call_of(op, attributes, values, floating)
    work = sum(map(math.prod, (*call.inputs, *call.outputs))) + 1
    memory = sum(math.prod(shape) * dtype.itemsize for shape, dtype in zip(call.outputs, dtypes, strict=True))
    more = MORE.get(op.name)
    own = more(call) if more is not None else 0
    extra, space = own if isinstance(own, tuple) else (own, 0)
    return Cost(work + extra, memory + space * call.item)


def call_of(
    op: Op, attributes: Mapping[str, Any], values: Sequence[Value | None], floating: Any
) -> tuple[Call, list[np.dtype]]:
    """The call, with the dtypes of its outputs."""
    absent = [None] * (op.arity[1] - len(values)) if op.optional else []
    inferred = op.infer(attributes, [*values, *absent])
    inputs = [() if value is None else cast(Shape, value.shape) for value in values]  # sizes of a call are numbers
    item = next((numpy_dtype(value.dtype, floating).itemsize for value in values if value is not None), 4)
    call = Call(attributes, values, inputs, [], item)
    outputs = [_bounded(op.name, call, value.shape) for value in inferred]
    return call._replace(outputs=outputs), [numpy_dtype(value.dtype, floating) for value in inferred]


def _bounded(op: str, call: Call, shape: tuple[int | str, ...]) -> Shape:
    """The largest shape of an output of which sizes are not known before the op runs."""
    if all(isinstance(size, int) for size in shape):
        return cast(Shape, shape)
    most = LARGEST.get(op)
    if most is not None:
        return (most(call),)
    known = math.prod(size for size in shape if isinstance(size, int))
    return (max(known, max(map(math.prod, call.inputs), default=1)),)


def _numbers(call: Call, place: int) -> tuple:
    """The content of a small input, or () where it is not known."""
    value = call.values[place] if place < len(call.values) else None
    return value.data or () if value is not None else ()


# ---- sizes that contents decide ------------------------------------------------------------------------------------


def _range_size(call: Call) -> int:
    numbers = [_numbers(call, place) for place in range(3)]
    if not all(numbers) or not numbers[2][0]:
        return 0
    (start, limit, delta) = (one[0] for one in numbers)
    span = (limit - start) / delta
    return max(0, math.ceil(span)) if math.isfinite(span) else 1 << 62


def _reference_size(call: Call) -> int:
    """Elements of a Reference node: the larger of its inputs and of the sizes that small inputs of integers state."""
    stated = [
        math.prod(abs(cast(int, number)) for number in value.data)
        for value in call.values
        if value is not None and value.data and value.dtype in ("int32", "int64")
    ]
    read = sum(map(math.prod, call.inputs))
    grid = math.prod(call.inputs[0][:2]) * math.prod(call.inputs[1][1:-1]) if len(call.inputs) > 1 else 0
    return max(read, read * max((*stated, 1)) if call.attributes["type"] in ("Col2Im", "AffineGrid") else 0,
               *stated, grid, 1)  # fmt: skip


LARGEST: dict[str, Callable[[Call], int]] = {
    "NonZero": lambda call: math.prod(call.inputs[0]) * max(1, len(call.inputs[0])),
    "Range": _range_size,
    "Reference": _reference_size,
}
"""Elements of an output of unknown shape; else the number that the largest input has."""


# ---- what costs more than its elements -----------------------------------------------------------------------------


def _log(size: int) -> int:
    """The number of halvings."""
    return max(1, int(size).bit_length())


def _linear(call: Call) -> int:
    return math.prod(call.outputs[0]) * call.attributes["input_size"]


def _product(call: Call) -> int:
    """A matrix product: each output is a sum over the last axis of the first factor."""
    return math.prod(call.outputs[0]) * (call.inputs[0][-1] if call.inputs[0] else 1)


def _gemm(call: Call) -> int:
    return math.prod(call.outputs[0]) * call.inputs[0][0 if call.attributes["transA"] else 1]


def _einsum(call: Call) -> int:
    """One multiplication for each combination of all letters."""
    terms, _ = equation_terms(call.attributes, len(call.inputs))
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, call.inputs, strict=True):
        before, _, after = term.partition("...")
        between = shape[len(before) : len(shape) - len(after)]
        letters = [*before, *(f".{len(between) - place}" for place in range(len(between))), *after]
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values()) * len(terms)


def _padded(call: Call, kernel: Sequence[int]) -> list[int]:
    """Spatial sizes of the first input with its pads; with auto_pad they are at most a window's extent."""
    window = Window.of(call.attributes, kernel)
    return [
        size + (window.begins[axis] + window.ends[axis] if window.auto_pad == "NOTSET" else window.extent(axis))
        for axis, size in enumerate(call.inputs[0][2:])
    ]


def _convolution(weight_place: int) -> Callable[[Call], tuple[int, int]]:
    """A Conv whose weights are an input, or its own where it has an input_size."""

    def more(call: Call) -> tuple[int, int]:
        weight = call.input(weight_place)
        if call.attributes.get("input_size") is not None or weight is None:
            kernel = call.attributes["kernel_shape"]
            channels = call.attributes["input_size"] // call.attributes["group"]
        else:
            kernel, channels = weight[2:], weight[1]
        space = math.prod(call.inputs[0][:2]) * math.prod(_padded(call, kernel))
        return math.prod(call.outputs[0]) * channels * math.prod(kernel), space

    return more


def _transposed(call: Call) -> tuple[int, int]:
    weight = call.input(1)
    if call.attributes["input_size"] is not None or weight is None:
        kernel = call.attributes["kernel_shape"]
        filters = call.attributes["output_size"] // call.attributes["group"]
    else:
        kernel, filters = weight[2:], weight[1]
    return math.prod(call.inputs[0]) * filters * math.prod(kernel), math.prod(call.outputs[0])


def _pooling(call: Call) -> tuple[int, int]:
    """Axis by axis over what is padded, or over every window at once where the places are wanted."""
    kernel, outputs = call.attributes["kernel_shape"], call.outputs[0]
    padded = _padded(call, kernel)
    images = math.prod(call.inputs[0][:2])
    if call.attributes.get("indices"):
        work = math.prod(outputs) * math.prod(kernel) + INTERPRETED * math.prod(kernel)
        return work, images * math.prod(padded)
    work = 0
    for axis, taps in enumerate(kernel):
        rows = images * math.prod(outputs[2 : 3 + axis]) * math.prod(padded[axis + 1 :])
        work += taps * (rows + outputs[2 + axis] + INTERPRETED)
    space = images * math.prod(padded) + sum(taps * size for taps, size in zip(kernel, outputs[2:], strict=True))
    return work, space


def _lrn(call: Call) -> int:
    channels = call.inputs[0][1]
    return math.prod(call.inputs[0]) * min(call.attributes["size"], 2 * channels)


def _sorting(axis: int | None) -> Callable[[Call], int]:
    """Comparisons of a sort along an axis, or of everything."""

    def more(call: Call) -> int:
        shape = call.inputs[0]
        return 4 * math.prod(shape) * _log(shape[axis] if axis is not None and shape else math.prod(shape))

    return more


def _top_k(call: Call) -> int:
    shape = call.inputs[0]
    return 4 * math.prod(shape) * _log(shape[call.attributes["axis"]] if shape else 1)


def _dft(call: Call) -> tuple[int, int]:
    """n log n along one axis, whose length may be more than there is, in complex numbers of 16 bytes."""
    size = max(math.prod(call.inputs[0]), 2 * math.prod(call.outputs[0]))
    return 4 * size * _log(size), 4 * size


def _stft(call: Call) -> tuple[int, int]:
    size = 4 * math.prod(call.outputs[0])
    return 4 * size * _log(size), 2 * size


def _resize(call: Call) -> tuple[int, int]:
    """One axis after the other, from the mean of a few numbers each."""
    taps = {"nearest": 1, "linear": 2, "cubic": 4}[call.attributes["mode"]]
    both = math.prod(map(max, call.inputs[0], call.outputs[0]))
    return both * taps * max(1, len(call.inputs[0])), both * 2


def _attention(call: Call) -> tuple[int, int]:
    """Queries (B, Tq, Q) against a memory (B, Tk, K), both projected, and the mean of the memory for each query."""
    given = [shape for shape in call.inputs if len(shape) == 3]
    batch = max(shape[0] for shape in given)
    queries, steps = given[0][1], given[min(1, len(given) - 1)][1]
    sizes = [value for key, value in call.attributes.items() if key.endswith("size") and type(value) is int]
    inner = sum(sizes) + sum(shape[2] for shape in given) + 1
    heads = call.attributes.get("num_heads", 1)
    width = heads * (call.attributes.get("key_dim", 0) + (call.attributes.get("value_dim") or 0)) + max((*sizes, 1))
    scores = batch * queries * steps
    projected = batch * (queries + steps)
    return scores * (inner + 2 * width) + projected * inner * width, projected * width + 3 * scores * heads


def _lstm(call: Call) -> int:
    """DynamicQuantizeLSTM: (T, B, I) in each direction."""
    steps, batch, size = call.inputs[0]
    hidden = call.attributes["hidden_size"]
    directions = 2 if call.attributes["direction"] == "bidirectional" else 1
    return directions * steps * (batch * 4 * hidden * (size + hidden + 8) + INTERPRETED * 16)


def _reversal(call: Call) -> int:
    return INTERPRETED * call.inputs[0][call.attributes["batch_axis"]]


def _reference(call: Call) -> int:
    """onnx.reference works in Python, element by element where the op is more than a formula."""
    kind = call.attributes["type"]
    given, made = (sum(map(math.prod, shapes)) for shapes in (call.inputs, call.outputs))
    x = call.inputs[0] if call.inputs else ()
    if kind == "Det":
        return INTERPRETED * math.prod(x[:-2]) + math.prod(x) * (x[-1] if x else 1)
    if kind == "Attention":
        key = call.input(1) or x
        return math.prod(x[:-1]) * math.prod(key[-2:]) * max(1, math.prod(key[1:-2])) * 4
    if kind in ("DFT", "STFT"):
        return INTERPRETED * (given + made) + 8 * (given + made) * _log(given + made)
    if kind == "NonMaxSuppression":
        boxes = x[1] if len(x) > 1 else 1
        return INTERPRETED * (given + math.prod((call.input(1) or (1,))[:2]) * boxes * boxes)
    if kind in ("RoiAlign", "MaxRoiPool", "DeformConv"):
        return INTERPRETED * (given + made) * max(1, math.prod((call.input(1) or (1,))[-2:]), math.prod(x[2:]))
    return INTERPRETED * (given + made)


MORE: dict[str, Callable[[Call], int | tuple[int, int]]] = {
    "Linear": _linear,
    **dict.fromkeys(
        ("MatMul", "MatMulInteger", "QLinearMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"), _product
    ),
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _pooling),
    "LRN": _lrn,
    "TopK": _top_k,
    "Unique": _sorting(None),
    "DFT": _dft,
    "STFT": _stft,
    "Resize": _resize,
    "Upsample": _resize,
    **dict.fromkeys((op.name for op in ATTENTION_OPS), _attention),
    "DynamicQuantizeLSTM": _lstm,
    "ReverseSequence": _reversal,
    "Reference": _reference,
}
"""The work of an op without reading and writing each element once: work, or (work, elements of buffers)."""
