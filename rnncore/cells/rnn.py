r"""Elman RNN.

    h_t = act(W x_t + R h_{t-1} + b)

Source: Elman 1990; torch.nn.RNN, keras SimpleRNN, ONNX RNN. b is the sum of the input and recurrent biases.
Gate order: one gate, n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rnncore.cells.base import Cell, check_real, clip_to, products
from rnncore.cells.registry import register

__all__ = ["RNN"]


@register
@dataclass(frozen=True)
class RNN(Cell):
    """Elman RNN with any activation (h). clip limits the pre-activation (ONNX)."""

    clip: float | None = None

    kind: ClassVar[str] = "RNN"
    states: ClassVar[tuple[str, ...]] = ("h",)
    activation_places: ClassVar[tuple[str, ...]] = ("h",)
    default_activations: ClassVar[tuple[str, ...]] = ("tanh",)

    def __post_init__(self):
        super().__post_init__()
        if self.clip is not None:
            check_real(self, "clip", above=0.0)

    @property
    def gates(self) -> str:
        return "n"

    def step(self, w, x, state):
        (h,) = state
        return (self.activations[0](clip_to(products(w, x, h), self.clip)),)
