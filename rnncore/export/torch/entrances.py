"""Entrances to compiled code: what is recorded where Python hands a recorded value over.

A recorded value is no Tensor: compiled code that takes it for one reads memory that is none. So its class says what it
is, and only Python's isinstance sees through it; compiled code refuses it. What has an obvious meaning without
gradients is recorded: Variable, the forward of an autograd.Function, the Python of a scripted function. len and int
would make a plain number of a size, which nothing follows: they give the size.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.variable import VariableMeta
from torch.nn.modules import rnn

__all__ = ["checked_states", "entrances", "legacy_types"]

LEGACY = ("FloatTensor", "DoubleTensor", "HalfTensor", "BFloat16Tensor", "LongTensor", "IntTensor", "ShortTensor",
          "CharTensor", "ByteTensor", "BoolTensor")  # fmt: skip
"""Types of torch that are called with sizes, which they read in compiled code."""

_isinstance, _len, _issubclass = builtins.isinstance, builtins.len, builtins.issubclass


class _CheckedStates:
    """torch's recurrent functions, which with a packed sequence do not look at how many states there are.

    They then read memory that is none, which modules called at sizes of the exporter's choosing would meet.
    """

    def __init__(self, functions: Any):
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._functions, name)
        return partial(self._checked, function) if name in ("lstm", "gru", "rnn_tanh", "rnn_relu") else function

    @staticmethod
    def _checked(function: Callable, *args: Any) -> Any:
        if _isinstance(args[1], torch.Tensor) and not args[1].dtype.is_floating_point:
            _, counts, states, weights, _, layers, _, _, both = args
            states = states if _isinstance(states, (tuple, list)) else [states]
            rows = (layers * (2 if both else 1), int(counts[0]))
            sizes = [weights[1].shape[1], weights[0].shape[0] // 4]  # of c only LSTMs have one, of four gates
            for state, size in zip(states, sizes, strict=False):
                if tuple(state.shape) != (*rows, size):
                    raise RuntimeError(f"a state of shape {tuple(state.shape)}, expected {(*rows, size)}")
        return function(*args)


@contextmanager
def checked_states() -> Iterator[None]:
    """While modules are called at other sizes: states that do not fit a packed sequence raise RuntimeError."""
    kept = rnn._VF
    rnn._VF = _CheckedStates(kept)
    try:
        yield
    finally:
        rnn._VF = kept


class _Context:
    """The context that an autograd.Function's forward is given: it keeps for a backward that never comes."""

    needs_input_grad: tuple[bool, ...] = ()
    saved_tensors: tuple[Any, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    save_for_forward = save_for_backward

    def mark_dirty(self, *tensors: Any) -> None:
        pass

    mark_non_differentiable = mark_dirty

    def set_materialize_grads(self, value: bool) -> None:
        pass


@contextmanager
def entrances(
    proxy: type,
    value_of: Callable[[Any], Any],
    recorded: Callable[[Any], bool],
    refusal: Callable[[str], Exception],
    homes: Iterable[dict[str, Any]],
    truncated: Callable[[Any], Any],
) -> Iterator[None]:
    """While a module is recorded: isinstance sees the values of proxies, and calls of compiled code are Python's.

    proxy     the class of recorded values; value_of what one is for the example
    recorded  whether a call with these arguments is to be recorded
    refusal   the error for a call that cannot be, with the user's line
    homes     the globals of the user's code, in which int is followed
    truncated records int(x) of a recorded float
    """

    def seen(item: Any, kinds: Any) -> bool:
        return _isinstance(item, kinds) or (_issubclass(type(item), proxy) and _isinstance(value_of(item), kinds))

    def length(item: Any) -> Any:
        if _issubclass(type(item), proxy) and _isinstance(value_of(item), torch.Tensor) and value_of(item).ndim:
            return item.size(0)
        return _len(item)

    whole = _followed_int(seen, value_of, recorded, truncated)
    homes = [home for home in homes if "int" not in home]
    with _recorded_parameters(recorded), _inlined_functions(recorded), _inlined_scripts(recorded, refusal):
        try:
            builtins.isinstance, builtins.len = seen, length
            for home in homes:
                home["int"] = whole
            yield
        finally:
            builtins.isinstance, builtins.len = _isinstance, _len
            for home in homes:
                del home["int"]


def _followed_int(
    seen: Callable[[Any, Any], bool],
    value_of: Callable[[Any], Any],
    recorded: Callable[[Any], bool],
    truncated: Callable[[Any], Any],
) -> type:
    """A stand-in for int: its calls keep recorded sizes, everything else is int's."""

    class Whole(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            kind = type(value_of(args[0])) if _len(args) == 1 and recorded(args) else None
            if kind is float:
                return truncated(args[0])
            return args[0] if kind is int else int(*args, **kwargs)

        def __instancecheck__(cls, item: Any) -> bool:
            return seen(item, int)

        def __subclasscheck__(cls, kind: Any) -> bool:
            return _issubclass(kind, int)

        def __eq__(cls, other: Any) -> bool:
            return other is int or other is cls

        def __hash__(cls) -> int:
            return hash(int)

    return Whole("int", (int,), {})


@contextmanager
def _recorded_parameters(recorded: Callable[[Any], bool]) -> Iterator[None]:
    """torch.nn.Parameter(x) and the like of a recorded x are x."""

    def variable(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorded((args, kwargs)):
            return type.__call__(cls, *args, **kwargs)
        return args[0] if args else kwargs["data"]

    VariableMeta.__call__ = variable
    try:
        yield
    finally:
        del VariableMeta.__call__


@contextmanager
def _inlined_functions(recorded: Callable[[Any], bool]) -> Iterator[None]:
    """torch.autograd.Function.apply of recorded values is the class's own forward."""
    kept = Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorded((args, kwargs)):
            return kept.__func__(cls, *args, **kwargs)
        if cls.setup_context is not Function.setup_context:
            return cls.forward(*args, **kwargs)
        context = _Context()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    Function.apply = classmethod(apply)
    try:
        yield
    finally:
        Function.apply = kept


@contextmanager
def _inlined_scripts(recorded: Callable[[Any], bool], refusal: Callable[[str], Exception]) -> Iterator[None]:
    """A scripted function, called with recorded values, is the Python it was made of."""
    scripted = torch.jit.ScriptFunction
    kept = scripted.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorded((args, kwargs)):
            return kept(function, *args, **kwargs)
        python = getattr(function, "_torchdynamo_inline", None)
        if not inspect.isfunction(python):
            raise refusal(f"{function.name}, a scripted function without its Python, expected the function itself")
        return python(*args, **kwargs)

    scripted.__call__ = call
    try:
        yield
    finally:
        scripted.__call__ = kept


@contextmanager
def legacy_types(recorded: Callable[[Any], bool]) -> Iterator[None]:
    """While a module is recorded: torch.FloatTensor(rows, steps) and the like are torch.empty of their dtype."""

    class Legacy(type):
        tensor_type: Any

        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            sizes = recorded((args, kwargs)) and all(isinstance(size, int) for size in args)
            return torch.empty(*args, dtype=cls.tensor_type.dtype) if sizes else cls.tensor_type(*args, **kwargs)

        def __getattr__(cls, name: str) -> Any:
            return getattr(cls.__dict__["tensor_type"], name)

        def __instancecheck__(cls, item: Any) -> bool:
            return isinstance(item, cls.tensor_type)

    kept = {name: getattr(torch, name) for name in LEGACY}
    try:
        for name, original in kept.items():
            setattr(torch, name, Legacy(name, (), {"tensor_type": original}))
        yield
    finally:
        for name, original in kept.items():
            setattr(torch, name, original)
