"""A word model: how it goes on, and how surprised it is."""

from __future__ import annotations

import re

from rnncore.cli.demos.base import Demo, model_of, say_unknown, speed
from rnncore.cli.output import say

__all__ = ["DEMOS"]

EXAMPLE = "and the king said unto the"
MORE = 25


def show(text: str | None) -> None:
    model = model_of("lm")
    words = re.findall(r"[a-z]+(?:'[a-z]+)?|[.,;:?!]", (text or EXAMPLE).lower())
    tokens = model.vocabulary["tokens"]
    (unknown,) = tokens.ids("<unk>")
    say_unknown(tokens, words)

    def known(prompt, written):
        return [number for number in range(len(tokens)) if number != unknown]

    generated = model.generate(
        [["<stop>", *words]], MORE, temperature=0.7, seed=3, samples=3, stop=["<stop>"], constraint=known
    )
    for one in (generated[0], *generated[0].alternatives):
        say(f"    {' '.join(words)} ... {one.text}")
    for order in dict.fromkeys((tuple(words), tuple(words[::-1]))):
        (score,) = model.score([["<stop>", *order]])
        say(f"    perplexity {score.perplexity:8.1f}   {' '.join(order)}")
    prompts = [["<stop>"]] * 64
    speed("64 texts in one batch, 20 words each", lambda: model.generate(prompts, 20, seed=1), 1280, "words")


DEMOS = (
    Demo(
        "lm",
        "the next word: LSTM 2 x 200, the classic small word model",
        show,
        'lm "and the lord said"',
        "the beginning of a verse in the words of the King James Bible",
    ),
)
