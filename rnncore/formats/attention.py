"""Frameworks' packing of the weights of attention, as named verbs on arrays: each turns one convention into ours.

Ours (rnncore.ops.attention): matrices as (output, input), heads one after the other in the rows; the attentional
layer reads [context; h], a decoder's first layer [x; fed], Luong's concat [query; memory]. N heads of size D.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from rnncore.errors import WeightError

__all__ = ["flatten_vector", "merge_heads", "merge_output_heads", "split_in_proj", "swap_columns"]


def flatten_vector(weight: np.ndarray) -> np.ndarray:
    """The matrix of a Linear to or from one unit, (1, A) or (A, 1), as a vector (A). A view; others as they are."""
    return weight.reshape(-1) if weight.ndim == 2 and 1 in weight.shape else weight


def swap_columns(weight: np.ndarray, first: int) -> np.ndarray:
    """A matrix that reads [a; b], a of size ``first``, as one that reads [b; a]. A new array."""
    if weight.ndim != 2 or not 0 < first < weight.shape[1]:
        raise WeightError(f"weight of shape {weight.shape}: {first} columns to swap, expected fewer than it has")
    return np.concatenate([weight[:, first:], weight[:, :first]], axis=1)


def split_in_proj(tensors: Mapping[str, np.ndarray], prefix: str = "") -> dict[str, np.ndarray]:
    """The tensors of a torch.nn.MultiheadAttention, under ``prefix``, as those of MultiHeadAttention. Views.

    in_proj_weight (3E, E), or q_proj_weight, k_proj_weight and v_proj_weight; in_proj_bias (3E); out_proj.weight
    and out_proj.bias. Raises WeightError for what the op does not have (bias_k, bias_v) and for what is missing.
    """
    own = {key.removeprefix(prefix): array for key, array in tensors.items() if key.startswith(prefix)}
    parts = ("query", "key", "value")
    names = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}
    names |= {"in_proj_bias", "out_proj.weight", "out_proj.bias"}
    unknown = sorted(set(own) - names)
    if unknown:
        raise WeightError(f"{prefix}{unknown[0]}: unexpected, expected some of {', '.join(sorted(names))}")
    if "in_proj_weight" in own:
        weights = _thirds(f"{prefix}in_proj_weight", own["in_proj_weight"])
    else:
        weights = [_take(own, prefix, f"{part[0]}_proj_weight") for part in parts]
    split = {f"{part}.weight": weight for part, weight in zip(parts, weights, strict=True)}
    if "in_proj_bias" in own:
        biases = _thirds(f"{prefix}in_proj_bias", own["in_proj_bias"])
        split.update({f"{part}.bias": bias for part, bias in zip(parts, biases, strict=True)})
    split["output.weight"] = _take(own, prefix, "out_proj.weight")
    if "out_proj.bias" in own:
        split["output.bias"] = own["out_proj.bias"]
    return split


def merge_heads(kernel: np.ndarray) -> np.ndarray:
    """Keras's kernel of queries, keys or values, (I, N, D), as (N*D, I); its bias (N, D) as (N*D)."""
    return kernel.reshape(-1) if kernel.ndim == 2 else kernel.reshape(len(kernel), -1).T


def merge_output_heads(kernel: np.ndarray) -> np.ndarray:
    """Keras's kernel of the output, (N, D, O), as (O, N*D). A view."""
    return kernel.reshape(-1, kernel.shape[-1]).T


def _thirds(name: str, array: np.ndarray) -> list[np.ndarray]:
    if len(array) % 3:
        raise WeightError(f"{name}: {len(array)} rows, expected queries, keys and values in equal parts")
    return np.split(array, 3)


def _take(tensors: Mapping[str, np.ndarray], prefix: str, name: str) -> np.ndarray:
    if name not in tensors:
        raise WeightError(f"{prefix}{name}: missing")
    return tensors[name]
