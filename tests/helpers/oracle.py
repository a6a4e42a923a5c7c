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

from rnncore.graph.nodes import AttentionDecoder, Recurrent
from rnncore.ops import OPS

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
        elif isinstance(node, AttentionDecoder):
            values.update(run_decoder(node, weights, values, state or {}))
        else:
            values.update(run_node(node, weights, values))
    return values if everything else {name: values[name] for name in spec.outputs}


def run_node(node, weights, values):
    """An op without state, by its own definition."""
    own = {name.removeprefix(f"{node.name}."): weights[name] for name in node.weight_shapes()}
    outputs = OPS[node.op].run(node.attributes, own, *(values.get(name) for name in node.inputs))
    return dict(zip(node.names, outputs if isinstance(outputs, (tuple, list)) else (outputs,), strict=True))


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
    named = {f"{node.name}.{name}": array for name, array in final.items()}
    if node.merge == "separate":
        sequences = {f"{node.name}.forward": outputs[0], f"{node.name}.reverse": outputs[1]}
    else:
        sequences = {node.name: x}
        named[f"{node.name}.last"] = merged(node, list(final["h"][-len(node.directions) :]))
    for name, y in sequences.items():
        named[name] = y if node.layout == "batch_first" else y.swapaxes(0, 1)
    return named


def run_decoder(node, weights, values, state):
    """All values of an attention decoder, from the equations in its docstring."""
    x, memory = values[node.input], values[node.memory]
    (batch, steps, _), memory_steps = x.shape, memory.shape[1]
    lengths = values.get(node.lengths) if node.lengths else None
    lengths = np.full(batch, steps) if lengths is None else lengths
    mask = values.get(node.memory_mask) if node.memory_mask else None
    mask = np.full(batch, memory_steps) if mask is None else mask
    valid = mask if mask.dtype == bool else np.arange(memory_steps) < mask[:, None]
    initial = initial_states(node, weights, values, state, batch)
    final = {name: array.copy() for name, array in initial.items()}
    sizes = {"": node.output_size, ".context": node.memory_size, ".weights": memory_steps}
    outputs = {ending: np.zeros((batch, steps, size)) for ending, size in sizes.items()}
    cells = [node.layer_cell(layer) for layer in range(node.layers)]
    for row in range(batch):
        places = np.flatnonzero(valid[row])
        keys = None if node.keys is None else values[node.keys][row, places]

        def look(s, places=places, keys=keys, row=row):
            v, a = attention(node, weights, s, memory[row, places], keys)
            return v, np.bincount(places, a, memory_steps)

        for t in range(int(lengths[row])):
            now = {name: array[:, row] for name, array in final.items()}
            v, a = look(now["h"][-1]) if node.order == "before" else (now["feed"][0], None)
            z = np.concatenate([x[row, t], v])
            for layer, cell in enumerate(cells):
                own = {key: weights[f"{node.name}.{key}_l{layer}"] for key in cell.weight_shapes()}
                new = cell.step(own, z[None], tuple(now[name][layer][None] for name in cell.states))
                for name, array in zip(cell.states, new, strict=True):
                    final[name][layer, row] = array[0]
                z = new[0][0]
            if node.order == "after":
                v, a = look(z)
            if node.attentional_size is not None:
                z = weights[f"{node.name}.attentional.weight"] @ np.concatenate([v, z])
                z = np.tanh(z + weights.get(f"{node.name}.attentional.bias", 0.0))
            if node.order == "after":
                final["feed"][0, row] = v if node.attentional_size is None else z
            for ending, array in zip(outputs, (z, v, a), strict=True):
                outputs[ending][row, t] = array
    named = {f"{node.name}.{name}": array for name, array in final.items()}
    return {**named, **{node.name + ending: array for ending, array in outputs.items()}}


def attention(node, weights, query, memory, keys):
    """(v, a) of one query (Q,) over the valid steps of a memory, (n, K); keys (n, A) where the graph projects them."""
    w = {key: weights.get(f"{node.name}.attention.{key}") for key in
         ("query.weight", "key.weight", "key.bias", "score.weight", "weight", "bias")}  # fmt: skip
    bias = 0.0 if not node.attention_bias else w["bias" if node.attention == "concat" else "key.bias"]
    scores = np.zeros(len(memory))
    for k, m in enumerate(memory):
        if node.attention == "bahdanau":
            key = keys[k] if keys is not None else w["key.weight"] @ m + bias
            scores[k] = w["score.weight"] @ np.tanh(w["query.weight"] @ query + key)
        elif node.attention == "concat":
            scores[k] = w["score.weight"] @ np.tanh(w["weight"] @ np.concatenate([query, m]) + bias)
        elif node.attention == "general":
            scores[k] = query @ (keys[k] if keys is not None else w["weight"] @ m)
        else:
            scores[k] = query @ m
    if not len(memory):
        return np.zeros(node.memory_size), scores
    e = np.exp(scores - scores.max())
    return e @ memory / e.sum(), e / e.sum()


def merged(node, parts):
    """One output of the directions' outputs."""
    return parts[0] if len(parts) == 1 else MERGE[node.merge](parts)


def initial_states(node, weights, values, state, batch):
    """State name -> (L*D, B, size): from the caller, from values of the graph, trained, or zero; in this order."""
    states = {}
    for position, (name, shape) in enumerate(node.state_shapes(batch).items()):
        given = None
        if f"{node.name}.{name}" in state:
            given = state[f"{node.name}.{name}"]
        elif position < len(node.initial):
            given = values[node.initial[position]]
        elif node.trained_state:
            given = weights[f"{node.name}.initial_{name}"][:, None]
        states[name] = np.broadcast_to(np.zeros(shape) if given is None else np.asarray(given, np.float64), shape)
    return states
