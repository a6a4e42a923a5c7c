"""kill -9 at random moments of a run, resume, and compare every byte: python tests/tools/batch_kills.py --count 200

The run is a child made by fork, so that it begins with its work and not with imports. Of each trial the child is
killed up to four times before it may finish. Nothing of the result may differ from that of a run that was left alone.

    plain      nothing else happens
    moved      the input is a folder, and between the kills one of its files is replaced by its copy: other times and
               another inode, so what is finished is read once more
    overwrite  a run with other options was killed in the same place, and its leftovers are overwritten
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.cli.application import application

ROWS, SHARD_ROWS, IDS = 400, 20, 30
TARGETS = ("folder", "y.jsonl", "y.npz", "y.csv")
KINDS = ("plain", "moved", "overwrite")
FILES = 3  # of the folder of inputs
INPUTS = ("m.safetensors", "in.jsonl", "in")
MOST_KILLS = 4


def tagger(path: Path) -> None:
    """A small ragged model in rnncore's own file."""
    spec = Spec(
        [Input("tokens", "int64", ("B", "T"))],
        [
            Node("embed", "Embedding", "tokens", {"input_size": IDS, "output_size": 8}),
            Recurrent("gru", GRU(8, 16), "embed", direction="bidirectional"),
            Node("fc", "Linear", "gru", {"input_size": 32, "output_size": 3}),
        ],
        ["fc"],
    )
    random_ = np.random.default_rng(0)
    weights = {name: random_.standard_normal(shape) for name, shape in spec.weight_shapes().items()}
    rnncore.save(path, rnncore.Model(spec, weights))


def sequences(path: Path, rows: int = ROWS, bad: tuple[int, ...] = ()) -> list[list[int]]:
    """Rows of ids in a .jsonl; bad ones have an id that the model does not know."""
    random_ = np.random.default_rng(1)
    found = [random_.integers(0, IDS, random_.integers(0, 24)).tolist() for _ in range(rows)]
    for row in bad:
        found[row] = [IDS]
    path.write_text("".join(json.dumps({"id": f"s{i}", "tokens": row}) + "\n" for i, row in enumerate(found)))
    return found


def words(folder: Path, target: str, *more: str, source: str = "in.jsonl") -> list[str]:
    to = ["--to", "jsonl"] if target == "folder" else []
    place = [str(folder / target), *to, "--shard-rows", str(SHARD_ROWS), "--max-errors", "any"]
    return ["run", str(folder / "m.safetensors"), "-i", str(folder / source), "-o", *place, *more]


def child(arguments: list[str]) -> int:
    """A process that runs a command line; its id."""
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        application.main(arguments, prog_name="rnncore")
    except SystemExit as error:
        code = error.code
    finally:
        os._exit(code if isinstance(code, int) else 1)


def outcome(process: int) -> int:
    """The exit code of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def digest(folder: Path, target: str) -> str:
    """Of every name and byte that a run left, but for its inputs."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).parts[0] not in INPUTS:
            found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    assert (folder / target).exists()
    return found.hexdigest()


def prepare(folder: Path) -> None:
    tagger(folder / "m.safetensors")
    sequences(folder / "in.jsonl", bad=(3, 44, 45, 399))
    (folder / "in").mkdir()
    lines = (folder / "in.jsonl").read_bytes().splitlines(keepends=True)
    for number in range(FILES):
        (folder / "in" / f"{number}.jsonl").write_bytes(
            b"".join(lines[number * ROWS // FILES : (number + 1) * ROWS // FILES])
        )


def clear(folder: Path) -> None:
    """Only the inputs are left, the same files: their times are part of a manifest."""
    for path in folder.iterdir():
        if path.name not in INPUTS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def undisturbed(folder: Path, target: str, source: str = "in.jsonl") -> tuple[str, float]:
    """(digest, seconds) of a run that nobody stops."""
    clear(folder)
    begin = time.monotonic()
    code = outcome(child(words(folder, target, source=source)))
    assert code == 3, f"exit code {code}"  # done, with bad rows left out
    return digest(folder, target), time.monotonic() - begin


def killed(arguments: list[str], seconds: float) -> int:
    """The exit code of a run that is killed after so long, if it is still there."""
    process = child(arguments)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return outcome(process)


def replace(path: Path) -> None:
    """Puts a copy in the place of a file."""
    copy = path.with_name(f".{path.name}")
    shutil.copyfile(path, copy)
    os.replace(copy, path)


def trial(folder: Path, target: str, seconds: float, chance: random.Random, kind: str = "plain") -> int:
    """Kills and resumes until a run is done; how many kills found it alive."""
    clear(folder)
    kills, code = 0, -signal.SIGKILL
    source, how = ("in" if kind == "moved" else "in.jsonl"), "--resume"
    if kind == "overwrite":
        kills += killed(words(folder, target, "--batch-size", "7"), chance.uniform(0, seconds)) == code
        how = "--overwrite"
    for _ in range(MOST_KILLS):
        code = killed(words(folder, target, how, source=source), chance.uniform(0, seconds))
        if code != -signal.SIGKILL:
            break
        kills += 1
        if kind == "moved":
            replace(folder / "in" / f"{chance.randrange(FILES)}.jsonl")
        elif kind == "overwrite":  # what is there now may be of either run
            how = chance.choice(("--resume", "--overwrite"))
    else:
        code = outcome(child(words(folder, target, how, source=source)))
    if code == 1 and kind == "overwrite" and how == "--resume":  # refused: of the run that was there before
        code = outcome(child(words(folder, target, "--overwrite", source=source)))
    assert code == 3, f"exit code {code}"
    return kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="trials")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    kills = dict.fromkeys(KINDS, 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        expected = {target: undisturbed(folder, target) for target in TARGETS}
        for number in range(asked.count):
            target, kind = TARGETS[number % len(TARGETS)], KINDS[number // len(TARGETS) % len(KINDS)]
            kills[kind] += trial(folder, target, expected[target][1], chance, kind)
            result = digest(folder, target)
            if result != (undisturbed(folder, target, "in") if kind == "moved" else expected[target])[0]:
                sys.exit(f"trial {number} (seed {asked.seed}): {target} differs from that of an undisturbed run")
    done = ", ".join(f"{count} {kind}" for kind, count in kills.items())
    print(f"{asked.count} trials, {sum(kills.values())} kills ({done}): all results are those of undisturbed runs")


if __name__ == "__main__":
    main()
