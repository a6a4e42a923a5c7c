"""The boundary of a Model: what it accepts and refuses, and what it promises to leave alone."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from agreement import assert_agrees, assert_same_bits
from oracle import run_oracle
from random_networks import draw, draw_weights, random_network, seeds, stack
from yardstick import slowness

from rnncore.cells import GRU, LSTM, RNN
from rnncore.errors import InputError, RnncoreError, SpecError, StateError, WeightError
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.kernels import _recurrent
from rnncore.runtime.model import Model
from rnncore.runtime.state import State

# Sizes by the letters of the whole project: batch, time, input, hidden.
B, T, I, H = 3, 7, 5, 9  # noqa: E741
STACK = stack(LSTM(I, H), layers=2, direction="bidirectional")
SEQUENCE = Spec([Input("x", "float", ("B", "T", I))], [Recurrent("rnn", LSTM(I, H), "x", layers=2)], ["rnn"])
TAGGER = Spec(
    [Input("tokens", "int64", ("B", "T"))],
    [
        Node("embed", "Embedding", "tokens", {"input_size": 11, "output_size": 4}),
        Recurrent("rnn", GRU(4, 6), "embed", direction="bidirectional"),
        Node("tags", "Linear", "rnn", {"input_size": 12, "output_size": 3}),
        Node("label", "Linear", "rnn.last", {"input_size": 12, "output_size": 2}),
    ],
    ["tags", "label"],
)
ADDED = Spec(
    [Input("a", "float", ("B", "T", 4)), Input("b", "float", ("B", "T", 4))],
    [
        Node("sum", "Add", ("a", "b")),
        Recurrent("one", LSTM(4, 3), "sum"),
        Recurrent("two", GRU(3, 2), "one"),
    ],
    ["two"],
)


def model_of(spec, dtype="float32", seed=0):
    return Model(spec, draw_weights(spec, np.random.default_rng(seed)), dtype)


def sequences(*shape, dtype=np.float32, seed=1):
    return draw(np.random.default_rng(seed), shape).astype(dtype)


@pytest.fixture(scope="module")
def model():
    return model_of(SEQUENCE)


@pytest.fixture(scope="module")
def x():
    return sequences(B, T, I)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.zeros((T, I), np.float32), r"x: shape \(7, 5\), expected \(B, T, 5\) with 3 dimensions"),
        (np.zeros((1, B, T, I), np.float32), r"x: shape \(1, 3, 7, 5\), expected \(B, T, 5\)"),
        (np.float32(1), r"x: shape \(\), expected \(B, T, 5\)"),
        (5, r"x: shape \(\)"),
        (np.zeros((B, T, I + 1), np.float32), r"x: shape \(3, 7, 6\), expected \(B, T, 5\): dimension 2 is 6, not 5"),
        (np.zeros((B, T, 0), np.float32), "dimension 2 is 0, not 5"),
        (np.zeros((B, T, I), object), "x: dtype object, expected numbers"),
        (np.zeros((B, T, I), complex), "x: dtype complex128, expected numbers"),
        (np.zeros((B, T, I), "U3"), "x: dtype <U3, expected numbers"),
        (np.zeros((B, T, I), "S3"), "x: dtype .S3, expected numbers"),
        (np.zeros((B, T, I), "M8[s]"), "x: dtype datetime64"),
        (np.zeros((B, T, I), [("a", "f4")]), "x: dtype"),
        ("abc", "x: dtype <U3"),
        ([[[1.0] * I] * 3, [[1.0] * I] * 2], "x: .*"),
        ({"a": 1}, "x: dtype object"),
        (object(), "x: dtype object"),
        (None, r"input 'x' missing, expected float \(B, T, 5\)"),
    ],
)
def test_inputs_that_are_refused(model, given, says):
    with pytest.raises(InputError, match=says):
        model(given)


def test_ragged_arrays_get_a_hint(model):
    ragged = np.empty(2, object)
    ragged[:] = [np.zeros((3, I)), np.zeros((2, I))]
    with pytest.raises(InputError, match=r"rows of different lengths\? use model.predict, or pad and give lengths"):
        model(ragged)


@pytest.mark.parametrize(
    ("lengths", "says"),
    [
        ([T, -1, 2], "lengths: -1 at row 1, expected 0 to 7"),
        ([T, 0, T + 1], "lengths: 8 at row 2, expected 0 to 7"),
        ([1, 2], r"lengths: shape \(2,\), expected \(B,\): dimension 0 is 2, not B = 3"),
        ([[1, 2, 3]], r"lengths: shape \(1, 3\)"),
        (3, r"lengths: shape \(\)"),
        ([1.0, 2.0, 3.0], "lengths: dtype float64, expected int64"),
        ([True, True, False], "lengths: dtype bool, expected int64"),
        (["1", "2", "3"], "lengths: dtype <U1"),
        (np.array([1, 2, 2**63], np.uint64), "lengths: 9223372036854775808 does not fit into int64"),
        ([1, 2, None], "lengths: dtype object"),
        ([1, 2, 2**70], "lengths: "),
    ],
)
def test_lengths_that_are_refused(model, x, lengths, says):
    with pytest.raises(InputError, match=says):
        model(x, lengths=lengths)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, ">i4", np.int64])
def test_lengths_of_any_integer_dtype(model, x, dtype):
    assert_same_bits(model(x, lengths=np.array([7, 0, 3], dtype)), model(x, lengths=[7, 0, 3]))


def test_inputs_by_name(model, x):
    assert_same_bits(model.run({"x": x})["rnn"], model(x))
    assert_same_bits(model.run({"x": x, "lengths": None})["rnn"], model(x))
    for given, says in [
        ({}, "input 'x' missing"),
        ({"x": None}, "input 'x' missing"),
        ({"x": x, "y": x}, "input 'y' is unknown, expected x, lengths"),
        ({"X": x}, "input 'X' is unknown"),
        ([("x", x)], "inputs: list, expected a mapping"),
        (x, "inputs: ndarray, expected a mapping"),
    ]:
        with pytest.raises(InputError, match=says):
            model.run(given)


def test_a_model_of_two_inputs_is_called_by_name():
    model = model_of(ADDED)
    a = sequences(2, 4, 4)
    with pytest.raises(InputError, match=r"2 required inputs \(a, b\): use run"):
        model(a)
    with pytest.raises(InputError, match=r"b: shape \(2, 3, 4\), expected \(B, T, 4\): dimension 1 is 3, not T = 4"):
        model.run({"a": a, "b": a[:, :3]})
    with pytest.raises(InputError, match=r"b: shape \(1, 4, 4\), .*dimension 0 is 1, not B = 2"):
        model.run({"a": a, "b": a[:1]})
    expected = run_oracle(ADDED, model.weights, {"a": a, "b": a})
    assert_agrees(model.run({"a": a, "b": a}), expected, "float32")


def test_lengths_of_a_model_without_them(x):
    model = model_of(stack(LSTM(I, H), lengths=None))
    with pytest.raises(InputError, match="input 'lengths' is unknown, expected x"):
        model(x, lengths=[1, 2, 3])


def test_dtypes_and_weights_that_are_refused():
    weights = draw_weights(SEQUENCE, np.random.default_rng(0))
    for dtype in ("float16", "int64", None, "double", np.float16):
        with pytest.raises(SpecError, match="expected 'float32' or 'float64'"):
            Model(SEQUENCE, weights, dtype)
    with pytest.raises(WeightError, match=r"rnn\.bias_l1"):
        Model(SEQUENCE, {name: array for name, array in weights.items() if name != "rnn.bias_l1"})
    assert Model(SEQUENCE, dict(weights), np.dtype("float64")).dtype == "float64"


def test_weights_of_another_spec_are_refused():
    """A Weights object was checked against its own Spec, not against this one: kernels must not see it."""
    other = stack(LSTM(I, H + 1), layers=2)
    with pytest.raises(WeightError):
        Model(SEQUENCE, draw_weights(other, np.random.default_rng(0)))


# --- what is accepted ---------------------------------------------------------------------------------------------


def plain(array):
    return np.array(array, order="C")


def unaligned(array):
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    found = buffer[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    assert not found.flags.aligned
    return found


def in_records(array):
    """A field of packed records: strides that are no multiple of the item size."""
    found = np.zeros(array.shape, [("flag", "u1"), ("value", array.dtype)])["value"]
    found[...] = array
    return found


def read_only(array):
    found = array.copy()
    found.flags.writeable = False
    return found


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "time first in memory": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2],
    "every second step": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "every second feature": lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
    "part of a wider array": lambda a: np.pad(a, ((1, 1), (2, 2), (3, 3)), constant_values=np.nan)[1:-1, 2:-2, 3:-3],
    "rows backwards": lambda a: a[::-1].copy()[::-1],
    "steps backwards": lambda a: a[:, ::-1].copy()[:, ::-1],
    "features backwards": lambda a: a[:, :, ::-1].copy()[:, :, ::-1],
    "all backwards": lambda a: a[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": unaligned,
    "in records": in_records,
    "read-only": read_only,
    "a list": lambda a: a.tolist(),
    "a subclass": lambda a: a.view(np.ma.MaskedArray),
    "a memoryview": lambda a: memoryview(np.ascontiguousarray(a)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(B, T, I), (1, T, I), (B, 1, I), (B, T, 1), (1, 1, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_in_memory_does_not_matter(layout, shape, dtype):
    model = model_of(stack(LSTM(shape[2], H), direction="bidirectional"), dtype)
    x = sequences(*shape, dtype=dtype)
    lengths = np.arange(shape[0]) % (shape[1] + 1)
    for given in ({}, {"lengths": lengths}):
        expected = model.run({"x": plain(x), **given})
        found = model.run({"x": LAYOUTS[layout](x), **given})
        for name in expected:
            assert_same_bits(found[name], expected[name], name)


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"a list", "a memoryview"}))
def test_layout_of_a_state_does_not_matter(layout, x):
    model = model_of(STACK)
    state = {f"rnn.{key}": sequences(4, B, H, seed=seed) for key, seed in (("h", 2), ("c", 3))}
    expected, _ = model.run({"x": x}, state)
    found, _ = model.run({"x": x}, {name: LAYOUTS[layout](array) for name, array in state.items()})
    for name in expected:
        assert_same_bits(found[name], expected[name], name)


def test_broadcast_inputs(model, x):
    """A view with stride 0 is read like any other."""
    same = np.broadcast_to(x[:1], (B, T, I))
    assert_same_bits(model(same), model(plain(same)))
    constant = np.broadcast_to(x[:, :1, :1], (B, T, I))
    assert_same_bits(model(constant), model(plain(constant)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, np.bool_, np.float16])
def test_numbers_that_fit_are_cast_without_a_word(model, dtype):
    x = np.random.default_rng(1).integers(0, 2, (B, T, I)).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model(x)
    assert_same_bits(found, model(x.astype(np.float32)))


def test_float64_to_float32_warns_once_at_the_call(model, x):
    for run in (lambda: model(x.astype(np.float64)), lambda: model.run({"x": x.astype(np.float64)})["rnn"]):
        with pytest.warns(UserWarning, match="x: float64 given to a float32 model is cast") as caught:
            found = run()
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert_same_bits(found, model(x))


def test_float64_state_to_float32_warns_too(model, x):
    state = model.initial_state(B)
    wide = {name: array.astype(np.float64) for name, array in state.items()}
    with pytest.warns(UserWarning, match="state rnn.h: float64 given to a float32 model is cast") as caught:
        found, _ = model(x, wide)
    assert len(caught) == 2 and {warning.filename for warning in caught} == {__file__}
    assert_same_bits(found, model(x))


def test_no_warning_without_a_loss(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        model(x.tolist())
        model_of(SEQUENCE, "float64")(x)
        model_of(SEQUENCE, "float64")(x.astype(np.float64))


@pytest.mark.parametrize("shape", [(0, T), (B, 0), (0, 0)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_empty(shape, dtype):
    """No rows, or no steps: outputs of that size, and the state as it was."""
    model = model_of(STACK, dtype)
    x = np.zeros((*shape, I), dtype)
    state = {f"rnn.{key}": sequences(4, shape[0], H, dtype=dtype, seed=seed) for key, seed in (("h", 2), ("c", 3))}
    for given in ({}, {"lengths": np.zeros(shape[0], np.int64)}):
        outputs, after = model.run({"x": x, **given}, state)
        assert outputs["rnn"].shape == (*shape, 2 * H)
        assert outputs["rnn.last"].shape == (shape[0], 2 * H)
        for name, array in state.items():
            assert_same_bits(after[name], array, name)
            assert_same_bits(outputs[name], array, name)
        assert_same_bits(outputs["rnn.last"], np.concatenate(tuple(state["rnn.h"][-2:]), axis=1))


@pytest.mark.parametrize("spec", [TAGGER, ADDED])
def test_empty_graphs(spec):
    model = model_of(spec)
    for batch, steps in ((0, 4), (2, 0), (0, 0)):
        sizes = {"B": batch, "T": steps}
        given = {
            entry.name: np.zeros(
                [sizes.get(size, size) for size in entry.shape], np.int64 if entry.dtype == "int64" else np.float32
            )
            for entry in spec.inputs
            if not entry.optional
        }
        for name, array in model.run(given).items():
            assert array.shape == tuple(sizes.get(size, size) for size in spec.values[name].shape)


# --- NaN ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    "cell", [RNN(I, H), LSTM(I, H), LSTM(I, H, projection=4, peephole=True), GRU(I, H), GRU(I, H, reset_after=False)]
)
def test_nan_stays_in_its_row(cell, direction, dtype):
    spec = stack(cell, layers=2, direction=direction)
    model = model_of(spec, dtype)
    clean = sequences(6, T, I, dtype=dtype)
    expected = model.run({"x": clean})
    for row in range(6):
        dirty = clean.copy()
        dirty[row, 3] = np.nan
        found = model.run({"x": dirty})
        others = np.arange(6) != row
        for name, array in expected.items():
            axis = 0 if name in ("rnn", "rnn.last") else 1
            assert_same_bits(np.compress(others, found[name], axis), np.compress(others, array, axis), name)
            assert np.isnan(np.compress(~others, found[name], axis)).any(), name


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_padding_of_a_graph_is_not_read(poison):
    """Also where an op stands before the recurrent node, and without a warning."""
    spec = Spec(
        [Input("x", "float", ("B", "T", I))],
        [
            Node("front", "Linear", "x", {"input_size": I, "output_size": 4}),
            Node("relu", "Relu", "front"),
            Recurrent("rnn", LSTM(4, H), "relu", layers=2, direction="bidirectional"),
        ],
        ["rnn", "rnn.last", "rnn.c"],
    )
    model = model_of(spec)
    x, lengths = sequences(B, T, I), np.array([7, 0, 3])
    expected = model.run({"x": x, "lengths": lengths})
    dirty = np.where((np.arange(T) >= lengths[:, None])[..., None], np.float32(poison), x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.run({"x": dirty, "lengths": lengths})
    for name in expected:
        assert_same_bits(found[name], expected[name], name)


# --- states -------------------------------------------------------------------------------------------------------


def test_a_state_goes_in_and_comes_out(model, x):
    y, state = model(x, None)
    assert isinstance(state, State)
    assert list(state) == ["rnn.h", "rnn.c"]
    assert state.h.shape == state.c.shape == (2, B, H)
    assert (state.batch, state.nbytes) == (B, 2 * 2 * B * H * 4)
    assert_same_bits(y, model(x))
    expected, after = model(x, state)
    for given in (dict(state), (state.h, state.c), [state.h, state.c], state.copy(), pickle.loads(pickle.dumps(state))):
        found, end = model(x, given)
        assert_same_bits(found, expected)
        assert end == after


def test_one_array_is_the_state_of_a_cell_with_one(x):
    model = model_of(stack(GRU(I, H)))
    start = sequences(1, B, H, seed=4)
    found, _ = model.run({"x": x}, start)
    expected, _ = model.run({"x": x}, {"rnn.h": start})
    assert_same_bits(found["rnn"], expected["rnn"])
    (state,) = (model(x, None)[1],)
    with pytest.raises(StateError, match=r"state.c: 0 states of that letter"):
        _ = state.c


def test_initial_state_is_where_a_run_starts(x):
    for spec in (STACK, stack(LSTM(I, H), trained_state=True)):
        model = model_of(spec)
        expected = model.run({"x": x})
        found, _ = model.run({"x": x}, model.initial_state(B))
        for name in expected:
            assert_same_bits(found[name], expected[name], name)
        model.initial_state(B).h[...] = 5  # the caller's own
        assert_same_bits(model.run({"x": x})["rnn"], expected["rnn"])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: {**s, "rnn.h": s["rnn.h"][:1]}, r"state rnn.h: shape \(1, 3, 9\), expected \(2, 3, 9\)"),
        (lambda s: {**s, "rnn.c": s["rnn.c"][:, :2]}, r"state rnn.c: shape \(2, 2, 9\), expected \(2, 3, 9\)"),
        (lambda s: {**s, "rnn.c": s["rnn.c"][:, :, :8]}, r"state rnn.c: shape \(2, 3, 8\)"),
        (lambda s: {**s, "rnn.c": s["rnn.c"][0]}, r"state rnn.c: shape \(3, 9\)"),
        (lambda s: {**s, "rnn.h": s["rnn.h"].astype(complex)}, "state rnn.h: dtype complex128"),
        (lambda s: {**s, "rnn.h": s["rnn.h"].astype(object)}, "state rnn.h: dtype object"),
        (lambda s: {**s, "rnn.h": None}, "state rnn.h: dtype object"),
        (lambda s: {"rnn.h": s["rnn.h"]}, "state: rnn.h given, expected rnn.h, rnn.c"),
        (lambda s: {**s, "lstm.h": s["rnn.h"]}, "state: .*lstm.h given, expected rnn.h, rnn.c"),
        (lambda s: {}, "state: nothing given, expected rnn.h, rnn.c"),
        (lambda s: s["rnn.h"], "state: ndarray, expected a State with rnn.h, rnn.c"),
        (lambda s: (s["rnn.h"],), "state: tuple, expected a State with rnn.h, rnn.c"),
        (lambda s: (s["rnn.h"], s["rnn.c"], s["rnn.c"]), "state: tuple"),
        (lambda s: 5, "state: int, expected a State"),
    ],
)
def test_states_that_are_refused(model, x, change, says):
    with pytest.raises(StateError, match=says):
        model(x, change(model.initial_state(B)))


def test_a_state_of_two_nodes():
    model = model_of(ADDED)
    a = sequences(2, 4, 4)
    outputs, state = model.run({"a": a, "b": a}, None)
    assert list(state) == ["one.h", "one.c", "two.h"]
    assert_same_bits(state.c, state["one.c"])
    with pytest.raises(StateError, match=r"state\.h: 2 states of that letter, expected one; there are"):
        _ = state.h
    with pytest.raises(StateError, match=r"state: tuple, expected a State with one\.h, one\.c, two\.h"):
        model.run({"a": a, "b": a}, (state["one.h"], state["one.c"], state["two.h"]))
    half, middle = model.run({"a": a[:, :2], "b": a[:, :2]}, None)
    rest, end = model.run({"a": a[:, 2:], "b": a[:, 2:]}, middle)
    assert_agrees({"two": np.concatenate([half["two"], rest["two"]], axis=1)}, outputs, "float32")
    assert_agrees(dict(end), dict(state), "float32")


def test_copy_rows_equality_and_pickle_of_a_state(model, x):
    _, state = model(x, None)
    copied, pickled = state.copy(), pickle.loads(pickle.dumps(state))
    assert state == copied == pickled
    assert not any(np.shares_memory(copied[name], state[name]) for name in state)
    copied.h[0, 0, 0] += 1
    assert state != copied
    assert state != dict(state) and state != 5
    assert state != State({name: array.astype(np.float64) for name, array in state.items()})
    assert state != State({"rnn.h": state.h})
    assert state != state.rows([0, 1])
    nan = State({"rnn.h": np.array([[[np.nan]]])})
    assert nan == nan.copy()
    with pytest.raises(TypeError, match="unhashable"):
        hash(state)
    with pytest.raises(KeyError):
        _ = state["rnn.x"]

    for index in ([2, 0], slice(1, None), np.array([True, False, True]), [1]):
        part = state.rows(index)
        for name in state:
            assert_same_bits(part[name], plain(state[name][:, index]), name)
            assert not np.shares_memory(part[name], state[name])
    assert state.rows([]).batch == 0
    found, _ = model(x[[2, 0]], state.rows([2, 0]))
    expected, _ = model(x, state)
    np.testing.assert_allclose(found, expected[[2, 0]], atol=1e-6)


@pytest.mark.parametrize("layout", ["batch_first", "time_first"])
def test_the_batch_may_have_any_name(layout, x):
    """It is the recurrent node's layout that says which dimension is the batch."""
    axes = ("rows", "steps") if layout == "batch_first" else ("steps", "rows")
    node = Recurrent("rnn", LSTM(I, H), "x", layout=layout, lengths=None)
    model = model_of(Spec([Input("x", "float", (*axes, I))], [node], ["rnn"]))
    given = x if layout == "batch_first" else x.swapaxes(0, 1)
    _, state = model(given, None)
    assert state.h.shape == (1, B, H)
    y, _ = model(given, state)
    assert y.shape == (*given.shape[:2], H)


