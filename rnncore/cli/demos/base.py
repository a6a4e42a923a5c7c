"""What every demo is, and the little that they share."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnncore import loading
from rnncore.cli.output import console, say
from rnncore.errors import InputError
from rnncore.model import Model

__all__ = ["Demo", "bar", "model_of", "pyplot", "shade", "speed"]

SECONDS = 0.15  # for a measurement of speed
SHADES = " .:-=+*#%@"


@dataclass(frozen=True)
class Demo:
    """name, as on the command line; title, one line; show(text); plot(text, path) or None; example, its own text."""

    name: str
    title: str
    show: Callable[[str | None], None]
    plot: Callable[[str | None, Path], None] | None = None
    takes: str | None = None
    """What a text of the user's own is, or None where none is taken."""


@functools.cache
def model_of(name: str) -> Model:
    """A model of the zoo, loaded once."""
    return loading.load(f"zoo:{name}")


def speed(what: str, run: Callable[[], Any], per_call: float, unit: str) -> None:
    """Prints the median time of repeated calls, and the rate."""
    run()
    times = []
    stop = time.perf_counter() + SECONDS
    while time.perf_counter() < stop or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    say(f"    {what}: {seconds * 1e6:,.0f} microseconds, {per_call / seconds:,.0f} {unit}/s")


def bar(share: float, width: int = 30) -> str:
    """A share from 0 to 1 as a bar of text."""
    sign = "=" if console().options.ascii_only else "━"
    return sign * round(share * width)


def shade(share: float) -> str:
    """A share from 0 to 1 as a light or dark character."""
    return SHADES[min(int(share * len(SHADES)), len(SHADES) - 1)]


def pyplot():
    """matplotlib's, without a window."""
    try:
        import matplotlib
    except ImportError:
        raise InputError('--plot needs matplotlib: pip install "rnncore[plot]"') from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
