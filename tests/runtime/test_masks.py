"""Masks and the order of outputs: against the oracle, against live Keras, and against what they mean."""

import keras
import numpy as np
import pytest
from agreement import assert_agrees, assert_close, assert_same_bits
from keras import layers
from oracle import run_oracle
from random_networks import chance, draw, draw_weights, random_cell, reverse_options, seeds, stack

import rnncore
from rnncore import Input, InputError, Model, Node, Recurrent, Spec, SpecError
from rnncore.cells import CELLS, GRU, LSTM
from rnncore.export import from_keras

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")


def random_mask(rng, batch, steps):
    """Rows with gaps, padded left or right, empty, or full."""
    rows = [
        rng.random(steps) < 0.6,
        np.arange(steps) >= rng.integers(0, steps + 1),
        np.arange(steps) < rng.integers(0, steps + 1),
        np.zeros(steps, bool),
        np.ones(steps, bool),
    ]
    return np.array([rows[rng.choice(5, p=[0.5, 0.15, 0.15, 0.1, 0.1])] for _ in range(batch)], bool).reshape(
        batch, steps
    )


def masked_spec(rng):
    """One Recurrent node with a mask, over the cells' whole option space; it gives every value."""
    cell = random_cell(rng)
    direction = str(rng.choice(["forward", "reverse", "bidirectional", "bidirectional"]))
    options = {"direction": direction, "layers": int(rng.integers(1, 3)), "mask": "mask"}
    options["layout"] = str(rng.choice(["batch_first", "time_first"]))
    options["masked_output"] = str(rng.choice(["repeat", "zero"]))
    if direction == "bidirectional":
        options["merge"] = str(rng.choice(["concat", "sum", "mul", "average", "separate"]))
        options["reverse_cell"] = reverse_options(rng, cell) if chance(rng, 0.3) else None
    elif direction == "reverse" and chance(rng, 0.6):
        options["output_order"] = "processing"
    if options.get("merge") == "separate" or "output_order" in options:
        options["layers"] = 1
    return stack(cell, **options)


@pytest.mark.parametrize("seed", seeds(150))
def test_any_mask_against_the_oracle(seed):
    rng = np.random.default_rng([seed, 7])
    spec = masked_spec(rng)
    against_the_oracle(spec, rng, int(rng.integers(0, 6)), int(rng.integers(0, 10)), f"seed {seed}")


@pytest.mark.parametrize("seed", seeds(4))
def test_masks_of_more_rows_than_a_block(seed):
    rng = np.random.default_rng([seed, 8])
    against_the_oracle(masked_spec(rng), rng, 700, 3, f"seed {seed}")


def against_the_oracle(spec, rng, batch, steps, what):
    (node,) = spec.nodes
    mask, x = random_mask(rng, batch, steps), draw(rng, (batch, steps, node.cell.input_size), 1.5)
    x[~mask] = np.nan  # what does not count is never read
    if node.layout == "time_first":
        mask, x = mask.T, x.swapaxes(0, 1)
    state = {f"rnn.{key}": draw(rng, shape) for key, shape in node.state_shapes(batch).items()}
    weights, dtype = draw_weights(spec, rng), str(rng.choice(["float32", "float64"]))
    start = {key: array.astype(dtype) for key, array in state.items()}
    found, after = Model(spec, weights, dtype).run({"x": x.astype(dtype), "mask": mask}, start)
    expected = run_oracle(spec, weights, {"x": x, "mask": mask}, state)
    assert_agrees(found, expected, dtype, what)
    assert_agrees(after, {key: expected[key] for key in state}, dtype, what)


