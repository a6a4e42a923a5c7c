"""Malicious, malformed and odd ONNX files, each with the argument why it must be refused, or must load.

``HOSTILE`` and ``BENIGN`` map a name to a Case; ``write(case, directory)`` makes the file, in a directory of its own
with whatever the case puts beside it. Fields that onnx itself would not write are put together byte by byte.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from rnncore.errors import FormatError, RnncoreError, UnsupportedError

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Case:
    """``build`` gives a ModelProto or bytes; refused with ``error`` whose message contains ``says``, or read.

    beside  makes what stands beside the file, in its directory
    run     a benign case: inputs and the outputs that they must give
    """

    name: str
    why: str
    build: Callable[[], ModelProto | bytes]
    error: type[RnncoreError] | None = None
    says: str = ""
    beside: Callable[[Path], None] | None = None
    run: tuple[dict, dict] | None = None


HOSTILE: dict[str, Case] = {}
BENIGN: dict[str, Case] = {}


def hostile(says: str, why: str, error: type[RnncoreError] = FormatError, beside=None):
    """Registers a builder as a file that must be refused with a message that contains ``says``."""

    def register(build):
        HOSTILE[build.__name__] = Case(build.__name__, why, build, error, says, beside)
        return build

    return register


def benign(inputs: dict, outputs: dict, why: str, beside=None):
    """Registers a builder as a file that must load and give these outputs."""

    def register(build):
        BENIGN[build.__name__] = Case(build.__name__, why, build, None, "", beside, (inputs, outputs))
        return build

    return register


def write(case: Case, directory: Path) -> Path:
    """The case's file in a directory of its own below ``directory``."""
    own = Path(directory) / case.name
    own.mkdir(exist_ok=True)
    if case.beside is not None:
        case.beside(own)
    built = case.build()
    path = own / "model.onnx"
    path.write_bytes(built if isinstance(built, bytes) else built.SerializeToString())
    return path


# Models


