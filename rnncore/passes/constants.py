"""Values that depend on no input are computed once."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, cast

import numpy as np

from rnncore.errors import SpecError
from rnncore.graph.nodes import Node
from rnncore.ops import OPS, Value, numpy_dtype
from rnncore.ops.work import Cost, cost, value_of
from rnncore.passes.graph import Graph, is_constant

__all__ = ["Folding", "fold_constants", "fold_parameters"]

MAX_ELEMENTS = 1 << 20
"""Larger results stay to be computed: a few bytes may ask for any number of elements."""

MAX_PARAMETER = 64
MAX_WRITTEN = 4096

MOST_WORK = 1 << 26
MOST_MEMORY = 64 << 20


class Folding:
    """The work and the bytes that computing the constants of one file may take, in all."""

    def __init__(self, work: int = MOST_WORK, memory: int = MOST_MEMORY):
        self.work, self.memory = work, memory

    def affords(self, call: Cost) -> bool:
        """Whether a call of this cost is within what is left, which then is less by it."""
        if call.work > self.work or call.memory > self.memory:
            return False
        self.work -= call.work
        self.memory -= call.memory
        return True


def fold_constants(graph: Graph) -> None:
    """Replace by a Constant each node that reads only Constants, or whose content is known from shapes alone."""
    constants = graph.constants()
    nodes, arrays, done = [], {}, 0
    made: list[Any] = [node for node in graph.spec.nodes if is_constant(node)]
    written = {node.name for node in made if node.attributes["value"] is not None}
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        array = _computed(node, graph, constants) if node.op in OPS and not is_constant(node) else None
        if array is None:
            nodes.append(node)
            continue
        constants[node.name] = array
        value = graph.values[node.name]
        attributes = {"dtype": value.dtype, "shape": array.shape}
        sizes = value.dtype in ("int32", "int64") and array.ndim <= 1 and 0 < array.size <= MAX_PARAMETER
        if sizes or (set(node.reads) <= written and _can_be_written(array)):
            written.add(node.name)
            attributes["value"] = tuple(array.reshape(-1).tolist())  # so that sizes which it is part of stay known
        else:
            arrays[f"{node.name}.value"] = array
        nodes.append(Node(node.name, "Constant", (), attributes))
        done += 1
    graph.update(nodes, {"folded constants": done}, arrays)


def _can_be_written(array: np.ndarray) -> bool:
    """Whether a constant made of the Spec's own may be in the Spec, and need not be a weight."""
    return 0 < array.size <= MAX_WRITTEN and not (array.dtype.kind == "f" and np.isnan(array).any())


def _computed(node: Node, graph: Graph, constants: dict[str, np.ndarray]) -> np.ndarray | None:
    if len(node.names) > 1:
        return None
    value = graph.values[node.name]
    if value.data is None and not (node.reads and all(name in constants for name in node.reads)):
        return None
    if node.weight_shapes():
        return None
    if value.data is not None and all(not isinstance(item, str) for item in value.data):
        return np.array(value.data, numpy_dtype(value.dtype)).reshape(cast("tuple[int, ...]", value.shape))
    if not node.reads or not all(name in constants for name in node.reads) or not _small(value):
        return None
    arrays = [constants[name] if name else None for name in node.inputs]
    given = [None if array is None else value_of(array, graph.values[name].dtype)
             for name, array in zip(node.inputs, arrays, strict=True)]  # fmt: skip
    try:
        wanted = cost(OPS[node.op], node.attributes, given)
    except SpecError:  # what the contents contradict is said when it runs
        return None
    if not graph.folding.affords(wanted):
        return None
    with np.errstate(all="ignore"):
        array = OPS[node.op].run(node.attributes, {}, *arrays)
    array = array[0] if isinstance(array, (tuple, list)) else array
    return np.asarray(array) if array.size <= MAX_ELEMENTS else None


def _small(value: Value) -> bool:
    shape: tuple[Any, ...] = value.shape
    return all(isinstance(size, int) for size in shape) and math.prod(shape) <= MAX_ELEMENTS


def fold_parameters(graph: Graph) -> None:
    """Make an attribute of each parameter (axes, shape, starts ...) that is a small Constant."""
    constants = graph.constants()
    nodes, done = [], 0
    node: Any  # which kind it is, its op says
    for node in graph.spec.nodes:
        parameters = OPS[node.op].parameters if node.op in OPS else {}
        inputs, attributes = list(node.inputs) if parameters else [], {}
        for name, position in parameters.items():
            array = constants.get(inputs[position]) if position < len(inputs) else None
            if array is not None and array.ndim <= 1 and array.size <= MAX_PARAMETER:
                attributes[name] = _plain(array)
                inputs[position] = ""
        if attributes:
            while inputs and inputs[-1] == "":
                inputs.pop()
            node = Node(node.name, node.op, tuple(inputs), {**node.attributes, **attributes})
            done += len(attributes)
        nodes.append(node)
    graph.update(nodes, Counter({"parameters made attributes": done}))


def _plain(array: np.ndarray) -> Any:
    value = array.tolist()
    return tuple(value) if isinstance(value, list) else value
