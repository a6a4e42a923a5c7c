"""Ops that only move what is there, or make what depends on shapes alone, under their ONNX names.

Sizes that are not known before the model runs are followed as names: a Reshape to (B, T, -1) whose shape comes from
Shape, Gather and Concat has a known result.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import accumulate, count
from operator import itemgetter, methodcaller
from typing import Any, cast

import numpy as np

from rnncore.errors import InputError, SpecError
from rnncore.kernels import _program
from rnncore.ops import sizes
from rnncore.ops.base import (
    DTYPES,
    MAX_DATA,
    UNKNOWN,
    Op,
    Value,
    axis_of,
    given,
    has,
    numpy_dtype,
)
from rnncore.ops.checks import FLOATS, SIGNED, axes_of, integers, merge, need, need_scalar, single, spread
from rnncore.ops.dimensions import Dimension, alike, along_rows, carried, kept, reshaped, spread_over
from rnncore.ops.ends import CONCAT, SLICE, SLICE_POSITIONS
from rnncore.ops.schema import MAX_RANK, MAX_SIZE, Axes, Axis, Choice, Flag, Integer, Integers, Number, Size

__all__ = ["OPS"]

FAR = 1 << 30
"""A slice that ends here ends at the end."""

MAX_OUTPUTS = 1024

LONGEST_LIST = 1 << 16  # sizes, axes or parts of one node

INT_MAX = ((1 << 31) - 1, (1 << 63) - 1)


def _missing(name):
    return SpecError(f"{name} missing, expected it as an attribute or an input")


def _list(attributes, name, values, position, names=True, any_length=False):
    """A parameter that is a list; where only its length is known, that many UNKNOWNs; None where it is absent.

    any_length: UNKNOWN itself where not even the length is known, else a SpecError.
    """
    if not has(attributes, name, values, position):
        return None
    if attributes[name] is not None:
        return attributes[name]
    value = values[position]
    need(value, ("int32", "int64"), name, rank=1)
    if value.data is not None:
        return integers(name, value.data, names)
    if not isinstance(value.shape[0], int):
        if any_length:
            return UNKNOWN
        raise SpecError(f"{name} is {value}, expected a known length: it decides the rank of the output")
    if value.shape[0] > LONGEST_LIST:
        raise SpecError(f"{name} is {value}, expected at most {LONGEST_LIST} numbers")
    return (UNKNOWN,) * value.shape[0]


# --- Reshape, Flatten, Squeeze, Unsqueeze, Transpose ---------------------------------------------------------------


def _reshape_infer(attributes, values):
    """Sizes of ``shape``: a size; 0 for the input's at that place, or with allowzero 0; -1, once, for what is left."""
    x, allowzero = values[0], attributes["allowzero"]
    wanted = _list(attributes, "shape", values, 1)
    if wanted is None:
        raise _missing("shape")
    zeros = () if allowzero else wanted[len(x.shape) :]
    if any(isinstance(size, int) and size < -1 for size in wanted) or wanted.count(-1) > 1 or 0 in zeros:
        raise SpecError(f"shape={wanted!r} for {x}, expected sizes, 0 (as it is) and at most one -1")
    if allowzero and 0 in wanted and -1 in wanted:
        raise SpecError(f"shape={wanted!r} with allowzero, expected 0 or -1 but not both")
    shape = [x.shape[place] if size == 0 and not allowzero else size for place, size in enumerate(wanted)]
    total, others = _without_common(x.shape, [size for size in shape if size != -1])
    left = sizes.divide(total, others) if others != 0 else 0
    if not sizes.fits(total, sizes.multiply(left, others) if -1 in shape else others):
        raise SpecError(f"shape={list(wanted)} does not fit {x}")
    return [Value(x.dtype, tuple(left if size == -1 else size for size in shape), x.data if len(shape) <= 1 else None)]


def _without_common(given, wanted):
    """Two products of sizes, without those that both have."""
    given, wanted = list(given), list(wanted)
    for size in tuple(wanted):
        if size in given and size not in (UNKNOWN, 0):
            given.remove(size)
            wanted.remove(size)
    return sizes.multiply(*given), sizes.multiply(*wanted)


def _reshape(attributes, weights, *arrays):
    x, wanted = arrays[0], given("shape", attributes, arrays, 1)
    return x.reshape(_sizes(x.shape, wanted, attributes["allowzero"]))


