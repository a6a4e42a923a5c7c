"""The base of every demo, and the little that they share."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnncore.cli.output import console, say
from rnncore.errors import InputError
from rnncore.formats import loading
from rnncore.graph.vocabulary import Vocabulary
from rnncore.runtime.model import Model

__all__ = ["PICTURES", "Demo", "bar", "model_of", "pyplot", "say_unknown", "shade", "speed"]

SECONDS = 0.15  # for a measurement of speed
SHADES = " .:-=+*#%@"


PICTURES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Demo:
    """A demo.

    name, title  as on the command line, and one line that says what it does with which network
    show(text)   prints text in, answer out; None: a text of its own
    takes        what a text of the user's own is, or None where none is taken;  example: a command line, from NAME on
    plot(text, path), drawing, draws
                 writes a file, says what is in it, and the endings of its name
    """

    name: str
    title: str
    show: Callable[[str | None], None]
    example: str
    takes: str | None = None
    plot: Callable[[str | None, Path], None] | None = None
    drawing: str = ""
    draws: tuple[str, ...] = ()


@functools.cache
def model_of(name: str) -> Model:
    """A model of the zoo, loaded once."""
    return loading.load(f"zoo:{name}")


def speed(what: str, run: Callable[[], Any], per_call: float, unit: str) -> None:
    """Prints the median time of repeated calls, and the rate."""
    run()
    times: list[float] = []
    stop = time.perf_counter() + SECONDS
    while time.perf_counter() < stop or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    say(f"    {what}: {seconds * 1e3:.3g} ms, {per_call / seconds:,.0f} {unit}/s")


def say_unknown(vocabulary: Vocabulary, words: Sequence[str]) -> None:
    """Says which words the network has never seen."""
    unknown = [word for word in dict.fromkeys(words) if word not in vocabulary]
    if unknown:
        say(f"    not among its {len(vocabulary):,} words, and read as <unk>: {', '.join(unknown)}")


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
