"""What the training scripts in Keras share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
from common import keep_best

__all__ = ["begin", "fit", "put", "set_half", "take", "warm_up_and_decay"]


def begin(seed: int) -> None:
    """Seeds everything, and counts layers from the beginning, so that they have the same names whatever ran before."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)


def fit(
    model: keras.Model,
    x,
    y: np.ndarray,
    score: Callable[[], float],
    *,
    epochs: int,
    batch: int,
    path: Path | None = None,
    steps: int | None = None,
) -> int:
    """Trains and leaves the weights of the epoch with the best score, which is returned: see keep_best.

    x      an array, or a dict of them;  steps: at most so many in an epoch
    """
    batch = min(batch, len(y))

    def run(epoch: int) -> float:
        order = np.random.default_rng(epoch).permutation(len(y))
        losses = []
        for first in list(range(0, len(order) - batch + 1, batch))[:steps]:
            rows = order[first : first + batch]
            given = {name: array[rows] for name, array in x.items()} if isinstance(x, dict) else x[rows]
            losses.append(float(model.train_on_batch(given, y[rows])))
        return float(np.mean(losses))

    return keep_best(epochs, run, score, lambda: take(model), lambda weights: put(model, weights), path=path)


def take(model: keras.Model) -> dict[str, np.ndarray]:
    return {f"w{place}": array for place, array in enumerate(model.get_weights())}


def put(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    model.set_weights([weights[f"w{place}"] for place in range(len(weights))])


def warm_up_and_decay(rate: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """From rate / 25 to rate in the first three tenths of the steps, then to zero along a cosine."""
    warm = max(1, 3 * steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        rate / 25, max(1, steps - warm), warmup_target=rate, warmup_steps=warm
    )


def set_half(model: keras.Model) -> None:
    """Round the weights to what float16 holds exactly."""
    model.set_weights([array.astype(np.float16).astype(np.float32) for array in model.get_weights()])
