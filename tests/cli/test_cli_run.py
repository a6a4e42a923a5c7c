"""rnncore run over files of every kind: each row's result is what the model gives for that row alone, bit for bit."""

from __future__ import annotations

import datetime
import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from batch_kills import IDS, tagger
from click.testing import CliRunner
from stream_models import equal

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.batch.runner import Runner
from rnncore.cells import LSTM
from rnncore.cli.application import application
from rnncore.cli.progress import Clock

ROWS = 60
SHARDS = ("--shard-rows", "7")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    place = tmp_path_factory.mktemp("shelf")
    tagger(place / "tagger.safetensors")
    spec = Spec(
        [Input("x", "float", ("B", "T", 3))],
        [
            Recurrent("lstm", LSTM(3, 5), "x"),
            Node("fc", "Linear", "lstm.last", {"input_size": 5, "output_size": 2}),
        ],
        ["lstm", "fc"],
    )
    random = np.random.default_rng(3)
    weights = {name: random.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    rnncore.save(place / "lstm.safetensors", rnncore.Model(spec, weights))
    return place


@pytest.fixture(scope="module")
def tagger_model(shelf):
    return rnncore.load(shelf / "tagger.safetensors")


@pytest.fixture(scope="module")
def lstm_model(shelf):
    return rnncore.load(shelf / "lstm.safetensors")


@pytest.fixture
def cli(tmp_path, monkeypatch, shelf):
    """Runs ``rnncore run`` in an empty directory, with the name of a model of the shelf."""
    monkeypatch.chdir(tmp_path)

    def run(model, *words, code=0, stdin=None):
        arguments = ["run", str(shelf / f"{model}.safetensors"), *map(str, words)]
        result = CliRunner().invoke(application, arguments, prog_name="rnncore", input=stdin)
        assert result.exit_code == code, result.output
        return result

    return run


def ids(random=None):
    random = random or np.random.default_rng(4)
    return [random.integers(0, IDS, random.integers(0, 12)) for _ in range(ROWS)]


def floats():
    random = np.random.default_rng(5)
    return [random.standard_normal((random.integers(0, 9), 3)).astype(np.float32) for _ in range(ROWS)]


def write(kind, rows, name, path=None):
    """The rows in a file of that kind, with ids s0, s1 ... where it can have them."""
    path = path or f"in.{kind}"
    labels = [f"s{i}" for i in range(len(rows))]
    lists = [row.tolist() for row in rows]
    leaf = pa.float32() if rows[0].dtype.kind == "f" else pa.int32()
    inner = leaf if rows[0].ndim == 1 else pa.list_(leaf, 3) if kind == "arrow" else pa.list_(leaf)
    if kind == "jsonl":
        with open(path, "w") as file:
            file.writelines(
                json.dumps({"id": label, name: row}) + "\n" for label, row in zip(labels, lists, strict=True)
            )
    elif kind in ("parquet", "arrow", "stream"):
        table = pa.table({"id": labels, name: pa.array(lists, pa.list_(inner))})
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=25)
        else:
            with (ipc.new_file if kind == "arrow" else ipc.new_stream)(path, table.schema) as file:
                file.write_table(table, max_chunksize=11)
    elif kind == "npz":
        np.savez_compressed(path, **{name: np.concatenate(rows), "lengths": [len(row) for row in rows]})
    return path


