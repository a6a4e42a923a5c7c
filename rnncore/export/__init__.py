"""From a live model, or from arrays written by hand, to a Spec and Weights.

    spec, weights = rnncore.export.from_torch(module, example)
    spec, weights = rnncore.export.from_torch([("embed", embed), ("lstm", lstm), ("fc", fc)], ids, take="last")
    spec, weights = rnncore.export.from_keras(model)
    spec, weights = rnncore.export.from_onnx("model.onnx")
    spec, weights = rnncore.export.from_gate_arrays({"W_xi": ..., "W_hi": ..., "b_i": ..., ...}, kind="LSTM")

Each returns an Exported, which also carries a test pair computed by the framework. verify_torch runs a Model and the
module that it came from at several sizes. The frameworks are imported here only, and only when one of these functions
is called.

Decisions

- A Spec's weights are its source's. Scales after a product go into its weights, and what parameters alone decide is
  computed, when a Model is made (`passes.compiled`), not when a network is exported; constants that no checkpoint
  has are in the Spec. A node whose weights a checkpoint has under another name (a module called twice or in a loop,
  a parameter in F.linear) is in the Spec's `names`.
"""

from rnncore.export.exported import Exported
from rnncore.export.from_onnx import from_onnx
from rnncore.export.gate_arrays import from_gate_arrays
from rnncore.export.keras_models import from_keras
from rnncore.export.torch.modules import from_torch, verify_torch

__all__ = ["Exported", "from_gate_arrays", "from_keras", "from_onnx", "from_torch", "verify_torch"]
