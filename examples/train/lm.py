"""Trains lm, a stacked word model of the classic small shape (2 x 200), in PyTorch.

    pip install "rnncore[train]";  apt install bible-kjv
    python examples/train/lm.py

Reads the King James Bible as Debian's program bible prints it, and learns to write the next word.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter

import numpy as np
import torch
from common import arguments, card, save
from language import Language, bits, parts_of, trained
from ngram import KneserNey

HIDDEN, DROPOUT = 200, 0.25
WORDS = 840  # so that the file stays under 2 MB; all others are <unk>
EPOCHS, RATE = 5, 4e-3
ORDER = 3
OTHER, STOP = "<unk>", "<stop>"
CHAPTERS = 25  # of so many chapters in a row one is for validation and one is held out


def chapters() -> list[list[str]]:
    """The words and punctuation marks of each chapter, each verse followed by <stop>."""
    text = subprocess.run(
        ["bible", "-l", "100000", "Gen1:1-Rev22:21"], check=True, capture_output=True, text=True
    ).stdout
    found: list[list[str]] = []
    for line in text.splitlines():
        verse = re.match(r"\s*(\d+) (.*)", line)
        if verse is None:
            continue
        if verse[1] == "1":
            found.append([])
        found[-1] += [*re.findall(r"[a-z]+(?:'[a-z]+)?|[.,;:?!]", verse[2].lower()), STOP]
    return found


def data():
    """words; "training", "validation" and "held out" -> ids in a row; the chapters; and which are for what"""
    found = chapters()
    places = {"validation": 7, "held out": 19}
    split = {name: [c for i, c in enumerate(found) if i % CHAPTERS == place] for name, place in places.items()}
    split["training"] = [c for i, c in enumerate(found) if i % CHAPTERS not in places.values()]
    counts = Counter(word for chapter in split["training"] for word in chapter if word != STOP)
    words = [STOP, OTHER, *(word for word, _ in counts.most_common(WORDS - 2))]
    ids = {word: number for number, word in enumerate(words)}
    rows = {
        name: np.array([0, *(ids.get(word, 1) for chapter in many for word in chapter)]) for name, many in split.items()
    }
    return words, rows, found, split


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    words, rows, found, split = data()
    print({name: len(row) for name, row in rows.items()})
    network = Language(len(words), HIDDEN, HIDDEN, DROPOUT)
    network, epoch = trained(network, options, rows["training"], rows["validation"], EPOCHS, RATE)
    full = 2 ** bits(network, rows["held out"])
    spec, weights, pair = parts_of(network)
    half = 2 ** bits(network, rows["held out"])
    grams = 2 ** KneserNey(rows["training"], ORDER, len(words)).bits(rows["held out"])
    save(options.target, "lm", spec, weights, pair, {"tokens": words, "logits": words})
    facts = {
        "task": "next word of a text",
        "input": f"`tokens`, ids (B, T); id 0 is {STOP}, behind every verse, id 1 {OTHER}, for all other words",
        "output": "`logits` (B, T, V) of the next word",
        "network": f"Embedding {len(words)} to {HIDDEN}, LSTM {HIDDEN} in 2 layers, Linear",
        "data": f"King James Bible, {len(found):,} chapters, {sum(map(len, rows.values())):,} words and marks",
        "source of the data": "Debian packages bible-kjv and bible-kjv-text 4.38",
        "licence of the data": "out of copyright; the file: unrestricted use, Chip Chapin",
        "training": f"`python examples/train/lm.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"torch {torch.__version__}",
    }
    figures = FIGURES.format(
        held=len(split["held out"]), full=full, half=half, grams=grams, order=ORDER, words=len(words)
    )
    print(figures)
    card(options.target, "lm", "A stacked LSTM word model, 2 x 200.", facts, figures)


FIGURES = """Perplexity on {held} held-out chapters, over a vocabulary of {words} entries:

| | perplexity |
|---|---|
| float32 weights | {full:.2f} |
| as shipped, float16 weights | {half:.2f} |
| {order}-gram, interpolated Kneser-Ney, same training text | {grams:.2f} |
"""


if __name__ == "__main__":
    main()
