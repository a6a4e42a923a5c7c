"""Trains names and names-relu, from a family name to a country: Elman networks, in Keras.

    pip install "rnncore[train]"
    KERAS_BACKEND=torch python examples/train/names.py

One network has tanh, the other ReLU and a recurrent matrix that starts as the identity (Le, Jaitly, Hinton 2015).
"""

from __future__ import annotations

import gzip
import pickle
import unicodedata
from collections import Counter

import keras
import numpy as np
from common import arguments, card, package_file, rounded, save, split
from keras_training import begin, fit, set_half, warm_up_and_decay

import rnncore

COUNTRIES = {"DE": "Germany", "ES": "Spain", "FR": "France", "GR": "Greece", "IT": "Italy", "JP": "Japan",
             "NG": "Nigeria", "PL": "Poland", "RU": "Russia", "TR": "Turkey"}  # fmt: skip
SHARE, EACH = 0.5, 2500  # a name counts for a country that has so much of it; names of a country
LETTERS = ["<pad>", *"abcdefghijklmnopqrstuvwxyz' -"]
WIDTH, HIDDEN = 32, 128
EPOCHS, BATCH = 20, 64


def network(activation: str) -> keras.Model:
    if activation == "relu":
        initial = {"recurrent": "identity", "kernel": keras.initializers.RandomNormal(stddev=0.03)}
    else:
        bound = HIDDEN**-0.5
        initial = {name: keras.initializers.RandomUniform(-bound, bound) for name in ("recurrent", "kernel")}
    letters = keras.Input((None,), dtype="int64", name="letters")
    wide = keras.initializers.RandomNormal(stddev=1)
    x = keras.layers.Embedding(len(LETTERS), WIDTH, mask_zero=True, embeddings_initializer=wide)(letters)
    y = keras.layers.SimpleRNN(
        HIDDEN,
        activation=activation,
        recurrent_initializer=initial["recurrent"],
        kernel_initializer=initial["kernel"],
        name="rnn",
    )(x)
    y = keras.layers.Dense(len(COUNTRIES), name="logits")(keras.layers.Dropout(0.2)(y))
    return keras.Model(letters, keras.layers.Softmax(name="probabilities")(y))


def padded(rows: list[list[int]]) -> np.ndarray:
    """(B, T) ids with 0 behind each row"""
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return ids


def read() -> dict[str, str]:
    """Plain name -> country."""
    # The pickle is the package's own and comes from the index with its checksum; rnncore itself never reads pickles so.
    table = pickle.loads(gzip.decompress(package_file("names-dataset==3.3.1", "v3/last_names.pkl.gz")))
    found: dict[str, dict[str, float]] = {}
    for name, facts in table.items():
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        shares = [(share, country) for country, share in facts["country"].items() if share]
        if name.isascii() and 3 <= len(plain) <= 16 and all(letter in LETTERS for letter in plain) and shares:
            share, country = max(shares)
            if share >= SHARE and country in COUNTRIES:
                found.setdefault(plain, {})[country] = share
    rng = np.random.default_rng(1)
    chosen = {}
    for country in COUNTRIES:
        names = sorted(name for name, shares in found.items() if max(shares, key=shares.get) == country)
        rng.shuffle(names)
        chosen.update(dict.fromkeys(names[:EACH], country))
    return chosen


def rows_of(found: dict[str, str]) -> dict[str, tuple[list[list[int]], np.ndarray]]:
    """ "training", "validation" and "held out" -> ids of each name, and the places of their countries."""
    parts = split(list(found))
    countries = list(COUNTRIES)
    rows = {}
    for part in ("training", "validation", "held out"):
        names = [name for name in found if parts[name] == part]
        ids = [[LETTERS.index(letter) for letter in name] for name in names]
        rows[part] = ids, np.array([countries.index(found[name]) for name in names])
    return rows


def main() -> None:
    options = arguments(__doc__)
    found = read()
    print(Counter(found.values()))
    rows = rows_of(found)
    for name, activation, rate in (("names", "tanh", 3e-3), ("names-relu", "relu", 1e-3)):
        make(options, name, activation, rate, rows, len(found))


def make(options, name, activation, rate, rows, count) -> None:
    begin(1)
    model = network(activation)
    x, truth = padded(rows["training"][0]), rows["training"][1]
    how = {"epochs": 1, "steps": 3} if options.quick else {"epochs": EPOCHS}
    rates = warm_up_and_decay(rate, how["epochs"] * len(x) // BATCH)
    model.compile(
        keras.optimizers.AdamW(rates, weight_decay=1e-3, global_clipnorm=1.0), "sparse_categorical_crossentropy"
    )

    def score(part="validation") -> float:
        ids, countries = rows[part]
        return float(np.mean(model.predict_on_batch(padded(ids)).argmax(1) == countries))

    path = options.weights and options.weights.with_name(f"{options.weights.stem}-{activation}.npz")
    epoch = fit(model, x, truth, score, batch=BATCH, path=path, **how)
    full = score("held out")
    set_half(model)
    half = score("held out")
    held_truth = rows["held out"][1]
    majority = np.bincount(held_truth).max() / len(held_truth)

    example = padded([[LETTERS.index(letter) for letter in word] for word in ("tanaka", "rossi", "kowalski")])
    exported = rnncore.export.from_keras(model, example)
    (letters, *_), (output,) = exported.spec.inputs, exported.spec.outputs
    vocabulary = {letters.name: LETTERS, output: list(COUNTRIES.values())}
    save(options.target, name, exported.spec, rounded(exported.weights), exported.test_pair, vocabulary)
    facts = {
        "task": "the country of a family name",
        "input": f"`{letters.name}`, ids (B, T), small letters without accents; 0 is padding, or `lengths` (B,)",
        "output": f"`{output}` (B, {len(COUNTRIES)}), one for each country",
        "network": f"Embedding to {WIDTH}, SimpleRNN {HIDDEN} with {activation}, Dense, Softmax",
        "data": f"{count:,} names of which one of {len(COUNTRIES)} countries has {SHARE:.0%} or more, "
        f"at most {EACH:,} of each",
        "source of the data": "package names-dataset 3.3.1",
        "licence of the data": "Apache 2.0 (package names-dataset). No name is part of this package",
        "training": f"`python examples/train/names.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"Keras {keras.__version__} on {keras.backend.backend()}",
    }
    figures = f"""Accuracy on {len(held_truth):,} held-out names:

| | accuracy |
|---|---|
| float32 weights | {full:.2%} |
| as shipped, float16 weights | {half:.2%} |
| always the commonest country | {majority:.2%} |
"""
    print(figures)
    card(options.target, name, "From a family name to a country.", facts, figures)


if __name__ == "__main__":
    main()
