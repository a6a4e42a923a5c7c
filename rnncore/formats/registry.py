"""The table of file formats, and reading a file as whichever of them its content is.

A new format is one file and one line of FORMATS, where its files hold tensors, or of GRAPH_FORMATS, where they hold
the network too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from rnncore.errors import SpecError, UnsupportedError
from rnncore.files.cursor import Cursor, InMemory, low_level_errors, open_cursor
from rnncore.files.zip_reader import Archive
from rnncore.formats import safetensors_file, sharded
from rnncore.formats._foreign import (
    is_hdf5,
    is_keras_zip,
    is_npy,
    is_npz,
    is_onnx,
    is_torch_stream,
    is_torch_zip,
    refuse,
    refuse_zip,
)
from rnncore.formats.checkpoint import Checkpoint
from rnncore.formats.graph_format import GraphFormat
from rnncore.formats.native import ModelFile

if TYPE_CHECKING:
    from rnncore.formats.listing import Listing

__all__ = [
    "FORMATS",
    "GRAPH_FORMATS",
    "Format",
    "read_checkpoint",
    "read_file",
    "read_listing",
]

HEAD = 512
ZIP = (b"PK\x03\x04", b"PK\x05\x06")


class Format(NamedTuple):
    """One file format: how to recognise it by its first bytes or, in a zip archive, by its members; and its reader.

    module and function  of rnncore.formats, imported when such a file is first met: given the open file, for a zip
                         format also its Archive
    composite            whether such a file names others that hold its tensors: the function is also given
                         ``read_part``, the reader of one of them, which may be of any format that is not composite
    """

    name: str
    module: str
    function: str
    by_head: Callable[[bytes], bool] | None = None
    by_members: Callable[[Iterable[str]], bool] | None = None
    composite: bool = False

    def read(self, cursor: Cursor, *archive: Archive) -> Checkpoint:
        function = getattr(import_module(f"rnncore.formats.{self.module}"), self.function)
        return function(cursor, *archive, read_part=_read_part) if self.composite else function(cursor, *archive)


FORMATS = (
    Format("torch zip", "torch.file", "read_zip", by_members=is_torch_zip),
    Format("torch stream", "torch.file", "read_stream", by_head=is_torch_stream),
    Format("safetensors", "safetensors_file", "read_open", by_head=safetensors_file.looks_like),
    Format("sharded", "sharded", "read_open", by_head=sharded.looks_like, composite=True),
    Format("npz", "npz_file", "read_npz", by_members=is_npz),
    Format("npy", "npz_file", "read_npy", by_head=is_npy),
)


GRAPH_FORMATS = (
    GraphFormat("ONNX", "onnx.model", by_head=is_onnx, sized=True),
    GraphFormat("Keras zip", "keras.file", by_members=is_keras_zip, layered=True),
    GraphFormat("Keras HDF5", "keras.file", by_head=is_hdf5, layered=True, bare=True),
)


def read_file(
    path: str | os.PathLike[str] | InMemory,
    sizes: Mapping[str, int] | None = None,
    layers: Mapping[str, Callable[[dict], object]] | None = None,
) -> Checkpoint | ModelFile:
    """Read a file of whichever format its content is: tensors, or for a graph file Spec and Weights.

    sizes: name of a size of the graph's inputs -> its value. layers: as for rnncore.load.

    The arrays are read-only and in memory: the file is closed afterwards and may be changed. Raises FormatError for a
    damaged or malicious file and for what is no regular file, UnsupportedError for a format, dtype or op that is not
    read.
    """
    with open_cursor(path) as cursor, low_level_errors(cursor.place):
        entry, opened = _recognise(cursor, (*FORMATS, *GRAPH_FORMATS))
        if layers and not (isinstance(entry, GraphFormat) and entry.layered):
            raise SpecError(f"{cursor.place}: {entry.name}, expected no layers: they are for Keras's files")
        if isinstance(entry, GraphFormat):
            return entry.read(*opened, sizes=sizes, layers=layers)
        return entry.read(*opened)


def read_checkpoint(path: str | os.PathLike[str] | InMemory) -> Checkpoint:
    """The tensors of a weight file, as read_file does it. UnsupportedError for a file with its network."""
    with open_cursor(path) as cursor:
        return _read_tensors(cursor, FORMATS)


def _read_part(cursor: Cursor) -> Checkpoint:
    """The tensors of one file of a composite format."""
    return _read_tensors(cursor, [entry for entry in FORMATS if not entry.composite])


def _read_tensors(cursor: Cursor, formats: Sequence[Format]) -> Checkpoint:
    """The tensors of an open file of one of these formats."""
    with low_level_errors(cursor.place):
        entry, opened = _recognise(cursor, (*formats, *GRAPH_FORMATS))
        if isinstance(entry, GraphFormat):
            checkpoint = entry.checkpoint(*opened)
            if checkpoint is not None:
                return checkpoint
            expected = ", ".join(entry.name for entry in FORMATS)
            raise UnsupportedError(f"{cursor.place}: {entry.name}, which holds a network; expected {expected}")
        return entry.read(*opened)


def read_listing(path: str | os.PathLike[str]) -> Listing | None:
    """The nodes of a graph file, whether or not rnncore can run them; None for one of weights alone."""
    with open_cursor(path) as cursor, low_level_errors(cursor.place):
        entry, opened = _recognise(cursor, (*FORMATS, *GRAPH_FORMATS))
        return entry.listing(*opened) if isinstance(entry, GraphFormat) else None


def _recognise(
    cursor: Cursor, formats: Sequence[Format | GraphFormat]
) -> tuple[Format | GraphFormat, tuple[Cursor] | tuple[Cursor, Archive]]:
    """The format that the file's content is, and what its reader takes."""
    size = min(HEAD, len(cursor))
    head = cursor.slice(0, size).bytes(size)
    expected = ", ".join(entry.name for entry in formats)
    if head.startswith(ZIP):
        archive = Archive(cursor)
        for entry in formats:
            if entry.by_members is not None and entry.by_members(archive.members):
                return entry, (cursor, archive)
        raise refuse_zip(cursor.place, archive.members, expected)
    for entry in formats:
        if entry.by_head is not None and entry.by_head(head):
            return entry, (cursor,)
    raise refuse(cursor.place, head, expected)