def value(name: str, shape=("B", 3), kind: int = FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def graph_of(*nodes, inputs=None, outputs=None, constants=(), name="graph") -> GraphProto:
    inputs = [value("x")] if inputs is None else inputs
    outputs = [value("y", None)] if outputs is None else outputs
    return helper.make_graph(list(nodes), name, inputs, outputs, list(constants))


def model_of(*nodes, opset=22, functions=(), **parts) -> ModelProto:
    opsets = [helper.make_opsetid("", opset)]
    if functions:
        opsets.append(helper.make_opsetid("own", 1))
    return helper.make_model(graph_of(*nodes, **parts), opset_imports=opsets, functions=list(functions), ir_version=10)


def node(op: str, inputs: str, outputs: str = "y", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def constant(name: str, array) -> TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def tensor(name: str = "w", kind: int = FLOAT, dims=(3,), **fields) -> TensorProto:
    """A tensor that says whatever it is told to."""
    proto = TensorProto(name=name, data_type=kind, dims=dims)
    for key, content in fields.items():
        if isinstance(content, bytes | int):
            setattr(proto, key, content)
        else:
            getattr(proto, key).extend(content)
    return proto


def with_tensor(*tensors: TensorProto) -> ModelProto:
    """x + w."""
    return model_of(node("Add", "x w"), constants=tensors)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    digits = b""
    while number > 127:
        digits += bytes([number & 127 | 128])
        number >>= 7
    return digits + bytes([number])


HEAD = b"\x08\x0a"  # ir_version 10
OPSET = field(8, b"\x10\x16")  # version 22

# Bytes


@hostile("truncated", "the download stopped in the middle of the graph")
def wire_truncated():
    return with_tensor(constant("w", np.zeros(300, np.float32))).SerializeToString()[:-20]


@hostile("a model without a graph", "a file that ends before its graph begins")
def wire_no_graph():
    return HEAD + b"\x12\x07pytorch"


@hostile(
    "has 16383 bytes, 0 remain",
    "a length beyond the end of the message around it, which a careless reader would follow",
)
def wire_length_beyond_parent():
    return HEAD + OPSET + field(7, b"\x0a\xff\x7f")


@hostile("wire type 3", "groups nest without a length and are not part of ONNX")
def wire_group():
    return HEAD + OPSET + field(7, b"\x0b\x0c")


@hostile("more than ten bytes", "a number that never ends")
def wire_endless_varint():
    return HEAD + OPSET + field(7, b"\x38" + b"\xff" * 30)


@hostile("too many fields", "empty nodes cost two bytes in the file and a hundred in memory")
def wire_many_nodes():
    return HEAD + OPSET + field(7, b"\x0a\x00" * 400_000)


@hostile("too many bytes of packed integers", "a packed integer costs one byte in the file and eight in memory")
def wire_packed_integers():
    return HEAD + OPSET + field(7, field(5, b"\x10\x07" + field(7, bytes(12 << 20))))


@hostile("nested too deeply", "graphs within graphs, until a recursive reader runs out of stack")
def wire_nested_graphs():
    inner = field(1, field(4, b"If"))
    for _ in range(2000):
        inner = field(1, field(4, b"If") + field(5, field(6, inner)))
    return HEAD + OPSET + field(7, inner)


@hostile("nested too deeply", "types within types")
def wire_nested_types():
    inner = b""
    for _ in range(500):
        inner = field(4, field(1, inner))
    return HEAD + OPSET + field(7, field(11, field(1, b"x") + field(2, inner)))


@hostile("two fields 7", "protobuf merges two graphs into one: what was checked is not what runs")
def wire_two_graphs():
    return model_of(node("Relu", "x")).SerializeToString() + field(7, b"")


@hostile("ir_version", "a version that is none")
def wire_ir_version():
    model = model_of(node("Relu", "x"))
    model.ir_version = 63 + (1 << 40)
    data = model.SerializeToString()
    return data[data.index(b":") :] + b"\x08\x40"


# Tensors


@hostile("4 bytes for dims [3]", "fewer bytes than elements: the rest would come from foreign memory")
def tensor_short():
    return with_tensor(tensor(raw_data=bytes(4)))


@hostile("16 bytes for dims [3]", "more bytes than elements")
def tensor_long():
    return with_tensor(tensor(raw_data=bytes(16)))


@hostile("bytes for dims", "a product of sizes that is 0 in 64 bits, and 2^66 in truth")
def tensor_overflow():
    return with_tensor(tensor(dims=(1 << 33, 1 << 33), raw_data=bytes(16)))


@hostile("expected data in one field", "eight tebibytes of nothing in a hundred bytes")
def tensor_huge():
    return with_tensor(tensor(dims=(1 << 43,)))


@hostile("dims [-3]", "a negative size")
def tensor_negative():
    return with_tensor(tensor(dims=(-3,), raw_data=bytes(12)))


@hostile("expected at most 16 sizes", "a rank that NumPy does not have")
def tensor_rank():
    return with_tensor(tensor(dims=(1,) * 100, raw_data=bytes(4)))


@hostile("raw_data and float_data", "two answers to what the weights are; readers differ in which they take")
def tensor_two_fields():
    return with_tensor(tensor(raw_data=bytes(12), float_data=[1.0, 2.0, 3.0]))


@hostile("float32 in int32_data", "data in the field of another type")
def tensor_wrong_field():
    return with_tensor(tensor(int32_data=[1, 2, 3]))


@hostile("elements of type string", "strings are no numbers", UnsupportedError)
def tensor_strings():
    return with_tensor(tensor(kind=TensorProto.STRING, string_data=[b"a", b"b", b"c"]))


@hostile("elements of type complex64", "complex numbers are refused by name", UnsupportedError)
def tensor_complex():
    return with_tensor(tensor(kind=TensorProto.COMPLEX64, raw_data=bytes(24)))


@hostile("elements of type 99", "a type that does not exist")
def tensor_unknown_type():
    return with_tensor(tensor(kind=99, raw_data=bytes(12)))


@hostile("a bool is 2, expected 0 or 1", "a bool of 2 is both true and false to compilers")
def tensor_bool():
    return with_tensor(tensor(kind=TensorProto.BOOL, raw_data=b"\0\1\2"))


@hostile("which int8 does not hold", "300 in an int8, which wraps around")
def tensor_int8_range():
    return with_tensor(tensor(kind=TensorProto.INT8, int32_data=[1, 2, 300]))


@hostile("a segment", "parts of a tensor are read nowhere, and would be taken for all of it", UnsupportedError)
def tensor_segment():
    proto = tensor(raw_data=bytes(12))
    proto.segment.begin = 1
    return with_tensor(proto)


@hostile("expected a name of its own", "two weights of one name: which one is checked and which one runs?")
def tensor_twice():
    return with_tensor(constant("w", np.zeros(3, np.float32)), constant("w", np.ones(3, np.float32)))


@hostile("sparse_initializer", "sparse weights are refused by name, not left out", UnsupportedError)
def tensor_sparse():
    model = model_of(node("Relu", "x"))
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(constant("s", np.zeros(1, np.float32)))
    sparse.indices.CopyFrom(constant("", np.zeros(1, np.int64)))
    sparse.dims.append(3)
    return model


# External data


def external(location: str, **more: str) -> TensorProto:
    proto = TensorProto(name="w", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **more}.items():
        proto.external_data.add(key=key, value=text)
    return proto


THREE = np.array([1, 2, 3], np.float32).tobytes()


def weights_beside(directory: Path) -> None:
    (directory / "w.bin").write_bytes(THREE)


@hostile("beneath the model's directory", "the classic: a weight that is /etc/passwd")
def external_absolute():
    return with_tensor(external("/etc/passwd"))


@hostile("beneath the model's directory", "the other classic")
def external_parent():
    return with_tensor(external("../../../../etc/passwd"))


@hostile("beneath the model's directory", "a way up in the middle of a path", beside=weights_beside)
def external_inner_parent():
    return with_tensor(external("sub/../../secret"))


@hostile("beneath the model's directory", "the same with the separators of another system")
def external_backslash():
    return with_tensor(external("..\\..\\secret"))


def a_link(directory: Path) -> None:
    (directory / "w.bin").unlink(missing_ok=True)
    (directory / "w.bin").symlink_to("/etc/passwd")


@hostile("without symbolic links", "a link beside the model that leads elsewhere", beside=a_link)
def external_link():
    return with_tensor(external("w.bin"))


def a_linked_directory(directory: Path) -> None:
    (directory / "sub").unlink(missing_ok=True)
    (directory / "sub").symlink_to("/etc")


@hostile("without symbolic links", "a linked directory on the way", beside=a_linked_directory)
def external_linked_directory():
    return with_tensor(external("sub/passwd"))


def two_links(directory: Path) -> None:
    (directory / "w.bin").write_bytes(THREE)
    if not (directory / "other").exists():
        os.link(directory / "w.bin", directory / "other")


@hostile("several hard links", "a second name for a file that is not the model's", beside=two_links)
def external_hard_link():
    return with_tensor(external("w.bin"))


def a_fifo(directory: Path) -> None:
    if not (directory / "w.bin").exists():
        os.mkfifo(directory / "w.bin")


@hostile("no regular file", "a fifo would wait for a writer for ever", beside=a_fifo)
def external_fifo():
    return with_tensor(external("w.bin"))


@hostile("bytes 8 to 20", "a range that ends behind the file", beside=weights_beside)
def external_past_end():
    return with_tensor(external("w.bin", offset="8", length="12"))


@hostile("8 bytes of external data, expected 12", "a length that is not the tensor's", beside=weights_beside)
def external_wrong_length():
    return with_tensor(external("w.bin", length="8"))


@hostile("offset '-4'", "an offset before the file", beside=weights_beside)
def external_negative():
    return with_tensor(external("w.bin", offset="-4"))


@hostile("both external data and data", "two answers again", beside=weights_beside)
def external_and_raw():
    proto = external("w.bin")
    proto.raw_data = THREE
    return with_tensor(proto)


# Graphs


@hostile("a cycle through", "two nodes that wait for each other")
def graph_cycle():
    return model_of(node("Add", "x b", "a"), node("Add", "x a", "b"), node("Relu", "a"))


@hostile("given a second time", "two nodes give y: the answer depends on the reader")
def graph_two_givers():
    return model_of(node("Relu", "x"), node("Tanh", "x"))


@hostile("which nothing gives", "a value out of nowhere")
def graph_dangling():
    return model_of(node("Add", "x nothing"))


@hostile("no node gives it", "an output out of nowhere")
def graph_dangling_output():
    return model_of(node("Relu", "x", "z"))


@hostile("no op_type", "a node that is nothing")
def graph_no_op():
    return model_of(node("", "x"))


@hostile("is not supported", "an op that does not exist, named with its place", UnsupportedError)
def graph_unknown_op():
    return model_of(node("Relu", "x", "z"), node("Rulo", "z"))


@hostile("op 'Relu' of opset 0 is not supported", "a custom op under a harmless name", UnsupportedError)
def graph_unknown_domain():
    return model_of(helper.make_node("Relu", ["x"], ["y"], domain="com.example"))


@hostile("attribute 'surprise'", "an attribute that would be ignored elsewhere", UnsupportedError)
def graph_unknown_attribute():
    return model_of(node("Relu", "x", surprise=1))


@hostile("opset 6", "what old opsets mean is another language", UnsupportedError)
def graph_old_opset():
    return model_of(node("Relu", "x"), opset=6)


@hostile("a sequence", "a list of tensors", UnsupportedError)
def graph_sequence_input():
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["B"]))
    return model_of(node("Relu", "x"), inputs=[helper.make_value_info("x", kind)])


