"""The country of a family name: Elman networks with tanh and ReLU, LSTM with peepholes and with coupled gates."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnncore.cli.demos.base import Demo, bar, model_of, speed
from rnncore.cli.output import say
from rnncore.errors import InputError

__all__ = ["DEMOS"]

EXAMPLES = "tanaka papadopoulos wisniewska"
KINDS = {
    "names": "Elman, tanh",
    "names-relu": "Elman, ReLU",
    "peephole": "LSTM, peepholes",
    "cifg": "LSTM, coupled gates",
}


def show(text: str | None) -> None:
    names = (text or EXAMPLES).lower().split()
    models = {what: model_of(kind) for kind, what in KINDS.items()}
    first = next(iter(models.values()))
    letters, countries = first.vocabulary[first.inputs[0].name], first.vocabulary[first.outputs[0].name]
    wrong = sorted(set("".join(names)) - set(letters))
    if wrong:
        raise InputError(f"letters {' '.join(wrong)}, expected those from a to z, ' and -")
    rows = [np.array(letters.ids(name)) for name in names]
    probabilities: dict[str, list[Any]] = {what: [*model.predict(rows)] for what, model in models.items()}
    for place, name in enumerate(names):
        say(f"    {name}")
        for what, answers in probabilities.items():
            best = int(answers[place].argmax())
            share = float(answers[place][best])
            say(f"        {what:20} {countries[best]:10} {share:4.0%}  {bar(share, 20)}")
    many = rows * 100
    speed(f"{len(many)} names of different lengths", lambda: first.predict(many), len(many), "names")


DEMOS = (
    Demo(
        "names",
        "the country of a family name: Elman networks and LSTM variants",
        show,
        "names yamamoto schneider",
        "family names",
    ),
)
