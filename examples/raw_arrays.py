"""From raw arrays: weights out of any program, in any gate order, and how to find out which order that is.

python examples/raw_arrays.py
"""

import numpy as np

import rnncore

rng = np.random.default_rng(0)
inputs, units = 8, 16
kernel, recurrent = rng.normal(0, 0.3, (inputs, 4 * units)), rng.normal(0, 0.3, (units, 4 * units))
bias = rng.normal(0, 0.1, 4 * units)
arrays = {"weight_ih": kernel.T, "weight_hh": recurrent.T, "bias": bias}

net = rnncore.LSTM(**arrays, order="ifco")  # gates named in the order of their rows; or "keras", "onnx", "torch" ...
x = rng.normal(size=(2, 10, inputs)).astype(np.float32)
y, state = net(x, None)
print("output", y.shape, "state", {name: array.shape for name, array in state.items()})

# Nobody knows the order any more? One input with its output is enough to find it.
for dialect in rnncore.detect(arrays, x, y):
    print("fits:", dialect)
