"""From live PyTorch modules to a Spec and Weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from rnncore.cells import GRU, LSTM, RNN, Cell
from rnncore.errors import InputError, UnsupportedError
from rnncore.export.exported import Exported, example_for
from rnncore.formats.torch_names import bind
from rnncore.spec import Input, Node, Recurrent, Spec
from rnncore.test_pair import TestPair

__all__ = ["from_torch"]

STACKS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
POINTWISE = {"ReLU": "Relu", "Tanh": "Tanh", "Sigmoid": "Sigmoid", "Softmax": "Softmax", "LogSoftmax": "LogSoftmax"}
DROPPED = ("Dropout", "Identity")
ACCEPTED = (*STACKS, *CELLS, "Embedding", "Linear", *POINTWISE, *DROPPED, "Sequential")
TAKES = ("sequence", "last")


@dataclass(frozen=True)
class _Step:
    """One module of the chain under its name; kind is its class in torch.nn."""

    name: str
    module: Any
    kind: str

    @property
    def recurrent(self) -> bool:
        return self.kind in STACKS + CELLS


def from_torch(module: Any, example: Any = None, *, take: str | None = None, seed: int = 0) -> Exported:
    """Spec, Weights and a test pair of a PyTorch module.

    module is an nn.RNN, LSTM, GRU, one of their cells, Embedding, Linear or an nn.Sequential of these and of
    activations; or a list of (name, module), for what nn.Sequential cannot run: there each recurrent module hands
    its sequence on, and the last of them either that (take="sequence", the default) or its last layer's final h,
    directions side by side (take="last"). A cell is run over the steps of a sequence. What ends in a recurrent
    module also returns its final states.

    example is a batch (B, T, I), or of ids (B, T), as an array or tensor; without it one is drawn with the seed.
    The module runs in evaluation mode and is left as it was. Weights are copied and keep their dtype.

    Raises UnsupportedError naming the module that is not accepted, and InputError for the example.
    """
    import torch

    chained = not isinstance(module, torch.nn.Module)
    if take is not None and (not chained or take not in TAKES):
        raise InputError(f"take={take!r}, expected 'sequence' or 'last', and a list of (name, module)")
    steps = _flatten(torch, _pairs(torch, module))
    if not chained:
        _check_sequential(steps)
    dtype = _dtype(torch, steps)
    spec, notes = _lower(steps, take or "sequence", None if example is None else np.ndim(_array(torch, example)))
    sizes = {"B": 2, "T": 7}
    ids = next((step.module.num_embeddings for step in steps if step.kind == "Embedding"), 0)
    x = example_for(spec, None if example is None else _array(torch, example), dtype, sizes, ids, seed)
    bound = bind(spec, _tensors(steps))
    with _evaluating(torch, [step.module for step in steps] if chained else [module]):
        outputs = _run(torch, module, steps, torch.from_numpy(x), take or "sequence", chained)
    pair = TestPair({spec.inputs[0].name: x}, dict(zip(spec.outputs, outputs, strict=True)))
    return Exported(spec, bound.weights, pair, f"torch {torch.__version__.partition('+')[0]}", tuple(notes))


def _pairs(torch, module) -> list[tuple[str, Any]]:
    """The module under a name of its own, or the (name, module) list checked."""
    if isinstance(module, torch.nn.Module):
        kind = type(module).__name__
        return [("" if kind == "Sequential" else kind.removesuffix("Cell").lower(), module)]
    pairs = list(module) if isinstance(module, Iterable) and not isinstance(module, (str, bytes, dict)) else [module]
    for pair in pairs:
        fits = isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[0], str) and pair[0]
        if not fits or not isinstance(pair[1], torch.nn.Module):
            raise InputError(f"module: {type(pair).__name__}, expected an nn.Module or a list of (name, module)")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"module: names {names}, expected at least one, each once")
    return pairs


def _flatten(torch, pairs) -> list[_Step]:
    """Every module of the chain in order, nn.Sequential opened, each checked to be one that is accepted."""
    steps = []
    for name, module in pairs:
        kind = type(module).__name__
        where = f"module {name!r} ({kind})" if name else f"module ({kind})"
        if kind not in ACCEPTED or type(module) is not getattr(torch.nn, kind):
            raise UnsupportedError(f"{where}: not accepted, expected {', '.join(ACCEPTED)}")
        if module._forward_pre_hooks or module._forward_hooks:
            raise UnsupportedError(f"{where}: has forward hooks (weight_norm?), which a Spec cannot hold: remove them")
        if kind == "Sequential":
            children = [(f"{name}.{key}" if name else key, child) for key, child in module._modules.items()]
            if not children:
                raise UnsupportedError(f"{where}: is empty, expected at least one module")
            steps += _flatten(torch, children)
        else:
            steps.append(_Step(name, module, kind))
    return steps


def _check_sequential(steps: list[_Step]) -> None:
    """Raises for what nn.Sequential itself cannot run: something after a recurrent module, which returns a tuple."""
    for step, following in pairwise(steps):
        if step.kind in STACKS:
            raise UnsupportedError(
                f"module {following.name!r} ({following.kind}): stands after {step.name!r} ({step.kind}) in an "
                "nn.Sequential, which hands it a tuple: give a list of (name, module) and take='sequence' or 'last'"
            )
    for step in steps:
        if step.kind in CELLS and len(steps) > 1:
            raise UnsupportedError(
                f"module {step.name!r} ({step.kind}): in an nn.Sequential a cell keeps no state: give a list of "
                "(name, module)"
            )


def _dtype(torch, steps: list[_Step]) -> str:
    found = {parameter.dtype for step in steps for parameter in step.module.parameters()}
    for step in steps:
        for key, parameter in step.module.named_parameters():
            if parameter.dtype not in (torch.float32, torch.float64) or len(found) > 1:
                listed = " and ".join(sorted(map(str, found)))
                raise UnsupportedError(
                    f"{step.name}.{key}: {listed}, expected one of torch.float32 or torch.float64: use module.float()"
                )
    return str(found.pop()).removeprefix("torch.") if found else "float32"


def _lower(steps: list[_Step], take: str, rank: int | None) -> tuple[Spec, list[str]]:
    """The Spec of a chain, and notes; rank is that of the example, if there is one."""
    recurrent = [step for step in steps if step.recurrent]
    layouts = {_layout(step) for step in recurrent}
    if len(layouts) > 1:
        listed = ", ".join(f"{step.name!r} {_layout(step)}" for step in recurrent)
        raise UnsupportedError(f"layouts differ ({listed}), expected batch_first the same in every module")
    layout = layouts.pop() if layouts else "batch_first"
    entry = _input(steps, layout, bool(recurrent), rank)
    nodes: list[Node | Recurrent] = []
    notes: list[str] = []
    value, states = entry.name, []
    for step in steps:
        if step.kind in DROPPED:
            notes.append(f"{step.name} ({step.kind}): left out, it does nothing at inference")
            continue
        states = []
        if step.recurrent:
            node = Recurrent(step.name, _cell(step), value, **_stack(step, layout))
            value = f"{node.name}.last" if take == "last" and step is recurrent[-1] else node.name
            states = [f"{node.name}.{state}" for state in node.cell.states]
            if step.kind in CELLS:
                notes.append(f"{step.name} ({step.kind}): one step in torch, here run over the steps of a sequence")
            if take == "last" and step is recurrent[-1] and len(node.directions) > 1:
                notes.append(f"{step.name}: last is the final h of both directions, not output[:, -1]")
        else:
            node = Node(step.name, *_plain(step, value))
            value = node.name
        nodes.append(node)
    if not nodes:
        raise UnsupportedError(f"nothing is left of {', '.join(step.name for step in steps)}, expected a module to run")
    return Spec([entry], nodes, [value, *states]), notes


def _layout(step: _Step) -> str:
    return "batch_first" if getattr(step.module, "batch_first", True) else "time_first"


def _input(steps: list[_Step], layout: str, sequence: bool, rank: int | None) -> Input:
    """The chain's input: ids before an Embedding, else features of the first module that has a size."""
    names = {step.name for step in steps}
    axes = ("B", "T") if layout == "batch_first" else ("T", "B")
    for step in steps:
        if step.kind == "Embedding":
            axes = axes if sequence or rank != 1 else axes[:1]
            return Input("tokens" if "tokens" not in names else "tokens_in", "int64", axes)
        if step.kind == "Linear" or step.recurrent:
            size = step.module.in_features if step.kind == "Linear" else step.module.input_size
            axes = axes if sequence or rank == 3 else axes[:1]
            return Input("x" if "x" not in names else "x_in", "float", (*axes, size))
    raise UnsupportedError(
        f"no module of {', '.join(sorted(names))} says how wide the input is, expected one with weights"
    )


