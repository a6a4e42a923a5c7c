"""Tracing a PyTorch module by torch.fx with an example: every value of the graph is also computed as it is recorded.

    traced = trace(module, arguments)     # arguments: the forward's, with tensors
    traced.graph                          # torch.fx nodes, modules of torch.nn as leaves
    traced.values[node]                   # what the module computes there for the example

Knowing the values, sizes can be asked for, unpacked and counted with; a loop over them is written out, and a branch
on them goes the example's way and is remembered. A branch on data has no answer: UnsupportedError names its line.
"""

from __future__ import annotations

import inspect
import math
import operator
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.fx import _symbolic_trace
from torch.nn.utils import rnn
from torch.overrides import TorchFunctionMode, is_tensor_method_or_property

from rnncore.errors import RnncoreError, UnsupportedError
from rnncore.export.torch.containers import CONTAINERS, base_of, recorded_bases, recorded_containers
from rnncore.export.torch.entrances import entrances, legacy_types
from rnncore.export.torch.random import REMEDY, Draw, recorded_draws
from rnncore.export.torch.records import HERE, Decision, Escape, Formula, Traced, is_users, place_of, users_frames

__all__ = ["trace"]

PACKING = tuple(getattr(rnn, name) for name in rnn.__all__ if inspect.isfunction(getattr(rnn, name, None)))
"""Functions of torch.nn.utils.rnn, which look into tensors and are therefore recorded as they are called."""
FACTORIES = tuple(
    getattr(torch, name)
    for name in ("zeros", "ones", "full", "empty", "arange", "tensor", "eye", "linspace", "as_tensor", "scalar_tensor")
)
"""Functions that make tensors of sizes, and read them before any proxy is asked."""
RANDOM = frozenset(("rand", "randn", "randint", "randperm", "bernoulli", "multinomial", "normal", "rand_like",
                    "randn_like", "normal_", "uniform_", "exponential_", "random_", "gumbel_softmax"))  # fmt: skip
MATH = {name: getattr(math, name) for name in ("sqrt", "log", "exp", "floor", "ceil")}
"""NumPy's functions of these names, of a size."""
KNOWN = frozenset(("ndim", "dtype", "device", "is_cuda", "is_cpu", "is_sparse", "is_mps", "is_quantized", "layout",
                   "requires_grad", "is_leaf", "grad_fn", "is_nested", "names", "itemsize"))  # fmt: skip
"""Attributes of a tensor that no size changes."""
KNOWN_METHODS = frozenset(("dim", "ndimension", "is_floating_point", "is_complex", "is_contiguous", "get_device",
                           "type", "element_size", "data_ptr", "is_pinned", "is_signed"))  # fmt: skip
_ONE_AT_A_TIME = threading.RLock()
"""Recording changes functions of torch and of Python for a while."""
LEAVING = frozenset(("tolist", "numpy", "__array__", "__int__", "__float__"))


