"""ONNX bytes -> a checked OnnxModel: arrays, and nodes in an order in which each reads only what comes before it.

Protobuf is decoded by the ``onnx`` package, after wire.py has looked at the bytes; nothing else of it is used here,
and no file but the model's own and its external data (external.py) is opened. Everything is an allow-list: element
types, kinds of values, fields of a tensor. What is known to ONNX but not read here is an UnsupportedError that names
it, what contradicts itself a FormatError.

Source: onnx/onnx.proto, IR version 3 to 14.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from rnncore.errors import FormatError, MissingPackageError, UnsupportedError
from rnncore.files.cursor import Budget, Cursor, shown
from rnncore.formats._arrays import HALVES, ITEM_SIZES, WIDENED, from_bytes
from rnncore.formats.onnx.external import ExternalData
from rnncore.formats.onnx.wire import check_wire
from rnncore.graph.limits import more_nodes, most_nodes

__all__ = ["AttributeReference", "OnnxGraph", "OnnxModel", "OnnxNode", "OnnxValue", "needs_onnx", "read_model"]

MAX_BYTES = (1 << 31) - 1  # protobuf's own limit
MAX_NESTING = 4
MAX_RANK = 16
OLDEST_OPSET = 7

# TensorProto.DataType -> the dtype in the file
ELEMENTS = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
OTHER_ELEMENTS = {
    0: "undefined", 8: "string", 14: "complex64", 15: "complex128", 17: "float8e4m3fn", 18: "float8e4m3fnuz",
    19: "float8e5m2", 20: "float8e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4e2m1", 24: "float8e8m0", 25: "uint2",
    26: "int2",
}  # fmt: skip
# The field besides raw_data that may hold each type's elements.
FIELDS = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
FIELDS |= dict.fromkeys(("uint32", "uint64"), "uint64_data")
FIELDS |= dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8", "bool", "float16", "bfloat16"), "int32_data")
DTYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")
DATA_FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class AttributeReference:
    """In the body of a function: the value that its caller gives for an attribute."""

    name: str


@dataclass(frozen=True)
class OnnxNode:
    """A node as the file has it: "" among inputs and outputs is absent. version: of its domain's opset.

    attributes  by name: int, float, str, np.ndarray, OnnxGraph or a list of one of them
    """

    place: str
    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    overload: str = ""

    def __str__(self) -> str:
        op = f"{self.domain}.{self.op}" if self.domain else self.op
        return f"{self.place} {shown(self.name)!r} ({shown(op)})"

    @property
    def graphs(self) -> Iterator[OnnxGraph]:
        """The graphs among its attributes."""
        return (value for value in self.attributes.values() if isinstance(value, OnnxGraph))


@dataclass(frozen=True)
class OnnxValue:
    """An input or output: dtype of ELEMENTS or "" where the file does not say; a size is None where it has no name."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        sizes = "unknown rank" if self.shape is None else ", ".join("?" if s is None else str(s) for s in self.shape)
        return f"{self.dtype or 'unknown type'} ({sizes})"


@dataclass(frozen=True)
class OnnxGraph:
    """A graph, its constants (initializers) by name, its nodes sorted. place: "graph", "graph.node[3].then_branch"."""

    place: str
    inputs: tuple[OnnxValue, ...]
    outputs: tuple[OnnxValue, ...]
    constants: Mapping[str, np.ndarray]
    nodes: tuple[OnnxNode, ...]

    @property
    def count(self) -> int:
        """The number of nodes, those of graphs inside among them."""
        return len(self.nodes) + sum(inner.count for node in self.nodes for inner in node.graphs)

    def free_names(self) -> set[str]:
        """Names of the graphs around it that its nodes read, or that are its outputs."""
        own = {value.name for value in self.inputs} | set(self.constants)
        own.update(name for node in self.nodes for name in node.outputs)
        read = {value.name for value in self.outputs}
        for node in self.nodes:
            read.update(node.inputs)
            for graph in node.graphs:
                read |= graph.free_names()
        return read - own - {""}


