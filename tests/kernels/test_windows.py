"""Ops with windows at the edges: every rank that an array can have, and numbers of any size where a file or a request
may put them. The right value, by the definition, or an error of the project: nothing else.

The definition is made of the numbers of the input, not of the window's places, of which there may be 2^31.
"""

import itertools
import math

import numpy as np
import pytest
from onnx_ops import OneNode, dtype_of
from random_networks import seeds

from rnncore.errors import InputError, RnncoreError, SpecError
from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS
from rnncore.ops.windows import Window
from rnncore.runtime.model import Model

F = np.float32
LARGEST_OUTPUT = 1 << 22  # of what is run at all: a large output is nothing but large


def covered(window, begins, axis, size, output):
    """(place of the window, number of the input) of what one output has inside, along one axis."""
    first = output * window.strides[axis] - begins[axis]
    for number in range(size):
        place, rest = divmod(number - first, window.dilations[axis])
        if rest == 0 and 0 <= place < window.kernel[axis]:
            yield place, number


class Windows:
    """A Window over one size of the input."""

    def __init__(self, attributes, kernel, sizes):
        window = Window.of(attributes, kernel, bool(attributes.get("ceil_mode")))
        self.window = window
        self.begins, self.ends = window.pads(sizes)
        self.sizes, self.outputs = sizes, window.outputs(sizes)

    def __iter__(self):
        """(output, [(places, numbers) inside])."""
        axes = range(len(self.sizes))
        inside = [
            [list(covered(self.window, self.begins, axis, self.sizes[axis], j)) for j in range(self.outputs[axis])]
            for axis in axes
        ]
        for output in itertools.product(*map(range, self.outputs)):
            found = itertools.product(*(inside[axis][j] for axis, j in enumerate(output)))
            yield output, [tuple(zip(*pairs, strict=True)) for pairs in found]

    def count(self, output, with_pads):
        """Places within the padded input, or numbers."""
        found = 1
        for axis, j in enumerate(output):
            begin, size = self.begins[axis], self.sizes[axis]
            first = j * self.window.strides[axis] - begin
            edges = (-begin, size + self.ends[axis]) if with_pads else (0, size)
            places = [-(-(edge - first) // self.window.dilations[axis]) for edge in edges]
            before, end = (min(max(place, 0), self.window.kernel[axis]) for place in places)
            found *= end - before
        return found


def pooled(op, attributes, x):
    """The outputs by definition, in float64."""
    windows = Windows(attributes, attributes["kernel_shape"], x.shape[2:])
    y = np.empty((*x.shape[:2], *windows.outputs))
    for output, inside in windows:
        here = [x[(slice(None), slice(None), *numbers)].astype(np.float64) for _, numbers in inside]
        here = np.array(here).reshape(len(here), *x.shape[:2])
        if op == "MaxPool":
            found = here.max(axis=0, initial=-np.inf)
        elif op == "LpPool":
            found = np.sqrt(np.square(here).sum(axis=0))
        else:
            with np.errstate(all="ignore"):
                found = here.sum(axis=0) / windows.count(output, attributes["count_include_pad"])
        y[(slice(None), slice(None), *output)] = found
    return y


def convolved(attributes, x, weight):
    windows = Windows(attributes, weight.shape[2:], x.shape[2:])
    group, outputs = attributes["group"], weight.shape[0]
    y = np.zeros((x.shape[0], outputs, *windows.outputs))
    each, channels = outputs // group, weight.shape[1]
    for output, inside in windows:
        for places, numbers in inside:
            for m in range(outputs):
                first = m // each * channels
                part = x[(slice(None), slice(first, first + channels), *numbers)].astype(np.float64)
                y[(slice(None), m, *output)] += part @ weight[(m, slice(None), *places)].astype(np.float64)
    return y


def close(given, expected):
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)


# --- ranks ---------------------------------------------------------------------------------------------------------

RANKS = (3, 4, 31, 32, 33, 34, 40, 63, 64)


def few_axes(rank, rng):
    """Sizes of so many spatial axes, of which at most four are not 1."""
    sizes = np.ones(rank - 2, int)
    for axis in {0, rank - 3, *rng.integers(0, rank - 2, 2).tolist()}:
        sizes[axis] = rng.integers(2, 5)
    return sizes


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pooling_of_every_rank(op, rank, dtype):
    rng = np.random.default_rng(rank)
    sizes = few_axes(rank, rng)
    attributes = {"kernel_shape": tuple(rng.integers(1, sizes + 1).tolist()), "auto_pad": "NOTSET"}
    if op == "AveragePool":
        attributes["count_include_pad"] = 0
    x = rng.standard_normal((2, 3, *sizes)).astype(dtype)
    node = OneNode(op, attributes, [x], named=(0, rank - 1))
    (y,) = node.run(dtype=dtype)
    close(y, pooled(op, node.node.attributes, x))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_convolutions_of_every_rank(rank, dtype):
    rng = np.random.default_rng(rank)
    sizes = few_axes(rank, rng)
    x = rng.standard_normal((2, 2, *sizes)).astype(dtype)
    weight = rng.standard_normal((5, 2, *rng.integers(1, sizes + 1))).astype(dtype)
    node = OneNode("Conv", {}, [x, weight], named=(0,))
    (y,) = node.run(dtype=dtype)
    close(y, convolved(node.node.attributes, x, weight))
    back = rng.standard_normal(y.shape).astype(dtype)
    (given,) = OneNode("ConvTranspose", {}, [back, weight]).run(dtype=dtype)
    assert given.shape == x.shape  # the adjoint: <conv x, back> = <x, conv^T back>
    close((given.astype(np.float64) * x).sum(), (back.astype(np.float64) * y).sum())
    whole, signed = np.round(x * 10).astype(np.uint8), np.round(weight * 10).astype(np.int8)
    if dtype == "float32":
        (sums,) = OneNode("ConvInteger", {}, [whole, signed]).run()
        np.testing.assert_array_equal(sums, convolved(node.node.attributes, whole, signed))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool", "Conv", "ConvTranspose", "GlobalMaxPool"])
@pytest.mark.parametrize("rank", [1, 2, 65, 66, 300])
def test_other_ranks_are_refused_when_shapes_are_inferred(op, rank):
    attributes = {"kernel_shape": (1,) * max(rank - 2, 1)} if op.endswith("Pool") and not op.startswith("G") else {}
    names = ("x",) if op.endswith("Pool") else ("x", "w")
    with pytest.raises(SpecError, match="expected"):
        Spec([Input(name, "float", (1,) * rank) for name in names], [Node("n", op, names, attributes)], ["n"])


# --- numbers -------------------------------------------------------------------------------------------------------

NUMBERS = (0, 1, 2, 3, 1025, 65535, 1 << 31, (1 << 31) + 1, 1 << 63, 1 << 64, -1, -(1 << 31), -(1 << 63))
LIKELY = (0.05, 0.4, 0.2, 0.1, 0.04, 0.04, 0.05, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02)


def some(rng, count, likely=LIKELY):
    return tuple(NUMBERS[i] for i in rng.choice(len(NUMBERS), count, p=likely))


def random_attributes(rng, axes):
    found = {"strides": some(rng, axes), "dilations": some(rng, axes)}
    if rng.integers(2):
        found["auto_pad"] = str(rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
    elif rng.integers(2):
        found["pads"] = some(rng, 2 * axes)
    return {name: value for name, value in found.items() if rng.integers(4) or name == "auto_pad"}


def outcome(op, attributes, arrays, named=()):
    """The node and its outputs; None where it was refused, or its outputs are large. Nothing writes to the arrays."""
    for array in arrays:
        array.flags.writeable = False
    try:
        node = OneNode(op, attributes, arrays, named=named)
        (name,) = node.node.names[:1]
        shape = node.spec.values[name].shape
        if named == () and math.prod(size for size in shape if isinstance(size, int)) > LARGEST_OUTPUT:
            return None
        return node, node.run()
    except RnncoreError as error:
        assert "expected" in str(error) or "smaller than the window" in str(error), error
        return None


@pytest.mark.parametrize("seed", seeds(400))
def test_pooling_with_any_numbers(seed):
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 4))
    op = str(rng.choice(["MaxPool", "AveragePool", "LpPool"]))
    attributes = {"kernel_shape": some(rng, axes), **random_attributes(rng, axes), "ceil_mode": int(rng.integers(2))}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(rng.integers(2))
    x = rng.standard_normal((*rng.integers(1, 3, 2), *rng.integers(0, 6, axes))).astype(F)
    for dtype in ("float32", "float64"):
        found = outcome(op, attributes, [x])
        if found is not None:
            node, (y, *_) = found
            close(y, pooled(op, node.node.attributes, x))
            run = OPS[op].compiled(node.node.attributes, {}, 1, np.dtype(dtype))
            given = x.astype(dtype)
            given.flags.writeable = False
            close(run(given), y)


