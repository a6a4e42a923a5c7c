"""The engine against the float64 oracle over every option of the cells, and against itself where outputs must agree."""

import itertools

import numpy as np
import pytest
from agreement import TOLERANCES, assert_agrees, assert_same_bits, assert_unchanged
from oracle import run_oracle
from random_networks import FOR_CANDIDATES, activation, draw, draw_weights, random_network, seeds, stack

from rnncore.cells import ACTIVATIONS, GRU, LSTM, RNN
from rnncore.graph.nodes import Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.weights import Weights
from rnncore.runtime.model import Model

DTYPES = sorted(TOLERANCES)
SIZES = [1, 7, 8, 9, 15, 16, 17, 33]

# Every option alone; combinations are drawn by random_networks.
OPTIONS = {
    "rnn": (RNN, {}),
    "rnn relu": (RNN, {"activations": ("relu",)}),
    "rnn clip": (RNN, {"clip": 0.25}),
    "lstm": (LSTM, {}),
    "lstm peephole": (LSTM, {"peephole": True}),
    "lstm coupled input": (LSTM, {"coupled": "input"}),
    "lstm coupled forget": (LSTM, {"coupled": "forget"}),
    "lstm coupled input peephole": (LSTM, {"coupled": "input", "peephole": True}),
    "lstm coupled forget peephole": (LSTM, {"coupled": "forget", "peephole": True}),
    "lstm projection": (LSTM, {"projection": 5}),
    "lstm projection bias": (LSTM, {"projection": 5, "projection_bias": True}),
    "lstm projection as wide": (LSTM, {"projection": 9, "peephole": True}),
    "lstm proj_clip": (LSTM, {"projection": 5, "proj_clip": 0.1}),
    "lstm clip": (LSTM, {"clip": 0.25, "peephole": True}),
    "lstm cell_clip": (LSTM, {"cell_clip": 0.25, "peephole": True}),
    "lstm forget_bias": (LSTM, {"forget_bias": 1.0, "clip": 0.5}),
    "lstm forget_bias coupled": (LSTM, {"forget_bias": -1.5, "coupled": "input"}),
    "lstm tf1": (LSTM, {"layer_norm": "tf1", "layer_norm_epsilon": 1e-3}),
    "lstm tf1 everything": (
        LSTM,
        {"layer_norm": "tf1", "forget_bias": 1.0, "clip": 1.0, "cell_clip": 0.5, "coupled": "input", "projection": 4},
    ),
    "lstm tflite": (LSTM, {"layer_norm": "tflite", "layer_norm_epsilon": 1e-3}),
    "lstm tflite everything": (
        LSTM,
        {"layer_norm": "tflite", "peephole": True, "clip": 1.0, "cell_clip": 0.5, "coupled": "forget", "projection": 4},
    ),
    "gru reset after": (GRU, {"reset_after": True}),
    "gru reset before": (GRU, {"reset_after": False}),
    "gru clip after": (GRU, {"reset_after": True, "clip": 0.25}),
    "gru clip before": (GRU, {"reset_after": False, "clip": 0.25}),
}
CELLS = {
    "rnn": (RNN, {}),
    "lstm": (LSTM, {}),
    "lstm projection": (LSTM, {"projection": 1}),
    "lstm peephole tflite": (LSTM, {"peephole": True, "layer_norm": "tflite", "layer_norm_epsilon": 1e-3}),
    "gru after": (GRU, {"reset_after": True}),
    "gru before": (GRU, {"reset_after": False}),
}


def network(spec, seed, batch, steps):
    """Weights and x for a stack, and an initial state with every number non-zero."""
    rng = np.random.default_rng(seed)
    node = spec.recurrent[0]
    shape = (steps, batch) if node.layout == "time_first" else (batch, steps)
    state = {f"{node.name}.{key}": draw(rng, shape) for key, shape in node.state_shapes(batch).items()}
    return draw_weights(spec, rng), draw(rng, (*shape, node.cell.input_size), 1.5), state


