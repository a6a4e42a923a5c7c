"""A manifest is taken as a run wrote it, or refused by name: whatever stands in it, wherever it was edited."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import shutil

import pytest
from batch_kills import clear, digest, prepare, words
from click.testing import CliRunner

from rnncore.batch.journal import MANIFEST, Journal
from rnncore.cli.application import application
from rnncore.errors import InputError

SCALE = float(os.environ.get("RNNCORE_TEST_SCALE", "1"))
ROWS = ("--shard-rows", "80")
HUGE = int("9" * 400)
WRONG = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, HUGE, 0.5, 1e300),
    *("", "x", "0", "\ud800", "a\0b", "../../x", "x" * 10_000, "f" * 32, "f" * 64),
    *(
        [],
        {},
        [[]],
        [0],
        [0, 0],
        [None],
        [-1, 0],
        {"a": 1},
        {"": {}},
        [{}],
        [0] * 1000,
        json.loads("[" * 60 + "]" * 60),
    ),
]


def run(folder, target, *more):
    return CliRunner().invoke(application, words(folder, target, *ROWS, *more), prog_name="rnncore")


def line(entry, before, text=None):
    """A line as a run writes it, and its checksum."""
    body = json.dumps(entry, separators=(",", ":")).encode() if text is None else text
    check = hashlib.blake2b(before.encode() + body, digest_size=16).hexdigest()
    return body[:-1] + f',"check":"{check}"}}\n'.encode(), check


def manifest(entries):
    before, lines = "", []
    for entry in entries:
        written, before = line(entry, before) if not isinstance(entry, bytes) else line(None, before, entry)
        lines.append(written)
    return b"".join(lines)


class Finished:
    """A finished run in a folder, which can be put back as it was."""

    def __init__(self, folder):
        prepare(folder)
        self.folder = folder
        assert run(folder, "folder").exit_code == 3
        self.digest = digest(folder, "folder")
        shutil.copytree(folder / "folder", folder / "in" / "kept")
        self.path = folder / "folder" / MANIFEST
        self.data = self.path.read_bytes()
        self.entries = [json.loads(text) for text in self.data.splitlines()]
        for entry in self.entries:
            del entry["check"]
        self.job = self.entries[0]["job"]

    def restore(self):
        clear(self.folder)
        shutil.copytree(self.folder / "in" / "kept", self.folder / "folder")

    def journal(self, data):
        """What resuming this manifest takes for finished, or the message that refuses it."""
        self.path.write_bytes(data)
        journal = Journal(self.path.parent, "jsonl")
        try:
            moved = journal.resume(self.job)
            return [{"job": json.loads(self.path.read_bytes().splitlines()[0])["job"], "moved": moved}, *journal.notes]
        except InputError as error:
            assert str(error).startswith(f"{self.path}: "), error
            assert "--overwrite" in str(error)
            assert len(str(error)) < 600 + len(str(self.path))
            return str(error)
        finally:
            journal.close()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return Finished(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(autouse=True)
def as_it_was(finished):
    finished.restore()


def places(value, at=()):
    """The way to every value in a JSON value, to itself first."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*at, key))


def put(value, at, new):
    if not at:
        return new
    value = copy.deepcopy(value)
    inner = value
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return value


def test_the_lines_are_what_this_file_thinks(finished):
    assert manifest(finished.entries) == finished.data
    assert finished.journal(finished.data)[1:] == finished.entries[1:-1]


def test_every_value_replaced_by_every_wrong_one(finished):
    """With the right checksums, as an attacker would make them: refused, or of no consequence."""
    taken = {}
    for at in places(finished.entries):
        for new in WRONG:
            entries = put(finished.entries, at, new)
            if not isinstance(entries, list) or json.dumps(entries) == json.dumps(finished.entries):
                continue
            lines = [
                entry if isinstance(entry, dict) and entry else b'{"x":' + json.dumps(entry).encode() + b"}"
                for entry in entries
            ]
            outcome = finished.journal(manifest(lines))
            if isinstance(outcome, str):
                assert "expected" in outcome
                continue
            name = next((key for key in reversed(at) if isinstance(key, str)), None)
            taken.setdefault(name, []).append(new)
    # an edited size of a file, a text that is only shown, another shard that is made again, another time
    free = {
        "bytes",
        "modified",
        "changed",
        "inode",
        "sha256",
        "content",
        "shapes",
        "fc",
        "row",
        "file",
        "place",
        "reason",
    }
    assert {*taken} <= free, {name: str(values)[:200] for name, values in taken.items() if name not in free}
    assert all(isinstance(value, str) for name in ("reason", "sha256", "content") for value in taken.get(name, []))


@pytest.mark.parametrize("key", [*"abc"])
def test_a_value_more_or_less(finished, key):
    """Objects with a key more, or one less."""
    for at in places(finished.entries):
        value = finished.entries
        for step in at:
            value = value[step]
        if not isinstance(value, dict) or at == (0, "job"):
            continue
        more = finished.journal(manifest(put(finished.entries, at, {**value, key: 1})))
        names = at[-1:] != ("shapes",) and "types" not in at
        assert isinstance(more, str) or not names
        for gone in value:
            less = {name: item for name, item in value.items() if name != gone}
            if less:
                assert isinstance(finished.journal(manifest(put(finished.entries, at, less))), str)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b'{"job":null}', "line 1: job=null, expected an object"),
        (b'{"job":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "line 1: not JSON: nested more than 16 deep"),
        (b'{"job":' + b'{"a":' * 500 + b"1" + b"}" * 501, "line 1: not JSON: nested more than 16 deep"),
        (b'{"job":{},"job":{}}', "line 1: not JSON: the key 'job' occurs twice"),
        (b'{"job":NaN}', "line 1: not JSON: NaN is no JSON"),
        (b'{"job":' + b"9" * 5000 + b"}", "line 1: not JSON: Exceeds the limit"),
        (b'{"job":"\\ud800"}', "line 1: not JSON: half a surrogate pair"),
        (b'{"job":"\xff"}', "line 1: not JSON: 'utf-8' codec can't decode"),
        (b"[}", "line 1: "),
        (b'{"jobs":{}}', "line 1: not what a run is"),
        (b"{1}", "line 1: "),
    ],
)
def test_a_first_line_that_is_none(finished, body, what):
    outcome = finished.journal(line(None, "", body)[0])
    assert outcome.startswith(f"{finished.path}: {what}")
    assert finished.journal(body + b"\n").startswith(f"{finished.path}: line 1: no checksum")
    result = run(finished.folder, "folder", "--resume")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 1


