"""Trained networks of published packages: their modules built live and exported, and BeatNet's weights under a Spec."""

import numpy as np
import torch
import torch.nn.functional as F
from real_models import real_file
from torch import nn
from torch_modules import Speaker

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import LSTM
from rnncore.export import from_torch

BEATS = Spec(
    [Input("data", "float", ("B", "T", 272))],
    [
        Node("frames", "Reshape", "data", {"shape": (-1, 1, 272)}),
        Node("conv1", "Conv", "frames", {"input_size": 1, "output_size": 2, "kernel_shape": (10,)}),
        Node("relu", "Relu", "conv1"),
        Node("pool", "MaxPool", "relu", {"kernel_shape": (2,), "strides": (2,)}),
        Node("flat", "Reshape", "pool", {"shape": (-1, 262)}),
        Node("linear0", "Linear", "flat", {"input_size": 262, "output_size": 150}),
        Node("axes", "Shape", "data", {"end": 2}),
        Node("width", "Constant", (), {"dtype": "int64", "shape": (1,), "value": (150,)}),
        Node("shape", "Concat", ("axes", "width"), {"axis": 0}),
        Node("steps", "Reshape", ("linear0", "shape")),
        Recurrent("lstm", LSTM(150, 150), "steps", layers=2, lengths=None),
        Node("linear", "Linear", "lstm", {"input_size": 150, "output_size": 3}),
        Node("beats", "Transpose", "linear", {"perm": (0, 2, 1)}),
    ],
    ["beats"],
)


class Beats(nn.Module):
    """The network of BeatNet 1.1.3, its state an argument instead of an attribute."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 2, 10)
        self.linear0 = nn.Linear(262, 150)
        self.lstm = nn.LSTM(150, 150, 2, batch_first=True)
        self.linear = nn.Linear(150, 3)

    def forward(self, data, state=None):
        x = torch.reshape(data, (-1, 272)).unsqueeze(0).transpose(0, 1)
        x = F.max_pool1d(F.relu(self.conv1(x)), 2)
        x = self.linear0(x.view(-1, 262))
        x, state = self.lstm(torch.reshape(x, (data.shape[0], data.shape[1], 150)), state)
        return self.linear(x).transpose(1, 2), state


def beats():
    path = real_file("BeatNet==1.1.3", "BeatNet/models/model_1_weights.pt")
    module = Beats().eval()
    saved = torch.load(path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved)
    return path, module


def features(*shape):
    return np.random.default_rng(8).standard_normal(shape).astype(np.float32)


def test_beat_activations_equal_torch_with_state_over_calls():
    path, module = beats()
    model = rnncore.load(path, spec=BEATS)
    x = features(2, 40, 272)
    with torch.inference_mode():
        expected = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-5)
    state, parts = None, []
    for start in range(0, 40, 5):
        part, state = model(x[:, start : start + 5], state)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts, axis=2), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_the_beat_tracker_exported_live():
    _, module = beats()
    x = features(1, 12, 272)
    exported = from_torch(module, (x, (torch.zeros(2, 1, 150), torch.zeros(2, 1, 150))))
    h, c = features(2, 3, 150), features(2, 3, 150)
    names = [entry.name for entry in exported.spec.inputs]
    other = features(3, 7, 272)
    found = rnncore.Model(*exported).run(dict(zip(names, (other, h, c), strict=True)))
    with torch.inference_mode():
        y, state = module(torch.from_numpy(other), (torch.from_numpy(h), torch.from_numpy(c)))
    for array, expected in zip(found.values(), (y, *state), strict=True):
        np.testing.assert_allclose(array, expected.numpy(), rtol=0, atol=1e-5)


def test_speaker_embeddings_exported_live():
    saved = torch.load(
        real_file("Resemblyzer==0.1.4", "resemblyzer/pretrained.pt"), map_location="cpu", weights_only=True
    )["model_state"]
    module = Speaker().eval()
    module.load_state_dict({key: value for key, value in saved.items() if key.startswith(("lstm.", "linear."))})
    exported = from_torch(module, features(2, 20, 40))
    assert [node.op for node in exported.spec.nodes][:3] == ["Recurrent", "Linear", "Relu"]
    mels = features(3, 160, 40)
    found = rnncore.Model(*exported)(mels)
    with torch.inference_mode():
        expected = module(torch.from_numpy(mels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    alone = rnncore.Model(*exported)(mels[:, :90])
    np.testing.assert_allclose(rnncore.Model(*exported)(mels, lengths=[90] * 3), alone, rtol=0, atol=1e-6)