def jsonl(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def same(found, expected):
    """Found as lists in lists, expected as an array: the same numbers (over BLAS to a tolerance), and no rounding."""
    found = np.array(found, expected.dtype).reshape(expected.shape)
    assert equal(found, expected)


@pytest.mark.parametrize("shards", [(), SHARDS])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "npz"])
@pytest.mark.parametrize("to", ["jsonl", "parquet", "arrow", "csv", "npz", "npy"])
def test_ragged_ids(cli, tagger_model, kind, to, shards):
    rows = ids()
    cli("tagger", "-i", write(kind, rows, "tokens"), "-o", f"y.{to}", "--batch-size", 9, *shards)
    expected = [tagger_model(row[None])[0] for row in rows]
    labels = [i if kind == "npz" else f"s{i}" for i in range(ROWS)]
    label = "row" if kind == "npz" else "id"
    if to == "jsonl":
        found = [(entry[label], entry["fc"]) for entry in jsonl("y.jsonl")]
    elif to in ("parquet", "arrow"):
        table = pq.read_table("y.parquet") if to == "parquet" else ipc.open_file("y.arrow").read_all()
        found = list(zip(table[label].to_pylist(), table["fc"].to_pylist(), strict=True))
    elif to == "csv":
        with open("y.csv") as file:
            assert file.readline().strip() == f"{label},step,fc.0,fc.1,fc.2"
            lines = [line.strip().split(",") for line in file]
        steps = {str(name): [] for name in labels}
        for name, step, *numbers in lines:
            assert int(step) == len(steps[name])
            steps[name].append([np.float32(number) for number in numbers])
        found = list(zip(labels, steps.values(), strict=True))
    else:
        loaded = np.load(f"y.{to}")
        array = loaded["fc"] if to == "npz" else loaded
        assert array.shape == (ROWS, max(map(len, rows)), 3)
        if to == "npz":
            assert loaded["lengths"].tolist() == [len(row) for row in rows]
            assert "id" not in loaded or loaded["id"].tolist() == labels
        found = [(name, array[i, : len(rows[i])]) for i, name in enumerate(labels)]
    assert [name for name, _ in found] == labels
    for (_, result), wanted in zip(found, expected, strict=True):
        same(result, wanted)
    assert not [name for name in os.listdir() if name.endswith(".parts")]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "npz"])
def test_ragged_vectors_and_several_outputs(cli, lstm_model, kind):
    rows = floats()
    cli("lstm", "-i", write(kind, rows, "x"), "-o", "y.jsonl", *SHARDS)
    for row, entry in zip(rows, jsonl("y.jsonl"), strict=True):
        expected = lstm_model(row[None])
        same(entry["lstm"], expected["lstm"][0])
        same(entry["fc"], expected["fc"][0])


def test_dense_arrays_and_lengths(cli, lstm_model):
    random = np.random.default_rng(6)
    x, lengths = random.standard_normal((ROWS, 8, 3)).astype(np.float32), random.integers(0, 9, ROWS)
    np.savez("in.npz", x=x, lengths=lengths)
    expected = lstm_model(x, lengths=lengths)
    cli("lstm", "-i", "in.npz", "-o", "y.npz", *SHARDS)
    with np.load("y.npz") as found:
        for name in ("lstm", "fc"):
            assert equal(found[name], expected[name])
    cli("lstm", "-i", "in.npz", "-o", "y.parquet", *SHARDS)
    for i, found in enumerate(pq.read_table("y.parquet")["lstm"].to_pylist()):
        same(found, expected["lstm"][i, : lengths[i]])


@pytest.mark.parametrize("make", [np.asfortranarray, lambda x: x.astype(">f4"), lambda x: x.astype(np.float16)])
def test_arrays_of_other_layouts(cli, lstm_model, make):
    x = make(np.random.default_rng(7).standard_normal((ROWS, 4, 3)).astype(np.float32))
    np.save("x.npy", x)
    cli("lstm", "-i", "x.npy", "-o", "y.npy", "--only", "fc", *SHARDS)
    assert equal(np.load("y.npy"), lstm_model(np.ascontiguousarray(x, np.float32))["fc"])


@pytest.mark.parametrize("kind", ["npy", "csv"])
def test_a_file_for_each_sequence(cli, lstm_model, kind):
    rows = [row for row in floats() if len(row)][:20]
    os.mkdir("in")
    for i, row in enumerate(rows):
        if kind == "npy":
            np.save(f"in/r{i:02}.npy", row)
        else:
            np.savetxt(f"in/r{i:02}.csv", row, delimiter=",", fmt="%.9g")
    cli("lstm", "-i", "in", "-o", "y.jsonl", "--only", "lstm", *SHARDS)
    found = jsonl("y.jsonl")
    assert [entry["file"] for entry in found] == [f"r{i:02}" for i in range(20)]
    for row, entry in zip(rows, found, strict=True):
        same(entry["lstm"], lstm_model(row[None])["lstm"][0])


