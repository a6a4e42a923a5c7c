"""The engine against torch.nn.RNN, LSTM and GRU in float64, over random configurations; in float32, which is nearer."""

import copy

import numpy as np
import pytest
import torch
from agreement import assert_agrees, assert_no_worse
from oracle import run_oracle
from random_networks import seeds, torch_network
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from rnncore.runtime.model import Model

# Its threads only wait for each other at these sizes.
torch.set_num_threads(1)


def run_torch(network, dtype=torch.float64):
    """Values of the node "rnn" for the rows that torch accepts (length at least 1), and which rows those are."""
    node = network.spec.nodes[0]
    x = torch.from_numpy(network.inputs["x"] if node.layout == "batch_first" else network.inputs["x"].swapaxes(0, 1))
    x = x.to(dtype)
    lengths = network.inputs.get("lengths")
    rows = np.arange(len(x)) if lengths is None else np.flatnonzero(lengths)
    if not len(rows) or not x.shape[1]:
        return None, rows
    state = None
    if network.state is not None:
        state = tuple(torch.from_numpy(array[:, rows]).to(dtype) for array in network.state.values())
        state = state if len(state) == 2 else state[0]
    module, batch_first = copy.deepcopy(network.module).to(dtype), network.module.batch_first
    given = x[rows] if batch_first else x[rows].swapaxes(0, 1)
    with torch.inference_mode():
        if lengths is None:
            y, final = module(given, state)
        else:
            packed = pack_padded_sequence(given, lengths[rows], batch_first, enforce_sorted=False)
            y, final = module(packed, state)
            y, _ = pad_packed_sequence(y, batch_first, total_length=x.shape[1])
    final = dict(zip(node.cell.states, final if isinstance(final, tuple) else (final,), strict=True))
    found = {f"rnn.{key}": tensor.numpy() for key, tensor in final.items()}
    last = final["h"][-len(node.directions) :]
    return {"rnn": y.numpy(), "rnn.last": np.concatenate(tuple(last.numpy()), axis=1), **found}, rows


def only_rows(node, values, rows):
    """Those rows of the batch of each value."""
    axes = {"rnn": 0 if node.layout == "batch_first" else 1, "rnn.last": 0}
    return {name: np.take(array, rows, axes.get(name, 1)) for name, array in values.items()}


@pytest.mark.parametrize("seed", seeds(300))
def test_random_configurations(seed):
    network = torch_network(seed)
    node = network.spec.nodes[0]
    model = Model(network.spec, network.weights, network.dtype)
    outputs, after = model.run(network.given, network.given_state)

    expected, rows = run_torch(network)
    if expected is not None:
        assert_agrees(only_rows(node, outputs, rows), expected, network.dtype, f"torch, seed {seed}")
    exact = run_oracle(network.spec, network.weights, network.inputs, network.state)
    assert_agrees(outputs, exact, network.dtype)
    if expected is not None and network.dtype == "float32":
        theirs, _ = run_torch(network, torch.float32)
        assert_no_worse(only_rows(node, outputs, rows), theirs, only_rows(node, exact, rows), f"torch, seed {seed}")
    assert {name: array.tobytes() for name, array in after.items()} == {
        f"rnn.{key}": outputs[f"rnn.{key}"].tobytes() for key in node.cell.states
    }


@pytest.mark.parametrize("seed", seeds(100))
def test_rows_of_length_zero_keep_their_state(seed):
    """Torch raises for these rows: the definition is ours."""
    network = torch_network(seed)
    node = network.spec.nodes[0]
    time_first = node.layout == "time_first"
    steps, batch = network.inputs["x"].shape[:2] if time_first else network.inputs["x"].shape[1::-1]
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, steps + 1, batch) * rng.integers(0, 2, batch)
    model = Model(network.spec, network.weights, network.dtype)
    outputs, _ = model.run({**network.given, "lengths": lengths}, network.given_state)
    rows = np.flatnonzero(lengths == 0)
    values = only_rows(node, outputs, rows)
    assert not values["rnn"].any()
    for key in node.cell.states:
        expected = 0.0 if network.state is None else network.given_state[f"rnn.{key}"][:, rows]
        np.testing.assert_array_equal(values[f"rnn.{key}"], np.broadcast_to(expected, values[f"rnn.{key}"].shape))


def test_the_generator_covers_what_it_promises():
    """Random is worth nothing if a branch is never drawn."""
    drawn = [torch_network(seed) for seed in range(150)]
    nodes = [network.spec.nodes[0] for network in drawn]
    assert {node.cell.kind for node in nodes} == {"RNN", "LSTM", "GRU"}
    assert {node.layers for node in nodes} == {1, 2, 3}
    assert {(node.direction, node.layout) for node in nodes} == {
        (direction, layout) for direction in ("forward", "bidirectional") for layout in ("batch_first", "time_first")
    }
    assert {node.cell.bias for node in nodes} == {True, False}
    assert any(getattr(node.cell, "projection", 0) for node in nodes)
    assert any(node.cell.activations[0].name == "relu" for node in nodes)
    shapes = {network.inputs["x"].shape[:2] for network in drawn}
    assert set(range(6)) <= {size for shape in shapes for size in shape} and any(0 in shape for shape in shapes)
    assert {(network.state is None, "lengths" in network.inputs, network.dtype) for network in drawn} == {
        (state, lengths, dtype)
        for state in (True, False)
        for lengths in (True, False)
        for dtype in ("float32", "float64")
    }
