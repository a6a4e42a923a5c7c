"""Keras's .keras archives: config, metadata and weights."""

import random

from hostile_keras import BENIGN, HOSTILE
from mutate import change_bytes, change_text_inside, change_zip

from targets._files import GOLDEN, built, load_and_run, stored

__all__ = ["mutate", "run", "seeds"]


def run(data: bytes) -> int:
    return load_and_run(data)


def seeds() -> list[bytes]:
    found = [*built({**BENIGN, **HOSTILE}), *stored("keras"), *(p.read_bytes() for p in GOLDEN.glob("*.keras"))]
    return [data for data in found if data[:2] == b"PK"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Most often the config's JSON, with sizes and checksum that fit."""
    return change_zip(data, rng, _inside)


def _inside(name: str, content: bytes, rng: random.Random) -> bytes:
    return change_text_inside(content, rng) if name.endswith(".json") else change_bytes(content, rng)
