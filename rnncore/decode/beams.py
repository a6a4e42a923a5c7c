"""Beam search over one prompt: which beams go on, which have ended, and when no better one can come."""

from __future__ import annotations

import bisect
from typing import NamedTuple

import numpy as np

__all__ = ["Search", "best_candidates"]


class Beam(NamedTuple):
    """Tokens so far, their log-probabilities by the model, and the sum that beams are compared by."""

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    total: float = 0.0


def best_candidates(totals: np.ndarray, count: int) -> list[tuple[int, int]]:
    """(row, column) of the ``count`` largest of totals (n, V), best first; of equal ones the first. Never -infinity."""
    flat = totals.ravel()
    count = min(count, flat.size)
    least = np.partition(flat, -count)[-count]
    places = np.flatnonzero(flat >= least)
    places = places[np.argsort(-flat[places], kind="stable")][:count]
    return [divmod(int(place), totals.shape[1]) for place in places if flat[place] > -np.inf]


class Search:
    """The beams of one prompt.

    At each step the candidates are every live beam with every token. Those among the best ``width`` that end with a
    stop token have ended; the best ``width`` of the others live on. The search is over when ``width`` have ended that
    no live beam can still pass: exactly, as log-probabilities only fall (a constraint that adds positive numbers can
    break this), so the result is that of a search to the end.
    """

    def __init__(self, width: int, max_length: int, length_penalty: float, stop: np.ndarray):
        self.width, self.max_length, self.length_penalty = width, max_length, length_penalty
        self.stop = frozenset(stop.tolist())
        self.live = [Beam()]
        self._ended: list[tuple[float, Beam, bool]] = []  # (-score, beam, by a stop token), best first

    def extend(self, own: np.ndarray, allowed: np.ndarray) -> list[int]:
        """Go on by one token, given log-probabilities (live, V) of the model, and under the constraint.

        Returns for each beam that now lives the place of the one it goes on from.
        """
        totals = np.array([beam.total for beam in self.live])[:, None] + allowed
        going: list[Beam] = []
        width, parents = self.width, []
        for rank, (row, token) in enumerate(best_candidates(totals, width * (1 + len(self.stop)))):
            before = self.live[row]
            beam = Beam((*before.tokens, token), (*before.log_probs, float(own[row, token])), float(totals[row, token]))
            if token in self.stop:
                if rank < width:
                    self._end(beam, True)
            elif len(going) < width:
                going.append(beam)
                parents.append(row)
        self.live = going
        if going and len(going[0].tokens) == self.max_length:
            for beam in going:
                self._end(beam, False)
            self.live = []
        elif going and len(self._ended) >= width and -self._ended[width - 1][0] >= self._most(going[0]):
            self.live = []
        return parents if self.live else []

    def best(self, count: int) -> list[tuple[tuple[int, ...], tuple[float, ...], bool, float]]:
        """The best ended beams: tokens, log-probabilities, whether by a stop token, score."""
        return [(beam.tokens, beam.log_probs, by_stop, -score) for score, beam, by_stop in self._ended[:count]]

    def _end(self, beam: Beam, by_stop: bool) -> None:
        score = beam.total / len(beam.tokens) ** self.length_penalty
        bisect.insort(self._ended, (-score, beam, by_stop), key=lambda ended: ended[0])

    def _most(self, beam: Beam) -> float:
        """The best score that a live beam's continuations can reach."""
        longest = self.max_length if beam.total < 0 else len(beam.tokens) + 1
        return beam.total / longest**self.length_penalty
