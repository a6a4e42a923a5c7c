"""Random Specs over all ops, cells and control nodes: compiled, and run with random shapes."""

from __future__ import annotations

import json
import random

import numpy as np
from draw import Draw
from mutate import change_json
from outcome import WrongResult

from rnncore.errors import RnncoreError
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model
from targets._files import BUDGET
from targets._graphs import Graph, drawn_graph, mutate, seeds
from targets._runs import check_declared, inputs_of, same, weights_of

__all__ = ["mutate", "run", "seeds"]


def run(data: bytes) -> int:
    """A graph of one to eight nodes; one time in three its JSON changed. The result has the declared shapes, and is
    the same the second time. Returns the bytes that the Spec declares."""
    draw = Draw(data)
    graph = drawn_graph(draw, 8)
    spec = graph.spec()
    if spec is None:
        return 0
    text = json.dumps(spec.to_json())
    if draw.chance(3):
        spec = Spec.from_json(json.dumps(change_json(json.loads(text), random.Random(draw.below(1 << 16)))))
    elif json.dumps(Spec.from_json(text).to_json()) != text:
        raise AssertionError(f"JSON of a Spec changes when it is read: {text}")
    dtype = "float32" if not draw.chance(4) else "float64"
    weights = weights_of(spec, draw.rng())
    if weights is None:
        return 0
    model = Model(spec, weights, dtype, num_threads=draw.pick((1, 2)), budget=BUDGET)
    given = inputs_of(spec, draw, graph.sizes, dtype)
    outputs = outputs_of(model, given)
    check_declared(model, given, outputs)
    same(outputs, outputs_of(model, given), "a second run")  # which makes a binding
    check_bound(model, given, draw.rng())
    return sum(array.nbytes for array in weights.values()) + 64 * graph_bytes(graph, outputs)


def outputs_of(model: Model, given) -> dict:
    outputs = model.run(given)
    return outputs[0] if isinstance(outputs, tuple) else outputs


def unbound(model: Model, given) -> dict | RnncoreError:
    """The same by the model's steps alone; the error where they raise one."""
    program, model._program = model._program, None
    try:
        return outputs_of(model, given)
    except RnncoreError as error:
        return error
    finally:
        model._program = program


def others(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Other content of the same kind: integers are the same ones elsewhere."""
    if array.dtype.kind == "f":
        return (rng.standard_normal(array.shape) * rng.choice([0.3, 1, 5])).astype(array.dtype)
    if array.dtype.kind == "b":
        return rng.integers(0, 2, array.shape).astype(np.bool_)
    return rng.permutation(array.flatten()).reshape(array.shape)


def check_bound(model: Model, given, rng: np.random.Generator) -> None:
    """WrongResult unless a call of sizes that came before gives what the steps give, for other contents too."""
    changed = {name: others(array, rng) for name, array in given.items()}
    expected = unbound(model, changed)
    try:
        outputs = outputs_of(model, changed)
    except RnncoreError as error:
        if str(error) != str(expected):
            raise
    else:
        if isinstance(expected, RnncoreError):
            raise WrongResult(f"a bound run gives a result, expected {expected!r}")
        same(expected, outputs, "a bound run")


def graph_bytes(graph: Graph, outputs) -> int:
    """Bytes of the values whose sizes are known, and of the outputs."""
    return 8 * sum(map(graph.elements, graph.values.values())) + sum(array.nbytes for array in outputs.values())
