"""Keras on TensorFlow: its layers inside one tf.function with a fixed input signature, which is its fastest way.

Ragged shapes run padded to the longest row, lengths ignored: forward, the steps that count are the same.
"""

import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

# PyTorch's gates in Keras's order: i f g o -> i f c o, r z n -> z r h.
ORDER = {"RNN": [0], "LSTM": [0, 1, 2, 3], "GRU": [1, 0, 2]}
LAYERS = {"RNN": "SimpleRNN", "LSTM": "LSTM", "GRU": "GRU"}


def version() -> str:
    return f"{keras.__version__} on tensorflow {tf.__version__}"


def network(shape):
    """The shape as a Keras model from (B, T, I) to (B, T, H * directions)."""
    weights, _ = shape.arrays()
    x = value = keras.Input((shape.T, shape.I), batch_size=shape.B)
    for layer in range(shape.layers):
        one = getattr(keras.layers, LAYERS[shape.cell])(shape.H, return_sequences=True)
        wrapped = keras.layers.Bidirectional(one) if shape.bidirectional else one
        value = wrapped(value)
        suffixes = [f"_l{layer}" + end for end in ("", "_reverse")[: shape.directions]]
        wrapped.set_weights([array for suffix in suffixes for array in layer_arrays(shape.cell, weights, suffix)])
    return keras.Model(x, value)


def layer_arrays(cell, weights, suffix):
    """kernel, recurrent kernel and bias as Keras has them, from PyTorch's."""

    def columns(name):
        gates = np.split(weights[name + suffix], len(ORDER[cell]))
        return np.concatenate([gates[gate] for gate in ORDER[cell]]).T

    biases = columns("bias_ih"), columns("bias_hh")
    return columns("weight_ih"), columns("weight_hh"), np.stack(biases) if cell == "GRU" else biases[0] + biases[1]


def prepare(shape, threads):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    net = network(shape)
    x = tf.constant(shape.arrays()[1])
    call = tf.function(lambda x: net(x, training=False), input_signature=[tf.TensorSpec(x.shape, tf.float32)])
    return lambda: call(x).numpy()
