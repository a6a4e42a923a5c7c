"""nn.MultiheadAttention as the op MultiHeadAttention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from rnncore.export.torch.functions.common import hides, is_trained, move_axes
from rnncore.export.torch.functions.registry import refuse
from rnncore.export.torch.layers.registry import layer
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import array_of


@layer("MultiheadAttention")
def multi_head_attention(
    g, module, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
    average_attn_weights=True, is_causal=False,
):  # fmt: skip
    """The op MultiHeadAttention: torch's masks are True where a step does not count, ours where it does."""
    if module.bias_k is not None or module.add_zero_attn:
        raise refuse(g, "add_bias_kv or add_zero_attn", "neither")
    q, k, v = (g.tensor(item) for item in (query, key, value))
    alone = q.ndim == 2
    with g.named_with("_input"):
        if alone:
            names = [g.emit("Unsqueeze", [item], {"axes": (0,)}) for item in (q, v, k)]
        elif module.batch_first:
            names = [g.name_of(item) for item in (q, v, k)]
        else:
            names = [move_axes(g, item, (1, 0, 2)) for item in (q, v, k)]
    with g.named_with("_mask"):
        padding = _inverted(g, key_padding_mask, 1 if alone else 2)
        if alone and padding:
            padding = g.emit("Unsqueeze", [padding], {"axes": (0,)})
        masks = {"value_mask": padding, "attention_mask": _inverted(g, attn_mask, 2)}
    size, heads = module.embed_dim, module.num_heads
    attributes = {
        "query_size": size,
        "value_size": module.vdim,
        "key_size": module.kdim,
        "num_heads": heads,
        "key_dim": size // heads,
        "bias": module.in_proj_bias is not None,
    }
    if padding or masks["attention_mask"]:
        masked = (key_padding_mask, attn_mask, need_weights)
        is_nan = _layer_is_nan(g, module) or _is_nan(module, query, key, value, *masked)
        attributes["empty_rows"] = "nan" if is_nan else "zero"
    if value is key:
        names[2] = names[1]
    inputs = [*names, "", masks["value_mask"], "", masks["attention_mask"]]
    while inputs and inputs[-1] == "":
        inputs.pop()
    name = g.emit("MultiHeadAttention", inputs, attributes, _attention_weights(module))
    if alone:
        context = g.emit("Squeeze", [name], {"axes": (0,)})
    else:
        context = move_axes(g, name, (1, 0, 2)) if not module.batch_first else name
    output = g.named(context, g.a[0], g.b[0])
    if not need_weights:
        return output, None
    weights = f"{name}.weights"
    if average_attn_weights:
        weights = g.emit("ReduceMean", [weights], {"axes": (1,), "keepdims": False}) if g.node.users else weights
    if alone:
        weights = g.emit("Squeeze", [weights], {"axes": (0,)})
    return output, g.named(weights, g.a[1], g.b[1])


def _is_nan(module: nn.Module, query: Any, key: Any, value: Any, padding: Any, mask: Any, need_weights: bool) -> bool:
    """Whether this module makes NaN of a query for which all steps are masked, or else the output's bias.

    That depends on which of its ways torch takes, by need_weights, layout and whether the inputs are one tensor: it is
    asked, with two steps.
    """
    batch = (1,) if query.ndim == 3 else ()
    q = _two_steps(module, batch, module.embed_dim)
    k = q if key is query else _two_steps(module, batch, module.kdim)
    v = q if value is query else k if value is key else _two_steps(module, batch, module.vdim)
    options: dict[str, Any] = {"need_weights": bool(need_weights)}
    if padding is not None:
        options["key_padding_mask"] = _hiding((*batch, 2), padding.dtype)
    if mask is not None:
        options["attn_mask"] = _hiding((2, 2), mask.dtype)
    with torch.no_grad():
        return bool(module(q, k, v, **options)[0].isnan().any())


def _layer_is_nan(g: TraceLowering, module: nn.Module) -> bool:
    """The same of an nn.TransformerEncoderLayer whose attention this is: torch may run it whole, as one function."""
    layer, names = g.first.tracer.masked_layers.get(module, (None, ()))
    if layer is None:
        return False
    x = _two_steps(module, (1,), module.embed_dim)
    shapes = {"src_mask": (2, 2), "src_key_padding_mask": (1, 2)}
    with torch.no_grad():
        return bool(layer(x, **{name: _hiding(shapes[name], torch.bool) for name in names}).isnan().any())


def _two_steps(module: nn.Module, batch: tuple[int, ...], size: int) -> torch.Tensor:
    shape = (*batch, 2, size) if module.batch_first else (2, *batch, size)
    return torch.zeros(shape, dtype=module.out_proj.weight.dtype)


def _hiding(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A mask that hides every step."""
    return torch.full(shape, True if dtype == torch.bool else -math.inf, dtype=dtype)


def _inverted(g: TraceLowering, mask: Any, rank: int) -> str:
    if mask is None:
        return ""
    mask = g.tensor(mask)
    if mask.dtype.is_floating_point and mask.ndim == rank:
        if mask.constant and is_trained(g, mask):
            raise refuse(g, "a mask that is trained", "a buffer of 0 and -inf, or bool")
        if not hides(g, mask):
            raise refuse(g, "a mask of numbers that are added to the scores", "bool, or a buffer of 0 and -inf")
        return g.emit("Equal", [mask, g.cast(0.0, mask.dtype)])
    if mask.dtype != torch.bool or mask.ndim != rank:
        raise refuse(g, f"a mask {mask.dtype} with {mask.ndim} dimensions", f"bool with {rank}")
    return g.emit("Not", [mask])


def _attention_weights(module: nn.Module) -> dict[str, np.ndarray]:
    size = module.embed_dim
    if module.in_proj_weight is not None:
        parts = module.in_proj_weight.split(size)
    else:
        parts = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    weights = {f"{key}.weight": array_of(part) for key, part in zip(("query", "key", "value"), parts, strict=True)}
    weights["output.weight"] = array_of(module.out_proj.weight)
    if module.in_proj_bias is not None:
        biases = module.in_proj_bias.split(size)
        weights |= {f"{key}.bias": array_of(part) for key, part in zip(("query", "key", "value"), biases, strict=True)}
        weights["output.bias"] = array_of(module.out_proj.bias)
    return weights
