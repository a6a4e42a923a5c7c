"""CTC (Graves et al. 2006): from scores of each step, blanks among them, to labels.

A path says one token or the blank for each step; repeated tokens are one, then blanks go: a a _ a b b -> a a b.

    from rnncore import decode
    labels = decode.ctc_greedy(model(x, lengths=lengths), lengths)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.decode.stepper import KINDS, SCORED
from rnncore.errors import InputError, MissingPackageError, UnsupportedError
from rnncore.ops.work import INTERPRETED, Cost
from rnncore.runtime.arguments import as_items
from rnncore.runtime.budget import Budget, afford, check_budget

__all__ = ["Labels", "ctc_beam", "ctc_greedy", "ctc_log_prob"]

FIRST_CHARACTER = 0xF0000  # the library writes labels as text; these code points are the tokens
MOST_TOKENS = 0x10000


@dataclass(frozen=True, eq=False)
class Labels:
    """tokens (L,) int64, the step at which each appears (L,), and a log-probability.

    The log-probability is that of the best path for ctc_greedy, and of the tokens by all their paths for ctc_beam.
    """

    tokens: np.ndarray
    steps: np.ndarray
    log_prob: float


def ctc_greedy(
    scores: Any, lengths: Any = None, *, blank: int = 0, kind: str = "logits", budget: Budget | None = None
) -> list[Labels]:
    """The labels of the best path of each row.

    scores   (B, T, V), of the kind "logits", "probabilities" or "log_probabilities"
    lengths  (B,): steps of each row that count; None: all
    blank    id of the blank; negative ones count from the end
    budget   the most that this may do, such as model.budget; None: no limit

    Raises InputError.
    """
    labels = []
    for own, _ in _rows(scores, lengths, blank, kind, budget):
        path = own.argmax(axis=1)
        new = np.ones(len(path), bool)
        new[1:] = path[1:] != path[:-1]
        steps = np.flatnonzero(new & (path != blank % own.shape[1]))
        labels.append(Labels(path[steps], steps, float(own.max(axis=1).sum())))
    return labels


def ctc_beam(
    scores: Any,
    lengths: Any = None,
    *,
    beams: int = 16,
    blank: int = 0,
    kind: str = "logits",
    threshold: float = 0.0,
    budget: Budget | None = None,
) -> list[Labels]:
    """The labels that prefix beam search finds for each row: the probabilities of all paths of the same labels added.

    scores, lengths, blank, kind and budget as for ctc_greedy. beams: prefixes kept at each step; threshold: tokens less
    probable than this are not looked at. Needs fast-ctc-decode: pip install "rnncore[ctc]". Raises InputError, and
    MissingPackageError without the library.
    """
    try:
        from fast_ctc_decode import beam_search
    except ImportError:
        raise MissingPackageError('ctc_beam needs fast-ctc-decode: pip install "rnncore[ctc]"') from None
    if isinstance(beams, bool) or not isinstance(beams, (int, np.integer)) or beams < 1:
        raise InputError(f"beams={beams!r}, expected a positive integer")
    if not 0 <= threshold < 1:
        raise InputError(f"threshold={threshold!r}, expected a probability from 0, less than 1")
    results = []
    for own, what in _rows(scores, lengths, blank, kind, budget, int(beams)):
        size = own.shape[1]
        if size > MOST_TOKENS:
            raise UnsupportedError(f"ctc_beam with {size} tokens, expected at most {MOST_TOKENS}")
        if threshold >= 1 / size:
            raise InputError(f"threshold={threshold}, expected less than 1 / {size} tokens")
        if not len(own):
            results.append(Labels(np.zeros(0, np.int64), np.zeros(0, np.int64), 0.0))
            continue
        place = blank % size
        order = np.array([place, *(token for token in range(size) if token != place)])  # the library's blank is first
        alphabet = [chr(FIRST_CHARACTER + i) for i in range(size)]
        probabilities = np.ascontiguousarray(np.exp(own[:, order]), np.float32)
        try:
            text, path = beam_search(probabilities, alphabet, int(beams), float(threshold))
        except RuntimeError as error:
            raise InputError(f"{what}: beam search failed: {error}") from None
        tokens = order[[ord(character) - FIRST_CHARACTER for character in text]] if text else np.zeros(0, np.int64)
        results.append(Labels(tokens, np.array(path, np.int64), _log_prob(own, tokens, place)))
    return results


def ctc_log_prob(
    scores: Any,
    labels: Any,
    lengths: Any = None,
    *,
    blank: int = 0,
    kind: str = "logits",
    budget: Budget | None = None,
) -> np.ndarray:
    """log p(labels | scores) of each row, by all paths: (B,) float64, -infinity without a path.

    labels: a sequence of tokens for each row, without blanks. scores, lengths, blank, kind and budget as for
    ctc_greedy.
    """
    labels = list(as_items("labels", labels))
    longest = max((2 * len(given) + 1 for given in labels if hasattr(given, "__len__")), default=1)
    rows = _rows(scores, lengths, blank, kind, budget, longest)
    if len(labels) != len(rows):
        raise InputError(f"labels of {len(labels)} rows, expected {len(rows)}")
    log_probs = []
    for row, ((own, _), given) in enumerate(zip(rows, labels, strict=True)):
        size = own.shape[1]
        tokens = np.asarray(given, np.int64) if len(given) else np.zeros(0, np.int64)
        wrong = tokens[(tokens < 0) | (tokens >= size) | (tokens == blank % size)]
        if tokens.ndim != 1 or len(wrong):
            raise InputError(f"labels of row {row}: {wrong[:1]}, expected tokens from 0 to {size - 1} but the blank")
        log_probs.append(_log_prob(own, tokens, blank % size))
    return np.array(log_probs)


def _log_prob(own: np.ndarray, tokens: np.ndarray, blank: int) -> float:
    """The forward algorithm over blanks and tokens by turns, in the log domain: own (T, V), tokens (L,)."""
    if not len(own):
        return -np.inf if len(tokens) else 0.0
    path = np.full(2 * len(tokens) + 1, blank)
    path[1::2] = tokens
    jump = np.zeros(len(path), bool)  # a token may follow another one directly unless they are the same
    jump[3::2] = tokens[1:] != tokens[:-1]
    alpha = np.full(len(path), -np.inf)
    alpha[:2] = own[0, path[:2]]
    for step in own[1:]:
        stay, one, two = alpha, np.full_like(alpha, -np.inf), np.full_like(alpha, -np.inf)
        one[1:] = alpha[:-1]
        two[2:] = np.where(jump[2:], alpha[:-2], -np.inf)
        alpha = np.logaddexp(np.logaddexp(stay, one), two) + step[path]
    return float(np.logaddexp.reduce(alpha[-2:]))


def _rows(
    scores: Any, lengths: Any, blank: int, kind: str, budget: Budget | None, paths: int = 1
) -> list[tuple[np.ndarray, str]]:
    """Each row's steps that count, as log-probabilities (T, V) in float64, and what to call it.

    paths: the number that is followed through each step, which the budget has to afford.
    """
    array = np.asarray(scores)
    if array.ndim != 3 or array.dtype.kind != "f" or not array.shape[2]:
        raise InputError(f"scores: {array.dtype} {array.shape}, expected float (B, T, V)")
    batch, steps, size = array.shape
    followed = batch * steps * paths
    wanted = Cost(SCORED * array.size + INTERPRETED * followed, 24 * array.size + 8 * followed)
    afford(check_budget(budget), f"CTC of scores {array.shape}", wanted)
    if kind not in KINDS:
        raise InputError(f"kind={kind!r}, expected one of {', '.join(KINDS)}")
    if isinstance(blank, bool) or not isinstance(blank, (int, np.integer)) or not -size <= blank < size:
        raise InputError(f"blank={blank!r}, expected an id from 0 to {size - 1}")
    counts = np.full(batch, steps) if lengths is None else np.asarray(lengths)
    if counts.shape != (batch,) or counts.dtype.kind not in "iu" or ((counts < 0) | (counts > steps)).any():
        raise InputError(f"lengths: {counts.tolist()}, expected {batch} integers from 0 to {steps}")
    rows = []
    for row, count in enumerate(counts.tolist()):
        own = array[row, :count].astype(np.float64)
        if np.isnan(own).any() or (own == np.inf).any():
            raise InputError(f"scores of row {row} contain NaN or infinity")
        if kind == "probabilities":
            if (own < 0).any():
                raise InputError(f"scores of row {row}: a negative probability, expected them from 0 to 1")
            with np.errstate(divide="ignore"):
                own = np.log(own)
        top = own.max(axis=1, keepdims=True)
        if (top == -np.inf).any():
            raise InputError(f"scores of row {row}: no token is possible at step {int(np.argmin(top))}")
        own = own - top
        rows.append((own - np.log(np.exp(own).sum(axis=1, keepdims=True)), f"row {row}"))
    return rows
