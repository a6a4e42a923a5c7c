"""Driving a model token by token: ids in, scores of the next token out, states between.

What does not depend on the tokens (an encoder in the same graph, a memory's projected keys) is computed once. Rows
share arrays that are never written to: forking a row for a beam is an index, and a row that keeps its place costs
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from rnncore.decode.streamed import Streamed
from rnncore.errors import InputError, UnsupportedError, shown
from rnncore.graph.axes import Followed, follow
from rnncore.graph.nodes import Input
from rnncore.graph.spec import Spec
from rnncore.kernels._graph import walk
from rnncore.ops.work import INTERPRETED, Cost
from rnncore.runtime.arguments import accept_inputs, accept_state
from rnncore.runtime.attention_decoder import DecoderStep
from rnncore.runtime.budget import MeteredStep, metering
from rnncore.runtime.model import nothing
from rnncore.runtime.state import State

__all__ = ["KINDS", "SCORED", "Stepper", "TokenRows"]

KINDS = ("logits", "probabilities", "log_probabilities")
SCORED = 32  # operations that one score takes: its logarithm, and being sorted among the others


class TokenRows:
    """Rows of a step: the prompt of each, its state, and the inputs that the steps read.

    state is None before the first step, where initial states are the model's own. Arrays are never written to.
    """

    __slots__ = ("fixed", "owners", "state", "stepper")

    def __init__(self, stepper: Stepper, owners: np.ndarray, fixed: Mapping[Any, Any], state: dict | None):
        self.stepper, self.owners, self.fixed, self.state = stepper, owners, fixed, state

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, index: np.ndarray) -> TokenRows:
        """Some of these rows, in any order and number."""
        if len(index) == len(self) and (index == np.arange(len(self))).all():
            return self
        state = None if self.state is None else {name: array.take(index, axis=1) for name, array in self.state.items()}
        owners = self.owners[index]
        same = np.array_equal(owners, self.owners)  # beams that change places within a prompt keep its inputs
        return TokenRows(self.stepper, owners, self.fixed if same else self.stepper.fixed_rows(owners), state)

    def after(self, state: dict[str, np.ndarray]) -> TokenRows:
        """The same rows in another state."""
        return TokenRows(self.stepper, self.owners, self.fixed, state)


class Stepper:
    """A model, the inputs that stay the same while tokens come, and the place where tokens enter.

    count    rows: one for each prompt
    inputs   every other input by name, a row for each prompt
    state    where the recurrent layers that tokens reach start from; None: from the beginning
    tokens   name of the input of tokens: ids (B, T), or one-hot (B, T, V). None: the only one it can be
    output   name of the output of scores, (B, T, V) or (B, V). None: the only one it can be
    kind     what the scores are, one of KINDS; None: what the output's node says (Softmax, LogSoftmax, any other)
    longest  the most tokens that a row will have

    With a budget of the model's all that the stepper does counts as one call.
    Raises InputError, and UnsupportedError naming the node where a step needs what comes after it.
    """

    def __init__(
        self,
        model: Any,
        count: int,
        inputs: Mapping[str, Any] | None = None,
        state: Any = None,
        tokens: str | None = None,
        output: str | None = None,
        kind: str | None = None,
        longest: int = 1,
    ):
        if inputs is not None and not isinstance(inputs, Mapping):
            raise InputError(f"inputs: {type(inputs).__name__}, expected a mapping of names to arrays")
        for name, value in (("tokens", tokens), ("output", output), ("scores", kind)):
            if not isinstance(value, str | None):
                raise InputError(f"{name}={shown(value)}, expected a name or None")
        given = dict(inputs or {})
        spec = model.spec
        self.meter = model.budget.meter() if model._limited else None
        self.spec, self.count = spec, count
        self.entry = _token_input(spec, given, tokens)
        self.tokens = self.entry.name
        moving, reason = _moving(spec, self.tokens)
        self.output, self.size = _score_output(spec, moving, output)
        self.kind = _kind(spec, self.output, kind)
        self.hot = self.entry.dtype == "float"
        if self.hot and self.entry.shape[2] != self.size:
            raise InputError(
                f"input {self.tokens!r} is one-hot of {self.entry.shape[2]} tokens, output {self.output!r} has scores "
                f"of {self.size}, expected the same tokens"
            )
        self.per_step = len(spec.values[self.output].shape) == 3
        self.dtype = model.dtype
        self.streamed = _streamed(model, self.tokens, self.output, longest, reason) if reason else None
        self.lengths: str | None = None
        start: dict[str, np.ndarray] | None
        self._fixed: dict[Any, Any]
        if self.streamed is not None:
            self.carrying = self.streamed.carrying
            start, self._fixed, self._axes = self.streamed.start(count, given, state)
        else:
            start = self._prepare(model, given, moving, state)
        self.rows = TokenRows(self, np.arange(count), self._fixed, start)

    def _prepare(self, model: Any, given: dict[str, Any], moving: set[str], state: Any) -> dict | None:
        """Compute what the tokens do not reach; returns the state that the others start from."""
        spec, count = self.spec, self.count
        steps = list(zip(spec.nodes, model._steps, strict=True))
        counted = {
            node.name: MeteredStep(step, node, (), self.dtype) if model._limited and step is not nothing else step
            for node, step in steps
        }
        self.steps = [counted[node.name] for node in spec.nodes if _first(node, moving)]
        self.carrying = tuple(node for node in spec.stateful if node.name in moving)
        self.lengths = self._lengths_input(given)
        values: dict[Any, Any] = accept_inputs(
            spec, {**given, self.tokens: self._encode(np.zeros((count, 1), np.int64))}, self.dtype
        )
        del values[self.tokens]
        values.update(model._constants)
        after: dict[str, np.ndarray] = {}
        with np.errstate(all="ignore"), metering(self.meter):  # as in a model's own run
            for node, step in steps:
                if not _first(node, moving):
                    walk([counted[node.name]], None, values, None, after)
                elif isinstance(step, DecoderStep):
                    values[step.prepared_key] = step.prepare(values, count)
        read = {name for node in spec.nodes if _first(node, moving) for name in node.reads}
        self._fixed = {key: value for key, value in values.items() if key in read or isinstance(key, tuple)}
        if self.lengths is not None:
            self._fixed[self.lengths] = None
        self._axes = {key: self._batch_axis(key) for key in self._fixed}
        if state is not None:
            return dict(accept_state(self.carrying, state, count, self.dtype))
        return None if self.carrying else {}

    def run(self, rows: TokenRows, ids: np.ndarray, lengths: np.ndarray | None = None) -> tuple[np.ndarray, TokenRows]:
        """Tokens (n, t) of n rows -> scores (n, t, V), or (n, V) of the last step; and the rows after them.

        lengths (n,): tokens of each row that count; only for a model that has lengths.
        """
        with metering(self.meter):
            return self._run(rows, ids, lengths)

    def _run(self, rows: TokenRows, ids: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, TokenRows]:
        if self.streamed is not None:
            scores, carried = self.streamed.run(dict(rows.fixed), rows.state or {}, self._encode(ids))
            return scores, rows.after(carried)
        values = dict(rows.fixed)
        values[self.tokens] = self._encode(ids)
        if lengths is not None and self.lengths is not None:
            values[self.lengths] = lengths
        before = None if rows.state is None else State.of(rows.state)
        after: dict[str, np.ndarray] = {}
        with np.errstate(all="ignore"):
            walk(self.steps, None, values, before, after)
        return values[self.output], rows.after(after)

    def afford(self, count: int) -> None:
        """InputError where the scores of ``count`` rows, and what is made of them, are beyond the model's budget."""
        if self.meter is not None:
            numbers = count * self.size
            self.meter.alive = 0
            self.meter.take(f"output {self.output!r}", Cost(SCORED * numbers + INTERPRETED * count, 24 * numbers))

    def log_probabilities(self, scores: np.ndarray, where: Sequence[str]) -> np.ndarray:
        """Scores (n, V) as log-probabilities in float64. InputError for NaN or +infinity, with where it is."""
        self.afford(len(scores))
        scores = scores.astype(np.float64)
        top = scores.max(axis=1)
        if not (top < np.inf).all():
            row = int(np.flatnonzero(~(top < np.inf))[0])
            number = "NaN" if np.isnan(top[row]) else "infinity"
            raise InputError(f"{where[row]}: output {self.output!r} contains {number}, expected scores of tokens")
        if (top == -np.inf).any():
            raise InputError(
                f"{where[int(np.argmin(top))]}: output {self.output!r} is -infinity for every token, expected scores"
            )
        if self.kind == "probabilities":
            if (scores < 0).any():
                row = int(np.flatnonzero((scores < 0).any(axis=1))[0])
                raise InputError(f"{where[row]}: output {self.output!r} has a negative probability; are these logits?")
            with np.errstate(divide="ignore"):
                scores = np.log(scores)
            top = scores.max(axis=1)
            if (top == -np.inf).any():
                raise InputError(f"{where[int(np.argmin(top))]}: output {self.output!r} is 0 for every token")
        scores -= top[:, None]
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def fixed_rows(self, owners: np.ndarray) -> dict[Any, Any]:
        """The inputs that the steps read, a row for each owner."""
        return {key: _take(value, owners, self._axes[key]) for key, value in self._fixed.items()}

    def digests(self) -> list[Any]:
        """A hash for each prompt of everything but its tokens that decides about its states and scores."""
        digests = []
        for row in range(self.count):
            digest = hashlib.blake2b(f"{self.tokens}\0{self.output}\0".encode(), digest_size=16)
            for key in sorted(key for key in self._fixed if isinstance(key, str)):
                _hash_array(digest, key, _take(self._fixed[key], slice(row, row + 1), self._axes[key]))
            for name, array in sorted((self.rows.state or {}).items()):
                _hash_array(digest, name, array[:, row])
            digests.append(digest)
        return digests

    def _encode(self, ids: np.ndarray) -> np.ndarray:
        """ids as the model's input takes them."""
        if not self.hot:
            return np.ascontiguousarray(ids, np.int64)
        hot = np.zeros((*ids.shape, self.size), self.dtype)
        np.put_along_axis(hot, ids[..., None], 1, axis=-1)
        return hot

    def _lengths_input(self, given: Mapping[str, Any]) -> str | None:
        """The optional input that says how many tokens of a row count, if there is exactly that."""
        names = {node.lengths for node in self.carrying}
        free = {entry.name for entry in self.spec.inputs if entry.optional and entry.name not in given}
        return names.pop() if len(names) == 1 and names <= free else None

    def _batch_axis(self, key: Any) -> int | None:
        if isinstance(key, tuple):
            return 0
        batch = self.entry.shape[0]
        shape = self.spec.values[key].shape
        return shape.index(batch) if batch in shape else None