class _Proxy(fx.Proxy):
    """A recorded value that knows what it is for the example."""

    @property
    def _value(self) -> Any:
        return self.tracer.values[self.node]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        value = self._value
        if name in KNOWN:
            return getattr(value, name)
        if isinstance(value, torch.Tensor):
            if name == "shape":
                return self._sizes()
            if name == "type":
                return self._type
            if name in KNOWN_METHODS:
                return getattr(value, name)
            if name == "size":
                return lambda dim=None: self._sizes() if dim is None else self._size(dim)
            if name == "data" or name == "H" or name == "mH":
                return self if name == "data" else self.transpose(-2, -1)
        if not hasattr(value, name):
            raise AttributeError(f"{type(value).__name__!r} object has no attribute {name!r}")
        return _Attribute(self, name)

    def _size(self, dim: int) -> Any:
        return self.tracer.create_proxy("call_method", "size", (self, int(dim)), {})

    def _type(self, dtype: Any = None, **kwargs: Any) -> Any:
        """The type's name, or the values in another: a dtype, a type such as torch.FloatTensor, or its name."""
        if dtype is None:
            return self._value.type()
        wanted = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
        return self.to(getattr(wanted, "dtype", wanted))

    def _sizes(self) -> tuple[Any, ...]:
        return tuple(self._size(dim) for dim in range(self._value.ndim))

    def __iter__(self) -> Iterator[Any]:
        value = self._value
        if isinstance(value, dict):
            return iter(value)
        if not isinstance(value, (torch.Tensor, tuple, list)):
            raise TypeError(f"cannot iterate over {type(value).__name__}")
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        value = self._value
        if isinstance(value, torch.Tensor) and value.ndim:
            self.tracer.escaped(self._size(0).node)
        return len(value)

    def _plain(self, what: str) -> Any:
        """A number that only sizes decide."""
        if isinstance(self._value, torch.Tensor) or self.tracer.depends_on_data(self.node):
            raise self.tracer.refusal(f"{what} of a tensor's content, which only an input decides")
        return self._value

    def _number(self, what: str) -> Any:
        """A number that only sizes decide, and that is not followed from here on."""
        number = self._plain(what)
        self.tracer.escaped(self.node)
        return number

    def __index__(self) -> int:
        return operator.index(self._number("an integer"))

    def __int__(self) -> int:
        return int(self._number("an integer"))

    def __float__(self) -> float:
        return float(self._number("a number"))

    def __bool__(self) -> bool:
        return self.tracer.decide(self.node, bool(self._plain("a condition")))

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.tracer.refusal("an array of NumPy, which leaves torch, expected tensors from input to output")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """numpy.sqrt(x.size(1)) and the like, as the functions of math."""
        function = MATH.get(ufunc.__name__)
        numbers = all(isinstance(item._value if issubclass(type(item), fx.Proxy) else item, int) for item in inputs)
        if method != "__call__" or kwargs or not numbers or function is None:
            return self.__array__()
        return self.tracer.create_proxy("call_function", function, inputs, {})

    def __round__(self, digits: int | None = None) -> Any:
        if digits is not None or not isinstance(self._value, (int, float)):
            raise self.tracer.refusal("round() of a tensor or to digits, expected torch.round")
        return self.tracer.create_proxy("call_function", round, (self,), {})

    def __contains__(self, item: Any) -> bool:
        return item in self._number("a condition")

    def __setitem__(self, index: Any, item: Any) -> None:
        self.node = self.tracer.create_proxy("call_function", _setitem, (self, index, item), {}).node

    def __hash__(self) -> int:
        return id(self)


class _Attribute(_Proxy):
    """An attribute of a recorded value; recorded only where it is not called."""

    def __init__(self, root: _Proxy, attr: str):
        self.root, self.attr, self.tracer, self._node = root, attr, root.tracer, None

    @property
    def node(self) -> fx.Node:
        if self._node is None:
            self._node = self.tracer.create_proxy("call_function", getattr, (self.root, self.attr), {}).node
        return self._node

    @node.setter
    def node(self, node: fx.Node) -> None:
        self._node = node

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.tracer.create_proxy("call_method", self.attr, (self.root, *args), kwargs)


def _setitem(x: torch.Tensor, index: Any, item: Any) -> torch.Tensor:
    """x with item at index, as a value of its own."""
    x = x.clone()
    x[index] = item
    return x


_setitem.__name__ = "setitem"


class _Calls(TorchFunctionMode):
    """Records calls that reach no proxy by themselves: factories, and tensors that meet sizes."""

    def __init__(self, tracer: _Tracer):
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if self.tracer.evaluating:
            return function(*args, **kwargs)
        if name == "rand" and all(size == 1 for size in _flat(args)) and "out" not in kwargs:
            return Draw(name, self.tracer.refusal)
        if name in RANDOM:
            raise self.tracer.refusal(f"{name}, which is random, {REMEDY}")
        args = tuple(getattr(one, "tensor_type", one) if isinstance(one, type) else one for one in args)
        recorded = function in FACTORIES or _has_proxy((args, kwargs))
        if not recorded or name in ("__get__", "__set__"):
            return function(*args, **kwargs)
        if is_tensor_method_or_property(function):
            return self.tracer.create_proxy("call_method", name, args, kwargs)
        return self.tracer.create_proxy("call_function", function, args, kwargs)


def _flat(nested: Any) -> list[Any]:
    return [item for one in nested for item in _flat(one)] if isinstance(nested, (tuple, list)) else [nested]


