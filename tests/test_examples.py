"""Every example runs, as its first lines say, and every training script runs its first steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
EXPECTED = {
    "embed.py": ["tanaka: Japan", "together: Japan"],
    "stream.py": ["2008:", "three streams:"],
    "generate.py": ["M:6/8", "perplexity", "tune: T UW N"],
    "from_torch.py": ["largest difference from PyTorch: "],
    "from_keras.py": ["largest difference from Keras: "],
    "raw_arrays.py": ["output (2, 10, 16)", "fits: LSTM, gates i f g o"],
}


def run(script: str, *words: str) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    printed = run(f"examples/{name}")
    for words in EXPECTED.get(name, []):
        assert words in printed
    for line in printed.splitlines():
        if line.startswith("largest difference"):
            assert float(line.rpartition(" ")[2]) < 1e-5


def test_nothing_is_missing():
    assert set(EXPECTED) <= set(EXAMPLES)
