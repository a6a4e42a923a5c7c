"""Whole models beside onnxruntime, one thread each, on the same inputs in one process.

Published files, and networks of the sizes that people train with random weights (networks.py):

    silero           voice activity: one frame, the state fed back by hand; 600 frames, 19 seconds of sound, in one call
    nakdimon         Hebrew diacritics, 100 letters: ours reads the Keras file, onnxruntime its conversion to ONNX
    ddddocr          letters of a picture of 64 x 160: 21 convolutions, a bidirectional LSTM, a wide Linear
    word model, voice activity, denoiser, beats, spelling decoder   one step, states in and out
    spelling encoder, letters, tagger, int8 tagger, scanned cell    whole sequences

onnxruntime runs plain and with its inputs and outputs bound (IO binding, states kept where they are); the faster one
counts. Samples are taken in turn, after warm-up calls, and outputs must agree to 1e-5 (after six layers of
convolutions and sums 1e-4, of 8-bit integers to 0.05, where
onnxruntime's sums may saturate). The ratio is the median of onnxruntime's time over ours, sample by sample: above 1,
rnncore is faster. A machine that is busy slows all.

    python bench/models.py [NAME ...] [--samples 60] [--write]      # --write: bench/results/models.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests" / "helpers")]
for variable in ("RNNCORE_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from networks import NETWORKS  # noqa: E402
from real_models import real_file  # noqa: E402
from run import machine  # noqa: E402

import rnncore  # noqa: E402

LARGEST_ERROR = 1e-5
WARM_UP_SECONDS, SAMPLE_SECONDS = 0.3, 0.004
LETTERS, FRAMES = 100, 600

Call = Callable[[], list[np.ndarray]]


class Workload(NamedTuple):
    """calls of rnncore, of onnxruntime plain, and bound (None where that is not raced)."""

    ours: Call
    theirs: Call
    bound: Call | None = None
    step: bool = False
    largest_error: float = LARGEST_ERROR


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def workload(
    path: Path,
    inputs: Mapping[str, np.ndarray],
    fed_back: Mapping[str, str],
    largest_error: float = LARGEST_ERROR,
    binding: bool = True,
) -> Workload:
    """Calls that go on from the state that the call before left. fed_back: output -> the input that it becomes."""
    model, other = rnncore.load(path), session(path)
    names = [entry.name for entry in other.get_outputs()]
    kept = [name for name in names if name not in fed_back]
    ours, theirs = dict(inputs), dict(inputs)

    def run() -> list[np.ndarray]:
        outputs = model.run(ours)
        for name, entry in fed_back.items():
            ours[entry] = outputs[name]
        return [outputs[name] for name in kept]

    def run_other() -> list[np.ndarray]:
        outputs = dict(zip(names, other.run(names, theirs), strict=True))
        for name, entry in fed_back.items():
            theirs[entry] = outputs[name]
        return [outputs[name] for name in kept]

    third = bound(other, inputs, fed_back) if binding else None
    return Workload(run, run_other, third, bool(fed_back), largest_error)


def bound(other: onnxruntime.InferenceSession, inputs: Mapping[str, np.ndarray], fed_back: Mapping[str, str]) -> Call:
    """Two IO bindings in turn: the states that one writes are the ones that the next reads."""
    names = [entry.name for entry in other.get_outputs()]
    results = dict(zip(names, other.run(names, dict(inputs)), strict=True))
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    given = {name: value(array) for name, array in inputs.items()}
    sides = [{name: value(array.copy()) for name, array in results.items()} for _ in range(2)]
    for name, entry in fed_back.items():
        sides[1][name].update_inplace(inputs[entry])
    bindings = []
    for side in range(2):
        binding = other.io_binding()
        for name, array in given.items():
            binding.bind_ortvalue_input(name, array)
        for name, entry in fed_back.items():
            binding.bind_ortvalue_input(entry, sides[1 - side][name])
        for name, array in sides[side].items():
            binding.bind_ortvalue_output(name, array)
        bindings.append(binding)
    turn = [0]

    def run() -> list[np.ndarray]:
        side = turn[0]
        turn[0] = 1 - side
        other.run_with_iobinding(bindings[side])
        return [array.numpy() for name, array in sides[side].items() if name not in fed_back]

    return run


def silero(frames: int) -> Workload:
    path = real_file("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx")
    sound = np.random.default_rng(0).standard_normal((frames, 576)).astype(np.float32) / 10
    states = {key: np.zeros((1, 1, 128), np.float32) for key in "hc"}
    return workload(path, {"input": sound, **states}, {"hn": "h", "cn": "c"})._replace(step=frames == 1)


def network(
    name: str,
    inputs: Mapping[str, np.ndarray],
    fed_back: Mapping[str, str] | None = None,
    largest_error: float = LARGEST_ERROR,
) -> Workload:
    with tempfile.TemporaryDirectory() as folder:
        return workload(NETWORKS[name]().save(Path(folder) / "network.onnx"), inputs, fed_back or {}, largest_error)


def eight_bits() -> Workload:
    """The tagger without attention, its LSTM and products in 8-bit integers."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "network.onnx", Path(folder) / "small.onnx"
        quantize_dynamic(NETWORKS["tagger, no attention"]().save(path), small, op_types_to_quantize=["LSTM", "MatMul"])
        return workload(small, {"ids": ids(50, 1, 5000)}, {}, 0.05)