def test_a_model_without_recurrent_nodes_has_an_empty_state():
    spec = Spec([Input("x", "float", ("B", I))], [Node("l", "Linear", "x", {"input_size": I, "output_size": 2})], ["l"])
    model = model_of(spec)
    y, state = model(sequences(2, I), None)
    assert y.shape == (2, 2) and len(state) == 0 and state.batch == 0 and repr(state) == "<State: empty>"
    with pytest.raises(StateError, match=r"state: a\.h given"):
        model(sequences(2, I), {"a.h": np.zeros((1, 2, 3))})


# --- who owns what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(60))
def test_inputs_state_and_weights_are_left_alone_and_not_shared(seed):
    network = random_network(seed, batch=2 + seed % 2, steps=3)
    model = Model(network.spec, network.weights, network.dtype)
    given, state = network.given, network.given_state
    before = pickle.dumps((given, state, dict(network.weights)))
    for start in (None, state):
        outputs, after = model.run(given, start)
        again = pickle.dumps(outputs)
        theirs = [*given.values(), *(state or {}).values(), *network.weights.values()]
        for name, array in outputs.items():
            assert not any(np.may_share_memory(array, other) for other in (*theirs, *after.values())), name
            assert array.flags.writeable
        for name, array in after.items():
            assert not any(np.may_share_memory(array, other) for other in theirs), name
        for array in (*outputs.values(), *after.values()):
            array[...] = np.nan
        assert pickle.dumps((given, state, dict(network.weights))) == before
        assert pickle.dumps(model.run(given, start)[0]) == again


