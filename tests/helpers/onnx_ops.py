"""For tests: one ONNX node as a Model of one Node, its values inferred and then compared with what it gives.

    node = OneNode("Conv", {"strides": [2]}, [x, w])
    y, = node.run()

Inputs stay inputs of the graph, or, for those named in ``constants``, become the attributes that an importer makes of
constant ones. Shapes are inferred as they are and with names for sizes, and must be those of the arrays.
"""

import functools
import re

import numpy as np
from exact_integers import rational_sigmoid, rational_tanh

from rnncore.graph.nodes import Input, Node
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, UNKNOWN
from rnncore.runtime.model import Model

DTYPES = {"float32": "float"}


def dtype_of(array):
    return DTYPES.get(array.dtype.name, array.dtype.name)


class OneNode:
    """A node "n" over the inputs "i0", "i1", ...; None stands for an absent one."""

    def __init__(self, op, attributes, arrays, constants=(), named=()):
        """named: axes of the first input whose sizes are names."""
        attributes = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
        arrays = list(arrays)
        for name in constants:
            position = OPS[op].parameters[name]
            if position < len(arrays) and arrays[position] is not None:
                value = arrays[position].tolist()
                attributes[name] = tuple(value) if isinstance(value, list) else value
                arrays[position] = None
        while arrays and arrays[-1] is None:
            arrays.pop()
        self.arrays = {f"i{place}": array for place, array in enumerate(arrays) if array is not None}
        inputs = []
        self.sizes = {}
        for name, array in self.arrays.items():
            shape = list(array.shape)
            for axis in named if name == "i0" else ():
                self.sizes[f"S{axis}"] = shape[axis]
                shape[axis] = f"S{axis}"
            inputs.append(Input(name, dtype_of(array), tuple(shape)))
        names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
        self.node = Node("n", op, tuple(names), attributes)
        self.spec = Spec(tuple(inputs), (self.node,), self.node.names)

    def run(self, **options):
        """The outputs, in the order of the op; AssertionError where they are not what was inferred."""
        by_name = Model(self.spec, {}, **options).run(self.arrays)
        outputs = [by_name[name] for name in self.node.names]
        for name, array in zip(self.node.names, outputs, strict=True):
            value = self.spec.values[name]
            assert value.dtype == dtype_of(array), f"{name}: {array.dtype}, inferred {value}"
            assert len(value.shape) == array.ndim, f"{name}: {array.shape}, inferred {value}"
            for size, inferred in zip(array.shape, value.shape, strict=True):
                assert inferred == UNKNOWN or self.size(inferred) == size, f"{name}: {array.shape}, inferred {value}"
        return outputs

    def size(self, inferred):
        """A size, or the expression of one, as a number."""
        if isinstance(inferred, int):
            return inferred
        assert re.fullmatch(r"[S\d+*/() -]+", inferred), inferred
        return eval(inferred, {}, self.sizes)  # digits, names and operators only


def onnx_node(node):
    """(op, attributes) of an onnx NodeProto, as OneNode takes them."""
    import onnx

    attributes = {}
    for entry in node.attribute:
        value = onnx.helper.get_attribute_value(entry)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [item.decode() for item in value]
        attributes[entry.name] = value
    if node.op_type == "MaxPool" and len(node.output) > 1:
        attributes["indices"] = True
    if node.op_type == "LayerNormalization" and len(node.output) > 1:
        attributes["statistics"] = True
    return node.op_type, attributes


def run_onnxruntime(op, attributes, arrays, outputs=1, domain="", opset=22):
    """What ONNX Runtime, with one thread, gives for one node; None stands for an absent input."""
    import onnxruntime
    from onnx import helper

    names = ["" if array is None else f"i{place}" for place, array in enumerate(arrays)]
    given = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    results = [f"o{place}" for place in range(outputs)]
    node = helper.make_node(op, names, results, domain=domain, **attributes)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in given.items()
    ]
    ends = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], "g", inputs, ends)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(results, given)


@functools.cache
def onnxruntime_has_the_bits():
    """Whether ONNX Runtime's Sigmoid and Tanh have, on this CPU, the bits of the formulas: they have with FMA."""
    x = np.linspace(-20, 20, 20_001, dtype=np.float32)
    formulas = {"Sigmoid": rational_sigmoid, "Tanh": rational_tanh}
    return all((run_onnxruntime(op, {}, [x])[0] == formula(x)).all() for op, formula in formulas.items())
