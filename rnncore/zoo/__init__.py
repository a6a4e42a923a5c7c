"""Small trained models that come with the package, each with its data and a card that says what it is.

    sunspots             next year's sunspot number, at every year: LSTM; its data in sunspots.csv
    sunspots-rnn         the same from a window of years, many-to-one: SimpleRNN and Dense
    g2p, g2p-encoder     from spelling to phonemes: encoder-decoder with additive attention
    folk                 dance tunes in ABC notation, character by character: LSTM in 2 layers
    lm                   words of the King James Bible: LSTM 2 x 200
    sentiment            is a reviewer pleased? bidirectional LSTM with word attention
    tagger               the stress of each phoneme: bidirectional LSTM
    speakers             who says two vowels? bidirectional GRU over ragged utterances
    names, names-relu    the country of a family name: Elman networks with tanh and with ReLU
    peephole, cifg       the same with LSTM cells that have peepholes, and coupled gates
    digits               a drawn digit is spelled: one vector starts a GRU

    from rnncore import zoo
    model = rnncore.load("zoo:sunspots")
    years, numbers = zoo.sunspots_data()
    forecasts = model(numbers[None, :, None])         # (1, T, 1): at each year the number of the next

A card names the data, its source and licence, the split, the figures and the script that trained the model.
"""

from __future__ import annotations

import csv
from importlib import resources

import numpy as np

__all__ = ["card", "models", "sunspots_data"]

SUFFIX = ".safetensors"


def models() -> tuple[str, ...]:
    """Names of the models, as load takes them after "zoo:"."""
    entries = resources.files(__name__).iterdir()
    return tuple(sorted(entry.name.removesuffix(SUFFIX) for entry in entries if entry.name.endswith(SUFFIX)))


def card(name: str) -> str:
    """The card of a model, in Markdown."""
    if name not in models():
        raise ValueError(f"no model {name!r}, expected one of {', '.join(models())}")
    return (resources.files(__name__) / f"{name}.md").read_text(encoding="utf-8")


def sunspots_data() -> tuple[np.ndarray, np.ndarray]:
    """Yearly mean sunspot numbers from 1700 to 2008: years (309,) int64, numbers (309,) float32. New arrays."""
    with (resources.files(__name__) / "sunspots.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return np.array([int(row["year"]) for row in rows]), np.array([row["number"] for row in rows], np.float32)
