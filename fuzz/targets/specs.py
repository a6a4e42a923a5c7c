"""Random Specs over all ops, cells and control nodes: compiled, and run with random shapes."""

from __future__ import annotations

import json
import random

from draw import Draw
from mutate import change_json

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
    outputs = model.run(given)
    outputs = outputs[0] if isinstance(outputs, tuple) else outputs
    check_declared(model, given, outputs)
    again = model.run(given)
    same(outputs, again[0] if isinstance(again, tuple) else again, "a second run")
    return sum(array.nbytes for array in weights.values()) + 64 * graph_bytes(graph, outputs)


def graph_bytes(graph: Graph, outputs) -> int:
    """Bytes of the values whose sizes are known, and of the outputs."""
    return 8 * sum(map(graph.elements, graph.values.values())) + sum(array.nbytes for array in outputs.values())
