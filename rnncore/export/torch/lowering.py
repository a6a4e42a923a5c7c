"""From two traces of a module, at different sizes, to the nodes and weights of a Spec.

Sizes that are equal in both traces are numbers; the others are computed in the graph from the shapes of values. What
depends on parameters alone is computed here, once. How a function or a module of torch becomes nodes is in
functions/ and layers/; this file keeps values, sizes and constants.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import fx

from rnncore.errors import RnncoreError, SpecError, UnsupportedError
from rnncore.export.torch.pairing import escaped_in_both, needed_nodes, sizes_of
from rnncore.export.torch.records import Traced
from rnncore.export.torch.values import (
    DTYPES,
    Packed,
    Size,
    TracedTensor,
    all_static,
    any_trained,
    array_of,
    equal_tensors,
    has_size,
    is_plain,
    mark_values,
    reads_data,
    same_size,
    size_key,
)
from rnncore.graph.builder import GraphBuilder
from rnncore.graph.nodes import Input, Node

__all__ = ["MAX_INLINE", "TraceLowering"]

COPYING = frozenset(("expand", "expand_as", "repeat", "contiguous", "clone", "detach", "unsqueeze", "to", "view",
                     "reshape", "broadcast_to", "type_as", "float"))  # fmt: skip
"""Functions and methods whose result is their tensor, or holds it several times."""
MAX_INLINE = 4096
"""Numbers of a constant that are content of the Spec itself."""


def trunc(x: int | float) -> int:
    """int(x), under a name that no tensor has."""
    return int(x)


ARITHMETIC: dict[str, Callable] = {
    "log": math.log,
    "exp": math.exp,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "trunc": trunc,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "neg": operator.neg,
    "pow": operator.pow,
    "max": max,
    "min": min,
}

SIZE_OPS = {"add": "Add", "sub": "Sub", "mul": "Mul", "max": "Max", "min": "Min", "mod": "Mod", "pow": "Pow"}
NUMBER_OPS = {"log": "Log", "exp": "Exp"}
WHOLE_OPS = {"floor": "Floor", "ceil": "Ceil", "round": "Round", "trunc": ""}


class TraceLowering:
    """Two traces of a module, and the graph that they become.

    graph    the builder of the Spec; values, nodes and weights are its own
    sources  nodes and weights -> what the module's state_dict calls them
    notes    what was left out or folded
    env      a node of the first trace -> what it stands for
    """

    def __init__(
        self,
        first: Traced,
        second: Traced,
        inputs: Sequence[Input],
        modules: Collection[str] = (),
        stored: Collection[str] = (),
    ):
        self.first, self.second = first, second
        self.modules, self.stored = frozenset(modules), frozenset(stored)
        self.graph = GraphBuilder(first=1, owned=self.modules)
        self.graph.taken |= {"lengths", "mask", *(f"{name}." for name in modules)}
        for entry in inputs:
            self.graph.add_input(entry)
        self.values = self.graph.values
        self.sources: dict[str, str] = {}
        self.notes: list[str] = []
        self.env: dict[fx.Node, Any] = {}
        self.sizes: list[Size] = []
        self._escaped = escaped_in_both(first, second)
        self.place = "the module"
        self.node: Any = None  # the calls at hand, of both traces
        self.other: Any = None
        self.a: Any = None
        self.b: Any = None
        self._suffix = ""

    def inside(self, inputs: Sequence[Input]) -> TraceLowering:
        """For the body of a loop of this graph."""
        return TraceLowering(self.first, self.second, inputs, self.modules, self.stored)

    # --- names and nodes ---------------------------------------------------------------------------------------------

    def fresh(self, wanted: str) -> str:
        """A name that no value has yet, and no module but the current one."""
        return self.graph.fresh(wanted, self.module)

    @property
    def wanted(self) -> str:
        """The name wanted for the current node: a module's name, or torch.fx's."""
        if self.node is None:
            return "value"
        return self.node.target if self.node.op == "call_module" else self.node.name

    @property
    def module(self) -> str | None:
        """The name of the module that the current node calls."""
        if self.node is None:
            return None
        return self.node.target if self.node.op == "call_module" else getattr(self.node.target, "module_name", None)

    @contextmanager
    def named_with(self, suffix: str) -> Iterator[None]:
        """Nodes made inside are named after the current one and the suffix; its own name they leave free."""
        before, self._suffix = self._suffix, suffix
        try:
            yield
        finally:
            self._suffix = before

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """A node that the Spec refuses is refused at the current place of the module."""
        try:
            yield
        except SpecError as error:
            raise UnsupportedError(f"{self.place}: {error}") from None

    def add(
        self, node: Any, weights: Mapping[str, np.ndarray] | None = None, sources: Mapping[str, str] | None = None
    ) -> Any:
        """Append a node of the Spec with its weights, by their names in it; returns it.

        sources: what the state_dict calls the node or its weights, by their whole names; None where they are the
        current module's, under their names.
        """
        with self._refusals():
            self.graph.add(node)
        self.graph.own(node.name, weights or {})
        if sources is None and weights and self.module is not None:
            sources = {node.name: self.module}
        self.sources.update(sources or {})
        return node

    def emit(
        self,
        op: str,
        inputs: Sequence[Any],
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
        name: str | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> str:
        """Append an op; inputs are names or tensors; weights and sources by the names of weights in the node.

        Returns its name. UnsupportedError where the op cannot be what is asked of it.
        """
        names = [item if isinstance(item, str) else self.name_of(item) for item in inputs]
        name = self.fresh(name or self.wanted + self._suffix)
        with self._refusals():
            node = Node(name, op, tuple(names), dict(attributes or {}))
        own = None if sources is None else {f"{name}.{key}": source for key, source in sources.items()}
        return self.add(node, weights, own).name

    def out(self, name: str, index: int | None = None, origin: Any = None) -> TracedTensor:
        """A named value as (one of) the current node's, compared with what torch computed."""
        a, b = (self.a, self.b) if index is None else (self.a[index], self.b[index])
        return self.named(name, a, b, origin)

    def named(self, name: str, a: torch.Tensor, b: torch.Tensor, origin: Any = None) -> TracedTensor:
        value = self.values[name]
        fits = len(value.shape) == a.ndim and value.dtype == self.spec_dtype(a.dtype)
        for size, expected in zip(value.shape, a.shape, strict=False):
            fits = fits and (isinstance(size, str) or size == expected)
        if not fits:
            raise UnsupportedError(
                f"{self.place}: {self.wanted} became {value}, where torch has {a.dtype} {tuple(a.shape)}"
            )
        return TracedTensor(name, a, b, origin)

    # --- constants ---------------------------------------------------------------------------------------------------

    def spec_dtype(self, dtype: torch.dtype) -> str:
        if dtype not in DTYPES:
            raise UnsupportedError(
                f"{self.place}: {self.wanted}: {dtype}, expected one of {', '.join(map(str, DTYPES))}"
            )
        return DTYPES[dtype]

    def constant(self, array: Any, dtype: str, label: str = "constant", trained: bool = False) -> str:
        """The name of a Constant node with this content.

        A parameter is a weight under its own name, and what was computed from parameters one that no checkpoint has;
        anything else is content of the Spec.
        """
        array = np.asarray(array)
        label = label if trained or label not in self.stored else f"{label}_constant"  # no name of a checkpoint's
        key = ("constant", dtype, array.shape, array.tobytes(), label if trained else "")
        return self.graph.once(key, lambda: self._new_constant(array, dtype, label, trained))

    def _new_constant(self, array: np.ndarray, dtype: str, label: str, trained: bool) -> str:
        known = array.dtype.kind != "f" or not np.isnan(array).any()
        inline = known and not trained and array.size <= MAX_INLINE
        content = tuple(array.reshape(-1).tolist()) if inline else None
        with self._refusals():
            name = self.graph.add_constant(np.array(array, order="C"), dtype, label, content, self.module)
        if label in self.stored:
            self.sources[f"{name}.value"] = label
        return name

    def is_parameter(self, tensor: TracedTensor | None) -> bool:
        """Whether a tensor is one that a checkpoint has, as it is."""
        return tensor is not None and tensor.constant and not tensor.computed and tensor.label in self.stored

    def name_of(self, tensor: TracedTensor) -> str:
        """The value's name; a constant becomes a node now."""
        if tensor.name is None:
            dtype = self.spec_dtype(tensor.dtype)
            if tensor.a.layout != torch.strided:
                raise UnsupportedError(f"{self.place}: {self.wanted}: {tensor.a.layout}, expected a dense tensor")
            tensor.name = self.constant(array_of(tensor.a), dtype, tensor.label, bool(tensor.trained))
        return tensor.name

    # --- sizes -------------------------------------------------------------------------------------------------------

    def dim(self, tensor: TracedTensor, axis: int) -> int | Size:
        """The size of one dimension: a number where both traces agree, and the Spec knows no size it depends on."""
        axis = tensor.axis(axis)
        a, b = tensor.a.shape[axis], tensor.b.shape[axis]
        known = self.values[tensor.name].shape[axis] if tensor.name is not None else a
        return a if a == b and known == a else self._remember(Size(a, b, ("dim", tensor, axis)))

    def shape(self, tensor: TracedTensor) -> tuple[int | Size, ...]:
        return tuple(self.dim(tensor, axis) for axis in range(tensor.ndim))

    def _remember(self, size: Size) -> Size:
        self.sizes.append(size)
        return size

    def compute(self, name: str, *operands: Any) -> Any:
        """Arithmetic on numbers and sizes, by the name of Python's operator."""
        if name not in ARITHMETIC:
            raise UnsupportedError(f"{self.place}: {name} of a size, expected one of {', '.join(ARITHMETIC)}")
        function = ARITHMETIC[name]
        if len(operands) > 2:
            return self.compute(name, self.compute(name, *operands[:-1]), operands[-1])
        a = function(*(item.a if isinstance(item, Size) else item for item in operands))
        b = function(*(item.b if isinstance(item, Size) else item for item in operands))
        return self._remember(Size(a, b, (name, *operands))) if has_size(operands) else a

    def size_like(self, a: int, b: int) -> Size:
        """The size that is a in the first trace and b in the second: one seen before, or one near it."""
        for one, two in self._escaped:
            known = self.env.get(one)
            if (self.first.values[one], self.second.values[two]) == (a, b) and isinstance(known, Size):
                return known
        for size in self.sizes:
            if (size.a, size.b) == (a, b) and not reads_data(size):
                return size
        for size in list(self.sizes):
            if reads_data(size) or not isinstance(size.a, int):
                continue
            if size.a - a == size.b - b:
                return self.compute("add", size, a - size.a)
            if size.a and size.b and a % size.a == 0 and b % size.b == 0 and a // size.a == b // size.b:
                return self.compute("mul", size, a // size.a)
        raise UnsupportedError(
            f"{self.place}: {self.wanted}: a number that was {a} and {b} for inputs of two sizes, expected x.size() "
            "and arithmetic on it"
        )

    def size_value(self, size: Any) -> str:
        """The name of a value (1,) that holds a number or a size."""
        if not isinstance(size, Size):
            dtype = "float64" if isinstance(size, float) else "int64"  # as Python counts
            return self.constant(np.array([size], np.float64 if dtype == "float64" else np.int64), dtype, "number")
        return self.graph.once(size_key(size), lambda: self._new_size(size), keep=size)

    def _new_size(self, size: Size) -> str:
        kind, *parts = size.recipe
        if kind == "dim":
            return self.emit("Shape", [parts[0]], {"start": parts[1], "end": parts[1] + 1}, name="size")
        if kind != "item":
            return self._size_arithmetic(kind, parts)
        item = self.emit("Reshape", [parts[0]], {"shape": (1,)}, name="item")
        wanted = "float64" if isinstance(size.a, float) else "int64"
        return item if self.values[item].dtype == wanted else self.emit("Cast", [item], {"to": wanted}, name="item")

    def _size_arithmetic(self, kind: str, parts: Sequence[Any]) -> str:
        names = [self.size_value(part) for part in parts]
        floats = kind == "truediv" or kind in NUMBER_OPS or any(self.values[name].dtype == "float64" for name in names)
        if floats:
            names = [
                name
                if self.values[name].dtype == "float64"
                else self.emit("Cast", [name], {"to": "float64"}, name="size")
                for name in names
            ]
        if kind in WHOLE_OPS:
            rounded = self.emit(WHOLE_OPS[kind], names, name="size") if floats and WHOLE_OPS[kind] else names[0]
            return self.emit("Cast", [rounded], {"to": "int64"}, name="size") if floats else rounded
        if kind in NUMBER_OPS:
            return self.emit(NUMBER_OPS[kind], names, name="size")
        if kind == "truediv":
            return self.emit("Div", names, name="size")
        if kind == "neg":
            return self.emit("Neg", names, name="size")
        if kind == "floordiv" and floats:
            return self.emit("Floor", [self.emit("Div", names, name="size")], name="size")
        if kind == "floordiv":
            rest = self.emit("Mod", names, name="size")
            return self.emit("Div", [self.emit("Sub", [names[0], rest], name="size"), names[1]], name="size")
        return self.emit(SIZE_OPS[kind], names, name="size")

    def scalar(self, size: Any) -> str:
        """The name of a value of rank 0 that holds a number or a size."""
        if not isinstance(size, Size):
            dtype = "bool" if isinstance(size, bool) else "float" if isinstance(size, float) else "int64"
            return self.constant(np.array(size), dtype, "number")
        key = ("scalar", size_key(size))
        return self.graph.once(
            key, lambda: self.emit("Squeeze", [self.size_value(size)], {"axes": (0,)}, name="size"), keep=size
        )

    def parameter(self, op_inputs: list[Any], name: str, sizes: Sequence[Any], position: int) -> dict[str, Any]:
        """A list of sizes for an op's parameter: an attribute where all are numbers, else an input that is appended."""
        if not any(isinstance(size, Size) for size in sizes):
            return {name: tuple(int(size) for size in sizes)}
        while len(op_inputs) < position:
            op_inputs.append("")
        parts = [self.size_value(size) for size in sizes]
        op_inputs.append(parts[0] if len(parts) == 1 else self.emit("Concat", parts, {"axis": 0}, name="sizes"))
        return {}

    # --- tensors in the dtype and shape that an op needs -----------------------------------------------------------

    def cast(self, item: Any, dtype: torch.dtype) -> str:
        """The name of a tensor, number or size as a value of a dtype."""
        wanted = self.spec_dtype(dtype)
        if isinstance(item, (bool, int, float)):
            plain = {"float": float, "bool": bool}.get(wanted, int)(item)
            kind = np.float64 if wanted == "float" else np.dtype(wanted)
            return self.constant(np.array(plain, kind), wanted, "number")
        name = self.scalar(item) if isinstance(item, Size) else self.name_of(self.tensor(item))
        if self.values[name].dtype == wanted:
            return name
        return self.emit("Cast", [name], {"to": wanted}, name=f"{self.wanted}_cast")

    def tensor(self, item: Any) -> TracedTensor:
        """The argument, which has to be a tensor."""
        if isinstance(item, Packed):
            raise UnsupportedError(
                f"{self.place}: {self.wanted} of a PackedSequence, expected a recurrent module or pad_packed_sequence"
            )
        if not isinstance(item, TracedTensor):
            raise UnsupportedError(f"{self.place}: {self.wanted}: {type(item).__name__}, expected a tensor")
        return item

    def reshaped(self, x: Any, sizes: Sequence[Any], name: str | None = None, of: TracedTensor | None = None) -> str:
        """A Reshape to numbers and sizes, one of which may be -1; sizes of ``of`` at the same place stay."""
        wanted = list(sizes)
        shape: Any = self.shape(of) if of is not None else ()
        for place, size in enumerate(wanted[: len(shape)]):
            if isinstance(size, Size) and isinstance(shape[place], Size) and same_size(size, shape[place]):
                wanted[place] = 0
        unknown = [place for place, size in enumerate(wanted) if isinstance(size, Size)]
        if len(unknown) == 1 and -1 not in wanted:
            wanted[unknown[0]] = -1
        inputs = [x]
        if any(isinstance(size, Size) for size in wanted):
            wanted = [
                shape[place] if size == 0 and not isinstance(size, Size) else size for place, size in enumerate(wanted)
            ]
        attributes = self.parameter(inputs, "shape", wanted, 1)
        return self.emit("Reshape", inputs, attributes, name=name)

    # --- the graph of torch.fx ---------------------------------------------------------------------------------------

    def run(self, lower: Callable[[TraceLowering, fx.Node, list[Any], dict[str, Any]], Any]) -> tuple[Any, Any, Any]:
        """Every node that the output needs, in order. Returns the output's argument, and its values in both traces."""
        ones, twos = list(self.first.graph.nodes), list(self.second.graph.nodes)
        needed = [needed_nodes(nodes) for nodes in (ones, twos)]
        followed = [pair for pair in self._escaped if all(map(sizes_of, pair, needed))]
        wanted = [needed_nodes(nodes, [pair[i] for pair in followed]) for i, nodes in enumerate((ones, twos))]
        pairs = self._aligned(*wanted)
        for one, two in pairs:
            self.node, self.other, self.place = one, two, self.first.places.get(one, "the module")
            if one.op == "output":
                return self.pair(one.args[0], two.args[0]), *(
                    fx.node.map_aggregate(
                        node.args[0],
                        lambda argument, traced=traced: (
                            traced.values[argument] if isinstance(argument, fx.Node) else argument
                        ),
                    )
                    for node, traced in ((one, self.first), (two, self.second))
                )
            if one.op == "placeholder":
                if one not in self.env:
                    self.env[one] = TracedTensor(one.target, self.first.values[one], self.second.values[two])
                    self.shape(self.env[one])
                continue
            self.a, self.b = self.first.values[one], self.second.values[two]
            args = [self.pair(a, b) for a, b in zip(one.args, two.args, strict=True)]
            kwargs = {key: self.pair(value, two.kwargs[key]) for key, value in one.kwargs.items()}
            folded = self._folded(one, args, kwargs)
            try:
                self.env[one] = self._lowered(lower, one, args, kwargs) if folded is None else folded[0]
            except RnncoreError:
                raise
            except TypeError as error:
                raise UnsupportedError(
                    f"{self.place}: {self.wanted}: arguments that are not accepted: {error}"
                ) from error
            given = [args, list(kwargs.values())]
            mark_values(self.env[one], all(map(all_static, given)), one.op == "call_module" or any_trained(given))
        raise AssertionError("no output")

    def _lowered(self, lower: Callable, one: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """The current node as nodes of the Spec; what is computed from parameters alone keeps its content as well."""
        settled = isinstance(self.a, torch.Tensor) and is_plain(args, kwargs) and equal_tensors(self.a, self.b)
        try:
            lowered = lower(self, one, args, kwargs)
        except UnsupportedError:
            if not settled:
                raise
            return TracedTensor(None, self.a, self.b, label=one.name, constant=True, static=True, trained=True)
        if isinstance(lowered, TracedTensor) and isinstance(self.a, torch.Tensor):
            if settled and not lowered.constant:
                lowered.constant = lowered.computed = True
            if (
                str(getattr(one.target, "__name__", one.target)) in COPYING
                and args
                and isinstance(args[0], TracedTensor)
            ):
                lowered.source = self.source_of(args[0])
        return lowered

    def source_of(self, tensor: TracedTensor) -> str | None:
        """The parameter that a tensor holds, once or several times in the same order."""
        return tensor.label if self.is_parameter(tensor) else tensor.source

    def _aligned(self, ones: list[fx.Node], twos: list[fx.Node]) -> list[tuple[fx.Node, fx.Node]]:
        pairs = list(zip(ones, twos, strict=False))
        for one, two in pairs:
            if (one.op, str(one.target)) != (two.op, str(two.target)) or len(one.args) != len(two.args):
                raise UnsupportedError(
                    f"{self.first.places.get(one, 'the module')}: {one.name} is not called for inputs of another size "
                    f"({two.name} is, at {self.second.places.get(two, 'the module')}): a loop over a size, or a "
                    "branch on one, that is no loop of cells"
                )
        if len(ones) != len(twos):
            longer, traced = (ones, self.first) if len(ones) > len(twos) else (twos, self.second)
            extra = longer[len(pairs)]
            raise UnsupportedError(f"{traced.places.get(extra, 'the module')}: {extra.name}: a loop over a size")
        return pairs

    def pair(self, a: Any, b: Any) -> Any:
        """An argument of both traces as one: numbers that differ become sizes."""
        if isinstance(a, fx.Node):
            return self.env[a]
        if isinstance(a, slice):
            return slice(*(self.pair(getattr(a, key), getattr(b, key)) for key in ("start", "stop", "step")))
        if isinstance(a, (tuple, list)):
            if len(a) != len(b):
                raise UnsupportedError(
                    f"{self.place}: {self.wanted}: {len(a)} tensors for one size of the input, {len(b)} for another"
                )
            return (
                type(a)(self.pair(x, y) for x, y in zip(a, b, strict=True))
                if type(a) in (tuple, list)
                else [self.pair(x, y) for x, y in zip(a, b, strict=True)]
            )
        if isinstance(a, dict):
            return {key: self.pair(value, b[key]) for key, value in a.items()}
        if type(a) is int and type(b) is int and a != b:
            return self.size_like(a, b)
        if (a is None or isinstance(a, (int, float, bool, str))) and (type(a) is not type(b) or a != b):
            raise UnsupportedError(f"{self.place}: {self.wanted}: {a} for one size of the input, {b} for another")
        return a

    @staticmethod
    def _may_vary(one: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> bool:
        """Whether a number that both traces agree in may be another one elsewhere: a size, or made of one."""
        return (one.op == "call_method" and one.target in ("size", "numel", "nelement")) or has_size([args, kwargs])

    def _folded(self, one: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> tuple[Any] | None:
        """The value of the current node if it depends on nothing that the model is given, in a tuple; else None."""
        if one.op == "get_attr":
            return (
                TracedTensor(
                    None,
                    self.a,
                    self.b,
                    label=str(one.target),
                    constant=True,
                    static=True,
                    trained=self._is_stored(one),
                )
                if isinstance(self.a, torch.Tensor)
                else self.a,
            )
        plain = isinstance(self.a, (bool, int, float, str, torch.dtype, torch.device, type(None)))
        if plain and self.a == self.b and not self.first.tracer.depends_on_data(one):
            number = isinstance(self.a, (int, float)) and not isinstance(self.a, bool)
            return None if number and self._may_vary(one, args, kwargs) else (self.a,)
        if one.op == "call_module" and not is_plain(args, kwargs):
            return None
        trained = one.op == "call_module" or any_trained([args, list(kwargs.values())])
        if (
            isinstance(self.a, torch.Tensor)
            and not trained
            and is_plain(args, kwargs)
            and equal_tensors(self.a, self.b)
        ):
            return (TracedTensor(None, self.a, self.b, label=one.name, constant=True, static=True, trained=False),)
        return None

    def _is_stored(self, one: fx.Node) -> bool:
        """Whether a checkpoint of the module decides a tensor, or whether that cannot be known."""
        return one.target in self.stored or one.target.startswith("_tensor_constant")
