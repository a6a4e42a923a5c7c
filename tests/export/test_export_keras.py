"""rnncore.export.from_keras against the float64 oracle, and its verbs on arrays one can check by eye."""

import keras
import numpy as np
import pytest
from keras import layers
from oracle import run_oracle

from rnncore import Model
from rnncore.cells import Activation
from rnncore.conventions.gates import reorder_gates, swap_rz, transpose_gates
from rnncore.errors import FormatError, InputError, UnsupportedError, WeightError
from rnncore.export import from_keras
from rnncore.formats.keras.layers import KerasLayer, activation, lower

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:keras")

# Keras on torch multiplies in float32 in float64 models too, except in LSTM and GRU: see test_float64.
TOLERANCE = {"float64": 1e-6, "float32": 1e-5}


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(3)


def sequential(*parts, shape=(7, 3), dtype="float64"):
    """A Sequential in which every weight, biases too, is drawn at random."""
    ids = isinstance(parts[0], layers.Embedding)
    model = keras.Sequential([keras.Input(shape, dtype="int64" if ids else dtype), *parts])
    rng = np.random.default_rng(5)
    model.set_weights([rng.uniform(-0.5, 0.5, weight.shape) for weight in model.weights])
    return model


def agrees(exported, dtype="float64"):
    pair = exported.test_pair
    found = run_oracle(exported.spec, exported.weights, pair.inputs)
    assert set(found) == set(pair.outputs)
    for name, expected in pair.outputs.items():
        assert expected.dtype == keras.backend.result_type(dtype, dtype)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=TOLERANCE[dtype], err_msg=name)
    return exported


