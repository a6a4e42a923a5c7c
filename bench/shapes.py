"""The shapes that are raced, and the seeded weights and inputs that every engine gets."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


@dataclass(frozen=True)
class Shape:
    """One workload: a stack of recurrent layers over a batch of sequences.

    Letters: B batch, T steps, I input size, H hidden size. Weights have PyTorch's names, shapes and gate order.
    """

    cell: str
    B: int
    T: int
    I: int  # noqa: E741 - the letter used everywhere for the input size
    H: int
    layers: int = 1
    bidirectional: bool = False
    ragged: bool = False

    @property
    def name(self) -> str:
        sizes = f"H{self.H}" if self.I == self.H else f"I{self.I} H{self.H}"
        stack = (f" x{self.layers}" if self.layers > 1 else "") + (" bi" if self.bidirectional else "")
        stack += " ragged" if self.ragged else ""
        return f"{self.cell} B{self.B} T{self.T} {sizes}{stack}"

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each row that count, int64 (B,): all, or where ragged 10 to 100 % of them."""
        if not self.ragged:
            return np.full(self.B, self.T, np.int64)
        return np.random.default_rng(7).integers(self.T // 10, self.T + 1, self.B)

    @property
    def flops(self) -> int:
        """Multiplications and additions of the products of one call, for the steps that count."""
        total = 0
        for layer in range(self.layers):
            width = self.I if layer == 0 else self.H * self.directions
            total += self.directions * 2 * GATES[self.cell] * self.H * (width + self.H)
        return total * int(self.lengths.sum())

    @property
    def weight_bytes(self) -> int:
        """float32 bytes of the recurrent weights, which each step reads again."""
        return 4 * self.layers * self.directions * GATES[self.cell] * self.H * self.H

    def arrays(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """(weights by PyTorch name, x of shape (B, T, I)), float32, the same in every process."""
        rng = np.random.default_rng(20261121)
        bound = 1.0 / np.sqrt(self.H)
        weights = {}
        for layer in range(self.layers):
            width = self.I if layer == 0 else self.H * self.directions
            for direction in range(self.directions):
                suffix = f"_l{layer}" + ("_reverse" if direction else "")
                rows = GATES[self.cell] * self.H
                for name, shape in (
                    ("weight_ih", (rows, width)),
                    ("weight_hh", (rows, self.H)),
                    ("bias_ih", (rows,)),
                    ("bias_hh", (rows,)),
                ):
                    weights[name + suffix] = rng.uniform(-bound, bound, shape).astype(np.float32)
        return weights, rng.standard_normal((self.B, self.T, self.I)).astype(np.float32)

    def to_json(self) -> dict:
        return asdict(self)


def _square(cell: str, B: int, T: int, H: int) -> Shape:
    return Shape(cell, B, T, H, H)


QUICK = [
    _square("LSTM", 1, 1, 128),
    _square("LSTM", 1, 100, 64),
    _square("LSTM", 1, 100, 256),
    _square("GRU", 1, 100, 128),
    _square("RNN", 1, 100, 256),
    _square("LSTM", 16, 50, 512),
]

MAIN = [
    *(_square("LSTM", 1, 1, H) for H in (32, 128, 512)),
    _square("GRU", 1, 1, 128),
    *(_square("LSTM", 1, 100, H) for H in (16, 64, 128, 256)),
    _square("LSTM", 1, 50, 512),
    _square("LSTM", 1, 25, 1024),
    _square("LSTM", 1, 25, 1536),
    _square("LSTM", 4, 50, 256),
    _square("LSTM", 16, 50, 512),
    _square("LSTM", 64, 50, 512),
    *(_square("GRU", 1, 100, H) for H in (128, 512)),
    *(_square("GRU", B, 50, 512) for B in (16, 64)),
    _square("RNN", 1, 100, 256),
    _square("RNN", 32, 50, 1760),
    Shape("LSTM", 2, 293, 60, 128, layers=4, bidirectional=True),
    Shape("LSTM", 64, 100, 256, 256, ragged=True),
]

MORE = [
    # DeepBench, server and device inference
    *(_square("LSTM", B, 25, H) for H in (512, 1024, 2048) for B in (1, 2, 4) if (H, B) != (2048, 1)),
    *(_square("LSTM", B, 150, 256) for B in (1, 4)),
    *(_square("GRU", B, 187, H) for H in (1536, 2048) for B in (1, 4)),
    _square("GRU", 1, 375, 2560),
    _square("GRU", 1, 1, 512),
    _square("RNN", 1, 672, 32),
    _square("RNN", 1, 96, 64),
    # word language models, the classic sizes
    *(Shape("LSTM", B, T, H, H, layers=2) for H, T in ((200, 20), (650, 35), (1500, 35)) for B in (1, 20)),
    # real models: speaker embedding, noise suppression
    Shape("LSTM", 1, 160, 40, 256, layers=3),
    Shape("GRU", 1, 100, 400, 400, layers=2),
]
