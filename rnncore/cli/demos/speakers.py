"""Speakers told by their voices: utterances of different lengths."""

from __future__ import annotations

from typing import cast

import numpy as np

from rnncore.cli.demos.base import Demo, bar, speed
from rnncore.cli.output import say
from rnncore.formats import loading
from rnncore.graph.test_pair import TestPair
from rnncore.runtime.model import Model

__all__ = ["DEMOS"]


def show(text: str | None) -> None:
    file = loading.open_file("zoo:speakers")
    model = Model(file.spec, file.weights, vocabulary=file.vocabulary)
    (entry,), (output,) = model.inputs[:1], model.outputs[:1]
    utterances = cast(TestPair, file.test_pair).inputs[entry.name]
    for row, shares in enumerate(model.run({entry.name: utterances})[output.name]):
        frames = int(np.any(utterances[row] != 0, axis=1).sum())
        best = int(shares.argmax())
        who = model.vocabulary[output.name][best]
        what = f"{frames:2} frames of speaker {row + 1}"  # one utterance of each of the first six
        say(f"    {what}  ->  {who}, {shares[best]:.0%}  {bar(float(shares[best]), 20)}")
    many = np.repeat(utterances, 64, axis=0)
    speed(f"{len(many)} utterances together", lambda: model.run({entry.name: many}), len(many), "utterances")


DEMOS = (Demo("speakers", "which of nine men says two vowels: bidirectional GRU, ragged input", show, "speakers"),)
