"""Encoder-decoders against PyTorch modules written by hand: teacher-forced, step by step, greedy; and the oracle."""

import json

import decoder_modules
import numpy as np
import pytest
import torch
from agreement import TOLERANCES, assert_agrees, assert_close
from decoder_modules import (
    LENGTHS,
    MODULES,
    START,
    WORDS,
    A,
    B,
    Bahdanau,
    Case,
    E,
    H,
    K,
    S,
    T,
    W,
    embedding,
    linear,
)
from oracle import run_oracle
from torch import nn

from rnncore.cells import GRU, LSTM, RNN
from rnncore.errors import InputError, SpecError, StateError, WeightError
from rnncore.formats.attention import swap_columns
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import AttentionDecoder, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model

DTYPES = sorted(TOLERANCES)


@pytest.fixture(params=list(MODULES))
def case(request):
    return Case(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
def test_teacher_forced(case, dtype):
    expected, after = case.expected()
    found, state = Model(case.spec, case.weights, dtype).run(case.inputs(case.tokens, dtype), case.started(dtype))
    assert_agrees(found, expected, dtype)
    assert_agrees(state, after, dtype)
    assert_agrees(
        run_oracle(case.spec, case.weights, case.inputs(case.tokens, "float64"), case.state), expected, "float64"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunks", [[1] * T, [2, 4], [5, 0, 1]])
def test_step_by_step_is_teacher_forced(case, chunks, dtype):
    model = Model(case.spec, case.weights, dtype)
    whole, end = model.run(case.inputs(case.tokens, dtype), case.started(dtype))
    state, outputs = case.started(dtype), []
    for tokens in np.split(case.tokens, np.cumsum(chunks)[:-1], axis=1):
        found, state = model.run(case.inputs(tokens, dtype), state)
        outputs.append(found)
    joined = {name: np.concatenate([found[name] for found in outputs], axis=1) for name in whole}
    for found, expected in ((joined, whole), (state, end)):
        for name, array in expected.items():
            assert_close(found[name], array, 1e-6, name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy(case, dtype):
    """The same words as torch, each step's best one being the next step's input."""
    tokens, state = torch.full((B, 1), START), case.start
    reference = []
    with torch.no_grad():
        for _ in range(20):
            logits, _, state = case.module(tokens, torch.from_numpy(case.memory), case.valid, state)
            tokens = logits.argmax(dim=2)
            reference.append(tokens.numpy())
    model, state, tokens, found = Model(case.spec, case.weights, dtype), case.started(dtype), np.full((B, 1), START), []
    for _ in range(20):
        outputs, state = model.run(case.inputs(tokens, dtype), state)
        tokens = outputs["out"].argmax(axis=2)
        found.append(tokens)
    np.testing.assert_array_equal(np.hstack(found), np.hstack(reference))


def test_states_of_rows_make_a_beam(case):
    """Rows of state and memory may be repeated and reordered between steps, as a beam search does."""
    model = Model(case.spec, case.weights, "float64")
    whole, _ = model.run(case.inputs(case.tokens, "float64"), case.started("float64"))
    _, state = model.run(case.inputs(case.tokens[:, :3], "float64"), case.started("float64"))
    pick = np.array([2, 2, 0, 1, 2])
    inputs = {name: array[pick] for name, array in case.inputs(case.tokens[:, 3:], "float64").items()}
    found, _ = model.run(inputs, state.rows(pick))
    for name, array in whole.items():
        assert_close(found[name], array[pick, 3:], 1e-12)


def test_json_and_pickle(case):
    assert Spec.from_json(json.dumps(case.spec.to_json())) == case.spec
    assert hash(case.spec) == hash(Spec.from_json(case.spec.to_json()))


# --- encoder and decoder in one graph ------------------------------------------------------------------------------


@pytest.fixture
def translator():
    return decoder_modules.translator()


@pytest.mark.parametrize("dtype", DTYPES)
def test_translator(translator, dtype):
    module, spec, weights, source, target = translator
    with torch.no_grad():
        logits, a = module(torch.from_numpy(source), torch.from_numpy(target))
    model = Model(spec, weights, dtype)
    inputs = {"words": source, "tokens": target, "lengths": LENGTHS}
    found = model.run(inputs)
    assert_agrees(found, {"out": logits.numpy(), "dec.weights": a.numpy()}, dtype)
    assert_agrees(found, run_oracle(spec, weights, inputs), dtype)
    # The encoder once, then the decoder alone, word by word: the second half of the graph with the same weights.
    nodes = [node for node in spec.nodes if node.name not in ("source", "encoder", "bridge", "bridge.tanh", "h0")]
    inputs = [
        Input("encoder", "float", ("B", "S", K)),
        Input("lengths", "int64", ("B",)),
        Input("h0", "float", (1, "B", H)),
        *(entry for entry in spec.inputs if entry.name in ("tokens", "target_lengths")),
    ]
    half = Spec(inputs, nodes, ["out"])
    step = Model(half, {name: weights[name] for name in half.weight_shapes()}, dtype)
    state, outputs = None, []
    for t in range(T):
        given = {"encoder": found["encoder"], "lengths": LENGTHS, "h0": found["h0"], "tokens": target[:, t : t + 1]}
        y, state = step.run(given, state)
        outputs.append(y["out"])
    assert_close(np.concatenate(outputs, axis=1), found["out"], 1e-6)
    assert_close(state["dec.h"], found["dec.h"], 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_translator_with_ragged_targets(translator, dtype):
    _, spec, weights, source, target = translator
    model = Model(spec, weights, dtype)
    for lengths in ([2, 6, 0], [6, 6, 6], [0, 0, 0]):
        inputs = {"words": source, "tokens": target, "lengths": LENGTHS, "target_lengths": np.array(lengths)}
        found = model.run(inputs)
        assert_agrees(found, run_oracle(spec, weights, inputs), dtype)
        for row, length in enumerate(lengths):
            one = {name: array[row : row + 1] for name, array in inputs.items() if name != "target_lengths"}
            alone = model.run({**one, "tokens": target[row : row + 1, :length]})
            assert_close(found["dec.weights"][row, :length], alone["dec.weights"][0], TOLERANCES[dtype])
            assert_close(found["dec.h"][:, row], alone["dec.h"][:, 0], TOLERANCES[dtype])
            assert not found["dec.weights"][row, length:].any()


# --- a feature vector starts a decoder -----------------------------------------------------------------------------


class Captioner(nn.Module):
    def __init__(self):
        super().__init__()
        self.init_h, self.init_c = nn.Linear(9, H), nn.Linear(9, H)
        self.embed, self.lstm, self.out = nn.Embedding(WORDS, E), nn.LSTM(E, H, batch_first=True), nn.Linear(H, WORDS)

    def start(self, features):
        return tuple(torch.tanh(layer(features)).unsqueeze(0) for layer in (self.init_h, self.init_c))

    def forward(self, tokens, state):
        y, state = self.lstm(self.embed(tokens), state)
        return self.out(y), state


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_to_many(dtype):
    torch.manual_seed(5)
    module = Captioner().double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.6)
    starts = [
        node
        for key in "hc"
        for node in (
            linear(f"init_{key}", "features", 9, H),
            Node(f"tanh_{key}", "Tanh", f"init_{key}"),
            Node(f"{key}0", "Unsqueeze", f"tanh_{key}", {"axes": [0]}),
        )
    ]
    nodes = [
        *starts,
        embedding("embed", "tokens"),
        Recurrent("lstm", LSTM(E, H), "embed", initial=("h0", "c0"), lengths=None),
        linear("out", "lstm", H, WORDS),
    ]
    spec = Spec([Input("features", "float", ("B", 9)), Input("tokens", "int64", ("B", "T"))], nodes, "out")
    weights = bind(spec, {name: tensor.numpy() for name, tensor in module.state_dict().items()}).weights
    model = Model(spec, weights, dtype)
    rng = np.random.default_rng(5)
    features, tokens = rng.standard_normal((B, 9)), rng.integers(0, WORDS, (B, T))
    with torch.no_grad():
        start = module.start(torch.from_numpy(features))
        expected, _ = module(torch.from_numpy(tokens), start)
    inputs = {"features": features.astype(dtype), "tokens": tokens}
    assert_agrees(model.run(inputs), {"out": expected.numpy()}, dtype)
    assert_close(run_oracle(spec, weights, inputs)["out"], expected.numpy(), TOLERANCES[dtype])
    state, outputs = None, []  # without a state the features start the decoder, with one it goes on
    for t in range(T):
        y, state = model.run({**inputs, "tokens": tokens[:, t : t + 1]}, state)
        outputs.append(y["out"])
    assert_close(np.concatenate(outputs, axis=1), expected.numpy(), 1e-5)
    words, after, reference, found, state = torch.full((B, 1), START), start, [], [], None
    now = words.numpy()
    for _ in range(15):
        with torch.no_grad():
            logits, after = module(words, after)
        words = logits.argmax(dim=2)
        reference.append(words.numpy())
        y, state = model.run({**inputs, "tokens": now}, state)
        now = y["out"].argmax(axis=2)
        found.append(now)
    np.testing.assert_array_equal(np.hstack(found), np.hstack(reference))


# --- every option against the oracle -------------------------------------------------------------------------------


def random_decoder(seed):
    """A decoder with random options, on inputs; its values are all outputs."""
    rng = np.random.default_rng(seed)

    def size():
        return int(rng.integers(1, 10))

    score = str(rng.choice(["bahdanau", "dot", "general", "concat"]))
    memory_size, hidden = size(), size()
    order = str(rng.choice(["before", "after"]))
    kind = rng.choice(["RNN", "GRU", "LSTM", "LSTMP"])
    options = {"order": order, "layers": int(rng.integers(1, 4))}
    if rng.random() < 0.5:
        options |= {"attentional_size": size(), "attentional_bias": bool(rng.random() < 0.5)}
    if score in ("bahdanau", "concat"):
        options |= {"attention_size": size(), "attention_bias": bool(rng.random() < 0.5)}
    output = max(hidden - 1, 1) if kind == "LSTMP" else hidden
    if score == "dot":
        memory_size = output
    x = size()
    fed = memory_size if order == "before" else options.get("attentional_size", memory_size)
    cells = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM, "LSTMP": lambda *of: LSTM(*of, projection=output, peephole=True)}
    cell = cells[kind](x + fed, hidden)
    inputs = [Input("x", "float", ("B", "T", x)), Input("memory", "float", ("B", "S", memory_size))]
    if score in ("bahdanau", "general") and rng.random() < 0.4:
        options |= {"keys": "keys", "attention_bias": False}
        inputs.append(Input("keys", "float", ("B", "S", options.get("attention_size", output))))
    mask = rng.choice(["none", "lengths", "mask"])
    if mask != "none":
        options["memory_mask"] = "m"
        inputs.append(Input("m", *(("int64", ("B",)) if mask == "lengths" else ("bool", ("B", "S"))), optional=True))
    if rng.random() < 0.5:
        options["lengths"] = "lengths"
    node = AttentionDecoder("dec", cell, "x", "memory", memory_size, score, **options)
    start = rng.choice(["zero", "graph", "graph and feed"])
    if start != "zero":
        shapes = list(node.state_shapes("B").items())
        shapes = shapes if start == "graph and feed" else shapes[: len(cell.states)]
        inputs += [Input(f"{key}0", "float", shape) for key, shape in shapes]
        options["initial"] = tuple(f"{key}0" for key, _ in shapes)
        node = AttentionDecoder("dec", cell, "x", "memory", memory_size, score, **options)
    values = [name for name in Spec(inputs, [node], "dec").values if name.startswith("dec")]
    spec = Spec(inputs, [node], values)
    sizes = {"B": int(rng.integers(0, 5)), "T": int(rng.integers(0, 6)), "S": int(rng.integers(0, 7))}
    arrays = {}
    for entry in spec.inputs:
        shape = [sizes.get(axis, axis) for axis in entry.shape]
        if entry.dtype == "float":
            arrays[entry.name] = rng.standard_normal(shape)
        elif entry.optional and rng.random() < 0.3:
            continue
        elif entry.dtype == "bool":
            arrays[entry.name] = rng.random(shape) < 0.6
        else:
            arrays[entry.name] = rng.integers(0, sizes["T" if entry.name == "lengths" else "S"] + 1, shape)
    weights = {name: rng.standard_normal(shape) * 0.6 for name, shape in spec.weight_shapes().items()}
    state = None
    if rng.random() < 0.4:
        shapes = node.state_shapes(sizes["B"])
        state = {f"dec.{key}": rng.standard_normal(shape) for key, shape in shapes.items()}
    return spec, weights, arrays, state


def cast(arrays, dtype):
    return {name: array.astype(dtype) if array.dtype.kind == "f" else array for name, array in arrays.items()}


@pytest.mark.parametrize("seed", range(120))
def test_random_decoders(seed):
    spec, weights, inputs, state = random_decoder(seed)
    assert Spec.from_json(json.dumps(spec.to_json())) == spec
    expected = run_oracle(spec, weights, inputs, state)
    for dtype in DTYPES:
        given = None if state is None else cast(state, dtype)
        found, after = Model(spec, weights, dtype).run(cast(inputs, dtype), given)
        assert_agrees(found, expected, dtype, f"seed {seed}")
        for name, array in after.items():
            np.testing.assert_array_equal(array, found[name])
            assert not np.shares_memory(array, found[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("seed", range(40))
def test_padding_does_not_matter(seed, bad):
    spec, weights, inputs, _ = random_decoder(seed)
    model = Model(spec, weights, "float64")
    expected = model.run(inputs)
    steps, places = inputs["x"].shape[1], inputs["memory"].shape[1]
    if "lengths" in inputs:
        inputs["x"][np.arange(steps) >= inputs["lengths"][:, None]] = bad
    if "m" in inputs:
        m = inputs["m"]
        invalid = ~m if m.dtype == bool else np.arange(places) >= m[:, None]
        for name in inputs.keys() & {"memory", "keys"}:
            inputs[name][invalid] = bad
    for name, array in model.run(inputs).items():
        np.testing.assert_array_equal(array, expected[name])


def test_keys_projected_in_the_graph():
    """A Linear of the memory in the encoder's graph saves the decoder that product in every call."""
    inputs = [Input("x", "float", ("B", "T", E)), Input("memory", "float", ("B", "S", K))]
    decoder = AttentionDecoder("dec", GRU(E + K, H), "x", "memory", K, "bahdanau", A, attention_bias=True)
    one = Spec(inputs, [decoder], ["dec", "dec.weights"])
    decoder = AttentionDecoder("dec", GRU(E + K, H), "x", "memory", K, "bahdanau", A, keys="keys")
    two = Spec(inputs, [linear("keys", "memory", K, A), decoder], ["dec", "dec.weights"])
    rng = np.random.default_rng(8)
    weights = {name: rng.standard_normal(shape) for name, shape in one.weight_shapes().items()}
    moved = {name.replace("dec.attention.key.", "keys."): array for name, array in weights.items()}
    given = {"x": rng.standard_normal((B, T, E)), "memory": rng.standard_normal((B, S, K))}
    assert_agrees(Model(two, moved, "float64").run(given), Model(one, weights, "float64").run(given), "float64")


def test_the_other_order_of_what_is_put_side_by_side():
    """[context; word] and [h; context], as some write them, are swap_columns away."""
    case = Case("luong")
    weights = dict(case.weights)
    w_ih, w_c = weights["dec.weight_ih_l0"], weights["dec.attentional.weight"]
    theirs = {"w_ih": np.hstack([w_ih[:, E:], w_ih[:, :E]]), "w_c": np.hstack([w_c[:, K:], w_c[:, :K]])}
    np.testing.assert_array_equal(swap_columns(theirs["w_ih"], W), w_ih)
    np.testing.assert_array_equal(swap_columns(theirs["w_c"], H), w_c)


# --- refused -------------------------------------------------------------------------------------------------------


def decoder_spec(shapes=(), **options):
    entries = {
        "x": ("float", ("B", "T", E)),
        "memory": ("float", ("B", "S", K)),
        "m": ("int64", ("B",)),
        "h0": ("float", (1, "B", H)),
        **dict(shapes),
    }
    node = {"cell": GRU(E + K, H), "input": "x", "memory": "memory", "memory_size": K, "attention": "bahdanau"}
    node |= {"attention_size": A, **options}
    inputs = [Input(name, *of) for name, of in entries.items()]
    return Spec(inputs, [AttentionDecoder("dec", **node)], "dec")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "cosine"}, "attention 'cosine' is unknown, expected one of bahdanau, dot, general, concat"),
        ({"attention": ["dot"]}, "is unknown"),
        ({"attention": "dot"}, "attention 'dot' with attention_size=5, expected that of bahdanau and concat only"),
        ({"attention": "dot", "attention_size": None}, "query size 6 and memory size 8 differ"),
        ({"attention_size": None}, "attention_size=None, expected a positive integer"),
        ({"attention": "general", "attention_size": None, "attention_bias": True}, "attention 'general' with a bias"),
        ({"memory_size": 7}, r"input 'x' is float \(B, T, 4\), expected float \(B, T, 5\)"),
        ({"memory_size": 0}, "memory_size=0, expected an integer from 1"),
        ({"memory_size": 20}, "cell: input_size=12, expected more than the 20 that are fed"),
        ({"order": "during"}, "order='during'"),
        ({"layers": 0}, "layers=0"),
        ({"cell": "GRU"}, "cell='GRU', expected a Cell"),
        ({"attentional_bias": True}, "attentional_bias without attentional_size"),
        ({"attentional_size": -1}, "attentional_size=-1"),
        ({"order": "after", "attentional_size": W}, r"input 'x' is float \(B, T, 4\), expected float \(B, T, 5\)"),
        ({"memory": "x"}, r"memory 'x' is float \(B, T, 4\), expected float \(B, Tk, 8\)"),
        ({"memory": "nothing"}, "reads 'nothing', which no input"),
        ({"memory_mask": "memory"}, r"memory_mask 'memory' is float \(B, S, 8\), expected int64 \(B\)"),
        ({"lengths": "x"}, r"lengths 'x' is float \(B, T, 4\), expected int64 \(B\)"),
        ({"keys": "x"}, r"keys 'x' is float \(B, T, 4\), expected float \(B, S, 5\)"),
        ({"keys": "x", "attention": "concat"}, "keys with attention='concat', expected bahdanau or general"),
        ({"keys": "x", "attention_bias": True}, "attention_bias with keys"),
        ({"initial": ("h0", "h0")}, "2 initial states, expected h"),
        ({"initial": ("m",)}, r"initial h 'm' is int64 \(B\), expected float \(1, B, 6\)"),
        ({"shapes": {"memory": ("float", (2, "S", K))}}, None),
        (
            {"shapes": {"memory": ("float", (2, "S", K)), "x": ("float", (3, "T", E))}},
            r"memory 'memory' is float \(2, S, 8\)",
        ),
    ],
)
def test_refused_specs(options, message):
    if message is None:
        decoder_spec(**options)
        return
    with pytest.raises(SpecError, match=message) as error:
        decoder_spec(**options)
    assert str(error.value).startswith("node 'dec'")