def _take(value: Any, index: Any, axis: int | None) -> Any:
    if value is None or axis is None:
        return value
    if isinstance(value, tuple):
        return tuple(_take(one, index, axis) for one in value)
    return value[(slice(None),) * axis + (index,)]


def _hash_array(digest: Any, name: str, array: np.ndarray | None) -> None:
    digest.update(f"{name}\0{None if array is None else (array.dtype.str, array.shape)}\0".encode())
    if array is not None:
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")


def _token_input(spec: Spec, given: Mapping[str, Any], name: str | None) -> Input:
    """The input where tokens enter."""
    entries = {entry.name: entry for entry in spec.inputs}
    if name is not None:
        if name not in entries:
            raise InputError(f"tokens={name!r} is no input of the model, expected one of {', '.join(entries)}")
        if name in given:
            raise InputError(f"input {name!r} is given twice: as tokens and among the inputs")
        if not _holds_tokens(entries[name]):
            hint = _of_one_step(spec, given)
            raise InputError(
                f"tokens={name!r} is {entries[name].value}, expected int64 (B, T) or float (B, T, size){hint}"
            )
        return entries[name]
    fitting = [e for e in spec.inputs if e.name not in given and not e.optional and _holds_tokens(e)]
    fitting = [entry for entry in fitting if entry.dtype == "int64"] or fitting
    if len(fitting) != 1:
        names = ", ".join(e.name for e in fitting) or "none"
        raise InputError(
            f"inputs that can take tokens, int64 (B, T) or one-hot (B, T, size): {names}; expected one, or tokens=NAME "
            f"and the others in inputs{_of_one_step(spec, given)}"
        )
    return fitting[0]


