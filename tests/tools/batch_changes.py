"""Change the input of a run at a random moment, and see that nothing is lost: batch_changes.py --count 100

Whatever the exit code says is true: 0 or 3 (done) only with every row of the input as it was, or as it is now; 65 with
shards that are kept, and with the input put back the run goes on to the bytes of an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
from batch_kills import IDS, SHARD_ROWS, child, outcome, tagger

from rnncore.batch.readers import arrays, lines, tables

ROWS, FILES = 200, 3
BAD = (44, 199)
SOURCES = ("jsonl", "csv", "npy", "npz", "parquet", "arrow", "files")
TARGETS = ("y.jsonl", "folder", "y.npz")
DONE, CHANGED = 3, 65
# Files are read so many rows at a time, and a .csv is not gathered, so that there is something left to change.
SMALL = [
    (arrays, "CHUNK_ROWS", 16),
    (lines, "CHUNK_ROWS", 16),
    (tables, "CHUNK_ROWS", 16),
    (lines, "GATHERED_BYTES", 1000),
]


class Place:
    """A folder with a model and the same rows in files of every kind."""

    def __init__(self, folder: Path):
        self.folder = folder
        tagger(folder / "m.safetensors")

    def path(self, kind: str) -> Path:
        return self.folder / ("files" if kind == "files" else f"in.{kind}")

    def last(self, kind: str) -> Path:
        """The file that is read last."""
        return self.path(kind) / f"{FILES - 1}.jsonl" if kind == "files" else self.path(kind)

    def reset(self, kind: str) -> None:
        self.clear()
        self.make(kind)

    def make(self, kind: str, first: int = 3) -> None:
        """Files with the rows; the first one begins with ``first``."""
        random_ = np.random.default_rng(1)
        rows = [random_.integers(0, IDS, random_.integers(1, 24)) for _ in range(ROWS)]
        for row in BAD:
            rows[row] = np.array([IDS])
        rows[0] = np.array([first, 5, 9])
        path = self.path(kind)
        texts = [json.dumps({"id": f"s{i}", "tokens": row.tolist()}) + "\n" for i, row in enumerate(rows)]
        if kind == "files":
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            for number in range(FILES):
                text = "".join(texts[number * ROWS // FILES : (number + 1) * ROWS // FILES])
                (path / f"{number}.jsonl").write_text(text)
        elif kind == "jsonl":
            path.write_text("".join(texts))
        elif kind == "csv":
            path.write_text("s,tokens\n" + "".join(f"s{i},{word}\n" for i, row in enumerate(rows) for word in row))
        elif kind == "npy":
            np.save(path, np.array([[*row, *[0] * (24 - len(row))] for row in rows], np.int64))
        elif kind == "npz":
            np.savez(path, tokens=np.concatenate(rows), lengths=[len(row) for row in rows])
        else:
            names = [f"s{i}" for i in range(ROWS)]
            table = pa.table({"id": names, "tokens": pa.array([row.tolist() for row in rows], pa.list_(pa.int32()))})
            if kind == "parquet":
                pq.write_table(table, path, row_group_size=60, use_dictionary=False, compression="none")
            else:
                with ipc.new_file(path, table.schema) as file:
                    file.write_table(table, max_chunksize=16)

    def clear(self) -> None:
        """No results."""
        for path in self.folder.iterdir():
            if path.name.startswith(("y.", "folder", ".y.")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def words(self, kind: str, target: str, *more: str) -> list[str]:
        place = target if target == "-" else str(self.folder / target)
        to = ["--to", "jsonl"] if target == "folder" else []
        sequence = ["--sequence-column", "s"] if kind == "csv" else []
        given = ["-i", str(self.path(kind)), "-o", place, *to, *sequence]
        return [
            *("run", str(self.folder / "m.safetensors"), *given),
            *("--shard-rows", str(SHARD_ROWS), "--max-errors", "any", "--threads", "1", *more),
        ]

    def parts(self, target: str) -> dict[Path, bytes]:
        """The finished shards."""
        folder = self.folder / (target if target == "folder" else f"{target}.parts")
        return {path: path.read_bytes() for path in sorted(folder.glob("part-*"))}

    def digest(self, target: str) -> list[tuple[str, bytes]]:
        """Names and bytes of the results; a manifest has the stamps of the input too, which are others every time."""
        assert (self.folder / target).exists()
        found = [
            path
            for path in self.folder.rglob("*")
            if path.relative_to(self.folder).parts[0].startswith(("y.", "folder"))
        ]
        return sorted(
            (str(path.relative_to(self.folder)), path.read_bytes())
            for path in found
            if path.is_file() and path.name != "_manifest.jsonl"
        )


def shrinks(path: Path, chance: random.Random) -> Path:
    """At the end of a line, where there are lines: nothing is damaged, there only are fewer rows."""
    data = path.read_bytes()
    cut = data.rindex(b"\n", 0, len(data) * 3 // 4) + 1 if path.suffix in (".jsonl", ".csv") else len(data) * 3 // 4
    os.truncate(path, cut)
    return path


def grows(path: Path, chance: random.Random) -> Path:
    with open(path, "ab") as file:
        file.write(path.read_bytes()[-40:])
    return path


def rewritten(path: Path, chance: random.Random) -> Path:
    """Other bytes in the same place, as many, and the time of before."""
    before = os.stat(path)
    data = bytearray(path.read_bytes())
    digits = [i for i in range(len(data) // 2, len(data)) if data[i] in b"12345"]
    if path.suffix == ".csv":  # not in the names of sequences
        digits = [i for i in digits if data[i - 1] == ord(",")]
    for place in chance.sample(digits, min(len(digits), 20)):
        data[place] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


def replaced(path: Path, chance: random.Random) -> Path:
    """By another file, as editors and downloads do it."""
    copy = path.with_name(f".{path.name}")
    copy.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 4])
    os.replace(copy, path)
    return path


def vanishes(path: Path, chance: random.Random) -> Path:
    path.unlink()
    return path


def touched(path: Path, chance: random.Random) -> Path:
    os.utime(path)
    return path


def appears(path: Path, chance: random.Random) -> Path:
    new = path.with_name(f"{chance.choice('0159')}x.jsonl")
    new.write_text('{"id": "new", "tokens": [1]}\n')
    return new


def first_changes(path: Path, chance: random.Random) -> Path:
    """A file that has been read already."""
    return rewritten(path.with_name("0.jsonl"), chance)


CHANGES = {
    found.__name__: found for found in (shrinks, grows, rewritten, replaced, vanishes, touched, appears, first_changes)
}


def changes(kind: str) -> list[str]:
    """Those that can be made to a source of this kind."""
    return [name for name in CHANGES if kind == "files" or name not in ("appears", "first_changes")]


def begun(arguments: list[str]) -> int:
    """The process of a run that reads in small pieces."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
    for module, name, value in SMALL:
        setattr(module, name, value)
    try:
        return child(arguments)
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def undisturbed(place: Place, kind: str, target: str) -> tuple[list[tuple[str, bytes]] | None, int]:
    """What a run gives that nobody disturbs, and its exit code."""
    place.clear()
    code = outcome(begun(place.words(kind, target)))
    return (place.digest(target) if code == DONE else None), code


