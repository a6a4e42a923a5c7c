"""Is the writer pleased, and which words say so: a deep bidirectional encoder with word attention."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
from rich.style import Style
from rich.text import Text

from rnncore.cli.demos.base import Demo, model_of, pyplot, speed
from rnncore.cli.output import console, say
from rnncore.errors import InputError

__all__ = ["DEMOS"]

EXAMPLES = (
    "A gorgeous, witty and moving film, with a cast that never puts a foot wrong.",
    "It is not a terrible film, but it is far too long and I was bored.",
)
WORDS = re.compile(r"n't|'s|[a-z]+(?=n't)|[a-z]+|[0-9]+|[.,;:!?]")
RED, BLUE = (214, 69, 65), (31, 119, 180)


def judge(text: str) -> tuple[list[str], float, np.ndarray]:
    """Words of the text, the probability that its writer is pleased, and the weight of each word."""
    model = model_of("sentiment")
    words = WORDS.findall(text.lower().replace("''", " "))
    if not words:
        raise InputError(f"text {text!r}, expected at least one word")
    found = model.run({"words": np.array([model.vocabulary["words"].ids(" ".join(words))])})
    return words, float(found["probabilities"][0, 1]), found["attention.weights"][0]


def show(text: str | None) -> None:
    for one in [text] if text else EXAMPLES:
        words, share, weights = judge(one)
        line = Text("    ")
        for word, weight in zip(words, weights / weights.max(), strict=True):
            line.append(word, Style(bgcolor=_blend(share, float(weight)), color="black" if weight > 0.25 else None))
            line.append(" ")
        console().print(line, soft_wrap=True)
        strongest = ", ".join(f"{words[place]} {weights[place]:.0%}" for place in np.argsort(-weights)[:3])
        say(f"    {'pleased' if share >= 0.5 else 'not pleased'}: {max(share, 1 - share):.0%}; it rests on {strongest}")
    speed("one sentence, words to weights", lambda: judge(EXAMPLES[0]), 1, "sentences")


def _blend(share: float, weight: float) -> str:
    """A background: blue for pleased, red for not, pale where the weight is small."""
    end = BLUE if share >= 0.5 else RED
    return "#" + "".join(f"{round(255 + (channel - 255) * weight * 0.75):02x}" for channel in end)


def plot(text: str | None, path: Path) -> None:
    words, share, weights = judge(text or EXAMPLES[0])
    verdict = f"{'pleased' if share >= 0.5 else 'not pleased'} ({max(share, 1 - share):.0%})"
    if path.suffix == ".html":
        spans = " ".join(
            f'<span style="background:{_blend(share, float(w))}" title="{v:.1%}">{html.escape(word)}</span>'
            for word, v, w in zip(words, weights, weights / weights.max(), strict=True)
        )
        page = "<!doctype html><meta charset=utf-8><title>Which words say so</title>"
        style = '<body style="font:20px/1.8 sans-serif;max-width:40em;margin:3em auto">'
        path.write_text(f"{page}{style}<p>{spans}<p><b>{verdict}</b>: the darker a word, the more it counts.", "utf-8")
        return
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(7, 1 + 0.28 * len(words)))
    axes.barh(range(len(words)), weights, color="#1f77b4" if share >= 0.5 else "#d64541")
    axes.set_yticks(range(len(words)), words)
    axes.invert_yaxis()
    axes.set_xlabel("share of the attention")
    axes.set_title(f"Which words the answer rests on: the writer is {verdict}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")


DEMOS = (Demo("sentiment", "is the writer pleased? bidirectional LSTM with word attention", show, plot, "a sentence"),)
