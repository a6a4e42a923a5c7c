"""Loading takes time in proportion to the number of nodes: chains, fans and many inputs of every family of ops.

Work is counted, not timed: calls of Python and C functions while a graph is loaded, four times as many nodes and so at
most a little more than four times as many calls. What hides inside one call (a list that is searched, a name that is
compared with all others) is seen by the time beside that of a smaller graph: RNNCORE_TEST_SCALE above 1 takes graphs
of up to 64,000 nodes.
"""

import itertools
import os
import sys
import time

import numpy as np
import pytest
from large_graphs import GRAPHS, weights_of

from rnncore import Model, Spec
from rnncore.passes import simplify

SCALE = float(os.environ.get("RNNCORE_TEST_SCALE", "1"))
SIZES = [150, 600] if SCALE <= 1 else [1000, 4000, 16_000, 64_000]
MOST = 1.25  # a line with an offset grows by less than the number of nodes does; n log n by 1.2 from 150 to 600
TIMED = 4000  # below so many nodes a time says nothing
SLOWEST = 3.0  # the same in time, where a garbage collection or a neighbour takes its part


def load(spec):
    """Everything that a file's graph goes through: JSON, checks, passes, compiling."""
    made = Spec.from_json(spec.to_json())
    simple, weights, _ = simplify(made, weights_of(made))
    return Model(simple, weights)