@pytest.mark.parametrize("seed", seeds(60))
def test_one_layer_against_keras(seed):
    """Every cell, direction, mask and option of Keras; states by return_state, from given initial states."""
    rng = np.random.default_rng([seed, 8])
    kind, units, width = str(rng.choice(["RNN", "LSTM", "GRU"])), int(rng.integers(1, 6)), int(rng.integers(1, 5))
    batch, steps = int(rng.integers(1, 6)), int(rng.integers(1, 9))
    options = {"units": units, "return_state": True, "return_sequences": chance(rng, 0.7)}
    options |= {"go_backwards": chance(rng, 0.5), "zero_output_for_mask": chance(rng, 0.4)}
    options["use_bias"] = chance(rng, 0.7)
    after = kind == "GRU" and chance(rng, 0.5)
    if kind == "GRU":
        options["reset_after"] = after
    layer = getattr(layers, kind if kind != "RNN" else "SimpleRNN")(**options)
    layer.build((None, None, width))
    layer.set_weights([draw(rng, weight.shape, 0.7) for weight in layer.weights])
    x, mask = draw(rng, (batch, steps, width)).astype(np.float32), random_mask(rng, batch, steps)
    start = [draw(rng, (batch, units)).astype(np.float32) for _ in CELLS[kind].states]
    y, *states = (
        keras.ops.convert_to_numpy(one)
        for one in layer(x, mask=keras.ops.convert_to_tensor(mask), initial_state=[*map(keras.ops.array, start)])
    )
    arrays = dict(zip(("weight_ih", "weight_hh", "bias"), layer.get_weights(), strict=False))
    model = getattr(rnncore, kind)(
        **arrays,
        **({"reset_after": after} if kind == "GRU" else {}),
        order="keras",
        direction="reverse" if options["go_backwards"] else "forward",
        output_order="processing" if options["go_backwards"] else "time",
        masked_output="zero" if options["zero_output_for_mask"] else "repeat",
        activations=("tanh",) if kind == "RNN" else (),
    )
    found, after = model(x, [array[None] for array in start] if kind == "LSTM" else start[0][None], mask=mask)
    assert_close(found if options["return_sequences"] else found[:, -1], y, 1e-5, "output")
    for key, expected in zip(CELLS[kind].states, states, strict=True):
        assert_close(after[f"{kind.lower()}.{key}"][0], expected, 1e-5, key)


@pytest.mark.parametrize("seed", seeds(60))
def test_models_against_keras(seed):
    """Embedding(mask_zero) or Masking, then one or two recurrent layers and what may stand between them."""
    rng = np.random.default_rng([seed, 9])
    keras.utils.set_random_seed(seed)
    batch, steps = int(rng.integers(1, 6)), int(rng.integers(1, 9))
    mask = random_mask(rng, batch, steps)
    if chance(rng, 0.5):
        x = np.where(mask, rng.integers(1, 6, (batch, steps)), 0)
        parts = [keras.Input((None,), dtype="int64"), layers.Embedding(6, 3, mask_zero=True)]
    else:
        x = draw(rng, (batch, steps, 3)).astype(np.float32)
        value = float(rng.choice([0.0, 0.1, -1.0]))
        x[~mask] = value
        parts = [keras.Input((None, 3)), layers.Masking(value)]
    if chance(rng, 0.5):
        parts += [layers.Dropout(0.5), layers.Dense(4, activation="tanh"), layers.Activation("sigmoid")]
    count = int(rng.integers(1, 3))
    for index in range(count):
        sequences = index < count - 1 or chance(rng, 0.5)
        kind = getattr(layers, str(rng.choice(["SimpleRNN", "LSTM", "GRU"])))
        if chance(rng, 0.5):
            merge = str(rng.choice(["concat", "sum", "mul", "ave"]))
            parts.append(layers.Bidirectional(kind(3, return_sequences=sequences), merge_mode=merge))
        else:
            options = {"go_backwards": chance(rng, 0.5), "zero_output_for_mask": chance(rng, 0.5)}
            parts.append(kind(3, return_sequences=sequences, **options))
    if chance(rng, 0.3):
        parts.append(layers.TimeDistributed(layers.Dense(2)) if sequences else layers.Dense(2))
    model = keras.Sequential(parts)
    model.set_weights([draw(rng, weight.shape, 0.7) for weight in model.weights])
    exported = from_keras(model, x)
    found = Model(exported.spec, exported.weights).run(exported.test_pair.inputs)
    for name, expected in exported.test_pair.outputs.items():
        assert_close(found[name], expected, 1e-5, name)


def layer(direction="forward", cell=None, seed=0, **options):
    """A Spec of one node with a mask that gives every value, and weights for it."""
    spec = stack(cell or LSTM(3, 4), mask="mask", direction=direction, **options)
    return spec, draw_weights(spec, np.random.default_rng(seed))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_a_mask_that_is_lengths(direction):
    spec, weights = layer(direction, masked_output="zero")
    model, rng = Model(spec, weights), np.random.default_rng(1)
    x, lengths = draw(rng, (5, 6, 3)).astype(np.float32), np.array([3, 0, 6, 1, 5])
    mask = np.arange(6) < lengths[:, None]
    by_length, by_mask = model.run({"x": x, "lengths": lengths}), model.run({"x": x, "mask": mask})
    both = model.run({"x": x, "mask": mask, "lengths": lengths})
    for name, expected in by_length.items():
        assert_same_bits(by_mask[name], expected, name)
        assert_same_bits(both[name], expected, name)
    full = model.run({"x": x, "mask": np.ones((5, 6), bool)})
    assert_same_bits(full["rnn"], model.run({"x": x})["rnn"])


