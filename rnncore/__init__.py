"""rnncore: recurrent networks from PyTorch and Keras, run on CPUs without the framework.

    model = rnncore.load("tagger.pt", spec=...)       # weights without their framework
    y = model(x)                                      # NumPy in, NumPy out, batch first
    y, state = model(x, state, lengths=lengths)       # state in and out, ragged rows
    y = model.stream().feed(x)                        # keeps its state; model.pool(1000): many of them together
    ys = model.predict(sequences, batch_size=256)     # many sequences of any lengths
    net = rnncore.LSTM(weight_ih=w, weight_hh=r, bias=b, order="keras")  # one layer from raw arrays
    spec, weights = rnncore.export.from_torch(module) # where the framework is: Spec and Weights with a test pair

The packages, from the bottom up; each imports only those above it in this list:

    errors       every error, as a tree
    files        files and text from outside, read strictly
    kernels      compiled code: the time loop
    cells, ops   the vocabulary: recurrent cells and the ops around them
    graph        Spec: the network;  Weights: its arrays;  TestPair: its proof
    passes       an equal network with less work
    runtime      Model: a Spec compiled and run;  State: the values it carries;  Budget: the most that a call may do
    conventions  one layer from raw arrays: RNN, LSTM, GRU;  detect: which convention raw arrays follow
    formats      one file or folder per file format;  load, save, convert;  replaying a test pair
    streaming    over a sequence that arrives in pieces: Stream, StreamPool
    decode       generate, score, CTC
    engine       requests from many callers in batches: Engine, StreamEngine
    export       from live PyTorch and Keras models and from ONNX files
    zoo          trained models that come with the package
    batch        files of any size, in shards that survive;  BatchPredictor for clusters
    serve        a service over HTTP and gRPC (imported by itself: extra "serve")
    cli          the command line
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rnncore import cells
from rnncore._version import __version__
from rnncore.cells import Activation
from rnncore.conventions.layers import GRU, LSTM, RNN
from rnncore.errors import (
    DeadlineError,
    EngineClosedError,
    EngineError,
    FormatError,
    InputError,
    MissingFileError,
    MissingPackageError,
    QueueFullError,
    RnncoreError,
    SpecError,
    StateError,
    StreamError,
    UnsupportedError,
    VerificationError,
    WeightError,
)
from rnncore.graph.nodes import AttentionDecoder, Control, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.graph.test_pair import TestPair
from rnncore.graph.weights import Weights
from rnncore.runtime.budget import Budget
from rnncore.runtime.config import show_config
from rnncore.runtime.extensions import register
from rnncore.runtime.model import Model
from rnncore.runtime.state import State

if TYPE_CHECKING:
    from rnncore import decode, export
    from rnncore.conventions.detect import Dialect, detect
    from rnncore.engine.engine import Engine, StreamEngine
    from rnncore.formats.loading import convert, load, save
    from rnncore.streaming.pool import StreamPool
    from rnncore.streaming.stream import Stream

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activation",
    "AttentionDecoder",
    "Budget",
    "Control",
    "DeadlineError",
    "Dialect",
    "Engine",
    "EngineClosedError",
    "EngineError",
    "FormatError",
    "Input",
    "InputError",
    "MissingFileError",
    "MissingPackageError",
    "Model",
    "Node",
    "QueueFullError",
    "Recurrent",
    "RnncoreError",
    "Spec",
    "SpecError",
    "State",
    "StateError",
    "Stream",
    "StreamEngine",
    "StreamError",
    "StreamPool",
    "TestPair",
    "UnsupportedError",
    "VerificationError",
    "WeightError",
    "Weights",
    "__version__",
    "cells",
    "convert",
    "decode",
    "detect",
    "export",
    "load",
    "save",
    "show_config",
]

# Packages that running a model does not need: imported when one of their names is asked for, so that a program starts
# sooner. name -> its module; a public module is its own value.
_LATER = {
    "decode": "rnncore.decode",
    "export": "rnncore.export",
    "formats": "rnncore.formats",
    **dict.fromkeys(("Dialect", "detect"), "rnncore.conventions.detect"),
    **dict.fromkeys(("Engine", "StreamEngine"), "rnncore.engine"),
    **dict.fromkeys(("convert", "load", "save"), "rnncore.formats.loading"),
    "Stream": "rnncore.streaming.stream",
    "StreamPool": "rnncore.streaming.pool",
}
# Methods of Model that need such a package.
register(
    {
        "generate": ("rnncore.decode", "generate"),
        "over_time": ("rnncore.streaming.over_time", "over_time"),
        "pool": ("rnncore.streaming.pool", "pool"),
        "score": ("rnncore.decode", "score"),
        "stream": ("rnncore.streaming.stream", "stream"),
        "unstreamable": ("rnncore.streaming.program", "unstreamable"),
    }
)


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(_LATER[name])
    value = module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
