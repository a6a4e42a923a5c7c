"""Every file of hostile_onnx.py: refused with our error and a message that says why, or read and run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hostile_onnx import BENIGN, HOSTILE, external, weights_beside, with_tensor, write
from refusals import MEBIBYTES, SECONDS, assert_refused

import rnncore
from rnncore.errors import FormatError, RnncoreError, UnsupportedError
from rnncore.formats import read_file, read_listing

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(name, tmp_path):
    case = HOSTILE[name]
    assert len(assert_refused(read_file, case, write(case, tmp_path))) < 1000


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_supported_can_be_listed(name, tmp_path):
    """A right file that is not supported has a listing, and what is damaged has none."""
    case = HOSTILE[name]
    path = write(case, tmp_path)
    try:
        found = read_listing(path)
    except (FormatError, UnsupportedError) as error:
        assert str(path) in str(error)
    else:
        assert case.error is UnsupportedError
        problems = [node.problem for node in found.nodes if node.problem] + [found.problem or ""]
        assert any(case.says in problem for problem in problems)


@pytest.mark.parametrize("name", BENIGN)
def test_benign_file_runs(name, tmp_path):
    case = BENIGN[name]
    inputs, outputs = case.run
    begin = time.process_time()
    model = rnncore.load(write(case, tmp_path))
    assert time.process_time() - begin < SECONDS
    found = model.run(inputs)
    assert found.keys() == outputs.keys()
    for key, array in outputs.items():
        np.testing.assert_allclose(found[key], array, rtol=1e-6, err_msg=case.why)


def test_there_are_enough_cases():
    assert len(HOSTILE) >= 35 and len(BENIGN) >= 15
    assert all(case.says and case.why and case.error for case in HOSTILE.values())


@pytest.mark.parametrize("name", ["fine_relu", "fine_function", "fine_nested_if", "fine_half_in_int32"])
def test_damaged_file_is_our_error(name, tmp_path):
    """Prefixes of a benign file, and bytes of it changed: read, or refused with one of our errors."""
    built = BENIGN[name].build()
    data = built if isinstance(built, bytes) else built.SerializeToString()
    path = tmp_path / "model.onnx"
    random = np.random.default_rng(0)
    variants = [data[:end] for end in range(3, len(data), 5)]
    for at in range(0, len(data), 2):
        variants += [data[:at] + bytes([byte]) + data[at + 1 :] for byte in {0, data[at] ^ 1, random.integers(256)}]
    for variant in variants:
        path.write_bytes(variant)
        try:
            rnncore.load(path)
        except RnncoreError as error:
            assert str(path) in str(error)


def test_external_data_follows_the_directory_that_was_opened(tmp_path):
    """A model that is reached through a linked directory has its weights there."""
    real = tmp_path / "real"
    real.mkdir()
    weights_beside(real)
    (real / "model.onnx").write_bytes(with_tensor(external("w.bin")).SerializeToString())
    (tmp_path / "link").symlink_to(real)
    found = rnncore.load(tmp_path / "link" / "model.onnx").run({"x": np.zeros((1, 3), np.float32)})
    np.testing.assert_array_equal(found["y"], [[1, 2, 3]])


WATCHED = """
import json, os, sys
paths, warm = json.loads(sys.stdin.read())
import rnncore
from rnncore.errors import RnncoreError
from rnncore.formats import read_file, read_listing

def read(path):
    for how in (read_file, read_listing):
        try:
            how(path)
        except RnncoreError:
            pass

for path in warm:
    read(path)
events, current, watching = [], None, False
HARMLESS = ("builtins.id", "object.__", "sys._getframe", "cpython.", "gc.")

def hook(event, arguments):
    if not watching or event.startswith(HARMLESS):
        return
    if event == "open":
        own = os.path.dirname(current)
        name = arguments[0]
        # A name without a directory is opened beneath a descriptor; the reader's own are checked by their outcome.
        if type(name) is int or name in (current, own) or "/" not in os.fsdecode(name):
            return
    events.append([current, event, repr(arguments)[:200]])

def high_water():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))

base = high_water() if sys.platform == "linux" else 0
sys.addaudithook(hook)
before = set(sys.modules)
for current in paths:
    watching = True
    read(current)
    watching = False
peak = high_water() - base if sys.platform == "linux" else 0
print(json.dumps({"events": events, "modules": sorted(set(sys.modules) - before), "peak": peak}))
"""


def test_nothing_is_opened_outside_imported_or_run(tmp_path):
    """All cases in one process under an audit hook: only the model's own directory is opened, within 256 MiB."""
    cases = {**HOSTILE, **BENIGN}
    paths = [str(write(case, tmp_path)) for case in cases.values()]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps([paths, [str(tmp_path / name / "model.onnx") for name in BENIGN]]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["events"] == []
    assert found["modules"] == []
    assert found["peak"] < MEBIBYTES
