"""Trains the sunspot forecaster that comes with rnncore, and writes rnncore/zoo/sunspots.{safetensors,csv,md}.

    pip install "rnncore[train]"
    python examples/train/sunspots.py

An LSTM reads the yearly sunspot numbers up to year t and forecasts year t + 1. Years up to 1930 are for training,
1931 to 1959 choose the epoch and the seed, and 1960 to 2008 are held out for the model card. The scale of the
numbers comes from the training years and is folded into the first and the last weights, so that the exported model
takes and gives sunspot numbers. Run again with the same versions on the same machine, the script writes the same bytes.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import statsmodels
import torch
from statsmodels.api import datasets
from torch import nn

import rnncore

ZOO = Path(__file__).resolve().parents[2] / "rnncore" / "zoo"

LAST_TRAINING_YEAR, LAST_VALIDATION_YEAR = 1930, 1959
HIDDEN = 32
SEEDS = range(5)
EPOCHS, EVERY = 600, 10  # gradient steps, and how often the validation years are looked at
PIECES, LENGTH = 8, 100  # pieces of the training years in one gradient step, and years in each
WARM_UP = 11  # first years of a piece, one solar cycle, which are not scored
NOISE = 0.1  # standard deviation added to the inputs, in units of the training years'
LAGS = 9  # of the linear forecast that the card compares with
LOUDNESS = 0.3  # each piece is multiplied by 1 - LOUDNESS to 1 + LOUDNESS: solar cycles differ in height


@dataclass
class Series:
    """The yearly numbers, and the scale of the training years."""

    years: np.ndarray
    numbers: np.ndarray

    @property
    def training(self) -> np.ndarray:
        return self.numbers[self.years <= LAST_TRAINING_YEAR]

    @property
    def mean(self) -> float:
        return float(self.training.mean())

    @property
    def deviation(self) -> float:
        return float(self.training.std())

    def rmse(self, forecasts: np.ndarray, after: int, up_to: int) -> float:
        """Root mean square error in the years after < year <= up_to; forecasts[t] is for year t + 1."""
        chosen = (self.years[1:] > after) & (self.years[1:] <= up_to)
        return float(np.sqrt(np.mean(np.square(forecasts - self.numbers[1:])[chosen])))


@dataclass
class Forecaster:
    """The network on scaled numbers: (B, T, 1) to (B, T, 1)."""

    lstm: nn.LSTM
    head: nn.Linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.lstm.parameters(), *self.head.parameters()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", type=Path, default=ZOO, help="directory to write to (default: rnncore/zoo)")
    target = parser.parse_args().target
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    data = datasets.sunspots.load_pandas().data
    series = Series(data["YEAR"].to_numpy(np.int64), data["SUNACTIVITY"].to_numpy(np.float64))
    found = []
    for seed in SEEDS:
        error, epoch, network = train(series, seed)
        print(f"seed {seed}: validation RMSE {error:.2f} after {epoch} steps")
        found.append((error, seed, epoch, network))
    _, seed, epoch, network = min(found, key=lambda entry: entry[0])

    chain = fold_scale(network, series.mean, series.deviation)
    exported = rnncore.export.from_torch(chain, series.numbers[None, :, None].astype(np.float32), take="sequence")
    path = rnncore.save(target / "sunspots.safetensors", exported)
    rows = [f"{year},{number:g}" for year, number in zip(series.years, series.numbers, strict=True)]
    (target / "sunspots.csv").write_text("\n".join(["year,number", *rows, ""]), encoding="utf-8")
    card = write_card(series, exported, seed, epoch, path.stat().st_size)
    (target / "sunspots.md").write_text(card, encoding="utf-8")
    print(card)


def train(series: Series, seed: int) -> tuple[float, int, Forecaster]:
    """The network at the step where the validation years were forecast best: their RMSE, that step, the network."""
    torch.manual_seed(seed)
    network = Forecaster(nn.LSTM(1, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters, lr=3e-3, weight_decay=0.1)
    scaled = torch.tensor((series.numbers - series.mean) / series.deviation, dtype=torch.float32)
    zero = -series.mean / series.deviation
    best: tuple[float, int, Forecaster] | None = None
    for epoch in range(1, EPOCHS + 1):
        starts = torch.randint(0, len(series.training) - LENGTH, (PIECES,)).tolist()
        pieces = torch.stack([scaled[start : start + LENGTH + 1] for start in starts])
        loudness = 1 + LOUDNESS * (2 * torch.rand(PIECES, 1) - 1)
        pieces = zero + (pieces - zero) * loudness
        inputs = pieces[:, :-1] + NOISE * torch.randn(PIECES, LENGTH)
        errors = network(inputs[..., None])[..., 0] - pieces[:, 1:]
        loss = errors[:, WARM_UP:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters, 1.0)
        optimizer.step()
        if epoch % EVERY == 0:
            forecasts = forecast(network, scaled) * series.deviation + series.mean
            error = series.rmse(np.maximum(forecasts, 0), LAST_TRAINING_YEAR, LAST_VALIDATION_YEAR)
            if best is None or error < best[0]:
                best = error, epoch, copy.deepcopy(network)
    assert best is not None
    return best


def forecast(network: Forecaster, scaled: torch.Tensor) -> np.ndarray:
    """(T - 1,) for each year but the last: the forecast of the next, on the scaled numbers."""
    with torch.inference_mode():
        return network(scaled[None, :-1, None])[0, :, 0].numpy().astype(np.float64)


def fold_scale(network: Forecaster, mean: float, deviation: float) -> list[tuple[str, nn.Module]]:
    """The network for numbers as they are, as a chain for from_torch; forecasts below zero become zero.

    W ((x - m) / s) + b = (W / s) x + (b - W m / s), and s (V h + d) + m = (s V) h + (s d + m); both in float64.
    """
    lstm, head = copy.deepcopy(network.lstm).double(), copy.deepcopy(network.head).double()
    with torch.no_grad():
        lstm.weight_ih_l0 /= deviation
        lstm.bias_ih_l0 -= lstm.weight_ih_l0[:, 0] * mean
        head.weight *= deviation
        head.bias *= deviation
        head.bias += mean
    return [("lstm", lstm.float()), ("head", head.float()), ("forecast", nn.ReLU())]


def linear_forecasts(series: Series) -> np.ndarray:
    """(T - 1,) forecasts of a linear autoregression on LAGS years, fitted to the training years by least squares."""
    known = np.lib.stride_tricks.sliding_window_view(series.numbers[:-1], LAGS)
    known = np.column_stack([known, np.ones(len(known))])
    fitted = len(series.training) - LAGS
    weights = np.linalg.lstsq(known[:fitted], series.numbers[LAGS:][:fitted], rcond=None)[0]
    return np.concatenate([series.numbers[: LAGS - 1], known @ weights])


def write_card(series: Series, exported: rnncore.export.Exported, seed: int, epoch: int, size: int) -> str:
    """The model card, with figures computed by rnncore from what was exported."""
    model = rnncore.Model(*exported)
    numbers = series.numbers.astype(np.float32)
    forecasts = model(numbers[None, :-1, None])[0, :, 0].astype(np.float64)
    spans = {
        "training": (series.years[0] + WARM_UP, LAST_TRAINING_YEAR),
        "validation": (LAST_TRAINING_YEAR, LAST_VALIDATION_YEAR),
        "held out": (LAST_VALIDATION_YEAR, series.years[-1]),
    }
    rivals = [forecasts, linear_forecasts(series), series.numbers[:-1]]
    figures = "\n".join(
        f"| {name} | {after + 1} to {last} | "
        + " | ".join(f"{series.rmse(rival, after, last):.2f}" for rival in rivals)
        + " |"
        for name, (after, last) in spans.items()
    )
    return CARD.format(
        figures=figures,
        seed=seed,
        seeds=len(SEEDS),
        epoch=epoch,
        size=size,
        parameters=model.weights.count,
        hidden=HIDDEN,
        lags=LAGS,
        mean=series.mean,
        deviation=series.deviation,
        trained=LAST_TRAINING_YEAR,
        validated=LAST_VALIDATION_YEAR,
        torch=torch.__version__,
        statsmodels=statsmodels.__version__,
        first=series.years[0],
        last=series.years[-1],
        source=datasets.sunspots.SOURCE.split()[0],
        licence=datasets.sunspots.COPYRIGHT.strip(),
    )


CARD = """# sunspots

