"""Next-token models in PyTorch: Embedding, stacked LSTM, Linear; trained on one long row of tokens."""

from __future__ import annotations

import math
import operator

import numpy as np
import torch
from common import rounded
from torch import nn
from torch_training import fit, widen

import rnncore
from rnncore.cells import LSTM
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec

__all__ = ["Language", "bits", "parts_of", "trained"]

ROWS, STEPS = 32, 80  # pieces of text side by side, and tokens in one gradient step


class Language(nn.Module):
    def __init__(self, tokens: int, width: int, hidden: int, dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.lstm = nn.LSTM(width, hidden, num_layers=2, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(hidden, tokens)

    def forward(self, ids, state=None):
        y, state = self.lstm(self.dropout(self.embedding(ids)), state)
        return self.logits(self.dropout(y)), state


def trained(network: Language, options, training, validation, epochs, rate) -> tuple[Language, int]:
    """The network with the weights of the epoch with the fewest bits on the validation tokens, and that epoch."""
    rng = np.random.default_rng(1)
    a_row = len(training) // ROWS

    def losses():
        turned = np.roll(training, -int(rng.integers(0, len(training))))  # other pieces in every epoch
        rows = torch.from_numpy(turned[: ROWS * a_row].reshape(ROWS, a_row))
        state = None
        for first in range(0, a_row - STEPS, STEPS):
            piece = rows[:, first : first + STEPS + 1]
            logits, state = network(piece[:, :-1], state)
            state = tuple(part.detach() for part in state)
            yield nn.functional.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())

    how = {"epochs": 1, "steps": 3} if options.quick else {"epochs": epochs}
    epoch = fit(
        network, losses, lambda: bits(network, validation), batches=(a_row - 1) // STEPS, rate=rate, rise=0.1,
        better=operator.lt, path=options.weights, **how,
    )  # fmt: skip
    return network, epoch


@torch.inference_mode()
def bits(network: Language, tokens: np.ndarray) -> float:
    """Mean bits a token, from the second on, read in one go."""
    network.eval()
    ids = torch.from_numpy(tokens)
    state, total = None, 0.0
    for first in range(0, len(ids) - 1, 2000):
        piece = ids[first : first + 2001]
        logits, state = network(piece[None, :-1], state)
        total += float(nn.functional.cross_entropy(logits[0], piece[1:], reduction="sum"))
    return total / (len(ids) - 1) / math.log(2)


def parts_of(network: Language) -> tuple[Spec, dict[str, np.ndarray], rnncore.TestPair]:
    """Spec, float16 weights, and PyTorch's outputs with just these weights."""
    widen(network)
    size, width = network.embedding.weight.shape
    hidden = network.lstm.hidden_size
    spec = Spec(
        [Input("tokens", "int64", ("B", "T"))],
        [
            Node("embedding", "Embedding", "tokens", {"input_size": size, "output_size": width}),
            Recurrent("lstm", LSTM(width, hidden), "embedding", layers=2),
            Node("logits", "Linear", "lstm", {"input_size": hidden, "output_size": size}),
        ],
        ["logits"],
    )
    tensors = {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}
    ids = np.random.default_rng(2).integers(0, size, (1, 5))
    with torch.inference_mode():
        logits = network(torch.from_numpy(ids))[0].numpy()
    return spec, rounded(bind(spec, tensors).weights), rnncore.TestPair({"tokens": ids}, {"logits": logits})