def test_a_gap_is_not_there():
    """A row with gaps is the row without them; a row alone is the row in its batch."""
    spec, weights = layer("bidirectional", GRU(3, 4), masked_output="zero")
    model, rng = Model(spec, weights, "float64"), np.random.default_rng(2)
    x, mask = draw(rng, (6, 9, 3)), random_mask(rng, 6, 9)
    found = model.run({"x": x, "mask": mask})
    for row in range(6):
        alone = model.run({"x": x[row : row + 1, mask[row]]})
        assert_close(found["rnn"][row, mask[row]], alone["rnn"][0], 1e-14)
        assert not found["rnn"][row, ~mask[row]].any()
        assert_close(found["rnn.last"][row], alone["rnn.last"][0], 1e-14)


def test_repeated_outputs_are_those_of_each_direction():
    spec, weights = layer("bidirectional")
    x, mask = draw(np.random.default_rng(3), (1, 6, 3)), np.array([[False, True, False, False, True, False]])
    y = Model(spec, weights, "float64").run({"x": x, "mask": mask})["rnn"][0]
    forward, reverse = y[:, :4], y[:, 4:]
    assert not forward[0].any() and not reverse[5].any()
    for step, source in ((2, 1), (3, 1), (5, 4)):
        assert_same_bits(forward[step], forward[source])
    for step, source in ((3, 4), (2, 4), (0, 1)):
        assert_same_bits(reverse[step], reverse[source])


def test_processing_order_is_time_turned_around():
    late, weights = layer("reverse", output_order="processing")
    plain, _ = layer("reverse")
    rng = np.random.default_rng(4)
    inputs = {"x": draw(rng, (3, 5, 3)), "mask": random_mask(rng, 3, 5)}
    a, b = (Model(spec, weights, "float64").run(inputs) for spec in (late, plain))
    assert_same_bits(a["rnn"], np.ascontiguousarray(b["rnn"][:, ::-1]))
    assert_same_bits(a["rnn.last"], b["rnn.last"])
    lengths = {"x": inputs["x"], "lengths": np.array([2, 5, 0])}
    a, b = (Model(spec, weights, "float64").run(lengths)["rnn"] for spec in (late, plain))
    assert_same_bits(a, np.ascontiguousarray(b[:, ::-1]))
    assert not a[0, :3].any() and a[0, 3:].any()


def test_a_row_without_valid_steps_keeps_its_state():
    spec, weights = layer("bidirectional")
    state = {f"rnn.{key}": draw(np.random.default_rng(5), (2, 2, 4)) for key in "hc"}
    x, mask = np.full((2, 3, 3), np.nan), np.zeros((2, 3), bool)
    found, after = Model(spec, weights, "float64").run({"x": x, "mask": mask}, state)
    assert not found["rnn"].any()
    assert_same_bits(after["rnn.h"], state["rnn.h"])
    assert_same_bits(found["rnn.last"], np.concatenate(list(state["rnn.h"]), axis=1))


def test_a_mask_that_the_graph_computes_is_cut_by_lengths():
    """So that predict may pad; ids of 0 inside a sequence are masked all the same."""
    model = keras.Sequential(
        [keras.Input((None,), dtype="int64"), layers.Embedding(6, 3, mask_zero=True), layers.LSTM(4)]
    )
    exported = from_keras(model)
    ours = Model(exported.spec, exported.weights)
    sequences = [np.array(ids) for ids in ([1, 0, 3, 2], [5], [0, 0], [4, 4, 4, 4, 4, 0])]
    for ids, found in zip(sequences, ours.predict(sequences), strict=True):
        assert_close(found, keras.ops.convert_to_numpy(model(ids[None]))[0], 1e-5)
    assert_close(ours([[1, 2, 3]], lengths=[2]), ours([[1, 2]]), 1e-6)


