"""Data files -> rows, forwards and some at a time, so that memory does not grow with the file.

    base.py    what is asked of a file, what it gives
    arrays.py  .npy, .npz
    lines.py   .jsonl, .csv
    tables.py  .parquet, .arrow, .feather

What a file is, its name says (or the caller): a .csv has no other sign.
"""

from collections.abc import Callable
from typing import Any

from rnncore.batch.readers.arrays import NpyReader, NpzReader
from rnncore.batch.readers.base import FileRows, Reader, ReadOptions
from rnncore.batch.readers.lines import CsvReader, JsonlReader
from rnncore.batch.readers.tables import ArrowReader, ParquetReader

__all__ = ["READERS", "FileRows", "ReadOptions", "Reader"]

READERS: dict[str, Callable[..., Any]] = {
    "npy": NpyReader,
    "npz": NpzReader,
    "csv": CsvReader,
    "jsonl": JsonlReader,
    "parquet": ParquetReader,
    "arrow": ArrowReader,
    "feather": ArrowReader,
}
