"""Ops of com.microsoft, which ONNX Runtime's optimiser and quantiser write, as nodes of ai.onnx that say the same.

    FusedMatMul, FusedGemm, FusedConv         a product, and what is around it
    BiasGelu, FastGelu, Gelu, QuickGelu       activations
    SkipLayerNormalization                    a sum and its normalization
    DynamicQuantizeMatMul, MatMulIntegerToFloat, QGemm
                                              integer products with their scales
    QLinearAdd, QLinearMul, QLinearSigmoid, QLinearLeakyRelu, QLinearConcat, QLinearAveragePool,
    QLinearGlobalAveragePool                  the float op between DequantizeLinear and QuantizeLinear
    QuantizeLinear, DequantizeLinear          as those of ai.onnx

Every attribute is used, or is an error that names it. Source: onnxruntime's docs/ContribOperators.md, 1.20.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from rnncore.errors import UnsupportedError
from rnncore.formats.onnx.file import OnnxNode
from rnncore.formats.onnx.versions import Tools

__all__ = ["CONTRIBUTED", "standard"]

OPSET = 22
"""Of the nodes that are made."""


class _Writer:
    """Makes the nodes that one node becomes, in order."""

    def __init__(self, node: OnnxNode, tools: Tools):
        self.node, self.tools = node, tools
        self.made: list[OnnxNode] = []
        self.unused = set(node.attributes)
        self.inputs = list(node.inputs)

    def attribute(self, key: str, default: Any) -> Any:
        self.unused.discard(key)
        return self.node.attributes.get(key, default)

    def input(self, place: int) -> str:
        """The name of an input; "" where it is absent."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def required(self, *places: int) -> list[str]:
        missing = [place for place in places if not self.input(place)]
        if missing:
            raise UnsupportedError(f"{self.node}: input {missing[0]} is absent, expected it")
        return [self.input(place) for place in places]

    def add(self, op: str, *inputs: str, last: bool = False, **attributes: Any) -> str:
        """Append a node of ai.onnx; returns the name of its output, which is the node's own for the last one."""
        output = self.node.outputs[0] if last else self.tools.fresh(f"{self.node.outputs[0]}.{op.lower()}")
        kept = list(inputs)
        while kept and not kept[-1]:
            kept.pop()
        self.made.append(
            replace(
                self.node,
                op=op,
                domain="",
                version=OPSET,
                inputs=tuple(kept),
                outputs=(output,),
                attributes=MappingProxyType(attributes),
            )
        )
        return output

    def number(self, value: float, like: str) -> str:
        """A constant of the dtype of another value."""
        return self.tools.constant(np.array(value, self.tools.dtype(like)))

    def end(self) -> Iterator[OnnxNode]:
        if self.unused:
            key = min(self.unused)
            raise UnsupportedError(f"{self.node}: attribute {key!r}={self.node.attributes[key]!r} is not supported")
        if any(self.node.outputs[1:]):
            raise UnsupportedError(f"{self.node}: {len(self.node.outputs)} outputs, expected one")
        yield from self.made


# --- products -----------------------------------------------------------------------------------------------------


def _turned(w: _Writer, name: str, rows: Any, batch: Any) -> str:
    """A matrix of a batch with its axes as FusedMatMul takes them: transBatch puts the first axis before the last."""
    rank = w.tools.rank(name)
    perm = list(range(rank))
    if batch and rank > 2:
        perm = [*perm[1:-1], perm[0], perm[-1]]
    if rows and rank > 1:
        perm[-2:] = perm[:-3:-1]
    return name if perm == list(range(rank)) else w.add("Transpose", name, perm=perm)


def _fused_matmul(w: _Writer) -> None:
    a, b = w.required(0, 1)
    a = _turned(w, a, w.attribute("transA", 0), w.attribute("transBatchA", 0))
    b = _turned(w, b, w.attribute("transB", 0), w.attribute("transBatchB", 0))
    alpha = w.attribute("alpha", 1.0)
    if alpha == 1:
        w.add("MatMul", a, b, last=True)
    else:
        w.add("Mul", w.add("MatMul", a, b), w.number(alpha, w.input(0)), last=True)


