"""Trains digits: the picture of a digit starts a decoder that spells its name, in Keras.

    pip install "rnncore[train]"
    KERAS_BACKEND=torch python examples/train/digits.py

One-to-many: a vector becomes the initial state of a GRU, which writes letter after letter, each from the one before.
"""

from __future__ import annotations

import keras
import numpy as np
from common import arguments, card, rounded, save
from keras_training import begin, fit, set_half
from sklearn.datasets import load_digits

import rnncore

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LETTERS = ["<stop>", *sorted(set("".join(WORDS)))]
WIDTH, UNITS, EPOCHS = 16, 64, 40
LONGEST = 6  # the longest name and <stop>


def read():
    """pictures (N, 64) from 0 to 1, digits (N,), and which are for what: every fifth is held out."""
    data = load_digits()
    place = np.arange(len(data.target)) % 10
    part = np.where(place % 5 == 4, "held out", np.where(place == 0, "validation", "training"))
    return (data.data / 16).astype(np.float32), data.target, part


def letters_of(digits) -> tuple[np.ndarray, np.ndarray]:
    """What was written (N, LONGEST), beginning with <stop>, and what is to be written next, <stop> at the end."""
    before, after = np.zeros((len(digits), LONGEST), np.int64), np.zeros((len(digits), LONGEST), np.int64)
    for row, digit in enumerate(digits):
        ids = [LETTERS.index(letter) for letter in WORDS[digit]]
        after[row, : len(ids)] = ids
        before[row, 1 : len(ids) + 1] = ids
    return before, after


def network() -> keras.Model:
    picture = keras.Input((64,), name="picture")
    letters = keras.Input((None,), dtype="int64", name="letters")
    start = keras.layers.Dense(UNITS, activation="tanh", name="start")(keras.layers.Dropout(0.2)(picture))
    x = keras.layers.Embedding(len(LETTERS), WIDTH, name="embedding")(letters)
    y = keras.layers.GRU(UNITS, return_sequences=True, name="decoder")(x, initial_state=start)
    y = keras.layers.Dense(len(LETTERS), activation="softmax", name="probabilities")(y)
    return keras.Model([picture, letters], y)


def spelled(model, pictures) -> list[str]:
    """The likeliest letter after the likeliest letter."""
    ids = np.zeros((len(pictures), 1), np.int64)
    for _ in range(LONGEST):
        found = model.predict_on_batch({"picture": pictures, "letters": ids})[:, -1].argmax(1)
        ids = np.concatenate([ids, found[:, None]], axis=1)
    return ["".join(LETTERS[i] for i in row[1:]).partition("<stop>")[0] for row in ids]


def main() -> None:
    options = arguments(__doc__)
    begin(1)
    pictures, digits, part = read()

    def score(name="validation"):
        found = spelled(model, pictures[part == name])
        return float(np.mean([word == WORDS[digit] for word, digit in zip(found, digits[part == name], strict=True)]))

    model = network()
    model.compile(keras.optimizers.Adam(4e-3), "sparse_categorical_crossentropy")
    before, after = letters_of(digits[part == "training"])
    x = {"picture": pictures[part == "training"], "letters": before}
    epochs = 1 if options.quick else EPOCHS
    epoch = fit(model, x, after, score, epochs=epochs, batch=32, path=options.weights)
    full = score("held out")
    set_half(model)
    half = score("held out")
    example = {"picture": pictures[:3], "letters": letters_of(digits[:3])[0]}
    exported = rnncore.export.from_keras(model, example)
    output = exported.spec.outputs[0]
    save(options.target, "digits", exported.spec, rounded(exported.weights), exported.test_pair,
         {"letters": LETTERS, output: LETTERS})  # fmt: skip
    facts = {
        "task": "spell the name of a drawn digit",
        "input": "`picture`, float (B, 64), 8 x 8 from 0 to 1; `letters`, ids (B, T): what was written, first <stop>",
        "output": f"`{output}` (B, T, {len(LETTERS)}) of the next letter",
        "network": f"Dense 64 to {UNITS} with tanh as initial state of a GRU {UNITS} over letters, Dense with softmax",
        "data": f"{len(digits):,} pictures of handwritten digits; every fifth was held out",
        "source of the data": "load_digits of scikit-learn; E. Alpaydin and C. Kaynak (1998), UCI repository",
        "licence of the data": "CC BY 4.0 (UCI machine learning repository)",
        "training": f"`python examples/train/digits.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"Keras {keras.__version__} on {keras.backend.backend()}",
    }
    held = digits[part == "held out"]
    figures = f"""Digits spelled without a mistake, of {len(held)} held-out pictures:

| | right |
|---|---|
| float32 weights | {full:.2%} |
| as shipped, float16 weights | {half:.2%} |
| always the commonest digit | {np.bincount(held).max() / len(held):.2%} |
"""
    print(figures)
    card(options.target, "digits", "A picture starts a decoder that spells a word.", facts, figures)


if __name__ == "__main__":
    main()
