"""The voice activity detector of silero-vad over real speech: rnncore beside ONNX Runtime, probability by probability.

    apt-get download alsa-utils && dpkg-deb -x alsa-utils_*.deb alsa
    python tests/silero_speech.py alsa/usr/share/sounds/alsa [--minutes 60]

Reads every .wav of the folder at 16 kHz, repeats them, and runs windows of 512 samples with the 64 before them, whole
and in pieces with the state carried. A rounding is amplified where the detector is undecided, in both engines alike;
exit code 1 if our mean difference from float64 is more than twice ONNX Runtime's.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
from real_models import real_file
from scipy.io import wavfile
from scipy.signal import resample_poly

import rnncore

RATE, WINDOW, CONTEXT = 16_000, 512, 64
PIECE = 313  # windows


def speech(folder: Path) -> np.ndarray:
    """Every file of the folder, one behind the other, at 16 kHz, from -1 to 1."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        rate, samples = wavfile.read(path)
        mono = samples.reshape(len(samples), -1).mean(axis=1) / np.iinfo(samples.dtype).max
        found.append(resample_poly(mono, RATE, rate).astype(np.float32))
    return np.concatenate(found)


def windows(samples: np.ndarray) -> np.ndarray:
    """(windows, CONTEXT + WINDOW)"""
    count = len(samples) // WINDOW
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples[: count * WINDOW]])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + WINDOW)[::WINDOW].copy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=2)
    options = parser.parse_args()
    clips = speech(options.folder)
    samples = np.resize(clips, round(options.minutes * 60 * RATE))
    x = windows(samples)
    path = real_file("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx")
    model = rnncore.load(path, dtype="float32")
    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), session_options)
    zeros = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}

    start = time.perf_counter()
    expected = session.run(["speech_probs"], {"input": x, **zeros})[0]
    theirs = time.perf_counter() - start
    start = time.perf_counter()
    whole = model.run({"input": x, **zeros}, num_threads=1)["speech_probs"]
    ours = time.perf_counter() - start
    pieces, state = [], zeros
    for first in range(0, len(x), PIECE):
        found = model.run({"input": x[first : first + PIECE], **state})
        pieces.append(found["speech_probs"])
        state = {"h": found["hn"], "c": found["cn"]}
    exact = rnncore.load(path, dtype="float64")
    wide = {name: array.astype(np.float64) for name, array in zeros.items()}
    reference = exact.run({"input": x.astype(np.float64), **wide})["speech_probs"]
    found = {"whole": whole, "in pieces": np.concatenate(pieces), "ONNX Runtime": expected}
    errors = {name: float(np.abs(array - reference).max()) for name, array in found.items()}
    print(f"{len(x):,} windows, {options.minutes:g} minutes; speech in {np.mean(expected > 0.5):.0%} of them")
    factors = [seconds / 60 / options.minutes for seconds in (ours, theirs)]
    print("real-time factor, one thread: {:.5f}, of ONNX Runtime {:.5f}".format(*factors))
    print("largest difference from float64:", ", ".join(f"{name} {error:.1e}" for name, error in errors.items()))
    print(f"largest difference from ONNX Runtime: {np.abs(whole - expected).max():.1e}")
    means = {name: float(np.abs(array - reference).mean()) for name, array in found.items()}
    print("mean difference from float64:", ", ".join(f"{name} {error:.1e}" for name, error in means.items()))
    return 1 if max(means["whole"], means["in pieces"]) > 2 * means["ONNX Runtime"] else 0


if __name__ == "__main__":
    sys.exit(main())
