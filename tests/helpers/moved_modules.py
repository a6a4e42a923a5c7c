"""Layers as people write them in PyTorch that move steps along time, multiply by constants, or sum so far."""

import torch
import torch.nn.functional as F
from torch import nn

I = 5  # noqa: E741 - the letters used everywhere

WRITTEN = {
    "x A": lambda m, x: x @ m.a,
    "A x": lambda m, x: torch.matmul(m.a, x.transpose(1, 2)).transpose(1, 2),
    "einsum": lambda m, x: torch.einsum("btc,dc->btd", x, m.a),
    "einsum to heads": lambda m, x: torch.einsum("btc,chd->bthd", x, m.heads).flatten(2),
    "sums": lambda m, x: torch.cumsum(x, 1),
    "sums from the back": lambda m, x: torch.cumsum(x, dim=-2),
    "zeros like the first": lambda m, x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1),
    "zeros of sizes": lambda m, x: torch.cat([torch.zeros(x.size(0), 2, x.size(2)), x[:, :-2]], 1),
    "new zeros": lambda m, x: torch.cat([x.new_zeros(x.size(0), 1, I), x[:, :-1]], dim=1),
    "pad, then cut": lambda m, x: F.pad(x, (0, 0, 1, 0))[:, :-1],
    "pad and cut": lambda m, x: F.pad(x, (0, 0, 2, -2)),
    "pad, then cut, channels first": lambda m, x: F.pad(x.transpose(1, 2), (2, 0))[:, :, :-2].transpose(1, 2),
    "pad, then cut to the length": lambda m, x: F.pad(x, (0, 0, 3, 0))[:, : x.size(1)],
    "the difference to the one before": lambda m, x: x - F.pad(x[:, :-1], (0, 0, 1, 0)),
    "differences, and the first": lambda m, x: torch.cat([x[:, :1], x[:, 1:] - x[:, :-1]], 1),
    "the first one twice": lambda m, x: torch.cat([x[:, :1], x[:, :-1]], 1),
    "pad, then convolve": lambda m, x: m.conv(F.pad(x.transpose(1, 2), (2, 0))).transpose(1, 2),
    "convolve, then cut": lambda m, x: m.wide(x.transpose(1, 2))[:, :, :-2].transpose(1, 2),
    "convolve, then cut to the length": lambda m, x: m.other(x.transpose(1, 2))[:, :, : x.size(1)].transpose(1, 2),
    "the next one": lambda m, x: torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1),
    "a window by hand": lambda m, x: torch.cat([F.pad(x, (0, 0, 1, 0))[:, :-1], x, F.pad(x, (0, 0, 0, 1))[:, 1:]], 2),
}


class Written(nn.Module):
    """Several of them, each of which gives an output of its own."""

    def __init__(self, names=tuple(WRITTEN)):
        super().__init__()
        self.written = [WRITTEN[name] for name in names]
        self.conv, self.wide, self.other = nn.Conv1d(I, I, 3), *(nn.Conv1d(I, I, 3, padding=2) for _ in range(2))
        self.a, self.heads, self.bias = (nn.Parameter(torch.randn(size)) for size in ((I, I), (I, 2, 3), (I,)))

    def forward(self, x):
        return tuple(torch.tanh(write(self, x + self.bias)) for write in self.written)
