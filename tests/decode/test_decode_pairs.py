"""Encoder-decoders decoded by generate: a trained one from PyPI, and attention decoders against PyTorch's steps."""

import pydoc_data.topics
import re

import decoder_modules
import numpy as np
import pytest
import torch
from decoder_modules import LENGTHS, MODULES, START, WORDS, B, Case
from plain_decoding import plain_beam, plain_greedy, same
from spelling import package_code, spelling_models

from rnncore import Model
from rnncore.decode import PrefixCache
from rnncore.errors import InputError


@pytest.fixture
def translator():
    return decoder_modules.translator()


# --- spelling to phonemes: g2p_en ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spelling():
    return (package_code(), *spelling_models())


def encoded(reference, encoder, words):
    letters = [[reference.g2idx.get(c, reference.g2idx["<unk>"]) for c in [*word, "</s>"]] for word in words]
    lengths = np.array([len(ids) for ids in letters])
    ids = np.zeros((len(words), lengths.max()), np.int64)
    for row, found in enumerate(letters):
        ids[row, : len(found)] = found
    return encoder(ids, lengths=lengths)


def phoneme_scores(reference, word):
    """tokens -> log-probabilities of the next one, by the package's own NumPy code."""
    x = reference.encode(word)
    args = [getattr(reference, f"enc_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
    start = reference.gru(x, len(word) + 1, *args)[:, -1]
    args = [getattr(reference, f"dec_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]

    def after(tokens):
        h = start
        for token in tokens:
            h = reference.grucell(reference.dec_emb[[token]], h, *args)
        logits = (h @ reference.fc_w.T + reference.fc_b)[0].astype(np.float64)
        return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()

    return after


def test_400_words_equal_the_package_s_own_predictions(spelling):
    reference, encoder, decoder = spelling
    text = " ".join(pydoc_data.topics.topics.values()).lower()
    words = sorted(set(re.findall(r"\b[a-z]{3,14}\b", text)))[1::4][:400]
    state = encoded(reference, encoder, words)
    found = decoder.generate(np.full((len(words), 1), 2), 20, stop=[3], state=state)
    for word, one in zip(words, found, strict=True):
        ids = one.tokens[:-1] if one.finish == "stop" else one.tokens
        assert [reference.idx2p[int(i)] for i in ids] == reference.predict(word), word


def test_beams_of_words_equal_a_plain_beam_search_over_the_package_s_code(spelling):
    reference, encoder, decoder = spelling
    words = ["activationist", "rhythm", "cauliflower", "ought", "xylophone"]
    state = encoded(reference, encoder, words)
    found = decoder.generate([[2]] * len(words), 20, beams=4, n_best=4, stop=[3], state=state)
    for word, one in zip(words, found, strict=True):
        expected = plain_beam(phoneme_scores(reference, word), [2], 20, [3], 4, 1.0)
        for beam, (score, tokens, _, finish) in zip((one, *one.alternatives), expected[:4], strict=True):
            np.testing.assert_array_equal(beam.tokens, tokens)
            assert beam.score == pytest.approx(score, abs=1e-4) and beam.finish == finish
    assert found[0].alternatives[0].score < found[0].score


# --- attention -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=list(MODULES))
def case(request):
    return Case(request.param)


def torch_scores(case, row):
    """tokens -> log-probabilities of the next one for one row, by the module."""
    states = case.start if isinstance(case.start, tuple) else (case.start,)
    one = tuple(state[:, row : row + 1] for state in states)
    one = one if isinstance(case.start, tuple) else one[0]

    def after(tokens):
        with torch.no_grad():
            memory, valid = torch.from_numpy(case.memory[row : row + 1]), case.valid[row : row + 1]
            logits, _, _ = case.module(torch.tensor([list(tokens)]), memory, valid, one)
        return torch.log_softmax(logits[0, -1], dim=0).numpy()

    return after


def arguments(case, dtype):
    inputs = case.inputs(case.tokens, dtype)
    del inputs["tokens"]
    return {"inputs": inputs, "state": case.started(dtype)}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_greedy_and_beams_with_attention(case, dtype):
    model = Model(case.spec, case.weights, dtype)
    stop = [7, 9]
    greedy = model.generate([[START]] * B, 15, stop=stop, **arguments(case, dtype))
    beams = model.generate([[START]] * B, 7, beams=3, n_best=3, stop=stop, **arguments(case, dtype))
    for row in range(B):
        tokens, log_probs, finish = plain_greedy(torch_scores(case, row), [START], 15, stop)
        np.testing.assert_array_equal(greedy[row].tokens, tokens)
        np.testing.assert_allclose(greedy[row].log_probs, log_probs, rtol=0, atol=1e-4)
        assert greedy[row].finish == finish
        expected = plain_beam(torch_scores(case, row), [START], 7, stop, 3, 1.0)
        for one, (score, tokens, _, _) in zip((beams[row], *beams[row].alternatives), expected[:3], strict=True):
            np.testing.assert_array_equal(one.tokens, tokens)
            assert one.score == pytest.approx(score, abs=1e-4)


def test_scores_with_attention(case):
    model = Model(case.spec, case.weights, "float64")
    for row, score in enumerate(model.score(case.tokens, **arguments(case, "float64"))):
        after = torch_scores(case, row)
        expected = [after(case.tokens[row, : t + 1])[token] for t, token in enumerate(case.tokens[row, 1:])]
        np.testing.assert_allclose(score.log_probs, expected, rtol=0, atol=1e-10)


def test_a_cache_knows_the_memory_and_the_state(case):
    model = Model(case.spec, case.weights, "float32")
    given = arguments(case, "float32")
    plain = model.generate([[START, 2, 3]] * B, 6, **given)
    cache = PrefixCache(model)
    for _ in range(2):
        same(model.generate([[START, 2, 3]] * B, 6, cache=cache, **given), plain)
    assert (cache.hits, cache.misses) == (B, B)
    turned = {name: array[::-1] for name, array in given["inputs"].items()}
    state = {name: array[:, ::-1] for name, array in given["state"].items()}
    same(model.generate([[START, 2, 3]] * B, 6, cache=cache, inputs=turned, state=state), plain[::-1])
    assert cache.hits == 2 * B
    if turned:
        mixed = {**given["inputs"], "memory": turned["memory"]}
        model.generate([[START, 2, 3]] * B, 6, cache=cache, inputs=mixed, state=given["state"])
        assert cache.hits == 2 * B + 1  # the middle row has its own memory


@pytest.mark.parametrize("options", [{}, {"beams": 3, "n_best": 3}, {"top_k": 4}])
def test_companions_and_threads_do_not_matter_with_attention(case, options):
    """The very bits, for the same memory."""
    models = [Model(case.spec, case.weights, "float32", num_threads=threads) for threads in (1, 2)]
    given = arguments(case, "float32")
    seeds = {"seed": list(range(B))} if "top_k" in options else {}
    together = models[0].generate([[START]] * B, 8, **options, **seeds, **given)
    same(models[1].generate([[START]] * B, 8, **options, **seeds, **given), together)
    for row in range(B):
        inputs = {name: array[row : row + 1] for name, array in given["inputs"].items()}
        state = {name: array[:, row : row + 1] for name, array in given["state"].items()}
        seed = {"seed": [row]} if seeds else {}
        same(models[0].generate([[START]], 8, inputs=inputs, state=state, **options, **seed), together[row : row + 1])


def test_inputs_that_do_not_fit(case):
    model, given = Model(case.spec, case.weights, "float32"), arguments(case, "float32")
    if case.attends:
        with pytest.raises(InputError, match="input 'memory' missing"):
            model.generate([[START]] * B, 3, state=given["state"])
        with pytest.raises(InputError, match="dimension 0 is 1, not B = 3"):
            model.generate([[START]] * B, 3, inputs={**given["inputs"], "memory": given["inputs"]["memory"][:1]})
    with pytest.raises(InputError, match="state"):
        model.generate([[START]] * (B - 1), 3, **{**given, "inputs": {k: v[1:] for k, v in given["inputs"].items()}})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_encoder_and_decoder_in_one_graph(translator, dtype):
    """The encoder runs once; lengths are those of its words."""
    module, spec, weights, source, _ = translator
    spec = type(spec)(spec.inputs, spec.nodes, ["out"])
    model = Model(spec, weights, dtype)
    runs = []
    encoder = next(place for place, node in enumerate(spec.nodes) if node.name == "encoder")
    step = model._steps[encoder]
    model._steps[encoder] = lambda *values: (runs.append(1), step(*values))
    inputs = {"words": source, "lengths": LENGTHS}
    found = model.generate([[1], [2, 3], [4]], 10, stop=[0], tokens="tokens", inputs=inputs)
    assert len(runs) == 1

    def after(row, tokens):
        target = np.zeros((B, len(tokens)), np.int64)
        target[row] = tokens
        with torch.no_grad():
            logits, _ = module(torch.from_numpy(source), torch.from_numpy(target))
        return torch.log_softmax(logits[row, -1], dim=0).numpy()

    for row, prompt in enumerate([[1], [2, 3], [4]]):
        tokens, log_probs, _ = plain_greedy(lambda t, row=row: after(row, t), prompt, 10, [0])
        np.testing.assert_array_equal(found[row].tokens, tokens)
        np.testing.assert_allclose(found[row].log_probs, log_probs, rtol=0, atol=1e-4)
    assert model.spec.values["out"].shape[-1] == WORDS


def test_a_feature_vector_starts_a_decoder():
    """Initial states that the graph makes hold for the first call only; prompts of several tokens go on from there."""
    from rnncore import Input, Node, Recurrent, Spec
    from rnncore.cells import GRU

    rng = np.random.default_rng(5)
    nodes = [
        Node("start", "Linear", "features", {"input_size": 9, "output_size": 6}),
        Node("h0", "Unsqueeze", "start", {"axes": [0]}),
        Node("embed", "Embedding", "tokens", {"input_size": WORDS, "output_size": 4}),
        Recurrent("gru", GRU(4, 6), "embed", initial=("h0",)),
        Node("out", "Linear", "gru", {"input_size": 6, "output_size": WORDS}),
    ]
    spec = Spec([Input("features", "float", ("B", 9)), Input("tokens", "int64", ("B", "T"))], nodes, ["out"])
    weights = {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    model = Model(spec, weights, "float64")
    features = rng.standard_normal((4, 9))
    prompts = [[1], [1, 2, 3], [4], list(rng.integers(0, WORDS, 70))]
    for options in ({}, {"cache": PrefixCache(model)}):
        found = model.generate(prompts, 12, inputs={"features": features}, **options)
        for row, prompt in enumerate(prompts):

            def after(tokens, row=row):
                logits = model.run({"features": features[row : row + 1], "tokens": [tokens]})["out"][0, -1]
                return logits - np.log(np.exp(logits).sum())

            np.testing.assert_array_equal(found[row].tokens, plain_greedy(after, prompt, 12, ())[0])
