"""The command line as people use it: files in, files out, one line and an exit code where something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from paths import GOLDEN
from torch import nn

import rnncore
from rnncore.cli.application import application
from rnncore.cli.inspect import _json

INPUT, HIDDEN, IDS, CLASSES = 4, 8, 20, 3


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Files as people have them. Tests read them, and write into directories of their own."""
    torch.manual_seed(3)
    place = tmp_path_factory.mktemp("shelf")
    stack = nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True, batch_first=True)
    torch.save(stack.state_dict(), place / "stack.pt")
    parts = {
        "embed": nn.Embedding(IDS, 6),
        "encoder": nn.GRU(6, 5, batch_first=True),
        "decoder": nn.LSTM(6, 5, batch_first=True),
        "norm": nn.LayerNorm(5),
        "fc": nn.Linear(5, CLASSES),
    }
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    torch.save({"epoch": 3, "model": state, "date": None}, place / "tagger.pth")
    chain = [(name, parts[name]) for name in ("embed", "encoder", "fc")]
    rnncore.save(place / "tagger.safetensors", rnncore.export.from_torch(chain))
    random = np.random.default_rng(5)
    np.save(place / "x.npy", random.standard_normal((5, 7, INPUT)).astype(np.float32))
    np.save(place / "ids.npy", random.integers(0, IDS, (5, 7)))
    return place


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Runs a command line in an empty directory; a result has exit_code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(application, [str(word) for word in words], prog_name="rnncore")


@pytest.fixture
def fails(cli, tmp_path):
    """Runs a command line that must end with code 1, one line "error: ..." that matches, and no new file."""

    def run(pattern, *words):
        before = sorted(tmp_path.rglob("*"))
        result = cli(*words)
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        lines = result.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
        assert re.search(pattern, lines[0]), lines[0]
        assert sorted(tmp_path.rglob("*")) == before

    return run


