"""The models that come with the package are what their cards say."""

from __future__ import annotations

import re
import shlex
import sys
from html.parser import HTMLParser
from importlib import resources

import music21
import numpy as np
import pytest
import statsmodels.api
from click.testing import CliRunner

import rnncore
from rnncore import zoo
from rnncore.cli.application import application
from rnncore.cli.demos import DEMOS
from rnncore.cli.demos.folk import METRES, compose
from rnncore.cli.demos.sentiment import judge
from rnncore.cli.demos.sunspots import Forecast, forecast

LARGEST, LARGEST_TOGETHER = 2_000_000, 8_000_000  # bytes of one model, and of all
MODELS = (
    *("cifg", "digits", "folk", "g2p", "g2p-encoder", "lm", "names", "names-relu", "peephole", "sentiment"),
    *("speakers", "sunspots", "sunspots-rnn", "tagger"),
)


def figure(name: str, column: int) -> float:
    """A figure of the held-out years in the card of "sunspots" or "sunspots-rnn"."""
    (line,) = [line for line in zoo.card(name).splitlines() if line.startswith("| held out | ")]
    return float(line.split("|")[1:-1][column])


@pytest.fixture(scope="module")
def held_out() -> Forecast:
    """What the demo forecasts for the years 1960 to 2008."""
    return forecast()


def rmse(a, b) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64) - b))))


@pytest.mark.parametrize("name", zoo.models())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_verifies(name, dtype):
    assert rnncore.load(f"zoo:{name}", dtype=dtype, check=True).dtype == dtype


@pytest.mark.parametrize("name", zoo.models())
def test_is_small_and_has_a_card(name):
    file = resources.files("rnncore.zoo") / f"{name}.safetensors"
    size = len(file.read_bytes())
    card = zoo.card(name)
    assert size <= LARGEST and f"{size:,} bytes" in card
    assert f"{rnncore.load(f'zoo:{name}').weights.count:,} parameters" in card
    for word in ("source of the data", "licence of the data", "licence of the model", "examples/train/", "made with"):
        assert word in card


def test_names():
    assert zoo.models() == MODELS
    with pytest.raises(ValueError, match="expected one of cifg, "):
        zoo.card("nothing")
    with pytest.raises(rnncore.FormatError, match="zoo:sunspots"):
        rnncore.load("zoo:nothing")


def test_sunspots_data():
    years, numbers = zoo.sunspots_data()
    assert np.array_equal(years, np.arange(1700, 2009)) and years.dtype == np.int64
    assert numbers.dtype == np.float32 and numbers.shape == (309,)
    assert numbers[0] == 5 and numbers[-1] == np.float32(2.9) and numbers.max() == np.float32(190.2)


def test_sunspots_are_those_of_statsmodels():
    data = statsmodels.api.datasets.sunspots.load_pandas().data
    years, numbers = zoo.sunspots_data()
    assert np.array_equal(years, data["YEAR"]) and np.array_equal(numbers, data["SUNACTIVITY"].astype(np.float32))


def test_sunspots_are_forecast_as_the_cards_say(held_out):
    years, numbers = zoo.sunspots_data()
    assert np.array_equal(held_out.years, np.arange(1960, 2009))
    assert np.array_equal(held_out.truth, numbers[years >= 1960])
    assert np.array_equal(held_out.last_year, numbers[(years >= 1959) & (years < 2008)])
    for name, expected in (("sunspots", held_out.lstm), ("sunspots-rnn", held_out.rnn)):
        assert rmse(expected, held_out.truth) == pytest.approx(figure(name, 2), abs=0.006)
        assert rmse(held_out.last_year, held_out.truth) == pytest.approx(figure(name, 4), abs=0.006)


@pytest.mark.parametrize("name", ["sunspots", "sunspots-rnn"])
def test_sunspots_beat_other_forecasts(name, held_out):
    """Less than 0.6 of the error of "same as last year", and less than a linear autoregression's."""
    expected = {"sunspots": held_out.lstm, "sunspots-rnn": held_out.rnn}[name]
    assert rmse(expected, held_out.truth) < 0.6 * rmse(held_out.last_year, held_out.truth)
    assert figure(name, 2) < figure(name, 3)
    assert (expected >= 0).all()


def test_sunspots_rnn_reads_the_years_before():
    """Many-to-one: a forecast for the year behind a window of any length, which the year itself does not enter."""
    _, numbers = zoo.sunspots_data()
    model = rnncore.load("zoo:sunspots-rnn")
    assert model(numbers[None, :33, None]).shape == (1, 1)
    for place, year in ((0, 260), (48, 308)):
        assert forecast().rnn[place] == pytest.approx(
            float(model(numbers[None, year - 33 : year, None])[0, 0]), rel=1e-5
        )


