"""A picture starts a decoder that spells the digit's name."""

from __future__ import annotations

from typing import cast

import numpy as np

from rnncore.cli.demos.base import Demo, shade, speed
from rnncore.cli.output import say
from rnncore.formats import loading
from rnncore.graph.test_pair import TestPair
from rnncore.runtime.model import Model

__all__ = ["DEMOS"]

LONGEST = 8


def show(text: str | None) -> None:
    file = loading.open_file("zoo:digits")
    pictures = cast(TestPair, file.test_pair).inputs["picture"]
    model = Model(file.spec, file.weights, vocabulary=file.vocabulary)
    names = spell(model, pictures)
    rows = [[" ".join(shade(float(point)) for point in line) for line in one.reshape(8, 8)] for one in pictures]
    for line in zip(*rows, strict=True):
        say("    " + "      ".join(line))
    say("    " + "      ".join(f"{name:15}" for name in names))
    many = np.repeat(pictures, 64, axis=0)
    speed(f"{len(many)} pictures in one batch", lambda: spell(model, many), len(many), "pictures")


def spell(model: Model, pictures: np.ndarray) -> list[str]:
    """The likeliest letter after the likeliest letter, until <stop>."""
    generated = model.generate(
        [["<stop>"]] * len(pictures), LONGEST, stop=["<stop>"], inputs={"picture": pictures}, tokens="letters"
    )
    return [one.text or "" for one in generated]


DEMOS = (Demo("digits", "a drawn digit is spelled: one vector in, a sequence out", show, "digits"),)
