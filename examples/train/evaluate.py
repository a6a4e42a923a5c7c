"""Measures the models of the zoo on the data that was held out, with rnncore, and compares with their cards.

    pip install "rnncore[train]"
    python examples/train/evaluate.py [NAME ...]

Exit code 1 if a figure is not the one in the card.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")  # the scripts whose data are read import Keras

import digits
import folk
import g2p
import lm
import names
import numpy as np
import sentiment
import series
import speakers
import sunspots
import sunspots_rnn
import tagger
from common import split

import rnncore
from rnncore import zoo


def accuracy_of_names(name: str) -> list[str]:
    ids, truth = names.rows_of(names.read())["held out"]
    found = rnncore.load(f"zoo:{name}").predict([np.array(row) for row in ids])
    return [f"{np.mean([row.argmax() for row in found] == truth):.2%}"]


def of_sentiment(name: str) -> list[str]:
    model = rnncore.load("zoo:sentiment")
    found = sentiment.read()
    parts = split([text for text, _, _ in found])
    held = [entry for entry in found if parts[entry[0]] == "held out"]
    known = model.vocabulary["words"]
    right = []
    for _, words, label in held:
        ids = [known.ids(word)[0] if word in known else known.ids("<unk>")[0] for word in words]
        right.append(model.run({"words": np.array([ids])})["probabilities"][0].argmax() == label)
    training = [entry for entry in found if parts[entry[0]] == "training"]
    pleased = np.mean([label for *_, label in held])
    baselines = max(pleased, 1 - pleased), sentiment.bag_of_words(training, held)
    return [f"{share:.2%}" for share in (np.mean(right), *baselines)]


def of_speakers(name: str) -> list[str]:
    x, truth = speakers.read("TEST")
    model = rnncore.load("zoo:speakers")
    found = model.run({model.inputs[0].name: x})[model.outputs[0].name]
    return [f"{np.mean(found.argmax(1) == truth):.2%}"]


def of_digits(name: str) -> list[str]:
    pictures, numbers, part = digits.read()
    chosen = part == "held out"
    model = rnncore.load("zoo:digits")
    found = model.generate(
        [["<stop>"]] * chosen.sum(), digits.LONGEST, stop=["<stop>"], inputs={"picture": pictures[chosen]},
        tokens="letters",
    )  # fmt: skip
    right = [one.text == digits.WORDS[number] for one, number in zip(found, numbers[chosen], strict=True)]
    return [f"{np.mean(right):.2%}"]


def of_tagger(name: str) -> list[str]:
    found, phonemes = tagger.read()
    parts = split(list(found))
    x, y = tagger.arrays([word for word in found if parts[word] == "held out"], found, phonemes)
    model = rnncore.load("zoo:tagger")
    tags = np.concatenate([model(x[first : first + 1000]).argmax(2) for first in range(0, len(x), 1000)])
    vowels, words = tagger.accuracy_of(tags, y)
    return [f"{vowels:.2%}", f"{words:.2%}"]


def bits_of(name: str, row: np.ndarray) -> float:
    """Mean bits a token, from the second on, read piece by piece with the state kept."""
    model = rnncore.load(f"zoo:{name}")
    state, total = None, 0.0
    for first in range(0, len(row) - 1, 2000):
        piece = row[first : first + 2001]
        logits, state = model(piece[None, :-1], state)
        scores = logits[0].astype(np.float64)
        scores -= scores.max(1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        total -= scores[np.arange(len(scores)), piece[1:]].sum()
    return total / (len(row) - 1) / np.log(2)


def of_folk(name: str) -> list[str]:
    read, share = folk.judged(folk.composed(rnncore.load("zoo:folk"))).split(" | ")
    return [f"{bits_of('folk', folk.data()[1]['held out']):.3f}", read, share]


def of_lm(name: str) -> list[str]:
    return [f"{2 ** bits_of('lm', lm.data()[1]['held out']):.2f}"]


def of_g2p(name: str) -> list[str]:
    found, _ = g2p.read()
    parts = split(list(found))
    words = [word for word in found if parts[word] == "held out"]
    encoder, decoder = rnncore.load("zoo:g2p-encoder"), rnncore.load("zoo:g2p")
    counts = []
    for first in range(0, len(words), 1000):
        letters, lengths = g2p.batch_of(words[first : first + 1000])
        encoded = encoder.run({"letters": letters.numpy(), "lengths": lengths.numpy()})
        inputs = {**encoded, "memory_lengths": lengths.numpy()}
        spoken = decoder.generate([["<stop>"]] * len(letters), g2p.LONGEST, stop=["<stop>"], inputs=inputs)
        for word, one in zip(words[first : first + 1000], spoken, strict=True):
            counts.append(g2p.errors(tuple(one.text.split()), found[word]))
    edits, lengths = np.array(counts).T
    return [f"{edits.sum() / lengths.sum():.2%}", f"{np.mean(edits > 0):.2%}"]


def of_sunspots(name: str) -> list[str]:
    numbers = series.read()
    forecasts = {"sunspots": sunspots.forecasts, "sunspots-rnn": sunspots_rnn.forecasts}[name]
    years, *found = series.errors(numbers, forecasts(rnncore.load(f"zoo:{name}"), numbers))["held out"]
    return [years, *(f"{one:.2f}" for one in found)]


MEASURES = {
    **dict.fromkeys(("names", "names-relu", "peephole", "cifg"), accuracy_of_names),
    "sentiment": of_sentiment,
    "speakers": of_speakers,
    "digits": of_digits,
    "tagger": of_tagger,
    "folk": of_folk,
    "lm": of_lm,
    "g2p": of_g2p,
    **dict.fromkeys(("sunspots", "sunspots-rnn"), of_sunspots),
}


# how the rows of a card begin that say what is measured here, and what it is compared with
MEASURED = ("| as shipped", "| held out")
BASELINES = {"sentiment": ("| always the commoner", "| logistic regression")}


def main(chosen: list[str]) -> int:
    wrong = 0
    for name in chosen or MEASURES:
        rows = MEASURED + BASELINES.get(name, ())
        lines = [line for line in zoo.card(name).splitlines() if line.startswith(rows)]
        stated = [cell.strip() for line in lines for cell in line.split("|")[2:-1]]
        found = MEASURES[name](name)
        wrong += found != stated
        print(f"{name}: {', '.join(found)}; the card says {', '.join(stated)}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