def cast(arrays, dtype):
    return {name: array.astype(dtype) for name, array in arrays.items()}


def check(spec, weights, inputs, state, dtype, what=""):
    """Run both and compare every output; returns the engine's."""
    given = {name: array.astype(dtype) if array.dtype == "f8" else array for name, array in inputs.items()}
    model = Model(spec, weights, dtype)
    outputs, _ = model.run(given, None if state is None else cast(state, dtype))
    assert_agrees(outputs, run_oracle(spec, weights, inputs, state), dtype, what)
    return outputs


# --- against the oracle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(300))
def test_random_networks(seed):
    drawn = random_network(seed)
    model = Model(drawn.spec, drawn.weights, drawn.dtype)
    outputs, after = model.run(drawn.given, drawn.given_state)
    assert_agrees(
        outputs, run_oracle(drawn.spec, drawn.weights, drawn.inputs, drawn.state), drawn.dtype, f"seed {seed}"
    )
    for name, array in after.items():
        assert_same_bits(array, outputs[name], f"seed {seed}: {name}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option, direction, dtype):
    cell, options = OPTIONS[option]
    spec = stack(cell(6, 9, **options), direction=direction, layers=2)
    weights, x, state = network(spec, 1, 4, 6)
    check(spec, weights, {"x": x, "lengths": np.array([6, 0, 3, 1])}, state, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("cell", [RNN, LSTM, GRU])
def test_every_activation_in_every_place(cell, name, dtype):
    """One place at a time has the function, so that a place mixed up with another cannot hide."""
    steps = 2 if name == "exponential" else 4  # a recurrence through it explodes
    for place in range(len(cell.activation_places)):
        activations = list(cell.default_activations)
        activations[place] = activation(name)
        spec = stack(cell(5, 9, activations=tuple(activations)))
        weights, x, state = network(spec, place, 3, steps)
        check(spec, weights, {"x": x}, state, dtype, cell.activation_places[place])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", SIZES)
@pytest.mark.parametrize("cell", CELLS)
def test_both_sides_of_every_vector_width(cell, hidden, dtype):
    kind, options = CELLS[cell]
    if "layer_norm" in options and hidden < 3:
        hidden = 3  # two units normalise to +-1 of any difference, however small
    for inputs, batch in itertools.product((1, hidden), (1, 3)):
        spec = stack(kind(inputs, hidden, **options), direction="bidirectional")
        weights, x, state = network(spec, hidden, batch, 3)
        check(spec, weights, {"x": x}, state, dtype, f"I={inputs}, B={batch}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inputs", "hidden"), [(256, 4), (257, 4), (600, 4), (4, 257)])
@pytest.mark.parametrize("cell", CELLS)
def test_both_sides_of_a_link(cell, inputs, hidden, dtype):
    """Native sums of more than 256 products are made of several parts: all of them count."""
    kind, options = CELLS[cell]
    spec = stack(kind(inputs, hidden, **options))
    for batch in (1, 3):
        weights, x, state = network(spec, inputs + hidden, batch, 2)
        check(spec, weights, {"x": x}, state, dtype, f"B={batch}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "steps"),
    [
        *((1, 47), (1, 48), (1, 49), (1, 95), (1, 96), (1, 97), (1, 193), (5, 19), (2, 48), (3, 32), (7, 14), (5, 10)),
        *((48, 4), (49, 2), (95, 1), (96, 1), (96, 2), (97, 1), (97, 2), (193, 1), (130, 3)),
        *((512, 2), (513, 2), (1100, 1)),
    ],
)
@pytest.mark.parametrize("cell", CELLS)
def test_both_sides_of_a_chunk(cell, batch, steps, dtype):
    """Input products are made for 48 rows (native) or 96 (BLAS) at once; batches run in blocks of 96 or 512 rows."""
    kind, options = CELLS[cell]
    spec = stack(kind(3, 4, **options), direction="bidirectional")
    weights, x, state = network(spec, batch, batch, steps)
    check(spec, weights, {"x": x}, state, dtype, "full rows")
    lengths = np.random.default_rng(steps).integers(0, steps + 1, batch)
    check(spec, weights, {"x": x, "lengths": lengths}, state, dtype, "ragged rows")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [9, 16])
