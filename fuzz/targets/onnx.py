"""ONNX files: read, compiled and run."""

import random

from hostile_onnx import BENIGN, HOSTILE
from mutate import change_protobuf

from targets._files import built, load_and_run, stored

__all__ = ["mutate", "run", "seeds"]


def run(data: bytes) -> int:
    return load_and_run(data)


def seeds() -> list[bytes]:
    return [*built({**BENIGN, **HOSTILE}), *stored("onnx")]


def mutate(data: bytes, rng: random.Random) -> bytes:
    return change_protobuf(data, rng)
