"""Training of small PyTorch classifiers over ragged sequences, shared by scripts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

__all__ = ["accuracy", "fit", "kept", "padded", "widen"]


def padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, T) ids with 0 behind each row, (B,) lengths"""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids, lengths


def fit(
    network: nn.Module,
    loss_of: Callable[[np.ndarray], torch.Tensor],
    count: int,
    score: Callable[[], float],
    *,
    epochs: int,
    rate: float,
    batch: int = 64,
    decay: float = 1e-3,
    steps: int | None = None,
) -> int:
    """Trains on ``loss_of(rows)`` and leaves the weights of the epoch with the best score; returns that epoch."""
    rng = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=epochs * (count // batch) + 1)
    best = None
    for epoch in range(1, epochs + 1):
        network.train()
        order = rng.permutation(count)
        for first in list(range(0, count - batch + 1, batch))[:steps]:
            loss = loss_of(order[first : first + batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        network.eval()
        with torch.inference_mode():
            found = score()
        print(f"epoch {epoch}: loss {float(loss):.3f}, validation {found:.4f}", flush=True)
        if best is None or found > best[0]:
            best = found, epoch, copy.deepcopy(network.state_dict())
    network.load_state_dict(best[2])
    network.eval()
    return best[1]


def kept(path, network: nn.Module, train: Callable[[], int]) -> int:
    """Trains, or takes the weights out of --weights if they are there; returns the epoch."""
    if path is not None and path.exists():
        found = torch.load(path, weights_only=True)
        network.load_state_dict(found["state"])
        network.eval()
        return found["epoch"]
    epoch = train()
    if path is not None:
        torch.save({"state": network.state_dict(), "epoch": epoch}, path)
    return epoch


def widen(network: nn.Module) -> nn.Module:
    """The network with weights that float16 holds exactly."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    return network


def accuracy(logits: torch.Tensor, truth) -> float:
    return float((logits.argmax(-1) == torch.as_tensor(truth)).float().mean())
