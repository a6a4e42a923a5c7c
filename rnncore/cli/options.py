"""Options that several commands have, and what they check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rnncore.errors import InputError, SpecError
from rnncore.files.strict_json import read_json

__all__ = ["check_place", "dtype_option", "names_option", "read_names", "read_vocabulary", "spec_option"]

spec_option = click.option(
    "--spec",
    metavar="FILE.json",
    help="What the network is, for bare weights; `rnncore inspect FILE --spec` writes a first one.",
)
names_option = click.option(
    "--names",
    metavar="FILE.json",
    help='Where names differ: an object {"node or weight of the spec": "name in the file"}.',
)
dtype_option = click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    help="What the model computes in; if not given, what the file does.",
)


def check_place(path: Path) -> None:
    """InputError if the directory of a file to be written does not exist, or the file is a directory."""
    if not path.parent.is_dir():
        raise InputError(f"{path}: directory {str(path.parent)!r} does not exist")
    if path.is_dir():
        raise InputError(f"{path}: a directory, expected the name of a file")


def read_names(path: str | None) -> dict[str, str] | None:
    """The object in a --names file. SpecError naming the file if it is anything else."""
    names = _read_object(path, "names", '{"lstm": "model.encoder.rnn"}')
    if names is not None and not all(isinstance(name, str) for name in names.values()):
        raise SpecError(f'{path}: expected an object like {{"lstm": "model.encoder.rnn"}}')
    return names


def read_vocabulary(path: str | None) -> dict[str, Any] | None:
    """The object in a --vocabulary file. SpecError naming the file if it is anything else."""
    return _read_object(path, "tokens", '{"ids": ["<s>", "a", "b"]}')


def _read_object(path: str | None, what: str, example: str) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}, expected a JSON file with {what}") from None
    content = read_json(text, path, SpecError)
    if not isinstance(content, dict):
        raise SpecError(f"{path}: expected an object like {example}")
    return content