def _has_proxy(nested: Any) -> bool:
    if issubclass(type(nested), fx.Proxy):
        return True
    if type(nested) in (tuple, list, torch.Size):
        return any(map(_has_proxy, nested))
    if type(nested) is dict:
        return any(map(_has_proxy, nested.values()))
    return type(nested) is slice and any(map(_has_proxy, (nested.start, nested.stop, nested.step)))


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True

    def __init__(self, arguments: inspect.BoundArguments, names: Mapping[int, str], turned: int | None = None):
        super().__init__(autowrap_functions=(*PACKING, *FACTORIES))
        self.turned = turned
        self.arguments, self.names = arguments, names
        self.evaluating = False
        self.values: dict[fx.Node, Any] = {}
        self.places: dict[fx.Node, str] = {}
        self.stacks: dict[fx.Node, tuple] = {}
        self.decisions: list[Decision] = []
        self.escapes: list[Escape] = []
        self.masked_layers: dict[nn.Module, tuple[nn.Module, tuple[str, ...]]] = {}
        self.depth = 0
        self.outermost: CodeType | None = None

    # --- what torch.fx asks -------------------------------------------------------------------------------------

    def proxy(self, node: fx.Node) -> _Proxy:
        return _Proxy(node, self)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """The forward's own arguments, each tensor in them a placeholder."""
        return self._call_root, []

    def _call_root(self) -> Any:
        def placeholder(argument: Any) -> Any:
            if isinstance(argument, torch.Tensor):
                proxy = super(_Tracer, self).create_proxy("placeholder", self.names[id(argument)], (), {})
                self.values[proxy.node] = argument
                self.places[proxy.node], self.stacks[proxy.node] = "the example", ()
                return proxy
            if isinstance(argument, tuple) and hasattr(argument, "_fields"):
                return type(argument)(*map(placeholder, argument))
            if isinstance(argument, (tuple, list)):
                return type(argument)(map(placeholder, argument))
            if isinstance(argument, dict):
                return {key: placeholder(value) for key, value in argument.items()}
            return argument

        self.depth = len(users_frames())
        self.outermost = sys._getframe().f_code
        args, kwargs = placeholder(self.arguments.args), placeholder(self.arguments.kwargs)
        return type(self.root).forward(self.root, *args, **kwargs)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        """Modules of torch.nn, and subclasses of them that leave their forward alone."""
        if isinstance(module, CONTAINERS):
            return False
        forward = getattr(type(module), "forward", None)
        return getattr(forward, "__module__", "").startswith("torch.nn.modules.")

    def call_module(self, module, forward, args, kwargs):
        if self.evaluating:
            return forward(*args, **kwargs)
        return super().call_module(module, forward, args, kwargs)

    def getattr(self, attr, attr_val, parameter_proxy_cache):
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        if issubclass(type(a), fx.Proxy):
            return a.node
        if isinstance(a, torch.Size):
            return tuple(a)
        if isinstance(a, rnn.PackedSequence):
            raise self.refusal("a PackedSequence of its own, expected pack_padded_sequence of an input")
        return super().create_arg(a)

    def create_proxy(self, kind, target, args, kwargs, name=None, type_expr=None, proxy_factory_fn=None):
        if kind == "call_method" and target in LEAVING:
            raise self.refusal(f"{target}, which leaves torch, expected tensors from input to output")
        called = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        if kind == "call_function" and called in KNOWN_METHODS and len(args) == 1 and not kwargs:
            return getattr(args[0]._value, called)()
        if kind in ("call_function", "call_method") and called in RANDOM:
            raise self.refusal(f"{called}, which is random, {REMEDY}")
        changed = self._changed_in_place(kind, target, called, args, kwargs)
        if called.strip("_") == "squeeze" and kind != "call_module" and not self.evaluating:
            self._squeezed(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, name, type_expr, proxy_factory_fn)
        node = proxy.node
        frames = users_frames()
        frames = frames[: max(len(frames) - self.depth + 1, 1)]
        self.places[node] = place_of(frames)
        self.stacks[node] = tuple(frames)
        try:
            self.values[node] = self._evaluate(node)
        except RnncoreError:
            raise
        except Exception as error:
            raise self.refusal(f"{called} fails in torch for the example: {_said(error)}") from error
        if changed is not None:
            changed.node = node
        return proxy

    def _changed_in_place(self, kind, target, called, args, kwargs) -> _Proxy | None:
        """The proxy whose tensor a call changes, which from then on is the result."""
        inplace = kind == "call_method" and called.endswith("_") and not called.endswith("__")
        inplace = inplace or (kind == "call_function" and called.endswith("_") and not called.endswith("__"))
        inplace = inplace or kwargs.get("inplace") is True
        if kind == "call_module":
            inplace = getattr(self.root.get_submodule(target), "inplace", False) is True
        if not inplace or not args:
            return None
        if not issubclass(type(args[0]), fx.Proxy):
            raise self.refusal(f"{called} changes a tensor that is no input, expected {called.rstrip('_')}")
        return args[0]

    def by_forward(self, module: nn.Module) -> None:
        """Records module.forward(x) of torch's own modules, called by its name, as module(x)."""

        def recording(part: nn.Module) -> Callable:
            def forward(*args: Any, **kwargs: Any) -> Any:
                own = self.evaluating or not _has_proxy((args, kwargs))
                return type(part).forward(part, *args, **kwargs) if own else part(*args, **kwargs)

            return forward

        for name, part in module.named_modules():
            if name and self.is_leaf_module(part, name) and "forward" not in part.__dict__:
                part.__dict__["forward"] = recording(part)

    # --- values ----------------------------------------------------------------------------------------------------

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """Calls inside are made, not recorded."""
        before, self.evaluating = self.evaluating, True
        try:
            yield
        finally:
            self.evaluating = before

    def _evaluate(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda one: self._value_of(one) if isinstance(one, fx.Node) else one
        )
        args = [_thawed(argument) for argument in args]
        kwargs = {key: _thawed(argument) for key, argument in kwargs.items()}
        with self.plainly():
            if node.op == "get_attr":
                attribute = self.root
                for part in node.target.split("."):
                    attribute = getattr(attribute, part)
                return attribute.detach() if isinstance(attribute, torch.Tensor) else attribute
            if node.op == "call_module":
                args[:1] = [x.clone() if isinstance(x, torch.Tensor) else x for x in args[:1]]
                part = self.root.get_submodule(node.target)
                base = base_of(part)
                if base is not None:
                    return base.forward(part, *args, **kwargs)
                return _symbolic_trace._orig_module_call(part, *args, **kwargs)
            if node.op == "call_method":
                own, *rest = args
                if node.target.endswith("_") and isinstance(own, torch.Tensor):
                    own = own.clone()
                return getattr(own, node.target)(*rest, **kwargs)
            if kwargs.get("inplace") is True or getattr(node.target, "__name__", "").endswith("_"):
                args[:1] = [x.clone() if isinstance(x, torch.Tensor) else x for x in args[:1]]
            return node.target(*args, **kwargs)

    def _value_of(self, node: fx.Node) -> Any:
        """A node's value; of a tensor that torch.fx itself has made an attribute, now."""
        if node not in self.values:
            self.values[node] = self._evaluate(node)
        return self.values[node]

    def depends_on_data(self, node: fx.Node) -> bool:
        """Whether a number was taken out of a tensor, and not from its shape."""
        if isinstance(self.values[node], torch.Tensor):
            return True
        if node.op == "call_method" and node.target in ("size", "numel", "nelement", "dim"):
            return False
        return any(self.depends_on_data(source) for source in node.all_input_nodes)

    def decide(self, node: fx.Node, taken: bool) -> bool:
        if len(self.decisions) == self.turned:
            taken = not taken
        self.decisions.append(Decision(place_of(iter(users_frames())), self._formula(node), taken))
        return taken

    def _squeezed(self, x: Any, *dims: Any, dim: Any = None) -> None:
        """Remembers that a dimension is left out where its size is 1, and stays otherwise."""
        value = x._value if issubclass(type(x), _Proxy) else None
        if not isinstance(value, torch.Tensor):
            return
        wanted = dims[0] if dims else range(value.ndim) if dim is None else dim
        for one in wanted if isinstance(wanted, (tuple, list, range)) else (wanted,):
            if value.ndim and isinstance(one, int):
                axis, size = one % value.ndim, value.shape[one]
                formula = Formula([size], lambda sizes: sizes[0] == 1, [(x.node, axis)], lambda size: size - 1)
                self.decisions.append(Decision(place_of(iter(users_frames())), formula, size == 1))

    def _formula(self, node: fx.Node) -> Formula:
        """The making of a node's value from sizes; copied, since nodes change when loops are rolled up."""
        leaves: list[int] = []
        sources: list[tuple[fx.Node, int] | None] = []

        def copied(argument: Any) -> Callable[[Sequence[int]], Any]:
            if not isinstance(argument, fx.Node):
                if isinstance(argument, (tuple, list)):
                    items = [copied(item) for item in argument]
                    return lambda sizes: tuple(item(sizes) for item in items)
                return lambda sizes: argument
            if argument.op == "call_method" and argument.target in ("size", "numel", "nelement"):
                place = len(leaves)
                leaves.append(self.values[argument])
                sources.append((argument.args[0], argument.args[1]) if argument.target == "size" else None)
                return lambda sizes: sizes[place]
            args, function = copied(argument.args), argument.target
            if isinstance(function, str):
                return lambda sizes: getattr(args(sizes)[0], function)(*args(sizes)[1:])
            return lambda sizes: function(*args(sizes))

        value = copied(node)
        return Formula(leaves, value, sources, _gap(node) if len(leaves) == 1 else None)

    def escaped(self, node: fx.Node) -> None:
        """Remembers that a size has become a number, with the code of the frames that may count with it."""
        frame: FrameType | None = sys._getframe(1)
        codes = []
        while frame is not None and frame.f_code is not self.outermost:
            if is_users(frame.f_code.co_filename):
                codes.append(frame.f_code)
            frame = frame.f_back
        place = place_of(iter(users_frames()))
        self.escapes.append(Escape(place, node, self._formula(node), tuple(codes)))

    def records(self, arguments: Any) -> bool:
        """Whether a call with these arguments is recorded, and not only made."""
        return not self.evaluating and _has_proxy(arguments)

    def refusal(self, what: str) -> UnsupportedError:
        return UnsupportedError(f"{place_of(iter(users_frames()))}: {what}")