def test_damaged_bytes(finished):
    """Whatever bytes are changed: refused, or cut off at the end, where a crash can have done it."""
    chance, cut, refused = random.Random(5), 0, 0
    for _ in range(round(600 * SCALE)):
        data = bytearray(finished.data)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(data))
            kind = chance.randrange(4)
            if kind == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                data[at] = chance.randrange(256)
            elif kind == 2:
                del data[at : at + chance.randrange(1, 30)]
            else:
                data[at:at] = data[chance.randrange(len(data)) :][: chance.randrange(1, 300)]
        if data == finished.data:
            continue
        outcome = finished.journal(bytes(data))
        if isinstance(outcome, str):
            refused += 1
        else:
            assert outcome[0] == {"job": finished.job, "moved": []}
            assert outcome[1:] == finished.entries[1 : len(outcome)]
            cut += 1
    assert refused > cut


def test_cut_anywhere(finished):
    """A crash leaves the beginning of a manifest: what is whole counts. Of the first line nothing can be cut."""
    ends = [i + 1 for i, byte in enumerate(finished.data) if byte == ord("\n")]
    for end in range(0, len(finished.data), 17):
        outcome = finished.journal(finished.data[:end])
        lines = sum(stop <= end for stop in ends)
        assert isinstance(outcome, str) == (lines < 1)
        if lines:
            assert outcome[1:] == finished.entries[1 : min(lines, len(finished.entries) - 1)]


def test_zeros_in_the_place_of_the_last_line(finished):
    """What a disk may have after a power failure: a size that was written, and blocks that were not."""
    start = finished.data.rindex(b"\n", 0, -1) + 1
    for count in (10, len(finished.data) - start - 1):
        data = finished.data[:start] + b"\0" * count + finished.data[start + count :]
        assert finished.journal(data)[1:] == finished.entries[1:-1]


def test_lines_moved_doubled_or_taken_out(finished):
    lines = finished.data.splitlines(keepends=True)
    for i in range(1, len(lines) - 1):
        edits = (
            [*lines[:i], *lines[i + 1 :]],
            [*lines[:i], lines[i], *lines[i:]],
            [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]],
        )
        for edited in edits:
            assert "its checksum is" in finished.journal(b"".join(edited))


def test_edited_by_hand_and_resumed(finished):
    """As a user meets it: the run is refused, nothing is touched, and --overwrite begins again."""
    edited = finished.data.replace(b'"rows":', b'"rows":1', 1)
    finished.path.write_bytes(edited)
    result = run(finished.folder, "folder", "--resume")
    assert result.exit_code == 1
    assert f"{finished.path}: line 2: its checksum is" in result.stderr and "--overwrite" in result.stderr
    assert finished.path.read_bytes() == edited
    assert run(finished.folder, "folder", "--overwrite").exit_code == 3
    assert digest(finished.folder, "folder") == finished.digest


def test_a_note_never_names_a_file_elsewhere(finished, tmp_path):
    """Resuming and cleaning up touch the run's own files only."""
    other = tmp_path / "precious"
    other.write_text("x")
    for name in (str(other), f"../../{other.name}", "part-00000.jsonl/../../in.jsonl", "part-00001.jsonl"):
        outcome = finished.journal(manifest(put(finished.entries, (1, "file"), name)))
        assert "file=" in outcome and "expected" in outcome
    assert other.exists()


@pytest.mark.parametrize("target", ["y.npz", "y.npy"])
@pytest.mark.parametrize("shape", [[0], [1, 3], [1 << 40, 3], [24, 4], [24, 2]])
def test_noted_shapes_are_those_of_the_shards(finished, target, shape):
    """A shape with the right checksums that is not that of the shard's array."""
    options = ("--shard-rows", "80", "--max-errors", "any") if target == "y.npz" else ("--max-errors", "0")
    source = finished.folder / "good.jsonl"
    source.write_text("".join('{"id": "a", "tokens": [1, 2, 3]}\n' * 200))
    arguments = ["run", str(finished.folder / "m.safetensors"), "-i", str(source), "-o", str(finished.folder / target)]
    arguments += [*options, "--shard-rows", "80"]

    def invoke(*more):
        return CliRunner().invoke(application, [*arguments, *more], prog_name="rnncore")

    remove, Journal.remove = Journal.remove, lambda self: None
    try:
        assert invoke().exit_code == 0
    finally:
        Journal.remove = remove
    whole = (finished.folder / target).read_bytes()
    path = finished.folder / f"{target}.parts" / MANIFEST
    entries = [{k: v for k, v in json.loads(text).items() if k != "check"} for text in path.read_bytes().splitlines()]
    path.write_bytes(manifest(put(entries, (1, "shapes", "fc"), shape)))
    result = invoke("--resume")
    assert result.exit_code == 1 and "expected" in result.stderr and len(result.stderr.splitlines()) == 1, result.output
    assert (finished.folder / target).read_bytes() == whole
