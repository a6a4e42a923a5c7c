"""Activation functions: their names, parameters and float64 definitions.

An :class:`Activation` is a name with the alpha and beta that the function takes. The compiled bodies are in
``kernels/activations.h``; the NumPy functions here are the oracle they are tested against.

Names follow ONNX (lower case, words joined by ``_``) where ONNX has the function and Keras 3 elsewhere. Three
names exist in the wild with several meanings, so here they have no plain form:

- ``hard_sigmoid`` clip(alpha x + beta, 0, 1): Keras 2, ONNX and CoreML mean alpha 0.2, Keras 3 and PyTorch
  mean 1/6. Write ``hard_sigmoid_fifth`` or ``hard_sigmoid_sixth``, or give alpha and beta.
- ``leaky_relu``: ONNX and PyTorch mean alpha 0.01, Keras 3 means 0.2. Give alpha.
- ``gelu``: write ``gelu_tanh`` (the approximation) or ``gelu_erf`` (exact).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rnncore.errors import SpecError, shown

__all__ = ["ACTIVATIONS", "Activation"]


def _sigmoid(x, alpha=0.0, beta=0.0):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def _softplus(x):
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _squareplus(x, a):
    """(x + sqrt(x^2 + a)) / 2, whose square overflows, and whose sum cancels for x < 0."""
    root = np.hypot(x, np.sqrt(a)) if a > 0 else np.sqrt(x * x + a)
    return np.where(x < 0, 0.5 * a / np.where(x < 0, root - x, 1.0), 0.5 * x + 0.5 * root)


def _softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _log_softmax(x):
    d = x - x.max(axis=-1, keepdims=True)
    return d - np.log(np.exp(d).sum(axis=-1, keepdims=True))


def _erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _expm1_negative(x):
    """exp(x) - 1 for x < 0 and 0 elsewhere, without overflow where x is large."""
    return np.expm1(np.minimum(x, 0.0))


_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_ALPHA = 1.6732632423543772848170429916717


class _Function(NamedTuple):
    """alpha, beta: None where the function does not take it, its default, or ``...`` where it must be given."""

    numpy: Callable
    alpha: Any = None  # a number, None or ...
    beta: Any = None
    per_element: bool = True


# The key is the name in Specs and in kernels/activations.h.
ACTIVATIONS: dict[str, _Function] = {
    "linear": _Function(lambda x, a, b: x + 0.0),
    "sigmoid": _Function(_sigmoid),
    "tanh": _Function(lambda x, a, b: np.tanh(x)),
    "relu": _Function(lambda x, a, b: np.where(np.isnan(x), x, np.maximum(x, 0.0))),
    "affine": _Function(lambda x, a, b: a * x + b, 1.0, 0.0),
    "leaky_relu": _Function(lambda x, a, b: np.where(x >= 0, x, a * x), ...),
    "thresholded_relu": _Function(lambda x, a, b: np.where((x > a) | np.isnan(x), x, 0.0), 1.0),
    "scaled_tanh": _Function(lambda x, a, b: a * np.tanh(b * x), ..., ...),
    "hard_sigmoid": _Function(lambda x, a, b: np.clip(a * x + b, 0.0, 1.0), ..., ...),
    "elu": _Function(lambda x, a, b: np.where(x >= 0, x, a * _expm1_negative(x)), 1.0),
    "softsign": _Function(lambda x, a, b: np.where(np.isinf(x), np.sign(x), x / (1.0 + np.abs(x)))),
    "softplus": _Function(lambda x, a, b: _softplus(x)),
    "celu": _Function(lambda x, a, b: np.where(x >= 0, x, a * _expm1_negative(x / a)), 1.0),
    "selu": _Function(lambda x, a, b: _SELU_SCALE * np.where(x >= 0, x, _SELU_ALPHA * _expm1_negative(x))),
    "relu6": _Function(lambda x, a, b: np.clip(x, 0.0, 6.0)),
    "silu": _Function(lambda x, a, b: x * _sigmoid(x)),
    "mish": _Function(lambda x, a, b: x * np.tanh(_softplus(x))),
    "gelu_erf": _Function(lambda x, a, b: 0.5 * x * (1.0 + _erf(x * math.sqrt(0.5)))),
    "gelu_tanh": _Function(
        lambda x, a, b: 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    ),
    "exponential": _Function(lambda x, a, b: np.exp(x)),
    "hard_tanh": _Function(lambda x, a, b: np.clip(x, -1.0, 1.0)),
    "hard_silu": _Function(lambda x, a, b: x * np.clip(x / 6.0 + 0.5, 0.0, 1.0)),
    "hard_shrink": _Function(lambda x, a, b: np.where(np.abs(x) <= a, 0.0, x), 0.5),
    "soft_shrink": _Function(lambda x, a, b: np.where(x > a, x - a, np.where(x < -a, x + a, 0.0 * x)), 0.5),
    "tanh_shrink": _Function(lambda x, a, b: x - np.tanh(x)),
    "threshold": _Function(lambda x, a, b: np.where((x > a) | np.isnan(x), x, b), ..., ...),
    "log_sigmoid": _Function(lambda x, a, b: -_softplus(-x)),
    "squareplus": _Function(lambda x, a, b: _squareplus(x, a), 4.0),
    "sparse_plus": _Function(lambda x, a, b: np.where(x <= -1, 0.0 * x, np.where(x >= 1, x, 0.25 * (x + 1.0) ** 2))),
    "sparse_sigmoid": _Function(lambda x, a, b: np.clip(0.5 * (x + 1.0), 0.0, 1.0)),
    "softmax": _Function(lambda x, a, b: _softmax(x), per_element=False),
    "log_softmax": _Function(lambda x, a, b: _log_softmax(x), per_element=False),
}

# Fixed parameters under a name of their own: name -> (function, alpha, beta).
_ALIASES: dict[str, tuple[str, float, float]] = {
    "hard_sigmoid_fifth": ("hard_sigmoid", 0.2, 0.5),
    "hard_sigmoid_sixth": ("hard_sigmoid", 1.0 / 6.0, 0.5),
}

_AMBIGUOUS = {
    "hard_sigmoid": "'hard_sigmoid_fifth' (Keras 2, ONNX, CoreML), 'hard_sigmoid_sixth' (Keras 3, PyTorch) "
    "or alpha and beta",
    "leaky_relu": "alpha (0.01 in ONNX and PyTorch, 0.2 in Keras 3)",
    "gelu": "'gelu_tanh' (the approximation) or 'gelu_erf' (exact)",
    "scaled_tanh": "alpha and beta",
    "threshold": "alpha (the threshold) and beta (the value below it)",
}


@dataclass(frozen=True, init=False)
class Activation:
    """A function by name, with alpha and beta where the function takes them (0.0 where it does not).

    Raises SpecError for an unknown name, an ambiguous one, or a parameter that the function does not take.
    """

    name: str
    alpha: float = 0.0
    beta: float = 0.0

    def __init__(self, name: str, alpha: float | None = None, beta: float | None = None):
        if isinstance(name, str) and name in _ALIASES:
            name, fixed_alpha, fixed_beta = _ALIASES[name]
            given = ((alpha, fixed_alpha), (beta, fixed_beta))
            if not all(value is None or (isinstance(value, float) and value == fixed) for value, fixed in given):
                raise SpecError(f"activation {name!r}: alpha and beta are fixed under this name")
            alpha, beta = fixed_alpha, fixed_beta
        function = ACTIVATIONS.get(name) if isinstance(name, str) else None
        if function is None:
            hint = _AMBIGUOUS.get(name) if isinstance(name, str) else None
            expected = hint or f"one of {', '.join(sorted([*ACTIVATIONS, *_ALIASES]))}"
            raise SpecError(f"activation {shown(name)} is unknown, expected {expected}")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "alpha", _parameter(name, "alpha", alpha, function.alpha))
        object.__setattr__(self, "beta", _parameter(name, "beta", beta, function.beta))
        if name == "celu" and self.alpha == 0.0:
            raise SpecError("activation 'celu': alpha 0, expected another value")

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The float64 definition, over the last axis for the softmax family and element by element otherwise."""
        with np.errstate(all="ignore"):
            return ACTIVATIONS[self.name].numpy(np.asarray(x, np.float64), self.alpha, self.beta)

    def to_json(self) -> str | dict:
        function = ACTIVATIONS[self.name]
        options: dict[str, Any] = {"name": self.name}
        if function.alpha is not None:
            options["alpha"] = self.alpha
        if function.beta is not None:
            options["beta"] = self.beta
        return options if len(options) > 1 else self.name

    @classmethod
    def of(cls, value: Activation | str | dict | tuple) -> Activation:
        """From an Activation, a name, ``(name, alpha, beta)`` or ``{"name", "alpha", "beta"}``."""
        if isinstance(value, Activation):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, dict):
            if "name" not in value or any(key not in ("name", "alpha", "beta") for key in value):
                raise SpecError(f"activation: keys {shown(list(value))}, expected name and optionally alpha, beta")
            return cls(**value)
        if isinstance(value, (tuple, list)) and 1 <= len(value) <= 3:
            return cls(*value)
        raise SpecError(f"activation: {shown(value)}, expected a name or a name with alpha and beta")


def _parameter(name: str, which: str, given: float | None, default: float | None) -> float:
    if default is None:
        if given is not None:
            raise SpecError(f"activation {name!r}: {which}={shown(given)}, but this function takes no {which}")
        return 0.0
    if given is None:
        if default is ...:
            raise SpecError(f"activation {name!r}: {which} missing, expected {_AMBIGUOUS[name]}")
        return float(default)
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not is_finite(given):
        raise SpecError(f"activation {name!r}: {which}={shown(given)}, expected a finite number")
    return float(given)


def is_finite(value: float) -> bool:
    """Whether a number is neither NaN nor infinite nor an integer too large for a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