COMPARISONS = (operator.gt, operator.ge, operator.lt, operator.le, operator.eq, operator.ne)


def _gap(node: fx.Node) -> Callable[[int], Any] | None:
    """The difference of both sides of a condition on one size; None where that may rise and fall."""
    if node.target not in COMPARISONS:
        return _monotone(node)
    sides = [_monotone(side) if isinstance(side, fx.Node) else side for side in node.args]
    if not any(isinstance(side, (int, float)) for side in sides) or any(side is None for side in sides):
        return None
    left, right = (side if callable(side) else lambda size, side=side: side for side in sides)
    return lambda size: left(size) - right(size)


def _monotone(node: fx.Node) -> Callable[[int], Any] | None:
    """A number made of one size by calls that keep the order of sizes, or turn it round."""
    if node.op == "call_method" and node.target == "size":
        return lambda size: size
    nodes = [one for one in node.args if isinstance(one, fx.Node)]
    inner = _monotone(nodes[0]) if len(nodes) == 1 and not node.kwargs else None
    if inner is None or any(not isinstance(one, (int, float, fx.Node)) for one in node.args):
        return None
    divides = node.target in (operator.floordiv, operator.truediv)
    if node.target not in (operator.add, operator.sub, operator.mul, operator.neg) and not divides:
        return None
    if divides and (node.args[0] is not nodes[0] or node.args[1] == 0):
        return None
    function, places = node.target, [one is nodes[0] for one in node.args]
    return lambda size: function(*(inner(size) if place else one for place, one in zip(places, node.args, strict=True)))


