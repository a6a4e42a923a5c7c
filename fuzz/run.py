#!/usr/bin/env python
"""Fuzzing: inputs by the million for whatever takes bytes or Specs that nobody vouches for.

    python fuzz/run.py                          every target for a minute in all
    python fuzz/run.py onnx specs --minutes 30  these
    python fuzz/run.py specs --count 1000000    so many executions of each
    python fuzz/run.py onnx --repeat FILE       one input again, with its traceback

An execution ends with a right result or one of rnncore's own errors, within two seconds (relative to a yardstick
measured in the same process) and 256 MiB beside what the input declares. Anything else is a fault: a foreign exception,
a result that its target knows to be wrong, a crash, a hang. Each kind of fault is saved once, with the smallest input
that was found to show it, in build/fuzz/found.

Targets run in processes of their own (worker.py): one that dies or hangs is started again. Inputs come from atheris
where it is installed and no sanitizer is loaded (--engine guided: by coverage), else from mutate.py alone, which starts
from the seeds and from what guided runs kept. The same --seed, target and engine "mutate" give the same inputs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from minimise import minimise
from shared import DEADLY, Shared

HERE = Path(__file__).resolve().parent
TARGETS = tuple(sorted(path.stem for path in (HERE / "targets").glob("*.py") if not path.stem.startswith("_")))
PATIENCE, SILENCE = 30.0, 300.0  # seconds of process time, and of any time, without the end of an execution: a hang
CRASH_TRIES, CRASH_SECONDS = 30, 30.0  # for a smaller input that ends the process in the same place


@dataclass
class Tally:
    """One target's counts over all of its workers."""

    name: str
    executions: int = 0
    refused: int = 0
    faults: int = 0
    restarts: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    kinds: set[str] = field(default_factory=set)

    def add(self, counts: tuple[int, int, int, float]) -> None:
        executions, refused, faults, slowest = counts
        self.executions += executions
        self.refused += refused
        self.faults += faults
        self.slowest = max(self.slowest, slowest)

    def __str__(self) -> str:
        rate = self.executions / max(1e-9, self.seconds)
        return (
            f"{self.name:14} {self.executions:10,} executions {self.refused:10,} refused {rate:9,.0f}/s "
            f"slowest {self.slowest:.2f} s, {self.restarts} restarts, {len(self.kinds)} kinds of faults"
        )


