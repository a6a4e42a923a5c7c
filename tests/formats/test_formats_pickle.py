"""Pickles as data: the values that Python's own pickle gives, whatever their size; vocabularies of a million words."""

import collections
import io
import math
import pickle
import random
import sys

import numpy as np
import pytest
import torch
from refusals import MEBIBYTES, SECONDS
from yardstick import within

from rnncore.errors import FormatError
from rnncore.files.cursor import Cursor
from rnncore.formats import read_checkpoint
from rnncore.formats.torch import pickle_reader as _pickle
from rnncore.formats.torch.pickle_reader import NOTHING, Pairs, PickleBudget, read_pickle

TABLE = {("collections", "OrderedDict"): lambda _: Pairs()}


def read(data, source=None):
    budget = PickleBudget("a", len(data))
    cursor = Cursor(data if source is None else source, "a", longest=_pickle.LONGEST_STRING)
    return read_pickle(cursor, TABLE, lambda _: None, budget), cursor, budget


def plain(value):
    """As Python's pickle gives it."""
    if type(value) is Pairs:
        return {plain(key): plain(child) for key, child in zip(value[::2], value[1::2], strict=True)}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return b"" if value is NOTHING else value


WORDS = ["", "a", "word", "ein längeres Wort", "語彙", "\U0001f600", "\ud800", "x" * 255, "x" * 256, "y" * 70_000]
NUMBERS = [0, 255, 256, 65_535, 65_536, -1, 2**31 - 1, -(2**31), 2**31, 2**70, -(2**70), 0.5, -math.inf, True, None]


def drawn(random, depth):
    kind = random.randrange(6 if depth else 2)
    if kind == 0:
        return random.choice(NUMBERS)
    if kind == 1:
        return random.choice(WORDS[:-1])
    children = [drawn(random, depth - 1) for _ in range(random.choice([0, 1, 2, 3, 40]))]
    if kind == 2:
        return tuple(children)
    if kind == 3:
        return children + children[:1] * 2  # by the memo
    keys = [random.choice(WORDS[:-1]) + str(at) for at in range(len(children))]
    made = dict(zip(keys, children, strict=True))
    return collections.OrderedDict(made) if kind == 4 else made


@pytest.mark.parametrize("window", [16, 100, 1 << 16])
@pytest.mark.parametrize("protocol", range(6))
def test_the_values_that_pickle_gives(protocol, window, monkeypatch):
    """Windows of few bytes end within every kind of opcode."""
    monkeypatch.setattr(_pickle, "WINDOW", window)
    source = random.Random(window * 10 + protocol)
    for _ in range(60):
        value = drawn(source, 3)
        data = pickle.dumps(value, protocol)
        found, cursor, budget = read(data + b"beyond")
        assert plain(found) == value and cursor.tell() == len(data)
        assert budget.opcodes.left < budget.opcodes.limit
        found, cursor, _ = read(data, io.BytesIO(data))
        assert plain(found) == value and not cursor.remaining


@pytest.mark.parametrize("protocol", range(6))
def test_every_prefix_is_refused(protocol):
    data = pickle.dumps([{"a": 300, "b": ("c", 0.5, 7, -1)}, "a" * 300, 2**40], protocol)
    for end in range(len(data)):
        with pytest.raises(FormatError):
            read(data[:end])


def test_the_memo_in_any_order():
    """As hostile or odd writers have it: beyond its end, over what was there, and filled up later."""
    body = (
        b"(K\x05q\x03K\x06q\x00K\x07q\x01h\x03K\x08q\x02h\x02h\x03K\x09q\x04h\x04"
        b"K\x0aq\x03h\x03K\x0br\x09\0\0\0j\x09\0\0\0t."
    )
    assert read(body)[0] == pickle.loads(body) == (5, 6, 7, 5, 8, 8, 5, 9, 9, 10, 10, 11, 11)
    late = b"\x80\x04(K\x05q\x05K\x06\x94K\x07\x94h\x00h\x01t."  # a dict of memos writes these at its length
    with pytest.raises(FormatError, match="memo index 0 was never written"):
        read(late)


def test_long_text_is_checked_and_dropped():
    found, _, _ = read(pickle.dumps({"a": "x" * 70_000, "b": "y" * 65_536, "c": "é" * 65_536}, 4))
    assert found == ["a", NOTHING, "b", "y" * 65_536, "c", "é" * 65_536]
    with pytest.raises(FormatError, match="utf-8"):
        read(b"X" + (70_000).to_bytes(4, "little") + b"\xff" * 70_000 + b".")
    with pytest.raises(FormatError, match="utf-8"):
        read(b"X\x02\0\0\0\xff\xff" + b"N" * 9 + b".")


def test_objects_are_counted_as_what_they_take():
    for value in (["word" + str(at) for at in range(3000)], list(range(3000)), [at / 7 for at in range(3000)]):
        _, _, budget = read(pickle.dumps(value, 4))
        spent, taken = budget.memory.limit - budget.memory.left, sum(map(sys.getsizeof, value))
        assert taken - 300 * 28 <= spent <= taken + 1000


@pytest.mark.parametrize(("form", "count"), [("zip", 1_000_000), ("stream", 200_000)])
def test_a_vocabulary_of_a_million_words(form, count, tmp_path):
    """A list and the dict that inverts it, as tokenizers keep them."""
    words = [f"word{at}" for at in range(count)]
    state = {"itos": words, "stoi": {word: at for at, word in enumerate(words)}, "w": torch.arange(4.0)}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=form == "zip")
    del words, state
    found = within(SECONDS, lambda: read_checkpoint(tmp_path / "a.pt"))
    assert list(found.tensors) == ["w"] and found.skipped == []
    np.testing.assert_array_equal(found.tensors["w"], [0, 1, 2, 3])


def test_tensors_among_a_million_values(tmp_path):
    state = {"counts": collections.Counter({f"word{at}": at for at in range(300_000)}), "list": [0] * 200_000}
    state["list"][150_000] = torch.ones(2)
    state["more"] = {f"word{at}": at for at in range(200_000)} | {"w": torch.zeros(1)}
    torch.save(state, tmp_path / "a.pt")
    found = within(SECONDS, lambda: read_checkpoint(tmp_path / "a.pt"))
    assert list(found.tensors) == ["list.150000", "more.w"]


# The most costly pickles of each kind: refused in time and memory, whatever their size.
COSTLY = {
    "wide words": b"\x8c\x04\xf0\x90\x80\x80\x94",
    "words": b"X\x02\0\0\0abr\1\0\0\0",
    "dicts": b"}\x94",
    "names": b"ca\nb\n",
    "numbers as text": b"I1\n",
    "long numbers": b"\x8a\x01\x05",
}


@pytest.mark.parametrize("kind", COSTLY)
def test_the_costliest_pickles(kind):
    unit = COSTLY[kind]
    data = b"\x80\x02ca\nb\nq\x00" + unit * (8_000_000 // len(unit)) + b"."

    def refused():
        with pytest.raises(FormatError):
            read(data)

    within(SECONDS, refused)
    assert PickleBudget("a", len(data)).memory.limit < MEBIBYTES << 20
