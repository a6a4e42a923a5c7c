"""Layers in nodes of their own become stacks, where that is the same network."""

import dataclasses
import itertools

import numpy as np
import pytest
from agreement import assert_close
from random_networks import draw, draw_weights

from rnncore.cells import GRU, LSTM
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.passes import simplify
from rnncore.runtime.model import Model


def chain(cell, outputs, states, direction="forward", lengths=None, layers=3):
    """Recurrent nodes r0, r1, ... of one layer each; with states, slices of h0 and c0 begin them."""
    both = 2 if direction == "bidirectional" else 1
    inputs, nodes, read = [Input("x", "float", ("B", "T", cell.input_size))], [], "x"
    if states:
        rows = layers * both
        inputs += [Input(f"{key}0", "float", (rows, "B", size)) for key, size in cell.state_sizes.items()]
    for layer in range(layers):
        own = cell if layer == 0 else cell.replace(input_size=cell.output_size * both)
        initial = []
        for key in cell.states if states else ():
            initial.append(f"{key}0_{layer}")
            bounds = {"starts": (layer * both,), "ends": ((layer + 1) * both,), "axes": (0,)}
            nodes.append(Node(initial[-1], "Slice", (f"{key}0",), bounds))
        nodes.append(Recurrent(f"r{layer}", own, read, direction=direction, lengths=lengths, initial=tuple(initial)))
        read = f"r{layer}"
    if "hn" in outputs:
        nodes.append(Node("hn", "Concat", tuple(f"r{layer}.h" for layer in range(layers)), {"axis": 0}))
    return Spec(inputs, nodes, outputs)


def both_ways(spec, batch=3, steps=5):
    """The simplified Spec; its outputs are those of the given one."""
    rng = np.random.default_rng(0)
    weights = draw_weights(spec, rng)
    simple, arrays, _ = simplify(spec, weights)
    sizes = {"B": batch, "T": steps}
    given = {e.name: draw(rng, [sizes.get(s, s) for s in e.shape]) for e in spec.inputs if e.dtype == "float"}
    if any(entry.name == "lengths" for entry in spec.inputs):
        given["lengths"] = np.array([steps, 0, 2][:batch])
    expected = Model(spec, weights, "float64").run(given)
    found = Model(simple, arrays, "float64").run(given)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert_close(found[name], array, 1e-12, name)
    return simple


@pytest.mark.parametrize("cell", [LSTM(4, 6, projection=3), GRU(4, 6)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("states", "lengths"), itertools.product([False, True], [None, "lengths"]))
def test_a_chain_is_a_stack(cell, direction, states, lengths):
    found = both_ways(chain(cell, ["r2", "hn"], states, direction, lengths))
    (stack,) = found.recurrent
    assert stack.layers == 3 and stack.initial == (tuple(f"{key}0" for key in cell.states) if states else ())
    assert {node.op for node in found.nodes if node is not stack} <= {"Identity"}


def test_states_of_single_layers_are_slices():
    found = both_ways(chain(LSTM(4, 6), ["r2", "r0.h", "r1.c"], False))
    assert [node.layers for node in found.recurrent] == [3]


@pytest.mark.parametrize("outputs", [["r2", "r0"], ["r2", "r1.last"]])
def test_what_others_read_is_kept(outputs):
    """A sequence, or a last output, of a layer inside is not to be had of a stack."""
    found = [node.layers for node in both_ways(chain(GRU(4, 6), outputs, False)).recurrent]
    assert len(found) > 1 and sum(found) == 3


def test_different_layers_stay_apart():
    spec = chain(GRU(4, 6), ["r2"], False)
    for changes in ({"cell": GRU(6, 6, reset_after=False)}, {"cell": GRU(6, 6, clip=1.0)}, {"direction": "reverse"}):
        nodes = [dataclasses.replace(node, **changes) if node.name == "r1" else node for node in spec.nodes]
        found = both_ways(Spec(spec.inputs, nodes, spec.outputs))
        assert [node.layers for node in found.recurrent] == [1, 1, 1]


def test_states_in_another_order_are_concatenated():
    """Slices that are not those of the layers in their order stay what they are."""
    spec = chain(GRU(4, 6), ["r2", "hn"], True)
    turned = {"h0_0": "h0_1", "h0_1": "h0_0"}
    nodes = [
        dataclasses.replace(node, initial=tuple(turned.get(name, name) for name in node.initial))
        if isinstance(node, Recurrent)
        else node
        for node in spec.nodes
    ]
    nodes.sort(key=lambda node: node.name != "h0_1")
    found = both_ways(Spec(spec.inputs, nodes, spec.outputs))
    assert [node.layers for node in found.recurrent] == [3] and "Concat" in {
        n.op for n in found.nodes if isinstance(n, Node)
    }
