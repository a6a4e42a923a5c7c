"""ONNX files: bytes -> Spec and Weights."""

from __future__ import annotations

from rnncore.errors import UnsupportedError
from rnncore.formats._cursor import Cursor
from rnncore.formats.graph_format import Listing
from rnncore.formats.native import NativeFile

__all__ = ["listing", "read"]


def read(cursor: Cursor) -> NativeFile:
    raise UnsupportedError(f"{cursor.place}: ONNX is not read yet")


def listing(cursor: Cursor) -> Listing:
    raise UnsupportedError(f"{cursor.place}: ONNX is not read yet")
