"""From spelling to sounds: an encoder-decoder with attention, by beam search, and the letters it looks at."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rnncore.cli.demos.base import PICTURES, Demo, model_of, pyplot, shade, speed
from rnncore.cli.output import say
from rnncore.errors import InputError

__all__ = ["DEMOS", "pronounce"]

EXAMPLE = "recurrent"
LONGEST = 30


def encode(words: list[str]) -> dict[str, np.ndarray]:
    """The decoder's inputs for words: their memory, its keys, the first state, and their lengths."""
    model = model_of("g2p-encoder")
    letters = model.vocabulary["letters"]
    for word in words:
        wrong = sorted(set(word) - set(letters))
        if wrong or not word:
            raise InputError(f"word {word!r}: {' '.join(wrong)}, expected letters from a to z, ', - and .")
    lengths = np.array([len(word) for word in words])
    ids = np.zeros((len(words), lengths.max()), np.int64)
    for row, word in enumerate(words):
        ids[row, : len(word)] = letters.ids(word)
    outputs = model.run({"letters": ids, "lengths": lengths})
    return {**outputs, "memory_lengths": lengths}


def pronounce(words: list[str], beams: int = 4) -> list[list[str]]:
    """The phonemes of words."""
    decoder = model_of("g2p")
    generated = decoder.generate(
        [["<stop>"]] * len(words), LONGEST, beams=beams, stop=["<stop>"], inputs=inputs_of(encode(words))
    )
    return [(one.text or "").split() for one in generated]


def inputs_of(encoded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: encoded[name] for name in ("memory", "keys", "start", "memory_lengths")}


def alignment(word: str) -> tuple[list[str], np.ndarray]:
    """Phonemes with <stop>, and for each the share (phonemes, letters) of every letter in what was looked at."""
    decoder = model_of("g2p")
    (phonemes,) = pronounce([word])
    ids = decoder.vocabulary["phonemes"].ids(" ".join(["<stop>", *phonemes]))
    outputs = decoder.run({"phonemes": np.array([ids]), **inputs_of(encode([word]))})
    return [*phonemes, "<stop>"], outputs["decoder.weights"][0]


def show(text: str | None) -> None:
    words = (text or EXAMPLE).lower().split()
    for word, phonemes in zip(words, pronounce(words), strict=True):
        say(f"    {word}  ->  {' '.join(phonemes)}")
    word = words[0]
    phonemes, weights = alignment(word)
    say("")
    say("    which letters each phoneme looked at (dark: much)")
    say(f"    {'':8}{' '.join(word)}")
    for phoneme, row in zip(phonemes, weights, strict=True):
        say(f"    {phoneme:8}{' '.join(shade(float(share)) for share in row)}")
    many = [word] * 64
    speed(f"64 words, beam of 4, {len(phonemes)} steps", lambda: pronounce(many), 64, "words")


def plot(text: str | None, path: Path) -> None:
    plt = pyplot()
    word = (text or EXAMPLE).lower().split()[0]
    phonemes, weights = alignment(word)
    figure, axes = plt.subplots(figsize=(1.2 + 0.5 * len(word), 1.2 + 0.45 * len(phonemes)))
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(word)), list(word), fontsize=13)
    axes.set_yticks(range(len(phonemes)), phonemes, fontsize=11)
    axes.set_xlabel("letters of the word")
    axes.set_ylabel("phonemes, in the order they were spoken")
    axes.set_title("Which letters each phoneme looks at")
    figure.colorbar(image, label="share of the attention", shrink=0.8)
    figure.savefig(path, dpi=120, bbox_inches="tight")


DEMOS = (
    Demo(
        "g2p",
        "from spelling to sounds: encoder-decoder with attention, beam search",
        show,
        "g2p antidisestablishmentarianism --plot letters.png",
        "English words, real or not",
        plot,
        "Draw which letters of the first word each phoneme looks at",
        PICTURES,
    ),
)
