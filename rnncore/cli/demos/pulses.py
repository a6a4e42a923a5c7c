"""Networks that count: an LSTM with peepholes and one with coupled gates, step by step."""

from __future__ import annotations

import numpy as np

from rnncore import loading
from rnncore.cli.demos.base import Demo, speed
from rnncore.cli.output import say

__all__ = ["DEMOS"]

PERIOD, STEPS = 7, 60


def train_of_pulses(late: bool) -> np.ndarray:
    """(1, STEPS, 1): a pulse every PERIOD steps; late: from the fifth on a step later."""
    places = np.arange(2, STEPS - 1, PERIOD)
    places[4:] += late
    x = np.zeros((1, STEPS, 1), np.float32)
    x[0, places] = 1
    return x


def show(text: str | None) -> None:
    trains = {late: train_of_pulses(late) for late in (False, True)}
    for late, x in trains.items():
        say(
            f"    {''.join('|' if pulse else '.' for pulse in x[0, :, 0])}  {'one pulse is late' if late else 'steady'}"
        )
    for kind, what in (("peephole", "LSTM with peepholes"), ("cifg", "LSTM with coupled gates")):
        model = loading.load(f"zoo:{kind}")
        shares = {late: float(model(x)[0, 1]) for late, x in trains.items()}
        say(f"    {what:24} late? {shares[False]:4.0%} for the steady train, {shares[True]:4.0%} for the other")
    many = np.repeat(trains[True], 256, axis=0)
    speed(f"256 trains of {STEPS} steps", lambda: model(many), many.size, "steps")


DEMOS = (Demo("pulses", "is a pulse late? LSTM with peepholes, LSTM with coupled gates", show),)
