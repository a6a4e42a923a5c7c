"""Next-token models in PyTorch: Embedding, stacked LSTM, Linear; trained on one long row of tokens."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from common import rounded
from torch import nn

import rnncore
from rnncore.cells import LSTM
from rnncore.formats.torch_names import bind
from rnncore.spec import Input, Node, Recurrent, Spec

__all__ = ["Language", "bits", "parts_of", "train", "trained"]

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


def train(network: Language, training: np.ndarray, validation: np.ndarray, epochs: int, rate: float, steps=None):
    """The weights of the epoch with the fewest bits on the validation tokens, and that epoch."""
    rng = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-3)
    a_row = len(training) // ROWS
    total = epochs * ((a_row - 1) // STEPS) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total, pct_start=0.1)
    best = None
    for epoch in range(1, epochs + 1):
        turned = np.roll(training, -int(rng.integers(0, len(training))))  # other pieces in every epoch
        rows = torch.from_numpy(turned[: ROWS * a_row].reshape(ROWS, a_row))
        network.train()
        state, losses = None, []
        for first in list(range(0, a_row - STEPS, STEPS))[:steps]:
            piece = rows[:, first : first + STEPS + 1]
            logits, state = network(piece[:, :-1], state)
            state = tuple(part.detach() for part in state)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), piece[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        found = bits(network, validation)
        print(f"epoch {epoch}: training {np.mean(losses) / math.log(2):.3f} bits, validation {found:.3f}", flush=True)
        if best is None or found < best[0]:
            best = found, copy.deepcopy(network.state_dict()), epoch
    return best[1:]


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


def trained(network: Language, options, training, validation, epochs, rate) -> tuple[Language, int]:
    """The trained network: from --weights if they are there."""
    if options.weights is not None and options.weights.exists():
        found = torch.load(options.weights, weights_only=True)
    else:
        quick = {"epochs": 1, "steps": 3} if options.quick else {"epochs": epochs}
        state, epoch = train(network, training, validation, rate=rate, **quick)
        found = {"state": state, "epoch": epoch}
        if options.weights is not None:
            torch.save(found, options.weights)
    network.load_state_dict(found["state"])
    return network.eval(), found["epoch"]


def parts_of(network: Language) -> tuple[Spec, dict[str, np.ndarray], rnncore.TestPair]:
    """Spec, float16 weights, and PyTorch's outputs with just these weights."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
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
