"""rnncore's own files: a Spec as JSON in a safetensors file, its weights, and a test pair."""

import json
import random
import struct
from pathlib import Path

import numpy as np
from mutate import change_json
from safetensors.numpy import save

from rnncore.formats.native import KEY
from targets import safetensors
from targets._files import LARGEST_SEED, load_and_run, stored

__all__ = ["mutate", "run", "seeds"]

GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "v1.safetensors"


def run(data: bytes) -> int:
    return load_and_run(data)


def seeds() -> list[bytes]:
    """The golden file, those committed, and small random networks."""
    from random_networks import random_network

    found = [GOLDEN.read_bytes(), *stored("native")]
    for seed in range(12):
        network = random_network(seed)
        data = as_file(network.spec, network.weights)
        if len(data) <= LARGEST_SEED:
            found.append(data)
    return found


def as_file(spec, weights) -> bytes:
    """The bytes of a native file."""
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in weights.items()}
    return save(tensors, {KEY: json.dumps({"format": 1, "spec": spec.to_json()})})


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Most often the Spec inside; else as any safetensors file."""
    try:
        size = int.from_bytes(data[:8], "little")
        head = json.loads(data[8 : 8 + size])
        inside = json.loads(head["__metadata__"][KEY])
        part = "spec" if rng.random() < 0.9 else rng.choice(sorted(inside))
        inside[part] = change_json(inside[part], rng)
        head["__metadata__"][KEY] = json.dumps(inside)
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return safetensors.mutate(data, rng)
    if rng.random() < 0.15:
        return safetensors.mutate(data, rng)
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]