Forecasts next year's mean sunspot number from the yearly numbers so far. This file was written by
`examples/train/sunspots.py`, which trained the model; its figures are those of the exported model run by rnncore.

| | |
|---|---|
| task | one-step-ahead forecasting of a yearly series |
| input | `x`, float (B, T, 1): sunspot numbers of consecutive years, the longer the better |
| output | `forecast`, float (B, T, 1): at each year the number expected for the next one |
| network | LSTM, 1 to {hidden} units, then Linear to 1, then Relu: {parameters:,} parameters, float32 |
| scale | mean {mean:.4f} and deviation {deviation:.4f} of the training years, folded into the weights |
| file | `sunspots.safetensors`, {size:,} bytes, with a test pair computed by PyTorch |
| data | `sunspots.csv`: {first} to {last}, yearly means, from `statsmodels.api.datasets.sunspots` |
| source of the data | National Geophysical Data Center, <{source}> |
| licence of the data | statsmodels states: "{licence}" |
| licence of the model | that of rnncore (MIT) |
| training | `python examples/train/sunspots.py`, seed {seed} of {seeds}, {epoch} gradient steps |
| made with | torch {torch}, statsmodels {statsmodels} |

## Split and error

One step ahead, root mean square error in sunspot numbers. Training saw years up to {trained}; the years to {validated}
chose the seed and the moment to stop; the rest were held out.

| | years | RMSE | RMSE of a linear autoregression on {lags} years | RMSE of "same as last year" |
|---|---|---|---|---|
{figures}

The numbers are those of the international series before its revision in 2015 (version 1). The keepers of today's
version 2 state that it is higher by 1/0.6, and by about 45 % after 1947 (<https://www.sidc.be/silso/newdataset>):
do not mix the two.
"""


if __name__ == "__main__":
    main()
