"""Packed sequences of torch."""

from __future__ import annotations

from typing import Any

import torch

from rnncore.export.torch.functions.common import move_axes
from rnncore.export.torch.functions.registry import entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import Packed, Size, TracedTensor


@entry("pack_padded_sequence")
def pack_padded_sequence(g, input, lengths, batch_first=False, enforce_sorted=True):
    x, given = g.tensor(input), lengths
    if isinstance(given, (tuple, list)):
        raise refuse(g, "lengths as a list", "a tensor")
    counts = g.tensor(given)
    return Packed(x, TracedTensor(g.cast(counts, torch.int64), counts.a, counts.b), not batch_first)


@entry("pad_packed_sequence")
def pad_packed_sequence(g, sequence, batch_first=False, padding_value=0.0, total_length=None):
    """The sequence cut to the longest row, or of total_length; rnncore's own keeps the input's steps."""
    if not isinstance(sequence, Packed):
        raise refuse(g, f"{type(sequence).__name__}", "a PackedSequence")
    x = sequence.tensor
    time = 0 if sequence.time_first else 1
    name = g.name_of(x)
    origin = x.origin
    steps = g.dim(x, time)
    if total_length is not None and not _same_size(total_length, steps):
        raise refuse(g, "a total_length that is not the input's", "x.size(1), or None")
    if total_length is None:
        longest = g.emit("ReduceMax", [sequence.lengths], {"axes": (0,), "keepdims": True})
        name = g.emit("Slice", [name, "", longest], {"starts": (0,), "axes": (time,)})
        origin = None
    if padding_value:
        name = _padded(g, name, sequence, time, padding_value)
        origin = None
    if sequence.time_first == batch_first:
        name = move_axes(g, name, (1, 0, *range(2, x.ndim)))
        origin = None
    lengths = sequence.lengths
    return g.named(name, g.a[0], g.b[0], origin), lengths


def _padded(g: TraceLowering, name: str, packed: Packed, time: int, value: float) -> str:
    """Another value than 0 after each row's length."""
    size = g.emit("Shape", [name], {"start": time, "end": time + 1})
    steps = g.emit("Range", [g.scalar(0), g.emit("Squeeze", [size], {"axes": (0,)}), g.scalar(1)])
    ours, theirs = (steps, g.name_of(packed.lengths))
    rows = g.emit("Unsqueeze", [theirs], {"axes": (1 if time == 1 else 0,)})
    places = g.emit("Unsqueeze", [ours], {"axes": (0 if time == 1 else 1,)})
    valid = g.emit("Less", [places, rows])
    wide = g.emit("Unsqueeze", [valid], {"axes": tuple(range(2, packed.tensor.ndim))})
    return g.emit("Where", [wide, name, g.cast(float(value), packed.tensor.dtype)])


def _same_size(given: Any, steps: Any) -> bool:
    if isinstance(given, Size) and isinstance(steps, Size):
        return (given.a, given.b) == (steps.a, steps.b)
    return given == steps
