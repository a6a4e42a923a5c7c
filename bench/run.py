"""Races rnncore against other engines on the same weights and inputs.

One process an engine, all alive at once and measured in turn, so that a slow moment of the machine hits them all.
Every output is checked against a float64 reference computed in the same run: an engine whose error is above 1e-5
has no time in that row. Medians over at least 30 samples after at least 20 warm-up calls.

    python bench/run.py [--quick] [--threads 1 2] [--engines rnncore torch onnxruntime] [--write NAME]

An engine that cannot run a shape (torch.compile unrolls time, which takes minutes for long sequences) has the reason
in that row instead of a time.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import ceilings  # noqa: E402
import table  # noqa: E402
from engines import ENGINES, installed  # noqa: E402
from floor import floor  # noqa: E402
from plots import draw  # noqa: E402
from reference import reference  # noqa: E402
from shapes import MAIN, MORE, QUICK, Shape  # noqa: E402

LARGEST_ERROR = 1e-5
WARM_UP_CALLS = 20
ROUNDS, SAMPLES_PER_ROUND = 6, 6
SECONDS_PER_SAMPLE = 0.004
# Threads of the engine before go on spinning for a while after its last call, on the core that the next one wants.
PAUSE = 0.1


class Worker:
    """An engine's process."""

    def __init__(self, engine: str, threads: int):
        self.engine = engine
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), engine, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE,
        )  # fmt: skip
        self.version = self._answer()["version"]

    def prepare(self, shape: Shape, output: Path) -> str | None:
        """Why the engine cannot run the shape, or None."""
        return self._ask({"prepare": shape.to_json(), "output": str(output)}).get("reason")

    def measure(self, samples: int, calls: int) -> list[float]:
        return self._ask({"measure": samples, "calls": calls})["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _ask(self, command: dict) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.engine}: its process ended, see its output above")
        return json.loads(line)


def race(shape: Shape, workers: list[Worker]) -> dict:
    """Times and errors of every engine on one shape."""
    expected = reference(shape)
    counts = np.arange(shape.T) < shape.lengths[:, None]
    level = ceilings.ceiling_of(shape.weight_bytes)
    row = {
        "shape": shape.name,
        "level": level,
        "flops": shape.flops,
        "weight_bytes": shape.weight_bytes,
        "sizes": shape.to_json(),
        "engines": {},
    }
    calls = {}
    with tempfile.TemporaryDirectory() as directory:
        for worker in workers:
            output = Path(directory) / f"{worker.engine}.npy"
            reason = worker.prepare(shape, output)
            if reason is not None:
                row["engines"][worker.engine] = {"valid": False, "error": None, "reason": reason}
                continue
            error = float(np.abs(np.load(output) - expected)[counts].max())
            row["engines"][worker.engine] = {"error": error, "seconds": []}
            warm = worker.measure(WARM_UP_CALLS, 1)
            calls[worker.engine] = max(1, round(SECONDS_PER_SAMPLE / float(np.median(warm))))
    for _ in range(ROUNDS):
        for worker in workers:
            if worker.engine not in calls:
                continue
            time.sleep(PAUSE)
            seconds = worker.measure(SAMPLES_PER_ROUND, calls[worker.engine])
            row["engines"][worker.engine]["seconds"] += seconds
    for found in row["engines"].values():
        if "seconds" not in found:
            continue
        seconds = found.pop("seconds")
        found["valid"] = found["error"] <= LARGEST_ERROR
        found["microseconds"] = {
            name: round(float(np.percentile(seconds, q)) * 1e6, 3)
            for name, q in (("p10", 10), ("median", 50), ("p99", 99))
        }
        found["gflops"] = round(shape.flops / found["microseconds"]["median"] / 1e3, 2)
        # What must be read again in every step: the recurrent weights, whatever the batch.
        found["gbytes"] = round(shape.weight_bytes * shape.lengths.max() / found["microseconds"]["median"] / 1e3, 2)
    return row


