"""What the training scripts in Keras share."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

__all__ = ["fit", "set_half"]


def fit(
    model: keras.Model, x, y, score: Callable[[], float], *, epochs: int, batch: int, weights=None, steps=None
) -> int:
    """Trains, and leaves the weights of the epoch with the best score; or takes those of --weights if they are there.

    Returns the epoch.
    """
    if weights is not None and weights.exists():
        found = np.load(weights)
        model.set_weights([found[f"w{place}"] for place in range(len(model.get_weights()))])
        return int(found["epoch"])
    best = None
    for epoch in range(1, epochs + 1):
        first = next(iter(x.values())) if isinstance(x, dict) else x
        order = np.random.default_rng(epoch).permutation(len(first))
        losses = []
        for start in list(range(0, len(order) - batch + 1, batch))[:steps]:
            rows = order[start : start + batch]
            given = {name: array[rows] for name, array in x.items()} if isinstance(x, dict) else x[rows]
            losses.append(float(model.train_on_batch(given, y[rows])))
        found = score()
        print(f"epoch {epoch}: loss {np.mean(losses):.3f}, validation {found:.4f}", flush=True)
        if best is None or found > best[0]:
            best = found, epoch, model.get_weights()
    model.set_weights(best[2])
    if weights is not None:
        np.savez(weights, epoch=best[1], **{f"w{place}": array for place, array in enumerate(best[2])})
    return best[1]


def set_half(model: keras.Model) -> None:
    """Round the weights to what float16 holds exactly."""
    model.set_weights([array.astype(np.float16).astype(np.float32) for array in model.get_weights()])
