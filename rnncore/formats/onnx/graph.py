"""An OnnxGraph -> nodes of a Spec and their weights.

Each node is brought into the vocabulary of the newest opset (onnx_versions), folded where all that it reads is
constant, and becomes a node of rnncore.ops under the same name, so that there is little to say here: what is constant
stands in an attribute where the op has one for it, else in a Constant node; products with constants own them (Linear,
Embedding, Conv). Recurrent nodes are in onnx_recurrent, If, Loop and Scan in onnx_control; what exporters put around
recurrent nodes is taken out again by rnncore.passes.

What a name of the file stands for is a Known array, the name of a value of the Spec, or a Layers: the sequence of a
recurrent node whose axes of directions has not been written out yet.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rnncore.errors import FormatError, RnncoreError, SpecError, UnsupportedError
from rnncore.files.cursor import Budget, shown
from rnncore.formats._arrays import Copies
from rnncore.formats.onnx import sequences as onnx_sequences
from rnncore.formats.onnx.contributed import CONTRIBUTED, standard
from rnncore.formats.onnx.file import OnnxGraph, OnnxNode, OnnxValue
from rnncore.formats.onnx.sequences import Items, Stacked
from rnncore.formats.onnx.versions import newest
from rnncore.graph.nodes import Input, Node, check_sizes
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, UNKNOWN, Value, numpy_dtype
from rnncore.ops.work import cost, value_of
from rnncore.passes import Folding, simplify

__all__ = ["Known", "Layers", "Lowering", "Shared", "is_supported"]

# Ops of rnncore.ops that have the name and the meaning of an op of ai.onnx's newest opset.
_SAME = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BitShift
    BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast CastLike Ceil Celu CenterCropPad Clip Col2Im
    Compress Concat ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv
    DepthToSpace DequantizeLinear Det Div DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten
    Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity
    InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
    LpNormalization LpPool MatMul MatMulInteger Max MaxPool MaxUnpool Mean MeanVarianceNormalization MelWeightMatrix
    Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear
    RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RotaryEmbedding Round STFT
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign
    SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unique
    Unsqueeze Where Xor
"""
SAME = frozenset(_SAME.split())
MICROSOFT = frozenset({*CONTRIBUTED, "DynamicQuantizeLSTM"})  # of com.microsoft
CONVERTED = frozenset({"Constant", "Dropout", "Scatter", "Upsample"})
RECURRENT = frozenset({"GRU", "LSTM", "RNN"})
CONTROL = frozenset({"If", "Loop", "Scan"})
SUPPORTED = CONVERTED | RECURRENT | CONTROL | onnx_sequences.OPS.keys() | (SAME & OPS.keys())

# Attributes that say nothing at inference: dropped where the op has none of that name.
INERT = {"momentum": None, "stash_type": 1, "seed": None, "training_mode": 0}
# Ops whose further outputs an attribute asks for: they are dear, and seldom read.
FURTHER_OUTPUTS = {"MaxPool": "indices", "LayerNormalization": "statistics"}
DTYPE_ATTRIBUTES = {"to", "dtype", "output_dtype"}
FILE_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "float32",
}  # fmt: skip

