"""Keras's ConvLSTM1D, 2D and 3D: drawn configurations compared with live Keras, files, streams, and refusals."""

import random

import keras
import numpy as np
import pytest
from keras import layers

import rnncore
from rnncore.errors import RnncoreError, UnsupportedError

KINDS = {1: layers.ConvLSTM1D, 2: layers.ConvLSTM2D, 3: layers.ConvLSTM3D}


def drawn(source):
    """A model of one layer, perhaps both ways, under a mask or with initial states; and inputs for it."""
    dims = source.choice([1, 1, 2, 2, 3])
    first = source.random() < 0.3
    image = [source.randint(3, 6) for _ in range(dims)]
    channels, filters = source.randint(1, 3), source.randint(1, 3)
    shape = (channels, *image) if first else (*image, channels)
    strided = source.choice([{"strides": 2}, {"dilation_rate": 2}, {}, {"strides": (1,) * dims}])
    options = {
        "filters": filters,
        "kernel_size": tuple(source.randint(1, 2 if "dilation_rate" in strided else 3) for _ in range(dims)),
        "padding": source.choice(["valid", "same"]),
        "data_format": "channels_first" if first else "channels_last",
        "activation": source.choice(["tanh", "relu", None, "softsign"]),
        "recurrent_activation": source.choice(["sigmoid", "hard_sigmoid"]),
        "use_bias": source.random() < 0.7,
        "unit_forget_bias": source.random() < 0.5,
        "return_sequences": source.random() < 0.6,
        "return_state": source.random() < 0.4,
        "dropout": 0.3,
        **strided,
    }
    both, masked, initial = source.random() < 0.3, source.random() < 0.4, source.random() < 0.3
    steps = source.randint(1, 4)
    x = keras.Input((steps if source.random() < 0.5 else None, *shape))
    inputs, call = [x], {}
    if masked:
        mask = keras.Input((None,), dtype="bool")
        inputs.append(mask)
        call["mask"] = mask
    if both:
        layer = layers.Bidirectional(
            KINDS[dims](**options), merge_mode=source.choice(["concat", "sum", "mul", "ave", None])
        )
    else:
        options["go_backwards"] = source.random() < 0.4
        layer = KINDS[dims](**options, zero_output_for_mask=source.random() < 0.4)
    found = layer(x, **call)
    count = 2 * (1 + both) if initial and options["return_state"] else 0
    if count:
        states = [keras.Input(tuple(state.shape[1:])) for state in (found[-count:])]
        inputs += states
        found = layer(x, initial_state=states, **call)
    model = keras.Model(inputs, found)
    return model, shape, steps


def arrays_of(model, shape, steps, rows, generator):
    found = []
    for entry in model.inputs:
        if entry.dtype == "bool":
            found.append(generator.random((rows, steps)) < 0.6)
        elif len(entry.shape) == len(shape) + 2:
            found.append(generator.normal(size=(rows, steps, *shape)).astype(np.float32))
        else:
            found.append(generator.normal(size=(rows, *entry.shape[1:])).astype(np.float32))
    return found


def weighted(model, generator):
    for variable in model.weights:
        variable.assign(generator.normal(0, 0.4, variable.shape))
    return model


def compared(model, found, arrays):
    expected = model(arrays if len(arrays) > 1 else arrays[0])
    expected = [
        keras.ops.convert_to_numpy(part) for part in (expected if isinstance(expected, (list, tuple)) else [expected])
    ]
    given = dict(zip([entry.name for entry in found.spec.inputs if not entry.optional], arrays, strict=True))
    outputs = list(found.run(given).values())
    assert len(outputs) == len(expected)
    for ours, theirs in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-4, 1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(24))
def test_drawn_layers(seed):
    source, generator = random.Random(seed), np.random.default_rng(seed)
    while True:
        try:
            model, shape, steps = drawn(source)
            weighted(model, generator)
            arrays = arrays_of(model, shape, steps, 2, generator)
            model(arrays if len(arrays) > 1 else arrays[0])
            break
        except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):
            continue  # a configuration that Keras itself does not build or run: a window beyond the image
    exported = rnncore.export.from_keras(model)
    found = rnncore.Model(exported.spec, exported.weights)
    compared(model, found, arrays)
    compared(model, found, arrays_of(model, shape, steps, 3, generator))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_files(ending, tmp_path):
    """A network of several, with what usually stands around them."""
    generator = np.random.default_rng(0)
    x = keras.Input((None, 6, 6, 1))
    y = layers.ConvLSTM2D(3, 3, padding="same", return_sequences=True)(x)
    y = layers.BatchNormalization()(y)
    y = layers.Bidirectional(layers.ConvLSTM2D(2, (3, 2), recurrent_activation="hard_sigmoid"))(y)
    model = weighted(keras.Model(x, layers.Conv2D(1, 3, activation="sigmoid")(y)), generator)
    model.save(tmp_path / f"a.{ending}")
    found = rnncore.load(tmp_path / f"a.{ending}")
    compared(model, found, [generator.normal(size=(2, 5, 6, 6, 1)).astype(np.float32)])


def test_it_streams():
    generator = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((None, 5, 4, 2)), layers.ConvLSTM2D(3, 3, return_sequences=True)])
    exported = rnncore.export.from_keras(weighted(model, generator))
    found = rnncore.Model(exported.spec, exported.weights)
    x = generator.normal(size=(2, 7, 5, 4, 2)).astype(np.float32)
    stream = found.stream(batch=2)
    pieces = [stream.feed(x[:, begin:end]) for begin, end in ((0, 1), (1, 4), (4, 7))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), found(x), 1e-6, 1e-7)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"stateful": True}, "stateful=True, expected False"), ({"activation": lambda x: x}, "activation")],
)
def test_refused_by_name(options, says):
    model = keras.Sequential([keras.Input((3, 4, 1), batch_size=2), layers.ConvLSTM1D(2, 2, **options, name="c")])
    with pytest.raises(UnsupportedError, match=rf"'c' \(ConvLSTM1D\).*{says}"):
        rnncore.export.from_keras(model)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"padding": "causal"}, "padding='causal', expected valid or same"),
        ({"data_format": "first"}, "data_format='first'"),
        ({"filters": 0}, "filters=0, expected a positive integer"),
        ({"filters": 3}, "kernel: shape"),
        ({"kernel_size": [9]}, "kernel: shape"),
        ({"use_bias": False}, "3 arrays, expected 2"),
        ({"stateful": True}, "stateful=True"),
        ({"unheard": 1}, "option unheard=1 is unknown"),
        ({"strides": "a"}, "strides=a"),
    ],
)
def test_configs_that_contradict_the_arrays(change, says):
    from rnncore.formats.keras.layers import KerasLayer, lower

    config = {"filters": 2, "kernel_size": [2], "strides": [1], "data_format": None} | change
    arrays = [np.ones((2, 1, 8), np.float32), np.ones((2, 2, 8), np.float32), np.ones(8, np.float32)]
    with pytest.raises(RnncoreError, match=says):
        lower([KerasLayer("c", "ConvLSTM1D", config, arrays)], (None, None, 5, 1))
