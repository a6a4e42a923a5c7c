"""generate and score for models with layers that keep steps, beside the whole sequence run again for each token."""

import numpy as np
import pytest
from stream_models import equal

from rnncore import Input, Model, Node, Recurrent, Spec, UnsupportedError
from rnncore.cells import GRU, LSTM
from rnncore.decode import PrefixCache

RNG = np.random.default_rng(11)
V, E, H = 13, 6, 8


def model_of(nodes, outputs=("out",), more=()):
    inputs = [Input("tokens", "int64", ("B", "T")), *more]
    spec = Spec(inputs, [Node("embed", "Embedding", "tokens", {"input_size": V, "output_size": E}), *nodes], outputs)
    weights = {name: RNG.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    return Model(spec, weights)


def head(source, size=H):
    return Node("out", "Linear", source, {"input_size": size, "output_size": V})


def conv(name, source, left, dilation=1):
    attributes = {"kernel_shape": (3,), "pads": (left, 0), "dilations": (dilation,)}
    return [
        Node(f"{name}.turned", "Transpose", source, {"perm": (0, 2, 1)}),
        Node(f"{name}.conv", "Conv", f"{name}.turned", {"input_size": E, "output_size": E, **attributes}),
        Node(name, "Transpose", f"{name}.conv", {"perm": (0, 2, 1)}),
    ]


def causal_convolutions():
    return model_of(
        [*conv("one", "embed", 2), *conv("two", "one", 4, 2), Node("sum", "Add", ("two", "embed")),
         Recurrent("lstm", LSTM(E, H), "sum"), head("lstm")]
    )  # fmt: skip


def attention_that_looks_back():
    return model_of(
        [Recurrent("gru", GRU(E, H), "embed"), Node("look", "KerasAttention", ("gru", "gru"), {"causal": True}),
         Node("both", "Add", ("look", "gru")), head("both")]
    )  # fmt: skip


def beside_an_encoder():
    """Convolutions over the tokens, and over a text that is encoded in the same graph, which gives a first state."""
    nodes = [
        Recurrent("encoder", GRU(5, H), "text", lengths=None),
        *conv("one", "embed", 2),
        Recurrent("gru", GRU(E, H), "one", initial=("encoder.h",)),
        Node("look", "LuongAttention", ("gru", "encoder"), {"score": "dot", "query_size": H, "memory_size": H}),
        Node("both", "Add", ("look", "gru")),
        head("both"),
    ]
    return model_of(nodes, more=[Input("text", "float", ("B", "S", 5))])


def near(found, expected):
    return np.allclose(found, expected, rtol=0, atol=1e-5)


MODELS = {"convolutions": (causal_convolutions, equal), "attention": (attention_that_looks_back, near)}


def whole(model, ids, inputs=None):
    """Scores of the next token, from all of the sequence."""
    out = model.run({"tokens": np.array([ids]), **(inputs or {})})["out"]
    return out[0, -1]


def greedy(model, prompt, count, inputs=None):
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(np.argmax(whole(model, ids, inputs))))
    return ids[len(prompt) :]


def log_softmax(scores):
    scores = scores.astype(np.float64)
    scores -= scores.max()
    return scores - np.log(np.exp(scores).sum())


@pytest.mark.parametrize("name", MODELS)
def test_greedy_and_its_scores(name):
    make, agree = MODELS[name]
    model = make()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [12, 1, 1]]
    for prompt, found in zip(prompts, model.generate(prompts, 12), strict=True):
        assert found.tokens.tolist() == greedy(model, prompt, 12)
        ids = [*prompt, *found.tokens.tolist()]
        expected = [log_softmax(whole(model, ids[:at]))[ids[at]] for at in range(len(prompt), len(ids))]
        assert agree(found.log_probs, expected)


@pytest.mark.parametrize("name", MODELS)
def test_teacher_forced_scores(name):
    make, agree = MODELS[name]
    model = make()
    sequences = [RNG.integers(0, V, size).tolist() for size in (1, 5, 70, 130)]
    for ids, found in zip(sequences, model.score(sequences), strict=True):
        logits = model.run({"tokens": np.array([ids])})["out"][0]
        expected = [log_softmax(logits[at])[ids[at + 1]] for at in range(len(ids) - 1)]
        assert agree(found.log_probs, expected)


def test_beams_and_draws_are_those_of_each_prompt_alone():
    model = causal_convolutions()
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    for options in ({"beams": 4, "n_best": 3}, {"seed": [3, 4, 5], "samples": 2, "temperature": 0.9}):
        together = model.generate(prompts, 9, **options)
        for place, prompt in enumerate(prompts):
            own = {**options, "seed": [options["seed"][place]]} if "seed" in options else options
            (alone,) = model.generate([prompt], 9, **own)
            for a, b in zip(
                (together[place], *together[place].alternatives), (alone, *alone.alternatives), strict=True
            ):
                np.testing.assert_array_equal(a.tokens, b.tokens)
                assert equal(a.log_probs, b.log_probs)
                ids = [*prompt, *a.tokens.tolist()]
                expected = [log_softmax(whole(model, ids[:at]))[ids[at]] for at in range(len(prompt), len(ids))]
                assert equal(a.log_probs, expected)


def test_a_prefix_cache_changes_nothing():
    model = causal_convolutions()
    cache = PrefixCache(model)
    prompt = RNG.integers(0, V, 100).tolist()
    plain = model.generate([prompt, prompt[:70]], 5)
    for _ in range(2):
        for a, b in zip(plain, model.generate([prompt, prompt[:70]], 5, cache=cache), strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            assert equal(a.log_probs, b.log_probs)
    assert cache.hits and cache.tokens_reused


def test_beside_an_encoder_in_the_same_graph():
    model = beside_an_encoder()
    text = RNG.standard_normal((3, 9, 5)).astype(np.float32)
    prompts = [[1, 2], [3], [4, 5, 6]]
    for row, found in enumerate(model.generate(prompts, 8, inputs={"text": text})):
        assert found.tokens.tolist() == greedy(model, prompts[row], 8, {"text": text[row : row + 1]})


def test_a_state_to_start_from():
    model = causal_convolutions()
    state = {f"lstm.{key}": RNG.standard_normal((1, 2, H)).astype(np.float32) for key in "hc"}
    found = model.generate([[1, 2], [3, 4]], 3, state=state)
    for row, prompt in enumerate(([1, 2], [3, 4])):
        ids = list(prompt)
        for token in found[row].tokens:
            own = {name: array[:, [row]] for name, array in state.items()}
            out, _ = model(np.array([ids]), own)
            assert token == np.argmax(out[0, -1])
            ids.append(int(token))


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([*conv("one", "embed", 1), Recurrent("gru", GRU(E, H), "one"), head("gru")], r"'one.conv' \(Conv\)"),
        ([Node("look", "KerasAttention", ("embed", "embed")), head("look", E)], r"'look' \(KerasAttention\)"),
    ],
)
def test_what_looks_ahead_is_refused_by_name(nodes, message):
    model = model_of(nodes)
    with pytest.raises(UnsupportedError, match=f"node {message}.* token by token"):
        model.generate([[1]], 3)
    with pytest.raises(UnsupportedError, match=message):
        model.score([[1, 2]])


def test_attention_to_its_own_steps_does_not_stream_as_if_each_were_alone():
    model = model_of([Node("look", "KerasAttention", ("embed", "embed")), head("look", E)])
    assert "'look' (KerasAttention)" in model.unstreamable
