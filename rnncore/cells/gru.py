r"""Gated recurrent unit, reset after or before the recurrent product.

    r = act_r(W_r x + R_r h + b_r)
    z = act_z(W_z x + R_z h + b_z)
    n = act_n(W_n x + b_n + r * (R_n h + b_hn))        reset_after  (torch, Keras default, ONNX linear_before_reset=1)
    n = act_n(W_n x + b_n + R_n (r * h))               otherwise    (Cho 2014, ONNX default)
    h' = (1 - z) n + z h

Source: Cho et al. 2014; torch.nn.GRU, keras GRU, ONNX GRU. Gate order: r z n. With reset_after the recurrent
bias of n is inside the reset's product and so has a name of its own, bias_hn; all other biases are sums.
clip limits each pre-activation; with reset_after that of n is limited once, as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rnncore.cells.base import Cell, check_flag, check_real, clip_to
from rnncore.cells.registry import register

__all__ = ["GRU"]


@register
@dataclass(frozen=True)
class GRU(Cell):
    """GRU with activations (r, z, n)."""

    reset_after: bool = True
    clip: float | None = None

    kind: ClassVar[str] = "GRU"
    states: ClassVar[tuple[str, ...]] = ("h",)
    activation_places: ClassVar[tuple[str, ...]] = ("r", "z", "n")
    default_activations: ClassVar[tuple[str, ...]] = ("sigmoid", "sigmoid", "tanh")

    def __post_init__(self):
        super().__post_init__()
        check_flag(self, "reset_after")
        if self.clip is not None:
            check_real(self, "clip", above=0.0)

    @property
    def gates(self) -> str:
        return "rzn"

    def weight_shapes(self):
        shapes = super().weight_shapes()
        if self.bias and self.reset_after:
            shapes["bias_hn"] = (self.hidden_size,)
        return shapes

    def step(self, w, x, state):
        (h,) = state
        act_r, act_z, act_n = self.activations
        w_r, w_z, w_n = np.split(np.asarray(w["weight_ih"], np.float64), 3)
        r_r, r_z, r_n = np.split(np.asarray(w["weight_hh"], np.float64), 3)
        b_r, b_z, b_n = np.split(w["bias"], 3) if self.bias else (0.0, 0.0, 0.0)
        r = act_r(clip_to(x @ w_r.T + h @ r_r.T + b_r, self.clip))
        z = act_z(clip_to(x @ w_z.T + h @ r_z.T + b_z, self.clip))
        b_hn = w["bias_hn"] if self.bias and self.reset_after else 0.0
        recurrent = r * (h @ r_n.T + b_hn) if self.reset_after else (r * h) @ r_n.T
        n = act_n(clip_to(x @ w_n.T + b_n + recurrent, self.clip))
        return ((1.0 - z) * n + z * h,)
