"""Trains folk, a character model of Irish dance tunes in ABC notation: a two-layer LSTM, in PyTorch.

    pip install "rnncore[train]"
    python examples/train/folk.py

Reads the tunes of O'Neill's Music of Ireland (1903) as they come with music21, keeps metre, unit length, key and
notes, and learns to write the next character.
"""

from __future__ import annotations

import re
import zipfile

import music21
import numpy as np
import torch
from common import arguments, card, package, save, split
from language import Language, bits, parts_of, trained
from ngram import KneserNey

import rnncore

WIDTH, HIDDEN, DROPOUT = 48, 256, 0.3
EPOCHS, RATE = 16, 3e-3
ORDER = 7  # of the n-gram that the card compares with
STOP = "<stop>"  # before and behind each tune
RARE = 20  # tunes with a character that stands in fewer are left out
METRES = {"6/8": "1/8", "C|": "1/8", "C": "1/8", "3/4": "1/8", "2/4": "1/16"}  # the commonest, and their unit lengths
EACH = 12  # tunes of each metre that are composed for the card


def tunes() -> list[str]:
    """Each tune as three header lines and its notes."""
    found = []
    with zipfile.ZipFile(package("music21==10.5.1")) as archive:
        for path in sorted(name for name in archive.namelist() if re.search(r"corpus/oneills1850/.*\.abc$", name)):
            text = archive.read(path).decode("utf-8", "replace").replace("\r", "")
            found += [plain(tune) for tune in re.split(r"\n(?=X:)", "\n" + text) if tune.startswith("X:")]
    found = list(dict.fromkeys(tune for tune in found if tune))
    counts = {letter: sum(letter in tune for tune in found) for letter in set("".join(found))}
    return [tune for tune in found if all(counts[letter] >= RARE for letter in tune)]


def plain(tune: str) -> str:
    """M:, L:, K: and the notes, without comments, quoted text and decorations of the copyist; "" if one is missing."""
    header = {}
    notes = []
    for line in tune.splitlines():
        line = line.partition("%")[0].strip()
        field = re.match(r"([A-Za-z]):\s*(.*)", line)
        if field and not notes:
            header[field[1]] = field[2].strip()
        elif field is None and line:
            notes.append(re.sub(r'"[^"]*"|![^!]*!|\\$|\s+', " ", line).strip())
    body = "\n".join(re.sub(r" +", " ", line) for line in notes if line.strip())
    if not body or not {"M", "K"} <= set(header) or len(body) < 40:
        return ""
    return f"M:{header['M']}\nL:{header.get('L', '1/8')}\nK:{header['K'].partition(' ')[0]}\n{body}"


def data():
    """characters; "training", "validation" and "held out" -> ids in a row; the tunes; and which tune is for what"""
    found = tunes()
    letters = [STOP, *sorted(set("".join(found)))]
    ids = {letter: number for number, letter in enumerate(letters)}
    parts = split(found)
    rows = {
        name: np.array([0] + [number for tune in found if parts[tune] == name for number in [*map(ids.get, tune), 0]])
        for name in ("training", "validation", "held out")
    }
    return letters, rows, found, parts


def composed(model: rnncore.Model, each: int = EACH) -> list[str]:
    """Tunes in ABC notation, sampled as the demo samples them."""
    found = []
    for metre, unit in METRES.items():
        header = f"M:{metre}\nL:{unit}\n"
        prompts = [[STOP, *header]] * each
        drawn = model.generate(prompts, 600, temperature=0.8, top_p=0.95, seed=1, stop=[STOP])
        found += [header + one.text for one in drawn]
    return found


def music(tunes: list[str]) -> tuple[int, float]:
    """How many tunes music21 reads, and which part of their bars is as long as the metre says."""
    read, full, bars = 0, 0, 0
    for tune in tunes:
        try:
            score = music21.converter.parse("X:1\n" + tune, format="abc")
            wanted = score[music21.meter.TimeSignature].first().barDuration.quarterLength
        except Exception:  # whatever music21 stumbles over: it is not a tune
            continue
        lengths = [bar.duration.quarterLength for bar in score[music21.stream.Measure]]
        read, full, bars = read + 1, full + lengths.count(wanted), bars + len(lengths)
    return read, full / max(bars, 1)


def main() -> None:
    options = arguments(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    letters, rows, found, parts = data()
    print({name: len(row) for name, row in rows.items()}, len(letters), "characters")
    network = Language(len(letters), WIDTH, HIDDEN, DROPOUT)
    network, epoch = trained(network, options, rows["training"], rows["validation"], EPOCHS, RATE)
    full = bits(network, rows["held out"])
    spec, weights, pair = parts_of(network)
    half = bits(network, rows["held out"])
    grams = KneserNey(rows["training"], ORDER, len(letters)).bits(rows["held out"])
    model = save(options.target, "folk", spec, weights, pair, {"tokens": letters, "logits": letters})
    made = composed(model, 2 if options.quick else EACH)
    real = [tune for tune in found if parts[tune] == "held out" and tune[2 : tune.index("\n")] in METRES][: len(made)]
    facts = {
        "task": "character model of tunes in ABC notation; made for sampling",
        "input": f"`tokens`, ids (B, T); id 0 is {STOP}, which stands before and behind a tune",
        "output": "`logits` (B, T, V) of the next character",
        "network": f"Embedding {len(letters)} to {WIDTH}, LSTM {HIDDEN} in 2 layers, Linear",
        "data": f"{len(found):,} tunes, {sum(map(len, rows.values())):,} characters: metre, unit length, key and notes",
        "source of the data": "O'Neill's Music of Ireland, Chicago 1903, in ABC notation out of package music21 10.5.1",
        "licence of the data": "the tunes are out of copyright; of the transcriptions (John B. Walsh and others) the "
        "package states no licence of their own. No tune is part of this package",
        "training": f"`python examples/train/folk.py`, epoch {epoch} of {EPOCHS}",
        "made with": f"torch {torch.__version__}",
    }
    held = sum(part == "held out" for part in parts.values())
    figures = FIGURES.format(
        held=held, full=full, half=half, grams=grams, order=ORDER, made=judged(made), real=judged(real)
    )
    print(figures)
    card(options.target, "folk", "Writes tunes for dancing, character by character.", facts, figures)


def judged(tunes: list[str]) -> str:
    read, share = music(tunes)
    return f"{read} of {len(tunes)} | {share:.0%}"


FIGURES = """Bits a character on {held} held-out tunes, and what music21 finds in tunes that were composed by the model:

| | bits | tunes that music21 reads | bars as long as their metre |
|---|---|---|---|
| float32 weights | {full:.3f} | | |
| as shipped, float16 weights | {half:.3f} | {made} |
| {order}-gram, interpolated Kneser-Ney, same training tunes | {grams:.3f} | | |
| held-out tunes of the same metres, as people wrote them | | {real} |

A tune begins and ends within a bar, and has endings for its repeats: so not all bars are full.
"""


if __name__ == "__main__":
    main()
