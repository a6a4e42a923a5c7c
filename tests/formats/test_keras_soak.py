"""What tests/tools/keras_soak.py makes of its counts, and that it would see a fault."""

import json
from collections import Counter

import compatibility
import keras
import keras_soak
import numpy as np
import pytest

import rnncore
from rnncore.errors import RnncoreError


def test_the_section_is_replaced_between_its_markers(tmp_path, monkeypatch):
    page = tmp_path / "compatibility.md"
    monkeypatch.setattr(compatibility, "PAGE", page)
    counts = {"recurrent": Counter(ok=1200, refused=3), "saving": Counter(ok=1)}
    section = keras_soak.section(counts, Counter({"a|b": 3}), "3.0")
    assert "| recurrent | 1,200 | 3 | 0 | 0 | 0 | 0 |" in section and "| all | 1,201 | 3 | 0 | 0 | 0 | 0 |" in section
    assert "| a/b | 3 |" in section
    compatibility.write_section("Keras", section)
    first = page.read_text()
    assert first.startswith(compatibility.HEAD) and first.endswith("\n<!-- end of Keras -->\n")
    compatibility.write_section("ONNX", "other")
    both = page.read_text()
    compatibility.write_section("Keras", section)
    assert page.read_text() == both
    compatibility.write_section("Keras", "new")
    assert page.read_text() == both.replace(section, "new")


def test_reasons_are_without_names_and_numbers():
    one = "layer 'lstm_3' (LSTM): option a=3, expected none"
    two = "layer 'x' (LSTM): option a=14, expected none"
    assert keras_soak.reason(one) == keras_soak.reason(two) == "LSTM: option a=N"


class Log:
    def __init__(self):
        self.lines = []

    def write(self, line):
        self.lines.append(line)


@pytest.fixture
def recorder(tmp_path):
    made = keras_soak.Recorder(tmp_path / "log")
    made.log.close()
    made.log = Log()
    return made


def test_a_call_is_compared(recorder):
    layer, x = keras.layers.LSTM(3), np.ones((2, 4, 5), np.float32)
    layer(x)
    recorder._called(layer, x)
    recorder._called(keras.layers.Lambda(lambda x: x), x)
    recorder._called(keras.layers.RandomFlip(), np.ones((2, 4, 4, 3), np.float32))
    found = ["ok", "passed over", "refused"]
    assert [json.loads(line)["outcome"] for line in recorder.log.lines] == found


@pytest.mark.parametrize("fault", ["a value", "a shape", "an exception", "an own error"])
def test_a_fault_is_seen(fault, recorder, monkeypatch):
    layer, x = keras.layers.Dense(3), np.ones((2, 5), np.float32)
    layer(x)
    run = rnncore.Model.run

    def wrong(self, inputs):
        if fault == "an exception":
            raise KeyError("a")
        if fault == "an own error":
            raise RnncoreError("no")
        return {key: array[:1] if fault == "a shape" else array + 1 for key, array in run(self, inputs).items()}

    # the exporter's own check runs before: a fault in it is seen by that
    exported = rnncore.export.from_keras(keras.Sequential([keras.Input((5,)), layer]))
    monkeypatch.setattr("rnncore.export.from_keras", lambda model: exported)
    monkeypatch.setattr(rnncore.Model, "run", wrong)
    recorder._called(layer, x)
    wanted = {"an exception": "foreign", "an own error": "refused"}.get(fault, "wrong")
    assert f'"outcome": "{wanted}"' in recorder.log.lines[0]
