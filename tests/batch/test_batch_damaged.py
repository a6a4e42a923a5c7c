"""Data files that are damaged or odd: an error that names the file, or rows that are listed as bad; never a traceback.

A row that is run has the numbers of its file, and an id that every format of results can hold.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from batch_kills import IDS, child, outcome, tagger
from click.testing import CliRunner

from rnncore.cli.application import application
from rnncore.errors import FormatError
from rnncore.files.strict_json import read_json

SCALE = float(os.environ.get("RNNCORE_TEST_SCALE", "1"))
TARGETS = ("jsonl", "csv", "npz", "parquet", "arrow")
ROWS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    tagger(path)
    return str(path)


def words(model, source, target, *more):
    return ["run", model, "-i", str(source), "-o", str(target), "--max-errors", "any", "--overwrite", *more]


def invoke(*arguments):
    result = CliRunner().invoke(application, *arguments, prog_name="rnncore")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files():
    """kind -> (suffix, bytes): the same rows in every format."""
    random_ = np.random.default_rng(0)
    rows = [random_.integers(0, IDS, random_.integers(0, 12)).tolist() for _ in range(ROWS)]
    names = [f"s{i}" for i in range(ROWS)]
    table = pa.table({"id": names, "tokens": pa.array(rows, pa.list_(pa.int32()))})
    found = {}
    for kind in ("parquet", "arrow", "stream", "packed"):
        buffer = io.BytesIO()
        if kind == "parquet":
            pq.write_table(table, buffer, row_group_size=25)
        else:
            options = ipc.IpcWriteOptions(compression="lz4" if kind == "packed" else None)
            with (ipc.new_stream if kind == "stream" else ipc.new_file)(buffer, table.schema, options=options) as file:
                file.write_table(table, max_chunksize=11)
        found[kind] = "parquet" if kind == "parquet" else "arrow", buffer.getvalue()
    for kind, save in (("npz", np.savez_compressed), ("plain.npz", np.savez)):
        buffer = io.BytesIO()
        save(buffer, tokens=np.array([*itertools.chain.from_iterable(rows)]), lengths=[len(row) for row in rows])
        found[kind] = "npz", buffer.getvalue()
    buffer = io.BytesIO()
    np.save(buffer, random_.integers(0, IDS, (ROWS, 7)))
    found["npy"] = "npy", buffer.getvalue()
    lines = [f"s{i},{word}\n" for i, row in enumerate(rows) for word in row]
    found["csv"] = "csv", ("s,tokens\n" + "".join(lines)).encode()
    texts = [json.dumps({"id": name, "tokens": row}) + "\n" for name, row in zip(names, rows, strict=True)]
    found["jsonl"] = "jsonl", "".join(texts).encode()
    return found


FILES = files()


def damaged(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at = chance.randrange(len(data))
        kind = chance.randrange(5)
        if kind == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at] = chance.choice((0, 1, 127, 128, 255))
        elif kind == 2:
            data[at : at + 4] = chance.choice((b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80"))
        elif kind == 3:
            del data[at : at + chance.randrange(1, 20)]
        else:
            data = data[:at] + (data[chance.randrange(len(data)) :] if chance.random() < 0.5 else b"")
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("kind", FILES)
def test_damaged_bytes(kind, model, tmp_path):
    """In one process that a crash would end; its parent then knows."""
    suffix, data = FILES[kind]
    source = tmp_path / f"in.{suffix}"
    more = ("--sequence-column", "s") if suffix == "csv" else ()
    seen = tmp_path / "seen"
    process = os.fork()
    if not process:
        code = 70
        try:
            for number in range(round(40 * SCALE)):
                chance = random.Random(f"{kind} {number}")
                source.write_bytes(damaged(data, chance))
                target = tmp_path / f"y.{chance.choice(TARGETS)}"
                seen.write_text(f"{number}")
                result = invoke(words(model, source, target, *more))
                assert result.exit_code in (0, 1, 3), result.output
                if result.exit_code == 1:
                    assert len(result.stderr.splitlines()) == 1 and str(source) in result.stderr, result.output
            code = 0
        except BaseException as error:
            seen.write_text(f"{seen.read_text()}: {error!r}")
        finally:
            os._exit(code)
    assert outcome(process) == 0, f"{kind}, {seen.read_text()}"


OFFSETS, ENDS, TEXT = (0, 3, 5), (0, 1, 4), b"abcd"


def arrow_with(tmp_path, offsets=OFFSETS, ends=ENDS, text=TEXT):
    """An Arrow file whose lists and texts begin and end where these numbers say."""
    table = pa.table({"id": ["a", "bcd"], "tokens": pa.array([[1, 2, 3], [4, 5]], pa.list_(pa.int32()))})
    path = tmp_path / "in.arrow"
    write_arrow(table, path)
    data = path.read_bytes()
    for before, after in ((OFFSETS, offsets), (ENDS, ends)):
        before, after = (np.array(numbers, np.int32).tobytes() for numbers in (before, after))
        assert data.count(before) == 1
        data = data.replace(before, after)
    path.write_bytes(data.replace(TEXT, text))
    return path


@pytest.mark.parametrize(
    "wrong",
    [
        {"offsets": (0, 5, 2)},
        {"offsets": (0, 2, 2**30)},
        {"offsets": (0, -4, 2)},
        {"offsets": (-8, 0, 2)},
        {"offsets": (2**30, 2**30, 2**30)},
        {"ends": (0, 1, 2**30)},
        {"ends": (0, 3, 1)},
        {"ends": (-9, 0, 1)},
        {"text": b"\xff\xfe\xfd\xfc"},
    ],
)
def test_arrow_columns_that_point_elsewhere(wrong, model, tmp_path):
    """Nothing in the file says where a list ends but itself: it is looked at before anything is read there."""
    assert outcome(child(words(model, arrow_with(tmp_path), tmp_path / "y.jsonl"))) == 0
    path = arrow_with(tmp_path, **wrong)
    assert outcome(child(words(model, path, tmp_path / "y.jsonl"))) == 1
    result = invoke(words(model, path, tmp_path / "y.jsonl"))
    assert f"error: {path}: after row 0: damaged: " in result.stderr


@pytest.mark.parametrize("members", [{}, {"lengths.npy": np.array([1, 2])}, {"x.txt": np.zeros(1)}])
def test_archives_without_rows(members, model, tmp_path):
    path = tmp_path / "in.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in members.items():
            with archive.open(name, "w") as file:
                np.save(file, array)
    result = invoke(words(model, path, tmp_path / "y.npz"))
    assert result.exit_code == 1 and "expected" in result.stderr, result.output


def test_a_table_with_a_column_twice(model, tmp_path):
    tokens = pa.array([[1], [2]], pa.list_(pa.int32()))
    for kind, write in (("parquet", lambda t, p: pq.write_table(t, p)), ("arrow", lambda t, p: write_arrow(t, p))):
        path = tmp_path / f"in.{kind}"
        write(pa.Table.from_arrays([tokens, tokens], ["tokens", "tokens"]), path)
        result = invoke(words(model, path, tmp_path / "y.jsonl"))
        assert result.exit_code == 1 and "twice" in result.stderr, result.output


def write_arrow(table, path):
    with ipc.new_file(path, table.schema) as file:
        file.write_table(table)


# a JSON value -> what is wrong with it as an id; "" where nothing is
IDS_OF_ROWS = {
    '"\\ud800"': "half a surrogate pair",
    '"\\udc00x"': "half a surrogate pair",
    '["\\ud800"]': "half a surrogate pair",
    '{"\\ud800": 1}': "half a surrogate pair",
    "1e999": "Out of range float values",
    "NaN": "Out of range float values",
    "[-Infinity]": "Out of range float values",
    "9" * 5000: "not JSON: Exceeds the limit",
    '{"a": 1, "a": 2}': "not JSON: the key 'a' occurs twice",
    "[" * 100 + "]" * 100: "nested more than 64 deep",
    '{"a":' * 500 + "1" + "}" * 500: "nested",
    "[" * 100_000 + "]" * 100_000: "not JSON: nested too deeply",
    '"a\\u0000"': "",
    '"\\ud83d\\ude00"': "",
    '"x\\n,\\"y\\u2028"': "",
    "null": "",
    "true": "",
    "9" * 30: "",
    "1.5": "",
    "[1, [2, 3]]": "",
    "[[], [1]]": "",
    '["a", 1]': "",
    "[1, 2]": "",
    '{"a": [1, null]}': "",
}


@pytest.mark.parametrize("to", TARGETS)
def test_ids_of_every_kind(to, model, tmp_path):
    """Each among rows with other ids, in one shard and in shards of one row."""
    source, target = tmp_path / "in.jsonl", tmp_path / f"y.{to}"
    errors = tmp_path / f"y.{to}.errors.jsonl"
    lines = [f'{{"id": {text}, "tokens": [1, 2]}}' for text in IDS_OF_ROWS]
    source.write_text("".join(f'{line}\n{{"id": "g{i}", "tokens": [3]}}\n' for i, line in enumerate(lines)))
    for rows in ("1000", "1"):
        assert invoke(words(model, source, target, "--shard-rows", rows)).exit_code == 3
        bad = {entry["row"]: entry["reason"] for entry in map(json.loads, errors.read_text("utf-8").splitlines())}
        assert {*bad} == {2 * i for i, what in enumerate(IDS_OF_ROWS.values()) if what}
        for row, reason in bad.items():
            assert [*IDS_OF_ROWS.values()][row // 2] in reason and f"line {row + 1}: " in reason
        good = [json.loads(text) for text, what in IDS_OF_ROWS.items() if not what]
        if to == "jsonl":
            found = [json.loads(line)["id"] for line in target.read_text("utf-8").split("\n")[:-1]]
            assert [label for label in found if not str(label).startswith("g")] == good
        elif to == "npz":
            with np.load(target) as arrays:
                assert len(arrays["id"]) == len(arrays["fc"]) == len(IDS_OF_ROWS) + len(good)
        elif to in ("parquet", "arrow"):
            table = pq.read_table(target) if to == "parquet" else ipc.open_file(target.read_bytes()).read_all()
            texts = [label for label in table["id"].to_pylist() if label is None or not label.startswith("g")]
            assert [
                text if isinstance(value, str) else text and json.loads(text)
                for text, value in zip(texts, good, strict=True)
            ] == good


@pytest.mark.parametrize("value", IDS_OF_ROWS)
def test_inputs_of_every_kind(value, model, tmp_path):
    """Where numbers are expected: a row that is bad, and the others are run."""
    source = tmp_path / "in.jsonl"
    source.write_text(f'{{"tokens": [1]}}\n{{"tokens": {value}}}\n{{"tokens": [2]}}\n')
    result = invoke(words(model, source, tmp_path / "y.jsonl"))
    assert result.exit_code == (0 if value == "[1, 2]" else 3)
    assert len((tmp_path / "y.jsonl").read_text().splitlines()) == 2 + (value == "[1, 2]")


KEPT = {
    "float": pa.array([1.5, None, float("nan"), float("inf")]),
    "lists": pa.array([[1.0, float("nan")], None, [], [2.0]]),
    "records": pa.array([{"a": float("inf")}, None, {"a": None}, {"a": 1.0}]),
    "bytes": pa.array([b"\xff", None, b"a\0", b""]),
    "times": pa.array([0, None, 10**15, 5], pa.timestamp("us")),
    "text": pa.array(["a\0", None, "", "\U0001f600"]),
    "bool": pa.array([True, None, False, True]),
}


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", KEPT)
def test_kept_columns_of_every_type(name, to, model, tmp_path):
    tokens = pa.array([[1], [2], [3], [4]], pa.list_(pa.int32()))
    pq.write_table(pa.table({"k": KEPT[name], "tokens": tokens}), tmp_path / "in.parquet")
    for rows in ("1000", "1", "3"):
        result = invoke(
            words(model, tmp_path / "in.parquet", tmp_path / f"y.{to}", "--keep", "k", "--shard-rows", rows)
        )
        assert result.exit_code == 0, result.output


def test_depth_is_counted_outside_of_strings():
    assert read_json('{"[[[[": "]]\\"[[[["}', "x", deepest=1) == {"[[[[": ']]"[[[['}
    assert read_json("[[1], [[2]]]", "x", deepest=3) == [[1], [[2]]]
    with pytest.raises(FormatError, match="x: not JSON: nested more than 2 deep"):
        read_json("[[1], [[2]]]", "x", deepest=2)


def test_a_mark_of_order_before_the_first_row(model, tmp_path):
    """As editors on Windows write it."""
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"tokens": [1]}\n')
    assert invoke(words(model, tmp_path / "in.jsonl", tmp_path / "y.jsonl")).exit_code == 0