def trial(place: Place, number: int, chance: random.Random) -> bool:
    """Whether the change was made while the run was there to notice it."""
    kind = SOURCES[number % len(SOURCES)]
    change = chance.choice(changes(kind))
    target = chance.choice(TARGETS)
    place.reset(kind)
    begin = time.monotonic()
    expected, code = undisturbed(place, kind, target)
    seconds = time.monotonic() - begin
    what = f"trial {number}: {kind}, {change}, {target}"
    assert code == DONE, f"{what}: exit code {code}"
    place.clear()
    process = begun(place.words(kind, target))
    time.sleep(chance.uniform(0, seconds))
    CHANGES[change](place.last(kind), chance)
    code = outcome(process)
    noticed = code == CHANGED
    if code == DONE:
        found = place.digest(target)  # of before, or of what was there before it began
        assert found in (expected, undisturbed(place, kind, target)[0]), f"{what}: done, with other rows"
        return False
    if not noticed:  # damaged, or not there, when it began
        assert code == 1, f"{what}: exit code {code}"
        return False
    kept = place.parts(target)
    if chance.random() < 0.3:  # nobody puts it back
        resumed = outcome(begun(place.words(kind, target, "--resume")))
        assert resumed in (1, DONE, CHANGED), f"{what}: exit code {resumed} of a run that was resumed"
        assert resumed == DONE or kept.items() <= place.parts(target).items(), f"{what}: finished shards are lost"
        if resumed == DONE:
            found = place.digest(target)
            assert found == undisturbed(place, kind, target)[0], f"{what}: resumed with other rows"
        return noticed
    place.make(kind)
    resumed = outcome(begun(place.words(kind, target, "--resume")))
    assert resumed == DONE, f"{what}: exit code {resumed} with the input as it was"
    assert place.digest(target) == expected, f"{what}: resumed to other bytes"
    return noticed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="trials")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    noticed = 0
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name))
        for number in range(asked.count):
            noticed += trial(place, number, random.Random(f"{asked.seed} {number}"))
            if number % 50 == 49:
                print(f"{number + 1} trials, {noticed} noticed", flush=True)
    print(f"{asked.count} changes, {noticed} noticed by the run: no row was lost, none is wrong")
    if not noticed:
        sys.exit("no change came in time")


if __name__ == "__main__":
    main()
