"""Trains sunspots, a forecaster of yearly sunspot numbers: an LSTM, in PyTorch; writes their data, sunspots.csv, too.

    pip install "rnncore[train]"
    python examples/train/sunspots.py

The network reads the numbers up to year t and forecasts year t + 1, at every year (series.py tells what is for what).
Where sunspots_rnn.py reads a window of years, this one carries its state for as long as the series goes on.
"""

from __future__ import annotations

import operator

import numpy as np
import torch
from common import arguments, keep_best
from series import NOISE, WARM_UP, Series, fold_scale, louder, read, write_card
from torch import nn
from torch_training import put, take

import rnncore

HIDDEN = 32
SEEDS = range(5)
EPOCHS, EVERY = 60, 10  # the validation years are looked at every so many gradient steps
PIECES, LENGTH = 8, 100  # pieces of the training years in one gradient step, and years in each


class Network(nn.Module):
    """On scaled numbers: (B, T, 1) to (B, T, 1)."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(1, HIDDEN, batch_first=True)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    series = read()
    found = [train(series, seed, options) for seed in SEEDS]
    error, seed, epoch, network = min(found, key=lambda entry: entry[0])
    print(f"seed {seed}: validation RMSE {error:.2f}")
    exported = rnncore.export.from_torch(
        chain(series, network), series.numbers[None, :, None].astype(np.float32), take="sequence"
    )
    rnncore.save(options.target / "sunspots.safetensors", exported)
    rows = [f"{year},{number:g}" for year, number in zip(series.years, series.numbers, strict=True)]
    (options.target / "sunspots.csv").write_text("\n".join(["year,number", *rows, ""]), encoding="utf-8")
    model = rnncore.load(options.target / "sunspots.safetensors", check=True)
    facts = {
        "input": "`x`, float (B, T, 1): sunspot numbers of consecutive years, the longer the better",
        "output": "`forecast`, float (B, T, 1): at each year the number expected for the next one",
        "network": f"LSTM, 1 to {HIDDEN} units, then Linear to 1, then Relu",
        "training": f"`python examples/train/sunspots.py`, seed {seed} of {len(SEEDS)}, {epoch * EVERY} gradient steps",
        "made with": f"torch {torch.__version__}",
    }
    title = "Forecasts next year's mean sunspot number from the yearly numbers so far: LSTM."
    write_card(options.target, "sunspots", title, facts, series, forecasts(model, series))


def train(series: Series, seed: int, options) -> tuple[float, int, int, Network]:
    """RMSE of the validation years, seed, epoch, and the network as it was then."""
    torch.manual_seed(seed)
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1)
    scaled = torch.tensor(series.scaled, dtype=torch.float32)

    def run(epoch: int) -> float:
        for _ in range(EVERY):
            starts = torch.randint(0, len(series.training) - LENGTH, (PIECES,)).tolist()
            pieces = torch.stack([scaled[start : start + LENGTH + 1] for start in starts])
            pieces = louder(series, pieces, 2 * torch.rand(PIECES, 1) - 1)
            inputs = pieces[:, :-1] + NOISE * torch.randn(PIECES, LENGTH)
            differences = network(inputs[..., None])[..., 0] - pieces[:, 1:]
            loss = differences[:, WARM_UP:].square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        return float(loss.detach())

    @torch.inference_mode()
    def score() -> float:
        return series.validation_rmse(network(scaled[None, :-1, None])[0, :, 0].numpy().astype(np.float64))

    path = options.weights and options.weights.with_name(f"{options.weights.stem}-{seed}.npz")
    epoch = keep_best(
        1 if options.quick else EPOCHS, run, score, lambda: take(network), lambda weights: put(network, weights),
        better=operator.lt, path=path,
    )  # fmt: skip
    return score(), seed, epoch, network


def chain(series: Series, network: Network) -> list[tuple[str, nn.Module]]:
    """The network for numbers as they are, as a chain for from_torch; forecasts below zero become zero."""
    lstm, head = network.lstm, network.head
    parts = (lstm.weight_ih_l0[:, 0], lstm.bias_ih_l0, head.weight[0], head.bias)
    kernel, bias, weight, head_bias = fold_scale(series, *(part.detach().double().numpy() for part in parts))
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.from_numpy(kernel[:, None]))
        lstm.bias_ih_l0.copy_(torch.from_numpy(bias))
        head.weight.copy_(torch.from_numpy(weight[None]))
        head.bias.copy_(torch.from_numpy(head_bias))
    return [("lstm", lstm), ("head", head), ("forecast", nn.ReLU())]


def forecasts(model: rnncore.Model, series: Series) -> np.ndarray:
    """(T - 1,) for each year but the last: the forecast of the next."""
    return model(series.numbers[None, :-1, None].astype(np.float32))[0, :, 0].astype(np.float64)


if __name__ == "__main__":
    main()
