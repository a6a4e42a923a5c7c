"""Windows, Fourier transforms and complex numbers of torch as nodes of a Spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rnncore.export.torch.functions.common import move_axes
from rnncore.export.torch.functions.registry import called, entry, refuse
from rnncore.export.torch.lowering import TraceLowering
from rnncore.export.torch.values import Complex, Size, TracedTensor

__all__ = ["call_complex", "holds_complex"]


def holds_complex(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is one of complex numbers."""
    return any(isinstance(item, Complex) for item in (*args, *kwargs.values()))


def call_complex(g: TraceLowering, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The value of a function or method of complex numbers. UnsupportedError for all but those of COMPLEX."""
    if name not in COMPLEX:
        raise refuse(g, "complex numbers", f"one of {', '.join(sorted(COMPLEX))} of them")
    return COMPLEX[name](g, *args, **kwargs)


def _complex(g: TraceLowering, name: str) -> Complex:
    """The current node's value from its parts."""
    return Complex(g.named(name, torch.view_as_real(g.a.resolve_conj()), torch.view_as_real(g.b.resolve_conj())))


def _part(g: TraceLowering, x: Complex, index: int) -> str:
    return g.emit("Gather", [x.pair], {"axis": x.pair.ndim - 1, "indices": index})


# --- windows ---------------------------------------------------------------------------------------------------------


@entry("unfold")
def unfold(g, input, *args, **kwargs):
    """x.unfold(dimension, size, step): windows, their steps as a last dimension."""
    given = dict(zip(("dimension", "size", "step"), args, strict=False)) | kwargs
    if set(given) != {"dimension", "size", "step"} or any(isinstance(item, (Size, tuple)) for item in given.values()):
        raise refuse(g, "arguments that are no three numbers", "x.unfold(dimension, size, step)")
    x = g.tensor(input)
    axis = x.axis(given["dimension"])
    name = g.emit("Frames", [x], {"axis": axis, "size": given["size"], "step": given["step"], "begin": 0})
    rank = x.ndim + 1
    return g.out(move_axes(g, name, (*(i for i in range(rank) if i != axis + 1), axis + 1)))


# --- transforms ------------------------------------------------------------------------------------------------------


@entry("stft")
def stft(
    g, input, n_fft, hop_length=None, win_length=None, window=None, center=True, pad_mode="reflect", normalized=False,
    onesided=None, return_complex=None, align_to_window=None,
):  # fmt: skip
    """(..., bins, frames) complex, or with a last dimension of two."""
    x, frame, width = g.tensor(input), n_fft, n_fft if win_length is None else win_length
    step = frame // 4 if hop_length is None else hop_length
    if any(isinstance(item, (Size, TracedTensor)) for item in (frame, width, step)):
        raise refuse(g, "a frame of computed length", "numbers")
    if window is not None and not window.constant:
        raise refuse(g, "a window that is computed", "one that stays the same")
    signal, alone = x, x.ndim == 1
    if alone:
        signal = g.named(g.emit("Unsqueeze", [x], {"axes": (0,)}), x.a[None], x.b[None])
    name = g.name_of(signal)
    if center:
        half = frame // 2
        modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
        name = g.emit("Pad", [name], {"pads": (0, half, 0, half), "mode": modes[pad_mode]})
    name = g.emit("Unsqueeze", [name], {"axes": (2,)})
    before = (frame - width) // 2
    weights = g.constant(np.ones(width), "float", "window") if window is None else g.name_of(window)
    if width != frame:
        weights = g.emit("Pad", [weights], {"pads": (before, frame - width - before)})
    if normalized:
        weights = g.emit("Div", [weights, g.cast(math.sqrt(frame), x.dtype)])
    one = onesided if onesided is not None else not g.a.is_complex() or g.a.shape[-2] == frame // 2 + 1
    name = g.emit("STFT", [name, "", weights], {"frame_step": step, "frame_length": frame, "onesided": bool(one)})
    name = g.emit("Transpose", [name], {"perm": (0, 2, 1, 3)})
    if alone:
        name = g.emit("Squeeze", [name], {"axes": (0,)})
    return _complex(g, name) if g.a.is_complex() else g.out(name)


@entry("fft_rfft")
def rfft(g, input, n=None, dim=-1, norm=None):
    x = g.tensor(input)
    axis = x.axis(dim)
    if n is not None or norm not in (None, "backward"):
        raise refuse(g, f"n={n}, norm={norm!r}", "None")
    one = g.emit("Unsqueeze", [x], {"axes": (x.ndim,)})
    return _complex(g, g.emit("DFT", [one], {"axis": axis, "onesided": True}))


# --- what may be done with complex numbers ---------------------------------------------------------------------------


def _only_complex(g: TraceLowering, input: Any, *args: Any, **kwargs: Any) -> Any:
    raise refuse(g, "real numbers", "complex ones")


for _name in ("view_as_real", "imag", "angle"):
    entry(_name)(_only_complex)


def _view_as_real(g, input):
    return g.out(g.name_of(input.pair))


def _real(g, input):
    return g.out(_part(g, input, 0))


def _imag(g, input):
    return g.out(_part(g, input, 1))


def _attribute(g, input, name):
    if name not in ("real", "imag"):
        raise refuse(g, f"the attribute {name!r} of complex numbers", "real or imag")
    return g.out(_part(g, input, 0 if name == "real" else 1))


def _angle(g, input):
    return _arc(g, _part(g, input, 1), _part(g, input, 0))


def _absolute(g, input):
    return g.out(g.emit("ReduceL2", [input.pair], {"axes": (input.pair.ndim - 1,), "keepdims": False}))


def _moved(g, input, *dims, **kwargs):
    """transpose and permute, as of numbers of the same shape."""
    places = torch.empty(tuple(range(1, input.pair.ndim)), device="meta")
    moved = getattr(places, called(g))(*dims, **kwargs)
    return _complex(g, move_axes(g, input.pair, (*(size - 1 for size in moved.shape), input.pair.ndim - 1)))


COMPLEX: dict[str, Callable[..., Any]] = {
    "view_as_real": _view_as_real, "real": _real, "imag": _imag, "getattr": _attribute, "angle": _angle,
    "abs": _absolute, "absolute": _absolute, "transpose": _moved, "permute": _moved, "swapaxes": _moved,
    "movedim": _moved,
}  # fmt: skip


@entry("atan2", "arctan2")
def atan2(g, input, other):
    return _arc(g, g.cast(input, g.a.dtype), g.cast(other, g.a.dtype))


def _arc(g: TraceLowering, y: str, x: str) -> TracedTensor:
    """The angle of (x, y)."""
    zero, half, whole = (g.cast(number, g.a.dtype) for number in (0.0, math.pi / 2, math.pi))
    negative = g.emit("Less", [y, zero])
    turned = g.emit("Where", [negative, g.emit("Neg", [whole]), whole])
    raised = g.emit("Where", [g.emit("Greater", [y, zero]), half, zero])
    upright = g.emit("Where", [negative, g.emit("Neg", [half]), raised])
    level = g.emit("Equal", [x, zero])
    safe = g.emit("Where", [level, g.cast(1.0, g.a.dtype), x])
    angle = g.emit("Atan", [g.emit("Div", [y, safe])])
    angle = g.emit("Where", [g.emit("Less", [x, zero]), g.emit("Add", [angle, turned]), angle])
    return g.out(g.emit("Where", [level, upright, angle]))
