"""The engine against live Keras 3 layers, over random configurations, through rnncore.export.from_keras."""

import keras
import numpy as np
import pytest
import torch
from agreement import assert_agrees, assert_close
from keras import layers
from oracle import run_oracle
from random_networks import chance, draw, seeds

from rnncore.export import from_keras
from rnncore.runtime.model import Model

# Its threads only wait for each other at these sizes.
torch.set_num_threads(1)

ACTIVATIONS = [
    "linear", "sigmoid", "tanh", "relu", "relu6", "elu", "celu", "selu", "softplus", "softsign", "squareplus",
    "soft_shrink", "hard_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "silu", "hard_silu", "hard_tanh",
    "mish", "log_sigmoid", "softmax", "leaky_relu", "gelu", "hard_sigmoid",
]  # fmt: skip
GATE_ACTIVATIONS = ["sigmoid", "hard_sigmoid", "sparse_sigmoid", "softmax"]
MERGES = ["concat", "sum", "mul", "ave"]


def random_layer(rng, sequences):
    """One recurrent layer, in two directions or one; returns it with a word on what it is."""
    kind = str(rng.choice(["SimpleRNN", "LSTM", "GRU"]))
    options = {"units": int(rng.integers(1, 18)), "use_bias": chance(rng, 0.7)}
    if chance(rng, 0.5):
        options["activation"] = str(rng.choice(ACTIVATIONS))
        if kind != "SimpleRNN":
            options["recurrent_activation"] = str(rng.choice(GATE_ACTIVATIONS))
    if kind == "GRU":
        options["reset_after"] = chance(rng, 0.5)
    if chance(rng, 0.4):
        backwards = not sequences and chance(rng, 0.5)
        layer = getattr(layers, kind)(**options, return_sequences=sequences, go_backwards=backwards)
        return layer, f"{kind} {options} go_backwards={backwards}"
    merge = str(rng.choice(MERGES))
    inner = getattr(layers, kind)(**options, return_sequences=sequences)
    return layers.Bidirectional(inner, merge_mode=merge), f"Bidirectional {merge} {kind} {options}"


def random_model(seed):
    """A Sequential of one to three recurrent layers, with or without an Embedding before and a Dense behind."""
    rng = np.random.default_rng(seed)
    width, ids = int(rng.integers(1, 18)), chance(rng, 0.2)
    count = int(rng.integers(1, 4))
    sequences = chance(rng, 0.5)
    found = [random_layer(rng, sequences or index < count - 1) for index in range(count)]
    parts = [layer for layer, _ in found]
    if ids:
        parts.insert(0, layers.Embedding(11, width))
    if chance(rng, 0.3):
        parts.append(layers.Dense(3, activation=str(rng.choice(["linear", "relu", "tanh", "sigmoid", "softmax"]))))
    shape = (None,) if ids else (None, width)
    model = keras.Sequential([keras.Input(shape, dtype="int64" if ids else "float32"), *parts])
    weights = [weight.shape for weight in model.weights]
    model.set_weights([draw(rng, shape, 1.0 / np.sqrt(shape[0]) if len(shape) > 1 else 0.5) for shape in weights])
    sizes = int(rng.integers(1, 6)), int(rng.integers(1, 10))
    x = rng.integers(0, 11, sizes) if ids else draw(rng, (*sizes, width), 1.5).astype(np.float32)
    return model, x, "; ".join(what for _, what in found)


@pytest.mark.parametrize("seed", seeds(100))
def test_random_configurations(seed):
    keras_model, x, what = random_model(seed)
    what = f"seed {seed}: {what}"
    exported = from_keras(keras_model, seed=seed)
    model = Model(exported.spec, exported.weights)
    pair = exported.test_pair
    assert_agrees(model.run(pair.inputs), pair.outputs, "float32", f"{what}: test pair")

    found = model.run({exported.spec.inputs[0].name: x})
    exact = run_oracle(exported.spec, exported.weights, {exported.spec.inputs[0].name: x})
    assert_agrees(found, exact, "float32", f"{what}: oracle")
    (output,) = found.values()
    assert_close(output, keras.ops.convert_to_numpy(keras_model(x, training=False)), 1e-5, f"{what}: Keras")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states(kind):
    """Keras returns and takes states; ours are the same arrays."""
    layer = getattr(layers, kind)(5, return_sequences=True, return_state=True)
    rng = np.random.default_rng(1)
    x = draw(rng, (3, 6, 4)).astype(np.float32)
    layer(x)
    layer.set_weights([draw(rng, weight.shape, 0.5) for weight in layer.weights])
    initial = [draw(rng, (3, 5)).astype(np.float32) for _ in range(2 if kind == "LSTM" else 1)]
    expected = [keras.ops.convert_to_numpy(found) for found in layer(x, initial_state=initial)]

    plain = getattr(layers, kind)(5, return_sequences=True)
    plain(x)
    plain.set_weights(layer.get_weights())
    exported = from_keras(plain, x)
    output, state = Model(exported.spec, exported.weights)(x, tuple(array[None] for array in initial))
    assert_close(output, expected[0], 1e-5)
    for found, reference in zip(state.values(), expected[1:], strict=True):
        assert_close(found[0], reference, 1e-5)


def test_the_generator_covers_what_it_promises():
    """Random is worth nothing if a branch is never drawn."""
    rng = np.random.default_rng(0)
    text = "; ".join(random_layer(rng, sequences)[1] for sequences in (True, False) for _ in range(100))
    wanted = [f"Bidirectional {merge} {kind}" for merge in MERGES for kind in ("SimpleRNN", "LSTM", "GRU")]
    wanted += ["'reset_after': True", "'reset_after': False", "go_backwards=True", "'use_bias': False"]
    wanted += [f"'activation': '{name}'" for name in ACTIVATIONS]
    wanted += [f"'recurrent_activation': '{name}'" for name in GATE_ACTIVATIONS]
    assert [what for what in wanted if what not in text] == []
