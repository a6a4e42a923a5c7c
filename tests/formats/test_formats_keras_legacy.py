"""Files of Keras 1 and 2: tf.keras's own (tests/golden/keras), layouts assembled here, and published models.

What is assembled here says what it means: LSTMs in the separate arrays of Keras 1 or in CuDNN's layout are compared
with the float64 oracle of the network that they stand for.
"""

import json

import h5py
import numpy as np
import onnx_keras_models
import paths
import pytest
from agreement import assert_close
from keras_agreement import agrees
from oracle import run_oracle
from real_models import real_file, real_source_file

import rnncore
from rnncore import Activation, Input, Recurrent, Spec, UnsupportedError, WeightError
from rnncore.cells import GRU, LSTM, RNN

GOLDEN = paths.GOLDEN / "keras"


def golden(path):
    with np.load(GOLDEN / f"{path.name.split('.')[0]}.npz") as found:
        count = sum(name.startswith("in") for name in found)
        inputs = [found[f"in{place}"] for place in range(count)]
        return inputs, [found[f"out{place}"] for place in range(len(found) - count)]


WHOLE = sorted(path.name for path in GOLDEN.glob("*") if path.name.count(".") == 1 and path.suffix in (".h5", ".keras"))


def test_there_are_enough():
    assert len(WHOLE) >= 23


@pytest.mark.parametrize("name", WHOLE)
def test_whole_models_of_tf_keras(name):
    inputs, outputs = golden(GOLDEN / name)
    agrees(rnncore.load(GOLDEN / name), inputs, outputs, name)


@pytest.mark.parametrize("kind", ["weights", "only"])
@pytest.mark.parametrize("name", ["encoder_decoder", "nested_sequential"])
def test_weights_of_tf_keras(name, kind):
    path = GOLDEN / f"{name}.{kind}.h5"
    inputs, outputs = golden(path)
    text = (GOLDEN / f"{name}.json").read_text()
    for architecture in (GOLDEN / f"{name}.json", text, json.loads(text)):
        agrees(rnncore.load(path, architecture=architecture), inputs, outputs, path.name)
    with pytest.raises(UnsupportedError, match="expected architecture="):
        rnncore.load(path)


# --- files assembled here ------------------------------------------------------------------------------------------


def write_legacy(path, layers, version, weights, name="Sequential", backend="tensorflow"):
    """A whole-model file: layers are (class name, config); weights gives each layer's arrays by name."""
    entries = [{"class_name": kind, "config": config} for kind, config in layers]
    with h5py.File(path, "w") as file:
        if version is not None:
            file.attrs["keras_version"] = version
        file.attrs["backend"] = backend
        file.attrs["model_config"] = json.dumps({"class_name": name, "config": entries})
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [config["name"].encode() for _, config in layers]
        for _, config in layers:
            own = group.create_group(config["name"])
            arrays = weights.get(config["name"], {})
            own.attrs["weight_names"] = [key.encode() for key in arrays]
            for key, array in arrays.items():
                own[key] = array.astype(np.float32)
    return path


def drawn(rng, *shape):
    return rng.uniform(-0.6, 0.6, shape).astype(np.float32)


KERAS_1 = {"trainable": True, "batch_input_shape": [None, None, 3], "input_dtype": "float32", "init": "glorot_uniform",
           "inner_init": "orthogonal", "W_regularizer": None, "U_regularizer": None, "b_regularizer": None,
           "dropout_W": 0.0, "dropout_U": 0.0, "unroll": False, "stateful": False, "input_dim": 3,
           "input_length": None, "go_backwards": False, "return_sequences": True, "activation": "tanh"}  # fmt: skip


def oracle(cell, weights, x):
    spec = Spec([Input("x", "float", ("B", "T", 3))], [Recurrent("rnn", cell, "x")], ["rnn"])
    return run_oracle(spec, {f"rnn.{key}_l0": array for key, array in weights.items()}, {"x": x})["rnn"]