def _of_one_step(spec: Spec, given: Mapping[str, Any]) -> str:
    """A hint where an input may be the tokens of one step."""
    tokens = [e.name for e in spec.inputs if e.name not in given and not e.optional and _holds_a_step(e)]
    if not tokens:
        return ""
    return (
        f". Input {tokens[0]!r} may be one step's tokens: over_time({{STATE: OUTPUT, ...}}, starts=[STATE, ...]) makes "
        "a model of sequences from one of a step, whose states are inputs and outputs"
    )


def _holds_a_step(entry: Input) -> bool:
    """Whether an input is int64 (B,) or (B, 1)."""
    return entry.dtype == "int64" and bool(entry.shape) and entry.shape[1:] in ((), (1,))


def _holds_tokens(entry: Input) -> bool:
    ids = entry.dtype == "int64" and len(entry.shape) == 2
    hot = entry.dtype == "float" and len(entry.shape) == 3 and isinstance(entry.shape[2], int)
    return (ids or hot) and isinstance(entry.shape[0], str) and isinstance(entry.shape[1], str)


def _score_output(spec: Spec, moving: set[str], name: str | None) -> tuple[str, int]:
    """The output that has a score for each token, and how many tokens there are."""

    def fits(output: str) -> bool:
        value = spec.values[output]
        return (
            output in moving
            and value.dtype == "float"
            and len(value.shape) in (2, 3)
            and isinstance(value.shape[-1], int)
        )

    if name is not None:
        if name not in spec.outputs or not fits(name):
            raise InputError(
                f"output={name!r}, expected an output that depends on the tokens, float (B, T, size) or (B, size)"
            )
        return name, cast(int, spec.values[name].shape[-1])
    states = {f"{node.name}.{key}" for node in spec.stateful for key in node.state_shapes("B")}
    fitting = [output for output in spec.outputs if fits(output) and output not in states]
    if len(fitting) != 1:
        names = ", ".join(fitting) or "none"
        raise InputError(f"outputs that can be scores of tokens: {names}; expected one, or output=NAME")
    return fitting[0], cast(int, spec.values[fitting[0]].shape[-1])


