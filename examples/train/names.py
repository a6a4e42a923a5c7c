"""Trains names and names-relu, from a family name to a country: Elman networks, in PyTorch.

    pip install "rnncore[train]"
    python examples/train/names.py

One network has tanh, the other ReLU and a recurrent matrix that starts as the identity (Le, Jaitly, Hinton 2015).
"""

from __future__ import annotations

import gzip
import pickle
import unicodedata
from collections import Counter

import numpy as np
import torch
from classify import accuracy, fit, kept, padded, widen
from common import arguments, card, package_file, rounded, save, split
from torch import nn

import rnncore
from rnncore.cells import RNN, Activation
from rnncore.formats.torch_names import bind
from rnncore.spec import Input, Node, Recurrent, Spec

COUNTRIES = {"DE": "Germany", "ES": "Spain", "FR": "France", "GR": "Greece", "IT": "Italy", "JP": "Japan",
             "NG": "Nigeria", "PL": "Poland", "RU": "Russia", "TR": "Turkey"}  # fmt: skip
SHARE, EACH = 0.5, 2500  # a name counts for a country that has so much of it; names of a country
LETTERS = ["<pad>", *"abcdefghijklmnopqrstuvwxyz' -"]
WIDTH, HIDDEN = 32, 128
EPOCHS = 20


class Network(nn.Module):
    def __init__(self, activation: str):
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), WIDTH)
        self.rnn = nn.RNN(WIDTH, HIDDEN, nonlinearity=activation, batch_first=True)
        self.dropout = nn.Dropout(0.2)
        self.logits = nn.Linear(HIDDEN, len(COUNTRIES))
        if activation == "relu":
            nn.init.eye_(self.rnn.weight_hh_l0)
            nn.init.normal_(self.rnn.weight_ih_l0, std=0.03)
            nn.init.zeros_(self.rnn.bias_ih_l0)
            nn.init.zeros_(self.rnn.bias_hh_l0)

    def forward(self, ids, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.logits(self.dropout(self.rnn(packed)[1][-1]))


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
    torch.set_num_threads(1)
    found = read()
    print(Counter(found.values()))
    rows = rows_of(found)
    for name, activation, rate in (("names", "tanh", 3e-3), ("names-relu", "relu", 1e-3)):
        make(options, name, activation, rate, rows, len(found))


def make(options, name, activation, rate, rows, count) -> None:
    torch.manual_seed(1)
    network = Network(activation)
    ids, truth = rows["training"]

    def loss_of(chosen):
        return nn.functional.cross_entropy(network(*padded([ids[i] for i in chosen])), torch.tensor(truth[chosen]))

    def score(part="validation"):
        with torch.inference_mode():
            return accuracy(network(*padded(rows[part][0])), rows[part][1])

    weights = options.weights and options.weights.with_name(f"{options.weights.stem}-{activation}.pt")
    how = {"epochs": 1, "steps": 3} if options.quick else {"epochs": EPOCHS}
    epoch = kept(weights, network, lambda: fit(network, loss_of, len(ids), score, rate=rate, **how))
    full = score("held out")
    widen(network)
    half = score("held out")
    held_truth = rows["held out"][1]
    majority = np.bincount(held_truth).max() / len(held_truth)

    spec = Spec(
        [Input("letters", "int64", ("B", "T"))],
        [
            Node("embedding", "Embedding", "letters", {"input_size": len(LETTERS), "output_size": WIDTH}),
            Recurrent("rnn", RNN(WIDTH, HIDDEN, activations=(Activation(activation),)), "embedding"),
            Node("logits", "Linear", "rnn.last", {"input_size": HIDDEN, "output_size": len(COUNTRIES)}),
            Node("probabilities", "Softmax", "logits"),
        ],
        ["probabilities"],
    )
    tensors = {key: parameter.detach().numpy() for key, parameter in network.named_parameters()}
    example, lengths = padded([[LETTERS.index(letter) for letter in word] for word in ("tanaka", "rossi", "kowalski")])
    with torch.inference_mode():
        probabilities = network(example, lengths).softmax(1).numpy()
    pair = rnncore.TestPair({"letters": example.numpy(), "lengths": lengths.numpy()}, {"probabilities": probabilities})
    vocabulary = {"letters": LETTERS, "probabilities": list(COUNTRIES.values())}
    save(options.target, name, spec, rounded(bind(spec, tensors).weights), pair, vocabulary)
    facts = {
        "task": "the country of a family name",
        "input": "`letters`, ids (B, T), small letters without accents; `lengths` (B,)",
        "output": "`probabilities` (B, 10), one for each country",
        "network": f"Embedding to {WIDTH}, Elman RNN {HIDDEN} with {activation}, Linear, Softmax",
        "data": f"{count:,} names of which one of {len(COUNTRIES)} countries has {SHARE:.0%} or more, "
        f"at most {EACH:,} of each",
        "source of the data": "package names-dataset 3.3.1",
        "licence of the data": "Apache 2.0 (package names-dataset). No name is part of this package",
        "training": f"`python examples/train/names.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"torch {torch.__version__}",
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
