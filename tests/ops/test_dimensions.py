"""What each op says of its dimensions is true: positions that stay apart, or within a reach, do when inputs change.

One table: every op, in several forms, every axis of every input. A position of an input is changed, and what moves in
the outputs must lie within the reach; positions are left out, and what is left must be the same; and where nothing
else ever moves, the op may not have said that all meet.
"""

import numpy as np
import pytest
from every_op import EXAMPLES, IDS, ROWS, SEQUENCE, F, example, spec_of

from rnncore import Model
from rnncore.errors import RnncoreError
from rnncore.ops import OPS

RNG = np.random.default_rng(18)
CUBE = RNG.standard_normal((3, 4, 5)).astype(np.float32)
SMALL = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
MASK = RNG.random((2, 5)) > 0.3
MASK[:, 0] = True
LENGTHS = np.array([5, 3])
HEADS = EXAMPLES["MultiHeadAttention"][0]
SQUARE = RNG.standard_normal((2, 5, 5)).astype(np.float32)
BYTES = RNG.integers(0, 255, (2, 3, 4)).astype(np.uint8)

# op, attributes, inputs: forms beside the one of every_op.py
MORE = [
    *[(op, {}, [CUBE, CUBE[1]]) for op in ("Add", "Mul", "Max", "Mean", "Less")],
    ("Where", {}, [CUBE > 0, CUBE[:, :1], CUBE[1]]),
    ("PRelu", {}, [CUBE, CUBE[0, :, :1]]),
    ("CastLike", {}, [CUBE, IDS]),
    ("Clip", {}, [CUBE, np.float32(-1), np.float32(1)]),
    ("Linear", {"input_size": 5, "output_size": 5}, [CUBE]),
    ("Embedding", {"input_size": 4, "output_size": 4}, [IDS[:, :3]]),
    ("Gemm", {"transA": True, "transB": True}, [ROWS, ROWS.T[:3].T[:4].T[:, :3], np.ones((4, 1), np.float32)]),
    ("Gemm", {}, [ROWS, ROWS.T, ROWS[:, :3]]),
    ("Gemm", {}, [ROWS, ROWS.T, ROWS[0, :3]]),
    ("MatMul", {}, [CUBE, CUBE.swapaxes(1, 2)]),
    ("MatMul", {}, [SMALL, CUBE.swapaxes(1, 2)]),
    ("MatMul", {}, [CUBE[0, 0], CUBE.swapaxes(1, 2)]),
    ("MatMul", {}, [CUBE, CUBE[0, 0]]),
    ("MatMul", {}, [CUBE[0, 0], CUBE[0, 1]]),
    ("Einsum", {"equation": "bij,bkj->bik"}, [CUBE, CUBE[:, :3]]),
    ("Einsum", {"equation": "...i,ji->...j"}, [CUBE, CUBE[1, :, :5]]),
    ("Einsum", {"equation": "i...,ji->j..."}, [CUBE, CUBE[1, :3, :3]]),
    ("Einsum", {"equation": "bii->bi"}, [SQUARE]),
    ("Einsum", {"equation": "...,..."}, [SMALL, CUBE[0]]),
    *[(op, {"axis": 1}, [CUBE]) for op in ("Softmax", "LogSoftmax", "Hardmax", "LpNormalization")],
    ("CumSum", {"axis": -2, "reverse": True}, [CUBE]),
    ("CumSum", {"axis": -2, "exclusive": True}, [CUBE]),
    ("CumSum", {}, [CUBE, np.array(1)]),
    *[("ReduceSum", {"axes": axes, "keepdims": keep}, [CUBE]) for axes in ((1,), (0, -1)) for keep in (True, False)],
    ("ReduceMax", {}, [CUBE, np.array([1])]),
    ("ReduceMean", {"noop_with_empty_axes": True, "axes": ()}, [CUBE]),
    ("Reshape", {"shape": (0, -1)}, [CUBE]),
    ("Reshape", {"shape": (3, 2, 2, 5)}, [CUBE]),
    ("Reshape", {"shape": (1, 12, 1, 5)}, [CUBE]),
    ("Reshape", {"shape": (4, 3, 5)}, [CUBE]),
    ("Reshape", {"shape": (-1,)}, [CUBE]),
    ("Reshape", {"shape": (1, -1, 1)}, [CUBE[:, :1, :1]]),
    *[("Flatten", {"axis": axis}, [CUBE]) for axis in range(4)],
    ("Unsqueeze", {"axes": (0, -1)}, [CUBE]),
    ("Squeeze", {}, [CUBE[:, :1]]),
    ("Squeeze", {"axes": (-1,)}, [CUBE[:, :, :1]]),
    ("Transpose", {"perm": (2, 0, 1)}, [CUBE]),
    ("Transpose", {}, [CUBE]),
    ("Expand", {"shape": (2, 1, 4, 1)}, [CUBE]),
    ("Expand", {"shape": (3, 4, 5)}, [CUBE[:, :1]]),
    ("Tile", {"repeats": (1, 3, 1)}, [CUBE]),
    ("Concat", {"axis": 1}, [CUBE, CUBE[:, :2], CUBE]),
    ("Split", {"axis": -1, "num_outputs": 2}, [CUBE]),
    ("Slice", {"starts": (1, 0), "ends": (3, 1 << 40), "axes": (1, 2)}, [CUBE]),
    ("Slice", {"starts": (-1,), "ends": (-(1 << 40),), "axes": (0,), "steps": (-1,)}, [CUBE]),
    ("Slice", {"starts": (0,), "ends": (3,)}, [CUBE]),
    ("Slice", {"starts": (0,), "ends": (3,)}, [CUBE, None, None, np.array([1])]),
    ("Trilu", {"upper": False}, [CUBE]),
    ("ReverseSequence", {"batch_axis": 0, "time_axis": 1}, [CUBE, np.array([4, 2, 0])]),
    ("Gather", {"indices": 1, "axis": 1}, [CUBE]),
    ("Gather", {"axis": 1}, [CUBE, np.array([[0, 1, 3], [2, 2, 1]])]),
    ("GatherElements", {"axis": 1}, [CUBE, RNG.integers(0, 4, (3, 2, 5))]),
    ("GatherND", {"batch_dims": 1}, [CUBE, RNG.integers(0, 4, (3, 6, 1))]),
    ("GatherND", {}, [CUBE, RNG.integers(0, 3, (6, 1))]),
    ("ScatterElements", {"axis": 1}, [CUBE, RNG.integers(0, 4, (3, 4, 5)), CUBE]),
    ("ScatterND", {"reduction": "add"}, [CUBE, np.array([[0], [2], [0]]), CUBE]),
    ("OneHot", {"depth": 5, "axis": 1}, [IDS, None, np.array([0, 1], np.float32)]),
    ("Compress", {}, [CUBE, np.array([True, False, True])]),
    ("TopK", {"k": 2, "axis": 1}, [CUBE]),
    ("ArgMax", {"axis": 1, "keepdims": False}, [CUBE]),
    ("ArgMin", {"axis": -1}, [CUBE]),
    ("Unique", {"axis": 1}, [CUBE.round()]),
    ("NonZero", {}, [ROWS > 0]),
    ("WordAttention", {"input_size": 4, "attention_size": 3}, [SEQUENCE, MASK]),
    ("BahdanauAttention", EXAMPLES["BahdanauAttention"][0], [SEQUENCE[:, :3], SEQUENCE, LENGTHS]),
    ("LuongAttention", EXAMPLES["LuongAttention"][0], [SEQUENCE[:, :3], SEQUENCE, MASK]),
    ("KerasAttention", {"causal": True}, [SEQUENCE, SEQUENCE]),
    ("KerasAttention", {}, [SEQUENCE[:, :3], SEQUENCE, SEQUENCE, MASK[:, :3], MASK]),
    ("KerasAttention", {}, [SEQUENCE, SEQUENCE, None, LENGTHS, LENGTHS]),
    ("KerasAdditiveAttention", {"size": 4, "causal": True}, [SEQUENCE, SEQUENCE, None, MASK, MASK]),
    ("MultiHeadAttention", {**HEADS, "causal": True}, [SEQUENCE, SEQUENCE, None, MASK, MASK, None]),
    ("MultiHeadAttention", HEADS, [SEQUENCE[:, :3], SEQUENCE, None, MASK[:, :3], MASK, MASK, SQUARE[:, :3] > -1]),
    ("MultiHeadAttention", HEADS, [SEQUENCE, SEQUENCE, None, None, None, None, SQUARE[0] > -1]),
    ("MultiHeadAttention", {**HEADS, "causal": True}, [SEQUENCE, SEQUENCE, None, None, LENGTHS, None, SQUARE > -1]),
    ("Conv", {"input_size": 4, "output_size": 4, "kernel_shape": (3,), "pads": (1, 1)}, [CUBE]),
    ("Conv", {"input_size": 4, "output_size": 2, "kernel_shape": (2,), "strides": (2,)}, [CUBE]),
    ("Conv", {"input_size": 4, "output_size": 2, "kernel_shape": (3,), "auto_pad": "SAME_LOWER"}, [CUBE]),
    ("Conv", {"input_size": 4, "output_size": 2, "kernel_shape": (2,), "dilations": (2,), "pads": (2, 0)}, [CUBE]),
    ("Conv", {"input_size": 4, "output_size": 4, "kernel_shape": (1, 1)}, [F]),
    ("Conv", {"group": 4, "input_size": 4, "output_size": 4, "kernel_shape": (3,), "pads": (2, 0)}, [CUBE]),
    ("Conv", {}, [CUBE, RNG.standard_normal((2, 4, 2)).astype(np.float32)]),
    ("ConvTranspose", {"input_size": 4, "output_size": 2, "kernel_shape": (3,), "pads": (0, 2)}, [CUBE]),
    ("ConvTranspose", {"input_size": 4, "output_size": 2, "kernel_shape": (2,), "pads": (1, 0)}, [CUBE]),
    ("MaxPool", {"kernel_shape": (2,), "strides": (2,), "ceil_mode": True}, [CUBE]),
    ("MaxPool", {"kernel_shape": (2, 2), "indices": True}, [F]),
    ("AveragePool", {"kernel_shape": (3,), "pads": (1, 1)}, [CUBE]),
    ("LpPool", {"kernel_shape": (1,)}, [CUBE]),
    ("BatchNormalization", {}, [CUBE, *[RNG.random(4).astype(np.float32)] * 4]),
    ("LayerNormalization", {"axis": 1, "statistics": True}, [CUBE, CUBE[0]]),
    ("LayerNormalization", {"axis": 2}, [CUBE, CUBE[0], CUBE[:, :, :1]]),
    ("RMSNormalization", {"axis": -1}, [CUBE, CUBE[0]]),
    ("MeanVarianceNormalization", {"axes": (1,)}, [CUBE]),
    ("Pad", {"pads": (2, 0), "axes": (1,)}, [CUBE]),
    ("Pad", {"pads": (0, 2), "axes": (1,)}, [CUBE]),
    ("Pad", {"pads": (2, 0), "axes": (1,), "mode": "reflect"}, [CUBE]),
    ("Pad", {"pads": (-1, 0), "axes": (1,)}, [CUBE]),
    ("Resize", {"scales": (1.0, 2.0, 1.0), "mode": "linear"}, [CUBE]),
    ("Resize", {"sizes": (3, 4, 7)}, [CUBE]),
    ("Upsample", {"scales": (1.0, 1.0, 2.0)}, [CUBE]),
    ("Frames", {"axis": 1, "size": 3, "step": 2, "begin": 1}, [CUBE]),
    ("DFT", {"axis": 1}, [SMALL[:, :, :, :2]]),
    ("DFT", {}, [SMALL[:, :, :, :1], None, np.array(1)]),
    ("STFT", {"frame_step": 2, "frame_length": 3, "onesided": False}, [SMALL[0, :, :, :2]]),
    ("QuantizeLinear", {"axis": 1}, [CUBE, np.arange(1, 5, dtype=np.float32) / 9]),
    ("DequantizeLinear", {"axis": 2}, [BYTES, np.arange(1, 5, dtype=np.float32)]),
    ("MatMulInteger", {}, [BYTES, BYTES.swapaxes(1, 2)]),
    ("MatMulInteger", {}, [BYTES[0], BYTES[0].T, np.array([1, 2, 3], np.uint8)]),
]