def ratio(row: dict) -> float | None:
    """Fastest valid peer's median over ours: above 1, rnncore is faster. None without one of them."""
    ours, times = table.medians(row)
    return None if ours is None or not times else round(min(times.values()) / ours, 3)


def attainable(row: dict) -> float | None:
    """The ratio of an engine at the floor: fastest valid peer's median over the floor."""
    quotient = ratio(row)
    if quotient is None or not row["floor"]:
        return None
    return round(quotient * row["engines"]["rnncore"]["microseconds"]["median"] / row["floor"], 3)


def show(row: dict, engines: list[str]) -> str:
    cells = []
    for engine in engines:
        found = row["engines"][engine]
        why = "        - " if found["error"] is None else f"  err {found['error']:.0e}"
        cells.append(f"{found['microseconds']['median']:10.1f}" if found["valid"] else why)
    quotient = ratio(row)
    found = [row["engines"][engine]["error"] for engine in engines]
    errors = " ".join("-" if error is None else f"{error:.0e}" for error in found)
    best = f"{quotient:6.2f}" if quotient else "     -"
    ours = row["engines"].get("rnncore", {"gflops": 0, "gbytes": 0})
    speed = f"{ours['gflops']:7.0f}{ours['gbytes']:7.0f} {row['level']:4}"
    if row["floor"] and quotient:
        speed += f"{row['floor'] / ours['microseconds']['median']:8.0%}{row['attainable']:7.2f}"
    return f"{row['shape']:32}" + "".join(cells) + best + speed + f"  {errors}"


def machine() -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {"cpu": cpu or platform.processor(), "system": platform.platform(), "python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six shapes, one thread")
    parser.add_argument("--main", action="store_true", help="only the main shapes, without DeepBench and models")
    parser.add_argument("--threads", type=int, nargs="+", help="thread counts (default: 1 and 2, quick: 1)")
    parser.add_argument("--engines", nargs="+", default=installed(), choices=list(ENGINES))
    parser.add_argument("--write", metavar="NAME", help="write bench/results/NAME.json, its table and its pictures")
    options = parser.parse_args()

    results = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {},
        "ceilings": {},  # of each core, by the number of busy ones
        "races": [],
    }
    for threads in options.threads or ([1] if options.quick else [1, 2]):
        core = results["ceilings"][str(threads)] = ceilings.measure(threads)
        workers = [Worker(engine, threads) for engine in options.engines]
        results["versions"] = {worker.engine: worker.version for worker in workers}
        print(
            f"\n{threads} thread{'s' if threads > 1 else ''}; microseconds a call (median); "
            "ratio = fastest peer / rnncore; of floor: floor.py's time over rnncore's; attainable: the floor's ratio"
        )
        if core:
            found = ", ".join(f"{name} {value:g}" for name, value in ceilings.levels(core).items())
            print(f"each core: {core['gflops']:g} GFLOP/s; GB/s of reading: {found}")
        heads = "".join(f"{engine[:10]:>10}" for engine in options.engines)
        print(f"{'':32}{heads} ratio GFLOP/s GB/s of  of floor  attainable; largest error against float64")
        for shape in QUICK if options.quick else MAIN if options.main else MAIN + MORE:
            row = {"threads": threads, **race(shape, workers)}
            row["ratio"] = ratio(row)
            row["floor"] = floor(shape, core, threads)
            row["attainable"] = attainable(row)
            results["races"].append(row)
            print(show(row, options.engines), flush=True)
        for worker in workers:
            worker.close()
        found = [row["ratio"] for row in results["races"] if row["threads"] == threads and row["ratio"]]
        if found:
            print(f"{'geometric mean of the ratios':32}{float(np.exp(np.mean(np.log(found)))):.2f}")
    if options.write:
        target = HERE / "results" / f"{options.write}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(results, indent=1) + "\n")
        print(f"\nwritten: {target.relative_to(HERE.parent)}")
        for written in (table.write(results, target), *draw(results, target)):
            print(f"written: {written.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
