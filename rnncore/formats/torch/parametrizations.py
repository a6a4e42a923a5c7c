"""PyTorch's parametrizations of a weight, as state dicts hold them -> the weight that the module computes with.

    torch.nn.utils.weight_norm          NAME_g, NAME_v
    parametrizations.weight_norm        parametrizations.NAME.original0 (g), original1 (v)
        weight = g v / |v|              |v| over all axes but the one that g has, or all where g is a number
    torch.nn.utils.spectral_norm        NAME_orig, NAME_u, NAME_v
    parametrizations.spectral_norm      parametrizations.NAME.original, 0._u, 0._v
        weight = W / (u W v)            W as a matrix whose rows are one axis of the weight, u and v unit vectors

Others, such as orthogonal, and several on one weight are refused by name: what they compute the file does not say.

Source: torch/nn/utils/weight_norm.py, spectral_norm.py and parametrizations.py of PyTorch 2.13.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from rnncore.errors import UnsupportedError, WeightError

__all__ = ["fold", "parts_of"]

_PARAMETRIZED = re.compile(r"(?P<module>(?:.*\.)?)parametrizations\.(?P<leaf>[^.]+)\.(?P<part>.+)")
_OLD = re.compile(r"(?P<name>.+)_(?P<part>g|v|orig|u)")
WEIGHT_NORM, SPECTRAL_NORM = {"original0", "original1"}, {"original", "0._u", "0._v"}
LEAST_AGREEMENT = 0.5


def fold(tensors: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors with each parametrized weight in the place of its parts, and notes that name them.

    The weights are computed in float64 and have the dtype of v or W. WeightError for parts whose shapes contradict each
    other, UnsupportedError for parametrizations that are not known.
    """
    parts = parts_of(tensors)
    if not parts:
        return dict(tensors), ()
    owners = {name: weight for weight, names in parts.items() for name in names.values()}
    folded: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        weight = owners.get(name)
        if weight is None:
            folded[name] = array
        elif weight not in folded:
            folded[weight] = _weight(weight, {part: np.asarray(tensors[key]) for part, key in parts[weight].items()})
    return folded, tuple(f"{name}: its normalization was computed once" for name in parts)


def parts_of(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, str]]:
    """Weight -> its parts by the newer names, with the names that they have in the file."""
    by_weight: dict[str, dict[str, str]] = {}
    older: dict[str, dict[str, str]] = {}
    for name in tensors:
        match = _PARAMETRIZED.fullmatch(name)
        if match:
            by_weight.setdefault(match["module"] + match["leaf"], {})[match["part"]] = name
            continue
        match = _OLD.fullmatch(name)
        if match:
            older.setdefault(match["name"], {})[match["part"]] = name
    for weight, parts in older.items():
        if weight in tensors or weight in by_weight:
            continue
        if set(parts) == {"g", "v"}:
            by_weight[weight] = {"original0": parts["g"], "original1": parts["v"]}
        elif set(parts) == {"orig", "u", "v"}:
            by_weight[weight] = {"original": parts["orig"], "0._u": parts["u"], "0._v": parts["v"]}
    return by_weight


def _weight(name: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    if set(parts) == WEIGHT_NORM:
        return _weight_norm(name, parts["original0"], parts["original1"])
    if set(parts) == SPECTRAL_NORM:
        return _spectral_norm(name, parts["original"], parts["0._u"], parts["0._v"])
    raise UnsupportedError(
        f"{name}: a parametrization with {', '.join(sorted(parts))}, expected that of weight_norm or spectral_norm: "
        "call torch.nn.utils.parametrize.remove_parametrizations before the state_dict is saved"
    )


def _weight_norm(name: str, g: np.ndarray, v: np.ndarray) -> np.ndarray:
    axes = [axis for axis, size in enumerate(g.shape) if size != 1]
    fits = g.ndim == 0 or (g.ndim == v.ndim and len(axes) <= 1 and all(g.shape[axis] == v.shape[axis] for axis in axes))
    if not fits:
        raise WeightError(f"{name}: g of shape {g.shape} and v of {v.shape}, expected g to have one axis of v")
    if g.ndim and not axes:  # one number along an axis that has size 1 in v too, or else along none
        axes = [axis for axis, size in enumerate(v.shape) if size == 1][:1]
        if not axes:
            raise WeightError(f"{name}: g of shape {g.shape} and v of {v.shape}, expected g to have one axis of v")
    wide = v.astype(np.float64)
    others = tuple(axis for axis in range(v.ndim) if axis not in axes)
    norm = np.sqrt(np.square(wide).sum(axis=others if g.ndim else None, keepdims=bool(g.ndim)))
    with np.errstate(all="ignore"):  # v of zeros is NaN in PyTorch too
        return (g.astype(np.float64) * wide / norm).astype(v.dtype)


def _spectral_norm(name: str, weight: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The rows are the axis for which u is what power iteration makes of v: two axes may have u's size."""
    wide, left, right = (array.astype(np.float64) for array in (weight, u, v))
    best, sigma = -1.0, 0.0
    for axis in range(weight.ndim):
        if not weight.size:
            break
        matrix = np.moveaxis(wide, axis, 0).reshape(weight.shape[axis], -1)
        if u.shape != matrix.shape[:1] or v.shape != matrix.shape[1:]:
            continue
        product = matrix @ right
        length = np.linalg.norm(product) * np.linalg.norm(left)
        agreement = abs(left @ product) / length if length else 0.0
        if agreement > best:
            best, sigma = float(agreement), float(left @ product)
    if best < LEAST_AGREEMENT:
        raise WeightError(
            f"{name}: weight of shape {weight.shape}, u of {u.shape} and v of {v.shape}, expected u and v to be its "
            "singular vectors"
        )
    return (wide / sigma).astype(weight.dtype)
