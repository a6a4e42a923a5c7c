"""Trains sunspots-rnn, a forecaster of yearly sunspot numbers: SimpleRNN and Dense, many-to-one, in Keras.

    pip install "rnncore[train]"
    KERAS_BACKEND=torch python examples/train/sunspots_rnn.py

The network reads a window of years and forecasts the one behind it (series.py tells what is for what).
"""

from __future__ import annotations

import operator

import keras
import numpy as np
from common import arguments, keep_best
from keras_training import begin, put, take
from series import LAST_TRAINING_YEAR, NOISE, Series, fold_scale, louder, read, write_card

import rnncore

UNITS = 16
WINDOW = 33  # years, three solar cycles
SEEDS = range(5)
EPOCHS, EVERY = 120, 10  # the validation years are looked at every so many gradient steps
BATCH = 64  # windows in one gradient step, drawn from the training years


def network(activation: str | None) -> keras.Model:
    x = keras.Input((None, 1), name="x")
    y = keras.layers.SimpleRNN(UNITS, name="rnn")(x)
    return keras.Model(x, keras.layers.Dense(1, activation=activation, name="forecast")(y))


def windows(numbers: np.ndarray) -> np.ndarray:
    """(T - 1, WINDOW, 1): the years up to each but the last; before the first, the first is repeated."""
    padded = np.concatenate([np.full(WINDOW - 1, numbers[0]), numbers[:-1]])
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[..., None].astype(np.float32)


def main() -> None:
    options = arguments(__doc__)
    series = read()
    found = [train(series, seed, options) for seed in SEEDS]
    error, seed, epoch, model = min(found, key=lambda entry: entry[0])
    print(f"seed {seed}: validation RMSE {error:.2f}")
    exported = rnncore.export.from_keras(unscaled(series, model), windows(series.numbers)[-3:])
    rnncore.save(options.target / "sunspots-rnn.safetensors", exported)
    shipped = rnncore.load(options.target / "sunspots-rnn.safetensors", check=True)
    facts = {
        "input": f"`x`, float (B, T, 1): sunspot numbers of T consecutive years; trained with T = {WINDOW}",
        "output": f"`{exported.spec.outputs[0]}`, float (B, 1): the number expected for the year behind them",
        "network": f"SimpleRNN, 1 to {UNITS} units with tanh, then Dense to 1 with relu",
        "training": f"`python examples/train/sunspots_rnn.py`, seed {seed} of {len(SEEDS)}, {epoch * EVERY} gradient "
        "steps",
        "made with": f"Keras {keras.__version__} on {keras.backend.backend()}",
    }
    title = f"Forecasts next year's mean sunspot number from the {WINDOW} before it: SimpleRNN and Dense."
    write_card(options.target, "sunspots-rnn", title, facts, series, forecasts(shipped, series))


def train(series: Series, seed: int, options) -> tuple[float, int, int, keras.Model]:
    """RMSE of the validation years, seed, epoch, and the network on scaled numbers as it was then."""
    begin(seed)
    rng = np.random.default_rng(seed)
    model = network(None)
    model.compile(keras.optimizers.AdamW(3e-3, weight_decay=0.1, global_clipnorm=1.0), "mse")
    x = windows(series.scaled)
    pairs = np.concatenate([x[:, :, 0], series.scaled[1:, None]], axis=1)  # a window and the year behind it
    pairs = pairs[WINDOW:][series.years[WINDOW + 1 :] <= LAST_TRAINING_YEAR]

    def run(epoch: int) -> float:
        for _ in range(EVERY):
            drawn = louder(series, pairs[rng.choice(len(pairs), BATCH)], rng.uniform(-1, 1, (BATCH, 1)))
            inputs = drawn[:, :-1] + NOISE * rng.standard_normal((BATCH, WINDOW))
            loss = model.train_on_batch(inputs[..., None].astype(np.float32), drawn[:, -1:].astype(np.float32))
        return float(loss)

    def score() -> float:
        return series.validation_rmse(model.predict_on_batch(x)[:, 0].astype(np.float64))

    path = options.weights and options.weights.with_name(f"{options.weights.stem}-{seed}.npz")
    epoch = keep_best(
        1 if options.quick else EPOCHS, run, score, lambda: take(model), lambda weights: put(model, weights),
        better=operator.lt, path=path,
    )  # fmt: skip
    return score(), seed, epoch, model


def unscaled(series: Series, model: keras.Model) -> keras.Model:
    """The network for numbers as they are; forecasts below zero become zero."""
    kernel, recurrent, bias, head, head_bias = (array.astype(np.float64) for array in model.get_weights())
    kernel, bias, head, head_bias = fold_scale(series, kernel[0], bias, head[:, 0], head_bias)
    found = network("relu")
    found.set_weights([kernel[None], recurrent, bias, head[:, None], head_bias])
    return found


def forecasts(model: rnncore.Model, series: Series) -> np.ndarray:
    """(T - 1,) for each year but the last: the forecast of the next."""
    return model(windows(series.numbers))[:, 0].astype(np.float64)


if __name__ == "__main__":
    main()
