"""The models that come with the package are what their cards say."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np
import pytest
import statsmodels.api
from click.testing import CliRunner

import rnncore
from rnncore import zoo
from rnncore.cli.application import application
from rnncore.cli.demos import DEMOS

LARGEST, LARGEST_TOGETHER = 2_000_000, 8_000_000  # bytes of one model, and of all
MODELS = (
    *("cifg", "digits", "folk", "g2p", "g2p-encoder", "lm", "names", "names-relu", "peephole", "sentiment"),
    *("speakers", "sunspots", "tagger"),
)


def figure(row: str, column: int) -> float:
    """A cell of the table of errors in the card of "sunspots"."""
    (line,) = [line for line in zoo.card("sunspots").splitlines() if line.startswith(f"| {row} | ")]
    return float(line.split("|")[1:-1][column])


@pytest.fixture(scope="module")
def held_out():
    """(forecasts, truth, last year's numbers), each (49,), of the years 1960 to 2008."""
    years, numbers = zoo.sunspots_data()
    forecasts = rnncore.load("zoo:sunspots")(numbers[None, :-1, None])[0, :, 0]
    chosen = years[1:] >= 1960
    return forecasts[chosen], numbers[1:][chosen], numbers[:-1][chosen]


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


def test_sunspots_are_forecast_as_the_card_says(held_out):
    forecasts, truth, last_year = held_out
    assert rmse(forecasts, truth) == pytest.approx(figure("held out", 2), abs=0.006)
    assert rmse(last_year, truth) == pytest.approx(figure("held out", 4), abs=0.006)


def test_sunspots_beat_other_forecasts(held_out):
    forecasts, truth, last_year = held_out
    assert rmse(forecasts, truth) < 0.6 * rmse(last_year, truth)
    assert figure("held out", 2) < figure("held out", 3)
    assert (forecasts >= 0).all()


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
    forecasts, truth, last_year = held_out
    result = run("sunspots")
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^ ?(\d{4}) +([\d.]+) +([\d.]+) +[+-]", result.stdout, re.MULTILINE)
    assert [int(year) for year, _, _ in rows] == list(range(1960, 2009))
    np.testing.assert_allclose([float(row[1]) for row in rows], forecasts, atol=0.06)
    np.testing.assert_allclose([float(row[2]) for row in rows], truth, atol=0.06)
    assert f"RMSE {rmse(forecasts, truth):.2f}" in result.stdout and f"{rmse(last_year, truth):.2f}" in result.stdout
    assert len(re.findall(r"[\d,]+ steps/s", result.stdout)) == 2


def test_demo_of_everything():
    result = run()
    assert result.exit_code == 0, result.output
    assert [name for name in DEMOS if not re.search(rf"^{name}: ", result.stdout, re.MULTILINE)] == []
    for words in ("recurrent  ->  R", "pleased: ", "M:6/8", "Japan", "zero", "perplexity", "speaker 1", "RMSE"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["g2p", "tune"], "tune  ->  T UW N"),
        (["sentiment", "a dull and boring mess"], "not pleased"),
        (["sentiment", "a moving and beautiful film"], "    pleased"),
        (["names", "yamamoto"], "Japan"),
        (["tagger", "photograph"], "F 'OW"),
        (["folk", "waltz"], "M:3/4"),
        (["lm", "and god said"], "and god said ..."),
    ],
)
def test_demo_with_words_of_ones_own(words, expected):
    result = run(*words)
    assert result.exit_code == 0 and expected in result.stdout, result.output


def test_demo_refuses():
    for words, message in (
        (["nothing"], "expected one of g2p"),
        (["g2p", "Größe"], "expected small letters"),
        (["digits", "seven"], "takes no text"),
        (["names", "--plot", "x.png"], "expected one of g2p, sentiment, folk, sunspots"),
    ):
        result = run(*words)
        assert result.exit_code == 1 and message in result.stderr


@pytest.mark.parametrize(("name", "file"), [("g2p", "a.png"), ("sentiment", "a.png"), ("sunspots", "a.png")])
def test_pictures(name, file, tmp_path):
    result = run(name, "--plot", str(tmp_path / file))
    assert result.exit_code == 0, result.output
    assert (tmp_path / file).read_bytes().startswith(b"\x89PNG")


def test_pages_and_tunes(tmp_path):
    assert run("sentiment", "a dull <b>film</b>", "--plot", str(tmp_path / "a.html")).exit_code == 0
    page = (tmp_path / "a.html").read_text()
    assert "not pleased" in page and "<b>film" not in page
    assert run("folk", "reel", "--plot", str(tmp_path / "a.abc")).exit_code == 0
    tune = (tmp_path / "a.abc").read_text()
    assert tune.startswith("X:1\n") and "\nM:C\n" in tune and "\nK:" in tune
    wrong = run("folk", "--plot", str(tmp_path / "a.wav"))
    assert wrong.exit_code == 1 and ".abc or .mid" in wrong.stderr
