"""The part that lowering every Keras layer shares: Use (one call of a layer), its options, activations.

An option of a config is handled by its layer, has no meaning at inference, or is refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rnncore.cells import Activation
from rnncore.errors import FormatError, UnsupportedError, WeightError
from rnncore.files.cursor import shown
from rnncore.formats.keras.config import Layer, Version, class_of
from rnncore.formats.keras.graph import Graph

__all__ = [
    "LAYERS",
    "MIXED",
    "Kind",
    "Tensor",
    "Use",
    "activation",
    "apply_activation",
    "apply_function",
    "check_options",
    "check_policy",
    "check_shape",
    "flag",
    "layer",
    "number",
    "numbers_of",
    "option",
    "policy_of",
    "sizes",
]

# Activations under Keras's name where rnncore's differs or needs a parameter.
ACTIVATIONS = {
    "leaky_relu": Activation("leaky_relu", 0.2),
    "gelu": Activation("gelu_erf"),
    "swish": Activation("silu"),
    "hard_swish": Activation("hard_silu"),
}
# fmt: off
SAME_ACTIVATIONS = (
    "linear", "sigmoid", "tanh", "relu", "relu6", "elu", "celu", "selu", "softplus", "softsign", "squareplus",
    "soft_shrink", "hard_shrink", "tanh_shrink", "sparse_plus", "sparse_sigmoid", "silu", "exponential",
    "hard_silu", "hard_tanh", "mish", "log_sigmoid", "softmax", "log_softmax",
)

# What a layer's config may hold without a meaning at inference, or in another place.
TRAINING = (
    "name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "input_length", "seed",
    "dropout", "recurrent_dropout", "unit_forget_bias", "implementation", "use_cudnn", "unroll", "stateful",
    # Keras 1
    "input_dim", "init", "inner_init", "forget_bias_init", "dropout_W", "dropout_U", "consume_less", "input_dtype",
    "create_input_layer", "cache_enabled",
)
# fmt: on
TRAINING_ENDINGS = ("_initializer", "_regularizer", "_constraint")
NEUTRAL: dict[str, Any] = {"lora_rank": None, "lora_alpha": None, "quantization_config": None, "sparse": False}
NEUTRAL |= {"ragged": False, "autocast": True}


class Tensor(NamedTuple):
    """A value of the graph, and the name of the bool mask (B, T) that Keras keeps with it."""

    name: str
    mask: str | None = None


@dataclass
class Use:
    """One call of one layer.

    name    of its main node;  inputs  the tensors of its first argument;  args, kwargs  everything it was called with
    """

    graph: Graph
    layer: Layer
    version: Version
    name: str
    inputs: list[Tensor]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Mapping[str, Any]:
        return self.layer.config

    @property
    def where(self) -> str:
        return self.layer.where

    @property
    def x(self) -> str:
        """The only input."""
        if len(self.inputs) != 1:
            raise UnsupportedError(f"{self.where}: {len(self.inputs)} inputs, expected one")
        return self.inputs[0].name

    @property
    def floats(self) -> str:
        """The only input, as float."""
        return self.graph.floating(self.x)

    def keyword(self, name: str, default: Any) -> Any:
        value = self.kwargs.get(name, default)
        return default if value is None else value

    def masked(self, x: Tensor) -> Tensor:
        """The input under the mask that the call gives, or else its own."""
        given = self.kwargs.get("mask")
        if given is None:
            return x
        if not isinstance(given, Tensor):
            raise UnsupportedError(f"{self.where}: mask={shown(str(given), 60)}, expected a tensor")
        return Tensor(x.name, given.name)

    def note(self, text: str) -> None:
        if text not in self.graph.notes:
            self.graph.notes.append(text)


def activation(name: Any, where: str, version: int = 3) -> Activation:
    """The Activation that a Keras config names; version is the major one of the Keras that wrote it.

    Raises UnsupportedError, naming ``where``, for custom functions and for those that rnncore does not have.
    """
    if isinstance(name, Mapping):
        layer = _of_layer(name, where)
        if layer is not None:
            return layer
    if name is None:
        return Activation("linear")
    if name == "hard_sigmoid":
        return Activation("hard_sigmoid_sixth" if version >= 3 else "hard_sigmoid_fifth")
    if isinstance(name, str) and name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if isinstance(name, str) and name in SAME_ACTIVATIONS:
        return Activation(name)
    accepted = ", ".join(sorted([*SAME_ACTIVATIONS, *ACTIVATIONS, "hard_sigmoid"]))
    described = name.get("class_name", "an object") if isinstance(name, Mapping) else name
    if isinstance(name, Mapping) and isinstance(name.get("config"), str):
        described = name.get("registered_name") or name["config"]
    raise UnsupportedError(f"{where}: activation {str(described)[:60]!r}, expected one of {accepted}")


def _of_layer(serialised: Mapping[str, Any], where: str) -> Activation | None:
    """A layer in the place of an activation: those that take nothing but numbers."""
    if not isinstance(serialised.get("config"), Mapping):
        return None
    kind, config, _ = class_of(serialised, where)
    own = {key: value for key, value in config.items() if key not in ("name", "trainable", "dtype")}
    number = {"LeakyReLU": ("leaky_relu", 0.3), "ELU": ("elu", 1.0), "ThresholdedReLU": ("thresholded_relu", 1.0)}
    keys = {"LeakyReLU": ("negative_slope", "alpha"), "ELU": ("alpha",), "ThresholdedReLU": ("theta",)}
    if kind in number and set(own) <= set(keys[kind]):
        value = next(iter(own.values()), number[kind][1])
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return Activation(number[kind][0], value)
    plain = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
    if kind == "ReLU" and all(key in plain and value == plain[key] for key, value in own.items()):
        return Activation("relu")
    return None


# Activations that are one ONNX op, with its attributes.
OPS_BY_ACTIVATION: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "tanh": ("Tanh", {}),
    "sigmoid": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "log_softmax": ("LogSoftmax", {"axis": -1}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "selu": ("Selu", {}),
    "hard_silu": ("HardSwish", {}),
    "mish": ("Mish", {}),
    "silu": ("Swish", {}),
    "exponential": ("Exp", {}),
    "gelu_erf": ("Gelu", {"approximate": "none"}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu6": ("Clip", {"min": 0.0, "max": 6.0}),
    "hard_tanh": ("Clip", {"min": -1.0, "max": 1.0}),
    "hard_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.0}),
    "soft_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.5}),
}
SQUAREPLUS_IS_RELU = 1e9  # to the last bit of float64
WITH_ALPHA = {"leaky_relu": "LeakyRelu", "elu": "Elu", "celu": "Celu", "thresholded_relu": "ThresholdedRelu"}


def apply_activation(use: Use, x: str, given: Any, name: str | None = None) -> str:
    """A node for an activation, called NAME.relu after a layer NAME, or ``name``; x itself for linear."""
    function = activation(given, use.where, use.version.major)
    return apply_function(use, x, function, name or f"{use.name}.{function.name}")


def apply_function(use: Use, x: str, function: Activation, name: str) -> str:
    graph, kind = use.graph, function.name
    if kind == "linear":
        return x
    if kind in OPS_BY_ACTIVATION:
        op, attributes = OPS_BY_ACTIVATION[kind]
        return graph.emit(op, x, name, **attributes)
    if kind in WITH_ALPHA:
        return graph.emit(WITH_ALPHA[kind], x, name, alpha=function.alpha)
    if kind == "hard_sigmoid":
        return graph.emit("HardSigmoid", x, name, alpha=function.alpha, beta=function.beta)
    if kind == "tanh_shrink":
        return graph.emit("Sub", (x, graph.emit("Tanh", x, f"{name}.tanh")), name)
    if kind == "log_sigmoid":
        soft = graph.emit("Softplus", graph.emit("Neg", x, f"{name}.negative"), f"{name}.softplus")
        return graph.emit("Neg", soft, name)
    if kind == "squareplus":
        return _squareplus(graph, x, function.alpha, name)
    if kind == "sparse_sigmoid":
        return graph.emit("HardSigmoid", x, name, alpha=0.5, beta=0.5)
    if kind == "sparse_plus":
        low = graph.emit("Clip", graph.scalar(f"{name}.plus", "Add", x, 1.0), f"{name}.clip", min=0.0, max=2.0)
        square = graph.scalar(f"{name}.quarter", "Mul", graph.emit("Mul", (low, low), f"{name}.square"), 0.25)
        rest = graph.emit("Relu", graph.scalar(f"{name}.minus", "Sub", x, 1.0), f"{name}.rest")
        return graph.emit("Add", (square, rest), name)
    raise UnsupportedError(f"{use.where}: activation {kind!r} outside a recurrent layer")


def _squareplus(graph: Any, x: str, alpha: float, name: str) -> str:
    """(x + sqrt(x^2 + alpha)) / 2; beyond where alpha counts it is Relu, whose square would overflow."""
    far = SQUAREPLUS_IS_RELU * max(1.0, math.sqrt(max(alpha, 0.0)))
    near = graph.emit("Clip", x, f"{name}.near", min=-far, max=far)
    square = graph.emit("Mul", (near, near), f"{name}.square")
    root = graph.emit("Sqrt", graph.scalar(f"{name}.plus", "Add", square, alpha), f"{name}.root")
    half = graph.scalar(f"{name}.half", "Mul", graph.emit("Add", (near, root), f"{name}.sum"), 0.5)
    rest = graph.emit("Relu", graph.emit("Sub", (x, near), f"{name}.minus"), f"{name}.rest")
    return graph.emit("Add", (half, rest), name)


def option(use: Use, config: Mapping[str, Any], key: str, default: Any = ...) -> Any:
    """An option of a config; FormatError where it is missing and has no default."""
    if key in config:
        return config[key]
    if default is ...:
        raise FormatError(f"{use.where}: config has no {key!r}")
    return default


def flag(use: Use, config: Mapping[str, Any], key: str, default: bool = False) -> bool:
    """An option that is true or false."""
    value = config.get(key, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise FormatError(f"{use.where}: {key}={shown(str(value), 60)}, expected true or false")
    return value


def number(use: Use, key: str, default: Any = ...) -> float:
    """An option that is a finite number."""
    value = option(use, use.config, key, default)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):  # Keras 2 wraps NumPy's numbers: {"type": "float", "value": 0.3}
        value = value.get("value", value.get("config"))
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise UnsupportedError(f"{use.where}: {key}={shown(str(value), 60)}, expected a number")
    return value


def sizes(use: Use, key: str, count: int, default: Any = ..., least: int = 1) -> tuple[int, ...]:
    """An option of ``count`` sizes, or one for all."""
    return numbers_of(use, key, option(use, use.config, key, default), count, least)


def numbers_of(use: Use, key: str, given: Any, count: int, least: int) -> tuple[int, ...]:
    """``count`` sizes from what a config has under a key, or in a part of it."""
    given = [given] * count if isinstance(given, int) and not isinstance(given, bool) else given
    fits = isinstance(given, (list, tuple)) and len(given) == count
    if not fits or any(type(size) is not int or not least <= size <= 1 << 20 for size in given):
        raise UnsupportedError(
            f"{use.where}: {key}={shown(str(given), 60)}, expected {count} sizes of at least {least}"
        )
    return tuple(given)


def check_options(
    use: Use, config: Mapping[str, Any], handled: set[str], neutral: Mapping[str, Any] | None = None
) -> None:
    """Raises UnsupportedError for an option that is neither handled nor without meaning at inference."""
    accepted = {**NEUTRAL, **(neutral or {})}
    for key, value in config.items():
        if key in handled or key in TRAINING or key.endswith(TRAINING_ENDINGS):
            continue
        if key not in accepted:
            raise UnsupportedError(
                f"{use.where}: option {shown(key, 60)}={shown(str(value), 60)} is unknown, expected "
                f"{', '.join(sorted(handled)) or 'none'}"
            )
        if value != accepted[key]:
            raise UnsupportedError(f"{use.where}: {key}={shown(str(value), 60)}, expected {accepted[key]}")


MIXED = ("mixed_float16", "mixed_bfloat16")


def policy_of(config: Mapping[str, Any]) -> Any:
    """The name of a layer's dtype policy."""
    policy = config.get("dtype")
    if isinstance(policy, Mapping):
        inner = policy.get("config")
        policy = inner.get("name") if isinstance(inner, Mapping) else None
    return policy


