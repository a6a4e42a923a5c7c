"""Files of Keras against Keras: written by Keras 3 in each container, read here without it, the same numbers."""

import inspect
import json
import os
import subprocess
import sys
from functools import lru_cache

import keras
import keras_zoo
import numpy as np
import pytest
from agreement import assert_close
from keras_agreement import agrees
from paths import ROOT

import rnncore
from rnncore.export import from_keras
from rnncore.formats import read_listing

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")

CONTAINERS = ("keras", "h5", "weights.h5", "by hand")


def expected_of(model, inputs):
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(found)]


def load_in(container, model, folder):
    """The model through a file of one container."""
    path = folder / f"model.{container}"
    if container == "by hand":
        model.save_weights(folder / "by_hand.weights.h5")
        return rnncore.load(folder / "by_hand.weights.h5", architecture=without_defaults(json.loads(model.to_json())))
    if container == "weights.h5":
        model.save_weights(path)
        return rnncore.load(path, architecture=model.to_json())
    model.save(path)
    return rnncore.load(path)


def without_defaults(found):
    """A config as one writes it by hand: nothing that Keras fills in, and of layers the class name alone."""
    if isinstance(found, list):
        return [without_defaults(item) for item in found]
    if not isinstance(found, dict):
        return found
    kind = getattr(keras.layers, str(found.get("class_name")), None)
    if kind is None or not isinstance(found.get("config"), dict):
        return {key: without_defaults(item) for key, item in found.items() if key != "build_config"}
    is_operation = ".ops." in f"{found.get('module')}."
    if is_operation:
        return found
    defaults = {key: entry.default for key, entry in inspect.signature(kind.__init__).parameters.items()}
    config = {
        key: without_defaults(item)
        for key, item in found["config"].items()
        if not (key in defaults and plain(defaults[key]) == item and key != "name")
        and not (key == "trainable" and item is True)
        and not (key == "dtype" and kind is not keras.layers.InputLayer)
    }
    return {
        **{key: without_defaults(found[key]) for key in ("class_name", "name", "inbound_nodes") if key in found},
        "config": config,
    }


def plain(found):
    return list(map(plain, found)) if isinstance(found, (list, tuple)) else found


@lru_cache(maxsize=1)
def zoo_model(name):
    """A model, its inputs and Keras's outputs: asked for by tests that come one after the other."""
    keras.backend.clear_session()
    model, inputs = keras_zoo.build(keras, name)
    return model, inputs, expected_of(model, inputs)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", keras_zoo.MODELS)
def test_files_of_keras_3(name, container, tmp_path):
    model, inputs, expected = zoo_model(name)
    agrees(load_in(container, model, tmp_path), inputs, expected, f"{name}.{container}")


@pytest.mark.parametrize("name", keras_zoo.MODELS)
def test_live_models(name):
    model, inputs, expected = zoo_model(name)
    exported = from_keras(model, inputs)
    ours = rnncore.Model(exported.spec, exported.weights)
    found = ours.run(exported.test_pair.inputs)
    for output, reference in exported.test_pair.outputs.items():
        assert_close(found[output], reference, 1e-5, output)
    agrees(ours, inputs, expected, name)


WITHOUT = """
import json, sys
import numpy as np
import rnncore
found = {}
for path in json.loads(sys.argv[1]):
    model = rnncore.load(path)
    inputs = dict(np.load(path + ".npz"))
    entries = [entry for entry in model.inputs if not entry.optional]
    found = model.run({entry.name: inputs[f"arr_{place}"] for place, entry in enumerate(entries)})
    np.savez(path + ".out.npz", *found.values())
print(json.dumps([name for name in ("keras", "tensorflow", "tf_keras", "torch", "h5py") if name in sys.modules]))
"""


def test_without_keras(tmp_path):
    """In a process of its own, in which neither Keras nor a framework nor h5py is imported."""
    wanted, paths = {}, []
    for name in ("text_classifier", "encoder_decoder", "stacked_cells"):
        for container in ("keras", "h5"):
            keras.backend.clear_session()
            model, inputs = keras_zoo.build(keras, name)
            path = tmp_path / f"{name}.{container}"
            model.save(path)
            wide = [x.astype(np.int64) if x.dtype.kind == "i" else x for x in inputs]
            np.savez(f"{path}.npz", *wide)
            wanted[str(path)] = expected_of(model, inputs)
            paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(paths)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    for path, expected in wanted.items():
        with np.load(f"{path}.out.npz") as found:
            for place, reference in enumerate(expected):
                assert_close(found[f"arr_{place}"], reference, 1e-5, path)


def test_a_listing_names_what_is_not_accepted(tmp_path):
    x = keras.Input((4, 3, 1))
    y = keras.layers.RandomContrast(0.5, name="odd")(x)
    keras.Model(x, keras.layers.Flatten()(y)).save(tmp_path / "odd.keras")
    with pytest.raises(rnncore.UnsupportedError, match=r"layer 'odd' \(RandomContrast\): not accepted"):
        rnncore.load(tmp_path / "odd.keras")
    found = read_listing(tmp_path / "odd.keras")
    assert [(node.name, node.problem) for node in found.nodes if node.problem] == [
        ("odd", "RandomContrast is not accepted")
    ]
    assert "ConvLSTM1D" in found.problem
    (entry,) = [node for node in found.nodes if node.kind == "Flatten"]
    assert entry.reads == ("odd",)


def test_lengths_only_where_they_mean_a_mask(tmp_path):
    """A network in which other layers look along time has none: padding would be seen."""
    for name, expected in (("text_classifier", True), ("conv_of_any_length", False), ("word_attention", False)):
        model, _ = keras_zoo.build(keras, name)
        model.save(tmp_path / f"{name}.keras")
        found = rnncore.load(tmp_path / f"{name}.keras")
        assert ("lengths" in [entry.name for entry in found.inputs]) is expected


def test_a_fixed_time_is_free_where_nothing_needs_it(tmp_path):
    """Keras fixes 12 steps; a convolution does not need them, a Flatten does."""
    for name, steps in (("convolutions", "T"), ("images", 8)):
        model, _ = keras_zoo.build(keras, name)
        model.save(tmp_path / f"{name}.keras")
        assert rnncore.load(tmp_path / f"{name}.keras").inputs[0].shape[1] == steps
