"""Yearly sunspot numbers: what the two scripts that learn to forecast them share.

Years up to 1930 are for training, 1931 to 1959 choose the epoch and the seed, and 1960 to 2008 are held out for the
model card. The scale of the training years is folded into the weights of a model, so that it takes and gives numbers
as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import statsmodels
from common import card
from statsmodels.api import datasets

__all__ = ["LAST_TRAINING_YEAR", "NOISE", "WARM_UP", "Series", "errors", "fold_scale", "louder", "read", "write_card"]

LAST_TRAINING_YEAR, LAST_VALIDATION_YEAR = 1930, 1959
WARM_UP = 11  # first years, one solar cycle, of which no forecast is scored
LAGS = 9  # of the linear forecast that the cards compare with
LOUDNESS = 0.3  # in training, pieces are multiplied by 1 - LOUDNESS to 1 + LOUDNESS: solar cycles differ in height
NOISE = 0.1  # and this is the standard deviation added to what is read, in units of the training years'


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

    @property
    def scaled(self) -> np.ndarray:
        return (self.numbers - self.mean) / self.deviation

    def rmse(self, forecasts: np.ndarray, after: int, up_to: int) -> float:
        """Root mean square error in the years after < year <= up_to; forecasts[t] is for year t + 1."""
        chosen = (self.years[1:] > after) & (self.years[1:] <= up_to)
        return float(np.sqrt(np.mean(np.square(forecasts - self.numbers[1:])[chosen])))

    def validation_rmse(self, scaled: np.ndarray) -> float:
        """Of forecasts (T - 1,) on the scaled numbers."""
        forecasts = np.maximum(scaled * self.deviation + self.mean, 0)
        return self.rmse(forecasts, LAST_TRAINING_YEAR, LAST_VALIDATION_YEAR)


def read() -> Series:
    data = datasets.sunspots.load_pandas().data
    return Series(data["YEAR"].to_numpy(np.int64), data["SUNACTIVITY"].to_numpy(np.float64))


def louder(series: Series, pieces, drawn):
    """Scaled pieces (B, T) as if the numbers of each had been louder or softer, by its drawn (B, 1) from -1 to 1."""
    zero = -series.mean / series.deviation
    return zero + (pieces - zero) * (1 + LOUDNESS * drawn)


def fold_scale(
    series: Series, kernel: np.ndarray, bias: np.ndarray, head: np.ndarray, head_bias: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Input weights (G,) and bias (G,), output weights and bias for scaled numbers -> for numbers as they are.

    W ((x - m) / s) + b = (W / s) x + (b - W m / s), and s (V h + d) + m = (s V) h + (s d + m); in float64.
    """
    kernel = kernel / series.deviation
    return kernel, bias - kernel * series.mean, head * series.deviation, head_bias * series.deviation + series.mean


def linear_forecasts(series: Series) -> np.ndarray:
    """(T - 1,) forecasts of a linear autoregression on LAGS years, fitted to the training years by least squares."""
    known = np.lib.stride_tricks.sliding_window_view(series.numbers[:-1], LAGS)
    known = np.column_stack([known, np.ones(len(known))])
    fitted = len(series.training) - LAGS
    weights = np.linalg.lstsq(known[:fitted], series.numbers[LAGS:][:fitted], rcond=None)[0]
    return np.concatenate([series.numbers[: LAGS - 1], known @ weights])


def errors(series: Series, forecasts: np.ndarray) -> dict[str, tuple[str, float, float, float]]:
    """Part -> its years, and the errors of the forecasts, of the linear ones, and of "same as last year"."""
    spans = {
        "training": (series.years[0] + WARM_UP, LAST_TRAINING_YEAR),
        "validation": (LAST_TRAINING_YEAR, LAST_VALIDATION_YEAR),
        "held out": (LAST_VALIDATION_YEAR, series.years[-1]),
    }
    rivals = [forecasts, linear_forecasts(series), series.numbers[:-1]]
    return {
        name: (f"{after + 1} to {last}", *(series.rmse(rival, after, last) for rival in rivals))
        for name, (after, last) in spans.items()
    }


def write_card(
    directory: Path, name: str, title: str, facts: Mapping[str, str], series: Series, forecasts: np.ndarray
) -> None:
    """NAME.md; forecasts (T - 1,) are those of the exported model, run by rnncore."""
    shared = {
        "task": "one-step-ahead forecasting of a yearly series",
        "scale": f"mean {series.mean:.4f} and deviation {series.deviation:.4f} of the training years, in the weights",
        "data": f"`sunspots.csv`: {series.years[0]} to {series.years[-1]}, yearly means, from "
        f"`statsmodels.api.datasets.sunspots`, statsmodels {statsmodels.__version__}",
        "source of the data": f"National Geophysical Data Center, <{datasets.sunspots.SOURCE.split()[0]}>",
        "licence of the data": f'statsmodels states: "{datasets.sunspots.COPYRIGHT.strip()}"',
    }
    rows = "\n".join(
        f"| {part} | {years} | " + " | ".join(f"{one:.2f}" for one in found) + " |"
        for part, (years, *found) in errors(series, forecasts).items()
    )
    text = TEXT.format(rows=rows, lags=LAGS, trained=LAST_TRAINING_YEAR, validated=LAST_VALIDATION_YEAR)
    print(text)
    card(directory, name, title, {**shared, **facts}, text)


TEXT = """One step ahead, root mean square error in sunspot numbers. Training saw years up to {trained}; the years to
{validated} chose the seed and the moment to stop; the rest were held out.

| | years | RMSE | RMSE of a linear autoregression on {lags} years | RMSE of "same as last year" |
|---|---|---|---|---|
{rows}

The numbers are those of the international series before its revision in 2015 (version 1). The keepers of today's
version 2 state that it is higher by 1/0.6, and by about 45 % after 1947 (<https://www.sidc.be/silso/newdataset>):
do not mix the two.
"""