def _thawed(argument: Any) -> Any:
    """Lists and dicts as torch expects them, instead of torch.fx's own."""
    if isinstance(argument, list):
        return [_thawed(item) for item in argument]
    if type(argument) is tuple:
        return tuple(map(_thawed, argument))
    return {key: _thawed(item) for key, item in argument.items()} if isinstance(argument, dict) else argument


@contextmanager
def _recorded_by_name(tracer: _Tracer) -> Iterator[None]:
    """Functions called by their full name, as in torch.nn.utils.rnn, are recorded too; restored afterwards."""

    def recording(function: Callable) -> Callable:
        def call(*args, **kwargs):
            if tracer.evaluating:
                return function(*args, **kwargs)
            return tracer.create_proxy("call_function", function, args, kwargs)

        return call

    homes = [*((rnn, function) for function in PACKING), *((torch, function) for function in FACTORIES)]
    try:
        for home, function in homes:
            setattr(home, function.__name__, recording(function))
        yield
    finally:
        for home, function in homes:
            setattr(home, function.__name__, function)


@contextmanager
def _attributes_restored(module: nn.Module) -> Iterator[Callable[[], str | None]]:
    """Every module has its own attributes again afterwards. Gives a function that names the first changed one."""
    parts = dict(module.named_modules())
    tables = ("_parameters", "_buffers", "_modules")
    kept = {
        name: (dict(part.__dict__), {table: dict(part.__dict__[table]) for table in tables})
        for name, part in parts.items()
    }

    def changed() -> str | None:
        for name, part in parts.items():
            for key, value in part.__dict__.items():
                if key not in tables and _has_proxy(value) and kept[name][0].get(key) is not value:
                    return f"{name}.{key}" if name else key
            for table in tables:
                for key, value in part.__dict__[table].items():
                    if _has_proxy(value):
                        return f"{name}.{key}" if name else key
        return None

    try:
        yield changed
    finally:
        for name, part in parts.items():
            attributes, inner = kept[name]
            part.__dict__.clear()
            part.__dict__.update(attributes)
            for table in tables:
                part.__dict__[table].clear()
                part.__dict__[table].update(inner[table])


