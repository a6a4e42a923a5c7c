"""A model read from a file of Keras against Keras's own outputs."""

import numpy as np
from agreement import assert_close


def by_name(model, inputs):
    """Arrays by the names of our model's inputs, in order."""
    entries = [entry for entry in model.inputs if not entry.optional]
    return {
        entry.name: x.astype(np.int64 if entry.dtype == "int64" else np.float32)
        for entry, x in zip(entries, inputs, strict=True)
    }


def agrees(model, inputs, expected, what, tolerance=1e-5):
    outputs = model.run(by_name(model, inputs))
    assert len(model.spec.outputs) == len(expected)
    for name, reference in zip(model.spec.outputs, expected, strict=True):
        assert_close(outputs[name], reference, tolerance, f"{what}: {name}")
