"""Tunes for dancing, sampled character by character, in ABC notation."""

from __future__ import annotations

from pathlib import Path

from rnncore.cli.demos.base import Demo, model_of, speed
from rnncore.cli.output import say

__all__ = ["DEMOS", "compose"]

LONGEST = 600
METRES = {"jig": "6/8", "reel": "C", "hornpipe": "C|", "slip jig": "9/8", "waltz": "3/4", "march": "2/4"}
SEED = 7


def compose(metre: str = "6/8", seed: int = SEED, temperature: float = 0.8) -> str:
    """A tune in ABC notation."""
    model = model_of("folk")
    start = f"M:{metre}\n"
    found = model.generate(
        [["<stop>", *start]], LONGEST, temperature=temperature, top_p=0.95, seed=seed, stop=["<stop>"]
    )
    return f"X:1\nT:Composed by a network, no. {seed}\n{start}{found[0].text}\n"


def show(text: str | None) -> None:
    for line in compose(METRES.get(text or "jig", text or "6/8")).splitlines():
        say(f"    {line}")
    say("    (paste it into any ABC player; with --plot tune.abc or tune.mid it is written to a file)")
    model = model_of("folk")
    starts = [["<stop>", "M"]] * 32
    speed(
        "32 tunes side by side, 100 characters each",
        lambda: model.generate(starts, 100, temperature=0.8, seed=1),
        3200,
        "characters",
    )


def plot(text: str | None, path: Path) -> None:
    """A .abc file, or a .mid file through music21."""
    tune = compose(METRES.get(text or "jig", text or "6/8"))
    if path.suffix == ".abc":
        path.write_text(tune, encoding="utf-8")
        return
    from rnncore.errors import InputError

    if path.suffix not in (".mid", ".midi"):
        raise InputError(f"{path}: expected a name that ends in .abc or .mid")
    try:
        import music21
    except ImportError:
        raise InputError("a .mid file needs music21: pip install music21") from None
    music21.converter.parse(tune, format="abc").write("midi", fp=str(path))


DEMOS = (Demo("folk", "dance tunes, sampled: character model, LSTM in 2 layers", show, plot, "jig, reel, waltz ..."),)
