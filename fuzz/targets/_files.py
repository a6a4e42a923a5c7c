"""What the readers' targets share: seeds, a file in memory, and a run of what was loaded."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from draw import Draw
from outcome import WrongResult

from rnncore.errors import RnncoreError
from rnncore.formats import Checkpoint, read_file
from rnncore.formats.loading import open_file
from rnncore.formats.native import ModelFile
from rnncore.ops import numpy_dtype
from rnncore.runtime.budget import Budget
from rnncore.runtime.model import Model

__all__ = [
    "BUDGET",
    "GOLDEN",
    "LARGEST_SEED",
    "array_of",
    "arrays_for",
    "built",
    "load_and_run",
    "read",
    "stored",
    "with_file",
]

SEEDS = Path(__file__).parents[1] / "seeds"
GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "keras"  # whole models of Keras's, small
LARGEST_SEED = 20_000
MOST_ELEMENTS = 1 << 18  # of a run's inputs
BUDGET = Budget(work=1e8, memory=64 << 20)  # of a run whose loops go as often as the file says

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None, prefix="rnncore-fuzz-")
_PATH = Path(_FOLDER.name) / "file"


def stored(target: str) -> Iterator[bytes]:
    """The seeds that are committed for a target."""
    for path in sorted((SEEDS / target).glob("*")):
        yield path.read_bytes()
    for path in sorted(SEEDS.glob(f"{target}_*.zip")):
        with zipfile.ZipFile(path) as archive:
            yield from map(archive.read, archive.namelist())


def built(cases: Mapping[str, Any], wanted: Iterable[str] = ()) -> Iterator[bytes]:
    """What the tests' builders give, but for what is large; only names that begin with one of the words wanted."""
    for name, case in cases.items():
        if wanted and not name.startswith(tuple(wanted)):
            continue
        data = case.build()
        data = data if isinstance(data, bytes) else data.SerializeToString()
        if len(data) <= LARGEST_SEED:
            yield data


def with_file(data: bytes) -> str:
    """The name of a file, always the same one, with these bytes."""
    _PATH.write_bytes(data)
    return str(_PATH)


def read(data: bytes) -> None:
    """A file of tensors: read, or refused by a message with its name."""
    path = with_file(data)
    try:
        found = read_file(path)
    except RnncoreError as error:
        if path not in str(error):
            raise WrongResult(f"a refusal without the file's name: {error}") from None
        raise
    if isinstance(found, Checkpoint):
        for name, array in found.tensors.items():
            if array.flags.writeable or not array.dtype.isnative:
                raise WrongResult(f"{name}: {array.dtype}, writable {array.flags.writeable}")
            array.sum()  # touches every byte


def load_and_run(data: bytes) -> int:
    """A file with its network: loaded and run once with small inputs. Returns the bytes that it declares."""
    path = with_file(data)
    try:
        found: ModelFile = open_file(path)
        model = Model(found.spec, found.weights, num_threads=1, budget=BUDGET)
    except RnncoreError as error:
        if path not in str(error) and "Model" not in _where(error):
            raise WrongResult(f"a refusal without the file's name: {error}") from None
        raise
    declared = 8 * sum(array.size for array in found.weights.values())
    given = arrays_for(model.spec, Draw(data[-64:]), "float32")
    if given is not None:
        model.run(given)
        declared += 16 * sum(array.nbytes for array in given.values())
    return declared


def _where(error: BaseException) -> str:
    """The names of the functions that the error came through."""
    names, trace = [], error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_qualname)
        trace = trace.tb_next
    return " ".join(names)


def arrays_for(spec: Any, draw: Draw, dtype: str, sizes: dict[str, int] | None = None) -> dict[str, np.ndarray] | None:
    """Arrays for a Spec's inputs, with a size for each name; None where the fixed sizes are large."""
    sizes, found, rng = {} if sizes is None else sizes, {}, draw.rng()
    for entry in spec.inputs:
        if entry.optional and not draw.chance(2):
            continue
        shape = []
        for size in entry.shape:
            if isinstance(size, str):
                size = sizes.setdefault(size, draw.pick((3, 2, 1, 5, 0, 8, 17)))
            shape.append(size)
        if np.prod(shape, dtype=object) > MOST_ELEMENTS:
            return None
        found[entry.name] = array_of(entry.dtype, tuple(shape), draw, rng, dtype)
    return found


def array_of(dtype: str, shape: tuple[int, ...], draw: Draw, rng: np.random.Generator, floating: str) -> np.ndarray:
    """An array of ordinary numbers, and once in a while of the dtype's odd ones."""
    kind = numpy_dtype(dtype, floating)
    if kind.kind == "b":
        return rng.random(shape) < 0.6
    if kind.kind in "iu":
        low = 0 if kind.kind == "u" or not draw.chance(3) else -3
        found = rng.integers(low, 6, shape).astype(kind)
        odd = (np.iinfo(kind).max, np.iinfo(kind).min, 0, 1)
    else:
        found = rng.uniform(-2, 2, shape).astype(kind)
        odd = (np.inf, -np.inf, np.nan, np.finfo(kind).max, np.finfo(kind).tiny, 0.0)
    if found.size and draw.chance(12):
        found.reshape(-1)[draw.below(found.size)] = draw.pick(odd)
    return laid_out(found, draw.below(8)) if draw.chance(6) else found


def laid_out(array: np.ndarray, how: int) -> np.ndarray:
    """The same numbers at another place: beside the boundaries of its dtype, backwards, in Fortran's order, spread."""
    if how == 0:
        raw = np.empty(array.nbytes + 1, np.uint8)[1:]
        found = raw.view(array.dtype).reshape(array.shape)
        found[...] = array
        return found
    if how == 1 and array.ndim:
        return array[::-1].copy()[::-1]
    if how == 2 and array.ndim:
        return np.asfortranarray(array)
    if how == 3 and array.ndim:
        return np.repeat(array, 2, axis=-1)[..., ::2]
    if how == 4:
        return array.astype(array.dtype.newbyteorder(">"))
    found = array.copy()
    found.flags.writeable = False
    return found
