"""Small ONNX graphs through the ops themselves: inferred, run, and what was inferred held against what was run."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rnncore.errors import SpecError
from rnncore.ops import UNKNOWN, Value, along_axis, elementwise, indexing, logic, numpy_dtype, products, reduce, shape

DTYPES = {
    TensorProto.FLOAT: "float",
    TensorProto.DOUBLE: "float64",
    **{getattr(TensorProto, name.upper()): name for name in (
        "float16", "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
    )},
}  # fmt: skip
NUMPY = {numpy_dtype(name): name for name in DTYPES.values()}
GENERIC = {
    op.name: op for family in (along_axis, elementwise, indexing, logic, products, reduce, shape) for op in family.OPS
}
"""The ops that say with their inputs and attributes all that they do."""
WAYS = ("attributes", "constants", "names", "inputs")
"""How parameters come: as attributes, as inputs of known content, as attributes beside inputs whose sizes are only
names, and as inputs of which nothing but dtype and shape is known. A frozenset is a way too: the parameters of these
names are such inputs, the others attributes."""


class Unsupported(Exception):
    """The graph has a dtype or an op that is not ours."""


@functools.cache
def node_tests():
    """ONNX's own tests of single nodes, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind="node")}


def array_of(given):
    """What a test case holds as an input or output: an array, a NumPy number or a TensorProto."""
    if isinstance(given, TensorProto):
        return numpy_helper.to_array(given)
    if not isinstance(given, (np.ndarray, np.generic)):
        raise Unsupported(type(given).__name__)
    return np.asarray(given)


def dtype_of(array):
    if array.dtype not in NUMPY:
        raise Unsupported(str(array.dtype))
    return NUMPY[array.dtype]


def attributes_of(node):
    """A node's attributes as rnncore has them."""
    attributes = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.STRINGS, onnx.AttributeProto.TYPE_PROTO):
            raise Unsupported(attribute.name)
        if attribute.name in ("to", "dtype"):
            if value not in DTYPES:
                raise Unsupported(TensorProto.DataType.Name(value))
            value = DTYPES[value]
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    if node.op_type == "ConstantOfShape" and "value" in attributes:
        array = numpy_helper.to_array(attributes["value"])
        attributes |= {"dtype": dtype_of(array), "value": array.item()}
    return {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}


def constant_of(node):
    """The array of a Constant node."""
    (attribute,) = node.attribute
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    if attribute.name.startswith("value_float"):
        return np.array(value, np.float32)
    if attribute.name.startswith("value_int"):
        return np.array(value, np.int64)
    raise Unsupported(attribute.name)


def value_of(array, with_data=True, names=None):
    """The Value of an array; with ``names`` its sizes are names, entered there."""
    shape = array.shape
    if names is not None:
        shape = tuple(f"s{len(names) + axis}" for axis in range(array.ndim))
        names.update(zip(shape, array.shape, strict=True))
    data = tuple(array.ravel().tolist()) if with_data and array.ndim <= 1 and array.size <= 64 else None
    return Value(dtype_of(array), shape, data)


