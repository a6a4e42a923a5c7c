"""torch.save's older streams of pickles."""

import random

from hostile_files import BENIGN, HOSTILE
from mutate import change_bytes

from targets._files import built, read, stored

__all__ = ["mutate", "run", "seeds"]

run = read


def seeds() -> list[bytes]:
    return [*built({**BENIGN, **HOSTILE}, ("fine_stream", "stream", "fine_cuda")), *stored("torch_stream")]


def mutate(data: bytes, rng: random.Random) -> bytes:
    return change_bytes(data, rng)
