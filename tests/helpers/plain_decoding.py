"""Greedy and beam search as plain loops, one row at a time, and the comparison of generations."""

import numpy as np
from stream_models import equal


def same(actual, expected):
    """Generations with the same bits (over BLAS to a tolerance), alternatives included."""
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
        assert equal(a.log_probs, b.log_probs)
        assert (a.finish, a.text) == (b.finish, b.text) and equal(a.score, b.score)
        same(a.alternatives, b.alternatives)


def plain_greedy(after, prompt, max_length, stop):
    """after(tokens) -> log-probabilities (V,) of the next one."""
    tokens, log_probs = [], []
    for _ in range(max_length):
        scores = after([*prompt, *tokens])
        tokens.append(int(scores.argmax()))
        log_probs.append(scores.max())
        if tokens[-1] in stop:
            return tokens, log_probs, "stop"
    return tokens, log_probs, "length"


def plain_beam(after, prompt, max_length, stop, width, penalty):
    """Every candidate sorted, no early end: [(score, tokens, log-probabilities, finish)], best first."""
    live, ended = [((), ())], []
    for _ in range(max_length):
        candidates = []
        for place, (tokens, log_probs) in enumerate(live):
            for token, log_prob in enumerate(after([*prompt, *tokens])):
                candidates.append((-(sum(log_probs) + log_prob), place, token, log_prob))
        candidates.sort(key=lambda c: c[:3])
        after_this = []
        for rank, (total, place, token, log_prob) in enumerate(candidates):
            beam = ((*live[place][0], token), (*live[place][1], log_prob))
            if token in stop:
                if rank < width:
                    ended.append((-total / len(beam[0]) ** penalty, *beam, "stop"))
            elif len(after_this) < width:
                after_this.append(beam)
        live = after_this
    ended += [(sum(p) / len(t) ** penalty, t, p, "length") for t, p in live]
    return sorted(ended, key=lambda e: -e[0])
