"""Vocabulary: the tokens for the ids of an input or an output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rnncore.errors import InputError, SpecError, shown
from rnncore.graph.spec import Spec

__all__ = ["Vocabulary", "check_vocabularies"]

UNKNOWN = ("<unk>", "[UNK]", "<UNK>")


class Vocabulary(Sequence[str]):
    """Tokens in the order of their ids: ``vocabulary[3]`` is the token of id 3. Immutable.

    A vocabulary whose tokens are single characters (marks like "<s>" or "[UNK]" aside) reads a text character by
    character; any other reads words between spaces. A token that is not there becomes the vocabulary's own "<unk>",
    "[UNK]" or "<UNK>", and where it has none is an InputError. Raises SpecError for tokens that are no strings, or
    appear twice.
    """

    def __init__(self, tokens: Iterable[str]):
        try:
            self._tokens = tuple(tokens)
        except TypeError:
            raise SpecError(f"vocabulary: {type(tokens).__name__}, expected a list of tokens") from None
        wrong = [token for token in self._tokens if not isinstance(token, str)]
        if wrong or not self._tokens:
            described = f"token {shown(wrong[0])}" if wrong else "no tokens"
            raise SpecError(f"vocabulary: {described}, expected strings")
        self._ids = {token: place for place, token in enumerate(self._tokens)}
        if len(self._ids) < len(self._tokens):
            twice = next(token for place, token in enumerate(self._tokens) if self._ids[token] != place)
            raise SpecError(f"vocabulary: token {twice!r} occurs twice, expected each once")
        self._unknown = next((self._ids[token] for token in UNKNOWN if token in self._ids), None)
        self.by_character = all(len(token) == 1 or _is_mark(token) for token in self._tokens)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, place):
        return self._tokens[place]

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return self._tokens == other._tokens if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._tokens)

    def __reduce__(self):
        return Vocabulary, (self._tokens,)

    def __repr__(self) -> str:
        return f"<Vocabulary: {len(self)} tokens, {', '.join(map(repr, self._tokens[:4]))}, ...>"

    def id(self, token: str) -> int:
        """The id of exactly this token. InputError where it is not there."""
        if token not in self._ids:
            raise InputError(f"token {token!r} is not in the vocabulary of {len(self)} tokens")
        return self._ids[token]

    def ids(self, text: str | Iterable[str]) -> np.ndarray:
        """The ids (T,) int64 of a text, or of tokens."""
        tokens = text.split() if isinstance(text, str) and not self.by_character else list(text)
        ids = [self._ids.get(token, self._unknown) for token in tokens]
        if None in ids:
            place = ids.index(None)
            raise InputError(f"token {tokens[place]!r} at {place} is not in the vocabulary, which has no '<unk>'")
        return np.array(ids, np.int64)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each id."""
        return [self._tokens[i] for i in ids]

    def text(self, ids: Iterable[int]) -> str:
        """The tokens of ids as one text: characters joined, words with spaces between them."""
        return ("" if self.by_character else " ").join(self.tokens(ids))


def _is_mark(token: str) -> bool:
    return len(token) > 2 and token[0] + token[-1] in ("<>", "[]")


def check_vocabularies(spec: Spec, given: Mapping[str, Any]) -> dict[str, Vocabulary]:
    """The vocabularies of a Spec's inputs and outputs by name. SpecError where one fits no such value.

    Ids of an input have one value for each row of the Embedding that reads them; any other value has a token for
    each number of its last dimension.
    """
    if not isinstance(given, Mapping):
        raise SpecError(f"vocabulary: {type(given).__name__}, expected a mapping of input and output names to tokens")
    inputs = {entry.name for entry in spec.inputs}
    vocabularies = {}
    for name, tokens in given.items():
        if name not in inputs and name not in spec.outputs:
            known = ", ".join([*sorted(inputs), *spec.outputs])
            raise SpecError(f"vocabulary: {name!r} is no input or output, expected one of {known}")
        if isinstance(tokens, str) or not isinstance(tokens, Iterable):
            raise SpecError(f"vocabulary {name!r}: {type(tokens).__name__}, expected a list of tokens")
        try:
            vocabularies[name] = tokens if isinstance(tokens, Vocabulary) else Vocabulary(tokens)
        except SpecError as error:
            raise SpecError(f"{error} (of {name!r})") from None
        for size in _sizes(spec, name):
            if size != len(vocabularies[name]):
                raise SpecError(f"vocabulary {name!r}: {len(vocabularies[name])} tokens, expected {size}")
    return vocabularies


def _sizes(spec: Spec, name: str) -> set[int]:
    """The numbers of different ids that a value has by the graph: one at most, unless the graph contradicts itself."""
    value = spec.values[name]
    if value.dtype == "float":
        return {size for size in value.shape[-1:] if isinstance(size, int)}
    readers: list[Any] = [node for node in spec.nodes if name in node.reads]
    return {node.attributes["input_size"] for node in readers if node.op == "Embedding"}
