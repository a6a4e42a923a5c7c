"""Every file of hostile_work.py: loaded or refused within the time and the memory of any hostile file."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hostile_work import CASES, HONEST, write
from paths import ROOT
from refusals import MEBIBYTES, SECONDS, assert_refused
from yardstick import within

import rnncore
from rnncore import Budget
from rnncore.errors import InputError, RnncoreError

SMALL = Budget(work=1e8, memory=256 << 20)


@pytest.mark.parametrize("name", CASES)
def test_file_is_loaded_or_refused_in_time(name, tmp_path):
    case = CASES[name]
    path = write(case, tmp_path)
    if case.error is not None:
        assert_refused(lambda path: rnncore.load(path, **case.options), case, path)
        return

    def load():
        try:
            return rnncore.load(path, budget=SMALL, **case.options)
        except RnncoreError as error:
            assert case.either, error
            assert str(path) in str(error)
            return None

    def run():
        try:
            model.run({"x": np.ones((1, 3), np.float32)})
        except InputError as error:
            assert "by the model's budget" in str(error), case.why

    model = within(SECONDS, load)
    if model is not None and case.folds:
        within(SECONDS, run)


def test_there_are_enough_cases():
    assert len(CASES) >= 60
    assert all(case.why for case in CASES.values())


@pytest.mark.parametrize("name", HONEST)
def test_large_honest_file_loads(name, tmp_path):
    model = rnncore.load(write(HONEST[name], tmp_path), **HONEST[name].options)
    assert model.outputs


def test_memory_stays_within_the_budget(tmp_path):
    """The most that each file takes, beside what it declares, in a process of its own that loads them all."""
    if sys.platform != "linux":
        pytest.skip("needs Linux's high-water mark")
    files = [[name, str(write(case, tmp_path)), case.declared] for name, case in CASES.items()]
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps(files),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    taken = json.loads(done.stdout)
    assert taken.keys() == CASES.keys()
    assert {name: mebibytes for name, mebibytes in taken.items() if mebibytes > MEBIBYTES} == {}


WATCHED = """
import gc, json, sys
import rnncore
from rnncore.errors import RnncoreError

def status(key):
    with open("/proc/self/status") as found:
        return next(int(line.split()[1]) / 1024 for line in found if line.startswith(key))

def load(path):
    try:
        rnncore.load(path)
    except RnncoreError:
        pass

files = json.load(sys.stdin)
for name, path, declared in files:  # what is imported late
    if name in ("fold_maxpool_window", "torch_layers", "keras_again", "npz_half"):
        load(path)
taken = {}
for name, path, declared in files:
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS")
    load(path)
    taken[name] = status("VmHWM") - before - declared / (1 << 20)
print(json.dumps(taken))
"""
