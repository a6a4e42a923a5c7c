"""A loop over steps that is no loop of cells, as a Scan: its body is lowered once, into a Spec of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rnncore.errors import SpecError, UnsupportedError
from rnncore.export.torch.loops.leaves import Leaf, leaves_of
from rnncore.export.torch.loops.scanned import ScanCall
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import Size, TracedTensor
from rnncore.graph.nodes import Control, Input
from rnncore.graph.spec import Spec

__all__ = ["lower_scan"]


def lower_scan(
    g: TraceLowering, starts: list[Any], sources: list[Any], captured: list[Any], lower: Callable
) -> tuple[Any, ...]:
    """The values after the last step, and those of all steps, stacked on axis 1."""
    body = _Body(g, g.node.target, g.other.target)
    body.add_states(starts)
    body.add_sequences(sources)
    body.add_captured(captured)
    spec, weights = body.lowered(lower)
    name = g.fresh("loop")
    captures = [entry.name for entry in body.entries if entry.name in body.captures]
    node = Control(
        name,
        "Scan",
        (*body.states, *body.sequences, *(body.captures[entry] for entry in captures)),
        (spec,),
        captures=tuple(captures),
        sequences=len(body.sequences),
        axes=tuple(body.axes),
        output_axes=(1,) * len(body.call.collected),
    )
    inside = {f"{name}.body.{key}": source for key, source in body.sources.items()}
    g.add(node, {f"body.{key}": array for key, array in weights.items()}, inside)
    return tuple(g.named(output, g.a[i], g.b[i]) for i, output in enumerate(node.names))


class _Body:
    """The body of a loop under construction: its inputs, and what they are outside."""

    def __init__(self, g: TraceLowering, one: ScanCall, two: ScanCall):
        self.g, self.call, self.other = g, one, two
        self.entries: list[Input] = []
        self.states: list[str] = []
        self.sequences: list[str] = []
        self.axes: list[int] = []
        self.captures: dict[str, str] = {}
        self.carried: dict[int, TracedTensor] = {}
        self.items: dict[int, TracedTensor] = {}
        self.outer: dict[Any, Any] = {}
        self.counter: TracedTensor | None = None
        self.sources: dict[str, str] = {}

    def _entry(self, name: str, dtype: str, shape: tuple[Any, ...]) -> str:
        self.entries.append(Input(name, dtype, tuple(size if size else "?" for size in shape)))
        return name

    def _values(self, j: int, step: int = 1) -> tuple[Any, Any]:
        """A result of the body in both traces."""
        first, second = self.g.first.values, self.g.second.values
        return first[self.call.loop.steps[step][j]], second[self.other.loop.steps[step][j]]

    def add_states(self, starts: list[Any]) -> None:
        for i, (j, start) in enumerate(zip(self.call.carried, starts, strict=True)):
            a, b = self._values(j, 0)
            outside = self.g.tensor(start)
            self.states.append(self.g.cast(outside, a.dtype))
            shape = self.g.values[self.states[-1]].shape
            self.carried[j] = TracedTensor(self._entry(f"state_{i}", self.g.spec_dtype(a.dtype), shape), a, b)

    def add_sequences(self, sources: list[Any]) -> None:
        for i, (j, source) in enumerate(zip(self.call.sequences, sources, strict=True)):
            _, axis, _, _, keep = self.call.sequences[j]
            outside = self.g.name_of(self.g.tensor(source))
            value = self.g.values[outside]
            a, b = self._values(j)
            if keep:
                a, b = a.squeeze(axis), b.squeeze(axis)
            shape = (*value.shape[:axis], *value.shape[axis + 1 :])
            self.items[j] = TracedTensor(self._entry(f"item_{i}", value.dtype, shape), a, b)
            self.sequences.append(outside)
            self.axes.append(axis)
        if self._counts() or not self.sequences:
            self._add_counter()

    def _counts(self) -> bool:
        """Whether the body reads the number of its step."""
        loop = self.call.loop
        arguments = [[loop.args[j], loop.kwargs[j]] for j in self.call.inner]
        return any(leaf.kind == "index" for leaf in leaves_of(arguments))

    def _add_counter(self) -> None:
        """The numbers of the steps as one more sequence."""
        g, steps = self.g, (self.call.loop.count, self.other.loop.count)
        count = steps[0] if steps[0] == steps[1] else g.size_like(*steps)
        numbers = g.emit("Range", [g.scalar(0), g.scalar(count), g.scalar(1)], name="steps")
        self.sequences.append(numbers)
        self.axes.append(0)
        self.counter = TracedTensor(self._entry("step", "int64", ()), torch.tensor(1), torch.tensor(1))

    def add_captured(self, captured: list[Any]) -> None:
        for i, (node, outer) in enumerate(zip(self.call.captured, captured, strict=True)):
            if isinstance(outer, TracedTensor) and outer.constant and not outer.computed:
                self.outer[node] = TracedTensor(
                    None, outer.a, outer.b, label=outer.label, constant=True, static=True, trained=outer.trained
                )
            elif isinstance(outer, (TracedTensor, Size)):
                whole = isinstance(outer, TracedTensor)
                outside = self.g.name_of(outer) if isinstance(outer, TracedTensor) else self.g.size_value(outer)
                value = self.g.values[outside]
                name = self._entry(f"outer_{i}", value.dtype, value.shape)
                self.captures[name] = outside
                a, b = (outer.a, outer.b) if whole else (torch.tensor([outer.a]), torch.tensor([outer.b]))
                inside = TracedTensor(name, a, b)
                self.outer[node] = inside if whole else Size(outer.a, outer.b, ("item", inside))
            elif isinstance(outer, (int, float, bool, str, type(None))):
                self.outer[node] = outer
            else:
                raise UnsupportedError(
                    f"{self.g.place}: a loop over a size reads a {type(outer).__name__}, expected tensors and numbers"
                )

    def lowered(self, lower: Callable) -> tuple[Spec, dict[str, Any]]:
        """The body's Spec and weights."""
        sub = self.g.inside(self.entries)
        for tensor in (*self.carried.values(), *self.items.values(), *self.outer.values()):
            if isinstance(tensor, TracedTensor):
                sub.shape(tensor)
        loop, results = self.call.loop, {}
        for j in sorted((*self.items, *self.call.inner), key=lambda j: (j not in self.items, j)):
            node = loop.body[j]
            sub.node, sub.other, sub.place = node, self.other.loop.body[j], self.g.first.places[node]
            sub.a, sub.b = self._values(j)
            if j in self.items:
                keep, axis = self.call.sequences[j][4], self.call.sequences[j][1]
                item = self.items[j]
                results[j] = sub.out(sub.emit("Unsqueeze", [item], {"axes": (axis,)})) if keep else item
                continue
            args = self._arguments(sub, results, loop.args[j], self.other.loop.args[j])
            kwargs = self._arguments(sub, results, loop.kwargs[j], self.other.loop.kwargs[j])
            results[j] = lower(sub, node, list(args), kwargs)
        self.g.notes.extend(sub.notes)
        names: list[str] = []
        for j in (*self.call.carried, *self.call.collected):
            name = sub.name_of(results[j])
            if name in names or name in {entry.name for entry in self.entries}:
                sub.node = None
                name = sub.emit("Identity", [name], name="output")
            names.append(name)
        try:
            spec = sub.graph.build(names)
        except SpecError as error:
            raise UnsupportedError(f"{self.g.place}: {error}") from None
        self.sources = sub.sources
        return spec, {name: sub.graph.weights[name] for name in spec.weight_shapes()}

    def _arguments(self, sub: TraceLowering, results: dict[int, Any], one: Any, two: Any) -> Any:
        if isinstance(one, Leaf):
            return self._leaf(sub, results, one, two)
        if isinstance(one, slice):
            parts = [(getattr(one, key), getattr(two, key)) for key in ("start", "stop", "step")]
            return slice(*(self._arguments(sub, results, *pair) for pair in parts))
        if isinstance(one, dict):
            return {key: self._arguments(sub, results, one[key], two[key]) for key in one}
        return type(one)(self._arguments(sub, results, a, b) for a, b in zip(one, two, strict=True))

    def _leaf(self, sub: TraceLowering, results: dict[int, Any], one: Leaf, two: Leaf) -> Any:
        if one.kind == "same":
            return self.outer[one.value]
        if one.kind == "now":
            return results[one.value]
        if one.kind == "before":
            return self.carried[one.value]
        if one.kind == "index":
            offset = one.value if one.value == two.value else sub.size_like(one.value, two.value)
            step = Size(1, 1, ("item", self.counter))
            return sub.compute("add", sub.compute("mul", step, one.slope), offset)
        return sub.pair(one.value, two.value)