CASES = [(op, *example(op)) for op in OPS if op != "Constant"] + MORE

# Axes of which more could be said, and is not: one whose size is asked about, windows of integers, whose padding is a
# number of its own, the output channels of weights that are inputs, and rows of products, whose bits depend on how many
# there are.
CAUTIOUS = ("Bounded", "Conv", "ConvInteger", "QLinearConv", "MatMul", "Gemm", "Einsum")


def values_of(spec):
    (node,) = spec.nodes
    inputs = [spec.values[name] if name else None for name in node.inputs]
    inputs += [None] * (OPS[node.op].arity[1] - len(inputs)) if OPS[node.op].optional else []
    return node, inputs, [spec.values[name] for name in node.names]


def weights_of(spec):
    dtypes, rng = spec.weight_dtypes(), np.random.default_rng(1)
    return {
        name: rng.standard_normal(shape).astype({"float": "float32"}.get(d := dtypes.get(name, "float"), d))
        for name, shape in spec.weight_shapes().items()
    }


def changed(array, axis, position, rng):
    """The array with other contents at one position of an axis, of those that it has."""
    array = array.copy()
    place = (slice(None),) * axis + (position,)
    part = array[place]
    if array.dtype == bool:
        array[place] = ~part
    elif array.dtype.kind == "f":
        array[place] = rng.standard_normal(part.shape) * 3
    else:
        array[place] = rng.choice(array.reshape(-1), part.shape)
    return array


