"""A forecast: next year's sunspot number, on years the network was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rnncore import zoo
from rnncore.cli.demos.base import Demo, model_of, pyplot, speed
from rnncore.cli.output import console, say, table

__all__ = ["DEMOS"]

FIRST_HELD_OUT = 1960
BAR = 30  # columns of a bar


def forecast() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(years, forecasts, truth, the year before), of the held-out years"""
    years, numbers = zoo.sunspots_data()
    forecasts = model_of("sunspots")(numbers[None, :-1, None])[0, :, 0]
    chosen = years[1:] >= FIRST_HELD_OUT
    found, truth, before = (array[chosen].astype(np.float64) for array in (forecasts, numbers[1:], numbers[:-1]))
    return years[1:][chosen], found, truth, before


def show(text: str | None) -> None:
    years, found, truth, before = forecast()
    _print_years(years, found, truth)
    error, naive = _rmse(found - truth), _rmse(before - truth)
    say(f"RMSE {error:.2f} sunspots; of the forecast 'same as last year' {naive:.2f}")
    model, (_, numbers) = model_of("sunspots"), zoo.sunspots_data()
    for batch in (1, 64):
        x = np.repeat(numbers[None, :, None], batch, axis=0)
        speed(f"{batch} x {x.shape[1]} years", lambda x=x: model(x), x.size, "steps")


def plot(text: str | None, path: Path) -> None:
    plt = pyplot()
    years, found, truth, before = forecast()
    figure, axes = plt.subplots(figsize=(9, 3.6))
    axes.plot(years, truth, color="#333333", linewidth=1.5, label="observed")
    axes.plot(years, found, color="#e07a1f", linewidth=2, label=f"forecast, RMSE {_rmse(found - truth):.1f}")
    same = f"same as last year, RMSE {_rmse(before - truth):.1f}"
    axes.plot(years, before, color="#9aa5b1", linewidth=1, linestyle=":", label=same)
    axes.set_xlabel("year (none of them seen in training)")
    axes.set_ylabel("mean sunspot number")
    axes.set_title("Sunspots, forecast one year ahead by zoo:sunspots")
    axes.legend(frameon=False, fontsize=9, ncols=3)
    axes.set_ylim(0, 215)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


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


def _rmse(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(errors))))


DEMOS = (Demo("sunspots", "a forecast: LSTM on yearly sunspot numbers", show, plot),)
