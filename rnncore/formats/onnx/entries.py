"""Entries: the meaning of each name of an ONNX file while its graph becomes a Spec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rnncore.errors import FormatError
from rnncore.formats.onnx.file import OnnxNode

__all__ = ["Entry", "Items", "Known", "Layers", "Missing", "OpCall", "Stacked"]


class Missing(FormatError):
    """A value that no node gave: where problems are collected, because it is not supported."""


@dataclass(frozen=True)
class Known:
    """A constant, in the dtype that the file has."""

    array: np.ndarray


@dataclass(frozen=True)
class Layers:
    """The sequence of a recurrent node as ONNX has it, with an axis of directions, which the Spec's value has not.

    base    the Spec's value, (T, B, D*H) or (B, T, D*H)
    axes    the letter of each axis, in order: T, B, D, H
    order   the letters of the base: "TB" or "BT"
    """

    base: str
    axes: str
    order: str
    directions: int
    hidden: int

    def with_axes(self, axes: str) -> Layers | str:
        """The same sequence with other axes; the base itself where those are the base's."""
        return self.base if axes == self.order + "H" else replace(self, axes=axes)


@dataclass(frozen=True)
class Items:
    """A sequence of tensors, whose length the file tells: names of the file."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Stacked:
    """A sequence whose items are the slices along one axis of a value of the Spec.

    kept    whether each item keeps that axis, of size 1
    """

    value: str
    axis: int
    kept: bool


Entry = Known | Layers | Items | Stacked | str
"""A string is the name of a value of the Spec."""


@dataclass(frozen=True)
class OpCall:
    """A node of the newest opset with its inputs looked up and its attributes as rnncore's ops have them.

    inputs   names of the file, "" for an absent one; none absent at the end
    entries  what the inputs stand for; None for an absent one
    """

    node: OnnxNode
    inputs: Sequence[str]
    entries: Sequence[Entry | None]
    attributes: Mapping[str, Any]

    @property
    def output(self) -> str:
        return self.node.outputs[0]

    def array(self, position: int) -> np.ndarray | None:
        """An input's array; None where it is absent or not constant."""
        entry = self.entries[position] if position < len(self.entries) else None
        return entry.array if isinstance(entry, Known) else None