@pytest.mark.parametrize("seed", seeds(100))
def test_where_the_largest_numbers_stand(seed):
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 3))
    attributes = {"kernel_shape": some(rng, axes), **random_attributes(rng, axes), "indices": True}
    x = rng.standard_normal((2, 2, *rng.integers(1, 6, axes))).astype(F)
    found = outcome("MaxPool", attributes, [x])
    if found is not None:
        _, (y, places) = found
        inside = y > -np.inf
        np.testing.assert_array_equal(x.reshape(-1)[np.where(inside, places, 0)][inside], y[inside])


@pytest.mark.parametrize("seed", seeds(400))
def test_convolutions_with_any_numbers(seed):
    """The weights are an input, of sizes that are known, or not until the call, and may contradict kernel_shape."""
    rng = np.random.default_rng(seed)
    axes = int(rng.integers(1, 4))
    op = str(rng.choice(["Conv", "ConvInteger", "ConvTranspose"]))
    attributes = random_attributes(rng, axes)
    group = int(rng.choice([1, 1, 1, 2, 3, 0, -1, 1 << 31, 1 << 63]))
    kernel = tuple(rng.choice(4, axes, p=(0.04, 0.46, 0.3, 0.2)).tolist())
    if rng.integers(3) == 0:
        attributes["kernel_shape"] = kernel if rng.integers(2) else some(rng, axes)
    if op == "ConvTranspose" and rng.integers(3) == 0:
        attributes[str(rng.choice(["output_padding", "output_shape"]))] = some(rng, axes)
    attributes["group"] = group
    groups = group if 1 <= group < 4 else 1
    x = rng.integers(0, 9, (int(rng.integers(1, 3)), groups * int(rng.integers(1, 3)), *rng.integers(0, 6, axes)))
    weight = rng.integers(-4, 5, (groups * int(rng.integers(1, 12)), max(x.shape[1] // groups, 1), *kernel))
    if op == "ConvTranspose":
        weight = weight.swapaxes(0, 1) if groups == 1 else rng.integers(-4, 5, (x.shape[1], 3, *kernel))
    x, weight = (x.astype(np.uint8), weight.astype(np.int8)) if op == "ConvInteger" else (x.astype(F), weight.astype(F))
    known = outcome(op, attributes, [x, np.ascontiguousarray(weight)])
    if known is not None and op != "ConvTranspose":
        node, (y,) = known
        np.testing.assert_array_equal(y, convolved(node.node.attributes, x, weight))
    inputs = [
        Input(name, dtype_of(array), tuple(f"{name}{axis}" for axis in range(array.ndim)))
        for name, array in (("x", x), ("w", weight))
    ]
    try:
        late = Model(Spec(inputs, [Node("n", op, ("x", "w"), attributes)], ["n"]), {})
    except RnncoreError:
        return
    if known is not None:
        np.testing.assert_array_equal(late.run({"x": x, "w": weight})["n"], known[1][0])
    elif weight.size == 0 or weight.shape[2:] != late.spec.nodes[0].attributes["kernel_shape"]:
        with pytest.raises(RnncoreError):
            late.run({"x": x, "w": weight})


# --- what killed the process ---------------------------------------------------------------------------------------


def late_node(op, attributes, shapes, dtypes):
    inputs = [Input(f"i{n}", dtype, shape) for n, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))]
    return Model(Spec(inputs, [Node("n", op, tuple(entry.name for entry in inputs), attributes)], ["n"]), {})


WEIGHTED = {
    "Conv": (("float", "float"), lambda x, w: (x, w)),
    "ConvTranspose": (("float", "float"), lambda x, w: (x, w.swapaxes(0, 1))),
    "ConvInteger": (("uint8", "int8"), lambda x, w: (x.astype(np.uint8), w.astype(np.int8))),
}


@pytest.mark.parametrize("op", WEIGHTED)
@pytest.mark.parametrize("kernel", [(0,), (0, 3), (3, 0), (0, 0, 0)])
def test_a_window_of_no_places_is_refused(op, kernel):
    dtypes, arrange = WEIGHTED[op]
    x, weight = arrange(np.ones((1, 2, *[4] * len(kernel)), F), np.ones((3, 2, *kernel), F))
    with pytest.raises(SpecError, match=r"sizes of at least 1|size 0, expected a positive"):
        late_node(op, {}, (x.shape, weight.shape), dtypes)
    names = [(*letters, *(f"{letters}{axis}" for axis in range(len(kernel)))) for letters in ("NC", "MD")]
    with pytest.raises(SpecError, match="expected known kernel sizes"):
        late_node(op, {}, names, dtypes)
    with pytest.raises(SpecError, match="at least 1"):
        late_node(op, {"kernel_shape": kernel}, names, dtypes)
    model = late_node(op, {"kernel_shape": (2,) * len(kernel)}, names, dtypes)
    with pytest.raises(InputError, match=f"node 'n' \\({op}\\): weights of shape"):
        model.run({"i0": x, "i1": weight})


@pytest.mark.parametrize("op", WEIGHTED)
@pytest.mark.parametrize("shape", [(3, 2, 3), (3, 3, 2), (3, 1, 2), (4, 2, 2), (1, 1, 1), (3, 2, 0)])
def test_weights_that_contradict_their_node_are_refused_at_the_call(op, shape):
    """Of (3, 2, 2) for two channels and kernel_shape [2] each: any other but in the number of outputs."""
    dtypes, arrange = WEIGHTED[op]
    model = late_node(op, {"kernel_shape": (2,)}, (("N", "C", "T"), ("M", "D", "K")), dtypes)
    names = ("i0", "i1")
    assert model.run(dict(zip(names, arrange(np.ones((1, 2, 4), F), np.ones((3, 2, 2), F)), strict=True)))["n"].size
    x, weight = arrange(np.ones((1, 2, 4), F), np.ones(shape, F))
    if shape[1:] == (2, 2):
        assert model.run({"i0": x, "i1": weight})["n"].shape[1] == shape[0]
    else:
        with pytest.raises(InputError, match="weights"):
            model.run({"i0": x, "i1": weight})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kernel", "dilations"), [((2, 1025), (65535, 1 << 31)), ((2, 2), (1 << 31, 1 << 31)), ((3,), (1 << 31,))]
)
def test_memory_that_does_not_fit_is_refused(kernel, dilations, dtype):
    """Zeros around an image that are more than 2^64 bytes, or than any machine has."""
    x, weight = np.ones((1, 1, *[5] * len(kernel)), dtype), np.ones((1, 1, *kernel), dtype)
    node = OneNode("Conv", {"auto_pad": "SAME_UPPER", "dilations": dilations}, [x, weight])
    with pytest.raises(InputError, match=r"node 'n' \(Conv\): .* takes \d+ bytes, expected at most"):
        node.run(dtype=dtype)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_windows_larger_than_memory_over_a_small_image(op):
    """Places that meet nothing but padding take neither time nor memory."""
    kernel = (1 << 31, (1 << 31) - 5)
    attributes = {"kernel_shape": kernel, "auto_pad": "SAME_UPPER", "dilations": (1, 1 << 31)}
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 4)).astype(F)
    node = OneNode(op, attributes, [x])
    close(node.run()[0], pooled(op, node.node.attributes, x))


@pytest.mark.parametrize("seed", seeds(300))
def test_places_that_meet_only_padding_do_not_count(seed):
    """Window.met, axis by axis, against what each output has inside."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, rng.choice([3, 9])))
    window = Window(
        (int(rng.integers(1, 9)),), (int(rng.integers(1, 12)),), (int(rng.integers(1, 4)),),
        (int(rng.integers(0, 30)),), (int(rng.integers(0, rng.choice([2, 30]))),), "NOTSET", bool(rng.integers(2)),
    )  # fmt: skip
    if size + window.begins[0] + window.ends[0] < window.extent(0):
        return
    (count,) = window.outputs((size,))
    (part,), met = window.met((size,))
    left = range(size)[part]
    assert met.outputs((len(left),)) == (count,) and met.begins[0] >= 0
    for output in range(count):
        expected = [number for _, number in covered(window, window.begins, 0, size, output)]
        assert [left[number] for _, number in covered(met, met.begins, 0, len(left), output)] == expected
    span = (count - 1) * met.strides[0]
    assert (met.kernel[0] - 1) * met.dilations[0] < span + size and met.begins[0] <= span + 1
