"""From live PyTorch modules to a Spec and Weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rnncore.errors import InputError, MissingPackageError, UnsupportedError, VerificationError
from rnncore.export.exported import Exported
from rnncore.formats.verification import Replay, other_sizes, replay
from rnncore.runtime.model import Model

__all__ = ["from_torch", "verify_torch"]

TAKES = ("sequence", "last")


def from_torch(
    module: Any,
    example: Any = None,
    *,
    lengths: Any = None,
    take: str | None = None,
    sizes: Mapping[str, Sequence[str | None]] | None = None,
    seed: int = 0,
) -> Exported:
    """Spec, Weights and a test pair of a PyTorch module with any forward that torch.fx can trace.

    module   an nn.Module; or a list of (name, module) run one after the other, in which each recurrent module hands
             its sequence on, and the last of them either that (take="sequence", the default) or its last layer's
             final h, directions concatenated (take="last"). A cell alone, or in a list, is run over the steps of a
             sequence
    example  what forward is called with: a tensor or array, a tuple of its arguments, or a dict by their names; tuples,
             lists and dicts of tensors inside are opened. Only modules of torch.nn and lists of them need none
    lengths  (B,) for the argument of forward whose name has "len" in it, or else the one that the example leaves out
    sizes    for inputs by name, a name for each dimension that may have any size and None for the others; what is
             left out is found by calling the module with other sizes, each alone and all together

    forward is run and recorded in evaluation mode, with nn.RNN, LSTM, GRU and other modules of torch.nn as they
    are. pack_padded_sequence and pad_packed_sequence become lengths; loops that call a cell for each step become
    recurrent nodes; weight and spectral norm are folded. Tensors of parameters are computed once. The module is left as
    it was; weights are copied, 16-bit ones as float32, under their names in it, so that a Spec takes other weights.
    What was exported is run on the example and on inputs of other sizes, a batch of 1 among them, on both sides of
    every branch on a size that was met, and has to give what torch gives.

    A branch on one size whose other side differs makes the model refuse the sizes of that side, with the line (a
    Bounded node, and a note).

    Raises UnsupportedError with the line of the module's code that has no place in a Spec or holds for some sizes only
    (fix such a dimension by None in sizes), InputError for the example, VerificationError where results differ, and
    MissingPackageError without PyTorch.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(f"from_torch needs PyTorch: pip install torch ({error})") from None
    if isinstance(module, torch.export.ExportedProgram):
        raise UnsupportedError(
            "module: an ExportedProgram, whose loops are written out and whose sizes are fixed, expected the module "
            "that it was made from"
        )
    chained = not isinstance(module, torch.nn.Module)
    if take is not None and (not chained or take not in TAKES):
        raise InputError(f"take={take!r}, expected 'sequence' or 'last', and a list of (name, module)")
    from rnncore.export.torch.chains import as_chain
    from rnncore.export.torch.export import export

    for name, part in _pairs(torch, module) if chained else [("", module)]:
        _check_scripted(torch, name, part)
    with _originals(_pairs(torch, module) if chained else [("", module)]) as parts:
        given = _pairs(torch, parts) if chained else parts[0][1]
        root, example = as_chain(given, take or "sequence", example, seed)
        with _evaluating(torch, root):
            return export(root, example, lengths, dict(sizes or {}))


def verify_torch(
    model: Model, module: Any, example: Any = None, *, lengths: Any = None, take: str | None = None, seed: int = 0
) -> tuple[Replay, ...]:
    """Runs a Model that was exported from a module, and the module, on inputs of at least four sizes; the Replays.

    The batch of 1 is among the sizes; inputs are drawn with the seed. module, example, lengths and take are those of
    from_torch. What either side refuses to run is not compared, and has its reason in ``said``.

    Raises VerificationError where an output differs, or nothing could be compared.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError(f"verify_torch needs PyTorch: pip install torch ({error})") from None
    from rnncore.export.torch.chains import as_chain
    from rnncore.export.torch.export import reference

    chained = not isinstance(module, torch.nn.Module)
    root, example = as_chain(_pairs(torch, module) if chained else module, take or "sequence", example, seed)
    with _evaluating(torch, root):
        run = reference(root, example, lengths, model.spec.outputs)
        replays = replay(model, run, "the model", other_sizes(model.spec), seed)
    if any(one.equal is False for one in replays) or not any(one.equal for one in replays):
        raise VerificationError("; ".join(map(str, replays)) or "the model: all sizes of its inputs are numbers")
    return replays


def _check_scripted(torch, name: str, module: Any) -> None:
    for inner, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            where = ".".join(filter(None, (name, inner)))
            raise UnsupportedError(
                f"module {where!r} (ScriptModule): has no Python that can be traced, expected the module that it was "
                "made from"
            )


@contextmanager
def _originals(pairs: Iterable[tuple[str, Any]]) -> Iterator[list[tuple[str, Any]]]:
    """Modules without what torch.compile has put around them and around modules inside; restored afterwards."""

    def original(module: Any) -> Any:
        while hasattr(module, "_orig_mod"):
            module = module._orig_mod
        return module

    pairs = [(name, original(module)) for name, module in pairs]
    changed = [
        (part._modules, key, inner)
        for _, module in pairs
        for part in list(module.modules())
        for key, inner in part._modules.items()
        if key != "_orig_mod" and hasattr(inner, "_orig_mod")
    ]
    try:
        for home, key, inner in changed:
            home[key] = original(inner)
        yield pairs
    finally:
        for home, key, inner in changed:
            home[key] = inner


def _pairs(torch, module) -> list[tuple[str, Any]]:
    """The (name, module) list checked."""
    pairs = list(module) if isinstance(module, Iterable) and not isinstance(module, (str, bytes, dict)) else [module]
    for pair in pairs:
        fits = isinstance(pair, Sequence) and len(pair) == 2 and isinstance(pair[0], str) and pair[0]
        if not fits or not isinstance(pair[1], torch.nn.Module):
            raise InputError(f"module: {type(pair).__name__}, expected an nn.Module or a list of (name, module)")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"module: names {names}, expected at least one, each once")
    return pairs


@contextmanager
def _evaluating(torch, module) -> Iterator[None]:
    """Evaluation mode without gradients, states checked; afterwards every submodule has its own training flag back."""
    from rnncore.export.torch.entrances import checked_states

    flags = [(part, part.training) for part in module.modules()]
    try:
        module.eval()
        with torch.no_grad(), checked_states():
            yield
    finally:
        for part, training in flags:
            part.training = training
