"""A loop as one node that holds its body: a Scan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from rnncore.errors import UnsupportedError
from rnncore.export.torch.loops.items import outer_sequence, stored_step
from rnncore.export.torch.loops.leaves import Loop, behind_identities, leaves_of, readers_of
from rnncore.export.torch.loops.replacing import Replacing, getitem, loop_anchor, rejoin

__all__ = ["ScanCall", "Scanned"]


class ScanCall:
    """The call of a torch.fx node in the place of a loop. Its arguments: starts, sequences and captured values.

    carried    positions whose result goes from step to step
    sequences  Leafs of getitem on an outer value: position -> (outer node, axis, offset, slope, keep the axis)
    collected  positions whose results of all steps are used after the loop
    inner      positions that the body computes
    """

    def __init__(
        self,
        loop: Loop,
        carried: Sequence[int],
        sequences: dict[int, Any],
        collected: Sequence[int],
        captured: Sequence[fx.Node],
        inner: Sequence[int],
    ):
        self.loop, self.carried, self.sequences = loop, list(carried), sequences
        self.collected, self.captured, self.inner = list(collected), list(captured), list(inner)
        self.__name__ = self.__qualname__ = "scan"
        self.__module__ = __name__

    def __repr__(self) -> str:
        return f"ScanCall({[str(node.target) for node in self.loop.body]})"

    def __call__(self, *args: Any) -> Any:
        raise AssertionError("its value is known from the trace")


class Scanned(Replacing):
    """A loop as one node with its body: what goes from step to step, what is read step by step, what stays."""

    def replace(self) -> None:
        self._check()
        call, starts = self._call()
        self._check_results(call)
        with self.traced.graph.inserting_after(self.loop.steps[-1][-1]):
            self.anchor = self.traced.graph.create_node("call_function", loop_anchor)
        with self.traced.graph.inserting_before(self.anchor):
            self._insert(call, starts)
        rejoin(self)
        with self.traced.graph.inserting_before(self.anchor):
            self.rewire()
        self.traced.graph.erase_node(self.anchor)

    def _call(self) -> tuple[ScanCall, dict[int, Any]]:
        """The call of the body, and what each carried position starts from."""
        loop = self.loop
        item: Any
        self.stores = {j: item for j in range(len(loop.body)) if (item := self._store_of(j)) is not None}
        inner = [j for j in range(len(loop.body)) if j not in self.stores and j not in loop.aliases]
        sequences = {j: item for j in inner if (item := outer_sequence(self.traced, loop, j)) and self._forward(item)}
        inner = [j for j in inner if j not in sequences]
        leaves = [leaf for j in inner for leaf in leaves_of([loop.args[j], loop.kwargs[j]])]
        starts = {leaf.value: leaf.start for leaf in leaves if leaf.kind == "before"}
        captured = list(dict.fromkeys(leaf.value for leaf in leaves if leaf.kind == "same"))
        collected = list(dict.fromkeys([*self._collected(), *self.stores.values()]))
        return ScanCall(loop, list(starts), sequences, collected, captured, inner), starts

    def _check_results(self, call: ScanCall) -> None:
        """Raises for results that are no tensors, or have no axis to be collected along."""
        for j in (*call.carried, *call.collected):
            node = self.loop.body[j]
            if not isinstance(self.traced.values[node], torch.Tensor):
                raise UnsupportedError(
                    f"{self.traced.places[node]}: {node.name}, which is no tensor, goes from step to step or out of "
                    "the loop, expected tensors"
                )
        for j in call.collected:
            node = self.loop.body[j]
            if self.traced.values[node].ndim == 0:
                raise UnsupportedError(
                    f"{self.traced.places[node]}: {node.name} is one number for each step of a loop over a size, "
                    "expected tensors with a batch"
                )

    def _insert(self, call: ScanCall, starts: dict[int, Any]) -> None:
        """The node of the call, and one for each of its results."""
        loop, values = self.loop, self.traced.values
        results = [values[loop.steps[-1][j]] for j in call.carried]
        # the results of all steps are along axis 1, as in a loop that is vectorized
        results += [torch.stack([values[step[j]] for step in loop.steps], 1) for j in call.collected]
        given = [
            [self.start(j, start) for j, start in starts.items()],
            [source for source, *_ in call.sequences.values()],
            call.captured,
        ]
        node = self.make("call_function", call, *given, value=tuple(results))
        parts = [self.make("call_function", getitem, node, i) for i in range(len(results))]
        self.finals = dict(zip(call.carried, parts, strict=False))
        self.stacked = dict(zip(call.collected, parts[len(call.carried) :], strict=True))
        self.finals |= {j: self.filled(j, self.stacked[item]) for j, item in self.stores.items()}

    def _store_of(self, j: int) -> int | None:
        """The position of the item that a call stores, where nothing but the next step reads the tensor."""
        if stored_step(self.traced, self.loop, j) is None:
            return None
        for i in range(len(self.loop.body)):
            for leaf in leaves_of([self.loop.args[i], self.loop.kwargs[i]]):
                if i != j and i not in self.loop.aliases and leaf.kind in ("now", "before") and leaf.value == j:
                    return None
        final = all(
            self.where.get(behind_identities(self.traced, node), (0, 0)) != (k, j)
            for nodes in readers_of(self.loop).values()
            for node in nodes
            for k in range(self.loop.count - 1)
        )
        return self.loop.args[j][2].value if final else None

    def all(self, j: int) -> fx.Node:
        return self.stacked[j]

    def _check(self) -> None:
        for j, node in enumerate(self.loop.body):
            if j in self.loop.aliases:
                continue
            value = self.traced.values[node]
            if not isinstance(value, (torch.Tensor, tuple, list, int, float)):
                raise UnsupportedError(
                    f"{self.traced.places[node]}: {node.name} in a loop over a size, expected tensor code"
                )

    def _forward(self, taken: tuple) -> bool:
        source, axis, offset, slope, _ = taken
        return (offset, slope) == (0, 1) and self.traced.values[source].shape[axis] == self.loop.count

    def _collected(self) -> list[int]:
        """Positions whose results of more than the last step are used after the loop."""
        positions = []
        for nodes in readers_of(self.loop).values():
            for node in nodes:
                source = behind_identities(self.traced, node)
                k, j = self.where[source] if source in self.where else self.where[node]
                if j in self.stores:
                    continue
                final_only = k == self.loop.count - 1 and len(nodes) < self.loop.count
                if not final_only or not self._is_carried(j):
                    positions.append(j)
        return positions

    def _is_carried(self, j: int) -> bool:
        everything = [*self.loop.args, *self.loop.kwargs]
        return any(leaf.kind == "before" and leaf.value == j for leaf in leaves_of(everything))

    def final(self, j: int) -> fx.Node:
        if j not in self.finals:
            with self.traced.graph.inserting_before(self.anchor):
                self.finals[j] = self.make("call_method", "select", self.stacked[j], 1, -1)
        return self.finals[j]
