"""From Keras: a .keras file is read as it is, without Keras. Needs keras here only to make one.

KERAS_BACKEND=torch python examples/from_keras.py
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

import rnncore

inputs = keras.Input((None,), dtype="int64")
x = keras.layers.Embedding(500, 24, mask_zero=True)(inputs)
x = keras.layers.Bidirectional(keras.layers.GRU(32))(x)
network = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))

with tempfile.TemporaryDirectory() as directory:
    path = Path(directory) / "classifier.keras"
    network.save(path)
    model = rnncore.load(path)  # pip install "rnncore[keras]"
    ids = np.array([[4, 8, 15, 16, 23, 42], [7, 7, 7, 0, 0, 0]])  # 0 is masked, as in Keras
    found = model(ids)
    expected = network.predict_on_batch(ids)
    print(f"largest difference from Keras: {np.abs(found - expected).max():.1e}")
    print(model)
