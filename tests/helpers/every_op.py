"""One node of each op that runs: its attributes and its inputs, to be changed by tests of everything that is wrong."""

import numpy as np

from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, logic

RNG = np.random.default_rng(16)
F = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
ROWS = RNG.standard_normal((3, 4)).astype(np.float32)
SEQUENCE = RNG.standard_normal((2, 5, 4)).astype(np.float32)
IDS = RNG.integers(1, 4, (3, 4))
BYTES = IDS.astype(np.uint8)
BOOLS = IDS > 2
ONE = np.ones((), np.float32)
CHANNELS = np.ones(4, np.float32)
ZERO = np.zeros((), np.uint8)
KERNEL = np.ones((4, 4, 2, 2), np.uint8)

INTEGER = ("BitwiseNot", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Embedding")
LSTM_INPUTS = [
    *(SEQUENCE, np.ones((1, 4, 12), np.uint8), np.ones((1, 3, 12), np.uint8), *[None] * 5),
    *(np.ones(1, np.float32), np.zeros(1, np.uint8), np.ones(1, np.float32), np.zeros(1, np.uint8)),
]
ATTENTION = {"query_size": 4, "memory_size": 4, "attention_size": 3}

# op -> attributes, inputs where they are not ROWS, as many as the op takes at least
EXAMPLES = {
    "Constant": ({"dtype": "int32", "shape": (2,), "value": (1, 2)}, []),
    "Linear": ({"input_size": 4, "output_size": 3}, [ROWS]),
    "Embedding": ({"input_size": 4, "output_size": 3}, [IDS]),
    "Gemm": ({}, [ROWS, np.ones((4, 2), np.float32)]),
    "MatMul": ({}, [ROWS, np.ones((4, 2), np.float32)]),
    "Einsum": ({"equation": "ij,ij->i"}, [ROWS, ROWS]),
    "Clip": ({"min": 0.0, "max": 1.0}, [ROWS]),
    "Dropout": ({"ratio": 0.5, "training_mode": False, "seed": 1}, [ROWS]),
    "Bounded": ({"axis": 1}, [ROWS]),
    "Cast": ({"to": "int32"}, [ROWS]),
    "BitShift": ({"direction": "LEFT"}, [BYTES, BYTES]),
    "CumSum": ({"axis": 1}, [ROWS]),
    "CumProd": ({"axis": 1}, [ROWS]),
    "Reshape": ({"shape": (4, -1)}, [ROWS]),
    "Unsqueeze": ({"axes": (0,)}, [ROWS]),
    "Squeeze": ({"axes": (0,)}, [ROWS[:1]]),
    "Transpose": ({"perm": (1, 0)}, [ROWS]),
    "Expand": ({"shape": (2, 1, 1)}, [ROWS]),
    "Tile": ({"repeats": (2, 1)}, [ROWS]),
    "Shape": ({"start": 0, "end": 1}, [ROWS]),
    "Concat": ({"axis": 0}, [ROWS, ROWS]),
    "Split": ({"split": (2, 2), "axis": 1}, [ROWS]),
    "Slice": ({"starts": (0,), "ends": (2,), "axes": (1,), "steps": (1,)}, [ROWS]),
    "Range": ({}, [np.array(0), np.array(5), np.array(2)]),
    "ConstantOfShape": ({"shape": (2, 3), "dtype": "int64", "value": 7}, []),
    "EyeLike": ({"dtype": "int32", "k": 1}, [ROWS]),
    "Trilu": ({"k": 1}, [ROWS]),
    "DepthToSpace": ({"blocksize": 2}, [F]),
    "SpaceToDepth": ({"blocksize": 2}, [F]),
    "ReverseSequence": ({}, [SEQUENCE, np.array([1, 2, 0, 1, 2])]),
    "Gather": ({"indices": (1, 0)}, [ROWS]),
    "GatherElements": ({}, [ROWS, IDS - 1]),
    "GatherND": ({}, [ROWS, IDS[:, :2] % 3]),
    "ScatterElements": ({}, [ROWS, IDS - 1, ROWS]),
    "ScatterND": ({}, [ROWS, np.zeros((2, 1), np.int64), ROWS[1:]]),
    "OneHot": ({"depth": 5}, [IDS, None, np.array([0, 1], np.float32)]),
    "Compress": ({"axis": 1}, [ROWS, np.array([True, False, True, True])]),
    "TopK": ({"k": 2}, [ROWS]),
    "WordAttention": ({"input_size": 4, "attention_size": 3}, [SEQUENCE]),
    "BahdanauAttention": (ATTENTION, [SEQUENCE, SEQUENCE]),
    "LuongAttention": ({**ATTENTION, "score": "concat"}, [SEQUENCE, SEQUENCE]),
    "KerasAttention": ({}, [SEQUENCE, SEQUENCE]),
    "KerasAdditiveAttention": ({"size": 4}, [SEQUENCE, SEQUENCE]),
    "MultiHeadAttention": (
        {"query_size": 4, "value_size": 4, "num_heads": 2, "key_dim": 3, "key_size": 4, "value_dim": 2},
        [SEQUENCE, SEQUENCE],
    ),
    "Conv": ({"input_size": 4, "output_size": 2, "kernel_shape": (2, 3), "pads": (1, 0, 1, 0)}, [F]),
    "ConvTranspose": ({"input_size": 4, "output_size": 2, "kernel_shape": (2, 3), "strides": (2, 2)}, [F]),
    "MaxPool": ({"kernel_shape": (2, 3), "strides": (2, 1)}, [F]),
    "AveragePool": ({"kernel_shape": (2, 3), "dilations": (1, 2)}, [F]),
    "LpPool": ({"kernel_shape": (2, 3)}, [F]),
    "GlobalAveragePool": ({}, [F]),
    "GlobalMaxPool": ({}, [F]),
    "GlobalLpPool": ({}, [F]),
    "BatchNormalization": ({}, [F, *[CHANNELS] * 4]),
    "InstanceNormalization": ({}, [F, CHANNELS, CHANNELS]),
    "GroupNormalization": ({"num_groups": 2}, [F, CHANNELS, CHANNELS]),
    "LayerNormalization": ({}, [ROWS, CHANNELS]),
    "RMSNormalization": ({}, [ROWS, CHANNELS]),
    "MeanVarianceNormalization": ({}, [F]),
    "LRN": ({"size": 3}, [F]),
    "Pad": ({"pads": (1, 0), "constant_value": 1.0, "axes": (1,)}, [ROWS]),
    "Resize": ({"scales": (2.0,), "axes": (1,)}, [ROWS]),
    "Upsample": ({"scales": (1.0, 2.0)}, [ROWS]),
    "Frames": ({"axis": 1, "size": 2, "step": 1}, [ROWS]),
    "DFT": ({"dft_length": 4, "axis": 1}, [SEQUENCE[..., :2]]),
    "STFT": ({"frame_step": 1, "frame_length": 2}, [SEQUENCE[..., :1]]),
    "QuantizeLinear": ({}, [ROWS, ONE]),
    "DequantizeLinear": ({}, [BYTES, ONE]),
    "MatMulInteger": ({}, [BYTES, BYTES.T]),
    "QLinearMatMul": ({}, [BYTES, ONE, ZERO, BYTES.T, ONE, ZERO, ONE, ZERO]),
    "MatMulIntegerToFloat": ({}, [BYTES, BYTES.T, ONE, ONE]),
    "DynamicQuantizeMatMul": ({}, [ROWS, BYTES.T, ONE]),
    "ConvInteger": ({}, [F.astype(np.uint8), KERNEL]),
    "QLinearConv": ({}, [F.astype(np.uint8), ONE, ZERO, KERNEL, ONE, ZERO, ONE, ZERO]),
    "DynamicQuantizeLSTM": ({"hidden_size": 3}, LSTM_INPUTS),
    "Reference": (
        {"type": "Det", "opset": 22, "outputs": '[["float", []]]'},
        [np.eye(2, dtype=np.float32)],
    ),
}


def example(op):
    """Attributes and inputs of a node of this op that runs; inputs may be None."""
    if op in EXAMPLES:
        attributes, arrays = EXAMPLES[op]
        return dict(attributes), list(arrays)
    conditions = {other.name for other in logic.OPS if other.name in ("And", "Or", "Xor", "Not")}
    array = BYTES if op in INTEGER else BOOLS if op in conditions else ROWS
    arrays = [array] * OPS[op].arity[0]
    if op == "Where":
        arrays[0] = BOOLS
    return {}, arrays


def dtype_name(array):
    return {"float32": "float"}.get(array.dtype.name, array.dtype.name)


def spec_of(op, attributes, arrays, shapes=None):
    """A Spec of one node ``op``, and its inputs by name. shapes: what is said of the inputs, theirs if not given."""
    given = {f"x{place}": array for place, array in enumerate(arrays) if array is not None}
    shapes = {name: array.shape for name, array in given.items()} if shapes is None else shapes
    inputs = [Input(name, dtype_name(array), shapes[name]) for name, array in given.items()]
    names = [f"x{place}" if array is not None else "" for place, array in enumerate(arrays)]
    node = Node("op", op, names, attributes)
    return Spec(inputs, [node], node.names), given


def weights_of(spec):
    """Ones for every weight of a Spec."""
    dtypes = spec.weight_dtypes()
    shapes = spec.weight_shapes().items()
    return {name: np.ones(shape, {"float": "float32"}.get(d := dtypes.get(name, "float"), d)) for name, shape in shapes}
