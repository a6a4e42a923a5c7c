"""Modules of torch.nn alone, or one after the other, as one module with a forward."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from rnncore.errors import InputError, UnsupportedError
from rnncore.export.torch.containers import base_of
from rnncore.export.torch.layers.registry import CELLS, LAYERS, STACKS, kind_of

__all__ = ["Chain", "OverSteps", "as_chain"]


class OverSteps:
    """A cell called for each step of a sequence (B, T, I): the outputs (B, T, H), and the final states (1, B, H)."""

    def __init__(self, module: nn.Module, name: str, written_out: bool = False):
        self.module, self.name, self.written_out = module, name, written_out
        self.module_name = name
        self.__name__ = self.__qualname__ = "over_steps"
        self.__module__ = __name__

    def __repr__(self) -> str:
        return f"OverSteps({self.name})"

    def __call__(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        """state: each (1, B, H), as nn.LSTM and nn.GRU have them."""
        if issubclass(type(x), fx.Proxy):
            return x.tracer.create_proxy("call_function", self, (x, state), {})
        several = isinstance(state, (tuple, list))
        state = None if state is None else tuple(one[0] for one in state) if several else state[0]
        outputs = []
        for t in range(x.shape[1]):
            state = self.module(x[:, t], state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        final = tuple(one.unsqueeze(0) for one in state) if isinstance(state, tuple) else state.unsqueeze(0)
        return torch.stack(outputs, dim=1), final


class Chain(nn.Module):
    """Modules one after the other, under names of their own; recurrent ones hand their sequence on."""

    def __init__(self, steps: Sequence[tuple[str, nn.Module]], take: str):
        super().__init__()
        self.steps, self.take = list(steps), take
        for name, module in steps:
            self.register(name, module)

    def register(self, name: str, module: nn.Module) -> None:
        """The module under a name that may have dots in it, as those inside an nn.Sequential have."""
        home: nn.Module = self
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in home._modules:
                home._modules[parent] = nn.Module()
            home = home._modules[parent]
        home._modules[leaf] = module

    def forward(self, x: torch.Tensor, *state: Any) -> Any:
        states: list[torch.Tensor] = []
        last = [name for name, module in self.steps if kind_of(module) in STACKS + CELLS][-1:]
        for name, module in self.steps:
            kind = kind_of(module)
            if kind in STACKS + CELLS:
                given = state if len(self.steps) == 1 else ()
                x, after = OverSteps(module, name)(x, *given) if kind in CELLS else module(x, *given)
                states = list(after) if kind in ("LSTM", "LSTMCell") else [after]
                if self.take == "last" and [name] == last:
                    rows = 2 if getattr(module, "bidirectional", False) else 1
                    x = states[0][-1] if rows == 1 else torch.cat([states[0][-2], states[0][-1]], 1)
            else:
                x = module(x)
                states = states if kind in ("Dropout", "Identity") else []
        return (x, *states) if states else x


def as_chain(module: Any, take: str, example: Any, seed: int) -> tuple[nn.Module, Any]:
    """A module to trace and an example for it; lists, modules of torch.nn and nn.Sequential of them become a Chain."""
    if isinstance(module, nn.Module):
        steps = _opened("", module) if _is_known(module) else None
        if steps is None:
            if example is None:
                raise InputError(f"example: none, expected what {type(module).__name__}.forward is called with")
            return (module if base_of(module) is None else _alone(*_opened("", module)[0])), example
        if example is not None and len(steps) == 1 and _by_its_arguments(steps[0][1], example):
            return _alone(*steps[0]), example
        _check_sequential(steps)
        if not steps:
            raise UnsupportedError("module (Sequential): is empty, expected at least one module")
    else:
        steps = [step for name, part in module for step in _opened(name, part)]
    chain = Chain(steps, take)
    _check_layouts(steps)
    if example is None:
        example = _drawn(steps, seed)
    return chain, example


def _by_its_arguments(module: nn.Module, example: Any) -> bool:
    """Whether an example is what a module's own forward takes, and not a sequence for a cell, or input and states."""
    if isinstance(example, dict) or kind_of(module) in ("MultiheadAttention", "Bilinear", "CosineSimilarity"):
        return True
    first = example[0] if isinstance(example, tuple) and example else example
    return kind_of(module) in CELLS and np.ndim(first) < 3


