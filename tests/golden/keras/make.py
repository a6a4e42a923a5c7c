"""Writes the files beside it with tf.keras: python make.py [NAME ...]

Made with tf-keras 2.21.0, tensorflow-cpu 2.21.0 and numpy 2.4.6.

For each model of tests/helpers/keras_zoo.py that is listed: NAME.h5 (whole model), NAME.npz (inputs and tf.keras's
outputs, "in0", "out0", ...); for some NAME.keras (the .keras of tf.keras) or NAME.weights.h5 and NAME.only.h5 with
NAME.json.
"""

import os
import sys
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import numpy as np
import tf_keras

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "helpers"))
import keras_zoo  # noqa: E402

WHOLE = (
    "chain",
    "reset_before_and_hard_sigmoid",
    "masking_and_backwards",
    "two_inputs_two_outputs",
    "shared_layer",
    "siamese_nested",
    "nested_sequential",
    "encoder_decoder",
    "bidirectional_states",
    "bidirectional_of_different_layers",
    "stacked_cells",
    "time_distributed_dense",
    "convolutions",
    "masked_pooling",
    "normalisations",
    "merged_masks",
    "masks_one_after_the_other",
    "attentions",
    "multi_head",
    "masked_multi_head",
    "autoencoder",
    "steps_cut_and_padded",
    "zero_output_for_mask",
)
KERAS = ("siamese_nested", "stacked_cells", "convolutions")
WEIGHTS = ("encoder_decoder", "nested_sequential")


def main():
    for name in sys.argv[1:] or WHOLE:
        tf_keras.backend.clear_session()
        model, inputs = keras_zoo.build(tf_keras, name)
        found = model(inputs if len(inputs) > 1 else inputs[0], training=False)
        outputs = [np.asarray(array) for array in (found if isinstance(found, (list, tuple)) else [found])]
        arrays = {f"in{place}": array for place, array in enumerate(inputs)}
        np.savez_compressed(HERE / f"{name}.npz", **arrays, **{f"out{i}": array for i, array in enumerate(outputs)})
        model.save(HERE / f"{name}.h5", include_optimizer=False)
        if name in KERAS:
            model.save(HERE / f"{name}.keras")
        if name in WEIGHTS:
            model.save_weights(HERE / f"{name}.weights.h5")
            model.save_weights(HERE / f"{name}.only.h5")
            (HERE / f"{name}.json").write_text(model.to_json())


if __name__ == "__main__":
    main()