@dataclass(frozen=True)
class OnnxModel:
    """A model file: its graph, opset versions by domain, and the floating types that occur anywhere in it."""

    path: str
    graph: OnnxGraph
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    floats: frozenset[str]
    notes: tuple[str, ...] = field(default=())


def needs_onnx() -> Any:
    """The onnx package, or a MissingPackageError that names the extra."""
    try:
        import onnx
    except ImportError:
        raise MissingPackageError(
            'ONNX needs the package onnx, which is not installed: pip install "rnncore[onnx]"'
        ) from None
    return onnx


def read_model(cursor: Cursor) -> OnnxModel:
    """The model in an open file. FormatError, or UnsupportedError for what is ONNX but not read."""
    if len(cursor) > MAX_BYTES:
        raise FormatError(f"{cursor.place}: {len(cursor)} bytes, expected at most {MAX_BYTES}; larger models keep "
                          "their weights in external data")  # fmt: skip
    cursor.seek(0)
    data = cursor.bytes(len(cursor))
    check_wire(data, cursor.place)
    try:
        onnx = needs_onnx()
    except MissingPackageError as error:
        raise MissingPackageError(f"{cursor.place}: {error}") from None
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise FormatError(f"{cursor.place}: damaged: {shown(str(error))}") from None
    del data
    return _Reader(proto, cursor.place, cursor.on_disk).model()


