"""Trains peephole and cifg, LSTM cells that torch.nn does not have, from cell code of their own in PyTorch.

    pip install "rnncore[train]"
    python examples/train/gates.py

Both, and a plain LSTM beside them, learn the task of names.py: the country of a family name.
"""

from __future__ import annotations

import numpy as np
import torch
from common import arguments, card, rounded, save
from names import COUNTRIES, EACH, LETTERS, SHARE, read, rows_of
from torch import nn
from torch_training import accuracy, fit, orders, padded, widen

import rnncore
from rnncore.cells import LSTM
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec

WIDTH, HIDDEN, EPOCHS, BATCH = 32, 80, 14, 128
CELLS = {
    "peephole": ("LSTM with peepholes", LSTM(WIDTH, HIDDEN, peephole=True)),
    "cifg": ("LSTM with coupled gates, f = 1 - i", LSTM(WIDTH, HIDDEN, coupled="forget")),
}


class Network(nn.Module):
    """A recurrent network written out gate by gate; gates i f g o, of which "cifg" leaves out the second."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        gates = 3 if kind == "cifg" else 4
        bound = HIDDEN**-0.5
        self.embedding = nn.Embedding(len(LETTERS), WIDTH)
        self.weight_ih = nn.Parameter(torch.empty(gates * HIDDEN, WIDTH).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(gates * HIDDEN, HIDDEN).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(gates * HIDDEN))
        if kind == "peephole":
            self.peepholes = nn.Parameter(torch.empty(3, HIDDEN).uniform_(-bound, bound))  # to i, f and o
        self.dropout = nn.Dropout(0.2)
        self.logits = nn.Linear(HIDDEN, len(COUNTRIES))
        with torch.no_grad():
            if kind == "cifg":
                self.bias[:HIDDEN] = -1
            else:
                self.bias[HIDDEN : 2 * HIDDEN] = 1

    def forward(self, ids, lengths):
        """(B, T) ids, (B,) lengths -> logits (B, countries), from the state after each row's last step"""
        x = self.embedding(ids)
        h = c = x.new_zeros(len(x), HIDDEN)
        products = x @ self.weight_ih.T + self.bias
        for t in range(ids.shape[1]):
            z = (products[:, t] + h @ self.weight_hh.T).split(HIDDEN, dim=1)
            if self.kind == "cifg":
                i, g, o = torch.sigmoid(z[0]), torch.tanh(z[1]), torch.sigmoid(z[2])
                after = (1 - i) * c + i * g
            elif self.kind == "peephole":
                p = self.peepholes
                i, f = torch.sigmoid(z[0] + p[0] * c), torch.sigmoid(z[1] + p[1] * c)
                after = f * c + i * torch.tanh(z[2])
                o = torch.sigmoid(z[3] + p[2] * after)
            else:
                i, f, o = (torch.sigmoid(z[k]) for k in (0, 1, 3))
                after = f * c + i * torch.tanh(z[2])
            goes_on = (t < lengths)[:, None]
            h, c = torch.where(goes_on, o * torch.tanh(after), h), torch.where(goes_on, after, c)
        return self.logits(self.dropout(h))


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    names = read()
    rows = rows_of(names)
    found = {kind: learn(kind, rows, options) for kind in ("peephole", "cifg", "plain")}
    for kind in CELLS:
        write(options.target, kind, found, rows, len(names))


def learn(kind, rows, options):
    """(network, epoch, held-out accuracy, and with 16-bit weights)"""
    torch.manual_seed(1)
    network = Network(kind)
    ids, truth = rows["training"]

    batches = orders(len(ids), BATCH)

    def losses():
        for chosen in batches():
            logits = network(*padded([ids[i] for i in chosen]))
            yield nn.functional.cross_entropy(logits, torch.tensor(truth[chosen]))

    def score(part="validation"):
        with torch.inference_mode():
            return accuracy(network(*padded(rows[part][0])), rows[part][1])

    weights = options.weights and options.weights.with_name(f"{options.weights.stem}-{kind}.npz")
    how = {"epochs": 1, "steps": 3} if options.quick else {"epochs": EPOCHS}
    epoch = fit(network, losses, score, batches=len(ids) // BATCH, rate=5e-3, path=weights, **how)
    full = score("held out")
    widen(network)
    print(f"{kind}: held out {full:.4f}, with 16-bit weights {score('held out'):.4f}")
    return network, epoch, full, score("held out")


def write(directory, kind, found, rows, count) -> None:
    what, cell = CELLS[kind]
    network, epoch, full, half = found[kind]
    spec = Spec(
        [Input("letters", "int64", ("B", "T"))],
        [
            Node("embedding", "Embedding", "letters", {"input_size": len(LETTERS), "output_size": WIDTH}),
            Recurrent("lstm", cell, "embedding"),
            Node("logits", "Linear", "lstm.last", {"input_size": HIDDEN, "output_size": len(COUNTRIES)}),
            Node("probabilities", "Softmax", "logits"),
        ],
        ["probabilities"],
    )
    tensors = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    weights = {f"lstm.{name}_l0": tensors[name] for name in ("weight_ih", "weight_hh", "bias")}
    if kind == "peephole":
        weights["lstm.peephole_l0"] = tensors["peepholes"].reshape(-1)
    weights |= {name: tensors[name] for name in ("embedding.weight", "logits.weight", "logits.bias")}
    example, lengths = padded([[LETTERS.index(letter) for letter in word] for word in ("tanaka", "rossi", "kowalski")])
    with torch.inference_mode():
        probabilities = network(example, lengths).softmax(1).numpy()
    pair = rnncore.TestPair({"letters": example.numpy(), "lengths": lengths.numpy()}, {"probabilities": probabilities})
    vocabulary = {"letters": LETTERS, "probabilities": list(COUNTRIES.values())}
    save(directory, kind, spec, rounded(weights), pair, vocabulary)
    facts = {
        "task": "the country of a family name",
        "input": "`letters`, ids (B, T), small letters without accents; `lengths` (B,)",
        "output": "`probabilities` (B, 10), one for each country",
        "network": f"Embedding to {WIDTH}, {what}, {HIDDEN} units, Linear, Softmax",
        "data": f"{count:,} names of which one of {len(COUNTRIES)} countries has {SHARE:.0%} or more, "
        f"at most {EACH:,} of each",
        "source of the data": "package names-dataset 3.3.1",
        "licence of the data": "Apache 2.0 (package names-dataset). No name is part of this package",
        "training": f"`python examples/train/gates.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"torch {torch.__version__}",
    }
    held = rows["held out"][1]
    figures = f"""Accuracy on {len(held):,} held-out names:

| | accuracy |
|---|---|
| float32 weights | {full:.2%} |
| as shipped, float16 weights | {half:.2%} |
| plain LSTM of the same size, trained alike | {found["plain"][2]:.2%} |
| always the commonest country | {np.bincount(held).max() / len(held):.2%} |
"""
    print(figures)
    card(directory, kind, f"{what}: from a family name to a country.", facts, figures)


if __name__ == "__main__":
    main()