def _cell(step: _Step) -> Cell:
    module = step.module
    sizes = (module.input_size, module.hidden_size, bool(module.bias))
    if step.kind in ("RNN", "RNNCell"):
        return RNN(*sizes, activations=(module.nonlinearity,))
    if step.kind in ("LSTM", "LSTMCell"):
        return LSTM(*sizes, projection=getattr(module, "proj_size", 0))
    return GRU(*sizes, reset_after=True)


def _stack(step: _Step, layout: str) -> dict[str, Any]:
    if step.kind in CELLS:
        return {"layout": layout}
    direction = "bidirectional" if step.module.bidirectional else "forward"
    return {"layers": step.module.num_layers, "direction": direction, "layout": layout}


def _plain(step: _Step, value: str) -> tuple[str, str, dict[str, Any]]:
    """Op, input and attributes of a module without state."""
    module = step.module
    if step.kind == "Linear":
        sizes = {"input_size": module.in_features, "output_size": module.out_features}
        return "Linear", value, {**sizes, "bias": module.bias is not None}
    if step.kind == "Embedding":
        if module.max_norm is not None:
            raise UnsupportedError(f"module {step.name!r} (Embedding): max_norm={module.max_norm}, expected none")
        return "Embedding", value, {"input_size": module.num_embeddings, "output_size": module.embedding_dim}
    if step.kind in ("Softmax", "LogSoftmax"):
        if module.dim is None:
            raise UnsupportedError(f"module {step.name!r} ({step.kind}): dim=None, expected an integer")
        return POINTWISE[step.kind], value, {"axis": module.dim}
    return POINTWISE[step.kind], value, {}


