"""Random ONNX graphs of nested If, Loop and Scan nodes, whose bodies read values of the graphs around them.

Every float value is of shape (B, 3), so that any of them may be read in place of any other.
"""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROWS, WIDTH, STEPS = 2, 3, 4
OPS = ("Add", "Mul", "Tanh", "Sigmoid", "Product")


class ControlGraph:
    """The nodes of one graph; ``seen`` has the float values that they may read, those of graphs around it included."""

    def __init__(self, rng, names, seen=(), depth=0):
        self.rng, self.names, self.seen, self.depth = rng, names, list(seen), depth
        self.nodes, self.constants = [], []

    def name(self):
        return f"v{next(self.names)}"

    def value(self):
        return self.seen[int(self.rng.integers(len(self.seen)))]

    def node(self, op, inputs, outputs=1, **attributes):
        """A node whose outputs are new names."""
        made = [self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, made, f"node {made[0]}", **attributes))
        return made

    def constant(self, array):
        name = self.name()
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, most):
        """Up to ``most`` plain nodes, with control nodes among them where the depth allows."""
        for _ in range(int(self.rng.integers(1, most + 1))):
            if self.depth < 3 and self.rng.random() < 0.35:
                self.seen += getattr(self, str(self.rng.choice(["if_node", "loop", "scan"])))()
            else:
                self.plain()

    def plain(self):
        op = str(self.rng.choice(OPS))
        if op == "Product":
            matrix = self.constant(self.rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) * 0.5)
            self.seen += self.node("MatMul", [self.value(), matrix])
        else:
            self.seen += self.node(op, [self.value() for _ in range(1 + (op in ("Add", "Mul")))])

    def inner(self, given=()):
        graph = ControlGraph(self.rng, self.names, [*self.seen, *given], self.depth + 1)
        graph.add(3)
        return graph

    def made(self, name, inputs, outputs):
        infos = [helper.make_tensor_value_info(*entry) for entry in inputs]
        return helper.make_graph(self.nodes, name, infos, outputs, self.constants)

    def results(self, count):
        """New float values of this graph, whatever it was given."""
        return [self.node("Identity", [self.value()])[0] for _ in range(count)]

    def if_node(self):
        """An If of one to three outputs, by the sign of a sum or by an input of the whole graph."""
        condition = "flag"
        if self.rng.random() < 0.5:
            total = self.node("ReduceSum", [self.value()], keepdims=0)[0]
            condition = self.node("Less", [total, self.constant(np.float32(0))])[0]
        count, branches = int(self.rng.integers(1, 4)), {}
        for name in ("then_branch", "else_branch"):
            graph = self.inner()
            branches[name] = graph.made(name, [], list(map(floats, graph.results(count))))
        return self.node("If", [condition], count, **branches)

    def loop(self):
        """A Loop of one or two states and up to one value of each iteration, which are summed up."""
        states, collected = [self.value() for _ in range(self.rng.integers(1, 3))], int(self.rng.integers(0, 2))
        count, go, *carried = (self.name() for _ in range(2 + len(states)))
        graph = self.inner(carried)
        on = graph.node("Identity", [go])[0]
        outputs = graph.results(len(states) + collected)
        inputs = [(count, TensorProto.INT64, []), (go, TensorProto.BOOL, [])]
        inputs += [(name, TensorProto.FLOAT, ["B", WIDTH]) for name in carried]
        results = [helper.make_tensor_value_info(on, TensorProto.BOOL, []), *map(floats, outputs)]
        body = graph.made("body", inputs, results)
        trips = "trips" if self.rng.random() < 0.5 else self.constant(np.int64(2))
        values = self.node("Loop", [trips, "", *states], len(outputs), body=body)
        return self._summed(values, len(states))

    def scan(self):
        """A Scan along the steps of the input "x", either way, of up to two states."""
        states = [self.value() for _ in range(self.rng.integers(0, 3))]
        collected = int(self.rng.integers(not states, 3))
        carried, step = [self.name() for _ in states], self.name()
        graph = self.inner([*carried, step])
        inputs = [(name, TensorProto.FLOAT, ["B", WIDTH]) for name in (*carried, step)]
        outputs = graph.results(len(states) + collected)
        body = graph.made("body", inputs, list(map(floats, outputs)))
        directions = {"scan_input_directions": [int(self.rng.integers(2))]}
        values = self.node("Scan", [*states, "x"], len(outputs), body=body, num_scan_inputs=1, **directions)
        return self._summed(values, len(states))

    def _summed(self, values, states):
        axes = self.constant(np.array([0]))
        sums = [self.node("ReduceSum", [name, axes], keepdims=0)[0] for name in values[states:]]
        return [*values[:states], *sums]


def floats(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", WIDTH])


def control_model(seed):
    """An ONNX model of at least one control node at the top, and its inputs."""
    rng = np.random.default_rng(seed)
    graph = ControlGraph(rng, iter(range(10**6)), ["s"])
    graph.seen += getattr(graph, ("if_node", "loop", "scan")[seed % 3])()
    graph.add(3)
    outputs = graph.node("Identity", [graph.seen[1]]) + graph.results(int(rng.integers(0, 3)))
    inputs = [
        ("x", TensorProto.FLOAT, ["T", "B", WIDTH]),
        ("s", TensorProto.FLOAT, ["B", WIDTH]),
        ("flag", TensorProto.BOOL, []),
        ("trips", TensorProto.INT64, []),
    ]
    made = graph.made("g", inputs, list(map(floats, outputs)))
    given = {
        "x": rng.standard_normal((STEPS, ROWS, WIDTH)).astype(np.float32),
        "s": rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "flag": np.array(bool(rng.integers(2))),
        "trips": np.array(3),
    }
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), given
