"""Cursor and Budget: every read stays inside, and says where it would not have."""

from __future__ import annotations

import io
import struct

import pytest

from rnncore.errors import FormatError
from rnncore.files.cursor import WINDOW, Budget, Cursor, low_level_errors, shown

DATA = bytes(range(256)) * 1024  # four windows


@pytest.fixture(params=["bytes", "file"])
def cursor_of(request):
    """A function that makes a cursor over bytes, from memory or from a file."""

    def make(data, *arguments, **options):
        source = data if request.param == "bytes" else io.BytesIO(data)
        return Cursor(source, "here", *arguments, **options)

    return make


def test_reads_like_a_slice(cursor_of):
    cursor, at = cursor_of(DATA), 0
    for count in [1, 0, 5, WINDOW - 7, WINDOW, 3, WINDOW + 1, 9]:
        assert cursor.bytes(count) == DATA[at : at + count]
        at += count
        assert cursor.tell() == at and cursor.remaining == len(DATA) - at
    cursor.seek(3)
    assert cursor.bytes(4) == DATA[3:7]
    cursor.seek(len(DATA))
    assert cursor.bytes(0) == b""


def test_integers(cursor_of):
    cursor = cursor_of(struct.pack("<BHIQiq", 200, 60_000, 1 << 31, 1 << 63, -5, -6))
    found = cursor.u8(), cursor.u16(), cursor.u32(), cursor.u64(), cursor.i32(), cursor.i64()
    assert found == (200, 60_000, 1 << 31, 1 << 63, -5, -6)


def test_lines(cursor_of):
    long = b"x" * (WINDOW - 1) + b"\n"
    cursor = cursor_of(b"a\n\n" + long + b"rest")
    assert [cursor.line(), cursor.line(), cursor.line()] == [b"a\n", b"\n", long]
    with pytest.raises(FormatError, match="here: no end of line"):
        cursor.line()


def test_line_longer_than_allowed(cursor_of):
    with pytest.raises(FormatError, match="no end of line within 65536 bytes of offset 0"):
        cursor_of(b"x" * WINDOW + b"\n").line()


@pytest.mark.parametrize("count", [-1, 6, 1 << 70])
def test_read_past_the_end(cursor_of, count):
    cursor = cursor_of(b"abcdefg", 0, 7)
    cursor.skip(2)
    with pytest.raises(FormatError, match=f"here: truncated: 5 bytes remain at offset 2, expected {count}"):
        cursor.bytes(count)


def test_part_of_a_source(cursor_of):
    cursor = cursor_of(b"0123456789", 2, 8)
    assert len(cursor) == 6 and cursor.bytes(6) == b"234567"
    with pytest.raises(FormatError, match="truncated"):
        cursor.u8()
    inner = cursor.slice(1, 3, "there")
    assert inner.bytes(3) == b"345" and inner.remaining == 0
    with pytest.raises(FormatError, match="there: truncated"):
        inner.u8()


@pytest.mark.parametrize(("offset", "count"), [(-1, 2), (0, 7), (6, 1), (3, -1)])
def test_slice_outside(cursor_of, offset, count):
    with pytest.raises(FormatError, match=r"there: bytes .* but there are 6 in here"):
        cursor_of(b"0123456789", 2, 8).slice(offset, count, "there")


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 11), (5, 4), (11, None)])
def test_part_outside(cursor_of, start, stop):
    with pytest.raises(FormatError, match="but there are 10"):
        cursor_of(b"0123456789", start, stop)


@pytest.mark.parametrize("offset", [-1, 7])
def test_seek_outside(cursor_of, offset):
    with pytest.raises(FormatError, match=f"here: offset {offset}, but there are 6 bytes"):
        cursor_of(b"0123456789", 2, 8).seek(offset)


def test_longest_piece(cursor_of):
    cursor = cursor_of(DATA, longest=10)
    assert len(cursor.bytes(10)) == 10
    with pytest.raises(FormatError, match="11 bytes in one piece, expected at most 10"):
        cursor.bytes(11)


def test_expect(cursor_of):
    cursor = cursor_of(b"abcd")
    cursor.expect(b"ab", "magic")
    with pytest.raises(FormatError, match="here: magic at offset 2 is b'cd', expected b'xy'"):
        cursor.expect(b"xy", "magic")


def test_file_that_becomes_shorter():
    file = io.BytesIO(bytes(100))
    cursor = Cursor(file, "here")
    file.truncate(50)
    with pytest.raises(FormatError, match="became shorter"):
        cursor.bytes(80)


def test_budget():
    budget = Budget(5, "things", "here")
    budget.spend(5)
    with pytest.raises(FormatError, match="here: too many things, expected at most 5"):
        budget.spend()


@pytest.mark.parametrize(
    "error", [ValueError("x"), OverflowError("x"), MemoryError(), RecursionError(), EOFError(), OSError()]
)
def test_low_level_errors_become_ours(error):
    with pytest.raises(FormatError, match=r"^here: "), low_level_errors("here"):
        raise error


def test_shown():
    assert shown("plain") == "plain"
    assert shown("a\nb\x00\ud800") == r"a\nb\x00\ud800"
    assert len(shown("x" * 1000)) == 123
