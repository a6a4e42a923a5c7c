"""torch.save's zip archives."""

import random

from hostile_files import BENIGN, HOSTILE
from mutate import change_bytes, change_zip

from targets._files import built, read, stored

__all__ = ["mutate", "run", "seeds"]

run = read


def seeds() -> list[bytes]:
    found = [*built({**BENIGN, **HOSTILE}, ("fine_", "torch_")), *stored("torch_zip")]
    return [data for data in found if data[:2] == b"PK"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Most often the pickle or a storage, with sizes and checksum that fit."""
    return change_zip(data, rng, lambda name, content, rng: change_bytes(content, rng))
