"""Token by token through layers that keep steps: convolutions before the recurrent layers, attention that looks back.

The streams' plan knows what each node keeps. Between steps everything is in arrays whose second axis is the rows, as
recurrent states are, so that beams and caches need not know the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from rnncore.errors import UnsupportedError
from rnncore.runtime.arguments import accept_state
from rnncore.runtime.model import Model
from rnncore.streaming.program import StreamProgram, stream_program
from rnncore.streaming.states import StreamStates

__all__ = ["Streamed"]

Arrays = dict[str, np.ndarray]


class Streamed:
    """A model's plan for one input of tokens and one output of scores.

    history  the most steps that a sequence will have: causal attention looks back on all of them

    Raises UnsupportedError, naming the node, where a score needs tokens that come after it, or cannot be streamed.
    """

    def __init__(self, model: Model, tokens: str, output: str, history: int):
        bound = 1 << max(6, (history - 1).bit_length())  # few different ones, since each has a program
        self.program: StreamProgram = stream_program(
            model, None, None, bound, cast(str, model.spec.values[tokens].shape[1])
        )
        plan = self.program.plan
        self.tokens, self.output = tokens, output
        others = [entry.name for entry in self.program.given if entry.name != tokens and not entry.optional]
        if others:
            raise UnsupportedError(f"input {others[0]!r} has steps other than those of the tokens, expected none")
        timing = plan.flows[output].timing
        if timing is not None and not timing.prompt:
            raise UnsupportedError(f"output {output!r} has no scores for each token as soon as it comes")
        self.carrying = tuple(part.node for part in plan.parts if part.how == "recurrent")

    def start(self, count: int, inputs: Mapping[str, Any], state: Any) -> tuple[Arrays, Arrays, dict[str, int | None]]:
        """Before the first token: the state, what stays the same, and the axes of its rows."""
        rows = StreamStates(self.program, count)
        rows.reset(slice(None), self.program.accept(inputs, count, self.program.static, "inputs"))
        states = self._state(rows)
        if state is not None:
            states |= dict(accept_state(self.carrying, state, count, self.program.model.dtype))
        axes = {name: self.program.plan.flows[name].batch for name in rows.static}
        return states, rows.static, axes

    def run(self, fixed: Arrays, state: Arrays, ids: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Scores for the tokens (n, t), or one-hot (n, t, V), of n rows, and their state afterwards."""
        rows = StreamStates(self.program, len(ids))
        rows.static = fixed
        for name, array in rows.arrays.items():
            array[...] = state[name] if name in rows.recurrent else state[name][0]
        outputs, _ = rows.advance(np.arange(len(ids)), {self.tokens: ids}, ids.shape[1], None)
        return outputs[self.output], self._state(rows)

    def _state(self, rows: StreamStates) -> Arrays:
        return {name: array if name in rows.recurrent else array[None] for name, array in rows.arrays.items()}