def counted(work):
    """Calls that a piece of work makes, and its CPU seconds."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += 1

    begin = time.process_time()
    work()
    seconds = time.process_time() - begin
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return calls, seconds


def assert_linear(build, work, most=64_000):
    found = []
    for size in (size for size in SIZES if size <= most):
        graph = build(size)
        work(graph) if not found else None  # what is imported and kept at first use
        found.append((size, *counted(lambda graph=graph: work(graph))))
    for (n, calls, seconds), (more, more_calls, more_seconds) in itertools.pairwise(found):
        assert more_calls <= MOST * more / n * calls, found
        if n >= TIMED:
            assert more_seconds <= SLOWEST * more / n * max(seconds, 1e-3), found


@pytest.mark.parametrize("name", GRAPHS)
def test_loading_is_linear(name):
    assert_linear(GRAPHS[name], load)


def test_what_is_quadratic_is_seen():
    """The counter itself: readers looked for node by node, as it once was."""

    def search(spec):
        for node in spec.nodes:
            [other for other in spec.nodes if other.reads.count(node.name)]

    with pytest.raises(AssertionError):
        assert_linear(GRAPHS["elementwise"], search)


def test_a_message_does_not_compare_all_names():
    """A misspelled name among very many: the hint looks at a few of them."""

    def misspelled(count):
        spec = GRAPHS["elementwise"](count).to_json()
        spec["outputs"] = ["n1x"]
        return spec

    def refuse(found):
        with pytest.raises(ValueError, match="n1x"):
            Spec.from_json(found)

    begin = time.process_time()
    refuse(misspelled(1000))
    few = time.process_time() - begin
    begin = time.process_time()
    refuse(misspelled(20_000))
    assert time.process_time() - begin < 20 * SLOWEST * few


# --- ONNX -------------------------------------------------------------------------------------------------------------


def onnx_graphs():
    from onnx import TensorProto, helper, numpy_helper

    def value(name, shape=("B", 4), kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, shape)

    def model(nodes, inputs=None, constants=(), outputs=None):
        outputs = outputs or [nodes[-1].output[0]]
        graph = helper.make_graph(
            nodes, "g", inputs or [value("x")], [value(name, None) for name in outputs], list(constants)
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)

    def chained(op, *others, **attributes):
        def build(count):
            return model(
                [
                    helper.make_node(op, [f"n{i - 1}" if i else "x", *others], [f"n{i}"], **attributes)
                    for i in range(count)
                ],
                constants=[numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")] if others else (),
            )

        return build

    def unnamed(count):
        """Names that a Spec cannot have: each needs a fresh one."""
        names = ["x", *(f"\x01{i}" for i in range(count - 1)), "y"]
        return model([helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)])

    def products(count):
        """All products first, and then all sums, whose biases go into them."""
        half = count // 2
        nodes = [helper.make_node("MatMul", ["x", "w"], [f"m{i}"]) for i in range(half)]
        nodes += [helper.make_node("Add", [f"m{i}", "b"], [f"n{i}"]) for i in range(half)]
        constants = [
            numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
            numpy_helper.from_array(np.ones(4, np.float32), "b"),
        ]
        return model(nodes, constants=constants, outputs=[f"n{i}" for i in range(half)])

    def shapes(count):
        nodes = []
        for i in range(count // 2):
            before = f"n{i - 1}" if i else "x"
            nodes.append(helper.make_node("Shape", [before], [f"s{i}"]))
            nodes.append(helper.make_node("Reshape", [before, f"s{i}"], [f"n{i}"]))
        return model(nodes)

    def folded(count):
        nodes = [helper.make_node("Neg", [f"c{i - 1}" if i else "w"], [f"c{i}"]) for i in range(count)]
        nodes.append(helper.make_node("Add", ["x", f"c{count - 1}"], ["y"]))
        return model(nodes, constants=[numpy_helper.from_array(np.ones(4, np.float32), "w")])

    def branches(count):
        def branch(op, i):
            node = helper.make_node(op, [f"n{i - 1}" if i else "x"], ["o"])
            return helper.make_graph([node], "branch", [], [value("o", None)])

        nodes = [
            helper.make_node("If", ["c"], [f"n{i}"], then_branch=branch("Relu", i), else_branch=branch("Abs", i))
            for i in range(count // 5)
        ]
        return model(nodes, [value("x"), value("c", (), TensorProto.BOOL)])

    def constant_branches(count):
        """Conditions that are known: the branch's nodes take the place of each If."""

        def branch(op, i):
            node = helper.make_node(op, [f"n{i - 1}" if i else "x"], ["o"])
            return helper.make_graph([node], "branch", [], [value("o", None)])

        nodes = [
            helper.make_node("If", ["c"], [f"n{i}"], then_branch=branch("Relu", i), else_branch=branch("Abs", i))
            for i in range(count // 4)
        ]
        return model(nodes, constants=[numpy_helper.from_array(np.array(True), "c")])

    def calls(count):
        """One function with a constant, called again and again."""
        large = numpy_helper.from_array(np.arange(4, dtype=np.float32), "k")
        function = helper.make_function(
            "own", "F", ["a"], ["b"],
            [helper.make_node("Constant", [], ["k"], value=large), helper.make_node("Add", ["a", "k"], ["b"])],
            [helper.make_opsetid("", 22)],
        )  # fmt: skip
        found = model(
            [helper.make_node("F", [f"n{i - 1}" if i else "x"], [f"n{i}"], domain="own") for i in range(count // 3)]
        )
        found.functions.append(function)
        found.opset_import.append(helper.make_opsetid("own", 1))
        return found

    def same_name(count):
        """Nodes that all have one name."""
        nodes = [helper.make_node("Split", [f"n{i - 1}" if i else "x"], [f"n{i}", f"r{i}"], name="s", num_outputs=2,
                                  axis=0) for i in range(count)]  # fmt: skip
        return model(nodes)

    return {
        "Relu": chained("Relu"),
        "Transpose": chained("Transpose", perm=[1, 0]),
        "MatMul": chained("MatMul", "w"),
        "Softmax": chained("Softmax"),
        "unnamed": unnamed,
        "products": products,
        "shapes": shapes,
        "folded": folded,
        "branches": branches,
        "constant_branches": constant_branches,
        "calls": calls,
        "same_name": same_name,
    }


ONNX = ("Relu", "Transpose", "MatMul", "Softmax", "unnamed", "products", "shapes", "folded", "branches",
        "constant_branches", "calls",
        "same_name")  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_loading_onnx_is_linear(name, tmp_path):
    pytest.importorskip("onnx")
    from rnncore import Budget, load

    def build(count):
        path = tmp_path / f"{count}.onnx"
        path.write_bytes(onnx_graphs()[name](count).SerializeToString())
        return path

    # A file may have 300,000 fields of protobuf: 64,000 nodes of the plainest kind.
    large = Budget(nodes=64_000)
    assert_linear(build, lambda path: load(path, budget=large), most=64_000 if name == "Relu" else 16_000)
