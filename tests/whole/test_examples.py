"""Every example runs, as its first lines say; those for clusters by commands of their own (`make batch-ray`)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from paths import ROOT

EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
CLUSTERS = {"batch_beam.py", "batch_dask.py", "batch_data.py", "batch_ray.py", "batch_spark.py"}
EXPECTED = {
    "batch.py": ['1000 rows, the first: {"name": "tanaka", "country": "Japan"}'],
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


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example(name):
    printed = run(f"examples/{name}")
    for words in EXPECTED[name]:
        assert words in printed
    for line in printed.splitlines():
        if line.startswith("largest difference"):
            assert float(line.rpartition(" ")[2]) < 1e-5


def test_nothing_is_missing():
    assert set(EXPECTED) | CLUSTERS == set(EXAMPLES)
