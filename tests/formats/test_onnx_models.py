"""Published ONNX models with recurrent layers, against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest
from agreement import assert_close, assert_no_worse
from exact_integers import exact_evaluator
from onnx import numpy_helper
from onnx_ops import onnxruntime_has_the_bits
from real_models import real_file

import rnncore
from rnncore.graph.nodes import Control, Recurrent

RATE, WINDOW, CONTEXT = 16000, 512, 64


def session(path):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session, given):
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def voice(seconds, rng):
    """Like a voice that speaks three words a second: harmonics of a moving pitch under two formants, and noise."""
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 110 + 20 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = (600 + 150 * np.sin(2 * np.pi * 1.5 * t), 1700 + 300 * np.cos(2 * np.pi * 1.1 * t))
    sound = sum(
        np.sin(k * phase) / k * sum(np.exp(-(((k * pitch - formant) / 300) ** 2)) for formant in formants)
        for k in range(1, 30)
    )
    return (0.5 * sound * (np.sin(2 * np.pi * 3 * t) > -0.4) + 0.003 * rng.standard_normal(len(t))).astype(np.float32)


def frames(wave):
    """Windows of 512 samples, each with the 64 before it."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), wave])
    return np.stack([padded[i : i + CONTEXT + WINDOW] for i in range(0, len(wave) - WINDOW + 1, WINDOW)])


@pytest.fixture(scope="module")
def silero():
    return real_file("silero-vad==6.2.3", "silero_vad/data/silero_vad_16k_sequence.onnx")


def test_silero_vad_with_its_state(silero):
    """Six seconds in pieces of different lengths; each piece starts from the state that the one before it left."""
    model, reference = rnncore.load(silero), session(silero)
    (lstm,) = [node for node in model.spec.nodes if isinstance(node, Recurrent)]
    assert lstm.initial == ("h", "c")
    sound = frames(voice(6, np.random.default_rng(0)))
    ours = theirs = {name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}
    spoken = []
    for piece in np.array_split(sound, [1, 2, 10, 50, 120]):
        found = model.run({"input": piece, **ours})
        expected = run_session(reference, {"input": piece, **theirs})
        for name, array in expected.items():
            assert_close(found[name], array, 1e-5, name)
        ours, theirs = ({"h": out["hn"], "c": out["cn"]} for out in (found, expected))
        spoken.extend(expected["speech_probs"])
    assert max(spoken) > 0.5 > min(spoken)  # it hears something, and not always


def test_silero_vad_probabilities_of_a_minute(silero):
    """Probabilities within 1e-5; and it is ONNX Runtime's rounding as well as ours, as float64 shows.

    The cell state reaches 16, so that its 1e-5 is 1e-4 absolute: of the 1e-5 absolute by which both differ there,
    about as much is theirs as ours.
    """
    model, exact, reference = rnncore.load(silero), rnncore.load(silero, dtype="float64"), session(silero)
    sound = frames(voice(60, np.random.default_rng(0)))
    given = {"input": sound, **{name: np.zeros((1, 1, 128), np.float32) for name in ("h", "c")}}
    found, expected = model.run(given), run_session(reference, given)
    truth = exact.run({name: array.astype(np.float64) for name, array in given.items()})
    assert np.abs(found["speech_probs"] - expected["speech_probs"]).max() <= 1e-5
    for name in expected:
        assert_no_worse({name: found[name]}, {name: expected[name]}, {name: truth[name]})


