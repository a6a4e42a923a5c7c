"""Files of Keras against Keras: written by Keras 3 in each container, read here without it, the same numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import keras_zoo
import numpy as np
import pytest
from agreement import assert_close

import rnncore
from rnncore.export import from_keras

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")

ROOT = Path(__file__).parent.parent
CONTAINERS = ("keras", "h5", "weights.h5")


def expected_of(model, inputs):
    found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    return [keras.ops.convert_to_numpy(output) for output in keras.tree.flatten(found)]


def by_name(model, inputs):
    """Arrays by the names of our model's inputs, in order."""
    entries = [entry for entry in model.inputs if not entry.optional]
    return {
        entry.name: x.astype(np.int64 if entry.dtype == "int64" else np.float32)
        for entry, x in zip(entries, inputs, strict=True)
    }


def agrees(model, inputs, expected, what, tolerance=1e-5):
    found = model.run(by_name(model, inputs))
    assert len(model.spec.outputs) == len(expected)
    for name, reference in zip(model.spec.outputs, expected, strict=True):
        assert_close(found[name], reference, tolerance, f"{what}: {name}")


def load_in(container, model, folder):
    """The model through a file of one container."""
    path = folder / f"model.{container}"
    if container == "weights.h5":
        model.save_weights(path)
        return rnncore.load(path, architecture=model.to_json())
    model.save(path)
    return rnncore.load(path)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", keras_zoo.MODELS)
def test_files_of_keras_3(name, container, tmp_path):
    keras.backend.clear_session()
    model, inputs = keras_zoo.build(keras, name)
    agrees(load_in(container, model, tmp_path), inputs, expected_of(model, inputs), f"{name}.{container}")


@pytest.mark.parametrize("name", keras_zoo.MODELS)
def test_live_models(name):
    keras.backend.clear_session()
    model, inputs = keras_zoo.build(keras, name)
    exported = from_keras(model, inputs)
    ours = rnncore.Model(exported.spec, exported.weights)
    found = ours.run(exported.test_pair.inputs)
    for output, expected in exported.test_pair.outputs.items():
        assert_close(found[output], expected, 1e-5, output)
    agrees(ours, inputs, expected_of(model, inputs), name)


WITHOUT = """
import json, sys
import numpy as np
import rnncore
found = {}
for path in json.loads(sys.argv[1]):
    model = rnncore.load(path)
    inputs = dict(np.load(path + ".npz"))
    found = model.run({entry.name: inputs[f"arr_{place}"] for place, entry in enumerate(model.inputs) if not entry.optional})
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
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    for path, expected in wanted.items():
        with np.load(f"{path}.out.npz") as found:
            for place, reference in enumerate(expected):
                assert_close(found[f"arr_{place}"], reference, 1e-5, path)
