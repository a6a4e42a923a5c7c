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

LARGEST = 300_000  # bytes of one model


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
    assert zoo.models() == ("sunspots",)
    with pytest.raises(ValueError, match="expected one of sunspots"):
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


def test_demo(held_out):
    forecasts, truth, last_year = held_out
    result = CliRunner().invoke(application, ["demo"])
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^ ?(\d{4}) +([\d.]+) +([\d.]+) +[+-]", result.stdout, re.MULTILINE)
    assert [int(year) for year, _, _ in rows] == list(range(1960, 2009))
    np.testing.assert_allclose([float(row[1]) for row in rows], forecasts, atol=0.06)
    np.testing.assert_allclose([float(row[2]) for row in rows], truth, atol=0.06)
    assert f"RMSE {rmse(forecasts, truth):.2f}" in result.stdout and f"{rmse(last_year, truth):.2f}" in result.stdout
    assert len(re.findall(r"[\d,]+ steps/s", result.stdout)) == 2
