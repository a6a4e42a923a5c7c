"""One process that runs one target until its time or count is over, a fault ends it, or its watcher does.

run.py starts it: worker.py TARGET --folder DIR --shared FILE --seconds S --count N --seed S --engine mutate|guided
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import json
import os
import random
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from minimise import minimise
from shared import DEADLY, Shared

ROOT = Path(__file__).resolve().parents[1]
ADDRESSES = 8 << 30  # bytes of address space beyond which allocations fail, as they would on a machine that is full
TRIES = 400


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--shared", type=Path)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--count", type=int)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--engine", choices=("mutate", "guided"))
    parser.add_argument("--repeat", type=Path)
    options = parser.parse_args()
    sys.path[1:1] = [str(ROOT / "tests" / "helpers"), str(ROOT / "tests" / "tools"), str(ROOT)]  # builders; this tree
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    warnings.simplefilter("ignore")
    if "sanitizer" not in _preloaded():
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    if options.repeat:
        sys.exit(_repeat(options.target, options.repeat))
    if options.engine == "guided":
        _guided(options)
    else:
        _mutating(options)


def _preloaded() -> str:
    with open("/proc/self/maps") as maps:
        return "sanitizer" if any("libasan" in line or "libtsan" in line for line in maps) else ""


def load(name: str):
    return importlib.import_module(f"targets.{name}")


def _repeat(name: str, path: Path) -> int:
    """Run one input; its traceback, and 1, where it is a fault."""
    from outcome import Judge

    fault = Judge(load(name).run).run(path.read_bytes())
    print(f"{name}: {path}: " + ("right, or refused" if fault is None else f"{fault.signature}\n{fault.text}"))
    return int(fault is not None)


class Worker:
    """Executions, counted where the watcher sees them, and faults, each kind saved once."""

    def __init__(self, options: argparse.Namespace):
        from outcome import Judge

        self.target = load(options.target)
        self._judge, self._folder, self._name = Judge(self.target.run), options.folder, options.target
        self._shared = Shared(options.shared)
        self._known = {path.stem for path in (options.folder / "found").glob("*.json")}
        self._faults = 0
        deadly = options.folder / DEADLY
        self._deadly = set(deadly.read_text().split()) if deadly.exists() else set()
        self.slow = self._judge.seconds / 100

    @property
    def executions(self) -> int:
        return self._judge.executions

    def execute(self, data: bytes) -> bool:
        """Whether it was right or refused; what ended a worker before is left out."""
        if self._deadly and hashlib.sha256(data).hexdigest() in self._deadly:
            return False
        judge = self._judge
        self._shared.begin(data, judge.executions, judge.refused, self._faults, judge.slowest)
        fault = judge.run(data)
        if fault is None:
            return True
        self._faults += 1
        stem = f"{self._name}-{hashlib.sha256(fault.signature.encode()).hexdigest()[:10]}"
        if stem not in self._known:
            self._known.add(stem)
            self._save(stem, data, fault)
        return False

    def close(self) -> None:
        judge = self._judge
        self._shared.begin(b"", judge.executions, judge.refused, self._faults, judge.slowest)
        self._shared.finish()

    def _save(self, stem: str, data: bytes, fault) -> None:
        """The input, then the smallest found that shows the same, with what it shows."""
        record = self._folder / "found" / stem
        record.with_suffix(".bin").write_bytes(data)
        if fault.signature not in ("slow", "memory"):
            judge = self._judge
            counts = judge.executions, judge.refused

            def same(smaller: bytes) -> bool:
                self._shared.begin(smaller, *counts, self._faults, judge.slowest)
                found = judge.run(smaller)
                return found is not None and found.signature == fault.signature

            data = minimise(data, same, TRIES)
            judge.executions, judge.refused = counts
            record.with_suffix(".bin").write_bytes(data)
        record.with_suffix(".json").write_text(
            json.dumps({"target": self._name, "signature": fault.signature, "text": fault.text, "bytes": len(data)})
        )


def _pool(target, folder: Path, name: str) -> list[bytes]:
    """The seeds, and what a guided run found to be interesting."""
    corpus = folder / "corpus" / name
    found = [path.read_bytes() for path in sorted(corpus.glob("*"))] if corpus.is_dir() else []
    return [*target.seeds(), *found]


def _mutating(options: argparse.Namespace) -> None:
    worker = Worker(options)
    rng = random.Random(options.seed)
    pool = _pool(worker.target, options.folder, options.target)
    change: Callable[[bytes, random.Random], bytes] = worker.target.mutate
    end, done = time.monotonic() + options.seconds, 0
    quick = []
    for data in pool:  # relatives of those that take long, which are here too, would be most of the time
        begin = time.process_time()
        worker.execute(data)
        if time.process_time() - begin < worker.slow:
            quick.append(data)
    pool = quick or pool
    while done < options.count and time.monotonic() < end:
        for _ in range(20):
            data = change(rng.choice(pool), rng)
            if rng.random() < 0.3:
                data = change(data, rng)
            worker.execute(data)
            done += 1
    worker.close()


def _guided(options: argparse.Namespace) -> None:
    import atheris

    with atheris.instrument_imports(include=["rnncore"]):
        worker = Worker(options)
    change = worker.target.mutate
    corpus = options.folder / "corpus" / options.target
    corpus.mkdir(parents=True, exist_ok=True)
    for data in worker.target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:20]).write_bytes(data)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        return (change(data, rng) if rng.random() < 0.7 else atheris.Mutate(data, most))[:most]

    end = time.monotonic() + options.seconds

    def one(data: bytes) -> None:
        worker.execute(data)
        if time.monotonic() > end or worker.executions >= options.count:
            worker.close()
            os._exit(0)  # which libFuzzer may call a crash

    quiet = [
        "-timeout=1000000",
        "-rss_limit_mb=0",
        "-verbosity=0",
        "-handle_segv=0",
        "-handle_abrt=0",
        "-detect_leaks=0",
    ]
    arguments = [sys.argv[0], f"-seed={options.seed & 0x7FFFFFFF}", *quiet, "-max_len=65536", str(corpus)]
    atheris.Setup(arguments, one, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
