"""rnncore demo: the model that comes with rnncore, on years it was not trained on."""

from __future__ import annotations

import statistics
import time

import click
import numpy as np

from rnncore import loading, zoo
from rnncore._version import __version__
from rnncore.cli.output import console, say, table
from rnncore.model import Model

__all__ = ["demo"]

FIRST_HELD_OUT = 1960
BAR = 30  # columns of a bar
SECONDS = 0.4  # for each measurement of speed
BATCHES = (1, 64)


@click.command(short_help="Forecast sunspots with the model that comes with rnncore.")
def demo() -> None:
    """Forecasts sunspots: the model that comes with rnncore, on years it was not trained on.

    zoo:sunspots, a small LSTM trained in PyTorch, forecasts each year from 1960 to 2008 out of the numbers up to the
    year before. No network, no framework. The model card is rnncore/zoo/sunspots.md.

    \b
    Example:
        rnncore demo
    """
    model = loading.load("zoo:sunspots")
    years, numbers = zoo.sunspots_data()
    forecasts = model(numbers[None, :-1, None])[0, :, 0]
    chosen = years[1:] >= FIRST_HELD_OUT
    truth, before, found = (array[chosen].astype(np.float64) for array in (numbers[1:], numbers[:-1], forecasts))
    _print_years(years[1:][chosen], found, truth)
    error, naive = _rmse(found - truth), _rmse(before - truth)
    say(f"RMSE {error:.2f} sunspots; of the forecast 'same as last year' {naive:.2f}")
    _print_speed(model, numbers)


def _print_years(years: np.ndarray, forecasts: np.ndarray, truth: np.ndarray) -> None:
    out = console()
    ascii_only = out.options.ascii_only
    scale = (BAR - 1) / max(truth.max(), forecasts.max())
    rows = [
        (
            year,
            f"{forecast:.1f}",
            f"{true:.1f}",
            f"{forecast - true:+.1f}",
            _bar(true * scale, forecast * scale, ascii_only),
        )
        for year, forecast, true in zip(years, forecasts, truth, strict=True)
    ]
    mark = "o" if ascii_only else "◆"
    columns = ("year", "forecast", "truth", "error", f"truth as a bar, forecast {mark}")
    title = f"zoo:sunspots, one year ahead, held-out years {years[0]} to {years[-1]}"
    out.print(table(title, columns, rows, right=columns[:4]))


def _bar(length: float, mark: float, ascii_only: bool) -> str:
    """A bar with a mark in or behind it."""
    bar, empty, sign = ("=", " ", "o") if ascii_only else ("━", " ", "◆")
    cells = [bar if i < round(length) else empty for i in range(BAR)]
    cells[round(mark)] = sign
    return "".join(cells).rstrip()


def _print_speed(model: Model, numbers: np.ndarray) -> None:
    """Steps in a second, the median of many runs over the whole series."""
    say(f"rnncore {__version__}, {model.dtype.name}, {len(numbers)} steps a sequence, median of repeated runs:")
    for batch in BATCHES:
        x = np.repeat(numbers[None, :, None], batch, axis=0)
        seconds = _median_seconds(model, x)
        rate = batch * len(numbers) / seconds
        what = "1 sequence  " if batch == 1 else f"{batch} sequences"
        say(f"    {what}   {rate:>12,.0f} steps/s   {seconds * 1e6:,.0f} microseconds a run")


def _median_seconds(model: Model, x: np.ndarray) -> float:
    model(x)
    times = []
    stop = time.perf_counter() + SECONDS
    while time.perf_counter() < stop or len(times) < 5:
        start = time.perf_counter()
        model(x)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))
