"""Modules of torch.nn by their class, and how each becomes nodes of a Spec."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from rnncore.errors import UnsupportedError
from rnncore.export.torch.lowering import TraceLowering

__all__ = ["CELLS", "LAYERS", "STACKS", "call_module", "kind_of", "layer"]

STACKS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
LAYERS: dict[str, Callable[..., Any]] = {}

FOLDED_HOOKS = ("WeightNorm", "SpectralNorm")


def layer(*names: str) -> Callable[[Callable], Callable]:
    def remember(function: Callable) -> Callable:
        LAYERS.update(dict.fromkeys(names, function))
        return function

    return remember


def kind_of(module: nn.Module) -> str:
    """The class in torch.nn whose forward the module has."""
    for parent in type(module).__mro__:
        if parent.__module__.startswith("torch.nn.modules."):
            return parent.__name__
    return type(module).__name__


def call_module(g: TraceLowering, module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The value of a module of torch.nn. Raises UnsupportedError for classes that no entry has, and for hooks."""
    kind = kind_of(module)
    if kind not in LAYERS:
        listed = ", ".join(sorted(LAYERS))
        raise UnsupportedError(f"{g.place}: module {g.wanted!r} ({kind}) is not supported, expected one of {listed}")
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    foreign = [hook for hook in hooks if type(hook).__name__ not in FOLDED_HOOKS]
    if foreign:
        raise UnsupportedError(
            f"{g.place}: module {g.wanted!r} ({kind}): has forward hooks, which a Spec cannot hold: remove them"
        )
    if hooks:
        g.notes.append(f"{g.wanted} ({kind}): {type(hooks[0]).__name__} folded into its weights")
    for parametrized in getattr(module, "parametrizations", {}):
        used = " and ".join(type(step).__name__.lstrip("_") for step in module.parametrizations[parametrized])
        g.notes.append(f"{g.wanted}.{parametrized} ({kind}): {used} folded")
    return LAYERS[kind](g, module, *args, **kwargs)