def _reshape_bound(attributes, values, floating):
    wanted, allowzero = attributes["shape"], attributes["allowzero"]
    return None if wanted is None else lambda x, *absent: x.reshape(_sizes(x.shape, wanted, allowzero))


@lru_cache(maxsize=1024)
def _sizes(shape, wanted, allowzero):
    """The sizes that a reshape of ``shape`` to ``wanted`` gives."""
    if not allowzero:
        if 0 in wanted[len(shape) :]:
            raise InputError(f"shape={list(wanted)} for an input of shape {shape}: 0 beyond its dimensions")
        wanted = tuple(shape[place] if size == 0 else size for place, size in enumerate(wanted))
    others = math.prod(size for size in wanted if size != -1)
    if -1 in wanted and others == 0:  # what NumPy cannot divide: nothing is left
        return tuple(0 if size == -1 else size for size in wanted)
    size = math.prod(shape)
    if (size % others if -1 in wanted else size - others) != 0:
        raise InputError(f"input of shape {shape} does not fit shape={list(wanted)}")
    return wanted


def _reshape_dimensions(attributes, inputs, outputs):
    return reshaped(inputs[0].shape, outputs[0].shape)


def _flatten_infer(attributes, values):
    x = values[0]
    axis = _flat_axis(attributes["axis"], len(x.shape))
    return [Value(x.dtype, (sizes.multiply(1, *x.shape[:axis]), sizes.multiply(1, *x.shape[axis:])))]


def _flat_axis(axis, rank):
    """An axis from -rank to rank, which is the end."""
    return rank if axis == rank else axis_of(axis, rank)


def _flatten(attributes, weights, x):
    axis = _flat_axis(attributes["axis"], x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _known_axes(attributes, values):
    """The axes as they were given, or None; SpecError where only the run would tell."""
    axes = _list(attributes, "axes", values, 1, names=False)
    if axes is not None and UNKNOWN in axes:
        raise SpecError(f"axes are {values[1]}, expected constants: they decide the shape")
    return axes


def _unsqueeze_infer(attributes, values):
    """Axes count in the output."""
    x, axes = values[0], _known_axes(attributes, values)
    if axes is None:
        raise _missing("axes")
    rank = len(x.shape) + len(axes)
    axes, left = axes_of(axes, rank), iter(x.shape)
    return [Value(x.dtype, tuple(1 if axis in axes else next(left) for axis in range(rank)), _flat(x, rank))]


def _flat(x, rank):
    return x.data if rank <= 1 else None


def _unsqueeze(attributes, weights, *arrays):
    x, axes = arrays[0], given("axes", attributes, arrays, 1)
    shape, rank = list(x.shape), x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return x.reshape(shape)


def _unsqueeze_bound(attributes, values, floating):
    """A view by an index that is None where an axis is new."""
    if attributes["axes"] is None or len(values) > 1:
        return None
    rank = len(values[0].shape) + len(attributes["axes"])
    new = {axis % rank for axis in attributes["axes"]}
    return itemgetter(tuple(None if axis in new else slice(None) for axis in range(max(new, default=-1) + 1)))


def _unsqueeze_dimensions(attributes, inputs, outputs):
    rank = len(outputs[0].shape)
    new = axes_of(_known_axes(attributes, inputs), rank)
    return carried(axis for axis in range(rank) if axis not in new)


def _squeeze_infer(attributes, values):
    x, axes = values[0], _known_axes(attributes, values)
    if axes is None:
        axes = tuple(axis for axis, size in enumerate(x.shape) if size == 1)
    axes = axes_of(axes, len(x.shape))
    for axis in axes:
        if not sizes.fits(x.shape[axis], 1):
            raise SpecError(f"input is {x}, expected size 1 at axis {axis}")
    shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
    return [Value(x.dtype, shape, _flat(x, len(shape)))]


def _squeeze(attributes, weights, *arrays):
    return arrays[0].squeeze(given("axes", attributes, arrays, 1))


def _squeeze_bound(attributes, values, floating):
    """Without axes, those of size 1: a named size must then be another, as the rank of the output is settled."""
    if len(values) > 1:
        return None
    shape, axes = values[0].shape, attributes["axes"]
    named = [axis for axis, size in enumerate(shape) if isinstance(size, str)]
    if axes is not None or not named:
        return methodcaller("squeeze", axes)
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)

    def squeeze(x):
        ones = [shape[axis] for axis in named if x.shape[axis] == 1]
        if ones:
            raise InputError(
                f"no axes for an input of shape {x.shape}: {ones[0]} is 1, which changes the rank; expected another, "
                "or a model for this size, load(..., sizes={name: 1})"
            )
        return x.squeeze(axes)

    return squeeze