@pytest.mark.parametrize("file", ["silero_vad.onnx", "silero_vad_op18_ifless.onnx", "silero_vad_16k_op15.onnx"])
def test_silero_vad_with_branches(file):
    """Both rates in the branches of an If, and a squeeze whose rank would depend on a size."""
    path = real_file("silero-vad==6.2.3", f"silero_vad/data/{file}")
    model, reference = rnncore.load(path), session(path)
    rates = {RATE: (1,), 8000: (2,)} if file != "silero_vad_16k_op15.onnx" else {RATE: (1,)}
    for rate, (every,) in rates.items():
        ours = theirs = np.zeros((2, 1, 128), np.float32)
        for frame in frames(voice(1, np.random.default_rng(1)))[:20]:
            given = {"input": frame[None, ::every], "sr": np.array(rate, np.int64)}
            found = model.run({**given, "state": ours})
            expected = run_session(reference, {**given, "state": theirs})
            for name, array in expected.items():
                assert_close(found[name], array, 1e-5, f"{rate}: {name}")
            ours, theirs = found["stateN"], expected["stateN"]


def test_nakdimon():
    """Hebrew diacritics: an embedding, two bidirectional LSTMs with masks, each direction a Loop, and three heads."""
    path = real_file("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx")
    model, reference = rnncore.load(path), session(path)
    assert sum(isinstance(node, Control) and node.op == "Loop" for node in model.spec.nodes) == 4
    (entry,) = reference.get_inputs()
    dtype = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}[entry.type]
    rng = np.random.default_rng(0)
    for batch, steps in ((1, 20), (3, 47)):
        ids = rng.integers(1, 40, (batch, steps)).astype(dtype)
        ids[-1, steps // 2 :] = 0
        found, expected = model.run({entry.name: ids}), run_session(reference, {entry.name: ids})
        for name, array in expected.items():
            assert_close(found[name], array, 1e-5, name)


# --- ddddocr: convolutions, a bidirectional LSTM and a wide Linear layer ----------------------------------------------


def images(count=3):
    """Grey noise like paper, and noise around zero, of different widths."""
    rng = np.random.default_rng(0)
    for width in rng.integers(60, 200, count):
        yield np.clip(rng.normal(0.8, 0.2, (1, 1, 64, width)), 0, 1).astype(np.float32)
        yield (rng.random((1, 1, 64, width)) - 0.5).astype(np.float32)


def test_ddddocr():
    path = real_file("ddddocr==1.6.1", "ddddocr/common.onnx")
    model, reference = rnncore.load(path), session(path)
    for image in images():
        found = model.run({"input1": image})["387"]
        expected = run_session(reference, {"input1": image})["387"]
        assert_close(found, expected, 1e-5)
        np.testing.assert_array_equal(found.argmax(axis=-1), expected.argmax(axis=-1))


@pytest.fixture(scope="module")
def quantized():
    """The older model, which quantizes 21 convolutions, its LSTM and the last product while it runs."""
    return real_file("ddddocr==1.6.1", "ddddocr/common_old.onnx")


def test_ddddocr_quantized(quantized):
    """The whole model gives the scores of exact integers: each sigmoid has its bits, and so has what is made of it.

    A sigmoid that is rounded otherwise moves a value over the middle of two integers, and 20 more layers of integers
    carry that on: with the exact sigmoid the scores would be up to 0.5 of 16 away.
    """
    model, exact = rnncore.load(quantized), exact_evaluator(onnx.load(quantized))
    for image in images(1):
        (expected,) = exact.run(None, {"input1": image})
        assert_close(model.run({"input1": image})["387"], expected, 1e-6)


def test_ddddocr_quantized_gives_what_onnxruntime_does(quantized, tmp_path):
    """With weights of 7 bits in the LSTM, whose sums ONNX Runtime saturates on some CPUs, it is the same on all."""
    proto = onnx.load(quantized)
    (lstm,) = [node for node in proto.graph.node if node.op_type == "DynamicQuantizeLSTM"]
    for entry in proto.graph.initializer:
        if entry.name in lstm.input[1:3]:
            entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) // 2, entry.name))
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    model, reference = rnncore.load(path), session(path)
    for image in images():
        expected = run_session(reference, {"input1": image})["387"]
        assert_close(model.run({"input1": image})["387"], expected, 1e-6 if onnxruntime_has_the_bits() else 0.1)
