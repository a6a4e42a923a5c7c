"""One file per engine that is raced. Each has ``prepare(shape, threads) -> run`` and ``version()``.

``run()`` makes one call on the shape's input and returns the output sequence as (B, T, H * directions). What an
engine does before the first call is not timed, and each gets the layout and the options that suit it best.
"""

from importlib import import_module
from importlib.util import find_spec

# name -> its file, and the package without which it does not run
ENGINES = {
    "rnncore": ("rnncore_engine", "rnncore"),
    "torch": ("torch_eager", "torch"),
    "torch-compiled": ("torch_compiled", "torch"),
    "onnxruntime": ("onnxruntime_engine", "onnxruntime"),
    "onnxruntime-bound": ("onnxruntime_bound", "onnxruntime"),
    "openvino": ("openvino_engine", "openvino"),
    "keras": ("keras_tensorflow", "tensorflow"),
    "tflite": ("tflite", "tensorflow"),
}


def installed() -> list[str]:
    """The engines whose package is here."""
    return [name for name, (_, package) in ENGINES.items() if find_spec(package)]


def load(name: str):
    return import_module(f"engines.{ENGINES[name][0]}")
