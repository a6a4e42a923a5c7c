"""A cell that is one class, without kernels, in every place where a recurrent layer may stand, against its own step."""

import json
import pickle

import numpy as np
import pytest
import random_networks
from agreement import TOLERANCES, assert_agrees, assert_close
from click.testing import CliRunner
from oracle import run_oracle
from own_cells import MGU, SLSTM
from random_networks import chance, draw, draw_weights, random_network, stack

import rnncore
from rnncore import AttentionDecoder, Budget, Engine, Input, Model, Node, Recurrent, Spec, StreamEngine
from rnncore.cells import CELLS, LSTM, Cell, register
from rnncore.cli.application import application
from rnncore.errors import SpecError

OWN = (MGU, SLSTM)
DTYPES = ("float32", "float64")


@pytest.fixture(autouse=True)
def registered():
    """One line makes a cell known; the other tests draw from those of the package."""
    for cell in OWN:
        register(cell)
    yield
    for cell in OWN:
        del CELLS[cell.kind]


def own_cell(rng, kind, input_size, hidden_size=None):
    sizes = input_size, hidden_size or int(rng.integers(1, 20))
    bias = chance(rng, 0.7)
    return MGU(*sizes, bias) if kind == "MGU" else SLSTM(*sizes, bias, scaled=chance(rng, 0.5))


def model_of(cell, dtype="float32", **options):
    """A Model of one node that gives all its values, and its weights."""
    spec = stack(cell, **options)
    weights = draw_weights(spec, np.random.default_rng(3))
    return Model(spec, weights, dtype), weights


def rows(batch, steps, size, seed=0):
    return draw(np.random.default_rng(seed), (batch, steps, size), 1.5)


@pytest.mark.parametrize("kind", ["MGU", "SLSTM"])
@pytest.mark.parametrize("seed", range(20))
def test_random_networks(kind, seed, monkeypatch):
    """Layers, directions and their cells, merges, layouts, lengths, embeddings, states from anywhere, both dtypes."""

    def drawn(rng, _=None, input_size=None, hidden_size=None):
        return own_cell(rng, kind, input_size, hidden_size)

    monkeypatch.setattr(random_networks, "random_cell", drawn)
    network = random_network(seed)
    model = Model(network.spec, network.weights, dtype=network.dtype)
    found, after = model.run(network.given, network.given_state)
    expected = run_oracle(network.spec, network.weights, network.inputs, network.state, everything=True)
    assert_agrees(found, {name: expected[name] for name in network.spec.outputs}, network.dtype, f"seed {seed}")
    assert_agrees(after, {name: expected[name] for name in after}, network.dtype, f"seed {seed}")


