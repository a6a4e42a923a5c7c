"""Bounded: its input as it is, where the size of an axis is within bounds; an error elsewhere.

For a network whose computation holds for some sizes only: exporters put it after the input whose size decides, with
the line that does. Over the bounded axis it needs the whole: nothing is padded, cut or joined along it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.ops.base import Op, Value
from rnncore.ops.dimensions import kept
from rnncore.ops.schema import Axis, Integer, Text

__all__ = ["OPS"]


def _bounded_infer(attributes: Mapping[str, Any], values: list[Value]) -> list[Value]:
    x, axis = values[0], attributes["axis"]
    if not -len(x.shape) <= axis < len(x.shape):
        raise SpecError(f"axis={axis}, expected {-len(x.shape)} to {len(x.shape) - 1}")
    if attributes["most"] is not None and attributes["most"] < attributes["least"]:
        raise SpecError(f"most={attributes['most']}, expected at least least={attributes['least']}")
    if isinstance(x.shape[axis], int) and not _is_within(attributes, x.shape[axis]):
        raise SpecError(f"size {x.shape[axis]} of axis {axis}, expected {_expected(attributes)}")
    return [x]


def _is_within(attributes: Mapping[str, Any], size: int) -> bool:
    return attributes["least"] <= size and (attributes["most"] is None or size <= attributes["most"])


def _expected(attributes: Mapping[str, Any]) -> str:
    least, most = attributes["least"], attributes["most"]
    described = f"at least {least}" if most is None else f"{least} to {most}" if least < most else str(least)
    return f"{described} ({attributes['reason']})" if attributes["reason"] else described


def _bounded(attributes: Mapping[str, Any], weights: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    size = x.shape[attributes["axis"]]
    if not _is_within(attributes, size):
        raise InputError(f"size {size} of axis {attributes['axis']}, expected {_expected(attributes)}")
    return x


OPS = (
    Op(
        "Bounded",
        _bounded_infer,
        _bounded,
        kept(lambda attributes, rank: (attributes["axis"] % rank,)),
        schema={"axis": Axis(...), "least": Integer(0, least=0), "most": Integer(None, least=0), "reason": Text("")},
    ),
)
