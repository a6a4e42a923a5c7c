"""Weights in several files with an index of names, as Hugging Face's libraries save large models.

    model.safetensors.index.json, pytorch_model.bin.index.json
        {"metadata": {...}, "weight_map": {"tensor's name": "file's name", ...}}

Every file is in the directory of the index, is a regular one reached without symbolic links, and is read by the reader
of its own format; each tensor has to be in the file that the index names.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from rnncore.errors import FormatError
from rnncore.files.cursor import Cursor, shown
from rnncore.files.strict_json import read_json
from rnncore.formats._arrays import MAX_TENSORS, check_name
from rnncore.formats.checkpoint import Checkpoint

__all__ = ["INDEX_NAMES", "looks_like", "read_open"]

INDEX_NAMES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MAX_INDEX = 64 << 20
MAX_SHARDS = 1000


def looks_like(head: bytes) -> bool:
    """Whether these first bytes are an index's: JSON that has one of its two keys early."""
    return head.lstrip()[:1] == b"{" and (b'"weight_map"' in head or b'"total_size"' in head)


def read_open(cursor: Cursor, read_part: Callable[[Cursor], Checkpoint]) -> Checkpoint:
    """The tensors of all files that an index names, in its order; ``read_part`` reads one of these files."""
    from rnncore.formats.onnx.external import ExternalData  # not for files that are whole

    place = cursor.place
    shards = _shards(cursor)
    tensors, dtypes, skipped, metadata = {}, {}, [], {}
    directory = ExternalData(place if cursor.on_disk else None)
    for file, names in shards.items():
        with directory.open(file, place) as opened, os.fdopen(os.dup(opened), "rb") as stream:
            part = read_part(Cursor(stream, os.path.join(os.path.dirname(place), file)))
        for name in names:
            if name not in part.tensors:
                raise FormatError(f"{place}: weight_map: {shown(name)!r} is not in {shown(file)!r}")
            tensors[name] = part.tensors[name]
            if name in part.source_dtypes:
                dtypes[name] = part.source_dtypes[name]
        skipped += part.skipped
        metadata.update(part.metadata)
    return Checkpoint(place, "sharded", tensors, dtypes, skipped, metadata)


def _shards(cursor: Cursor) -> dict[str, list[str]]:
    """File -> the names of its tensors."""
    place = cursor.place
    if len(cursor) > MAX_INDEX:
        raise FormatError(f"{place}: {len(cursor)} bytes, expected at most {MAX_INDEX}")
    cursor.seek(0)
    index = read_json(cursor.bytes(len(cursor)), place)
    mapped = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(mapped, dict) or not mapped:
        raise FormatError(f"{place}: no weight_map, expected an object of tensors and the files that hold them")
    if len(mapped) > MAX_TENSORS:
        raise FormatError(f"{place}: {len(mapped)} tensors, expected at most {MAX_TENSORS}")
    shards: dict[str, list[str]] = {}
    for name, file in mapped.items():
        check_name(name, place)
        if not isinstance(file, str) or "/" in file or "\\" in file:
            raise FormatError(
                f"{place}: weight_map: {shown(name)!r} is in {shown(str(file))!r}, "
                "expected a file in the same directory"
            )
        shards.setdefault(file, []).append(name)
        if len(shards) > MAX_SHARDS:
            raise FormatError(f"{place}: more than {MAX_SHARDS} files")
    return shards
