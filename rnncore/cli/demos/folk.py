"""Tunes for dancing, sampled character by character, in ABC notation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

from rnncore.cli.demos.base import Demo, model_of, speed
from rnncore.cli.output import say
from rnncore.errors import InputError

__all__ = ["DEMOS", "compose"]

LONGEST = 600
METRES = {"jig": "6/8", "reel": "C|", "hornpipe": "C", "waltz": "3/4", "march": "2/4"}
SIXTEENTHS = ("2/4",)  # metres of which most tunes count in sixteenths
SEED = 7


def compose(metre: str = "6/8", seed: int = SEED, temperature: float = 0.8) -> str:
    """A tune in ABC notation."""
    model = model_of("folk")
    start = f"M:{metre}\nL:{'1/16' if metre in SIXTEENTHS else '1/8'}\n"
    generated = model.generate(
        [["<stop>", *start]], LONGEST, temperature=temperature, top_p=0.95, seed=seed, stop=["<stop>"]
    )
    return f"X:1\nT:Composed by a network, no. {seed}\n{start}{generated[0].text}\n"


def composed(text: str | None) -> str:
    """The tune that a text such as "reel 12" asks for."""
    kind, number = cast(re.Match, re.fullmatch(r"(.*?)\s*(\d*)", (text or "jig").strip().lower())).groups()
    if re.fullmatch(r".*/\s*", kind):  # the number belongs to a metre
        kind, number = kind + number, ""
    metre = METRES.get(kind or "jig", kind.upper())
    if not re.fullmatch(r"\d{1,2}/\d{1,2}|C\|?", metre):
        raise InputError(f"folk {kind!r}, expected {', '.join(METRES)}, or a metre such as 6/8")
    return compose(metre, int(number) if number else SEED)


def show(text: str | None) -> None:
    for line in composed(text).splitlines():
        say(f"    {line}")
    say("    (ABC notation, for any ABC player; --plot tune.abc or tune.mid writes it to a file)")
    model = model_of("folk")
    starts = [["<stop>", "M"]] * 32
    speed(
        "32 tunes in one batch, 100 characters each",
        lambda: model.generate(starts, 100, temperature=0.8, seed=1),
        3200,
        "characters",
    )


def plot(text: str | None, path: Path) -> None:
    """A .abc file, or a MIDI file through music21."""
    tune = composed(text)
    if path.suffix == ".abc":
        path.write_text(tune, encoding="utf-8")
        return
    try:
        import music21
    except ImportError:
        raise InputError("a MIDI file needs music21: pip install music21") from None
    music21.converter.parse(tune, format="abc").write("midi", fp=str(path))


DEMOS = (
    Demo(
        "folk",
        "dance tunes, sampled: character model, LSTM in 2 layers",
        show,
        "folk reel 12 --plot reel.abc",
        f"{', '.join(METRES)}, or a metre such as 6/8; with a number after it, another tune",
        plot,
        "Write the tune in ABC notation, or with music21 as MIDI",
        (".abc", ".mid", ".midi"),
    ),
)
