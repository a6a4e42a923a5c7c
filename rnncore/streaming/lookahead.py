"""A recurrent node that reads later steps, block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnncore.graph.nodes import Recurrent
from rnncore.runtime.model import Model
from rnncore.runtime.packing import pack_direction
from rnncore.runtime.recurrent import ALL_ROWS, repeat_masked, rows_of_mask

__all__ = ["BEGAN", "LookaheadRecurrent"]

Values = dict[str, Any]

# The state of a node whose masked steps repeat outputs: which rows had a step that counts.
BEGAN = "began"


class LookaheadRecurrent:
    """The layers and directions of a node that reads later steps, one by one.

    A block is some steps and the later ones that they look at: each layer's reverse direction begins with the last of
    these, the forward direction goes on from the block before, and hands on its states after the block's own steps.
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

    def block(self, x: np.ndarray, size: int, states: Values, initial: Values, mask: np.ndarray | None) -> np.ndarray:
        """Outputs (B, size, width) for x (B, size and the later ones, I); changes the forward ``states``.

        initial  where the reverse direction begins, by state, (layers, B, size); empty: as the node says
        mask     bool (B, size and the later ones): steps that count; None for all of them
        """
        mask = None if mask is None or mask.all() else mask
        began, before = states.get(BEGAN), states["h"][-1].copy()
        for layer, stacks in enumerate(self.stacks):
            outputs = []
            for direction, stack in stacks.items():
                if direction == "forward":
                    outputs.append(self._forward(layer, stack, x, size, states, mask))
                else:
                    outputs.append(self._run(stack, x, self._start(layer, len(x), initial), mask)[0])
            if began is not None and mask is not None and layer == len(self.stacks) - 1:
                for y, direction in zip(outputs, stacks, strict=True):
                    _repeat(y, mask, direction, before, began)
            x = _merged("concat" if self.node.merge == "separate" else self.node.merge, outputs)
        if began is not None:
            states[BEGAN] = began | (size > 0 if mask is None else mask[:, :size].any(axis=1))
        return x[:, :size]

    def _forward(
        self, layer: int, stack: Any, x: np.ndarray, size: int, states: Values, mask: np.ndarray | None
    ) -> np.ndarray:
        """The forward direction over a block and the steps after it; its states are those after the block."""
        own = {key: states[key][layer] for key in self.node.cell.states}
        masks = (None, None) if mask is None else (mask[:, :size], mask[:, size:])
        now, after = self._run(stack, x[:, :size], own, masks[0])
        for key, array in after.items():
            states[key][layer] = array
        return np.concatenate((now, self._run(stack, x[:, size:], after, masks[1])[0]), axis=1)

    def _start(self, layer: int, batch: int, initial: Values) -> Values:
        """The states that the reverse direction begins with."""
        sizes = self.node.cell.state_sizes
        if initial:
            return {key: initial[key][layer] for key in sizes}
        if self.trained:
            return {key: np.broadcast_to(self.trained[key][layer], (batch, sizes[key])) for key in sizes}
        return {key: np.zeros((batch, size), self.dtype) for key, size in sizes.items()}

    def _run(self, stack: Any, x: np.ndarray, states: Values, mask: np.ndarray | None) -> tuple[np.ndarray, Values]:
        """One layer and direction over x (B, T, I): outputs, zeros where the mask is False, and states."""
        batch, steps = x.shape[:2]
        rows = ALL_ROWS if mask is None else rows_of_mask(mask)
        shape = (batch, steps, self.node.cell.output_size)
        y = (np.empty if rows.order is None else np.zeros)(shape, self.dtype)
        if steps == 0:
            return y, states
        before = {key: np.ascontiguousarray(array[None]) for key, array in states.items()}
        after = {key: np.empty_like(array) for key, array in before.items()}
        stack.run(
            np.ascontiguousarray(x), y, "set", "set", False, False, rows.order, rows.lengths, rows.steps,
            tuple(before.values()), tuple(after.values()), self.threads,
        )  # fmt: skip
        return y, {key: array[0] for key, array in after.items()}


def _repeat(y: np.ndarray, mask: np.ndarray, direction: str, before: np.ndarray, began: np.ndarray) -> None:
    """Masked steps of one direction's outputs repeat the step before them, in the order in which it reads.

    The forward direction repeats what the block before gave last, where it had a step that counts.
    """
    if direction == "reverse":
        repeat_masked(y[:, ::-1], mask[:, ::-1])
        return
    repeat_masked(y, mask)
    leading = ~np.logical_or.accumulate(mask, axis=1) & began[:, None]
    y[...] = np.where(leading[:, :, None], before[:, None], y)


def _merged(merge: str, outputs: list[np.ndarray]) -> np.ndarray:
    if len(outputs) == 1:
        return outputs[0]
    if merge == "concat":
        return np.concatenate(outputs, axis=2)
    a, b = outputs
    return {"sum": a + b, "mul": a * b, "average": (a + b) * a.dtype.type(0.5)}[merge]
