"""Choosing tokens: the most probable one, or a draw from what temperature, top-k and top-p leave.

Everything is computed row by row in float64, so that a row's choice depends on its own scores and seed alone.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence, Sized
from typing import Any

import numpy as np

from rnncore.errors import InputError, shown

__all__ = ["Chooser", "as_seeds", "kept"]

BLOCK = 64  # draws made at once for each row


def kept(scores: np.ndarray, temperature: float, top_k: int | None, top_p: float | None) -> np.ndarray:
    """Log-probabilities (n, V) -> probabilities of what may be drawn (n, V), not normalised, 0 elsewhere.

    temperature divides first; top_k leaves the k most probable (and what is as probable as the last of them); top_p
    leaves the smallest set of the most probable whose probabilities reach p among those.
    """
    with np.errstate(over="ignore"):
        z = (scores - scores.max(axis=1, keepdims=True)) / temperature
    if top_k is not None and top_k < z.shape[1]:
        least = np.partition(z, -top_k, axis=1)[:, -top_k]
        z[z < least[:, None]] = -np.inf
    p = np.exp(z)
    if top_p is not None and top_p < 1:
        order = np.argsort(-p, axis=1, kind="stable")
        descending = np.take_along_axis(p, order, axis=1)
        sums = np.cumsum(descending, axis=1)
        enough = np.zeros_like(sums, bool)
        enough[:, 1:] = sums[:, :-1] >= top_p * sums[:, -1:]
        np.put_along_axis(p, order, np.where(enough, 0, descending), axis=1)
    return p


class Chooser:
    """Chooses the next token of each row: greedily with temperature 0, else by a draw with the row's own generator.

    Row r draws from Philox keyed by seeds[r]. Raises InputError.
    """

    def __init__(
        self,
        size: int,
        seeds: Sequence[tuple[int, int]],
        temperature: float,
        top_k: int | None,
        top_p: float | None,
    ):
        if isinstance(temperature, bool) or not _is_number(temperature) or not 0 <= temperature < math.inf:
            raise InputError(f"temperature={temperature!r}, expected 0 (greedy) or a positive number")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or top_k < 1):
            raise InputError(f"top_k={top_k!r}, expected a number of tokens from 1 to {size}, or None for all")
        if top_p is not None and (isinstance(top_p, bool) or not _is_number(top_p) or not 0 < top_p <= 1):
            raise InputError(f"top_p={top_p!r}, expected a probability above 0 and at most 1, or None for all")
        self.temperature, self.top_k, self.top_p = float(temperature), top_k, top_p
        self._seeds = seeds
        self._generators: list[Any] = []
        self._draws = np.empty((len(seeds), BLOCK))
        self._step = 0

    def __call__(self, scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The tokens (n,) for scores (n, V), log-probabilities of which -infinity is never chosen, of these rows."""
        if self.temperature == 0:
            return scores.argmax(axis=1)
        sums = np.cumsum(kept(scores, self.temperature, self.top_k, self.top_p), axis=1)
        points = self._next(rows) * sums[:, -1]
        return (sums <= points[:, None]).sum(axis=1)

    def _next(self, rows: np.ndarray) -> np.ndarray:
        """One number in [0, 1) for each of these rows; every row is drawn for once a step."""
        if not self._generators:
            self._generators = [np.random.Generator(np.random.Philox(key=list(seed))) for seed in self._seeds]
        place = self._step % BLOCK
        if place == 0:
            for row in rows:
                self._draws[row] = self._generators[row].random(BLOCK)
        self._step += 1
        return self._draws[rows, place]


def as_seeds(seed: Any, count: int, samples: int) -> list[tuple[int, int]]:
    """The key of each sample of each prompt.

    One seed: prompt r has the key (seed, r). A seed for each prompt: the key (seeds[r], 0), whatever its
    place. None: a seed of the operating system's.
    """
    each = seed is not None and not isinstance(seed, (int, np.integer))
    if each:
        try:
            given = len(seed) if isinstance(seed, Sized) else count  # of more than enough no list is made
            seeds = list(seed) if given == count else range(given)
        except TypeError:
            raise InputError(f"seed={shown(seed)}, expected an integer, one for each prompt, or None") from None
        if len(seeds) != count:
            raise InputError(f"seed: {len(seeds)} seeds, expected one, or one for each of the {count} prompts")
    else:
        seeds = [secrets.randbits(64) if seed is None else seed] * count
    for one in seeds:
        if isinstance(one, bool) or not isinstance(one, (int, np.integer)) or not 0 <= one < 1 << 64:
            raise InputError(f"seed={shown(one)}, expected an integer from 0 to 2**64 - 1")
    return [
        (int(one), ((0 if each else row) << 32) | sample) for row, one in enumerate(seeds) for sample in range(samples)
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not math.isnan(value)
