"""Whole published models beside onnxruntime, one thread each, on the same inputs in one process.

    silero, one frame    voice activity, 576 samples a call, the state fed back by hand
    silero, 600 frames   19 seconds of sound in one call
    nakdimon             Hebrew diacritics, 100 letters: ours reads the Keras file, onnxruntime its conversion to ONNX
    ddddocr              letters of a picture of 64 x 160: 21 convolutions, a bidirectional LSTM, a wide Linear

Samples are taken in turn, after warm-up calls, and outputs must agree to 1e-5. The ratio is the median of
onnxruntime's time over ours, sample by sample: above 1, rnncore is faster. A machine that is busy slows both.

    python bench/models.py [--samples 60] [--write]      # --write: bench/results/models.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "helpers")]
for variable in ("RNNCORE_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from real_models import real_file  # noqa: E402
from run import machine  # noqa: E402

import rnncore  # noqa: E402

LARGEST_ERROR = 1e-5
WARM_UP_SECONDS, SAMPLE_SECONDS = 0.3, 0.004
LETTERS, FRAMES = 100, 600

Call = Callable[[], list[np.ndarray]]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def silero(frames: int) -> tuple[Call, Call]:
    """Calls that go on from the state the call before left."""
    path = real_file("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx")
    model, other = rnncore.load(path), session(path)
    sound = np.random.default_rng(0).standard_normal((frames, 576)).astype(np.float32) / 10
    ours, theirs = ({"input": sound, **{key: np.zeros((1, 1, 128), np.float32) for key in "hc"}} for _ in range(2))

    def run() -> list[np.ndarray]:
        found = model.run(ours)
        ours["h"], ours["c"] = found["hn"], found["cn"]
        return [found["speech_probs"]]

    def run_other() -> list[np.ndarray]:
        found, theirs["h"], theirs["c"] = other.run(("speech_probs", "hn", "cn"), theirs)
        return [found]

    return run, run_other


def nakdimon() -> tuple[Call, Call]:
    model = rnncore.load(real_file("nakdimon==0.1.2", "nakdimon/Nakdimon.h5"))
    other = session(real_file("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx"))
    (entry,) = other.get_inputs()
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    ids = np.random.default_rng(0).integers(1, 43, (1, LETTERS))
    theirs = {entry.name: ids.astype(kinds[entry.type])}

    def by_width(arrays) -> list[np.ndarray]:
        """The three heads in one order; their names differ."""
        return sorted(arrays, key=lambda array: array.shape[-1])

    return lambda: by_width(model(ids).values()), lambda: by_width(other.run(None, theirs))


def ddddocr() -> tuple[Call, Call]:
    path = real_file("ddddocr==1.6.1", "ddddocr/common.onnx")
    model, other = rnncore.load(path), session(path)
    given = {"input1": np.random.default_rng(0).random((1, 1, 64, 160)).astype(np.float32)}
    return lambda: list(model.run(given).values()), lambda: other.run(None, given)


WORKLOADS: dict[str, Callable[[], tuple[Call, Call]]] = {
    "silero, one frame": lambda: silero(1),
    f"silero, {FRAMES} frames": lambda: silero(FRAMES),
    f"nakdimon, {LETTERS} letters": nakdimon,
    "ddddocr, 64 x 160": ddddocr,
}


def error_of(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value (at least 1)."""
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in pairs)


def seconds_of(run: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def race(run: Call, other: Call, samples: int) -> dict:
    error = error_of(run(), other())
    if error > LARGEST_ERROR:
        raise SystemExit(f"outputs differ by {error:.2g}, expected at most {LARGEST_ERROR:g}")
    end, calls = time.perf_counter() + WARM_UP_SECONDS, 1
    while time.perf_counter() < end:
        calls = max(1, round(SAMPLE_SECONDS / max(seconds_of(run, 1), seconds_of(other, 1))))
    times = np.array([[seconds_of(run, calls), seconds_of(other, calls)] for _ in range(samples)])
    medians = np.median(times, axis=0) * 1e6
    return {
        "error": error,
        "samples": samples,
        "microseconds": {"rnncore": round(medians[0], 1), "onnxruntime": round(medians[1], 1)},
        "ratio": round(float(np.median(times[:, 1] / times[:, 0])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="write bench/results/models.json")
    options = parser.parse_args()
    report = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"rnncore": rnncore.__version__, "onnxruntime": onnxruntime.__version__},
        "threads": 1,
        "models": {},
    }
    print(f"{'microseconds a call (median)':32}{'rnncore':>12}{'onnxruntime':>14}{'ratio':>8}{'error':>10}")
    for name, make in WORKLOADS.items():
        row = report["models"][name] = race(*make(), options.samples)
        ours, theirs = row["microseconds"].values()
        print(f"{name:32}{ours:>12,}{theirs:>14,}{row['ratio']:>8}{row['error']:>10.0e}", flush=True)
    if options.write:
        target = HERE / "results" / "models.json"
        target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
