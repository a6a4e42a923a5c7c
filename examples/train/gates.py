"""Trains peephole and cifg, LSTM cells that torch.nn does not have, from cell code of their own in PyTorch.

    pip install "rnncore[train]"
    python examples/train/gates.py

Both, and a plain LSTM beside them, learn a task of Gers and Schmidhuber (2000): a steady train of pulses has to be
told from one that is a little late, so the cell has to count. Data are made by the script.
"""

from __future__ import annotations

import numpy as np
import torch
from classify import accuracy, fit, kept, widen
from common import arguments, card, rounded, save
from torch import nn

import rnncore
from rnncore.cells import LSTM
from rnncore.spec import Input, Node, Recurrent, Spec

HIDDEN, EPOCHS, STEPS = 24, 30, 60
COUNT = {"training": 6000, "validation": 1000, "held out": 2000}
LABELS = ["steady", "late"]
CELLS = {
    "peephole": ("LSTM with peepholes", LSTM(1, HIDDEN, peephole=True)),
    "cifg": ("LSTM with coupled gates, f = 1 - i", LSTM(1, HIDDEN, coupled="forget")),
}


class Network(nn.Module):
    """A recurrent network written out gate by gate; gates i f g o, of which "cifg" leaves out the second."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        gates = 3 if kind == "cifg" else 4
        bound = HIDDEN**-0.5
        self.weight_ih = nn.Parameter(torch.empty(gates * HIDDEN, 1).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(gates * HIDDEN, HIDDEN).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(gates * HIDDEN))
        if kind == "peephole":
            self.peepholes = nn.Parameter(torch.empty(3, HIDDEN).uniform_(-bound, bound))  # to i, f and o
        self.logits = nn.Linear(HIDDEN, len(LABELS))
        with torch.no_grad():
            if kind == "cifg":
                self.bias[:HIDDEN] = -1.5
            else:
                self.bias[HIDDEN : 2 * HIDDEN] = 1.5

    def forward(self, x):
        """(B, T, 1) -> logits (B, 2)"""
        h = c = x.new_zeros(len(x), HIDDEN)
        products = x @ self.weight_ih.T + self.bias
        for t in range(x.shape[1]):
            z = (products[:, t] + h @ self.weight_hh.T).split(HIDDEN, dim=1)
            if self.kind == "cifg":
                i, g, o = torch.sigmoid(z[0]), torch.tanh(z[1]), torch.sigmoid(z[2])
                c = (1 - i) * c + i * g
            elif self.kind == "peephole":
                p = self.peepholes
                i, f = torch.sigmoid(z[0] + p[0] * c), torch.sigmoid(z[1] + p[1] * c)
                c = f * c + i * torch.tanh(z[2])
                o = torch.sigmoid(z[3] + p[2] * c)
            else:
                i, f, o = (torch.sigmoid(z[k]) for k in (0, 1, 3))
                c = f * c + i * torch.tanh(z[2])
            h = o * torch.tanh(c)
        return self.logits(h)


def pulses(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x (count, STEPS, 1), 1 at every pulse; y: whether one pulse of the train came a step late."""
    rng = np.random.default_rng(seed)
    x, y = np.zeros((count, STEPS, 1), np.float32), rng.integers(0, 2, count)
    for row in range(count):
        period = int(rng.integers(5, 12))
        places = np.arange(int(rng.integers(0, period)), STEPS, period)
        if y[row]:
            late = int(rng.integers(1, len(places)))
            places[late:] += 1
        x[row, places[places < STEPS], 0] = 1
    return torch.from_numpy(x), torch.from_numpy(y)


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    data = {name: pulses(count, seed) for seed, (name, count) in enumerate(COUNT.items())}
    found = {kind: learn(kind, data, options) for kind in ("peephole", "cifg", "plain")}
    for kind in CELLS:
        write(options.target, kind, found, data)


def learn(kind, data, options):
    """(network, epoch, held-out accuracy)"""
    torch.manual_seed(1)
    network = Network(kind)
    x, y = data["training"]

    def loss_of(rows):
        return nn.functional.cross_entropy(network(x[rows]), y[rows])

    def score(part="validation"):
        with torch.inference_mode():
            return accuracy(network(data[part][0]), data[part][1])

    weights = options.weights and options.weights.with_name(f"{options.weights.stem}-{kind}.pt")
    how = {"epochs": 1, "steps": 3} if options.quick else {"epochs": EPOCHS}
    epoch = kept(weights, network, lambda: fit(network, loss_of, len(x), score, rate=1e-2, batch=100, **how))
    full = score("held out")
    widen(network)
    print(f"{kind}: held out {full:.4f}, with 16-bit weights {score('held out'):.4f}")
    return network, epoch, full, score("held out")


def write(directory, kind, found, data) -> None:
    what, cell = CELLS[kind]
    network, epoch, full, half = found[kind]
    spec = Spec(
        [Input("pulses", "float", ("B", "T", 1))],
        [
            Recurrent("lstm", cell, "pulses"),
            Node("logits", "Linear", "lstm.last", {"input_size": HIDDEN, "output_size": len(LABELS)}),
            Node("probabilities", "Softmax", "logits"),
        ],
        ["probabilities"],
    )
    tensors = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    weights = {f"lstm.{name}_l0": tensors[name] for name in ("weight_ih", "weight_hh", "bias")}
    if kind == "peephole":
        weights["lstm.peephole_l0"] = tensors["peepholes"]
    weights |= {name: tensors[name] for name in ("logits.weight", "logits.bias")}
    shapes = spec.weight_shapes()
    weights = {name: weights[name].reshape(shape) for name, shape in shapes.items()}
    x = data["held out"][0][:4]
    with torch.inference_mode():
        probabilities = network(x).softmax(1).numpy()
    pair = rnncore.TestPair({"pulses": x.numpy()}, {"probabilities": probabilities})
    save(directory, kind, spec, rounded(weights), pair, {"probabilities": LABELS})
    facts = {
        "task": "tell a steady train of pulses from one with a pulse that came a step late",
        "input": f"`pulses`, float (B, T, 1): 1 where there is a pulse; trained with {STEPS} steps",
        "output": "`probabilities` (B, 2): steady, late",
        "network": f"{what}, 1 to {HIDDEN}, Linear, Softmax",
        "data": f"made by the script: {COUNT['training']:,} trains of pulses, periods of 5 to 11 steps",
        "source of the data": "the script; the task is after F. Gers and J. Schmidhuber (2000), Recurrent nets that "
        "time and count",
        "licence of the data": "none needed",
        "training": f"`python examples/train/gates.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"torch {torch.__version__}",
    }
    majority = float(max(data["held out"][1].float().mean(), 1 - data["held out"][1].float().mean()))
    figures = f"""Accuracy on {COUNT["held out"]:,} held-out trains of pulses:

| | accuracy |
|---|---|
| float32 weights | {full:.2%} |
| as shipped, float16 weights | {half:.2%} |
| plain LSTM of the same size, trained alike | {found["plain"][2]:.2%} |
| always the commoner answer | {majority:.2%} |
"""
    print(figures)
    card(directory, kind, f"{what}: a network that counts.", facts, figures)


if __name__ == "__main__":
    main()
