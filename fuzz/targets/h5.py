"""Keras's HDF5 files."""

import json
import random

from hostile_keras import BENIGN, HOSTILE
from mutate import change_bytes, change_json

from targets._files import GOLDEN, built, load_and_run, stored

__all__ = ["mutate", "run", "seeds"]

SIGNATURE = b"\x89HDF"


def run(data: bytes) -> int:
    return load_and_run(data)


def seeds() -> list[bytes]:
    found = [*built({**BENIGN, **HOSTILE}), *stored("h5"), *(path.read_bytes() for path in GOLDEN.glob("*.h5"))]
    return [data for data in found if data[:4] == SIGNATURE]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Half the time the config's JSON in its place, padded; else the bytes, most often in what is no padding."""
    begin = data.find(b'{"class_name"')
    if begin >= 0 and rng.random() < 0.5:
        end = data.find(b"\0", begin)
        try:
            text = json.dumps(change_json(json.loads(data[begin:end]), rng)).encode()
        except (ValueError, RecursionError):
            text = b""
        if text and len(text) <= end - begin:
            return data[:begin] + text.ljust(end - begin) + data[end:]
    return change_bytes(data, rng)
