"""State and stream bytes: damaged, forged with a right checksum, of another model."""

from __future__ import annotations

import random

import numpy as np
from draw import Draw
from mutate import change_bytes, with_crc
from outcome import WrongResult
from random_networks import draw_weights
from stream_models import SPECS

from rnncore.errors import RnncoreError
from rnncore.runtime.model import Model
from rnncore.runtime.state import State

__all__ = ["mutate", "run", "seeds"]

MODELS = [
    Model(SPECS[name], draw_weights(SPECS[name], np.random.default_rng(0)), num_threads=1)
    for name in ("lstm", "gru", "projection", "graph", "embedding", "time_first")
]


def chunk(model: Model, batch: int, steps: int = 2) -> np.ndarray:
    """Steps that the model's only input takes."""
    entry = model.inputs[0]
    sizes = {"B": batch, "T": steps}
    shape = [sizes.get(size, size) for size in entry.shape]
    return np.ones(shape, np.int64 if entry.dtype == "int64" else np.float32)


def run(data: bytes) -> int:
    """The first byte says whose; the rest is a State's bytes and a stream's. What is accepted runs, and is written
    again as the same State."""
    draw = Draw(data[:1])
    model = MODELS[draw.below(len(MODELS))]
    data = data[1:]
    stream = model.stream(2)
    try:
        stream.load(data)
    except RnncoreError:
        pass
    else:
        stream.feed(chunk(model, 2))
    state = State.from_bytes(data)
    if State.from_bytes(state.to_bytes()) != state:
        raise WrongResult("a State that was written is another one")
    x = chunk(model, min(state.batch, 64))
    model(x, state) if model.spec.stateful else None
    return 4 * state.nbytes


def seeds() -> list[bytes]:
    found = []
    for place, model in enumerate(MODELS):
        stream = model.stream(2)
        stream.feed(chunk(model, 2))
        found += [bytes([place]) + stream.save(), bytes([place]) + stream.state.to_bytes()]
        found.append(bytes([place]) + stream.state.to_bytes(model.fingerprint))
    odd = {"x.h": np.zeros((0, 3, 0)), "": np.ones(()), "é" * 500: np.zeros((1,) * 16, bool)}
    return [*found, *(b"\0" + State({name or "n": array}).to_bytes() for name, array in odd.items())]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, most often with a checksum that fits."""
    found = data[:1] + change_bytes(data[1:], rng)
    return found if rng.random() < 0.2 else with_crc(found)