def moved(before, after, axis):
    """The positions along an axis where two arrays differ."""
    if before.shape != after.shape:
        return set(range(max(before.shape[axis], after.shape[axis])))
    other = tuple(i for i in range(before.ndim) if i != axis)
    different = (before != after) & ~((before != before) & (after != after))
    return set(np.flatnonzero(different.any(axis=other)).tolist())


class Run:
    """One op that runs, with what it says of its dimensions."""

    def __init__(self, op, attributes, arrays):
        self.spec, self.given = spec_of(op, attributes, arrays)
        self.model = Model(self.spec, weights_of(self.spec))
        self.node, self.inputs, self.values = values_of(self.spec)
        self.dimensions = OPS[op].dimensions(self.node.attributes, self.inputs, self.values)
        self.before = self(self.given)

    def __call__(self, given):
        found = self.model.run(given)
        return [np.asarray(found[name]) for name in self.node.names]

    def array(self, place):
        return self.given[f"x{place}"]


@pytest.mark.parametrize("op, attributes, arrays", CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)])
def test_what_is_said_is_true(op, attributes, arrays):
    run = Run(op, attributes, arrays)
    rng = np.random.default_rng(5)
    for dimension in run.dimensions:
        for output, axis in dimension.outputs.items():
            assert 0 <= axis < run.before[output].ndim
        sizes = {place: run.array(place).shape[axis] for place, axis in dimension.inputs.items()}
        full = {place: dimension.inputs[place] for place, size in sizes.items() if size > 1}
        assert len({sizes[place] for place in full}) <= 1
        for position in range(max(sizes.values(), default=0)):
            for places in [full, *({place: axis} for place, axis in full.items())]:
                other = {f"x{p}": changed(run.array(p), axis, position, rng) for p, axis in places.items()}
                check_reach(run, dimension, position, run({**run.given, **other}))
        if dimension.reach.apart and full:
            size = sizes[next(iter(full))]
            chosen = [position for position in range(size) if position != size // 2]
            found = subset(run, full, chosen)
            assert found is None or left_as_it_was(run, found, dimension.outputs, chosen), dimension
    check_caution(run, rng)


def check_reach(run, dimension, position, after):
    reach = dimension.reach
    for output, axis in dimension.outputs.items():
        for j in moved(run.before[output], after[output], axis):
            first = -np.inf if reach.before is None else j * reach.stride - reach.before
            last = np.inf if reach.after is None else j * reach.stride + reach.after
            assert first <= position <= last, f"{dimension}: {position} moves {j} of output {output}"


def subset(run, axes, chosen):
    """The outputs where only some positions are left along an axis of inputs; None where it does not run so."""
    given = {**run.given, **{f"x{place}": run.array(place).take(chosen, axis) for place, axis in axes.items()}}
    try:
        spec, _ = spec_of(run.node.op, dict(run.node.attributes), [given.get(f"x{i}") for i in range(len(run.inputs))])
        found = Model(spec, run.model.weights).run(given)
    except (RnncoreError, ValueError):
        return None  # its attributes, weights or other inputs are for one size
    return [np.asarray(found[name]) for name in run.node.names]


def left_as_it_was(run, found, outputs, chosen):
    for output, axis in outputs.items():
        expected = run.before[output].take(chosen, axis)
        if found[output].shape != expected.shape or not np.allclose(found[output], expected, 1e-5, 1e-6, True):
            return False
    return True


def check_caution(run, rng):
    """An axis of which nothing was said is one where positions meet, or count, as far as a few changes show."""
    parameters = OPS[run.node.op].parameters.values()
    if any(place < len(run.inputs) and run.inputs[place] is not None for place in parameters):
        return  # what it does is known when it runs
    said = {(place, axis) for dimension in run.dimensions for place, axis in dimension.inputs.items()}
    for place, value in enumerate(run.inputs):
        if value is None or place in OPS[run.node.op].of_sizes or run.node.op in CAUTIOUS:
            continue
        array = run.array(place)
        for axis in (axis for axis in range(array.ndim) if (place, axis) not in said and array.shape[axis] > 1):
            after = [
                run({**run.given, f"x{place}": changed(array, axis, position, rng)})
                for position in range(array.shape[axis])
            ]
            apart = apart_outputs(run, after, array.shape[axis])
            chosen = range(1, array.shape[axis])
            found = subset(run, {place: axis}, chosen) if apart else None
            assert found is None or not left_as_it_was(run, found, apart, chosen), f"input {place}, axis {axis}"


def apart_outputs(run, after, size):
    """output -> the axis in which a change at a position moves that position alone, where every output has one."""
    found = {}
    for output, before in enumerate(run.before):
        axes = [
            axis
            for axis in range(before.ndim)
            if before.shape[axis] == size
            and all(moved(before, each[output], axis) <= {position} for position, each in enumerate(after))
        ]
        if not axes:
            return {}
        found[output] = axes[0]
    return found


def test_every_op_is_in_the_table():
    assert {case[0] for case in CASES} == set(OPS) - {"Constant"}
