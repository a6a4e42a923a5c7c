"""Faults on purpose, for the test of the driver; no target of its own."""

from __future__ import annotations

import os
import random

from mutate import change_bytes
from outcome import WrongResult

from rnncore.errors import FormatError

__all__ = ["mutate", "run", "seeds"]


def run(data: bytes) -> int:
    """What the first word of the input says."""
    word = data.split(b" ")[0]
    if word == b"refused":
        raise FormatError("as it should be")
    if word == b"wrong":
        raise WrongResult("one thing for another")
    if word == b"foreign":
        return {}[data]
    if word == b"memory":
        return len(bytearray(600 << 20)) * 0
    if word == b"crash":
        os.abort()
    while word == b"hang":
        pass
    return 0


def seeds() -> list[bytes]:
    return [b"right", b"refused"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    word = rng.choice([b"wrong", b"foreign", b"memory", *[b"right", b"refused"] * 100])
    if os.environ.get("RNNCORE_PLANTED") and rng.random() < 0.01:
        word = os.environ["RNNCORE_PLANTED"].encode()
    return word + b" " + change_bytes(b"and more", rng)