def test_sunspots_step_by_step():
    """Year after year with its state, the forecasts are those of the whole series."""
    model = rnncore.load("zoo:sunspots")
    _, numbers = zoo.sunspots_data()
    whole = model(numbers[None, :, None])
    state = None
    for t, number in enumerate(numbers):
        y, state = model(number.reshape(1, 1, 1), state)
        np.testing.assert_allclose(y[0, 0], whole[0, t], rtol=1e-5, atol=1e-3)


def test_all_models_are_small_together():
    sizes = [len((resources.files("rnncore.zoo") / f"{name}.safetensors").read_bytes()) for name in zoo.models()]
    assert sum(sizes) <= LARGEST_TOGETHER


def row_of(name: str, beginning: str) -> float:
    """The first figure of a row in a card: "12.34%" or "12.34"."""
    (line,) = [line for line in zoo.card(name).splitlines() if line.startswith(f"| {beginning}")]
    return float(line.split("|")[2].strip().rstrip("%"))


@pytest.mark.parametrize(
    ("name", "baseline", "higher"),
    [
        *((name, "always the commonest", True) for name in ("names", "names-relu", "peephole", "cifg", "digits")),
        ("speakers", "always the commonest", True),
        ("sentiment", "always the commoner", True),
        ("sentiment", "logistic regression", True),
        ("tagger", "the commonest label", True),
        ("folk", "7-gram", False),
        ("lm", "3-gram", False),
    ],
)
def test_better_than_what_the_card_compares_with(name, baseline, higher):
    found, other = row_of(name, "as shipped"), row_of(name, baseline)
    assert found > other if higher else found < other


@pytest.mark.parametrize("kind", ["peephole", "cifg"])
def test_rare_gates_are_as_good_as_a_plain_lstm(kind):
    assert row_of(kind, "as shipped") > row_of(kind, "plain LSTM") - 2


def run(*words):
    return CliRunner().invoke(application, ["demo", *words])


def test_demo_of_sunspots(held_out):
    result = run("sunspots")
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^ ?(\d{4}) +([\d.]+) +([\d.]+) +([\d.]+) ", result.stdout, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(1997, 2009))
    for column, expected in enumerate((held_out.truth, held_out.lstm, held_out.rnn), 1):
        np.testing.assert_allclose([float(row[column]) for row in rows], expected[-12:], atol=0.06)
    for what, expected in (("LSTM", held_out.lstm), ("SimpleRNN", held_out.rnn), ("same as", held_out.last_year)):
        assert re.search(rf"    {what}.* RMSE {rmse(expected, held_out.truth):.2f} ", result.stdout)
    assert len(re.findall(r"[\d,]+ steps/s", result.stdout)) == 2


def test_demo_of_everything():
    result = run()
    assert result.exit_code == 0, result.output
    assert [name for name in DEMOS if not re.search(rf"^{name}: ", result.stdout, re.MULTILINE)] == []
    for words in ("recurrent  ->  R", "pleased (", "M:6/8", "Japan", "zero", "perplexity", "speaker 1", "RMSE"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["g2p", "tune"], "tune  ->  T UW N"),
        (["sentiment", "a dull and boring mess"], "    not pleased"),
        (["sentiment", "a moving and beautiful film"], "    pleased"),
        (["sentiment", "a wonderful zqxj"], "read as <unk>: zqxj"),
        (["names", "yamamoto"], "Japan"),
        (["tagger", "photograph"], "F 'OW"),
        (["folk", "waltz"], "M:3/4"),
        (["folk", "March"], "M:2/4"),
        (["folk", "c|"], "M:C|"),
        (["folk", "reel", "12"], "no. 12"),
        (["folk", "6/8", "3"], "no. 3"),
        (["lm", "and god said"], "and god said ..."),
    ],
)
def test_demo_with_words_of_ones_own(words, expected):
    result = run(*words)
    assert result.exit_code == 0 and expected in result.stdout, result.output


def test_demo_refuses(tmp_path):
    for words, code, message in (
        (["nothing"], 2, "no demo 'nothing', expected one of g2p, sentiment"),
        (["g2p", "Größe"], 1, "word 'größe': ß ö, expected letters from a to z"),
        (["digits", "seven"], 2, "unexpected extra argument"),
        (["names", "--plot", "x.png"], 2, "No such option"),
        (["folk", "tango"], 1, "folk 'tango', expected jig, reel"),
        (["g2p", "--plot", "x.gif"], 1, "x.gif: expected a name that ends in .png, .svg, .pdf"),
        (["sunspots", "--plot", str(tmp_path / "none" / "x.png")], 1, "does not exist"),
    ):
        result = run(*words)
        assert result.exit_code == code and message in result.stderr, (words, result.output)
        assert result.stdout == "" or words[0] in ("g2p", "folk")


