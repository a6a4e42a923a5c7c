"""Ragged columns are what lists of their rows are, and what runs side by side gives what one after the other does."""

from __future__ import annotations

import threading
import time

import batch_kills
import numpy as np
import pytest
from click.testing import CliRunner

from rnncore.batch.rows import Ragged, RowBlock, filled, joined, ranks, shapes, sizes, take
from rnncore.batch.workers import Workers
from rnncore.cli.application import application
from rnncore.errors import InputError


def column(longest, width=(), rows=9, seed=0):
    """A Ragged whose rows stand with gaps between them and in no order, and the list of them."""
    chance = np.random.default_rng(seed)
    flat = chance.integers(1, 100, rows * 2 * (longest + 1) * int(np.prod(width)))
    steps = chance.integers(0, longest + 1, rows)
    steps[3] = longest
    starts = chance.permutation(rows) * 2 * (longest + 1) * int(np.prod(width))
    found = Ragged(flat, starts, np.stack([steps, *(np.full(rows, size) for size in width)], axis=1))
    return found, [flat[a : a + n * int(np.prod(width))].reshape(n, *width) for a, n in zip(starts, steps, strict=True)]


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and np.array_equal(one, other)


# short rows are moved number by number, long ones row by row
CASES = [(5, ()), (5, (3,)), (400, ()), (40, (7,)), (1, (2, 2))]


@pytest.mark.parametrize(("longest", "width"), CASES)
def test_a_ragged_column_is_a_list_of_rows(longest, width):
    ragged, rows = column(longest, width)
    same(ragged, rows)
    same(ragged[2:7], rows[2:7])
    same(take(ragged, [5, 0, 5]), [rows[5], rows[0], rows[5]])
    assert list(shapes(ragged)) == [row.shape for row in rows]
    assert np.array_equal(ranks(ragged), ranks(rows))
    assert np.array_equal(sizes(ragged, [1, 4], 1 + len(width)), sizes(rows, [1, 4], 1 + len(width)))
    assert np.array_equal(ragged.packed(), np.concatenate([row.reshape(-1) for row in rows]))
    assert np.shares_memory(joined([ragged])[3], ragged.flat)


@pytest.mark.parametrize(("longest", "width"), CASES)
def test_filled_with_zeros_behind_each_row(longest, width):
    ragged, rows = column(longest, width)
    expected = np.zeros((len(rows), longest, *width), np.float32)
    for place, row in zip(expected, rows, strict=True):
        place[: len(row)] = row
    for found in (ragged, rows):
        array = filled(found, expected.shape[1:], np.float32)
        assert array.dtype == np.float32 and np.array_equal(array, expected)


def test_filled_where_steps_differ_in_width():
    rows = [np.ones((2, 1)), np.ones((1, 3))]
    assert filled(rows, (2, 3), np.float32).tolist() == [[[1, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 0, 0]]]
    ragged = Ragged(np.ones(5), np.array([0, 2]), np.array([[2, 1], [1, 3]]))
    assert np.array_equal(filled(ragged, (2, 3), np.float32), filled(rows, (2, 3), np.float32))


@pytest.mark.parametrize(("longest", "width"), CASES)
def test_rows_are_put_where_they_belong(longest, width):
    ragged, rows = column(longest, width)
    before = ragged.flat.copy()
    batch = np.random.default_rng(1).integers(100, 200, (3, longest, *width))
    ragged.put([6, 3, 0], batch)
    for place, i in enumerate([6, 3, 0]):
        assert np.array_equal(ragged[i], batch[place, : len(rows[i])])
    assert np.sum(before != ragged.flat) == sum(rows[i].size for i in (6, 3, 0))


@pytest.mark.parametrize(("longest", "width"), CASES)
def test_parts_are_joined_and_split(longest, width):
    pairs = [column(longest, width, seed=seed) for seed in range(3)]
    ragged, rows = joined([pair[0] for pair in pairs]), [row for pair in pairs for row in pair[1]]
    same(ragged, rows)
    head, tail = RowBlock(100, 127, (0, 0), "f", np.arange(100, 127), {"x": ragged}).split(110)
    same(head.columns["x"], rows[:10])
    same(joined([tail.columns["x"], head.columns["x"]]), rows[10:] + rows[:10])


def test_workers_take_every_item_once():
    seen, lock = [], threading.Lock()

    def work(item, threads):
        with lock:
            seen.append((item, threads))

    with Workers(4) as workers:
        waits = [workers.each(work, range(first, first + 50)) for first in (0, 50)]
        few = workers.each(work, [100, 101])
        for wait in (*waits, few, workers.each(work, [])):
            wait()
    assert sorted(seen) == [(i, 1) for i in range(100)] + [(100, 2), (101, 2)]


def test_workers_stop_at_an_error_and_when_they_are_left():
    seen = []

    def work(item, threads):
        seen.append(item)
        if item == 3:
            raise InputError("three")

    with Workers(1) as workers:
        with pytest.raises(InputError, match="three"):
            workers.each(work, range(10))()
        assert seen == [0, 1, 2, 3]
        begun, free = threading.Event(), threading.Event()
        late = []

        def slow(item, threads):
            late.append(item)
            begun.set()
            free.wait(10)

        workers.each(slow, range(5))
        assert begun.wait(10)
    free.set()
    time.sleep(0.05)
    assert late == [0]


def test_threads_do_not_change_a_byte(tmp_path):
    batch_kills.prepare(tmp_path)
    found = set()
    for threads in ("1", "2", "5"):
        batch_kills.clear(tmp_path)
        words = batch_kills.words(tmp_path, "folder", "--threads", threads, "--batch-size", "3")
        assert CliRunner().invoke(application, words, prog_name="rnncore").exit_code == 3
        found.add(batch_kills.digest(tmp_path, "folder"))
    assert len(found) == 1
