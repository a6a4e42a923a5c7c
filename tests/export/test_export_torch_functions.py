"""from_torch on functions of torch, on numbers made of sizes, and on modules called by their own arguments."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export_agreement import agrees, check_other_weights
from torch import nn
from torch_modules import floats

import rnncore
from rnncore.errors import UnsupportedError
from rnncore.export import from_torch

W = 4


class Functions(nn.Module):
    """The results of some functions of the input, by their names."""

    def __init__(self, functions):
        super().__init__()
        torch.manual_seed(0)
        self.functions = functions
        self.linear, self.conv, self.batch = nn.Linear(W, W), nn.Conv1d(W, 3, 3), nn.BatchNorm1d(W)
        self.register_buffer("window", torch.hamming_window(4))

    def forward(self, x):
        return {f"r_{name}": function(self, x) for name, function in self.functions.items()}


def wave(x):
    return x.reshape(x.size(0), -1)


ELEMENTS = {
    "nan_to_num": lambda m, x: torch.nan_to_num(x / (x > 0).float(), nan=0.5, posinf=3.0, neginf=-3.0),
    "nan_alone": lambda m, x: torch.nan_to_num(torch.sqrt(x)),
    "fmod": lambda m, x: torch.fmod(x, 0.7) + x.fmod(x.flip(1)),
    "fmod_of_integers": lambda m, x: torch.fmod((x * 10).long(), 3),
    "trunc": lambda m, x: (x * 3).trunc() + (x * 3).frac(),
    "logaddexp": lambda m, x: torch.logaddexp(x * 50, x[:, :1]),
    "others": lambda m, x: torch.exp2(x) + torch.erfc(x) + torch.sgn(x) + torch.logit(torch.sigmoid(x), 0.1),
    "finite": lambda m, x: (torch.isfinite(1 / (x > 0).float()), torch.isinf(x / 0)),
    "atan2": lambda m, x: torch.atan2(x, x.flip(1)) + torch.atan2(x.round(), torch.zeros_like(x)),
    "shrunk": lambda m, x: F.threshold(x, 0.1, 0.2) + F.softshrink(x) + F.hardshrink(x, 0.3),
    "addcdiv": lambda m, x: torch.addcdiv(x, x, x.abs() + 1, value=0.5),
    "pairwise": lambda m, x: F.pairwise_distance(x, x[:, :1]) + torch.linalg.norm(x, dim=-1),
    "linspace": lambda m, x: x * torch.linspace(-1, 2, x.size(1))[:, None] + torch.linspace(0, 1, steps=W),
    "eye": lambda m, x: torch.eye(x.size(1)) @ x,
    "meshgrid": lambda m, x: torch.meshgrid(x[0, :, 0], x[0, 0], indexing="ij"),
}  # fmt: skip
OVER_TIME = {
    "unfold": lambda m, x: F.pad(x, (0, 0, 2, 0)).unfold(1, 3, 2),
    "logcumsumexp": lambda m, x: torch.logcumsumexp(x * 100, 1) + torch.logcumsumexp(x, -1),
    "cummax": lambda m, x: torch.cummax(x, 1)[0] + torch.cummin(x, dim=2).values + torch.cumprod(x, 1),
    "spread": lambda m, x: (*torch.var_mean(x, 2), torch.diff(x, dim=1), torch.count_nonzero(x > 0, dim=1)),
    "scatter": lambda m, x: torch.zeros(x.size(0), x.size(1), 6).scatter_(2, x.argmax(-1, keepdim=True), 1.5),
    "scatter_add": lambda m, x: torch.zeros_like(x).scatter_add(2, x.argsort(-1) // 2, x),
    "stacks": lambda m, x: (torch.hstack([x, x]), torch.vstack([x, x]), torch.dstack([x[:, 0], x[:, 0]]), x.ravel()),
    "taken": lambda m, x: torch.take_along_dim(x, x.argsort(1), 1) + x.roll((1,), (1,)),
    "convolved": lambda m, x: F.conv1d(x.transpose(1, 2), m.conv.weight, m.conv.bias, padding="same"),
    "batch_normed": lambda m, x: F.batch_norm(x.transpose(1, 2), m.batch.running_mean, m.batch.running_var + 1),
    "group_normed": lambda m, x: F.group_norm(x.reshape(-1, W), 2),
    "pooled": lambda m, x: F.max_pool1d(x.transpose(1, 2), x.size(1)) + F.avg_pool1d(x.transpose(1, 2), x.shape[1]),
    "attended": lambda m, x: F.scaled_dot_product_attention(x, x, x),
    "types": lambda m, x: (x > 0).type(torch.FloatTensor) + x.type("torch.LongTensor") + x.new_tensor([1.0, 2, 3, 4]),
}  # fmt: skip
SPECTRA = {
    "stft": lambda m, x: torch.stft(wave(x), 4, 2, window=m.window, return_complex=True).abs() ** 2,
    "alone": lambda m, x: torch.stft(wave(x)[0], 4, center=False, return_complex=True).real,
    "short": lambda m, x: torch.view_as_real(
        torch.stft(wave(x), 4, 1, 2, m.window[:2], normalized=True, return_complex=True)
    ),
    "both_sides": lambda m, x: torch.stft(wave(x), 4, 2, onesided=False, pad_mode="constant", return_complex=True).imag,
    "rfft": lambda m, x: torch.fft.rfft(x).abs() + torch.fft.rfft(x, dim=-1).transpose(0, 1).angle().sum(),
}  # fmt: skip
NUMBERS = {
    "roots": lambda m, x: x / math.sqrt(x.size(1)) + x.size(0) ** 0.5 - x.size(1) ** -0.5 + np.sqrt(x.size(1)),
    "log": lambda m, x: x / math.log(x.size(1) + 1) * math.exp(-x.size(0)),
    "floor": lambda m, x: x[:, : math.floor(x.size(1) / 2) + 1],
    "ceil": lambda m, x: x[:, : math.ceil(x.size(1) * 0.7)],
    "whole": lambda m, x: x[:, : int(x.size(1) * 0.29) + 1],
    "round": lambda m, x: x[:, : round(x.size(1) * 0.5) + 1],
    "root": lambda m, x: x[:, : int(x.size(1) ** 0.5)],
    "tenths": lambda m, x: torch.zeros(x.size(0), int(x.size(1) * 0.1 * 10) + 1),
}
GROUPS = {"elements": ELEMENTS, "over time": OVER_TIME, "spectra": SPECTRA, "numbers": NUMBERS}


@pytest.mark.parametrize("group", GROUPS)
def test_functions(group):
    agrees(Functions(GROUPS[group]), lambda rows, steps: (floats(rows, steps, W),), group)


@pytest.mark.parametrize("group", GROUPS)
def test_other_weights_of_functions(group):
    """Constants of the graph are not taken for what a checkpoint has under the same name, such as "window"."""
    module, example = Functions(GROUPS[group]).eval(), (floats(3, 5, W),)
    check_other_weights(from_torch(module, example), module, example)


UNKNOWN = {
    "fft of n": (lambda m, x: torch.fft.rfft(x, n=3).abs(), "n=3"),
    "sum of complex numbers": (lambda m, x: torch.fft.rfft(x).sum(), "complex numbers, expected one of abs"),
    "complex output": (lambda m, x: torch.fft.rfft(x), "the output holds Complex"),
    "indices": (lambda m, x: torch.cummax(x, 1)[1], "the indices"),
    "kernel": (lambda m, x: F.conv1d(x, x[:, :, :1]), "a kernel that is computed"),
    "statistics": (lambda m, x: F.batch_norm(x, None, None, training=True), "statistics of the batch"),
    "computed window": (
        lambda m, x: torch.stft(wave(x), 4, window=x[0, 0], return_complex=True).abs(), "a window that is computed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_functions_that_are_refused(name):
    function, says = UNKNOWN[name]
    with pytest.raises(UnsupportedError, match=says):
        from_torch(Functions({"one": function}), floats(3, 5, W))


# --- modules by their own arguments ----------------------------------------------------------------------------------


def padding(rows, steps):
    """Rows that end early, each at another step."""
    ends = [max(1, steps - 2 * i) for i in range(rows)]
    return torch.arange(steps)[None] >= torch.tensor(ends)[:, None]


def scattered(rows, steps):
    """Hidden steps anywhere but in front."""
    return torch.tensor([[t % (i + 2) == 1 for t in range(steps)] for i in range(rows)])


def causal(steps):
    return torch.ones(steps, steps, dtype=torch.bool).triu(1)


def time_first(rows, steps):
    return floats(steps, rows, W)


ALONE = {
    "LSTM without a batch": (
        lambda: nn.LSTM(W, 5, 2), lambda b, t: (floats(t, W), (floats(2, 5), floats(2, 5) + 1))
    ),
    "GRU without a batch": (lambda: nn.GRU(W, 5, bidirectional=True), lambda b, t: (floats(t, W), floats(2, 5))),
    "projected LSTM without a batch": (
        lambda: nn.LSTM(W, 5, proj_size=3, batch_first=True), lambda b, t: (floats(t, W), (floats(1, 3), floats(1, 5)))
    ),
    "RNN by names": (lambda: nn.RNN(W, 5), lambda b, t: {"input": time_first(b, t), "hx": floats(1, b, 5)}),
    "LSTMCell": (lambda: nn.LSTMCell(W, 5), lambda b, t: (floats(b, W), (floats(b, 5), floats(b, 5) + 1))),
    "LSTMCell alone": (lambda: nn.LSTMCell(W, 5), lambda b, t: (floats(b, W),)),
    "LSTMCell without a batch": (lambda: nn.LSTMCell(W, 5), lambda b, t: (floats(W), (floats(5), floats(5) + 1))),
    "GRUCell by names": (lambda: nn.GRUCell(W, 5), lambda b, t: {"hx": floats(b, 5), "input": floats(b, W)}),
    "RNNCell": (lambda: nn.RNNCell(W, 5, nonlinearity="relu"), lambda b, t: (floats(b, W), floats(b, 5))),
    "Bilinear": (lambda: nn.Bilinear(W, W, 3), lambda b, t: (floats(b, t, W), floats(b, t, W) + 1)),
    "attention": (
        lambda: nn.MultiheadAttention(W, 2), lambda b, t: (time_first(b, t), time_first(b, t + 1), time_first(b, t + 1))
    ),
    "attention by names": (
        lambda: nn.MultiheadAttention(W, 2, batch_first=True),
        lambda b, t: {"query": floats(b, 3, W), "key": floats(b, t, W), "value": floats(b, t, W) + 1,
                      "key_padding_mask": scattered(b, t), "need_weights": False},
    ),
    "attention with each head's weights": (
        lambda: nn.MultiheadAttention(W, 2, kdim=3, vdim=5),
        lambda b, t: {"query": time_first(b, 3), "key": floats(t, b, 3), "value": floats(t, b, 5),
                      "key_padding_mask": padding(b, t), "average_attn_weights": False},
    ),
    "attention with a mask": (
        lambda: nn.MultiheadAttention(W, 2, batch_first=True, bias=False),
        lambda b, t: {"query": floats(b, t, W), "key": floats(b, t, W), "value": floats(b, t, W) + 1,
                      "attn_mask": causal(t)},
    ),
    "attention without a batch": (
        lambda: nn.MultiheadAttention(W, 2),
        lambda b, t: {"query": floats(3, W), "key": floats(t, W), "value": floats(t, W) + 1,
                      "key_padding_mask": scattered(1, t)[0]},
    ),
    "encoder by names": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(W, 2, 8, batch_first=True), 2, nn.LayerNorm(W)),
        lambda b, t: {"src": floats(b, t, W), "src_key_padding_mask": padding(b, t)},
    ),
    "Transformer": (
        lambda: nn.Transformer(W, 2, 1, 1, 8, batch_first=True), lambda b, t: (floats(b, t, W), floats(b, t + 1, W))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_modules_by_their_own_arguments(name):
    make, example = ALONE[name]
    torch.manual_seed(1)
    agrees(make(), example, name)


class Encoder(nn.Module):
    def __init__(self, layers, batch_first, norm_first, mask):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            W, 2, 8, batch_first=batch_first, norm_first=norm_first, activation="gelu" if norm_first else "relu"
        )
        self.encoder, self.axis, self.mask = (
            nn.TransformerEncoder(layer, layers) if layers else layer,
            int(batch_first),
            mask,
        )

    def forward(self, x, pad):
        steps = x.size(self.axis)
        return self.encoder(x, self.mask(steps) if self.mask else None, src_key_padding_mask=pad)


class Decoder(Encoder):
    def __init__(self, layers, batch_first, norm_first, mask):
        super().__init__(layers, batch_first, norm_first, mask)
        layer = nn.TransformerDecoderLayer(W, 2, 8, batch_first=batch_first, norm_first=norm_first)
        self.encoder = nn.TransformerDecoder(layer, layers, nn.LayerNorm(W)) if layers else layer

    def forward(self, x, memory, pad, hidden):
        steps = x.size(self.axis)
        mask = self.mask(steps) if self.mask else None
        return self.encoder(x, memory, tgt_mask=mask, tgt_key_padding_mask=pad, memory_key_padding_mask=hidden)


def additive(steps):
    return nn.Transformer.generate_square_subsequent_mask(steps)


TRANSFORMERS = [
    (0, True, True, None, padding), (0, False, False, causal, scattered), (0, True, False, additive, padding),
    (2, True, True, None, scattered), (2, True, False, None, padding), (2, False, True, additive, scattered),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "batch_first", "norm_first", "mask", "hide"), TRANSFORMERS)
@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_transformer_layers_with_padding(kind, layers, batch_first, norm_first, mask, hide):
    def given(rows, steps):
        inputs = floats if batch_first else lambda rows, steps, size: floats(steps, rows, size)
        x, memory = inputs(rows, steps, W), inputs(rows, steps + 2, W)
        if kind is Encoder:
            return x, hide(rows, steps)
        return x, memory, hide(rows, steps), hide(rows, steps + 2)

    torch.manual_seed(1)
    agrees(kind(layers, batch_first, norm_first, mask), given, f"{kind} {layers} {batch_first} {norm_first}")


def test_masks_that_are_added_are_refused():
    mask = {"query": floats(2, 3, W), "key": floats(2, 3, W), "value": floats(2, 3, W), "attn_mask": floats(3, 3)}
    with pytest.raises(UnsupportedError, match=r"a mask of numbers that are added to the scores, expected bool"):
        from_torch(nn.MultiheadAttention(W, 2, batch_first=True), mask)
    layer = nn.TransformerEncoderLayer(W, 2, 8, batch_first=True)
    module = nn.TransformerEncoder(layer, 1, mask_check=False)
    with pytest.raises(UnsupportedError, match="mask_check=False"):
        from_torch(module, {"src": floats(2, 3, W), "src_key_padding_mask": padding(2, 3)})


def test_transformers_are_left_as_they_were():
    before = nn.TransformerEncoder.forward, nn.TransformerDecoder.forward
    from_torch(Decoder(1, True, True, additive), (floats(2, 3, W), floats(2, 4, W), padding(2, 3), padding(2, 4)))
    assert (nn.TransformerEncoder.forward, nn.TransformerDecoder.forward) == before


class Steps(nn.Module):
    """What makes nodes beside those with weights: states, masks, other layouts, no batch."""

    def __init__(self):
        super().__init__()
        self.cell, self.gru, self.conv = nn.LSTMCell(W, W), nn.GRU(W, W), nn.Conv1d(W, W, 3, padding=1)
        self.attention = nn.MultiheadAttention(W, 2)

    def forward(self, x, h, c, pad):
        h, c = self.cell(x[0], (h, c))
        y, _ = self.gru(x[:, 0], h[:1])
        z = self.conv(y.t()).t().unsqueeze(1)
        return self.attention(z, x[:, :1], x[:, :1], key_padding_mask=pad[:1])[0] + c.sum()


RETRAINED = {
    "steps": (Steps, lambda: (floats(5, 2, W), floats(2, W), floats(2, W) + 1, padding(2, 5))),
    "encoder": (lambda: Encoder(2, True, True, None), lambda: (floats(2, 5, W), padding(2, 5))),
    "decoder": (
        lambda: Decoder(2, False, False, causal),
        lambda: (floats(5, 2, W), floats(6, 2, W), padding(2, 5), padding(2, 6)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RETRAINED)
def test_other_weights_under_their_names_in_the_module(name, tmp_path):
    make, example = RETRAINED[name]
    torch.manual_seed(3)
    spec = from_torch(make(), example()).spec
    (tmp_path / "spec.json").write_text(json.dumps(spec.to_json()))
    other = make().eval()
    torch.save(other.state_dict(), tmp_path / "other.pt")
    model = rnncore.load(tmp_path / "other.pt", spec=tmp_path / "spec.json")
    with torch.no_grad():
        expected = other(*example()).numpy()
    arrays = [tensor.numpy() for tensor in example()]
    (found,) = model.run(dict(zip([entry.name for entry in model.inputs], arrays, strict=True))).values()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
