"""A Spec as JSON: its document written, read and checked.

    {"format": 1, "inputs": [...], "nodes": [{"name": ..., "op": ..., ...}, ...], "outputs": [...], "names": {...}}

Each kind of node reads and writes its own object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rnncore.errors import SpecError, shown
from rnncore.files.strict_json import read_json
from rnncore.graph.limits import MAX_NESTING, more_nodes, most_nodes
from rnncore.graph.nodes import KINDS, GraphNode, Input, Network, Node
from rnncore.graph.nodes.fields import check_keys

__all__ = ["read_spec", "write_spec"]

FORMAT_VERSION = 1


def write_spec(spec: Network) -> dict[str, Any]:
    """The object of a Spec."""
    document = {
        "format": FORMAT_VERSION,
        "inputs": [entry.to_json() for entry in spec.inputs],
        "nodes": [node.to_json() for node in spec.nodes],
        "outputs": list(spec.outputs),
    }
    return {**document, "names": dict(spec.names)} if spec.names else document


def read_spec(make: Callable[..., Network], given: str | bytes | Mapping[str, Any], depth: int = 0) -> Any:
    """``make(inputs, nodes, outputs, names)`` of a JSON text or the object it holds.

    make   makes the Spec, and those of branches, which are read first
    depth  the number of Control nodes around it

    SpecError for unknown or missing keys, another version, and more nodes than are allowed here.
    """
    document = read_json(given, "Spec", SpecError, constants=True) if isinstance(given, (str, bytes)) else given
    check_keys(document, "Spec", {"inputs", "nodes", "outputs"}, {"format", "names"})
    version = document.get("format", FORMAT_VERSION)
    if type(version) is not int or version != FORMAT_VERSION:
        raise SpecError(f"Spec: format {shown(version)}, this version of rnncore reads {FORMAT_VERSION}")
    for key in ("inputs", "nodes", "outputs"):
        if not isinstance(document[key], (list, tuple)):
            raise SpecError(f"Spec: {key} is {type(document[key]).__name__}, expected a list")
    if depth == 0 and _count_nodes(document) > most_nodes():
        count = f"{_count_nodes(document)} nodes besides constants"
        raise SpecError(f"{count}, expected at most {most_nodes()} nodes and layers{more_nodes()}")
    return make(
        tuple(Input.from_json(entry) for entry in document["inputs"]),
        tuple(_read_node(entry, make, depth) for entry in document["nodes"]),
        tuple(document["outputs"]),
        document.get("names", {}),
    )


def _read_node(given: Any, make: Callable[..., Network], depth: int) -> GraphNode:
    """A node of the kind that its op names; any other op is that of a Node."""
    op = given.get("op") if isinstance(given, Mapping) else None

    def read_branch(branch: Any) -> Network:
        if depth == MAX_NESTING:
            raise SpecError(f"node {shown(given.get('name'))}: branches nested more than {MAX_NESTING} deep")
        return read_spec(make, branch, depth + 1)

    kind: type[GraphNode] = KINDS.get(op, Node) if isinstance(op, str) else Node
    return kind.from_json(given, read_branch)


def _count_nodes(document: Any, depth: int = 0) -> int:
    """The number of nodes but Constants of a Spec's JSON, those in branches among them, before any is made."""
    nodes = document.get("nodes") if isinstance(document, Mapping) else None
    if not isinstance(nodes, (list, tuple)) or depth > MAX_NESTING:
        return 0
    inside = [node["branches"] for node in nodes if isinstance(node, Mapping) and "branches" in node]
    branches = (branch for some in inside if isinstance(some, (list, tuple)) for branch in some)
    own = sum(not (isinstance(node, Mapping) and node.get("op") == "Constant") for node in nodes)
    return own + sum(_count_nodes(branch, depth + 1) for branch in branches)
