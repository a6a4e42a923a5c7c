"""generate and score against plain loops over PyTorch, one row at a time; sampling by its frequencies."""

import numpy as np
import pytest
from language_models import LETTERS, E, H, Language, V, float32_model, network, prompts
from plain_decoding import plain_beam, plain_greedy, same
from scipy import stats
from stream_models import equal

from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.decode import PrefixCache, perplexity
from rnncore.errors import InputError, SpecError, UnsupportedError

STOP = (12, 19)


@pytest.fixture(scope="module")
def language():
    return Language()


# --- greedy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", ["lengths", None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_greedy_is_the_plain_loop(language, dtype, lengths):
    given = prompts()
    found = network(language, dtype, lengths=lengths).generate(given, 30, stop=STOP)
    ends = set()
    for prompt, generation in zip(given, found, strict=True):
        tokens, log_probs, finish = plain_greedy(lambda t: language(t)[-1], prompt, 30, STOP)
        np.testing.assert_array_equal(generation.tokens, tokens)
        np.testing.assert_allclose(generation.log_probs, log_probs, rtol=0, atol=1e-4 if dtype == "float32" else 1e-10)
        assert generation.finish == finish and generation.score == pytest.approx(sum(log_probs), abs=1e-3)
        assert generation.text is None and generation.alternatives == ()
        ends.add(finish)
    assert ends == {"stop", "length"}