def _activate(w: _Writer, name: str, values: Sequence[float]) -> None:
    """The activation of a fused product, the last node."""
    kind = w.attribute("activation", "")
    own = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Elu": ("alpha",), "ThresholdedRelu": ("alpha",)}
    if kind in ("", "Relu", "Tanh", "Sigmoid", "Softplus", "Softsign"):
        w.add(kind or "Identity", name, last=True)
    elif kind == "Clip" and len(values) >= 2:
        w.add("Clip", name, *(w.number(value, w.input(0)) for value in values[:2]), last=True)
    elif kind in own:
        w.add(kind, name, last=True, **dict(zip(own[kind], values, strict=False)))
    else:
        raise UnsupportedError(f"{w.node}: attribute 'activation'={kind!r} with {list(values)} is not supported")


def _fused_gemm(w: _Writer) -> None:
    options = {key: w.attribute(key, default) for key, default in (("alpha", 1.0), ("beta", 1.0))}
    options |= {key: w.attribute(key, 0) for key in ("transA", "transB")}
    product = w.add("Gemm", *w.required(0, 1), w.input(2), **options)
    given = [w.attribute(f"activation_{key}", None) for key in ("alpha", "beta", "gamma")]
    _activate(w, product, [value for value in given if value is not None])


def _fused_conv(w: _Writer) -> None:
    names = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    options = {key: w.attribute(key, None) for key in names if key in w.node.attributes}
    sums = w.add("Conv", *w.required(0, 1), w.input(2), **options)
    if w.input(3):
        sums = w.add("Add", sums, w.input(3))
    _activate(w, sums, w.attribute("activation_params", ()))


# --- activations and normalization --------------------------------------------------------------------------------


def _gelu(approximate: str) -> Callable[[_Writer], None]:
    def convert(w: _Writer) -> None:
        (x,) = w.required(0)
        x = w.add("Add", x, w.input(1)) if w.input(1) else x
        w.add("Gelu", x, approximate=approximate, last=True)

    return convert


def _quick_gelu(w: _Writer) -> None:
    w.add("Swish", *w.required(0), alpha=w.attribute("alpha", 1.702), last=True)


def _skip_layer_normalization(w: _Writer) -> None:
    """input, skip, gamma, beta, bias."""
    x, skip, gamma = w.required(0, 1, 2)
    sums = w.add("Add", x, skip)
    sums = w.add("Add", sums, w.input(4)) if w.input(4) else sums
    epsilon = w.attribute("epsilon", 1e-12)
    w.add("LayerNormalization", sums, gamma, w.input(3), epsilon=epsilon, axis=-1, last=True)


# --- integers -----------------------------------------------------------------------------------------------------


def _scaled_product(w: _Writer, a: tuple[str, str, str], b: tuple[str, str, str], bias: str) -> None:
    """float(A - zero) (B - zero) times both scales, and a bias; a and b: value, scale, zero point."""
    sums = w.add("Cast", w.add("MatMulInteger", a[0], b[0], a[2], b[2]), to=1)
    scaled = w.add("Mul", sums, w.add("Mul", a[1], b[1]), last=not bias)
    if bias:
        w.add("Add", scaled, bias, last=True)


def _matmul_integer_to_float(w: _Writer) -> None:
    """A, B, a_scale, b_scale, a_zero_point, b_zero_point, bias."""
    a, b, a_scale, b_scale = w.required(0, 1, 2, 3)
    _scaled_product(w, (a, a_scale, w.input(4)), (b, b_scale, w.input(5)), w.input(6))


def _dynamic_quantize_matmul(w: _Writer) -> None:
    """A, B, b_scale, b_zero_point, bias: A is quantized by its own range."""
    a, b, b_scale = w.required(0, 1, 2)
    output, fresh = w.node.outputs[0], w.tools.fresh
    quantized = fresh(f"{output}.quantized"), fresh(f"{output}.scale"), fresh(f"{output}.zero")
    w.add("DynamicQuantizeLinear", a)
    w.made[-1] = replace(w.made[-1], outputs=quantized)
    _scaled_product(w, quantized, (b, b_scale, w.input(3)), w.input(4))


