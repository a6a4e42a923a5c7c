"""One file per engine that is raced. Each has ``prepare(shape, threads) -> run`` and ``version()``.

``run()`` makes one call on the shape's input and returns the output sequence as (B, T, H * directions). What an
engine does before the first call is not timed, and each gets the layout and the options that suit it best.
"""

from importlib import import_module

ENGINES = {
    "rnncore": "rnncore_engine",
    "torch": "torch_eager",
    "torch-compiled": "torch_compiled",
    "onnxruntime": "onnxruntime_engine",
    "onnxruntime-bound": "onnxruntime_bound",
    "openvino": "openvino_engine",
}


def load(name: str):
    return import_module(f"engines.{ENGINES[name]}")