@pytest.mark.parametrize("op, kind", [("Softmax", "probabilities"), ("LogSoftmax", "log_probabilities")])
def test_an_output_that_is_normalised_already(language, op, kind):
    plain = network(language).generate(prompts(), 12, temperature=0.7, seed=4)
    model = network(language, head=[Node("p", op, "out", {"axis": 2})])
    for options in ({}, {"scores": kind}):
        found = model.generate(prompts(), 12, temperature=0.7, seed=4, **options)
        for a, b in zip(found, plain, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            np.testing.assert_allclose(a.log_probs, b.log_probs, rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="expected one of logits, probabilities"):
        model.generate(prompts(), 3, scores="scores")
    with pytest.raises(InputError, match="prompt 0, step 0: output 'out' has a negative probability"):
        network(language).generate([[1]], 3, scores="probabilities")


def test_one_hot_tokens_and_scores_of_the_last_step_only():
    """A character model as Keras makes them: one-hot in, one distribution for the whole sequence out."""
    rng = np.random.default_rng(0)
    nodes = [
        Recurrent("gru", GRU(V, H), "letters"),
        Node("out", "Linear", "gru.last", {"input_size": H, "output_size": V}),
        Node("p", "Softmax", "out", {"axis": 1}),
    ]
    spec = Spec([Input("letters", "float", ("B", "T", V))], nodes, ["p"])
    weights = {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    model = Model(spec, weights, "float64")

    def after(tokens):
        return np.log(model(np.eye(V)[tokens][None])[0])

    for prompt, found in zip(prompts(), model.generate(prompts(), 9, stop=[2]), strict=True):
        tokens, log_probs, finish = plain_greedy(after, prompt, 9, [2])
        np.testing.assert_array_equal(found.tokens, tokens)
        np.testing.assert_allclose(found.log_probs, log_probs, rtol=0, atol=1e-9)
        assert found.finish == finish
    with pytest.raises(InputError, match=r"output 'p' is float \(B, 23\), expected scores for each step"):
        model.score([[1, 2]])


# --- beam search ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [(), STOP])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.6])
@pytest.mark.parametrize("width", [2, 5])
def test_beam_search_is_the_plain_one(language, width, penalty, stop):
    given = prompts(5, 20)
    found = network(language).generate(given, 8, beams=width, n_best=width, length_penalty=penalty, stop=stop)
    for prompt, generation in zip(given, found, strict=True):
        expected = plain_beam(lambda t: language(t)[-1], prompt, 8, stop, width, penalty)
        for one, (score, tokens, log_probs, finish) in zip(
            (generation, *generation.alternatives), expected[:width], strict=True
        ):
            np.testing.assert_array_equal(one.tokens, tokens)
            np.testing.assert_allclose(one.log_probs, log_probs, rtol=0, atol=1e-10)
            assert one.finish == finish and one.score == pytest.approx(score, abs=1e-9)


def test_a_beam_as_wide_as_it_may_be_finds_the_best_of_all(language):
    """Two steps with all tokens kept after the first: every pair is looked at."""
    model = network(language)
    (found,) = model.generate([[4]], 2, beams=V, n_best=V, length_penalty=0)
    first = language([4])[-1]
    pairs = {(a, b): first[a] + language([4, a])[-1][b] for a in range(V) for b in range(V)}
    best = sorted(pairs, key=pairs.get, reverse=True)[:V]
    assert [tuple(one.tokens) for one in (found, *found.alternatives)] == best


# --- draws ---------------------------------------------------------------------------------------------------------


def expected_frequencies(log_p, temperature, top_k, top_p):
    """What temperature, top-k and top-p leave of a distribution, by their definitions."""
    p = np.exp(log_p / temperature)
    p /= p.sum()
    order = sorted(range(len(p)), key=lambda i: -p[i])
    left = order[: top_k or len(p)]
    if top_p is not None:
        mass, total, nucleus = 0.0, sum(p[i] for i in left), []
        for i in left:
            if mass >= top_p * total:
                break
            nucleus.append(i)
            mass += p[i]
        left = nucleus
    found = np.zeros(len(p))
    found[left] = p[left]
    return found / found.sum()


@pytest.mark.parametrize(
    "temperature, top_k, top_p",
    [(1.0, None, None), (0.5, None, None), (2.0, None, None), (1.0, 4, None), (1.5, None, 0.8), (2.0, 6, 0.7)],
)
def test_frequencies_of_draws(language, temperature, top_k, top_p):
    count = 20_000
    (found,) = float32_model().generate(
        [[2, 7]], 1, temperature=temperature, top_k=top_k, top_p=top_p, seed=8, samples=count
    )
    drawn = np.array([one.tokens[0] for one in (found, *found.alternatives)])
    expected = expected_frequencies(language([2, 7])[-1], temperature, top_k, top_p)
    counts = np.bincount(drawn, minlength=V)
    assert not counts[expected == 0].any()
    often = expected * count >= 5
    observed = [*counts[often], counts[~often].sum()]
    wanted = [*(expected[often] * count), expected[~often].sum() * count]
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    assert len(wanted) > 2 and stats.chisquare(observed, wanted).pvalue > 1e-3


def test_samples_of_one_prompt_are_independent():
    (found,) = float32_model().generate([[2]], 2, seed=3, samples=5000)
    pairs = np.array([one.tokens for one in (found, *found.alternatives)])
    model = float32_model()
    first = np.exp(model.score([[2, i] for i in range(V)])[0].log_probs)
    assert first.shape == (1,)
    likely = np.bincount(pairs[:, 0], minlength=V).argmax()
    after = pairs[pairs[:, 0] == likely, 1]
    expected = np.exp([one.log_probs[1] for one in model.score([[2, likely, i] for i in range(V)])])
    often = expected * len(after) >= 5
    observed = [*np.bincount(after, minlength=V)[often], (~often[after]).sum()]
    wanted = np.array([*expected[often], expected[~often].sum()]) * len(after)
    assert stats.chisquare(observed, wanted * len(after) / wanted.sum()).pvalue > 1e-3


OPTIONS = [{}, {"temperature": 1.3, "top_k": 9}, {"top_p": 0.9}, {"beams": 4, "n_best": 3}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_threads_and_companions_do_not_matter(options):
    given = prompts(12)
    draws = "beams" not in options and options
    seeds = {"seed": list(range(100, 112))} if draws else {}
    together = float32_model().generate(given, 25, stop=STOP, **options, **seeds)
    same(float32_model(2).generate(given, 25, stop=STOP, **options, **seeds), together)
    for row, prompt in enumerate(given):
        seed = {"seed": [100 + row]} if draws else {}
        same(float32_model().generate([prompt], 25, stop=STOP, **options, **seed), together[row : row + 1])


def test_seeds():
    model, given = float32_model(), [[1]] * 6
    first = model.generate(given, 20, seed=5)
    same(model.generate(given, 20, seed=5), first)
    assert len({tuple(one.tokens) for one in first}) == 6  # the same prompt, another row: another text
    assert {tuple(one.tokens) for one in model.generate(given, 20, seed=6)}.isdisjoint(
        tuple(one.tokens) for one in first
    )
    apart = [tuple(model.generate([[1]], 20, temperature=1)[0].tokens) for _ in range(3)]
    assert len(set(apart)) == 3  # no seed: never the same
    long = model.generate([[1]], 200, seed=5)[0].tokens
    np.testing.assert_array_equal(long[:150], model.generate([[1]], 150, seed=5)[0].tokens)
    same(model.generate(given, 9, temperature=0, seed=5, top_k=3), model.generate(given, 9))


# --- constraints ---------------------------------------------------------------------------------------------------


def test_constraints_by_ids_masks_and_numbers(language):
    model, given, seen = network(language), prompts(3, 6), {}

    def even(prompt, tokens):
        seen.setdefault(prompt, []).append(tokens)
        return range(0, V, 2)

    def after(tokens):
        found = language(tokens)[-1]
        found[1::2] = -np.inf
        return found

    for options in ({}, {"beams": 3, "length_penalty": 0.0}):
        found = model.generate(given, 6, constraint=even, **options)
        mask = model.generate(given, 6, constraint=lambda p, t: np.arange(V) % 2 == 0, **options)
        bias = model.generate(
            given, 6, constraint=lambda p, t: np.where(np.arange(V) % 2 == 0, 0.0, -np.inf), **options
        )
        same(mask, found)
        same(bias, found)
        for prompt, generation in zip(given, found, strict=True):
            if options:
                expected = plain_beam(after, prompt, 6, (), 3, 0.0)[0][1]
            else:
                expected = plain_greedy(after, prompt, 6, ())[0]
            np.testing.assert_array_equal(generation.tokens, expected)
            free = [language([*prompt, *expected[:i]])[-1][token] for i, token in enumerate(expected)]
            np.testing.assert_allclose(generation.log_probs, free, rtol=0, atol=1e-10)  # the model's own
    for row, prompt in enumerate(given):
        for tokens in seen[row]:
            np.testing.assert_array_equal(tokens[: len(prompt)], prompt)
    same(model.generate(given, 6, constraint=lambda p, t: None), model.generate(given, 6))
    pushed = model.generate(given, 3, constraint=lambda p, t: np.where(np.arange(V) == 9, 500.0, 0.0))
    assert all((one.tokens == 9).all() for one in pushed)


@pytest.mark.parametrize(
    "returned, message",
    [
        ([], "constraint of prompt 0, step 0: no token is left"),
        (np.zeros(V, bool), "no token is left"),
        ([V], "id 23, expected 0 to 22"),
        ([-1], "id -1, expected 0 to 22"),
        (np.full(V, np.nan), "NaN or infinity"),
        (np.zeros(3), r"float64 \(3,\), expected ids, a bool \(23,\)"),
        (["a"], "expected ids"),
    ],
)
def test_constraints_that_make_no_sense(returned, message):
    for options in ({}, {"beams": 2}):
        with pytest.raises(InputError, match=message):
            float32_model().generate([[1]], 3, constraint=lambda p, t: returned, **options)


# --- prefix cache --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "top_p": 0.9, "seed": 3}, {"beams": 4, "n_best": 4}])
def test_the_same_bits_with_and_without_a_cache(options):
    model, rng = float32_model(), np.random.default_rng(2)
    stem = rng.integers(0, V, 200)
    given = [stem, stem[:64], stem[:65], stem[:1], [*stem[:130], 1, 2], [*stem, 5], stem]
    plain = model.generate(given, 12, stop=STOP, **options)
    cache = PrefixCache(model)
    for turn in range(3):
        same(model.generate(given, 12, stop=STOP, cache=cache, **options), plain)
        assert (cache.hits == 0) == (turn == 0)
    reused = cache.tokens_reused
    same(model.generate([stem], 12, stop=STOP, cache=cache, **options), [plain[0]] if "seed" not in options else
         model.generate([stem], 12, stop=STOP, **options))  # fmt: skip
    assert cache.tokens_reused == reused + 200
    model.generate([[*stem[:100], 7]], 0, cache=cache)
    model.generate([[*stem[:100], 7]], 1, cache=cache)
    assert cache.tokens_reused == reused + 200 + 65  # stem[:65] was a prompt
    small = PrefixCache(model, 4000)
    for _ in range(2):
        same(model.generate(given, 12, stop=STOP, cache=small, **options), plain)
        assert len(small) > 0 and small.nbytes <= 4000


def test_a_cache_goes_on_from_what_was_generated():
    model = float32_model()
    cache = PrefixCache(model)
    (first,) = model.generate([[1, 2]], 20, cache=cache)
    longer = [1, 2, *first.tokens, 4]
    (found,) = model.generate([longer], 5, cache=cache)
    assert cache.tokens_reused == len(longer) - 2  # all but the last generated token, which was never read, and the 4
    same([found], model.generate([longer], 5))


def test_the_least_recently_used_prefix_goes_first():
    model = float32_model()
    cache = PrefixCache(model)
    model.generate([[1]], 1, cache=cache)
    each = cache.nbytes
    cache = PrefixCache(model, 3 * each)
    for prompt in ([1], [2], [3], [1], [4]):
        model.generate([prompt], 1, cache=cache)
    assert (cache.hits, cache.misses, len(cache), cache.nbytes) == (1, 4, 3, 3 * each)
    for prompt in ([1], [4], [3]):
        model.generate([prompt], 1, cache=cache)
    assert (cache.hits, cache.misses) == (4, 4)
    model.generate([[2]], 1, cache=cache)
    assert (cache.hits, cache.misses) == (4, 5)
    cache.clear()
    assert len(cache) == cache.nbytes == 0
    nothing = PrefixCache(model, 0)
    model.generate([[1]], 1, cache=nothing)
    assert len(nothing) == nothing.nbytes == 0


def test_threads_share_a_cache():
    from concurrent.futures import ThreadPoolExecutor

    model = float32_model()
    cache, given = PrefixCache(model, 40_000), prompts(30, 100)
    expected = model.generate(given, 8)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(model.generate, [given[i % 30]], 8, cache=cache) for i in range(240)]
        for i, job in enumerate(jobs):
            same(job.result(), expected[i % 30 : i % 30 + 1])
    assert cache.hits + cache.misses == 240 and cache.nbytes <= 40_000
    assert cache.nbytes == sum(entry.nbytes for entry in cache._entries.values())


# --- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", ["lengths", None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_equal_torch_s(language, dtype, lengths):
    given = [*prompts(7, 200), np.array([5])]
    found = network(language, dtype, lengths=lengths).score(given)
    total, count = 0.0, 0
    for ids, score in zip(given, found, strict=True):
        expected = language(ids)[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(score.log_probs, expected, rtol=0, atol=2e-4 if dtype == "float32" else 1e-10)
        total, count = total + expected.sum(), count + len(expected)
        if len(ids) > 1:
            assert score.perplexity == pytest.approx(np.exp(-expected.mean()), rel=1e-4)
            assert score.log_prob == pytest.approx(expected.sum(), rel=1e-4)
    assert perplexity(found) == pytest.approx(np.exp(-total / count), rel=1e-4)
    assert np.isnan(found[-1].perplexity)


def test_what_was_generated_scores_what_generate_said():
    model, given = float32_model(), prompts(6, 30)
    found = model.generate(given, 20, temperature=1, seed=1)
    scores = model.score([[*p, *one.tokens] for p, one in zip(given, found, strict=True)])
    for prompt, one, score in zip(given, found, scores, strict=True):
        assert equal(score.log_probs[len(prompt) - 1 :], one.log_probs)  # the very bits


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        ({"top_k": 0}, "top_k=0, expected a number of tokens from 1 to 23"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"top_p": 0}, "top_p=0, expected a probability above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p=1.1"),
        ({"top_p": float("nan")}, "top_p=nan"),
        ({"temperature": -0.1}, r"temperature=-0.1, expected 0 \(greedy\) or a positive number"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": "hot"}, "temperature='hot'"),
        ({"seed": -1}, r"seed=-1, expected an integer from 0 to 2\*\*64 - 1"),
        ({"seed": [1, 2]}, "seed: 2 seeds, expected one, or one for each of the 1 prompts"),
        ({"seed": 1.5}, "seed=1.5, expected an integer"),
        ({"beams": 24}, "beams=24, expected at most the 23 tokens of output 'out'"),
        ({"beams": 0}, "beams=0, expected an integer of at least 1"),
        ({"beams": 2, "n_best": 3}, "n_best=3, expected at most the 2 beams"),
        ({"beams": 2, "temperature": 1.0}, "expected either beam search or draws"),
        ({"beams": 2, "samples": 2}, "expected either beam search or draws"),
        ({"length_penalty": -1}, "length_penalty=-1"),
        ({"samples": 0}, "samples=0"),
        ({"max_length": -1}, "max_length=-1"),
        ({"stop": [23]}, "stop token 23 is unknown, expected an id from 0 to 22"),
        ({"stop": [-1]}, "stop token -1 is unknown"),
        ({"stop": "<end>"}, "stop token '<end>' for a model without a vocabulary"),
        ({"constraint": 3}, "constraint: int, expected a function"),
        ({"cache": 3}, "cache: not a PrefixCache of this model"),
        ({"prompts": "text"}, "prompts: one text, expected a list of prompts"),
        ({"prompts": ["text"]}, "prompt 0: text for a model without a vocabulary"),
        ({"prompts": [[1], []]}, "prompt 1: no tokens, expected at least one"),
        ({"prompts": [[1, 23]]}, "prompt 0: id 23 at 1, expected 0 to 22"),
        ({"prompts": [[0.5]]}, r"prompt 0: float64 \(1,\), expected a sequence of integer ids"),
        ({"inputs": {"memory": 1}}, "input 'memory' is unknown"),
        ({"state": np.zeros((1, 1, H))}, "state: ndarray, expected a State"),
        ({"tokens": "words"}, "tokens='words' is no input of the model"),
        ({"output": "lstm"}, "output='lstm', expected an output that depends on the tokens"),
    ],
)
def test_bad_arguments(options, message):
    options = {"prompts": [[1]], "max_length": 3, **options}
    with pytest.raises(InputError, match=message):
        float32_model().generate(**options)


def test_another_model_s_cache():
    with pytest.raises(InputError, match="not a PrefixCache of this model"):
        float32_model().generate([[1]], 3, cache=PrefixCache(float32_model(2)))
    with pytest.raises(InputError, match="max_bytes=-1"):
        PrefixCache(float32_model(), -1)


@pytest.mark.parametrize("value, message", [(np.nan, "contains NaN"), (np.inf, "contains infinity")])
def test_scores_that_are_no_numbers(language, value, message):
    """Only for the row that has them: a token whose embedding is broken."""
    tensors = {name: tensor.clone() for name, tensor in language.state_dict().items()}
    tensors["out.bias"][4] = value
    broken = Language()
    broken.load_state_dict(tensors)
    for options in ({}, {"beams": 2}, {"seed": 1}):
        with pytest.raises(InputError, match=f"prompt 0, step 0: output 'out' {message}"):
            network(broken).generate([[1]], 3, **options)
    with pytest.raises(InputError, match=f"sequence 0, step 0: output 'out' {message}"):
        network(broken).score([[1, 2]])


def test_nothing_to_do():
    model = float32_model()
    assert model.generate([], 3) == [] and model.score([]) == []
    (found,) = model.generate([[1]], 0)
    assert found.tokens.shape == (0,) and found.finish == "length" and found.score == 0
    (found,) = model.generate([[1]], 0, beams=2)
    assert found.tokens.shape == (0,)


def refused(nodes, output, inputs=(("tokens", "int64", ("B", "T")),)):
    spec = Spec([Input(*entry) for entry in inputs], nodes, [output])
    return Model(spec, {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes().items()})


EMBED = Node("embed", "Embedding", "tokens", {"input_size": V, "output_size": E})


def head(source, size=H):
    return Node("out", "Linear", source, {"input_size": size, "output_size": V})


@pytest.mark.parametrize(
    "nodes, message",
    [
        ([EMBED, Recurrent("rnn", GRU(E, H), "embed", direction="bidirectional"), head("rnn", 2 * H)],
         "node 'rnn' is bidirectional"),
        ([EMBED, Recurrent("rnn", GRU(E, H), "embed", direction="reverse"), head("rnn")], "node 'rnn' is reverse"),
        ([EMBED, Node("soft", "Softmax", "embed", {"axis": 1}), head("soft", E)],
         r"node 'soft' \(Softmax\) needs more than one step of 'embed'"),
        ([EMBED, Node("self", "KerasAttention", ("embed", "embed")), head("self", E)],
         r"node 'self' \(KerasAttention\) needs more than one step"),
    ],
)  # fmt: skip
def test_models_that_look_ahead(nodes, message):
    with pytest.raises(UnsupportedError, match=message):
        refused(nodes, "out").generate([[1]], 3)


def test_inputs_and_outputs_that_are_not_clear():
    two = refused(
        [EMBED, Node("other", "Embedding", "more", {"input_size": V, "output_size": E}),
         Node("sum", "Add", ("embed", "other")), head("sum", E)],
        "out", [("tokens", "int64", ("B", "T")), ("more", "int64", ("B", "T"))],
    )  # fmt: skip
    with pytest.raises(InputError, match="tokens, more; expected one, or tokens=NAME"):
        two.generate([[1]], 3)
    with pytest.raises(InputError, match="given twice"):
        two.generate([[1]], 3, tokens="more", inputs={"more": [[1]]})
    states = refused([EMBED, Recurrent("rnn", GRU(E, H), "embed")], "rnn.h")
    with pytest.raises(InputError, match="outputs that can be scores of tokens: none"):
        states.generate([[1]], 3)


# --- vocabularies --------------------------------------------------------------------------------------------------


def test_text_in_and_out(tmp_path):
    import rnncore

    plain = float32_model()
    model = Model(plain.spec, plain.weights, num_threads=1, vocabulary={"tokens": LETTERS, "out": LETTERS})
    path = rnncore.save(tmp_path / "letters.safetensors", model)
    model = rnncore.load(path)
    assert list(model.vocabulary["out"]) == LETTERS and model.vocabulary["out"].by_character
    found = model.generate(["abc", ["<s>", "a"], "a?"], 9, stop="</s>")
    same_ids = plain.generate([[3, 4, 5], [0, 3], [3, 2]], 9, stop=[1])
    for a, b in zip(found, same_ids, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        ids = b.tokens[:-1] if b.finish == "stop" else b.tokens
        assert a.text == "".join(LETTERS[i] for i in ids)
    assert equal(model.score(["abc"])[0].log_probs, plain.score([[3, 4, 5]])[0].log_probs)
    with pytest.raises(InputError, match="stop token 'zz' is not in the vocabulary of 23 tokens"):
        model.generate(["a"], 3, stop=["zz"])
    words = [f"w{i}" for i in range(V)]
    model = Model(plain.spec, plain.weights, vocabulary={"out": words})
    (found,) = model.generate(["w1 w2"], 3)
    assert found.text == " ".join(f"w{i}" for i in found.tokens)
    with pytest.raises(InputError, match="prompt 0: token 'x' at 1 is not in the vocabulary"):
        model.generate(["w1 x"], 3)


@pytest.mark.parametrize(
    "vocabulary, message",
    [
        ({"words": LETTERS}, "'words' is no input or output, expected one of"),
        ({"out": LETTERS[:-1]}, "vocabulary 'out': 22 tokens, expected 23"),
        ({"tokens": LETTERS[:-1]}, "vocabulary 'tokens': 22 tokens, expected 23"),
        ({"out": ["a"] * V}, "token 'a' occurs twice"),
        ({"out": range(V)}, "token 0, expected strings"),
        ({"out": "abc"}, "vocabulary 'out': str, expected a list of tokens"),
        (["a"], "vocabulary: list, expected a mapping"),
    ],
)
def test_vocabularies_that_do_not_fit(vocabulary, message):
    model = float32_model()
    with pytest.raises(SpecError, match=message):
        Model(model.spec, model.weights, vocabulary=vocabulary)


def test_a_model_keeps_its_vocabulary_when_pickled():
    import pickle

    model = Model(float32_model().spec, float32_model().weights, vocabulary={"out": LETTERS})
    assert pickle.loads(pickle.dumps(model)).vocabulary == model.vocabulary
