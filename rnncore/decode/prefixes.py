"""Reading prompts into states, and PrefixCache: the states of token prefixes, kept for prompts that begin alike."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from rnncore.decode.stepper import Stepper, TokenRows
from rnncore.errors import InputError

__all__ = ["PrefixCache", "Prefixes", "read_prompts"]

BLOCK = 64  # tokens read in one call; also where the states of a long prompt are kept
OVERHEAD = 400  # bytes of an entry in addition to its arrays


@dataclass(frozen=True)
class _Entry:
    """The state after a prefix, {name: (layers, 1, size)}, and the scores of the token after it, if they are known."""

    state: dict[str, np.ndarray]
    scores: np.ndarray | None

    @property
    def nbytes(self) -> int:
        arrays = [*self.state.values(), *([] if self.scores is None else [self.scores])]
        return sum(array.nbytes for array in arrays) + OVERHEAD


class PrefixCache:
    """States of token prefixes for one model, least recently used first out. Shared by threads.

    model      whose states they are
    max_bytes  the most that the arrays may take together

    Give it to generate(..., cache=cache). States are kept at the end of each prompt, at every 64th of its tokens, and
    at the end of each greedy or sampled continuation; a request that begins with the same tokens (and the same other
    inputs and states) goes on from the longest prefix that is there. Results are the same bits with and without it:
    for float32 on the native kernels, where a sequence in pieces gives the bits of the whole.

    hits and misses count prompts, tokens_reused the tokens that need not be read again.
    """

    def __init__(self, model: Any, max_bytes: int = 64 << 20):
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 0:
            raise InputError(f"max_bytes={max_bytes!r}, expected a number of bytes")
        self.model, self.max_bytes = model, max_bytes
        self.hits = self.misses = self.tokens_reused = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes that the entries take."""
        with self._lock:  # which put holds until there is space again
            return self._nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._nbytes = 0

    def find(self, keys: Sequence[bytes]) -> tuple[int, _Entry | None]:
        """The longest prefix that is there: its length and entry; (0, None) for none. keys[i] is that of i tokens.

        The whole prompt counts only with its scores.
        """
        with self._lock:
            for length in range(len(keys) - 1, 0, -1):
                entry = self._entries.get(keys[length])
                if entry is not None and (length < len(keys) - 1 or entry.scores is not None):
                    self._entries.move_to_end(keys[length])
                    self.hits += 1
                    self.tokens_reused += length
                    return length, entry
            self.misses += 1
            return 0, None

    def put(self, key: bytes, state: dict[str, np.ndarray], scores: np.ndarray | None) -> None:
        """Keep a copy of one row's state; scores (V,) or None. An entry larger than the budget is not kept."""
        entry = _Entry(
            {name: np.array(array) for name, array in state.items()}, None if scores is None else np.array(scores)
        )
        with self._lock:
            before = self._entries.pop(key, None)
            if before is not None:
                self._nbytes -= before.nbytes
                if entry.scores is None and before.scores is not None:
                    entry = before
            if entry.nbytes > self.max_bytes:
                return
            self._entries[key] = entry
            self._nbytes += entry.nbytes
            while self._nbytes > self.max_bytes:
                _, oldest = self._entries.popitem(last=False)
                self._nbytes -= oldest.nbytes


class Prefixes:
    """The keys of one call's prefixes in a cache: everything that decides about a row's state, hashed in order."""

    def __init__(self, cache: PrefixCache, stepper: Stepper, prompts: Sequence[np.ndarray]):
        self.cache = cache
        self._digests = stepper.digests()
        self.keys = [self._chain(digest, prompt) for digest, prompt in zip(self._digests, prompts, strict=True)]

    @staticmethod
    def _chain(digest: Any, tokens: np.ndarray) -> list[bytes]:
        keys = [digest.digest()]
        for token in tokens.tolist():
            digest.update(token.to_bytes(8, "little"))
            keys.append(digest.digest())
        return keys

    def keep_continuation(
        self, prompt: int, tokens: Sequence[int], state: dict[str, np.ndarray], scores: np.ndarray
    ) -> None:
        """Keep the state after a prompt and the tokens that were generated and read after it."""
        key = self._chain(self._digests[prompt].copy(), np.asarray(tokens, np.int64))[-1]
        self.cache.put(key, state, scores)


def read_prompts(
    stepper: Stepper, prompts: Sequence[np.ndarray], prefixes: Prefixes | None = None
) -> tuple[np.ndarray, TokenRows]:
    """Every prompt read to its end: scores of the next token (B, V), and the rows there.

    Prompts are read a block at a time, those that begin together, and those that go on from a state separately.
    """
    count = len(prompts)
    lengths = np.array([len(prompt) for prompt in prompts], np.int64)
    at = np.zeros(count, np.int64)
    scores = np.empty((count, stepper.size), stepper.dtype)
    state = None if stepper.rows.state is None else {k: v.copy() for k, v in stepper.rows.state.items()}
    fresh = np.full(count, state is None)
    if prefixes is not None:
        for row, keys in enumerate(prefixes.keys):
            at[row], entry = prefixes.cache.find(keys)
            if entry is None:
                continue
            state = _put_rows(state, np.array([row]), entry.state, count)
            fresh[row] = False
            if at[row] == lengths[row]:
                scores[row] = entry.scores
    while (at < lengths).any():
        ends = np.minimum(lengths, (at // BLOCK + 1) * BLOCK)
        for rows in _together(stepper, at, ends, fresh):
            last, after = _read(stepper, prompts, rows, at, ends, None if fresh[rows[0]] else state)
            state = _put_rows(state, rows, after, count)
            scores[rows] = last
        if prefixes is not None:
            for row in np.flatnonzero(at < ends).tolist():
                one = {name: array[:, row : row + 1] for name, array in cast(dict, state).items()}
                prefixes.cache.put(prefixes.keys[row][ends[row]], one, scores[row])
        fresh[:] = False
        at = ends
    return scores, TokenRows(stepper, np.arange(count), stepper.rows.fixed, state)


def _read(stepper, prompts, rows, at, ends, state):
    """Tokens at to ends of some rows: scores of the token after each row's last (n, V), and the states there."""
    counts = ends[rows] - at[rows]
    ids = np.zeros((len(rows), counts.max()), np.int64)
    for place, row in enumerate(rows):
        ids[place, : counts[place]] = prompts[row][at[row] : ends[row]]
    given = stepper.rows.take(rows).after(
        None if state is None else {k: v.take(rows, axis=1) for k, v in state.items()}
    )
    scores, after = stepper.run(given, ids, counts if (counts < counts.max()).any() else None)
    return scores[np.arange(len(rows)), counts - 1] if stepper.per_step else scores, after.state


def _together(stepper: Stepper, at: np.ndarray, ends: np.ndarray, fresh: np.ndarray) -> list[np.ndarray]:
    """Rows that one call can read: all that start alike, and without lengths have the same number of tokens."""
    groups: dict[Any, list[int]] = {}
    for row in np.flatnonzero(at < ends):
        key = (bool(fresh[row]), 0 if stepper.lengths is not None else int(ends[row] - at[row]))
        groups.setdefault(key, []).append(int(row))
    return [np.array(rows) for rows in groups.values()]


def _put_rows(state, rows, part, count):
    """states (layers, count, size) with some rows replaced; made if there are none yet."""
    if state is None:
        state = {name: np.zeros((len(array), count, *array.shape[2:]), array.dtype) for name, array in part.items()}
    for name, array in part.items():
        state[name][:, rows] = array
    return state
