"""An n-gram model, against which the cards compare: interpolated Kneser-Ney with one discount."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

__all__ = ["KneserNey"]

DISCOUNT = 0.75


class KneserNey:
    """p(w | the n - 1 before it), from counts of the longest context and of how many words a shorter one follows.

    Source: Chen and Goodman, An Empirical Study of Smoothing Techniques for Language Modeling (1998), equation 4.27.
    """

    def __init__(self, tokens: Sequence[int], order: int, size: int):
        self.order, self.size = order, size
        self.counts: list[dict[tuple[int, ...], Counter]] = [defaultdict(Counter) for _ in range(order)]
        tokens = list(tokens)
        longest = self.counts[order - 1]
        for i in range(order - 1, len(tokens)):
            longest[tuple(tokens[i - order + 1 : i])][tokens[i]] += 1
        for n in range(order - 1, 0, -1):  # a shorter context counts the different words before it
            for context, following in self.counts[n].items():
                for word in following:
                    self.counts[n - 1][context[1:]][word] += 1
        self.totals = [{context: sum(found.values()) for context, found in level.items()} for level in self.counts]

    def probability(self, context: tuple[int, ...], word: int) -> float:
        found = 1.0 / self.size
        for n in range(self.order):
            here = context[len(context) - n :] if n else ()
            total = self.totals[n].get(here)
            if total is None:
                break
            following = self.counts[n][here]
            kept = max(following[word] - DISCOUNT, 0) / total if word in following else 0.0
            found = kept + DISCOUNT * len(following) / total * found
        return found

    def bits(self, tokens: Sequence[int]) -> float:
        """Mean bits a token, from the second on."""
        tokens = list(tokens)
        scores = [
            np.log2(self.probability(tuple(tokens[max(0, i - self.order + 1) : i]), tokens[i]))
            for i in range(1, len(tokens))
        ]
        return -float(np.mean(scores))