@pytest.mark.parametrize("first", ["Embedding", "Masking"])
def test_functional_models_hand_their_masks_on(first, tmp_path):
    x = keras.Input((8,), dtype="int64") if first == "Embedding" else keras.Input((8, 3))
    y = layers.Embedding(3, 3, mask_zero=True)(x) if first == "Embedding" else layers.Masking(0.5)(x)
    y = layers.LSTM(4, return_sequences=True)(layers.Dropout(0.5)(y))
    model = keras.Model(x, layers.Dense(2)(layers.Bidirectional(layers.GRU(3))(y)))
    model.save(tmp_path / "model.keras")
    rng = np.random.default_rng(6)
    example = rng.integers(0, 3, (4, 8))
    if first == "Masking":
        example = np.where(example[:, :, None] == 0, 0.5, rng.standard_normal((4, 8, 3)))
    for one in (model, keras.models.load_model(tmp_path / "model.keras")):
        exported = from_keras(one, example)
        found = Model(exported.spec, exported.weights).run(exported.test_pair.inputs)
        for name, expected in exported.test_pair.outputs.items():
            assert_close(found[name], expected, 1e-5, name)
        assert all(node.mask for node in exported.spec.recurrent)


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "lengths", "says"),
    [
        (np.ones((2, 4), bool), None, r"mask: shape \(2, 4\), expected \(B, T\)"),
        (np.ones((2, 3)), None, "mask: dtype float64, expected bool"),
        ([[1, 1, 0], [1, 1, 1]], None, "mask: dtype int64, expected bool"),
        (
            [[True, True, True], [True, False, True]],
            [3, 2],
            "mask and lengths contradict at row 1: mask 101, expected 2",
        ),
        (
            [[True, True, True], [True, True, False]],
            [3, 3],
            "mask and lengths contradict at row 1: mask 110, expected 3",
        ),
    ],
)
def test_wrong_masks(mask, lengths, says):
    spec, weights = layer()
    with pytest.raises(InputError, match=says):
        Model(spec, weights).run({"x": np.zeros((2, 3, 3), np.float32), "mask": mask, "lengths": lengths})


def test_a_model_without_a_mask_refuses_one():
    model = rnncore.export.from_gate_arrays({f"{w}_{k}": np.eye(2) for w in "WU" for k in "ifco"} | {
        f"b_{k}": np.zeros(2) for k in "ifco"}, names="W_{gate}", recurrent_names="U_{gate}")  # fmt: skip
    with pytest.raises(InputError, match="input 'mask' is unknown, expected x, lengths"):
        Model(*model)(np.zeros((1, 3, 2), np.float32), mask=np.ones((1, 3), bool))


X = Input("x", "float", ("B", "T", 3))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"output_order": "processing"}, "output_order='processing' with direction='forward' and 1 layers"),
        ({"output_order": "processing", "direction": "reverse", "layers": 2}, "one layer a node"),
        ({"output_order": "late"}, "output_order='late', expected one of 'time', 'processing'"),
        ({"masked_output": "keep"}, "masked_output='keep', expected one of 'repeat', 'zero'"),
        ({"mask": "x"}, r"mask 'x' is float \(B, T, 3\), expected bool \(B, T\)"),
        ({"mask": "marks"}, "reads 'marks'"),
    ],
)
def test_wrong_options(options, says):
    with pytest.raises(SpecError, match=says):
        Spec([X], [Recurrent("rnn", LSTM(3, 4), "x", **options)], "rnn")


def test_the_spec_declares_the_mask():
    spec, _ = layer("reverse", output_order="processing", masked_output="zero")
    assert spec.inputs[-1] == Input("mask", "bool", ("B", "T"), optional=True)
    assert Spec.from_json(spec.to_json()) == spec
    turned, _ = layer(layout="time_first")
    assert turned.inputs[-1].shape == ("T", "B")
    own = Spec([X, Input("mask", "bool", ("B", "T"))], [Recurrent("rnn", LSTM(3, 4), "x", mask="mask")], "rnn")
    assert not own.inputs[1].optional
    with pytest.raises(SpecError, match="which only lengths and masks may be"):
        Spec([X], [Recurrent("rnn", LSTM(3, 4), "x", mask="mask"), Node("not", "Not", "mask")], "not")


# --- the ops that masks are made of --------------------------------------------------------------------------------


def run_op(op, attributes, *arrays):
    """One op on its own, as a Model of float32."""
    dtypes = {"f": "float", "i": "int64", "b": "bool"}
    arrays = [np.asarray(array) for array in arrays]
    inputs = [
        Input(f"in{i}", dtypes[array.dtype.kind], tuple(f"d{i}{axis}" if size > 1 else 1 for axis, size in
        enumerate(array.shape))) for i, array in enumerate(arrays)
    ]  # fmt: skip
    spec = Spec(inputs, [Node("op", op, [entry.name for entry in inputs], attributes)], "op")
    given = {entry.name: array for entry, array in zip(inputs, arrays, strict=True)}
    return Model(spec, {}).run(given)["op"]


