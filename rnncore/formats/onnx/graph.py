"""GraphLowering: an OnnxGraph -> a Spec and its weights, with what each name of the file stands for.

Each node is brought into the vocabulary of the newest opset (versions), computed where everything in it is constant
(folding), and becomes a node of rnncore.ops under the same name, so that there is little to say here: a constant is an
attribute where the op has one for it, else a Constant node; products with constants own them (products). How each kind
of node is lowered is in nodes, which this module is given, since branches of control nodes are lowered by it as well.
What exporters put around recurrent nodes is taken out again here (directions) and by rnncore.passes.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from rnncore.errors import FormatError, RnncoreError, SpecError, UnsupportedError
from rnncore.files.cursor import Budget, shown
from rnncore.formats._arrays import Copies
from rnncore.formats.onnx.directions import write_out
from rnncore.formats.onnx.entries import Entry, Items, Known, Layers, Missing, Stacked
from rnncore.formats.onnx.file import OnnxGraph, OnnxNode, OnnxValue
from rnncore.formats.onnx.folding import MAX_CONSTANT
from rnncore.graph.builder import GraphBuilder
from rnncore.graph.nodes import Input, Node, check_sizes
from rnncore.graph.spec import Spec
from rnncore.ops import OPS, UNKNOWN, Value
from rnncore.passes import Folding, simplify

__all__ = ["GraphLowering", "Shared"]

# Ops whose output holds nothing but elements of the first input, and those of which a few bytes ask for many elements.
MOVING = frozenset(
    {"Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
ENLARGING = frozenset({"ConstantOfShape", "EyeLike", "Expand", "OneHot", "Pad", "Range", "Resize", "Tile"})

SMALL = 64  # elements of a Constant that is an attribute, so that shapes can be followed through it
MAX_NAME = 1000  # characters of an input or output
MAX_LOWERED_AGAIN = 20_000  # nodes, on top of those that a file has


class Shared:
    """State that a graph and the graphs inside it share.

    dtypes      the file's floating types -> the Spec's
    declared    bytes of the file's constants
    lower_node  gives each output of a node what it stands for
    problems    None, or a list to collect what is not supported instead of raising it
    """

    def __init__(
        self,
        path: str,
        dtypes: Mapping[str, str],
        floating: str,
        declared: int,
        lower_node: Callable[[GraphLowering, OnnxNode], None],
        problems: list | None = None,
    ):
        self.path, self.dtypes, self.floating = path, dtypes, np.dtype(floating)
        self.lower_node, self.problems = lower_node, problems
        self.named: dict[np.dtype, str] = {}
        self.folding = Folding()
        self.copies = Copies(declared, path)
        self.turned: dict[tuple, tuple[Any, dict[str, np.ndarray]]] = {}  # recurrent weights in our order, once each
        self.again = Budget(MAX_LOWERED_AGAIN, "nodes of loops, lowered again and again", path)

    def dtype(self, file_dtype: str) -> str:
        return self.dtypes.get(file_dtype, file_dtype)

    def dtype_of(self, array: np.ndarray) -> str:
        """The Spec's dtype of an array; NumPy takes long to say a name."""
        name = self.named.get(array.dtype)
        if name is None:
            name = self.named[array.dtype] = self.dtype(array.dtype.name)
        return name


