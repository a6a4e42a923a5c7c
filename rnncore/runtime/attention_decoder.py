"""Running an AttentionDecoder: the loop over time, because every step's attention enters the next product."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from rnncore.errors import InputError
from rnncore.graph.nodes import AttentionDecoder
from rnncore.kernels import _recurrent
from rnncore.ops import OPS
from rnncore.ops.attention import attend, valid_steps, without_padding
from rnncore.runtime.arguments import accept_lengths
from rnncore.runtime.packing import LayerStack, packed_weights
from rnncore.runtime.state import State

__all__ = ["DecoderStep"]


class DecoderStep:
    """Runs one AttentionDecoder node: its equations are in the node's docstring.

    stack holds the packed cells, weights what AttentionDecoder.own_shapes names, in the model's dtype. The
    memory is projected once a call, or once for many calls: see prepare. Rows are sorted by length, so that those still
    running are always the first n.
    """

    def __init__(
        self,
        node: AttentionDecoder,
        stack: _recurrent.Stack | LayerStack,
        weights: dict[str, np.ndarray],
        dtype: np.dtype,
        threads: int,
    ):
        self.node, self.stack, self.dtype, self.threads = node, stack, dtype, threads
        self.label = f"node {node.name!r}"
        self.packed = packed_weights(node, stack)
        self.scoring = node.scoring
        self.scoring_weights = {
            key.removeprefix("attention."): array for key, array in weights.items() if key.startswith("attention.")
        }
        self.project_query = self._product(self.scoring.query_weight(self.scoring_weights), None)
        self.project_keys = self._product(*self.scoring.key_weight(self.scoring_weights))
        self.attentional = self._product(weights.get("attentional.weight"), weights.get("attentional.bias"))
        self.prepared_key = (node.name, "memory")

    def _product(self, weight: np.ndarray | None, bias: np.ndarray | None):
        """x -> x W^T + b, packed where that runs; None without a weight."""
        if weight is None:
            return None
        sizes = {"input_size": weight.shape[1], "output_size": weight.shape[0], "bias": bias is not None}
        own = {"weight": np.ascontiguousarray(weight), **({} if bias is None else {"bias": bias})}
        return OPS["Linear"].compiled(sizes, own, self.threads)

    def __call__(self, values: dict[str, Any], before: State | None, after: dict[str, np.ndarray]) -> None:
        node = self.node
        x = values[node.input]
        batch, steps = x.shape[:2]
        lengths = self._lengths(values, batch, steps)
        states = self._initial(values, before, batch)
        memory, keys, valid = cast("dict[Any, Any]", values).get(self.prepared_key) or self.prepare(values, batch)
        ragged = bool((lengths < steps).any())
        if ragged:
            order = np.argsort(-lengths, kind="stable")
            x, memory, keys, lengths = x[order], memory[order], keys[order], lengths[order]
            valid = None if valid is None else valid[order]
            states = {key: array.take(order, axis=1) for key, array in states.items()}
        sizes = {"": node.output_size, ".context": node.memory_size, ".weights": memory.shape[1]}
        new = np.zeros if ragged else np.empty
        results = {ending: new((batch, steps, size), self.dtype) for ending, size in sizes.items()}
        for t in range(steps):
            n = int(np.searchsorted(-lengths, -t)) if ragged else batch  # rows longer than t
            if n == 0:
                break
            if n < batch:
                part = memory[:n], keys[:n], None if valid is None else valid[:n]
                running = {key: np.ascontiguousarray(array[:, :n]) for key, array in states.items()}
                outputs, new = self._step(x[:n, t], running, *part)
                for key, array in new.items():
                    states[key][:, :n] = array
            else:
                outputs, states = self._step(x[:, t], states, memory, keys, valid)
            for array, step in zip(results.values(), outputs, strict=True):
                array[:n, t] = step
        if ragged:
            back = np.argsort(order)
            states = {key: array.take(back, axis=1) for key, array in states.items()}
            results = {ending: array[back] for ending, array in results.items()}
        values.update({node.name + ending: array for ending, array in results.items()})
        for key, array in states.items():
            values[f"{node.name}.{key}"] = after[f"{node.name}.{key}"] = array

    def _step(self, x, states, memory, keys, valid):
        """One step of n rows, x (n, I): (o, v, a), and the new states."""
        if self.node.order == "before":
            context, weights = self._attend(states["h"][-1], memory, keys, valid)
            top, new = self._cells(np.concatenate([x, context], axis=1), states)
            return (self._output(context, top), context, weights), new
        top, new = self._cells(np.concatenate([x, states["feed"][0]], axis=1), states)
        context, weights = self._attend(top, memory, keys, valid)
        output = self._output(context, top)
        new["feed"] = (context if self.attentional is None else output)[None]
        return (output, context, weights), new

    def _attend(self, query, memory, keys, valid):
        """v (n, K) and a (n, Tk) for a query (n, H)."""
        query = query if self.project_query is None else self.project_query(query)
        context, weights = attend(self.scoring.compare(self.scoring_weights, query[:, None], keys), memory, valid)
        return context[:, 0], weights[:, 0]

    def _cells(self, z, states):
        """Every layer's step: its output h (n, H) of the last one, and the new states (layers, n, size)."""
        new = {key: np.empty_like(states[key]) for key in self.node.cell.states}
        self.stack.run(
            np.ascontiguousarray(z[:, None]), None, "set", "set", False, False, None, None, None,
            tuple(states[key] for key in new), tuple(new.values()), self.threads,
        )  # fmt: skip
        return new["h"][-1], new

    def _output(self, context, top):
        """o = tanh(W [v; s] + b), or s."""
        if self.attentional is None:
            return top
        z = self.attentional(np.concatenate([context, top], axis=1))
        return np.tanh(z, out=z)

    def _lengths(self, values, batch, steps) -> np.ndarray:
        name = self.node.lengths
        if name is None or values[name] is None:
            return np.full(batch, steps)
        accept_lengths(name, values[name], batch, steps)
        return values[name]

    def prepare(self, values: dict[str, Any], batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The memory without its padding, its projected keys, and which of its steps are valid (None: all).

        Who calls a step many times with one memory may put this under ``prepared_key`` into the values of each call.
        """
        node = self.node
        memory = values[node.memory]
        if len(memory) != batch:
            raise InputError(
                f"node {node.name!r}: memory of {len(memory)} rows, expected {batch}, as {node.input!r} has"
            )
        mask = values[node.memory_mask] if node.memory_mask is not None else None
        valid = valid_steps(f"node {node.name!r}: memory_mask {node.memory_mask!r}", mask, *memory.shape[:2])
        memory = without_padding(memory, valid)
        if node.keys is None:
            return memory, memory if self.project_keys is None else self.project_keys(memory), valid
        keys = values[node.keys]
        if keys.shape[:2] != memory.shape[:2]:
            expected = (*memory.shape[:2], keys.shape[2])
            raise InputError(f"node {node.name!r}: keys {node.keys!r} have shape {keys.shape}, expected {expected}")
        return memory, without_padding(keys, valid), valid

    def _initial(self, values, before, batch) -> dict[str, np.ndarray]:
        """The states to start from, as arrays of our own: the caller's, the graph's, or zeros."""
        node = self.node
        states = {}
        for place, (key, shape) in enumerate(node.state_shapes(batch).items()):
            if before is not None:
                given = before[f"{node.name}.{key}"]
            elif place < len(node.initial):
                given = values[node.initial[place]]
            else:
                given = np.zeros(shape, self.dtype)
            if given.shape != shape:
                raise InputError(f"node {node.name!r}: initial {key} has shape {given.shape}, expected {shape}")
            states[key] = np.array(given, self.dtype, order="C")
        return states
