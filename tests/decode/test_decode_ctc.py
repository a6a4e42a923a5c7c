"""CTC by its definition: every path of small cases, and PyTorch's loss."""

import itertools
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch

from rnncore.decode import ctc_beam, ctc_greedy, ctc_log_prob
from rnncore.errors import InputError, UnsupportedError


def collapse(path, blank):
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def every_labelling(log_p, blank):
    """labels -> probability, over all paths."""
    found = defaultdict(float)
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        found[collapse(path, blank)] += np.exp(sum(log_p[t, token] for t, token in enumerate(path)))
    return found


def scores(seed, batch=1, steps=6, size=4, spread=2.0):
    return np.random.default_rng(seed).normal(0, spread, (batch, steps, size))


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("blank", [0, 2, -1])
@pytest.mark.parametrize("seed", range(6))
def test_beam_finds_the_most_probable_labels(seed, blank):
    x = scores(seed)
    every = every_labelling(log_softmax(x[0]), blank % 4)
    (found,) = ctc_beam(x, beams=200, blank=blank)
    assert tuple(found.tokens) == max(every, key=every.get)
    assert found.log_prob == pytest.approx(np.log(every[tuple(found.tokens)]), abs=1e-9)
    assert len(found.steps) == len(found.tokens) and (np.diff(found.steps) > 0).all()
    labels = list(every)
    for label in labels[:: max(1, len(labels) // 40)]:
        (log_prob,) = ctc_log_prob(x, [label], blank=blank)
        assert log_prob == pytest.approx(np.log(every[label]), abs=1e-9)


def test_beam_differs_from_the_best_path_somewhere():
    different = 0
    for seed in range(30):
        x = scores(seed, spread=0.7)
        different += tuple(ctc_beam(x, beams=100)[0].tokens) != tuple(ctc_greedy(x)[0].tokens)
    assert different > 3


@pytest.mark.parametrize("blank", [0, 2, -1])
def test_greedy_is_the_collapsed_best_path(blank):
    x = scores(1, batch=20, steps=15)
    lengths = np.random.default_rng(0).integers(0, 16, 20)
    for row, found in enumerate(ctc_greedy(x, lengths, blank=blank)):
        own = log_softmax(x[row, : lengths[row]])
        path = own.argmax(axis=1)
        assert tuple(found.tokens) == collapse(path, blank % 4)
        assert found.log_prob == pytest.approx(own.max(axis=1).sum())
        np.testing.assert_array_equal(path[found.steps], found.tokens)
        assert all(step == 0 or path[step - 1] != path[step] for step in found.steps)


@pytest.mark.parametrize("blank", [0, 3])
def test_log_prob_is_minus_torch_s_loss(blank):
    rng = np.random.default_rng(3)
    x = scores(3, batch=16, steps=20, size=7)
    lengths = rng.integers(10, 21, 16)
    labels = [rng.choice([t for t in range(7) if t != blank], rng.integers(0, 8)) for _ in range(16)]
    loss = torch.nn.functional.ctc_loss(
        torch.log_softmax(torch.from_numpy(x), dim=2).transpose(0, 1),
        torch.from_numpy(np.concatenate(labels)),
        torch.from_numpy(lengths),
        torch.tensor([len(label) for label in labels]),
        blank=blank,
        reduction="none",
    )
    found = ctc_log_prob(x, labels, lengths, blank=blank)
    np.testing.assert_allclose(found, -loss.numpy(), rtol=0, atol=1e-9)
    assert ctc_log_prob(x[:1, :2], [[1, 1]])[0] == -np.inf  # a repeated token needs a blank between


@pytest.mark.parametrize("decode", [ctc_greedy, ctc_beam])
def test_kinds_and_lengths(decode):
    x = scores(5, batch=3, steps=9)
    lengths = [9, 0, 4]
    first = decode(x, lengths)
    for kind, given in (("probabilities", np.exp(log_softmax(x))), ("log_probabilities", log_softmax(x))):
        for a, b in zip(decode(given.astype(np.float32), lengths, kind=kind), first, strict=True):
            np.testing.assert_array_equal(a.tokens, b.tokens)
            assert a.log_prob == pytest.approx(b.log_prob, abs=1e-4)
    padded = x.copy()
    padded[2, 4:] = np.nan
    for a, b in zip(decode(padded, lengths), first, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
    (alone,) = decode(x[2:, :4])
    np.testing.assert_array_equal(alone.tokens, first[2].tokens)
    assert len(first[1].tokens) == 0 and first[1].log_prob == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": np.zeros((2, 3))}, r"scores: float64 \(2, 3\), expected float \(B, T, V\)"),
        ({"scores": np.full((1, 3, 4), np.nan)}, "scores of row 0 contain NaN or infinity"),
        ({"scores": np.full((1, 3, 4), -np.inf)}, "row 0: no token is possible at step 0"),
        ({"scores": -np.ones((1, 3, 4)), "kind": "probabilities"}, "row 0: a negative probability"),
        ({"blank": 4}, "blank=4, expected an id from 0 to 3"),
        ({"kind": "p"}, "kind='p'"),
        ({"lengths": [4]}, r"lengths: \[4\], expected 1 integers from 0 to 3"),
        ({"lengths": [1, 1]}, "lengths"),
    ],
)
def test_bad_arguments(change, message):
    for decode in (ctc_greedy, ctc_beam):
        with pytest.raises(InputError, match=message):
            decode(**{"scores": np.zeros((1, 3, 4)), **change})


def test_bad_arguments_of_beams():
    x = scores(0)
    with pytest.raises(InputError, match="beams=0"):
        ctc_beam(x, beams=0)
    with pytest.raises(InputError, match=r"threshold=0.3, expected less than 1 / 4 tokens"):
        ctc_beam(x, threshold=0.3)
    with pytest.raises(InputError, match="threshold=-1"):
        ctc_beam(x, threshold=-1)
    with pytest.raises(InputError, match="labels of row 0"):
        ctc_log_prob(x, [[0]])


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "fast_ctc_decode", None)
    with pytest.raises(UnsupportedError, match=r'pip install "rnncore\[ctc\]"'):
        ctc_beam(scores(0))
