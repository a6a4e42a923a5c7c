"""Inputs that fuzzing found, golden/fuzz/TARGET-WHAT.bin: each is answered rightly now, or refused.

A new one comes from build/fuzz/found, where "make fuzz" leaves the smallest that it found of each kind.
"""

import json
import os
import subprocess
import sys

import pytest
from paths import GOLDEN, HELPERS, ROOT

FOUND = sorted((GOLDEN / "fuzz").glob("*.bin"))

CODE = """
import importlib, json, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from outcome import Judge
for path in map(Path, sys.argv[1:]):
    print(path.name, flush=True)
    target = importlib.import_module("targets." + path.name.partition("-")[0])
    fault = Judge(target.run).run(path.read_bytes())
    if fault is not None:
        print("FAULT", json.dumps([path.name, fault.signature, fault.text]), flush=True)
"""


@pytest.fixture(scope="module")
def judged():
    """What one process, with the targets in it, says of every input."""
    folders = [ROOT, ROOT / "fuzz", HELPERS]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", CODE, *map(str, FOUND)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        timeout=280,
    )
    return done


def test_none_ends_the_process(judged):
    assert judged.returncode == 0, f"{judged.stdout[-500:]}\n{judged.stderr[-3000:]}"


@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_found_before_and_mended(judged, path):
    lines = judged.stdout.splitlines()
    assert path.name in lines
    faults = [json.loads(line.removeprefix("FAULT ")) for line in lines if line.startswith("FAULT ")]
    assert [fault for fault in faults if fault[0] == path.name] == []