RECURRENT = {
    "SimpleRNN": (layers.SimpleRNN, {}),
    "LSTM": (layers.LSTM, {}),
    "GRU": (layers.GRU, {}),
    "GRU reset before": (layers.GRU, {"reset_after": False}),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("kind", RECURRENT)
def test_layers(kind, return_sequences, use_bias, dtype):
    layer, options = RECURRENT[kind]
    model = sequential(
        layer(4, return_sequences=return_sequences, use_bias=use_bias, dtype=dtype, name="rnn", **options), dtype=dtype
    )
    exported = agrees(from_keras(model), dtype)
    assert exported.spec.outputs == ("rnn" if return_sequences else "rnn.last",)
    assert exported.weights["rnn.weight_ih_l0"].dtype == dtype


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_float64(kind):
    model = sequential(layers.Bidirectional(RECURRENT[kind][0](4, dtype="float64"), dtype="float64"))
    exported = from_keras(model)
    x = exported.test_pair.inputs["x"]
    (found,) = run_oracle(exported.spec, exported.weights, {"x": x}).values()
    np.testing.assert_allclose(found, keras.ops.convert_to_numpy(model(x)), rtol=0, atol=1e-12)
    assert any("float32" in note for note in exported.notes)


@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave"])
@pytest.mark.parametrize("kind", RECURRENT)
def test_bidirectional(kind, merge_mode, return_sequences):
    layer, options = RECURRENT[kind]
    inner = layer(4, return_sequences=return_sequences, dtype="float64", **options)
    agrees(from_keras(sequential(layers.Bidirectional(inner, merge_mode, dtype="float64"))))


def test_bidirectional_without_merge():
    inner = layers.LSTM(4, return_sequences=True, dtype="float64")
    model = sequential(layers.Bidirectional(inner, merge_mode=None, dtype="float64", name="both"))
    assert agrees(from_keras(model)).spec.outputs == ("both.forward", "both.reverse")


def test_bidirectional_with_another_backward_layer():
    forward = layers.LSTM(4, dtype="float64")
    backward = layers.LSTM(4, activation="relu", go_backwards=True, dtype="float64")
    exported = agrees(from_keras(sequential(layers.Bidirectional(forward, backward_layer=backward, dtype="float64"))))
    assert exported.spec.nodes[0].reverse_cell.activations[4] == Activation("relu")


@pytest.mark.parametrize("return_sequences", [False, True])
def test_go_backwards(return_sequences):
    gru = layers.GRU(4, go_backwards=True, return_sequences=return_sequences, dtype="float64")
    exported = agrees(from_keras(sequential(gru)))
    (node,) = exported.spec.nodes
    assert (node.direction, node.output_order) == ("reverse", "processing" if return_sequences else "time")


def masked(*parts, dtype="float64"):
    """A Sequential of ids, and an example whose rows have gaps, left padding, no valid step, and all."""
    model = sequential(layers.Embedding(5, 3, mask_zero=True, name="embed", dtype=dtype), *parts, shape=(None,))
    return model, np.array([[1, 0, 2, 0, 0], [0, 0, 3, 4, 1], [0, 0, 0, 0, 0], [1, 2, 3, 4, 1]])


def test_masks_are_computed_only_where_they_are_read():
    exported = agrees(from_keras(*masked(layers.Dense(2, dtype="float64", name="dense"))))
    assert [node.name for node in exported.spec.nodes] == ["embed", "dense"]
    exported = agrees(from_keras(*masked(layers.LSTM(4, name="lstm", dtype="float64"))))
    expected = ["embed.padding.by", "embed.padding", "embed.mask", "embed", "lstm"]
    assert [node.name for node in exported.spec.nodes] == expected
    exported = agrees(
        from_keras(*masked(*(layers.LSTM(4, return_sequences=more, dtype="float64") for more in (True, False))))
    )
    assert [node.mask for node in exported.spec.recurrent] == ["embed.mask"] * 2


@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "mul", "ave"])
def test_bidirectional_under_a_mask(merge_mode, return_sequences):
    inner = layers.GRU(4, return_sequences=return_sequences, dtype="float64")
    exported = agrees(from_keras(*masked(layers.Bidirectional(inner, merge_mode, dtype="float64"))))
    assert exported.spec.recurrent[0].masked_output == ("zero" if return_sequences else "repeat")


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("return_sequences", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_masked_outputs_and_their_order(backwards, return_sequences, zero):
    """With zero_output_for_mask, the last output of a sequence that ends masked is 0."""
    options = {"go_backwards": backwards, "zero_output_for_mask": zero, "dtype": "float64"}
    exported = agrees(from_keras(*masked(layers.LSTM(4, return_sequences=return_sequences, **options))))
    (y,) = exported.test_pair.outputs.values()
    if zero and not return_sequences:
        assert not y[1 if backwards else 0].any()
        assert y[3].any()


def test_a_second_masking_layer_replaces_the_mask():
    parts = [layers.Dense(1, dtype="float64"), layers.Masking(0.0, dtype="float64"), layers.LSTM(2, dtype="float64")]
    exported = agrees(from_keras(*masked(*parts)))
    assert exported.spec.recurrent[0].mask.startswith("masking")
    assert "embed.mask" not in exported.spec.values


def test_rnn_around_a_cell_and_time_distributed():
    model = sequential(
        layers.RNN(layers.LSTMCell(4, dtype="float64"), return_sequences=True, dtype="float64"),
        layers.TimeDistributed(layers.Dense(2, activation="tanh", dtype="float64"), name="heads", dtype="float64"),
    )
    assert agrees(from_keras(model)).spec.outputs == ("heads.tanh",)


ACTIVATIONS = [
    "linear", "sigmoid", "tanh", "relu", "relu6", "elu", "celu", "selu", "softplus", "softsign", "squareplus",
    "soft_shrink", "hard_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "silu", "swish", "exponential",
    "hard_silu", "hard_tanh", "mish", "log_sigmoid", "softmax", "log_softmax", "leaky_relu", "gelu", "hard_sigmoid",
]  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    model = sequential(layers.LSTM(4, activation=name, recurrent_activation="hard_sigmoid", dtype="float64"))
    agrees(from_keras(model))


def test_squareplus_of_large_numbers():
    """Keras's float32 square overflows and makes infinity of numbers of either sign: here it is float64's answer."""
    x = np.float32([[-3e38, -1.9e19, -1e10, -1e4, -3, 0, 3, 1e4, 1e10, 1.9e19, 3e38]]).T[None]
    model = keras.Sequential([keras.Input((None, 1)), layers.Activation("squareplus", dtype="float64")])
    expected = keras.ops.convert_to_numpy(model(x.astype(np.float64)))
    exported = from_keras(model)
    found = Model(exported.spec, exported.weights)(x)
    assert (np.abs(found - expected) <= 1e-6 * np.maximum(1, np.abs(x))).all()
    ends = Model(exported.spec, exported.weights)(np.float32([[[np.inf], [-np.inf], [np.nan]]]))
    np.testing.assert_array_equal(ends[0, :, 0], [np.inf, 0, np.nan])


def test_activations_that_mean_something_else_elsewhere():
    assert activation("hard_sigmoid", "here") == Activation("hard_sigmoid_sixth")
    assert activation("hard_sigmoid", "here", version=2) == Activation("hard_sigmoid_fifth")
    assert activation("leaky_relu", "here").alpha == 0.2
    assert activation("gelu", "here") == Activation("gelu_erf")
    assert activation(None, "here") == Activation("linear")


def test_tutorial_simple_rnn_on_a_batch_of_100():
    model = keras.Sequential([keras.Input((10, 3)), layers.SimpleRNN(8, name="rnn"), layers.Dense(1, name="dense")])
    x = np.random.default_rng(0).standard_normal((100, 10, 3)).astype(np.float32)
    spec, weights = exported = agrees(from_keras(model, x), "float32")
    np.testing.assert_allclose(exported.test_pair.outputs["dense"], model.predict(x, verbose=0), atol=1e-6)
    assert weights["rnn.weight_ih_l0"].shape == (8, 3)
    assert spec.inputs[0].shape == ("B", "T", 3)


def test_text_classifier():
    model = sequential(
        layers.Embedding(20, 5, dtype="float64", name="embed"),
        layers.Dropout(0.5),
        layers.Bidirectional(layers.LSTM(4, return_sequences=True, dropout=0.3, dtype="float64"), dtype="float64"),
        layers.GRU(6, dtype="float64"),
        layers.Dense(8, activation="relu", dtype="float64", name="hidden"),
        layers.Dense(3, activation="softmax", dtype="float64", name="classes"),
        shape=(None,),
    )
    exported = agrees(from_keras(model))
    assert exported.spec.inputs[0].name == "tokens"
    assert exported.spec.outputs == ("classes.softmax",)
    assert any("Dropout" in note for note in exported.notes)


def test_activation_layers_nested_sequential_and_linear_activation():
    inner = keras.Sequential([layers.Dense(4, dtype="float64", name="d"), layers.ReLU(dtype="float64")], name="inner")
    model = sequential(
        inner, layers.Activation("tanh", dtype="float64"), layers.Activation("linear"), layers.Softmax(dtype="float64")
    )
    exported = agrees(from_keras(model))
    assert "inner/d.weight" in exported.weights


def test_functional_chain_and_single_layer():
    x = keras.Input((None, 3), dtype="float64")
    y = layers.Dense(2, dtype="float64")(layers.LSTM(4, dtype="float64")(x))
    agrees(from_keras(keras.Model(x, y)))
    layer = layers.GRU(4, dtype="float64")
    layer.build((None, None, 3))
    agrees(from_keras(layer, np.ones((2, 5, 3))))


def test_a_model_that_is_not_built_needs_an_example():
    model = keras.Sequential([layers.SimpleRNN(4), layers.Dense(2)])
    with pytest.raises(InputError, match="not built"):
        from_keras(model)
    agrees(from_keras(model, np.ones((2, 5, 3), np.float32)), "float32")


def test_stateful_model_keeps_its_state():
    model = keras.Sequential([keras.Input(batch_shape=(4, 6, 3)), layers.LSTM(5, stateful=True, unroll=True)])
    model(np.ones((4, 6, 3), np.float32))
    before = [keras.ops.convert_to_numpy(state).copy() for state in model.layers[0].states]
    exported = agrees(from_keras(model), "float32")
    assert exported.test_pair.inputs["x"].shape == (4, 6, 3)
    for state, expected in zip(model.layers[0].states, before, strict=True):
        assert expected.any()
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(state), expected)
    assert any("stateful" in note for note in exported.notes)


