"""Where Python hands a value over to torch's compiled code: what is recorded there instead.

A recorded value is no Tensor: compiled code that takes it for one reads memory that is none. So its class says what it
is, and only Python's isinstance sees through it; compiled code refuses it. What has an obvious meaning without
gradients is recorded: Variable, the forward of an autograd.Function, the Python of a scripted function.
"""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.variable import VariableMeta

__all__ = ["entrances"]

_isinstance = builtins.isinstance


class _Context:
    """What an autograd.Function's forward is given: it keeps for a backward that never comes."""

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
    proxy: type, value_of: Callable[[Any], Any], recorded: Callable[[Any], bool], refusal: Callable[[str], Exception]
) -> Iterator[None]:
    """While a module is recorded: isinstance sees the values of proxies, and calls of compiled code are Python's.

    proxy     the class of recorded values; value_of what one is for the example
    recorded  whether a call with these arguments is to be recorded
    refusal   the error for a call that cannot be, with the user's line
    """

    def seen(item: Any, kinds: Any) -> bool:
        return _isinstance(item, kinds) or (issubclass(type(item), proxy) and _isinstance(value_of(item), kinds))

    def variable(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorded((args, kwargs)):
            return type.__call__(cls, *args, **kwargs)
        return args[0] if args else kwargs["data"]

    kept_apply = Function.__dict__["apply"]

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorded((args, kwargs)):
            return kept_apply.__func__(cls, *args, **kwargs)
        if cls.setup_context is not Function.setup_context:
            return cls.forward(*args, **kwargs)
        context = _Context()
        context.needs_input_grad = (False,) * len(args)
        return cls.forward(context, *args, **kwargs)

    scripted = torch.jit.ScriptFunction
    kept_call = scripted.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorded((args, kwargs)):
            return kept_call(function, *args, **kwargs)
        python = getattr(function, "_torchdynamo_inline", None)
        if not inspect.isfunction(python):
            raise refusal(f"{function.name}, a scripted function without its Python, expected the function itself")
        return python(*args, **kwargs)

    try:
        builtins.isinstance = seen
        VariableMeta.__call__ = variable
        Function.apply = classmethod(apply)
        scripted.__call__ = call
        yield
    finally:
        builtins.isinstance = _isinstance
        del VariableMeta.__call__
        Function.apply = kept_apply
        scripted.__call__ = kept_call
