"""The country of a family name: Elman networks with tanh and with ReLU."""

from __future__ import annotations

import numpy as np

from rnncore import loading
from rnncore.cli.demos.base import Demo, bar, speed
from rnncore.cli.output import say
from rnncore.errors import InputError

__all__ = ["DEMOS"]

EXAMPLES = "tanaka papadopoulos wisniewska"
BEST = 3


def show(text: str | None) -> None:
    names = (text or EXAMPLES).lower().split()
    for kind in ("names", "names-relu"):
        model = loading.load(f"zoo:{kind}")
        letters, countries = model.vocabulary["letters"], model.vocabulary["probabilities"]
        wrong = sorted(set("".join(names)) - set(letters))
        if wrong:
            raise InputError(f"letters {' '.join(wrong)}, expected those from a to z, ' and -")
        found = model.predict([np.array(letters.ids(name)) for name in names])
        say(f"    {'tanh' if kind == 'names' else 'ReLU'}")
        for name, shares in zip(names, found, strict=True):
            places = np.argsort(-shares)[:BEST]
            say(f"    {name:16}" + "".join(f"{countries[i]:>12} {shares[i]:4.0%}" for i in places))
            say(f"    {'':16}{bar(float(shares[places[0]]))}")
    many = [np.array(letters.ids(name)) for name in names] * 100
    speed(f"{len(many)} names of different lengths", lambda: model.predict(many), len(many), "names")


DEMOS = (Demo("names", "the country of a family name: Elman networks, tanh and ReLU", show, None, "family names"),)
