"""Float32 results of the native kernels do not depend, to the bit, on how a computation is laid out.

Not on the other rows of the batch or their order, the number of threads, where a sequence is split, how the input
lies in memory, what stands in the padding, or which way a call takes through the model. Over random stacks of every
cell and option, for every instruction set of this machine; each of them agrees with the float64 oracle as well.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from agreement import assert_agrees, assert_same_bits
from oracle import run_oracle
from random_networks import chance, draw, draw_weights, random_cell, reverse_options, seeds, stack

from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights
from rnncore.runtime.model import Model


@dataclass(frozen=True)
class Case:
    """A stack "rnn" that gives all of its values, its weights, inputs and an initial state, all float32."""

    spec: Spec
    weights: Weights
    inputs: dict[str, np.ndarray]
    state: dict[str, np.ndarray]

    @property
    def node(self):
        return self.spec.nodes[0]

    @property
    def batch(self):
        return self.inputs["x"].shape[self.axis("x")]

    @property
    def steps(self):
        return self.inputs["x"].shape[1 - self.axis("x")]

    @property
    def model(self):
        return Model(self.spec, self.weights, num_threads=1)

    def axis(self, name):
        """Which axis of a value is the batch."""
        if name in ("lengths", "rnn.last"):
            return 0
        if name in ("x", "mask", "rnn", "rnn.forward", "rnn.reverse"):
            return 0 if self.node.layout == "batch_first" else 1
        return 1

    def rows(self, values, rows):
        """Those rows of the batch of each value."""
        return {name: np.take(array, rows, self.axis(name)) for name, array in values.items()}

    def between(self, first, last):
        """The inputs of the steps from first to before last."""
        found = {}
        for name, array in self.inputs.items():
            if name == "lengths":
                found[name] = np.clip(array - first, 0, last - first)
            else:
                found[name] = np.take(array, range(first, last), 1 - self.axis(name))
        return found


def draw_case(seed, batch=None, steps=None, hidden=None, splittable=False, layers=None):
    """A random stack.

    splittable: forward only, and no output is repeated from a step before the split. layers: so many, of one direction.
    """
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, hidden_size=hidden)
    direction = "forward" if splittable else str(rng.choice(["forward", "reverse", "bidirectional", "bidirectional"]))
    options = {"direction": direction, "layers": int(rng.integers(1, 4))}
    if layers is not None:
        direction = str(rng.choice(["forward", "reverse"]))
        options = {"direction": direction, "layers": layers}
    options["layout"] = "time_first" if chance(rng, 0.3) else "batch_first"
    if direction == "bidirectional":
        merges = ["concat", "sum", "mul", "average"] + (["separate"] if options["layers"] == 1 else [])
        options["merge"] = str(rng.choice(merges))
        if chance(rng, 0.4):
            options["reverse_cell"] = reverse_options(rng, cell)
    masked = chance(rng, 0.3)
    if masked:
        options["mask"] = "mask"
        options["masked_output"] = "zero" if splittable else str(rng.choice(["repeat", "zero"]))
    spec = stack(cell, **options)
    batch = int(rng.integers(1, 9)) if batch is None else batch
    steps = int(rng.integers(1, 17)) if steps is None else steps
    axes = (steps, batch) if options["layout"] == "time_first" else (batch, steps)
    inputs = {"x": draw(rng, (*axes, cell.input_size), 1.5).astype(np.float32)}
    if masked:
        inputs["mask"] = rng.random(axes) < 0.7
    elif chance(rng, 0.5):
        inputs["lengths"] = rng.integers(0, steps + 1, batch)
    shapes = spec.nodes[0].state_shapes(batch)
    state = {f"rnn.{key}": draw(rng, shape).astype(np.float32) for key, shape in shapes.items()}
    return Case(spec, draw_weights(spec, rng), inputs, state)


def assert_same(found, expected, what):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert_same_bits(found[name], array, f"{what}: {name}")


@pytest.mark.parametrize("seed", seeds(60))
def test_agrees_with_the_oracle(isa, seed):
    case = draw_case(seed)
    outputs, _ = case.model.run(case.inputs, case.state)
    assert_agrees(
        outputs, run_oracle(case.spec, case.weights, case.inputs, case.state), "float32", f"{isa}, seed {seed}"
    )


@pytest.mark.parametrize("seed", seeds(60))
def test_other_rows(isa, seed):
    """Each row alone; and all of them several times, in any order, in a batch of more than one block of rows."""
    case, model = draw_case(seed), draw_case(seed).model
    expected, _ = model.run(case.inputs, case.state)
    many = np.random.default_rng(seed).integers(0, case.batch, 110)
    for rows in (many, *([row] for row in range(case.batch))):
        found, _ = model.run(case.rows(case.inputs, rows), case.rows(case.state, rows))
        assert_same(found, case.rows(expected, rows), f"{isa}, seed {seed}, rows {rows}")


@pytest.mark.parametrize("shape", [(1, 30, 120), (3, 12, 90), (40, 8, 50), (150, 6, 24)])
@pytest.mark.parametrize("seed", seeds(10))
def test_threads(isa, seed, shape):
    """Sizes at which panels, directions or rows are worth sharing; three threads share nothing evenly."""
    batch, steps, hidden = shape
    case = draw_case(seed, batch, steps, hidden)
    expected, _ = case.model.run(case.inputs, case.state)
    for threads in (2, 3):
        found, _ = Model(case.spec, case.weights, num_threads=threads).run(case.inputs, case.state)
        assert_same(found, expected, f"{isa}, seed {seed}, {threads} threads")
        found, _ = case.model.run(case.inputs, case.state, num_threads=threads)
        assert_same(found, expected, f"{isa}, seed {seed}, {threads} threads for the call")


@pytest.mark.parametrize("shape", [(1, 70, 24), (3, 40, 33), (2, 16, 120)])
@pytest.mark.parametrize("seed", seeds(12))
def test_layers_side_by_side(isa, seed, shape):
    """Stacks of layers that threads run behind one another; more layers than threads, and fewer."""
    batch, steps, hidden = shape
    case = draw_case(seed, batch, steps, hidden, layers=2 + seed % 4)
    expected, _ = case.model.run(case.inputs, case.state)
    for threads in (2, 3):
        for _ in range(5):
            found, _ = case.model.run(case.inputs, case.state, num_threads=threads)
            assert_same(found, expected, f"{isa}, seed {seed}, {threads} threads")


# (input size, hidden size, steps): chains of more than one link, a last chunk of every length, parts that are not even,
# and input weights so large that a chunk has more rows
LONE_SHAPES = [(64, 64, 16), (77, 130, 50), (260, 136, 35), (300, 150, 27), (90, 170, 41), (513, 257, 19), (99, 90, 18)]
LONE_SHAPES += [(2000, 200, 107)]


@pytest.mark.parametrize("shape", LONE_SHAPES)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("seed", seeds(2))
def test_a_long_sequence_alone(isa, seed, kind, shape):
    """One row whose input product is made beside its steps: the bits of the row among others, and of single steps."""
    inputs, hidden, steps = shape
    rng = np.random.default_rng(seed)
    cell = random_cell(rng, kind, inputs, hidden)
    cell = cell.replace(activations=()) if chance(rng, 0.8) else cell
    if kind == "LSTM":
        cell = cell.replace(layer_norm=None, projection=0, projection_bias=False, proj_clip=None)
    spec = stack(cell, direction=str(rng.choice(["forward", "reverse", "bidirectional"])))
    weights = draw_weights(spec, rng)
    x = draw(rng, (3, steps, inputs)).astype(np.float32)
    lengths = np.array([steps, steps, 1])
    state = {f"rnn.{key}": draw(rng, shape) for key, shape in spec.nodes[0].state_shapes(3).items()}
    state = {name: array.astype(np.float32) for name, array in state.items()}
    model = Model(spec, weights, num_threads=1)
    case = Case(spec, weights, {"x": x, "lengths": lengths}, state)
    expected, _ = model.run(case.inputs, state)
    expected = case.rows(expected, [0])
    lone, first = case.rows({"x": x}, [0]), case.rows(state, [0])
    for threads in (1, 2, 3):
        found, after = model.run(lone, first, num_threads=threads)
        assert_same(found, expected, f"{isa}, seed {seed}, {threads} threads")
    found, _ = model.run({"x": np.concatenate([lone["x"], lone["x"]], 1), "lengths": np.array([steps])}, first)
    assert_same({"rnn.last": found["rnn.last"]}, {"rnn.last": expected["rnn.last"]}, f"{isa}, seed {seed}, padded")
    if spec.nodes[0].direction == "forward":
        now = first
        for step in range(steps):
            _, now = model.run({"x": lone["x"][:, step : step + 1]}, now)
        assert_same(now, after, f"{isa}, seed {seed}, step by step")


@pytest.mark.parametrize("steps", [7, 130])
@pytest.mark.parametrize("seed", seeds(30))
def test_splits(isa, seed, steps):
    """In two anywhere, step by step, and into pieces of any length, the empty one included; the state is carried."""
    case = draw_case(seed, steps=steps, splittable=True)
    model, rng = case.model, np.random.default_rng(seed)
    expected, end = model.run(case.inputs, case.state)
    ways = [[0, *sorted(rng.integers(0, steps + 1, count)), steps] for count in (1, 2, 5)]
    if steps < 10:
        ways = [[0, cut, steps] for cut in range(steps + 1)] + [list(range(steps + 1)), *ways]
    for bounds in ways:
        state, parts = case.state, []
        for first, last in itertools.pairwise(bounds):
            outputs, state = model.run(case.between(first, last), state)
            parts.append(outputs["rnn"])
        what = f"{isa}, seed {seed}, split at {bounds}"
        assert_same_bits(np.concatenate(parts, 1 - case.axis("rnn")), expected["rnn"], what)
        assert_same_bits(outputs["rnn.last"], expected["rnn.last"], what)
        assert_same(state, end, what)


def unaligned(x):
    """At an address that is no multiple of four."""
    return np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(x.shape)


def shifted(x):
    """One float behind where it was: no vector of it is aligned."""
    buffer = np.empty(x.size + 17, np.float32)
    found = buffer[1 + (-buffer.ctypes.data % 64) // 4 :][: x.size].reshape(x.shape)
    found[...] = x
    return found


def spread(x):
    """Every second element of something larger, NaN in between."""
    buffer = np.full([2 * size for size in x.shape], np.nan, np.float32)
    found = buffer[tuple(slice(None, None, 2) for _ in x.shape)]
    found[...] = x
    return found


def wide(x):
    """Part of rows that hold more on both sides."""
    buffer = np.full((*x.shape[:-1], x.shape[-1] + 5), np.nan, np.float32)
    found = buffer[..., 2:-3]
    found[...] = x
    return found


MEMORY = {
    "C order": np.ascontiguousarray,
    "Fortran order": np.asfortranarray,
    "axes swapped": lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
    "from the end": lambda x: np.ascontiguousarray(x[::-1, ::-1, ::-1])[::-1, ::-1, ::-1],
    "spread": spread,
    "wide": wide,
    "shifted": shifted,
    "unaligned": unaligned,
    "foreign byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


@pytest.mark.parametrize("seed", seeds(30))
def test_memory(isa, seed):
    case, model = draw_case(seed), draw_case(seed).model
    expected, _ = model.run(case.inputs, case.state)
    for name, lay_out in MEMORY.items():
        inputs = {**case.inputs, "x": lay_out(case.inputs["x"])}
        np.testing.assert_array_equal(inputs["x"], case.inputs["x"])
        state = {key: lay_out(array) for key, array in case.state.items()}
        found, _ = model.run(inputs, state)
        assert_same(found, expected, f"{isa}, seed {seed}, {name}")


@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("seed", seeds(30))
def test_padding(isa, seed, filler):
    """What stands at steps that do not count is never read."""
    case, model = draw_case(seed), draw_case(seed).model
    expected, _ = model.run(case.inputs, case.state)
    valid = case.inputs.get("mask", np.True_)
    if "lengths" in case.inputs:
        valid = np.arange(case.steps) < case.inputs["lengths"][:, None]
        valid = valid if case.axis("x") == 0 else valid.T
    x = np.where(valid[..., None], case.inputs["x"], np.float32(filler))
    found, _ = model.run({**case.inputs, "x": x}, case.state)
    assert_same(found, expected, f"{isa}, seed {seed}")


@pytest.mark.parametrize("seed", seeds(30))
def test_ways_through_the_model(isa, seed):
    """A call of a model that gives only the sequence takes a shorter way, and one without a state another."""
    case = draw_case(seed)
    expected, after = case.model.run(case.inputs, case.state)
    zeros = {name: np.zeros_like(array) for name, array in case.state.items()}
    fresh, _ = case.model.run(case.inputs, zeros)
    options = {name: array for name, array in case.inputs.items() if name != "x"}
    for output in case.spec.outputs:
        only = Model(Spec(case.spec.inputs, case.spec.nodes, [output]), case.weights, num_threads=1)
        found, state = only(case.inputs["x"], case.state, **options)
        assert_same_bits(found, expected[output], f"{isa}, seed {seed}: {output}")
        assert_same(state, after, f"{isa}, seed {seed}: {output}")
        assert_same_bits(only(case.inputs["x"], **options), fresh[output], f"{isa}, seed {seed}: {output}, no state")


def test_the_cases_cover_what_they_promise():
    """Random is worth nothing if a branch is never drawn."""
    drawn = [draw_case(seed) for seed in range(120)]
    nodes = [case.node for case in drawn]
    cells = [cell for node in nodes for cell in (node.cell, node.reverse_cell) if cell is not None]
    options = {
        (cell.kind, name, value) for cell in cells for name, value in vars(cell).items() if name != "activations"
    }
    for wanted in [
        *(("LSTM", "coupled", which) for which in (None, "input", "forget")),
        *(("LSTM", "layer_norm", which) for which in (None, "tf1", "tflite")),
        *(("LSTM", name, True) for name in ("peephole", "projection_bias", "bias")),
        *(("LSTM", "cell_clip", 0.5), ("LSTM", "proj_clip", 0.25), ("LSTM", "forget_bias", 1.0), ("LSTM", "clip", 2.0)),
        *(("GRU", "reset_after", True), ("GRU", "reset_after", False), ("GRU", "clip", 0.5), ("GRU", "bias", False)),
        *(("RNN", "clip", 0.5), ("RNN", "bias", False), ("RNN", "bias", True)),
    ]:
        assert wanted in options, wanted
    assert {node.layers for node in nodes} == {1, 2, 3}
    assert {node.merge for node in nodes} == {"concat", "sum", "mul", "average", "separate"}
    assert {(node.direction, node.layout) for node in nodes} == set(
        itertools.product(("forward", "reverse", "bidirectional"), ("batch_first", "time_first"))
    )
    assert {(node.mask, node.masked_output) for node in nodes} >= {("mask", "repeat"), ("mask", "zero")}
    given = [set(case.inputs) for case in drawn]
    assert {"x"} in given and {"x", "mask"} in given and {"x", "lengths"} in given
    assert any(node.reverse_cell is not None for node in nodes)
