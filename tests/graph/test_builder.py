"""GraphBuilder: what it builds is a Spec and its weights; every name is given once, in linear time."""

import numpy as np
import pytest

from rnncore.errors import SpecError
from rnncore.graph.builder import GraphBuilder
from rnncore.graph.nodes import Input, Node
from rnncore.graph.weights import Weights
from rnncore.ops import Value


def with_input():
    builder = GraphBuilder()
    builder.add_input(Input("x", "float", ("B", 3)))
    return builder


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, ["a", "a_2", "a_3", "a_4"]),
        ({"first": 1}, ["a", "a_1", "a_2", "a_3"]),
        ({"separator": "#"}, ["a", "a#2", "a#3", "a#4"]),
    ],
)
def test_a_name_that_is_taken_gets_a_number(options, expected):
    builder = GraphBuilder(**options)
    assert [builder.fresh("a") for _ in expected] == expected


def test_names_of_inputs_values_and_numbered_forms_are_taken():
    builder = with_input()
    builder.taken |= {"a_2"}
    assert [builder.fresh(name) for name in ("x", "a", "a", "a_2", "a_3")] == ["x_2", "a", "a_3", "a_2_2", "a_3_2"]
    builder.add(Node("cells", "TopK", ("x",), {"k": 1}))
    taken = [name for name in builder.values if name != "x"]
    assert len(taken) > 1 and all(builder.fresh(name) != name for name in taken)


def test_an_owned_name_is_its_owners_alone():
    """Names skipped for others' sake are still there for their owner."""
    builder = GraphBuilder(first=1, owned={"m", "m_1", "m_3"})
    assert builder.fresh("m") == "m_2"
    assert builder.fresh("m", owner="m") == "m"
    assert builder.fresh("m", owner="m_3") == "m_3"
    assert builder.fresh("m", owner="m_1") == "m_1"
    assert builder.fresh("m") == "m_4"


class CountedNames(set):
    """A set that counts how often a name is looked up."""

    lookups = 0

    def __contains__(self, name):
        CountedNames.lookups += 1
        return super().__contains__(name)


def test_fresh_names_take_linear_time():
    builder = GraphBuilder()
    builder.taken = CountedNames()
    CountedNames.lookups = 0
    assert len({builder.fresh("a") for _ in range(3000)}) == 3000
    assert CountedNames.lookups <= 3 * 3000


def test_values_are_known_as_soon_as_their_node_is_added():
    builder = with_input()
    name = builder.emit("Transpose", "x", "x", perm=(1, 0))
    assert (name, builder.values[name]) == ("x_2", Value("float", (3, "B")))
    assert builder.shape(name) == (3, "B")


def test_a_name_never_stands_for_two_values():
    builder = with_input()
    for again in (lambda: builder.add_input(Input("x", "float", ("B",))), lambda: builder.add(Node("x", "Relu", "x"))):
        with pytest.raises(SpecError, match="the name 'x' stands for two values"):
            again()
    assert [entry.name for entry in builder.inputs] == ["x"] and builder.nodes == []
    assert builder.values == {"x": Value("float", ("B", 3))}


def test_weights_belong_to_nodes_and_are_counted():
    counted = []
    builder = GraphBuilder(count=counted.append)
    builder.add_input(Input("x", "float", ("B", 3)))
    name = builder.emit("Linear", "x", "fc", input_size=3, output_size=2, bias=True)
    arrays = {"weight": np.ones((2, 3), np.float32), "bias": np.ones(2, np.float32)}
    builder.own(name, arrays)
    spec = builder.build([name])
    assert list(Weights(spec, builder.weights)) == ["fc.weight", "fc.bias"]
    assert [id(array) for array in counted] == [id(array) for array in arrays.values()]


def test_a_constant_is_content_of_the_spec_or_a_weight():
    builder = with_input()
    array = np.arange(3, dtype=np.float32)
    inside = builder.add_constant(array, "float", "c", value=(0.0, 1.0, 2.0))
    weight = builder.add_constant(array, "float", "c")
    total = builder.emit("Add", (builder.emit("Add", ("x", inside), "first"), weight), "total")
    spec = builder.build([total])
    assert (inside, weight) == ("c", "c_2") and list(spec.weight_shapes()) == ["c_2.value"]
    assert builder.values["c"].shape == builder.values["c_2"].shape == (3,)


def test_what_is_made_once_is_made_once():
    builder = with_input()
    names = [builder.once(("relu", i % 2), lambda: builder.emit("Relu", "x", "relu")) for i in range(4)]
    assert names == ["relu", "relu_2", "relu", "relu_2"] and len(builder.nodes) == 2


def test_a_dropped_node_is_gone_and_its_name_stays_taken():
    builder = with_input()
    builder.emit("Relu", "x", "a")
    builder.drop(0)
    kept = builder.emit("Tanh", "x", "a")
    assert kept == "a_2" and "a" not in builder.values
    assert [node.name for node in builder.build([kept]).nodes] == ["a_2"]
