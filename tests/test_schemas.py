"""Whatever an attribute, an input or a Spec holds: the right value, or an error of rnncore's that says where."""

import contextlib
import json
import math

import numpy as np
import pytest
from every_op import dtype_name, example, spec_of, weights_of
from random_networks import seeds

from rnncore.errors import InputError, RnncoreError, SpecError, shown
from rnncore.model import Model
from rnncore.ops import OPS
from rnncore.spec import Node, Spec

NESTED = []
for _ in range(300):
    NESTED = [NESTED]

JSON_VALUES = [
    *(None, True, False, 0, 1, 2, 3, 5, -1, -2, 0.0, 1.5, -1.5, math.nan, math.inf, -math.inf, 1e300),
    *(-(2**31), 2**31, -(2**63), 2**63 - 1, 2**63, 2**64, 10**400),
    *("", "a", "x0", "T", "\x00", "x" * 100_000, {}, {"a": 1}, {"kind": "LSTM"}, [], [0], [1], [-1], [1, 1], [2, 2]),
    *([0, 1], [1, 0], [-1, -1], [1, 1, 1, 1], [1.5, 2.0], ["a"], ["x0"], ["T", "T"], [None], [True], [[1]], [[]], [{}]),
    *([1] * 10_000, [2**63], [10**400], [math.nan, 1], NESTED),
]
"""What JSON can hold, wrong almost everywhere."""
OBJECTS = [
    *(10**5000, "\ud800", ["\ud800"], b"bytes", object(), ..., type, {1}, 1j, (1, 2), lambda: 1),
    *(np.int64(1), np.float32(1.5), np.array(1), np.array([1, 2]), np.array(["a"]), {1: 2, "a": 3}),
]
"""What a caller of the API can pass beside that."""

SMALL = 10**5  # elements: what larger values ask for is not made here
BELONGS = ("node 'op'", "x")


def run_small(spec, given):
    """Compile and run a Spec where it asks for little."""
    sizes = [size for value in spec.values.values() for size in value.shape if isinstance(size, int)]
    shapes = [*spec.weight_shapes().values(), *(value.shape for value in spec.values.values())]
    elements = max(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)
    if max(sizes, default=0) <= 1000 and elements <= SMALL:
        Model(spec, weights_of(spec)).run(given)


def is_small(value):
    """Whether nothing in an attribute could ask for much work."""
    if isinstance(value, (list, tuple)):
        return len(value) < 100 and all(map(is_small, value))
    return not isinstance(value, (int, float)) or not abs(value) > 1000


def assert_ours(error, *begins):
    """The error names its place, and nothing foreign is behind it; its text is one that can be shown."""
    text = str(error)
    assert text.startswith(begins), text
    assert error.__cause__ is None, text
    assert len(text) < 3000, text
    text.encode()


# --- schemas -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_attribute_has_a_schema(op):
    """Each accepts its own default and refuses what no attribute can be; what may be absent has None as its default."""
    schema = OPS[op].schema
    assert list(schema) == list(OPS[op].attributes)
    for name, kind in schema.items():
        assert OPS[op].attributes[name] is kind.default
        if kind.default is not ...:
            kind.check(name, kind.default)
        for wrong in (object(), {}, {"a": 1}, b"1", 1j, ((1,),), ([1],), ("\ud800",), "\ud800", 10**400):
            with pytest.raises(SpecError, match=f"^{name}=.*, expected ") as caught:
                kind.check(name, wrong)
            assert_ours(caught.value, name)
    assert OPS[op].parameters == {name: kind.position for name, kind in schema.items() if kind.position is not None}


@pytest.mark.parametrize("op", sorted(OPS))
def test_examples_run(op):
    """The nodes that the other tests change are right before."""
    spec, given = spec_of(op, *example(op))
    found = Model(spec, weights_of(spec)).run(given)
    for name, array in found.items():
        value = spec.values[name]
        assert dtype_name(array) == value.dtype and len(value.shape) == array.ndim
        assert all(isinstance(size, str) or size == n for size, n in zip(value.shape, array.shape, strict=True))


@pytest.mark.parametrize("op", sorted(op for op in OPS if OPS[op].attributes))
def test_wrong_attributes(op):
    """Every attribute, replaced by everything: refused by name when the Spec is made, or it runs or says why not."""
    attributes, arrays = example(op)
    for name in OPS[op].attributes:
        for value in (*JSON_VALUES, *OBJECTS):
            try:
                spec, given = spec_of(op, {**attributes, name: value}, arrays)
                hash(spec)
                text = json.dumps(spec.to_json())
                assert json.dumps(Spec.from_json(text).to_json()) == text
                if is_small(value):
                    run_small(spec, given)
            except RnncoreError as error:
                assert_ours(error, "node 'op'")


