"""The ops around recurrent layers, one file per family; names and semantics are those of ONNX where it has the op.

    ops/base.py         what every op is
    ops/constant.py     Constant
    ops/linear.py       Linear, Embedding: products with weights that the node owns
    ops/elementwise.py  Relu, Tanh, Sigmoid, Softmax, LogSoftmax, LpNormalization, Add, Mul, Concat
    ops/shape.py        Unsqueeze, Transpose, Reshape
    ops/attention.py    word, Bahdanau, Luong, Keras and multi-head attention
    ops/logic.py        Equal, Not, Where, ReduceMin, Squeeze, Gather of one index: what masks are made of

A new op is one entry in its family's list.
"""

from rnncore.ops import attention, constant, elementwise, linear, logic, shape
from rnncore.ops.base import DTYPES, UNKNOWN, Op, Value, numpy_dtype

__all__ = ["DTYPES", "OPS", "UNKNOWN", "Op", "Value", "numpy_dtype"]

FAMILIES = (constant, linear, elementwise, logic, shape, attention)

OPS: dict[str, Op] = {op.name: op for family in FAMILIES for op in family.OPS}
