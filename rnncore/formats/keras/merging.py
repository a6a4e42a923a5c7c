"""Keras's layers of several inputs: merges with their rules for masks, Dot, and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rnncore.errors import UnsupportedError, WeightError
from rnncore.files.cursor import shown
from rnncore.formats.keras.use import Tensor, Use, flag, layer, option

__all__: list[str] = []


def _merged_mask(use: Use, masks: Sequence[str | None], op: str) -> str | None:
    """The masks joined two by two."""
    joined: str | None = None
    for place, mask in enumerate(mask for mask in masks if mask is not None):
        joined = mask if joined is None else use.graph.emit(op, (joined, mask), f"{use.name}.mask.{place}")
    return joined


def _aligned(use: Use) -> list[str]:
    """The inputs as floats of one rank: Keras puts axes of size 1 after the batch of those of a lower one."""
    graph, aligned = use.graph, []
    rank = max(graph.rank(one.name) for one in use.inputs)
    for place, one in enumerate(use.inputs):
        x = graph.floating(one.name)
        while graph.rank(x) < rank:
            x = graph.unsqueeze(f"{use.name}.{place}.{graph.rank(x)}", x, 1)
        aligned.append(x)
    return aligned


MERGE_OPS = {"Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Average": "Add", "Maximum": "Max", "Minimum": "Min"}


@layer(*MERGE_OPS, mask="own")
def merge(use: Use) -> Tensor:
    """Element by element. Keras 3 has a mask where all inputs have one: their union; before it, the intersection."""
    graph, inputs, kind = use.graph, _aligned(use), use.layer.class_name
    if (len(inputs) < 2 and kind == "Subtract") or not inputs:
        raise UnsupportedError(f"{use.where}: {len(inputs)} inputs, expected two")
    masks = [one.mask for one in use.inputs]
    if use.version.major >= 3:
        mask = None if None in masks else _merged_mask(use, masks, "Or")
    else:
        mask = _merged_mask(use, masks, "And")
    merged = inputs[0]
    for place, other in enumerate(inputs[1:], start=1):
        last = place == len(inputs) - 1 and kind != "Average"
        merged = graph.emit(MERGE_OPS[kind], (merged, other), use.name if last else f"{use.name}.{place}")
    if kind == "Average":
        merged = graph.scalar(use.name, "Mul", merged, 1.0 / len(inputs))
    return Tensor(merged, mask)


@layer("Concatenate", options="axis", mask="own")
def concatenate(use: Use) -> Tensor:
    graph = use.graph
    names = [graph.floating(one.name) for one in use.inputs]
    axis = graph.axis(names[0], use.config.get("axis", -1), use.where)
    if axis == 0:
        raise UnsupportedError(f"{use.where}: axis=0, the batch, expected another one")
    joined = graph.emit("Concat", names, use.name, axis=axis) if len(names) > 1 else names[0]
    masks = [one.mask for one in use.inputs]
    if all(mask is None for mask in masks):
        return Tensor(joined)
    rank = graph.rank(names[0])
    if axis == rank - 1 and rank > 2:
        if use.version.major < 3:
            return Tensor(joined, _merged_mask(use, masks, "And"))
        return Tensor(joined, None if None in masks else _merged_mask(use, masks, "Or"))
    if axis != 1 or rank != 3 or (use.version.major < 3 and None in masks):
        raise UnsupportedError(f"{use.where}: axis={axis} under a mask, expected time or features of (B, T, F)")
    whole = [mask or _all_valid(use, x, place) for place, (x, mask) in enumerate(zip(names, masks, strict=True))]
    return Tensor(joined, graph.emit("Concat", whole, f"{use.name}.mask", axis=1))


def _all_valid(use: Use, x: str, place: int) -> str:
    """A mask of x (B, T, F) in which every step counts."""
    graph, name = use.graph, f"{use.name}.valid.{place}"
    feature = graph.take(f"{name}.feature", x, 2, 0)
    equal = graph.emit("Equal", (feature, feature), f"{name}.equal")
    return graph.emit("Or", (equal, graph.emit("Not", equal, f"{name}.unequal")), name)


@layer("Dot", options="axes normalize", mask="drop")
def dot(use: Use) -> str:
    """The product over one axis of each of two inputs of two or three dimensions, row by row of the batch."""
    graph = use.graph
    if len(use.inputs) != 2:
        raise UnsupportedError(f"{use.where}: {len(use.inputs)} inputs, expected two")
    x, y = (graph.floating(one.name) for one in use.inputs)
    ranks = graph.rank(x), graph.rank(y)
    if not set(ranks) <= {2, 3}:
        raise UnsupportedError(f"{use.where}: inputs of {ranks[0]} and {ranks[1]} dimensions, expected two or three")
    axes = option(use, use.config, "axes")
    axes = axes if isinstance(axes, (list, tuple)) and len(axes) == 2 else [axes, axes]
    axes = [graph.axis(name, axis, use.where) for name, axis in zip((x, y), axes, strict=True)]
    if 0 in axes:
        raise UnsupportedError(f"{use.where}: axes={axes}, expected none of the batch")
    if flag(use, use.config, "normalize"):
        x, y = (
            graph.emit("LpNormalization", name, f"{use.name}.unit.{place}", axis=axis, p=2)
            for place, (name, axis) in enumerate(zip((x, y), axes, strict=True))
        )
    x = (
        graph.unsqueeze(f"{use.name}.row", x, 1)
        if ranks[0] == 2
        else (x if axes[0] == 2 else graph.transpose(f"{use.name}.left", x, (0, 2, 1)))
    )
    y = (
        graph.unsqueeze(f"{use.name}.column", y, 2)
        if ranks[1] == 2
        else (y if axes[1] == 1 else graph.transpose(f"{use.name}.right", y, (0, 2, 1)))
    )
    product = graph.emit("MatMul", (x, y), f"{use.name}.product")
    if ranks == (2, 2):
        return graph.squeeze(use.name, product, 1)
    if ranks == (3, 3):
        return product
    return graph.squeeze(use.name, product, 1 if ranks[0] == 2 else 2)


# --- attention -----------------------------------------------------------------------------------------------------


def _attention_inputs(use: Use) -> tuple[list[str], list[str | None]]:
    """query, value and key, and their masks."""
    if not 2 <= len(use.inputs) <= 3:
        raise UnsupportedError(f"{use.where}: {len(use.inputs)} inputs, expected query and value, or these and key")
    masks = [one.mask for one in use.inputs]
    given = use.kwargs.get("mask")
    if given is not None:
        if not isinstance(given, list):
            raise UnsupportedError(f"{use.where}: mask={shown(str(given), 60)}, expected a list")
        masks = [mask.name if isinstance(mask, Tensor) else None for mask in given]
    return [use.graph.floating(one.name) for one in use.inputs], masks


def _keras_attention(use: Use, op: str, weights: dict[str, np.ndarray], **attributes: Any) -> list[Tensor]:
    graph = use.graph
    names, masks = _attention_inputs(use)
    causal = use.keyword("use_causal_mask", False) or flag(use, use.config, "causal")
    inputs = [*names, *[""] * (3 - len(names)), masks[0] or "", (masks[1] if len(masks) > 1 else None) or ""]
    while inputs[-1] == "":
        inputs.pop()
    node = graph.emit(op, inputs, use.name, causal=bool(causal), **attributes)
    graph.own(node, weights)
    outputs = [Tensor(node, masks[0])]
    return outputs + ([Tensor(f"{node}.weights")] if use.keyword("return_attention_scores", False) else [])


@layer("Attention", options="use_scale score_mode causal", mask="own")
def attention(use: Use) -> list[Tensor]:
    scaled, mode = flag(use, use.config, "use_scale"), use.config.get("score_mode", "dot")
    if mode not in ("dot", "concat"):
        raise UnsupportedError(f"{use.where}: score_mode={shown(str(mode), 40)!r}, expected 'dot' or 'concat'")
    names = [*["scale"][:scaled], *["concat_score_weight"][: mode == "concat"]]
    weights = {name: array.reshape(1) for name, array in zip(names, use.layer.own, strict=True)}
    return _keras_attention(use, "KerasAttention", weights, use_scale=scaled, score_mode=mode)


@layer("AdditiveAttention", options="use_scale causal", mask="own", score_mode="dot")
def additive_attention(use: Use) -> list[Tensor]:
    scaled = flag(use, use.config, "use_scale", True)
    size = use.graph.size(use.inputs[-1].name, 2, use.where)
    weights = {"scale": use.layer.own[0]} if scaled else {}
    return _keras_attention(use, "KerasAdditiveAttention", weights, use_scale=scaled, size=size)


@layer(
    "MultiHeadAttention",
    options="num_heads key_dim value_dim use_bias output_shape attention_axes query_shape key_shape value_shape",
    mask="own",
    use_gate=False,
    sliding_window=None,
    flash_attention=None,
    softmax_robust_masking=False,
)
def multi_head_attention(use: Use) -> list[Tensor]:
    """The query is the first argument; value and key may come by name."""
    graph, config = use.graph, use.config
    query, value, key = _query_value_key(use)
    masks = {name: use.kwargs.get(f"{name}_mask") for name in ("query", "value", "key", "attention")}
    tensors_ = {"query": query, "value": value, "key": key}
    for name, tensor in tensors_.items():
        if masks[name] is None and tensor is not None and tensor.mask is not None:
            masks[name] = Tensor(tensor.mask)
    _check_multi_head(use, query)
    heads, dim = option(use, config, "num_heads"), option(use, config, "key_dim")
    bias = flag(use, config, "use_bias", True)
    attributes, weights = _multi_head_weights(use, heads, dim, bias)
    names = [graph.floating(query.name), graph.floating(value.name), graph.floating(key.name) if key else ""]
    given = (masks[name] for name in ("query", "value", "key", "attention"))
    names += [mask.name if mask is not None else "" for mask in given]
    while names[-1] == "":
        names.pop()
    scores = bool(use.keyword("return_attention_scores", False))
    empty = "zero" if use.version.major >= 3 and (scores or config.get("dropout")) else "uniform"
    causal = bool(use.keyword("use_causal_mask", False))
    node = graph.emit("MultiHeadAttention", names, use.name, causal=causal, empty_rows=empty, **attributes)
    graph.own(node, weights)
    return [Tensor(node, query.mask)] + ([Tensor(f"{node}.weights")] if scores else [])


def _query_value_key(use: Use) -> tuple[Tensor, Tensor, Tensor | None]:
    flat = use.args[0] if use.args and isinstance(use.args[0], list) else list(use.args)
    names = dict(zip(("query", "value", "key"), flat, strict=False)) | {
        key: use.kwargs[key] for key in ("query", "value", "key") if use.kwargs.get(key) is not None
    }
    for key in ("query", "value"):
        if not isinstance(names.get(key), Tensor):
            raise UnsupportedError(f"{use.where}: no {key}, expected query and value")
    return names["query"], names["value"], names.get("key")


def _check_multi_head(use: Use, query: Tensor) -> None:
    axes = use.config.get("attention_axes")
    if axes not in (None, [1], (1,), 1) or use.graph.rank(query.name) != 3:
        raise UnsupportedError(f"{use.where}: attention_axes={shown(str(axes), 40)}, expected time of (B, T, F)")
    shape = use.config.get("output_shape")
    if not (shape is None or type(shape) is int or (isinstance(shape, list) and len(shape) == 1)):
        raise UnsupportedError(f"{use.where}: output_shape={shown(str(shape), 40)}, expected one size")


def _multi_head_weights(use: Use, heads: int, dim: int, bias: bool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Attributes and weights: kernels (F, N, D) as (N*D, F), that of the output (N, D, F) as (F, N*D)."""
    own, step = use.layer.own, 1 + bias
    kernels = dict(zip(("query", "key", "value", "output"), own[::step], strict=True))
    if any(kernel.ndim != 3 for kernel in kernels.values()):
        raise WeightError(f"{use.where}: kernels of {[kernel.shape for kernel in kernels.values()]}, expected three")
    value_dim = kernels["value"].shape[2]
    for name, kernel in kernels.items():
        inner = (heads, dim if name in ("query", "key") else value_dim)
        split = kernel.shape[:2] if name == "output" else kernel.shape[1:]
        if split != inner:
            raise WeightError(f"{use.where}: {name}: shape {kernel.shape}, expected heads and size {inner}")
    attributes = {
        "query_size": kernels["query"].shape[0],
        "key_size": kernels["key"].shape[0],
        "value_size": kernels["value"].shape[0],
        "output_size": kernels["output"].shape[2],
        "num_heads": heads,
        "key_dim": dim,
        "value_dim": value_dim,
        "bias": bias,
    }
    weights: dict[str, np.ndarray] = {
        f"{name}.weight": (
            kernel.reshape(-1, kernel.shape[2]) if name == "output" else kernel.reshape(len(kernel), -1)
        ).T
        for name, kernel in kernels.items()
    }
    if bias:
        weights |= {f"{name}.bias": array.reshape(-1) for name, array in zip(kernels, own[1::2], strict=True)}
    return attributes, weights
