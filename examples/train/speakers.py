"""Trains speakers: who is speaking? A bidirectional GRU over utterances of different lengths, in Keras.

pip install "rnncore[train]"
KERAS_BACKEND=torch python examples/train/speakers.py
"""

from __future__ import annotations

import keras
import numpy as np
from common import arguments, card, package_file, rounded, save
from keras_training import begin, fit, set_half

import rnncore

UNITS, EPOCHS = 32, 60
SPEAKERS = 9


def read(part: str) -> tuple[np.ndarray, np.ndarray]:
    """x (B, T, 12) with zeros behind each utterance, speaker (B,)"""
    text = package_file("aeon==1.6.0", f"JapaneseVowels/JapaneseVowels_{part}.ts").decode("utf-8", "replace")
    rows = [line.split(":") for line in text.splitlines() if line and line[0] not in "#@"]
    sequences = [np.array([channel.split(",") for channel in row[:-1]], np.float32).T for row in rows]
    x = np.zeros((len(rows), max(map(len, sequences)), 12), np.float32)
    for place, sequence in enumerate(sequences):
        x[place, : len(sequence)] = sequence
    return x, np.array([int(row[-1]) - 1 for row in rows])


def network() -> keras.Model:
    x = keras.Input((None, 12), name="coefficients")
    y = keras.layers.Masking()(x)
    y = keras.layers.Bidirectional(keras.layers.GRU(UNITS))(y)
    y = keras.layers.Dropout(0.4)(y)
    return keras.Model(x, keras.layers.Dense(SPEAKERS, activation="softmax", name="probabilities")(y))


def main() -> None:
    options = arguments(__doc__)
    begin(1)
    x, truth = read("TRAIN")
    validation = np.random.default_rng(1).permutation(len(x))[:45]
    training = np.setdiff1d(np.arange(len(x)), validation)
    model = network()
    model.compile(keras.optimizers.AdamW(5e-3, weight_decay=1e-2), "sparse_categorical_crossentropy")
    epoch = fit(
        model, x[training], truth[training], lambda: accuracy(model, x[validation], truth[validation]),
        epochs=2 if options.quick else EPOCHS, batch=16, path=options.weights,
    )  # fmt: skip
    held, held_truth = read("TEST")
    full = accuracy(model, held, held_truth)
    set_half(model)
    half = accuracy(model, held, held_truth)
    first_of_each = np.unique(held_truth, return_index=True)[1][:6]
    exported = rnncore.export.from_keras(model, held[first_of_each])
    words = {exported.spec.outputs[0]: [f"speaker {number}" for number in range(1, SPEAKERS + 1)]}
    save(options.target, "speakers", exported.spec, rounded(exported.weights), exported.test_pair, words)
    facts = {
        "task": "which of nine men says two vowels?",
        "input": f"`{exported.spec.inputs[0].name}`, float (B, T, 12): cepstrum coefficients of each frame; a frame of "
        "zeros is no frame",
        "output": f"`{exported.spec.outputs[0]}` (B, 9)",
        "network": f"Masking, bidirectional GRU {UNITS}, Dense, softmax",
        "data": f"JapaneseVowels, {len(x)} utterances of 7 to 29 frames for training, {len(held)} for the test",
        "source of the data": "package aeon 1.6.0; Kudo, Toyama and Shimbo (1999), UCI machine learning repository",
        "licence of the data": "CC BY 4.0 (UCI machine learning repository)",
        "training": f"`python examples/train/speakers.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"Keras {keras.__version__} on {keras.backend.backend()}",
    }
    figures = f"""Accuracy on the {len(held)} test utterances of the data set:

| | accuracy |
|---|---|
| float32 weights | {full:.2%} |
| as shipped, float16 weights | {half:.2%} |
| the authors of the data (1999) | 94.1% |
| hidden Markov model with five states, in the same paper | 96.2% |
| always the commonest speaker | {np.bincount(held_truth).max() / len(held):.2%} |
"""
    print(figures)
    card(options.target, "speakers", "Who is speaking?", facts, figures)


def accuracy(model, x, truth) -> float:
    return float(np.mean(np.argmax(model.predict_on_batch(x), 1) == truth))


if __name__ == "__main__":
    main()