def check_policy(use: Use, config: Mapping[str, Any]) -> None:
    """Raises UnsupportedError unless the layer keeps its weights in float32 or float64; notes a mixed policy."""
    policy = policy_of(config)
    if policy in MIXED:
        use.note(f"{use.layer.name}: {policy}, computed in float32, which its weights are")
    elif policy not in ("float32", "float64", None):
        expected = ", ".join(("float32", "float64", *MIXED))
        raise UnsupportedError(f"{use.where}: dtype policy {shown(str(policy), 60)!r}, expected one of {expected}")


def check_shape(array: np.ndarray, expected: tuple[int, ...], name: str, where: str) -> None:
    if array.shape != expected:
        raise WeightError(f"{where}: {name}: shape {array.shape}, expected {expected}")


# --- the table of layers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """One class of layers. ``mask``: "pass" (the input's goes on), "drop", or "own" (the function says)."""

    lower: Callable[[Use], Tensor | str | list[Tensor]]
    options: frozenset[str] | None
    mask: str = "pass"
    neutral: Mapping[str, Any] = field(default_factory=dict)


LAYERS: dict[str, Kind] = {}


def layer(*names: str, options: str | None = "", mask: str = "pass", **neutral: Any):
    """Registers a function as the meaning of classes of these names; options=None where it checks them itself."""

    def register(function):
        handled = None if options is None else frozenset(options.split())
        for name in names:
            LAYERS[name] = Kind(function, handled, mask, neutral)
        return function

    return register