# Ops whose output holds nothing but elements of the first input, and those of which a few bytes ask for many elements.
MOVING = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
ENLARGING = frozenset({"ConstantOfShape", "EyeLike", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"})

MAX_LIST = 4096  # numbers in an attribute; more are a Constant
SMALL = 64  # elements of a Constant that stand in its attribute, where shapes can be followed through them
MAX_LOWERED_AGAIN = 20_000  # nodes, on top of those that a file has
MAX_CONSTANT = 1 << 30  # bytes that a value may have whose shape the file alone determines
# What has a size that only contents decide, but not more elements than its input has, times the rank.
DATA_DEPENDENT = frozenset({"NonZero", "Compress", "Unique"})
NOT_FOLDED = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DFT", "STFT", "DynamicQuantizeLSTM"})


@dataclass(frozen=True)
class Known:
    """A constant, in the dtype that the file has."""

    array: np.ndarray


@dataclass(frozen=True)
class Layers:
    """The sequence of a recurrent node as ONNX has it, with an axis of directions, which the Spec's value has not.

    base    the Spec's value, (T, B, D*H) or (B, T, D*H)
    axes    what stands on each axis, in order: letters of T, B, D, H
    order   the letters of the base: "TB" or "BT"
    """

    base: str
    axes: str
    order: str
    directions: int
    hidden: int


class Shared:
    """What a graph and the graphs inside it have in common.

    dtypes    the file's floating types -> the Spec's
    declared  bytes of the file's constants
    problems  None, or a list to collect what is not supported instead of raising it
    """

    def __init__(
        self, path: str, dtypes: Mapping[str, str], floating: str, declared: int, problems: list | None = None
    ):
        self.path, self.dtypes, self.floating = path, dtypes, np.dtype(floating)
        self.problems = problems
        self.named: dict[np.dtype, str] = {}
        self.folding = Folding()
        self.copies = Copies(declared, path)
        self.turned: dict[tuple, tuple[Any, dict[str, np.ndarray]]] = {}  # recurrent weights in our order, once each
        self.again = Budget(MAX_LOWERED_AGAIN, "nodes of loops, lowered again and again", path)

    def dtype(self, file_dtype: str) -> str:
        return self.dtypes.get(file_dtype, file_dtype)

    def dtype_of(self, array: np.ndarray) -> str:
        """The Spec's dtype of an array; NumPy takes long to say a name."""
        found = self.named.get(array.dtype)
        if found is None:
            found = self.named[array.dtype] = self.dtype(array.dtype.name)
        return found


class Missing(FormatError):
    """A value that no node gave: where problems are collected, because it is not supported."""


def is_supported(node: OnnxNode) -> bool:
    """Whether ops of this type are known at all."""
    if node.domain == "com.microsoft":
        return node.op in MICROSOFT
    return not node.domain and node.op in SUPPORTED


class Lowering:
    """The nodes of one graph, growing. ``parent`` is that of the graph around it."""

    def __init__(self, graph: OnnxGraph, shared: Shared, parent: Lowering | None = None):
        self.graph, self.shared, self.parent = graph, shared, parent
        self.entries: dict[str, Known | Layers | Items | Stacked | str] = {}
        self.values: dict[str, Value] = {}
        self.nodes: list[Any] = []  # None where another has taken a node's place
        self.weights: dict[str, np.ndarray] = {}
        self.inputs: list[Input] = []
        self.captures: dict[str, str] = {}  # the value of the parent -> the input that stands for it here
        self.zeros: set[str] = set()  # values that are zero everywhere
        self.sources: dict[str, str] = {}  # a value that was cast -> the one it was cast from
        self.kept: list[np.ndarray] = []  # whose ids are keys of written
        self.written: dict[tuple, str] = {}  # what was made once: constants, written out sequences
        self.products: dict[str, int] = {}  # Linear nodes without bias -> their places in nodes
        self.uses = _uses(graph)
        self.taken = {value.name for value in (*graph.inputs, *graph.outputs)}
        self.given = {value.name for value in graph.outputs}
        self._counts: Counter[str] = Counter()  # a name -> the last number that fresh put behind it

    # --- names and values ------------------------------------------------------------------------------------------

    def error(self, node: OnnxNode, message: str, kind: type[RnncoreError] = UnsupportedError) -> RnncoreError:
        return kind(f"{self.shared.path}: {node}: {message}")

    def fresh(self, wanted: str) -> str:
        """A name for a node that nothing has, as near to the one wanted as possible."""
        if not wanted or not wanted.isprintable() or len(wanted) > 200 or wanted.startswith("outer."):
            wanted = "value"
        name, count = wanted, self._counts[wanted]
        while name in self.taken or name in self.values:
            count = max(count, 1) + 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        self._counts[wanted] = count
        return name

    def fresh_input(self, wanted: str) -> str:
        """A name for an input of a branch: its own where that can be."""
        plain = wanted.isprintable() and len(wanted) <= 200 and not wanted.startswith("outer.")
        return wanted if plain and wanted not in self.values else self.fresh(wanted)

    def node_name(self, node: OnnxNode, count: int = 1) -> str:
        """The name of the node that gives a node's outputs: that of the only output, or of the node itself."""
        output = next(filter(None, node.outputs), "")
        if count == 1 and output in self.given and output not in self.values and output.isprintable():
            return output  # kept for it
        return self.fresh(output if count == 1 else node.name or output)

    def add(self, node: Any) -> None:
        """Append a node to the Spec and infer its values."""
        found = node.infer(self.values)
        for name in found:
            if name in self.values:
                raise SpecError(f"the name {name!r} stands for two values")
        self.values.update(found)
        self.taken.update(found)
        self.nodes.append(node)

    def emit(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append an op of one output under a fresh name; returns that name."""
        name = self.fresh(name)
        self.add(Node(name, op, tuple(inputs), attributes))
        return name

    def lookup(self, name: str) -> Known | Layers | Items | Stacked | str:
        """What a name of the file stands for, here or in the graphs around."""
        found = self.entries.get(name)
        if found is not None:
            return found
        if self.parent is None:
            raise Missing(f"{self.shared.path}: {shown(name)!r} is given by no node")
        outer = self.parent.lookup(name)
        if isinstance(outer, Known):
            return outer
        if isinstance(outer, (Items, Stacked)):
            self.entries[name] = onnx_sequences.captured(self, outer)
        else:
            self.entries[name] = self.capture(self.parent.value(name))
        return self.entries[name]

    def capture(self, outer: str) -> str:
        """The input that stands here for a value of the graph around."""
        if outer not in self.captures:
            inner = f"outer.{outer}"
            value = self.parent.values[outer]
            self.add_input(Input(inner, value.dtype, value.shape))
            self.captures[outer] = inner
        return self.captures[outer]

    def add_input(self, entry: Input) -> None:
        if entry.name in self.values:
            raise SpecError(f"the name {entry.name!r} stands for two values")
        self.inputs.append(entry)
        self.values[entry.name] = entry.value
        self.taken.add(entry.name)

    def known(self, name: str) -> np.ndarray | None:
        """The array that a name stands for, if it is constant."""
        found = self.lookup(name)
        return found.array if isinstance(found, Known) else None

    def value(self, name: str) -> str:
        """The Spec's value for a name of the file, made if need be."""
        found = self.lookup(name)
        if isinstance(found, Known):
            return self.constant_node(found.array, name)
        if isinstance(found, (Items, Stacked)):
            raise UnsupportedError(
                f"{self.shared.path}: {self.graph.place}: {shown(name)!r} is a sequence, expected a tensor"
            )
        return self.write_out(found) if isinstance(found, Layers) else found

    def inferred(self, name: str) -> Value:
        """Dtype and shape of a name of the file."""
        found = self.lookup(name)
        if isinstance(found, Known):
            return Value(self.shared.dtype_of(found.array), found.array.shape)
        return self.values[self.value(name)]

    def rank(self, name: str) -> int:
        return len(self.inferred(name).shape)

    def dtype(self, name: str) -> np.dtype:
        dtype = self.inferred(name).dtype
        return self.shared.floating if dtype == "float" else np.dtype(dtype)

    def constant(self, array: np.ndarray) -> str:
        """A name of the file for a new constant."""
        name = self.fresh("constant")
        self.entries[name] = Known(array)
        return name

    def constant_node(self, array: np.ndarray, name: str = "constant") -> str:
        """The value of a Constant node, one for each constant."""
        key = ("constant", name, id(array))
        if key not in self.written:
            dtype = self.shared.dtype_of(array)
            made = self.fresh(name)
            attributes: dict[str, Any] = {"dtype": dtype, "shape": array.shape}
            small = array.ndim <= 1 and array.size <= SMALL and (array.dtype.kind != "f" or np.isfinite(array).all())
            if small:
                attributes["value"] = array.item() if array.ndim == 0 else tuple(array.tolist())
            else:
                self.own(f"{made}.value", array)
            self.add(Node(made, "Constant", (), attributes))
            if array.dtype.kind == "f" and not array.any():
                self.zeros.add(made)
            self.written[key] = made
            self.kept.append(array)
        return self.written[key]

    def own(self, name: str, array: np.ndarray) -> None:
        """Give a weight to the Spec."""
        self.shared.copies.add(array)
        self.weights[name] = array

    def write_out(self, found: Layers) -> str:
        """A recurrent sequence with its axis of directions, as an array."""
        key = ("layers", found.base, found.axes)
        if key not in self.written:
            standing = found.order + "DH"
            if "D" not in found.axes:
                name = found.base
                perm = tuple((found.order + "H").index(axis) for axis in found.axes)
            elif found.directions == 1:
                place = standing.index("D")
                name = self.emit("Unsqueeze", (found.base,), f"{found.base}.directions", axes=(place,))
                perm = tuple(standing.index(axis) for axis in found.axes)
            else:
                shape = (0, 0, found.directions, found.hidden)
                name = self.emit("Reshape", (found.base,), f"{found.base}.directions", shape=shape)
                perm = tuple(standing.index(axis) for axis in found.axes)
            if perm != tuple(range(len(perm))):
                name = self.emit("Transpose", (name,), f"{found.base}.turned", perm=perm)
            self.written[key] = name
        return self.written[key]

    # --- the graph -------------------------------------------------------------------------------------------------

    def define(self, values: Iterable[OnnxValue], sizes: Mapping[str, int]) -> None:
        """The graph's inputs as the Spec's, with the given sizes in the place of names."""
        named = [_sizes(value) for value in values if value.shape is not None]
        check_sizes(sizes, itertools.chain.from_iterable(named))
        for value in values:
            if not value.name.isprintable() or len(value.name) > 1000:
                raise FormatError(f"{self.shared.path}: input {shown(value.name)!r}: expected a printable name")
            if value.shape is None:
                raise UnsupportedError(
                    f"{self.shared.path}: input {shown(value.name)!r}: no shape, expected at least its rank"
                )
            shape = tuple(sizes.get(size, size) for size in _sizes(value))
            self.add_input(Input(value.name, self.shared.dtype(value.dtype), shape))
            self.entries[value.name] = value.name

    def run(self) -> None:
        """Lower every node."""
        self.entries.update({name: Known(array) for name, array in self.graph.constants.items()})
        for node in self.graph.nodes:
            self.lower(node)

    def lower(self, node: OnnxNode) -> None:
        try:
            self._lower(node)
        except Missing:
            if self.shared.problems is None:
                raise
        except FormatError:
            raise
        except UnsupportedError as error:
            named = self.shared.path in str(error)  # conversions know the node alone
            self._problem(node, error if named else type(error)(f"{self.shared.path}: {error}"))
        except SpecError as error:
            message = str(error)
            self._problem(node, error if str(node) in message else self.error(node, message, SpecError))
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # an op asked of what it cannot be
            raise self.error(
                node, f"contradicts itself: {type(error).__name__}: {shown(str(error))}", FormatError
            ) from None

    def _problem(self, node: OnnxNode, error: RnncoreError) -> None:
        if self.shared.problems is None:
            raise error from None
        self.shared.problems.append((node, error))

    def _lower(self, node: OnnxNode) -> None:
        if not is_supported(node):
            from rnncore.formats.onnx import reference as onnx_reference

            if onnx_reference.is_rare(node):
                for step in newest(node, self):
                    onnx_reference.lower(self, step)
                return
            known = "an op of onnx_graph.SAME" if not node.domain else f"one of {', '.join(sorted(MICROSOFT))}"
            message = f"op {shown(node.op)!r} of opset {node.version} is not supported, expected {known}"
            raise self.error(node, message)
        if node.version <= 0 and not node.domain:
            raise self.error(node, "its domain is not among opset_import", FormatError)
        if node.op == "Constant":
            self.entries[node.outputs[0]] = Known(_constant(self, node))
        elif node.op in CONTROL:
            from rnncore.formats.onnx import control as onnx_control

            onnx_control.lower(self, next(newest(node, self)))
        elif not node.domain and node.op in onnx_sequences.OPS:
            onnx_sequences.lower(self, node)
        elif node.domain and node.op in CONTRIBUTED:
            for step in standard(node, self):
                self._step(step)
        elif node.op in RECURRENT:
            from rnncore.formats.onnx import recurrent as onnx_recurrent

            onnx_recurrent.lower(self, node)
        else:
            for step in newest(node, self):
                self._step(step)

    def _step(self, node: OnnxNode) -> None:
        if not node.outputs or not any(node.outputs):
            raise self.error(node, "no outputs, expected at least one", FormatError)
        inputs = list(node.inputs)
        while inputs and not inputs[-1]:
            inputs.pop()
        entries = [self.lookup(name) if name else None for name in inputs]
        attributes = self._attributes(node)
        if node.op == "Identity" and entries:
            self.entries[node.outputs[0]] = entries[0]
        elif all(entry is None or isinstance(entry, Known) for entry in entries) and self._fold(
            node, attributes, [None if entry is None else entry.array for entry in entries]
        ):
            return
        elif not self._special(node, inputs, entries, attributes):
            self.generic(node, inputs, attributes)

    def _attributes(self, node: OnnxNode) -> dict[str, Any]:
        """The attributes as rnncore's ops have them: flags as bool, dtypes by name."""
        op = OPS[node.op]
        found: dict[str, Any] = {}
        for key, value in node.attributes.items():
            if key not in op.attributes and key in INERT and INERT[key] in (None, value):
                continue
            if key in DTYPE_ATTRIBUTES and isinstance(value, int):
                if value not in FILE_DTYPES:
                    raise self.error(node, f"attribute {key!r}: element type {value}, expected one of "
                                     f"{', '.join(dict.fromkeys(FILE_DTYPES.values()))}")  # fmt: skip
                value = self.shared.dtype(FILE_DTYPES[value])
            elif node.op == "ConstantOfShape" and key == "value" and isinstance(value, np.ndarray):
                if value.size != 1:
                    raise self.error(
                        node, f"attribute 'value' of shape {value.shape}, expected one element", FormatError
                    )
                found["dtype"] = self.shared.dtype_of(value)
                value = value.item()
            elif key == "auto_pad" and value == "":
                continue  # as absent
            elif isinstance(op.attributes.get(key), bool) and value in (0, 1):
                value = bool(value)
            elif isinstance(op.attributes.get(key), float) and isinstance(value, int):
                value = float(value)
            elif isinstance(value, list):
                value = tuple(value)
            if key not in op.attributes or isinstance(value, (np.ndarray, OnnxGraph)):
                accepted = ", ".join(op.attributes) or "none"
                raise self.error(node, f"attribute {shown(key)!r} is not supported, expected one of: {accepted}")
            found[key] = value
        if node.op in FURTHER_OUTPUTS and any(output and self.uses[output] for output in node.outputs[1:]):
            found[FURTHER_OUTPUTS[node.op]] = True
        return found

    def generic(self, node: OnnxNode, inputs: Sequence[str], attributes: dict[str, Any]) -> None:
        """The same op, its constant parameters as attributes."""
        op = OPS[node.op]
        values = list(inputs)
        for key, position in op.parameters.items():
            array = self._parameter(inputs[position]) if position < len(inputs) and inputs[position] else None
            if array is not None and array.ndim <= 1 and array.size <= MAX_LIST and attributes.get(key) is None:
                array = array.reshape(1) if key == "axes" and array.ndim == 0 else array
                attributes[key] = array.item() if array.ndim == 0 else tuple(array.tolist())
                values[position] = ""
        while values and not values[-1]:
            values.pop()
        read = tuple(self.value(name) if name else "" for name in values)
        self.place(node, node.op, read, attributes)

    def _parameter(self, name: str) -> np.ndarray | None:
        """A constant, or what is known of shapes alone."""
        array = self.known(name)
        if array is not None:
            return array
        value = self.inferred(name)
        if value.data is None or any(isinstance(item, str) for item in value.data):
            return None
        return np.array(value.data, value.dtype if value.dtype != "float" else None).reshape(value.shape)

    def place(self, node: OnnxNode, op: str, read: tuple[str, ...], attributes: Mapping[str, Any]) -> str:
        """Append the Spec's node for a node of the file and name its outputs. Returns the Spec's name."""
        endings = OPS[op].outputs
        count = len(OPS[op].names("", {**OPS[op].attributes, **attributes}) if callable(endings) else endings)
        name = self.node_name(node, count)
        made = Node(name, op, read, attributes)
        self.add(made)
        for output, value in zip(node.outputs, made.names, strict=False):
            if output:
                self.entries[output] = value
        if len(node.outputs) > count and any(output and self.uses[output] for output in node.outputs[count:]):
            raise self.error(node, f"{len(node.outputs)} outputs, expected at most {count}")
        self._note(made)
        self._check_size(node, self.values[made.names[0]])
        return name

    def _note(self, node: Node) -> None:
        """Whether a new node's value is zero, or another value cast."""
        first = node.inputs[0] if node.inputs else ""
        if node.op == "ConstantOfShape":
            zero = not node.attributes["value"]
        elif node.op == "Concat":
            zero = all(name in self.zeros for name in node.inputs)
        else:
            zero = first in self.zeros and node.op in MOVING
        if zero:
            self.zeros.update(node.names)
        if node.op == "Cast":
            self.sources[node.name] = first

    def _check_size(self, node: OnnxNode, value: Value) -> None:
        """A value whose size the file alone determines may not be larger than any weight has reason to be."""
        if node.op in ENLARGING:
            sizes = [size for size in value.shape if isinstance(size, int)]
            if len(sizes) == len(value.shape) and math.prod(sizes) * 4 > MAX_CONSTANT:
                raise self.error(node, f"a value of {math.prod(sizes):,} elements, expected fewer", FormatError)

    # --- what has a form of its own ---------------------------------------------------------------------------------

    def _special(
        self, node: OnnxNode, inputs: list[str], entries: list[Known | Layers | str | None], attributes: dict[str, Any]
    ) -> bool:
        """Lower what is more than the op of the same name; False where it is not."""
        how = SPECIAL.get(node.op)
        return how is not None and bool(how(self, node, inputs, entries, attributes))

    def _lower_cast(self, node, inputs, entries, attributes) -> bool:
        """A cast to the dtype that a value has already is the value."""
        if isinstance(entries[0], Known) or self.inferred(inputs[0]).dtype != attributes["to"]:
            return False
        self.entries[node.outputs[0]] = entries[0]
        return True

    def _lower_transpose(self, node, inputs, entries, attributes) -> bool:
        found = entries[0]
        perm = attributes.get("perm")
        if not isinstance(found, Layers):
            return False
        perm = tuple(range(len(found.axes)))[::-1] if perm is None else perm
        if sorted(perm) != list(range(len(found.axes))):
            return False
        axes = "".join(found.axes[axis] for axis in perm)
        self.entries[node.outputs[0]] = self._layers(found, axes)
        return True

    def _lower_squeeze(self, node, inputs, entries, attributes) -> bool:
        """The axis of directions away, where there is one direction."""
        found = entries[0]
        axes = self.known(inputs[1]) if len(inputs) > 1 and inputs[1] else None
        if axes is None and not isinstance(found, Layers) and not inputs[1:]:
            return self._squeeze_as_declared(node, inputs[0])
        if not isinstance(found, Layers) or "D" not in found.axes or found.directions != 1 or axes is None:
            return False
        if axes.reshape(-1).tolist() not in ([found.axes.index("D")], [found.axes.index("D") - len(found.axes)]):
            return False
        self.entries[node.outputs[0]] = self._layers(found, found.axes.replace("D", ""))
        return True

    def _squeeze_as_declared(self, node: OnnxNode, name: str) -> bool:
        """Without axes every axis of size 1 goes: the declared rank tells which of those with a named size do."""
        shape = self.inferred(name).shape
        rank = next(
            (len(v.shape) for v in self.graph.outputs if v.name == node.outputs[0] and v.shape is not None), None
        )
        named = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if rank is None or not named:
            return False
        if rank == len(shape) - len(ones) - len(named):
            self.place(node, "Squeeze", (self.value(name),), {"axes": tuple(sorted(ones + named))})
            return True
        if rank != len(shape) - len(ones):
            raise self.error(
                node,
                f"no axes for {self.inferred(name)}, of which {rank} are declared to stay: expected to know which; "
                "load(..., sizes={name: size}) fixes a size",
            )
        return False

    def _lower_stft(self, node, inputs, entries, attributes) -> bool:
        """A signal (B, L), which ONNX Runtime takes too, is one of real numbers, (B, L, 1)."""
        if self.rank(inputs[0]) != 2:
            return False
        signal = self.emit("Unsqueeze", (self.value(inputs[0]),), f"{node.outputs[0]}.signal", axes=(2,))
        self.entries[signal] = signal
        self.generic(node, [signal, *inputs[1:]], attributes)
        return True

    def _lower_reshape(self, node, inputs, entries, attributes) -> bool:
        """The directions beside each other: (..., D, H) to (..., D*H)."""
        found = entries[0]
        if not isinstance(found, Layers) or not found.axes.endswith("DH"):
            return False
        base = self.values[found.base].shape
        sizes = dict(zip(found.order, base, strict=False)) | {"D": found.directions, "H": found.hidden}
        flat = (*(sizes[axis] for axis in found.axes[:2]), found.directions * found.hidden)
        shape = self.known(inputs[1])
        followed = self.inferred(inputs[1]).data if shape is None else tuple(shape.reshape(-1).tolist())
        if followed is None or len(followed) != 3:
            return False
        same = [wanted in (0, size) or (wanted == -1) for wanted, size in zip(followed, flat, strict=True)]
        if attributes.get("allowzero") and 0 in followed:
            return False
        if not all(same) or followed.count(-1) > 1 or UNKNOWN in followed:
            return False
        axes = found.axes[:2]
        if axes == found.order:
            self.entries[node.outputs[0]] = found.base
        else:
            self.entries[node.outputs[0]] = self.write_out(
                Layers(found.base, axes + "H", found.order, found.directions, found.hidden)
            )
        return True

    def _layers(self, found: Layers, axes: str) -> Layers | str:
        """The same sequence with other axes; as a value of the Spec where it is one."""
        if axes == found.order + "H" and "D" not in axes:
            return found.base
        return Layers(found.base, axes, found.order, found.directions, found.hidden)

    def _lower_matmul(self, node, inputs, entries, attributes) -> bool:
        weight = self._matrix(entries[1])
        x = self.inferred(inputs[0])
        if weight is None or x.dtype != "float" or len(x.shape) < 2:
            return False
        self._linear(node, self.value(inputs[0]), weight.T, None)
        return True

    def _lower_gemm(self, node, inputs, entries, attributes) -> bool:
        weight = self._matrix(entries[1])
        x = self.inferred(inputs[0])
        if weight is None or x.dtype != "float" or len(x.shape) != 2 or attributes.get("transA"):
            return False
        weight = weight if attributes.get("transB") else weight.T
        bias = None
        if len(entries) > 2:
            bias = entries[2].array if isinstance(entries[2], Known) else None
            bias = _row(bias, len(weight))
            if bias is None:
                return False
            bias = _scaled(bias, attributes.get("beta", 1.0))
        self._linear(node, self.value(inputs[0]), _scaled(weight, attributes.get("alpha", 1.0)), bias)
        return True

    def _matrix(self, entry: Known | Layers | str | None) -> np.ndarray | None:
        """A constant (rows, columns) of floats that Linear may own."""
        array = entry.array if isinstance(entry, Known) else None
        if array is None or array.ndim != 2 or 0 in array.shape or self.shared.dtype_of(array) != "float":
            return None
        return array

    def _linear(self, node: OnnxNode, x: str, weight: np.ndarray, bias: np.ndarray | None) -> None:
        sizes = {"input_size": weight.shape[1], "output_size": weight.shape[0], "bias": bias is not None}
        name = self.place(node, "Linear", (x,), sizes)
        self.own(f"{name}.weight", self.shared.copies.contiguous(weight))
        if bias is not None:
            self.own(f"{name}.bias", bias)
        else:
            self.products[name] = len(self.nodes) - 1

    def _lower_add(self, node, inputs, entries, attributes) -> bool:
        """A bias behind a product that nothing else reads is the product's, which takes the name of the sum."""
        for place in (0, 1):
            product, other = entries[place], entries[1 - place]
            index = self.products.get(product) if isinstance(product, str) else None
            if index is None or not isinstance(other, Known) or self.uses[inputs[place]] != 1:
                continue
            made = self.nodes[index]
            bias = _row(other.array, made.attributes["output_size"], len(self.values[product].shape))
            if bias is None or self.shared.dtype_of(bias) != "float":
                continue
            weight = self.weights.pop(f"{product}.weight")
            self.nodes[index] = None
            del self.values[product], self.products[product]
            self._linear(node, made.inputs[0], weight, bias)
            return True
        return False

    def _lower_gather(self, node, inputs, entries, attributes) -> bool:
        """Rows of a constant table: an Embedding, whose ids do not count from the end as Gather's do."""
        table = self._matrix(entries[0])
        ids = self.inferred(inputs[1])
        if table is None or attributes.get("axis", 0) not in (0, -2) or isinstance(entries[1], Known):
            return False
        name = self.value(inputs[1])
        if ids.dtype != "int64":
            name = self.emit("Cast", (name,), f"{node.outputs[0]}.ids", to="int64")
        rows = len(table)
        zero, count = (self.constant_node(np.array(size, np.int64), f"{node.outputs[0]}.{what}")
                       for size, what in ((0, "first"), (rows, "rows")))  # fmt: skip
        negative = self.emit("Less", (name, zero), f"{node.outputs[0]}.negative")
        counted = self.emit("Add", (name, count), f"{node.outputs[0]}.from_end")
        ids_name = self.emit("Where", (negative, counted, name), f"{node.outputs[0]}.row")
        made = self.place(node, "Embedding", (ids_name,), {"input_size": rows, "output_size": table.shape[1]})
        self.own(f"{made}.weight", table)
        return True

    def _lower_conv(self, node, inputs, entries, attributes) -> bool:
        group = attributes.get("group", 1)
        weight = entries[1].array if len(entries) > 1 and isinstance(entries[1], Known) else None
        if weight is None or weight.ndim < 3:
            return False
        return self._own_kernel(node, inputs, entries, attributes, weight, weight.shape[1] * group, weight.shape[0])

    def _lower_convtranspose(self, node, inputs, entries, attributes) -> bool:
        group = attributes.get("group", 1)
        weight = entries[1].array if len(entries) > 1 and isinstance(entries[1], Known) else None
        if weight is None or weight.ndim < 3:
            return False
        return self._own_kernel(node, inputs, entries, attributes, weight, weight.shape[0], weight.shape[1] * group)

    def _own_kernel(self, node, inputs, entries, attributes, weight, channels, filters) -> bool:
        """A convolution that owns its weights."""
        bias = entries[2] if len(entries) > 2 else None
        if self.shared.dtype_of(weight) != "float" or 0 in weight.shape:
            return False
        if bias is not None and not (isinstance(bias, Known) and bias.array.shape == (filters,)):
            return False
        found = attributes.get("kernel_shape", weight.shape[2:])
        if tuple(found) != weight.shape[2:]:
            raise self.error(node, f"attribute 'kernel_shape'={list(found)}, expected that of its weights, "
                             f"{list(weight.shape[2:])}", FormatError)  # fmt: skip
        own = {"input_size": channels, "output_size": filters, "kernel_shape": weight.shape[2:]}
        name = self.place(node, node.op, (self.value(inputs[0]),), {**attributes, **own, "bias": bias is not None})
        self.own(f"{name}.weight", weight)
        if bias is not None:
            self.own(f"{name}.bias", bias.array)
        return True

    # --- folding ---------------------------------------------------------------------------------------------------

    def _fold(self, node: OnnxNode, attributes: Mapping[str, Any], arrays: list[np.ndarray | None]) -> bool:
        """Compute a node of constants now, within the budgets; False where it stays in the graph."""
        op = OPS[node.op]
        if node.op in NOT_FOLDED or not op.arity[0] <= len(arrays) <= op.arity[1]:
            return False
        op.check_present(arrays)
        given = [None if a is None else value_of(a, self.shared.dtype_of(a)) for a in arrays]
        complete = {**op.attributes, **attributes}
        absent = [None] * (op.arity[1] - len(given)) if op.optional else []
        found = op.infer(complete, [*given, *absent])
        known = all(isinstance(size, int) for value in found for size in value.shape)
        if not known and node.op not in DATA_DEPENDENT:
            return False
        wanted = cost(op, complete, given, self.shared.floating)
        made = sum(math.prod(v.shape) * self._item(v.dtype) for v in found) if known else wanted.memory
        if made > MAX_CONSTANT:
            raise self.error(node, f"a constant of {made:,} bytes, expected at most {MAX_CONSTANT:,}", FormatError)
        if not self.shared.folding.affords(wanted):
            return False
        try:
            with np.errstate(all="ignore"):
                outcome = op.run({**complete, "floating": self.shared.floating}, {}, *arrays)
        except (ValueError, IndexError, TypeError) as error:
            raise self.error(node, shown(str(error)), FormatError) from None
        outcome = outcome if isinstance(outcome, (tuple, list)) else (outcome,)
        for output, array, value in zip(node.outputs, outcome, found, strict=False):
            if output:
                dtype = self.shared.floating if value.dtype == "float" else np.dtype(value.dtype)
                array = np.asarray(array).astype(dtype, copy=True)
                array.flags.writeable = False
                self.entries[output] = Known(array)
        return True

    def _item(self, dtype: str) -> int:
        return numpy_dtype(dtype, self.shared.floating).itemsize

    # --- the end ---------------------------------------------------------------------------------------------------

    def outputs(self) -> list[str]:
        """The values of the graph's outputs, each under its own name."""
        names = []
        for value in self.graph.outputs:
            if not value.name.isprintable() or len(value.name) > 1000:
                raise FormatError(f"{self.shared.path}: output {shown(value.name)!r}: expected a printable name")
            if isinstance(self.lookup(value.name), (Items, Stacked)):
                where = f"{self.shared.path}: {self.graph.place}.output {shown(value.name)!r}"
                raise UnsupportedError(f"{where}: a sequence, expected a tensor")
            found = self.value(value.name)
            if found != value.name:
                if value.name in self.values:
                    raise FormatError(f"{self.shared.path}: output {shown(value.name)!r}: a second value of that name")
                self.add(Node(value.name, "Identity", (found,)))
            names.append(value.name)
        return names

    def spec(self) -> tuple[Spec, dict[str, np.ndarray], tuple[str, ...]]:
        """The graph as a Spec, its weights, and notes on what was simplified."""
        names = self.outputs()
        spec = Spec(tuple(self.inputs), tuple(node for node in self.nodes if node is not None), tuple(names))
        return simplify(spec, self.weights, self.shared.folding)


SPECIAL = {op: getattr(Lowering, f"_lower_{op.lower()}") for op in OPS if hasattr(Lowering, f"_lower_{op.lower()}")}
"""How an op is lowered that has a form of its own."""


def _sizes(value: OnnxValue) -> list[int | str]:
    """The sizes of an input; one without a usable name is NAME.AXIS."""

    def size(axis: int, found: int | str | None) -> int | str:
        plain = isinstance(found, int) or (isinstance(found, str) and found.isprintable() and len(found) <= 200)
        return found if plain and found != UNKNOWN else f"{value.name}.{axis}"

    return [size(axis, found) for axis, found in enumerate(value.shape)]


def _uses(graph: OnnxGraph) -> Counter[str]:
    """How often each name is read, in the graph and those inside it."""
    found: Counter[str] = Counter(value.name for value in graph.outputs)
    for node in graph.nodes:
        found.update(node.inputs)
        for inner in node.graphs:
            found.update(_uses(inner))
    return found


def _row(array: np.ndarray | None, size: int, rank: int = 2) -> np.ndarray | None:
    """A bias (size,) from what broadcasts over rows as one; None for anything else."""
    if array is None or array.ndim > rank or (array.size != 1 and array.shape != (1,) * (array.ndim - 1) + (size,)):
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (size,)))


def _scaled(array: np.ndarray, factor: float) -> np.ndarray:
    return array if factor == 1.0 else (array * array.dtype.type(factor)).astype(array.dtype, copy=False)


def _constant(lowering: Lowering, node: OnnxNode) -> np.ndarray:
    """The array of a Constant node."""
    if len(node.attributes) != 1 or node.inputs or len(node.outputs) != 1:
        raise lowering.error(
            node, f"attributes {', '.join(node.attributes) or 'none'}, expected one value", FormatError
        )
    ((key, value),) = node.attributes.items()
    if key == "value" and isinstance(value, np.ndarray):
        return value
    dtypes = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if key not in dtypes:
        raise lowering.error(node, f"attribute {shown(key)!r}, expected value, {', '.join(dtypes)}")
    return np.array(value, dtypes[key])
