"""What the training scripts in PyTorch share."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import keep_best
from torch import nn

__all__ = ["accuracy", "fit", "orders", "padded", "put", "take", "widen"]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids with 0 behind each row, (B,) lengths"""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids, lengths


def fit(
    network: nn.Module,
    losses: Callable[[], Iterable[torch.Tensor]],
    score: Callable[[], float],
    *,
    epochs: int,
    batches: int,
    rate: float,
    decay: float = 1e-3,
    rise: float = 0.3,
    better: Callable[[float, float], bool] = operator.gt,
    path: Path | None = None,
    steps: int | None = None,
) -> int:
    """Trains and leaves the weights of the epoch with the best score, which is returned: see keep_best.

    losses   the loss of each batch of an epoch, made when the one before has been learned from
    batches  how many those are;  steps: at most so many
    rise     the part of all steps in which the rate grows to ``rate``
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    total = max(epochs * batches, 2) + 1
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total, pct_start=rise)

    def run(epoch: int) -> float:
        network.train()
        found = []
        for loss in islice(losses(), steps):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            found.append(float(loss.detach()))
        network.eval()
        return float(np.mean(found))

    epoch = keep_best(epochs, run, score, lambda: take(network), lambda weights: put(network, weights),
                      better=better, path=path)  # fmt: skip
    network.eval()
    return epoch


def orders(count: int, batch: int, seed: int = 1) -> Callable[[], Iterable[np.ndarray]]:
    """A function that gives the rows of each batch of an epoch, in another order each time it is called."""
    rng = np.random.default_rng(seed)
    batch = min(batch, count)

    def epoch() -> Iterable[np.ndarray]:
        order = rng.permutation(count)
        return (order[first : first + batch] for first in range(0, count - batch + 1, batch))

    return epoch


def take(network: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in network.state_dict().items()}


def put(network: nn.Module, weights: Mapping[str, np.ndarray]) -> None:
    network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})


def widen(network: nn.Module) -> nn.Module:
    """The network with weights that float16 holds exactly."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    return network


def accuracy(logits: torch.Tensor, truth) -> float:
    return float((logits.argmax(-1) == torch.as_tensor(truth)).float().mean())