def done(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# convert, inspect, verify


def test_convert_and_inspect_a_stack(cli, shelf):
    text = done(cli("convert", shelf / "stack.pt", "out/"))
    assert "4 to 8, 2 layers, bidirectional" in text and "float (B, T, 16)" in text
    assert "note: batch first" in text and "test pair: no" in text and "origin: stack.pt (sha256 " in text
    assert os.listdir("out") == ["model.safetensors"]
    assert "2,432 parameters, 9.7 kB" in done(cli("inspect", "out"))
    x = np.load(shelf / "x.npy")
    found, expected = rnncore.load("out")(x), rnncore.load(shelf / "stack.pt")(x)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_convert_names_unused_tensors(cli, shelf):
    with open("spec.json", "w") as file:
        file.write(done(cli("inspect", shelf / "tagger.pth", "--spec")))
    text = done(cli("convert", shelf / "tagger.pth", "encoder.safetensors", "--spec", "spec.json"))
    assert re.search(r"note: tensors that the spec does not use: model.embed.weight", text)
    assert json.loads(done(cli("inspect", "encoder.safetensors", "--json")))["nodes"][0]["kind"] == "GRU"


def test_convert_with_names(cli, shelf):
    spec = rnncore.Spec(
        [rnncore.Input("x", "float", ("B", "T", 6))],
        [rnncore.Recurrent("reader", rnncore.cells.LSTM(6, 5), "x")],
        ["reader"],
    )
    with open("spec.json", "w") as file:
        json.dump(spec.to_json(), file)
    with open("names.json", "w") as file:
        json.dump({"reader": "model.decoder"}, file)
    words = (shelf / "tagger.pth", "reader.safetensors", "--spec", "spec.json", "--names", "names.json")
    assert "wrote reader.safetensors" in done(cli("convert", *words))


def test_convert_weights_of_keras(cli, fails, tmp_path):
    golden = GOLDEN / "keras"
    words = ("convert", golden / "encoder_decoder.weights.h5", "out.safetensors")
    fails("weights without a network, expected architecture=.*convert --architecture", *words)
    fails("none.json: No such file", *words, "--architecture", "none.json")
    (tmp_path / "list.json").write_text("[]")
    fails("list.json: ", *words, "--architecture", "list.json")
    done(cli(*words, "--architecture", golden / "encoder_decoder.json"))
    whole, found = rnncore.load(golden / "encoder_decoder.h5"), rnncore.load(tmp_path / "out.safetensors")
    assert found.spec == whole.spec and dict(found.weights).keys() == dict(whole.weights).keys()
    assert "--architecture FILE.json" in done(cli("convert", "--help"))


def test_convert_verifies_first(cli, shelf, fails):
    text = done(cli("convert", shelf / "tagger.safetensors", "again.safetensors", "--verify"))
    assert "equal to torch" in text
    fails("no test pair", "convert", shelf / "stack.pt", "other.safetensors", "--verify")


def test_inspect_native(cli, shelf):
    text = done(cli("inspect", shelf / "tagger.safetensors"))
    for word in ("rnncore's own file", "int64 (B, T)", "20 to 6", "GRU", "embed, lengths", "test pair: yes"):
        assert word in text
    assert "origin: torch " in text


def test_inspect_checkpoint(cli, shelf):
    text = done(cli("inspect", shelf / "tagger.pth"))
    for word in ("model.encoder   GRU", "model.decoder   LSTM", "Embedding", "LayerNorm", "weight (3, 5), bias (3,)"):
        assert word in text
    assert "--spec spec.json" in text
    assert "loads as it is" in done(cli("inspect", shelf / "stack.pt"))


def test_inspect_json(cli, shelf):
    found = json.loads(done(cli("inspect", shelf / "tagger.pth", "--json")))
    assert [stack["kind"] for stack in found["stacks"]] == ["GRU", "LSTM"]
    assert found["tensors"]["model.fc.weight"] == {"shape": [3, 5], "dtype": "float32"}
    native = json.loads(done(cli("inspect", shelf / "tagger.safetensors", "--json")))
    assert native["test_pair"] and native["parameters"] == 120 + 185 + 18
    assert rnncore.Spec.from_json(native["spec"]) == rnncore.load(shelf / "tagger.safetensors").spec


def test_inspect_spec_says_what_it_assumes(cli, shelf):
    result = cli("inspect", shelf / "tagger.pth", "--spec")
    (node,) = rnncore.Spec.from_json(done(result)).nodes
    assert node.name == "encoder"
    assert "the file has more: 'model.decoder'" in result.stderr


def test_inspect_shows_control_characters_escaped(cli, tmp_path):
    np.savez("a.npz", **{"\x1b[31mred.weight": np.ones((2, 2))})
    text = done(cli("inspect", "a.npz"))
    assert "\\x1b[31mred" in text and "\x1b" not in text


def test_inspect_cuts_long_lists(cli):
    np.savez("a.npz", **{f"m{i:03}.weight": np.ones((2, 2), "f4") for i in range(100)})
    text = done(cli("inspect", "a.npz"))
    assert "m039" in text and "m040" not in text and "... and 60 more" in text
    assert len(json.loads(done(cli("inspect", "a.npz", "--json")))["others"]) == 100


VALUES = [
    {"a": []},
    {"a": [[1, 2], [3.5, None]]},
    {"a": ["[\n 1 ]", "x, y,"], "b": [" ] ", "[ "]},
    {"a": [{"b": [True]}]},
]


@pytest.mark.parametrize("value", VALUES)
def test_json_with_lists_on_one_line_is_the_same_json(value):
    assert json.loads(_json(value)) == value


def test_verify(cli, shelf, fails):
    assert "equal to torch" in done(cli("verify", shelf / "tagger.safetensors"))
    done(cli("convert", shelf / "stack.pt", "stack.safetensors"))
    fails("stack.safetensors: no test pair", "verify", "stack.safetensors")


def test_verify_finds_a_changed_weight(cli, shelf):
    native = rnncore.formats.loading.open_file(shelf / "tagger.safetensors")
    weights = {**native.weights, "fc.bias": native.weights["fc.bias"] + np.float32([0, 0, 1])}
    model = rnncore.Model(native.spec, weights)
    rnncore.save("changed.safetensors", model, test_pair=native.test_pair)
    result = cli("verify", "changed.safetensors")
    assert result.exit_code == 1
    assert re.search(r"fc +DIFFERENT +1 ", result.stdout) and "DIFFERENT from" in result.stdout


# run


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_run_npy(cli, shelf, batch_size):
    words = ("-i", shelf / "x.npy", "-o", "y.npy", "--only", "lstm", "--batch-size", batch_size)
    assert "y.npy: lstm float32 (5, 7, 16)" in done(cli("run", shelf / "stack.pt", *words))
    close(np.load("y.npy"), rnncore.load(shelf / "stack.pt")(np.load(shelf / "x.npy"))["lstm"])


@pytest.mark.parametrize("batch_size", [2, 256])
def test_run_npz_keeps_every_output_and_the_lengths(cli, shelf, batch_size):
    x, lengths = np.load(shelf / "x.npy"), np.array([7, 0, 3, 1, 6])
    np.savez("in.npz", x=x, lengths=lengths)
    done(cli("run", shelf / "stack.pt", "-i", "in.npz", "-o", "y.npz", "--batch-size", batch_size))
    expected = rnncore.load(shelf / "stack.pt")(x, lengths=lengths)
    with np.load("y.npz") as found:
        assert set(found.files) == {"lstm", "lstm.h", "lstm.c", "lengths"}
        assert found["lstm.h"].shape == (4, 5, HIDDEN)
        for name, array in expected.items():
            close(found[name], array)


def test_run_writes_the_same_bytes_again(cli, shelf):
    for name in ("a.npz", "b.npz"):
        done(cli("run", shelf / "stack.pt", "-i", shelf / "x.npy", "-o", name))
    with open("a.npz", "rb") as a, open("b.npz", "rb") as b:
        assert a.read() == b.read()


def test_run_takes_an_array_without_a_name(cli, shelf):
    np.savez("in.npz", np.load(shelf / "ids.npy"))
    assert "fc float32 (5, 7, 3)" in done(cli("run", shelf / "tagger.safetensors", "-i", "in.npz", "-o", "y.npy"))


@pytest.mark.parametrize("given", ["n.npy", "n.npz:n", "only.npz"])
def test_run_with_a_file_of_lengths(cli, shelf, given):
    lengths = np.array([7, 3, 0, 1, 2])
    np.save("n.npy", lengths)
    np.savez("n.npz", n=lengths, other=lengths)
    np.savez("only.npz", whatever=lengths)
    done(cli("run", shelf / "tagger.safetensors", "-i", shelf / "ids.npy", "-o", "y.npy", "--lengths", given))
    close(np.load("y.npy"), rnncore.load(shelf / "tagger.safetensors")(np.load(shelf / "ids.npy"), lengths=lengths))


def test_run_dtype(cli, shelf):
    np.save("x.npy", np.load(shelf / "x.npy").astype(np.float64))
    words = ("run", shelf / "stack.pt", "-i", "x.npy", "-o", "y.npy", "--only", "lstm")
    assert "note: x: float64 given to a float32 model is cast" in cli(*words).stderr
    result = cli(*words, "--dtype", "float64")
    assert "lstm float64" in result.stdout and result.stderr == ""


def test_run_with_a_spec(cli, shelf):
    with open("spec.json", "w") as file:
        file.write(done(cli("inspect", shelf / "tagger.pth", "--spec")))
    np.save("x.npy", np.ones((2, 3, 6), np.float32))
    words = ("--spec", "spec.json", "-i", "x.npy", "-o", "y.npy", "--only", "encoder.last")
    assert "encoder.last float32 (2, 5)" in done(cli("run", shelf / "tagger.pth", *words))


@pytest.mark.parametrize("header", ["", "a,b,c,d\n"])
def test_run_csv(cli, shelf, header):
    x = np.load(shelf / "x.npy")[0]
    with open("x.csv", "w") as file:
        file.write(header + "\n".join(",".join(map(str, row)) for row in x) + "\n\n")
    done(cli("run", shelf / "stack.pt", "-i", "x.csv", "-o", "y.csv", "--only", "lstm"))
    with open("y.csv") as file:
        assert file.readline().startswith("step,lstm.0,lstm.1,")
        table = np.loadtxt(file, delimiter=",")
    assert np.array_equal(table[:, 0], np.arange(7))
    close(table[:, 1:], rnncore.load(shelf / "stack.pt")(x[None])["lstm"][0])


def test_run_ragged_csv(cli, shelf):
    """Rows of three sequences, mixed; the answer has each sequence's steps together, in order of appearance."""
    ids = {"b": [4, 5, 6], "a": [1], "c": [7, 8]}
    with open("in.csv", "w") as file:
        file.write("note,word,id\n-,b,4\n-,a,1\n-,b,5\n-,c,7\n-,c,8\n-,b,6\n")
    words = ("-i", "in.csv", "--sequence-column", "word", "--columns", "id")
    done(cli("run", shelf / "tagger.safetensors", *words, "-o", "y.csv", "--batch-size", 2))
    model, expected = rnncore.load(shelf / "tagger.safetensors"), []
    for label, steps in ids.items():
        expected += [[label, str(t), *row] for t, row in enumerate(model(np.array([steps]))[0])]
    with open("y.csv") as file:
        header, *rows = [line.rstrip("\n").split(",") for line in file]
    assert header == ["word", "step", "fc.0", "fc.1", "fc.2"]
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    close(np.array([row[2:] for row in rows], float), np.array([row[2:] for row in expected], float))
    done(cli("run", shelf / "tagger.safetensors", *words, "-o", "y.npz"))
    with np.load("y.npz") as found:
        assert found["lengths"].tolist() == [3, 1, 2] and found["fc"].shape == (3, 3, CLASSES)


def test_run_csv_of_a_value_by_sequence(cli, shelf):
    with open("in.csv", "w") as file:
        file.write("word,id\nx,1\ny,2\ny,3\n")
    words = ("--sequence-column", "word", "--only", "encoder.last")
    done(cli("run", shelf / "tagger.safetensors", "-i", "in.csv", "-o", "y.csv", *words))
    with open("y.csv") as file:
        rows = [line.split(",") for line in file]
    assert [row[0] for row in rows] == ["word", "x", "y"] and rows[0][1] == "encoder.last.0"


def test_run_time_first(cli):
    exported = rnncore.export.from_torch(nn.GRU(2, 3))
    rnncore.save("m.safetensors", exported)
    x = np.random.default_rng(0).standard_normal((6, 5, 2)).astype(np.float32)
    np.save("x.npy", x)
    done(cli("run", "m.safetensors", "-i", "x.npy", "-o", "y.npz", "--batch-size", 2))
    with np.load("y.npz") as found:
        for name, array in rnncore.load("m.safetensors")(x).items():
            close(found[name], array)
    with open("x.csv", "w") as file:
        file.write("s,a,b\n" + "".join(f"{s},{x[t, s, 0]},{x[t, s, 1]}\n" for t in range(6) for s in range(5)))
    done(cli("run", "m.safetensors", "-i", "x.csv", "--sequence-column", "s", "-o", "y.csv", "--only", "gru"))
    with open("y.csv") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    close(table[:, 2:].reshape(5, 6, 3), rnncore.load("m.safetensors")(x)["gru"].swapaxes(0, 1))


@pytest.mark.parametrize(("op", "attributes"), [("Softmax", {"axis": 0}), ("CumSum", {"axis": 0})])
def test_run_does_not_split_a_model_that_mixes_rows(cli, op, attributes):
    """Over the batch: batches of two would give other numbers."""
    spec = rnncore.Spec(
        [rnncore.Input("x", "float", ("B", "T", 2))],
        [
            rnncore.Recurrent("gru", rnncore.cells.GRU(2, 3), "x"),
            rnncore.Node("mixed", op, "gru", attributes),
        ],
        ["mixed"],
    )
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    rnncore.save("m.safetensors", rnncore.Model(spec, weights))
    x = random.standard_normal((5, 4, 2)).astype(np.float32)
    np.save("x.npy", x)
    done(cli("run", "m.safetensors", "-i", "x.npy", "-o", "y.npy", "--batch-size", 2))
    close(np.load("y.npy"), rnncore.load("m.safetensors")(x))


def test_run_of_no_rows(cli, shelf):
    np.save("x.npy", np.zeros((0, 7, INPUT), np.float32))
    assert "lstm float32 (0, 7, 16)" in done(
        cli("run", shelf / "stack.pt", "-i", "x.npy", "-o", "y.npy", "--only", "lstm")
    )


def test_run_replaces_an_old_result_only_when_it_is_done(cli, shelf, monkeypatch):
    np.save("y.npy", np.arange(3))
    words = ("run", shelf / "stack.pt", "-i", shelf / "x.npy", "-o", "y.npy", "--only", "lstm", "--batch-size", 2)
    ran = rnncore.Model.run
    calls = []

    def interrupted(self, *arguments, **options):
        calls.extend(options)  # a call with options is the command's; the model makes one without of it
        if len(calls) == 2:
            raise KeyboardInterrupt
        return ran(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(rnncore.Model, "run", interrupted)
        result = cli(*words)
    assert (result.exit_code, result.stderr.strip()) == (130, "interrupted")
    assert np.load("y.npy").tolist() == [0, 1, 2] and os.listdir() == ["y.npy"]
    done(cli(*words))
    assert np.load("y.npy").shape == (5, 7, 16)


# what may be wrong

CSV_ERRORS = {
    "text": ("a,b,c,d\n1,2,3,4\n1,2,x,4\n", r"bad.csv: row 0: line 3, column c: 'x' is not a number"),
    "text without header": ("1,2,3,4\n1,,3,4\n", r"bad.csv: row 0: line 2, column 2: '' is not a number"),
    "text in the first row": ("1,2,?,4\n1,2,3,4\n", r"bad.csv: row 0: line 1, column 3: '\?' is not a number"),
    "underscore": ("1,2,3,1_000\n", r"line 1, column 4: '1_000' is not a number"),
    "short row": ("1,2,3,4\n1,2,3\n", r"bad.csv: row 0: line 2: 3 columns, expected 4"),
    "columns": ("1,2,3\n", r"bad.csv: 3 columns \(1, 2, 3\), expected 4 for input 'x'"),
    "empty": ("", r"bad.csv: empty"),
    "header only": ("a,b,c,d\n", r"bad.csv: no rows"),
    "quotes": ('1,2,3,"4\n', r"bad.csv: line 1: unexpected end of data"),
    "not text": (b"1,2,3,4\n\xff\xfe,2,3,4\n", r"bad.csv: not text in UTF-8"),
}


@pytest.mark.parametrize(("text", "pattern"), CSV_ERRORS.values(), ids=CSV_ERRORS)
def test_csv_that_is_wrong(shelf, fails, tmp_path, text, pattern):
    (tmp_path / "bad.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    fails(pattern, "run", shelf / "stack.pt", "-i", "bad.csv", "-o", "y.npz")


def test_csv_of_ids_wants_whole_numbers(shelf, fails, tmp_path):
    (tmp_path / "bad.csv").write_text("id\n1\n2.5\n")
    fails(
        r"line 3, column id: '2.5' is not a whole", "run", shelf / "tagger.safetensors", "-i", "bad.csv", "-o", "y.npy"
    )


def test_csv_columns_that_are_not_there(shelf, fails, tmp_path):
    (tmp_path / "in.csv").write_text("word,id\na,1\n")
    words = ("run", shelf / "tagger.safetensors", "-i", "in.csv", "-o", "y.npy")
    fails(r"in.csv: column 'ids' is not there, expected one of word, id", *words, "--columns", "ids")
    fails(r"in.csv: column 'words' is not there", *words, "--sequence-column", "words")
    fails(r"in.csv: 2 columns \(word, id\), expected 1 for input 'tokens': choose with --columns", *words)


@pytest.mark.parametrize(("length", "found"), [(-1, "-1"), (8, "8")])
def test_lengths_that_are_wrong(shelf, fails, tmp_path, length, found):
    lengths = np.array([1, 2, 3, length, 5])
    np.save(tmp_path / "n.npy", lengths)
    np.savez(tmp_path / "in.npz", tokens=np.load(shelf / "ids.npy"), lengths=lengths)
    words = ("-o", "y.npy", "--batch-size", 2)
    model = shelf / "tagger.safetensors"
    fails(
        f"n.npy: .*row 3: lengths: {found}, expected 0 to 7",
        "run",
        model,
        "-i",
        shelf / "ids.npy",
        "--lengths",
        "n.npy",
        *words,
    )
    fails(f"in.npz: row 3: lengths: {found}, expected 0 to 7", "run", model, "-i", "in.npz", *words)
    fails("the data file has 'lengths' too", "run", model, "-i", "in.npz", "--lengths", "n.npy", *words)


def test_lengths_of_another_number_of_rows(shelf, fails, tmp_path):
    np.save(tmp_path / "n.npy", np.array([1, 2]))
    np.savez(tmp_path / "n.npz", a=np.array([1]), b=np.array([2]))
    words = ("run", shelf / "tagger.safetensors", "-i", shelf / "ids.npy", "-o", "y.npy", "--lengths")
    fails(r"lengths: shape \(2,\)", *words, "n.npy")
    fails(r"n.npz: holds a, b, expected --lengths n.npz:NAME", *words, "n.npz")
    fails(r"n.npz: no array 'c', expected one of a, b", *words, "n.npz:c")


def test_run_arguments_that_do_not_fit(shelf, fails, tmp_path):
    stack, x = shelf / "stack.pt", shelf / "x.npy"
    np.save(tmp_path / "wide.npy", np.zeros((2, 3, 5), np.float32))
    np.savez(tmp_path / "named.npz", y=np.zeros((2, 3, 4), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    data = x.read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[: len(data) - 9])
    (tmp_path / "mine.npy").write_bytes(data)
    fails(r"wide.npy: x: shape \(2, 3, 5\), expected \(B, T, 4\)", "run", stack, "-i", "wide.npy", "-o", "y.npz")
    fails(r"named.npz: input 'y' is unknown", "run", stack, "-i", "named.npz", "-o", "y.npz")
    fails(r"objects.npy: .*pickle", "run", stack, "-i", "objects.npy", "-o", "y.npz")
    fails(r"cut.npy: ", "run", stack, "-i", "cut.npy", "-o", "y.npz")
    fails(r"none.npy: No such file", "run", stack, "-i", "none.npy", "-o", "y.npz")
    fails(r"x.txt: expected a name that ends in .npy, .npz, .csv", "run", stack, "-i", "x.txt", "-o", "y.npz")
    fails(r"y.txt: expected a name that ends in", "run", stack, "-i", x, "-o", "y.txt")
    fails(r"directory 'no' does not exist", "run", stack, "-i", x, "-o", "no/y.npz")
    fails(r"y.npy: holds one output, but there are lstm, lstm.h, lstm.c", "run", stack, "-i", x, "-o", "y.npy")
    fails(r"y.csv: output 'lstm.h' is .* no table", "run", stack, "-i", x, "-o", "y.csv", "--only", "lstm.h")
    fails(r"output 'lstn' .*did you mean 'lstm'", "run", stack, "-i", x, "-o", "y.npy", "--only", "lstn")
    fails(r"mine.npy: is the input", "run", stack, "-i", "mine.npy", "-o", "./mine.npy")
    assert (tmp_path / "mine.npy").read_bytes() == data


def test_files_that_are_wrong(shelf, fails, tmp_path):
    data = (shelf / "tagger.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.pt").write_text("hello")
    for command in (["inspect"], ["verify"], ["convert"]):
        target = ["out.safetensors"] if command == ["convert"] else []
        fails("none.pt: No such file", *command, "none.pt", *target)
        fails("cut.pth: ", *command, "cut.pth", *target)
        fails("text.pt: ", *command, "text.pt", *target)
        fails("zoo:nothing: no such model", *command, "zoo:nothing", *target)
    fails("give a spec", "convert", shelf / "tagger.pth", "out.safetensors")
    fails("no recurrent stack", "inspect", shelf / "x.npy", "--spec")


def test_specs_that_are_wrong(shelf, fails, tmp_path):
    good = rnncore.load(shelf / "tagger.safetensors").spec.to_json()
    (tmp_path / "spec.json").write_text(json.dumps(good))
    (tmp_path / "key.json").write_text(json.dumps({**good, "extra": 1}))
    (tmp_path / "text.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "names.json").write_text('{"nobody": "x"}')
    words = ("convert", shelf / "tagger.pth", "out.safetensors")
    fails("key.json: Spec: unknown key 'extra'", *words, "--spec", "key.json")
    fails("text.json: Spec: not JSON", *words, "--spec", "text.json")
    fails("none.json: No such file", *words, "--spec", "none.json")
    fails("names: 'nobody' is no node", *words, "--spec", "spec.json", "--names", "names.json")
    fails("list.json: expected an object", *words, "--spec", "spec.json", "--names", "list.json")
    fails("text.json: not JSON", *words, "--spec", "spec.json", "--names", "text.json")
    fails("none.json: No such file", *words, "--spec", "spec.json", "--names", "none.json")


def test_architectures_of_what_is_no_keras_file(shelf, fails, tmp_path):
    (tmp_path / "net.json").write_text("{}")
    fails("expected a .h5 file", "convert", shelf / "tagger.pth", "out.safetensors", "--architecture", "net.json")


def test_targets_of_convert_that_are_wrong(shelf, fails, tmp_path):
    data = (shelf / "tagger.safetensors").read_bytes()
    (tmp_path / "mine.safetensors").write_bytes(data)
    (tmp_path / "file").write_text("x")
    fails("out.pt: expected a directory, or a name", "convert", shelf / "stack.pt", "out.pt")
    fails("directory 'no' does not exist", "convert", shelf / "stack.pt", "no/out.safetensors")
    fails("is mine.safetensors itself", "convert", "mine.safetensors", "mine.safetensors")
    fails("file: a file, expected a directory", "convert", shelf / "stack.pt", "file")
    assert (tmp_path / "mine.safetensors").read_bytes() == data


def test_command_lines_that_are_wrong(cli, shelf):
    x = shelf / "x.npy"
    for words in (
        ["nothing"],
        ["run", shelf / "stack.pt"],
        ["run", shelf / "stack.pt", "-i", x, "-o", "y.npz", "--batch-size", "0"],
        ["run", shelf / "stack.pt", "-i", x, "-o", "y.npz", "--dtype", "int8"],
        ["run", shelf / "stack.pt", "-i", x, "-o", "y.npz", "--columns", "a"],
        ["run", shelf / "stack.pt", "-i", "x.csv", "-o", "y.npz", "--columns", "a,a"],
        ["inspect", shelf / "stack.pt", "--json", "--spec"],
    ):
        assert cli(*words).exit_code == 2, words
    assert os.listdir() == []


@pytest.mark.parametrize("command", ["demo", "inspect", "convert", "verify", "run"])
def test_help_has_an_example(cli, command):
    text = done(cli(command, "--help"))
    assert f"        rnncore {command}" in text or f"      rnncore {command}" in text


# real processes


def process(*words, directory, **environment):
    command = [sys.executable, "-m", "rnncore", *map(str, words)]
    path = os.pathsep.join([os.path.dirname(os.path.dirname(rnncore.__file__)), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep), **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=variables, timeout=280)


def test_a_process(shelf, tmp_path):
    found = process("run", shelf / "stack.pt", "-i", shelf / "x.npy", "-o", "y.npz", directory=tmp_path)
    assert (found.returncode, found.stderr) == (0, "") and (tmp_path / "y.npz").exists()
    found = process("inspect", "none.pt", directory=tmp_path)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == "error: none.pt: No such file or directory\n"
    assert process("--version", directory=tmp_path).stdout == f"rnncore {rnncore.__version__}\n"


def test_no_framework_is_imported(shelf, tmp_path):
    code = (
        "import sys\n"
        "from rnncore.cli import main\n"
        f"sys.argv = ['rnncore', 'inspect', {str(shelf / 'tagger.pth')!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=280)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra(tmp_path, missing):
    """A module of that name that cannot be imported stands in front of the real one."""
    (tmp_path / f"{missing}.py").write_text("raise ImportError")
    found = process("demo", directory=tmp_path)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.count("\n") == 1 and 'pip install "rnncore[cli]"' in found.stderr
