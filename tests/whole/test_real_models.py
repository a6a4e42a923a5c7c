"""Trained networks out of packages on PyPI, loaded without their framework and held against their own code."""

import ast
import pydoc_data.topics
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from real_models import real_file
from spelling import package_code, spelling_models

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import LSTM

SPEAKER = Spec(
    [Input("mels", "float", ("B", "T", 40))],
    [
        Recurrent("lstm", LSTM(40, 256), "mels", layers=3),
        Node("linear", "Linear", "lstm.last", {"input_size": 256, "output_size": 256}),
        Node("relu", "Relu", "linear"),
        Node("embedding", "LpNormalization", "relu"),
    ],
    ["embedding"],
)


def speaker_file():
    return real_file("Resemblyzer==0.1.4", "resemblyzer/pretrained.pt")


def test_speaker_embeddings_equal_torch():
    x = np.random.default_rng(4).standard_normal((4, 160, 40)).astype(np.float32)
    found = rnncore.load(speaker_file(), spec=SPEAKER)(x)

    saved = torch.load(speaker_file(), map_location="cpu", weights_only=True)["model_state"]
    lstm, linear = torch.nn.LSTM(40, 256, 3, batch_first=True), torch.nn.Linear(256, 256)
    for name, module in (("lstm", lstm), ("linear", linear)):
        module.load_state_dict({k.removeprefix(name + "."): v for k, v in saved.items() if k.startswith(name + ".")})
    with torch.inference_mode():
        e = torch.relu(linear(lstm(torch.from_numpy(x))[1][0][-1]))
        expected = (e / e.norm(dim=1, keepdim=True)).numpy()
    assert found.shape == (4, 256)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert np.abs(found).max() > 0.1


def test_no_framework_is_imported_by_loading_and_running(tmp_path):
    spec = tmp_path / "speaker.json"
    spec.write_text(__import__("json").dumps(SPEAKER.to_json()))
    code = (
        "import sys, numpy, rnncore\n"
        f"model = rnncore.load({str(speaker_file())!r}, spec={str(spec)!r})\n"
        "assert model(numpy.ones((1, 5, 40), numpy.float32)).shape == (1, 256)\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(done.stdout))
    assert not loaded & {"torch", "keras", "tensorflow", "onnx", "onnxruntime", "h5py"}
    assert {"rnncore", "numpy"} <= loaded


def spell(reference, encoder, decoder, words):
    """Greedy decoding of all words together, and the logits of each step: (B, 20, 74)."""
    letters = [[reference.g2idx.get(c, reference.g2idx["<unk>"]) for c in [*word, "</s>"]] for word in words]
    lengths = np.array([len(ids) for ids in letters])
    ids = np.zeros((len(words), lengths.max()), np.int64)
    for row, found in enumerate(letters):
        ids[row, : len(found)] = found
    state = encoder(ids, lengths=lengths)
    last, logits = np.full((len(words), 1), 2), []
    for _ in range(20):
        step, state = decoder(last, state)
        logits.append(step[:, 0])
        last = step.argmax(axis=2)
    chosen = np.stack(logits, axis=1).argmax(axis=2)
    spoken = []
    for row in chosen:
        end = int(np.argmax(row == 3)) if (row == 3).any() else len(row)
        spoken.append([reference.idx2p.get(int(i), "<unk>") for i in row[:end]])
    return spoken, np.stack(logits, axis=1)


@pytest.fixture(scope="module")
def spelling():
    return (package_code(), *spelling_models())


def test_activationist(spelling):
    spoken, _ = spell(*spelling, ["activationist"])
    assert " ".join(spoken[0]) == "AE2 K T IH0 V EY1 SH AH0 N IH0 S T"


def test_500_words_equal_the_package_s_own_numpy_code(spelling):
    reference, encoder, decoder = spelling
    text = " ".join(pydoc_data.topics.topics.values()).lower()
    words = sorted(set(re.findall(r"\b[a-z]{3,14}\b", text)))[::3][:500]
    assert len(words) == 500
    spoken, logits = spell(reference, encoder, decoder, words)
    for row, word in enumerate(words):
        assert spoken[row] == reference.predict(word), word
        x = reference.encode(word)
        args = [getattr(reference, f"enc_{name}") for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        h = reference.gru(x, len(word) + 1, *args)[:, -1]
        dec, args = reference.dec_emb[[2]], [getattr(reference, f"dec_{n}") for n in ("w_ih", "w_hh", "b_ih", "b_hh")]
        for step in range(min(20, len(spoken[row]) + 1)):
            h = reference.grucell(dec, h, *args)
            expected = h @ reference.fc_w.T + reference.fc_b
            np.testing.assert_allclose(logits[row, step], expected[0], rtol=0, atol=1e-4, err_msg=word)
            dec = reference.dec_emb[[int(expected.argmax())]]
