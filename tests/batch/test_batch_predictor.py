"""BatchPredictor as engines of batch work use it: pickled, called with dicts, loaded where it runs."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pytest
from batch_kills import IDS, tagger
from paths import ROOT
from stream_models import equal

import rnncore
from rnncore.batch import BatchPredictor
from rnncore.errors import InputError


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("model") / "m.safetensors"
    tagger(place)
    return place


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(2)
    return [random.integers(0, IDS, random.integers(0, 9)) for _ in range(30)]


def objects(rows):
    found = np.empty(len(rows), object)
    found[:] = rows
    return found


@pytest.mark.parametrize("make", [objects, list, lambda rows: [row.tolist() for row in rows]])
def test_ragged_rows(path, rows, make):
    found = BatchPredictor(path, batch_size=7)({"id": np.arange(30), "tokens": make(rows)})
    assert list(found) == ["id", "fc"] and found["fc"].dtype == object
    model = rnncore.load(path)
    for row, result in zip(rows, found["fc"], strict=True):
        assert equal(result, model(row[None].astype(np.int64))[0])


def test_rows_of_one_shape(path):
    x = np.random.default_rng(3).integers(0, IDS, (12, 5))
    found = BatchPredictor(path, only="gru.last", columns={"tokens": "words"}, keep=())({"words": x, "id": x})
    assert list(found) == ["gru.last"]
    assert equal(found["gru.last"], rnncore.Model(*_last(path)).run({"tokens": x})["gru.last"])


def _last(path):
    found = rnncore.load(path)
    return rnncore.Spec(found.spec.inputs, found.spec.nodes, ["gru.last"]), found.weights


def test_lengths(path, rows):
    """Rows that are filled up give the same as rows that are not, as far as they count."""
    full = np.stack([np.pad(row, (0, 9 - len(row))) for row in rows])
    lengths = np.array([len(row) for row in rows])
    found = BatchPredictor(path)({"tokens": full, "lengths": lengths})["fc"]
    ragged = BatchPredictor(path)({"tokens": rows})["fc"]
    for i, result in enumerate(ragged):
        assert equal(found[i, : lengths[i]], result)


def test_pickled_as_a_path(path, rows):
    predictor = BatchPredictor(path)
    before = len(pickle.dumps(predictor))
    expected = predictor({"tokens": rows})["fc"]
    assert len(pickle.dumps(predictor)) == before < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(predictor, ({"tokens": rows},))["fc"]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("batch", "options", "message"),
    [
        ({"tokens": [np.array([1]), np.array([IDS])]}, {}, "row 1 of the batch: .*expected 0 to 29"),
        ({"tokens": [np.array([1]), None]}, {}, "None, expected numbers"),
        ({"tokens": [np.array([0.5])]}, {}, "row 0 of the batch: tokens: dtype float64, expected int64"),
        ({"words": [np.array([1])]}, {}, "no column for an input among words, expected tokens, lengths"),
        ({"words": [np.array([1])]}, {"columns": {"x": "words"}}, "input 'x' is unknown, expected tokens, lengths"),
        ({"tokens": [np.array([1])], "fc": [1]}, {}, "output 'fc' has the name of a column"),
    ],
)
def test_what_is_wrong(path, batch, options, message):
    with pytest.raises(InputError, match=message):
        BatchPredictor(path, **options)(batch)


def test_a_model_that_mixes_rows_is_refused(tmp_path):
    spec = rnncore.Spec(
        [rnncore.Input("x", "float", ("B", "T", 2))], [rnncore.Node("y", "Softmax", "x", {"axis": 0})], ["y"]
    )
    rnncore.save(tmp_path / "m.safetensors", rnncore.Model(spec, {}))
    with pytest.raises(InputError, match="its rows are not independent"):
        BatchPredictor(tmp_path / "m.safetensors")({"x": np.zeros((1, 1, 2), np.float32)})


def test_example_data(tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "examples/batch_data.py", tmp_path / "new"], check=True, timeout=280, cwd=ROOT
    )
    command = [
        sys.executable,
        "-m",
        "rnncore",
        "run",
        tmp_path / "new/tagger.safetensors",
        "-i",
        tmp_path / "new/texts",
    ]
    subprocess.run([*command, "-o", tmp_path / "tags"], check=True, timeout=280, cwd=ROOT)
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import batch_data
        import pyarrow.parquet as pq

        parts = sorted((tmp_path / "tags").glob("part-*"))
        batch_data.check(tmp_path / "new", [row for part in parts for row in pq.read_table(part).to_pylist()], equal)
    finally:
        sys.path.remove(str(ROOT / "examples"))
