"""The reference for every engine test: a Spec run in plain NumPy and float64, one row of the batch at a time.

The equations are those of Cell.step and the ops' own ``run``; here are only loops over layers, directions, rows
and steps. Definitions:

- lengths counts the valid steps of each row, from the first; outputs beyond are 0.
- mask says of every step whether it is valid. At a masked step of the last layer the output is that of the step
  processed just before (0 before any), or 0 with masked_output="zero".
- A reverse direction begins at each row's own last valid step; its final state is that after the first valid one.
- output_order="processing" puts the output of time t at T - 1 - t.
- NAME.last is the last layer's final h, both directions merged; for a row without valid steps the initial h.
"""

from __future__ import annotations

import numpy as np

from rnncore.ops import OPS
from rnncore.spec import Recurrent

MERGE = {
    "concat": lambda parts: np.concatenate(parts, axis=-1),
    "sum": sum,
    "mul": lambda parts: parts[0] * parts[1],
    "average": lambda parts: sum(parts) / len(parts),
}


def run_oracle(spec, weights, inputs, state=None, everything=False):
    """Outputs by name (every value with ``everything``).

    inputs are by name; state holds initial states as "NODE.h" (L*D, B, size), zero or trained where absent.
    """
    values = {}
    for entry in spec.inputs:
        if entry.name in inputs:
            dtype = {"float": np.float64, "int64": np.int64, "bool": bool}[entry.dtype]
            values[entry.name] = np.asarray(inputs[entry.name]).astype(dtype)
    weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    for node in spec.nodes:
        if isinstance(node, Recurrent):
            values.update(run_recurrent(node, weights, values, state or {}))
        else:
            values.update(run_node(node, weights, values))
    return values if everything else {name: values[name] for name in spec.outputs}


def run_node(node, weights, values):
    """An op without state, by its own definition."""
    own = {name.removeprefix(f"{node.name}."): weights[name] for name in node.weight_shapes()}
    found = OPS[node.op].run(node.attributes, own, *(values[name] for name in node.inputs))
    if isinstance(found, tuple):
        return {f"{node.name}.{index}": array for index, array in enumerate(found)}
    return {node.name: found}


def run_recurrent(node, weights, values, state):
    """All values of a recurrent node."""
    x = values[node.input]
    x = x if node.layout == "batch_first" else x.swapaxes(0, 1)  # (B, T, I)
    batch, steps, _ = x.shape
    lengths = values.get(node.lengths) if node.lengths else None
    lengths = np.full(batch, steps) if lengths is None else lengths
    valid = np.arange(steps) < lengths[:, None]
    mask = values.get(node.mask) if node.mask else None
    if mask is not None:
        valid &= mask if node.layout == "batch_first" else mask.T
    repeat = mask is not None and node.masked_output == "repeat"
    initial = initial_states(node, weights, values, state, batch)
    final = {name: np.empty_like(array) for name, array in initial.items()}
    index = 0
    for layer in range(node.layers):
        outputs = []
        for direction in node.directions:
            cell = node.layer_cell(layer, direction)
            suffix = node.suffix(layer, direction)
            own = {key: weights[f"{node.name}.{key}{suffix}"] for key in cell.weight_shapes()}
            y = np.zeros((batch, steps, cell.output_size))
            for row in range(batch):
                now = tuple(initial[name][index, row : row + 1] for name in cell.states)
                before = np.zeros(cell.output_size)
                for t in range(steps) if direction == "forward" else reversed(range(steps)):
                    if valid[row, t]:
                        now = cell.step(own, x[row : row + 1, t], now)
                        y[row, t] = before = now[0][0]
                    elif repeat:
                        y[row, t] = before
                for name, array in zip(cell.states, now, strict=True):
                    final[name][index, row] = array[0]
            outputs.append(y if node.output_order == "time" else y[:, ::-1])
            index += 1
        if node.merge != "separate":
            x = merged(node, outputs)
    found = {f"{node.name}.{name}": array for name, array in final.items()}
    if node.merge == "separate":
        sequences = {f"{node.name}.forward": outputs[0], f"{node.name}.reverse": outputs[1]}
    else:
        sequences = {node.name: x}
        found[f"{node.name}.last"] = merged(node, list(final["h"][-len(node.directions) :]))
    for name, y in sequences.items():
        found[name] = y if node.layout == "batch_first" else y.swapaxes(0, 1)
    return found


def merged(node, parts):
    """One output of the directions' outputs."""
    return parts[0] if len(parts) == 1 else MERGE[node.merge](parts)


def initial_states(node, weights, values, state, batch):
    """State name -> (L*D, B, size): from values of the graph, from the caller, trained, or zero; in this order."""
    found = {}
    for position, (name, shape) in enumerate(node.state_shapes(batch).items()):
        given = None
        if node.initial:
            given = values[node.initial[position]]
        elif f"{node.name}.{name}" in state:
            given = state[f"{node.name}.{name}"]
        elif node.trained_state:
            given = weights[f"{node.name}.initial_{name}"][:, None]
        found[name] = np.broadcast_to(np.zeros(shape) if given is None else np.asarray(given, np.float64), shape)
    return found