class _Reader:
    """Turns one ModelProto into an OnnxModel."""

    def __init__(self, proto: Any, path: str, on_disk: bool):
        self.proto, self.path = proto, path
        self.external = ExternalData(path if on_disk else None)
        self.nodes = Budget(most_nodes(), "nodes", path, more_nodes())
        self.floats: set[str] = set()
        self.notes: list[str] = []
        self.functions: dict[tuple[str, str, str], Any] = {}
        self.inlined = 0
        # What was decoded of functions, once for all their calls: by the place in the file.
        self.bodies: dict[str, list[OnnxNode]] = {}
        self.defaults: dict[str, dict[str, Any]] = {}
        self.inner: dict[str, OnnxGraph] = {}

    def model(self) -> OnnxModel:
        proto = self.proto
        if not 3 <= proto.ir_version < 64:
            raise FormatError(f"{self.path}: ir_version {proto.ir_version}, expected 3 or more")
        if not proto.HasField("graph"):
            raise FormatError(f"{self.path}: a model without a graph, expected one")
        if proto.training_info:
            raise UnsupportedError(f"{self.path}: training_info, expected a model for inference only")
        opsets = self._opsets(proto.opset_import, "opset_import")
        for place, function in enumerate(proto.functions):
            key = (_domain(function.domain), function.name, function.overload)
            if key in self.functions:
                raise FormatError(f"{self.path}: functions[{place}]: a second {key[1]!r}, expected different names")
            self.functions[key] = (f"functions[{place}]", function)
        graph = self.graph(proto.graph, "graph", opsets, 0, frozenset())
        producer = " ".join(filter(None, (shown(proto.producer_name), shown(proto.producer_version))))
        return OnnxModel(
            self.path, graph, opsets, proto.ir_version, producer, frozenset(self.floats), tuple(self.notes)
        )

    def _opsets(self, entries: Any, place: str) -> dict[str, int]:
        versions: dict[str, int] = {}
        for entry in entries:
            domain = _domain(entry.domain)
            if versions.get(domain, entry.version) != entry.version:
                raise FormatError(f"{self.path}: {place}: domain {domain!r} with two versions, expected one")
            versions[domain] = entry.version
        if "" in versions and versions[""] < OLDEST_OPSET:
            raise UnsupportedError(
                f"{self.path}: {place}: opset {versions['']}, expected {OLDEST_OPSET} or newer; onnx.version_converter "
                "can raise it"
            )
        return versions

    def graph(self, proto: Any, place: str, opsets: Mapping[str, int], depth: int, outer: frozenset[str]) -> OnnxGraph:
        """outer: the names that graphs around this one define before it."""
        if depth > MAX_NESTING:
            raise FormatError(f"{self.path}: {place}: graphs nested too deeply, expected at most {MAX_NESTING}")
        if proto.sparse_initializer:
            raise UnsupportedError(f"{self.path}: {place}: sparse_initializer, expected dense tensors")
        constants: dict[str, np.ndarray] = {}
        for index, tensor in enumerate(proto.initializer):
            where = f"{place}.initializer[{index}]"
            if not tensor.name or tensor.name in constants:
                raise FormatError(f"{self.path}: {where} {shown(tensor.name)!r}: expected a name of its own")
            constants[tensor.name] = self.tensor(tensor, where)
        inputs = self._values(proto.input, f"{place}.input", typed=depth == 0, constants=constants)
        defined = {value.name for value in inputs} | set(constants)
        if depth == 0:
            overridable = [value.name for value in inputs if value.name in constants]
            if overridable and self.proto.ir_version >= 4:
                names = ", ".join(map(shown, overridable[:8])) + (", ..." if len(overridable) > 8 else "")
                self.notes.append(f"inputs with a default are constants of it: {names}")
        inputs = tuple(value for value in inputs if value.name not in constants)
        nodes = []
        for index, node in enumerate(proto.node):
            for made in self._expanded(self.node(node, f"{place}.node[{index}]", opsets, depth, outer), ()):
                self.nodes.spend()
                nodes.append(made)
        nodes = self._sorted(nodes, defined, outer, place)
        outputs = self._values(proto.output, f"{place}.output", typed=False, constants={})
        known = defined.union(outer, *(node.outputs for node in nodes))
        for value in outputs:
            if value.name not in known and value.name not in outer:
                raise FormatError(f"{self.path}: {place}.output {shown(value.name)!r}: no node gives it")
        if not outputs:
            raise FormatError(f"{self.path}: {place}: no outputs, expected at least one")
        return OnnxGraph(place, inputs, outputs, MappingProxyType(constants), tuple(nodes))

    def _sorted(self, nodes: list[OnnxNode], defined: set[str], outer: frozenset[str], place: str) -> list[OnnxNode]:
        """The nodes, each after those whose outputs it reads; in file order where that is one already."""
        maker: dict[str, int] = {}
        for index, node in enumerate(nodes):
            for name in node.outputs:
                if not name:
                    continue
                if name in maker or name in defined:
                    raise FormatError(f"{self.path}: {node}: output {shown(name)!r} is given a second time")
                maker[name] = index
        reads, sorted_already = [], True
        for index, node in enumerate(nodes):
            names: Iterable[str] = node.inputs
            if node.attributes:
                names = set(names).union(*(graph.free_names() for graph in node.graphs))
            before = set()
            for name in names:
                place_of_maker = maker.get(name)
                if place_of_maker is not None:
                    before.add(place_of_maker)
                    sorted_already = sorted_already and place_of_maker < index
                elif name and name not in defined and name not in outer:
                    raise FormatError(f"{self.path}: {node}: reads {shown(name)!r}, which nothing gives")
            reads.append(before)
        if sorted_already:
            return nodes
        readers: list[list[int]] = [[] for _ in nodes]
        for index, before in enumerate(reads):
            for other in before:
                readers[other].append(index)
        left = [len(before) for before in reads]
        ready = [index for index, count in enumerate(left) if not count]
        order = []
        for index in ready:  # grows while it is walked
            order.append(nodes[index])
            for reader in readers[index]:
                left[reader] -= 1
                if not left[reader]:
                    ready.append(reader)
        if len(order) < len(nodes):
            stuck = nodes[next(index for index, count in enumerate(left) if count)]
            raise FormatError(f"{self.path}: {place}: a cycle through {stuck}")
        return order

    def _values(self, entries: Any, place: str, typed: bool, constants: Mapping[str, Any]) -> tuple[OnnxValue, ...]:
        values: dict[str, OnnxValue] = {}
        for index, entry in enumerate(entries):
            where = f"{place}[{index}] {shown(entry.name)!r}"
            if not entry.name or entry.name in values:
                raise FormatError(f"{self.path}: {where}: expected a name of its own")
            kind = entry.type.WhichOneof("value")
            if kind == "sequence_type" and not typed:  # inside, as sequences.py takes them out
                values[entry.name] = OnnxValue(entry.name, "", None)
                continue
            if kind not in (None, "tensor_type"):
                raise UnsupportedError(f"{self.path}: {where}: a {kind.removesuffix('_type')}, expected a tensor")
            tensor = entry.type.tensor_type
            dtype = self.element(tensor.elem_type, where) if kind and (tensor.elem_type or typed) else ""
            if typed and not dtype and entry.name not in constants:
                raise FormatError(f"{self.path}: {where}: no type, expected one")
            shape = None
            if tensor.HasField("shape"):
                if len(tensor.shape.dim) > MAX_RANK:
                    raise FormatError(f"{self.path}: {where}: {len(tensor.shape.dim)} dimensions, at most {MAX_RANK}")
                shape = tuple(
                    dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or None
                    for dim in tensor.shape.dim
                )
            values[entry.name] = OnnxValue(entry.name, dtype, shape)
        return tuple(values.values())

    def element(self, number: int, where: _Where | str) -> str:
        """The dtype that an element type is read as: float32 for WIDENED ones."""
        if number not in ELEMENTS:
            kind = UnsupportedError if number in OTHER_ELEMENTS else FormatError
            name = OTHER_ELEMENTS.get(number, number)
            raise kind(f"{self.path}: {where}: elements of type {name}, expected one of {', '.join(ELEMENTS.values())}")
        dtype = ELEMENTS[number]
        if "float" in dtype:
            self.floats.add(dtype)
        return "float32" if dtype in WIDENED else dtype

    def node(self, proto: Any, place: str, opsets: Mapping[str, int], depth: int, outer: frozenset[str]) -> OnnxNode:
        domain = _domain(proto.domain)
        attributes: dict[str, Any] = {}
        node = OnnxNode(
            place, proto.name, proto.op_type, domain, opsets.get(domain, 0), tuple(proto.input), tuple(proto.output),
            MappingProxyType(attributes) if len(proto.attribute) else _NONE, proto.overload,
        )  # fmt: skip
        if not node.op:
            raise FormatError(f"{self.path}: {place} {shown(node.name)!r}: no op_type, expected one")
        for entry in proto.attribute:
            where = _Where(node, entry.name)
            if not entry.name or entry.name in attributes:
                raise FormatError(f"{self.path}: {where}: expected a name of its own")
            if entry.type == 2 and entry.name in DTYPE_ATTRIBUTES:
                self.element(entry.i, where)
            attributes[entry.name] = self._attribute(entry, where, place, opsets, depth)
        if not attributes.keys().isdisjoint(("value_float", "value_floats")) or (
            node.op == "ConstantOfShape" and "value" not in attributes
        ):
            self.floats.add("float32")
        return node

    def _attribute(self, proto: Any, where: _Where | str, place: str, opsets: Mapping[str, int], depth: int) -> Any:
        if proto.ref_attr_name:
            return AttributeReference(proto.ref_attr_name)
        if proto.type == 5:
            return _Pending(proto.g, f"{place}.{shown(proto.name)}", opsets, depth + 1)
        if proto.type == 4:
            return self.tensor(proto.t, where)
        if proto.type in (1, 2, 3):
            value = {1: proto.f, 2: proto.i, 3: proto.s}[proto.type]
            return value.decode() if isinstance(value, bytes) else value
        if proto.type in (6, 7):
            return list(proto.floats if proto.type == 6 else proto.ints)
        if proto.type == 8:
            return [value.decode() for value in proto.strings]
        names = {9: "tensors", 10: "graphs", 11: "sparse_tensor", 12: "sparse_tensors", 13: "type_proto"}
        name = names.get(proto.type, f"type {proto.type}")
        raise UnsupportedError(
            f"{self.path}: {where}: {name}, expected an integer, a float, a string, a list of them, a tensor or a graph"
        )

    def tensor(self, proto: Any, where: _Where | str) -> np.ndarray:
        """The read-only array of a TensorProto."""
        where = f"{where} {shown(proto.name)!r}" if proto.name else where
        self.element(proto.data_type, where)
        dtype = ELEMENTS[proto.data_type]
        if proto.HasField("segment"):
            raise UnsupportedError(f"{self.path}: {where}: a segment, expected a whole tensor")
        shape = tuple(proto.dims)
        if len(shape) > MAX_RANK or any(size < 0 for size in shape):
            raise FormatError(f"{self.path}: {where}: dims {list(shape[:20])}, expected at most {MAX_RANK} sizes")
        size = math.prod(shape) * ITEM_SIZES[dtype]
        filled = [name for name in DATA_FIELDS if len(getattr(proto, name))]
        if proto.data_location == 1 or proto.external_data:
            if filled or proto.data_location != 1:
                raise FormatError(f"{self.path}: {where}: both external data and data, expected one of them")
            entries = {entry.key: entry.value for entry in proto.external_data}
            raw = self.external.read(entries, size, f"{self.path}: {where}")
        elif len(filled) > 1 or (not filled and size):
            described = " and ".join(filled) or "no data"
            raise FormatError(f"{self.path}: {where}: {described}, expected data in one field")
        else:
            name = filled[0] if filled else "raw_data"
            if name not in ("raw_data", FIELDS[dtype]):
                raise FormatError(f"{self.path}: {where}: {dtype} in {name}, expected {FIELDS[dtype]} or raw_data")
            raw = proto.raw_data if name == "raw_data" else self._packed(getattr(proto, name), dtype, where)
        if len(raw) != size:
            described = f"{len(raw)} bytes for dims {list(shape)} of {dtype}"
            raise FormatError(f"{self.path}: {where}: {described}, expected {size}")
        return from_bytes(raw, dtype, f"{self.path}: {where}").reshape(shape)

    def _packed(self, values: Any, dtype: str, where: _Where | str) -> bytes:
        """The bytes that raw_data would have, from a list of numbers."""
        bits = np.dtype(f"u{ITEM_SIZES[dtype]}" if dtype in HALVES else dtype)
        wide = np.fromiter(values, np.dtype({"float32": "f4", "float64": "f8", "uint64": "u8"}.get(dtype, "i8")))
        if bits.kind != "f" and len(wide):
            limits = (0, 1) if bits.kind == "b" else (np.iinfo(bits).min, np.iinfo(bits).max)
            if wide.min() < limits[0] or wide.max() > limits[1]:
                raise FormatError(f"{self.path}: {where}: {wide.min()} to {wide.max()}, which {dtype} does not hold")
        return wide.astype(bits.newbyteorder("<")).tobytes()

    def _expanded(self, node: OnnxNode, calls: tuple[str, ...]) -> Iterator[OnnxNode]:
        """The node, or where it calls one of the model's functions, that function's nodes under names of their own."""
        key = (node.domain, node.op, node.overload)
        if key not in self.functions:
            for value in node.attributes.values():
                if isinstance(value, (_Pending, AttributeReference)):
                    node = replace(node, attributes=MappingProxyType(self._graphs(node)))
                    break
            yield node
            return
        place, function = self.functions[key]
        if place in calls or len(calls) > MAX_NESTING:
            raise FormatError(f"{self.path}: {node}: functions that call each other {len(calls)} deep")
        if len(node.inputs) > len(function.input) or len(node.outputs) > len(function.output):
            raise FormatError(
                f"{self.path}: {node}: {len(node.inputs)} inputs and {len(node.outputs)} outputs, expected at most "
                f"{len(function.input)} and {len(function.output)}"
            )
        self.inlined += 1
        self.nodes.spend()
        if place not in self.bodies:
            self._decode(place, function)
        names_of = (*function.attribute, *self.defaults[place])
        given = self.defaults[place] | {name: node.attributes[name] for name in names_of if name in node.attributes}
        unknown = sorted(set(node.attributes) - set(given))
        if unknown:
            raise FormatError(f"{self.path}: {node}: attribute {shown(unknown[0])!r}, which the function does not have")
        names = _Renamed(f"{shown(node.name) or node.op}.{self.inlined}/")
        names.update(zip(function.input, (*node.inputs, *[""] * len(function.input)), strict=False))
        names.update(zip(function.output, node.outputs, strict=False))
        for inner in self.bodies[place]:
            inner = replace(inner, attributes=_with_given(inner.attributes, given))
            yield from self._expanded(names.node(inner), (*calls, place))

    def _decode(self, place: str, function: Any) -> None:
        """The nodes of a function as they are, and the values of attributes that a caller need not give."""
        opsets = self._opsets(function.opset_import, f"{place}.opset_import")
        defaults: dict[str, Any] = {}
        for entry in function.attribute_proto:
            defaults.setdefault(entry.name, self._attribute(entry, place, place, opsets, 0))
        self.defaults[place] = defaults
        self.bodies[place] = [
            self.node(entry, f"{place}.node[{index}]", opsets, 0, frozenset())
            for index, entry in enumerate(function.node)
        ]

    def _inner(self, pending: _Pending) -> OnnxGraph:
        """A graph attribute, read; that of a function's node once for all calls, under the function's names."""
        if pending.names is None:
            return self.graph(pending.proto, pending.place, pending.opsets, pending.depth, _ANYTHING)
        if pending.place in self.inner:
            self.nodes.spend(self.inner[pending.place].count)
        else:
            graph = self.graph(pending.proto, pending.place, pending.opsets, pending.depth, _ANYTHING)
            self.inner[pending.place] = graph
        return pending.names.graph(self.inner[pending.place])

    def _graphs(self, node: OnnxNode) -> dict[str, Any]:
        """The attributes with the graphs among them read."""
        read: dict[str, Any] = {}
        for key, value in node.attributes.items():
            if isinstance(value, AttributeReference):
                raise FormatError(
                    f"{self.path}: {node}: attribute {shown(key)!r} refers to a function's, expected a value"
                )
            if isinstance(value, _Pending):
                value = self._inner(value)
            read[key] = value
        return read