def _alone(name: str, module: nn.Module) -> nn.Module:
    """A module of torch.nn inside another one whose forward has the same arguments."""

    class Alone(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self._modules[name](*args, **kwargs)

    Alone.forward.__dict__["__signature__"] = inspect.signature(type(module).forward)
    alone = Alone()
    alone.add_module(name, module)
    return alone


def _is_known(module: nn.Module) -> bool:
    """Whether a module is one of torch.nn's, or a Sequential of nothing else."""
    if type(module) is nn.Sequential:
        return all(_is_known(part) for part in module)
    return kind_of(module) in LAYERS and getattr(type(module).forward, "__module__", "").startswith("torch.nn.modules.")


def _opened(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a chain in order, nn.Sequential opened."""
    if type(module) is not nn.Sequential:
        return [(name or kind_of(module).removesuffix("Cell").lower(), module)]
    if not module._modules:
        raise UnsupportedError(f"module {name!r} (Sequential): is empty, expected at least one module")
    return [step for key, part in module._modules.items() for step in _opened(f"{name}.{key}" if name else key, part)]


def _check_sequential(steps: Sequence[tuple[str, nn.Module]]) -> None:
    """Raises for what nn.Sequential itself cannot run: something after a recurrent module, which returns a tuple."""
    for (name, module), (after, following) in pairwise(steps):
        if kind_of(module) in STACKS:
            raise UnsupportedError(
                f"module {after!r} ({kind_of(following)}): comes after {name!r} ({kind_of(module)}) in an "
                "nn.Sequential, which hands it a tuple: give a list of (name, module) and take='sequence' or 'last'"
            )
    for name, module in steps:
        if kind_of(module) in CELLS and len(steps) > 1:
            raise UnsupportedError(
                f"module {name!r} ({kind_of(module)}): in an nn.Sequential a cell keeps no state: give a list of "
                "(name, module)"
            )


def _check_layouts(steps: Sequence[tuple[str, nn.Module]]) -> None:
    layouts = {name: _layout(module) for name, module in steps if kind_of(module) in STACKS + CELLS}
    if len(set(layouts.values())) > 1:
        listed = ", ".join(f"{name!r} {layout}" for name, layout in layouts.items())
        raise UnsupportedError(f"layouts differ ({listed}), expected batch_first the same in every module")


def _layout(module: nn.Module) -> str:
    return "batch_first" if getattr(module, "batch_first", True) else "time_first"


def _drawn(steps: Sequence[tuple[str, nn.Module]], seed: int) -> np.ndarray:
    """An example of 2 rows and 7 steps for the first module that says how wide its input is."""
    rng = np.random.default_rng(seed)
    time_first = any(_layout(module) == "time_first" for _, module in steps)
    axes = (7, 2) if time_first else (2, 7)
    recurrent = any(kind_of(module) in STACKS + CELLS for _, module in steps)
    for _, module in steps:
        kind = kind_of(module)
        if kind == "Embedding":
            return rng.integers(0, module.num_embeddings, axes)
        if kind in STACKS + CELLS:
            return rng.standard_normal((*axes, module.input_size))
        if kind == "Linear":
            return rng.standard_normal((*(axes if recurrent else axes[:1]), module.in_features))
        if kind not in ("Dropout", "Identity", "ReLU", "Tanh", "Sigmoid", "Softmax", "LogSoftmax"):
            break
    names = ", ".join(f"{name!r} ({kind_of(module)})" for name, module in steps)
    raise InputError(f"example: none, and no module of {names} says how wide the input is: expected an example")
