"""The weights that modules compute with, from a checkpoint that holds them in parts or packed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rnncore.formats.checkpoint import KERAS_WEIGHTS, Checkpoint
from rnncore.formats.torch.parametrizations import fold, parts_of
from rnncore.formats.torch.quantized import unpack
from rnncore.graph.spec import Spec

__all__ = ["PlainWeights", "plain_weights"]


@dataclass(frozen=True)
class PlainWeights:
    """tensors by the names of plain modules; of those that the file has otherwise, the names there; and notes."""

    tensors: dict[str, np.ndarray]
    made_of: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def plain_weights(checkpoint: Checkpoint, spec: Spec | None = None) -> PlainWeights:
    """Quantized weights unpacked, and parametrized ones computed. spec as for unpack.

    Raises UnsupportedError and WeightError for weights that cannot be computed from what the file holds.
    """
    if checkpoint.format == KERAS_WEIGHTS:
        from rnncore.formats.keras.weights import keras_plain  # whose package pyfive is an extra

        return PlainWeights(*keras_plain(checkpoint), ())
    tensors, renamed, quantized = unpack(checkpoint, spec)
    made_of: dict[str, tuple[str, ...]] = {name: (old,) for name, old in renamed.items()}
    made_of.update({name: tuple(parts.values()) for name, parts in parts_of(tensors).items()})
    tensors, notes = fold(tensors)
    return PlainWeights(tensors, made_of, ((quantized,) if quantized else ()) + notes)
