"""PrefixCache: random prompts with a cache of a random size give the tokens that they give without one."""

from __future__ import annotations

import random

import numpy as np
from draw import ODD_NUMBERS, Draw
from mutate import change_bytes
from outcome import WrongResult
from random_networks import draw_weights

from rnncore.cells import GRU
from rnncore.decode import PrefixCache
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model

__all__ = ["mutate", "run", "seeds"]

WORDS = 7


def _model() -> Model:
    spec = Spec(
        [Input("ids", "int64", ("B", "T"))],
        [
            Node("embed", "Embedding", "ids", {"input_size": WORDS, "output_size": 3}),
            Recurrent("gru", GRU(3, 5), "embed", lengths=None),
            Node("scores", "Linear", "gru", {"input_size": 5, "output_size": WORDS}),
        ],
        ["scores"],
    )
    return Model(spec, draw_weights(spec, np.random.default_rng(0)), num_threads=1)


MODEL = _model()


def run(data: bytes) -> int:
    """Up to four calls of generate with one cache."""
    draw = Draw(data)
    room = draw.pick((1 << 20, 0, 500, 1000, 3000, draw.pick(ODD_NUMBERS)))
    cache = PrefixCache(MODEL, room)
    for _ in range(draw.between(1, 4)):
        prompts = [_prompt(draw) for _ in range(draw.between(1, 3))]
        drawn = {"seed": draw.below(100), "temperature": 0.5, "samples": draw.pick((1, 2))}
        options = draw.pick(({}, {"beams": 2}, drawn, {**drawn, "top_k": 2}, {**drawn, "top_p": 0.5}))
        length = draw.pick((3, 0, 1, 70, draw.pick((-1, 1.5, None))))
        found = MODEL.generate(prompts, length, cache=cache, **options)
        expected = MODEL.generate(prompts, length, **options)
        if str(found) != str(expected):
            raise WrongResult(f"with a cache {found}, without {expected}")
        if cache.nbytes > max(0, room):
            raise WrongResult(f"{cache.nbytes} bytes in a cache of {room}")
    return 0


def _prompt(draw: Draw) -> list[int]:
    size = draw.pick((3, 1, 2, 5, 64, 65, 130, 0))
    prompt = [draw.below(3) for _ in range(min(size, 5))] + [1] * (size - 5)
    if draw.chance(20) and prompt:
        prompt[0] = draw.pick(ODD_NUMBERS)
    return prompt


def seeds() -> list[bytes]:
    return [random.Random(seed).randbytes(60) for seed in range(16)]


def mutate(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(20, 100)) if rng.random() < 0.5 else change_bytes(data, rng)
