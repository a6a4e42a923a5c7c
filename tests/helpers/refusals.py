"""What every refusal of a hostile file must be: quick, of the right type, with the reason and the file's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from yardstick import within

from rnncore.errors import RnncoreError

__all__ = ["MEBIBYTES", "SECONDS", "assert_refused", "assert_touches_nothing"]


SECONDS, MEBIBYTES = 2.0, 256
"""What any hostile file may take: seconds of a normal machine, see yardstick.py."""


def assert_refused(read: Callable[[Path], Any], case: Any, path: Path) -> str:
    """Reads the file, which must be refused as the case says; returns the message."""

    def refusal() -> RnncoreError:
        with pytest.raises(RnncoreError) as caught:
            read(path)
        return caught.value

    error = within(SECONDS, refusal)
    message = str(error)
    assert type(error) is case.error, case.why
    assert case.says in message, case.why
    assert str(path) in message
    return message


def assert_touches_nothing(
    readers: Sequence[str], paths: Iterable[Path], warm: Iterable[Path], place: Path, beside: bool = False
) -> None:
    """Readers of rnncore.formats, by name, on every file, in one process under an audit hook, which runs in ``place``.

    There may be no event but the opening of the file itself (beside: and of its own directory and what that holds),
    no module may be imported, and memory may grow by MEBIBYTES. What the first reading of the files ``warm`` loads,
    which Python and other packages load late, is not watched.
    """
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps([list(readers), [str(path) for path in paths], [str(path) for path in warm], beside]),
        capture_output=True,
        text=True,
        cwd=place,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(place)))},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["events"] == [], report["events"][:5]
    assert report["modules"] == []
    assert not report["torch"]
    assert report["peak"] < MEBIBYTES


WATCHED = """
import importlib, json, os, pkgutil, sys
readers, paths, warm, beside = json.loads(sys.stdin.read())
import rnncore.formats
for own in pkgutil.iter_modules(rnncore.formats.__path__):  # of which some are loaded at first use
    importlib.import_module(f"rnncore.formats.{own.name}")
from rnncore.errors import RnncoreError

def read(path):
    for name in readers:
        try:
            getattr(rnncore.formats, name)(path)
        except RnncoreError:
            pass

for path in warm:
    read(path)
events, current, watching = [], None, False
HARMLESS = ("builtins.id", "object.__", "sys._getframe", "cpython.", "gc.")

def its_own(name):
    if name == current or type(name) is int:  # a number: it is open already
        return True
    # A name without a directory is opened beneath a descriptor; the reader's own are checked by their outcome.
    return beside and (name == os.path.dirname(current) or "/" not in os.fsdecode(name))

def hook(event, arguments):
    if not watching or event.startswith(HARMLESS):
        return
    if event == "open" and its_own(arguments[0]):
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
new = sorted(set(sys.modules) - before)
print(json.dumps({"events": events, "modules": new, "torch": "torch" in sys.modules, "peak": peak}))
"""