def test_an_input_that_is_an_output_is_a_copy(x):
    """Or the caller's later writes would change a result, and writes to the result the caller's array."""
    spec = Spec(SEQUENCE.inputs, SEQUENCE.nodes, ["x", "rnn"])
    given = x.copy()
    outputs = model_of(spec).run({"x": given})
    assert not np.shares_memory(outputs["x"], given)
    assert_same_bits(outputs["x"], x)


def test_two_outputs_of_one_model_share_no_memory(x):
    spec = Spec(
        [Input("x", "float", ("B", "T", I))], [Recurrent("rnn", LSTM(I, H), "x")], ["rnn", "rnn.last", "rnn.h", "rnn.c"]
    )
    arrays = list(model_of(spec).run({"x": x}).values())
    for i, array in enumerate(arrays):
        assert not any(np.may_share_memory(array, other) for other in arrays[:i])


def test_a_model_pickles(x):
    for dtype in ("float32", "float64"):
        model = model_of(STACK, dtype)
        again = pickle.loads(pickle.dumps(model))
        assert again.spec == model.spec and again.dtype == model.dtype
        for name, array in model.run({"x": x.astype(dtype)}).items():
            assert_same_bits(again.run({"x": x.astype(dtype)})[name], array, name)


def test_a_model_describes_itself(model):
    assert [entry.name for entry in model.inputs] == ["x", "lengths"]
    assert model.outputs == (Input("rnn", "float", ("B", "T", H)),)
    assert repr(model) == (
        "<Model x: float (B, T, 5), lengths: int64 (B) -> rnn: float (B, T, 9); 1,224 parameters, float32>"
    )
    for name in ("spec", "weights", "dtype", "inputs", "outputs"):
        with pytest.raises(AttributeError):
            setattr(model, name, None)