def test_unknown_keys_in_json():
    found = decoder_spec().to_json()
    found["nodes"][0]["input_feeding"] = True
    with pytest.raises(SpecError, match="node 'dec': unknown key 'input_feeding', expected attention, "):
        Spec.from_json(found)
    del found["nodes"][0]["input_feeding"], found["nodes"][0]["memory"]
    with pytest.raises(SpecError, match="node 'dec': key 'memory' missing"):
        Spec.from_json(found)


def test_refused_inputs():
    spec = decoder_spec(memory_mask="m", shapes={"memory": ("float", ("M", "S", K))})
    model = Model(spec, {name: np.zeros(shape) for name, shape in spec.weight_shapes().items()}, "float64")
    given = {"x": np.zeros((2, T, E)), "memory": np.zeros((2, S, K)), "m": np.array([1, 5]), "h0": np.zeros((1, 2, H))}
    model.run(given)
    for changes, message in (
        ({"m": np.array([1, 6])}, "node 'dec': memory_mask 'm': length 6 at row 1, expected 0 to 5"),
        ({"memory": np.zeros((1, S, K))}, "node 'dec': memory of 1 rows, expected 2, as 'x' has"),
        ({"memory": np.zeros((2, S, K + 1))}, "memory: shape"),
    ):
        with pytest.raises(InputError, match=message):
            model.run({**given, **changes})
    with pytest.raises(StateError, match=r"state dec.h: shape \(1, 3, 6\)"):
        model.run(given, {"dec.h": np.zeros((1, 3, H))})


