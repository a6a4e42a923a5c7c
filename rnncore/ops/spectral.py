"""Fourier transforms under their ONNX names: the last axis holds real numbers (size 1) or real and imaginary parts.

Frames (ours) cuts a signal into the pieces that a transform, or a network, is given one by one.
"""

from __future__ import annotations

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.ops import blocks
from rnncore.ops.base import UNKNOWN, Op, Value, axis_of, given, has, known
from rnncore.ops.checks import single
from rnncore.ops.dimensions import Dimension, Reach, along_rows, carried
from rnncore.ops.schema import MAX_SIZE, Axis, Flag, Integer, Size
from rnncore.ops.sizes import add, divide

__all__ = ["OPS"]

FLOATS = ("float", "float64")


def _need_signal(x, what="input"):
    if x.dtype not in FLOATS or len(x.shape) < 2 or x.shape[-1] not in (1, 2):
        raise SpecError(f"{what} is {x}, expected float with a last dimension of 1 (real) or 2 (complex)")


def _positive(name, value):
    """A parameter that is one positive number; None where it is not known."""
    value = single(value)
    if value is not None and (isinstance(value, (bool, float, tuple)) or (not isinstance(value, str) and value < 1)):
        raise SpecError(f"{name}={value!r}, expected a positive integer")
    return value


def _complex(x):
    return x[..., 0] if x.shape[-1] == 1 else x[..., 0] + x.dtype.type(1) * 1j * x[..., 1]


def _parts(spectrum, dtype):
    """Complex numbers as a last axis of real and imaginary parts."""
    return np.stack([spectrum.real, spectrum.imag], axis=-1).astype(dtype, copy=False)


# ---- DFT ---------------------------------------------------------------------------------------------------------


def _dft_axis(axis, rank):
    axis = axis_of(-2 if axis is None else axis, rank)
    if axis == rank - 1:
        raise SpecError(f"axis={axis}, expected another than the last, which holds the parts of complex numbers")
    return axis


def _dft_infer(attributes, values):
    x = values[0]
    _need_signal(x)
    rank, to_real = len(x.shape), attributes["onesided"] and attributes["inverse"]
    if attributes["onesided"] and x.shape[-1] != (2 if to_real else 1):
        raise SpecError(f"input is {x}, expected {'complex' if to_real else 'real'} numbers with onesided=1")
    axis = known(attributes, "axis", values, 2)
    last = 1 if to_real else 2
    if axis is None and has(attributes, "axis", values, 2):
        return [Value(x.dtype, (*[UNKNOWN] * (rank - 1), last))]
    axis = _dft_axis(axis, rank)
    length = _positive("dft_length", known(attributes, "dft_length", values, 1))
    if length is None:
        size = x.shape[axis]
        length = UNKNOWN if has(attributes, "dft_length", values, 1) or (to_real and isinstance(size, str)) else size
        length = 2 * (size - 1) if to_real and length == size else length
    bins = add(divide(length, 2), 1) if attributes["onesided"] and not to_real else length
    return [Value(x.dtype, (*x.shape[:axis], bins, *x.shape[axis + 1 : -1], last))]


def _dft_run(attributes, weights, x, length=None, axis=None):
    arrays = (x, length, axis)
    length = _positive("dft_length", given("dft_length", attributes, arrays, 1))
    axis = _dft_axis(given("axis", attributes, arrays, 2), x.ndim)
    signal = _complex(x)
    if attributes["onesided"] and attributes["inverse"]:
        signal_out = blocks.along(lambda part: np.fft.irfft(part, length, axis), signal, (axis,), cost=4)
        return signal_out[..., None].astype(x.dtype, copy=False)
    transform = np.fft.rfft if attributes["onesided"] else np.fft.ifft if attributes["inverse"] else np.fft.fft
    return _parts(blocks.along(lambda part: transform(part, length, axis), signal, (axis,), cost=4), x.dtype)


def _dft_dimensions(attributes, inputs, outputs):
    """The last axis has the parts of a number."""
    rank = len(inputs[0].shape)
    if attributes["axis"] is None and has(attributes, "axis", inputs, 2):
        return []
    axis = _dft_axis(attributes["axis"], rank)
    return carried(None if i in (axis, rank - 1) else i for i in range(rank))


# ---- STFT --------------------------------------------------------------------------------------------------------


