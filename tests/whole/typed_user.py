"""A program that uses each public noun, with the types that a checker must see: mypy --strict and pyright pass it.

It is checked, not run: see "make lint".
"""

# pyright: strict

from concurrent.futures import Future
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

import rnncore
from rnncore.decode import Generation, Score

Array = NDArray[Any]
Output = Array | dict[str, Array]


def describe() -> tuple[rnncore.Spec, dict[str, NDArray[np.float32]]]:
    x = rnncore.Input("x", "float", ["B", "T", 8])
    cell = rnncore.cells.LSTM(8, 16)
    layer = rnncore.Recurrent("lstm", cell, "x", layers=2, direction="bidirectional")
    head = rnncore.Node("head", "Linear", ["lstm.last"], {"input_size": 32, "output_size": 4})
    spec = rnncore.Spec([x], [layer, head], ["head"])
    assert_type(spec.inputs, tuple[rnncore.Input, ...])
    return spec, {name: np.zeros(shape, np.float32) for name, shape in spec.weight_shapes().items()}


def call(x: NDArray[np.float32]) -> rnncore.State:
    spec, arrays = describe()
    weights = rnncore.Weights(spec, arrays)
    assert_type(weights["head.weight"], Array)
    model = rnncore.Model(spec, weights, num_threads=1, budget=rnncore.Budget(work=1e9))
    assert_type(model(x), Output)
    assert_type(model(x, lengths=[3]), Output)
    y, state = model(x, None)
    assert_type(y, Output)
    assert_type(state, rnncore.State)
    assert_type(model(x, (state.h, state.c)), tuple[Output, rnncore.State])
    assert_type(model.run({"x": x}), dict[str, Array])
    assert_type(model.run({"x": x}, state), tuple[dict[str, Array], rnncore.State])
    assert_type(model.predict([x[0], x[0, :2]]), list[Output])
    return rnncore.State.from_bytes(state.to_bytes(), model.fingerprint)


def pieces(model: rnncore.Model, chunk: NDArray[np.float32]) -> None:
    with model.stream(lookahead=2) as stream:
        assert_type(stream, rnncore.Stream)
        assert_type(stream.feed(chunk), Output)
        assert_type(stream.finish(), Output)
        assert_type(stream.state, rnncore.State)
    pool = model.pool(100)
    assert_type(pool, rnncore.StreamPool)
    handle = pool.open("ann")
    assert_type(handle, int)
    assert_type(pool.step({"ann": chunk}), dict[str, Output])
    assert_type(pool.step(chunk[None], [handle]), Output)
    with rnncore.Engine(model, max_batch=32) as engine:
        assert_type(engine, rnncore.Engine)
        assert_type(engine.submit(chunk), Future[Output])
        assert_type(engine.submit(chunk, state=None).result(), tuple[Output, rnncore.State])
    with rnncore.StreamEngine(model.pool(10)) as streams:
        assert_type(streams.submit(chunk, stream="ann"), Future[Output])


def files(path: Path) -> rnncore.Model:
    try:
        model = rnncore.load(path, dtype="float64", check=True)
    except rnncore.VerificationError as error:
        raise SystemExit(str(error)) from None
    except (rnncore.FormatError, rnncore.WeightError) as error:
        assert_type(error, rnncore.FormatError | rnncore.WeightError)
        raise
    assert_type(rnncore.save(path, model), Path)
    exported = rnncore.export.from_onnx(path)
    assert_type(exported, rnncore.export.Exported)
    assert_type(exported.spec, rnncore.Spec)
    assert_type(exported.test_pair, rnncore.TestPair | None)
    return rnncore.Model(exported.spec, exported.weights)


def layers(w: NDArray[np.float32], r: NDArray[np.float32], x: Array) -> None:
    for model in (
        rnncore.LSTM(weight_ih=w, weight_hh=r, order="keras"),
        rnncore.GRU(weight_ih=w, weight_hh=r, reset_after=True),
        rnncore.RNN(weight_ih=w, weight_hh=r, direction="reverse"),
    ):
        assert_type(model, rnncore.Model)
    found = rnncore.detect({"weight_ih": w, "weight_hh": r}, x, x)
    assert_type(found, list[rnncore.Dialect])
    assert_type(found[0].model(), rnncore.Model)


def texts(model: rnncore.Model) -> str | None:
    made = rnncore.decode.generate(model, [[1, 2]], 20, temperature=0.7, seed=1)
    assert_type(made, list[Generation])
    assert_type(model.generate(["ab"], 20), list[Generation])
    assert_type(made[0].tokens, NDArray[np.int64])
    scores = model.score([made[0].tokens])
    assert_type(scores, list[Score])
    assert_type(scores[0].perplexity, float)
    return made[0].text
