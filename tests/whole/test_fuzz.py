"""The fuzzing driver: what it finds, how it goes on after a crash or a hang, and what its mutators keep.

The fuzzing itself is "make fuzz"; here are a few executions of some targets, so that they stay alive.
"""

import io
import json
import os
import random
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import mutate
import pytest
import run as driver
from draw import Draw
from minimise import minimise
from paths import ROOT, environment


def watch(tmp_path, count, word="", seed=1, patience=60.0):
    """The tally of so many executions of planted faults, and what was saved: signature -> input."""
    (tmp_path / "found").mkdir(exist_ok=True)
    options = SimpleNamespace(count=count, seed=seed, engine="mutate")
    watcher = driver.Watcher("_planted", tmp_path, options, seconds=600)
    watcher.patience = patience
    before = os.environ.get("RNNCORE_PLANTED")
    os.environ["RNNCORE_PLANTED"] = word
    try:
        tally = watcher.run()
    finally:
        os.environ.pop("RNNCORE_PLANTED") if before is None else os.environ.update(RNNCORE_PLANTED=before)
    found = {}
    for path in (tmp_path / "found").glob("*.json"):
        found[json.loads(path.read_text())["signature"]] = path.with_suffix(".bin").read_bytes()
    return tally, found


def test_foreign_exceptions_wrong_results_and_memory_are_found_and_made_small(tmp_path):
    tally, found = watch(tmp_path, 3000)
    assert tally.executions >= 3000 and tally.refused > 500 and tally.restarts == 0
    assert {signature.split()[0] for signature in found} == {"KeyError", "WrongResult", "memory"}
    assert sorted(len(data) for signature, data in found.items() if signature != "memory") == [5, 7]
    assert tally.faults >= 3 and len(tally.kinds) == 3


@pytest.mark.parametrize("word", ["crash", "hang"])
def test_a_worker_that_ends_or_hangs_is_replaced_and_its_input_kept(tmp_path, word, monkeypatch):
    monkeypatch.setattr(driver, "CRASH_TRIES", 2)
    tally, found = watch(tmp_path, 400, word, patience=1.0)
    assert tally.executions >= 400 and tally.restarts >= 1
    signature = next(signature for signature in found if signature.startswith(word))
    assert found[signature].split(b" ")[0] == word.encode()
    assert "_planted.py:run" in signature


def test_targets_run_and_the_same_seed_gives_the_same_counts(tmp_path):
    counts = []
    for place in ("first", "second"):
        command = [sys.executable, str(ROOT / "fuzz/run.py"), "safetensors", "states", "--count", "300", "--seed", "7"]
        command += ["--engine", "mutate", "--folder", str(tmp_path / place)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        counts.append(sorted(line.split()[:5] for line in done.stdout.splitlines() if "refused" in line))
    assert counts[0] == counts[1] and len(counts[0]) == 2


def test_every_target_can_be_imported_and_says_what_it_is():
    code = (
        "import sys, importlib; sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]:\n"
        "    module = importlib.import_module('targets.' + name)\n"
        "    assert module.__doc__ and callable(module.run) and callable(module.mutate) and module.seeds(), name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "fuzz"), *driver.TARGETS],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert len(driver.TARGETS) >= 15


def test_smaller_input_that_shows_the_same():
    data = bytes(range(200))
    assert minimise(data, lambda smaller: 17 in smaller and 150 in smaller, 10_000) == bytes([17, 150])
    assert minimise(b"\5\6", lambda smaller: len(smaller) == 2, 100) == b"\0\0"
    tried = []
    minimise(data, lambda smaller: bool(tried.append(smaller)), 50)
    assert len(tried) == 50


def test_a_changed_archive_has_sizes_and_checksums_that_fit():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"one" * 50)
        archive.writestr("b", b"two")
    whole, rng = 0, random.Random(0)
    for _ in range(200):
        changed = mutate.change_zip(out.getvalue(), rng, lambda name, content, rng: content[:-1] + b"!")
        try:
            with zipfile.ZipFile(io.BytesIO(changed)) as archive:
                whole += archive.testzip() is None and any(archive.read(name)[-1:] == b"!" for name in "ab")
        except Exception:  # one time in four the bytes were changed, and zipfile has many errors for that
            continue
    assert whole > 120


def test_a_changed_message_has_lengths_that_fit():
    inner = b"\x0a\x03abc\x10\x07"
    message = b"\x12" + bytes([len(inner)]) + inner + b"\x18\x01"
    rng = random.Random(0)
    fitting = [mutate.fields(mutate.change_protobuf(message, rng)) is not None for _ in range(400)]
    assert sum(fitting) > 300
    assert mutate.fields(message) == [(2, 2, inner), (3, 0, 1)] and mutate.fields(message[:-1]) is None


def test_a_changed_value_is_another_one_and_leaves_the_given_one_alone():
    rng = random.Random(0)
    different = 0
    for _ in range(300):
        value = {"a": [1, {"b": 2}], "c": "x"}
        changed = mutate.change_json(value, rng)
        json.dumps(changed)  # nothing holds itself
        different += changed != {"a": [1, {"b": 2}], "c": "x"}
    assert different > 250
    assert mutate._fresh(mutate.ODD_VALUES) == mutate.ODD_VALUES


def test_choices_from_bytes():
    draw = Draw(b"\x05\xff")
    assert draw.below(4) == 1 and draw.chance(256) and draw.ended
    assert draw.below(4) == 0 and not draw.chance(2) and draw.pick("ab") == "a" and draw.bytes(2) == b"\0\0"
