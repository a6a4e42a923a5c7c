"""Matrix products, embeddings and attention of torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rnncore.export.torch.functions.registry import entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import Size, TracedTensor, array_of

__all__ = ["embedding_node", "linear_node"]


@entry("linear")
def linear(g, input, weight, bias=None):
    """x W^T + b; a Linear where both are constants."""
    x, weight = g.tensor(input), g.tensor(weight)
    if weight.ndim == 2 and g.is_parameter(weight) and (bias is None or g.is_parameter(bias)):
        sources = {"weight": weight.label, **({} if bias is None else {"bias": bias.label})}
        return g.out(linear_node(g, x, weight.a, None if bias is None else bias.a, sources=sources))
    y = g.emit("MatMul", [x, g.emit("Transpose", [weight], {"perm": (1, 0)})])
    return g.out(y if bias is None else g.emit("Add", [y, g.tensor(bias)]))


def linear_node(
    g: TraceLowering,
    x: Any,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    name: str | None = None,
    sources: dict[str, str] | None = None,
) -> str:
    weights = {"weight": array_of(weight)}
    if bias is not None:
        weights["bias"] = array_of(bias)
    sizes = {"input_size": weight.shape[1], "output_size": weight.shape[0], "bias": bias is not None}
    return g.emit("Linear", [x], sizes, weights, name, sources)


@entry("matmul", "bmm", "mm", "mv", "dot")
def matmul(g, input, other):
    x, y = g.tensor(input), g.tensor(other)
    return g.out(g.emit("MatMul", [g.cast(x, g.a.dtype), g.cast(y, g.a.dtype)]))


@entry("baddbmm", "addmm")
def addmm(g, input, mat1, mat2, *, beta=1, alpha=1):
    product = g.emit("MatMul", [g.tensor(mat1), g.tensor(mat2)])
    if alpha != 1:
        product = g.emit("Mul", [product, g.cast(alpha, g.a.dtype)])
    added = g.name_of(g.tensor(input))
    if beta != 1:
        added = g.emit("Mul", [added, g.cast(beta, g.a.dtype)])
    return g.out(g.emit("Add", [added, product]))


@entry("outer")
def outer(g, input, vec2):
    x = g.emit("Unsqueeze", [g.tensor(input)], {"axes": (1,)})
    return g.out(g.emit("Mul", [x, g.tensor(vec2)]))


@entry("einsum")
def einsum(g, equation, *operands):
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    return g.out(g.emit("Einsum", [g.cast(item, g.a.dtype) for item in operands], {"equation": equation}))


@entry("embedding")
def embedding(g, input, weight, padding_idx=None, max_norm=None, norm_type=2.0, scale_grad_by_freq=False, sparse=False):
    if max_norm is not None:
        raise refuse(g, f"max_norm={max_norm}", "none")
    ids, table = g.tensor(input), g.tensor(weight)
    if not g.is_parameter(table):
        return g.out(g.emit("Gather", [table, ids], {"axis": 0}))
    return g.out(embedding_node(g, ids, table.a, {"weight": table.label}))


def embedding_node(
    g: TraceLowering, ids: TracedTensor, table: torch.Tensor, sources: dict[str, str] | None = None
) -> str:
    sizes = {"input_size": table.shape[0], "output_size": table.shape[1]}
    return g.emit("Embedding", [g.cast(ids, torch.int64)], sizes, {"weight": array_of(table)}, sources=sources)


@entry("one_hot")
def one_hot(g, tensor, num_classes=-1):
    if num_classes == -1:
        raise refuse(g, "num_classes=-1, which the data decides", "a number")
    values = g.constant(np.array([0, 1]), "int64", "off_on")
    return g.out(g.emit("OneHot", [g.tensor(tensor), g.scalar(num_classes), values], {"axis": -1}))


@entry("scaled_dot_product_attention")
def scaled_dot_product_attention(
    g, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """softmax(q k^T / sqrt(size) + mask) v, as torch writes it out."""
    if dropout_p or enable_gqa:
        raise refuse(g, f"dropout_p={dropout_p}, enable_gqa={enable_gqa}", "0 and False")
    q, k, v = g.tensor(query), g.tensor(key), g.tensor(value)
    perm = (*range(k.ndim - 2), k.ndim - 1, k.ndim - 2)
    factor = g.compute("pow", g.dim(q, -1), -0.5) if scale is None else scale
    scores = g.emit("MatMul", [q, g.emit("Transpose", [k], {"perm": perm})])
    scores = g.emit("Mul", [scores, g.cast(factor if isinstance(factor, Size) else float(factor), q.dtype)])
    lowest = g.constant(np.array(-np.inf), "float", "masked")
    if is_causal:
        steps = [g.size_value(g.dim(item, -2)) for item in (q, k)]
        ones = g.emit("ConstantOfShape", [g.emit("Concat", steps, {"axis": 0})], {"value": 1, "dtype": "int64"})
        lower = g.emit("Cast", [g.emit("Trilu", [ones], {"upper": False})], {"to": "bool"})
        scores = g.emit("Where", [lower, scores, lowest])
    if attn_mask is not None and g.tensor(attn_mask).dtype == torch.bool:
        scores = g.emit("Where", [g.tensor(attn_mask), scores, lowest])
    elif attn_mask is not None:
        scores = g.emit("Add", [scores, g.tensor(attn_mask)])
    return g.out(g.emit("MatMul", [g.emit("Softmax", [scores], {"axis": -1}), v]))
