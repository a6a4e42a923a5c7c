"""A model's outputs -> .npy (one), .npz (any), .csv (one): written beside the target and renamed, or not at all."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rnncore import atomic
from rnncore.cli.run_inputs import SUFFIXES
from rnncore.errors import InputError
from rnncore.spec import Spec

__all__ = ["Sequences", "check_place", "check_target", "write_outputs"]

LENGTHS = "lengths"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the time of every member of a .npz: the same numbers give the same bytes


@dataclass(frozen=True)
class Sequences:
    """What is known of the rows: their lengths, and in a .csv the name of their column and their own names."""

    lengths: np.ndarray | None = None
    column: str = ""
    labels: tuple[str, ...] = ()


def check_place(path: Path) -> None:
    """InputError if the directory of a file to be written does not exist, or the file is a directory."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: directory {str(path.parent)!r} does not exist")
    if path.is_dir():
        raise InputError(f"{path}: a directory, expected the name of a file")


def check_target(target: str, spec: Spec, sources: Mapping[str, str | os.PathLike]) -> None:
    """InputError if outputs cannot be written there: wrong suffix or number of outputs, or a file that is read.

    sources are the files that are read, by what they are.
    """
    path = Path(target)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{target}: expected a name that ends in {', '.join(SUFFIXES)}")
    check_place(path)
    for what, source in sources.items():
        if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
            raise InputError(f"{target}: is the {what}, expected another file to write")
    if suffix != ".npz" and len(spec.outputs) > 1:
        names = ", ".join(spec.outputs)
        raise InputError(f"{target}: holds one output, but there are {names}: choose with --only, or write a .npz file")
    if suffix == ".csv":
        _table_axes(target, spec)


def write_outputs(target: str, spec: Spec, outputs: Mapping[str, np.ndarray], sequences: Sequences) -> None:
    """Writes outputs that check_target has let pass."""
    suffix = Path(target).suffix.lower()
    with atomic.replacing(target) as file:
        if suffix == ".npy":
            np.lib.format.write_array(file, next(iter(outputs.values())), allow_pickle=False)
        elif suffix == ".npz":
            _write_npz(file, outputs, sequences)
        else:
            _write_csv(file, target, spec, outputs, sequences)


def _write_npz(file: BinaryIO, outputs: Mapping[str, np.ndarray], sequences: Sequences) -> None:
    arrays = dict(outputs)
    if sequences.lengths is not None:
        arrays.setdefault(LENGTHS, sequences.lengths)
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_csv(
    file: BinaryIO, target: str, spec: Spec, outputs: Mapping[str, np.ndarray], sequences: Sequences
) -> None:
    """A row for each sequence, or for each step of each: [sequence,] [step,] NAME or NAME.0, NAME.1, ..."""
    ((name, array),) = outputs.items()
    batch, time = _table_axes(target, spec)
    axes = [axis for axis in (batch, time) if axis is not None]
    array = np.moveaxis(array, axes, range(len(axes)))
    array = array.reshape(*array.shape[: len(axes)], -1)
    width = array.shape[-1]
    columns = [name] if width == 1 else [f"{name}.{i}" for i in range(width)]
    labels = sequences.labels or tuple(map(str, range(len(array))))
    leading = [sequences.column or "sequence"] if sequences.labels or len(array) > 1 else []
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*leading, *(["step"] if time is not None else []), *columns])
    for row, values in enumerate(array):
        label = [labels[row]] if leading else []
        steps = values[None] if time is None else values
        count = len(steps) if time is None or sequences.lengths is None else sequences.lengths[row]
        for step, numbers in enumerate(steps[:count]):
            writer.writerow([*label, *([step] if time is not None else []), *_texts(numbers)])
    text.flush()
    text.detach()


def _texts(numbers: np.ndarray) -> Iterator[str]:
    """Each number in the fewest digits that give it back."""
    return (str(number) for number in numbers)


def _table_axes(target: str, spec: Spec) -> tuple[int, int | None]:
    """Where the only output has its batch, and its time or None. InputError for what is no table."""
    (name,) = spec.outputs
    shape = spec.values[name].shape
    times = {size for entry in spec.inputs if len(entry.shape) > 1 for size in entry.shape if isinstance(size, str)}
    named = [size for size in shape if isinstance(size, str)]
    extra = [size for size in named if size != "B"]
    if named.count("B") != 1 or len(extra) > 1 or not set(extra) <= times or len(shape) > len(named) + 1:
        raise InputError(f"{target}: output {name!r} is {spec.values[name]}, no table: expected a .npy or .npz file")
    return shape.index("B"), shape.index(extra[0]) if extra else None
