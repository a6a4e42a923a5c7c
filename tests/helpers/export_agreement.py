"""Is an exported module equal to torch at sizes that are drawn? For modules whose example can have any size."""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

import rnncore
from rnncore.export import from_torch
from rnncore.formats.torch.names import bind
from rnncore.formats.torch.parametrizations import fold
from rnncore.formats.verification import TOLERANCES
from rnncore.graph.spec import Spec

__all__ = ["agrees", "check_other_weights", "leaves"]

COUNT = 3
"""Sizes beside the example's at which torch and the model are compared."""


def leaves(nested: Any) -> list[Any]:
    """The tensors in arguments or results, in order."""
    if isinstance(nested, (tuple, list)):
        return [leaf for item in nested for leaf in leaves(item)]
    if isinstance(nested, Mapping):
        return leaves(list(nested.values()))
    return [nested] if isinstance(nested, torch.Tensor) else []


def agrees(module: nn.Module, make: Callable[[int, int], Any], name: str, run: Any = None) -> rnncore.Model:
    """Exports a module at a size that the name draws, and compares it with torch at that size and others.

    make(rows, steps) gives the arguments, a tuple or a dict; run is called in the place of the module. Sizes that
    torch refuses do not count. Returns the model.
    """
    drawn = random.Random(name)
    module = module.eval()
    first = drawn.randint(2, 3), drawn.choice((5, 7))  # no size that features have
    model = rnncore.Model(*from_torch(module, _copied(make(*first))))
    sizes = [first, (1, drawn.randint(1, 9)), (drawn.randint(2, 5), drawn.randint(1, 3))]
    sizes += [(drawn.randint(1, 6), drawn.randint(2, 20)) for _ in range(3 * COUNT)]
    compared = 0
    for size in sizes:
        given = make(*size)
        try:
            with torch.no_grad():
                expected = leaves(_called(run or module, _copied(given)))
        except Exception:
            continue
        arrays = [tensor.numpy() for tensor in leaves(_in_order(module, given))]
        outputs = model.run(
            dict(zip([entry.name for entry in model.inputs if not entry.optional], arrays, strict=True))
        )
        for (output, array), tensor in zip(outputs.items(), expected, strict=True):
            wanted = tensor.detach().numpy()
            assert array.shape == wanted.shape, (output, size)
            finite = np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0)
            np.testing.assert_allclose(
                array, wanted, rtol=0, atol=TOLERANCES["float32"] * max(1.0, finite), err_msg=f"{output} at {size}"
            )
        compared += 1
        if compared == COUNT + 1:
            break
    assert compared == COUNT + 1
    return model


def _called(run: Any, given: Any) -> Any:
    return run(**given) if isinstance(given, dict) else run(*given)


def _copied(given: Any) -> Any:
    if isinstance(given, (tuple, list)):
        return type(given)(map(_copied, given))
    if isinstance(given, dict):
        return {key: _copied(item) for key, item in given.items()}
    return given.clone() if isinstance(given, torch.Tensor) else given


def _in_order(module: nn.Module, given: Any) -> Any:
    """Arguments by name in the order of forward's."""
    if not isinstance(given, dict):
        return given
    names = list(inspect.signature(type(module).forward).parameters)
    return {name: given[name] for name in names if name in given}


def _retrained(module: nn.Module) -> nn.Module:
    """Put other weights in the place of a module's own."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.dtype.is_floating_point and not tensor.isinf().any():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1)
    return module


def check_other_weights(exported: Any, module: nn.Module, example: tuple[Any, ...], prefix: str = "") -> None:
    """Retrained weights, as a checkpoint has them, under the JSON of an exported Spec: equal to the module."""
    _retrained(module)
    arrays, _ = fold({prefix + key: tensor.numpy() for key, tensor in module.state_dict().items()})
    spec = Spec.from_json(json.dumps(exported.spec.to_json()))
    outputs = rnncore.Model(spec, bind(spec, arrays).weights).run(exported.test_pair.inputs)
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in leaves(module(*example))]
    for array, wanted in zip(outputs.values(), expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)