@pytest.mark.parametrize("given", ["in", "in/*.parquet"])
def test_folders_and_patterns(cli, tagger_model, given):
    rows = ids()
    os.mkdir("in")
    for i, first in enumerate(range(0, ROWS, 25)):
        write("parquet", rows[first : first + 25], "tokens", f"in/{i}.parquet")
    open("in/_SUCCESS", "w").close()
    cli("tagger", "-i", given, "-o", "out/", *SHARDS)
    parts = sorted(name for name in os.listdir("out") if name.startswith("part-"))
    assert len(parts) == 9
    found = [row for name in parts for row in pq.read_table(f"out/{name}")["fc"].to_pylist()]
    for row, result in zip(rows, found, strict=True):
        same(result, tagger_model(row[None])[0])
    cli("tagger", "-i", "out", "-o", "again.jsonl", "--columns", "tokens=fc", code=1)


def test_columns_and_kept_ones(cli, tagger_model):
    """Names of our own for the inputs; other columns keep their types."""
    rows = ids()
    when = [datetime.date(2024, 1, 1) + datetime.timedelta(days=i) for i in range(ROWS)]
    table = pa.table(
        {
            "words": [row.tolist() for row in rows],
            "others": [[0]] * ROWS,
            "when": when,
            "user": pa.array(range(ROWS), pa.int16()),
            "id": ["?"] * ROWS,
        }
    )
    pq.write_table(table, "in.parquet")
    cli("tagger", "-i", "in.parquet", "-o", "y.parquet", "--columns", "tokens=words", "--keep", "user,when", *SHARDS)
    found = pq.read_table("y.parquet")
    assert found.schema.names == ["user", "when", "fc"]
    assert found.schema.field("user").type == pa.int16() and found.schema.field("when").type == pa.date32()
    assert found["when"].to_pylist() == when
    same(found["fc"].to_pylist()[5], tagger_model(rows[5][None])[0])
    result = cli("tagger", "-i", "in.parquet", "-o", "z.parquet", code=1)
    assert "no column for input 'tokens' among words, others" in result.stderr
    result = cli("tagger", "-i", "in.parquet", "-o", "z.parquet", "--columns", "tokens=when", code=1)
    assert "column 'when' is date32[day], expected numbers or lists" in result.stderr


def test_lengths_in_a_column(cli, tagger_model):
    """Rows that are filled up, and a column that says how much of each counts."""
    rows = [row for row in ids() if len(row)]
    with open("in.jsonl", "w") as file:
        for row in rows:
            full = np.pad(row, (0, 12 - len(row)), constant_values=IDS - 1)
            file.write(json.dumps({"tokens": full.tolist(), "lengths": len(row)}) + "\n")
    cli("tagger", "-i", "in.jsonl", "-o", "y.jsonl", *SHARDS)
    for row, entry in zip(rows, jsonl("y.jsonl"), strict=True):
        same(entry["fc"], tagger_model(row[None])[0])


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "stream", "npz"])
def test_pipes(shelf, tmp_path, tagger_model, kind):
    rows = ids()
    path = write(kind, rows, "tokens", str(tmp_path / f"in.{kind}"))
    words = ["-i", "-", "--from", "arrow" if kind == "stream" else kind, "-o", "-", "--to", "jsonl", *SHARDS]
    with open(path, "rb") as file:
        found = subprocess.run(
            [sys.executable, "-m", "rnncore", "run", str(shelf / "tagger.safetensors"), *words],
            stdin=file,
            capture_output=True,
            cwd=os.path.dirname(os.path.dirname(rnncore.__file__)),
            timeout=280,
        )
    assert found.returncode == 0, found.stderr
    entries = [json.loads(line) for line in io.BytesIO(found.stdout)]
    for row, entry in zip(rows, entries, strict=True):
        same(entry["fc"], tagger_model(row[None])[0])