@dataclass(frozen=True)
class _Where:
    """An attribute of a node, as messages name it: written out only where there is one."""

    node: OnnxNode
    name: str

    def __str__(self) -> str:
        return f"{self.node}: attribute {shown(self.name)!r}"


class _Anything(frozenset):
    """Names of graphs around an inner one, which are checked where those are sorted."""

    def __contains__(self, name: object) -> bool:
        return True


_ANYTHING = _Anything()


@dataclass(frozen=True)
class _Pending:
    """A graph attribute not read yet; names: how a function's body renames it."""

    proto: Any
    place: str
    opsets: Mapping[str, int]
    depth: int
    names: _Renamed | None = None


class _Renamed(dict):
    """A function's names -> names in the graph that calls it."""

    def __init__(self, prefix: str):
        super().__init__()
        self.prefix = prefix

    def __missing__(self, name: str) -> str:
        self[name] = f"{self.prefix}{name}" if name else ""
        return self[name]

    def node(self, node: OnnxNode) -> OnnxNode:
        attributes = {
            key: replace(value, names=self)
            if isinstance(value, _Pending)
            else self.graph(value)
            if isinstance(value, OnnxGraph)
            else value
            for key, value in node.attributes.items()
        }
        inputs, outputs = ([self[name] for name in names] for names in (node.inputs, node.outputs))
        return replace(node, inputs=tuple(inputs), outputs=tuple(outputs), attributes=MappingProxyType(attributes))

    def graph(self, graph: OnnxGraph) -> OnnxGraph:
        inputs, outputs = (
            tuple(replace(value, name=self[value.name]) for value in values) for values in (graph.inputs, graph.outputs)
        )
        constants = MappingProxyType({self[name]: array for name, array in graph.constants.items()})
        return OnnxGraph(graph.place, inputs, outputs, constants, tuple(self.node(node) for node in graph.nodes))


def _with_given(attributes: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A function's attributes with references replaced; without those that the caller leaves out."""
    replaced = {}
    for key, value in attributes.items():
        if not isinstance(value, AttributeReference):
            replaced[key] = value
        elif value.name in given:
            replaced[key] = given[value.name]
    return replaced


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