@pytest.mark.parametrize("name", DEMOS)
def test_demo_helps(name):
    """Each demo says what it takes and draws, with an example, which works."""
    text = run(name, "--help").stdout
    demo = DEMOS[name]
    assert demo.title in " ".join(text.split()) and f"rnncore demo {demo.example}" in text
    assert ("--plot" in text) == bool(demo.draws) and all(ending in text for ending in demo.draws)
    assert ("[TEXT...]" in text) == (demo.takes is not None)
    assert f"  {name} " in run("--help").stdout


@pytest.mark.parametrize("name", [demo.name for demo in DEMOS.values() if demo.draws])
def test_the_example_of_a_demo_works(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*shlex.split(DEMOS[name].example))
    assert result.exit_code == 0, result.output
    (written,) = tmp_path.iterdir()
    assert f"written: {written.name}" in result.stdout


@pytest.mark.parametrize(("name", "file"), [("g2p", "a.png"), ("sentiment", "a.png"), ("sunspots", "a.png")])
def test_pictures(name, file, tmp_path):
    result = run(name, "--plot", str(tmp_path / file))
    assert result.exit_code == 0, result.output
    assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")


class Page(HTMLParser):
    """The words of a page that have a background, and tags that were not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.titles = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "hr"):
            self.open.append(tag)
        if tag == "span":
            self.titles.append(dict(attributes)["title"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span":
            self.words.append(data)


def test_the_page_of_sentiment(tmp_path):
    words = ["a", "dull", "b", "film", "b"]
    assert run("sentiment", "a dull <b>film</b>", "--plot", str(tmp_path / "a.html")).exit_code == 0
    text = (tmp_path / "a.html").read_text("utf-8")
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open and page.words == words and "not pleased" in text
    model = rnncore.load("zoo:sentiment")
    weights = model.run({"words": model.vocabulary["words"].ids(words)[None]})["attention.weights"][0]
    assert page.titles == [f"{weight:.1%}" for weight in weights]


@pytest.mark.parametrize(
    ("text", "telling"),
    [
        (
            "a gorgeous, witty and moving film, with a cast that never puts a foot wrong",
            {"gorgeous", "witty", "moving"},
        ),
        ("the jokes are flat and the ending is a disaster", {"flat", "disaster"}),
        ("it is a dull and boring mess", {"dull", "boring", "mess"}),
    ],
)
def test_the_attention_of_sentiment_is_on_the_words_that_tell(text, telling):
    words, _, weights = judge(text)
    assert {words[place] for place in np.argsort(-weights)[: len(telling)]} == telling
    assert sum(weight for word, weight in zip(words, weights, strict=True) if word in telling) > 0.5


@pytest.mark.parametrize("metre", METRES.values())
@pytest.mark.parametrize("seed", [1, 2])
def test_tunes_are_music(metre, seed):
    """What is sampled is read by music21, in its metre and a key, with most bars as long as they should be."""
    tune = music21.converter.parse(compose(metre, seed), format="abc")
    signature = tune[music21.meter.TimeSignature].first()
    assert signature.ratioString == {"C": "4/4", "C|": "2/2"}.get(metre, metre)
    assert len(tune[music21.key.KeySignature]) >= 1
    lengths = [bar.duration.quarterLength for bar in tune[music21.stream.Measure]]
    assert len(lengths) >= 8 and lengths.count(signature.barDuration.quarterLength) > 0.6 * len(lengths)
    assert len(tune[music21.note.Note]) >= 3 * len(lengths)


def test_tunes_by_seed():
    assert compose("6/8", 3) == compose("6/8", 3) != compose("6/8", 4)


def test_tunes_in_files(tmp_path):
    assert run("folk", "reel", "5", "--plot", str(tmp_path / "a.abc")).exit_code == 0
    tune = (tmp_path / "a.abc").read_text("utf-8")
    assert tune == compose("C|", 5) and tune.startswith("X:1\n") and "\nM:C|\n" in tune and "\nK:" in tune
    result = run("folk", "reel", "5", "--plot", str(tmp_path / "a.mid"))
    assert result.exit_code == 0, result.output
    assert (tmp_path / "a.mid").read_bytes().startswith(b"MThd")
    written = music21.converter.parse(tmp_path / "a.mid")[music21.note.Note]
    assert len(written) >= len(music21.converter.parse(tune, format="abc")[music21.note.Note]) > 20  # or repeated
    wrong = run("folk", "--plot", str(tmp_path / "a.wav"))
    assert wrong.exit_code == 1 and ".abc, .mid" in wrong.stderr


def test_midi_without_music21(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "music21", None)
    wrong = run("folk", "--plot", str(tmp_path / "a.mid"))
    assert wrong.exit_code == 1 and "pip install music21" in wrong.stderr and not (tmp_path / "a.mid").exists()
