"""Nodes that nothing reads are left out."""

from __future__ import annotations

from rnncore.passes.graph import Graph

__all__ = ["remove_dead"]


def remove_dead(graph: Graph) -> None:
    """Leave out nodes none of whose values reaches an output."""
    live = set(graph.spec.outputs)
    kept, done = [], 0
    for node in reversed(graph.spec.nodes):
        if live.isdisjoint(node.names):
            done += 1
            continue
        live.update(node.reads)
        kept.append(node)
    graph.update(kept[::-1], {"left out nodes that nothing reads": done})
