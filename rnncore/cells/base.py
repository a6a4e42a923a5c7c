"""Cell, the base class of all cells: sizes and options, the shapes of its weights and states, and its float64 step.

Letters, here and everywhere: T time, B batch, I input size, H hidden size, P projection size, G gates,
D directions, L layers. Weights have gates in rows: weight_ih is (G*H, I), so that z = x W^T.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from rnncore.cells.activations import Activation, is_finite
from rnncore.errors import SpecError, shown

__all__ = ["Cell"]


@dataclass(frozen=True)
class Cell(abc.ABC):
    """One recurrent cell: a frozen record of sizes and options, without arrays.

    Subclasses name their gates in canonical order (``gates``), one letter each; their states in order
    (``states``), the first of which is the output; and the place of each activation (``activation_places``).
    """

    input_size: int
    hidden_size: int
    bias: bool = True
    activations: tuple[Activation, ...] = ()

    kind: ClassVar[str]
    states: ClassVar[tuple[str, ...]]
    activation_places: ClassVar[tuple[str, ...]]
    default_activations: ClassVar[tuple[str, ...]]

    def __post_init__(self):
        for name in ("input_size", "hidden_size"):
            check_integer(self, name, at_least=1)
        check_flag(self, "bias")
        given = (
            self.default_activations
            if isinstance(self.activations, tuple) and not self.activations
            else self.activations
        )
        if isinstance(given, (str, Activation, dict)):
            given = (given,)
        if not isinstance(given, (tuple, list)):
            places = ", ".join(self.activation_places)
            raise SpecError(f"{self.kind}: activations={shown(given)}, expected one for each of {places}")
        if len(given) != len(self.activation_places):
            raise SpecError(
                f"{self.kind}: {len(given)} activations, expected {len(self.activation_places)} "
                f"({', '.join(self.activation_places)})"
            )
        object.__setattr__(self, "activations", tuple(Activation.of(a) for a in given))

    @property
    @abc.abstractmethod
    def gates(self) -> str:
        """One letter for each gate, in the canonical order of the rows of every weight."""

    @property
    def output_size(self) -> int:
        """Width of h: the hidden size, or the projection's."""
        return self.hidden_size

    @property
    def state_sizes(self) -> dict[str, int]:
        """Width of each state, in the order of ``states``."""
        return {"h": self.output_size}

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical weight names and shapes; exactly these must be given."""
        rows = len(self.gates) * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.output_size),
        }
        if self.bias:
            shapes["bias"] = (rows,)
        return shapes

    @abc.abstractmethod
    def step(self, w: Mapping[str, np.ndarray], x: np.ndarray, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """The equations, in NumPy and float64: x (B, I) and states (B, size) to the new states, h first."""

    def replace(self, **changes: Any) -> Cell:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Every option that differs from its default, and the kind."""
        options: dict[str, Any] = {"kind": self.kind}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "activations":
                if value != tuple(Activation.of(a) for a in self.default_activations):
                    options["activations"] = [a.to_json() for a in value]
            elif field.default is dataclasses.MISSING or value != field.default:
                options[field.name] = value
        return options

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Cell:
        options = {key: value for key, value in given.items() if key != "kind"}
        accepted = [field.name for field in dataclasses.fields(cls)]
        unknown = [key for key in options if key not in accepted]
        if unknown:
            raise SpecError(f"{cls.kind}: unknown option {shown(unknown[0])}, expected one of {', '.join(accepted)}")
        missing = [
            f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in options
        ]
        if missing:
            raise SpecError(f"{cls.kind}: option {missing[0]!r} missing")
        if isinstance(options.get("activations"), list):
            options["activations"] = tuple(options["activations"])
        return cls(**options)


# One network may not ask for more than this many units a layer: sizes come from files, and arithmetic on them
# must stay far from the 32-bit integers of BLAS.
MAX_SIZE = 1 << 20


def check_integer(cell: Any, name: str, at_least: int) -> None:
    value = getattr(cell, name)
    if isinstance(value, np.integer):
        value = int(value)
        object.__setattr__(cell, name, value)
    if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= MAX_SIZE:
        raise SpecError(f"{cell.kind}: {name}={shown(value)}, expected an integer from {at_least} to {MAX_SIZE}")


def check_flag(cell: Any, name: str) -> None:
    value = getattr(cell, name)
    if not isinstance(value, (bool, np.bool_)):
        raise SpecError(f"{cell.kind}: {name}={shown(value)}, expected true or false")
    object.__setattr__(cell, name, bool(value))


def check_choice(cell: Any, name: str, choices: tuple) -> None:
    value = getattr(cell, name)
    if not isinstance(value, str | None) or value not in choices:
        raise SpecError(f"{cell.kind}: {name}={shown(value)}, expected one of {', '.join(map(repr, choices))}")


def check_real(cell: Cell, name: str, above: float = -math.inf) -> None:
    """A finite number greater than ``above``."""
    value = getattr(cell, name)
    number = isinstance(value, (int, float, np.floating, np.integer)) and not isinstance(value, bool)
    if not number or not is_finite(value) or value <= above:
        limit = "" if above == -math.inf else f" above {above:g}"
        raise SpecError(f"{cell.kind}: {name}={shown(value)}, expected a finite number{limit}")
    object.__setattr__(cell, name, float(value))


def clip_to(z: np.ndarray, limit: float | None) -> np.ndarray:
    """z limited to [-limit, limit]; unchanged without a limit."""
    return z if limit is None else np.clip(z, -limit, limit)


def products(w: Mapping[str, np.ndarray], x: np.ndarray, h: np.ndarray) -> np.ndarray:
    """x W^T + h R^T + b, (B, G*H), in float64."""
    z = x @ np.asarray(w["weight_ih"], np.float64).T + h @ np.asarray(w["weight_hh"], np.float64).T
    return z + w["bias"] if "bias" in w else z
