"""Teacher-forced scoring: how probable a model finds sequences that are given."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rnncore.decode.generation import as_prompts, listed
from rnncore.decode.stepper import Stepper
from rnncore.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnncore.runtime.model import Model
    from rnncore.runtime.types import StateLike

__all__ = ["Score", "perplexity", "score"]

BLOCK = 64  # steps whose scores are in memory at a time


@dataclass(frozen=True, eq=False)
class Score:
    """log_probs (T - 1,) float64: of each token of a sequence after those before it; the first one is given."""

    log_probs: NDArray[np.float64]

    @property
    def log_prob(self) -> float:
        """Of the whole sequence after its first token."""
        return float(self.log_probs.sum())

    @property
    def perplexity(self) -> float:
        """exp of minus the mean log-probability; NaN for a sequence of one token."""
        return perplexity([self])


def perplexity(scores: Iterable[Score]) -> float:
    """Of several sequences together: exp of minus the mean log-probability of all their tokens."""
    arrays = [one.log_probs for one in scores]
    count = sum(len(array) for array in arrays)
    return math.exp(-sum(float(array.sum()) for array in arrays) / count) if count else math.nan


def score(
    model: Model,
    sequences: Sequence[Any] | np.ndarray,
    *,
    inputs: Mapping[str, ArrayLike] | None = None,
    state: StateLike = None,
    tokens: str | None = None,
    output: str | None = None,
    scores: str | None = None,
) -> list[Score]:
    """The log-probability of every token of each sequence but its first, given those before it.

    sequences as generate takes prompts; inputs, state, tokens, output and scores as there. All sequences are computed
    together, a block of steps at a time. The model must have scores for each step, (B, T, V). Raises as generate does.
    """
    sequences = listed(sequences)
    longest = max(map(len, sequences), default=0)
    stepper = Stepper(model, len(sequences), inputs, state, tokens, output, scores, longest)
    if not stepper.per_step:
        value = model.spec.values[stepper.output]
        raise InputError(f"output {stepper.output!r} is {value}, expected scores for each step, float (B, T, size)")
    vocabulary = model.vocabulary.get(stepper.tokens) or model.vocabulary.get(stepper.output)
    ids = as_prompts(sequences, stepper.size, vocabulary)
    log_probs = [np.empty(len(one) - 1) for one in ids]
    # Longest first, so that the rows still running are always the first ones. Nothing comes after a row's last token,
    # so what comes after it can be anything.
    order = np.array(sorted(range(len(ids)), key=lambda row: -len(ids[row])), np.int64)
    steps = np.array([len(ids[row]) - 1 for row in order], np.int64)
    rows = stepper.rows.take(order) if len(order) else stepper.rows
    for first in range(0, int(steps.max(initial=0)), BLOCK):
        count = int((steps > first).sum())
        rows = rows.take(np.arange(count))
        width = min(BLOCK, int(steps[0]) - first)
        block = np.zeros((count, width + 1), np.int64)
        for place, row in enumerate(order[:count]):
            part = ids[row][first : first + width + 1]
            block[place, : len(part)] = part
        logits, rows = stepper.run(rows, block[:, :-1])
        for place, row in enumerate(order[:count]):
            there = min(width, int(steps[place]) - first)
            where = [f"sequence {row}, step {first + t}" for t in range(there)]
            own = stepper.log_probabilities(logits[place, :there], where)
            log_probs[row][first : first + there] = own[np.arange(there), block[place, 1 : there + 1]]
    return [Score(one) for one in log_probs]
