"""Graphs of n nodes: chains, fans, trees and many inputs of every family of ops."""

import numpy as np

from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import LSTM

X = Input("x", "float", ("B", "T", 4))


def chain(op, count, x=X, inputs=lambda before: (before,), **attributes):
    """count nodes, each of the one before."""
    nodes = []
    for place in range(count):
        nodes.append(Node(f"n{place}", op, inputs(f"n{place - 1}" if place else x.name), attributes))
    return Spec((x,), tuple(nodes), (f"n{count - 1}",))


def constants(count):
    """Additions of a constant each, and products with one."""
    nodes = []
    for place in range(count // 2):
        nodes.append(Node(f"c{place}", "Constant", (), {"dtype": "float", "value": float(place)}))
        nodes.append(Node(f"n{place}", "Add", (f"n{place - 1}" if place else "x", f"c{place}")))
    return Spec((X,), tuple(nodes), (nodes[-1].name,))


def fan(count):
    """Many readers of one value, all of them outputs."""
    nodes = tuple(Node(f"n{place}", "Relu", ("x",)) for place in range(count))
    return Spec((X,), nodes, tuple(node.name for node in nodes))


def tree(count):
    """Many values joined by Concat, a thousand at a time."""
    nodes = [Node(f"n{place}", "Tanh", ("x",)) for place in range(count)]
    groups = [nodes[first : first + 1000] for first in range(0, count, 1000)]
    joins = [
        Node(f"j{place}", "Concat", tuple(node.name for node in group), {"axis": 2})
        for place, group in enumerate(groups)
    ]
    return Spec((X,), (*nodes, *joins), tuple(join.name for join in joins))


def many_inputs(count):
    inputs = tuple(Input(f"x{place}", "float", ("B", 4)) for place in range(count))
    nodes = tuple(Node(f"n{place}", "Relu", (f"x{place}",)) for place in range(count))
    return Spec(inputs, nodes, tuple(node.name for node in nodes))


def embeddings(count):
    """Embeddings of one input, each of a recurrent layer of its own: what folding looks for."""
    nodes = []
    for place in range(count // 2):
        nodes.append(Node(f"e{place}", "Embedding", ("ids",), {"input_size": 3, "output_size": 2}))
        nodes.append(Recurrent(f"r{place}", LSTM(2, 1), f"e{place}"))
    return Spec((Input("ids", "int64", ("B", "T")),), tuple(nodes), tuple(node.name for node in nodes[1::2]))


def layers(count):
    """Recurrent layers in a row, which a pass makes one stack of, in groups with an op between them."""
    nodes, before = [], "x"
    for place in range(count):
        kind = Node(f"n{place}", "Relu", before) if place % 50 == 49 else Recurrent(f"n{place}", LSTM(4, 4), before)
        nodes.append(kind)
        before = kind.name
    return Spec((X,), tuple(nodes), (before,))


GRAPHS = {
    "elementwise": lambda n: chain("Relu", n),
    "swish": lambda n: chain("Sigmoid", n),
    "binary": lambda n: chain("Mul", n, inputs=lambda before: (before, before)),
    "along_axis": lambda n: chain("Softmax", n, axis=-1),
    "reduce": lambda n: chain("ReduceMax", n, axes=(-1,), keepdims=True),
    "logic": lambda n: chain("Not", n, Input("x", "bool", ("B", 4))),
    "linear": lambda n: chain("Linear", n, input_size=4, output_size=4),
    "products": lambda n: chain("MatMul", n, Input("x", "float", ("B", 4, 4)), inputs=lambda before: (before, before)),
    "transposes": lambda n: chain("Transpose", n, perm=(1, 0, 2)),
    "reshape": lambda n: chain("Reshape", n, shape=(0, 0, 4)),
    "slices": lambda n: chain("Slice", n, starts=(0,), ends=(4,), axes=(2,)),
    "casts": lambda n: chain("Identity", n),
    "gather": lambda n: chain("Gather", n, axis=2, indices=(0, 1, 2, 3)),
    "convolution": lambda n: chain(
        "Conv", n, Input("x", "float", ("B", 4, "T")), kernel_shape=(1,), input_size=4, output_size=4
    ),
    "pooling": lambda n: chain("MaxPool", n, kernel_shape=(1,)),
    "normalization": lambda n: chain("LRN", n, size=1),
    "resize": lambda n: chain("Pad", n, pads=(0,) * 6),
    "spectral": lambda n: chain("DFT", n, Input("x", "float", ("B", 4, 2)), axis=1),
    "attention": lambda n: chain("KerasAttention", n, inputs=lambda before: (before, before)),
    "constants": constants,
    "fan": fan,
    "tree": tree,
    "many_inputs": many_inputs,
    "embeddings": embeddings,
    "layers": layers,
}


def weights_of(spec):
    zeros = {}
    return {name: zeros.setdefault(shape, np.zeros(shape, np.float32)) for name, shape in spec.weight_shapes().items()}
