"""Every kind of node implements GraphNode: each member is there, and they agree with each other."""

import dataclasses
import inspect

import numpy as np
import pytest
from every_op import example, spec_of

from rnncore import Model
from rnncore.cells import GRU, LSTM
from rnncore.errors import SpecError
from rnncore.graph.nodes import KINDS, AttentionDecoder, Control, GraphNode, Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.ops import OPS
from rnncore.ops.dimensions import Dimension
from rnncore.passes import simplify

MEMBERS = sorted({*vars(GraphNode), *inspect.get_annotations(GraphNode)} - {"name", *dir(type("Empty", (), {}))})
MEMBERS = [name for name in MEMBERS if not name.startswith("_")]
X = Input("x", "float", ("B", "T", 4))
MEMORY = Input("memory", "float", ("B", "K", 5))
STATE = Input("h0", "float", (2, "B", 3))
STEP = Spec(
    [Input("h", "float", ("B", 4)), Input("x", "float", ("B", 4))],
    [Node("sum", "Add", ("h", "x")), Node("out", "Linear", "sum", {"input_size": 4, "output_size": 2})],
    ["sum", "out"],
)
SIDE = Spec([X], [Node("y", "Linear", "x", {"input_size": 4, "output_size": 2})], ["y"])
NODES = [
    Recurrent("n", LSTM(4, 3), "x", layers=2, lengths=None),
    Recurrent("n", GRU(4, 3), "x", direction="bidirectional", mask="mask", initial=("h0",)),
    Recurrent("n", GRU(4, 3), "x", direction="bidirectional", merge="separate", trained_state=True),
    AttentionDecoder("n", LSTM(9, 3), "x", "memory", 5, "general"),
    AttentionDecoder(
        "n", GRU(8, 3), "x", "memory", 5, "concat", 4, order="after", attentional_size=4, lengths="lengths"
    ),
    Control("n", "If", ("flag", "x"), (SIDE, SIDE), captures=("x",)),
    Control("n", "Scan", ("first", "x"), (STEP,), sequences=1, axes=(1,), output_axes=(1,)),
]
INPUTS = [X, MEMORY, STATE, Input("flag", "bool", ()), Input("first", "float", ("B", 4))]


def spec_around(node):
    return Spec([entry for entry in INPUTS if entry.name in node.reads], [node], node.names)


CASES = [spec_around(node) for node in NODES]
IDS = [f"{spec.nodes[0].op}-{place}" for place, spec in enumerate(CASES)]
OF_OPS = [spec_of(op, *example(op))[0] for op in OPS]


def test_the_protocol_is_documented():
    assert {"dimensions", "infer", "names", "op", "reads", "slots", "weight_shapes", "with_reads"} <= set(MEMBERS)
    undocumented = [name for name in MEMBERS if name in vars(GraphNode) and not vars(GraphNode)[name].__doc__]
    assert not undocumented


@pytest.mark.parametrize("kind", list(dict.fromkeys((Node, *KINDS.values()))), ids=lambda kind: kind.__name__)
def test_every_kind_has_every_member(kind):
    fields = {field.name for field in dataclasses.fields(kind)}
    assert not [name for name in MEMBERS if not hasattr(kind, name) and name not in fields]
    for name in MEMBERS:
        wanted, own = vars(GraphNode).get(name), inspect.getattr_static(kind, name, None)
        if inspect.isfunction(wanted):
            assert [*inspect.signature(own).parameters] == [*inspect.signature(wanted).parameters], name


@pytest.mark.parametrize("spec", CASES + OF_OPS, ids=IDS + list(OPS))
def test_members_agree(spec):
    (node,) = spec.nodes
    assert list(node.infer(spec.values)) == list(node.names)
    assert set(node.reads) == {slot for slot in node.slots if slot}
    assert set(node.optional_reads) <= set(node.reads) and set(node.sequence_names) <= set(node.names)
    assert set(node.weight_dtypes()) <= set(node.weight_shapes()) == set(spec.weight_shapes())
    assert all(key.startswith(f"{node.name}.") for key in node.weight_shapes())
    assert node.stateful == bool(node.sequence_names) == (node in spec.stateful)
    assert node.layer_count >= 1 and spec.size == node.layer_count + sum(inner.size for _, inner in node.subgraphs)
    assert {*node.of_sizes, *node.shaped_by} <= set(range(OPS[node.op].arity[1] if node.op in OPS else 0))
    for dimension in node.dimensions(spec.values):
        assert isinstance(dimension, Dimension) and set(dimension.outputs) <= set(range(len(node.names)))
        for place, axis in dimension.inputs.items():
            slot = node.slots[place] if place < len(node.slots) else ""
            assert not slot or 0 <= axis < len(spec.values[slot].shape)
    assert type(node).from_json(node.to_json(), Spec.from_json) == node
    assert node.to_json()["op"] == node.op


@pytest.mark.parametrize("spec", CASES + OF_OPS, ids=IDS + list(OPS))
def test_reads_are_renamed(spec):
    (node,) = spec.nodes
    assert node.with_reads({}) is node and node.with_reads({"unread": "other"}) is node
    renamed = {name: f"{name}.new" for name in node.reads}
    made = node.with_reads(renamed)
    assert made.reads == tuple(renamed[name] for name in node.reads) and made.names == node.names
    assert made.with_reads({new: old for old, new in renamed.items()}) == node
    for name in node.reads:
        if name in node.optional_reads:
            assert name not in node.with_reads({name: ""}).reads
    needed = set(node.reads) - set(node.optional_reads)
    if needed and node.op in OPS:
        with pytest.raises(SpecError):
            Spec(spec.inputs, [node.with_reads({min(needed): ""})], spec.outputs)


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_without_its_optional_input_is_taken(taken):
    """The mask that neither the If nor its caller gives is absent for every kind of node that reads it."""
    masked = Spec(
        [X],
        [
            Recurrent("r", LSTM(4, 3), "x", lengths=None, mask="mask"),
            Node("a", "WordAttention", ("r", "mask"), {"input_size": 3, "attention_size": 2}),
        ],
        ["a"],
    )
    other = Spec(
        [X],
        [
            Node("m", "ReduceMean", "x", {"axes": (1,), "keepdims": False}),
            Node("l", "Linear", "m", {"input_size": 4, "output_size": 3}),
        ],
        ["l"],
    )
    constant = Node("c", "Constant", (), {"dtype": "bool", "shape": (), "value": (taken,)})
    spec = Spec([X], [constant, Control("if", "If", ("c", "x"), (masked, other), captures=("x",))], ["if"])
    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.weight_shapes().items()}
    simpler, kept, notes = simplify(spec, weights)
    assert not any(node.subgraphs for node in simpler.nodes) and "took the only branch of If (1)" in notes
    x = rng.standard_normal((2, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(Model(simpler, kept)(x), Model(spec, weights)(x))