def _squeeze_explicit(attributes, values):
    """With the axes that are left out: those of size 1, where none are given."""
    if len(values) > 1 or attributes["axes"] is not None:
        return attributes
    return {**attributes, "axes": tuple(axis for axis, size in enumerate(values[0].shape) if size == 1)}


def _squeeze_dimensions(attributes, inputs, outputs):
    shape, axes = inputs[0].shape, _known_axes(attributes, inputs)
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    gone, left = axes_of(tuple(axes), len(shape)), count()
    return carried(None if axis in gone else next(left) for axis in range(len(shape)))


def _transpose_infer(attributes, values):
    x, perm = values[0], attributes["perm"]
    rank = len(x.shape)
    perm = tuple(reversed(range(rank))) if perm is None else perm
    if sorted(perm) != list(range(rank)):
        raise SpecError(f"perm={perm!r} for {x}, expected the axes 0 to {rank - 1}, each once")
    return [Value(x.dtype, tuple(x.shape[axis] for axis in perm), x.data)]


def _transpose_dimensions(attributes, inputs, outputs):
    rank = len(inputs[0].shape)
    perm = tuple(reversed(range(rank))) if attributes["perm"] is None else attributes["perm"]
    return carried(perm.index(axis) for axis in range(rank))


# --- Expand, Tile --------------------------------------------------------------------------------------------------


def _expand_infer(attributes, values):
    wanted = _list(attributes, "shape", values, 1)
    if wanted is None:
        raise _missing("shape")
    _need_natural("shape", wanted)
    return [Value(values[0].dtype, spread(values[0].shape, wanted))]


def _need_natural(name, shape):
    if any(isinstance(size, int) and size < 0 for size in shape):
        raise SpecError(f"{name}={list(shape)}, expected sizes of at least 0")


def _expand(attributes, weights, *arrays):
    """A copy, as what is spread cannot be written to. (numpy.broadcast_to takes 32 dimensions.)"""
    x, wanted = arrays[0], given("shape", attributes, arrays, 1)
    y = np.empty(cast("tuple[int, ...]", spread(x.shape, wanted)), x.dtype)
    y[...] = x
    return y


def _expand_dimensions(attributes, inputs, outputs):
    """Along a new axis, or one of size 1, all are alike."""
    return spread_over(range(len(outputs[0].shape)), {0: inputs[0]}, outputs)


def _tile_infer(attributes, values):
    x, repeats = values[0], _list(attributes, "repeats", values, 1)
    if repeats is None:
        raise _missing("repeats")
    _need_natural("repeats", repeats)
    if len(repeats) != len(x.shape):
        raise SpecError(f"repeats={list(repeats)} for {x}, expected one for each dimension")
    return [Value(x.dtype, tuple(sizes.multiply(*pair) for pair in zip(x.shape, repeats, strict=True)))]


def _tile(attributes, weights, *arrays):
    return np.tile(arrays[0], given("repeats", attributes, arrays, 1))


def _tile_dimensions(attributes, inputs, outputs):
    repeats = _list(attributes, "repeats", inputs, 1)
    return carried(axis if times == 1 else None for axis, times in enumerate(repeats))


# --- Shape, Size ---------------------------------------------------------------------------------------------------


def _shape_infer(attributes, values):
    """start and end are clamped to the rank, as those of a slice."""
    shape = values[0].shape[attributes["start"] : attributes["end"]]
    return [Value("int64", (len(shape),), shape)]


def _shape(attributes, weights, x):
    return np.array(x.shape[attributes["start"] : attributes["end"]], np.int64)


# --- Concat, Split, Slice ------------------------------------------------------------------------------------------