def test_threads_share_a_model():
    """Eight threads, each with its own inputs of its own sizes and states, get what they would get alone."""
    model = model_of(STACK)
    rng = np.random.default_rng(5)
    jobs = []
    for index in range(8):
        batch, steps = int(rng.integers(1, 9)), int(rng.integers(1, 40))
        x, lengths = sequences(batch, steps, I, seed=index), rng.integers(0, steps + 1, batch)
        state = {f"rnn.{key}": sequences(4, batch, H, seed=seed + index) for key, seed in (("h", 50), ("c", 90))}
        jobs.append(
            ({"x": x, "lengths": lengths}, state, pickle.dumps(model.run({"x": x, "lengths": lengths}, state)[0]))
        )
    wrong = []
    start = threading.Barrier(8)

    def work(job):
        inputs, state, expected = jobs[job]
        start.wait()
        for _ in range(150):
            if pickle.dumps(model.run(inputs, state)[0]) != expected:
                wrong.append(job)

    threads = [threading.Thread(target=work, args=(job,)) for job in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- ids, several outputs, predict --------------------------------------------------------------------------------


def test_ids(x):
    model = model_of(TAGGER)
    ids = np.random.default_rng(2).integers(0, 11, (B, T))
    outputs = model(ids)
    assert set(outputs) == {"tags", "label"}
    assert_agrees(outputs, run_oracle(TAGGER, model.weights, {"tokens": ids}), "float32")
    for given in (ids.astype(np.int8), ids.astype(np.uint16), ids.tolist(), ids.astype(">i8"), np.asfortranarray(ids)):
        for name, array in model(given).items():
            assert_same_bits(array, outputs[name], name)
    for wrong, says in [
        (np.where(ids == ids[1, 2], 11, ids), r"node 'embed' \(Embedding\): id 11 at \[\d, \d\], expected 0 to 10"),
        (ids - ids[1, 2] - 1, r"node 'embed' \(Embedding\): id -\d+ at"),
        (ids.astype(np.float32), "tokens: dtype float32, expected int64"),
        (ids > 5, "tokens: dtype bool, expected int64"),
        (ids[0], r"tokens: shape \(7,\), expected \(B, T\)"),
    ]:
        with pytest.raises(InputError, match=says):
            model(wrong)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 1000])
