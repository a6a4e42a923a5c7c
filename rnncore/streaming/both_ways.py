"""A recurrent node that reads ahead, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnncore.model import Model
from rnncore.spec import Recurrent
from rnncore.stacks import pack_direction

__all__ = ["BothWays"]

Values = dict[str, Any]


class BothWays:
    """The layers and directions of a node that reads ahead, one by one.

    A block is some steps and those ahead of them: each layer's reverse direction begins with the last of these, the
    forward direction goes on from the block before, and carries to the next what it has after the block's own steps.
    Source: Zhang et al. 2016, latency-controlled bidirectional LSTM.
    """

    def __init__(self, node: Recurrent, model: Model, threads: int):
        self.node, self.dtype, self.threads = node, model.dtype, threads
        self.stacks = [
            {
                direction: pack_direction(node, model.weights, model.dtype, layer, direction)
                for direction in node.directions
            }
            for layer in range(node.layers)
        ]
        self.trained = {}
        if node.trained_state:
            first = len(node.directions) - 1
            self.trained = {
                key: model.weights[f"{node.name}.initial_{key}"][first :: len(node.directions)].astype(model.dtype)
                for key in node.cell.states
            }

    def block(self, x: np.ndarray, size: int, states: Values, initial: Values) -> np.ndarray:
        """Outputs (B, size, width) for x (B, size and what is ahead, I); changes the forward ``states``."""
        for layer, stacks in enumerate(self.stacks):
            found = []
            for direction, stack in stacks.items():
                if direction == "forward":
                    own = {key: array[layer] for key, array in states.items()}
                    now, after = self._run(stack, x[:, :size], own)
                    for key, array in after.items():
                        states[key][layer] = array
                    found.append(np.concatenate((now, self._run(stack, x[:, size:], after)[0]), axis=1))
                else:
                    found.append(self._run(stack, x, self._start(layer, len(x), initial))[0])
            x = _merged("concat" if self.node.merge == "separate" else self.node.merge, found)
        return x[:, :size]

    def _start(self, layer: int, batch: int, initial: Values) -> Values:
        """Where the reverse direction begins."""
        sizes = self.node.cell.state_sizes
        if initial:
            return {key: initial[key][layer] for key in sizes}
        if self.trained:
            return {key: np.broadcast_to(self.trained[key][layer], (batch, sizes[key])) for key in sizes}
        return {key: np.zeros((batch, size), self.dtype) for key, size in sizes.items()}

    def _run(self, stack: Any, x: np.ndarray, states: Values) -> tuple[np.ndarray, Values]:
        batch, steps = x.shape[:2]
        y = np.empty((batch, steps, self.node.cell.output_size), self.dtype)
        if steps == 0:
            return y, states
        before = {key: np.ascontiguousarray(array[None]) for key, array in states.items()}
        after = {key: np.empty_like(array) for key, array in before.items()}
        stack.run(
            np.ascontiguousarray(x), y, "set", "set", False, False, None, None, None,
            before["h"], before.get("c"), after["h"], after.get("c"), self.threads,
        )  # fmt: skip
        return y, {key: array[0] for key, array in after.items()}


def _merged(merge: str, found: list[np.ndarray]) -> np.ndarray:
    if len(found) == 1:
        return found[0]
    if merge == "concat":
        return np.concatenate(found, axis=2)
    a, b = found
    return {"sum": a + b, "mul": a * b, "average": (a + b) * a.dtype.type(0.5)}[merge]
