"""An input that changes during a run is noticed, nothing is lost, and what is resumed is the run that was begun."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from types import SimpleNamespace

import batch_changes
import numpy as np
import pytest
from batch_changes import SOURCES, Place, changes
from click.testing import CliRunner

from rnncore.batch import sources
from rnncore.batch.changes import InputChanged, Stamp, content, settle
from rnncore.batch.rows import Bad, Ragged
from rnncore.cli import run as command
from rnncore.cli.application import application


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("changes"))


@pytest.fixture
def small_chunks(monkeypatch):
    """Files are read a few rows at a time, so that there is something left to change."""
    for module, name, value in batch_changes.SMALL:
        monkeypatch.setattr(module, name, value)


def run(place, kind, target, *more):
    return CliRunner().invoke(application, place.words(kind, target, *more), prog_name="rnncore")


def interrupted(monkeypatch, place, kind, target, change, parts=3):
    """A run during which ``change`` is made after so many parts have been read."""
    rows = sources.Source.rows

    def changing(self, *arguments):
        for number, part in enumerate(rows(self, *arguments)):
            yield part
            if number == parts:
                change()

    with monkeypatch.context() as patch:
        patch.setattr(sources.Source, "rows", changing)
        return run(place, kind, target)


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind in SOURCES for change in changes(kind)])
def test_change_is_noticed_and_the_run_resumed(place, small_chunks, monkeypatch, kind, change):
    place.reset(kind)
    target = "folder" if change in ("shrinks", "rewritten") else "y.jsonl"
    assert run(place, kind, target).exit_code == 3
    expected = place.digest(target)
    place.clear()
    chance = random.Random(f"{kind} {change}")
    changed = []
    result = interrupted(
        monkeypatch,
        place,
        kind,
        target,
        lambda: changed.append(batch_changes.CHANGES[change](place.last(kind), chance)),
    )
    assert result.exit_code == command.CHANGED, result.output
    assert len(result.stderr.splitlines()) == 1
    assert str(changed[0]) in result.stderr and "--resume goes on" in result.stderr
    parts = place.parts(target)
    assert parts, "nothing was finished"
    folder = next(iter(parts)).parent
    shutil.copytree(folder, place.folder / "kept", dirs_exist_ok=True)
    resumed = run(place, kind, target, "--resume")
    if resumed.exit_code == 3:  # nothing that was finished has changed: as if it had been so from the beginning
        found = place.digest(target)
        place.clear()
        assert run(place, kind, target).exit_code == 3
        assert place.digest(target) == found
    else:
        assert resumed.exit_code in (1, command.CHANGED), resumed.output
        assert "--overwrite" in resumed.stderr or str(changed[0]) in resumed.stderr  # which no reader takes any more
        assert parts.items() <= place.parts(target).items()
    place.clear()
    (place.folder / "kept").rename(folder)
    place.make(kind)
    assert run(place, kind, target, "--resume").exit_code == 3
    assert place.digest(target) == expected


@pytest.mark.parametrize("kind", SOURCES)
def test_finished_rows_that_differ_are_named(place, small_chunks, monkeypatch, kind):
    """The input was put back, but not as it was: the shard that differs is named."""
    place.reset(kind)
    result = interrupted(monkeypatch, place, kind, "folder", lambda: os.utime(place.last(kind)))
    assert result.exit_code == command.CHANGED
    place.make(kind, first=7)  # another id in the first row
    result = run(place, kind, "folder", "--resume")
    assert result.exit_code == command.CHANGED
    assert "shard 0 was made of other rows than 0 to 19 of" in result.stderr


@pytest.mark.parametrize("kind", SOURCES)
def test_an_input_that_was_touched_goes_on_without_running_again(place, small_chunks, monkeypatch, kind):
    place.reset(kind)
    assert interrupted(monkeypatch, place, kind, "folder", lambda: os.utime(place.last(kind))).exit_code == 65
    before = {path: path.stat().st_mtime_ns for path in place.parts("folder")}
    assert len(before) >= 1
    assert run(place, kind, "folder", "--resume").exit_code == 3
    assert all(path.stat().st_mtime_ns == moment for path, moment in before.items())
    manifest = (place.folder / "folder" / "_manifest.jsonl").read_bytes()
    place.clear()
    assert run(place, kind, "folder").exit_code == 3
    assert (place.folder / "folder" / "_manifest.jsonl").read_bytes() == manifest  # with the stamps of now


def test_a_small_run_and_one_to_a_pipe(place, small_chunks, monkeypatch):
    """What is not journalled ends with the same error, and leaves no file."""
    place.reset("jsonl")
    rows = ("--shard-rows", "1000")
    original = sources.Source.rows

    def changing(self, *arguments):
        for number, part in enumerate(original(self, *arguments)):
            yield part
            if number == 2:
                os.utime(place.last("jsonl"))

    monkeypatch.setattr(sources.Source, "rows", changing)
    assert run(place, "jsonl", "y.jsonl", *rows).exit_code == command.CHANGED
    assert not (place.folder / "y.jsonl").exists()
    assert run(place, "jsonl", "-", "--to", "jsonl", *rows).exit_code == command.CHANGED


@pytest.mark.parametrize("kind", ["jsonl", "npy"])
def test_a_file_as_standard_input(place, small_chunks, monkeypatch, kind):
    """It has a stamp as a file has, and a pipe has none."""
    place.reset(kind)
    original = sources.Source.rows

    def changing(self, *arguments):
        for number, part in enumerate(original(self, *arguments)):
            yield part
            if number == 2:
                os.utime(place.path(kind))

    words = place.words(kind, "folder", "--from", kind)
    words[words.index("-i") + 1] = "-"
    with open(place.path(kind), "rb") as file, monkeypatch.context() as patch:
        patch.setattr(sources, "sys", SimpleNamespace(stdin=file))
        patch.setattr(sources.Source, "rows", changing)
        result = CliRunner().invoke(application, words, prog_name="rnncore")
    assert result.exit_code == command.CHANGED
    assert result.stderr.startswith("error: standard input: modified at ")


def test_change_at_random_moments(place):
    """A part of ``python tests/tools/batch_changes.py``."""
    scale = float(os.environ.get("RNNCORE_TEST_SCALE", "1"))
    noticed = sum(
        batch_changes.trial(place, number, random.Random(number)) for number in range(max(round(7 * scale), 7))
    )
    assert noticed


def test_results_among_the_data_are_refused(place):
    place.reset("files")
    folder = place.folder / "files"
    for target in (folder / "out", folder / "y.jsonl"):
        words = place.words("files", "y.jsonl")
        words[words.index("-o") + 1] = str(target)
        words += ["--to", "jsonl"] if target.suffix == "" else []
        for source in (str(folder), str(folder / "*.jsonl"), str(folder / "*" / "*.jsonl")):
            words[words.index("-i") + 1] = source
            result = CliRunner().invoke(application, words, prog_name="rnncore")
            inside = (
                target.suffix == "" if source.endswith("*/*.jsonl") else target.suffix != "" or source == str(folder)
            )
            if inside:
                assert result.exit_code == 1
                assert "is where" in result.stderr or "no files" in result.stderr
            assert not target.is_file()


@pytest.mark.parametrize("to", ["jsonl", "csv", "npz", "parquet"])
def test_names_of_files_that_are_no_text(place, to):
    """A name of other bytes than UTF-8 is read, listed and resumed; as a label of a row it is refused."""
    place.reset("files")
    odd = os.fsencode(place.folder / "files") + b"/\xff9.jsonl"
    with open(odd, "wb") as file:
        file.write(b'{"id": "x", "tokens": [1]}\n{"id": "bad", "tokens": [30]}\n')
    arguments = place.words("files", f"y.{to}")
    assert CliRunner().invoke(application, arguments, prog_name="rnncore").exit_code == 3
    errors = [json.loads(line) for line in (place.folder / f"y.{to}.errors.jsonl").read_text("utf-8").splitlines()]
    assert errors[-1]["file"].endswith("\\xff9.jsonl") and errors[-1]["place"] == 1
    assert run(place, "files", "folder").exit_code == 3
    os.utime(odd)
    assert run(place, "files", "folder", "--resume").exit_code == 3
    place.clear()
    folder = place.folder / "single"
    folder.mkdir(exist_ok=True)
    for name in (b"a.npy", b"\xff.npy"):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            np.save(file, np.array([1, 2, 3]))
    words = ["run", arguments[1], "-i", str(folder), "-o", str(place.folder / f"y.{to}")]
    result = CliRunner().invoke(application, words, prog_name="rnncore")
    assert result.exit_code == 1 and "\\xff.npy: its name is no UTF-8" in result.stderr


STAMP = Stamp(10, 1_600_000_000_000_000_001, 1_600_000_000_000_000_002, 5)


class Found:
    def __init__(self, **given):
        self.__dict__.update(
            st_size=STAMP.bytes, st_mtime_ns=STAMP.modified, st_ctime_ns=STAMP.changed, st_ino=STAMP.inode
        )
        self.__dict__.update(given)


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("st_size", "f: 11 bytes, expected 10"),
        ("st_mtime_ns", "f: modified at "),
        ("st_ctime_ns", "f: its inode changed at "),
        ("st_ino", "f: another file in its place"),
    ],
)
def test_every_part_of_a_stamp_counts(field, what):
    STAMP.check("f", Found())
    with pytest.raises(InputChanged) as error:
        STAMP.check("f", Found(**{field: getattr(Found(), field) + 1}))
    assert str(error.value).startswith(what) and "as when the run began" in str(error.value)


def test_a_fresh_file_is_waited_for(monkeypatch):
    """Two changes in one tick of a file system's clock look the same, so the first is let grow old."""
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    now = time.time_ns()
    settle([Stamp(1, now - 7, now - 3, 1), STAMP])
    assert 0 < slept[0] <= 0.05
    settle([Stamp(1, now // 10**9 * 10**9, 1, 1)])  # a file system that counts seconds
    assert slept[1] > 0.05
    settle([STAMP, Stamp(1, now + 10**12, now + 10**12, 1)])  # long ago, and a clock that goes wrong
    assert slept[2] == 0


def forms(rows):
    """The same rows of numbers as each kind of column."""
    yield rows
    starts = np.cumsum([0, *(row.size for row in rows)])[:-1]
    shapes = np.array([row.shape for row in rows], np.int64)
    yield Ragged(np.concatenate([row.reshape(-1) for row in rows]), starts, shapes)
    gaps = np.concatenate([np.append(row.reshape(-1), row.dtype.type(9)) for row in rows])
    yield Ragged(gaps, starts + np.arange(len(rows)), shapes)
    if len({row.shape for row in rows}) == 1:
        yield np.stack(rows)
        yield np.asfortranarray(np.stack(rows))


@pytest.mark.parametrize("dtype", [np.int64, np.float32, bool])
@pytest.mark.parametrize("shapes", [[(3,), (0,), (5,)], [(2, 3), (4, 3), (0, 3)], [(2, 2)] * 3])
def test_content_is_of_the_rows_alone(dtype, shapes):
    random_ = np.random.default_rng(0)
    rows = [random_.integers(0, 2, shape).astype(dtype) for shape in shapes]
    index, kept, bad = np.array([4, 5, 7]), {"id": ["a", None, 3]}, [Bad(6, "f", 2, "why")]

    def of(column, index=index, kept=kept, bad=bad, name="x"):
        return content(index, {name: column}, kept, bad)

    hashes = {of(form) for form in forms(rows)}
    assert len(hashes) == 1
    others = [of(rows, index + 1), of(rows, kept={"id": ["a", None, "3"]}), of(rows, bad=[]), of(rows, name="y")]
    others += [of([*rows[1:], rows[0]]), of([rows[0].astype(np.float64), *rows[1:]])] if shapes[0] != shapes[1] else []
    others += [of([row.astype(np.uint8) for row in rows])]
    for number, row in enumerate(rows):
        if row.size:
            changed = [one.copy() for one in rows]
            changed[number].reshape(-1)[-1] = not row.reshape(-1)[-1]
            others.append(of(changed))
    if rows[0].ndim == 1:  # the same numbers in a row that ends earlier
        others.append(of([rows[0][:2], rows[0][2:], rows[2]]))
    flat = [row.reshape(-1) for row in rows]
    if flat[0].shape != rows[0].shape:
        others.append(of(flat))
    assert len({*others, *hashes}) == len(others) + 1


def test_each_shard_notes_the_content_of_its_rows(place):
    place.reset("jsonl")
    assert run(place, "jsonl", "folder").exit_code == 3
    notes = [json.loads(line) for line in (place.folder / "folder" / "_manifest.jsonl").read_text().splitlines()[1:-1]]
    assert len({note["content"] for note in notes}) == len(notes) == 10