def test_corrupt_rows_of_many(cli, tagger_model):
    """1 % of 100,000 rows are corrupt, in five ways: all are listed, and the others have not noticed."""
    count = 100_000
    random = np.random.default_rng(8)
    lengths = random.integers(0, 4, count)
    flat = random.integers(0, IDS, lengths.sum())
    rows = [part.tolist() for part in np.split(flat, np.cumsum(lengths)[:-1])]
    bad = sorted(random.choice(count, count // 100, replace=False).tolist())
    whole = [list(row) for row in rows]
    reasons = ("column 'tokens' is null", "a null inside", f"id {IDS} ", "id -1 ", f"id {2**40} ")
    for k, row in enumerate(bad):
        rows[row] = (None, [1, None], [3, IDS], [-1], [1, 2, 2**40])[k % 5]
    for name, data in (("in", rows), ("whole", whole)):
        pq.write_table(
            pa.table({"id": range(count), "tokens": pa.array(data, pa.list_(pa.int64()))}), f"{name}.parquet"
        )
    cli("tagger", "-i", "whole.parquet", "-o", "whole.arrow", "--shard-rows", 9000)
    cli("tagger", "-i", "in.parquet", "-o", "y.arrow", "--max-errors", "any", "--shard-rows", 9000, code=3)
    errors = jsonl("y.arrow.errors.jsonl")
    assert [entry["row"] for entry in errors] == bad
    assert all(reasons[k % 5] in entry["reason"] for k, entry in enumerate(errors))
    found, expected = ipc.open_file("y.arrow").read_all(), ipc.open_file("whole.arrow").read_all()
    good = np.setdiff1d(np.arange(count), bad)
    assert found["id"].to_numpy().tolist() == good.tolist()
    expected = expected.take(good)
    assert found.schema == expected.schema
    for mine, wanted in zip(levels(found["fc"]), levels(expected["fc"]), strict=True):
        assert equal(mine, wanted)


def levels(column):
    """Lengths of a column's lists, of the lists in them, and so on; then the numbers."""
    found, column = [], column.combine_chunks()
    while pa.types.is_list(column.type):
        found.append(pc.list_value_length(column).to_numpy())
        column = column.flatten()
    return [*found, column.to_numpy()]


JSON_ROWS = {
    '{"tokens": [1, 2': "line 2: not JSON",
    "[1, 2]": "line 2: a JSON list, expected an object",
    '{"tokens": null}': "line 2: column 'tokens' is null",
    '{"words": [1]}': "line 2: column 'tokens' is not there",
    '{"tokens": [1, "a"]}': "line 2: column 'tokens': something that is not a number",
    '{"tokens": [[1], [1, 2]]}': "line 2: column 'tokens': lists of different lengths",
    '{"tokens": [[1], [2]]}': "tokens: shape (2, 1), expected (T,)",
    '{"tokens": [1.5]}': "tokens: dtype float64, expected int64",
    '{"tokens": 3}': "tokens: shape (), expected (T,)",
}


@pytest.mark.parametrize("kind", JSON_ROWS)
def test_one_bad_row_of_json(cli, tagger_model, kind):
    with open("in.jsonl", "w") as file:
        file.write(f'{{"tokens": [1, 2]}}\n{kind}\n{{"tokens": [3]}}\n')
    result = cli("tagger", "-i", "in.jsonl", "-o", "y.jsonl", code=1)
    assert f"in.jsonl: row 1: {JSON_ROWS[kind]}" in result.stderr
    cli("tagger", "-i", "in.jsonl", "-o", "y.jsonl", "--max-errors", 1, code=3)
    (entry,) = jsonl("y.jsonl.errors.jsonl")
    assert (entry["row"], entry["file"]) == (1, "in.jsonl") and JSON_ROWS[kind] in entry["reason"]
    found = jsonl("y.jsonl")
    assert [row["row"] for row in found] == [0, 2]
    same(found[1]["fc"], tagger_model(np.array([[3]]))[0])


def test_numbers_that_json_does_not_have(cli):
    np.save("x.npy", np.full((1, 2, 3), np.nan, np.float32))
    cli("lstm", "-i", "x.npy", "-o", "y.jsonl", "--only", "fc")
    assert jsonl("y.jsonl")[0]["fc"] == [None, None]


def test_a_mixed_csv_in_a_pipe_is_refused(shelf):
    words = ["-i", "-", "--from", "csv", "-o", "-", "--to", "csv", "--sequence-column", "s"]
    found = subprocess.run(
        [sys.executable, "-m", "rnncore", "run", str(shelf / "tagger.safetensors"), *words],
        input=b"s,id\na,1\nb,2\na,3\n",
        capture_output=True,
        cwd=os.path.dirname(os.path.dirname(rnncore.__file__)),
        timeout=280,
    )
    assert found.returncode == 1 and b"line 4: sequence 'a' goes on after another one" in found.stderr


WRONG = [
    (("-i", "-", "-o", "y.npy"), 1, "expected --from"),
    (("-i", "x.jsonl", "-o", "-"), 2, "expected --to"),
    (("-i", "x.jsonl", "-o", "y.npy", "--max-errors", "1"), 2, "cannot say which rows are missing"),
    (("-i", "x.jsonl", "-o", "-", "--to", "csv", "--resume"), 2, "cannot go on with a pipe"),
    (("-i", "x.jsonl", "-o", "y", "--resume", "--overwrite"), 2, "exclude each other"),
    (("-i", "x.jsonl", "-o", "y.csv", "--max-errors", "some"), 2, "expected a number, or any"),
    (("-i", "x.jsonl", "-o", "y.csv", "--keep", "who"), 1, "column 'who' is not there, expected one of id, tokens"),
    (("-i", "x.jsonl", "-o", "y.csv", "--columns", "a=tokens"), 1, "input 'a' is unknown, expected tokens, lengths"),
    (("-i", "x.jsonl", "-o", "y.csv", "--lengths", "n.npy"), 1, "--lengths belongs to arrays"),
    (("-i", "bad.parquet", "-o", "y.csv"), 1, "bad.parquet: no Parquet file"),
    (("-i", "bad.arrow", "-o", "y.csv"), 1, "bad.arrow: no Arrow file"),
    (("-i", "bad.npz", "-o", "y.csv"), 1, "bad.npz: no .npz file"),
    (("-i", "empty/", "-o", "y.csv"), 1, "empty/: no files"),
    (("-i", "mixed/", "-o", "y.csv"), 1, "files of several kinds"),
]


@pytest.mark.parametrize(("words", "code", "message"), WRONG)
def test_what_is_wrong_is_said(cli, words, code, message):
    write("jsonl", ids(), "tokens", "x.jsonl")
    np.save("n.npy", np.ones(ROWS, np.int64))
    for kind in ("parquet", "arrow", "npz"):
        with open(f"bad.{kind}", "wb") as file:
            file.write(b"nonsense" * 20)
    for name in ("empty", "mixed"):
        os.mkdir(name)
    for name in ("mixed/a.csv", "mixed/b.jsonl"):
        open(name, "w").close()
    before = set(os.listdir())
    assert message in " ".join(cli("tagger", *words, code=code).stderr.split())
    assert set(os.listdir()) == before


def test_progress(monkeypatch):
    """Rate and remaining time count from the first shard that is done."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock()
    assert clock.text(1000, 0.1) == "1,000 rows"
    now[0] = 10.0
    assert clock.text(3000, 0.3) == "3,000 rows, 200 rows/s, 0:35 left"
    now[0] = 20.0
    assert clock.text(5000, 0.0) == "5,000 rows, 200 rows/s"


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "npz", "csv"])
def test_resumed_in_the_middle_of_a_file(cli, monkeypatch, kind):
    """Whatever is read: a run that is interrupted in its fourth shard goes on there, to the same bytes."""
    rows = ids()
    if kind == "csv":
        with open("in.csv", "w") as file:
            file.write("s,tokens\n" + "".join(f"s{i},{word}\n" for i, row in enumerate(rows) for word in row))
        words = ("-i", "in.csv", "--sequence-column", "s", "--to", "jsonl", *SHARDS)
    else:
        words = ("-i", write(kind, rows, "tokens"), "--to", "jsonl", *SHARDS)
    cli("tagger", *words, "-o", "whole/")
    begun, calls = Runner.begin, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return begun(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "begin", interrupted)
        cli("tagger", *words, "-o", "cut/", code=130)
    assert 2 <= len([name for name in os.listdir("cut") if name.startswith("part-")]) <= 3
    cli("tagger", *words, "-o", "cut/", "--resume")
    assert sorted(os.listdir("cut")) == sorted(os.listdir("whole"))
    for name in os.listdir("whole"):
        with open(f"whole/{name}", "rb") as one, open(f"cut/{name}", "rb") as other:
            assert one.read() == other.read(), name
