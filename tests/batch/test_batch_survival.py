"""Runs that are killed, stopped, out of disk, damaged or doubled: what is left can be resumed, to the same bytes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time

import batch_kills
import numpy as np
import pytest
from agreement import assert_unchanged
from batch_kills import TARGETS, clear, digest, prepare, sequences, trial, undisturbed, words
from click.testing import CliRunner

import rnncore
from rnncore.batch import job as batch_job
from rnncore.cli import run as command
from rnncore.cli.application import application
from rnncore.files import atomic

BAD = (3, 44, 45, 399)


def run(folder, target, *more):
    return CliRunner().invoke(application, words(folder, target, *more), prog_name="rnncore")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed_digests(place):
    return {target: undisturbed(place, target) for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_killed_at_random_moments(place, undisturbed_digests, target):
    expected, seconds = undisturbed_digests[target]
    chance = random.Random(target)
    kills = 0
    for number in range(20):  # some kills come too late: three trials, and more until one was in time
        if number >= 3 and kills:
            break
        kills += trial(place, target, seconds, chance)
        assert digest(place, target) == expected
    assert kills


class FullDisk:
    """Lets so many writes and flushes through, and then none: the one that fails has written half."""

    def __init__(self, patch, free):
        self.left = free
        self.hit = False
        open_, flush = os.fdopen, os.fsync
        patch.setattr(os, "fdopen", lambda *a, **k: Written(open_(*a, **k), self))
        patch.setattr(os, "fsync", lambda handle: (self.spend(), flush(handle))[1])

    def spend(self):
        self.left -= 1
        if self.left < 0:
            self.hit = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Written:
    def __init__(self, file, disk):
        self._file, self._disk = file, disk

    def write(self, data):
        try:
            self._disk.spend()
        except OSError:
            self._file.write(bytes(data)[: len(bytes(data)) // 2])
            raise
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@pytest.mark.parametrize("target", TARGETS)
def test_disk_full_at_every_write(place, monkeypatch, target):
    """The first write fails, then the second, and so on; each time there is a message, and a run to be resumed."""
    rows = ("--shard-rows", "80")
    clear(place)
    assert run(place, target, *rows).exit_code == 3
    expected = digest(place, target)
    whole = (place / target).read_bytes() if target != "folder" else b""
    step = 1 if target == "folder" else 5  # the shards of a file are written as those of a folder
    failed = 0
    for free in range(0, 10_000, step):
        clear(place)
        with monkeypatch.context() as patch:
            disk = FullDisk(patch, free)
            result = run(place, target, *rows)
        if not disk.hit:
            assert result.exit_code == 3
            break
        failed += 1
        assert result.exit_code == 75, result.output
        assert "no space left on the disk" in result.stderr and "--resume" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not (place / target).is_file() or (place / target).read_bytes() == whole
        assert run(place, target, *rows, "--resume").exit_code == 3
        assert digest(place, target) == expected
    assert failed > 20 / step


def test_disk_full_in_a_run_of_one_shard(place, monkeypatch):
    clear(place)
    with monkeypatch.context() as patch:
        FullDisk(patch, 0)
        result = run(place, "y.jsonl", "--shard-rows", "1000")
    assert result.exit_code == 75
    assert {path.name for path in place.iterdir()} == {*batch_kills.INPUTS}


def test_every_row_once_in_order_and_bad_ones_listed(place):
    clear(place)
    result = run(place, "folder")
    assert result.exit_code == 3 and "4 bad rows left out" in result.stderr
    rows = sequences(place / "in.jsonl.copy", bad=BAD)
    os.unlink(place / "in.jsonl.copy")
    model = rnncore.load(place / "m.safetensors")
    parts = sorted((place / "folder").glob("part-*"))
    assert len(parts) == 20
    found = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    good = [i for i in range(len(rows)) if i not in BAD]
    assert [entry["id"] for entry in found] == [f"s{i}" for i in good]
    for i, entry in zip(good, found, strict=True):
        expected = model(np.array([rows[i]], np.int64))[0]
        assert_unchanged({"fc": np.array(entry["fc"], np.float32).reshape(-1, 3)}, {"fc": expected}, "float32")
    errors = [json.loads(line) for line in (place / "folder" / "_errors.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry["place"]) for entry in errors] == [(i, i) for i in BAD]
    assert all("30" in entry["reason"] and "0 to 29" in entry["reason"] for entry in errors)


def test_manifest_says_what_is_there(place):
    clear(place)
    run(place, "folder")
    first, *shards, last = [
        json.loads(line) for line in (place / "folder" / "_manifest.jsonl").read_text().splitlines()
    ]
    assert first["job"]["source"][0]["bytes"] == (place / "in.jsonl").stat().st_size
    assert last["done"] == {"shards": 20, "rows": 396, "bad": 4}
    assert [(entry["first"], entry["stop"]) for entry in shards] == [(20 * i, 20 * i + 20) for i in range(20)]
    assert [entry["rows"] for entry in shards][:3] == [19, 20, 18]
    for entry in shards:
        data = (place / "folder" / entry["file"]).read_bytes()
        assert len(data) == entry["bytes"] and batch_kills.hashlib.sha256(data).hexdigest() == entry["sha256"]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "half a line", "no line"])
def test_damage_is_made_good(place, undisturbed_digests, damage):
    clear(place)
    run(place, "folder")
    part, manifest = place / "folder" / "part-00007.jsonl", place / "folder" / "_manifest.jsonl"
    lines = manifest.read_bytes().splitlines(keepends=True)
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-1])
    elif damage == "changed":
        part.write_bytes(part.read_bytes().replace(b"1", b"2", 1))
    elif damage == "gone":
        part.unlink()
    elif damage == "half a line":
        manifest.write_bytes(b"".join(lines[:9]) + lines[9][:40])
    else:
        manifest.write_bytes(b"".join(lines[:9]))
    assert run(place, "folder", "--resume").exit_code == 3
    assert digest(place, "folder") == undisturbed_digests["folder"][0]


def test_a_finished_run_is_not_run_again(place, monkeypatch):
    clear(place)
    run(place, "folder")
    with monkeypatch.context() as patch:
        patch.setattr(batch_job.Runner, "begin", None)
        assert run(place, "folder", "--resume").exit_code == 3


def test_another_run_in_the_same_place_is_refused(place):
    clear(place)
    run(place, "folder")
    result = run(place, "folder")
    assert result.exit_code == 1 and "an earlier run is here: expected --resume" in result.stderr
    (place / "folder" / "_manifest.jsonl").write_bytes(b"{}\n")
    assert "line 1: no checksum" in run(place, "folder", "--resume").stderr
    assert run(place, "folder", "--overwrite").exit_code == 3


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--batch-size", "3"), "batch size"),
        (("--shard-rows", "21"), "shard rows"),
        (("--only", "gru.last"), "spec"),
        (("--dtype", "float64"), "dtype"),
        (("--keep", "id"), "keep"),
    ],
)
def test_resuming_another_run_is_refused(place, more, what):
    clear(place)
    run(place, "folder")
    before = digest(place, "folder")
    result = run(place, "folder", "--resume", *more)
    assert result.exit_code == 1 and f"a run with another {what}" in result.stderr
    assert digest(place, "folder") == before


def test_resuming_with_other_data_is_refused(tmp_path):
    prepare(tmp_path)
    run(tmp_path, "folder")
    with open(tmp_path / "in.jsonl", "a") as file:
        file.write('{"id": "late", "tokens": [1]}\n')
    assert "a run with another source" in run(tmp_path, "folder", "--resume").stderr


def test_two_runs_in_one_place(place):
    clear(place)
    (place / "folder").mkdir()
    with open(place / "folder" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run(place, "folder")
        assert result.exit_code == 1 and "another run is writing here" in result.stderr
    assert run(place, "folder").exit_code == 3


def test_terminated_after_the_shard_at_hand(place, undisturbed_digests, monkeypatch):
    clear(place)
    finished, calls = batch_job.BatchJob._finished, []

    def terminated(self, *arguments):
        calls.append(None)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return finished(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(batch_job.BatchJob, "_finished", terminated)
        result = run(place, "folder")
    assert result.exit_code == command.TERMINATED and "5 shards with 100 rows are safe" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert len(list((place / "folder").glob("part-*"))) == 5
    assert run(place, "folder", "--resume").exit_code == 3
    assert digest(place, "folder") == undisturbed_digests["folder"][0]


def test_sigterm_while_it_waits(place):
    """As an operator does it: a process that waits for a pipe stops, with what it has on disk."""
    clear(place)
    arguments = [word if word != str(place / "in.jsonl") else "-" for word in words(place, "folder")]
    process = subprocess.Popen(
        [sys.executable, "-m", "rnncore", *arguments, "--from", "jsonl"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=os.path.dirname(os.path.dirname(rnncore.__file__)),
    )
    try:
        process.stdin.write(b'{"id": "a", "tokens": [1]}\n' * 5000)  # a chunk of rows, and the beginning of another
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while len(list(place.glob("folder/part-*"))) < 100 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        error = process.stderr.read().decode()
        process.stdin.close()
        process.stderr.close()
    assert process.returncode == command.TERMINATED, error
    assert "safe" in error
    assert all(len(part.read_text().splitlines()) == 20 for part in place.glob("folder/part-*"))


def test_max_errors(place):
    clear(place)
    few = run(place, "y.jsonl", "--max-errors", "3")
    assert few.exit_code == 1 and "4 bad rows, more than --max-errors 3" in few.stderr
    clear(place)
    none = run(place, "y.jsonl", "--max-errors", "0", "--shard-rows", "1000")
    assert none.exit_code == 1 and "in.jsonl: row 3: node 'embed'" in none.stderr
    assert run(place, "y.jsonl", "--max-errors", "4", "--overwrite").exit_code == 3
    assert len((place / "y.jsonl.errors.jsonl").read_text().splitlines()) == 4


def test_files_are_on_disk_before_their_line_is(place, monkeypatch):
    """Of each shard: its bytes, its name, its folder, and then the manifest."""
    clear(place)
    order = []
    flush, replace = os.fsync, os.replace

    def flushed(handle):
        order.append(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        flush(handle)

    def replaced(source, target):
        order.append(f"-> {os.path.basename(target)}")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", flushed)
        patch.setattr(atomic.os, "replace", replaced)
        run(place, "folder")
    at = order.index("-> part-00004.jsonl")
    assert order[at - 1].startswith(".part-00004.jsonl.") and order[at - 1].endswith(".part")
    assert order[at + 1 : at + 3] == ["folder", "_manifest.jsonl"]
