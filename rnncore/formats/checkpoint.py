"""Checkpoint: what a weight file holds, whatever its format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rnncore.files.cursor import shown

__all__ = ["KERAS_WEIGHTS", "QUANTIZED", "Checkpoint", "Skipped", "SkippedList"]

MAX_SKIPPED = 1000
KERAS_WEIGHTS = "Keras weights"
QUANTIZED = "computed in float32 from quantized weights, and unlike in PyTorch no input is quantized: "
"""The beginning of the note that a model has of such weights."""


class Skipped(NamedTuple):
    """Something in a file that was not read: its dotted path, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one file, by name, in file order.

    path           the file
    format         "torch zip", "torch stream", "TorchScript", "safetensors", "sharded", "npz", "npy" or
                   "Keras weights"
    tensors        name -> read-only array in native byte order; arrays that shared memory in the file still do
    source_dtypes  name -> dtype in the file, such as "bfloat16" where the array is float32
    skipped        what was not read; at most 1000 entries and a last one that counts the rest
    metadata       text next to the tensors: safetensors' metadata; in torch files plain values by dotted name
                   ("hyper_parameters.hidden_size": "256") and classes ("lstm.__class__": "torch.nn.modules.rnn.LSTM")
    """

    path: str
    format: str
    tensors: dict[str, np.ndarray]
    source_dtypes: dict[str, str] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = sum(array.nbytes for array in self.tensors.values())
        return f"<Checkpoint {self.path!r}: {self.format}, {len(self.tensors)} tensors, {size:,} bytes>"


class SkippedList:
    """Collects what was skipped: at most 1000 entries and one that counts the others."""

    def __init__(self):
        self.entries: list[Skipped] = []
        self._count = 0

    def add(self, path: Callable[[], str], reason: str) -> None:
        """``path`` is called only if its answer is kept."""
        self._count += 1
        if self._count <= MAX_SKIPPED:
            self.entries.append(Skipped(shown(path()), reason))
        else:
            self.entries[MAX_SKIPPED:] = [Skipped("", f"and {self._count - MAX_SKIPPED} more")]
