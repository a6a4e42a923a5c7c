"""Types of what callers pass and get, for annotations: imported by type checkers only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from numpy.typing import ArrayLike, NDArray

from rnncore.runtime.state import State

__all__ = ["Array", "Inputs", "Output", "StateLike"]

Array: TypeAlias = NDArray[Any]
"""An array whose dtype a model decides when it is loaded: float32 or float64, integers, or bool."""

Inputs: TypeAlias = Mapping[str, ArrayLike | None]
"""Arrays by name; None for an optional input that is absent."""

Output: TypeAlias = Array | dict[str, Array]
"""The only output of a model, or all of them by name where it has several."""

StateLike: TypeAlias = State | Mapping[str, ArrayLike] | ArrayLike | None
"""The start of a run: a State, (h, c), h, or None for the beginning."""