F = np.float32


@pytest.mark.parametrize(
    ("op", "attributes", "arrays", "expected"),
    [
        ("Equal", {}, [F([[0.1, 0.2, np.nan]]), F(0.1)], [[True, False, False]]),
        ("Equal", {}, [[[1, 2]], 2], [[False, True]]),
        ("Equal", {}, [F([[1, 2]]), F([[1, 3]])], [[True, False]]),
        ("Not", {}, [[True, False]], [False, True]),
        ("Where", {}, [[True, False], F([1, np.nan]), F(0)], F([1, 0])),
        ("Where", {}, [[True, False], F([1, np.nan]), F([np.inf, 2])], F([1, 2])),
        ("ReduceMin", {"axes": (-1,)}, [[[True, False], [True, True]]], [[False], [True]]),
        ("ReduceMin", {"axes": (0,), "keepdims": False}, [F([[3, 4], [5, 2]])], F([3, 2])),
        ("Squeeze", {"axes": (1,)}, [F([[1], [2]])], F([1, 2])),
        ("Gather", {"axis": 1, "indices": -1}, [F([[3, 4], [5, 2]])], F([4, 2])),
    ],
)
def test_ops(op, attributes, arrays, expected):
    assert_same_bits(run_op(op, attributes, *arrays), np.asarray(expected), op)


@pytest.mark.parametrize(
    ("op", "attributes", "arrays", "says"),
    [
        ("Equal", {}, [F([1, 2]), [1, 2]], "expected one dtype"),
        ("Not", {}, [F([1, 2])], "expected bool"),
        ("Where", {}, [F([1, 2]), F([1, 2]), F(0)], "condition is float"),
        ("Where", {}, [[True, False], F([1, 2]), [1, 2]], "expected one dtype"),
        ("ReduceMin", {"axes": (1,)}, [F([1, 2])], "axis=1"),
        ("ReduceMin", {"axes": 0}, [F([1, 2])], "axes=0, expected a list of integers"),
        ("ReduceMin", {"axes": (0,), "keepdims": 2}, [F([1, 2])], "keepdims=2, expected true or false"),
        ("Squeeze", {"axes": (1,)}, [F([1, 2])], "axis=1"),
        ("Gather", {"indices": 1.5}, [F([1, 2])], "indices=1.5, expected a list of integers"),
        ("Gather", {}, [F([1, 2])], "indices missing"),
    ],
)
def test_ops_refuse(op, attributes, arrays, says):
    with pytest.raises(SpecError, match=says):
        run_op(op, attributes, *arrays)


def test_gather_beyond_the_end():
    with pytest.raises(InputError, match=r"node 'op' \(Gather\)"):
        run_op("Gather", {"indices": 2}, F([1, 2]))
    with pytest.raises(InputError, match=r"node 'op' \(Squeeze\)"):
        run_op("Squeeze", {"axes": (0,)}, F([1, 2]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lengths_cut_a_mask_that_the_graph_computes(dtype):
    """A computed mask says nothing about padding: steps from the length on do not count, whatever it says."""
    spec = Spec(
        [Input("x", "float", ("B", "T", 2)), Input("flags", "int64", ("B", "T"))],
        [
            Node("zero", "Constant", (), {"dtype": "int64", "value": 0}),
            Node("off", "Equal", ("flags", "zero")),
            Node("keep", "Not", "off"),
            Recurrent("rnn", LSTM(2, 5), "x", mask="keep", masked_output="zero"),
        ],
        ["rnn", "rnn.h"],
    )
    rng = np.random.default_rng(8)
    model = Model(spec, {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}, dtype)
    x, flags, lengths = rng.standard_normal((3, 6, 2)).astype(dtype), np.ones((3, 6), np.int64), np.array([6, 3, 0])
    flags[0, 2] = flags[1, 1] = 0
    found = model.run({"x": x, "flags": flags, "lengths": lengths})
    by_hand = np.where(np.arange(6) < lengths[:, None], flags, 0)
    expected = model.run({"x": x, "flags": by_hand})
    for name in expected:
        assert found[name].tobytes() == expected[name].tobytes()
    assert not found["rnn"][1, 3:].any() and found["rnn"][1, 2].any()
