"""Is the writer pleased, and which words say so: a deep bidirectional encoder with word attention."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
from rich.style import Style
from rich.text import Text

from rnncore.cli.demos.base import PICTURES, Demo, model_of, pyplot, say_unknown, speed
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
    outputs = model.run({"words": np.array([model.vocabulary["words"].ids(" ".join(words))])})
    return words, float(outputs["probabilities"][0, 1]), outputs["attention.weights"][0]


def verdict(share: float) -> str:
    return f"{'pleased' if share >= 0.5 else 'not pleased'} ({max(share, 1 - share):.0%})"


def show(text: str | None) -> None:
    for one in [text] if text else EXAMPLES:
        words, share, weights = judge(one)
        line = Text("    ")
        for word, weight in zip(words, weights / weights.max(), strict=True):
            strong = weight > 0.1
            line.append(word, Style(bgcolor=_blend(share, float(weight)), color="black") if strong else Style())
            line.append(" ")
        console().print(line, soft_wrap=True)
        strongest = ", ".join(f"{words[place]} {weights[place]:.0%}" for place in np.argsort(-weights)[:3])
        say(f"    {verdict(share)}; looks at {strongest}")
        say_unknown(model_of("sentiment").vocabulary["words"], words)
    speed("one sentence, words to weights", lambda: judge(EXAMPLES[0]), 1, "sentences")


def _blend(share: float, weight: float) -> str:
    """A background: blue for pleased, red for not, pale where the weight is small."""
    end = BLUE if share >= 0.5 else RED
    return "#" + "".join(f"{round(255 + (channel - 255) * weight * 0.75):02x}" for channel in end)


def plot(text: str | None, path: Path) -> None:
    judged = [judge(one) for one in ([text] if text else EXAMPLES)]
    if path.suffix == ".html":
        path.write_text(_page(judged), "utf-8")
        return
    plt = pyplot()
    longest = max(len(words) for words, _, _ in judged)
    size = (max(6, 1.2 + 0.45 * longest), 2.6 * len(judged) + 0.4)
    figure, rows = plt.subplots(len(judged), figsize=size, squeeze=False)
    for axes, (words, share, weights) in zip(rows[:, 0], judged, strict=True):
        axes.bar(range(len(words)), weights, color="#1f77b4" if share >= 0.5 else "#d64541")
        axes.set_xticks(range(len(words)), words, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.6, longest - 0.4)
        axes.set_ylabel("share of the\nattention")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_title(f"The network finds: the writer is {verdict(share)}", fontsize=11, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    rows[-1, 0].set_xlabel("words of the sentence, in their order")
    figure.tight_layout()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def _page(judged: list[tuple[list[str], float, np.ndarray]]) -> str:
    """The sentences as a page, each word on a background as dark as its weight."""
    parts = []
    for words, share, weights in judged:
        spans = " ".join(
            f'<span style="background:{_blend(share, float(part))}" title="{weight:.1%}">{html.escape(word)}</span>'
            for word, weight, part in zip(words, weights, weights / weights.max(), strict=True)
        )
        parts.append(f"<p>{spans}</p>\n<p>The network finds: the writer is <b>{verdict(share)}</b>.</p>")
    return PAGE.format(parts="\n<hr>\n".join(parts))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Which words the answer rests on</title>
<style>
body {{ font: 20px/1.8 sans-serif; max-width: 40em; margin: 3em auto; color: #111; background: #fff; }}
span {{ padding: 0.1em 0.2em; border-radius: 0.2em; }}
small {{ color: #555; }}
</style>
</head>
<body>
<h1>Which words the answer rests on</h1>
{parts}
<p><small>The darker a word, the larger its share of the attention; rest the pointer on it to see how much.
Blue: the writer is pleased. Red: not.</small></p>
</body>
</html>
"""


DEMOS = (
    Demo(
        "sentiment",
        "is the writer pleased? bidirectional LSTM with word attention",
        show,
        'sentiment "I did not expect to like it" --plot words.html',
        "a sentence of a film review",
        plot,
        "Draw which words the answer rests on",
        (*PICTURES, ".html"),
    ),
)
