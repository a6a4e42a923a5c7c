"""StreamPool: bytes of one stream and of all, and random calls between them."""

from __future__ import annotations

import random

import numpy as np
from draw import Draw
from mutate import change_bytes, with_crc
from outcome import WrongResult

from rnncore.errors import RnncoreError
from targets.states import MODELS, chunk

__all__ = ["mutate", "run", "seeds"]

HEAD = 24  # bytes of choices before those of a pool
IDS = ("a", 1, "\ud800", "", 2**70, None, "a" * 500)


def run(data: bytes) -> int:
    """Calls of a pool, chosen by the first bytes; the rest is loaded into it. What is open answers as before."""
    draw, saved = Draw(data[:HEAD]), data[HEAD:]
    model = MODELS[draw.below(len(MODELS))]
    pool = model.pool(4)
    pool.open("kept")
    piece = chunk(model, 1)[0] if model.inputs[0].shape[0] == "B" else chunk(model, 1)[:, 0]
    first = pool.step({"kept": piece})["kept"]
    reference = model.stream(1)
    reference.feed(chunk(model, 1))
    refusals = []
    for _ in range(6):
        try:
            _call(pool, draw, saved, piece)
        except RnncoreError as error:
            refusals.append(error)
    if "kept" in pool:
        pool.reset("kept")
        if not _same(pool.step({"kept": piece})["kept"], first):
            raise WrongResult("a stream that was reset answers otherwise")
    if len(pool) > pool.capacity or len(pool.ids) != len(pool):
        raise WrongResult(f"{len(pool)} streams in a pool of {pool.capacity}, ids {pool.ids}")
    pool.load_all(saved)
    return 8 * pool.nbytes


def _same(a, b) -> bool:
    pairs = [(a[key], b[key]) for key in a] if isinstance(a, dict) else [(a, b)]
    return all(np.array_equal(p, q, equal_nan=True) for p, q in pairs)


def _call(pool, draw: Draw, saved: bytes, piece: np.ndarray) -> None:
    id, kind = draw.pick(IDS), draw.below(10)
    if kind == 0:
        pool.open(id)
    elif kind == 1:
        pool.load(saved, id)
    elif kind == 2:
        pool.load_all(saved)
    elif kind == 3:
        pool.close(id)
    elif kind == 4:
        pool.fork("kept", id)
    elif kind == 5:
        pool.step({id: piece, "kept": piece[: draw.below(3)]})
    elif kind == 6:
        pool.load(pool.save("kept"), id)
    elif kind == 7:
        pool.load_all(pool.save_all())
    elif kind == 8:
        pool.step(dict.fromkeys(pool.ids, piece))
    else:
        handles = np.array([draw.between(-2, 9) for _ in range(draw.below(4))], np.int64)
        handles = handles.astype(draw.pick((np.int64, np.float32, np.uint8)))
        pool.step(np.stack([piece] * len(handles)) if len(handles) else piece[None][:0], handles)


def seeds() -> list[bytes]:
    found = []
    for place, model in enumerate(MODELS):
        pool = model.pool(4)
        for id in ("a", 1, None):
            pool.open(id)
        head = bytes([place]) + random.Random(place).randbytes(HEAD - 1)
        found += [head + pool.save_all(), head + pool.save("a")]
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Other calls, or other bytes, most often with a checksum that fits."""
    head, saved = data[:HEAD], data[HEAD:]
    if rng.random() < 0.6:
        head = head[:1] + rng.randbytes(HEAD - 1)
    if rng.random() < 0.7:
        saved = change_bytes(saved, rng)
        saved = saved if rng.random() < 0.2 else with_crc(saved)
    return head.ljust(HEAD, b"\0") + saved
