"""Records of a traced module: its graph, and the decisions on its sizes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx

__all__ = ["HERE", "Decision", "Escape", "Formula", "Traced", "is_users", "place_of", "users_frames", "without_folders"]

EXPORT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HERE = (EXPORT + os.sep, os.path.dirname(os.path.abspath(torch.__file__)) + os.sep)


@dataclass
class Traced:
    """The result of trace.

    graph, values   torch.fx's graph, and the value of each node for the example
    places          the user's line of each node, "FILE:LINE"; stacks all lines that led there
    decisions       what branches on sizes decided, in order
    escapes         sizes that became numbers of Python's own, in order
    """

    graph: fx.Graph
    values: dict[fx.Node, Any]
    places: dict[fx.Node, str] = field(default_factory=dict)
    stacks: dict[fx.Node, tuple] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    escapes: list[Escape] = field(default_factory=list)
    tracer: Any = None


@dataclass(frozen=True, eq=False)
class Decision:
    """A branch on sizes: its place, what was asked for, and the answer."""

    place: str
    formula: Formula
    taken: bool


@dataclass(frozen=True)
class Formula:
    """The making of a number from sizes: the sizes, and the calls that lead from them to it.

    sources  for each size the tensor's node and its dimension; None where it is made of several
    gap      of one size: how far a condition is from turning round, where that only grows or only falls with it
    """

    leaves: list[int]
    value: Callable[[Sequence[int]], Any]
    sources: list[tuple[fx.Node, int] | None] = field(default_factory=list)
    gap: Callable[[int], Any] | None = None


@dataclass(frozen=True, eq=False)
class Escape:
    """A size that became a number that is not followed: its place, how it was made, and the code that uses it."""

    place: str
    node: fx.Node
    formula: Formula
    code: tuple[CodeType, ...]


def place_of(frames: Iterable[tuple[str, int | None]]) -> str:
    """ "FILE:LINE" of the innermost frame; the file as it is imported."""
    frame = next(iter(frames), None)
    return "the module" if frame is None else f"{frame[0]}:{frame[1]}"


def without_folders(place: str) -> str:
    """A place as a Spec and its notes have it, which go to other machines."""
    return PureWindowsPath(place).name  # of either kind of path


def is_users(file: str) -> bool:
    """Whether code of a file belongs neither to torch nor to the exporter, nor to what the interpreter makes itself."""
    return not file.startswith((*HERE, "<frozen ", "<eval_with_key>", "<__array_function__"))


def users_frames() -> list[tuple[str, int]]:
    """(file, line) of the frames on the stack that belong neither to torch nor to the exporter, innermost first."""
    frame: FrameType | None = sys._getframe(1)
    frames = []
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            frames.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return frames
