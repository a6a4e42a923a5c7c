"""Small Keras models, one for each corner of what a file may hold; build(name) makes one with random weights.

Each entry gives a model and example inputs; ids are below 6. The same functions run under Keras 3 and, in the
generator of tests/golden/keras, under tf.keras: ``k`` is the module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["MODELS", "build"]

MODELS: dict[str, Callable[[Any], Any]] = {}
ONLY_KERAS_3: set[str] = set()


def model(function):
    MODELS[function.__name__] = function
    return function


def keras_3(function):
    ONLY_KERAS_3.add(function.__name__)
    return model(function)


def floats(k, *shape, name="x"):
    return k.Input(shape or (None, 3), name=name)


def ids(k, name="tokens"):
    return k.Input((None,), dtype="int32", name=name)


def build(k, name: str) -> tuple[Any, list[np.ndarray]]:
    """The model, its weights drawn at random (variances and scales positive), and a batch for each input."""
    rng = np.random.default_rng(sum(map(ord, name)))
    model = MODELS[name](k)
    weights = []
    for weight in model.get_weights():
        weights.append(rng.uniform(0.2, 0.8, weight.shape) * np.where(rng.random(weight.shape) < 0.5, 1, -1))
    model.set_weights([np.abs(w) if positive(v) else w for w, v in zip(weights, model.weights, strict=True)])
    inputs = []
    for tensor in model.inputs:
        shape = [3, *(7 if size is None else size for size in tuple(tensor.shape)[1:])]
        dtype = getattr(tensor.dtype, "name", tensor.dtype)
        if str(dtype).startswith("int"):
            batch = rng.integers(0, 6, shape).astype(np.int32)
            batch[0, :2] = 0
            batch[1, -3:] = 0
        else:
            batch = rng.standard_normal(shape).astype(np.float32)
            batch[0, -2:] = 0.0
        inputs.append(batch)
    return model, inputs


def positive(variable) -> bool:
    return "variance" in variable.name


@model
def chain(k):
    L = k.layers
    return k.Sequential(
        [floats(k), L.LSTM(4, return_sequences=True), L.GRU(3, return_sequences=True), L.SimpleRNN(5), L.Dense(2)]
    )


@model
def text_classifier(k):
    L = k.layers
    return k.Sequential(
        [
            ids(k),
            L.Embedding(6, 4, mask_zero=True),
            L.SpatialDropout1D(0.2),
            L.Bidirectional(L.LSTM(3, return_sequences=True, dropout=0.1)),
            L.Bidirectional(L.GRU(4), merge_mode="sum"),
            L.Dense(5, activation="relu"),
            L.Dropout(0.5),
            L.Dense(3, activation="softmax"),
        ]
    )


@model
def reset_before_and_hard_sigmoid(k):
    L = k.layers
    gru = L.GRU(4, reset_after=False, recurrent_activation="hard_sigmoid", return_sequences=True)
    return k.Sequential([floats(k), gru, L.LSTM(3, recurrent_activation="hard_sigmoid", go_backwards=True)])


@model
def masking_and_backwards(k):
    L = k.layers
    x = floats(k)
    y = L.Masking(0.0)(x)
    y = L.LSTM(3, return_sequences=True, go_backwards=True)(y)
    return k.Model(x, [y, L.GRU(2)(y)])


@model
def two_inputs_two_outputs(k):
    L = k.layers
    a, b = floats(k, name="words"), k.Input((4,), name="facts")
    y = L.Concatenate()([L.LSTM(3)(a), L.Dense(2, activation="tanh")(b)])
    return k.Model([a, b], [L.Dense(2, name="label")(y), L.Dense(1, activation="sigmoid", name="score")(y)])


@model
def shared_layer(k):
    L = k.layers
    a, b = ids(k, "left"), ids(k, "right")
    embed, encode = L.Embedding(6, 3, mask_zero=True), L.LSTM(4)
    u, v = encode(embed(a)), encode(embed(b))
    return k.Model([a, b], L.Dot(axes=1, normalize=True)([u, v]))


@model
def siamese_nested(k):
    L = k.layers
    x = floats(k)
    inner = k.Model(x, L.Dense(3, activation="tanh")(L.GRU(4)(x)), name="encoder")
    a, b = floats(k, name="a"), floats(k, name="b")
    return k.Model([a, b], L.Subtract()([inner(a), inner(b)]))


@model
def nested_sequential(k):
    L = k.layers
    inner = k.Sequential(
        [k.Input((None, 3)), L.Dense(4), L.BatchNormalization(), L.LSTM(3, return_sequences=True)], name="inner"
    )
    return k.Sequential([floats(k), inner, L.BatchNormalization(), L.Dense(2)])


@model
def encoder_decoder(k):
    L = k.layers
    source, target = ids(k, "source"), ids(k, "target")
    _, h, c = L.LSTM(3, return_state=True)(L.Embedding(6, 2)(source))
    y = L.LSTM(3, return_sequences=True)(L.Embedding(6, 2)(target), initial_state=[h, c])
    return k.Model([source, target], L.Softmax()(y))


@model
def decoder_with_states_as_inputs(k):
    L = k.layers
    x, h, c = floats(k), k.Input((4,), name="h"), k.Input((4,), name="c")
    y, *states = L.LSTM(4, return_sequences=True, return_state=True)(x, initial_state=[h, c])
    return k.Model([x, h, c], [y, *states])


@model
def bidirectional_states(k):
    L = k.layers
    x = floats(k)
    y, *states = L.Bidirectional(L.LSTM(3, return_sequences=True, return_state=True))(x)
    h, c = L.Concatenate()([states[0], states[2]]), L.Concatenate()([states[1], states[3]])
    return k.Model(x, [L.LSTM(6)(y, initial_state=[h, c]), *states])


@model
def bidirectional_of_different_layers(k):
    L = k.layers
    back = L.GRU(3, return_sequences=True, go_backwards=True)
    both = L.Bidirectional(L.LSTM(3, return_sequences=True), backward_layer=back, merge_mode="ave")
    return k.Sequential([floats(k), L.Masking(), both])


@model
def bidirectional_apart(k):
    L = k.layers
    x = floats(k)
    a, b = L.Bidirectional(L.GRU(3), merge_mode=None)(x)
    return k.Model(x, [a, b])


@model
def stacked_cells(k):
    L = k.layers
    cells = [L.LSTMCell(4), L.GRUCell(3), L.SimpleRNNCell(2)]
    x = floats(k)
    y, *states = L.RNN(cells, return_sequences=True, return_state=True)(L.Masking()(x))
    flat = [state for part in states for state in (part if isinstance(part, (list, tuple)) else [part])]
    return k.Model(x, [y, *flat])


@model
def bidirectional_stacked_cells(k):
    L = k.layers
    return k.Sequential(
        [floats(k), L.Bidirectional(L.RNN([L.LSTMCell(3), L.LSTMCell(2)], return_sequences=True), merge_mode="mul")]
    )


@model
def time_distributed(k):
    L = k.layers
    inner = k.Sequential([k.Input((5, 3)), L.LSTM(4), L.Dense(2, activation="relu")])
    return k.Sequential([k.Input((6, 5, 3)), L.TimeDistributed(inner), L.GRU(3)])


@model
def time_distributed_dense(k):
    L = k.layers
    return k.Sequential(
        [ids(k), L.Embedding(6, 3, mask_zero=True), L.TimeDistributed(L.Dense(4, activation="elu")), L.LSTM(2)]
    )


@model
def convolutions(k):
    L = k.layers
    return k.Sequential(
        [
            k.Input((12, 4)),
            L.Conv1D(6, 3, padding="same", activation="relu"),
            L.MaxPooling1D(2, padding="same"),
            L.Conv1D(4, 2, padding="causal", dilation_rate=2),
            L.SeparableConv1D(6, 3, depth_multiplier=2),
            L.AveragePooling1D(2, strides=1, padding="same"),
            L.LSTM(3),
        ]
    )


@model
def conv_of_any_length(k):
    L = k.layers
    x = floats(k, None, 4)
    y = L.Conv1D(4, 3, strides=2, padding="same", groups=2)(x)
    y = L.BatchNormalization()(y)
    y = L.Bidirectional(L.GRU(3, return_sequences=True))(y)
    return k.Model(x, [L.GlobalMaxPooling1D()(y), L.GlobalAveragePooling1D()(y)])


@model
def images(k):
    L = k.layers
    return k.Sequential(
        [
            k.Input((8, 6, 2)),
            L.Conv2D(4, 3, padding="same", activation="relu"),
            L.MaxPooling2D((1, 2)),
            L.DepthwiseConv2D(3, padding="same"),
            L.Reshape((8, 12)),
            L.LSTM(4, return_sequences=True),
            L.Flatten(),
            L.Dense(3, activation="softmax"),
        ]
    )


@model
def masked_pooling(k):
    L = k.layers
    x = ids(k)
    y = L.Embedding(6, 4, mask_zero=True)(x)
    return k.Model(x, [L.GlobalAveragePooling1D()(y), L.GlobalAveragePooling1D()(L.LayerNormalization()(y))])


@model
def normalisations(k):
    L = k.layers
    x = k.Input((6, 4), name="x")
    y = L.GRU(4, return_sequences=True)(L.Rescaling(0.5, 0.1)(x))
    y = L.LayerNormalization(epsilon=1e-4)(y)
    y = L.GroupNormalization(2)(y)
    y = L.UnitNormalization()(y)
    return k.Model(x, L.BatchNormalization(scale=False)(y))


@keras_3
def rms_normalisation(k):
    L = k.layers
    return k.Sequential([floats(k), L.RMSNormalization(), L.LSTM(3)])


@model
def normalization_layer(k):
    L = k.layers
    return k.Sequential([floats(k), L.Normalization(mean=[0.1, -0.2, 0.3], variance=[1.0, 2.0, 0.5]), L.LSTM(2)])


@model
def merges(k):
    L = k.layers
    x = floats(k)
    a, b = L.LSTM(3, return_sequences=True)(x), L.Dense(3)(x)
    merged = [kind()([a, b]) for kind in (L.Add, L.Multiply, L.Maximum, L.Minimum, L.Average)]
    return k.Model(x, L.Concatenate()(merged))


@model
def merged_masks(k):
    L = k.layers
    a, b = ids(k, "a"), ids(k, "b")
    u, v = L.Embedding(6, 3, mask_zero=True)(a), L.Embedding(6, 3, mask_zero=True)(b)
    return k.Model([a, b], [L.LSTM(2)(L.Add()([u, v])), L.SimpleRNN(2)(L.Concatenate()([u, v]))])


@model
def masks_one_after_the_other(k):
    L = k.layers
    a, b = ids(k, "a"), ids(k, "b")
    u, v = L.Embedding(6, 3, mask_zero=True)(a), L.Embedding(6, 3, mask_zero=True)(b)
    return k.Model([a, b], L.LSTM(3)(L.Concatenate(axis=1)([u, v])))


@model
def attentions(k):
    L = k.layers
    x = ids(k)
    y = L.Embedding(6, 4, mask_zero=True)(x)
    y = L.Bidirectional(L.LSTM(3, return_sequences=True))(y)
    return k.Model(x, [L.Attention(use_scale=True)([y, y]), L.AdditiveAttention()([y, y])])


@model
def word_attention(k):
    """As people write it: a score for each step, softmax over time, weighted sum."""
    L = k.layers
    x = k.Input((8, 3), name="x")
    y = L.LSTM(4, return_sequences=True)(x)
    scores = L.Flatten()(L.Dense(1, activation="tanh")(y))
    weights = L.Permute([2, 1])(L.RepeatVector(4)(L.Activation("softmax")(scores)))
    return k.Model(x, L.Flatten()(L.Dot(axes=(1, 1))([L.Dense(1)(y), L.Multiply()([y, weights])])))


@model
def multi_head(k):
    L = k.layers
    x = k.Input((7, 4), name="x")
    y = L.GRU(6, return_sequences=True)(x)
    z = L.MultiHeadAttention(2, 3, value_dim=5)(y, x)
    return k.Model(x, L.LayerNormalization()(L.Add()([y, z])))


@model
def masked_multi_head(k):
    """Masked queries see nothing at all."""
    L = k.layers
    x = ids(k)
    y = L.Embedding(6, 4, mask_zero=True)(x)
    return k.Model(x, L.MultiHeadAttention(2, 3)(y, y))


@model
def autoencoder(k):
    L = k.layers
    return k.Sequential(
        [
            k.Input((7, 3)),
            L.LSTM(4),
            L.RepeatVector(7),
            L.LSTM(4, return_sequences=True),
            L.TimeDistributed(L.Dense(3)),
        ]
    )


@model
def steps_cut_and_padded(k):
    L = k.layers
    return k.Sequential(
        [
            floats(k),
            L.ZeroPadding1D((2, 1)),
            L.Cropping1D((1, 2)),
            L.UpSampling1D(2),
            L.Conv1DTranspose(4, 3, strides=2, padding="valid"),
            L.GRU(3),
        ]
    )


@model
def activation_layers(k):
    L = k.layers
    x = k.Input((5, 4), name="x")
    activated = []
    for name in ("selu", "softplus", "softsign", "gelu", "swish", "exponential", "hard_sigmoid", "elu", "mish"):
        activated.append(L.Dense(2, activation=name)(x))
    slopes = [L.LeakyReLU(), L.ELU(0.5), L.PReLU(shared_axes=[1]), L.Softmax(axis=1), L.ReLU(max_value=0.5)]
    activated += [layer(x) for layer in (*slopes, L.ReLU(negative_slope=0.1, threshold=0.2, max_value=1.0))]
    return k.Model(x, L.Concatenate()(activated))


@model
def stateful(k):
    L = k.layers
    return k.Sequential([k.Input(batch_shape=(3, 7, 3)), L.LSTM(4, stateful=True, return_sequences=True), L.GRU(2)])


@model
def zero_output_for_mask(k):
    L = k.layers
    x = ids(k)
    y = L.Embedding(6, 3, mask_zero=True)(x)
    a = L.LSTM(3, return_sequences=True, zero_output_for_mask=True)(y)
    return k.Model(x, [a, L.GRU(2, zero_output_for_mask=True)(y)])


@keras_3
def options_left_to_keras(k):
    L = k.layers
    x = k.Input((6, 5, 32), name="x")
    y = L.Cropping2D()(L.ZeroPadding2D()(x))
    y = L.GroupNormalization()(L.MaxPooling2D()(y))
    y = L.ReLU()(L.LeakyReLU()(L.ELU()(L.LayerNormalization()(y))))
    y = L.Reshape((-1, 32))(L.BatchNormalization()(y))
    y = L.ZeroPadding1D()(L.UpSampling1D()(L.Cropping1D()(L.UpSampling1D()(y))))
    y = L.GRU(3, return_sequences=True)(L.Masking()(y))
    both = L.Bidirectional(L.SimpleRNN(3, return_sequences=True))(y)
    y = L.Concatenate()([L.Dense(2)(y), L.Add()([y, both[..., :3]])])
    volume = L.Cropping3D()(L.ZeroPadding3D()(L.Reshape((-1, 1, 1, 5))(y)))
    return k.Model(x, [L.LSTM(4)(y), L.Attention()([y, y]), volume])


@keras_3
def operations(k):
    L, ops = k.layers, k.ops
    x = k.Input((6, 4), name="x")
    y = L.LSTM(4, return_sequences=True)(x)
    scores = ops.softmax(ops.sum(ops.tanh(y * 0.5 + x), axis=-1, keepdims=True) - 1.0, axis=1)
    return k.Model(x, [ops.sum(scores * y, axis=1), ops.mean(ops.relu(y), axis=1) / 2.0])
