"""safetensors files of tensors alone."""

import random
import struct

from hostile_files import BENIGN, HOSTILE
from mutate import change_bytes, change_text_inside

from targets._files import built, read, stored

__all__ = ["mutate", "run", "seeds"]

run = read


def seeds() -> list[bytes]:
    return [*built({**BENIGN, **HOSTILE}, ("fine_safetensors", "safetensors")), *stored("safetensors")]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The header's JSON, with a length that fits; or the bytes."""
    if len(data) < 8 or rng.random() < 0.3:
        return change_bytes(data, rng)
    size = int.from_bytes(data[:8], "little")
    head, rest = data[8 : 8 + size], data[8 + size :]
    head = change_text_inside(head, rng)
    return struct.pack("<Q", len(head)) + head + rest
