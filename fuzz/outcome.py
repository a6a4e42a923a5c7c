"""What an execution came to: right, refused with one of the project's errors, or anything else, which is a fault."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from rnncore.errors import RnncoreError

__all__ = ["Fault", "Judge", "WrongResult"]

PACKAGE = str(Path(__import__("rnncore").__file__).parent)
YARDSTICKS = 130  # an execution may take so many of the yardstick's seconds: two, where it was made
MEBIBYTES = 256  # and so much memory beside what it declares


class WrongResult(AssertionError):
    """A target's own check of a result failed."""


@dataclass(frozen=True)
class Fault:
    """signature: what is the same for every input that shows it; text: for people."""

    signature: str
    text: str


class Judge:
    """Runs a target and says what it came to.

    After ``run`` the attributes executions, refused and slowest (seconds of process time) count.
    """

    def __init__(self, run: Any):
        self._run = run
        self.seconds = YARDSTICKS * min(_yardstick() for _ in range(3))
        self.executions = self.refused = 0
        self.slowest = 0.0
        self._peak = _peak()
        self._most = self._peak + (MEBIBYTES << 20)

    def run(self, data: bytes) -> Fault | None:
        """None where the target gave a right result or refused. A target returns the bytes that its input declares."""
        self.executions += 1
        begin = time.process_time()
        declared = None
        try:
            declared = self._run(data)
        except RnncoreError:
            self.refused += 1
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return Fault(signature_of(error), "".join(traceback.format_exception(error))[-6000:])
        taken = time.process_time() - begin
        self.slowest = max(self.slowest, taken)
        if taken > self.seconds:
            return Fault("slow", f"{taken:.2f} s of process time, expected at most {self.seconds:.2f}")
        peak = _peak()
        if peak > self._peak:
            grown, self._peak = peak - self._peak, peak
            if peak > self._most + (declared or 0):
                self._most = peak + (MEBIBYTES << 20)
                return Fault("memory", f"{grown >> 20} MiB more than ever before, {(declared or 0) >> 20} MiB declared")
        return None


def signature_of(error: BaseException) -> str:
    """The kind of an exception and the two innermost places in the package: the same for the same fault."""
    places = _places(error.__traceback__)
    return " < ".join([type(error).__name__, *reversed(places[-2:])])


def _places(trace: TracebackType | None) -> list[str]:
    found, last = [], ""
    for frame in traceback.extract_tb(trace):
        name = frame.filename
        if name.startswith(PACKAGE):
            last = f"{Path(name).relative_to(PACKAGE)}:{frame.name}"
        elif name.startswith("rnncore/"):  # compiled
            last = f"{name.removeprefix('rnncore/')}:{frame.name}"
        else:
            continue
        found.append(last)
    return found or [f"{Path(frame.filename).name}:{frame.name}" for frame in traceback.extract_tb(trace)[-1:]]


def _peak() -> int:
    """The most bytes that the process ever had in memory: what getrusage says begins with the parent's."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def _yardstick() -> float:
    """Seconds of process time for a little of what readers and kernels do: this machine, build and moment."""
    begin = time.process_time()
    text = json.dumps([{"name": f"n{i}", "shape": [i, i + 1]} for i in range(3000)])
    for _ in range(3):
        names = {entry["name"]: tuple(entry["shape"]) for entry in json.loads(text)}
        sorted(names, key=names.get)
    x = np.ones((200, 200), np.float32)
    for _ in range(60):
        x = np.tanh(x * 0.5)
    total = 0
    for i in range(150_000):
        total += i & 7
    return time.process_time() - begin
