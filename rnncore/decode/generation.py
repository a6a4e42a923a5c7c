"""generate: continuing prompts, by the most probable token, by draws, or by beam search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rnncore.decode.beams import Search
from rnncore.decode.choosing import Chooser, as_seeds
from rnncore.decode.prefixes import PrefixCache, Prefixes, read_prompts
from rnncore.decode.stepper import Stepper, TokenRows
from rnncore.errors import InputError, shown
from rnncore.graph.vocabulary import Vocabulary
from rnncore.runtime.arguments import as_array, as_items
from rnncore.runtime.budget import check_memory

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rnncore.runtime.model import Model
    from rnncore.runtime.types import StateLike

__all__ = ["Generation", "as_prompts", "generate", "listed"]

ROW_BYTES = (
    1024  # that a row keeps in addition to its state: its generator of random numbers, tokens, log-probabilities
)

Constraint = Callable[[int, np.ndarray], Any]


@dataclass(frozen=True, eq=False)
class Generation:
    """The continuation of one prompt.

    tokens        ids (T,) int64, the stop token last where there is one
    log_probs     of each token, (T,) float64: the model's own, before temperature, filters and constraints
    finish        "stop", or "length" where max_length came first
    score         of a beam: the sum of its log-probabilities, with what a constraint added, divided by
                  length ** length_penalty; else the sum of log_probs
    symbols text  the tokens of the vocabulary and the text they make, without the stop token; None without a vocabulary
    alternatives  the next best beams, or the further samples in their order
    """

    tokens: NDArray[np.int64]
    log_probs: NDArray[np.float64]
    finish: str
    score: float
    symbols: tuple[str, ...] | None = None
    text: str | None = None
    alternatives: tuple[Generation, ...] = ()

    @property
    def log_prob(self) -> float:
        """Of all tokens together."""
        return float(self.log_probs.sum())


def generate(
    model: Model,
    prompts: Sequence[Any] | np.ndarray,
    max_length: int = 100,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | Sequence[int] | None = None,
    samples: int = 1,
    beams: int = 1,
    n_best: int = 1,
    length_penalty: float = 1.0,
    stop: Sequence[int | str] = (),
    constraint: Constraint | None = None,
    inputs: Mapping[str, ArrayLike] | None = None,
    state: StateLike = None,
    cache: PrefixCache | None = None,
    tokens: str | None = None,
    output: str | None = None,
    scores: str | None = None,
) -> list[Generation]:
    """Continue each prompt; a list with a Generation for each.

    prompts      sequences of ids, each with at least one (such as a start token); texts or lists of tokens for a model
                 with a vocabulary
    max_length   the number of tokens that are added, unless a stop token comes first
    temperature  None: 1 if any of top_k, top_p, seed and samples asks for draws, else 0, which is greedy
    top_k top_p  draw from the k most probable tokens; from the fewest whose probabilities reach p. Both: k first
    seed         an integer, or one for each prompt. A row's draws depend on its seed and scores alone: one seed for all
                 counts the prompts too, a seed for each gives the same text in whatever company
    samples      draws for each prompt: the first is the result, the others its alternatives
    beams        more than 1: beam search of that width; n_best of the finished beams are returned, the best one with
                 the others as alternatives. A beam's score is its log-probability / length ** length_penalty
    stop         ids or tokens that end a text; they are its last token
    constraint   (prompt's place, its tokens so far with those generated) -> the ids that may follow, or a bool (V,), or
                 a float (V,) added to the log-probabilities, or None for no constraint. Called for each row and step
    inputs       the model's other inputs by name, a row for each prompt: memory, memory_lengths, ...
    state        where the recurrent layers start, a row for each prompt: an encoder's final state
    cache        a PrefixCache of this model
    tokens output   names of the input of tokens and the output of scores, where there are several
    scores       "logits", "probabilities" or "log_probabilities"; None: what the output's node says

    Rows are computed together, ended ones leave. Causal convolutions and causal attention keep the steps that they look
    back on. Raises InputError, and UnsupportedError for a model that cannot go on
    token by token (a bidirectional layer, an op over all of time), naming the node.
    """
    for name, value, least in (("max_length", max_length, 0), ("samples", samples, 1), ("beams", beams, 1)):
        _check_count(name, value, least)
    drawing = any(option is not None for option in (top_k, top_p, seed)) or samples > 1
    if temperature is None:
        temperature = 1.0 if drawing else 0.0
    if beams > 1 and (temperature != 0 or samples > 1):
        raise InputError(
            f"beams={beams} with {'samples' if samples > 1 else 'temperature, top_k, top_p or seed'}, "
            "expected either beam search or draws"
        )
    _check_count("n_best", n_best, 1)
    if n_best > beams:
        raise InputError(f"n_best={n_best}, expected at most the {beams} beams")
    wrong = isinstance(length_penalty, bool) or not isinstance(length_penalty, (int, float))
    if wrong or not 0 <= length_penalty < np.inf:
        raise InputError(f"length_penalty={length_penalty!r}, expected a number of at least 0")
    if constraint is not None and not callable(constraint):
        raise InputError(f"constraint: {type(constraint).__name__}, expected a function (prompt, tokens)")
    if cache is not None and not (isinstance(cache, PrefixCache) and cache.model is model):
        raise InputError("cache: not a PrefixCache of this model, expected PrefixCache(model)")

    prompts = listed(prompts)
    longest = max(map(len, prompts), default=0) + max_length
    stepper = Stepper(model, len(prompts), inputs, state, tokens, output, scores, longest)
    if beams > stepper.size:
        raise InputError(f"beams={beams}, expected at most the {stepper.size} tokens of output {stepper.output!r}")
    vocabulary = model.vocabulary.get(stepper.output) or model.vocabulary.get(stepper.tokens)
    reading = model.vocabulary.get(stepper.tokens) or vocabulary
    run = _Run(
        stepper,
        as_prompts(prompts, stepper.size, reading),
        max_length,
        _stop_ids(stop, stepper.size, vocabulary),
        constraint,
        vocabulary,
        cache,
    )
    if beams > 1:
        return run.search(beams, n_best, float(length_penalty))
    rows = len(prompts) * samples
    check_memory(f"samples={samples}", ROW_BYTES * rows, model.budget)
    stepper.afford(rows)
    seeds = as_seeds(seed, len(prompts), samples)
    return run.choose(Chooser(stepper.size, seeds, temperature, top_k, top_p), samples)


class _Run:
    """One call of generate: what all its ways share."""

    def __init__(self, stepper, prompts, max_length, stop, constraint, vocabulary, cache):
        self.stepper, self.prompts, self.max_length, self.stop = stepper, prompts, max_length, stop
        self.constraint, self.vocabulary = constraint, vocabulary
        self.prefixes = Prefixes(cache, stepper, prompts) if cache is not None and prompts and max_length else None

    def choose(self, chooser: Chooser, samples: int) -> list[Generation]:
        """A token at a time for every row, greedily or by draws."""
        count = len(self.prompts) * samples
        chosen: list[list[int]] = [[] for _ in range(count)]
        probable: list[list[float]] = [[] for _ in range(count)]
        ended = np.zeros(count, bool)
        live = np.arange(count)
        if count and self.max_length:
            scores, rows = read_prompts(self.stepper, self.prompts, self.prefixes)
            every = np.repeat(np.arange(len(self.prompts)), samples)
            scores, rows = scores[every], rows.take(every)
        for step in range(self.max_length):
            if not len(live):
                break
            own = self._own(scores, rows, step)
            picked = chooser(self._constrained(own, rows, [chosen[row] for row in live]), live)
            for row, token, log_prob in zip(
                live.tolist(), picked.tolist(), own[np.arange(len(live)), picked].tolist(), strict=True
            ):
                chosen[row].append(token)
                probable[row].append(log_prob)
            ends = np.isin(picked, self.stop)
            ended[live[ends]] = True
            self._keep(rows, scores, ends if step + 1 < self.max_length else np.ones_like(ends), chosen, live)
            if step + 1 < self.max_length and not ends.all():
                scores, rows = self.stepper.run(rows.take(np.flatnonzero(~ends)), picked[~ends, None])
                scores = scores[:, -1] if self.stepper.per_step else scores
            live = live[~ends]
        results = [self._result(chosen[i], probable[i], bool(ended[i])) for i in range(count)]
        return [self._first_of(results[i : i + samples]) for i in range(0, count, samples)]

    def search(self, beams: int, n_best: int, length_penalty: float) -> list[Generation]:
        """Beam search for each prompt, all of their beams in one batch."""
        searches = [Search(beams, self.max_length, length_penalty, self.stop) for _ in self.prompts]
        if self.prompts and self.max_length:
            scores, rows = read_prompts(self.stepper, self.prompts, self.prefixes)
            self._advance(searches, scores, rows)
        results = []
        for search in searches:
            best = search.best(n_best) if self.max_length else [((), (), False, 0.0)]
            results.append(
                self._first_of([replace(self._result(t, p, ended), score=score) for t, p, ended, score in best])
            )
        return results

    def _advance(self, searches: list[Search], scores: np.ndarray, rows: TokenRows) -> None:
        step = 0
        while len(rows):
            own = self._own(scores, rows, step)
            live = [beam for search in searches for beam in search.live]
            allowed = self._constrained(own, rows, [beam.tokens for beam in live])
            parents, first = [], 0
            for search in searches:
                count = len(search.live)
                if count:
                    part = slice(first, first + count)
                    parents += [first + parent for parent in search.extend(own[part], allowed[part])]
                    first += count
            if not parents:
                return
            picked = np.array([beam.tokens[-1] for search in searches for beam in search.live], np.int64)
            scores, rows = self.stepper.run(rows.take(np.array(parents)), picked[:, None])
            scores = scores[:, -1] if self.stepper.per_step else scores
            step += 1

    def _own(self, scores: np.ndarray, rows: TokenRows, step: int) -> np.ndarray:
        where = _Places(rows.owners, step)
        return self.stepper.log_probabilities(scores, where)

    def _constrained(self, own: np.ndarray, rows: TokenRows, generated: list[Sequence[int]]) -> np.ndarray:
        """The log-probabilities with what the constraint says."""
        if self.constraint is None:
            return own
        allowed = own.copy()
        for row, tokens in enumerate(generated):
            prompt = int(rows.owners[row])
            so_far = np.concatenate([self.prompts[prompt], np.array(tokens, np.int64)])
            what = f"constraint of prompt {prompt}, step {len(tokens)}"
            allowed[row] += _bias(self.constraint(prompt, so_far), self.stepper.size, what)
            if allowed[row].max() == -np.inf:
                raise InputError(f"{what}: no token is left, expected at least one (such as a stop token)")
        return allowed

    def _keep(self, rows, scores, leaving, chosen, live) -> None:
        """Give the prefix cache the states of rows that end here."""
        if self.prefixes is None:
            return
        for place in np.flatnonzero(leaving):
            state = {name: array[:, place : place + 1] for name, array in rows.state.items()}
            self.prefixes.keep_continuation(int(rows.owners[place]), chosen[live[place]][:-1], state, scores[place])

    def _result(self, tokens: Sequence[int], log_probs: Sequence[float], ended: bool) -> Generation:
        ids, sums = np.array(tokens, np.int64), np.array(log_probs, np.float64)
        generation = Generation(ids, sums, "stop" if ended else "length", float(sums.sum()))
        if self.vocabulary is None:
            return generation
        shown = ids[:-1] if ended else ids
        return replace(generation, symbols=tuple(self.vocabulary.tokens(shown)), text=self.vocabulary.text(shown))

    @staticmethod
    def _first_of(results: list[Generation]) -> Generation:
        return replace(results[0], alternatives=tuple(results[1:])) if len(results) > 1 else results[0]


class _Places(Sequence[str]):
    """The place of each row of a step, in words, made only for an error."""

    def __init__(self, owners: np.ndarray, step: int):
        self.owners, self.step = owners, step

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, row):
        return f"prompt {self.owners[row]}, step {self.step}"


def listed(prompts: Any) -> list[Any]:
    """Prompts as a list of what has a length. InputError for anything else."""
    if isinstance(prompts, str):
        raise InputError("prompts: one text, expected a list of prompts")
    items = list(as_items("prompts", prompts))
    for row, prompt in enumerate(items):
        if not isinstance(prompt, Sized) or (isinstance(prompt, np.ndarray) and prompt.ndim == 0):
            raise InputError(f"prompt {row}: {type(prompt).__name__}, expected a sequence of ids")
    return items


def as_prompts(prompts: Any, size: int, vocabulary: Vocabulary | None) -> list[np.ndarray]:
    """Prompts as arrays of ids (T,) int64 below ``size``, each with at least one."""
    arrays = []
    for row, prompt in enumerate(prompts):
        what = f"prompt {row}"
        if isinstance(prompt, str) or (isinstance(prompt, (list, tuple)) and prompt and isinstance(prompt[0], str)):
            if vocabulary is None:
                raise InputError(f"{what}: text for a model without a vocabulary, expected ids")
            try:
                ids = vocabulary.ids(prompt)
            except InputError as error:
                raise InputError(f"{what}: {error}") from None
        else:
            ids = as_array(what, prompt) if len(prompt) else np.zeros(0, np.int64)
            if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
                raise InputError(f"{what}: {ids.dtype} {ids.shape}, expected a sequence of integer ids")
        if not len(ids):
            raise InputError(f"{what}: no tokens, expected at least one, such as a start token")
        wrong = np.flatnonzero((ids < 0) | (ids >= size))
        if len(wrong):
            raise InputError(f"{what}: id {ids[wrong[0]]} at {wrong[0]}, expected 0 to {size - 1}")
        arrays.append(ids.astype(np.int64))
    return arrays


def _stop_ids(stop: Any, size: int, vocabulary: Vocabulary | None) -> np.ndarray:
    """Stop tokens, given as ids or tokens, as ids."""
    given = [stop] if isinstance(stop, (str, int, np.integer)) else as_items("stop", stop)
    ids = []
    for token in given:
        if isinstance(token, str):
            if vocabulary is None:
                raise InputError(f"stop token {shown(token)} for a model without a vocabulary, expected ids")
            if token not in vocabulary:
                raise InputError(f"stop token {shown(token)} is not in the vocabulary of {len(vocabulary)} tokens")
            ids.append(vocabulary.id(token))
        elif isinstance(token, bool) or not isinstance(token, (int, np.integer)) or not 0 <= token < size:
            raise InputError(f"stop token {shown(token)} is unknown, expected an id from 0 to {size - 1}")
        else:
            ids.append(int(token))
    return np.array(ids, np.int64)


def _bias(given: Any, size: int, what: str) -> np.ndarray | float:
    """The result of a constraint as numbers to add to the log-probabilities."""
    if given is None:
        return 0.0
    array = np.asarray(given if isinstance(given, np.ndarray) else list(given))
    if array.dtype == np.bool_ and array.shape == (size,):
        return np.where(array, 0.0, -np.inf)
    if array.dtype.kind == "f" and array.shape == (size,):
        if np.isnan(array).any() or (array == np.inf).any():
            raise InputError(f"{what}: NaN or infinity, expected numbers or -infinity")
        return array
    if array.ndim == 1 and (array.dtype.kind in "iu" or not array.size):
        wrong = array[(array < 0) | (array >= size)] if array.size else array
        if len(wrong):
            raise InputError(f"{what}: id {wrong[0]}, expected 0 to {size - 1}")
        bias = np.full(size, -np.inf)
        bias[array.astype(np.int64)] = 0
        return bias
    raise InputError(f"{what}: {array.dtype} {array.shape}, expected ids, a bool ({size},) or a float ({size},)")


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise InputError(f"{name}={value!r}, expected an integer of at least {least}")