def _concat_infer(attributes, values):
    first = values[0]
    rank = len(first.shape)
    axis = axis_of(attributes["axis"], rank)
    shape = list(first.shape)
    for value in values[1:]:
        if value.dtype != first.dtype or len(value.shape) != rank:
            raise SpecError(f"inputs are {first} and {value}, expected one dtype and rank")
        for i in range(rank):
            if i == axis:
                shape[i] = sizes.add(shape[i], value.shape[i])
            elif sizes.fits(shape[i], value.shape[i]):
                shape[i] = merge(shape[i], value.shape[i], "inputs")
            else:
                raise SpecError(f"inputs are {first} and {value}, which differ outside axis {axis}")
    data = None
    if rank == 1 and all(value.data is not None for value in values):
        data = tuple(item for value in values for item in value.data)
    return [Value(first.dtype, tuple(shape), data if data is not None and len(data) <= MAX_DATA else None)]


def _concat_dimensions(attributes, inputs, outputs):
    rank = len(outputs[0].shape)
    joined, places = attributes["axis"] % rank, range(len(inputs))
    return [Dimension(dict.fromkeys(places, axis), {0: axis}) for axis in range(rank) if axis != joined]


def _concat(attributes, weights, *arrays):
    return np.concatenate(arrays, axis=attributes["axis"])


def _bind_concat(compiler, attributes, inputs, outputs):
    """A copy of each input to its part of the output."""
    (y,), first = outputs, 0
    axis = attributes["axis"] % len(y.shape)
    for x in inputs:
        part = _program.Operand(y.slot, y.offset + first * y.strides[axis], x.shape, y.strides, y.dtype)
        compiler.emit(_program.Copy(x, part), [x], [part])
        first += x.shape[axis]
    return True


def _concat_bound(attributes, values, floating):
    axis = attributes["axis"]
    return lambda *arrays: np.concatenate(arrays, axis)


def _split_count(attributes):
    """The number of outputs."""
    split, count = attributes["split"], attributes["num_outputs"]
    if split is not None:
        if not 1 <= len(split) <= MAX_OUTPUTS:
            raise SpecError(f"split has {len(split)} sizes, expected 1 to {MAX_OUTPUTS}")
        if count is not None and count != len(split):
            raise SpecError(f"num_outputs={count!r} and split={list(split)}, expected one of them")
        return len(split)
    if count is None:
        raise SpecError("num_outputs and split missing, expected one of them")
    return count


def _split_names(attributes):
    return ("", *map(str, range(1, _split_count(attributes))))


def _split_infer(attributes, values):
    x, count = values[0], _split_count(attributes)
    axis = axis_of(attributes["axis"], len(x.shape))
    size = x.shape[axis]
    parts = _list(attributes, "split", values, 1)
    if parts is None:
        parts = _even(size, count)
    elif len(parts) != count or not sizes.fits(sizes.add(*parts), size):
        raise SpecError(f"split={list(parts)} for {x} with {count} outputs, expected sizes that add up to {size}")
    _need_natural("split", parts)
    return [Value(x.dtype, (*x.shape[:axis], part, *x.shape[axis + 1 :])) for part in parts]