def _globals_of(module: nn.Module) -> list[dict[str, Any]]:
    """The globals of the user's code in a module, each once."""
    functions: list[Any] = [getattr(type(part), "forward", None) for part in module.modules()]
    namespaces = [
        function.__globals__ for function in functions if is_users(getattr(_code(function), "co_filename", HERE[0]))
    ]
    return list({id(home): home for home in namespaces}.values())


INSTEAD = {
    "new() received an invalid combination": "torch.zeros or torch.empty of sizes",
    "not a storage": "the tensor itself, or torch.as_tensor of it",
}
"""Of torch.Tensor(...): what torch says of a recorded value -> what can be recorded."""


def trunc(x: float) -> int:
    """int(x) as a call to record."""
    return int(x)


def _code(function: Any) -> CodeType | None:
    return getattr(function, "__code__", None)


def _said(error: Exception) -> str:
    """The class of an error and the first line of its text."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def _not_traced(error: Exception) -> UnsupportedError:
    """An error of the module's code while it is recorded, with its line there."""
    where = place_of(
        (frame.filename, frame.lineno)
        for frame in reversed(traceback.extract_tb(error.__traceback__))
        if is_users(frame.filename)
    )
    expected = next(
        (instead for said, instead in INSTEAD.items() if said in str(error)),
        "tensor code whose path depends on sizes only",
    )
    return UnsupportedError(f"{where}: cannot be traced ({_said(error)}), expected {expected}")


def trace(
    module: nn.Module, arguments: inspect.BoundArguments, names: Mapping[int, str], turned: int | None = None
) -> Traced:
    """The graph of a module in evaluation mode, called with arguments; names gives a placeholder's, by tensor's id.

    turned is the number of a decision on sizes that is answered the other way round.

    Raises UnsupportedError with the line of the module's code that cannot be recorded.
    """
    tracer = _Tracer(arguments, names, turned)
    try:
        with (
            _ONE_AT_A_TIME,
            _attributes_restored(module) as changed,
            _recorded_by_name(tracer),
            entrances(
                _Proxy,
                operator.attrgetter("_value"),
                tracer.records,
                tracer.refusal,
                _globals_of(module),
                lambda x: tracer.create_proxy("call_function", trunc, (x,), {}),
            ),
            recorded_containers(tracer.records, tracer.refusal, tracer.masked_layers),
            recorded_bases(
                tracer.records,
                lambda part, args, kwargs: tracer.create_proxy(
                    "call_module", tracer.path_of_module(part), args, kwargs
                ),
            ),
            recorded_draws(lambda: not tracer.evaluating, tracer.refusal, _globals_of(module)),
            legacy_types(tracer.records),
            _Calls(tracer),
            torch.no_grad(),
        ):
            tracer.by_forward(module)
            graph = tracer.trace(module)
            for node in graph.nodes:
                if node.op != "output":
                    tracer._value_of(node)
            state = changed()
    except RnncoreError:
        raise
    except Exception as error:
        raise _not_traced(error) from error
    if state is not None:
        raise UnsupportedError(
            f"module: keeps a value from call to call in {state!r}, expected it as an argument and a result of forward"
        )
    return Traced(graph, tracer.values, tracer.places, tracer.stacks, tracer.decisions, tracer.escapes, tracer)