@pytest.mark.parametrize("spec", [SEQUENCE, TAGGER], ids=["sequence", "tagger"])
def test_predict_is_each_sequence_alone_in_order(spec, batch_size):
    model = model_of(spec)
    rng = np.random.default_rng(3)
    lengths = [4, 0, 9, 1, 1, 7, 30, 2, 0, 9]
    ragged = [rng.integers(0, 11, n) if spec is TAGGER else sequences(n, I, seed=n + 40) for n in lengths]
    calls = []
    found = model.predict(iter(ragged), batch_size, lambda done, of: calls.append((done, of)))
    assert len(found) == 10
    for one, given in zip(found, ragged, strict=True):
        alone = model(given[None])
        alone = alone if isinstance(alone, dict) else {"rnn": alone}
        one = one if isinstance(one, dict) else {"rnn": one}
        assert_agrees(one, {name: array[0] for name, array in alone.items()}, "float32", f"length {len(given)}")
        assert all(array.base is None for array in one.values())
    assert calls == [(min(done + batch_size, 10), 10) for done in range(0, 10, batch_size)]


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_predict_where_time_comes_first(direction):
    """The input, and each output wherever its dimensions stand."""
    nodes = [
        Recurrent("r", LSTM(I, H), "x", direction=direction, layout="time_first"),
        Node("channels", "Transpose", "r", {"perm": (1, 2, 0)}),
    ]
    model = model_of(Spec([Input("x", "float", ("T", "B", I))], nodes, ["r", "r.last", "r.c", "channels"]))
    ragged = [sequences(n, I, seed=n) for n in (4, 1, 9, 3)]
    for one, given in zip(model.predict(ragged, 3), ragged, strict=True):
        alone = model.run({"x": given[:, None]})
        expected = {"r": alone["r"][:, 0], "r.last": alone["r.last"][0], "r.c": alone["r.c"][:, 0]}
        assert_agrees(one, {**expected, "channels": alone["channels"][0]}, "float32")
    with pytest.raises(InputError, match="expected one width"):
        model.predict([np.zeros((3, I)), np.zeros((2, I + 1))])


