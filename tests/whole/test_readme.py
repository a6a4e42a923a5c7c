"""Every Python block of README.md runs, in its order, on small networks under the names and files that it uses."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save
from paths import ROOT
from real_models import real_file
from stream_models import equal
from torch import nn

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import LSTM

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(10, 4), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, tokens, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(self.embed(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.head(nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0])


def speaker(prefix):
    """The file of the first block, whose recurrent layers have that name."""
    lstm, linear = nn.LSTM(40, 256, num_layers=3), nn.Linear(256, 256)
    parts = {prefix: lstm, "linear": linear}
    return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}


def write_onnx(path):
    """An LSTM whose states are inputs and outputs."""
    rng = np.random.default_rng(0)
    weights = {"w": (1, 20, 3), "r": (1, 20, 5), "b": (1, 40)}
    arrays = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), key) for key, shape in weights.items()
    ]
    node = helper.make_node("LSTM", ["input", "w", "r", "b", "", "h", "c"], ["y", "hn", "cn"], hidden_size=5)
    names = {"input": ("T", "B", 3), "h": (1, "B", 5), "c": (1, "B", 5), "y": ("T", 1, "B", 5)}
    names |= {"hn": names["h"], "cn": names["c"]}
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names.items()]
    graph = helper.make_graph([node], "lstm", values[:3], values[3:], arrays)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def tagger():
    """Frames of four numbers, with lengths."""
    nodes = [Recurrent("lstm", LSTM(4, 6), "tokens", lengths="lengths")]
    nodes.append(Node("tags", "Linear", "lstm", {"input_size": 6, "output_size": 3}))
    inputs = [Input("tokens", "float", ("B", "T", 4)), Input("lengths", "int64", ("B",), optional=True)]
    spec, rng = Spec(inputs, nodes, ["tags"]), np.random.default_rng(1)
    return rnncore.Model(spec, {name: rng.standard_normal(shape) for name, shape in spec.weight_shapes().items()})


def raw_arrays():
    """A Keras layer's arrays, with an input and its output."""
    layer = keras.layers.LSTM(5, return_sequences=True)
    x = np.random.default_rng(3).standard_normal((2, 6, 4)).astype(np.float32)
    y = keras.ops.convert_to_numpy(layer(x))
    return dict(zip("wrb", layer.get_weights(), strict=True), x=x, y=y)


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the blocks take for given, in a directory with the files they load."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(speaker("lstm"), "speaker.pt")
    torch.save(speaker("encoder.rnn"), "embedder.pt")
    write_onnx("model.onnx")
    keras.utils.set_random_seed(0)
    keras_model = keras.Sequential([keras.Input((None, 4)), keras.layers.GRU(5), keras.layers.Dense(2)])
    keras_model.save("tagger.keras")
    keras_model.save("classifier.h5")
    keras_model.save_weights("classifier.weights.h5")
    Path("classifier.json").write_text(keras_model.to_json())
    rnncore.save("tagger.safetensors", tagger())
    silero = "silero_vad_16k_op15.onnx"
    Path(silero).symlink_to(real_file("silero-vad==6.2.3", f"silero_vad/data/{silero}"))
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 7, 4)).astype(np.float32)
    return {
        "frames": rng.standard_normal((7, 2, 3)).astype(np.float32),
        "h": np.zeros((1, 2, 5), np.float32),
        "c": np.zeros((1, 2, 5), np.float32),
        "embed": nn.Embedding(10, 4),
        "lstm": nn.LSTM(4, 6, batch_first=True),
        "head": nn.Linear(6, 3),
        "module": Tagger().eval(),
        "tokens": torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]),
        "lengths": torch.tensor([4, 2]),
        "keras_model": keras_model,
        "x": x,
        "x_now": x[:, :3],
        "x_next": x[:, 3:],
        "ids": x,
        "chunk": x[0, :2],
        "samples": rng.standard_normal(1700).astype(np.float32),
        "sequences": [x[0], x[1, :3], x[2, :1]],
    }


def test_every_block_runs(names, capsys):
    for block in BLOCKS:
        if "detect" in block:
            names.update(raw_arrays())
        # a deadline that a busy machine can keep
        exec(compile(block.replace("timeout=0.05", "timeout=60"), "README.md", "exec"), names)
        printed = capsys.readouterr().out
        if "spec = Spec(\n" in block:
            assert names["model"](np.zeros((2, 5, 40), np.float32)).shape == (2, 256)
        elif '"model.onnx"' in block:
            assert names["out"]["y"].shape == (7, 1, 2, 5)
        elif "from_torch" in block:
            assert names["exported"].spec.outputs
        elif "classifier" in block:
            assert equal(names["model"](names["x"]), rnncore.load("tagger.keras")(names["x"]))
        elif "over_time" in block:
            assert names["probabilities"].shape == (3, 1) and names["pool"].capacity == 256
        elif "x_now" in block:
            assert equal(names["y"], rnncore.load("tagger.safetensors")(names["x"]))
        elif "Engine" in block:
            assert equal(names["y"], names["model"](names["chunk"][None])[0])
        elif "predict" in block:
            assert [y.shape for y in names["ys"]] == [(7, 3), (3, 3), (1, 3)]
        elif "model.pool" in block:
            assert equal(names["outputs"]["ann"], names["model"](names["x"][None, :2])[0])
            assert names["y"].shape == (2, 4, 128)
        elif "generate" in block:
            assert printed.startswith(names["draw"].text)
            assert len(names["best"].alternatives) == 2 and names["cache"].misses == 2
        elif "detect" in block:
            assert "keras" in printed.splitlines()[0]
        else:
            raise AssertionError(f"nothing is asserted about this block:\n{block}")