def _tensors(steps: list[_Step]) -> dict[str, np.ndarray]:
    return {
        f"{step.name}.{key}": tensor.detach().cpu().numpy()
        for step in steps
        for key, tensor in step.module.named_parameters(remove_duplicate=False)
    }


def _array(torch, example) -> np.ndarray:
    return example.detach().cpu().numpy() if isinstance(example, torch.Tensor) else np.asarray(example)


@contextmanager
def _evaluating(torch, modules) -> Iterator[None]:
    """Evaluation and inference mode; afterwards every submodule has its own training flag back."""
    flags = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        with torch.inference_mode():
            yield
    finally:
        for part, training in flags:
            part.training = training


def _run(torch, module, steps: list[_Step], x, take: str, chained: bool) -> list[np.ndarray]:
    """What torch gives for x: the last module's value, and after a recurrent one its final states."""
    device = next((parameter.device for step in steps for parameter in step.module.parameters()), x.device)
    value, states = x.to(device), []
    if not chained and steps[0].kind not in CELLS:
        value = module(value)
        if isinstance(value, tuple):
            value, states = value
            states = list(states) if isinstance(states, tuple) else [states]
    else:
        last = [step for step in steps if step.recurrent][-1:]
        for step in steps:
            if not step.recurrent:
                value = step.module(value)
                states = states if step.kind in DROPPED else []
                continue
            value, states = _run_recurrent(torch, step, value)
            if take == "last" and step in last:
                directions = 2 if getattr(step.module, "bidirectional", False) else 1
                value = torch.cat(list(states[0][-directions:]), dim=-1)
    return [tensor.cpu().numpy() for tensor in (value, *states)]


def _run_recurrent(torch, step: _Step, x) -> tuple[Any, list[Any]]:
    """The sequence and the final states (L*D, B, size); a cell is called once for each step of x (B, T, I)."""
    if step.kind in STACKS:
        y, states = step.module(x)
        return y, list(states) if isinstance(states, tuple) else [states]
    state, outputs = None, []
    for t in range(x.shape[1]):
        state = step.module(x[:, t], state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    states = state if isinstance(state, tuple) else (state,)
    return torch.stack(outputs, dim=1), [one.unsqueeze(0) for one in states]