@pytest.mark.parametrize("cell", [MGU(4, 7), SLSTM(4, 7)], ids=["MGU", "SLSTM"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("masked_output", ["repeat", "zero"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_masks(cell, dtype, masked_output, direction):
    """Gaps and padding on both sides, rows without any step included."""
    options = {"merge": "average"} if direction == "bidirectional" else {}
    if direction == "reverse":
        options["output_order"] = "processing"
    node = Recurrent("r", cell, "x", direction=direction, mask="mask", masked_output=masked_output, **options)
    spec = Spec([Input("x", "float", ("B", "T", 4))], [node], ["r", "r.last", *(f"r.{key}" for key in cell.states)])
    weights = draw_weights(spec, np.random.default_rng(1))
    inputs = {"x": rows(5, 9, 4), "mask": np.random.default_rng(2).random((5, 9)) < 0.6}
    inputs["mask"][3] = False
    found = Model(spec, weights, dtype).run({**inputs, "x": inputs["x"].astype(dtype)})
    assert_agrees(found, run_oracle(spec, weights, inputs), dtype)


@pytest.mark.parametrize("cell", [MGU(4, 7), SLSTM(4, 7)], ids=["MGU", "SLSTM"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_streams_and_pools(cell, dtype):
    """In pieces of any length, saved and loaded on the way, alone or among others: as the whole sequence."""
    model, weights = model_of(cell, dtype, layers=2, lengths=None)
    x = rows(3, 12, 4)
    expected = run_oracle(model.spec, weights, {"x": x})["rnn"]
    x, tolerance = x.astype(dtype), TOLERANCES[dtype]
    with model.stream(3) as stream:
        parts = [stream.feed(x[:, :1])["rnn"], stream.feed(x[:, 1:6])["rnn"]]
        kept = stream.save()
    with model.stream(3) as stream:
        stream.load(kept)
        parts += [stream.feed(x[:, 6:])["rnn"]]
    assert_close(np.concatenate(parts, axis=1), expected, tolerance)
    pool = model.pool(3)
    for name in "abc":
        pool.open(name)
    first = pool.step({"a": x[0, :5], "c": x[2, :2]})
    kept, pool = pool.save_all(), model.pool(3)
    pool.load_all(kept)
    second = pool.step({"a": x[0, 5:], "b": x[1], "c": x[2, 2:]})
    for place, name in enumerate("abc"):
        pieces = [step[name]["rnn"] for step in (first, second) if name in step]
        assert_close(np.concatenate(pieces), expected[place], tolerance)


@pytest.mark.parametrize("cell", [MGU(4, 7), SLSTM(4, 7)], ids=["MGU", "SLSTM"])
def test_a_stream_that_reads_ahead(cell):
    """Blocks of a bidirectional stack whose look-ahead covers the rest are the whole sequence."""
    node = Recurrent("r", cell, "x", direction="bidirectional", lengths=None)
    spec = Spec([Input("x", "float", ("B", "T", 4))], [node], ["r"])
    weights = draw_weights(spec, np.random.default_rng(1))
    x = rows(2, 8, 4).astype(np.float32)
    with Model(spec, weights).stream(2, lookahead=8, block=8) as stream:
        found = np.concatenate([stream.feed(x[:, :3]), stream.feed(x[:, 3:]), stream.finish()], axis=1)
    assert_close(found, run_oracle(spec, weights, {"x": x})["r"], 1e-5)


@pytest.mark.parametrize("cell", [MGU(4, 7), SLSTM(4, 7)], ids=["MGU", "SLSTM"])
def test_engines(cell):
    """Ragged requests in one batch, and streams of an engine."""
    model, weights = model_of(cell)
    sequences = [rows(1, steps, 4, steps)[0] for steps in (3, 7, 5, 1)]
    expected = [run_oracle(model.spec, weights, {"x": x[None]})["rnn"][0] for x in sequences]
    with Engine(model) as engine:
        for future, one in zip([engine.submit(x[None]) for x in sequences], expected, strict=True):
            assert_close(future.result(10)["rnn"][0], one, 1e-5)
    for found, one in zip(model.predict(sequences), expected, strict=True):
        assert_close(found["rnn"], one, 1e-5)
    streamed, weights = model_of(cell, lengths=None)
    with StreamEngine(streamed.pool(2)) as engine:
        engine.open("a")
        parts = [engine.submit(part, stream="a").result(10)["rnn"] for part in (sequences[1][:4], sequences[1][4:])]
    assert_close(np.concatenate(parts), run_oracle(streamed.spec, weights, {"x": sequences[1][None]})["rnn"][0], 1e-5)


@pytest.mark.parametrize("cell", [MGU(4, 7, activations=("hard_sigmoid_fifth", "relu")), SLSTM(4, 7, scaled=False)])
def test_files(cell, tmp_path, monkeypatch):
    """JSON, our own file with its test pair, pickle, inspect; refused by name where its kind is unknown."""
    model, _ = model_of(cell, layers=2, direction="bidirectional")
    assert Spec.from_json(json.dumps(model.spec.to_json())) == model.spec
    x = rows(2, 5, 4).astype(np.float32)
    pair = rnncore.TestPair({"x": x}, model.run({"x": x}))
    path = rnncore.save(tmp_path / "own.safetensors", model, test_pair=pair)
    loaded = rnncore.load(path, check=True)
    for other in (loaded, pickle.loads(pickle.dumps(model))):
        for name, array in other.run({"x": x}).items():
            np.testing.assert_array_equal(array, model.run({"x": x})[name])
    done = CliRunner().invoke(application, ["inspect", str(path)], prog_name="rnncore")
    assert done.exit_code == 0 and cell.kind in done.output
    monkeypatch.delitem(CELLS, cell.kind)
    with pytest.raises(rnncore.errors.RnncoreError, match=f"cell kind '{cell.kind}' is unknown, expected one of GRU"):
        rnncore.load(path)
    register(type(cell))


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("kind", OWN, ids=["MGU", "SLSTM"])
def test_a_decoder_with_attention(kind, order):
    node = AttentionDecoder("d", kind(3 + 6, 8), "x", "memory", 6, "bahdanau", attention_size=5, order=order, layers=1)
    inputs = [Input("x", "float", ("B", "T", 3)), Input("memory", "float", ("B", "S", 6))]
    spec = Spec(inputs, [node], ["d", "d.context"])
    weights = draw_weights(spec, np.random.default_rng(1))
    given = {"x": rows(3, 5, 3), "memory": rows(3, 4, 6)}
    found = Model(spec, weights).run({name: array.astype(np.float32) for name, array in given.items()})
    assert_agrees(found, run_oracle(spec, weights, given), "float32")


def language_model(kind):
    nodes = [
        Node("e", "Embedding", "tokens", {"input_size": 11, "output_size": 5}),
        Recurrent("r", kind(5, 9), "e", layers=2, lengths=None),
        Node("head", "Linear", "r", {"input_size": 9, "output_size": 11}),
        Node("p", "LogSoftmax", "head"),
    ]
    spec = Spec([Input("tokens", "int64", ("B", "T"))], nodes, ["p"])
    return Model(spec, draw_weights(spec, np.random.default_rng(1)))


@pytest.mark.parametrize("kind", OWN, ids=["MGU", "SLSTM"])
def test_generating(kind):
    """Step by step, greedily and with beams: as the whole sequence scores."""
    model = language_model(kind)
    for beams in (1, 3):
        (found,) = model.generate([[1, 2, 3]], 6, beams=beams)
        scores = model(np.array([[1, 2, 3, *found.tokens]]))[0, 2:-1]
        np.testing.assert_allclose(found.log_probs, scores[np.arange(6), found.tokens], atol=1e-5)
        if beams == 1:
            assert found.tokens.tolist() == scores.argmax(axis=1).tolist()


@pytest.mark.parametrize("kind", OWN, ids=["MGU", "SLSTM"])
def test_budgets_and_branches(kind):
    """Counted like other layers, and run inside of a Loop."""
    cell = kind(4, 4)
    inner = Spec(
        [Input("i", "int64", ()), Input("go", "bool", ()), Input("h", "float", ("B", "T", 4))],
        [Recurrent("r", cell, "h", lengths=None)],
        ["go", "r"],
    )
    node = rnncore.Control("loop", "Loop", ("count", "", "x"), [inner])
    spec = Spec([Input("count", "int64", ()), Input("x", "float", ("B", "T", 4))], [node], ["loop"])
    weights = draw_weights(spec, np.random.default_rng(1))
    x = rows(2, 3, 4)
    found = Model(spec, weights).run({"count": np.int64(2), "x": x.astype(np.float32)})["loop"]
    own = {name.rpartition("r.")[2]: array for name, array in weights.items()}
    one = Spec([Input("x", "float", ("B", "T", 4))], [Recurrent("r", cell, "x", lengths=None)], ["r"])
    expected = x
    for _ in range(2):
        expected = run_oracle(one, {f"r.{name}": array for name, array in own.items()}, {"x": expected})["r"]
    assert_close(found, expected, 1e-5)
    model, weights = model_of(cell)
    limited = Model(model.spec, weights, budget=Budget(work=100))
    with pytest.raises(rnncore.InputError, match="operations after 0, expected at most 100"):
        limited(x.astype(np.float32))


class Wrong(MGU):
    kind = "Wrong"

    def step(self, w, x, state):
        return self.given(x, state)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (lambda x, state: state[0], "ndarray"),
        (lambda x, state: (), r"\[\]"),
        (lambda x, state: (state[0], state[0]), r"\[\(2, 7\), \(2, 7\)\]"),
        (lambda x, state: (state[0][:, :1],), r"\[\(2, 1\)\]"),
        (lambda x, state: (state[0][0],), r"\[\(7,\)\]"),
        (lambda x, state: None, "NoneType"),
    ],
)
def test_a_step_that_gives_something_else(given, found, monkeypatch):
    monkeypatch.setitem(CELLS, "Wrong", Wrong)
    monkeypatch.setattr(Wrong, "given", staticmethod(given), raising=False)
    model, _ = model_of(Wrong(4, 7))
    with pytest.raises(SpecError, match=rf"Wrong\.step gave {found}, expected a tuple of h of shapes \[\(2, 7\)\]"):
        model(rows(2, 3, 4).astype(np.float32))


def test_a_subclass_never_runs_on_the_kernels_of_its_parent():
    """Whatever its step says would be ignored."""

    class Other(LSTM):
        pass

    with pytest.raises(SpecError, match=r"cell of class Other, expected one of CELLS"):
        Recurrent("r", Other(3, 4), "x")
    with pytest.raises(SpecError, match=r"Other: kind 'LSTM' is that of rnncore\.cells\.lstm\.LSTM"):
        register(Other)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": None}, "kind=None, expected a name"),
        ({"kind": "two words"}, "kind='two words', expected a name"),
        ({"states": ("c", "h")}, "states=.*the output 'h' first"),
        ({"states": ["h"]}, "states=.*expected names"),
        ({"states": ("h", "h")}, "states="),
        ({"states": ("h", "last")}, "states="),
        ({"default_activations": None}, "default_activations=None, expected a tuple"),
    ],
)
def test_classes_that_cannot_be_registered(fields, message):
    with pytest.raises(SpecError, match=message):
        register(type("New", (MGU,), {"kind": "New", **fields}))
    with pytest.raises(SpecError, match="expected a subclass of Cell"):
        register(dict)
    assert "New" not in CELLS and issubclass(CELLS["MGU"], Cell)


@pytest.mark.parametrize("sizes", [{"h": 7}, {"c": 7, "h": 7}, {"h": 3, "c": 7}, {"h": 7, "c": 7, "n": 7}])
def test_states_without_sizes(sizes, monkeypatch):
    fields = {"kind": "New", "states": ("h", "c"), "state_sizes": property(lambda cell: sizes)}
    new = type("New", (MGU,), fields)
    monkeypatch.setitem(CELLS, "New", new)
    with pytest.raises(SpecError, match=r"New: state_sizes=.*, expected one for each of h, c, h of 7"):
        Recurrent("r", new(4, 7), "x")


def test_registering_twice_changes_nothing():
    assert register(MGU) is MGU and CELLS["MGU"] is MGU