def test_predict_of_nothing(model):
    calls = []
    assert model.predict([], progress=lambda *at: calls.append(at)) == []
    assert calls == []
    assert model.predict([np.zeros((0, I), np.float32)])[0].shape == (0, H)


@pytest.mark.parametrize(
    ("ragged", "options", "says"),
    [
        ([np.zeros((3, I)), np.zeros(I)], {}, r"sequence 1: shape \(5,\), expected 2 dimensions"),
        ([np.zeros((3, I)), np.zeros((3, I + 1))], {}, "expected one width"),
        ([np.zeros((3, I + 1))], {}, "dimension 2 is 6, not 5"),
        ([np.zeros((3, I), complex)], {}, "dtype complex128"),
        ([np.zeros((3, I), object)], {}, "dtype object"),
        ([[[1.0] * I, [1.0]]], {}, "sequence 0"),
        ([np.zeros((3, I))], {"batch_size": 0}, "batch_size=0, expected a positive integer"),
        ([np.zeros((3, I))], {"batch_size": True}, "batch_size=True"),
        ([np.zeros((3, I))], {"batch_size": 2.0}, "batch_size=2.0"),
    ],
)
def test_what_predict_refuses(model, ragged, options, says):
    with pytest.raises(InputError, match=says):
        model.predict(ragged, **options)


def test_predict_of_ids_refuses_floats():
    with pytest.raises(InputError, match="tokens: dtype float64, expected int64"):
        model_of(TAGGER).predict([np.zeros(3)])


def test_models_that_predict_cannot_run():
    fixed = Spec([Input("x", "float", ("B", 4, I))], [Recurrent("r", LSTM(I, H), "x")], ["r"])
    last = Spec(
        [Input("x", "float", ("T", I, "B"))],
        [
            Node("turned", "Transpose", "x", {"perm": (2, 0, 1)}),
            Recurrent("r", LSTM(I, H), "turned"),
        ],
        ["r"],
    )
    linear = Spec(
        [Input("x", "float", ("B", I))], [Node("l", "Linear", "x", {"input_size": I, "output_size": 2})], ["l"]
    )
    for spec, says in [
        (ADDED, "one required input and lengths; this one has a, b, lengths"),
        (linear, "one required input and lengths"),
        (stack(LSTM(I, H), lengths=None), "one required input and lengths"),
        (fixed, "a time dimension of free size"),
        (last, "the lengths' dimension 'B' first or second"),
    ]:
        with pytest.raises(InputError, match=says):
            model_of(spec).predict([np.zeros((3, I), np.float32)] * 3)


def test_every_error_is_a_rnncore_error_and_a_value_error(model):
    for error in (InputError, StateError, SpecError, WeightError):
        assert issubclass(error, RnncoreError) and issubclass(error, ValueError)
    with pytest.raises(ValueError, match="x: shape"):
        model(np.zeros(3, np.float32))


