"""The bits of many networks' outputs, before and after a change that must not move any of them.

    python tests/tools/golden_outputs.py --write FILE
    python tests/tools/golden_outputs.py --compare FILE

Every zoo model, 200 random networks and some that are large enough to be shared among threads: whole sequences, with
one thread and with two, streams and pools, on every instruction set that this machine runs, each in a process of its
own. A line for each output: what it is, and a hash.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import _helpers  # noqa: F401
import numpy as np
from random_networks import random_network
from stream_models import SPECS, make

from rnncore import Input, Model, Node, Recurrent, Spec, load, zoo
from rnncore.cells import GRU, LSTM, RNN
from rnncore.errors import RnncoreError

RANDOM = 200
CELLS = {
    "lstm": LSTM(96, 160),
    "lstm-plain-large": LSTM(300, 320),
    "lstm-projection": LSTM(96, 160, projection=48),
    "lstm-peephole": LSTM(96, 160, peephole=True, clip=1.5),
    "lstm-coupled": LSTM(96, 160, coupled="input"),
    "lstm-norm": LSTM(96, 100, layer_norm="tf1"),
    "gru": GRU(96, 160),
    "gru-before": GRU(96, 160, reset_after=False),
    "gru-activations": GRU(40, 50, activations=("hard_sigmoid_fifth", "sigmoid", "relu6")),
    "rnn": RNN(96, 160, activations=("relu",)),
}


def digest(array):
    array = np.asarray(array)
    return f"{array.dtype} {list(array.shape)} {hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:24]}"


def inputs_of(spec, batch, steps, rng):
    sizes, given = {"B": batch, "T": steps}, {}
    for entry in spec.inputs:
        if entry.optional and entry.name != "lengths":
            continue
        shape = [sizes.setdefault(size, steps) if isinstance(size, str) else size for size in entry.shape]
        if "length" in entry.name:
            given[entry.name] = rng.integers(1, steps + 1, shape)
        elif entry.dtype == "float":
            given[entry.name] = rng.uniform(-1, 1, shape).astype(np.float32)
        else:
            given[entry.name] = rng.integers(0, 2 if entry.dtype == "bool" else 5, shape).astype(entry.dtype)
    return given


def large(kind):
    layers = {"lstm": 3, "gru": 2}.get(kind, 1)
    direction = "bidirectional" if kind in ("lstm-peephole", "gru-before") else "forward"
    cell = CELLS[kind]
    node = Recurrent("r", cell, "x", layers=layers, direction=direction)
    return Spec([Input("x", "float", ("B", "T", cell.input_size))], [node], ["r", *(f"r.{key}" for key in cell.states)])


def convolutional():
    """Convolution, pooling, normalization and recurrence in one graph."""
    nodes = [
        Node("c", "Conv", "x", {"input_size": 12, "output_size": 48, "kernel_shape": [5], "pads": [2, 2]}),
        Node("p", "MaxPool", "c", {"kernel_shape": [2], "strides": [2]}),
        Node("t", "Transpose", "p", {"perm": [0, 2, 1]}),
        Recurrent("r", GRU(48, 64), "t", direction="bidirectional", lengths=None),
        Node("h", "Linear", "r", {"input_size": 128, "output_size": 9}),
    ]
    return Spec([Input("x", "float", ("B", 12, "T"))], nodes, ["r", "h"])


def pieces(model, inputs, steps):
    """Each output of a stream fed in pieces, and of two streams of a pool; nothing where the model does not stream."""
    required = [entry for entry in model.inputs if not entry.optional]
    if model.unstreamable or len(required) != 1:
        return
    x, axis = inputs[required[0].name], required[0].shape.index("T")
    cuts = [0, 1, 3, steps // 2, steps]
    chunks = [np.take(x, range(a, b), axis) for a, b in itertools.pairwise(cuts) if b > a]
    batch = x.shape[required[0].shape.index("B")]
    with model.stream(batch) as stream:
        for at, chunk in enumerate(chunks):
            yield from named(f"stream {at}", stream.feed(chunk))
    pool = model.pool(3)
    ids = [pool.open(), pool.open()]
    rows = [np.take(x, row % batch, required[0].shape.index("B")) for row in (0, 1)]
    for end in (1, 2, steps):
        for id, found in pool.step({id: row[:end] for id, row in zip(ids, rows, strict=True)}).items():
            yield from named(f"pool {end} {ids.index(id)}", found)


def named(what, found):
    if not isinstance(found, dict):
        found = {str(at): array for at, array in enumerate(found if isinstance(found, tuple) else (found,))}
    for key, array in found.items():
        yield f"{what} {key}", array


def results(label, model, inputs, steps=None, state=None):
    """Lines for the outputs of one model."""
    for threads in (1, 2):
        try:
            found = model.run(inputs, num_threads=threads) if state is None else model.run(inputs, state)
            found = found if isinstance(found, tuple) else (found, {})
            for key, array in {**found[0], **found[1]}.items():
                yield f"{label} {threads} {key}", digest(array)
        except RnncoreError as error:
            yield f"{label} {threads}", f"{type(error).__name__}: {error}"
    if steps:
        for what, array in pieces(model, inputs, steps):
            yield f"{label} {what}", digest(array)


def every():
    for name in zoo.models():
        model = load(f"zoo:{name}")
        for batch, steps in ((1, 12), (3, 9), (1, 1)):
            inputs = inputs_of(model.spec, batch, steps, np.random.default_rng(len(name)))
            yield from results(f"zoo {name} {batch} {steps}", model, inputs, steps if steps > 3 else None)
    for seed in range(RANDOM):
        network = random_network(seed)
        for dtype in ("float32", "float64"):
            if dtype == "float64" and network.dtype != dtype:
                continue
            model = Model(network.spec, network.weights, dtype=dtype)
            given = {name: a.astype(dtype) if a.dtype == "f8" else a for name, a in network.inputs.items()}
            yield from results(f"random {seed} {dtype}", model, given)
            if network.state is not None:
                state = {name: array.astype(dtype) for name, array in network.state.items()}
                yield from results(f"random {seed} {dtype} state", model, given, state=state)
    for name, spec in SPECS.items():
        for dtype in ("float32", "float64"):
            model = make(spec, dtype=dtype)
            inputs = inputs_of(spec, 3, 11, np.random.default_rng(5))
            inputs = {key: a.astype(dtype) if a.dtype == "f4" else a for key, a in inputs.items()}
            yield from results(f"stream {name} {dtype}", model, inputs, 11)
    shapes = ((1, 40), (1, 1), (2, 30), (5, 20), (16, 12), (100, 6), (300, 2))
    for kind in CELLS:
        model = make(large(kind))
        for batch, steps in shapes:
            inputs = inputs_of(model.spec, batch, steps, np.random.default_rng(batch))
            yield from results(f"large {kind} {batch} {steps}", model, inputs)
    for batch, steps in ((1, 400), (8, 100), (64, 33)):
        model = make(convolutional())
        inputs = inputs_of(model.spec, batch, steps, np.random.default_rng(batch))
        yield from results(f"conv {batch} {steps}", model, inputs)


def of_every_isa():
    from rnncore.runtime.config import config

    found = {}
    for isa in config()["usable"].split(", "):
        print(f"{isa} ...", file=sys.stderr)
        here = {**os.environ, "RNNCORE_ISA": isa, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "1"}
        done = subprocess.run([sys.executable, __file__], env=here, stdout=subprocess.PIPE, check=True, text=True)
        found[isa] = json.loads(done.stdout)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--compare", type=Path)
    options = parser.parse_args()
    if options.write is None and options.compare is None:
        json.dump(dict(every()), sys.stdout)
        return 0
    found = of_every_isa()
    if options.write is not None:
        options.write.write_text(json.dumps(found, indent=0))
        print(f"{sum(map(len, found.values()))} outputs")
        return 0
    expected = json.loads(options.compare.read_text())
    pairs = [(isa, name) for isa in expected for name in {**expected[isa], **found.get(isa, {})}]
    wrong = [(isa, name) for isa, name in pairs if expected[isa].get(name) != found.get(isa, {}).get(name)]
    for isa, name in wrong[:20]:
        print(f"{isa} {name}: {found.get(isa, {}).get(name)}, expected {expected[isa].get(name)}")
    print(f"{len(pairs) - len(wrong)} of {len(pairs)} outputs have the same bits")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
