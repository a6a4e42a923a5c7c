"""Weight files -> arrays, without any framework, and without trusting the file.

    checkpoint.py        Checkpoint: the tensors of a file by name, their dtypes, what was skipped, metadata
    torch_file.py        torch.save's zip and older stream (.pt, .pth, .bin)
    safetensors_file.py  safetensors
    npz_file.py          numpy's .npz and .npy
    native.py            rnncore's own file, a safetensors file with a Spec
    torch_names.py, gates.py, keras_layers.py  from a framework's names and layouts to ours
    _cursor.py           the only reader of untrusted bytes
    _zip.py              zip archives, never extracted
    _pickle.py           pickles as data: nothing imported, nothing called
    _arrays.py           dtypes, and bytes -> arrays
    _foreign.py          what a file of another format seems to be

``read_checkpoint(path)`` chooses by content, never by the name of the file. A new format is one file and one line of
FORMATS.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rnncore.formats import npz_file, safetensors_file, torch_file
from rnncore.formats._cursor import Cursor, low_level_errors, open_cursor
from rnncore.formats._foreign import refuse, refuse_zip
from rnncore.formats._zip import Archive
from rnncore.formats.checkpoint import Checkpoint, Skipped

__all__ = ["FORMATS", "Checkpoint", "Format", "Skipped", "read_checkpoint"]

HEAD = 512
ZIP = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Format:
    """One file format: how to recognise it by its first bytes or, in a zip archive, by its members; and its reader.

    ``read`` is given the open file; for a zip format also its Archive.
    """

    name: str
    read: Callable[..., Checkpoint]
    by_head: Callable[[bytes], bool] | None = None
    by_members: Callable[[Iterable[str]], bool] | None = None


FORMATS = (
    Format("torch zip", torch_file.read_zip, by_members=torch_file.is_zip),
    Format("torch stream", torch_file.read_stream, by_head=torch_file.is_stream),
    Format("safetensors", safetensors_file.read_open, by_head=safetensors_file.looks_like),
    Format("npz", npz_file.read_npz, by_members=npz_file.is_npz),
    Format("npy", npz_file.read_npy, by_head=lambda head: head.startswith(npz_file.MAGIC)),
)


def read_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The tensors of a weight file, of whichever format in FORMATS its content is.

    The arrays are read-only and in memory: the file is closed afterwards and may be changed. Raises FormatError for a
    damaged or malicious file and for what is no regular file, UnsupportedError for a format or dtype that is not read.
    """
    with open_cursor(path) as cursor, low_level_errors(cursor.place):
        head = cursor.slice(0, min(HEAD, len(cursor))).bytes(min(HEAD, len(cursor)))
        expected = ", ".join(entry.name for entry in FORMATS)
        if head.startswith(ZIP):
            return _read_zip(cursor, Archive(cursor), expected)
        for entry in FORMATS:
            if entry.by_head is not None and entry.by_head(head):
                return entry.read(cursor)
        raise refuse(cursor.place, head, expected)


def _read_zip(cursor: Cursor, archive: Archive, expected: str) -> Checkpoint:
    for entry in FORMATS:
        if entry.by_members is not None and entry.by_members(archive.members):
            return entry.read(cursor, archive)
    raise refuse_zip(cursor.place, archive.members, expected)