def ids(steps: int, batch: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, count, (steps, batch))


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def nakdimon() -> Workload:
    model = rnncore.load(real_file("nakdimon==0.1.2", "nakdimon/Nakdimon.h5"))
    other = session(real_file("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx"))
    (entry,) = other.get_inputs()
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
    ids = np.random.default_rng(0).integers(1, 43, (1, LETTERS))
    theirs = {entry.name: ids.astype(kinds[entry.type])}

    def by_width(arrays) -> list[np.ndarray]:
        """The three heads in one order; their names differ."""
        return sorted(arrays, key=lambda array: array.shape[-1])

    return Workload(lambda: by_width(model(ids).values()), lambda: by_width(other.run(None, theirs)))


def ddddocr() -> Workload:
    path = real_file("ddddocr==1.6.1", "ddddocr/common.onnx")
    given = {"input1": np.random.default_rng(0).random((1, 1, 64, 160)).astype(np.float32)}
    return workload(path, given, {}, binding=False)  # the file declares another rank than its output has


def beats() -> Workload:
    states = {f"{key}{i}": zeros(1, 1, 150) for i in range(2) for key in "hc"}
    return network("beats", {"x": numbers(1, 1, 272), **states}, {f"{name}n": name for name in states})


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "silero, one frame": lambda: silero(1),
    "word model, one step": lambda: network(
        "word model", {"ids": ids(1, 1, 2000), "h0": zeros(1, 1, 128), "c0": zeros(1, 1, 128)}, {"hn": "h0", "cn": "c0"}
    ),
    "voice activity, one frame": lambda: network(
        "voice activity",
        {"x": numbers(1, 1, 64), "h0": zeros(1, 1, 64), "h1": zeros(1, 1, 64)},
        {"h0n": "h0", "h1n": "h1"},
    ),
    "denoiser, one frame": lambda: network("denoiser", {"x": numbers(1, 64, 3), "h": zeros(1, 1, 128)}, {"hn": "h"}),
    "beats, one frame": beats,
    "spelling decoder, one step": lambda: network(
        "spelling decoder", {"ids": ids(1, 1, 74), "h": zeros(1, 1, 256)}, {"hn": "h"}
    ),
    f"silero, {FRAMES} frames": lambda: silero(FRAMES),
    f"nakdimon, {LETTERS} letters": nakdimon,
    "ddddocr, 64 x 160": ddddocr,
    "spelling encoder, 10 letters": lambda: network("spelling encoder", {"ids": ids(10, 1, 29)}),
    "letters, 32 x 128": lambda: network("letters", {"x": numbers(1, 1, 32, 128)}, None, 1e-4),
    "tagger, 50 words": lambda: network("tagger", {"ids": ids(50, 1, 5000)}),
    "int8 tagger, 50 words": eight_bits,
    "scanned cell, 100 steps": lambda: network("scanned cell", {"h0": zeros(1, 32), "x": numbers(100, 1, 32)}),
}


def setting() -> dict:
    """What a report says of the race itself."""
    return {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {"rnncore": rnncore.__version__, "onnxruntime": onnxruntime.__version__},
        "threads": 1,
    }


def write(name: str, report: dict) -> None:
    (HERE / "results" / name).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def error_of(outputs: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference, relative to the largest value (at least 1)."""
    pairs = zip(outputs, expected, strict=True)
    return max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in pairs)


def seconds_of(run: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def race(work: Workload, samples: int) -> dict:
    runs = [work.ours, work.theirs, *([] if work.bound is None else [work.bound])]
    outputs = [run() for run in runs]  # the first call of each, from one state
    error = max(error_of(outputs[0], other) for other in outputs[1:])
    if error > work.largest_error:
        raise SystemExit(f"outputs differ by {error:.2g}, expected at most {work.largest_error:g}")
    end, calls = time.perf_counter() + WARM_UP_SECONDS, 1
    while time.perf_counter() < end:
        calls = max(1, round(SAMPLE_SECONDS / max(seconds_of(run, 1) for run in runs)))
    times = np.array([[seconds_of(run, calls) for run in runs] for _ in range(samples)])
    medians = np.median(times, axis=0) * 1e6
    peers = dict(zip(("rnncore", "onnxruntime", "onnxruntime, bound"), medians.round(1).tolist(), strict=False))
    faster = 1 + int(np.argmin(medians[1:]))
    return {
        "error": error,
        "samples": samples,
        "kind": "step" if work.step else "sequence",
        "microseconds": peers,
        "ratio": round(float(np.median(times[:, faster] / times[:, 0])), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models whose names begin so; all, if none is given")
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="write bench/results/models.json")
    options = parser.parse_args()
    report = {**setting(), "models": {}}
    chosen = [name for name in WORKLOADS if not options.names or name.startswith(tuple(options.names))]
    print(
        f"{'microseconds a call (median)':32}{'rnncore':>12}{'onnxruntime':>14}{'bound':>12}{'ratio':>8}{'error':>10}"
    )
    for name in chosen:
        row = report["models"][name] = race(WORKLOADS[name](), options.samples)
        ours, *theirs = row["microseconds"].values()
        columns = f"{ours:>12,}{theirs[0]:>14,}{theirs[1] if len(theirs) > 1 else '':>12}"
        print(f"{name:32}{columns}{row['ratio']:>8}{row['error']:>10.0e}", flush=True)
    for kind in ("step", "sequence"):
        ratios = [row["ratio"] for row in report["models"].values() if row["kind"] == kind]
        if ratios:
            print(f"geometric mean, one {kind}: {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}")
    if options.write:
        write("models.json", report)


if __name__ == "__main__":
    main()
