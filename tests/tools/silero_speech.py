"""The voice activity detector of silero-vad over real speech: rnncore beside ONNX Runtime, probability by probability.

    apt-get download alsa-utils && dpkg-deb -x alsa-utils_*.deb alsa
    python tests/tools/silero_speech.py alsa/usr/share/sounds/alsa [--minutes 60]

Reads every .wav of the folder at 16 kHz and repeats them. The model with a step in each call, and the one of sequences,
run over all samples at once, as a stream that is fed pieces of any length, and as one of 256 streams of a pool that
begin at different places; ONNX Runtime is called for each window of 512 samples with the 64 before them, and its state
handed on. Exit code 1 unless stream, pool and whole are the same bits, and our mean difference from float64 is at most
twice ONNX Runtime's: a rounding is amplified where the detector is undecided, in both engines alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import _helpers  # noqa: F401
import numpy as np
import onnxruntime
from real_models import real_file
from scipy.io import wavfile
from scipy.signal import resample_poly

import rnncore

RATE, WINDOW, CONTEXT = 16_000, 512, 64
STREAMS = 256
POOL_SECONDS = 30  # of each stream of the pool
FILES = {
    "a step in each call": ("silero_vad_16k_op15.onnx", {"state": "stateN"}, {"sr": RATE}),
    "of sequences": ("silero_vad_16k_sequence.onnx", {"h": "hn", "c": "cn"}, None),
}


def speech(folder: Path) -> np.ndarray:
    """Every file of the folder, one behind the other, at 16 kHz, from -1 to 1."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        rate, samples = wavfile.read(path)
        mono = samples.reshape(len(samples), -1).mean(axis=1) / np.iinfo(samples.dtype).max
        found.append(resample_poly(mono, RATE, rate).astype(np.float32))
    return np.concatenate(found)


def called(path: Path, samples: np.ndarray) -> tuple[np.ndarray, float]:
    """ONNX Runtime's probabilities, window by window, and the seconds that took."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options)
    padded = np.concatenate((np.zeros(CONTEXT, np.float32), samples))
    state, rate, found = np.zeros((2, 1, 128), np.float32), np.array(RATE), []
    start = time.perf_counter()
    for at in range(0, len(samples) - WINDOW + 1, WINDOW):
        given = {"input": padded[None, at : at + CONTEXT + WINDOW], "state": state, "sr": rate}
        probability, state = session.run(None, given)
        found.append(probability[0, 0])
    return np.array(found), time.perf_counter() - start


def whole(model: rnncore.Model, samples: np.ndarray) -> np.ndarray:
    """Probabilities of all samples in one call."""
    lacks_batch = len(model.inputs[0].shape) == 1
    return model(samples if lacks_batch else samples[None], num_threads=1).reshape(-1)


def streamed(model: rnncore.Model, samples: np.ndarray) -> np.ndarray:
    """The same by a stream, in pieces from nothing to two seconds."""
    rng, stream, at, found = np.random.default_rng(0), model.stream(), 0, []
    while at < len(samples):
        size = int(rng.integers(0, 2 * RATE))
        found.append(stream.feed(samples[at : at + size]).reshape(-1))
        at += size
    return np.concatenate(found)


def step_by_step(model: rnncore.Model, samples: np.ndarray) -> float:
    """Seconds for a stream that is fed each window as it comes."""
    stream = model.stream()
    start = time.perf_counter()
    for at in range(0, len(samples) - WINDOW + 1, WINDOW):
        stream.feed(samples[at : at + WINDOW])
    return time.perf_counter() - start


def pooled(model: rnncore.Model, samples: np.ndarray) -> tuple[bool, float]:
    """Whether 256 streams, each from a place of its own, give what each gives alone; and seconds per second of one."""
    length = POOL_SECONDS * RATE // WINDOW * WINDOW
    starts = np.linspace(0, len(samples) - length, STREAMS).astype(int)
    rows = np.stack([samples[at : at + length] for at in starts])
    pool = model.pool(STREAMS)
    handles = np.array([pool.open() for _ in range(STREAMS)])
    start = time.perf_counter()
    found = [pool.step(rows[:, at : at + WINDOW], handles) for at in range(0, length, WINDOW)]
    seconds = time.perf_counter() - start
    together = np.concatenate([array.reshape(STREAMS, -1) for array in found], axis=1)
    same = all(np.array_equal(together[row], whole(model, rows[row])) for row in range(0, STREAMS, 17))
    return same, seconds / POOL_SECONDS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2)
    options = parser.parse_args()
    samples = np.resize(speech(options.folder), max(round(options.minutes * 60 * RATE), (POOL_SECONDS + 1) * RATE))
    duration = len(samples) / RATE
    paths = {name: real_file("silero-vad==6.2.3", f"silero_vad/data/{file}") for name, (file, _, _) in FILES.items()}
    expected, theirs = called(next(iter(paths.values())), samples)
    print(f"{len(expected):,} windows, {duration / 60:g} minutes; speech in {np.mean(expected > 0.5):.0%} of them")
    print(f"ONNX Runtime, call by call: real-time factor {theirs / duration:.5f}, one thread")
    good = True
    for name, (_, carry, given) in FILES.items():
        vad, exact = (
            rnncore.load(paths[name], dtype=dtype).over_time(carry, chunk=WINDOW, context=CONTEXT, given=given)
            for dtype in ("float32", "float64")
        )
        reference = whole(exact, samples.astype(np.float64))
        start = time.perf_counter()
        found = whole(vad, samples)
        seconds = time.perf_counter() - start
        stream_is_same = np.array_equal(streamed(vad, samples), found)
        pool_is_same, pool_factor = pooled(vad, samples)
        ours, other = (np.abs(array - reference) for array in (found, expected))
        good = good and stream_is_same and pool_is_same and ours.mean() <= 2 * other.mean()
        print(f"{name}: stream = whole bitwise: {stream_is_same}; pool = whole bitwise: {pool_is_same}")
        factors = (seconds / duration, step_by_step(vad, samples) / duration, pool_factor)
        print("  real-time factor: whole {:.5f}, a stream window by window {:.5f}, 256 streams {:.4f}".format(*factors))
        print(f"  difference from ONNX Runtime: largest {np.abs(found - expected).max():.1e}")
        print(f"  mean difference from float64: {ours.mean():.1e}, ONNX Runtime's {other.mean():.1e}")
        print(f"  largest difference from float64: {ours.max():.1e}, ONNX Runtime's {other.max():.1e}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
