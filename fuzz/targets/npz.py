"""NumPy's .npz and .npy."""

import random

from hostile_files import BENIGN, HOSTILE
from mutate import change_bytes, change_zip

from targets._files import built, read, stored

__all__ = ["mutate", "run", "seeds"]

run = read


def seeds() -> list[bytes]:
    return [*built({**BENIGN, **HOSTILE}, ("fine_np", "np")), *stored("npz")]


def mutate(data: bytes, rng: random.Random) -> bytes:
    if data[:2] != b"PK":
        return change_bytes(data, rng)
    return change_zip(data, rng, lambda name, content, rng: change_bytes(content, rng))