def _even(size, count):
    """Parts of one size; the last one is what is left, and smaller where that does not divide."""
    if count == 1:
        return (size,)
    if isinstance(size, str):
        part = sizes.divide(size, count)
        return (part if sizes.multiply(part, count) == size else UNKNOWN,) * count
    part = -(-size // count)
    last = size - part * (count - 1)
    if last < 0:
        raise SpecError(f"num_outputs={count} for size {size}, which leaves nothing for the last")
    return (*(part,) * (count - 1), last)


def _split(attributes, weights, *arrays):
    x, axis = arrays[0], attributes["axis"]
    parts = given("split", attributes, arrays, 1)
    if parts is None:
        parts = _even(x.shape[axis], attributes["num_outputs"])
    ends = list(accumulate(parts))
    if len(parts) != _split_count(attributes) or min(parts) < 0 or ends[-1] != x.shape[axis]:
        raise InputError(f"split={list(parts)} for an input of shape {x.shape}, expected {x.shape[axis]} in all")
    before = (slice(None),) * (axis % x.ndim)
    return tuple(x[(*before, slice(end - part, end))] for part, end in zip(parts, ends, strict=True))


ACROSS = kept(lambda attributes, rank: (attributes["axis"] % rank,))


def _slice_infer(attributes, values):
    x, rank = values[0], len(values[0].shape)
    lists = {}
    for name, position in SLICE_POSITIONS.items():
        lists[name] = _list(attributes, name, values, position, any_length=True)
        if lists[name] is None and name in ("starts", "ends"):
            raise _missing(name)
    count = next((len(given) for given in lists.values() if given not in (None, UNKNOWN)), None)
    if count is None:
        return [Value(x.dtype, (UNKNOWN,) * rank)]
    lists = {name: (UNKNOWN,) * count if given == UNKNOWN else given for name, given in lists.items()}
    axes = tuple(range(count)) if lists["axes"] is None else lists["axes"]
    steps = (1,) * count if lists["steps"] is None else lists["steps"]
    lengths = {name: len(given) for name, given in (("ends", lists["ends"]), ("axes", axes), ("steps", steps))}
    wrong = [name for name, length in lengths.items() if length != count]
    if wrong or count > rank:
        raise SpecError(f"{count} starts and {lengths} for {x}, expected the same number of each and at most {rank}")
    if 0 in steps:
        raise SpecError(f"steps={list(steps)}, expected none of 0")
    if UNKNOWN in axes:
        return [Value(x.dtype, (UNKNOWN,) * rank)]
    shape, data = list(x.shape), x.data
    for start, end, axis, step in zip(lists["starts"], lists["ends"], axes_of(axes, rank), steps, strict=True):
        whole = not isinstance(start, str) and not isinstance(end, str) and not isinstance(step, str)
        data = data[_slice_of(len(data), start, end, step)] if data is not None and whole else None
        shape[axis] = _slice_size(x.shape[axis], start, end, step)
    return [Value(x.dtype, tuple(shape), data)]


def _slice_size(size, start, end, step):
    """The size of a slice of an axis whose size may be a name: known where it does not depend on the size's value."""
    numbers = [isinstance(value, int) for value in (start, end, step)]
    if isinstance(size, int) and all(numbers):
        return len(range(*_slice_of(size, start, end, step).indices(size)))
    if step == 1 and start == 0 and (end == size != UNKNOWN or (numbers[1] and end >= FAR)):
        return size
    if step == -1 and numbers[0] and numbers[1] and (start == -1 or start >= FAR) and (end <= -FAR or end in INT_MAX):
        return size
    return UNKNOWN


def _slice_of(size, start, end, step):
    """ONNX's bounds as a slice of Python, which clamps them as ONNX does where the step is positive.

    Backwards ONNX clamps before it looks at the step. An end of INT_MAX is the end whichever way the step goes, as
    in ONNX Runtime; clamped it would leave nothing.
    """
    if step > 0:
        return slice(start, end, step)
    if size == 0:
        return slice(0, 0, step)
    start, last = (bound + size if bound < 0 else bound for bound in (start, end))
    start, last = min(max(start, 0), size - 1), min(max(last, -1), size - 1)
    return slice(start, None if last < 0 or end in INT_MAX else last, step)


def _slice(attributes, weights, *arrays):
    x = arrays[0]
    starts, ends, axes, steps = (given(name, attributes, arrays, place) for name, place in SLICE_POSITIONS.items())
    axes = range(len(starts)) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise InputError(
            f"starts={starts}, ends={ends}, axes={tuple(axes)}, steps={steps}, expected the same number of each"
        )
    place = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        place[axis] = _slice_of(x.shape[axis], start, end, step)
    return x[tuple(place)]


def _slice_bound(attributes, values, floating):
    """The same where no size matters: forwards, all parameters constant, axes counted from one side."""
    starts, ends, axes, steps = (attributes[name] for name in SLICE_POSITIONS)
    if starts is None or ends is None or any(value is not None for value in values[1:]):
        return None
    axes = range(len(starts)) if axes is None else axes
    slices = dict(zip(axes, map(slice, starts, ends, steps or (1,) * len(starts)), strict=True))
    first, last = min(axes, default=0), max(axes, default=0)
    if any(step < 0 for step in steps or ()) or (first < 0 <= last):
        return None
    place: tuple[Any, ...] = tuple(
        slices.get(axis, slice(None)) for axis in (range(first, 0) if first < 0 else range(last + 1))
    )
    place = (..., *place) if first < 0 else place
    return itemgetter(place) if len(values) == 1 else lambda x, *absent: x[place]


def _slice_dimensions(attributes, inputs, outputs):
    """The axes that are not cut. One whose size stays, from its beginning, is whole: see _slice_size."""
    rank = len(inputs[0].shape)
    lists = {name: _list(attributes, name, inputs, place, any_length=True) for name, place in SLICE_POSITIONS.items()}
    starts, axes = lists["starts"], lists["axes"]
    if starts == UNKNOWN or axes == UNKNOWN or UNKNOWN in (axes or ()):
        return []
    axes = axes_of(tuple(range(len(starts))) if axes is None else axes, rank)
    cut = {axis for place, axis in enumerate(axes) if not _is_all(lists, place, inputs[0].shape[axis])}
    return carried(None if axis in cut else axis for axis in range(rank))


def _is_all(lists, place, size):
    """Whether a slice takes all of an axis."""
    values = [
        lists[name] if lists[name] in (None, UNKNOWN) else lists[name][place] for name in ("starts", "ends", "steps")
    ]
    start, end, step = values
    far = isinstance(end, int) and end >= FAR
    return start == 0 and step in (None, 1) and (far or (end == size and size != UNKNOWN))


# --- what is made of shapes ----------------------------------------------------------------------------------------


def _range_infer(attributes, values):
    dtype = values[0].dtype
    for name, value in zip(("start", "limit", "delta"), values, strict=True):
        need_scalar(value, (*FLOATS, *SIGNED), name)
        if value.dtype != dtype:
            raise SpecError(f"{name} is {value}, expected {dtype} like start")
    if dtype in FLOATS or any(value.data is None for value in values):
        return [Value(dtype, (UNKNOWN,))]
    start, limit, delta = (value.data[0] for value in values)
    if delta == 0:
        raise SpecError("delta=0, expected a step")
    if not any(isinstance(item, str) for item in (start, limit, delta)):
        count = max(-((start - limit) // delta), 0)
        return [Value(dtype, (count,), tuple(range(start, limit, delta)) if count <= MAX_DATA else None)]
    span = sizes.subtract(limit, start)
    return [Value(dtype, (span if delta == 1 and sizes.is_natural(span) else UNKNOWN,))]


def _range(attributes, weights, start, limit, delta):
    """start + i * delta; of float16 in float32."""
    dtype = start.dtype
    wide = np.float32 if dtype == np.float16 else dtype
    start, limit, delta = (np.asarray(value, wide).reshape(()) for value in (start, limit, delta))
    if delta == 0:
        raise InputError("delta is 0, expected a step")
    if dtype.kind == "i":
        return np.arange(int(start), int(limit), int(delta), dtype=dtype)
    count = max(math.ceil((limit - start) / delta), 0)
    return (start + np.arange(count, dtype=wide) * delta).astype(dtype, copy=False)


def _constant_infer(attributes, values):
    dtype, value = attributes["dtype"], attributes["value"]
    if dtype == "bool":
        fits = value in (0, 1) and not isinstance(value, float)
    elif dtype in FLOATS:
        fits = type(value) is not bool and math.isfinite(value)
    else:
        fits = type(value) is int and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    if not fits:
        raise SpecError(f"value={value!r}, expected a number of dtype {dtype}")
    shape = _list(attributes, "shape", values, 0)
    if shape is None:
        raise _missing("shape")
    _need_natural("shape", shape)
    small = len(shape) <= 1 and dtype not in FLOATS and all(isinstance(size, int) for size in shape)
    count = math.prod(shape) if small else MAX_DATA + 1
    value = bool(value) if dtype == "bool" else value
    return [Value(dtype, shape, (value,) * count if count <= MAX_DATA else None)]


def _constant_of_shape(attributes, weights, *arrays):
    dtype = numpy_dtype(attributes["dtype"], attributes.get("floating", np.float32))
    return np.full(given("shape", attributes, arrays, 0), attributes["value"], dtype)


def _eye_infer(attributes, values):
    x = values[0]
    need(x, DTYPES, rank=2)
    return [Value(attributes["dtype"] or x.dtype, x.shape)]


def _eye_like(attributes, weights, x):
    dtype = attributes["dtype"]
    dtype = x.dtype if dtype is None else numpy_dtype(dtype, attributes.get("floating", np.float32))
    return np.eye(x.shape[0], x.shape[1], attributes["k"], dtype)


def _trilu_infer(attributes, values):
    x = values[0]
    if len(x.shape) < 2:
        raise SpecError(f"input is {x}, expected at least 2 dimensions")
    if has(attributes, "k", values, 1) and values[1] is not None:
        need_scalar(values[1], ("int64",), "k")
    return [x.without_data]


def _trilu(attributes, weights, *arrays):
    k = single(given("k", attributes, arrays, 1)) or 0
    return np.triu(arrays[0], k) if attributes["upper"] else np.tril(arrays[0], k)


# --- depth and space, sequences ------------------------------------------------------------------------------------


def _block(attributes, x):
    need(x, DTYPES, rank=4)
    return attributes["blocksize"]


def _divided(x, axis, by):
    size = x.shape[axis]
    if isinstance(size, int) and size % by:
        raise SpecError(f"input is {x}, expected a multiple of {by} at axis {axis}")
    return sizes.divide(size, by)


def _depth_to_space_infer(attributes, values):
    (x,) = values
    block = _block(attributes, x)
    n, _, h, w = x.shape
    shape = (n, _divided(x, 1, block * block), sizes.multiply(h, block), sizes.multiply(w, block))
    return [Value(x.dtype, shape)]


def _depth_to_space(attributes, weights, x):
    """DCR: the depth counts blocks first and channels last; CRD: channels first."""
    block, (n, c, h, w) = attributes["blocksize"], x.shape
    if attributes["mode"] == "DCR":
        parts = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return parts.reshape(n, c // block**2, h * block, w * block)


def _space_to_depth_infer(attributes, values):
    (x,) = values
    block = _block(attributes, x)
    n, c, _, _ = x.shape
    return [Value(x.dtype, (n, sizes.multiply(c, block * block), _divided(x, 2, block), _divided(x, 3, block)))]


def _space_to_depth(attributes, weights, x):
    block, (n, c, h, w) = attributes["blocksize"], x.shape
    parts = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if attributes["mode"] == "DCR" else (0, 1, 3, 5, 2, 4)
    return parts.transpose(order).reshape(n, c * block**2, h // block, w // block)


def _reverse_dimensions(attributes, inputs, outputs):
    batch, rank = attributes["batch_axis"], len(inputs[0].shape)
    return [Dimension({0: batch, 1: 0}, {0: batch}), *carried([None, None, *range(2, rank)])]


def _reverse_infer(attributes, values):
    x, lengths = values
    axes = attributes["batch_axis"], attributes["time_axis"]
    if axes[0] == axes[1] or len(x.shape) < 2:
        raise SpecError(f"batch_axis={axes[0]} and time_axis={axes[1]} for {x}, expected 0 and 1, each once")
    need(lengths, ("int64",), "sequence_lens", rank=1)
    merge(lengths.shape[0], x.shape[axes[0]], "sequence_lens and batch")
    return [x.without_data]


def _reverse_sequence(attributes, weights, x, lengths):
    """Each row turned round over its own length; the rest stays."""
    turned = attributes["time_axis"] == 0
    rows = x.swapaxes(0, 1) if turned else x
    batch, steps = rows.shape[:2]
    if lengths.shape != (batch,) or (batch and (lengths.min() < 0 or lengths.max() > steps)):
        raise InputError(f"sequence_lens {lengths.tolist()}, expected {batch} lengths from 0 to {steps}")
    t = np.arange(steps)
    order = np.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)
    reversed_rows = rows[np.arange(batch)[:, None], order]
    return reversed_rows.swapaxes(0, 1) if turned else reversed_rows


BLOCKS = {"blocksize": Size(), "mode": Choice("DCR", among=("DCR", "CRD"))}
SIZES: dict[str, Any] = {"least": 0, "longest": MAX_RANK}
FIRST_TWO = (0, 1)

OPS = [
    Op(
        "Reshape",
        _reshape_infer,
        _reshape,
        _reshape_dimensions,
        arity=(1, 2),
        schema={
            "shape": Integers(None, position=1, least=-1, longest=MAX_RANK),
            "allowzero": Flag(False),
        },
        bound=_reshape_bound,
        shaped_by=(1,),
    ),
    Op("Flatten", _flatten_infer, _flatten, _reshape_dimensions, schema={"axis": Axis(1)}),
    Op(
        "Unsqueeze",
        _unsqueeze_infer,
        _unsqueeze,
        _unsqueeze_dimensions,
        arity=(1, 2),
        schema={"axes": Axes(None, position=1)},
        bound=_unsqueeze_bound,
    ),
    Op(
        "Squeeze",
        _squeeze_infer,
        _squeeze,
        _squeeze_dimensions,
        arity=(1, 2),
        schema={"axes": Axes(None, position=1)},
        bound=_squeeze_bound,
        explicit=_squeeze_explicit,
    ),
    Op(
        "Transpose",
        _transpose_infer,
        lambda a, w, x: x.transpose(a["perm"]),
        _transpose_dimensions,
        schema={"perm": Axes(None)},
        bound=lambda attributes, values, floating: methodcaller("transpose", attributes["perm"]),
    ),
    Op(
        "Expand",
        _expand_infer,
        _expand,
        _expand_dimensions,
        arity=(1, 2),
        schema={"shape": Integers(None, position=1, **SIZES)},
        shaped_by=(1,),
    ),
    Op(
        "Tile",
        _tile_infer,
        _tile,
        _tile_dimensions,
        arity=(1, 2),
        schema={"repeats": Integers(None, position=1, **SIZES)},
    ),
    Op(
        "Shape",
        _shape_infer,
        _shape,
        schema={"start": Integer(0), "end": Integer(None)},
        of_sizes=(0,),
    ),
    Op(
        "Size",
        lambda a, values: [Value("int64", (), (sizes.multiply(1, *values[0].shape),))],
        lambda a, w, x: np.array(x.size, np.int64),
        of_sizes=(0,),
    ),
    Op(
        "Concat",
        _concat_infer,
        _concat,
        _concat_dimensions,
        arity=(1, 1024),
        schema={"axis": Axis()},
        bound=_concat_bound,
        bind=_bind_concat,
        ends=CONCAT,
    ),
    Op(
        "Split",
        _split_infer,
        _split,
        ACROSS,
        arity=(1, 2),
        schema={
            "split": Integers(None, position=1, least=0, most=MAX_SIZE, longest=MAX_OUTPUTS),
            "axis": Axis(0),
            "num_outputs": Size(None, most=MAX_OUTPUTS),
        },
        outputs=_split_names,
    ),
    Op(
        "Slice",
        _slice_infer,
        _slice,
        _slice_dimensions,
        arity=(1, 5),
        schema={
            name: Axes(None, position=place) if name == "axes" else Integers(None, position=place, longest=MAX_RANK)
            for name, place in SLICE_POSITIONS.items()
        },
        bound=_slice_bound,
        ends=SLICE,
        shaped_by=(1, 2),
    ),
    Op(
        "Range",
        _range_infer,
        _range,
        arity=(3, 3),
        schema={"stash_type": Choice(1, among=(1,))},
        by_content=True,
    ),
    Op(
        "ConstantOfShape",
        _constant_infer,
        _constant_of_shape,
        alike,
        arity=(0, 1),
        schema={
            "shape": Integers(None, position=0, **SIZES),
            "dtype": Choice("float", among=DTYPES),
            "value": Number(0),
        },
        shaped_by=(0,),
    ),
    Op(
        "EyeLike",
        _eye_infer,
        _eye_like,
        of_sizes=(0,),
        schema={"dtype": Choice(None, among=DTYPES), "k": Integer(0)},
    ),
    Op(
        "Trilu",
        _trilu_infer,
        _trilu,
        kept(lambda attributes, rank: (rank - 2, rank - 1)),
        arity=(1, 2),
        schema={"k": Integer(None, position=1), "upper": Flag(True)},
    ),
    Op("DepthToSpace", _depth_to_space_infer, _depth_to_space, along_rows(), schema=BLOCKS),
    Op("SpaceToDepth", _space_to_depth_infer, _space_to_depth, along_rows(), schema=BLOCKS),
    Op(
        "ReverseSequence",
        _reverse_infer,
        _reverse_sequence,
        _reverse_dimensions,
        arity=(2, 2),
        schema={"batch_axis": Choice(1, among=FIRST_TWO), "time_axis": Choice(0, among=FIRST_TWO)},
    ),
]