# --- what a run is given -------------------------------------------------------------------------------------------


def drawn_inputs(rng, op):
    """Attributes, arrays and declared shapes of a node whose inputs say little of what they will be."""
    attributes, arrays = example(op)
    for name, position in OPS[op].parameters.items():
        if attributes.get(name) is not None and rng.random() < 0.5:
            value = np.array(attributes.pop(name))
            arrays += [None] * (position + 1 - len(arrays))
            arrays[position] = value.astype(np.float32) if value.dtype.kind == "f" else value
    shapes = {}
    for place, array in enumerate(arrays):
        if array is not None:
            rank = array.ndim if rng.random() < 0.8 else int(rng.integers(0, 8))
            rank = int(rng.integers(8, 65)) if rng.random() < 0.03 else rank
            names = tuple("?" if rng.random() < 0.8 else f"n{rng.integers(3)}" for _ in range(rank))
            shapes[f"x{place}"] = array.shape if rank == array.ndim and rng.random() < 0.4 else names
    return attributes, arrays, shapes


def drawn_array(rng, like, shape):
    """An array of a dtype, of a shape where it is fixed and else near that of ``like``; indices may be anything."""
    small = len(shape) < 8
    sizes = [
        size if isinstance(size, int)
        else like.shape[axis] if axis < like.ndim and rng.random() < 0.7
        else int(rng.integers(0, 5)) if small
        else int(rng.random() < 0.9)
        for axis, size in enumerate(shape)
    ]  # fmt: skip
    if like.dtype.kind == "f":
        found = rng.standard_normal(sizes)
    elif like.dtype.kind == "b" or like.dtype.itemsize == 1:
        found = rng.integers(0, 200, sizes) % (2 if like.dtype.kind == "b" else 256)
    else:
        found = rng.integers(*((-3, 9) if rng.random() < 0.5 else (0, 3)), sizes)
    return np.asarray(found, like.dtype)


@pytest.mark.parametrize("op", sorted(OPS))
def test_sizes_that_only_the_run_knows(op):
    """Ranks from 0 to 64, sizes from 0, indices beyond: a result of the rank and dtype inferred, or an InputError."""
    rng = np.random.default_rng([16, *map(ord, op)])
    for _ in seeds(25):
        attributes, arrays, shapes = drawn_inputs(rng, op)
        try:
            spec, _ = spec_of(op, attributes, arrays, shapes)
            model = Model(spec, weights_of(spec), "float64" if rng.random() < 0.1 else "float32")
        except RnncoreError as error:
            assert_ours(error, "node 'op'")
            continue
        given = {name: drawn_array(rng, arrays[int(name[1:])], shape) for name, shape in shapes.items()}
        try:
            found = model.run(given)
        except InputError as error:
            assert_ours(error, "node 'op'", "x")
            continue
        for name, array in found.items():
            assert array.ndim == len(spec.values[name].shape), (op, attributes, given)
            assert array.dtype.kind == np.dtype(spec.values[name].dtype).kind


def test_what_does_not_fit_in_memory():
    """The node, the bytes and the shape stand in the error; nothing is behind it."""
    spec, given = spec_of("Expand", {"shape": (1 << 20, 1 << 20, 1, 1)}, example("Expand")[1])
    with pytest.raises(InputError, match=r"node 'op' \(Expand\): .* would need 52,776,558,133,248 bytes") as caught:
        Model(spec, {}).run(given)
    assert_ours(caught.value, "node 'op'")


def test_interrupts_pass_through():
    """What is no fault of the inputs is not turned into one."""
    spec, given = spec_of("Relu", *example("Relu"))
    for error in (KeyboardInterrupt, SystemExit, DeprecationWarning):

        class Raises(np.ndarray):
            def __array_ufunc__(self, *args, _error=error, **options):
                raise _error("not yours")

        step = Model(spec, {})._steps[0]
        with pytest.raises(error, match="not yours"):
            step({"x0": given["x0"].view(Raises)}, None, {})


def test_shown():
    """Any value as text for a message: short, and no repr's own error."""

    class Silent:
        def __repr__(self):
            raise RuntimeError

    for value in (*JSON_VALUES, *OBJECTS, Silent(), {"a": Silent()}):
        assert len(shown(value)) < 2000
        shown(value).encode()
    assert shown("T") == "'T'" and shown([1, 2]) == "[1, 2]" and shown(10**5000) == "an integer of 16610 bits"
    assert Node("n", "Relu", "x").inputs == ("x",)
    with contextlib.suppress(SpecError):
        Node(Silent(), "Relu", "x")