def other(x):
    return x


def tanh(x):
    return 2 * x


class OwnLSTM(layers.LSTM):
    pass


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([layers.Lambda(lambda x: x)], r"\(Lambda\): not accepted, expected Dense"),
        ([layers.Reshape((7, 3, 1)), layers.RandomCrop(2, 2)], r"\(RandomCrop\): not accepted, expected Dense"),
        ([layers.Masking(), layers.Softmax()], r"\(Softmax\): under a mask"),
        ([OwnLSTM(2)], r"\(OwnLSTM\): not accepted"),
        ([layers.LSTM(2, activation=other)], "activation 'other' is not one of keras.activations"),
        ([layers.LSTM(2, recurrent_activation=tanh)], "recurrent_activation 'tanh' is not one of keras.activations"),
        ([layers.LSTM(2, activation="sparsemax")], "activation 'sparsemax', expected one of"),
        ([layers.Softmax(axis=(1, 2))], "axis="),
        (
            [layers.Flatten(dtype="float16"), layers.Dense(2)],
            "dtype policy 'float16', expected one of float32, float64",
        ),
        ([layers.Dropout(0.5)], "no layer does anything"),
        (
            [
                layers.Bidirectional(
                    layers.LSTM(2, go_backwards=True), backward_layer=layers.LSTM(2, go_backwards=False)
                )
            ],
            r"go_backwards=\[True, False\]",
        ),
    ],
)
def test_refused_by_name(parts, says):
    with pytest.raises(UnsupportedError, match=says):
        from_keras(keras.Sequential([keras.Input((7, 3)), *parts]))


