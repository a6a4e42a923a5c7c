"""The stress of a word: one label for each phoneme. The phonemes come from g2p."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnncore.cli.demos.base import Demo, model_of, speed
from rnncore.cli.demos.g2p import pronounce
from rnncore.cli.output import say

__all__ = ["DEMOS"]

EXAMPLE = "photograph photographer bidirectional"
MARKS = {"primary": "'", "secondary": ",", "no stress": "", "consonant": ""}


def show(text: str | None) -> None:
    words = (text or EXAMPLE).lower().split()
    model = model_of("tagger")
    (entry,), (output,) = model.inputs[:1], model.outputs[:1]
    phonemes, labels = model.vocabulary[entry.name], model.vocabulary[output.name]
    spoken = pronounce(words)
    say("    before a vowel ' is the primary stress, and , a secondary one")
    for word, sounds in zip(words, spoken, strict=True):
        scores: Any = model(np.array([phonemes.ids(" ".join(sounds))]))
        tags = scores[0].argmax(1)
        say(f"    {word:16} {' '.join(MARKS[labels[tag]] + sound for sound, tag in zip(sounds, tags, strict=True))}")
    batch = np.array([phonemes.ids(" ".join(spoken[0]))] * 256)
    speed(f"256 words of {batch.shape[1]} phonemes", lambda: model(batch), batch.size, "labels")


DEMOS = (
    Demo(
        "tagger",
        "the stress of a word, phoneme by phoneme: bidirectional LSTM",
        show,
        "tagger record recorder",
        "English words, which g2p turns into phonemes",
    ),
)
