"""Data files -> the arrays of a model's inputs.

    .npy    the array of the one required input, as the model takes it, (B, T, I)
    .npz    arrays by input name, lengths and mask among them; an array saved without a name is the one input
    .csv    rows are the time steps of one sequence, or of several with a sequence column

Arrays come through rnncore.formats, which reads no pickle. Files are read, not mapped: a mapped file that somebody
shortens kills the process.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rnncore.errors import InputError
from rnncore.formats import read_checkpoint
from rnncore.spec import Input, Spec

__all__ = ["SUFFIXES", "Given", "lengths_name", "read_inputs", "read_lengths"]

SUFFIXES = (".npy", ".npz", ".csv")
UNNAMED = "arr_0"  # what np.savez calls an array that was given no name
NUMBER = re.compile(
    r"\s*[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|nan|inf|infinity)\s*", re.IGNORECASE | re.ASCII
)
WHOLE = re.compile(r"\s*[+-]?\d{1,18}\s*", re.ASCII)


@dataclass(frozen=True)
class Given:
    """Arrays by the name of the input. Of a .csv with several sequences: their column's name, and their own."""

    arrays: dict[str, np.ndarray]
    column: str = ""
    labels: tuple[str, ...] = field(default=())


def read_inputs(path: str, spec: Spec, columns: Sequence[str] = (), sequence_column: str | None = None) -> Given:
    """The inputs in a data file, in the file's dtypes; their shapes are not checked here, but for a .csv.

    Raises InputError and FormatError, naming the file and the place in it.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".csv":
        try:
            return _read_csv(path, spec, columns, sequence_column)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}")
    tensors = _read_arrays(path)
    if suffix == ".npy" or list(tensors) == [UNNAMED]:
        try:
            (array,) = tensors.values()
        except ValueError:
            raise InputError(f"{path}: {len(tensors)} arrays, expected one in a .npy file") from None
        return Given({_only_input(spec, f"{path}, which names no input,").name: array})
    return Given(tensors)


def lengths_name(spec: Spec) -> str:
    """The model's input for lengths. InputError where there is none, or more than one."""
    names = {node.lengths for node in spec.recurrent} & {entry.name for entry in spec.inputs}
    if len(names) != 1:
        found = f"several inputs for lengths ({', '.join(sorted(names))})" if names else "no input for lengths"
        raise InputError(f"the model has {found}, expected one")
    return names.pop()


def read_lengths(given: str) -> np.ndarray:
    """The lengths in FILE.npy or FILE.npz:NAME, as they stand there."""
    path, separator, key = given.rpartition(":")
    if not separator or Path(path).suffix.lower() != ".npz":
        path, key = given, ""
    tensors = _read_arrays(path)
    if not key and len(tensors) > 1:
        raise InputError(f"{path}: holds {', '.join(tensors)}, expected --lengths {path}:NAME")
    if key and key not in tensors:
        raise InputError(f"{path}: no array {key!r}, expected one of {', '.join(tensors)}")
    return tensors[key or next(iter(tensors))]


def _read_arrays(path: str) -> dict[str, np.ndarray]:
    checkpoint = read_checkpoint(path)
    if checkpoint.format not in ("npy", "npz"):
        raise InputError(f"{path}: a {checkpoint.format} file, expected .npy or .npz")
    if checkpoint.skipped:
        name, reason = checkpoint.skipped[0]
        raise InputError(f"{path}: {name}: {reason}")
    return checkpoint.tensors


def _only_input(spec: Spec, what: str) -> Input:
    required = [entry for entry in spec.inputs if not entry.optional]
    if len(required) != 1:
        names = ", ".join(entry.name for entry in required)
        raise InputError(f"{what} holds one input, but the model needs {names}: expected a .npz file")
    return required[0]


def _read_csv(path: str, spec: Spec, columns: Sequence[str], sequence_column: str | None) -> Given:
    """Rows of text as sequences, padded with zeros; lengths only where sequences differ."""
    entry = _only_input(spec, "a .csv file")
    rows = _rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError("empty, expected rows of numbers")
    line, cells = first
    numbers = [NUMBER.fullmatch(cell) is not None for cell in cells]
    header = cells if columns or sequence_column is not None or not any(numbers) else None
    names = [name.strip() for name in header] if header else [str(i + 1) for i in range(len(cells))]
    label_at = None if sequence_column is None else _column(names, sequence_column)
    chosen = [_column(names, name) for name in columns] or [i for i in range(len(names)) if i != label_at]
    features = _features(entry, [names[i] for i in chosen])
    parse = _integer if entry.dtype == "int64" else _real
    sequences: dict[str, list[list[float]]] = {}
    for line, cells in rows if header else _chain(first, rows):
        if len(cells) != len(names):
            raise InputError(f"line {line}: {len(cells)} columns, expected {len(names)}")
        label = "" if label_at is None else cells[label_at]
        sequences.setdefault(label, []).append([parse(cells[i], line, names[i]) for i in chosen])
    if not sequences:
        raise InputError("no rows of numbers behind the header")
    lengths = np.array([len(sequence) for sequence in sequences.values()], np.int64)
    array = np.zeros((len(sequences), lengths.max(), features), np.int64 if entry.dtype == "int64" else np.float64)
    for row, sequence in enumerate(sequences.values()):
        array[row, : len(sequence)] = sequence
    arrays = {entry.name: _arranged(array, entry)}
    if (lengths != lengths[0]).any():
        arrays[lengths_name(spec)] = lengths
    labels = tuple(sequences) if label_at is not None else ()
    return Given(arrays, sequence_column or "", labels)


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every row that is not blank."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(f"line {reader.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"not text in UTF-8 (byte {error.object[error.start]:#04x} behind line {reader.line_num})"
            ) from None


def _chain(first, rows):
    yield first
    yield from rows


def _column(names: list[str], name: str) -> int:
    if names.count(name) != 1:
        found = "is there twice" if name in names else f"is not there, expected one of {', '.join(names)}"
        raise InputError(f"column {name!r} {found}")
    return names.index(name)


def _features(entry: Input, names: list[str]) -> int:
    """Columns that one step of the input has; InputError if there are not as many."""
    rank = 3 if entry.dtype == "float" else 2
    if len(entry.shape) != rank or entry.dtype == "bool":
        raise InputError(
            f"input {entry.name!r} is {entry.value}, which no table can hold: expected a .npy or .npz file"
        )
    wanted = entry.shape[2] if rank == 3 else 1
    if isinstance(wanted, int) and len(names) != wanted:
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        hint = ": choose with --columns" if len(names) > wanted else ""
        raise InputError(f"{len(names)} columns ({shown}), expected {wanted} for input {entry.name!r}{hint}")
    return len(names)


def _arranged(array: np.ndarray, entry: Input) -> np.ndarray:
    """(B, T, I) as the input has it: ids without I, and time first where its batch is second."""
    if entry.dtype == "int64":
        array = array[..., 0]
    return array.swapaxes(0, 1) if entry.shape[1] == "B" else array


def _real(text: str, line: int, column: str) -> float:
    if NUMBER.fullmatch(text) is None:
        raise InputError(f"line {line}, column {column}: {text[:60]!r} is not a number")
    return float(text)


def _integer(text: str, line: int, column: str) -> int:
    if WHOLE.fullmatch(text) is None:
        raise InputError(f"line {line}, column {column}: {text[:60]!r} is not a whole number")
    return int(text)
