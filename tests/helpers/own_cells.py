"""Cells that have no kernels, each as a user of the package would write it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rnncore.cells import Cell


@dataclass(frozen=True)
class MGU(Cell):
    r"""Minimal gated unit.

        f = act_f(W_f x + R_f h + b_f)
        n = act_n(W_n x + R_n (f h) + b_n)
        h' = (1 - f) h + f n

    Source: Zhou et al. 2016. Gate order: f n.
    """

    kind: ClassVar[str] = "MGU"
    states: ClassVar[tuple[str, ...]] = ("h",)
    activation_places: ClassVar[tuple[str, ...]] = ("f", "n")
    default_activations: ClassVar[tuple[str, ...]] = ("sigmoid", "tanh")

    @property
    def gates(self) -> str:
        return "fn"

    def step(self, w, x, state):
        (h,) = state
        w_f, w_n = np.split(w["weight_ih"], 2)
        r_f, r_n = np.split(w["weight_hh"], 2)
        b_f, b_n = np.split(w["bias"], 2) if self.bias else (0.0, 0.0)
        f = self.activations[0](x @ w_f.T + h @ r_f.T + b_f)
        n = self.activations[1](x @ w_n.T + (f * h) @ r_n.T + b_n)
        return ((1.0 - f) * h + f * n,)


@dataclass(frozen=True)
class SLSTM(Cell):
    r"""LSTM with exponential gates, with a normalizer and a stabilizer among its states and a scale of its output.

        m' = max(z_f + m, z_i)
        i = exp(z_i - m'),  f = exp(z_f + m - m')
        c' = f c + i tanh(z_z),  n' = f n + i
        h' = scale * sigmoid(z_o) c' / n'

    The stabilizer is one for all units, that of the largest. Source: Beck et al. 2024. Gate order: i f z o.
    """

    scaled: bool = True

    kind: ClassVar[str] = "SLSTM"
    states: ClassVar[tuple[str, ...]] = ("h", "c", "n", "m")
    activation_places: ClassVar[tuple[str, ...]] = ()
    default_activations: ClassVar[tuple[str, ...]] = ()

    @property
    def gates(self) -> str:
        return "ifzo"

    @property
    def state_sizes(self):
        return {"h": self.hidden_size, "c": self.hidden_size, "n": self.hidden_size, "m": 1}

    def weight_shapes(self):
        scale = {"scale": (self.hidden_size,)} if self.scaled else {}
        return {**super().weight_shapes(), **scale}

    def step(self, w, x, state):
        h, c, n, m = state
        z = x @ w["weight_ih"].T + h @ w["weight_hh"].T + (w["bias"] if self.bias else 0.0)
        z_i, z_f, z_z, z_o = np.split(z, 4, axis=1)
        new_m = np.maximum(z_f + m, z_i).max(axis=1, keepdims=True)
        i, f = np.exp(z_i - new_m), np.exp(z_f + m - new_m)
        new_c, new_n = f * c + i * np.tanh(z_z), f * np.abs(n) + i
        new_h = new_c / new_n / (1.0 + np.exp(-z_o))
        return (w["scale"] * new_h if self.scaled else new_h), new_c, new_n, new_m