@pytest.mark.parametrize("cell", sorted(set(CELLS) - {"lstm peephole tflite"}))
def test_huge_and_tiny_inputs(cell, hidden, dtype):
    """Gates saturate and do not become NaN: each magnitude up to infinity in a row of its own, then steps as usual."""
    kind, options = CELLS[cell]
    spec = stack(kind(1, hidden, **options), direction="bidirectional")
    sizes = [0.0, 1e-45, 1e-38, 1e-20, 1.0, 15.0, 17.0, 40.0, 87.0, 89.0, 104.0, 300.0, 1e4, 1e20, 1e38, np.inf]
    values = np.array([sign * size for size in sizes for sign in (1, -1)])
    weights, x, state = network(spec, 22, len(values), 4)
    x[:, 1, 0] = values.astype(np.float32)
    with np.errstate(all="ignore"):
        outputs = check(spec, weights, {"x": x}, state, dtype)
    assert all(np.isfinite(array).all() for array in outputs.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "average", "separate"])
@pytest.mark.parametrize("layout", ["batch_first", "time_first"])
def test_merges(layout, merge, dtype):
    layers = 1 if merge == "separate" else 3
    spec = stack(LSTM(3, 9, projection=5), layers=layers, direction="bidirectional", merge=merge, layout=layout)
    weights, x, state = network(spec, 2, 3, 5)
    outputs = check(spec, weights, {"x": x, "lengths": np.array([5, 0, 2])}, state, dtype)
    assert ("rnn" in outputs) == (merge != "separate") == ("rnn.last" in outputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("cell", "reverse"),
    [
        (RNN(3, 9), RNN(3, 9, activations=("relu",), clip=0.5)),
        (
            LSTM(3, 9),
            LSTM(3, 9, peephole=True, forget_bias=1.0, activations=("tanh", "relu", "relu", "tanh", "linear")),
        ),
        (LSTM(3, 9, projection=4), LSTM(3, 9, bias=False, coupled="input", projection=4, proj_clip=0.125)),
        (GRU(3, 9), GRU(3, 9, reset_after=False, bias=False)),
    ],
)
def test_the_reverse_cell_has_options_of_its_own(cell, reverse, dtype):
    spec = stack(cell, layers=2, direction="bidirectional", reverse_cell=reverse)
    weights, x, state = network(spec, 3, 3, 5)
    found = check(spec, weights, {"x": x, "lengths": np.array([5, 4, 0])}, state, dtype)
    same = stack(cell, direction="bidirectional", layers=2)
    if same.weight_shapes() == spec.weight_shapes():
        other = Model(same, weights, dtype).run({"x": x.astype(dtype), "lengths": np.array([5, 4, 0])})
        assert not np.allclose(found["rnn"], other["rnn"], atol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_initial_states_trained_given_and_from_the_graph(cell, dtype):
    kind, options = CELLS[cell]
    cell = kind(3, 9, **options)
    lengths = np.array([4, 0, 2])
    trained = stack(cell, layers=2, direction="bidirectional", trained_state=True)
    weights, x, state = network(trained, 4, 3, 4)
    check(trained, weights, {"x": x, "lengths": lengths}, None, dtype, "trained")
    check(
        trained, weights, {"x": x, "lengths": lengths}, state, dtype, "the caller's state goes before the trained one"
    )
    start = Model(trained, weights, dtype).initial_state(3)
    for key in cell.states:
        expected = np.repeat(weights[f"rnn.initial_{key}"][:, None], 3, axis=1).astype(dtype)
        assert_same_bits(start[f"rnn.{key}"], expected)

    names = tuple(f"{key}0" for key in cell.states)
    graph = stack(cell, layers=2, direction="bidirectional", initial=names)
    weights, x, state = network(graph, 5, 3, 4)
    inputs = {"x": x, "lengths": lengths, **dict(zip(names, state.values(), strict=True))}
    check(graph, weights, inputs, None, dtype, "graph")


# --- against itself: what must not matter -------------------------------------------------------------------------

STACKS = {
    "rnn": stack(RNN(5, 9, activations=("relu",)), layers=2),
    "lstm": stack(LSTM(5, 17, peephole=True), layers=2),
    "lstm projection": stack(LSTM(5, 17, projection=8, projection_bias=True), layers=2),
    "lstm tf1": stack(LSTM(5, 17, layer_norm="tf1", layer_norm_epsilon=1e-3), layers=2),
    "gru after": stack(GRU(5, 33), layers=2),
    "gru before": stack(GRU(5, 33, reset_after=False), layers=2),
}
BOTH_WAYS = {
    f"{name}, {direction}, {layout}": stack(spec.nodes[0].cell, layers=2, direction=direction, layout=layout)
    for (name, spec), direction, layout in itertools.product(
        STACKS.items(), ("forward", "reverse", "bidirectional"), ("batch_first", "time_first")
    )
}
LENGTHS = np.array([7, 0, 3, 7, 1, 5])


def batch_axis(spec, name):
    """Which axis of a value of the node "rnn" is the batch."""
    if name in ("rnn", "x"):
        return 0 if spec.nodes[0].layout == "batch_first" else 1
    return 0 if name == "rnn.last" else 1


def rows_of(spec, values, rows):
    return {name: np.take(array, rows, batch_axis(spec, name)) for name, array in values.items()}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_order_of_rows_does_not_matter(name, dtype):
    spec = BOTH_WAYS[name]
    weights, x, state = network(spec, 6, 6, 7)
    model = Model(spec, weights, dtype)
    x, state = x.astype(dtype), cast(state, dtype)
    expected, _ = model.run({"x": x, "lengths": LENGTHS}, state)
    order = np.random.default_rng(0).permutation(6)
    moved = rows_of(spec, {"x": x, **state}, order)
    found, _ = model.run({"x": moved.pop("x"), "lengths": LENGTHS[order]}, moved)
    assert_unchanged(found, rows_of(spec, expected, order), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_a_row_alone_is_the_row_in_its_batch(name, dtype):
    """Alone it is cut to its length too, so neither the others nor the padding can have a part in it."""
    spec = BOTH_WAYS[name]
    weights, x, state = network(spec, 7, 6, 7)
    model = Model(spec, weights, dtype)
    x, state = x.astype(dtype), cast(state, dtype)
    together, _ = model.run({"x": x, "lengths": LENGTHS}, state)
    time_axis = 1 - batch_axis(spec, "x")
    for row, length in enumerate(LENGTHS):
        one = rows_of(spec, {"x": x, **state}, [row])
        alone, _ = model.run({"x": np.take(one.pop("x"), range(length), time_axis)}, one)
        expected = rows_of(spec, together, [row])
        expected["rnn"] = np.take(expected["rnn"], range(length), time_axis)
        assert_unchanged(alone, expected, dtype, f"row {row}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOTH_WAYS)
@pytest.mark.parametrize("filler", [np.nan, np.inf, 1e30])
def test_padding_does_not_matter(filler, name, dtype):
    spec = BOTH_WAYS[name]
    weights, x, state = network(spec, 8, 6, 7)
    model = Model(spec, weights, dtype)
    x, state = x.astype(dtype), cast(state, dtype)
    expected, _ = model.run({"x": x, "lengths": LENGTHS}, state)
    padding = np.arange(7) >= LENGTHS[:, None]
    padding = padding if batch_axis(spec, "x") == 0 else padding.T
    found, _ = model.run({"x": np.where(padding[..., None], x.dtype.type(filler), x), "lengths": LENGTHS}, state)
    for key in expected:
        assert_same_bits(found[key], expected[key], key)
    assert not found["rnn"][padding].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["batch_first", "time_first"])
@pytest.mark.parametrize("name", STACKS)
def test_a_sequence_may_be_split_anywhere(name, layout, dtype):
    spec = stack(STACKS[name].nodes[0].cell, layers=2, layout=layout)
    weights, x, state = network(spec, 9, 3, 7)
    model = Model(spec, weights, dtype)
    x, state = x.astype(dtype), cast(state, dtype)
    time_axis = 1 - batch_axis(spec, "x")
    whole, end = model.run({"x": x}, state)
    for cut in range(8):
        first, middle = model.run({"x": np.take(x, range(cut), time_axis)}, state)
        second, after = model.run({"x": np.take(x, range(cut, 7), time_axis)}, middle)
        joined = np.concatenate([first["rnn"], second["rnn"]], time_axis)
        assert_unchanged({"rnn": joined}, {"rnn": whole["rnn"]}, dtype, f"cut at {cut}")
        assert_unchanged(dict(after), dict(end), dtype, f"cut at {cut}")
    steps, now = [], state
    for t in range(7):
        outputs, now = model.run({"x": np.take(x, [t], time_axis)}, now)
        steps.append(outputs["rnn"])
    assert_unchanged({"rnn": np.concatenate(steps, time_axis)}, {"rnn": whole["rnn"]}, dtype, "step by step")
    assert_unchanged(dict(now), dict(end), dtype, "step by step")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_ragged_rows_may_be_split_too(name, dtype):
    """The second part of a row that has ended already has length 0: its state passes through."""
    spec = STACKS[name]
    weights, x, state = network(spec, 10, 6, 7)
    model = Model(spec, weights, dtype)
    x, state = x.astype(dtype), cast(state, dtype)
    whole, end = model.run({"x": x, "lengths": LENGTHS}, state)
    _, middle = model.run({"x": x[:, :4], "lengths": np.minimum(LENGTHS, 4)}, state)
    second, after = model.run({"x": x[:, 4:], "lengths": np.maximum(LENGTHS - 4, 0)}, middle)
    assert_unchanged(dict(after), dict(end), dtype)
    assert_unchanged({"rnn": second["rnn"]}, {"rnn": whole["rnn"][:, 4:]}, dtype)


def reversed_rows(x, lengths):
    """Each row's valid steps in the opposite order, the padding where it was."""
    found = x.copy()
    for row, length in enumerate(lengths):
        found[row, :length] = x[row, :length][::-1]
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_reverse_is_forward_on_reversed_rows(name, dtype):
    cell = STACKS[name].nodes[0].cell
    forward, reverse = stack(cell), stack(cell, direction="reverse")
    weights, x, state = network(forward, 11, 6, 7)
    x, state = x.astype(dtype), cast(state, dtype)
    found, _ = Model(reverse, weights, dtype).run({"x": x, "lengths": LENGTHS}, state)
    expected, _ = Model(forward, weights, dtype).run({"x": reversed_rows(x, LENGTHS), "lengths": LENGTHS}, state)
    expected["rnn"] = reversed_rows(expected["rnn"], LENGTHS)
    assert_unchanged(found, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_its_layers_one_after_the_other(name, dtype):
    cell = STACKS[name].nodes[0].cell
    whole = stack(cell, layers=3, direction="bidirectional")
    weights, x, state = network(whole, 12, 6, 7)
    x, state = x.astype(dtype), cast(state, dtype)
    expected, _ = Model(whole, weights, dtype).run({"x": x, "lengths": LENGTHS}, state)
    for layer in range(3):
        one = stack(whole.nodes[0].layer_cell(layer, "forward"), direction="bidirectional")
        own = {key: weights[key.replace("_l0", f"_l{layer}")] for key in one.weight_shapes()}
        start = {key: array[2 * layer : 2 * layer + 2] for key, array in state.items()}
        outputs, after = Model(one, own, dtype).run({"x": x, "lengths": LENGTHS}, start)
        final = {key: expected[key][2 * layer : 2 * layer + 2] for key in after}
        assert_unchanged(dict(after), final, dtype, f"layer {layer}")
        x = outputs["rnn"]
    assert_unchanged(outputs, {key: expected[key] for key in ("rnn", "rnn.last")}, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_both_directions_are_each_alone(name, dtype):
    cell = STACKS[name].nodes[0].cell
    both = stack(cell, direction="bidirectional")
    weights, x, state = network(both, 13, 6, 7)
    x, state = x.astype(dtype), cast(state, dtype)
    expected, _ = Model(both, weights, dtype).run({"x": x, "lengths": LENGTHS}, state)
    for d, direction in enumerate(("forward", "reverse")):
        one = stack(cell, direction=direction)
        own = {key: weights[key + ("_reverse" if d else "")] for key in one.weight_shapes()}
        start = {key: array[d : d + 1] for key, array in state.items()}
        found, _ = Model(one, own, dtype).run({"x": x, "lengths": LENGTHS}, start)
        half = {key: np.split(expected[key], 2, axis=-1)[d] for key in ("rnn", "rnn.last")}
        half.update({key: expected[key][d : d + 1] for key in start})
        assert_unchanged(found, half, dtype, direction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STACKS)
def test_layouts_agree(name, dtype):
    cell = STACKS[name].nodes[0].cell
    batch_first, time_first = (stack(cell, layers=2, layout=layout) for layout in ("batch_first", "time_first"))
    weights, x, state = network(batch_first, 14, 6, 7)
    x, state = x.astype(dtype), cast(state, dtype)
    expected, _ = Model(batch_first, weights, dtype).run({"x": x, "lengths": LENGTHS}, state)
    found, _ = Model(time_first, weights, dtype).run({"x": x.swapaxes(0, 1), "lengths": LENGTHS}, state)
    assert_unchanged({**found, "rnn": found["rnn"].swapaxes(0, 1)}, expected, dtype)


@pytest.mark.parametrize(("batch", "steps", "hidden"), [(1, 60, 200), (5, 40, 120), (30, 30, 64), (200, 10, 40)])
@pytest.mark.parametrize("cell", CELLS)
def test_threads_do_not_matter(cell, batch, steps, hidden):
    """Sizes at which rows, directions or panels are worth sharing; with more threads than this machine may have."""
    kind, options = CELLS[cell]
    spec = stack(kind(16, hidden, **options), layers=2, direction="bidirectional")
    weights, x, state = network(spec, 20, batch, steps)
    x, state = x.astype(np.float32), cast(state, np.float32)
    lengths = np.random.default_rng(0).integers(0, steps + 1, batch)
    for given in ({"x": x}, {"x": x, "lengths": lengths}):
        expected, _ = Model(spec, weights, num_threads=1).run(given, state)
        for threads in (2, 3, 5):
            found, _ = Model(spec, weights, num_threads=threads).run(given, state)
            assert_unchanged(found, expected, "float32", f"{threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_row_of_a_large_batch_is_the_row_alone(cell, dtype):
    """Beyond one block of rows, and beyond one register tile."""
    kind, options = CELLS[cell]
    spec = stack(kind(5, 17, **options), direction="bidirectional")
    weights, x, state = network(spec, 21, 203, 4)
    model = Model(spec, weights, dtype)
    x, state = x.astype(dtype), cast(state, dtype)
    lengths = np.random.default_rng(0).integers(0, 5, 203)
    for given in ({}, {"lengths": lengths}):
        together, _ = model.run({"x": x, **given}, state)
        for row in (0, 1, 7, 95, 96, 97, 191, 192, 202):
            one = rows_of(spec, {"x": x, **state}, [row])
            own = {name: array[row : row + 1] for name, array in given.items()}
            alone, _ = model.run({"x": one.pop("x"), **own}, one)
            assert_unchanged(alone, rows_of(spec, together, [row]), dtype, f"row {row}")


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_the_same_call_gives_the_same_bits(name):
    spec = BOTH_WAYS[name]
    weights, x, state = network(spec, 15, 6, 7)
    x, state = x.astype(np.float32), cast(state, np.float32)
    first, second = (Model(spec, weights).run({"x": x, "lengths": LENGTHS}, state)[0] for _ in range(2))
    for key in first:
        assert_same_bits(first[key], second[key], key)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_outputs_nobody_asked_for_change_nothing(name):
    """A model that gives only the last output, or only a state, need not make the sequence."""
    spec = BOTH_WAYS[name]
    weights, x, state = network(spec, 16, 6, 7)
    x, state = x.astype(np.float32), cast(state, np.float32)
    expected, _ = Model(spec, weights).run({"x": x, "lengths": LENGTHS}, state)
    for key in spec.outputs:
        only = Spec(spec.inputs, spec.nodes, [key])
        assert_same_bits(Model(only, weights)(x, state, lengths=LENGTHS)[0], expected[key], key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths_of_all_steps_are_no_lengths(dtype):
    spec = BOTH_WAYS["lstm, bidirectional, batch_first"]
    weights, x, state = network(spec, 17, 6, 7)
    x, state = x.astype(dtype), cast(state, dtype)
    model = Model(spec, weights, dtype)
    expected, _ = model.run({"x": x}, state)
    found, _ = model.run({"x": x, "lengths": np.full(6, 7)}, state)
    for key in expected:
        assert_same_bits(found[key], expected[key], key)


def test_weights_of_float16_run_as_they_are():
    """Half precision is storage: the numbers are exact in float32."""
    spec = STACKS["lstm"]
    weights, x, state = network(spec, 18, 3, 5)
    half = Weights(spec, {name: array.astype(np.float16) for name, array in weights.items()})
    exact = Weights(spec, {name: array.astype(np.float64) for name, array in half.items()})
    found = Model(spec, half)(x.astype(np.float32), cast(state, np.float32))[0]
    assert_agrees(found, run_oracle(spec, exact, {"x": x}, state), "float32")


# --- the generator itself ------------------------------------------------------------------------------------------


def test_the_generator_covers_what_it_promises():
    """Random is worth nothing if a branch is never drawn."""
    drawn = [random_network(seed) for seed in range(300)]
    nodes = [node for network in drawn for node in network.spec.recurrent]
    cells = [cell for node in nodes for cell in (node.cell, node.reverse_cell) if cell is not None]
    seen = {(cell.kind, name, getattr(cell, name)) for cell in cells for name in vars(cell)}
    for wanted in [
        ("LSTM", "coupled", "input"), ("LSTM", "coupled", "forget"), ("LSTM", "peephole", True),
        ("LSTM", "projection_bias", True), ("LSTM", "proj_clip", 0.25), ("LSTM", "cell_clip", 0.5),
        ("LSTM", "forget_bias", 1.0), ("LSTM", "layer_norm", "tf1"), ("LSTM", "layer_norm", "tflite"),
        ("GRU", "reset_after", True), ("GRU", "reset_after", False), ("GRU", "clip", 0.25), ("RNN", "clip", 2.0),
        ("RNN", "bias", False), ("LSTM", "bias", False), ("GRU", "bias", False),
    ]:  # fmt: skip
        assert wanted in seen, wanted
    assert {function.name for cell in cells for function in cell.activations} >= set(FOR_CANDIDATES)
    assert {node.merge for node in nodes} == {"concat", "sum", "mul", "average", "separate"}
    assert {(node.direction, node.layout) for node in nodes} == set(
        itertools.product(("forward", "reverse", "bidirectional"), ("batch_first", "time_first"))
    )
    assert {bool(node.initial) for node in nodes} == {node.trained_state for node in nodes} == {True, False}
    assert {node.lengths for node in nodes} == {"lengths", None}
    assert any(node.reverse_cell is not None for node in nodes)
    ops = {node.op for network in drawn for node in network.spec.nodes if not isinstance(node, Recurrent)}
    pointwise = {"Relu", "Tanh", "Sigmoid", "Softmax", "LogSoftmax", "LpNormalization"}
    assert ops >= pointwise | {"Linear", "Embedding", "Concat"}
