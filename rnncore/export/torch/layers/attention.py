"""nn.MultiheadAttention as the op MultiHeadAttention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from rnncore.export.torch.functions.common import move_axes
from rnncore.export.torch.functions.registry import refuse
from rnncore.export.torch.layers.registry import layer
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import HIDING, TracedTensor, array_of


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


def _inverted(g: TraceLowering, mask: Any, rank: int) -> str:
    if mask is None:
        return ""
    mask = g.tensor(mask)
    if mask.dtype.is_floating_point and mask.constant:
        content = mask.a
        if bool(((content == 0) | (content == -math.inf)).all()):
            if _is_trained(g, mask):
                raise refuse(g, "a mask that is trained", "a buffer of 0 and -inf, or bool")
            return g.emit("Equal", [mask, g.cast(0, mask.dtype)])
    if mask.dtype.is_floating_point and mask.ndim == rank and mask.origin == HIDING:
        return g.emit("Equal", [mask, g.cast(0.0, mask.dtype)])
    if mask.dtype != torch.bool or mask.ndim != rank:
        raise refuse(g, f"a mask {mask.dtype} with {mask.ndim} dimensions", f"bool with {rank}")
    return g.emit("Not", [mask])


def _is_trained(g: TraceLowering, tensor: TracedTensor) -> bool:
    """Whether parameters decide a constant, and not buffers alone."""
    if not tensor.trained:
        return False
    parameters = dict(g.first.tracer.root.named_parameters(remove_duplicate=False))
    waiting = [node for node, value in g.env.items() if value is tensor]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.op == "call_module" or (node.op == "get_attr" and node.target in parameters):
            return True
        waiting += [one for one in node.all_input_nodes if one not in seen]
        seen.update(node.all_input_nodes)
    return not seen


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