def _stft_infer(attributes, values):
    x, _, window, _ = values
    _need_signal(x, "signal")
    if len(x.shape) != 3:
        raise SpecError(f"signal is {x}, expected (B, length, 1 or 2)")
    if attributes["onesided"] and x.shape[-1] == 2:
        raise SpecError(f"signal is {x}, expected real numbers with onesided=1")
    if window is not None and (len(window.shape) != 1 or window.dtype != x.dtype):
        raise SpecError(f"window is {window}, expected a vector of {x.dtype}")
    if not has(attributes, "frame_step", values, 1):
        raise SpecError("frame_step missing, expected it as an attribute or as input 1")
    step = _positive("frame_step", known(attributes, "frame_step", values, 1))
    length = _positive("frame_length", known(attributes, "frame_length", values, 3))
    if length is None:
        length = UNKNOWN if has(attributes, "frame_length", values, 3) else None
        length = (x.shape[1] if window is None else window.shape[0]) if length is None else length
    elif window is not None and isinstance(window.shape[0], int) and window.shape[0] != length:
        raise SpecError(f"window is {window}, expected frame_length={length} numbers")
    frames: int | str = UNKNOWN
    if isinstance(length, int) and isinstance(step, int):
        if isinstance(x.shape[1], int) and x.shape[1] < length:
            raise SpecError(f"signal is {x}, expected at least frame_length={length} numbers")
        frames = divide(add(x.shape[1], step - length), step)
    bins = add(divide(length, 2), 1) if attributes["onesided"] else length
    return [Value(x.dtype, (x.shape[0], frames, bins, 2))]


def _stft_run(attributes, weights, x, step=None, window=None, length=None):
    arrays = (x, step, window, length)
    step = _positive("frame_step", given("frame_step", attributes, arrays, 1))
    length = _positive("frame_length", given("frame_length", attributes, arrays, 3))
    if length is None:
        length = x.shape[1] if window is None else len(window)
    if x.shape[1] < length or (window is not None and len(window) != length):
        raise InputError(f"a signal of {x.shape[1]} for frames of {length}, expected at least as many, and a window")
    frames = np.lib.stride_tricks.sliding_window_view(_complex(x), length, axis=1)[:, ::step]
    frames = frames if window is None else frames * window
    transform = np.fft.rfft if attributes["onesided"] else np.fft.fft
    return _parts(blocks.along(transform, frames, (-1,), cost=4), x.dtype)


# ---- Frames ------------------------------------------------------------------------------------------------------


def _frames_infer(attributes, values):
    x = values[0]
    axis = axis_of(attributes["axis"], len(x.shape))
    size, step, begin = (attributes[name] for name in ("size", "step", "begin"))
    if begin >= size:
        raise SpecError(f"begin={begin!r}, expected an integer from 0 to {size - 1}")
    count = divide(add(x.shape[axis], begin + step - size), step)
    if isinstance(count, int):
        count = max(count, 0)
    return [Value(x.dtype, (*x.shape[:axis], count, size, *x.shape[axis + 1 :]))]


def _frames_run(attributes, weights, x):
    axis, size, step, begin = (attributes[name] for name in ("axis", "size", "step", "begin"))
    axis %= x.ndim
    if begin:
        x = np.concatenate((np.zeros((*x.shape[:axis], begin, *x.shape[axis + 1 :]), x.dtype), x), axis=axis)
    if x.shape[axis] < size:
        return np.zeros((*x.shape[:axis], 0, size, *x.shape[axis + 1 :]), x.dtype)
    if x.shape[axis] < size + step:  # one
        return np.ascontiguousarray(x[(slice(None),) * axis + (None, slice(size))])
    frames = np.lib.stride_tricks.sliding_window_view(x, size, axis)  # the numbers of a window are the last axis
    frames = frames[(slice(None),) * axis + (slice(None, None, step),)]
    return np.ascontiguousarray(np.moveaxis(frames, -1, axis + 1))


def _frames_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    axis = attributes["axis"] % rank
    begin, size, step = (attributes[name] for name in ("begin", "size", "step"))
    others = carried(None if i == axis else i + (i > axis) for i in range(rank))
    return [*others, Dimension({0: axis}, {0: axis}, Reach(begin, size - 1 - begin, step))]


OPS = [
    # Pieces of ``size`` numbers along an axis, one every ``step``, the first after ``begin`` zeros: a new axis before
    # that of their numbers. What does not fill the last piece is left out.
    Op(
        "Frames",
        _frames_infer,
        _frames_run,
        _frames_dimensions,
        schema={"axis": Axis(), "size": Size(), "step": Size(), "begin": Integer(0, least=0, most=MAX_SIZE)},
        unpadded=lambda attributes, axis, batch, rank, reach: ({**attributes, "begin": 0}, 0),
    ),
    Op(
        "DFT",
        infer=_dft_infer,
        run=_dft_run,
        dimensions=_dft_dimensions,
        arity=(1, 3),
        schema={
            "dft_length": Size(None, position=1),
            "axis": Axis(None, position=2),
            "inverse": Flag(0),
            "onesided": Flag(0),
        },
    ),
    Op(
        "STFT",
        infer=_stft_infer,
        run=_stft_run,
        dimensions=along_rows(),
        arity=(1, 4),
        schema={
            "frame_step": Size(None, position=1),
            "frame_length": Size(None, position=3),
            "onesided": Flag(1),
        },
        optional=(2,),
    ),
]
