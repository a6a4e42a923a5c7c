"""The ops around recurrent layers, one file per family; names and semantics are those of ONNX where it has the op.

    ops/base.py         Op and Value
    ops/schema.py       attributes: their kinds and checks
    ops/checks.py       checks of inputs
    ops/dimensions.py   along which axes positions stay independent;  ops/ends.py: those added or left out at the ends
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
    ops/work.py         the cost of a call of each op

A new op is one entry in its family's list.

Decisions

- DynamicQuantizeLSTM is an op and not a Recurrent: its input is quantized by the range of all rows and steps, and the
  states of each step by that of all rows, so that rows depend on each other, which a Recurrent promises they do not.
  Nor can it be streamed, not even one row: a first step would have to know the range of those that are to come. A
  model of it that is run step by step by hand, states in and out, is another model, with ranges of its own.
- Each op says once how its outputs' dimensions come from its inputs' (`Op.dimensions`, `ops/dimensions.py`): along
  which positions stay independent, and within which reach they meet; what is not listed meets. `graph/axes.follow` puts
  that together for a graph. Whether rows may share a batch, steps be padded, a model be decoded step by step, and
  what `inspect` says of a node over time are read off it. A table test changes every input of every op along every
  axis and looks at what moves; a fuzzing target does the same with random graphs.
- Sums of 8-bit integers are exact: those of products in int32 (`kernels/_quantized.pyx`), those of convolutions in
  float32 where no sum can reach 2^24, what is left in float64. ONNX Runtime's are the same, but on CPUs without VNNI:
  there its products of uint8 and int8 saturate in int16, unless weights have 7 bits.
- What integers are rounded from is computed as ONNX Runtime does. A quantization makes a step of 1/255 out of a
  rounding error, and layers of integers carry it on (0.5 of 16 in a real model's scores). So a pass marks the
  Sigmoid, Tanh and Swish whose values reach one, `approximate="rational"`: the quotient of polynomials that ONNX
  Runtime computes them by, with its bits, on every instruction set. Everywhere else they are exact to 2 ulp.
- Budgets count work, before it is done (`ops/work.py`): multiply-adds or element operations and bytes, from
  attributes and sizes. Constants are folded within one, a call of a model with a `Budget` is held to one node by
  node, and what does not fit while a file is loaded stays in the graph. Everything that a load walks through is
  linear in nodes and edges; `Spec.readers` is the one map from values to the nodes that read them.
- Bounds of a size are a node, `Bounded`, after the input: it is in every file, run by every engine, seen by every
  pass, and being "whole" along its axis it keeps that from being padded, cut or joined, with no rule of its own
  anywhere.
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
