"""ONNX files: bytes -> Spec and Weights, or a Listing of what they hold.

wire.py         the bytes, before protobuf sees them
file.py         the checked model: arrays, nodes, functions put in place of their calls
external.py     weights in files next to the model
versions.py     nodes of older opsets in the vocabulary of the newest;  contributed.py  those of com.microsoft
entries.py      what a name of the file may stand for
graph.py        a graph of the file -> a Spec
nodes.py        one node, by its kind: attributes.py, folding.py (constants), products.py (nodes that own weights),
                directions.py (what is around recurrent nodes), recurrent.py (RNN, LSTM, GRU), control.py (If, Loop,
                Scan), sequences.py (sequences of tensors), reference.py (rare ops);  support.py  which ops there are
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rnncore.errors import FormatError, RnncoreError, SpecError, UnsupportedError
from rnncore.files.cursor import Cursor, shown
from rnncore.formats._arrays import WIDENED
from rnncore.formats.listing import ListedNode, Listing
from rnncore.formats.native import ModelFile
from rnncore.formats.onnx import nodes
from rnncore.formats.onnx.entries import Missing
from rnncore.formats.onnx.file import OnnxGraph, OnnxModel, OnnxNode, read_model
from rnncore.formats.onnx.graph import GraphLowering, Shared
from rnncore.graph.weights import Weights, memory_of

__all__ = ["listing", "read"]


def read(cursor: Cursor, sizes: Mapping[str, int] | None = None) -> ModelFile:
    """The network of an ONNX file. UnsupportedError names the first node, op and attribute that is not supported.

    sizes: name of a size of its inputs -> its value. A file whose only floating type is float64 computes in it.
    """
    model = read_model(cursor)
    shared = _shared(model)
    lowering = GraphLowering(model.graph, shared)
    lowering.define(model.graph.inputs, sizes or {})
    lowering.run()
    try:
        spec, arrays, notes = lowering.spec()
        weights = Weights(spec, arrays)
    except RnncoreError as error:
        raise type(error)(str(error) if cursor.place in str(error) else f"{cursor.place}: {error}") from None
    dtype = "float64" if shared.floating == np.float64 else "float32"
    return ModelFile(spec, weights, notes=(*_notes(model), *notes), dtype=dtype)


def listing(cursor: Cursor) -> Listing:
    """Every node of an ONNX file, and what is not supported."""
    model = read_model(cursor)
    shared = _shared(model, problems=[])
    lowering = GraphLowering(model.graph, shared)
    problem = None
    try:
        lowering.define(model.graph.inputs, {})
        lowering.run()
        if not shared.problems:
            lowering.spec()
    except (FormatError, UnsupportedError, SpecError, Missing) as error:
        problem = str(error).removeprefix(f"{cursor.place}: ")
    problems = {id(node): str(error).removeprefix(f"{cursor.place}: ") for node, error in shared.problems or ()}
    facts = {"opset": ", ".join(f"{shown(domain or 'ai.onnx')} {version}" for domain, version in model.opsets.items())}
    facts["IR version"] = str(model.ir_version)
    if model.producer:
        facts["producer"] = model.producer
    return Listing(
        cursor.place,
        "ONNX",
        tuple(_listed(node, problems) for node in _nodes(model.graph)),
        {shown(value.name): str(value) for value in model.graph.inputs},
        {shown(value.name): str(value) for value in model.graph.outputs},
        facts,
        problem,
    )


def _shared(model: OnnxModel, problems: list | None = None) -> Shared:
    """Floating types: "float" where there is only one, else float32; the others as they are."""
    floats = {"float32" if name in WIDENED else name for name in model.floats}
    main = next(iter(floats)) if len(floats) == 1 else "float32"
    dtypes = {name: "float" if name == main else name for name in ("float16", "float32", "float64")}
    return Shared(model.path, dtypes, main, _declared(model.graph), nodes.lower, problems)


def _declared(graph: OnnxGraph) -> int:
    """Bytes of all constants; those that several nodes name count once."""
    sizes = {memory_of(array): array.nbytes for array in _arrays(graph)}
    return sum(sizes.values())


def _arrays(graph: OnnxGraph) -> Iterator[np.ndarray]:
    yield from graph.constants.values()
    for node in graph.nodes:
        yield from (value for value in node.attributes.values() if isinstance(value, np.ndarray))
        for inner in node.graphs:
            yield from _arrays(inner)


def _notes(model: OnnxModel) -> Iterator[str]:
    yield from model.notes
    widened = sorted(model.floats & WIDENED.keys())
    yield from (f"{name} values are float32" for name in widened)
    if not widened and model.floats == {"float16"}:
        yield "the file computes in float16; here the model's dtype takes its place"


def _nodes(graph: OnnxGraph) -> Iterator[OnnxNode]:
    for node in graph.nodes:
        yield node
        for inner in node.graphs:
            yield from _nodes(inner)


def _listed(node: OnnxNode, problems: Mapping[int, str]) -> ListedNode:
    kind = f"{node.domain}.{node.op}" if node.domain else node.op
    options = ", ".join(f"{shown(key)}={_text(value)}" for key, value in node.attributes.items())
    reads = tuple(shown(name) for name in node.inputs)
    return ListedNode(node.place, shown(node.name), shown(kind), reads, options, problems.get(id(node)))


def _text(value: Any) -> str:
    if isinstance(value, OnnxGraph):
        return f"a graph of {len(value.nodes)} nodes"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}" if value.size > 8 else str(value.tolist())
    return shown(str(value), 60)