HARD, TANH = Activation("hard_sigmoid", 0.2, 0.5), Activation("tanh")


def separate(rng, gates, units, prefix):
    """W (3, H), U (H, H) and b (H) for each gate, in the order of the file, and the arrays by gate."""
    found = {gate: (drawn(rng, 3, units), drawn(rng, units, units), drawn(rng, units)) for gate in gates}
    names = {
        f"{prefix}_{letter}{'_' + gate if len(gates) > 1 else ''}": array
        for gate in gates
        for letter, array in zip("WUb", found[gate], strict=True)
    }
    return names, found


def rows(found, order):
    """Canonical arrays: gates in rows, in this order of Keras's letters."""
    return {
        key: np.concatenate([found[gate][place].T for gate in order])
        for place, key in enumerate(("weight_ih", "weight_hh", "bias"))
    }


@pytest.mark.parametrize("version", [None, "1.2.2"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_keras_1_separate_gates(kind, version, tmp_path):
    rng = np.random.default_rng(3)
    gates, order = {"LSTM": ("icfo", "ifco"), "GRU": ("zrh", "rzh"), "SimpleRNN": ("h", "h")}[kind]
    arrays, found = separate(rng, gates, 4, "rnn_1")
    config = {**KERAS_1, "name": "rnn_1", "output_dim": 4, "consume_less": "cpu"}
    if kind != "SimpleRNN":
        config["inner_activation"] = "hard_sigmoid"
    if kind == "LSTM":
        config["forget_bias_init"] = "one"
    path = write_legacy(tmp_path / "one.h5", [(kind, config)], version, {"rnn_1": arrays})
    cell = {
        "LSTM": LSTM(3, 4, activations=(HARD, HARD, TANH, HARD, TANH)),
        "GRU": GRU(3, 4, activations=(HARD, HARD, TANH), reset_after=False),
        "SimpleRNN": RNN(3, 4),
    }[kind]
    x = rng.standard_normal((3, 6, 3)).astype(np.float32)
    assert_close(rnncore.load(path)(x), oracle(cell, rows(found, order), x), 1e-5)


def test_keras_1_fused_arrays_and_dense(tmp_path):
    """consume_less="gpu": one W, U and b with gates i f c o, and a Dense of Keras 1 behind it."""
    rng = np.random.default_rng(4)
    _, found = separate(rng, "ifco", 4, "l")
    fused = {f"l_{'WUb'[part]}": np.concatenate([found[gate][part] for gate in "ifco"], -1) for part in range(3)}
    config = {**KERAS_1, "name": "l", "output_dim": 4, "consume_less": "gpu", "inner_activation": "hard_sigmoid"}
    config |= {"forget_bias_init": "one", "return_sequences": False}
    dense = {"name": "d", "trainable": True, "output_dim": 2, "input_dim": 4, "bias": True, "init": "uniform"}
    dense |= {"activation": "linear", "W_constraint": None, "b_constraint": None, "activity_regularizer": None}
    weights = {"l": fused, "d": {"d_W": drawn(rng, 4, 2), "d_b": drawn(rng, 2)}}
    path = write_legacy(tmp_path / "two.h5", [("LSTM", config), ("Dense", dense)], "1.2.1", weights)
    x = rng.standard_normal((3, 6, 3)).astype(np.float32)
    cell = LSTM(3, 4, activations=(HARD, HARD, TANH, HARD, TANH))
    expected = oracle(cell, rows(found, "ifco"), x)[:, -1] @ weights["d"]["d_W"] + weights["d"]["d_b"]
    assert_close(rnncore.load(path)(x), expected, 1e-5)


KERAS_2 = {"trainable": True, "batch_input_shape": [None, None, 3], "dtype": "float32", "units": 4,
           "kernel_initializer": {"class_name": "VarianceScaling", "config": {}}, "go_backwards": False,
           "return_sequences": True, "return_state": False, "stateful": False}  # fmt: skip


def cudnn(array):
    """A gate's matrix (in, out) as CuDNN has it, in an array of the same shape: the numbers of (out, in)."""
    return np.ascontiguousarray(array.T).reshape(-1).reshape(array.shape)


@pytest.mark.parametrize("as_plain", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_cudnn_layouts(kind, as_plain, tmp_path):
    """CuDNNLSTM and CuDNNGRU, and their arrays in a file whose config says LSTM or GRU (Keras 2 takes them so)."""
    rng = np.random.default_rng(5)
    gates, order = {"LSTM": ("ifco", "ifco"), "GRU": ("zrh", "rzh")}[kind]
    _, found = separate(rng, gates, 4, "r")
    second = {gate: drawn(rng, 4) for gate in gates}
    arrays = {
        "r/kernel:0": np.concatenate([cudnn(found[gate][0]) for gate in gates], 1),
        "r/recurrent_kernel:0": np.concatenate([found[gate][1].T for gate in gates], 1),
        "r/bias:0": np.concatenate([*(found[gate][2] for gate in gates), *(second[gate] for gate in gates)]),
    }
    config = {**KERAS_2, "name": "r"}
    if as_plain:
        config |= {"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True, "implementation": 1}
        if kind == "GRU":
            config["reset_after"] = True
    path = write_legacy(tmp_path / "r.h5", [(kind if as_plain else f"CuDNN{kind}", config)], "2.2.4", {"r": arrays})
    weights = rows(found, order)
    if kind == "LSTM":
        weights["bias"] = weights["bias"] + np.concatenate([second[gate] for gate in order])
        cell = LSTM(3, 4)
    else:
        bias = weights["bias"].copy()
        bias[:8] += np.concatenate([second["r"], second["z"]])
        weights |= {"bias": bias, "bias_hn": second["h"]}
        cell = GRU(3, 4, reset_after=True)
    x = rng.standard_normal((3, 6, 3)).astype(np.float32)
    assert_close(rnncore.load(path)(x), oracle(cell, weights, x), 1e-5)


def gru_of(version, tmp_path, config, bias_shape=(12,)):
    rng = np.random.default_rng(6)
    arrays = {
        "g/kernel:0": drawn(rng, 3, 12),
        "g/recurrent_kernel:0": drawn(rng, 4, 12),
        "g/bias:0": drawn(rng, *bias_shape),
    }
    path = write_legacy(tmp_path / "g.h5", [("GRU", {**KERAS_2, "name": "g", **config})], version, {"g": arrays})
    return rnncore.load(path).spec.recurrent[0].cell


def test_defaults_belong_to_the_version_that_wrote(tmp_path):
    """What a config does not say: Keras before 2.3 means hard_sigmoid and reset before, TensorFlow 2 the others."""
    old = gru_of("2.1.6", tmp_path, {"activation": "tanh", "use_bias": True})
    assert (old.activations[0], old.reset_after) == (HARD, False)
    new = gru_of("2.4.0", tmp_path, {"activation": "tanh", "use_bias": True}, (2, 12))
    assert (new.activations[0], new.reset_after) == (Activation("sigmoid"), True)
    third = gru_of("3.0.0", tmp_path, {"recurrent_activation": "hard_sigmoid", "reset_after": False})
    assert third.activations[0] == Activation("hard_sigmoid", 1 / 6, 0.5)


def test_long_lists_of_names_in_parts(tmp_path):
    """Keras writes a list of names that is too long for one attribute as layer_names0, layer_names1, ..."""
    rng = np.random.default_rng(7)
    layers = [
        ("Dense", {"name": name, "units": 3, "activation": "tanh", "use_bias": True, "batch_input_shape": [None, 3]})
        for name in ("first", "second", "third")
    ]
    weights = {config["name"]: {"kernel:0": drawn(rng, 3, 3), "bias:0": drawn(rng, 3)} for _, config in layers}
    path = write_legacy(tmp_path / "parts.h5", layers, "2.3.1", weights)
    with h5py.File(path, "a") as file:
        group = file["model_weights"]
        del group.attrs["layer_names"]
        group.attrs["layer_names0"], group.attrs["layer_names1"] = [b"first", b"second"], [b"third"]
        own = group["second"]
        del own.attrs["weight_names"]
        own.attrs["weight_names0"], own.attrs["weight_names1"] = [b"kernel:0"], [b"bias:0"]
    x = expected = rng.standard_normal((2, 3)).astype(np.float32)
    for arrays in weights.values():
        expected = np.tanh(expected @ arrays["kernel:0"] + arrays["bias:0"])
    assert_close(rnncore.load(path)(x), expected, 1e-5)


def test_arrays_in_another_order_than_their_names_are_refused(tmp_path):
    rng = np.random.default_rng(8)
    config = {"name": "d", "units": 3, "activation": "tanh", "use_bias": True, "batch_input_shape": [None, 3]}
    weights = {"d": {"bias:0": drawn(rng, 3, 3), "kernel:0": drawn(rng, 3)}}
    path = write_legacy(tmp_path / "turned.h5", [("Dense", config)], "2.3.1", weights)
    with pytest.raises(WeightError, match=r"layer 'd' \(Dense\): array 'bias:0' in the place of 'kernel'"):
        rnncore.load(path)


# --- published models ----------------------------------------------------------------------------------------------


def test_nakdimon_is_its_onnx_twin():
    """Hebrew diacritics (Keras 2.6): embedding with mask, two BiLSTM of 400 merged by sum, three heads."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = rnncore.load(real_file("nakdimon==0.1.2", "nakdimon/Nakdimon.h5"))
    twin = onnxruntime.InferenceSession(str(real_file("piper-tts==1.8.0", "piper/hebrew/nakdimon.onnx")))
    rng = np.random.default_rng(9)
    ids = rng.integers(1, 43, (1, 40))
    (entry,) = twin.get_inputs()
    wanted = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}[entry.type]
    reference = twin.run(None, {entry.name: ids.astype(wanted)})
    found = list(model.run({"tokens": ids}).values())
    assert sorted(array.shape[-1] for array in found) == [3, 4, 16]
    for array in found:
        (other,) = [one for one in reference if one.shape[-1] == array.shape[-1]]
        a, b = (np.exp(one - one.max(-1, keepdims=True)) for one in (array, other))
        assert_close(a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True), 1e-4)


CHARS2VEC = {
    "class_name": "Sequential",
    "config": [
        {"class_name": "LSTM", "config": {**KERAS_2, "name": f"lstm_{place}", "batch_input_shape": [None, None, size],
         "units": 50, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True,
         "return_sequences": place == 1}}
        for place, size in ((1, 59), (2, 50))
    ],
    "keras_version": "2.2.0",
}  # fmt: skip


def test_chars2vec():
    """Weights alone (Keras 2.2.0): two LSTMs of 50 with Keras 2's hard_sigmoid."""
    path = real_source_file("chars2vec==0.1.7", "chars2vec/trained_models/eng_50/weights.h5")
    x = np.eye(59, dtype=np.float32)[np.random.default_rng(10).integers(0, 59, (4, 9))]
    found = rnncore.load(path, architecture=CHARS2VEC)(x)
    assert_close(found, onnx_keras_models.chars2vec(path, x), 1e-5)


def test_dgaintel():
    """Embedding, Conv1D, max-pooling, LSTM of 64, sigmoid (tf.keras 2.2.4): is a domain made by a machine?"""
    path = real_source_file("dgaintel==2.3", "dgaintel/domain_classifier_model.h5")
    ids = np.random.default_rng(11).integers(0, 39, (5, 82))
    assert_close(rnncore.load(path)(ids), onnx_keras_models.dgaintel(path, ids), 1e-5)
