"""What each op says of its dimensions is true: positions that stay apart, or within a reach, do when inputs change.

One table: every op, in several forms, every axis of every input. A position of an input is changed, and what moves in
the outputs must lie within the reach; positions are left out, and what is left must be the same; and where nothing
else ever moves, the op may not have said that all meet.
"""

import numpy as np
import pytest
from every_op import spec_of
from op_forms import CASES

from rnncore import Model
from rnncore.errors import RnncoreError
from rnncore.ops import OPS

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
        if dimension.reach.independent and full:
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
