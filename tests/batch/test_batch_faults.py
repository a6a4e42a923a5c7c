"""The Nth call to the system fails, for every N: there is one line that says so, and what is left can be resumed."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
import threading

import pytest
from batch_kills import ROWS, clear, digest, prepare, words
from click.testing import CliRunner

import rnncore
from rnncore.batch import sources
from rnncore.cli.application import application

SCALE = float(os.environ.get("RNNCORE_TEST_SCALE", "1"))
SHARDS = ("--shard-rows", str(ROWS // 3))
ANY = ("--max-errors", "any")
CALLS = ("open", "write", "fsync", "replace", "chmod", "unlink", "mkdir", "rmdir", "close")
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EDQUOT": errno.EDQUOT, "EROFS": errno.EROFS}
CODES = {"ENOSPC": 75, "EDQUOT": 75, "EIO": 74, "EROFS": 74}


class Faulty:
    """Counts calls of os's functions by this process, on whatever thread, and lets one of them fail.

    A write that fails has written half before. Files are seen from the moment that they are opened by ``os.fdopen``.
    """

    def __init__(self, patch, number, error):
        self.number, self.error = number, error
        self.calls: list[str] = []
        self.hit = ""
        self._lock = threading.Lock()
        for name in CALLS:
            if name in ("write", "close"):
                continue
            patch.setattr(os, name, self._counted(name, getattr(os, name)))
        fdopen = os.fdopen
        patch.setattr(os, "fdopen", lambda *a, **k: File(fdopen(*a, **k), self))

    def count(self, name):
        with self._lock:
            self.calls.append(name)
            if len(self.calls) - 1 == self.number:
                self.hit = name
                raise OSError(self.error, os.strerror(self.error))

    def _counted(self, name, call):
        def counted(*arguments, **named):
            self.count(name)
            return call(*arguments, **named)

        return counted


class File:
    def __init__(self, file, faulty):
        self._file, self._faulty = file, faulty

    def write(self, data):
        try:
            self._faulty.count("write")
        except OSError:
            self._file.write(bytes(data)[: len(bytes(data)) // 2])
            raise
        return self._file.write(data)

    def close(self):
        self._file.close()
        self._faulty.count("close")

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._file.close()
        if kind is None:
            self._faulty.count("close")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    prepare(folder)
    return folder


def run(place, target, *more):
    return CliRunner().invoke(application, words(place, target, *SHARDS, *more), prog_name="rnncore")


def all_but(place, names):
    return {path.name for path in place.iterdir()} - names


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("target", ["folder", "y.jsonl", "y.npz", "y.parquet"])
@pytest.mark.parametrize("beginning", ["new", "resumed"])
def test_every_call_fails_once(place, monkeypatch, target, error, beginning):
    """Also while a run is resumed, which rewrites and reads what is there."""
    clear(place)
    assert run(place, target).exit_code == 3
    expected, names = digest(place, target), {path.name for path in place.iterdir()}
    whole = (place / target).read_bytes() if target != "folder" else b""

    def begin():
        """What was there before the run at hand: nothing, or two shards of a run that was stopped."""
        clear(place)
        if beginning == "resumed":
            with monkeypatch.context() as patch:
                Faulty(patch, stopped, errno.EIO)
                assert run(place, target).exit_code == 74
        return ("--resume",) if beginning == "resumed" else ()

    with monkeypatch.context() as patch:
        counting = Faulty(patch, -1, 0)
        clear(place)
        assert run(place, target).exit_code == 3
    replaces = [number for number, name in enumerate(counting.calls) if name == "replace"]
    stopped = replaces[3]  # the manifest, two shards, and the one that fails
    with monkeypatch.context() as patch:
        more = begin()
        counting = Faulty(patch, -1, 0)
        assert run(place, target, *more).exit_code == 3
    calls = counting.calls
    assert {"open", "write", "fsync", "replace"} <= {*calls} and len(calls) > 25
    every = max(1, round((12 if error in ("ENOSPC", "EIO") else 48) / SCALE))
    first = random.Random(f"{target} {error} {beginning}").randrange(every)
    for number in range(first, len(calls), every):
        more = begin()
        with monkeypatch.context() as patch:
            faulty = Faulty(patch, number, ERRORS[error])
            result = run(place, target, *more)
        what = f"call {number}, {faulty.hit}: {result.output}"
        if "m.safetensors" in result.stderr:  # reading the model, before there is a run
            assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1, what
        elif result.exit_code == 3:  # what is only tidied up may fail
            assert faulty.hit in ("rmdir", "close"), what
        else:
            assert result.exit_code == CODES[error], what
            assert len(result.stderr.splitlines()) == 1 and "--resume" in result.stderr, what
            assert "no space left" in result.stderr or os.strerror(ERRORS[error]) in result.stderr, what
        assert not (place / target).is_file() or (place / target).read_bytes() == whole, what
        if result.exit_code != 3:
            assert run(place, target, "--resume").exit_code == 3, what
        for path in place.iterdir():  # an empty folder that could not be removed
            if path.name.endswith(".parts"):
                path.rmdir()
        assert digest(place, target) == expected, what
        assert all_but(place, names) == set(), what


@pytest.mark.parametrize("kind", ["EIO", "half"])
def test_reading_fails(place, monkeypatch, kind):
    """The disk of the input: its name is in the message."""

    class Bad:
        def __init__(self, file):
            self._file, self._left = file, 300

        def readline(self, most):
            self._left -= 1
            if self._left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return self._file.readline(most)

        def __getattr__(self, name):
            return getattr(self._file, name)

    regular = sources._regular
    clear(place)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_regular", lambda path: Bad(regular(path)))
        result = run(place, "folder")
    assert result.exit_code == 1
    assert result.stderr == f"error: {place / 'in.jsonl'}: {os.strerror(errno.EIO)}\n"
    assert run(place, "folder", "--resume").exit_code == 3


def limited(arguments, most):
    """The exit code and the message of a process whose files may not be longer than so many bytes."""
    result = subprocess.run(
        [sys.executable, "-m", "rnncore", *arguments],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # Python would leave a part of it for all who come later
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.path.dirname(rnncore.__file__)),
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize("target", ["folder", "y.jsonl"])
def test_a_write_that_the_kernel_cuts_short(place, target):
    """No imitation: the system takes the first bytes of a file, and then none."""
    clear(place)
    assert run(place, target).exit_code == 3
    expected = digest(place, target)
    clear(place)
    most = 1500 if target == "folder" else (place / "in.jsonl").stat().st_size * 2
    code, message = limited(words(place, target, *SHARDS), most)
    assert code == 74 and os.strerror(errno.EFBIG) in message and "--resume" in message, message
    assert "Traceback" not in message
    assert run(place, target, "--resume").exit_code == 3
    assert digest(place, target) == expected


def test_standard_output_on_a_full_disk(place):
    if not os.path.exists("/dev/full"):
        return
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "rnncore", *words(place, "folder")[:4], "-o", "-", "--to", "jsonl", *ANY],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=os.path.dirname(os.path.dirname(rnncore.__file__)),
        )
    assert result.returncode == 1
    assert result.stderr.splitlines()[0] == f"error: standard output: {os.strerror(errno.ENOSPC)}"
    assert "Traceback" not in result.stderr
