"""TensorFlow Lite on the same Keras layers, converted with static shapes; XNNPACK is its default.

Ragged shapes run padded to the longest row, lengths ignored: forward, the steps that count are the same.
"""

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from engines.keras_tensorflow import network


def version() -> str:
    return tf.__version__


def prepare(shape, threads):
    net = network(shape)
    signature = [tf.TensorSpec((shape.B, shape.T, shape.I), tf.float32)]
    call = tf.function(lambda x: net(x, training=False), input_signature=signature).get_concrete_function()
    frozen = convert_variables_to_constants_v2(call)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    x = shape.arrays()[1]

    def run():
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run