def test_masks_of_their_own():
    """A layer that is called with a mask reads under it, and hands its own on as Keras does."""
    x = keras.Input((7, 3))
    own = layers.LSTM(2)(layers.Masking(0.5)(x), mask=keras.ops.not_equal(x[..., 0], 1))
    sliced = from_keras(keras.Model(x, own), np.random.default_rng(1).integers(0, 2, (4, 7, 3)).astype(np.float32))
    agrees(sliced, "float32")
    assert sliced.spec.recurrent[0].mask.startswith("not_equal")
    other = layers.LSTM(2)(x, mask=keras.ops.any(keras.ops.not_equal(x, 0.5), axis=-1))
    example = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
    example[0, 3] = example[1, 5:] = 0.5
    exported = agrees(from_keras(keras.Model(x, other), example), "float32")
    assert exported.spec.recurrent[0].mask.startswith("any")


def test_refused_examples_and_models():
    ids = keras.Sequential([keras.Input((7,)), layers.Embedding(5, 3)])
    with pytest.raises(InputError, match=r"example \(input 'tokens'\): float64 \(2, 7\), expected int64"):
        from_keras(ids, np.zeros((2, 7)))
    with pytest.raises(InputError, match="expected a keras"):
        from_keras([layers.Dense(3)])
    x = keras.Input((7, 3))
    two = keras.Model([x, keras.Input((2,))], layers.LSTM(2)(x))
    with pytest.raises(InputError, match="example: 1 arrays, expected 2"):
        from_keras(two, np.zeros((2, 7, 3), np.float32))


def test_a_layer_called_twice_is_two_nodes():
    x, dense = keras.Input((7, 3)), layers.Dense(3, name="dense")
    exported = agrees(from_keras(keras.Model(x, dense(dense(x)))), "float32")
    assert [node.name for node in exported.spec.nodes] == ["dense", "dense#2"]


def test_lora_is_refused():
    model = keras.Sequential([keras.Input((7, 3)), layers.Dense(4, lora_rank=2)])
    with pytest.raises(UnsupportedError, match="LoRA"):
        from_keras(model)


def test_verbs():
    kernel = np.arange(12.0).reshape(2, 6)  # I = 2; gates z r n of two units
    rows = transpose_gates(kernel)
    assert rows.shape == (6, 2)
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 2, 3, 4, 5])
    np.testing.assert_array_equal(swap_rz(rows)[:, 0], [2, 3, 0, 1, 4, 5])
    np.testing.assert_array_equal(reorder_gates(np.arange(8), "iofg", "ifgo"), [0, 1, 4, 5, 6, 7, 2, 3])
    with pytest.raises(WeightError, match="7 rows, expected a multiple of 3"):
        swap_rz(np.arange(7))


DENSE = {"units": 2, "activation": "linear", "use_bias": True}


@pytest.mark.parametrize(
    ("config", "arrays", "error", "says"),
    [
        ({}, [(3, 2), (2,)], FormatError, "config has no 'units'"),
        ({**DENSE, "magic": 1}, [(3, 2), (2,)], UnsupportedError, "option magic=1 is unknown"),
        (DENSE, [(3, 2)], WeightError, "1 arrays, expected 2"),
        (DENSE, [(3, 3), (2,)], WeightError, r"kernel: shape \(3, 3\), expected \(3, 2\)"),
        (DENSE, [(3,), (2,)], WeightError, "expected two dimensions"),
        (DENSE, [(3, 2), (3,)], WeightError, r"bias: shape \(3,\), expected \(2,\)"),
        ({**DENSE, "quantization_config": {"a": 1}}, [(3, 2), (2,)], UnsupportedError, "quantization_config"),
    ],
)
def test_configs_from_files_are_not_trusted(config, arrays, error, says):
    layer = KerasLayer("dense", "Dense", config, [np.zeros(shape, np.float32) for shape in arrays])
    with pytest.raises(error, match=says):
        lower([layer], (None, 3))