class GraphLowering(GraphBuilder):
    """The nodes of one graph, growing. ``parent`` is that of the graph around it.

    entries   a name of the file -> what it stands for
    captures  a value of the parent -> the input that it is here
    zeros     values that are zero everywhere
    sources   a value that was cast -> the one it was cast from
    products  Linear nodes without bias -> their places in ``nodes``
    uses      how often each name of the file is used
    """

    def __init__(self, graph: OnnxGraph, shared: Shared, parent: GraphLowering | None = None):
        super().__init__(count=shared.copies.add)
        self.graph, self.shared, self.parent = graph, shared, parent
        self.entries: dict[str, Entry] = {}
        self.captures: dict[str, str] = {}
        self.zeros: set[str] = set()
        self.sources: dict[str, str] = {}
        self.products: dict[str, int] = {}
        self.uses = _uses(graph)
        self.given = {value.name for value in graph.outputs}
        self.taken |= {value.name for value in graph.inputs} | self.given

    def inside(self, graph: OnnxGraph) -> GraphLowering:
        """For a branch of a control node of this graph."""
        return GraphLowering(graph, self.shared, self)

    # --- names and values ------------------------------------------------------------------------------------------

    def error(self, node: OnnxNode, message: str, kind: type[RnncoreError] = UnsupportedError) -> RnncoreError:
        return kind(f"{self.shared.path}: {node}: {message}")

    def fresh(self, wanted: str, owner: str | None = None) -> str:
        """A name that nothing has, as near to the one wanted as possible."""
        return super().fresh(wanted if wanted and _is_plain(wanted) else "value", owner)

    def fresh_input(self, wanted: str) -> str:
        """A name for an input of a branch: its own where that can be."""
        return wanted if _is_plain(wanted) and wanted not in self.values else self.fresh(wanted)

    def node_name(self, node: OnnxNode, count: int = 1) -> str:
        """The name of the node that gives a node's outputs: that of the only output, or of the node itself."""
        output = next(filter(None, node.outputs), "")
        if count == 1 and output in self.given and output not in self.values and output.isprintable():
            return output  # kept for it
        return self.fresh(output if count == 1 else node.name or output)

    def lookup(self, name: str) -> Entry:
        """The entry of a name of the file, here or in the graphs around. Missing where no node gave it."""
        entry = self.entries.get(name)
        if entry is not None:
            return entry
        if self.parent is None:
            raise Missing(f"{self.shared.path}: {shown(name)!r} is given by no node")
        outer = self.parent.lookup(name)
        if isinstance(outer, Known):
            return outer
        if isinstance(outer, Stacked):
            self.entries[name] = replace(outer, value=self.capture(outer.value))
        elif isinstance(outer, Items):
            self.entries[name] = outer  # names of the file, which are looked up when they are used
        else:
            self.entries[name] = self.capture(self.parent.value(name))
        return self.entries[name]

    def capture(self, outer: str) -> str:
        """The input that is here a value of the graph around."""
        if outer not in self.captures:
            value = cast(GraphLowering, self.parent).values[outer]
            self.captures[outer] = self.add_input(Input(f"outer.{outer}", value.dtype, value.shape))
        return self.captures[outer]

    def known(self, name: str) -> np.ndarray | None:
        """The array of a name; None where it is not constant."""
        entry = self.lookup(name)
        return entry.array if isinstance(entry, Known) else None

    def value(self, name: str) -> str:
        """The Spec's value for a name of the file, made if need be."""
        entry = self.lookup(name)
        if isinstance(entry, Known):
            return self.constant_node(entry.array, name)
        if isinstance(entry, (Items, Stacked)):
            where = f"{self.shared.path}: {self.graph.place}"
            raise UnsupportedError(f"{where}: {shown(name)!r} is a sequence, expected a tensor")
        return write_out(self, entry) if isinstance(entry, Layers) else entry

    def inferred(self, name: str) -> Value:
        """Dtype and shape of a name of the file."""
        array = self.known(name)
        if array is not None:
            return Value(self.shared.dtype_of(array), array.shape)
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
        return self.once(("constant", name, id(array)), lambda: self._new_constant(array, name), keep=array)

    def _new_constant(self, array: np.ndarray, name: str) -> str:
        small = array.ndim <= 1 and array.size <= SMALL and (array.dtype.kind != "f" or np.isfinite(array).all())
        content = (array.item() if array.ndim == 0 else tuple(array.tolist())) if small else None
        value = self.add_constant(array, self.shared.dtype_of(array), name, content)
        if array.dtype.kind == "f" and not array.any():
            self.zeros.add(value)
        return value

    # --- the graph -------------------------------------------------------------------------------------------------

    def define(self, values: Iterable[OnnxValue], sizes: Mapping[str, int]) -> None:
        """The graph's inputs as the Spec's, with the given sizes in the place of names."""
        named = [_sizes(value) for value in values if value.shape is not None]
        check_sizes(sizes, itertools.chain.from_iterable(named))
        for value in values:
            if not value.name.isprintable() or len(value.name) > MAX_NAME:
                raise FormatError(f"{self.shared.path}: input {shown(value.name)!r}: expected a printable name")
            if value.shape is None:
                raise UnsupportedError(
                    f"{self.shared.path}: input {shown(value.name)!r}: no shape, expected at least its rank"
                )
            shape = tuple(cast(Any, sizes).get(size, size) for size in _sizes(value))
            self.add_input(Input(value.name, self.shared.dtype(value.dtype), shape))
            self.entries[value.name] = value.name

    def run(self) -> None:
        """Lower every node."""
        self.entries.update({name: Known(array) for name, array in self.graph.constants.items()})
        for node in self.graph.nodes:
            self.lower(node)

    def lower(self, node: OnnxNode) -> None:
        """Lower one node; what is not supported is raised, or collected among the problems."""
        try:
            self.shared.lower_node(self, node)
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

    def place(self, node: OnnxNode, op: str, read: tuple[str, ...], attributes: Mapping[str, Any]) -> str:
        """Append the Spec's node for a node of the file and name its outputs. Returns the Spec's name."""
        endings = OPS[op].outputs
        count = len(OPS[op].names("", {**OPS[op].attributes, **attributes}) if callable(endings) else endings)
        name = self.node_name(node, count)
        made = self.add(Node(name, op, read, attributes))
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

    # --- the end ---------------------------------------------------------------------------------------------------

    def outputs(self) -> list[str]:
        """The values of the graph's outputs, each under its own name."""
        names = []
        for value in self.graph.outputs:
            if not value.name.isprintable() or len(value.name) > MAX_NAME:
                raise FormatError(f"{self.shared.path}: output {shown(value.name)!r}: expected a printable name")
            if isinstance(self.lookup(value.name), (Items, Stacked)):
                where = f"{self.shared.path}: {self.graph.place}.output {shown(value.name)!r}"
                raise UnsupportedError(f"{where}: a sequence, expected a tensor")
            made = self.value(value.name)
            if made != value.name:
                if value.name in self.values:
                    raise FormatError(f"{self.shared.path}: output {shown(value.name)!r}: a second value of that name")
                self.add(Node(value.name, "Identity", (made,)))
            names.append(value.name)
        return names

    def spec(self) -> tuple[Spec, dict[str, np.ndarray], tuple[str, ...]]:
        """The graph as a Spec, its weights, and notes on what was simplified."""
        return simplify(self.build(self.outputs()), self.weights, self.shared.folding)


def _is_plain(name: str) -> bool:
    """Whether a name of the file may be one of the Spec."""
    return name.isprintable() and len(name) <= 200 and not name.startswith("outer.")


def _sizes(value: OnnxValue) -> list[int | str]:
    """The sizes of an input; one without a usable name is NAME.AXIS."""

    def size(axis: int, given: Any) -> int | str:
        plain = isinstance(given, int) or (isinstance(given, str) and given.isprintable() and len(given) <= 200)
        return given if plain and given != UNKNOWN else f"{value.name}.{axis}"

    return [size(axis, given) for axis, given in enumerate(value.shape or ())]


def _uses(graph: OnnxGraph) -> Counter[str]:
    """The number of times each name is read, in the graph and those inside it."""
    counts: Counter[str] = Counter(value.name for value in graph.outputs)
    for node in graph.nodes:
        counts.update(node.inputs)
        for inner in node.graphs:
            counts.update(_uses(inner))
    return counts
