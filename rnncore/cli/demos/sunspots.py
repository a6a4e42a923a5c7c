"""A forecast: next year's sunspot number, on years the networks were not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rnncore import zoo
from rnncore.cli.demos.base import PICTURES, Demo, model_of, pyplot, speed
from rnncore.cli.output import console, say, table

__all__ = ["DEMOS", "forecast"]

FIRST_HELD_OUT = 1960
WINDOW = 33  # years that the SimpleRNN was trained to look back
SHOWN = 12  # of the held-out years, the last: a solar cycle
BAR = 30  # columns of a bar


@dataclass(frozen=True)
class Forecast:
    """The held-out years, each array (49,): what was observed, and what was expected a year before."""

    years: np.ndarray
    truth: np.ndarray
    lstm: np.ndarray
    rnn: np.ndarray
    last_year: np.ndarray

    def rmse(self, expected: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(expected - self.truth))))


def forecast() -> Forecast:
    years, numbers = zoo.sunspots_data()
    chosen = np.flatnonzero(years >= FIRST_HELD_OUT)
    read: Any = model_of("sunspots")(numbers[None, :, None])  # on and on: a forecast at every year
    lstm = read[0, chosen - 1, 0]
    windows = np.lib.stride_tricks.sliding_window_view(numbers, WINDOW)[chosen - WINDOW]  # the years before each
    last: Any = model_of("sunspots-rnn")(np.ascontiguousarray(windows)[..., None])  # many-to-one
    series = (numbers[chosen], lstm, last[:, 0], numbers[chosen - 1])
    return Forecast(years[chosen], *(array.astype(np.float64) for array in series))


def show(text: str | None) -> None:
    years = forecast()
    _print_years(years)
    for what, expected in (
        ("LSTM, which reads the whole series", years.lstm),
        (f"SimpleRNN, which reads the last {WINDOW} years", years.rnn),
        ("same as last year", years.last_year),
    ):
        say(f"    {what:42} RMSE {years.rmse(expected):5.2f} on {len(years.years)} held-out years")
    model, (_, numbers) = model_of("sunspots"), zoo.sunspots_data()
    for batch in (1, 64):
        x = np.repeat(numbers[None, :, None], batch, axis=0)
        speed(f"LSTM, {batch} x {x.shape[1]} years", partial(model, x), x.size, "steps")


def plot(text: str | None, path: Path) -> None:
    plt = pyplot()
    series = forecast()
    figure, axes = plt.subplots(figsize=(9, 4))
    axes.plot(series.years, series.truth, color="#222222", linewidth=2, label="observed")
    for label, expected, style in (
        ("LSTM", series.lstm, {"color": "#d95f02", "linewidth": 1.8}),
        ("SimpleRNN", series.rnn, {"color": "#1f77b4", "linewidth": 1.5, "linestyle": "--"}),
        ("same as last year", series.last_year, {"color": "#9aa5b1", "linewidth": 1, "linestyle": ":"}),
    ):
        axes.plot(series.years, expected, label=f"{label}: off by {series.rmse(expected):.1f} (RMSE)", **style)
    axes.set_xlabel("year (none of them seen in training)")
    axes.set_ylabel("mean sunspot number of the year")
    axes.set_title("Sunspots, forecast one year ahead")
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center")
    axes.set_ylim(0, 235)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _print_years(series: Forecast) -> None:
    out = console()
    ascii_only = out.options.ascii_only
    last = slice(-SHOWN, None)
    scale = (BAR - 1) / max(series.truth[last].max(), series.lstm[last].max())
    rows = [
        (year, f"{true:.1f}", f"{lstm:.1f}", f"{rnn:.1f}", _bar(true * scale, lstm * scale, ascii_only))
        for year, true, lstm, rnn in zip(
            series.years[last], series.truth[last], series.lstm[last], series.rnn[last], strict=True
        )
    ]
    mark = "o" if ascii_only else "◆"
    columns = ("year", "truth", "LSTM", "SimpleRNN", f"truth as a bar, LSTM {mark}")
    out.print(table(f"one year ahead, the last {SHOWN} held-out years", columns, rows, right=columns[:4]))


def _bar(length: float, mark: float, ascii_only: bool) -> str:
    """A bar with a mark in or after it."""
    bar, empty, sign = ("=", " ", "o") if ascii_only else ("━", " ", "◆")
    cells = [bar if i < round(length) else empty for i in range(BAR)]
    cells[round(mark)] = sign
    return "".join(cells).rstrip()


DEMOS = (
    Demo(
        "sunspots",
        "next year's sunspot number: LSTM, and SimpleRNN many-to-one",
        show,
        "sunspots --plot sunspots.png",
        plot=plot,
        drawing="Draw the forecasts of the held-out years",
        draws=PICTURES,
    ),
)