class Graph:
    """The values of one graph of nodes, inferred and run side by side."""

    def __init__(self, model, inputs, way):
        self.graph, self.way, self.sizes = model.graph, way, {}
        self.arrays, self.values, self.constants = {"": None}, {"": None}, {}
        for initializer in self.graph.initializer:
            self._constant(initializer.name, numpy_helper.to_array(initializer))
        free = [entry.name for entry in self.graph.input if entry.name not in self.arrays]
        for name, array in zip(free, map(array_of, inputs), strict=True):
            self.arrays[name] = array
            self.values[name] = value_of(array, way == "constants", self.sizes if way == "names" else None)
            if way in ("attributes", "names") or isinstance(way, frozenset):
                self.constants[name] = array
        for node in self.graph.node:
            self._node(node)

    def _constant(self, name, array):
        self.arrays[name], self.values[name], self.constants[name] = array, value_of(array), array

    def _node(self, node):
        if node.domain not in ("", "ai.onnx"):
            raise Unsupported(node.domain)
        if node.op_type == "Constant":
            self._constant(node.output[0], constant_of(node))
            return
        if node.op_type not in GENERIC:
            raise Unsupported(node.op_type)
        op = GENERIC[node.op_type]
        inputs, attributes = list(node.input), attributes_of(node)
        if node.op_type == "Split":
            attributes["num_outputs"] = len(node.output)
        for name, position in op.parameters.items():
            if self.as_attribute(name) and inputs[position : position + 1] != [""]:
                array = self.constants.get(inputs[position]) if position < len(inputs) else None
                if array is not None and array.ndim <= 1:
                    attributes[name] = tuple(array.tolist()) if array.ndim else array.item()
                    inputs[position] = ""
        unknown = set(attributes) - set(op.attributes)
        assert not unknown, f"{node.op_type}: {unknown}"
        attributes = {key: attributes.get(key, default) for key, default in op.attributes.items()}
        assert ... not in attributes.values(), node.op_type
        assert op.arity[0] <= len(inputs) <= op.arity[1], node.op_type
        self.infer_and_run(op, attributes, inputs, node.output)

    def as_attribute(self, parameter):
        return parameter not in self.way if isinstance(self.way, frozenset) else self.way in ("attributes", "names")

    def infer_and_run(self, op, attributes, inputs, outputs):
        absent = [None] * (op.arity[1] - len(inputs)) if op.optional else []
        values = op.infer(attributes, [*(self.values[name] for name in inputs), *absent])
        with np.errstate(all="ignore"):
            arrays = op.compiled(attributes, {}, 1)(*(self.arrays[name] for name in inputs))
        arrays = arrays if isinstance(arrays, tuple) else (arrays,)
        self.run_bound(op, attributes, inputs, arrays)
        assert len(values) == len(arrays) == len(op.names("n", attributes)) >= len(outputs), op.name
        for name, value, array in zip(outputs, values, arrays, strict=False):
            self.check(op.name, value, array)
            self.arrays[name], self.values[name] = array, value

    def run_bound(self, op, attributes, inputs, expected):
        """What a Model calls, which knows ranks and dtypes, gives the same bits."""
        while inputs and inputs[-1] == "":
            inputs = inputs[:-1]
        run = op.compiled(attributes, {}, 1, np.float32, [self.values[name] for name in inputs])
        with np.errstate(all="ignore"):
            outputs = run(*(self.arrays[name] for name in inputs))
        for one, other in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
            assert one.dtype == other.dtype and one.shape == other.shape, op.name
            assert one.tobytes() == other.tobytes(), op.name

    def check(self, op, value, array):
        """What was inferred is what came out."""
        what = f"{op}: inferred {value}, ran {array.dtype} {array.shape}"
        assert numpy_dtype(value.dtype) == array.dtype and len(value.shape) == array.ndim, what
        for size, own in zip(value.shape, array.shape, strict=True):
            assert size == UNKNOWN or self.number(size) == own, what
        if value.data is not None:
            assert array.ndim <= 1 and len(value.data) == array.size, what
            for item, own in zip(value.data, array.ravel().tolist(), strict=True):
                assert item == UNKNOWN or np.array_equal(self.number(item), own, equal_nan=True), (what, value.data)

    def number(self, size):
        return eval(size, {}, self.sizes) if isinstance(size, str) else size

    def outputs(self):
        return [self.arrays[entry.name] for entry in self.graph.output]


def assert_close(actual, expected, what):
    """Equal in dtype, shape and number; floats to a few units in the last place of a short sum."""
    assert actual.dtype == expected.dtype and actual.shape == expected.shape, what
    if actual.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, what)
        return
    rtol, atol = {2: (2e-3, 1e-3), 4: (1e-5, 2e-6), 8: (1e-7, 1e-9)}[actual.dtype.itemsize]
    np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), rtol, atol, err_msg=what)


def run_model(model, inputs, expected, way):
    """The graph run in one way against its expected outputs; the SpecError where only the run would tell a rank."""
    try:
        graph = Graph(model, inputs, way)
    except SpecError as error:
        if way == "attributes":
            raise
        return error
    for entry, output, wanted in zip(graph.graph.output, graph.outputs(), expected, strict=True):
        assert_close(np.asarray(output), array_of(wanted), entry.name)
    return None