def _q_gemm(w: _Writer) -> None:
    """A, a_scale, a_zero, B, b_scale, b_zero, C (int32, in the products' scale), y_scale, y_zero."""
    a, a_scale, a_zero, b, b_scale, b_zero = w.required(0, 1, 2, 3, 4, 5)
    a = w.add("Transpose", a, perm=[1, 0]) if w.attribute("transA", 0) else a
    b = w.add("Transpose", b, perm=[1, 0]) if w.attribute("transB", 0) else b
    sums = w.add("MatMulInteger", a, b, a_zero, b_zero)
    sums = w.add("Add", sums, w.input(6)) if w.input(6) else sums
    scale = w.add("Mul", w.add("Mul", a_scale, b_scale), w.number(w.attribute("alpha", 1.0), a_scale))
    y = w.add("Mul", w.add("Cast", sums, to=1), scale, last=not w.input(7))
    if w.input(7):
        w.add("QuantizeLinear", y, w.input(7), w.input(8), last=True)


def _between(op: str, count: int, *names: str) -> Callable[[_Writer], None]:
    """``op`` on ``count`` dequantized inputs, its result quantized: value, scale and zero point of each, then y's."""

    def convert(w: _Writer) -> None:
        taken = {key: w.attribute(key, None) for key in names if key in w.node.attributes}
        floats = []
        for place in range(count):
            at = 3 * place
            floats.append(w.add("DequantizeLinear", *w.required(at, at + 1), w.input(at + 2)))
        y = w.add(op, *floats, **taken)
        w.add("QuantizeLinear", y, *w.required(3 * count), w.input(3 * count + 1), last=True)

    return convert


def _channels_first(convert: Callable[[_Writer], None]) -> Callable[[_Writer], None]:
    def checked(w: _Writer) -> None:
        if w.attribute("channels_last", 0):
            raise UnsupportedError(f"{w.node}: attribute 'channels_last'=1, expected 0")
        convert(w)

    return checked


def _qlinear_concat(w: _Writer) -> None:
    """y_scale, y_zero, then value, scale and zero point of each part."""
    scale, zero = w.required(0, 1)
    if len(w.inputs) < 5 or (len(w.inputs) - 2) % 3:
        raise UnsupportedError(f"{w.node}: {len(w.inputs)} inputs, expected two and three for each part")
    parts = [w.add("DequantizeLinear", *w.required(at, at + 1, at + 2)) for at in range(2, len(w.inputs), 3)]
    y = w.add("Concat", *parts, axis=w.attribute("axis", 0))
    w.add("QuantizeLinear", y, scale, zero, last=True)


def _renamed(w: _Writer) -> None:
    w.add(w.node.op, *w.required(0, 1), w.input(2), axis=w.attribute("axis", 1), last=True)


WINDOWS = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
CONTRIBUTED: dict[str, Callable[[_Writer], None]] = {
    "BiasGelu": _gelu("none"),
    "DequantizeLinear": _renamed,
    "DynamicQuantizeMatMul": _dynamic_quantize_matmul,
    "FastGelu": _gelu("tanh"),
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu("none"),
    "MatMulIntegerToFloat": _matmul_integer_to_float,
    "QGemm": _q_gemm,
    "QLinearAdd": _between("Add", 2),
    "QLinearAveragePool": _channels_first(_between("AveragePool", 1, *WINDOWS)),
    "QLinearConcat": _qlinear_concat,
    "QLinearGlobalAveragePool": _channels_first(_between("GlobalAveragePool", 1)),
    "QLinearLeakyRelu": _between("LeakyRelu", 1, "alpha"),
    "QLinearMul": _between("Mul", 2),
    "QLinearSigmoid": _between("Sigmoid", 1),
    "QuantizeLinear": _renamed,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_normalization,
}
"""Ops of com.microsoft by name, and what writes their nodes."""


def standard(node: OnnxNode, tools: Tools) -> Iterator[OnnxNode]:
    """The nodes of ai.onnx that a node of CONTRIBUTED stands for."""
    writer = _Writer(node, tools)
    CONTRIBUTED[node.op](writer)
    yield from writer.end()