# --- the process --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_many_rows(bias, dtype):
    """What is done part by part, so that a signal may end it."""
    attributes = {"input_size": 300, "output_size": 500, "bias": bias}
    spec = Spec([Input("x", "float", ("A", "B", 300))], [Node("y", "Linear", "x", attributes)], ["y"])
    rng = np.random.default_rng(0)
    weights = {name: rng.uniform(-0.1, 0.1, shape) for name, shape in spec.weight_shapes().items()}
    x = rng.standard_normal((3, 1001, 300))
    expected = np.einsum("abi,oi->abo", x, weights["y.weight"], optimize=True) + weights.get("y.bias", 0)
    model = Model(spec, weights, dtype)
    found = model(x.astype(dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "float32" else 1e-12)


HEAD = """
import os, signal, sys, threading, time
import numpy as np
from rnncore.cells import LSTM, GRU
from rnncore.runtime.model import Model
from rnncore.graph.nodes import Input, Recurrent
from rnncore.graph.spec import Spec

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it

def network(cell, dtype="float32", num_threads=None, **options):
    spec = Spec([Input("x", "float", ("B", "T", cell.input_size))], [Recurrent("rnn", cell, "x", **options)], ["rnn"])
    rng = np.random.default_rng(0)
    weights = {k: rng.uniform(-0.2, 0.2, v).astype(dtype) for k, v in spec.weight_shapes().items()}
    return Model(spec, weights, dtype, num_threads)
"""


def python(code, *arguments, **options):
    """A fresh interpreter that runs HEAD and then the code, with this rnncore on its path."""
    path = str(Path(sys.modules["rnncore"].__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", HEAD + textwrap.dedent(code), *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process, seconds=280):
    """The output of a process that has to end well; killed if it hangs."""
    try:
        output, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        pytest.fail(f"hangs after {output!r}\n{errors}")
    assert process.returncode == 0, f"{output}\n{errors}"
    return output


LONG_CALLS = {
    "one row": ("GRU(64, 96)", (1, 3_000_000, 64), "float32"),
    "a batch": ("LSTM(128, 512)", (64, 6_000, 128), "float32"),
    "wide and deep": ("LSTM(256, 1024), layers=3", (8, 20_000, 256), "float64"),
    "layers side by side": ("LSTM(16, 32), layers=3, num_threads=2", (1, 3_000_000, 16), "float32"),
}


@pytest.mark.parametrize("call", LONG_CALLS)
def test_interrupt_ends_a_long_call(call):
    """SIGINT during a call of minutes: KeyboardInterrupt soon after, and the model still works.

    On the clock of the wall, since the threads of a call spend CPU time together; so the quickest of three counts.
    """
    for _ in range(3):
        late = interrupted(*LONG_CALLS[call])
        if late < 1.0 * slowness(wall=True):
            return
    pytest.fail(f"{late:.2f} s after the signal, expected less than 1 of a normal machine")


def interrupted(cell, shape, dtype):
    """Seconds from a signal to its KeyboardInterrupt."""
    process = python(f"""
        model = network({cell.replace(")", "), dtype=" + repr(dtype), 1)})
        x = np.broadcast_to(np.ones({shape[2]}, "{dtype}"), {shape})
        small = np.ones((1, 2, {shape[2]}), "{dtype}")
        expected = model(small)
        print("running", flush=True)
        try:
            model(x)
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
            assert (model(small) == expected).all()
            assert (np.full(64, 1e-38, "float32") / np.float32(10)).all(), "subnormals are flushed after an interrupt"
        else:
            print("finished before the signal", flush=True)
    """)
    assert process.stdout.readline() == "running\n"
    time.sleep(0.7)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    answered = finish(process).strip()
    assert answered != "finished before the signal"
    return float(answered) - sent


SHORT_SEQUENCES = {
    "fused": ("network(LSTM(64, 128))", (2_000_000, 2, 64)),
    "stacked": ("network(LSTM(64, 96), layers=2, direction='bidirectional')", (1_000_000, 2, 64)),
    "small": ("network(RNN(1, 1))", (40_000_000, 4, 1)),
    "layer norm": ("network(LSTM(2, 3, layer_norm='tf1'))", (20_000_000, 3, 2)),
    "linear": ("linear(512)", (3_000_000, 512)),
    "in float64": ("network(LSTM(64, 128), 'float64')", (1_000_000, 2, 64)),
    "linear in float64": ("linear(512, 'float64')", (1_500_000, 512)),
}


@pytest.mark.parametrize("call", SHORT_SEQUENCES)
def test_interrupt_ends_a_call_of_many_rows(call):
    """Many rows of few steps, each block of them soon done: the handler runs within 200 ms all the same.

    Of CPU time, whose timer it is: other programs take none of it.
    """
    model, shape = SHORT_SEQUENCES[call]
    process = python(f"""
        from rnncore.cells import RNN
        from rnncore.graph.nodes import Node
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before SciPy's is loaded: its threads spend CPU time too
        def linear(size, dtype="float32"):
            node = Node("linear", "Linear", "x", {{"input_size": size, "output_size": size}})
            spec = Spec([Input("x", "float", ("B", size))], [node], ["linear"])
            return Model(spec, {{k: np.ones(v, dtype) for k, v in spec.weight_shapes().items()}}, dtype)
        model = {model}
        x = np.zeros({shape}, model.dtype)
        late = []
        def interrupt(*_):
            late.append(time.process_time())
            raise KeyboardInterrupt
        signal.signal(signal.SIGPROF, interrupt)
        for wait in (0.3, 0.45):
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, wait)
            try:
                model(x, num_threads=1)
            except KeyboardInterrupt:
                late[-1] -= start + wait
            else:
                raise AssertionError("finished before the signal")
        print(min(late))
    """)
    assert float(finish(process)) < 0.2 * slowness()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_signal_handler_may_call_models(threads):
    """A handler in the middle of a call runs the same model: neither disturbs the other."""
    process = python(f"""
        model = network(LSTM(64, 128))
        draw = np.random.default_rng(1).standard_normal
        x, small = draw((16, 8000, 64)).astype("float32"), draw((300, 5, 64)).astype("float32")
        expected, expected_small = model(x, num_threads={threads}), model(small)
        calls = []
        def handler(*_):
            calls.append((model(small) == expected_small).all())
            signal.setitimer(signal.ITIMER_REAL, 0.02)  # the next one: a handler that takes longer is not interrupted
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        found = model(x, num_threads={threads})
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(calls) > 2 and all(calls) and (found == expected).all())
    """)
    assert finish(process).strip() == "True"


@pytest.mark.parametrize("call", ["LSTM(32, 512), (1, 300_000, 32)", "GRU(32, 512), (3, 100_000, 32)"])
def test_interrupts_with_more_threads_than_cores(call):
    """A thread may be a step behind the one that sees the signal: all of them have to stop after the same step."""
    process = python(f"""
        cell, shape = {call}
        model = network(cell, num_threads=min(64, 2 * os.cpu_count() + 1))
        x = np.broadcast_to(np.ones(shape[-1], "float32"), shape)
        expected = model(x[:, :2])
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        for i in range(25):
            signal.setitimer(signal.ITIMER_REAL, 0.03 + 0.002 * i)
            try:
                model(x)
            except KeyboardInterrupt:
                assert (model(x[:, :2]) == expected).all()
            else:
                raise AssertionError("finished before the signal")
    """)
    finish(process)


def test_fork_after_use():
    """A child made by fork runs the model and ends, whatever threads the parent's call had used."""
    process = python("""
        model = network(LSTM(64, 128), layers=2)
        x = np.random.default_rng(1).standard_normal((64, 50, 64)).astype("float32")
        expected = model(x).tobytes()
        for _ in range(3):
            child = os.fork()
            if child == 0:
                os._exit(0 if model(x).tobytes() == expected else 1)
            assert model(x).tobytes() == expected
            _, status = os.waitpid(child, 0)
            assert status == 0, status
    """)
    finish(process)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method, tmp_path):
    """A Model goes to worker processes by pickle, and gives the same bits there."""
    script = tmp_path / "work.py"
    body = """
        import multiprocessing
        def work(job):
            model, x = job
            return model(x).tobytes()
        if __name__ == "__main__":
            model = network(GRU(8, 16))
            xs = [np.random.default_rng(i).standard_normal((2, 5, 8)).astype("float32") for i in range(4)]
            with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
                found = pool.map(work, [(model, x) for x in xs])
            assert found == [model(x).tobytes() for x in xs]
    """
    script.write_text(HEAD + textwrap.dedent(body), encoding="utf-8")
    path = str(Path(sys.modules["rnncore"].__file__).parents[1])
    command = [sys.executable, str(script), method]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    finish(process)


def test_floating_point_environment_is_left_alone():
    """MXCSR by what it does: subnormals, rounding and the sticky flags, before import, after it and after a call."""
    process = python("""
        tiny = np.full(64, 1e-38, "float32")
        def environment():
            ten = np.full(64, 10, "float32")
            halves = np.full(64, 2.0**-24, "float32")
            with np.errstate(all="ignore"):
                return (
                    (tiny / ten).tobytes(), (np.sqrt(tiny / ten)).tobytes(), (tiny / ten + tiny).tobytes(),
                    (np.ones(64, "float32") + halves).tobytes(), (-np.ones(64, "float32") - halves).tobytes(),
                    (np.full(64, 5e-324) * 1).tobytes(), (np.full(64, 1.0) / 3).tobytes(),
                )
        def flags():
            raised = []
            for what, a, b in (("under", 1e-38, 1e-38), ("over", 1e38, 1e38)):
                try:
                    with np.errstate(**{what: "raise"}):
                        np.full(64, a, "float32") * np.full(64, b, "float32")
                except FloatingPointError:
                    raised.append(what)
            return raised
        before = environment()
        assert np.frombuffer(before[0], "float32").all(), "subnormals are flushed without any call"
        assert flags() == ["under", "over"]
        for dtype in ("float32", "float64"):
            model = network(LSTM(8, 16, peephole=True), dtype, layers=2, direction="bidirectional")
            for scale in (1.0, 1e-40, 1e30, float("nan")):
                model(np.full((3, 40, 8), scale, dtype))
                assert environment() == before
                assert flags() == ["under", "over"]
    """)
    finish(process)


def test_floating_point_environment_is_left_alone_by_import():
    """The same without anything of rnncore imported before the first look."""
    code = """
        import numpy as np
        def look():
            tiny = np.full(64, 1e-38, "float32") / np.full(64, 10, "float32")
            return tiny.tobytes(), (np.ones(64, "float32") + np.full(64, 2.0**-24, "float32")).tobytes()
        before = look()
        assert np.frombuffer(before[0], "float32").all()
        import rnncore, rnncore.kernels._blas_loop, rnncore.kernels._blas
        assert look() == before
    """
    path = str(Path(sys.modules["rnncore"].__file__).parents[1])
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "PYTHONPATH": path}, check=True)


def test_a_call_is_its_class_s_method(monkeypatch):
    """The short way of a plain call gives what the method gives, and does not stand in the way of another method."""
    model, x = model_of(SEQUENCE), sequences(2, T, I)
    expected = Model.__call__(model, x)
    assert_same_bits(model(x), expected)
    assert_same_bits(model(x=x), expected)
    with pytest.raises(TypeError):
        model()
    with pytest.raises(TypeError):
        model(x, stat=None)
    with pytest.raises(InputError):
        model(x[..., :-1])

    class Named(Model):
        def __call__(self, x, suffix):
            return super().__call__(x), suffix

    found, suffix = Named(model.spec, model.weights)(x, "a")
    assert suffix == "a"
    assert_same_bits(found, expected)
    monkeypatch.setattr(Model, "__call__", lambda self, x: "patched")
    assert model(x) == "patched"
    monkeypatch.undo()
    assert_same_bits(model(x), expected)
    for _ in range(2):
        _recurrent.call_direct_first(Model)  # which the other method has undone
        assert_same_bits(model(x), expected)