def _kind(spec: Spec, output: str, given: str | None) -> str:
    if given is not None:
        if given not in KINDS:
            raise InputError(f"scores={given!r}, expected one of {', '.join(KINDS)}")
        return given
    node = next((node for node in spec.nodes if node.name == output), None)
    return {"Softmax": "probabilities", "LogSoftmax": "log_probabilities"}.get(node.op if node else "", "logits")


def _first(node: Any, moving: set[str]) -> bool:
    """Whether a node is among those that the tokens reach."""
    return any(name in moving for name in node.reads)


def _moving(spec: Spec, tokens: str) -> tuple[set[str], str]:
    """Names of the values, and nodes, that depend on the tokens; and which node looks at other steps, "" for none."""
    time = spec.values[tokens].shape[1]
    followed = follow(spec, cast(str, time), among={tokens})
    moving, reason = {tokens}, ""
    for node in spec.nodes:
        if not _first(node, moving):
            continue
        why = _looks_ahead(node, followed)
        reason = reason or (why and f"node {node.name!r} {why}")
        moving |= {node.name, *node.names}
    return moving, reason


def _streamed(model: Any, tokens: str, output: str, longest: int, reason: str) -> Streamed:
    """The plan for a model with nodes that look at other steps. UnsupportedError where they come after."""
    try:
        return Streamed(model, tokens, output, longest)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{reason}, so the model cannot go on token by token: {error}; expected steps that need only what came "
            "before"
        ) from None


def _looks_ahead(node: Any, followed: Followed) -> str:
    """Why a node's steps need more than the tokens up to theirs; "" where they do not."""
    slots = [followed.places[name].kind if name else "free" for name in node.slots]
    reach = followed.reaches.get(node.name)
    if node.op == "Recurrent" and node.direction != "forward":
        return f"is {node.direction}"
    if node.stateful:
        moving = [name for name, kind in zip(node.slots[1:], slots[1:], strict=True) if kind != "free"]
        return f"reads {moving[0]!r}, which the tokens decide about" if moving else ""
    if "met" in slots or (reach is not None and not reach.independent):
        return f"({node.op}) needs more than one step of {node.slots[_first_of(slots)]!r}"
    return ""


def _first_of(kinds: Sequence[str]) -> int:
    return next(place for place, kind in enumerate(kinds) if kind != "free")