@hostile("training_info", "a model that wants to be trained", UnsupportedError)
def graph_training():
    model = model_of(node("Relu", "x"))
    model.training_info.add()
    return model


@hostile("expected at least its rank", "an input of which nothing is known", UnsupportedError)
def graph_no_shape():
    return model_of(node("Relu", "x"), inputs=[value("x", None)])


@hostile("is computed or given by the caller", "a recurrent layer without weights", UnsupportedError)
def graph_lstm_without_weights():
    shapes = {"x": ("T", "B", 4), "w": (1, 12, 4), "r": (1, 12, 3)}
    return model_of(node("LSTM", "x w r", hidden_size=3), inputs=[value(n, shape) for n, shape in shapes.items()])


@hostile("input R has shape (1, 12, 4)", "weights that a kernel would read past the end of")
def graph_lstm_wrong_weights():
    arrays = [constant("w", np.zeros((1, 16, 4), np.float32)), constant("r", np.zeros((1, 12, 4), np.float32))]
    return model_of(node("LSTM", "x w r"), inputs=[value("x", ("T", "B", 4))], constants=arrays)


@hostile("functions that call each other", "a function that calls itself")
def function_recursion():
    body = [helper.make_node("f", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    return model_of(helper.make_node("f", ["x"], ["y"], domain="own"), functions=[function])


@hostile("functions that call each other", "a billion laughs: each function calls the one before it ten times")
def function_billion_laughs():
    opsets = [helper.make_opsetid("own", 1), helper.make_opsetid("", 22)]
    functions: list[FunctionProto] = []
    for level in range(12):
        inner, domain = ("Relu", "") if level == 0 else (f"f{level - 1}", "own")
        names = ["a", *(f"v{i}" for i in range(9)), "b"]
        body = [helper.make_node(inner, [p], [q], domain=domain) for p, q in itertools.pairwise(names)]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], body, opsets))
    return model_of(helper.make_node("f11", ["x"], ["y"], domain="own"), functions=functions)


