"""The ops around recurrent layers, one file per family; names and semantics are those of ONNX where it has the op.

    ops/base.py         what every op is
    ops/schema.py       what their attributes may be
    ops/checks.py       what ops ask of inputs
    ops/sizes.py        arithmetic with sizes that have names
    ops/blocks.py       long calls of NumPy in parts, between which signals are looked for
    ops/constant.py     Constant
    ops/linear.py       Linear, Embedding: products with weights that the node owns
    ops/products.py     MatMul, Gemm, Einsum
    ops/elementwise.py  functions, activations, arithmetic, Cast, bits
    ops/along_axis.py   Softmax and its kin, LpNormalization, CumSum, CumProd
    ops/reduce.py       ReduceSum ... ReduceLogSumExp
    ops/logic.py        comparisons, And, Or, Xor, Not, Where
    ops/shape.py        Reshape, Transpose, Concat, Split, Slice, Shape, Range ...
    ops/bounds.py       Bounded: sizes for which a network holds
    ops/indexing.py     Gather, Scatter, OneHot, TopK, ArgMax, Unique ...
    ops/convolution.py  Conv, ConvTranspose;  ops/windows.py: how windows slide
    ops/pooling.py      MaxPool, AveragePool, LpPool and their global forms
    ops/normalization.py  Batch-, Instance-, Group-, Layer- and RMSNormalization, MeanVarianceNormalization, LRN
    ops/spectral.py     DFT, STFT
    ops/resize.py       Pad, Resize, Upsample
    ops/quantized.py    integers: QuantizeLinear, MatMulInteger, ConvInteger ..., DynamicQuantizeLSTM
    ops/attention.py    word, Bahdanau, Luong, Keras and multi-head attention
    ops/reference.py    Reference: rare ops, by onnx.reference
    ops/work.py         how much a call of each op costs

A new op is one entry in its family's list.
"""

from rnncore.ops import (
    along_axis,
    attention,
    bounds,
    constant,
    convolution,
    elementwise,
    indexing,
    linear,
    logic,
    normalization,
    pooling,
    products,
    quantized,
    reduce,
    reference,
    resize,
    shape,
    spectral,
)
from rnncore.ops.base import DTYPES, UNKNOWN, Op, Value, numpy_dtype

__all__ = ["DTYPES", "OPS", "UNKNOWN", "Op", "Value", "numpy_dtype"]

FAMILIES = (
    *(constant, linear, products, elementwise, along_axis, reduce, logic, shape, bounds, indexing, attention),
    *(convolution, pooling, normalization, resize, spectral, quantized, reference),
)

OPS: dict[str, Op] = {op.name: op for family in FAMILIES for op in family.OPS}
