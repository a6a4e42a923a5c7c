"""The ops of ONNX that are supported, by how they are lowered."""

from __future__ import annotations

from rnncore.formats.onnx import sequences
from rnncore.formats.onnx.contributed import CONTRIBUTED
from rnncore.formats.onnx.file import OnnxNode
from rnncore.ops import OPS

__all__ = ["CONTROL", "MICROSOFT", "RECURRENT", "is_supported"]

# Ops of rnncore.ops that have the name and the meaning of an op of ai.onnx's newest opset.
_SAME = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Col2Im
    Compress Concat ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv
    DepthToSpace DequantizeLinear Det Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix
    Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
    RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RotaryEmbedding Round STFT
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique
    Unsqueeze Where Xor
"""
SAME = frozenset(_SAME.split())
MICROSOFT = frozenset({*CONTRIBUTED, "DynamicQuantizeLSTM"})  # of com.microsoft
CONVERTED = frozenset({"Constant", "Dropout", "Scatter", "Upsample"})
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
CONTROL = frozenset({"If", "Loop", "Scan"})
SUPPORTED = CONVERTED | RECURRENT | CONTROL | sequences.OPS.keys() | (SAME & OPS.keys())


def is_supported(node: OnnxNode) -> bool:
    """Whether ops of this type are known at all."""
    if node.domain == "com.microsoft":
        return node.op in MICROSOFT
    return not node.domain and node.op in SUPPORTED