@hostile("refers to a function's", "an attribute that refers to what is not there")
def function_reference_outside():
    model = model_of(node("LeakyRelu", "x"))
    model.graph.node[0].attribute.add(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    return model


# Constants that grow


@hostile("a constant of", "a terabyte of ones from sixteen bytes")
def bomb_constant_of_shape():
    shape = constant("shape", np.array([1 << 20, 1 << 20], np.int64))
    return model_of(node("ConstantOfShape", "shape", "big"), node("ReduceSum", "big"), constants=[shape])


@hostile("a constant of", "one number, copied a trillion times")
def bomb_expand():
    arrays = [constant("one", np.ones(1, np.float32)), constant("shape", np.array([1 << 40], np.int64))]
    return model_of(node("Expand", "one shape", "big"), node("ReduceSum", "big"), constants=arrays)


@hostile("a constant of", "four Tiles of a thousand times each")
def bomb_tile():
    nodes = [node("Tile", f"v{i} many", f"v{i + 1}") for i in range(4)]
    arrays = [constant("v0", np.ones(2, np.float32)), constant("many", np.array([1000], np.int64))]
    return model_of(*nodes, node("ReduceSum", "v4"), constants=arrays)


@hostile("a constant of", "a Range from here to the end of memory")
def bomb_range():
    arrays = [constant(n, np.array(v, np.int64)) for n, v in (("a", 0), ("b", 1 << 50), ("c", 1))]
    return model_of(node("Range", "a b c", "big"), node("Cast", "big", to=FLOAT), constants=arrays)


# What is odd and right

X = np.array([[1.0, -2.0, 3.0]], np.float32)
GIVEN = {"x": X}
SUM = X + np.array([1, 2, 3])
RELU = {"y": np.maximum(X, 0)}


@benign(GIVEN, RELU, "the least that is a model")
def fine_relu():
    return model_of(node("Relu", "x"))


@benign(GIVEN, RELU, "fields in another order: protobuf allows any")
def fine_fields_turned():
    model = model_of(node("Relu", "x"))
    graph = field(7, model.graph.SerializeToString())
    return graph + OPSET + HEAD


@benign(
    GIVEN, {"y": np.tanh(np.maximum(X, 0))}, "nodes in no order: the specification asks for one, some writers do not"
)
def fine_unsorted():
    return model_of(node("Tanh", "z"), node("Relu", "x", "z"))


@benign(GIVEN, {"y": SUM}, "weights in float_data, as the first exporters wrote them")
def fine_float_data():
    return with_tensor(tensor(float_data=[1.0, 2.0, 3.0]))


@benign(GIVEN, {"y": SUM}, "float16 in int32_data, and a Cast", None)
def fine_half_in_int32():
    bits = np.array([1, 2, 3], np.float16).view(np.uint16).tolist()
    half = tensor("h", TensorProto.FLOAT16, int32_data=bits)
    return model_of(node("Cast", "h", "w", to=FLOAT), node("Add", "x w"), constants=[half])


@benign(GIVEN, {"y": SUM}, "bfloat16, which NumPy has not")
def fine_bfloat16():
    raw = (np.array([1, 2, 3], np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return model_of(
        node("Cast", "h", "w", to=FLOAT),
        node("Add", "x w"),
        constants=[tensor("h", TensorProto.BFLOAT16, raw_data=raw)],
    )


@benign(GIVEN, {"y": SUM}, "external data beside the model", weights_beside)
def fine_external():
    return with_tensor(external("w.bin"))


def weights_below(directory: Path) -> None:
    (directory / "data").mkdir(exist_ok=True)
    (directory / "data" / "w.bin").write_bytes(bytes(8) + THREE + b"more")


@benign(GIVEN, {"y": SUM}, "a range of a file in a directory below", weights_below)
def fine_external_range():
    return with_tensor(external("data/w.bin", offset="8", length="12"))


@benign(GIVEN, {"y": SUM}, "an initializer that is an input too, as all were before IR version 4")
def fine_default_input():
    return model_of(
        node("Add", "x w"),
        inputs=[value("x"), value("w", (3,))],
        constants=[constant("w", np.array([1, 2, 3], np.float32))],
    )


@benign(GIVEN, {"y": X}, "the input is the output")
def fine_nothing_to_do():
    return model_of(node("Identity", "x"))


@benign(GIVEN, {"y": np.array([1, 2, 3], np.float32)}, "an output that does not depend on the input")
def fine_constant_output():
    return model_of(node("Constant", "", value_floats=[1.0, 2.0, 3.0]))


@benign(GIVEN, RELU, "names with spaces, slashes and letters of every alphabet")
def fine_names():
    return model_of(node("Relu", "x", "η/слой:0"), node("Identity", "η/слой:0"))


@benign(GIVEN, RELU, "names that are not printable inside the graph")
def fine_unprintable_names():
    return model_of(
        helper.make_node("Relu", ["x"], ["\x1b[31m"], name="\x07"), helper.make_node("Identity", ["\x1b[31m"], ["y"])
    )


@benign(GIVEN, RELU, "absent inputs at the end, written out", None)
def fine_absent_inputs():
    low = constant("low", np.array(0, np.float32))
    return model_of(helper.make_node("Clip", ["x", "low", ""], ["y"]), constants=[low])


@benign(GIVEN, {"y": X * 2}, "a function of the model, called twice, with an attribute of its own")
def fine_function():
    opsets = [helper.make_opsetid("", 22)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT)
    function = helper.make_function("own", "f", ["a"], ["b"], [leaky], opsets, attributes=["slope"])
    calls = [helper.make_node("f", ["x"], [f"v{i}"], domain="own", slope=1.0) for i in range(2)]
    return model_of(*calls, node("Add", "v0 v1"), functions=[function])


@benign(GIVEN, {"y": X + 2}, "a branch that is always taken, around another one")
def fine_nested_if():
    def branch(add):
        return graph_of(
            node("Add", "x two" if add else "x x", "inner"), inputs=[], outputs=[value("inner", None)], name="branch"
        )

    outer = graph_of(
        helper.make_node("If", ["yes"], ["middle"], then_branch=branch(True), else_branch=branch(False)),
        inputs=[],
        outputs=[value("middle", None)],
    )
    arrays = [constant("yes", np.array(True)), constant("two", np.array(2, np.float32))]
    return model_of(
        helper.make_node("If", ["yes"], ["y"], then_branch=outer, else_branch=branch(False)), constants=arrays
    )


@benign(GIVEN, RELU, "an op that nothing reads, with a value of no size at all")
def fine_empty_constant():
    return model_of(node("Relu", "x"), node("Identity", "none", "unused"), constants=[tensor("none", dims=(0, 4))])


@benign({"x": X, "flag": np.array(False)}, {"y": X - 1}, "an If that the input decides")
def fine_if():
    def branch(op):
        return graph_of(node(op, "x one", "inner"), inputs=[], outputs=[value("inner", None)])

    return model_of(
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("Add"), else_branch=branch("Sub")),
        inputs=[value("x"), value("flag", (), TensorProto.BOOL)],
        constants=[constant("one", np.array(1, np.float32))],
    )


@benign(GIVEN, {"y": X * 8}, "a Loop that doubles three times")
def fine_loop():
    body = graph_of(
        node("Add", "v v", "twice"),
        inputs=[value("i", (), INT64), value("go", (), TensorProto.BOOL), value("v")],
        outputs=[value("go", (), TensorProto.BOOL), value("twice")],
    )
    loop = helper.make_node("Loop", ["three", ""], ["y"], body=body)
    loop.input.append("x")
    return model_of(loop, constants=[constant("three", np.array(3, np.int64))])
