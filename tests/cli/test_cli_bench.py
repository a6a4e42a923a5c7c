"""rnncore bench: what it measures, and what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import rnncore
from rnncore.cells import GRU
from rnncore.cli.application import application


def call(*words):
    return CliRunner().invoke(application, ["bench", *map(str, words), "--seconds", "0.05"])


def test_one_model():
    found = json.loads(call("zoo:sunspots", "--batch", 3, "--steps", 20, "--threads", 1, "--json").stdout)
    assert found["inputs"] == {"x": [3, 20, 1]} and found["threads"] == 1
    (engine,) = found["engines"]
    assert engine["engine"].startswith("rnncore ") and engine["calls"] >= 12
    assert engine["rows_per_second"] == pytest.approx(3 / engine["median_us"] * 1e6, rel=0.01)


def test_beside_another_file(tmp_path):
    spec = rnncore.Spec(
        [rnncore.Input("ids", "int64", ("B", "T"))],
        [
            rnncore.Node("embedding", "Embedding", "ids", {"input_size": 3, "output_size": 4}),
            rnncore.Recurrent("gru", GRU(4, 5), "embedding"),
        ],
        ["gru"],
    )
    rng = np.random.default_rng(1)
    paths = []
    for name in ("one", "two"):
        arrays = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in spec.weight_shapes().items()}
        paths.append(rnncore.save(tmp_path / f"{name}.safetensors", rnncore.Model(spec, arrays)))
    same = json.loads(call(paths[0], "--against", paths[0], "--json").stdout)["engines"]
    other = json.loads(call(paths[0], "--against", paths[1], "--json").stdout)["engines"]
    assert same[1]["largest_difference"] == 0 and other[1]["largest_difference"] > 0.01
    shown = call(paths[0], "--against", paths[1])
    assert shown.exit_code == 0 and "run by rnncore" in shown.stdout and "kernels: " in shown.stdout


def test_refusals(tmp_path):
    assert call("zoo:sunspots", "--batch", 0).exit_code == 2
    missing = call("zoo:sunspots", "--against", tmp_path / "none.onnx")
    assert missing.exit_code == 1 and missing.stderr.startswith("error: ")