class Watcher:
    """Runs one target's workers, one after the other, and keeps what ends them."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace, seconds: float, part: int = 0):
        """part: which of several that run one target side by side, each with a seed of its own."""
        self._name, self._folder, self._options, self._seconds = name, folder, options, seconds
        self._seed = options.seed * 1_000_003 + part * 100_003
        self._place = folder / f"{name}.{part}.shared"
        self._shared = Shared(self._place, create=True)
        self.tally = Tally(name)
        self.patience = PATIENCE

    def run(self) -> Tally:
        begin = time.monotonic()
        while True:
            left = self._seconds - (time.monotonic() - begin)
            count = self._options.count - self.tally.executions
            if left < 0.5 or count <= 0:
                break
            ended = self._one(left, count)
            self.tally.add(self._shared.counts)
            if ended is None:
                break
            self.tally.restarts += 1
            self._keep(*ended)
        self.tally.seconds = time.monotonic() - begin
        self.tally.kinds = {path.stem for path in (self._folder / "found").glob(f"{self._name}-*.json")}
        return self.tally

    def _one(self, seconds: float, count: int) -> tuple[str, str] | None:
        """One worker to its end: None for a good one, else the kind of end and what it said."""
        seed = self._seed + self.tally.restarts
        command = [sys.executable, str(HERE / "worker.py"), self._name, f"--folder={self._folder}"]
        command += [
            f"--shared={self._place}",
            f"--seconds={seconds:.1f}",
            f"--count={count}",
            f"--seed={seed}",
            f"--engine={self._options.engine}",
        ]
        self._shared.begin(b"", 0, 0, 0, 0.0)
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment())
            hung = self._watch(process)
            log.seek(0)
            text = log.read().decode(errors="replace")
        if self._shared.finished and not hung:
            return None
        return ("hang" if hung else "crash"), text

    def _watch(self, process: subprocess.Popen) -> bool:
        """Wait for the end; whether the process had to be ended because one execution did not."""
        last, busy, since = -1, 0.0, time.monotonic()
        while True:
            try:
                process.wait(0.5)
                return False
            except subprocess.TimeoutExpired:
                pass
            executions, used, now = self._shared.counts[0], _process_time(process.pid), time.monotonic()
            if executions != last:
                last, busy, since = executions, used, now
            elif executions and (used - busy > self.patience or now - since > SILENCE):
                process.send_signal(signal.SIGUSR1)  # where it is
                time.sleep(0.5)
                process.kill()
                process.wait()
                return True

    def _keep(self, kind: str, text: str) -> None:
        data = self._shared.input
        with (self._folder / DEADLY).open("a") as file:  # a worker that begins anew leaves it out
            file.write(hashlib.sha256(data).hexdigest() + "\n")
        signature = f"{kind}: {signature_of(text)}"
        stem = f"{self._name}-{hashlib.sha256(signature.encode()).hexdigest()[:10]}"
        record = self._folder / "found" / stem
        if record.with_suffix(".json").exists():
            return
        record.with_suffix(".bin").write_bytes(data)
        if kind == "crash":
            end = time.monotonic() + CRASH_SECONDS

            def same(smaller: bytes) -> bool:
                return time.monotonic() < end and self._crashes(smaller, signature)

            data = minimise(data, same, CRASH_TRIES)
            record.with_suffix(".bin").write_bytes(data)
        record.with_suffix(".json").write_text(
            json.dumps({"target": self._name, "signature": signature, "text": text[-6000:], "bytes": len(data)})
        )

    def _crashes(self, data: bytes, signature: str) -> bool:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            command = [sys.executable, str(HERE / "worker.py"), self._name, f"--repeat={file.name}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
            except subprocess.TimeoutExpired:
                return False
        return done.returncode not in (0, 1) and f"crash: {signature_of(done.stderr)}" == signature


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONFAULTHANDLER": "1", "RNNCORE_NUM_THREADS": os.environ.get("RNNCORE_NUM_THREADS", "2")}


def signature_of(text: str) -> str:
    """The sanitizer's own summary, or where Python was."""
    for pattern in (
        r"SUMMARY: (\w+: \S+) \S*?([\w.]+):\d+.* in (\w+)",
        r"([\w.]+\.[chx]+):\d+:\d+: runtime error: ([^\n]*)",
    ):
        found = re.search(pattern, text)
        if found:
            return " ".join(re.sub(r"0x[0-9a-f]+|\d{3,}", "N", part) for part in found.groups())
    places = re.findall(r'File "([^"]*)", line \d+ in (\w+)', text)
    own = [place for place in places if "/rnncore/" in place[0] and "/fuzz/" not in place[0]] or places
    return " < ".join(f"{Path(name).name}:{function}" for name, function in own[:2]) or text.strip()[-200:]


def _process_time(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat") as file:
            parts = file.read().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def default_engine() -> str:
    if "lib" in os.environ.get("LD_PRELOAD", "") or importlib.util.find_spec("atheris") is None:
        return "mutate"
    return "guided"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--minutes", type=float, help="for all targets together (1, or no end where --count is given)")
    parser.add_argument("--count", type=int, default=1 << 62, help="executions of each target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="targets at a time")
    parser.add_argument("--engine", choices=("mutate", "guided"), default=default_engine())
    parser.add_argument("--folder", type=Path, default=HERE.parent / "build" / "fuzz", help="what is found and kept")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run this input once")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        parser.error(f"no target {unknown[0]}, expected {', '.join(TARGETS)}")
    if options.repeat:
        command = [sys.executable, str(HERE / "worker.py"), names[0], f"--repeat={options.repeat}"]
        return subprocess.run(command, env=environment()).returncode
    if options.minutes is None:
        options.minutes = 1.0 if options.count == 1 << 62 else float(1 << 30)
    folder = options.folder.resolve()
    (folder / "found").mkdir(parents=True, exist_ok=True)
    parts = max(1, options.jobs // len(names))
    jobs = max(1, min(options.jobs, parts * len(names)))
    seconds = options.minutes * 60 * jobs / (parts * len(names))
    options.count = -(-options.count // parts)

    def one(task: tuple[str, int]) -> Tally:
        tally = Watcher(task[0], folder, options, seconds, task[1]).run()
        print(tally, flush=True)
        return tally

    with ThreadPoolExecutor(jobs) as pool:
        told = list(pool.map(one, [(name, part) for name in names for part in range(parts)]))
    print(f"{sum(tally.executions for tally in told):,} executions in all, engine {options.engine}")
    found = sorted(path for name in names for path in (folder / "found").glob(f"{name}-*.json"))
    for path in found:
        record = json.loads(path.read_text())
        print(
            f"FAULT {record['signature']}\n  python fuzz/run.py {record['target']} --repeat {path.with_suffix('.bin')}"
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