def test_refused_lengths_keys_and_initial():
    entries = [
        Input("x", "float", ("B", "T", E)),
        Input("memory", "float", ("B", "S", K)),
        Input("keys", "float", ("C", "R", A)),
        Input("h0", "float", ("L", "N", H)),
    ]
    options = {"keys": "keys", "lengths": "lengths", "initial": ("h0",)}
    node = AttentionDecoder("dec", GRU(E + K, H), "x", "memory", K, "bahdanau", A, **options)
    spec = Spec(entries, [node], "dec")
    model = Model(spec, {name: np.zeros(shape) for name, shape in spec.weight_shapes().items()}, "float64")
    given = {
        "x": np.zeros((2, T, E)),
        "memory": np.zeros((2, S, K)),
        "keys": np.zeros((2, S, A)),
        "h0": np.zeros((1, 2, H)),
    }
    model.run(given)
    for changes, message in (
        ({"lengths": np.array([1, 7])}, "lengths: 7 at row 1, expected 0 to 6"),
        ({"keys": np.zeros((2, S + 1, A))}, r"node 'dec': keys 'keys' have shape \(2, 6, 5\), expected \(2, 5, 5\)"),
        ({"h0": np.zeros((2, 2, H))}, r"node 'dec': initial h has shape \(2, 2, 6\), expected \(1, 2, 6\)"),
    ):
        with pytest.raises(InputError, match=message):
            model.run({**given, **changes})


def test_unused_and_missing_tensors_are_named():
    nodes, tensors, names = Bahdanau().double().network()
    inputs = [Input("tokens", "int64", ("B", "T")), Input("memory", "float", ("B", "S", K))]
    spec = Spec([*inputs, Input("memory_lengths", "int64", ("B",))], nodes, "out")
    with pytest.raises(
        WeightError, match=r"gru.weight_ih_l1: shape .* no use for it .AttentionDecoder of GRU, layers=1"
    ):
        bind(spec, {**tensors, "gru.weight_ih_l1": np.zeros((18, 6))}, names)
    del names["dec.attention.query.weight"]
    with pytest.raises(WeightError, match=r"gru.attention.query.weight: missing"):
        bind(spec, tensors, names)
