r"""Long short-term memory, with every option that composes with it.

    z_k = W_k x + R_k h + b_k                            for k in i f g o
    z_i += p_i * c,  z_f += p_f * c                      peephole
    i = act_i(clip z_i)
    f = act_f(clip z_f + forget_bias)
    g = act_g(clip z_g)
    i = 1 - f   (coupled="input")   or   f = 1 - i   (coupled="forget")
    c' = f c + i g,                                      limited to +-cell_clip
    z_o += p_o * c'                                      peephole: the new c
    o = act_o(clip z_o)
    h' = o * act_h(c')
    h' = W_hr h' + b_hr, limited to +-proj_clip          projection

Layer normalisation, with LN(v) = (v - mean v) / sqrt(var v + layer_norm_epsilon) over the H units:

    layer_norm="tflite":  z_k = LN(W_k x + R_k h + p_k c) * ln_k + b_k;  c is stored as it is
    layer_norm="tf1":     z_k = LN(W_k x + R_k h) * ln_k + b_k;  c' = LN(f c + i g) * ln_cell_weight + ln_cell_bias,
                          and this normalised c' is what is stored

Source: Hochreiter & Schmidhuber 1997; Gers 2000 (peepholes); Sak 2014 (projection); torch.nn.LSTM, keras LSTM,
ONNX LSTM, TF1 LSTMCell, CoupledInputForgetGateLSTMCell and LayerNormBasicLSTMCell, TFLite UNIDIRECTIONAL_SEQUENCE_LSTM.
Gate order: i f g o. The gate that coupling derives has no rows: f g o for coupled="input", i g o for
coupled="forget". Peepholes follow the same order without g.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rnncore.cells.base import Cell, check_choice, check_flag, check_integer, check_real, clip_to
from rnncore.cells.registry import register
from rnncore.errors import SpecError

__all__ = ["LSTM"]


@register
@dataclass(frozen=True)
class LSTM(Cell):
    """LSTM with activations (i, f, g, o, h).

    coupled names the gate that is computed from the other one: "input" (i = 1 - f; TF1, TFLite) or
    "forget" (f = 1 - i; ONNX, CoreML). projection is P, or 0 for none. forget_bias is added at run time
    (TF1 and DyNet do that; it is not in their files).
    """

    peephole: bool = False
    coupled: str | None = None
    projection: int = 0
    projection_bias: bool = False
    clip: float | None = None
    cell_clip: float | None = None
    proj_clip: float | None = None
    forget_bias: float = 0.0
    layer_norm: str | None = None
    layer_norm_epsilon: float = 1e-12

    kind: ClassVar[str] = "LSTM"
    states: ClassVar[tuple[str, ...]] = ("h", "c")
    activation_places: ClassVar[tuple[str, ...]] = ("i", "f", "g", "o", "h")
    default_activations: ClassVar[tuple[str, ...]] = ("sigmoid", "sigmoid", "tanh", "sigmoid", "tanh")

    def __post_init__(self):
        super().__post_init__()
        check_flag(self, "peephole")
        check_choice(self, "coupled", (None, "input", "forget"))
        check_integer(self, "projection", at_least=0)
        check_flag(self, "projection_bias")
        for name in ("clip", "cell_clip", "proj_clip"):
            if getattr(self, name) is not None:
                check_real(self, name, above=0.0)
        check_real(self, "forget_bias")
        check_choice(self, "layer_norm", (None, "tf1", "tflite"))
        check_real(self, "layer_norm_epsilon", above=0.0)
        if self.projection > self.hidden_size:
            raise SpecError(f"LSTM: projection={self.projection}, expected at most hidden_size={self.hidden_size}")
        if not self.projection and (self.projection_bias or self.proj_clip is not None):
            raise SpecError("LSTM: projection_bias and proj_clip need projection > 0")
        if self.coupled == "forget" and self.forget_bias:
            raise SpecError("LSTM: forget_bias with coupled='forget', where the forget gate has no pre-activation")
        if self.layer_norm == "tf1" and self.peephole:
            raise SpecError("LSTM: peephole with layer_norm='tf1', expected layer_norm='tflite' or none")
        if self.layer_norm and not self.bias:
            raise SpecError("LSTM: layer_norm without bias, expected bias=true (it is the normalisation's shift)")

    @property
    def gates(self) -> str:
        return {None: "ifgo", "input": "fgo", "forget": "igo"}[self.coupled]

    @property
    def output_size(self) -> int:
        return self.projection or self.hidden_size

    @property
    def state_sizes(self):
        return {"h": self.output_size, "c": self.hidden_size}

    def weight_shapes(self):
        shapes = super().weight_shapes()
        rows, hidden = len(self.gates) * self.hidden_size, self.hidden_size
        if self.peephole:
            shapes["peephole"] = (rows - hidden,)
        if self.projection:
            shapes["weight_hr"] = (self.projection, hidden)
        if self.projection_bias:
            shapes["bias_hr"] = (self.projection,)
        if self.layer_norm:
            shapes["ln_weight"] = (rows,)
        if self.layer_norm == "tf1":
            shapes["ln_cell_weight"] = shapes["ln_cell_bias"] = (hidden,)
        return shapes

    def step(self, w, x, state):
        h, c = state
        count = len(self.gates)

        def by_gate(name):
            letters = self.gates.replace("g", "") if name == "peephole" else self.gates
            return dict(zip(letters, np.split(np.asarray(w[name], np.float64), len(letters)), strict=True))

        z = x @ np.asarray(w["weight_ih"], np.float64).T + h @ np.asarray(w["weight_hh"], np.float64).T
        z = dict(zip(self.gates, np.split(z, count, axis=1), strict=True))
        bias = by_gate("bias") if self.bias else dict.fromkeys(self.gates, 0.0)
        peephole = by_gate("peephole") if self.peephole else {}

        def gate(letter, cell_state):
            v = z[letter]
            if letter in peephole:
                v = v + peephole[letter] * cell_state
            if self.layer_norm:
                v = layer_norm(v, self.layer_norm_epsilon) * by_gate("ln_weight")[letter]
            v = clip_to(v + bias[letter], self.clip)
            if letter == "f":
                v = v + self.forget_bias
            return self.activations["ifgo".index(letter)](v)

        if self.coupled == "input":
            f = gate("f", c)
            i = 1.0 - f
        elif self.coupled == "forget":
            i = gate("i", c)
            f = 1.0 - i
        else:
            i, f = gate("i", c), gate("f", c)
        new_c = f * c + i * gate("g", c)
        if self.layer_norm == "tf1":
            new_c = layer_norm(new_c, self.layer_norm_epsilon) * w["ln_cell_weight"] + w["ln_cell_bias"]
        new_c = clip_to(new_c, self.cell_clip)
        new_h = gate("o", new_c) * self.activations[4](new_c)
        if self.projection:
            new_h = new_h @ np.asarray(w["weight_hr"], np.float64).T
            if self.projection_bias:
                new_h = new_h + w["bias_hr"]
            new_h = clip_to(new_h, self.proj_clip)
        return new_h, new_c


def layer_norm(v: np.ndarray, epsilon: float) -> np.ndarray:
    """(v - mean) / sqrt(var + epsilon) over the last axis, without scale or shift."""
    d = v - v.mean(axis=-1, keepdims=True)
    return d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + epsilon)
